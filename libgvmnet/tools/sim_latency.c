/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A histogram whose buckets are a SIM_STEPS-th of a power of two wide: less than 1 % off. */
#include "tools/sim.h"

static unsigned bucket_of(uint64_t ns)
{
	unsigned shift;

	if (ns < SIM_STEPS)
		return (unsigned)ns;
	shift = 63u - (unsigned)__builtin_clzll(ns) - 7u; /* 7: log2 of the steps */
	return shift * SIM_STEPS + (unsigned)(ns >> shift);
}

/* The largest value of a bucket. */
static uint64_t edge_of(unsigned bucket)
{
	unsigned shift;

	if (bucket < 2 * SIM_STEPS)
		return bucket;
	shift = bucket / SIM_STEPS - 1;
	return (((uint64_t)(bucket % SIM_STEPS + SIM_STEPS) + 1) << shift) - 1;
}

void sim_latency_add(struct sim_latency *l, uint64_t ns)
{
	l->count++;
	l->sum += ns;
	if (ns > l->max)
		l->max = ns;
	l->bucket[bucket_of(ns)]++;
}

uint64_t sim_latency_part(const struct sim_latency *l, unsigned thousandths)
{
	uint64_t want = (l->count * thousandths + 999) / 1000, seen = 0;
	unsigned i;

	for (i = 0; i < SIM_BUCKETS && want; i++) {
		seen += l->bucket[i];
		if (seen >= want)
			return edge_of(i) < l->max ? edge_of(i) : l->max;
	}
	return l->max;
}
