/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Scenarios of preload_prog: children, and other programs in their place. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "preload_prog.h"

/* The same in a forked child. */
static int child_faults(char *p)
{
	int status;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		*(volatile char *)p = 1;
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

/* Both sides see what was there, and neither sees what the other writes afterwards. */
void fork_both_ways(void)
{
	char *p = map(size), *block = malloc(size);
	int go[2], done[2];
	char c;

	fill(p, size, 1);
	fill(block, size, 5);
	CHECK(!pipe(go) && !pipe(done));
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		CHECK(holds(p, size, 1) && holds(block, size, 5));
		fill(p, size / 2, 2);
		CHECK(write(done[1], "x", 1) == 1);
		CHECK(read(go[0], &c, 1) == 1);
		CHECK(holds(p, size / 2, 2));
		char *q = map(size);
		fill(q, size, 7);
		CHECK(holds(q, size, 7));
		exit(0);
	}
	CHECK(read(done[0], &c, 1) == 1);
	CHECK(holds(p, size, 1));
	fill(p, size, 3);
	CHECK(write(go[1], "x", 1) == 1);
	wait_for(pid);
	CHECK(holds(p, size, 3) && holds(block, size, 5));
}

static volatile int stop;
static void *busy(void *arg)
{
	char *p = map(size);

	for (uint64_t seed = 1; !stop; seed++) {
		fill(p, size, seed);
		CHECK(holds(p, size, seed));
		free(malloc(size / 2));
		FILE *null = fopen("/dev/null", "w");
		CHECK(null && fprintf(null, "%d", (int)seed) > 0 && !fclose(null));
	}
	return NULL;
}

/* Children of a process whose other threads fault, map, allocate and print meanwhile. */
void fork_busy(void)
{
	pthread_t id[3];
	char *p = map(size);

	fill(p, size, 9);
	for (int i = 0; i < 3; i++)
		CHECK(!pthread_create(&id[i], NULL, busy, NULL));
	for (int i = 0; i < 8; i++) {
		fflush(NULL);
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (!pid) {
			CHECK(holds(p, size, 9));
			char *q = malloc(size);
			fill(q, size, 1);
			fill(p, size, 10);
			CHECK(holds(q, size, 1) && holds(p, size, 10));
			if (i % 2)
				exit(0);
			_exit(0);
		}
		wait_for(pid);
	}
	stop = 1;
	for (int i = 0; i < 3; i++)
		CHECK(!pthread_join(id[i], NULL));
	CHECK(holds(p, size, 9));
}

/* A child of a child, and the memory of all of them afterwards. */
void fork_deep(void)
{
	char *p = map(size);

	fill(p, size, 1);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		fill(p, size / 2, 2);
		pid = fork();
		CHECK(pid >= 0);
		if (!pid) {
			CHECK(holds(p, size / 2, 2));
			fill(p, size, 3);
			CHECK(holds(p, size, 3));
			_exit(0);
		}
		CHECK(!munmap(p + size / 2, size / 2));
		wait_for(pid);
		CHECK(holds(p, size / 2, 2));
		_exit(0);
	}
	wait_for(pid);
	CHECK(holds(p, size, 1));
}

/* One child after the other, each gone at once, in each way to go that says so: what one had on the
 * memory node is there for the next. */
void fork_many(void)
{
	char *p = map(size);

	fill(p, size, 1);
	for (int i = 0; i < 40; i++) {
		fflush(NULL);
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (!pid) {
			size_t at = (size_t)i * (size / 40) / PAGE * PAGE;
			CHECK(*(uint64_t *)(p + at + at / PAGE % 500 * 8) == 1000003 + at + 1);
			if (i % 3 == 0)
				exit(0);
			if (i % 3 == 1)
				_exit(0);
			execlp("true", "true", (char *)NULL);
			_exit(1);
		}
		wait_for(pid);
	}
	CHECK(holds(p, size, 1));
}

static int prepared, in_parent, in_child;
static void on_prepare(void)
{
	prepared++;
}
static void on_parent(void)
{
	in_parent++;
}
static void on_child(void)
{
	in_child++;
}

void fork_handlers(void)
{
	char *p = map(size);
	void *plugin = dlopen(getenv("PLUGIN"), RTLD_NOW);

	CHECK(plugin);
	int *children = dlsym(plugin, "plugin_children");
	fill(p, size, 1);
	CHECK(!pthread_atfork(on_prepare, on_parent, on_child));
	pid_t pid = fork();
	if (!pid) {
		CHECK(prepared == 1 && in_child == 1 && !in_parent && *children == 1);
		CHECK(holds(p, size, 1));
		_exit(0);
	}
	wait_for(pid);
	CHECK(prepared == 1 && in_parent == 1 && !in_child && *children == 0);
	CHECK(!dlclose(plugin)); /* takes its handler with it */
	pid = fork();
	if (!pid)
		_exit(in_child != 1);
	wait_for(pid);
}

