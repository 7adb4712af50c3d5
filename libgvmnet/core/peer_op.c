/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The operations of a peer, from post to done: the data plane. An operation is in one of three
 * lists: waiting (for the connection, a credit or a slot), active (under way) or the worker's done.
 * It leaves each of them by one function, so it completes exactly once.
 *
 * A completion is only noted here; gvm_ops_serve_done() tells the application when no provider is
 * on the stack. The exceptions are answers to calls, whose bytes are only there during the upcall.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "core/list.h"
#include "core/peer.h"

enum op_state { OP_IDLE, OP_WAITING, OP_ACTIVE, OP_EXPIRED, OP_DONE };

#define XID_SLOT_BITS  16
#define FIRST_SLOTS    8u
#define DONE_AT_ONCE   4096 /* completions in one round; the rest in the next */
#define DONE_PER_FLUSH 8
#define SPIN_PAYS      2u

/* On the way of each fetch and put, where a call costs as much as what is called does. */
#define HOT inline __attribute__((always_inline))
/* Beside it: kept out of its way. */
#define COLD __attribute__((noinline, cold))

/* ---- lists --------------------------------------------------------------------------------- */

/* Those under way are a ring, whose head is never taken out: no end of it is a case of its own. */
static HOT void active_add(struct gvm_peer *peer, struct gvm_op *op)
{
	struct gvm_op *last = peer->active.prev;

	op->next = &peer->active;
	last->next = op;
	op->prev = last;
	peer->active.prev = op;
}

/* Returns whether it was the only one. */
static HOT int active_remove(struct gvm_op *op)
{
	struct gvm_op *next = op->next, *prev = op->prev;

	prev->next = next;
	next->prev = prev;
	return next == prev;
}

static void put_back(struct gvm_peer *peer, struct gvm_op *op)
{
	op->state = OP_WAITING;
	GVM_LIST_PREPEND(&peer->waiting, op, next, prev);
}

/* ---- their ends ---------------------------------------------------------------------------- */

static HOT void finish(struct gvm_worker *worker, struct gvm_op *op, int status)
{
	op->state = OP_DONE;
	op->status = status;
	op->reply = NULL;
	op->next = NULL;
	*worker->done_end = op;
	worker->done_end = &op->next;
}

static void free_slot(struct gvm_peer *peer, unsigned slot)
{
	peer->slots[slot].op = NULL;
	peer->slots[slot].next_free = peer->slot_free;
	peer->slot_free = slot + 1;
	peer->calls_active--;
}

/* Take an operation from those under way. */
static void deactivate(struct gvm_peer *peer, struct gvm_op *op)
{
	if (op->kind == GVM_OP_CALL)
		free_slot(peer, op->slot);
	else
		peer->one_sided--;
	if (active_remove(op))
		peer_idle(peer);
}

static void fail_waiting(struct gvm_peer *peer, struct gvm_op *op, int why)
{
	GVM_LIST_REMOVE(&peer->waiting, op, next, prev);
	if (op->kind == GVM_OP_CALL)
		free(op->buf);
	op->buf = NULL;
	finish(peer->worker, op, why);
	if (!peer->waiting.first)
		peer_idle(peer);
}

void peer_fail_waiting(struct gvm_peer *peer, int why)
{
	while (peer->waiting.first)
		fail_waiting(peer, peer->waiting.first, why);
	peer_has_room(peer);
}

/* Those that the provider knows of have been completed by it. */
void peer_fail_active(struct gvm_peer *peer, int why)
{
	while (peer_is_active(peer)) {
		struct gvm_op *op = peer->active.next;

		deactivate(peer, op);
		finish(peer->worker, op, op->state == OP_EXPIRED ? -ETIMEDOUT : why);
	}
}

/* An operation has ended: what waits for that. */
static COLD void make_way(struct gvm_peer *peer)
{
	if (!peer_is_active(peer))
		peer_idle(peer);
	peer_has_room(peer);
}

void peer_completed(struct gvm_ep *ep, struct gvm_op *op, int status)
{
	struct gvm_peer *peer = ep->user;
	int idle = active_remove(op);

	peer->one_sided--;
	finish(peer->worker, op, op->state == OP_EXPIRED ? -ETIMEDOUT : status);
	if (idle || peer->waiting.first || peer->starved)
		make_way(peer);
}

void peer_answered(struct gvm_peer *peer, const struct gvm_hdr *hdr, const struct gvm_msg *msg)
{
	uint32_t slot = (uint32_t)hdr->xid & ((1u << XID_SLOT_BITS) - 1);
	struct gvm_op *op = slot < peer->slot_count ? peer->slots[slot].op : NULL;

	/* The call has been given up meanwhile. */
	if (!op || op->xid != hdr->xid)
		return;
	deactivate(peer, op);
	peer_has_room(peer);
	op->state = OP_IDLE;
	op->reply = msg;
	op->done(op, msg->status);
}

