/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The protocol of a connection over bytes in order; stream.h says what a stream is. */
#include "providers/stream.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096u

/* ---- life ----------------------------------------------------------------------------------- */

void gvm_stream_complete_all(struct gvm_stream *s, int why)
{
	struct gvm_op *op;

	while ((op = gvm_slots_pop(s->slots)))
		s->env->up->completed(s->ep, op, why);
}

static void drop_part(struct gvm_stream *s)
{
	free(s->part);
	s->part = NULL;
	s->part_len = s->part_cap = 0;
}

void gvm_stream_end(struct gvm_stream *s, int why)
{
	assert(s->state != GVM_STREAM_DEAD);
	s->state = GVM_STREAM_DEAD;
	if (s->tx) {
		gvm_txq_release(&s->env->txqs, s->tx, s->env->up->mem_put);
		s->tx = NULL;
	}
	drop_part(s);
	gvm_stream_complete_all(s, why);
}

void gvm_stream_free(struct gvm_stream *s)
{
	free(s->slots);
}

int gvm_stream_push(struct gvm_stream *s, const struct gvm_hdr *hdr, const void *body,
		    uint32_t body_len, const struct gvm_txent *ent)
{
	if (!s->tx) {
		s->tx = gvm_txq_get(&s->env->txqs, s->tx_seq);
		if (!s->tx)
			return -ENOMEM;
	}
	return gvm_txq_push(s->tx, hdr, body, body_len, ent);
}

/* ---- answering ------------------------------------------------------------------------------ */

static void answer(struct gvm_stream *s, const struct gvm_hdr *hdr, const struct gvm_txent *ent)
{
	if (s->state == GVM_STREAM_OPEN && !gvm_stream_push(s, hdr, NULL, 0, ent))
		return;
	if (ent->mem)
		s->env->up->mem_put(ent->mem);
	s->env->ops->fail(s, -ENOMEM, "out of memory");
}

static void answer_put(struct gvm_stream *s)
{
	struct gvm_hdr hdr = { .type = GVM_T_STORED, .xid = s->rx_xid };
	struct gvm_txent ent = { .answer = 1 };

	hdr.status = (uint16_t)gvm_wire_status(s->rx_status);
	if (!s->rx_status)
		gvm_count(&gvm_stream_stats(s)->puts_served, 1);
	answer(s, &hdr, &ent);
}

static void serve_fetch(struct gvm_stream *s, const struct gvm_hdr *req)
{
	struct gvm_hdr hdr = { .type = GVM_T_FETCHED, .xid = req->xid };
	struct gvm_txent ent = { .answer = 1 };
	void *at = NULL;
	int err;

	s->serving = 1;
	err = s->env->up->mem_get(s->env->host, req->region, s->ep->owner, GVM_ACCESS_FETCH,
				  req->page, req->arg, &at, &ent.mem);
	if (err) {
		hdr.status = (uint16_t)gvm_wire_status(err);
		ent.mem = NULL;
	} else {
		hdr.length = (uint32_t)req->arg;
		ent.ext = at;
		ent.ext_len = hdr.length;
		gvm_count(&gvm_stream_stats(s)->fetches_served, 1);
	}
	answer(s, &hdr, &ent);
}

/* ---- receiving ------------------------------------------------------------------------------ */

/*
 * Each of these looks at n bytes and returns how many it has used; 0: it needs more to go on.
 */

/*
 * How much of the n bytes at hand ends with a page of the memory, or with the put. What is refused
 * goes nowhere: its bytes are used as they come, so that they need not be kept, and its offset,
 * which may be any number, counts for nothing.
 */
static uint32_t whole_pages(const struct gvm_stream *s, uint32_t n)
{
	uint32_t in_page = (uint32_t)(s->rx_offset & (PAGE - 1)), past;

	if (n >= s->rx_left)
		return s->rx_left;
	if (s->rx_status)
		return n;
	past = (in_page + n) & (PAGE - 1);
	return n > past ? n - past : 0;
}

