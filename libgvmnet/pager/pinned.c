/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Pages that do not let go: pinned by transfers of the kernel's (registered buffers of io_uring,
 * RDMA, VFIO), or locked. They are set aside, out of the order in which pages leave, so that a
 * fault need not look through them to find one that leaves. While there is need some are tried
 * again: few, and each time later, for as long as none lets go; more and more when one has. The
 * shard's thread only, but for the two calls at the end.
 *
 * If they take nearly all of the budget the rest of the program's pages get some beyond it: what is
 * pinned cannot leave, and a program that has but a few pages for all else does nothing but fault.
 *
 * Pages that the caller has asked for to stay (PAGE_HELD) are set aside likewise.
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

/* ---- held by the caller --------------------------------------------------------------------- */

/* a: from, b: to, in pages */
static void mark(struct call *call, bool held)
{
	struct view *view = &call->shard->views[call->range->id];
	uint64_t page = call->a, until;

	while ((page = view_stretch(view, page, call->b, &until)) < call->b) {
		for (; page < until; page++) {
			page_word *w = &view->table[page];

			if (held && page_state(*w) != PAGE_GONE)
				*w |= PAGE_HELD;
			else
				*w &= ~(page_word)PAGE_HELD;
		}
	}
	call_done(call, 0);
}

static void call_hold(struct call *call)
{
	mark(call, true);
}

static void call_let_go(struct call *call)
{
	mark(call, false);
}

static int tell_shards(struct gvm_range *range, void (*fn)(struct call *call), uint64_t offset,
		       uint64_t bytes)
{
	struct gvm_pager *pager = range->pager;

	if (offset % PAGE || bytes % PAGE || offset > range->bytes || bytes > range->bytes - offset)
		return -EINVAL;
	pthread_mutex_lock(&pager->control);
	pager_call_all(pager, fn, range, offset / PAGE, (offset + bytes) / PAGE);
	pthread_mutex_unlock(&pager->control);
	return 0;
}

int gvm_pager_hold(struct gvm_range *range, uint64_t offset, uint64_t bytes)
{
	return tell_shards(range, call_hold, offset, bytes);
}

int gvm_pager_let_go(struct gvm_range *range, uint64_t offset, uint64_t bytes)
{
	return tell_shards(range, call_let_go, offset, bytes);
}
