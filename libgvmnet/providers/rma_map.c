/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fetch and put over one-sided hardware: this side is the client.
 *
 * An operation goes from conn->ready to whoever can do it:
 *
 *     fetch(), put() --> ready --+-- key not known, asked or going --> key->wait --> ready
 *                                +-- hard --> a read or write of the hardware
 *                                |    +-- not for the hardware to do: as soft
 *                                +-- soft --> FETCH and PUT of the stream
 *
 * State of a key: none -> ASKED (MAP was sent) -> HARD (MAPPED with what the hardware needs) | SOFT
 * (it cannot be reached) | none (refused: what waits ends); HARD -> GOING (UNMAP has come,
 * something is under way) -> none (UNMAPPED was sent; what waits asks again).
 */
#include "providers/rma_core.h"

#include <assert.h>
#include <string.h>

/* So many keys are remembered to be soft; of more the oldest is forgotten, and asked for again. */
#define SOFT_MAX 1024u

/* An operation with a nearer deadline than this is copied. */
#define DIRECT_NS 1000000000ull

/* ---- lists of operations ------------------------------------------------------------------- */

static struct gvm_op *ptr_op(uint64_t value)
{
	return (struct gvm_op *)(uintptr_t)value;
}

void gvm_rma_ops_add(struct rma_ops *list, struct gvm_op *op)
{
	op->prov[1] = (uintptr_t)list;
	op->prov[2] = 0;
	op->prov[3] = (uintptr_t)list->last;
	if (list->last)
		list->last->prov[2] = (uintptr_t)op;
	else
		list->first = op;
	list->last = op;
}

static void ops_add_first(struct rma_ops *list, struct gvm_op *op)
{
	op->prov[1] = (uintptr_t)list;
	op->prov[2] = (uintptr_t)list->first;
	op->prov[3] = 0;
	if (list->first)
		list->first->prov[3] = (uintptr_t)op;
	else
		list->last = op;
	list->first = op;
}

void gvm_rma_ops_remove(struct gvm_op *op)
{
	struct rma_ops *list = (struct rma_ops *)(uintptr_t)op->prov[1];
	struct gvm_op *next = ptr_op(op->prov[2]), *prev = ptr_op(op->prov[3]);

	if (prev)
		prev->prov[2] = (uintptr_t)next;
	else
		list->first = next;
	if (next)
		next->prov[3] = (uintptr_t)prev;
	else
		list->last = prev;
}

void gvm_rma_ops_move(struct rma_ops *list, struct rma_ops *from)
{
	struct gvm_op *op;

	while ((op = from->first)) {
		gvm_rma_ops_remove(op);
		gvm_rma_ops_add(list, op);
	}
}

/* ---- the ends of operations ---------------------------------------------------------------- */

void gvm_rma_op_end(struct gvm_rma_conn *conn, struct gvm_op *op, int status)
{
	conn->n_ops--;
	conn->core->completed(&conn->ep->ep, op, status);
}

/* Core is told by progress(), as fetch() and put() tell nothing. */
static void end_later(struct gvm_rma_conn *conn, struct gvm_op *op, int status)
{
	op->prov[0] = (uint64_t)(int64_t)status;
	gvm_rma_ops_add(&conn->ended, op);
	gvm_rma_tell_later(conn);
}

/* ---- keys ---------------------------------------------------------------------------------- */

struct rma_key gvm_rma_no_key = { .state = KEY_ASKED };

static struct rma_key *find_key(const struct gvm_rma_conn *conn, uint64_t key)
{
	return (struct rma_key *)rma_table_find(&conn->keys, key);
}

static void soft_add(struct gvm_rma_conn *conn, struct rma_key *key)
{
	key->state = KEY_SOFT;
	key->newer = NULL;
	key->older = conn->soft_last;
	if (key->older)
		key->older->newer = key;
	else
		conn->soft_first = key;
	conn->soft_last = key;
	conn->n_soft++;
}

