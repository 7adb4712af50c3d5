/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Contents that are not wanted any more, and mappings that go or move: what the kernel's events
 * say, and the word to the region. The shard's thread only.
 *
 * An event comes before the deed: when the shard has read it, the program goes on and empties its
 * mapping a moment later. So a page that is mapped is only marked REMOVED, and looked at again
 * (mincore) until it has gone; until then it is not taken, for what would be taken may be the old
 * contents. A page that stays was not emptied (MADV_FREE, or shared memory, whose contents outlive
 * the mapping): what is in it counts.
 */
#include <sys/mman.h>
#include "internal.h"

#define RECHECK_FIRST_NS 5000000ull
#define RECHECK_LAST_NS  2000000000ull

/* ---- looking again ------------------------------------------------------------------------- */

void recheck_add(struct shard *shard, uint32_t range, uint64_t page, uint64_t pages)
{
	uint32_t n = shard->recheck_count;
	struct recheck *last = &shard->rechecks[n ? n - 1 : 0];

	if (n > 0 && (shard->recheck_count == RECHECKS ||
		      (last->range == range && last->page + last->pages == page))) {
		/* joined; where there is no room for another: all of the range is looked at */
		if (last->range == range && last->page + last->pages == page) {
			last->pages += pages;
		} else {
			last->range = RANGES_MAX;
		}
		last->since_ns = gvm_now();
	} else {
		shard->rechecks[shard->recheck_count++] = (struct recheck){
			.range = range, .page = page, .pages = pages, .since_ns = gvm_now()
		};
	}
	if (shard->recheck_timer.place == 0)
		gvm_timer_set(shard->worker, &shard->recheck_timer, gvm_now() + RECHECK_FIRST_NS);
}

static uint64_t same_run(struct view *view, uint64_t page, uint64_t end)
{
	uint64_t n = 1, addr = view_addr(view, page);

	while (page + n < end && n < 256 && (view->table[page + n] & PAGE_REMOVED) &&
	       page_state(view->table[page + n]) == PAGE_MAPPED && view_owns(view, page + n) &&
	       view_addr(view, page + n) == addr + n * PAGE)
		n++;
	return n;
}

/* Returns how many pages are still to be looked at. */
static uint64_t recheck_pages(struct view *view, uint64_t page, uint64_t end, bool last_time)
{
	unsigned char present[256];
	uint64_t left = 0, until;

	if (end > view->pages)
		end = view->pages;
	while ((page = view_stretch(view, page, end, &until)) < end) {
		while (page < until) {
			page_word w = view->table[page];
			uint64_t addr = view_addr(view, page), n;

			if (!(w & PAGE_REMOVED) || page_state(w) != PAGE_MAPPED || !addr) {
				page++;
				continue;
			}
			n = same_run(view, page, until);
			if (mincore((void *)addr, n * PAGE, present) < 0)
				memset(present, 1, sizeof(present));
			for (uint64_t k = 0; k < n; k++, page++) {
				if (!(present[k] & 1))
					page_discard(view, page, PAGE_NONE);
				else if (last_time)
					view->table[page] &= ~(page_word)PAGE_REMOVED;
				else
					left++;
			}
		}
	}
	return left;
}

static uint64_t recheck_one(struct shard *shard, const struct recheck *r, bool last_time)
{
	uint64_t left = 0;

	if (r->range < RANGES_MAX)
		return shard->views[r->range].used ? recheck_pages(&shard->views[r->range], r->page,
								   r->page + r->pages, last_time)
						   : 0;
	for (uint32_t id = 0; id < shard->pager->range_next; id++)
		if (shard->views[id].used)
			left +=
			    recheck_pages(&shard->views[id], 0, shard->views[id].pages, last_time);
	return left;
}

void shard_recheck(struct shard *shard, bool final)
{
	uint64_t now = gvm_now(), oldest = now;
	uint32_t kept = 0;

	for (uint32_t i = 0; i < shard->recheck_count; i++) {
		struct recheck r = shard->rechecks[i];
		bool last_time = final || now - r.since_ns > RECHECK_LAST_NS;

		if (recheck_one(shard, &r, last_time) == 0)
			continue;
		if (r.since_ns < oldest)
			oldest = r.since_ns;
		shard->rechecks[kept++] = r;
	}
	shard->recheck_count = kept;
	if (kept)
		gvm_timer_set(shard->worker, &shard->recheck_timer,
			      now + RECHECK_FIRST_NS + (now - oldest));
}

