/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Huge pages where there is room: they come with the first touch, whole; contents hold while
 * they are split, discarded, moved, forked, and while the budget is taken away and given again; and
 * where the kernel has none to give, or cannot move them, small pages do.
 */
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "pager_rig.h"

#define HUGE   HUGE_BYTES
#define BLOCKS 6u /* that lie whole in the range */

/* The kinds of memory that can have them. */
static const struct kind *const moved[] = { &kinds[0], &kinds[4], &kinds[5] };
#define MOVED (sizeof(moved) / sizeof(moved[0]))

/* ---- what the kernel has ------------------------------------------------------------------- */

static bool kernel_has_them(void)
{
	char line[128] = "";
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
	bool has = file && fgets(line, sizeof(line), file) && !strstr(line, "[never]");
	uint64_t features;
	int fd;

	if (file)
		fclose(file);
	if (mem_uffd(0, &features, &fd))
		return false;
	close(fd);
	return has && mem_has_move(features);
}

#define NEEDS_THEM()                                                                               \
	if (!kernel_has_them()) {                                                                  \
		print_message("no transparent huge pages, or no UFFDIO_MOVE, in this kernel\n");   \
		skip();                                                                            \
	}

/* How much of the range the kernel maps as huge pages. */
static uint64_t huge_bytes(const struct bed *bed)
{
	uint64_t from = (uintptr_t)bed->mem, to = from + bed->bytes, low = 0, high = 0, sum = 0;
	FILE *file = fopen("/proc/self/smaps", "r");
	char line[512];

	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		unsigned long a, b, kib;

		if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
			low = a;
			high = b;
		} else if (low < to && high > from &&
			   sscanf(line, "AnonHugePages: %lu kB", &kib) == 1) {
			sum += kib * 1024;
		}
	}
	fclose(file);
	return sum;
}

/* ---- what each test stands on -------------------------------------------------------------- */

