/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Timers of one worker: a binary heap of pointers, ordered by time; each timer knows its place, so
 * that it can be moved and taken out. Used by the worker's thread only.
 *
 * Core's own timers (of peers) must not fail to be set, so places for them are reserved when the
 * peer is made, and growth for anybody else's leaves those places free.
 */
#include <errno.h>
#include <stdlib.h>
#include "core/core.h"

static void put(struct gvm_timers *timers, size_t at, struct gvm_timer *timer)
{
	timers->heap[at] = timer;
	timer->place = (uint32_t)at + 1;
}

static void sift_up(struct gvm_timers *timers, size_t at, struct gvm_timer *timer)
{
	while (at > 0) {
		size_t parent = (at - 1) / 2;

		if (timers->heap[parent]->when <= timer->when)
			break;
		put(timers, at, timers->heap[parent]);
		at = parent;
	}
	put(timers, at, timer);
}

static void sift_down(struct gvm_timers *timers, size_t at, struct gvm_timer *timer)
{
	for (;;) {
		size_t child = 2 * at + 1;

		if (child >= timers->count)
			break;
		if (child + 1 < timers->count &&
		    timers->heap[child + 1]->when < timers->heap[child]->when)
			child++;
		if (timer->when <= timers->heap[child]->when)
			break;
		put(timers, at, timers->heap[child]);
		at = child;
	}
	put(timers, at, timer);
}

static void settle(struct gvm_timers *timers, size_t at, struct gvm_timer *timer)
{
	if (at > 0 && timer->when < timers->heap[(at - 1) / 2]->when)
		sift_up(timers, at, timer);
	else
		sift_down(timers, at, timer);
}

static int make_room(struct gvm_timers *timers, size_t need)
{
	size_t room = timers->room ? timers->room : 16;
	struct gvm_timer **heap;

	if (need <= timers->room)
		return 0;
	if (need >= UINT32_MAX)
		return -ENOMEM;
	while (room < need)
		room *= 2;
	heap = realloc(timers->heap, room * sizeof(*heap));
	if (!heap)
		return -ENOMEM;
	timers->heap = heap;
	timers->room = room;
	return 0;
}

int gvm_timers_reserve(struct gvm_timers *timers, size_t more)
{
	int err = make_room(timers, timers->count + timers->reserved + more);

	if (!err)
		timers->reserved += more;
	return err;
}

void gvm_timers_release(struct gvm_timers *timers, size_t fewer)
{
	timers->reserved -= fewer;
}

void gvm_timers_set_reserved(struct gvm_timers *timers, struct gvm_timer *timer, uint64_t when)
{
	timer->when = when;
	if (timer->place)
		settle(timers, timer->place - 1, timer);
	else
		sift_up(timers, timers->count++, timer);
}

int gvm_timers_set(struct gvm_timers *timers, struct gvm_timer *timer, uint64_t when)
{
	int err = 0;

	if (!timer->place)
		err = make_room(timers, timers->count + timers->reserved + 1);
	if (!err)
		gvm_timers_set_reserved(timers, timer, when);
	return err;
}

void gvm_timers_clear(struct gvm_timers *timers, struct gvm_timer *timer)
{
	struct gvm_timer *last;
	size_t at = timer->place;

	if (at-- == 0)
		return;
	timer->place = 0;
	last = timers->heap[--timers->count];
	if (last != timer)
		settle(timers, at, last);
}

int gvm_timers_run(struct gvm_timers *timers, uint64_t now)
{
	size_t most = timers->count;
	int ran = 0;

	while (most-- > 0 && timers->count && timers->heap[0]->when <= now) {
		struct gvm_timer *timer = timers->heap[0];

		gvm_timers_clear(timers, timer);
		timer->fn(timer);
		ran++;
	}
	return ran;
}

void gvm_timers_fini(struct gvm_timers *timers)
{
	size_t i;

	for (i = 0; i < timers->count; i++)
		timers->heap[i]->place = 0;
	free(timers->heap);
	*timers = (struct gvm_timers){ 0 };
}
