/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The pager over a store inside the process: contents hold far over the budget, in private and
 * shared memory, with and without what newer kernels offer; what they cost, and what is prefetched.
 */
#include <sys/resource.h>
#include "pager_rig.h"

/* Written and read back in order and at random, eight times the budget. */
static void contents_hold_over_the_budget(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 8 * BUDGET / PAGE, x = 1;
		struct gvm_pager_stats s;

		open_bed(&bed, kind, pages * PAGE);
		for (uint64_t p = 0; p < pages; p++)
			fill_page(bed.mem, p, 7);
		for (uint64_t p = 0; p < pages; p++)
			assert_page(bed.mem, p, 7);
		for (unsigned i = 0; i < pages; i++) {
			uint64_t p = (x = mix(x + 1)) % pages;

			assert_page(bed.mem, p, 7);
			if (i % 3 == 0)
				fill_page(bed.mem, p, 7);
		}
		s = stats_of(&bed);
		assert_true(s.local_pages <= BUDGET / PAGE);
		assert_true(s.faults_remote > 0 && s.written_pages > 0);
		/* all were written once, and read more often than that */
		assert_true(s.evicted_clean > 0 && s.evicted_pages - s.evicted_clean > pages / 2);
		close_bed(&bed);
	}
}

/* Several threads, each with its own pages, and all with some in common. */
struct job_of {
	struct bed *bed;
	unsigned number, rounds;
	unsigned wrong;
};

static void *work_on(void *arg)
{
	struct job_of *job = arg;
	uint64_t pages = job->bed->bytes / PAGE, own = pages / THREADS, x = job->number + 1;
	char *mem = job->bed->mem;

	for (unsigned r = 0; r < job->rounds; r++) {
		uint64_t p = job->number * own + (x = mix(x + r)) % own;

		/* its own page: what it wrote there last, or nothing yet */
		if (!page_is(mem, p, 5) && !page_zero(mem, p))
			job->wrong++;
		fill_page(mem, p, 5);
		/* anybody's page, read only: contents of the one seed, or zeros, or being written
		 */
		(void)__atomic_load_n((uint64_t *)(mem + (x >> 20) % pages * PAGE),
				      __ATOMIC_RELAXED);
	}
	return NULL;
}

static void threads_share_a_range(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		struct job_of jobs[THREADS];
		pthread_t threads[THREADS];

		open_bed(&bed, kind, 4 * BUDGET);
		for (unsigned i = 0; i < THREADS; i++) {
			jobs[i] = (struct job_of){ &bed, i, 1000, 0 };
			pthread_create(&threads[i], NULL, work_on, &jobs[i]);
		}
		for (unsigned i = 0; i < THREADS; i++) {
			pthread_join(threads[i], NULL);
			assert_int_equal(jobs[i].wrong, 0);
		}
		assert_true(stats_of(&bed).local_pages <= BUDGET / PAGE);
		close_bed(&bed);
	}
}

static void *compact(void *stop)
{
	while (!*(atomic_bool *)stop) {
		int fd = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);

		if (fd < 0) /* not for this user */
			break;
		if (write(fd, "1", 1) != 1)
			sched_yield();
		close(fd);
	}
	return NULL;
}

/* The kernel migrates the pages that are being moved, and is then not exact in what it says. */
static void contents_hold_while_memory_is_compacted(void **state)
{
	atomic_bool stop = false;
	pthread_t thread;

	pthread_create(&thread, NULL, compact, &stop);
	for (unsigned round = 0; round < 6; round++) {
		struct bed bed = { 0 };
		uint64_t pages = 6 * BUDGET / PAGE;

		open_bed(&bed, &kinds[round % 2 * 4], pages * PAGE);
		for (unsigned i = 0; i < 3; i++) {
			for (uint64_t p = 0; p < pages; p++)
				fill_page(bed.mem, p, i);
			for (uint64_t p = 0; p < pages; p++)
				assert_page(bed.mem, p, i);
		}
		close_bed(&bed);
	}
	stop = true;
	pthread_join(thread, NULL);
}

