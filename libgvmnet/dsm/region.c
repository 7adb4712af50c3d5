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
#include <sys/random.h>
#include <gvmnet/region.h>
#include "dsm/internal.h"

#define AGAIN_NS    (100 * DSM_MS)
#define EVICT_BATCH 256u
#define EVICT_BYTES (4u << 20) /* that may wait to be sent while a region is closed */
#define SLAB_MIN    (64u << 10)
#define SLAB_MAX    (64u << 20)

/* ---- opening: the configuration ------------------------------------------------------------ */

static int refuse(const struct gvm_dsm_config *config, const char *why)
{
	gvm_log(GVM_LOG_ERROR, "shared region %s: %s", config->name ? config->name : "(no name)",
		why);
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
	if (slab && (slab & (slab - 1) || slab < SLAB_MIN || slab > SLAB_MAX))
		return refuse(config, "a slab is a power of two from 64 KiB to 64 MiB");
	if (config->local_bytes && config->local_bytes < 16 * GVM_PAGE_SIZE)
		return refuse(config, "a node needs 16 pages at least");
	return 0;
}

static int make(struct dsm_node *node, const struct gvm_dsm_config *config, struct gvm_dsm **out)
{
	uint32_t slab = config->slab_bytes;
	struct gvm_dsm *dsm = calloc(1, sizeof(*dsm));

	if (!dsm)
		return -ENOMEM;
	dsm->links = calloc(node->nodes, sizeof(struct dsm_link *));
	if (!dsm->links) {
		free(dsm);
		return -ENOMEM;
	}
	if (!slab)
		slab = (uint32_t)gvm_option_number("GVM_SLAB");
	dsm->node = node;
	strcpy(dsm->name, config->name);
	dsm->id = gvm_region_id_of(dsm->name);
	dsm->flags = config->flags;
	dsm->pages = config->bytes / GVM_PAGE_SIZE;
	dsm->slab_pages = slab / GVM_PAGE_SIZE;
	dsm->budget = config->local_bytes / GVM_PAGE_SIZE;
	while (!dsm->view)
		if (getrandom(&dsm->view, sizeof(dsm->view), 0) != sizeof(dsm->view))
			dsm->view = 0;
	LIST_INIT(&dsm->all);
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

static uint64_t slabs_of(const struct gvm_dsm *dsm)
{
	return (dsm->pages + dsm->slab_pages - 1) / dsm->slab_pages;
}

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
	link->is_home = 1;
	if (dsm->pages)
		link->share = gvm_place_share(dsm->node->cluster, dsm->id, slabs_of(dsm), node);
	dsm->asked++;
	dsm_link_ask(link);
	return 0;
}

/* The size of the region is known: who else is a home of it? */
static int ask_others(struct gvm_dsm *dsm)
{
	uint64_t slabs = slabs_of(dsm);
	int err = 0;

	dsm->homes = malloc(slabs * sizeof(*dsm->homes));
	if (!dsm->homes)
		return -ENOMEM;
	memset(dsm->homes, 0xFF, slabs * sizeof(*dsm->homes)); /* GVM_WIRE_NODE_NONE */
	for (uint64_t i = 0; i < slabs && !err; i++)
		err = ask_home(dsm, dsm_home(dsm, i * dsm->slab_pages));
	return err;
}

