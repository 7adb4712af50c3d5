/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The pager over a store that is away, slow, full, or has lost what it held: who waits, who is
 * told, and what becomes of the pages.
 */
#include "pager_rig.h"

static sigjmp_buf after_bus;
static volatile int buses;

static void on_bus(int signal)
{
	buses++;
	siglongjmp(after_bus, 1);
}

/* Touch a page; true: it raised SIGBUS. */
static bool touch_is_fatal(const char *at)
{
	struct sigaction action = { .sa_handler = on_bus }, old;
	bool fatal = false;

	sigaction(SIGBUS, &action, &old);
	if (sigsetjmp(after_bus, 1) == 0)
		(void)__atomic_load_n(at, __ATOMIC_RELAXED);
	else
		fatal = true;
	sigaction(SIGBUS, &old, NULL);
	return fatal;
}

static void fill_and_store(struct bed *bed, const struct kind *kind, uint64_t pages)
{
	open_bed(bed, kind, pages * PAGE);
	for (uint64_t p = 0; p < pages; p++)
		fill_page(bed->mem, p, 9);
	assert_int_equal(gvm_pager_sync(bed->range), 0);
}

/* When an access waits for it. */
static void *release_store(void *arg)
{
	AWAITED(stats_of(arg).nodes_away != 0);
	fake.stall = false;
	return NULL;
}

/* stall: the access waits, and is right in the end. */
static void stall_waits_for_the_store(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 4 * BUDGET / PAGE;
		pthread_t thread;

		fill_and_store(&bed, kind, pages);
		fake.stall = true;
		pthread_create(&thread, NULL, release_store, &bed);
		for (uint64_t p = 0; p < pages; p++)
			assert_page(bed.mem, p, 9);
		pthread_join(thread, NULL);
		close_bed(&bed);
	}
}

/* Touched again whenever the pager may have made it whole. */
static bool heals(const char *at)
{
	uint64_t seen = rounds_so_far();

	while (touch_is_fatal(at)) {
		if (!AWAITED(rig_rounds != seen))
			return false;
		seen = rounds_so_far();
	}
	return true;
}

/* sigbus: the access fails loudly after a while; when the store is back the page is, too. */
static void sigbus_fails_loudly_and_heals(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 4 * BUDGET / PAGE;

		gvm_pager_config_init(&bed.config);
		bed.config.local_bytes = BUDGET;
		bed.config.slab_bytes = 256 * 1024;
		bed.config.unreachable = GVM_UNREACHABLE_SIGBUS;
		bed.config.unreachable_ms = 5;
		fill_and_store(&bed, kind, pages);
		fake.stall = true;
		assert_true(touch_is_fatal(bed.mem));
		assert_true(touch_is_fatal(bed.mem));
		assert_true(touch_is_fatal(bed.mem + 70 * PAGE));
		assert_true(stats_of(&bed).unreachable_sigbus >= 2);
		fake.stall = false;
		for (uint64_t p = 0; p < pages; p++) {
			assert_true(heals(bed.mem + p * PAGE));
			assert_page(bed.mem, p, 9);
		}
		close_bed(&bed);
	}
}

/* A page heals under the eyes of a thread that asks for it over and over: it fails, or is right. */
static void healing_shows_nothing_else(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };

		gvm_pager_config_init(&bed.config);
		bed.config.local_bytes = BUDGET;
		bed.config.unreachable = GVM_UNREACHABLE_SIGBUS;
		bed.config.unreachable_ms = 1;
		bed.config.prefetch_pages = 0;
		fill_and_store(&bed, kind, 4 * BUDGET / PAGE);
		for (uint64_t p = 0; p < 50; p++) {
			fake.stall = true;
			assert_true(touch_is_fatal(bed.mem + p * PAGE));
			fake.stall = false;
			assert_true(heals(bed.mem + p * PAGE));
			assert_page(bed.mem, p, 9);
		}
		close_bed(&bed);
	}
}

static void open_zero(struct bed *bed, const struct kind *kind, unsigned ms, uint64_t pages)
{
	gvm_pager_config_init(&bed->config);
	bed->config.local_bytes = BUDGET;
	bed->config.slab_bytes = 256 * 1024;
	bed->config.unreachable = GVM_UNREACHABLE_ZERO;
	bed->config.unreachable_ms = ms;
	fill_and_store(bed, kind, pages);
}

