/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One that asks for a connection over verbs, or is asked for one, by hand: what it says is the
 * caller's. For the tests and the fuzzer of the key that comes first (verbs_key.c).
 */
#ifndef GVM_TESTS_VERBS_HAND_H
#define GVM_TESTS_VERBS_HAND_H

#include "stub_rdma.h"
#include "verbs_rig.h"

static struct stub_use before; /* what there was when it was opened */

/* What it was told last. */
struct told {
	enum rdma_cm_event_type type;
	uint8_t data[sizeof(struct verbs_hello)];
	size_t len;
	struct rdma_cm_id *id;
};

static struct {
	struct rdma_event_channel *events;
	struct rdma_cm_id *id;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
} hand;

static void hand_open(void)
{
	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_RC };
	struct ibv_qp_attr way = { .qp_state = IBV_QPS_RTR, .path_mtu = IBV_MTU_4096 };
	struct verbs *v = verbs_of(client.rma);

	hand.events = rdma_create_event_channel();
	hand.cq = ibv_create_cq(v->context, 64, NULL, v->channel, 0);
	init.send_cq = init.recv_cq = hand.cq;
	hand.qp = ibv_create_qp(v->pd, &init);
	assert_true(hand.events && hand.cq && hand.qp);
	assert_int_equal(ibv_modify_qp(hand.qp, &way, IBV_QP_STATE | IBV_QP_PATH_MTU), 0);
	hand.id = NULL;
	before = stub_use;
}

static void hand_close(void)
{
	if (hand.id)
		rdma_destroy_id(hand.id);
	ibv_destroy_qp(hand.qp);
	ibv_destroy_cq(hand.cq);
	rdma_destroy_event_channel(hand.events);
}

static struct told hear(void)
{
	struct rdma_cm_event *event;
	struct told told = { 0 };

	for (uint64_t end_ = gvm_now() + 20000000000ull; rdma_get_cm_event(hand.events, &event);) {
		turn_all(1);
		assert_true(gvm_now() < end_);
	}
	told.type = event->event;
	told.id = event->id;
	if (event->param.conn.private_data && event->param.conn.private_data_len) {
		told.len = event->param.conn.private_data_len;
		assert_true(told.len <= sizeof(told.data));
		memcpy(told.data, event->param.conn.private_data, told.len);
	}
	rdma_ack_cm_event(event);
	return told;
}

static void ask_with(const void *data, size_t len)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)server.port) };
	struct rdma_conn_param param = { .private_data = data,
					 .private_data_len = (uint8_t)len,
					 .qp_num = hand.qp->qp_num };

	if (hand.id)
		rdma_destroy_id(hand.id);
	inet_pton(AF_INET, here, &to.sin_addr);
	assert_int_equal(rdma_create_id(hand.events, &hand.id, NULL, RDMA_PS_TCP), 0);
	assert_int_equal(rdma_resolve_addr(hand.id, NULL, (struct sockaddr *)&to, 1000), 0);
	assert_int_equal(hear().type, RDMA_CM_EVENT_ADDR_RESOLVED);
	assert_int_equal(rdma_resolve_route(hand.id, 1000), 0);
	assert_int_equal(hear().type, RDMA_CM_EVENT_ROUTE_RESOLVED);
	assert_int_equal(rdma_connect(hand.id, &param), 0);
}

/* 'C' or 'A' and a hello with a nonce: as who has the key makes it. */
static void sign(char who, struct verbs_hello *hello, const uint8_t cookie[VERBS_MAC],
		 const char *key)
{
	uint8_t text[1 + offsetof(struct verbs_hello, mac) + VERBS_MAC], mac[GVM_WIRE_MAC_LEN];

	text[0] = (uint8_t)who;
	memcpy(text + 1, hello, offsetof(struct verbs_hello, mac));
	memcpy(text + 1 + offsetof(struct verbs_hello, mac), cookie, VERBS_MAC);
	key_mac(key, text, sizeof(text), mac);
	memcpy(hello->mac, mac, VERBS_MAC);
}

static struct verbs_hello first_hello(uint8_t nonce)
{
	struct verbs_hello hello;

	verbs_hello_make(verbs_of(client.rma), 0, &hello);
	hello.flags = VERBS_KEYED;
	memset(hello.nonce, nonce, sizeof(hello.nonce));
	return hello;
}

static void hand_listen(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET };

	hand_open();
	inet_pton(AF_INET, here, &at.sin_addr);
	assert_int_equal(rdma_create_id(hand.events, &hand.id, NULL, RDMA_PS_TCP), 0);
	assert_int_equal(rdma_bind_addr(hand.id, (struct sockaddr *)&at), 0);
	assert_int_equal(rdma_listen(hand.id, 16), 0);
}

#endif
