/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A process as a node of shared regions: one thread with one worker, which listens at the node's
 * line, for all regions of a net. Here is decided which region and link a frame or an event is
 * for.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include "dsm/internal.h"

/* A page comes from its owner by way of the home: three hops, of which a pager's fault has two. Who
 * sleeps before that is over is woken late. */
#define SPIN_NS 50000ull

static pthread_mutex_t nodes_lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, dsm_node) nodes = LIST_HEAD_INITIALIZER(nodes);
static unsigned forks; /* from the first process that had nodes to this one */

/* ---- fork ---------------------------------------------------------------------------------- */

/* A child has none of its parent's threads, so none of its nodes: what they were is left as it is,
 * for nobody can say what it was in the middle of. */
static void in_child(void)
{
	LIST_INIT(&nodes);
	forks++;
	pthread_mutex_unlock(&nodes_lock);
}

static void before_fork(void)
{
	pthread_mutex_lock(&nodes_lock);
}

static void in_parent(void)
{
	pthread_mutex_unlock(&nodes_lock);
}

static void note_forks(void)
{
	(void)pthread_atfork(before_fork, in_parent, in_child);
}

/* ---- whose it is --------------------------------------------------------------------------- */

struct gvm_dsm *dsm_node_region(struct dsm_node *node, uint64_t id)
{
	struct gvm_dsm *dsm;

	LIST_FOREACH(dsm, &node->regions, in_node)
	if (dsm->id == id)
		return dsm;
	return NULL;
}

void dsm_node_forget(struct dsm_node *node, uint64_t id)
{
	node->closed[node->closed_at++ % DSM_CLOSED] = id;
}

static int was_closed(const struct dsm_node *node, uint64_t id)
{
	for (unsigned i = 0; i < DSM_CLOSED; i++)
		if (node->closed[i] == id)
			return 1;
	return 0;
}

static struct dsm_link *link_to(struct gvm_dsm *dsm, const struct gvm_peer *peer)
{
	unsigned id = gvm_peer_node(peer);

	return id < dsm->node->nodes ? dsm->links[id] : NULL;
}

static int on_coherence(void *arg, struct gvm_peer *peer, const struct gvm_hdr *h,
			const void *payload, const char **reason)
{
	struct dsm_node *node = arg;
	struct gvm_dsm *dsm = dsm_node_region(node, h->region);
	struct dsm_link *link = dsm ? link_to(dsm, peer) : NULL;

	if (!link) {
		if (!dsm && was_closed(node, h->region))
			return 0;
		*reason = "a frame of coherence for a region that it has no session for";
		if (dsm)
			dsm_count(&dsm->stats.refused, 1);
		return -EPROTO;
	}
	if (link->state != LINK_UP || link->peer != peer || !dsm->ivy) {
		dsm_count(&dsm->stats.late, 1); /* of a session that has been given up */
		return 0;
	}
	return dsm_engine_take(dsm, link->node, h, payload, reason);
}

/* A node is asked for sessions, and told of their end; it gives nothing else. */
static void on_message(void *arg, struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct dsm_node *node = arg;
	struct gvm_dsm *dsm = dsm_node_region(node, msg->region);

	if (!msg->xid)
		return;
	if (msg->type != GVM_T_REGION_OPEN && msg->type != GVM_T_REGION_CLOSE)
		gvm_reply(peer, msg->xid, -EOPNOTSUPP, NULL);
	else if (!dsm || gvm_peer_node(peer) >= node->nodes || gvm_peer_node(peer) == node->self)
		gvm_reply(peer, msg->xid, -ENOENT, NULL);
	else if (msg->type == GVM_T_REGION_OPEN)
		dsm_link_asked(dsm, peer, msg);
	else
		dsm_link_left(dsm, peer, msg);
}

static void on_peer_state(void *arg, struct gvm_peer *peer, enum gvm_peer_state state, int why)
{
	struct dsm_node *node = arg;
	struct gvm_dsm *dsm, *next;

	for (dsm = LIST_FIRST(&node->regions); dsm; dsm = next) {
		struct dsm_link *link = link_to(dsm, peer);

		next = LIST_NEXT(dsm, in_node);
		if (link && state == GVM_PEER_READY)
			dsm_link_ready(link, peer);
		else if (link)
			dsm_link_ended(link, peer, why);
	}
}

static void on_writable(void *arg, struct gvm_peer *peer)
{
	struct dsm_node *node = arg;
	struct gvm_dsm *dsm;

	LIST_FOREACH(dsm, &node->regions, in_node)
	{
		struct dsm_link *link = link_to(dsm, peer);

		if (link && link->peer == peer)
			dsm_link_drain(link);
	}
}

/* ---- the thread ---------------------------------------------------------------------------- */

struct call {
	struct gvm_task task;
	void (*fn)(void *arg, struct dsm_wait *wait);
	void *arg;
	struct dsm_wait wait;
};

static void run_call(struct gvm_task *task)
{
	struct call *c = dsm_container(task, struct call, task);

	c->fn(c->arg, &c->wait);
}

void dsm_done(struct dsm_wait *wait, int status)
{
	pthread_mutex_lock(&wait->lock);
	wait->status = status;
	wait->done = 1;
	pthread_cond_signal(&wait->cond);
	pthread_mutex_unlock(&wait->lock);
}

