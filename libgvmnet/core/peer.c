/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Peers: connections as the application sees them. A peer that this side connects outlives its
 * connections; one that the other side connected is freed with its own. This file makes, names and
 * frees them and tells the application of them; see core/peer.h for what the other files do.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "core/peer.h"

#define PEER_TIMERS 2u

/* ---- making and freeing peers -------------------------------------------------------------- */

struct gvm_peer *peer_make(struct gvm_worker *worker)
{
	struct gvm_peer *peer = calloc(1, sizeof(*peer));

	if (!peer)
		return NULL;
	if (gvm_timers_reserve(&worker->timers, PEER_TIMERS) != 0) {
		free(peer);
		return NULL;
	}
	peer->worker = worker;
	peer->node = GVM_NODE_NONE;
	peer->hushed = -1;
	peer->state_timer.fn = peer_on_state_timer;
	peer->op_timer.fn = peer_on_deadline;
	peer->soonest = GVM_NEVER;
	peer->active.next = peer->active.prev = &peer->active;
	peer->next = worker->peers;
	if (peer->next)
		peer->next->prev = peer;
	worker->peers = peer;
	return peer;
}

/* It is in no list but the worker's, has no connection and no operations. */
void peer_free(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;

	peer_unhush(peer);
	gvm_timers_clear(&worker->timers, &peer->state_timer);
	peer_disarm(peer);
	gvm_timers_release(&worker->timers, PEER_TIMERS);
	if (peer->prev)
		peer->prev->next = peer->next;
	else
		worker->peers = peer->next;
	if (peer->next)
		peer->next->prev = peer->prev;
	while (peer->observers)
		gvm_peer_unobserve(peer->observers);
	free(peer->hs);
	free(peer->slots);
	free(peer->host);
	free(peer);
}

static int make_client(struct gvm_worker *worker, unsigned node, const char *host, unsigned port,
		       struct gvm_peer **out)
{
	const char *open = strchr(host, ':') ? "[" : "", *close = *open ? "]" : "";
	struct gvm_peer *peer = peer_make(worker);

	if (!peer)
		return -ENOMEM;
	peer->host = strdup(host);
	if (!peer->host) {
		peer_free(peer);
		return -ENOMEM;
	}
	peer->port = (uint16_t)port;
	peer->node = (uint16_t)node;
	if (node == GVM_NODE_NONE)
		snprintf(peer->name, sizeof(peer->name), "%s%s%s:%u", open, host, close, port);
	else
		snprintf(peer->name, sizeof(peer->name), "node %u (%s%s%s:%u)", node, open, host,
			 close, port);
	*out = peer;
	return 0;
}

static int more_nodes(struct gvm_worker *worker, unsigned node)
{
	size_t room = worker->by_node_room ? worker->by_node_room : 16;
	struct gvm_peer **by_node;

	while (room <= node)
		room *= 2;
	if (room == worker->by_node_room)
		return 0;
	by_node = realloc(worker->by_node, room * sizeof(*by_node));
	if (!by_node)
		return -ENOMEM;
	memset(by_node + worker->by_node_room, 0, (room - worker->by_node_room) * sizeof(*by_node));
	worker->by_node = by_node;
	worker->by_node_room = room;
	return 0;
}

int gvm_peer_get(struct gvm_worker *worker, unsigned node, struct gvm_peer **peer)
{
	const struct gvm_cluster *cluster = worker->net->cluster;
	const struct gvm_node *entry = cluster ? gvm_cluster_node(cluster, node) : NULL;
	int err;

	if (!entry || node >= GVM_MAX_NODES)
		return -ENOENT;
	err = more_nodes(worker, node);
	if (err)
		return err;
	if (!worker->by_node[node])
		err = make_client(worker, node, entry->host, entry->port, &worker->by_node[node]);
	if (!err)
		*peer = worker->by_node[node];
	return err;
}

int gvm_peer_at(struct gvm_worker *worker, const char *host, unsigned port, struct gvm_peer **out)
{
	struct gvm_peer *peer;

	if (!host || !*host || port == 0 || port > 65535)
		return -EINVAL;
	for (peer = worker->peers; peer; peer = peer->next)
		if (!peer->accepted && peer->node == GVM_NODE_NONE && peer->port == port &&
		    strcmp(peer->host, host) == 0) {
			*out = peer;
			return 0;
		}
	return make_client(worker, GVM_NODE_NONE, host, port, out);
}

/* ---- what they are ------------------------------------------------------------------------- */

enum gvm_peer_state gvm_peer_state(const struct gvm_peer *peer)
{
	return peer->place == PLACE_SEEKS ? GVM_PEER_CONNECTING : peer->state;
}

const char *gvm_peer_name(const struct gvm_peer *peer)
{
	return peer->name;
}

const char *gvm_peer_transport(const struct gvm_peer *peer)
{
	return peer->ep ? peer->ep->ops->name : "";
}

