/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shared regions as programs see them: opened, mapped, closed, deleted. The public functions hand
 * over to the node's thread and wait; all else here runs there.
 *
 *     OPENING --home of slab 0, then all others--> OPEN --close--> CLOSING --all pages home-->
 *        |                                                                     LEAVING --> gone
 *        +--one of them refuses------------------------------------------------^
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <gvmnet/region.h>
#include "dsm/internal.h"

#define AGAIN_NS    (100 * DSM_MS)
#define ODD_NS      (1000 * DSM_MS) /* for which homes may disagree: a region is being deleted */
#define PAUSE_US    20000u
#define EVICT_BYTES (4u << 20) /* that may wait to be sent while a region is closed */
#define PAGES_MAX   (UINT64_C(0xFFFFFFFF) - 1)
#define LAYOUT_NS   (1 * DSM_MS) /* at a time: the thread has faults of other regions to serve */
#define LAYOUT_STEP 256u
#define WALK_STEP   16u        /* pages, until it is seen whether there is room to send more */
#define WALK_TICK   (1u << 16) /* pages that a tick may have looked at once more */
#define WALK_REST   16u        /* ticks, at most */

/* ---- opening: the configuration ------------------------------------------------------------ */

static int refuse(const struct gvm_dsm_config *config, const char *why)
{
	gvm_log(GVM_LOG_ERROR, "shared region %s: %s", config->name ? config->name : "(no name)",
		why);
	return -EINVAL;
}

static uint64_t slabs_of(uint64_t pages, uint32_t slab_pages)
{
	return pages / slab_pages + (pages % slab_pages != 0);
}

/* Also of what a home says. */
static int check_size(const char *name, uint64_t pages, uint32_t slab_pages)
{
	if (pages > PAGES_MAX)
		gvm_log(GVM_LOG_ERROR,
			"shared region %s: %" PRIu64 " pages are too many (4294967294 at most)",
			name, pages);
	else if (slabs_of(pages, slab_pages) > GVM_SLABS_MAX)
		gvm_log(GVM_LOG_ERROR,
			"shared region %s: %" PRIu64
			" slabs of %u KiB are too many (%llu at most); use larger slabs",
			name, slabs_of(pages, slab_pages), slab_pages * (GVM_PAGE_SIZE / 1024),
			GVM_SLABS_MAX);
	else
		return 0;
	return -EINVAL;
}

static int check(const struct gvm_dsm_config *config)
{
	uint32_t slab = config->slab_bytes;

	if (!config->name || strlen(config->name) > GVM_WIRE_NAME_MAX)
		return refuse(config, "its name has 1 to 63 characters");
	if (strspn(config->name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
				 "._-") != strlen(config->name) ||
	    !*config->name)
		return refuse(config, "its name is of [A-Za-z0-9._-]");
	if (config->flags & ~(GVM_DSM_CREATE | GVM_DSM_EXCL | GVM_DSM_EPHEMERAL))
		return refuse(config, "there is a flag that is none");
	if (config->bytes % GVM_PAGE_SIZE || (!config->bytes && (config->flags & GVM_DSM_CREATE)))
		return refuse(config, "its size is a number of pages of 4,096 bytes");
	if (slab && (slab & (slab - 1) || slab < GVM_SLAB_BYTES_MIN || slab > GVM_SLAB_BYTES_MAX))
		return refuse(config, "a slab is a power of two from 64 KiB to 64 MiB");
	if (config->local_bytes && config->local_bytes < 16 * GVM_PAGE_SIZE)
		return refuse(config, "a node needs 16 pages at least");
	return 0;
}

