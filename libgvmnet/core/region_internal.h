/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of the region client share:
 *   region.c       open, close, layout: the object
 *   region_node.c  one memory node as a region sees it: open, list, break, back-off, loss
 *   region_io.c    fetch, put, discard: the way of an operation, and where it waits
 *   region_wide.c  clone, resize, delete: what all nodes must answer
 *
 * All of a region is used by the thread of its worker. Above the transport this uses the public
 * API only (gvmnet.h, cluster.h) and the wire's bodies.
 *
 * Life of a node in a region:
 *
 *   NEW --open--> LISTING --all slabs known--> READY --break--> AWAY --open, same generation-->
 * LISTING
 *                                                                 |
 *                                                                 +--- no such generation ---> LOST
 *
 *   READY --its connection rests--> RESTING --an operation, a wide one, 20 minutes--> AWAY, untold
 *
 *   READY --has deleted it, as we asked--> GONE --others have not--> LOST, untold
 *
 * Who completes: an operation's done() is called from finish(), and finish() only from the entry
 * points of the worker (completions, timers) and from close. Whatever is found out while posting
 * goes through region_finish_soon(). Each of these entry points holds a reference to the region,
 * because done() may close it.
 */
#ifndef GVM_REGION_INTERNAL_H
#define GVM_REGION_INTERNAL_H

#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>
#include <gvmnet/region.h>
#include <stdbool.h>
#include "wire/wire.h"

#define REGION_COPIES         1u          /* of each slab; the layout has room for more */
#define REGION_BACKOFF_NS     10000000ull /* first wait before a node is tried again, at most */
#define REGION_BACKOFF_MAX_NS 1000000000ull
/* A node keeps what rests for an hour: it hears of us after this time, and up to half of it more.
 */
#define REGION_REST_NS (20ull * 60 * 1000000000)
/* Programs that start at once do not connect to each node at once: beside the first ones, nodes are
 * opened at random within a millisecond for each of the region's. */
#define REGION_AT_ONCE        4u
#define REGION_SPREAD_NS      1000000ull
#define REGION_SPREAD_MAX_NS  2000000000ull
#define REGION_ROOM_NS        1000000ull /* try again when nothing of ours will say that there is room */
#define REGION_KEY_TRIES      8u   /* times a node may refuse the key that it has just given */
#define REGION_DISCARD_WINDOW 512u /* slabs whose runs share one message per node */

#define container(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

enum slab_flag {
	SLAB_STORED = 1,   /* its node has storage for it */
	SLAB_READONLY = 2, /* the key is good for fetches only */
	SLAB_ASKING = 4,   /* a grant or list for this slab is under way */
	SLAB_LOST = 8,     /* its data is gone: -EIO for good */
	SLAB_DOUBT = 16,   /* discarded whole, not confirmed: that it is missing is no loss */
};

struct region_slab {
	uint64_t key; /* 0: none that is known to be good */
	uint64_t stored_at,
	    asked_at;     /* of STORED and of ASKING: the views' time of which that is */
	uint32_t waiting; /* operations parked until ASKING ends */
	uint8_t flags;
};

struct region_queue {
	struct gvm_region_op *first, *last;
	uint32_t count;
};

/*
 * RESTING: its connection was closed because others were needed; the node keeps the region for us.
 * GONE: we had it deleted there. Nothing opens it again, and that it is not there is no loss.
 */
enum node_state {
	NODE_NEW,
	NODE_LISTING,
	NODE_READY,
	NODE_AWAY,
	NODE_LOST,
	NODE_RESTING,
	NODE_GONE
};

/* How far a node is with the operation that all nodes must answer. */
enum wide_state { WIDE_NONE, WIDE_WAIT, WIDE_SENT, WIDE_DONE, WIDE_REFUSED };

struct region_node {
	struct gvm_region *region;
	struct gvm_peer *peer;
	struct gvm_peer_observer observer;
	struct gvm_op call;      /* the one control message under way */
	struct gvm_op bye;       /* REGION_CLOSE */
	struct gvm_op leave;     /* REGION_OPEN with another linger time */
	struct gvm_timer retry;  /* AWAY: the next try; READY: look for room */
	struct gvm_timer expiry; /* the first deadline of what waits here */
	uint64_t expiry_at;
	struct region_queue fetches, puts; /* wait for the node, or for room; fetches go first */
	struct region_queue parked;        /* wait for the key of their slab */
	uint64_t generation, share, slabs_used, pages; /* generation, used, pages: as it answered */
	uint64_t list_from, listed_at; /* of the list under way; listed_at is the views' time */
	uint32_t posted;               /* operations that the transport has */
	int why;                       /* it is away */
	uint64_t away_since;           /* its last sign of life; 0: it is there, or was never */
	uint16_t id;
	uint8_t state, tries, wide;
	bool calling; /* call is under way */
	bool known;   /* generation is what it answered */
	bool created; /* made by this open */
	bool told_away, told_busy;
	bool lacks;       /* it has lost a slab */
	bool sent_before; /* the request under way was sent already, and not answered */
	bool bye_due;     /* REGION_CLOSE did not find room; counted in region->byes */
	bool told_full;
	enum gvm_full full; /* what its last answer that there is no room said */
	int failed;         /* a post of a control message was refused: retry tells */
};

