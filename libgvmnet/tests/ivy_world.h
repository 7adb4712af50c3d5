/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A small cluster in one piece of memory: up to four engines, the network between them, and what
 * their programs have seen. All of it, the engines' memory too, lies in one struct world at one
 * address, so a state is kept and brought back by copying bytes. For the explorer.
 *
 * The network does what the engine's transport promises (docs/coherence.md): in order and once per
 * session and direction; a session that ends loses any end of what is under way, at either side, and
 * each side notices in its own time.
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
#define PAGE_SIZE 8u

struct scenario {
	const char *name;
	int nodes, pages;
	int home[PAGES_MAX];
	int reads[NODES_MAX], writes[NODES_MAX]; /* faults of each node */
	int evicts, stores;                      /* of all: evictions, further stores */
	int resets, crashes, restarts, burials, early_ticks;
	int crash_mask; /* nodes that may crash */
	int shared;     /* nodes that have a copy of page 0 when it begins */
	unsigned limit; /* states, 0: all */
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
	uint64_t nonce;
	int reads, writes;
	uint8_t access[PAGES_MAX], waits[PAGES_MAX], has_copy[PAGES_MAX];
	uint64_t copy[PAGES_MAX], store[PAGES_MAX];
	uint8_t link[NODES_MAX]; /* enum link_state, as this node knows */
	uint8_t buried[NODES_MAX]; /* that node may be told that this one is dead, or the reverse */
	unsigned view[NODES_MAX]; /* session */
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
	DO_DELIVER, DO_READ, DO_WRITE, DO_STORE, DO_EVICT, DO_RESET, DO_LOST, DO_BACK, DO_DEAD,
	DO_CRASH, DO_RESTART, DO_BURY, DO_TICK, DO_EARLY_TICK
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
void world_violated(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
