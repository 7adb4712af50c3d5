/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm-bench --sizes: the figures that no clock is needed for. What the pager and the memory node
 * take beside the data, what an idle connection costs the node, and how the pager's choice of what
 * stays here compares with exact LRU, over a working set of four times the local budget.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <gvmnet/gvmnet.h>
#include <gvmnet/pager.h>
#include "bench.h"
#include "tests/zipf.h"

#define IDLE     500u
#define OVER     4u       /* working set over local budget */
#define DRAWS    1000000u /* of which the first half warms up */
#define EXPONENT 0.99

/* Of all memory of the process, in KiB. */
static long resident_kb(pid_t pid)
{
	char line[256], path[64];
	long kb = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmRSS: %ld", &kb) == 1)
			break;
	if (f)
		fclose(f);
	return kb;
}

/* One line of the table. least: the goal is a smallest value, not a largest. */
static int report(const char *what, double value, double goal, int least)
{
	int met = least ? value >= goal : value <= goal;

	printf("%-58s %8.2f   %s %5.1f   %s\n", what, value, least ? ">=" : "<=", goal,
	       met ? "met" : "MISSED");
	return !met;
}

/* ---- idle connections ---------------------------------------------------------------------- */

/* Each worker is a client with a connection of its own. */
static int connect_one(struct gvm_net *net, struct gvm_worker **worker)
{
	struct gvm_worker_config config = { .cpu = -1 };
	uint64_t end = gvm_now() + 5000000000u;
	struct gvm_peer *peer;
	int err = gvm_worker_open(net, &config, worker);

	if (!err)
		err = gvm_peer_get(*worker, 1, &peer);
	if (!err)
		err = gvm_peer_connect(peer);
	while (!err && gvm_peer_state(peer) != GVM_PEER_READY) {
		if (gvm_now() > end)
			return -ETIMEDOUT;
		gvm_worker_wait(*worker, 100000000u);
	}
	return err;
}

static int idle_connections(const struct bench_node *node, double *kb)
{
	static struct gvm_worker *workers[IDLE];
	long before = 0;
	int err = 0;
	unsigned n;

	/* The first few make what the node has once. */
	for (n = 0; !err && n < IDLE; n++) {
		if (n == IDLE / 10)
			before = resident_kb(node->server);
		err = connect_one(node->net, &workers[n]);
	}
	*kb = (double)(resident_kb(node->server) - before) / (IDLE - IDLE / 10);
	while (n--)
		if (workers[n])
			gvm_worker_close(workers[n]);
	return err;
}

/* ---- exact LRU, of the same references ------------------------------------------------------ */

struct lru {
	uint32_t *newer, *older; /* by page; the page behind the last one is the ring's head */
	uint8_t *here;
	uint32_t pages, room, misses;
};

static void lru_unlink(struct lru *l, uint32_t page)
{
	l->newer[l->older[page]] = l->newer[page];
	l->older[l->newer[page]] = l->older[page];
}

static void lru_touch(struct lru *l, uint32_t page)
{
	uint32_t head = l->pages;

	if (l->here[page]) {
		lru_unlink(l, page);
	} else {
		l->misses++;
		l->here[page] = 1;
		if (l->room) {
			l->room--;
		} else {
			uint32_t oldest = l->newer[head];

			l->here[oldest] = 0;
			lru_unlink(l, oldest);
		}
	}
	l->newer[page] = head;
	l->older[page] = l->older[head];
	l->newer[l->older[page]] = page;
	l->older[head] = page;
}

static int lru_make(struct lru *l, uint32_t pages, uint32_t room)
{
	*l = (struct lru){ .newer = calloc(pages + 1, sizeof(uint32_t)),
			   .older = calloc(pages + 1, sizeof(uint32_t)),
			   .here = calloc(pages + 1, 1),
			   .pages = pages,
			   .room = room };
	if (!l->newer || !l->older || !l->here)
		return -ENOMEM;
	l->newer[pages] = l->older[pages] = pages;
	return 0;
}

static void lru_free(struct lru *l)
{
	free(l->newer);
	free(l->older);
	free(l->here);
}

/* ---- the pager ------------------------------------------------------------------------------ */

static uint64_t waited(struct gvm_pager *pager)
{
	struct gvm_pager_stats stats;

	gvm_pager_stats(pager, &stats, NULL);
	return gvm_pager_faults_waited(&stats);
}

