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

#define GATHER (RUN_MAX / 2) /* frames that a stream that stands waits for */

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

/* A page that was brought ahead has been used, or leaves unused. Where it was fetched it counts;
 * the trend learns of both. */
void prefetch_outcome(struct view *view, uint64_t page, bool used)
{
	struct tracker *tracker = tracker_of(view, page);

	if (follows(tracker, view, page))
		gvm_trend_outcome(&tracker->trend, used);
	if (!(view->table[page] & PAGE_STORED))
		return;
	if (used)
		STAT_ADD(view->shard, prefetch_used, 1);
	else
		STAT_ADD(view->shard, prefetch_wasted, 1);
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
		prefetch_outcome(view, (uint64_t)p, true);
		view->table[p] &= ~(page_word)PAGE_AHEAD;
	}
}

/* Where the next window of a stream is queued: it takes the place of one that still waits. */
static struct ahead *place_of(struct shard *shard, const struct tracker *tracker)
{
	uint32_t i = 0;

	while (i < shard->ahead_count && shard->ahead_queue[i].tracker != tracker)
		i++;
	return i < sizeof(shard->ahead_queue) / sizeof(shard->ahead_queue[0])
		   ? &shard->ahead_queue[i]
		   : NULL;
}

/*
 * A fault came to page; if the stream stands there, it was not fetched ahead. What it asks for is
 * posted by prefetch_run, after all demands.
 */
void prefetch_note(struct view *view, uint64_t page, bool stands, bool write)
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
	tracker->writes = write;
	if (tracker->trend.stride)
		count_used(view, &tracker->trend, page);
	ahead = place_of(shard, tracker);
	if (!ahead)
		return;
	if (!gvm_trend_fault(&tracker->trend, (uint32_t)page, most, &ahead->from, &ahead->count,
			     &ahead->stride)) {
		if (shard->ahead_room)
			shard->ahead_room--;
		return;
	}
	ahead->view = view;
	ahead->tracker = tracker;
	ahead->stands = stands;
	ahead->here = ahead->from == page;
	if (ahead == &shard->ahead_queue[shard->ahead_count])
		shard->ahead_count++;
}

/*
 * Shall the fault of a stream that stands wait though there is a frame for it? The helper takes
 * pages that are not neighbours one by one. If the stream took each frame that comes so it would
 * fetch page by page and never have a window again; so it waits for a part of one to come together.
 * That is bounded by pages taken, whoever gets their frames.
 */
