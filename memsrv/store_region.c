/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Regions: their life and their records in the image; open, close, delete, and the list of them. */
#include "store_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <gvmnet/region.h>

/* ---- the image's records ------------------------------------------------------------------- */

static void record_of(const struct region *r, struct image_region *rec)
{
	memset(rec, 0, sizeof(*rec));
	memcpy(rec->name, r->name, sizeof(rec->name));
	rec->id = r->id;
	rec->generation = r->generation;
	rec->holder = r->holder;
	rec->pages = r->pages;
	rec->share = r->share;
	rec->reserved = r->reserved;
	rec->slab_pages = r->slab_pages;
	rec->flags = r->flags;
	rec->linger_ms = r->linger_ms;
	if (r->linger_ms && r->linger_ms < STORE_SILENT_MS && hold_rests(r))
		rec->linger_ms = STORE_SILENT_MS;
}

int region_save(struct store *store, const struct region *r, enum image_state state)
{
	struct image_region rec;

	if (!store->config.image)
		return 0;
	record_of(r, &rec);
	return image_region_write(store->config.image, r->slot, &rec, state);
}

int region_save_new(struct store *store, struct region *r, enum image_state state)
{
	struct image_region rec;

	if (!store->config.image)
		return 0;
	record_of(r, &rec);
	return image_region_add(store->config.image, &rec, state, &r->slot);
}

/* All slab records of r, then its own; where one cannot be freed the region's record stays as it
 * is, DELETING or BUILDING, and the next opening of the image goes on. */
void region_free_records(struct store *store, struct region *r)
{
	struct slab *sl;
	int err = 0;

	if (!store->config.image || r->slot == STORE_NO_IMAGE)
		return;
	for (uint64_t i = 0; (sl = slab_map_next(&r->slabs, &i)); i++)
		if (image_slab_free(store->config.image, sl->place))
			err = -EIO;
	if (!err)
		image_region_free(store->config.image, r->slot);
}

/* ---- begin and end ------------------------------------------------------------------------- */

void region_link(struct store *store, struct region *r)
{
	TAILQ_INSERT_TAIL(&store->regions, r, order);
	LIST_INSERT_HEAD(&store->buckets[r->id % STORE_BUCKETS], r, bucket);
	store->stats.regions++;
}

struct region *region_new(struct store *store, const char *name, uint64_t id)
{
	struct region *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->fence = fence_new(store);
	if (!r->fence) {
		free(r);
		return NULL;
	}
	LIST_INIT(&r->holds);
	memcpy(r->name, name, sizeof(r->name));
	r->id = id;
	r->slot = STORE_NO_IMAGE;
	return r;
}

void region_free(struct region *r)
{
	fence_put(r->fence);
	free(r);
}

void region_remove_slabs(struct store *store, struct region *r)
{
	struct slab *sl;

	for (uint64_t i = 0; (sl = slab_map_next(&r->slabs, &i)); i++)
		slab_remove(store, r, i, sl);
}

int region_destroy(struct store *store, struct region *r)
{
	int err = region_save(store, r, IMAGE_DELETING);

	if (err)
		return err;
	region_free_records(store, r);
	region_remove_slabs(store, r);
	while (!LIST_EMPTY(&r->holds))
		hold_remove(LIST_FIRST(&r->holds));
	room_unreserve(store, r, r->reserved);
	atomic_fetch_sub(&store->pool.engine_bytes, r->engine_bytes);
	store_changed(store);
	TAILQ_REMOVE(&store->regions, r, order);
	LIST_REMOVE(r, bucket);
	store->stats.regions--;
	store->stats.deletes++;
	region_free(r);
	return 0;
}

struct region *region_find(struct store *store, uint64_t id)
{
	struct region *r;

	LIST_FOREACH(r, &store->buckets[id % STORE_BUCKETS], bucket)
	if (r->id == id)
		return hold_expire(store, r) ? NULL : r;
	return NULL;
}

/* What the client has opened or made last; also what waits for it. */
static uint32_t regions_of(const struct store *store, uint64_t incarnation)
{
	const struct region *r;
	uint32_t n = 0;

	TAILQ_FOREACH(r, &store->regions, order)
	n += r->client_id == incarnation;
	return n;
}

int region_may_add(const struct session *s)
{
	static struct gvm_log_limit all, one;
	struct store *store = s->store;
	uint32_t most = store->config.max_regions, share = STORE_CLIENT_REGIONS(most);

	if (store->stats.regions >= most)
		gvm_log_limited(&all, GVM_LOG_WARN,
				"no further region for %s: there are %u; raise --max-regions, or "
				"delete regions (gvm region)",
				s->name, most);
	else if (regions_of(store, s->incarnation) >= share)
		gvm_log_limited(
		    &one, GVM_LOG_WARN,
		    "no further region for %s: it has %u, and one client may have half of "
		    "--max-regions (%u)",
		    s->name, share, most);
	else
		return 0;
	return store_refuse(store, -EUSERS);
}

