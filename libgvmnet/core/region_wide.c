/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What all nodes of a region must answer: clone, resize, delete. Each node gets the request when
 * it is READY, again if its connection breaks, until the deadline. If one refuses what others have
 * done, it is undone there: clones are deleted, a grown region shrinks back. One such operation
 * at a time. Used by the thread of the region's worker only.
 */
#include "core/region_internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void send_part(struct region_node *node);

static void set_expiry(struct gvm_region *region, uint64_t when)
{
	if (gvm_timer_set(region->worker, &region->wide.expiry, when))
		gvm_log(GVM_LOG_ERROR, "region %s: out of memory for a timer", region->name);
}

static const char *kind_name(enum wide_kind kind)
{
	static const char *const names[] = { "clone", "resize", "delete" };

	return names[kind];
}

/* One node has done its part, or will not. */
static void resolve(struct region_node *node, int status)
{
	struct gvm_region *region = node->region;
	struct region_wide *wide = &region->wide;

	node->wide = status ? WIDE_REFUSED : WIDE_DONE;
	wide->pending--;
	if (!status && wide->kind == WIDE_DELETE && node->state != NODE_LOST)
		region_node_gone(node);
	if (!status)
		return;
	gvm_log(GVM_LOG_ERROR, "region %s: %s%s: %s: %s", region->name,
		wide->undoing ? "undoing a failed " : "", kind_name(wide->kind),
		gvm_peer_name(node->peer),
		status == -ENOSPC ? region_node_full_advice(node) : strerror(-status));
	if (!wide->status)
		wide->status = status;
}

/* ---- the end -------------------------------------------------------------------------------- */

static void commit_resize(struct gvm_region *region)
{
	struct region_wide *wide = &region->wide;
	uint64_t both =
	    region->layout.count < wide->layout.count ? region->layout.count : wide->layout.count;

	memcpy(wide->layout.slabs, region->layout.slabs, both * sizeof *region->layout.slabs);
	region_layout_free(&region->layout);
	region->layout = wide->layout;
	wide->layout = (struct region_layout){ 0 };
	region->pages = wide->pages;
	for (unsigned i = 0; i < region->node_count; i++) {
		region->nodes[i]->share = wide->shares[i];
		region->nodes[i]->created = false;
	}
}

/* What was deleted is as good as lost to who goes on with the rest, but nobody need be told. */
static void deleted_in_part(struct gvm_region *region)
{
	for (unsigned i = 0; i < region->node_count; i++) {
		if (region->nodes[i]->state == NODE_GONE)
			region->nodes[i]->state = NODE_LOST;
	}
}

static bool must_undo(const struct region_wide *wide, const struct gvm_region *region)
{
	return !wide->undoing && wide->status &&
	       (wide->kind == WIDE_CLONE ||
		(wide->kind == WIDE_RESIZE && wide->pages > region->pages));
}

/* Have the nodes that did it undo it. Returns 1 if there are any. */
static int undo(struct gvm_region *region)
{
	struct region_wide *wide = &region->wide;
	unsigned count = region->node_count;

	wide->undoing = true;
	wide->deadline = gvm_worker_now(region->worker) + region->op_timeout_ns;
	for (unsigned i = 0; i < count; i++) {
		struct region_node *node = region->nodes[i];

		if (node->wide == WIDE_DONE) {
			node->wide = WIDE_WAIT;
			wide->pending++;
		} else {
			node->wide = WIDE_NONE;
		}
	}
	if (!wide->pending)
		return 0;
	set_expiry(region, wide->deadline);
	for (unsigned i = 0; i < count; i++)
		send_part(region->nodes[i]);
	return wide->pending > 0;
}

static void settle(struct gvm_region *region)
{
	struct region_wide *wide = &region->wide;
	struct gvm_region_op *op = wide->op;

	if (!op || wide->pending)
		return;
	if (must_undo(wide, region) && undo(region))
		return;
	gvm_timer_clear(region->worker, &wide->expiry);
	wide->op = NULL;
	for (unsigned i = 0; i < region->node_count; i++)
		region->nodes[i]->wide = WIDE_NONE;
	if (wide->kind == WIDE_RESIZE) {
		if (wide->status == 0)
			commit_resize(region);
		else
			region_drop_nodes(region, wide->old_nodes);
		region_layout_free(&wide->layout);
		free(wide->shares);
		wide->shares = NULL;
	} else if (wide->kind == WIDE_CLONE) {
		/* the keys have been withdrawn: both sides copy before they write */
		for (unsigned i = 0; i < region->node_count; i++)
			region_node_relist(region->nodes[i]);
	} else if (wide->status == 0) {
		region->state = REGION_DELETED;
	} else {
		deleted_in_part(region);
	}
	region_finish(op, wide->status);
}

