/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Room: what is promised to regions, and storage within it. */
#include "store_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

int room_refuse(struct store *store, const struct region *r, uint64_t bytes, const char *why)
{
	store->stats.refused_space++;
	gvm_log(GVM_LOG_WARN,
		"region %s: no room for %" PRIu64 " MiB more: %s (%" PRIu64 " of %" PRIu64
		" MiB are promised, %" PRIu64 " MiB are stored)",
		r->name, bytes >> 20, why, store->reserved >> 20, store->config.limit >> 20,
		atomic_load(&store->pool.bytes) >> 20);
	return -ENOSPC;
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

/* Promise so many more slabs to r. */
int room_reserve(struct store *store, struct region *r, uint64_t slabs)
{
	uint64_t bytes, quota = store->config.region_quota;

	if (slabs > (UINT64_C(1) << 62) / region_slab_bytes(r))
		return room_refuse(store, r, UINT64_MAX, "more than any node has");
	bytes = slabs * region_slab_bytes(r);
	if (quota && r->reserved * region_slab_bytes(r) + bytes > quota)
		return room_refuse(store, r, bytes,
				   "a region may not have more; see --region-quota");
	if (store->reserved > store->config.limit || bytes > store->config.limit - store->reserved)
		return room_refuse(
		    store, r, bytes,
		    "raise --memory, delete regions, or promise more with --overcommit");
	if (bytes && disk_full(store, bytes))
		return room_refuse(store, r, bytes, "the image's disk is too full");
	store->reserved += bytes;
	r->reserved += slabs;
	return 0;
}

void room_unreserve(struct store *store, struct region *r, uint64_t slabs)
{
	store->reserved -= slabs * region_slab_bytes(r);
	r->reserved -= slabs;
}

/* Storage of its own for one more slab, if what exists leaves room for it. */
int room_storage(struct store *store, const struct region *r, struct storage **storage)
{
	uint64_t len = region_slab_bytes(r), stored = atomic_load(&store->pool.bytes);
	int err;

	if (stored > store->config.memory || len > store->config.memory - stored)
		return room_refuse(store, r, len, "the memory is full (see --overcommit)");
	err = storage_new(&store->pool, len, storage);
	if (err == -ENOSPC)
		return room_refuse(store, r, len, "the image's disk is full");
	if (err)
		gvm_log(GVM_LOG_WARN, "region %s: no memory for a slab of %" PRIu64 " KiB: %s",
			r->name, len >> 10, strerror(-err));
	return err;
}
