/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What real devices do seldom, in the verbs fabric by itself (verbs_rig.h) over a device that is
 * none (stub_rdma.c): its removal, each event of rdma_cm in each state of a connection, each error
 * that a completion can bring, flushed queues, late completions, devices that lack something.
 * Whatever it is: each connection and each work ends once, nothing is left, and the next connection
 * works.
 */
#define SETTLE_MS 0 /* it does at once what it does */
#include "stub_rdma.h"
#include "verbs_rig.h"

#include <sys/resource.h>

static char said[4096];

static void keep_line(enum gvm_log_level level, const char *line)
{
	size_t at = strlen(said);

	if (level <= GVM_LOG_INFO)
		snprintf(said + at, sizeof(said) - at, "%s\n", line);
}

static int setup_quiet(void **state)
{
	said[0] = 0;
	gvm_log_set(keep_line);
	gvm_log_set_level(GVM_LOG_INFO);
	return setup(state);
}

static const struct stub_device as_it_is = { .devices = 1,
					     .ports = 1,
					     .transport = IBV_TRANSPORT_IB,
					     .max_qp_wr = 4096,
					     .max_cqe = 1 << 22,
					     .max_srq_wr = 1 << 15,
					     .max_rd_atom = 16,
					     .path_mtu = IBV_MTU_4096,
					     .port_state = IBV_PORT_ACTIVE,
					     .pin_max = SIZE_MAX };

static int teardown_quiet(void **state)
{
	stub = as_it_is;
	teardown(state);
	gvm_log_set(NULL);
	return 0;
}

static struct verbs_conn *conn_of_end(struct gvm_rma_conn *c)
{
	return verbs_ep_of(c->ep)->conn;
}

/* ---- a connection in each state ------------------------------------------------------------ */

struct place {
	struct gvm_host *host; /* whose connection it is */
	struct verbs_conn *conn;
	struct gvm_rma_conn *c; /* of the client's */
};

static const enum verbs_state all_states[] = { VERBS_ADDR,   VERBS_ROUTE, VERBS_CONNECT,
					       VERBS_ACCEPT, VERBS_OPEN,  VERBS_LINGER };
#define STATES (sizeof(all_states) / sizeof(all_states[0]))

static unsigned holding(enum verbs_state state)
{
	switch (state) {
	case VERBS_ADDR:
		return 1u << RDMA_CM_EVENT_ADDR_RESOLVED;
	case VERBS_ROUTE:
		return 1u << RDMA_CM_EVENT_ROUTE_RESOLVED;
	case VERBS_CONNECT:
	case VERBS_ACCEPT:
		return 1u << RDMA_CM_EVENT_CONNECT_RESPONSE;
	default:
		return 0;
	}
}

/* Its last words are in the hardware, which has not yet said that they have arrived. */
static struct verbs_conn *lingering(struct gvm_rma_conn *c)
{
	struct verbs_conn *conn = conn_of_end(c);
	uint8_t bytes[64] = { 1 };

	cell_reg = &local;
	server.last->conn->echo = 0;
	send_cell(c, bytes, sizeof(bytes));
	end(c, 1);
	return conn;
}

static struct place put_in(enum verbs_state state)
{
	struct place p = { .host = &client };

	stub.mute = holding(state);
	if (state >= VERBS_OPEN) {
		p.c = dialled();
		p.conn = state == VERBS_OPEN ? conn_of_end(p.c) : lingering(p.c);
	} else {
		p.c = dial_at(here, server.port);
		settle();
		p.conn = conn_of_end(p.c);
	}
	if (state == VERBS_ACCEPT) {
		p.host = &server;
		p.conn = verbs_of(server.rma)->conns;
	}
	assert_non_null(p.conn);
	assert_int_equal(p.conn->state, state);
	return p;
}

static int is_there(const struct gvm_host *host)
{
	return !verbs_of(host->rma)->missing;
}

/* Nothing is left on either side, and all that was lent is back; a device that was gone is too. */
static void all_is_over(void)
{
	until(!verbs_of(client.rma)->conns && !verbs_of(server.rma)->conns);
	until(is_there(&client) && is_there(&server));
	for (struct gvm_host *h = &client; h; h = h == &client ? &server : NULL) {
		const struct verbs *v = verbs_of(h->rma);

		assert_int_equal(v->unproven_count + v->asking_count + v->connecting + v->lingering,
				 0);
		assert_null(v->waiting);
		assert_int_equal(v->copy_count, VERBS_COPIES);
		for (const struct verbs_lane *lane = v->lanes; lane; lane = lane->next)
			assert_int_equal(lane->conns, 0);
	}
}

static void the_next_one_works(void)
{
	uint8_t bytes[64] = { 5 };
	struct gvm_rma_conn *c = dialled();

	cell_reg = &local;
	send_cell(c, bytes, sizeof(bytes));
	until(c->cells == 1);
	assert_int_equal(c->broken, 0);
	end(c, 1);
	all_is_over();
}

