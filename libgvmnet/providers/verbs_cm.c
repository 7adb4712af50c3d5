/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connecting by rdma_cm.
 *
 *   LOOKUP --name--> ADDR --ADDR_RESOLVED--> ROUTE --ROUTE_RESOLVED--> CONNECT --+
 *                    ^  the next address of the name, after a failure            |
 *                    +------------------------------------------------------------+
 *   CONNECT --REJECTED, with a challenge: the same address again (verbs_key.c)
 *   CONNECT --CONNECT_RESPONSE (InfiniBand, RoCE) or ESTABLISHED (iWARP)--> OPEN
 *   CONNECT_REQUEST --> ACCEPT --ESTABLISHED, or the first cell--> OPEN
 *
 * The table below has what each event is in each state. Queue pairs are made from the worker's own
 * device, not the one that rdma_cm has opened, so this side takes them through their states itself.
 */
#include "providers/verbs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define EVENTS 64 /* of rdma_cm in a row, until others have their turn */

/* ---- hello --------------------------------------------------------------------------------- */

static const struct verbs_hello plain = { .magic = { 'G', 'V', 'M', 'R' },
					  .version = VERBS_HELLO_VERSION,
					  .cells = GVM_RMA_CELLS,
					  .cell = { GVM_RMA_CELL & 0xFF, GVM_RMA_CELL >> 8 } };

void verbs_hello_make(const struct verbs *v, uint8_t mtu, struct verbs_hello *hello)
{
	*hello = plain;
	hello->mtu = mtu;
	if (!v->proof)
		return;
	for (unsigned i = 0; i < sizeof(hello->proof_key); i++)
		hello->proof_key[i] = (uint8_t)(v->proof_mr->rkey >> 8 * i);
	for (unsigned i = 0; i < sizeof(hello->proof_at); i++)
		hello->proof_at[i] = (uint8_t)((uintptr_t)v->proof >> 8 * i);
}

int verbs_hello_check(const void *data, size_t len, struct verbs_proof *proof, uint8_t *mtu)
{
	const struct verbs_hello *hello = data;

	if (!data || len < sizeof(*hello) ||
	    memcmp(hello, &plain, offsetof(struct verbs_hello, proof_key)) ||
	    hello->mtu > IBV_MTU_4096)
		return -EPROTO;
	*mtu = hello->mtu;
	*proof = (struct verbs_proof){ 0 };
	for (unsigned i = 0; i < sizeof(hello->proof_key); i++)
		proof->key |= (uint32_t)hello->proof_key[i] << 8 * i;
	for (unsigned i = 0; i < sizeof(hello->proof_at); i++)
		proof->at |= (uint64_t)hello->proof_at[i] << 8 * i;
	return 0;
}

/* What the other side said as it accepted. */
static int hear_hello(struct verbs_conn *conn, const struct rdma_cm_event *event)
{
	uint8_t theirs;
	int err = verbs_hello_check(event->param.conn.private_data,
				    event->param.conn.private_data_len, &conn->proof, &theirs);

	if (!err)
		err = verbs_key_accepted(conn, event->param.conn.private_data);
	if (!err)
		conn->mtu = verbs_mtu_least(conn->mtu, theirs);
	return err;
}

/* ---- ends ---------------------------------------------------------------------------------- */

void verbs_conn_fail(struct verbs_conn *conn, int why, const char *reason)
{
	conn->failed = 1;
	switch (conn->state) {
	case VERBS_LINGER:
		verbs_conn_free(conn);
		return;
	case VERBS_ACCEPT:
		gvm_rma_unaccept(&conn->ep->rma);
		return;
	case VERBS_OPEN:
		gvm_rma_broken(&conn->ep->rma, why, reason);
		return;
	default:
		gvm_rma_connected(&conn->ep->rma, why);
		return;
	}
}

