/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * This node as the home of shared regions (docs/coherence.md, "In user space"): who their members
 * are, the engine of each, and the frames between them. A member is a node id and a view; it has a
 * link while there is a connection on which it has opened the region, and is waited for, for twice
 * what it promised, when that is lost.
 *
 * Threads: a region's engine runs in whichever worker has a frame for it, or in the thread that
 * ticks, under the region's lock. What goes to a member of another worker waits in a queue until
 * that worker sends it. Each home_worker is used by its worker's thread, links too. Locks are taken
 * in this order: home, region, then one of worker's queue or store's.
 */
#ifndef MEMSRV_HOME_H
#define MEMSRV_HOME_H

#include <stdint.h>
#include <sys/queue.h>

#include <gvmnet/gvmnet.h>

#include "wire/coherence.h"

struct store;
struct home;
struct home_worker;
struct home_link;
LIST_HEAD(home_links, home_link);

struct home_config {
	struct gvm_net *net;
	struct store *store;
	unsigned node;  /* this node's id, or GVM_NODE_NONE: no shared regions */
	uint64_t queue; /* bytes that may wait for a member that does not take them */
	const char
	    *state; /* folder for what a restart has to know; NULL: a restart loses regions */
};

int home_new(const struct home_config *config, struct home **home);
/* Nothing is sent any more: the workers are about to be closed, one by one, by one thread. */
void home_stop(struct home *home);
/* All links are closed. Deletes the regions. */
void home_free(struct home *home);
int home_worker_new(struct home *home, struct gvm_worker *worker, struct home_worker **hw);
void home_worker_free(struct home_worker *hw);

/* A REGION_OPEN with SHARED. On 0 answer it with *out, then call home_joined(). */
int home_region_open(struct home_worker *hw, struct home_links *links, struct gvm_peer *peer,
		     const struct gvm_msg *msg, const struct gvm_region_open *req,
		     struct gvm_region_opened *out);
void home_joined(struct home_worker *hw, struct home_links *links, uint64_t region);
/* The member leaves. -ENOENT: it is no shared region, or not open here. */
int home_region_close(struct home_worker *hw, struct home_links *links, uint64_t region);
/* -ENOENT: it is no shared region; -EBUSY: it has members. */
int home_region_delete(struct home *home, uint64_t region);
/* As gvm_coherence_fn. */
int home_frame(struct home_worker *hw, struct home_links *links, const struct gvm_hdr *h,
	       const void *payload, const char **reason);
void home_writable(struct home_worker *hw, struct home_links *links);
/* The connection has ended. */
void home_lost(struct home_worker *hw, struct home_links *links);
/* Time-outs and burials. Call it every 100 ms or so, from one thread. */
void home_tick(struct home *home);

struct home_stats {
	uint64_t shared_regions, shared_members, directory_bytes; /* gauges */
	uint64_t frames_sent, frames_received, frames_refused, frames_late;
	uint64_t buried, overrun, pages_lost, pages_reclaimed, no_room;
};
void home_stats(struct home *home, struct home_stats *stats);
const struct gvm_counter *home_counters(size_t *count);

#endif
