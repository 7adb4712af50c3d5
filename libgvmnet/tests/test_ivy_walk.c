/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that a walk through many pages of a node costs what is here, in pieces that are bounded;
 * that each page is met once, however the table grows meanwhile; and what stays.
 */
#include "ivy_alone.h"

#define HERE 900u /* pages; the table has 1024 chains then */

/* No two are one. */
static uint64_t far_page(uint32_t i)
{
	return i % 2 ? i : (uint64_t)i * 4001 % PAGES;
}

static void have(struct ivy *ivy, uint64_t page)
{
	struct gvm_hdr data;

	assert_int_equal(ivy_fault(ivy, page, IVY_READ), 1);
	data = message(GVM_COH_DATA, page, seen.sent.xid, 7);
	data.flags = GVM_F_ZERO;
	assert_int_equal(ivy_receive(ivy, (uint16_t)(page & 1), &data, NULL), 0);
	assert_int_equal(ivy_page_access(ivy, page), IVY_READ);
}

static uint32_t pinned(const struct ivy *ivy)
{
	struct ivy_stats st;

	ivy_stats(ivy, &st);
	return st.pinned;
}

/* Of many pages those are looked at that are here, a bounded number at a time. */
static void what_is_not_here_is_not_walked(void **state)
{
	struct ivy *ivy = engine(2);
	struct ivy_walk walk;
	uint32_t gone = 0, i;

	ivy_walk_begin(ivy, &walk, 0, PAGES);
	assert_true(walk.over); /* nothing at all */
	for (i = 0; i < HERE; i++)
		have(ivy, far_page(i));
	ivy_walk_begin(ivy, &walk, 5, 5);
	assert_true(walk.over);
	ivy_walk_begin(ivy, &walk, 0, PAGES);
	while (!walk.over) {
		uint64_t before = walk.looked;

		gone += ivy_walk_on(ivy, &walk, IVY_WALK_EVICT, 16);
		assert_true(walk.looked > before && walk.looked < before + 16 + 16);
	}
	assert_int_equal(gone, HERE);
	assert_true(walk.looked <= 2048 + HERE);
	/* of a range that has less pages than there are here: those */
	have(ivy, 3);
	have(ivy, 1000);
	ivy_walk_begin(ivy, &walk, 0, 1000);
	assert_int_equal(ivy_walk_on(ivy, &walk, IVY_WALK_EVICT, 5000), 1);
	assert_true(walk.over);
	assert_int_equal(walk.looked, 1000);
	assert_int_equal(ivy_page_access(ivy, 1000), IVY_READ);
	/* and of more than that only those within */
	have(ivy, 2999);
	have(ivy, 3000);
	ivy_walk_begin(ivy, &walk, 1001, 3000);
	assert_int_equal(ivy_walk_on(ivy, &walk, IVY_WALK_EVICT, 5000), 1);
	assert_int_equal(ivy_page_access(ivy, 2999), IVY_NONE);
	assert_int_equal(ivy_page_access(ivy, 3000), IVY_READ);
	end(ivy);
}

/* However the table grows meanwhile: of two pins of each page one is ended. */
static void each_page_is_walked_once(void **state)
{
	for (uint32_t stop = 1; stop < 40; stop++) {
		struct ivy *ivy = engine(2);
		struct ivy_walk walk;
		uint32_t more = 20, i;

		for (i = 0; i < 2 * more; i++) {
			have(ivy, far_page(i));
			assert_int_equal(ivy_pin(ivy, far_page(i), IVY_READ), 0);
			if (i < more)
				assert_int_equal(ivy_pin(ivy, far_page(i), IVY_READ), 0);
		}
		ivy_walk_begin(ivy, &walk, 0, PAGES);
		ivy_walk_on(ivy, &walk, IVY_WALK_UNPIN, stop);
		for (i = 0; i < HERE - 2 * more; i += stop) /* it doubles, more than once */
			have(ivy, far_page(2 * more + i));
		while (!walk.over)
			ivy_walk_on(ivy, &walk, IVY_WALK_UNPIN, stop);
		assert_int_equal(pinned(ivy), more);
		ivy_walk_begin(ivy, &walk, 0, PAGES);
		ivy_walk_on(ivy, &walk, IVY_WALK_UNPIN, 5000);
		assert_int_equal(pinned(ivy), 0);
		end(ivy);
	}
}

/* What cannot go yet is open, and stays. */
static void who_leaves_pins_nothing(void **state)
{
	struct ivy *ivy = engine(2);
	struct ivy_stats st;
	struct ivy_walk walk;

	have(ivy, 8);
	have(ivy, 10);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(ivy_pin(ivy, 8, IVY_READ), 0);
	assert_int_equal(ivy_fault(ivy, 10, IVY_WRITE), 1);
	ivy_stats(ivy, &st);
	assert_int_equal(st.open, 1);
	ivy_walk_begin(ivy, &walk, 0, PAGES);
	assert_int_equal(ivy_walk_on(ivy, &walk, IVY_WALK_EVICT, 5000), 0);
	ivy_walk_begin(ivy, &walk, 0, PAGES);
	assert_int_equal(ivy_walk_on(ivy, &walk, IVY_WALK_LEAVE, 5000), 1);
	ivy_stats(ivy, &st);
	assert_int_equal(st.pages, 1);
	assert_int_equal(st.open, 1);
	end(ivy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_not_here_is_not_walked),
		cmocka_unit_test(each_page_is_walked_once),
		cmocka_unit_test(who_leaves_pins_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