bool prefetch_gathers(struct view *view, uint64_t page)
{
	struct shard *shard = view->shard;
	struct tracker *tracker = tracker_of(view, page);

	if (!shard->taking || shard->populating || !shard->evicting ||
	    frames_left(shard) >= GATHER || !follows(tracker, view, page) ||
	    !tracker->trend.stride || tracker->trend.next != page)
		return false;
	if (!tracker->gathers || tracker->stands_at != page) {
		tracker->gathers = true;
		tracker->stands_at = (uint32_t)page;
		tracker->taken_before = shard->taken;
	}
	return shard->taken - tracker->taken_before < GATHER;
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
	/* what is about to be written would fault once more, in the kernel, if the shared page of
	 * zeros were put there */
	if (tracker_of(view, page)->writes && view->anon)
		mem_copy(shard->uffd, addr, shard->zero, (uint64_t)count * PAGE, false, &done);
	else
		mem_zero(shard->uffd, addr, (uint64_t)count * PAGE, &done);
	n = (uint32_t)(done / PAGE);
	for (uint32_t k = 0; k < n; k++)
		page_set_mapped(view, page + k,
				(view->table[page + k] & PAGE_KEEP) | PAGE_DIRTY | PAGE_AHEAD);
	STAT_ADD(shard, zeros_ahead, n);
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

/* How many pages there are from page to the end of what a huge page would cover, where there may be
 * any. */
static uint32_t to_block_end(struct view *view, uint64_t page, int64_t step)
{
	uint32_t into;

	if (!(view->range->flags & GVM_ATTACH_HUGE) || !view->whole)
		return UINT32_MAX;
	into = (uint32_t)(view_addr(view, page) % HUGE_BYTES / PAGE);
	return step < 0 ? into + 1 : HUGE_PAGES - into;
}

/* How many of the pages from at on come before the marker. */
static uint32_t until(uint64_t at, uint32_t marker, uint32_t most, int64_t step)
{
	int64_t n = ((int64_t)marker - (int64_t)at) * step;

	return n > 0 && n < most ? (uint32_t)n : most;
}

/* Post count neighbours, the nearest, page, first. Returns how many there was room for. */
static uint32_t post_stretch(struct view *view, uint64_t page, uint32_t count, int64_t step,
			     uint32_t marker)
{
	struct shard *shard = view->shard;
	uint32_t i = 0;

	while (i < count) {
		uint64_t at = page + (uint64_t)(i * step), first;
		uint32_t rest = count - i, block = to_block_end(view, at, step), n, got;

		if (huge_awaits(view, at)) { /* left to its first touch */
			i += block < rest ? block : rest;
			continue;
		}
		n = run_of(view, at, block < rest ? block : rest, step, marker);
		if (n == 0) { /* here already, if perhaps among the victims */
			n = at == marker
				? 0
				: victims_back(view, at, until(at, marker, rest, step), step);
			i += n ? n : 1;
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

/*
 * How many pages of a window there is room for now. Room that faults may need is not taken (but by
 * a stream that stands: its next faults would take it page by page), nor more than a small part of
 * all there is.
 */
static uint32_t room_for(const struct shard *shard, const struct ahead *ahead)
{
	uint64_t budget = frames_budget(shard->pager);
	int64_t room = frames_left(shard) - (ahead->stands ? 0 : gvm_policy_low(budget) / 4);

	if (room > (int64_t)(budget / 8))
		room = (int64_t)(budget / 8);
	if (room > places(shard, ahead->stride))
		room = places(shard, ahead->stride);
	return room > 0 ? (uint32_t)room : 0;
}

/* How much of a window lies in its slab. */
static uint32_t in_slab(const struct ahead *ahead)
{
	const struct view *view = ahead->view;
	int64_t first = (int64_t)ahead->tracker->slab * view->slab_pages, page = ahead->from;
	int64_t last = first + view->slab_pages - 1, way;
	uint32_t step = (uint32_t)(ahead->stride < 0 ? -(int64_t)ahead->stride : ahead->stride);

	if (last >= (int64_t)view->pages)
		last = (int64_t)view->pages - 1;
	if (page < first || page > last || step == 0)
		return 0;
	way = ahead->stride < 0 ? page - first : last - page;
	return way / step + 1 < ahead->count ? (uint32_t)(way / step + 1) : ahead->count;
}

/*
 * False: there is no room for the better part of it, but there will be, so it has to wait. A window
 * of the few pages that there is room for would be passed before there is room for the next.
 * A stream that stands takes what there is: if that is nothing it stays a stream, and stands again
 * at the next page.
 */
static bool post_window(struct shard *shard, const struct ahead *ahead, bool patient)
{
	struct gvm_trend *trend = &ahead->tracker->trend;
	int64_t page = ahead->from;
	uint32_t room, count = in_slab(ahead), posted, marker;

	ask_room(shard, ahead->count);
	room = room_for(shard, ahead);
	if (patient && !ahead->stands && room < count - count / 2)
		return false;
	if (ahead->here)
		room++;
	if (count && room == 0) {
		gvm_trend_posted(trend, ahead->from, GVM_TREND_NONE);
		return true;
	}
	if (count > room)
		count = room;
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
	return true;
}

/* Does the stream still go where it went when the window was asked for? */
static bool holds(const struct ahead *ahead)
{
	const struct tracker *tracker = ahead->tracker;

	return ahead->view->used && !ahead->view->closing && tracker->trend.stride &&
	       follows(tracker, ahead->view, ahead->from);
}

/* patient: windows may wait for room that is being made */
void prefetch_run(struct shard *shard, bool patient)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < shard->ahead_count; i++) {
		const struct ahead *ahead = &shard->ahead_queue[i];

		if (!holds(ahead))
			ahead->tracker->trend.stride = 0;
		else if (!post_window(shard, ahead, patient))
			shard->ahead_queue[kept++] = *ahead;
	}
	shard->ahead_count = kept;
}
