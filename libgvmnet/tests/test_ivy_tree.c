/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows, of invalidations in a tree, that a member cannot speak through others: a home takes none
 * for its own pages, so that nothing is said in its name but by itself; and who passes on what it
 * should not have been told is not made to break the rules by that.
 */
#include "ivy_alone.h"

#define SELF 1u /* home of page 1 */

static int send_inv(struct ivy *ivy, uint16_t from, uint64_t page, uint64_t round, uint64_t version,
		    const uint16_t *ids, uint32_t n)
{
	struct gvm_hdr h = message(GVM_COH_INV, page, round, version);
	uint8_t set[GVM_SET_MAX];

	h.length = (uint32_t)gvm_set_encode(set, ids, n);
	return ivy_receive(ivy, from, &h, set);
}

static void a_home_does_not_pass_on_what_others_say(void **state)
{
	const uint16_t ids[] = { 5 };
	struct ivy *home = engine(0);

	assert_int_equal(say(home, 5, GVM_COH_WRITE, 0, 77, 0), 0);
	assert_int_equal(say(home, 5, GVM_COH_DONE, 0, 77, seen.sent.arg), 0);
	assert_int_equal(send_inv(home, 6, 0, 4711, seen.sent.arg + 1, ids, 1), -EPROTO);
	assert_int_equal(send_inv(home, 6, 0, 4711, UINT64_MAX - 1, ids, 1), -EPROTO);
	assert_int_equal(send_inv(home, 6, 0, 4711, seen.sent.arg + 1, ids, 0), -EPROTO);
	assert_int_equal(send_inv(home, 5, 0, 4711, seen.sent.arg + 1, ids, 0), -EPROTO);
	assert_int_equal(seen.of_type[GVM_COH_INV], 0);
	assert_int_equal(seen.of_type[GVM_COH_ACK], 0);
	end(home);
}

/* Nodes 0 to last - 1 read page 1, and its home does; it is owned by nobody. */
static struct ivy *shared_by(uint16_t last)
{
	struct ivy *home = engine(SELF);

	assert_int_equal(ivy_fault(home, 1, IVY_READ), 1);
	for (uint16_t node = 0; node < last; node++)
		if (node != SELF) {
			assert_int_equal(say(home, node, GVM_COH_READ, 1, 100u + node, 0), 0);
			assert_int_equal(
			    say(home, node, GVM_COH_DONE, 1, 100u + node, seen.sent.arg), 0);
		}
	assert_true(ivy_home_has(home, 1, SELF));
	return home;
}

static uint8_t named[GVM_WIRE_NODE_MAX]; /* so often, in all sets and as receivers */
static unsigned tops;

static void note_inv(uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	static uint16_t ids[GVM_WIRE_NODE_MAX];
	int n = gvm_set_count(payload, h->length, GVM_WIRE_NODE_MAX);

	assert_true(n >= 0);
	if (h->type != GVM_COH_INV)
		return;
	gvm_set_decode(payload, h->length, ids);
	named[to]++;
	tops++;
	for (int i = 0; i < n; i++)
		named[ids[i]]++;
}

/* However many share it with the home: it is in nobody's run, and all others are in one. */
static void a_home_that_shares_tells_itself(void **state)
{
	for (uint16_t last = 1; last < 400; last = (uint16_t)(last < 40 ? last + 1 : last + 37)) {
		struct ivy *home = shared_by(last);

		memset(named, 0, sizeof(named));
		tops = 0;
		seen.on_send = note_inv;
		assert_int_equal(say(home, 500, GVM_COH_WRITE, 1, 99, 0), 0);
		for (uint16_t node = 0; node < last; node++)
			assert_int_equal(named[node], node != SELF);
		assert_true(tops <= FAN_OUT + 1);
		assert_int_equal(seen.access[1], IVY_NONE);
		end(home);
	}
}

/* Node 3, which has a copy of page 0, version 1000. Its home is node 0. */
static struct ivy *sharer(void)
{
	struct ivy *node = engine(3);
	struct gvm_hdr h;

	assert_int_equal(ivy_fault(node, 0, IVY_READ), 1);
	h = message(GVM_COH_DATA, 0, seen.sent.xid, 1000);
	h.flags = GVM_F_ZERO;
	assert_int_equal(ivy_receive(node, 0, &h, NULL), 0);
	assert_int_equal(seen.access[0], IVY_READ);
	return node;
}

/* The last that was sent is an ACK to this node, which names so many, the first of them this. */
static void assert_declined(uint16_t to, int count, uint16_t first)
{
	uint16_t ids[8];

	assert_int_equal(seen.sent.type, GVM_COH_ACK);
	assert_int_equal(seen.to, to);
	assert_int_equal(gvm_set_count(seen.payload, seen.sent.length, GVM_WIRE_NODE_MAX), count);
	gvm_set_decode(seen.payload, seen.sent.length, ids);
	assert_int_equal(ids[0], first);
}

/* From a higher node that is not the home, or to be passed on to a lower one, itself, or the home:
 * no tree has that, and who passed it on would be cut off, or go round in a circle. */
