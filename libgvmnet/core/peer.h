/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A peer and what its files share; nobody else includes this. All of it belongs to the worker's
 * thread.
 *
 *     peer.c        peers: made, found, named, freed; the application is told of them
 *     peer_conn.c   the life of the connection: states, connecting, liveness, its end
 *     peer_greet.c  the handshake, on either side
 *     peer_rest.c   how many connections there may be, and who gives way
 *     peer_msg.c    frames, credits and answers
 *     peer_op.c     operations, from post to done
 *     host.c        the provider's upcalls, which lead to these
 *
 *     IDLE --first operation--> CONNECTING --> PROVING --> READY
 *      ^                            |             |          |
 *      +--nobody waits-- BACKOFF <--+-------------+----------+     (accepted: CLOSED, freed)
 *      +------------------------------------others need its place--+
 *
 * Re-entry. A provider's upcalls only note what has happened: operations that ended go to the
 * worker's list of done ones, peers with something to do to its list of pending ones, and
 * gvm_peers_serve() works on both when no upcall is on the stack. So what the application does in
 * its callbacks (post, disconnect) never meets a provider half way through something. The
 * exceptions are messages and answers to calls, whose bytes are only there during the upcall.
 */
#ifndef GVM_CORE_PEER_H
#define GVM_CORE_PEER_H

#include <errno.h>
#include <stddef.h>
#include "core/core.h"

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* A call under way; its number is part of the call's xid. */
struct gvm_call_slot {
	struct gvm_op *op; /* NULL: free */
	uint32_t next_free;
};

/* A reply that found the provider's queue full. */
struct gvm_reply {
	struct gvm_reply *next;
	struct gvm_hdr hdr;
	uint8_t body[];
};

/* Of the connections that there may be; only of peers that this side connects. */
enum gvm_peer_place { PLACE_NONE, PLACE_SEEKS, PLACE_HAS };

/* YIELDS: starts nothing new, and rests when nothing is under way. ASKED: the end is agreed upon
 * (of an accepted one: the other side wants it). */
enum gvm_peer_rest { REST_NO, REST_YIELDS, REST_ASKED };

/* What a peer still has to do when no upcall is on the stack. */
#define GVM_PEND_KICK     1u /* start waiting operations, send what waits */
#define GVM_PEND_WRITABLE 2u /* tell the user that a post may be tried again */
#define GVM_PEND_CLOSED   4u /* tell the user that it is not READY any more; free an accepted one */

struct gvm_peer {
	struct gvm_worker *worker;
	struct gvm_ep *ep;            /* NULL: not connected */
	struct gvm_peer *next, *prev; /* worker->peers */
	struct gvm_peer *next_pending;
	struct gvm_peer *next_greeting, *prev_greeting;
	struct gvm_peer *next_place, *prev_place; /* worker->seeking or placed, by place */
	uint64_t used;                            /* when, by worker->uses */
	uint64_t rest_at;  /* when rest was set; of REST_NO, or since when it is READY */
	uint8_t place;     /* enum gvm_peer_place */
	uint8_t rest_owed; /* the other side waits for the answer to its wish to rest */
	uint8_t state;     /* written by peer_become alone */
	uint8_t rest;      /* enum gvm_peer_rest */
	uint8_t accepted, in_pending, pending;
	uint8_t starved; /* a post was answered -EAGAIN */
	uint8_t wanted;  /* connect again even if no operation waits */
	uint8_t pinged, told_ready, bye, greeting;
	int hushed; /* keeps the end of a connection that fell silent from being told; or -1 */
	uint16_t node, port;
	char *host; /* of one that this side connects */
	void *user;
	struct gvm_peer_observer *observers;
	struct gvm_peer_observer *told_next; /* the one to be told after this one */
	uint64_t incarnation;
	uint64_t fell_at;   /* when a provider failed and another one was tried last */
	int fell_why;       /* why it did */
	uint8_t provider;   /* of the worker's, that the next connection is tried with */
	uint8_t tried;      /* providers that have failed since one did not, or since a back-off */
	uint8_t broken;     /* connections with it that did not last, in a row */
	int why;            /* why it ended last */
	const char *reason; /* sentence for that, static; NULL: the provider's */
	unsigned failures;  /* connects in vain in a row */
	uint64_t ready_since;
	struct gvm_hs *hs; /* only while CONNECTING and PROVING */

