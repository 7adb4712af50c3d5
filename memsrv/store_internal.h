/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of the store share:
 *   store.c         the object; what is done now and then
 *   store_hold.c    sessions, and who holds a region for how long
 *   store_region.c  regions: made, opened, closed, deleted; their records in the image
 *   store_slab.c    slabs: made, copied, dropped, granted, listed
 *   store_key.c     keys, given out and withdrawn
 *   store_room.c    what is promised
 *   store_size.c    discard and resize
 *   store_clone.c   clones
 *   store_shared.c  shared regions, which the node holds itself
 *   store_load.c    what an image brings
 *   store_stats.c   figures
 *
 * Everything declared here is called with the store's lock, or before and after there are threads.
 */
#ifndef MEMSRV_STORE_INTERNAL_H
#define MEMSRV_STORE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/queue.h>

#include "image.h"
#include "slabs.h"
#include "store.h"

#define STORE_BUCKETS  4096u
#define STORE_NO_IMAGE UINT32_MAX
#define STORE_MS       UINT64_C(1000000)
/* Between tries to delete what the image would not delete. */
#define STORE_RETRY_NS (10000 * STORE_MS)

/* What keeps a region from being opened: transfers with keys of it that were withdrawn. References:
 * one of each key, and the region's. */
struct fence {
	struct store *store;
	_Atomic uint32_t refs;
	_Atomic uint32_t in_use; /* keys that were withdrawn and are still in use */
};

/* A registration of a slab for one hold. Freed when the library has let go of it. */
struct key {
	struct gvm_mem *mem;
	struct storage *storage;
	struct fence *fence;
	int writable;
};

struct slab {
	struct storage *storage;
	uint32_t place; /* record in the image's index */
};

/* One session has one region open. */
struct hold {
	LIST_ENTRY(hold) in_session, in_region;
	struct session *session;
	struct region *region;
	struct slab_map keys; /* by slab; those that the session has asked for */
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
	int silent; /* a connection of it has fallen silent since it was opened last, or the node
		     * was restarted: nothing says that its client is gone */
	uint64_t client_id; /* whose it counts as: who made it or opened it last; 0: nobody known */
	char client[64]; /* who opened it last, for the log; empty: nobody since the node's start */
	uint32_t slot;   /* record in the image */
	struct slab_map slabs;
	struct fence *fence;
	struct store_shared *shared; /* NULL: it is private */
	uint32_t members;            /* of a shared one */
	uint64_t engine_bytes;       /* that its engine has been given */
};

struct session {
	struct store *store;
	LIST_HEAD(, hold) holds;
	uint64_t incarnation, view;
	LIST_ENTRY(session) in_store; /* of those that rest */
	int rests;                    /* its connection is closed, and its client will be back */
	uint64_t rests_since;
	int ended;          /* its client has come back on another connection */
	int patient;        /* a request may be answered -EINPROGRESS */
	enum gvm_full full; /* why the last request was answered -ENOSPC */
	char name[64];
};

struct store {
	struct store_config config;
	struct storage_pool pool;
	pthread_mutex_t lock;
	TAILQ_HEAD(, region) regions;
	LIST_HEAD(, region) buckets[STORE_BUCKETS];
	LIST_HEAD(, session) resting;
	uint64_t reserved;             /* bytes */
	uint64_t sweep_id, sweep_slab; /* where the search for slabs to remake of huge pages is */
	_Atomic int no_sweep;
	struct store_stats stats;
	uint64_t secret[2];      /* what holders are shown by */
	_Atomic uint32_t in_use; /* what keeps storage without being a slab, soon no more */
	_Atomic int awaited;     /* a request waits for the next change */
	void (*changed)(void *arg, int ended);
	void *changed_arg;

	/* while the image is taken over */
	struct region **by_slot;
	uint32_t slots;
	struct storage *last;
};

static inline uint64_t region_slab_bytes(const struct region *r)
{
	return (uint64_t)r->slab_pages * GVM_PAGE_SIZE;
}

static inline uint64_t region_slabs(uint64_t pages, uint32_t slab_pages)
{
	return pages / slab_pages + (pages % slab_pages ? 1 : 0);
}

/* Pages of slab that belong to a region of so many pages. */
static inline uint64_t region_pages_in(const struct region *r, uint64_t pages, uint64_t slab)
{
	uint64_t first = slab * r->slab_pages;

	return pages - first < r->slab_pages ? pages - first : r->slab_pages;
}

static inline int slab_shared(const struct slab *sl)
{
	return sl->storage->sharers > 1;
}

/* ---- store.c ------------------------------------------------------------------------------- */

uint64_t store_now(const struct store *store);
/* A random number, not 0. */
uint64_t store_draw(void);
/* What others are told of a client: the same for all it holds; nobody can find the incarnation by
 * it, which is all that a client is known by. 0: nobody. */
uint64_t store_show_holder(const struct store *store, uint64_t incarnation);
/* Count a refusal; returns err, or -EBUSY. */
int store_refuse(struct store *store, int err);
int store_busy(struct store *store);

/* May s be told to wait (-EINPROGRESS)? Then the next store_changed is told to the service. */
int store_await(struct session *s);
/* Something was given back, or let go of. Any thread, also without the lock. */
void store_changed(struct store *store);

/* ---- store_key.c --------------------------------------------------------------------------- */

