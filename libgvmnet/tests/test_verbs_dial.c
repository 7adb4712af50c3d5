/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's iWARP in software, whose rdma_connect() waits for the other machine (verbs_dial.c),
 * in the place of which is a device that is none (stub_rdma.c), whose waits until it is let on: the
 * worker serves others meanwhile, and whatever becomes of the connection, or of the worker, nobody
 * waits for it and nothing is left.
 */
#define SETTLE_MS 1
#include "verbs_rig.h" /* first: cmocka's fail() is a macro */
#include "stub_rdma.h"

#define SECOND 1000000000ull

static struct stub_device as_it_is;
static struct stub_use before;
static int gate;

static int setup_siw(void **state)
{
	as_it_is = stub;
	stub.transport = IBV_TRANSPORT_IWARP;
	stub.vendor = VERBS_SIW;
	stub.connect_waits = gate = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	gvm_log_set(drop_line);
	setup(state);
	assert_true(verbs_of(client.rma)->siw);
	before = stub_use;
	return 0;
}

static int teardown_siw(void **state)
{
	stub = as_it_is;
	teardown(state);
	close(gate);
	gvm_log_set(NULL);
	assert_int_equal(stub_open(), 0);
	assert_int_equal(stub_use.qps, 0);
	return 0;
}

static void let_on(uint64_t n)
{
	assert_int_equal(write(gate, &n, sizeof(n)), sizeof(n));
}

static struct verbs_conn *conn_of(const struct gvm_rma_conn *c)
{
	return verbs_ep_of(c->ep)->conn;
}

/* One whose rdma_connect() waits. */
static struct gvm_rma_conn *waiting(void)
{
	struct gvm_rma_conn *c = dial_at(here, server.port);

	until(conn_of(c)->dial);
	return c;
}

static struct gvm_rma_conn *let_on_and_dialled(void)
{
	let_on(1);
	return dialled();
}

static void others_are_served_meanwhile(void **state)
{
	struct gvm_rma_conn *first = let_on_and_dialled(), *c;

	offer(first, GVM_ACCESS_FETCH);
	fill(remote_at, 4096, 1);
	c = waiting();
	assert_int_equal(do_job(first, GVM_RMA_READ, 0, 0, 4096), 0);
	assert_memory_equal(local_at, remote_at, 4096);
	settle();
	assert_int_equal(c->connected, 0);
	let_on(1);
	until(c->connected);
	assert_int_equal(c->connected, 1);
	assert_null(conn_of(c)->dial);
	verbs_fabric.dereg(server.rma, &remote);
}

/* Of that there is no event. */
static void what_it_fails_with_is_told(void **state)
{
	static const int errors[] = { ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT };

	for (unsigned i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		struct gvm_rma_conn *c = waiting();

		stub.connect_errno = errors[i];
		let_on(1);
		until(c->connected);
		assert_int_equal(c->connected, -errors[i]);
		stub.connect_errno = 0;
	}
	assert_int_equal(stub_use.qps, before.qps);
	let_on_and_dialled();
}

/* All fail at once: each is told, and the worker does not sleep before that. */
static void many_fail_at_once(void **state)
{
	struct gvm_rma_conn *c[20];

	for (unsigned i = 0; i < 20; i++)
		c[i] = waiting();
	stub.connect_errno = ECONNREFUSED;
	let_on(20);
	for (unsigned i = 0; i < 20; i++) {
		until(c[i]->connected);
		assert_int_equal(c[i]->connected, -ECONNREFUSED);
	}
	assert_int_equal(stub_use.qps, before.qps);
}

static void who_is_given_up_is_not_waited_for(void **state)
{
	uint64_t began = gvm_now();

	for (unsigned i = 0; i < 20; i++)
		end(waiting(), 0);
	assert_int_equal(stub_use.qps, before.qps);
	assert_true(gvm_now() - began < 10 * SECOND);
	let_on_and_dialled();
}

/* No more than may be under way at a time. */
static void more_than_may_dial(void **state)
{
	enum { N = VERBS_CONNECTING + 20 };
	struct gvm_rma_conn *c[N];
	struct verbs *v = verbs_of(client.rma);
	unsigned dialling = 0;

	for (unsigned i = 0; i < N; i++)
		c[i] = dial_at(here, server.port);
	settle();
	for (unsigned i = 0; i < N; i++)
		dialling += conn_of(c[i])->dial != NULL;
	assert_int_equal(dialling, VERBS_CONNECTING);
	assert_int_equal(v->connecting, VERBS_CONNECTING);
	let_on(N);
	for (unsigned i = 0; i < N; i++) {
		until(c[i]->connected);
		assert_int_equal(c[i]->connected, 1);
	}
	until(server.accepted == N);
}

static void a_worker_ends_meanwhile(void **state)
{
	uint64_t began;

	for (unsigned i = 0; i < 20; i++)
		waiting();
	verbs_fabric.dereg(client.rma, &local);
	began = gvm_now();
	fabric_close(&client);
	assert_true(gvm_now() - began < 10 * SECOND);
	assert_int_equal(fabric_open(&client, ""), 0);
	assert_int_equal(verbs_fabric.reg(client.rma, NULL, local_at, 2 * MIB, 0, &local), 0);
	let_on_and_dialled();
}

static void the_device_goes_meanwhile(void **state)
{
	struct gvm_rma_conn *c = waiting();
	struct verbs *v = verbs_of(client.rma);

	stub_fail_all();
	until(!c->ep && v->gone && !v->context);
	assert_int_equal(c->connected, -ENODEV);
	until(!v->gone && !verbs_of(server.rma)->gone && !verbs_of(server.rma)->missing);
	let_on_and_dialled();
}

#define SIW(test) cmocka_unit_test_setup_teardown(test, setup_siw, teardown_siw)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SIW(others_are_served_meanwhile), SIW(what_it_fails_with_is_told),
		SIW(many_fail_at_once),           SIW(who_is_given_up_is_not_waited_for),
		SIW(more_than_may_dial),          SIW(a_worker_ends_meanwhile),
		SIW(the_device_goes_meanwhile),
	};

	snprintf(here, sizeof(here), "127.0.0.1");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