/* ---- one node's part ------------------------------------------------------------------------ */

/*
 * What an answer means. A clone that is asked for again because the answer was lost is the same, by
 * the node's word; a region of that name that is another one (-EEXIST) is never taken for it.
 */
static int meaning(const struct region_node *node, int status)
{
	const struct region_wide *wide = &node->region->wide;
	bool deletes = wide->kind == WIDE_DELETE || (wide->undoing && wide->kind == WIDE_CLONE) ||
		       (wide->undoing && node->created);

	if (status == -ENOENT && deletes)
		return 0;
	return status;
}

/* Trying again, on a new connection, may help. */
static bool again(const struct region_node *node, int status, bool answered)
{
	const struct gvm_region *region = node->region;

	if (gvm_worker_now(region->worker) >= region->wide.deadline)
		return false;
	/* -ENOENT: the region is not open on this connection */
	return answered ? status == -ENOENT && node->state == NODE_READY
			: region_status_transient(status);
}

/* The first answer of a node that a growing region is new to. */
static int take_new(struct region_node *node, const struct gvm_msg *reply)
{
	int rc = region_node_take_opened(node, reply);

	if (rc)
		return rc;
	node->created = true;
	if (node->slabs_used)
		return -EEXIST;
	node->state = NODE_READY;
	return 0;
}

static void part_done(struct gvm_op *op, int status)
{
	struct region_node *node = region_node_called(op);
	struct gvm_region *region = node->region;
	bool answered = op->reply != NULL;

	if (!region->wide.op || node->wide != WIDE_SENT) {
		region_put(region);
		return;
	}
	region_node_note_full(node, status, op->reply);
	if (status == 0 && node->state == NODE_NEW)
		status = take_new(node, op->reply);
	status = meaning(node, status);
	if (status && again(node, status, answered)) {
		node->wide = WIDE_WAIT;
		if (node->state == NODE_NEW)
			region_node_retry_in(node, region_jitter(region, 2));
		else
			region_node_away(node, status);
	} else {
		resolve(node, status);
	}
	settle(region);
	region_put(region);
}

static struct gvm_msg part_msg(const struct region_node *node, uint8_t *body)
{
	const struct gvm_region *region = node->region;
	const struct region_wide *wide = &region->wide;
	struct gvm_msg msg = { .region = region->id, .body = body };
	unsigned index = 0;

	if (wide->kind == WIDE_DELETE) {
		msg.type = GVM_T_REGION_DELETE;
		return msg;
	}
	if (wide->kind == WIDE_CLONE && wide->undoing) {
		msg.type = GVM_T_REGION_DELETE;
		msg.region = wide->clone.id;
		return msg;
	}
	if (wide->kind == WIDE_CLONE) {
		msg.type = GVM_T_REGION_CLONE;
		msg.length = (uint32_t)gvm_region_clone_encode(body, &wide->clone);
		return msg;
	}
	while (region->nodes[index] != node)
		index++;
	if (index >= wide->old_nodes && wide->undoing) {
		msg.type = GVM_T_REGION_DELETE;
		return msg;
	}
	if (index >= wide->old_nodes)
		return region_node_open_msg(
		    node, wide->pages, wide->shares[index],
		    (region->flags & ~(uint32_t)GVM_RO_EXCL) | GVM_RO_CREATE, body);
	msg.type = GVM_T_REGION_RESIZE;
	msg.page = wide->undoing ? region->pages : wide->pages;
	msg.arg = wide->undoing ? node->share : wide->shares[index];
	return msg;
}

static void send_part(struct region_node *node)
{
	struct gvm_region *region = node->region;
	uint8_t body[GVM_REGION_OPEN_LEN];
	struct gvm_msg msg;
	int rc;

	if (node->wide != WIDE_WAIT)
		return;
	if (node->state == NODE_LOST) {
		resolve(node, region->wide.kind == WIDE_DELETE ? 0 : -EIO);
		return;
	}
	/* nobody could tell in the clone that what is missing is no zeros */
	if (node->lacks && region->wide.kind == WIDE_CLONE && !region->wide.undoing) {
		resolve(node, -EIO);
		return;
	}
	region_node_need(node);
	if (node->calling || (node->state != NODE_READY && node->state != NODE_NEW))
		return;
	msg = part_msg(node, body);
	rc = region_node_call(node, &msg, region->wide.deadline, part_done);
	if (rc == 0)
		node->wide = WIDE_SENT;
	else if (rc == -EAGAIN)
		region_node_retry_in(node, REGION_ROOM_NS);
	else if (node->state == NODE_NEW || region_status_final(rc))
		resolve(node, rc);
	else
		region_node_away(node, rc);
}

