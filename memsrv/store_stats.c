/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The store's figures. */
#include "store_internal.h"

#define FIELD(field, unit, help, gauge)                                                            \
	{                                                                                          \
#field, unit, help, offsetof(struct store_stats, field), gauge                     \
	}
static const struct gvm_counter counters[] = {
	FIELD(memory_bytes, "bytes", "memory that slabs may take", 1),
	FIELD(limit_bytes, "bytes", "memory that may be promised to regions", 1),
	FIELD(reserved_bytes, "bytes", "memory that is promised to regions", 1),
	FIELD(stored_bytes, "bytes", "memory of slabs that exist", 1),
	FIELD(engine_bytes, "bytes",
	      "memory of shared regions' directories, requests and rounds, beside the slabs", 1),
	FIELD(huge_bytes, "bytes", "slabs that were remade of huge pages", 1),
	FIELD(regions, "regions", "regions", 1),
	FIELD(regions_held, "regions", "regions that a client holds", 1),
	FIELD(regions_lingering, "regions", "regions that wait for their client", 1),
	FIELD(lingering_bytes, "bytes",
	      "promised memory that is free again when lost clients do not come back", 1),
	FIELD(sessions, "connections", "connections that have used a region", 1),
	FIELD(resting, "connections", "connections that rest: closed, and their regions held", 1),
	FIELD(slabs, "slabs", "slabs with storage, counted in each region that has them", 1),
	FIELD(keys, "keys", "memory keys that are given out", 1),
	FIELD(draining, "", "1: the node is going away", 1),
	FIELD(opens, "operations", "regions opened", 0),
	FIELD(creates, "operations", "regions made", 0),
	FIELD(deletes, "operations", "regions deleted", 0),
	FIELD(clones, "operations", "regions cloned", 0),
	FIELD(resizes, "operations", "regions resized", 0),
	FIELD(grants, "operations", "slabs granted for writing", 0),
	FIELD(copies, "operations", "slabs copied on write", 0),
	FIELD(discarded_pages, "pages", "pages discarded", 0),
	FIELD(expired, "operations", "holds that ended because the client did not come back", 0),
	FIELD(refused_space, "operations", "requests refused for want of space", 0),
	FIELD(refused_busy, "operations",
	      "requests refused because another client holds the region", 0),
	FIELD(refused_other, "operations", "requests refused for another reason", 0),
};

const struct gvm_counter *store_counters(size_t *count)
{
	*count = sizeof(counters) / sizeof(counters[0]);
	return counters;
}

void store_stats(struct store *store, struct store_stats *stats)
{
	struct region *r;
	uint64_t until;

	pthread_mutex_lock(&store->lock);
	*stats = store->stats;
	stats->memory_bytes = store->config.memory;
	stats->limit_bytes = store->config.limit;
	stats->reserved_bytes = store->reserved;
	stats->stored_bytes = atomic_load(&store->pool.bytes);
	stats->engine_bytes = atomic_load(&store->pool.engine_bytes);
	stats->huge_bytes = atomic_load(&store->pool.huge_bytes);
	stats->lingering_bytes = room_lingering(store, &until);
	TAILQ_FOREACH(r, &store->regions, order)
	{
		stats->regions_held += r->sessions ? 1 : 0;
		stats->regions_lingering += r->linger_until ? 1 : 0;
	}
	pthread_mutex_unlock(&store->lock);
}