static void soft_remove(struct gvm_rma_conn *conn, struct rma_key *key)
{
	if (key->older)
		key->older->newer = key->newer;
	else
		conn->soft_first = key->newer;
	if (key->newer)
		key->newer->older = key->older;
	else
		conn->soft_last = key->older;
	conn->n_soft--;
}

/* What waits for it is ready again, and asks anew. */
static void key_forget(struct gvm_rma_conn *conn, struct rma_key *key)
{
	if (key->state == KEY_SOFT)
		soft_remove(conn, key);
	if (conn->last_key == key)
		conn->last_key = &gvm_rma_no_key;
	rma_table_remove(&conn->keys, &key->node);
	gvm_rma_ops_move(&conn->ready, &key->wait);
	free(key);
	if (conn->ready.first)
		gvm_rma_flush_later(conn);
}

static int say(struct gvm_rma_conn *conn, enum gvm_wire_type type, uint64_t key)
{
	struct gvm_hdr hdr = { .type = type, .region = key };
	struct gvm_txent ent = { 0 };
	int err = gvm_stream_push(&conn->s, &hdr, NULL, 0, &ent);

	if (!err)
		gvm_rma_flush_later(conn);
	return err;
}

static int key_ask(struct gvm_rma_conn *conn, uint64_t number, struct rma_key **out)
{
	struct rma_key *key = calloc(1, sizeof(*key));
	int err;

	if (!key)
		return -ENOMEM;
	key->node.key = number;
	key->state = KEY_ASKED;
	err = rma_table_add(&conn->keys, &key->node);
	if (err)
		goto free_key;
	err = say(conn, GVM_T_MAP, number);
	if (err)
		goto forget;
	*out = key;
	return 0;

forget:
	rma_table_remove(&conn->keys, &key->node);
free_key:
	free(key);
	return err;
}

void gvm_rma_keys_free(struct gvm_rma_conn *conn, struct rma_ops *ops)
{
	struct rma_node *node;

	conn->last_key = &gvm_rma_no_key;
	while ((node = rma_table_pop(&conn->keys))) {
		gvm_rma_ops_move(ops, &((struct rma_key *)node)->wait);
		free(node);
	}
}

/* ---- posting ------------------------------------------------------------------------------- */

/* -EPERM: not by hardware. */
static HOT int may_reach(const struct gvm_mapped *at, const struct gvm_op *op,
			 enum gvm_op_kind kind)
{
	unsigned access = kind == GVM_OP_FETCH ? GVM_ACCESS_FETCH : GVM_ACCESS_PUT;

	if (!(at->access & access))
		return -EPERM;
	if (op->offset > at->len || op->len > at->len - op->offset)
		return -ERANGE;
	return 0;
}

static struct rma_local *local_of(struct gvm_rma_core *core, struct gvm_mem *mem)
{
	return mem && core->takes_back ? gvm_rma_local_find(core, mem) : &gvm_rma_no_local;
}

/* Whether the operation may have its own buffer in the hardware. */
static HOT int goes_direct(const struct rma_local *local, const struct gvm_op *op, uint64_t now)
{
	return local->state == LOCAL_LIVE && op->expires >= now + DIRECT_NS;
}

/* By way of a bounce buffer. NULL: there is none. */
static struct gvm_rma_work *work_copied(struct gvm_rma_conn *conn, const struct gvm_op *op)
{
	struct gvm_rma_work *work = gvm_rma_work_new(conn, op->len);

	if (work && op->kind == GVM_OP_PUT)
		memcpy(work->buf, op->buf, op->len);
	if (work && conn->core->rma->late_ms)
		work->since = gvm_rma_now(conn->core);
	return work;
}

