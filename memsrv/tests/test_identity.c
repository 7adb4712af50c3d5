/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A node that was not told which one of the cluster file it is finds out, or is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <gvmnet/gvmnet.h>

#include "identity.h"

static char logged[512];

static void keep_line(enum gvm_log_level level, const char *line)
{
	snprintf(logged, sizeof(logged), "%s", line);
}

static int find(const char *text, unsigned *id)
{
	struct gvm_cluster *cluster;
	int err;

	logged[0] = 0;
	*id = 77;
	assert_int_equal(gvm_cluster_parse(text, strlen(text), "x", &cluster, NULL), 0);
	gvm_log_set(keep_line);
	err = identity_find(cluster, "x.conf", id);
	gvm_log_set(NULL);
	gvm_cluster_free(cluster);
	return err;
}

static void addresses_of_this_machine(void **state)
{
	assert_true(identity_is_here("127.0.0.1"));
	assert_true(identity_is_here("127.0.0.9"));
	assert_false(identity_is_here("198.51.100.7"));
	assert_false(identity_is_here("no-such-host.invalid"));
}

static void the_one_that_is_here_is_taken(void **state)
{
	unsigned id;

	assert_int_equal(find("0 198.51.100.7 9999\n4 127.0.0.1 9998\n", &id), 0);
	assert_int_equal(id, 4);
	/* one that keeps no pages is none that could be meant */
	assert_int_equal(find("0 127.0.0.1 9999 role=compute\n4 127.0.0.1 9998 role=both\n", &id),
			 0);
	assert_int_equal(id, 4);
	assert_string_equal(logged, "");
}

static void none_or_several_are_refused(void **state)
{
	unsigned id;

	assert_int_equal(find("0 198.51.100.7 9999\n", &id), -EINVAL);
	assert_string_equal(logged, "x.conf has no memory node on this machine: say which one this "
				    "is with --id, or where to listen with --listen");
	assert_int_equal(find("3 127.0.0.1 9999\n1 127.0.0.1 9998\n", &id), -EINVAL);
	assert_string_equal(logged, "x.conf has 2 memory nodes on this machine (1, 3): say which "
				    "one this is with --id, or where to listen with --listen");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses_of_this_machine),
		cmocka_unit_test(the_one_that_is_here_is_taken),
		cmocka_unit_test(none_or_several_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
