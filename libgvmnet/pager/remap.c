/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ranges that change their shape: parts given up, moves, growth. Called from the program's threads,
 * under pager->control.
 *
 * While addresses change hands no page may be taken by an old address: another thread's mapping may
 * be there by then. So eviction of the range pauses, and the helper's jobs are waited for, before
 * the kernel is asked to change anything.
 */
#include <sys/mman.h>
#include "internal.h"

#define REGISTER (UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP)

/* ---- giving up a part ---------------------------------------------------------------------- */

/* a, b: pages from, to */
static void call_gone(struct call *call)
{
	struct shard *shard = call->shard;
	struct view *view = &shard->views[call->range->id];
	uint64_t until;

	for (uint64_t p = call->a; (p = view_stretch(view, p, call->b, &until)) < call->b;)
		for (; p < until; p++)
			page_discard(view, p, PAGE_GONE);
	/* each shard knows the whole range, also the slabs that are not its own */
	for (uint64_t p = call->a, addr; p < call->b;) {
		uint64_t page, end;

		addr = view_addr(view, p);
		if (!addr || !piece_find(shard, addr, &page, &end)) {
			p++;
			continue;
		}
		if (end > addr + (call->b - p) * PAGE)
			end = addr + (call->b - p) * PAGE;
		piece_cut(shard, addr, end);
		p += (end - addr) / PAGE;
	}
	call_done(call, 0);
}

static int reserve_parts(const struct parts *parts, uint64_t *pages)
{
	int err = 0;

	*pages = 0;
	for (uint32_t i = 0; i < parts->count; i++) {
		const struct part *part = &parts->part[i];

		if (sys_mmap((void *)part->addr, part->pages * PAGE, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
			     0) == MAP_FAILED)
			err = -errno;
		else
			*pages += part->pages;
	}
	return err;
}

/* Under control. Returns 0 or -errno. */
static int give_up(struct gvm_range *range, uint64_t from, uint64_t to)
{
	struct gvm_pager *pager = range->pager;
	struct parts parts;
	uint64_t pages;
	int err = parts_get(range, from, to, &parts);

	if (err)
		return err;
	pager_call_all(pager, call_gone, range, from, to);
	pager_call_all(pager, call_drain, range, 0, 0);
	err = reserve_parts(&parts, &pages);
	range->mapped_pages -= pages;
	parts_free(&parts);
	if (!range->anon)
		range_punch(range, from * PAGE, (to - from) * PAGE);
	return err;
}

int gvm_pager_unmap(struct gvm_range *range, uint64_t offset, uint64_t bytes)
{
	struct gvm_pager *pager = range->pager;
	int err;

	if (offset % PAGE || bytes % PAGE || offset > range->bytes || bytes > range->bytes - offset)
		return -EINVAL;
	pthread_mutex_lock(&pager->control);
	err = bytes ? give_up(range, offset / PAGE, (offset + bytes) / PAGE) : 0;
	if (!err && range->mapped_pages == 0) {
		err = range_detach_locked(range, false);
		err = err ? err : 1;
	}
	pthread_mutex_unlock(&pager->control);
	return err;
}

/* ---- rest ---------------------------------------------------------------------------------- */

static void call_pause(struct call *call)
{
	struct view *view = &call->shard->views[call->range->id];

	view->paused = true;
	view->closing = call->b != 0;
	view->drain = call;
	view_idle(view);
}

static void call_resume(struct call *call)
{
	struct shard *shard = call->shard;
	struct view *view = &shard->views[call->range->id];

	view->paused = view->closing = false;
	/* who faulted meanwhile was not answered: it faults again */
	for (uint32_t i = 0; i < shard->piece_count; i++)
		if (shard->pieces[i].range == view->id)
			mem_wake(shard->uffd, shard->pieces[i].addr, shard->pieces[i].pages * PAGE);
	call_done(call, 0);
}

/* No page of the range is taken; with all, none of its operations is under way and none begins. */
static void pause_range(struct gvm_range *range, bool all)
{
	/* the helper's jobs first, while faults are still answered: a job may wait for one */
	pager_call_all(range->pager, call_pause, range, 0, 0);
	if (all)
		pager_call_all(range->pager, call_pause, range, 1, 1);
}

void range_resume(struct gvm_range *range)
{
	pager_call_all(range->pager, call_resume, range, 0, 0);
}

/* ---- growing ------------------------------------------------------------------------------- */

static void resized(struct gvm_region_op *op, int status)
{
	call_done((struct call *)((char *)op - offsetof(struct call, op)), status);
}