static uint32_t rx_put(struct gvm_stream *s, const uint8_t *buf, uint32_t n)
{
	uint32_t take = whole_pages(s, n);
	struct gvm_mem *mem;
	void *at;

	if (!take)
		return 0;
	/* The key is looked up for each piece, so that a put that never ends does not hold memory
	 * that has been withdrawn. */
	if (!s->rx_status)
		s->rx_status = s->env->up->mem_get(s->env->host, s->rx_key, s->ep->owner,
						   GVM_ACCESS_PUT, s->rx_offset, take, &at, &mem);
	if (!s->rx_status) {
		memcpy(at, buf, take);
		s->env->up->mem_put(mem);
	}
	s->rx_offset += take;
	s->rx_left -= take;
	if (!s->rx_left) {
		s->rx = GVM_RX_FRAME;
		answer_put(s);
	}
	return take;
}

static void begin_put(struct gvm_stream *s, const struct gvm_hdr *hdr)
{
	struct gvm_mem *mem;
	void *at;

	s->rx = GVM_RX_PUT;
	s->rx_left = hdr->length;
	s->rx_xid = hdr->xid;
	s->rx_key = hdr->region;
	s->rx_offset = hdr->page;
	/* All of it must be inside, or nothing is stored. */
	s->rx_status = s->env->up->mem_get(s->env->host, hdr->region, s->ep->owner, GVM_ACCESS_PUT,
					   hdr->page, hdr->length, &at, &mem);
	if (!s->rx_status)
		s->env->up->mem_put(mem);
}

static void end_op(struct gvm_stream *s, struct gvm_slot *slot, int status)
{
	struct gvm_op *op = slot->op;

	gvm_slots_free(s->slots, slot);
	if (op)
		s->env->up->completed(s->ep, op, status);
}

/* The rest of a fetched payload has come by n bytes. */
void gvm_stream_placed(struct gvm_stream *s, uint32_t n)
{
	s->rx_to += n;
	s->rx_left -= n;
	if (s->rx_left)
		return;
	s->rx = GVM_RX_FRAME;
	end_op(s, s->rx_slot, 0);
}

static uint32_t rx_fetched(struct gvm_stream *s, const uint8_t *buf, uint32_t n)
{
	uint32_t take = n < s->rx_left ? n : s->rx_left;

	memcpy(s->rx_to, buf, take);
	gvm_stream_placed(s, take);
	return take;
}

static uint32_t rx_drop(struct gvm_stream *s, const uint8_t *buf, uint32_t n)
{
	uint32_t take = n < s->rx_left ? n : s->rx_left;

	s->rx_left -= take;
	if (!s->rx_left) {
		s->rx = GVM_RX_FRAME;
		if (s->rx_slot)
			end_op(s, s->rx_slot, -ECANCELED);
		s->rx_slot = NULL;
	}
	return take;
}

static void begin_fetched(struct gvm_stream *s, const struct gvm_hdr *hdr, struct gvm_slot *slot)
{
	if (hdr->status) {
		end_op(s, slot, gvm_wire_errno(hdr->status));
		return;
	}
	if (hdr->flags & GVM_F_ZERO) {
		if (slot->op)
			memset(slot->op->buf, 0, slot->len);
		end_op(s, slot, 0);
		return;
	}
	if (hdr->length != slot->len) {
		gvm_stream_malformed(s,
				     "a fetch was answered with another length than was asked for");
		return;
	}
	s->rx_left = hdr->length;
	s->rx_slot = slot;
	s->rx = slot->op ? GVM_RX_FETCHED : GVM_RX_DROP;
	s->rx_to = slot->op ? slot->op->buf : NULL;
}

static void rx_answer(struct gvm_stream *s, const struct gvm_hdr *hdr)
{
	unsigned kind = hdr->type == GVM_T_FETCHED ? GVM_OP_FETCH : GVM_OP_PUT;
	struct gvm_slot *slot = gvm_slots_find(s->slots, hdr->xid);

	if (!slot || slot->kind != kind)
		gvm_stream_malformed(s, "an answer to a question that was not asked");
	else if (slot->op && !gvm_txq_is_sent(s->tx, slot->op->prov[0]))
		gvm_stream_malformed(s, "an answer to a question that was not yet asked");
	else if (kind == GVM_OP_FETCH)
		begin_fetched(s, hdr, slot);
	else
		end_op(s, slot, gvm_wire_errno(hdr->status));
}

