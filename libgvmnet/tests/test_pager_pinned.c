/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Pages that do not let go: pinned as buffers of io_uring, locked, or held. The others come and go
 * at the price that they always have, the log says what it is, a sync waits at rest, and what lets
 * go again leaves.
 */
#include <fcntl.h>
#include <sys/syscall.h>
#include "pager_rig.h"

static uint64_t local = 2 * MIB; /* what may be here; each case is a process, with its own */
#define LOCAL_N (local / PAGE)
#define PAGES   (4 * LOCAL_N)

/* ---- locking ------------------------------------------------------------------------------- */

/* The system calls themselves: for the sanitizers' C library these do nothing. */
static bool lock(char *mem, uint64_t bytes)
{
	return syscall(SYS_mlock, mem, bytes) == 0;
}

static void unlock(char *mem, uint64_t bytes)
{
	assert_int_equal(syscall(SYS_munlock, mem, bytes), 0);
}

/* Pages that the kernel moves are those that a pin is seen of. */
static const struct kind *const moved[] = { &kinds[0], &kinds[4], &kinds[5] };

static void open_large(struct bed *bed, const struct kind *kind)
{
	gvm_pager_config_init(&bed->config);
	bed->config.local_bytes = local;
	bed->config.slab_bytes = 256 * 1024;
	bed->config.prefetch_pages = 0;
	open_bed(bed, kind, PAGES * PAGE);
	gvm_pager_set_prefetch(bed->pager, 0);
	for (uint64_t p = 0; p < PAGES; p++)
		fill_page(bed->mem, p, 3);
}

static uint64_t aside(const struct bed *bed)
{
	return __atomic_load_n(&bed->pager->pinned, __ATOMIC_RELAXED);
}

static uint64_t cpu_ns(struct bed *bed)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < bed->pager->shards; i++) {
		struct timespec t;
		clockid_t clock;

		assert_int_equal(pthread_getcpuclockid(bed->pager->shard[i].thread, &clock), 0);
		clock_gettime(clock, &t);
		sum += (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
	}
	return sum;
}

/* ---- what the log says --------------------------------------------------------------------- */

static atomic_uint told;

static void count_told(enum gvm_log_level level, const char *line)
{
	if (strstr(line, "pinned by the kernel or locked"))
		told++;
}

/* ---- tests --------------------------------------------------------------------------------- */

/* What the pager's threads take of the CPU for each fault of a walk over what has no place here. */
static uint64_t ns_of_a_fault(struct bed *bed, uint64_t seed)
{
	uint64_t before = cpu_ns(bed), faults = stats_of(bed).faults;

	for (uint64_t p = LOCAL_N; p < PAGES; p++)
		fill_page(bed->mem, p, seed);
	faults = stats_of(bed).faults - faults;
	assert_true(faults >= (PAGES - LOCAL_N) * 2 / 3);
	return (cpu_ns(bed) - before) / faults;
}

/* As much as may be here is pinned: the rest goes through what there is beside, and does not crawl.
 */
