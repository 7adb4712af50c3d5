/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The pager over real memory nodes: two gvm-memsrv processes over tcp with a key and an image file
 * each. Contents hold far over the budget; a node is killed and comes back with and without its
 * data; saved regions are attached again; forked children have their own view.
 */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <gvmnet/cluster.h>
#include <gvmnet/pager.h>

#define NODES     2
#define NODE_ARGS "--memory", "128M", "--workers", "1"
#include "nodes.h"

#define PAGE   4096u
#define MIB    (1ull << 20)
#define BYTES  (12 * MIB)
#define PAGES  (BYTES / PAGE)
#define BUDGET (2 * MIB)

static struct gvm_cluster *cluster;
static struct gvm_net *net;
static struct gvm_pager *pager;
static struct gvm_range *range;
static char *mem;

/* ---- pager --------------------------------------------------------------------------------- */

static void open_pager(unsigned threads)
{
	struct gvm_net_config net_config = { .transport = "tcp",
					     .node = GVM_NODE_NONE,
					     .key_file = key_file };
	struct gvm_pager_config config;
	char *error = NULL;

	assert_int_equal(gvm_cluster_parse(map, strlen(map), "test", &cluster, &error), 0);
	net_config.cluster = cluster;
	assert_int_equal(gvm_net_open(&net_config, &net), 0);
	gvm_pager_config_init(&config);
	config.local_bytes = BUDGET;
	config.threads = threads;
	config.slab_bytes = 1 * MIB;
	assert_int_equal(gvm_pager_open(net, &config, &pager), 0);
}

static void attach(const char *name, unsigned flags)
{
	assert_int_equal(
	    gvm_pager_attach(pager, name, NULL, BYTES, -1, 0, GVM_ATTACH_ANON | flags, &range), 0);
	mem = gvm_range_base(range);
}

static void close_pager(void)
{
	gvm_pager_close(pager);
	gvm_net_close(net);
	gvm_cluster_free(cluster);
}

static int setup(void **state)
{
	nodes_start();
	return 0;
}

static int teardown(void **state)
{
	nodes_end();
	return 0;
}

/* ---- contents ------------------------------------------------------------------------------ */

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static void fill_page(uint64_t page, uint64_t seed)
{
	uint64_t *p = (uint64_t *)(mem + page * PAGE);

	for (unsigned i = 0; i < PAGE / 8; i += 32)
		p[i] = mix(page * 1000003 + seed + i);
}

static bool page_is(uint64_t page, uint64_t seed)
{
	const uint64_t *p = (const uint64_t *)(mem + page * PAGE);

	for (unsigned i = 0; i < PAGE / 8; i += 32)
		if (p[i] != mix(page * 1000003 + seed + i))
			return false;
	return true;
}

static void fill(uint64_t seed)
{
	for (uint64_t p = 0; p < PAGES; p++)
		fill_page(p, seed);
}

static void check(uint64_t seed)
{
	for (uint64_t p = 0; p < PAGES; p++)
		if (!page_is(p, seed))
			fail_msg("page %llu has not the contents of seed %llu",
				 (unsigned long long)p, (unsigned long long)seed);
}

/* ---- tests --------------------------------------------------------------------------------- */

static void contents_hold(void **state)
{
	for (unsigned threads = 1; threads <= 3; threads += 2) {
		struct gvm_pager_stats s;
		uint64_t x = 5;

		open_pager(threads);
		attach("vm", 0);
		fill(1);
		check(1);
		for (unsigned i = 0; i < 4000; i++) {
			uint64_t p = (x = mix(x + i)) % PAGES;

			assert_true(page_is(p, 1));
			fill_page(p, 1);
		}
		gvm_pager_stats(pager, &s, NULL);
		assert_true(s.local_pages <= BUDGET / PAGE);
		assert_true(s.fetched_pages > PAGES && s.written_pages > PAGES / 2);
		/* the middle is discarded, and is zeros here and there */
		assert_int_equal(gvm_pager_discard(range, BYTES / 4, BYTES / 2), 0);
		for (uint64_t p = 0; p < PAGES; p++) {
			if (p >= PAGES / 4 && p < PAGES / 4 * 3)
				assert_int_equal(*(uint64_t *)(mem + p * PAGE), 0);
			else
				assert_true(page_is(p, 1));
		}
		close_pager();
	}
}

