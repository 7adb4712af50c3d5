/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The directory: entries in chunks that never move, found by an index of chains. An entry has 28
 * bytes; the index has two words for three entries when it has just doubled, one for three before;
 * and there are pointers to the chunks, two for each when their array has just doubled. That is at
 * most 31 bytes for a page, and, whatever the number of pages, the rest of one chunk and what the
 * smallest index has. What there is no entry for has nothing; when there is none at all any more,
 * what there was room for is given back.
 */
#include "ivy/internal.h"

#ifndef IVY_DIR_CHUNK
#define IVY_DIR_CHUNK 64u /* entries */
#endif
#define CHUNK     IVY_DIR_CHUNK
#define SIZE_MIN  64u
#define CHAIN_MAX 3u /* entries for a word of the index, on average */

static struct ivy_entry *entry_at(const struct ivy_dir *dir, uint32_t index)
{
	return &dir->chunks[index / CHUNK][index % CHUNK];
}

static uint32_t *head_of(const struct ivy_dir *dir, uint64_t page)
{
	return &dir->heads[ivy_hash(page) & (dir->size - 1)];
}

struct ivy_entry *ivy_dir_find(const struct ivy *ivy, uint64_t page)
{
	const struct ivy_dir *dir = &ivy->dir;
	uint32_t index = dir->size ? *head_of(dir, page) : NO_ENTRY;

	while (index != NO_ENTRY && entry_page(entry_at(dir, index)) != page)
		index = entry_at(dir, index)->next;
	return index == NO_ENTRY ? NULL : entry_at(dir, index);
}

/* A freed entry has no owner and its page is one that no region has. */
static int in_use(const struct ivy_entry *e)
{
	return e->page_high != 0xFF || e->page_low != 0xFFFFFFFFu;
}

struct ivy_entry *ivy_dir_walk(const struct ivy *ivy, uint32_t *at)
{
	while (*at < ivy->dir.used) {
		struct ivy_entry *e = entry_at(&ivy->dir, (*at)++);

		if (in_use(e))
			return e;
	}
	return NULL;
}

struct ivy_entry *ivy_dir_at(const struct ivy *ivy, uint32_t at)
{
	struct ivy_entry *e = entry_at(&ivy->dir, at);

	return in_use(e) ? e : NULL;
}

/* Twice as large an index; if there is no memory, longer chains do. */
static void grow_index(struct ivy *ivy)
{
	struct ivy_dir *dir = &ivy->dir;
	uint32_t size = dir->size ? 2 * dir->size : SIZE_MIN, i;
	uint32_t *heads = ivy_alloc(ivy, size * sizeof(*heads)), *old = dir->heads;

	if (!heads)
		return;
	if (old)
		ivy_release(ivy, old, dir->size * sizeof(*old));
	dir->bytes += (size - dir->size) * sizeof(*heads);
	for (i = 0; i < size; i++)
		heads[i] = NO_ENTRY;
	dir->heads = heads;
	dir->size = size;
	for (i = 0; i < dir->used; i++) {
		struct ivy_entry *e = entry_at(dir, i);

		if (!in_use(e))
			continue;
		e->next = *head_of(dir, entry_page(e));
		*head_of(dir, entry_page(e)) = i;
	}
}

static int grow_chunks(struct ivy *ivy)
{
	struct ivy_dir *dir = &ivy->dir;
	uint32_t room = dir->chunk_room ? 2 * dir->chunk_room : 8;
	struct ivy_entry **chunks = ivy_alloc(ivy, room * sizeof(*chunks));

	if (!chunks)
		return -ENOMEM;
	if (dir->chunks) {
		memcpy(chunks, dir->chunks, dir->chunk_count * sizeof(*chunks));
		ivy_release(ivy, dir->chunks, dir->chunk_room * sizeof(*chunks));
	}
	dir->bytes += (room - dir->chunk_room) * sizeof(*chunks);
	dir->chunks = chunks;
	dir->chunk_room = room;
	return 0;
}

static int add_chunk(struct ivy *ivy)
{
	struct ivy_dir *dir = &ivy->dir;
	struct ivy_entry *chunk;

	if (dir->chunk_count == dir->chunk_room && grow_chunks(ivy) != 0)
		return -ENOMEM;
	chunk = ivy_alloc(ivy, CHUNK * sizeof(*chunk));
	if (!chunk)
		return -ENOMEM;
	dir->chunks[dir->chunk_count++] = chunk;
	dir->bytes += CHUNK * sizeof(*chunk);
	return 0;
}

/* The index of an entry that is not in use, or NO_ENTRY. */
static uint32_t take_free(struct ivy *ivy)
{
	struct ivy_dir *dir = &ivy->dir;
	uint32_t index = dir->free;

	if (dir->used && index != NO_ENTRY) {
		dir->free = entry_at(dir, index)->next;
		return index;
	}
	if (dir->used == dir->chunk_count * CHUNK && add_chunk(ivy) != 0)
		return NO_ENTRY;
	if (!dir->used)
		dir->free = NO_ENTRY;
	return dir->used++;
}

struct ivy_entry *ivy_dir_get(struct ivy *ivy, uint64_t page)
{
	struct ivy_dir *dir = &ivy->dir;
	struct ivy_entry *e = ivy_dir_find(ivy, page);
	uint32_t index, *head;

	if (e || dir->count >= ivy->config.max_entries)
		return e;
	if (dir->count >= CHAIN_MAX * dir->size)
		grow_index(ivy);
	index = dir->size ? take_free(ivy) : NO_ENTRY;
	if (index == NO_ENTRY)
		return NULL;
	e = entry_at(dir, index);
	memset(e, 0, sizeof(*e));
	e->page_low = (uint32_t)page;
	e->page_high = (uint8_t)(page >> 32);
	e->owner = NOBODY;
	entry_set_version(e, ivy_draw(ivy));
	head = head_of(dir, page);
	e->next = *head;
	*head = index;
	dir->count++;
	if (ivy->rebuild)
		ivy_rebuild_fresh(ivy, e);
	return e;
}

/* No entry is in use. */
static void release_all(struct ivy *ivy)
{
	struct ivy_dir *dir = &ivy->dir;
	uint32_t i;

	for (i = 0; i < dir->chunk_count; i++)
		ivy_release(ivy, dir->chunks[i], CHUNK * sizeof(*dir->chunks[i]));
	if (dir->chunks)
		ivy_release(ivy, dir->chunks, dir->chunk_room * sizeof(*dir->chunks));
	if (dir->heads)
		ivy_release(ivy, dir->heads, dir->size * sizeof(*dir->heads));
	memset(dir, 0, sizeof(*dir));
}

void ivy_dir_del(struct ivy *ivy, struct ivy_entry *e)
{
	struct ivy_dir *dir = &ivy->dir;
	uint32_t *at = head_of(dir, entry_page(e)), index;

	while (entry_at(dir, *at) != e)
		at = &entry_at(dir, *at)->next;
	index = *at;
	*at = e->next;
	ivy_sharers_clear(ivy, e);
	e->page_low = 0xFFFFFFFFu;
	e->page_high = 0xFF;
	e->owner = NOBODY;
	e->next = dir->free;
	dir->free = index;
	dir->count--;
	if (dir->count == 0 &&
	    dir->chunk_count > 1) /* one page that comes and goes keeps its place */
		release_all(ivy);
}

void ivy_dir_fini(struct ivy *ivy)
{
	struct ivy_entry *e;
	uint32_t at = 0;

	while ((e = ivy_dir_walk(ivy, &at)))
		ivy_sharers_clear(ivy, e);
	release_all(ivy);
}
