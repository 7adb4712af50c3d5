/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What each of the pager's tests stands on: a pager over the store of fake_region.h, a range, the
 * kinds of memory and kernel that there are, and contents that can be known again.
 */
#ifndef PAGER_RIG_H
#define PAGER_RIG_H

#include <fcntl.h>
#include <linux/io_uring.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <cmocka.h>
#include "each_alone.h"
#include "fake_region.h"

#define MIB     (1ull << 20)
#define BUDGET  (1 * MIB)
#define THREADS 4 /* of the program, where it has several */

/* ---- waiting for what shall come about ----------------------------------------------------- */

static pthread_mutex_t rig_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t rig_changed = PTHREAD_COND_INITIALIZER;
static uint64_t rig_rounds;

static inline void rig_observe(void)
{
	pthread_mutex_lock(&rig_lock);
	rig_rounds++;
	pthread_cond_broadcast(&rig_changed);
	pthread_mutex_unlock(&rig_lock);
}

static inline bool rig_wait(struct timespec *until)
{
	if (until->tv_sec == 0) {
		clock_gettime(CLOCK_REALTIME, until);
		until->tv_sec += 120; /* never, unless something is broken */
	}
	return pthread_cond_timedwait(&rig_changed, &rig_lock, until) == 0;
}

/* Whether it has come about: looked at whenever a shard has done what there was to do. It must not
 * touch paged memory. */
#define AWAITED(what)                                                                              \
	({                                                                                         \
		struct timespec until_ = { 0 };                                                    \
		bool is_ = false, late_ = false;                                                   \
                                                                                                   \
		pthread_mutex_lock(&rig_lock);                                                     \
		while (!(is_ = (what)) && !late_)                                                  \
			late_ = !rig_wait(&until_);                                                \
		pthread_mutex_unlock(&rig_lock);                                                   \
		is_;                                                                               \
	})

static inline uint64_t rounds_so_far(void)
{
	uint64_t n;

	pthread_mutex_lock(&rig_lock);
	n = rig_rounds;
	pthread_mutex_unlock(&rig_lock);
	return n;
}

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

static inline void open_pager(struct bed *bed, const struct kind *kind)
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
	pager_observer = rig_observe;
	assert_int_equal(gvm_net_open(&net, &bed->net), 0);
	assert_int_equal(pager_open_store(bed->net, &bed->config, &fake_store, &bed->pager), 0);
}

static inline char *map_memory(struct bed *bed, uint64_t bytes)
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

static inline void attach(struct bed *bed, uint64_t bytes, unsigned flags)
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

static inline void open_bed(struct bed *bed, const struct kind *kind, uint64_t bytes)
{
	open_pager(bed, kind);
	attach(bed, bytes, 0);
}

static inline void close_bed(struct bed *bed)
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

static inline struct gvm_pager_stats stats_of(struct bed *bed)
{
	struct gvm_pager_stats stats;

	gvm_pager_stats(bed->pager, &stats, NULL);
	return stats;
}

/* ---- contents that can be known again ------------------------------------------------------ */

static inline uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static inline void fill_page(char *mem, uint64_t page, uint64_t seed)
{
	uint64_t *p = (uint64_t *)(mem + page * PAGE);

	for (unsigned i = 0; i < PAGE / 8; i += 64)
		__atomic_store_n(&p[i], mix(page * 1000003 + seed + i), __ATOMIC_RELAXED);
}

static inline bool page_is(const char *mem, uint64_t page, uint64_t seed)
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

static inline void assert_page(const char *mem, uint64_t page, uint64_t seed)
{
	if (!page_is(mem, page, seed))
		fail_msg("page %llu has not the contents of seed %llu: %llx",
			 (unsigned long long)page, (unsigned long long)seed,
			 *(unsigned long long *)(mem + page * PAGE));
}

/* ---- pinning ------------------------------------------------------------------------------- */

static inline int ring_open(void)
{
	struct io_uring_params params = { 0 };

	return (int)syscall(SYS_io_uring_setup, 2, &params);
}

/* The pages become buffers of a ring's; they are let go when it is closed. -1: it cannot be done
 * here. */
static inline int pin(char *mem, uint64_t pages)
{
	struct iovec iov = { mem, pages * PAGE };
	int ring = ring_open();

	if (ring < 0)
		return -1;
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1) < 0) {
		close(ring);
		return -1;
	}
	return ring;
}

static inline void unpin(int ring)
{
	syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0);
	close(ring);
}

/* ---- what is tried ------------------------------------------------------------------------- */

/* Thread sanitizer is for what threads do with each other, which is the same on any kernel. */
static inline bool is_tried(const struct kind *kind)
{
#ifdef __SANITIZE_THREAD__
	return kind == kinds || kind->threads > 1 || (kind->quirks & QUIRK_SLOW_HELPER);
#else
	return true;
#endif
}

/* clang-format off */
#define EACH_KIND(kind)                                                       \
	for (const struct kind *kind = kinds; kind < kinds + KINDS; kind++)   \
		if (!is_tried(kind))                                          \
			continue;                                             \
		else
/* clang-format on */

#endif
