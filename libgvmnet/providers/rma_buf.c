/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Buffers that the device knows, and the work that uses them.
 *
 * But for an application's own (rma_local.c) all are the worker's: cells to send, and bounce
 * buffers, through which an operation's bytes pass. They are cut from chunks of 1 MiB, each
 * registered once; a chunk has buffers of one size until all of them are free again. At most
 * GVM_RMA_BOUNCE_MAX bytes, however many connections there are.
 *
 * A work that the hardware still has when its connection ends is an orphan: its buffer is kept
 * until the hardware is done with it, and then nobody is told. (One with the application's buffer
 * is none for long: its fabric takes it back.)
 */
#include "providers/rma_core.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

#define CELL_SHIFT  10u
#define FIRST_SHIFT 12u
#define SHIFT_STEP  2u

_Static_assert(1u << CELL_SHIFT == GVM_RMA_CELL, "cells are cut from a chunk");
_Static_assert(CHUNK_BYTES / GVM_RMA_CELL == GVM_RMA_SEND_CELLS, "and fill it");
_Static_assert(1u << (FIRST_SHIFT + SHIFT_STEP * (CHUNK_SIZES - 1)) == CHUNK_BYTES,
	       "the last size");

/* ---- chunks -------------------------------------------------------------------------------- */

static struct rma_chunk *chunk_new(struct gvm_rma_core *core)
{
	struct rma_chunk *chunk = calloc(1, sizeof(*chunk));
	struct gvm_rma *rma = core->rma;
	void *base;

	if (!chunk)
		return NULL;
	base = mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED)
		goto free_chunk;
	if (rma->fabric->reg(rma, NULL, base, CHUNK_BYTES, 0, &chunk->reg))
		goto unmap;
	chunk->core = core;
	chunk->base = base;
	chunk->all_next = core->all;
	core->all = chunk;
	return chunk;

unmap:
	munmap(base, CHUNK_BYTES);
free_chunk:
	free(chunk);
	return NULL;
}

/* Cut it into buffers. */
static void chunk_cut(struct rma_chunk *chunk, unsigned shift)
{
	chunk->shift = shift;
	chunk->n = chunk->n_free = CHUNK_BYTES >> shift;
	for (unsigned i = 0; i < chunk->n; i++)
		chunk->free[i] = (uint16_t)(chunk->n - 1 - i);
}

static void list_add(struct rma_chunk **list, struct rma_chunk *chunk)
{
	chunk->prev = NULL;
	chunk->next = *list;
	if (*list)
		(*list)->prev = chunk;
	*list = chunk;
}

static void list_remove(struct rma_chunk **list, struct rma_chunk *chunk)
{
	if (chunk->prev)
		chunk->prev->next = chunk->next;
	else
		*list = chunk->next;
	if (chunk->next)
		chunk->next->prev = chunk->prev;
}

/* One that has no buffers in use. */
static struct rma_chunk *chunk_empty(struct gvm_rma_core *core)
{
	struct rma_chunk *chunk = core->empty;

	if (chunk) {
		list_remove(&core->empty, chunk);
		return chunk;
	}
	if (core->n_chunks >= GVM_RMA_BOUNCE_MAX / CHUNK_BYTES)
		return NULL;
	chunk = chunk_new(core);
	core->n_chunks += chunk != NULL;
	return chunk;
}

static struct rma_chunk **room_of(struct gvm_rma_core *core, unsigned shift)
{
	return &core->chunk_room[(shift - FIRST_SHIFT) / SHIFT_STEP];
}

/* One with room for a buffer of this size. */
static struct rma_chunk *chunk_get(struct gvm_rma_core *core, unsigned shift)
{
	struct rma_chunk **room = room_of(core, shift), *chunk = *room;

	if (chunk)
		return chunk;
	chunk = chunk_empty(core);
	if (!chunk)
		return NULL;
	chunk_cut(chunk, shift);
	list_add(room, chunk);
	return chunk;
}

/* A bounce buffer goes back: its chunk moves between the lists. */
static void chunk_put(struct rma_chunk *chunk)
{
	struct gvm_rma_core *core = chunk->core;
	struct rma_chunk **room;

	if (chunk == core->cells)
		return;
	room = room_of(core, chunk->shift);
	if (chunk->n_free == 1)
		list_add(room, chunk);
	if (chunk->n_free == chunk->n) {
		list_remove(room, chunk);
		list_add(&core->empty, chunk);
	}
}

int gvm_rma_bufs_open(struct gvm_rma_core *core)
{
	struct rma_chunk *first;

	core->cells = chunk_new(core);
	first = core->cells ? chunk_empty(core) : NULL;
	if (!first)
		return -ENOMEM;
	list_add(&core->empty, first);
	chunk_cut(core->cells, CELL_SHIFT);
	return 0;
}

void gvm_rma_bufs_close(struct gvm_rma_core *core)
{
	struct gvm_rma *rma = core->rma;
	struct gvm_rma_work *work;
	struct rma_chunk *chunk;

	while ((work = core->free_works)) {
		core->free_works = work->next;
		free(work);
	}
	while ((chunk = core->all)) {
		core->all = chunk->all_next;
		rma->fabric->dereg(rma, &chunk->reg);
		munmap(chunk->base, CHUNK_BYTES);
		free(chunk);
	}
}