/* ---- open, close, delete ------------------------------------------------------------------- */

static int power_of_two(uint32_t n)
{
	return n && !(n & (n - 1));
}

int region_check_open(const struct gvm_region_open *req, uint64_t id)
{
	if (!gvm_wire_name_ok(req->name) || id != gvm_region_id_of(req->name))
		return -EINVAL;
	if (req->page_size != GVM_PAGE_SIZE || (req->flags & ~GVM_RO_ALL))
		return -EINVAL;
	if (!req->pages)
		return req->flags & GVM_RO_CREATE ? -EINVAL : 0;
	if (!power_of_two(req->slab_pages) || req->slab_pages < STORE_SLAB_PAGES_MIN ||
	    req->slab_pages > STORE_SLAB_PAGES_MAX || req->pages > STORE_PAGES_MAX)
		return -EINVAL;
	return req->share_slabs > region_slabs(req->pages, req->slab_pages) ? -EINVAL : 0;
}

int region_create(struct session *s, uint64_t id, const struct gvm_region_open *req,
		  struct region **region)
{
	struct store *store = s->store;
	struct region *r;
	int err = region_may_add(s);

	if (err)
		return err;
	r = region_new(store, req->name, id);
	if (!r)
		return -ENOMEM;
	r->pages = req->pages;
	r->slab_pages = req->slab_pages;
	r->share = req->share_slabs;
	r->flags = req->flags & (GVM_RO_EPHEMERAL | GVM_RO_SHARED);
	r->generation = store_draw();
	r->holder = s->incarnation;
	r->client_id = s->incarnation;
	r->linger_ms = hold_linger_ms(r->flags, req->linger_ms);
	err = room_reserve(s, r, r->share);
	if (err)
		goto free;
	err = region_save_new(store, r, IMAGE_LIVE);
	if (err)
		goto unreserve;
	region_link(store, r);
	store->stats.creates++;
	*region = r;
	return 0;
unreserve:
	room_unreserve(store, r, r->reserved);
free:
	region_free(r);
	return err;
}

/* Held by another client, or not let go of yet by the one before: wait if that is a matter of
 * moments. */
static int held_by_another(struct session *s, const struct region *r)
{
	if (store_await(s) && (r->holder ? hold_leaving(r) : 1))
		return -EINPROGRESS;
	return store_busy(s->store);
}

/* May the session's client take what is there? */
static int check_existing(struct session *s, const struct region *r,
			  const struct gvm_region_open *req)
{
	static struct gvm_log_limit limit;

	if (r->shared)
		return store_busy(s->store);
	if (req->generation && req->generation != r->generation)
		return store_refuse(s->store, -ENOENT);
	/* Who names the generation knows the region: it comes back to it. */
	if (!req->generation && (req->flags & GVM_RO_CREATE) && (req->flags & GVM_RO_EXCL))
		return store_refuse(s->store, -EEXIST);
	if (r->holder && r->holder != s->incarnation)
		return held_by_another(s, r);
	if (req->pages && (req->pages != r->pages || req->slab_pages != r->slab_pages)) {
		gvm_log_limited(&limit, GVM_LOG_WARN,
				"region %s has %" PRIu64 " pages in slabs of %u; %s wants %" PRIu64
				" in slabs of %u",
				r->name, r->pages, r->slab_pages, s->name, req->pages,
				req->slab_pages);
		return store_refuse(s->store, -EINVAL);
	}
	return 0;
}

/* A transfer with a withdrawn key has not ended: it could still change a page. */
static int check_fence(struct session *s, const struct region *r)
{
	int wait = store_await(s);

	if (hold_of(s, r) || !atomic_load(&r->fence->in_use))
		return 0;
	return wait ? -EINPROGRESS : store_busy(s->store);
}

/* The client's map may place more of the region here than it did when the region was made. */
static int raise_share(struct session *s, struct region *r, uint64_t share)
{
	struct store *store = s->store;
	uint64_t before = r->reserved, old = r->share;
	int err;

	if (share <= r->share)
		return 0;
	err = share > r->reserved ? room_reserve(s, r, share - r->reserved) : 0;
	if (err)
		return err;
	r->share = share;
	err = region_save(store, r, IMAGE_LIVE);
	if (err) {
		room_unreserve(store, r, r->reserved - before);
		r->share = old;
	}
	return err;
}

/* Take, or take again, a region that is there. */
static int open_existing(struct session *s, struct region *r, const struct gvm_region_open *req)
{
	int err = check_existing(s, r, req);

	if (err)
		return err;
	hold_succeed(s, r);
	err = check_fence(s, r);
	if (!err && req->pages)
		err = raise_share(s, r, req->share_slabs);
	return err;
}

