/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that the coherence engine is right in every order of events that small clusters have: 2 to
 * 4 nodes, 1 or 2 pages, bounded faults of programs, connections and nodes. All states are gone
 * through, depth first, each once; in each, one writer or many readers, and what can be read is
 * what was written last. From one in FAIR of them (all, with GVM_IVY_ALL) it is tried that with
 * messages delivered and nothing further going wrong all faults end, and the directory agrees with
 * what nodes have. And it shows that it would find a fault: each of those that are built in for
 * this is found.
 *
 * With an argument only that scenario; GVM_IVY_WIDE=N: one more of each thing that may go wrong,
 * and up to N states (ci/soak.d).
 */
#include "ivy_world.h"
#include <stdint.h>
#include <cmocka.h>
#include <sys/mman.h>
#include <time.h>

#define DEPTH_MAX  512
#define FAIR       8u
#define FAIR_STEPS 2000

static const struct scenario scenarios[] = {
	{ .name = "two nodes and a home",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 1, 1 },
	  .evicts = 1,
	  .stores = 1 },
	{ .name = "the home's programs too",
	  .nodes = 2,
	  .pages = 1,
	  .reads = { 1, 1 },
	  .writes = { 1, 2 },
	  .evicts = 2,
	  .stores = 1,
	  .early_ticks = 1 },
	{ .name = "a broken connection",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 1, 0 },
	  .writes = { 0, 1, 1 },
	  .evicts = 1,
	  .resets = 1,
	  .limit = 300000 },
	{ .name = "time-outs too soon",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 1, 0 },
	  .writes = { 0, 1, 1 },
	  .evicts = 1,
	  .early_ticks = 2,
	  .limit = 300000 },
	{ .name = "messages that come twice",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 1, 1 },
	  .evicts = 1,
	  .twice = 1,
	  .limit = 300000 },
	{ .name = "messages that come twice, in a tree",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 7,
	  .writes = { 0, 0, 1, 1 },
	  .reads = { 0, 1, 0, 0 },
	  .twice = 2,
	  .limit = 300000 },
	{ .name = "messages that come twice, and deltas",
	  .nodes = 3,
	  .pages = 1,
	  .shared = 6,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 2, 1 },
	  .evicts = 1,
	  .twice = 1,
	  .old = 2,
	  .limit = 300000 },
	{ .name = "messages that come twice, and the home comes back",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 1, 0 },
	  .writes = { 0, 1, 1 },
	  .evicts = 1,
	  .crashes = 1,
	  .restarts = 1,
	  .crash_mask = 1,
	  .rebuild = 1,
	  .twice = 1,
	  .limit = 1000000 },
	{ .name = "a node dies",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 1, 1 },
	  .evicts = 1,
	  .crashes = 1,
	  .crash_mask = 6,
	  .limit = 300000 },
	{ .name = "a death, and a time-out too soon",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 0, 1 },
	  .writes = { 0, 1, 1 },
	  .evicts = 1,
	  .crashes = 1,
	  .crash_mask = 2,
	  .early_ticks = 1,
	  .limit = 200000 },
	{ .name = "a node dies and comes back",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 1, 0 },
	  .writes = { 0, 1, 1 },
	  .crashes = 1,
	  .restarts = 1,
	  .crash_mask = 2,
	  .limit = 200000 },
	{ .name = "the home dies",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 1, 1 },
	  .evicts = 1,
	  .crashes = 1,
	  .crash_mask = 1,
	  .limit = 200000 },
	{ .name = "a node is buried alive",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 1, 1 },
	  .burials = 1,
	  .limit = 200000 },
	{ .name = "four nodes",
	  .nodes = 4,
	  .pages = 1,
	  .reads = { 0, 1, 1, 0 },
	  .writes = { 0, 0, 1, 1 },
	  .evicts = 1,
	  .limit = 200000 },
	{ .name = "a broken connection and a death",
	  .nodes = 4,
	  .pages = 1,
	  .reads = { 0, 1, 1, 0 },
	  .writes = { 0, 1, 0, 1 },
	  .resets = 1,
	  .crashes = 1,
	  .crash_mask = 14,
	  .limit = 400000 },
	{ .name = "a tree",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 7,
	  .writes = { 0, 0, 1, 1 },
	  .reads = { 0, 1, 0, 0 },
	  .evicts = 1 },
	{ .name = "a tree, and the home writes",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 14,
	  .writes = { 1, 0, 0, 1 },
	  .resets = 1,
	  .early_ticks = 1,
	  .limit = 200000 },
	{ .name = "a tree, and broken connections",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 7,
	  .writes = { 0, 0, 0, 1 },
	  .reads = { 0, 0, 1, 0 },
	  .resets = 2,
	  .limit = 200000 },
	{ .name = "a tree, a broken connection and a death",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 7,
	  .writes = { 0, 0, 0, 1 },
	  .reads = { 0, 1, 1, 0 },
	  .resets = 1,
	  .crashes = 1,
	  .crash_mask = 14,
	  .limit = 300000 },
	{ .name = "a tree, and a node buried alive",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 7,
	  .writes = { 0, 0, 0, 1 },
	  .reads = { 0, 1, 1, 0 },
	  .burials = 1,
	  .early_ticks = 1,
	  .limit = 200000 },
	{ .name = "deltas",
	  .nodes = 3,
	  .pages = 1,
	  .shared = 6,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 2, 1 },
	  .evicts = 1,
	  .stores = 1,
	  .old = 3,
	  .limit = 300000 },
	{ .name = "deltas whose base goes, and time-outs too soon",
	  .nodes = 3,
	  .pages = 2,
	  .shared = 6,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 2, 1 },
	  .early_ticks = 1,
	  .old = 1,
	  .limit = 400000 },
	{ .name = "deltas and broken connections",
	  .nodes = 3,
	  .pages = 1,
	  .shared = 6,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 1, 1 },
	  .evicts = 1,
	  .resets = 1,
	  .old = 2,
	  .limit = 300000 },
	{ .name = "deltas and a death",
	  .nodes = 3,
	  .pages = 1,
	  .shared = 6,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 2, 1 },
	  .crashes = 1,
	  .crash_mask = 6,
	  .old = 2,
	  .limit = 200000 },
	{ .name = "pins",
	  .nodes = 3,
	  .pages = 1,
	  .shared = 6,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 1, 1 },
	  .evicts = 1,
	  .pins = 2,
	  .limit = 300000 },
	{ .name = "pins in a tree",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 14,
	  .writes = { 1, 0, 0, 1 },
	  .pins = 2,
	  .limit = 300000 },
	{ .name = "pins, and time-outs too soon",
	  .nodes = 3,
	  .pages = 1,
	  .shared = 6,
	  .reads = { 0, 1, 0 },
	  .writes = { 0, 1, 1 },
	  .early_ticks = 1,
	  .pins = 1,
	  .limit = 300000 },
	{ .name = "pins, a broken connection and a death",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 6,
	  .writes = { 0, 0, 1, 1 },
	  .resets = 1,
	  .crashes = 1,
	  .crash_mask = 14,
	  .pins = 1,
	  .limit = 400000 },
	{ .name = "pins, and a node buried alive",
	  .nodes = 3,
	  .pages = 1,
	  .shared = 2,
	  .reads = { 0, 0, 1 },
	  .writes = { 0, 1, 1 },
	  .burials = 1,
	  .pins = 1,
	  .limit = 200000 },
	{ .name = "two pages, and a directory for one",
	  .nodes = 3,
	  .pages = 2,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 1, 1 },
	  .entries = 1,
	  .limit = 400000 },
	{ .name = "a directory for one page, evictions and a time-out too soon",
	  .nodes = 3,
	  .pages = 2,
	  .reads = { 0, 1, 0 },
	  .writes = { 0, 0, 1 },
	  .evicts = 1,
	  .early_ticks = 1,
	  .entries = 1,
	  .limit = 300000 },
	/* of a reader: what is lost keeps its entry, and there would be none for the other page */
	{ .name = "a directory for one page, a broken connection and a death",
	  .nodes = 4,
	  .pages = 2,
	  .shared = 6,
	  .reads = { 0, 1, 1, 0 },
	  .writes = { 0, 0, 0, 1 },
	  .resets = 1,
	  .crashes = 1,
	  .crash_mask = 6,
	  .entries = 1,
	  .limit = 400000 },
	{ .name = "two pages, two homes",
	  .nodes = 2,
	  .pages = 2,
	  .home = { 0, 1 },
	  .reads = { 1, 1 },
	  .writes = { 1, 1 },
	  .evicts = 1,
	  .resets = 1,
	  .limit = 200000 },
	{ .name = "the home comes back",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 1, 1 },
	  .evicts = 1,
	  .crashes = 1,
	  .restarts = 1,
	  .crash_mask = 1,
	  .rebuild = 1,
	  .limit = 400000 },
	{ .name = "the home comes back, a broken connection, and a store",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 0, 1 },
	  .writes = { 0, 1, 1 },
	  .stores = 1,
	  .resets = 1,
	  .crashes = 1,
	  .restarts = 1,
	  .crash_mask = 1,
	  .rebuild = 1,
	  .limit = 400000 },
	{ .name = "the home comes back, and a node dies",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 1, 1 },
	  .crashes = 2,
	  .restarts = 1,
	  .crash_mask = 3,
	  .rebuild = 1,
	  .limit = 300000 },
	{ .name = "the home comes back twice",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 0, 1 },
	  .writes = { 0, 1, 1 },
	  .evicts = 1,
	  .crashes = 2,
	  .restarts = 2,
	  .crash_mask = 1,
	  .rebuild = 1,
	  .limit = 1000000 },
	{ .name = "the home comes back, and a node is fenced",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 1, 1 },
	  .burials = 1,
	  .crashes = 1,
	  .restarts = 1,
	  .crash_mask = 1,
	  .rebuild = 1,
	  .limit = 300000 },
	{ .name = "the home comes back, and a node does not report",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 1, 1 },
	  .crashes = 1,
	  .restarts = 1,
	  .crash_mask = 1,
	  .rebuild = 1,
	  .mute = 4,
	  .limit = 200000 },
	{ .name = "the home comes back, and a node does not note that all have reported",
	  .nodes = 3,
	  .pages = 1,
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 1, 1 },
	  .crashes = 1,
	  .restarts = 1,
	  .crash_mask = 1,
	  .rebuild = 1,
	  .mute = 4,
	  .mute_later = 1,
	  .limit = 200000 },
	{ .name = "the home of a tree comes back",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 14,
	  .writes = { 0, 0, 1, 1 },
	  .reads = { 0, 1, 0, 0 },
	  .evicts = 1,
	  .crashes = 1,
	  .restarts = 1,
	  .crash_mask = 1,
	  .rebuild = 1,
	  .limit = 400000 },
	{ .name = "the home comes back, time-outs too soon",
	  .nodes = 4,
	  .pages = 1,
	  .reads = { 0, 0, 1, 0 },
	  .writes = { 0, 1, 1, 1 },
	  .early_ticks = 1,
	  .crashes = 1,
	  .restarts = 1,
	  .crash_mask = 1,
	  .rebuild = 1,
	  .limit = 400000 },
	{ .name = "deltas, and the home comes back",
	  .nodes = 3,
	  .pages = 1,
	  .shared = 6,
	  .reads = { 0, 0, 1 },
	  .writes = { 0, 2, 1 },
	  .evicts = 1,
	  .crashes = 1,
	  .restarts = 1,
	  .crash_mask = 1,
	  .rebuild = 1,
	  .old = 2,
	  .limit = 1000000 },
	{ .name = "pins, and the home comes back",
	  .nodes = 3,
	  .pages = 1,
	  .shared = 6,
	  .reads = { 0, 0, 1 },
	  .writes = { 0, 1, 1 },
	  .evicts = 1,
	  .crashes = 1,
	  .restarts = 1,
	  .crash_mask = 1,
	  .rebuild = 1,
	  .pins = 2,
	  .old = 1,
	  .limit = 400000 },
	{ .name = "few sharers",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 6,
	  .reads = { 0, 1, 0, 0 },
	  .writes = { 0, 0, 1, 1 },
	  .evicts = 1,
	  .limit = 300000 },
	{ .name = "few sharers, the home is one",
	  .nodes = 3,
	  .pages = 1,
	  .shared = 3,
	  .reads = { 1, 1, 0 },
	  .writes = { 0, 1, 2 },
	  .evicts = 1,
	  .stores = 1,
	  .limit = 300000 },
	{ .name = "few sharers, and an owner",
	  .nodes = 4,
	  .pages = 1,
	  .reads = { 0, 0, 1, 0 },
	  .writes = { 0, 1, 0, 2 },
	  .limit = 300000 },
	{ .name = "few sharers, broken connections",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 6,
	  .writes = { 0, 0, 1, 1 },
	  .resets = 2,
	  .limit = 300000 },
	{ .name = "few sharers, a broken connection and a time-out too soon",
	  .nodes = 3,
	  .pages = 1,
	  .shared = 2,
	  .reads = { 0, 1, 0 },
	  .writes = { 0, 1, 1 },
	  .evicts = 1,
	  .resets = 1,
	  .early_ticks = 1,
	  .limit = 300000 },
	{ .name = "few sharers, a broken connection and a death",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 6,
	  .reads = { 0, 1, 0, 0 },
	  .writes = { 0, 0, 0, 1 },
	  .stores = 1,
	  .resets = 1,
	  .crashes = 1,
	  .crash_mask = 14,
	  .limit = 1000000 },
	{ .name = "few sharers, and an owner that dies",
	  .nodes = 4,
	  .pages = 1,
	  .reads = { 0, 0, 2, 0 },
	  .writes = { 0, 1, 0, 1 },
	  .crashes = 1,
	  .crash_mask = 2,
	  .limit = 300000 },
	{ .name = "few sharers, a broken connection, and two that die",
	  .nodes = 4,
	  .pages = 1,
	  .reads = { 0, 0, 1, 0 },
	  .writes = { 0, 1, 0, 1 },
	  .resets = 1,
	  .crashes = 2,
	  .crash_mask = 14,
	  .limit = 400000 },
	{ .name = "few sharers, and a node buried alive",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 6,
	  .reads = { 0, 1, 0, 0 },
	  .writes = { 0, 0, 1, 1 },
	  .burials = 1,
	  .limit = 300000 },
	{ .name = "few sharers, and messages that come twice",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 6,
	  .reads = { 0, 1, 0, 0 },
	  .writes = { 0, 0, 0, 2 },
	  .twice = 2,
	  .limit = 300000 },
	{ .name = "few sharers, and pins",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 6,
	  .writes = { 0, 0, 1, 1 },
	  .evicts = 1,
	  .early_ticks = 1,
	  .pins = 2,
	  .limit = 300000 },
	{ .name = "few sharers, and the home comes back",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 6,
	  .reads = { 0, 1, 0, 0 },
	  .writes = { 0, 0, 1, 1 },
	  .evicts = 1,
	  .crashes = 1,
	  .restarts = 1,
	  .crash_mask = 1,
	  .rebuild = 1,
	  .limit = 400000 },
	{ .name = "few sharers, an owner, deltas, and the home comes back",
	  .nodes = 4,
	  .pages = 1,
	  .reads = { 0, 0, 1, 0 },
	  .writes = { 0, 1, 0, 1 },
	  .stores = 1,
	  .resets = 1,
	  .crashes = 1,
	  .restarts = 1,
	  .crash_mask = 1,
	  .rebuild = 1,
	  .old = 2,
	  .limit = 400000 },
	{ .name = "few sharers, the home comes back, and a node dies",
	  .nodes = 4,
	  .pages = 1,
	  .shared = 6,
	  .writes = { 0, 0, 0, 1 },
	  .reads = { 0, 1, 0, 0 },
	  .crashes = 2,
	  .restarts = 1,
	  .crash_mask = 11,
	  .rebuild = 1,
	  .limit = 1000000 },
	{ .name = "two pages, two homes, one comes back",
	  .nodes = 3,
	  .pages = 2,
	  .home = { 0, 1 },
	  .reads = { 0, 1, 1 },
	  .writes = { 0, 1, 1 },
	  .crashes = 1,
	  .restarts = 1,
	  .crash_mask = 1,
	  .rebuild = 1,
	  .limit = 1000000 },
};
#define SCENARIOS (sizeof(scenarios) / sizeof(scenarios[0]))