static int make(struct dsm_node *node, const struct gvm_dsm_config *config, struct gvm_dsm **out)
{
	uint32_t slab =
	    config->slab_bytes ? config->slab_bytes : (uint32_t)gvm_option_number("GVM_SLAB");
	int err = check_size(config->name, config->bytes / GVM_PAGE_SIZE, slab / GVM_PAGE_SIZE);
	struct gvm_dsm *dsm = err ? NULL : calloc(1, sizeof(*dsm));

	if (!dsm)
		return err ? err : -ENOMEM;
	dsm->links = calloc(node->nodes, sizeof(struct dsm_link *));
	if (!dsm->links) {
		free(dsm);
		return -ENOMEM;
	}
	dsm->node = node;
	strcpy(dsm->name, config->name);
	dsm->id = gvm_region_id_of(dsm->name);
	dsm->flags = config->flags;
	dsm->pages = config->bytes / GVM_PAGE_SIZE;
	dsm->slab_pages = slab / GVM_PAGE_SIZE;
	dsm->slab_wanted = config->slab_bytes / GVM_PAGE_SIZE;
	dsm->budget = config->local_bytes / GVM_PAGE_SIZE;
	dsm->taken = config->taken;
	dsm->node_state = config->node_state;
	dsm->arg = config->arg;
	while (!dsm->view)
		dsm->view = dsm_random();
	LIST_INIT(&dsm->all);
	LIST_INIT(&dsm->pins);
	LIST_INIT(&dsm->evictions);
	LIST_INIT(&dsm->lates);
	STAILQ_INIT(&dsm->kept);
	*out = dsm;
	return 0;
}

static void destroy(struct gvm_dsm *dsm)
{
	free(dsm->homes);
	free(dsm->links);
	free(dsm);
}

/* ---- opening: the homes -------------------------------------------------------------------- */

static void leave(struct gvm_dsm *dsm);

static void open_ended(struct gvm_dsm *dsm)
{
	struct dsm_wait *wait = dsm->wait;

	if (!dsm->failed)
		dsm->failed = dsm_engine_new(dsm);
	gvm_timer_clear(dsm->node->worker, &dsm->deadline);
	if (dsm->failed) {
		leave(dsm);
		return;
	}
	dsm->state = DSM_OPEN;
	dsm->wait = NULL;
	dsm_done(wait, 0);
	if (dsm->parting)
		dsm_away_back(dsm);
}

static void fail(struct gvm_dsm *dsm, int err)
{
	if (!dsm->failed)
		dsm->failed = err;
}

static int ask_home(struct gvm_dsm *dsm, uint16_t node)
{
	struct dsm_link *link = dsm_link_get(dsm, node);

	if (!link)
		return -ENOMEM;
	if (link->is_home)
		return 0;
	link->is_home = link->pending = 1;
	dsm->asked++;
	dsm_link_ask(link);
	return 0;
}

static void on_layout(struct gvm_timer *timer);
static void one_less(struct gvm_dsm *dsm);

/* The size of the region is known: which slabs are whose? That takes a while if there are many, or
 * many memory nodes. Then it goes on with asking them. */
static int lay_out(struct gvm_dsm *dsm)
{
	uint64_t slabs = slabs_of(dsm->pages, dsm->slab_pages);
	int err;

	dsm->homes = malloc(slabs * sizeof(*dsm->homes));
	if (!dsm->homes)
		return -ENOMEM;
	memset(dsm->homes, 0xFF, slabs * sizeof(*dsm->homes)); /* GVM_WIRE_NODE_NONE */
	dsm->laid = 0;
	dsm->layout.fn = on_layout;
	err = gvm_timer_set(dsm->node->worker, &dsm->layout, gvm_now());
	dsm->asked += !err;
	return err;
}

static int lay_out_some(struct gvm_dsm *dsm, uint64_t slabs)
{
	for (unsigned n = 0; n < LAYOUT_STEP && dsm->laid < slabs; n++) {
		struct dsm_link *link =
		    dsm_link_get(dsm, dsm_home(dsm, dsm->laid++ * dsm->slab_pages));

		if (!link)
			return -ENOMEM;
		link->share++;
	}
	return 0;
}

static int ask_others(struct gvm_dsm *dsm)
{
	struct dsm_link *link;
	int err = 0;

	LIST_FOREACH(link, &dsm->all, in_region)
	if (link->share && !err)
		err = ask_home(dsm, link->node);
	return err;
}

