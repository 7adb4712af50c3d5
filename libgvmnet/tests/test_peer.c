/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that peers do what gvmnet.h says, over every provider of this build: lazy connection,
 * calls and answers, fetch and put, back-pressure, deadlines, many peers, two threads, fork.
 */
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/peer_rig.h"

/* ---- what works ---------------------------------------------------------------------------- */

static void first_call_connects(void **state)
{
	struct rig rig;
	struct job job = new_job();
	struct gvm_msg msg = { .type = 64, .arg = 41, .body = "hello", .length = 6 };

	open_rig(&rig);
	assert_int_equal(gvm_peer_state(rig.peer), GVM_PEER_IDLE);
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), 0);
	assert_int_equal(job.done, 0);
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), -EBUSY);
	UNTIL(&rig, job.done);
	assert_int_equal(job.status, 0);
	assert_int_equal(job.arg, 42);
	assert_string_equal(job.body, "hello");
	assert_int_equal(gvm_peer_state(rig.peer), GVM_PEER_READY);
	assert_int_equal(rig.client.ready, 1);
	assert_int_equal(rig.server.ready, 1);
	assert_true(gvm_peer_incarnation(rig.peer) == gvm_net_incarnation(rig.server.net));
	assert_true(gvm_peer_incarnation(rig.server.last) == gvm_net_incarnation(rig.client.net));
	close_rig(&rig);
}

static void fetch_and_put(void **state)
{
	static uint8_t memory[1 << 20], buf[1 << 20];
	struct job job = new_job();
	struct gvm_mem *mem;
	struct rig rig;
	size_t i;

	open_rig(&rig);
	for (i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 7 + i / 4096);
	assert_int_equal(gvm_mem_register(rig.server.net, memory, sizeof(memory),
					  GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0, &mem),
			 0);
	assert_int_equal(gvm_put(rig.peer, gvm_mem_key(mem), 0, buf, sizeof(buf), NULL, &job.op),
			 0);
	UNTIL(&rig, job.done);
	assert_int_equal(job.status, 0);
	assert_memory_equal(memory, buf, sizeof(buf));
	memset(buf, 0, sizeof(buf));
	assert_int_equal(gvm_fetch(rig.peer, gvm_mem_key(mem), 4097, buf, 8191, NULL, &job.op), 0);
	UNTIL(&rig, job.done == 2);
	assert_int_equal(job.status, 0);
	assert_memory_equal(memory + 4097, buf, 8191);
	assert_int_equal(gvm_fetch(rig.peer, gvm_mem_key(mem) + 1, 0, buf, 1, NULL, &job.op), 0);
	UNTIL(&rig, job.done == 3);
	assert_int_equal(job.status, -ENOENT);
	assert_int_equal(
	    gvm_fetch(rig.peer, gvm_mem_key(mem), sizeof(memory), buf, 1, NULL, &job.op), 0);
	UNTIL(&rig, job.done == 4);
	assert_int_equal(job.status, -ERANGE);
	gvm_mem_unregister(mem, NULL, NULL);
	close_rig(&rig);
}

/* What was posted with an op before is not taken for what is posted with it now. */
static void an_op_of_a_fetch_serves_a_call(void **state)
{
	static uint8_t buf[4096];
	struct gvm_msg msg = { .type = 64 };
	struct job job = new_job();
	struct gvm_mem *local;
	struct rig rig;

	open_rig(&rig);
	rig.server.mute = 1;
	assert_int_equal(gvm_mem_register(rig.client.net, buf, sizeof(buf), 0, 0, &local), 0);
	assert_int_equal(gvm_fetch(rig.peer, 1, 0, buf, sizeof(buf), local, &job.op), 0);
	assert_int_equal(local->refs, 2);
	UNTIL(&rig, job.done);
	assert_int_equal(job.status, -ENOENT);
	assert_int_equal(local->refs, 1);
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), 0);
	gvm_peer_disconnect(rig.peer, -ECANCELED);
	UNTIL(&rig, job.done == 2);
	assert_int_equal(job.status, -ECANCELED);
	assert_int_equal(local->refs, 1);
	gvm_mem_unregister(local, NULL, NULL);
	close_rig(&rig);
}

