/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that the option table is sound (defaults are legal, names unique and well formed), that the
 * command line beats the environment and the environment the default, and that illegal values are
 * refused with a sentence that names the option and what would be legal.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <gvmnet/gvmnet.h>

static char logged[4096];

static void sink(enum gvm_log_level level, const char *line)
{
	size_t used = strlen(logged);

	snprintf(logged + used, sizeof(logged) - used, "%s\n", line);
}

static int forget_log(void **state)
{
	logged[0] = 0;
	return 0;
}

static void table_is_sound(void **state)
{
	size_t n, i, j;
	const struct gvm_option *o = gvm_options(&n);

	assert_true(n > 25);
	for (i = 0; i < n; i++) {
		assert_int_equal(strncmp(o[i].env, "GVM_", 4), 0);
		assert_true(strlen(o[i].help) > 10);
		assert_int_equal(o[i].help[strlen(o[i].help) - 1], '.');
		assert_true(!o[i].flag || strncmp(o[i].flag, "--", 2) == 0);
		unsetenv(o[i].env);
		/* A default that is not legal would be taken without a word: set it by hand. */
		assert_int_equal(gvm_option_set(o[i].env, o[i].fallback), 0);
		assert_string_equal(gvm_option_text(o[i].env), o[i].fallback);
		for (j = 0; j < i; j++) {
			assert_string_not_equal(o[i].env, o[j].env);
			if (o[i].flag && o[j].flag)
				assert_string_not_equal(o[i].flag, o[j].flag);
		}
	}
	assert_string_equal(logged, "");
}

static void the_three_sources(void **state)
{
	char *argv[] = { "prog", "--prefetch=9", NULL };
	int argc = 2;

	assert_int_equal(gvm_option_number("GVM_OP_TIMEOUT_MS"), 10000);
	setenv("GVM_HANDSHAKE_MS", "77", 1);
	setenv("GVM_PREFETCH", "5", 1);
	assert_int_equal(gvm_options_parse(&argc, argv), 0);
	assert_int_equal(argc, 1);
	assert_int_equal(gvm_option_number("GVM_PREFETCH"), 9);
	unsetenv("GVM_PREFETCH");
	assert_null(gvm_option_text("GVM_NO_SUCH"));
	assert_int_equal(gvm_option_number("GVM_NO_SUCH"), 0);
	assert_int_equal(gvm_option_set("GVM_NO_SUCH", "1"), -ENOENT);
}

/* Options that no test has set yet, so that the environment shows through. */
static void environment(void **state)
{
	/* table_is_sound has set everything: only a fresh process sees the environment. What can
	 * be shown here is the check of what is there. */
	setenv("GVM_LOCAL", "12Q", 1);
	setenv("GVM_SLAB", "3M", 1);
	setenv("GVM_MODE", "", 1);
	setenv("GVM_LOCALE", "1G", 1);
	setenv("GVM_TRANSPORT", "bad", 1);
	assert_int_equal(gvm_options_check(), -EINVAL);
	assert_non_null(strstr(logged, "GVM_LOCAL: \"12Q\" is not legal here; it may be a number "
				       "of bytes such as 256M, from 1M to 256T"));
	assert_non_null(strstr(logged, "GVM_SLAB: \"3M\" is not legal here; it may be a power of "
				       "two"));
	assert_non_null(strstr(logged, "GVM_TRANSPORT: \"bad\" is not legal here; it may be one of "
				       "auto|tcp|verbs|ofi, "));
	assert_non_null(strstr(logged, "GVM_LOCALE is set in the environment, but there is no"));
	assert_null(strstr(logged, "GVM_MODE"));
	unsetenv("GVM_LOCAL");
	unsetenv("GVM_SLAB");
	unsetenv("GVM_LOCALE");
	unsetenv("GVM_TRANSPORT");
	unsetenv("GVM_MODE");
	assert_int_equal(gvm_options_check(), 0);
}

static void unset_options_follow_the_environment(void **state)
{
	/* Runs before anything was set. */
	setenv("GVM_LOCAL", "1.5G", 1);
	assert_string_equal(gvm_option_text("GVM_LOCAL"), "1.5G");
	assert_true(gvm_option_number("GVM_LOCAL") == 3ull << 29);
	setenv("GVM_LOCAL", "nonsense", 1);
	assert_string_equal(gvm_option_text("GVM_LOCAL"), "1G");
	assert_true(gvm_option_number("GVM_LOCAL") == 1ull << 30);
	setenv("GVM_LOCAL", "", 1);
	assert_string_equal(gvm_option_text("GVM_LOCAL"), "1G");
	unsetenv("GVM_LOCAL");
	assert_int_equal(gvm_option_number("GVM_NODE"), GVM_NODE_NONE);
}

