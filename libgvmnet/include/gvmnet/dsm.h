/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Coherent shared memory: a region that several processes, on several nodes, map and share. Each
 * page has at any time one writer or many readers, and a read returns the last write, whoever did
 * it: memory is sequentially consistent, and C11 atomics in it work between nodes. The protocol is
 * in docs/coherence.md; its section "In user space" says how it comes to life here.
 *
 * Who takes part
 *   - Memory nodes (gvm-memsrv) are the homes of the pages, by the cluster map's placement.
 *   - Each process that opens a region is a node of the cluster map: it has an id and a line of its
 *     own there (role=compute), and listens at that line's address, because the owner of a page
 *     sends it straight to who asks for it. One process per id; within one process, any number of
 *     regions, each opened once.
 *
 * Threads
 *   - All regions of one net are served by one thread that the library starts with the first and
 *     ends with the last: it owns the engines, the connections and the page faults.
 *   - The functions below may be called by any thread, for one region by one at a time. They block.
 *   - Programs use the memory from any threads. An access that needs another node waits for it.
 *
 * What fails, fails loudly: an access to a page that cannot be had raises SIGBUS in the thread that
 * made it, never zeros and never an older version (a page whose owner died; all pages of a home
 * that was lost). Where a memory node has no room, or an access has waited for GVM_DSM_WAIT_MS,
 * that is so for a second at most; then an access asks again. faults_failed of the statistics
 * counts them, the log says why.
 *
 * After fork() a region is the parent's: in the child all calls with it fail with -ECHILD, and
 * change nothing. The child may open regions, with net NULL or one that it has opened, as a node of
 * its own.
 *
 * Functions return 0 or a negative errno; outputs are set only on success.
 */
#ifndef GVMNET_DSM_H
#define GVMNET_DSM_H

#include <gvmnet/gvmnet.h>