/*
 * Does the other side run while this one does? If spinning pays it has a CPU of its own, and what
 * completions post should leave while the rest are served: with 32 under way that is a third more a
 * second. Where both share a CPU each flush only switches between them, and that is a third less.
 */
static int runs_beside(const struct gvm_worker *worker)
{
	return worker->opt.spin_ns && worker->spin_fails <= SPIN_PAYS;
}

/* The op is its owner's again when done is called; what it has read is looked at in there. */
static HOT void tell(struct gvm_op *op)
{
	struct gvm_mem *mem = op->mem;

	op->state = OP_IDLE;
	op->done(op, op->status);
	if (mem)
		gvm_mem_drop(mem);
}

int gvm_ops_serve_done(struct gvm_worker *worker)
{
	struct gvm_op *op;
	int served = 0;

	while ((op = worker->done) && served < DONE_AT_ONCE) {
		worker->done = op->next;
		if (!worker->done)
			worker->done_end = &worker->done;
		tell(op);
		if (++served % DONE_PER_FLUSH == 0 && runs_beside(worker))
			gvm_worker_flush(worker);
	}
	return served;
}

/* ---- deadlines ----------------------------------------------------------------------------- */

static HOT void arm(struct gvm_peer *peer, uint64_t when)
{
	if (when >= peer->soonest)
		return;
	peer->soonest = when;
	gvm_timers_set_reserved(&peer->worker->timers, &peer->op_timer, when);
}

void peer_disarm(struct gvm_peer *peer)
{
	peer->soonest = GVM_NEVER;
	gvm_timers_clear(&peer->worker->timers, &peer->op_timer);
}

/* What stands in the way of an operation that waits. */
static int waiting_for(const struct gvm_peer *peer)
{
	return peer->state != GVM_PEER_READY && peer->why ? peer->why : -ETIMEDOUT;
}

/* -EBUSY: only the end of the connection will bring it back. */
static int expire_active(struct gvm_peer *peer, struct gvm_op *op)
{
	int err = 0;

	gvm_count(&peer->worker->stats.timeouts, 1);
	if (op->kind != GVM_OP_CALL)
		err = peer->ep->ops->cancel(peer->ep, op);
	if (err) {
		op->state = OP_EXPIRED;
		return err;
	}
	deactivate(peer, op);
	finish(peer->worker, op, -ETIMEDOUT);
	peer_has_room(peer);
	return 0;
}

static uint64_t expire_waiting(struct gvm_peer *peer, uint64_t now)
{
	struct gvm_op *op, *next;
	uint64_t soonest = GVM_NEVER;

	for (op = peer->waiting.first; op; op = next) {
		next = op->next;
		if (op->expires <= now) {
			gvm_count(&peer->worker->stats.timeouts, 1);
			fail_waiting(peer, op, waiting_for(peer));
			peer_has_room(peer);
		} else if (op->expires < soonest) {
			soonest = op->expires;
		}
	}
	return soonest;
}

/*
 * Lists are not sorted and completions do not touch the timer: it fires at the latest when the
 * first deadline passes, looks at what is left and is set anew. At a steady load that is one look
 * per time-out, however many operations there were.
 */
void peer_on_deadline(struct gvm_timer *timer)
{
	struct gvm_peer *peer = container_of(timer, struct gvm_peer, op_timer);
	uint64_t now = gvm_worker_clock(peer->worker);
	uint64_t soonest = expire_waiting(peer, now);
	struct gvm_op *op, *next;
	int stuck = 0;

	peer->soonest = GVM_NEVER;
	for (op = peer->active.next; op != &peer->active; op = next) {
		next = op->next;
		if (op->state == OP_EXPIRED)
			continue;
		if (op->expires <= now)
			stuck |= expire_active(peer, op) != 0;
		else if (op->expires < soonest)
			soonest = op->expires;
	}
	arm(peer, soonest);
	if (stuck) {
		peer_warn(peer, "",
			  "an operation's deadline passed while its bytes were on the way; "
			  "connection ended");
		peer_break(peer, -ETIMEDOUT);
	}
}

static COLD uint64_t read_deadline(struct gvm_worker *worker)
{
	return gvm_worker_clock(worker) + worker->opt.op_timeout_ns;
}

static HOT uint64_t usual_deadline(struct gvm_worker *worker)
{
	return worker->now ? worker->now + worker->opt.op_timeout_ns : read_deadline(worker);
}

