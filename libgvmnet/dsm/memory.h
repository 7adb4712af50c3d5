/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The memory of a shared region in one process: the mapping that its programs use, each page of
 * which the coherence engine opens for reading or writing, or closes (copy_*, protect of struct
 * ivy_env in ivy/ivy.h).
 *
 * The pages are those of a memfd that is mapped twice. The programs' mapping is registered with
 * userfaultfds; a page that is closed is not in it, though it may be in the file, and the kernel
 * asks here (a minor fault, or a missing one) before it lets anybody at it. The other mapping is
 * the library's own: it reads and writes contents through that one, whoever may use the page, and
 * takes no fault there. The engine's thread never touches the programs' mapping.
 *
 * What the programs' threads may rely on
 *   - Loads, stores, and system calls that are given addresses in the mapping work as on ordinary
 *     memory. A page that cannot be had (dsm_memory_end with an error) raises SIGBUS, in a system
 *     call EFAULT, from then on, or for a while; it never reads as anything made up.
 *   - madvise(MADV_DONTNEED) loses nothing: the next access faults, and all is as before.
 *   - MADV_REMOVE, punching holes: as if zeros were stored without asking for the page. Where this
 *     node may write to the page that is what it is; else nodes may see the old contents or zeros.
 *   - fork: the child does not have the mapping (MADV_DONTFORK), an access is SIGSEGV. A child that
 *     wants the region opens it itself: it is another node (GVM_NODE), and what its parent opened
 *     is not its own; calls with that fail with -ECHILD. madvise(MADV_DOFORK) of it must not be: a
 *     child would have pages that no engine closes, and could store to its parent's.
 *   - munmap of any part of it: those pages are given back (evicted), their addresses are the
 *     program's. mremap: what was moved raises SIGBUS at its new place, and is as unmapped at the
 *     old one. Another mapping laid over it: as munmap. A thread that maps something of its own
 * there before the engine's thread has read the event may find pages of it emptied once.
 *   - mprotect, mlock: as ever; mlock of pages that are not here fetches them.
 *   - Memory that the kernel itself writes to later, by references that it took earlier (O_DIRECT
 *     reads, registered buffers of io_uring, RDMA, VFIO), must not be in it: what arrives after the
 *     page has been closed reaches a page that is not this node's any more.
 *
 * Threads: all functions of one dsm_memory are called by one thread at a time, the engine's. None
 * waits for another thread of the process, or for the network.
 */
#ifndef GVM_DSM_MEMORY_H
#define GVM_DSM_MEMORY_H

#include <stdint.h>
#include "ivy/ivy.h"

struct dsm_memory;

#define DSM_MEMORY_FDS_MAX 16u

struct dsm_memory_config {
	uint64_t pages;  /* of the region, of 4 KiB: 1 to 2^32 - 2 */
	uint64_t budget; /* pages of content that may be here, at least 16; 0: no bound */
	unsigned fds;    /* userfaultfds to spread faults over, 1 to DSM_MEMORY_FDS_MAX; 0: 1 */
	/*
	 * For how long at most a page that was opened for a thread should be left to it, in ns; see
	 * dsm_memory_held_until(). Nearly always it is a few µs. 0: not at all.
	 */
	uint64_t hold_ns;
	/* For how long an access raises SIGBUS after one that failed for want of something, in ns.
	 */
	uint64_t refuse_ns;

	void *user; /* the first argument of what follows */
	/*
	 * A thread of the programs waits for access (IVY_READ or IVY_WRITE) to a page. Returns as
	 * ivy_fault() does, which is all that it need call:
	 *   0        there is access (IVY_READ or more, as asked): the thread goes on
	 *   1        dsm_memory_protect() or dsm_memory_end() follows, or has come already
	 *   -ENOMEM, -EAGAIN  not now: it is asked for again by dsm_memory_trim()
	 *   else     there never will be: SIGBUS, as of dsm_memory_end()
	 * It may call the functions below under "what the engine acts through", and no others.
	 */
	int (*fault)(void *user, uint64_t page, enum ivy_access access);
	/* The page should leave: ivy_evict(), whose answer it returns. From dsm_memory_trim()
	 * alone; it may call what fault() may. */
	int (*evict)(void *user, uint64_t page);
	/* May be NULL. The page has been closed: no thread reaches its content any more. It may
	 * call nothing. */
	void (*taken)(void *user, uint64_t page);
};

