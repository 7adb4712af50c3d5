/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the pager's files share. Who may touch what:
 *   shard   its own thread alone, but for what is marked atomic, and what is written while the
 *           thread does not run yet or is at rest (fork)
 *   range   written by control calls under pager->control, and by a shard only in the pages
 *           (words of the table) that are its own
 *   pager   immutable after open, but for what is marked atomic or under control
 * All memory comes from mmap, never from malloc: the program's malloc may be paged by this very
 * pager, and its locks may be held by a thread that waits for a page.
 */
#ifndef GVM_PAGER_INTERNAL_H
#define GVM_PAGER_INTERNAL_H

#include <errno.h>
#include <linux/falloc.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>
#include <gvmnet/pager.h>
#include <gvmnet/region.h>
#include "core/fd.h"
#include "digest.h"
#include "mem.h"
#include "policy.h"
#include "trend.h"

#define PAGE       GVM_PAGE_SIZE
#define PAGE_SHIFT 12
#define SHARDS_MAX 64u
#define RANGES_MAX 65536u
#define PIECES_MAX 262144u /* contiguous parts of ranges, per shard */
#define RUN_MAX    64u     /* pages of one fetch, put or ioctl */
#define DEMANDS    72u     /* single-page fetches under way, per shard */
#define AHEADS_MAX 16u     /* fetches of up to RUN_MAX pages under way, per shard */
#define PUTS       256u
#define PUTS_NODE  32u /* of them for one memory node */
#define DISCARDS   32u
#define JOBS       64u /* what the helper thread has to do, per shard */
#define DEMANDS_NODE                                                                               \
	(DEMANDS / 2)    /* of them for all memory nodes that are away, where there are several */
#define PARKED     4096u /* faults that wait for their node to answer others, per shard */
#define FAULTS     128u  /* faults read and not served yet, per shard; a power of two */
#define TRACKERS   64u   /* slabs whose faults are followed, per shard; a power of two */
#define RECHECKS   8u    /* what comes when all are taken makes one of them wider */
#define ROUND      64u   /* pages that eviction takes or drops between two looks at the faults */
#define ZAP_BATCH  64u   /* free slots that are emptied together */
#define POOL_MAX   256u  /* free slots that keep their memory, for pages that arrive */
#define HUGE_PAGES 512u  /* of a huge page */
#define HUGE_BYTES ((uint64_t)HUGE_PAGES * PAGE)

/* ---- a page's word ------------------------------------------------------------------------- */

/* Low half: state and flags. High half: the frame (MAPPED), slot (VICTIM), fetch (FETCHING) or job
 * (TAKING) that has it. */
enum page_state {
	PAGE_NONE,     /* not here */
	PAGE_MAPPED,   /* in the program's mapping */
	PAGE_VICTIM,   /* taken out of the mapping, still here */
	PAGE_FETCHING, /* on its way here */
	PAGE_TAKING,   /* write-protected; the helper copies it and empties the mapping */
	PAGE_POISONED, /* an access gives SIGBUS */
	PAGE_GONE,     /* unmapped by the program */
};
#define PAGE_STATE    7u
#define PAGE_STORED   (1u << 3)  /* the region may hold contents of it */
#define PAGE_DIRTY    (1u << 4)  /* what is here may differ from what the region holds */
#define PAGE_WRITING  (1u << 5)  /* a put of it is under way; it is not taken, put or dropped */
#define PAGE_PURGE    (1u << 6)  /* the region holds contents that were discarded here */
#define PAGE_PURGING  (1u << 7)  /* the region has been told; no put until it answers */
#define PAGE_REMOVED  (1u << 8)  /* a discard was announced: look again before it is taken */
#define PAGE_LOST     (1u << 9)  /* the region has lost it: not asked again until it is stored */
#define PAGE_WANTED   (1u << 10) /* a thread waits for it */
#define PAGE_WANTED_W (1u << 11) /* ... to write */
#define PAGE_AHEAD    (1u << 12) /* brought by prefetch, use not seen yet */
#define PAGE_RETURN   (1u << 13) /* taken by sync: goes back when it is stored */
#define PAGE_EVENT    (1u << 15) /* while it is taken: its emptying has been announced */
#define PAGE_BUSY     (1u << 14) /* the kernel would not let go of it last time */
#define PAGE_PUT      (1u << 17) /* a victim that has been written since it was taken */
#define PAGE_ASIDE    (1u << 18) /* mapped, and would not leave: out of the order of leaving */
#define PAGE_AGAIN    (1u << 19) /* mapped, has been set aside, and is to be tried once more */
#define PAGE_UNSURE   (1u << 16) /* clean if it still has the digest that its frame holds */
#define PAGE_HELD     (1u << 20) /* stays here, and writable, once it has been written to */

