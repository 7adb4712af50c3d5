/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A member that leaves a region for a moment, with its mapping: it is about to become another
 * program, and if that fails it goes on as if it had opened the region anew. The node's thread, but
 * for the public functions.
 *
 *     OPEN --leave--> CLOSING --all pages home--> LEAVING --> AWAY --stay--> OPENING --> OPEN
 *      ^------------- not in time ---'                          ^------ refused --'
 */
#include <errno.h>
#include <stdlib.h>
#include "dsm/internal.h"

struct away_args {
	struct gvm_dsm *dsm;
	unsigned ms;
};

static void leave_start(void *arg, struct dsm_wait *wait)
{
	struct away_args *args = arg;
	struct gvm_dsm *dsm = args->dsm;

	if (dsm->state == DSM_AWAY && !dsm->lost) {
		dsm_done(wait, 0);
		return;
	}
	if (dsm->state != DSM_OPEN || dsm->stats.homes_dead) {
		dsm_done(wait, -EIO);
		return;
	}
	dsm->parting = 1;
	dsm_region_close_begin(dsm, wait, args->ms * DSM_MS);
}

int gvm_dsm_leave(struct gvm_dsm *dsm, unsigned timeout_ms)
{
	struct away_args args = { .dsm = dsm, .ms = timeout_ms };

	return dsm_node_run(dsm->node, leave_start, &args);
}

/* What the program's threads wait for goes on. */
static void go_on(struct gvm_dsm *dsm)
{
	dsm_engine_after(dsm);
	if (!dsm->ivy && dsm->memory)
		dsm_memory_trim(dsm->memory);
}

void dsm_away_failed(struct gvm_dsm *dsm)
{
	struct dsm_wait *wait = dsm->wait;

	dsm->parting = 0;
	dsm->state = DSM_OPEN;
	dsm->wait = NULL;
	dsm_done(wait, -EIO);
	go_on(dsm);
}

void dsm_away_back(struct gvm_dsm *dsm)
{
	dsm->parting = dsm->lost = 0;
	go_on(dsm);
}

void dsm_away_gone(struct gvm_dsm *dsm)
{
	struct dsm_wait *wait = dsm->wait;
	int status = dsm->failed;

	dsm->state = DSM_AWAY;
	dsm->wait = NULL;
	dsm->lost = status != 0; /* it could not come back */
	dsm_done(wait, status);
	go_on(dsm);
}

static void stay_start(void *arg, struct dsm_wait *wait)
{
	struct gvm_dsm *dsm = arg;

	if (dsm->state != DSM_AWAY) {
		dsm_done(wait, -EINVAL);
		return;
	}
	dsm->was = dsm->generation;
	dsm->generation = 0;
	free(dsm->homes);
	dsm->homes = NULL;
	dsm->flags &= ~(GVM_DSM_CREATE | GVM_DSM_EXCL);
	dsm->failed = dsm->late = 0;
	dsm->asked = 0;
	dsm->view = 0;
	while (!dsm->view)
		dsm->view = dsm_random();
	dsm_region_open_begin(dsm, wait, gvm_option_number("GVM_DSM_OPEN_MS") * DSM_MS);
}

int gvm_dsm_stay(struct gvm_dsm *dsm)
{
	return dsm_node_run(dsm->node, stay_start, dsm);
}
