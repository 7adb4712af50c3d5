/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The verbs fabric by itself: cells, reads and writes, ends in each state, what is refused. This
 * program stands in for rma.c (verbs_rig.h): it keeps no credits but counts cells, so that no more
 * than GVM_RMA_CELLS are under way. Both sides in one thread, over an RDMA device of this machine,
 * which reaches itself; without one there is nothing to show (exit status 77).
 *
 * GVM_CONFORMANCE_HOST: the address of its interface, where the device does not say it (iWARP).
 */
#include "verbs_rig.h"

_Static_assert(VERBS_SENDS == 288 && VERBS_COPIES * GVM_RMA_CELL >> 10 == 255 && VERBS_BUFS == 126,
	       "docs/rdma.md, Pinned memory, says so; test_docs reckons with it");

/* ---- tests --------------------------------------------------------------------------------- */

static void cells_come_back_in_order(void **state)
{
	static uint8_t bytes[GVM_RMA_CELL];
	struct gvm_rma_conn *c = dialled();
	unsigned sent = 0, seen = 0;

	cell_reg = &local;
	/* both sides' buffers are the client's here: the server copies or inlines what it sends */
	while (seen < 3000) {
		for (; sent < 3000 && sent - c->cells < GVM_RMA_CELLS; sent++) {
			uint32_t len = GVM_RMA_CELL_HDR + sent * 37 % (GVM_RMA_CELL - 15);

			fill(bytes, len, sent);
			send_cell(c, bytes, len);
		}
		until(c->cells > seen);
		for (; seen < c->cells; seen++) {
			uint32_t len = GVM_RMA_CELL_HDR + seen * 37 % (GVM_RMA_CELL - 15);

			fill(bytes, len, seen);
			assert_int_equal(c->len[seen % 64], len);
			assert_memory_equal(c->bytes[seen % 64], bytes, len);
		}
	}
	assert_int_equal(c->broken, 0);
}

static void reads_and_writes(void **state)
{
	static const uint32_t sizes[] = {
		1, 47, 219, 220, 221, 1024, 4096, 4097, 65536, MIB - 4096
	};
	struct gvm_rma_conn *c = dialled();

	offer(c, RW);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		fill(local_at, MIB, i);
		assert_int_equal(do_job(c, GVM_RMA_WRITE, 3, 5 + i, sizes[i]), 0);
		assert_memory_equal(remote_at + 5 + i, local_at + 3, sizes[i]);
		memset(local_at + MIB, 0xEE, MIB);
		assert_int_equal(do_job(c, GVM_RMA_READ, MIB - 1 - sizes[i] + MIB, 5 + i, sizes[i]),
				 0);
		assert_memory_equal(local_at + MIB - 1 - sizes[i] + MIB, local_at + 3, sizes[i]);
		assert_int_equal(local_at[2 * MIB - 1], 0xEE);
	}
	verbs_fabric.dereg(server.rma, &remote);
}

/* N reads or writes as fast as the queue takes them; returns how often it was full. */
static unsigned run_jobs(struct gvm_rma_conn *c, enum gvm_rma_kind kind, struct job *jobs,
			 unsigned n)
{
	unsigned posted = 0, full = 0, done = 0;

	while (done < n) {
		for (; posted < n; posted++) {
			size_t at = posted % 1000 * 1024;
			int err = post(c, &jobs[posted], kind, at, at, 1024);

			if (!err)
				continue;
			assert_int_equal(err, -EAGAIN);
			full++;
			break;
		}
		until(jobs[done].done);
		while (done < posted && jobs[done].done)
			assert_int_equal(jobs[done++].status, 0);
	}
	return full;
}

