/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the views of one region in this process know together: which slabs were discarded whole, and
 * when. A view that is told by a node that a slab is not there must not take that for a loss if
 * another view has had it discarded since the view last heard that it is there.
 *
 * Time is a count of discards, so that "since" is exact: a view remembers the time at which it
 * asked for the answer that said that the slab is there.
 *
 * Threads: any; everything is under net->views_lock, none of it on the way of a fetch or put.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "core/core.h"
#include "core/region_internal.h"

struct region_views {
	struct region_views *next;
	uint64_t id;
	unsigned count; /* of views */
	uint64_t time;
	uint64_t *discarded; /* by slab: when it last was; 0: never */
	uint64_t slabs;
};

static struct gvm_net *net_of(const struct gvm_region *region)
{
	return gvm_worker_net(region->worker);
}

int region_views_join(struct gvm_region *region)
{
	struct gvm_net *net = net_of(region);
	struct region_views *views;

	pthread_mutex_lock(&net->views_lock);
	for (views = net->views; views && views->id != region->id; views = views->next)
		;
	if (!views) {
		views = calloc(1, sizeof *views);
		if (views) {
			views->id = region->id;
			views->next = net->views;
			net->views = views;
		}
	}
	if (views)
		views->count++;
	pthread_mutex_unlock(&net->views_lock);
	region->views = views;
	return views ? 0 : -ENOMEM;
}

void region_views_leave(struct gvm_region *region)
{
	struct gvm_net *net = net_of(region);
	struct region_views *views = region->views, **at;

	pthread_mutex_lock(&net->views_lock);
	if (--views->count == 0) {
		for (at = &net->views; *at != views; at = &(*at)->next)
			;
		*at = views->next;
		free(views->discarded);
		free(views);
	}
	pthread_mutex_unlock(&net->views_lock);
}

int region_views_reserve(struct gvm_region *region, uint64_t slabs)
{
	struct gvm_net *net = net_of(region);
	struct region_views *views = region->views;
	uint64_t *more;
	int err = 0;

	pthread_mutex_lock(&net->views_lock);
	if (slabs > views->slabs) {
		more = realloc(views->discarded, slabs * sizeof *more);
		if (more) {
			memset(more + views->slabs, 0, (slabs - views->slabs) * sizeof *more);
			views->discarded = more;
			views->slabs = slabs;
		} else {
			err = -ENOMEM;
		}
	}
	pthread_mutex_unlock(&net->views_lock);
	return err;
}

uint64_t region_views_time(const struct gvm_region *region)
{
	struct gvm_net *net = net_of(region);
	uint64_t time;

	pthread_mutex_lock(&net->views_lock);
	time = region->views->time;
	pthread_mutex_unlock(&net->views_lock);
	return time;
}

void region_views_discarding(struct gvm_region *region, uint64_t slab)
{
	struct gvm_net *net = net_of(region);
	struct region_views *views = region->views;

	pthread_mutex_lock(&net->views_lock);
	views->discarded[slab] = ++views->time;
	pthread_mutex_unlock(&net->views_lock);
}

bool region_views_discarded(const struct gvm_region *region, uint64_t slab, uint64_t since)
{
	struct gvm_net *net = net_of(region);
	bool was;

	pthread_mutex_lock(&net->views_lock);
	was = region->views->discarded[slab] > since;
	pthread_mutex_unlock(&net->views_lock);
	return was;
}
