/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A library that preload_prog opens with dlopen: its mmap, and its pthread_atfork handlers. */
#include <pthread.h>
#include <sys/mman.h>

int plugin_children __attribute__((visibility("default")));
void *plugin_map(size_t bytes) __attribute__((visibility("default")));

static void child(void)
{
	plugin_children++;
}

__attribute__((constructor)) static void begin(void)
{
	pthread_atfork(NULL, NULL, child);
}

void *plugin_map(size_t bytes)
{
	return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