/* From and to the operation's own buffer. */
static HOT struct gvm_rma_work *make_direct(struct gvm_rma_work *work, struct gvm_rma_conn *conn,
					    const struct gvm_op *op, struct rma_local *local)
{
	local->under_way++;
	work->ep = conn->ep;
	work->local = local;
	work->buf = op->buf;
	work->reg = &local->reg;
	return work;
}

/* What was given to the hardware was not taken. Returns err. */
static COLD int take_back(struct gvm_rma_conn *conn, const struct gvm_op *op, int err)
{
	struct gvm_rma_work *work = (struct gvm_rma_work *)(uintptr_t)op->prov[2];

	((struct rma_key *)work->map)->under_way--;
	gvm_rma_work_free(conn->core, work);
	return err;
}

/* 0: the hardware has it. */
static HOT int post_work(struct gvm_rma_conn *conn, struct rma_key *key, struct gvm_op *op,
			 enum gvm_op_kind kind, struct gvm_rma_work *work)
{
	int err;

	work->kind = kind == GVM_OP_FETCH ? GVM_RMA_READ : GVM_RMA_WRITE;
	work->op = op;
	op->prov[1] = IN_HARDWARE;
	work->map = key;
	op->prov[2] = (uintptr_t)work;
	work->len = op->len;
	work->remote_key = key->at.rkey;
	work->remote_addr = key->at.base + op->offset;
	key->under_way++;
	err = gvm_rma_work_post(conn, work);
	return err ? take_back(conn, op, err) : 0;
}

/* The operation is in no list. 0: the hardware has it. */
static int post_hard(struct gvm_rma_conn *conn, struct rma_key *key, struct gvm_op *op)
{
	struct rma_local *local = local_of(conn->core, op->mem);
	struct gvm_rma_work *work;

	if (conn->n_works >= GVM_RMA_WORKS)
		return -EAGAIN;
	if (!goes_direct(local, op, gvm_rma_now(conn->core))) {
		work = work_copied(conn, op);
	} else {
		work = gvm_rma_work_alloc(conn->core);
		if (work)
			make_direct(work, conn, op, local);
	}
	return work ? post_work(conn, key, op, op->kind, work) : -EAGAIN;
}

/* A fetch of what a put that the stream has is about to change: it is to see that. */
static int follows_put(const struct gvm_rma_conn *conn, const struct gvm_op *op)
{
	return conn->soft_puts && op->kind == GVM_OP_FETCH &&
	       (!conn->puts_key || conn->puts_key == op->key) && op->offset < conn->puts_end &&
	       op->offset + op->len > conn->puts_begin;
}

static void soft_put_add(struct gvm_rma_conn *conn, const struct gvm_op *op)
{
	if (!conn->soft_puts++) {
		conn->puts_key = op->key;
		conn->puts_begin = op->offset;
		conn->puts_end = op->offset + op->len;
		return;
	}
	if (conn->puts_key != op->key)
		conn->puts_key = 0;
	if (op->offset < conn->puts_begin)
		conn->puts_begin = op->offset;
	if (op->offset + op->len > conn->puts_end)
		conn->puts_end = op->offset + op->len;
}

static int post_soft(struct gvm_rma_conn *conn, struct gvm_op *op)
{
	int err = op->kind == GVM_OP_FETCH ? gvm_stream_fetch(&conn->s, op)
					   : gvm_stream_put(&conn->s, op);

	if (err)
		return err;
	op->prov[1] = IN_STREAM;
	if (op->kind == GVM_OP_PUT)
		soft_put_add(conn, op);
	gvm_rma_flush_later(conn);
	return 0;
}

static struct rma_key *known_key(struct gvm_rma_conn *conn, uint64_t number)
{
	struct rma_key *key = conn->last_key;

	if (key->node.key == number && key != &gvm_rma_no_key)
		return key;
	key = find_key(conn, number);
	conn->last_key = key ? key : &gvm_rma_no_key;
	return key;
}