typedef uint64_t page_word;

static inline unsigned page_state(page_word w)
{
	return (unsigned)w & PAGE_STATE;
}

static inline uint32_t page_index(page_word w)
{
	return (uint32_t)(w >> 32);
}

static inline page_word page_make(unsigned state, uint64_t flags, uint32_t index)
{
	return (uint64_t)index << 32 | (flags & UINT32_MAX & ~(uint64_t)PAGE_STATE) | state;
}

/* Flags that belong to the page's story with the region, or were asked for by the program, and
 * outlive its being here. */
#define PAGE_KEEP (PAGE_STORED | PAGE_WRITING | PAGE_PURGE | PAGE_PURGING | PAGE_LOST | PAGE_HELD)

/* ---- the region, or the test's stand-in ---------------------------------------------------- */

struct store_ops {
	int (*open)(struct gvm_worker *worker, const struct gvm_region_config *config,
		    uint64_t deadline_ns, gvm_region_cb opened, struct gvm_region **region);
	uint64_t (*pages)(const struct gvm_region *region);
	uint64_t (*slab_pages)(const struct gvm_region *region);
	int (*has_storage)(const struct gvm_region *region, uint64_t page);
	uint64_t (*away_since)(const struct gvm_region *region, uint64_t page);
	unsigned (*node)(const struct gvm_region *region, uint64_t page);
	int (*fetch)(struct gvm_region *region, uint64_t page, uint32_t count, void *buf,
		     struct gvm_region_op *op);
	int (*put)(struct gvm_region *region, uint64_t page, uint32_t count, const void *buf,
		   struct gvm_region_op *op);
	int (*discard)(struct gvm_region *region, uint64_t page, uint64_t count,
		       struct gvm_region_op *op);
	int (*clone)(struct gvm_region *region, const char *name, uint32_t flags,
		     struct gvm_region_op *op);
	int (*resize)(struct gvm_region *region, uint64_t bytes, struct gvm_region_op *op);
	int (*remove)(struct gvm_region *region, struct gvm_region_op *op);
	int (*leave)(struct gvm_region *region, struct gvm_region_op *op);
	int (*stay)(struct gvm_region *region, struct gvm_region_op *op);
	void (*close)(struct gvm_region *region);
	void (*release)(struct gvm_region *region, uint64_t deadline_ns, void (*released)(void *),
			void *arg);
};
extern const struct store_ops store_region;

/* Called by a shard's thread whenever it has done what there was to do: what a test awaits may have
 * come about. */
extern void (*pager_observer)(void);

/* ---- objects ------------------------------------------------------------------------------- */

struct shard;
struct view;

/* A page that is mapped: its place in FIFO order. */
struct frame {
	struct gvm_link link;
	uint32_t page;
	uint16_t range;
	struct digest digest; /* with PAGE_UNSURE */
};

