/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The pager over a store inside the process: contents hold far over the budget, in private and
 * shared memory, with and without what newer kernels offer, through discards, changes of the
 * budget, saving, failures and the end of it all.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "fake_region.h"

#define MIB    (1ull << 20)
#define BUDGET (1 * MIB)

/* ---- what each test stands on -------------------------------------------------------------- */

struct kind {
	const char *name;
	unsigned quirks, threads;
	bool shared;
};
static const struct kind kinds[] = {
	{ "private", 0, 1, false },
	{ "private, old kernel", QUIRK_NO_MOVE | QUIRK_NO_POISON, 1, false },
	{ "shared", 0, 1, true },
	{ "shared, old kernel", QUIRK_NO_MOVE | QUIRK_NO_POISON, 1, true },
	{ "private, no digests", QUIRK_NO_DIGESTS, 1, false },
	{ "private, 3 shards", 0, 3, false },
	{ "private, slow helper", QUIRK_NO_MOVE | QUIRK_SLOW_HELPER, 1, false },
	{ "private, 3 shards, old kernel", QUIRK_NO_MOVE | QUIRK_NO_POISON, 3, false },
	{ "shared, 2 shards", 0, 2, true },
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

struct bed {
	const struct kind *kind;
	struct gvm_net *net;
	struct gvm_pager *pager;
	struct gvm_range *range;
	int memfd;
	char *mem;
	uint64_t bytes;
	struct gvm_pager_config config;
};

static void open_pager(struct bed *bed, const struct kind *kind)
{
	struct gvm_net_config net = { .transport = "loop", .node = GVM_NODE_NONE };

	pager_quirks = kind->quirks;
	bed->kind = kind;
	if (getenv("TEST_VERBOSE"))
		fprintf(stderr, "  %s\n", kind->name);
	if (!bed->config.local_bytes) {
		gvm_pager_config_init(&bed->config);
		bed->config.local_bytes = BUDGET;
		bed->config.slab_bytes = 256 * 1024;
	}
	bed->config.threads = kind->threads;
	assert_int_equal(gvm_net_open(&net, &bed->net), 0);
	assert_int_equal(pager_open_store(bed->net, &bed->config, &fake_store, &bed->pager), 0);
}

static char *map_memory(struct bed *bed, uint64_t bytes)
{
	char *p;

	bed->memfd = -1;
	if (bed->kind->shared) {
		bed->memfd = memfd_create("test", MFD_CLOEXEC);
		assert_int_equal(ftruncate(bed->memfd, (off_t)bytes), 0);
		p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, bed->memfd, 0);
	} else {
		p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	}
	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static void attach(struct bed *bed, uint64_t bytes, unsigned flags)
{
	bed->mem = map_memory(bed, bytes);
	bed->bytes = bytes;
	assert_int_equal(gvm_pager_attach(bed->pager, "r", bed->mem, bytes, bed->memfd, 0,
					  flags | (bed->kind->shared ? 0 : GVM_ATTACH_ANON),
					  &bed->range),
			 0);
	assert_ptr_equal(gvm_range_base(bed->range), bed->mem);
	assert_int_equal(gvm_range_bytes(bed->range), bytes);
}

static void open_bed(struct bed *bed, const struct kind *kind, uint64_t bytes)
{
	open_pager(bed, kind);
	attach(bed, bytes, 0);
}

static void close_bed(struct bed *bed)
{
	gvm_pager_close(bed->pager);
	gvm_net_close(bed->net);
	munmap(bed->mem, bed->bytes);
	if (bed->memfd >= 0)
		close(bed->memfd);
	pager_quirks = 0;
	fake_reset();
	memset(bed, 0, sizeof(*bed));
}

static struct gvm_pager_stats stats_of(struct bed *bed)
{
	struct gvm_pager_stats stats;

	gvm_pager_stats(bed->pager, &stats, NULL);
	return stats;
}

/* ---- contents that can be known again ------------------------------------------------------ */

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static void fill_page(char *mem, uint64_t page, uint64_t seed)
{
	uint64_t *p = (uint64_t *)(mem + page * PAGE);

	for (unsigned i = 0; i < PAGE / 8; i += 64)
		__atomic_store_n(&p[i], mix(page * 1000003 + seed + i), __ATOMIC_RELAXED);
}

static bool page_is(const char *mem, uint64_t page, uint64_t seed)
{
	const uint64_t *p = (const uint64_t *)(mem + page * PAGE);

	for (unsigned i = 0; i < PAGE / 8; i += 64)
		if (__atomic_load_n(&p[i], __ATOMIC_RELAXED) != mix(page * 1000003 + seed + i))
			return false;
	return true;
}

static inline bool page_zero(const char *mem, uint64_t page)
{
	return mem_is_zero(mem + page * PAGE);
}

static void assert_page(const char *mem, uint64_t page, uint64_t seed)
{
	if (!page_is(mem, page, seed))
		fail_msg("page %llu has not the contents of seed %llu: %llx",
			 (unsigned long long)page, (unsigned long long)seed,
			 *(unsigned long long *)(mem + page * PAGE));
}

#define EACH_KIND(kind) for (const struct kind *kind = kinds; kind < kinds + KINDS; kind++)

/* ---- tests --------------------------------------------------------------------------------- */

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
		close_bed(&bed);
	}
}