/* ---- visited states ------------------------------------------------------------------------ */

#define HUGE_PAGE (2u << 20)

static uint64_t *seen;
static size_t seen_size, seen_count;

/* Each look is at another place: with small pages its translation would be missed, too. */
static uint64_t *seen_alloc(size_t size)
{
	uint64_t *table = aligned_alloc(HUGE_PAGE, size * sizeof(*table));

	if (!table)
		abort();
	madvise(table, size * sizeof(*table), MADV_HUGEPAGE);
	memset(table, 0, size * sizeof(*table));
	return table;
}

static void seen_begin(void)
{
	free(seen);
	seen_size = HUGE_PAGE / sizeof(*seen);
	seen_count = 0;
	seen = seen_alloc(seen_size);
}

static int seen_put(uint64_t hash)
{
	size_t at = hash & (seen_size - 1);

	while (seen[at] && seen[at] != hash)
		at = (at + 1) & (seen_size - 1);
	if (seen[at])
		return 0;
	seen[at] = hash;
	seen_count++;
	return 1;
}

static void seen_grow(void)
{
	uint64_t *old = seen;
	size_t size = seen_size, i;

	if (seen_count * 2 < seen_size)
		return;
	seen_size *= 2;
	seen_count = 0;
	seen = seen_alloc(seen_size);
	for (i = 0; i < size; i++)
		if (old[i])
			seen_put(old[i]);
	free(old);
}

