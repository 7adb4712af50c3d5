/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Paged memory whose shape changes: discards, parts given up, moved, grown, and forked.
 */
#include "pager_rig.h"

/* Discarded pages read as zeros, by call and by madvise, here or stored, and are purged there. */
static void discards_read_as_zeros(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 4 * BUDGET / PAGE;

		open_bed(&bed, kind, pages * PAGE);
		for (unsigned by_call = kind->shared; by_call < 2; by_call++) {
			for (uint64_t p = 0; p < pages; p++)
				fill_page(bed.mem, p, 3);
			/* a part of the stored ones, and of those that are here */
			for (uint64_t from = 10; from < pages; from += pages / 4) {
				if (by_call)
					assert_int_equal(
					    gvm_pager_discard(bed.range, from * PAGE, 50 * PAGE),
					    0);
				else
					assert_int_equal(madvise(bed.mem + from * PAGE, 50 * PAGE,
								 MADV_DONTNEED),
							 0);
			}
			for (uint64_t p = 0; p < pages; p++) {
				uint64_t in = p % (pages / 4);

				if (in >= 10 && in < 60 &&
				    p / (pages / 4) * (pages / 4) + 60 <= pages)
					assert_true(page_zero(bed.mem, p));
				else
					assert_page(bed.mem, p, 3);
			}
			assert_int_equal(gvm_pager_sync(bed.range), 0);
			assert_true(fake_stored("r") <= pages - 4 * 50);
		}
		assert_int_equal(gvm_pager_discard(bed.range, 0, pages * PAGE), 0);
		assert_int_equal(gvm_pager_sync(bed.range), 0);
		assert_int_equal(fake_stored("r"), 0);
		assert_int_equal(stats_of(&bed).stored_pages, 0);
		assert_int_equal(gvm_pager_discard(bed.range, 1, PAGE), -EINVAL);
		assert_int_equal(gvm_pager_discard(bed.range, 0, pages * PAGE + PAGE), -EINVAL);
		close_bed(&bed);
	}
}

/* Discards race with writers: a page has what was written last, or zeros, never older contents. */
struct racer {
	struct bed *bed;
	atomic_bool stop;
	_Atomic uint64_t turn[64];
	unsigned wrong;
};

static void *discarder(void *arg)
{
	struct racer *racer = arg;
	uint64_t x = 9;

	while (!racer->stop) {
		uint64_t p = 64 + (x = mix(x + 1)) % 512;

		if (x & 1 << 20 && !racer->bed->kind->shared)
			madvise(racer->bed->mem + p * PAGE, 8 * PAGE, MADV_DONTNEED);
		else
			gvm_pager_discard(racer->bed->range, p * PAGE, 8 * PAGE);
	}
	return NULL;
}

static void discards_race_with_access(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		struct racer racer = { .bed = &bed };
		uint64_t pages = 3 * BUDGET / PAGE, x = 4;
		pthread_t thread;

		open_bed(&bed, kind, pages * PAGE);
		fake.latency_ns = 20000;
		for (uint64_t p = 0; p < pages; p++)
			fill_page(bed.mem, p, 2);
		pthread_create(&thread, NULL, discarder, &racer);
		for (unsigned i = 0; i < 4000; i++) {
			uint64_t p = (x = mix(x + i)) % pages;
			uint64_t first =
			    __atomic_load_n((uint64_t *)(bed.mem + p * PAGE), __ATOMIC_RELAXED);

			if (p < 64 || p >= 64 + 520)
				assert_page(bed.mem, p, 2);
			else if (first != 0 && first != mix(p * 1000003 + 2))
				fail_msg("page %llu holds %llx", (unsigned long long)p,
					 (unsigned long long)first);
			else
				fill_page(bed.mem, p, 2);
		}
		racer.stop = true;
		pthread_join(thread, NULL);
		close_bed(&bed);
	}
}

/* A discarded page is zeros even while the store is away. */
static void discards_need_no_store(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 4 * BUDGET / PAGE;

		open_bed(&bed, kind, pages * PAGE);
		for (uint64_t p = 0; p < pages; p++)
			fill_page(bed.mem, p, 3);
		assert_int_equal(gvm_pager_sync(bed.range), 0);
		fake.stall = true;
		assert_int_equal(gvm_pager_discard(bed.range, 0, 64 * PAGE), 0);
		for (uint64_t p = 0; p < 64; p++)
			assert_true(page_zero(bed.mem, p));
		fake.stall = false;
		for (uint64_t p = 64; p < pages; p++)
			assert_page(bed.mem, p, 3);
		close_bed(&bed);
	}
}

