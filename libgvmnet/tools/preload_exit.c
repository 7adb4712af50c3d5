/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The beginning and the ends of a process: the constructor, the destructor, and the ways out that
 * run no destructors. A death by a signal leaves the statistics file as the last word.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "preload.h"

int preload_active;

void *next_symbol(const char *name)
{
	preload_inside++;
	void *symbol = dlsym(RTLD_NEXT, name);
	preload_inside--;
	return symbol;
}

/* First of all constructors of this library's; those of the program's libraries may come before. */
__attribute__((constructor)) static void begin(void)
{
	struct take_guard guard;

	preload_inside++;
	policy_read(&preload_policy);
	preload_active = *gvm_option_text("GVM_CLUSTER") || *gvm_option_text("GVM_CONNECT");
	int own_malloc = malloc_init();
	io_init();
	report_init();
	preload_inside--;
	if (!own_malloc || !preload_active)
		return;
	take_lock(&guard);
	take_start();
	take_unlock(&guard);
}

__attribute__((destructor)) static void end(void)
{
	report_final();
	control_end();
	take_leave();
}

PRELOAD_EXPORT void _exit(int code)
{
	report_final();
	control_end();
	take_leave();
	raw_exit(code);
}

PRELOAD_EXPORT void _Exit(int code)
{
	report_final();
	control_end();
	take_leave();
	raw_exit(code);
}