struct fence *fence_new(struct store *store);
void fence_put(struct fence *fence);
/* Most holds that a region may have at a time, for what their keys cost. */
uint32_t key_holds_max(const struct region *r);
struct key *key_of(const struct hold *h, uint64_t slab);
int key_make(struct hold *h, uint64_t index, const struct slab *sl, int writable);
/* Operations that come with it from now on fail. */
void key_withdraw(struct hold *h, uint64_t index);
void key_withdraw_hold(struct hold *h);
void key_withdraw_slab(struct region *r, uint64_t index);
void key_withdraw_all(struct region *r);
void key_entry(uint64_t index, const struct key *key, struct gvm_slab_entry *out);

/* ---- store_room.c -------------------------------------------------------------------------- */

/* What is promised to ephemeral regions that wait for their client, in bytes; *until: when the last
 * of it is free if nobody comes back. */
uint64_t room_lingering(const struct store *store, uint64_t *until);
/* Log, count and note that there is no room; returns -ENOSPC. */
int room_refuse(struct session *s, const struct region *r, uint64_t bytes, enum gvm_full full,
		const char *why);
/* Promise so many more slabs to r. -ENOSPC; -EINPROGRESS if s can wait for what is about to end. */
int room_reserve(struct session *s, struct region *r, uint64_t slabs);
void room_unreserve(struct store *store, struct region *r, uint64_t slabs);
/* Storage of its own for one more slab, if what exists leaves room for it. Errors as above. */
int room_storage(struct session *s, const struct region *r, struct storage **storage);
/* Have so many bytes of a shared region, beside what has been promised to others? */
int room_shared(const struct store *store, const struct region *r, uint64_t bytes);
/* Is there room for a slab more of this shared region, beside what directories may have? */
int room_shared_slab(const struct store *store, const struct region *r);

/* ---- store_slab.c -------------------------------------------------------------------------- */

/* Put a slab into the region, with storage that the caller has a reference to for it. */
int slab_insert(struct store *store, struct region *r, uint64_t index, struct storage *storage,
		uint32_t place);
/* The same with a record in the image. */
int slab_add(struct store *store, struct region *r, uint64_t index, struct storage *storage);
/* Take a slab out of the region's memory, not out of the image. */
void slab_remove(struct store *store, struct region *r, uint64_t index, struct slab *sl);
/* Storage goes: the pages of the slab are zeros for this region from now on. */
int slab_drop(struct store *store, struct region *r, uint64_t index, struct slab *sl);
/* -ENOSPC, -ENOMEM: there is no room for it. */
int slab_create(struct session *s, struct region *r, uint64_t index, struct slab **sl);
/* Copy on write: storage of its own for a slab that others have too. */
int slab_unshare(struct session *s, struct region *r, uint64_t index, struct slab *sl);

/* ---- store_region.c ------------------------------------------------------------------------ */

int region_save(struct store *store, const struct region *r, enum image_state state);
int region_save_new(struct store *store, struct region *r, enum image_state state);
void region_free_records(struct store *store, struct region *r);
struct region *region_new(struct store *store, const char *name, uint64_t id);
void region_free(struct region *r);
void region_link(struct store *store, struct region *r);
void region_remove_slabs(struct store *store, struct region *r);
int region_destroy(struct store *store, struct region *r);
/* Can there be such a region? -EINVAL. */
int region_check_open(const struct gvm_region_open *req, uint64_t id);
/* Make it, held by nobody yet. */
int region_create(struct session *s, uint64_t id, const struct gvm_region_open *req,
		  struct region **region);
/* The region with this id, unless its time is over. */
struct region *region_find(struct store *store, uint64_t id);
/* Is there a place for one more of s's client? -EUSERS, logged and counted. */
int region_may_add(const struct session *s);
void region_opened(const struct store *store, const struct region *r, int made,
		   struct gvm_region_opened *out);

/* ---- store_hold.c -------------------------------------------------------------------------- */

/* It ends, and its keys with it. */
void hold_remove(struct hold *h);
/* Does a session that rests have it open? */
int hold_rests(const struct region *r);
/* Give up what has rested for too long. */
void hold_expire_resting(struct store *store);
struct hold *hold_of(const struct session *s, const struct region *r);
/* The region that s has open. write: it must be able to change it. */
int hold_check(struct session *s, uint64_t id, int write, struct region **region);
/* End the hold that the same view of s's client has by an earlier connection. */
int hold_succeed(struct session *s, struct region *r);
/* Make r the session's. The session's client may hold it, as others' holds have been checked. */
int hold_add(struct session *s, struct region *r, const struct gvm_region_open *req);
/* Its client has said that it is about to go: what it holds is free in a moment. */
int hold_leaving(const struct region *r);
/* The linger time that a region with these flags gets. */
uint32_t hold_linger_ms(uint32_t flags, uint32_t wanted);
void hold_linger(struct store *store, struct region *r);
/* Nobody holds r any more. Returns 1 if that was its end. */
int hold_release(struct store *store, struct region *r);
/* End the linger time of r if it is over. Returns 1 if r is gone. */
int hold_expire(struct store *store, struct region *r);
/* The same for all regions but this one. */
void hold_expire_all(struct store *store, const struct region *but);

/* ---- store_load.c -------------------------------------------------------------------------- */

int store_load(struct store *store);

#endif