/* a: bytes */
static void call_resize(struct call *call)
{
	struct view *view = &call->shard->views[call->range->id];
	int err;

	call->op.done = resized;
	call->op.deadline_ns = GVM_NEVER;
	err = call->shard->pager->store->resize(view->region, call->a, &call->op);
	if (err)
		call_done(call, err);
	gvm_worker_flush(call->shard->worker);
}

/* a: the new table, b: its pages. The shard's own words move over. */
static void call_table(struct call *call)
{
	struct view *view = &call->shard->views[call->range->id];
	page_word *table = (page_word *)call->a;
	uint64_t until;

	for (uint64_t p = 0; (p = view_stretch(view, p, view->pages, &until)) < view->pages;
	     p = until)
		memcpy(table + p, view->table + p, (until - p) * sizeof(*table));
	view->table = table;
	view->pages = call->b;
	view->whole = false;
	call_done(call, 0);
}

static int grow_table(struct gvm_range *range, uint64_t pages)
{
	struct gvm_pager *pager = range->pager;
	page_word *table = mem_map(pages * sizeof(*table));

	if (!table)
		return -ENOMEM;
	pager_call_all(pager, call_table, range, (uintptr_t)table, pages);
	mem_unmap(range->table, range->table_pages * sizeof(*table));
	__atomic_add_fetch(&pager->metadata, (pages - range->table_pages) * sizeof(*table),
			   __ATOMIC_RELAXED);
	range->table = table;
	range->table_pages = pages;
	return 0;
}

/* The other shards' views were opened when the region was smaller. */
static int grow_region(struct gvm_range *range, uint64_t pages)
{
	struct gvm_pager *pager = range->pager;
	struct call call = { .range = range, .a = pages * PAGE };
	int err;

	pause_range(range, true);
	err = pager_call(&pager->shard[0], call_resize, &call);
	for (unsigned i = 1; i < pager->shards && !err; i++) {
		struct call again = { .range = range };

		err = pager_call(&pager->shard[i], call_reopen, &again);
	}
	if (!err)
		err = grow_table(range, pages);
	range_resume(range);
	return err;
}

/* a: address, b: first page and how many */
static void call_tail(struct call *call)
{
	struct view *view = &call->shard->views[call->range->id];
	uint64_t first = call->b >> 32, end = first + (call->b & UINT32_MAX), until;

	/* pages that were there before the range shrank: discarded then, to be had again now */
	for (uint64_t p = first; (p = view_stretch(view, p, end, &until)) < end;)
		for (; p < until; p++)
			view->table[p] = page_make(PAGE_NONE, view->table[p] & PAGE_KEEP, 0);
	call_done(call, piece_add(call->shard, call->a, first, end - first, view->id));
}

static int map_tail(struct gvm_range *range, uint64_t at, uint64_t first, uint64_t pages, bool over)
{
	int flags = over ? MAP_FIXED : MAP_FIXED_NOREPLACE;
	void *p;

	if (range->anon)
		p = sys_mmap((void *)at, pages * PAGE, PROT_READ | PROT_WRITE,
			     flags | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	else
		p = sys_mmap((void *)at, pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_SHARED,
			     range->memfd, (off_t)(range->offset + first * PAGE));
	if (p == MAP_FAILED)
		return -errno;
	if ((uintptr_t)p != at) { /* a kernel that does not know NOREPLACE took it for a hint */
		sys_munmap(p, pages * PAGE);
		return -EEXIST;
	}
	sys_madvise(p, pages * PAGE, huge_advice(range));
	if (!range->anon)
		range_punch(range, first * PAGE, pages * PAGE);
	return 0;
}

/* ---- moving -------------------------------------------------------------------------------- */

/* What is one piece here may be several mappings to the kernel, which moves one at a time: then in
 * halves, as far down as it takes. Returns how many bytes were moved. */
static uint64_t move_bytes(uint64_t from, uint64_t to, uint64_t bytes)
{
	uint64_t half = bytes / PAGE / 2 * PAGE, moved;

	if (sys_mremap((void *)from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)to) !=
	    MAP_FAILED)
		return bytes;
	if (errno != EFAULT || half == 0)
		return 0;
	moved = move_bytes(from, to, half);
	return moved < half ? moved : half + move_bytes(from + half, to + half, bytes - half);
}

