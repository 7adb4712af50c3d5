/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Clones: regions that share the slabs of another until one of the two writes. */
#include "store_internal.h"

#include <errno.h>
#include <stdlib.h>

#include <gvmnet/region.h>

static struct region *clone_make(struct store *store, const struct region *src,
				 const struct gvm_region_clone *req)
{
	struct region *r = region_new(store, req->name, req->id);

	if (!r)
		return NULL;
	r->pages = src->pages;
	r->slab_pages = src->slab_pages;
	r->share = src->share;
	r->flags = req->flags;
	r->linger_ms = hold_linger_ms(req->flags, req->linger_ms);
	r->generation = store_draw();
	r->clone_of = src->generation;
	r->clone_version = src->version;
	return r;
}

static int clone_slabs(struct store *store, struct region *r, const struct region *src)
{
	struct slab *sl;

	for (uint64_t i = 0; (sl = slab_map_next(&src->slabs, &i)); i++) {
		int err = slab_add(store, r, i, sl->storage);

		if (err)
			return err;
		storage_ref(sl->storage);
	}
	return 0;
}

static int clone_new(struct session *s, struct region *src, const struct gvm_region_clone *req,
		     struct region **clone)
{
	struct store *store = s->store;
	struct region *r;
	int err = region_may_add(s);

	if (err)
		return err;
	r = clone_make(store, src, req);
	if (!r)
		return -ENOMEM;
	r->client_id = s->incarnation;
	err = room_reserve(s, r, src->used);
	if (err)
		goto free;
	err = region_save_new(store, r, IMAGE_BUILDING);
	if (err)
		goto unreserve;
	err = clone_slabs(store, r, src);
	if (!err)
		err = region_save(store, r, IMAGE_LIVE);
	if (err)
		goto remove;
	/* From here on neither may write what both have. */
	key_withdraw_all(src);
	region_link(store, r);
	*clone = r;
	return 0;
remove:
	region_free_records(store, r);
	region_remove_slabs(store, r);
unreserve:
	room_unreserve(store, r, r->reserved);
free:
	region_free(r);
	return err;
}

static int check_clone(const struct gvm_region_clone *req)
{
	return gvm_wire_name_ok(req->name) && req->id == gvm_region_id_of(req->name) &&
		       !(req->flags & ~GVM_RO_EPHEMERAL)
		   ? 0
		   : -EINVAL;
}

static int clone_locked(struct session *s, uint64_t id, const struct gvm_region_clone *req,
			struct gvm_region_opened *out)
{
	struct store *store = s->store;
	struct region *src, *r;
	int err = check_clone(req);

	if (err)
		return store_refuse(store, err);
	if (store->stats.draining)
		return store_refuse(store, -ESHUTDOWN);
	err = hold_check(s, id, 0, &src);
	if (err)
		return err;
	r = region_find(store, req->id);
	/* Asked again because the answer was lost: nothing has changed since, so it is the answer.
	 */
	if (r && (r->clone_of != src->generation || r->clone_version != src->version))
		return store_refuse(store, -EEXIST);
	if (!r) {
		err = clone_new(s, src, req, &r);
		if (err)
			return err;
		store->stats.clones++;
	}
	if (r->flags & GVM_RO_EPHEMERAL)
		hold_linger(store, r);
	region_opened(store, r, 1, out);
	return 0;
}

int store_region_clone(struct session *s, uint64_t id, const struct gvm_region_clone *req,
		       struct gvm_region_opened *out)
{
	int err;

	pthread_mutex_lock(&s->store->lock);
	err = clone_locked(s, id, req, out);
	pthread_mutex_unlock(&s->store->lock);
	return err;
}