static void a_full_queue_says_so(void **state)
{
	struct job *jobs = calloc(1000, sizeof(*jobs));
	struct gvm_rma_conn *c = dialled();

	offer(c, RW);
	fill(remote_at, 2 * MIB, 3);
	assert_true(run_jobs(c, GVM_RMA_READ, jobs, 1000) > 0);
	assert_memory_equal(local_at, remote_at, 1000 * 1024);
	fill(local_at, 2 * MIB, 4);
	assert_true(run_jobs(c, GVM_RMA_WRITE, jobs, 1000) > 0);
	assert_memory_equal(local_at, remote_at, 1000 * 1024);
	verbs_fabric.dereg(server.rma, &remote);
	free(jobs);
}

/* Requests are numbered in 16 bits. */
static void numbers_begin_anew(void **state)
{
	enum { N = 70000 };
	struct job *jobs = calloc(N, sizeof(*jobs));
	struct gvm_rma_conn *c = dialled();

	offer(c, RW);
	assert_true(run_jobs(c, GVM_RMA_READ, jobs, N) > 0);
	verbs_fabric.dereg(server.rma, &remote);
	free(jobs);
}

/* Writes whose proof waits at the other side behind the answers to reads. */
static void writes_behind_reads(void **state)
{
	enum { READS = 12, LEN = 65536 };
	struct gvm_rma_conn *c = dialled();
	struct job jobs[READS + 1];

	offer(c, RW);
	fill(remote_at, MIB, 5);
	for (unsigned round = 0; round < 20; round++) {
		fill(local_at + MIB, 4096, round);
		for (unsigned i = 0; i < READS; i++)
			assert_int_equal(post(c, &jobs[i], GVM_RMA_READ, i * LEN, i * LEN, LEN), 0);
		assert_int_equal(post(c, &jobs[READS], GVM_RMA_WRITE, MIB, MIB, 4096), 0);
		for (unsigned i = 0; i <= READS; i++) {
			until(jobs[i].done || c->broken);
			assert_int_equal(c->broken, 0);
			assert_int_equal(jobs[i].status, 0);
		}
		assert_memory_equal(local_at, remote_at, READS * LEN);
		assert_memory_equal(local_at + MIB, remote_at + MIB, 4096);
	}
	verbs_fabric.dereg(server.rma, &remote);
}

/* siw may have left what came first in its socket; a read that comes later wakes it up. More than
 * one, as the first may have been too early. Who has accepted does not speak first: if the other
 * side is slow to see its answer, that ends the connection. */
static void a_silent_connection_is_nudged(void **state)
{
	static const uint8_t cell[GVM_RMA_CELL_HDR + 1];
	struct verbs_conn *dialler, *accepted;
	struct gvm_rma_conn *c;

	if (!verbs_of(server.rma)->siw)
		skip();
	c = dialled();
	dialler = verbs_ep_of(c->ep)->conn;
	accepted = verbs_ep_of(server.last)->conn;
	until_s(dialler->tail == 3, 5);
	assert_int_equal(accepted->head, 0);
	cell_reg = &local;
	send_cell(server.last->conn, cell, sizeof(cell));
	until(c->cells == 1);
	assert_int_equal(dialler->silent, 0);
	assert_int_equal(c->broken, 0);
}

/* What is not offered is not reached, and the connection ends, on both sides, soon. */
static void refused_access(struct gvm_rma_conn *c, enum gvm_rma_kind kind)
{
	uint64_t begun = gvm_now();
	struct gvm_rma_conn *peer = server.last->conn;
	int status;

	memset(remote_at, 0x55, 4096);
	status = do_job(c, kind, 0, 0, 4096);
	assert_true(status < 0);
	until(c->broken && peer->broken);
	assert_true(gvm_now() - begun < 10000000000ull);
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(remote_at[i], 0x55);
}

static void a_wrong_key_ends_the_connection(void **state)
{
	struct gvm_rma_conn *c = dialled();

	offer(c, RW);
	remote.key ^= 0x5A00;
	refused_access(c, GVM_RMA_WRITE);
	c = dialled();
	refused_access(c, GVM_RMA_READ);
	verbs_fabric.dereg(server.rma, &remote);
}

