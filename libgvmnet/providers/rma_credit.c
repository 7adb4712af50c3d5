/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Credits: how many cells each side of a connection may send. docs/rdma.md says what they are to
 * bring about, docs/wire.md (section 11) what the sides promise each other.
 *
 * For each connection this side *holds* receive buffers, and *lends* them as credits: what is held
 * and not lent comes back to the other side with the next cell. A connection holds GVM_RMA_BASE for
 * certain, and more as it uses them, up to GVM_RMA_CELLS, out of GVM_RMA_LEND that all connections
 * of the worker share. Where those are used up,
 *
 *   - a connection that has been idle is asked to give back what it does not need (RECALL);
 *   - one that holds more than its share is given one less with each cell that it sends.
 *
 * An *empty* cell brings credits and costs none. There is a buffer more for it than credits, and at
 * most one of them is on its way: another one is sent when the other side has spent a credit that
 * came with the last one or behind it, so that it must have taken that.
 */
#include "providers/rma_core.h"

#include <assert.h>

#define IDLE_NS 10000000ull

static uint32_t cost_of(const struct gvm_cell *cell, int has_bytes)
{
	if (has_bytes)
		return 1u + cell->returned;
	if (cell->returned)
		return cell->returned;
	return cell->flags & GVM_CELL_RECALL ? 1 : 0;
}

static int is_after(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) > 0;
}

/* ---- what is held -------------------------------------------------------------------------- */

static void lender_add(struct gvm_rma_conn *conn)
{
	struct gvm_rma_core *core = conn->core;

	conn->lend_prev = NULL;
	conn->lend_next = core->lenders;
	if (conn->lend_next)
		conn->lend_next->lend_prev = conn;
	else
		core->lenders_last = conn;
	core->lenders = conn;
	core->n_lenders++;
}

static void lender_remove(struct gvm_rma_conn *conn)
{
	struct gvm_rma_core *core = conn->core;

	if (conn->lend_prev)
		conn->lend_prev->lend_next = conn->lend_next;
	else
		core->lenders = conn->lend_next;
	if (conn->lend_next)
		conn->lend_next->lend_prev = conn->lend_prev;
	else
		core->lenders_last = conn->lend_prev;
	core->n_lenders--;
}

/* Its place among those that have more than GVM_RMA_BASE stays. */
static void set_held(struct gvm_rma_conn *conn, unsigned held)
{
	struct gvm_rma_core *core = conn->core;
	int had_more = conn->held > GVM_RMA_BASE;

	core->spare += conn->held - held;
	assert(core->spare <= GVM_RMA_LEND && held >= conn->lent && held >= GVM_RMA_BASE);
	conn->held = held;
	if (had_more && held == GVM_RMA_BASE)
		lender_remove(conn);
	else if (!had_more && held > GVM_RMA_BASE)
		lender_add(conn);
}

/* By n, but not below what is lent, nor below what it has for certain. */
static void shrink(struct gvm_rma_conn *conn, unsigned n)
{
	unsigned least = conn->lent > GVM_RMA_BASE ? conn->lent : GVM_RMA_BASE;
	unsigned held = conn->held > n + least ? conn->held - n : least;

	if (held == conn->held)
		return;
	set_held(conn, held);
	conn->core->fabric->receives(conn->ep, held + 1);
}

/* One that nothing has come from for a while gives back what it has not lent, or is asked to. */
static void recall_one(struct gvm_rma_core *core)
{
	struct gvm_rma_conn *conn = core->lenders_last;
	uint64_t now = gvm_rma_now(core);

	for (; conn && now - conn->used_at >= IDLE_NS; conn = conn->lend_prev) {
		if (conn->lent < conn->held) {
			shrink(conn, conn->held);
			return;
		}
		if (conn->recall || conn->recalled || !conn->credits)
			continue;
		conn->recall = 1;
		gvm_rma_flush_later(conn);
		return;
	}
}

static void grow(struct gvm_rma_conn *conn, unsigned n)
{
	struct gvm_rma_core *core = conn->core;

	if (n > GVM_RMA_CELLS - conn->held)
		n = GVM_RMA_CELLS - conn->held;
	if (n > core->spare)
		n = core->spare;
	if (n && !core->fabric->receives(conn->ep, conn->held + n + 1)) {
		set_held(conn, conn->held + n);
		core->refused = 0;
		return;
	}
	core->refused = 1;
	recall_one(core);
}

