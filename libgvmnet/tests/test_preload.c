/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the preload library makes of unmodified programs: preload_prog runs under the interposition
 * with a pager that records its calls (preload_fake.c). Shown here: which mappings are taken over,
 * what becomes of parts of them, and that the program's own view of its memory stays right. With
 * the sanitizers, which interpose the same functions, there is nothing to run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <fcntl.h>
#include <cmocka.h>

#ifdef PRELOAD
static char dir[] = "/tmp/gvm-test-preload-XXXXXX";
static char calls[65536], errors[65536];

static void slurp(const char *name, char *text, size_t room)
{
	char path[256];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	text[0] = 0;
	FILE *in = fopen(path, "r");
	if (!in)
		return;
	size_t n = fread(text, 1, room - 1, in);
	text[n] = 0;
	fclose(in);
	unlink(path);
}

/* Run preload_prog SCENARIO under the library, with the defaults of gvm run and more settings
 * ("A=b"), and read what it did. Returns its exit status, or 1,000 and the signal. */
static int run(const char *scenario, const char *const *more)
{
	char log[256], err[256], pid_text[32];
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		snprintf(log, sizeof log, "%s/calls", dir);
		snprintf(err, sizeof err, "%s/errors", dir);
		snprintf(pid_text, sizeof pid_text, "%d", (int)getpid());
		setenv("FAKE_LOG", log, 1);
		setenv("PLUGIN", PLUGIN, 1);
		setenv("GVM_CLUSTER", "somewhere", 1);
		setenv("GVM_RUN_MIN", "2097152", 1);
		setenv("GVM_RUN_MALLOC", "2097152", 1);
		setenv("GVM_RUN_REPORT", "1", 1);
		setenv("GVM_RUN_PID", pid_text, 1);
		for (; more && *more; more++)
			putenv((char *)(uintptr_t)*more);
		setenv("LD_PRELOAD", PRELOAD, 1);
		int fd = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		if (fd < 0 || dup2(fd, 2) < 0)
			_exit(99);
		execl(PROG, "preload_prog", scenario, (char *)NULL);
		_exit(98);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	slurp("calls", calls, sizeof calls);
	slurp("errors", errors, sizeof errors);
	status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
	if (status || strstr(calls, "BROKEN"))
		print_message("%s: status %d\n%s%s", scenario, status, calls, errors);
	assert_null(strstr(calls, "BROKEN"));
	return status;
}

static int count(const char *text, const char *what)
{
	int n = 0;

	for (const char *at = strstr(text, what); at; at = strstr(at + 1, what))
		n++;
	return n;
}

#define RUNS(scenario) assert_int_equal(run(scenario, NULL), 0)
#define MADE(what)     assert_true(count(calls, what) > 0)
#define NEVER(what)    assert_int_equal(count(calls, what), 0)
#define SAID(what)     assert_non_null(strstr(errors, what))

static void a_mapping_is_taken_and_reported(void **state)
{
	RUNS("fill");
	MADE(" anon\n");
	SAID("gvm: took over");
	SAID("faults");
	assert_null(strstr(errors, "WARNING"));
	const char *quiet[] = { "GVM_RUN_REPORT=0", NULL };
	assert_int_equal(run("fill", quiet), 0);
	assert_string_equal(errors, "");
	const char *verbose[] = { "GVM_RUN_VERBOSE=1", NULL };
	assert_int_equal(run("fill", verbose), 0);
	SAID("took over 8.0 MiB at 0x");
	SAID("region run-");
}

static void without_a_cluster_nothing_happens(void **state)
{
	const char *none[] = { "GVM_CLUSTER=", NULL };

	assert_int_equal(run("fill", none), 0);
	NEVER("open");
	assert_string_equal(errors, "");
}

static void nothing_taken_is_a_loud_warning(void **state)
{
	RUNS("small");
	NEVER("open");
	SAID("WARNING: nothing was taken over");
	SAID("--min 64K would take it");
	RUNS("not_taken");
	NEVER("attach");
	SAID("is executable");
}

static void many_threads(void **state)
{
	RUNS("threads");
	MADE("attach");
}

static void a_fork_is_followed(void **state)
{
	RUNS("fork");
	assert_int_equal(count(calls, "fork_prepare"), 1);
	assert_int_equal(count(calls, "fork_parent 1"), 1);
	assert_int_equal(count(calls, "fork_child"), 1);
	RUNS("fork_busy");
	MADE("fork_child");
	RUNS("fork_deep");
	RUNS("handlers");
	RUNS("dontfork");
	assert_int_equal(count(calls, "set_fork 0"), 1);
	assert_int_equal(count(calls, "set_fork 1"), 1);
	RUNS("shared_fork");
	NEVER("attach");
	const char *shared[] = { "GVM_RUN_SHARED=1", NULL };
	assert_int_equal(run("shared_lost", shared), 0);
	MADE("shared");
	RUNS("exec");
	NEVER("fork_prepare");
	/* an exec that failed, and the program's own end; not the vforked child's */
	assert_int_equal(count(calls, "leave"), 2);
	assert_int_equal(count(calls, "stay"), 1);
}