static void take_down(struct place *p)
{
	stub.mute = 0;
	settle();
	if (p->c->ep)
		end(p->c, 0);
	all_is_over();
}

/* ---- events of rdma_cm --------------------------------------------------------------------- */

/* Also those that can only be a mistake. CONNECT_REQUEST is for listening ids. */
static void every_event_in_every_state(void **state)
{
	for (unsigned i = 0; i < STATES; i++)
		for (int e = RDMA_CM_EVENT_ADDR_RESOLVED; e <= RDMA_CM_EVENT_TIMEWAIT_EXIT; e++) {
			static const int statuses[] = { 0, -ETIMEDOUT, 8 };
			struct place p;

			if (e == RDMA_CM_EVENT_CONNECT_REQUEST)
				continue;
			for (unsigned k = 0; k < 3; k++) {
				p = put_in(all_states[i]);
				stub_cm(p.conn->id, (enum rdma_cm_event_type)e, statuses[k]);
				settle();
				/* told once, or not at all */
				assert_true(server.accepted >= server.broken);
				take_down(&p);
			}
		}
	the_next_one_works();
}

static void what_ends_a_connection_is_told(void **state)
{
	static const struct {
		int event, status, err;
		enum verbs_state in;
	} cases[] = {
		{ RDMA_CM_EVENT_ADDR_ERROR, -ENODEV, -EHOSTUNREACH, VERBS_ADDR },
		{ RDMA_CM_EVENT_ROUTE_ERROR, -ETIMEDOUT, -ETIMEDOUT, VERBS_ROUTE },
		{ RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT, -ETIMEDOUT, VERBS_CONNECT },
		{ RDMA_CM_EVENT_REJECTED, 28, -ECONNREFUSED, VERBS_CONNECT },
		{ RDMA_CM_EVENT_CONNECT_ERROR, -EINVAL, -EINVAL, VERBS_CONNECT },
		{ RDMA_CM_EVENT_DISCONNECTED, 0, -ECONNREFUSED, VERBS_CONNECT },
		/* of somebody who is no node of this version */
		{ RDMA_CM_EVENT_CONNECT_RESPONSE, 0, -EPROTO, VERBS_CONNECT },
		{ RDMA_CM_EVENT_DEVICE_REMOVAL, 0, -ENODEV, VERBS_CONNECT },
		{ RDMA_CM_EVENT_DEVICE_REMOVAL, 0, -ENODEV, VERBS_ADDR },
		{ RDMA_CM_EVENT_DEVICE_REMOVAL, 0, -ENODEV, VERBS_ROUTE },
		{ RDMA_CM_EVENT_DEVICE_REMOVAL, 0, -ENODEV, VERBS_OPEN },
		{ RDMA_CM_EVENT_DISCONNECTED, 0, -ECONNRESET, VERBS_OPEN },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct place p = put_in(cases[i].in);

		stub_cm(p.conn->id, (enum rdma_cm_event_type)cases[i].event, cases[i].status);
		until(!p.c->ep);
		assert_int_equal(cases[i].in == VERBS_OPEN ? p.c->broken : p.c->connected,
				 cases[i].err);
		take_down(&p);
	}
	the_next_one_works();
}

/* Whatever siw did not like of the other side's answer, or that it has gone, is -EINVAL: nothing
 * that trying again would not mend. */
static void what_iwarp_calls_invalid_is_a_refusal(void **state)
{
	struct verbs *v = verbs_of(client.rma);
	struct place p = put_in(VERBS_CONNECT);

	v->iwarp = 1;
	stub_cm(p.conn->id, RDMA_CM_EVENT_CONNECT_ERROR, -EINVAL);
	until(!p.c->ep);
	v->iwarp = 0;
	assert_int_equal(p.c->connected, -ECONNREFUSED);
	take_down(&p);
	the_next_one_works();
}

/* ---- the device ---------------------------------------------------------------------------- */

/* It looks for its device now and then, and sleeps meanwhile. */
static void rests(struct gvm_host *host)
{
	uint64_t end_ = gvm_now() + 150000000;
	unsigned turns = 0;

	for (; gvm_now() < end_; turns++)
		turn(host, 150);
	assert_true(turns <= 20);
}

static void until_gone(struct gvm_host *host)
{
	struct verbs *v = verbs_of(host->rma);

	for (uint64_t end_ = gvm_now() + 20000000000ull; v->conns || !v->gone || v->context;) {
		turn(host, 1);
		assert_true(gvm_now() < end_);
	}
}

/* Whatever state its connections are in, it is let go of, and found again. How it goes: by an
 * event, or only by the end of all events. */