void recheck_timer(struct gvm_timer *timer)
{
	shard_recheck((struct shard *)((char *)timer - offsetof(struct shard, recheck_timer)),
		      false);
}

/* ---- events -------------------------------------------------------------------------------- */

/*
 * The helper's own emptying comes after its copying and is announced once for each page, in one
 * event or, where the kernel has several mappings, in several, none of which reaches beyond the
 * job. Anything else, and anything the second time, is a discard by the program.
 */
static void remove_taking(struct view *view, uint64_t page, uint64_t start, uint64_t end)
{
	page_word w = view->table[page];
	const struct job *job = &view->shard->jobs[page_index(w)];

	if (start >= job->addr && end <= job->addr + job->count * (uint64_t)PAGE &&
	    !(w & PAGE_EVENT) && __atomic_load_n(&job->copied, __ATOMIC_SEQ_CST)) {
		view->table[page] = w | PAGE_EVENT;
		return;
	}
	if (w & PAGE_STORED)
		w = page_unstore(view, page, w);
	view->table[page] = w | PAGE_REMOVED;
}

static void remove_fetching(struct view *view, uint64_t page)
{
	page_word w = view->table[page];

	page_discard(view, page, PAGE_NONE);
	/* it has its answer now: zeros */
	if (w & PAGE_WANTED)
		shard_queue_fault(view->shard, view_addr(view, page),
				  w & PAGE_WANTED_W ? UFFD_PAGEFAULT_FLAG_WRITE : 0, gvm_now());
}

static void remove_mapped(struct view *view, uint64_t page)
{
	page_word w = view->table[page];

	/* of shared memory only the mapping may be meant: the contents decide, see recheck */
	if (view->anon && (w & PAGE_STORED))
		w = page_unstore(view, page, w);
	view->table[page] = (w | PAGE_REMOVED | PAGE_DIRTY) & ~(page_word)PAGE_AHEAD;
}

/* Returns whether it must be looked at again. */
static bool remove_page(struct view *view, uint64_t page, uint64_t start, uint64_t end, bool all)
{
	switch (page_state(view->table[page])) {
	case PAGE_MAPPED:
		remove_mapped(view, page);
		return true;
	case PAGE_TAKING:
		remove_taking(view, page, start, end);
		return false;
	case PAGE_FETCHING:
		if (all)
			remove_fetching(view, page);
		return false;
	case PAGE_POISONED:
		/* our own emptying of it, to heal it, or the program's: it is missing afterwards */
		if (view->shard->pager->poison && !(view->table[page] & PAGE_BUSY))
			page_discard(view, page, PAGE_NONE);
		return false;
	case PAGE_NONE:
	case PAGE_VICTIM:
		if (all)
			page_discard(view, page, PAGE_NONE);
		return false;
	default:
		return false;
	}
}

static void remove_pages(struct view *view, uint64_t page, uint64_t pages, uint64_t start,
			 uint64_t end, bool all)
{
	uint64_t first = GVM_NEVER, last = 0;

	for (uint64_t p = page; p < page + pages; p++) {
		if (view->table[p] == 0 || !remove_page(view, p, start, end, all))
			continue;
		first = first == GVM_NEVER ? p : first;
		last = p + 1;
	}
	if (last)
		recheck_add(view->shard, view->id, first, last - first);
}

/* On demand: pages [from, to) are void, and the caller empties the mapping next. */
void discard_pages(struct view *view, uint64_t from, uint64_t to)
{
	uint64_t until;

	for (; (from = view_stretch(view, from, to, &until)) < to; from = until)
		remove_pages(view, from, until - from, 0, 0, true);
}

/*
 * MADV_DONTNEED, MADV_FREE or MADV_REMOVE of [start, end). For shared memory the first of them
 * keeps the contents and the last does not, and the event does not say which it was: so pages that
 * are not mapped keep theirs; who means to discard shared memory says gvm_pager_discard.
 */
void event_remove(struct shard *shard, uint64_t start, uint64_t end)
{
	uint64_t at = start;

	while (at < end) {
		uint64_t page, until;
		struct view *view = piece_find(shard, at, &page, &until);

		if (!view) {
			at = until;
			continue;
		}
		until = until < end ? until : end;
		remove_pages(view, page, (until - at) / PAGE, start, end, view->anon);
		at = until;
	}
}