/* Who knows a key of memory and not the cluster's gets at nothing. */
static void who_has_proven_nothing_reaches_nothing(void **state)
{
	struct gvm_rma_conn *c;

	if (verbs_of(server.rma)->iwarp)
		skip();
	server.unproven = 1;
	for (unsigned i = 0; i < 2; i++) {
		c = dialled();
		offer(c, RW);
		refused_access(c, i ? GVM_RMA_WRITE : GVM_RMA_READ);
		verbs_fabric.dereg(server.rma, &remote);
	}
	c = dialled();
	offer(c, RW);
	verbs_fabric.allow(server.last);
	assert_int_equal(do_job(c, GVM_RMA_WRITE, 0, 0, 4096), 0);
	server.unproven = 0;
	verbs_fabric.dereg(server.rma, &remote);
}

static void withdrawn_memory_is_not_reached(void **state)
{
	struct gvm_rma_conn *c = dialled();

	offer(c, RW);
	assert_int_equal(do_job(c, GVM_RMA_WRITE, 0, 0, 4096), 0);
	verbs_fabric.dereg(server.rma, &remote);
	refused_access(c, GVM_RMA_WRITE);
	c = dialled();
	refused_access(c, GVM_RMA_READ);
}

static void access_is_what_was_offered(void **state)
{
	struct gvm_rma_conn *c = dialled();

	offer(c, GVM_ACCESS_FETCH);
	assert_int_equal(do_job(c, GVM_RMA_READ, 0, 0, 4096), 0);
	refused_access(c, GVM_RMA_WRITE);
	verbs_fabric.dereg(server.rma, &remote);
	c = dialled();
	offer(c, GVM_ACCESS_PUT);
	assert_int_equal(do_job(c, GVM_RMA_WRITE, 0, 0, 4096), 0);
	if (!verbs_of(client.rma)->iwarp)
		refused_access(c, GVM_RMA_READ);
	verbs_fabric.dereg(server.rma, &remote);
}

static enum verbs_state state_of(struct gvm_rma_conn *c)
{
	return verbs_ep_of(c->ep)->conn->state;
}

/* Whenever this side ends it: nothing is left, and the server goes on. */
static void ends_in_each_state(void **state)
{
	static const enum verbs_state states[] = { VERBS_ADDR, VERBS_ROUTE, VERBS_CONNECT,
						   VERBS_OPEN };
	struct gvm_rma_conn *c;

	for (unsigned i = 0; i < 2 * sizeof(states) / sizeof(states[0]); i++) {
		enum verbs_state want = states[i / 2];

		c = dial_at(here, server.port);
		until(!c->ep || state_of(c) >= want);
		assert_non_null(c->ep);
		if (state_of(c) == want)
			end(c, i & 1);
		until(!c->ep || c->connected);
		end(c, 0);
		assert_null(verbs_of(client.rma)->conns);
	}
	c = dial_at("no-such-host.invalid", server.port);
	assert_int_equal(state_of(c), VERBS_LOOKUP);
	end(c, 0);
	settle();
	until(!verbs_of(server.rma)->conns);
	assert_int_equal(verbs_of(server.rma)->unproven_count, 0);
	dialled();
}

static void ends_on_the_servers_side(void **state)
{
	struct gvm_rma_conn *c;

	server.shut = 1;
	c = dial_at(here, server.port);
	until(c->connected);
	if (c->connected == 1)
		until(c->broken);
	server.shut = 0;
	dialled();
	/* unlisten() while one is being accepted */
	c = dial_at(here, server.port);
	until(!c->ep || state_of(c) == VERBS_CONNECT);
	until(verbs_of(server.rma)->unproven_count || c->connected);
	fabric_unlisten(&server);
	until(c->connected);
	if (c->connected == 1)
		until(c->broken || server.accepted >= 3);
	for (const struct verbs_conn *conn = verbs_of(server.rma)->conns; conn; conn = conn->next)
		assert_int_not_equal(conn->state, VERBS_ACCEPT);
}

