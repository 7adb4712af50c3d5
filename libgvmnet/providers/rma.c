/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A provider over one-sided hardware, whatever kind: docs/rdma.md says how it works, rma.h what a
 * fabric is. In this file: a connection's stream in cells, its life, and the worker's rounds.
 *
 * A cell that arrives is served at once, but nothing is posted while its buffer is not back with
 * the hardware: the credit for it is given with the next cell that is sent, from progress() or
 * flush().
 *
 * Threads: everything here belongs to one worker's thread.
 */
#include "providers/rma_core.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define CELL_IOV 16 /* more frames than these rarely fit a cell */

_Static_assert(GVM_RMA_CELL_HDR == GVM_CELL_LEN, "as on the wire");

static struct gvm_rma *to_rma(struct gvm_prov *prov)
{
	return (struct gvm_rma *)prov;
}

/* ---- lists of connections ------------------------------------------------------------------ */

void gvm_rma_flush_later(struct gvm_rma_conn *conn)
{
	struct gvm_rma_core *core = conn->core;

	if (conn->on_flush)
		return;
	conn->on_flush = 1;
	conn->flush_next = NULL;
	*core->flush_end = conn;
	core->flush_end = &conn->flush_next;
}

void gvm_rma_tell_later(struct gvm_rma_conn *conn)
{
	if (conn->on_late)
		return;
	conn->on_late = 1;
	conn->late_next = conn->core->late;
	conn->core->late = conn;
}

void gvm_rma_starve(struct gvm_rma_conn *conn)
{
	struct gvm_rma_core *core = conn->core;

	if (conn->on_starved)
		return;
	conn->on_starved = 1;
	conn->starved_next = NULL;
	*core->starved_end = conn;
	core->starved_end = &conn->starved_next;
}

/* ---- the end of an endpoint ---------------------------------------------------------------- */

/* Nothing but completions may be told of it from here on. */
static void conn_end(struct gvm_rma_conn *conn, int why, int orderly)
{
	struct gvm_rma_core *core = conn->core;
	const struct gvm_rma_fabric *fabric = core->rma->fabric;
	struct rma_ops ops = { 0 };
	struct gvm_op *op;

	assert(conn->s.state != GVM_STREAM_DEAD);
	gvm_rma_works_orphan(conn, &ops);
	gvm_rma_credits_end(conn);
	fabric->disconnect(conn->ep, orderly);
	if (fabric->takes_back)
		gvm_rma_orphans_free(core); /* there are no others */
	if (core->hungry == conn)
		core->hungry = NULL;
	conn->dead_next = core->dead;
	core->dead = conn;
	gvm_rma_keys_free(conn, &ops);
	gvm_rma_ops_move(&ops, &conn->ready);
	gvm_rma_ops_move(&ops, &conn->ended);
	gvm_stream_end(&conn->s, why);
	gvm_rma_shares_free(conn);
	while ((op = ops.first)) {
		gvm_rma_ops_remove(op);
		gvm_rma_op_end(conn, op, why);
	}
}

void gvm_rma_fail(struct gvm_rma_conn *conn, int why, const char *reason)
{
	if (conn->s.state == GVM_STREAM_DEAD)
		return;
	conn_end(conn, -ECONNRESET, 0);
	if (!conn->silent)
		conn->core->up.closed(&conn->ep->ep, why, reason);
}

void gvm_rma_broken(struct gvm_rma_ep *ep, int why, const char *reason)
{
	gvm_rma_fail(ep->conn, why, reason);
}

static void conn_error(struct gvm_rma_conn *conn)
{
	if (conn->error == -ENOMEM)
		gvm_rma_fail(conn, -ENOMEM, "out of memory");
	else
		gvm_rma_fail(conn, -ECONNRESET, "the hardware has ended the connection");
}

/* ---- cells --------------------------------------------------------------------------------- */

/* The next bytes of the stream, at most so many. */
static uint32_t gather(const struct gvm_stream *s, uint8_t *to, uint32_t most)
{
	struct iovec iov[CELL_IOV];
	int n = gvm_txq_iov(s->tx, iov, CELL_IOV);
	uint32_t len = 0;

	for (int i = 0; i < n && len < most; i++) {
		size_t part = iov[i].iov_len;

		if (part > most - len)
			part = most - len;
		memcpy(to + len, iov[i].iov_base, part);
		len += (uint32_t)part;
	}
	return len;
}

