/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Events wait in a heap, ordered by time and then by their number. A pair of nodes that has ever
 * spoken has a link: its session, and when the last message in each direction arrives, so that none
 * overtakes another. A link that breaks is noticed by each side in its own time; both get it back
 * at one time, so that no message of a new session comes to who still has the old one.
 */
#include "tools/sim.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "ivy/ivy.h"
#include "tools/sim_work.h"

#define PAGE_SIZE   8u /* of the engines; counted as one of 4 KiB */
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
	EV_PARTITION
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
	struct sim_work work;
	uint32_t crashes, partitions; /* that there have been */
	uint64_t crash_over, partition_over;
	uint32_t middle; /* during a partition: nodes below it do not reach the others */
	int plain; /* nothing breaks, and all messages to a node take the same time: no links */
	int stopping;
};

/* ---- chance, memory ------------------------------------------------------------------------ */

static uint64_t draw(struct sim *s)
{
	return sim_draw(&s->rng);
}

static uint64_t below(struct sim *s, uint64_t n)
{
	return sim_below(&s->rng, n);
}

static void *must(void *mem)
{
	if (!mem) {
		fputs("out of memory\n", stderr);
		abort();
	}
	return mem;
}

static void wrong(struct sim *s, const char *fmt, ...)
{
	int at;
	va_list args;

	if (s->r->error[0])
		return;
	at = snprintf(s->r->error, sizeof(s->r->error),
		      "seed %llu, %llu ns: ", (unsigned long long)s->c.seed,
		      (unsigned long long)s->now);
	va_start(args, fmt);
	vsnprintf(s->r->error + at, sizeof(s->r->error) - (size_t)at, fmt, args);
	va_end(args);
}

#define BLOCK (8u << 20)

/* In large pages where there are any: a run jumps from engine to engine. */
static uint8_t *block_new(void)
{
	uint8_t *mem = must(aligned_alloc(2u << 20, BLOCK));

	madvise(mem, BLOCK, MADV_HUGEPAGE);
	return mem;
}

/* From blocks of 8 MiB, by size in steps of 16 bytes; what is larger from malloc. */
static void *env_alloc(void *user, size_t size)
{
	struct sim *s = ((struct sim_node *)user)->sim;
	size_t class = (size + 15) / 16;
	void *mem;

	if (s->c.alloc_fail && !s->stopping && below(s, s->c.alloc_fail) == 0)
		return NULL;
	if (class >= CLASSES)
		return must(malloc(size));
	mem = s->free_mem[class];
	if (mem) {
		memcpy(&s->free_mem[class], mem, sizeof(void *));
		return mem;
	}
	if (s->block_at + class * 16 > s->block_end) {
		s->blocks = must(realloc(s->blocks, (s->block_count + 1) * sizeof(*s->blocks)));
		s->block_at = block_new();
		s->blocks[s->block_count++] = s->block_at;
		s->block_end = s->block_at + BLOCK;
	}
	mem = s->block_at;
	s->block_at += class * 16;
	return mem;
}

static void env_free(void *user, void *mem, size_t size)
{
	struct sim *s = ((struct sim_node *)user)->sim;
	size_t class = (size + 15) / 16;

	if (class >= CLASSES) {
		free(mem);
		return;
	}
	memcpy(mem, &s->free_mem[class], sizeof(void *));
	s->free_mem[class] = mem;
}

/* ---- events -------------------------------------------------------------------------------- */

static int before(const struct slot *a, const struct slot *b)
{
	return a->time != b->time ? a->time < b->time : a->number < b->number;
}

static void heap_push(struct sim *s, struct slot slot)
{
	uint32_t at = s->heap_count++, up;

	if (s->heap_count > s->heap_room) {
		s->heap_room = s->heap_room ? 2 * s->heap_room : 1024;
		s->heap = must(realloc(s->heap, s->heap_room * sizeof(*s->heap)));
	}
	for (; at > 0; at = up) {
		up = (at - 1) / 4;
		if (!before(&slot, &s->heap[up]))
			break;
		s->heap[at] = s->heap[up];
	}
	s->heap[at] = slot;
}

static struct slot heap_pop(struct sim *s)
{
	struct slot top = s->heap[0], last = s->heap[--s->heap_count];
	uint32_t at = 0, child, best, i;

