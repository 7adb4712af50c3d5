/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What gvm run refuses, and that it does so at once, with one line and its exit code: it must never
 * start a program whose memory would silently stay local.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define REFUSED 120
#define USAGE   2

static char dir[] = "/tmp/gvm-test-run-XXXXXX";
static char output[16384];
static char closed_port[64]; /* --connect to where nobody listens */

static int run(const char *const *args)
{
	char *argv[32] = { "gvm", "run" };
	int pipe_fd[2], status, n = 2;
	size_t used = 0;
	ssize_t got;

	while (*args && n < 31)
		argv[n++] = (char *)(uintptr_t)*args++;
	assert_int_equal(pipe(pipe_fd), 0);
	pid_t pid = fork();
	if (!pid) {
		dup2(pipe_fd[1], 1);
		dup2(pipe_fd[1], 2);
		close(pipe_fd[0]);
		if (chdir(dir))
			_exit(97);
		unsetenv("LD_PRELOAD"); /* a sanitizer's, which the program would inherit */
		execv(GVM, argv);
		_exit(98);
	}
	close(pipe_fd[1]);
	while ((got = read(pipe_fd[0], output + used, sizeof output - 1 - used)) > 0)
		used += (size_t)got;
	output[used] = 0;
	close(pipe_fd[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
}

static void lines_are_few(void)
{
	int lines = 0;

	for (const char *p = output; *p; p++)
		lines += *p == '\n';
	assert_int_equal(lines, 1);
}

/* gvm run with these arguments ends with code and one line that says text. */
#define REFUSES(code, text, ...)                                                                   \
	do {                                                                                       \
		const char *args[] = { __VA_ARGS__, NULL };                                        \
		assert_int_equal(run(args), code);                                                 \
		if (!strstr(output, text))                                                         \
			print_message("said: %s", output);                                         \
		assert_non_null(strstr(output, text));                                             \
		lines_are_few();                                                                   \
	} while (0)

static void usage(void **state)
{
	const char *help[] = { "--help", NULL };

	assert_int_equal(run(help), 0);
	assert_non_null(strstr(output, "--local SIZE"));
	REFUSES(USAGE, "which program?", "--local", "1G");
	REFUSES(USAGE, "which program?", "--");
	REFUSES(USAGE, "put \"--\" before", "true");
	REFUSES(USAGE, "--frobnicate", "--frobnicate", "--", "true");
	REFUSES(USAGE, "--local", "--local", "4K", "--", "true");
	REFUSES(USAGE, "--unreachable", "--unreachable", "perhaps", "--", "true");
	REFUSES(USAGE, "needs a value", "--min");
}

static void where_the_memory_is(void **state)
{
	REFUSES(REFUSED, "no memory node is named", "--", "true");
	REFUSES(REFUSED, "exclude each other", "--cluster", "a", "--connect", "b:1", "--", "true");
	REFUSES(REFUSED, "HOST:PORT", "--connect", "nonsense", "--", "true");
	REFUSES(REFUSED, "port", "--connect", "127.0.0.1:70000", "--", "true");
	REFUSES(REFUSED, "/dev/null is not a regular file", "--cluster", "/dev/null", "--", "true");
	REFUSES(REFUSED, "none.conf: cannot be read: No such file", "--cluster", "none.conf", "--",
		"true");
	REFUSES(REFUSED, "--cluster names a file with a line", "--cluster", "none.conf", "--",
		"true");
	REFUSES(REFUSED, "its name has no address", "--connect", "no-such-host.invalid:1", "--",
		"true");
	REFUSES(REFUSED, "no file can be made in /none", "--stats-file", "/none/x", "--connect",
		closed_port, "--", "true");
	REFUSES(REFUSED, "is a folder", "--stats-file", dir, "--connect", closed_port, "--",
		"true");
	REFUSES(REFUSED, "loop is for within one process", "--transport", "loop", "--connect",
		closed_port, "--", "true");
	REFUSES(REFUSED, "double.conf:2", "--cluster", "double.conf", "--", "true");
	REFUSES(REFUSED, "verbs", "--transport", "verbs", "--connect", closed_port, "--", "true");
}

static void memory_that_nodes_share(void **state)
{
	REFUSES(USAGE, "--shared needs the name", "--connect", closed_port, "--shared", "--",
		"true");
	REFUSES(USAGE, "--shared needs the name", "--shared", "--local", "1G", "--", "true");
	REFUSES(USAGE, "--shared needs the name", "--cluster", "shared.conf", "--shared", "", "--",
		"true");
	REFUSES(USAGE, "--shared needs the name", "--cluster", "shared.conf", "--shared=", "--",
		"true");
	REFUSES(REFUSED, "--shared needs a --cluster file", "--connect", closed_port, "--shared",
		"job", "--", "true");
	REFUSES(REFUSED, "has no line with role=compute", "--cluster", "memory.conf", "--shared",
		"job", "--", "true");
	REFUSES(REFUSED, "--node 7: the cluster file has no line", "--cluster", "shared.conf",
		"--shared", "job", "--node", "7", "--", "true");
	REFUSES(REFUSED, "--node 1: the cluster file has no line", "--cluster", "shared.conf",
		"--shared", "job", "--node", "1", "--", "true");
	REFUSES(REFUSED, "--shared-local is at least 64K", "--cluster", "shared.conf", "--shared",
		"job", "--shared-local", "8K", "--", "true");
}

/* What no object can have for a name would share nothing, without a word. */
static void names_of_what_nodes_share(void **state)
{
	static const char *const wrong[] = { "/job", "a/b",  "a b",  "job,", ",job",
					     "a,,b", ",",    ".",    "..",   "j\xc3\xb6",
					     "a*/b", "job;", "a,/b", "*;" };
	/* which go on to the next thing that is wrong */
	static const char *const right[] = { "job",     "a.b-c_D9", "*",     "a,b,c",
					     "gvm-*,x", "[a-c]?",   "[!a]*", "..." };
	char name[65], list[80];

	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		REFUSES(USAGE, "is no name of a shared memory object", "--cluster", "memory.conf",
			"--shared", wrong[i], "--", "true");
	for (size_t i = 0; i < sizeof right / sizeof *right; i++)
		REFUSES(REFUSED, "has no line with role=compute", "--cluster", "memory.conf",
			"--shared", right[i], "--", "true");
	memset(name, 'x', sizeof name - 1);
	name[64] = 0;
	snprintf(list, sizeof list, "job,%s", name);
	REFUSES(USAGE, "is no name", "--cluster", "memory.conf", "--shared", name, "--", "true");
	REFUSES(USAGE, "is no name", "--cluster", "memory.conf", "--shared", list, "--", "true");
	name[0] = '*';
	REFUSES(USAGE, "is no name", "--cluster", "memory.conf", "--shared", name, "--", "true");
	name[63] = 0;
	REFUSES(REFUSED, "role=compute", "--cluster", "memory.conf", "--shared", name, "--",
		"true");
	name[0] = '.'; /* counts as two */
	name[55] = 0;
	REFUSES(USAGE, "is no name", "--cluster", "memory.conf", "--shared", name, "--", "true");
	name[54] = 0;
	REFUSES(REFUSED, "role=compute", "--cluster", "memory.conf", "--shared", name, "--",
		"true");
}

static void the_key(void **state)
{
	REFUSES(REFUSED, "does not exist", "--key-file", "nokey", "--connect", closed_port, "--",
		"true");
	REFUSES(REFUSED, "chmod 600", "--key-file", "openkey", "--connect", closed_port, "--",
		"true");
}

static void a_node_that_is_not_there(void **state)
{
	REFUSES(REFUSED, "connection refused", "--connect", closed_port, "--", "true");
}

/* A listener that never speaks. */
static void a_node_that_does_not_answer(void **state)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof in;
	char at[64];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&in, len), 0);
	assert_int_equal(listen(fd, 8), 0);
	getsockname(fd, (struct sockaddr *)&in, &len);
	snprintf(at, sizeof at, "127.0.0.1:%d", ntohs(in.sin_port));
	setenv("GVM_CONNECT_MS", "300", 1);
	REFUSES(REFUSED, "does not answer", "--connect", at, "--", "true");
	unsetenv("GVM_CONNECT_MS");
	close(fd);
}