/* A place for a page that has been taken out of its mapping. */
#define SLOT_BUSY     1u  /* in use */
#define SLOT_FULL     2u  /* has memory: must be emptied before a page can be moved in */
#define SLOT_VICTIM   4u  /* in the queue of victims */
#define SLOT_QUEUED   8u  /* in the queue of those to be written */
#define SLOT_ORPHAN   16u /* its put goes on, its page has left: free when done */
#define SLOT_STRANDED 32u /* to be written to a node that is away: in no queue of victims */
struct slot {
	struct gvm_link link, dirty; /* among victims; among those to be written */
	uint32_t page;
	uint16_t range;
	uint16_t flags : 6, outlet : 10; /* of a page that is or was dirty */
};

/* What is on its way to one memory node. Only where a shard has to do with more nodes than OUTLETS
 * do some of them share one. */
#define OUTLETS   1024u
#define NO_OUTLET UINT16_MAX
struct outlet {
	struct gvm_link link;   /* among those with something to be written, or under way */
	struct gvm_queue dirty; /* of slots: to be written */
	uint32_t node, putting;
	uint32_t demands; /* fetches for faults under way */
	bool seen, listed, away, parked;
	uint64_t heard_ns; /* when it answered a put last, or the first one was begun */
	uint64_t hold;     /* no put before: it was full; 0: it was not */
	uint64_t hold_ns;  /* how long it is left alone; 0: it was not full last time */
	int told;          /* why a put was refused, as the log has it */
};

/* A fetch under way. */
struct fetch {
	struct gvm_region_op op;
	struct view *view;
	char *buf;
	uint64_t page;
	uint32_t count, number, next_free;
	bool demand;       /* posted for a fault, not by prefetch */
	bool hurried;      /* its node was away when it was posted */
	uint16_t outlet;   /* of a demand, where there are several nodes; else NO_OUTLET */
	uint64_t start_ns; /* of the first fault that waits for it; 0: none */
};

struct put {
	struct gvm_region_op op;
	struct view *view;
	uint64_t page;
	uint32_t count, slot, next_free, turn;
};

struct purge {
	struct gvm_region_op op;
	struct shard *shard;
	struct view *view;
	uint64_t page, count;
	uint32_t next_free;
};

/* What the helper does for a shard: calls that wait for the shard to read an event. */
enum job_kind {
	JOB_TAKE,     /* copy the pages into slots, empty the mapping */
	JOB_POPULATE, /* have the kernel unshare pages that a fork left shared */
	JOB_COVER,    /* lay a mapping that gives SIGBUS over a page */
	JOB_HEAL,     /* make a page that gave SIGBUS missing again */
};
struct job {
	struct gvm_task task;
	struct shard *shard;
	struct view *view;
	enum job_kind kind;
	int status;
	uint64_t addr, page;
	uint32_t count, slot, number, next_free;
	uint32_t copied; /* atomic: the mapping is not read any more, but emptied */
};

#define FAULT_AGAIN 8u /* it has waited for a frame, and been counted */
struct fault {
	uint64_t addr;
	uint64_t start_ns : 60, flags : 4; /* UFFD_PAGEFAULT_FLAG_*, FAULT_AGAIN */
};

/* A contiguous part of a range at an address. */
struct piece {
	uint64_t addr, first; /* first page of the range */
	uint64_t pages;
	uint32_t range;
};

/* A control call on a shard's thread: fn runs there, call_done() (then or later) ends it. */
struct call {
	struct gvm_task task;
	struct shard *shard;
	void (*fn)(struct call *call);
	struct gvm_range *range;
	uint64_t a, b;
	uint32_t done; /* futex */
	int status;
	struct call *next;        /* in shard->syncs */
	uint64_t cursor, seen;    /* sync: next page to look at; those before it were looked at */
	uint64_t again, again_ns; /* sync: not before, for the page there does not let go */
	uint32_t phase;
	struct gvm_region_op op;   /* for calls that end with a region's operation */
	struct gvm_region *region; /* one that is no range's */
	const char *name;
	uint32_t flags;
};

