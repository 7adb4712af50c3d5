/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of the home share:
 *   home.c         regions, members: opened, lost, buried, closed
 *   home_engine.c  a region's engine: what it acts through
 *   home_state.c   what is kept of a region for this node's restart
 *   home_again.c   regions that are taken up after it
 *   home_queue.c   frames to members, and the queues of those that have to wait
 */
#ifndef MEMSRV_HOME_INTERNAL_H
#define MEMSRV_HOME_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "home.h"
#include "ivy/ivy.h"
#include "store.h"

#define HOME_LATE 4u /* frames without haste that may wait for another one to the same member */

struct home_frame {
	STAILQ_ENTRY(home_frame) next;
	struct gvm_hdr h;
	uint8_t payload[];
};

/* The region's lock guards all of it, but for what says otherwise. */
struct home_member {
	struct home_region *region;
	uint16_t node;
	uint64_t view;
	uint64_t patience_ns;   /* from lost_at to its burial */
	uint64_t lost_at;       /* of one without a link */
	struct home_link *link; /* NULL: its connection is lost */
	struct gvm_peer *peer;  /* of the link; to be used by hw's thread */
	struct home_worker *hw;
	STAILQ_HEAD(, home_frame) queue;
	uint64_t queued;                /* bytes */
	struct gvm_hdr late[HOME_LATE]; /* that go with the next frame, or with the next tick */
	unsigned late_count;
	int over_share; /* it has been said that it asks for more than its share */
	int before;   /* a member of before this node's restart: it holds pages */
	int expelled; /* it is not let back, and will be buried */
	uint64_t
	    owes_since; /* since then its report is waited for, or that it notes what followed */
	uint64_t told;  /* pages that it has reported since */
	int cut;        /* a negative errno: its connection is about to be ended */
	/* hw's lock: in its list of members with something to do */
	TAILQ_ENTRY(home_member) in_due;
	int due;
};

/* A region that is open on a connection; the connection's thread. */
struct home_link {
	LIST_ENTRY(home_link) in_conn;
	struct home_region *region; /* a reference */
	uint16_t node;
	struct gvm_peer *peer;
};

struct home_region {
	struct home *home;
	LIST_ENTRY(home_region) in_home; /* the home's lock */
	uint64_t id, generation;
	char name[GVM_WIRE_NAME_MAX + 1];
	atomic_uint refs; /* the home's, each link's, and who has found it */
	pthread_mutex_t lock;
	int gone; /* deleted */
	/* view of who is making it at all of its homes, until it says that it has: nobody else is
	 * let in, and if it goes before, so does the region. 0: it is made */
	uint64_t maker;
	int ephemeral;
	struct store_shared *store;
	struct ivy *ivy;
	uint16_t *homes; /* by slab, and 1 more; 0: not looked up yet */
	uint32_t slab_pages;
	uint64_t pages;
	struct home_member **members; /* by node */
	uint32_t count;
	uint64_t late, refused, no_room; /* frames */
	struct home_state *state;        /* NULL: nothing is kept */
	uint8_t *written;   /* NULL, or of a region from before: slabs that had been written then */
	int collects;       /* not all members of before have reported */
	unsigned collected; /* all below this node have */
	uint64_t told;      /* pages that all have reported */
	uint64_t engine_bytes, engine_room; /* that the engine has; of these the store knows */
	int asked;   /* a request is being taken: only that can be refused for want of memory */
	int starved; /* it has been, this time */
	uint64_t over_share; /* requests that the engine has refused for a member's share */
};

struct home {
	struct home_config config;
	const struct gvm_cluster *cluster;
	unsigned nodes; /* ids are below this */
	pthread_mutex_t lock;
	LIST_HEAD(, home_region) regions;
	struct home_stats ended; /* sums of regions that are gone */
	atomic_ullong buried, overrun, refused;
	atomic_int stop;
};

struct home_worker {
	struct home *home;
	struct gvm_worker *worker;
	struct gvm_task task; /* members are due */
	pthread_mutex_t lock;
	TAILQ_HEAD(, home_member) due;
	int queued; /* the task */
};

/* ---- home.c -------------------------------------------------------------------------------- */

void home_region_put(struct home_region *r);

struct home_region *home_region_make(struct home *home, const struct gvm_region_open *req,
				     uint64_t id, const struct gvm_region_opened *opened,
				     struct store_shared *store);
/* NULL: no memory. Sets region, node, view. */
struct home_member *home_member_make(struct home_region *r, uint16_t node, uint64_t view);

/* ---- home_state.c: NULL is a state in which nothing is kept --------------------------------- */

#define HOME_STATE_END ".shared"
struct home_state;
struct home_state *home_state_new(const struct home_region *r, const struct gvm_region_open *req);
/* A file of the folder, and the region that it is of; NULL: of no use, and deleted. */
struct home_state *home_state_load(const struct home *home, const char *name,
				   struct gvm_region_open *req, struct gvm_region_opened *opened,
				   uint64_t *id);
/* The member's view, 0: none. */
uint64_t home_state_member(const struct home_state *st, unsigned node, uint64_t *promise_ms);
/* A bit for each slab, to be freed; NULL: no memory. */
uint8_t *home_state_copy_written(const struct home_state *st);
void home_state_join(struct home_state *st, unsigned node, uint64_t view, uint64_t promise_ms);
void home_state_leave(struct home_state *st, unsigned node);
void home_state_written(struct home_state *st, uint64_t slab);
/* Versions of the region are above from, if this is the first call, and up to upto. */
void home_state_reserve(struct home_state *st, uint64_t from, uint64_t upto);
/* What that came to, or 0, 0. */
void home_state_versions(const struct home_state *st, uint64_t *low, uint64_t *high);
/* The file stays; it goes, too; it stays under another name, and the log says why and what to do.
 */
void home_state_free(struct home_state *st);
size_t home_state_bytes(const struct home_state *st);
void home_state_set_aside(struct home_state *st, const char *why);
void home_state_delete(struct home_state *st);

/* ---- home_again.c -------------------------------------------------------------------------- */

/* Take up all regions that the folder knows. -ENOMEM. */
int home_again(struct home *home);
/* With the region's lock. A frame of this member is about to be taken. */
void home_again_frame(struct home_region *r, struct home_member *m, const struct gvm_hdr *h);
/* If all who may hold pages have reported, the directory is built. */
void home_again_step(struct home_region *r);
/* Who holds all others up for too long is expelled. */
void home_again_press(struct home_region *r, uint64_t now);

/* ---- home_engine.c ------------------------------------------------------------------------- */

/* r has all but ivy. */
int home_engine_new(struct home_region *r);
/* A frame of this member. As gvm_coherence_fn. */
int home_engine_take(struct home_region *r, const struct home_member *m, const struct gvm_hdr *h,
		     const void *payload, const char **reason);

/* ---- home_queue.c -------------------------------------------------------------------------- */

/* What this thread is in the middle of: frames to members of the same worker need not wait. */
extern _Thread_local struct home_worker *home_current;

void home_send(struct home_member *m, const struct gvm_hdr *h, const void *payload);
/* What waits for another frame to go with waits no longer. */
void home_hurry(struct home_member *m);
/* Send what waits. hw's thread. */
void home_drain(struct home_member *m);
/* Its connection is to be ended, for this reason; it is sent nothing more. */
void home_cut(struct home_member *m, int reason);
/* Forget what waits, and that it is due. */
void home_forget(struct home_member *m);
/* Of home_worker's task. */
void home_serve_due(struct gvm_task *task);

#endif
