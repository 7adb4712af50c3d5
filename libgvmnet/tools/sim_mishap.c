/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What befalls a simulated cluster: connections that break, partitions, nodes and homes that die
 * and start again. */
#include <stdlib.h>
#include "tools/sim_internal.h"

/* Both sides notice within notice_ns; both have it again after down_ns. */
void sim_break_link(struct sim *s, struct link *l, uint64_t notice_ns, uint64_t down_ns)
{
	uint16_t a = (uint16_t)(l->key >> 16), b = (uint16_t)l->key;

	if (l->back_at > s->now || !s->node[a].ivy || !s->node[b].ivy)
		return;
	s->r->resets++;
	l->back_at = s->now + notice_ns + down_ns + 2;
	sim_event_new(s, s->now + below(s, notice_ns), EV_LOST, a, b);
	sim_event_new(s, s->now + below(s, notice_ns), EV_LOST, b, a);
	sim_event_new(s, l->back_at, EV_BACK, a, b);
}

void sim_lost(struct sim *s, uint16_t a, uint16_t b)
{
	struct link *l = sim_link_of(s, a, b);

	if (!s->node[a].ivy || (!s->node[b].ivy && !s->node[b].life) || l->down[a > b])
		return;
	l->down[a > b] = 1;
	ivy_peer_lost(s->node[a].ivy, b);
}

/* a has b again, which may be a home that has been started anew meanwhile. */
static void meet(struct sim *s, struct link *l, uint16_t a, uint16_t b)
{
	struct sim_node *n = &s->node[a];

	if (l->life[b > a] == s->node[b].life || a < s->c.homes) /* homes hold nothing of others */
		ivy_peer_back(n->ivy, b);
	else
		while (ivy_home_reborn(n->ivy, b) != 0)
			; /* with alloc_fail */
	l->life[b > a] = s->node[b].life;
}

void sim_back(struct sim *s, uint16_t a, uint16_t b)
{
	struct link *l = sim_link_of(s, a, b);

	if (!s->node[a].ivy || !s->node[b].ivy || l->back_at != s->now)
		return; /* one of them is gone, or this is of a break before the present one */
	l->session++;
	l->down[0] = l->down[1] = l->cut[0] = l->cut[1] = 0;
	meet(s, l, a, b);
	meet(s, l, b, a);
}

/* One connection, or all of one node, or all between two halves of the cluster. */
void sim_chaos(struct sim *s)
{
	uint64_t what = below(s, 20), down = below(s, 8) ? below(s, 200000) : below(s, 60000000);
	uint32_t i, middle = (uint32_t)below(s, s->c.nodes);

	sim_event_new(s, s->now + 1 + below(s, 2 * s->c.chaos_ns), EV_CHAOS, 0, 0);
	if (what > 1) {
		struct link *l = &s->links[below(s, s->link_size)];

		if (l->key != ~0u)
			sim_break_link(s, l, NOTICE_NS, down);
		return;
	}
	for (i = 0; i < s->link_size; i++) {
		struct link *l = &s->links[i];
		uint32_t a = l->key >> 16, b = l->key & 0xFFFF;

		if (l->key != ~0u &&
		    (what ? a == middle || b == middle : a < middle && b >= middle))
			sim_break_link(s, l, NOTICE_NS, down);
	}
}

void sim_partition(struct sim *s)
{
	uint64_t down = s->c.partition_ns / 2 + below(s, s->c.partition_ns / 2);
	uint32_t i;

	s->r->partitions++;
	s->middle = (uint32_t)(1 + below(s, s->c.nodes - 1));
	s->partition_over = s->now + down;
	for (i = 0; i < s->link_size; i++)
		if (s->links[i].key != ~0u && sim_parted(s, &s->links[i]))
			sim_break_link(s, &s->links[i], NOTICE_NS, down);
}

static void drop_all(struct sim *s, struct sim_node *n)
{
	uint32_t i;

	for (i = 0; i < s->c.pages; i++) {
		struct copy *c = sim_copy_of(n, i);

		s->page[i].readers -= c->access == IVY_READ;
		s->page[i].writers -= c->access == IVY_WRITE;
		c->access = c->there = 0;
	}
	ivy_free(n->ivy);
	n->ivy = NULL;
	s->open -= n->waits == 1;
	n->waits = n->want.then_write = 0;
}

void sim_crash(struct sim *s, struct sim_node *n)
{
	uint32_t i;
	uint64_t last = 0;

	if (!n->ivy)
		return;
	s->r->deaths++;
	drop_all(s, n);
	for (i = 0; i < s->c.nodes; i++) {
		uint64_t at = s->now + below(s, 3000000);

		if (i == n->id)
			continue;
		last = at > last ? at : last;
		sim_event_new(s, at, EV_DEAD, (uint16_t)i, n->id);
	}
	sim_event_new(s, last + 1, EV_RESTART, n->id, 0);
	s->crash_over = last + 2;
}

