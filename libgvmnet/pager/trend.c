/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The majority trend of recent faults; see trend.h. */
#include "trend.h"

static int32_t recent(const struct gvm_trend *trend, uint32_t back)
{
	return trend->delta[(trend->count - 1 - back) % GVM_TREND_HISTORY];
}

/* Boyer and Moore's vote over the newest n deltas, then a count that it is a majority indeed. */
static int32_t majority(const struct gvm_trend *trend, uint32_t n)
{
	int32_t candidate = 0;
	uint32_t votes = 0, seen = 0;

	for (uint32_t i = 0; i < n; i++) {
		if (votes == 0)
			candidate = recent(trend, i);
		votes += recent(trend, i) == candidate ? 1 : UINT32_MAX;
	}
	for (uint32_t i = 0; i < n; i++)
		seen += recent(trend, i) == candidate;
	return seen > n / 2 ? candidate : 0;
}

int32_t gvm_trend_find(const struct gvm_trend *trend)
{
	uint32_t have = trend->count < GVM_TREND_HISTORY ? trend->count : GVM_TREND_HISTORY;

	for (uint32_t n = GVM_TREND_HISTORY / GVM_TREND_SPLIT; n <= have; n *= 2) {
		int32_t stride = majority(trend, n);

		if (stride != 0)
			return stride;
	}
	return 0;
}

/* Is page one that the window that is out covers, so that its fetch was a good guess, or the very
 * next one, which a window that was cut short has left out? */
static int foreseen(const struct gvm_trend *trend, uint32_t page)
{
	int64_t off = (int64_t)trend->next - page;

	if (trend->stride == 0 || off % trend->stride != 0)
		return 0;
	off /= trend->stride;
	return off >= 0 && off <= 2 * (int64_t)trend->depth;
}

static void remember(struct gvm_trend *trend, uint32_t page)
{
	int64_t delta = (int64_t)page - trend->last;

	if (trend->started && delta != 0)
		trend->delta[trend->count++ % GVM_TREND_HISTORY] =
		    delta > INT32_MAX || delta < INT32_MIN ? 0 : (int32_t)delta;
	trend->last = page;
	trend->started = 1;
}

/* The largest window that what became of the last ones allows; 0: none now. */
static uint32_t allowed(struct gvm_trend *trend, unsigned depth_max)
{
	uint32_t least = depth_max < GVM_TREND_LEAST ? depth_max : GVM_TREND_LEAST;

	trend->levels = 0;
	for (uint32_t d = depth_max; d >= least && d; d /= 2)
		trend->levels++;
	if (trend->shrunk < trend->levels)
		return depth_max >> trend->shrunk;
	if (++trend->left_out < GVM_TREND_PROBE << (trend->shrunk - trend->levels))
		return 0;
	trend->left_out = 0;
	return least;
}

/* Less is tried where more is in vain than is used; none at all only where the faults that are
 * spared cost less than what is brought in vain. */
static int too_much(const struct gvm_trend *trend)
{
	uint32_t worth = trend->shrunk + 1 < trend->levels ? 1 : GVM_TREND_WORTH;

	return trend->wasted > worth * trend->used &&
	       trend->shrunk < trend->levels + GVM_TREND_PROBES;
}

void gvm_trend_outcome(struct gvm_trend *trend, int used)
{
	int probing = trend->shrunk >= trend->levels;

	if (used)
		trend->used++;
	else
		trend->wasted++;
	if (trend->used + trend->wasted < (probing ? GVM_TREND_LEAST : GVM_TREND_JUDGED))
		return;
	if (too_much(trend))
		trend->shrunk++;
	else if (probing && trend->levels)
		trend->shrunk = trend->levels - 1;
	else if (trend->used >= GVM_TREND_WORTH * trend->wasted && trend->shrunk)
		trend->shrunk--;
	trend->used = trend->wasted = 0;
}

static void forget(struct gvm_trend *trend)
{
	trend->stride = 0;
	trend->marker = GVM_TREND_NONE;
}

/*
 * The stream has reached the window that is out. The pages that it passed over without a fault
 * were there because of the window, so the trend holds though the delta is not the stride.
 */
static int follow(struct gvm_trend *trend, uint32_t page, unsigned depth_max, uint32_t *from,
		  uint32_t *count, int32_t *stride)
{
	int64_t left = ((int64_t)trend->next - page) / trend->stride;

	trend->last = page;
	trend->hits++;
	if (page != trend->marker && left > (int64_t)trend->depth / 2)
		return 0;
	depth_max = allowed(trend, depth_max);
	if (depth_max == 0) {
		forget(trend);
		return 0;
	}
	trend->depth = trend->depth * 2 > depth_max ? depth_max : trend->depth * 2;
	*from = trend->next;
	*count = trend->depth;
	*stride = trend->stride;
	return 1;
}

/* A fault beside the trend: noise is borne, but not more of it than of what was foreseen. */
static void miss(struct gvm_trend *trend)
{
	if (++trend->misses <= trend->hits + GVM_TREND_PATIENCE)
		return;
	trend->depth /= 2;
	trend->hits = trend->misses = 0;
	forget(trend);
}

int gvm_trend_fault(struct gvm_trend *trend, uint32_t page, unsigned depth_max, uint32_t *from,
		    uint32_t *count, int32_t *stride)
{
	int32_t found;

	if (depth_max == 0)
		return 0;
	if (foreseen(trend, page))
		return follow(trend, page, depth_max, from, count, stride);
	remember(trend, page);
	found = gvm_trend_find(trend);
	if (found == 0 || recent(trend, 0) != found || (int64_t)page + found < 0) {
		miss(trend);
		return 0;
	}
	depth_max = allowed(trend, depth_max);
	if (depth_max == 0) {
		forget(trend);
		return 0;
	}
	/* what was guessed before was wrong, or is used up */
	trend->depth = trend->hits ? trend->depth : trend->depth / 2;
	if (trend->depth < GVM_TREND_LEAST)
		trend->depth = GVM_TREND_LEAST;
	if (trend->depth > depth_max)
		trend->depth = depth_max;
	trend->hits = trend->misses = 0;
	trend->marker = GVM_TREND_NONE;
	*from = (uint32_t)((int64_t)page + found);
	*count = trend->depth;
	*stride = trend->stride = found;
	return 1;
}

void gvm_trend_posted(struct gvm_trend *trend, uint32_t next, uint32_t marker)
{
	trend->next = next;
	trend->marker = marker;
}