/*
 * Make the mapping, with nothing in it. -EPERM, -ENOSYS: userfaultfd may not be used, or lacks what
 * is needed (logged); -ENOMEM, -EMFILE; -EINVAL: the configuration.
 */
int dsm_memory_open(const struct dsm_memory_config *config, struct dsm_memory **memory);
/*
 * Unmap it. Contents are dropped, and nobody is told; threads that wait for a page get SIGSEGV, as
 * all do that touch it from then on.
 */
void dsm_memory_close(struct dsm_memory *memory);
/* Where page 0 is, for the programs. */
void *dsm_memory_base(const struct dsm_memory *memory);

/* ---- what the engine's thread waits for ---------------------------------------------------- */

/* How many descriptors there are, and the i-th one: when it is readable dsm_memory_read() has
 * something to do. They are non-blocking; level- or edge-triggered both do. */
unsigned dsm_memory_fds(const struct dsm_memory *memory);
int dsm_memory_fd(const struct dsm_memory *memory, unsigned i);
/* Read all that is to be read of the i-th one, and call fault() for what it says. Returns how many
 * messages there were. */
int dsm_memory_read(struct dsm_memory *memory, unsigned i);
/*
 * What is not bound to an event; to be called after each batch of the functions above and below,
 * never from within fault() or evict(): makes room if the contents here exceed the budget (a part
 * of it at a time), calls fault() again for threads that were told "not now", and ends refusals
 * whose time is over (for which once in 100 ms is enough). Returns 1 if
 * there is more to do that waits for nothing, 2 if it waits for the engine (call it again when that
 * has done something, or after a while), 0 if all is well. Costs next to nothing when there is
 * nothing to do.
 */
int dsm_memory_trim(struct dsm_memory *memory);
/* When dsm_memory_trim() has said 2 and a while is over: gives memory back that is of no use. */
void dsm_memory_bury(struct dsm_memory *memory);

/* ---- what the engine acts through: as struct ivy_env says ---------------------------------- */

const void *dsm_memory_copy_read(struct dsm_memory *memory, uint64_t page);
/* Never fails for the budget (dsm_memory_trim() makes up for it); -ENOMEM: the system has none. */
int dsm_memory_copy_write(struct dsm_memory *memory, uint64_t page, const void *bytes);
void dsm_memory_copy_drop(struct dsm_memory *memory, uint64_t page);
/*
 * When this returns, programs can do this with the page and no more; less than before: no access of
 * any thread, begun or not, reaches it any more. More than before: threads that wait go on.
 */
void dsm_memory_protect(struct dsm_memory *memory, uint64_t page, enum ivy_access access);
/*
 * For fault_done(). 0: threads that wait for the page look again (dsm_memory_protect() has had them
 * do so already, where it gave what they wait for). -ENOMEM, -ENOSPC, -ETIMEDOUT: access raises
 * SIGBUS for refuse_ns, or until there is more access than before; then fault() is called again.
 * If no thread waits for it, nothing happens. Else: the page is closed, and access raises SIGBUS
 * for good.
 */
void dsm_memory_end(struct dsm_memory *memory, uint64_t page, int status);

/*
 * Whether the page should be left open for a moment, so that the thread for which it was opened
 * last can use it at least once: 0: no; else when (gvm_now()'s ns) to ask again, and until it has
 * said no the wish lasts, be that time over when the caller looks at it. It is a wish until
 * that thread has had a CPU since, and for no longer than hold_ns: who passes messages to the
 * engine may keep those back that would close the page, with what the same sender says of the same
 * page after them. Only ever for pages that a thread waited for.
 */
uint64_t dsm_memory_held_until(struct dsm_memory *memory, uint64_t page);

/* Counters since open, and levels. */
struct dsm_memory_stats {
	uint64_t faults_read, faults_write; /* that fault() was called for, also again */
	uint64_t faults_local; /* had access: put out of the mapping to see whether it is used */
	uint64_t opened, closed, upgraded, downgraded; /* pages, by protect() */
	uint64_t evictions;                            /* evict() said 0 */
	uint64_t poisoned;                             /* pages that give SIGBUS for good */
	uint64_t refused;                              /* how often one did for a while */
	uint64_t present; /* pages of content here now, also of no use any more */
	uint64_t waiting; /* faults that were told "not now" */
};
void dsm_memory_stats(const struct dsm_memory *memory, struct dsm_memory_stats *stats);

#endif