/* Of the stream, in one cell. */
static uint32_t cell_bytes(const struct gvm_rma_conn *conn)
{
	uint32_t cell = conn->core->rma->cell;

	return (cell ? cell : GVM_RMA_CELL) - GVM_RMA_CELL_HDR;
}

/* Post a cell of this header, with what there is of the stream, or without bytes. 0, -EAGAIN, or
 * what is broken. */
static int send_cell(struct gvm_rma_conn *conn, const struct gvm_cell *cell, int has_bytes)
{
	struct gvm_rma_work *work = conn->n_works < GVM_RMA_WORKS ? gvm_rma_work_cell(conn) : NULL;
	uint32_t len;
	int err;

	if (!work)
		return -EAGAIN;
	work->kind = GVM_RMA_SEND;
	gvm_cell_encode(work->buf, cell);
	len = has_bytes ? gather(&conn->s, work->buf + GVM_RMA_CELL_HDR, cell_bytes(conn)) : 0;
	work->len = GVM_RMA_CELL_HDR + len;
	/* there may be nothing but frames that were taken back */
	err = len || !has_bytes ? gvm_rma_work_post(conn, work) : 0;
	if (err || (has_bytes && !len))
		gvm_rma_work_free(conn->core, work);
	if (err)
		return err;
	if (has_bytes)
		gvm_stream_sent(&conn->s, len);
	if (len || !has_bytes)
		gvm_rma_credits_sent(conn, cell, has_bytes);
	return 0;
}

static int send_cells(struct gvm_rma_conn *conn)
{
	struct gvm_cell cell;
	int err = 0;

	while (!err && gvm_stream_has_tx(&conn->s) && conn->credits) {
		gvm_rma_credits_bytes(conn, &cell);
		err = send_cell(conn, &cell, 1);
	}
	gvm_stream_rest(&conn->s);
	while (!err && gvm_rma_credits_due(conn, &cell))
		err = send_cell(conn, &cell, 0);
	return err;
}

/* Post what there is to post. */
static void conn_flush(struct gvm_rma_conn *conn)
{
	int err;

	if (!gvm_rma_is_open(conn))
		return;
	gvm_rma_run_ready(conn);
	err = send_cells(conn);
	if (err == -EAGAIN) {
		gvm_rma_starve(conn);
	} else if (err) {
		conn->error = err;
	}
	if (conn->error || conn->s.want_room)
		gvm_rma_tell_later(conn);
}

static const char *cell_check(const struct gvm_rma_conn *conn, const uint8_t *buf, uint32_t len,
			      struct gvm_cell *cell)
{
	if (len < GVM_RMA_CELL_HDR || len > GVM_RMA_CELL ||
	    gvm_cell_decode(buf, GVM_CELL_LEN, cell))
		return "this is not the gvmnet protocol";
	return gvm_rma_credits_check(conn, cell, len > GVM_RMA_CELL_HDR);
}

void gvm_rma_cell(struct gvm_rma_ep *ep, const uint8_t *buf, uint32_t len)
{
	struct gvm_rma_conn *conn = ep->conn;
	struct gvm_cell cell;
	const char *wrong;

	if (!gvm_rma_is_open(conn))
		return;
	wrong = cell_check(conn, buf, len, &cell);
	if (wrong) {
		gvm_stream_malformed(&conn->s, wrong);
		return;
	}
	ep->ep.last_heard = gvm_rma_now(conn->core);
	gvm_count(&gvm_stream_stats(&conn->s)->bytes_received, len - GVM_RMA_CELL_HDR);
	if (len > GVM_RMA_CELL_HDR)
		gvm_stream_append(&conn->s, buf + GVM_RMA_CELL_HDR, len - GVM_RMA_CELL_HDR);
	if (!gvm_rma_is_open(conn))
		return;
	gvm_rma_credits_take(conn, &cell, len > GVM_RMA_CELL_HDR);
	gvm_rma_flush_later(conn);
	if (conn->s.want_room)
		gvm_rma_tell_later(conn);
}

/* ---- what the stream asks ------------------------------------------------------------------ */

/* Not in the middle of a cell, which brings few frames. */
static void stream_flush(struct gvm_stream *s)
{
}

