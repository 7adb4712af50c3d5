/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows, of a write to a page that few others share: the writer goes on when all of them have
 * acknowledged to it, in whatever order that comes, and not before; nobody else can make it, and
 * whatever is missing, the home's own GRANT does; the home serves nobody else before it has been
 * told itself, whatever the writer says; and what is malformed is refused.
 */
#include "ivy_alone.h"

#define WRITER 9u

static int send_set(struct ivy *ivy, uint16_t from, struct gvm_hdr h, const uint16_t *ids,
		    uint32_t n)
{
	uint8_t set[GVM_SET_MAX];

	h.length = (uint32_t)gvm_set_encode(set, ids, n);
	return ivy_receive(ivy, from, &h, set);
}

static int early(struct ivy *ivy, uint64_t request, uint64_t version, unsigned how,
		 const uint16_t *ids, uint32_t n)
{
	struct gvm_hdr h = message(GVM_COH_GRANT, 0, request, version);

	h.flags = (uint16_t)(GVM_F_ACKS | how);
	return send_set(ivy, 0, h, ids, n);
}

static int acks(struct ivy *ivy, uint16_t from, uint64_t version)
{
	return say(ivy, from, GVM_COH_ACK, 0, 0, version);
}

static int zeros(struct ivy *ivy, uint16_t from, uint64_t request)
{
	struct gvm_hdr h = message(GVM_COH_DATA, 0, request, 1000);

	h.flags = GVM_F_ZERO;
	return ivy_receive(ivy, from, &h, NULL);
}

/* Node 9 wants to write page 0, whose home is node 0. */
static struct ivy *writer(uint64_t *request)
{
	struct ivy *node = engine(WRITER);

	assert_int_equal(ivy_fault(node, 0, IVY_WRITE), 1);
	*request = seen.sent.xid;
	return node;
}

static uint64_t refused(const struct ivy *ivy)
{
	struct ivy_stats stats;

	ivy_stats(ivy, &stats);
	return stats.refused;
}

/* ---- the writer ----------------------------------------------------------------------------- */

static void it_goes_on_when_all_have_told_it(void **state)
{
	const uint16_t set[] = { 3, 5, 7 };
	uint64_t request;

	/* the four things that must come, in each order */
	for (unsigned order = 0; order < 5 * 5 * 5 * 5 * 5; order++) {
		unsigned left = order, come = 0;
		struct ivy *node;

		for (unsigned i = 0; i < 5; i++, left /= 5)
			come |= 1u << left % 5;
		if (come != 31)
			continue;
		node = writer(&request);
		left = order;
		for (unsigned i = 0; i < 5; i++, left /= 5) {
			assert_int_equal(seen.access[0], IVY_NONE);
			switch (left % 5) {
			case 0:
				assert_int_equal(early(node, request, 2000, GVM_F_WAIT, set, 3), 0);
				break;
			case 1:
				assert_int_equal(zeros(node, 7, request), 0);
				break;
			default:
				assert_int_equal(acks(node, set[left % 5 - 2], 2000), 0);
			}
		}
		assert_int_equal(seen.access[0], IVY_WRITE);
		assert_int_equal(seen.sent.type, GVM_COH_DONE);
		assert_int_equal(seen.sent.arg, 2000);
		assert_int_equal(ivy_page_version(node, 0), 2000);
		end(node);
	}
}