/* What the hardware may not do at all, the other side's core may: it knows whether. */
static int post_reach(struct gvm_rma_conn *conn, struct rma_key *key, struct gvm_op *op)
{
	int err = may_reach(&key->at, op, op->kind);

	if (err == -EPERM || (!err && follows_put(conn, op)))
		return post_soft(conn, op);
	if (!err)
		return post_hard(conn, key, op);
	end_later(conn, op, err);
	return 0;
}

/* The first of conn->ready moves on; or a negative errno, then it does not. */
static int route(struct gvm_rma_conn *conn, struct gvm_op *op)
{
	struct rma_key *key = known_key(conn, op->key);
	int err = key ? 0 : key_ask(conn, op->key, &key);

	if (err)
		return err;
	gvm_rma_ops_remove(op);
	if (key->state == KEY_HARD) {
		err = post_reach(conn, key, op);
	} else if (key->state == KEY_SOFT) {
		err = post_soft(conn, op);
	} else {
		gvm_rma_ops_add(&key->wait, op);
	}
	if (err)
		ops_add_first(&conn->ready, op);
	return err;
}

void gvm_rma_run_ready(struct gvm_rma_conn *conn)
{
	int err = 0;

	if (conn->core->hungry == conn)
		conn->core->hungry = NULL;
	while (conn->ready.first && !err)
		err = route(conn, conn->ready.first);
	if (!err)
		return;
	if (err == -EAGAIN) {
		gvm_rma_starve(conn);
		return;
	}
	conn->error = err;
	gvm_rma_tell_later(conn);
}

static COLD int post_in_turn(struct gvm_rma_conn *conn, struct gvm_op *op)
{
	gvm_rma_ops_add(&conn->ready, op);
	/* One that is not the first waits for whatever those before it wait for. */
	if (conn->ready.first == op)
		gvm_rma_run_ready(conn);
	gvm_rma_flush_later(conn);
	return 0;
}

static __attribute__((noinline)) int post_any(struct gvm_rma_conn *conn, struct gvm_op *op)
{
	struct rma_key *key;

	if (!gvm_rma_is_open(conn))
		return conn->s.state == GVM_STREAM_DEAD ? -ECONNRESET : -ENOTCONN;
	if (conn->n_ops >= GVM_SLOTS) {
		conn->s.want_room = 1;
		return -EAGAIN;
	}
	conn->n_ops++;
	key = known_key(conn, op->key);
	if (conn->ready.first || !key || key->state != KEY_HARD ||
	    may_reach(&key->at, op, op->kind) || follows_put(conn, op) || post_hard(conn, key, op))
		return post_in_turn(conn, op);
	return 0;
}

/* Nobody waits, there is room for one that goes directly, and the time is known. */
static HOT int has_room_at_once(const struct gvm_rma_conn *conn)
{
	const struct gvm_rma_core *core = conn->core;

	return gvm_rma_is_open(conn) && conn->n_ops < GVM_SLOTS && !conn->ready.first &&
	       conn->n_works < GVM_RMA_WORKS && core->free_works && *core->clock;
}

/* Key and buffer are those of the one before, and good for it. */
static HOT int is_as_before(const struct gvm_rma_conn *conn, const struct gvm_op *op,
			    enum gvm_op_kind kind)
{
	const struct rma_local *local = conn->core->last_local;
	const struct rma_key *key = conn->last_key;

	return local->node.key == (uintptr_t)op->mem &&
	       goes_direct(local, op, *conn->core->clock) && key->node.key == op->key &&
	       key->state == KEY_HARD && !may_reach(&key->at, op, kind);
}

static HOT int post_op(struct gvm_ep *ep, struct gvm_op *op, enum gvm_op_kind kind)
{
	struct gvm_rma_conn *conn = gvm_rma_of_ep(ep);
	struct gvm_rma_core *core = conn->core;
	struct gvm_rma_work *work = core->free_works;

	if (!has_room_at_once(conn) || !is_as_before(conn, op, kind))
		return post_any(conn, op);
	conn->n_ops++;
	core->free_works = work->next;
	make_direct(work, conn, op, core->last_local);
	return post_work(conn, conn->last_key, op, kind, work) ? post_in_turn(conn, op) : 0;
}

