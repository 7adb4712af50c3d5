/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The cluster's key over the verbs provider (verbs_key.c), over an RDMA device that is none
 * (stub_rdma.c): who has it is let in, and nobody else has this side make a queue pair; nor does
 * this side's receive anything from who accepts without it.
 */
#include "verbs_rig.h" /* first: cmocka's fail() is a macro */
#include "stub_rdma.h"
#include "verbs_hand.h"

#define STEP_NS 30000000000ull /* as in verbs_key.c */

static char said[8192];

static void keep_line(enum gvm_log_level level, const char *line)
{
	size_t at = strlen(said);

	snprintf(said + at, sizeof(said) - at, "%s\n", line);
}

static int setup_keys(void **state)
{
	said[0] = 0;
	gvm_log_set(keep_line);
	setup(state);
	server.key = client.key = "secret";
	before = stub_use;
	return 0;
}

static int teardown_keys(void **state)
{
	teardown(state);
	gvm_log_set(NULL);
	return 0;
}

/* Refused, with a challenge, and nothing was made for it. */
static struct verbs_challenge challenged(void)
{
	struct told told = hear();
	struct verbs_challenge challenge;

	assert_int_equal(told.type, RDMA_CM_EVENT_REJECTED);
	assert_int_equal(told.len, sizeof(challenge));
	memcpy(&challenge, told.data, sizeof(challenge));
	assert_memory_equal(challenge.magic, "GVMC", 4);
	assert_int_equal(challenge.version, VERBS_HELLO_VERSION);
	assert_true(stub_use.qps <= before.qps); /* earlier ones may have come to their end */
	assert_true(stub_use.pinned <= before.pinned);
	return challenge;
}

/* ---- who has the key, and who has not ------------------------------------------------------ */

static void who_has_the_key_is_let_in(void **state)
{
	struct gvm_rma_conn *c = dialled();

	assert_int_equal(server.accepted, 1);
	assert_int_equal(server.stats.handshake_refused, 0);
	assert_string_equal(said, "");
	assert_int_equal(stub_use.qps - before.qps, 2);
	end(c, 0);
}

static void keys_that_differ(void **state)
{
	static const struct {
		const char *server, *client, *say;
		unsigned refused;
	} cases[] = {
		{ "secret", "another", GVM_KEYS_DIFFER, 1 },
		{ "secret", NULL, GVM_KEY_OF_ONE, 1 },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct gvm_rma_conn *c;

		said[0] = 0;
		server.stats.handshake_refused = client.stats.handshake_refused = 0;
		server.key = cases[i].server;
		client.key = cases[i].client;
		c = dial_at(here, server.port);
		until(c->connected);
		assert_int_equal(c->connected, -EACCES);
		assert_non_null(strstr(said, cases[i].say));
		assert_int_equal(server.stats.handshake_refused, cases[i].refused);
		assert_int_equal(client.stats.handshake_refused, 1);
		settle();
		assert_int_equal(stub_use.qps, before.qps);
	}
	assert_int_equal(server.accepted, 0);
	server.key = client.key = "secret";
	dialled();
}

/* It accepts whoever comes; but who has a key does not believe it. */
static void a_server_without_a_key(void **state)
{
	struct gvm_rma_conn *c;

	server.key = NULL;
	c = dial_at(here, server.port);
	until(c->connected);
	assert_int_equal(c->connected, -EACCES);
	assert_non_null(strstr(said, GVM_KEY_OF_ONE));
	settle();
	assert_int_equal(server.accepted, 0);
	assert_int_equal(stub_use.qps, before.qps);
}

/* Two workers listen at one port: asking twice does not lead all to one of them. */
static void workers_share_a_port(void **state)
{
	assert_int_equal(fabric_open(&other, ""), 0);
	other.key = "secret";
	fabric_listen(&other, server.port);
	for (unsigned i = 0; i < 8; i++)
		dialled();
	assert_int_equal(server.accepted, 4);
	assert_int_equal(other.accepted, 4);
}

/* ---- strangers ----------------------------------------------------------------------------- */

/* They ask and ask: each is refused at once, and there is nothing of them anywhere. */
static void strangers_cost_nothing(void **state)
{
	hand_open();
	for (unsigned i = 0; i < 2000; i++) {
		struct verbs_hello hello = first_hello((uint8_t)i);

		ask_with(&hello, sizeof(hello));
		challenged();
	}
	assert_int_equal(verbs_of(server.rma)->unproven_count, 0);
	assert_int_equal(verbs_of(server.rma)->asking_count, 0);
	assert_int_equal(server.accepted + server.unaccepted, 0);
	assert_int_equal(server.stats.handshake_refused, 0); /* they have claimed nothing */
	hand_close();
	dialled();
}