static void the_device_is_taken_away(void **state)
{
	for (unsigned i = 0; i < 2 * STATES; i++) {
		struct place p = put_in(all_states[i / 2]);
		struct verbs *v = verbs_of(p.host->rma);
		enum ibv_event_type type = i & 1 ? IBV_EVENT_DEVICE_FATAL : IBV_EVENT_SM_CHANGE;

		said[0] = 0;
		assert_int_equal(stub_open(), 2);
		stub.removed = 1;
		stub_async(v->context, (struct ibv_async_event){ .event_type = type });
		until_gone(p.host);
		assert_non_null(strstr(said, "stub0 has failed or was taken away"));
		if (p.host == &client && all_states[i / 2] < VERBS_ACCEPT)
			assert_int_equal(p.c->connected, -ENODEV);
		if (all_states[i / 2] == VERBS_OPEN)
			assert_int_equal(p.c->broken, -ENODEV);
		rests(p.host);
		assert_int_equal(stub_open(), 1);
		assert_int_equal(v->gone, 1);
		if (p.host == &client)
			assert_int_equal(dial_at(here, server.port)->connected, -ENODEV);
		said[0] = 0;
		stub.removed = 0;
		take_down(&p);
		assert_non_null(strstr(said, "stub0 is there again"));
		assert_int_equal(stub_open(), 2);
		the_next_one_works();
	}
}

/* It is there, but cannot be used yet: one try after the other, each given up without a trace. */
static void a_device_that_comes_back_by_and_by(void **state)
{
	struct verbs *v = verbs_of(client.rma);
	struct place p = put_in(VERBS_OPEN);

	stub.removed = 1;
	stub_async(v->context, (struct ibv_async_event){ .event_type = IBV_EVENT_DEVICE_FATAL });
	until_gone(&client);
	stub.no_open = 1;
	stub.removed = 0;
	rests(&client);
	stub.no_open = 0;
	stub.port_state = IBV_PORT_DOWN;
	rests(&client);
	stub.port_state = IBV_PORT_ACTIVE;
	stub.pin_max = 4096;
	rests(&client);
	assert_int_equal(v->gone, 1);
	assert_int_equal(stub_open(), 1);
	stub.pin_max = SIZE_MAX;
	take_down(&p);
	the_next_one_works();
}

static void a_server_without_its_device_refuses(void **state)
{
	struct gvm_rma_conn *c;

	stub.removed = 1;
	stub_async(verbs_of(server.rma)->context,
		   (struct ibv_async_event){ .event_type = IBV_EVENT_DEVICE_FATAL });
	until_gone(&server);
	c = dial_at(here, server.port);
	until(c->connected);
	assert_int_equal(c->connected, -ECONNREFUSED);
	stub.removed = 0;
	all_is_over();
	the_next_one_works();
}

/* What listened at an address of the device does so again when that is back, at the same port, if
 * not at once; with several workers there too, and if the one that had the port ends meanwhile. */
static void who_listened_does_so_again(void **state)
{
	struct gvm_rma_conn *c;

	for (int i = 0; i < 3; i++) {
		if (i) {
			assert_int_equal(fabric_open(&other, ""), 0);
			fabric_listen(&other, server.port);
			assert_int_equal(other.port, server.port);
		}
		stub.removed = 1;
		stub_unlisten(server.port);
		if (i)
			stub_async(
			    verbs_of(other.rma)->context,
			    (struct ibv_async_event){ .event_type = IBV_EVENT_DEVICE_FATAL });
		until_gone(&server);
		if (i)
			until_gone(&other);
		c = dial_at(here, server.port);
		until(c->connected);
		assert_int_equal(c->connected, -ECONNREFUSED);
		if (i == 2)
			fabric_close(&other);
		stub.listen_errno = EADDRNOTAVAIL;
		stub.removed = 0;
		until(!verbs_of(server.rma)->gone);
		rests(&server);
		assert_int_equal(is_there(&server), 0);
		stub.listen_errno = 0;
		all_is_over();
		if (other.rma)
			until(is_there(&other));
		for (int k = 0; k < 4; k++) {
			c = dialled();
			end(c, 0);
		}
		fabric_close(&other);
		all_is_over();
	}
	the_next_one_works();
}

/* Its worker ends, and the id cannot go to another one's channel: that listens anew. */
static void a_port_that_cannot_be_handed_on(void **state)
{
	unsigned port = server.port;
	struct gvm_rma_conn *c;

	assert_int_equal(fabric_open(&other, ""), 0);
	fabric_listen(&other, port);
	stub.no_migrate = 1;
	fabric_unlisten(&server);
	turn_all(0); /* it hears of it */
	assert_int_equal(is_there(&other), 0);
	until(is_there(&other));
	c = dial_at(here, port);
	until(c->connected);
	assert_int_equal(c->connected, 1);
	end(c, 0);
	until(!verbs_of(other.rma)->conns);
	fabric_close(&other);
	stub.no_migrate = 0;
	fabric_listen(&server, port);
	the_next_one_works();
}

/* A connection is asked for, and the server has not looked yet. */
static struct gvm_rma_conn *asked_for(void)
{
	struct gvm_rma_conn *c = dial_at(here, server.port);

