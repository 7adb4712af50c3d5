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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(anonymous_memory),
		cmocka_unit_test(memory_of_a_kernel_that_does_not_tell),
		cmocka_unit_test(an_image),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