/* ---- search -------------------------------------------------------------------------------- */

struct level {
	uint8_t *state;
	size_t size, room;
	struct action actions[ACTIONS_MAX];
	int count, next;
};
static struct level stack[DEPTH_MAX];
static struct {
	uint64_t states, steps, fair, early;
	int depth, cut;
} found;

static void keep(struct level *l)
{
	l->size = world_size();
	if (l->room < l->size) {
		free(l->state);
		l->room = l->size + 4096;
		l->state = malloc(l->room);
	}
	memcpy(l->state, &W, l->size);
}

static void restore(const struct level *l)
{
	memcpy(&W, l->state, l->size);
}

static void try_fair(const struct level *l, int loud)
{
	struct action a;
	int steps = 0;

	found.fair++;
	while (!violation[0] && world_fair_step(&a)) {
		if (loud)
			world_print(&a, "(all goes well)");
		world_do(&a);
		if (++steps > FAIR_STEPS)
			world_violated("it does not come to rest");
	}
	if (!violation[0])
		world_check_rest();
	restore(l);
}

static void show_path(int depth)
{
	int i;

	fprintf(stderr, "%s: %s\n", scenario.name, violation);
	for (i = 0; i <= depth; i++)
		if (stack[i].next > 0)
			world_print(&stack[i].actions[stack[i].next - 1], "");
}