/* A proof is of all that was said. */
static void a_proof_of_something_else(void **state)
{
	struct verbs_hello hello = first_hello(7), changed;
	struct verbs_challenge challenge;

	hand_open();
	ask_with(&hello, sizeof(hello));
	challenge = challenged();
	sign('C', &hello, challenge.cookie, "secret");
	/* what comes before is looked at before: it is no hello then */
	for (size_t i = offsetof(struct verbs_hello, proof_key); i < sizeof(hello); i++) {
		changed = hello;
		((uint8_t *)&changed)[i] ^= 1;
		if (changed.mtu > IBV_MTU_4096)
			continue;
		ask_with(&changed, sizeof(changed));
		challenged();
	}
	changed = hello;
	sign('A', &changed, challenge.cookie, "secret");
	ask_with(&changed, sizeof(changed));
	challenged();
	changed = hello;
	sign('C', &changed, challenge.cookie, "another");
	ask_with(&changed, sizeof(changed));
	challenged();
	/* and it is one, once */
	ask_with(&hello, sizeof(hello));
	assert_int_equal(hear().type, RDMA_CM_EVENT_CONNECT_RESPONSE);
	hand_close();
	hand_open();
	ask_with(&hello, sizeof(hello));
	challenged();
	hand_close();
}

/* Anything at all: refused, with a challenge or without. */
static void noise(void **state)
{
	uint8_t data[sizeof(struct verbs_hello)];
	unsigned seed = 1;

	hand_open();
	for (unsigned i = 0; i < 2000; i++) {
		struct verbs_hello hello = first_hello(1);
		size_t len = i % 4 ? sizeof(data) : i / 4 % sizeof(data);

		memcpy(data, &hello, sizeof(data));
		for (unsigned n = 0; n < i % 16; n++) {
			seed = seed * 1103515245u + 12345u;
			data[(seed >> 8) % sizeof(data)] = (uint8_t)(seed >> 20);
		}
		ask_with(data, len);
		assert_int_equal(hear().type, RDMA_CM_EVENT_REJECTED);
		assert_int_equal(stub_use.qps, before.qps);
	}
	hand_close();
}

/* A proof is of use for the step of time in which its challenge was made, and the one after it. */
static void a_proof_grows_old(void **state)
{
	const uint64_t step = (gvm_now() / STEP_NS + 10) * STEP_NS;
	const struct {
		uint64_t at;
		int holds;
	} times[] = { { step, 1 },
		      { step + STEP_NS - 1, 1 },
		      { step + STEP_NS, 1 },
		      { step + 2 * STEP_NS - 1, 1 },
		      { step + 2 * STEP_NS, 0 },
		      { step - 1, 0 } };

	for (unsigned i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
		struct verbs_hello hello = first_hello((uint8_t)(10 + i));
		struct verbs_challenge challenge;

		stopped_at = step;
		hand_open();
		ask_with(&hello, sizeof(hello));
		challenge = challenged();
		sign('C', &hello, challenge.cookie, "secret");
		stopped_at = times[i].at;
		ask_with(&hello, sizeof(hello));
		if (times[i].holds)
			assert_int_equal(hear().type, RDMA_CM_EVENT_CONNECT_RESPONSE);
		else
			challenged();
		hand_close();
	}
}

/* ---- who is asked -------------------------------------------------------------------------- */

/* Each challenge is another one, as if the other side restarted each time. */
static void challenges_without_end(void **state)
{
	struct verbs_challenge challenge = { .magic = VERBS_CHALLENGE_MAGIC,
					     .version = VERBS_HELLO_VERSION };
	struct gvm_rma_conn *c;

	hand_listen();
	c = dial_at(here, ntohs(rdma_get_src_port(hand.id)));
	for (unsigned i = 0; !c->connected; i++) {
		struct told told = hear();

		assert_int_equal(told.type, RDMA_CM_EVENT_CONNECT_REQUEST);
		assert_true(i < 4);
		challenge.cookie[0] = (uint8_t)i;
		rdma_reject(told.id, &challenge, sizeof(challenge));
		rdma_destroy_id(told.id);
		settle();
	}
	assert_int_equal(c->connected, -EACCES);
	assert_non_null(strstr(said, GVM_KEYS_DIFFER));
	hand_close();
}