static void on_layout(struct gvm_timer *timer)
{
	struct gvm_dsm *dsm = dsm_container(timer, struct gvm_dsm, layout);
	uint64_t slabs = slabs_of(dsm->pages, dsm->slab_pages), until = gvm_now() + LAYOUT_NS;
	int err = 0;

	while (!err && dsm->laid < slabs && gvm_now() < until)
		err = lay_out_some(dsm, slabs);
	if (!err && dsm->laid < slabs)
		err = gvm_timer_set(dsm->node->worker, timer, gvm_now());
	if (!err && dsm->laid < slabs)
		return;
	if (!err && !dsm->failed)
		err = dsm->generation ? ask_others(dsm) : ask_home(dsm, dsm->first);
	if (err)
		fail(dsm, err);
	one_less(dsm);
}

static int take_geometry(struct gvm_dsm *dsm, const struct gvm_region_opened *opened)
{
	if (!dsm->generation) {
		if (dsm->was && (opened->generation != dsm->was || opened->pages != dsm->pages))
			return -ESTALE;
		if (dsm->homes &&
		    (opened->pages != dsm->pages || opened->slab_pages != dsm->slab_pages))
			return -EINVAL;
		if (check_size(dsm->name, opened->pages, opened->slab_pages) ||
		    (dsm->slab_wanted && dsm->slab_wanted != opened->slab_pages))
			return -EINVAL;
		dsm->generation = opened->generation;
		dsm->pages = opened->pages;
		dsm->slab_pages = opened->slab_pages;
		dsm->making = opened->flags & GVM_RO_CREATE ? MAKING_OTHERS : MAKING_NOT;
		return dsm->homes ? ask_others(dsm) : lay_out(dsm);
	}
	if (opened->generation != dsm->generation)
		return -ESTALE;
	return opened->pages == dsm->pages && opened->slab_pages == dsm->slab_pages ? 0 : -EINVAL;
}

static int joined(struct gvm_dsm *dsm, struct dsm_link *link, const struct gvm_msg *reply)
{
	struct gvm_region_opened opened;

	if (!reply || gvm_region_opened_decode(reply->body, reply->length, &opened) ||
	    opened.page_size != GVM_PAGE_SIZE)
		return -EPROTO;
	link->generation = opened.generation;
	dsm_link_joined(link);
	return take_geometry(dsm, &opened);
}

/* An answer that can be another one in a while. */
static int may_change(int status)
{
	switch (status) {
	case -EBUSY:
	case -ETIMEDOUT:
	case -ECONNREFUSED:
	case -ECONNRESET:
	case -ECONNABORTED:
	case -EHOSTUNREACH:
	case -EHOSTDOWN:
	case -ENETUNREACH:
	case -ENOTCONN:
	case -EPIPE:
	case -ESHUTDOWN:
		return 1;
	default:
		return 0;
	}
}

static void say_refused(const struct gvm_dsm *dsm, const struct dsm_link *link, int status)
{
	gvm_log(GVM_LOG_ERROR, "shared region %s: its home, node %u, says: %s%s", dsm->name,
		link->node, strerror(-status),
		status == -EPERM        ? " (it is a private region)"
		: status == -EOPNOTSUPP ? " (no shared regions there: an image file, or no id)"
		: status == -EPROTO     ? " (is it of an older version?)"
					: "");
}

/* This home has not what belongs to what the first one has. */
static int is_odd(const struct gvm_dsm *dsm, const struct dsm_link *link, int status)
{
	return link->node != dsm->first && !dsm->was &&
	       (status == -ESTALE || status == (dsm->making ? -EEXIST : -ENOENT));
}

/*
 * One of them has lost its memory. Or the region is just being deleted, as an ephemeral one is when
 * its last member leaves: then all is well in a moment. To go on would be zeros where there was
 * something.
 */
static int odd(const struct gvm_dsm *dsm, const struct dsm_link *link)
{
	if (gvm_now() < dsm->again_until)
		return -EAGAIN;
	gvm_log(
	    GVM_LOG_ERROR,
	    "shared region %s: its homes do not agree: node %u %s, but node %u has %s; a memory "
	    "node has lost what it had of it, or could not be reached when it was deleted. To "
	    "begin anew, delete it: gvm region delete %s",
	    dsm->name, dsm->first, dsm->making ? "does not have it" : "has it", link->node,
	    link->generation || dsm->making ? "a part of another one of that name"
					    : "no part of it",
	    dsm->name);
	return -EIO;
}

