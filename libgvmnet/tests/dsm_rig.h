/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Nodes that share a region, all in this process: each has an engine, a memory of its own, and a
 * thread that reads its faults and its messages, which the others put into its queue.
 */
#ifndef DSM_RIG_H
#define DSM_RIG_H

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <gvmnet/gvmnet.h>
#include "dsm/memory.h"
#include "ivy/ivy.h"
#include "pager/mem.h"

#define PAGE      GVM_PAGE_SIZE
#define NODES_MAX 4

struct kind {
	const char *name;
	unsigned quirks, fds;
};
static const struct kind kinds[] = {
	{ "this kernel", 0, 1 },
	{ "as 6.1", QUIRK_NO_POISON | QUIRK_NO_CONTINUE_WP, 1 },
	{ "3 descriptors", 0, 3 },
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

struct frame {
	struct frame *next;
	uint16_t from;
	struct gvm_hdr hdr;
	char payload[];
};

/* What a home does with a WRITE: refuse it, as one without room, or leave it until it is not so any
 * more. */
enum { FULL_NOT, FULL_REFUSES, FULL_WAITS };

struct bed;
struct node {
	struct bed *bed;
	uint16_t id;
	pthread_t thread;
	struct ivy *ivy;
	struct dsm_memory *memory;
	char *mem; /* where its programs have the region */
	char **store;
	uint64_t seed;
	struct frame *kept; /* for pages that are left to a thread for a while */
	uint8_t *late;      /* per page: what is done only when the next thing comes */

	pthread_mutex_t lock;
	struct frame *first, *last; /* under lock; the node's thread alone when it stops */
	int wake;
	bool stop; /* under lock */
	int home_dies; /* under lock: 1 + the home that is to be dead to it */
	int home_dead; /* 1 + the one that is: nothing is heard of it */

	struct dsm_memory_stats stats; /* under lock: as of the last round */
	struct ivy_stats ivy_stats;
};

struct bed {
	const struct kind *kind;
	unsigned nodes;
	uint64_t pages, budget, hold_ns;
	uint32_t max_pages;
	uint64_t refuse_ns, wait_ns;
	bool late; /* a fault that is built in: pages are closed after all have been told */
	int full;  /* atomic: FULL_*, of all homes */
	struct node node[NODES_MAX];
};

/* ---- what an engine acts through ----------------------------------------------------------- */

static void *env_alloc(void *user, size_t size)
{
	return malloc(size);
}

static void env_free(void *user, void *mem, size_t size)
{
	free(mem);
}

static void node_wake(struct node *n)
{
	uint64_t one = 1;

	if (write(n->wake, &one, sizeof(one)) != sizeof(one))
		abort();
}

static void env_send(void *user, uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	struct node *n = user, *peer = &n->bed->node[to];
	struct frame *f = malloc(sizeof(*f) + h->length);

	f->next = NULL;
	f->from = n->id;
	f->hdr = *h;
	if (h->length)
		memcpy(f->payload, payload, h->length);
	pthread_mutex_lock(&peer->lock);
	if (peer->last)
		peer->last->next = f;
	else
		peer->first = f;
	peer->last = f;
	pthread_mutex_unlock(&peer->lock);
	node_wake(peer);
}

static uint16_t env_home(void *user, uint64_t page)
{
	struct node *n = user;

	return (uint16_t)(page % n->bed->nodes);
}

static uint64_t env_nonce(void *user)
{
	struct node *n = user;

	n->seed = n->seed * 6364136223846793005ull + 1442695040888963407ull;
	return n->seed ^ n->seed >> 29;
}

static const void *env_copy_read(void *user, uint64_t page)
{
	return dsm_memory_copy_read(((struct node *)user)->memory, page);
}

#define LATE_CLOSE 1u
#define LATE_DROP  2u

static void do_late(struct node *n, uint64_t page)
{
	unsigned what = n->late[page];

	n->late[page] = 0;
	if (what)
		dsm_memory_protect(n->memory, page, IVY_NONE);
	if (what & LATE_DROP)
		dsm_memory_copy_drop(n->memory, page);
}

static int env_copy_write(void *user, uint64_t page, const void *bytes)
{
	struct node *n = user;

	do_late(n, page);
	return dsm_memory_copy_write(n->memory, page, bytes);
}

static void env_copy_drop(void *user, uint64_t page)
{
	struct node *n = user;

	if (n->late[page])
		n->late[page] |= LATE_DROP;
	else
		dsm_memory_copy_drop(n->memory, page);
}

static void env_protect(void *user, uint64_t page, enum ivy_access access)
{
	struct node *n = user;

	do_late(n, page);
	if (n->bed->late && access == IVY_NONE)
		n->late[page] = LATE_CLOSE;
	else
		dsm_memory_protect(n->memory, page, access);
}

static const void *env_store_read(void *user, uint64_t page)
{
	return ((struct node *)user)->store[page];
}

static int env_store_write(void *user, uint64_t page, const void *bytes)
{
	struct node *n = user;

	if (!n->store[page])
		n->store[page] = malloc(PAGE);
	if (bytes)
		memcpy(n->store[page], bytes, PAGE);
	else
		memset(n->store[page], 0, PAGE);
	return 0;
}

static void env_fault_done(void *user, uint64_t page, enum ivy_access access, int status)
{
	dsm_memory_end(((struct node *)user)->memory, page, status);
}

static const struct ivy_env env = IVY_ENV(env_);

static int on_fault(void *user, uint64_t page, enum ivy_access access)
{
	return ivy_fault(((struct node *)user)->ivy, page, access);
}

static int on_evict(void *user, uint64_t page)
{
	return ivy_evict(((struct node *)user)->ivy, page);
}

/* ---- a node's thread ----------------------------------------------------------------------- */

static bool takes_away(uint8_t type)
{
	return type == GVM_COH_FWD_READ || type == GVM_COH_FWD_WRITE || type == GVM_COH_INV ||
	       type == GVM_COH_RECALL;
}

/* Behind what is kept of that page; else only what would take a page away that is in use. */
static bool is_kept(struct node *n, const struct frame *f)
{
	for (struct frame *k = n->kept; k; k = k->next)
		if (k->hdr.page == f->hdr.page)
			return true;
	return takes_away(f->hdr.type) && dsm_memory_held_until(n->memory, f->hdr.page);
}

static void refuse(struct node *n, const struct frame *f)
{
	struct gvm_hdr nak = { .type = GVM_COH_NAK,
			       .region = f->hdr.region,
			       .page = f->hdr.page,
			       .epoch = f->hdr.epoch,
			       .xid = f->hdr.xid,
			       .status = (uint16_t)gvm_wire_status(-ENOSPC) };

	env_send(n, f->from, &nak, NULL);
}

static int fullness(const struct node *n, const struct frame *f)
{
	return f->hdr.type == GVM_COH_WRITE ? __atomic_load_n(&n->bed->full, __ATOMIC_SEQ_CST)
					    : FULL_NOT;
}

/* In order, but what is kept longer. */
static void take_frames(struct node *n, struct frame *f)
{
	struct frame **end, *next;

	for (; f; f = next) {
		next = f->next;
		f->next = NULL;
		if (f->from + 1 == n->home_dead) {
			free(f);
			continue;
		}
		if ((n->bed->hold_ns && is_kept(n, f)) || fullness(n, f) == FULL_WAITS) {
			for (end = &n->kept; *end; end = &(*end)->next)
				;
			*end = f;
			continue;
		}
		if (fullness(n, f) == FULL_REFUSES) {
			refuse(n, f);
			free(f);
			continue;
		}
		/* What changes while it is sent may not fit its digest: that is noticed, and it is
		 * asked for again. */
		if (ivy_receive(n->ivy, f->from, &f->hdr, f->hdr.length ? f->payload : NULL) != 0 &&
		    !(n->bed->late && f->hdr.flags & GVM_F_DELTA)) {
			fprintf(stderr, "node %u: %s of page %llu from %u is refused\n", n->id,
				gvm_coh_name(f->hdr.type), (unsigned long long)f->hdr.page,
				f->from);
			abort(); /* an assertion would end another thread's test */
		}
		free(f);
	}
}

static void take_kept(struct node *n)
{
	struct frame *f = n->kept;

	n->kept = NULL;
	take_frames(n, f);
}

/* Whether to go on. */
static bool take_queue(struct node *n)
{
	struct frame *f;
	int dies;
	bool stop;

	pthread_mutex_lock(&n->lock);
	f = n->first;
	n->first = n->last = NULL;
	stop = n->stop;
	dies = n->home_dies;
	n->home_dies = 0;
	pthread_mutex_unlock(&n->lock);
	if (n->kept)
		take_kept(n);
	take_frames(n, f);
	if (dies) {
		n->home_dead = dies;
		ivy_peer_dead(n->ivy, (uint16_t)(dies - 1));
	}
	return !stop;
}

/* Rounds that all nodes' threads have made, 50 a second each at least. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t made;
	uint64_t count; /* under lock */
} rounds = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0 };

