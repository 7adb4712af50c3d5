/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The life of a peer's connection: connecting, liveness, its end, and when to try again. Control
 * plane. All that a peer's state may do is in next_states below.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/peer.h"

#define FALLBACK_NS 1000000000ull  /* to connect with a provider that is not the last one */
#define BETTER_NS   60000000000ull /* then one that has failed is tried first again */
#define SOON_NS     15000000000ull /* a connection that breaks earlier has not lasted */
#define BROKEN_MAX  3u             /* of those in a row, and the next provider is tried */

/* ---- states -------------------------------------------------------------------------------- */

#define BIT(state) (1u << (state))

/* The picture in core/peer.h. Only an accepted peer goes from IDLE to PROVING at once; its end is
 * CLOSED, that of a peer which this side connects BACKOFF. */
static const uint8_t next_states[] = {
	[GVM_PEER_IDLE] = BIT(GVM_PEER_CONNECTING) | BIT(GVM_PEER_PROVING),
	[GVM_PEER_CONNECTING] = BIT(GVM_PEER_PROVING) | BIT(GVM_PEER_BACKOFF),
	[GVM_PEER_PROVING] = BIT(GVM_PEER_READY) | BIT(GVM_PEER_BACKOFF) | BIT(GVM_PEER_CLOSED),
	[GVM_PEER_READY] = BIT(GVM_PEER_IDLE) | BIT(GVM_PEER_BACKOFF) | BIT(GVM_PEER_CLOSED),
	[GVM_PEER_BACKOFF] = BIT(GVM_PEER_IDLE),
	[GVM_PEER_CLOSED] = 0,
};

int peer_may_become(const struct gvm_peer *peer, enum gvm_peer_state next)
{
	unsigned legal = next_states[peer->state];

	if (peer->accepted)
		legal &= BIT(GVM_PEER_PROVING) | BIT(GVM_PEER_READY) | BIT(GVM_PEER_CLOSED);
	else
		legal &= ~BIT(GVM_PEER_CLOSED);
	if (peer->state == GVM_PEER_IDLE && !peer->accepted)
		legal &= ~BIT(GVM_PEER_PROVING);
	return (legal & BIT(next)) != 0;
}

/* Count it in (1) or out (-1) of those that are in this state. */
static void count_in(struct gvm_peer *peer, enum gvm_peer_state state, int by)
{
	struct gvm_worker *worker = peer->worker;

	if (state == GVM_PEER_PROVING || state == GVM_PEER_READY)
		gvm_count(&worker->stats.peers_open, by);
	if (state != GVM_PEER_READY)
		return;
	gvm_count(&worker->stats.peers_ready, by);
	if (peer->accepted)
		worker->accepted_ready += (unsigned)by;
}

void peer_become(struct gvm_peer *peer, enum gvm_peer_state next)
{
	assert(peer_may_become(peer, next));
	count_in(peer, peer->state, -1);
	peer->state = (uint8_t)next;
	count_in(peer, next, 1);
}

/* ---- ends ---------------------------------------------------------------------------------- */

/* Errors that trying again does not mend: somebody must change a key, a program or a file. */
static int is_final(int why)
{
	return why == -EACCES || why == -EPROTONOSUPPORT || why == -EXDEV || why == -EINVAL;
}

static void connect_again_at(struct gvm_peer *peer, uint64_t when)
{
	peer_become(peer, GVM_PEER_BACKOFF);
	gvm_timers_set_reserved(&peer->worker->timers, &peer->state_timer, when);
}

/* Full jitter: anything between nothing and a bound that doubles. */
static void back_off(struct gvm_peer *peer)
{
	const struct gvm_options_read *opt = &peer->worker->opt;
	unsigned doublings = peer->failures < 20 ? peer->failures : 20;
	uint64_t bound = opt->backoff_min_ns << doublings;

	if (bound > opt->backoff_max_ns)
		bound = opt->backoff_max_ns;
	peer->failures++;
	if (peer->tried || gvm_worker_clock(peer->worker) - peer->fell_at >= BETTER_NS)
		peer->provider = 0;
	peer->tried = 0;
	connect_again_at(peer, gvm_worker_clock(peer->worker) +
				   gvm_worker_random(peer->worker, bound + 1));
}