enum region_state {
	REGION_PROBING,
	REGION_OPENING,
	REGION_FAILING,
	REGION_FAILED,
	REGION_OPEN,
	REGION_DELETED,
	REGION_CLOSED
};

/* Slabs and where they lie. */
struct region_layout {
	struct region_slab *slabs;
	uint16_t *place; /* [slab * REGION_COPIES + copy]: index in nodes, the home first */
	uint64_t count;
};

enum wide_kind { WIDE_CLONE, WIDE_RESIZE, WIDE_DELETE };

struct region_wide {
	struct gvm_region_op *op; /* NULL: none under way */
	struct gvm_timer expiry;
	enum wide_kind kind;
	bool undoing;
	unsigned pending;
	int status;
	uint64_t deadline;
	/* resize */
	struct region_layout layout;
	uint64_t pages, *shares; /* by node index, new */
	unsigned old_nodes;
	/* clone */
	struct gvm_region_clone clone;
};

struct gvm_region {
	struct region_layout layout;
	struct region_views *views; /* with the other views of this process */
	struct region_node **nodes;
	uint64_t pages;
	unsigned slab_shift; /* log2 of the pages of a slab */
	unsigned node_count;
	uint8_t state;
	bool cleaning;
	uint32_t flags;
	uint32_t linger_ms, linger_given; /* what nodes are told; 0 while the process leaves */
	uint32_t ops;                     /* operations from post to done */
	uint32_t refs; /* the opener's, control messages under way, entry points */
	uint64_t id, placed_as, op_timeout_ns, random;
	struct gvm_worker *worker;
	const struct gvm_cluster *cluster;
	struct region_queue finished; /* to be completed from the worker */
	struct gvm_timer soon;
	struct region_wide wide;
	struct gvm_region_op *leave; /* or stay; NULL: none under way */
	unsigned leaving;            /* nodes that have not answered it */
	unsigned byes;               /* nodes that have not answered a REGION_CLOSE */
	uint64_t bye_deadline;
	void (*released)(void *arg); /* nobody has to answer one any more */
	void *released_arg;
	/* open */
	gvm_region_cb opened;
	uint64_t open_deadline;
	int open_status, open_why;
	bool slab_bytes_given, home_created;
	void *arg;
	void (*node_state)(void *arg, unsigned node, int why);
	char name[GVM_WIRE_NAME_MAX + 1];
};

/* ---- small things --------------------------------------------------------------------------- */

static inline uint64_t region_slab_of(const struct gvm_region *region, uint64_t page)
{
	return page >> region->slab_shift;
}

static inline struct region_node *region_home(const struct gvm_region *region, uint64_t slab)
{
	return region->nodes[region->layout.place[slab * REGION_COPIES]];
}

static inline void region_get(struct gvm_region *region)
{
	region->refs++;
}
void region_put(struct gvm_region *region);

/* Is this an answer that trying again does not change? */
bool region_status_final(int status);
/* May an open that failed so be tried again until its deadline? */
bool region_status_transient(int status);
static inline uint64_t region_deadline(const struct gvm_region *region, uint64_t deadline_ns)
{
	return deadline_ns ? deadline_ns : gvm_worker_now(region->worker) + region->op_timeout_ns;
}
/* Below limit. */
uint64_t region_random(struct gvm_region *region, uint64_t limit);
/* Full jitter: 0 to base << tries, bounded. */
uint64_t region_jitter(struct gvm_region *region, unsigned tries);

/* ---- region.c: layout ----------------------------------------------------------------------- */

/* Lay out pages over the map's nodes; nodes that are new to the region are added to nodes as NEW.
 * shares: one for each node of the region afterwards, the caller frees it. */
int region_layout_make(struct gvm_region *region, uint64_t pages, struct region_layout *layout,
		       uint64_t **shares);
void region_layout_free(struct region_layout *layout);
/* Take away the nodes from index count on. */
void region_drop_nodes(struct gvm_region *region, unsigned count);
/* After how many ns a node is opened that is not among the first, of a region of so many nodes,
 * left_ns before its open must have ended. */
uint64_t region_spread(uint64_t random, unsigned others, uint64_t left_ns);
/* A node has answered its first open: does that fit the region? 0, or a final status, logged. */
int region_open_check(struct region_node *node);
/* During open: a node has become READY (0), or will not (why). */
void region_open_progress(struct region_node *node, int status);
/* The open has failed: take back what it has made, then say so. */
void region_fail_open(struct gvm_region *region, int status);
/* A control call of an open that fails has ended. */
void region_fail_progress(struct gvm_region *region);