/* The state that W is in is new: what can be done in it. */
static void enter(int depth, uint64_t hash, unsigned fair)
{
	struct level *l = &stack[depth];

	found.states++;
	if (depth > found.depth)
		found.depth = depth;
	keep(l);
	l->count = world_actions(l->actions);
	l->next = 0;
	if (hash % fair == 0 || l->count == 0)
		try_fair(l, 0);
	if (violation[0] && !ivy_test_bug) {
		show_path(depth);
		violation[0] = 0;
		try_fair(l, 1);
	}
}

/* Writes so far that went on by what the sharers said. */
static uint64_t early_so_far(void)
{
	uint64_t sum = 0;
	int i;

	for (i = 0; i < scenario.nodes; i++)
		sum += W.node[i].ivy ? W.node[i].ivy->stats.early : 0;
	return sum;
}

static void step(const struct action *a)
{
	uint64_t before = early_so_far();

	world_do(a);
	found.steps++;
	found.early += early_so_far() > before;
}

/* 0: all states are as they must be; else violation says what is not. */
static int explore(const struct scenario *s, unsigned limit, unsigned fair)
{
	int depth = 0;
	uint64_t hash;

	memset(&found, 0, sizeof(found));
	seen_begin();
	world_begin(s);
	hash = world_hash();
	seen_put(hash);
	enter(0, hash, fair);
	while (depth >= 0 && !violation[0]) {
		struct level *l = &stack[depth];

		if (l->next == l->count || (limit && found.states >= limit)) {
			found.cut |= l->next != l->count;
			depth--;
			continue;
		}
		restore(l);
		step(&l->actions[l->next++]);
		if (violation[0] && !ivy_test_bug)
			show_path(depth);
		if (violation[0])
			break;
		hash = world_hash();
		seen_grow();
		if (!seen_put(hash))
			continue;
		if (depth + 1 == DEPTH_MAX) {
			found.cut = 1;
			continue;
		}
		enter(++depth, hash, fair);
	}
	return violation[0] != 0;
}