	while (conn_of_end(c)->state != VERBS_CONNECT)
		turn(&client, 0);
	return c;
}

/* The request goes with the port to the other worker there, which lives longer. */
static void a_request_goes_on_with_its_port(void **state)
{
	unsigned port = server.port;
	struct gvm_rma_conn *c;

	assert_int_equal(fabric_open(&other, ""), 0);
	fabric_listen(&other, port);
	c = asked_for();
	fabric_close(&server);
	until(c->connected);
	assert_int_equal(c->connected, 1);
	end(c, 0);
	until(!verbs_of(other.rma)->conns);
	fabric_close(&other);
	assert_int_equal(fabric_open(&server, ""), 0);
	fabric_listen(&server, port);
	the_next_one_works();
}

/* Who has asked is gone before anybody hears of it: the server does not accept, or ends as well. */
static void who_asks_does_not_wait(void **state)
{
	end(asked_for(), 0);
	settle();
	assert_int_equal(server.accepted, 0);
	all_is_over();
	end(asked_for(), 0);
	end(asked_for(), 0);
	fabric_close(&server);
	assert_int_equal(fabric_open(&server, ""), 0);
	fabric_listen(&server, 0);
	the_next_one_works();
}

/* A port that goes down ends nothing: it may come back before the hardware has given up. */
static void ports_go_down_and_up(void **state)
{
	static const enum ibv_event_type harmless[] = {
		IBV_EVENT_PORT_ERR,   IBV_EVENT_PORT_ACTIVE,       IBV_EVENT_LID_CHANGE,
		IBV_EVENT_GID_CHANGE, IBV_EVENT_PKEY_CHANGE,       IBV_EVENT_SM_CHANGE,
		IBV_EVENT_PATH_MIG,   IBV_EVENT_CLIENT_REREGISTER, IBV_EVENT_SQ_DRAINED,
	};
	struct gvm_rma_conn *c = dialled();
	struct ibv_async_event event = { .element.port_num = 1 };

	for (unsigned i = 0; i < sizeof(harmless) / sizeof(harmless[0]); i++) {
		event.event_type = harmless[i];
		stub_async(verbs_of(client.rma)->context, event);
		settle();
		assert_int_equal(c->broken, 0);
	}
	assert_non_null(strstr(said, "stub0: port 1 is down"));
	assert_non_null(strstr(said, "stub0: port 1 is active"));
	event.event_type = IBV_EVENT_COMM_EST;
	event.element.qp = conn_of_end(c)->qp;
	stub_async(verbs_of(client.rma)->context, event);
	settle();
	offer(c, RW);
	assert_int_equal(do_job(c, GVM_RMA_READ, 0, 0, 4096), 0);
	verbs_fabric.dereg(server.rma, &remote);
}

static void a_queue_pair_fails(void **state)
{
	static const enum ibv_event_type fatal[] = { IBV_EVENT_QP_FATAL, IBV_EVENT_QP_REQ_ERR,
						     IBV_EVENT_QP_ACCESS_ERR,
						     IBV_EVENT_PATH_MIG_ERR };

	for (unsigned i = 0; i < 4; i++) {
		struct gvm_rma_conn *c = dialled(), *stays = dialled();
		struct ibv_async_event event = { .event_type = fatal[i],
						 .element.qp = conn_of_end(c)->qp };

		stub_async(verbs_of(client.rma)->context, event);
		until(c->broken);
		assert_int_equal(c->broken, -ECONNRESET);
		settle();
		assert_int_equal(stays->broken, 0);
		end(stays, 0);
		all_is_over();
	}
	the_next_one_works();
}

/* It ends the connections that it is of, and gets no others. */
static void a_completion_queue_fails(void **state)
{
	struct verbs *v = verbs_of(client.rma);
	struct gvm_rma_conn *c = dialled();
	struct verbs_lane *lane = conn_of_end(c)->lane;

	stub_async(v->context, (struct ibv_async_event){ .event_type = IBV_EVENT_CQ_ERR,
							 .element.cq = lane->cq });
	until(c->broken);
	assert_int_equal(c->broken, -EIO);
	c = dialled();
	assert_ptr_not_equal(conn_of_end(c)->lane, lane);
	stub_async(v->context, (struct ibv_async_event){ .event_type = IBV_EVENT_CQ_ERR,
							 .element.cq = lane->cq });
	settle();
	assert_int_equal(c->broken, 0);
	end(c, 0);
	all_is_over();
	the_next_one_works();
}

/* ---- completions --------------------------------------------------------------------------- */