/* ---- connecting ---------------------------------------------------------------------------- */

/* Nobody listens, then somebody does: what waits is served; what cannot wait says why. */
static void waits_for_a_listener(void **state)
{
	struct job job = new_job(), hasty = new_job();
	struct gvm_msg msg = { .type = 64 };
	struct rig rig;

	open_rig(&rig);
	gvm_worker_unlisten(rig.server.worker);
	hasty.op.deadline_ns = gvm_now() + SECOND / 20;
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), 0);
	assert_int_equal(gvm_call(rig.peer, &msg, &hasty.op), 0);
	UNTIL(&rig, hasty.done);
	assert_int_equal(hasty.status, -ECONNREFUSED);
	assert_true(gvm_now() >= hasty.op.deadline_ns);
	assert_int_equal(job.done, 0);
	assert_true(rig.client.ended > 0);
	assert_int_equal(rig.client.why, -ECONNREFUSED);
	assert_int_equal(gvm_worker_listen(rig.server.worker, "127.0.0.1", rig.port, NULL), 0);
	UNTIL(&rig, job.done);
	assert_int_equal(job.status, 0);
	close_rig(&rig);
}

/* No amount of patience mends a wrong key. */
static void final_refusal_does_not_wait(void **state)
{
	struct job job = new_job();
	struct gvm_msg msg = { .type = 64 };
	struct rig rig;
	uint8_t key[32] = { 1 };

	open_rig(&rig);
	rig.server.net->key = malloc(sizeof(key));
	memcpy(rig.server.net->key, key, sizeof(key));
	rig.server.net->key_len = sizeof(key);
	job.op.deadline_ns = GVM_NEVER;
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), 0);
	UNTIL(&rig, job.done);
	assert_int_equal(job.status, -EACCES);
	assert_int_equal(rig.server.ready + rig.client.ready, 0);
	assert_int_equal(rig.server.ended, 0);
	struct gvm_net_stats stats;
	UNTIL(&rig, (gvm_worker_stats(rig.server.worker, &stats), stats.peers_open == 0));
	assert_true(stats.handshake_refused > 0);
	close_rig(&rig);
}

static void connect_by_hand(void **state)
{
	struct gvm_msg msg = { .type = 70, .arg = 5 };
	struct rig rig;

	open_rig(&rig);
	assert_int_equal(gvm_send(rig.peer, &msg), -ENOTCONN);
	assert_int_equal(gvm_peer_state(rig.peer), GVM_PEER_CONNECTING);
	assert_int_equal(gvm_peer_connect(rig.peer), 0);
	UNTIL(&rig, rig.client.ready);
	assert_int_equal(gvm_send(rig.peer, &msg), 0);
	UNTIL(&rig, rig.server.messages);
	assert_int_equal(rig.server.sum, 5);
	gvm_peer_disconnect(rig.peer, -ESHUTDOWN);
	assert_int_equal(gvm_peer_state(rig.peer), GVM_PEER_IDLE);
	UNTIL(&rig, rig.server.ended && rig.client.ended);
	assert_int_equal(rig.client.why, -ESHUTDOWN);
	assert_int_equal(gvm_peer_connect(rig.peer), 0);
	UNTIL(&rig, rig.client.ready == 2);
	close_rig(&rig);
}