static void stream_fail(struct gvm_stream *s, int why, const char *reason)
{
	gvm_rma_fail(gvm_rma_of_stream(s), why, reason);
}

static void stream_mapping(struct gvm_stream *s, const struct gvm_hdr *hdr, const uint8_t *body)
{
	struct gvm_rma_conn *conn = gvm_rma_of_stream(s);

	switch (hdr->type) {
	case GVM_T_MAP:
		gvm_rma_map(conn, hdr);
		break;
	case GVM_T_MAPPED:
		gvm_rma_mapped(conn, hdr, body);
		break;
	case GVM_T_UNMAP:
		gvm_rma_unmap(conn, hdr);
		break;
	default:
		gvm_rma_unmapped(conn, hdr);
		break;
	}
}

static const struct gvm_stream_ops stream_ops = {
	.flush = stream_flush,
	.fail = stream_fail,
	.mapping = stream_mapping,
};

/* ---- endpoints ----------------------------------------------------------------------------- */

static struct gvm_rma_conn *conn_new(struct gvm_rma *rma, void *user)
{
	struct gvm_rma_conn *conn = calloc(1, sizeof(*conn));
	struct gvm_rma_ep *ep = calloc(1, rma->fabric->ep_size);

	if (!conn || !ep) {
		free(conn);
		free(ep);
		return NULL;
	}
	ep->ep.ops = rma->core->self;
	ep->ep.prov = (struct gvm_prov *)rma;
	ep->ep.user = user;
	ep->rma = rma;
	ep->conn = conn;
	conn->ep = ep;
	conn->core = rma->core;
	gvm_rma_credits_init(conn);
	gvm_rma_ring_init(&conn->works);
	conn->last_key = &gvm_rma_no_key;
	gvm_stream_init(&conn->s, &rma->core->env, &ep->ep);
	return conn;
}

static void conn_open(struct gvm_rma_conn *conn)
{
	conn->s.state = GVM_STREAM_OPEN;
	conn->ep->ep.last_heard = gvm_rma_now(conn->core);
}

struct gvm_rma_ep *gvm_rma_accept(struct gvm_rma *rma)
{
	struct gvm_rma_conn *conn = conn_new(rma, NULL);

	return conn ? conn->ep : NULL;
}

void gvm_rma_accepted(struct gvm_listener *listener, struct gvm_rma_ep *ep)
{
	conn_open(ep->conn);
	ep->conn->core->up.accepted(ep->rma->host, listener, &ep->ep);
}

void gvm_rma_unaccept(struct gvm_rma_ep *ep)
{
	if (ep->conn->s.state != GVM_STREAM_DEAD)
		conn_end(ep->conn, -ECONNRESET, 0);
}

int gvm_rma_connect(struct gvm_prov *prov, const char *host, unsigned port, void *user,
		    struct gvm_ep **out)
{
	struct gvm_rma *rma = to_rma(prov);
	struct gvm_rma_conn *conn = conn_new(rma, user);
	int err;

	if (!conn)
		return -ENOMEM;
	snprintf(conn->ep->ep.name, sizeof(conn->ep->ep.name), "%.50s:%u", host, port);
	err = rma->fabric->connect(conn->ep, host, port);
	if (err) {
		free(conn->ep);
		free(conn);
		return err;
	}
	*out = &conn->ep->ep;
	return 0;
}

void gvm_rma_connected(struct gvm_rma_ep *ep, int status)
{
	struct gvm_rma_conn *conn = ep->conn;

	if (conn->s.state != GVM_STREAM_NEW)
		return;
	if (status)
		conn_end(conn, status, 0);
	else
		conn_open(conn);
	conn->core->up.connected(&ep->ep, status);
}

void gvm_rma_shut(struct gvm_ep *ep, int why)
{
	struct gvm_rma_conn *conn = gvm_rma_of_ep(ep);
	int orderly = gvm_rma_is_open(conn) && !(conn->s.allowed && why == -ECONNRESET);

	conn->silent = 1;
	if (conn->s.state == GVM_STREAM_DEAD)
		return;
	if (orderly)
		send_cells(conn);
	conn_end(conn, why, orderly);
}

void gvm_rma_allow(struct gvm_ep *ep)
{
	struct gvm_rma_conn *conn = gvm_rma_of_ep(ep);
	const struct gvm_rma_fabric *fabric = conn->core->rma->fabric;

	conn->s.allowed = 1;
	if (fabric->allow)
		fabric->allow(conn->ep);
}

