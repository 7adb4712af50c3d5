/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "tools/sim_work.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "tools/sim.h"

/* The i-th page has 1/i of the weight of the first (Zipf's law with an exponent of 1). */
static int weigh(struct sim_work *work)
{
	uint64_t sum = 0;
	uint32_t i;

	work->weights = malloc(work->config->pages * sizeof(*work->weights));
	if (!work->weights)
		return -ENOMEM;
	for (i = 0; i < work->config->pages; i++)
		work->weights[i] = sum += (1ull << 40) / (i + 1);
	return 0;
}

int sim_work_init(struct sim_work *work, const struct sim_config *config)
{
	memset(work, 0, sizeof(*work));
	work->config = config;
	return config->pattern == SIM_ZIPF ? weigh(work) : 0;
}

void sim_work_fini(struct sim_work *work)
{
	free(work->weights);
}

static uint32_t zipf(const struct sim_work *work, uint64_t *rng)
{
	uint32_t low = 0, high = work->config->pages - 1;
	uint64_t at = sim_below(rng, work->weights[high]);

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (work->weights[middle] > at)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* The pages are dealt out to pairs of nodes, who go through their own in turn. */
static uint32_t of_pair(const struct sim_config *c, uint32_t node, uint64_t done)
{
	uint32_t pairs = (c->nodes + 1) / 2, each = c->pages / pairs, pair = node / 2;

	return each ? pair * each + (uint32_t)(done % each) : pair % c->pages;
}

int sim_work_next(const struct sim_work *work, uint64_t *rng, uint32_t node, uint64_t done,
		  struct sim_access *a)
{
	const struct sim_config *c = work->config;

	a->page = 0;
	a->write = a->then_write = 0;
	switch (c->pattern) {
	case SIM_BROADCAST:
		return done == 0;
	case SIM_PING_PONG:
		a->page = of_pair(c, node, done);
		a->write = 1;
		return 1;
	case SIM_PRODUCER:
		a->page = of_pair(c, node, done);
		a->write = node % 2 == 0;
		return 1;
	case SIM_READERS:
		a->page = (uint32_t)sim_below(rng, c->pages);
		a->write = node == c->nodes - 1;
		return 1;
	case SIM_ZIPF:
		a->page = zipf(work, rng);
		break;
	case SIM_HOT:
		a->page =
		    (uint32_t)sim_below(rng, sim_below(rng, 2) ? c->pages : c->pages / 64 + 1);
		break;
	default:
		a->page = (uint32_t)sim_below(rng, c->pages);
	}
	a->then_write = c->pattern == SIM_MIGRATORY;
	a->write = !a->then_write && sim_below(rng, 100) < c->write_percent;
	return 1;
}
