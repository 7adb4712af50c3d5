/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Receive buffers. They are the worker's, and are posted
 *
 *   - to the shared receive queue of a lane, as many as its connections hold together; a completion
 *     names the buffer, and its queue pair the connection; or
 *   - where there is none (iWARP, or a device that has none), to the queue of each connection, as
 *     many as that holds; a completion names connection and buffer.
 *
 * A queue pair of its own gives its buffers back when it is destroyed. From a shared queue none
 * comes back but by a completion, and libraries of devices forget the completions of a queue pair
 * that is destroyed. So it is stopped first, the device says when it has taken its last buffer
 * (IBV_EVENT_QP_LAST_WQE_REACHED), and what is in the completion queue is put aside. Where a device
 * does not say it, as many buffers as the connection held may be lost, and others are posted in
 * their place; those that were not lost are too many then, which shows when the queue is full.
 */
#include "providers/verbs.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#define LAST_WAIT_NS 5000000ull

/* ---- the worker's buffers ------------------------------------------------------------------ */

static int more_chunks(struct verbs *v)
{
	unsigned room = v->chunk_room ? 2 * v->chunk_room : 16;
	struct verbs_chunk **at = realloc(v->chunks, room * sizeof(struct verbs_chunk *));

	if (!at)
		return -ENOMEM;
	v->chunks = at;
	v->chunk_room = room;
	return 0;
}

static int chunk_new(struct verbs *v)
{
	struct verbs_chunk *c;

	if (v->chunk_count == v->chunk_room && more_chunks(v))
		return -ENOMEM;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->at = verbs_pin(v, VERBS_BUFS * GVM_RMA_CELL, 0, &c->mr);
	if (!c->at) {
		free(c);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < VERBS_BUFS; i++) {
		struct verbs_buf *buf = &c->buf[i];

		buf->number = v->chunk_count * VERBS_BUFS + i;
		buf->sge.addr = (uintptr_t)c->at + (size_t)i * GVM_RMA_CELL;
		buf->sge.length = GVM_RMA_CELL;
		buf->sge.lkey = c->mr->lkey;
		buf->wr.sg_list = &buf->sge;
		buf->wr.num_sge = 1;
		buf->next = v->bufs;
		v->bufs = buf;
	}
	v->chunks[v->chunk_count++] = c;
	return 0;
}

static struct verbs_buf *buf_get(struct verbs *v)
{
	struct verbs_buf *buf;

	if (!v->bufs && chunk_new(v))
		return NULL;
	buf = v->bufs;
	v->bufs = buf->next;
	return buf;
}

static void buf_put(struct verbs *v, struct verbs_buf *buf)
{
	buf->next = v->bufs;
	v->bufs = buf;
}

void verbs_bufs_close(struct verbs *v)
{
	while (v->chunk_count) {
		struct verbs_chunk *c = v->chunks[--v->chunk_count];

		verbs_unpin(c->at, VERBS_BUFS * GVM_RMA_CELL, c->mr);
		free(c);
	}
	free(v->chunks);
	v->chunks = NULL;
	v->chunk_room = 0;
	v->bufs = NULL;
}

/* ---- a queue of its own -------------------------------------------------------------------- */

static void repost(struct verbs_conn *conn, unsigned i)
{
	struct ibv_recv_wr *wr = &conn->recv[i]->wr;
	struct verbs *v = conn->v;

	wr->next = NULL;
	if (conn->recv_last)
		conn->recv_last->next = wr;
	else
		conn->recv_first = wr;
	conn->recv_last = wr;
	if (conn->in_ring)
		return;
	conn->in_ring = 1;
	conn->ring_next = v->ring;
	v->ring = conn;
}

static int add_own(struct verbs_conn *conn)
{
	struct verbs_buf *buf = buf_get(conn->v);
	unsigned i = 0;

	if (!buf)
		return -ENOMEM;
	while (conn->recv[i])
		i++;
	buf->wr.wr_id = verbs_receive_id(conn, i);
	conn->recv[i] = buf;
	conn->recvs++;
	repost(conn, i);
	return 0;
}