/* ---- work ---------------------------------------------------------------------------------- */

static struct gvm_rma_work *work_alloc(struct gvm_rma_core *core)
{
	struct gvm_rma_work *work = core->free_works;

	if (!work)
		return calloc(1, core->rma->fabric->work_size);
	core->free_works = work->next;
	memset(work, 0, core->rma->fabric->work_size);
	return work;
}

/* A work with a buffer from a chunk that has one. */
static struct gvm_rma_work *work_from(struct gvm_rma_conn *conn, struct rma_chunk *chunk)
{
	struct gvm_rma_work *work = work_alloc(conn->core);

	if (!work)
		return NULL;
	work->ep = conn->ep;
	work->chunk = chunk;
	work->slot = chunk->free[--chunk->n_free];
	work->buf = chunk->base + ((size_t)work->slot << chunk->shift);
	work->reg = &chunk->reg;
	if (!chunk->n_free && chunk != conn->core->cells)
		list_remove(room_of(conn->core, chunk->shift), chunk);
	return work;
}

struct gvm_rma_work *gvm_rma_work_cell(struct gvm_rma_conn *conn)
{
	struct rma_chunk *cells = conn->core->cells;

	return cells->n_free ? work_from(conn, cells) : NULL;
}

struct gvm_rma_work *gvm_rma_work_new(struct gvm_rma_conn *conn, uint32_t len)
{
	struct gvm_rma_core *core = conn->core;
	struct rma_chunk *chunk = NULL;
	unsigned shift = FIRST_SHIFT;

	assert(len <= CHUNK_BYTES);
	while (len > 1u << shift)
		shift += SHIFT_STEP;
	/* Who was refused has its turn first, or large ones would never get any among small ones.
	 */
	if (!core->hungry || core->hungry == conn)
		chunk = chunk_get(core, shift);
	if (!core->hungry && !chunk)
		core->hungry = conn;
	if (!chunk)
		return NULL;
	core->hungry = NULL;
	return work_from(conn, chunk);
}

struct gvm_rma_work *gvm_rma_work_direct(struct gvm_rma_conn *conn, struct rma_local *local,
					 const struct gvm_op *op)
{
	struct gvm_rma_work *work = work_alloc(conn->core);

	if (!work)
		return NULL;
	work->ep = conn->ep;
	work->local = local;
	work->buf = op->buf;
	work->reg = &local->reg;
	return work;
}

static struct gvm_rma_core *core_of(const struct gvm_rma_work *work)
{
	const struct rma_local *local = work->local;

	return local ? local->core : ((const struct rma_chunk *)work->chunk)->core;
}

void gvm_rma_work_free(struct gvm_rma_work *work)
{
	struct gvm_rma_core *core = core_of(work);
	struct rma_chunk *chunk = work->chunk;

	if (chunk) {
		chunk->free[chunk->n_free++] = work->slot;
		chunk_put(chunk);
	} else {
		gvm_rma_local_put(work->local);
	}
	work->next = core->free_works;
	core->free_works = work;
}

static void link_work(struct gvm_rma_work **list, struct gvm_rma_work *work)
{
	work->prev = NULL;
	work->next = *list;
	if (*list)
		(*list)->prev = work;
	*list = work;
}

int gvm_rma_work_post(struct gvm_rma_conn *conn, struct gvm_rma_work *work)
{
	struct gvm_rma *rma = conn->core->rma;
	int err = -EAGAIN;

	if (conn->n_works < GVM_RMA_WORKS)
		err = rma->fabric->post(conn->ep, work);
	if (err)
		return err;
	link_work(&conn->works, work);
	conn->n_works++;
	conn->core->n_works++;
	return 0;
}

void gvm_rma_work_unlink(struct gvm_rma_work *work)
{
	struct gvm_rma_core *core = core_of(work);
	struct gvm_rma_conn *conn = work->ep ? work->ep->conn : NULL;

	if (work->prev)
		work->prev->next = work->next;
	else if (conn)
		conn->works = work->next;
	else
		core->orphans = work->next;
	if (work->next)
		work->next->prev = work->prev;
	if (conn)
		conn->n_works--;
	core->n_works--;
	core->room = 1;
}

void gvm_rma_works_orphan(struct gvm_rma_conn *conn, struct rma_ops *ops)
{
	struct gvm_rma_work *work;

	while ((work = conn->works)) {
		conn->works = work->next;
		work->ep = NULL;
		work->map = NULL;
		if (work->op)
			gvm_rma_ops_add(ops, work->op);
		work->op = NULL;
		link_work(&conn->core->orphans, work);
	}
	conn->n_works = 0;
}

void gvm_rma_orphans_free(struct gvm_rma_core *core)
{
	struct gvm_rma_work *work;

	while ((work = core->orphans)) {
		gvm_rma_work_unlink(work);
		gvm_rma_work_free(work);
	}
}
