/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The application's own buffers in reach of the hardware (rma_local.c), over the fake fabric: they
 * are used where work can be taken back, and no operation is told done while the hardware has its
 * buffer, whatever ends meanwhile; where they cannot be used, bytes are copied.
 */
#include "fake_fabric.h" /* first: cmocka's fail() is a macro */
#include "provider_rig.h"
#include "rma_rig.h"

/* Memory of the client's, and the operations from here on that name it. */
static struct gvm_mem *name_memory(size_t len, unsigned access)
{
	struct gvm_mem *m = calloc(1, sizeof(*m));

	m->base = calloc(1, len);
	m->len = len;
	m->access = access;
	m->next = client.mems;
	client.mems = m;
	post_mem = m;
	return m;
}

static void named_buffers_are_used(void **state)
{
	struct gvm_mem *far = offer(5, MIB, RW, 0), *near;
	unsigned regs;
	struct conn c;

	dial(&c);
	fill(far->base, MIB, 3);
	near = name_memory(2 * MIB, 0);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, near->base, 64), 0);
	regs = fake.tries;
	for (unsigned i = 0; i < 100; i++) {
		uint32_t at = i * 10007, len = 1 + i * 100;

		assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, at, near->base + at + 1, len), 0);
		assert_ptr_equal(fake.buf, near->base + at + 1);
		assert_memory_equal(far->base + at, near->base + at + 1, len);
		near->base[at + 1] ^= 0xFF;
		assert_int_equal(do_op(&c, GVM_OP_PUT, 5, at, near->base + at + 1, len), 0);
		assert_ptr_equal(fake.buf, near->base + at + 1);
		assert_memory_equal(far->base + at, near->base + at + 1, len);
	}
	assert_int_equal(fake.tries, regs); /* it was registered once */
	client.ops->shut(c.ep, -ECANCELED);
	assert_int_equal(near->refs, 1);
	withdraw(near);
	until(near->refs == 0);
}

/* A deadline that may pass soon is not to cost the connection. */
static void near_deadlines_have_copies(void **state)
{
	struct gvm_mem *far = offer(5, 4096, RW, 0), *near;
	struct top t;
	struct conn c;

	dial(&c);
	memset(far->base, 0x31, 4096);
	near = name_memory(4096, 0);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, near->base, 64), 0);
	memset(near->base, 0, 64);
	post_expires = host_now(NULL) + 900000000ull;
	fake.hold = 1;
	assert_int_equal(post(&c, GVM_OP_FETCH, &t, 5, 0, near->base, 4096), 0);
	client.ops->flush(client.prov);
	assert_true(fake.buf && fake.buf != near->base);
	assert_int_equal(client.ops->cancel(c.ep, &t.op), 0);
	fake_run();
	settle();
	assert_int_equal(t.calls + c.closed_calls, 0);
	assert_int_equal(near->base[0], 0);
	client.ops->shut(c.ep, -ECANCELED);
}

/* Held by the hardware at their deadline: the connection's end gives them back, and then they end.
 */
static void a_deadline_takes_them_back(void **state)
{
	struct gvm_mem *near;
	struct top t[4], u;
	struct conn c, d;

	offer(5, 4 * 4096, RW, 0);
	dial(&c);
	near = name_memory(4 * 4096, 0);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, near->base, 64), 0);
	memset(near->base, 0xAA, 4 * 4096);
	fake.hold = 1;
	for (unsigned i = 0; i < 4; i++)
		post(&c, i & 1 ? GVM_OP_PUT : GVM_OP_FETCH, &t[i], 5, i * 4096,
		     near->base + i * 4096, 4096);
	settle();
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(client.ops->cancel(c.ep, &t[i].op), -EBUSY);
		assert_int_equal(t[i].calls, 0);
	}
	client.ops->shut(c.ep, -ETIMEDOUT);
	for (unsigned i = 0; i < 4; i++)
		assert_true(t[i].calls == 1 && t[i].status == -ETIMEDOUT);
	assert_false(fake_holds(near->base, near->len));
	fake_run();
	settle();
	assert_int_equal(near->base[0] & near->base[4 * 4096 - 1], 0xAA);
	/* the registration is the worker's, and serves the next connection */
	fake.hold = 0;
	dial(&d);
	assert_int_equal(post(&d, GVM_OP_FETCH, &u, 5, 0, near->base, 4096), 0);
	until(u.calls);
	assert_ptr_equal(fake.buf, near->base);
	client.ops->shut(d.ep, -ECANCELED);
}

static void an_end_takes_them_back(void **state)
{
	struct gvm_mem *near;
	struct top t[20];
	struct conn c;

	offer(5, 4096, RW, 0);
	dial(&c);
	near = name_memory(20 * 4096, 0);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, near->base, 64), 0);
	memset(near->base, 0xAA, 20 * 4096);
	fake.hold = 1;
	for (unsigned i = 0; i < 20; i++)
		post(&c, GVM_OP_FETCH, &t[i], 5, 0, near->base + i * 4096, 4096);
	settle();
	server.ops->shut(server.conns->ep, -ECANCELED);
	server.conns->ep = NULL;
	until(c.closed_calls);
	for (unsigned i = 0; i < 20; i++)
		assert_true(t[i].calls == 1 && t[i].status == -ECONNRESET);
	assert_false(fake_holds(near->base, near->len));
	fake_run();
	settle();
	assert_int_equal(near->base[0] & near->base[20 * 4096 - 1], 0xAA);
}

