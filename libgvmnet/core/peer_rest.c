/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How many connections this side makes at a time (GVM_CONNECTIONS): who has a place, who waits for
 * one, and who gives way. Control plane; docs/design.md, "How many of them", says why it is so.
 *
 * A peer that this side connects takes a place before it connects and has it until its connection
 * has ended. Where there is none it waits, in order of asking. For each that waits one that has a
 * place is asked to rest: the one that was used least recently of those that have nothing to do.
 *
 *     READY --nobody idle, others wait--> YIELDS --idle--> ASKED --answer--> IDLE, told with why 0
 *       |                                   |                ^
 *       +-------idle, others wait-----------|----------------+
 *                                           +--not idle in time--> as before
 *
 * The work is done by gvm_places_serve(), when no upcall is on the stack; whatever may be a reason
 * for it sets places_due.
 */
#include "core/list.h"
#include "core/peer.h"

#define TURN_NS  50000000ull    /* all are busy: how long each of them has, at least */
#define YIELD_NS (4u * TURN_NS) /* to come to an end with what is under way */

/* ---- places -------------------------------------------------------------------------------- */

static void take(struct gvm_peer *peer)
{
	peer->place = PLACE_HAS;
	GVM_LIST_APPEND(&peer->worker->placed, peer, next_place, prev_place);
}

static int is_full(const struct gvm_worker *worker)
{
	return worker->opt.connections && worker->placed.count >= worker->opt.connections;
}

void peer_seek_place(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;

	peer->place = PLACE_SEEKS;
	GVM_LIST_APPEND(&worker->seeking, peer, next_place, prev_place);
	gvm_count(&worker->stats.peers_waiting, 1);
	worker->places_due = 1;
}

int peer_take_place(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;

	if (peer->place == PLACE_SEEKS)
		return 0;
	if (worker->seeking.first || is_full(worker)) {
		peer_seek_place(peer);
		return 0;
	}
	take(peer);
	return 1;
}

static void set_rest(struct gvm_peer *peer, enum gvm_peer_rest rest)
{
	struct gvm_worker *worker = peer->worker;

	if (!peer->accepted) {
		worker->asked += (rest == REST_ASKED) - (peer->rest == REST_ASKED);
		worker->yielding += (rest == REST_YIELDS) - (peer->rest == REST_YIELDS);
	}
	peer->rest = (uint8_t)rest;
	peer->rest_at = gvm_worker_clock(worker);
}

void peer_leave_place(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;

	set_rest(peer, REST_NO);
	if (peer->place == PLACE_SEEKS) {
		GVM_LIST_REMOVE(&worker->seeking, peer, next_place, prev_place);
		gvm_count(&worker->stats.peers_waiting, -1);
	} else if (peer->place == PLACE_HAS) {
		GVM_LIST_REMOVE(&worker->placed, peer, next_place, prev_place);
	}
	peer->place = PLACE_NONE;
	worker->places_due |= worker->seeking.first != NULL;
}

/* ---- who gives way ------------------------------------------------------------------------- */

static int is_idle(const struct gvm_peer *peer)
{
	return peer->state == GVM_PEER_READY && !peer_is_active(peer) && !peer->waiting.first &&
	       !peer->calls_owed && !peer->replies && !peer->pending;
}

/* -EAGAIN: the provider has no room for it. */
static int ask(struct gvm_peer *peer)
{
	struct gvm_worker *worker = peer->worker;
	struct gvm_hdr hdr = { .type = GVM_T_BYE, .arg = GVM_BYE_REST };
	int err = peer_send_frame(peer, &hdr, NULL);

	if (err)
		return err;
	set_rest(peer, REST_ASKED);
	gvm_timers_set_reserved(&worker->timers, &peer->state_timer,
				gvm_worker_clock(worker) + worker->opt.handshake_ns);
	return 0;
}

/* Of those that have nothing to do; who was refused a post is about to try again. */
static struct gvm_peer *least_used(const struct gvm_worker *worker)
{
	struct gvm_peer *peer, *least = NULL;

	for (peer = worker->placed.first; peer; peer = peer->next_place)
		if (!peer->rest && !peer->starved && is_idle(peer) &&
		    (!least || peer->used < least->used))
			least = peer;
	return least;
}

