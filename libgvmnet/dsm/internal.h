/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of dsm/ share:
 *   node.c      a process as a node: its thread, its worker, whose frame and event it is
 *   link.c      sessions with other members: made, lost, made again, given up; queues
 *   engine.c    what a region's engine acts through; faults, time, frames that are kept back
 *   region.c    the public functions: opened, mapped, closed
 *   away.c      left for a moment, with the mapping
 *   pin.c       pins and hints
 *   stats.c     figures
 *   memory.c    the mapping, and who may do what with its pages
 *
 * All of it belongs to the node's thread ("the engine's thread"), but for what says otherwise.
 */
#ifndef GVM_DSM_INTERNAL_H
#define GVM_DSM_INTERNAL_H

#include <gvmnet/cluster.h>
#include <gvmnet/coherence.h>
#include <gvmnet/dsm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include "dsm/memory.h"
#include "ivy/ivy.h"
#include "wire/coherence.h"

#define DSM_MS     UINT64_C(1000000)
#define DSM_CLOSED 16u /* ids of regions that were closed last, whose frames may still come */
#define DSM_TURN   1024u /* pages that a call looks at before the thread does other work */
#define DSM_LATE   4u  /* frames without haste that may wait for another one to the same node */

#define dsm_container(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* What another thread waits for. */
struct dsm_wait {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	int done, status;
};

struct dsm_frame {
	STAILQ_ENTRY(dsm_frame) next;
	uint16_t from; /* of one that is kept back */
	struct gvm_hdr h;
	uint8_t payload[];
};
STAILQ_HEAD(dsm_frames, dsm_frame);

/*
 *     IDLE --needed--> ASKING --answer 0--> UP --its connection ends--> DOWN --connected--> ASKING
 *                        |                   ^                            |
 *                        +--refused, no answer--> DOWN                    +--asked by the other-->
 * UP of homes: DOWN for too long, or the home says that it knows this member not: DEAD
 */
enum dsm_link_state { LINK_IDLE, LINK_ASKING, LINK_UP, LINK_DOWN, LINK_DEAD };

/* One region's session with another member. */
struct dsm_link {
	struct gvm_dsm *dsm;
	LIST_ENTRY(dsm_link) in_region;
	uint16_t node;
	uint8_t is_home, state;
	uint8_t overrun; /* does not take what it is sent: its connection is about to be ended */
	uint8_t hang_up; /* could not be connected: its call is to be ended */
	uint8_t tries;   /* asked in a row without an answer that it is a session */
	uint8_t leaving; /* is to be told that the region is being closed, when it takes it */
	uint8_t pending; /* a home whose answer is waited for in DSM_OPENING */
	struct gvm_peer *peer; /* of UP */
	struct gvm_peer *dial; /* the one that this side connects; NULL: not yet */
	struct gvm_op call;    /* REGION_OPEN or REGION_CLOSE */
	uint64_t asked_at;
	int calling, joining;  /* a call is under way; it was REGION_OPEN */
	uint64_t view;         /* of a node, as it said last; 0: never */
	uint64_t generation;   /* of a home's region; 0: not a member there yet */
	uint64_t incarnation;  /* of a home, when it was UP last */
	int reborn; /* a home that has been started anew, which the engine does not know yet */
	int told;   /* of a home: what node_state() was called with last; 1: it was not yet */
	uint64_t share;        /* of a home: slabs */
	struct dsm_frames queue;
	uint64_t queued; /* bytes */
	/* frames that go with the next one, or when their time is over (link.c, "put off") */
	LIST_ENTRY(dsm_link) in_late;
	struct gvm_hdr late[DSM_LATE];
	unsigned late_count;
	uint64_t done_at;       /* when DONE was said last, if nothing has been since; else 0 */
	unsigned streak;        /* how often in a row something followed it at once */
	struct gvm_timer retry; /* ask again; or end its connection */
	struct gvm_timer fence; /* of a home that is DOWN */
};

enum dsm_state { DSM_OPENING, DSM_OPEN, DSM_CLOSING, DSM_LEAVING, DSM_CLOSED_STATE, DSM_AWAY };

/*
 * A region that its first home did not have is made by one member at all homes, in these steps; it
 * is nobody else's until the last (docs/coherence.md).
 *     NOT --the first home has made it--> OTHERS --all have--> SAYS --all but the first know-->
 * LAST
 */
enum dsm_making { MAKING_NOT, MAKING_OTHERS, MAKING_SAYS, MAKING_LAST };

/* One of the memory's descriptors. */
struct dsm_watch {
	struct gvm_watch watch;
	struct gvm_dsm *dsm;
	unsigned index;
};

