/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The loop provider's links and the frames on them, and the faults that befall them. All of it
 * under the lock, but for gvm_loop_set_faults.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "providers/loop.h"

struct gvm_loop_shared gvm_loop = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.chance = 1,
	.next_port = 49152,
};

/* ---- faults -------------------------------------------------------------------------------- */

/* splitmix64 */
static uint64_t draw(void)
{
	uint64_t z = (gvm_loop.chance += 0x9E3779B97F4A7C15ull);

	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
	return z ^ (z >> 31);
}

int gvm_loop_happens(uint32_t chance)
{
	return chance && (draw() & 0xFFFF) < chance;
}

uint64_t gvm_loop_delay(void)
{
	return gvm_loop_happens(gvm_loop.faults.delay) && gvm_loop.faults.delay_ns
		   ? draw() % gvm_loop.faults.delay_ns + 1
		   : 0;
}

void gvm_loop_set_faults(const struct gvm_loop_faults *f)
{
	pthread_mutex_lock(&gvm_loop.lock);
	gvm_loop.faults = *f;
	gvm_loop.chance = f->seed;
	for (struct gvm_prov *p = gvm_loop.provs; p; p = p->next)
		gvm_loop_wake(p);
	pthread_mutex_unlock(&gvm_loop.lock);
}

/* ---- links and frames ---------------------------------------------------------------------- */

void gvm_loop_wake(struct gvm_prov *prov)
{
	const uint64_t one = 1;

	while (write(prov->wake.fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void gvm_loop_link_put(struct link *link)
{
	if (!--link->refs)
		free(link);
}

void gvm_loop_frame_free(struct frame *f)
{
	gvm_loop_link_put(f->link);
	free(f);
}

struct frame *gvm_loop_frame_new(struct link *link, unsigned to, enum frame_kind kind,
				 uint32_t bytes)
{
	struct frame *f = malloc(sizeof(*f) + bytes);

	if (!f)
		return NULL;
	memset(f, 0, sizeof(*f));
	f->link = link;
	f->to = (uint8_t)to;
	f->kind = (uint8_t)kind;
	link->refs++;
	return f;
}

void gvm_loop_frame_post(struct gvm_prov *prov, struct frame *f)
{
	struct link *link = f->link;

	if (f->due < link->due[f->to])
		f->due = link->due[f->to];
	link->due[f->to] = f->due;
	if (f->kind == F_WIRE)
		link->queued[f->to]++;
	f->next = NULL;
	*prov->inbox_end = f;
	prov->inbox_end = &f->next;
	gvm_loop_wake(prov);
}

void gvm_loop_tell(struct link *link, unsigned to, enum frame_kind kind, int status)
{
	struct frame *f;

	if (!link->prov[to])
		return;
	f = gvm_loop_frame_new(link, to, kind, 0);
	if (!f)
		return;
	f->status = status;
	gvm_loop_frame_post(link->prov[to], f);
}

void gvm_loop_break(struct link *link)
{
	if (link->broken)
		return;
	link->broken = 1;
	gvm_loop_tell(link, 0, F_BREAK, 0);
	gvm_loop_tell(link, 1, F_BREAK, 0);
}

/* ---- the inbox ----------------------------------------------------------------------------- */

static void set_timer(struct gvm_prov *prov, uint64_t due)
{
	struct itimerspec at = { .it_value = { (time_t)(due / 1000000000u),
					       (long)(due % 1000000000u) } };

	timerfd_settime(prov->timer.fd, TFD_TIMER_ABSTIME, &at, NULL);
}

struct frame *gvm_loop_take(struct gvm_prov *prov)
{
	uint64_t first = 0, now = 0;
	struct frame **at, *f;

	if (gvm_loop.faults.stall)
		return NULL;
	for (at = &prov->inbox; (f = *at); at = &f->next) {
		if (f->due && !now)
			now = gvm_now();
		if (f->due <= now || (f->link->broken && f->kind != F_BREAK))
			break;
		if (!first || f->due < first)
			first = f->due;
	}
	if (!f) {
		if (first)
			set_timer(prov, first);
		return NULL;
	}
	*at = f->next;
	if (!*at)
		prov->inbox_end = at;
	return f;
}

void gvm_loop_left(struct frame *f)
{
	struct link *link = f->link;
	unsigned from = !f->to;

	if (f->kind != F_WIRE)
		return;
	link->queued[f->to]--;
	if (link->starved[from] && link->queued[f->to] <= QUEUE_LOW) {
		link->starved[from] = 0;
		gvm_loop_tell(link, from, F_ROOM, 0);
	}
}

void gvm_loop_drop_inbox(struct gvm_prov *prov)
{
	struct frame *f;

	while ((f = prov->inbox)) {
		prov->inbox = f->next;
		if (f->kind == F_CONNECT)
			gvm_loop_tell(f->link, 0, F_OPEN, -ECONNREFUSED);
		gvm_loop_frame_free(f);
	}
	prov->inbox_end = &prov->inbox;
}
