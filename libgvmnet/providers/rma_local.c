/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The application's own buffers in the reach of this side's hardware: what operations name by
 * op->mem is registered with the device once, by the first of them, and read to and written from
 * without a copy.
 *
 * An operation must not be told done while the hardware still has its buffer. So only a fabric that
 * takes work back at once (takes_back) is given such buffers: there the end of the connection is a
 * way to get any of them back. A deadline that passes takes it; an operation whose deadline is too
 * near is copied instead, so that a short deadline costs no connection.
 *
 *     none -- first operation --> LIVE -- withdrawn, nothing under way --> none
 *               |                  +----- withdrawn --> GOING -- the last work has ended --> none
 *               +-- cannot be registered --> REFUSED -- withdrawn --> none
 */
#include "providers/rma_core.h"

#include <string.h>

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* ---- its end ------------------------------------------------------------------------------- */

static void note_remove(struct gvm_rma_core *core, struct rma_local *local)
{
	struct rma_local **at;

	pthread_mutex_lock(&core->noted_lock);
	if (local->noted) {
		for (at = &core->noted_locals; *at != local; at = &(*at)->noted_next)
			;
		*at = local->noted_next;
		local->noted = 0;
	}
	pthread_mutex_unlock(&core->noted_lock);
}

/* The hardware reaches it no more. It is in no table. */
static void local_free(struct rma_local *local)
{
	struct gvm_rma_core *core = local->core;

	if (local->state != LOCAL_REFUSED)
		core->rma->fabric->dereg(core->rma, &local->reg);
	core->up.mem_release(&local->user);
	note_remove(core, local);
	free(local);
}

void gvm_rma_local_end(struct rma_local *local)
{
	struct gvm_rma_core *core = local->core;

	if (core->last_local == local)
		core->last_local = &gvm_rma_no_local;
	rma_table_remove(&core->locals, &local->node);
	local_free(local);
}

void gvm_rma_locals_close(struct gvm_rma_core *core)
{
	struct rma_node *node;

	core->last_local = &gvm_rma_no_local;
	while ((node = rma_table_pop(&core->locals)))
		local_free((struct rma_local *)node);
}

/* ---- it is withdrawn ----------------------------------------------------------------------- */

/* On any thread, with core's lock held. */
static void withdrawn(struct gvm_mem_user *user)
{
	struct rma_local *local = container_of(user, struct rma_local, user);
	struct gvm_rma_core *core = local->core;

	pthread_mutex_lock(&core->noted_lock);
	local->noted = 1;
	local->noted_next = core->noted_locals;
	core->noted_locals = local;
	pthread_mutex_unlock(&core->noted_lock);
	atomic_store(&core->any_noted, 1);
	core->up.wake(core->rma->host);
}

static struct rma_local *note_take(struct gvm_rma_core *core)
{
	struct rma_local *local;

	pthread_mutex_lock(&core->noted_lock);
	local = core->noted_locals;
	if (local) {
		core->noted_locals = local->noted_next;
		local->noted = 0;
	}
	pthread_mutex_unlock(&core->noted_lock);
	return local;
}

int gvm_rma_locals_withdraw(struct gvm_rma_core *core)
{
	struct rma_local *local;
	int n = 0;

	while ((local = note_take(core))) {
		n++;
		if (local->under_way)
			local->state = LOCAL_GOING;
		else
			gvm_rma_local_end(local);
	}
	return n;
}

/* ---- its beginning ------------------------------------------------------------------------- */

static struct rma_local *local_new(struct gvm_rma_core *core, struct gvm_mem *mem)
{
	struct rma_local *local = calloc(1, sizeof(*local));

	if (!local)
		return NULL;
	local->core = core;
	local->node.key = (uintptr_t)mem;
	local->user.withdrawn = withdrawn;
	if (core->up.mem_hold_local(mem, &local->user))
		goto free_local;
	if (rma_table_add(&core->locals, &local->node))
		goto release;
	return local;

release:
	core->up.mem_release(&local->user);
	note_remove(core, local);
free_local:
	free(local);
	return NULL;
}

/* That it cannot be registered is remembered: it costs a try, and a line in the log. */
static struct rma_local *local_open(struct gvm_rma_core *core, struct gvm_mem *mem)
{
	struct rma_local *local;
	struct gvm_rma *rma = core->rma;

	if (core->locals.count >= GVM_RMA_LOCALS)
		return NULL;
	local = local_new(core, mem);
	if (!local)
		return NULL;
	local->state = LOCAL_LIVE;
	if ((local->user.access & GVM_ACCESS_SOFT) ||
	    rma->fabric->reg(rma, NULL, local->user.base, local->user.len, 0, &local->reg))
		local->state = LOCAL_REFUSED;
	return local;
}

struct rma_local gvm_rma_no_local = { .state = LOCAL_REFUSED };

/* The memory's own address is its key: it is not used for another as long as we hold it. */
struct rma_local *gvm_rma_local_find(struct gvm_rma_core *core, struct gvm_mem *mem)
{
	struct rma_local *local = core->last_local;

	if (local->node.key == (uintptr_t)mem)
		return local;
	local = (struct rma_local *)rma_table_find(&core->locals, (uintptr_t)mem);
	if (!local)
		local = local_open(core, mem);
	if (!local)
		return &gvm_rma_no_local;
	core->last_local = local;
	return local;
}
