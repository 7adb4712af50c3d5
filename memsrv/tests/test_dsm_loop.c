/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that shared regions keep their promise when connections break at any message, messages are
 * late and connecting fails: homes (two workers each) and nodes, all in this process over the loop
 * provider with faults. Writers of the same words lose nothing, readers see nothing go backwards,
 * and when it is over everything is at the homes. Who keeps something made of a page's contents is
 * told in time that the page has gone; and a page that is held for a thread stays. Each round has a
 * seed, which is printed.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>
#include <gvmnet/cluster.h>
#include <gvmnet/dsm.h>
#include "dsm/memory.h"
#include "providers/provider.h"
#include "service.h"
#include "store.h"

#define HOMES     2u
#define NODES     3u
#define FIRST     16u
#define PAGES     64u
#define PAGE      GVM_PAGE_SIZE
#define WORDS     8u /* counters, each in a page of its own */
#define TIMES     150u
#define ONE_IN(n) (65536u / (n)) /* the provider's unit */

static struct gvm_cluster *cluster;
static struct {
	struct gvm_net *net;
	struct store *store;
	struct service *service;
	struct address at;
} home[HOMES];
static struct {
	struct gvm_net *net;
	struct gvm_dsm *dsm;
	uint8_t *mem;
	uint64_t sum;              /* what it has added */
	atomic_ulong taken[PAGES]; /* how often a page was taken from it */
	pthread_t thread;
} node[NODES];
static pthread_t ticker;
static int stop; /* an eventfd: the ticker ends */

static void *tick(void *arg)
{
	struct pollfd end = { .fd = stop, .events = POLLIN };

	while (poll(&end, 1, 20) == 0)
		for (unsigned i = 0; i < HOMES; i++)
			service_tick(home[i].service);
	return NULL;
}

static void open_net(unsigned id, struct gvm_net **net)
{
	struct gvm_net_config config = { .transport = "loop", .cluster = cluster, .node = id };

	assert_int_equal(gvm_net_open(&config, net), 0);
}

static void open_home(unsigned i)
{
	struct store_config store = {
		.memory = 64 << 20, .limit = 64 << 20, .max_regions = 16, .max_sessions = 1024
	};
	struct service_config service = { .workers = 2, .listens = 1 };

	open_net(i, &home[i].net);
	store.net = service.net = home[i].net;
	store.incarnation = gvm_net_incarnation(home[i].net);
	assert_int_equal(store_open(&store, &home[i].store), 0);
	home[i].at = (struct address){ .host = "loop", .port = 48000 + i };
	service.store = home[i].store;
	service.listen = &home[i].at;
	assert_int_equal(service_open(&service, &home[i].service), 0);
}

static void on_taken(void *arg, uint64_t offset)
{
	atomic_fetch_add((atomic_ulong *)arg + offset / PAGE, 1);
}

static void open_node(unsigned i)
{
	struct gvm_dsm_config config = { .name = "looped",
					 .flags = GVM_DSM_CREATE,
					 .bytes = PAGES * PAGE,
					 .slab_bytes = 64 << 10,
					 .local_bytes = 24 * PAGE,
					 .taken = on_taken,
					 .arg = node[i].taken };
	void *mem;

	assert_int_equal(gvm_dsm_open(node[i].net, &config, &node[i].dsm), 0);
	assert_int_equal(gvm_dsm_map(node[i].dsm, &mem), 0);
	node[i].mem = mem;
}

static int setup(void **state)
{
	static char map[512];
	struct gvm_loop_faults none = { 0 };
	int at = 0;

	gvm_loop_set_faults(&none);
	assert_int_equal(gvm_option_set("GVM_DSM_RETRY_MS", "20"), 0);
	assert_int_equal(gvm_option_set("GVM_DSM_ROUND_MS", "50"), 0);
	assert_int_equal(gvm_option_set("GVM_BACKOFF_MAX_MS", "10"), 0);
	for (unsigned i = 0; i < HOMES; i++)
		at += snprintf(map + at, sizeof(map) - (size_t)at, "%u loop %u role=memory\n", i,
			       48000 + i);
	for (unsigned i = 0; i < NODES; i++)
		at += snprintf(map + at, sizeof(map) - (size_t)at, "%u loop %u role=compute\n",
			       FIRST + i, 48100 + i);
	assert_int_equal(gvm_cluster_parse(map, (size_t)at, "map", &cluster, NULL), 0);
	for (unsigned i = 0; i < HOMES; i++)
		open_home(i);
	stop = eventfd(0, EFD_CLOEXEC);
	assert_true(stop >= 0);
	assert_int_equal(pthread_create(&ticker, NULL, tick, NULL), 0);
	for (unsigned i = 0; i < NODES; i++) {
		open_net(FIRST + i, &node[i].net);
		open_node(i);
	}
	return 0;
}

