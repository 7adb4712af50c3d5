// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The network of the self-test. It does what the engine's transport promises (docs/coherence.md,
 * "What the transport must do") and nothing more: between two nodes messages arrive in order and
 * once per session; when a session ends, any end of what is under way is lost, and each side
 * notices in its own time.
 */
#include "selftest_internal.h"

static struct st_peer *peer_of(struct st_world *w, uint32_t node, uint32_t peer)
{
	return &w->node[node].peer[peer];
}

static void append(struct st_world *w, struct st_packet **queue, struct st_packet *p)
{
	struct st_packet **at = queue;

	while (*at && !(w->test->bug == SELFTEST_BUG_ORDER && st_below(w, 4) == 0))
		at = &(*at)->next;
	p->next = *at;
	*at = p;
}

static void spoil(struct st_world *w, struct st_packet *p)
{
	if (w->test->bug == SELFTEST_BUG_FLIP && p->h.length == ST_PAGE && st_below(w, 16) == 0)
		p->payload[st_below(w, ST_PAGE)] ^= (uint8_t)(1u << st_below(w, 8));
}

static void new_session(struct st_world *w, uint32_t a, uint32_t b)
{
	w->session[a][b]++;
	w->session[b][a]++;
}

/* What cannot be sent ends the session: there must be no gap, so nothing that follows arrives. */
static void cut(struct st_node *n, uint16_t to)
{
	n->peer[to].cut = 1;
	if (n->peer[to].session == n->world->session[n->id][to])
		new_session(n->world, n->id, to);
}

void st_send(struct st_node *n, uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	struct st_world *w = n->world;
	size_t size = sizeof(struct st_packet) + h->length;
	struct st_packet *p;

	if (n->peer[to].link != ST_UP)
		st_fail(w, "node %u sends %s to %u, which is down", n->id, gvm_coh_name(h->type),
			to);
	w->test->messages++;
	if (!w->node[to].ivy || n->peer[to].cut ||
	    n->peer[to].session < peer_of(w, to, n->id)->session)
		return; /* into a session that has ended, or that the other side has left */
	p = st_alloc(w, size);
	if (!p) {
		cut(n, to);
		return;
	}
	p->size = size;
	p->session = n->peer[to].session;
	p->h = *h;
	if (h->length)
		memcpy(p->payload, payload, h->length);
	w->test->pages_sent += h->length == ST_PAGE;
	spoil(w, p);
	append(w, &w->queue[n->id][to], p);
}

/* Forget what is on its way in sessions before this one. */
static void purge(struct st_world *w, uint32_t from, uint32_t to, uint32_t before)
{
	struct st_packet **at = &w->queue[from][to], *p;

	while ((p = *at)) {
		if (p->session >= before) {
			at = &p->next;
			continue;
		}
		*at = p->next;
		st_free(w, p, p->size);
	}
}

static int deliverable(struct st_world *w, uint32_t from, uint32_t to)
{
	const struct st_packet *p = w->queue[from][to];
	const struct st_peer *peer = peer_of(w, to, from);

	return p && w->node[to].ivy && peer->link == ST_UP && p->session == peer->session;
}

static void deliver(struct st_world *w, uint32_t from, uint32_t to)
{
	struct st_packet *p = w->queue[from][to];
	int status;

	w->queue[from][to] = p->next;
	status = ivy_receive(w->node[to].ivy, (uint16_t)from, &p->h, p->payload);
	if (status != 0)
		st_fail(w, "node %u refuses %s of %u: %d", to, gvm_coh_name(p->h.type), from,
			status);
	st_free(w, p, p->size);
}

/* Is the life of b that a knew over? */
static int is_over(struct st_world *w, uint32_t a, uint32_t b)
{
	return !w->node[b].ivy || w->node[b].life != peer_of(w, a, b)->life;
}

static void lose(struct st_world *w, uint32_t a, uint32_t b)
{
	peer_of(w, a, b)->link = ST_LOST;
	purge(w, b, a, w->session[a][b]);
	ivy_peer_lost(w->node[a].ivy, (uint16_t)b);
}

static void mourn(struct st_world *w, uint32_t a, uint32_t b)
{
	struct st_peer *peer = peer_of(w, a, b);

	peer->link = ST_DEAD;
	peer->session = w->session[a][b];
	purge(w, b, a, w->session[a][b]);
	ivy_peer_dead(w->node[a].ivy, (uint16_t)b);
}