	for (;;) {
		child = 4 * at + 1;
		if (child >= s->heap_count)
			break;
		best = child;
		for (i = child + 1; i < child + 4 && i < s->heap_count; i++)
			if (before(&s->heap[i], &s->heap[best]))
				best = i;
		if (!before(&s->heap[best], &last))
			break;
		s->heap[at] = s->heap[best];
		at = best;
	}
	s->heap[at] = last;
	return top;
}

static struct event *event_new(struct sim *s, uint64_t time, enum event_kind kind, uint16_t a,
			       uint16_t b)
{
	struct event *e;
	uint32_t i;

	if (s->free_count == 0) {
		uint32_t more = s->event_count ? s->event_count : 1024;

		s->events = must(realloc(s->events, (s->event_count + more) * sizeof(*e)));
		s->free_events =
		    must(realloc(s->free_events, (s->event_count + more) * sizeof(uint32_t)));
		for (i = 0; i < more; i++)
			s->free_events[s->free_count++] = s->event_count + more - 1 - i;
		s->event_count += more;
	}
	i = s->free_events[--s->free_count];
	e = &s->events[i];
	e->kind = (uint8_t)kind;
	e->a = a;
	e->b = b;
	e->payload = NULL;
	heap_push(s, (struct slot){ time, s->number++, i });
	return e;
}

/* ---- links --------------------------------------------------------------------------------- */

static uint32_t hash64(uint64_t key)
{
	return (uint32_t)((key * 0x9e3779b97f4a7c15ull) >> 32);
}

static struct link *link_at(struct link *links, uint32_t size, uint32_t key)
{
	uint32_t at = hash64(key) & (size - 1);

	while (links[at].key != key && links[at].key != ~0u)
		at = (at + 1) & (size - 1);
	return &links[at];
}

static void grow_links(struct sim *s)
{
	uint32_t size = s->link_size ? 2 * s->link_size : 1024, i;
	struct link *links = must(malloc(size * sizeof(*links)));

	memset(links, 0xFF, size * sizeof(*links));
	for (i = 0; i < s->link_size; i++)
		if (s->links[i].key != ~0u)
			*link_at(links, size, s->links[i].key) = s->links[i];
	free(s->links);
	s->links = links;
	s->link_size = size;
}

static void break_link(struct sim *s, struct link *l, uint64_t notice_ns, uint64_t down_ns);

static int parted(const struct sim *s, const struct link *l)
{
	return (l->key >> 16) < s->middle && (l->key & 0xFFFF) >= s->middle;
}

static struct link *link_of(struct sim *s, uint16_t a, uint16_t b)
{
	uint32_t key = a < b ? (uint32_t)a << 16 | b : (uint32_t)b << 16 | a;
	struct link *l;

	if (2 * s->link_count >= s->link_size)
		grow_links(s);
	l = link_at(s->links, s->link_size, key);
	if (l->key == ~0u) {
		memset(l, 0, sizeof(*l));
		l->key = key;
		s->link_count++;
		if (s->partition_over > s->now && parted(s, l)) {
			l->cut[0] = l->cut[1] = 1;
			break_link(s, l, NOTICE_NS, s->partition_over - s->now);
		}
	}
	return l;
}

static uint64_t delay(struct sim *s, uint16_t to)
{
	uint64_t ns = s->c.latency_ns + below(s, s->c.jitter_ns);

	return to >= s->c.nodes - s->c.slow_nodes ? ns * SLOW_FACTOR : ns;
}

/* What is lost takes its connection with it: the engine is promised order without gaps. */
static int is_lost(struct sim *s, struct link *l, int side)
{
	if (s->c.loss && !l->cut[side] && l->back_at <= s->now && below(s, 1000000) < s->c.loss) {
		l->cut[side] = 1;
		break_link(s, l, NOTICE_NS, below(s, 200000));
	}
	s->r->dropped += l->cut[side];
	return l->cut[side];
}

/* When a message arrives: 1 and *at, *session; 0: never. */
static int arrives(struct sim *s, uint16_t from, uint16_t to, uint64_t *at, uint32_t *session)
{
	struct link *l;
	uint64_t *last;

	*at = s->now + delay(s, to);
	*session = 0;
	if (s->plain)
		return 1;
	l = link_of(s, from, to);
	if (is_lost(s, l, to > from))
		return 0;
	last = &l->arrives[to > from];
	if (*at <= *last)
		*at = *last + 1;
	*last = *at;
	*session = l->session;
	return 1;
}

