/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>
#include <unistd.h>

#include <gvmnet/region.h>

#include "image.h"
#include "slabs.h"

#define BUCKETS  4096u
#define NO_IMAGE UINT32_MAX
#define MS       UINT64_C(1000000)
#define RETRY_NS (10000 * MS) /* between tries to delete what the image would not delete */

/* Keys of one region that are given out or still in use: one reference each, and the region's. */
struct fence {
	_Atomic uint32_t refs;
};

/* A registration of a slab for the region's holder. Freed when the library has let go of it. */
struct key {
	struct gvm_mem *mem;
	struct storage *storage;
	struct fence *fence;
	int writable;
};

struct slab {
	struct storage *storage;
	struct key *key; /* NULL: nobody has asked for it since the hold began */
	uint32_t place;  /* record in the image's index */
};

/* One session has one region open. */
struct hold {
	LIST_ENTRY(hold) in_session, in_region;
	struct session *session;
	struct region *region;
	int readonly;
};

struct region {
	TAILQ_ENTRY(region) order;
	LIST_ENTRY(region) bucket;
	LIST_HEAD(, hold) holds;
	char name[GVM_WIRE_NAME_MAX + 1];
	uint64_t id, generation, holder;
	uint64_t pages, share, reserved, used; /* the last three in slabs */
	uint64_t linger_until;                 /* 0: does not linger */
	uint64_t version; /* changes with whatever would make a clone another one */
	uint64_t clone_of,
	    clone_version; /* generation and version of the source; 0: none, or opened */
	uint32_t slab_pages, flags, linger_ms, sessions;
	int silent;    /* a connection of it has fallen silent since it was opened last */
	uint32_t slot; /* record in the image */
	struct slab_map slabs;
	struct fence *fence;
};

struct session {
	struct store *store;
	LIST_HEAD(, hold) holds;
	uint64_t incarnation;
	char name[64];
};

struct store {
	struct store_config config;
	struct storage_pool pool;
	pthread_mutex_t lock;
	TAILQ_HEAD(, region) regions;
	LIST_HEAD(, region) buckets[BUCKETS];
	uint64_t reserved;             /* bytes */
	uint64_t sweep_id, sweep_slab; /* where the search for slabs to remake of huge pages is */
	_Atomic int no_sweep;
	struct store_stats stats;

	/* while the image is taken over */
	struct region **by_slot;
	uint32_t slots;
	struct storage *last;
};

/* ---- small things -------------------------------------------------------------------------- */

static uint64_t now_of(const struct store *store)
{
	return store->config.now ? store->config.now() : gvm_now();
}

static uint64_t slab_bytes(const struct region *r)
{
	return (uint64_t)r->slab_pages * GVM_PAGE_SIZE;
}

static uint64_t slabs_of(uint64_t pages, uint32_t slab_pages)
{
	return pages / slab_pages + (pages % slab_pages ? 1 : 0);
}

/* Pages of slab that belong to a region of so many pages. */
static uint64_t pages_in(const struct region *r, uint64_t pages, uint64_t slab)
{
	uint64_t first = slab * r->slab_pages;

	return pages - first < r->slab_pages ? pages - first : r->slab_pages;
}

static int power_of_two(uint32_t n)
{
	return n && !(n & (n - 1));
}

static uint64_t draw(void)
{
	uint64_t v = 0;

	while (!v)
		if (getrandom(&v, sizeof(v), 0) != sizeof(v))
			v = 0;
	return v;
}

static int busy(struct store *store)
{
	store->stats.refused_busy++;
	return -EBUSY;
}

static int refuse(struct store *store, int err)
{
	store->stats.refused_other++;
	return err;
}

/* ---- keys ---------------------------------------------------------------------------------- */

static void fence_put(struct fence *fence)
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

static void key_withdraw(struct store *store, struct slab *sl)
{
	struct key *key = sl->key;

	if (!key)
		return;
	sl->key = NULL;
	store->stats.keys--;
	gvm_mem_unregister(key->mem, key_gone, key);
}