void region_opened(const struct store *store, const struct region *r, int made,
		   struct gvm_region_opened *out)
{
	*out = (struct gvm_region_opened){
		.generation = r->generation,
		.pages = r->pages,
		.slabs_used = r->used,
		.incarnation = store->config.incarnation,
		.slab_pages = r->slab_pages,
		.page_size = GVM_PAGE_SIZE,
		.flags = made ? GVM_RO_CREATE : 0,
	};
}

static int open_locked(struct session *s, uint64_t id, const struct gvm_region_open *req,
		       struct gvm_region_opened *out)
{
	struct store *store = s->store;
	struct region *r;
	int err = region_check_open(req, id), made = 0;

	if (err || (req->flags & GVM_RO_SHARED))
		return store_refuse(store, err ? err : -EINVAL);
	if (store->stats.draining || s->ended)
		return store_refuse(store, -ESHUTDOWN);
	r = region_find(store, id);
	if (!r && (!(req->flags & GVM_RO_CREATE) || req->generation))
		return store_refuse(store, -ENOENT);
	if (r) {
		err = open_existing(s, r, req);
	} else {
		err = region_create(s, id, req, &r);
		made = !err;
	}
	if (err)
		return err;
	err = hold_add(s, r, req);
	if (err) {
		if (made)
			region_destroy(store, r);
		return err;
	}
	store->stats.opens++;
	region_opened(store, r, made, out);
	return 0;
}

int store_region_open(struct session *s, uint64_t id, const struct gvm_region_open *req,
		      struct gvm_region_opened *out)
{
	int err;

	pthread_mutex_lock(&s->store->lock);
	err = open_locked(s, id, req, out);
	pthread_mutex_unlock(&s->store->lock);
	return err;
}

/* A view that closes it on another connection than it opened it on has given that one up, as if it
 * had opened it again: it may be resting, or about to. */
static int close_elsewhere(struct session *s, uint64_t id, struct region **region)
{
	struct region *r = region_find(s->store, id);

	*region = r;
	return r && !r->shared && !s->ended && r->holder == s->incarnation && !hold_of(s, r) &&
	       hold_succeed(s, r);
}

int store_region_close(struct session *s, uint64_t id)
{
	struct store *store = s->store;
	struct region *r;
	int err = 0;

	pthread_mutex_lock(&store->lock);
	if (!close_elsewhere(s, id, &r)) {
		err = hold_check(s, id, 0, &r);
		if (!err)
			hold_remove(hold_of(s, r));
	}
	if (!err && !r->sessions)
		hold_release(store, r);
	pthread_mutex_unlock(&store->lock);
	return err;
}

/* Who opened a region to read it does not delete it, on this connection or on a further one. */
static int may_delete(const struct session *s, const struct region *r)
{
	const struct hold *own = hold_of(s, r), *h;

	if (own)
		return !own->readonly;
	LIST_FOREACH(h, &r->holds, in_region)
	if (!h->readonly)
		return 1;
	return LIST_EMPTY(&r->holds);
}

int store_region_delete(struct session *s, uint64_t id)
{
	struct store *store = s->store;
	struct region *r;
	int err;

	pthread_mutex_lock(&store->lock);
	r = region_find(store, id);
	if (s->ended)
		err = store_refuse(store, -ESHUTDOWN);
	else if (!r)
		err = store_refuse(store, -ENOENT);
	else if (r->shared || (r->holder && r->holder != s->incarnation))
		err = store_busy(store);
	else if (!may_delete(s, r))
		err = store_refuse(store, -EPERM);
	else
		err = region_destroy(store, r);
	pthread_mutex_unlock(&store->lock);
	return err;
}

/* ---- the list ------------------------------------------------------------------------------ */

uint32_t store_region_list(struct store *store, uint64_t skip, uint32_t want,
			   struct gvm_region_entry *out, int *more)
{
	struct region *r;
	uint32_t n = 0;

	pthread_mutex_lock(&store->lock);
	TAILQ_FOREACH(r, &store->regions, order)
	{
		if (skip) {
			skip--;
			continue;
		}
		if (n == want)
			break;
		out[n] = (struct gvm_region_entry){ .id = r->id,
						    .pages = r->pages,
						    .slabs_used = r->used,
						    .generation = r->generation,
						    .flags = r->flags,
						    .sessions = r->members };
		if (!r->shared) {
			out[n].holder = store_show_holder(store, r->holder);
			out[n].sessions = r->sessions;
		}
		memcpy(out[n++].name, r->name, sizeof(r->name));
	}
	*more = r != NULL;
	pthread_mutex_unlock(&store->lock);
	return n;
}