static void env_send(void *user, uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	struct sim_node *n = user;
	struct sim *s = n->sim;
	struct event *e;
	uint64_t at;
	uint32_t session;

	s->r->messages++;
	s->r->bytes += GVM_WIRE_HDR_LEN;
	if (h->length) {
		int page = h->type != GVM_COH_INV && h->type != GVM_COH_ACK;

		s->r->bytes += page ? 4096 : h->length;
		s->r->pages_sent += (uint64_t)page;
	}
	if (!arrives(s, n->id, to, &at, &session))
		return;
	e = event_new(s, at, EV_PACKET, n->id, to);
	e->session = session;
	e->h = *h;
	if (h->length > sizeof(e->small))
		e->payload = must(malloc(h->length));
	if (h->length)
		memcpy(e->payload ? e->payload : e->small, payload, h->length);
}

/* ---- copies -------------------------------------------------------------------------------- */

static struct copy *copy_at(struct copy *copies, uint32_t size, uint64_t key)
{
	uint32_t at = hash64(key) & (size - 1);

	while (copies[at].key != key && copies[at].key)
		at = (at + 1) & (size - 1);
	return &copies[at];
}

static void grow_copies(struct sim *s)
{
	uint32_t size = s->copy_size ? 2 * s->copy_size : 1024, i;
	struct copy *copies = must(calloc(size, sizeof(*copies)));

	for (i = 0; i < s->copy_size; i++)
		if (s->copies[i].key)
			*copy_at(copies, size, s->copies[i].key) = s->copies[i];
	free(s->copies);
	s->copies = copies;
	s->copy_size = size;
}

static struct copy *copy_of(struct sim_node *n, uint64_t page)
{
	struct sim *s = n->sim;
	uint64_t key = 1ull << 63 | (uint64_t)n->id << 40 | page;
	struct copy *c;

	if (2 * s->copy_count >= s->copy_size)
		grow_copies(s);
	c = copy_at(s->copies, s->copy_size, key);
	if (!c->key) {
		c->key = key;
		s->copy_count++;
	}
	return c;
}

static uint16_t env_home(void *user, uint64_t page)
{
	return (uint16_t)(page % ((struct sim_node *)user)->sim->c.homes);
}

static uint64_t env_nonce(void *user)
{
	return draw(((struct sim_node *)user)->sim);
}

static const void *env_copy_read(void *user, uint64_t page)
{
	struct copy *c = copy_of(user, page);

	if (!c->there)
		wrong(((struct sim_node *)user)->sim, "a copy is read that is not there");
	return &c->content;
}

static int env_copy_write(void *user, uint64_t page, const void *bytes)
{
	struct copy *c = copy_of(user, page);

	if (c->access)
		wrong(((struct sim_node *)user)->sim, "a mapped page is overwritten");
	c->content = 0;
	if (bytes)
		memcpy(&c->content, bytes, PAGE_SIZE);
	c->there = 1;
	return 0;
}

static void env_copy_drop(void *user, uint64_t page)
{
	copy_of(user, page)->there = 0;
}

static void env_protect(void *user, uint64_t page, enum ivy_access access)
{
	struct sim_node *n = user;
	struct sim *s = n->sim;
	struct copy *c = copy_of(n, page);
	struct truth *t = &s->page[page];

	t->readers -= c->access == IVY_READ;
	t->writers -= c->access == IVY_WRITE;
	c->access = (uint8_t)access;
	t->readers += c->access == IVY_READ;
	t->writers += c->access == IVY_WRITE;
	if (t->writers > 1 || (t->writers && t->readers))
		wrong(s, "page %llu has %u writers and %u readers", (unsigned long long)page,
		      t->writers, t->readers);
	if (access && (!c->there || c->content != t->last))
		wrong(s, "node %u maps page %llu with %llu, written was %llu", n->id,
		      (unsigned long long)page, (unsigned long long)c->content,
		      (unsigned long long)t->last);
}

static const void *env_store_read(void *user, uint64_t page)
{
	struct truth *t = &((struct sim_node *)user)->sim->page[page];

	return t->store ? &t->store : NULL;
}

