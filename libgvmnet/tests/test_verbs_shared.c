/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The shared receive queue of the verbs provider, over an RDMA device that is none
 * (stub_rdma.c), whose library forgets the completions of a queue pair that is destroyed, as others
 * do: no buffer is lost, none is lost from sight, one who takes more than it may harms nobody else,
 * and a device without such queues does as well.
 */
#include "verbs_rig.h" /* first: cmocka's fail() is a macro */
#include "stub_rdma.h"

static struct stub_device as_it_was;

static int setup_shared(void **state)
{
	as_it_was = stub;
	gvm_log_set(drop_line);
	return setup(state);
}

static int teardown_shared(void **state)
{
	int status = teardown(state);

	stub = as_it_was;
	gvm_log_set(NULL);
	return status;
}

static struct verbs_conn *conn_of_end(const struct gvm_rma_conn *c)
{
	return verbs_ep_of(c->ep)->conn;
}

static struct verbs_lane *first_lane(void)
{
	return verbs_of(server.rma)->lanes;
}

/* The client sends n cells, which the server has not yet looked at. */
static void send_cells(struct gvm_rma_conn *c, unsigned n)
{
	uint8_t bytes[64] = { 3 };

	cell_reg = &local;
	for (unsigned i = 0; i < n; i++)
		send_cell(c, bytes, sizeof(bytes));
}

/* As many cells as the connection may have on their way arrive at once: so many buffers are there,
 * as the device has no patience. */
static void all_are_there(void)
{
	struct gvm_rma_conn *c = dialled(), *peer = server.last->conn;

	peer->echo = 0;
	for (unsigned round = 0; round < 3; round++) {
		send_cells(c, GVM_RMA_RECVS);
		until(peer->cells == (round + 1) * GVM_RMA_RECVS);
	}
	assert_int_equal(c->broken + peer->broken, 0);
	end(c, 1);
	until(peer->broken);
}

static void connections_share_a_queue(void **state)
{
	enum { N = 10 };
	struct gvm_rma_conn *c[N];
	struct verbs_lane *lane;

	for (unsigned i = 0; i < N; i++)
		c[i] = dialled();
	lane = first_lane();
	assert_non_null(lane->srq);
	assert_int_equal(lane->conns, N);
	assert_int_equal(lane->wanted, N * GVM_RMA_RECVS);
	assert_int_equal(lane->posted, lane->wanted);
	assert_int_equal(verbs_of(server.rma)->chunk_count, (N * GVM_RMA_RECVS + 125) / 126);
	/* fewer are not taken out of it, but as cells arrive */
	assert_int_equal(verbs_fabric.receives(server.last, GVM_RMA_FIRST), 0);
	assert_int_equal(lane->wanted, (N - 1) * GVM_RMA_RECVS + GVM_RMA_FIRST);
	assert_int_equal(lane->posted, N * GVM_RMA_RECVS);
	server.last->conn->echo = 0;
	send_cells(c[N - 1], 2);
	until(server.last->conn->cells == 2);
	assert_int_equal(lane->posted, N * GVM_RMA_RECVS - 2);
	for (unsigned i = 0; i < N; i++)
		end(c[i], 0);
	until(!verbs_of(server.rma)->conns);
	assert_int_equal(lane->wanted, 0);
	assert_int_equal(lane->conns, 0);
	/* those that are still in it are the next one's */
	c[0] = dialled();
	assert_int_equal(lane->posted, N * GVM_RMA_RECVS - 2);
	all_are_there();
}

/* As docs/rdma.md has it, Pinned memory, with which test_docs reckons: both sides' queues are made
 * for 32 connections, 64 more, 128 more. */
static void queues_are_as_long_as_it_says(void **state)
{
	struct gvm_rma_conn *c[100];

	for (unsigned i = 0; i < 100; i++)
		c[i] = dialled();
	assert_int_equal(stub_use.qps, 200);
	assert_int_equal(stub_use.cqs, 6);
	assert_int_equal(stub_use.cq_entries, 2 * (32 + 64 + 128) * 305);
	assert_int_equal(stub_use.srqs, 6);
	assert_int_equal(stub_use.srq_entries, 2 * ((32 + 64 + 128) * 3 + 3 * 126));
	for (unsigned i = 0; i < 100; i++)
		end(c[i], 0);
	until(!verbs_of(server.rma)->conns);
	assert_int_equal(stub_use.qps, 0);
}

/* Ends with cells that nobody has looked at, of this connection and of others. */
static void no_buffer_is_lost(void **state)
{
	struct gvm_rma_conn *other_c = dialled(), *other_peer = server.last->conn;

	other_peer->echo = 0;
	for (unsigned i = 0; i < 300; i++) {
		struct gvm_rma_conn *c = dialled(), *peer = server.last->conn;

		peer->echo = 0;
		send_cells(c, i % GVM_RMA_RECVS);
		send_cells(other_c, 3);
		if (i % 2) {
			end(peer, 0);
			until(c->broken);
		} else {
			end(c, i % 4 == 0);
			until(peer->broken);
		}
		until(other_peer->cells == 3 * (i + 1));
	}
	assert_int_equal(other_peer->broken, 0);
	assert_int_equal(verbs_of(server.rma)->tells_last, VERBS_LAST_TRIES);
	assert_true(first_lane()->posted >= first_lane()->wanted);
	assert_int_equal(verbs_of(server.rma)->chunk_count, 1);
	all_are_there();
}

