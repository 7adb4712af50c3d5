/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way of a region's operations: fetch, put and discard.
 *
 * advance() takes an operation its next step: it is posted, or ended, or parked until somebody has
 * the key of its slab, or -EAGAIN says that it must wait at its node, for the connection or for
 * room. Fetches leave a node's queue before puts, since a thread waits for each of them.
 * Used by the thread of the region's worker only.
 */
#include "core/list.h"
#include "core/region_internal.h"
#include <errno.h>
#include <string.h>

enum op_kind { OP_FETCH = 1, OP_PUT, OP_DISCARD };

enum op_state { OP_IDLE, OP_POSTED, OP_WAITING, OP_PARKED, OP_ENDING };

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

static void step(struct gvm_region_op *op);

/* ---- queues -------------------------------------------------------------------------------- */

static void queue_push(struct region_queue *queue, struct gvm_region_op *op)
{
	GVM_LIST_APPEND(queue, op, next, prev);
}

static void queue_push_front(struct region_queue *queue, struct gvm_region_op *op)
{
	GVM_LIST_PREPEND(queue, op, next, prev);
}

static struct gvm_region_op *queue_pop(struct region_queue *queue)
{
	struct gvm_region_op *op = queue->first;

	if (op)
		GVM_LIST_REMOVE(queue, op, next, prev);
	return op;
}

/* ---- small things -------------------------------------------------------------------------- */

/* The slab that the operation is about now. */
static uint64_t op_slab(const struct gvm_region_op *op)
{
	return op->kind == OP_DISCARD ? op->at : region_slab_of(op->region, op->page);
}

static struct region_node *op_node(const struct gvm_region_op *op)
{
	return region_home(op->region, op_slab(op));
}

static int op_late(const struct gvm_region_op *op)
{
	return gvm_worker_now(op->region->worker) >= op->op.deadline_ns;
}

/* The caller has a reference to the region. */
void region_finish(struct gvm_region_op *op, int status)
{
	op->state = OP_IDLE;
	op->region->ops--;
	op->done(op, status);
}

void region_finish_soon(struct gvm_region_op *op, int status)
{
	struct gvm_region *region = op->region;

	op->failure = status;
	op->state = OP_ENDING;
	queue_push(&region->finished, op);
	if (!region->soon.place && gvm_timer_set(region->worker, &region->soon, 0))
		gvm_log(GVM_LOG_ERROR, "region %s: out of memory for a timer", region->name);
}

void region_soon(struct gvm_timer *timer)
{
	struct gvm_region *region = container(timer, struct gvm_region, soon);
	struct region_queue list = region->finished;
	struct gvm_region_op *op;

	region_get(region);
	region->finished = (struct region_queue){ 0 };
	while ((op = queue_pop(&list)))
		region_finish(op, op->failure);
	region_put(region);
}

/* ---- waiting -------------------------------------------------------------------------------- */

static void watch_deadline(struct region_node *node, uint64_t deadline)
{
	if (deadline >= node->expiry_at)
		return;
	if (gvm_timer_set(node->region->worker, &node->expiry, deadline) == 0)
		node->expiry_at = deadline;
}

static struct region_queue *queue_of(struct region_node *node, const struct gvm_region_op *op)
{
	return op->kind == OP_FETCH ? &node->fetches : &node->puts;
}

/* Wait for the node to be there, or for room. */
static void wait(struct gvm_region_op *op)
{
	struct region_node *node = op_node(op);

	op->state = OP_WAITING;
	queue_push(queue_of(node, op), op);
	watch_deadline(node, op->op.deadline_ns);
	if (node->state == NODE_READY && node->posted == 0)
		region_node_retry_in(node, REGION_ROOM_NS);
	region_node_need(node);
}

/* Wait for the key of the slab. */
static void park(struct gvm_region_op *op, struct region_node *node, struct region_slab *slab)
{
	op->state = OP_PARKED;
	slab->waiting++;
	queue_push(&node->parked, op);
	watch_deadline(node, op->op.deadline_ns);
}