static inline uint64_t rounds_made(void)
{
	uint64_t count;

	pthread_mutex_lock(&rounds.lock);
	count = rounds.count;
	pthread_mutex_unlock(&rounds.lock);
	return count;
}

/* Until there are more than so many. */
static inline void await_round(uint64_t before)
{
	pthread_mutex_lock(&rounds.lock);
	while (rounds.count == before)
		pthread_cond_wait(&rounds.made, &rounds.lock);
	pthread_mutex_unlock(&rounds.lock);
}

static void publish(struct node *n)
{
	pthread_mutex_lock(&n->lock);
	dsm_memory_stats(n->memory, &n->stats);
	ivy_stats(n->ivy, &n->ivy_stats);
	pthread_mutex_unlock(&n->lock);
	pthread_mutex_lock(&rounds.lock);
	rounds.count++;
	pthread_cond_broadcast(&rounds.made);
	pthread_mutex_unlock(&rounds.lock);
}

static void close_late(struct node *n)
{
	for (uint64_t page = 0; page < n->bed->pages; page++)
		do_late(n, page);
}

static long pause_ns(const struct node *n, int more)
{
	return more == 1 ? 0 : n->kept ? 10000 : 20000000;
}

static void *node_main(void *arg)
{
	struct node *n = arg;
	unsigned fds = dsm_memory_fds(n->memory);
	struct pollfd poll_fd[1 + DSM_MEMORY_FDS_MAX] = { { .fd = n->wake, .events = POLLIN } };
	bool go_on;
	int more = 0;

	prctl(PR_SET_TIMERSLACK, 1);
	for (unsigned i = 0; i < fds; i++)
		poll_fd[1 + i] = (struct pollfd){ .fd = dsm_memory_fd(n->memory, i),
						  .events = POLLIN };
	do {
		uint64_t count;

		if (ppoll(poll_fd, 1 + fds, &(struct timespec){ .tv_nsec = pause_ns(n, more) },
			  NULL) == 0)
			dsm_memory_bury(n->memory);
		if (n->bed->late)
			close_late(n);
		if (poll_fd[0].revents)
			(void)!read(n->wake, &count, sizeof(count));
		for (unsigned i = 0; i < fds; i++)
			if (poll_fd[1 + i].revents)
				dsm_memory_read(n->memory, i);
		ivy_tick(n->ivy, gvm_now());
		more = dsm_memory_trim(n->memory);
		publish(n);
		go_on = take_queue(n);
	} while (go_on);
	return NULL;
}