static void remove_own(struct verbs_conn *conn, unsigned i)
{
	buf_put(conn->v, conn->recv[i]);
	conn->recv[i] = NULL;
	conn->recvs--;
}

int verbs_post_receives(struct verbs_conn *conn)
{
	struct ibv_recv_wr *bad;
	int err = 0;

	if (conn->recv_first)
		err = ibv_post_recv(conn->qp, conn->recv_first, &bad);
	conn->recv_first = conn->recv_last = NULL;
	return verbs_negative(err);
}

void verbs_receive_again(struct verbs_conn *conn, unsigned i)
{
	if (conn->recvs > conn->recvs_wanted)
		remove_own(conn, i);
	else
		repost(conn, i);
}

/* ---- a shared one -------------------------------------------------------------------------- */

int verbs_srq_open(struct verbs *v, struct verbs_lane *lane)
{
	struct ibv_srq_init_attr init = { .srq_context = lane };
	unsigned most =
	    v->attr.max_srq > 0 && v->attr.max_srq_wr > 0 ? (unsigned)v->attr.max_srq_wr : 0;

	/* iWARP has no time in which a receiver may be not ready: one peer that sends more than it
	 * may would end the connections of others. */
	if (v->iwarp || most < GVM_RMA_LEND + VERBS_LANE * GVM_RMA_FIRST)
		return 0;
	if (lane->room > (most - GVM_RMA_LEND) / GVM_RMA_FIRST)
		lane->room = (most - GVM_RMA_LEND) / GVM_RMA_FIRST;
	lane->depth = lane->room * GVM_RMA_FIRST + GVM_RMA_LEND;
	init.attr = (struct ibv_srq_attr){ .max_wr = lane->depth, .max_sge = 1 };
	errno = 0;
	lane->srq = ibv_create_srq(v->pd, &init);
	if (lane->srq || errno == ENOMEM)
		return lane->srq ? 0 : verbs_told_limit(v, ENOMEM, lane->depth * 64);
	gvm_log(GVM_LOG_INFO, "%s has no shared receive queues: %s", v->device, strerror(errno));
	v->attr.max_srq = 0;
	return 0;
}

static void add_shared(struct verbs *v, struct verbs_lane *lane, struct verbs_buf *buf)
{
	buf->lane = lane;
	buf->wr.wr_id = VERBS_SHARED | buf->number;
	buf->wr.next = NULL;
	if (lane->recv_last)
		lane->recv_last->next = &buf->wr;
	else
		lane->recv_first = &buf->wr;
	lane->recv_last = &buf->wr;
	lane->posted++;
	v->shared_due = 1;
}

static int fill_shared(struct verbs *v, struct verbs_lane *lane)
{
	while (lane->posted < lane->wanted) {
		struct verbs_buf *buf = buf_get(v);

		if (!buf)
			return -ENOMEM;
		add_shared(v, lane, buf);
	}
	return 0;
}

struct verbs_buf *verbs_shared_take(struct verbs *v, uint64_t id)
{
	uint64_t number = id & ~VERBS_SHARED, chunk = number / VERBS_BUFS;
	struct verbs_buf *buf;

	buf = chunk < v->chunk_count ? &v->chunks[chunk]->buf[number % VERBS_BUFS] : NULL;
	if (!buf || !buf->lane)
		return NULL;
	buf->lane->posted -= buf->lane->posted > 0;
	return buf;
}

void verbs_shared_again(struct verbs *v, struct verbs_buf *buf)
{
	struct verbs_lane *lane = buf->lane;

	buf->lane = NULL;
	if (lane->posted < lane->wanted)
		add_shared(v, lane, buf);
	else
		buf_put(v, buf);
}