/* The others' cells stay in order, though some are put aside at an end. */
static void what_is_put_aside_stays_in_order(void **state)
{
	struct gvm_rma_conn *c = dialled(), *peer = server.last->conn;
	unsigned sent = 0, seen = 0;

	peer->echo = 0;
	cell_reg = &local;
	for (unsigned round = 0; round < 100; round++) {
		struct gvm_rma_conn *victim = dialled(), *gone = server.last->conn;

		gone->echo = 0;
		for (unsigned i = 0; i < 8; i++) {
			uint8_t bytes[64] = { (uint8_t)sent++ };

			send_cell(c, bytes, sizeof(bytes));
			if (i == 4)
				send_cells(victim, 5);
		}
		if (round % 2)
			end(gone, 0);
		else
			end(victim, 0);
		until(peer->cells == sent);
		for (; seen < sent; seen++)
			assert_int_equal(peer->bytes[seen % 64][0], (uint8_t)seen);
	}
}

/* Nobody can know how many are lost. There are enough all the same, and no more than the queue
 * takes. */
static void a_device_that_says_nothing(void **state)
{
	stub.no_last = 1;
	for (unsigned i = 0; i < 400; i++) {
		struct gvm_rma_conn *c = dialled(), *peer = server.last->conn;

		peer->echo = 0;
		send_cells(c, i % GVM_RMA_RECVS);
		end(peer, 0);
		until(c->broken);
	}
	assert_int_equal(verbs_of(server.rma)->tells_last, 0);
	assert_true(verbs_of(server.rma)->chunk_count <= first_lane()->depth / 126 + 2);
	all_are_there();
}

/* One that takes all the buffers there are is ended; what others have sent meanwhile arrives. */
static void one_takes_them_all(void **state)
{
	struct gvm_rma_conn *greedy = dialled(), *ended = server.last->conn;
	struct gvm_rma_conn *c = dialled(), *peer = server.last->conn;

	stub.rnr_waits = 1;
	ended->echo = peer->echo = 0;
	send_cells(greedy, 3 * GVM_RMA_RECVS);
	send_cells(c, 5);
	assert_int_equal(peer->cells, 0);
	end(ended, 0);
	until(peer->cells == 5);
	until(greedy->broken);
	assert_int_equal(c->broken + peer->broken, 0);
	stub.rnr_waits = 0;
	all_are_there();
}

static void the_queue_fails(void **state)
{
	struct gvm_rma_conn *c = dialled(), *peer = server.last->conn;
	struct verbs_lane *lane = first_lane();

	stub_async(
	    verbs_of(server.rma)->context,
	    (struct ibv_async_event){ .event_type = IBV_EVENT_SRQ_ERR, .element.srq = lane->srq });
	until(peer->broken && c->broken);
	assert_int_equal(peer->broken, -EIO);
	dialled();
	assert_ptr_not_equal(conn_of_end(server.last->conn)->lane, lane);
	all_are_there();
}

/* More connections than the first lane takes, and than the device's queues do. */
static void small_queues(void **state)
{
	struct gvm_rma_conn *c[80];

	fabric_close(&server);
	stub.max_srq_wr = 130 + 32 * GVM_RMA_FIRST;
	assert_int_equal(fabric_open(&server, ""), 0);
	fabric_listen(&server, 0);
	for (unsigned i = 0; i < 80; i++) {
		c[i] = dial_at(here, server.port);
		until(c[i]->connected == 1);
	}
	for (struct verbs_lane *lane = first_lane(); lane; lane = lane->next)
		assert_true(lane->srq && lane->conns <= 33 &&
			    lane->depth <= 130 + 32 * GVM_RMA_FIRST);
	for (unsigned i = 0; i < 80; i++)
		end(c[i], 0);
}

static void without(void)
{
	fabric_close(&server);
	assert_int_equal(fabric_open(&server, ""), 0);
	fabric_listen(&server, 0);
	all_are_there();
	assert_null(first_lane()->srq);
	dialled();
	assert_int_equal(conn_of_end(server.last->conn)->recvs, GVM_RMA_RECVS);
	assert_int_equal(verbs_fabric.receives(server.last, GVM_RMA_FIRST), 0);
	all_are_there();
}

static void a_device_without(void **state)
{
	stub.max_srq_wr = 0;
	without();
	stub.max_srq_wr = 100;
	without();
}

static void a_device_that_makes_none(void **state)
{
	stub.no_srq = 1;
	without();
}

#define SHARED(test) cmocka_unit_test_setup_teardown(test, setup_shared, teardown_shared)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SHARED(connections_share_a_queue),
		SHARED(queues_are_as_long_as_it_says),
		SHARED(no_buffer_is_lost),
		SHARED(what_is_put_aside_stays_in_order),
		SHARED(a_device_that_says_nothing),
		SHARED(one_takes_them_all),
		SHARED(the_queue_fails),
		SHARED(small_queues),
		SHARED(a_device_without),
		SHARED(a_device_that_makes_none),
	};

	snprintf(here, sizeof(here), "127.0.0.1");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
