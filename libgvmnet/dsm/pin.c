/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Pins and hints of a program. A call that pins gets its pages one after the other, as the engine
 * has them; what it waits for is an event of the engine, after each of which it goes on. The node's
 * thread, but for the public functions.
 */
#include <errno.h>
#include "dsm/internal.h"

#define HINT_PAGES 256u /* asked for by one hint, at most */

struct dsm_pin {
	LIST_ENTRY(dsm_pin) in_region;
	struct gvm_dsm *dsm;
	struct dsm_wait *wait;
	void (*go_on)(struct dsm_pin *pin); /* a piece, or finish() */
	uint64_t first, next, end;          /* pages; next: the first that is still to be seen to */
	uint64_t timeout_ns;
	enum ivy_access access;
	int failed;           /* why next cannot be had */
	int status;           /* what the call returns */
	unsigned room;        /* of a hint: for so many pages */
	struct ivy_walk walk; /* of what is unpinned */
	struct gvm_timer deadline;
};

static void begin(struct dsm_pin *pin, struct dsm_wait *wait, void (*go_on)(struct dsm_pin *pin))
{
	pin->wait = wait;
	pin->go_on = go_on;
	LIST_INSERT_HEAD(&pin->dsm->pins, pin, in_region);
}

static void finish(struct dsm_pin *pin)
{
	LIST_REMOVE(pin, in_region);
	dsm_done(pin->wait, pin->status); /* pin is the waiting thread's */
}

/* ---- unpinned ------------------------------------------------------------------------------ */

/* A member that has left has no pins. */
static void unpin_on(struct dsm_pin *pin)
{
	struct gvm_dsm *dsm = pin->dsm;

	if (dsm->ivy)
		ivy_walk_on(dsm->ivy, &pin->walk, IVY_WALK_UNPIN, DSM_TURN);
	if (!dsm->ivy || pin->walk.over)
		finish(pin);
	else
		dsm_engine_more(dsm);
}

static void unpin_pages(struct dsm_pin *pin, uint64_t end)
{
	if (pin->dsm->ivy)
		ivy_walk_begin(pin->dsm->ivy, &pin->walk, pin->first, end);
	pin->go_on = unpin_on;
}

/* ---- pinned -------------------------------------------------------------------------------- */

/* All or nothing. */
static void end_pin(struct dsm_pin *pin, int status)
{
	gvm_timer_clear(pin->dsm->node->worker, &pin->deadline);
	pin->status = status;
	unpin_pages(pin, status ? pin->next : pin->first);
	unpin_on(pin);
}

/* More must be able to come and go than what stays. */
static int is_room(const struct gvm_dsm *dsm)
{
	struct ivy_stats st;

	ivy_stats(dsm->ivy, &st);
	return !dsm->budget || st.pinned < dsm->budget / 2;
}

/* What is pinned already may be pinned again: no further page stays by that. */
static int pin_next(const struct dsm_pin *pin)
{
	struct ivy *ivy = pin->dsm->ivy;
	int room = is_room(pin->dsm), err;
	struct ivy_stats before, after;

	if (!room && !ivy_page_access(ivy, pin->next))
		return -ENOMEM;
	ivy_stats(ivy, &before);
	err = ivy_pin(ivy, pin->next, pin->access);
	if (err || room)
		return err;
	ivy_stats(ivy, &after);
	if (after.pinned == before.pinned)
		return 0;
	ivy_unpin(ivy, pin->next);
	return -ENOMEM;
}

/* Why no page can be had at all; 0: not now, or they can. */
static int is_over(const struct gvm_dsm *dsm)
{
	if (dsm->parting)
		return dsm->lost ? -EHOSTDOWN : 0;
	return dsm->ivy ? 0 : -EIO; /* it is being closed */
}

static void pin_on(struct dsm_pin *pin)
{
	struct gvm_dsm *dsm = pin->dsm;
	int err = is_over(dsm);

	if (!err && dsm->parting)
		return;
	for (unsigned n = 0; pin->next < pin->end && !err; n++) {
		if (n == DSM_TURN) {
			dsm_engine_more(dsm);
			return;
		}
		err = pin->failed ? pin->failed : pin_next(pin);
		if (!err) {
			pin->next++;
		} else if (err == -EAGAIN) {
			err = ivy_fault(dsm->ivy, pin->next, pin->access);
			/* 1: it comes. 0: it is here, but others go first. No memory: later */
			if (err >= 0 || err == -ENOMEM || err == -EAGAIN)
				return;
		}
	}
	end_pin(pin, err);
}