	struct gvm_op active;       /* given to the provider or the peer: a ring, this its head */
	struct gvm_op_list waiting; /* not yet */
	uint32_t one_sided, max_one_sided;
	uint32_t calls_active;
	struct gvm_call_slot *slots;
	uint32_t slot_count, slot_free; /* slot_free: index + 1, 0: none */
	uint64_t xid;

	uint32_t credits;    /* messages that this side may send */
	uint32_t granted;    /* messages that the other side may still send */
	uint32_t owed;       /* credits to give back */
	uint32_t calls_owed; /* calls of the other side without an answer */
	struct gvm_reply *replies, *replies_last;

	struct gvm_timer state_timer; /* connect and handshake deadline, back-off, liveness */
	struct gvm_timer op_timer;    /* not later than the next operation's deadline */
	uint64_t soonest;             /* that op_timer is set for; GVM_NEVER: it is not set */
	char name[96];
};

/* ---- peer.c -------------------------------------------------------------------------------- */

/* NULL: no memory. */
struct gvm_peer *peer_make(struct gvm_worker *worker);
/* It is in no list but the worker's, has no connection and no operations. */
void peer_free(struct gvm_peer *peer);
/* Tell the observers, then the application. */
void peer_tell_state(struct gvm_peer *peer, enum gvm_peer_state state, int why);
/* "NAME: WHAT SENTENCE" in the log, limited: the other side can cause such lines. */
void peer_warn(struct gvm_peer *peer, const char *what, const char *sentence);

/* Put it on the list of peers with something to do: GVM_PEND_*. */
static inline void peer_defer(struct gvm_peer *peer, unsigned what)
{
	struct gvm_worker *worker = peer->worker;

	peer->pending |= (uint8_t)what;
	if (peer->in_pending)
		return;
	peer->in_pending = 1;
	peer->next_pending = NULL;
	if (worker->pending_last)
		worker->pending_last->next_pending = peer;
	else
		worker->pending = peer;
	worker->pending_last = peer;
}

/* Something that a post may have been refused for is there again. */
static inline void peer_has_room(struct gvm_peer *peer)
{
	if (peer->waiting.first)
		peer_defer(peer, GVM_PEND_KICK);
	if (peer->starved)
		peer_defer(peer, GVM_PEND_WRITABLE);
}

/* Something is under way. */
static inline int peer_is_active(const struct gvm_peer *peer)
{
	return peer->active.next != &peer->active;
}

/* It has done something for the application. */
static inline void peer_used(struct gvm_peer *peer)
{
	peer->used = ++peer->worker->uses;
}

void peer_idle_noted(struct gvm_peer *peer);
/* Its last operation has ended. */
static inline void peer_idle(struct gvm_peer *peer)
{
	if (peer->worker->seeking.first || peer->rest_owed)
		peer_idle_noted(peer);
}

/* What a post answers that has to be tried again: -EAGAIN, and writable() will be told. */
static inline int peer_starve(struct gvm_peer *peer)
{
	peer->starved = 1;
	return -EAGAIN;
}

/* ---- peer_conn.c --------------------------------------------------------------------------- */

/* Whether this state may follow the peer's present one. */
int peer_may_become(const struct gvm_peer *peer, enum gvm_peer_state next);
/* The only place that changes a peer's state and the levels that follow from states: peers_open,
 * peers_ready and accepted_ready. Asserts that it may. */