static int env_store_write(void *user, uint64_t page, const void *bytes)
{
	struct truth *t = &((struct sim_node *)user)->sim->page[page];

	t->store = 0;
	if (bytes)
		memcpy(&t->store, bytes, PAGE_SIZE);
	return 0;
}

/* ---- programs ------------------------------------------------------------------------------ */

static void next_access(struct sim *s, struct sim_node *n)
{
	uint64_t at = s->now + 1 + below(s, s->c.think_ns);

	n->begun = at;
	event_new(s, at, EV_PROGRAM, n->id, 0);
}

static void write_page(struct sim_node *n)
{
	copy_of(n, n->want.page)->content = ++n->sim->page[n->want.page].last;
}

static void access_page(struct sim_node *n)
{
	struct sim *s = n->sim;

	n->ops++;
	s->r->accesses++;
	if (s->c.evict_percent && below(s, 100) < s->c.evict_percent)
		ivy_evict(n->ivy, n->want.page);
}

static void note_latency(struct sim_node *n)
{
	uint64_t ns = n->sim->now - n->begun;

	n->sim->r->last_fault_ns = ns;
	sim_latency_add(&n->sim->r->latency[n->want.write], ns);
}

static void env_fault_done(void *user, uint64_t page, enum ivy_access access, int status)
{
	struct sim_node *n = user;
	struct sim *s = n->sim;

	if (!n->waits || n->want.page != page)
		wrong(s, "a fault of node %u ended that was not there", n->id);
	if (status == 0 && copy_of(n, page)->access < access)
		wrong(s, "a fault of node %u ended without access", n->id);
	if (status != 0 && (status != -EIO || !s->r->deaths))
		wrong(s, "a fault of node %u failed: %d", n->id, status);
	else if (status == 0 && n->want.write)
		write_page(n);
	s->r->failed += status != 0;
	n->waits = status == 0 ? 2 : 3; /* the program goes on when the engine has returned */
	note_latency(n);
}

static const struct ivy_env sim_env = {
	.alloc = env_alloc,
	.free = env_free,
	.send = env_send,
	.home = env_home,
	.nonce = env_nonce,
	.copy_read = env_copy_read,
	.copy_write = env_copy_write,
	.copy_drop = env_copy_drop,
	.protect = env_protect,
	.store_read = env_store_read,
	.store_write = env_store_write,
	.fault_done = env_fault_done,
};

/* After each event of a node: a fault that has ended, and whether it must be told of time. */
static void after(struct sim *s, struct sim_node *n)
{
	if (n->waits > 1) {
		int done = n->waits == 2;

		n->waits = 0;
		s->open--;
		if (done)
			access_page(n);
		next_access(s, n);
	}
	if (n->ivy && !n->ticking) {
		n->ticking = 1;
		event_new(s, s->now + RETRY_NS, EV_TICK, n->id, 0);
	}
}

static void do_program(struct sim *s, struct sim_node *n)
{
	int status;

	if (!n->ivy || n->waits)
		return;
	if (n->want.then_write) {
		n->want.write = 1;
		n->want.then_write = 0;
	} else if (s->issued >= s->c.ops ||
		   !sim_work_next(&s->work, &s->rng, n->id, n->ops, &n->want)) {
		return;
	} else {
		s->issued++;
	}
	n->begun = s->now;
	n->waits = 1;
	s->open++;
	status = ivy_fault(n->ivy, n->want.page, n->want.write ? IVY_WRITE : IVY_READ);
	if (status == 1) {
		s->r->faults++;
		return;
	}
	n->waits = 0;
	s->open--;
	if (status == 0) {
		s->r->hits++;
		if (n->want.write)
			write_page(n);
		access_page(n);
	} else if (status != -ENOMEM) {
		wrong(s, "ivy_fault() is %d", status);
	}
	next_access(s, n);
}

/* ---- the network, and what befalls it ------------------------------------------------------ */

static int connected(struct sim *s, const struct event *e)
{
	const struct link *l = s->plain ? NULL : link_of(s, e->a, e->b);

	return !l || (l->session == e->session && !l->down[e->b > e->a]);
}

