/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The messages of a peer: frames, credits and answers. Data plane.
 *
 * Credits. Each side grants the other a number of messages in the handshake. A message (not an
 * answer, not the connection's own) costs the sender one. The receiver gives it back for a message
 * without answer when the handler has returned, for a call when it is answered: on the next frame
 * that it sends anyway, or by a CREDIT when half of the grant is owed. An answer costs nothing, as
 * its call has paid for it: there cannot be more of them than the calls that were granted, so the
 * queue of answers that wait for the provider is bounded, and no answer ever waits for a credit.
 * Hence no cycle of waiting: a handler never waits, an answer waits only for the connection to
 * drain, and a caller waits only for answers.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "core/peer.h"
#include "wire/coherence.h"

/* ---- frames -------------------------------------------------------------------------------- */

int peer_send_frame(struct gvm_peer *peer, struct gvm_hdr *hdr, const void *body)
{
	struct gvm_worker *worker = peer->worker;
	int err;

	hdr->epoch = worker->net->epoch;
	hdr->credits = (uint16_t)peer->owed;
	err = peer->ep->ops->send(peer->ep, hdr, body);
	if (err)
		return err;
	peer->granted += peer->owed;
	peer->owed = 0;
	gvm_count(&worker->stats.msgs_sent, 1);
	return 0;
}

int peer_send_bare(struct gvm_peer *peer, uint8_t type, uint64_t xid)
{
	struct gvm_hdr hdr = { .type = type, .xid = xid };

	return peer_send_frame(peer, &hdr, NULL);
}

/* When the provider has no room, its writable() brings the peer here again. */
void peer_return_credits(struct gvm_peer *peer)
{
	uint32_t half = peer->worker->opt.credits / 2u;

	if (peer->state == GVM_PEER_READY && peer->owed >= (half ? half : 1u))
		peer_send_bare(peer, GVM_T_CREDIT, 0);
}

/* ---- sending ------------------------------------------------------------------------------- */

void peer_fill_header(struct gvm_hdr *hdr, const struct gvm_msg *msg)
{
	*hdr = (struct gvm_hdr){
		.type = msg->type,
		.flags = msg->flags,
		.status = (uint16_t)gvm_wire_status(msg->status),
		.length = msg->length,
		.region = msg->region,
		.page = msg->page,
		.arg = msg->arg,
	};
}

/* A message that costs a credit. */
int peer_send_paid(struct gvm_peer *peer, struct gvm_hdr *hdr, const void *body)
{
	int err;

	if (peer->replies)
		return -EAGAIN;
	if (peer->credits == 0) {
		gvm_count(&peer->worker->stats.no_credit, 1);
		return -EAGAIN;
	}
	err = peer_send_frame(peer, hdr, body);
	if (!err) {
		peer->credits--;
		peer_used(peer);
	}
	return err;
}

static int is_coherence(uint8_t type)
{
	return type >= GVM_COH_FIRST && type <= GVM_COH_LAST;
}

int peer_message_ok(const struct gvm_msg *msg)
{
	return msg->type >= GVM_T_REGION_OPEN && msg->type != GVM_T_REPLY &&
	       !is_coherence(msg->type) && msg->length <= GVM_MSG_MAX &&
	       (msg->body || msg->length == 0) && !(msg->flags & ~GVM_F_ALL);
}

int gvm_send(struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct gvm_hdr hdr;
	int err;

	if (!peer_message_ok(msg))
		return -EINVAL;
	if (peer->worker->closing)
		return -ECANCELED;
	if (peer->state != GVM_PEER_READY) {
		gvm_peer_connect(peer);
		return -ENOTCONN;
	}
	if (peer->waiting.first || peer->rest)
		return peer_starve(peer);
	peer_fill_header(&hdr, msg);
	err = peer_send_paid(peer, &hdr, msg->body);
	return err == -EAGAIN ? peer_starve(peer) : err;
}

int gvm_coherence_send(struct gvm_peer *peer, const struct gvm_hdr *h, const void *payload)
{
	struct gvm_hdr hdr = *h;
	int err;

	if (peer->state != GVM_PEER_READY)
		return -ENOTCONN;
	if (peer->waiting.first || peer->rest)
		return peer_starve(peer);
	err = peer_send_paid(peer, &hdr, payload);
	return err == -EAGAIN ? peer_starve(peer) : err;
}

/* ---- answers ------------------------------------------------------------------------------- */

static int queue_reply(struct gvm_peer *peer, const struct gvm_hdr *hdr, const void *body)
{
	struct gvm_reply *reply = malloc(sizeof(*reply) + hdr->length);

	if (!reply)
		return -ENOMEM;
	reply->next = NULL;
	reply->hdr = *hdr;
	if (hdr->length)
		memcpy(reply->body, body, hdr->length);
	if (peer->replies_last)
		peer->replies_last->next = reply;
	else
		peer->replies = reply;
	peer->replies_last = reply;
	return 0;
}

int gvm_reply(struct gvm_peer *peer, uint64_t xid, int status, const struct gvm_msg *body)
{
	static const struct gvm_msg nothing;
	struct gvm_hdr hdr;
	int err = -EAGAIN;

	if (!body)
		body = &nothing;
	if (xid == 0 || status > 0 || body->length > GVM_MSG_MAX || (body->flags & ~GVM_F_MORE))
		return -EINVAL;
	if (peer->state != GVM_PEER_READY)
		return -ENOTCONN;
	if (peer->calls_owed == 0)
		return -EINVAL;
	peer_fill_header(&hdr, body);
	hdr.type = GVM_T_REPLY;
	hdr.status = (uint16_t)gvm_wire_status(status);
	hdr.xid = xid;
	peer->calls_owed--;
	peer->owed++;
	if (!peer->replies)
		err = peer_send_frame(peer, &hdr, body->body);
	if (err == -EAGAIN)
		err = queue_reply(peer, &hdr, body->body);
	if (err)
		peer_break(peer, err);
	return err;
}

int peer_send_replies(struct gvm_peer *peer)
{
	struct gvm_reply *reply;

	while ((reply = peer->replies)) {
		int err = peer_send_frame(peer, &reply->hdr, reply->body);

		if (err)
			return err;
		peer->replies = reply->next;
		if (!peer->replies)
			peer->replies_last = NULL;
		free(reply);
	}
	return 0;
}

void peer_drop_replies(struct gvm_peer *peer)
{
	struct gvm_reply *reply, *next;

	for (reply = peer->replies; reply; reply = next) {
		next = reply->next;
		free(reply);
	}
	peer->replies = peer->replies_last = NULL;
}

/* ---- receiving ----------------------------------------------------------------------------- */

static int protocol_error(struct gvm_peer *peer, const char *reason)
{
	peer->reason = reason;
	return -EPROTO;
}

static int on_user_message(struct gvm_peer *peer, const struct gvm_hdr *hdr,
			   const struct gvm_msg *msg)
{
	struct gvm_worker *worker = peer->worker;

	if (peer->granted == 0)
		return protocol_error(peer, "it sent more messages than it had credits for");
	peer->granted--;
	peer_used(peer);
	if (hdr->xid)
		peer->calls_owed++;
	else
		peer->owed++;
	if (worker->config.message)
		worker->config.message(worker->config.arg, peer, msg);
	else if (hdr->xid)
		gvm_reply(peer, hdr->xid, -EOPNOTSUPP, NULL);
	peer_return_credits(peer);
	return 0;
}

/* The reason that the handler gives is a static sentence. */
static int on_coherence(struct gvm_peer *peer, const struct gvm_hdr *hdr, const void *payload)
{
	struct gvm_worker *worker = peer->worker;
	const char *reason = "it broke the rules of coherence";
	int err;

	if (!worker->coherence)
		return protocol_error(peer, "it sent a frame of coherence to who shares nothing");
	if (peer->granted == 0)
		return protocol_error(peer, "it sent more messages than it had credits for");
	peer->granted--;
	peer->owed++;
	peer_used(peer);
	err = worker->coherence(worker->config.arg, peer, hdr, payload, &reason);
	if (err)
		return protocol_error(peer, reason);
	peer_return_credits(peer);
	return 0;
}

static int take_credits(struct gvm_peer *peer, uint32_t credits)
{
	if (credits == 0)
		return 0;
	if (credits > UINT16_MAX - peer->credits)
		return protocol_error(peer, "it gave more credits than there can be");
	peer->credits += credits;
	peer_has_room(peer);
	return 0;
}

static int on_ready_message(struct gvm_peer *peer, const struct gvm_hdr *hdr, const void *payload)
{
	struct gvm_msg msg = {
		.type = hdr->type,
		.flags = hdr->flags,
		.status = gvm_wire_errno(hdr->status),
		.xid = hdr->xid,
		.region = hdr->region,
		.page = hdr->page,
		.arg = hdr->arg,
		.body = payload,
		.length = hdr->length,
	};
	int err = take_credits(peer, hdr->credits);

	if (err)
		return err;
	if (is_coherence(hdr->type))
		return on_coherence(peer, hdr, payload);
	switch (hdr->type) {
	case GVM_T_PING:
		/* With no room for it there is enough else that the other side will hear. */
		peer_send_bare(peer, GVM_T_PONG, hdr->xid);
		return 0;
	case GVM_T_PONG:
	case GVM_T_CREDIT:
		return 0;
	case GVM_T_BYE:
		if (peer_on_bye(peer, hdr->arg == GVM_BYE_REST))
			return protocol_error(peer, "it agrees to a rest that was not asked for");
		return 0;
	case GVM_T_REPLY:
		peer_answered(peer, hdr, &msg);
		return 0;
	default:
		if (hdr->type < GVM_T_REGION_OPEN)
			return protocol_error(peer, "it sent a frame out of turn");
		return on_user_message(peer, hdr, &msg);
	}
}

int peer_message(struct gvm_ep *ep, const struct gvm_hdr *hdr, const void *payload)
{
	struct gvm_peer *peer = ep->user;

	gvm_count(&peer->worker->stats.msgs_received, 1);
	if (peer->state == GVM_PEER_READY)
		return on_ready_message(peer, hdr, payload);
	if (peer->state != GVM_PEER_PROVING)
		return protocol_error(peer, "it sent a frame out of turn");
	peer_handshake(peer, hdr, payload);
	return 0;
}

void peer_writable(struct gvm_ep *ep)
{
	struct gvm_peer *peer = ep->user;

	peer_defer(peer, GVM_PEND_KICK);
	peer_has_room(peer);
}