static void what_cannot_be(void **state)
{
	struct gvm_msg msg = { .type = 64, .length = GVM_MSG_MAX + 1, .body = "" };
	struct gvm_peer *peer;
	struct job job = new_job();
	struct rig rig;

	open_rig(&rig);
	assert_int_equal(gvm_send(rig.peer, &msg), -EINVAL);
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), -EINVAL);
	msg = (struct gvm_msg){ .type = GVM_T_REPLY };
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), -EINVAL);
	msg = (struct gvm_msg){ .type = GVM_T_PING };
	assert_int_equal(gvm_send(rig.peer, &msg), -EINVAL);
	assert_int_equal(gvm_fetch(rig.peer, 1, 0, &msg, 0, NULL, &job.op), -EINVAL);
	assert_int_equal(gvm_fetch(rig.peer, 1, 0, &msg, GVM_XFER_MAX + 1, NULL, &job.op), -EINVAL);
	assert_int_equal(gvm_fetch(rig.peer, 1, 0, NULL, 1, NULL, &job.op), -EINVAL);
	assert_int_equal(gvm_peer_get(rig.client.worker, 1, &peer), -ENOENT);
	assert_int_equal(gvm_peer_at(rig.client.worker, "127.0.0.1", 0, &peer), -EINVAL);
	assert_int_equal(gvm_peer_at(rig.client.worker, "127.0.0.1", 65536, &peer), -EINVAL);
	assert_int_equal(gvm_peer_at(rig.client.worker, "127.0.0.1", rig.port, &peer), 0);
	assert_ptr_equal(peer, rig.peer);
	assert_int_equal(job.done, 0);
	close_rig(&rig);
}

static void too_many_connections(void **state)
{
	struct job job = new_job();
	struct gvm_msg msg = { .type = 64 };
	struct node second;
	struct gvm_peer *peer;
	struct rig rig;

	open_rig(&rig);
	open_node(&second);
	rig.server.worker->opt.max_conns = 1;
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	assert_int_equal(gvm_peer_at(second.worker, "127.0.0.1", rig.port, &peer), 0);
	job.op.deadline_ns = gvm_now() + SECOND / 10;
	assert_int_equal(gvm_call(peer, &msg, &job.op), 0);
	UNTIL(&rig, (gvm_worker_progress(second.worker), job.done));
	assert_int_equal(job.status, -EUSERS);
	/* there is room again when the first has gone */
	gvm_peer_disconnect(rig.peer, -ECANCELED);
	job.op.deadline_ns = 0;
	assert_int_equal(gvm_call(peer, &msg, &job.op), 0);
	UNTIL(&rig, (gvm_worker_progress(second.worker), job.done == 2));
	assert_int_equal(job.status, 0);
	close_node(&second);
	close_rig(&rig);
}

/* ---- back-pressure ------------------------------------------------------------------------- */

static void calls_need_credits(void **state)
{
	static struct job jobs[MANY];
	struct gvm_msg msg = { .type = 64 };
	struct rig rig;
	unsigned sent, more;

	open_rig(&rig);
	rig.server.hold = 1;
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	sent = call_until_refused(&rig, jobs, &msg);
	assert_int_equal(sent, rig.server.worker->opt.credits);
	UNTIL(&rig, rig.server.held_count == sent);
	assert_int_equal(rig.client.writable, 0);
	assert_int_equal(rig.server.messages, sent);
	/* answers give the credits back */
	rig.server.hold = 0;
	for (more = 0; more < sent; more++)
		assert_int_equal(gvm_reply(rig.server.last, rig.server.held[more], 0, NULL), 0);
	assert_int_equal(gvm_reply(rig.server.last, rig.server.held[0], 0, NULL), -EINVAL);
	UNTIL(&rig, rig.client.writable);
	UNTIL(&rig, done_of(jobs, sent, 0) == sent);
	sent = call_until_refused(&rig, jobs, &msg);
	UNTIL(&rig, done_of(jobs, sent, 0) == sent);
	close_rig(&rig);
}

static void messages_need_credits(void **state)
{
	struct gvm_msg msg = { .type = 64, .arg = 1 };
	unsigned sent = 0, rounds = 0;
	struct rig rig;

	open_rig(&rig);
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	while (sent < 1000) {
		unsigned before = rig.client.writable;

		while (sent < 1000 && gvm_send(rig.peer, &msg) == 0)
			sent++;
		if (sent < 1000) {
			assert_int_equal(gvm_send(rig.peer, &msg), -EAGAIN);
			UNTIL(&rig, rig.client.writable > before);
			rounds++;
		}
	}
	UNTIL(&rig, rig.server.messages == 1000);
	assert_int_equal(rig.server.sum, 1000);
	assert_true(rounds >= 1000 / rig.server.worker->opt.credits - 1u);
	close_rig(&rig);
}