static void do_packet(struct sim *s, uint32_t index)
{
	struct event e = s->events[index]; /* the array may move */
	struct sim_node *n = &s->node[e.b];
	int status;

	if (n->ivy && connected(s, &e)) {
		status = ivy_receive(n->ivy, e.a, &e.h, e.payload ? e.payload : e.small);
		if (status != 0)
			wrong(s, "%u refuses %s of %u: %d", e.b, gvm_coh_name(e.h.type), e.a,
			      status);
	}
	free(e.payload);
}

/* Both sides notice within notice_ns; both have it again after down_ns. */
static void break_link(struct sim *s, struct link *l, uint64_t notice_ns, uint64_t down_ns)
{
	uint16_t a = (uint16_t)(l->key >> 16), b = (uint16_t)l->key;

	if (l->back_at > s->now || !s->node[a].ivy || !s->node[b].ivy)
		return;
	s->r->resets++;
	l->back_at = s->now + notice_ns + down_ns + 2;
	event_new(s, s->now + below(s, notice_ns), EV_LOST, a, b);
	event_new(s, s->now + below(s, notice_ns), EV_LOST, b, a);
	event_new(s, l->back_at, EV_BACK, a, b);
}

static void do_lost(struct sim *s, uint16_t a, uint16_t b)
{
	struct link *l = link_of(s, a, b);

	if (!s->node[a].ivy || !s->node[b].ivy || l->down[a > b])
		return;
	l->down[a > b] = 1;
	ivy_peer_lost(s->node[a].ivy, b);
}

static void do_back(struct sim *s, uint16_t a, uint16_t b)
{
	struct link *l = link_of(s, a, b);

	if (!s->node[a].ivy || !s->node[b].ivy || l->back_at > s->now)
		return;
	l->session++;
	l->down[0] = l->down[1] = l->cut[0] = l->cut[1] = 0;
	ivy_peer_back(s->node[a].ivy, b);
	ivy_peer_back(s->node[b].ivy, a);
}

/* One connection, or all of one node, or all between two halves of the cluster. */
static void do_chaos(struct sim *s)
{
	uint64_t what = below(s, 20), down = below(s, 8) ? below(s, 200000) : below(s, 60000000);
	uint32_t i, middle = (uint32_t)below(s, s->c.nodes);

	event_new(s, s->now + 1 + below(s, 2 * s->c.chaos_ns), EV_CHAOS, 0, 0);
	if (what > 1) {
		struct link *l = &s->links[below(s, s->link_size)];

		if (l->key != ~0u)
			break_link(s, l, NOTICE_NS, down);
		return;
	}
	for (i = 0; i < s->link_size; i++) {
		struct link *l = &s->links[i];
		uint32_t a = l->key >> 16, b = l->key & 0xFFFF;

		if (l->key != ~0u &&
		    (what ? a == middle || b == middle : a < middle && b >= middle))
			break_link(s, l, NOTICE_NS, down);
	}
}

static void do_partition(struct sim *s)
{
	uint64_t down = s->c.partition_ns / 2 + below(s, s->c.partition_ns / 2);
	uint32_t i;

	s->r->partitions++;
	s->middle = (uint32_t)(1 + below(s, s->c.nodes - 1));
	s->partition_over = s->now + down;
	for (i = 0; i < s->link_size; i++)
		if (s->links[i].key != ~0u && parted(s, &s->links[i]))
			break_link(s, &s->links[i], NOTICE_NS, down);
}

static void node_start(struct sim *s, struct sim_node *n);

static void do_crash(struct sim *s, struct sim_node *n)
{
	uint32_t i;
	uint64_t last = 0;

	if (!n->ivy)
		return;
	s->r->deaths++;
	for (i = 0; i < s->c.pages; i++) {
		struct copy *c = copy_of(n, i);

		s->page[i].readers -= c->access == IVY_READ;
		s->page[i].writers -= c->access == IVY_WRITE;
		c->access = c->there = 0;
	}
	ivy_free(n->ivy);
	n->ivy = NULL;
	s->open -= n->waits == 1;
	n->waits = n->want.then_write = 0;
	for (i = 0; i < s->c.nodes; i++) {
		uint64_t at = s->now + below(s, 3000000);

		if (i == n->id)
			continue;
		last = at > last ? at : last;
		event_new(s, at, EV_DEAD, (uint16_t)i, n->id);
	}
	event_new(s, last + 1, EV_RESTART, n->id, 0);
	s->crash_over = last + 2;
}