static void nobody_else_makes_it_go_on(void **state)
{
	const uint16_t set[] = { 3, 5 };
	struct gvm_hdr h;
	uint64_t request;
	struct ivy *node = writer(&request);

	assert_int_equal(zeros(node, 0, request), 0);
	assert_int_equal(acks(node, 4, 2000), 0);
	assert_int_equal(early(node, request + 1, 2000, GVM_F_WAIT, set, 2), 0); /* another's */
	assert_int_equal(acks(node, 3, 2000), 0);
	assert_int_equal(acks(node, 5, 2000), 0);
	assert_int_equal(early(node, request, 2001, GVM_F_WAIT, set, 2), 0);
	assert_int_equal(acks(node, 3, 2001), 0);
	assert_int_equal(acks(node, 3, 2001), 0);
	assert_int_equal(acks(node, 4, 2001), 0);
	assert_int_equal(acks(node, 5, 2000), 0);
	assert_int_equal(say(node, 5, GVM_COH_ACK, 0, 2001, 0), 0); /* of a tree */
	assert_int_equal(seen.access[0], IVY_NONE);
	h = message(GVM_COH_GRANT, 0, request, 2001); /* the home knows that they have */
	h.flags = GVM_F_WAIT;
	assert_int_equal(ivy_receive(node, 0, &h, NULL), 0);
	assert_int_equal(seen.access[0], IVY_WRITE);
	assert_int_equal(acks(node, 5, 2001), 0); /* late */
	assert_int_equal(refused(node), 0);
	end(node);
}

/* There is room for so many; who has room, has it. Then, or without memory, it waits for the home.
 */
static void strangers_and_memory_only_delay_it(void **state)
{
	const uint16_t set[] = { 3, 5 };
	struct gvm_hdr h;
	uint64_t request;
	struct ivy *node;

	for (unsigned strangers = 14; strangers <= 15; strangers++) {
		node = writer(&request);
		assert_int_equal(zeros(node, 0, request), 0);
		for (uint16_t i = 0; i < strangers; i++)
			for (uint64_t version = 1990; version <= 2000; version++)
				assert_int_equal(acks(node, (uint16_t)(100 + i), version), 0);
		assert_int_equal(acks(node, 3, 2000), 0);
		assert_int_equal(acks(node, 5, 2000), 0);
		assert_int_equal(early(node, request, 2000, GVM_F_WAIT, set, 2), 0);
		assert_int_equal(seen.access[0], strangers == 14 ? IVY_WRITE : IVY_NONE);
		end(node);
	}
	for (int fail = 1; fail < 3; fail++) {
		node = writer(&request);
		assert_int_equal(zeros(node, 0, request), 0);
		seen.fail_in = fail;
		assert_int_equal(early(node, request, 2000, GVM_F_WAIT, set, 2), 0);
		seen.fail_in = 0;
		assert_int_equal(acks(node, 3, 2000), 0);
		assert_int_equal(acks(node, 5, 2000), 0);
		assert_int_equal(seen.access[0], IVY_NONE);
		h = message(GVM_COH_GRANT, 0, request, 2000);
		h.flags = GVM_F_WAIT;
		assert_int_equal(ivy_receive(node, 0, &h, NULL), 0);
		assert_int_equal(seen.access[0], IVY_WRITE);
		end(node);
	}
}

/* What it was granted under an id that it has drawn anew is nothing any more. */
static void a_recall_ends_it(void **state)
{
	const uint16_t set[] = { 3 };
	uint64_t request;
	struct ivy *node = writer(&request);

	assert_int_equal(zeros(node, 5, request), 0);
	assert_int_equal(early(node, request, 2000, GVM_F_WAIT, set, 1), 0);
	assert_int_equal(say(node, 0, GVM_COH_RECALL, 0, 4711, 0), 0);
	assert_int_equal(seen.sent.type, GVM_COH_WRITE);
	assert_int_not_equal(seen.sent.xid, request);
	assert_int_equal(acks(node, 3, 2000), 0);
	assert_int_equal(seen.access[0], IVY_NONE);
	end(node);
}

/* The home that granted it is away: what it reports to the next one must not change. */
static void it_does_not_go_on_while_it_reports(void **state)
{
	const uint16_t set[] = { 3 };
	uint64_t request;
	struct ivy *node = writer(&request);

	assert_int_equal(zeros(node, 5, request), 0);
	assert_int_equal(early(node, request, 2000, GVM_F_WAIT, set, 1), 0);
	assert_int_equal(ivy_home_reborn(node, 0), 0);
	assert_int_equal(acks(node, 3, 2000), 0);
	assert_int_equal(seen.access[0], IVY_NONE);
	end(node);
}

/* ---- the sharer ----------------------------------------------------------------------------- */

static unsigned told_writer, told_home;