/* zero: the access reads zeros, which are counted, and are not stored over the true contents. */
static void zero_is_told_and_does_not_spread(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 4 * BUDGET / PAGE;

		open_zero(&bed, kind, 5, pages);
		fake.stall = true;
		assert_true(page_zero(bed.mem, 0));
		assert_int_equal(stats_of(&bed).unreachable_zeroed, 1);
		fake.stall = false;
		for (uint64_t p = pages / 4; p < pages; p++)
			assert_page(bed.mem, p, 9);
		assert_page(bed.mem, 0, 9);
		close_bed(&bed);
	}
}

#define LONG_MS 300000u /* longer than the test may take */

static void open_unreachable(struct bed *bed, enum gvm_unreachable policy, uint64_t pages)
{
	gvm_pager_config_init(&bed->config);
	bed->config.local_bytes = BUDGET;
	bed->config.slab_bytes = 256 * 1024;
	bed->config.unreachable = policy;
	bed->config.unreachable_ms = LONG_MS;
	fill_and_store(bed, &kinds[0], pages);
	fake.stall = true;
}

/* A node's time is over once, not once for each page. */
static void long_away_is_answered_at_once(void **state)
{
	struct bed bed = { 0 };
	uint64_t pages = 4 * BUDGET / PAGE;

	open_unreachable(&bed, GVM_UNREACHABLE_ZERO, pages);
	fake.away_since = gvm_now() - LONG_MS * 1000000ull;
	for (uint64_t p = 0; p < 64; p++)
		assert_true(page_zero(bed.mem, p));
	assert_true(stats_of(&bed).unreachable_zeroed >= 64);
	fake.away_since = 0;
	fake.stall = false;
	for (uint64_t p = pages / 4; p < pages; p++)
		assert_page(bed.mem, p, 9);
	assert_page(bed.mem, 0, 9);
	close_bed(&bed);

	open_unreachable(&bed, GVM_UNREACHABLE_SIGBUS, pages);
	fake.away_since = gvm_now() - LONG_MS * 1000000ull;
	for (uint64_t p = 0; p < 64; p++)
		assert_true(touch_is_fatal(bed.mem + p * PAGE));
	close_bed(&bed);
}

/* When the fetch that had only the rest of the time has been sent again. */
static void *store_recovers(void *arg)
{
	uint64_t fetches = fake.fetches;

	*(atomic_bool *)arg = true;
	rig_observe();
	AWAITED(fake.fetches != fetches);
	fake.away_since = 0; /* here, and slow */
	AWAITED(fake.fetches >= fetches + 2);
	fake.stall = false;
	return NULL;
}

/* A node that is back when the time is over is asked, with all of the time to answer. */
static void a_slow_node_is_not_an_absent_one(void **state)
{
	struct bed bed = { 0 };
	uint64_t pages = 4 * BUDGET / PAGE;
	atomic_bool ready = false;
	pthread_t thread;

	open_unreachable(&bed, GVM_UNREACHABLE_ZERO, pages);
	gvm_pager_set_prefetch(bed.pager, 0);
	assert_int_equal(pthread_create(&thread, NULL, store_recovers, &ready), 0);
	assert_true(AWAITED(ready));
	fake.away_since = gvm_now() - (LONG_MS - 500) * 1000000ull;
	assert_page(bed.mem, 0, 9);
	pthread_join(thread, NULL);
	assert_int_equal(stats_of(&bed).unreachable_zeroed, 0);
	close_bed(&bed);
}

/* What the store has lost is never made up: SIGBUS, for good; a discard makes it usable again. */
static void lost_pages_are_never_made_up(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 4 * BUDGET / PAGE;

		fill_and_store(&bed, kind, pages);
		fake.lost = true;
		assert_true(touch_is_fatal(bed.mem));
		fake.lost = false;
		assert_true(touch_is_fatal(bed.mem));
		assert_true(stats_of(&bed).lost_pages > 0);
		close_bed(&bed);
	}
}

static atomic_uint lines, other_lines;
static const char *line_sought, *line_other;

static void count_lines(enum gvm_log_level level, const char *line)
{
	if (strstr(line, line_sought))
		lines++;
	if (line_other && strstr(line, line_other))
		other_lines++;
}

/* From now on lines with this text are counted, and those with the other, if any. */
static void seek_lines(const char *text, const char *other)
{
	lines = other_lines = 0;
	line_sought = text;
	line_other = other;
	gvm_log_set(count_lines);
}

/* A page that was written, and whose put is refused as its node has lost the region: as lost as one
 * that is fetched, and told. */
