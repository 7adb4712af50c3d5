/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that this side makes no more connections at a time than it may: the one that was used least
 * recently and has nothing to do gives way, in order, and comes back when it is used again; who is
 * busy is waited for, and lets others have their turn; and no end in the middle of it loses
 * anything.
 */
#include "tests/peer_rig.h"

#define PEERS 8

static struct gvm_peer *peers[PEERS];

static void open_many(struct rig *rig, unsigned limit)
{
	char host[32];

	open_rig(rig);
	rig->client.worker->opt.connections = limit;
	for (unsigned i = 0; i < PEERS; i++) {
		snprintf(host, sizeof(host), "127.0.0.%u", i + 1);
		assert_int_equal(gvm_peer_at(rig->client.worker, host, rig->port, &peers[i]), 0);
		if (i && strcmp(transport, "tcp") == 0)
			assert_int_equal(
			    gvm_worker_listen(rig->server.worker, host, rig->port, NULL), 0);
	}
}

static void bounded(struct rig *rig)
{
	struct gvm_net_stats stats;
	const struct gvm_worker *worker = rig->client.worker;
	unsigned has = 0;

	gvm_worker_stats(rig->client.worker, &stats);
	assert_true(stats.peers_open <= worker->opt.connections);
	assert_true(worker->placed.count <= worker->opt.connections);
	for (unsigned i = 0; i < PEERS; i++)
		has += peers[i]->ep != NULL;
	assert_true(has <= worker->opt.connections);
	assert_int_equal(stats.peers_waiting, worker->seeking.count);
}

#define BOUNDED(rig, cond) UNTIL(rig, (bounded(rig), cond))

static void ask(struct rig *rig, unsigned i)
{
	struct gvm_msg msg = { .type = 64, .arg = i };
	struct job job = new_job();
	int err;

	BOUNDED(rig, (err = gvm_call(peers[i], &msg, &job.op)) != -EAGAIN);
	assert_int_equal(err, 0);
	BOUNDED(rig, job.done);
	assert_int_equal(job.done, 1);
	assert_int_equal(job.status, 0);
	assert_int_equal(job.arg, i + 1);
}

static int is_ready(unsigned i)
{
	return gvm_peer_state(peers[i]) == GVM_PEER_READY;
}

static void the_least_recently_used_gives_way(void **state)
{
	struct gvm_net_stats stats;
	struct rig rig;

	open_many(&rig, 3);
	ask(&rig, 0);
	ask(&rig, 1);
	ask(&rig, 2);
	assert_int_equal(rig.client.rested, 0);
	ask(&rig, 0);
	ask(&rig, 3);
	assert_true(is_ready(0) && !is_ready(1) && is_ready(2) && is_ready(3));
	assert_int_equal(gvm_peer_state(peers[1]), GVM_PEER_IDLE);
	ask(&rig, 1);
	assert_true(is_ready(0) && is_ready(1) && !is_ready(2) && is_ready(3));
	UNTIL(&rig, rig.server.rested == 2);
	assert_int_equal(rig.client.rested, 2);
	/* neither side takes it for an end */
	assert_int_equal(rig.client.ended + rig.server.ended, 0);
	gvm_worker_stats(rig.client.worker, &stats);
	assert_int_equal(stats.connects, 5);
	assert_int_equal(stats.rests, 2);
	assert_int_equal(stats.disconnects, 0);
	gvm_worker_stats(rig.server.worker, &stats);
	assert_int_equal(stats.rests, 2);
	assert_int_equal(stats.disconnects, 0);
	close_rig(&rig);
}

static void no_limit_is_none(void **state)
{
	struct rig rig;

	open_many(&rig, 0);
	for (unsigned i = 0; i < PEERS; i++) {
		struct gvm_msg msg = { .type = 64 };
		struct job job = new_job();

		assert_int_equal(gvm_call(peers[i], &msg, &job.op), 0);
		UNTIL(&rig, job.done);
	}
	for (unsigned i = 0; i < PEERS; i++)
		assert_true(is_ready(i));
	close_rig(&rig);
}