void verbs_established(struct verbs_conn *conn)
{
	int accepted = conn->state == VERBS_ACCEPT;

	verbs_dial_end(conn);
	verbs_enter(conn, VERBS_OPEN);
	if (accepted)
		gvm_rma_accepted(conn->listener, &conn->ep->rma);
	else
		gvm_rma_connected(&conn->ep->rma, 0);
}

int verbs_is_mine(const struct verbs *v, const struct rdma_cm_id *id)
{
	return id->verbs && !strcmp(ibv_get_device_name(id->verbs->device), v->device) &&
	       (!v->port || v->port == id->port_num);
}

/* ---- on the way out ------------------------------------------------------------------------ */

static void leave_attempt(struct verbs_conn *conn)
{
	verbs_dial_end(conn);
	verbs_qp_end(conn);
	verbs_conn_rename(conn);
	if (conn->id)
		rdma_destroy_id(conn->id);
	conn->id = NULL;
	verbs_unwait(conn);
	verbs_enter(conn, VERBS_LOOKUP);
}

static int begin(struct verbs_conn *conn, unsigned i)
{
	struct sockaddr *to = (struct sockaddr *)&conn->addrs->at[i].sa;
	struct verbs *v = conn->v;
	struct sockaddr_storage own;
	socklen_t own_len;
	uint8_t tos = (uint8_t)gvm_option_number("GVM_VERBS_TCLASS");
	int err = verbs_own_address(v, to->sa_family, &own, &own_len);

	if (err)
		return err;
	if (rdma_create_id(v->events, &conn->id, conn, RDMA_PS_TCP)) {
		conn->id = NULL;
		return -errno;
	}
	if (tos)
		rdma_set_option(conn->id, RDMA_OPTION_ID, RDMA_OPTION_ID_TOS, &tos, sizeof(tos));
	verbs_enter(conn, VERBS_ADDR);
	if (rdma_resolve_addr(conn->id, own_len ? (struct sockaddr *)&own : NULL, to,
			      VERBS_RESOLVE_MS))
		return -errno;
	return 0;
}

/* The next address that there is a way to, at least so far. */
static int begin_next(struct verbs_conn *conn, int err)
{
	while (conn->addr_next < conn->addrs->n) {
		leave_attempt(conn);
		conn->challenges = 0;
		err = begin(conn, conn->addr_next++);
		if (!err)
			return 0;
	}
	if (err != -EADDRNOTAVAIL || !conn->v->gid_is_address)
		return err;
	gvm_log(verbs_level(conn->v, GVM_LOG_WARN),
		"%s is not reached from GID %d of port %u of %s: that is no address of its family; "
		"choose another (gvm info -v shows them), or none",
		conn->ep->rma.ep.name, conn->v->gid, conn->v->port, conn->v->device);
	return -EHOSTUNREACH;
}

static void attempt_failed(struct verbs_conn *conn, int err)
{
	err = begin_next(conn, err);
	if (err)
		verbs_conn_fail(conn, err, "");
}

int verbs_connect(struct gvm_rma_ep *rma_ep, const char *host, unsigned port)
{
	struct verbs_ep *ep = verbs_ep_of(rma_ep);
	struct verbs *v = verbs_of(rma_ep->rma);
	struct verbs_conn *conn;
	int err;

	if (v->gone)
		return -ENODEV;
	snprintf(rma_ep->ep.name, sizeof(rma_ep->ep.name), "%.56s:%u", host, port);
	conn = verbs_conn_new(v, ep, VERBS_LOOKUP);
	if (!conn)
		return -ENOMEM;
	conn->addrs = calloc(1, sizeof(*conn->addrs));
	if (!conn->addrs)
		err = -ENOMEM;
	else if (gvm_addrs_numeric(host, port, conn->addrs))
		err = gvm_resolver_ask(v->resolver, host, port, conn, &conn->lookup);
	else
		err = begin_next(conn, -EHOSTUNREACH);
	if (err) {
		ep->conn = NULL;
		verbs_conn_free(conn);
	}
	return err;
}