static void pinned_pages_are_not_in_the_way(void **state)
{
	for (unsigned k = 0; k < sizeof(moved) / sizeof(moved[0]); k++) {
		struct bed bed = { 0 };
		uint64_t alone, pinned;
		int ring;

		/* once with much that a look for a page to leave could go through */
		local = k == 0 ? 8 * MIB : 2 * MIB;
		told = 0;
		gvm_log_set(count_told);
		open_large(&bed, moved[k]);
		alone = ns_of_a_fault(&bed, 3);
		ring = pin(bed.mem, LOCAL_N);
		if (ring < 0) {
			close_bed(&bed);
			gvm_log_set(NULL);
			skip();
		}
		/* until it is known which they are */
		for (unsigned i = 0; i < 3; i++)
			for (uint64_t p = LOCAL_N; p < PAGES; p++)
				assert_page(bed.mem, p, 3);
		pinned = UINT64_MAX;
		for (unsigned i = 0; i < 3; i++) {
			uint64_t ns = ns_of_a_fault(&bed, 3 + i);

			if (ns < pinned)
				pinned = ns;
		}
		/* a look through all that is pinned takes several times as long */
		if (bed.pager->shards == 1 && pinned > 3 * alone)
			fail_msg("%s: a fault takes %llu ns of a CPU, where nothing is pinned %llu",
				 moved[k]->name, (unsigned long long)pinned,
				 (unsigned long long)alone);
		assert_true(aside(&bed) <= LOCAL_N);
		assert_true(aside(&bed) >= LOCAL_N * 3 / 4);
		assert_true(stats_of(&bed).local_pages <= LOCAL_N + LOCAL_N / 8 + 64);
		assert_true(stats_of(&bed).resident_pages >= LOCAL_N * 3 / 4);
		assert_in_range(told, 1, 3);
		unpin(ring);
		/* what has been let go leaves again */
		for (unsigned i = 0; i < 1000 && aside(&bed); i++)
			for (uint64_t p = LOCAL_N; p < PAGES; p++)
				assert_page(bed.mem, p, 5);
		assert_int_equal(aside(&bed), 0);
		assert_true(stats_of(&bed).local_pages <= LOCAL_N);
		for (uint64_t p = 0; p < LOCAL_N; p++)
			assert_page(bed.mem, p, 3);
		gvm_log_set(NULL);
		close_bed(&bed);
	}
}

/* The same with pages that are locked, which the helper finds out; they can be discarded and used.
 */
static void locked_pages_are_not_in_the_way(void **state)
{
	for (unsigned k = 0; k < 2; k++) {
		struct bed bed = { 0 };

		open_large(&bed, &kinds[k]);
		if (!lock(bed.mem, local)) {
			close_bed(&bed);
			skip();
		}
		for (unsigned i = 0; i < 4; i++)
			for (uint64_t p = LOCAL_N; p < PAGES; p++)
				assert_page(bed.mem, p, 3);
		assert_true(aside(&bed) >= LOCAL_N / 2);
		assert_true(stats_of(&bed).local_pages <= LOCAL_N + LOCAL_N / 8 + 64);
		for (uint64_t p = 0; p < LOCAL_N; p++)
			assert_page(bed.mem, p, 3);
		unlock(bed.mem, local);
		assert_int_equal(gvm_pager_discard(bed.range, 0, local), 0);
		/* but for neighbours that were to leave together with some that were locked */
		assert_true(aside(&bed) <= RUN_MAX);
		assert_true(page_zero(bed.mem, 0));
		close_bed(&bed);
	}
}

/* Of a run that leaves together the second half is locked: nothing of the first is lost. */
static void half_a_run_that_leaves_is_not_lost(void **state)
{
	struct bed bed = { 0 };

	open_large(&bed, &kinds[1]);
	for (uint64_t p = 16; p < PAGES; p += 32)
		if (!lock(bed.mem + p * PAGE, 4 * PAGE)) {
			close_bed(&bed);
			skip();
		}
	for (unsigned i = 0; i < 3; i++)
		for (uint64_t p = 0; p < PAGES; p++) {
			assert_page(bed.mem, p, 3 + i);
			fill_page(bed.mem, p, 4 + i);
		}
	unlock(bed.mem, PAGES * PAGE);
	for (uint64_t p = 0; p < PAGES; p++)
		assert_page(bed.mem, p, 6);
	close_bed(&bed);
}

static atomic_bool synced;

static void *sync_it(void *arg)
{
	struct bed *bed = arg;

	assert_int_equal(gvm_pager_sync(bed->range), 0);
	synced = true;
	return NULL;
}

/* In 400 ms: it looks each 64 ms. With the thread sanitizer, on a busy machine, so little takes
 * more than a twentieth of a processor. */
#define REST_ROUNDS 20
#ifdef __SANITIZE_THREAD__
#define REST_CPU 4
#else
#define REST_CPU 20
#endif

/* A sync waits for a page that is pinned, without looking at it all the time, and then stores it.
 */