/* Memory that begins and ends in the middle of a block: before it, and after it, is nobody's. */
static char *map_askew(struct bed *bed, uint64_t bytes)
{
	uint64_t at;
	char *map = mmap(NULL, bytes + 2 * HUGE, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_ptr_not_equal(map, MAP_FAILED);
	at = ((uintptr_t)map + HUGE - 1) / HUGE * HUGE + HUGE / 4;
	assert_int_equal(mprotect((void *)at, bytes, PROT_READ | PROT_WRITE), 0);
	bed->memfd = -1;
	return (char *)at;
}

static void attach_huge(struct bed *bed, unsigned flags)
{
	assert_int_equal(gvm_pager_attach(bed->pager, "r", bed->mem, bed->bytes, -1, 0,
					  flags | GVM_ATTACH_ANON | GVM_ATTACH_HUGE, &bed->range),
			 0);
}

static void open_huge(struct bed *bed, const struct kind *kind, uint64_t local, unsigned flags)
{
	gvm_pager_config_init(&bed->config);
	bed->config.local_bytes = local;
	bed->config.slab_bytes = 4 * MIB; /* so that two blocks of each slab lie in it whole */
	open_pager(bed, kind);
	bed->bytes = (BLOCKS + 1) * HUGE;
	bed->mem = map_askew(bed, bed->bytes);
	attach_huge(bed, flags);
}

static uint64_t pages_of(const struct bed *bed)
{
	return bed->bytes / PAGE;
}

/* A block's first page, of those that lie whole in the range. */
static uint64_t block(unsigned i)
{
	return HUGE_PAGES - HUGE_PAGES / 4 + i * HUGE_PAGES;
}

/* Where there are several shards a block that lies in two slabs has pages of two threads. */
static unsigned blocks_whole(const struct bed *bed)
{
	return bed->pager->shards == 1 ? BLOCKS : BLOCKS / 2;
}

static void fill_all(struct bed *bed, uint64_t seed)
{
	for (uint64_t p = 0; p < pages_of(bed); p++)
		fill_page(bed->mem, p, seed);
}

static void assert_all(const struct bed *bed, uint64_t seed)
{
	for (uint64_t p = 0; p < pages_of(bed); p++)
		assert_page(bed->mem, p, seed);
}

/* ---- tests --------------------------------------------------------------------------------- */

/* One fault brings a block, and nobody is asked for it. What does not lie whole in the range comes
 * in small pages. */
static void a_block_comes_whole(void **state)
{
	NEEDS_THEM();
	for (unsigned k = 0; k < MOVED; k++) {
		struct bed bed = { 0 };
		struct gvm_pager_stats stats;
		unsigned whole;

		open_huge(&bed, moved[k], (BLOCKS + 1) * HUGE, 0);
		gvm_pager_set_prefetch(bed.pager, 0);
		whole = blocks_whole(&bed);
		for (unsigned i = 0; i < BLOCKS; i++)
			fill_page(bed.mem, block(i) + 100 * i, 1);
		assert_true(AWAITED(stats_of(&bed).faults_zero == BLOCKS));
		stats = stats_of(&bed);
		assert_int_equal(stats.zeros_ahead, whole * (HUGE_PAGES - 1));
		assert_int_equal(stats.resident_pages, whole * HUGE_PAGES + (BLOCKS - whole));
		assert_int_equal(stats.local_pages, stats.resident_pages);
		assert_int_equal(huge_bytes(&bed), whole * HUGE);
		for (unsigned i = 0; i < BLOCKS; i++)
			for (uint64_t p = block(i); p < block(i + 1); p++)
				if (p == block(i) + 100 * i)
					assert_page(bed.mem, p, 1);
				else
					assert_true(page_zero(bed.mem, p));
		fill_all(&bed, 2);
		assert_all(&bed, 2);
		/* it was for all of it that there is room */
		assert_true(AWAITED(stats_of(&bed).local_pages == pages_of(&bed)));
		stats = stats_of(&bed);
		assert_int_equal(stats.evicted_pages, 0);
		assert_int_equal(fake.put, 0);
		assert_int_equal(huge_bytes(&bed), whole * HUGE);
		close_bed(&bed);
	}
}

/* A walk over all of it leaves each block to its first touch, whatever prefetch would bring. */
static void a_stream_brings_no_small_pages(void **state)
{
	NEEDS_THEM();
	for (int way = -1; way <= 1; way += 2) {
		struct bed bed = { 0 };
		uint64_t n;

		open_huge(&bed, &kinds[0], (BLOCKS + 1) * HUGE, 0);
		n = pages_of(&bed);
		for (uint64_t p = 0; p < n; p++)
			fill_page(bed.mem, way < 0 ? n - 1 - p : p, 1);
		assert_int_equal(huge_bytes(&bed), BLOCKS * HUGE);
		assert_all(&bed, 1);
		close_bed(&bed);
	}
}

/* The budget is taken away: the pages leave one by one. Given again it changes nothing for what the
 * region has; what is discarded whole comes whole again. */
static void a_smaller_budget_splits_them(void **state)
{
	NEEDS_THEM();
	for (unsigned k = 0; k < MOVED; k++) {
		struct bed bed = { 0 };
		uint64_t bytes = (BLOCKS + 1) * HUGE;

		open_huge(&bed, moved[k], bytes, 0);
		fill_all(&bed, 3);
		assert_int_equal(huge_bytes(&bed), blocks_whole(&bed) * HUGE);
		assert_int_equal(gvm_pager_set_local(bed.pager, BUDGET), 0);
		assert_true(AWAITED(stats_of(&bed).local_pages <= BUDGET / PAGE));
		assert_int_equal(huge_bytes(&bed), 0);
		for (unsigned i = 0; i < 2; i++)
			assert_all(&bed, 3);
		assert_int_equal(gvm_pager_set_local(bed.pager, bytes), 0);
		fill_all(&bed, 4);
		assert_all(&bed, 4);
		assert_int_equal(gvm_pager_detach(bed.range), 0);
		attach_huge(&bed, 0);
		fill_page(bed.mem, block(0), 5);
		assert_int_equal(huge_bytes(&bed), HUGE);
		close_bed(&bed);
	}
}

/* They come until there is room for little more; what comes then, and what leaves, are small pages,
 * and no more is here than may be. */
static void they_end_where_room_does(void **state)
{
	NEEDS_THEM();
	for (unsigned k = 0; k < MOVED; k += 2) {
		struct bed bed = { 0 };
		uint64_t budget = 4 * HUGE_PAGES;

		open_huge(&bed, moved[k], budget * PAGE, 0);
		gvm_pager_set_prefetch(bed.pager, 0);
		for (unsigned i = 0; i < BLOCKS; i++)
			fill_page(bed.mem, block(i), 2);
		assert_int_equal(huge_bytes(&bed), 2 * HUGE);
		for (unsigned i = 0; i < BLOCKS; i++)
			assert_page(bed.mem, block(i), 2);
		gvm_pager_set_prefetch(bed.pager, 128);
		for (unsigned i = 0; i < 3; i++) {
			fill_all(&bed, 3 + i);
			assert_true(stats_of(&bed).local_pages <= budget);
			assert_all(&bed, 3 + i);
			assert_true(stats_of(&bed).local_pages <= budget);
		}
		close_bed(&bed);
	}
}

/* A part of one is discarded, by the program itself and by the caller; then all of it. */
static void discards_split_them(void **state)
{
	NEEDS_THEM();
	for (unsigned k = 0; k < MOVED; k++) {
		struct bed bed = { 0 };
		uint64_t from, faults, zeros;

		open_huge(&bed, moved[k], (BLOCKS + 1) * HUGE, 0);
		gvm_pager_set_prefetch(bed.pager, 0);
		fill_all(&bed, 6);
		from = block(0) + 10;
		assert_int_equal(madvise(bed.mem + from * PAGE, 20 * PAGE, MADV_DONTNEED), 0);
		assert_int_equal(gvm_pager_discard(bed.range, (from + 20) * PAGE, 20 * PAGE), 0);
		for (uint64_t p = block(0); p < block(1); p++)
			if (p - from < 40)
				assert_true(page_zero(bed.mem, p));
			else
				assert_page(bed.mem, p, 6);
		for (uint64_t p = from; p < from + 40; p++)
			fill_page(bed.mem, p, 6);
		assert_all(&bed, 6);
		assert_int_equal(gvm_pager_discard(bed.range, block(0) * PAGE, HUGE_PAGES * PAGE),
				 0);
		faults = stats_of(&bed).faults;
		zeros = stats_of(&bed).faults_zero;
		assert_true(page_zero(bed.mem, block(0) + 7));
		assert_true(page_zero(bed.mem, block(0) + 300));
		assert_true(AWAITED(stats_of(&bed).faults_zero > zeros));
		assert_int_equal(stats_of(&bed).faults, faults + 1);
		close_bed(&bed);
	}
}

/* A sync stores what was written, and no zeros; the pages are still there, and come back. */
static void a_sync_stores_what_was_written(void **state)
{
	NEEDS_THEM();
	for (unsigned k = 0; k < MOVED; k++) {
		struct bed bed = { 0 };
		uint64_t n, written = 0;

		open_huge(&bed, moved[k], (BLOCKS + 1) * HUGE, GVM_ATTACH_SAVE);
		n = pages_of(&bed);
		for (uint64_t p = 5; p < n; p += 37, written++)
			fill_page(bed.mem, p, 7);
		assert_int_equal(gvm_pager_sync(bed.range), 0);
		assert_int_equal(fake_stored("r"), written);
		for (unsigned i = 0; i < 2; i++) {
			for (uint64_t p = 0; p < n; p++)
				if (p % 37 == 5)
					assert_page(bed.mem, p, 7);
				else
					assert_true(page_zero(bed.mem, p));
			assert_int_equal(gvm_pager_detach(bed.range), 0);
			attach_huge(&bed, GVM_ATTACH_KEEP | GVM_ATTACH_SAVE);
		}
		close_bed(&bed);
	}
}

/* A transfer of the kernel's has a page of one: that holds up its neighbours, and nobody else. */
static void a_pinned_page_holds_its_block(void **state)
{
	struct bed bed = { 0 };
	int ring;

	NEEDS_THEM();
	open_huge(&bed, &kinds[0], (BLOCKS + 1) * HUGE, 0);
	fill_all(&bed, 8);
	ring = pin(bed.mem + (block(2) + 17) * PAGE, 1);
	if (ring < 0) {
		close_bed(&bed);
		skip();
	}
	assert_int_equal(gvm_pager_set_local(bed.pager, 2 * HUGE), 0);
	assert_true(AWAITED(stats_of(&bed).local_pages <= 2 * HUGE_PAGES));
	assert_all(&bed, 8);
	unpin(ring);
	assert_int_equal(gvm_pager_set_local(bed.pager, BUDGET), 0);
	for (unsigned i = 0; i < 1000 && stats_of(&bed).local_pages > BUDGET / PAGE; i++)
		assert_all(&bed, 8);
	assert_true(stats_of(&bed).local_pages <= BUDGET / PAGE);
	assert_all(&bed, 8);
	close_bed(&bed);
}

/* The kernel has none: it is not asked for each block, and small pages come as ever. */
static void without_huge_pages_small_ones_do(void **state)
{
	struct bed bed = { 0 };

	if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)) {
		print_message("huge pages cannot be taken from this process\n");
		skip();
	}
	for (unsigned k = 0; k < MOVED; k++) {
		open_huge(&bed, moved[k], (BLOCKS + 1) * HUGE, 0);
		fill_all(&bed, 9);
		assert_int_equal(huge_bytes(&bed), 0);
		assert_all(&bed, 9);
		close_bed(&bed);
	}
	prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
	/* nor can the page be moved into memory that is locked: what was made for it goes back */
	open_huge(&bed, &kinds[0], (BLOCKS + 1) * HUGE, 0);
	if (syscall(SYS_mlock2, bed.mem, bed.bytes, 1 /* MLOCK_ONFAULT */) == 0) {
		fill_all(&bed, 9);
		assert_all(&bed, 9);
	}
	close_bed(&bed);
}

