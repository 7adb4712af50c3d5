/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that the queue of outgoing frames (txq.h) gives the bytes of its frames in order, however
 * they are pushed, partly sent, taken back and grown; that references to memory are dropped once,
 * when the frame is sent; and that the places of operations (slots.h) are found, kept and reused.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "providers/slots.h"
#include "providers/txq.h"

struct gvm_mem {
	int refs;
};

static void mem_put(struct gvm_mem *mem)
{
	assert_true(mem->refs-- > 0);
}

/* ---- a model: the bytes that are still to be sent, frame by frame --------------------------- */

#define FRAMES 4096

struct frame {
	uint8_t *bytes;
	size_t len, sent;
	int removed, answer;
	struct gvm_mem mem;
};

struct model {
	struct gvm_txq_pool pool;
	struct gvm_txq *q;
	struct frame frames[FRAMES];
	uint64_t first, next; /* numbers of the first and behind the last frame */
	unsigned seed;
};

static uint8_t payload[64 << 10];

static unsigned rnd(struct model *m, unsigned below)
{
	return (unsigned)rand_r(&m->seed) % below;
}

static void push(struct model *m, uint32_t body_len, uint32_t ext_len)
{
	static uint8_t body[GVM_WIRE_MSG_MAX];
	struct frame *f = &m->frames[m->next % FRAMES];
	struct gvm_hdr hdr = { .type = GVM_T_USER, .length = body_len + ext_len, .xid = m->next };
	uint32_t at = rnd(m, 1000);
	struct gvm_txent ent = { .ext = ext_len ? payload + at : NULL,
				 .ext_len = ext_len,
				 .answer = rnd(m, 2) };

	for (uint32_t i = 0; i < body_len; i++)
		body[i] = (uint8_t)rnd(m, 256);
	memset(f, 0, sizeof(*f));
	f->len = GVM_WIRE_HDR_LEN + body_len + ext_len;
	f->answer = ent.answer;
	f->bytes = malloc(f->len);
	gvm_hdr_encode(f->bytes, &hdr);
	memcpy(f->bytes + GVM_WIRE_HDR_LEN, body, body_len);
	if (ext_len)
		memcpy(f->bytes + GVM_WIRE_HDR_LEN + body_len, payload + at, ext_len);
	if (ext_len && rnd(m, 2)) {
		f->mem.refs = 1;
		ent.mem = &f->mem;
	}
	assert_int_equal(gvm_txq_push(m->q, &hdr, body, body_len, &ent), 0);
	assert_true(m->q->seq + m->q->count - 1 == m->next);
	m->next++;
}

/* What the queue offers is the model's bytes; send some of it. Returns how many were offered. */
static size_t send_some(struct model *m, int iovs, size_t most)
{
	struct iovec iov[64];
	size_t offered = 0, n, left;
	uint64_t at = m->first;
	size_t in = 0;
	int count = gvm_txq_iov(m->q, iov, iovs);

	assert_in_range(count, 0, iovs);
	for (int i = 0; i < count; i++) {
		const uint8_t *p = iov[i].iov_base;

		assert_true(iov[i].iov_len > 0);
		for (size_t k = 0; k < iov[i].iov_len; k++) {
			struct frame *f = &m->frames[at % FRAMES];

			while (at < m->next && (f->removed || f->sent + in == f->len)) {
				f = &m->frames[++at % FRAMES];
				in = 0;
			}
			assert_true(at < m->next);
			assert_int_equal(p[k], f->bytes[f->sent + in]);
			in++;
		}
		offered += iov[i].iov_len;
	}
	n = offered < most ? offered : most;
	gvm_txq_sent(m->q, n, mem_put);
	for (left = n; m->first < m->next;) {
		struct frame *f = &m->frames[m->first % FRAMES];
		size_t take = f->removed ? 0 : f->len - f->sent;

		if (take > left)
			take = left;
		f->sent += take;
		left -= take;
		if (!f->removed && f->sent < f->len)
			break;
		assert_int_equal(f->mem.refs, 0);
		assert_true(gvm_txq_is_sent(m->q, m->first));
		free(f->bytes);
		m->first++;
	}
	return offered;
}

