/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Strangers who ask the verbs provider for connections and go no further, over an RDMA device that
 * is none (stub_rdma.c): what they hold is little and bounded, they give way, each has its time,
 * and members connect meanwhile and afterwards.
 */
#include "verbs_rig.h" /* first: cmocka's fail() is a macro */
#include "stub_rdma.h"

#define PROVE_MS 300u
#define FLOOD    5000u
#define FEW      1025u /* strangers that are answered at a time, and a member */
#define MS       1000000ull

/* ---- strangers ----------------------------------------------------------------------------- */

/* They have one queue pair together, which is enough to be answered. */
static struct {
	struct rdma_event_channel *events;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	struct rdma_cm_id *id[FLOOD];
	unsigned asked, answered, refused, ended;
	int establish; /* they answer the answer */
} s;

static struct stub_device as_it_was;
static struct stub_use before;

/* What they are told is noted. */
static void strangers_hear(void)
{
	struct rdma_cm_event *event;

	while (!rdma_get_cm_event(s.events, &event)) {
		struct rdma_cm_id *id = event->id;
		enum rdma_cm_event_type type = event->event;

		rdma_ack_cm_event(event);
		s.answered += type == RDMA_CM_EVENT_CONNECT_RESPONSE;
		s.refused += type == RDMA_CM_EVENT_REJECTED;
		s.ended += type == RDMA_CM_EVENT_DISCONNECTED;
		if (type == RDMA_CM_EVENT_CONNECT_RESPONSE && s.establish)
			rdma_establish(id);
	}
}

static void stranger_asks(void)
{
	struct verbs *v = verbs_of(client.rma);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)server.port) };
	struct verbs_hello hello;
	struct rdma_conn_param param = { .private_data = &hello,
					 .private_data_len = sizeof(hello),
					 .qp_num = s.qp->qp_num };
	struct rdma_cm_id **id = &s.id[s.asked++];

	verbs_hello_make(v, 0, &hello);
	inet_pton(AF_INET, here, &to.sin_addr);
	assert_int_equal(rdma_create_id(s.events, id, NULL, RDMA_PS_TCP), 0);
	assert_int_equal(rdma_resolve_addr(*id, NULL, (struct sockaddr *)&to, 1000), 0);
	assert_int_equal(rdma_resolve_route(*id, 1000), 0);
	assert_int_equal(rdma_connect(*id, &param), 0);
}

static void strangers_ask(unsigned n)
{
	while (n--) {
		stranger_asks();
		turn(&server, 0);
		strangers_hear();
	}
}

static int setup_strangers(void **state)
{
	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_RC };
	struct ibv_qp_attr way = { .qp_state = IBV_QPS_RTR, .path_mtu = IBV_MTU_4096 };
	struct verbs *v;

	as_it_was = stub;
	gvm_log_set(drop_line);
	assert_int_equal(gvm_option_set("GVM_HANDSHAKE_MS", "300"), 0);
	setup(state);
	assert_int_equal(gvm_option_set("GVM_HANDSHAKE_MS", "5000"), 0);
	memset(&s, 0, sizeof(s));
	v = verbs_of(client.rma);
	s.events = rdma_create_event_channel();
	s.cq = ibv_create_cq(v->context, 64, NULL, v->channel, 0);
	init.send_cq = init.recv_cq = s.cq;
	s.qp = ibv_create_qp(v->pd, &init);
	assert_true(s.events && s.cq && s.qp);
	assert_int_equal(ibv_modify_qp(s.qp, &way, IBV_QP_STATE | IBV_QP_PATH_MTU), 0);
	before = stub_use;
	return 0;
}

static void strangers_leave(void)
{
	for (unsigned i = 0; i < s.asked; i++)
		rdma_destroy_id(s.id[i]);
	s.asked = 0;
}

static int teardown_strangers(void **state)
{
	strangers_leave();
	fabric_close(&server);
	ibv_destroy_qp(s.qp);
	ibv_destroy_cq(s.cq);
	rdma_destroy_event_channel(s.events);
	teardown(state);
	stub = as_it_was;
	gvm_log_set(NULL);
	return 0;
}

/* ---- what a node has of them --------------------------------------------------------------- */

/* The worker has no more of the device than what so many connections take which have their first
 * buffers: lanes of 32, 64, 128, ... connections. */