static void note_ack(uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	if (h->type != GVM_COH_ACK)
		return;
	assert_int_equal(seen.access[0], IVY_NONE); /* unmapped before it says so */
	if (to == WRITER) {
		assert_int_equal(h->arg, 2000);
		assert_int_equal(h->xid, 0); /* a round is its members' and the home's */
		told_writer++;
	} else {
		assert_int_equal(to, 0);
		assert_int_equal(h->xid, 7);
		assert_int_equal(h->arg, 0);
		told_home++;
	}
}

static struct ivy *sharer(void)
{
	struct ivy *node = engine(3);

	assert_int_equal(ivy_fault(node, 0, IVY_READ), 1);
	assert_int_equal(zeros(node, 0, seen.sent.xid), 0);
	assert_int_equal(seen.access[0], IVY_READ);
	seen.on_send = note_ack;
	told_writer = told_home = 0;
	return node;
}

static struct gvm_hdr inv(void)
{
	struct gvm_hdr h = message(GVM_COH_INV, 0, 7, 2000);

	h.flags = GVM_F_ACKS;
	return h;
}

static void a_sharer_tells_both(void **state)
{
	const uint16_t to[] = { WRITER };
	struct ivy *node = sharer();

	assert_int_equal(send_set(node, 0, inv(), to, 1), 0);
	assert_int_equal(told_writer, 1);
	assert_int_equal(told_home, 1);
	assert_int_equal(send_set(node, 0, inv(), to, 1), 0); /* it has gone already */
	assert_int_equal(told_writer, 2);
	assert_int_equal(told_home, 2);
	ivy_peer_lost(node, WRITER); /* the home knows, and tells it */
	assert_int_equal(send_set(node, 0, inv(), to, 1), 0);
	assert_int_equal(told_writer, 2);
	assert_int_equal(told_home, 3);
	end(node);
}

static void a_pinned_sharer_tells_nobody(void **state)
{
	const uint16_t to[] = { WRITER };
	struct ivy *node = sharer();

	assert_int_equal(ivy_pin(node, 0, IVY_READ), 0);
	assert_int_equal(send_set(node, 0, inv(), to, 1), 0);
	assert_int_equal(told_writer + told_home, 0);
	assert_int_equal(seen.access[0], IVY_READ);
	ivy_unpin(node, 0);
	assert_int_equal(seen.sent.type, GVM_COH_READY);
	assert_int_equal(send_set(node, 0, inv(), to, 1), 0);
	assert_int_equal(told_writer, 1);
	assert_int_equal(told_home, 1);
	end(node);
}

/* ---- the home ------------------------------------------------------------------------------- */

static struct gvm_hdr got[8]; /* what the writer has been sent, in that order */
static unsigned n_got;

static void note_writer(uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	if (to == WRITER && n_got < 8)
		got[n_got++] = *h;
}

static uint64_t round_now;

static void note_round(uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	if (h->type == GVM_COH_INV)
		round_now = h->xid;
	note_writer(to, h, payload);
}

/* Page 0 is shared by nodes 3 and 5, and node 9 has asked for it: its version to be. */
static struct ivy *home(uint64_t *version)
{
	struct ivy *ivy = engine(0);

	for (uint16_t node = 3; node <= 5; node += 2) {
		assert_int_equal(say(ivy, node, GVM_COH_READ, 0, node, 0), 0);
		assert_int_equal(say(ivy, node, GVM_COH_DONE, 0, node, seen.sent.arg), 0);
	}
	n_got = 0;
	seen.on_send = note_round;
	assert_int_equal(say(ivy, WRITER, GVM_COH_WRITE, 0, 99, 0), 0);
	assert_int_equal(n_got, 2); /* the page, and the set */
	assert_int_equal(got[0].type, GVM_COH_DATA);
	assert_int_equal(got[1].type, GVM_COH_GRANT);
	assert_int_equal(got[1].flags, GVM_F_ACKS | GVM_F_WAIT);
	assert_int_equal(gvm_set_count(seen.payload, got[1].length, 16), 2);
	*version = got[1].arg;
	return ivy;
}