static void a_completion_in_error(enum ibv_wc_status status, enum gvm_rma_kind kind)
{
	struct gvm_rma_conn *c = dialled(), *peer = server.last->conn;
	uint8_t bytes[64] = { 2 };
	struct job job = { 0 };

	memset(remote_at, 0x33, 4096);
	memset(local_at, 0x44, 4096);
	cell_reg = &local;
	if (kind != GVM_RMA_SEND) {
		offer(c, RW);
		stub.fail = status;
		assert_int_equal(post(c, &job, kind, 0, 0, 4096), 0);
	} else {
		stub.fail = status;
		send_cell(c, bytes, sizeof(bytes));
	}
	until(c->broken);
	assert_int_equal(stub.fail, 0);
	assert_true(c->broken == -ECONNRESET || c->broken == -ETIMEDOUT);
	assert_true(!job.done || job.status < 0);
	until(peer->broken);
	assert_int_equal(peer->cells, 0);
	for (unsigned i = 0; i < 4096 && kind != GVM_RMA_SEND; i++)
		assert_true(remote_at[i] == 0x33 && local_at[i] == 0x44);
	if (kind != GVM_RMA_SEND)
		verbs_fabric.dereg(server.rma, &remote);
	all_is_over();
}

static void every_error_of_a_completion(void **state)
{
	for (int status = IBV_WC_LOC_LEN_ERR; status <= IBV_WC_GENERAL_ERR; status++)
		for (int kind = GVM_RMA_SEND; kind <= GVM_RMA_WRITE; kind++) {
			said[0] = 0;
			a_completion_in_error((enum ibv_wc_status)status, (enum gvm_rma_kind)kind);
			/* what can only be this side's own fault is said */
			if (status == IBV_WC_LOC_PROT_ERR)
				assert_non_null(strstr(said, "stub0: "));
		}
	the_next_one_works();
}

/* The hardware stops a queue: what is in it, and its receive buffers, come back. */
static void a_flushed_queue(void **state)
{
	enum { N = 20 };
	struct ibv_qp_attr error = { .qp_state = IBV_QPS_ERR };
	struct job jobs[N];

	for (int theirs = 0; theirs < 2; theirs++) {
		struct gvm_rma_conn *c = dialled();
		struct verbs_conn *stopped =
		    theirs ? verbs_ep_of(server.last)->conn : conn_of_end(c);

		offer(c, RW);
		for (unsigned i = 0; i < N; i++) {
			assert_int_equal(post(c, &jobs[i], GVM_RMA_READ, i * 4096, 0, 4096), 0);
			if (i == N / 2)
				ibv_modify_qp(stopped->qp, &error, IBV_QP_STATE);
		}
		until(c->broken);
		for (unsigned i = 0; i < N; i++)
			assert_true(!jobs[i].done || jobs[i].status < 0);
		verbs_fabric.dereg(server.rma, &remote);
		all_is_over();
	}
	the_next_one_works();
}

/* What is left in a completion queue of a connection that has ended is nobody else's. */
static void late_completions(void **state)
{
	struct gvm_rma_conn *c = dialled(), *next;
	struct verbs_conn *conn = conn_of_end(c);
	uint64_t sent = verbs_receive_id(conn, 0) & ~(1ull << 63);
	uint64_t received = verbs_receive_id(conn, 3);
	struct ibv_cq *cq = conn->lane->cq;
	uint32_t slot = conn->slot;

	end(c, 0);
	settle();
	verbs_of(client.rma)->slot_next = slot;
	next = dialled();
	assert_int_equal(conn_of_end(next)->slot, slot);
	stub_complete(cq, (struct ibv_wc){ .wr_id = received, .byte_len = 64 });
	stub_complete(cq, (struct ibv_wc){ .wr_id = received, .status = IBV_WC_WR_FLUSH_ERR });
	stub_complete(cq, (struct ibv_wc){ .wr_id = sent, .status = IBV_WC_WR_FLUSH_ERR });
	stub_complete(cq, (struct ibv_wc){ .wr_id = UINT64_MAX, .byte_len = 64 });
	stub_complete(cq, (struct ibv_wc){ .wr_id = UINT64_MAX >> 1 });
	settle();
	assert_int_equal(next->broken, 0);
	assert_int_equal(next->cells, 0);
	end(next, 0);
	the_next_one_works();
}

/* ---- what a device may lack ---------------------------------------------------------------- */

static void cannot_be_used(const char *why_not, int named_err)
{
	const char *why = "";

	assert_int_equal(verbs_probe(&why), -ENODEV);
	assert_non_null(strstr(why, why_not));
	assert_int_equal(verbs_suits(&why), -ENODEV);
	assert_non_null(strstr(why, why_not));
	assert_int_equal(fabric_open(&other, ""), -ENODEV);
	forget(&other);
	assert_int_equal(fabric_open(&other, GVM_PROVIDER_AUTO), -ENODEV);
	forget(&other);
	if (named_err) {
		assert_int_equal(fabric_open(&other, "stub0:1"), named_err);
		forget(&other);
		if (named_err == -EOPNOTSUPP)
			assert_non_null(strstr(said, why_not));
	}
	stub = as_it_is;
	assert_int_equal(verbs_probe(&why), 0);
}