void fork_exec(void)
{
	char *p = map(size), *argv[] = { "true", NULL };
	pid_t pid;

	fill(p, size, 1);
	CHECK(!posix_spawnp(&pid, "true", NULL, NULL, argv, environ));
	wait_for(pid);
	pid = vfork();
	if (!pid) {
		execlp("true", "true", (char *)NULL);
		_exit(1);
	}
	wait_for(pid);
	CHECK(system("exit 0") == 0);
	CHECK(execl("/no/such/program", "program", (char *)NULL) == -1 && errno == ENOENT);
	CHECK(holds(p, size, 1));
}

/* Programs that have others do the work. */
void spawns(void)
{
	char *argv[] = { "true", NULL };
	pid_t pid;

	small();
	CHECK(!posix_spawnp(&pid, "true", NULL, NULL, argv, environ));
	wait_for(pid);
}

void vforks(void)
{
	small();
	pid_t pid = vfork();
	if (!pid) {
		execlp("true", "true", (char *)NULL);
		_exit(1);
	}
	wait_for(pid);
}

void asks_a_shell(void)
{
	small();
	CHECK(system("exit 0") == 0);
}

/* bash -c 'big; small': the process that others wait for becomes the last program. */
static void become_small(void)
{
	execl("/proc/self/exe", "preload_prog", "small", (char *)NULL);
	_exit(1);
}

void becomes(void)
{
	become_small();
}

void big_then_small(void)
{
	pid_t pid = fork();
	if (!pid) {
		execl("/proc/self/exe", "preload_prog", "fill", (char *)NULL);
		_exit(1);
	}
	wait_for(pid);
	become_small();
}

/* bash -c 'big & exec small': what it will have done when it ends, nobody knows yet. */
void another_beside_small(void)
{
	int ends[2];

	CHECK(!pipe(ends));
	if (!fork()) {
		char byte;
		close(ends[1]);
		CHECK(!read(ends[0], &byte, 1)); /* ends with the other program */
		_exit(0);
	}
	become_small();
}

void dontfork(void)
{
	char *p = map(64 * MIB);

	*p = 1;
	CHECK(!madvise(p, 64 * MIB, MADV_DONTFORK));
	CHECK(child_faults(p));
	CHECK(!madvise(p, 64 * MIB, MADV_DOFORK));
	CHECK(!child_faults(p));
}

/* The same said of a reservation, before it is made writable (as V8 does). */
void reserved_fork(void)
{
	char *p = mmap(NULL, 64 * MIB, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);

	CHECK(p != MAP_FAILED && !madvise(p, 24 * MIB, MADV_DONTFORK));
	CHECK(!mprotect(p, 16 * MIB, RW));           /* all of it: none in the child */
	CHECK(!mprotect(p + 20 * MIB, 8 * MIB, RW)); /* some of it: all in the child */
	CHECK(!madvise(p + 32 * MIB, 8 * MIB, MADV_WIPEONFORK));
	CHECK(!mprotect(p + 32 * MIB, 8 * MIB, RW)); /* zeros in the child */
	fill(p, 16 * MIB, 1);
	fill(p + 20 * MIB, 8 * MIB, 2);
	fill(p + 32 * MIB, 8 * MIB, 3);
	CHECK(child_faults(p));
	pid_t pid = fork();
	if (!pid) {
		CHECK(holds(p + 20 * MIB, 8 * MIB, 2) && zeros(p + 32 * MIB, 8 * MIB));
		_exit(0);
	}
	wait_for(pid);
	CHECK(holds(p, 16 * MIB, 1) && holds(p + 32 * MIB, 8 * MIB, 3));
	/* a new mapping over it is as any other */
	CHECK(mmap(p, 16 * MIB, RW, ANON | MAP_FIXED, -1, 0) == p && zeros(p, 16 * MIB));
	fill(p, 16 * MIB, 4);
	CHECK(!child_faults(p) && holds(p, 16 * MIB, 4));
}

/* Memory that a parent shares with its children. */
void shared_fork(void)
{
	char *p = mmap(NULL, size, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	fill(p, size, 1);
	pid_t pid = fork();
	if (!pid) {
		fill(p, size, 2);
		_exit(0);
	}
	wait_for(pid);
	CHECK(holds(p, size, 2));
}

/* The same when it is paged: the child must not silently get another memory. */
void shared_lost(void)
{
	char *p = mmap(NULL, size, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	fill(p, size, 1);
	CHECK(child_faults(p));
	CHECK(holds(p, size, 1));
}
