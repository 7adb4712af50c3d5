/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Taking over the regions that an image has. */
#include "store_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int take_region(void *arg, uint32_t slot, const struct image_region *rec)
{
	struct store *store = arg;
	struct region *r, **by_slot;

	if (slot >= store->slots) {
		by_slot = realloc(store->by_slot, (slot + 1) * sizeof(struct region *));
		if (!by_slot)
			return -ENOMEM;
		memset(by_slot + store->slots, 0, (slot + 1 - store->slots) * sizeof(*by_slot));
		store->by_slot = by_slot;
		store->slots = slot + 1;
	}
	r = region_new(store, rec->name, rec->id);
	if (!r)
		return -ENOMEM;
	r->slot = slot;
	r->generation = rec->generation;
	r->holder = rec->holder;
	r->pages = rec->pages;
	r->share = rec->share;
	r->reserved = rec->reserved;
	r->slab_pages = rec->slab_pages;
	r->flags = rec->flags & GVM_RO_EPHEMERAL;
	r->client_id = rec->holder;
	r->linger_ms = hold_linger_ms(r->flags, rec->linger_ms);
	store->reserved += r->reserved * region_slab_bytes(r);
	store->by_slot[slot] = r;
	region_link(store, r);
	/* What was heard of its client is forgotten, and while the node was away nobody could come
	 * back: that is as little as silence. One that has said that it leaves does not. */
	r->silent = r->holder && r->linger_ms;
	if (r->holder || (r->flags & GVM_RO_EPHEMERAL))
		hold_linger(store, r);
	return 0;
}

static int take_slab(void *arg, uint32_t slot, uint64_t slab, uint32_t place, uint64_t extent)
{
	struct store *store = arg;
	struct region *r = store->by_slot[slot];
	struct storage *storage = store->last;
	int err;

	if (storage && storage->extent == extent && storage->len == region_slab_bytes(r)) {
		storage_ref(storage);
	} else {
		err = storage_load(&store->pool, region_slab_bytes(r), extent, &storage);
		if (err)
			return err;
		store->last = storage;
	}
	err = slab_insert(store, r, slab, storage, place);
	if (err) {
		storage_forget(storage);
		return err;
	}
	if (r->used > r->reserved) { /* a clone that has grown slab by slab */
		r->reserved++;
		store->reserved += region_slab_bytes(r);
	}
	return 0;
}

int store_load(struct store *store)
{
	const struct image_visitor visitor = { store, take_region, take_slab };
	int err = image_walk(store->config.image, &visitor);

	free(store->by_slot);
	store->by_slot = NULL;
	if (err) {
		gvm_log(GVM_LOG_ERROR, "image %s: cannot take over its regions: %s",
			image_path(store->config.image), strerror(-err));
		return err;
	}
	if (store->reserved > store->config.limit)
		gvm_log(GVM_LOG_WARN,
			"image %s: its regions were promised %" PRIu64
			" MiB, more than the %" PRIu64
			" MiB of --memory; no new region is accepted",
			image_path(store->config.image), store->reserved >> 20,
			store->config.limit >> 20);
	return 0;
}