/* A sender that does not count its credits is a broken one. */
static void overspending_ends_the_connection(void **state)
{
	static struct job jobs[MANY];
	struct gvm_msg msg = { .type = 64 };
	struct gvm_net_stats stats;
	struct rig rig;

	open_rig(&rig);
	rig.server.hold = 1;
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	rig.peer->credits += 1;
	assert_int_equal(call_until_refused(&rig, jobs, &msg), rig.server.worker->opt.credits + 1u);
	UNTIL(&rig, rig.server.ended && rig.client.ended);
	assert_int_equal(rig.server.why, -EPROTO);
	assert_int_equal(rig.server.messages, rig.server.worker->opt.credits);
	assert_int_equal(done_of(jobs, MANY, -ECONNRESET), rig.server.worker->opt.credits + 1u);
	turn(&rig);
	gvm_worker_stats(rig.server.worker, &stats);
	assert_int_equal(stats.malformed, 1);
	assert_int_equal(stats.peers_open, 0);
	close_rig(&rig);
}

static void window_of_fetches(void **state)
{
	static struct job jobs[MANY];
	static uint8_t memory[4096], buf[4096];
	struct gvm_mem *mem;
	struct rig rig;
	unsigned i;
	int err = 0;

	open_rig(&rig);
	rig.client.worker->opt.window = 16;
	assert_int_equal(gvm_mem_register(rig.server.net, memory, 4096, GVM_ACCESS_FETCH, 0, &mem),
			 0);
	/* before the connection is there, and after */
	for (unsigned turns = 0; turns < 2; turns++) {
		unsigned writable = rig.client.writable;

		for (i = 0; i < MANY; i++) {
			jobs[i] = new_job();
			err =
			    gvm_fetch(rig.peer, gvm_mem_key(mem), 0, buf, 4096, NULL, &jobs[i].op);
			if (err)
				break;
		}
		assert_int_equal(err, -EAGAIN);
		assert_int_equal(i, 16);
		UNTIL(&rig, done_of(jobs, i, 0) == i);
		UNTIL(&rig, rig.client.writable > writable);
	}
	gvm_mem_unregister(mem, NULL, NULL);
	close_rig(&rig);
}

/* Large answers to one that does not read: they wait in a queue that the credits bound. */
static void answers_wait_for_the_reader(void **state)
{
	static struct job jobs[MANY];
	static char body[GVM_MSG_MAX];
	struct gvm_msg msg = { .type = 64 }, answer = { .body = body, .length = sizeof(body) };
	struct rig rig;
	unsigned sent, i, rounds;

	open_rig(&rig);
	rig.server.hold = 1;
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	sent = call_until_refused(&rig, jobs, &msg);
	UNTIL(&rig, rig.server.held_count == sent);
	for (i = 0; i < sent; i++)
		assert_int_equal(gvm_reply(rig.server.last, rig.server.held[i], 0, &answer), 0);
	for (rounds = 0; rounds < 10; rounds++)
		gvm_worker_progress(rig.server.worker);
	UNTIL(&rig, done_of(jobs, sent, 0) == sent);
	close_rig(&rig);
}

/* ---- deadlines ----------------------------------------------------------------------------- */

static void late_answer_is_dropped(void **state)
{
	struct job job = new_job(), next = new_job();
	struct gvm_msg msg = { .type = 64, .arg = 1 };
	struct rig rig;

	open_rig(&rig);
	rig.server.hold = 1;
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	job.op.deadline_ns = gvm_now() + SECOND / 50;
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), 0);
	UNTIL(&rig, job.done);
	assert_int_equal(job.status, -ETIMEDOUT);
	assert_int_equal(gvm_peer_state(rig.peer), GVM_PEER_READY);
	rig.server.hold = 0;
	msg.arg = 10;
	assert_int_equal(gvm_call(rig.peer, &msg, &next.op), 0);
	assert_int_equal(gvm_reply(rig.server.last, rig.server.held[0], 0, NULL), 0);
	UNTIL(&rig, next.done);
	assert_int_equal(next.status, 0);
	assert_int_equal(next.arg, 11);
	assert_int_equal(job.done, 1);
	close_rig(&rig);
}

