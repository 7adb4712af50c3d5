/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Room: what is promised to regions, and storage within it. What does not fit now may fit in a
 * moment: when a client that has said that it is about to go is gone, or when the last transfer
 * with a withdrawn key is over. A session that can wait is told to.
 */
#include "store_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SEC_NS (1000 * STORE_MS)

uint64_t room_lingering(const struct store *store, uint64_t *until)
{
	const struct region *r;
	uint64_t bytes = 0;

	*until = 0;
	TAILQ_FOREACH(r, &store->regions, order)
	{
		if (!r->linger_until || !(r->flags & GVM_RO_EPHEMERAL))
			continue;
		bytes += r->reserved * region_slab_bytes(r);
		if (*until < r->linger_until)
			*until = r->linger_until;
	}
	return bytes;
}

/* A program that gets no memory may ask for it again, and again. */
static int refuse(struct session *s, const struct region *r, uint64_t bytes, enum gvm_full full,
		  const char *why, const char *hint)
{
	static struct gvm_log_limit limit;
	struct store *store = s->store;

	s->full = full;
	store->stats.refused_space++;
	gvm_log_limited(&limit, GVM_LOG_WARN,
			"region %s: no room for %" PRIu64 " MiB more: %s (%" PRIu64 " of %" PRIu64
			" MiB are promised, %" PRIu64 " MiB are stored%s)",
			r->name, bytes >> 20, why, store->reserved >> 20, store->config.limit >> 20,
			atomic_load(&store->pool.bytes) >> 20, hint);
	return -ENOSPC;
}

int room_refuse(struct session *s, const struct region *r, uint64_t bytes, enum gvm_full full,
		const char *why)
{
	return refuse(s, r, bytes, full, why, "");
}

/* What stands in the way, and in words. */
struct obstacle {
	enum gvm_full full; /* GVM_FULL_UNKNOWN: there is none */
	const char *why;
};

/* The same where it may be different soon: what is kept for clients that may never come back. */
static int refuse_for_now(struct session *s, const struct region *r, uint64_t bytes,
			  struct obstacle o)
{
	struct store *store = s->store;
	uint64_t until, now = store_now(store), kept = room_lingering(store, &until);
	char hint[160] = "";

	if (kept)
		snprintf(hint, sizeof(hint),
			 "; %" PRIu64
			 " MiB are kept for clients that were lost, killed or cut off, "
			 "and free in %" PRIu64 " s at the latest if they do not come back",
			 kept >> 20, until > now ? (until - now + SEC_NS - 1) / SEC_NS : 0);
	return refuse(s, r, bytes, o.full, o.why, hint);
}

/* Is a region about to go that its client cannot want back? */
static int one_is_leaving(struct store *store)
{
	const struct region *r;

	TAILQ_FOREACH(r, &store->regions, order)
	if (hold_leaving(r) && r->flags & GVM_RO_EPHEMERAL)
		return 1;
	return 0;
}

/* Too much is promised: only the end of a region changes that. */
static int promised_full(struct session *s, const struct region *r, uint64_t bytes,
			 struct obstacle o)
{
	if (store_await(s) && one_is_leaving(s->store))
		return -EINPROGRESS;
	return refuse_for_now(s, r, bytes, o);
}

/* Too much exists: also what is not a slab's any more, as long as a transfer uses it. */
static int stored_full(struct session *s, const struct region *r, uint64_t bytes, struct obstacle o)
{
	if (store_await(s) && (atomic_load(&s->store->in_use) || one_is_leaving(s->store)))
		return -EINPROGRESS;
	return refuse_for_now(s, r, bytes, o);
}

/* The disk must have what was promised, unless the operator has chosen to promise more. */
static int disk_full(const struct store *store, uint64_t bytes)
{
	uint64_t stored = atomic_load(&store->pool.bytes);
	uint64_t owed = store->reserved > stored ? store->reserved - stored : 0;
	uint64_t room;

	if (!store->config.image || store->config.limit > store->config.memory)
		return 0;
	room = image_room(store->config.image);
	return bytes > room || owed > room - bytes;
}

