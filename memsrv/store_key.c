/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Keys: a slab's registration with the library for the region's holder, and what still uses one
 * that was withdrawn. */
#include "store_internal.h"

#include <errno.h>
#include <stdlib.h>

void fence_put(struct fence *fence)
{
	if (atomic_fetch_sub(&fence->refs, 1) == 1)
		free(fence);
}

/* The library is done with a withdrawn key. Any thread, perhaps within key_withdraw. */
static void key_gone(void *arg)
{
	struct key *key = arg;

	storage_put(key->storage);
	fence_put(key->fence);
	free(key);
}

void key_withdraw(struct store *store, struct slab *sl)
{
	struct key *key = sl->key;

	if (!key)
		return;
	sl->key = NULL;
	store->stats.keys--;
	gvm_mem_unregister(key->mem, key_gone, key);
}

int key_make(struct store *store, struct region *r, uint64_t index, struct slab *sl, int writable)
{
	unsigned access = GVM_ACCESS_FETCH | (writable ? GVM_ACCESS_PUT : 0);
	struct key *key = malloc(sizeof(*key));
	int err;

	if (!key)
		return -ENOMEM;
	err = gvm_mem_register(store->config.net, sl->storage->base,
			       region_pages_in(r, r->pages, index) * GVM_PAGE_SIZE, access,
			       r->holder, &key->mem);
	if (err) {
		free(key);
		return err;
	}
	key->storage = sl->storage;
	key->fence = r->fence;
	key->writable = writable;
	storage_ref(key->storage);
	atomic_fetch_add(&key->fence->refs, 1);
	sl->key = key;
	store->stats.keys++;
	return 0;
}

void key_entry(uint64_t index, const struct slab *sl, struct gvm_slab_entry *out)
{
	out->slab = index | (sl->key->writable ? 0 : GVM_SLAB_READONLY);
	out->key = gvm_mem_key(sl->key->mem);
}

void key_withdraw_all(struct store *store, struct region *r)
{
	struct slab *sl;

	for (uint64_t i = 0; (sl = slab_map_next(&r->slabs, &i)); i++)
		key_withdraw(store, sl);
}
