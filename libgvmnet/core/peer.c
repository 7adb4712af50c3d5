/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Peers: connections as the application sees them, and its operations on them. A peer that this
 * side connects outlives its connections; one that the other side connected is freed with its own.
 * Everything here belongs to the worker's thread.
 *
 *     IDLE --first operation--> CONNECTING --> PROVING --> READY
 *      ^                            |             |          |
 *      +--nobody waits-- BACKOFF <--+-------------+----------+     (accepted: CLOSED, freed)
 *
 * Re-entry. A provider's upcalls only note what has happened: operations that ended go to the
 * worker's list of done ones, peers with something to do to its list of pending ones, and
 * gvm_peers_serve() works on both when no upcall is on the stack. So what the application does in
 * its callbacks (post, disconnect) never meets a provider half way through something. The
 * exceptions are messages and answers to calls, whose bytes are only there during the upcall.
 *
 * Credits. Each side grants the other a number of messages in the handshake. A message (not an
 * answer, not the connection's own) costs the sender one. The receiver gives it back for a message
 * without answer when the handler has returned, for a call when it is answered: on the next frame
 * that it sends anyway, or by a CREDIT when half of the grant is owed. An answer costs nothing, as
 * its call has paid for it: there cannot be more of them than the calls that were granted, so the
 * queue of answers that wait for the provider is bounded, and no answer ever waits for a credit.
 * Hence no cycle of waiting: a handler never waits, an answer waits only for the connection to
 * drain, and a caller waits only for answers.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "core/core.h"

enum op_state { OP_IDLE, OP_WAITING, OP_ACTIVE, OP_EXPIRED, OP_DONE };

#define XID_SLOT_BITS  16
#define FIRST_SLOTS    8u
#define PEER_TIMERS    2u
#define DONE_AT_ONCE   4096 /* completions in one round; the rest in the next */
#define DONE_PER_FLUSH 8
#define SPIN_PAYS      2u

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static void begin_connect(struct gvm_peer *peer);
static void peer_break(struct gvm_peer *peer, int why);

/* ---- lists --------------------------------------------------------------------------------- */

static void list_append(struct gvm_op_list *list, struct gvm_op *op)
{
	op->next = NULL;
	op->prev = list->last;
	if (list->last)
		list->last->next = op;
	else
		list->first = op;
	list->last = op;
	list->count++;
}

static void list_remove(struct gvm_op_list *list, struct gvm_op *op)
{
	if (op->prev)
		op->prev->next = op->next;
	else
		list->first = op->next;
	if (op->next)
		op->next->prev = op->prev;
	else
		list->last = op->prev;
	list->count--;
}

static void defer(struct gvm_peer *peer, unsigned what)
{
	struct gvm_worker *worker = peer->worker;

	peer->pending |= (uint8_t)what;
	if (peer->in_pending)
		return;
	peer->in_pending = 1;
	peer->next_pending = NULL;
	if (worker->pending_last)
		worker->pending_last->next_pending = peer;
	else
		worker->pending = peer;
	worker->pending_last = peer;
}

static void greeting_add(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;

	peer->greeting = 1;
	peer->next_greeting = NULL;
	peer->prev_greeting = worker->greeting_last;
	if (worker->greeting_last)
		worker->greeting_last->next_greeting = peer;
	else
		worker->greeting = peer;
	worker->greeting_last = peer;
	worker->greeting_count++;
}

static void greeting_remove(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;

	if (!peer->greeting)
		return;
	peer->greeting = 0;
	if (peer->prev_greeting)
		peer->prev_greeting->next_greeting = peer->next_greeting;
	else
		worker->greeting = peer->next_greeting;
	if (peer->next_greeting)
		peer->next_greeting->prev_greeting = peer->prev_greeting;
	else
		worker->greeting_last = peer->prev_greeting;
	worker->greeting_count--;
}

/* ---- telling the user ---------------------------------------------------------------------- */

void gvm_peer_observe(struct gvm_peer *peer, struct gvm_peer_observer *observer)
{
	observer->peer = peer;
	observer->prev = NULL;
	observer->next = peer->observers;
	if (observer->next)
		observer->next->prev = observer;
	peer->observers = observer;
}

void gvm_peer_unobserve(struct gvm_peer_observer *observer)
{
	struct gvm_peer *peer = observer->peer;

	if (!peer)
		return;
	if (peer->told_next == observer)
		peer->told_next = observer->next;
	if (observer->prev)
		observer->prev->next = observer->next;
	else
		peer->observers = observer->next;
	if (observer->next)
		observer->next->prev = observer->prev;
	observer->peer = NULL;
}

static void tell_state(struct gvm_peer *peer, enum gvm_peer_state state, int why)
{
	struct gvm_worker *worker = peer->worker;
	struct gvm_peer_observer *observer;

	for (observer = peer->observers; observer; observer = peer->told_next) {
		peer->told_next = observer->next;
		if (observer->peer_state)
			observer->peer_state(observer, peer, state, why);
	}
	if (worker->config.peer_state)
		worker->config.peer_state(worker->config.arg, peer, state, why);
}

static void tell_writable(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;
	struct gvm_peer_observer *observer;

	if (!peer->starved || peer->waiting.count >= worker->opt.window)
		return;
	peer->starved = 0;
	for (observer = peer->observers; observer; observer = peer->told_next) {
		peer->told_next = observer->next;
		if (observer->writable)
			observer->writable(observer, peer);
	}
	if (worker->config.writable)
		worker->config.writable(worker->config.arg, peer);
}

/* Something that a post may have been refused for is there again. */
static void has_room(struct gvm_peer *peer)
{
	if (peer->waiting.first)
		defer(peer, GVM_PEND_KICK);
	if (peer->starved)
		defer(peer, GVM_PEND_WRITABLE);
}

static int starve(struct gvm_peer *peer)
{
	peer->starved = 1;
	return -EAGAIN;
}

/* Lines that the other side can cause are limited. */
static void warn(struct gvm_peer *peer, const char *what, const char *sentence)
{
	gvm_log_limited(&peer->worker->limit, GVM_LOG_WARN, "%s: %s%s", peer->name, what, sentence);
}

/* ---- the ends of operations ---------------------------------------------------------------- */

static void finish(struct gvm_worker *worker, struct gvm_op *op, int status)
{
	op->state = OP_DONE;
	op->status = status;
	op->reply = NULL;
	list_append(&worker->done, op);
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
	list_remove(&peer->active, op);
	if (op->kind == GVM_OP_CALL)
		free_slot(peer, op->slot);
	else
		peer->one_sided--;
}

static void fail_waiting(struct gvm_peer *peer, struct gvm_op *op, int why)
{
	list_remove(&peer->waiting, op);
	if (op->kind == GVM_OP_CALL)
		free(op->buf);
	op->buf = NULL;
	finish(peer->worker, op, why);
}

static void fail_all_waiting(struct gvm_peer *peer, int why)
{
	while (peer->waiting.first)
		fail_waiting(peer, peer->waiting.first, why);
	has_room(peer);
}

/* Those that the provider knows of have been completed by it. */
static void fail_all_active(struct gvm_peer *peer, int why)
{
	struct gvm_op *op;

	while ((op = peer->active.first)) {
		deactivate(peer, op);
		finish(peer->worker, op, op->state == OP_EXPIRED ? -ETIMEDOUT : why);
	}
}

/* ---- deadlines ----------------------------------------------------------------------------- */

static void arm(struct gvm_peer *peer, uint64_t when)
{
	if (when != GVM_NEVER && (!peer->op_timer.place || when < peer->op_timer.when))
		gvm_timers_set_reserved(&peer->worker->timers, &peer->op_timer, when);
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
		err = peer->worker->ops->cancel(peer->ep, op);
	if (err) {
		op->state = OP_EXPIRED;
		return err;
	}
	deactivate(peer, op);
	finish(peer->worker, op, -ETIMEDOUT);
	has_room(peer);
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
			has_room(peer);
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
static void on_op_timer(struct gvm_timer *timer)
{
	struct gvm_peer *peer = container_of(timer, struct gvm_peer, op_timer);
	uint64_t now = gvm_worker_clock(peer->worker);
	uint64_t soonest = expire_waiting(peer, now);
	struct gvm_op *op, *next;
	int stuck = 0;

	for (op = peer->active.first; op; op = next) {
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
		warn(peer, "",
		     "an operation's deadline passed while its bytes were on the way; "
		     "connection ended");
		peer_break(peer, -ETIMEDOUT);
	}
}

/* ---- sending ------------------------------------------------------------------------------- */

static int send_frame(struct gvm_peer *peer, struct gvm_hdr *hdr, const void *body)
{
	struct gvm_worker *worker = peer->worker;
	int err;

	hdr->epoch = worker->net->epoch;
	hdr->credits = (uint16_t)peer->owed;
	err = worker->ops->send(peer->ep, hdr, body);
	if (err)
		return err;
	peer->granted += peer->owed;
	peer->owed = 0;
	gvm_count(&worker->stats.msgs_sent, 1);
	return 0;
}

static int send_bare(struct gvm_peer *peer, uint8_t type, uint64_t xid)
{
	struct gvm_hdr hdr = { .type = type, .xid = xid };

	return send_frame(peer, &hdr, NULL);
}

/* When the provider has no room, its writable() brings the peer here again. */
static void return_credits(struct gvm_peer *peer)
{
	uint32_t half = peer->worker->opt.credits / 2u;

	if (peer->state == GVM_PEER_READY && peer->owed >= (half ? half : 1u))
		send_bare(peer, GVM_T_CREDIT, 0);
}

static void fill_header(struct gvm_hdr *hdr, const struct gvm_msg *msg)
{
	*hdr = (struct gvm_hdr){
		.type = msg->type,
		.flags = msg->flags,
		.status = (uint16_t)gvm_wire_status(msg->status),
		.length = msg->length,
		.region = msg->region,
		.page = msg->page,
		.arg = msg->arg,
	};
}

/* A message that costs a credit. */
static int send_paid(struct gvm_peer *peer, struct gvm_hdr *hdr, const void *body)
{
	int err;

	if (peer->replies)
		return -EAGAIN;
	if (peer->credits == 0) {
		gvm_count(&peer->worker->stats.no_credit, 1);
		return -EAGAIN;
	}
	err = send_frame(peer, hdr, body);
	if (!err)
		peer->credits--;
	return err;
}

static int message_ok(const struct gvm_msg *msg)
{
	return msg->type >= GVM_T_REGION_OPEN && msg->type != GVM_T_REPLY &&
	       msg->length <= GVM_MSG_MAX && (msg->body || msg->length == 0) &&
	       !(msg->flags & ~GVM_F_ALL);
}

int gvm_send(struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct gvm_hdr hdr;
	int err;

	if (!message_ok(msg))
		return -EINVAL;
	if (peer->worker->closing)
		return -ECANCELED;
	if (peer->state != GVM_PEER_READY) {
		gvm_peer_connect(peer);
		return -ENOTCONN;
	}
	if (peer->waiting.first)
		return starve(peer);
	fill_header(&hdr, msg);
	err = send_paid(peer, &hdr, msg->body);
	return err == -EAGAIN ? starve(peer) : err;
}

static int queue_reply(struct gvm_peer *peer, const struct gvm_hdr *hdr, const void *body)
{
	struct gvm_reply *reply = malloc(sizeof(*reply) + hdr->length);

	if (!reply)
		return -ENOMEM;
	reply->next = NULL;
	reply->hdr = *hdr;
	if (hdr->length)
		memcpy(reply->body, body, hdr->length);
	if (peer->replies_last)
		peer->replies_last->next = reply;
	else
		peer->replies = reply;
	peer->replies_last = reply;
	return 0;
}

int gvm_reply(struct gvm_peer *peer, uint64_t xid, int status, const struct gvm_msg *body)
{
	static const struct gvm_msg nothing;
	struct gvm_hdr hdr;
	int err = -EAGAIN;

	if (!body)
		body = &nothing;
	if (xid == 0 || status > 0 || body->length > GVM_MSG_MAX || (body->flags & ~GVM_F_MORE))
		return -EINVAL;
	if (peer->state != GVM_PEER_READY)
		return -ENOTCONN;
	if (peer->calls_owed == 0)
		return -EINVAL;
	fill_header(&hdr, body);
	hdr.type = GVM_T_REPLY;
	hdr.status = (uint16_t)gvm_wire_status(status);
	hdr.xid = xid;
	peer->calls_owed--;
	peer->owed++;
	if (!peer->replies)
		err = send_frame(peer, &hdr, body->body);
	if (err == -EAGAIN)
		err = queue_reply(peer, &hdr, body->body);
	if (err)
		peer_break(peer, err);
	return err;
}

static int send_replies(struct gvm_peer *peer)
{
	struct gvm_reply *reply;

	while ((reply = peer->replies)) {
		int err = send_frame(peer, &reply->hdr, reply->body);

		if (err)
			return err;
		peer->replies = reply->next;
		if (!peer->replies)
			peer->replies_last = NULL;
		free(reply);
	}
	return 0;
}

static void drop_replies(struct gvm_peer *peer)
{
	struct gvm_reply *reply, *next;

	for (reply = peer->replies; reply; reply = next) {
		next = reply->next;
		free(reply);
	}
	peer->replies = peer->replies_last = NULL;
}

/* ---- starting operations ------------------------------------------------------------------- */

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
	err = send_paid(peer, hdr, body);
	if (err) {
		free_slot(peer, op->slot);
		return err;
	}
	op->state = OP_ACTIVE;
	list_append(&peer->active, op);
	return 0;
}

static int start_one_sided(struct gvm_peer *peer, struct gvm_op *op)
{
	const struct gvm_provider_ops *ops = peer->worker->ops;
	int err;

	if (peer->one_sided >= peer->max_one_sided)
		return peer->max_one_sided ? -EAGAIN : -EOPNOTSUPP;
	op->xid = ++peer->xid;
	op->state = OP_ACTIVE;
	list_append(&peer->active, op);
	peer->one_sided++;
	err = op->kind == GVM_OP_FETCH ? ops->fetch(peer->ep, op) : ops->put(peer->ep, op);
	if (err) {
		deactivate(peer, op);
		return err;
	}
	if (op->kind == GVM_OP_FETCH)
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

	list_remove(&peer->waiting, op);
	if (op->kind != GVM_OP_CALL) {
		err = start_one_sided(peer, op);
	} else {
		err = start_call(peer, op, &copy->hdr, copy->body);
		if (err != -EAGAIN) {
			free(copy);
			op->buf = NULL;
		}
	}
	return err;
}

static void put_back(struct gvm_peer *peer, struct gvm_op *op)
{
	struct gvm_op_list *list = &peer->waiting;

	op->state = OP_WAITING;
	op->prev = NULL;
	op->next = list->first;
	if (list->first)
		list->first->prev = op;
	else
		list->last = op;
	list->first = op;
	list->count++;
}

/* Send and start what has waited, in order, as far as there is room. */
static void kick(struct gvm_peer *peer)
{
	struct gvm_op *op;

	if (peer->state != GVM_PEER_READY || send_replies(peer) != 0)
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
			defer(peer, GVM_PEND_WRITABLE);
	}
	return_credits(peer);
}