/* Whether a connection that could not be made is tried with the next provider, at once. */
static int has_another(const struct gvm_peer *peer)
{
	return !peer->accepted && peer->tried + 1u < peer->worker->provider_count;
}

static int falls_back(const struct gvm_peer *peer, int why)
{
	return peer->state != GVM_PEER_READY && has_another(peer) && !is_final(why) &&
	       !peer->worker->closing;
}

static const char *provider_name(const struct gvm_peer *peer)
{
	return peer->worker->providers[peer->provider].ops->name;
}

static void fall_back(struct gvm_peer *peer, int why, const char *reason)
{
	struct gvm_worker *worker = peer->worker;
	const char *failed = provider_name(peer);

	peer->tried++;
	peer->provider = (uint8_t)((peer->provider + 1u) % worker->provider_count);
	if (peer->fell_why != why)
		gvm_log_limited(&worker->limit, GVM_LOG_WARN, "%s: not over %s (%s), trying %s",
				peer->name, failed, reason ? reason : strerror(-why),
				provider_name(peer));
	peer->fell_why = why;
	peer->fell_at = gvm_worker_clock(worker);
	peer->wanted = 1;
	connect_again_at(peer, gvm_worker_clock(worker));
}

/*
 * A provider that connects and breaks each time is as bad as one that does not connect: a network
 * may let pass what connecting takes and lose what is longer. An end that somebody wanted (ops_why)
 * or that was announced tells nothing of it.
 */
static void leave_broken(struct gvm_peer *peer, int why, int ops_why)
{
	struct gvm_worker *worker = peer->worker;
	uint64_t now = gvm_worker_clock(worker);
	const char *failed = provider_name(peer);

	if (!why || peer->bye || ops_why != -ECONNRESET || now - peer->ready_since >= SOON_NS) {
		peer->broken = 0;
		return;
	}
	if (peer->provider + 1u >= worker->provider_count || ++peer->broken < BROKEN_MAX)
		return;
	peer->broken = 0;
	peer->provider++;
	peer->fell_why = why;
	peer->fell_at = now;
	gvm_log_limited(&worker->limit, GVM_LOG_WARN,
			"%s: connections over %s do not last (%s), trying %s", peer->name, failed,
			strerror(-why), provider_name(peer));
}

static void reset_connection(struct gvm_peer *peer)
{
	gvm_timers_clear(&peer->worker->timers, &peer->state_timer);
	peer_greeted(peer);
	peer_drop_replies(peer);
	free(peer->hs);
	peer->hs = NULL;
	peer->credits = peer->granted = peer->owed = peer->calls_owed = 0;
	peer->pinged = peer->rest_owed = 0;
	peer->max_one_sided = 0;
	peer_leave_place(peer);
}

/* The endpoint is gone and the provider has forgotten all operations; calls end with ops_why. */
static void connection_ended(struct gvm_peer *peer, int why, int ops_why)
{
	struct gvm_worker *worker = peer->worker;
	int was_ready = peer->state == GVM_PEER_READY;
	const char *reason = peer->reason;

	if (was_ready)
		gvm_count(why ? &worker->stats.disconnects : &worker->stats.rests, 1);
	peer_fail_active(peer, ops_why);
	reset_connection(peer);
	peer->reason = NULL;
	if (falls_back(peer, why)) {
		fall_back(peer, why, reason);
		return;
	}
	peer->why = why;
	if (peer->accepted) {
		peer_become(peer, GVM_PEER_CLOSED);
		peer_disarm(peer);
		peer_fail_waiting(peer, ops_why);
	} else {
		if (was_ready &&
		    gvm_worker_clock(worker) - peer->ready_since >= worker->opt.backoff_max_ns)
			peer->failures = 0;
		if (!was_ready && is_final(why))
			peer_fail_waiting(peer, why);
		if (was_ready)
			leave_broken(peer, why, ops_why);
		back_off(peer);
	}
	peer_defer(peer, GVM_PEND_CLOSED);
}

static void peer_end(struct gvm_peer *peer, int why, int ops_why)
{
	struct gvm_ep *ep = peer->ep;

	if (!ep)
		return;
	peer->ep = NULL;
	ep->ops->shut(ep, ops_why);
	connection_ended(peer, why, ops_why);
}

