/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Real memory nodes for a test: NODES gvm-memsrv processes over tcp with a key and an image file
 * each, in a folder of their own. Each keeps its port, so that it can be killed and come back. They
 * die with the thread that started them. Before this: NODES, and NODE_ARGS, further arguments of
 * the program.
 */
#ifndef MEMSRV_TESTS_NODES_H
#define MEMSRV_TESTS_NODES_H

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
#include <gvmnet/gvmnet.h>

/* map: the text of a cluster file that has them as nodes 0 to NODES - 1. */
static char folder[] = "/tmp/gvm-nodes-XXXXXX", key_file[64], program[4096], map[64 * NODES];
static struct {
	pid_t pid;
	unsigned port;
} node[NODES];

static inline unsigned free_port(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	close(fd);
	return ntohs(at.sin_port);
}

static inline void image_name(unsigned i, char *name, size_t room)
{
	snprintf(name, room, "%s/image-%u", folder, i);
}

/* It is not waited for: who connects too early tries again. */
static inline void node_start(unsigned i)
{
	char listen[64], image[64];
	pid_t parent = getpid();

	snprintf(listen, sizeof(listen), "127.0.0.1:%u", node[i].port);
	image_name(i, image, sizeof(image));
	/* what the test has open is closed on exec, and paged memory is not touched here */
	node[i].pid = fork();
	assert_true(node[i].pid >= 0);
	if (node[i].pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == parent)
		execl(program, program, "--listen", listen, "--key-file", key_file, "--image",
		      image, "--log", "error", NODE_ARGS, (char *)NULL);
	_exit(127);
}

/* No-op when it does not run. Returns when it is gone. */
static inline void node_end(unsigned i, int signal)
{
	int status;

	if (node[i].pid <= 0)
		return;
	kill(node[i].pid, signal);
	assert_int_equal(waitpid(node[i].pid, &status, 0), node[i].pid);
	node[i].pid = 0;
}

/* Remove its data. */
static inline void node_wipe(unsigned i)
{
	char image[64];

	image_name(i, image, sizeof(image));
	unlink(image);
}

static inline void nodes_start(void)
{
	for (unsigned i = 0; i < NODES; i++) {
		node_wipe(i);
		node_start(i);
	}
}

static inline void nodes_end(void)
{
	for (unsigned i = 0; i < NODES; i++) {
		node_end(i, SIGKILL);
		node_wipe(i);
	}
}

/* Stopped in order, and back on their images. */
static inline void nodes_restart(void)
{
	for (unsigned i = 0; i < NODES; i++) {
		node_end(i, SIGTERM);
		node_start(i);
	}
}

static inline int nodes_prepare(void)
{
	char self[4000];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	int fd, at = 0;

	if (len < 0 || !mkdtemp(folder))
		return -1;
	self[len] = 0;
	snprintf(program, sizeof(program), "%s/gvm-memsrv", dirname(self));
	snprintf(key_file, sizeof(key_file), "%s/key", folder);
	fd = open(key_file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, "0123456789abcdef0123456789abcdef", 32) != 32)
		return -1;
	close(fd);
	for (unsigned i = 0; i < NODES; i++) {
		node[i].port = free_port();
		at += snprintf(map + at, sizeof(map) - (size_t)at, "%u 127.0.0.1 %u role=memory\n",
			       i, node[i].port);
	}
	return access(program, X_OK);
}

/* Run the tests with nodes there to be started; returns how many failed. */
#define nodes_run(tests)                                                                           \
	({                                                                                         \
		int failed_ = 1;                                                                   \
		if (nodes_prepare())                                                               \
			fprintf(stderr, "%s: %s\n", program, strerror(errno));                     \
		else                                                                               \
			failed_ = cmocka_run_group_tests(tests, NULL, NULL);                       \
		unlink(key_file);                                                                  \
		rmdir(folder);                                                                     \
		failed_;                                                                           \
	})

#endif