unsigned gvm_peer_node(const struct gvm_peer *peer)
{
	return peer->node;
}

uint64_t gvm_peer_incarnation(const struct gvm_peer *peer)
{
	return peer->incarnation;
}

struct gvm_worker *gvm_peer_worker(const struct gvm_peer *peer)
{
	return peer->worker;
}

void gvm_peer_set_user(struct gvm_peer *peer, void *user)
{
	peer->user = user;
}

void *gvm_peer_user(const struct gvm_peer *peer)
{
	return peer->user;
}

/* Lines that the other side can cause are limited. */
void peer_warn(struct gvm_peer *peer, const char *what, const char *sentence)
{
	gvm_log_limited(&peer->worker->limit, GVM_LOG_WARN, "%s: %s%s", peer->name, what, sentence);
}

/* ---- telling the application --------------------------------------------------------------- */

void gvm_peer_observe(struct gvm_peer *peer, struct gvm_peer_observer *observer)
{
	observer->peer = peer;
	observer->prev = NULL;
	observer->next = peer->observers;
	if (observer->next)
		observer->next->prev = observer;
	peer->observers = observer;
}

void gvm_peer_unobserve(struct gvm_peer_observer *observer)
{
	struct gvm_peer *peer = observer->peer;

	if (!peer)
		return;
	if (peer->told_next == observer)
		peer->told_next = observer->next;
	if (observer->prev)
		observer->prev->next = observer->next;
	else
		peer->observers = observer->next;
	if (observer->next)
		observer->next->prev = observer->prev;
	observer->peer = NULL;
}

void peer_tell_state(struct gvm_peer *peer, enum gvm_peer_state state, int why)
{
	struct gvm_worker *worker = peer->worker;
	struct gvm_peer_observer *observer;

	for (observer = peer->observers; observer; observer = peer->told_next) {
		peer->told_next = observer->next;
		if (observer->peer_state)
			observer->peer_state(observer, peer, state, why);
	}
	if (worker->config.peer_state)
		worker->config.peer_state(worker->config.arg, peer, state, why);
}

static void tell_writable(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;
	struct gvm_peer_observer *observer;

	if (!peer->starved || peer->rest || peer->waiting.count >= worker->opt.window)
		return;
	peer->starved = 0;
	for (observer = peer->observers; observer; observer = peer->told_next) {
		peer->told_next = observer->next;
		if (observer->writable)
			observer->writable(observer, peer);
	}
	if (worker->config.writable)
		worker->config.writable(worker->config.arg, peer);
}

/* ---- serving what was deferred ------------------------------------------------------------- */

static struct gvm_peer *next_pending(struct gvm_worker *worker)
{
	struct gvm_peer *peer = worker->pending;

	worker->pending = peer->next_pending;
	if (!worker->pending)
		worker->pending_last = NULL;
	peer->in_pending = 0;
	return peer;
}

/* An attempt of this side that failed is told, a stranger that did not get through is not. */
static void serve_closed(struct gvm_peer *peer)
{
	if (peer->told_ready || !peer->accepted)
		peer_tell_state(peer, peer->state, peer->why);
	peer->told_ready = 0;
}

static void serve_pending(struct gvm_peer *peer)
{
	unsigned what = peer->pending;

	peer->pending = 0;
	if (what & GVM_PEND_CLOSED) {
		serve_closed(peer);
		if (peer->accepted) {
			/* A callback may have put it on the list again. */
			if (!peer->in_pending)
				peer_free(peer);
			else
				peer->pending = GVM_PEND_CLOSED;
			return;
		}
	}
	if (what & GVM_PEND_KICK)
		peer_kick(peer);
	if (what & GVM_PEND_WRITABLE)
		tell_writable(peer);
}

static int serve_done(struct gvm_worker *worker)
{
	return worker->done ? gvm_ops_serve_done(worker) : 0;
}

int gvm_peers_serve(struct gvm_worker *worker)
{
	int served = serve_done(worker);

	/* Operations are told before the end of their connection is, so done goes first each time.
	 */
	while (worker->pending && !worker->done) {
		serve_pending(next_pending(worker));
		served += 1 + serve_done(worker);
	}
	if (worker->places_due && !gvm_peers_pending(worker))
		served += gvm_places_serve(worker);
	return served;
}

void gvm_peers_close(struct gvm_worker *worker)
{
	struct gvm_peer *peer;

	for (peer = worker->peers; peer; peer = peer->next)
		gvm_peer_disconnect(peer, -ECANCELED);
	gvm_worker_flush(worker);
	while (gvm_peers_pending(worker))
		gvm_peers_serve(worker);
	while (worker->peers)
		peer_free(worker->peers);
	free(worker->by_node);
	worker->by_node = NULL;
	worker->by_node_room = 0;
}
