/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The store: a memory node's regions, who holds them, how much is promised, and the slabs with
 * their keys. Control operations only: fetch and put go by key and never come here.
 *
 * Who holds a region. A session is a connection that has opened regions. A region is held by one
 * client (an incarnation), with any number of sessions. When the last session is lost, the client
 * keeps the hold for the linger time of its open; when it was closed in order, or the linger time
 * is 0 (a client that is about to end), it ends at once, and an ephemeral region is deleted.
 * Another client is refused (-EBUSY) while the hold lasts.
 *
 * Keys. Each session has keys of its own; they are withdrawn when it ends. A client has a session
 * for each of its views. When a view comes back on another connection, its earlier session ends
 * there and then, whatever its connection still has to serve. A region is opened only when no
 * transfer with a withdrawn key is under way any more.
 *
 * Waiting. What stands in a request's way may be about to end: a client that has said that it is
 * leaving, a transfer with a withdrawn key. A session with patience is then answered -EINPROGRESS:
 * nothing has happened, and the request can be made again when store_notify's function was called.
 *
 * How much. A region reserves its share (slabs that the client's map places here) when it is made;
 * what does not fit is refused then (-ENOSPC) and not at a write-back. A clone reserves what its
 * source has stored, the worst case of copy on write, and more, slab by slab, as it grows.
 * `limit` is memory times the overcommit ratio; storage that exists never exceeds `memory`.
 *
 * Sharing. A clone shares its source's slabs; both get keys that only read. A grant (or a discard
 * of a part) copies the slab first, if anyone else still has it.
 *
 * Threads: everything here may be called from any thread; one mutex guards it all. A session's
 * calls must not overlap with its own store_session_close. The library calls the store back (a
 * withdrawn key is no longer in use) without that mutex.
 */
#ifndef MEMSRV_STORE_H
#define MEMSRV_STORE_H

#include <stdint.h>
#include <stdio.h>

#include <gvmnet/gvmnet.h>

#include "storage.h"
#include "wire/wire.h"

#define STORE_PAGES_MAX      (UINT64_C(1) << 40) /* 4 PiB in one region */
#define STORE_SLAB_PAGES_MIN 16u
#define STORE_SLAB_PAGES_MAX (1u << 14) /* 64 MiB: one is copied under the lock */
#define STORE_LINGER_MAX_MS  (24u * 3600 * 1000)
/* Memory that is of use to one client only does not keep others out for longer than this. */
#define STORE_LINGER_EPHEMERAL_MS (10u * 60 * 1000)
/* Of so many regions one client may have these. */
#define STORE_CLIENT_REGIONS(max) ((max) / 2 + (max) % 2)

struct store;
struct session;
struct image;

struct store_config {
	struct gvm_net *net;
	uint64_t incarnation;  /* of this node, told to clients */
	uint64_t memory;       /* bytes of storage that may exist */
	uint64_t limit;        /* bytes that may be promised; at least memory */
	uint64_t region_quota; /* most bytes of one region here; 0: no such bound */
	uint32_t max_regions;
	uint32_t max_sessions;
	enum huge_pages huge;
	struct image *image;   /* stays the caller's; NULL: memory only */
	uint64_t (*now)(void); /* NULL: gvm_now */
};

/* Takes over the image's regions: they stay held by who held them, for their linger time; an
 * ephemeral one for STORE_SILENT_MS at least, as if its client had fallen silent, unless it was
 * leaving. */
int store_open(const struct store_config *config, struct store **store);
/* All sessions are closed and no worker runs. Regions of an image stay in it. */
void store_close(struct store *store);
/* From now on no region is made, opened or cloned: -ESHUTDOWN. */
void store_drain(struct store *store);
/* End lingers and do what needs doing now and then. Call it every 100 ms or so. */
void store_tick(struct store *store);

/* name is for the log and is copied. -EUSERS: too many; -ENOMEM. */
int store_session_open(struct store *store, uint64_t incarnation, const char *name,
		       struct session **session);
/* Which of its client's views uses this connection; 0, or never said: none that is known. The first
 * word counts. */
void store_session_view(struct session *session, uint64_t view);
/* May the session's requests from now on be answered -EINPROGRESS? Not if nothing is said. */
void store_session_patience(struct session *session, int patient);
/* What its last request found full, that was answered -ENOSPC. */
enum gvm_full store_session_full(struct session *session);
/* 1: its view has come back on another connection; nothing but the end may come from this one. */
int store_session_ended(struct session *session);
/*
 * changed is called when a request that was answered -EINPROGRESS may be made again, and (ended)
 * when a session has been ended from another connection. From any thread, in the middle of the
 * store's work: it notes that and returns. To be set while no session is open; NULL: nobody.
 */