/* Whoever waits for this slab's key goes on. */
static void unpark(struct region_node *node, uint64_t index)
{
	struct region_slab *slab = &node->region->layout.slabs[index];
	struct region_queue list = { 0 };
	struct gvm_region_op *op, *next;

	for (op = node->parked.first; op && slab->waiting; op = next) {
		next = op->next;
		if (region_slab_of(op->region, op->page) != index)
			continue;
		GVM_LIST_REMOVE(&node->parked, op, next, prev);
		queue_push(&list, op);
		slab->waiting--;
	}
	while ((op = queue_pop(&list)))
		step(op);
}

/* End what is late in a queue; returns the earliest deadline of the rest. */
static uint64_t expire(struct region_node *node, struct region_queue *queue, uint64_t now)
{
	uint64_t earliest = GVM_NEVER;
	struct gvm_region_op *op, *next;

	for (op = queue->first; op; op = next) {
		next = op->next;
		if (op->op.deadline_ns > now) {
			if (op->op.deadline_ns < earliest)
				earliest = op->op.deadline_ns;
			continue;
		}
		GVM_LIST_REMOVE(queue, op, next, prev);
		if (op->state == OP_PARKED)
			node->region->layout.slabs[op_slab(op)].waiting--;
		region_finish_soon(op, node->why == -EBUSY ? -EBUSY : -ETIMEDOUT);
	}
	return earliest;
}

void region_node_expiry(struct gvm_timer *timer)
{
	struct region_node *node = container(timer, struct region_node, expiry);
	struct region_queue *queues[] = { &node->fetches, &node->puts, &node->parked };
	uint64_t now = gvm_worker_now(node->region->worker), earliest = GVM_NEVER;

	for (unsigned i = 0; i < 3; i++) {
		uint64_t at = expire(node, queues[i], now);

		if (at < earliest)
			earliest = at;
	}
	node->expiry_at = GVM_NEVER;
	/* not more often than each millisecond, however many deadlines there are */
	if (earliest != GVM_NEVER)
		watch_deadline(node, earliest > now + 1000000 ? earliest : now + 1000000);
}

static void cancel_queue(struct region_queue *queue)
{
	struct gvm_region_op *op;

	while ((op = queue_pop(queue)))
		region_finish(op, op->state == OP_ENDING ? op->failure : -ECANCELED);
}

void region_cancel_waiting(struct gvm_region *region)
{
	for (unsigned i = 0; i < region->node_count; i++) {
		cancel_queue(&region->nodes[i]->fetches);
		cancel_queue(&region->nodes[i]->puts);
		cancel_queue(&region->nodes[i]->parked);
	}
	cancel_queue(&region->finished);
}

/* ---- failures ------------------------------------------------------------------------------- */

/* The node has broken its word, or has forgotten us: open it again before the next try. */
static void distrust(struct gvm_region_op *op, struct region_node *node, int status)
{
	if (++op->tries > REGION_KEY_TRIES) {
		gvm_log(GVM_LOG_ERROR,
			"region %s: %s refuses slab %llu again and again (%s); giving up on it",
			op->region->name, gvm_peer_name(node->peer),
			(unsigned long long)op_slab(op), strerror(-status));
		region_finish(op, -EIO);
		return;
	}
	region_node_away(node, status);
	wait(op);
}

/* The connection has ended, or could not be made. */
static void disconnected(struct gvm_region_op *op, struct region_node *node, int status)
{
	int late = op_late(op);

	/* that an operation's own time is up says nothing about the node */
	if (!late || status != -ETIMEDOUT)
		region_node_away(node, status);
	op->tries = 0;
	if (late)
		region_finish(op, -ETIMEDOUT);
	else
		wait(op);
}

/* The key is not good any more: the slab was cloned, or the node restarted, or we are fenced. */
static void key_refused(struct gvm_region_op *op, struct region_node *node, int status)
{
	struct region_slab *slab = &op->region->layout.slabs[op_slab(op)];

	if (slab->key == op->op.key)
		slab->key = 0;
	if (op->tries >= 2) {
		distrust(op, node, status);
		return;
	}
	op->tries++;
	step(op);
}

/* Nothing is to be had from the node any more because we have said so; that is no loss. */
static bool ended(const struct gvm_region_op *op, const struct region_node *node)
{
	return op->region->state != REGION_OPEN || node->state == NODE_GONE;
}

