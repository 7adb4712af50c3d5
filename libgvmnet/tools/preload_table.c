/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which addresses are taken over: an array of disjoint segments in order of address. Pure: no
 * system call, no lock. Used under the lock of preload_take.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "preload.h"

size_t table_find(const struct table *table, uintptr_t addr)
{
	size_t low = 0, high = table->count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		const struct seg *seg = &table->seg[mid];
		if (seg->base + seg->bytes <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

struct seg *table_at(const struct table *table, uintptr_t addr)
{
	size_t i = table_find(table, addr);

	return i < table->count && table->seg[i].base <= addr ? &table->seg[i] : NULL;
}

int table_meets(const struct table *table, uintptr_t base, size_t bytes)
{
	size_t i = table_find(table, base);

	return i < table->count && table->seg[i].base < base + bytes;
}

int table_covered(const struct table *table, uintptr_t base, size_t bytes, enum seg_state state)
{
	uintptr_t at = base, end = base + bytes;

	for (size_t i = table_find(table, base); at < end; i++) {
		if (i == table->count || table->seg[i].base > at || table->seg[i].state != state)
			return 0;
		at = table->seg[i].base + table->seg[i].bytes;
	}
	return 1;
}

int table_reserve(struct table *table, size_t n)
{
	if (table->room - table->count >= n)
		return 0;
	size_t room = table->room * 2 > table->count + n ? table->room * 2 : table->count + n + 32;
	struct seg *seg = realloc(table->seg, room * sizeof *seg);
	if (!seg)
		return -ENOMEM;
	table->seg = seg;
	table->room = room;
	return 0;
}

static void insert(struct table *table, size_t i, const struct seg *seg)
{
	memmove(&table->seg[i + 1], &table->seg[i], (table->count - i) * sizeof *seg);
	table->seg[i] = *seg;
	table->count++;
	if (seg->source)
		seg->source->refs++;
}

int table_add(struct table *table, const struct seg *seg)
{
	if (table_reserve(table, 1))
		return -ENOMEM;
	insert(table, table_find(table, seg->base), seg);
	return 0;
}

int table_cut(struct table *table, uintptr_t addr)
{
	if (table_reserve(table, 1))
		return -ENOMEM;
	size_t i = table_find(table, addr);
	if (i == table->count || table->seg[i].base >= addr)
		return 0;
	struct seg tail = table->seg[i];
	size_t head = addr - tail.base;
	tail.base += head;
	tail.bytes -= head;
	insert(table, i + 1, &tail);
	table->seg[i].bytes = head;
	return 0;
}

void table_remove(struct table *table, size_t i)
{
	if (table->seg[i].source)
		table->seg[i].source->refs--;
	table->count--;
	memmove(&table->seg[i], &table->seg[i + 1], (table->count - i) * sizeof *table->seg);
}

static int alike(const struct seg *a, const struct seg *b)
{
	return a->base + a->bytes == b->base && a->source == b->source && a->state == b->state &&
	       a->prot == b->prot && !a->malloced && !b->malloced && a->nofork == b->nofork &&
	       a->wipe == b->wipe;
}

size_t table_join(struct table *table, size_t i)
{
	if (i + 1 < table->count && alike(&table->seg[i], &table->seg[i + 1])) {
		table->seg[i].bytes += table->seg[i + 1].bytes;
		table_remove(table, i + 1);
	}
	if (i > 0 && alike(&table->seg[i - 1], &table->seg[i])) {
		table->seg[i - 1].bytes += table->seg[i].bytes;
		table_remove(table, i);
		i--;
	}
	return i;
}

uintptr_t table_fit(const struct table *table, size_t bytes, size_t align)
{
	for (size_t i = 0; i < table->count; i++) {
		const struct seg *seg = &table->seg[i];
		uintptr_t at = (seg->base + align - 1) & ~(uintptr_t)(align - 1);
		if (seg->state == SEG_FREE && at - seg->base < seg->bytes &&
		    seg->bytes - (at - seg->base) >= bytes)
			return at;
	}
	return 0;
}
