/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "tools/gvm_nodes.h"
#include "tools/gvm.h"
#include "wire/wire.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WAKE_NS 100000000ull

/* ---- which nodes --------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static int refuse(const char *command, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "gvm %s: ", command);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	return -1;
}

int nodes_cluster(const char *command, struct gvm_cluster **cluster)
{
	const char *file = gvm_option_text("GVM_CLUSTER"),
		   *connect = gvm_option_text("GVM_CONNECT");
	char *error = NULL;
	int err;

	if (!*file == !*connect)
		return refuse(command, *file ? "--cluster and --connect exclude each other"
					     : "no memory node is named: give --cluster FILE or "
					       "--connect HOST:PORT");
	err = *connect ? gvm_cluster_single(connect, cluster, &error)
		       : gvm_cluster_load(file, cluster, &error);
	if (err && *connect && error)
		refuse(command, "--connect %s", error);
	else if (err && !*connect && access(file, R_OK))
		refuse(command,
		       "%s; --cluster names a file with a line \"ID HOST PORT\" for each "
		       "memory node, see cluster.conf(5)",
		       error ? error : strerror(-err));
	else if (err)
		refuse(command, "%s", error ? error : strerror(-err));
	free(error);
	return err ? -1 : 0;
}

/* ---- asking -------------------------------------------------------------------------------- */

static void answered(struct gvm_op *op, int status)
{
	struct nodes_one *one = (struct nodes_one *)op;

	one->busy = 0;
	if (one->why)
		return;
	/* an answer is an answer, whatever it says */
	if (status && !op->reply)
		one->why = status;
	else
		one->answered(one, status, op->reply);
}

/* The first failed attempt is enough, though the library would try again. */
static void peer_state(void *arg, struct gvm_peer *peer, enum gvm_peer_state state, int why)
{
	struct nodes *nodes = arg;

	for (size_t i = 0; why && i < nodes->count; i++)
		if (nodes->one[i].peer == peer && !nodes->one[i].why)
			nodes->one[i].why = why;
}

void nodes_ask(struct nodes_one *one, const struct gvm_msg *msg, uint64_t timeout_ms,
	       void (*done)(struct nodes_one *one, int status, const struct gvm_msg *reply))
{
	int err;

	if (one->why)
		return;
	one->answered = done;
	one->op.done = answered;
	one->op.deadline_ns = gvm_now() + timeout_ms * 1000000;
	one->busy = 1;
	err = gvm_call(one->peer, msg, &one->op);
	if (!err)
		return;
	one->busy = 0;
	one->why = err;
}

const struct nodes_one *nodes_wait(struct nodes *nodes, int first)
{
	for (;;) {
		const struct nodes_one *bad = NULL;
		int busy = 0;

		for (size_t i = 0; i < nodes->count; i++) {
			busy |= nodes->one[i].busy && !nodes->one[i].why;
			if (!bad && nodes->one[i].why)
				bad = &nodes->one[i];
		}
		if (!busy || (first && bad))
			return bad;
		gvm_worker_wait(nodes->worker, WAKE_NS);
	}
}

static int add_nodes(struct nodes *nodes, unsigned only)
{
	int err = 0;

	nodes->one = calloc(gvm_cluster_size(nodes->cluster) + 1, sizeof *nodes->one);
	if (!nodes->one)
		return -ENOMEM;
	for (size_t i = 0; i < gvm_cluster_size(nodes->cluster) && !err; i++) {
		const struct gvm_node *node = gvm_cluster_at(nodes->cluster, i);
		struct nodes_one *one = &nodes->one[nodes->count];

		if (!(node->roles & GVM_ROLE_MEMORY) || (only != GVM_NODE_NONE && only != node->id))
			continue;
		one->all = nodes;
		one->node = node;
		err = gvm_peer_get(nodes->worker, node->id, &one->peer);
		nodes->count += !err;
	}
	return err;
}

