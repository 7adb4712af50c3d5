/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of the simulator share and nobody else sees.
 *
 *     sim.c         memory, events, links, copies, programs, a run
 *     sim_content.c what is in pages, and what they cost on the wire
 *     sim_mishap.c  what befalls it
 */
#ifndef GVM_TOOLS_SIM_INTERNAL_H
#define GVM_TOOLS_SIM_INTERNAL_H

#include "tools/sim.h"

#include "ivy/ivy.h"
#include "tools/sim_work.h"

#define PAGE_SIZE   8u  /* of the engines; counted as one of 4 KiB */
#define DELTA_PAGE  64u /* where there are deltas: the least that one makes shorter */
#define DELTA_OLD   256u
#define RETRY_NS    20000000u
#define CLASSES     64u
#define SLOW_FACTOR 20u
#define NOTICE_NS   100000u /* each side has noticed by then that a link is broken */
#define NOBODY      GVM_WIRE_NODE_NONE

enum event_kind {
	EV_PACKET,
	EV_PROGRAM,
	EV_TICK,
	EV_LOST,
	EV_BACK,
	EV_DEAD,
	EV_CRASH,
	EV_RESTART,
	EV_CHAOS,
	EV_PARTITION,
	EV_HOME_CRASH,
	EV_HOME_RETURN
};

struct event {
	uint8_t kind;
	uint8_t has_payload;
	uint16_t a, b; /* of a packet: from, to */
	uint32_t session;
	struct gvm_hdr h;
	uint8_t *payload;
	uint8_t small[PAGE_SIZE];
};

struct slot {
	uint64_t time, number;
	uint32_t event;
};

struct link {
	uint32_t key; /* lower id << 16 | higher; ~0: none */
	uint32_t session;
	uint8_t down[2];     /* as each side knows */
	uint8_t cut[2];      /* a message to it is lost, so all that follow in this session are */
	uint64_t back_at;    /* when the present break ends */
	uint32_t life[2];    /* of the lower, the higher id: what the other one knows of it */
	uint64_t arrives[2]; /* the last message to the lower, the higher id */
};

struct copy {
	uint64_t key; /* node << 40 | page, and 1 << 63; 0: none */
	uint64_t content;
	uint8_t access, there;
};

struct sim_node {
	struct ivy *ivy;
	struct sim *sim;
	uint64_t begun, ops;
	struct sim_access want;
	uint16_t id;
	uint8_t waits, ticking;
	/* a home: versions of all its lives, which life it is in; in it, who has not reported */
	uint64_t low, high;
	uint32_t life, owed;
	uint8_t *owes; /* by node; NULL: it does not collect */
};

struct truth {
	uint64_t last; /* written */
	uint64_t store;
	uint32_t readers, writers;
};

struct sim {
	struct sim_config c;
	struct sim_result *r;
	struct sim_node *node;
	struct truth *page;
	struct event *events;
	uint32_t *free_events, free_count, event_count;
	struct slot *heap;
	uint32_t heap_count, heap_room;
	struct link *links;
	uint32_t link_size, link_count;
	struct copy *copies;
	uint32_t copy_size, copy_count;
	void *free_mem[CLASSES];
	void **blocks;
	uint32_t block_count;
	uint8_t *block_at, *block_end;
	uint64_t now, number, rng, issued, open;
	uint32_t page_size;
	uint64_t scratch[4][DELTA_PAGE / 8];
	uint32_t scratch_at;
	struct sim_work work;
	uint32_t crashes, partitions, returns; /* that there have been */
	uint64_t crash_over, partition_over, return_over;
	uint32_t middle; /* during a partition: nodes below it do not reach the others */
	int plain; /* nothing breaks, and all messages to a node take the same time: no links */
	int stopping;
};

static inline uint64_t draw(struct sim *s)
{
	return sim_draw(&s->rng);
}

static inline uint64_t below(struct sim *s, uint64_t n)
{
	return sim_below(&s->rng, n);
}

static inline int sim_parted(const struct sim *s, const struct link *l)
{
	return (l->key >> 16) < s->middle && (l->key & 0xFFFF) >= s->middle;
}

/* ---- sim.c ---------------------------------------------------------------------------------- */

/* In the heap from here on; its memory may move with the next one. */
struct event *sim_event_new(struct sim *s, uint64_t time, enum event_kind kind, uint16_t a,
			    uint16_t b);
struct link *sim_link_of(struct sim *s, uint16_t a, uint16_t b);
struct copy *sim_copy_of(struct sim_node *n, uint64_t page);
void sim_node_start(struct sim *s, struct sim_node *n);
/* Its program goes on after a while. */
void sim_next_access(struct sim *s, struct sim_node *n);

/* ---- sim_content.c -------------------------------------------------------------------------- */

/* What a page with this content is to an engine, until the fourth call after this. */
const void *sim_bytes_of(struct sim *s, uint64_t page, const uint64_t *content);
/* And back. 0: no such page was ever written. */
int sim_content_of(struct sim *s, uint64_t page, const void *bytes, uint64_t *content);
/* A message has been sent. */
void sim_count(struct sim *s, const struct gvm_hdr *h);

/* ---- sim_mishap.c --------------------------------------------------------------------------- */

/* Both sides notice within notice_ns; both have it again after down_ns. */
void sim_break_link(struct sim *s, struct link *l, uint64_t notice_ns, uint64_t down_ns);
/* Events: a has lost b; both have each other again; and what their names say. */
void sim_lost(struct sim *s, uint16_t a, uint16_t b);
void sim_back(struct sim *s, uint16_t a, uint16_t b);
void sim_chaos(struct sim *s);
void sim_partition(struct sim *s);
void sim_crash(struct sim *s, struct sim_node *n);
void sim_dead(struct sim *s, uint16_t a, uint16_t dead);
void sim_restart(struct sim *s, struct sim_node *n);
/* A home dies; it is started again; it has been told something: have all reported? */
void sim_home_crash(struct sim *s, struct sim_node *n);
void sim_home_return(struct sim *s, struct sim_node *n);
void sim_home_step(struct sim *s, struct sim_node *n, uint16_t from);
/* Whether it is time for a crash or a partition. */
void sim_befall(struct sim *s);

#endif