int gvm_rma_fetch(struct gvm_ep *ep, struct gvm_op *op)
{
	return post_op(ep, op, GVM_OP_FETCH);
}

int gvm_rma_put(struct gvm_ep *ep, struct gvm_op *op)
{
	return post_op(ep, op, GVM_OP_PUT);
}

int gvm_rma_cancel(struct gvm_ep *ep, struct gvm_op *op)
{
	struct gvm_rma_conn *conn = gvm_rma_of_ep(ep);
	struct gvm_rma_work *work;
	int err = 0;

	if (op->prov[1] == IN_STREAM) {
		err = gvm_stream_cancel(&conn->s, op);
		conn->soft_puts -= !err && op->kind == GVM_OP_PUT;
	} else if (op->prov[1] == IN_HARDWARE) {
		work = (struct gvm_rma_work *)(uintptr_t)op->prov[2];
		if (work->local)
			return -EBUSY;
		/* Its bytes are in the work's buffer, which nobody looks at any more. */
		work->op = NULL;
	} else {
		gvm_rma_ops_remove(op);
		/* it may have been what held up the others */
		gvm_rma_flush_later(conn);
	}
	if (err)
		return err;
	conn->n_ops--;
	if (conn->s.want_room)
		gvm_rma_tell_later(conn);
	return 0;
}

/* ---- what ends ----------------------------------------------------------------------------- */

static void unmapped(struct gvm_rma_conn *conn, struct rma_key *key)
{
	int err = say(conn, GVM_T_UNMAPPED, key->node.key);

	key_forget(conn, key);
	if (!err)
		return;
	conn->error = err;
	gvm_rma_tell_later(conn);
}

/* The bytes are where they belong: count them, and the other side is there. */
static HOT void work_arrived(struct gvm_rma_core *core, const struct gvm_rma_work *work,
			     uint64_t now)
{
	work->ep->ep.last_heard = now;
	if (work->kind == GVM_RMA_READ)
		gvm_count(&core->stats->bytes_received, work->len);
	else
		gvm_count(&core->stats->bytes_sent, work->len);
}

/* It may have been read when the memory was another's already. */
static int is_late(const struct gvm_rma_conn *conn, const struct gvm_rma_work *work)
{
	const struct gvm_rma_core *core = conn->core;

	return core->rma->late_ms && work->kind == GVM_RMA_READ && !work->local &&
	       core->up.now(core->rma->host) - work->since > core->rma->late_ms * 1000000ull;
}

/* A read or write has ended, and its work is still there. */
static void transfer_done(struct gvm_rma_conn *conn, const struct gvm_rma_work *work, int status)
{
	struct gvm_op *op = work->op;
	struct rma_key *key = work->map;

	if (!status)
		work_arrived(conn->core, work, gvm_rma_now(conn->core));
	if (!status && op && is_late(conn, work)) {
		gvm_rma_ops_add(&conn->ready, op);
		gvm_rma_flush_later(conn);
		op = NULL;
	}
	if (!status && op && !work->local && work->kind == GVM_RMA_READ)
		memcpy(op->buf, work->buf, work->len);
	if (op)
		gvm_rma_op_end(conn, op, status ? -ECONNRESET : 0);
	if (--key->under_way == 0 && key->state == KEY_GOING)
		unmapped(conn, key);
}

/* Any work, with any end. */
static __attribute__((noinline)) void work_done(struct gvm_rma_work *work, int status)
{
	struct gvm_rma_conn *conn = work->ep ? work->ep->conn : NULL;
	struct gvm_rma_core *core = gvm_rma_core_of(work);

	gvm_rma_work_unlink(core, work);
	if (conn) {
		conn->n_works--;
		if (work->map)
			transfer_done(conn, work, status);
		if (status && !conn->error)
			conn->error = -ECONNRESET;
		if (conn->error || conn->s.want_room)
			gvm_rma_tell_later(conn);
	}
	gvm_rma_work_free(core, work);
}

