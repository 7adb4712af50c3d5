/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the programs of a simulated cluster (sim.h) do: which page each of them wants next, and what
 * for. And the chance that all of it hangs on: whole numbers alone, so that a seed means the same
 * on every machine.
 */
#ifndef GVM_SIM_WORK_H
#define GVM_SIM_WORK_H

#include <stdint.h>

struct sim_config;

struct sim_work {
	const struct sim_config *config;
	uint64_t *weights; /* SIM_ZIPF: of the pages up to this one */
};

struct sim_access {
	uint32_t page;
	uint8_t write, then_write; /* then_write: the same page, next */
};

static inline uint64_t sim_draw(uint64_t *rng)
{
	uint64_t x = *rng += 0x9e3779b97f4a7c15ull; /* SplitMix64 */

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static inline uint64_t sim_below(uint64_t *rng, uint64_t n)
{
	return n ? (uint64_t)(((unsigned __int128)sim_draw(rng) * n) >> 64) : 0;
}

/* 0 or -ENOMEM. config must outlive it. */
int sim_work_init(struct sim_work *work, const struct sim_config *config);
void sim_work_fini(struct sim_work *work);
/* What the program of a node wants that has had done accesses. 0: nothing more. */
int sim_work_next(const struct sim_work *work, uint64_t *rng, uint32_t node, uint64_t done,
		  struct sim_access *access);

#endif
