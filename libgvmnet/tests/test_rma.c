/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One-sided operations over a fabric that does what hardware does at its worst (fake_fabric.h): all
 * that every provider promises, and withdrawal, cancellation, full queues, failures, late
 * completions, memory that cannot be registered, a peer that keeps to no rule.
 */
#include "fake_fabric.h" /* first: cmocka's fail() is a macro */
#include "provider_cases.h"
#include "rma_rig.h"

/* ---- what the hardware does ---------------------------------------------------------------- */

static void hardware_serves_both(void **state)
{
	struct gvm_mem *m = offer(5, 65536, RW, 7);
	uint8_t page[4096], buf[4096];
	struct conn c;
	uint64_t heard;

	dial(&c);
	fill(page, sizeof(page), 5);
	assert_int_equal(do_op(&c, GVM_OP_PUT, 5, 8192, page, 4096), 0);
	assert_memory_equal(m->base + 8192, page, 4096);
	heard = c.ep->last_heard;
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 8192, buf, 4096), 0);
	assert_memory_equal(buf, page, 4096);
	assert_int_equal(fake.reads, 1);
	assert_int_equal(fake.writes, 1);
	assert_int_equal(fake.shared, 1);
	assert_int_equal(server.stats.fetches_served + server.stats.puts_served, 0);
	assert_int_equal(client.stats.bytes_received, 48 + GVM_MAPPED_LEN + 4096);
	assert_int_equal(client.stats.bytes_sent, 48 + 4096);
	assert_true(c.ep->last_heard > heard);
	/* outside, and not allowed: nothing goes out for these, and the connection stays */
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 65535, buf, 2), -ERANGE);
	assert_int_equal(fake.reads, 1);
	client.ops->shut(c.ep, -ECANCELED);
	until(server.conns->closed_calls);
	assert_int_equal(fake.shared + (unsigned)m->refs, 0);
}

static void a_key_is_asked_for_once(void **state)
{
	static uint8_t buf[32][64];
	struct top t[32];
	struct conn c;

	offer(5, 4096, RW, 0);
	dial(&c);
	for (unsigned i = 0; i < 32; i++)
		post(&c, GVM_OP_FETCH, &t[i], 5, 0, buf[i], 64);
	until(c.completed == 32);
	assert_int_equal(client.stats.bytes_sent, 48);
	assert_int_equal(fake.reads, 32);
	client.ops->shut(c.ep, -ECANCELED);
}

static void credits_never_run_over(void **state)
{
	static uint8_t body[GVM_WIRE_MSG_MAX];
	unsigned sent = 0, back = 0;
	struct conn c;

	dial(&c);
	c.ordered = server.conns->ordered = 1;
	for (unsigned i = 0; i < 20000 && (c.messages < 400 || server.conns->messages < 400); i++) {
		while (sent < 400 && !say(&c, sent, body, sent * 37 % sizeof(body)))
			sent++;
		if (back < 400 && i % 3 && !say(server.conns, back, body, back % 5 * 1000))
			back++;
		step(0);
	}
	assert_int_equal(c.messages + server.conns->messages, 800);
	assert_true(fake.most_in_flight >= 16 && fake.most_in_flight <= GVM_RMA_RECVS);
	/* one side alone: what it spends comes back by itself */
	for (sent = 400; sent < 800; sent += !say(&c, sent, body, 3000))
		step(0);
	until(server.conns->messages == 800);
	client.ops->shut(c.ep, -ECANCELED);
}

static void full_queues_hold_back(void **state)
{
	static uint8_t buf[200][4096];
	struct top t[200];
	struct conn c;

	fake.depth = 2;
	offer(5, 200 * 4096, RW, 0);
	memset(server.mems->base, 0x5C, 200 * 4096);
	dial(&c);
	for (unsigned i = 0; i < 200; i++)
		assert_int_equal(post(&c, GVM_OP_FETCH, &t[i], 5, i * 4096, buf[i], 4096), 0);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(say(&c, i, "x", 1), 0);
	until(c.completed == 200 && server.conns->messages == 10);
	for (unsigned i = 0; i < 200; i++) {
		assert_int_equal(t[i].status, 0);
		assert_memory_equal(buf[i], server.mems->base, 4096);
	}
	client.ops->shut(c.ep, -ECANCELED);
}