/* Parts can be given up; the rest holds, and when nothing is left the range is gone. */
static void parts_can_be_given_up(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 4 * BUDGET / PAGE, half = pages / 2 * PAGE;

		open_bed(&bed, kind, pages * PAGE);
		for (uint64_t p = 0; p < pages; p++)
			fill_page(bed.mem, p, 1);
		assert_int_equal(gvm_pager_unmap(bed.range, 100 * PAGE, 100 * PAGE), 0);
		assert_int_equal(gvm_pager_unmap(bed.range, half, half), 0);
		munmap(bed.mem + half, half);
		for (uint64_t p = 0; p < pages / 2; p++)
			if (p < 100 || p >= 200)
				assert_page(bed.mem, p, 1);
		assert_int_equal(gvm_pager_sync(bed.range), 0);
		assert_true(fake_stored("r") <= pages / 2 - 100);
		assert_int_equal(gvm_pager_unmap(bed.range, 0, half), 1);
		assert_int_equal(stats_of(&bed).attached_pages, 0);
		assert_int_equal(stats_of(&bed).local_pages, 0);
		close_bed(&bed);
	}
}

/* A raw munmap is noticed as well. */
static void a_raw_munmap_is_noticed(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 4 * BUDGET / PAGE;

		open_bed(&bed, kind, pages * PAGE);
		for (uint64_t p = 0; p < pages; p++)
			fill_page(bed.mem, p, 1);
		assert_int_equal(munmap(bed.mem + 300 * PAGE, 100 * PAGE), 0);
		for (uint64_t p = 0; p < pages; p++)
			if (p < 300 || p >= 400)
				assert_page(bed.mem, p, 1);
		close_bed(&bed);
	}
}

/* Memory moves, grows and shrinks, with what is in it. */
static void memory_can_move_and_grow(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 3 * BUDGET / PAGE;
		char *p, *at;

		open_bed(&bed, kind, pages * PAGE);
		if (bed.memfd >= 0)
			assert_int_equal(ftruncate(bed.memfd, (off_t)(2 * pages * PAGE)), 0);
		for (uint64_t i = 0; i < pages; i++)
			fill_page(bed.mem, i, 1);
		p = gvm_pager_remap(bed.range, 2 * pages * PAGE, MREMAP_MAYMOVE, NULL);
		assert_ptr_not_equal(p, MAP_FAILED);
		for (uint64_t i = 0; i < pages; i++)
			assert_page(p, i, 1);
		for (uint64_t i = pages; i < 2 * pages; i++) {
			assert_true(page_zero(p, i));
			fill_page(p, i, 1);
		}
		at = mmap(NULL, 2 * pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		p = gvm_pager_remap(bed.range, 2 * pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at);
		assert_ptr_equal(p, at);
		for (uint64_t i = 0; i < 2 * pages; i++)
			assert_page(p, i, 1);
		p = gvm_pager_remap(bed.range, pages * PAGE, 0, NULL);
		assert_ptr_equal(p, at);
		for (uint64_t i = 0; i < pages; i++)
			assert_page(p, i, 1);
		p = gvm_pager_remap(bed.range, pages * PAGE + 64 * PAGE, MREMAP_MAYMOVE, NULL);
		assert_ptr_not_equal(p, MAP_FAILED);
		for (uint64_t i = 0; i < pages + 64; i++) {
			if (i < pages)
				assert_page(p, i, 1);
			else
				assert_true(page_zero(p, i));
		}
		bed.mem = p;
		bed.bytes = (pages + 64) * PAGE;
		close_bed(&bed);
	}
}

/* mremap by the program itself is followed; what it adds to the mapping is ordinary memory. */
static void a_raw_mremap_is_followed(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct bed bed = { 0 };
		uint64_t pages = 3 * BUDGET / PAGE;
		char *to;

		open_bed(&bed, &kinds[i], pages * PAGE);
		for (uint64_t p = 0; p < pages; p++)
			fill_page(bed.mem, p, 1);
		to = mmap(NULL, bed.bytes + 64 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			  0);
		assert_ptr_equal(mremap(bed.mem, bed.bytes, bed.bytes + 64 * PAGE,
					MREMAP_MAYMOVE | MREMAP_FIXED, to),
				 to);
		bed.mem = to;
		for (uint64_t p = 0; p < pages; p++)
			assert_page(bed.mem, p, 1);
		for (uint64_t p = pages; p < pages + 64; p++) {
			assert_true(page_zero(bed.mem, p));
			fill_page(bed.mem, p, 1);
		}
		for (uint64_t p = 0; p < pages + 64; p++)
			assert_page(bed.mem, p, 1);
		bed.bytes += 64 * PAGE;
		close_bed(&bed);
	}
}