static void take_lookup(struct gvm_lookup *lookup)
{
	struct verbs_conn *conn = lookup->user;
	int err = lookup->err;

	if (conn) {
		conn->lookup = NULL;
		*conn->addrs = lookup->addrs;
	}
	free(lookup);
	if (conn)
		attempt_failed(conn, err ? err : -EHOSTUNREACH);
}

/* What connect and accept have in common. */
static struct rdma_conn_param parameters(const struct verbs_conn *conn,
					 const struct verbs_hello *hello)
{
	return (struct rdma_conn_param){ .private_data = hello,
					 .private_data_len = sizeof(*hello),
					 .retry_count = VERBS_RETRIES,
					 .rnr_retry_count = VERBS_RETRIES,
					 .qp_num = conn->qp->qp_num };
}

static uint8_t least(unsigned a, int b)
{
	unsigned least = b > 0 && (unsigned)b < a ? (unsigned)b : a;

	return (uint8_t)(least < VERBS_READS ? least : VERBS_READS);
}

static void on_address(struct verbs_conn *conn, const struct rdma_cm_event *event)
{
	struct verbs *v = conn->v;

	if (!verbs_is_mine(v, conn->id)) {
		gvm_log(verbs_level(v, GVM_LOG_WARN),
			"%s is reached through port %d of %s, this worker has %s; choose with "
			"GVM_TRANSPORT=verbs:DEVICE[:PORT]",
			conn->ep->rma.ep.name, conn->id->port_num,
			conn->id->verbs ? ibv_get_device_name(conn->id->verbs->device) : "nothing",
			v->device);
		attempt_failed(conn, -EHOSTUNREACH);
		return;
	}
	verbs_enter(conn, VERBS_ROUTE);
	if (rdma_resolve_route(conn->id, VERBS_RESOLVE_MS))
		attempt_failed(conn, -errno);
}

/* Also the first request, which only brings a challenge, names a queue pair that there is: of the
 * other side's connections InfiniBand ends one that has the same number. */
static void ask(struct verbs_conn *conn)
{
	struct verbs *v = conn->v;
	struct verbs_hello hello;
	struct rdma_conn_param param;
	int err;

	conn->mtu = verbs_mtu_own();
	verbs_hello_make(v, conn->mtu, &hello);
	err = verbs_key_ask(conn, &hello);
	if (!err)
		err = verbs_qp_make(conn);
	if (err) {
		attempt_failed(conn, err);
		return;
	}
	param = parameters(conn, &hello);
	param.responder_resources = least(VERBS_READS, v->attr.max_qp_rd_atom);
	param.initiator_depth = least(VERBS_READS, v->attr.max_qp_init_rd_atom);
	verbs_enter(conn, VERBS_CONNECT);
	if (v->siw)
		err = verbs_dial(conn, &param, &hello);
	else if (rdma_connect(conn->id, &param))
		err = -errno;
	if (err)
		attempt_failed(conn, err);
}

int verbs_take_dials(struct verbs *v)
{
	struct verbs_conn *conn;
	int err, n = 0;

	for (; (conn = verbs_dial_failed(v, &err)); n++) {
		verbs_dial_end(conn);
		attempt_failed(conn, err);
	}
	return n;
}

static void on_route(struct verbs_conn *conn, const struct rdma_cm_event *event)
{
	struct verbs *v = conn->v;

	/* who has begun comes to an end before others begin */
	conn->wait_next = conn->challenges ? v->waiting : NULL;
	if (!v->waiting)
		v->waiting = v->waiting_end = conn;
	else if (conn->challenges)
		v->waiting = conn;
	else
		v->waiting_end = v->waiting_end->wait_next = conn;
}