static int key_make(struct store *store, struct region *r, uint64_t index, struct slab *sl,
		    int writable)
{
	unsigned access = GVM_ACCESS_FETCH | (writable ? GVM_ACCESS_PUT : 0);
	struct key *key = malloc(sizeof(*key));
	int err;

	if (!key)
		return -ENOMEM;
	err = gvm_mem_register(store->config.net, sl->storage->base,
			       pages_in(r, r->pages, index) * GVM_PAGE_SIZE, access, r->holder,
			       &key->mem);
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

static void entry_of(uint64_t index, const struct slab *sl, struct gvm_slab_entry *out)
{
	out->slab = index | (sl->key->writable ? 0 : GVM_SLAB_READONLY);
	out->key = gvm_mem_key(sl->key->mem);
}

static void withdraw_all(struct store *store, struct region *r)
{
	struct slab *sl;

	for (uint64_t i = 0; (sl = slab_map_next(&r->slabs, &i)); i++)
		key_withdraw(store, sl);
}

/* ---- what is promised ---------------------------------------------------------------------- */

static int no_space(struct store *store, const struct region *r, uint64_t bytes, const char *why)
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
static int reserve(struct store *store, struct region *r, uint64_t slabs)
{
	uint64_t bytes, quota = store->config.region_quota;

	if (slabs > (UINT64_C(1) << 62) / slab_bytes(r))
		return no_space(store, r, UINT64_MAX, "more than any node has");
	bytes = slabs * slab_bytes(r);
	if (quota && r->reserved * slab_bytes(r) + bytes > quota)
		return no_space(store, r, bytes, "a region may not have more; see --region-quota");
	if (store->reserved > store->config.limit || bytes > store->config.limit - store->reserved)
		return no_space(
		    store, r, bytes,
		    "raise --memory, delete regions, or promise more with --overcommit");
	if (bytes && disk_full(store, bytes))
		return no_space(store, r, bytes, "the image's disk is too full");
	store->reserved += bytes;
	r->reserved += slabs;
	return 0;
}

static void unreserve(struct store *store, struct region *r, uint64_t slabs)
{
	store->reserved -= slabs * slab_bytes(r);
	r->reserved -= slabs;
}

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
}

static int save(struct store *store, const struct region *r, enum image_state state)
{
	struct image_region rec;

	if (!store->config.image)
		return 0;
	record_of(r, &rec);
	return image_region_write(store->config.image, r->slot, &rec, state);
}

static int save_new(struct store *store, struct region *r, enum image_state state)
{
	struct image_region rec;

	if (!store->config.image)
		return 0;
	record_of(r, &rec);
	return image_region_add(store->config.image, &rec, state, &r->slot);
}

/* ---- slabs --------------------------------------------------------------------------------- */

static int shared(const struct slab *sl)
{
	return sl->storage->sharers > 1;
}

/* Storage of its own for one more slab, if what exists leaves room for it. */
static int new_storage(struct store *store, const struct region *r, struct storage **storage)
{
	uint64_t len = slab_bytes(r), stored = atomic_load(&store->pool.bytes);
	int err;

	if (stored > store->config.memory || len > store->config.memory - stored)
		return no_space(store, r, len, "the memory is full (see --overcommit)");
	err = storage_new(&store->pool, len, storage);
	if (err == -ENOSPC)
		return no_space(store, r, len, "the image's disk is full");
	if (err)
		gvm_log(GVM_LOG_WARN, "region %s: no memory for a slab of %" PRIu64 " KiB: %s",
			r->name, len >> 10, strerror(-err));
	return err;
}

/* Put a slab into the region, with storage that the caller has a reference to for it. */
static int slab_insert(struct store *store, struct region *r, uint64_t index,
		       struct storage *storage, uint32_t place)
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

/* The same with a record in the image. */
static int slab_add(struct store *store, struct region *r, uint64_t index, struct storage *storage)
{
	struct image *image = store->config.image;
	uint32_t place = NO_IMAGE;
	int err = image ? image_slab_add(image, r->slot, index, storage->extent, &place) : 0;

	if (err)
		return err;
	err = slab_insert(store, r, index, storage, place);
	if (err && image)
		image_slab_free(image, place);
	return err;
}

/* Take a slab out of the region's memory, not out of the image. */
static void slab_remove(struct store *store, struct region *r, uint64_t index, struct slab *sl)
{
	key_withdraw(store, sl);
	slab_map_clear(&r->slabs, index);
	sl->storage->sharers--;
	storage_put(sl->storage);
	free(sl);
	r->used--;
	store->stats.slabs--;
}

/* Storage goes: the pages of the slab are zeros for this region from now on. */
static int slab_drop(struct store *store, struct region *r, uint64_t index, struct slab *sl)
{
	int err = store->config.image ? image_slab_free(store->config.image, sl->place) : 0;

	if (!err)
		slab_remove(store, r, index, sl);
	return err;
}

static int slab_create(struct store *store, struct region *r, uint64_t index, struct slab **sl)
{
	struct storage *storage;
	int err, more = r->used >= r->reserved;

	if (more && r->used >= r->share)
		return no_space(store, r, slab_bytes(r), "more slabs than its share of this node");
	err = more ? reserve(store, r, 1) : 0;
	if (err)
		return err;
	err = new_storage(store, r, &storage);
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
		unreserve(store, r, 1);
	return err;
}

/* Copy on write: storage of its own for a slab that others have too. */
static int slab_unshare(struct store *store, struct region *r, uint64_t index, struct slab *sl)
{
	struct image *image = store->config.image;
	struct storage *copy;
	int err = new_storage(store, r, &copy);

	if (err)
		return err;
	storage_copy(copy, sl->storage);
	err = image ? image_slab_move(image, sl->place, r->slot, index, copy->extent) : 0;
	if (err) {
		storage_put(copy);
		return err;
	}
	key_withdraw(store, sl);
	sl->storage->sharers--;
	storage_put(sl->storage);
	sl->storage = copy;
	copy->sharers = 1;
	store->stats.copies++;
	return 0;
}

