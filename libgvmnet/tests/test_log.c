/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that the log keeps to its level, keeps errno, makes foreign control
 * characters harmless, cuts long lines visibly, writes whole lines from many threads, and that a
 * limited line floods nobody and says how much it left out.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <gvmnet/gvmnet.h>

static char last[4096];
static unsigned lines;

static void sink(enum gvm_log_level level, const char *line)
{
	snprintf(last, sizeof(last), "%d %s", (int)level, line);
	__atomic_fetch_add(&lines, 1, __ATOMIC_RELAXED);
}

static int to_sink(void **state)
{
	lines = 0;
	last[0] = 0;
	gvm_log_set(sink);
	gvm_log_set_level(GVM_LOG_WARN);
	return 0;
}

static void level_from_the_environment(void **state)
{
	/* Runs first: GVM_LOG is read once. */
	assert_int_equal(gvm_log_level(), GVM_LOG_INFO);
}

static void levels(void **state)
{
	gvm_log(GVM_LOG_INFO, "not shown");
	assert_int_equal(lines, 0);
	gvm_log(GVM_LOG_WARN, "%s %d", "shown", 7);
	assert_string_equal(last, "1 shown 7");
	gvm_log_set_level(GVM_LOG_DEBUG);
	gvm_log(GVM_LOG_DEBUG, "shown too");
	assert_string_equal(last, "3 shown too");
	assert_int_equal(lines, 2);
}

static void errno_stays(void **state)
{
	errno = ENOTTY;
	gvm_log(GVM_LOG_ERROR, "%s", "x");
	assert_int_equal(errno, ENOTTY);
}

static void control_characters(void **state)
{
	gvm_log(GVM_LOG_ERROR, "name \"%s\"", "a\nb\033[2Jc\x7f\xc3\xa9");
	assert_string_equal(last, "0 name \"a?b?[2Jc?\xc3\xa9\"");
}

static void long_lines(void **state)
{
	char text[5000];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	gvm_log(GVM_LOG_ERROR, "%s", text);
	assert_true(strlen(last) < 1030 && strlen(last) > 1000);
	assert_string_equal(last + strlen(last) - 4, "x...");
}

static void *write_lines(void *arg)
{
	int i;

	for (i = 0; i < 200; i++)
		gvm_log(GVM_LOG_ERROR, "thread %d line %d end", (int)(intptr_t)arg, i);
	return NULL;
}

/* Standard error is a pipe with room for everything; each line must come out whole. */
static void threads_do_not_mix(void **state)
{
	pthread_t threads[4];
	int fds[2], saved = dup(STDERR_FILENO), i, n, id, line, whole = 0;
	char text[128];
	FILE *in;

	assert_int_equal(pipe(fds), 0);
	dup2(fds[1], STDERR_FILENO);
	gvm_log_set(NULL);
	for (i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, write_lines, (void *)(intptr_t)i);
	for (i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(fds[1]);
	in = fdopen(fds[0], "r");
	while (fgets(text, sizeof(text), in)) {
		n = 0;
		sscanf(text, "gvmnet: error: thread %d line %d end%n", &id, &line, &n);
		assert_true(n > 0 && text[n] == '\n');
		whole++;
	}
	assert_int_equal(whole, 800);
	fclose(in);
}

static void limited_lines(void **state)
{
	struct gvm_log_limit limit = { 0 };
	int i;

	gvm_log_set_level(GVM_LOG_WARN);
	gvm_log_limited(&limit, GVM_LOG_DEBUG, "below the level");
	assert_int_equal(lines, 0);
	/* A second may end once or twice meanwhile, not more often. */
	for (i = 0; i < 1000; i++)
		gvm_log_limited(&limit, GVM_LOG_WARN, "flood %d", i);
	assert_in_range(lines, GVM_LOG_BURST, 3 * GVM_LOG_BURST + 2);
	/* As if that had been in a second long ago. */
	limit.second = 1;
	limit.left_out = 990;
	limit.lines = GVM_LOG_BURST;
	lines = 0;
	gvm_log_limited(&limit, GVM_LOG_WARN, "after");
	assert_int_equal(lines, 2);
	assert_string_equal(last, "1 after");
	assert_int_equal(limit.left_out, 0);
	assert_int_equal(limit.lines, 1);
}

/* A disk that is full stays full: not ten lines a second for ever. */
static void a_long_flood_has_fewer_and_fewer_lines(void **state)
{
	struct gvm_log_limit limit = { 0 };

	gvm_log_set_level(GVM_LOG_WARN);
	for (int window = 0; window < 10; window++) {
		lines = 0;
		for (int i = 0; i < 100; i++)
			gvm_log_limited(&limit, GVM_LOG_WARN, "flood");
		if (window >= 6) {
			assert_int_equal(lines, 2); /* one, and how many were left out */
			assert_int_equal(limit.left_out, 99);
		}
		limit.second -= limit.window; /* as if the time were over */
	}
	assert_int_equal(limit.window, GVM_LOG_WINDOW_S);
	/* a single line after a while without any: all is as at first */
	limit.second -= 3 * GVM_LOG_WINDOW_S;
	gvm_log_limited(&limit, GVM_LOG_WARN, "later");
	assert_int_equal(limit.window, 1);
}

static struct gvm_log_limit shared_limit;

static void *flood(void *arg)
{
	int i;

	for (i = 0; i < 1000; i++)
		gvm_log_limited(&shared_limit, GVM_LOG_WARN, "flood");
	return NULL;
}

static void quiet_sink(enum gvm_log_level level, const char *line)
{
	__atomic_fetch_add(&lines, 1, __ATOMIC_RELAXED);
}

static void limited_from_threads(void **state)
{
	pthread_t threads[4];
	int i;

	gvm_log_set(quiet_sink);
	for (i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, flood, NULL);
	for (i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_in_range(lines, GVM_LOG_BURST, 200);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(level_from_the_environment),
		cmocka_unit_test_setup(levels, to_sink),
		cmocka_unit_test_setup(errno_stays, to_sink),
		cmocka_unit_test_setup(control_characters, to_sink),
		cmocka_unit_test_setup(long_lines, to_sink),
		cmocka_unit_test_setup(threads_do_not_mix, to_sink),
		cmocka_unit_test_setup(limited_lines, to_sink),
		cmocka_unit_test_setup(a_long_flood_has_fewer_and_fewer_lines, to_sink),
		cmocka_unit_test_setup(limited_from_threads, to_sink),
	};

	setenv("GVM_LOG", "info", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