/* Who accepts has to prove the key, too, and freshly: nothing is received from it before. */
static void who_accepts_without_it(void **state)
{
	struct verbs_challenge challenge = { .magic = VERBS_CHALLENGE_MAGIC,
					     .version = VERBS_HELLO_VERSION };

	for (unsigned how = 0; how < 5; how++) {
		struct rdma_conn_param param = { 0 };
		struct verbs_hello hello;
		struct gvm_rma_conn *c;
		struct told told;

		hand_listen();
		c = dial_at(here, ntohs(rdma_get_src_port(hand.id)));
		told = hear();
		rdma_reject(told.id, &challenge, sizeof(challenge));
		rdma_destroy_id(told.id);
		told = hear();
		assert_int_equal(told.type, RDMA_CM_EVENT_CONNECT_REQUEST);
		memcpy(&hello, told.data, sizeof(hello)); /* how 0: as it came */
		if (how == 1)
			sign('A', &hello, challenge.cookie, "another");
		if (how == 2) /* somebody else's nonce */
			hello.nonce[0] ^= 1;
		if (how >= 2)
			sign('A', &hello, challenge.cookie, "secret");
		if (how == 3)
			hello.proof_at[0] ^= 1;
		param.qp_num = hand.qp->qp_num;
		param.private_data = &hello;
		param.private_data_len = sizeof(hello);
		assert_int_equal(rdma_accept(told.id, &param), 0);
		until(c->connected);
		assert_int_equal(c->connected, how == 4 ? 1 : how == 2 ? -EPROTO : -EACCES);
		end(c, 0);
		rdma_destroy_id(told.id);
		while (stub_use.qps != before.qps)
			turn_all(1);
		hand_close();
	}
}

/* What is left in the completion queue of the request that was refused is not the second one's. */
static void what_the_first_request_leaves(void **state)
{
	struct verbs_challenge challenge = { .magic = VERBS_CHALLENGE_MAGIC,
					     .version = VERBS_HELLO_VERSION };
	struct rdma_conn_param param = { 0 };
	struct ibv_wc late = { .status = IBV_WC_WR_FLUSH_ERR };
	struct verbs_hello hello;
	struct verbs_conn *conn;
	struct gvm_rma_conn *c;
	struct ibv_cq *cq;
	struct told told;

	hand_listen();
	c = dial_at(here, ntohs(rdma_get_src_port(hand.id)));
	told = hear();
	conn = verbs_ep_of(c->ep)->conn;
	late.wr_id = verbs_receive_id(conn, 0);
	cq = conn->lane->cq;
	rdma_reject(told.id, &challenge, sizeof(challenge));
	rdma_destroy_id(told.id);
	told = hear();
	memcpy(&hello, told.data, sizeof(hello));
	sign('A', &hello, challenge.cookie, "secret");
	param.qp_num = hand.qp->qp_num;
	param.private_data = &hello;
	param.private_data_len = sizeof(hello);
	assert_int_equal(rdma_accept(told.id, &param), 0);
	until(c->connected);
	assert_int_equal(c->connected, 1);
	stub_complete(cq, late);
	settle();
	assert_int_equal(c->broken, 0);
	end(c, 0);
	rdma_destroy_id(told.id);
	hand_close();
}

/* What the first address has asked for is nothing to the next one: a name with two. */
static void the_next_address_is_asked_anew(void **state)
{
	struct verbs_challenge challenge = { .magic = VERBS_CHALLENGE_MAGIC,
					     .version = VERBS_HELLO_VERSION };
	struct gvm_addrs *addrs;
	struct gvm_rma_conn *c;
	struct told told;

	hand_listen();
	c = dial_at(here, ntohs(rdma_get_src_port(hand.id)));
	addrs = verbs_ep_of(c->ep)->conn->addrs;
	addrs->at[1] = addrs->at[0];
	((struct sockaddr_in *)&addrs->at[1].sa)->sin_port = htons((uint16_t)server.port);
	addrs->n = 2;
	for (unsigned i = 0; i < 3; i++) {
		told = hear();
		assert_int_equal(told.type, RDMA_CM_EVENT_CONNECT_REQUEST);
		challenge.cookie[0] = (uint8_t)i;
		rdma_reject(told.id, i < 2 ? &challenge : NULL, i < 2 ? sizeof(challenge) : 0);
		rdma_destroy_id(told.id);
	}
	until(c->connected);
	assert_int_equal(c->connected, 1);
	assert_int_equal(server.stats.handshake_refused, 0);
	assert_string_equal(said, "");
	hand_close();
}

#define KEYS(test) cmocka_unit_test_setup_teardown(test, setup_keys, teardown_keys)

int main(void)
{
	const struct CMUnitTest tests[] = {
		KEYS(who_has_the_key_is_let_in),
		KEYS(keys_that_differ),
		KEYS(a_server_without_a_key),
		KEYS(workers_share_a_port),
		KEYS(strangers_cost_nothing),
		KEYS(a_proof_of_something_else),
		KEYS(noise),
		KEYS(a_proof_grows_old),
		KEYS(challenges_without_end),
		KEYS(who_accepts_without_it),
		KEYS(what_the_first_request_leaves),
		KEYS(the_next_address_is_asked_anew),
	};

	snprintf(here, sizeof(here), "127.0.0.1");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
