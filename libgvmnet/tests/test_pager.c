/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The pager over a store inside the process: contents hold far over the budget, in private and
 * shared memory, with and without what newer kernels offer, through discards, changes of the budget,
 * saving, failures and the end of it all.
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

#define MIB (1ull << 20)
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
	{ "private, 3 shards", 0, 3, false },
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
					  &bed->range), 0);
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
		p[i] = mix(page * 1000003 + seed + i);
}

static bool page_is(const char *mem, uint64_t page, uint64_t seed)
{
	const uint64_t *p = (const uint64_t *)(mem + page * PAGE);

	for (unsigned i = 0; i < PAGE / 8; i += 64)
		if (p[i] != mix(page * 1000003 + seed + i))
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
	EACH_KIND(kind) {
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(contents_hold_over_the_budget),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