static void fetch_in_vain(void **state)
{
	static uint8_t memory[4096], buf[4096];
	struct job job = new_job();
	struct gvm_mem *mem;
	struct rig rig;

	open_rig(&rig);
	assert_int_equal(gvm_mem_register(rig.server.net, memory, 4096, GVM_ACCESS_FETCH, 0, &mem),
			 0);
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	memset(memory, 7, sizeof(memory));
	memset(buf, 0, sizeof(buf));
	job.op.deadline_ns = gvm_now() + SECOND / 50;
	assert_int_equal(gvm_fetch(rig.peer, gvm_mem_key(mem), 0, buf, 4096, NULL, &job.op), 0);
	while (!job.done)
		gvm_worker_wait(rig.client.worker, SECOND); /* the server does nothing */
	assert_int_equal(job.status, -ETIMEDOUT);
	assert_true(gvm_now() >= job.op.deadline_ns);
	/* the bytes that come now have no place */
	job.op.deadline_ns = 0;
	UNTIL(&rig, gvm_worker_progress(rig.server.worker) == 0);
	UNTIL(&rig, gvm_worker_progress(rig.client.worker) == 0);
	assert_int_equal(buf[0], 0);
	assert_int_equal(gvm_fetch(rig.peer, gvm_mem_key(mem), 0, buf, 4096, NULL, &job.op), 0);
	UNTIL(&rig, job.done == 2);
	assert_int_equal(job.status, 0);
	assert_int_equal(buf[0], 7);
	gvm_mem_unregister(mem, NULL, NULL);
	close_rig(&rig);
}

/* ---- many ---------------------------------------------------------------------------------- */

#define PEERS 1000

/* Peers are told apart by their addresses: 127.0.x.y, or different listeners of one worker. */
static void thousand_peers(void **state)
{
	static struct job jobs[PEERS];
	static struct gvm_peer *peers[PEERS];
	struct gvm_msg msg = { .type = 64, .arg = 1 };
	struct gvm_net_stats stats;
	struct rig rig;
	unsigned i, port;

	open_rig(&rig);
	for (i = 0; i < PEERS; i++) {
		jobs[i] = new_job();
		port = rig.port;
		if (strcmp(transport, "loop") == 0)
			assert_int_equal(
			    gvm_worker_listen(rig.server.worker, "127.0.0.1", 0, &port), 0);
		assert_int_equal(gvm_peer_at(rig.client.worker, "127.0.0.1", port, &peers[i]), 0);
		if (strcmp(transport, "tcp") == 0) {
			char host[32];

			snprintf(host, sizeof(host), "127.1.%u.%u", i / 200, 1 + i % 200);
			if (i == 0)
				assert_int_equal(
				    gvm_worker_listen(rig.server.worker, "0.0.0.0", port, NULL),
				    -EACCES);
			assert_int_equal(gvm_worker_listen(rig.server.worker, host, port, NULL), 0);
			assert_int_equal(gvm_peer_at(rig.client.worker, host, port, &peers[i]), 0);
		}
		assert_int_equal(gvm_call(peers[i], &msg, &jobs[i].op), 0);
	}
	UNTIL(&rig, done_of(jobs, PEERS, 0) == PEERS);
	turn(&rig);
	gvm_worker_stats(rig.server.worker, &stats);
	assert_int_equal(stats.peers_ready, PEERS);
	assert_int_equal(stats.accepts, PEERS);
	for (i = 0; i < PEERS; i++)
		assert_int_equal(gvm_call(peers[i], &msg, (jobs[i] = new_job(), &jobs[i].op)), 0);
	UNTIL(&rig, done_of(jobs, PEERS, 0) == PEERS);
	close_node(&rig.client);
	while (rig.server.ended < PEERS)
		gvm_worker_wait(rig.server.worker, SECOND);
	gvm_worker_stats(rig.server.worker, &stats);
	assert_int_equal(stats.peers_ready, 0);
	assert_int_equal(stats.peers_open, 0);
	close_node(&rig.server);
	assert_true(sizeof(struct gvm_peer) + 2 * sizeof(void *) < 1024);
}