static void holds_little(unsigned most)
{
	unsigned lanes = 1, room = VERBS_LANE;

	for (unsigned next = 2 * VERBS_LANE; room < most; next *= 2, lanes++)
		room += next;
	assert_true(stub_use.qps - before.qps <= most);
	assert_true(stub_use.cqs - before.cqs < lanes);
	assert_true(stub_use.cq_entries - before.cq_entries <=
		    (uint64_t)(room - VERBS_LANE) * VERBS_ENTRIES);
	assert_true(stub_use.pinned - before.pinned <=
		    ((most * GVM_RMA_FIRST + GVM_RMA_LEND) / VERBS_BUFS + 2) * VERBS_BUFS *
			GVM_RMA_CELL);
}

/* The server's end of it: the one that has heard something. */
static struct gvm_rma_conn *heard_by_server(void)
{
	for (struct gvm_rma_conn *c = conns; c; c = c->next)
		if (c->ep && c->ep->rma == server.rma && c->cells)
			return c;
	return NULL;
}

/* Connects, says something, has it proven, and is served. Not later than after this time. */
static void a_member_is_served(unsigned ms)
{
	uint64_t end_ = gvm_now() + ms * MS;
	struct gvm_rma_conn *c = dial_at(here, server.port), *peer;
	uint8_t bytes[64] = { 7 };

	while (!c->connected && gvm_now() < end_) {
		turn_all(1);
		strangers_hear();
	}
	assert_int_equal(c->connected, 1);
	cell_reg = NULL;
	send_cell_with(c, bytes, sizeof(bytes), &local);
	until(c->broken || heard_by_server());
	peer = heard_by_server();
	assert_non_null(peer);
	verbs_fabric.allow(peer->ep);
	assert_true(gvm_now() < end_);
	server.last = peer->ep;
	offer(c, RW);
	assert_int_equal(do_job(c, GVM_RMA_READ, 0, 0, 4096), 0);
	/* it stays, whoever goes */
	for (end_ = gvm_now() + 2 * PROVE_MS * MS; gvm_now() < end_;) {
		turn_all(1);
		strangers_hear();
	}
	assert_int_equal(do_job(c, GVM_RMA_READ, 0, 0, 4096), 0);
	assert_int_equal(c->broken + peer->broken, 0);
	verbs_fabric.dereg(server.rma, &remote);
	peer->cells = 0;
	end(c, 0);
	until(peer->broken);
}

/* Of the device they have nothing any more, but for what lanes have. */
static void all_have_gone(void)
{
	until(!verbs_of(server.rma)->conns);
	assert_int_equal(stub_use.qps, before.qps);
	assert_int_equal(verbs_of(server.rma)->unproven_count, 0);
	assert_int_equal(verbs_of(server.rma)->asking_count, 0);
	holds_little(FEW);
}

static void flood(int establish)
{
	s.establish = establish;
	server.unproven = 1;
	strangers_ask(FLOOD);
	holds_little(FEW);
	a_member_is_served(5000);
	until(s.refused + s.answered == FLOOD);
	all_have_gone();
	strangers_hear();
	assert_int_equal(s.ended, s.answered);
}

static void who_is_answered_and_does_not_answer(void **state)
{
	flood(0);
	assert_int_equal(server.accepted, 1);
}

static void who_is_connected_and_says_nothing(void **state)
{
	flood(1);
	assert_int_equal(server.accepted, s.answered + 1);
}

/* ---- who gives way, when ------------------------------------------------------------------- */

/* The clock stands still: those who are there stay, the next wait, of too many that wait the oldest
 * is refused. When it has gone on, the oldest of those who are there have had their time. */
static void the_oldest_gives_way(void **state)
{
	const struct verbs *v = verbs_of(server.rma);
	const unsigned many = VERBS_UNPROVEN + VERBS_ASKING + 100;

	stopped_at = gvm_now();
	strangers_ask(many);
	assert_int_equal(s.answered, VERBS_UNPROVEN);
	assert_int_equal(s.refused, 100);
	assert_int_equal(v->unproven_count, VERBS_UNPROVEN);
	assert_int_equal(v->asking_count, VERBS_ASKING);
	stopped_at += VERBS_GRACE_MS * MS - 1;
	turn(&server, 0);
	strangers_hear();
	assert_int_equal(s.answered, VERBS_UNPROVEN);
	assert_int_equal(s.ended, 0);
	stopped_at += 1;
	turn(&server, 0);
	strangers_hear();
	assert_int_equal(s.answered, 2 * VERBS_UNPROVEN);
	assert_int_equal(s.ended, VERBS_UNPROVEN);
	assert_int_equal(s.refused, 100);
	assert_int_equal(v->asking_count, VERBS_ASKING - VERBS_UNPROVEN);
	holds_little(FEW);
}