int nodes_open(struct nodes *nodes, const struct gvm_cluster *cluster, unsigned only)
{
	const char *key = gvm_option_text("GVM_KEY_FILE");
	struct gvm_net_config net = { .cluster = cluster,
				      .node = GVM_NODE_NONE,
				      .key_file = *key ? key : NULL };
	struct gvm_worker_config worker = { .arg = nodes, .peer_state = peer_state, .cpu = -1 };
	int err;

	*nodes = (struct nodes){ .cluster = cluster };
	gvm_why_begin();
	err = gvm_net_open(&net, &nodes->net);
	if (!err)
		err = gvm_worker_open(nodes->net, &worker, &nodes->worker);
	return err ? err : add_nodes(nodes, only);
}

void nodes_close(struct nodes *nodes)
{
	size_t count = nodes->count;

	nodes->count = 0; /* that a connection is closed here is no failure of a node's */
	if (nodes->worker) {
		for (size_t i = 0; i < count; i++)
			nodes->one[i].why = -ECANCELED;
		gvm_worker_close(nodes->worker);
	}
	gvm_net_close(nodes->net);
	free(nodes->one);
	gvm_log_set(NULL);
}

const char *nodes_reason(int err)
{
	const char *text = gvm_why(err);

	if (text)
		return text;
	return *gvm_why_line() ? gvm_why_line() : strerror(-err);
}

/* ---- the probe ----------------------------------------------------------------------------- */

static void is_there(struct nodes_one *one, int status, const struct gvm_msg *reply)
{
	if (status)
		one->why = status;
}

static int by_incarnation(const void *a, const void *b)
{
	uint64_t x = gvm_peer_incarnation((*(const struct nodes_one *const *)a)->peer);
	uint64_t y = gvm_peer_incarnation((*(const struct nodes_one *const *)b)->peer);

	return (x > y) - (x < y);
}

/* One process that the map names twice would be taken for two, which end each other's connections.
 */
static int probe_twice(const struct nodes *nodes, char *why, size_t room)
{
	const struct nodes_one **sorted = calloc(nodes->count, sizeof *sorted);
	int twice = 0;

	if (!sorted) {
		snprintf(why, room, "out of memory");
		return -1;
	}
	for (size_t i = 0; i < nodes->count; i++)
		sorted[i] = &nodes->one[i];
	qsort(sorted, nodes->count, sizeof *sorted, by_incarnation);
	for (size_t i = 1; i < nodes->count && !twice; i++) {
		const struct gvm_node *a = sorted[i - 1]->node, *b = sorted[i]->node;

		twice = !by_incarnation(&sorted[i - 1], &sorted[i]);
		if (twice)
			snprintf(why, room,
				 "nodes %u (%s:%u) and %u (%s:%u) are one memory node: the cluster "
				 "file must name it once",
				 a->id, a->host, a->port, b->id, b->host, b->port);
	}
	free(sorted);
	return twice ? -1 : 0;
}

static int probe(struct nodes *nodes, char *why, size_t room)
{
	const struct gvm_msg msg = { .type = GVM_T_NODE_STAT };
	const struct nodes_one *bad;

	if (!nodes->count) {
		snprintf(why, room,
			 "the cluster file has no memory node: give one role=memory or role=both");
		return -1;
	}
	for (size_t i = 0; i < nodes->count; i++)
		nodes_ask(&nodes->one[i], &msg, gvm_option_number("GVM_CONNECT_MS"), is_there);
	bad = nodes_wait(nodes, 1);
	if (!bad)
		return probe_twice(nodes, why, room);
	snprintf(why, room, "memory node %u (%s:%u) cannot be reached: %s", bad->node->id,
		 bad->node->host, bad->node->port, nodes_reason(bad->why));
	return -1;
}

int nodes_probe(const struct gvm_cluster *cluster, unsigned only, char *why, size_t room)
{
	struct nodes nodes;
	int err = nodes_open(&nodes, cluster, only);

	if (err)
		snprintf(why, room, "%s", *gvm_why_line() ? gvm_why_line() : strerror(-err));
	else
		err = probe(&nodes, why, room);
	nodes_close(&nodes);
	return err ? -1 : 0;
}