/* One shard's side of a range. */
struct view {
	struct shard *shard;
	struct gvm_range *range;
	struct gvm_region *region;
	page_word *table;
	uint64_t base; /* where page 0 is, if whole */
	uint64_t pages;
	uint32_t id, slab_pages;
	uint32_t busy;       /* operations and jobs under way */
	uint32_t jobs;       /* the helper's alone */
	uint32_t dirty;      /* victims that must be written */
	uint32_t writing[2]; /* puts under way, by sync's turn */
	uint32_t turn, taking;
	uint32_t purging; /* discards that the region has not answered yet */
	int put_err;      /* a put has failed for good since sync began */
	uint8_t *away;    /* bit per node that it has said to be away; NULL: none ever */
	bool used, whole, anon;
	bool closing;                  /* no fault is answered, no operation begun */
	bool paused;                   /* no page is taken */
	uint64_t purge_lo, purge_hi;   /* pages with PAGE_PURGE lie in [lo, hi) */
	uint64_t poison_lo, poison_hi; /* pages with PAGE_POISONED */
	struct call *drain;            /* waits for busy == 0 */
};

/* Where pages of a range are mapped, and whose they are. */
#define PARTS_MAX 65536u /* beside one for each slab */
struct part {
	uint64_t addr, first, pages;
	uint32_t shard;
};
struct parts {
	struct part *part;
	uint32_t count;
	uint64_t bytes;
};

struct recheck {
	uint32_t range;
	uint64_t page, pages, since_ns;
};

struct tracker {
	struct gvm_trend trend;
	uint32_t range, slab, used;
	bool writes;  /* its last fault was a write */
	bool gathers; /* the fault at stands_at waits for room for more than its page */
	uint32_t stands_at, taken_before;
};

struct ahead {
	struct view *view;
	struct tracker *tracker;
	uint32_t from, count;
	int32_t stride;
	bool stands; /* a thread waits, or has waited, at the window's beginning */
	bool here;   /* the first page is that of the fault: it needs no room any more */
};

struct shard {
	struct gvm_pager *pager;
	unsigned number;
	pthread_t thread, helper;
	bool started, helper_started;
	uint32_t helper_asleep, helper_stop; /* atomic */
	bool stop;
	int uffd, stage_fd, mem_fd, pagemap_fd;
	struct gvm_watch watch;
	struct gvm_worker *worker;

	struct view *views; /* by range id */
	struct piece *pieces;
	uint32_t piece_count;

	struct frame *frames;
	uint32_t frame_limit, frame_used, frame_free;
	struct gvm_queue mapped; /* of frames, FIFO */
	struct gvm_queue aside;  /* of frames that would not leave: pinned, or locked */
	uint64_t aside_at;       /* some of them are not tried again before */
	uint64_t aside_ns;       /* how long they were left alone last time */
	uint32_t aside_batch;    /* how many are tried next time */
	bool aside_let_go;       /* one of the last ones has left */

	struct slot *slots;
	char **chunks; /* of slots' memory */
	uint32_t slot_limit, slot_cursor, slot_busy;
	uint64_t slot_most; /* as the budget wants them, should all of it come to be this shard's */
	/* slots that were freed and may have memory, in the order of it: a ring */
	uint32_t stale[POOL_MAX], stale_from, stale_count, stale_limit;
	struct gvm_queue victims; /* of slots, LRU */
	struct outlet *outlets;   /* by node, modulo their number or in the next free one */
	uint32_t outlets_seen;
	struct gvm_queue outbound;   /* of outlets */
	uint32_t dirty;              /* slots to be written */
	uint32_t stranded;           /* slots with SLOT_STRANDED */
	struct gvm_timer hold_timer; /* a node that was full is asked again */
	struct gvm_timer retry_timer, sync_timer;

	struct fetch *fetches;   /* DEMANDS single ones, then aheads long ones */
	struct gvm_mem *landing; /* their buffers, for hardware to read into; NULL: no memory */
	uint32_t aheads, demand_free, ahead_free, fetching;
	struct put *puts;
	uint32_t put_free, putting;
	struct purge *purges;
	uint32_t purge_free, purging;
	struct job *jobs;
	uint32_t job_free;
	uint32_t taking; /* pages that the helper takes: victims in a moment */
	uint32_t taken;  /* pages that it has taken so far */
	bool purge_wanted, heal_wanted;