void sim_dead(struct sim *s, uint16_t a, uint16_t dead)
{
	if (!s->node[a].ivy)
		return;
	sim_link_of(s, a, dead)->down[a > dead] = 1;
	ivy_peer_dead(s->node[a].ivy, dead);
	if (s->node[a].owes && s->node[a].owes[dead]) {
		s->node[a].owes[dead] = 0;
		s->node[a].owed--;
	}
	sim_home_step(s, &s->node[a], a);
}

void sim_restart(struct sim *s, struct sim_node *n)
{
	uint32_t i;

	sim_node_start(s, n);
	for (i = 0; i < s->c.nodes; i++) {
		struct link *l;

		if (i == n->id)
			continue;
		l = sim_link_of(s, n->id, (uint16_t)i);
		l->session++;
		l->back_at = 0;
		l->down[0] = l->down[1] = l->cut[0] = l->cut[1] = 0;
		l->life[i > n->id] = s->node[i].life;
		if (s->node[i].ivy) {
			ivy_peer_back(s->node[i].ivy, n->id);
		} else if (s->node[i].life) { /* a home that will be back */
			l->down[n->id > i] = 1;
			ivy_peer_lost(n->ivy, (uint16_t)i);
		} else /* it is dead, and this one has to hear of it before it comes back */
			sim_event_new(s, s->now, EV_DEAD, n->id, (uint16_t)i);
	}
	sim_next_access(s, n);
}

/* ---- homes --------------------------------------------------------------------------------- */

void sim_home_crash(struct sim *s, struct sim_node *n)
{
	uint32_t i;

	s->r->returns++;
	n->life++;
	drop_all(s, n);
	free(n->owes);
	n->owes = NULL;
	for (i = n->id; i < s->c.pages; i += s->c.homes)
		s->page[i].store = 0;
	for (i = 0; i < s->c.nodes; i++) {
		struct link *l;

		if (i == n->id)
			continue;
		l = sim_link_of(s, n->id, (uint16_t)i);
		l->session++;
		l->down[n->id > i] = 1;
		l->back_at = ~0ull;
		sim_event_new(s, s->now + below(s, NOTICE_NS), EV_LOST, (uint16_t)i, n->id);
	}
	s->return_over = s->now + NOTICE_NS + below(s, 3000000);
	sim_event_new(s, s->return_over, EV_HOME_RETURN, n->id, 0);
}

/* A node has its connection to this home again some time after it has been started. */
static void expect(struct sim *s, struct sim_node *n, uint16_t node)
{
	struct link *l = sim_link_of(s, n->id, node);
	uint64_t from = s->now;

	ivy_peer_lost(n->ivy, node);
	l->life[node > n->id] = s->node[node].life;
	if (!s->node[node].ivy && !s->node[node].life) {
		ivy_peer_dead(n->ivy, node);
		return;
	}
	if (node >= s->c.homes && l->life[n->id > node] != n->life) {
		n->owes[node] = 1;
		n->owed++;
	}
	if (s->partition_over > s->now && sim_parted(s, l))
		from = s->partition_over;
	l->back_at = from + 1 + below(s, 1000000);
	sim_event_new(s, l->back_at, EV_BACK, n->id, node);
}

void sim_home_return(struct sim *s, struct sim_node *n)
{
	uint32_t i;

	sim_node_start(s, n);
	while (ivy_rebuild_begin(n->ivy, n->low, n->high) != 0)
		; /* with alloc_fail */
	n->owes = calloc(s->c.nodes, 1);
	if (!n->owes)
		abort();
	n->owed = 0;
	for (i = 0; i < s->c.nodes; i++)
		if (i != n->id)
			expect(s, n, (uint16_t)i);
	sim_home_step(s, n, n->id);
}

void sim_home_step(struct sim *s, struct sim_node *n, uint16_t from)
{
	if (!n->owes)
		return;
	if (n->owes[from] && ivy_rebuild_reported(n->ivy, from)) {
		n->owes[from] = 0;
		n->owed--;
	}
	if (n->owed)
		return;
	free(n->owes);
	n->owes = NULL;
	ivy_rebuild_end(n->ivy);
}

/* ---- when ---------------------------------------------------------------------------------- */

/* Has as much of the run passed that it is time for another one, of all that there are to be? */
static int is_due(const struct sim *s, uint32_t had, uint32_t all)
{
	return had < all && s->issued * (all + 1ull) >= (had + 1ull) * s->c.ops;
}

/* Spread over the run; one of a kind is over before the next. */
void sim_befall(struct sim *s)
{
	if (s->now > s->crash_over && is_due(s, s->crashes, s->c.crashes)) {
		s->crashes++;
		s->crash_over = s->now + 1;
		sim_event_new(s, s->now, EV_CRASH,
			      (uint16_t)(s->c.homes + below(s, s->c.nodes - s->c.homes)), 0);
	}
	if (s->now > s->return_over && is_due(s, s->returns, s->c.returns)) {
		s->returns++;
		s->return_over = s->now + 1;
		sim_event_new(s, s->now, EV_HOME_CRASH, (uint16_t)below(s, s->c.homes), 0);
	}
	if (s->now > s->partition_over && is_due(s, s->partitions, s->c.partitions)) {
		s->partitions++;
		sim_event_new(s, s->now, EV_PARTITION, 0, 0);
	}
}