/* ---- two threads --------------------------------------------------------------------------- */

struct served {
	struct node node;
	atomic_int stop;
};

static void *serve(void *arg)
{
	struct served *served = arg;

	while (!atomic_load(&served->stop))
		gvm_worker_wait(served->node.worker, GVM_NEVER);
	return NULL;
}

/* Each waits for the other without a time-out of its own: a lost event would hang. */
static void two_threads(void **state)
{
	static uint8_t memory[4096], buf[4096];
	struct served served = { .stop = 0 };
	struct job job = new_job();
	struct gvm_msg msg = { .type = 64, .arg = 1 };
	struct node client;
	struct gvm_peer *peer;
	struct gvm_mem *mem;
	pthread_t thread;
	unsigned i, port;

	open_node(&served.node);
	open_node(&client);
	assert_int_equal(gvm_mem_register(served.node.net, memory, 4096, GVM_ACCESS_FETCH, 0, &mem),
			 0);
	assert_int_equal(gvm_worker_listen(served.node.worker, "127.0.0.1", 0, &port), 0);
	pthread_create(&thread, NULL, serve, &served);
	assert_int_equal(gvm_peer_at(client.worker, "127.0.0.1", port, &peer), 0);
	for (i = 0; i < 1000; i++) {
		if (i % 2)
			assert_int_equal(gvm_call(peer, &msg, &job.op), 0);
		else
			assert_int_equal(
			    gvm_fetch(peer, gvm_mem_key(mem), 0, buf, 4096, NULL, &job.op), 0);
		while (job.done == i)
			gvm_worker_wait(client.worker, GVM_NEVER);
		assert_int_equal(job.status, 0);
	}
	close_node(&client);
	atomic_store(&served.stop, 1);
	gvm_worker_wake(served.node.worker);
	pthread_join(thread, NULL);
	gvm_mem_unregister(mem, NULL, NULL);
	close_node(&served.node);
}

/* ---- fork ---------------------------------------------------------------------------------- */

static unsigned open_descriptors(void)
{
	unsigned open = 0;
	int fd;

	for (fd = 3; fd < 1024; fd++)
		open += fcntl(fd, F_GETFD) >= 0;
	return open;
}

/* A child gives up the worker that it has inherited; the parent's goes on as if nothing was. */
static void child_abandons(void **state)
{
	unsigned before = open_descriptors();
	struct job job = new_job();
	struct gvm_msg msg = { .type = 64 };
	struct rig rig;
	int status;
	pid_t pid;

	open_rig(&rig);
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	pid = fork();
	if (pid == 0) {
		gvm_worker_abandon(rig.client.worker);
		gvm_worker_abandon(rig.server.worker);
		/* tcp's spare descriptor of /dev/null may stay: it is nobody's connection */
		_exit(open_descriptors() > before + 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), 0);
	UNTIL(&rig, job.done);
	assert_int_equal(job.status, 0);
	assert_int_equal(rig.client.ended, 0);
	close_rig(&rig);
	assert_int_equal(open_descriptors(), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(first_call_connects),
		BOTH(fetch_and_put),
		BOTH(an_op_of_a_fetch_serves_a_call),
		BOTH(waits_for_a_listener),
		BOTH(final_refusal_does_not_wait),
		BOTH(connect_by_hand),
		BOTH(what_cannot_be),
		BOTH(too_many_connections),
		BOTH(calls_need_credits),
		BOTH(messages_need_credits),
		BOTH(overspending_ends_the_connection),
		BOTH(window_of_fetches),
		BOTH(answers_wait_for_the_reader),
		BOTH(late_answer_is_dropped),
		BOTH(fetch_in_vain),
		BOTH(thousand_peers),
		BOTH(two_threads),
		TEST(child_abandons, tcp),
	};

	return RUN(tests);
}
