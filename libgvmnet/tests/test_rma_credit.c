/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Credits (rma_credit.c) over the fake fabric, which has not a receive buffer more than it was
 * asked for, and stops the test at a cell that finds none: idle peers hold few, active ones up to
 * the bound, all together no more than the worker lends; who has them and needs none gives them
 * back; nobody stands still for want of one; who sends more than it may is found out, and nobody
 * else notices.
 */
#include "fake_fabric.h" /* first: cmocka's fail() is a macro */
#include "providers/rma_core.h"
#include "provider_rig.h"
#include "rma_rig.h"

#define ALL_MAX 200

static struct conn all[ALL_MAX];
static struct conn *far[ALL_MAX]; /* the server's sides of them */

static struct gvm_rma_conn *side(const struct conn *c)
{
	return gvm_rma_of_ep(c->ep);
}

static struct gvm_rma_core *core_of(const struct gvm_host *host)
{
	return ((struct gvm_rma *)host->prov)->core;
}

static struct fake_prov *fake_of(const struct gvm_host *host)
{
	return (struct fake_prov *)host->prov;
}

static void dial_all(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		unsigned before = server.accepted;

		dial(&all[i]);
		until(server.accepted > before);
		far[i] = server.conns;
		all[i].ordered = far[i]->ordered = 1;
	}
}

static void shut_all(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (all[i].ep && !all[i].closed_calls)
			client.ops->shut(all[i].ep, -ECANCELED);
	for (unsigned i = 0; i < n; i++)
		until(far[i]->closed_calls);
	/* all that was lent is back */
	assert_int_equal(core_of(&server)->spare, GVM_RMA_LEND);
	assert_int_equal(core_of(&client)->spare, GVM_RMA_LEND);
	assert_int_equal(core_of(&server)->n_lenders + core_of(&client)->n_lenders, 0);
	assert_null(core_of(&server)->lenders_last);
	assert_int_equal(fake_of(&server)->receives, 0);
}

static void end_far(unsigned i)
{
	server.ops->shut(far[i]->ep, -ECANCELED);
	far[i]->ep = NULL;
	far[i]->closed_calls = 1;
}

/* n messages of len bytes as fast as they go; they are the next ones of c. */
static void stream(struct conn *c, struct conn *to, unsigned n, uint32_t len)
{
	static const uint8_t body[GVM_WIRE_MSG_MAX];
	unsigned sent = to->messages, end = sent + n;

	while (sent < end) {
		while (sent < end && !say(c, sent, body, len))
			sent++;
		step(0);
	}
	until(to->messages == end);
}

/* So long that a peer counts as idle. */
static void idle(void)
{
	uint64_t begun = host_now(NULL);

	settle();
	while (host_now(NULL) - begun < 12000000ull)
		step(5);
}

static int echo(struct conn *c, const struct gvm_hdr *hdr, const void *payload)
{
	return say(c, hdr->arg, payload, hdr->length);
}

/* ---- as they are used ---------------------------------------------------------------------- */

static void idle_peers_hold_few(void **state)
{
	dial_all(100);
	for (unsigned i = 0; i < 100; i++)
		far[i]->on_message = echo;
	for (unsigned round = 0; round < 5; round++)
		for (unsigned i = 0; i < 100; i++)
			stream(&all[i], far[i], 1, 4096);
	settle();
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(side(far[i])->held, GVM_RMA_BASE);
	assert_int_equal(fake_of(&server)->most_receives, 100 * GVM_RMA_FIRST);
	shut_all(100);
}

/* A page's message is one cell, and its answer brings the credit back. */
static void a_page_is_one_cell(void **state)
{
	dial_all(1);
	far[0]->on_message = echo;
	settle();
	fake.cells = 0;
	stream(&all[0], far[0], 1000, 4096);
	until(all[0].messages == 1000);
	assert_in_range(fake.cells, 2000, 2000 + 20);
	for (unsigned i = 0; i < 1000; i++) {
		stream(&all[0], far[0], 1, 4096);
		until(all[0].messages == 1001 + i);
	}
	assert_in_range(fake.cells, 4000, 4000 + 20);
	shut_all(1);
}

/* One that is answered late has no empty cell for each. */
static void late_answers_take_no_more_cells(void **state)
{
	dial_all(1);
	settle();
	fake.cells = 0;
	for (unsigned i = 0; i < 100; i++) {
		stream(&all[0], far[0], 1, 4096);
		settle();
		stream(far[0], &all[0], 1, 4096);
	}
	assert_int_equal(fake.cells, 200);
	shut_all(1);
}

static void a_stream_gets_up_to_the_bound(void **state)
{
	dial_all(2);
	stream(&all[0], far[0], 200, 4096);
	assert_int_equal(side(far[0])->held, GVM_RMA_CELLS);
	assert_int_equal(side(far[1])->held, GVM_RMA_BASE);
	assert_int_equal(side(&all[0])->held, GVM_RMA_BASE);
	assert_int_equal(core_of(&server)->spare, GVM_RMA_LEND - 14);
	assert_int_equal(fake.most_in_flight, GVM_RMA_CELLS);
	shut_all(2);
}