/* Their memory is withdrawn while they are under way: they end as ever, and then it is let go of.
 */
static void withdrawn_buffers_are_waited_for(void **state)
{
	struct gvm_mem *far = offer(5, 4096, RW, 0), *near;
	unsigned regs = 0;
	struct top t, u;
	struct conn c;

	dial(&c);
	memset(far->base, 0x62, 4096);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, (uint8_t[64]){ 0 }, 64), 0);
	regs = fake.regs;
	near = name_memory(2 * 4096, 0);
	fake.hold = 1;
	post(&c, GVM_OP_FETCH, &t, 5, 0, near->base, 4096);
	settle();
	assert_int_equal(fake.regs, regs + 1);
	withdraw(near);
	settle();
	assert_int_equal(near->refs, 1);
	assert_int_equal(fake.regs, regs + 1);
	/* one that comes too late has a copy */
	post(&c, GVM_OP_FETCH, &u, 5, 0, near->base + 4096, 4096);
	client.ops->flush(client.prov);
	assert_ptr_not_equal(fake.buf, near->base + 4096);
	fake.hold = 0;
	fake_run();
	until(t.calls && u.calls);
	assert_int_equal(t.status | u.status, 0);
	assert_memory_equal(near->base, far->base, 4096);
	assert_memory_equal(near->base + 4096, far->base, 4096);
	until(near->refs == 0);
	assert_int_equal(fake.regs, regs);
	assert_int_equal(do_op(&c, GVM_OP_PUT, 5, 0, near->base, 4096), 0);
	assert_ptr_not_equal(fake.buf, near->base);
	assert_int_equal(near->refs, 0);
	client.ops->shut(c.ep, -ECANCELED);
}

static void what_has_copies(struct conn *c, struct gvm_mem *near, unsigned tries)
{
	struct gvm_mem *far = server.mems;

	tries += fake.tries;
	for (unsigned i = 0; i < 10; i++) {
		fill(far->base, 4096, i);
		assert_int_equal(do_op(c, GVM_OP_FETCH, 5, 0, near->base, 4096), 0);
		assert_memory_equal(near->base, far->base, 4096);
		assert_ptr_not_equal(fake.buf, near->base);
		fill(near->base, 4096, 100 + i);
		assert_int_equal(do_op(c, GVM_OP_PUT, 5, 0, near->base, 4096), 0);
		assert_memory_equal(near->base, far->base, 4096);
	}
	assert_int_equal(fake.tries, tries);
	client.ops->shut(c->ep, -ECANCELED);
}

static void refused_buffers_have_copies(void **state)
{
	struct gvm_mem *near;
	struct conn c;

	offer(5, 4096, RW, 0);
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, (uint8_t[64]){ 0 }, 64), 0);
	fake.refuse_local = 1;
	near = name_memory(4096, 0);
	what_has_copies(&c, near, 1);
	/* that it was refused is kept until it is withdrawn */
	assert_int_equal(near->refs, 1);
	withdraw(near);
	until(near->refs == 0);
}

static void soft_buffers_have_copies(void **state)
{
	struct conn c;

	offer(5, 4096, RW, 0);
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, (uint8_t[64]){ 0 }, 64), 0);
	what_has_copies(&c, name_memory(4096, RW | GVM_ACCESS_SOFT), 0);
}

/* Where the hardware keeps what it has been given, nobody could say when a buffer is free. */
static void what_is_not_taken_back_has_copies(void **state)
{
	struct conn c;

	offer(5, 4096, RW, 0);
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, (uint8_t[64]){ 0 }, 64), 0);
	what_has_copies(&c, name_memory(4096, 0), 0);
}

static void named_buffers_are_bounded(void **state)
{
	unsigned regs;
	struct conn c;

	offer(5, 4096, RW, 0);
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, (uint8_t[64]){ 0 }, 64), 0);
	regs = fake.regs;
	for (unsigned i = 0; i < GVM_RMA_LOCALS + 10; i++) {
		struct gvm_mem *near = name_memory(64, 0);

		assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, near->base, 64), 0);
	}
	assert_int_equal(fake.regs, regs + GVM_RMA_LOCALS);
	/* some go, noted by whoever it was before the worker has its turn */
	for (struct gvm_mem *m = client.mems; m; m = m->next)
		withdraw(m);
	settle();
	assert_int_equal(fake.regs, regs);
	client.ops->shut(c.ep, -ECANCELED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TAKES_BACK(named_buffers_are_used),
		TAKES_BACK(near_deadlines_have_copies),
		TAKES_BACK(a_deadline_takes_them_back),
		TAKES_BACK(an_end_takes_them_back),
		TAKES_BACK(withdrawn_buffers_are_waited_for),
		TAKES_BACK(refused_buffers_have_copies),
		TAKES_BACK(soft_buffers_have_copies),
		FAKE(what_is_not_taken_back_has_copies),
		TAKES_BACK(named_buffers_are_bounded),
	};

	return cmocka_run_group_tests_name("rma local", tests, NULL, NULL);
}
