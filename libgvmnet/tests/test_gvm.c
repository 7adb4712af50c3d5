/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows what the gvm program says and how it ends: its commands, "info" in its three forms, a
 * cluster file with and without mistakes, and "top" over a pager's statistics, hostile ones
 * included. Runs the program itself, as a person would.
 */
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include <gvmnet/gvmnet.h>

static char dir[] = "/tmp/test_gvm.XXXXXX";
static char said[1 << 17];

/* Run "gvm ARGUMENTS" in the test's folder: its exit code; what it says is in said. */
static int gvm(const char *arguments)
{
	char command[1024];
	size_t len;
	FILE *out;
	int status;

	snprintf(command, sizeof(command), "cd %s && exec 2>&1 && %s %s", dir, GVM_PROGRAM,
		 arguments);
	out = popen(command, "r");
	assert_non_null(out);
	len = fread(said, 1, sizeof(said) - 1, out);
	said[len] = 0;
	status = pclose(out);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void says(const char *text)
{
	if (!strstr(said, text))
		fail_msg("\"%s\" is not in:\n%s", text, said);
}

static void file(const char *name, const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void commands(void **state)
{
	assert_int_equal(gvm(""), 2);
	says("usage: gvm COMMAND");
	assert_int_equal(gvm("help"), 0);
	says("  info ");
	assert_int_equal(gvm("--help"), 0);
	assert_int_equal(gvm("--version"), 0);
	says("gvm " GVM_VERSION "\n");
	assert_int_equal(gvm("help info"), 0);
	says("usage: gvm info");
	assert_int_equal(gvm("help nonsense"), 2);
	assert_int_equal(gvm("nonsense"), 2);
	says("there is no command \"nonsense\"");
}

static void info(void **state)
{
	size_t i, n;
	const struct gvm_option *o = gvm_options(&n);

	assert_int_equal(gvm("info"), 0);
	says("tcp    usable");
	says("verbs  not here");
	for (i = 0; i < n; i++) {
		says(o[i].env);
		says(o[i].help);
	}
	assert_int_equal(gvm("info --frobnicate"), 2);
	says("\"--frobnicate\" is not known here; see gvm info --help");
	assert_int_equal(gvm("info --local 12Q"), 2);
	says("--local: \"12Q\" is not legal here");
	assert_int_equal(gvm("info --local 12M"), 0);
	says("Now \"12M\", from the command line.");
}

static void info_as_environment(void **state)
{
	size_t i, n;
	const struct gvm_option *o = gvm_options(&n);
	char line[256];

	assert_int_equal(gvm("info -e --key-file \"it's here\""), 0);
	says("\nGVM_KEY_FILE='it'\\''s here'\n");
	for (i = 0; i < n; i++) {
		if (strcmp(o[i].env, "GVM_KEY_FILE") == 0)
			continue;
		snprintf(line, sizeof(line), "\n# %s='%s'\n", o[i].env, o[i].fallback);
		says(line);
	}
}

static void info_as_json(void **state)
{
	assert_int_equal(gvm("info --json"), 0);
	assert_int_equal(strncmp(said, "{\n", 2), 0);
	assert_string_equal(said + strlen(said) - 3, "\n}\n");
	says("\"version\": \"" GVM_VERSION "\"");
	says("\"userfaultfd\": {");
	says("\"name\": \"GVM_SPIN_US\"");
}

static void info_checks_the_cluster_file(void **state)
{
	file("good.conf", "cluster lab\n3 10.0.0.3 9999 weight=7\n1 ::1 9998 role=both\n");
	file("bad.conf", "3 10.0.0.3 9999\n3 10.0.0.4 9999\n");
	assert_int_equal(gvm("info --cluster good.conf"), 0);
	says("Cluster \"lab\" (good.conf): 2 nodes, digest ");
	says("      3  10.0.0.3                        9999  memory   weight 7\n");
	assert_null(strstr(said, "GVM_LOCAL"));
	assert_int_equal(gvm("info -v --cluster good.conf"), 0);
	says("GVM_LOCAL");
	assert_int_equal(gvm("info --cluster bad.conf"), 1);
	assert_string_equal(said, "gvm info: bad.conf:2: node 3 is already on line 1\n");
	assert_int_equal(gvm("info --cluster none.conf"), 1);
	says("none.conf: cannot be read: No such file or directory");
}

/* A transport that cannot be had: the one line that says what to do, and no other behind it. */
static void no_such_transport(void **state)
{
	static const char *const commands[] = {
		"region list --connect 127.0.0.1:1 --transport %s",
		"perf fetch --connect 127.0.0.1:1 --transport %s",
	};
	static const struct {
		const char *transport, *says;
	} wrong[] = {
		{ "tcp:foo", "transport tcp:foo: tcp takes no argument\n" },
#ifdef STUB
		{ "verbs:stub0:2", "stub0 has no port 2\n" },
		{ "verbs:stub0:1:7", "port 1 of stub0 has no GID 7\n" },
#endif
	};

#ifdef STUB
	setenv("GVM_MODULE_PATH", STUB, 1);
#endif
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		for (unsigned k = 0; k < 2; k++) {
			char line[128];

			snprintf(line, sizeof(line), commands[k], wrong[i].transport);
			assert_int_equal(gvm(line), 1);
			says(wrong[i].says);
			assert_string_equal(strchr(said, '\n'), "\n");
		}
	unsetenv("GVM_MODULE_PATH");
}

/* All but how fast this machine was, which is on standard error and last in JSON. */
static void sim_repeats_itself(void **state)
{
	static char before[sizeof(said)];
	static const char *const runs[] = {
		"sim --nodes 32 --loss 500 --crashes 1 --partitions 1 --seed 7",
		"sim --nodes=32 --workload zipf --jitter 3 --json",
	};
	size_t i;

	for (i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
		char command[256];
		char *host;
		int k;

		snprintf(command, sizeof(command), "%s 2>/dev/null", runs[i]);
		for (k = 0; k < 2; k++) {
			assert_int_equal(gvm(command), 0);
			host = strstr(said, "\"host\"");
			if (host)
				*host = 0;
			if (k == 0)
				memcpy(before, said, sizeof(said));
			assert_string_equal(before, said);
		}
		says(i ? "\"workload\": \"zipf\"" : "gvm sim uniform: 32 nodes, 2 of them homes");
		snprintf(command, sizeof(command), "%s --seed 8 2>/dev/null", runs[i]);
		assert_int_equal(gvm(command), 0);
		assert_string_not_equal(before, said);
	}
}

static void sim(void **state)
{
	assert_int_equal(gvm("sim --nodes 256 --workload broadcast"), 0);
	says("The write to the page that all share: 6.00 hops, 511 messages, ");
	says(" million events a second\n");
	assert_int_equal(gvm("sim --workload nonsense"), 2);
	says("--workload nonsense: it is not known");
	assert_int_equal(gvm("sim --nodes 10241"), 2);
	says("--nodes 10241: a whole number from 2 to 10240 is wanted");
	assert_int_equal(gvm("sim --nodes 2.5"), 2);
	assert_int_equal(gvm("sim --nodes nan"), 2);
	assert_int_equal(gvm("sim --loss 1000000"), 2); /* nothing would ever end */
	says("--loss 1000000: a whole number from 0 to 500000 is wanted");
	assert_int_equal(gvm("sim --nodes"), 2);
	says("--nodes wants a value");
	assert_int_equal(gvm("sim --nodes 4 --homes 4 --crashes 1"), 2);
	assert_int_equal(gvm("sim --nodes 4 --sweep"), 2);
	assert_int_equal(gvm("sim --frobnicate 1"), 2);
	says("\"--frobnicate\" is not known here; see gvm sim --help");
}

static void top(void **state)
{
	char text[512];

	snprintf(text, sizeof(text),
		 "{\"program\": \"redis-server\", \"pid\": %d, \"time\": %lld, \"uptime_s\": 12.5, "
		 "\"local_bytes\": 1048576, \"local_pages\": 128, \"dirty_pages\": 64, "
		 "\"faults\": 1234567, \"faults_remote\": 100000, \"faults_prefetch\": 23456, "
		 "\"prefetched_pages\": 1000, "
		 "\"prefetch_used\": 750, \"nodes_away\": 1, \"fetched_bytes\": 3221225472, "
		 "\"latency\": {\"all\": {\"p50_ns\": 21500, \"p99_ns\": 1500000}}}",
		 (int)getpid(), (long long)time(NULL));
	file("a.json", text);
	assert_int_equal(gvm("top --once a.json"), 0);
	says("redis-server, process ");
	says("local     [###############---------------] 512.0 KiB of 1.0 MiB\n");
	says("p50 21.5 us, p99 1.5 ms, 10.0 % waited for a memory node\n");
	says("prefetch  1,000 pages, 75.0 % used\n");
	says("1 memory node is away\n");
	says("fetched_bytes                             3.0 GiB\n");
	says("faults                                  1,234,567\n");
}

static void top_of_a_memory_node(void **state)
{
	file("node.json",
	     "{\"node\": {\"uptime_seconds\": 3600}, \"net\": {\"bytes_sent\": 2048, "
	     "\"peers_ready\": 3}, "
	     "\"store\": {\"memory_bytes\": 4096, \"stored_bytes\": 1024, \"limit_bytes\": 4096, "
	     "\"reserved_bytes\": 4096, \"lingering_bytes\": 2048, \"regions\": 2, "
	     "\"regions_held\": 1, "
	     "\"draining\": 1}}");
	assert_int_equal(gvm("top --once node.json"), 0);
	says("up 3,600 s, 2 regions, 1 held, 3 connections ready\n");
	says("stored    [########----------------------] 1.0 KiB of 4.0 KiB\n");
	says("promised  [##############################] 4.0 KiB of 4.0 KiB\n");
	says("kept      2.0 KiB of that for clients that were lost\n");
	says("it is going away (drain)\n");
	says("net.bytes_sent                            2.0 KiB\n");
}

static void top_without_luck(void **state)
{
	assert_int_equal(gvm("top --once none.json"), 1);
	says("none.json cannot be read: No such file or directory");
	file("half.json", "{\"faults\": 12");
	assert_int_equal(gvm("top --once half.json"), 1);
	says("half.json what it says is not JSON");
	file("empty.json", "");
	assert_int_equal(gvm("top --once empty.json"), 1);
	says("empty.json cannot be read: it is empty");
	assert_int_equal(gvm("top --once 7"), 1);
	says("there is no node 7: name a --cluster file");
	assert_int_equal(gvm("top --once :"), 1);
	says("\":\" is neither a file, nor HOST:PORT, nor a node's id");
	assert_int_equal(gvm("top --interval x"), 2);
	assert_int_equal(gvm("top --nonsense"), 2);
}

static void set_without_luck(void **state)
{
	char folder[128];

	setenv("XDG_RUNTIME_DIR", dir, 1);
	assert_int_equal(gvm("set --help"), 0);
	says("usage: gvm set");
	assert_int_equal(gvm("set local=16M"), 1);
	says("no program of this user has memory that gvm run took over");
	snprintf(folder, sizeof(folder), "%s/gvmnet", dir);
	assert_int_equal(mkdir(folder, 0700), 0);
	assert_int_equal(gvm("set"), 1);
	says("no program of this user has memory that gvm run took over");
	assert_int_equal(gvm("set nobody local=16M"), 1);
	says("no program \"nobody\" of this user");
	assert_int_equal(gvm("set 1999999999 local=16M"), 1);
	says("there is no process 1999999999");
	assert_int_equal(gvm("set 99999999999 local=16M"), 1);
	says("is no process's id");
	assert_int_equal(gvm("set $PPID local=16M"), 1);
	says("no memory that gvm run took over");
	assert_int_equal(gvm("set local=12Q"), 2);
	says("gvm set: local=12Q: it must be a size from 1M to 256T");
	assert_int_equal(gvm("set local=$(printf '\\377\\001')"), 2);
	says("local=??: it must be a size");
	assert_int_equal(gvm("set local=1K"), 2);
	assert_int_equal(gvm("set prefetch=257"), 2);
	says("from 0 to 256");
	assert_int_equal(gvm("set remote=1G"), 2);
	says("\"remote=1G\" is not known here");
	assert_int_equal(gvm("set one two"), 2);
	assert_int_equal(gvm("set --local"), 2);
	assert_int_equal(chmod(folder, 0777), 0);
	assert_int_equal(gvm("set"), 1);
	says("is not this user's alone");
	assert_int_equal(rmdir(folder), 0);
	unsetenv("XDG_RUNTIME_DIR");
}

/* Without a name: what is in this user's folder, if that is this user's alone. */
static void top_of_all_pagers(void **state)
{
	char folder[128];

	setenv("XDG_RUNTIME_DIR", dir, 1);
	assert_int_equal(gvm("top --once"), 1);
	says("nothing to show");
	snprintf(folder, sizeof(folder), "%s/gvmnet", dir);
	assert_int_equal(mkdir(folder, 0700), 0);
	file("gvmnet/12.json", "{\"hello\": 12}");
	file("gvmnet/12.json.34", "half");
	assert_int_equal(gvm("top --once"), 0);
	says("/gvmnet/12.json\n");
	says("hello                                          12\n");
	assert_int_equal(chmod(folder, 0777), 0);
	assert_int_equal(gvm("top --once"), 1);
	says("nothing to show");
	unsetenv("XDG_RUNTIME_DIR");
}

/* A port that is taken but not listened on refuses every connection. */
static void top_of_a_node_that_is_not_there(void **state)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char text[128];

	assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	snprintf(text, sizeof(text), "top --once 127.0.0.1:%u", ntohs(at.sin_port));
	assert_int_equal(gvm(text), 1);
	snprintf(text, sizeof(text),
		 "127.0.0.1:%u cannot be asked: connection refused; is gvm-memsrv running "
		 "there?\n",
		 ntohs(at.sin_port));
	assert_string_equal(said, text);
	close(fd);
	assert_int_equal(gvm("top --once --key-file none 127.0.0.1:1"), 1);
	assert_string_equal(said, "gvm top: key file none does not exist; make one: openssl rand "
				  "-hex 32 > none; chmod 600 none\n");
}

/* What asks memory nodes says at once, in one line, why it cannot. */
static void nodes_without_luck(void **state)
{
	static const char *const commands[] = { "perf fetch", "perf fault", "perf send",
						"region list", "region delete a" };
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char text[256];

	assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	/* what is decided by a deadline would take hours */
	setenv("GVM_OP_TIMEOUT_MS", "7200000", 1);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		int word = (int)strcspn(commands[i], " ");

		snprintf(text, sizeof(text), "%s --connect 127.0.0.1:%u", commands[i],
			 ntohs(at.sin_port));
		assert_int_equal(gvm(text), 1);
		snprintf(text, sizeof(text),
			 "gvm %.*s: memory node 0 (127.0.0.1:%u) cannot be reached: connection "
			 "refused; is gvm-memsrv running there?\n",
			 word, commands[i], ntohs(at.sin_port));
		assert_string_equal(said, text);
		snprintf(text, sizeof(text), "%s --key-file none --connect 127.0.0.1:1",
			 commands[i]);
		assert_int_equal(gvm(text), 1);
		snprintf(text, sizeof(text),
			 "gvm %.*s: key file none does not exist; make one: openssl rand -hex 32 > "
			 "none; chmod 600 none\n",
			 word, commands[i]);
		assert_string_equal(said, text);
	}
	assert_int_equal(gvm("perf fetch --local --key-file none"), 1);
	assert_string_equal(said, "gvm perf: key file none does not exist; make one: openssl rand "
				  "-hex 32 > none; chmod 600 none\n");
	unsetenv("GVM_OP_TIMEOUT_MS");
	close(fd);
}

