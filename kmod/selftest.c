// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A run of the self-test: rounds, each with a cluster of its own. In each one things happen at
 * random for a while; then what is under way comes to its end, and it is looked at what there is.
 */
#include "selftest_internal.h"

#define ROUND_STEPS 3000u
#define NEVER       (~(uint64_t)0)

/* What may go wrong in a round, by its number. */
static int has_breaks(const struct st_world *w)
{
	return w->test->rounds % 2 == 0;
}

static int has_shortage(const struct st_world *w)
{
	return w->test->rounds % 4 >= 2;
}

static int has_deaths(const struct st_world *w)
{
	return w->test->rounds % 4 == 0 || w->test->rounds % 8 == 6;
}

static int has_death_of_home(const struct st_world *w)
{
	return w->test->rounds % 8 == 5;
}

void st_fail(struct st_world *w, const char *format, ...)
{
	va_list args;

	w->failed = 1;
	if (w->test->error[0])
		return;
	va_start(args, format);
	vsnprintf(w->test->error, sizeof(w->test->error), format, args);
	va_end(args);
}

/* splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014) */
uint64_t st_draw(struct st_world *w)
{
	uint64_t z = (w->rng += 0x9e3779b97f4a7c15ull);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* ---- what happens -------------------------------------------------------------------------- */

static void program(struct st_world *w)
{
	struct st_node *n = &w->node[st_below(w, ST_NODES)];
	uint32_t page = st_below(w, st_below(w, 2) ? 4 : ST_PAGES), what = st_below(w, 16);

	if (!n->ivy)
		return;
	if (what < 2)
		st_node_evict(n, page);
	else
		st_node_access(n, page, what < 6 ? IVY_WRITE : IVY_READ);
}

/* Everybody wants to read one page: it has a tree of sharers then. */
static void herd(struct st_world *w)
{
	uint32_t page = st_below(w, ST_PAGES), i;

	for (i = 0; i < ST_NODES; i++)
		if (w->node[i].ivy)
			st_node_access(&w->node[i], page, IVY_READ);
}

static void tick(struct st_world *w)
{
	struct st_node *n = &w->node[st_below(w, ST_NODES)];

	if (n->ivy)
		ivy_tick(n->ivy, w->now);
}

static void come_and_go(struct st_world *w)
{
	struct st_node *n = &w->node[ST_HOMES + st_below(w, ST_NODES - ST_HOMES)];

	if (!n->ivy)
		st_return(n);
	else if (st_below(w, 2))
		st_die(n);
}

static void mishap(struct st_world *w)
{
	uint32_t what = st_below(w, 64);

	if (has_breaks(w) && what < 32)
		st_break(w, (uint16_t)st_below(w, ST_NODES), (uint16_t)st_below(w, ST_NODES));
	if (has_deaths(w) && what < 8)
		come_and_go(w);
	if (has_death_of_home(w) && what == 9 && w->node[0].ivy)
		st_die(&w->node[0]);
}

static void step(struct st_world *w)
{
	uint32_t what = st_below(w, 512);

	w->now += st_below(w, 20);
	if (what < 300)
		st_deliver(w);
	else if (what < 440)
		program(w);
	else if (what < 464)
		st_notice(w);
	else if (what < 496)
		tick(w);
	else if (what < 510)
		mishap(w);
	else
		herd(w);
}

/* ---- coming to rest ------------------------------------------------------------------------ */

static int is_open(const struct st_world *w)
{
	uint32_t i;

	for (i = 0; i < ST_NODES; i++)
		if (w->node[i].ivy && ivy_next_tick(w->node[i].ivy) != NEVER)
			return 1;
	return 0;
}

static int pause(struct st_world *w)
{
	return w->test->host->pause();
}

/* All that can happen by itself; time passes when nothing else can. 0 or -EINTR. */
static int settle(struct st_world *w)
{
	uint32_t events = 0, times, i;

	for (times = 0; times < 1000 && !w->failed; times++) {
		while (!w->failed && (st_deliver(w) || st_notice(w)))
			if (++events % 64 == 0 && pause(w) != 0)
				return -EINTR;
		if (!is_open(w))
			return 0;
		w->now += 1u << 20;
		for (i = 0; i < ST_NODES; i++)
			if (w->node[i].ivy)
				ivy_tick(w->node[i].ivy, w->now);
	}
	st_fail(w, "the cluster does not come to rest");
	return 0;
}

static void check_sharer(struct st_world *w, uint32_t page, const struct ivy_view *view,
			 const struct st_node *n)
{
	const struct ivy *home = w->node[st_home_of(page)].ivy;
	const struct st_copy *c = &n->copy[page];

	if (c->access != ivy_page_access(n->ivy, page) || !c->access != !c->bytes)
		st_fail(w, "node %u has of page %u what its engine does not think", n->id, page);
	if (c->waits)
		st_fail(w, "node %u waits for page %u for ever", n->id, page);
	if (!c->access ||
	    (view->lost && w->page[page].not_stored)) /* lost, but not to its readers */
		return;
	if (c->access == IVY_WRITE ? view->owner != n->id
				   : view->owner != n->id && !ivy_home_has(home, page, n->id))
		st_fail(w, "the home of page %u does not know of node %u", page, n->id);
	if (ivy_page_version(n->ivy, page) != view->version)
		st_fail(w, "node %u has page %u in an old version", n->id, page);
}

static void check_page(struct st_world *w, uint32_t page)
{
	const struct st_node *home = &w->node[st_home_of(page)];
	const struct st_truth *t = &w->page[page];
	struct ivy_view view;
	uint32_t i;

	ivy_home_view(home->ivy, page, &view);
	if (view.busy || view.stale)
		st_fail(w, "page %u is %s at rest", page, view.busy ? "busy" : "stale");
	if (view.lost && !t->may_be_lost)
		st_fail(w, "page %u is lost, and nobody died", page);
	if (view.owner == GVM_WIRE_NODE_NONE && !view.lost && st_sum(home->store[page]) != t->sum)
		st_fail(w, "page %u is old at its home", page);
	if (view.owner != GVM_WIRE_NODE_NONE && !w->node[view.owner].copy[page].access)
		st_fail(w, "node %u is not the owner of page %u, as its home thinks", view.owner,
			page);
	for (i = 0; i < ST_NODES; i++)
		if (w->node[i].ivy)
			check_sharer(w, page, &view, &w->node[i]);
}

static void check_orphan(struct st_world *w, uint32_t page)
{
	uint32_t i;

	for (i = 0; i < ST_NODES; i++)
		if (w->node[i].copy[page].bytes || w->node[i].copy[page].waits)
			st_fail(w, "node %u has page %u, the home of which is dead", i, page);
}

static void check_rest(struct st_world *w)
{
	uint32_t page;

	for (page = 0; page < ST_PAGES; page++) {
		if (w->node[st_home_of(page)].ivy)
			check_page(w, page);
		else
			check_orphan(w, page);
	}
}

/* ---- the end of a round -------------------------------------------------------------------- */

static void read_all(struct st_world *w)
{
	uint32_t page, i;

	for (page = 0; page < ST_PAGES; page++)
		for (i = 0; i < ST_NODES; i++)
			if (w->node[i].ivy && (st_below(w, 4) == 0))
				st_node_access(&w->node[i], page, IVY_READ);
}

/* Nobody is named as a sharer after that who is none: a DROP that was lost leaves one. */
static void write_all(struct st_world *w)
{
	uint32_t page, i;

	for (page = 0; page < ST_PAGES; page++) {
		i = st_below(w, ST_NODES);
		if (!w->node[i].ivy)
			i = ST_HOMES - 1; /* which does not die */
		st_node_access(&w->node[i], page, IVY_WRITE);
	}
}

static void evict_all(struct st_world *w)
{
	uint32_t page, i;

	for (page = 0; page < ST_PAGES; page++)
		for (i = 0; i < ST_NODES; i++)
			if (w->node[i].ivy)
				st_node_evict(&w->node[i], page);
}

/* Nobody has anything any more: a home keeps entries of the pages that are lost, and no others. */
static void check_empty(struct st_world *w)
{
	uint32_t page, i, lost[ST_NODES] = { 0 };

	for (page = 0; page < ST_PAGES; page++) {
		struct st_node *home = &w->node[st_home_of(page)];
		struct ivy_view view;

		if (!home->ivy)
			continue;
		ivy_home_view(home->ivy, page, &view);
		lost[home->id] += view.lost != 0;
	}
	for (i = 0; i < ST_NODES; i++) {
		struct ivy_stats s;

		if (!w->node[i].ivy)
			continue;
		ivy_stats(w->node[i].ivy, &s);
		if (s.pages || s.txns || s.waiters || s.relays || s.entries != lost[i])
			st_fail(w, "node %u keeps %u pages, %u requests, %u entries (%u are lost)",
				i, s.pages, s.txns + s.waiters + s.relays, s.entries, lost[i]);
	}
}

static int finish(struct st_world *w)
{
	void (*const last[])(struct st_world *) = { read_all, write_all, evict_all };
	uint32_t i;

	w->short_of_memory = 0;
	if (settle(w) != 0)
		return -EINTR;
	for (i = 0; i < 3 && !w->failed; i++) {
		check_rest(w);
		last[i](w);
		if (settle(w) != 0)
			return -EINTR;
	}
	if (!w->failed) {
		check_rest(w);
		check_empty(w);
	}
	return 0;
}

/* ---- rounds -------------------------------------------------------------------------------- */

static int begin(struct st_world *w)
{
	uint32_t i;

	for (i = 0; i < ST_PAGES; i++)
		w->page[i].sum = st_sum(NULL);
	for (i = 0; i < ST_NODES; i++) {
		w->node[i].world = w;
		w->node[i].id = (uint16_t)i;
	}
	w->short_of_memory = has_shortage(w);
	for (i = 0; i < ST_NODES; i++)
		if (st_node_start(&w->node[i]) != 0)
			return -ENOMEM;
	return 0;
}

static void end(struct st_world *w)
{
	uint32_t i;

	for (i = 0; i < ST_NODES; i++)
		st_node_end(&w->node[i]);
	st_net_end(w);
	if (w->blocks || w->bytes)
		st_fail(w, "%llu bytes in %llu blocks were not freed", (unsigned long long)w->bytes,
			(unsigned long long)w->blocks);
	if (w->leaked)
		w->test->host->free(NULL, w->leaked, w->leaked_size);
}

static int run(struct st_world *w, uint32_t steps)
{
	int status = begin(w);

	if (status != 0)
		return status;
	st_wire(w);
	for (; steps > 0 && !w->failed; steps--) {
		step(w);
		if (steps % 64 == 0 && pause(w) != 0)
			return -EINTR;
	}
	return w->failed ? 0 : finish(w);
}

static int run_round(struct selftest *test, uint64_t *rng, uint32_t steps)
{
	struct st_world *w = test->host->alloc(NULL, sizeof(*w));
	int status;

	if (!w)
		return -ENOMEM;
	memset(w, 0, sizeof(*w));
	w->test = test;
	w->rng = *rng;
	status = run(w, steps);
	end(w);
	*rng = w->rng;
	if (w->failed)
		status = -EIO;
	test->host->free(NULL, w, sizeof(*w));
	return status;
}

int selftest_run(struct selftest *test)
{
	uint64_t rng = test->seed;
	uint32_t left = test->steps;
	int status = 0;

	while (left > 0 && status == 0) {
		uint32_t steps = left < ROUND_STEPS ? left : ROUND_STEPS;

		test->rounds++;
		left -= steps;
		status = run_round(test, &rng, steps);
	}
	return status;
}

static const char *const bugs[SELFTEST_BUGS] = {
	[SELFTEST_BUG_NONE] = "none",   [SELFTEST_BUG_FLIP] = "flip",
	[SELFTEST_BUG_UNMAP] = "unmap", [SELFTEST_BUG_ORDER] = "order",
	[SELFTEST_BUG_LEAK] = "leak",
};

const char *selftest_bug_name(enum selftest_bug bug)
{
	return bugs[bug];
}

int selftest_bug_by_name(const char *name)
{
	int i;

	for (i = 0; i < SELFTEST_BUGS; i++)
		if (strcmp(name, bugs[i]) == 0)
			return i;
	return -1;
}