/* Nobody waits: they have all their time from when they were accepted, established or not. */
static void each_has_its_time(void **state)
{
	uint64_t start = gvm_now();

	server.unproven = 1;
	strangers_ask(10);
	s.establish = 1;
	strangers_ask(10);
	while (s.ended < 20) {
		turn(&server, 5);
		strangers_hear();
		assert_true(gvm_now() < start + 20000 * MS);
		assert_true(!s.ended || gvm_now() >= start + PROVE_MS * MS);
	}
	assert_int_equal(s.answered, 20);
	assert_int_equal(server.broken, 10);
	assert_int_equal(server.unaccepted, 10);
	all_have_gone();
}

/* Many members ask at once. None of them has to give way to the others, if it is not slow. */
static void many_members_at_once(void **state)
{
	const unsigned many = VERBS_UNPROVEN + VERBS_ASKING;

	stopped_at = gvm_now();
	s.establish = 1;
	for (unsigned i = 0; i < many; i++)
		stranger_asks();
	while (server.accepted < many) {
		turn(&server, 1);
		strangers_hear();
		assert_int_equal(s.refused + s.ended, 0);
	}
	stopped_at += 10 * PROVE_MS * MS;
	for (unsigned i = 0; i < 10; i++)
		turn(&server, 0);
	strangers_hear();
	assert_int_equal(s.refused + s.ended, 0);
	assert_int_equal(verbs_of(server.rma)->unproven_count, 0);
}

/* Core has refused it, and its last words do not arrive: it still has its time, and no more. */
static void who_is_refused_and_stays(void **state)
{
	struct gvm_rma_conn *peer;
	uint8_t bytes[64] = { 7 };
	struct gvm_rma_reg reg = { 0 };

	server.unproven = 1;
	s.establish = 1;
	strangers_ask(1);
	for (uint64_t end_ = gvm_now() + 20000 * MS; !server.accepted;) {
		turn(&server, 1);
		strangers_hear();
		assert_true(gvm_now() < end_);
	}
	peer = server.last->conn;
	stub.rnr_waits = 1; /* it has no receive buffers */
	assert_int_equal(verbs_fabric.reg(server.rma, NULL, remote_at, 4096, 0, &reg), 0);
	send_cell_with(peer, bytes, sizeof(bytes), &reg);
	settle();
	end(peer, 1);
	assert_int_equal(verbs_of(server.rma)->lingering, 1);
	assert_int_equal(verbs_of(server.rma)->unproven_count, 1);
	all_have_gone();
	assert_int_equal(verbs_of(server.rma)->lingering, 0);
	verbs_fabric.dereg(server.rma, &reg);
}

/* While some wait: the listener ends, or the device goes. Whoever waits is refused. */
static void nobody_waits_for_nothing(void **state)
{
	const unsigned many = VERBS_UNPROVEN + 50;

	stopped_at = gvm_now();
	strangers_ask(many);
	fabric_unlisten(&server);
	strangers_hear();
	assert_int_equal(verbs_of(server.rma)->asking_count, 0);
	assert_int_equal(s.refused, 50);
	assert_int_equal(s.ended, VERBS_UNPROVEN);
	all_have_gone();
	strangers_leave();
	fabric_listen(&server, 0);
	strangers_ask(many);
	stub.removed = 1;
	stub_async(verbs_of(server.rma)->context,
		   (struct ibv_async_event){ .event_type = IBV_EVENT_DEVICE_FATAL });
	for (uint64_t end_ = gvm_now() + 20000 * MS; !verbs_of(server.rma)->gone;) {
		turn(&server, 1);
		assert_true(gvm_now() < end_);
	}
	strangers_hear();
	assert_int_equal(s.refused, 100);
	assert_int_equal(s.ended, 2 * VERBS_UNPROVEN);
	assert_int_equal(verbs_of(server.rma)->unproven_count, 0);
	stub.removed = 0;
	stopped_at = 0;
	until(!verbs_of(server.rma)->missing);
	dialled();
}

#define STRANGERS(test) cmocka_unit_test_setup_teardown(test, setup_strangers, teardown_strangers)

int main(void)
{
	const struct CMUnitTest tests[] = {
		STRANGERS(who_is_answered_and_does_not_answer),
		STRANGERS(who_is_connected_and_says_nothing),
		STRANGERS(the_oldest_gives_way),
		STRANGERS(each_has_its_time),
		STRANGERS(many_members_at_once),
		STRANGERS(who_is_refused_and_stays),
		STRANGERS(nobody_waits_for_nothing),
	};

	snprintf(here, sizeof(here), "127.0.0.1");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