int dsm_node_run(struct dsm_node *node, void (*fn)(void *arg, struct dsm_wait *wait), void *arg)
{
	struct call c = { .task = { .fn = run_call }, .fn = fn, .arg = arg };

	if (node->forks != forks)
		return -ECHILD;
	pthread_mutex_init(&c.wait.lock, NULL);
	pthread_cond_init(&c.wait.cond, NULL);
	gvm_worker_run(node->worker, &c.task);
	pthread_mutex_lock(&c.wait.lock);
	while (!c.wait.done)
		pthread_cond_wait(&c.wait.cond, &c.wait.lock);
	pthread_mutex_unlock(&c.wait.lock);
	pthread_cond_destroy(&c.wait.cond);
	pthread_mutex_destroy(&c.wait.lock);
	return c.wait.status;
}

static void *run(void *arg)
{
	struct dsm_node *node = arg;

	pthread_setname_np(pthread_self(), "gvm-dsm");
	prctl(PR_SET_TIMERSLACK, 1); /* what is kept back for a moment is kept for 10 µs, not 60 */
	while (!atomic_load(&node->stop))
		gvm_worker_wait(node->worker, GVM_NEVER);
	return NULL;
}

/* Signals are the program's. */
static int start_thread(struct dsm_node *node)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = -pthread_create(&node->thread, NULL, run, node);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

/* ---- begin and end ------------------------------------------------------------------------- */

static int open_own_net(struct dsm_node *node)
{
	struct gvm_net_config config = { .node = (unsigned)gvm_option_number("GVM_NODE"),
					 .insecure = (int)gvm_option_number("GVM_INSECURE") };
	const char *path = gvm_option_text("GVM_CLUSTER");
	char *error = NULL;
	int err;

	if (!*path) {
		gvm_log(GVM_LOG_ERROR, "shared regions need a cluster file (GVM_CLUSTER)");
		return -EINVAL;
	}
	err = gvm_cluster_load(path, &node->own_cluster, &error);
	if (err) {
		gvm_log(GVM_LOG_ERROR, "%s", error ? error : "the cluster file cannot be read");
		free(error);
		return err;
	}
	config.cluster = node->own_cluster;
	err = gvm_net_open(&config, &node->net);
	node->own_net = !err;
	return err;
}

/* This process's line. */
static int find_self(struct dsm_node *node, const struct gvm_node **line)
{
	node->cluster = gvm_net_cluster(node->net);
	node->self = gvm_net_node(node->net);
	*line = node->cluster ? gvm_cluster_node(node->cluster, node->self) : NULL;
	if (*line) {
		size_t count = gvm_cluster_size(node->cluster);

		node->nodes = gvm_cluster_at(node->cluster, count - 1)->id + 1;
		return 0;
	}
	gvm_log(GVM_LOG_ERROR,
		"who shares a region needs an id in the cluster file (GVM_NODE, a line with "
		"role=compute)");
	return -EINVAL;
}

static int open_worker(struct dsm_node *node, const struct gvm_node *line)
{
	struct gvm_worker_config config = { .arg = node,
					    .message = on_message,
					    .peer_state = on_peer_state,
					    .writable = on_writable,
					    .cpu = gvm_option_cpu(0) };
	int err = gvm_worker_open(node->net, &config, &node->worker);

	if (err)
		return err;
	gvm_worker_coherence(node->worker, on_coherence);
	gvm_worker_keepalive(node->worker, node->fence_ns / 4);
	gvm_worker_spin(node->worker, SPIN_NS);
	err = gvm_worker_listen(node->worker, line->host, line->port, NULL);
	if (err)
		gvm_log(GVM_LOG_ERROR, "node %u cannot listen at %s:%u, its line: %s", node->self,
			line->host, line->port, strerror(-err));
	return err;
}

static void node_free(struct dsm_node *node)
{
	if (node->worker)
		gvm_worker_close(node->worker);
	if (node->own_net)
		gvm_net_close(node->net);
	gvm_cluster_free(node->own_cluster);
	free(node);
}

static int node_start(struct gvm_net *net, struct dsm_node **out)
{
	struct dsm_node *node = calloc(1, sizeof(*node));
	const struct gvm_node *line;
	int err;

	if (!node)
		return -ENOMEM;
	LIST_INIT(&node->regions);
	node->forks = forks;
	node->net = net;
	node->fence_ns = gvm_option_number("GVM_DSM_FENCE_MS") * DSM_MS;
	node->queue_max = gvm_option_number("GVM_DSM_QUEUE");
	err = net ? 0 : open_own_net(node);
	if (!err)
		err = find_self(node, &line);
	if (!err)
		err = open_worker(node, line);
	if (!err)
		err = start_thread(node);
	if (err)
		node_free(node);
	else
		*out = node;
	return err;
}

int dsm_node_get(struct gvm_net *net, struct dsm_node **out)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct dsm_node *node;
	int err = 0;

	pthread_once(&once, note_forks);
	pthread_mutex_lock(&nodes_lock);
	LIST_FOREACH(node, &nodes, in_process)
	if (net ? node->net == net : node->own_net)
		break;
	if (!node) {
		err = node_start(net, &node);
		if (!err)
			LIST_INSERT_HEAD(&nodes, node, in_process);
	}
	if (!err) {
		node->refs++;
		*out = node;
	}
	pthread_mutex_unlock(&nodes_lock);
	return err;
}

void dsm_node_put(struct dsm_node *node)
{
	pthread_mutex_lock(&nodes_lock);
	if (node->forks == forks && --node->refs == 0) {
		LIST_REMOVE(node, in_process);
		atomic_store(&node->stop, 1);
		gvm_worker_wake(node->worker);
		pthread_join(node->thread, NULL);
		node_free(node);
	}
	pthread_mutex_unlock(&nodes_lock);
}