void dsm_pins_go_on(struct gvm_dsm *dsm)
{
	struct dsm_pin *pin, *next;

	for (pin = LIST_FIRST(&dsm->pins); pin; pin = next) {
		next = LIST_NEXT(pin, in_region);
		pin->go_on(pin);
	}
}

/* From within the engine, which must not be called back. */
void dsm_pins_failed(struct gvm_dsm *dsm, uint64_t page, int status)
{
	struct dsm_pin *pin;

	LIST_FOREACH(pin, &dsm->pins, in_region)
	if (pin->next == page)
		pin->failed = status;
}

static void too_late(struct gvm_timer *timer)
{
	end_pin(dsm_container(timer, struct dsm_pin, deadline), -ETIMEDOUT);
}

static void pin_start(void *arg, struct dsm_wait *wait)
{
	struct dsm_pin *pin = arg;
	struct gvm_dsm *dsm = pin->dsm;
	struct gvm_worker *worker = dsm->node->worker;
	int err = 0;

	begin(pin, wait, pin_on);
	pin->deadline.fn = too_late;
	if (pin->timeout_ns)
		err =
		    gvm_timer_set(worker, &pin->deadline, gvm_worker_now(worker) + pin->timeout_ns);
	if (err)
		end_pin(pin, err);
	dsm_engine_after(dsm);
}

static int range(const struct gvm_dsm *dsm, uint64_t offset, uint64_t len, struct dsm_pin *pin)
{
	uint64_t bytes = gvm_dsm_bytes(dsm);

	if (offset > bytes || len > bytes - offset)
		return -ERANGE;
	pin->first = pin->next = offset / GVM_PAGE_SIZE;
	pin->end = len ? (offset + len + GVM_PAGE_SIZE - 1) / GVM_PAGE_SIZE : pin->first;
	return 0;
}

int gvm_dsm_pin(struct gvm_dsm *dsm, uint64_t offset, uint64_t len, int write, unsigned timeout_ms)
{
	struct dsm_pin pin = { .dsm = dsm,
			       .access = write ? IVY_WRITE : IVY_READ,
			       .timeout_ns = timeout_ms * DSM_MS };
	int err = range(dsm, offset, len, &pin);

	if (!err && !dsm->memory)
		err = -EINVAL;
	return err ? err : dsm_node_run(dsm->node, pin_start, &pin);
}

static void unpin(void *arg, struct dsm_wait *wait)
{
	struct dsm_pin *pin = arg;
	struct gvm_dsm *dsm = pin->dsm;

	begin(pin, wait, unpin_on);
	unpin_pages(pin, pin->end);
	dsm_engine_after(dsm);
}

int gvm_dsm_unpin(struct gvm_dsm *dsm, uint64_t offset, uint64_t len)
{
	struct dsm_pin pin = { .dsm = dsm };
	int err = range(dsm, offset, len, &pin);

	return err ? err : dsm_node_run(dsm->node, unpin, &pin);
}

/* ---- hints --------------------------------------------------------------------------------- */

/* To the engine it is a fault for which no thread waits. */
static void prefetch_on(struct dsm_pin *pin)
{
	struct gvm_dsm *dsm = pin->dsm;

	for (unsigned n = 0; pin->next < pin->end && pin->room && dsm->ivy && !dsm->parting; n++) {
		if (n == DSM_TURN) {
			dsm_engine_more(dsm);
			return;
		}
		if (ivy_page_access(dsm->ivy, pin->next) < pin->access) {
			if (ivy_fault(dsm->ivy, pin->next, pin->access) < 0)
				break;
			pin->room--;
		}
		pin->next++;
	}
	finish(pin);
}

static void prefetch(void *arg, struct dsm_wait *wait)
{
	struct dsm_pin *pin = arg;
	struct gvm_dsm *dsm = pin->dsm;
	uint64_t quarter = dsm->budget / 4;

	pin->room = dsm->budget && quarter < HINT_PAGES ? (unsigned)quarter : HINT_PAGES;
	begin(pin, wait, prefetch_on);
	dsm_engine_after(dsm);
}

int gvm_dsm_prefetch(struct gvm_dsm *dsm, uint64_t offset, uint64_t len, int write)
{
	struct dsm_pin pin = { .dsm = dsm, .access = write ? IVY_WRITE : IVY_READ };
	int err = range(dsm, offset, len, &pin);

	if (!err && !dsm->memory)
		err = -EINVAL;
	return err ? err : dsm_node_run(dsm->node, prefetch, &pin);
}