/* Who waits meanwhile wants another one. */
void peer_rested(struct gvm_peer *peer)
{
	struct gvm_ep *ep = peer->ep;

	peer->ep = NULL;
	ep->ops->shut(ep, -ESHUTDOWN);
	reset_connection(peer);
	gvm_count(&peer->worker->stats.rests, 1);
	peer->why = 0;
	peer->failures = 0;
	peer_become(peer, GVM_PEER_IDLE);
	/* A post is refused until the end is told, and may come after that. */
	peer_defer(peer, GVM_PEND_CLOSED | GVM_PEND_WRITABLE);
	peer->wanted |= peer->starved;
	if (peer->waiting.first || peer->wanted)
		peer_seek_place(peer);
}

void peer_break(struct gvm_peer *peer, int why)
{
	peer_end(peer, why, -ECONNRESET);
}

void peer_unhush(struct gvm_peer *peer)
{
	if (peer->hushed >= 0)
		close(peer->hushed);
	peer->hushed = -1;
}

/*
 * Nothing is heard of the other side, but it may hear this one: a link can be cut in one direction.
 * A memory node that is told of the end takes it for that of a process that was killed, and keeps
 * its memory for seconds; of silence it does for an hour. So the end is told when there is
 * another connection.
 */
static void break_silent(struct gvm_peer *peer)
{
	peer_unhush(peer);
	if (!peer->accepted)
		peer->hushed = peer->ep->ops->hush(peer->ep);
	peer_break(peer, -ETIMEDOUT);
}

/* Only the first of a row of equal failures is news. */
static void log_connect_failure(struct gvm_peer *peer, int why)
{
	if (falls_back(peer, why))
		return;
	if (peer->why != why || peer->failures == 0)
		peer_warn(peer, "cannot connect: ", peer->reason ? peer->reason : strerror(-why));
}

/* A connection that this side makes ends each time as the last one did, before it was of use:
 * somebody else is at the node's address. */
static int ends_again(const struct gvm_peer *peer, int why)
{
	return !peer->accepted && peer->why == why && peer->failures > 0;
}

void peer_closed(struct gvm_ep *ep, int why, const char *reason)
{
	struct gvm_peer *peer = ep->user;
	int news = !ends_again(peer, why);

	if (peer->reason)
		reason = peer->reason;
	peer->ep = NULL;
	if (why == -EPROTO) {
		gvm_count(&peer->worker->stats.malformed, 1);
		if (news)
			peer_warn(peer,
				  "connection ended: ", reason ? reason : "it broke the protocol");
	} else if (!peer->bye && news) {
		gvm_log_limited(&peer->worker->limit, GVM_LOG_INFO, "%s: connection ended: %s",
				peer->name, reason ? reason : strerror(-why));
	}
	/* As was agreed; whether with a reset or not is the network's matter. */
	if (peer->accepted && peer->rest && !peer->rest_owed && why != -EPROTO)
		why = 0;
	connection_ended(peer, why, -ECONNRESET);
}

/* ---- connecting ---------------------------------------------------------------------------- */

/* A provider that there is an alternative to has less time. */
static uint64_t connect_ns(const struct gvm_peer *peer)
{
	uint64_t ns = peer->worker->opt.connect_ns;

	return has_another(peer) && ns > FALLBACK_NS ? FALLBACK_NS : ns;
}

void peer_begin_connect(struct gvm_peer *peer)
{
	if (peer_take_place(peer))
		peer_connect_now(peer);
}

void peer_connect_now(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;
	struct gvm_worker_provider *with = &worker->providers[peer->provider];
	int err;

	peer->wanted = 0;
	peer->bye = 0;
	peer_become(peer, GVM_PEER_CONNECTING);
	peer->hs = malloc(sizeof(*peer->hs));
	if (!peer->hs) {
		connection_ended(peer, -ENOMEM, -ENOMEM);
		return;
	}
	gvm_hs_init(peer->hs, worker->net, 0, peer->node, worker->opt.credits,
		    (uint16_t)worker->opt.window);
	gvm_timers_set_reserved(&worker->timers, &peer->state_timer,
				gvm_worker_clock(worker) + connect_ns(peer));
	gvm_count(&worker->stats.connects, 1);
	err = with->ops->connect(with->prov, peer->host, peer->port, peer, &peer->ep);
	if (err) {
		peer->ep = NULL;
		log_connect_failure(peer, err);
		connection_ended(peer, err, err);
	}
}