/* What each of those that have more than GVM_RMA_BASE may have if all are to have the same. */
static unsigned fair_share(const struct gvm_rma_core *core)
{
	return GVM_RMA_BASE + GVM_RMA_LEND / (core->n_lenders + 1);
}

/* The other side has used one, and lent says how many it has left. */
static void used(struct gvm_rma_conn *conn)
{
	struct gvm_rma_core *core = conn->core;

	conn->used_at = gvm_rma_now(core);
	if (conn->held > GVM_RMA_BASE && core->lenders != conn) {
		lender_remove(conn);
		lender_add(conn);
	}
	if (core->refused && conn->held > fair_share(core))
		shrink(conn, 1);
	else if (2 * conn->lent < conn->held && conn->held < GVM_RMA_CELLS)
		grow(conn, conn->lent ? 1 : conn->held);
}

/* ---- life ---------------------------------------------------------------------------------- */

void gvm_rma_credits_init(struct gvm_rma_conn *conn)
{
	conn->credits = conn->lent = conn->held = GVM_RMA_BASE;
	conn->given = conn->heard = GVM_RMA_BASE;
}

void gvm_rma_credits_end(struct gvm_rma_conn *conn)
{
	conn->lent = 0;
	set_held(conn, GVM_RMA_BASE);
}

/* ---- cells that arrive --------------------------------------------------------------------- */

const char *gvm_rma_credits_check(const struct gvm_rma_conn *conn, const struct gvm_cell *cell,
				  int has_bytes)
{
	uint32_t cost = cost_of(cell, has_bytes);

	if (cell->credits > GVM_RMA_CELLS - conn->credits)
		return "more credits than there are";
	if (cost > conn->lent)
		return "a cell without a credit for it";
	if (cost)
		return NULL;
	if (!cell->credits)
		return "an empty cell";
	if (conn->empty_in && !is_after(conn->spent, conn->empty_heard))
		return "an empty cell without need";
	return NULL;
}

void gvm_rma_credits_take(struct gvm_rma_conn *conn, const struct gvm_cell *cell, int has_bytes)
{
	uint32_t cost = cost_of(cell, has_bytes);

	if (!cost) {
		conn->empty_in = 1;
		conn->empty_heard = conn->heard;
	}
	conn->credits += cell->credits;
	conn->heard += cell->credits;
	conn->lent -= cost;
	conn->taken += cost;
	if (is_after(conn->taken, conn->empty_given))
		conn->empty_out = 0;
	if (cost)
		conn->recalled = 0;
	if (cell->returned)
		shrink(conn, cell->returned);
	if (cell->flags & GVM_CELL_RECALL)
		conn->give_up = 1;
	if (has_bytes)
		used(conn);
}

/* ---- cells that are sent ------------------------------------------------------------------- */

/* Credits are kept back from one who asks for more than it takes. */
static unsigned may_grant(const struct gvm_rma_conn *conn)
{
	return gvm_stream_is_paused(&conn->s) ? 0 : conn->held - conn->lent;
}

void gvm_rma_credits_bytes(const struct gvm_rma_conn *conn, struct gvm_cell *cell)
{
	*cell = (struct gvm_cell){ .credits = (uint16_t)may_grant(conn),
				   .flags = conn->recall ? GVM_CELL_RECALL : 0 };
}

int gvm_rma_credits_due(struct gvm_rma_conn *conn, struct gvm_cell *cell)
{
	unsigned grant = may_grant(conn);

	*cell = (struct gvm_cell){ .credits = (uint16_t)grant };
	if (conn->give_up && !gvm_stream_has_tx(&conn->s) && conn->credits > GVM_RMA_BASE) {
		cell->returned = (uint16_t)(conn->credits - GVM_RMA_BASE);
		return 1;
	}
	conn->give_up = 0;
	if (conn->recall && conn->credits) {
		cell->flags = GVM_CELL_RECALL;
		return 1;
	}
	/* it has nothing left, or will soon */
	return grant && !conn->empty_out && (!conn->lent || grant > conn->held / 2);
}

void gvm_rma_credits_sent(struct gvm_rma_conn *conn, const struct gvm_cell *cell, int has_bytes)
{
	uint32_t cost = cost_of(cell, has_bytes);

	conn->credits -= cost;
	conn->spent += cost;
	if (!cost) {
		conn->empty_out = 1;
		conn->empty_given = conn->given;
	}
	conn->lent += cell->credits;
	conn->given += cell->credits;
	if (cell->returned)
		conn->give_up = 0;
	if (!(cell->flags & GVM_CELL_RECALL))
		return;
	conn->recall = 0;
	conn->recalled = 1;
}