static void devices_that_lack_something(void **state)
{
	stub.transport = IBV_TRANSPORT_UNSPECIFIED;
	cannot_be_used("no reliable connections", -EOPNOTSUPP);
	stub.max_qp_wr = 64;
	cannot_be_used("queues are too short", -EOPNOTSUPP);
	stub.max_cqe = 255;
	cannot_be_used("queues are too short", -EOPNOTSUPP);
	stub.max_rd_atom = 0;
	cannot_be_used("no RDMA reads", -EOPNOTSUPP);
	stub.port_state = IBV_PORT_DOWN;
	cannot_be_used("no port of an RDMA device is active", 0);
	stub.ports = 0;
	cannot_be_used("no port of an RDMA device is active", -ENODEV);
	stub.no_open = 1;
	cannot_be_used("no RDMA device can be opened", -EACCES);
	stub.devices = 0;
	cannot_be_used("there is no RDMA device", 0);
}

/* The one line that says what to do, and none behind it that does not. */
static void open_says(const char *args, int err, const char *line)
{
	said[0] = 0;
	assert_int_equal(fabric_open(&other, args), err);
	forget(&other);
	assert_string_equal(said, line);
}

static void what_is_named_and_not_there(void **state)
{
	open_says("pigeon0", -ENODEV, "there is no RDMA device pigeon0 (rdma link shows them)\n");
	open_says("stub0:2", -ENODEV, "stub0 has no port 2\n");
	open_says("stub0:1:7", -ENODEV, "port 1 of stub0 has no GID 7\n"); /* zeros */
	open_says("stub0:1:1024", -ENODEV, "port 1 of stub0 has no GID 1024\n");
	stub.port_state = IBV_PORT_DOWN;
	open_says("stub0", -ENETDOWN, "no port of stub0 is active (rdma link shows them)\n");
	open_says("stub0:1", -ENETDOWN, "port 1 of stub0 is not active\n");
	open_says("", -ENODEV,
		  "no RDMA device can be used: no port of an RDMA device is active (rdma link "
		  "shows them)\n");
	stub = as_it_is;
	stub.no_open = 1;
	open_says("stub0", -EACCES, "stub0 cannot be opened: Permission denied\n");
}

/* A GID that is no address of the peer's family is not passed over in silence. */
static void gids_that_reach_nobody(void **state)
{
	static const char *const wrong[] = { "stub0:1:1", "stub0:1:2" };

	for (unsigned i = 0; i < 2; i++) {
		struct gvm_rma_conn *c;
		char line[64];

		assert_int_equal(fabric_open(&other, wrong[i]), 0);
		c = conn_new(other.rma);
		assert_int_equal(verbs_fabric.connect(c->ep, here, server.port), -EHOSTUNREACH);
		c->ep = NULL;
		snprintf(line, sizeof(line), "not reached from GID %u of port 1 of stub0", i + 1);
		assert_non_null(strstr(said, line));
		fabric_close(&other);
	}
	the_next_one_works();
}

static void what_auto_leaves_alone(void **state)
{
	struct rlimit before, little = { 65536, 65536 };
	const char *why = "";

	assert_int_equal(verbs_suits(&why), 0);
	stub.no_manager = 1;
	assert_int_equal(verbs_suits(&why), -ENODEV);
	assert_non_null(strstr(why, "modprobe rdma_ucm"));
	stub = as_it_is;
	stub.transport = IBV_TRANSPORT_IWARP;
	assert_int_equal(verbs_probe(&why), 0);
	assert_int_equal(verbs_suits(&why), -ENODEV);
	assert_non_null(strstr(why, "it is iWARP"));
	assert_int_equal(fabric_open(&other, GVM_PROVIDER_AUTO), -ENODEV);
	forget(&other);
	stub = as_it_is;
	getrlimit(RLIMIT_MEMLOCK, &before);
	little.rlim_max = before.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_MEMLOCK, &little), 0);
	assert_int_equal(verbs_suits(&why), 0); /* one whom the limit does not bind */
	stub.pin_max = 65536;
	assert_int_equal(verbs_suits(&why), -ENOMEM);
	assert_non_null(strstr(why, "may lock 64 KiB"));
	setrlimit(RLIMIT_MEMLOCK, &before);
}

static void described(void *arg, unsigned depth, const char *text)
{
	size_t at = strlen(said);

	snprintf(said + at, sizeof(said) - at, "%u %s\n", depth, text);
}

static void info_says_why_not(void **state)
{
	stub.devices = 2;
	verbs_describe(described, NULL);
	assert_non_null(strstr(said, "0 stub1: "));
	assert_null(strstr(said, "cannot be used"));
	assert_non_null(strstr(said, "registrations of any length"));
	stub.max_rd_atom = 0;
	verbs_describe(described, NULL);
	assert_non_null(strstr(said, "1 cannot be used: it has no RDMA reads"));
	stub = as_it_is;
	stub.transport = IBV_TRANSPORT_IWARP;
	stub.port_state = IBV_PORT_DOWN;
	verbs_describe(described, NULL);
	assert_non_null(strstr(said, "1 not for auto: it is iWARP"));
	assert_non_null(strstr(said, "1 port 1: down (cannot be used)"));
}

