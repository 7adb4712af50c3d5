/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows how connections end, over every provider of this build: the other side dies in each state
 * or says nothing, callbacks hang up, workers close under way; and that each operation completes
 * exactly once whatever happens to the connection.
 */
#include "tests/peer_rig.h"

/* ---- the death of the other side ----------------------------------------------------------- */

static void death_while(enum gvm_peer_state when)
{
	struct job job = new_job(), patient = new_job();
	struct gvm_msg msg = { .type = 64 };
	struct gvm_net_stats stats;
	struct rig rig;

	open_rig(&rig);
	rig.server.mute = 1;
	job.op.deadline_ns = gvm_now() + SECOND / 10;
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), 0);
	while (gvm_peer_state(rig.peer) != when)
		turn(&rig);
	if (when == GVM_PEER_READY)
		UNTIL(&rig, rig.server.messages);
	close_node(&rig.server);
	while (!job.done)
		gvm_worker_wait(rig.client.worker, SECOND);
	assert_int_equal(job.done, 1);
	if (when == GVM_PEER_READY)
		assert_int_equal(job.status, -ECONNRESET);
	else
		assert_true(job.status == -ECONNREFUSED || job.status == -ECONNRESET ||
			    job.status == -ETIMEDOUT);
	assert_true(rig.client.ended >= 1);
	/* It comes back, as another incarnation, at the same place. */
	assert_int_equal(gvm_call(rig.peer, &msg, &patient.op), 0);
	open_node(&rig.server);
	assert_int_equal(gvm_worker_listen(rig.server.worker, "127.0.0.1", rig.port, NULL), 0);
	UNTIL(&rig, patient.done);
	assert_int_equal(patient.status, 0);
	assert_true(gvm_peer_incarnation(rig.peer) == gvm_net_incarnation(rig.server.net));
	gvm_worker_stats(rig.client.worker, &stats);
	turn(&rig);
	assert_int_equal(stats.peers_open, 1);
	assert_int_equal(stats.peers_ready, 1);
	close_rig(&rig);
}

static void death_while_connecting(void **state)
{
	death_while(GVM_PEER_CONNECTING);
}

static void death_while_proving(void **state)
{
	death_while(GVM_PEER_PROVING);
}

static void death_while_ready(void **state)
{
	death_while(GVM_PEER_READY);
}

/* The machine is there and says nothing: only liveness notices. Silence alone is no death. */
static void silence_is_noticed(void **state)
{
	struct rig rig;
	uint64_t begin;

	assert_int_equal(gvm_option_set("GVM_KEEPALIVE_MS", "100"), 0);
	open_rig(&rig);
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	begin = gvm_now();
	while (gvm_now() - begin < SECOND / 2) {
		gvm_worker_wait(rig.client.worker, SECOND / 1000);
		gvm_worker_wait(rig.server.worker, SECOND / 1000);
	}
	assert_int_equal(rig.client.ended + rig.server.ended, 0);
	assert_int_equal(gvm_peer_state(rig.peer), GVM_PEER_READY);
	begin = gvm_now();
	while (!rig.client.ended) {
		gvm_worker_wait(rig.client.worker, SECOND / 100);
		assert_true(gvm_now() - begin < PATIENCE);
	}
	assert_int_equal(rig.client.why, -ETIMEDOUT);
	close_rig(&rig);
	assert_int_equal(gvm_option_set("GVM_KEEPALIVE_MS", "10000"), 0);
}

/*
 * A link that is cut in one direction: the client hears nothing and gives its connection up, the
 * server hears all of the client. It must not take that for the client's death, which a reset is.
 */