/* ---- regions and holds --------------------------------------------------------------------- */

static void link_region(struct store *store, struct region *r)
{
	TAILQ_INSERT_TAIL(&store->regions, r, order);
	LIST_INSERT_HEAD(&store->buckets[r->id % BUCKETS], r, bucket);
	store->stats.regions++;
}

static struct region *region_new(const char *name, uint64_t id)
{
	struct region *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->fence = malloc(sizeof(*r->fence));
	if (!r->fence) {
		free(r);
		return NULL;
	}
	atomic_init(&r->fence->refs, 1);
	LIST_INIT(&r->holds);
	memcpy(r->name, name, sizeof(r->name));
	r->id = id;
	r->slot = NO_IMAGE;
	return r;
}

static void region_free(struct region *r)
{
	fence_put(r->fence);
	free(r);
}

static void hold_remove(struct hold *h)
{
	h->region->sessions--;
	LIST_REMOVE(h, in_session);
	LIST_REMOVE(h, in_region);
	free(h);
}

static void remove_slabs(struct store *store, struct region *r)
{
	struct slab *sl;

	for (uint64_t i = 0; (sl = slab_map_next(&r->slabs, &i)); i++)
		slab_remove(store, r, i, sl);
}

/* All slab records of r, then its own; where one cannot be freed the region's record stays as it
 * is, DELETING or BUILDING, and the next opening of the image goes on. */
static void free_records(struct store *store, struct region *r)
{
	struct slab *sl;
	int err = 0;

	if (!store->config.image || r->slot == NO_IMAGE)
		return;
	for (uint64_t i = 0; (sl = slab_map_next(&r->slabs, &i)); i++)
		if (image_slab_free(store->config.image, sl->place))
			err = -EIO;
	if (!err)
		image_region_free(store->config.image, r->slot);
}

static int region_destroy(struct store *store, struct region *r)
{
	int err = save(store, r, IMAGE_DELETING);

	if (err)
		return err;
	free_records(store, r);
	remove_slabs(store, r);
	while (!LIST_EMPTY(&r->holds))
		hold_remove(LIST_FIRST(&r->holds));
	unreserve(store, r, r->reserved);
	TAILQ_REMOVE(&store->regions, r, order);
	LIST_REMOVE(r, bucket);
	store->stats.regions--;
	store->stats.deletes++;
	region_free(r);
	return 0;
}

/* Nobody holds r any more. Returns 1 if that was its end. */
static int release(struct store *store, struct region *r)
{
	withdraw_all(store, r);
	r->holder = 0;
	r->linger_until = 0;
	if (r->flags & GVM_RO_EPHEMERAL) {
		if (!region_destroy(store, r))
			return 1;
		r->linger_until = now_of(store) + RETRY_NS;
	}
	save(store, r, IMAGE_LIVE);
	return 0;
}

static void linger(struct store *store, struct region *r)
{
	uint64_t ms = r->linger_ms;

	if (r->silent && r->flags & GVM_RO_EPHEMERAL && ms < STORE_SILENT_MS)
		ms = STORE_SILENT_MS;
	r->linger_until = now_of(store) + ms * MS;
}

/* End the linger time of r if it is over. Returns 1 if r is gone. */
static int expire(struct store *store, struct region *r)
{
	if (!r->linger_until || r->sessions || now_of(store) < r->linger_until)
		return 0;
	gvm_log(GVM_LOG_INFO, "region %s: its client did not come back%s", r->name,
		r->flags & GVM_RO_EPHEMERAL ? "; deleted" : "");
	store->stats.expired++;
	return release(store, r);
}

static struct region *find(struct store *store, uint64_t id)
{
	struct region *r;

	LIST_FOREACH(r, &store->buckets[id % BUCKETS], bucket)
	if (r->id == id)
		return expire(store, r) ? NULL : r;
	return NULL;
}

static struct hold *hold_of(const struct session *s, const struct region *r)
{
	struct hold *h;

	LIST_FOREACH(h, &r->holds, in_region)
	if (h->session == s)
		return h;
	return NULL;
}

/* The region that s has open. write: it must be able to change it. */
static int held(struct session *s, uint64_t id, int write, struct region **region)
{
	struct region *r = find(s->store, id);
	struct hold *h = r ? hold_of(s, r) : NULL;

	/* Also where the region is there: it may be another than the one that was open before. */
	if (!h)
		return refuse(s->store, -ENOENT);
	if (write && h->readonly)
		return refuse(s->store, -EPERM);
	*region = r;
	return 0;
}

