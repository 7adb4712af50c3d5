/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm perf fault: `depth` threads touch the pages of a paged range, each its own part, in order or
 * in a shuffled order that is the same in each round. With less than half of the range here, nearly
 * every touch is a fault; how many were is taken from the pager's own counters. The measuring
 * thread owns the range, each touching thread its struct toucher.
 */
#include "tools/gvm_perf.h"

#include <errno.h>
#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>
#include <gvmnet/pager.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fault_run {
	struct perf *perf;
	struct gvm_cluster *cluster;
	struct gvm_net *net;
	struct gvm_pager *pager;
	struct gvm_range *range;
	uint8_t *base;
	uint32_t *order, pages;
};

struct toucher {
	struct fault_run *run;
	pthread_t thread;
	uint32_t first, count; /* its part of order */
	uint64_t begin, end;
	struct perf_recorder latency;
};

static int pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((unsigned)cpu, &set);
	return -pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

/* Each page differs from zeros and from the others. */
static void fill(struct fault_run *run)
{
	for (uint32_t p = 0; p < run->pages && !perf_interrupted; p++) {
		uint64_t *page = (uint64_t *)(run->base + (uint64_t)p * GVM_PAGE_SIZE);

		page[0] = p + 1ull;
		page[511] = ~(uint64_t)p;
	}
}

static void make_order(struct fault_run *run)
{
	uint64_t random = 88172645463325252ull;

	for (uint32_t p = 0; p < run->pages; p++)
		run->order[p] = p;
	if (run->perf->sequential)
		return;
	for (uint32_t p = run->pages - 1; p > 0; p--) {
		uint32_t other = (uint32_t)(perf_random(&random) % (p + 1ull)), was = run->order[p];

		run->order[p] = run->order[other];
		run->order[other] = was;
	}
}

/* 0, or -EIO if the page is not what was put there. */
static int touch(const struct fault_run *run, uint32_t p)
{
	volatile uint64_t *page = (uint64_t *)(run->base + (uint64_t)p * GVM_PAGE_SIZE);

	if (run->perf->write)
		page[1]++;
	return page[0] == p + 1ull ? 0 : -EIO;
}

static void *toucher_main(void *arg)
{
	struct toucher *t = arg;
	struct fault_run *run = t->run;
	struct perf *perf = run->perf;
	uint64_t warmup = perf->warmup / perf->depth, now = gvm_now(), limit = UINT64_MAX, then;
	uint64_t most = (perf->iterations + perf->depth - 1) / perf->depth;

	for (uint64_t i = 0; !perf_interrupted; i++) {
		if (i == warmup) {
			t->begin = now;
			limit = most ? UINT64_MAX : now + (uint64_t)(perf->seconds * 1e9);
		}
		if (i >= warmup && (now >= limit || (most && i - warmup >= most)))
			break;
		then = gvm_now();
		if (touch(run, run->order[t->first + i % t->count])) {
			fprintf(stderr, "gvm perf: a page is not what was written to it\n");
			abort();
		}
		now = gvm_now();
		if (i >= warmup)
			perf_record(&t->latency, now - then);
	}
	t->end = now;
	return NULL;
}

static int run_touchers(struct fault_run *run)
{
	struct perf *perf = run->perf;
	struct toucher *all = calloc(perf->depth, sizeof *all);
	uint64_t begin = UINT64_MAX, end = 0;
	unsigned started = 0;
	int rc = all ? 0 : -ENOMEM;

	for (; !rc && started < perf->depth; started++) {
		struct toucher *t = &all[started];

		t->run = run;
		t->first = (uint32_t)((uint64_t)run->pages * started / perf->depth);
		t->count =
		    (uint32_t)((uint64_t)run->pages * (started + 1) / perf->depth) - t->first;
		rc = -pthread_create(&t->thread, NULL, toucher_main, t);
		if (rc)
			break;
	}
	if (rc)
		perf_interrupted = 1;
	for (unsigned i = 0; i < started; i++) {
		pthread_join(all[i].thread, NULL);
		perf_merge(&perf->latency, &all[i].latency);
		if (all[i].latency.count) {
			begin = all[i].begin < begin ? all[i].begin : begin;
			end = all[i].end > end ? all[i].end : end;
		}
	}
	if (end > begin)
		perf->took = (double)(end - begin) / 1e9;
	free(all);
	return rc;
}

static int open_all(struct fault_run *run)
{
	struct perf *perf = run->perf;
	struct gvm_net_config net = { .node = GVM_NODE_NONE };
	struct gvm_pager_config config;
	char name[64];
	int rc = perf_cluster(perf, &run->cluster);

	if (rc)
		return rc;
	net.cluster = run->cluster;
	rc = gvm_net_open(&net, &run->net);
	if (rc)
		return rc;
	gvm_pager_config_init(&config);
	config.local_bytes = perf->local_bytes;
	rc = gvm_pager_open(run->net, &config, &run->pager);
	if (rc)
		return rc;
	perf_region_name(perf, name, sizeof name);
	rc = gvm_pager_attach(run->pager, name, NULL, perf->span, -1, 0, GVM_ATTACH_ANON,
			      &run->range);
	if (rc)
		return rc;
	run->base = gvm_range_base(run->range);
	run->pages = (uint32_t)(perf->span / GVM_PAGE_SIZE);
	run->order = calloc(run->pages, sizeof *run->order);
	return run->order ? 0 : -ENOMEM;
}

static void close_all(struct fault_run *run)
{
	if (run->range)
		gvm_pager_detach(run->range);
	if (run->pager)
		gvm_pager_close(run->pager);
	if (run->net)
		gvm_net_close(run->net);
	gvm_cluster_free(run->cluster);
	free(run->order);
}

int perf_fault(struct perf *perf)
{
	struct fault_run run = { .perf = perf };
	struct gvm_pager_stats before, after;
	int rc;

	if (perf->span / GVM_PAGE_SIZE > UINT32_MAX || perf->span / GVM_PAGE_SIZE < perf->depth) {
		fprintf(stderr,
			"gvm perf: --bytes must give each thread a page, and be under 16T\n");
		return -EINVAL;
	}
	rc = open_all(&run);
	if (rc == 0 && perf->cpu >= 0)
		rc = pin(perf->cpu); /* after the pager's threads exist: they are not bound by it */
	if (rc == 0) {
		fill(&run);
		make_order(&run);
		gvm_pager_stats(run.pager, &before, NULL);
		rc = run_touchers(&run);
		gvm_pager_stats(run.pager, &after, NULL);
		perf->faults = after.faults - before.faults;
		perf->faults_remote = after.faults_remote - before.faults_remote;
		perf->faults_prefetch = after.faults_prefetch - before.faults_prefetch;
		perf->fetched_pages = after.fetched_pages - before.fetched_pages;
		perf->written_pages = after.written_pages - before.written_pages;
		snprintf(perf->target, sizeof perf->target,
			 "%s, %s %s over %llu MiB, %llu MiB here", gvm_net_transport(run.net),
			 perf->sequential ? "sequential" : "random",
			 perf->write ? "writes" : "reads", (unsigned long long)(perf->span >> 20),
			 (unsigned long long)(perf->local_bytes >> 20));
		if (rc == 0 && perf->latency.count == 0)
			rc = -EINTR;
	}
	if (rc)
		perf_tell(perf, rc);
	close_all(&run);
	return rc;
}
