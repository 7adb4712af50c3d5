/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Homes of the small cluster that are started anew: when they know enough, and what of their pages
 * may be lost by it.
 */
#include "ivy_world.h"

int world_is_home(int id)
{
	int page;

	for (page = 0; page < scenario.pages; page++)
		if (scenario.home[page] == id)
			return 1;
	return 0;
}

int world_rebuilds(int id)
{
	return scenario.rebuild && world_is_home(id);
}

/* It is not known yet who has content of its pages, or not all of it is in its store. */
int world_unsettled(int home)
{
	const struct ivy *ivy = W.node[home].ivy;

	return world_rebuilds(home) &&
	       (!ivy || (ivy->rebuild && ivy->rebuild->phase != REBUILD_SETTLED));
}

/* What was given by this request was not taken: the writer still waits. */
static int not_taken(uint64_t page, uint64_t request)
{
	int i;

	for (i = 0; i < scenario.nodes; i++) {
		const struct world_node *n = &W.node[i];
		const struct ivy_page *p = n->ivy ? ivy_page_find(n->ivy, page) : NULL;

		if (p && p->want == IVY_WRITE && p->request == request &&
		    n->link[scenario.home[page]] != LINK_DEAD)
			return 1;
	}
	return 0;
}

/* Somebody who has not been fenced has the content for certain. */
static int is_held(uint64_t page)
{
	int i;

	for (i = 0; i < scenario.nodes; i++) {
		const struct world_node *n = &W.node[i];
		const struct ivy_page *p = n->ivy ? ivy_page_find(n->ivy, page) : NULL;

		if (!p || n->link[scenario.home[page]] == LINK_DEAD)
			continue;
		if (p->state == PAGE_SHARED || p->state == PAGE_OWNED || p->state == PAGE_EXCL ||
		    (p->state == PAGE_GIVEN && not_taken(page, p->side)))
			return 1;
	}
	return 0;
}

int world_is_mute(int node, const struct gvm_hdr *h)
{
	return scenario.mute >> node & 1 && h->type == GVM_COH_REPORT &&
	       h->xid == (scenario.mute_later ? GVM_REPORT_TAKEN : GVM_REPORT_LAST);
}

int world_may_expel(int home, int node)
{
	const struct world_node *h = &W.node[home];

	return scenario.mute >> node & 1 && world_rebuilds(home) && h->ivy && W.node[node].ivy &&
	       h->link[node] == LINK_UP && W.node[node].link[home] != LINK_DEAD &&
	       ivy_rebuild_owes(h->ivy, (uint16_t)node);
}

/* All who may hold something have reported, or are fenced, or dead. */
int world_may_rebuild(int home)
{
	const struct ivy *ivy = W.node[home].ivy;
	int i;

	if (!ivy || !ivy->rebuild || ivy->rebuild->phase != REBUILD_COLLECTS)
		return 0;
	for (i = 0; i < scenario.nodes && !IVY_BUG(NOT_ALL); i++)
		if (i != home && W.node[home].link[i] != LINK_DEAD &&
		    (W.node[home].link[i] == LINK_UP ||
		     (W.node[i].ivy && W.node[i].link[home] != LINK_DEAD)) &&
		    !ivy_rebuild_reported(ivy, (uint16_t)i))
			return 0;
	return 1;
}

void world_rebuild(struct world_node *home)
{
	int page;

	for (page = 0; page < scenario.pages; page++)
		if (scenario.home[page] == home->id && !is_held((uint64_t)page))
			W.may_lose[page] = 1;
	ivy_rebuild_end(home->ivy);
}