static void unmap_pages(struct view *view, uint64_t page, uint64_t start, uint64_t end)
{
	struct shard *shard = view->shard;

	/* a page that the helper has covered, to give SIGBUS, is where it was */
	if (end == start + PAGE && !shard->pager->poison &&
	    page_state(view->table[page]) == PAGE_POISONED)
		return;
	for (uint64_t p = page; p < page + (end - start) / PAGE; p++)
		if (view_owns(view, p))
			page_discard(view, p, PAGE_GONE);
	piece_cut(shard, start, end);
}

void event_unmap(struct shard *shard, uint64_t start, uint64_t end)
{
	uint64_t at = start;

	while (at < end) {
		uint64_t page, until;
		struct view *view = piece_find(shard, at, &page, &until);

		if (!view) {
			at = until;
			continue;
		}
		until = until < end ? until : end;
		unmap_pages(view, page, at, until);
		at = until;
	}
}

static void move_piece(struct shard *shard, uint64_t from, uint64_t to, uint64_t len)
{
	uint64_t at = from;

	while (at < from + len) {
		uint64_t page, until;
		struct view *view = piece_find(shard, at, &page, &until);
		uint32_t id;

		if (!view) {
			at = until;
			continue;
		}
		id = view->id;
		until = until < from + len ? until : from + len;
		piece_cut(shard, at, until);
		piece_add(shard, to + (at - from), page, (until - at) / PAGE, id);
		at = until;
	}
}

void event_remap(struct shard *shard, uint64_t from, uint64_t to, uint64_t len)
{
	if (from != to)
		move_piece(shard, from, to, len);
}

/* ---- the word to the region ---------------------------------------------------------------- */

static void purge_done(struct gvm_region_op *op, int status)
{
	struct purge *purge = (struct purge *)op;
	struct view *view = purge->view;
	struct shard *shard = purge->shard;

	for (uint64_t p = purge->page; p < purge->page + purge->count; p++) {
		view->table[p] &= ~(page_word)PAGE_PURGING;
		/* refused for good (lost, closed): then there is nothing left to purge either */
		view->table[p] &= ~(page_word)PAGE_PURGE;
	}
	shard->purging--;
	view->purging--;
	purge->next_free = shard->purge_free;
	shard->purge_free = (uint32_t)(purge - shard->purges);
	shard->purge_wanted = true;
	if (--view->busy == 0)
		view_idle(view);
}

static bool post_purge(struct view *view, uint64_t page, uint64_t count)
{
	struct shard *shard = view->shard;
	struct purge *purge = &shard->purges[shard->purge_free];

	purge->view = view;
	purge->page = page;
	purge->count = count;
	purge->op.done = purge_done;
	purge->op.deadline_ns = GVM_NEVER;
	if (shard->pager->store->discard(view->region, page, count, &purge->op))
		return false;
	shard->purge_free = purge->next_free;
	shard->purging++;
	view->purging++;
	view->busy++;
	for (uint64_t p = page; p < page + count; p++)
		view->table[p] |= PAGE_PURGING;
	return true;
}

static bool purgeable(const struct view *view, uint64_t page)
{
	return (view->table[page] & (PAGE_PURGE | PAGE_PURGING | PAGE_WRITING)) == PAGE_PURGE;
}

static void purge_view(struct view *view)
{
	struct shard *shard = view->shard;
	uint64_t page = view->purge_lo, end = view->purge_hi, until, low = GVM_NEVER, high = 0;

	while ((page = view_stretch(view, page, end, &until)) < end) {
		while (page < until) {
			uint64_t n = 0;

			while (page + n < until && purgeable(view, page + n))
				n++;
			if (n && shard->purge_free != GVM_NIL && post_purge(view, page, n)) {
				page += n;
				continue;
			}
			n = n ? n : 1;
			if (view->table[page] & PAGE_PURGE) { /* later: told, or being written */
				low = page < low ? page : low;
				high = page + n;
			}
			page += n;
		}
	}
	/* those under way clear themselves; they are looked for once more when they are done */
	view->purge_lo = low == GVM_NEVER ? 0 : low;
	view->purge_hi = low == GVM_NEVER ? 0 : high;
}

void shard_purge(struct shard *shard)
{
	shard->purge_wanted = false;
	for (uint32_t id = 0; id < shard->pager->range_next; id++) {
		struct view *view = &shard->views[id];

		if (view->used && !view->closing && view->purge_lo < view->purge_hi)
			purge_view(view);
	}
	gvm_worker_flush(shard->worker);
}