/* A page that was only read is not written back, and one of zeros is never stored. */
static void clean_and_zero_pages_cost_nothing(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 4 * BUDGET / PAGE, written;

		open_bed(&bed, kind, pages * PAGE);
		for (uint64_t p = 0; p < pages; p++)
			assert_true(page_zero(bed.mem, p));
		assert_int_equal(fake.put, 0);
		assert_int_equal(fake.fetched, 0);
		for (uint64_t p = 0; p < pages; p++)
			fill_page(bed.mem, p, 1);
		assert_int_equal(gvm_pager_sync(bed.range), 0);
		assert_int_equal(fake_stored("r"), pages);
		assert_int_equal(stats_of(&bed).stored_pages, pages);
		written = fake.put;
		for (unsigned i = 0; i < 2; i++)
			for (uint64_t p = 0; p < pages; p++)
				assert_page(bed.mem, p, 1);
		assert_int_equal(fake.put, written);
		close_bed(&bed);
	}
}

/* The budget changes while the program runs; what is here follows. */
static void the_budget_can_change(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 8 * BUDGET / PAGE;

		open_bed(&bed, kind, pages * PAGE);
		assert_int_equal(gvm_pager_set_local(bed.pager, BUDGET / 2), -EINVAL);
		assert_int_equal(gvm_pager_set_local(bed.pager, 6 * BUDGET), 0);
		for (uint64_t p = 0; p < pages; p++)
			fill_page(bed.mem, p, 4);
		assert_true(stats_of(&bed).local_pages > 4 * BUDGET / PAGE);
		assert_int_equal(gvm_pager_set_local(bed.pager, BUDGET), 0);
		assert_true(AWAITED(stats_of(&bed).local_pages <= BUDGET / PAGE));
		for (uint64_t p = 0; p < pages; p++)
			assert_page(bed.mem, p, 4);
		assert_int_equal(gvm_pager_set_local(bed.pager, 9 * BUDGET), 0);
		for (uint64_t p = 0; p < pages; p++)
			assert_page(bed.mem, p, 4);
		close_bed(&bed);
	}
}

/* What was saved is there when the region is attached again, by another pager too. */
static void saved_contents_come_back(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 3 * BUDGET / PAGE;

		open_pager(&bed, kind);
		attach(&bed, pages * PAGE, GVM_ATTACH_SAVE);
		for (uint64_t p = 0; p < pages; p += 2)
			fill_page(bed.mem, p, 6);
		assert_int_equal(gvm_pager_detach(bed.range), 0);
		for (uint64_t p = 0; p < pages; p++)
			assert_true(page_zero(bed.mem, p));
		assert_int_equal(
		    gvm_pager_attach(bed.pager, "none", bed.mem, bed.bytes, bed.memfd, 0,
				     GVM_ATTACH_KEEP | (kind->shared ? 0 : GVM_ATTACH_ANON),
				     &bed.range),
		    -ENOENT);
		gvm_pager_close(bed.pager);
		gvm_net_close(bed.net);
		munmap(bed.mem, bed.bytes);
		open_pager(&bed, kind);
		attach(&bed, pages * PAGE, GVM_ATTACH_KEEP | GVM_ATTACH_SAVE);
		for (uint64_t p = 0; p < pages; p++) {
			if (p % 2)
				assert_true(page_zero(bed.mem, p));
			else
				assert_page(bed.mem, p, 6);
		}
		close_bed(&bed);
	}
}

/* The kernel reads and writes paged memory for the program, also directly from and to the disk. */
static void system_calls_reach_paged_memory(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 3 * BUDGET / PAGE;
		int fd = open("/tmp", O_TMPFILE | O_RDWR, 0600), direct;

		assert_true(fd >= 0);
		open_bed(&bed, kind, pages * PAGE);
		for (uint64_t p = 0; p < pages; p++)
			fill_page(bed.mem, p, 8);
		assert_int_equal(pwrite(fd, bed.mem, bed.bytes, 0), bed.bytes);
		memset(bed.mem, 0xee, bed.bytes);
		assert_int_equal(pread(fd, bed.mem, bed.bytes, 0), bed.bytes);
		for (uint64_t p = 0; p < pages; p++)
			assert_page(bed.mem, p, 8);
		direct = fcntl(fd, F_GETFL) | O_DIRECT;
		/* that a page is pinned is only seen where pages are moved; see docs/pager.md */
		if (!kind->shared && bed.pager->move && fcntl(fd, F_SETFL, direct) == 0) {
			memset(bed.mem, 0xee, bed.bytes);
			assert_int_equal(pread(fd, bed.mem, bed.bytes, 0), bed.bytes);
			for (uint64_t p = 0; p < pages; p++)
				assert_page(bed.mem, p, 8);
		}
		close(fd);
		close_bed(&bed);
	}
}