/* More than the bounce buffers hold, large among small ones, on two connections. */
static void buffers_are_shared_out(void **state)
{
	enum { N = 100 };
	uint8_t *big = malloc((size_t)N * MIB), small[N][64];
	struct top t[N], s[N];
	struct conn c, d;

	offer(5, MIB, RW, 0);
	fill(server.mems->base, MIB, 9);
	dial(&c);
	dial(&d);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(post(&c, GVM_OP_FETCH, &t[i], 5, 0, big + (size_t)i * MIB, MIB),
				 0);
		assert_int_equal(post(&d, GVM_OP_FETCH, &s[i], 5, 0, small[i], 64), 0);
	}
	until(c.completed == N && d.completed == N);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(t[i].status | s[i].status, 0);
		assert_memory_equal(big + (size_t)i * MIB, server.mems->base, MIB);
		assert_memory_equal(small[i], server.mems->base, 64);
	}
	/* cells, and 32 chunks of bounce buffers, of the client; of the server what it began with
	 */
	assert_true(fake.regs <= 33 + 2 + fake.shared);
	client.ops->shut(c.ep, -ECANCELED);
	client.ops->shut(d.ep, -ECANCELED);
	free(big);
}

/* ---- withdrawal ---------------------------------------------------------------------------- */

static void withdrawn_memory_is_released_when_unmapped(void **state)
{
	struct gvm_mem *m = offer(5, 8192, RW, 0);
	uint8_t buf[2][4096];
	struct top t[2];
	struct conn c;

	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf[0], 4096), 0);
	memset(m->base, 0x21, 8192);
	fake.hold = 1;
	post(&c, GVM_OP_FETCH, &t[0], 5, 0, buf[0], 4096);
	settle();
	withdraw(m);
	settle();
	assert_int_equal(m->refs, 1);
	/* asks again, and is told that there is no such key */
	post(&c, GVM_OP_FETCH, &t[1], 5, 0, buf[1], 4096);
	settle();
	assert_int_equal(t[0].calls + t[1].calls, 0);
	fake_run();
	until(t[0].calls && t[1].calls);
	assert_int_equal(t[0].status, 0);
	assert_memory_equal(buf[0], m->base, 4096);
	assert_int_equal(t[1].status, -ENOENT);
	assert_int_equal(m->refs, 0);
	assert_int_equal(fake.shared, 0);
	assert_int_equal(c.closed_calls, 0);
	client.ops->shut(c.ep, -ECANCELED);
}

static void idle_memory_is_released_at_once(void **state)
{
	struct gvm_mem *m = offer(5, 8192, RW, 0);
	uint8_t buf[4096];
	uint64_t begun;
	struct conn c;

	dial(&c);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf, 4096), 0);
		begun = host_now(NULL);
		withdraw(m);
		until(m->refs == 0);
		assert_true(host_now(NULL) - begun < GVM_RMA_GRACE_MS * 1000000ull / 2);
		m->withdrawn = 0;
	}
	client.ops->shut(c.ep, -ECANCELED);
}

/* The client is stopped, and what it has posted is carried out much later. */
static void a_stopped_client_loses_its_reach(void **state)
{
	struct gvm_mem *m = offer(5, 8192, RW, 0);
	static uint8_t evil[4096], clean[8192];
	uint64_t begun;
	struct top t;
	struct conn c;

	dial(&c);
	memset(evil, 0xEE, sizeof(evil));
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, clean, 4096), 0);
	fake.hold = 1;
	post(&c, GVM_OP_PUT, &t, 5, 0, evil, 4096);
	client.ops->flush(client.prov);
	begun = host_now(NULL);
	withdraw(m);
	while (m->refs) {
		node_round(&server);
		poll_once(epfd, 20);
		assert_true(host_now(NULL) - begun < 5000000000ull);
	}
	assert_true(host_now(NULL) - begun >= GVM_RMA_GRACE_MS * 1000000ull);
	assert_int_equal(fake.shared, 0);
	memset(clean, 0, sizeof(clean));
	fake_run();
	until(c.closed_calls && server.conns->closed_calls);
	assert_int_equal(t.status, -ECONNRESET);
	assert_memory_equal(m->base, clean, 8192);
}

