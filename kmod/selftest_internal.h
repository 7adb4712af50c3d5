/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of the self-test share.
 *
 *     selftest.c       a run: what happens in which order; what must be so at rest, and at the end
 *     selftest_node.c  a node: its engine, its memory, its program
 *     selftest_net.c   the network: messages, connections that break, nodes that die
 *     selftest_wire.c  that what wire/ writes it can read again
 */
#ifndef GIANTVM_SELFTEST_INTERNAL_H
#define GIANTVM_SELFTEST_INTERNAL_H

#include "selftest.h"

#ifdef __KERNEL__
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/stdarg.h>
#include <linux/string.h>
#else
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#endif

#define ST_NODES 24u /* so that an invalidation needs a tree of two levels */
#define ST_HOMES 3u  /* the first of them */
#define ST_PAGES 24u
#define ST_PAGE  IVY_PAGE_MAX

enum st_link { ST_UP, ST_LOST, ST_DEAD };

struct st_packet {
	struct st_packet *next;
	size_t size;
	uint32_t session;
	struct gvm_hdr h;
	uint8_t payload[];
};

struct st_copy {
	uint8_t *bytes; /* NULL: there is none */
	uint8_t access, waits; /* enum ivy_access; the bits of those that are waited for */
};

/* The other end of a connection, as a node sees it. */
struct st_peer {
	uint8_t link; /* enum st_link */
	uint8_t cut;  /* a message of this session was not sent: nothing more is */
	uint32_t session, life;
};

struct st_node {
	struct st_world *world;
	struct ivy *ivy; /* NULL: dead */
	uint16_t id;
	uint32_t life; /* which of its lives */
	struct st_copy copy[ST_PAGES];
	uint8_t *store[ST_PAGES]; /* as home */
	struct st_peer peer[ST_NODES];
};

/* What is true of a page, whatever the engines think. */
struct st_truth {
	uint64_t sum; /* of its content */
	uint32_t readers, writers;
	int may_be_lost, not_stored; /* not_stored: there was no memory at its home */
};

struct st_world {
	struct selftest *test;
	uint64_t rng, now;
	uint64_t bytes, blocks; /* in use */
	int short_of_memory;    /* now and then there is none */
	int failed, real_shortage;
	void *leaked;
	size_t leaked_size;
	struct st_node node[ST_NODES];
	struct st_truth page[ST_PAGES];
	struct st_packet *queue[ST_NODES][ST_NODES]; /* from, to */
	uint32_t session[ST_NODES][ST_NODES];	     /* both the same */
};

/* selftest.c. Only the first one is kept. */
void st_fail(struct st_world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
uint64_t st_draw(struct st_world *w);
static inline uint32_t st_below(struct st_world *w, uint32_t n)
{
	return (uint32_t)((st_draw(w) >> 32) * n >> 32);
}

/* selftest_node.c */
void *st_alloc(struct st_world *w, size_t size);
void st_free(struct st_world *w, void *mem, size_t size);
static inline uint16_t st_home_of(uint64_t page)
{
	return (uint16_t)(page % ST_HOMES);
}
/* 0 or -ENOMEM. */
int st_node_start(struct st_node *n);
/* Its engine, its copies and what it stores are gone. */
void st_node_end(struct st_node *n);
/* The program wants this access to the page, and uses it when it is there. */
void st_node_access(struct st_node *n, uint64_t page, enum ivy_access access);
void st_node_evict(struct st_node *n, uint64_t page);
/* Of the content; NULL: zeros. */
uint64_t st_sum(const uint8_t *bytes);

/* selftest_net.c */
void st_send(struct st_node *n, uint16_t to, const struct gvm_hdr *h, const void *payload);
/* One message, or one thing that a node notices of another; which is random. 0: there is none. */
int st_deliver(struct st_world *w);
int st_notice(struct st_world *w);
void st_break(struct st_world *w, uint16_t a, uint16_t b);
void st_die(struct st_node *n);
void st_return(struct st_node *n);
void st_net_end(struct st_world *w);

/* selftest_wire.c */
void st_wire(struct st_world *w);

#endif
