/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Real memory nodes for a test: NODES gvm-memsrv processes over tcp with a key and an image file
 * each, in a folder of their own. Each keeps its port, so that it can be killed and come back. They
 * die with the thread that started them. Before this: NODES, and NODE_ARGS, further arguments of
 * the program.
 */
#ifndef MEMSRV_TESTS_NODES_H
#define MEMSRV_TESTS_NODES_H

#define FOLDER "/tmp/gvm-nodes-XXXXXX"
#include "processes.h"

#include <gvmnet/gvmnet.h>

/* map: the text of a cluster file that has them as nodes 0 to NODES - 1. */
static char map[64 * NODES];
static struct {
	pid_t pid;
	unsigned port;
} node[NODES];

static inline void image_name(unsigned i, char *name, size_t room)
{
	snprintf(name, room, "%s/image-%u", folder, i);
}

/* It is not waited for: who connects too early tries again. */
static inline void node_start(unsigned i)
{
	char listen[64], image[64];
	const char *const argv[] = { program,  "--listen", listen, "--key-file",
				     key_file, "--image",  image,  "--log",
				     "error",  NODE_ARGS,  NULL };

	snprintf(listen, sizeof(listen), "127.0.0.1:%u", node[i].port);
	image_name(i, image, sizeof(image));
	program_start(&node[i].pid, argv);
}

static inline void node_end(unsigned i, int signal)
{
	program_end(&node[i].pid, signal);
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
	int at = 0;

	if (processes_prepare())
		return -1;
	for (unsigned i = 0; i < NODES; i++) {
		node[i].port = free_port();
		at += snprintf(map + at, sizeof(map) - (size_t)at, "%u 127.0.0.1 %u role=memory\n",
			       i, node[i].port);
	}
	return 0;
}

#define nodes_run(tests) processes_run(tests, nodes_prepare())

#endif
