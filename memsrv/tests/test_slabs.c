/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The sparse array holds what was put in, in order, at any index, and frees what it does not need.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "slabs.h"

static int value[4];

static void finds_what_was_set(void **state)
{
	const uint64_t at[] = { 0, 15, 16, 4095, UINT64_C(1) << 40, UINT64_MAX };
	struct slab_map map = { 0 };
	uint64_t i = 0;

	assert_null(slab_map_get(&map, 0));
	assert_null(slab_map_next(&map, &i));
	for (size_t n = 0; n < 6; n++)
		assert_int_equal(slab_map_set(&map, at[n], &value[n % 4]), 0);
	for (size_t n = 0; n < 6; n++)
		assert_ptr_equal(slab_map_get(&map, at[n]), &value[n % 4]);
	assert_null(slab_map_get(&map, 1));
	assert_null(slab_map_get(&map, UINT64_MAX - 1));
	for (size_t n = 0; n < 6; n++) {
		assert_ptr_equal(slab_map_next(&map, &i), &value[n % 4]);
		assert_int_equal(i, at[n]);
		i++;
	}
	i = (UINT64_C(1) << 40) + 1;
	assert_non_null(slab_map_next(&map, &i));
	assert_int_equal(i, UINT64_MAX);
	for (size_t n = 6; n-- > 0;)
		slab_map_clear(&map, at[n]);
	assert_null(map.root);
	assert_int_equal(map.height, 0);
}

/* Random sets and clears against a plain array. */
static void agrees_with_an_array(void **state)
{
	static void *plain[5000];
	struct slab_map map = { 0 };
	unsigned seed = 7;

	for (int n = 0; n < 50000; n++) {
		uint64_t i = (uint64_t)rand_r(&seed) % 5000, j = i;

		if (rand_r(&seed) & 1) {
			plain[i] = &value[i % 4];
			assert_int_equal(slab_map_set(&map, i, plain[i]), 0);
		} else {
			plain[i] = NULL;
			slab_map_clear(&map, i);
		}
		assert_ptr_equal(slab_map_get(&map, i), plain[i]);
		while (i < 5000 && !plain[i])
			i++;
		if (i < 5000) {
			assert_ptr_equal(slab_map_next(&map, &j), plain[i]);
			assert_int_equal(j, i);
		} else {
			assert_null(slab_map_next(&map, &j));
		}
	}
	for (uint64_t i = 0; i < 5000; i++)
		slab_map_clear(&map, i);
	assert_null(map.root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_what_was_set),
		cmocka_unit_test(agrees_with_an_array),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
