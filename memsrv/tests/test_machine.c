/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a node finds out of the memory that it may have, in trees that look like /proc and /sys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gvmnet/gvmnet.h>

#include "machine.h"

static char root[64], logged[512];

static void keep_line(enum gvm_log_level level, const char *line)
{
	snprintf(logged, sizeof(logged), "%s", line);
}

static int setup(void **state)
{
	gvm_log_set(keep_line);
	snprintf(root, sizeof(root), "/tmp/gvm-machine-XXXXXX");
	return mkdtemp(root) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	return remove(path);
}

static int teardown(void **state)
{
	gvm_log_set(NULL);
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
	assert_true(machine_group_limit(root) == UINT64_MAX);
	file("/proc/self/cgroup", "0::/\n");
	assert_true(machine_group_limit(root) == UINT64_MAX);
	file("/proc/self/cgroup", "nonsense\n\n1:\n");
	assert_true(machine_group_limit(root) == UINT64_MAX);
}

static void a_group_above_bounds_too(void **state)
{
	file("/proc/self/cgroup", "0::/system.slice/gvm.service\n");
	file("/sys/fs/cgroup/system.slice/gvm.service/memory.max", "max\n");
	assert_true(machine_group_limit(root) == UINT64_MAX);
	file("/sys/fs/cgroup/system.slice/memory.max", "4096000\n");
	assert_int_equal(machine_group_limit(root), 4096000);
	file("/sys/fs/cgroup/system.slice/gvm.service/memory.max", "4096\n");
	assert_int_equal(machine_group_limit(root), 4096);
}

static void so_do_groups_of_version_1(void **state)
{
	file("/proc/self/cgroup", "5:cpu,cpuacct:/a\n4:hugetlb,memory:/a/b\n0::/\n");
	file("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
	file("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "12288\n");
	assert_int_equal(machine_group_limit(root), 12288);
}

static void memory_without_addresses_is_refused(void **state)
{
	struct rlimit old, tight;

	assert_int_equal(machine_check_memory(1 << 20, 1), 0);
	getrlimit(RLIMIT_AS, &old);
	tight = old;
	tight.rlim_cur = UINT64_C(1) << 50; /* sanitizers map much */
	assert_int_equal(setrlimit(RLIMIT_AS, &tight), 0);
	assert_int_equal(machine_check_memory(UINT64_C(1) << 50, 1), 0);
	assert_int_equal(machine_check_memory((UINT64_C(1) << 50) + 1, 1), -ENOMEM);
	assert_non_null(
	    strstr(logged, "raise that limit (ulimit -v, LimitAS=), or lower --memory"));
	setrlimit(RLIMIT_AS, &old);
}

static void more_than_there_is_is_warned_of(void **state)
{
	logged[0] = 0;
	assert_int_equal(machine_check_memory(UINT64_C(1) << 49, 1), 0);
	assert_string_equal(logged, ""); /* a file's memory goes to its disk */
	assert_int_equal(machine_check_memory(UINT64_C(1) << 49, 0), 0);
	assert_non_null(strstr(logged, "the kernel kills it; lower --memory"));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(without_groups_there_is_no_bound), T(a_group_above_bounds_too),
		T(so_do_groups_of_version_1),        T(memory_without_addresses_is_refused),
		T(more_than_there_is_is_warned_of),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
