/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fetching ahead of a program: a tracker per slab (trend.h) says where its faults are heading; this
 * file turns that into fetches, after the demanded pages have been asked for. The shard's thread.
 *
 * The pages of a window go into the mapping as they arrive, so that touching them costs nothing.
 * One in the middle, the marker, is left out: its first touch faults, and asks for the next window
 * while the program still has half of this one.
 */
#include "internal.h"

static struct tracker *tracker_of(struct view *view, uint64_t page)
{
	uint32_t slab = (uint32_t)(page / view->slab_pages);
	uint32_t hash = (view->id * 2654435761u) ^ (slab * 40503u);

	return &view->shard->trackers[(hash ^ hash >> 8) % TRACKERS];
}

static bool follows(const struct tracker *tracker, const struct view *view, uint64_t page)
{
	return tracker->used && tracker->range == view->id &&
	       tracker->slab == page / view->slab_pages;
}

bool prefetch_is_marker(struct view *view, uint64_t page)
{
	struct tracker *tracker = tracker_of(view, page);

	return follows(tracker, view, page) && tracker->trend.marker == page;
}

void prefetch_forget(struct shard *shard, uint32_t range)
{
	for (uint32_t i = 0; i < TRACKERS; i++)
		if (shard->trackers[i].range == range)
			shard->trackers[i].used = 0;
}

/* Pages that the program has passed without a fault were here because of the window: they count as
 * used. Only a stretch as long as the window is looked at. */
static void count_used(struct view *view, const struct gvm_trend *trend, uint64_t page)
{
	int64_t first = (int64_t)(page / view->slab_pages * view->slab_pages);

	for (uint32_t k = 1; k <= 2 * trend->depth; k++) {
		int64_t p = (int64_t)page - (int64_t)k * trend->stride;

		if (p < first || (uint64_t)p >= view->pages ||
		    (uint64_t)p / view->slab_pages != page / view->slab_pages)
			break;
		if (!(view->table[p] & PAGE_AHEAD) || page_state(view->table[p]) == PAGE_FETCHING)
			continue;
		view->table[p] &= ~(page_word)PAGE_AHEAD;
		STAT_ADD(view->shard, prefetch_used, 1);
	}
}

/* A fault came to page. What it asks for is posted by prefetch_run, after all demands. */
void prefetch_note(struct view *view, uint64_t page)
{
	struct shard *shard = view->shard;
	struct tracker *tracker = tracker_of(view, page);
	uint32_t most = __atomic_load_n(&shard->pager->prefetch, __ATOMIC_RELAXED);
	struct ahead *ahead;

	if (most == 0)
		return;
	if (!follows(tracker, view, page)) {
		memset(tracker, 0, sizeof(*tracker));
		tracker->used = 1;
		tracker->range = view->id;
		tracker->slab = (uint32_t)(page / view->slab_pages);
		tracker->trend.marker = GVM_TREND_NONE;
	}
	if (tracker->trend.stride)
		count_used(view, &tracker->trend, page);
	if (shard->ahead_count == sizeof(shard->ahead_queue) / sizeof(shard->ahead_queue[0]))
		return;
	ahead = &shard->ahead_queue[shard->ahead_count];
	if (!gvm_trend_fault(&tracker->trend, (uint32_t)page, most, &ahead->from, &ahead->count,
			     &ahead->stride)) {
		if (shard->ahead_room)
			shard->ahead_room--;
		return;
	}
	ahead->view = view;
	ahead->tracker = tracker;
	shard->ahead_count++;
}

/* ---- windows ------------------------------------------------------------------------------- */

/*
 * A stream needs room for the window that is under way and for the one after it, or each window
 * would be as small as what eviction happens to have freed. It is asked for by windows, and given
 * up by faults that are no stream's.
 */
static void ask_room(struct shard *shard, uint32_t count)
{
	if (shard->ahead_room < 2 * count)
		shard->ahead_room = 2 * count;
}

uint32_t prefetch_room(const struct shard *shard, uint64_t budget)
{
	return shard->ahead_room < budget / 16 ? shard->ahead_room : (uint32_t)(budget / 16);
}

/* Never-stored pages need nobody's word: zeros, at once. Returns how many were put there. */
static uint32_t zeros_ahead(struct view *view, uint64_t page, uint32_t count)
{
	struct shard *shard = view->shard;
	uint64_t done, addr = view_addr(view, page);
	uint32_t n;

	if (!addr || !view->whole)
		return 0;
	mem_zero(shard->uffd, addr, (uint64_t)count * PAGE, &done);
	n = (uint32_t)(done / PAGE);
	for (uint32_t k = 0; k < n; k++)
		page_set_mapped(view, page + k,
				(view->table[page + k] & PAGE_KEEP) | PAGE_DIRTY | PAGE_AHEAD);
	STAT_ADD(shard, prefetched_pages, n);
	return n;
}

static bool absent(const struct view *view, uint64_t page, bool stored)
{
	page_word w = view->table[page];

	return page_state(w) == PAGE_NONE && !(w & PAGE_LOST) && !!(w & PAGE_STORED) == stored;
}