static bool is_mapped(const char *at)
{
	unsigned char present;

	return mincore((void *)at, PAGE, &present) == 0;
}

/* A range that is detached: what its owner mapped is ordinary memory, of zeros; what the pager
 * mapped is there no more. */
static void detaching_leaves_what_is_the_callers(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 2 * BUDGET / PAGE;
		struct gvm_range *own;
		char *mem;

		open_bed(&bed, kind, pages * PAGE);
		assert_int_equal(gvm_pager_attach(bed.pager, "own", NULL, pages * PAGE, -1, 0,
						  GVM_ATTACH_ANON, &own),
				 0);
		mem = gvm_range_base(own);
		for (uint64_t p = 0; p < pages; p++) {
			fill_page(bed.mem, p, 4);
			fill_page(mem, p, 5);
		}
		assert_int_equal(gvm_pager_detach(own), 0);
		for (uint64_t p = 0; p < pages; p++)
			assert_false(is_mapped(mem + p * PAGE));
		assert_int_equal(gvm_pager_detach(bed.range), 0);
		for (uint64_t p = 0; p < pages; p++) {
			assert_true(page_zero(bed.mem, p));
			fill_page(bed.mem, p, 6);
			assert_page(bed.mem, p, 6);
		}
		close_bed(&bed);
	}
}

/* In the child: what was there at the fork, and a life of its own. Exit code: which check failed.
 */
static int live_as_child(struct bed *bed, uint64_t pages)
{
	if (gvm_pager_fork_child(bed->pager))
		return 2;
	for (unsigned round = 0; round < 2; round++)
		for (uint64_t p = 0; p < pages; p++) {
			if (!page_is(bed->mem, p, round ? 30 : 20))
				return 4 + (int)round;
			fill_page(bed->mem, p, 30);
		}
	if (stats_of(bed).local_pages > BUDGET / PAGE)
		return 6;
	gvm_pager_close(bed->pager);
	return 0;
}

/* A forked child sees the memory as it was; then both go their own way. Twice, and in a grandchild.
 */
static void a_forked_child_has_a_snapshot(void **state)
{
#ifdef __SANITIZE_THREAD__
	skip(); /* it does not let a child of a process with threads have threads */
#endif
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 3 * BUDGET / PAGE;
		struct gvm_range *apart;

		if (kind->shared)
			continue;
		open_bed(&bed, kind, pages * PAGE);
		assert_int_equal(gvm_pager_attach(bed.pager, "apart", NULL, 64 * PAGE, -1, 0,
						  GVM_ATTACH_ANON, &apart),
				 0);
		gvm_range_set_fork(apart, 0);
		for (unsigned round = 0; round < 2; round++) {
			int status;
			pid_t pid;

			for (uint64_t p = 0; p < pages; p++)
				fill_page(bed.mem, p, 20);
			assert_int_equal(gvm_pager_fork_prepare(bed.pager), 0);
			pid = fork();
			if (pid == 0)
				_exit(live_as_child(&bed, pages));
			gvm_pager_fork_parent(bed.pager, pid > 0);
			assert_true(pid > 0);
			for (uint64_t p = 0; p < pages; p++) {
				assert_page(bed.mem, p, 20);
				fill_page(bed.mem, p, 40);
			}
			assert_int_equal(waitpid(pid, &status, 0), pid);
			assert_true(WIFEXITED(status));
			assert_int_equal(WEXITSTATUS(status), 0);
			for (uint64_t p = 0; p < pages; p++)
				assert_page(bed.mem, p, 40);
		}
		close_bed(&bed);
	}
}

#define MANY 12

/* Pages of the ranges that go on first leave while the others are made ready: on the same
 * descriptors, which then say that the program changes its mappings. */