/* A worker has one device; what is reached by another one is refused with a sentence. */
static void several_devices(void **state)
{
	struct gvm_rma_conn *c;
	unsigned port = 0;

	stub.devices = 2;
	assert_int_equal(fabric_open(&other, "stub1"), 0);
	assert_string_equal(verbs_of(other.rma)->device, "stub1");
	/* this address is stub0's */
	other.listener.rma = other.rma;
	assert_int_equal(verbs_fabric.listen(other.rma, &other.listener, here, 0, &port),
			 -EADDRNOTAVAIL);
	assert_non_null(strstr(said, "belongs to stub0, this worker has stub1"));
	stub.way = 1;
	c = dial_at(here, server.port);
	until(c->connected);
	assert_int_equal(c->connected, -EHOSTUNREACH);
	assert_non_null(strstr(said, "through port 1 of stub1, this worker has stub0"));
	/* it is asked for by way of a device that no worker at the port has */
	stub.way = 0;
	stub.mute = 1u << RDMA_CM_EVENT_ROUTE_RESOLVED;
	c = dial_at(here, server.port);
	settle();
	stub.way = 1;
	stub_cm(conn_of_end(c)->id, RDMA_CM_EVENT_ROUTE_RESOLVED, 0);
	until(c->connected);
	assert_int_equal(c->connected, -ECONNREFUSED);
	stub.way = 0;
	stub.mute = 0;
	the_next_one_works();
}

static void memory_that_cannot_be_pinned(void **state)
{
	struct gvm_rma_reg reg = { 0 };
	struct gvm_rma_conn *c;

	stub.pin_max = 4096;
	assert_int_equal(verbs_fabric.reg(server.rma, NULL, remote_at, 2 * MIB, RW, &reg), -ENOMEM);
	assert_int_equal(verbs_fabric.reg(server.rma, NULL, remote_at, 2 * MIB, RW, &reg), -ENOMEM);
	/* once */
	assert_non_null(strstr(said, "2097152 more bytes of pinned memory"));
	assert_null(strstr(strstr(said, "more bytes") + 1, "more bytes"));
	c = dial_at(here, server.port);
	until(c->connected);
	assert_int_equal(c->connected, -ENOMEM);
	assert_int_equal(fabric_open(&other, ""), -ENOMEM);
	forget(&other);
	stub = as_it_is;
	the_next_one_works();
}

/* Of those who connect and of those who listen. */
static void the_traffic_class_is_set(void **state)
{
	struct gvm_rma_conn *c;
	unsigned port = 0;

	assert_int_equal(stub.tos_set, 0);
	assert_int_equal(gvm_option_set("GVM_VERBS_TCLASS", "104"), 0);
	c = dial_at(here, server.port);
	until(c->connected);
	assert_int_equal(c->connected, 1);
	assert_int_equal(stub.tos_set, 1);
	assert_int_equal(fabric_open(&other, ""), 0);
	other.listener.rma = other.rma;
	assert_int_equal(verbs_fabric.listen(other.rma, &other.listener, here, 0, &port), 0);
	assert_int_equal(gvm_option_set("GVM_VERBS_TCLASS", "0"), 0);
	assert_int_equal(stub.tos_set, 2);
	assert_int_equal(stub.tos, 104);
	verbs_fabric.unlisten(other.rma, &other.listener);
}

static void way_is(int mtu, int sl, int server_sl)
{
	struct gvm_rma_conn *c = dialled();

	assert_int_equal(stub.mtu[0], mtu); /* the connecting side comes last */
	assert_int_equal(stub.mtu[1], mtu);
	assert_int_equal(stub.sl[0], sl);
	assert_int_equal(stub.sl[1], server_sl);
	offer(c, RW);
	assert_int_equal(do_job(c, GVM_RMA_READ, 0, 0, 4096), 0);
	verbs_fabric.dereg(server.rma, &remote);
	end(c, 0);
	all_is_over();
}

/* The options are the process's, so each side's are set when it is its turn. */
static struct gvm_rma_conn *asked_with(const char *mtu)
{
	struct gvm_rma_conn *c;

	assert_int_equal(gvm_option_set("GVM_VERBS_MTU", mtu), 0);
	c = asked_for();
	assert_int_equal(gvm_option_set("GVM_VERBS_MTU", "0"), 0);
	return c;
}