static void illegal_values(void **state)
{
	static const char *const bad[][2] = {
		{ "GVM_NODE", "10240" },
		{ "GVM_NODE", "-1" },
		{ "GVM_NODE", "" },
		{ "GVM_NODE", " 1" },
		{ "GVM_NODE", "0x1" },
		{ "GVM_TRANSPORT", "" },
		{ "GVM_TRANSPORT", "tc" },
		{ "GVM_TRANSPORT", "tcpx" },
		{ "GVM_TRANSPORT", "auto|tcp" },
		{ "GVM_TRANSPORT", "auto+tcp" },
		{ "GVM_TRANSPORT", "verbs+" },
		{ "GVM_TRANSPORT", "verbs:mlx5_0+tpc" },
		{ "GVM_LOG", "all" },
		{ "GVM_LOCAL", "1" },
		{ "GVM_LOCAL", "1M " },
		{ "GVM_INSECURE", "maybe" },
		{ "GVM_OP_WINDOW", "0" },
		{ "GVM_OP_WINDOW", "4097" },
		{ "GVM_OP_WINDOW", "18446744073709551617" },
		{ "GVM_SLAB", "32K" },
		{ "GVM_SLAB", "128M" },
		{ "GVM_POLL_CPUS", "1," },
		{ "GVM_POLL_CPUS", "3-1" },
		{ "GVM_POLL_CPUS", "a" },
		{ "GVM_POLL_CPUS", "1024" },
		{ "GVM_POLL_CPUS", "99999" },
		{ "GVM_POLL_CPUS", "1-" },
		{ "GVM_UNREACHABLE", "wait" },
		{ "GVM_POLL_CPUS", "0-18446744073709551615" },
	};
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const char *before = gvm_option_text(bad[i][0]);

		logged[0] = 0;
		assert_int_equal(gvm_option_set(bad[i][0], bad[i][1]), -EINVAL);
		assert_non_null(strstr(logged, bad[i][0]));
		assert_non_null(strstr(logged, "it may be"));
		assert_ptr_equal(gvm_option_text(bad[i][0]), before);
	}
	/* what was typed is named, not what it stands for */
	assert_int_equal(gvm_option_set_as("GVM_NODE", "--id", "many"), -EINVAL);
	assert_non_null(strstr(logged, "--id: \"many\" is not legal here"));
}

static void legal_values(void **state)
{
	assert_int_equal(gvm_option_set("GVM_TRANSPORT", "tcp:nodelay=1,x=:y"), 0);
	assert_string_equal(gvm_option_text("GVM_TRANSPORT"), "tcp:nodelay=1,x=:y");
	assert_int_equal(gvm_option_set("GVM_TRANSPORT", "verbs:mlx5_0:1+tcp"), 0);
	assert_int_equal(gvm_option_set("GVM_TRANSPORT", "auto"), 0);
	assert_int_equal(gvm_option_set("GVM_NODE", "10239"), 0);
	assert_int_equal(gvm_option_number("GVM_NODE"), 10239);
	assert_int_equal(gvm_option_set("GVM_NODE", "none"), 0);
	assert_int_equal(gvm_option_number("GVM_NODE"), GVM_NODE_NONE);
	assert_int_equal(gvm_option_set("GVM_INSECURE", "yes"), 0);
	assert_int_equal(gvm_option_number("GVM_INSECURE"), 1);
	assert_int_equal(gvm_option_set("GVM_INSECURE", "off"), 0);
	assert_int_equal(gvm_option_number("GVM_INSECURE"), 0);
	assert_int_equal(gvm_option_set("GVM_POLL_CPUS", "0-1023"), 0);
	assert_int_equal(gvm_option_set("GVM_POLL_CPUS", ""), 0);
	assert_int_equal(gvm_option_set("GVM_LOG", "debug"), 0);
	assert_int_equal(gvm_log_level(), GVM_LOG_DEBUG);
	assert_int_equal(gvm_option_set("GVM_LOG", "warn"), 0);
}

static void polling_cpus(void **state)
{
	static const int want[] = { 7, 2, 3, 4, 9, 7, 2 };
	unsigned i;

	assert_int_equal(gvm_option_set("GVM_POLL_CPUS", ""), 0);
	assert_int_equal(gvm_option_cpu(0), -1);
	assert_int_equal(gvm_option_set("GVM_POLL_CPUS", "7,2-4,9"), 0);
	for (i = 0; i < sizeof(want) / sizeof(want[0]); i++)
		assert_int_equal(gvm_option_cpu(i), want[i]);
	assert_int_equal(gvm_option_set("GVM_POLL_CPUS", ""), 0);
}

