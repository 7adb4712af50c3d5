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

#define FIRST_SHIFT 12u
#define SHIFT_STEP  2u

_Static_assert(CHUNK_BYTES >> FIRST_SHIFT <= CHUNK_BUFS && GVM_RMA_SEND_CELLS <= CHUNK_BUFS,
	       "as many as there may be");
_Static_assert(1u << (FIRST_SHIFT + SHIFT_STEP * (CHUNK_SIZES - 1)) == CHUNK_BYTES,
	       "the last size");

/* ---- chunks -------------------------------------------------------------------------------- */

static struct rma_chunk *chunk_new(struct gvm_rma_core *core, uint32_t bytes)
{
	struct rma_chunk *chunk = calloc(1, sizeof(*chunk));
	struct gvm_rma *rma = core->rma;
	void *base;

	if (!chunk)
		return NULL;
	base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED)
		goto free_chunk;
	if (rma->fabric->reg(rma, NULL, base, bytes, 0, &chunk->reg))
		goto unmap;
	chunk->core = core;
	chunk->base = base;
	chunk->bytes = bytes;
	chunk->all_next = core->all;
	core->all = chunk;
	return chunk;

unmap:
	munmap(base, bytes);
free_chunk:
	free(chunk);
	return NULL;
}

/* Cut it into buffers. */
static void chunk_cut(struct rma_chunk *chunk, uint32_t size)
{
	chunk->size = size;
	chunk->n = chunk->n_free = chunk->bytes / size;
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

static int is_unused(const struct rma_chunk *chunk)
{
	return chunk->n_free == chunk->n;
}

/* The last one of a size stays as it is cut, until another size wants it. */
static struct rma_chunk *chunk_unused(struct gvm_rma_core *core)
{
	for (unsigned i = 0; i < CHUNK_SIZES; i++) {
		struct rma_chunk *chunk = core->chunk_room[i];

		if (chunk && is_unused(chunk)) {
			list_remove(&core->chunk_room[i], chunk);
			return chunk;
		}
	}
	return NULL;
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
		return chunk_unused(core);
	chunk = chunk_new(core, CHUNK_BYTES);
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
	chunk->shift = shift;
	chunk_cut(chunk, 1u << shift);
	list_add(room, chunk);
	return chunk;
}

static void to_empty(struct rma_chunk **room, struct rma_chunk *chunk)
{
	list_remove(room, chunk);
	list_add(&chunk->core->empty, chunk);
}

/* A bounce buffer goes back: its chunk moves between the lists. One that is not used is in a list
 * of those with room only if it is alone there. */
static void chunk_put(struct rma_chunk *chunk)
{
	struct rma_chunk **room = room_of(chunk->core, chunk->shift);

	if (chunk->n_free == 1) {
		if (*room && is_unused(*room))
			to_empty(room, *room);
		list_add(room, chunk);
	}
	if (is_unused(chunk) && (*room)->next)
		to_empty(room, chunk);
}

int gvm_rma_bufs_open(struct gvm_rma_core *core)
{
	struct rma_chunk *first;

	core->cells = chunk_new(core, GVM_RMA_SEND_CELLS * GVM_RMA_CELL);
	first = core->cells ? chunk_empty(core) : NULL;
	if (!first)
		return -ENOMEM;
	list_add(&core->empty, first);
	chunk_cut(core->cells, GVM_RMA_CELL);
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
		munmap(chunk->base, chunk->bytes);
		free(chunk);
	}
}

void gvm_rma_bufs_dereg(struct gvm_rma_core *core)
{
	for (struct rma_chunk *chunk = core->all; chunk; chunk = chunk->all_next)
		core->fabric->dereg(core->rma, &chunk->reg);
}

int gvm_rma_bufs_reg(struct gvm_rma_core *core)
{
	int err = 0;

	for (struct rma_chunk *chunk = core->all; chunk && !err; chunk = chunk->all_next)
		err = core->fabric->reg(core->rma, NULL, chunk->base, chunk->bytes, 0, &chunk->reg);
	if (err)
		gvm_rma_bufs_dereg(core);
	return err;
}

/* ---- work ---------------------------------------------------------------------------------- */

/* A work with a buffer from a chunk that has one. */
static struct gvm_rma_work *work_from(struct gvm_rma_conn *conn, struct rma_chunk *chunk)
{
	struct gvm_rma_work *work = gvm_rma_work_alloc(conn->core);

	if (!work)
		return NULL;
	work->ep = conn->ep;
	work->op = NULL;
	work->map = work->local = NULL;
	work->chunk = chunk;
	work->slot = chunk->free[--chunk->n_free];
	work->buf = chunk->base + (size_t)work->slot * chunk->size;
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

void gvm_rma_buf_put(struct gvm_rma_work *work)
{
	struct rma_chunk *chunk = work->chunk;

	chunk->free[chunk->n_free++] = work->slot;
	if (chunk != chunk->core->cells)
		chunk_put(chunk);
}

int gvm_rma_work_refused(struct gvm_rma_conn *conn, int err)
{
	gvm_rma_ring_remove(conn->works.next);
	conn->n_works--;
	conn->core->n_works--;
	return err;
}

void gvm_rma_works_orphan(struct gvm_rma_conn *conn, struct rma_ops *ops)
{
	struct gvm_rma_work *work;

	while ((work = conn->works.next) != &conn->works) {
		gvm_rma_ring_remove(work);
		work->ep = NULL;
		work->map = NULL;
		if (work->op)
			gvm_rma_ops_add(ops, work->op);
		work->op = NULL;
		gvm_rma_ring_add(&conn->core->orphans, work);
	}
	conn->n_works = 0;
}

void gvm_rma_orphans_free(struct gvm_rma_core *core)
{
	struct gvm_rma_work *work;

	while ((work = core->orphans.next) != &core->orphans) {
		gvm_rma_work_unlink(core, work);
		gvm_rma_work_free(core, work);
	}
}
