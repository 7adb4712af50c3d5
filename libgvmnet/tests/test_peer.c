/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that peers do what gvmnet.h says, over every provider of this build: lazy connection,
 * calls and answers, fetch and put, back-pressure, deadlines, reconnection, and that each operation
 * completes exactly once whatever happens to the connection.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "core/core.h"

#define SECOND   1000000000ULL
#define PATIENCE (20 * SECOND) /* no wait here takes that long unless something is broken */

static const char *transport;

/* ---- two nodes in one thread --------------------------------------------------------------- */

struct node {
	struct gvm_net *net;
	struct gvm_worker *worker;
	struct gvm_peer *last;    /* that a message or an event came from */
	struct gvm_peer *session; /* that is READY */
	unsigned hang_up;         /* disconnect at this message, from within its handler */
	int hang_up_when_ready;
	unsigned messages, ready, ended, writable;
	int why;
	int mute; /* do not answer calls */
	int hold; /* remember the call, answer later */
	uint64_t held[512];
	unsigned held_count;
	uint64_t sum; /* of arg */
};

struct rig {
	struct node server, client;
	unsigned port;
	struct gvm_peer *peer;
};

static void on_message(void *arg, struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct node *node = arg;

	node->last = peer;
	node->messages++;
	node->sum += msg->arg;
	if (node->messages == node->hang_up) {
		gvm_peer_disconnect(peer, -ESHUTDOWN);
		assert_int_equal(gvm_reply(peer, 1, 0, NULL), -ENOTCONN);
		assert_int_equal(gvm_send(peer, &(struct gvm_msg){ .type = 64 }), -ENOTCONN);
		return;
	}
	if (msg->xid == 0 || node->mute)
		return;
	if (node->hold) {
		node->held[node->held_count++] = msg->xid;
		return;
	}
	struct gvm_msg answer = { .arg = msg->arg + 1, .body = msg->body, .length = msg->length };
	assert_int_equal(gvm_reply(peer, msg->xid, msg->status, &answer), 0);
}

static void on_state(void *arg, struct gvm_peer *peer, enum gvm_peer_state state, int why)
{
	struct node *node = arg;

	node->last = peer;
	if (state == GVM_PEER_READY) {
		assert_int_equal(why, 0);
		node->ready++;
		node->session = peer;
		if (node->hang_up_when_ready)
			gvm_peer_disconnect(peer, -ESHUTDOWN);
	} else {
		assert_true(why < 0);
		node->ended++;
		node->session = NULL;
		node->why = why;
	}
}

static void on_writable(void *arg, struct gvm_peer *peer)
{
	((struct node *)arg)->writable++;
}

static void open_node(struct node *node)
{
	struct gvm_net_config net = { .transport = transport, .node = GVM_NODE_NONE };
	struct gvm_worker_config worker = { .arg = node,
					    .message = on_message,
					    .peer_state = on_state,
					    .writable = on_writable,
					    .cpu = -1 };

	memset(node, 0, sizeof(*node));
	assert_int_equal(gvm_net_open(&net, &node->net), 0);
	assert_int_equal(gvm_worker_open(node->net, &worker, &node->worker), 0);
}

static void close_node(struct node *node)
{
	gvm_worker_close(node->worker);
	gvm_net_close(node->net);
}

static void open_rig(struct rig *rig)
{
	memset(rig, 0, sizeof(*rig));
	open_node(&rig->server);
	open_node(&rig->client);
	assert_int_equal(gvm_worker_listen(rig->server.worker, "127.0.0.1", 0, &rig->port), 0);
	assert_int_equal(gvm_peer_at(rig->client.worker, "127.0.0.1", rig->port, &rig->peer), 0);
}

static void close_rig(struct rig *rig)
{
	close_node(&rig->client);
	close_node(&rig->server);
}

static void turn(struct rig *rig)
{
	gvm_worker_progress(rig->client.worker);
	gvm_worker_progress(rig->server.worker);
}

/* Serve both until cond holds. */
#define UNTIL(rig, cond)                                                                           \
	do {                                                                                       \
		uint64_t until_ = gvm_now() + PATIENCE;                                            \
		while (!(cond)) {                                                                  \
			assert_true(gvm_now() < until_);                                           \
			turn(rig);                                                                 \
		}                                                                                  \
	} while (0)

struct job {
	struct gvm_op op; /* first */
	unsigned done;
	int status;
	uint64_t arg;
	char body[64];
};

static void job_done(struct gvm_op *op, int status)
{
	struct job *job = (struct job *)op;

	job->done++;
	job->status = status;
	if (op->reply) {
		job->arg = op->reply->arg;
		memcpy(job->body, op->reply->body, op->reply->length < 64 ? op->reply->length : 64);
	}
}

static struct job new_job(void)
{
	return (struct job){ .op.done = job_done, .status = 1 };
}

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