static void check_counts(const struct model *m)
{
	uint32_t answers = 0;

	for (uint64_t at = m->first; at < m->next; at++)
		answers += (uint32_t)m->frames[at % FRAMES].answer;
	assert_int_equal(m->q->answers, answers);
	assert_true(m->q->seq == m->first);
	assert_int_equal(m->q->count, m->next - m->first);
}

/* Take a frame back: only one of which nothing has left. Those that hold memory are answers. */
static void take_back(struct model *m)
{
	struct frame *f;
	uint64_t seq;

	if (m->first == m->next)
		return;
	seq = m->first + rnd(m, (unsigned)(m->next - m->first));
	f = &m->frames[seq % FRAMES];
	if (f->mem.refs || f->removed)
		return;
	assert_int_equal(gvm_txq_remove(m->q, seq), f->sent ? -EBUSY : 0);
	f->removed = !f->sent;
}

static void open_model(struct model *m, unsigned seed)
{
	memset(m, 0, sizeof(*m));
	m->seed = seed;
	m->first = m->next = 1000;
	for (size_t i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)(i * 7 + i / 256);
	m->q = gvm_txq_get(&m->pool, m->first);
	assert_non_null(m->q);
}

static void close_model(struct model *m)
{
	gvm_txq_release(&m->pool, m->q, mem_put);
	for (; m->first < m->next; m->first++) {
		assert_int_equal(m->frames[m->first % FRAMES].mem.refs, 0);
		free(m->frames[m->first % FRAMES].bytes);
	}
	gvm_txq_pool_drain(&m->pool);
}

static void bytes_leave_in_order(void **state)
{
	static struct model m;

	for (unsigned seed = 1; seed <= 6; seed++) {
		print_message("seed %u\n", seed);
		open_model(&m, seed);
		for (unsigned round = 0; round < 1600; round++) {
			/* it fills in one half of a period and drains in the other */
			unsigned what = round % 400 < 200 ? rnd(&m, 5) : rnd(&m, 8);

			if (what < 4 && m.next - m.first < FRAMES / 2)
				push(&m, rnd(&m, 3) ? 0 : rnd(&m, GVM_WIRE_MSG_MAX + 1),
				     rnd(&m, 2) ? 0 : 1 + rnd(&m, 8192));
			else if (what < 7)
				send_some(&m, 2 + (int)rnd(&m, 60), 1 + rnd(&m, 40000));
			else
				take_back(&m);
			check_counts(&m);
		}
		if (seed % 2)
			while (m.first < m.next)
				send_some(&m, 64, SIZE_MAX);
		close_model(&m);
	}
}

/* More frames than the ring has places, while its first is not at the first place. */
static void a_turned_ring_grows(void **state)
{
	static struct model m;
	unsigned i;

	open_model(&m, 3);
	for (i = 0; i < 40; i++)
		push(&m, 8, 0);
	while (m.first < 1030)
		send_some(&m, 64, GVM_WIRE_HDR_LEN + 8);
	for (i = 0; i < 300; i++)
		push(&m, i % 50, i % 3 * 100);
	check_counts(&m);
	while (m.first < m.next)
		send_some(&m, 64, 5000);
	close_model(&m);
}

/* Neighbours that are staged leave in one iovec, a payload that lies elsewhere is not copied. */
static void few_iovecs(void **state)
{
	static struct model m;
	struct iovec iov[8];

	open_model(&m, 1);
	for (int i = 0; i < 10; i++)
		push(&m, 100, 0);
	assert_int_equal(gvm_txq_iov(m.q, iov, 8), 1);
	assert_int_equal(iov[0].iov_len, 10 * (GVM_WIRE_HDR_LEN + 100));
	push(&m, 0, 4096);
	assert_int_equal(gvm_txq_iov(m.q, iov, 8), 2);
	assert_true((uint8_t *)iov[1].iov_base >= payload &&
		    (uint8_t *)iov[1].iov_base < payload + sizeof(payload));
	close_model(&m);
}