/* A message is served when all of it is here. */
static uint32_t rx_message(struct gvm_stream *s, const struct gvm_hdr *hdr, const uint8_t *body,
			   uint32_t n)
{
	int err;

	if (!s->allowed && hdr->length > GVM_HELLO_MAX) {
		gvm_stream_malformed(s, "a long message before the handshake");
		return 0;
	}
	if (n < hdr->length)
		return 0;
	err = s->env->up->message(s->ep, hdr, body);
	if (err)
		s->env->ops->fail(s, err, "the message was refused");
	return GVM_WIRE_HDR_LEN + hdr->length;
}

/* A frame about how hardware reaches memory; its body is short. */
static uint32_t rx_mapping(struct gvm_stream *s, const struct gvm_hdr *hdr, const uint8_t *body,
			   uint32_t n)
{
	if (n < hdr->length)
		return 0;
	s->env->ops->mapping(s, hdr, body);
	return GVM_WIRE_HDR_LEN + hdr->length;
}

static int is_transfer(unsigned type)
{
	return type >= GVM_T_FETCH && type <= GVM_T_UNMAPPED;
}

static uint32_t rx_frame(struct gvm_stream *s, const uint8_t *buf, uint32_t n)
{
	struct gvm_hdr hdr;

	if (buf[0] != GVM_WIRE_MAGIC) {
		gvm_stream_malformed(s, "this is not the gvmnet protocol");
		return 0;
	}
	if (n < GVM_WIRE_HDR_LEN)
		return 0;
	if (gvm_hdr_decode(buf, &hdr)) {
		gvm_stream_malformed(s, "a malformed header");
		return 0;
	}
	if (!is_transfer(hdr.type))
		return rx_message(s, &hdr, buf + GVM_WIRE_HDR_LEN, n - GVM_WIRE_HDR_LEN);
	if (!s->allowed) {
		gvm_stream_malformed(s, "a fetch or put before the handshake");
		return 0;
	}
	if (hdr.type > GVM_T_STORED)
		return rx_mapping(s, &hdr, buf + GVM_WIRE_HDR_LEN, n - GVM_WIRE_HDR_LEN);
	if (hdr.type == GVM_T_FETCH)
		serve_fetch(s, &hdr);
	else if (hdr.type == GVM_T_PUT)
		begin_put(s, &hdr);
	else
		rx_answer(s, &hdr);
	return GVM_WIRE_HDR_LEN;
}

static uint32_t rx_step(struct gvm_stream *s, const uint8_t *buf, uint32_t n)
{
	switch (s->rx) {
	case GVM_RX_FETCHED:
		return rx_fetched(s, buf, n);
	case GVM_RX_PUT:
		return rx_put(s, buf, n);
	case GVM_RX_DROP:
		return rx_drop(s, buf, n);
	default:
		return rx_frame(s, buf, n);
	}
}

/* Serve what is whole; returns the bytes used. */
static uint32_t rx_serve(struct gvm_stream *s, const uint8_t *buf, uint32_t n)
{
	uint32_t at = 0, used;

	while (at < n && s->state == GVM_STREAM_OPEN) {
		used = rx_step(s, buf + at, n - at);
		if (!used)
			break;
		at += used;
		if (s->state == GVM_STREAM_OPEN && s->tx && !s->blocked &&
		    s->tx->count >= GVM_TX_BATCH)
			s->env->ops->flush(s);
	}
	return at;
}

/* Room in s->part for n bytes; what is in it is kept. */
static int part_room(struct gvm_stream *s, uint32_t n)
{
	uint32_t cap = s->part_cap ? s->part_cap : 64;
	uint8_t *part;

	if (n <= s->part_cap)
		return 0;
	while (cap < n)
		cap *= 2;
	part = realloc(s->part, cap);
	if (!part)
		return -ENOMEM;
	s->part = part;
	s->part_cap = cap;
	return 0;
}

/* Keep the unused end of what was received. */
static void keep_part(struct gvm_stream *s, const uint8_t *buf, uint32_t n)
{
	assert(n < GVM_WIRE_HDR_LEN + GVM_WIRE_MSG_MAX);
	if (!n) {
		drop_part(s);
		return;
	}
	s->part_len = 0;
	if (part_room(s, n)) {
		s->env->ops->fail(s, -ENOMEM, "out of memory");
		return;
	}
	memcpy(s->part, buf, n);
	s->part_len = n;
}

void gvm_stream_take(struct gvm_stream *s, const uint8_t *buf, uint32_t n)
{
	uint32_t used = rx_serve(s, buf, n);

	if (s->state == GVM_STREAM_OPEN && (n != used || s->part))
		keep_part(s, buf + used, n - used);
}