static uint16_t owner_of(const struct ivy *ivy)
{
	struct ivy_view v;

	ivy_home_view(ivy, 0, &v);
	return v.busy ? NOBODY : v.owner;
}

static void ack_home(struct ivy *ivy, uint16_t from)
{
	assert_int_equal(say(ivy, from, GVM_COH_ACK, 0, round_now, 0), 0);
}

static void the_home_grants_what_was_not_done(void **state)
{
	uint64_t version;
	struct ivy *ivy = home(&version);

	ack_home(ivy, 3);
	assert_int_equal(n_got, 2);
	ack_home(ivy, 5);
	assert_int_equal(n_got, 3);
	assert_int_equal(got[2].type, GVM_COH_GRANT);
	assert_int_equal(got[2].flags, GVM_F_WAIT); /* it has the page */
	assert_int_equal(say(ivy, WRITER, GVM_COH_WRITE, 0, 99, 0), 0);
	assert_int_equal(got[3].flags, GVM_F_ZERO); /* it has not */
	assert_int_equal(say(ivy, WRITER, GVM_COH_DONE, 0, 99, version), 0);
	assert_int_equal(owner_of(ivy), WRITER);
	end(ivy);
}

/* Whatever the writer says, and in whatever form. */
static void nobody_is_served_before_all_are_told(void **state)
{
	for (int how = 0; how < 2; how++) {
		uint64_t version;
		struct ivy *ivy = home(&version);
		struct gvm_hdr wb = message(GVM_COH_WB, 0, 4711, version);

		wb.flags = GVM_F_ZERO;
		assert_int_equal(say(ivy, 7, GVM_COH_READ, 0, 123, 0), 0);
		assert_int_equal(say(ivy, WRITER, GVM_COH_DONE, 0, 99, version + 1), -EPROTO);
		if (how == 0)
			assert_int_equal(say(ivy, WRITER, GVM_COH_DONE, 0, 99, version), 0);
		else
			assert_int_equal(ivy_receive(ivy, WRITER, &wb, NULL), 0);
		ack_home(ivy, 3);
		assert_int_equal(owner_of(ivy), NOBODY);
		assert_int_equal(n_got, 2);
		ivy_tick(ivy,
			 ivy_next_tick(ivy)); /* node 5 is told again, and not for the writer */
		assert_int_equal(seen.sent.type, GVM_COH_INV);
		assert_int_equal(seen.sent.length, 0);
		assert_int_equal(seen.of_type[GVM_COH_FWD_READ], 0);
		ack_home(ivy, 5);
		assert_int_equal(seen.of_type[GVM_COH_FWD_READ], 1);
		assert_int_equal(n_got, 3); /* that, and no GRANT */
		assert_int_equal(got[2].type, GVM_COH_FWD_READ);
		end(ivy);
	}
}

/* It may have written, though not all have acknowledged to the home: nobody else has that. */
static void a_writer_that_dies_may_have_written(void **state)
{
	uint64_t version;
	struct ivy *ivy = home(&version);
	struct ivy_view v;

	ivy_peer_dead(ivy, WRITER);
	ack_home(ivy, 3);
	ivy_home_view(ivy, 0, &v);
	assert_true(v.busy && !v.lost);
	ack_home(ivy, 5);
	ivy_home_view(ivy, 0, &v);
	assert_true(!v.busy && v.lost);
	end(ivy);
}

/* There is nothing in it for a home that is the writer, or the only one that is told, nor if one
 * cannot be told, nor if the writer cannot be reached. */
static void not_where_it_is_of_no_use(void **state)
{
	for (int how = 0; how < 4; how++) {
		struct ivy *ivy = engine(0);

		seen.on_send = note_writer;
		n_got = 0;
		if (how == 1)
			assert_int_equal(ivy_fault(ivy, 0, IVY_READ), 1);
		else
			assert_int_equal(say(ivy, 3, GVM_COH_READ, 0, 3, 0), 0);
		if (how != 1)
			assert_int_equal(say(ivy, 3, GVM_COH_DONE, 0, 3, seen.sent.arg), 0);
		if (how == 2)
			ivy_peer_lost(ivy, 3);
		if (how == 0)
			assert_int_equal(ivy_fault(ivy, 0, IVY_WRITE), 1);
		else
			assert_int_equal(say(ivy, WRITER, GVM_COH_WRITE, 0, 99, 0), 0);
		assert_int_equal(n_got, how == 1); /* GRANT */
		assert_true(n_got == 0 || !(got[0].flags & GVM_F_ACKS));
		end(ivy);
		if (how == 2)
			break;
	}
}