struct gvm_dsm {
	struct dsm_node *node;
	LIST_ENTRY(gvm_dsm) in_node;
	enum dsm_state state;
	char name[GVM_WIRE_NAME_MAX + 1];
	uint64_t id, view, generation; /* generation: at the home of slab 0 */
	unsigned flags;
	uint64_t pages, budget;
	void (*taken)(void *arg, uint64_t offset);
	void (*node_state)(void *arg, unsigned node, int why);
	void *arg; /* of both */
	uint32_t slab_pages;
	uint32_t slab_wanted; /* by who opened it, or 0 */
	uint16_t *homes; /* by slab; GVM_WIRE_NODE_NONE: not looked up yet */
	struct ivy *ivy;
	struct dsm_memory *memory;
	struct dsm_watch watch[DSM_MEMORY_FDS_MAX];
	unsigned watches;
	struct gvm_timer tick, trim, keep, put_off, more;
	struct dsm_frames kept; /* frames that would close a page which was opened a moment ago */

	struct dsm_link **links; /* by node id */
	LIST_HEAD(, dsm_link) all;
	LIST_HEAD(, dsm_link) lates; /* with frames that wait for another one */
	uint64_t queued;             /* bytes, of all links */

	/* opening and closing */
	struct dsm_wait *wait;
	struct gvm_timer deadline, finish;
	unsigned asked;  /* homes that have not answered for good */
	int failed;      /* why it is not opened, or not closed well: the first error */
	int late;        /* what a home that did not let this node in said last */
	struct gvm_timer layout; /* while it is being looked up which slabs are whose */
	uint64_t laid;           /* slabs of which that is known */
	enum dsm_making making;
	uint16_t first;       /* the home of slab 0 */
	uint64_t again_until; /* homes that do not agree may do so, if they are asked anew */
	struct ivy_walk giving; /* all pages back to their homes */
	uint64_t rested;      /* ticks since that was over */
	int parting;     /* leaves for a moment, or has: faults wait */
	int lost;        /* it could not come back: they fail */
	uint64_t was;    /* generation, before it left; 0: never */
	struct ivy_stats before; /* of engines that it had then */
	LIST_HEAD(, dsm_pin) pins; /* calls that wait for pages, or have many to go through */
	LIST_HEAD(, dsm_eviction) evictions; /* ... and for room in the queues */

	/* written by the node's thread, read by any */
	struct gvm_dsm_stats stats;
	uint64_t engine_refused, engine_late, engine_failed; /* beside those in stats */
	struct gvm_hist latency[2];
	struct dsm_open_fault *faults; /* when those began that are open */
};

struct dsm_node {
	LIST_ENTRY(dsm_node) in_process; /* region.c's lock, as refs */
	unsigned refs;
	unsigned forks; /* it is of the process that has had so many before it */
	struct gvm_net *net;
	struct gvm_cluster *own_cluster; /* of a net that the library opened */
	int own_net;
	const struct gvm_cluster *cluster;
	unsigned self, nodes; /* ids are below nodes */
	uint64_t fence_ns, queue_max;
	struct gvm_worker *worker;
	pthread_t thread;
	atomic_int stop;
	LIST_HEAD(, gvm_dsm) regions;
	uint64_t closed[DSM_CLOSED];
	unsigned closed_at;
	struct gvm_log_limit limit;
};

/* ---- node.c -------------------------------------------------------------------------------- */

/* Of a net (NULL: by the options), started when there was none; with a reference. */
int dsm_node_get(struct gvm_net *net, struct dsm_node **node);
void dsm_node_put(struct dsm_node *node);
/* Have fn(arg, &wait) run on the node's thread, and wait until dsm_done(wait) has been called. */
int dsm_node_run(struct dsm_node *node, void (*fn)(void *arg, struct dsm_wait *wait), void *arg);
void dsm_done(struct dsm_wait *wait, int status);
struct gvm_dsm *dsm_node_region(struct dsm_node *node, uint64_t id);
void dsm_node_forget(struct dsm_node *node, uint64_t id);

/* ---- link.c -------------------------------------------------------------------------------- */

