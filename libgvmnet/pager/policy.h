/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which page goes next: segmented FIFO (Turner and Levy, "Segmented FIFO page replacement",
 * SIGMETRICS 1981). Pages that are mapped leave in the order in which they came, into a queue of
 * victims; a fault on a victim brings it back; what reaches the end of the queue unasked is
 * dropped. So pages in use are found out without access bits, at the price of one cheap fault.
 *
 * Pure arithmetic and index-linked lists, so that the test can run the same policy over millions of
 * references. No locks: each shard has its own.
 */
#ifndef GVM_PAGER_POLICY_H
#define GVM_PAGER_POLICY_H

#include <stddef.h>
#include <stdint.h>

#define GVM_NIL UINT32_MAX

/* What each element of a list begins with. */
struct gvm_link {
	uint32_t prev, next;
};

/* head is the newest, tail the next to go */
struct gvm_queue {
	uint32_t head, tail, count;
};

static inline struct gvm_link *gvm_link_at(void *base, size_t size, uint32_t i)
{
	return (struct gvm_link *)((char *)base + size * i);
}

static inline void gvm_queue_init(struct gvm_queue *queue)
{
	queue->head = queue->tail = GVM_NIL;
	queue->count = 0;
}

static inline void gvm_queue_push(struct gvm_queue *queue, void *base, size_t size, uint32_t i)
{
	struct gvm_link *link = gvm_link_at(base, size, i);

	link->prev = GVM_NIL;
	link->next = queue->head;
	if (queue->head != GVM_NIL)
		gvm_link_at(base, size, queue->head)->prev = i;
	else
		queue->tail = i;
	queue->head = i;
	/* other threads read it for statistics */
	__atomic_store_n(&queue->count, queue->count + 1, __ATOMIC_RELAXED);
}

/* As the next to go. */
static inline void gvm_queue_push_last(struct gvm_queue *queue, void *base, size_t size, uint32_t i)
{
	struct gvm_link *link = gvm_link_at(base, size, i);

	link->next = GVM_NIL;
	link->prev = queue->tail;
	if (queue->tail != GVM_NIL)
		gvm_link_at(base, size, queue->tail)->next = i;
	else
		queue->head = i;
	queue->tail = i;
	__atomic_store_n(&queue->count, queue->count + 1, __ATOMIC_RELAXED);
}

static inline void gvm_queue_remove(struct gvm_queue *queue, void *base, size_t size, uint32_t i)
{
	struct gvm_link *link = gvm_link_at(base, size, i);

	if (link->prev != GVM_NIL)
		gvm_link_at(base, size, link->prev)->next = link->next;
	else
		queue->head = link->next;
	if (link->next != GVM_NIL)
		gvm_link_at(base, size, link->next)->prev = link->prev;
	else
		queue->tail = link->prev;
	__atomic_store_n(&queue->count, queue->count - 1, __ATOMIC_RELAXED);
}

/* The share of what is here that waits in the queue of victims: a larger one comes closer to LRU
 * and costs more cheap faults. test_pager_policy.c measures the choice. */
static inline uint32_t gvm_policy_victims(uint64_t used)
{
	uint64_t want = used / 5;

	return want < 16 ? 16 : want > (1u << 28) ? 1u << 28 : (uint32_t)want;
}

/* Below this many free frames eviction begins; it ends at twice as many. */
static inline uint32_t gvm_policy_low(uint64_t budget)
{
	uint64_t low = budget / 64;

	return low < 12 ? 12 : low > 512 ? 512 : (uint32_t)low;
}

static inline uint32_t gvm_policy_high(uint64_t budget)
{
	return gvm_policy_low(budget) * 2;
}

#endif