/* Most are reads and writes of an operation's own buffer, end well, and nobody waits for that but
 * the operation. */
static HOT int ends_as_most(const struct gvm_rma_work *work, int status)
{
	const struct rma_local *local = work->local;
	const struct rma_key *key = work->map;
	const struct gvm_rma_conn *conn;

	if (status || !local || !work->ep)
		return 0;
	conn = work->ep->conn;
	return key->state == KEY_HARD && local->state == LOCAL_LIVE && !conn->error &&
	       !conn->s.want_room && *conn->core->clock;
}

void gvm_rma_done(struct gvm_rma_work *work, int status)
{
	struct rma_local *local = work->local;
	struct gvm_rma_ep *ep = work->ep;
	struct rma_key *key = work->map;
	struct gvm_rma_conn *conn;
	struct gvm_rma_core *core;

	if (!ends_as_most(work, status)) {
		work_done(work, status);
		return;
	}
	conn = ep->conn;
	core = conn->core;
	work_arrived(core, work, *core->clock);
	gvm_rma_work_unlink(core, work);
	conn->n_works--;
	key->under_way--;
	local->under_way--;
	conn->n_ops--;
	gvm_rma_work_keep(core, work);
	core->completed(&ep->ep, work->op, 0);
}

void gvm_rma_soft_completed(struct gvm_ep *ep, struct gvm_op *op, int status)
{
	struct gvm_rma_conn *conn = gvm_rma_of_ep(ep);
	struct rma_key *key = status == -ENOENT ? find_key(conn, op->key) : NULL;

	if (key && key->state == KEY_SOFT)
		key_forget(conn, key);
	conn->soft_puts -= op->kind == GVM_OP_PUT;
	gvm_rma_op_end(conn, op, status);
}

/* ---- what the other side says -------------------------------------------------------------- */

/* It will not: all that waits ends. */
static void refused(struct gvm_rma_conn *conn, struct rma_key *key, int status)
{
	struct gvm_op *op;

	while ((op = key->wait.first)) {
		gvm_rma_ops_remove(op);
		gvm_rma_op_end(conn, op, status);
	}
	key_forget(conn, key);
}

void gvm_rma_mapped(struct gvm_rma_conn *conn, const struct gvm_hdr *hdr, const uint8_t *body)
{
	struct rma_key *key = find_key(conn, hdr->region);

	if (!key || key->state != KEY_ASKED) {
		gvm_stream_malformed(&conn->s, "a mapping that was not asked for");
		return;
	}
	if (hdr->status && hdr->status != GVM_ST_NOTSUP) {
		refused(conn, key, gvm_wire_errno(hdr->status));
		return;
	}
	if (hdr->status) {
		soft_add(conn, key);
	} else if (gvm_mapped_decode(body, hdr->length, &key->at)) {
		gvm_stream_malformed(&conn->s, "a malformed mapping");
		return;
	} else {
		key->state = KEY_HARD;
	}
	gvm_rma_ops_move(&conn->ready, &key->wait);
	gvm_rma_flush_later(conn);
	if (conn->n_soft > SOFT_MAX)
		key_forget(conn, conn->soft_first);
}

void gvm_rma_unmap(struct gvm_rma_conn *conn, const struct gvm_hdr *hdr)
{
	struct rma_key *key = find_key(conn, hdr->region);

	if (!key || key->state != KEY_HARD) {
		gvm_stream_malformed(&conn->s, "the end of a mapping that there is not");
		return;
	}
	key->state = KEY_GOING;
	if (!key->under_way)
		unmapped(conn, key);
}
