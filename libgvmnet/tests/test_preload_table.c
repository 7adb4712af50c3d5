/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The preload library's table of addresses against a map of single pages that does the same the
 * slow way, and its rules of what is taken over.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>
#include "tools/preload.h"

#define PAGES 64
#define BASE  ((uintptr_t)1 << 32)

static uintptr_t addr(size_t page)
{
	return BASE + page * PRELOAD_PAGE;
}

static void agree(const struct table *table, const int *owner, const struct source *sources)
{
	unsigned refs[3] = { 0 };

	for (size_t i = 0; i < table->count; i++) {
		assert_true(table->seg[i].bytes > 0);
		assert_true(!i ||
			    table->seg[i - 1].base + table->seg[i - 1].bytes <= table->seg[i].base);
		refs[table->seg[i].source - sources]++;
	}
	for (size_t page = 0; page < PAGES; page++) {
		const struct seg *seg = table_at(table, addr(page) + 5);
		assert_int_equal(seg ? seg->source - sources + 1 : 0, owner[page]);
	}
	for (int i = 0; i < 3; i++)
		assert_int_equal(refs[i], sources[i].refs);
}

static void a_random_walk_agrees_with_single_pages(void **state)
{
	struct source sources[3] = { { .bytes = 1 } };
	struct table table = { 0 };
	int owner[PAGES] = { 0 };

	srand(7);
	for (int step = 0; step < 20000; step++) {
		size_t from = (size_t)rand() % PAGES, len = 1 + (size_t)rand() % (PAGES - from);
		int who = rand() % 4; /* 0: remove */
		table_cut(&table, addr(from));
		table_cut(&table, addr(from + len));
		while (table_meets(&table, addr(from), len * PRELOAD_PAGE))
			table_remove(&table, table_find(&table, addr(from)));
		for (size_t i = from; i < from + len; i++)
			owner[i] = who;
		if (who) {
			struct seg seg = { .base = addr(from),
					   .bytes = len * PRELOAD_PAGE,
					   .source = &sources[who - 1] };
			assert_int_equal(table_add(&table, &seg), 0);
			assert_true(table_covered(&table, seg.base, seg.bytes, SEG_USED));
			assert_false(table_covered(&table, seg.base, seg.bytes, SEG_FREE));
			table_join(&table, table_find(&table, seg.base));
		}
		agree(&table, owner, sources);
	}
	free(table.seg);
}

static void blocks_of_malloc_do_not_join(void **state)
{
	struct source source = { .bytes = 1 };
	struct table table = { 0 };

	for (size_t i = 0; i < 4; i++) {
		struct seg seg = {
			.base = addr(i), .bytes = PRELOAD_PAGE, .source = &source, .malloced = i < 2
		};
		assert_int_equal(table_add(&table, &seg), 0);
		table_join(&table, table_find(&table, seg.base));
	}
	assert_int_equal(table.count, 3); /* two blocks, and two pages that are one segment */
	free(table.seg);
}

static void free_space_is_found_with_alignment(void **state)
{
	struct table table = { 0 };
	struct source source = { .bytes = 1 };
	struct seg seg = {
		.base = addr(1), .bytes = 8 * PRELOAD_PAGE, .source = &source, .state = SEG_FREE
	};

	assert_int_equal(table_fit(&table, PRELOAD_PAGE, PRELOAD_PAGE), 0);
	assert_int_equal(table_add(&table, &seg), 0);
	assert_int_equal(table_fit(&table, 8 * PRELOAD_PAGE, PRELOAD_PAGE), addr(1));
	assert_int_equal(table_fit(&table, 9 * PRELOAD_PAGE, PRELOAD_PAGE), 0);
	assert_int_equal(table_fit(&table, PRELOAD_PAGE, 4 * PRELOAD_PAGE), addr(4));
	assert_int_equal(table_fit(&table, 5 * PRELOAD_PAGE, 4 * PRELOAD_PAGE), addr(4));
	assert_int_equal(table_fit(&table, 6 * PRELOAD_PAGE, 4 * PRELOAD_PAGE), 0);
	assert_int_equal(table_fit(&table, PRELOAD_PAGE, 64 * PRELOAD_PAGE), 0);
	free(table.seg);
}

static void what_is_taken(void **state)
{
	const struct policy any = { .min = 1 << 20, .match = "" },
			    shared = { .min = 1 << 20, .match = "", .shared = 1 },
			    named = { .min = 1 << 20, .match = " x " };
	const int rw = PROT_READ | PROT_WRITE, anon = MAP_PRIVATE | MAP_ANONYMOUS;
	const struct {
		const struct policy *policy;
		size_t len;
		int prot, flags;
		enum verdict verdict;
	} cases[] = {
		{ &any, 1 << 20, rw, anon, TAKE_ANON },
		{ &any, (1 << 20) - 1, rw, anon, TAKE_NO },
		{ &any, 1 << 20, PROT_WRITE, anon | MAP_FIXED | MAP_NORESERVE, TAKE_ANON },
		{ &any, 1 << 20, PROT_READ, anon, TAKE_NO },
		{ &any, 1 << 20, PROT_NONE, anon, TAKE_RESERVE },
		{ &any, 1 << 20, rw | PROT_EXEC, anon, TAKE_NO },
		{ &any, 1 << 20, rw, anon | MAP_STACK, TAKE_NO },
		{ &any, 1 << 20, rw, anon | MAP_GROWSDOWN, TAKE_NO },
		{ &any, 1 << 20, rw, anon | MAP_HUGETLB, TAKE_NO },
		{ &any, 1 << 20, rw, MAP_SHARED | MAP_ANONYMOUS, TAKE_NO },
		{ &shared, 1 << 20, rw, MAP_SHARED | MAP_ANONYMOUS, TAKE_SHARED },
		{ &shared, 1 << 20, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, TAKE_NO },
		{ &any, 1 << 20, rw, MAP_SHARED, TAKE_FILE },
		{ &any, 1 << 20, rw, MAP_SHARED_VALIDATE, TAKE_FILE },
		{ &any, 1 << 20, PROT_READ, MAP_SHARED, TAKE_NO },
		{ &any, 1 << 20, rw, MAP_PRIVATE, TAKE_NO },
		{ &any, 4096, rw, MAP_SHARED, TAKE_NO },
		{ &named, 4096, rw, MAP_SHARED, TAKE_FILE },
		{ &named, 4096, rw, anon, TAKE_NO },
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		const char *why = NULL;
		assert_int_equal(policy_mmap(cases[i].policy, cases[i].len, cases[i].prot,
					     cases[i].flags, 0, &why),
				 cases[i].verdict);
		assert_int_equal(why != NULL, cases[i].verdict == TAKE_NO);
	}
}

static void names_match_by_path_or_last_part(void **state)
{
	assert_true(policy_match("guest-*", "/memfd:x,/dev/shm/guest-ram"));
	assert_true(policy_match("a,/dev/shm/*", "/dev/shm/ram"));
	assert_true(policy_match("memfd:ram*", "/memfd:ram (deleted)"));
	assert_false(policy_match("", "/dev/shm/ram"));
	assert_false(policy_match(",,x", "/dev/shm/ram"));
	assert_false(policy_match("ra", "/dev/shm/ram"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_random_walk_agrees_with_single_pages),
		cmocka_unit_test(blocks_of_malloc_do_not_join),
		cmocka_unit_test(free_space_is_found_with_alignment),
		cmocka_unit_test(what_is_taken),
		cmocka_unit_test(names_match_by_path_or_last_part),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