static void a_child_of_many_ranges(void **state)
{
#ifdef __SANITIZE_THREAD__
	skip(); /* it does not let a child of a process with threads have threads */
#endif
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		struct gvm_range *range[MANY];
		char *mem[MANY], name[16];
		uint64_t pages = BUDGET / PAGE / 8;

		if (kind->shared)
			continue;
		open_bed(&bed, kind, 16 * PAGE);
		for (unsigned i = 0; i < MANY; i++) {
			snprintf(name, sizeof(name), "many-%u", i);
			assert_int_equal(gvm_pager_attach(bed.pager, name, NULL, pages * PAGE, -1,
							  0, GVM_ATTACH_ANON, &range[i]),
					 0);
			mem[i] = gvm_range_base(range[i]);
			for (uint64_t p = 0; p < pages; p++)
				fill_page(mem[i], p, i);
			assert_int_equal(gvm_pager_sync(range[i]), 0);
		}
		for (unsigned round = 0; round < 3; round++) {
			int status, bad = 0;
			pid_t pid;

			/* clean, and as many as there is room for */
			for (unsigned i = 0; i < MANY; i++)
				for (uint64_t p = 0; p < pages; p++)
					assert_page(mem[i], p, i);
			assert_int_equal(gvm_pager_fork_prepare(bed.pager), 0);
			pid = fork();
			if (pid == 0) {
				if (gvm_pager_fork_child(bed.pager))
					_exit(2);
				for (unsigned i = 0; i < MANY; i++)
					for (uint64_t p = 0; p < pages; p++)
						bad |= !page_is(mem[i], p, i);
				gvm_pager_close(bed.pager);
				_exit(bad);
			}
			gvm_pager_fork_parent(bed.pager, pid > 0);
			assert_int_equal(waitpid(pid, &status, 0), pid);
			assert_int_equal(status, 0);
		}
		close_bed(&bed);
	}
}

static unsigned regions(void)
{
	unsigned n = 0;

	pthread_mutex_lock(&fake.lock);
	for (int i = 0; i < FAKE_REGIONS; i++)
		n += fake.data[i].exists;
	pthread_mutex_unlock(&fake.lock);
	return n;
}

/* Where the kernel makes no child nothing is left of its clones, and memory is as it was. */
static void a_failed_fork_leaves_no_clones(void **state)
{
	struct bed bed = { 0 };
	uint64_t pages = 3 * BUDGET / PAGE;

	open_bed(&bed, &kinds[0], pages * PAGE);
	for (uint64_t p = 0; p < pages; p++)
		fill_page(bed.mem, p, 20);
	for (unsigned round = 0; round < 2; round++) {
		assert_int_equal(gvm_pager_fork_prepare(bed.pager), 0);
		assert_int_equal(regions(), 2);
		gvm_pager_fork_parent(bed.pager, 0);
		assert_int_equal(regions(), 1);
	}
	for (uint64_t p = 0; p < pages; p++)
		assert_page(bed.mem, p, 20);
	close_bed(&bed);
}

/* Many small ranges in one pager. */
static void many_ranges(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		struct gvm_range *ranges[40];
		char name[16];

		if (kind->shared)
			continue;
		open_bed(&bed, kind, PAGE);
		for (unsigned i = 0; i < 40; i++) {
			snprintf(name, sizeof(name), "r%u", i);
			assert_int_equal(gvm_pager_attach(bed.pager, name, NULL, 64 * PAGE, -1, 0,
							  GVM_ATTACH_ANON, &ranges[i]),
					 0);
			for (uint64_t p = 0; p < 64; p++)
				fill_page(gvm_range_base(ranges[i]), p, i);
		}
		for (unsigned i = 0; i < 40; i += 2)
			assert_int_equal(gvm_pager_detach(ranges[i]), 0);
		for (unsigned i = 1; i < 40; i += 2)
			for (uint64_t p = 0; p < 64; p++)
				assert_page(gvm_range_base(ranges[i]), p, i);
		close_bed(&bed);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(discards_read_as_zeros),
		cmocka_unit_test(discards_race_with_access),
		cmocka_unit_test(discards_need_no_store),
		cmocka_unit_test(parts_can_be_given_up),
		cmocka_unit_test(a_raw_munmap_is_noticed),
		cmocka_unit_test(memory_can_move_and_grow),
		cmocka_unit_test(a_raw_mremap_is_followed),
		cmocka_unit_test(detaching_leaves_what_is_the_callers),
		cmocka_unit_test(a_forked_child_has_a_snapshot),
		cmocka_unit_test(a_child_of_many_ranges),
		cmocka_unit_test(a_failed_fork_leaves_no_clones),
		cmocka_unit_test(many_ranges),
	};

	return RUN_TESTS(tests);
}