/* The same where its hardware would hide that: the connection ends before the registration. */
static void a_stopped_client_is_not_refused(void **state)
{
	struct gvm_mem *m = offer(5, 8192, RW, 0);
	static uint8_t buf[4096];
	struct top t;
	struct conn c;

	dial(&c);
	for (struct fake_prov *p = fake_provs; p; p = p->next)
		((struct gvm_rma *)p)->hides_refusals = 1;
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf, 4096), 0);
	fake.hold = 1;
	post(&c, GVM_OP_FETCH, &t, 5, 0, buf, 4096);
	client.ops->flush(client.prov);
	withdraw(m);
	while (m->refs) {
		assert_int_equal(server.conns->closed_calls, 0);
		node_round(&server);
		poll_once(epfd, 20);
	}
	assert_int_equal(server.conns->closed_calls, 1);
	assert_int_equal(fake.shared, 0);
	fake_run();
	until(c.closed_calls);
	assert_int_equal(t.status, -ECONNRESET);
}

/* Late, but then it answers: the connection goes on. It has the time that the fabric says. */
static void a_slow_client_goes_on(void **state)
{
	struct gvm_mem *m = offer(5, 8192, RW, 0);
	uint8_t buf[4096];
	uint64_t begun;
	struct conn c;

	dial(&c);
	for (struct fake_prov *p = fake_provs; p; p = p->next)
		((struct gvm_rma *)p)->grace_ms = 3 * GVM_RMA_GRACE_MS;
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf, 4096), 0);
	begun = host_now(NULL);
	withdraw(m);
	while (m->refs) {
		node_round(&server);
		poll_once(epfd, 20);
	}
	assert_true(host_now(NULL) - begun >= 3 * GVM_RMA_GRACE_MS * 1000000ull);
	settle();
	offer(6, 8192, RW, 0);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 6, 0, buf, 4096), 0);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf, 4096), -ENOENT);
	assert_int_equal(c.closed_calls + server.conns->closed_calls, 0);
	client.ops->shut(c.ep, -ECANCELED);
}

/* What cannot be stopped in the middle of a read: the connection ends, and the memory stays until
 * no read of it is believed any more. A worker that ends waits for nobody. */
static void a_read_outlives_its_connection(void **state)
{
	struct gvm_mem *m = offer(5, 8192, RW, 0), *other = offer(6, 8192, RW, 0);
	struct gvm_rma *rma = (struct gvm_rma *)server.prov;
	static uint8_t buf[4096];
	uint64_t begun;
	struct conn c;

	rma->hides_refusals = 1;
	rma->linger_ms = 2 * GVM_RMA_GRACE_MS;
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf, 4096), 0);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 6, 0, buf, 4096), 0);
	begun = host_now(NULL);
	withdraw(m);
	while (m->refs) {
		node_round(&server);
		poll_once(epfd, 20);
		assert_true(host_now(NULL) - begun < 5000000000ull);
	}
	assert_int_equal(server.conns->closed_calls, 1);
	assert_true(host_now(NULL) - begun >= 3 * GVM_RMA_GRACE_MS * 1000000ull);
	until(c.closed_calls);
	until(other->refs == 0);
	assert_int_equal(fake.shared, 0);

	rma->linger_ms = 60000;
	m = offer(7, 8192, RW, 0);
	server.accepted = 0;
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 7, 0, buf, 4096), 0);
	server.ops->shut(server.conns->ep, -ECANCELED);
	server.conns->ep = NULL;
	until(c.closed_calls);
	withdraw(m); /* noted of one that has no connection */
	for (int i = 0; i < 5; i++)
		step(1);
	assert_int_equal(m->refs, 1);
}

/* And one that comes later than that is made again. */
static void a_late_read_is_made_again(void **state)
{
	struct gvm_mem *m = offer(5, 8192, RW, 0);
	static uint8_t buf[4096], fresh[4096];
	uint64_t begun;
	struct top t;
	struct conn c;

	((struct gvm_rma *)client.prov)->late_ms = 20;
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf, 4096), 0);
	fake.hold_done = 1;
	post(&c, GVM_OP_FETCH, &t, 5, 0, buf, 4096);
	client.ops->flush(client.prov);
	memset(m->base, 0x99, 4096);
	memset(fresh, 0x99, 4096);
	begun = host_now(NULL);
	while (host_now(NULL) - begun < 40000000ull)
		step(5);
	fake.hold_done = 0;
	fake_run();
	until(t.calls);
	assert_int_equal(t.status, 0);
	assert_memory_equal(buf, fresh, 4096);
	assert_int_equal(c.closed_calls, 0);
	client.ops->shut(c.ep, -ECANCELED);
}