static int take_geometry(struct gvm_dsm *dsm, const struct gvm_region_opened *opened)
{
	if (!dsm->generation) {
		dsm->generation = opened->generation;
		dsm->pages = opened->pages;
		dsm->slab_pages = opened->slab_pages;
		return ask_others(dsm);
	}
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

void dsm_region_answered(struct gvm_dsm *dsm, struct dsm_link *link, int status,
			 const struct gvm_msg *reply)
{
	if (may_change(status) && !dsm->failed) {
		dsm->late = status == -EBUSY ? -EBUSY : -EHOSTDOWN;
		dsm_link_ask_in(link, AGAIN_NS);
		return;
	}
	if (status)
		say_refused(dsm, link, status);
	else
		status = joined(dsm, link, reply);
	if (status)
		fail(dsm, status);
	if (--dsm->asked == 0)
		open_ended(dsm);
}

static void open_too_late(struct gvm_timer *timer)
{
	struct gvm_dsm *dsm = dsm_container(timer, struct gvm_dsm, deadline);
	struct dsm_link *link;

	fail(dsm, dsm->late ? dsm->late : -EHOSTDOWN);
	LIST_FOREACH(link, &dsm->all, in_region)
	{
		if (!link->is_home || link->generation)
			continue;
		gvm_log(GVM_LOG_ERROR, "shared region %s: node %u, a home of it, %s", dsm->name,
			link->node,
			dsm->failed == -EBUSY ? "still has another process with this node's id"
					      : "does not answer");
		if (link->calling) /* its answer comes soon */
			continue;
		gvm_timer_clear(dsm->node->worker, &link->retry);
		dsm->asked--;
	}
	if (dsm->asked == 0)
		open_ended(dsm);
}

static void finish(struct gvm_timer *timer);

struct open_args {
	struct gvm_dsm *dsm;
	uint32_t ms;
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
	dsm->wait = wait;
	dsm->deadline.fn = open_too_late;
	dsm->finish.fn = finish;
	err = gvm_timer_set(node->worker, &dsm->deadline,
			    gvm_worker_now(node->worker) + args->ms * DSM_MS);
	if (!err)
		err = ask_home(dsm, first);
	if (err) {
		fail(dsm, err);
		leave(dsm);
	}
}

int gvm_dsm_open(struct gvm_net *net, const struct gvm_dsm_config *config, struct gvm_dsm **out)
{
	struct open_args args = { .ms = config->open_ms };
	struct dsm_node *node;
	int err = check(config);

	if (!err)
		err = dsm_node_get(net, &node);
	if (err)
		return err;
	if (!args.ms)
		args.ms = (uint32_t)gvm_option_number("GVM_DSM_OPEN_MS");
	err = make(node, config, &args.dsm);
	if (!err)
		err = dsm_node_run(node, open_start, &args);
	if (err)
		dsm_node_put(node);
	else
		*out = args.dsm;
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

struct evict_args {
	struct gvm_dsm *dsm;
	uint64_t page, end;
};

static void evict(void *arg, struct dsm_wait *wait)
{
	struct evict_args *args = arg;
	struct gvm_dsm *dsm = args->dsm;

	for (; args->page < args->end; args->page++) {
		enum ivy_access had = ivy_page_access(dsm->ivy, args->page);

		if (had && ivy_evict(dsm->ivy, args->page) == 0)
			dsm_count(&dsm->stats.evicted, 1);
	}
	dsm_engine_after(dsm);
	dsm_done(wait, 0);
}

int gvm_dsm_evict(struct gvm_dsm *dsm, uint64_t offset, uint64_t len)
{
	uint64_t bytes = gvm_dsm_bytes(dsm);
	struct evict_args args = { .dsm = dsm };

	if (offset > bytes || len > bytes - offset)
		return -ERANGE;
	args.page = (offset + GVM_PAGE_SIZE - 1) / GVM_PAGE_SIZE;
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
	dsm_memory_stop(dsm);
	dsm_engine_free(dsm);
	while (!LIST_EMPTY(&dsm->all))
		dsm_link_free(LIST_FIRST(&dsm->all));
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

static uint64_t pages_here(const struct gvm_dsm *dsm)
{
	struct ivy_stats st;

	ivy_stats(dsm->ivy, &st);
	return st.pages;
}

void dsm_region_close_on(struct gvm_dsm *dsm)
{
	unsigned n = 0;

	if (dsm->state != DSM_CLOSING)
		return;
	while (dsm->cursor < dsm->pages && n < EVICT_BATCH && dsm->queued < EVICT_BYTES) {
		uint64_t page = dsm->cursor++;

		if (ivy_page_access(dsm->ivy, page)) {
			ivy_evict(dsm->ivy, page);
			n++;
		}
	}
	if (pages_here(dsm) == 0)
		leave(dsm);
}

/* Some may have been on their way elsewhere. */
void dsm_region_tick(struct gvm_dsm *dsm)
{
	if (dsm->state == DSM_CLOSING && dsm->cursor == dsm->pages)
		dsm->cursor = 0;
}

static void close_too_late(struct gvm_timer *timer)
{
	struct gvm_dsm *dsm = dsm_container(timer, struct gvm_dsm, deadline);

	if (dsm->state != DSM_CLOSING)
		return;
	gvm_log(GVM_LOG_ERROR,
		"shared region %s: %" PRIu64 " pages could not be given back in time; what only "
		"this node had is lost",
		dsm->name, pages_here(dsm));
	fail(dsm, -EIO);
	leave(dsm);
}

static void close_start(void *arg, struct dsm_wait *wait)
{
	struct gvm_dsm *dsm = arg;
	struct gvm_worker *worker = dsm->node->worker;

	dsm->wait = wait;
	dsm->state = DSM_CLOSING;
	if (dsm->stats.homes_dead) /* what this node had changed of it could not be given back */
		fail(dsm, -EIO);
	dsm->cursor = 0;
	dsm->deadline.fn = close_too_late;
	gvm_timer_set(worker, &dsm->deadline,
		      gvm_worker_now(worker) + gvm_option_number("GVM_DSM_CLOSE_MS") * DSM_MS);
	dsm_engine_after(dsm);
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