/*
 * A sequential reader finds most pages fetched ahead, a strided one too, a random one few. Where a
 * helper thread takes the pages it may be what sets the pace: then a stream waits for room, but for
 * a window's worth of it.
 */
static void prefetch_follows(const struct kind *kind)
{
	struct bed bed = { 0 };
	uint64_t pages = 16 * BUDGET / PAGE, x = 3;
	struct gvm_pager_stats before, s;

	gvm_pager_config_init(&bed.config);
	bed.config.local_bytes = 4 * BUDGET;
	bed.config.slab_bytes = 4 * MIB;
	open_bed(&bed, kind, pages * PAGE);
	for (uint64_t p = 0; p < pages; p++)
		fill_page(bed.mem, p, 8);
	before = stats_of(&bed);
	for (uint64_t p = 0; p < pages; p++)
		assert_page(bed.mem, p, 8);
	s = stats_of(&bed);
	assert_true(s.faults_remote - before.faults_remote < pages / 20);
	assert_true(s.prefetched_pages > before.prefetched_pages);
	assert_true(s.prefetch_used - before.prefetch_used >
		    (s.prefetched_pages - before.prefetched_pages) * 9 / 10);
	before = s;
	for (uint64_t p = 0; p < pages; p += 7)
		assert_page(bed.mem, p, 8);
	s = stats_of(&bed);
	assert_true(s.faults_remote - before.faults_remote < pages / 7 / 4);
	before = s;
	for (uint64_t p = pages; p-- > 0;)
		assert_page(bed.mem, p, 8);
	s = stats_of(&bed);
	assert_true(s.faults_remote - before.faults_remote < pages / 20);
	before = s;
	for (unsigned i = 0; i < 2000; i++)
		assert_page(bed.mem, (x = mix(x + i)) % pages, 8);
	s = stats_of(&bed);
	assert_true(s.prefetched_pages - before.prefetched_pages < 200);
	assert_true(s.zeros_ahead > 0);
	assert_true(s.prefetched_pages <= s.fetched_pages);
	assert_true(s.prefetch_used + s.prefetch_wasted <= s.prefetched_pages);
	assert_true(s.prefetched_pages - s.prefetch_used - s.prefetch_wasted <= s.local_pages);
	assert_true(s.fetched_pages - s.prefetched_pages <= s.faults_remote);
	assert_int_equal(gvm_pager_set_prefetch(bed.pager, 0), 0);
	before = s;
	for (uint64_t p = 0; p < 2000; p++)
		assert_page(bed.mem, p, 8);
	assert_int_equal(stats_of(&bed).prefetched_pages, before.prefetched_pages);
	close_bed(&bed);
}

static void prefetch_follows_the_trend(void **state)
{
	EACH_KIND(kind)
	{
		if (kind->threads == 1)
			prefetch_follows(kind);
	}
}

/* Twice as many pages as may be here. */
static void *write_to_many(void *arg)
{
	struct bed *bed = arg;

	for (uint64_t p = 0; p < 2 * bed->config.local_bytes / PAGE; p++)
		bed->mem[p * PAGE] = 1;
	return NULL;
}

static void assert_small(struct bed *bed)
{
	const struct shard *shard = &bed->pager->shard[0];
	uint64_t budget = bed->config.local_bytes / PAGE, pages = bed->bytes / PAGE;
	struct gvm_pager_stats s = stats_of(bed);
	/* how many of the pages here are mapped at once hangs on who is faster, they or those that
	 * leave: as if it were all of them */
	uint64_t most = s.metadata_bytes + (budget - shard->frame_used) * sizeof(struct frame);

	assert_int_equal(s.attached_pages, pages);
	assert_true(shard->frame_used <= budget);
	if (most > 16 * pages)
		fail_msg("%llu bytes for %llu pages, which may become %llu",
			 (unsigned long long)s.metadata_bytes, (unsigned long long)pages,
			 (unsigned long long)most);
}