/* What hardware may not do is asked of core, which knows better. */
static void writes_in_software(void **state)
{
	struct gvm_mem *m = offer(5, 65536, RW, 0);
	uint8_t page[4096], buf[4096];
	struct conn c;

	((struct gvm_rma *)server.prov)->no_writes = 1;
	offer(6, 4096, GVM_ACCESS_FETCH, 0);
	offer(7, 4096, GVM_ACCESS_PUT, 0);
	dial(&c);
	fill(page, sizeof(page), 5);
	assert_int_equal(do_op(&c, GVM_OP_PUT, 5, 8192, page, 4096), 0);
	assert_memory_equal(m->base + 8192, page, 4096);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 8192, buf, 4096), 0);
	assert_memory_equal(buf, page, 4096);
	assert_int_equal(do_op(&c, GVM_OP_PUT, 6, 0, page, 4096), -EPERM);
	assert_int_equal(do_op(&c, GVM_OP_PUT, 7, 0, page, 4096), 0);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 7, 0, page, 4096), -EPERM);
	assert_int_equal(do_op(&c, GVM_OP_PUT, 5, 65535, page, 2), -ERANGE);
	assert_int_equal(fake.writes, 0);
	assert_int_equal(fake.reads, 1);
	assert_int_equal(server.stats.puts_served, 2);
	client.ops->shut(c.ep, -ECANCELED);
}

/* What a fabric says of its cells holds for the side that sends; pages come in pieces. */
static void cells_are_as_long_as_they_may_be(void **state)
{
	struct gvm_mem *m = offer(5, 65536, RW, 0);
	static uint8_t page[20000], buf[20000];
	struct conn c;

	fake.refuse_reg = 1; /* everything over cells */
	fill(m->base, 65536, 3);
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf, 4096), 0);
	assert_int_equal(fake.longest, GVM_RMA_CELL);
	fake.longest = 0;
	((struct gvm_rma *)server.prov)->cell = ((struct gvm_rma *)client.prov)->cell = 1000;
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 1, buf, sizeof(buf)), 0);
	assert_memory_equal(buf, m->base + 1, sizeof(buf));
	fill(page, sizeof(page), 4);
	assert_int_equal(do_op(&c, GVM_OP_PUT, 5, 7, page, sizeof(page)), 0);
	assert_memory_equal(page, m->base + 7, sizeof(page));
	assert_int_equal(fake.longest, 1000);
	client.ops->shut(c.ep, -ECANCELED);
}

static void the_end_releases_all(void **state)
{
	struct gvm_mem *m[8];
	uint8_t buf[64];
	struct conn c;

	dial(&c);
	for (unsigned i = 0; i < 8; i++) {
		m[i] = offer(10 + i, 4096, RW, 0);
		assert_int_equal(do_op(&c, GVM_OP_FETCH, 10 + i, 0, buf, 64), 0);
	}
	for (unsigned i = 0; i < 4; i++)
		withdraw(m[i]);
	node_round(&server); /* two are told of, and the others are noted behind them */
	withdraw(m[4]);
	server.ops->shut(server.conns->ep, -ECANCELED);
	server.conns->ep = NULL;
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(m[i]->refs, 0);
	assert_int_equal(fake.shared, 0);
	until(c.closed_calls);
}

/* ---- cancelling, failing, ending ----------------------------------------------------------- */

static void cancel_leaves_the_buffer_alone(void **state)
{
	struct gvm_mem *m = offer(5, 8192, RW, 0);
	uint8_t buf[3][4096], clean[4096];
	struct top t[3];
	struct conn c;

	memset(m->base, 0x44, 8192);
	memset(buf, 0xAA, sizeof(buf));
	memset(clean, 0xAA, sizeof(clean));
	dial(&c);
	/* not yet mapped */
	post(&c, GVM_OP_FETCH, &t[0], 5, 0, buf[0], 4096);
	client.ops->flush(client.prov);
	assert_int_equal(client.ops->cancel(c.ep, &t[0].op), 0);
	settle();
	/* under way */
	fake.hold = 1;
	post(&c, GVM_OP_FETCH, &t[1], 5, 0, buf[1], 4096);
	assert_int_equal(client.ops->cancel(c.ep, &t[1].op), 0);
	/* not for want of room */
	fake.depth = 1;
	post(&c, GVM_OP_FETCH, &t[2], 5, 0, buf[2], 4096);
	assert_int_equal(client.ops->cancel(c.ep, &t[2].op), 0);
	fake.depth = 0;
	fake.hold = 0;
	fake_run();
	settle();
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(t[i].calls, 0);
		assert_memory_equal(buf[i], clean, 4096);
	}
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf[0], 4096), 0);
	assert_memory_equal(buf[0], m->base, 4096);
	client.ops->shut(c.ep, -ECANCELED);
}