#ifdef __cplusplus
extern "C" {
#endif

struct gvm_dsm;

#define GVM_DSM_CREATE    0x1u /* make the region if it is not there */
#define GVM_DSM_EXCL      0x2u /* with CREATE: refuse if it is there */
#define GVM_DSM_EPHEMERAL 0x4u /* with CREATE: it is deleted when the last node has left it */

struct gvm_dsm_config {
	const char *name;    /* 1 to 63 of [A-Za-z0-9._-] */
	unsigned flags;      /* GVM_DSM_* */
	/* a multiple of GVM_PAGE_SIZE, at most 16 TiB less two pages; 0 without CREATE: as it is */
	uint64_t bytes;
	/* a power of two, 64 KiB to 64 MiB, 4,194,304 slabs at most; 0: GVM_SLAB, or as it is */
	uint32_t slab_bytes;
	/*
	 * How much of it this node may hold at a time, in bytes; what is over it is sent back to
	 * its home. 0: all of it. At least 16 pages.
	 */
	uint64_t local_bytes;
	uint32_t open_ms; /* how long to wait for homes, and for the end of another process that
			   * had this node's id; 0: GVM_DSM_OPEN_MS */
	/*
	 * For who keeps something that was made from a page's contents (translated code): the page
	 * at this offset has been taken from this node, because another one writes to it, or for
	 * want of room. No access of any thread reaches the old contents any more, and nobody has
	 * been told yet that it is gone: so whoever here sees something that another node has
	 * written after it wrote to this page sees it after this has returned. It is called again
	 * only when the page has been here again, and never of a page that was not. Not when only
	 * writing is taken: then the contents stay as they are.
	 *
	 * Called by the library's thread, which serves all faults of the process: it must return
	 * soon, touch no shared memory, call none of these functions, and take no lock whose owner
	 * may touch shared memory. May be NULL. Not called by gvm_dsm_close() for what could not be
	 * given back, nor after it.
	 */
	void (*taken)(void *arg, uint64_t offset);
	/*
	 * A home of the region is there (why 0; also at first, within gvm_dsm_open()), cannot be
	 * reached (-EHOSTUNREACH: accesses that need it wait), or has been given up (-EIO, the last
	 * that is said of it: its pages fail). By the library's thread, on the terms of taken, and
	 * not while the region is being left. May be NULL.
	 */
	void (*node_state)(void *arg, unsigned node, int why);
	void *arg; /* of both */
};

/*
 * Open (or make) a shared region. net was opened with a cluster map and this node's id, and must
 * outlive the region; NULL: the library opens one by the options (GVM_CLUSTER, GVM_NODE,
 * GVM_KEY_FILE, GVM_TRANSPORT), which is shared by all that pass NULL.
 *
 * -EINVAL: the configuration makes no sense, asks for too much, or is not that of the region that
 *          is there (size, slabs, mode); no cluster map, or no id of this node in it
 * -ENOENT: no such region, without CREATE
 * -EEXIST: there is one, with EXCL
 * -EBUSY: another process has this node's id, or had it a moment ago, or is making the region; or
 *         this process has the region open already
 * -EPERM: the region is a private one
 * -EIO: its homes do not agree: one has lost what it had of the region, or kept it when it was
 *       deleted. Nothing is made; delete the region (gvm_dsm_delete(), gvm region delete)
 * -ETIMEDOUT: it took too long to find the homes of all its slabs
 * -EHOSTDOWN: a home did not answer in time
 * -EADDRINUSE, -EADDRNOTAVAIL, -EACCES: the node's line cannot be listened at
 * -EOPNOTSUPP: a home is too old for shared regions, or keeps its regions in an image file
 * -ENOSPC, -ENOMEM, -EUSERS: limits of the homes or of this machine
 */
int gvm_dsm_open(struct gvm_net *net, const struct gvm_dsm_config *config, struct gvm_dsm **dsm);
/*
 * Map it, readable and writable, where the system finds room. Once per region; the mapping lasts
 * until the region is closed. What a program may do with it is what it may do with ordinary memory,
 * but for what libgvmnet/dsm/memory.h lists: a child of fork() does not have it, and the kernel
 * must not be left references to it (O_DIRECT reads, registered buffers). -EEXIST: it is mapped
 * already; -EPERM, -ENOSYS: this process may not handle page faults, or this kernel cannot (the log
 * says what to change); -ENOMEM, -EMFILE.
 */
int gvm_dsm_map(struct gvm_dsm *dsm, void **mem);
/* Its size in bytes. */
uint64_t gvm_dsm_bytes(const struct gvm_dsm *dsm);
/* This node's id. */
unsigned gvm_dsm_node(const struct gvm_dsm *dsm);

/*
 * A hint: this node will not need these bytes soon. Whole pages within that are here go back to
 * their home; those that are pinned or wanted stay. Blocks until the last of them are on their way,
 * so that no more than 4 MiB wait to be sent; that they arrive is not waited for. It takes time in
 * the number of pages that are here, not of those that could be; faults of other threads, and other
 * regions, are served meanwhile. -ERANGE.
 */
int gvm_dsm_evict(struct gvm_dsm *dsm, uint64_t offset, uint64_t len);

/*
 * Keep the pages of these bytes here: until gvm_dsm_unpin() they may be read, with write also
 * written, without waiting, and stay where they are in memory; a device or the kernel may be told
 * to use them (O_DIRECT, registered buffers). With write nobody else has them meanwhile, else all
 * may read. Who wants more waits, and gets it before the next pin of the page here; so pins are for
 * short times.
 *
 * Blocks until it has all of them, in the order of their addresses: who pins several ranges at a
 * time must do so in one order everywhere, or bound the time. Pins add up, up to 65,535 a page. A
 * thread that writes to what is pinned for reading only may wait for the thread that unpins it.
 * What is pinned is not evicted; with local_bytes at most half of that may be, however often. A
 * home that is given up takes its pages, pinned or not; so does gvm_dsm_close(). Any number of
 * threads may call this, unpin and prefetch.
 *
 * -ETIMEDOUT: not in timeout_ms (0: no limit); -ENOMEM: more than may be; -EIO, -EHOSTDOWN: a page
 * is lost, or its home; -ERANGE, -EBUSY; -EINVAL: it is not mapped. Then nothing is pinned.
 */
int gvm_dsm_pin(struct gvm_dsm *dsm, uint64_t offset, uint64_t len, int write, unsigned timeout_ms);
/* Once for each gvm_dsm_pin() of these pages. -ERANGE. */
int gvm_dsm_unpin(struct gvm_dsm *dsm, uint64_t offset, uint64_t len);
/*
 * A hint: these bytes will be read, or written, here soon. Their pages are asked for together, as
 * many as fit (256, and a quarter of local_bytes), and come in the background; a page that is to
 * be written is taken from all others. -ERANGE; -EINVAL: it is not mapped.
 */
int gvm_dsm_prefetch(struct gvm_dsm *dsm, uint64_t offset, uint64_t len, int write);

/*
 * Leave: what this node owns is sent to its homes, then the mapping and the region go. No thread
 * may use the memory any more. 0, or -EIO: what this node alone had could not be given back in
 * GVM_DSM_CLOSE_MS, or a home was lost before or meanwhile; dsm is gone in any case. NULL is
 * nothing to close.
 */
int gvm_dsm_close(struct gvm_dsm *dsm);

/*
 * Before this process becomes another program: what it owns is sent to its homes, and all members
 * are told that it is gone, so that the new program can be this node at once. The mapping stays;
 * accesses to it wait, and so does gvm_dsm_pin(). gvm_dsm_stay(), if that has failed: it is a
 * member again, and they go on. leave: 0, also if it has left already; -EIO: not in timeout_ms, or a
 * home was lost before or meanwhile, it is a member as before. stay: 0, or why the region cannot be opened, after which
 * each access fails, and each pin (-EHOSTDOWN); -ESTALE: it is another one now.
 */
int gvm_dsm_leave(struct gvm_dsm *dsm, unsigned timeout_ms);
int gvm_dsm_stay(struct gvm_dsm *dsm);

/*
 * Delete a region that no node has open, on all memory nodes. -EBUSY: one has; -ENOENT;
 * -EHOSTDOWN: a memory node cannot be reached, and keeps it.
 */
int gvm_dsm_delete(struct gvm_net *net, const char *name);

/* ---- statistics ---------------------------------------------------------------------------- */

/* Since it was opened; levels are now. */
struct gvm_dsm_stats {
	uint64_t faults_read, faults_write;  /* that needed another node */
	uint64_t faults_failed;              /* SIGBUS */
	uint64_t sent, received;             /* messages of the protocol */
	uint64_t bytes_sent, bytes_received; /* of them, with headers */
	uint64_t pages_sent, pages_received; /* pages in them, not zero */
	uint64_t deltas_sent;                /* of those sent: as what has changed of them */
	uint64_t delta_saved;                /* bytes by which these were shorter */
	uint64_t repeated;                   /* requests that were asked for again */
	uint64_t invalidated;                /* copies given up to a writer elsewhere */
	uint64_t evicted;                    /* pages sent home for want of room, or by hint */
	uint64_t refused;                    /* messages that broke the rules */
	uint64_t stale, late;                /* messages that came too late to matter */
	uint64_t no_memory;                  /* a limit or the allocator said no */
	uint64_t sessions_lost;              /* ends of connections to other nodes and homes */
	uint64_t homes_dead;                 /* homes given up */
	uint64_t pages_here, nodes_here;     /* levels: copies; nodes and homes connected */
};
/* From any thread; values are a moment old. */
void gvm_dsm_stats(const struct gvm_dsm *dsm, struct gvm_dsm_stats *stats);
const struct gvm_counter *gvm_dsm_counters(size_t *count);
/* How long faults took that needed another node, ns from when the library saw them. From any
 * thread. write: 0 or 1. */
void gvm_dsm_latency(const struct gvm_dsm *dsm, int write, struct gvm_hist *hist);

#ifdef __cplusplus
}
#endif
#endif