/* Bookkeeping: at most 16 bytes a page of the region, with a quarter of it here. Also when what is
 * to leave cannot, so that all that may be here is. */
static void bookkeeping_is_small(void **state)
{
	struct bed bed = { 0 };
	uint64_t bytes = 512 * MIB;
	pthread_t thread;

	gvm_pager_config_init(&bed.config);
	bed.config.local_bytes = bytes / 4;
	open_bed(&bed, &kinds[0], bytes);
	fake.stall = true;
	pthread_create(&thread, NULL, write_to_many, &bed);
	assert_true(AWAITED(stats_of(&bed).local_pages == bytes / 4 / PAGE));
	assert_small(&bed);
	fake.stall = false;
	pthread_join(thread, NULL);
	assert_small(&bed);
	close_bed(&bed);
}

/* What a page was read for is seen when it leaves: a clean one costs no put, and no write faults.
 */
static void reading_is_not_writing(void **state)
{
	struct bed bed = { 0 };
	uint64_t pages = 16 * BUDGET / PAGE;
	struct gvm_pager_stats before, s;

	gvm_pager_config_init(&bed.config);
	bed.config.local_bytes = 2 * BUDGET;
	open_bed(&bed, &kinds[0], pages * PAGE);
	for (uint64_t p = 0; p < pages; p++)
		fill_page(bed.mem, p, 8);
	assert_int_equal(gvm_pager_sync(bed.range), 0);
	before = stats_of(&bed);
	/* every 64th is changed, in its last byte, after it was read */
	for (uint64_t p = 0; p < pages; p++) {
		assert_page(bed.mem, p, 8);
		if (p % 64 == 63)
			bed.mem[p * PAGE + PAGE - 1] ^= 1;
	}
	assert_int_equal(gvm_pager_sync(bed.range), 0);
	s = stats_of(&bed);
	assert_int_equal(s.written_pages - before.written_pages, pages / 64);
	for (uint64_t p = 0; p < pages; p++) {
		if (p % 64 == 63)
			bed.mem[p * PAGE + PAGE - 1] ^= 1;
		assert_page(bed.mem, p, 8);
	}
	close_bed(&bed);
}

/* A stream finds room for whole windows, so that it faults but for their markers. */
static void stream_finds_room(const struct kind *kind)
{
	struct bed bed = { 0 };
	uint64_t pages = 32 * MIB / PAGE;
	struct gvm_pager_stats before, s;

	gvm_pager_config_init(&bed.config);
	bed.config.local_bytes = 8 * MIB;
	bed.config.slab_bytes = 16 * MIB;
	bed.config.prefetch_pages = 64;
	open_bed(&bed, kind, pages * PAGE);
	for (uint64_t p = 0; p < pages; p++)
		fill_page(bed.mem, p, 8);
	before = stats_of(&bed);
	for (uint64_t p = 0; p < pages; p++)
		assert_page(bed.mem, p, 8);
	s = stats_of(&bed);
	assert_true(s.faults - before.faults < pages / 24);
	close_bed(&bed);
}

static void streams_find_room(void **state)
{
	EACH_KIND(kind)
	{
		if (kind->threads == 1 && !(kind->quirks & QUIRK_SLOW_HELPER))
			stream_finds_room(kind);
	}
}

#define WIDE (8 * BUDGET / PAGE) /* frames */

static void open_wide(struct bed *bed, const struct kind *kind)
{
	gvm_pager_config_init(&bed->config);
	bed->config.local_bytes = WIDE * PAGE;
	bed->config.slab_bytes = 16 * MIB;
	open_bed(bed, kind, 2 * WIDE * PAGE);
}

/* On the shard, whose the table is. a: where they are written to, in order; status: how many. */
static void call_victims(struct call *call)
{
	const struct view *view = &call->shard->views[call->range->id];
	uint64_t *to = (uint64_t *)call->a;
	int n = 0;

	for (uint64_t p = 0; p < view->pages; p++)
		if (page_state(view->table[p]) == PAGE_VICTIM)
			to[n++] = p;
	call_done(call, n);
}

