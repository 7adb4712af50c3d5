/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* References to pages as programs make them: some of them often, most of them seldom. */
#ifndef GVM_TESTS_ZIPF_H
#define GVM_TESTS_ZIPF_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

static uint64_t zipf_seed;

/* xorshift64; the seed is not 0. */
static uint64_t zipf_random(void)
{
	zipf_seed ^= zipf_seed << 13;
	zipf_seed ^= zipf_seed >> 7;
	zipf_seed ^= zipf_seed << 17;
	return zipf_seed;
}

/* Zipf over n items with exponent s: the cumulated weights, and pages in an order of no meaning. */
struct zipf {
	uint32_t n;
	double *upto;
	uint32_t *page;
};

static void zipf_make(struct zipf *z, uint32_t n, double s)
{
	double sum = 0;

	z->n = n;
	z->upto = malloc(n * sizeof(*z->upto));
	z->page = malloc(n * sizeof(*z->page));
	for (uint32_t i = 0; i < n; i++) {
		sum += pow(i + 1, -s);
		z->upto[i] = sum;
		z->page[i] = i;
	}
	for (uint32_t i = n - 1; i > 0; i--) {
		uint32_t j = (uint32_t)(zipf_random() % (i + 1)), t = z->page[i];

		z->page[i] = z->page[j];
		z->page[j] = t;
	}
}

static uint32_t zipf_draw(const struct zipf *z)
{
	double at = (double)(zipf_random() >> 11) / (double)(1ull << 53) * z->upto[z->n - 1];
	uint32_t low = 0, high = z->n - 1;

	while (low < high) {
		uint32_t mid = (low + high) / 2;

		if (z->upto[mid] < at)
			low = mid + 1;
		else
			high = mid;
	}
	return z->page[low];
}

static void zipf_free(struct zipf *z)
{
	free(z->upto);
	free(z->page);
}

#endif