static atomic_int over;
static atomic_uint seed_now;

static void *writer(void *arg)
{
	while (!over) {
		check(seed_now);
		fill(seed_now + 1);
		seed_now++;
	}
	return NULL;
}

static uint64_t now_ms(void)
{
	return gvm_now() / 1000000;
}

/* Look again until it is so. */
#define AWAIT(cond)                                                                                \
	do {                                                                                       \
		for (uint64_t end_ = now_ms() + 60000; !(cond); poll(NULL, 0, 1))                  \
			assert_true(now_ms() < end_);                                              \
	} while (0)

static uint64_t nodes_away(void)
{
	struct gvm_pager_stats s;

	gvm_pager_stats(pager, &s, NULL);
	return s.nodes_away;
}

/* Killed in the middle and back on its image: the program stalls, goes on, and all is right. */
static void a_killed_node_comes_back(void **state)
{
	pthread_t thread;

	open_pager(1);
	attach("vm", 0);
	seed_now = 1;
	fill(1);
	over = 0;
	pthread_create(&thread, NULL, writer, NULL);
	/* from this thread, whose end would end the nodes */
	for (unsigned i = 0; i < 4; i++) {
		unsigned seed = seed_now;

		AWAIT(seed_now > seed);
		node_end(i % NODES, SIGKILL);
		AWAIT(nodes_away() == 1);
		node_start(i % NODES);
		AWAIT(nodes_away() == 0);
	}
	over = 1;
	pthread_join(thread, NULL);
	check(seed_now);
	close_pager();
}

static sigjmp_buf after_bus;

static void on_bus(int signal)
{
	siglongjmp(after_bus, 1);
}

static bool touch_is_fatal(const char *at)
{
	if (sigsetjmp(after_bus, 1))
		return true;
	(void)__atomic_load_n(at, __ATOMIC_RELAXED);
	return false;
}

/* Back without its data: accesses fail loudly, and no page is made up. */
static void a_node_without_its_data_is_known(void **state)
{
	struct sigaction action = { .sa_handler = on_bus }, old;
	unsigned lost = 0, right = 0;

	open_pager(1);
	attach("vm", 0);
	fill(3);
	assert_int_equal(gvm_pager_sync(range), 0);
	node_end(1, SIGKILL);
	node_wipe(1);
	node_start(1);
	sigaction(SIGBUS, &action, &old);
	for (uint64_t p = 0; p < PAGES; p += 16) {
		if (touch_is_fatal(mem + p * PAGE)) {
			lost++;
		} else {
			assert_true(page_is(p, 3));
			right++;
		}
	}
	sigaction(SIGBUS, &old, NULL);
	assert_true(lost > 0 && right > 0);
	close_pager();
}

static void open_zero_pager(const char *ms)
{
	setenv("GVM_UNREACHABLE", "zero", 1);
	setenv("GVM_UNREACHABLE_MS", ms, 1);
	open_pager(1);
	unsetenv("GVM_UNREACHABLE");
	unsetenv("GVM_UNREACHABLE_MS");
}

