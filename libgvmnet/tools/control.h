/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Between "gvm set" and the programs that gvm run started: each paged process listens on a socket
 * PID.sock (SOCK_SEQPACKET) in its user's folder (gvm_stats_dir). One request, one answer, both a
 * line of words:
 *
 *   get                                   ask
 *   set [local=BYTES] [prefetch=PAGES]    all of it, or nothing
 *
 *   ok pid=N local=BYTES used=BYTES prefetch=PAGES program=NAME
 *   error SENTENCE
 */
#ifndef GVM_CONTROL_H
#define GVM_CONTROL_H

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CONTROL_LINE         256 /* longest request or answer, with its end */
#define CONTROL_LOCAL_MIN    (1ull << 20)
#define CONTROL_LOCAL_MAX    (1ull << 48)
#define CONTROL_PREFETCH_MAX 256ull

/* By the folder's descriptor: its name may be longer than an address can hold. */
static inline socklen_t control_address(struct sockaddr_un *address, int dir, int pid)
{
	memset(address, 0, sizeof *address);
	address->sun_family = AF_UNIX;
	snprintf(address->sun_path, sizeof address->sun_path, "/proc/self/fd/%d/%d.sock", dir, pid);
	return sizeof *address;
}

#endif
