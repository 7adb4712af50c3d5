/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who shares a page. Up to four ids live in the entry; more, ascending, in an array that doubles;
 * from 513 on in one bit for each node that there may be. The set is exact, or an error is returned
 * and it is as it was.
 */
#include "ivy/internal.h"

#define IDS_MAX    512u
#define BITS_BYTES ((GVM_WIRE_NODE_MAX + 7u) / 8u)

/* room: ids that there is room for; above IDS_MAX: bits */
struct ivy_sharers {
	uint32_t count, room;
	uint16_t id[];
};

static int on_heap(const struct ivy_entry *e)
{
	return (e->bits & DIR_COUNT) == DIR_HEAP;
}

static struct ivy_sharers *heap_of(const struct ivy_entry *e)
{
	struct ivy_sharers *s;

	memcpy(&s, e->set.heap, sizeof(s));
	return s;
}

static void set_heap(struct ivy_entry *e, struct ivy_sharers *s)
{
	memcpy(e->set.heap, &s, sizeof(s));
	e->bits |= DIR_HEAP;
}

static void set_inline_count(struct ivy_entry *e, uint32_t count)
{
	e->bits = (uint8_t)((e->bits & ~DIR_COUNT) | count);
}

static size_t size_of(uint32_t room)
{
	return sizeof(struct ivy_sharers) + (room > IDS_MAX ? BITS_BYTES : 2 * (size_t)room);
}

static uint8_t *bits_of(const struct ivy_sharers *s)
{
	return (uint8_t *)s->id;
}

static struct ivy_sharers *make(struct ivy *ivy, uint32_t room)
{
	struct ivy_sharers *s = ivy_alloc(ivy, size_of(room));

	if (!s)
		return NULL;
	memset(s, 0, size_of(room));
	s->room = room;
	ivy->dir.bytes += size_of(room);
	return s;
}

static void discard(struct ivy *ivy, struct ivy_sharers *s)
{
	ivy->dir.bytes -= size_of(s->room);
	ivy_release(ivy, s, size_of(s->room));
}