/* The one that has had its place for longest, of those that have had it for a turn. */
static struct gvm_peer *longest_served(const struct gvm_worker *worker, uint64_t now)
{
	struct gvm_peer *peer, *longest = NULL;

	for (peer = worker->placed.first; peer; peer = peer->next_place)
		if (!peer->rest && peer->state == GVM_PEER_READY &&
		    now - peer->rest_at >= TURN_NS &&
		    (!longest || peer->rest_at < longest->rest_at))
			longest = peer;
	return longest;
}

static void take_back(struct gvm_peer *peer)
{
	set_rest(peer, REST_NO);
	peer_has_room(peer);
}

static void end_yields(struct gvm_worker *worker, uint64_t before)
{
	struct gvm_peer *peer;

	for (peer = worker->placed.first; peer && worker->yielding; peer = peer->next_place)
		if (peer->rest == REST_YIELDS && peer->rest_at <= before)
			take_back(peer);
}

void gvm_places_turn(struct gvm_timer *timer)
{
	struct gvm_worker *worker = container_of(timer, struct gvm_worker, turn);
	uint64_t now = gvm_worker_clock(worker);
	struct gvm_peer *peer;

	worker->places_due = 1;
	end_yields(worker, now > YIELD_NS ? now - YIELD_NS : 0);
	while (worker->asked + worker->yielding < worker->seeking.count) {
		peer = longest_served(worker, now);
		if (!peer)
			break;
		set_rest(peer, REST_YIELDS);
	}
}

/* ---- serving ------------------------------------------------------------------------------- */

/* Places that are free, to those who wait; and away with those who do not wait any more. */
static int give_places(struct gvm_worker *worker)
{
	struct gvm_peer *peer;
	int given = 0;

	while ((peer = worker->seeking.first)) {
		int wanted = peer->waiting.first || peer->wanted;

		if (wanted && is_full(worker))
			break;
		peer_leave_place(peer);
		if (!wanted)
			continue;
		take(peer);
		peer_connect_now(peer);
		given++;
	}
	return given;
}

static void ask_some(struct gvm_worker *worker)
{
	struct gvm_peer *peer, *next;

	for (peer = worker->placed.first; peer && worker->yielding; peer = next) {
		next = peer->next_place;
		if (peer->rest == REST_YIELDS && is_idle(peer) && ask(peer))
			break;
	}
	while (worker->asked < worker->seeking.count && (peer = least_used(worker)))
		if (ask(peer))
			break;
}

int gvm_places_serve(struct gvm_worker *worker)
{
	int given = give_places(worker);

	worker->places_due = 0;
	if (!worker->seeking.first) {
		end_yields(worker, GVM_NEVER);
		gvm_timers_clear(&worker->timers, &worker->turn);
		return given;
	}
	ask_some(worker);
	if (!worker->turn.place)
		gvm_timers_set_reserved(&worker->timers, &worker->turn,
					gvm_worker_clock(worker) + TURN_NS);
	return given;
}

/* ---- asked and answered -------------------------------------------------------------------- */

int peer_on_bye(struct gvm_peer *peer, int rest)
{
	peer->bye = 1;
	if (peer->accepted) {
		/* without rest it is the end after all */
		set_rest(peer, rest ? REST_ASKED : REST_NO);
		peer->rest_owed = (uint8_t)rest;
		if (rest)
			peer_defer(peer, GVM_PEND_KICK);
	} else if (rest) {
		if (peer->rest != REST_ASKED)
			return -EPROTO;
		peer_rested(peer);
	}
	return 0;
}

void peer_answer_rest(struct gvm_peer *peer)
{
	struct gvm_hdr hdr = { .type = GVM_T_BYE, .arg = GVM_BYE_REST };

	if (!peer_is_active(peer) && !peer->waiting.first && peer_send_frame(peer, &hdr, NULL) == 0)
		peer->rest_owed = 0;
}

void peer_idle_noted(struct gvm_peer *peer)
{
	peer->worker->places_due |= peer->worker->seeking.first != NULL;
	if (peer->rest_owed)
		peer_defer(peer, GVM_PEND_KICK);
}
