/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Descriptors that the library keeps for as long as it works. They lie in the table of a program
 * that may close what it does not know. The preload library, whose programs know nothing of it, has
 * its own of both functions (tools/preload_fd.c). Any thread.
 */
#include <unistd.h>
#include <gvmnet/gvmnet.h>
#include "core/core.h"

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