/* Where node is, or would be. */
static uint32_t place_of(const uint16_t *ids, uint32_t count, uint16_t node)
{
	uint32_t low = 0, high = count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (ids[middle] < node)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void insert(uint16_t *ids, uint32_t count, uint16_t node)
{
	uint32_t at = place_of(ids, count, node);

	memmove(ids + at + 1, ids + at, (count - at) * sizeof(*ids));
	ids[at] = node;
}

static void withdraw(uint16_t *ids, uint32_t count, uint16_t node)
{
	uint32_t at = place_of(ids, count, node);

	memmove(ids + at, ids + at + 1, (count - at - 1) * sizeof(*ids));
}

uint32_t ivy_sharers_count(const struct ivy_entry *e)
{
	return on_heap(e) ? heap_of(e)->count : e->bits & DIR_COUNT;
}

int ivy_sharers_has(const struct ivy_entry *e, uint16_t node)
{
	uint32_t count = ivy_sharers_count(e), at;
	const uint16_t *ids = e->set.id;

	if (on_heap(e)) {
		const struct ivy_sharers *s = heap_of(e);

		if (s->room > IDS_MAX)
			return bits_of(s)[node / 8] >> node % 8 & 1;
		ids = s->id;
	}
	at = place_of(ids, count, node);
	return at < count && ids[at] == node;
}

void ivy_sharers_list(const struct ivy_entry *e, uint16_t *ids)
{
	uint32_t node, byte;
	const uint8_t *bits;

	if (!on_heap(e) || heap_of(e)->room <= IDS_MAX) {
		memcpy(ids, on_heap(e) ? heap_of(e)->id : e->set.id,
		       ivy_sharers_count(e) * sizeof(*ids));
		return;
	}
	bits = bits_of(heap_of(e));
	for (byte = 0; byte < BITS_BYTES; byte++)
		for (node = 8 * byte; bits[byte] >> (node - 8 * byte); node++)
			if (bits[byte] >> (node - 8 * byte) & 1)
				*ids++ = (uint16_t)node;
}

uint16_t ivy_sharers_from(const struct ivy_entry *e, uint16_t node)
{
	const uint16_t *ids = on_heap(e) ? heap_of(e)->id : e->set.id;
	uint32_t count = ivy_sharers_count(e), at;

	if (!on_heap(e) || heap_of(e)->room <= IDS_MAX) {
		at = place_of(ids, count, node);
		return at < count ? ids[at] : NOBODY;
	}
	for (at = node; at < 8 * BITS_BYTES; at++) {
		unsigned byte = bits_of(heap_of(e))[at / 8];

		if (byte >> at % 8 & 1)
			return (uint16_t)at;
		if (!(byte >> at % 8))
			at |= 7; /* no more in this byte */
	}
	return NOBODY;
}

/* A set with more room and the same members takes the place of the one there is. */
static int widen(struct ivy *ivy, struct ivy_entry *e)
{
	uint32_t count = ivy_sharers_count(e), i;
	struct ivy_sharers *s = make(ivy, 2 * count);

	if (!s)
		return -ENOMEM;
	s->count = count;
	if (s->room <= IDS_MAX) {
		ivy_sharers_list(e, s->id);
	} else {
		const uint16_t *ids = heap_of(e)->id; /* more than inline, not bits yet */

		for (i = 0; i < count; i++)
			bits_of(s)[ids[i] / 8] |= (uint8_t)(1u << ids[i] % 8);
	}
	if (on_heap(e))
		discard(ivy, heap_of(e));
	set_heap(e, s);
	return 0;
}

static int add_to_heap(struct ivy *ivy, struct ivy_entry *e, uint16_t node)
{
	struct ivy_sharers *s = heap_of(e);

	if (s->count == s->room && s->room <= IDS_MAX) {
		if (widen(ivy, e) != 0)
			return -ENOMEM;
		s = heap_of(e);
	}
	if (s->room > IDS_MAX)
		bits_of(s)[node / 8] |= (uint8_t)(1u << node % 8);
	else
		insert(s->id, s->count, node);
	s->count++;
	return 0;
}

int ivy_sharers_add(struct ivy *ivy, struct ivy_entry *e, uint16_t node)
{
	uint32_t count = ivy_sharers_count(e);

	if (ivy_sharers_has(e, node))
		return 0;
	if (!on_heap(e) && count == DIR_INLINE && widen(ivy, e) != 0)
		return -ENOMEM;
	if (on_heap(e))
		return add_to_heap(ivy, e, node);
	insert(e->set.id, count, node);
	set_inline_count(e, count + 1);
	return 0;
}

/* Few enough for the entry again. */
static void narrow(struct ivy *ivy, struct ivy_entry *e)
{
	struct ivy_sharers *s = heap_of(e);
	uint16_t ids[DIR_INLINE];
	uint32_t count = s->count;

	ivy_sharers_list(e, ids);
	discard(ivy, s);
	memcpy(e->set.id, ids, sizeof(ids));
	set_inline_count(e, count);
}

void ivy_sharers_del(struct ivy *ivy, struct ivy_entry *e, uint16_t node)
{
	uint32_t count = ivy_sharers_count(e);
	struct ivy_sharers *s;

	if (!ivy_sharers_has(e, node))
		return;
	if (!on_heap(e)) {
		withdraw(e->set.id, count, node);
		set_inline_count(e, count - 1);
		return;
	}
	s = heap_of(e);
	if (s->room > IDS_MAX)
		bits_of(s)[node / 8] &= (uint8_t) ~(1u << node % 8);
	else
		withdraw(s->id, count, node);
	if (--s->count == DIR_INLINE)
		narrow(ivy, e);
}

void ivy_sharers_clear(struct ivy *ivy, struct ivy_entry *e)
{
	if (on_heap(e))
		discard(ivy, heap_of(e));
	set_inline_count(e, 0);
}