void region_wide_node_changed(struct region_node *node)
{
	struct gvm_region *region = node->region;

	if (!region->wide.op)
		return;
	send_part(node);
	settle(region);
}

/* The time is up, or all was decided while it was posted. */
static void expiry(struct gvm_timer *timer)
{
	struct region_wide *wide = container(timer, struct region_wide, expiry);
	struct gvm_region *region = container(wide, struct gvm_region, wide);

	region_get(region);
	if (wide->pending && gvm_worker_now(region->worker) >= wide->deadline) {
		/* what has been sent comes back by itself, at the same deadline */
		for (unsigned i = 0; i < region->node_count; i++) {
			struct region_node *node = region->nodes[i];

			if (node->wide == WIDE_WAIT)
				resolve(node, node->why ? node->why : -ETIMEDOUT);
		}
	}
	settle(region);
	region_put(region);
}

/* ---- the public ones ------------------------------------------------------------------------ */

static int may_begin(const struct gvm_region *region)
{
	if (region->state != REGION_OPEN)
		return -EINVAL;
	return region->wide.op ? -EBUSY : 0;
}

static int begin(struct gvm_region *region, struct gvm_region_op *op, enum wide_kind kind)
{
	struct region_wide *wide = &region->wide;

	region_op_init(region, op, 0, 0, 0, NULL);
	wide->op = op;
	wide->kind = kind;
	wide->undoing = false;
	wide->status = 0;
	wide->pending = region->node_count;
	wide->deadline = op->op.deadline_ns;
	wide->expiry.fn = expiry;
	for (unsigned i = 0; i < region->node_count; i++)
		region->nodes[i]->wide = WIDE_WAIT;
	for (unsigned i = 0; i < region->node_count; i++)
		send_part(region->nodes[i]);
	if (wide->pending == 0 || wide->deadline != GVM_NEVER)
		set_expiry(region, wide->pending ? wide->deadline : 0);
	return 0;
}

int gvm_region_clone(struct gvm_region *region, const char *name, uint32_t flags,
		     struct gvm_region_op *op)
{
	struct gvm_region_clone *clone = &region->wide.clone;
	int rc = may_begin(region);

	if (rc)
		return rc;
	if (region->ops)
		return -EBUSY;
	if (!name || strlen(name) > GVM_WIRE_NAME_MAX || (flags & ~GVM_REGION_EPHEMERAL))
		return -EINVAL;
	memset(clone, 0, sizeof *clone);
	memcpy(clone->name, name, strlen(name));
	if (!gvm_wire_name_ok(clone->name))
		return -EINVAL;
	clone->id = gvm_region_id_of(name);
	clone->flags = flags;
	clone->linger_ms = region->linger_ms;
	return begin(region, op, WIDE_CLONE);
}

int gvm_region_resize(struct gvm_region *region, uint64_t bytes, struct gvm_region_op *op)
{
	struct region_wide *wide = &region->wide;
	int rc = may_begin(region);

	if (rc)
		return rc;
	if (region->ops)
		return -EBUSY;
	if (region->flags & GVM_REGION_READONLY)
		return -EPERM;
	if (bytes == 0 || bytes % GVM_PAGE_SIZE || bytes > INT64_MAX)
		return -EINVAL;
	wide->pages = bytes / GVM_PAGE_SIZE;
	wide->old_nodes = region->node_count;
	rc = region_layout_make(region, wide->pages, &wide->layout, &wide->shares);
	if (rc)
		return rc;
	return begin(region, op, WIDE_RESIZE);
}

int gvm_region_delete(struct gvm_region *region, struct gvm_region_op *op)
{
	int rc = may_begin(region);

	if (rc)
		return rc;
	if (region->flags & GVM_REGION_READONLY)
		return -EPERM;
	return begin(region, op, WIDE_DELETE);
}

void region_wide_cancel(struct gvm_region *region)
{
	struct region_wide *wide = &region->wide;
	struct gvm_region_op *op = wide->op;

	gvm_timer_clear(region->worker, &wide->expiry);
	if (!op)
		return;
	wide->op = NULL;
	region_layout_free(&wide->layout);
	free(wide->shares);
	wide->shares = NULL;
	region_finish(op, -ECANCELED);
}