	struct fault *faults; /* ring: read, to be served */
	uint32_t fault_head, fault_tail;
	struct fault *waits; /* ring: wait for a frame */
	uint32_t wait_head, wait_tail;
	struct fault *parked; /* wait for their node to answer others */
	uint32_t parked_count;
	uint32_t demands; /* fetches for faults under way, where there are several nodes */
	bool unpark;      /* they are to look again */
	/* so few places in use let one of them go on */
	uint32_t unpark_below;
	struct tracker *trackers;
	struct ahead ahead_queue[16];
	uint32_t ahead_count;
	uint32_t ahead_room; /* frames that eviction keeps free for windows of streams */
	struct recheck rechecks[RECHECKS];
	uint32_t recheck_count;
	struct gvm_timer recheck_timer;
	struct call *syncs;
	bool evicting, serving;
	bool settling;     /* for a fork: no page is taken, so that the helper comes to rest */
	bool resting;      /* ... nothing is begun, faults wait */
	struct call *rest; /* ends when nothing is under way */
	uint32_t jobs_out, populating; /* populating: JOB_POPULATE among jobs_out */
	bool over_budget;              /* said so */
	bool asked;                    /* other shards, for frames */
	bool spare;                    /* frames are had beyond the budget, see nothing_to_evict */
	uint32_t stuck;                /* attempts to take a page since the last that succeeded */
	uint64_t used;                 /* frames that this shard holds; atomic for readers */
	char *zero;                    /* RUN_MAX pages of zeros */
	char *huge;                /* where a huge page is made, before it is moved; NULL: never */
	bool huge_ready;           /* it is there */
	bool huge_wanted;          /* it has been used: the next one is made when there is time */
	uint64_t huge_at, huge_ns; /* not tried before; for how long it was not last time */
	char *scratch;             /* RUN_MAX pages */

	/* shard to helper: ring of job numbers, futex on job_posted */
	uint16_t ring[JOBS];
	uint32_t job_posted, job_kicked;

	/* other shards ask this one to make room */
	struct gvm_task poke;
	uint32_t poked; /* atomic: poke is queued */

	struct gvm_pager_stats stats; /* one writer, relaxed */
	struct {
		struct gvm_hist remote, zero, write, victim;
	} latency;
};

struct gvm_range {
	struct gvm_pager *pager;
	uint32_t id, flags;
	bool anon, own_mapping, no_fork, opened_all;
	uint64_t base, bytes, pages, mapped_pages, table_pages;
	uint32_t slab_bytes, slab_pages;
	int memfd;
	uint64_t offset; /* in memfd */
	page_word *table;
	char name[64];
	char placed_as[64]; /* whose slabs lie where its lie: its own name, or that of what it is a
			     * clone of */
	char clone[64];     /* the region that a forked child gets */
	struct gvm_region_op leave;
	struct call *leaving; /* leave, or stay, is under way for it */
	struct gvm_range *next, *prev;
};

struct gvm_pager {
	struct gvm_net *net;
	struct gvm_pager_config config;
	const struct store_ops *store;
	unsigned shards;
	struct shard *shard;
	pthread_mutex_t control;
	struct gvm_range **ranges; /* by id, under control */
	struct gvm_range *list;
	uint32_t range_next;
	uint64_t features;
	bool move, poison, shmem_wp;
	struct digest_key *digests; /* NULL: no digests, what is writable is dirty */
	uint64_t budget;            /* frames; atomic */
	bool lent;                  /* pages may be referred to after they have left; atomic */
	uint64_t used;              /* frames; atomic */
	uint64_t pinned;            /* frames set aside; atomic */
	uint64_t pinned_told;       /* how many when the log was told; atomic */
	uint64_t starving;          /* bit per shard that waits for a frame; atomic */
	uint32_t prefetch;          /* atomic */
	uint64_t attached;          /* pages; atomic */
	uint64_t metadata;          /* bytes; atomic */
	uint64_t map_bytes;
	uint8_t *nodes;       /* what each node was last heard to be; atomic */
	uint32_t *nodes_said; /* how many views say that it is away; atomic */
	uint64_t nodes_away;
	uint64_t forks;
	uint32_t parked; /* futex: the shards' threads stand still */
	int empty_fd;    /* an empty memfd: a mapping of it gives SIGBUS */
};

