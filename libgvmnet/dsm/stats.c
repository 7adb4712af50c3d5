/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Figures of a shared region, read by any thread. */
#include "dsm/internal.h"

#define COUNTER(field, unit, gauge, help)                                                          \
	{                                                                                          \
#field, unit, help, offsetof(struct gvm_dsm_stats, field), gauge                   \
	}

static const struct gvm_counter counters[] = {
	COUNTER(faults_read, "faults", 0, "Reads that needed another node."),
	COUNTER(faults_write, "faults", 0, "Writes that needed another node."),
	COUNTER(faults_failed, "faults", 0, "Accesses that cannot be served: SIGBUS."),
	COUNTER(sent, "messages", 0, "Messages of the protocol that were sent."),
	COUNTER(received, "messages", 0, "Messages of the protocol that were taken."),
	COUNTER(bytes_sent, "bytes", 0, "Bytes of messages sent."),
	COUNTER(bytes_received, "bytes", 0, "Bytes of messages received."),
	COUNTER(pages_sent, "pages", 0, "Pages sent that were not zero."),
	COUNTER(pages_received, "pages", 0, "Pages received that were not zero."),
	COUNTER(deltas_sent, "pages", 0, "Of the pages sent: as what has changed of them."),
	COUNTER(delta_saved, "bytes", 0, "Bytes by which these were shorter."),
	COUNTER(repeated, "messages", 0, "Requests that were made again."),
	COUNTER(invalidated, "pages", 0, "Copies given up to a writer elsewhere."),
	COUNTER(evicted, "pages", 0, "Pages sent home for want of room, or by hint."),
	COUNTER(refused, "messages", 0, "Messages that broke the rules."),
	COUNTER(stale, "messages", 0, "Messages of another epoch, or of who is lost."),
	COUNTER(late, "messages", 0, "Messages that came too late to matter."),
	COUNTER(no_memory, "events", 0, "A limit or the allocator said no."),
	COUNTER(sessions_lost, "connections", 0, "Connections to other members that ended."),
	COUNTER(homes_dead, "nodes", 0, "Homes that were given up."),
	COUNTER(pages_here, "pages", 1, "Pages that are here or wanted."),
	COUNTER(nodes_here, "nodes", 1, "Members that are connected."),
};

const struct gvm_counter *gvm_dsm_counters(size_t *count)
{
	*count = sizeof(counters) / sizeof(counters[0]);
	return counters;
}

static uint64_t read_one(const uint64_t *value)
{
	return __atomic_load_n(value, __ATOMIC_RELAXED);
}

void gvm_dsm_stats(const struct gvm_dsm *dsm, struct gvm_dsm_stats *stats)
{
	const char *from = (const char *)&dsm->stats;
	char *to = (char *)stats;

	for (size_t i = 0; i < sizeof(*stats); i += sizeof(uint64_t))
		*(uint64_t *)(to + i) = read_one((const uint64_t *)(from + i));
	stats->refused += read_one(&dsm->engine_refused);
	stats->late += read_one(&dsm->engine_late);
	stats->faults_failed += read_one(&dsm->engine_failed);
}

void gvm_dsm_latency(const struct gvm_dsm *dsm, int write, struct gvm_hist *hist)
{
	const uint64_t *from = (const uint64_t *)&dsm->latency[write != 0];
	uint64_t *to = (uint64_t *)hist;

	for (size_t i = 0; i < sizeof(*hist) / sizeof(uint64_t); i++)
		to[i] = read_one(&from[i]);
}