/* Back without its data, policy zero: pages are right, or zeros that are counted, never SIGBUS. */
static void a_node_without_its_data_gives_zeros_by_policy(void **state)
{
	struct sigaction action = { .sa_handler = on_bus }, old;
	struct gvm_pager_stats s;
	unsigned lost = 0;
	uint64_t x = 7;

	open_zero_pager("60000");
	attach("vm", 0);
	fill(3);
	assert_int_equal(gvm_pager_sync(range), 0);
	node_end(1, SIGKILL);
	node_wipe(1);
	node_start(1);
	sigaction(SIGBUS, &action, &old);
	for (uint64_t p = 0; p < PAGES; p++) {
		assert_false(touch_is_fatal(mem + p * PAGE));
		if (!page_is(p, 3)) {
			assert_int_equal(*(uint64_t *)(mem + p * PAGE), 0);
			lost++;
		}
	}
	assert_true(lost > BUDGET / PAGE && lost < PAGES);
	for (unsigned i = 0; i < 4 * PAGES; i++) {
		uint64_t p = (x = mix(x + i)) % PAGES;

		assert_false(touch_is_fatal(mem + p * PAGE));
		fill_page(p, 3);
	}
	sigaction(SIGBUS, &old, NULL);
	gvm_pager_stats(pager, &s, NULL);
	assert_true(s.unreachable_zeroed >= lost && s.lost_pages >= lost);
	assert_int_equal(s.unreachable_sigbus, 0);
	close_pager();
}

/* How many pages read as zeros. */
static unsigned zeros(void)
{
	unsigned n = 0;

	for (uint64_t p = 0; p < PAGES; p++) {
		if (page_is(p, 3))
			continue;
		assert_int_equal(*(uint64_t *)(mem + p * PAGE), 0);
		n++;
	}
	return n;
}

/* One of two is gone: its pages cost the wait once, the other's pages are right; then it is back.
 */
static void zeros_come_at_once_from_a_dead_node(void **state)
{
	const uint64_t wait_ms = 1000;
	struct gvm_pager_stats before, after;
	uint64_t start;
	unsigned n;

	open_zero_pager("1000");
	attach("vm", 0);
	fill(3);
	assert_int_equal(gvm_pager_sync(range), 0);
	node_end(1, SIGKILL);
	start = now_ms();
	n = zeros();
	/* far less than the wait for each */
	assert_true(n > BUDGET / PAGE);
	assert_true(now_ms() - start < n / 16 * wait_ms);
	gvm_pager_stats(pager, &before, NULL);
	assert_int_equal(before.unreachable_zeroed, n);
	node_start(1);
	AWAIT(nodes_away() == 0);
	/* what is here already stays as it is, what is fetched is right */
	assert_true(zeros() <= BUDGET / PAGE);
	gvm_pager_stats(pager, &after, NULL);
	assert_int_equal(after.unreachable_zeroed, n);
	close_pager();
}

static void saved_regions_come_back(void **state)
{
	open_pager(1);
	attach("kept", GVM_ATTACH_SAVE);
	fill(4);
	assert_int_equal(gvm_pager_detach(range), 0);
	close_pager();
	nodes_restart();
	open_pager(2);
	attach("kept", GVM_ATTACH_SAVE | GVM_ATTACH_KEEP);
	check(4);
	assert_int_equal(gvm_pager_detach(range), 0);
	close_pager();
}

static int detach_and_go(void)
{
	open_pager(2);
	attach("kept", GVM_ATTACH_SAVE | GVM_ATTACH_KEEP);
	for (uint64_t p = 0; p < PAGES; p++)
		if (!page_is(p, 4))
			return 3;
	return gvm_pager_detach(range) ? 2 : 0;
}

/* Who has detached a region has let go of it, also if the process ends there and then. */
static void a_detached_region_is_free(void **state)
{
#ifdef __SANITIZE_THREAD__
	skip(); /* it does not let a child of a process with threads have threads */
#endif
	open_pager(1);
	attach("kept", GVM_ATTACH_SAVE);
	fill(4);
	assert_int_equal(gvm_pager_detach(range), 0);
	close_pager();
	for (unsigned i = 0; i < 10; i++) {
		pid_t pid = fork();
		int status;

		if (pid == 0)
			_exit(detach_and_go());
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
	}
}

