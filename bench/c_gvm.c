/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvmnet itself, three ways: fetch (the library alone), random faults and a sequential read through
 * the pager. The memory node is the real gvm-memsrv.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <gvmnet/gvmnet.h>
#include <gvmnet/pager.h>
#include <gvmnet/region.h>
#include "bench.h"

#define WINDOW_MAX  256u
#define LOCAL_BYTES (16u << 20) /* of the paged memory that may be here */

/* ---- fetch ---- */

struct slot {
	struct gvm_region_op op;
	uint32_t page;
	int busy, status;
	char *buf;
};

static struct bench_node fetch_node;
static struct gvm_worker *worker;
static struct gvm_region *region;
static struct slot slots[WINDOW_MAX];
static int opened_status;

static void opened(void *arg, struct gvm_region *r, int status)
{
	(void)arg;
	(void)r;
	opened_status = status;
}

static void slot_done(struct gvm_region_op *op, int status)
{
	struct slot *slot = (struct slot *)op;

	slot->status = status;
	slot->busy = 0;
}

static int slot_wait(struct slot *slot)
{
	while (slot->busy)
		gvm_worker_wait(worker, GVM_NEVER);
	return slot->status;
}

static int fill_region(const struct bench_opts *opts)
{
	struct slot *slot = &slots[0];

	for (uint32_t i = 0; i < opts->pages; i++) {
		int err;

		bench_fill(slot->buf, i);
		slot->busy = 1;
		err = gvm_region_put(region, i, 1, slot->buf, &slot->op);
		if (!err)
			err = slot_wait(slot);
		if (err)
			return err;
	}
	return 0;
}

static int fetch_start(const struct bench_opts *opts, const char **why)
{
	struct gvm_worker_config config = { .cpu = -1 };
	struct gvm_region_config rc = { .name = "bench-fetch",
					.bytes = (uint64_t)opts->pages * PAGE,
					.flags = GVM_REGION_CREATE | GVM_REGION_EPHEMERAL };
	int err = bench_node_open(&fetch_node, opts, why);

	if (err)
		return err;
	for (unsigned i = 0; i < WINDOW_MAX; i++) {
		slots[i].op.done = slot_done;
		slots[i].buf = aligned_alloc(PAGE, PAGE);
	}
	*why = "the worker or the region cannot be opened";
	err = gvm_worker_open(fetch_node.net, &config, &worker);
	opened_status = 1;
	if (!err)
		err = gvm_region_open(worker, &rc, gvm_now() + 5000000000u, opened, &region);
	while (!err && opened_status == 1)
		gvm_worker_wait(worker, GVM_NEVER);
	err = err ? err : opened_status;
	*why = "the region cannot be filled";
	return err ? err : fill_region(opts);
}

static int fetch_post(struct slot *slot, uint32_t page)
{
	slot->page = page;
	slot->busy = 1;
	return gvm_region_fetch(region, page, 1, slot->buf, &slot->op);
}

static int slot_check(const struct slot *slot)
{
	uint64_t stamp;

	memcpy(&stamp, slot->buf, sizeof(stamp));
	return slot->status ? slot->status : stamp == bench_stamp(slot->page) ? 0 : -EILSEQ;
}

static int fetch_latency(const struct bench_opts *opts, uint32_t n, uint64_t *ns)
{
	uint32_t seed = 12345;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t page = bench_next_page(&seed, opts->pages);
		uint64_t t0 = bench_now();
		int err = fetch_post(&slots[0], page);

		if (!err)
			slot_wait(&slots[0]);
		ns[i] = bench_now() - t0;
		if (!err)
			err = slot_check(&slots[0]);
		if (err)
			return err;
	}
	return 0;
}

static int fetch_throughput(const struct bench_opts *opts, double *per_second)
{
	unsigned window = opts->window < WINDOW_MAX ? opts->window : WINDOW_MAX;
	uint64_t t0 = bench_now(), end = t0 + (uint64_t)(opts->seconds * 1e9), answered = 0;
	uint32_t seed = 777;
	int err = 0;

	for (unsigned i = 0; !err && i < window; i++)
		err = fetch_post(&slots[i], bench_next_page(&seed, opts->pages));
	while (!err && bench_now() < end) {
		gvm_worker_wait(worker, GVM_NEVER);
		for (unsigned i = 0; !err && i < window; i++) {
			if (slots[i].busy)
				continue;
			err = slot_check(&slots[i]);
			answered++;
			if (!err)
				err = fetch_post(&slots[i], bench_next_page(&seed, opts->pages));
		}
	}
	*per_second = (double)answered * 1e9 / (double)(bench_now() - t0);
	for (unsigned i = 0; i < window; i++)
		slot_wait(&slots[i]);
	return err;
}