/* Rates in percent, of the second half of the references. */
static int hit_rates(struct gvm_pager *pager, struct gvm_range *range, double *here, double *exact)
{
	uint32_t pages = (uint32_t)(gvm_range_bytes(range) / PAGE);
	uint64_t before = 0;
	struct zipf z;
	struct lru l;
	int err = lru_make(&l, pages, pages / OVER);

	zipf_seed = 88172645463325252u;
	zipf_make(&z, pages, EXPONENT);
	for (uint32_t i = 0; !err && i < DRAWS; i++) {
		uint32_t page = zipf_draw(&z);
		volatile uint64_t *at =
		    (uint64_t *)(void *)((char *)gvm_range_base(range) + (size_t)page * PAGE);

		if (i == DRAWS / 2) {
			before = waited(pager);
			l.misses = 0;
		}
		lru_touch(&l, page);
		if (*at != bench_stamp(page))
			err = -EILSEQ;
	}
	*here = 100.0 - 100.0 * (double)(waited(pager) - before) / (DRAWS - DRAWS / 2);
	*exact = 100.0 - 100.0 * l.misses / (DRAWS - DRAWS / 2);
	zipf_free(&z);
	lru_free(&l);
	return err;
}

struct sizes {
	double idle_kb, beside, bookkeeping, here, exact;
};

static int of_range(const struct bench_node *node, struct gvm_pager *pager, struct gvm_range *range,
		    struct sizes *sizes)
{
	uint64_t bytes = gvm_range_bytes(range);
	long before = resident_kb(node->server);
	struct gvm_pager_stats stats;
	int err;

	for (uint32_t i = 0; i < bytes / PAGE; i++)
		bench_fill((char *)gvm_range_base(range) + (size_t)i * PAGE, i);
	err = gvm_pager_sync(range);
	if (err)
		return err;
	sizes->beside = ((double)(resident_kb(node->server) - before) * 1024 - (double)bytes) *
			100 / (double)bytes;
	err = hit_rates(pager, range, &sizes->here, &sizes->exact);
	gvm_pager_stats(pager, &stats, NULL);
	sizes->bookkeeping = (double)stats.metadata_bytes / (double)(bytes / PAGE);
	return err;
}

static int of_pager(const struct bench_node *node, uint64_t bytes, struct sizes *sizes,
		    const char **why)
{
	struct gvm_pager_config config;
	struct gvm_range *range = NULL;
	struct gvm_pager *pager;
	int err;

	gvm_pager_config_init(&config);
	config.local_bytes = bytes / OVER;
	*why = "the pager cannot be opened (run as root)";
	err = gvm_pager_open(node->net, &config, &pager);
	if (err)
		return err;
	err = gvm_pager_attach(pager, "bench-sizes", NULL, bytes, -1, 0, GVM_ATTACH_ANON, &range);
	if (!err) {
		*why = "the paged memory does not hold what was written";
		err = of_range(node, pager, range, sizes);
		gvm_pager_detach(range);
	}
	gvm_pager_close(pager);
	return err;
}

int bench_sizes(const struct bench_opts *opts)
{
	struct bench_node node = { 0 };
	struct sizes s = { 0 };
	const char *why = NULL;
	int err, missed;

	setenv("GVM_CONNECTIONS", "0", 0);
	err = bench_node_open(&node, opts, &why);
	if (!err) {
		why = "the node does not take the connections";
		err = idle_connections(&node, &s.idle_kb);
	}
	if (!err)
		err = of_pager(&node, (uint64_t)opts->pages * PAGE, &s, &why);
	bench_node_close(&node);
	if (err) {
		fprintf(stderr, "gvm-bench: %s (%s)\n", why, strerror(-err));
		return 1;
	}
	printf("%u MiB of paged memory, a quarter of it here                   measured     goal\n",
	       opts->pages / 256);
	missed = report("pager: bookkeeping, bytes for a page of the region", s.bookkeeping, 16, 0);
	missed += report("memory node: memory beside the data, % of the data", s.beside, 1, 0);
	missed += report("memory node: an idle connection, KiB", s.idle_kb, 16, 0);
	missed += report("Zipf 0.99, points of hit rate over exact LRU", s.here - s.exact, -3, 1);
	printf("(hit rates: %.2f %% here, %.2f %% with exact LRU)\n", s.here, s.exact);
	return missed ? 1 : 0;
}
