/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm perf fault against a memory node that is killed under it: its threads then wait for pages
 * that nobody has, and it must end nevertheless, by itself and when it is told to.
 */
#define NODES     1
#define NODE_ARGS "--memory", "128M"
#include "nodes.h"

#include <poll.h>
#include <time.h>

#define PATIENCE_S 120

static pid_t perf;
static int perf_out; /* its standard error, without waiting */
static char said[16384];
static size_t said_len;

static void perf_start(const char *unreachable, const char *unreachable_ms)
{
	char at[64];
	int pipes[2];

	snprintf(at, sizeof(at), "127.0.0.1:%u", node[0].port);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	said_len = 0;
	perf = fork();
	assert_true(perf >= 0);
	if (perf == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(pipes[1], 2);
		setenv("GVM_UNREACHABLE", unreachable, 1);
		setenv("GVM_UNREACHABLE_MS", unreachable_ms, 1);
		execl(GVM_PROGRAM, "gvm", "perf", "fault", "--connect", at, "--key-file", key_file,
		      "--region", "r", "--bytes", "64M", "--local-bytes", "4M", "--depth", "2",
		      "--duration", "3600", (char *)NULL);
		_exit(127);
	}
	close(pipes[1]);
	perf_out = pipes[0];
}

/* Take what it says; 0 when it has closed its standard error, or time is up. */
static int hear(time_t until)
{
	struct pollfd in = { .fd = perf_out, .events = POLLIN };
	time_t now = time(NULL);
	ssize_t n;

	if (now >= until || poll(&in, 1, (int)(until - now) * 1000) <= 0)
		return 0;
	n = read(perf_out, said + said_len, sizeof(said) - 1 - said_len);
	said_len += n > 0 ? (size_t)n : 0;
	said[said_len] = 0;
	return n > 0;
}

static void hear_until(const char *text)
{
	time_t until = time(NULL) + PATIENCE_S;

	said[said_len] = 0;
	while (!strstr(said, text))
		if (!hear(until))
			fail_msg("\"%s\" is not in:\n%s", text, said);
}

/* How many slabs of the region r the node has; -1: it cannot be asked. */
static long slabs_there(void)
{
	char command[512], line[512];
	long slabs = 0;
	FILE *list;

	snprintf(command, sizeof(command),
		 GVM_PROGRAM " region list --connect 127.0.0.1:%u --key-file %s 2>/dev/null",
		 node[0].port, key_file);
	list = popen(command, "r");
	assert_non_null(list);
	while (fgets(line, sizeof(line), list))
		(void)sscanf(line, " r %*f MiB %ld", &slabs);
	return pclose(list) ? -1 : slabs;
}

static void await_slabs(long least)
{
	time_t until = time(NULL) + PATIENCE_S;
	long slabs;

	while ((slabs = slabs_there()) < least)
		if (time(NULL) >= until)
			fail_msg("%ld slabs, not %ld", slabs, least);
}

/* As new, and there: who measures asks once only. */
static void node_anew(void)
{
	node_end(0, SIGKILL);
	node_wipe(0);
	node_start(0);
	await_slabs(0);
}

/* Its status; a signal, as a negative number; it is killed when it takes too long. */
static int perf_end(void)
{
	time_t until = time(NULL) + PATIENCE_S;
	int status;

	while (hear(until))
		;
	if (time(NULL) >= until)
		kill(perf, SIGKILL);
	assert_int_equal(waitpid(perf, &status, 0), perf);
	close(perf_out);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int teardown(void **state)
{
	(void)state;
	nodes_end();
	return 0;
}

/* Whatever an access does otherwise where its node is away. */
static void ends_when_its_node_is_killed(void **state)
{
	static const char *const policies[] = { "stall", "sigbus", "zero" };

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		node_anew();
		perf_start(policies[i], "300");
		await_slabs(2);
		node_end(0, SIGKILL);
		assert_int_equal(perf_end(), 1);
		hear_until("gvm perf: a memory node cannot be reached any more");
	}
}

static void ends_when_told_to(void **state)
{
	static const int signals[] = { SIGINT, SIGTERM };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		node_anew();
		perf_start("stall", "3600000");
		await_slabs(2);
		node_end(0, SIGKILL);
		hear_until("cannot be reached (");
		kill(perf, signals[i]);
		assert_int_equal(perf_end(), 1);
		/* while a node did not answer, or before that mattered */
		hear_until("gvm perf: interrupted ");
	}
}

int main(void)
{
#define T(name) cmocka_unit_test_teardown(name, teardown)
	const struct CMUnitTest tests[] = {
		T(ends_when_its_node_is_killed),
		T(ends_when_told_to),
	};

	return nodes_run(tests);
}