/* ---- making and unmaking ------------------------------------------------------------------- */

static void open_node(struct bed *bed, uint16_t id)
{
	struct node *n = &bed->node[id];
	struct dsm_memory_config memory = { .pages = bed->pages,
					    .budget = bed->budget,
					    .fds = bed->kind->fds,
					    .hold_ns = bed->hold_ns,
					    .refuse_ns = bed->refuse_ns,
					    .user = n,
					    .fault = on_fault,
					    .evict = on_evict };
	struct ivy_config ivy = { .env = &env,
				  .user = n,
				  .region = 7,
				  .pages = bed->pages,
				  .page_size = PAGE,
				  .epoch = 1,
				  .self = id,
				  .nodes = (uint16_t)bed->nodes,
				  .max_entries = 1u << 20,
				  .max_txns = 4096,
				  .max_waiters = 4096,
				  .max_pages = bed->max_pages ? bed->max_pages : 1u << 20,
				  .max_relays = 64,
				  .retry_ns = 1000000000,
				  .round_ns = 1000000000,
				  .wait_ns = bed->wait_ns };

	n->bed = bed;
	n->id = id;
	n->seed = id + 1;
	n->store = calloc(bed->pages, sizeof(*n->store));
	n->late = calloc(bed->pages, 1);
	pthread_mutex_init(&n->lock, NULL);
	n->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(dsm_memory_open(&memory, &n->memory), 0);
	assert_int_equal(ivy_new(&ivy, &n->ivy), 0);
	ivy_tick(n->ivy, gvm_now());
	n->mem = dsm_memory_base(n->memory);
}

