/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Two nodes in one thread, over whichever provider it is the turn of, and operations whose end is
 * recorded: what the tests of peers share.
 */
#ifndef GVM_TESTS_PEER_RIG_H
#define GVM_TESTS_PEER_RIG_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "core/peer.h"

#include "core/peer.h"

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
	unsigned messages, ready, ended, rested, writable;
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

static inline void on_message(void *arg, struct gvm_peer *peer, const struct gvm_msg *msg)
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

static inline void on_state(void *arg, struct gvm_peer *peer, enum gvm_peer_state state, int why)
{
	struct node *node = arg;

	node->last = peer;
	if (state == GVM_PEER_READY) {
		assert_int_equal(why, 0);
		node->ready++;
		node->session = peer;
		if (node->hang_up_when_ready)
			gvm_peer_disconnect(peer, -ESHUTDOWN);
	} else if (why == 0) {
		assert_true(state == GVM_PEER_IDLE || state == GVM_PEER_CLOSED);
		node->rested++;
	} else {
		assert_true(why < 0);
		node->ended++;
		node->session = NULL;
		node->why = why;
	}
}

static inline void on_writable(void *arg, struct gvm_peer *peer)
{
	((struct node *)arg)->writable++;
}

static inline void open_node(struct node *node)
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

static inline void close_node(struct node *node)
{
	gvm_worker_close(node->worker);
	gvm_net_close(node->net);
}

static inline void open_rig(struct rig *rig)
{
	memset(rig, 0, sizeof(*rig));
	open_node(&rig->server);
	open_node(&rig->client);
	assert_int_equal(gvm_worker_listen(rig->server.worker, "127.0.0.1", 0, &rig->port), 0);
	assert_int_equal(gvm_peer_at(rig->client.worker, "127.0.0.1", rig->port, &rig->peer), 0);
}

static inline void close_rig(struct rig *rig)
{
	close_node(&rig->client);
	close_node(&rig->server);
}

static inline void turn(struct rig *rig)
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

static inline void job_done(struct gvm_op *op, int status)
{
	struct job *job = (struct job *)op;

	job->done++;
	job->status = status;
	if (op->reply) {
		job->arg = op->reply->arg;
		memcpy(job->body, op->reply->body, op->reply->length < 64 ? op->reply->length : 64);
	}
}

static inline struct job new_job(void)
{
	return (struct job){ .op.done = job_done, .status = 1 };
}

#define MANY 300 /* more than there are credits */

static inline unsigned done_of(const struct job *jobs, unsigned count, int status)
{
	unsigned i, done = 0;

	for (i = 0; i < count; i++) {
		assert_true(jobs[i].done <= 1);
		done += jobs[i].done == 1 && jobs[i].status == status;
	}
	return done;
}

static inline unsigned call_until_refused(struct rig *rig, struct job *jobs,
					  const struct gvm_msg *msg)
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

/* ---- each test over each provider ---------------------------------------------------------- */

#define TEST(name, how)                                                                            \
	{                                                                                          \
#name " over " #how, name, set_##how, NULL, NULL                                   \
	}
#define BOTH(name) TEST(name, loop), TEST(name, tcp)

static inline int set_loop(void **state)
{
	transport = "loop";
	return 0;
}

static inline int set_tcp(void **state)
{
	transport = "tcp";
	return 0;
}

static inline void no_line(enum gvm_log_level level, const char *line)
{
}

static inline int run_group(const struct CMUnitTest *tests, size_t count)
{
	if (!getenv("GVM_LOG"))
		gvm_log_set(no_line);
	return _cmocka_run_group_tests("peers", tests, count, NULL, NULL);
}

#define RUN(tests) run_group(tests, sizeof(tests) / sizeof((tests)[0]))

#endif