static int move_parts(const struct parts *parts, uint64_t to)
{
	uint64_t moved = 0;
	uint32_t i;

	for (i = 0; i < parts->count; i++) {
		const struct part *part = &parts->part[i];

		moved = move_bytes(part->addr, to + part->first * PAGE, part->pages * PAGE);
		if (moved < part->pages * PAGE)
			break;
	}
	if (i == parts->count)
		return 0;
	/* half a move is none */
	for (uint32_t k = 0; k <= i; k++) {
		const struct part *part = &parts->part[k];

		move_bytes(to + part->first * PAGE, part->addr, k < i ? part->pages * PAGE : moved);
	}
	return -ENOMEM;
}

/* The whole range to another address; the shards follow by the kernel's events. */
static int move_range(struct gvm_range *range, uint64_t to)
{
	struct parts parts;
	int err = parts_get(range, 0, range->pages, &parts);

	if (err)
		return err;
	pause_range(range, false);
	err = move_parts(&parts, to);
	if (!err)
		range->base = to;
	range_resume(range);
	parts_free(&parts);
	return err;
}

static void *reserve(void *at, uint64_t bytes)
{
	return sys_mmap(at, bytes, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0), -1, 0);
}

static int adopt_tail(struct gvm_range *range, uint64_t old, uint64_t pages)
{
	uint64_t at = range->base + old * PAGE;
	int err = pager_call_all(range->pager, call_tail, range, at, old << 32 | (pages - old));

	if (!err)
		err = range_register(range, old, pages - old, at);
	if (err)
		return err;
	__atomic_add_fetch(&range->pager->attached, pages - old, __ATOMIC_RELAXED);
	range->mapped_pages += pages - old;
	range->pages = pages;
	range->bytes = pages * PAGE;
	return 0;
}

static int grow(struct gvm_range *range, uint64_t pages, int flags, void *fixed)
{
	uint64_t old = range->pages;
	bool in_place = !(flags & MREMAP_FIXED) &&
			map_tail(range, range->base + old * PAGE, old, pages - old, false) == 0;
	void *to;
	int err;

	if (!in_place && !(flags & MREMAP_MAYMOVE))
		return -ENOMEM;
	err = pages > range->table_pages ? grow_region(range, pages) : 0;
	if (err) {
		if (in_place)
			sys_munmap((void *)(range->base + old * PAGE), (pages - old) * PAGE);
		return err;
	}
	if (!in_place) {
		to = reserve(flags & MREMAP_FIXED ? fixed : NULL, pages * PAGE);
		if (to == MAP_FAILED)
			return -errno;
		err = move_range(range, (uintptr_t)to);
		if (!err)
			err = map_tail(range, range->base + old * PAGE, old, pages - old, true);
		if (err)
			return err;
	}
	return adopt_tail(range, old, pages);
}

static int shrink(struct gvm_range *range, uint64_t pages)
{
	uint64_t old = range->pages, tail = range->base + pages * PAGE;
	int err = give_up(range, pages, old);

	if (err)
		return err;
	sys_munmap((void *)tail, (old - pages) * PAGE);
	__atomic_sub_fetch(&range->pager->attached, old - pages, __ATOMIC_RELAXED);
	range->pages = pages;
	range->bytes = pages * PAGE;
	return 0;
}

static int reshape(struct gvm_range *range, uint64_t pages, int flags, void *fixed)
{
	int err = 0;

	if (range->mapped_pages != range->pages)
		return -EFAULT; /* as the kernel says of a mapping with holes */
	if (pages < range->pages)
		err = shrink(range, pages);
	else if (pages > range->pages)
		return grow(range, pages, flags, fixed);
	if (!err && (flags & MREMAP_FIXED)) {
		if (reserve(fixed, pages * PAGE) == MAP_FAILED)
			return -errno;
		err = move_range(range, (uintptr_t)fixed);
	}
	return err;
}

void *gvm_pager_remap(struct gvm_range *range, uint64_t new_bytes, int flags, void *fixed)
{
	struct gvm_pager *pager = range->pager;
	uint64_t pages = new_bytes / PAGE + (new_bytes % PAGE != 0);
	int err = 0;

	if (new_bytes == 0 || pages >= GVM_NIL || (flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED)) ||
	    ((flags & MREMAP_FIXED) && (!(flags & MREMAP_MAYMOVE) || (uintptr_t)fixed % PAGE)))
		err = -EINVAL;
	pthread_mutex_lock(&pager->control);
	if (!err && (flags & MREMAP_FIXED) && (uintptr_t)fixed < range->base + range->bytes &&
	    range->base < (uintptr_t)fixed + pages * PAGE)
		err = -EINVAL;
	if (!err)
		err = reshape(range, pages, flags, fixed);
	pthread_mutex_unlock(&pager->control);
	if (err) {
		errno = -err;
		return MAP_FAILED;
	}
	return (void *)range->base;
}
