/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The pager's counters: each shard writes its own, a reader adds them up without asking anyone. A
 * sum may be a moment old and not of one instant.
 */
#include "internal.h"

#define COUNT(field, unit, help)                                                                   \
	{                                                                                          \
#field, unit, help, offsetof(struct gvm_pager_stats, field), 0                     \
	}
#define LEVEL(field, unit, help)                                                                   \
	{                                                                                          \
#field, unit, help, offsetof(struct gvm_pager_stats, field), 1                     \
	}

static const struct gvm_counter counters[] = {
	COUNT(faults, "faults", "Page faults served, all kinds."),
	COUNT(faults_remote, "faults", "Faults that fetched their page from a memory node."),
	COUNT(faults_zero, "faults", "First touches of pages that were never stored."),
	COUNT(faults_write, "faults", "First writes to clean pages that were here."),
	COUNT(faults_victim, "faults", "Faults on pages on their way out, which came back."),
	COUNT(faults_prefetch, "faults",
	      "Faults that waited for a page that prefetch had under way."),
	COUNT(fetched_pages, "pages", "Pages fetched from memory nodes."),
	COUNT(fetched_bytes, "bytes", "Bytes fetched from memory nodes."),
	COUNT(prefetched_pages, "pages", "Pages fetched before they were asked for."),
	COUNT(prefetch_used, "pages", "Prefetched pages that were seen to be used."),
	COUNT(prefetch_wasted, "pages",
	      "Prefetched pages that left without being seen to be used."),
	COUNT(zeros_ahead, "pages",
	      "Pages never stored that were put there as zeros before they were asked for."),
	COUNT(evicted_pages, "pages", "Pages that left local memory."),
	COUNT(evicted_clean, "pages", "Pages that left without being written on the way out."),
	COUNT(evicted_zero, "pages", "Pages that left as zeros, which cost nothing."),
	COUNT(written_pages, "pages", "Pages written back to memory nodes."),
	COUNT(written_bytes, "bytes", "Bytes written back to memory nodes."),
	COUNT(discarded_pages, "pages", "Stored pages that the program discarded."),
	COUNT(retries, "operations", "Operations that had to be tried again."),
	COUNT(unreachable_zeroed, "pages",
	      "Pages read as zeros because their node did not answer, or has lost them."),
	COUNT(unreachable_sigbus, "pages", "Pages whose access raised SIGBUS."),
	COUNT(lost_pages, "pages", "Pages that a memory node has lost."),
	LEVEL(resident_pages, "pages", "Pages in the program's mappings."),
	LEVEL(local_pages, "pages", "Pages held locally: resident, on their way out or in."),
	LEVEL(dirty_pages, "pages", "Pages out of the mappings that wait to be written."),
	LEVEL(attached_pages, "pages", "Pages of all ranges."),
	LEVEL(stored_pages, "pages",
	      "Pages that the regions hold for this pager, as far as written."),
	LEVEL(metadata_bytes, "bytes", "Memory of the pager's own bookkeeping."),
	LEVEL(nodes_away, "nodes", "Memory nodes that cannot be reached."),
};

const struct gvm_counter *gvm_pager_counters(size_t *count)
{
	*count = sizeof(counters) / sizeof(counters[0]);
	return counters;
}

static uint64_t load(const uint64_t *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

static void add_shard(struct gvm_pager_stats *sum, const struct shard *shard)
{
	for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++) {
		uint64_t *to = (uint64_t *)((char *)sum + counters[i].offset);
		const uint64_t *from =
		    (const uint64_t *)((const char *)&shard->stats + counters[i].offset);

		*to += load(from);
	}
}

/* Bookkeeping that grows with what is here: frames that were ever in use, for they are not given
 * back, and slots, which are used in turn; and the fixed part. */
static uint64_t shard_metadata(const struct shard *shard)
{
	uint64_t frames = __atomic_load_n(&shard->frame_used, __ATOMIC_RELAXED);
	uint64_t slots = __atomic_load_n(&shard->slot_limit, __ATOMIC_RELAXED);
	uint64_t outlets = __atomic_load_n(&shard->outlets_seen, __ATOMIC_RELAXED);
	uint64_t puts = outlets * PUTS_NODE < PUTS ? outlets * PUTS_NODE : PUTS;

	return frames * sizeof(struct frame) + slots * sizeof(struct slot) + sizeof(*shard) +
	       FAULTS * 2 * sizeof(struct fault) + TRACKERS * sizeof(struct tracker) +
	       puts * sizeof(struct put) + outlets * sizeof(struct outlet) +
	       (DEMANDS + shard->aheads) * sizeof(struct fetch);
}

void gvm_pager_stats(struct gvm_pager *pager, struct gvm_pager_stats *stats,
		     struct gvm_pager_latency *latency)
{
	memset(stats, 0, sizeof(*stats));
	if (latency)
		memset(latency, 0, sizeof(*latency));
	stats->metadata_bytes = load(&pager->metadata);
	for (unsigned i = 0; i < pager->shards; i++) {
		const struct shard *shard = &pager->shard[i];

		add_shard(stats, shard);
		stats->metadata_bytes += shard_metadata(shard);
		stats->resident_pages += __atomic_load_n(&shard->mapped.count, __ATOMIC_RELAXED) +
					 __atomic_load_n(&shard->aside.count, __ATOMIC_RELAXED);
		stats->dirty_pages += __atomic_load_n(&shard->dirty, __ATOMIC_RELAXED);
		if (!latency)
			continue;
		gvm_hist_merge(&latency->all, &shard->latency.remote);
		gvm_hist_merge(&latency->all, &shard->latency.zero);
		gvm_hist_merge(&latency->all, &shard->latency.write);
		gvm_hist_merge(&latency->all, &shard->latency.victim);
		gvm_hist_merge(&latency->remote, &shard->latency.remote);
		gvm_hist_merge(&latency->zero, &shard->latency.zero);
		gvm_hist_merge(&latency->write, &shard->latency.write);
		gvm_hist_merge(&latency->victim, &shard->latency.victim);
	}
	stats->local_pages = load(&pager->used);
	stats->attached_pages = load(&pager->attached);
	stats->nodes_away = load(&pager->nodes_away);
}