static void a_failure_ends_the_connection(void **state)
{
	static uint8_t buf[10][4096];
	struct top t[10];
	struct conn c;

	offer(5, 8192, RW, 0);
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf[0], 4096), 0);
	fake.hold = 1;
	for (unsigned i = 0; i < 10; i++)
		post(&c, i & 1 ? GVM_OP_PUT : GVM_OP_FETCH, &t[i], 5, 0, buf[i], 4096);
	fake.fail = 1;
	fake_run();
	until(c.closed_calls && server.conns->closed_calls);
	assert_int_equal(c.closed, -ECONNRESET);
	for (unsigned i = 0; i < 10; i++)
		assert_true(t[i].calls == 1 && t[i].status == -ECONNRESET);
	assert_int_equal(server.mems->refs, 0);
}

/* The hardware is done with the works of a connection long after its end, or never. */
static void orphans_are_left_alone(void **state)
{
	static uint8_t buf[20][4096], clean[4096];
	struct top t[20], u;
	struct conn c, d;

	offer(5, 8192, RW, 0);
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, clean, 4096), 0);
	fake.hold = 1;
	memset(buf, 0xAA, sizeof(buf));
	memset(clean, 0xAA, sizeof(clean));
	for (unsigned i = 0; i < 20; i++)
		post(&c, GVM_OP_FETCH, &t[i], 5, 0, buf[i], 4096);
	client.ops->shut(c.ep, -ECANCELED);
	for (unsigned i = 0; i < 20; i++)
		assert_true(t[i].calls == 1 && t[i].status == -ECANCELED);
	settle();
	/* another connection does not get their buffers */
	fake.hold = 0;
	dial(&d);
	post(&d, GVM_OP_FETCH, &u, 5, 0, buf[0], 4096);
	fake.hold_done = 1;
	settle();
	fake_run();
	until(u.calls);
	assert_int_equal(fake.late, fake_fabric.takes_back ? 0 : 20);
	assert_memory_equal(buf[0], server.mems->base, 4096);
	for (unsigned i = 1; i < 20; i++)
		assert_memory_equal(buf[i], clean, 4096);
	/* and these are never done */
	fake.hold = 1;
	fake.hold_done = 0;
	for (unsigned i = 0; i < 20; i++)
		post(&d, GVM_OP_PUT, &t[i], 5, 0, buf[i], 4096);
	client.ops->shut(d.ep, -ECANCELED);
}

/* ---- in software --------------------------------------------------------------------------- */

static void what_cannot_be_registered_is_served(void **state)
{
	struct gvm_mem *m = offer(5, 2 * MIB, RW, 0);
	uint8_t *buf = malloc(MIB), *want = malloc(MIB);
	struct top t[64];
	struct conn c;

	fake.refuse_reg = 1;
	dial(&c);
	fill(want, MIB, 4);
	assert_int_equal(do_op(&c, GVM_OP_PUT, 5, 4097, want, MIB), 0);
	assert_memory_equal(m->base + 4097, want, MIB);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 4097, buf, MIB), 0);
	assert_memory_equal(buf, want, MIB);
	for (unsigned i = 0; i < 64; i++)
		post(&c, GVM_OP_FETCH, &t[i], 5, 4097 + i * 4096, buf + i * 4096, 4096);
	until(c.completed == 66);
	assert_memory_equal(buf, want, 64 * 4096);
	assert_int_equal(fake.reads + fake.writes, 0);
	assert_int_equal(server.stats.fetches_served, 65);
	assert_int_equal(m->refs, 0);
	/* a key that ends is forgotten, and its memory may be for hardware the next time */
	withdraw(m);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf, 64), -ENOENT);
	m->withdrawn = 0;
	fake.refuse_reg = 0;
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 4097, buf, 64), 0);
	assert_int_equal(fake.reads, 1);
	client.ops->shut(c.ep, -ECANCELED);
	free(buf);
	free(want);
}

