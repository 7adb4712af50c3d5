/*
 * For softmmu/cpus.c: vCPUs are to stop, or a memory node has gone.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SYSEMU_GVM_WATCH_H
#define SYSEMU_GVM_WATCH_H

#ifdef CONFIG_GVMNET
/* vCPUs may be waiting for memory: gvm-stall.c looks.  Any thread. */
void gvm_stall_watch(void);
#else
#define gvm_stall_watch() ((void)0)
#endif

#endif
