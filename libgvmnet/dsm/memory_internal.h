/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of a shared region's memory share: memory.c (pages, and what programs may do with
 * them), memory_fault.c (what the kernel says), memory_room.c (the budget), memory_hold.c (who
 * waits), memory_refuse.c (SIGBUS), memory_cover.c (the same on kernels that have no request for
 * it). All of it is the engine's thread's, but for struct cover.
 */
#ifndef GVM_DSM_MEMORY_INTERNAL_H
#define GVM_DSM_MEMORY_INTERNAL_H

#include <gvmnet/gvmnet.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdbool.h>
#include "pager/mem.h"
#include "memory.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

#define PAGE   GVM_PAGE_SIZE
#define NIL    UINT32_MAX
#define FAULTS 256u /* read and not served yet; a power of two */
#define WAITS  256u /* that were told "not now"; a power of two */
#define COVERS 64u  /* that the cover thread has to do; a power of two */
#define HOLDS  256u
#define REFUSALS 256u /* that are not for good; a power of two */
#define ROUND  64u /* pages that one trim looks at */

/* Where the content of a page is, if anywhere, and so in which queue the page is. */
enum place {
	ABSENT, /* nowhere: the file has a hole there */
	KEPT,   /* in the file; programs may do nothing with it. In no queue */
	LIVE,   /* in the programs' mapping, or as good as: they may use it */
	VICTIM, /* they may, but it has been taken out of the mapping to see whether they do */
	DEAD,   /* of no use any more; its memory has not been given back */
	PLACES
};

#define F_ACCESS   3u        /* enum ivy_access that has been given */
#define F_MAPPED   (1u << 2) /* may be in the programs' mapping */
#define F_POISONED (1u << 3) /* an access raises SIGBUS, for good */
#define F_GONE     (1u << 4) /* its addresses are not ours any more */
#define F_LEAVING  (1u << 5) /* evict() has been called for its content */
#define F_REFUSED  (1u << 6) /* it is not mapped, and an access raises SIGBUS, for a while */
#define F_COVERED  (1u << 7) /* a cover is over it, or is about to be */
#define F_AWAITED  (1u << 8) /* a thread waits for what fault() was called for */

/* What the kernel is to ask about the programs' mapping. */
#define WATCHED                                                                                    \
	(UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR)

struct page {
	uint32_t next, prev; /* in the queue of its place */
	uint16_t flags, place;
};

struct queue {
	uint32_t first, last, count;
};

struct fault {
	uint64_t addr;
	uint32_t tid; /* of the thread that waits */
	int uffd;
	bool write;
};

/* Of a page, and of others with the same remainder of its number: the last one counts. */
struct hold {
	uint64_t page;
	uint64_t opened_ns,
	    cpu_ns; /* when it was opened, and the thread's CPU time then; 0: no hold */
	uint32_t tid;
	bool waits; /* the thread does, for the page to be opened */
};

struct refusal {
	uint64_t page, until;
};

/* A thread that lays mappings over pages, and takes them away: it waits until the engine's thread
 * has read the event. */
struct cover {
	pthread_mutex_t lock;
	pthread_cond_t posted;
	pthread_t thread;
	bool started, stop; /* under lock */
	int ended;          /* atomic */
	int empty_fd;       /* a file of no length */
	int file;           /* the region's */
	uint64_t inode;     /* of empty_fd */
	uint32_t head, tail;
	struct {
		uint64_t addr, offset; /* offset: in the region */
		int uffd;
		bool lift;
	} ring[COVERS];
};