/* What directories have, or may have for certain where there is a shared region. */
static uint64_t directories(const struct store *store, int shared)
{
	uint64_t margin = STORE_SHARED_MARGIN(store->config.memory);
	uint64_t have = atomic_load(&store->pool.engine_bytes);
	const struct region *r;

	TAILQ_FOREACH(r, &store->regions, order)
	shared |= (r->flags & GVM_RO_SHARED) != 0;
	return shared && margin > have ? margin : have;
}

/* Why so much more cannot be promised, for a region that is shared or not. */
static struct obstacle too_much(const struct store *store, uint64_t bytes, int shared)
{
	uint64_t gone = store->reserved + directories(store, shared);

	if (gone > store->config.limit || bytes > store->config.limit - gone)
		return (struct obstacle){ GVM_FULL_MEMORY,
					  "raise --memory, delete regions (gvm region), or promise "
					  "more with --overcommit" };
	if (bytes && disk_full(store, bytes))
		return (struct obstacle){ GVM_FULL_DISK,
					  "disk full: the image's disk has too little free" };
	return (struct obstacle){ GVM_FULL_UNKNOWN, NULL };
}

int room_reserve(struct session *s, struct region *r, uint64_t slabs)
{
	struct store *store = s->store;
	uint64_t bytes, quota = store->config.region_quota;
	int shared = (r->flags & GVM_RO_SHARED) != 0;
	struct obstacle o;

	if (slabs > (UINT64_C(1) << 62) / region_slab_bytes(r))
		return room_refuse(s, r, UINT64_MAX, GVM_FULL_MEMORY, "more than any node has");
	bytes = slabs * region_slab_bytes(r);
	if (quota && r->reserved * region_slab_bytes(r) + bytes > quota)
		return room_refuse(s, r, bytes, GVM_FULL_QUOTA,
				   "a region may not have more; see --region-quota");
	if (too_much(store, bytes, shared).full)
		hold_expire_all(store, r);
	o = too_much(store, bytes, shared);
	if (o.full)
		return promised_full(s, r, bytes, o);
	store->reserved += bytes;
	r->reserved += slabs;
	return 0;
}

void room_unreserve(struct store *store, struct region *r, uint64_t slabs)
{
	store->reserved -= slabs * region_slab_bytes(r);
	r->reserved -= slabs;
}

static uint64_t exists(const struct store *store)
{
	return atomic_load(&store->pool.bytes) + atomic_load(&store->pool.engine_bytes);
}

int room_shared(const struct store *store, const struct region *r, uint64_t bytes)
{
	uint64_t own = r->reserved > r->used ? (r->reserved - r->used) * region_slab_bytes(r) : 0;
	uint64_t gone = store->reserved - own + atomic_load(&store->pool.engine_bytes);

	return exists(store) + bytes <= store->config.memory && gone + bytes <= store->config.limit;
}

int room_shared_slab(const struct store *store, const struct region *r)
{
	uint64_t len = region_slab_bytes(r), gone = directories(store, 1) + len;
	uint64_t own = r->reserved > r->used ? (r->reserved - r->used) * len : 0;

	return atomic_load(&store->pool.bytes) + gone <= store->config.memory &&
	       store->reserved - own + gone <= store->config.limit;
}

int room_storage(struct session *s, const struct region *r, struct storage **storage)
{
	static struct gvm_log_limit limit;
	struct store *store = s->store;
	uint64_t len = region_slab_bytes(r), stored = exists(store);
	int err;

	if (stored > store->config.memory || len > store->config.memory - stored)
		return stored_full(
		    s, r, len,
		    (struct obstacle){ GVM_FULL_MEMORY, "the memory is full (see --overcommit)" });
	err = storage_new(&store->pool, len, storage);
	if (err == -ENOSPC)
		return stored_full(
		    s, r, len,
		    (struct obstacle){ GVM_FULL_DISK,
				       "disk full: free space on the image's disk" });
	if (err)
		gvm_log_limited(&limit, GVM_LOG_WARN,
				"region %s: no memory for a slab of %" PRIu64 " KiB: %s", r->name,
				len >> 10, strerror(-err));
	return err;
}
