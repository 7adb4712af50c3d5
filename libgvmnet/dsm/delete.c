/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Deleting a shared region: all memory nodes are asked, each by a call of its own. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <gvmnet/region.h>
#include "dsm/internal.h"

#define ANSWER_NS (5000 * DSM_MS)

struct one {
	struct delete *all;
	struct gvm_op op;
};

struct delete
{
	struct dsm_node *node;
	uint64_t id;
	struct dsm_wait *wait;
	size_t asked;
	int deleted, err;
	struct one *ones;
};

static void finish(struct delete *d)
{
	int err = d->err ? d->err : d->deleted ? 0 : -ENOENT;

	free(d->ones);
	dsm_done(d->wait, err);
}

static void take(struct delete *d, int status)
{
	if (status == 0)
		d->deleted = 1;
	else if (status == -EBUSY)
		d->err = status;
	else if (status != -ENOENT && !d->err)
		d->err = status == -ETIMEDOUT || status == -ECONNREFUSED ? -EHOSTDOWN : status;
}

static void answered(struct gvm_op *op, int status)
{
	struct delete *d = dsm_container(op, struct one, op)->all;

	take(d, status);
	if (--d->asked == 0)
		finish(d);
}

static int ask(struct delete *d, struct one *one, unsigned node)
{
	struct gvm_msg msg = { .type = GVM_T_REGION_DELETE, .region = d->id };
	struct gvm_worker *worker = d->node->worker;
	struct gvm_peer *peer;
	int err = gvm_peer_get(worker, node, &peer);

	one->all = d;
	one->op.done = answered;
	one->op.deadline_ns = gvm_worker_now(worker) + ANSWER_NS;
	return err ? err : gvm_call(peer, &msg, &one->op);
}

static void start(void *arg, struct dsm_wait *wait)
{
	struct delete *d = arg;
	size_t count = gvm_cluster_size(d->node->cluster);

	d->wait = wait;
	d->ones = calloc(count, sizeof(*d->ones));
	if (!d->ones)
		d->err = -ENOMEM;
	for (size_t i = 0; i < count && d->ones; i++) {
		const struct gvm_node *n = gvm_cluster_at(d->node->cluster, i);
		int err;

		if (!(n->roles & GVM_ROLE_MEMORY) || n->id == d->node->self)
			continue;
		err = ask(d, &d->ones[i], n->id);
		if (err)
			take(d, err);
		else
			d->asked++;
	}
	if (d->asked == 0)
		finish(d);
}

int gvm_dsm_delete(struct gvm_net *net, const char *name)
{
	struct delete d = { .id = gvm_region_id_of(name) };
	int err = dsm_node_get(net, &d.node);

	if (err)
		return err;
	err = dsm_node_run(d.node, start, &d);
	dsm_node_put(d.node);
	return err;
}
