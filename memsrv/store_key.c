/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Keys: a slab's registration with the library for one hold, and what still uses one that was
 * withdrawn. Each hold has keys of its own, so that those of a connection can be withdrawn without
 * touching the client's other ones.
 */
#include "store_internal.h"

#include <errno.h>
#include <stdlib.h>

#define KEY_COST   160u /* bytes: the key, its registration, its places in the hold and the table */
#define HOLDS_FEW  8u
#define HOLDS_MANY 64u /* a pager has at most as many shards */

struct fence *fence_new(struct store *store)
{
	struct fence *fence = calloc(1, sizeof(*fence));

	if (fence) {
		fence->store = store;
		atomic_init(&fence->refs, 1);
	}
	return fence;
}

void fence_put(struct fence *fence)
{
	if (atomic_fetch_sub(&fence->refs, 1) == 1)
		free(fence);
}

/* The library is done with a withdrawn key. Any thread, perhaps within key_withdraw. */
static void key_gone(void *arg)
{
	struct key *key = arg;
	struct store *store = key->fence->store;

	storage_put(key->storage);
	atomic_fetch_sub(&key->fence->in_use, 1);
	atomic_fetch_sub(&store->in_use, 1);
	fence_put(key->fence);
	free(key);
	store_changed(store);
}

/* Each hold has a key of each slab, if it asks: 160 bytes with what finds it. With this many holds
 * the keys of a slab are 1 % of it at most, 2 % of one of 64 KiB. */
uint32_t key_holds_max(const struct region *r)
{
	uint64_t n = region_slab_bytes(r) / 100 / KEY_COST;

	n = n < HOLDS_FEW ? HOLDS_FEW : n;
	return n < HOLDS_MANY ? (uint32_t)n : HOLDS_MANY;
}

struct key *key_of(const struct hold *h, uint64_t slab)
{
	return slab_map_get(&h->keys, slab);
}

int key_make(struct hold *h, uint64_t index, const struct slab *sl, int writable)
{
	unsigned access = GVM_ACCESS_FETCH | (writable ? GVM_ACCESS_PUT : 0);
	struct store *store = h->session->store;
	struct region *r = h->region;
	struct key *key = malloc(sizeof(*key));
	int err;

	if (!key)
		return -ENOMEM;
	if (store->pool.image)
		access |= GVM_ACCESS_SOFT; /* the disk would not get what hardware writes */
	err = slab_map_set(&h->keys, index, key);
	if (err)
		goto free;
	err = gvm_mem_register(store->config.net, sl->storage->base,
			       region_pages_in(r, r->pages, index) * GVM_PAGE_SIZE, access,
			       r->holder, &key->mem);
	if (err)
		goto clear;
	key->storage = sl->storage;
	key->fence = r->fence;
	key->writable = writable;
	storage_ref(key->storage);
	atomic_fetch_add(&key->fence->refs, 1);
	store->stats.keys++;
	return 0;
clear:
	slab_map_clear(&h->keys, index);
free:
	free(key);
	return err;
}

void key_withdraw(struct hold *h, uint64_t index)
{
	struct store *store = h->session->store;
	struct key *key = key_of(h, index);

	if (!key)
		return;
	slab_map_clear(&h->keys, index);
	store->stats.keys--;
	atomic_fetch_add(&key->fence->in_use, 1);
	atomic_fetch_add(&store->in_use, 1);
	gvm_mem_unregister(key->mem, key_gone, key);
}

void key_withdraw_hold(struct hold *h)
{
	for (uint64_t i = 0; slab_map_next(&h->keys, &i); i++)
		key_withdraw(h, i);
}

void key_withdraw_slab(struct region *r, uint64_t index)
{
	struct hold *h;

	LIST_FOREACH(h, &r->holds, in_region)
	key_withdraw(h, index);
}

void key_withdraw_all(struct region *r)
{
	struct hold *h;

	LIST_FOREACH(h, &r->holds, in_region)
	key_withdraw_hold(h);
}

void key_entry(uint64_t index, const struct key *key, struct gvm_slab_entry *out)
{
	out->slab = index | (key->writable ? 0 : GVM_SLAB_READONLY);
	out->key = gvm_mem_key(key->mem);
}