/* Several threads, each with its own pages, and all with some in common. */
struct job_of {
	struct bed *bed;
	unsigned number, rounds;
	unsigned wrong;
};
#define THREADS 4

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

		if (fd < 0 || write(fd, "1", 1) != 1)
			usleep(1000);
		if (fd >= 0)
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

static void await_local(struct bed *bed, uint64_t most)
{
	for (unsigned i = 0; i < 5000 && stats_of(bed).local_pages > most; i++)
		usleep(1000);
	assert_true(stats_of(bed).local_pages <= most);
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
		await_local(&bed, BUDGET / PAGE);
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

/* ---- failures ------------------------------------------------------------------------------ */

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
	while (stats_of(arg).nodes_away == 0)
		usleep(1000);
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

/* sigbus: the access fails loudly after a while; when the store is back the page is, too. */
static void sigbus_fails_loudly_and_heals(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 4 * BUDGET / PAGE;
		unsigned tries = 0;

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
		while (touch_is_fatal(bed.mem) && ++tries < 1000)
			usleep(1000);
		for (uint64_t p = 0; p < pages; p++) {
			for (tries = 0; touch_is_fatal(bed.mem + p * PAGE) && tries < 1000; tries++)
				usleep(1000);
			assert_page(bed.mem, p, 9);
		}
		close_bed(&bed);
	}
}

/* zero: the access reads zeros, which are counted, and are not stored over the true contents. */
static void zero_is_told_and_does_not_spread(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		uint64_t pages = 4 * BUDGET / PAGE;

		gvm_pager_config_init(&bed.config);
		bed.config.local_bytes = BUDGET;
		bed.config.slab_bytes = 256 * 1024;
		bed.config.unreachable = GVM_UNREACHABLE_ZERO;
		bed.config.unreachable_ms = 5;
		fill_and_store(&bed, kind, pages);
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
	while (fake.fetches == fetches)
		usleep(1000);
	fake.away_since = 0; /* here, and slow */
	while (fake.fetches < fetches + 2)
		usleep(1000);
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
	while (!ready)
		usleep(1000);
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

/* When it has refused pages, and some again. */
static void *make_room(void *arg)
{
	while (fake.refused < 8)
		usleep(1000);
	fake.full = false;
	return NULL;
}

static atomic_uint lines;

static void count_refused(enum gvm_log_level level, const char *line)
{
	if (strstr(line, "could not be stored"))
		lines++;
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
	lines = 0;
	gvm_log_set(count_refused);
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
		while (stats_of(&bed).faults_remote - before < THREADS)
			usleep(1000);
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

/* ---- shape --------------------------------------------------------------------------------- */

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

/* Bookkeeping: at most 16 bytes a page of the region, with a quarter of it here. */
static void bookkeeping_is_small(void **state)
{
	struct bed bed = { 0 };
	uint64_t pages = 512 * MIB / PAGE;
	struct gvm_pager_stats s;

	gvm_pager_config_init(&bed.config);
	bed.config.local_bytes = 128 * MIB;
	open_bed(&bed, &kinds[0], pages * PAGE);
	for (uint64_t p = 0; p < pages; p++)
		*(bed.mem + p * PAGE) = 1;
	s = stats_of(&bed);
	assert_int_equal(s.attached_pages, pages);
	assert_true(s.metadata_bytes <= 16 * pages);
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
		cmocka_unit_test(discards_read_as_zeros),
		cmocka_unit_test(discards_race_with_access),
		cmocka_unit_test(discards_need_no_store),
		cmocka_unit_test(the_budget_can_change),
		cmocka_unit_test(saved_contents_come_back),
		cmocka_unit_test(system_calls_reach_paged_memory),
		cmocka_unit_test(prefetch_follows_the_trend),
		cmocka_unit_test(stall_waits_for_the_store),
		cmocka_unit_test(sigbus_fails_loudly_and_heals),
		cmocka_unit_test(zero_is_told_and_does_not_spread),
		cmocka_unit_test(long_away_is_answered_at_once),
		cmocka_unit_test(a_slow_node_is_not_an_absent_one),
		cmocka_unit_test(lost_pages_are_never_made_up),
		cmocka_unit_test(a_full_store_is_waited_for),
		cmocka_unit_test(closing_lets_waiters_go),
		cmocka_unit_test(parts_can_be_given_up),
		cmocka_unit_test(a_raw_munmap_is_noticed),
		cmocka_unit_test(memory_can_move_and_grow),
		cmocka_unit_test(a_raw_mremap_is_followed),
		cmocka_unit_test(a_forked_child_has_a_snapshot),
		cmocka_unit_test(a_failed_fork_leaves_no_clones),
		cmocka_unit_test(many_ranges),
		cmocka_unit_test(bookkeeping_is_small),
		cmocka_unit_test(reading_is_not_writing),
		cmocka_unit_test(streams_find_room),
		cmocka_unit_test(nonsense_is_refused),
	};

	/* one test: its name as the argument */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
