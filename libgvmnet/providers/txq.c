/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The queue of outgoing frames of a stream connection; txq.h says what it is. Nothing here bounds
 * the queue: who pushes looks at count and gvm_txq_staged() first.
 */
#include "providers/txq.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ENT_FIRST   64u
#define STAGE_FIRST 4096u
#define POOL_MAX    64u

static void txq_free(struct gvm_txq *q)
{
	free(q->ent);
	free(q->stage);
	free(q);
}

static struct gvm_txq *txq_new(void)
{
	struct gvm_txq *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	q->ent_cap = ENT_FIRST;
	q->stage_cap = STAGE_FIRST;
	q->ent = malloc(q->ent_cap * sizeof(*q->ent));
	q->stage = malloc(q->stage_cap);
	if (q->ent && q->stage)
		return q;
	txq_free(q);
	return NULL;
}

struct gvm_txq *gvm_txq_get(struct gvm_txq_pool *pool, uint64_t seq)
{
	struct gvm_txq *q = pool->free;

	if (q) {
		pool->free = q->next;
		pool->count--;
	} else {
		q = txq_new();
	}
	if (q)
		q->seq = seq;
	return q;
}

static struct gvm_txent *ent_at(const struct gvm_txq *q, uint32_t i)
{
	return &q->ent[(q->head + i) & (q->ent_cap - 1)];
}

void gvm_txq_release(struct gvm_txq_pool *pool, struct gvm_txq *q,
		     void (*mem_put)(struct gvm_mem *mem))
{
	for (uint32_t i = 0; i < q->count; i++) {
		struct gvm_mem *mem = ent_at(q, i)->mem;

		if (mem)
			mem_put(mem);
	}
	/* One that has grown is not worth keeping: a worker has few busy connections at a time. */
	if (pool->count >= POOL_MAX || q->ent_cap > ENT_FIRST || q->stage_cap > STAGE_FIRST) {
		txq_free(q);
		return;
	}
	q->head = q->count = q->answers = q->done = 0;
	q->stage_head = q->stage_tail = 0;
	q->next = pool->free;
	pool->free = q;
	pool->count++;
}

void gvm_txq_pool_drain(struct gvm_txq_pool *pool)
{
	while (pool->free) {
		struct gvm_txq *q = pool->free;

		pool->free = q->next;
		txq_free(q);
	}
	pool->count = 0;
}

static int grow_ring(struct gvm_txq *q)
{
	struct gvm_txent *ent = malloc(2 * q->ent_cap * sizeof(*ent));

	if (!ent)
		return -ENOMEM;
	for (uint32_t i = 0; i < q->count; i++)
		ent[i] = *ent_at(q, i);
	free(q->ent);
	q->ent = ent;
	q->ent_cap *= 2;
	q->head = 0;
	return 0;
}

static int make_room(struct gvm_txq *q, uint32_t n)
{
	uint32_t used = gvm_txq_staged(q), cap = q->stage_cap;
	uint8_t *stage;

	if (used + n <= cap / 2 && q->stage_head) {
		memmove(q->stage, q->stage + q->stage_head, used);
	} else {
		while (cap < used + n)
			cap *= 2;
		if (cap == q->stage_cap)
			cap *= 2;
		stage = malloc(cap);
		if (!stage)
			return -ENOMEM;
		memcpy(stage, q->stage + q->stage_head, used);
		free(q->stage);
		q->stage = stage;
		q->stage_cap = cap;
	}
	q->stage_head = 0;
	q->stage_tail = used;
	return 0;
}

int gvm_txq_push(struct gvm_txq *q, const struct gvm_hdr *hdr, const void *body, uint32_t body_len,
		 const struct gvm_txent *ent)
{
	uint32_t n = GVM_WIRE_HDR_LEN + body_len;
	struct gvm_txent *e;

	assert(body_len <= GVM_WIRE_MSG_MAX);
	if (q->count == q->ent_cap && grow_ring(q))
		return -ENOMEM;
	if (q->stage_cap - q->stage_tail < n && make_room(q, n))
		return -ENOMEM;
	gvm_hdr_encode(q->stage + q->stage_tail, hdr);
	if (body_len)
		memcpy(q->stage + q->stage_tail + GVM_WIRE_HDR_LEN, body, body_len);
	q->stage_tail += n;
	e = ent_at(q, q->count++);
	*e = *ent;
	e->staged = n;
	q->answers += e->answer;
	return 0;
}

int gvm_txq_iov(const struct gvm_txq *q, struct iovec *iov, int max)
{
	uint8_t *at = q->stage + q->stage_head;
	uint32_t run = 0; /* staged bytes from at on that no iovec has yet */
	int n = 0;

	for (uint32_t i = 0; i < q->count; i++) {
		const struct gvm_txent *e = ent_at(q, i);
		uint32_t done = i ? 0 : q->done;

		if (n + 2 > max)
			break;
		if (done < e->staged)
			run += e->staged - done;
		if (!e->ext_len)
			continue;
		if (run) {
			iov[n++] = (struct iovec){ at, run };
			at += run;
			run = 0;
		}
		done = done > e->staged ? done - e->staged : 0;
		iov[n++] = (struct iovec){ (char *)(uintptr_t)e->ext + done, e->ext_len - done };
	}
	if (run && n < max)
		iov[n++] = (struct iovec){ at, run };
	return n;
}

/* Drop the first frame, all of which is sent. */
static void pop(struct gvm_txq *q, void (*mem_put)(struct gvm_mem *mem))
{
	struct gvm_txent e = *ent_at(q, 0);

	q->answers -= e.answer;
	q->done = 0;
	q->head = (q->head + 1) & (q->ent_cap - 1);
	q->count--;
	q->seq++;
	if (e.mem)
		mem_put(e.mem);
}

/* Count n bytes as sent; returns how many of them belonged to the first frame. */
static size_t advance(struct gvm_txq *q, size_t n)
{
	struct gvm_txent *e = ent_at(q, 0);
	size_t left = (size_t)e->staged + e->ext_len - q->done;
	uint32_t staged = q->done < e->staged ? e->staged - q->done : 0;

	if (n > left)
		n = left;
	q->stage_head += n < staged ? (uint32_t)n : staged;
	q->done += (uint32_t)n;
	return n;
}

void gvm_txq_sent(struct gvm_txq *q, size_t n, void (*mem_put)(struct gvm_mem *mem))
{
	while (q->count) {
		const struct gvm_txent *e = ent_at(q, 0);

		n -= advance(q, n);
		if (q->done < e->staged + e->ext_len)
			break;
		pop(q, mem_put);
	}
	assert(n == 0);
	if (q->stage_head == q->stage_tail)
		q->stage_head = q->stage_tail = 0;
}

int gvm_txq_remove(struct gvm_txq *q, uint64_t seq)
{
	uint32_t index = (uint32_t)(seq - q->seq), at = q->stage_head;
	struct gvm_txent *e = ent_at(q, index);

	assert(seq >= q->seq && index < q->count && !e->mem);
	if (!index && q->done)
		return -EBUSY;
	for (uint32_t i = 0; i < index; i++)
		at += ent_at(q, i)->staged;
	if (index)
		at -= q->done < ent_at(q, 0)->staged ? q->done : ent_at(q, 0)->staged;
	memmove(q->stage + at, q->stage + at + e->staged, q->stage_tail - at - e->staged);
	q->stage_tail -= e->staged;
	/* It keeps its number, as an empty frame, so that those behind it keep theirs. */
	e->staged = 0;
	e->ext_len = 0;
	e->ext = NULL;
	return 0;
}