static void a_sync_waits_at_rest(void **state)
{
	const struct timespec look = { .tv_nsec = 400000000 };
	struct bed bed = { 0 };
	pthread_t thread;
	uint64_t cpu, rounds;
	int ring;

	open_bed(&bed, &kinds[0], 64 * PAGE);
	for (uint64_t p = 0; p < 64; p++)
		fill_page(bed.mem, p, 3);
	ring = pin(bed.mem + 5 * PAGE, 1);
	if (ring < 0) {
		close_bed(&bed);
		skip();
	}
	synced = false;
	pthread_create(&thread, NULL, sync_it, &bed);
	assert_true(AWAITED(fake_stored("r") == 5));
	/* a time in which nothing happens has no event at its end */
	nanosleep(&look, NULL);
	cpu = cpu_ns(&bed);
	rounds = rounds_so_far();
	nanosleep(&look, NULL);
	assert_false(synced);
	assert_true(rounds_so_far() - rounds <= REST_ROUNDS);
	assert_true(cpu_ns(&bed) - cpu < (uint64_t)look.tv_nsec / REST_CPU);
	fill_page(bed.mem, 5, 4);
	unpin(ring);
	pthread_join(thread, NULL);
	assert_int_equal(fake_stored("r"), 64);
	for (uint64_t p = 0; p < 64; p++)
		assert_page(bed.mem, p, p == 5 ? 4 : 3);
	close_bed(&bed);
}

/* The same of pages that are locked, which the helper finds out when the sync has passed them. */
static void a_sync_waits_for_locked_pages(void **state)
{
	const struct timespec look = { .tv_nsec = 400000000 };

	for (unsigned k = 0; k < 2; k++) {
		struct bed bed = { 0 };
		pthread_t thread;
		uint64_t cpu;

		open_bed(&bed, &kinds[k], 64 * PAGE);
		for (uint64_t p = 0; p < 64; p++)
			fill_page(bed.mem, p, 3);
		if (!lock(bed.mem + 5 * PAGE, 2 * PAGE)) {
			close_bed(&bed);
			skip();
		}
		synced = false;
		pthread_create(&thread, NULL, sync_it, &bed);
		assert_true(AWAITED(fake_stored("r") == 62));
		nanosleep(&look, NULL);
		cpu = cpu_ns(&bed);
		nanosleep(&look, NULL);
		assert_false(synced);
		assert_true(cpu_ns(&bed) - cpu < (uint64_t)look.tv_nsec / 10);
		fill_page(bed.mem, 6, 4);
		unlock(bed.mem + 5 * PAGE, 2 * PAGE);
		pthread_join(thread, NULL);
		assert_int_equal(fake_stored("r"), 64);
		for (uint64_t p = 0; p < 64; p++)
			assert_page(bed.mem, p, p == 6 ? 4 : 3);
		close_bed(&bed);
	}
}

/* Pages that the kernel holds by a reference, which is no pin, leave and keep what is in them. */
static void lent_pages_are_not_used_again(void **state)
{
	const uint64_t pages = 64;

	for (unsigned k = 0; k < sizeof(moved) / sizeof(moved[0]); k++) {
		struct bed bed = { 0 };
		struct iovec iov;
		char page[PAGE];
		int ends[2];

		open_large(&bed, moved[k]);
		gvm_pager_set_prefetch(bed.pager, 32); /* streams use memory again */
		gvm_pager_lend(bed.pager);
		assert_int_equal(pipe(ends), 0);
		assert_true(fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) > 0);
		iov = (struct iovec){ bed.mem, pages * PAGE };
		assert_int_equal(syscall(SYS_vmsplice, ends[1], &iov, 1, 0), pages * PAGE);
		for (unsigned i = 0; i < 2; i++)
			for (uint64_t p = pages; p < PAGES; p++) {
				assert_page(bed.mem, p, 3 + i);
				fill_page(bed.mem, p, 4 + i);
			}
		for (uint64_t p = 0; p < pages; p++) {
			assert_int_equal(read(ends[0], page, PAGE), PAGE);
			assert_memory_equal(page, bed.mem + p * PAGE, PAGE);
			assert_page(bed.mem, p, 3);
		}
		for (uint64_t p = pages; p < PAGES; p++)
			assert_page(bed.mem, p, 5);
		close(ends[0]);
		close(ends[1]);
		close_bed(&bed);
	}
}

