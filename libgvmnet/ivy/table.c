/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Hash table with chains, which grows by doubling. Objects bring their own link, so that an object
 * that exists can be added without memory, once there is a table at all.
 */
#include "ivy/internal.h"

#define SIZE_MIN 8u

uint32_t ivy_hash(uint64_t key)
{
	return (uint32_t)((key * 0x9e3779b97f4a7c15ull) >> 32);
}

static struct ivy_link **head_of(const struct ivy_table *table, uint64_t key)
{
	return &table->heads[ivy_hash(key) & (table->size - 1)];
}

struct ivy_link *ivy_table_find(const struct ivy_table *table, uint64_t key)
{
	struct ivy_link *link = table->size ? *head_of(table, key) : NULL;

	while (link && link->key != key)
		link = link->next;
	return link;
}

struct ivy_link *ivy_table_again(const struct ivy_link *link)
{
	struct ivy_link *next = link->next;

	while (next && next->key != link->key)
		next = next->next;
	return next;
}

static struct ivy_link *first_from(const struct ivy_table *table, uint32_t slot)
{
	while (slot < table->size && !table->heads[slot])
		slot++;
	return slot < table->size ? table->heads[slot] : NULL;
}

struct ivy_link *ivy_table_any(const struct ivy_table *table)
{
	return first_from(table, 0);
}

struct ivy_link *ivy_table_after(const struct ivy_table *table, const struct ivy_link *link)
{
	return link->next ? link->next
			  : first_from(table, (ivy_hash(link->key) & (table->size - 1)) + 1);
}

/* Twice as many chains; if there is no memory, longer ones do. */
static void grow(struct ivy *ivy, struct ivy_table *table)
{
	struct ivy_table bigger = { .size = table->size ? 2 * table->size : SIZE_MIN,
				    .count = table->count };
	struct ivy_link *link, *next;

	bigger.heads = ivy_alloc(ivy, bigger.size * sizeof(*bigger.heads));
	if (!bigger.heads)
		return;
	memset(bigger.heads, 0, bigger.size * sizeof(*bigger.heads));
	for (link = ivy_table_any(table); link; link = next) {
		struct ivy_link **head = head_of(&bigger, link->key);

		next = ivy_table_after(table, link);
		link->next = *head;
		*head = link;
	}
	ivy_table_fini(ivy, table);
	*table = bigger;
}

int ivy_table_add(struct ivy *ivy, struct ivy_table *table, struct ivy_link *link)
{
	struct ivy_link **head;

	if (table->count >= table->size)
		grow(ivy, table);
	if (!table->size)
		return -ENOMEM;
	head = head_of(table, link->key);
	link->next = *head;
	*head = link;
	table->count++;
	return 0;
}

void ivy_table_del(struct ivy_table *table, struct ivy_link *link)
{
	struct ivy_link **at = head_of(table, link->key);

	while (*at != link)
		at = &(*at)->next;
	*at = link->next;
	table->count--;
}

void ivy_table_fini(struct ivy *ivy, struct ivy_table *table)
{
	if (table->heads)
		ivy_release(ivy, table->heads, table->size * sizeof(*table->heads));
	memset(table, 0, sizeof(*table));
}