static int writable(const struct region *r)
{
	const struct hold *h;

	LIST_FOREACH(h, &r->holds, in_region)
	if (!h->readonly)
		return 1;
	return 0;
}

/* Make r the session's. The session's client may hold it, as others' holds have been checked. */
static int hold_add(struct session *s, struct region *r, const struct gvm_region_open *req)
{
	struct hold *h = hold_of(s, r);
	uint64_t holder = r->holder;
	uint32_t linger_ms = r->linger_ms;

	r->holder = s->incarnation;
	r->linger_ms = req->linger_ms < STORE_LINGER_MAX_MS ? req->linger_ms : STORE_LINGER_MAX_MS;
	if ((r->holder != holder || r->linger_ms != linger_ms) && save(s->store, r, IMAGE_LIVE)) {
		r->holder = holder;
		r->linger_ms = linger_ms;
		return -EIO;
	}
	if (!h) {
		h = calloc(1, sizeof(*h));
		if (!h) {
			r->holder = holder;
			return -ENOMEM;
		}
		h->session = s;
		h->region = r;
		LIST_INSERT_HEAD(&s->holds, h, in_session);
		LIST_INSERT_HEAD(&r->holds, h, in_region);
		r->sessions++;
	}
	h->readonly = !!(req->flags & GVM_RO_READONLY);
	r->linger_until = 0;
	r->silent = 0;
	r->clone_of = 0;
	return 0;
}

/* ---- open, close, delete ------------------------------------------------------------------- */

static int check_open(const struct gvm_region_open *req, uint64_t id)
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
	return req->share_slabs > slabs_of(req->pages, req->slab_pages) ? -EINVAL : 0;
}

static int may_add_region(struct store *store)
{
	if (store->stats.regions < store->config.max_regions)
		return 0;
	gvm_log(GVM_LOG_WARN, "no further region: there are %u; raise --max-regions",
		store->config.max_regions);
	return refuse(store, -EUSERS);
}

static int region_create(struct session *s, uint64_t id, const struct gvm_region_open *req,
			 struct region **region)
{
	struct store *store = s->store;
	struct region *r;
	int err = may_add_region(store);

	if (err)
		return err;
	r = region_new(req->name, id);
	if (!r)
		return -ENOMEM;
	r->pages = req->pages;
	r->slab_pages = req->slab_pages;
	r->share = req->share_slabs;
	r->flags = req->flags & GVM_RO_EPHEMERAL;
	r->generation = draw();
	r->holder = s->incarnation;
	r->linger_ms = req->linger_ms;
	err = reserve(store, r, r->share);
	if (err)
		goto free;
	err = save_new(store, r, IMAGE_LIVE);
	if (err)
		goto unreserve;
	link_region(store, r);
	store->stats.creates++;
	*region = r;
	return 0;
unreserve:
	unreserve(store, r, r->reserved);
free:
	region_free(r);
	return err;
}

/* May the session's client take what is there? */
static int check_existing(struct session *s, const struct region *r,
			  const struct gvm_region_open *req)
{
	if (req->generation && req->generation != r->generation)
		return refuse(s->store, -ENOENT);
	/* Who names the generation knows the region: it comes back to it. */
	if (!req->generation && (req->flags & GVM_RO_CREATE) && (req->flags & GVM_RO_EXCL))
		return refuse(s->store, -EEXIST);
	if (r->holder && r->holder != s->incarnation)
		return busy(s->store);
	/* A transfer with a key of the last holder has not ended: it could still change a page. */
	if (!r->holder && atomic_load(&r->fence->refs) > 1)
		return busy(s->store);
	if (req->pages && (req->pages != r->pages || req->slab_pages != r->slab_pages)) {
		gvm_log(GVM_LOG_WARN,
			"region %s has %" PRIu64 " pages in slabs of %u; %s wants %" PRIu64
			" in slabs of %u",
			r->name, r->pages, r->slab_pages, s->name, req->pages, req->slab_pages);
		return refuse(s->store, -EINVAL);
	}
	return 0;
}

/* The client's map may place more of the region here than it did when the region was made. */
static int raise_share(struct store *store, struct region *r, uint64_t share)
{
	uint64_t before = r->reserved, old = r->share;
	int err;

	if (share <= r->share)
		return 0;
	err = share > r->reserved ? reserve(store, r, share - r->reserved) : 0;
	if (err)
		return err;
	r->share = share;
	err = save(store, r, IMAGE_LIVE);
	if (err) {
		unreserve(store, r, r->reserved - before);
		r->share = old;
	}
	return err;
}