/* As long as it has something under way it stays; who waits does so until its deadline. */
static void who_is_busy_stays(void **state)
{
	struct gvm_msg msg = { .type = 64 };
	struct job busy = new_job(), late = new_job(), patient = new_job();
	struct rig rig;

	open_many(&rig, 1);
	rig.server.hold = 1;
	assert_int_equal(gvm_call(peers[0], &msg, &busy.op), 0);
	BOUNDED(&rig, rig.server.held_count);
	late.op.deadline_ns = gvm_now() + SECOND / 10;
	assert_int_equal(gvm_call(peers[1], &msg, &late.op), 0);
	assert_int_equal(gvm_peer_state(peers[1]), GVM_PEER_CONNECTING);
	BOUNDED(&rig, late.done);
	assert_int_equal(late.status, -ETIMEDOUT);
	assert_true(gvm_now() >= late.op.deadline_ns);
	assert_int_equal(busy.done, 0);
	assert_int_equal(gvm_call(peers[2], &msg, &patient.op), 0);
	rig.server.hold = 0;
	assert_int_equal(gvm_reply(rig.server.last, rig.server.held[0], 0, NULL), 0);
	BOUNDED(&rig, patient.done);
	assert_int_equal(busy.done, 1);
	assert_int_equal(busy.status, 0);
	assert_int_equal(patient.status, 0);
	assert_int_equal(rig.client.ended, 0);
	close_rig(&rig);
}

/* ---- turns --------------------------------------------------------------------------------- */

static unsigned calls_of[PEERS];

/* Always two calls under way: never idle by itself. */
static void post_again(struct job *jobs, unsigned i)
{
	struct gvm_msg msg = { .type = 64 };

	for (unsigned k = 0; k < 2; k++) {
		struct job *job = &jobs[2 * i + k];

		if (job->done) {
			assert_int_equal(job->done, 1);
			assert_int_equal(job->status, 0);
			calls_of[i]++;
			*job = new_job();
		}
		if (!job->op.peer) {
			int err = gvm_call(peers[i], &msg, &job->op);

			assert_true(err == 0 || err == -EAGAIN);
		}
	}
}

static void all_have_their_turn(void **state)
{
	struct job jobs[2 * PEERS];
	uint64_t end = gvm_now() + PATIENCE;
	unsigned least = 0;
	struct rig rig;

	open_many(&rig, 2);
	memset(calls_of, 0, sizeof(calls_of));
	for (unsigned i = 0; i < 2 * PEERS; i++)
		jobs[i] = new_job();
	while (least < 30) {
		for (unsigned i = 0; i < PEERS; i++)
			post_again(jobs, i);
		turn(&rig);
		bounded(&rig);
		assert_true(gvm_now() < end);
		least = calls_of[0];
		for (unsigned i = 1; i < PEERS; i++)
			least = calls_of[i] < least ? calls_of[i] : least;
	}
	assert_int_equal(rig.client.ended, 0);
	close_rig(&rig);
}

/* A call that nobody answers keeps its peer busy; it does not keep it from working for ever. */
static void who_cannot_end_goes_on(void **state)
{
	struct gvm_msg msg = { .type = 64 };
	struct job forever = new_job(), waits = new_job(), more = new_job();
	struct rig rig;
	int err;

	open_many(&rig, 1);
	rig.server.hold = 1;
	forever.op.deadline_ns = GVM_NEVER;
	assert_int_equal(gvm_call(peers[0], &msg, &forever.op), 0);
	BOUNDED(&rig, rig.server.held_count);
	rig.server.hold = 0;
	waits.op.deadline_ns = GVM_NEVER;
	assert_int_equal(gvm_call(peers[1], &msg, &waits.op), 0);
	BOUNDED(&rig, peers[0]->rest);
	assert_int_equal(gvm_call(peers[0], &msg, &more.op), -EAGAIN);
	BOUNDED(&rig, rig.client.writable);
	BOUNDED(&rig, (err = gvm_call(peers[0], &msg, &more.op)) != -EAGAIN);
	BOUNDED(&rig, more.done);
	assert_int_equal(more.status, 0);
	close_rig(&rig);
	assert_int_equal(forever.status, -ECANCELED);
	assert_int_equal(waits.status, -ECANCELED);
}

