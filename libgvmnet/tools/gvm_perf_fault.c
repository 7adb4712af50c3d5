/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm perf fault: `depth` threads touch the pages of a paged range, each its own part, in order or
 * in a shuffled order that is the same in each round. With less than half of the range here, nearly
 * every touch is a fault; how many were is taken from the pager's own counters. The measuring
 * thread owns the range, each touching thread its struct toucher.
 *
 * The measuring thread itself never touches the range: a thread that waits for a page of a node
 * that has gone does not come back, and somebody must say so and end the process.
 */
#include "tools/gvm.h"
#include "tools/gvm_perf.h"

#include <errno.h>
#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>
#include <gvmnet/pager.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define INTERRUPT_NS 500000000ull /* until the threads must have seen an interruption */

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

/* ---- threads that do not come back ----------------------------------------------------------- */

/* For the signal handlers, and the pager's threads. */
static struct {
	uint8_t *base;
	uint64_t bytes;
	sem_t news;  /* posted for whatever the measuring thread waits for */
	int ended;   /* atomic: touching threads that have */
	int no_page; /* atomic: one has met a page that cannot be had */
	/* atomic: since when each node is away; 0: it is not */
	uint64_t away_since[GVM_MAX_NODES];
	uint64_t patience_ns; /* with a node that is away */
} watch;

static void interrupt(void)
{
	sem_post(&watch.news);
}

/* The thread stays here: what it has read so far would be the measurement of nothing. */
static void no_page(int signal, siginfo_t *info, void *context)
{
	(void)context;
	if ((uint8_t *)info->si_addr < watch.base ||
	    (uint8_t *)info->si_addr >= watch.base + watch.bytes) {
		/* not ours: it is raised again on return, and ends the process as it should */
		sigaction(signal, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
		return;
	}
	__atomic_store_n(&watch.no_page, 1, __ATOMIC_RELEASE);
	sem_post(&watch.news);
	for (;;)
		pause();
}

static int watch_begin(const struct fault_run *run)
{
	struct sigaction action = { .sa_sigaction = no_page, .sa_flags = SA_SIGINFO };

	watch.base = run->base;
	watch.bytes = run->perf->span;
	if (sigaction(SIGBUS, &action, NULL))
		return -errno;
	perf_interrupt = interrupt;
	return 0;
}

/* A thread that waits for room, which is to be had from the node only, meets no such page. */
static void node_state(void *arg, unsigned node, int why)
{
	(void)arg;
	if (why == -EIO)
		__atomic_store_n(&watch.no_page, 1, __ATOMIC_RELEASE);
	if (!why)
		__atomic_store_n(&watch.away_since[node], 0, __ATOMIC_RELAXED);
	else if (!__atomic_load_n(&watch.away_since[node], __ATOMIC_RELAXED))
		__atomic_store_n(&watch.away_since[node], gvm_now(), __ATOMIC_RELAXED);
	sem_post(&watch.news);
}

/* When patience with a node that is away ends; GVM_NEVER: none is. */
static uint64_t away_limit(void)
{
	uint64_t limit = GVM_NEVER;

	for (unsigned i = 0; i < GVM_MAX_NODES; i++) {
		uint64_t since = __atomic_load_n(&watch.away_since[i], __ATOMIC_RELAXED);

		if (since && since + watch.patience_ns < limit)
			limit = since + watch.patience_ns;
	}
	return limit;
}

static void wait_news(uint64_t until)
{
	struct timespec at;
	uint64_t now = gvm_now(), ns;

	if (until == GVM_NEVER) {
		sem_wait(&watch.news);
		return;
	}
	clock_gettime(CLOCK_REALTIME, &at);
	ns = (uint64_t)at.tv_nsec + (until > now ? until - now : 0);
	at.tv_sec += (time_t)(ns / 1000000000);
	at.tv_nsec = (long)(ns % 1000000000);
	sem_timedwait(&watch.news, &at);
}

/* Until count threads have ended. -EHOSTUNREACH: one never will; -EINTR: one does not in time
 * after an interruption. */
static int await(int count)
{
	uint64_t told = GVM_NEVER;

	while (__atomic_load_n(&watch.ended, __ATOMIC_ACQUIRE) < count) {
		uint64_t now = gvm_now(), away = away_limit();

		if (perf_interrupted && told == GVM_NEVER)
			told = now + INTERRUPT_NS;
		if (now >= told)
			return -EINTR;
		if (now >= away || __atomic_load_n(&watch.no_page, __ATOMIC_ACQUIRE))
			return -EHOSTUNREACH;
		wait_news(told < away ? told : away);
	}
	return 0;
}

/* Each thread's page is refused by itself, and in each one's own time. */
static void say_no_more(enum gvm_log_level level, const char *line)
{
	(void)level;
	(void)line;
}

/* Neither can the threads be joined nor the range taken from under them. The nodes that are there
 * are told, so that they keep nothing. */
static __attribute__((noreturn)) void give_up(const struct fault_run *run, int why)
{
	gvm_log_set(say_no_more);
	fprintf(stderr, "gvm perf: %s\n",
		why == -EINTR ? "interrupted while a memory node did not answer"
			      : "a memory node cannot be reached any more, or has lost the region");
	gvm_pager_leave(run->pager);
	_exit(GVM_EXIT_FAILED);
}

/* ---- touching -------------------------------------------------------------------------------- */

static void ended(void)
{
	__atomic_fetch_add(&watch.ended, 1, __ATOMIC_RELEASE);
	sem_post(&watch.news);
}

/* Each page differs from zeros and from the others. */
static void *fill_main(void *arg)
{
	struct fault_run *run = arg;

	for (uint32_t p = 0; p < run->pages && !perf_interrupted; p++) {
		uint64_t *page = (uint64_t *)(run->base + (uint64_t)p * GVM_PAGE_SIZE);

		page[0] = p + 1ull;
		page[511] = ~(uint64_t)p;
	}
	ended();
	return NULL;
}

static int fill(struct fault_run *run)
{
	pthread_t thread;
	int rc = -pthread_create(&thread, NULL, fill_main, run);

	if (rc)
		return rc;
	rc = await(1);
	if (rc)
		give_up(run, rc);
	pthread_join(thread, NULL);
	__atomic_store_n(&watch.ended, 0, __ATOMIC_RELAXED);
	return 0;
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
	ended();
	return NULL;
}

static int run_touchers(struct fault_run *run)
{
	struct perf *perf = run->perf;
	struct toucher *all = calloc(perf->depth, sizeof *all);
	uint64_t begin = UINT64_MAX, end = 0;
	unsigned started = 0;
	int rc = all ? 0 : -ENOMEM, stuck;

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
	stuck = await((int)started);
	if (stuck)
		give_up(run, stuck);
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
	/* whatever GVM_UNREACHABLE says: to wait for ever measures nothing, nor do zeros */
	config.unreachable = GVM_UNREACHABLE_SIGBUS;
	config.node_state = node_state;
	watch.patience_ns = config.unreachable_ms * 1000000ull;
	if (sem_init(&watch.news, 0, 0))
		return -errno;
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
	return run->order ? watch_begin(run) : -ENOMEM;
}

static void close_all(struct fault_run *run)
{
	perf_interrupt = NULL;
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
	if (rc == 0)
		rc = fill(&run);
	if (rc == 0) {
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