/* ---- a peer that keeps to no rule ---------------------------------------------------------- */

/* A cell of the client's, past its own rma.c. The server has a buffer for it. */
static void inject(struct conn *c, unsigned magic, unsigned credits, const void *piece, uint32_t n)
{
	struct fake_ep *to = ((struct fake_ep *)rma_ep(c))->peer;
	uint8_t cell[2 * GVM_RMA_CELL] = { 0 };

	cell[0] = (uint8_t)magic;
	cell[2] = (uint8_t)credits;
	if (piece)
		memcpy(cell + GVM_RMA_CELL_HDR, piece, n);
	fake.overdraws = 1;
	fake_send(to, cell, GVM_RMA_CELL_HDR + n);
}

static void inject_frame(struct conn *c, const struct gvm_hdr *hdr)
{
	uint8_t frame[GVM_WIRE_HDR_LEN + GVM_MAPPED_LEN] = { 0 };

	gvm_hdr_encode(frame, hdr);
	if (hdr->length) {
		struct gvm_mapped at = { 1, 2, 3, 1 };

		gvm_mapped_encode(frame + GVM_WIRE_HDR_LEN, &at);
	}
	inject(c, GVM_CELL_MAGIC, 0, frame, GVM_WIRE_HDR_LEN + hdr->length);
}

static void refused_by_the_server(struct conn *c, const char *reason)
{
	until(server.conns->closed_calls && c->closed_calls);
	assert_int_equal(server.conns->closed, -EPROTO);
	assert_non_null(strstr(server.conns->reason, reason));
}

static void cells_that_are_none(void **state)
{
	static const uint8_t big[GVM_RMA_CELL];
	const struct {
		unsigned magic, credits;
		uint32_t n;
		const char *reason;
	} bad[] = {
		{ 0xA7, 0, 8, "protocol" },
		{ GVM_CELL_MAGIC, 0, 0, "empty" },
		{ GVM_CELL_MAGIC, 17, 0, "credits" },
		{ GVM_CELL_MAGIC, 15, 8, "credits" },
		{ GVM_CELL_MAGIC, 0, GVM_RMA_CELL - 15, "protocol" },
	};
	struct fake_ep *to;
	struct conn c;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		dial(&c);
		inject(&c, bad[i].magic, bad[i].credits, big, bad[i].n);
		refused_by_the_server(&c, bad[i].reason);
		server.accepted = 0;
	}
	for (uint32_t n = 0; n < GVM_RMA_CELL_HDR; n++) {
		dial(&c);
		to = ((struct fake_ep *)rma_ep(&c))->peer;
		fake_send(to, (const uint8_t *)"\xA8", n ? 1 : 0);
		refused_by_the_server(&c, "protocol");
		server.accepted = 0;
	}
}

static void cells_without_credits(void **state)
{
	struct gvm_hdr half = { .type = GVM_T_USER, .length = 8192 };
	uint8_t piece[GVM_WIRE_HDR_LEN];
	struct conn c;

	dial(&c);
	gvm_hdr_encode(piece, &half);
	for (unsigned i = 0; i < GVM_RMA_BASE + 1;
	     i++) /* the beginning of a message, and more of it */
		inject(&c, GVM_CELL_MAGIC, 0, piece, sizeof(piece));
	refused_by_the_server(&c, "credit");
}

static void frames_out_of_turn(void **state)
{
	const struct {
		struct gvm_hdr hdr;
		const char *reason;
	} bad[] = {
		{ { .type = GVM_T_MAPPED, .region = 5, .length = GVM_MAPPED_LEN }, "not asked" },
		{ { .type = GVM_T_MAPPED, .region = 5, .status = GVM_ST_NOTSUP }, "not asked" },
		{ { .type = GVM_T_UNMAP, .region = 5 }, "mapping that there is not" },
		{ { .type = GVM_T_UNMAPPED, .region = 5 }, "unmapped" },
		{ { .type = GVM_T_UNMAPPED, .region = 6 }, "unmapped" },
		{ { .type = GVM_T_MAP, .region = 5 }, "twice" },
	};
	uint8_t buf[64];
	struct conn c;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct gvm_mem *m = offer(5, 4096, RW, 0);

		dial(&c);
		assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf, 64), 0);
		inject_frame(&c, &bad[i].hdr);
		refused_by_the_server(&c, bad[i].reason);
		assert_int_equal(m->refs, 0);
		server.accepted = 0;
		m->withdrawn = 1;
	}
	assert_int_equal(fake.shared, 0);
}

