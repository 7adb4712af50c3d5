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
#include "tools/sim_internal.h"

/* ---- memory --------------------------------------------------------------------------------- */

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

struct event *sim_event_new(struct sim *s, uint64_t time, enum event_kind kind, uint16_t a,
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

struct link *sim_link_of(struct sim *s, uint16_t a, uint16_t b)
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
		if (s->partition_over > s->now && sim_parted(s, l)) {
			l->cut[0] = l->cut[1] = 1;
			sim_break_link(s, l, NOTICE_NS, s->partition_over - s->now);
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
		sim_break_link(s, l, NOTICE_NS, below(s, 200000));
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
	l = sim_link_of(s, from, to);
	if (is_lost(s, l, to > from))
		return 0;
	last = &l->arrives[to > from];
	if (*at <= *last)
		*at = *last + 1;
	*last = *at;
	*session = l->session;
	return 1;
}

static void put_packet(struct sim *s, uint16_t from, uint16_t to, uint64_t at, uint32_t session,
		       const struct gvm_hdr *h, const void *payload)
{
	struct event *e = sim_event_new(s, at, EV_PACKET, from, to);

	e->session = session;
	e->h = *h;
	if (h->length > sizeof(e->small))
		e->payload = must(malloc(h->length));
	if (h->length)
		memcpy(e->payload ? e->payload : e->small, payload, h->length);
}

/* The second one right behind the first: nothing of this connection comes in between. */
static int comes_twice(struct sim *s, uint16_t from, uint16_t to, uint64_t *at)
{
	if (!s->c.twice || below(s, 1000000) >= s->c.twice)
		return 0;
	s->r->twice++;
	*at += 1 + below(s, s->c.jitter_ns + 1);
	sim_link_of(s, from, to)->arrives[to > from] = *at;
	return 1;
}

static void env_send(void *user, uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	struct sim_node *n = user;
	struct sim *s = n->sim;
	uint64_t at;
	uint32_t session;

	sim_count(s, h);
	if (!arrives(s, n->id, to, &at, &session))
		return;
	put_packet(s, n->id, to, at, session, h, payload);
	if (comes_twice(s, n->id, to, &at))
		put_packet(s, n->id, to, at, session, h, payload);
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

struct copy *sim_copy_of(struct sim_node *n, uint64_t page)
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
	struct copy *c = sim_copy_of(user, page);

	if (!c->there)
		wrong(((struct sim_node *)user)->sim, "a copy is read that is not there");
	return sim_bytes_of(((struct sim_node *)user)->sim, page, &c->content);
}

static int env_copy_write(void *user, uint64_t page, const void *bytes)
{
	struct sim *s = ((struct sim_node *)user)->sim;
	struct copy *c = sim_copy_of(user, page);

	if (c->access)
		wrong(s, "a mapped page is overwritten");
	if (!sim_content_of(s, page, bytes, &c->content))
		wrong(s, "page %llu has come out wrong", (unsigned long long)page);
	c->there = 1;
	return 0;
}

static void env_copy_drop(void *user, uint64_t page)
{
	sim_copy_of(user, page)->there = 0;
}

static void env_protect(void *user, uint64_t page, enum ivy_access access)
{
	struct sim_node *n = user;
	struct sim *s = n->sim;
	struct copy *c = sim_copy_of(n, page);
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
	struct sim *s = ((struct sim_node *)user)->sim;
	struct truth *t = &s->page[page];

	return t->store ? sim_bytes_of(s, page, &t->store) : NULL;
}

static int env_store_write(void *user, uint64_t page, const void *bytes)
{
	struct sim *s = ((struct sim_node *)user)->sim;

	if (!sim_content_of(s, page, bytes, &s->page[page].store))
		wrong(s, "page %llu is stored wrong", (unsigned long long)page);
	return 0;
}

/* Nobody has ever written to it. */
static int env_store_kept(void *user, uint64_t page)
{
	return ((struct sim_node *)user)->sim->page[page].last == 0;
}

static void env_reserve(void *user, uint64_t from, uint64_t upto)
{
	struct sim_node *n = user;

	if (!n->high)
		n->low = from;
	n->high = upto;
}

/* ---- programs ------------------------------------------------------------------------------ */

void sim_next_access(struct sim *s, struct sim_node *n)
{
	uint64_t at = s->now + 1 + below(s, s->c.think_ns);

	n->begun = at;
	sim_event_new(s, at, EV_PROGRAM, n->id, 0);
}

static void write_page(struct sim_node *n)
{
	sim_copy_of(n, n->want.page)->content = ++n->sim->page[n->want.page].last;
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
	if (status == 0 && sim_copy_of(n, page)->access < access)
		wrong(s, "a fault of node %u ended without access", n->id);
	if (status != 0 && (status != -EIO || !(s->r->deaths || s->r->returns)))
		wrong(s, "a fault of node %u failed: %d", n->id, status);
	else if (status == 0 && n->want.write)
		write_page(n);
	s->r->failed += status != 0;
	n->waits = status == 0 ? 2 : 3; /* the program goes on when the engine has returned */
	note_latency(n);
}

static struct ivy_env sim_env = IVY_ENV(env_);

/* After each event of a node: a fault that has ended, and whether it must be told of time. */
static void after(struct sim *s, struct sim_node *n)
{
	if (n->waits > 1) {
		int done = n->waits == 2;

		n->waits = 0;
		s->open--;
		if (done)
			access_page(n);
		sim_next_access(s, n);
	}
	if (n->ivy && !n->ticking) {
		n->ticking = 1;
		sim_event_new(s, s->now + RETRY_NS, EV_TICK, n->id, 0);
	}
}

static void do_program(struct sim *s, struct sim_node *n)
{
	int status;

	if (!n->ivy || n->waits || (s->c.returns && n->id < s->c.homes))
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
	sim_next_access(s, n);
}

/* ---- the network ---------------------------------------------------------------------------- */

static int connected(struct sim *s, const struct event *e)
{
	const struct link *l = s->plain ? NULL : sim_link_of(s, e->a, e->b);

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
		sim_home_step(s, n, e.a);
	}
	free(e.payload);
}