/* ---- as far as there are any --------------------------------------------------------------- */

/* All at once, and more than can have what they want: each comes through, and has its share. */
static void all_of_many_come_through(void **state)
{
	static const uint8_t body[GVM_WIRE_MSG_MAX];
	enum { N = 60, EACH = 400 };
	unsigned sent[N] = { 0 }, done = 0;

	dial_all(N);
	while (done < N) {
		done = 0;
		for (unsigned i = 0; i < N; i++) {
			while (sent[i] < EACH && !say(&all[i], sent[i], body, 4096 + i % 2 * 4000))
				sent[i]++;
			done += far[i]->messages == EACH;
		}
		step(0);
	}
	assert_true(fake_of(&server)->most_receives <= N * GVM_RMA_FIRST + GVM_RMA_LEND);
	shut_all(N);
}

/* Those that have them all are idle, and are asked. */
static void idle_ones_give_back(void **state)
{
	unsigned held = 0;

	dial_all(12);
	for (unsigned i = 0; i < 9; i++)
		stream(&all[i], far[i], 100, 4096);
	assert_int_equal(core_of(&server)->spare, 0);
	idle();
	for (unsigned i = 0; i < 9; i++)
		assert_int_equal(side(far[i])->held, GVM_RMA_CELLS);
	stream(&all[9], far[9], 200, 4096);
	stream(&all[10], far[10], 200, 4096);
	assert_int_equal(side(far[9])->held, GVM_RMA_CELLS);
	assert_int_equal(side(far[10])->held, GVM_RMA_CELLS);
	for (unsigned i = 0; i < 9; i++)
		held += side(far[i])->held;
	assert_int_equal(held, 9 * GVM_RMA_BASE + GVM_RMA_LEND - 2 * 14 - core_of(&server)->spare);
	/* the one that was idle for longest first */
	assert_int_equal(side(far[0])->held, GVM_RMA_BASE);
	assert_int_equal(side(far[8])->held, GVM_RMA_CELLS);
	assert_int_equal(side(&all[0])->credits, GVM_RMA_BASE);
	/* and it goes on */
	stream(&all[0], far[0], 200, 8192);
	stream(far[0], &all[0], 200, 8192);
	for (unsigned i = 0; i < 12; i++)
		assert_int_equal(all[i].closed_calls + far[i]->closed_calls, 0);
	shut_all(12);
}

/* Those that have them all are stopped: the others have what they have for certain. */
static void stopped_ones_stop_nobody_else(void **state)
{
	unsigned recalled = 0;

	dial_all(20);
	for (unsigned i = 0; i < 9; i++) {
		stream(&all[i], far[i], 100, 4096);
		settle();
		/* what the server says to it goes nowhere */
		((struct fake_ep *)rma_ep(far[i]))->peer = NULL;
	}
	idle();
	for (unsigned i = 9; i < 20; i++) {
		stream(&all[i], far[i], 200, 8192);
		stream(far[i], &all[i], 200, 8192);
	}
	for (unsigned i = 0; i < 9; i++) {
		assert_int_equal(side(far[i])->held, side(far[i])->lent);
		recalled += side(far[i])->recalled;
	}
	assert_true(recalled > 0);
	/* they are noticed as gone */
	for (unsigned i = 0; i < 9; i++) {
		((struct fake_ep *)rma_ep(&all[i]))->peer = NULL;
		end_far(i);
	}
	stream(&all[9], far[9], 200, 8192);
	assert_int_equal(side(far[9])->held, GVM_RMA_CELLS);
	shut_all(20);
}

static void without_memory_they_have_two(void **state)
{
	dial_all(2);
	fake.refuse_receives = 1;
	stream(&all[0], far[0], 300, 8192);
	stream(far[0], &all[0], 300, 100);
	assert_int_equal(side(far[0])->held, GVM_RMA_BASE);
	assert_int_equal(fake.most_in_flight, GVM_RMA_BASE);
	fake.refuse_receives = 0;
	stream(&all[0], far[0], 300, 8192);
	assert_int_equal(side(far[0])->held, GVM_RMA_CELLS);
	shut_all(2);
}

static void the_end_gives_all_back(void **state)
{
	static const uint8_t body[4096];

	dial_all(9);
	for (unsigned i = 0; i < 9; i++)
		stream(&all[i], far[i], 100, 4096);
	assert_int_equal(core_of(&server)->spare, 0);
	/* with cells under way, and from either side */
	for (unsigned i = 0; i < 9; i++) {
		while (!say(&all[i], 100 + all[i].next_arg++, body, 4096))
			;
		client.ops->flush(client.prov);
		if (i % 2)
			end_far(i);
	}
	shut_all(9);
	dial_all(1);
	stream(&all[0], far[0], 100, 4096);
	assert_int_equal(side(far[0])->held, GVM_RMA_CELLS);
	shut_all(1);
}

