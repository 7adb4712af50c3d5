/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A peer's handshake: from a connection that somebody made to one that is READY. Control plane.
 * handshake.c says what the frames hold; who has not proven itself yet costs little and gives way.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "core/list.h"
#include "core/peer.h"

/* ---- who is greeting ----------------------------------------------------------------------- */

static void greeting_add(struct gvm_peer *peer)
{
	peer->greeting = 1;
	GVM_LIST_APPEND(&peer->worker->greeting, peer, next_greeting, prev_greeting);
}

void peer_greeted(struct gvm_peer *peer)
{
	if (!peer->greeting)
		return;
	peer->greeting = 0;
	GVM_LIST_REMOVE(&peer->worker->greeting, peer, next_greeting, prev_greeting);
}

/* ---- the handshake ------------------------------------------------------------------------- */

static int say(struct gvm_peer *peer, const struct gvm_hs_out *out)
{
	struct gvm_hdr hdr = { .type = out->type, .status = out->status, .length = out->length };

	return out->type ? peer_send_frame(peer, &hdr, out->body) : 0;
}

int peer_greet(struct gvm_peer *peer)
{
	struct gvm_hs_out out;

	gvm_hs_begin(peer->hs, &out);
	return say(peer, &out);
}

static void name_accepted(struct gvm_peer *peer)
{
	if (peer->node == GVM_NODE_NONE)
		snprintf(peer->name, sizeof(peer->name), "client %s", peer->ep->name);
	else
		snprintf(peer->name, sizeof(peer->name), "node %u (%s)", peer->node,
			 peer->ep->name);
}

static void adopt(struct gvm_peer *peer, const struct gvm_hello *theirs)
{
	const struct gvm_options_read *opt = &peer->worker->opt;

	peer->incarnation = theirs->incarnation;
	peer->ep->owner = theirs->incarnation;
	peer->credits = theirs->credits;
	peer->granted = opt->credits;
	peer->max_one_sided = theirs->max_fetch < opt->window ? theirs->max_fetch : opt->window;
	if (peer->accepted) {
		peer->node = theirs->node;
		name_accepted(peer);
	}
}

static void become_ready(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;

	peer_greeted(peer);
	free(peer->hs);
	peer->hs = NULL;
	peer_become(peer, GVM_PEER_READY);
	peer->why = 0;
	peer->tried = 0;
	if (!peer->provider)
		peer->fell_why = 0;
	peer->ready_since = peer->rest_at = gvm_worker_clock(worker);
	peer_used(peer);
	gvm_timers_set_reserved(&worker->timers, &peer->state_timer,
				peer->ready_since + worker->opt.keepalive_ns / 2);
	peer->told_ready = 1;
	peer_unhush(peer);
	peer_tell_state(peer, GVM_PEER_READY, 0);
	peer_has_room(peer);
}

static int refuse_full(struct gvm_peer *peer, struct gvm_hs_out *out)
{
	return gvm_hs_refuse(out, GVM_ST_LIMIT,
			     "this node has %u connections already "
			     "(GVM_MAX_CONNS)",
			     peer->worker->accepted_ready);
}

static void handshake_failed(struct gvm_peer *peer, struct gvm_hs_out *out, int why)
{
	if (peer->accepted || peer->why != why || peer->failures == 0)
		peer_warn(peer, out->type ? "refused: " : "handshake: ", out->why);
	if (why == -EPROTO)
		gvm_count(&peer->worker->stats.malformed, 1);
	else
		gvm_count(&peer->worker->stats.handshake_refused, 1);
	say(peer, out);
	peer_break(peer, why);
}

void peer_handshake(struct gvm_peer *peer, const struct gvm_hdr *hdr, const void *payload)
{
	struct gvm_hs_out out = { 0 };
	int err, result;

	if (peer->accepted && hdr->type == GVM_T_HELLO &&
	    peer->worker->accepted_ready >= peer->worker->opt.max_conns)
		result = refuse_full(peer, &out);
	else
		result = gvm_hs_step(peer->hs, hdr, payload, &out);
	if (result < 0) {
		handshake_failed(peer, &out, result);
		return;
	}
	if (result == 1) {
		adopt(peer, &peer->hs->theirs);
		peer->ep->ops->allow(peer->ep);
	}
	err = say(peer, &out);
	if (err)
		peer_break(peer, err);
	else if (result == 1)
		become_ready(peer);
}

/* ---- accepting ----------------------------------------------------------------------------- */

static void drop_oldest_greeting(struct gvm_worker *worker)
{
	struct gvm_peer *oldest = worker->greeting.first;

	peer_warn(oldest, "", "too many connections are in their handshake; the oldest is ended");
	peer_break(oldest, -ETIMEDOUT);
}

void peer_accepted(struct gvm_host *host, struct gvm_listener *listener, struct gvm_ep *ep)
{
	struct gvm_worker *worker = host->worker;
	struct gvm_peer *peer = peer_make(worker);

	if (peer)
		peer->hs = malloc(sizeof(*peer->hs));
	if (!peer || !peer->hs) {
		if (peer)
			peer_free(peer);
		ep->ops->shut(ep, -ENOMEM);
		return;
	}
	peer->ep = ep;
	peer->accepted = 1;
	peer_become(peer, GVM_PEER_PROVING);
	ep->user = peer;
	snprintf(peer->name, sizeof(peer->name), "%s", ep->name);
	gvm_hs_init(peer->hs, worker->net, 1, GVM_NODE_NONE, worker->opt.credits,
		    (uint16_t)worker->opt.window);
	gvm_timers_set_reserved(&worker->timers, &peer->state_timer,
				gvm_worker_clock(worker) + worker->opt.handshake_ns);
	gvm_count(&worker->stats.accepts, 1);
	greeting_add(peer);
	if (worker->greeting.count > worker->opt.max_handshakes)
		drop_oldest_greeting(worker);
}
