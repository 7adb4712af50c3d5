/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of the home share:
 *   home.c         regions, members: opened, lost, buried, closed
 *   home_engine.c  a region's engine: what it acts through
 *   home_queue.c   frames to members, and the queues of those that have to wait
 */
#ifndef MEMSRV_HOME_INTERNAL_H
#define MEMSRV_HOME_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "home.h"
#include "ivy/ivy.h"
#include "store.h"

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
	uint64_t queued; /* bytes */
	int overrun;     /* it does not take what it is sent: its connection is about to be ended */
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
	int ephemeral;
	struct store_shared *store;
	struct ivy *ivy;
	uint16_t *homes; /* by slab, and 1 more; 0: not looked up yet */
	uint32_t slab_pages;
	uint64_t pages;
	struct home_member **members; /* by node */
	uint32_t count;
	uint64_t late, refused, no_room; /* frames */
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
/* Send what waits. hw's thread. */
void home_drain(struct home_member *m);
/* Forget what waits, and that it is due. */
void home_forget(struct home_member *m);
/* Of home_worker's task. */
void home_serve_due(struct gvm_task *task);

#endif