/* Of a home that has it: it has been told that it is made. */
static int said(struct dsm_link *link, int status)
{
	if (status == 0 && link->state == LINK_DEAD)
		return -EHOSTDOWN;
	if (status == 0 && link->state != LINK_UP)
		dsm_link_joined(link);
	return status ? -EAGAIN : 0; /* who makes it anew finds out why */
}

static int say_made(struct gvm_dsm *dsm, struct dsm_link *link)
{
	int err;

	link->pending = 1; /* which goes into the request */
	err = dsm_link_made(link);
	link->pending = !err;
	dsm->asked += !err;
	return err;
}

/* First the others: what the first one knows decides for everybody. */
static int say_all(struct gvm_dsm *dsm)
{
	struct dsm_link *link;
	int err = 0;

	dsm->making = MAKING_SAYS;
	LIST_FOREACH(link, &dsm->all, in_region)
	if (link->is_home && link->node != dsm->first && !err)
		err = say_made(dsm, link);
	if (err || dsm->asked)
		return err;
	dsm->making = MAKING_LAST;
	return say_made(dsm, dsm->links[dsm->first]);
}

/* Something that was waited for has come: all that has been? */
static void one_less(struct gvm_dsm *dsm)
{
	int err = 0;

	if (--dsm->asked)
		return;
	if (!dsm->failed && dsm->making == MAKING_OTHERS)
		err = say_all(dsm);
	else if (!dsm->failed && dsm->making == MAKING_SAYS) {
		dsm->making = MAKING_LAST;
		err = say_made(dsm, dsm->links[dsm->first]);
	}
	if (err)
		fail(dsm, -EAGAIN);
	if (dsm->asked == 0)
		open_ended(dsm);
}

static int answer(struct gvm_dsm *dsm, struct dsm_link *link, int status,
		  const struct gvm_msg *reply)
{
	if (dsm->making >= MAKING_SAYS)
		return said(link, status);
	if (!status)
		status = joined(dsm, link, reply);
	else if (!is_odd(dsm, link, status))
		say_refused(dsm, link, status);
	return is_odd(dsm, link, status) ? odd(dsm, link) : status;
}

void dsm_region_answered(struct gvm_dsm *dsm, struct dsm_link *link, int status,
			 const struct gvm_msg *reply)
{
	if (may_change(status) && !dsm->failed && dsm->making < MAKING_SAYS) {
		dsm->late = status == -EBUSY ? -EBUSY : -EHOSTDOWN;
		dsm_link_ask_in(link, AGAIN_NS);
		return;
	}
	status = answer(dsm, link, status, reply);
	if (status)
		fail(dsm, status);
	link->pending = 0;
	one_less(dsm);
}

static void open_too_late(struct gvm_timer *timer)
{
	struct gvm_dsm *dsm = dsm_container(timer, struct gvm_dsm, deadline);
	struct dsm_link *link;

	if (dsm->layout.place) {
		gvm_log(
		    GVM_LOG_ERROR,
		    "shared region %s: to find out which of its slabs are whose takes too long; "
		    "use larger slabs, or wait longer",
		    dsm->name);
		gvm_timer_clear(dsm->node->worker, &dsm->layout);
		dsm->asked--;
		fail(dsm, -ETIMEDOUT);
	}
	fail(dsm, dsm->late ? dsm->late : -EHOSTDOWN);
	LIST_FOREACH(link, &dsm->all, in_region)
	{
		if (!link->pending)
			continue;
		gvm_log(
		    GVM_LOG_ERROR, "shared region %s: node %u, a home of it, %s", dsm->name,
		    link->node,
		    dsm->failed == -EBUSY
			? "still has another process with this node's id, or one that is making it"
			: "does not answer");
		if (link->calling) /* its answer comes soon */
			continue;
		gvm_timer_clear(dsm->node->worker, &link->retry);
		link->pending = 0;
		dsm->asked--;
	}
	if (dsm->asked == 0)
		open_ended(dsm);
}

