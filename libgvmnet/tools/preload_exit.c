/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The beginning and the ends of a process: the constructor, the destructor, and the ways out that
 * run no destructors. A death by a signal leaves the statistics file as the last word.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
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
	env_init();
	report_init();
	preload_inside--;
	if (!own_malloc || !preload_active || preload_policy.local_only)
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
	shared_leave();
}

/* A process that lets itself make a few system calls only is ended by any other: it ends without a
 * word then. */
static int sandboxed;

PRELOAD_EXPORT int prctl(int option, ...)
{
	unsigned long arg[4];
	va_list ap;

	va_start(ap, option);
	for (size_t i = 0; i < 4; i++)
		arg[i] = va_arg(ap, unsigned long);
	va_end(ap);
	int result = (int)syscall(SYS_prctl, option, arg[0], arg[1], arg[2], arg[3]);
	if (option == PR_SET_SECCOMP && !result)
		sandboxed = 1;
	return result;
}

__attribute__((noreturn)) static void leave(int code)
{
	if (!sandboxed) {
		report_final();
		control_end();
		take_leave();
		shared_leave();
	}
	raw_exit(code);
}

PRELOAD_EXPORT void _exit(int code)
{
	leave(code);
}

PRELOAD_EXPORT void _Exit(int code)
{
	leave(code);
}