static void last_words_arrive(void **state)
{
	static uint8_t bytes[GVM_RMA_CELL];
	struct gvm_rma_conn *c = dialled(), *peer = server.last->conn;

	cell_reg = &local;
	peer->echo = 0;
	for (unsigned i = 0; i < GVM_RMA_CELLS; i++) {
		fill(bytes, sizeof(bytes), i);
		send_cell(c, bytes, i & 1 ? 200 : GVM_RMA_CELL);
	}
	end(c, 1);
	until(peer->broken);
	assert_int_equal(peer->broken, -ECONNRESET);
	assert_int_equal(peer->cells, GVM_RMA_CELLS);
	for (unsigned i = 0; i < GVM_RMA_CELLS; i++) {
		fill(bytes, sizeof(bytes), i);
		assert_memory_equal(peer->bytes[i], bytes, 200);
	}
	until(!verbs_of(client.rma)->conns);
}

/* Also when the worker itself is closed at once. */
static void last_words_of_a_worker_arrive(void **state)
{
	uint8_t bytes[64] = { 7 };
	struct gvm_rma_conn *c = dialled(), *peer = server.last->conn;
	struct gvm_rma_reg reg = local;

	cell_reg = &local;
	peer->echo = 0;
	for (unsigned i = 0; i < 5; i++)
		send_cell(c, bytes, sizeof(bytes));
	end(c, 1);
	verbs_fabric.stop(client.rma);
	assert_null(verbs_of(client.rma)->conns);
	local = reg;
	until(peer->broken);
	assert_int_equal(peer->cells, 5);
}

/* disconnect() takes reads back: what the server would still send changes nothing here. */
static void reads_are_taken_back(void **state)
{
	enum { N = 64, LEN = 16384 };
	struct job jobs[N];

	for (int round = 0; round < 10; round++) {
		struct gvm_rma_conn *c = dialled();

		offer(c, RW);
		memset(remote_at, 0xAA, 2 * MIB);
		for (unsigned i = 0; i < N; i++)
			assert_int_equal(post(c, &jobs[i], GVM_RMA_READ, i * LEN, i * LEN, LEN), 0);
		verbs_fabric.ring(client.rma);
		for (int i = 0; i < round; i++)
			turn_all(0);
		end(c, 0);
		memset(local_at, 0x11, 2 * MIB);
		settle();
		for (size_t i = 0; i < N * LEN; i++)
			assert_int_equal(local_at[i], 0x11);
		verbs_fabric.dereg(server.rma, &remote);
	}
}

static void nobody_there(void **state)
{
	unsigned port = server.port;
	struct gvm_rma_conn *c;

	fabric_unlisten(&server);
	c = dial_at(here, port);
	until(c->connected);
	assert_int_equal(c->connected, -ECONNREFUSED);
	c = dial_at("no-such-host.invalid", port);
	until(c->connected);
	assert_int_equal(c->connected, -EHOSTUNREACH);
	assert_null(verbs_of(client.rma)->conns);
}

static void the_server_says_no(void **state)
{
	struct gvm_rma_conn *c;

	server.refuse = 1;
	c = dial_at(here, server.port);
	until(c->connected);
	assert_int_equal(c->connected, -ECONNREFUSED);
	server.refuse = 0;
	dialled();
}

