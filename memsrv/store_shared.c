/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shared regions in the store: the node itself holds them, by a session of its own, so that all
 * that others ask of held regions is refused as ever; and their slabs are read and written here
 * instead of by key.
 */
#include "store_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct store_shared {
	struct session *session;
	struct region *region;
};

/* What this node would lose of it at a restart is worse than nothing: docs/coherence.md. */
static int refuse_image(struct store *store, const char *name)
{
	static struct gvm_log_limit limit;

	gvm_log_limited(&limit, GVM_LOG_WARN,
			"region %s: a node with an image file has no shared regions; run a "
			"gvm-memsrv without --image for them",
			name);
	return store_refuse(store, -EOPNOTSUPP);
}

/* What is there must be what is asked for. */
static int check_shared(struct store *store, const struct region *r,
			const struct gvm_region_open *req)
{
	if (!r->shared)
		return store_refuse(store, -EPERM);
	if (req->generation && req->generation != r->generation)
		return store_refuse(store, req->flags & GVM_RO_CREATE ? -EEXIST : -ENOENT);
	if (!req->generation && (req->flags & GVM_RO_CREATE) && (req->flags & GVM_RO_EXCL))
		return store_refuse(store, -EEXIST);
	if (req->pages && (req->pages != r->pages || req->slab_pages != r->slab_pages))
		return store_refuse(store, -EINVAL);
	return 0;
}

/* The session has the store's lock taken when it is closed, so that is not done here. */
static int make(struct session *s, uint64_t id, const struct gvm_region_open *req,
		struct store_shared *sh)
{
	struct store *store = s->store;
	struct region *r;
	int err = region_create(s, id, req, &r);

	if (err)
		return err;
	err = hold_add(s, r, req);
	if (err) {
		region_destroy(store, r);
		return err;
	}
	if (req->generation) /* that of its part at another node */
		r->generation = req->generation;
	r->shared = sh;
	sh->session = s;
	sh->region = r;
	return 0;
}

static int open_locked(struct session *s, uint64_t id, const struct gvm_region_open *req,
		       struct store_shared *fresh, struct gvm_region_opened *out,
		       struct store_shared **sh)
{
	struct store *store = s->store;
	struct region *r;
	int err = region_check_open(req, id), made = 0;

	if (err)
		return store_refuse(store, err);
	if (store->stats.draining)
		return store_refuse(store, -ESHUTDOWN);
	if (store->config.image)
		return refuse_image(store, req->name);
	r = region_find(store, id);
	if (!r && !(req->flags & GVM_RO_CREATE))
		return store_refuse(store, -ENOENT);
	if (r) {
		err = check_shared(store, r, req);
	} else {
		err = make(s, id, req, fresh);
		made = !err;
	}
	if (err)
		return err;
	r = made ? fresh->region : r;
	*sh = r->shared;
	store->stats.opens++;
	region_opened(store, r, made, out);
	return 0;
}

int store_shared_open(struct store *store, uint64_t client, const char *name, uint64_t id,
		      const struct gvm_region_open *req, struct gvm_region_opened *out,
		      struct store_shared **shared)
{
	struct store_shared *fresh = calloc(1, sizeof(*fresh)), *sh = NULL;
	struct session *s;
	int err;

	if (!fresh)
		return -ENOMEM;
	err = store_session_open(store, client, name, &s);
	if (!err) {
		pthread_mutex_lock(&store->lock);
		err = open_locked(s, id, req, fresh, out, &sh);
		pthread_mutex_unlock(&store->lock);
		if (sh != fresh)
			store_session_close(s);
	}
	if (sh != fresh)
		free(fresh);
	if (!err)
		*shared = sh;
	return err;
}

void store_shared_again(struct store_shared *sh, uint64_t generation)
{
	struct store *store = sh->session->store;

	pthread_mutex_lock(&store->lock);
	sh->region->generation = generation;
	pthread_mutex_unlock(&store->lock);
}

void store_shared_close(struct store_shared *sh)
{
	struct store *store = sh->session->store;

	pthread_mutex_lock(&store->lock);
	region_destroy(store, sh->region);
	pthread_mutex_unlock(&store->lock);
	store_session_close(sh->session);
	free(sh);
}

void store_shared_members(struct store_shared *sh, uint32_t members)
{
	struct store *store = sh->session->store;

	pthread_mutex_lock(&store->lock);
	sh->region->members = members;
	pthread_mutex_unlock(&store->lock);
}

/* ---- pages --------------------------------------------------------------------------------- */

static uint8_t *page_at(const struct region *r, uint64_t page)
{
	const struct slab *sl = slab_map_get(&r->slabs, page / r->slab_pages);

	return sl ? sl->storage->base + page % r->slab_pages * GVM_PAGE_SIZE : NULL;
}

const void *store_shared_page(struct store_shared *sh, uint64_t page)
{
	struct store *store = sh->session->store;
	const void *at;

	pthread_mutex_lock(&store->lock);
	at = page_at(sh->region, page);
	pthread_mutex_unlock(&store->lock);
	return at;
}

int store_shared_room(struct store_shared *sh, uint64_t page)
{
	struct region *r = sh->region;
	struct store *store = sh->session->store;
	uint64_t slab = page / r->slab_pages, len = region_slab_bytes(r);
	struct slab *sl;
	int err;

	pthread_mutex_lock(&store->lock);
	if (slab_map_get(&r->slabs, slab))
		err = 0;
	else if (room_shared_slab(store, r))
		err = slab_create(sh->session, r, slab, &sl);
	else
		err = room_refuse(sh->session, r, len, GVM_FULL_MEMORY,
				  "the memory is full, but for what directories need");
	pthread_mutex_unlock(&store->lock);
	return err;
}

int store_shared_take(struct store_shared *sh, uint64_t bytes, int must)
{
	struct region *r = sh->region;
	struct store *store = sh->session->store;
	int err = 0;

	pthread_mutex_lock(&store->lock);
	if (!must && !room_shared(store, r, bytes)) {
		err = room_refuse(sh->session, r, bytes, GVM_FULL_MEMORY,
				  "its directory, and what is under way, need memory, too");
	} else {
		r->engine_bytes += bytes;
		atomic_fetch_add(&store->pool.engine_bytes, bytes);
	}
	pthread_mutex_unlock(&store->lock);
	return err;
}

void store_shared_give(struct store_shared *sh, uint64_t bytes)
{
	struct store *store = sh->session->store;

	pthread_mutex_lock(&store->lock);
	sh->region->engine_bytes -= bytes;
	atomic_fetch_sub(&store->pool.engine_bytes, bytes);
	pthread_mutex_unlock(&store->lock);
}

int store_shared_write(struct store_shared *sh, uint64_t page, const void *bytes)
{
	struct store *store = sh->session->store;
	uint8_t *at;
	int err = bytes ? store_shared_room(sh, page) : 0;

	if (err)
		return err;
	pthread_mutex_lock(&store->lock);
	at = page_at(sh->region, page);
	pthread_mutex_unlock(&store->lock);
	/* the slab stays: only the end of the region takes it */
	if (bytes)
		memcpy(at, bytes, GVM_PAGE_SIZE);
	else if (at)
		memset(at, 0, GVM_PAGE_SIZE);
	return 0;
}
