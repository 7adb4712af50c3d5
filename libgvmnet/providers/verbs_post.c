/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections in the hardware and their ends, posting, and what completions say.
 *
 * The send queue is a ring that the hardware empties in order: a completion is for its request and
 * all before it, so that only the last request of each ring(), and all reads and writes, have one.
 *
 * On iWARP the completion of a write or send says only that its bytes are in the socket, and may
 * overtake that of a read before it. A read of one byte behind the writes of each ring() brings the
 * proof that they are where they belong, as the other side serves in order. (Of no byte would do by
 * the standard. But siw's siw_activate_tx(), 6.1, answers a read of nothing that has waited behind
 * other answers with the bytes of the one before it, and that ends the connection.)
 *
 * Sends are put into the request itself (inline) or copied, so their works are done with as soon as
 * they were posted. That is also what lets an ended connection linger until its last words have
 * arrived: nobody's memory but the provider's is in it.
 *
 * A completion names its connection by slot and generation, and none is found for those of a
 * connection that has ended, or of its earlier attempts to connect: nothing that is left in a
 * completion queue is taken for a later one's.
 */
#include "providers/verbs.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* ---- naming requests ----------------------------------------------------------------------- */

#define SLOT_BITS       20u
#define GENERATION_BITS 24u
#define NUMBER_BITS     16u
#define SLOTS_MAX       (1u << SLOT_BITS)
#define RECV            (1ull << 63)
#define NUMBER          ((1ull << NUMBER_BITS) - 1)

/* On the way of each read and write; and beside it, kept out of its way. */
#define HOT  inline __attribute__((always_inline))
#define COLD __attribute__((noinline, cold))

uint64_t verbs_receive_id(const struct verbs_conn *conn, unsigned i)
{
	return RECV | conn->tag | i;
}

static HOT struct verbs_conn *conn_of(const struct verbs *v, uint64_t id)
{
	uint32_t slot = (uint32_t)(id >> NUMBER_BITS) & (SLOTS_MAX - 1);
	struct verbs_conn *conn = slot < v->slot_room ? v->slots[slot] : NULL;

	return conn && conn->tag == (id & ~(RECV | NUMBER)) ? conn : NULL;
}

