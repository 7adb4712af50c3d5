/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A small cluster in one piece of memory: up to four engines, the network between them, and what
 * their programs have seen. All of it, the engines' memory too, lies in one struct world at one
 * address, so a state is kept and brought back by copying bytes. For the explorer.
 *
 * The network does what the engine's transport promises (docs/coherence.md): in order and once per
 * session and direction; a session that ends loses any end of what is under way, at either side,
 * and each side notices in its own time.
 */
#ifndef IVY_WORLD_H
#define IVY_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "ivy/internal.h"

#define NODES_MAX 4
#define PAGES_MAX 2
#define HEAP      (48u << 10)
#define CLASSES   256u
#define WORDS     8u /* of a page */
#define PAGE_SIZE (8u * WORDS)

struct scenario {
	const char *name;
	int nodes, pages;
	int home[PAGES_MAX];
	int reads[NODES_MAX], writes[NODES_MAX]; /* faults of each node */
	int evicts, stores;                      /* of all: evictions, further stores */
	int resets, crashes, restarts, burials, early_ticks;
	int twice;      /* messages that are delivered twice, one behind the other */
	int crash_mask; /* nodes that may crash */
	int rebuild;    /* a home that starts again builds its directory anew */
	int shared;     /* nodes that have a copy of page 0 when it begins */
	int mute;       /* nodes that do not report, or (mute_later) do not note what followed */
	int mute_later;
	unsigned entries; /* of a directory, 0: as many as may be needed */
	int pins;         /* times that a node pins a page, for what it may do with it */
	unsigned old;     /* contents that each node keeps, for deltas */
	unsigned limit;   /* states, 0: all */
};

enum link_state { LINK_UP, LINK_LOST, LINK_DEAD };

struct packet {
	struct packet *next;
	unsigned session, size;
	struct gvm_hdr h;
	uint8_t payload[];
};

struct world_node {
	struct ivy *ivy; /* NULL: crashed */
	int id, restarted;
	unsigned life, knows[NODES_MAX]; /* how often it was started anew; that of others */
	uint64_t nonce;
	uint64_t low, high; /* versions of all lives of this home; outlives them */
	int reads, writes;
	uint8_t access[PAGES_MAX], waits[PAGES_MAX], has_copy[PAGES_MAX], pinned[PAGES_MAX];
	/* contents: how many stores there had been; the k-th goes to word k % WORDS of the page */
	uint64_t copy[PAGES_MAX], store[PAGES_MAX];
	uint8_t link[NODES_MAX];   /* enum link_state, as this node knows */
	uint8_t buried[NODES_MAX]; /* that node may be told that this one is dead, or the reverse */
	unsigned view[NODES_MAX];  /* session */
};

struct world {
	struct scenario left; /* what may still happen */
	struct world_node node[NODES_MAX];
	struct packet *queue[NODES_MAX][NODES_MAX]; /* from, to */
	unsigned session[NODES_MAX][NODES_MAX];     /* both the same */
	uint64_t last[PAGES_MAX];                   /* what the last store wrote */
	uint8_t may_lose[PAGES_MAX], home_gone[PAGES_MAX];
	uint64_t now;
	uint32_t used;
	uint32_t free[CLASSES]; /* offset in heap, 0: none */
	uint8_t heap[HEAP] __attribute__((aligned(16)));
};

enum kind {
	DO_DELIVER,
	DO_READ,
	DO_WRITE,
	DO_STORE,
	DO_EVICT,
	DO_RESET,
	DO_LOST,
	DO_BACK,
	DO_DEAD,
	DO_CRASH,
	DO_RESTART,
	DO_BURY,
	DO_TICK,
	DO_EARLY_TICK,
	DO_REBUILT,
	DO_PIN,
	DO_UNPIN,
	DO_EXPEL,
	DO_TWICE /* the first of the two */
};
struct action {
	uint8_t kind, a, b, page;
};
#define ACTIONS_MAX 96

extern struct world W;
extern struct scenario scenario;
extern char violation[256]; /* "": none */

void world_begin(const struct scenario *s);
/* The next thing that happens when all goes well, if any: 1 and *a. */
int world_fair_step(struct action *a);
int world_actions(struct action *out);
void world_do(const struct action *a);
/* What must be so in each state; at rest. */
void world_check(void);
void world_check_rest(void);
/* No message can be delivered and nobody has something to notice. */
int world_quiet(void);
/* Somebody waits, or keeps something only until it is told. */
int world_open(void);
uint64_t world_hash(void);
void world_print(const struct action *a, const char *more);
size_t world_size(void);
/* ivy_world_home.c: a home of this scenario; that is told what nodes hold when it starts again */
int world_is_home(int id);
int world_rebuilds(int id);
/* It is not known yet who has content of its pages, or not all of it is in its store. */
int world_unsettled(int home);
/* All who may hold something have reported, or are fenced, or dead: then it builds its directory.
 */
int world_may_rebuild(int home);
void world_rebuild(struct world_node *home);
/* The home waits for this node and may give it up. */
int world_may_expel(int home, int node);
/* What this node sends to a home does not go out: it is mute. */
int world_is_mute(int node, const struct gvm_hdr *h);
void world_violated(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