int gvm_rma_send(struct gvm_ep *ep, const struct gvm_hdr *hdr, const void *payload)
{
	struct gvm_rma_conn *conn = gvm_rma_of_ep(ep);
	int err = gvm_stream_send(&conn->s, hdr, payload);

	if (!err)
		gvm_rma_flush_later(conn);
	return err;
}

/* ---- listening ----------------------------------------------------------------------------- */

int gvm_rma_listen(struct gvm_prov *prov, const char *host, unsigned port,
		   struct gvm_listener **listener, unsigned *bound_port)
{
	struct gvm_rma *rma = to_rma(prov);
	struct gvm_listener *l = calloc(1, sizeof(*l));
	unsigned bound = port;
	int err;

	if (!l)
		return -ENOMEM;
	l->rma = rma;
	err = rma->fabric->listen(rma, l, host, port, &bound);
	if (err) {
		free(l);
		return err;
	}
	*listener = l;
	if (bound_port)
		*bound_port = bound;
	return 0;
}

void gvm_rma_unlisten(struct gvm_listener *l)
{
	l->rma->fabric->unlisten(l->rma, l);
	free(l);
}

/* ---- rounds -------------------------------------------------------------------------------- */

/* Those that found no room try again, in the order in which they came. */
static COLD void feed_starved(struct gvm_rma_core *core)
{
	struct gvm_rma_conn *list = core->starved, *conn;

	core->room = 0;
	core->starved = NULL;
	core->starved_end = &core->starved;
	while ((conn = list)) {
		list = conn->starved_next;
		conn->on_starved = 0;
		conn_flush(conn);
	}
}

static COLD void flush_conns(struct gvm_rma_core *core)
{
	struct gvm_rma_conn *conn;

	while ((conn = core->flush)) {
		core->flush = conn->flush_next;
		if (!core->flush)
			core->flush_end = &core->flush;
		conn->on_flush = 0;
		conn_flush(conn);
	}
}

void gvm_rma_flush(struct gvm_prov *prov)
{
	struct gvm_rma *rma = to_rma(prov);
	struct gvm_rma_core *core = rma->core;

	if (core->room && core->starved)
		feed_starved(core);
	if (core->flush)
		flush_conns(core);
	rma->fabric->ring(rma);
}

static void tell_one(struct gvm_rma_conn *conn)
{
	struct gvm_op *op;

	if (conn->error) {
		conn_error(conn);
		return;
	}
	while ((op = conn->ended.first)) {
		gvm_rma_ops_remove(op);
		gvm_rma_op_end(conn, op, (int)(int64_t)op->prov[0]);
	}
	if (!conn->s.want_room || conn->n_ops >= GVM_SLOTS || !gvm_stream_has_room(&conn->s, 2))
		return;
	conn->s.want_room = 0;
	conn->core->up.writable(&conn->ep->ep);
}

static COLD int tell(struct gvm_rma_core *core)
{
	struct gvm_rma_conn *list = core->late, *conn;
	int n = 0;

	core->late = NULL;
	while ((conn = list)) {
		list = conn->late_next;
		conn->on_late = 0;
		if (!gvm_rma_is_open(conn))
			continue;
		n++;
		tell_one(conn);
	}
	return n;
}

static COLD void bury(struct gvm_rma_core *core)
{
	struct gvm_rma_conn *list = core->dead, *conn;

	core->dead = NULL;
	while ((conn = list)) {
		list = conn->dead_next;
		if (conn->on_flush || conn->on_late || conn->on_starved) {
			conn->dead_next = core->dead;
			core->dead = conn;
			continue;
		}
		gvm_stream_free(&conn->s);
		free(conn->ep);
		free(conn);
	}
}

/* Memory of which any thread has noted that it is withdrawn. */
static COLD int withdraw(struct gvm_rma_core *core)
{
	atomic_store(&core->any_noted, 0);
	return gvm_rma_shares_withdraw(core) + gvm_rma_locals_withdraw(core);
}

static int rounds(struct gvm_rma *rma)
{
	struct gvm_rma_core *core = rma->core;
	int n = atomic_load(&core->any_noted) ? withdraw(core) : 0;

	/* a queue may also have room for reasons of its own, e.g. a path that is now there */
	if (core->starved)
		feed_starved(core);
	gvm_rma_flush((struct gvm_prov *)rma);
	if (core->late)
		n += tell(core);
	if (core->dead)
		bury(core);
	return n;
}

