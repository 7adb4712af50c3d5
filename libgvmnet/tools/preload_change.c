/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What becomes of memory that is taken over: parts of it unmapped, discarded, protected, moved.
 * Each call may meet ours and not ours side by side. Under the lock of preload_take.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "preload.h"
#include "preload_take.h"

/* newer than the C library's headers may be */
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

/* ---- giving back ---------------------------------------------------------------------------- */

/* The i-th segment's addresses become an inaccessible reservation that is not in the table. */
static void give_up(size_t i)
{
	struct seg seg = take.table.seg[i];

	if (seg.source) {
		uint64_t ends = take_mortal();
		gvm_pager_unmap(seg.source->range, seg.base - seg.source->base, seg.bytes);
		take_immortal(ends);
	}
	take_forget(i);
}

/* A pool that nothing is in goes back to the memory nodes, if another has room. */
static void pool_trim(size_t i)
{
	struct seg seg = take.table.seg[i];
	size_t roomy = 0;

	if (seg.bytes != seg.source->bytes)
		return;
	for (size_t k = 0; k < take.table.count; k++)
		roomy +=
		    take.table.seg[k].state == SEG_FREE && take.table.seg[k].bytes >= POOL_PIECE;
	if (roomy < 2)
		return;
	give_up(i);
	raw_munmap((void *)seg.base, seg.bytes);
}

static void pool_give_back(size_t i)
{
	struct seg *seg = &take.table.seg[i];

	if (seg->state == SEG_FREE)
		return;
	if (seg->prot != RW)
		raw_mprotect((void *)seg->base, seg->bytes, RW);
	gvm_pager_discard(seg->source->range, seg->base - seg->source->base, seg->bytes);
	seg->state = SEG_FREE;
	seg->prot = RW;
	seg->malloced = seg->wipe = 0;
	pool_trim(table_join(&take.table, i));
}

int take_unmap(uintptr_t base, size_t len)
{
	uintptr_t end = base + len;

	stack_forget(base, len);
	if (take_cut(base, len))
		return -1;
	for (uintptr_t at = base; at < end;) {
		size_t i = table_find(&take.table, at);
		struct seg seg = { .base = end };
		if (i < take.table.count && take.table.seg[i].base < end)
			seg = take.table.seg[i];
		if (seg.base > at && raw_munmap((void *)at, seg.base - at))
			return -1;
		at = seg.base + seg.bytes;
		if (!seg.bytes)
			break;
		if (seg.state == SEG_PARKED)
			continue;
		if (seg.source && seg.source->pool) {
			pool_give_back(i);
		} else if (!known_park(i)) {
			give_up(i);
			raw_munmap((void *)seg.base, seg.bytes);
		}
	}
	return 0;
}

