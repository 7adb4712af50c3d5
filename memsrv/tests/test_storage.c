/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A slab's memory, copied: what was written arrives, and what never was is not even looked at. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <gvmnet/gvmnet.h>

#include "image.h"
#include "storage.h"

#define PAGES 2048u
#define LEN   (UINT64_C(8) << 20)

static const unsigned written[] = { 0, 511, 512, 1000, 1001, PAGES - 1 };
#define WRITTEN (sizeof(written) / sizeof(written[0]))

static struct storage_pool pool;

/* Pages of the mapping that the kernel has made: on the first look already. */
static unsigned made(const struct storage *st)
{
	unsigned char in[PAGES];
	unsigned n = 0;

	assert_int_equal(mincore(st->base, LEN, in), 0);
	for (unsigned i = 0; i < PAGES; i++)
		n += in[i] & 1;
	return n;
}

/* Which page of the machine each is: 0 for all if this process may not know. */
static void frames(const struct storage *st, uint64_t frame[PAGES])
{
	assert_int_equal(pread(st->pool->pagemap, frame, PAGES * 8,
			       (off_t)((uintptr_t)st->base / GVM_PAGE_SIZE * 8)),
			 PAGES * 8);
	for (unsigned i = 0; i < PAGES; i++)
		frame[i] &= (UINT64_C(1) << 55) - 1;
}

static void write_some(struct storage *st)
{
	for (unsigned i = 0; i < WRITTEN; i++)
		memset(st->base + (size_t)written[i] * GVM_PAGE_SIZE, (int)i + 1, GVM_PAGE_SIZE);
}

static void check_copy(const struct storage *st)
{
	unsigned next = 0;

	for (unsigned i = 0; i < PAGES; i++) {
		int want = next < WRITTEN && written[next] == i ? (int)++next : 0;

		assert_int_equal(st->base[(size_t)i * GVM_PAGE_SIZE], want);
		assert_int_equal(st->base[(size_t)(i + 1) * GVM_PAGE_SIZE - 1], want);
	}
}

static void copies(unsigned most)
{
	struct storage *from, *into;

	assert_int_equal(storage_new(&pool, LEN, &from), 0);
	assert_int_equal(storage_new(&pool, LEN, &into), 0);
	storage_copy(into, from);
	assert_int_equal(made(from), 0);
	assert_int_equal(made(into), 0);
	write_some(from);
	storage_copy(into, from);
	assert_in_range(made(from), WRITTEN, most);
	check_copy(into);
	storage_put(from);
	storage_put(into);
}

static void anonymous_memory(void **state)
{
	pool = (struct storage_pool){ .huge = HUGE_NEVER };
	pool.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	assert_true(pool.pagemap >= 0);
	copies(WRITTEN);
	close(pool.pagemap);
}

/* Where the kernel does not tell, all is looked at. */
static void memory_of_a_kernel_that_does_not_tell(void **state)
{
	struct storage *from, *into;

	pool = (struct storage_pool){ .huge = HUGE_NEVER, .pagemap = -1 };
	assert_int_equal(storage_new(&pool, LEN, &from), 0);
	assert_int_equal(storage_new(&pool, LEN, &into), 0);
	write_some(from);
	storage_copy(into, from);
	check_copy(into);
	storage_put(from);
	storage_put(into);
}

static void an_image(void **state)
{
	char dir[] = "/tmp/gvm-storage-XXXXXX", path[64];

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/image", dir);
	pool = (struct storage_pool){ .pagemap = -1 };
	assert_int_equal(image_open(path, 0, &pool.image), 0);
	/* A write brings its neighbours in from the disk. */
	copies(PAGES);
	assert_int_equal(image_close(pool.image, 1), 0);
	unlink(path);
	rmdir(dir);
}

/* Hardware goes on with the pages that it was given: they are the same after a discard. */
static void pages_that_hardware_holds(void **state)
{
	uint64_t before[PAGES], after[PAGES];
	struct storage *st;

	pool = (struct storage_pool){ .huge = HUGE_AUTO, .pins = 1 };
	pool.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	assert_true(pool.pagemap >= 0);
	assert_int_equal(storage_new(&pool, LEN, &st), 0);
	write_some(st);
	assert_int_equal(made(st), WRITTEN);
	frames(st, before);
	storage_discard(st, GVM_PAGE_SIZE, LEN - GVM_PAGE_SIZE);
	frames(st, after);
	assert_memory_equal(before, after, sizeof(before));
	assert_int_equal(made(st), WRITTEN); /* and none was made by looking */
	assert_int_equal(st->base[0], 1);
	for (size_t i = GVM_PAGE_SIZE; i < LEN; i++)
		assert_int_equal(st->base[i], 0);
	memset(st->base, 7, LEN);
	assert_int_equal(storage_collapse(st), 0);
	assert_int_equal(atomic_load(&st->huge), 0);
	storage_put(st);
	close(pool.pagemap);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(anonymous_memory),
		cmocka_unit_test(memory_of_a_kernel_that_does_not_tell),
		cmocka_unit_test(an_image),
		cmocka_unit_test(pages_that_hardware_holds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