static int more_slots(struct verbs *v)
{
	uint32_t room = v->slot_room ? 2 * v->slot_room : 64;
	struct verbs_conn **slots;
	uint32_t *generations;

	if (room > SLOTS_MAX)
		return -ENOMEM;
	slots = realloc(v->slots, room * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	v->slots = slots;
	generations = realloc(v->generations, room * sizeof(*generations));
	if (!generations)
		return -ENOMEM;
	v->generations = generations;
	memset(slots + v->slot_room, 0, (room - v->slot_room) * sizeof(*slots));
	memset(generations + v->slot_room, 0, (room - v->slot_room) * sizeof(*generations));
	v->slot_next = v->slot_room;
	v->slot_room = room;
	return 0;
}

void verbs_conn_rename(struct verbs_conn *conn)
{
	uint32_t *generation = &conn->v->generations[conn->slot];

	*generation = (*generation + 1) & ((1u << GENERATION_BITS) - 1);
	conn->generation = *generation;
	conn->tag = (uint64_t)conn->generation << (SLOT_BITS + NUMBER_BITS) | (uint64_t)conn->slot
										  << NUMBER_BITS;
}

/* In turn, so that a slot rests before it is used again. */
static int slot_get(struct verbs *v, struct verbs_conn *conn)
{
	for (uint32_t i = 0; i < v->slot_room; i++) {
		uint32_t slot = (v->slot_next + i) % v->slot_room;

		if (v->slots[slot])
			continue;
		v->slot_next = slot + 1;
		v->slots[slot] = conn;
		conn->slot = slot;
		verbs_conn_rename(conn);
		return 0;
	}
	return more_slots(v) ? -ENOMEM : slot_get(v, conn);
}

/* ---- connections --------------------------------------------------------------------------- */

struct verbs_conn *verbs_conn_new(struct verbs *v, struct verbs_ep *ep, enum verbs_state state)
{
	struct verbs_conn *conn = calloc(1, sizeof(*conn));

	if (!conn)
		return NULL;
	conn->v = v;
	conn->sent = calloc(VERBS_RING, sizeof(*conn->sent));
	if (!conn->sent || slot_get(v, conn)) {
		free(conn->sent);
		free(conn);
		return NULL;
	}
	conn->kind = VERBS_CONN;
	conn->ep = ep;
	conn->state = (uint8_t)state;
	conn->next = v->conns;
	if (v->conns)
		v->conns->prev = conn;
	v->conns = conn;
	ep->conn = conn;
	return conn;
}

void verbs_enter(struct verbs_conn *conn, enum verbs_state state)
{
	struct verbs *v = conn->v;

	v->connecting -= conn->state == VERBS_CONNECT;
	v->lingering -= conn->state == VERBS_LINGER;
	conn->state = (uint8_t)state;
	v->connecting += conn->state == VERBS_CONNECT;
	v->lingering += conn->state == VERBS_LINGER;
}

void verbs_unlist(struct verbs_conn **list, struct verbs_conn *conn, size_t offset)
{
	while (*list && *list != conn)
		list = (struct verbs_conn **)((char *)*list + offset);
	if (*list)
		*list = *(struct verbs_conn **)((char *)conn + offset);
}

static void forget_posts(struct verbs_conn *conn)
{
	struct verbs *v = conn->v;
	unsigned kept = 0;

	if (conn->in_ring)
		verbs_unlist(&v->ring, conn, offsetof(struct verbs_conn, ring_next));
	if (conn->in_late)
		verbs_unlist(&v->late, conn, offsetof(struct verbs_conn, late_next));
	for (unsigned i = 0; i < v->early_count; i++)
		if (v->early[i].conn != conn)
			v->early[kept++] = v->early[i];
	v->early_count = kept;
	for (; conn->tail != conn->head; conn->tail++) {
		uint16_t copy = conn->sent[conn->tail % VERBS_RING].copy;

		if (copy != VERBS_NONE)
			v->copy_free[v->copy_count++] = copy;
	}
}

static void unlink_conn(struct verbs_conn *conn)
{
	struct verbs *v = conn->v;

	if (conn->prev)
		conn->prev->next = conn->next;
	else
		v->conns = conn->next;
	if (conn->next)
		conn->next->prev = conn->prev;
	v->slots[conn->slot] = NULL;
	verbs_unwait(conn);
	verbs_proven(conn);
	verbs_enter(conn, VERBS_LOOKUP);
}

/*
 * The other side is told that it is over, then the queue pair is destroyed: when that has been done
 * the hardware touches nothing of it, and the copied cells can be used again.
 */
static void leave_hardware(struct verbs_conn *conn)
{
	verbs_dial_end(conn);
	if (conn->id && conn->state >= VERBS_ACCEPT)
		rdma_disconnect(conn->id);
	verbs_qp_end(conn);
	if (conn->id)
		rdma_destroy_id(conn->id);
}

void verbs_conn_free(struct verbs_conn *conn)
{
	leave_hardware(conn);
	forget_posts(conn);
	unlink_conn(conn);
	if (conn->lookup)
		conn->lookup->user = NULL;
	free(conn->addrs);
	free(conn->sent);
	free(conn);
}

/* No work is in the send queue whose end is still to be told. */
static int has_told(const struct verbs_conn *conn)
{
	for (uint16_t i = conn->tail; i != conn->head; i++)
		if (conn->sent[i % VERBS_RING].work)
			return 0;
	return 1;
}

static int may_linger(const struct verbs_conn *conn)
{
	return conn->state == VERBS_OPEN && !conn->failed && !conn->v->gone &&
	       conn->head != conn->tail && has_told(conn);
}

void verbs_disconnect(struct gvm_rma_ep *rma_ep, int orderly)
{
	struct verbs_ep *ep = verbs_ep_of(rma_ep);
	struct verbs_conn *conn = ep->conn;

	if (!conn)
		return;
	if (orderly && conn->in_ring)
		verbs_ring(&conn->v->rma);
	ep->conn = NULL;
	conn->ep = NULL;
	if (!orderly || !may_linger(conn)) {
		verbs_conn_free(conn);
		return;
	}
	verbs_enter(conn, VERBS_LINGER);
	for (unsigned i = 0; i < conn->v->early_count; i++)
		if (conn->v->early[i].conn == conn)
			conn->v->early[i].work = NULL;
}

/* ---- posting ------------------------------------------------------------------------------- */

COLD void verbs_fail_later(struct verbs_conn *conn, int err)
{
	struct verbs *v = conn->v;

	conn->error = err;
	conn->failed = 1;
	if (conn->in_late)
		return;
	conn->in_late = 1;
	conn->late_next = v->late;
	v->late = conn;
}

/* The works whose memory is not in the hardware are done with. */
static COLD void finish_early(struct verbs_conn *conn, uint16_t first)
{
	struct verbs *v = conn->v;

	for (uint16_t i = first; i != conn->head; i++) {
		struct verbs_sent *s = &conn->sent[i % VERBS_RING];

		if (!s->work || s->work->kind != GVM_RMA_SEND || v->early_count == VERBS_GATHER)
			continue;
		/* Neither copied nor inline: it is in the hardware until that says otherwise. */
		if (s->copy == VERBS_NONE && s->work->len > conn->max_inline)
			continue;
		v->early[v->early_count++] = (struct verbs_early){ s->work, conn };
		s->work = NULL;
	}
}

/* A read of one byte. Where to it is read is nobody's, and all connections' at once. */
static void make_proof(struct verbs_conn *conn, struct verbs_gathered *g)
{
	struct verbs *v = conn->v;

	g->sge = (struct ibv_sge){ .addr = (uintptr_t)v->proof + VERBS_SINK,
				   .length = 1,
				   .lkey = v->proof_mr->lkey };
	g->wr = (struct ibv_send_wr){ .wr_id = conn->tag | conn->head,
				      .opcode = IBV_WR_RDMA_READ,
				      .sg_list = &g->sge,
				      .num_sge = 1,
				      .wr.rdma = { .remote_addr = conn->proof.at,
						   .rkey = conn->proof.key } };
	conn->sent[conn->head++ % VERBS_RING] =
	    (struct verbs_sent){ .copy = VERBS_NONE, .kind = GVM_RMA_READ };
}

/* Behind all that was gathered: when it has been answered, the writes before it have been done. */
static void add_flush(struct verbs_conn *conn, struct verbs_gathered *g)
{
	make_proof(conn, g);
	conn->last->next = &g->wr;
	conn->last = &g->wr;
}

/* siw sends in the context of who posts, and has the kernel raise SIGPIPE there when the connection
 * is gone. The signal is the program's, which knows of no socket. */
static COLD int post_quietly(struct verbs_conn *conn, struct ibv_send_wr *first)
{
	const struct timespec at_once = { 0 };
	sigset_t pipe, pending, before;
	struct ibv_send_wr *bad;
	int err, was_pending;

	conn->last->send_flags |= IBV_SEND_SIGNALED;
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	sigpending(&pending);
	was_pending = sigismember(&pending, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe, &before);
	err = verbs_negative(ibv_post_send(conn->qp, first, &bad));
	if (!was_pending)
		while (sigtimedwait(&pipe, NULL, &at_once) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err;
}

static COLD int post_iwarp(struct verbs_conn *conn, struct ibv_send_wr *first)
{
	struct verbs_gathered flush;

	if (conn->flush)
		add_flush(conn, &flush);
	conn->flush = 0;
	return post_quietly(conn, first);
}

static HOT int post_gathered(struct verbs_conn *conn)
{
	struct ibv_send_wr *first = conn->first, *bad;

	conn->last->next = NULL;
	if (conn->v->iwarp)
		return post_iwarp(conn, first);
	conn->last->send_flags |= IBV_SEND_SIGNALED;
	return verbs_negative(ibv_post_send(conn->qp, first, &bad));
}

static HOT void ring_one(struct verbs_conn *conn)
{
	uint16_t number;
	int err = conn->recv_first ? verbs_post_receives(conn) : 0;

	if (!err && conn->first) {
		number = (uint16_t)conn->first->wr_id;
		err = post_gathered(conn);
		if (!err && conn->cells)
			finish_early(conn, number);
	}
	conn->cells = 0;
	conn->first = conn->last = NULL;
	if (err)
		verbs_fail_later(conn, err);
}

static __attribute__((noinline)) void ring_all(struct verbs *v)
{
	struct verbs_conn *conn;

	if (v->shared_due)
		verbs_post_shared(v);
	while ((conn = v->ring)) {
		v->ring = conn->ring_next;
		conn->in_ring = 0;
		ring_one(conn);
	}
	v->gathered_next = v->gathered;
}

void verbs_ring(struct gvm_rma *rma)
{
	struct verbs *v = verbs_of(rma);

	if (v->ring || v->shared_due)
		ring_all(v);
}

static HOT int gather_is_full(const struct verbs *v)
{
	return v->gathered_next == v->gathered + VERBS_GATHER;
}

static HOT void gather_first(struct verbs_conn *conn, struct ibv_send_wr *wr)
{
	struct verbs *v = conn->v;

	conn->first = wr;
	if (conn->in_ring)
		return;
	conn->in_ring = 1;
	conn->ring_next = v->ring;
	v->ring = conn;
}

/* There is room. Its wr.next is ring()'s to set, sg_list and num_sge are set for good, the rest is
 * the caller's. */
static HOT struct verbs_gathered *gather(struct verbs_conn *conn)
{
	struct verbs_gathered *g = conn->v->gathered_next++;

	if (conn->last)
		conn->last->next = &g->wr;
	else
		gather_first(conn, &g->wr);
	conn->last = &g->wr;
	return g;
}

void verbs_nudge(struct verbs_conn *conn)
{
	if (gather_is_full(conn->v))
		verbs_ring(&conn->v->rma);
	make_proof(conn, gather(conn));
}

/* The next place in the send queue is this request's. */
static HOT void number_it(struct verbs_conn *conn, struct gvm_rma_work *work,
			  struct verbs_gathered *g, enum gvm_rma_kind kind, uint16_t copy)
{
	uint16_t number = conn->head;
	struct verbs_sent *s = &conn->sent[number % VERBS_RING];

	conn->head = (uint16_t)(number + 1);
	g->wr.wr_id = conn->tag | number;
	s->work = work;
	s->copy = copy;
	s->kind = (uint8_t)kind;
	s->over = 0;
}

static uint32_t local_key(const struct gvm_rma_work *work)
{
	return (uint32_t)(uintptr_t)work->reg->local;
}

/* So that the work is done with when it has been posted: in the request itself, or copied. */
static COLD int post_cell(struct verbs_conn *conn, struct gvm_rma_work *work,
			  struct verbs_gathered *g)
{
	struct verbs *v = conn->v;
	uint16_t copy = VERBS_NONE;
	uint8_t *at = work->buf;

	g->sge = (struct ibv_sge){ .length = work->len, .lkey = local_key(work) };
	g->wr.send_flags = IBV_SEND_SIGNALED;
	if (work->len <= conn->max_inline) {
		g->wr.send_flags = IBV_SEND_INLINE;
	} else if (v->copy_count && work->len <= GVM_RMA_CELL) {
		copy = v->copy_free[--v->copy_count];
		at = memcpy(v->copies + (size_t)copy * GVM_RMA_CELL, work->buf, work->len);
		g->sge.lkey = v->copies_mr->lkey;
		g->wr.send_flags = 0;
	}
	g->sge.addr = (uintptr_t)at;
	g->wr.opcode = IBV_WR_SEND;
	number_it(conn, work, g, GVM_RMA_SEND, copy);
	conn->cells++;
	return 0;
}

static HOT int post_with(struct verbs_conn *conn, struct gvm_rma_work *work,
			 struct verbs_gathered *g, enum gvm_rma_kind kind, unsigned flags)
{
	g->sge.addr = (uintptr_t)work->buf;
	g->sge.length = work->len;
	g->sge.lkey = local_key(work);
	g->wr.opcode = kind == GVM_RMA_READ ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE;
	g->wr.send_flags = flags;
	g->wr.wr.rdma.remote_addr = work->remote_addr;
	g->wr.wr.rdma.rkey = (uint32_t)work->remote_key;
	number_it(conn, work, g, kind, VERBS_NONE);
	return 0;
}

/* A write that is short, or whose end is to be proven. */
static COLD int post_special(struct verbs_conn *conn, struct gvm_rma_work *work,
			     struct verbs_gathered *g)
{
	unsigned flags = IBV_SEND_SIGNALED;

	if (conn->v->iwarp) {
		conn->flush = 1;
		flags = 0;
	}
	if (work->len <= conn->max_inline)
		flags |= IBV_SEND_INLINE;
	return post_with(conn, work, g, GVM_RMA_WRITE, flags);
}

static HOT int post_transfer(struct verbs_conn *conn, struct gvm_rma_work *work,
			     struct verbs_gathered *g, enum gvm_rma_kind kind)
{
	if (kind == GVM_RMA_WRITE && work->len <= conn->write_special)
		return post_special(conn, work, g);
	return post_with(conn, work, g, kind, IBV_SEND_SIGNALED);
}

static COLD int post_after_ring(struct gvm_rma_ep *ep, struct gvm_rma_work *work)
{
	verbs_ring(ep->rma);
	return verbs_post(ep, work);
}

int verbs_post(struct gvm_rma_ep *ep, struct gvm_rma_work *work)
{
	struct verbs_conn *conn = verbs_ep_of(ep)->conn;
	struct verbs_gathered *g;

	if (!conn || conn->state != VERBS_OPEN || conn->failed)
		return -ECONNRESET;
	/* a place is kept for what ring() adds */
	if ((uint16_t)(conn->head - conn->tail) >= VERBS_SENDS - 2)
		return -EAGAIN;
	if (gather_is_full(conn->v))
		return post_after_ring(ep, work);
	g = gather(conn);
	if (work->kind == GVM_RMA_READ)
		return post_transfer(conn, work, g, GVM_RMA_READ);
	if (work->kind == GVM_RMA_WRITE)
		return post_transfer(conn, work, g, GVM_RMA_WRITE);
	return post_cell(conn, work, g);
}

/* ---- what has ended ------------------------------------------------------------------------ */

int verbs_tell(struct verbs *v)
{
	struct verbs_conn *conn;
	int n = 0;

	while (v->early_count) {
		struct verbs_early e = v->early[--v->early_count];

		if (e.work)
			gvm_rma_done(e.work, 0);
		n++;
	}
	while ((conn = v->late)) {
		v->late = conn->late_next;
		conn->in_late = 0;
		verbs_conn_fail(conn, conn->error == -ENOMEM ? -ENOMEM : -ECONNRESET,
				conn->error == -EPROTO
				    ? "the other side broke the rules of the RDMA connection"
				    : "the RDMA device takes no more");
		n++;
	}
	return n;
}

static int status_of(const struct ibv_wc *wc, const char **reason)
{
	switch (wc->status) {
	case IBV_WC_RETRY_EXC_ERR:
	case IBV_WC_RESP_TIMEOUT_ERR:
		*reason = "the other side has stopped acknowledging";
		return -ETIMEDOUT;
	case IBV_WC_RNR_RETRY_EXC_ERR:
		*reason = "the other side takes no more";
		return -ETIMEDOUT;
	case IBV_WC_REM_ACCESS_ERR:
	case IBV_WC_REM_INV_REQ_ERR:
	case IBV_WC_REM_OP_ERR:
		*reason = "the other side's hardware has refused an access";
		return -ECONNRESET;
	default:
		*reason = "the connection was reset";
		return -ECONNRESET;
	}
}

/* Faults of this side's own making. siw has two of these also for a socket that was closed while
 * something was sent (siw_qp_sq_process()) or received (siw_rdmap_complete()). */
static void log_own_fault(const struct verbs *v, const struct ibv_wc *wc)
{
	switch (wc->status) {
	case IBV_WC_LOC_QP_OP_ERR:
	case IBV_WC_GENERAL_ERR:
		gvm_log(v->siw ? GVM_LOG_DEBUG : GVM_LOG_ERROR, "%s: %s", v->device,
			ibv_wc_status_str(wc->status));
		break;
	case IBV_WC_LOC_LEN_ERR:
	case IBV_WC_LOC_PROT_ERR:
	case IBV_WC_LOC_ACCESS_ERR:
	case IBV_WC_FATAL_ERR:
		gvm_log(GVM_LOG_ERROR, "%s: %s", v->device, ibv_wc_status_str(wc->status));
		break;
	default:
		break;
	}
}

static COLD void free_copy(struct verbs_conn *conn, struct verbs_sent *s)
{
	conn->v->copy_free[conn->v->copy_count++] = s->copy;
	s->copy = VERBS_NONE;
}

static HOT void finish(struct verbs_conn *conn, struct verbs_sent *s)
{
	struct gvm_rma_work *work = s->work;

	if (s->copy != VERBS_NONE)
		free_copy(conn, s);
	s->work = NULL;
	if (work)
		gvm_rma_done(work, 0);
}

static HOT struct verbs_sent *take_oldest(struct verbs_conn *conn)
{
	return &conn->sent[conn->tail++ % VERBS_RING];
}

/* All before the request of this number. */
static void finish_before(struct verbs_conn *conn, uint16_t number)
{
	while (conn->tail != number)
		finish(conn, take_oldest(conn));
}

/* iWARP: the end of a write or send says it of sends alone. */
static void serve_iwarp(struct verbs_conn *conn, uint16_t number)
{
	if (conn->sent[number % VERBS_RING].kind == GVM_RMA_READ) {
		finish_before(conn, (uint16_t)(number + 1));
	} else {
		for (uint16_t i = conn->tail; i != (uint16_t)(number + 1); i++) {
			struct verbs_sent *s = &conn->sent[i % VERBS_RING];

			if (s->kind != GVM_RMA_SEND || s->over)
				continue;
			s->over = 1;
			finish(conn, s);
		}
	}
	while (conn->tail != conn->head && conn->sent[conn->tail % VERBS_RING].over)
		conn->tail++;
}

/* The request of this number has been done, and those before it that it proves. */
static void serve_sent(struct verbs_conn *conn, uint16_t number)
{
	if ((uint16_t)(number - conn->tail) >= (uint16_t)(conn->head - conn->tail))
		return;
	if (conn->v->iwarp)
		serve_iwarp(conn, number);
	else
		finish_before(conn, (uint16_t)(number + 1));
}

static void cell_came(struct verbs_conn *conn, const struct verbs_buf *buf, uint32_t len)
{
	struct verbs *v = conn->v;
	uint64_t tag = conn->tag;

	conn->silent = 0;
	if (conn->state == VERBS_ACCEPT || conn->state == VERBS_CONNECT)
		verbs_established(conn);
	if (conn_of(v, tag) == conn && conn->state == VERBS_OPEN)
		gvm_rma_cell(&conn->ep->rma, (const uint8_t *)(uintptr_t)buf->sge.addr, len);
}

/* Into a buffer of its own. */
static void serve_cell(struct verbs_conn *conn, const struct ibv_wc *wc)
{
	struct verbs *v = conn->v;
	unsigned i = (unsigned)(wc->wr_id & NUMBER);

	if (i >= GVM_RMA_RECVS || !conn->recv[i])
		return;
	cell_came(conn, conn->recv[i], wc->byte_len);
	if (conn_of(v, wc->wr_id) == conn && conn->state == VERBS_OPEN)
		verbs_receive_again(conn, i);
}

static void serve_failure(struct verbs_conn *conn, const struct ibv_wc *wc)
{
	const char *reason;
	int err = status_of(wc, &reason);

	log_own_fault(conn->v, wc);
	/* Until it is open it is rdma_cm that says why not. */
	if (conn->state >= VERBS_ACCEPT)
		verbs_conn_fail(conn, err, reason);
}

static struct verbs_conn *conn_of_number(const struct verbs *v, uint32_t number)
{
	struct rma_node *node = rma_table_find(&v->qps, number);

	return node ? container_of_verbs(node, struct verbs_conn, node) : NULL;
}

/* Of a shared queue: the buffer comes back, whatever has become of the connection. */
static void serve_shared(struct verbs *v, const struct ibv_wc *wc)
{
	struct verbs_buf *buf = verbs_shared_take(v, wc->wr_id);
	struct verbs_conn *conn = conn_of_number(v, wc->qp_num);

	if (!buf)
		return;
	if (conn && conn->lane != buf->lane)
		conn = NULL;
	if (conn && wc->status != IBV_WC_SUCCESS)
		serve_failure(conn, wc);
	else if (conn)
		cell_came(conn, buf, wc->byte_len);
	verbs_shared_again(v, buf);
}

/* Any completion, of a connection that may have ended. */
static COLD void serve_any(struct verbs *v, const struct ibv_wc *wc)
{
	struct verbs_conn *conn = conn_of(v, wc->wr_id);

	if ((wc->wr_id & VERBS_SHARED) == VERBS_SHARED) {
		serve_shared(v, wc);
		return;
	}
	if (!conn)
		return;
	if (wc->status != IBV_WC_SUCCESS) {
		serve_failure(conn, wc);
	} else if (wc->wr_id & RECV) {
		serve_cell(conn, wc);
	} else {
		serve_sent(conn, (uint16_t)wc->wr_id);
		if (conn->state == VERBS_LINGER && conn->head == conn->tail)
			verbs_conn_free(conn);
	}
}

/* Most are of the oldest request of an open connection, and of the same one as those before. */
static HOT int is_oldest(const struct verbs_conn *conn, const struct ibv_wc *wc)
{
	return wc->wr_id == (conn->tag | conn->tail) && wc->status == IBV_WC_SUCCESS &&
	       conn->tail != conn->head && conn->state == VERBS_OPEN && !conn->v->iwarp;
}

void verbs_serve(struct verbs *v, const struct ibv_wc *wc, unsigned count)
{
	struct verbs_conn *conn = NULL;

	/* once for all of them, which look for it where it is kept */
	v->rma.up->now(v->rma.host);
	for (const struct ibv_wc *end = wc + count; wc != end; wc++) {
		if (!conn)
			conn = conn_of(v, wc->wr_id);
		if (conn && is_oldest(conn, wc)) {
			finish(conn, take_oldest(conn));
		} else {
			serve_any(v, wc);
			conn = NULL; /* it may have ended, or it was not the one */
		}
	}
}