static void what_is_written_for_a_lost_region_is_lost(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 4 * BUDGET / PAGE;

		open_bed(&bed, kind, pages * PAGE);
		fake.lost = true;
		for (uint64_t p = 0; p < pages; p++)
			fill_page(bed.mem, p, 9);
		assert_true(AWAITED(stats_of(&bed).lost_pages > 64));
		seek_lines("its memory node has lost it; access raises SIGBUS", NULL);
		for (uint64_t p = 0; p < pages / 2; p++)
			if (!touch_is_fatal(bed.mem + p * PAGE))
				assert_page(bed.mem, p, 9);
		gvm_log_set(NULL);
		assert_true(stats_of(&bed).unreachable_sigbus > 64);
		assert_true(kind != kinds || lines > 0);
		close_bed(&bed);
	}
}

static void assert_no_bus(struct bed *bed, uint64_t page)
{
	if (touch_is_fatal(bed->mem + page * PAGE))
		fail_msg("%s: page %llu raises SIGBUS", bed->kind->name, (unsigned long long)page);
}

/* What was written, or zeros; or both, as a page may be lost while it is being written. */
static bool page_is_or_zero(const char *mem, uint64_t page, uint64_t seed)
{
	const uint64_t *p = (const uint64_t *)(mem + page * PAGE);

	for (unsigned i = 0; i < PAGE / 8; i += 64) {
		uint64_t got = __atomic_load_n(&p[i], __ATOMIC_RELAXED);

		if (got && got != mix(page * 1000003 + seed + i))
			return false;
	}
	return true;
}

/* Read all, in order; how many were zeros. */
static uint64_t read_zero_or(struct bed *bed, uint64_t pages, uint64_t seed)
{
	uint64_t zeros = 0;

	for (uint64_t p = 0; p < pages; p++) {
		assert_no_bus(bed, p);
		zeros += page_zero(bed->mem, p);
		assert_true(page_is_or_zero(bed->mem, p, seed));
	}
	return zeros;
}

/* zero: what the store has lost is zeros too, whether it was fetched for a fault or ahead of it, or
 * was written and refused; and those who wait for it never get SIGBUS. */
static void lost_pages_are_zeros_by_policy(void **state)
{
	const uint64_t pages = 4 * BUDGET / PAGE;

	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t zeros, x = 1;

		open_zero(&bed, kind, LONG_MS, pages);
		fake.lost = true;
		seek_lines("reads as zeros: its memory node has lost it", "did not answer");
		zeros = read_zero_or(&bed, pages, 9);
		gvm_log_set(NULL);
		assert_true(kind != kinds || lines > 0);
		assert_int_equal(other_lines, 0);
		assert_true(zeros >= pages - BUDGET / PAGE);
		assert_true(stats_of(&bed).unreachable_zeroed >= zeros);
		assert_true(stats_of(&bed).lost_pages >= zeros);
		/* what is written is there for as long as it is here */
		for (unsigned i = 0; i < 2 * pages; i++) {
			uint64_t p = (x = mix(x + i)) % pages;

			assert_no_bus(&bed, p);
			fill_page(bed.mem, p, 9);
			assert_true(page_is_or_zero(bed.mem, p, 9));
		}
		read_zero_or(&bed, pages, 9);
		assert_int_equal(stats_of(&bed).unreachable_sigbus, 0);
		assert_true(stats_of(&bed).local_pages <= BUDGET / PAGE);
		/* a store that takes pages again has what is written from now on */
		fake.lost = false;
		for (uint64_t p = 0; p < pages; p++)
			fill_page(bed.mem, p, 10);
		for (uint64_t p = 0; p < pages; p++)
			assert_page(bed.mem, p, 10);
		close_bed(&bed);
	}
}

/* In the child: exit code, 0 if all is well. */
static int read_as_child(struct bed *bed, uint64_t pages)
{
	uint64_t zeros = 0;

	if (gvm_pager_fork_child(bed->pager))
		return 2;
	for (uint64_t p = 0; p < pages; p++) {
		if (touch_is_fatal(bed->mem + p * PAGE))
			return 3;
		if (page_zero(bed->mem, p))
			zeros++;
		else if (!page_is(bed->mem, p, 9))
			return 4;
	}
	gvm_pager_close(bed->pager);
	return zeros ? 0 : 5;
}