/* pager.c with another store; what gvm_pager_open does with store_region */
int pager_open_store(struct gvm_net *net, const struct gvm_pager_config *config,
		     const struct store_ops *store, struct gvm_pager **pager);

/* ---- pager.c: control ---------------------------------------------------------------------- */

/* Run fn on every shard (or the one given) and wait; the first failure. */
int pager_call(struct shard *shard, void (*fn)(struct call *call), struct call *call);
/* The same until then (gvm_now): -ETIMEDOUT; what fn would write to call is lost. */
int pager_call_until(struct shard *shard, void (*fn)(struct call *call), const struct call *call,
		     uint64_t until);
int pager_call_all(struct gvm_pager *pager, void (*fn)(struct call *call), struct gvm_range *range,
		   uint64_t a, uint64_t b);
void call_done(struct call *call, int status);
void pager_node_state(void *arg, unsigned node, int why);
/* Its region is closed: what it has said of nodes is void. */
void pager_node_forget(struct view *view);

/* ---- shard.c ------------------------------------------------------------------------------- */

int shard_open(struct gvm_pager *pager, unsigned number, struct shard *shard);
int shard_start(struct shard *shard);
void shard_stop(struct shard *shard);
void shard_close(struct shard *shard);
/* In a forked child: everything that cannot be inherited, anew. */
int shard_renew(struct shard *shard);
/* Read what the kernel has to say: events are served at once, faults are queued. Returns how many
 * messages there were. For when an ioctl says that an event is pending. */
int shard_read(struct shard *shard);
/* Wait for the end of the kernel's change of mappings after an ioctl said -EAGAIN. */
void shard_settle(struct shard *shard);
void shard_queue_fault(struct shard *shard, uint64_t addr, uint32_t flags, uint64_t start_ns);
void shard_serve(struct shard *shard);
void shard_free_fetch(struct shard *shard, struct fetch *fetch);
void shard_wake_waits(struct shard *shard);
void shard_poke_others(struct shard *shard);

/* Frames of the budget. */
bool frames_reserve(struct shard *shard, uint32_t n);
void frames_force(struct shard *shard, uint32_t n);
void frames_release(struct shard *shard, uint32_t n);
int64_t frames_left(const struct shard *shard);
/* Nothing has to leave. */
bool budget_holds_all(const struct gvm_pager *pager);

/* ---- table.c: pages, pieces, frames, slots -------------------------------------------------- */

/* *until: where the piece ends; if there is none, where the next begins. */
struct view *piece_find(struct shard *shard, uint64_t addr, uint64_t *page, uint64_t *until);
int piece_add(struct shard *shard, uint64_t addr, uint64_t first, uint64_t pages, uint32_t range);
void piece_cut(struct shard *shard, uint64_t addr, uint64_t end);
void piece_drop_range(struct shard *shard, uint32_t range);
/* Where a page is, or 0 when it is nowhere. */
uint64_t view_addr(struct view *view, uint64_t page);
/* Is it this shard's? */
bool view_owns(const struct view *view, uint64_t page);
/* The next page from page on that is this shard's, and where that stretch ends. */
uint64_t view_stretch(const struct view *view, uint64_t page, uint64_t end, uint64_t *until);

uint32_t frame_get(struct shard *shard);
void frame_put(struct shard *shard, uint32_t frame);
/* Out of the queue that it is in. */
void frame_unlink(struct shard *shard, uint32_t frame);
int frames_limit(struct shard *shard, uint64_t budget);
int slots_limit(struct shard *shard, uint64_t budget);
/* Before count of them are asked for: some more, where they become scarce. An error: there is no
 * room for them. */
