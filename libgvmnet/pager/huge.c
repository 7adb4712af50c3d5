/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Huge pages where there is room. In a range that asks for them (GVM_ATTACH_HUGE) the first touch
 * of a block of 2 MiB, of which nothing is here and nothing in the region, brings all of it as one
 * huge page of zeros, while the budget holds all that is attached, or as long as a quarter of it is
 * free beside. It is made beside, and moved: UFFDIO_MOVE moves an entry of the upper table. The
 * program need not touch page by page then, and its translations are a level shorter. From then on
 * it is 512 mapped pages like any other: what leaves, or is discarded, or protected, has the kernel
 * split it. The shards' threads.
 */
#include "internal.h"

#define AGAIN_FIRST 1000000ull /* ns: the kernel had no huge page, and is asked again; doubles */
#define AGAIN_LAST  1000000000ull

/*
 * Without the advice a fault leaves a table for small pages behind, in whose place no huge page can
 * go. With it the kernel may join pages that are all here to a huge one, which is split when one of
 * them leaves.
 */
int huge_advice(const struct gvm_range *range)
{
	return range->flags & GVM_ATTACH_HUGE && range->pager->move ? MADV_HUGEPAGE
								    : MADV_NOHUGEPAGE;
}

/* ---- blocks -------------------------------------------------------------------------------- */

/* Most of a block may never be touched. */
static bool has_room(const struct shard *shard)
{
	const struct gvm_pager *pager = shard->pager;

	return budget_holds_all(pager) ||
	       frames_left(shard) >= (int64_t)(frames_budget(pager) / 4 + HUGE_PAGES);
}

/* Can the block of a page come whole? *first: its first page. */
static bool block_of(struct view *view, uint64_t page, uint64_t *first)
{
	uint64_t into, slab = view->slab_pages;

	if (!(view->range->flags & GVM_ATTACH_HUGE) || !view->whole || !view->shard->pager->move)
		return false;
	into = view_addr(view, page) % HUGE_BYTES / PAGE;
	if (into > page || page - into + HUGE_PAGES > view->pages)
		return false;
	*first = page - into;
	if (view->shard->pager->shards > 1 && *first / slab != (*first + HUGE_PAGES - 1) / slab)
		return false;
	for (uint32_t k = 0; k < HUGE_PAGES; k++)
		if (view->table[*first + k]) /* here, on its way, stored, lost, asked to stay */
			return false;
	return true;
}

/* Not while the kernel has none to give: small pages may come ahead then. */
bool huge_awaits(struct view *view, uint64_t page)
{
	uint64_t first;

	return has_room(view->shard) && view->shard->huge_ns == 0 && block_of(view, page, &first);
}

/* ---- the huge page that is moved in --------------------------------------------------------- */

static void give_back(struct shard *shard)
{
	sys_madvise(shard->huge, HUGE_BYTES, MADV_DONTNEED);
	shard->huge_ready = false;
}

/* The kernel has none now, or cannot move it there. */
static void refused(struct shard *shard)
{
	give_back(shard);
	shard->huge_ns = shard->huge_ns ? 2 * shard->huge_ns : AGAIN_FIRST;
	if (shard->huge_ns > AGAIN_LAST)
		shard->huge_ns = AGAIN_LAST;
	shard->huge_at = gvm_now() + shard->huge_ns;
}

static uint32_t count_of(const unsigned char *present)
{
	uint32_t n = 0;

	for (uint32_t k = 0; k < HUGE_PAGES; k++)
		n += present[k] & 1;
	return n;
}

/* Where it is made: aligned. */
static char *area(struct shard *shard)
{
	char *map, *at;

	if (shard->huge)
		return shard->huge;
	map = mem_map(2 * HUGE_BYTES);
	if (!map)
		return NULL;
	at = (char *)(((uintptr_t)map + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES);
	if (at > map)
		sys_munmap(map, (uint64_t)(at - map));
	sys_munmap(at + HUGE_BYTES, (uint64_t)(map + HUGE_BYTES - at));
	sys_madvise(at, HUGE_BYTES, MADV_HUGEPAGE);
	shard->huge = at;
	return at;
}

/* The first touch makes it. Whether it is a huge one is seen by what else is there then. */
static bool make(struct shard *shard)
{
	unsigned char present[HUGE_PAGES] = { 0 };

	if (shard->huge_ready)
		return true;
	if (gvm_now() < shard->huge_at || !area(shard))
		return false;
	__atomic_store_n(shard->huge, 0, __ATOMIC_RELAXED);
	mem_present(shard->huge, HUGE_PAGES, present);
	shard->huge_ready = count_of(present) == HUGE_PAGES;
	if (!shard->huge_ready)
		refused(shard);
	return shard->huge_ready;
}

void huge_prepare(struct shard *shard)
{
	const struct gvm_pager *pager = shard->pager;
	uint64_t attached = __atomic_load_n(&pager->attached, __ATOMIC_RELAXED);

	if (!shard->huge_wanted)
		return;
	shard->huge_wanted = false;
	if (has_room(shard) &&
	    __atomic_load_n(&pager->used, __ATOMIC_RELAXED) + HUGE_PAGES <= attached)
		make(shard);
}

void huge_forget(struct shard *shard)
{
	if (shard->huge)
		give_back(shard);
	shard->huge_wanted = false;
}

/* Returns how many pages have gone over. After a move that did not get to its end those are the
 * ones that are not left: the number that the kernel gives may be too small. */
static uint32_t move_in(struct view *view, uint64_t first)
{
	struct shard *shard = view->shard;
	unsigned char left[HUGE_PAGES] = { 0 };
	uint64_t done;
	int err = mem_move(shard->uffd, view_addr(view, first), (uintptr_t)shard->huge, HUGE_BYTES,
			   &done);

	if (err)
		mem_present(shard->huge, HUGE_PAGES, left);
	for (uint32_t k = 0; k < HUGE_PAGES; k++)
		if (!(left[k] & 1))
			page_set_mapped(view, first + k, PAGE_DIRTY);
	shard->huge_ready = false;
	if (err)
		refused(shard);
	else
		shard->huge_ns = 0;
	return HUGE_PAGES - count_of(left);
}

bool huge_fill(struct view *view, uint64_t page)
{
	struct shard *shard = view->shard;
	uint64_t first;
	uint32_t n;
	bool here;

	if (!has_room(shard) || !block_of(view, page, &first) || !make(shard) ||
	    !frames_reserve(shard, HUGE_PAGES - 1))
		return false;
	n = move_in(view, first);
	here = page_state(view->table[page]) == PAGE_MAPPED;
	frames_release(shard, HUGE_PAGES - n - !here);
	STAT_ADD(shard, zeros_ahead, n - here);
	shard->huge_wanted = n == HUGE_PAGES;
	return here;
}
