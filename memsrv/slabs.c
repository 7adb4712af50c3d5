/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "slabs.h"

#include <errno.h>
#include <stdlib.h>

#define BITS       4u
#define FAN        (1u << BITS)
#define MAX_HEIGHT 16u /* 64-bit indexes */

struct slab_node {
	void *child[FAN]; /* nodes, or values on the lowest level */
	unsigned used;
};

static unsigned digit(uint64_t index, unsigned level)
{
	return (unsigned)(index >> (BITS * level)) & (FAN - 1);
}

/* Does a tree of this height have a place for index? */
static int reaches(unsigned height, uint64_t index)
{
	return height >= MAX_HEIGHT || (index >> (BITS * height)) == 0;
}

void *slab_map_get(const struct slab_map *map, uint64_t index)
{
	void *at = map->root;

	if (!map->height || !reaches(map->height, index))
		return NULL;
	for (unsigned level = map->height; at && level-- > 0;)
		at = ((struct slab_node *)at)->child[digit(index, level)];
	return at;
}

/* Make the tree high enough for index. An empty root serves at any height. */
static int grow(struct slab_map *map, uint64_t index)
{
	while (!map->height || !reaches(map->height, index)) {
		struct slab_node *node = map->root;

		if (!node || node->used) {
			node = calloc(1, sizeof(*node));
			if (!node)
				return -ENOMEM;
			node->child[0] = map->root;
			node->used = map->root ? 1 : 0;
			map->root = node;
		}
		map->height++;
	}
	return 0;
}

int slab_map_set(struct slab_map *map, uint64_t index, void *value)
{
	struct slab_node *node;

	if (grow(map, index))
		return -ENOMEM;
	node = map->root;
	for (unsigned level = map->height - 1; level > 0; level--) {
		void **next = &node->child[digit(index, level)];

		if (!*next) {
			*next = calloc(1, sizeof(*node));
			if (!*next) {
				slab_map_clear(map, index);
				return -ENOMEM;
			}
			node->used++;
		}
		node = *next;
	}
	if (!node->child[digit(index, 0)])
		node->used++;
	node->child[digit(index, 0)] = value;
	return 0;
}

/* Clear index below node; 1: node is empty now. */
static int clear_below(struct slab_node *node, unsigned level, uint64_t index)
{
	void **slot = &node->child[digit(index, level)];

	if (*slot && (level == 0 || clear_below(*slot, level - 1, index))) {
		if (level > 0)
			free(*slot);
		*slot = NULL;
		node->used--;
	}
	return node->used == 0;
}

void slab_map_clear(struct slab_map *map, uint64_t index)
{
	if (!map->height || !reaches(map->height, index))
		return;
	if (clear_below(map->root, map->height - 1, index)) {
		free(map->root);
		map->root = NULL;
		map->height = 0;
	}
}

static void *next_below(const struct slab_node *node, unsigned level, uint64_t *index)
{
	for (unsigned i = digit(*index, level); i < FAN; i++) {
		uint64_t low = BITS * level >= 64 ? 0 : (UINT64_C(1) << (BITS * level)) - 1;
		void *found;

		if (i != digit(*index, level))
			*index = (*index & ~((low << BITS) | (FAN - 1))) |
				 ((uint64_t)i << (BITS * level));
		if (!node->child[i])
			continue;
		found = level ? next_below(node->child[i], level - 1, index) : node->child[i];
		if (found)
			return found;
	}
	return NULL;
}

void *slab_map_next(const struct slab_map *map, uint64_t *index)
{
	if (!map->height || !reaches(map->height, *index))
		return NULL;
	return next_below(map->root, map->height - 1, index);
}