static void finish(struct gvm_timer *timer);

void dsm_region_open_begin(struct gvm_dsm *dsm, struct dsm_wait *wait, uint64_t ns)
{
	struct gvm_worker *worker = dsm->node->worker;
	int err;

	dsm->state = DSM_OPENING;
	dsm->making = MAKING_NOT;
	dsm->wait = wait;
	dsm->deadline.fn = open_too_late;
	dsm->finish.fn = finish;
	gvm_place(dsm->node->cluster, dsm->id, 0, 1, &dsm->first);
	err = gvm_timer_set(worker, &dsm->deadline, gvm_worker_now(worker) + ns);
	if (!err)
		err = dsm->pages ? lay_out(dsm) : ask_home(dsm, dsm->first);
	if (err) {
		fail(dsm, err);
		leave(dsm);
	}
}

struct open_args {
	struct gvm_dsm *dsm;
	uint64_t until;
};

static void open_start(void *arg, struct dsm_wait *wait)
{
	struct open_args *args = arg;
	struct gvm_dsm *dsm = args->dsm;
	struct dsm_node *node = dsm->node;
	uint16_t first;
	int err = 0;

	if (dsm_node_region(node, dsm->id))
		err = -EBUSY;
	else if (gvm_place(node->cluster, dsm->id, 0, 1, &first) != 1)
		err = -EINVAL;
	if (err) {
		destroy(dsm);
		dsm_done(wait, err);
		return;
	}
	LIST_INSERT_HEAD(&node->regions, dsm, in_node);
	dsm_region_open_begin(dsm, wait, args->until > gvm_now() ? args->until - gvm_now() : 0);
}

static int open_once(struct dsm_node *node, const struct gvm_dsm_config *config,
		     struct open_args *args, uint64_t again_until)
{
	int err = make(node, config, &args->dsm);

	if (err)
		return err;
	args->dsm->again_until = again_until;
	return dsm_node_run(node, open_start, args);
}

/* All that it was let into has been left when it is tried again. */
static int open_in(struct dsm_node *node, const struct gvm_dsm_config *config, uint64_t ms,
		   struct gvm_dsm **out)
{
	uint64_t began = gvm_now();
	struct open_args args = { .until = began + ms * DSM_MS };
	uint64_t again_until = began + (ms * DSM_MS / 2 < ODD_NS ? ms * DSM_MS / 2 : ODD_NS);
	int err;

	while ((err = open_once(node, config, &args, again_until)) == -EAGAIN) {
		if (gvm_now() >= args.until)
			return -EHOSTDOWN;
		usleep(PAUSE_US);
	}
	if (!err)
		*out = args.dsm;
	return err;
}

int gvm_dsm_open(struct gvm_net *net, const struct gvm_dsm_config *config, struct gvm_dsm **out)
{
	uint64_t ms = config->open_ms;
	struct dsm_node *node;
	int err = check(config);

	if (!err)
		err = dsm_node_get(net, &node);
	if (err)
		return err;
	if (!ms)
		ms = gvm_option_number("GVM_DSM_OPEN_MS");
	err = open_in(node, config, ms, out);
	if (err)
		dsm_node_put(node);
	return err;
}

/* ---- mapping and use ----------------------------------------------------------------------- */

static void map(void *arg, struct dsm_wait *wait)
{
	struct gvm_dsm *dsm = arg;

	dsm_done(wait, dsm->memory ? -EEXIST : dsm_memory_start(dsm));
}

int gvm_dsm_map(struct gvm_dsm *dsm, void **mem)
{
	int err = dsm_node_run(dsm->node, map, dsm);

	if (!err)
		*mem = dsm_memory_base(dsm->memory);
	return err;
}

uint64_t gvm_dsm_bytes(const struct gvm_dsm *dsm)
{
	return dsm->pages * GVM_PAGE_SIZE;
}