void verbs_unwait(struct verbs_conn *conn)
{
	struct verbs *v = conn->v;

	if (conn->state != VERBS_ROUTE)
		return;
	verbs_unlist(&v->waiting, conn, offsetof(struct verbs_conn, wait_next));
	if (v->waiting_end != conn)
		return;
	v->waiting_end = v->waiting;
	while (v->waiting_end && v->waiting_end->wait_next)
		v->waiting_end = v->waiting_end->wait_next;
}

/* Each takes a few datagrams of the connection manager, and what is lost of a flood of them is sent
 * again only after seconds. */
void verbs_connect_waiting(struct verbs *v)
{
	struct verbs_conn *conn;

	while (v->waiting && v->connecting < VERBS_CONNECTING) {
		if (v->reused)
			verbs_drain(v);
		conn = v->waiting;
		if (!conn)
			break;
		verbs_unwait(conn);
		ask(conn);
	}
}

/* InfiniBand, RoCE: the other side has accepted, and waits to hear that this one has. */
static void on_response(struct verbs_conn *conn, const struct rdma_cm_event *event)
{
	int err = hear_hello(conn, event);

	if (!err)
		err = verbs_qp_ready(conn, 0, 0);
	if (!err && rdma_establish(conn->id))
		err = -errno;
	if (err)
		attempt_failed(conn, err);
	else
		verbs_established(conn);
}

/* iWARP: the kernel has done all of that. What it sends now may be left unread at the other side,
 * as tick() says. */
static void on_connected(struct verbs_conn *conn, const struct rdma_cm_event *event)
{
	int err = hear_hello(conn, event);

	if (err) {
		attempt_failed(conn, err);
		return;
	}
	if (conn->v->siw) {
		conn->silent = VERBS_SILENT;
		verbs_tick_soon(conn->v);
	}
	verbs_established(conn);
}

/* status: a negative errno, or a reason of the connection manager's, which are positive. -EINVAL is
 * siw's word for all that may come of the other side's answer (siw_proc_mpareply()), also that it
 * is gone. */
static void on_refused(struct verbs_conn *conn, const struct rdma_cm_event *event)
{
	int err = event->status < 0 ? event->status : -ECONNREFUSED;

	if (err == -ECONNRESET || (err == -EINVAL && conn->v->iwarp))
		err = -ECONNREFUSED;
	attempt_failed(conn, err);
}

/* The same address again, with what it wants to have answered. */
static void ask_again(struct verbs_conn *conn)
{
	int err;

	leave_attempt(conn);
	err = begin(conn, conn->addr_next - 1);
	if (err)
		attempt_failed(conn, err);
}

static void on_rejected(struct verbs_conn *conn, const struct rdma_cm_event *event)
{
	int asked = verbs_key_challenged(conn, event->param.conn.private_data,
					 event->param.conn.private_data_len);

	if (asked > 0)
		ask_again(conn);
	else
		attempt_failed(conn, asked < 0 ? asked : -ECONNREFUSED);
}

static void on_unreachable(struct verbs_conn *conn, const struct rdma_cm_event *event)
{
	attempt_failed(conn, event->status == -ETIMEDOUT ? -ETIMEDOUT : -EHOSTUNREACH);
}

/* ---- on the way in ------------------------------------------------------------------------- */

static int accept_on(struct verbs_conn *conn, const struct verbs_request *request)
{
	struct verbs *v = conn->v;
	struct verbs_hello hello;
	struct rdma_conn_param param;
	unsigned in = least(request->reads_in, v->attr.max_qp_rd_atom);
	unsigned out = least(request->reads_out, v->attr.max_qp_init_rd_atom);
	int err = verbs_qp_make(conn);

	conn->mtu = verbs_mtu_least(verbs_mtu_own(), request->mtu);
	if (!err)
		err = verbs_qp_ready(conn, in, out);
	if (err)
		return err;
	verbs_hello_make(v, conn->mtu, &hello);
	err = verbs_key_answer(v, request->nonce, request->cookie, &hello);
	if (err)
		return err;
	conn->proof = request->proof;
	param = parameters(conn, &hello);
	param.responder_resources = (uint8_t)in;
	param.initiator_depth = (uint8_t)out;
	return rdma_accept(conn->id, &param) ? -errno : 0;
}

