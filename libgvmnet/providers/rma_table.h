/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A table of nodes by 64-bit key: what a connection knows of keys. Keys are drawn at random by whoever
 * offers the memory. The node is a part of what the owner keeps and frees.
 */
#ifndef GVM_PROVIDERS_RMA_TABLE_H
#define GVM_PROVIDERS_RMA_TABLE_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

struct rma_node {
	struct rma_node *next;
	uint64_t key;
};

struct rma_table {
	struct rma_node **slot; /* NULL: empty */
	uint32_t cap, count;    /* cap is a power of two */
};

static inline struct rma_node **rma_table_slot(const struct rma_table *t, uint64_t key)
{
	return &t->slot[(key * 0x9e3779b97f4a7c15ull >> 32) & (t->cap - 1)];
}

static inline struct rma_node *rma_table_find(const struct rma_table *t, uint64_t key)
{
	struct rma_node *node = t->slot ? *rma_table_slot(t, key) : NULL;

	while (node && node->key != key)
		node = node->next;
	return node;
}

static inline int rma_table_grow(struct rma_table *t)
{
	struct rma_table more = { .cap = t->cap ? 4 * t->cap : 16, .count = t->count };
	struct rma_node *node;

	more.slot = calloc(more.cap, sizeof(struct rma_node *));
	if (!more.slot)
		return -ENOMEM;
	for (uint32_t i = 0; i < t->cap; i++)
		while ((node = t->slot[i])) {
			struct rma_node **to = rma_table_slot(&more, node->key);

			t->slot[i] = node->next;
			node->next = *to;
			*to = node;
		}
	free(t->slot);
	*t = more;
	return 0;
}

/* node->key is set and not in the table. -ENOMEM. */
static inline int rma_table_add(struct rma_table *t, struct rma_node *node)
{
	struct rma_node **slot;

	if (t->count >= t->cap && rma_table_grow(t))
		return -ENOMEM;
	slot = rma_table_slot(t, node->key);
	node->next = *slot;
	*slot = node;
	t->count++;
	return 0;
}

/* It is in the table. */
static inline void rma_table_remove(struct rma_table *t, struct rma_node *node)
{
	struct rma_node **at = rma_table_slot(t, node->key);

	while (*at != node)
		at = &(*at)->next;
	*at = node->next;
	t->count--;
}

/* Take out any one; NULL and the table's own memory is freed: it is empty. */
static inline struct rma_node *rma_table_pop(struct rma_table *t)
{
	while (t->cap) {
		struct rma_node *node = t->slot[t->cap - 1];

		if (node) {
			t->slot[t->cap - 1] = node->next;
			t->count--;
			return node;
		}
		t->cap--; /* no look-ups follow */
	}
	free(t->slot);
	t->slot = NULL;
	return NULL;
}

#endif