unsigned gvm_dsm_node(const struct gvm_dsm *dsm)
{
	return dsm->node->self;
}

/* Of the caller, who waits. */
struct dsm_eviction {
	LIST_ENTRY(dsm_eviction) in_region;
	struct gvm_dsm *dsm;
	struct dsm_wait *wait;
	uint64_t first, end; /* pages */
	struct ivy_walk walk;
};

static int may_send(const struct gvm_dsm *dsm)
{
	return dsm->queued < EVICT_BYTES && dsm->queued <= dsm->node->queue_max / 4;
}

/* No more at a time than may wait to be sent: when that has gone it goes on. Nor for long. Returns
 * how many pages have left. */
static uint32_t walk_on(struct gvm_dsm *dsm, struct ivy_walk *walk, enum ivy_walk_what what)
{
	uint64_t until = walk->looked + DSM_TURN;
	uint32_t gone = 0;

	while (!walk->over && may_send(dsm) && walk->looked < until)
		gone += ivy_walk_on(dsm->ivy, walk, what, WALK_STEP);
	if (!walk->over && may_send(dsm))
		dsm_engine_more(dsm);
	return gone;
}

static void evict_on(struct dsm_eviction *e)
{
	struct gvm_dsm *dsm = e->dsm;

	if (dsm->ivy)
		dsm_count(&dsm->stats.evicted, walk_on(dsm, &e->walk, IVY_WALK_EVICT));
	if (dsm->ivy && !e->walk.over)
		return;
	LIST_REMOVE(e, in_region);
	dsm_done(e->wait, 0);
}

void dsm_region_evict_on(struct gvm_dsm *dsm)
{
	struct dsm_eviction *e, *next;

	for (e = LIST_FIRST(&dsm->evictions); e; e = next) {
		next = LIST_NEXT(e, in_region);
		evict_on(e);
	}
}

static void evict(void *arg, struct dsm_wait *wait)
{
	struct dsm_eviction *e = arg;
	struct gvm_dsm *dsm = e->dsm;

	e->wait = wait;
	LIST_INSERT_HEAD(&dsm->evictions, e, in_region);
	if (dsm->ivy)
		ivy_walk_begin(dsm->ivy, &e->walk, e->first, e->end);
	evict_on(e);
	dsm_engine_after(dsm);
}

int gvm_dsm_evict(struct gvm_dsm *dsm, uint64_t offset, uint64_t len)
{
	uint64_t bytes = gvm_dsm_bytes(dsm);
	struct dsm_eviction args = { .dsm = dsm };

	if (offset > bytes || len > bytes - offset)
		return -ERANGE;
	args.first = (offset + GVM_PAGE_SIZE - 1) / GVM_PAGE_SIZE;
	args.end = (offset + len) / GVM_PAGE_SIZE;
	return dsm_node_run(dsm->node, evict, &args);
}

/* ---- closing ------------------------------------------------------------------------------- */

static void finish(struct gvm_timer *timer)
{
	struct gvm_dsm *dsm = dsm_container(timer, struct gvm_dsm, finish);
	struct dsm_wait *wait = dsm->wait;
	int status = dsm->failed;

	gvm_timer_clear(dsm->node->worker, &dsm->deadline);
	if (!dsm->parting)
		dsm_memory_stop(dsm);
	dsm_engine_free(dsm);
	dsm_region_evict_on(dsm);
	dsm_pins_go_on(dsm);
	while (!LIST_EMPTY(&dsm->all))
		dsm_link_free(LIST_FIRST(&dsm->all));
	if (dsm->parting) {
		dsm_away_gone(dsm);
		return;
	}
	dsm_node_forget(dsm->node, dsm->id);
	LIST_REMOVE(dsm, in_node);
	destroy(dsm);
	dsm_done(wait, status);
}

/* When nobody has to answer any more. Not here and now: who has called may need dsm. */
void dsm_region_left(struct gvm_dsm *dsm)
{
	struct dsm_link *link;

	LIST_FOREACH(link, &dsm->all, in_region)
	if (link->calling || link->leaving)
		return;
	dsm->state = DSM_CLOSED_STATE;
	gvm_timer_set(dsm->node->worker, &dsm->finish, 0);
}