static int teardown(void **state)
{
	struct gvm_loop_faults none = { 0 };

	gvm_loop_set_faults(&none);
	for (unsigned i = 0; i < NODES; i++) {
		gvm_dsm_close(node[i].dsm);
		gvm_net_close(node[i].net);
	}
	assert_int_equal(eventfd_write(stop, 1), 0);
	pthread_join(ticker, NULL);
	close(stop);
	for (unsigned i = 0; i < HOMES; i++) {
		service_close(home[i].service);
		store_close(home[i].store);
		gvm_net_close(home[i].net);
	}
	gvm_cluster_free(cluster);
	return 0;
}

static _Atomic uint64_t *word(unsigned n, unsigned w)
{
	return (_Atomic uint64_t *)(node[n].mem + (uint64_t)w * 8 * PAGE + 64);
}

/* Adds to all counters in an order of its own, and reads what the others have come to. */
static void *work(void *arg)
{
	unsigned n = (unsigned)(uintptr_t)arg, random = n * 7919 + 1;
	uint64_t seen[WORDS] = { 0 };

	for (unsigned i = 0; i < TIMES; i++) {
		unsigned w = (random = random * 1103515245 + 12345) >> 16, r = w >> 4;
		uint64_t value;

		atomic_fetch_add(word(n, w % WORDS), 1);
		value = atomic_load(word(n, r % WORDS));
		if (value < seen[r % WORDS])
			return "a counter went backwards";
		seen[r % WORDS] = value;
		/* pages that only one node writes, so that there is eviction */
		((_Atomic uint64_t *)(node[n].mem + (i % PAGES) * PAGE))[1 + n] = i;
	}
	return NULL;
}

static void run_all(void)
{
	for (unsigned i = 0; i < NODES; i++)
		assert_int_equal(pthread_create(&node[i].thread, NULL, work, (void *)(uintptr_t)i),
				 0);
	for (unsigned i = 0; i < NODES; i++) {
		void *wrong;

		pthread_join(node[i].thread, &wrong);
		if (wrong)
			fail_msg("node %u: %s", i, (const char *)wrong);
	}
}

static void check_sums(unsigned rounds)
{
	for (unsigned n = 0; n < NODES; n++) {
		uint64_t sum = 0;

		for (unsigned w = 0; w < WORDS; w++)
			sum += atomic_load(word(n, w));
		assert_int_equal(sum, (uint64_t)rounds * NODES * TIMES);
	}
}

static void nothing_refused(void)
{
	struct gvm_dsm_stats st;

	for (unsigned n = 0; n < NODES; n++) {
		gvm_dsm_stats(node[n].dsm, &st);
		assert_int_equal(st.refused, 0);
		assert_int_equal(st.faults_failed, 0);
		assert_int_equal(st.homes_dead, 0);
	}
}

static void all_is_kept_without_faults(void **state)
{
	run_all();
	check_sums(1);
	nothing_refused();
}

/* What a node has made of a page: good for as long as the page has not been taken from it. */
struct made {
	uint64_t value;
	unsigned long taken;
};

static uint64_t use(unsigned n, unsigned w, struct made *made)
{
	unsigned long taken = atomic_load(&node[n].taken[w * 8]);

	if (made->taken != taken || !made->value) {
		made->taken = taken;
		made->value = atomic_load(word(n, w));
	}
	return made->value;
}

#define ROUNDS 400u