void peer_connected(struct gvm_ep *ep, int status)
{
	struct gvm_peer *peer = ep->user;
	struct gvm_worker *worker = peer->worker;
	int err;

	if (status) {
		peer->ep = NULL;
		peer->reason = ep->why;
		log_connect_failure(peer, status);
		connection_ended(peer, status, status);
		return;
	}
	peer->ep = ep;
	peer_become(peer, GVM_PEER_PROVING);
	gvm_timers_set_reserved(&worker->timers, &peer->state_timer,
				gvm_worker_clock(worker) + worker->opt.handshake_ns);
	err = peer_greet(peer);
	if (err)
		peer_break(peer, err);
}

int gvm_peer_connect(struct gvm_peer *peer)
{
	if (peer->worker->closing)
		return -ECANCELED;
	if (peer->state == GVM_PEER_CLOSED)
		return -ENOTCONN;
	if (peer->state == GVM_PEER_IDLE || peer->state == GVM_PEER_BACKOFF || peer->rest)
		peer->wanted = 1;
	if (peer->state == GVM_PEER_IDLE)
		peer_begin_connect(peer);
	return 0;
}

void gvm_peer_disconnect(struct gvm_peer *peer, int why)
{
	if (why >= 0)
		why = -ECANCELED;
	if (peer->state == GVM_PEER_READY)
		peer_send_bare(peer, GVM_T_BYE, 0);
	peer_end(peer, why, why);
	peer_leave_place(peer);
	peer_unhush(peer);
	peer->wanted = 0;
	peer_fail_waiting(peer, why);
	if (peer->state == GVM_PEER_BACKOFF) {
		gvm_timers_clear(&peer->worker->timers, &peer->state_timer);
		peer_become(peer, GVM_PEER_IDLE);
		peer->failures = 0;
	}
}

/* ---- liveness ------------------------------------------------------------------------------ */

/*
 * A timer that fires late tells that this process was held up, not that the other side was: the
 * bytes may be waiting in the socket. Such a look counts for nothing.
 */
static void check_alive(struct gvm_peer *peer, uint64_t planned)
{
	struct gvm_worker *worker = peer->worker;
	uint64_t limit = worker->opt.keepalive_ns, now = gvm_worker_clock(worker);
	uint64_t heard = peer->ep->last_heard;
	uint64_t next;
	int late = now - planned > limit / 4;

	if (heard < peer->ready_since)
		heard = peer->ready_since;
	if (now < heard || now - heard < limit / 2) {
		peer->pinged = 0;
		next = heard + limit / 2;
	} else if (now - heard >= limit && peer->pinged && !late) {
		peer_warn(peer, "",
			  "nothing was heard of it for GVM_KEEPALIVE_MS; connection ended");
		break_silent(peer);
		return;
	} else {
		peer_send_bare(peer, GVM_T_PING, 0);
		peer->pinged = 1;
		next = late || heard + limit <= now ? now + limit / 2 : heard + limit;
	}
	gvm_timers_set_reserved(&worker->timers, &peer->state_timer, next);
}

static void connect_timed_out(struct gvm_peer *peer)
{
	if (peer->accepted)
		peer_warn(peer, "", "did not finish the handshake in time; connection ended");
	else
		log_connect_failure(peer, -ETIMEDOUT);
	peer_break(peer, -ETIMEDOUT);
}

void peer_on_state_timer(struct gvm_timer *timer)
{
	struct gvm_peer *peer = container_of(timer, struct gvm_peer, state_timer);

	switch (peer->state) {
	case GVM_PEER_CONNECTING:
	case GVM_PEER_PROVING:
		connect_timed_out(peer);
		break;
	case GVM_PEER_READY:
		if (peer->rest == REST_ASKED && !peer->accepted)
			peer_break(peer, -ETIMEDOUT);
		else
			check_alive(peer, timer->when);
		break;
	case GVM_PEER_BACKOFF:
		peer_become(peer, GVM_PEER_IDLE);
		if (peer->waiting.first || peer->wanted)
			peer_begin_connect(peer);
		break;
	default:
		break;
	}
}