int slots_prepare(struct shard *shard, uint32_t count);
char *slot_mem(struct shard *shard, uint32_t slot);
/* Up to want consecutive free slots, without memory if empty; how many. */
uint32_t slot_get(struct shard *shard, uint32_t want, bool empty, uint32_t *first);
void slot_put(struct shard *shard, uint32_t slot);
/* Empty the oldest n of the free slots that have memory. */
void slot_zap(struct shard *shard);
/* Up to want consecutive free slots that have memory; how many. */
uint32_t slot_recycle(struct shard *shard, uint32_t want, uint32_t *first);

void page_set_mapped(struct view *view, uint64_t page, uint64_t flags);
/* The same for one that is writable, and clean as long as it holds what is at contents. */
void page_set_unsure(struct view *view, uint64_t page, uint64_t flags, const void *contents);
/* A page's contents here are of no use any more: give back frame or slot; NONE or GONE. */
void page_forget(struct view *view, uint64_t page, unsigned state);
/* Its contents here and in the region are void. */
void page_discard(struct view *view, uint64_t page, unsigned state);
page_word page_unstore(struct view *view, uint64_t page, page_word w);
void view_purge_note(struct view *view, uint64_t page, uint64_t pages);

/* ---- fault.c, fetch.c, pinned.c, evict.c, writeback.c, prefetch.c, discard.c, helper.c
 * ------------------
 */

void fault_serve(struct shard *shard, const struct fault *fault);
/* Put contents at src into the mapping. 0; -ENOENT: the page is not there any more; -ECHILD: its
 * word has changed meanwhile. */
int page_install(struct view *view, uint64_t page, const void *src, bool writable);
int page_install_zero(struct view *view, uint64_t page, bool write);
/* An access to a page that cannot be had, by the policy: told, and counted. status: why. */
void page_refuse(struct view *view, uint64_t page, int status); /* SIGBUS */
/* Zeros, as a clean page, for which the caller has a frame. As page_install. */
int page_zeroed(struct view *view, uint64_t page, int status);
bool zeros_for_lost(const struct shard *shard); /* is that the policy? */
/* The region has lost what it held of the page, or what was written to it. */
void page_lose(struct view *view, uint64_t page);
void victim_back(struct view *view, uint64_t page, bool write);
/* Victims beside each other, page first, in steps of 1 or -1, that nobody has asked for yet: up to
 * most of them, as far as one request to the kernel goes. How many. */
uint32_t victims_back(struct view *view, uint64_t page, uint32_t most, int64_t step);

/* -EAGAIN: there is no place; -EBUSY: its node has all of those that it may have. */
int fetch_demand(struct view *view, uint64_t page, bool write, uint64_t start_ns);
void fault_park(struct shard *shard, const struct fault *fault);
void shard_unpark(struct shard *shard);
uint32_t fetch_ahead(struct view *view, uint64_t page, uint32_t count);
void fetch_forget(struct view *view, uint64_t page);

/* The budget, and what it is short of for pages that cannot leave. */
uint64_t frames_budget(const struct gvm_pager *pager);
/* A page that is mapped would not leave. */
void page_set_aside(struct view *view, uint64_t page);
/* Some of those are tried again, if it is time. */
void shard_try_aside(struct shard *shard);
/* All of them are like any other again. */
void shard_aside_reset(struct shard *shard);