static void do_dead(struct sim *s, uint16_t a, uint16_t dead)
{
	if (!s->node[a].ivy)
		return;
	link_of(s, a, dead)->down[a > dead] = 1;
	ivy_peer_dead(s->node[a].ivy, dead);
}

static void do_restart(struct sim *s, struct sim_node *n)
{
	uint32_t i;

	node_start(s, n);
	for (i = 0; i < s->c.nodes; i++) {
		struct link *l;

		if (i == n->id)
			continue;
		l = link_of(s, n->id, (uint16_t)i);
		l->session++;
		l->back_at = 0;
		l->down[0] = l->down[1] = l->cut[0] = l->cut[1] = 0;
		if (s->node[i].ivy)
			ivy_peer_back(s->node[i].ivy, n->id);
		else /* it is dead, and this one has to hear of it before it comes back */
			event_new(s, s->now, EV_DEAD, n->id, (uint16_t)i);
	}
	next_access(s, n);
}

/* Has as much of the run passed that it is time for another one, of all that there are to be? */
static int is_due(const struct sim *s, uint32_t had, uint32_t all)
{
	return had < all && s->issued * (all + 1ull) >= (had + 1ull) * s->c.ops;
}

/* Spread over the run; one of a kind is over before the next. */
static void befall(struct sim *s)
{
	if (s->now > s->crash_over && is_due(s, s->crashes, s->c.crashes)) {
		s->crashes++;
		s->crash_over = s->now + 1;
		event_new(s, s->now, EV_CRASH,
			  (uint16_t)(s->c.homes + below(s, s->c.nodes - s->c.homes)), 0);
	}
	if (s->now > s->partition_over && is_due(s, s->partitions, s->c.partitions)) {
		s->partitions++;
		event_new(s, s->now, EV_PARTITION, 0, 0);
	}
}

/* ---- a run --------------------------------------------------------------------------------- */

static void node_start(struct sim *s, struct sim_node *n)
{
	struct ivy_config config = {
		.env = &sim_env,
		.user = n,
		.region = 1,
		.pages = s->c.pages,
		.page_size = PAGE_SIZE,
		.epoch = 1,
		.self = n->id,
		.nodes = (uint16_t)s->c.nodes,
		.max_entries = 1u << 24,
		.max_txns = 1u << 20,
		.max_waiters = 1u << 20,
		.max_pages = 1u << 24,
		.max_relays = 1u << 16,
		.retry_ns = RETRY_NS,
		.round_ns = 4 * RETRY_NS,
	};

	while (ivy_new(&config, &n->ivy) != 0)
		; /* with alloc_fail */
}

static void do_tick(struct sim *s, struct sim_node *n)
{
	n->ticking = 0;
	if (!n->ivy)
		return;
	ivy_tick(n->ivy, s->now);
	if (ivy_next_tick(n->ivy) == ~0ull)
		n->ticking = 2; /* rests until something happens */
}

static void dispatch(struct sim *s, uint32_t index)
{
	struct event e = s->events[index];
	struct sim_node *n = &s->node[e.a];

	s->r->digest =
	    (s->r->digest ^ s->now ^ (uint64_t)e.kind << 56 ^ (uint64_t)e.a << 40 ^ e.b) *
	    0xff51afd7ed558ccdull;
	switch (e.kind) {
	case EV_PACKET:
		n = &s->node[e.b];
		do_packet(s, index);
		break;
	case EV_PROGRAM:
		do_program(s, n);
		break;
	case EV_TICK:
		do_tick(s, n);
		break;
	case EV_LOST:
		do_lost(s, e.a, e.b);
		break;
	case EV_BACK:
		do_back(s, e.a, e.b);
		after(s, &s->node[e.b]);
		break;
	case EV_DEAD:
		do_dead(s, e.a, e.b);
		break;
	case EV_CRASH:
		do_crash(s, n);
		break;
	case EV_RESTART:
		do_restart(s, n);
		break;
	case EV_PARTITION:
		do_partition(s);
		break;
	default:
		if (s->issued < s->c.ops)
			do_chaos(s);
	}
	if (e.kind != EV_TICK && n->ticking == 2)
		n->ticking = 0;
	after(s, n);
}

