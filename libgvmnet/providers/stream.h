/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The protocol of a connection over bytes in order, for providers that have such bytes: frames of
 * wire.h in both directions, fetch and put served in software, their answers, cancellation.
 *
 * A stream moves no bytes. Its owner, a provider, hands in what has arrived (gvm_stream_take,
 * gvm_stream_append) and takes out what is to be sent (s->tx, see txq.h), and has the stream as a
 * part of its endpoint:
 *
 *     NEW --- opened by the owner ---> OPEN --- gvm_stream_end() ---> DEAD
 *
 * Fetch and put are requests that the receiving worker serves in place, from and into the offered
 * memory. A put is stored in whole pages: of one that breaks off in the middle of a page nothing of
 * that page is stored.
 *
 * What bounds a stream: GVM_TX_POSTS and GVM_TX_STAGED for what this side posts (-EAGAIN),
 * GVM_SLOTS operations under way, and GVM_TX_ANSWERS answers that the other side does not take:
 * then its owner reads no more from it until it does (gvm_stream_is_paused). More than that comes
 * only from one that asks for more than GVM_SLOTS operations at a time, so two nodes of this kind
 * cannot block each other.
 *
 * Threads: a stream belongs to its worker's thread.
 */
#ifndef GVM_PROVIDERS_STREAM_H
#define GVM_PROVIDERS_STREAM_H

#include "providers/provider.h"
#include "providers/slots.h"
#include "providers/txq.h"

#define GVM_TX_BATCH   64u /* frames after which serving pauses to send */
#define GVM_TX_POSTS   512u
#define GVM_TX_STAGED  (128u << 10)
#define GVM_TX_ANSWERS 512u
#define GVM_RX_DIRECT  (16u << 10) /* so much of a payload missing: receive it into its place */

struct gvm_stream;

/* What a stream says to its owner. */
struct gvm_stream_ops {
	/* Much is to be sent, in the middle of serving what has arrived: send it, if s is not
	 * blocked. May end s. */
	void (*flush)(struct gvm_stream *s);
	/* The connection has to end: gvm_stream_end(s, -ECONNRESET), and closed() to core. */
	void (*fail)(struct gvm_stream *s, int why, const char *reason);
	/* MAP, MAPPED, UNMAP or UNMAPPED, after allow(); body has hdr->length bytes. May end s. */
	void (*mapping)(struct gvm_stream *s, const struct gvm_hdr *hdr, const uint8_t *body);
};

/* What the streams of a worker share. */
struct gvm_stream_env {
	struct gvm_host *host;
	const struct gvm_host_ops *up;
	const struct gvm_stream_ops *ops;
	struct gvm_txq_pool txqs;
};

enum gvm_stream_state { GVM_STREAM_NEW = 0, GVM_STREAM_OPEN, GVM_STREAM_DEAD };

/* What the next bytes are. */
enum gvm_stream_rx { GVM_RX_FRAME = 0, GVM_RX_FETCHED, GVM_RX_PUT, GVM_RX_DROP };

struct gvm_stream {
	struct gvm_ep *ep;
	struct gvm_stream_env *env;
	uint8_t state, rx;
	uint8_t allowed;   /* the handshake is through */
	uint8_t blocked;   /* the owner's way out is full; the owner's to set */
	uint8_t want_room; /* a post was refused */
	uint8_t serving;   /* the other side asks for memory */

	struct gvm_txq *tx; /* NULL: nothing to send */
	uint64_t tx_seq;    /* number of the next frame when there is no tx */
	struct gvm_slots *slots;

	uint8_t *part; /* the beginning of an incomplete frame, or page of a put */
	uint32_t part_len, part_cap;

	/* the payload that is arriving */
	uint32_t rx_left;
	int rx_status;            /* of a put: what it will be answered */
	uint8_t *rx_to;           /* of a fetch: where the rest goes */
	struct gvm_slot *rx_slot; /* of a fetch; NULL: cancelled */
	uint64_t rx_xid, rx_key, rx_offset;
};

/* One writer, readers on other threads. */
static inline void gvm_count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static inline struct gvm_net_stats *gvm_stream_stats(const struct gvm_stream *s)
{
	return s->env->up->stats(s->env->host);
}

/* ---- life ---------------------------------------------------------------------------------- */

