/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A region's engine at its home: what it acts through. Called with the region's lock. This node
 * maps no page, so of the engine's two roles only the home's is of use here.
 */
#include "home_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <gvmnet/cluster.h>

#define MS            UINT64_C(1000000)
#define ENTRIES_MAX   (UINT32_C(1) << 24)
#define TXNS_MAX      65536u
#define WAITERS_MAX   262144u
#define SHARERS       4u /* one member may have such a part of what can be under way */
#define STEP          UINT64_C(65536)
#define NODE_PART_MAX 1u /* pages, relays: it has none */

/*
 * The engine's memory counts against the node's (--memory), in steps, as the store has a lock. Only
 * a request that comes in is refused for it: what has been let in is brought to its end, and what
 * members report after a restart is taken.
 */
static int engine_room(struct home_region *r, uint64_t size)
{
	uint64_t need = r->engine_bytes + size, more;

	if (need > r->engine_room && r->store) {
		more = (need - r->engine_room + STEP - 1) / STEP * STEP;
		if (store_shared_take(r->store, more, !r->asked)) {
			r->starved = 1;
			return 0;
		}
		r->engine_room += more;
	}
	r->engine_bytes = need;
	return 1;
}

static void engine_unroom(struct home_region *r, uint64_t size)
{
	uint64_t spare;

	r->engine_bytes -= size;
	spare = r->engine_room - r->engine_bytes;
	if (spare < 2 * STEP || !r->store)
		return;
	spare = spare / STEP * STEP - STEP;
	store_shared_give(r->store, spare);
	r->engine_room -= spare;
}

static void *engine_alloc(void *user, size_t size)
{
	struct home_region *r = user;
	void *mem;

	if (!engine_room(r, size))
		return NULL;
	mem = malloc(size);
	if (!mem)
		engine_unroom(r, size);
	return mem;
}

static void engine_free(void *user, void *mem, size_t size)
{
	if (!mem)
		return;
	engine_unroom(user, size);
	free(mem);
}

/* The engine asks its peer to be patient. But memory that the node has not got does not come by
 * waiting, and the program is to know. */
static const struct gvm_hdr *say_full(struct home_region *r, const struct gvm_hdr *h,
				      struct gvm_hdr *full)
{
	if (!r->starved || h->type != GVM_COH_NAK || h->status != GVM_ST_LIMIT)
		return h;
	*full = *h;
	full->status = (uint16_t)gvm_wire_status(-ENOSPC);
	r->no_room++;
	return full;
}

/* Said once of a member: it may go on so for hours. */
static void log_share(struct home_region *r, struct home_member *m, const struct gvm_hdr *h)
{
	static struct gvm_log_limit limit;
	struct ivy_stats stats;

	if (h->type != GVM_COH_NAK || h->status != GVM_ST_LIMIT)
		return;
	ivy_stats(r->ivy, &stats);
	if (stats.over_share != r->over_share && !m->over_share)
		gvm_log_limited(&limit, GVM_LOG_WARN,
				"region %s: node %u has asked for %u pages and does not say that "
				"it has them; it gets no more until it does",
				r->name, m->node, TXNS_MAX / SHARERS);
	m->over_share |= stats.over_share != r->over_share;
	r->over_share = stats.over_share;
}

static void engine_send(void *user, uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	struct home_region *r = user;
	struct gvm_hdr full;

	if (r->members[to])
		log_share(r, r->members[to], h);
	h = say_full(r, h, &full);
	/* who has never been here, or has gone, is lost to the engine: nothing comes for it */
	if (r->members[to])
		home_send(r->members[to], h, payload);
}

static uint16_t engine_home(void *user, uint64_t page)
{
	struct home_region *r = user;
	uint64_t slab = page / r->slab_pages;
	uint16_t home;

	if (!r->homes[slab]) {
		gvm_place(r->home->cluster, r->id, slab, 1, &home);
		r->homes[slab] = (uint16_t)(home + 1);
	}
	return (uint16_t)(r->homes[slab] - 1);
}

static uint64_t engine_nonce(void *user)
{
	uint64_t v;

	while (getrandom(&v, sizeof(v), 0) != sizeof(v))
		;
	return v;
}

static const void *copy_read(void *user, uint64_t page)
{
	static const uint8_t none[IVY_PAGE_MAX];

	return none;
}

static int copy_write(void *user, uint64_t page, const void *bytes)
{
	return -ENOMEM;
}

