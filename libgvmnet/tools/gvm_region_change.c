/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* gvm region create and resize: what is made or resized is a whole, so the region client does it,
 * on this thread. */
#include "tools/gvm.h"
#include "tools/gvm_nodes.h"
#include "tools/gvm_region.h"

#include <gvmnet/region.h>

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#define WAIT_NS 100000000ull

struct whole {
	struct gvm_net *net;
	struct gvm_worker *worker;
	struct gvm_region *region;
	struct gvm_region_op op;
	int over, status;
};

static void opened(void *arg, struct gvm_region *region, int status)
{
	struct whole *w = arg;

	w->over = 1;
	w->status = status;
}

static void resized(struct gvm_region_op *op, int status)
{
	struct whole *w = (struct whole *)((char *)op - offsetof(struct whole, op));

	w->over = 1;
	w->status = status;
}

static void released(void *arg)
{
	((struct whole *)arg)->over = 1;
}

static int await(struct whole *w)
{
	while (!w->over)
		gvm_worker_wait(w->worker, WAIT_NS);
	w->over = 0;
	return w->status;
}

static int open_whole(struct whole *w, const struct gvm_cluster *cluster,
		      const struct region_asked *asked, int create)
{
	struct gvm_net_config net = { .cluster = cluster, .node = GVM_NODE_NONE };
	struct gvm_worker_config worker = { .arg = w, .cpu = -1 };
	struct gvm_region_config config = {
		.name = asked->names[0],
		.bytes = create ? asked->bytes : 0,
		.slab_bytes = create ? (uint32_t)gvm_option_number("GVM_SLAB") : 0,
		.flags = create ? GVM_REGION_CREATE | GVM_REGION_EXCL : 0,
		.linger_ms = 1,
		.arg = w,
		.placed_as = asked->placed_as
	};
	int err = gvm_net_open(&net, &w->net);

	if (!err)
		err = gvm_worker_open(w->net, &worker, &w->worker);
	if (!err)
		err = gvm_region_open(w->worker, &config, 0, opened, &w->region);
	return err ? err : await(w);
}

static int resize_whole(struct whole *w, uint64_t bytes)
{
	int err;

	w->op.done = resized;
	err = gvm_region_resize(w->region, bytes, &w->op);
	return err ? err : await(w);
}

/* Another client finds it free when this has returned. */
static void close_whole(struct whole *w, int is_open)
{
	if (is_open) {
		gvm_region_release(w->region, 0, released, w);
		await(w);
	} else if (w->region) {
		gvm_region_close(w->region);
	}
	if (w->worker)
		gvm_worker_close(w->worker);
	gvm_net_close(w->net);
}

static int change(const struct gvm_cluster *cluster, const struct region_asked *asked, int create)
{
	struct whole w = { 0 };
	char why[512];
	int err, is_open;

	if (nodes_probe(cluster, GVM_NODE_NONE, why, sizeof why))
		return region_complain("%s", why);
	gvm_why_begin();
	err = open_whole(&w, cluster, asked, create);
	is_open = !err;
	if (!err && !create)
		err = resize_whole(&w, asked->bytes);
	snprintf(why, sizeof why, "%s", *gvm_why_line() ? gvm_why_line() : strerror(-err));
	close_whole(&w, is_open);
	gvm_log_set(NULL);
	if (err)
		return region_complain("%s", why);
	printf("%s %s %" PRIu64 " bytes\n", asked->names[0], create ? "is made, with" : "has now",
	       asked->bytes);
	return 0;
}

int region_create(const struct gvm_cluster *cluster, const struct region_asked *asked)
{
	return change(cluster, asked, 1);
}

int region_resize(const struct gvm_cluster *cluster, const struct region_asked *asked)
{
	return change(cluster, asked, 0);
}