/* s is zeroed, ep the owner's endpoint. */
static inline void gvm_stream_init(struct gvm_stream *s, struct gvm_stream_env *env,
				   struct gvm_ep *ep)
{
	s->env = env;
	s->ep = ep;
}

/* Dead from here on; what is under way completes with why. gvm_stream_free() is still to come. */
void gvm_stream_end(struct gvm_stream *s, int why);
/* Complete what is under way. */
void gvm_stream_complete_all(struct gvm_stream *s, int why);
void gvm_stream_free(struct gvm_stream *s);
static inline void gvm_stream_malformed(struct gvm_stream *s, const char *reason)
{
	s->env->ops->fail(s, -EPROTO, reason);
}

/* ---- receiving ----------------------------------------------------------------------------- */

/* n bytes at buf, which begin with the s->part_len bytes at s->part: serve what is whole and keep
 * the rest. May end s. */
void gvm_stream_take(struct gvm_stream *s, const uint8_t *buf, uint32_t n);
/* n bytes at buf, which follow those at s->part. May end s. */
void gvm_stream_append(struct gvm_stream *s, const uint8_t *buf, uint32_t n);

/* Much of a fetched payload is missing: its next s->rx_left bytes may be received to s->rx_to. */
static inline int gvm_stream_is_direct(const struct gvm_stream *s)
{
	return s->rx == GVM_RX_FETCHED && s->rx_left >= GVM_RX_DIRECT;
}
/* n bytes of it have been. */
void gvm_stream_placed(struct gvm_stream *s, uint32_t n);

/* The other side has asked for more than it takes: do not read from it until it does. */
static inline int gvm_stream_is_paused(const struct gvm_stream *s)
{
	return s->tx && s->tx->answers >= GVM_TX_ANSWERS;
}

static inline int gvm_stream_in_frame(const struct gvm_stream *s)
{
	return s->part_len || s->rx != GVM_RX_FRAME;
}

/* ---- sending ------------------------------------------------------------------------------- */

/* Append a frame; what it is sent with is as in gvm_txq_push(). -ENOMEM. */
int gvm_stream_push(struct gvm_stream *s, const struct gvm_hdr *hdr, const void *body,
		    uint32_t body_len, const struct gvm_txent *ent);

static inline int gvm_stream_has_tx(const struct gvm_stream *s)
{
	return s->tx && s->tx->count;
}

/* The first n bytes of s->tx are sent. */
static inline void gvm_stream_sent(struct gvm_stream *s, size_t n)
{
	gvm_count(&gvm_stream_stats(s)->bytes_sent, n);
	gvm_txq_sent(s->tx, n, s->env->up->mem_put);
}

/* At the end of sending: a queue that is empty goes back to the pool. */
static inline void gvm_stream_rest(struct gvm_stream *s)
{
	if (!s->tx || s->tx->count)
		return;
	s->tx_seq = s->tx->seq;
	gvm_txq_release(&s->env->txqs, s->tx, s->env->up->mem_put);
	s->tx = NULL;
}

static inline int gvm_stream_has_room(const struct gvm_stream *s, unsigned share)
{
	const struct gvm_txq *tx = s->tx;

	if (!tx)
		return 1;
	return tx->count - tx->answers < GVM_TX_POSTS / share &&
	       gvm_txq_staged(tx) < GVM_TX_STAGED / share;
}

/* Tell core of room, where it waits for some. */
static inline void gvm_stream_tell_room(struct gvm_stream *s)
{
	if (!s->want_room || !gvm_stream_has_room(s, 2) || gvm_slots_full(s->slots))
		return;
	s->want_room = 0;
	s->env->up->writable(s->ep);
}

/* As send, fetch, put of gvm_provider_ops; after 0 the owner sees to it that s->tx is sent. */
int gvm_stream_send(struct gvm_stream *s, const struct gvm_hdr *hdr, const void *payload);
int gvm_stream_fetch(struct gvm_stream *s, struct gvm_op *op);
int gvm_stream_put(struct gvm_stream *s, struct gvm_op *op);
/* As cancel. There may be room afterwards that gvm_stream_tell_room() has to tell. */
int gvm_stream_cancel(struct gvm_stream *s, struct gvm_op *op);

#endif