/* All events up to the end of all faults; idle: what may pass of time without one. */
static void run(struct sim *s)
{
	uint64_t done = 0, since = 0;

	while (s->heap_count && !s->r->error[0]) {
		struct slot slot = heap_pop(s);

		s->now = slot.time;
		s->r->events++;
		dispatch(s, slot.event);
		befall(s);
		s->free_events[s->free_count++] = slot.event;
		if (s->issued >= s->c.ops)
			s->stopping = 1;
		if (s->r->accesses + s->r->failed != done) {
			done = s->r->accesses + s->r->failed;
			since = s->r->time_ns = s->now;
		} else if (s->open && s->now - since > 2000ull * RETRY_NS) {
			wrong(s, "%llu faults do not end", (unsigned long long)s->open);
		}
	}
	if (!s->r->error[0] && s->open)
		wrong(s, "%llu faults did not end", (unsigned long long)s->open);
}

static void broadcast(struct sim *s)
{
	struct sim_node *n = &s->node[s->c.nodes - 1];
	uint64_t messages = s->r->messages, bytes = s->r->bytes;

	if (s->r->error[0])
		return;
	n->want = (struct sim_access){ .page = 0, .write = 1 };
	n->begun = s->now;
	n->waits = 1;
	s->open++;
	s->r->faults++;
	ivy_fault(n->ivy, 0, IVY_WRITE);
	after(s, n);
	run(s);
	s->r->last_messages = s->r->messages - messages;
	s->r->last_bytes = s->r->bytes - bytes;
}

static void sum_up(struct sim *s)
{
	struct ivy_stats stats;
	double squares = 0;
	uint32_t i;

	s->r->node_least = ~0ull;
	for (i = 0; i < s->c.nodes; i++) {
		struct sim_node *n = &s->node[i];

		squares += (double)n->ops * (double)n->ops;
		if (n->ops < s->r->node_least)
			s->r->node_least = n->ops;
		if (n->ops > s->r->node_most)
			s->r->node_most = n->ops;
		if (!n->ivy)
			continue;
		ivy_stats(n->ivy, &stats);
		s->r->refused += stats.refused;
		s->r->repeated += stats.repeated;
		s->r->lost += stats.lost;
		s->r->entries += stats.entries;
		s->r->directory_bytes += stats.directory_bytes;
	}
	if (squares > 0)
		s->r->fairness = (double)s->r->accesses * (double)s->r->accesses /
				 (squares * (double)s->c.nodes);
}

static void end(struct sim *s)
{
	uint32_t i;

	for (i = 0; i < s->heap_count; i++)
		free(s->events[s->heap[i].event].payload);
	for (i = 0; i < s->c.nodes; i++)
		if (s->node[i].ivy)
			ivy_free(s->node[i].ivy);
	for (i = 0; i < s->block_count; i++)
		free(s->blocks[i]);
	free(s->blocks);
	free(s->node);
	free(s->page);
	free(s->events);
	free(s->free_events);
	free(s->heap);
	free(s->links);
	free(s->copies);
	sim_work_fini(&s->work);
	free(s);
}

int sim_run(const struct sim_config *config, struct sim_result *result)
{
	struct sim *s = must(calloc(1, sizeof(*s)));
	uint32_t i;
	int status;

	memset(result, 0, sizeof(*result));
	s->c = *config;
	s->r = result;
	s->rng = config->seed;
	s->plain = !config->jitter_ns && !config->chaos_ns && !config->loss &&
		   !config->partitions && !config->crashes;
	if (sim_work_init(&s->work, &s->c) != 0)
		must(NULL);
	s->node = must(calloc(config->nodes, sizeof(*s->node)));
	s->page = must(calloc(config->pages, sizeof(*s->page)));
	for (i = 0; i < config->nodes; i++) {
		s->node[i].sim = s;
		s->node[i].id = (uint16_t)i;
		node_start(s, &s->node[i]);
		next_access(s, &s->node[i]);
	}
	grow_links(s);
	if (config->chaos_ns)
		event_new(s, config->chaos_ns, EV_CHAOS, 0, 0);
	run(s);
	if (config->pattern == SIM_BROADCAST)
		broadcast(s);
	sum_up(s);
	status = result->error[0] ? -1 : 0;
	end(s);
	return status;
}