void peer_become(struct gvm_peer *peer, enum gvm_peer_state next);
/* IDLE: connect, or wait for a place. What fails at once is told as if it had failed later. */
void peer_begin_connect(struct gvm_peer *peer);
/* The same with a place. */
void peer_connect_now(struct gvm_peer *peer);
/* READY, asked to rest, and the other side agrees: end it, as nothing that anybody has to mend. */
void peer_rested(struct gvm_peer *peer);
/* Something is wrong with the connection, if there is one: end it. */
void peer_break(struct gvm_peer *peer, int why);
/* The end of the connection before, which fell silent, may be told now. */
void peer_unhush(struct gvm_peer *peer);
/* Of state_timer. */
void peer_on_state_timer(struct gvm_timer *timer);
/* Upcalls. */
void peer_connected(struct gvm_ep *ep, int status);
void peer_closed(struct gvm_ep *ep, int why, const char *reason);

/* ---- peer_greet.c -------------------------------------------------------------------------- */

/* The connecting side's first frame. Returns as peer_send_frame. */
int peer_greet(struct gvm_peer *peer);
/* A frame in PROVING. */
void peer_handshake(struct gvm_peer *peer, const struct gvm_hdr *hdr, const void *payload);
/* It has got through, or has ended: no longer among those that give way. */
void peer_greeted(struct gvm_peer *peer);
/* Upcall. */
void peer_accepted(struct gvm_host *host, struct gvm_listener *listener, struct gvm_ep *ep);

/* ---- peer_rest.c --------------------------------------------------------------------------- */

/* 1: it may connect; 0: it waits, and peer_connect_now() is called. */
int peer_take_place(struct gvm_peer *peer);
/* It waits for one in any case, behind the others. */
void peer_seek_place(struct gvm_peer *peer);
/* Its connection has ended, or it does not want one any more. */
void peer_leave_place(struct gvm_peer *peer);
/* BYE; rest: the other side wants to rest, or agrees. -EPROTO: it was not asked. */
int peer_on_bye(struct gvm_peer *peer, int rest);
/* rest_owed: if nothing is under way. */
void peer_answer_rest(struct gvm_peer *peer);

/* ---- peer_msg.c ---------------------------------------------------------------------------- */

/* Send a frame with what is owed of credits. 0, -EAGAIN: the provider has no room, and will say
 * when it has; else the connection is broken. */
int peer_send_frame(struct gvm_peer *peer, struct gvm_hdr *hdr, const void *body);
int peer_send_bare(struct gvm_peer *peer, uint8_t type, uint64_t xid);
/* The same for a message that costs a credit; -EAGAIN also when there is none. */
int peer_send_paid(struct gvm_peer *peer, struct gvm_hdr *hdr, const void *body);
/* By a CREDIT, when it is worth one. */
void peer_return_credits(struct gvm_peer *peer);
int peer_message_ok(const struct gvm_msg *msg);
void peer_fill_header(struct gvm_hdr *hdr, const struct gvm_msg *msg);
/* Answers that wait for the provider: send them, returning as peer_send_frame; forget them. */
int peer_send_replies(struct gvm_peer *peer);
void peer_drop_replies(struct gvm_peer *peer);
/* Upcalls. */
int peer_message(struct gvm_ep *ep, const struct gvm_hdr *hdr, const void *payload);
void peer_writable(struct gvm_ep *ep);

/* ---- peer_op.c ----------------------------------------------------------------------------- */

/* End all that wait for the connection; all that are under way and that the provider does not know
 * of any more (or never did: calls). */
void peer_fail_waiting(struct gvm_peer *peer, int why);
void peer_fail_active(struct gvm_peer *peer, int why);
/* Send and start what has waited, in order, as far as there is room. */
void peer_kick(struct gvm_peer *peer);
/* A REPLY: end its call. msg is hdr as the application sees it. */
void peer_answered(struct gvm_peer *peer, const struct gvm_hdr *hdr, const struct gvm_msg *msg);
/* Of op_timer, which peer_disarm() clears. */
void peer_disarm(struct gvm_peer *peer);
void peer_on_deadline(struct gvm_timer *timer);
/* Upcall. */
void peer_completed(struct gvm_ep *ep, struct gvm_op *op, int status);
/* Tell the application of operations that ended, some thousands at the most. Returns how many. */
int gvm_ops_serve_done(struct gvm_worker *worker);

#endif