bool shard_evict(struct shard *shard);
void victim_push(struct shard *shard, uint32_t slot);
void victim_remove(struct shard *shard, uint32_t slot);
void outlets_reset(struct shard *shard);
void outlets_note(struct view *view);
uint16_t outlet_note(struct shard *shard, unsigned node);
void dirty_assign(struct view *view, uint64_t page, uint32_t slot);
void dirty_push(struct shard *shard, uint32_t slot);
void dirty_remove(struct shard *shard, uint32_t slot);
void shard_write_back(struct shard *shard);
void hold_timer(struct gvm_timer *timer);
void retry_timer(struct gvm_timer *timer);
void sync_timer(struct gvm_timer *timer);
/* Take pages out of their mapping, into slots: how many; 0: there are no means now; TAKE_REFUSED:
 * this one does not let go now; TAKE_STAYS: nor is it likely to soon. */
#define TAKE_REFUSED (-1)
#define TAKE_STAYS   (-2)
int page_take(struct view *view, uint64_t page, uint32_t count, bool give_back);
bool shard_sync(struct shard *shard);
void call_sync(struct call *call);

bool prefetch_gathers(struct view *view, uint64_t page);
void prefetch_outcome(struct view *view, uint64_t page, bool used);
void prefetch_note(struct view *view, uint64_t page, bool stands, bool write);
void prefetch_run(struct shard *shard, bool patient);
/* Frames that eviction shall keep free beyond the policy's water marks. */
uint32_t prefetch_room(const struct shard *shard, uint64_t budget);
bool prefetch_is_marker(struct view *view, uint64_t page);
void prefetch_forget(struct shard *shard, uint32_t range);

void event_remove(struct shard *shard, uint64_t start, uint64_t end);
void event_unmap(struct shard *shard, uint64_t start, uint64_t end);
void event_remap(struct shard *shard, uint64_t from, uint64_t to, uint64_t len);
void shard_purge(struct shard *shard);
void recheck_add(struct shard *shard, uint32_t range, uint64_t page, uint64_t pages);
void shard_recheck(struct shard *shard, bool final);
void recheck_timer(struct gvm_timer *timer);

struct job *job_get(struct shard *shard);
void job_post(struct job *job);
void helper_kick(struct shard *shard);
int helper_start(struct shard *shard);
void helper_stop(struct shard *shard);
void take_done(struct job *job); /* evict.c */
void heal_done(struct job *job); /* fault.c */
void shard_heal(struct shard *shard);

void view_idle(struct view *view); /* busy or jobs has become 0 */
void discard_pages(struct view *view, uint64_t from, uint64_t to);

/* ---- huge.c -------------------------------------------------------------------------------- */

/* What the kernel is told of a range's memory. */
int huge_advice(const struct gvm_range *range);
/* Is the page in a block that its first touch fills? */
bool huge_awaits(struct view *view, uint64_t page);
/* Fill the block of a page that has been touched, for which the caller has a frame. False: it is
 * not here, and the frame is still to be used. */
bool huge_fill(struct view *view, uint64_t page);
/* What the next block will need, when there is nothing else to do. */
void huge_prepare(struct shard *shard);
/* What was made for it goes back: there is no room, or, in a forked child, the parent has it too.
 */
void huge_forget(struct shard *shard);

/* ---- range.c ------------------------------------------------------------------------------- */

int range_detach(struct gvm_range *range, bool save);
int range_detach_locked(struct gvm_range *range, bool save);
int range_punch(const struct gvm_range *range, uint64_t offset, uint64_t bytes);
int range_register(struct gvm_range *range, uint64_t first, uint64_t pages, uint64_t addr);
void call_reopen(struct call *call);
void view_forget(struct view *view);
void range_resume(struct gvm_range *range);
void range_delist(struct gvm_range *range);
void range_free(struct gvm_range *range);
void call_drain(struct call *call);
int parts_get(struct gvm_range *range, uint64_t from, uint64_t to, struct parts *parts);
void parts_free(struct parts *parts);
int pager_start(struct gvm_pager *pager);

/* ---- statistics ---------------------------------------------------------------------------- */

/* One writer; a reader on another thread sees a slightly old value, never a torn one. */
#define STAT_ADD(s, field, n)                                                                      \
	__atomic_store_n(&(s)->stats.field, (s)->stats.field + (uint64_t)(n), __ATOMIC_RELAXED)

#endif
