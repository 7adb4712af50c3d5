/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Pages that do not let go: pinned by transfers of the kernel's (registered buffers of io_uring,
 * RDMA, VFIO), or locked. They are set aside, out of the order in which pages leave, so that a
 * fault need not look through them to find one that leaves. While there is need some are tried
 * again: few, and each time later, for as long as none lets go; more and more when one has. The
 * shard's thread only.
 *
 * If they take nearly all of the budget the rest of the program's pages get some beyond it: what is
 * pinned cannot leave, and a program that has but a few pages for all else does nothing but fault.
 */
#include "internal.h"

#define TRY_FIRST_NS 2000000ull
#define TRY_LAST_NS  1000000000ull
#define TRY_FEW      16u
#define TRY_MANY     1024u

static uint64_t pinned(const struct gvm_pager *pager)
{
	return __atomic_load_n(&pager->pinned, __ATOMIC_RELAXED);
}

/* What the pages that can leave have at least: an eighth of the budget. */
uint64_t frames_budget(const struct gvm_pager *pager)
{
	uint64_t budget = __atomic_load_n(&pager->budget, __ATOMIC_RELAXED);
	uint64_t least = budget / 8 + pinned(pager);

	return budget > least ? budget : least;
}

/* Once, and again only when they have become twice as many. */
static void tell(const struct view *view)
{
	struct gvm_pager *pager = view->shard->pager;
	uint64_t budget = __atomic_load_n(&pager->budget, __ATOMIC_RELAXED), n = pinned(pager);
	uint64_t told = __atomic_load_n(&pager->pinned_told, __ATOMIC_RELAXED);

	if (n < budget / 4 || n < 2 * told)
		return;
	if (!__atomic_compare_exchange_n(&pager->pinned_told, &told, n, false, __ATOMIC_RELAXED,
					 __ATOMIC_RELAXED))
		return;
	gvm_log(
	    GVM_LOG_WARN,
	    "%.1f MiB of paged memory, of %s among others, are pinned by the kernel or locked and "
	    "cannot leave; %.1f MiB may be here%s",
	    (double)n * PAGE / (1 << 20), view->range->name, (double)budget * PAGE / (1 << 20),
	    n >= budget - budget / 8 ? ": going over the local budget" : "");
}

void frame_unlink(struct shard *shard, uint32_t i)
{
	const struct frame *frame = &shard->frames[i];
	page_word *w = &shard->views[frame->range].table[frame->page];
	bool aside = *w & PAGE_ASIDE;

	gvm_queue_remove(aside ? &shard->aside : &shard->mapped, shard->frames, sizeof(*frame), i);
	if (aside)
		__atomic_sub_fetch(&shard->pager->pinned, 1, __ATOMIC_RELAXED);
	if (*w & PAGE_AGAIN)
		shard->aside_let_go = true;
	*w &= ~(page_word)(PAGE_ASIDE | PAGE_AGAIN);
}

void page_set_aside(struct view *view, uint64_t page)
{
	struct shard *shard = view->shard;
	uint32_t i = page_index(view->table[page]);
	page_word *w = &view->table[page];

	if (*w & PAGE_ASIDE)
		return;
	if (shard->aside.count == 0) {
		shard->aside_ns = TRY_FIRST_NS;
		shard->aside_batch = TRY_FEW;
		shard->aside_at = gvm_now() + TRY_FIRST_NS;
	}
	gvm_queue_remove(&shard->mapped, shard->frames, sizeof(struct frame), i);
	gvm_queue_push(&shard->aside, shard->frames, sizeof(struct frame), i);
	*w = (*w | PAGE_ASIDE) & ~(page_word)PAGE_AGAIN;
	__atomic_add_fetch(&shard->pager->pinned, 1, __ATOMIC_RELAXED);
	tell(view);
	/* the budget may have become larger */
	if (__atomic_load_n(&shard->pager->starving, __ATOMIC_SEQ_CST) & ~(1ull << shard->number))
		shard_poke_others(shard);
}

static void bring_back(struct shard *shard, page_word as)
{
	uint32_t i = shard->aside.tail;
	const struct frame *frame = &shard->frames[i];

	frame_unlink(shard, i);
	shard->views[frame->range].table[frame->page] |= as;
	gvm_queue_push_last(&shard->mapped, shard->frames, sizeof(*frame), i);
}

void shard_try_aside(struct shard *shard)
{
	uint64_t now;

	if (shard->aside.count == 0)
		return;
	now = gvm_now();
	if (now < shard->aside_at)
		return;
	if (shard->aside_let_go) {
		shard->aside_ns = TRY_FIRST_NS;
		shard->aside_batch *= shard->aside_batch < TRY_MANY ? 2 : 1;
	} else {
		shard->aside_ns *= shard->aside_ns < TRY_LAST_NS ? 2 : 1;
		shard->aside_batch = TRY_FEW;
	}
	shard->aside_let_go = false;
	shard->aside_at = now + shard->aside_ns;
	for (uint32_t n = shard->aside_batch; n > 0 && shard->aside.count; n--)
		bring_back(shard, PAGE_AGAIN);
}

void shard_aside_reset(struct shard *shard)
{
	while (shard->aside.count)
		bring_back(shard, 0);
}