/* ---- a run --------------------------------------------------------------------------------- */

void sim_node_start(struct sim *s, struct sim_node *n)
{
	struct ivy_config config = {
		.env = &sim_env,
		.user = n,
		.region = 1,
		.pages = s->c.pages,
		.page_size = s->page_size,
		.epoch = 1,
		.self = n->id,
		.nodes = (uint16_t)s->c.nodes,
		.max_entries = s->c.entries ? s->c.entries : 1u << 24,
		.max_txns = 1u << 20,
		.max_waiters = 1u << 20,
		.max_pages = 1u << 24,
		.max_relays = 1u << 16,
		.retry_ns = RETRY_NS,
		.round_ns = 4 * RETRY_NS,
		.max_old = s->c.changed ? DELTA_OLD : 0,
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
		sim_lost(s, e.a, e.b);
		break;
	case EV_BACK:
		sim_back(s, e.a, e.b);
		after(s, &s->node[e.b]);
		break;
	case EV_DEAD:
		sim_dead(s, e.a, e.b);
		break;
	case EV_CRASH:
		sim_crash(s, n);
		break;
	case EV_RESTART:
		sim_restart(s, n);
		break;
	case EV_PARTITION:
		sim_partition(s);
		break;
	case EV_HOME_CRASH:
		sim_home_crash(s, n);
		break;
	case EV_HOME_RETURN:
		sim_home_return(s, n);
		break;
	default:
		if (s->issued < s->c.ops)
			sim_chaos(s);
	}
	if (e.kind != EV_TICK && n->ticking == 2)
		n->ticking = 0;
	after(s, n);
}