static void a_fork_that_cannot_be_followed_is_loud(void **state)
{
	const char *prepare[] = { "FAKE_FAIL=fork", NULL }, *child[] = { "FAKE_FAIL=child", NULL };

	assert_int_equal(run("fork", prepare), 3); /* fork failed, and the program saw it */
	SAID("fork is refused");
	assert_int_equal(run("handlers", child), 3);
	SAID("forked child is ended");
}

static void a_fork_before_costs_nothing(void **state)
{
	RUNS("daemon");
	assert_int_equal(count(calls, "open"), 1);
	NEVER("fork_prepare");
}

static void parts(void **state)
{
	RUNS("partial");
	MADE("unmap");
	RUNS("remap");
	MADE("remap 67108864 134217728");
	RUNS("discards");
	MADE("discard");
	NEVER("shared");
	const char *shared[] = { "GVM_RUN_SHARED=1", NULL };
	assert_int_equal(run("discards", shared), 0);
	MADE("shared");
	RUNS("protect");
}

static void reservations(void **state)
{
	RUNS("qemu");
	MADE("67108864 anon");
	assert_int_equal(count(calls, "attach"), 1);
	RUNS("reserve");
	MADE("16777216 anon");
}

static void blocks_of_malloc(void **state)
{
	RUNS("malloc");
	MADE("attach");
	const char *off[] = { "GVM_RUN_MALLOC=0", NULL };
	assert_int_equal(run("malloc", off), 0);
	NEVER("attach");
}

static void a_closed_standard_error_still_gets_the_report(void **state)
{
	RUNS("closed");
	SAID("gvm: took over");
}

static void code_that_is_loaded_later(void **state)
{
	RUNS("plugin");
	MADE("67108864 anon");
}

static void files_in_memory(void **state)
{
	RUNS("memfd");
	MADE("8388608 shared");
	SAID("a further mapping of a file that is paged is refused");
	SAID("not sent to another process");
	const char *other[] = { "GVM_RUN_MATCH=/dev/shm/*,*disk*", NULL };
	RUNS("data");
	NEVER("attach");
	SAID("it holds data");
	const char *load[] = { "GVM_RUN_LOAD=1", NULL };
	assert_int_equal(run("data", load), 0);
	MADE("shared");
	assert_int_equal(run("data", other), 0);
	NEVER("attach");
	SAID("--match");
}

static void handlers_may_map(void **state)
{
	RUNS("signals");
	MADE("attach");
}

static void no_memory_is_said(void **state)
{
	const char *full[] = { "FAKE_FAIL=attach", NULL }, *none[] = { "FAKE_FAIL=open", NULL };

	assert_int_equal(run("fill", full), 3);
	SAID("No space left on device");
	assert_null(strstr(errors, "WARNING"));
	assert_int_equal(run("fill", none), 3);
	SAID("the pager cannot be started");
	assert_int_equal(count(errors, "cannot be"), 1);
}

static void statistics_are_left_in_a_file(void **state)
{
	char setting[300], text[4096];

	snprintf(setting, sizeof setting, "GVM_STATS_FILE=%s/stats", dir);
	const char *stats[] = { setting, NULL };
	assert_int_equal(run("fill", stats), 0);
	slurp("stats", text, sizeof text);
	assert_non_null(strstr(text, "\"program\":\"preload_prog\""));
	assert_non_null(strstr(text, "\"remote\":{\"count\":0"));
}

static int begin(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int end(void **state)
{
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_mapping_is_taken_and_reported),
		cmocka_unit_test(without_a_cluster_nothing_happens),
		cmocka_unit_test(nothing_taken_is_a_loud_warning),
		cmocka_unit_test(many_threads),
		cmocka_unit_test(a_fork_is_followed),
		cmocka_unit_test(a_fork_that_cannot_be_followed_is_loud),
		cmocka_unit_test(a_fork_before_costs_nothing),
		cmocka_unit_test(parts),
		cmocka_unit_test(reservations),
		cmocka_unit_test(blocks_of_malloc),
		cmocka_unit_test(a_closed_standard_error_still_gets_the_report),
		cmocka_unit_test(code_that_is_loaded_later),
		cmocka_unit_test(files_in_memory),
		cmocka_unit_test(handlers_may_map),
		cmocka_unit_test(no_memory_is_said),
		cmocka_unit_test(statistics_are_left_in_a_file),
	};

	return cmocka_run_group_tests(tests, begin, end);
}
#else
int main(void)
{
	puts("the preload library is not built with sanitizers");
	return 0;
}
#endif
