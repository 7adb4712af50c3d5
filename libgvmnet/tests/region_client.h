/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the tests of the region client share: one client with one region, operations that count
 * their completions, and a model of the contents that random operations are held against. For
 * one test program each, so everything is static; it brings progress(), which lets the client,
 * and whatever runs in this thread beside it, go on.
 */
#ifndef REGION_CLIENT_H
#define REGION_CLIENT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>
#include <gvmnet/region.h>

#define MS         1000000ull
#define SLAB       65536u
#define SLAB_PAGES 16u
#define PAGE       4096u

/* For what comes to a good end: a machine that is busy with other things takes its time. */
#define PATIENCE (60000 * MS)

static void progress(void);

static struct gvm_cluster *cluster;
static struct gvm_net *net;
static struct gvm_worker *worker;
static struct gvm_region *region;

struct told {
	unsigned node;
	int why;
};
static struct told told[64];
static unsigned told_count;

static void node_state(void *arg, unsigned id, int why)
{
	(void)arg;
	assert_true(told_count < 64);
	told[told_count++] = (struct told){ id, why };
}

#define UNTIL(condition)                                                                           \
	do {                                                                                       \
		uint64_t end_ = gvm_now() + 2 * PATIENCE;                                          \
		while (!(condition)) {                                                             \
			progress();                                                                \
			if (gvm_now() > end_)                                                      \
				fail_msg("line %d: did not come: %s", __LINE__, #condition);       \
		}                                                                                  \
	} while (0)

static void run_for(uint64_t ns)
{
	uint64_t end = gvm_now() + ns;

	while (gvm_now() < end)
		progress();
}

struct result {
	struct gvm_region_op op;
	int done, status;
};

static void result_done(struct gvm_region_op *op, int status)
{
	struct result *r = (struct result *)op;

	r->done++;
	r->status = status;
}

static void prepare(struct result *r, uint64_t timeout)
{
	memset(r, 0, sizeof *r);
	r->op.done = result_done;
	r->op.deadline_ns = timeout == GVM_NEVER ? timeout : gvm_now() + timeout;
}

static int await(struct result *r, int posted)
{
	assert_int_equal(posted, 0);
	assert_int_equal(r->done, 0); /* never from within the post */
	UNTIL(r->done);
	assert_int_equal(r->done, 1);
	return r->status;
}

static int put(uint64_t page, uint32_t count, const void *buf)
{
	struct result r;

	prepare(&r, PATIENCE);
	return await(&r, gvm_region_put(region, page, count, buf, &r.op));
}

static int fetch(uint64_t page, uint32_t count, void *buf)
{
	struct result r;

	prepare(&r, PATIENCE);
	return await(&r, gvm_region_fetch(region, page, count, buf, &r.op));
}

static inline int discard(uint64_t page, uint64_t count)
{
	struct result r;

	prepare(&r, PATIENCE);
	return await(&r, gvm_region_discard(region, page, count, &r.op));
}

struct opening {
	int called, status;
};

static void opened_cb(void *arg, struct gvm_region *r, int status)
{
	struct opening *o = arg;

	(void)r;
	o->called++;
	o->status = status;
}

static struct opening opening;

static int open_within(struct gvm_region_config *config, uint64_t ns)
{
	opening = (struct opening){ 0 };
	config->arg = &opening;
	assert_int_equal(gvm_region_open(worker, config, gvm_now() + ns, opened_cb, &region), 0);
	assert_int_equal(opening.called, 0);
	UNTIL(opening.called);
	run_for(MS / 2);
	assert_int_equal(opening.called, 1);
	if (opening.status) {
		gvm_region_close(region);
		region = NULL;
	}
	return opening.status;
}

static inline int open_with(struct gvm_region_config *config)
{
	return open_within(config, PATIENCE);
}

static inline int open_region(const char *name, unsigned slabs, uint32_t flags)
{
	struct gvm_region_config config = { .name = name,
					    .bytes = (uint64_t)slabs * SLAB,
					    .slab_bytes = slabs ? SLAB : 0,
					    .flags = flags,
					    .node_state = node_state };

	return open_with(&config);
}

static inline void close_region(void)
{
	gvm_region_close(region);
	region = NULL;
	run_for(2 * MS);
}

static void client_start(const char *transport, const char *map, const char *key_file)
{
	struct gvm_net_config config = { .transport = transport,
					 .node = GVM_NODE_NONE,
					 .key_file = key_file };
	struct gvm_worker_config worker_config = { .cpu = -1 };
	char *error = NULL;

	assert_int_equal(gvm_cluster_parse(map, strlen(map), "test", &cluster, &error), 0);
	config.cluster = cluster;
	assert_int_equal(gvm_net_open(&config, &net), 0);
	assert_int_equal(gvm_worker_open(net, &worker_config, &worker), 0);
}

static void client_stop(void)
{
	if (region)
		gvm_region_close(region);
	region = NULL;
	gvm_worker_close(worker);
	gvm_net_close(net);
	gvm_cluster_free(cluster);
}

/* What a page holds: every byte of it depends on page and version. */
static void fill(uint8_t *buf, uint64_t page, uint64_t version)
{
	uint64_t x = (page + 1) * 0x9e3779b97f4a7c15ull ^ version * 0xd1b54a32d192ed03ull;

	for (unsigned i = 0; i < PAGE / 8; i++, x += 0x9e3779b97f4a7c15ull)
		memcpy(buf + 8 * i, &x, 8);
}

static int holds(const uint8_t *buf, uint64_t page, uint64_t version)
{
	uint8_t want[PAGE] = { 0 };

	if (version)
		fill(want, page, version);
	return memcmp(buf, want, PAGE) == 0;
}

static void put_version(uint64_t page, uint64_t version)
{
	uint8_t buf[PAGE];

	fill(buf, page, version);
	assert_int_equal(put(page, 1, buf), 0);
}

static inline void expect_version(uint64_t page, uint64_t version)
{
	uint8_t buf[PAGE];

	memset(buf, 0xee, sizeof buf);
	assert_int_equal(fetch(page, 1, buf), 0);
	assert_true(holds(buf, page, version));
}

/* ---- the model ------------------------------------------------------------------------------ */

#define M_SLABS  24
#define M_PAGES  (M_SLABS * SLAB_PAGES)
#define M_FLIGHT 48

struct page_model {
	uint64_t low, high; /* acknowledged; and the newest that may be there if one failed */
	int busy;
};

struct flight {
	struct result r;
	int active, kind; /* 0 fetch, 1 put, 2 discard */
	uint64_t page, version;
	uint8_t buf[PAGE];
};

static struct page_model model[M_PAGES];
static struct flight flights[M_FLIGHT];
static uint64_t rng, lost_ok;

static uint64_t rnd(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng % below;
}

static void launch(struct flight *f, uint64_t version)
{
	uint64_t page = rnd(M_PAGES);
	int posted;

	if (model[page].busy)
		return;
	f->kind = (int)(rnd(10) < 4 ? 0 : rnd(10) < 9 ? 1 : 2);
	f->page = page;
	f->version = f->kind == 1 ? version : 0;
	prepare(&f->r, rnd(4) ? GVM_NEVER : (rnd(40) + 1) * MS);
	if (f->kind == 1)
		fill(f->buf, page, version);
	else
		memset(f->buf, 0xcc, PAGE);
	posted = f->kind == 0   ? gvm_region_fetch(region, page, 1, f->buf, &f->r.op)
		 : f->kind == 1 ? gvm_region_put(region, page, 1, f->buf, &f->r.op)
				: gvm_region_discard(region, page, 1, &f->r.op);
	assert_int_equal(posted, 0);
	assert_int_equal(f->r.done, 0);
	f->active = 1;
	model[page].busy = 1;
}

/* The page is what was acknowledged last; or the one that was under way when its time was up. */
static void land(struct flight *f)
{
	struct page_model *m = &model[f->page];

	assert_int_equal(f->r.done, 1);
	f->active = 0;
	m->busy = 0;
	if (f->r.status == -EIO && lost_ok)
		return;
	if (f->r.status) {
		assert_int_equal(f->r.status, -ETIMEDOUT);
		if (f->kind)
			m->high = m->high == m->low ? f->version : UINT64_MAX;
		return;
	}
	if (f->kind) {
		m->low = m->high = f->version;
	} else if (m->high != UINT64_MAX) {
		if (!holds(f->buf, f->page, m->low) && !holds(f->buf, f->page, m->high))
			fail_msg("page %llu is neither version %llu nor %llu",
				 (unsigned long long)f->page, (unsigned long long)m->low,
				 (unsigned long long)m->high);
	}
}

/* disturb: called now and then, to break something. */
static inline void play(uint64_t seed, unsigned operations, void (*disturb)(void))
{
	unsigned launched = 0, landed = 0;
	static uint64_t version;

	rng = seed * 2654435761u + 1;
	while (landed < operations) {
		struct flight *f = &flights[rnd(M_FLIGHT)];

		if (!f->active && launched < operations) {
			launch(f, ++version);
			launched += (unsigned)f->active;
		}
		for (unsigned i = 0; i < M_FLIGHT; i++) {
			if (flights[i].active && flights[i].r.done) {
				land(&flights[i]);
				landed++;
			}
		}
		if (rnd(3) == 0 || launched == operations)
			progress();
		if (disturb)
			disturb();
	}
}

/* The region is new. */
static inline void model_reset(void)
{
	memset(model, 0, sizeof model);
	memset(flights, 0, sizeof flights);
}

static inline void check_model(void)
{
	uint8_t buf[PAGE];

	for (uint64_t p = 0; p < M_PAGES; p++) {
		int rc = fetch(p, 1, buf);

		if (rc == -EIO && lost_ok)
			continue;
		assert_int_equal(rc, 0);
		if (model[p].high != UINT64_MAX)
			assert_true(holds(buf, p, model[p].low) || holds(buf, p, model[p].high));
	}
}

#endif