static void packets_and_service_level(void **state)
{
	static const struct {
		const char *option;
		int mtu;
	} sizes[] = { { "256", IBV_MTU_256 },
		      { "512", IBV_MTU_512 },
		      { "1024", IBV_MTU_1024 },
		      { "2048", IBV_MTU_2048 } };
	struct gvm_rma_conn *c;

	stub.path_mtu = IBV_MTU_2048;
	stub.path_sl = 3;
	way_is(IBV_MTU_2048, 3, 3);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(gvm_option_set("GVM_VERBS_MTU", sizes[i].option), 0);
		way_is(sizes[i].mtu, 3, 3);
	}
	/* never more than the path takes */
	assert_int_equal(gvm_option_set("GVM_VERBS_MTU", "4096"), 0);
	way_is(IBV_MTU_2048, 3, 3);
	assert_int_equal(gvm_option_set("GVM_VERBS_MTU", "0"), 0);
	assert_int_equal(gvm_option_set("GVM_VERBS_SL", "0"), 0);
	way_is(IBV_MTU_2048, 0, 0);
	assert_int_equal(gvm_option_set("GVM_VERBS_SL", "15"), 0);
	way_is(IBV_MTU_2048, 15, 15);
	assert_int_equal(gvm_option_set("GVM_VERBS_SL", "auto"), 0);
	/* either side alone has the packets of both made shorter */
	c = asked_with("512");
	until(c->connected == 1);
	assert_int_equal(stub.mtu[0], IBV_MTU_512);
	assert_int_equal(stub.mtu[1], IBV_MTU_512);
	end(c, 0);
	all_is_over();
	c = asked_for();
	assert_int_equal(gvm_option_set("GVM_VERBS_MTU", "256"), 0);
	until(verbs_of(server.rma)->conns);
	assert_int_equal(gvm_option_set("GVM_VERBS_MTU", "0"), 0);
	until(c->connected == 1);
	assert_int_equal(stub.mtu[0], IBV_MTU_256);
	assert_int_equal(stub.mtu[1], IBV_MTU_256);
	end(c, 0);
	all_is_over();
}

/* What peers reach is not pinned where the device can do without; what is read into is. */
static void memory_on_demand(void **state)
{
	struct gvm_rma_reg reg = { 0 };

	stub.on_demand = 1;
	assert_int_equal(fabric_open(&other, ""), 0);
	said[0] = 0;
	verbs_describe(described, NULL);
	assert_non_null(strstr(said, "1 on-demand paging\n"));
	stub.pin_max = 4096;
	assert_int_equal(verbs_fabric.reg(other.rma, NULL, remote_at, 2 * MIB, RW, &reg), 0);
	assert_int_equal(stub.regs_on_demand, 1);
	assert_int_equal(stub.advised, 2 * MIB);
	verbs_fabric.dereg(other.rma, &reg);
	assert_int_equal(verbs_fabric.reg(other.rma, NULL, remote_at, 2 * MIB, 0, &reg), -ENOMEM);
	/* a device that cannot do it with this memory */
	stub.on_demand = 2;
	stub.pin_max = SIZE_MAX;
	assert_int_equal(verbs_fabric.reg(other.rma, NULL, remote_at, 2 * MIB, RW, &reg), 0);
	assert_int_equal(stub.regs_on_demand, 1);
	verbs_fabric.dereg(other.rma, &reg);
	/* nor where it is not wanted */
	fabric_close(&other);
	stub.on_demand = 1;
	assert_int_equal(gvm_option_set("GVM_VERBS_ODP", "0"), 0);
	assert_int_equal(fabric_open(&other, ""), 0);
	assert_int_equal(gvm_option_set("GVM_VERBS_ODP", "1"), 0);
	assert_int_equal(verbs_fabric.reg(other.rma, NULL, remote_at, 2 * MIB, RW, &reg), 0);
	assert_int_equal(stub.regs_on_demand, 1);
	verbs_fabric.dereg(other.rma, &reg);
}

#define ONE(test) cmocka_unit_test_setup_teardown(test, setup_quiet, teardown_quiet)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ONE(every_event_in_every_state),
		ONE(what_ends_a_connection_is_told),
		ONE(what_iwarp_calls_invalid_is_a_refusal),
		ONE(the_device_is_taken_away),
		ONE(a_device_that_comes_back_by_and_by),
		ONE(a_server_without_its_device_refuses),
		ONE(who_listened_does_so_again),
		ONE(a_port_that_cannot_be_handed_on),
		ONE(a_request_goes_on_with_its_port),
		ONE(who_asks_does_not_wait),
		ONE(ports_go_down_and_up),
		ONE(a_queue_pair_fails),
		ONE(a_completion_queue_fails),
		ONE(every_error_of_a_completion),
		ONE(a_flushed_queue),
		ONE(late_completions),
		ONE(devices_that_lack_something),
		ONE(what_is_named_and_not_there),
		ONE(gids_that_reach_nobody),
		ONE(what_auto_leaves_alone),
		ONE(info_says_why_not),
		ONE(several_devices),
		ONE(memory_that_cannot_be_pinned),
		ONE(the_traffic_class_is_set),
		ONE(packets_and_service_level),
		ONE(memory_on_demand),
	};

	snprintf(here, sizeof(here), "127.0.0.1");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