static void op_failed(struct gvm_region_op *op, struct region_node *node, int status)
{
	if (ended(op, node))
		region_finish(op, -ECANCELED);
	else if (region_status_final(status))
		region_finish(op, status);
	else if (status == -ENOENT || status == -EPERM)
		key_refused(op, node, status);
	else
		disconnected(op, node, status);
}

/* ---- fetch and put -------------------------------------------------------------------------- */

static void op_done(struct gvm_op *base, int status)
{
	struct gvm_region_op *op = container(base, struct gvm_region_op, op);
	struct gvm_region *region = op->region;
	struct region_slab *slab = &region->layout.slabs[op_slab(op)];
	struct region_node *node = op_node(op);

	region_get(region);
	node->posted--;
	if (likely(status == 0)) {
		if (unlikely(slab->flags & SLAB_DOUBT) && op->kind == OP_PUT) {
			slab->flags &= (uint8_t)~SLAB_DOUBT;
			slab->stored_at = region_views_time(region);
		}
		if (unlikely(node->fetches.first || node->puts.first || node->bye_due))
			region_node_drain(node);
		region_finish(op, 0);
	} else {
		op_failed(op, node, status);
		region_node_drain(node);
	}
	region_put(region);
}

/* A post was refused: -EAGAIN to wait, or it has been dealt with. */
static int refused(struct gvm_region_op *op, struct region_node *node, int rc)
{
	if (rc == -EAGAIN)
		return rc;
	if (region_status_final(rc)) {
		region_finish_soon(op, rc);
		return 0;
	}
	region_node_away(node, rc);
	return -EAGAIN;
}

static inline int post(struct gvm_region_op *op, struct region_node *node,
		       const struct region_slab *slab)
{
	struct gvm_region *region = op->region;
	uint64_t offset = (op->page & ((1ull << region->slab_shift) - 1)) * GVM_PAGE_SIZE;
	uint32_t len = op->count * GVM_PAGE_SIZE;
	int rc;

	op->op.done = op_done;
	rc = op->kind == OP_FETCH
		 ? gvm_fetch(node->peer, slab->key, offset, op->buf, len, op->local, &op->op)
		 : gvm_put(node->peer, slab->key, offset, op->buf, len, op->local, &op->op);
	if (unlikely(rc))
		return refused(op, node, rc);
	op->state = OP_POSTED;
	node->posted++;
	return 0;
}

/* ---- keys ----------------------------------------------------------------------------------- */

/* What the node says about one slab. */
static int take_grant(struct region_node *node, uint64_t index, const struct gvm_msg *reply)
{
	struct gvm_slab_entry entry;

	if (reply->length != GVM_SLAB_ENTRY_LEN ||
	    gvm_slab_entry_decode(reply->body, reply->length, &entry) || entry.slab != index)
		return -EPROTO;
	node->told_full = false;
	return region_node_take_entry(node, &entry, node->region->layout.slabs[index].asked_at);
}

static int take_listed(struct region_node *node, uint64_t index, const struct gvm_msg *reply)
{
	struct gvm_slab_entry entry;

	if (reply->length % GVM_SLAB_ENTRY_LEN)
		return -EPROTO;
	if (reply->length) {
		if (gvm_slab_entry_decode(reply->body, GVM_SLAB_ENTRY_LEN, &entry))
			return -EPROTO;
		if ((entry.slab & ~GVM_SLAB_READONLY) == index)
			return region_node_take_entry(node, &entry,
						      node->region->layout.slabs[index].asked_at);
	}
	region_node_slab_missing(node, index);
	return 0;
}

static void ask_failed(struct gvm_region_op *op, struct region_node *node, int status)
{
	if (ended(op, node)) {
		region_finish(op, -ECANCELED);
	} else if (region_status_final(status)) {
		if (status == -ENOSPC && !node->told_full) {
			node->told_full = true;
			gvm_log(GVM_LOG_ERROR, "region %s: %s has no room for another slab: %s",
				op->region->name, gvm_peer_name(node->peer),
				region_node_full_advice(node));
		}
		region_finish(op, status);
	} else if (status == -ENOENT || status == -EPERM || status == -EPROTO) {
		distrust(op, node, status);
	} else {
		disconnected(op, node, status);
	}
}

