/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Asks each memory node of the map for its statistics, all at once, so that a wrong address or key
 * is known before the program starts. What the library would log on the way is kept, and the last
 * line of it said only if the probe fails. One thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <gvmnet/gvmnet.h>
#include "tools/gvm.h"
#include "tools/gvm_run.h"
#include "wire/wire.h"

struct call {
	struct gvm_op op;
	struct probe *probe;
	const struct gvm_node *node;
};

struct probe {
	struct gvm_worker *worker;
	struct call *calls;
	size_t count, open;
	const struct gvm_node *bad; /* the first that did not answer, and why */
	int why;
};

static void failed(struct probe *probe, const struct gvm_node *node, int why)
{
	if (probe->bad)
		return;
	probe->bad = node;
	probe->why = why;
}

static void answered(struct gvm_op *op, int status)
{
	struct call *call = (struct call *)op;

	call->probe->open--;
	if (status && status != -ECANCELED)
		failed(call->probe, call->node, status);
}

/* The first failed attempt is enough: nobody waits for a node that refuses. */
static void peer_state(void *arg, struct gvm_peer *peer, enum gvm_peer_state state, int why)
{
	const struct gvm_cluster *cluster = gvm_net_cluster(gvm_worker_net(gvm_peer_worker(peer)));

	if (why)
		failed(arg, gvm_cluster_node(cluster, gvm_peer_node(peer)), why);
}

static int post(struct probe *probe, struct call *call, uint64_t deadline)
{
	struct gvm_msg msg = { .type = GVM_T_NODE_STAT };
	struct gvm_peer *peer;
	int err = gvm_peer_get(probe->worker, call->node->id, &peer);

	call->probe = probe;
	call->op.done = answered;
	call->op.deadline_ns = deadline;
	if (!err)
		err = gvm_call(peer, &msg, &call->op);
	if (!err)
		probe->open++;
	return err;
}

static int ask_all(struct probe *probe, const struct gvm_cluster *cluster)
{
	uint64_t deadline = gvm_now() + gvm_option_number("GVM_CONNECT_MS") * 1000000;
	int err = 0;

	for (size_t i = 0; i < gvm_cluster_size(cluster) && !err; i++) {
		const struct gvm_node *node = gvm_cluster_at(cluster, i);
		if (!(node->roles & GVM_ROLE_MEMORY))
			continue;
		probe->calls[probe->count].node = node;
		err = post(probe, &probe->calls[probe->count++], deadline);
	}
	while (!err && probe->open && !probe->bad)
		gvm_worker_wait(probe->worker, 100000000);
	return err;
}

static int report(const struct probe *probe, int err)
{
	if (err)
		return run_refuse("the memory nodes cannot be asked: %s%s%s", strerror(-err),
				  *gvm_why_line() ? "; " : "", gvm_why_line());
	if (!probe->count)
		return run_refuse("the cluster file has no memory node: give one role=memory or "
				  "role=both");
	if (!probe->bad)
		return 0;
	const char *text = gvm_why(probe->why);
	if (!text)
		text = *gvm_why_line() ? gvm_why_line() : strerror(-probe->why);
	return run_refuse("memory node %u (%s:%u) cannot be reached: %s", probe->bad->id,
			  probe->bad->host, probe->bad->port, text);
}

static int with_worker(struct gvm_net *net, const struct gvm_cluster *cluster)
{
	struct probe probe = { 0 };
	struct gvm_worker_config config = { .arg = &probe, .peer_state = peer_state, .cpu = -1 };
	int err = gvm_worker_open(net, &config, &probe.worker);

	if (err)
		return report(&probe, err);
	probe.calls = calloc(gvm_cluster_size(cluster) + 1, sizeof *probe.calls);
	err = probe.calls ? ask_all(&probe, cluster) : -ENOMEM;
	struct probe result = probe; /* closing is no failure of a node's */
	gvm_worker_close(probe.worker);
	err = report(&result, err);
	free(probe.calls);
	return err;
}

int run_probe(const struct gvm_cluster *cluster)
{
	const char *key = gvm_option_text("GVM_KEY_FILE");
	struct gvm_net_config config = { .cluster = cluster,
					 .node = GVM_NODE_NONE,
					 .key_file = *key ? key : NULL };
	struct gvm_net *net;

	gvm_why_begin();
	int err = gvm_net_open(&config, &net);
	if (err) {
		run_refuse("%s", *gvm_why_line() ? gvm_why_line() : strerror(-err));
		return -1;
	}
	err = with_worker(net, cluster);
	gvm_net_close(net);
	gvm_log_set(NULL);
	return err;
}
