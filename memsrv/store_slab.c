/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The slabs of a region: made, copied when they are written, dropped; granted and listed. */
#include "store_internal.h"

#include <errno.h>
#include <stdlib.h>

int slab_insert(struct store *store, struct region *r, uint64_t index, struct storage *storage,
		uint32_t place)
{
	struct slab *sl = calloc(1, sizeof(*sl));

	if (!sl || slab_map_set(&r->slabs, index, sl)) {
		free(sl);
		return -ENOMEM;
	}
	sl->storage = storage;
	sl->place = place;
	storage->sharers++;
	r->used++;
	store->stats.slabs++;
	return 0;
}

int slab_add(struct store *store, struct region *r, uint64_t index, struct storage *storage)
{
	struct image *image = store->config.image;
	uint32_t place = STORE_NO_IMAGE;
	int err = image ? image_slab_add(image, r->slot, index, storage->extent, &place) : 0;

	if (err)
		return err;
	err = slab_insert(store, r, index, storage, place);
	if (err && image)
		image_slab_free(image, place);
	return err;
}

void slab_remove(struct store *store, struct region *r, uint64_t index, struct slab *sl)
{
	key_withdraw_slab(r, index);
	slab_map_clear(&r->slabs, index);
	sl->storage->sharers--;
	storage_put(sl->storage);
	free(sl);
	r->used--;
	store->stats.slabs--;
}

int slab_drop(struct store *store, struct region *r, uint64_t index, struct slab *sl)
{
	int err = store->config.image ? image_slab_free(store->config.image, sl->place) : 0;

	if (!err)
		slab_remove(store, r, index, sl);
	return err;
}

int slab_create(struct session *s, struct region *r, uint64_t index, struct slab **sl)
{
	struct store *store = s->store;
	struct storage *storage;
	int err, more = r->used >= r->reserved;

	if (more && r->used >= r->share)
		return room_refuse(s, r, region_slab_bytes(r), GVM_FULL_UNKNOWN,
				   "more slabs than its share of this node");
	err = more ? room_reserve(s, r, 1) : 0;
	if (err)
		return err;
	err = room_storage(s, r, &storage);
	if (err)
		goto unreserve;
	err = slab_add(store, r, index, storage);
	if (err)
		goto put;
	*sl = slab_map_get(&r->slabs, index);
	return 0;
put:
	storage_put(storage);
unreserve:
	if (more)
		room_unreserve(store, r, 1);
	return err;
}

int slab_unshare(struct session *s, struct region *r, uint64_t index, struct slab *sl)
{
	struct store *store = s->store;
	struct image *image = store->config.image;
	struct storage *copy;
	int err = room_storage(s, r, &copy);

	if (err)
		return err;
	storage_copy(copy, sl->storage);
	err = image ? image_slab_move(image, sl->place, r->slot, index, copy->extent) : 0;
	if (err) {
		storage_put(copy);
		return err;
	}
	key_withdraw_slab(r, index);
	sl->storage->sharers--;
	storage_put(sl->storage);
	sl->storage = copy;
	copy->sharers = 1;
	store->stats.copies++;
	return 0;
}

/* ---- on request ---------------------------------------------------------------------------- */

static int grant_locked(struct session *s, uint64_t id, uint64_t index, struct gvm_slab_entry *out)
{
	struct store *store = s->store;
	struct region *r;
	struct slab *sl;
	struct hold *h;
	struct key *key;
	int err = hold_check(s, id, 1, &r);

	if (err)
		return err;
	if (index >= region_slabs(r->pages, r->slab_pages))
		return store_refuse(store, -ERANGE);
	sl = slab_map_get(&r->slabs, index);
	if (!sl)
		err = slab_create(s, r, index, &sl);
	else if (slab_shared(sl))
		err = slab_unshare(s, r, index, sl);
	if (err)
		return err;
	r->version++;
	h = hold_of(s, r);
	key = key_of(h, index);
	if (!key || !key->writable) {
		key_withdraw(h, index);
		err = key_make(h, index, sl, 1);
		if (err)
			return err;
	}
	key_entry(index, key_of(h, index), out);
	store->stats.grants++;
	return 0;
}

int store_slab_grant(struct session *s, uint64_t id, uint64_t slab, struct gvm_slab_entry *out)
{
	int err;

	pthread_mutex_lock(&s->store->lock);
	err = grant_locked(s, id, slab, out);
	pthread_mutex_unlock(&s->store->lock);
	return err;
}

static int list_locked(struct session *s, uint64_t id, uint64_t first, uint32_t want,
		       struct gvm_slab_entry *out, uint32_t *count, int *more)
{
	struct region *r;
	struct slab *sl;
	struct hold *h;
	uint32_t n = 0;
	uint64_t i = first;
	int err = hold_check(s, id, 0, &r);

	if (err)
		return err;
	h = hold_of(s, r);
	for (; n < want && (sl = slab_map_next(&r->slabs, &i)); i++) {
		err = key_of(h, i) ? 0 : key_make(h, i, sl, !slab_shared(sl) && !h->readonly);
		if (err)
			return err;
		key_entry(i, key_of(h, i), &out[n++]);
	}
	*count = n;
	*more = slab_map_next(&r->slabs, &i) != NULL;
	return 0;
}

int store_slab_list(struct session *s, uint64_t id, uint64_t first, uint32_t want,
		    struct gvm_slab_entry *out, uint32_t *count, int *more)
{
	int err;

	pthread_mutex_lock(&s->store->lock);
	err = list_locked(s, id, first, want, out, count, more);
	pthread_mutex_unlock(&s->store->lock);
	return err;
}