static void copy_drop(void *user, uint64_t page)
{
}

static void protect(void *user, uint64_t page, enum ivy_access access)
{
}

static void fault_done(void *user, uint64_t page, enum ivy_access access, int status)
{
}

static const void *engine_store_read(void *user, uint64_t page)
{
	struct home_region *r = user;

	return store_shared_page(r->store, page);
}

/* Its slab had never been written to before this node was started again. */
static int engine_store_kept(void *user, uint64_t page)
{
	struct home_region *r = user;
	uint64_t slab = page / r->slab_pages;

	return r->written && !(r->written[slab / 8] >> slab % 8 & 1);
}

static void engine_reserve(void *user, uint64_t from, uint64_t upto)
{
	struct home_region *r = user;

	home_state_reserve(r->state, from, upto);
}

static int engine_store_write(void *user, uint64_t page, const void *bytes)
{
	struct home_region *r = user;

	return store_shared_write(r->store, page, bytes);
}

static const struct ivy_env env = {
	.alloc = engine_alloc,
	.free = engine_free,
	.send = engine_send,
	.home = engine_home,
	.nonce = engine_nonce,
	.copy_read = copy_read,
	.copy_write = copy_write,
	.copy_drop = copy_drop,
	.protect = protect,
	.store_read = engine_store_read,
	.store_write = engine_store_write,
	.store_kept = engine_store_kept,
	.reserve = engine_reserve,
	.fault_done = fault_done,
};

int home_engine_new(struct home_region *r)
{
	struct ivy_config config = {
		.env = &env,
		.user = r,
		.region = r->id,
		.pages = r->pages,
		.page_size = GVM_PAGE_SIZE,
		.epoch = gvm_cluster_epoch(r->home->cluster),
		.self = (uint16_t)r->home->config.node,
		.nodes = (uint16_t)r->home->nodes,
		.max_entries = r->pages < ENTRIES_MAX ? (uint32_t)r->pages : ENTRIES_MAX,
		.max_txns = TXNS_MAX,
		.max_waiters = WAITERS_MAX,
		.max_share = TXNS_MAX / SHARERS,
		.max_pages = NODE_PART_MAX,
		.max_relays = NODE_PART_MAX,
		.retry_ns = gvm_option_number("GVM_DSM_RETRY_MS") * MS,
		.round_ns = gvm_option_number("GVM_DSM_ROUND_MS") * MS,
		.max_old = (uint32_t)gvm_option_number("GVM_DSM_OLD_PAGES"),
	};
	int err = ivy_new(&config, &r->ivy);

	if (err)
		return err;
	/* Nobody is a member yet: nothing is taken from them, and nothing sent. */
	for (unsigned i = 0; i < r->home->nodes; i++)
		ivy_peer_lost(r->ivy, (uint16_t)i);
	ivy_tick(r->ivy, gvm_now());
	return 0;
}

/* A page that may be written can be stored, or the writer is told so: then nothing is ever lost for
 * want of room. */
static int make_room(struct home_region *r, const struct home_member *m, const struct gvm_hdr *h)
{
	struct gvm_hdr nak = { .type = GVM_COH_NAK,
			       .region = h->region,
			       .epoch = h->epoch,
			       .page = h->page,
			       .xid = h->xid };
	int err;

	if (h->type != GVM_COH_WRITE || h->page >= r->pages ||
	    engine_home(r, h->page) != r->home->config.node)
		return 1;
	home_state_written(r->state, h->page / r->slab_pages);
	err = store_shared_room(r->store, h->page);
	if (!err)
		return 1;
	r->no_room++;
	nak.status = (uint16_t)gvm_wire_status(err);
	home_send(r->members[m->node], &nak, NULL);
	return 0;
}

int home_engine_take(struct home_region *r, const struct home_member *m, const struct gvm_hdr *h,
		     const void *payload, const char **reason)
{
	int err;

	ivy_clock(r->ivy, gvm_now()); /* home_tick() looks at what is due */
	if (!make_room(r, m, h))
		return 0;
	r->asked = h->type == GVM_COH_READ || h->type == GVM_COH_WRITE;
	err = ivy_receive(r->ivy, m->node, h, payload);
	r->asked = r->starved = 0;
	if (err != -EPROTO)
		return 0;
	*reason = "a frame of coherence that breaks the rules";
	return err;
}
