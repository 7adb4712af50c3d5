/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the parts of the RDMA device that is none have in common: stub_rdma.c (libibverbs) and
 * stub_cm.c (librdmacm). No test needs it; theirs is stub_rdma.h.
 *
 * There is one lock, which on the way of a fetch is a flag, so that no function of libc's is
 * counted as the device's.
 */
#ifndef GVM_TESTS_STUB_PARTS_H
#define GVM_TESTS_STUB_PARTS_H

#include "stub_rdma.h"

#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

extern int stub_lock;

static inline void lock(void)
{
	while (__atomic_exchange_n(&stub_lock, 1, __ATOMIC_ACQUIRE))
		sched_yield();
}

static inline void unlock(void)
{
	__atomic_store_n(&stub_lock, 0, __ATOMIC_RELEASE);
}

static inline void ring_fd(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		abort();
}

static inline void quiet_fd(int fd)
{
	uint64_t n;

	if (read(fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		abort();
}

/* The device that rdma_cm finds each address to belong to, as rdma_cm has opened it. */
struct ibv_context *stub_manager(void);
/* The queue pairs of these numbers reach each other from now on; -1: there are no such. Locked. */
int stub_join(uint32_t one, uint32_t other);

#endif