static int may_post(const struct gvm_peer *peer, const struct gvm_op *op)
{
	if (!op->done)
		return -EINVAL;
	if (op->state != OP_IDLE)
		return -EBUSY;
	if (peer->worker->closing)
		return -ECANCELED;
	return peer->state == GVM_PEER_CLOSED ? -ENOTCONN : 0;
}

static void set_deadline(struct gvm_peer *peer, struct gvm_op *op)
{
	op->peer = peer;
	op->expires = op->deadline_ns;
	if (op->expires == 0)
		op->expires = gvm_worker_clock(peer->worker) + peer->worker->opt.op_timeout_ns;
	arm(peer, op->expires);
}

static void wait_for_connection(struct gvm_peer *peer, struct gvm_op *op)
{
	op->state = OP_WAITING;
	list_append(&peer->waiting, op);
	set_deadline(peer, op);
	if (peer->state == GVM_PEER_IDLE)
		begin_connect(peer);
}

static int starts_now(const struct gvm_peer *peer)
{
	return peer->state == GVM_PEER_READY && !peer->waiting.first;
}

int gvm_call(struct gvm_peer *peer, const struct gvm_msg *msg, struct gvm_op *op)
{
	struct gvm_reply *copy;
	struct gvm_hdr hdr;
	int err = may_post(peer, op);

	if (err)
		return err;
	if (!message_ok(msg))
		return -EINVAL;
	fill_header(&hdr, msg);
	op->kind = GVM_OP_CALL;
	if (starts_now(peer)) {
		op->buf = NULL;
		err = start_call(peer, op, &hdr, msg->body);
		if (!err)
			set_deadline(peer, op);
		return err == -EAGAIN ? starve(peer) : err;
	}
	if (peer->waiting.count >= peer->worker->opt.window)
		return starve(peer);
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

static int post_one_sided(struct gvm_peer *peer, struct gvm_op *op)
{
	int err;

	if (!starts_now(peer)) {
		if (peer->waiting.count >= peer->worker->opt.window)
			return starve(peer);
		wait_for_connection(peer, op);
		return 0;
	}
	err = start_one_sided(peer, op);
	if (!err)
		set_deadline(peer, op);
	else
		op->state = OP_IDLE;
	return err == -EAGAIN ? starve(peer) : err;
}

static int fill_one_sided(struct gvm_peer *peer, struct gvm_op *op, uint8_t kind, uint64_t key,
			  uint64_t offset, void *buf, uint32_t len, struct gvm_mem *local)
{
	int err = may_post(peer, op);

	if (err)
		return err;
	if (!buf || len == 0 || len > GVM_XFER_MAX)
		return -EINVAL;
	op->kind = kind;
	op->key = key;
	op->offset = offset;
	op->buf = buf;
	op->len = len;
	op->mem = local;
	return 0;
}

int gvm_fetch(struct gvm_peer *peer, uint64_t key, uint64_t offset, void *buf, uint32_t len,
	      struct gvm_mem *local, struct gvm_op *op)
{
	int err = fill_one_sided(peer, op, GVM_OP_FETCH, key, offset, buf, len, local);

	return err ? err : post_one_sided(peer, op);
}

int gvm_put(struct gvm_peer *peer, uint64_t key, uint64_t offset, const void *buf, uint32_t len,
	    struct gvm_mem *local, struct gvm_op *op)
{
	/* The provider only reads from the buffer of a put. */
	int err =
	    fill_one_sided(peer, op, GVM_OP_PUT, key, offset, (void *)(uintptr_t)buf, len, local);

	return err ? err : post_one_sided(peer, op);
}

/* ---- the ends of connections --------------------------------------------------------------- */

/* Errors that trying again does not mend: somebody must change a key, a program or a file. */
static int is_final(int why)
{
	return why == -EACCES || why == -EPROTONOSUPPORT || why == -EXDEV || why == -EINVAL;
}

/* Full jitter: anything between nothing and a bound that doubles. */
static void back_off(struct gvm_peer *peer)
{
	const struct gvm_options_read *opt = &peer->worker->opt;
	unsigned doublings = peer->failures < 20 ? peer->failures : 20;
	uint64_t bound = opt->backoff_min_ns << doublings;

	if (bound > opt->backoff_max_ns)
		bound = opt->backoff_max_ns;
	peer->failures++;
	peer->state = GVM_PEER_BACKOFF;
	gvm_timers_set_reserved(&peer->worker->timers, &peer->state_timer,
				gvm_worker_clock(peer->worker) +
				    gvm_worker_random(peer->worker, bound + 1));
}

static void reset_connection(struct gvm_peer *peer)
{
	gvm_timers_clear(&peer->worker->timers, &peer->state_timer);
	greeting_remove(peer);
	drop_replies(peer);
	free(peer->hs);
	peer->hs = NULL;
	peer->credits = peer->granted = peer->owed = peer->calls_owed = 0;
	peer->pinged = 0;
	peer->max_one_sided = 0;
}

static void count_end(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;

	if (peer->state == GVM_PEER_READY) {
		gvm_count(&worker->stats.disconnects, 1);
		gvm_count(&worker->stats.peers_ready, -1);
		if (peer->accepted)
			worker->accepted_ready--;
	}
	if (peer->state == GVM_PEER_READY || peer->state == GVM_PEER_PROVING)
		gvm_count(&worker->stats.peers_open, -1);
}

/* The endpoint is gone and the provider has forgotten all operations; calls end with ops_why. */
static void connection_ended(struct gvm_peer *peer, int why, int ops_why)
{
	struct gvm_worker *worker = peer->worker;
	int was_ready = peer->state == GVM_PEER_READY;

	count_end(peer);
	fail_all_active(peer, ops_why);
	reset_connection(peer);
	peer->why = why;
	peer->reason = NULL;
	if (peer->accepted) {
		peer->state = GVM_PEER_CLOSED;
		gvm_timers_clear(&worker->timers, &peer->op_timer);
		fail_all_waiting(peer, ops_why);
	} else {
		if (was_ready &&
		    gvm_worker_clock(worker) - peer->ready_since >= worker->opt.backoff_max_ns)
			peer->failures = 0;
		if (!was_ready && is_final(why))
			fail_all_waiting(peer, why);
		back_off(peer);
	}
	defer(peer, GVM_PEND_CLOSED);
}

static void peer_end(struct gvm_peer *peer, int why, int ops_why)
{
	struct gvm_ep *ep = peer->ep;

	if (!ep)
		return;
	peer->ep = NULL;
	peer->worker->ops->shut(ep, ops_why);
	connection_ended(peer, why, ops_why);
}

/* Something is wrong with the connection. */
static void peer_break(struct gvm_peer *peer, int why)
{
	peer_end(peer, why, -ECONNRESET);
}

/* Only the first of a row of equal failures is news. */
static void log_connect_failure(struct gvm_peer *peer, int why)
{
	if (peer->why != why || peer->failures == 0)
		warn(peer, "cannot connect: ", strerror(-why));
}

static void begin_connect(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;
	int err;

	peer->wanted = 0;
	peer->bye = 0;
	peer->state = GVM_PEER_CONNECTING;
	peer->hs = malloc(sizeof(*peer->hs));
	if (!peer->hs) {
		connection_ended(peer, -ENOMEM, -ENOMEM);
		return;
	}
	gvm_hs_init(peer->hs, worker->net, 0, peer->node, worker->opt.credits,
		    (uint16_t)worker->opt.window);
	gvm_timers_set_reserved(&worker->timers, &peer->state_timer,
				gvm_worker_clock(worker) + worker->opt.connect_ns);
	gvm_count(&worker->stats.connects, 1);
	err = worker->ops->connect(worker->prov, peer->host, peer->port, peer, &peer->ep);
	if (err) {
		peer->ep = NULL;
		log_connect_failure(peer, err);
		connection_ended(peer, err, err);
	}
}

/* ---- liveness ------------------------------------------------------------------------------ */

/*
 * A timer that fires late tells that this process was held up, not that the other side was: the
 * bytes may be waiting in the socket. Such a look counts for nothing.
 */
static void check_alive(struct gvm_peer *peer, uint64_t planned)
{
	struct gvm_worker *worker = peer->worker;
	uint64_t limit = worker->opt.keepalive_ns, now = gvm_worker_clock(worker);
	uint64_t heard = peer->ep->last_heard;
	uint64_t next;
	int late = now - planned > limit / 4;

	if (heard < peer->ready_since)
		heard = peer->ready_since;
	if (now < heard || now - heard < limit / 2) {
		peer->pinged = 0;
		next = heard + limit / 2;
	} else if (now - heard >= limit && peer->pinged && !late) {
		warn(peer, "", "nothing was heard of it for GVM_KEEPALIVE_MS; connection ended");
		peer_break(peer, -ETIMEDOUT);
		return;
	} else {
		send_bare(peer, GVM_T_PING, 0);
		peer->pinged = 1;
		next = late || heard + limit <= now ? now + limit / 2 : heard + limit;
	}
	gvm_timers_set_reserved(&worker->timers, &peer->state_timer, next);
}

static void connect_timed_out(struct gvm_peer *peer)
{
	if (peer->accepted)
		warn(peer, "", "did not finish the handshake in time; connection ended");
	else
		log_connect_failure(peer, -ETIMEDOUT);
	peer_break(peer, -ETIMEDOUT);
}

static void on_state_timer(struct gvm_timer *timer)
{
	struct gvm_peer *peer = container_of(timer, struct gvm_peer, state_timer);

	switch (peer->state) {
	case GVM_PEER_CONNECTING:
	case GVM_PEER_PROVING:
		connect_timed_out(peer);
		break;
	case GVM_PEER_READY:
		check_alive(peer, timer->when);
		break;
	case GVM_PEER_BACKOFF:
		peer->state = GVM_PEER_IDLE;
		if (peer->waiting.first || peer->wanted)
			begin_connect(peer);
		break;
	default:
		break;
	}
}

/* ---- making and freeing peers -------------------------------------------------------------- */

static struct gvm_peer *make_peer(struct gvm_worker *worker)
{
	struct gvm_peer *peer = calloc(1, sizeof(*peer));

	if (!peer)
		return NULL;
	if (gvm_timers_reserve(&worker->timers, PEER_TIMERS) != 0) {
		free(peer);
		return NULL;
	}
	peer->worker = worker;
	peer->node = GVM_NODE_NONE;
	peer->state_timer.fn = on_state_timer;
	peer->op_timer.fn = on_op_timer;
	peer->next = worker->peers;
	if (peer->next)
		peer->next->prev = peer;
	worker->peers = peer;
	return peer;
}

/* It is in no list but the worker's, has no connection and no operations. */
static void free_peer(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;

	gvm_timers_clear(&worker->timers, &peer->state_timer);
	gvm_timers_clear(&worker->timers, &peer->op_timer);
	gvm_timers_release(&worker->timers, PEER_TIMERS);
	if (peer->prev)
		peer->prev->next = peer->next;
	else
		worker->peers = peer->next;
	if (peer->next)
		peer->next->prev = peer->prev;
	while (peer->observers)
		gvm_peer_unobserve(peer->observers);
	free(peer->hs);
	free(peer->slots);
	free(peer->host);
	free(peer);
}

static int make_client(struct gvm_worker *worker, unsigned node, const char *host, unsigned port,
		       struct gvm_peer **out)
{
	const char *open = strchr(host, ':') ? "[" : "", *close = *open ? "]" : "";
	struct gvm_peer *peer = make_peer(worker);

	if (!peer)
		return -ENOMEM;
	peer->host = strdup(host);
	if (!peer->host) {
		free_peer(peer);
		return -ENOMEM;
	}
	peer->port = (uint16_t)port;
	peer->node = (uint16_t)node;
	if (node == GVM_NODE_NONE)
		snprintf(peer->name, sizeof(peer->name), "%s%s%s:%u", open, host, close, port);
	else
		snprintf(peer->name, sizeof(peer->name), "node %u (%s%s%s:%u)", node, open, host,
			 close, port);
	*out = peer;
	return 0;
}

static int more_nodes(struct gvm_worker *worker, unsigned node)
{
	size_t room = worker->by_node_room ? worker->by_node_room : 16;
	struct gvm_peer **by_node;

	while (room <= node)
		room *= 2;
	if (room == worker->by_node_room)
		return 0;
	by_node = realloc(worker->by_node, room * sizeof(*by_node));
	if (!by_node)
		return -ENOMEM;
	memset(by_node + worker->by_node_room, 0, (room - worker->by_node_room) * sizeof(*by_node));
	worker->by_node = by_node;
	worker->by_node_room = room;
	return 0;
}

int gvm_peer_get(struct gvm_worker *worker, unsigned node, struct gvm_peer **peer)
{
	const struct gvm_cluster *cluster = worker->net->cluster;
	const struct gvm_node *entry = cluster ? gvm_cluster_node(cluster, node) : NULL;
	int err;

	if (!entry || node >= GVM_MAX_NODES)
		return -ENOENT;
	err = more_nodes(worker, node);
	if (err)
		return err;
	if (!worker->by_node[node])
		err = make_client(worker, node, entry->host, entry->port, &worker->by_node[node]);
	if (!err)
		*peer = worker->by_node[node];
	return err;
}

int gvm_peer_at(struct gvm_worker *worker, const char *host, unsigned port, struct gvm_peer **out)
{
	struct gvm_peer *peer;

	if (!host || !*host || port == 0 || port > 65535)
		return -EINVAL;
	for (peer = worker->peers; peer; peer = peer->next)
		if (!peer->accepted && peer->node == GVM_NODE_NONE && peer->port == port &&
		    strcmp(peer->host, host) == 0) {
			*out = peer;
			return 0;
		}
	return make_client(worker, GVM_NODE_NONE, host, port, out);
}

int gvm_peer_connect(struct gvm_peer *peer)
{
	if (peer->worker->closing)
		return -ECANCELED;
	if (peer->state == GVM_PEER_CLOSED)
		return -ENOTCONN;
	if (peer->state == GVM_PEER_IDLE)
		begin_connect(peer);
	else if (peer->state == GVM_PEER_BACKOFF)
		peer->wanted = 1;
	return 0;
}

void gvm_peer_disconnect(struct gvm_peer *peer, int why)
{
	if (why >= 0)
		why = -ECANCELED;
	if (peer->state == GVM_PEER_READY)
		send_bare(peer, GVM_T_BYE, 0);
	peer_end(peer, why, why);
	peer->wanted = 0;
	fail_all_waiting(peer, why);
	if (peer->state == GVM_PEER_BACKOFF) {
		gvm_timers_clear(&peer->worker->timers, &peer->state_timer);
		peer->state = GVM_PEER_IDLE;
		peer->failures = 0;
	}
}

enum gvm_peer_state gvm_peer_state(const struct gvm_peer *peer)
{
	return peer->state;
}

const char *gvm_peer_name(const struct gvm_peer *peer)
{
	return peer->name;
}

unsigned gvm_peer_node(const struct gvm_peer *peer)
{
	return peer->node;
}

uint64_t gvm_peer_incarnation(const struct gvm_peer *peer)
{
	return peer->incarnation;
}

struct gvm_worker *gvm_peer_worker(const struct gvm_peer *peer)
{
	return peer->worker;
}

void gvm_peer_set_user(struct gvm_peer *peer, void *user)
{
	peer->user = user;
}

void *gvm_peer_user(const struct gvm_peer *peer)
{
	return peer->user;
}

/* ---- the handshake ------------------------------------------------------------------------- */

static int say(struct gvm_peer *peer, const struct gvm_hs_out *out)
{
	struct gvm_hdr hdr = { .type = out->type, .status = out->status, .length = out->length };

	return out->type ? send_frame(peer, &hdr, out->body) : 0;
}

static void name_accepted(struct gvm_peer *peer)
{
	if (peer->node == GVM_NODE_NONE)
		snprintf(peer->name, sizeof(peer->name), "client %s", peer->ep->name);
	else
		snprintf(peer->name, sizeof(peer->name), "node %u (%s)", peer->node,
			 peer->ep->name);
}

static void adopt(struct gvm_peer *peer, const struct gvm_hello *theirs)
{
	const struct gvm_options_read *opt = &peer->worker->opt;

	peer->incarnation = theirs->incarnation;
	peer->ep->owner = theirs->incarnation;
	peer->credits = theirs->credits;
	peer->granted = opt->credits;
	peer->max_one_sided = theirs->max_fetch < opt->window ? theirs->max_fetch : opt->window;
	if (peer->accepted) {
		peer->node = theirs->node;
		name_accepted(peer);
		peer->worker->accepted_ready++;
	}
}

static void become_ready(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;

	greeting_remove(peer);
	free(peer->hs);
	peer->hs = NULL;
	peer->state = GVM_PEER_READY;
	peer->why = 0;
	peer->ready_since = gvm_worker_clock(worker);
	gvm_timers_set_reserved(&worker->timers, &peer->state_timer,
				peer->ready_since + worker->opt.keepalive_ns / 2);
	gvm_count(&worker->stats.peers_ready, 1);
	peer->told_ready = 1;
	tell_state(peer, GVM_PEER_READY, 0);
	has_room(peer);
}

static int refuse_full(struct gvm_peer *peer, struct gvm_hs_out *out)
{
	return gvm_hs_refuse(out, GVM_ST_LIMIT,
			     "this node has %u connections already "
			     "(GVM_MAX_CONNS)",
			     peer->worker->accepted_ready);
}

static void handshake_failed(struct gvm_peer *peer, struct gvm_hs_out *out, int why)
{
	if (peer->accepted || peer->why != why || peer->failures == 0)
		warn(peer, out->type ? "refused: " : "handshake: ", out->why);
	if (why == -EPROTO)
		gvm_count(&peer->worker->stats.malformed, 1);
	else
		gvm_count(&peer->worker->stats.handshake_refused, 1);
	say(peer, out);
	peer_break(peer, why);
}

static void on_handshake(struct gvm_peer *peer, const struct gvm_hdr *hdr, const void *payload)
{
	struct gvm_hs_out out = { 0 };
	int err, result;

	if (peer->accepted && hdr->type == GVM_T_HELLO &&
	    peer->worker->accepted_ready >= peer->worker->opt.max_conns)
		result = refuse_full(peer, &out);
	else
		result = gvm_hs_step(peer->hs, hdr, payload, &out);
	if (result < 0) {
		handshake_failed(peer, &out, result);
		return;
	}
	if (result == 1) {
		adopt(peer, &peer->hs->theirs);
		peer->worker->ops->allow(peer->ep);
	}
	err = say(peer, &out);
	if (err)
		peer_break(peer, err);
	else if (result == 1)
		become_ready(peer);
}

/* ---- what the provider says ---------------------------------------------------------------- */

static void drop_oldest_greeting(struct gvm_worker *worker)
{
	struct gvm_peer *oldest = worker->greeting;

	warn(oldest, "", "too many connections are in their handshake; the oldest is ended");
	peer_break(oldest, -ETIMEDOUT);
}

static void on_accepted(struct gvm_host *host, struct gvm_listener *listener, struct gvm_ep *ep)
{
	struct gvm_worker *worker = host->worker;
	struct gvm_peer *peer = make_peer(worker);

	if (peer)
		peer->hs = malloc(sizeof(*peer->hs));
	if (!peer || !peer->hs) {
		if (peer)
			free_peer(peer);
		worker->ops->shut(ep, -ENOMEM);
		return;
	}
	peer->ep = ep;
	peer->accepted = 1;
	peer->state = GVM_PEER_PROVING;
	ep->user = peer;
	snprintf(peer->name, sizeof(peer->name), "%s", ep->name);
	gvm_hs_init(peer->hs, worker->net, 1, GVM_NODE_NONE, worker->opt.credits,
		    (uint16_t)worker->opt.window);
	gvm_timers_set_reserved(&worker->timers, &peer->state_timer,
				gvm_worker_clock(worker) + worker->opt.handshake_ns);
	gvm_count(&worker->stats.accepts, 1);
	gvm_count(&worker->stats.peers_open, 1);
	greeting_add(peer);
	if (worker->greeting_count > worker->opt.max_handshakes)
		drop_oldest_greeting(worker);
}

static void on_connected(struct gvm_ep *ep, int status)
{
	struct gvm_peer *peer = ep->user;
	struct gvm_worker *worker = peer->worker;
	struct gvm_hs_out out;
	int err;

	if (status) {
		peer->ep = NULL;
		log_connect_failure(peer, status);
		connection_ended(peer, status, status);
		return;
	}
	peer->ep = ep;
	peer->state = GVM_PEER_PROVING;
	gvm_count(&worker->stats.peers_open, 1);
	gvm_timers_set_reserved(&worker->timers, &peer->state_timer,
				gvm_worker_clock(worker) + worker->opt.handshake_ns);
	gvm_hs_begin(peer->hs, &out);
	err = say(peer, &out);
	if (err)
		peer_break(peer, err);
}

static int protocol_error(struct gvm_peer *peer, const char *reason)
{
	peer->reason = reason;
	return -EPROTO;
}

static void on_reply(struct gvm_peer *peer, const struct gvm_hdr *hdr, const struct gvm_msg *msg)
{
	uint32_t slot = (uint32_t)hdr->xid & ((1u << XID_SLOT_BITS) - 1);
	struct gvm_op *op = slot < peer->slot_count ? peer->slots[slot].op : NULL;

	/* The call has been given up meanwhile. */
	if (!op || op->xid != hdr->xid)
		return;
	deactivate(peer, op);
	has_room(peer);
	op->state = OP_IDLE;
	op->reply = msg;
	op->done(op, msg->status);
}

static int on_user_message(struct gvm_peer *peer, const struct gvm_hdr *hdr,
			   const struct gvm_msg *msg)
{
	struct gvm_worker *worker = peer->worker;

	if (peer->granted == 0)
		return protocol_error(peer, "it sent more messages than it had credits for");
	peer->granted--;
	if (hdr->xid)
		peer->calls_owed++;
	else
		peer->owed++;
	if (worker->config.message)
		worker->config.message(worker->config.arg, peer, msg);
	else if (hdr->xid)
		gvm_reply(peer, hdr->xid, -EOPNOTSUPP, NULL);
	return_credits(peer);
	return 0;
}

static int take_credits(struct gvm_peer *peer, uint32_t credits)
{
	if (credits == 0)
		return 0;
	if (credits > UINT16_MAX - peer->credits)
		return protocol_error(peer, "it gave more credits than there can be");
	peer->credits += credits;
	has_room(peer);
	return 0;
}

static int on_ready_message(struct gvm_peer *peer, const struct gvm_hdr *hdr, const void *payload)
{
	struct gvm_msg msg = {
		.type = hdr->type,
		.flags = hdr->flags,
		.status = gvm_wire_errno(hdr->status),
		.xid = hdr->xid,
		.region = hdr->region,
		.page = hdr->page,
		.arg = hdr->arg,
		.body = payload,
		.length = hdr->length,
	};
	int err = take_credits(peer, hdr->credits);

	if (err)
		return err;
	switch (hdr->type) {
	case GVM_T_PING:
		/* With no room for it there is enough else that the other side will hear. */
		send_bare(peer, GVM_T_PONG, hdr->xid);
		return 0;
	case GVM_T_PONG:
	case GVM_T_CREDIT:
		return 0;
	case GVM_T_BYE:
		peer->bye = 1;
		return 0;
	case GVM_T_REPLY:
		on_reply(peer, hdr, &msg);
		return 0;
	default:
		if (hdr->type < GVM_T_REGION_OPEN)
			return protocol_error(peer, "it sent a frame out of turn");
		return on_user_message(peer, hdr, &msg);
	}
}

static int on_message(struct gvm_ep *ep, const struct gvm_hdr *hdr, const void *payload)
{
	struct gvm_peer *peer = ep->user;

	gvm_count(&peer->worker->stats.msgs_received, 1);
	if (peer->state == GVM_PEER_READY)
		return on_ready_message(peer, hdr, payload);
	if (peer->state != GVM_PEER_PROVING)
		return protocol_error(peer, "it sent a frame out of turn");
	on_handshake(peer, hdr, payload);
	return 0;
}

static void on_writable(struct gvm_ep *ep)
{
	struct gvm_peer *peer = ep->user;

	defer(peer, GVM_PEND_KICK);
	has_room(peer);
}

static void on_closed(struct gvm_ep *ep, int why, const char *reason)
{
	struct gvm_peer *peer = ep->user;

	if (peer->reason)
		reason = peer->reason;
	peer->ep = NULL;
	if (why == -EPROTO) {
		gvm_count(&peer->worker->stats.malformed, 1);
		warn(peer, "connection ended: ", reason ? reason : "it broke the protocol");
	} else if (!peer->bye) {
		gvm_log_limited(&peer->worker->limit, GVM_LOG_INFO, "%s: connection ended: %s",
				peer->name, reason ? reason : strerror(-why));
	}
	connection_ended(peer, why, -ECONNRESET);
}

static void on_completed(struct gvm_ep *ep, struct gvm_op *op, int status)
{
	struct gvm_peer *peer = ep->user;

	deactivate(peer, op);
	finish(peer->worker, op, op->state == OP_EXPIRED ? -ETIMEDOUT : status);
	has_room(peer);
}

static int host_watch(struct gvm_host *host, struct gvm_watch *watch, uint32_t events)
{
	return gvm_worker_watch_provider(host->worker, watch, events);
}

static int host_rewatch(struct gvm_host *host, struct gvm_watch *watch, uint32_t events)
{
	return gvm_worker_rewatch(host->worker, watch, events);
}

static void host_unwatch(struct gvm_host *host, struct gvm_watch *watch)
{
	gvm_worker_unwatch_provider(host->worker, watch);
}

static uint64_t host_now(struct gvm_host *host)
{
	return gvm_worker_clock(host->worker);
}

static int host_mem_get(struct gvm_host *host, uint64_t key, uint64_t owner, unsigned access,
			uint64_t offset, uint64_t len, void **at, struct gvm_mem **mem)
{
	struct gvm_worker *worker = host->worker;
	int err = gvm_mem_lookup(&worker->net->mem, key, owner, access, offset, len, at, mem);

	if (err)
		gvm_count(&worker->stats.refused_keys, 1);
	return err;
}

static struct gvm_net_stats *host_stats(struct gvm_host *host)
{
	return &host->worker->stats;
}

const struct gvm_host_ops gvm_core_host_ops = {
	.accepted = on_accepted,
	.connected = on_connected,
	.message = on_message,
	.writable = on_writable,
	.closed = on_closed,
	.completed = on_completed,
	.watch = host_watch,
	.rewatch = host_rewatch,
	.unwatch = host_unwatch,
	.now = host_now,
	.mem_get = host_mem_get,
	.mem_put = gvm_mem_drop,
	.stats = host_stats,
};

/* ---- serving what was deferred ------------------------------------------------------------- */

/*
 * Does the other side run while this one does? If spinning pays it has a CPU of its own, and what
 * completions post should leave while the rest are served: with 32 under way that is a third more a
 * second. Where both share a CPU each flush only switches between them, and that is a third less.
 */
static int runs_beside(const struct gvm_worker *worker)
{
	return worker->opt.spin_ns && worker->spin_fails <= SPIN_PAYS;
}

static int serve_done(struct gvm_worker *worker)
{
	struct gvm_op *op;
	int served = 0;

	while ((op = worker->done.first) && served < DONE_AT_ONCE) {
		list_remove(&worker->done, op);
		op->state = OP_IDLE;
		op->done(op, op->status);
		if (++served % DONE_PER_FLUSH == 0 && runs_beside(worker))
			worker->ops->flush(worker->prov);
	}
	return served;
}

static struct gvm_peer *next_pending(struct gvm_worker *worker)
{
	struct gvm_peer *peer = worker->pending;

	worker->pending = peer->next_pending;
	if (!worker->pending)
		worker->pending_last = NULL;
	peer->in_pending = 0;
	return peer;
}

/* An attempt of this side that failed is told, a stranger that did not get through is not. */
static void serve_closed(struct gvm_peer *peer)
{
	if (peer->told_ready || !peer->accepted)
		tell_state(peer, peer->state, peer->why);
	peer->told_ready = 0;
}

static void serve_pending(struct gvm_peer *peer)
{
	unsigned what = peer->pending;

	peer->pending = 0;
	if (what & GVM_PEND_CLOSED) {
		serve_closed(peer);
		if (peer->accepted) {
			/* A callback may have put it on the list again. */
			if (!peer->in_pending)
				free_peer(peer);
			else
				peer->pending = GVM_PEND_CLOSED;
			return;
		}
	}
	if (what & GVM_PEND_KICK)
		kick(peer);
	if (what & GVM_PEND_WRITABLE)
		tell_writable(peer);
}

int gvm_peers_serve(struct gvm_worker *worker)
{
	int served = serve_done(worker);

	/* Operations are told before the end of their connection is, so done goes first each time.
	 */
	while (worker->pending && !worker->done.first) {
		serve_pending(next_pending(worker));
		served += 1 + serve_done(worker);
	}
	return served;
}

void gvm_peers_close(struct gvm_worker *worker)
{
	struct gvm_peer *peer;

	for (peer = worker->peers; peer; peer = peer->next)
		gvm_peer_disconnect(peer, -ECANCELED);
	worker->ops->flush(worker->prov);
	while (gvm_peers_pending(worker))
		gvm_peers_serve(worker);
	while (worker->peers)
		free_peer(worker->peers);
	free(worker->by_node);
	worker->by_node = NULL;
	worker->by_node_room = 0;
}