void gvm_stream_append(struct gvm_stream *s, const uint8_t *buf, uint32_t n)
{
	uint32_t used, cap;
	uint8_t *whole;

	if (!s->part_len) {
		gvm_stream_take(s, buf, n);
		return;
	}
	if (part_room(s, s->part_len + n)) {
		s->env->ops->fail(s, -ENOMEM, "out of memory");
		return;
	}
	memcpy(s->part + s->part_len, buf, n);
	n += s->part_len;
	/* Out of reach of the end of the stream, which an upcall may bring about while it still
	 * reads its message from there. */
	whole = s->part;
	cap = s->part_cap;
	s->part = NULL;
	s->part_len = s->part_cap = 0;
	used = rx_serve(s, whole, n);
	if (used == n || s->state != GVM_STREAM_OPEN) {
		free(whole);
		return;
	}
	memmove(whole, whole + used, n - used);
	s->part = whole;
	s->part_len = n - used;
	s->part_cap = cap;
}

/* ---- posting -------------------------------------------------------------------------------- */

/* May a frame be posted? -EAGAIN is remembered. */
static int may_post(struct gvm_stream *s)
{
	if (s->state != GVM_STREAM_OPEN)
		return s->state == GVM_STREAM_DEAD ? -ECONNRESET : -ENOTCONN;
	if (gvm_stream_has_room(s, 1))
		return 0;
	s->want_room = 1;
	return -EAGAIN;
}

int gvm_stream_send(struct gvm_stream *s, const struct gvm_hdr *hdr, const void *payload)
{
	struct gvm_txent ent = { 0 };
	int err = may_post(s);

	return err ? err : gvm_stream_push(s, hdr, payload, hdr->length, &ent);
}

static int may_post_op(struct gvm_stream *s)
{
	int err = may_post(s);

	if (err)
		return err;
	if (!s->slots) {
		s->slots = calloc(1, sizeof(*s->slots));
		return s->slots ? 0 : -ENOMEM;
	}
	if (!gvm_slots_full(s->slots))
		return 0;
	s->want_room = 1;
	return -EAGAIN;
}

static int post_op(struct gvm_stream *s, struct gvm_op *op, const struct gvm_hdr *hdr,
		   const struct gvm_txent *ent, enum gvm_op_kind kind)
{
	int err = may_post_op(s);

	if (!err)
		err = gvm_stream_push(s, hdr, NULL, 0, ent);
	if (err)
		return err;
	op->prov[0] = s->tx->seq + s->tx->count - 1;
	gvm_slots_add(s->slots, op, kind);
	return 0;
}

int gvm_stream_fetch(struct gvm_stream *s, struct gvm_op *op)
{
	struct gvm_hdr hdr = { .type = GVM_T_FETCH,
			       .xid = op->xid,
			       .region = op->key,
			       .page = op->offset,
			       .arg = op->len };
	struct gvm_txent ent = { 0 };

	return post_op(s, op, &hdr, &ent, GVM_OP_FETCH);
}

int gvm_stream_put(struct gvm_stream *s, struct gvm_op *op)
{
	struct gvm_hdr hdr = { .type = GVM_T_PUT,
			       .xid = op->xid,
			       .region = op->key,
			       .page = op->offset,
			       .length = op->len };
	struct gvm_txent ent = { .ext = op->buf, .ext_len = op->len };

	return post_op(s, op, &hdr, &ent, GVM_OP_PUT);
}

int gvm_stream_cancel(struct gvm_stream *s, struct gvm_op *op)
{
	struct gvm_slot *slot = gvm_slots_of(s->slots, op);

	if (!slot)
		return 0;
	if (!gvm_txq_is_sent(s->tx, op->prov[0])) {
		/* A fetch that is half sent has nothing of the caller's in it. */
		if (!gvm_txq_remove(s->tx, op->prov[0]))
			gvm_slots_free(s->slots, slot);
		else if (slot->kind == GVM_OP_PUT)
			return -EBUSY;
		else
			slot->op = NULL;
		return 0;
	}
	slot->op = NULL;
	if (s->rx == GVM_RX_FETCHED && s->rx_slot == slot)
		s->rx = GVM_RX_DROP;
	return 0;
}
