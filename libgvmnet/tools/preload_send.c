/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Descriptors that are sent to other processes. Who receives that of a file that is paged, and maps
 * it (vhost-user), would see another memory than the program does: it is refused aloud.
 *
 * And pages that are sent from where they are, later (vmsplice, MSG_ZEROCOPY): the pager must know,
 * for the kernel's hold on them cannot be seen.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "preload.h"

static int carries_paged_file(const struct msghdr *msg)
{
	struct take_guard guard;
	int known = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c && !known;
	     c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
		    c->cmsg_len < CMSG_LEN(0))
			continue;
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		take_lock(&guard);
		for (size_t i = 0; i < count && !known; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			known = take_knows_file(fd);
		}
		take_unlock(&guard);
	}
	return known;
}

static int refused(const struct msghdr *msg)
{
	if (preload_inside || !take_has_files() || !msg || !msg->msg_control ||
	    !carries_paged_file(msg))
		return 0;
	say_once(
	    "a file whose mapping is paged is not sent to another process: it would see another "
	    "memory (leave it out with --match)");
	errno = EPERM;
	return 1;
}

PRELOAD_EXPORT ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	static ssize_t (*real)(int, const struct msghdr *, int);

	if (refused(msg))
		return -1;
	if (flags & MSG_ZEROCOPY)
		take_lend();
	if (!real)
		real = (ssize_t(*)(int, const struct msghdr *, int))next_symbol("sendmsg");
	return real(fd, msg, flags);
}

PRELOAD_EXPORT int sendmmsg(int fd, struct mmsghdr *msgs, unsigned count, int flags)
{
	static int (*real)(int, struct mmsghdr *, unsigned, int);

	for (unsigned i = 0; i < count && msgs; i++)
		if (refused(&msgs[i].msg_hdr))
			return -1;
	if (flags & MSG_ZEROCOPY)
		take_lend();
	if (!real)
		real = (int (*)(int, struct mmsghdr *, unsigned, int))next_symbol("sendmmsg");
	return real(fd, msgs, count, flags);
}

/* Which send it will be is not known, nor whether the C library's is called for it. */
PRELOAD_EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	if (level == SOL_SOCKET && name == SO_ZEROCOPY)
		take_lend();
	return (int)syscall(SYS_setsockopt, fd, level, name, value, len);
}

PRELOAD_EXPORT ssize_t vmsplice(int fd, const struct iovec *iov, size_t count, unsigned flags)
{
	take_lend();
	return syscall(SYS_vmsplice, fd, iov, count, flags);
}
