/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The fetches and puts of one connection that wait for their answer, in the order in which they
 * were posted. A fixed ring, allocated at the connection's first operation. Answers arrive in that
 * order as a rule, so the first place is looked at first.
 *
 * A cancelled operation keeps its place, without the gvm_op, until its late answer has come: that
 * is how a late answer is told from one to a question never asked.
 *
 * Owned by an endpoint; used on its worker's thread only.
 */
#ifndef GVM_PROVIDERS_SLOTS_H
#define GVM_PROVIDERS_SLOTS_H

#include <errno.h>

#include "providers/provider.h"

#define GVM_SLOTS 256u /* operations under way on one connection; a power of two */

struct gvm_slot {
	uint64_t xid;
	struct gvm_op *op; /* NULL: cancelled */
	uint32_t len;
	uint8_t kind;
	uint8_t used;
};

struct gvm_slots {
	uint32_t head, tail; /* ever growing; tail - head places from head on are in use or freed */
	struct gvm_slot slot[GVM_SLOTS];
};

static inline int gvm_slots_full(const struct gvm_slots *s)
{
	return s && s->tail - s->head == GVM_SLOTS;
}

/* The caller has seen that there is room. */
static inline void gvm_slots_add(struct gvm_slots *s, struct gvm_op *op, enum gvm_op_kind kind)
{
	uint32_t i = s->tail++ & (GVM_SLOTS - 1);

	s->slot[i] = (struct gvm_slot){ op->xid, op, op->len, (uint8_t)kind, 1 };
	op->slot = (uint16_t)i;
}

static inline struct gvm_slot *gvm_slots_find(struct gvm_slots *s, uint64_t xid)
{
	for (uint32_t i = s ? s->head : 0; s && i != s->tail; i++) {
		struct gvm_slot *slot = &s->slot[i & (GVM_SLOTS - 1)];

		if (slot->used && slot->xid == xid)
			return slot;
	}
	return NULL;
}

static inline void gvm_slots_free(struct gvm_slots *s, struct gvm_slot *slot)
{
	slot->used = 0;
	slot->op = NULL;
	while (s->head != s->tail && !s->slot[s->head & (GVM_SLOTS - 1)].used)
		s->head++;
}

/* The place of an operation that is under way, or NULL. */
static inline struct gvm_slot *gvm_slots_of(struct gvm_slots *s, const struct gvm_op *op)
{
	struct gvm_slot *slot = s ? &s->slot[op->slot & (GVM_SLOTS - 1)] : NULL;

	return slot && slot->used && slot->op == op ? slot : NULL;
}

/* Take the oldest operation out, whatever its state; NULL when there is none left. */
static inline struct gvm_op *gvm_slots_pop(struct gvm_slots *s)
{
	while (s && s->head != s->tail) {
		struct gvm_slot *slot = &s->slot[s->head & (GVM_SLOTS - 1)];
		struct gvm_op *op = slot->used ? slot->op : NULL;

		gvm_slots_free(s, slot);
		if (op)
			return op;
	}
	return NULL;
}

#endif