static void walk_beyond(struct bed *bed, uint64_t first)
{
	for (unsigned i = 0; i < 2; i++)
		for (uint64_t p = first; p < PAGES; p++)
			fill_page(bed->mem, p, 3 + i);
}

/* Writes to pages without a fault: they are here, and not protected. */
static void assert_at_hand(struct bed *bed, uint64_t first, uint64_t pages, uint64_t seed)
{
	uint64_t faults = stats_of(bed).faults;

	for (uint64_t p = first; p < first + pages; p++)
		fill_page(bed->mem, p, seed);
	assert_int_equal(stats_of(bed).faults, faults);
	for (uint64_t p = first; p < first + pages; p++)
		assert_page(bed->mem, p, seed);
}

/* Pages that are held stay writable through all that comes and goes, a sync, and a discard. */
static void held_pages_stay(void **state)
{
	const uint64_t first = 60, held = 10; /* of two slabs */

	EACH_KIND(kind)
	{
		struct bed bed = { 0 };

		open_large(&bed, kind);
		walk_beyond(&bed, first + held); /* they are away */
		assert_int_equal(gvm_pager_hold(bed.range, first * PAGE, held * PAGE), 0);
		for (uint64_t p = first; p < first + held; p++) {
			assert_page(bed.mem, p, 3);
			fill_page(bed.mem, p, 4);
		}
		walk_beyond(&bed, first + held);
		assert_at_hand(&bed, first, held, 5);
		assert_int_equal(gvm_pager_sync(bed.range), 0);
		assert_at_hand(&bed, first, held, 6);
		assert_int_equal(gvm_pager_discard(bed.range, first * PAGE, held * PAGE), 0);
		for (uint64_t p = first; p < first + held; p++) {
			assert_true(page_zero(bed.mem, p));
			fill_page(bed.mem, p, 7);
		}
		walk_beyond(&bed, first + held);
		assert_at_hand(&bed, first, held, 8);
		assert_true(stats_of(&bed).local_pages <= LOCAL_N + held);
		assert_int_equal(gvm_pager_let_go(bed.range, first * PAGE, held * PAGE), 0);
		for (unsigned i = 0; i < 1000 && aside(&bed); i++)
			walk_beyond(&bed, first + held);
		assert_int_equal(aside(&bed), 0);
		for (uint64_t p = first; p < first + held; p++)
			assert_page(bed.mem, p, 8);
		close_bed(&bed);
	}
}

/* Held pages that are unmapped are held no more; those of a range alone can be held. */
static void held_pages_go_with_their_mapping(void **state)
{
	struct bed bed = { 0 };

	open_large(&bed, &kinds[0]);
	assert_int_equal(gvm_pager_hold(bed.range, 1, PAGE), -EINVAL);
	assert_int_equal(gvm_pager_hold(bed.range, 0, (PAGES + 1) * PAGE), -EINVAL);
	assert_int_equal(gvm_pager_hold(bed.range, PAGES * PAGE, PAGE), -EINVAL);
	assert_int_equal(gvm_pager_hold(bed.range, 0, 8 * PAGE), 0);
	for (uint64_t p = 0; p < 8; p++)
		fill_page(bed.mem, p, 4);
	/* now and then all of them are being tried again */
	for (unsigned i = 0; i < 1000 && !aside(&bed); i++)
		walk_beyond(&bed, 8);
	assert_in_range(aside(&bed), 1, 8);
	assert_int_equal(gvm_pager_unmap(bed.range, 0, 8 * PAGE), 0);
	assert_int_equal(aside(&bed), 0);
	assert_int_equal(gvm_pager_let_go(bed.range, 0, 8 * PAGE), 0);
	close_bed(&bed);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pinned_pages_are_not_in_the_way),
		cmocka_unit_test(locked_pages_are_not_in_the_way),
		cmocka_unit_test(half_a_run_that_leaves_is_not_lost),
		cmocka_unit_test(a_sync_waits_at_rest),
		cmocka_unit_test(a_sync_waits_for_locked_pages),
		cmocka_unit_test(lent_pages_are_not_used_again),
		cmocka_unit_test(held_pages_stay),
		cmocka_unit_test(held_pages_go_with_their_mapping),
	};

	return RUN_TESTS(tests);
}