void verbs_refuse(struct rdma_cm_id *id, const void *data, size_t len)
{
	rdma_reject(id, data, (uint8_t)len);
	rdma_destroy_id(id);
}

void verbs_answer(struct verbs *v, const struct verbs_request *request)
{
	static struct gvm_log_limit cannot;
	struct rdma_cm_id *id = request->id;
	struct verbs_conn *conn;
	struct gvm_rma_ep *ep;
	int err;

	if (v->reused)
		verbs_drain(v);
	ep = v->gone || !verbs_is_mine(v, id) ? NULL : gvm_rma_accept(&v->rma);
	if (!ep) {
		verbs_refuse(id, NULL, 0);
		return;
	}
	gvm_addr_print(rdma_get_peer_addr(id), ep->ep.name, sizeof(ep->ep.name));
	conn = verbs_conn_new(v, verbs_ep_of(ep), VERBS_ROUTE);
	if (!conn) {
		gvm_rma_unaccept(ep);
		verbs_refuse(id, NULL, 0);
		return;
	}
	conn->id = id;
	id->context = conn;
	conn->listener = request->listener;
	err = accept_on(conn, request);
	if (err) {
		/* One that has gone away meanwhile is nothing to speak of. */
		gvm_log_limited(
		    &cannot, err == -EINVAL || err == -ECONNRESET ? GVM_LOG_DEBUG : GVM_LOG_WARN,
		    "cannot accept a connection of %s: %s", ep->ep.name, strerror(-err));
		rdma_reject(id, NULL, 0);
		gvm_rma_unaccept(ep);
		return;
	}
	verbs_enter(conn, VERBS_ACCEPT);
	verbs_unproven(conn);
}

static void on_established(struct verbs_conn *conn, const struct rdma_cm_event *event)
{
	if (conn->state == VERBS_CONNECT) {
		on_connected(conn, event);
		return;
	}
	verbs_established(conn);
}

/* ---- the end ------------------------------------------------------------------------------- */

/* What it sent before it ended is in the completion queue. */
static void on_disconnected(struct verbs_conn *conn, const struct rdma_cm_event *event)
{
	struct verbs *v = conn->v;
	uint32_t slot = conn->slot, generation = conn->generation;

	if (conn->state == VERBS_CONNECT) {
		attempt_failed(conn, -ECONNREFUSED);
		return;
	}
	verbs_drain(v);
	conn = v->slots[slot];
	if (conn && conn->generation == generation)
		verbs_conn_fail(conn, -ECONNRESET, "the other side has closed the connection");
}

static void on_lost(struct verbs_conn *conn, const struct rdma_cm_event *event)
{
	verbs_conn_fail(conn, -ECONNRESET, "the RDMA connection manager has lost it");
}

/* Of all that is with the device: the worker hears of it once, and ends its connections. */
static void removal(struct verbs *v)
{
	if (v->gone)
		return;
	v->lost = 1;
	v->async_watch.due = 1;
	v->noted = 1;
}

static void on_removal(struct verbs_conn *conn, const struct rdma_cm_event *event)
{
	removal(conn->v);
}

/* ---- events -------------------------------------------------------------------------------- */

#define IN(state) (1u << (state))
#define OUTGOING  (IN(VERBS_ADDR) | IN(VERBS_ROUTE) | IN(VERBS_CONNECT))
#define ANY       (OUTGOING | IN(VERBS_ACCEPT) | IN(VERBS_OPEN) | IN(VERBS_LINGER))

/*
 * Events are handled where they are expected. What is in no line is nothing to do about: late news
 * of what is known already (ESTABLISHED of one that a cell has opened, TIMEWAIT_EXIT), another
 * address of a bonded interface (ADDR_CHANGE), multicast.
 */