static void the_program(void **state)
{
	REFUSES(REFUSED, "no such program", "--connect", closed_port, "--", "no-such-program");
	REFUSES(REFUSED, "no such file", "--connect", closed_port, "--", "./none");
	REFUSES(REFUSED, "may execute", "--connect", closed_port, "--", "./double.conf");
	REFUSES(REFUSED, "static program", "--connect", closed_port, "--", STATIC_PROG);
	REFUSES(REFUSED, "static program", "--connect", closed_port, "--", "./script");
	REFUSES(REFUSED, "-- sh ./text", "--connect", closed_port, "--", "./text");
	REFUSES(REFUSED, "its interpreter /none/sh is no file", "--connect", closed_port, "--",
		"./lost");
	REFUSES(REFUSED, "ends as on Windows", "--connect", closed_port, "--", "./windows");
	REFUSES(REFUSED, "another kind of machine", "--connect", closed_port, "--", "./other");
	REFUSES(REFUSED, "damaged", "--connect", closed_port, "--", "./cut");
}

static void privileges(void **state)
{
	char path[256];

	snprintf(path, sizeof path, "%s/suid", dir);
	if (geteuid() || chown(path, 1, 1) || chmod(path, 04755))
		skip();
	REFUSES(REFUSED, "set-user-id", "--connect", closed_port, "--", "./suid");
}