/* 0, or which check failed. */
static int live_as_child(unsigned generations)
{
	int status = 0;
	pid_t pid = 0;

	if (gvm_pager_fork_child(pager))
		return 2;
	for (uint64_t p = 0; p < PAGES; p++)
		if (!page_is(p, 20))
			return 3;
	if (generations) {
		if (gvm_pager_fork_prepare(pager))
			return 4;
		pid = fork();
		if (pid == 0)
			_exit(live_as_child(generations - 1));
		gvm_pager_fork_parent(pager, pid > 0);
	}
	fill(30);
	for (uint64_t p = 0; p < PAGES; p++)
		if (!page_is(p, 30))
			return 5;
	if (generations && (waitpid(pid, &status, 0) != pid || status))
		return WIFEXITED(status) ? 10 + WEXITSTATUS(status) : 6;
	gvm_pager_close(pager);
	return 0;
}

/* Is the text in what a node lists? Its image begins with the names. */
static bool node_has_text(unsigned i, const char *text)
{
	static char head[1 << 20];
	char name[64];
	ssize_t len;
	int fd;

	image_name(i, name, sizeof(name));
	fd = open(name, O_RDONLY | O_CLOEXEC);
	len = pread(fd, head, sizeof(head), 0);
	close(fd);
	assert_true(len > 0);
	return memmem(head, (size_t)len, text, strlen(text));
}

/* Everybody sees the names of regions, and whoever knows a client's incarnation is that client. */
static void no_name_tells_who_the_client_is(void)
{
	char text[32];

	snprintf(text, sizeof(text), "%016llx", (unsigned long long)gvm_net_incarnation(net));
	for (unsigned i = 0; i < NODES; i++) {
		assert_true(node_has_text(i, "fork-"));
		assert_false(node_has_text(i, text));
	}
}

static void forked_children_have_their_own(void **state)
{
#ifdef __SANITIZE_THREAD__
	skip(); /* it does not let a child of a process with threads have threads */
#endif
	for (unsigned threads = 1; threads <= 2; threads++) {
		int status;
		pid_t pid;

		open_pager(threads);
		attach("vm", 0);
		fill(20);
		assert_int_equal(gvm_pager_fork_prepare(pager), 0);
		no_name_tells_who_the_client_is();
		pid = fork();
		if (pid == 0)
			_exit(live_as_child(1));
		gvm_pager_fork_parent(pager, pid > 0);
		assert_true(pid > 0);
		check(20);
		fill(40);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
		check(40);
		close_pager();
	}
}

/* More clones than the nodes have room for: none may be left of a fork that made no child. */
static void failed_forks_cost_nothing(void **state)
{
	open_pager(1);
	attach("vm", 0);
	fill(20);
	for (unsigned i = 0; i < 40; i++) {
		assert_int_equal(gvm_pager_fork_prepare(pager), 0);
		gvm_pager_fork_parent(pager, 0);
	}
	check(20);
	close_pager();
}

/* A mapping grows and moves with its region. */
static void memory_can_grow(void **state)
{
	for (unsigned threads = 1; threads <= 2; threads++) {
		open_pager(threads);
		attach("vm", 0);
		fill(6);
		mem = gvm_pager_remap(range, 2 * BYTES, MREMAP_MAYMOVE, NULL);
		assert_ptr_not_equal(mem, MAP_FAILED);
		check(6);
		for (uint64_t p = PAGES; p < 2 * PAGES; p++)
			fill_page(p, 6);
		check(6);
		for (uint64_t p = PAGES; p < 2 * PAGES; p++)
			assert_true(page_is(p, 6));
		close_pager();
	}
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(contents_hold),
		T(a_killed_node_comes_back),
		T(a_node_without_its_data_is_known),
		T(a_node_without_its_data_gives_zeros_by_policy),
		T(zeros_come_at_once_from_a_dead_node),
		T(saved_regions_come_back),
		T(a_detached_region_is_free),
		T(forked_children_have_their_own),
		T(failed_forks_cost_nothing),
		T(memory_can_grow),
	};

	if (!getenv("GVM_LOG"))
		gvm_log_set_level(GVM_LOG_ERROR);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return nodes_run(tests);
}