static const struct {
	enum rdma_cm_event_type event;
	unsigned in;
	void (*handle)(struct verbs_conn *conn, const struct rdma_cm_event *event);
} table[] = {
	{ RDMA_CM_EVENT_ADDR_RESOLVED, IN(VERBS_ADDR), on_address },
	{ RDMA_CM_EVENT_ADDR_ERROR, IN(VERBS_ADDR), on_unreachable },
	{ RDMA_CM_EVENT_ROUTE_RESOLVED, IN(VERBS_ROUTE), on_route },
	{ RDMA_CM_EVENT_ROUTE_ERROR, IN(VERBS_ROUTE), on_unreachable },
	{ RDMA_CM_EVENT_CONNECT_RESPONSE, IN(VERBS_CONNECT), on_response },
	{ RDMA_CM_EVENT_ESTABLISHED, IN(VERBS_CONNECT) | IN(VERBS_ACCEPT), on_established },
	{ RDMA_CM_EVENT_CONNECT_ERROR, IN(VERBS_CONNECT), on_refused },
	{ RDMA_CM_EVENT_CONNECT_ERROR, ANY & ~OUTGOING, on_lost },
	{ RDMA_CM_EVENT_UNREACHABLE, IN(VERBS_CONNECT), on_unreachable },
	{ RDMA_CM_EVENT_UNREACHABLE, ANY & ~OUTGOING, on_lost },
	{ RDMA_CM_EVENT_REJECTED, IN(VERBS_CONNECT), on_rejected },
	{ RDMA_CM_EVENT_REJECTED, ANY & ~OUTGOING, on_lost },
	{ RDMA_CM_EVENT_DISCONNECTED, ANY & ~IN(VERBS_ADDR) & ~IN(VERBS_ROUTE), on_disconnected },
	{ RDMA_CM_EVENT_DEVICE_REMOVAL, ANY, on_removal },
};

static void handle(struct verbs *v, const struct rdma_cm_event *event, struct verbs_conn *conn)
{
	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (table[i].event == event->event && (table[i].in & IN(conn->state))) {
			table[i].handle(conn, event);
			return;
		}
	gvm_log(GVM_LOG_DEBUG, "%s: %s in state %u", v->device, rdma_event_str(event->event),
		conn->state);
}

/* An id waits for its events to be acknowledged before it is destroyed: so that comes first, and
 * what is needed of the event is copied. */
static void take_event(struct verbs *v, struct rdma_cm_event *from)
{
	uint8_t data[sizeof(struct verbs_hello)] = { 0 };
	struct rdma_cm_event event = *from;
	struct rdma_conn_param *param = &event.param.conn;

	if (!param->private_data)
		param->private_data_len = 0;
	else if (param->private_data_len > sizeof(data))
		param->private_data_len = sizeof(data);
	if (param->private_data_len)
		memcpy(data, param->private_data, param->private_data_len);
	param->private_data = data;
	rdma_ack_cm_event(from);
	if (event.event == RDMA_CM_EVENT_CONNECT_REQUEST)
		verbs_asked(v, event.listen_id->context, event.id, param);
	else if (*(enum verbs_kind *)event.id->context == VERBS_CONN)
		handle(v, &event, event.id->context);
	else if (event.event == RDMA_CM_EVENT_DEVICE_REMOVAL)
		removal(v);
}

int verbs_cm_poll(struct verbs *v)
{
	struct rdma_cm_event *event;
	struct gvm_lookup *lookup;
	int n = 0;

	while (n < EVENTS && !rdma_get_cm_event(v->events, &event)) {
		take_event(v, event);
		n++;
	}
	if (n == EVENTS) {
		v->event_watch.due = 1;
		v->noted = 1;
	}
	while ((lookup = gvm_resolver_next(v->resolver))) {
		take_lookup(lookup);
		n++;
	}
	return n;
}
