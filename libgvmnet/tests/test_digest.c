/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Digests of pages: any change shows, whichever instructions the CPU has, and the sum is the one
 * that digest.h says (so that what is proven there holds).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "../pager/digest.h"

static struct digest_key key;
static uint64_t page[DIGEST_WORDS];

/* In the field of 2^64 elements, one bit at a time. */
static uint64_t times(uint64_t a, uint64_t b)
{
	uint64_t product = 0;

	for (; b; b >>= 1) {
		if (b & 1)
			product ^= a;
		a = a << 1 ^ (a >> 63 ? 0x1b : 0);
	}
	return product;
}

static void by_hand(struct digest *digest)
{
	uint64_t one = 0, two = 0;

	for (unsigned i = 0; i < DIGEST_WORDS; i += 2) {
		one ^= times(page[i] ^ key.first[i], page[i + 1] ^ key.first[i + 1]);
		two ^= times(page[i] ^ key.second[i], page[i + 1] ^ key.second[i + 1]);
	}
	memcpy(digest->byte, &one, 8);
	memcpy(digest->byte + 8, &two, 2);
}

static int setup(void **state)
{
	(void)state;
	if (digest_init(&key))
		skip();
	for (unsigned i = 0; i < DIGEST_WORDS; i++)
		page[i] = i * 0x9e3779b97f4a7c15ull;
	return 0;
}

static void sum_is_what_it_says(void **state)
{
	struct digest a, b, c;

	(void)state;
	for (unsigned round = 0; round < 16; round++) {
		page[round * 31] ^= key.second[round]; /* all sorts of contents */
		digest_page(&key, page, &a);
		digest_page_plain(&key, page, &b);
		by_hand(&c);
		assert_memory_equal(&a, &c, sizeof(a));
		assert_memory_equal(&b, &c, sizeof(a));
		assert_true(digest_matches(&key, page, &c));
	}
	memset(page, 0, sizeof(page));
	digest_page(&key, page, &a);
	by_hand(&c);
	assert_memory_equal(&a, &c, sizeof(a));
}

static void every_bit_counts(void **state)
{
	struct digest before;

	(void)state;
	digest_page(&key, page, &before);
	for (unsigned bit = 0; bit < DIGEST_WORDS * 64; bit++) {
		page[bit / 64] ^= 1ull << bit % 64;
		assert_false(digest_matches(&key, page, &before));
		page[bit / 64] ^= 1ull << bit % 64;
	}
	assert_true(digest_matches(&key, page, &before));
}

/* Words that change places, and pairs that do, which a mere sum would not see. */
static void order_counts(void **state)
{
	struct digest before;
	uint64_t word = page[0];

	(void)state;
	digest_page(&key, page, &before);
	page[0] = page[1];
	page[1] = word;
	assert_false(digest_matches(&key, page, &before));
	page[1] = page[0];
	page[0] = page[2];
	page[2] = word;
	word = page[1];
	page[1] = page[3];
	page[3] = word;
	assert_false(digest_matches(&key, page, &before));
}

static void keys_differ(void **state)
{
	static struct digest_key other;
	struct digest mine;

	(void)state;
	assert_int_equal(digest_init(&other), 0);
	digest_page(&key, page, &mine);
	assert_false(digest_matches(&other, page, &mine));
	assert_memory_not_equal(other.first, other.second, sizeof(other.first));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(sum_is_what_it_says, setup),
		cmocka_unit_test_setup(every_bit_counts, setup),
		cmocka_unit_test_setup(order_counts, setup),
		cmocka_unit_test_setup(keys_differ, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