int gvm_rma_progress(struct gvm_prov *prov)
{
	struct gvm_rma *rma = to_rma(prov);
	int n = rma->fabric->poll(rma);

	return n + rounds(rma);
}

int gvm_rma_peek(struct gvm_prov *prov)
{
	struct gvm_rma *rma = to_rma(prov);
	int n = rma->fabric->poll(rma);

	return n ? n + rounds(rma) : 0;
}

int gvm_rma_arm(struct gvm_prov *prov)
{
	struct gvm_rma *rma = to_rma(prov);
	struct gvm_rma_core *core = rma->core;

	if (core->flush || core->late || atomic_load(&core->any_noted))
		return 1;
	if (core->starved && (core->room || !core->n_works))
		return 1;
	return rma->fabric->arm(rma);
}

/* ---- the device goes and comes ------------------------------------------------------------- */

void gvm_rma_lost(struct gvm_rma *rma)
{
	assert(!rma->core->n_works);
	gvm_rma_lingerers_free(rma->core);
	gvm_rma_locals_close(rma->core);
	gvm_rma_bufs_dereg(rma->core);
}

int gvm_rma_back(struct gvm_rma *rma)
{
	return gvm_rma_bufs_reg(rma->core);
}

/* ---- the worker's end and beginning -------------------------------------------------------- */

static int core_new(struct gvm_rma *rma, const struct gvm_provider_ops *self)
{
	struct gvm_rma_core *core = calloc(1, sizeof(*core));

	if (!core)
		return -ENOMEM;
	core->rma = rma;
	core->fabric = rma->fabric;
	core->post = rma->fabric->post;
	gvm_rma_ring_init(&core->orphans);
	core->last_local = &gvm_rma_no_local;
	core->takes_back = rma->fabric->takes_back;
	core->stats = rma->up->stats(rma->host);
	core->clock = rma->up->clock(rma->host);
	core->self = self;
	core->up = *rma->up;
	core->completed = rma->up->completed;
	core->up.completed = gvm_rma_soft_completed;
	core->env =
	    (struct gvm_stream_env){ .host = rma->host, .up = &core->up, .ops = &stream_ops };
	core->flush_end = &core->flush;
	core->starved_end = &core->starved;
	core->spare = GVM_RMA_LEND;
	gvm_rma_shares_open(core);
	rma->core = core;
	return 0;
}

static void core_free(struct gvm_rma_core *core)
{
	gvm_rma_shares_close(core);
	gvm_txq_pool_drain(&core->env.txqs);
	free(core);
}

int gvm_rma_open(const struct gvm_rma_fabric *fabric, const struct gvm_provider_ops *self,
		 struct gvm_host *host, const struct gvm_host_ops *ops, const char *args,
		 struct gvm_prov **out)
{
	struct gvm_rma *rma = calloc(1, fabric->prov_size);
	int err = -ENOMEM;

	if (!rma)
		return -ENOMEM;
	rma->host = host;
	rma->up = ops;
	rma->fabric = fabric;
	err = core_new(rma, self);
	if (err)
		goto free_rma;
	err = fabric->open(rma, args ? args : "");
	if (err)
		goto free_core;
	err = gvm_rma_bufs_open(rma->core);
	if (err)
		goto close;
	*out = (struct gvm_prov *)rma;
	return 0;

close:
	fabric->stop(rma);
	gvm_rma_bufs_close(rma->core);
	fabric->close(rma);
free_core:
	core_free(rma->core);
free_rma:
	free(rma);
	return err;
}

void gvm_rma_close(struct gvm_prov *prov)
{
	struct gvm_rma *rma = to_rma(prov);
	struct gvm_rma_core *core = rma->core;

	rma->fabric->stop(rma);
	gvm_rma_lingerers_free(core);
	gvm_rma_orphans_free(core);
	gvm_rma_locals_close(core);
	feed_starved(core); /* unlinks the dead from the lists, as do the others */
	gvm_rma_flush(prov);
	tell(core);
	bury(core);
	assert(!core->dead && !core->n_works);
	gvm_rma_bufs_close(core);
	rma->fabric->close(rma);
	core_free(core);
	free(rma);
}