/* Nothing is reached before the handshake is through. */
static void a_map_before_the_handshake(void **state)
{
	struct gvm_hdr hdr = { .type = GVM_T_MAP, .region = 5 };
	struct conn c;

	offer(5, 4096, RW, 0);
	server.allow = 0;
	dial(&c);
	inject_frame(&c, &hdr);
	refused_by_the_server(&c, "handshake");
	assert_int_equal(fake.shared, 0);
}

/* Who asks and never takes the answers is not served for ever. */
static void a_flood_of_maps(void **state)
{
	struct fake_ep *to;
	struct conn c;
	unsigned asked = 0;

	dial(&c);
	to = ((struct fake_ep *)rma_ep(&c))->peer;
	to->peer->peer = NULL;
	to->peer = NULL; /* the client takes nothing */
	for (unsigned round = 0; round < 1000 && !server.conns->closed_calls; round++) {
		uint8_t piece[21 * GVM_WIRE_HDR_LEN];

		for (unsigned i = 0; i < 21; i++) {
			struct gvm_hdr hdr = { .type = GVM_T_MAP, .region = 1 + asked++ };

			gvm_hdr_encode(piece + i * GVM_WIRE_HDR_LEN, &hdr);
		}
		if (to->queued >= to->receives)
			break;
		{
			uint8_t cell[GVM_RMA_CELL_HDR + sizeof(piece)] = { GVM_CELL_MAGIC };

			memcpy(cell + GVM_RMA_CELL_HDR, piece, sizeof(piece));
			fake_send(to, cell, sizeof(cell));
		}
		node_round(&server);
	}
	/* it overspends its credits in the end, as it gets none for what it does not take */
	assert_int_equal(server.conns->closed, -EPROTO);
	assert_non_null(strstr(server.conns->reason, "credit"));
	assert_true(asked < 100 * 21);
	client.ops->shut(c.ep, -ECANCELED);
}

static void mappings_are_bounded(void **state)
{
	unsigned n = GVM_RMA_SHARES + 10;
	uint8_t buf[8];
	struct conn c;

	dial(&c);
	for (unsigned i = 0; i < n; i++) {
		struct gvm_mem *m = offer(100 + i, 8, RW, 0);

		/* found at once: the newest is the first of the host's list */
		assert_int_equal(do_op(&c, GVM_OP_FETCH, 100 + i, 0, buf, 8), 0);
		assert_ptr_equal(server.mems, m);
	}
	assert_int_equal(fake.shared, GVM_RMA_SHARES);
	assert_int_equal(server.stats.fetches_served, 10);
	client.ops->shut(c.ep, -ECANCELED);
	until(server.conns->closed_calls);
	assert_int_equal(fake.shared, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		PROVIDER_CASES(&fake_provider),
		FAKE(hardware_serves_both),
		FAKE(a_key_is_asked_for_once),
		FAKE(credits_never_run_over),
		FAKE(full_queues_hold_back),
		FAKE(buffers_are_shared_out),
		FAKE(withdrawn_memory_is_released_when_unmapped),
		FAKE(idle_memory_is_released_at_once),
		FAKE(a_stopped_client_loses_its_reach),
		FAKE(a_stopped_client_is_not_refused),
		FAKE(a_slow_client_goes_on),
		FAKE(a_read_outlives_its_connection),
		FAKE(a_late_read_is_made_again),
		FAKE(writes_in_software),
		FAKE(cells_are_as_long_as_they_may_be),
		FAKE(the_end_releases_all),
		FAKE(cancel_leaves_the_buffer_alone),
		FAKE(a_failure_ends_the_connection),
		FAKE(orphans_are_left_alone),
		TAKES_BACK(orphans_are_left_alone),
		FAKE(what_cannot_be_registered_is_served),
		FAKE(cells_that_are_none),
		FAKE(cells_without_credits),
		FAKE(frames_out_of_turn),
		FAKE(a_map_before_the_handshake),
		FAKE(a_flood_of_maps),
		FAKE(mappings_are_bounded),
	};

	return cmocka_run_group_tests_name("rma", tests, NULL, NULL);
}
