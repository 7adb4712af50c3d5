/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What both sides of a connection over verbs say before there is one (verbs_key.c), over a device
 * that is none: the input is what one says that asks, or one that is asked, as bytes or as changes
 * of what would be right, and whether that is proven by the key. Whatever it is: who has not proven
 * the key gets no queue pair, nobody is believed that has not, and in the end all is given back.
 */
#include "verbs_rig.h" /* first: cmocka's fail() is a macro */
#include "input.h"
#include "stub_rdma.h"
#include "verbs_hand.h"

#define PRIVATE 56u /* what a request may bring */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check(int good)
{
	if (!good)
		abort();
}

/* Some bytes of it become others; its length. */
static size_t change(struct input *in, void *text, size_t len)
{
	uint8_t *bytes = text;

	for (unsigned n = byte(in) % 8; n; n--) {
		size_t at = byte(in) % len;

		bytes[at] = byte(in);
	}
	return byte(in) & 1 ? byte(in) % (PRIVATE + 1) : len;
}

/* As change(), and whether its MAC is right then. */
static int make_hello(struct input *in, char who, const uint8_t *nonce, const uint8_t *cookie,
		      uint8_t said[PRIVATE], size_t *len)
{
	struct verbs_hello hello = first_hello(byte(in));
	int proves = byte(in) & 1;

	memcpy(hello.nonce, nonce, sizeof(hello.nonce));
	memset(said, 0, PRIVATE);
	*len = change(in, &hello, sizeof(hello));
	if (proves)
		sign(who, &hello, cookie, "secret");
	memcpy(said, &hello, sizeof(hello));
	return proves;
}

/* It asks, as often as the input has something to say. */
static void asks(struct input *in)
{
	uint8_t nonce[VERBS_NONCE] = { 0 }, said[PRIVATE];
	struct verbs_challenge challenge = { 0 };

	hand_open();
	while (in->left) {
		size_t len;
		int proves = make_hello(in, 'C', nonce, challenge.cookie, said, &len);
		unsigned qps = stub_use.qps;
		struct told told;

		ask_with(said, len);
		told = hear();
		check(told.type == RDMA_CM_EVENT_REJECTED ||
		      told.type == RDMA_CM_EVENT_CONNECT_RESPONSE);
		if (told.type == RDMA_CM_EVENT_CONNECT_RESPONSE)
			check(proves || !server.key);
		else
			check(stub_use.qps <= qps);
		if (told.type == RDMA_CM_EVENT_REJECTED && told.len == sizeof(challenge))
			memcpy(&challenge, told.data, sizeof(challenge));
	}
	hand_close();
}

/* A request that has come to it, or the end of the one that dials. */
static int is_asked(const struct gvm_rma_conn *c, struct told *told)
{
	struct rdma_cm_event *event;

	while (rdma_get_cm_event(hand.events, &event)) {
		if (c->connected)
			return 0;
		turn_all(0);
	}
	told->type = event->event;
	told->id = event->id;
	if (told->type == RDMA_CM_EVENT_CONNECT_REQUEST)
		memcpy(told->data, event->param.conn.private_data, sizeof(told->data));
	rdma_ack_cm_event(event);
	return 1;
}

/* It is asked, and answers. */
static void answers(struct input *in)
{
	struct verbs_challenge challenge = { .magic = VERBS_CHALLENGE_MAGIC,
					     .version = VERBS_HELLO_VERSION };
	uint8_t said[PRIVATE] = { 0 };
	struct rdma_cm_id *last = NULL;
	struct gvm_rma_conn *c;
	struct told told;
	int proves = 0;

	hand_listen();
	c = dial_at(here, ntohs(rdma_get_src_port(hand.id)));
	while (is_asked(c, &told)) {
		struct rdma_conn_param param = { .private_data = said, .qp_num = hand.qp->qp_num };
		const struct verbs_hello *asked = (const struct verbs_hello *)told.data;
		size_t len;

		if (told.type != RDMA_CM_EVENT_CONNECT_REQUEST)
			continue;
		if (last)
			rdma_destroy_id(last);
		last = told.id;
		if (byte(in) & 1 || !in->left) {
			challenge.cookie[0] = byte(in);
			memcpy(said, &challenge, sizeof(challenge));
			len = change(in, said, sizeof(challenge));
			memcpy(challenge.cookie, said + offsetof(struct verbs_challenge, cookie),
			       sizeof(challenge.cookie));
			rdma_reject(told.id, said, (uint8_t)len);
			continue;
		}
		proves = make_hello(in, 'A', asked->nonce, challenge.cookie, said, &len);
		param.private_data_len = (uint8_t)len;
		rdma_accept(told.id, &param);
	}
	check(c->connected < 0 || proves || !client.key);
	end(c, 0);
	if (last)
		rdma_destroy_id(last);
	hand_close();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = { data, len };
	uint8_t way = byte(&in);

	snprintf(here, sizeof(here), "127.0.0.1");
	gvm_log_set(drop_line);
	stub.transport = way & 4 ? IBV_TRANSPORT_IWARP : IBV_TRANSPORT_IB;
	setup(NULL);
	stopped_at = 3600000000000u;
	server.key = way & 1 ? "secret" : NULL;
	client.key = way & 2 ? "secret" : NULL;
	if (way & 8)
		answers(&in);
	else
		asks(&in);
	teardown(NULL);
	check(stub_use.qps == 0 && stub_open() == 0);
	return 0;
}