static void asked(struct gvm_op *base, int status,
		  int (*take)(struct region_node *, uint64_t, const struct gvm_msg *))
{
	struct gvm_region_op *op = container(base, struct gvm_region_op, op);
	struct gvm_region *region = op->region;
	uint64_t index = op_slab(op);
	struct region_node *node = op_node(op);

	region_get(region);
	node->posted--;
	region->layout.slabs[index].flags &= (uint8_t)~SLAB_ASKING;
	region_node_note_full(node, status, base->reply);
	if (status == 0 && region->state == REGION_OPEN)
		status = take(node, index, base->reply);
	if (status == 0 && region->state == REGION_OPEN)
		step(op);
	else
		ask_failed(op, node, status);
	unpark(node, index);
	region_node_drain(node);
	region_put(region);
}

static void granted(struct gvm_op *base, int status)
{
	asked(base, status, take_grant);
}

static void listed(struct gvm_op *base, int status)
{
	asked(base, status, take_listed);
}

/*
 * Ask for the key. A slab that has storage is only ever listed, never granted anew, as long as
 * its key is not known: a grant would make an empty one where the node has lost it.
 */
static int ask_key(struct gvm_region_op *op, struct region_node *node, struct region_slab *slab)
{
	bool grant = op->kind == OP_PUT && (slab->key || !(slab->flags & SLAB_STORED));
	struct gvm_msg msg = { .type = grant ? GVM_T_SLAB_GRANT : GVM_T_SLAB_LIST,
			       .region = op->region->id,
			       .page = op_slab(op),
			       .arg = 1 };
	int rc;

	slab->asked_at = region_views_time(op->region);
	op->op.done = grant ? granted : listed;
	rc = gvm_call(node->peer, &msg, &op->op);
	if (rc)
		return refused(op, node, rc);
	op->state = OP_POSTED;
	node->posted++;
	slab->flags |= SLAB_ASKING;
	slab->key = 0;
	return 0;
}

/* ---- discard -------------------------------------------------------------------------------- */

/*
 * A discard goes through its slabs in windows. In each, the first slab of a node stands for all of
 * that node's slabs in the window: one message with all their runs, which always fits.
 */
_Static_assert(REGION_DISCARD_WINDOW <= GVM_DISCARD_MAX, "a window's runs fit in a message");

static uint64_t window_of(uint64_t slab)
{
	return slab & ~(uint64_t)(REGION_DISCARD_WINDOW - 1);
}

static uint64_t last_slab(const struct gvm_region_op *op)
{
	return region_slab_of(op->region, op->end - 1);
}

static uint64_t window_end(const struct gvm_region_op *op)
{
	uint64_t end = window_of(op->at) + REGION_DISCARD_WINDOW, last = last_slab(op) + 1;

	return end < last ? end : last;
}

static uint64_t window_begin(const struct gvm_region_op *op)
{
	uint64_t begin = window_of(op->at), first = region_slab_of(op->region, op->page);

	return begin > first ? begin : first;
}

static uint16_t place(const struct gvm_region *region, uint64_t slab)
{
	return region->layout.place[slab * REGION_COPIES];
}

/* Has an earlier slab of the window spoken for this one? */
static bool spoken_for(const struct gvm_region_op *op)
{
	for (uint64_t s = window_begin(op); s < op->at; s++) {
		if (place(op->region, s) == place(op->region, op->at))
			return true;
	}
	return false;
}

/* The part of slab s that the discard covers; true if that is all of it. */
static bool covered(const struct gvm_region_op *op, uint64_t s, struct gvm_page_run *run)
{
	const struct gvm_region *region = op->region;
	uint64_t begin = s << region->slab_shift, end = begin + (1ull << region->slab_shift);

	if (end > region->pages)
		end = region->pages;
	run->page = begin > op->page ? begin : op->page;
	run->count = (end < op->end ? end : op->end) - run->page;
	return run->page == begin && run->page + run->count == end;
}