static void giving_up_on_silence_is_not_told(void **state)
{
	struct rig rig;
	uint64_t begin;

	assert_int_equal(gvm_option_set("GVM_KEEPALIVE_MS", "100"), 0);
	open_rig(&rig);
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready && rig.server.ready);
	begin = gvm_now();
	while (!rig.client.ended) {
		gvm_worker_wait(rig.client.worker, SECOND / 100);
		assert_true(gvm_now() - begin < PATIENCE);
	}
	while (!rig.server.ended) {
		gvm_worker_wait(rig.server.worker, SECOND / 100);
		assert_true(gvm_now() - begin < PATIENCE);
	}
	assert_int_equal(rig.server.why, -ETIMEDOUT);
	close_rig(&rig);
	assert_int_equal(gvm_option_set("GVM_KEEPALIVE_MS", "10000"), 0);
}

/* ---- what callbacks may do ----------------------------------------------------------------- */

static unsigned chained;

static void disconnect_when_done(struct gvm_op *op, int status)
{
	struct job *job = (struct job *)op;

	job_done(op, status);
	gvm_peer_disconnect(job->op.peer, -ECANCELED);
}

/* Of many operations under way, the first to complete ends the connection of all. */
static void disconnect_in_done(void **state)
{
	static struct job jobs[32];
	static uint8_t memory[4096], buf[32][4096];
	struct gvm_msg msg = { .type = 64 };
	struct gvm_mem *mem;
	struct rig rig;
	unsigned i, round, ended;

	open_rig(&rig);
	assert_int_equal(gvm_mem_register(rig.server.net, memory, 4096, GVM_ACCESS_FETCH, 0, &mem),
			 0);
	for (round = 0; round < 4; round++) {
		for (i = 0; i < 32; i++) {
			jobs[i] = new_job();
			jobs[i].op.done = disconnect_when_done;
			if ((i + round) % 2)
				assert_int_equal(gvm_call(rig.peer, &msg, &jobs[i].op), 0);
			else
				assert_int_equal(gvm_fetch(rig.peer, gvm_mem_key(mem), 0, buf[i],
							   4096, NULL, &jobs[i].op),
						 0);
		}
		UNTIL(&rig, done_of(jobs, 32, 0) + done_of(jobs, 32, -ECANCELED) == 32);
		assert_true(done_of(jobs, 32, 0) >= 1);
		assert_int_equal(gvm_peer_state(rig.peer), GVM_PEER_IDLE);
		ended = round + 1;
		UNTIL(&rig, rig.server.ended == ended);
	}
	gvm_mem_unregister(mem, NULL, NULL);
	close_rig(&rig);
}

/* The listening side hangs up in the middle of what it is being told, and goes on listening. */
static void disconnect_in_message(void **state)
{
	static struct job jobs[20];
	struct gvm_msg msg = { .type = 64 };
	struct rig rig;
	unsigned i;

	open_rig(&rig);
	rig.server.hang_up = 10;
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	for (i = 0; i < 20; i++) {
		jobs[i] = new_job();
		assert_int_equal(gvm_call(rig.peer, &msg, &jobs[i].op), 0);
	}
	UNTIL(&rig, done_of(jobs, 20, 0) + done_of(jobs, 20, -ECONNRESET) == 20);
	assert_true(done_of(jobs, 20, 0) <= 9);
	assert_int_equal(rig.server.messages, 10);
	UNTIL(&rig, rig.server.ended == 1);
	assert_int_equal(rig.server.why, -ESHUTDOWN);
	jobs[0] = new_job();
	assert_int_equal(gvm_call(rig.peer, &msg, &jobs[0].op), 0);
	UNTIL(&rig, jobs[0].done);
	assert_int_equal(jobs[0].status, 0);
	close_rig(&rig);
}