/* Those from bad on were not taken. */
static void take_back(struct verbs *v, struct ibv_recv_wr *bad)
{
	while (bad) {
		struct verbs_buf *buf = container_of_verbs(bad, struct verbs_buf, wr);

		bad = bad->next;
		buf->lane = NULL;
		buf_put(v, buf);
	}
}

static void post_lane(struct verbs *v, struct verbs_lane *lane)
{
	struct ibv_recv_wr *bad = NULL;
	int err = verbs_negative(ibv_post_srq_recv(lane->srq, lane->recv_first, &bad));

	lane->recv_first = lane->recv_last = NULL;
	if (!err)
		return;
	take_back(v, bad);
	lane->posted = lane->depth; /* it has more in it than was known */
	if (err == -ENOMEM)
		return;
	for (struct verbs_conn *conn = v->conns; conn; conn = conn->next)
		if (conn->qp && conn->lane == lane)
			verbs_fail_later(conn, err);
}

void verbs_post_shared(struct verbs *v)
{
	v->shared_due = 0;
	for (struct verbs_lane *lane = v->lanes; lane; lane = lane->next)
		if (lane->recv_first)
			post_lane(v, lane);
}

/* Has the device said that this queue pair takes no more? It says so at once, or never does. */
static int wait_last(struct verbs_conn *conn)
{
	struct verbs *v = conn->v;
	struct pollfd p = { .fd = v->context->async_fd, .events = POLLIN };
	uint64_t end = gvm_now() + LAST_WAIT_NS;

	while (!conn->drained && v->tells_last && !v->gone && !v->lost) {
		verbs_note_async(v);
		if (conn->drained)
			break;
		if (gvm_now() >= end) {
			v->tells_last--;
			return 0;
		}
		poll(&p, 1, 1);
	}
	if (conn->drained && v->tells_last)
		v->tells_last = VERBS_LAST_TRIES;
	return conn->drained;
}

void verbs_stop_receiving(struct verbs_conn *conn)
{
	struct verbs_lane *lane = conn->lane;

	if (!lane->srq || !conn->ready)
		return;
	if (!wait_last(conn))
		lane->posted -=
		    lane->posted < conn->recvs_wanted ? lane->posted : conn->recvs_wanted;
	verbs_stash_lane(conn->v, lane);
	conn->v->reused = 1;
}

/* ---- both ---------------------------------------------------------------------------------- */

static int want_shared(struct verbs_conn *conn, unsigned n)
{
	struct verbs_lane *lane = conn->lane;
	int err;

	lane->wanted += n - conn->recvs_wanted;
	err = fill_shared(conn->v, lane);
	if (err)
		lane->wanted -= n - conn->recvs_wanted;
	else
		conn->recvs_wanted = n;
	return err;
}

static int want_own(struct verbs_conn *conn, unsigned n)
{
	unsigned before = conn->recvs_wanted;
	int err = 0;

	conn->recvs_wanted = n;
	while (!err && conn->recvs < n)
		err = add_own(conn);
	if (err)
		conn->recvs_wanted = before; /* what is too much goes as cells arrive */
	return err;
}

int verbs_want_receives(struct verbs_conn *conn, unsigned n)
{
	return conn->lane->srq ? want_shared(conn, n) : want_own(conn, n);
}

int verbs_receives(struct gvm_rma_ep *ep, unsigned n)
{
	struct verbs_conn *conn = verbs_ep_of(ep)->conn;

	return conn ? verbs_want_receives(conn, n) : 0;
}

void verbs_free_receives(struct verbs_conn *conn)
{
	if (conn->lane && conn->lane->srq)
		conn->lane->wanted -= conn->recvs_wanted;
	conn->recv_first = conn->recv_last = NULL;
	for (unsigned i = 0; i < GVM_RMA_RECVS; i++)
		if (conn->recv[i])
			remove_own(conn, i);
	conn->recvs_wanted = 0;
}