static HOT void set_deadline(struct gvm_peer *peer, struct gvm_op *op)
{
	uint64_t expires = op->deadline_ns ? op->deadline_ns : usual_deadline(peer->worker);

	op->peer = peer;
	op->expires = expires;
	arm(peer, expires);
}

/* ---- starting them ------------------------------------------------------------------------- */

static int more_slots(struct gvm_peer *peer)
{
	uint32_t i, count = peer->slot_count ? peer->slot_count * 2 : FIRST_SLOTS;
	struct gvm_call_slot *slots;

	slots = realloc(peer->slots, count * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	for (i = peer->slot_count; i < count; i++)
		slots[i] = (struct gvm_call_slot){ .next_free = i + 1 < count ? i + 2 : 0 };
	peer->slot_free = peer->slot_count + 1;
	peer->slots = slots;
	peer->slot_count = count;
	return 0;
}

static int take_slot(struct gvm_peer *peer, struct gvm_op *op)
{
	int err;

	if (peer->calls_active >= peer->worker->opt.window)
		return -EAGAIN;
	if (!peer->slot_free) {
		err = more_slots(peer);
		if (err)
			return err;
	}
	op->slot = (uint16_t)(peer->slot_free - 1);
	peer->slot_free = peer->slots[op->slot].next_free;
	peer->slots[op->slot].op = op;
	peer->calls_active++;
	op->xid = ++peer->xid << XID_SLOT_BITS | op->slot;
	return 0;
}

static int start_call(struct gvm_peer *peer, struct gvm_op *op, struct gvm_hdr *hdr,
		      const void *body)
{
	int err = take_slot(peer, op);

	if (err)
		return err;
	hdr->xid = op->xid;
	err = peer_send_paid(peer, hdr, body);
	if (err) {
		free_slot(peer, op->slot);
		return err;
	}
	op->state = OP_ACTIVE;
	active_add(peer, op);
	return 0;
}

static COLD int not_started(struct gvm_peer *peer, struct gvm_op *op, int err)
{
	deactivate(peer, op);
	return err;
}

static HOT int start_one_sided(struct gvm_peer *peer, struct gvm_op *op, uint8_t kind)
{
	const struct gvm_provider_ops *ops = peer->ep->ops;
	int err;

	if (peer->one_sided >= peer->max_one_sided)
		return peer->max_one_sided ? -EAGAIN : -EOPNOTSUPP;
	op->xid = ++peer->xid;
	op->state = OP_ACTIVE;
	active_add(peer, op);
	peer->one_sided++;
	peer_used(peer);
	err = kind == GVM_OP_FETCH ? ops->fetch(peer->ep, op) : ops->put(peer->ep, op);
	if (err)
		return not_started(peer, op, err);
	if (kind == GVM_OP_FETCH)
		gvm_count(&peer->worker->stats.fetches, 1);
	else
		gvm_count(&peer->worker->stats.puts, 1);
	return 0;
}

/* An operation from the waiting list, whose place there it loses if this succeeds. */
static int start_waiting(struct gvm_peer *peer, struct gvm_op *op)
{
	struct gvm_reply *copy = op->buf;
	int err;

	GVM_LIST_REMOVE(&peer->waiting, op, next, prev);
	if (op->kind != GVM_OP_CALL) {
		err = start_one_sided(peer, op, op->kind);
	} else {
		err = start_call(peer, op, &copy->hdr, copy->body);
		if (err != -EAGAIN) {
			free(copy);
			op->buf = NULL;
		}
	}
	return err;
}

/* Send and start what has waited, in order, as far as there is room. */
void peer_kick(struct gvm_peer *peer)
{
	struct gvm_op *op;

	if (peer->state != GVM_PEER_READY || peer_send_replies(peer) != 0)
		return;
	while ((op = peer->waiting.first)) {
		int err = start_waiting(peer, op);

		if (err == -EAGAIN) {
			put_back(peer, op);
			break;
		}
		if (err)
			finish(peer->worker, op, err);
		if (peer->starved)
			peer_defer(peer, GVM_PEND_WRITABLE);
	}
	if (peer->rest_owed)
		peer_answer_rest(peer);
	peer_return_credits(peer);
}

/* ---- posting them -------------------------------------------------------------------------- */

/* What cannot start at once. No peer is READY when its worker is being closed and something can be
 * posted again. */
static COLD int may_wait(const struct gvm_peer *peer)
{
	if (peer->worker->closing)
		return -ECANCELED;
	return peer->state == GVM_PEER_CLOSED ? -ENOTCONN : 0;
}

static HOT int may_post(const struct gvm_peer *peer, const struct gvm_op *op, int at_once)
{
	if (!op->done)
		return -EINVAL;
	if (op->state != OP_IDLE)
		return -EBUSY;
	return at_once ? 0 : may_wait(peer);
}

static void wait_for_connection(struct gvm_peer *peer, struct gvm_op *op)
{
	op->state = OP_WAITING;
	GVM_LIST_APPEND(&peer->waiting, op, next, prev);
	set_deadline(peer, op);
	if (peer->state == GVM_PEER_IDLE)
		peer_begin_connect(peer);
}

/* Its connection comes to its end, or has and the layers above are not told yet: what is posted now
 * would be kept for another connection, for which its key is not good. */
static int gives_way(const struct gvm_peer *peer)
{
	if (peer->state == GVM_PEER_READY)
		return peer->rest;
	return (peer->pending & GVM_PEND_CLOSED) && !peer->why;
}

static HOT int starts_now(const struct gvm_peer *peer)
{
	return peer->state == GVM_PEER_READY && peer->rest == REST_NO && !peer->waiting.first;
}

int gvm_call(struct gvm_peer *peer, const struct gvm_msg *msg, struct gvm_op *op)
{
	struct gvm_reply *copy;
	struct gvm_hdr hdr;
	int at_once = starts_now(peer), err = may_post(peer, op, at_once);

	if (err)
		return err;
	if (!peer_message_ok(msg))
		return -EINVAL;
	if (gives_way(peer))
		return peer_starve(peer);
	peer_fill_header(&hdr, msg);
	op->kind = GVM_OP_CALL;
	op->mem = NULL;
	if (at_once) {
		op->buf = NULL;
		err = start_call(peer, op, &hdr, msg->body);
		if (!err)
			set_deadline(peer, op);
		return err == -EAGAIN ? peer_starve(peer) : err;
	}
	if (peer->waiting.count >= peer->worker->opt.window)
		return peer_starve(peer);
	copy = malloc(sizeof(*copy) + msg->length);
	if (!copy)
		return -ENOMEM;
	copy->hdr = hdr;
	if (msg->length)
		memcpy(copy->body, msg->body, msg->length);
	op->buf = copy;
	wait_for_connection(peer, op);
	return 0;
}

/* It is the caller's as it was. */
static COLD int not_posted(struct gvm_peer *peer, struct gvm_op *op, int err)
{
	op->state = OP_IDLE;
	if (op->mem)
		gvm_mem_drop(op->mem);
	return err == -EAGAIN ? peer_starve(peer) : err;
}

static HOT int hold_local(const struct gvm_op *op)
{
	return op->mem ? gvm_mem_use(op->mem, op->buf, op->len) : 0;
}

static COLD int wait_one_sided(struct gvm_peer *peer, struct gvm_op *op)
{
	int err = hold_local(op);

	if (err)
		return err;
	if (peer->waiting.count >= peer->worker->opt.window)
		return not_posted(peer, op, -EAGAIN);
	wait_for_connection(peer, op);
	return 0;
}

static HOT int begin_one_sided(struct gvm_peer *peer, struct gvm_op *op, uint8_t kind)
{
	int err = hold_local(op);

	if (err)
		return err;
	set_deadline(peer, op); /* the provider looks at it */
	err = start_one_sided(peer, op, kind);
	return err ? not_posted(peer, op, err) : 0;
}

static HOT int post_one_sided(struct gvm_peer *peer, struct gvm_op *op, uint8_t kind, uint64_t key,
			      uint64_t offset, void *buf, uint32_t len, struct gvm_mem *local)
{
	int at_once = starts_now(peer), err = may_post(peer, op, at_once);

	if (err)
		return err;
	if (!buf || len == 0 || len > GVM_XFER_MAX)
		return -EINVAL;
	if (!at_once && gives_way(peer))
		return peer_starve(peer);
	op->kind = kind;
	op->key = key;
	op->offset = offset;
	op->buf = buf;
	op->len = len;
	op->mem = local;
	return at_once ? begin_one_sided(peer, op, kind) : wait_one_sided(peer, op);
}

int gvm_fetch(struct gvm_peer *peer, uint64_t key, uint64_t offset, void *buf, uint32_t len,
	      struct gvm_mem *local, struct gvm_op *op)
{
	return post_one_sided(peer, op, GVM_OP_FETCH, key, offset, buf, len, local);
}

int gvm_put(struct gvm_peer *peer, uint64_t key, uint64_t offset, const void *buf, uint32_t len,
	    struct gvm_mem *local, struct gvm_op *op)
{
	/* The provider only reads from the buffer of a put. */
	return post_one_sided(peer, op, GVM_OP_PUT, key, offset, (void *)(uintptr_t)buf, len,
			      local);
}