/* Nothing is asked of anybody, and nothing is looked up, where the words are wrong. */
static void perf_without_sense(void **state)
{
	static const char *const addresses[] = { "127.0.0.1", "127.0.0.1:", ":9999" };
	char text[128];

	for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
		snprintf(text, sizeof(text), "perf fetch --connect %s", addresses[i]);
		assert_int_equal(gvm(text), 2);
		snprintf(text, sizeof(text), "gvm perf: --connect %s: HOST:PORT is wanted\n",
			 addresses[i]);
		assert_string_equal(said, text);
	}
	assert_int_equal(gvm("perf fetch --local --bytes 0"), 2);
	says("--bytes must be a multiple of 4096, at least 4096,");
}

static void region_without_luck(void **state)
{
	assert_int_equal(gvm("region --help"), 0);
	says("usage: gvm region list");
	assert_int_equal(gvm("region"), 2);
	says("list, delete, create or resize?");
	assert_int_equal(gvm("region frobnicate"), 2);
	assert_int_equal(gvm("region list a"), 2);
	says("\"a\" is one name too many");
	assert_int_equal(gvm("region delete"), 2);
	says("delete which region?");
	assert_int_equal(gvm("region delete a/b"), 2);
	says("\"a/b\" is no name of a region");
	assert_int_equal(gvm("region create a"), 2);
	says("create needs --bytes SIZE");
	assert_int_equal(gvm("region create a --bytes"), 2);
	says("--bytes needs a value");
	assert_int_equal(gvm("region create a --bytes=5000"), 2);
	says("--bytes 5000: a multiple of 4096 is wanted");
	assert_int_equal(gvm("region create a --bytes 0"), 2);
	says("--bytes 0: a multiple of 4096 is wanted, at least 4096");
	assert_int_equal(gvm("region delete a --bytes 1M"), 2);
	says("delete takes no --bytes");
	assert_int_equal(gvm("region list --frobnicate"), 2);
	assert_int_equal(gvm("region list"), 1);
	assert_string_equal(said, "gvm region: no memory node is named: give --cluster FILE or "
				  "--connect HOST:PORT\n");
	assert_int_equal(gvm("region list --connect nonsense"), 1);
	says("--connect nonsense: HOST:PORT is wanted");
	assert_int_equal(gvm("region list --connect 127.0.0.1:99999"), 1);
	says("--connect 127.0.0.1:99999: \"99999\" is not a port, a number from 1 to 65535");
}

