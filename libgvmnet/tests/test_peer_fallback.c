/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that a net with several transports listens with all of them, connects with the best that
 * connects, says once why it took another one, tells nothing of it to the layers above, and goes
 * back to the best when that is there again. loop stands for the better one.
 */
#include "peer_rig.h"

static char line[512];
static unsigned lines;

static void keep_line(enum gvm_log_level level, const char *text)
{
	if (level > GVM_LOG_WARN)
		return;
	lines++;
	snprintf(line, sizeof(line), "%s", text);
}

static void open_pair(struct rig *rig, const char *of_server, const char *of_client)
{
	memset(rig, 0, sizeof(*rig));
	lines = 0;
	gvm_log_set(keep_line);
	transport = of_server;
	open_node(&rig->server);
	transport = of_client;
	open_node(&rig->client);
	rig->client.worker->opt.backoff_max_ns = 1;
	assert_int_equal(gvm_worker_listen(rig->server.worker, "127.0.0.1", 0, &rig->port), 0);
	assert_int_equal(gvm_peer_at(rig->client.worker, "127.0.0.1", rig->port, &rig->peer), 0);
}

static void close_pair(struct rig *rig)
{
	close_rig(rig);
	gvm_log_set(no_line);
}

static void call_over(struct rig *rig, const char *name)
{
	struct gvm_msg msg = { .type = 64, .arg = 1 };
	struct job job = new_job();

	assert_int_equal(gvm_call(rig->peer, &msg, &job.op), 0);
	UNTIL(rig, job.done);
	assert_int_equal(job.status, 0);
	assert_int_equal(job.arg, 2);
	assert_string_equal(gvm_peer_transport(rig->peer), name);
	assert_string_equal(gvm_peer_transport(rig->server.session), name);
}

static void the_best_that_both_have(void **state)
{
	struct rig rig;

	open_pair(&rig, "loop+tcp", "loop+tcp");
	assert_string_equal(gvm_net_transport(rig.client.net), "loop+tcp");
	assert_string_equal(gvm_peer_transport(rig.peer), "");
	call_over(&rig, "loop");
	close_pair(&rig);
	open_pair(&rig, "loop+tcp", "tcp");
	call_over(&rig, "tcp");
	close_pair(&rig);
	open_pair(&rig, "loop", "tcp+loop");
	call_over(&rig, "loop");
	close_pair(&rig);
}

static void another_is_taken_with_one_line_and_no_event(void **state)
{
	struct rig rig;

	open_pair(&rig, "tcp", "loop+tcp");
	for (unsigned round = 1; round <= 3; round++) {
		call_over(&rig, "tcp");
		assert_int_equal(rig.client.ready, round);
		assert_int_equal(rig.client.ended, round - 1);
		assert_int_equal(lines, 1);
		assert_non_null(strstr(line, "not over loop (Connection refused), trying tcp"));
		/* the one that works is tried first again */
		assert_int_equal(rig.client.worker->stats.connects, round + 1);
		gvm_peer_disconnect(rig.server.session, -ESHUTDOWN);
		UNTIL(&rig, rig.client.ended == round);
	}
	close_pair(&rig);
}

/* A peer that nobody asks anything of is connected all the same. */
static void connecting_falls_back_too(void **state)
{
	struct rig rig;

	open_pair(&rig, "tcp", "loop+tcp");
	assert_int_equal(gvm_peer_connect(rig.peer), 0);
	UNTIL(&rig, rig.client.ready == 1);
	close_pair(&rig);
}

/* The node comes back with a better transport: the one that worked is taken at first, and later the
 * better one. */
static void the_best_is_taken_when_it_is_back(void **state)
{
	struct rig rig;

	open_pair(&rig, "tcp", "loop+tcp");
	call_over(&rig, "tcp");
	close_node(&rig.server);
	transport = "loop+tcp";
	open_node(&rig.server);
	assert_int_equal(gvm_worker_listen(rig.server.worker, "127.0.0.1", rig.port, NULL), 0);
	UNTIL(&rig, rig.client.ended == 1);
	call_over(&rig, "tcp");
	rig.peer->fell_at = gvm_now() - 61 * SECOND;
	gvm_peer_disconnect(rig.server.session, -ESHUTDOWN);
	UNTIL(&rig, rig.client.ended == 2);
	call_over(&rig, "loop");
	close_pair(&rig);
}