static void disconnect_when_ready(void **state)
{
	struct job job = new_job();
	struct gvm_msg msg = { .type = 64 };
	struct rig rig;

	open_rig(&rig);
	rig.server.hang_up_when_ready = 1;
	job.op.deadline_ns = gvm_now() + SECOND / 5;
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), 0);
	UNTIL(&rig, job.done);
	assert_int_equal(job.status, -ECONNRESET);
	assert_int_equal(rig.server.messages, 0);
	/* Each of them was a connection; that they were short ones has slowed them down. */
	assert_in_range(rig.server.ready, 1, 100);
	rig.server.hang_up_when_ready = 0;
	rig.client.hang_up_when_ready = 1;
	job.op.deadline_ns = 0;
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), 0);
	UNTIL(&rig, job.done == 2);
	assert_int_equal(job.status, -ESHUTDOWN);
	close_rig(&rig);
}

static void call_again(struct gvm_op *op, int status)
{
	struct gvm_msg msg = { .type = 64 };

	if (status == -ECANCELED) {
		job_done(op, status);
		assert_int_equal(gvm_call(op->peer, &msg, op), -ECANCELED);
		return;
	}
	assert_int_equal(status, 0);
	chained++;
	assert_int_equal(gvm_call(op->peer, &msg, op), 0);
}

/* Closing a worker completes what is under way, and refuses what the completions would post. */
static void close_under_way(void **state)
{
	static uint8_t buf[4096];
	struct job job = new_job(), mute = new_job(), fetch = new_job();
	struct gvm_msg msg = { .type = 64 };
	struct rig rig;

	open_rig(&rig);
	chained = 0;
	job.op.done = call_again;
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), 0);
	UNTIL(&rig, chained == 100);
	rig.server.mute = 1;
	assert_int_equal(gvm_call(rig.peer, &msg, &mute.op), 0);
	assert_int_equal(gvm_fetch(rig.peer, 1, 0, buf, 4096, NULL, &fetch.op), 0);
	close_node(&rig.client);
	assert_int_equal(job.done, 1);
	assert_int_equal(mute.done, 1);
	assert_int_equal(mute.status, -ECANCELED);
	assert_int_equal(fetch.done, 1);
	assert_int_equal(fetch.status, -ECANCELED);
	close_node(&rig.server);
}

struct watcher {
	struct gvm_peer_observer observer;
	unsigned ready, ended;
	int leave;
};

static void on_observed(struct gvm_peer_observer *observer, struct gvm_peer *peer,
			enum gvm_peer_state state, int why)
{
	struct watcher *watcher = (struct watcher *)observer;

	if (state == GVM_PEER_READY)
		watcher->ready++;
	else
		watcher->ended++;
	if (watcher->leave)
		gvm_peer_unobserve(observer);
}

static void observers(void **state)
{
	struct watcher watchers[4] = {
		{ .leave = 1 }, { .leave = 0 }, { .leave = 1 }, { .leave = 0 }
	};
	struct rig rig;
	unsigned i;

	open_rig(&rig);
	for (i = 0; i < 4; i++) {
		watchers[i].observer.peer_state = on_observed;
		gvm_peer_observe(rig.peer, &watchers[i].observer);
	}
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	gvm_peer_disconnect(rig.peer, -ECANCELED);
	UNTIL(&rig, rig.client.ended);
	for (i = 0; i < 4; i++) {
		assert_int_equal(watchers[i].ready, 1);
		assert_int_equal(watchers[i].ended, !watchers[i].leave);
		if (i < 2)
			gvm_peer_unobserve(&watchers[i].observer);
	}
	close_rig(&rig);
	gvm_peer_unobserve(&watchers[3].observer);
}

/* ---- exactly one completion ---------------------------------------------------------------- */

#define JOBS 64

struct storm {
	struct rig rig;
	struct job jobs[JOBS];
	uint8_t buf[JOBS][4096];
	uint8_t memory[JOBS][4096];
	struct gvm_mem *mem;
	unsigned posted[JOBS];
	unsigned seed;
};

