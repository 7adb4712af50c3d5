/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Regions: named memory of 4 KiB pages, cut into slabs that are spread over the memory nodes of the
 * cluster map. This is a client's view of one region through one worker: all calls and callbacks
 * are on that worker's thread. A program with several workers opens the region on one of them and,
 * when that has succeeded, without CREATE on the others, and uses each slab through one of them
 * only: storage that a slab is given through one view is not seen by the others. A region is closed
 * before its worker is.
 *
 * The region hides keys, grants, reconnects and retries. A page operation that meets a broken
 * connection or an absent node is tried again, with full-jitter back-off, until its deadline; so
 * with GVM_NEVER it stalls until the node is back. A node that is back without the region's data
 * (another generation) is a loss: operations on its slabs fail with -EIO at once and for good.
 */
#ifndef GVMNET_REGION_H
#define GVMNET_REGION_H

#include <gvmnet/gvmnet.h>

#ifdef __cplusplus
extern "C" {
#endif

struct gvm_region;

#define GVM_REGION_CREATE    1u /* make it where it is not there */
#define GVM_REGION_EXCL      2u /* with CREATE: -EEXIST where it is there */
#define GVM_REGION_EPHEMERAL 4u /* goes when this client has gone */
#define GVM_REGION_READONLY  8u

#define GVM_SLAB_BYTES     (16u << 20)
#define GVM_SLAB_BYTES_MIN (64u << 10)
/* A node copies a slab that a clone shares while everybody waits: a few tens of milliseconds for
 * one of this size. */
#define GVM_SLAB_BYTES_MAX (64u << 20)
/* Most slabs of a region: 64 TiB in slabs of 16 MiB. A size that a node names could else have this
 * side allocate and compute without end. */
#define GVM_SLABS_MAX (1ull << 22)

struct gvm_region_config {
	const char *name;    /* 1 to 63 of [A-Za-z0-9._-] */
	uint64_t bytes;      /* a multiple of the page size; 0 with no CREATE: as it is */
	uint32_t slab_bytes; /* power of two, 64 KiB to 64 MiB; 0: GVM_SLAB_BYTES */
	uint32_t flags;      /* GVM_REGION_* */
	uint32_t linger_ms;  /* how long it stays held after a connection is lost; 0: 30,000; nodes
			      * keep an  ephemeral one for 10 minutes at most, others for 24 hours */
	void *arg;
	/* A node that holds slabs cannot be reached (why < 0, once), is back (0), or is back
	 * without the data, or a part of it (-EIO, its last word). Once opened. May be NULL. */
	void (*node_state)(void *arg, unsigned node, int why);
	/* The name that decides which nodes its slabs lie on; NULL: its own. A clone lies where its
	 * source lies, so it is opened with what its source was placed as. */
	const char *placed_as;
};

/* Called once: 0 and the region may be used; else it could not be opened: -EBUSY (another client
 * holds it), -ENOENT, -EEXIST, -ENOSPC, -EACCES, -EINVAL, ...; the log has the sentence. */
typedef void (*gvm_region_cb)(void *arg, struct gvm_region *region, int status);

/*
 * Open or create. Asynchronous; *region is valid at once for gvm_region_close, for the rest after
 * opened(0). deadline_ns as in gvm_op. All nodes that the map places a slab on take part.
 */
int gvm_region_open(struct gvm_worker *worker, const struct gvm_region_config *config,
		    uint64_t deadline_ns, gvm_region_cb opened, struct gvm_region **region);
/* The id that goes with a name: the same everywhere. */
uint64_t gvm_region_id_of(const char *name);
uint64_t gvm_region_id(const struct gvm_region *region);
uint64_t gvm_region_pages(const struct gvm_region *region);
uint64_t gvm_region_slab_pages(const struct gvm_region *region);
/* 1: the slab with this page has storage on its node, so that the page may differ from zeros. */
int gvm_region_has_storage(const struct gvm_region *region, uint64_t page);
/* Since when (gvm_now) nothing has come from the node with this page, not even a connection; 0: it
 * is there. */
uint64_t gvm_region_away_since(const struct gvm_region *region, uint64_t page);
/* The id of the node with this page. */
unsigned gvm_region_node(const struct gvm_region *region, uint64_t page);

/* One page operation; like gvm_op: the caller's memory, done exactly once, never from the post. */
struct gvm_region_op {
	void (*done)(struct gvm_region_op *op, int status);
	uint64_t deadline_ns;  /* absolute; 0: GVM_OP_TIMEOUT_MS from now; GVM_NEVER: stall */
	struct gvm_mem *local; /* of a fetch or put: buf's registration, until done; or NULL */
	/* the library's */
	struct gvm_op op;
	struct gvm_region *region;
	struct gvm_region_op *next, *prev;
	void *buf;
	uint64_t page;
	uint64_t end, at; /* of a discard: one past the last page, the slab it has come to */
	uint32_t count;
	int32_t failure; /* of a part; the whole goes on first */
	uint8_t kind, tries, state;
};

/*
 * Fetch count pages from page on into buf. They must lie in one slab, count * 4096 at most
 * GVM_XFER_MAX. A slab without storage gives zeros, without a word on the network (the operation
 * still completes from progress). -EIO: the data is lost.
 */
int gvm_region_fetch(struct gvm_region *region, uint64_t page, uint32_t count, void *buf,
		     struct gvm_region_op *op);
/* Store count pages; within one slab, as above. buf must not change until done. A slab without
 * storage is given some first. -ENOSPC: the memory node is full. */
int gvm_region_put(struct gvm_region *region, uint64_t page, uint32_t count, const void *buf,
		   struct gvm_region_op *op);
/* The pages read as zeros from done on, and cost nothing. Any count, also over slabs. A fetch or
 * put of such a page before done is undefined: wait. */
int gvm_region_discard(struct gvm_region *region, uint64_t page, uint64_t count,
		       struct gvm_region_op *op);
/* As GVM_XFER_MAX and -EAGAIN of gvm_fetch: operations wait in the region, so posts do not fail for
 * want of credits. Gathered like gvm_fetch's: gvm_worker_flush sends them. */

/*
 * A clone of the whole region under another name, as it is now; both go their own way afterwards
 * (copy on write by slab at the memory nodes). Operations under way must be waited for first
 * (-EBUSY). The clone is nobody's until it is opened, with placed_as. flags: GVM_REGION_EPHEMERAL.
 * Asynchronous: done(status) once. -EIO: a node has lost the data, or a part of it.
 */
int gvm_region_clone(struct gvm_region *region, const char *name, uint32_t flags,
		     struct gvm_region_op *op);
/* Change its size. Growing gives zeros; shrinking discards. No operations may be under way
 * (-EBUSY). */
int gvm_region_resize(struct gvm_region *region, uint64_t bytes, struct gvm_region_op *op);
/* Delete it on every node. Afterwards only gvm_region_close. What is under way meanwhile is
 * cancelled
 * (-ECANCELED). Other views of this process must be closed first: to them it would be lost. */
int gvm_region_delete(struct gvm_region *region, struct gvm_region_op *op);
/*
 * The process is about to end: from now on the region is let go of with its last connection,
 * without waiting linger_ms for it to come back; an ephemeral one is deleted then. It can be used
 * as before. Asynchronous: done(0) when the nodes that are connected know of it, or at the
 * deadline; what another client asks of them from then on waits for this one's end. -EBUSY: one is
 * under way.
 */
int gvm_region_leave(struct gvm_region *region, struct gvm_region_op *op);
/* The process goes on after all: linger_ms counts again. Asynchronous as gvm_region_leave. */
int gvm_region_stay(struct gvm_region *region, struct gvm_region_op *op);
/* Let go: operations under way complete with -ECANCELED; the name can be opened by others. */
void gvm_region_close(struct gvm_region *region);
/* The same; released(arg) is called once, perhaps from within, when the nodes that are connected
 * have let go of it, or at the deadline (as in gvm_op): from then on another client finds it free
 * there. */
void gvm_region_release(struct gvm_region *region, uint64_t deadline_ns,
			void (*released)(void *arg), void *arg);

#ifdef __cplusplus
}
#endif
#endif