/* The range moves, grows within the budget, and beyond it. */
static void they_follow_their_range(void **state)
{
	NEEDS_THEM();
	for (unsigned k = 0; k < MOVED; k++) {
		struct bed bed = { 0 };
		uint64_t small = (BLOCKS + 1) * HUGE, big = 2 * small;
		char *mem;

		open_huge(&bed, moved[k], big, 0);
		for (uint64_t p = 0; p < pages_of(&bed); p += 2)
			fill_page(bed.mem, p, 10);
		mem = gvm_pager_remap(bed.range, big, MREMAP_MAYMOVE, NULL);
		assert_ptr_not_equal(mem, MAP_FAILED);
		bed.mem = mem;
		bed.bytes = big;
		for (uint64_t p = 1; p < pages_of(&bed); p += 2)
			fill_page(bed.mem, p, 10);
		for (uint64_t p = small / PAGE; p < pages_of(&bed); p += 2)
			fill_page(bed.mem, p, 10);
		assert_all(&bed, 10);
		if (bed.pager->shards == 1)
			assert_true(huge_bytes(&bed) >= (BLOCKS - 1) * HUGE);
		mem = gvm_pager_remap(bed.range, big + HUGE, MREMAP_MAYMOVE, NULL);
		assert_ptr_not_equal(mem, MAP_FAILED);
		bed.mem = mem;
		for (uint64_t p = big / PAGE; p < (big + HUGE) / PAGE; p++)
			fill_page(bed.mem, p, 10);
		bed.bytes = big + HUGE;
		assert_all(&bed, 10);
		close_bed(&bed);
	}
}

