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
#include "core/core.h"

#define SECOND	1000000000ULL
#define PATIENCE (20 * SECOND) /* no wait here takes that long unless something is broken */

static const char *transport;

/* ---- two nodes in one thread --------------------------------------------------------------- */

struct node {
	struct gvm_net *net;
	struct gvm_worker *worker;
	struct gvm_peer *last;	/* that a message or an event came from */
	unsigned messages, ready, ended, writable;
	int why;
	int mute;		/* do not answer calls */
	int hold;		/* remember the call, answer later */
	uint64_t held[512];
	unsigned held_count;
	uint64_t sum;		/* of arg */
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
	} else {
		assert_true(why < 0);
		node->ended++;
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
	struct gvm_worker_config worker = { .arg = node, .message = on_message, .peer_state = on_state,
					    .writable = on_writable, .cpu = -1 };

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
		memcpy(job->body, op->reply->body,
		       op->reply->length < 64 ? op->reply->length : 64);
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
					  GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0, &mem), 0);
	assert_int_equal(gvm_put(rig.peer, gvm_mem_key(mem), 0, buf, sizeof(buf), NULL, &job.op), 0);
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
	assert_int_equal(gvm_fetch(rig.peer, gvm_mem_key(mem), sizeof(memory), buf, 1, NULL, &job.op),
			 0);
	UNTIL(&rig, job.done == 4);
	assert_int_equal(job.status, -ERANGE);
	gvm_mem_unregister(mem, NULL, NULL);
	close_rig(&rig);
}

#define TEST(name, how) { #name " over " #how, name, set_##how, NULL, NULL }
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(first_call_connects),
		BOTH(fetch_and_put),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