/* Waits for the flag, and then uses what it has made of the other word's page. */
static void *use_all(void *arg)
{
	unsigned n = (unsigned)(uintptr_t)arg;
	struct made made = { 0 };

	for (uint64_t r = 1; r <= ROUNDS; r++) {
		while (atomic_load(word(n, 1)) < r)
			;
		if (use(n, 0, &made) != r)
			return "what was made of an old content was used";
		atomic_store(word(n, 1 + n), r);
	}
	return NULL;
}

static void what_was_made_of_a_page_goes_with_it(void **state)
{
	void *wrong;

	for (unsigned n = 1; n < NODES; n++)
		assert_int_equal(
		    pthread_create(&node[n].thread, NULL, use_all, (void *)(uintptr_t)n), 0);
	for (uint64_t r = 1; r <= ROUNDS; r++) {
		atomic_store(word(0, 0), r);
		atomic_store(word(0, 1), r);
		for (unsigned n = 1; n < NODES; n++)
			while (atomic_load(word(0, 1 + n)) < r)
				;
	}
	for (unsigned n = 1; n < NODES; n++) {
		pthread_join(node[n].thread, &wrong);
		assert_null(wrong);
		assert_true(atomic_load(&node[n].taken[0]) >= ROUNDS - 1);
	}
	nothing_refused();
}

/* How often the page of word 2 is said to be held, and to be asked about again at a time that is
 * over: as if the CPU had been taken from who asks until then. */
static atomic_int held;

uint64_t __real_dsm_memory_held_until(struct dsm_memory *m, uint64_t page);
uint64_t __wrap_dsm_memory_held_until(struct dsm_memory *m, uint64_t page);

uint64_t __wrap_dsm_memory_held_until(struct dsm_memory *m, uint64_t page)
{
	if (page == 2 * 8 && atomic_load(&held) > 0 && atomic_fetch_sub(&held, 1) > 0)
		return 1;
	return __real_dsm_memory_held_until(m, page);
}

static void a_page_is_not_taken_while_it_is_held(void **state)
{
	atomic_store(word(0, 2), 5);
	atomic_store(&held, 3);
	assert_int_equal(atomic_load(word(1, 2)), 5);
	assert_int_equal(atomic_load(&held), 0);
	nothing_refused();
}

static void run_with(struct gvm_loop_faults faults, unsigned rounds)
{
	struct gvm_loop_faults none = { 0 };
	struct gvm_dsm_stats st;
	const char *text = getenv("GVM_DSM_SEED");
	uint64_t lost = 0;

	faults.seed = text ? strtoull(text, NULL, 0) : gvm_now();
	for (unsigned r = 0; r < rounds; r++, faults.seed++) {
		print_message("[          ] GVM_DSM_SEED=%llu\n", (unsigned long long)faults.seed);
		gvm_loop_set_faults(&faults);
		run_all();
		gvm_loop_set_faults(&none);
		check_sums(r + 1);
		nothing_refused();
	}
	for (unsigned n = 0; n < NODES; n++) {
		gvm_dsm_stats(node[n].dsm, &st);
		lost += st.sessions_lost;
	}
	if (faults.drop_conn)
		assert_true(lost > 0);
}

static void connections_that_break_lose_nothing(void **state)
{
	run_with((struct gvm_loop_faults){ .drop_conn = ONE_IN(200), .refuse = ONE_IN(4) }, 2);
}

static void messages_that_are_late_lose_nothing(void **state)
{
	run_with((struct gvm_loop_faults){ .delay = ONE_IN(4), .delay_ns = 2000000 }, 1);
}

static void both_lose_nothing(void **state)
{
	run_with((struct gvm_loop_faults){ .drop_conn = ONE_IN(300),
					   .delay = ONE_IN(8),
					   .delay_ns = 1000000,
					   .refuse = ONE_IN(8) },
		 2);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(all_is_kept_without_faults),           T(what_was_made_of_a_page_goes_with_it),
		T(a_page_is_not_taken_while_it_is_held), T(connections_that_break_lose_nothing),
		T(messages_that_are_late_lose_nothing),  T(both_lose_nothing),
	};

	setenv("GVM_DSM_FENCE_MS", "30000", 1); /* nobody is lost */
	gvm_log_set_level(GVM_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
