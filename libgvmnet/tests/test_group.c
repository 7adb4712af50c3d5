/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a process finds out of the memory that it may have, in trees that look like /proc and /sys.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/core.h"

static char root[64];

static int setup(void **state)
{
	snprintf(root, sizeof(root), "/tmp/gvm-group-XXXXXX");
	return mkdtemp(root) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	return remove(path);
}

static int teardown(void **state)
{
	return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* A file with all the folders that it is in. */
static void file(const char *name, const char *text)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s%s", root, name);
	for (char *at = path + strlen(root) + 1; (at = strchr(at, '/')); *at++ = '/') {
		*at = 0;
		mkdir(path, 0700);
	}
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void without_groups_there_is_no_bound(void **state)
{
	assert_true(gvm_group_limit(root, "memory.max") == UINT64_MAX);
	file("/proc/self/cgroup", "0::/\n");
	assert_true(gvm_group_limit(root, "memory.max") == UINT64_MAX);
	file("/proc/self/cgroup", "nonsense\n\n1:\n");
	assert_true(gvm_group_limit(root, "memory.max") == UINT64_MAX);
}

static void a_group_above_bounds_too(void **state)
{
	file("/proc/self/cgroup", "0::/system.slice/gvm.service\n");
	file("/sys/fs/cgroup/system.slice/gvm.service/memory.max", "max\n");
	assert_true(gvm_group_limit(root, "memory.max") == UINT64_MAX);
	file("/sys/fs/cgroup/system.slice/memory.max", "4096000\n");
	assert_int_equal(gvm_group_limit(root, "memory.max"), 4096000);
	file("/sys/fs/cgroup/system.slice/gvm.service/memory.max", "4096\n");
	assert_int_equal(gvm_group_limit(root, "memory.max"), 4096);
	assert_true(gvm_group_limit(root, "memory.high") == UINT64_MAX);
	file("/sys/fs/cgroup/system.slice/memory.high", "2048000\n");
	assert_int_equal(gvm_group_limit(root, "memory.high"), 2048000);
	assert_int_equal(gvm_group_limit(root, "memory.max"), 4096);
}

static void so_do_groups_of_version_1(void **state)
{
	file("/proc/self/cgroup", "5:cpu,cpuacct:/a\n4:hugetlb,memory:/a/b\n0::/\n");
	file("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
	file("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "12288\n");
	assert_int_equal(gvm_group_limit(root, "memory.max"), 12288);
	assert_true(gvm_group_limit(root, "memory.high") == UINT64_MAX);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(without_groups_there_is_no_bound),
		T(a_group_above_bounds_too),
		T(so_do_groups_of_version_1),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