/* How many of the pages from at on can be asked for in one piece. */
static uint32_t run_of(struct view *view, uint64_t at, uint32_t most, int64_t step, uint32_t marker)
{
	bool stored = absent(view, at, true);
	uint32_t n = 0;

	/* the one place that is left for single pages is for the nearest */
	if (stored && view->shard->ahead_free == GVM_NIL)
		most = 1;
	if (most > RUN_MAX)
		most = RUN_MAX;
	while (n < most && absent(view, at + (uint64_t)(n * step), stored) &&
	       (stored || at + (uint64_t)(n * step) != marker))
		n++;
	return n;
}

/* Post count neighbours, the nearest, page, first. Returns how many there was room for. */
static uint32_t post_stretch(struct view *view, uint64_t page, uint32_t count, int64_t step,
			     uint32_t marker)
{
	struct shard *shard = view->shard;
	uint32_t i = 0;

	while (i < count) {
		uint64_t at = page + (uint64_t)(i * step), first;
		uint32_t n = run_of(view, at, count - i, step, marker), got;

		if (n == 0) { /* here already */
			i++;
			continue;
		}
		if (!frames_reserve(shard, n))
			break;
		first = step < 0 ? at - (n - 1) : at;
		got = absent(view, at, true) ? fetch_ahead(view, first, n)
					     : zeros_ahead(view, first, n);
		frames_release(shard, n - got);
		if (got == 0)
			break;
		i += got;
	}
	return i;
}

static uint32_t post_pages(const struct ahead *ahead, uint32_t count, uint32_t marker)
{
	int64_t page = ahead->from;
	uint32_t i = 0;

	if (ahead->stride == 1 || ahead->stride == -1)
		return post_stretch(ahead->view, (uint64_t)page, count, ahead->stride, marker);
	while (i < count && post_stretch(ahead->view, (uint64_t)(page + (int64_t)i * ahead->stride),
					 1, 1, marker))
		i++;
	return i;
}

/* How many pages can be asked for now; more would be taken for asked for, and be missed. */
static uint32_t places(const struct shard *shard, int32_t stride)
{
	uint32_t n = 0;

	if (stride != 1 && stride != -1)
		return shard->fetching < DEMANDS / 2 ? DEMANDS / 2 - shard->fetching : 0;
	for (uint32_t i = shard->ahead_free; i != GVM_NIL; i = shard->fetches[i].next_free)
		n += RUN_MAX;
	return n;
}

static void post_window(struct shard *shard, const struct ahead *ahead)
{
	const struct view *view = ahead->view;
	struct gvm_trend *trend = &ahead->tracker->trend;
	uint64_t slab_first = (uint64_t)ahead->tracker->slab * view->slab_pages;
	uint64_t slab_end = slab_first + view->slab_pages;
	uint64_t budget = __atomic_load_n(&shard->pager->budget, __ATOMIC_RELAXED);
	int64_t page = ahead->from, room;
	uint32_t count = ahead->count, posted = 0, marker;

	ask_room(shard, ahead->count);
	/* room that faults may need is not taken, nor more than a small part of all there is */
	room = frames_left(shard) - gvm_policy_low(budget) / 4;
	if (room > (int64_t)(budget / 8))
		room = (int64_t)(budget / 8);
	if (slab_end > view->pages)
		slab_end = view->pages;
	if (room > places(shard, ahead->stride))
		room = places(shard, ahead->stride);
	if (count > room)
		count = room > 0 ? (uint32_t)room : 0;
	while (posted < count && page + (int64_t)posted * ahead->stride >= (int64_t)slab_first &&
	       page + (int64_t)posted * ahead->stride < (int64_t)slab_end)
		posted++;
	count = posted;
	marker = (uint32_t)(page + (int64_t)(count / 2) * ahead->stride);
	gvm_trend_posted(trend, (uint32_t)(page + (int64_t)count * ahead->stride), marker);
	posted = post_pages(ahead, count, marker);
	if (posted == 0) {
		trend->stride = 0;
		trend->marker = GVM_TREND_NONE;
	} else if (posted < count) {
		marker = (uint32_t)(page + (int64_t)(posted / 2) * ahead->stride);
		gvm_trend_posted(trend, (uint32_t)(page + (int64_t)posted * ahead->stride), marker);
	}
}

void prefetch_run(struct shard *shard)
{
	for (uint32_t i = 0; i < shard->ahead_count; i++) {
		const struct ahead *ahead = &shard->ahead_queue[i];

		if (ahead->view->used && !ahead->view->closing &&
		    ahead->tracker->slab == ahead->from / ahead->view->slab_pages &&
		    ahead->tracker->range == ahead->view->id && ahead->tracker->trend.stride)
			post_window(shard, ahead);
		else if (ahead->tracker->trend.stride)
			ahead->tracker->trend.stride = 0;
	}
	shard->ahead_count = 0;
}