/* The leave has ended. */
void region_left(struct gvm_region *region, int status);

/* ---- region_node.c -------------------------------------------------------------------------- */

void region_node_init(struct region_node *node);
void region_node_fini(struct region_node *node);
/* Send REGION_OPEN, now. */
void region_node_open(struct region_node *node);
/* Ask for all slabs of a connected node again, e.g. because their keys have been withdrawn. */
void region_node_relist(struct region_node *node);
/* The connection is, or seems, broken: forget the keys and open again. Calls nobody back. */
void region_node_away(struct region_node *node, int why);
/* RESTING: open it again, without a word. */
void region_node_need(struct region_node *node);
/* Have node->retry fire after ns. */
void region_node_retry_in(struct region_node *node, uint64_t ns);
/* The node has deleted the region for us: what waits there is cancelled. */
void region_node_gone(struct region_node *node);
/* Use node->call for a message. */
int region_node_call(struct region_node *node, const struct gvm_msg *msg, uint64_t deadline,
		     void (*done)(struct gvm_op *op, int status));
/* What each completion of node->call does first (it also takes a reference to the region). */
struct region_node *region_node_called(struct gvm_op *op);
/* Take what an answer says of what is full; for each answer, so that an older one is not told of.
 */
void region_node_note_full(struct region_node *node, int status, const struct gvm_msg *reply);
/* What to do about a node that has just said that it has no room. */
const char *region_node_full_advice(const struct region_node *node);
/* Fill in slab from an entry that was asked for at a time of the views. 0, or -EPROTO if it makes
 * no sense for it. */
int region_node_take_entry(struct region_node *node, const struct gvm_slab_entry *entry,
			   uint64_t asked_at);
/* The node does not have this slab (any more): nothing, or a loss. Returns 1 for a loss. */
int region_node_slab_missing(struct region_node *node, uint64_t slab);
/* REGION_OPEN for this node; body has room for GVM_REGION_OPEN_LEN. */
struct gvm_msg region_node_open_msg(const struct region_node *node, uint64_t pages, uint64_t share,
				    uint32_t flags, uint8_t *body);
/* Take what it has answered to that. 0, -ENOENT (another generation), -EPROTO, -EINVAL. */
int region_node_take_opened(struct region_node *node, const struct gvm_msg *reply);
/* Let go of it there (or of what was only just made): sent, or noted that there was no room. */
void region_node_bye(struct region_node *node);
/* One REGION_CLOSE less is to be answered. */
void region_bye_over(struct gvm_region *region);
/* Tell it the region's linger time; counted in region->leaving if it was sent. */
void region_node_leave(struct region_node *node, uint64_t deadline);
/* Its slabs are all known: go on. */
void region_node_ready(struct region_node *node);

/* ---- region_io.c ---------------------------------------------------------------------------- */

static inline void region_op_init(struct gvm_region *region, struct gvm_region_op *op,
				  unsigned kind, uint64_t page, uint32_t count, void *buf)
{
	op->region = region;
	op->page = page;
	op->count = count;
	op->buf = buf;
	op->kind = (uint8_t)kind;
	op->tries = 0;
	op->failure = 0;
	op->op.deadline_ns = region_deadline(region, op->deadline_ns);
	region->ops++;
}

/* Call done(status). Not from within a post; the caller has a reference to the region. */
void region_finish(struct gvm_region_op *op, int status);
/* Have done(status) called from the worker. */
void region_finish_soon(struct gvm_region_op *op, int status);
/* Post what waits for the node, as far as there is room. */
void region_node_drain(struct region_node *node);
/* What waits at the node goes its next step, whatever that is: after READY, LOST or GONE. */
void region_node_wake(struct region_node *node);
void region_node_expiry(struct gvm_timer *timer);
void region_soon(struct gvm_timer *timer);
/* Complete all that waits, with -ECANCELED. */
void region_cancel_waiting(struct gvm_region *region);

/* ---- region_wide.c -------------------------------------------------------------------------- */

/* The node is READY, or LOST: go on with its part. */
void region_wide_node_changed(struct region_node *node);
/* The region is closed under it. */
void region_wide_cancel(struct gvm_region *region);

/* ---- region_views.c: whole discards, told to all views of the region in this process
 * ------------- */

/* 0 or -ENOMEM; leave() takes it back. */
int region_views_join(struct gvm_region *region);
void region_views_leave(struct gvm_region *region);
/* Before slabs up to this many are named. 0 or -ENOMEM. */
int region_views_reserve(struct gvm_region *region, uint64_t slabs);
uint64_t region_views_time(const struct gvm_region *region);
/* Before the node hears of it: from now on the slab may be missing. */
void region_views_discarding(struct gvm_region *region, uint64_t slab);
/* Whether it was, by any view, after this time. */
bool region_views_discarded(const struct gvm_region *region, uint64_t slab, uint64_t since);

#endif
