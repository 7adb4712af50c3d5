/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs that start in the same moment: with a clock that only the test moves, how many of them
 * connect to one node in the same millisecond; and that a program on its own does not wait for
 * that.
 */
#define NODES 8
#include "tests/region_nodes.h"
#include "core/region_internal.h"

#define PROGRAMS 4000u
#define WIDE     250u /* nodes of the region of each */

static uint64_t next_random(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

/* Programs' regions have their nodes in orders of their own, by placement; here they are drawn. */
static void test_many_programs(void **state)
{
	static uint32_t at[WIDE][REGION_SPREAD_MAX_NS / 1000000];
	uint32_t most_first = 0, most_later = 0;
	uint64_t latest = 0;

	(void)state;
	rng = 0x9e3779b97f4a7c15ull;
	for (unsigned p = 0; p < PROGRAMS; p++) {
		unsigned first = (unsigned)(next_random() % WIDE);

		for (unsigned i = 1; i < WIDE; i++) { /* 0 is the home, which was asked before */
			uint64_t ns = i <= REGION_AT_ONCE
					  ? 0
					  : region_spread(next_random(), WIDE, 10000 * MS);

			at[(first + i) % WIDE][ns / MS]++;
			latest = ns > latest ? ns : latest;
		}
	}
	for (unsigned n = 0; n < WIDE; n++) {
		most_first = at[n][0] > most_first ? at[n][0] : most_first;
		for (unsigned ms = 1; ms < WIDE; ms++)
			most_later = at[n][ms] > most_later ? at[n][ms] : most_later;
	}
	/* all of them would be 4,000; evenly spread they are 16 a millisecond, and 64 at once */
	assert_in_range(most_first, 64, 200);
	assert_in_range(most_later, 16, 64);
	assert_in_range(latest, 200 * MS, 250 * MS);
}

static void test_bounds(void **state)
{
	(void)state;
	for (uint64_t r = 0; r < 100; r++) {
		uint64_t random = r * (UINT64_MAX / 100);

		assert_true(region_spread(random, 10, 10000 * MS) < 10 * MS);
		assert_true(region_spread(random, 10240, 10000 * MS) < 2000 * MS);
		assert_true(region_spread(random, 10240, 100 * MS) < 25 * MS);
		assert_int_equal(region_spread(random, 10240, 0), 0);
	}
	assert_true(region_spread(UINT64_MAX / 3, 10240, GVM_NEVER) > 0);
}

/* The home, then four at once, the rest a moment later; none is forgotten. */
static void test_one_program(void **state)
{
	struct gvm_region_config config = { .name = "vm1",
					    .bytes = (uint64_t)M_SLABS * SLAB,
					    .slab_bytes = SLAB,
					    .flags = GVM_REGION_CREATE,
					    .arg = &opening };
	uint64_t now = 0;
	unsigned timed = 0;

	(void)state;
	opening = (struct opening){ 0 };
	assert_int_equal(
	    gvm_region_open(worker, &config, gvm_now() + 10000 * MS, opened_cb, &region), 0);
	UNTIL(region->state != REGION_PROBING);
	now = gvm_now();
	for (unsigned i = 0; i < region->node_count; i++) {
		struct region_node *n = region->nodes[i];

		timed += n->retry.place != 0;
		assert_true(!n->retry.place || n->retry.when <= now + NODES * MS);
		assert_true(n->retry.place || n->calling || n->known);
	}
	assert_true(timed <= NODES - 1 - REGION_AT_ONCE);
	UNTIL(opening.called);
	assert_int_equal(opening.status, 0);
	for (uint64_t s = 0; s < M_SLABS; s++)
		put_version(s * SLAB_PAGES, s + 1);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_many_programs),
		cmocka_unit_test(test_bounds),
		T(test_one_program),
	};

	begin(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
