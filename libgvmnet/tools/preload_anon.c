/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Private anonymous memory. Large mappings have a range of their own. Small pieces share ranges,
 * "pools": a region each would promise a slab each at the memory nodes. A pool's piece that is
 * unmapped stays mapped, discarded, until it is handed out again. Under the lock of preload_take.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include "preload.h"
#include "preload_take.h"

#define POOL_LEAST  (64 * MIB) /* bytes of a pool's range */
#define POOL_MOST   (1024 * MIB)
#define PIECE_ALIGN (2 * MIB) /* of pieces at least as large: what jemalloc wants */

static int pool_add(size_t bytes)
{
	struct source *source = source_new("pooled anonymous");
	size_t span = bytes + PIECE_ALIGN;

	if (!source)
		return -ENOMEM;
	char *p = raw_mmap(NULL, span, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED) {
		free(source);
		return -ENOMEM;
	}
	char *base = (char *)(((uintptr_t)p + PIECE_ALIGN - 1) & ~(PIECE_ALIGN - 1));
	if (base > p)
		raw_munmap(p, (size_t)(base - p));
	if (base + bytes < p + span)
		raw_munmap(base + bytes, (size_t)(p + span - base - bytes));
	int err = table_reserve(&take.table, 1);
	if (!err)
		err = take_try_attach(source, base, bytes, -1, GVM_ATTACH_ANON);
	if (err) {
		take_refuse(base, bytes, source);
		return err;
	}
	source->pool = 1;
	take.pooled += bytes;
	take_add(source, SEG_FREE, (uintptr_t)base, bytes, RW);
	report_took(source, (uintptr_t)base, bytes, 0);
	return 0;
}

static uintptr_t pool_fit(size_t len)
{
	return table_fit(&take.table, len, len >= PIECE_ALIGN ? PIECE_ALIGN : PRELOAD_PAGE);
}

/* A piece of a pool; NULL: there is no room and none can be made (a range of its own may fit). */
static void *pool_take(size_t len, int prot, int malloced)
{
	uintptr_t at = pool_fit(len);

	if (!at) {
		size_t bytes = take.pooled < POOL_LEAST ? POOL_LEAST : take.pooled;
		if (pool_add(bytes > POOL_MOST ? POOL_MOST : bytes))
			return NULL;
		at = pool_fit(len);
	}
	if (!at || table_reserve(&take.table, 2) ||
	    (prot != RW && raw_mprotect((void *)at, len, prot)))
		return NULL;
	table_cut(&take.table, at);
	table_cut(&take.table, at + len);
	struct seg *seg = table_at(&take.table, at);
	seg->state = SEG_USED;
	seg->prot = prot;
	seg->malloced = (uint8_t)malloced;
	report_took(seg->source, at, len, 1);
	return (void *)at;
}

static int say_if_limited(size_t len, int which, const char *of_what, const char *ulimit)
{
	struct rlimit limit;

	if (getrlimit((__rlimit_resource_t)which, &limit) || limit.rlim_cur == RLIM_INFINITY)
		return 0;
	report_refused();
	say_once("a mapping of %zu MiB fails: this process may have %llu MiB of %s (%s), of which "
		 "gvmnet needs some; raise it",
		 len / MIB, (unsigned long long)limit.rlim_cur / MIB, of_what, ulimit);
	return 1;
}

/* The pager needs address space, too, and a program that had enough before may have too little. */
static void say_limit(size_t len)
{
	int saved = errno;

	if (!say_if_limited(len, RLIMIT_AS, "addresses", "ulimit -v"))
		say_if_limited(len, RLIMIT_DATA, "writable memory", "ulimit -d");
	errno = saved;
}

static void *take_whole(void *addr, size_t len, int prot, int flags, int malloced)
{
	struct source *source = source_new(malloced ? "malloc" : "anonymous");

	if (!source || table_reserve(&take.table, 1)) {
		free(source);
		return take_fail(ENOMEM);
	}
	void *p = raw_mmap(addr, len, prot, take_quiet(flags), -1, 0);
	if (p == MAP_FAILED) {
		free(source);
		say_limit(len);
		return p;
	}
	int err = take_attach(source, p, len, -1, GVM_ATTACH_ANON);
	if (err)
		return take_refuse(p, len, source);
	take_add(source, SEG_USED, (uintptr_t)p, len, prot);
	table_at(&take.table, (uintptr_t)p)->malloced = (uint8_t)malloced;
	report_took(source, (uintptr_t)p, len, 0);
	return p;
}

void *take_anon(void *addr, size_t len, int prot, int flags, int malloced)
{
	if (take_start())
		return take_fail(ENOMEM);
	/* a pool is where it is */
	if (!(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_32BIT)) && len <= POOL_PIECE) {
		void *p = pool_take(len, prot, malloced);
		if (p)
			return p;
	}
	return take_whole(addr, len, prot, flags, malloced);
}

int take_reserve(void *addr, size_t len)
{
	return take_add(NULL, SEG_RESERVED, (uintptr_t)addr, len, PROT_NONE);
}

/* What the program has said of fork for all of [base, base + len), which is reserved. What it said
 * of a part only is not known to the pager, so it is taken back: the child sees all. */
static void reserved_fork(uintptr_t base, size_t len, struct seg *said)
{
	said->nofork = said->wipe = 1;
	for (size_t i = table_find(&take.table, base);
	     i < take.table.count && take.table.seg[i].base < base + len; i++) {
		said->nofork &= take.table.seg[i].nofork;
		said->wipe &= take.table.seg[i].wipe;
	}
	raw_madvise((void *)base, len, MADV_KEEPONFORK); /* take_fork_child wipes */
}

/* A reservation, or a part of it, becomes writable for the first time. */
int take_reserved(uintptr_t base, size_t len, int prot)
{
	struct source *source = source_new("anonymous (reserved, then made writable)");

	if (!source || table_reserve(&take.table, 3)) {
		free(source);
		errno = ENOMEM;
		return -1;
	}
	if (raw_mprotect((void *)base, len, prot)) {
		free(source);
		return -1;
	}
	int err = take_attach(source, (void *)base, len, -1, GVM_ATTACH_ANON);
	if (err) {
		raw_mprotect((void *)base, len, PROT_NONE);
		free(source);
		errno = ENOMEM;
		return -1;
	}
	struct seg said;
	reserved_fork(base, len, &said);
	if (said.nofork)
		gvm_range_set_fork(source->range, 0);
	table_cut(&take.table, base);
	table_cut(&take.table, base + len);
	while (table_meets(&take.table, base, len))
		table_remove(&take.table, table_find(&take.table, base));
	take_add(source, SEG_USED, base, len, prot);
	table_at(&take.table, base)->nofork = said.nofork;
	table_at(&take.table, base)->wipe = said.wipe;
	report_took(source, base, len, 0);
	return 0;
}