static const char *only;

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static unsigned fair_of(void)
{
	return getenv("GVM_IVY_ALL") ? 1 : FAIR;
}

/* The scenario, or with one more of each thing that may go wrong, and up to GVM_IVY_WIDE states. */
static struct scenario widened(const struct scenario *s)
{
	const char *wide = getenv("GVM_IVY_WIDE");
	struct scenario w = *s;

#ifdef __SANITIZE_THREAD__ /* there is one thread; it only has to run */
	w.limit = 3000;
#elif defined(__SANITIZE_ADDRESS__) /* what it finds is of the code, not of the order */
	if (w.limit > 20000)
		w.limit = 20000;
#endif
	if (!wide)
		return w;
	w.limit = (unsigned)strtoul(wide, NULL, 10);
	w.evicts++;
	w.stores++;
	w.early_ticks++;
	w.twice++;
	w.resets += w.crashes || w.burials || w.resets;
	w.crashes += w.crashes > 0 && w.crash_mask != 1;
	w.restarts += w.rebuild;
	return w;
}

static void every_order_is_right(void **state)
{
	uint64_t total = 0, early = 0;
	size_t i;

	ivy_test_bug = IVY_BUG_NONE;
	for (i = 0; i < SCENARIOS; i++) {
		const struct scenario s = widened(&scenarios[i]);
		double begun = seconds();

		if (only && strcmp(only, s.name) != 0)
			continue;
		if (explore(&s, s.limit, fair_of()) != 0)
			fail_msg("%s: %s", s.name, violation);
		print_message(
		    "%s: %llu states%s, %llu steps (%llu of early writes), depth %d, %llu to their "
		    "end, %.1f s\n",
		    s.name, (unsigned long long)found.states, found.cut ? " (not all)" : "",
		    (unsigned long long)found.steps, (unsigned long long)found.early, found.depth,
		    (unsigned long long)found.fair, seconds() - begun);
		total += found.states;
		early += found.early;
	}
	print_message("%llu states in all, %llu steps of early writes\n", (unsigned long long)total,
		      (unsigned long long)early);
	assert_true(only || early > 1000);
}

