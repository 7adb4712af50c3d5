/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A simulated cluster: many coherence engines (ivy/) in one process, a network with delays, loss of
 * connections, partitions and deaths, and programs that read and write pages. One seed repeats a
 * run exactly. What the engine promises is checked as it goes: one writer or many readers, and who
 * maps a page finds in it what was written last.
 */
#ifndef GVM_SIM_H
#define GVM_SIM_H

#include <stddef.h>
#include <stdint.h>

enum sim_pattern {
	SIM_UNIFORM,   /* any page */
	SIM_HOT,       /* half of all accesses to 1/64 of the pages */
	SIM_MIGRATORY, /* read a page, then write it */
	SIM_BROADCAST, /* all nodes read page 0, then the last node writes it; nothing else */
	SIM_ZIPF,      /* the i-th page 1/i as often as the first */
	SIM_READERS,   /* the last node writes all pages, the others read them */
	SIM_PING_PONG, /* two nodes write pages that they have for themselves */
	SIM_PRODUCER,  /* one of two nodes writes them, the other one reads */
};

struct sim_config {
	uint64_t seed;
	uint32_t nodes, homes; /* homes: nodes 0 to homes - 1 are home of the pages, in turn */
	uint32_t pages;
	uint64_t
	    ops; /* accesses of all programs together; SIM_BROADCAST: not looked at, one each */
	enum sim_pattern pattern;
	uint32_t write_percent, evict_percent;
	uint64_t latency_ns, jitter_ns; /* of a message: latency and up to jitter more */
	uint64_t think_ns;              /* between two accesses of a program, at most */
	uint32_t slow_nodes;            /* messages to them take 20 times as long */
	uint64_t chaos_ns;              /* about as often a connection breaks, or many; 0: never */
	uint32_t loss; /* of a million messages, so many are lost, and their connection with them */
	uint32_t partitions; /* so many times the cluster falls in two, for at most partition_ns */
	uint64_t partition_ns;
	uint32_t crashes; /* so many times a node that is no home dies, and comes back */
	/* So many times a home dies, with its directory and its store, and is started again. Homes
	 * run no programs then, as memory nodes do not. */
	uint32_t returns;
	uint32_t twice;      /* of a million messages, so many arrive twice, one behind the other */
	uint32_t alloc_fail; /* one of so many allocations fails; 0: none */
	/* Bytes of 4 KiB, in one place, that a write changes, 1 to SIM_CHANGED_MAX: pages are sent
	 * as deltas where their base is there. 0: whole, always. */
	uint32_t changed;
	uint32_t entries; /* of a home's directory, beyond which pages are taken back; 0: any */
};

#define SIM_CHANGED_MAX 3052u /* above that a delta is not worth it */

#define SIM_STEPS   128u
#define SIM_BUCKETS (58u * SIM_STEPS)

struct sim_latency {
	uint64_t count, sum, max;
	uint32_t bucket[SIM_BUCKETS];
};
void sim_latency_add(struct sim_latency *l, uint64_t ns);
/* So many thousandths of all take this or less. */
uint64_t sim_latency_part(const struct sim_latency *l, unsigned thousandths);

struct sim_result {
	char error[256]; /* what was wrong; empty: nothing */
	uint64_t events, messages, bytes, pages_sent;
	uint64_t deltas, bytes_whole;            /* pages sent as such; bytes if none had been */
	uint64_t accesses, hits, faults, failed; /* failed: the page was lost */
	uint64_t resets, dropped, partitions, deaths, returns, twice, refused, repeated, lost;
	uint64_t time_ns;                   /* simulated, up to the end of the last access */
	struct sim_latency latency[2];      /* of faults: to read, to write */
	uint64_t last_fault_ns;             /* SIM_BROADCAST: of the write */
	uint64_t last_messages, last_bytes; /* and what it took */
	uint64_t entries, directory_bytes, reclaimed;
	uint64_t node_least, node_most; /* accesses of the node with the least, the most */
	double
	    fairness; /* Jain's index of them: 1 if all have had the same, 1/nodes if one had all */
	uint64_t digest; /* of all that happened: the same seed has the same */
};

/* 0; -1: result->error says what was wrong, and when. */
int sim_run(const struct sim_config *config, struct sim_result *result);

#endif
