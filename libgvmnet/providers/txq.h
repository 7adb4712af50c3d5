/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a stream connection has still to send: a queue of frames. A frame's header, and the body of
 * a message, are staged (copied) one after the other in one buffer, so that neighbours leave in one
 * iovec; the payload of a fetch or put is sent from where it lies.
 *
 * A queue exists only while there is something to send; empty ones wait in a small pool of the
 * worker. It belongs to one endpoint and is used on its worker's thread only.
 */
#ifndef GVM_PROVIDERS_TXQ_H
#define GVM_PROVIDERS_TXQ_H

#include <sys/uio.h>

#include "providers/provider.h"

/* One frame. */
struct gvm_txent {
	const void *ext;     /* payload that is not staged, or NULL */
	struct gvm_mem *mem; /* reference that keeps ext valid; dropped when sent */
	uint32_t ext_len;
	uint32_t staged : 31; /* bytes in the staging buffer */
	uint32_t answer : 1;
};

struct gvm_txq {
	struct gvm_txent *ent;
	uint32_t ent_cap, head, count; /* a ring; ent_cap is a power of two */
	uint32_t answers;              /* of count */
	uint8_t *stage;
	uint32_t stage_cap, stage_head, stage_tail;
	uint32_t done;        /* bytes of the first frame that are sent */
	uint64_t seq;         /* number of the first frame, in the order of posting */
	struct gvm_txq *next; /* in the pool */
};

struct gvm_txq_pool {
	struct gvm_txq *free;
	unsigned count;
};

/* An empty queue whose next frame has number seq; NULL: out of memory. */
struct gvm_txq *gvm_txq_get(struct gvm_txq_pool *pool, uint64_t seq);
/* Give it back; what is left in it is forgotten and its references dropped. */
void gvm_txq_release(struct gvm_txq_pool *pool, struct gvm_txq *q,
		     void (*mem_put)(struct gvm_mem *mem));
void gvm_txq_pool_drain(struct gvm_txq_pool *pool);

/*
 * Append a frame: hdr, then body_len bytes copied from body, then ent->ext. ent->staged is filled
 * in here. The frame's number is q->seq + q->count - 1 afterwards. -ENOMEM.
 */
int gvm_txq_push(struct gvm_txq *q, const struct gvm_hdr *hdr, const void *body, uint32_t body_len,
		 const struct gvm_txent *ent);
/* Fill at most max iovecs with what is to be sent next; 0: nothing but frames that were removed. */
int gvm_txq_iov(const struct gvm_txq *q, struct iovec *iov, int max);
/* The first n bytes are sent. */
void gvm_txq_sent(struct gvm_txq *q, size_t n, void (*mem_put)(struct gvm_mem *mem));
/* 1: all of frame seq is sent. */
static inline int gvm_txq_is_sent(const struct gvm_txq *q, uint64_t seq)
{
	return !q || seq < q->seq;
}
/* Take back a frame that is not sent; -EBUSY: a part of it is. */
int gvm_txq_remove(struct gvm_txq *q, uint64_t seq);

static inline uint32_t gvm_txq_staged(const struct gvm_txq *q)
{
	return q->stage_tail - q->stage_head;
}

#endif