/* The page that was made for the next block is the child's as well then. */
static void a_forked_child_has_its_own(void **state)
{
	NEEDS_THEM();
#ifdef __SANITIZE_THREAD__
	print_message(
	    "the thread sanitizer lets no child of a process with threads have threads\n");
	skip();
#endif
	for (unsigned k = 0; k < MOVED; k++) {
		struct bed bed = { 0 };
		int status;
		pid_t pid;

		open_huge(&bed, moved[k], (BLOCKS + 1) * HUGE, 0);
		for (uint64_t p = 0; p < block(2); p++)
			fill_page(bed.mem, p, 11);
		assert_int_equal(gvm_pager_fork_prepare(bed.pager), 0);
		pid = fork();
		if (pid == 0) {
			bool good = gvm_pager_fork_child(bed.pager) == 0;

			for (uint64_t p = 0; p < pages_of(&bed) && good; p++)
				good =
				    p < block(2) ? page_is(bed.mem, p, 11) : page_zero(bed.mem, p);
			for (uint64_t p = 0; p < pages_of(&bed) && good; p++)
				fill_page(bed.mem, p, 12);
			for (uint64_t p = 0; p < pages_of(&bed) && good; p++)
				good = page_is(bed.mem, p, 12);
			_exit(good ? 0 : 1);
		}
		gvm_pager_fork_parent(bed.pager, pid > 0);
		fill_all(&bed, 13);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		assert_all(&bed, 13);
		assert_int_equal(gvm_pager_set_local(bed.pager, BUDGET), 0);
		assert_all(&bed, 13);
		close_bed(&bed);
	}
}