/* The i-th segment, which is parked, goes elsewhere. -1: it cannot. */
static int move_away(size_t i)
{
	struct seg seg = take.table.seg[i];

	if (seg.base != seg.source->base || seg.bytes != seg.source->bytes ||
	    table_reserve(&take.table, 4))
		return -1;
	void *to = raw_mmap(NULL, seg.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			    -1, 0);
	if (to == MAP_FAILED)
		return -1;
	if (take_move_range(i, seg.bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to)
		return 0;
	raw_munmap(to, seg.bytes);
	return -1;
}

/* Contents of a file that is open are not mapped over: they go elsewhere. -1 with errno. */
static int move_aside(uintptr_t base, size_t len)
{
	for (size_t i; (i = table_find(&take.table, base)) < take.table.count;) {
		uintptr_t at = take.table.seg[i].base, end = at + take.table.seg[i].bytes;
		if (at >= base + len)
			break;
		int inside = at >= base && end <= base + len;
		if (take.table.seg[i].state != SEG_PARKED && !(inside && known_park(i))) {
			if (!inside && known_open(&take.table.seg[i]))
				goto refused;
			if (end >= base + len)
				break;
			len -= end - base;
			base = end;
			continue;
		}
		if (move_away(table_find(&take.table, at)))
			goto refused;
	}
	return 0;
refused:
	say_once("a mapping over a part of a file that is paged is refused: the file is open, and "
		 "its contents would be lost");
	errno = ENOMEM;
	return -1;
}

int take_clear(uintptr_t base, size_t len)
{
	stack_forget(base, len);
	if ((take_has_files() && move_aside(base, len)) || take_cut(base, len))
		return -1;
	while (table_meets(&take.table, base, len))
		give_up(table_find(&take.table, base));
	return 0;
}

/* ---- changing ------------------------------------------------------------------------------- */

static int all_private(uintptr_t base, size_t len)
{
	if (!table_covered(&take.table, base, len, SEG_USED))
		return 0;
	for (size_t i = table_find(&take.table, base);
	     i < take.table.count && take.table.seg[i].base < base + len; i++)
		if (take.table.seg[i].source->shared || take.table.seg[i].malloced ||
		    take.table.seg[i].nofork || take.table.seg[i].wipe)
			return 0; /* a new mapping is not what was said of the old one */
	return 1;
}

void *take_over_fixed(void *addr, size_t len, int prot)
{
	uintptr_t base = (uintptr_t)addr;

	if (!all_private(base, len))
		return NULL;
	stack_forget(base, len);
	for (size_t i = table_find(&take.table, base);
	     i < take.table.count && take.table.seg[i].base < base + len; i++) {
		const struct seg *seg = &take.table.seg[i];
		uintptr_t end = seg->base + seg->bytes;
		take_discard(seg, seg->base > base ? seg->base : base,
			     end < base + len ? end : base + len);
	}
	return take_protect(base, len, prot) ? MAP_FAILED : addr;
}

int take_protect(uintptr_t base, size_t len, int prot)
{
	int opens = prot != PROT_NONE;

	if (opens && (prot & PROT_WRITE) && !(prot & PROT_EXEC) && len >= preload_policy.min &&
	    table_covered(&take.table, base, len, SEG_RESERVED))
		return take_reserved(base, len, prot);
	if (opens && (prot & PROT_WRITE) && table_covered(&take.table, base, len, SEG_RESERVED))
		report_passed(len, prot & PROT_EXEC ? "executable" : "smaller than --min");
	if (take_cut(base, len) || raw_mprotect((void *)base, len, prot))
		return -1;
	for (size_t i = table_find(&take.table, base);
	     i < take.table.count && take.table.seg[i].base < base + len;) {
		struct seg *seg = &take.table.seg[i];
		if (seg->state == SEG_RESERVED && opens) {
			table_remove(&take.table, i); /* it may have contents from now on */
			continue;
		}
		seg->prot = prot;
		i++;
	}
	return 0;
}

/* madvise on [from, to) of a paged segment: 0, or -1 with errno. */
static int advise(struct seg *seg, uintptr_t from, uintptr_t to, int advice)
{
	int whole = from == seg->source->base && to - from == seg->source->bytes;

	switch (advice) {
	case MADV_DONTNEED:
	case MADV_DONTNEED_LOCKED:
	case MADV_FREE:
		if (!seg->source->shared)
			take_discard(seg, from, to);
		return 0;
	case MADV_REMOVE:
		if (!seg->source->shared) {
			errno = EINVAL;
			return -1;
		}
		take_discard(seg, from, to);
		return 0;
	case MADV_DONTFORK:
	case MADV_DOFORK:
		/* The pager knows whole ranges only; a part that is asked for stays in the child.
		 */
		if (!whole || seg->source->shared)
			return 0;
		gvm_range_set_fork(seg->source->range, advice == MADV_DOFORK);
		seg->nofork = advice == MADV_DONTFORK; /* the kernel is told at fork, see inherit */
		return 0;
	case MADV_WIPEONFORK:
	case MADV_KEEPONFORK:
		if (seg->source->shared) {
			errno = EINVAL;
			return -1;
		}
		seg->wipe = advice == MADV_WIPEONFORK;
		return 0;
	case MADV_DONTDUMP:
	case MADV_DODUMP:
		return raw_madvise((void *)from, to - from, advice);
	case MADV_HWPOISON:
		errno = EPERM;
		return -1;
	case MADV_NORMAL: /* hints of when and how pages come and go: the pager decides that */
	case MADV_RANDOM:
	case MADV_SEQUENTIAL:
	case MADV_WILLNEED:
	case MADV_MERGEABLE:
	case MADV_UNMERGEABLE:
	case MADV_HUGEPAGE:
	case MADV_NOHUGEPAGE:
	case MADV_COLD:
	case MADV_PAGEOUT:
	case MADV_POPULATE_READ:
	case MADV_POPULATE_WRITE:
	case MADV_COLLAPSE:
	case MADV_SOFT_OFFLINE:
		return 0;
	default: /* as a kernel that has not heard of it, such as of guard pages */
		errno = EINVAL;
		return -1;
	}
}

/* madvise on a part of a reservation. What it says of fork must be known when the part is made
 * writable, and taken over. */
static int advise_reserved(uintptr_t from, uintptr_t to, int advice)
{
	int fork = advice == MADV_DONTFORK || advice == MADV_DOFORK;
	int wipe = advice == MADV_WIPEONFORK || advice == MADV_KEEPONFORK;

	if (((fork || wipe) && take_cut(from, to - from)) ||
	    raw_madvise((void *)from, to - from, advice))
		return -1;
	struct seg *seg = table_at(&take.table, from);
	if (fork)
		seg->nofork = advice == MADV_DONTFORK;
	if (wipe)
		seg->wipe = advice == MADV_WIPEONFORK;
	return 0;
}

int take_advise(uintptr_t base, size_t len, int advice)
{
	uintptr_t end = base + len;
	int wipe = advice == MADV_WIPEONFORK || advice == MADV_KEEPONFORK;

	if (wipe && take_cut(base, len))
		return -1;
	for (uintptr_t at = base; at < end;) {
		size_t i = table_find(&take.table, at);
		struct seg *seg = i < take.table.count ? &take.table.seg[i] : NULL;
		uintptr_t next = seg && seg->base < end ? seg->base : end;
		if (next > at && raw_madvise((void *)at, next - at, advice))
			return -1;
		if (next == end)
			break;
		uintptr_t from = seg->base > at ? seg->base : at;
		uintptr_t to = seg->base + seg->bytes < end ? seg->base + seg->bytes : end;
		int err = seg->state == SEG_USED       ? advise(seg, from, to, advice)
			  : seg->state == SEG_RESERVED ? advise_reserved(from, to, advice)
						       : 0;
		if (err)
			return -1;
		at = to;
	}
	return 0;
}

/* ---- moving --------------------------------------------------------------------------------- */

static void copy_pages(char *to, const char *from, size_t len)
{
	static const char zeros[4096];

	for (size_t at = 0; at < len; at += PRELOAD_PAGE)
		if (memcmp(from + at, zeros, PRELOAD_PAGE))
			memcpy(to + at, from + at, PRELOAD_PAGE);
}

/* Move by copying: for parts of ranges, and pieces of pools. */
static void *move_copy(struct seg seg, size_t len, size_t new_len, int flags, void *fixed)
{
	int fix = flags & MREMAP_FIXED ? MAP_FIXED : 0;
	int prot = seg.prot;

	char *p = take_anon(fixed, new_len, RW, MAP_PRIVATE | MAP_ANONYMOUS | fix, seg.malloced);
	if (p == MAP_FAILED)
		return p;
	if (!(prot & PROT_READ))
		raw_mprotect((void *)seg.base, len, PROT_READ);
	copy_pages(p, (char *)seg.base, len < new_len ? len : new_len);
	if (prot != RW)
		take_protect((uintptr_t)p, new_len, prot);
	take_unmap(seg.base, len);
	return p;
}

void *take_move_range(size_t i, size_t new_len, int flags, void *fixed)
{
	struct seg seg = take.table.seg[i];
	uint64_t ends = take_mortal();
	void *p = gvm_pager_remap(seg.source->range, new_len, flags, fixed);

	take_immortal(ends);
	if (p == MAP_FAILED)
		return p;
	if (new_len > seg.bytes && seg.prot != RW) /* what is new is as the rest */
		raw_mprotect(p, new_len, seg.prot);
	if (seg.source->shared)
		raw_madvise(p, new_len, MADV_DONTFORK);
	seg.source->refs++; /* while it is in no segment */
	table_remove(&take.table, i);
	seg.base = seg.source->base = (uintptr_t)p;
	seg.bytes = seg.source->bytes = new_len;
	take_widen(seg.base, seg.bytes);
	table_add(&take.table, &seg);
	seg.source->refs--;
	return p;
}

/* Grow a pool's piece into the free space behind it. */
static int grow_piece(size_t i, size_t more)
{
	struct seg *seg = &take.table.seg[i];
	uintptr_t end = seg->base + seg->bytes;
	const struct seg *next = table_at(&take.table, end);

	if (!next || next->state != SEG_FREE || next->source != seg->source || next->bytes < more ||
	    table_reserve(&take.table, 1) ||
	    (seg->prot != RW && raw_mprotect((void *)end, more, seg->prot)))
		return 0;
	table_cut(&take.table, end + more);
	table_remove(&take.table, i + 1);
	take.table.seg[i].bytes += more;
	return 1;
}

/* 0, or why not: nothing is changed for a move that cannot be. */
static int may_remap(const struct seg *seg, uintptr_t base, size_t len, size_t new_len, int flags)
{
	int whole = seg->base == base && seg->source->base == base && seg->source->bytes == len;

	if (!whole && seg->source->shared && (flags & MREMAP_FIXED || new_len > len)) {
		say_once("mremap of a part of shared paged memory is refused");
		return ENOTSUP;
	}
	if (seg->source->known && new_len > len && !known_may_grow(seg, new_len - len))
		return ENOTSUP;
	return table_reserve(&take.table, 8) ? ENOMEM : 0;
}

static void *remap(uintptr_t base, size_t len, size_t new_len, int flags, void *fixed)
{
	struct seg *seg = table_at(&take.table, base);

	if (!len || flags & MREMAP_DONTUNMAP) {
		say_once("mremap that keeps the old mapping is refused for paged memory");
		return take_fail(EINVAL);
	}
	if (!seg || seg->state != SEG_USED || seg->base + seg->bytes < base + len) {
		say_once("mremap across the border of paged memory is refused");
		return take_fail(EFAULT);
	}
	if (!(flags & MREMAP_FIXED) && new_len <= len) {
		if (new_len < len && take_unmap(base + new_len, len - new_len))
			return MAP_FAILED;
		return (void *)base;
	}
	int err = may_remap(seg, base, len, new_len, flags);
	if (err)
		return take_fail(err);
	if (flags & MREMAP_FIXED && take_clear((uintptr_t)fixed, new_len))
		return MAP_FAILED;
	size_t i = table_find(&take.table, base);
	seg = &take.table.seg[i];
	int whole = seg->base == base && seg->bytes == len;
	if (whole && seg->source->pool && !(flags & MREMAP_FIXED) && grow_piece(i, new_len - len))
		return (void *)base;
	if (whole && seg->source->base == base && seg->source->bytes == len && !seg->source->pool)
		return take_move_range(i, new_len, flags, fixed);
	if (!(flags & MREMAP_MAYMOVE))
		return take_fail(ENOMEM);
	struct seg part = *seg;
	part.base = base;
	return move_copy(part, len, new_len, flags, fixed);
}

/* What is not ours goes to a place where nothing is. */
static void *move_aside_raw(void *from, size_t len, size_t new_len)
{
	void *to =
	    raw_mmap(NULL, new_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (to == MAP_FAILED)
		return to;
	void *p = raw_mremap(from, len, new_len, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	if (p == MAP_FAILED) {
		int saved = errno;
		raw_munmap(to, new_len);
		errno = saved;
	}
	return p;
}

void *take_remap(uintptr_t base, size_t len, size_t new_len, int flags, void *fixed)
{
	size_t span = len ? len : PRELOAD_PAGE;

	stack_forget(base, span);
	if (table_meets(&take.table, base, span) &&
	    !table_covered(&take.table, base, span, SEG_RESERVED))
		return remap(base, len, new_len, flags, fixed);
	void *from = (void *)base;
	if (flags & MREMAP_FIXED && table_meets(&take.table, (uintptr_t)fixed, new_len)) {
		/* what is there goes when it is sure that the move can be */
		if (len && !(flags & MREMAP_DONTUNMAP)) {
			from = move_aside_raw(from, len, new_len);
			len = new_len;
		}
		if (from == MAP_FAILED || take_clear((uintptr_t)fixed, new_len))
			return MAP_FAILED;
	}
	void *p = raw_mremap(from, len, new_len, flags, fixed);
	if (p != MAP_FAILED)
		take_clear(base, span);
	return p;
}
