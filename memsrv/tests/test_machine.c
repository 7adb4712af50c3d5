/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a node finds out of the memory that it may have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include <gvmnet/gvmnet.h>

#include "machine.h"

static char logged[512];

static void keep_line(enum gvm_log_level level, const char *line)
{
	snprintf(logged, sizeof(logged), "%s", line);
}

static int setup(void **state)
{
	gvm_log_set(keep_line);
	return 0;
}

static int teardown(void **state)
{
	gvm_log_set(NULL);
	return 0;
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
		T(memory_without_addresses_is_refused),
		T(more_than_there_is_is_warned_of),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