static void opened(const struct store *store, const struct region *r, int made,
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
	int err = check_open(req, id), made = 0;

	if (err)
		return refuse(store, err);
	if (store->stats.draining)
		return refuse(store, -ESHUTDOWN);
	r = find(store, id);
	if (!r && (!(req->flags & GVM_RO_CREATE) || req->generation))
		return refuse(store, -ENOENT);
	if (r) {
		err = check_existing(s, r, req);
		if (!err && req->pages)
			err = raise_share(store, r, req->share_slabs);
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
	opened(store, r, made, out);
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

int store_region_close(struct session *s, uint64_t id)
{
	struct store *store = s->store;
	struct region *r;
	int err;

	pthread_mutex_lock(&store->lock);
	err = held(s, id, 0, &r);
	if (!err) {
		hold_remove(hold_of(s, r));
		if (!r->sessions)
			release(store, r);
	}
	pthread_mutex_unlock(&store->lock);
	return err;
}

int store_region_delete(struct session *s, uint64_t id)
{
	struct store *store = s->store;
	struct region *r;
	int err;

	pthread_mutex_lock(&store->lock);
	r = find(store, id);
	if (!r)
		err = refuse(store, -ENOENT);
	else if (r->holder && r->holder != s->incarnation)
		err = busy(store);
	else
		err = region_destroy(store, r);
	pthread_mutex_unlock(&store->lock);
	return err;
}

/* ---- slabs on request ---------------------------------------------------------------------- */

static int grant_locked(struct session *s, uint64_t id, uint64_t index, struct gvm_slab_entry *out)
{
	struct store *store = s->store;
	struct region *r;
	struct slab *sl;
	int err = held(s, id, 1, &r);

	if (err)
		return err;
	if (index >= slabs_of(r->pages, r->slab_pages))
		return refuse(store, -ERANGE);
	sl = slab_map_get(&r->slabs, index);
	if (!sl)
		err = slab_create(store, r, index, &sl);
	else if (shared(sl))
		err = slab_unshare(store, r, index, sl);
	if (err)
		return err;
	r->version++;
	if (sl->key && !sl->key->writable)
		key_withdraw(store, sl);
	if (!sl->key)
		err = key_make(store, r, index, sl, 1);
	if (err)
		return err;
	entry_of(index, sl, out);
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
	struct store *store = s->store;
	struct region *r;
	struct slab *sl;
	uint32_t n = 0;
	uint64_t i = first;
	int err = held(s, id, 0, &r);

	if (err)
		return err;
	for (; n < want && (sl = slab_map_next(&r->slabs, &i)); i++) {
		err = sl->key ? 0 : key_make(store, r, i, sl, !shared(sl) && writable(r));
		if (err)
			return err;
		entry_of(i, sl, &out[n++]);
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

/* ---- discard and resize -------------------------------------------------------------------- */

/* Zero count pages from page (in the slab) on; where that is all of it the slab goes. */
static int discard_in(struct store *store, struct region *r, uint64_t index, struct slab *sl,
		      uint64_t page, uint64_t count)
{
	int err;

	if (page == 0 && count >= pages_in(r, r->pages, index))
		return slab_drop(store, r, index, sl);
	err = shared(sl) ? slab_unshare(store, r, index, sl) : 0;
	if (err)
		return err;
	storage_discard(sl->storage, page * GVM_PAGE_SIZE, count * GVM_PAGE_SIZE);
	return 0;
}

static int discard_run(struct store *store, struct region *r, uint64_t page, uint64_t count)
{
	uint64_t end = page + count, i = page / r->slab_pages;
	struct slab *sl;
	int err;

	for (; (sl = slab_map_next(&r->slabs, &i)) && i * r->slab_pages < end; i++) {
		uint64_t low = i * r->slab_pages, high = low + r->slab_pages;
		uint64_t from = page > low ? page : low, to = end < high ? end : high;

		err = discard_in(store, r, i, sl, from - low, to - from);
		if (err)
			return err;
	}
	return 0;
}

/* Inside the region, and together no more than it has: a list cannot make work out of nothing. */
static int check_runs(const struct region *r, const struct gvm_page_run *runs, uint32_t count)
{
	uint64_t left = r->pages;

	for (uint32_t i = 0; i < count; i++) {
		if (!runs[i].count || runs[i].page >= r->pages ||
		    runs[i].count > r->pages - runs[i].page)
			return -ERANGE;
		if (runs[i].count > left)
			return -EINVAL;
		left -= runs[i].count;
	}
	return 0;
}

static int discard_locked(struct session *s, uint64_t id, const struct gvm_page_run *runs,
			  uint32_t count)
{
	struct store *store = s->store;
	struct region *r;
	int err = held(s, id, 1, &r);

	if (err)
		return err;
	err = check_runs(r, runs, count);
	if (err)
		return refuse(store, err);
	r->version++;
	for (uint32_t i = 0; i < count && !err; i++) {
		err = discard_run(store, r, runs[i].page, runs[i].count);
		if (!err)
			store->stats.discarded_pages += runs[i].count;
	}
	return err;
}

int store_discard(struct session *s, uint64_t id, const struct gvm_page_run *runs, uint32_t count)
{
	int err;

	pthread_mutex_lock(&s->store->lock);
	err = discard_locked(s, id, runs, count);
	pthread_mutex_unlock(&s->store->lock);
	return err;
}

/* A key reaches as far as its slab is in the region: a new size needs a new key. */
static void rekey_last(struct store *store, struct region *r, uint64_t pages)
{
	struct slab *sl = slab_map_get(&r->slabs, (pages - 1) / r->slab_pages);

	if (sl && pages % r->slab_pages)
		key_withdraw(store, sl);
}

static uint64_t used_below(const struct region *r, uint64_t slabs)
{
	uint64_t n = 0;

	for (uint64_t i = 0; slab_map_next(&r->slabs, &i) && i < slabs; i++)
		n++;
	return n;
}

static int drop_from(struct store *store, struct region *r, uint64_t slabs)
{
	struct slab *sl;
	int err = 0;

	for (uint64_t i = slabs; !err && (sl = slab_map_next(&r->slabs, &i)); i++)
		err = slab_drop(store, r, i, sl);
	return err;
}

/* Pages that a later growth would bring back are zeroed first. */
static int cut_tail(struct store *store, struct region *r, uint64_t pages)
{
	uint64_t slab = pages / r->slab_pages, page = pages % r->slab_pages;
	struct slab *sl = page ? slab_map_get(&r->slabs, slab) : NULL;
	uint64_t in;

	if (!sl || pages >= r->pages)
		return 0;
	in = pages_in(r, r->pages, slab);
	return in > page ? discard_in(store, r, slab, sl, page, in - page) : 0;
}

static int resize_locked(struct session *s, uint64_t id, uint64_t pages, uint64_t share)
{
	struct store *store = s->store;
	struct region *r;
	uint64_t slabs, before, old_pages, old_share, keep;
	int err = held(s, id, 1, &r);

	if (err)
		return err;
	slabs = slabs_of(pages, r->slab_pages);
	keep = used_below(r, slabs);
	if (!pages || pages > STORE_PAGES_MAX || share > slabs || share < keep)
		return refuse(store, -EINVAL);
	before = r->reserved;
	old_pages = r->pages;
	old_share = r->share;
	if (share > r->reserved) {
		err = reserve(store, r, share - r->reserved);
		if (err)
			return err;
	}
	err = cut_tail(store, r, pages);
	if (err)
		goto undo;
	r->pages = pages;
	r->share = share;
	err = save(store, r, IMAGE_LIVE);
	if (err)
		goto undo;
	r->version++;
	err = drop_from(store, r, slabs);
	rekey_last(store, r, old_pages);
	rekey_last(store, r, pages);
	if (!err && r->reserved > share) {
		unreserve(store, r, r->reserved - share);
		save(store, r, IMAGE_LIVE);
	}
	store->stats.resizes++;
	return err;
undo:
	unreserve(store, r, r->reserved - before);
	r->pages = old_pages;
	r->share = old_share;
	return err;
}

int store_region_resize(struct session *s, uint64_t id, uint64_t pages, uint64_t share)
{
	int err;

	pthread_mutex_lock(&s->store->lock);
	err = resize_locked(s, id, pages, share);
	pthread_mutex_unlock(&s->store->lock);
	return err;
}

/* ---- clone --------------------------------------------------------------------------------- */

static struct region *clone_make(const struct region *src, const struct gvm_region_clone *req)
{
	struct region *r = region_new(req->name, req->id);

	if (!r)
		return NULL;
	r->pages = src->pages;
	r->slab_pages = src->slab_pages;
	r->share = src->share;
	r->flags = req->flags;
	r->linger_ms = req->linger_ms < STORE_LINGER_MAX_MS ? req->linger_ms : STORE_LINGER_MAX_MS;
	r->generation = draw();
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

static int clone_new(struct store *store, struct region *src, const struct gvm_region_clone *req,
		     struct region **clone)
{
	struct region *r;
	int err = may_add_region(store);

	if (err)
		return err;
	r = clone_make(src, req);
	if (!r)
		return -ENOMEM;
	err = reserve(store, r, src->used);
	if (err)
		goto free;
	err = save_new(store, r, IMAGE_BUILDING);
	if (err)
		goto unreserve;
	err = clone_slabs(store, r, src);
	if (!err)
		err = save(store, r, IMAGE_LIVE);
	if (err)
		goto remove;
	/* From here on neither may write what both have. */
	withdraw_all(store, src);
	link_region(store, r);
	*clone = r;
	return 0;
remove:
	free_records(store, r);
	remove_slabs(store, r);
unreserve:
	unreserve(store, r, r->reserved);
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
		return refuse(store, err);
	if (store->stats.draining)
		return refuse(store, -ESHUTDOWN);
	err = held(s, id, 0, &src);
	if (err)
		return err;
	r = find(store, req->id);
	/* Asked again because the answer was lost: nothing has changed since, so it is the answer.
	 */
	if (r && (r->clone_of != src->generation || r->clone_version != src->version))
		return refuse(store, -EEXIST);
	if (!r) {
		err = clone_new(store, src, req, &r);
		if (err)
			return err;
		store->stats.clones++;
	}
	if (r->flags & GVM_RO_EPHEMERAL)
		linger(store, r);
	opened(store, r, 1, out);
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

/* ---- lists and figures --------------------------------------------------------------------- */

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
						    .holder = r->holder,
						    .flags = r->flags,
						    .sessions = r->sessions };
		memcpy(out[n++].name, r->name, sizeof(r->name));
	}
	*more = r != NULL;
	pthread_mutex_unlock(&store->lock);
	return n;
}

#define FIELD(field, unit, help, gauge)                                                            \
	{                                                                                          \
#field, unit, help, offsetof(struct store_stats, field), gauge                     \
	}
static const struct gvm_counter counters[] = {
	FIELD(memory_bytes, "bytes", "memory that slabs may take", 1),
	FIELD(limit_bytes, "bytes", "memory that may be promised to regions", 1),
	FIELD(reserved_bytes, "bytes", "memory that is promised to regions", 1),
	FIELD(stored_bytes, "bytes", "memory of slabs that exist", 1),
	FIELD(huge_bytes, "bytes", "slabs that were remade of huge pages", 1),
	FIELD(regions, "regions", "regions", 1),
	FIELD(regions_held, "regions", "regions that a client holds", 1),
	FIELD(regions_lingering, "regions", "regions that wait for their client", 1),
	FIELD(sessions, "connections", "connections that have used a region", 1),
	FIELD(slabs, "slabs", "slabs with storage, counted in each region that has them", 1),
	FIELD(keys, "keys", "memory keys that are given out", 1),
	FIELD(draining, "", "1: the node is going away", 1),
	FIELD(opens, "operations", "regions opened", 0),
	FIELD(creates, "operations", "regions made", 0),
	FIELD(deletes, "operations", "regions deleted", 0),
	FIELD(clones, "operations", "regions cloned", 0),
	FIELD(resizes, "operations", "regions resized", 0),
	FIELD(grants, "operations", "slabs granted for writing", 0),
	FIELD(copies, "operations", "slabs copied on write", 0),
	FIELD(discarded_pages, "pages", "pages discarded", 0),
	FIELD(expired, "operations", "holds that ended because the client did not come back", 0),
	FIELD(refused_space, "operations", "requests refused for want of space", 0),
	FIELD(refused_busy, "operations",
	      "requests refused because another client holds the region", 0),
	FIELD(refused_other, "operations", "requests refused for another reason", 0),
};

const struct gvm_counter *store_counters(size_t *count)
{
	*count = sizeof(counters) / sizeof(counters[0]);
	return counters;
}

void store_stats(struct store *store, struct store_stats *stats)
{
	struct region *r;

	pthread_mutex_lock(&store->lock);
	*stats = store->stats;
	stats->memory_bytes = store->config.memory;
	stats->limit_bytes = store->config.limit;
	stats->reserved_bytes = store->reserved;
	stats->stored_bytes = atomic_load(&store->pool.bytes);
	stats->huge_bytes = atomic_load(&store->pool.huge_bytes);
	TAILQ_FOREACH(r, &store->regions, order)
	{
		stats->regions_held += r->sessions ? 1 : 0;
		stats->regions_lingering += r->linger_until ? 1 : 0;
	}
	pthread_mutex_unlock(&store->lock);
}

uint32_t store_sessions(struct store *store)
{
	struct region *r;
	uint32_t n = 0;

	pthread_mutex_lock(&store->lock);
	TAILQ_FOREACH(r, &store->regions, order)
	n += r->sessions;
	pthread_mutex_unlock(&store->lock);
	return n;
}

/* ---- sessions and time --------------------------------------------------------------------- */

int store_session_open(struct store *store, uint64_t incarnation, const char *name,
		       struct session **session)
{
	struct session *s = calloc(1, sizeof(*s));
	int err = 0;

	if (!s)
		return -ENOMEM;
	s->store = store;
	s->incarnation = incarnation;
	LIST_INIT(&s->holds);
	snprintf(s->name, sizeof(s->name), "%s", name);
	pthread_mutex_lock(&store->lock);
	if (store->stats.sessions >= store->config.max_sessions)
		err = refuse(store, -EUSERS);
	else
		store->stats.sessions++;
	pthread_mutex_unlock(&store->lock);
	if (err)
		free(s);
	else
		*session = s;
	return err;
}

static void session_end(struct session *s, int silent)
{
	struct store *store = s->store;

	pthread_mutex_lock(&store->lock);
	while (!LIST_EMPTY(&s->holds)) {
		struct hold *h = LIST_FIRST(&s->holds);
		struct region *r = h->region;

		hold_remove(h);
		r->silent |= silent;
		if (!r->sessions) {
			linger(store, r);
			expire(store, r);
		}
	}
	store->stats.sessions--;
	pthread_mutex_unlock(&store->lock);
	free(s);
}

void store_session_close(struct session *s)
{
	session_end(s, 0);
}

void store_session_silent(struct session *s)
{
	session_end(s, 1);
}

void store_drain(struct store *store)
{
	pthread_mutex_lock(&store->lock);
	store->stats.draining = 1;
	pthread_mutex_unlock(&store->lock);
}

/* The next slab after where the last look ended, over all regions. */
static struct slab *sweep_next(struct store *store)
{
	struct region *r = NULL, *at;
	struct slab *sl;

	TAILQ_FOREACH(at, &store->regions, order)
	if (at->id == store->sweep_id)
		r = at;
	if (!r) {
		r = TAILQ_FIRST(&store->regions);
		store->sweep_slab = 0;
	}
	if (!r)
		return NULL;
	store->sweep_id = r->id;
	sl = slab_map_next(&r->slabs, &store->sweep_slab);
	if (sl) {
		store->sweep_slab++;
		return sl;
	}
	r = TAILQ_NEXT(r, order);
	store->sweep_id = r ? r->id : 0;
	store->sweep_slab = 0;
	return NULL;
}

/* One slab at a time, and without the lock: remaking a slab takes milliseconds. */
static void sweep(struct store *store)
{
	struct storage *storage;
	struct slab *sl;
	int err;

	pthread_mutex_lock(&store->lock);
	sl = sweep_next(store);
	storage = sl ? sl->storage : NULL;
	if (storage)
		storage_ref(storage);
	pthread_mutex_unlock(&store->lock);
	if (!storage)
		return;
	err = storage_collapse(storage);
	storage_put(storage);
	if (err == -EINVAL || err == -EPERM) {
		gvm_log(GVM_LOG_INFO,
			"the kernel makes no huge pages on request; going on without");
		store->no_sweep = 1;
	}
}

void store_tick(struct store *store)
{
	struct region *r, *next;

	pthread_mutex_lock(&store->lock);
	for (r = TAILQ_FIRST(&store->regions); r; r = next) {
		next = TAILQ_NEXT(r, order);
		expire(store, r);
	}
	pthread_mutex_unlock(&store->lock);
	if (!atomic_load(&store->no_sweep))
		sweep(store);
}

/* ---- opening ------------------------------------------------------------------------------- */

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
	r = region_new(rec->name, rec->id);
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
	r->linger_ms = rec->linger_ms;
	store->reserved += r->reserved * slab_bytes(r);
	store->by_slot[slot] = r;
	link_region(store, r);
	if (r->holder || (r->flags & GVM_RO_EPHEMERAL))
		linger(store, r);
	return 0;
}

static int take_slab(void *arg, uint32_t slot, uint64_t slab, uint32_t place, uint64_t extent)
{
	struct store *store = arg;
	struct region *r = store->by_slot[slot];
	struct storage *storage = store->last;
	int err;

	if (storage && storage->extent == extent && storage->len == slab_bytes(r)) {
		storage_ref(storage);
	} else {
		err = storage_load(&store->pool, slab_bytes(r), extent, &storage);
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
		store->reserved += slab_bytes(r);
	}
	return 0;
}

static int take_over(struct store *store)
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

int store_open(const struct store_config *config, struct store **store)
{
	struct store *st = calloc(1, sizeof(*st));
	int err = 0;

	if (!st)
		return -ENOMEM;
	st->config = *config;
	st->pool.image = config->image;
	st->pool.huge = config->huge;
	st->pool.pagemap = -1;
	if (config->huge == HUGE_AUTO && !config->image)
		st->pool.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	st->no_sweep = st->pool.pagemap < 0;
	pthread_mutex_init(&st->lock, NULL);
	TAILQ_INIT(&st->regions);
	if (config->image)
		err = take_over(st);
	if (err)
		store_close(st);
	else
		*store = st;
	return err;
}

/* The image keeps its extents: storage that ends here must not give them back. */
static void let_go(struct store *store, struct region *r)
{
	struct slab *sl;

	for (uint64_t i = 0; (sl = slab_map_next(&r->slabs, &i)); i++) {
		key_withdraw(store, sl);
		slab_map_clear(&r->slabs, i);
		sl->storage->sharers--;
		if (store->pool.image)
			storage_forget(sl->storage);
		else
			storage_put(sl->storage);
		free(sl);
	}
}

void store_close(struct store *store)
{
	struct region *r;

	while ((r = TAILQ_FIRST(&store->regions))) {
		TAILQ_REMOVE(&store->regions, r, order);
		let_go(store, r);
		region_free(r);
	}
	if (store->pool.pagemap >= 0)
		close(store->pool.pagemap);
	pthread_mutex_destroy(&store->lock);
	free(store->by_slot);
	free(store);
}