static void top_of_something_hostile(void **state)
{
	file("evil.json",
	     "{\"program\": \"\\u001b[2J\", \"faults\": \"many\", \"latency\": {\"all\": []}, "
	     "\"local_pages\": 1e300, \"a\": {\"b\": {\"c\": {\"d\": {\"e\": {\"f\": 1}}}}}, "
	     "\"\\u001b[31m\": 5, \"x.y\": 7, \"pid\": -1, \"neg\": -1234}");
	assert_int_equal(gvm("top --once evil.json"), 0);
	says("?[2J, process -1");
	says("?[31m");
	says("-1,234\n");
	assert_null(strchr(said, '\033'));
	file("array.json", "[1, 2]");
	assert_int_equal(gvm("top --once array.json"), 1);
}

static int set_up(void **state)
{
	extern char **environ;
	char **e;

	/* Options of whoever runs the tests must not matter. */
	for (e = environ; *e;)
		if (strncmp(*e, "GVM_", 4) == 0) {
			char *name = strndup(*e, strcspn(*e, "="));

			unsetenv(name);
			free(name);
			e = environ;
		} else {
			e++;
		}
	return mkdtemp(dir) ? 0 : -1;
}

static int clean_up(void **state)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(commands),
		cmocka_unit_test(info),
		cmocka_unit_test(info_as_environment),
		cmocka_unit_test(info_as_json),
		cmocka_unit_test(info_checks_the_cluster_file),
		cmocka_unit_test(sim),
		cmocka_unit_test(sim_repeats_itself),
		cmocka_unit_test(top),
		cmocka_unit_test(top_of_a_memory_node),
		cmocka_unit_test(top_without_luck),
		cmocka_unit_test(top_of_a_node_that_is_not_there),
		cmocka_unit_test(nodes_without_luck),
		cmocka_unit_test(perf_without_sense),
		cmocka_unit_test(region_without_luck),
		cmocka_unit_test(set_without_luck),
		cmocka_unit_test(no_such_transport),
		cmocka_unit_test(top_of_all_pagers),
		cmocka_unit_test(top_of_something_hostile),
	};

	return cmocka_run_group_tests(tests, set_up, clean_up);
}