struct dsm_memory {
	struct dsm_memory_config config;
	uint64_t bytes;
	int file;
	char *base, *alias; /* the programs' mapping, the library's */
	struct page *page;
	struct queue queue[PLACES]; /* LIVE, VICTIM, DEAD: oldest first */
	int uffd[DSM_MEMORY_FDS_MAX];
	uint64_t stripe;                 /* consecutive pages of one userfaultfd */
	bool poison;                     /* the kernel has requests to poison, ... */
	bool continue_wp;                /* ... to map what is there write-protected */
	bool serving, evicting, pierced; /* pierced: some pages are GONE */
	uint64_t present, leaving;
	uint64_t parting; /* GONE, and in LIVE or VICTIM */
	struct fault faults[FAULTS], waits[WAITS];
	uint32_t fault_head, fault_tail, wait_head, wait_tail;
	struct hold holds[HOLDS];
	struct refusal refusals[REFUSALS]; /* oldest first */
	uint32_t refused_head, refused_tail;
	struct cover cover;
	struct dsm_memory_stats stats;
	char bounce[PAGE] __attribute__((aligned(64)));
};

static inline uint64_t addr_of(const struct dsm_memory *m, uint64_t page)
{
	return (uint64_t)(uintptr_t)m->base + page * PAGE;
}

static inline int uffd_of(const struct dsm_memory *m, uint64_t page)
{
	return m->uffd[page / m->stripe % m->config.fds];
}

static inline enum ivy_access access_of(const struct page *p)
{
	return (enum ivy_access)(p->flags & F_ACCESS);
}

/* ---- memory.c ------------------------------------------------------------------------------ */

/* Out of the queue of its place and to the end, or the front, of another's. */
void page_place(struct dsm_memory *m, uint64_t page, enum place place);
void page_place_first(struct dsm_memory *m, uint64_t page, enum place place);
/* Its addresses are not ours any more, and it leaves next. */
void memory_page_lose(struct dsm_memory *m, uint64_t page);
/* Into the mapping, with the access that has been given; threads that wait for it go on. */
void page_map(struct dsm_memory *m, uint64_t page);
/* Out of the mapping. */
void page_unmap(struct dsm_memory *m, uint64_t page);

/* ---- memory_fault.c ------------------------------------------------------------------------ */

/* The kernel would not, as the program is changing its mappings: have that come to its end. */
void settle(struct dsm_memory *m);
/* Serve what has been read; not from within fault() or evict(). Returns whether there was any. */
bool serve_faults(struct dsm_memory *m);
/* Those that were told "not now", once more. */
void serve_waits(struct dsm_memory *m);

/* ---- memory_hold.c ------------------------------------------------------------------------- */

/* A thread waits for the page; it is being opened; it has been closed, or made less. */
void hold_waits(struct dsm_memory *m, uint64_t page, uint32_t tid);
void hold_begin(struct dsm_memory *m, uint64_t page);
void hold_end(struct dsm_memory *m, uint64_t page);

/* ---- memory_refuse.c ----------------------------------------------------------------------- */

/* From now on an access to the page at this address raises SIGBUS. True: by a cover. */
bool refuse_at(struct dsm_memory *m, int uffd, uint64_t addr);
/* The same of a page that is not mapped. */
void page_shut(struct dsm_memory *m, uint64_t page);
/* If it is refused for a while, that is over now, or soon. */
void page_reopen(struct dsm_memory *m, uint64_t page);
/* The cover has been taken away. */
void page_uncovered(struct dsm_memory *m, uint64_t page);
/* Those whose time is over can be asked for again. */
void refusals_end(struct dsm_memory *m);

/* ---- memory_cover.c ------------------------------------------------------------------------ */

/* Does what refuse_at() says, soon; a thread that waits for the page waits until then. False: it
 * cannot, and the thread asks again. */
bool cover_post(struct dsm_memory *m, int uffd, uint64_t addr);
/* Takes the cover of a page away, soon, unless the program has; an event of the move tells when.
 * False: not now. */
bool cover_lift(struct dsm_memory *m, uint64_t page);
/* Covered pages at whose addresses the program has something else now are GONE. */
void cover_forget(struct dsm_memory *m);
/* Ends the thread. */
void cover_close(struct dsm_memory *m);

#endif