/* ---- what is malformed ---------------------------------------------------------------------- */

static void what_is_malformed_is_refused(void **state)
{
	const uint16_t to[] = { WRITER, 10 }, self[] = { 3 }, me[] = { 5, WRITER };
	uint16_t many[17];
	struct gvm_hdr h;
	uint64_t request;
	struct ivy *node = sharer();

	for (uint16_t i = 0; i < 17; i++)
		many[i] = (uint16_t)(100 * i + 10);
	assert_int_equal(send_set(node, 2, inv(), to, 1), -EPROTO); /* no home */
	assert_int_equal(send_set(node, 0, inv(), to, 0), -EPROTO);
	assert_int_equal(send_set(node, 0, inv(), to, 2), -EPROTO);
	assert_int_equal(send_set(node, 0, inv(), self, 1), -EPROTO);
	h = inv();
	h.arg = GVM_COH_ANY_VERSION;
	assert_int_equal(send_set(node, 0, h, to, 1), -EPROTO);
	h = inv();
	h.flags |= GVM_F_ZERO;
	assert_int_equal(send_set(node, 0, h, to, 1), -EPROTO);
	assert_int_equal(told_writer + told_home, 0);
	assert_int_equal(seen.access[0], IVY_READ);
	end(node);

	node = writer(&request);
	assert_int_equal(early(node, request, 2000, GVM_F_WAIT, me, 0), -EPROTO);
	assert_int_equal(early(node, request, 2000, GVM_F_WAIT, me, 2), -EPROTO);
	assert_int_equal(early(node, request, 2000, GVM_F_WAIT, many, 17), -EPROTO);
	assert_int_equal(early(node, request, 2000, 0, me, 1), -EPROTO);
	assert_int_equal(early(node, request, 2000, GVM_F_ZERO, me, 1), -EPROTO);
	assert_int_equal(early(node, request, 2000, GVM_F_WAIT | GVM_F_SAME, me, 1), -EPROTO);
	assert_int_equal(early(node, request, UINT64_MAX, GVM_F_WAIT, me, 1), -EPROTO);
	assert_int_equal(acks(node, 5, UINT64_MAX), -EPROTO);
	assert_int_equal(say(node, 5, GVM_COH_ACK, 0, 7, 2000), -EPROTO);
	assert_int_equal(send_set(node, 5, message(GVM_COH_ACK, 0, 0, 2000), to, 1), -EPROTO);
	h = message(GVM_COH_DATA, 0, request, 2000);
	h.flags = GVM_F_ACKS | GVM_F_SAME;
	assert_int_equal(send_set(node, 0, h, to, 1), -EPROTO);
	assert_int_equal(early(node, request, 2000, GVM_F_WAIT, many, 16), 0);
	assert_int_equal(seen.access[0], IVY_NONE);
	end(node);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_goes_on_when_all_have_told_it),
		cmocka_unit_test(nobody_else_makes_it_go_on),
		cmocka_unit_test(strangers_and_memory_only_delay_it),
		cmocka_unit_test(a_recall_ends_it),
		cmocka_unit_test(it_does_not_go_on_while_it_reports),
		cmocka_unit_test(a_sharer_tells_both),
		cmocka_unit_test(a_pinned_sharer_tells_nobody),
		cmocka_unit_test(the_home_grants_what_was_not_done),
		cmocka_unit_test(nobody_is_served_before_all_are_told),
		cmocka_unit_test(a_writer_that_dies_may_have_written),
		cmocka_unit_test(not_where_it_is_of_no_use),
		cmocka_unit_test(what_is_malformed_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