/* Who says nothing, or something else, as it connects. */
static void strangers_are_refused(void **state)
{
	struct verbs_hello hello;
	struct rdma_cm_id *id;
	struct ibv_pd *pd;
	struct rdma_conn_param param = { .private_data = &hello,
					 .private_data_len = sizeof(hello) };
	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_RC, .cap = { 1, 1, 1, 1, 0 } };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)server.port) };

	if (inet_pton(AF_INET, here, &to.sin_addr) != 1)
		skip();
	for (int i = 0; i < 2; i++) {
		struct rdma_event_channel *events = rdma_create_event_channel();
		struct rdma_cm_event *event;

		assert_int_equal(rdma_create_id(events, &id, NULL, RDMA_PS_TCP), 0);
		assert_int_equal(rdma_resolve_addr(id, NULL, (struct sockaddr *)&to, 2000), 0);
		assert_int_equal(rdma_get_cm_event(events, &event), 0);
		assert_int_equal(event->event, RDMA_CM_EVENT_ADDR_RESOLVED);
		rdma_ack_cm_event(event);
		assert_int_equal(rdma_resolve_route(id, 2000), 0);
		assert_int_equal(rdma_get_cm_event(events, &event), 0);
		assert_int_equal(event->event, RDMA_CM_EVENT_ROUTE_RESOLVED);
		rdma_ack_cm_event(event);
		pd = ibv_alloc_pd(id->verbs);
		init.send_cq = init.recv_cq = ibv_create_cq(id->verbs, 4, NULL, NULL, 0);
		assert_int_equal(rdma_create_qp(id, pd, &init), 0);
		verbs_hello_make(verbs_of(client.rma), 0, &hello);
		hello.version += 1;
		assert_int_equal(rdma_connect(id, i ? &param : NULL), 0);
		gvm_log_set(drop_line);
		settle();
		gvm_log_set(NULL);
		assert_int_equal(rdma_get_cm_event(events, &event), 0);
		assert_int_equal(event->event, RDMA_CM_EVENT_REJECTED);
		rdma_ack_cm_event(event);
		rdma_destroy_qp(id);
		ibv_destroy_cq(init.send_cq);
		ibv_dealloc_pd(pd);
		rdma_destroy_id(id);
		rdma_destroy_event_channel(events);
	}
	assert_int_equal(server.accepted, 0);
}

/* One port, two workers: they get connections in turn; when the first one leaves, the other goes
 * on. */
static void workers_share_a_port(void **state)
{
	struct gvm_rma_conn *c[8];
	unsigned port = server.port;

	assert_int_equal(fabric_open(&other, ""), 0);
	fabric_listen(&other, port);
	for (unsigned i = 0; i < 8; i++)
		c[i] = dialled();
	assert_int_equal(server.accepted, 4);
	assert_int_equal(other.accepted, 4);
	fabric_unlisten(&server);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(c[i]->broken, 0);
	server.port = port; /* for dialled() */
	dialled();
	assert_int_equal(server.accepted, 4);
	assert_int_equal(other.accepted, 5);
	server.port = 0;
	/* handed over and not looked at yet */
	fabric_unlisten(&other);
	fabric_listen(&server, port);
	fabric_listen(&other, port);
	c[0] = dial_at(here, port);
	c[1] = dial_at(here, port);
	for (uint64_t end_ = gvm_now() + 20000000000ull; !verbs_of(other.rma)->inbox;) {
		turn(&server, 0);
		turn(&client, 1);
		assert_true(gvm_now() < end_);
	}
	fabric_unlisten(&other);
	until(c[0]->connected && c[1]->connected);
	assert_int_equal(c[0]->connected + c[1]->connected, 1 - ECONNREFUSED);
}

static void many_connections(void **state)
{
	enum { N = 100 };
	static struct gvm_rma_conn *c[N];
	uint8_t bytes[64] = { 9 };

	cell_reg = &local;
	for (unsigned i = 0; i < N; i++)
		c[i] = dial_at(here, server.port);
	for (unsigned i = 0; i < N; i++)
		until(c[i]->connected == 1);
	assert_non_null(verbs_of(client.rma)->lanes->next);
	for (unsigned i = 0; i < N; i++)
		send_cell(c[i], bytes, sizeof(bytes));
	for (unsigned i = 0; i < N; i++)
		until(c[i]->cells == 1);
	for (unsigned i = 0; i < N; i++)
		end(c[i], 1);
	until(!verbs_of(server.rma)->conns && !verbs_of(client.rma)->conns);
	assert_int_equal(server.broken, N);
	assert_int_equal(verbs_of(client.rma)->copy_count, VERBS_COPIES);
	assert_int_equal(verbs_of(server.rma)->copy_count, VERBS_COPIES);
}