static uint64_t victims_of(struct bed *bed, uint64_t *victims)
{
	struct call call = { .range = bed->range, .a = (uintptr_t)victims };

	return (uint64_t)pager_call(&bed->pager->shard[0], call_victims, &call);
}

/* What a stream meets among the victims comes back ahead of it, whichever way it goes. */
static void victims_come_back_ahead(void **state)
{
	for (int way = -1; way <= 1; way += 2) {
		struct bed bed = { 0 };
		uint64_t faults, n, victims[WIDE] = { 0 };

		open_wide(&bed, &kinds[0]);
		if (!bed.pager->move) {
			print_message("no UFFDIO_MOVE in this kernel: they come back one by one\n");
			close_bed(&bed);
			skip();
		}
		/* to the end of the slab, so that nothing is brought in vain */
		for (uint64_t p = 0; p < 2 * WIDE; p++)
			fill_page(bed.mem, p, 1);
		assert_int_equal(gvm_pager_sync(bed.range), 0);
		n = victims_of(&bed, victims);
		assert_true(n >= WIDE / 8);
		faults = stats_of(&bed).faults;
		for (uint64_t i = 0; i < n; i++)
			assert_page(bed.mem, victims[way < 0 ? n - 1 - i : i], 1);
		faults = stats_of(&bed).faults - faults;
		if (faults > n / 8)
			fail_msg("%llu faults for %llu victims", (unsigned long long)faults,
				 (unsigned long long)n);
		for (uint64_t p = 0; p < 2 * WIDE; p++)
			assert_page(bed.mem, p, 1);
		close_bed(&bed);
	}
}

/* A stream that writes has pages of its own put there, so that it does not fault for each of them
 * once more, in the kernel. */
static void zeros_are_there_to_be_written(void **state)
{
	struct bed bed = { 0 };
	struct rusage before, after;

#ifdef __SANITIZE_THREAD__
	print_message("the thread sanitizer has faults of its own\n");
	skip();
#endif
	open_wide(&bed, &kinds[0]);
	getrusage(RUSAGE_THREAD, &before);
	for (uint64_t p = 0; p < WIDE / 2; p++)
		fill_page(bed.mem, p, 1);
	getrusage(RUSAGE_THREAD, &after);
	assert_true(after.ru_minflt - before.ru_minflt < (long)WIDE / 2 / 2);
	close_bed(&bed);
}

/* What makes no sense is refused. */
static void nonsense_is_refused(void **state)
{
	struct bed bed = { 0 };
	struct gvm_range *range;

	open_bed(&bed, &kinds[0], 16 * PAGE);
	assert_int_equal(
	    gvm_pager_attach(bed.pager, "x", NULL, 100, -1, 0, GVM_ATTACH_ANON, &range), -EINVAL);
	assert_int_equal(gvm_pager_attach(bed.pager, "x", NULL, 0, -1, 0, GVM_ATTACH_ANON, &range),
			 -EINVAL);
	assert_int_equal(gvm_pager_attach(bed.pager, "x", NULL, PAGE, -1, 0, 0, &range), -EINVAL);
	assert_int_equal(
	    gvm_pager_attach(bed.pager, "r", NULL, PAGE, -1, 0, GVM_ATTACH_ANON, &range), -EEXIST);
	assert_ptr_equal(gvm_pager_remap(bed.range, 0, 0, NULL), MAP_FAILED);
	assert_int_equal(errno, EINVAL);
	close_bed(&bed);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(contents_hold_over_the_budget),
		cmocka_unit_test(threads_share_a_range),
		cmocka_unit_test(contents_hold_while_memory_is_compacted),
		cmocka_unit_test(clean_and_zero_pages_cost_nothing),
		cmocka_unit_test(the_budget_can_change),
		cmocka_unit_test(saved_contents_come_back),
		cmocka_unit_test(system_calls_reach_paged_memory),
		cmocka_unit_test(prefetch_follows_the_trend),
		cmocka_unit_test(bookkeeping_is_small),
		cmocka_unit_test(reading_is_not_writing),
		cmocka_unit_test(streams_find_room),
		cmocka_unit_test(victims_come_back_ahead),
		cmocka_unit_test(zeros_are_there_to_be_written),
		cmocka_unit_test(nonsense_is_refused),
	};

	return RUN_TESTS(tests);
}