/* ---- ends in the middle of it -------------------------------------------------------------- */

/* Peer 0 has been asked to rest, and the other side has not heard of it. */
static void ask_to_rest(struct rig *rig, struct job *job)
{
	struct gvm_msg msg = { .type = 64 };

	open_many(rig, 1);
	ask(rig, 0);
	UNTIL(rig, rig->server.ready);
	assert_int_equal(gvm_call(peers[1], &msg, &job->op), 0);
	while (peers[0]->rest != REST_ASKED)
		gvm_worker_progress(rig->client.worker);
}

/* What is posted meanwhile is not taken, and can be tried again when it is told. */
static void a_post_meanwhile_comes_later(void **state)
{
	struct job other = new_job(), job = new_job();
	struct gvm_msg msg = { .type = 64 };
	struct rig rig;

	ask_to_rest(&rig, &other);
	assert_int_equal(gvm_call(peers[0], &msg, &job.op), -EAGAIN);
	assert_int_equal(gvm_send(peers[0], &msg), -EAGAIN);
	BOUNDED(&rig, other.done);
	assert_int_equal(other.status, 0);
	BOUNDED(&rig, rig.client.writable);
	assert_int_equal(gvm_call(peers[0], &msg, &job.op), 0);
	BOUNDED(&rig, job.done);
	assert_int_equal(job.status, 0);
	assert_int_equal(rig.client.ended + rig.server.ended, 0);
	close_rig(&rig);
}

static void count_gone(void *arg)
{
	++*(int *)arg;
}

/* It has ended and nobody has been told: a key that is posted now would reach the next connection.
 * What is refused holds no memory. */
static void a_post_before_the_end_is_told_comes_later(void **state)
{
	struct job other = new_job(), job = new_job();
	struct gvm_msg msg = { .type = 64 };
	struct gvm_mem *mem;
	struct rig rig;
	char buf[64];
	int gone = 0;

	ask_to_rest(&rig, &other);
	assert_int_equal(gvm_mem_register(rig.client.net, buf, sizeof(buf), 0, 0, &mem), 0);
	assert_int_equal(gvm_fetch(peers[0], 1, 0, buf, 64, mem, &job.op), -EAGAIN);
	peer_rested(peers[0]);
	assert_int_equal(rig.client.rested, 0);
	assert_int_equal(gvm_fetch(peers[0], 1, 0, buf, 64, mem, &job.op), -EAGAIN);
	assert_int_equal(gvm_put(peers[0], 1, 0, buf, 64, NULL, &job.op), -EAGAIN);
	assert_int_equal(gvm_call(peers[0], &msg, &job.op), -EAGAIN);
	assert_null(peers[0]->waiting.first);
	gvm_mem_unregister(mem, count_gone, &gone);
	assert_int_equal(gone, 1);
	BOUNDED(&rig, rig.client.rested && rig.client.writable);
	BOUNDED(&rig, other.done);
	ask(&rig, 0);
	close_rig(&rig);
}

static void an_end_before_the_answer_is_a_loss(void **state)
{
	struct job job = new_job();
	struct rig rig;

	ask_to_rest(&rig, &job);
	close_node(&rig.server);
	while (!rig.client.ended)
		gvm_worker_wait(rig.client.worker, SECOND);
	assert_int_equal(rig.client.rested, 0);
	open_node(&rig.server);
	assert_int_equal(gvm_worker_listen(rig.server.worker, "127.0.0.1", rig.port, NULL), 0);
	if (strcmp(transport, "tcp") == 0)
		assert_int_equal(gvm_worker_listen(rig.server.worker, "127.0.0.2", rig.port, NULL),
				 0);
	BOUNDED(&rig, job.done);
	assert_int_equal(job.status, 0);
	close_rig(&rig);
}