/* The link to a node, made when there was none; NULL: no memory. */
struct dsm_link *dsm_link_get(struct gvm_dsm *dsm, uint16_t node);
void dsm_link_free(struct dsm_link *link);
/* Ask for a session, unless there is one, or it is being asked for. */
void dsm_link_ask(struct dsm_link *link);
void dsm_link_ask_in(struct dsm_link *link, uint64_t ns);
/* There is something for a node, or a sign of its life: it is asked soon if there is no session. */
void dsm_link_needed(struct gvm_dsm *dsm, uint16_t node);
/* Of a home that has answered 0 in DSM_OPENING. */
void dsm_link_joined(struct dsm_link *link);
/* Say to a home that the region has been made. Its answer goes to dsm_region_answered(). */
int dsm_link_made(struct dsm_link *link);
/* Tell a member that this one leaves. */
void dsm_link_leave(struct dsm_link *link);
void dsm_link_send(struct dsm_link *link, const struct gvm_hdr *h, const void *payload);
void dsm_link_drain(struct dsm_link *link);
/* Of the region's late timer: all that wait for another one go now. */
void dsm_link_on_late(struct gvm_timer *timer);
/* It has broken the rules: there is no session any more, and its connection ends. */
void dsm_link_broke(struct dsm_link *link, const char *reason);
/* Events of a peer. */
void dsm_link_ready(struct dsm_link *link, struct gvm_peer *peer);
void dsm_link_ended(struct dsm_link *link, struct gvm_peer *peer, int why);
/* REGION_OPEN and REGION_CLOSE from another node; answers. */
void dsm_link_asked(struct gvm_dsm *dsm, struct gvm_peer *peer, const struct gvm_msg *msg);
void dsm_link_left(struct gvm_dsm *dsm, struct gvm_peer *peer, const struct gvm_msg *msg);

/* ---- engine.c ------------------------------------------------------------------------------ */

uint16_t dsm_home(struct gvm_dsm *dsm, uint64_t page);
uint64_t dsm_random(void);
int dsm_engine_new(struct gvm_dsm *dsm);
void dsm_engine_free(struct gvm_dsm *dsm);
int dsm_memory_start(struct gvm_dsm *dsm);
void dsm_memory_stop(struct gvm_dsm *dsm);
/* As gvm_coherence_fn, of this region's member. */
int dsm_engine_take(struct gvm_dsm *dsm, uint16_t from, const struct gvm_hdr *h,
		    const void *payload, const char **reason);
/* To be called when the engine has been called: what it leaves to do. */
void dsm_engine_after(struct gvm_dsm *dsm);
/* There is more to do that waits for nothing: that is called again soon. */
void dsm_engine_more(struct gvm_dsm *dsm);
/* The engine's view of who is there. No-ops without an engine. */
void dsm_peer_lost(struct gvm_dsm *dsm, uint16_t node);
void dsm_peer_back(struct gvm_dsm *dsm, uint16_t node);
void dsm_peer_dead(struct gvm_dsm *dsm, uint16_t node);
/* A home that has been started anew is told what is here. 0 or -ENOMEM; -EAGAIN: no engine yet. */
int dsm_home_reborn(struct gvm_dsm *dsm, uint16_t node);

/* ---- pin.c ---------------------------------------------------------------------------------- */

/* Calls that pin, unpin or hint go on if they can: something has happened. */
void dsm_pins_go_on(struct gvm_dsm *dsm);
/* The page cannot be had. */
void dsm_pins_failed(struct gvm_dsm *dsm, uint64_t page, int status);

/* ---- region.c ------------------------------------------------------------------------------ */

/* With the region's id and flags set: its homes are asked. dsm_done(wait) follows. */
void dsm_region_open_begin(struct gvm_dsm *dsm, struct dsm_wait *wait, uint64_t ns);
/* All pages go home, then the members are told. */
void dsm_region_close_begin(struct gvm_dsm *dsm, struct dsm_wait *wait, uint64_t ns);
/* In DSM_LEAVING a member has answered, or will not. */
void dsm_region_left(struct gvm_dsm *dsm);
/* The answer of a home to dsm_link_ask() in DSM_OPENING. */
void dsm_region_answered(struct gvm_dsm *dsm, struct dsm_link *link, int status,
			 const struct gvm_msg *reply);
/* Calls of gvm_dsm_evict() go on if they can. */
void dsm_region_evict_on(struct gvm_dsm *dsm);
/* Go on with closing, if it is. */
void dsm_region_close_on(struct gvm_dsm *dsm);
void dsm_region_tick(struct gvm_dsm *dsm);

/* ---- away.c --------------------------------------------------------------------------------- */

/* Of one that is parting: its pages have not come home in time; it is open again; all have been
 * told that it is gone, or that it will not come back. */
void dsm_away_failed(struct gvm_dsm *dsm);
void dsm_away_back(struct gvm_dsm *dsm);
void dsm_away_gone(struct gvm_dsm *dsm);

/* One writer; readers on other threads. */
static inline void dsm_count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

#endif