/* What may pass of time without an access that ends: as many messages and pauses as no fault needs,
 * and a partition from its beginning to its end. */
static uint64_t most_idle(const struct sim_config *c)
{
	return 2000ull * (RETRY_NS + SLOW_FACTOR * (c->latency_ns + c->jitter_ns) + c->think_ns) +
	       c->partition_ns;
}

/* All events up to the end of all faults. */
static void run(struct sim *s)
{
	uint64_t done = 0, since = 0, idle = most_idle(&s->c);

	while (s->heap_count && !s->r->error[0]) {
		struct slot slot = heap_pop(s);

		s->now = slot.time;
		s->r->events++;
		dispatch(s, slot.event);
		sim_befall(s);
		s->free_events[s->free_count++] = slot.event;
		if (s->issued >= s->c.ops)
			s->stopping = 1;
		if (s->r->accesses + s->r->failed != done) {
			done = s->r->accesses + s->r->failed;
			since = s->r->time_ns = s->now;
		} else if (s->open && s->now - since > idle) {
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

static void sum_up_engine(struct sim *s, const struct sim_node *n)
{
	struct ivy_stats stats;

	if (!n->ivy)
		return;
	ivy_stats(n->ivy, &stats);
	s->r->refused += stats.refused;
	s->r->repeated += stats.repeated;
	s->r->lost += stats.lost;
	s->r->entries += stats.entries;
	s->r->reclaimed += stats.reclaimed;
	s->r->directory_bytes += stats.directory_bytes;
}

static void sum_up(struct sim *s)
{
	double squares = 0, programs = 0;
	uint32_t i;

	s->r->node_least = ~0ull;
	for (i = 0; i < s->c.nodes; i++)
		sum_up_engine(s, &s->node[i]);
	for (i = s->c.returns ? s->c.homes : 0; i < s->c.nodes; i++) {
		const struct sim_node *n = &s->node[i];

		programs++;
		squares += (double)n->ops * (double)n->ops;
		if (n->ops < s->r->node_least)
			s->r->node_least = n->ops;
		if (n->ops > s->r->node_most)
			s->r->node_most = n->ops;
	}
	if (squares > 0)
		s->r->fairness =
		    (double)s->r->accesses * (double)s->r->accesses / (squares * programs);
}

static void end(struct sim *s)
{
	uint32_t i;

	for (i = 0; i < s->heap_count; i++)
		free(s->events[s->heap[i].event].payload);
	for (i = 0; i < s->c.nodes; i++)
		if (s->node[i].ivy)
			ivy_free(s->node[i].ivy);
	for (i = 0; i < s->c.nodes; i++)
		free(s->node[i].owes);
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
	if (config->pattern == SIM_BROADCAST)
		s->c.ops = config->nodes - (config->returns ? config->homes : 0);
	s->page_size = config->changed ? DELTA_PAGE : PAGE_SIZE;
	s->plain = !config->jitter_ns && !config->chaos_ns && !config->loss &&
		   !config->partitions && !config->crashes && !config->returns && !config->twice;
	sim_env.store_kept = env_store_kept;
	sim_env.reserve = env_reserve;
	if (sim_work_init(&s->work, &s->c) != 0)
		must(NULL);
	s->node = must(calloc(config->nodes, sizeof(*s->node)));
	s->page = must(calloc(config->pages, sizeof(*s->page)));
	for (i = 0; i < config->nodes; i++) {
		s->node[i].sim = s;
		s->node[i].id = (uint16_t)i;
		sim_node_start(s, &s->node[i]);
		sim_next_access(s, &s->node[i]);
	}
	grow_links(s);
	if (config->chaos_ns)
		sim_event_new(s, config->chaos_ns, EV_CHAOS, 0, 0);
	run(s);
	if (config->pattern == SIM_BROADCAST)
		broadcast(s);
	sum_up(s);
	status = result->error[0] ? -1 : 0;
	end(s);
	return status;
}