static void what_is_in_no_tree_is_refused(void **state)
{
	const uint16_t low[] = { 2, 5 }, self[] = { 3, 5 }, to_home[] = { 2, 9 }, good[] = { 5, 9 };
	struct ivy *node = sharer();
	unsigned sent = seen.count;

	assert_int_equal(send_inv(node, 4, 0, 7, 2000, good, 0), -EPROTO);
	assert_int_equal(send_inv(node, 2, 0, 7, 2000, low, 2), -EPROTO);
	assert_int_equal(send_inv(node, 2, 0, 7, 2000, self, 2), -EPROTO);
	assert_int_equal(send_inv(node, 0, 0, 7, 2000, self, 2), -EPROTO);
	assert_int_equal(seen.count, sent);
	assert_int_equal(seen.access[0], IVY_READ);
	assert_int_equal(send_inv(node, 2, 0, 7, 2000, good, 2), 0);
	assert_int_equal(seen.access[0], IVY_NONE);
	assert_int_equal(seen.of_type[GVM_COH_INV], 2);
	end(node);

	node = engine(0);
	assert_int_equal(send_inv(node, 1, 3, 7, 2000, to_home, 2), 0); /* node 1 is page 3's */
	assert_int_equal(send_inv(node, 1, 3, 8, 2000, to_home + 1, 1), 0);
	end(node);
	node = engine(1);
	assert_int_equal(send_inv(node, 0, 3, 7, 2000, to_home, 2), -EPROTO);
	end(node);
}

/* Not by a relay, which does not know who owns it and must not be cut off for what it was told; by
 * the home it would be a breach. */
static void a_relay_is_not_to_blame_for_an_owner(void **state)
{
	const uint16_t ids[] = { 5, 9 };
	struct ivy *node = engine(3);
	struct gvm_hdr h;

	assert_int_equal(ivy_fault(node, 0, IVY_WRITE), 1);
	h = message(GVM_COH_GRANT, 0, seen.sent.xid, 1000);
	h.flags = GVM_F_ZERO;
	assert_int_equal(ivy_receive(node, 0, &h, NULL), 0);
	assert_int_equal(send_inv(node, 2, 0, 7, 2000, ids, 2), 0);
	assert_declined(2, 3, 3);
	assert_int_equal(seen.of_type[GVM_COH_INV], 0);
	assert_int_equal(send_inv(node, 2, 0, 7, 2000, ids, 0), 0);
	assert_declined(2, 1, 3);
	assert_int_equal(send_inv(node, 0, 0, 7, 2000, ids, 2), -EPROTO);
	assert_int_equal(send_inv(node, 0, 0, 7, GVM_COH_ANY_VERSION, ids, 0), 0);
	assert_int_equal(seen.access[0], IVY_WRITE);
	end(node);
}

/* Somebody was ahead with a round's id. The home's own is not passed on under it, nor refused: all
 * that it is for are named to the home. */
static void who_is_ahead_with_a_round_keeps_nobody_from_it(void **state)
{
	const uint16_t early[] = { 5 }, run[] = { 6, 7 };
	struct ivy *node = sharer();

	assert_int_equal(send_inv(node, 2, 0, 7, 1, early, 1), 0); /* of an old version */
	assert_int_equal(seen.access[0], IVY_READ);
	assert_int_equal(send_inv(node, 0, 0, 7, 2000, run, 2), 0);
	assert_declined(0, 3, 3);
	assert_int_equal(send_inv(node, 0, 0, 7, 2000, run, 0), 0);
	assert_declined(0, 1, 3);
	assert_int_equal(say(node, 5, GVM_COH_ACK, 0, 7, 0), 0);
	assert_int_equal(seen.to, 2);
	assert_int_equal(send_inv(node, 0, 0, 8, 2000, run, 0), 0);
	assert_int_equal(seen.access[0], IVY_NONE);
	end(node);
}

static struct gvm_hdr last_inv;

static void note_last_inv(uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	if (h->type == GVM_COH_INV)
		last_inv = *h;
}

/* And nobody can guess it: of two rounds none says anything of the other, nor does the version. */
static void rounds_cannot_be_guessed(void **state)
{
	struct ivy *home = shared_by(3);
	uint64_t first;

	seen.on_send = note_last_inv;
	assert_int_equal(say(home, 2, GVM_COH_WRITE, 1, 99, 0), 0);
	first = last_inv.xid;
	assert_true(first - last_inv.arg > 1000 && last_inv.arg - first > 1000);
	ivy_tick(home, ivy_next_tick(home)); /* nobody has answered: a new one */
	assert_int_equal(seen.sent.type, GVM_COH_INV);
	assert_true(first - seen.sent.xid > 1000 && seen.sent.xid - first > 1000);
	end(home);
}

/* A pinned page stays, and who is said to want it is not believed: it can be pinned again. */
static void a_relay_does_not_keep_a_page_from_being_pinned(void **state)
{
	const uint16_t ids[] = { 5 };
	struct ivy *node = sharer();

	assert_int_equal(ivy_pin(node, 0, IVY_READ), 0);
	assert_int_equal(send_inv(node, 2, 0, 7, 2000, ids, 1), 0);
	assert_declined(2, 2, 3);
	ivy_unpin(node, 0);
	assert_int_equal(seen.of_type[GVM_COH_READY], 0);
	assert_int_equal(ivy_pin(node, 0, IVY_READ), 0);
	assert_int_equal(send_inv(node, 0, 0, 8, 2000, ids, 1), 0);
	assert_declined(0, 2, 3);
	ivy_unpin(node, 0);
	assert_int_equal(seen.of_type[GVM_COH_READY], 1);
	assert_int_equal(ivy_pin(node, 0, IVY_READ), -EAGAIN);
	assert_int_equal(seen.access[0], IVY_READ);
	end(node);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_in_no_tree_is_refused),
		cmocka_unit_test(a_relay_is_not_to_blame_for_an_owner),
		cmocka_unit_test(who_is_ahead_with_a_round_keeps_nobody_from_it),
		cmocka_unit_test(rounds_cannot_be_guessed),
		cmocka_unit_test(a_relay_does_not_keep_a_page_from_being_pinned),
		cmocka_unit_test(a_home_does_not_pass_on_what_others_say),
		cmocka_unit_test(a_home_that_shares_tells_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
