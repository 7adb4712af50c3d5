/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Descriptors that the library keeps, in the table of a program that may close what it does not
 * know: for core/ and the pager. The preload library, which watches over them, has its own of both
 * functions. Any thread.
 */
#ifndef GVM_CORE_FD_H
#define GVM_CORE_FD_H

/* A descriptor that is kept, where the host of the library wants it to be: the number that it has
 * from now on. Errors (below 0) pass. */
int gvm_own_fd(int fd);
/* One that was kept is gone: no use of it can be right any more. what: for people. */
void gvm_fd_lost(const char *what) __attribute__((noreturn));

#endif