/* Where each is looked for: one in which it matters. */
static const char *const shown_by[IVY_BUG_COUNT] = {
	[IVY_BUG_NO_ACK] = "two nodes and a home",
	[IVY_BUG_GIVE_ALL] = "a broken connection",
	[IVY_BUG_RELAY_EARLY] = "a tree, and the home writes",
	[IVY_BUG_OLD_BACK] = "the home comes back, and a node dies",
	[IVY_BUG_NO_RENEW] = "the home's programs too",
	[IVY_BUG_NO_KEEP] = "two nodes and a home",
	[IVY_BUG_ZERO] = "messages that come twice, and the home comes back",
	[IVY_BUG_BASE] = "messages that come twice, and deltas",
	[IVY_BUG_PIN] = "pins",
	[IVY_BUG_GIVEN_GOOD] = "messages that come twice, and the home comes back",
	[IVY_BUG_NO_FREEZE] = "messages that come twice, and the home comes back",
	[IVY_BUG_NOT_ALL] = "messages that come twice, and the home comes back",
	[IVY_BUG_FORGET] = "messages that come twice, and the home comes back",
	[IVY_BUG_ONE_SHORT] = "two nodes and a home",
	[IVY_BUG_ANY_ACK] = "messages that come twice, and deltas",
	[IVY_BUG_ACK_FIRST] = "two nodes and a home",
	[IVY_BUG_EARLY_DEATH] = "a node dies",
	[IVY_BUG_EARLY_KEPT] = "few sharers, and an owner that dies",
	[IVY_BUG_ROOM_EARLY] = "two pages, and a directory for one",
};

static const struct scenario *scenario_called(const char *name)
{
	size_t i;

	for (i = 0; i < SCENARIOS; i++)
		if (strcmp(scenarios[i].name, name) == 0)
			return &scenarios[i];
	fail_msg("no scenario \"%s\"", name);
	return NULL;
}

__attribute__((unused)) static void faults_that_are_put_in_are_found(void **state)
{
	int bug, wrong;

	for (bug = IVY_BUG_NONE + 1; bug < IVY_BUG_COUNT && !only; bug++) {
		assert_non_null(shown_by[bug]);
		ivy_test_bug = (enum ivy_bug)bug;
		wrong = explore(scenario_called(shown_by[bug]), 300000, FAIR);
		ivy_test_bug = IVY_BUG_NONE;
		if (!wrong)
			fail_msg("bug %d is not found in \"%s\"", bug, shown_by[bug]);
		print_message("bug %d: \"%s\" after %llu states of \"%s\"\n", bug, violation,
			      (unsigned long long)found.states, shown_by[bug]);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_order_is_right),
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
		cmocka_unit_test(faults_that_are_put_in_are_found),
#endif
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	only = argc > 1 ? argv[1] : NULL;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
