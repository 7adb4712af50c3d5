/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* "gvm run", between its files: each check says one sentence on standard error when it fails. */
#ifndef GVM_RUN_H
#define GVM_RUN_H

#include <stddef.h>
#include <gvmnet/cluster.h>

/* gvm run itself refuses; the program was not started. (A program's own codes are its own.) */
#define GVM_RUN_REFUSED 120

/* One line: "gvm run: ...". Returns -1. */
int run_refuse(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Find the file that name means, as execvp would, and see that the preload library will be loaded
 * into it: a dynamic program for this machine and C library, without privileges of its own. */
int run_check_program(const char *name, char *path, size_t room);
/* May this process use userfaultfd for faults of the kernel's too? */
int run_check_userfaultfd(void);
/* May this process have as much memory as --local says? With a warning if it is near. */
int run_check_memory(void);

#endif