/* Everything fails: the last reason is told, once for each round. */
static void nobody_is_there(void **state)
{
	struct gvm_msg msg = { .type = 64 };
	struct job job = new_job();
	struct rig rig;

	open_pair(&rig, "tcp", "loop+tcp");
	gvm_worker_unlisten(rig.server.worker);
	job.op.deadline_ns = gvm_now() + SECOND / 5;
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), 0);
	UNTIL(&rig, job.done);
	assert_int_equal(job.status, -ECONNREFUSED);
	assert_true(rig.client.ended > 0);
	assert_int_equal(rig.client.why, -ECONNREFUSED);
	assert_int_equal(rig.client.ready, 0);
	assert_int_equal(lines, 2); /* not over loop; cannot connect */
	close_pair(&rig);
}

/* What another transport would not change is not tried over one. */
static void a_refusal_is_final(void **state)
{
	struct gvm_msg msg = { .type = 64 };
	struct job job = new_job();
	struct rig rig;

	open_pair(&rig, "loop+tcp", "loop+tcp");
	rig.server.net->key = (uint8_t *)strdup("0123456789abcdef");
	rig.server.net->key_len = 16;
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), 0);
	UNTIL(&rig, job.done);
	assert_int_equal(job.status, -EACCES);
	assert_int_equal(rig.client.worker->stats.connects, 1);
	close_pair(&rig);
}

/* One that hangs has a second. */
static void one_that_stalls_is_not_waited_for_long(void **state)
{
	struct gvm_loop_faults stall = { .stall = 1 }, none = { 0 };
	uint64_t began;
	struct rig rig;

	open_pair(&rig, "loop+tcp", "loop+tcp");
	gvm_loop_set_faults(&stall);
	began = gvm_now();
	call_over(&rig, "tcp");
	assert_in_range(gvm_now() - began, SECOND / 2, 4 * SECOND);
	gvm_loop_set_faults(&none);
	close_pair(&rig);
}

/* It connects, and each connection breaks soon: as good as none. What was announced is no break. */
static void one_whose_connections_break_is_left(void **state)
{
	struct rig rig;
	unsigned ended = 0;

	open_pair(&rig, "loop+tcp", "loop+tcp");
	for (unsigned round = 0; round < 5; round++) {
		call_over(&rig, "loop");
		gvm_peer_disconnect(rig.server.session, -ESHUTDOWN);
		ended++;
		UNTIL(&rig, rig.client.ended == ended);
	}
	for (unsigned round = 0; round < 3; round++) {
		call_over(&rig, "loop");
		peer_break(rig.server.session, -ECONNRESET);
		ended++;
		UNTIL(&rig, rig.client.ended == ended);
	}
	assert_int_equal(lines, 1);
	assert_non_null(strstr(line, "connections over loop do not last ("));
	assert_non_null(strstr(line, "), trying tcp"));
	call_over(&rig, "tcp");
	/* one that has lasted is none of them */
	rig.peer->fell_at = gvm_now() - 61 * SECOND;
	gvm_peer_disconnect(rig.server.session, -ESHUTDOWN);
	ended++;
	UNTIL(&rig, rig.client.ended == ended);
	for (unsigned round = 0; round < 5; round++) {
		call_over(&rig, "loop");
		rig.peer->ready_since -= round & 1 ? 16 * SECOND : 0;
		peer_break(rig.server.session, -ECONNRESET);
		ended++;
		UNTIL(&rig, rig.client.ended == ended);
	}
	assert_int_equal(lines, 1);
	close_pair(&rig);
}

/* The ports are one, whoever chose it; all or nothing. */
static void listening_is_with_all(void **state)
{
	struct rig rig;
	unsigned port;

	open_pair(&rig, "loop+tcp", "tcp");
	call_over(&rig, "tcp");
	assert_int_equal(rig.server.worker->listener_count, 2);
	assert_int_equal(gvm_worker_listen(rig.server.worker, "127.0.0.1", rig.port, NULL),
			 -EADDRINUSE);
	assert_int_equal(rig.server.worker->listener_count, 2);
	assert_int_equal(gvm_worker_listen(rig.server.worker, "127.0.0.1", 0, &port), 0);
	assert_int_equal(rig.server.worker->listener_count, 4);
	assert_int_not_equal(port, rig.port);
	close_pair(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_best_that_both_have),
		cmocka_unit_test(another_is_taken_with_one_line_and_no_event),
		cmocka_unit_test(connecting_falls_back_too),
		cmocka_unit_test(the_best_is_taken_when_it_is_back),
		cmocka_unit_test(nobody_is_there),
		cmocka_unit_test(a_refusal_is_final),
		cmocka_unit_test(one_that_stalls_is_not_waited_for_long),
		cmocka_unit_test(one_whose_connections_break_is_left),
		cmocka_unit_test(listening_is_with_all),
	};

	return RUN(tests);
}