/* A forked child knows what its parent knows to be lost, and has the same policy. */
static void forked_children_read_zeros_too(void **state)
{
#ifdef __SANITIZE_THREAD__
	skip(); /* it does not let a child of a process with threads have threads */
#endif
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 4 * BUDGET / PAGE;
		int status;
		pid_t pid;

		if (kind->shared)
			continue;
		open_zero(&bed, kind, LONG_MS, pages);
		fake.lost = true;
		assert_true(read_zero_or(&bed, pages / 2, 9) > 0);
		fake.lost = false;
		assert_int_equal(gvm_pager_fork_prepare(bed.pager), 0);
		pid = fork();
		if (pid == 0)
			_exit(read_as_child(&bed, pages));
		gvm_pager_fork_parent(bed.pager, pid > 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
		close_bed(&bed);
	}
}

/* A sync that cannot store says so, and takes nothing away that is here. */
static void a_failed_sync_loses_nothing(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = BUDGET / PAGE / 4;

		fill_and_store(&bed, kind, pages);
		for (uint64_t p = 0; p < pages; p++)
			fill_page(bed.mem, p, 10);
		fake.lost = true;
		assert_int_equal(gvm_pager_sync(bed.range), -EIO);
		for (uint64_t p = 0; p < pages; p++) {
			assert_false(touch_is_fatal(bed.mem + p * PAGE));
			assert_page(bed.mem, p, 10);
		}
		fake.lost = false;
		assert_int_equal(gvm_pager_sync(bed.range), 0);
		for (uint64_t p = 0; p < pages; p++)
			assert_page(bed.mem, p, 10);
		close_bed(&bed);
	}
}

/* When it has refused pages, and some again. */
static void *make_room(void *arg)
{
	AWAITED(fake.refused >= 8);
	fake.full = false;
	return NULL;
}

/* A store that is full: pages stay here until it has room; nothing is lost. */
static void a_full_store_is_waited_for(void **state)
{
	struct bed bed = { 0 };
	uint64_t pages = 3 * BUDGET / PAGE;
	pthread_t thread;

	open_bed(&bed, &kinds[0], pages * PAGE);
	fake.refused = 0;
	fake.full = true;
	pthread_create(&thread, NULL, make_room, NULL);
	seek_lines("could not be stored", NULL);
	for (uint64_t p = 0; p < pages; p++)
		fill_page(bed.mem, p, 2);
	pthread_join(thread, NULL);
	gvm_log_set(NULL);
	assert_int_equal(lines, 1);
	for (uint64_t p = 0; p < pages; p++)
		assert_page(bed.mem, p, 2);
	close_bed(&bed);
}

static void *touch_one(void *arg)
{
	(void)__atomic_load_n((char *)arg, __ATOMIC_RELAXED);
	return NULL;
}

/* The pager can be closed while threads wait for pages that do not come: they read zeros. */
static void closing_lets_waiters_go(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 4 * BUDGET / PAGE, before;
		pthread_t threads[THREADS];

		fill_and_store(&bed, kind, pages);
		fake.stall = true;
		before = stats_of(&bed).faults_remote;
		for (unsigned i = 0; i < THREADS; i++)
			pthread_create(&threads[i], NULL, touch_one, bed.mem + i * 70 * PAGE);
		assert_true(AWAITED(stats_of(&bed).faults_remote - before >= THREADS));
		fake.stall = false;
		fake.latency_ns = 60000000000ull;
		gvm_pager_close(bed.pager);
		for (unsigned i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
		assert_true(page_zero(bed.mem, 0));
		gvm_net_close(bed.net);
		munmap(bed.mem, bed.bytes);
		if (bed.memfd >= 0)
			close(bed.memfd);
		pager_quirks = 0;
		fake_reset();
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		/* first, for of lines that come often some are left out */
		cmocka_unit_test(a_full_store_is_waited_for),
		cmocka_unit_test(what_is_written_for_a_lost_region_is_lost),
		cmocka_unit_test(lost_pages_are_zeros_by_policy),
		cmocka_unit_test(stall_waits_for_the_store),
		cmocka_unit_test(sigbus_fails_loudly_and_heals),
		cmocka_unit_test(healing_shows_nothing_else),
		cmocka_unit_test(zero_is_told_and_does_not_spread),
		cmocka_unit_test(long_away_is_answered_at_once),
		cmocka_unit_test(a_slow_node_is_not_an_absent_one),
		cmocka_unit_test(lost_pages_are_never_made_up),
		cmocka_unit_test(forked_children_read_zeros_too),
		cmocka_unit_test(a_failed_sync_loses_nothing),
		cmocka_unit_test(closing_lets_waiters_go),
	};

	return RUN_TESTS(tests);
}
