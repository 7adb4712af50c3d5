/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What tests with real memory nodes share: the programs that they start, which die with the thread
 * that started them, and a folder with a key. Before this: FOLDER, the folder's template.
 */
#ifndef MEMSRV_TESTS_PROCESSES_H
#define MEMSRV_TESTS_PROCESSES_H

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[] = FOLDER, key_file[64], program[4096]; /* gvm-memsrv */

/* One that nobody else is given while this process lives: the socket keeps it, and who listens there,
 * as nodes do with SO_REUSEADDR, is not in its way. */
static inline unsigned free_port(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	return ntohs(at.sin_port);
}

/* What the test has open is closed on exec, and paged memory is not touched in the child. */
static inline void program_start(pid_t *pid, const char *const *argv)
{
	pid_t parent = getpid();

	*pid = fork();
	assert_true(*pid >= 0);
	if (*pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == parent)
		execv(program, (char *const *)argv);
	_exit(127);
}

/* No-op when it does not run. Returns when it is gone. */
static inline void program_end(pid_t *pid, int signal)
{
	if (*pid <= 0)
		return;
	kill(*pid, signal);
	assert_int_equal(waitpid(*pid, NULL, 0), *pid);
	*pid = 0;
}

static inline int write_file(const char *path, const char *text)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC | O_TRUNC, 0600), ok;

	ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return ok ? 0 : -1;
}

/* The folder, with a key in it, and where the program is: beside the test. */
static inline int processes_prepare(void)
{
	char self[4000];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (len < 0 || !mkdtemp(folder))
		return -1;
	self[len] = 0;
	snprintf(program, sizeof(program), "%s/gvm-memsrv", dirname(self));
	snprintf(key_file, sizeof(key_file), "%s/key", folder);
	if (write_file(key_file, "0123456789abcdef0123456789abcdef"))
		return -1;
	return access(program, X_OK);
}

/* Run the tests; returns how many failed. prepare: 0, or it cannot begin. */
#define processes_run(tests, prepare)                                                              \
	({                                                                                         \
		int failed_ = 1;                                                                   \
		if (prepare)                                                                       \
			fprintf(stderr, "%s: %s\n", program, strerror(errno));                     \
		else                                                                               \
			failed_ = cmocka_run_group_tests(tests, NULL, NULL);                       \
		unlink(key_file);                                                                  \
		rmdir(folder);                                                                     \
		failed_;                                                                           \
	})

#endif
