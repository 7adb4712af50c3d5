/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where nobody watches over the library's descriptors, as the preload library does, whose programs
 * know nothing of them (tools/preload_fd.c).
 */
#include <unistd.h>
#include <gvmnet/gvmnet.h>
#include "core/fd.h"

#define EXIT_LOST 125

int gvm_own_fd(int fd)
{
	return fd;
}

void gvm_fd_lost(const char *what)
{
	gvm_log(GVM_LOG_ERROR,
		"this process ends: somebody in it has closed a descriptor of the library's (%s)",
		what);
	_exit(EXIT_LOST);
}