/* Whatever two sides say to each other, in whatever order: nobody stands still. */
static void at_random(void **state)
{
	static const uint8_t body[GVM_WIRE_MSG_MAX];
	enum { N = 24, EACH = 300 };
	unsigned sent[2][N] = { 0 }, done = 0, seed = 11;

	dial_all(N);
	while (done < 2 * N) {
		done = 0;
		for (unsigned i = 0; i < N; i++) {
			seed = seed * 1103515245u + 12345u;
			if (sent[0][i] < EACH && (seed >> 16) % 3 &&
			    !say(&all[i], sent[0][i], body, (seed >> 8) % 8193))
				sent[0][i]++;
			if (sent[1][i] < EACH && !((seed >> 20) % 5) &&
			    !say(far[i], sent[1][i], body, (seed >> 12) % 8193))
				sent[1][i]++;
			done += far[i]->messages == EACH;
			done += all[i].messages == EACH;
		}
		if ((seed >> 24) % 4)
			node_round(seed & 1 << 16 ? &server : &client);
		step(0);
	}
	shut_all(N);
}

/* ---- who keeps to no rule ------------------------------------------------------------------ */

/* A cell of the client's side, past its own rma.c. */
static void inject(const struct conn *c, const struct gvm_cell *cell, const void *piece, uint32_t n)
{
	uint8_t buf[GVM_RMA_CELL];

	gvm_cell_encode(buf, cell);
	if (n)
		memcpy(buf + GVM_RMA_CELL_HDR, piece, n);
	fake.overdraws = 1;
	fake_send(((struct fake_ep *)rma_ep((struct conn *)c))->peer, buf, GVM_RMA_CELL_HDR + n);
}

static void rules_that_are_broken(void **state)
{
	const struct {
		struct gvm_cell cell;
		unsigned times;
		uint32_t bytes;
		const char *reason;
	} bad[] = {
		{ { 0 }, 3, 8, "without a credit" },
		{ { .returned = 2 }, 1, 8, "without a credit" },
		{ { .returned = 3 }, 1, 0, "without a credit" },
		{ { .returned = 65535 }, 1, 8, "without a credit" },
		{ { .flags = GVM_CELL_RECALL }, 3, 0, "without a credit" },
		{ { 0 }, 1, 0, "an empty cell" },
		{ { .credits = 1 }, 2, 0, "an empty cell without need" },
		{ { .credits = 15 }, 1, 8, "more credits" },
		{ { .credits = 65535 }, 1, 0, "more credits" },
	};
	const struct gvm_hdr half = { .type = GVM_T_USER, .length = 8192 };
	uint8_t piece[GVM_WIRE_HDR_LEN];

	gvm_hdr_encode(piece, &half); /* the beginning of a message, of which 8 bytes are enough */
	dial_all(1);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct conn *victim, c;
		unsigned before = server.accepted;

		dial(&c);
		until(server.accepted > before);
		victim = server.conns;
		for (unsigned n = 0; n < bad[i].times; n++)
			inject(&c, &bad[i].cell, piece, bad[i].bytes);
		until(victim->closed_calls && c.closed_calls);
		assert_int_equal(victim->closed, -EPROTO);
		assert_non_null(strstr(victim->reason, bad[i].reason));
		stream(&all[0], far[0], 5, 8192);
	}
	assert_int_equal(far[0]->closed_calls + all[0].closed_calls, 0);
	shut_all(1);
}

/* Gives up all it has again and again, or asks for all without need: it costs nobody anything. */
static void rules_that_are_bent(void **state)
{
	dial_all(2);
	for (unsigned i = 0; i < 50; i++) {
		struct gvm_rma_conn *near = side(&all[0]);
		unsigned n = near->credits;
		const struct gvm_cell give = { .returned = (uint16_t)n };
		const struct gvm_cell ask = { .flags = GVM_CELL_RECALL };

		assert_in_range(n, 1, GVM_RMA_BASE);
		inject(&all[0], i % 2 ? &give : &ask, NULL, 0);
		/* what the client's own rma.c knows of it */
		near->credits -= i % 2 ? n : 1;
		near->spent += i % 2 ? n : 1;
		settle();
	}
	assert_int_equal(far[0]->closed_calls + all[0].closed_calls, 0);
	assert_int_equal(side(far[0])->held, GVM_RMA_BASE);
	stream(&all[0], far[0], 50, 8192);
	stream(&all[1], far[1], 50, 8192);
	shut_all(2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		FAKE(idle_peers_hold_few),
		FAKE(a_page_is_one_cell),
		FAKE(late_answers_take_no_more_cells),
		FAKE(a_stream_gets_up_to_the_bound),
		FAKE(all_of_many_come_through),
		FAKE(idle_ones_give_back),
		FAKE(stopped_ones_stop_nobody_else),
		FAKE(without_memory_they_have_two),
		FAKE(the_end_gives_all_back),
		FAKE(at_random),
		FAKE(rules_that_are_broken),
		FAKE(rules_that_are_bent),
	};

	return cmocka_run_group_tests_name("rma_credit", tests, NULL, NULL);
}