static void write_file(const char *name, mode_t mode, const char *text, size_t len)
{
	char path[256];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	int fd = open(path, O_WRONLY | O_CREAT, 0700);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, len), len);
	close(fd);
	assert_int_equal(chmod(path, mode), 0);
}

static int begin(void **state)
{
	char elf[64] = "\177ELF\002\001\001", script[512],
	     key[] = "0123456789abcdef0123456789abcdef";
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof in;

	if (!mkdtemp(dir) || bind(fd, (struct sockaddr *)&in, len) ||
	    getsockname(fd, (struct sockaddr *)&in, &len))
		return -1;
	/* bound and not listening: refused, and nobody else's */
	snprintf(closed_port, sizeof closed_port, "127.0.0.1:%d", ntohs(in.sin_port));
	/* none is built with sanitizers, and none is loaded here: every run is refused before */
	setenv("GVM_PRELOAD", GVM, 1);
	write_file("double.conf", 0644, "0 127.0.0.1 1\n0 127.0.0.1 2\n", 28);
	write_file("memory.conf", 0644, "0 127.0.0.1 1\n", 14);
	write_file("shared.conf", 0644, "1 127.0.0.1 1\n2 127.0.0.1 2 role=compute\n", 41);
	write_file("openkey", 0644, key, sizeof key - 1);
	write_file("text", 0755, "hello\n", 6);
	write_file("lost", 0755, "#!/none/sh\n", 11);
	write_file("windows", 0755, "#!/bin/sh\r\n", 11);
	snprintf(script, sizeof script, "#! %s -x\n", STATIC_PROG);
	write_file("script", 0755, script, strlen(script));
	elf[18] = 3; /* EM_386 */
	write_file("other", 0755, elf, sizeof elf);
	write_file("suid", 0755, elf, sizeof elf); /* its machine is not looked at any more */
#ifdef __x86_64__
	elf[18] = 62;
#else
	elf[18] = (char)183;
#endif
	elf[54] = 56; /* program headers of the right size, beyond the end */
	elf[56] = 2;
	elf[32] = 64;
	write_file("cut", 0755, elf, sizeof elf);
	return 0;
}

static int end(void **state)
{
	const char *const names[] = { "double.conf", "openkey",     "text",       "suid",
				      "lost",        "windows",     "script",     "other",
				      "cut",         "memory.conf", "shared.conf" };
	char path[256];

	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		unlink(path);
	}
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(usage),
		cmocka_unit_test(where_the_memory_is),
		cmocka_unit_test(memory_that_nodes_share),
		cmocka_unit_test(names_of_what_nodes_share),
		cmocka_unit_test(the_key),
		cmocka_unit_test(a_node_that_is_not_there),
		cmocka_unit_test(a_node_that_does_not_answer),
		cmocka_unit_test(the_program),
		cmocka_unit_test(privileges),
	};

	return cmocka_run_group_tests(tests, begin, end);
}