static void arguments(void **state)
{
	static const char *const illegal[] = { ":1",      "rxe0:",    "rxe0:0",    "rxe0:x",
					       "rxe0:1:", "rxe0:1:x", "rxe0:1:2:3" };
	char text[128], device[64];

	snprintf(device, sizeof(device), "%s", verbs_of(client.rma)->device);
	gvm_log_set(drop_line);
	for (unsigned i = 0; i < sizeof(illegal) / sizeof(illegal[0]); i++) {
		assert_int_equal(fabric_open(&other, illegal[i]), -EINVAL);
		forget(&other);
	}
	assert_int_equal(fabric_open(&other, "pigeon0"), -ENODEV);
	forget(&other);
	snprintf(text, sizeof(text), "%s:200", device);
	assert_int_equal(fabric_open(&other, text), -ENODEV);
	forget(&other);
	snprintf(text, sizeof(text), "%s:1:60000", device);
	assert_int_equal(fabric_open(&other, text), -ENODEV);
	forget(&other);
	gvm_log_set(NULL);
	snprintf(text, sizeof(text), "%s:1:0", device);
	assert_int_equal(fabric_open(&other, text), 0);
	assert_int_equal(verbs_of(other.rma)->gid, 0);
}

static void listening_elsewhere(void **state)
{
	struct gvm_rma_conn *c;
	unsigned port;

	assert_int_equal(fabric_open(&other, ""), 0);
	other.listener.rma = other.rma;
	gvm_log_set(drop_line);
	assert_int_equal(verbs_fabric.listen(other.rma, &other.listener, "192.0.2.1", 0, &port),
			 -EADDRNOTAVAIL);
	gvm_log_set(NULL);
	assert_int_equal(verbs_fabric.listen(other.rma, &other.listener, "*", 0, &port), 0);
	assert_in_range(port, 1, 65535);
	other.port = port;
	c = dial_at(here, port);
	until(other.accepted == 1 && c->connected == 1);
}

/* ---- the device ---------------------------------------------------------------------------- */

/* An IPv4 address of the device, as RoCE has one in its table. */
static int find_address(void)
{
	const char *env = getenv("GVM_CONFORMANCE_HOST");
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_gid_entry gids[64];
	ssize_t n = 0;

	if (env)
		snprintf(here, sizeof(here), "%s", env);
	for (int d = 0; list && list[d] && !*here; d++) {
		struct ibv_context *context = ibv_open_device(list[d]);

		n = context ? ibv_query_gid_table(context, gids, 64, 0) : 0;
		for (ssize_t i = 0; i < n && !*here; i++)
			if (IN6_IS_ADDR_V4MAPPED((struct in6_addr *)gids[i].gid.raw))
				inet_ntop(AF_INET, gids[i].gid.raw + 12, here, sizeof(here));
		if (context)
			ibv_close_device(context);
	}
	if (list)
		ibv_free_device_list(list);
	return *here != 0;
}

#define PAIR(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		PAIR(cells_come_back_in_order),
		PAIR(reads_and_writes),
		PAIR(a_full_queue_says_so),
		PAIR(writes_behind_reads),
		PAIR(a_silent_connection_is_nudged),
		PAIR(numbers_begin_anew),
		PAIR(a_wrong_key_ends_the_connection),
		PAIR(who_has_proven_nothing_reaches_nothing),
		PAIR(withdrawn_memory_is_not_reached),
		PAIR(access_is_what_was_offered),
		PAIR(ends_in_each_state),
		PAIR(ends_on_the_servers_side),
		PAIR(last_words_arrive),
		PAIR(last_words_of_a_worker_arrive),
		PAIR(reads_are_taken_back),
		PAIR(nobody_there),
		PAIR(the_server_says_no),
		PAIR(strangers_are_refused),
		PAIR(workers_share_a_port),
		PAIR(many_connections),
		PAIR(arguments),
		PAIR(listening_elsewhere),
	};
	const char *why = "it has no IPv4 address; name one: GVM_CONFORMANCE_HOST";

	if (verbs_probe(&why) || !find_address()) {
		printf("skipped: %s\n", why);
		return SKIPPED;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