static void fetch_stop(void)
{
	if (region)
		gvm_region_close(region);
	region = NULL;
	if (worker)
		gvm_worker_close(worker);
	worker = NULL;
	bench_node_close(&fetch_node);
	for (unsigned i = 0; i < WINDOW_MAX; i++)
		free(slots[i].buf);
	memset(slots, 0, sizeof(slots));
}

const struct contender contender_gvm_fetch = {
	.name = "gvmnet fetch",
	.what = "gvm_region_fetch of one page from gvm-memsrv",
	.start = fetch_start,
	.latency = fetch_latency,
	.throughput = fetch_throughput,
	.stop = fetch_stop,
};

/* ---- the pager ---- */

static struct bench_node pager_node;
static unsigned pager_users; /* contenders that have started it */
static struct gvm_pager *pager;
static struct gvm_range *range;

/* Both contenders ask the same pager. */
static int pager_start(const struct bench_opts *opts, const char **why)
{
	struct gvm_pager_config config;
	uint64_t bytes = (uint64_t)opts->pages * PAGE;
	int err = pager_users++ ? 0 : bench_node_open(&pager_node, opts, why);

	if (err || range)
		return err;
	/* the pager's threads inherit the affinity of the thread that opens it */
	bench_pin(opts->client_cpu);
	gvm_pager_config_init(&config);
	config.local_bytes = LOCAL_BYTES;
	*why = "the pager cannot be opened (run as root)";
	err = gvm_pager_open(pager_node.net, &config, &pager);
	if (!err)
		err = gvm_pager_attach(pager, "bench-pager", NULL, bytes, -1, 0, GVM_ATTACH_ANON,
				       &range);
	if (err)
		return err;
	for (uint32_t i = 0; i < opts->pages; i++)
		bench_fill((char *)gvm_range_base(range) + (size_t)i * PAGE, i);
	return gvm_pager_sync(range);
}

static int touch(uint32_t page)
{
	volatile uint64_t *at =
	    (uint64_t *)(void *)((char *)gvm_range_base(range) + (size_t)page * PAGE);

	return *at == bench_stamp(page) ? 0 : -EILSEQ;
}

/* Only touches that went to the memory node count; those that found the page here cost next to
 * nothing and would flatter the figure. A fault takes over a microsecond, a hit never does. */
static int fault_latency(const struct bench_opts *opts, uint32_t n, uint64_t *ns)
{
	static uint32_t seed = 4711;

	for (uint32_t i = 0; i < n;) {
		uint32_t page = bench_next_page(&seed, opts->pages);
		struct gvm_pager_stats before, after;

		gvm_pager_stats(pager, &before, NULL);
		uint64_t t0 = bench_now();
		int err = touch(page);

		ns[i] = bench_now() - t0;
		gvm_pager_stats(pager, &after, NULL);
		if (err)
			return err;
		if (after.faults_remote != before.faults_remote)
			i++;
	}
	return 0;
}

static void pager_stop(void)
{
	if (--pager_users)
		return;
	if (range)
		gvm_pager_detach(range);
	range = NULL;
	if (pager)
		gvm_pager_close(pager);
	pager = NULL;
	bench_node_close(&pager_node);
}

const struct contender contender_gvm_fault = {
	.name = "gvmnet random fault",
	.what = "a touch of a page that is on the memory node, through the pager",
	.start = pager_start,
	.latency = fault_latency,
	.stop = pager_stop,
};

static int sequential_throughput(const struct bench_opts *opts, double *per_second)
{
	uint64_t t0 = bench_now();

	for (uint32_t i = 0; i < opts->pages; i++) {
		int err = touch(i);

		if (err)
			return err;
	}
	*per_second = (double)opts->pages * 1e9 / (double)(bench_now() - t0);
	return 0;
}

const struct contender contender_gvm_sequential = {
	.name = "gvmnet sequential",
	.what = "reading the whole paged memory in order, one word a page",
	.start = pager_start,
	.throughput = sequential_throughput,
	.stop = pager_stop,
};
