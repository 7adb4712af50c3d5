/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Placement: weighted rendezvous hashing. Each memory node draws a number u in (0, 1) for a slab, a
 * hash of (region, slab, node); the node with the least -log2(u) / weight is the home, the next
 * ones have the copies. A node wins in proportion to its weight, and one that comes or goes moves
 * only the slabs that it wins (Thaler and Ravishankar, "Using name-based mappings to increase hit
 * rates", 1998; the weighting after Schindelhauer and Schomaker, "Weighted distributed hash
 * tables", 2005).
 *
 * All nodes must come to the same answer whatever their processor and C library, so there is no
 * floating point: -log2(u) is a fixed-point number with 48 fraction bits, by a table of 1,024
 * segments and linear interpolation. Its relative error is at most 1/4,096, most of it common to
 * all nodes; scores are compared by exact 128-bit products, equal ones by the lower id. These
 * numbers are part of the protocol: changing any of them moves every slab.
 *
 * Pure functions of an immutable map: any thread.
 */
#include "core/cluster_map.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define FRACTION_BITS 48
#define SEGMENT_BITS  10
#define SEGMENTS      (1u << SEGMENT_BITS)
#define GOLDEN        0x9e3779b97f4a7c15ull /* 2^64 divided by the golden ratio */

static uint64_t log2_table[SEGMENTS + 1]; /* log2(1 + i / SEGMENTS) */
static pthread_once_t log2_once = PTHREAD_ONCE_INIT;

/* The finaliser of SplitMix64 (Steele, Lea, Flood 2014; constants by Stafford): a bijection. */
static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

/* log2 of x in [1, 2), 63 fraction bits: squaring doubles the logarithm, one bit at a time. */
static uint64_t log2_bits(uint64_t x)
{
	uint64_t bits = 0;
	int i;

	for (i = 0; i < FRACTION_BITS; i++) {
		unsigned __int128 square = (unsigned __int128)x * x >> 63;
		unsigned two = square >> 64 != 0;

		bits = bits << 1 | two;
		x = (uint64_t)(square >> two);
	}
	return bits;
}

static void fill_log2_table(void)
{
	uint64_t i;

	for (i = 0; i < SEGMENTS; i++)
		log2_table[i] = log2_bits((1ull << 63) + (i << (63 - SEGMENT_BITS)));
	log2_table[SEGMENTS] = 1ull << FRACTION_BITS;
}

/* -log2(h / 2^64), h not 0. */
static uint64_t neg_log2(uint64_t h)
{
	unsigned zeros = (unsigned)__builtin_clzll(h);
	uint64_t mantissa = h << zeros << 1; /* the bits behind the leading one */
	unsigned i = (unsigned)(mantissa >> (64 - SEGMENT_BITS));
	uint64_t within = mantissa << SEGMENT_BITS;
	uint64_t step = log2_table[i + 1] - log2_table[i];
	uint64_t part = (uint64_t)((unsigned __int128)step * within >> 64);

	return ((uint64_t)(zeros + 1) << FRACTION_BITS) - log2_table[i] - part;
}

/* ---- preparing a map ----------------------------------------------------------------------- */

static int by_weight(const void *a, const void *b)
{
	const struct gvm_candidate *x = a, *y = b;

	if (x->weight != y->weight)
		return x->weight < y->weight ? -1 : 1;
	return (int)x->id - (int)y->id;
}

int gvm_place_prepare(struct gvm_cluster *cluster)
{
	struct gvm_candidate *c = calloc(cluster->count + 1, sizeof(*c));
	uint64_t digest = mix(GOLDEN);
	size_t i, n = 0;

	if (!c)
		return -ENOMEM;
	pthread_once(&log2_once, fill_log2_table);
	for (i = 0; i < cluster->count; i++) {
		const struct gvm_node *node = &cluster->nodes[i];

		if (!(node->roles & GVM_ROLE_MEMORY))
			continue;
		c[n++] = (struct gvm_candidate){
			.seed = mix((node->id + 1) * GOLDEN),
			.weight = node->weight,
			.id = (uint16_t)node->id,
		};
		digest = mix(digest ^ ((uint64_t)node->id << 32 | node->weight)) + GOLDEN;
	}
	qsort(c, n, sizeof(*c), by_weight);
	cluster->candidates = c;
	cluster->candidate_count = n;
	cluster->digest = digest ? digest : 1;
	return 0;
}

/* ---- placing ------------------------------------------------------------------------------- */

struct score {
	uint64_t cost; /* -log2(u) */
	uint32_t weight;
	uint16_t id;
};

static int better(const struct score *a, const struct score *b)
{
	unsigned __int128 x = (unsigned __int128)a->cost * b->weight;
	unsigned __int128 y = (unsigned __int128)b->cost * a->weight;

	return x != y ? x < y : a->id < b->id;
}

/* Put s in its place among the best n, of at most want; 0: it is not one of them. */
static int rank(struct score *best, unsigned *n, unsigned want, const struct score *s)
{
	unsigned i;

	if (*n == want && !better(s, &best[want - 1]))
		return 0;
	for (i = *n < want ? (*n)++ : want - 1; i > 0 && better(s, &best[i - 1]); i--)
		best[i] = best[i - 1];
	best[i] = *s;
	return 1;
}

/*
 * Among nodes of one weight the cost falls as the hash grows. So once one was not good enough,
 * no lower hash of that weight can be, and the logarithm is worked out for a few nodes only.
 */
static unsigned best_of(const struct gvm_cluster *cluster, uint64_t draw, unsigned want,
			struct score *best)
{
	const struct gvm_candidate *c = cluster->candidates, *end = c + cluster->candidate_count;
	uint64_t beaten = 0;
	uint32_t weight = 0;
	unsigned n = 0;

	for (; c < end; c++) {
		uint64_t h = mix(draw ^ c->seed);
		struct score s;

		if (c->weight != weight) {
			weight = c->weight;
			beaten = 0;
		} else if (h <= beaten) {
			continue;
		}
		s = (struct score){ neg_log2(h ? h : 1), weight, c->id };
		if (!rank(best, &n, want, &s))
			beaten = h;
	}
	return n;
}

static uint64_t draw_of(uint64_t region, uint64_t slab)
{
	return mix(mix(region) + slab * GOLDEN);
}

int gvm_place(const struct gvm_cluster *cluster, uint64_t region, uint64_t slab, unsigned want,
	      uint16_t *nodes)
{
	struct score best[GVM_MAX_COPIES];
	unsigned n, i;

	if (want > GVM_MAX_COPIES)
		want = GVM_MAX_COPIES;
	if (want == 0)
		return 0;
	n = best_of(cluster, draw_of(region, slab), want, best);
	for (i = 0; i < n; i++)
		nodes[i] = best[i].id;
	return (int)n;
}

uint64_t gvm_place_share(const struct gvm_cluster *cluster, uint64_t region, uint64_t slabs,
			 unsigned node)
{
	uint64_t slab, share = 0;
	struct score home;

	for (slab = 0; slab < slabs; slab++)
		share += best_of(cluster, draw_of(region, slab), 1, &home) && home.id == node;
	return share;
}
