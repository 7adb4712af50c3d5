/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The pager: memory of this process whose pages live on memory nodes, with a bounded part of them
 * here. Faults are taken by userfaultfd; the program that touches the memory knows nothing.
 *
 * A pager has threads of its own (GVM_PAGER_THREADS), each with a userfaultfd, a worker and the
 * pages of its share of every range: no page is shared between two of them. All functions here may
 * be called from any thread but the pager's own, and block until done, unless they say otherwise.
 * None of them touches paged memory, so the caller may hold any lock.
 */
#ifndef GVMNET_PAGER_H
#define GVMNET_PAGER_H

#include <gvmnet/gvmnet.h>

#ifdef __cplusplus
extern "C" {
#endif

struct gvm_pager;
struct gvm_range;

/* What an access to a page does whose memory node cannot be reached, or has lost it. */
enum gvm_unreachable {
	GVM_UNREACHABLE_STALL, /* wait until the node is back; a page that is lost: SIGBUS */
	/* when the node has been away, or has not answered, for GVM_UNREACHABLE_MS; at once when it
	 * has been away for longer: */
	GVM_UNREACHABLE_SIGBUS, /* SIGBUS; a page that is lost: the same */
	GVM_UNREACHABLE_ZERO,   /* zeros; a page that is lost: the same; logged and counted */
};

struct gvm_pager_config {
	uint64_t local_bytes; /* how much memory may be here, over all ranges; at least 1 MiB */
	unsigned threads;     /* 0: GVM_PAGER_THREADS */
	enum gvm_unreachable unreachable;
	unsigned unreachable_ms;
	unsigned attach_ms;      /* most that an attach waits for nodes; 0: GVM_OP_TIMEOUT_MS */
	unsigned prefetch_pages; /* most pages fetched ahead; 0: none */
	uint32_t slab_bytes;     /* of new regions; 0: GVM_SLAB_BYTES */
	void *arg;
	/* A node is away (why < 0), back (0), back without data (-EIO). From a pager thread: must
	 * not block, allocate or touch paged memory. */
	void (*node_state)(void *arg, unsigned node, int why);
};
/* Fill in the defaults and what the options (GVM_LOCAL, GVM_UNREACHABLE, ...) say. */
void gvm_pager_config_init(struct gvm_pager_config *config);

/* net stays the caller's and must outlive the pager. -EPERM: no permission for userfaultfd (the
 * log says what to do); -ENOSYS: the kernel has none or lacks a needed feature. */
int gvm_pager_open(struct gvm_net *net, const struct gvm_pager_config *config,
		   struct gvm_pager **pager);
/* Detach everything, without storing what is dirty, and end the threads. */
void gvm_pager_close(struct gvm_pager *pager);

#define GVM_ATTACH_KEEP 1u /* the region exists already: its contents appear in the range */
#define GVM_ATTACH_SAVE 2u /* the region outlives the pager (default: it is ephemeral) */
#define GVM_ATTACH_ANON 4u /* private anonymous memory that the caller has mapped at base */
/* With GVM_ATTACH_ANON: huge pages. While the budget (local_bytes) holds all that is attached, or a
 * quarter of it is free beside, the first touch of 2 MiB, aligned in the address space, that were
 * never touched brings all of them, as one huge page of zeros, if the kernel has one to give. It
 * takes Linux 6.8 (UFFDIO_MOVE), and transparent huge pages at "madvise" or "always"; else it has
 * no effect. */
#define GVM_ATTACH_HUGE 8u
/*
 * Put [base, base + bytes) under the pager, as region name.
 *   memfd >= 0: the range is a MAP_SHARED mapping of this descriptor at offset (memfd or tmpfs; the
 *     pager makes an alias of its own and keeps neither descriptor nor contents: it punches them).
 *   memfd = -1 with GVM_ATTACH_ANON: private anonymous memory, contents discarded.
 *   base = NULL with GVM_ATTACH_ANON: the pager maps it (MAP_NORESERVE) and gvm_range_base says
 * where. base and bytes are multiples of 4,096. On success contents are the region's (zeros if
 * new). -EBUSY, -ENOENT, -ENOSPC, ...: see gvm_region_open; -ETIMEDOUT and the like: a node did not
 * answer within attach_ms.
 */
int gvm_pager_attach(struct gvm_pager *pager, const char *name, void *base, uint64_t bytes,
		     int memfd, uint64_t offset, unsigned flags, struct gvm_range **range);
void *gvm_range_base(const struct gvm_range *range);
uint64_t gvm_range_bytes(const struct gvm_range *range);
/*
 * Take the range from under the pager. Memory that the caller has mapped stays mapped, and reads as
 * zeros; what the pager has mapped (base = NULL) is unmapped. With GVM_ATTACH_SAVE everything dirty
 * is stored first: 0 means that the region holds all of it. Without, the region is deleted. On
 * return the nodes that are connected have let go of it, so that anybody may attach it, or have not
 * answered for a second.
 */
int gvm_pager_detach(struct gvm_range *range);
/* Store everything dirty of a range; 0: the region has it all as of some moment in the call. */
int gvm_pager_sync(struct gvm_range *range);
/* Pages [offset, offset + bytes) read as zeros from now on and cost nothing here or there. (The
 * same happens by itself on madvise(MADV_DONTNEED/REMOVE/FREE) of the range.) */
int gvm_pager_discard(struct gvm_range *range, uint64_t offset, uint64_t bytes);
/*
 * Have pages [offset, offset + bytes) stay. Once one of them has been written to it is here and
 * writable, for the kernel too where it does not wait for pages (what it writes for a thread that
 * ends), until gvm_pager_let_go or until it is unmapped; if it is discarded, from the next write
 * on. A sync, and what saves, may still take one away for a moment. Such pages count as pinned. A
 * forked child has them, too. -EINVAL: not whole pages of the range.
 */
int gvm_pager_hold(struct gvm_range *range, uint64_t offset, uint64_t bytes);
int gvm_pager_let_go(struct gvm_range *range, uint64_t offset, uint64_t bytes);
/* The program is about to, or did, move or resize its mapping: call this instead of mremap. Like
 * mremap(base, bytes, new_bytes, flags, fixed): returns the new address, or MAP_FAILED and errno.
 */
void *gvm_pager_remap(struct gvm_range *range, uint64_t new_bytes, int flags, void *fixed);
/* Give up a part: its pages are gone here and there. A hole splits the range's bookkeeping, not the
 * region. The addresses stay reserved, inaccessible (an anonymous PROT_NONE mapping laid over them
 * in one step, so that no other thread's mmap can land there): the caller unmaps them or maps over
 * them. When nothing is left the range is detached and must not be used again (returns 1). */
int gvm_pager_unmap(struct gvm_range *range, uint64_t offset, uint64_t bytes);
/* Whether a forked child gets a view of the range (1, the default). 0: its region is not cloned,
 * and the child's addresses are left as the kernel made them; for what is MADV_DONTFORK, and for
 * shared memory, of which a clone would not be the same memory any more. */
void gvm_range_set_fork(struct gvm_range *range, int follow);
/* Change the local budget while running. -EINVAL: less than 1 MiB. Returns at once; pages go as
 * fast as they can be written back. */
int gvm_pager_set_local(struct gvm_pager *pager, uint64_t bytes);
/* Change prefetch_pages while running; 0: none. */
int gvm_pager_set_prefetch(struct gvm_pager *pager, unsigned pages);
/*
 * The program lends pages to the kernel, which sends them later from where they are (vmsplice,
 * MSG_ZEROCOPY), and holds them by a reference that, other than a pin, cannot be seen. From now on
 * the memory of a page that has left goes back to the kernel, and is not used for a page that
 * comes. Streams cost a little more. Thread-safe; it holds for forked children too.
 */
void gvm_pager_lend(struct gvm_pager *pager);

/*
 * fork() of a paged process. prepare: the pager comes to rest and each region is cloned at its
 * memory nodes. In the parent: go on; forked 0: there is no child, and its clones are deleted,
 * which a node is waited for a second at most. In the child (single-threaded there): new net, new
 * threads, the clones under the same addresses. 0, or a negative errno: then the child's paged
 * memory is not usable and the caller must end the child loudly.
 */
int gvm_pager_fork_prepare(struct gvm_pager *pager);
void gvm_pager_fork_parent(struct gvm_pager *pager, int forked);
int gvm_pager_fork_child(struct gvm_pager *pager);

/* The process is about to end, or to become another program: ephemeral regions go with it, not
 * after their linger time. Paged memory can be used as before, by all threads. Returns when the
 * nodes that are connected know of it, after a second at most. */
void gvm_pager_leave(struct gvm_pager *pager);
/* It goes on after all (an exec has failed): as if gvm_pager_leave had not been called. */
void gvm_pager_stay(struct gvm_pager *pager);

struct gvm_pager_stats {
	uint64_t faults;          /* page faults served, all kinds */
	uint64_t faults_remote;   /* fetched their page, and waited for it */
	uint64_t faults_zero;     /* first touch of a page that was never stored */
	uint64_t faults_write;    /* first write to a clean page that was here */
	uint64_t faults_victim;   /* page was on its way out and came back */
	uint64_t faults_prefetch; /* waited for a page that prefetch had under way */
	uint64_t fetched_pages, fetched_bytes;
	/* used + wasted <= prefetched <= fetched_pages: the rest is here, not used yet */
	uint64_t prefetched_pages, prefetch_used, prefetch_wasted;
	uint64_t zeros_ahead; /* put there before they were asked for, without a fetch */
	uint64_t evicted_pages, evicted_clean, evicted_zero;
	uint64_t written_pages, written_bytes;
	uint64_t discarded_pages;
	uint64_t retries, unreachable_zeroed, unreachable_sigbus, lost_pages;
	uint64_t resident_pages, local_pages, dirty_pages, attached_pages,
	    stored_pages;        /* gauges */
	uint64_t metadata_bytes; /* gauge */
	uint64_t nodes_away;     /* gauge */
};
/* Faults that waited for a memory node, by a fetch of their own or one that prefetch had begun. */
static inline uint64_t gvm_pager_faults_waited(const struct gvm_pager_stats *stats)
{
	return stats->faults_remote + stats->faults_prefetch;
}
/* latency: of faults, in ns, by kind; may be NULL. Does not block. */
struct gvm_pager_latency {
	struct gvm_hist all, remote, zero, write, victim;
};
void gvm_pager_stats(struct gvm_pager *pager, struct gvm_pager_stats *stats,
		     struct gvm_pager_latency *latency);
const struct gvm_counter *gvm_pager_counters(size_t *count);

#ifdef __cplusplus
}
#endif
#endif