/* ---- all at once --------------------------------------------------------------------------- */

struct work {
	struct bed *bed;
	unsigned number;
	atomic_bool *stop;
};

/* Each thread has every THREADSth page, and knows what it holds: writes, reads, discards. */
static void *work_on(void *arg)
{
	const struct work *work = arg;
	const struct bed *bed = work->bed;
	uint64_t n = pages_of(bed) / THREADS, draw = work->number + 1;
	uint8_t *seed = calloc(n, 1);

	while (seed && !*work->stop) {
		uint64_t i = (draw = mix(draw)) % n, page = i * THREADS + work->number;

		if (seed[i] ? !page_is(bed->mem, page, seed[i]) : !page_zero(bed->mem, page))
			break;
		if (draw >> 60 == 0) {
			madvise(bed->mem + page * PAGE, PAGE, MADV_DONTNEED);
			seed[i] = 0;
		} else {
			seed[i] = (uint8_t)((draw >> 40) | 1);
			fill_page(bed->mem, page, seed[i]);
		}
	}
	free(seed);
	return *work->stop ? NULL : arg;
}

static void contents_hold_while_the_budget_comes_and_goes(void **state)
{
	NEEDS_THEM();
	for (unsigned k = 0; k < MOVED; k += 2) {
		struct bed bed = { 0 };
		struct work work[THREADS];
		pthread_t thread[THREADS];
		atomic_bool stop = false;
		void *broken;

		open_huge(&bed, moved[k], (BLOCKS + 1) * HUGE, 0);
		for (unsigned i = 0; i < THREADS; i++) {
			work[i] = (struct work){ &bed, i, &stop };
			assert_int_equal(pthread_create(&thread[i], NULL, work_on, &work[i]), 0);
		}
		for (unsigned i = 0; i < 12; i++) {
			uint64_t faults = stats_of(&bed).faults + 500;

			assert_true(AWAITED(stats_of(&bed).faults >= faults));
			assert_int_equal(gvm_pager_set_local(bed.pager, i % 3 == 0 ? 3 * HUGE
									: i % 3 == 1
									    ? bed.bytes - PAGE
									    : bed.bytes),
					 0);
			/* all of it is unmade, so that it can come whole again */
			if (i % 3 == 2)
				assert_int_equal(gvm_pager_sync(bed.range), 0);
		}
		stop = true;
		for (unsigned i = 0; i < THREADS; i++) {
			pthread_join(thread[i], &broken);
			assert_null(broken);
		}
		close_bed(&bed);
	}
}

/* It is for private memory. */
static void shared_memory_is_refused(void **state)
{
	struct bed bed = { 0 };

	open_pager(&bed, &kinds[2]);
	bed.bytes = 2 * HUGE;
	bed.mem = map_memory(&bed, bed.bytes);
	assert_int_equal(gvm_pager_attach(bed.pager, "r", bed.mem, bed.bytes, bed.memfd, 0,
					  GVM_ATTACH_HUGE, &bed.range),
			 -EINVAL);
	close_bed(&bed);
	/* on an older kernel it does nothing */
	open_huge(&bed, &kinds[1], (BLOCKS + 1) * HUGE, 0);
	fill_all(&bed, 14);
	assert_int_equal(huge_bytes(&bed), 0);
	assert_all(&bed, 14);
	close_bed(&bed);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_block_comes_whole),
		cmocka_unit_test(a_stream_brings_no_small_pages),
		cmocka_unit_test(a_smaller_budget_splits_them),
		cmocka_unit_test(they_end_where_room_does),
		cmocka_unit_test(discards_split_them),
		cmocka_unit_test(a_sync_stores_what_was_written),
		cmocka_unit_test(a_pinned_page_holds_its_block),
		cmocka_unit_test(without_huge_pages_small_ones_do),
		cmocka_unit_test(they_follow_their_range),
		cmocka_unit_test(a_forked_child_has_its_own),
		cmocka_unit_test(contents_hold_while_the_budget_comes_and_goes),
		cmocka_unit_test(shared_memory_is_refused),
	};

	return RUN_TESTS(tests);
}