/* A queue that did not grow is kept for the next connection, empty and with its numbers. */
static void queues_are_used_again(void **state)
{
	struct gvm_txq_pool pool = { 0 };
	struct gvm_hdr hdr = { .type = GVM_T_USER };
	struct gvm_txent ent = { .answer = 1 };
	struct gvm_txq *q = gvm_txq_get(&pool, 5), *again;
	struct iovec iov[4];

	assert_int_equal(gvm_txq_push(q, &hdr, NULL, 0, &ent), 0);
	assert_int_equal(q->answers, 1);
	gvm_txq_sent(q, 10, mem_put);
	gvm_txq_release(&pool, q, mem_put);
	assert_int_equal(pool.count, 1);
	again = gvm_txq_get(&pool, 77);
	assert_ptr_equal(again, q);
	assert_int_equal(pool.count, 0);
	assert_true(again->seq == 77 && !again->count && !again->answers && !again->done);
	assert_int_equal(gvm_txq_iov(again, iov, 4), 0);
	for (int i = 0; i < 200; i++)
		assert_int_equal(gvm_txq_push(again, &hdr, NULL, 0, &ent), 0);
	gvm_txq_release(&pool, again, mem_put);
	assert_int_equal(pool.count, 0);
	gvm_txq_pool_drain(&pool);
}

/* ---- slots --------------------------------------------------------------------------------- */

static void slots_are_found_and_reused(void **state)
{
	static struct gvm_slots s;
	static struct gvm_op ops[GVM_SLOTS + 1];
	struct gvm_slot *slot;
	uint64_t xid = UINT64_MAX - 300; /* numbers may wrap */

	memset(&s, 0, sizeof(s));
	assert_null(gvm_slots_find(NULL, 1));
	assert_null(gvm_slots_pop(&s));
	s.head = s.tail = UINT32_MAX - 100; /* so may these */
	for (unsigned i = 0; i < GVM_SLOTS; i++) {
		assert_false(gvm_slots_full(&s));
		ops[i].xid = xid++;
		gvm_slots_add(&s, &ops[i], GVM_OP_FETCH);
	}
	assert_true(gvm_slots_full(&s));
	for (unsigned i = 0; i < GVM_SLOTS; i++) {
		slot = gvm_slots_find(&s, ops[i].xid);
		assert_non_null(slot);
		assert_ptr_equal(slot->op, &ops[i]);
		assert_ptr_equal(gvm_slots_of(&s, &ops[i]), slot);
	}
	/* the place of one in the middle is no room: they leave from the front */
	gvm_slots_free(&s, gvm_slots_find(&s, ops[1].xid));
	assert_true(gvm_slots_full(&s));
	assert_null(gvm_slots_find(&s, ops[1].xid));
	assert_null(gvm_slots_of(&s, &ops[1]));
	/* a cancelled one keeps its place until its answer has come */
	slot = gvm_slots_of(&s, &ops[2]);
	slot->op = NULL;
	assert_ptr_equal(gvm_slots_find(&s, ops[2].xid), slot);
	assert_null(gvm_slots_of(&s, &ops[2]));
	gvm_slots_free(&s, gvm_slots_find(&s, ops[0].xid));
	assert_false(gvm_slots_full(&s));
	assert_int_equal(s.tail - s.head, GVM_SLOTS - 2);
	/* the end of a connection: each that is left, the oldest first, and the cancelled not at
	 * all */
	for (unsigned i = 3; i < GVM_SLOTS; i++)
		assert_ptr_equal(gvm_slots_pop(&s), &ops[i]);
	assert_null(gvm_slots_pop(&s));
	assert_int_equal(s.head, s.tail);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_leave_in_order),
		cmocka_unit_test(a_turned_ring_grows),
		cmocka_unit_test(few_iovecs),
		cmocka_unit_test(queues_are_used_again),
		cmocka_unit_test(slots_are_found_and_reused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
