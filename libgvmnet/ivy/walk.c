/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Many pages of a node, in pieces: what is done with each is a part of ivy_evict() or ivy_unpin().
 * A region may have billions of pages of which few are here, so it is what is here that is walked,
 * by the chains of the table, where the range has more pages than the table has chains.
 *
 * The table grows meanwhile, by doubling, and then the pages of chain c are in c and in the one
 * that has the next bit set, too. So chains are taken in the order of their numbers read backwards,
 * bit by bit: what has been taken is then what would have been taken of the larger table. Chains
 * are taken whole, so nothing has to be known of where in one it was.
 */
#include "ivy/internal.h"

void ivy_walk_begin(const struct ivy *ivy, struct ivy_walk *walk, uint64_t first, uint64_t end)
{
	memset(walk, 0, sizeof(*walk));
	walk->first = first;
	walk->end = end < ivy->config.pages ? end : ivy->config.pages;
	walk->by_chain = first < walk->end && walk->end - first > ivy->pages.size;
	walk->over = first >= walk->end || (walk->by_chain && !ivy->pages.size);
}

/* The page can go by this, its record. 1: it was of use here, and is not any more. */
static uint32_t meet(struct ivy *ivy, struct ivy_page *p, enum ivy_walk_what what)
{
	uint64_t page = p->link.key;

	if (what != IVY_WALK_EVICT)
		ivy_page_unpin(ivy, p, what == IVY_WALK_LEAVE);
	return what != IVY_WALK_UNPIN && ivy_page_access(ivy, page) &&
	       ivy_node_evict(ivy, page) == 0;
}

static uint32_t take_page(struct ivy *ivy, struct ivy_walk *walk, enum ivy_walk_what what)
{
	struct ivy_page *p = ivy_page_find(ivy, walk->first++);

	walk->looked++;
	walk->over = walk->first == walk->end;
	return p ? meet(ivy, p, what) : 0;
}

/* Of a table of so many, a power of two, in the order said above; 0 when all have been. */
static uint32_t chain_after(uint32_t chain, uint32_t size)
{
	uint32_t bit = size >> 1;

	while (chain & bit) {
		chain ^= bit;
		bit >>= 1;
	}
	return chain | bit;
}

static uint32_t take_chain(struct ivy *ivy, struct ivy_walk *walk, enum ivy_walk_what what)
{
	struct ivy_link *link = ivy->pages.heads[walk->chain], *next;
	uint32_t gone = 0;

	walk->looked++;
	for (; link; link = next) {
		next = link->next;
		walk->looked++;
		if (link->key >= walk->first && link->key < walk->end)
			gone += meet(ivy, (struct ivy_page *)link, what);
	}
	walk->chain = chain_after(walk->chain, ivy->pages.size);
	walk->over = walk->chain == 0;
	return gone;
}

uint32_t ivy_walk_on(struct ivy *ivy, struct ivy_walk *walk, enum ivy_walk_what what, uint32_t most)
{
	uint64_t until = walk->looked + most;
	uint32_t gone = 0;

	while (!walk->over && walk->looked < until)
		gone += walk->by_chain ? take_chain(ivy, walk, what) : take_page(ivy, walk, what);
	ivy_drain(ivy);
	return gone;
}