/* Write the runs of the node's slabs in the window; returns how many bytes. */
static uint32_t gather(struct gvm_region_op *op, uint8_t *body)
{
	struct gvm_region *region = op->region;
	uint32_t len = 0;

	for (uint64_t s = op->at; s < window_end(op); s++) {
		struct region_slab *slab = &region->layout.slabs[s];
		struct gvm_page_run run;

		if (place(region, s) != place(region, op->at))
			continue;
		if (slab->flags & SLAB_LOST)
			op->failure = -EIO;
		else if (slab->flags & SLAB_STORED) {
			if (covered(op, s, &run)) {
				slab->flags |= SLAB_DOUBT;
				region_views_discarding(region, s);
			}
			len += (uint32_t)gvm_page_run_encode(body + len, &run);
		}
	}
	return len;
}

/* The node has done what gather() has written. */
static void discarded(struct gvm_region_op *op)
{
	struct gvm_region *region = op->region;
	struct gvm_page_run run;

	for (uint64_t s = op->at; s < window_end(op); s++) {
		struct region_slab *slab = &region->layout.slabs[s];

		if (place(region, s) == place(region, op->at) && covered(op, s, &run)) {
			slab->key = 0;
			slab->flags &= (uint8_t) ~(SLAB_STORED | SLAB_DOUBT | SLAB_READONLY);
		}
	}
}

static void discard_done(struct gvm_op *base, int status)
{
	struct gvm_region_op *op = container(base, struct gvm_region_op, op);
	struct gvm_region *region = op->region;
	struct region_node *node = op_node(op);

	region_get(region);
	node->posted--;
	if (status) {
		ask_failed(op, node, status);
	} else if (region->state != REGION_OPEN) {
		region_finish(op, -ECANCELED);
	} else {
		discarded(op);
		op->at++;
		step(op);
	}
	region_node_drain(node);
	region_put(region);
}

static int advance_discard(struct gvm_region_op *op)
{
	struct gvm_region *region = op->region;
	struct gvm_msg msg = { .type = GVM_T_DISCARD, .region = region->id };
	uint8_t body[GVM_MSG_MAX];
	struct region_node *node;
	int rc;

	for (; op->at <= last_slab(op); op->at++) {
		node = op_node(op);
		if (spoken_for(op))
			continue;
		if (node->state == NODE_LOST || node->state == NODE_GONE) {
			op->failure = node->state == NODE_LOST ? -EIO : -ECANCELED;
			continue;
		}
		msg.length = gather(op, body);
		if (msg.length == 0)
			continue;
		if (node->state != NODE_READY)
			return -EAGAIN;
		msg.body = body;
		op->op.done = discard_done;
		rc = gvm_call(node->peer, &msg, &op->op);
		if (rc)
			return refused(op, node, rc);
		op->state = OP_POSTED;
		node->posted++;
		return 0;
	}
	region_finish_soon(op, op->failure);
	return 0;
}

/* ---- one step ------------------------------------------------------------------------------- */

/* Where there is no key to use. */
static int advance_without_key(struct gvm_region_op *op, struct region_node *node,
			       struct region_slab *slab)
{
	if (node->state == NODE_GONE) {
		region_finish_soon(op, -ECANCELED);
		return 0;
	}
	if (node->state == NODE_LOST || (slab->flags & SLAB_LOST)) {
		region_finish_soon(op, -EIO);
		return 0;
	}
	if (op->kind == OP_FETCH && !(slab->flags & SLAB_STORED)) {
		memset(op->buf, 0, (size_t)op->count * GVM_PAGE_SIZE);
		region_finish_soon(op, 0);
		return 0;
	}
	if (node->state != NODE_READY)
		return -EAGAIN;
	if (slab->flags & SLAB_ASKING) {
		park(op, node, slab);
		return 0;
	}
	return ask_key(op, node, slab);
}

static inline int advance_at(struct gvm_region_op *op, struct region_node *node,
			     struct region_slab *slab)
{
	if (likely(slab->key && (op->kind == OP_FETCH || !(slab->flags & SLAB_READONLY))))
		return post(op, node, slab);
	return advance_without_key(op, node, slab);
}

