/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm perf: what its files share. gvm_perf.c has the command line and the report, gvm_perf_net.c
 * measures send, fetch and put, gvm_perf_fault.c page faults. The measuring thread owns it all.
 */
#ifndef GVM_PERF_H
#define GVM_PERF_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

/* A recorder's buckets: 128 linear steps per power of two, so that a percentile is at most 0.8 %
 * too high, which comparing two medians needs. */
#define PERF_STEPS   128u
#define PERF_BUCKETS (58u * PERF_STEPS)

struct perf_recorder {
	uint64_t count, sum, min, max;
	uint32_t bucket[PERF_BUCKETS];
};
void perf_record(struct perf_recorder *recorder, uint64_t ns);
void perf_merge(struct perf_recorder *into, const struct perf_recorder *from);
uint64_t perf_percentile(const struct perf_recorder *recorder, double fraction);

enum perf_test { PERF_SEND, PERF_FETCH, PERF_PUT, PERF_FAULT };

struct perf {
	/* what is asked for */
	enum perf_test test;
	const char *connect, *cluster_file;
	const char *region;  /* its name; NULL: one that no other process has */
	long node;           /* only this one; -1: all */
	int local;           /* serve in this process */
	uint64_t size, span; /* bytes of an operation; bytes that they go over */
	unsigned depth;
	uint64_t iterations, warmup; /* iterations 0: by time */
	double seconds;
	int cpu, server_cpu; /* -1: not pinned */
	int sequential, write;
	uint64_t local_bytes; /* fault: how much may be here */
	int told;             /* why it is not possible was said already */
	/* what was found */
	char target[128];
	struct perf_recorder latency;
	double took; /* seconds that the recorded operations took */
	uint64_t faults, faults_remote, faults_prefetch, fetched_pages, written_pages; /* fault */
};

/* Set by SIGINT and SIGTERM: end early, report what there is. */
extern volatile sig_atomic_t perf_interrupted;
/* Called by that signal's handler, if not NULL: async-signal-safe. */
extern void (*volatile perf_interrupt)(void);

/* The nodes that --connect or --cluster names. Complains by itself. */
struct gvm_cluster;
int perf_cluster(struct perf *perf, struct gvm_cluster **cluster);
uint64_t perf_random(uint64_t *state);
struct gvm_net;
void perf_region_name(const struct perf *perf, char *name, size_t size);
/* Say why it is not possible, unless that was said. */
void perf_tell(const struct perf *perf, int status);

/* 0, or a negative errno with a sentence on standard error. */
int perf_net(struct perf *perf);
int perf_fault(struct perf *perf);

#endif