#define MANY 300

static unsigned done_of(const struct job *jobs, unsigned count, int status)
{
	unsigned i, done = 0;

	for (i = 0; i < count; i++) {
		assert_true(jobs[i].done <= 1);
		done += jobs[i].done == 1 && jobs[i].status == status;
	}
	return done;
}

static unsigned call_until_refused(struct rig *rig, struct job *jobs, const struct gvm_msg *msg)
{
	unsigned i;
	int err = 0;

	for (i = 0; i < MANY; i++) {
		jobs[i] = new_job();
		err = gvm_call(rig->peer, msg, &jobs[i].op);
		if (err)
			break;
	}
	assert_int_equal(err, -EAGAIN);
	return i;
}

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

/* ---- strangers over sockets ---------------------------------------------------------------- */

static int dial(unsigned port)
{
	struct sockaddr_in sin = { .sin_family = AF_INET,
				   .sin_port = htons((uint16_t)port),
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	assert_true(connect(fd, (struct sockaddr *)&sin, sizeof(sin)) == 0 || errno == EINPROGRESS);
	return fd;
}

static int is_closed(int fd)
{
	char byte;
	ssize_t n = recv(fd, &byte, 1, 0);

	return n == 0 || (n < 0 && errno != EAGAIN);
}

static void silent_strangers_go(void **state)
{
	struct gvm_net_stats stats;
	struct rig rig;
	int fds[4], i;

	assert_int_equal(gvm_option_set("GVM_HANDSHAKE_MS", "50"), 0);
	open_rig(&rig);
	rig.server.worker->opt.max_handshakes = 3;
	for (i = 0; i < 4; i++) {
		fds[i] = dial(rig.port);
		UNTIL(&rig, (gvm_worker_stats(rig.server.worker, &stats),
			     stats.accepts == 1u + (unsigned)i));
	}
	/* one too many: the oldest goes at once, the others at their deadline */
	UNTIL(&rig, is_closed(fds[0]));
	for (i = 1; i < 4; i++)
		UNTIL(&rig, is_closed(fds[i]));
	UNTIL(&rig, (gvm_worker_stats(rig.server.worker, &stats), stats.peers_open == 0));
	assert_int_equal(rig.server.ended + rig.server.ready, 0);
	for (i = 0; i < 4; i++)
		close(fds[i]);
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	close_rig(&rig);
	assert_int_equal(gvm_option_set("GVM_HANDSHAKE_MS", "5000"), 0);
}

static void garbage_ends_one_connection(void **state)
{
	struct gvm_net_stats stats;
	unsigned seed = 7, i, n;
	uint8_t junk[600];
	struct rig rig;

	open_rig(&rig);
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	for (i = 0; i < 100; i++) {
		struct gvm_hdr hdr = { .type = (uint8_t)rand_r(&seed),
				       .length = (uint32_t)rand_r(&seed) % 300,
				       .region = (uint64_t)rand_r(&seed),
				       .arg = 100 };
		int fd = dial(rig.port);

		for (n = 0; n < sizeof(junk); n++)
			junk[n] = (uint8_t)rand_r(&seed);
		if (i % 2) /* a well-formed header before the junk */
			gvm_hdr_encode(junk, &hdr);
		UNTIL(&rig, send(fd, junk, sizeof(junk), MSG_NOSIGNAL) == sizeof(junk));
		shutdown(fd, SHUT_WR);
		UNTIL(&rig, is_closed(fd));
		close(fd);
	}
	UNTIL(&rig, (gvm_worker_stats(rig.server.worker, &stats), stats.peers_open == 1));
	assert_true(stats.malformed >= 90);
	assert_int_equal(rig.server.ready, 1);
	assert_int_equal(rig.server.messages, 0);
	assert_int_equal(gvm_peer_state(rig.peer), GVM_PEER_READY);
	close_rig(&rig);
}

/* ---- listeners that are not what they seem ------------------------------------------------- */

static int open_trap(unsigned *port)
{
	struct sockaddr_in sin = { .sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(sin);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
	*port = ntohs(sin.sin_port);
	return fd;
}

static size_t make_frame(uint8_t *buf, uint8_t type, uint16_t status, const void *body,
			 uint32_t len)
{
	struct gvm_hdr hdr = { .type = type, .status = status, .length = len };

	gvm_hdr_encode(buf, &hdr);
	memcpy(buf + GVM_WIRE_HDR_LEN, body, len);
	return GVM_WIRE_HDR_LEN + len;
}

/* Connect to a listener that says these bytes, and nothing else; how does the operation end? */
static int trapped(const void *bytes, size_t len)
{
	struct job job = new_job();
	struct gvm_msg msg = { .type = 64 };
	struct node client;
	struct gvm_peer *peer;
	unsigned port;
	int trap = open_trap(&port), fds[64], count = 0;
	uint64_t until = gvm_now() + PATIENCE;

	open_node(&client);
	assert_int_equal(gvm_peer_at(client.worker, "127.0.0.1", port, &peer), 0);
	job.op.deadline_ns = gvm_now() + SECOND / 5;
	assert_int_equal(gvm_call(peer, &msg, &job.op), 0);
	while (!job.done) {
		assert_true(gvm_now() < until);
		gvm_worker_wait(client.worker, SECOND / 100);
		while (count < 64 && (fds[count] = accept(trap, NULL, NULL)) >= 0)
			assert_int_equal(send(fds[count++], bytes, len, MSG_NOSIGNAL), len);
	}
	assert_true(count > 0);
	assert_int_equal(job.done, 1);
	assert_int_equal(client.ready, 0);
	close_node(&client);
	while (count > 0)
		close(fds[--count]);
	close(trap);
	return job.status;
}

static void hostile_listeners(void **state)
{
	static const char busy[] = "go \033[31maway";
	struct gvm_hello hello = { .magic = GVM_HELLO_MAGIC,
				   .proto_min = 1,
				   .proto_max = 1,
				   .node = GVM_NODE_NONE,
				   .to_node = GVM_NODE_NONE,
				   .incarnation = 1 };
	uint8_t buf[512], body[GVM_HELLO_LEN];
	size_t len;

	assert_int_equal(gvm_option_set("GVM_HANDSHAKE_MS", "50"), 0);
	assert_int_equal(trapped("", 0), -ETIMEDOUT);
	assert_int_equal(
	    trapped("220 mail.example ESMTP\r\n220 and so on, for longer than a header\r\n", 65),
	    -EPROTO);
	len = make_frame(buf, GVM_T_REFUSED, GVM_ST_AUTH, busy, sizeof(busy));
	assert_int_equal(trapped(buf, len), -EACCES);
	len = make_frame(buf, GVM_T_REFUSED, GVM_ST_LIMIT, busy, sizeof(busy));
	assert_int_equal(trapped(buf, len), -EUSERS);
	assert_int_equal(trapped(buf, len - 1), -ETIMEDOUT);
	memset(body, 0, sizeof(body));
	len = make_frame(buf, GVM_T_READY, GVM_ST_OK, body, GVM_WIRE_MAC_LEN);
	assert_int_equal(trapped(buf, len), -EPROTO);
	len = make_frame(buf, GVM_T_PING, GVM_ST_OK, body, 0);
	assert_int_equal(trapped(buf, len), -EPROTO);
	len = make_frame(buf, GVM_T_CHALLENGE, GVM_ST_OK, body, GVM_HELLO_LEN);
	assert_int_equal(trapped(buf, len), -EPROTO);
	hello.features = GVM_FEAT_KEY;
	gvm_hello_encode(body, &hello);
	len = make_frame(buf, GVM_T_CHALLENGE, GVM_ST_OK, body, GVM_HELLO_LEN);
	assert_int_equal(trapped(buf, len), -EACCES);
	hello.features = 0;
	gvm_hello_encode(body, &hello);
	len = make_frame(buf, GVM_T_CHALLENGE, GVM_ST_OK, body, GVM_HELLO_LEN);
	assert_int_equal(trapped(buf, len), -ETIMEDOUT);
	/* a challenge, and at once a proof that proves nothing in a place where none can be */
	memset(body, 1, sizeof(body));
	len += make_frame(buf + len, GVM_T_READY, GVM_ST_OK, body, GVM_WIRE_MAC_LEN);
	assert_int_equal(trapped(buf, len), -EACCES);
	assert_int_equal(gvm_option_set("GVM_HANDSHAKE_MS", "5000"), 0);
}

#define TEST(name, how)                                                                            \
	{                                                                                          \
#name " over " #how, name, set_##how, NULL, NULL                                   \
	}
#define BOTH(name) TEST(name, loop), TEST(name, tcp)

static int set_loop(void **state)
{
	transport = "loop";
	return 0;
}

static int set_tcp(void **state)
{
	transport = "tcp";
	return 0;
}

static void no_line(enum gvm_log_level level, const char *line)
{
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(first_call_connects),
		BOTH(fetch_and_put),
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
		BOTH(death_while_connecting),
		BOTH(death_while_proving),
		BOTH(death_while_ready),
		BOTH(silence_is_noticed),
		BOTH(disconnect_in_done),
		BOTH(disconnect_in_message),
		BOTH(disconnect_when_ready),
		BOTH(close_under_way),
		BOTH(observers),
		BOTH(one_completion_each),
		BOTH(thousand_peers),
		BOTH(two_threads),
		TEST(child_abandons, tcp),
		TEST(silent_strangers_go, tcp),
		TEST(garbage_ends_one_connection, tcp),
		TEST(hostile_listeners, tcp),
	};

	if (!getenv("GVM_LOG"))
		gvm_log_set(no_line);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