static int post_random(struct storm *storm, unsigned i)
{
	struct job *job = &storm->jobs[i];
	struct gvm_msg msg = { .type = 64,
			       .body = storm->buf[i],
			       .length = (unsigned)rand_r(&storm->seed) % 5000 % 4096 };
	uint64_t key = gvm_mem_key(storm->mem);

	job->op.deadline_ns = gvm_now() + (uint64_t)rand_r(&storm->seed) % (SECOND / 50);
	switch (rand_r(&storm->seed) % 4) {
	case 0:
		return gvm_call(storm->rig.peer, &msg, &job->op);
	case 1:
		return gvm_put(storm->rig.peer, key, i * 4096, storm->buf[i], 4096, NULL, &job->op);
	case 2:
		return gvm_fetch(storm->rig.peer, key, i * 4096, storm->buf[i], 4096, NULL,
				 &job->op);
	default:
		return gvm_fetch(storm->rig.peer, key + 1, 0, storm->buf[i], 1, NULL, &job->op);
	}
}

static void one_completion_each(void **state)
{
	static struct storm storm;
	struct gvm_loop_faults faults = { .seed = 42,
					  .drop_conn = 100,
					  .delay = 300,
					  .delay_ns = SECOND / 1000,
					  .refuse = 10000 };
	static const struct gvm_loop_faults none;
	uint64_t until = gvm_now() + PATIENCE;
	unsigned i, total = 0;

	memset(&storm, 0, sizeof(storm));
	storm.seed = 1;
	assert_int_equal(gvm_option_set("GVM_BACKOFF_MAX_MS", "1"), 0);
	open_rig(&storm.rig);
	assert_int_equal(gvm_mem_register(storm.rig.server.net, storm.memory, sizeof(storm.memory),
					  GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0, &storm.mem),
			 0);
	for (i = 0; i < JOBS; i++)
		storm.jobs[i] = new_job();
	gvm_loop_set_faults(&faults);
	while (total < 20000) {
		assert_true(gvm_now() < until);
		for (i = 0; i < JOBS; i++) {
			struct job *job = &storm.jobs[i];

			assert_true(job->done <= storm.posted[i]);
			if (job->done == storm.posted[i] && post_random(&storm, i) == 0) {
				storm.posted[i]++;
				total++;
			}
		}
		if (rand_r(&storm.seed) % 16 == 0)
			gvm_peer_disconnect(storm.rig.peer, -ECANCELED);
		if (rand_r(&storm.seed) % 16 == 0 && storm.rig.server.session)
			gvm_peer_disconnect(storm.rig.server.session, -ECANCELED);
		if (rand_r(&storm.seed) % 32 == 0) {
			/* as if the process had died and come back */
			gvm_worker_unlisten(storm.rig.server.worker);
			if (storm.rig.server.session)
				gvm_peer_disconnect(storm.rig.server.session, -ECANCELED);
			turn(&storm.rig);
			assert_int_equal(gvm_worker_listen(storm.rig.server.worker, "127.0.0.1",
							   storm.rig.port, NULL),
					 0);
		}
		turn(&storm.rig);
	}
	gvm_loop_set_faults(&none);
	for (i = 0; i < JOBS; i++)
		UNTIL(&storm.rig, storm.jobs[i].done == storm.posted[i]);
	assert_true(storm.rig.client.ended >= 20);
	gvm_mem_unregister(storm.mem, NULL, NULL);
	close_rig(&storm.rig);
	for (i = 0; i < JOBS; i++)
		assert_int_equal(storm.jobs[i].done, storm.posted[i]);
	assert_int_equal(gvm_option_set("GVM_BACKOFF_MAX_MS", "2000"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(death_while_connecting),
		BOTH(death_while_proving),
		BOTH(death_while_ready),
		BOTH(silence_is_noticed),
		TEST(giving_up_on_silence_is_not_told, tcp),
		BOTH(disconnect_in_done),
		BOTH(disconnect_in_message),
		BOTH(disconnect_when_ready),
		BOTH(close_under_way),
		BOTH(observers),
		BOTH(one_completion_each),
	};

	return RUN(tests);
}