void store_notify(struct store *store, void (*changed)(void *arg, int ended), void *arg);
/* The connection is gone: its holds end, or linger. */
void store_session_close(struct session *session);
/*
 * The connection is gone because nothing was heard on it. Its client may be stopped or behind a cut
 * cable, and lives: if the last connection of a region goes so, an ephemeral one is kept for
 * STORE_SILENT_MS at least. (A client that dies is heard of: its kernel closes the connection.)
 */
#define STORE_SILENT_MS (60u * 60 * 1000)
void store_session_silent(struct session *session);
/*
 * The connection is gone because its client has it rest (docs/design.md): the session stays,
 * without keys, until the same view opens its regions on another connection or closes them; for
 * STORE_SILENT_MS at most, STORE_LEAVING_MS where the client leaves.
 */
#define STORE_LEAVING_MS 4000u /* less than a request waits for the end of who leaves */
void store_session_rest(struct session *session);

/* The requests of wire.h. 0 or -errno; outputs are set on success. All arguments may be hostile. */
int store_region_open(struct session *s, uint64_t id, const struct gvm_region_open *req,
		      struct gvm_region_opened *out);
/* Where the region is not open in this session, an earlier one of the same view is meant. */
int store_region_close(struct session *s, uint64_t id);
int store_region_delete(struct session *s, uint64_t id);
int store_region_resize(struct session *s, uint64_t id, uint64_t pages, uint64_t share);
int store_region_clone(struct session *s, uint64_t id, const struct gvm_region_clone *req,
		       struct gvm_region_opened *out);
int store_slab_grant(struct session *s, uint64_t id, uint64_t slab, struct gvm_slab_entry *out);
/* Up to want entries from slab first on; *count of them; *more: there are further ones. */
int store_slab_list(struct session *s, uint64_t id, uint64_t first, uint32_t want,
		    struct gvm_slab_entry *out, uint32_t *count, int *more);
/* All runs are checked before the first page is touched. */
int store_discard(struct session *s, uint64_t id, const struct gvm_page_run *runs, uint32_t count);
/* Up to want regions after the first skip. */
uint32_t store_region_list(struct store *store, uint64_t skip, uint32_t want,
			   struct gvm_region_entry *out, int *more);

/*
 * Shared regions (docs/coherence.md), for who runs their engines (home.h), which serialises what it
 * does with one. The node holds them itself. Requests above that name one are refused: -EBUSY to
 * open or delete it, else -EPERM.
 */
struct store_shared;
/* Open or make one; the same handle each time, until store_shared_close(). client, name: who wants
 * it, as of store_session_open(). With CREATE and a generation it is made with that one. -EPERM: it
 * is a private one; -EOPNOTSUPP: there is an image; -EEXIST: it has another generation. */
int store_shared_open(struct store *store, uint64_t client, const char *name, uint64_t id,
		      const struct gvm_region_open *req, struct gvm_region_opened *out,
		      struct store_shared **shared);
/* It is taken up again by a node that has been started anew: this is its generation. */
void store_shared_again(struct store_shared *shared, uint64_t generation);
/* Delete it. */
void store_shared_close(struct store_shared *shared);
/* How many have it open, for the list and for store_sessions(). */
void store_shared_members(struct store_shared *shared, uint32_t members);
/*
 * Memory for its engine counts as slabs do, and is taken of what is promised to the region, or to
 * nobody. 0, or -ENOSPC unless it must be had. What is not given back goes with the region.
 */
int store_shared_take(struct store_shared *shared, uint64_t bytes, int must);
void store_shared_give(struct store_shared *shared, uint64_t bytes);
/* What slabs of shared regions leave to engines: who only reads, is served when they are full. */
#define STORE_SHARED_MARGIN(memory) ((memory) / 128 < 65536 ? 65536 : (memory) / 128)
/* The bytes of a page of it; NULL: never written. They stay where they are. */
const void *store_shared_page(struct store_shared *shared, uint64_t page);
/* Make sure that this page can be written. -ENOSPC, -ENOMEM. */
int store_shared_room(struct store_shared *shared, uint64_t page);
/* NULL: zeros. Cannot fail after store_shared_room(). */
int store_shared_write(struct store_shared *shared, uint64_t page, const void *bytes);

struct store_stats {
	uint64_t memory_bytes, limit_bytes, reserved_bytes, stored_bytes, huge_bytes; /* gauges */
	uint64_t engine_bytes;                                                        /* gauge */
	uint64_t regions, regions_held, regions_lingering, sessions, slabs, keys;     /* gauges */
	uint64_t resting;                                                             /* gauge */
	uint64_t lingering_bytes, draining;                                           /* gauges */
	uint64_t opens, creates, deletes, clones, resizes, grants, copies, discarded_pages;
	uint64_t expired, refused_space, refused_busy, refused_other;
};
void store_stats(struct store *store, struct store_stats *stats);
const struct gvm_counter *store_counters(size_t *count);
/* Regions' sessions with a connection. */
uint32_t store_sessions(struct store *store);

#endif