static void command_line(void **state)
{
	char *argv[] = { "prog",    "run",       "--local",    "256M",     "--insecure",
			 "file",    "--unknown", "--log=info", "--localx", "--",
			 "--local", "1M",        NULL };
	int argc = 12;

	assert_int_equal(gvm_options_parse(&argc, argv), 0);
	assert_int_equal(argc, 8);
	assert_string_equal(argv[1], "run");
	assert_string_equal(argv[2], "file");
	assert_string_equal(argv[3], "--unknown");
	assert_string_equal(argv[4], "--localx");
	assert_string_equal(argv[5], "--");
	assert_string_equal(argv[6], "--local");
	assert_string_equal(argv[7], "1M");
	assert_null(argv[8]);
	assert_true(gvm_option_number("GVM_LOCAL") == 256u << 20);
	assert_int_equal(gvm_option_number("GVM_INSECURE"), 1);
	assert_int_equal(gvm_log_level(), GVM_LOG_INFO);
	gvm_option_set("GVM_LOG", "warn");
	gvm_option_set("GVM_INSECURE", "0");
}

static void command_line_errors(void **state)
{
	char *missing[] = { "prog", "--local", NULL };
	char *illegal[] = { "prog", "--local=no", NULL };
	char *empty[] = { "prog", "--node=", NULL };
	char *nothing[] = { "prog", NULL };
	int argc = 2;

	assert_int_equal(gvm_options_parse(&argc, missing), -EINVAL);
	assert_non_null(strstr(logged, "--local needs a value"));
	argc = 2;
	assert_int_equal(gvm_options_parse(&argc, illegal), -EINVAL);
	assert_non_null(strstr(logged, "--local: \"no\" is not legal"));
	argc = 2;
	assert_int_equal(gvm_options_parse(&argc, empty), -EINVAL);
	argc = 1;
	assert_int_equal(gvm_options_parse(&argc, nothing), 0);
	assert_int_equal(argc, 1);
}

static void bytes(void **state)
{
	static const struct {
		const char *text;
		int err;
		uint64_t value;
	} cases[] = {
		{ "0", 0, 0 },
		{ "4096", 0, 4096 },
		{ "256M", 0, 256ull << 20 },
		{ "256m", 0, 256ull << 20 },
		{ "256MiB", 0, 256ull << 20 },
		{ "1.5G", 0, 3ull << 29 },
		{ "0.25T", 0, 1ull << 38 },
		{ "1.0K", 0, 1024 },
		{ "1.90K", 0, 1945 },
		{ "1.999999999K", 0, 2047 },
		{ "16777215T", 0, 16777215ull << 40 },
		{ "16777216T", -ERANGE, 0 },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "99999999999999999999999", -ERANGE, 0 },
		{ "", -EINVAL, 0 },
		{ "M", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 },
		{ "+1", -EINVAL, 0 },
		{ " 1", -EINVAL, 0 },
		{ "1 M", -EINVAL, 0 },
		{ "1.5", -EINVAL, 0 },
		{ "1.G", -EINVAL, 0 },
		{ ".5G", -EINVAL, 0 },
		{ "1.0000000001G", -EINVAL, 0 },
		{ "1MB", -EINVAL, 0 },
		{ "1P", -EINVAL, 0 },
		{ "1Mi", -EINVAL, 0 },
		{ "0x10", -EINVAL, 0 },
		{ "1.5.5G", -EINVAL, 0 },
	};
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t value = 99;

		assert_int_equal(gvm_parse_bytes(cases[i].text, &value), cases[i].err);
		assert_true(value == (cases[i].err ? 99 : cases[i].value));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(unset_options_follow_the_environment, forget_log),
		cmocka_unit_test_setup(table_is_sound, forget_log),
		cmocka_unit_test_setup(the_three_sources, forget_log),
		cmocka_unit_test_setup(environment, forget_log),
		cmocka_unit_test_setup(illegal_values, forget_log),
		cmocka_unit_test_setup(legal_values, forget_log),
		cmocka_unit_test_setup(polling_cpus, forget_log),
		cmocka_unit_test_setup(command_line, forget_log),
		cmocka_unit_test_setup(command_line_errors, forget_log),
		cmocka_unit_test_setup(bytes, forget_log),
	};

	unsetenv("GVM_LOG");
	gvm_log_set(sink);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