static int advance(struct gvm_region_op *op)
{
	if (op->kind == OP_DISCARD)
		return advance_discard(op);
	return advance_at(op, op_node(op), &op->region->layout.slabs[op_slab(op)]);
}

static void step(struct gvm_region_op *op)
{
	if (op->region->state != REGION_OPEN)
		region_finish_soon(op, -ECANCELED);
	else if (advance(op) == -EAGAIN)
		wait(op);
}

void region_node_drain(struct region_node *node)
{
	struct gvm_region_op *op;

	if (unlikely(node->bye_due))
		region_node_bye(node);
	while (node->state == NODE_READY) {
		op = queue_pop(node->fetches.first ? &node->fetches : &node->puts);
		if (!op)
			return;
		if (advance(op) != -EAGAIN)
			continue;
		if (op_node(op) != node) { /* a discard that has gone on to another one */
			wait(op);
			continue;
		}
		op->state = OP_WAITING;
		queue_push_front(queue_of(node, op), op);
		if (node->state == NODE_READY && node->posted == 0)
			region_node_retry_in(node, REGION_ROOM_NS);
		return;
	}
}

void region_node_wake(struct region_node *node)
{
	struct region_queue lists[] = { node->fetches, node->puts, node->parked };
	struct gvm_region_op *op;

	if (node->state != NODE_LOST && node->state != NODE_GONE) {
		region_node_drain(node);
		return;
	}
	node->fetches = node->puts = node->parked = (struct region_queue){ 0 };
	for (unsigned i = 0; i < 3; i++) {
		while ((op = queue_pop(&lists[i]))) {
			if (op->state == OP_PARKED)
				node->region->layout.slabs[op_slab(op)].waiting--;
			step(op);
		}
	}
}

/* ---- the public ones ------------------------------------------------------------------------ */

static inline int check_span(const struct gvm_region *region, uint64_t page, uint32_t count)
{
	if (unlikely(region->state != REGION_OPEN || count == 0 ||
		     count > GVM_XFER_MAX / GVM_PAGE_SIZE))
		return -EINVAL;
	if (unlikely(page >= region->pages || count > region->pages - page))
		return -ERANGE;
	if (unlikely((page ^ (page + count - 1)) >> region->slab_shift))
		return -EINVAL;
	return 0;
}

int gvm_region_fetch(struct gvm_region *region, uint64_t page, uint32_t count, void *buf,
		     struct gvm_region_op *op)
{
	int rc = check_span(region, page, count);
	uint64_t index = region_slab_of(region, page);
	struct region_slab *slab;
	struct region_node *node;

	if (unlikely(rc))
		return rc;
	slab = &region->layout.slabs[index];
	node = region_home(region, index);
	region_op_init(region, op, OP_FETCH, page, count, buf);
	/* behind those that wait for room; what needs no room does not wait for it */
	if (unlikely((slab->key && node->fetches.first) || advance_at(op, node, slab) == -EAGAIN))
		wait(op);
	return 0;
}

int gvm_region_put(struct gvm_region *region, uint64_t page, uint32_t count, const void *buf,
		   struct gvm_region_op *op)
{
	int rc = check_span(region, page, count);
	uint64_t index = region_slab_of(region, page);
	struct region_slab *slab;
	struct region_node *node;

	if (unlikely(rc))
		return rc;
	if (unlikely(region->flags & GVM_REGION_READONLY))
		return -EPERM;
	slab = &region->layout.slabs[index];
	node = region_home(region, index);
	region_op_init(region, op, OP_PUT, page, count, (void *)buf);
	if (unlikely(node->fetches.first || node->puts.first ||
		     advance_at(op, node, slab) == -EAGAIN))
		wait(op);
	return 0;
}

int gvm_region_discard(struct gvm_region *region, uint64_t page, uint64_t count,
		       struct gvm_region_op *op)
{
	if (region->state != REGION_OPEN || count == 0)
		return -EINVAL;
	if (page >= region->pages || count > region->pages - page)
		return -ERANGE;
	if (region->flags & GVM_REGION_READONLY)
		return -EPERM;
	region_op_init(region, op, OP_DISCARD, page, 0, NULL);
	op->end = page + count;
	op->at = region_slab_of(region, page);
	step(op);
	return 0;
}