static void regain(struct st_world *w, uint32_t a, uint32_t b)
{
	struct st_peer *peer = peer_of(w, a, b);

	peer->link = ST_UP;
	peer->cut = 0;
	peer->session = w->session[a][b];
	peer->life = w->node[b].life;
	purge(w, b, a, w->session[a][b]);
	ivy_peer_back(w->node[a].ivy, (uint16_t)b);
}

/* What a has to notice of b, if anything. */
static int notice(struct st_world *w, uint32_t a, uint32_t b)
{
	const struct st_peer *peer = peer_of(w, a, b);
	int news = peer->session != w->session[a][b];

	if (!w->node[a].ivy)
		return 0;
	if (peer->link != ST_DEAD && news && is_over(w, a, b))
		mourn(w, a, b);
	else if (peer->link == ST_UP && news)
		lose(w, a, b);
	else if (peer->link == ST_LOST && !is_over(w, a, b))
		regain(w, a, b);
	else if (peer->link == ST_DEAD && w->node[b].ivy)
		regain(w, a, b);
	else
		return 0;
	return 1;
}

/* All pairs of nodes, from a random one on, until one has something to do. */
int st_deliver(struct st_world *w)
{
	uint32_t first = st_below(w, ST_NODES * ST_NODES), i;

	for (i = 0; i < ST_NODES * ST_NODES; i++) {
		uint32_t at = (first + i) % (ST_NODES * ST_NODES);

		if (!deliverable(w, at / ST_NODES, at % ST_NODES))
			continue;
		deliver(w, at / ST_NODES, at % ST_NODES);
		return 1;
	}
	return 0;
}

int st_notice(struct st_world *w)
{
	uint32_t first = st_below(w, ST_NODES * ST_NODES), i;

	for (i = 0; i < ST_NODES * ST_NODES; i++) {
		uint32_t at = (first + i) % (ST_NODES * ST_NODES);

		if (at / ST_NODES != at % ST_NODES && notice(w, at / ST_NODES, at % ST_NODES))
			return 1;
	}
	return 0;
}

/* Not while either still has to notice of an earlier time. */
void st_break(struct st_world *w, uint16_t a, uint16_t b)
{
	const struct st_peer *here = peer_of(w, a, b), *there = peer_of(w, b, a);

	if (a == b || here->link != ST_UP || there->link != ST_UP ||
	    here->session != w->session[a][b] || there->session != w->session[a][b])
		return;
	w->test->breaks++;
	new_session(w, a, b);
}

/* The home's view says who owns a page that is read; what is written or on its way is at risk
 * anyhow. */
static int is_at_risk(const struct st_node *n, uint64_t page)
{
	const struct st_node *home = &n->world->node[st_home_of(page)];
	const struct st_copy *c = &n->copy[page];
	struct ivy_view view;

	if ((c->waits & IVY_WRITE) || c->access == IVY_WRITE || (c->bytes && !c->access))
		return 1;
	if (!c->bytes || !home->ivy)
		return 0;
	ivy_home_view(home->ivy, page, &view);
	return view.owner == n->id;
}

void st_die(struct st_node *n)
{
	struct st_world *w = n->world;
	uint32_t i;

	w->test->deaths++;
	for (i = 0; i < ST_PAGES; i++)
		w->page[i].may_be_lost |= is_at_risk(n, i) || st_home_of(i) == n->id;
	st_node_end(n);
	for (i = 0; i < ST_NODES; i++) {
		if (i == n->id)
			continue;
		new_session(w, n->id, i);
		purge(w, i, n->id, w->session[i][n->id]);
	}
}

/* It begins with connections to all who live, and hears of those who do not. */
void st_return(struct st_node *n)
{
	struct st_world *w = n->world;
	uint32_t i;

	if (st_node_start(n) != 0)
		return;
	n->life++;
	for (i = 0; i < ST_NODES; i++) {
		n->peer[i].link = ST_UP;
		n->peer[i].cut = 0;
		n->peer[i].life = w->node[i].life;
		n->peer[i].session = w->session[n->id][i] - (w->node[i].ivy ? 0 : 1);
	}
}

void st_net_end(struct st_world *w)
{
	uint32_t from, to;

	for (from = 0; from < ST_NODES; from++)
		for (to = 0; to < ST_NODES; to++)
			purge(w, from, to, ~0u);
}
