/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A sparse array from slab index to a pointer: a radix tree of 16-way nodes, as high as the
 * largest index needs. A region of any size costs only what the slabs in it cost. Owned by one
 * region, used under the store's lock.
 */
#ifndef MEMSRV_SLABS_H
#define MEMSRV_SLABS_H

#include <stddef.h>
#include <stdint.h>

struct slab_node;
struct slab_map {
	struct slab_node *root;
	unsigned height; /* levels of nodes; 0 when empty */
};

void *slab_map_get(const struct slab_map *map, uint64_t index);
/* value is not NULL. -ENOMEM, and nothing has changed that a reader could see. */
int slab_map_set(struct slab_map *map, uint64_t index, void *value);
/* Forget an entry; nodes that become empty are freed. */
void slab_map_clear(struct slab_map *map, uint64_t index);
/* The entry with the smallest index that is at least *index; sets *index to it. NULL: no more. */
void *slab_map_next(const struct slab_map *map, uint64_t *index);

#endif