static void leave(struct gvm_dsm *dsm)
{
	struct dsm_link *link;

	dsm->state = DSM_LEAVING;
	LIST_FOREACH(link, &dsm->all, in_region)
	dsm_link_leave(link);
	dsm_region_left(dsm);
}

static void begin_to_give_back(struct gvm_dsm *dsm)
{
	ivy_walk_begin(dsm->ivy, &dsm->giving, 0, dsm->pages);
	dsm->rested = 0;
}

static uint64_t pages_here(const struct gvm_dsm *dsm)
{
	struct ivy_stats st;

	ivy_stats(dsm->ivy, &st);
	return st.pages;
}

/* Or not: the pages of a home that was given up meanwhile are here no more either. Who parts stays
 * then, as its pages of other homes may still be asked for. */
static void all_given_back(struct gvm_dsm *dsm)
{
	if (dsm->stats.homes_dead && dsm->parting) {
		dsm_away_failed(dsm);
		return;
	}
	if (dsm->stats.homes_dead)
		fail(dsm, -EIO);
	leave(dsm);
}

void dsm_region_close_on(struct gvm_dsm *dsm)
{
	if (dsm->state != DSM_CLOSING)
		return;
	walk_on(dsm, &dsm->giving, IVY_WALK_LEAVE);
	if (pages_here(dsm) == 0)
		all_given_back(dsm);
}

/* That are here and wait for nothing. */
static int some_are_left(const struct gvm_dsm *dsm)
{
	struct ivy_stats st;

	ivy_stats(dsm->ivy, &st);
	return st.pages > st.open;
}

/* Some may have been on their way elsewhere, or their home not there. All are looked at again, the
 * less often the more there is to look at. */
void dsm_region_tick(struct gvm_dsm *dsm)
{
	if (dsm->state != DSM_CLOSING || !dsm->giving.over || !some_are_left(dsm))
		return;
	dsm->rested++;
	if (dsm->rested >= WALK_REST || dsm->rested * WALK_TICK >= dsm->giving.looked)
		begin_to_give_back(dsm);
}

static void close_too_late(struct gvm_timer *timer)
{
	struct gvm_dsm *dsm = dsm_container(timer, struct gvm_dsm, deadline);

	if (dsm->state != DSM_CLOSING)
		return;
	if (dsm->parting) {
		dsm_away_failed(dsm);
		return;
	}
	gvm_log(GVM_LOG_ERROR,
		"shared region %s: %" PRIu64 " pages could not be given back in time; what only "
		"this node had is lost",
		dsm->name, pages_here(dsm));
	fail(dsm, -EIO);
	leave(dsm);
}

void dsm_region_close_begin(struct gvm_dsm *dsm, struct dsm_wait *wait, uint64_t ns)
{
	struct gvm_worker *worker = dsm->node->worker;

	dsm->wait = wait;
	dsm->state = DSM_CLOSING;
	begin_to_give_back(dsm);
	dsm->deadline.fn = close_too_late;
	gvm_timer_set(worker, &dsm->deadline, gvm_worker_now(worker) + ns);
	dsm_engine_after(dsm);
}

static void close_start(void *arg, struct dsm_wait *wait)
{
	struct gvm_dsm *dsm = arg;

	dsm->failed = 0;              /* it may have been refused when it wanted to come back */
	if (dsm->state == DSM_AWAY) { /* it has nothing */
		dsm->parting = 0;
		dsm->wait = wait;
		if (dsm->stats.homes_dead) /* before it went, or when it came back */
			fail(dsm, -EIO);
		leave(dsm);
		return;
	}
	dsm_region_close_begin(dsm, wait, gvm_option_number("GVM_DSM_CLOSE_MS") * DSM_MS);
}

int gvm_dsm_close(struct gvm_dsm *dsm)
{
	struct dsm_node *node;
	int err;

	if (!dsm)
		return 0;
	node = dsm->node;
	err = dsm_node_run(node, close_start, dsm);
	dsm_node_put(node);
	return err;
}