/* Nobody answers: it is given up, and whoever waits goes on. */
static void no_answer_is_not_waited_for(void **state)
{
	struct job job = new_job();
	struct rig rig;

	ask_to_rest(&rig, &job);
	rig.client.worker->opt.handshake_ns = SECOND / 20;
	peers[0]->state_timer.when = 0;
	gvm_timer_set(rig.client.worker, &peers[0]->state_timer, 1);
	gvm_worker_progress(rig.client.worker);
	assert_int_equal(rig.client.why, -ETIMEDOUT);
	rig.client.worker->opt.handshake_ns = 5 * SECOND;
	BOUNDED(&rig, job.done);
	assert_int_equal(job.status, 0);
	close_rig(&rig);
}

/* An end for good that follows the question is one for the other side too. */
static void a_disconnect_is_no_rest(void **state)
{
	struct job job = new_job();
	struct rig rig;

	ask_to_rest(&rig, &job);
	gvm_peer_disconnect(peers[0], -ESHUTDOWN);
	UNTIL(&rig, rig.server.ended);
	assert_int_equal(rig.server.rested, 0);
	BOUNDED(&rig, job.done);
	close_rig(&rig);
}

/* The listening side answers when its own call has ended, and posts no further one. */
static void the_other_side_ends_its_calls_first(void **state)
{
	struct job theirs = new_job(), more = new_job(), job = new_job();
	struct gvm_msg msg = { .type = 64 };
	struct rig rig;

	open_many(&rig, 1);
	ask(&rig, 0);
	UNTIL(&rig, rig.server.ready);
	assert_int_equal(gvm_call(rig.server.session, &msg, &theirs.op), 0);
	assert_int_equal(gvm_call(peers[1], &msg, &job.op), 0);
	while (peers[0]->rest != REST_ASKED)
		gvm_worker_progress(rig.client.worker);
	for (unsigned i = 0; i < 3; i++)
		gvm_worker_progress(rig.server.worker);
	if (rig.server.session && rig.server.session->rest)
		assert_int_equal(gvm_call(rig.server.session, &msg, &more.op), -EAGAIN);
	BOUNDED(&rig, job.done);
	assert_int_equal(theirs.done, 1);
	assert_int_equal(theirs.status, 0);
	close_rig(&rig);
}

static void who_waits_can_be_ended(void **state)
{
	struct job busy = new_job(), job[3] = { new_job(), new_job(), new_job() };
	struct gvm_msg msg = { .type = 64 };
	struct rig rig;

	open_many(&rig, 1);
	rig.server.mute = 1;
	assert_int_equal(gvm_call(peers[0], &msg, &busy.op), 0);
	BOUNDED(&rig, rig.server.messages);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(gvm_call(peers[i + 1], &msg, &job[i].op), 0);
	gvm_peer_disconnect(peers[2], -ESHUTDOWN);
	BOUNDED(&rig, job[1].done);
	assert_int_equal(job[1].status, -ESHUTDOWN);
	assert_int_equal(gvm_peer_state(peers[2]), GVM_PEER_IDLE);
	assert_int_equal(rig.client.worker->seeking.count, 2);
	close_rig(&rig);
	assert_int_equal(busy.status, -ECANCELED);
	assert_int_equal(job[0].status, -ECANCELED);
	assert_int_equal(job[2].status, -ECANCELED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(the_least_recently_used_gives_way),
		BOTH(no_limit_is_none),
		BOTH(who_is_busy_stays),
		BOTH(all_have_their_turn),
		BOTH(who_cannot_end_goes_on),
		BOTH(a_post_meanwhile_comes_later),
		BOTH(a_post_before_the_end_is_told_comes_later),
		BOTH(an_end_before_the_answer_is_a_loss),
		BOTH(no_answer_is_not_waited_for),
		BOTH(a_disconnect_is_no_rest),
		BOTH(the_other_side_ends_its_calls_first),
		BOTH(who_waits_can_be_ended),
	};

	return RUN(tests);
}