/* A region without a thread that serves it yet would be a fault that nobody reads. */
static void open_bed(struct bed *bed, const struct kind *kind)
{
	pager_quirks = kind->quirks;
	bed->kind = kind;
	if (getenv("TEST_VERBOSE"))
		fprintf(stderr, "  %s\n", kind->name);
	for (unsigned i = 0; i < bed->nodes; i++)
		open_node(bed, (uint16_t)i);
	for (unsigned i = 0; i < bed->nodes; i++)
		assert_int_equal(
		    pthread_create(&bed->node[i].thread, NULL, node_main, &bed->node[i]), 0);
}

static void free_frames(struct frame *f)
{
	while (f) {
		struct frame *next = f->next;

		free(f);
		f = next;
	}
}

static void close_bed(struct bed *bed)
{
	for (unsigned i = 0; i < bed->nodes; i++) {
		struct node *n = &bed->node[i];

		pthread_mutex_lock(&n->lock);
		n->stop = true;
		pthread_mutex_unlock(&n->lock);
		node_wake(n);
		pthread_join(n->thread, NULL);
	}
	for (unsigned i = 0; i < bed->nodes; i++) {
		struct node *n = &bed->node[i];

		ivy_free(n->ivy);
		dsm_memory_close(n->memory);
		free_frames(n->first);
		free_frames(n->kept);
		for (uint64_t p = 0; p < bed->pages; p++)
			free(n->store[p]);
		free(n->store);
		free(n->late);
		close(n->wake);
		pthread_mutex_destroy(&n->lock);
	}
	pager_quirks = 0;
}

static inline struct dsm_memory_stats memory_stats(struct node *n)
{
	struct dsm_memory_stats s;

	pthread_mutex_lock(&n->lock);
	s = n->stats;
	pthread_mutex_unlock(&n->lock);
	return s;
}

#define SOON_NS 20000000000ull

/* For what nodes' threads bring about: looked at after each of their rounds. */
#define COMES_ABOUT(what)                                                                          \
	({                                                                                         \
		uint64_t until_ = gvm_now() + SOON_NS, made_ = rounds_made();                      \
		bool is_;                                                                          \
                                                                                                   \
		while (!(is_ = (what)) && gvm_now() < until_) {                                    \
			await_round(made_);                                                        \
			made_ = rounds_made();                                                     \
		}                                                                                  \
		is_;                                                                               \
	})

/* For what comes about by chance, if it is tried often enough. */
#define IS_MET(what)                                                                               \
	({                                                                                         \
		uint64_t until_ = gvm_now() + SOON_NS;                                             \
		bool is_;                                                                          \
                                                                                                   \
		while (!(is_ = (what)) && gvm_now() < until_)                                      \
			;                                                                          \
		is_;                                                                               \
	})

#define EACH_KIND(kind) for (const struct kind *kind = kinds; kind < kinds + KINDS; kind++)

/* ---- accesses that fail -------------------------------------------------------------------- */

static __thread sigjmp_buf rig_after;
static __thread volatile int rig_signal;

static void on_signal(int signal)
{
	rig_signal = signal;
	siglongjmp(rig_after, 1);
}

/* The signal that an access raises, or 0. */
static inline int signal_of(char *at, bool write)
{
	struct sigaction action = { .sa_handler = on_signal }, bus, segv;

	sigaction(SIGBUS, &action, &bus);
	sigaction(SIGSEGV, &action, &segv);
	rig_signal = 0;
	if (sigsetjmp(rig_after, 1) == 0) {
		if (write)
			__atomic_store_n(at, 1, __ATOMIC_RELAXED);
		else
			(void)__atomic_load_n(at, __ATOMIC_RELAXED);
	}
	sigaction(SIGBUS, &bus, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	return rig_signal;
}

#endif
