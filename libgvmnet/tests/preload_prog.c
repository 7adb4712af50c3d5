/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs as users have them, for test_preload and the end-to-end tests: each scenario uses memory
 * in one of the ways that there are and checks what it must find there. It knows nothing of gvmnet.
 * Usage: preload_prog SCENARIO [argument]. Exit status 0: all was as it should be; 3: it was not.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include "preload_prog.h"

size_t size = 8 * MIB;

void fill_one(char *p, size_t at, uint64_t seed)
{
	*(uint64_t *)(p + at + at / PAGE % 500 * 8) = seed * 1000003 + at + 1;
}

void fill(char *p, size_t bytes, uint64_t seed)
{
	for (size_t at = 0; at < bytes; at += PAGE)
		fill_one(p, at, seed);
}

int holds(const char *p, size_t bytes, uint64_t seed)
{
	for (size_t at = 0; at < bytes; at += PAGE)
		if (*(const uint64_t *)(p + at + at / PAGE % 500 * 8) != seed * 1000003 + at + 1)
			return 0;
	return 1;
}

int zeros(const char *p, size_t bytes)
{
	for (size_t at = 0; at < bytes; at += 8)
		if (*(const uint64_t *)(p + at))
			return 0;
	return 1;
}

char *map(size_t bytes)
{
	char *p = mmap(NULL, bytes, RW, ANON, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

static sigjmp_buf back;
static void on_fault(int number)
{
	siglongjmp(back, number);
}

int faults(char *p)
{
	struct sigaction action = { .sa_handler = on_fault }, old;
	volatile int hit = 1;

	CHECK(!sigaction(SIGSEGV, &action, &old));
	if (!sigsetjmp(back, 1)) {
		*(volatile char *)p = *(volatile char *)p;
		hit = 0;
	}
	CHECK(!sigaction(SIGSEGV, &old, NULL));
	return hit;
}

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

static void fill_verify(void)
{
	char *p = map(size);

	CHECK(zeros(p, size));
	fill(p, size, 1);
	CHECK(holds(p, size, 1));
	fill(p, size, 2);
	CHECK(holds(p, size, 2));
	CHECK(!munmap(p, size));
}

static void small(void)
{
	char *p = map(64 * 1024);

	fill(p, 64 * 1024, 1);
	CHECK(holds(p, 64 * 1024, 1));
}

/* A program that asks again when there is no memory. */
static void insists(void)
{
	for (int i = 0; i < 1000; i++)
		CHECK(mmap(NULL, size, RW, ANON, -1, 0) == MAP_FAILED && errno == ENOMEM);
}

static void *thread(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;

	for (int round = 0; round < 4; round++) {
		char *p = map(size);
		fill(p, size, seed + (uint64_t)round);
		char *q = malloc(size / 2);
		CHECK(q);
		fill(q, size / 2, seed);
		CHECK(holds(p, size, seed + (uint64_t)round));
		CHECK(holds(q, size / 2, seed));
		free(q);
		CHECK(!munmap(p, size));
	}
	return NULL;
}

static void threads(void)
{
	pthread_t id[4];

	for (uintptr_t i = 0; i < 4; i++)
		CHECK(!pthread_create(&id[i], NULL, thread, (void *)(i * 100 + 1)));
	for (int i = 0; i < 4; i++)
		CHECK(!pthread_join(id[i], NULL));
}

void wait_for(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Both sides see what was there, and neither sees what the other writes afterwards. */
static void fork_both_ways(void)
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
static void fork_busy(void)
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
static void fork_deep(void)
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
static void fork_many(void)
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

static void fork_handlers(void)
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

static void fork_exec(void)
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
static void spawns(void)
{
	char *argv[] = { "true", NULL };
	pid_t pid;

	small();
	CHECK(!posix_spawnp(&pid, "true", NULL, NULL, argv, environ));
	wait_for(pid);
}

static void vforks(void)
{
	small();
	pid_t pid = vfork();
	if (!pid) {
		execlp("true", "true", (char *)NULL);
		_exit(1);
	}
	wait_for(pid);
}

static void asks_a_shell(void)
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

static void becomes(void)
{
	become_small();
}

static void big_then_small(void)
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
static void another_beside_small(void)
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

static void dontfork(void)
{
	char *p = map(64 * MIB);

	*p = 1;
	CHECK(!madvise(p, 64 * MIB, MADV_DONTFORK));
	CHECK(child_faults(p));
	CHECK(!madvise(p, 64 * MIB, MADV_DOFORK));
	CHECK(!child_faults(p));
}

/* The same said of a reservation, before it is made writable (as V8 does). */
static void reserved_fork(void)
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
static void shared_fork(void)
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
static void shared_lost(void)
{
	char *p = mmap(NULL, size, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	fill(p, size, 1);
	CHECK(child_faults(p));
	CHECK(holds(p, size, 1));
}

/* As coreutils do: standard error is closed before the end. */
static void closed(void)
{
	fill_verify();
	close(2);
	int fd = memfd_create("another", 0); /* has its number now */
	CHECK(fd == 2);
}

static void remap(void)
{
	size_t big = 64 * MIB;
	char *p = map(size), *q;

	fill(p, size, 1);
	q = mremap(p, size, 2 * size, MREMAP_MAYMOVE);
	CHECK(q != MAP_FAILED && holds(q, size, 1) && zeros(q + size, size));
	q = mremap(q, 2 * size, size / 2, 0);
	CHECK(q != MAP_FAILED && holds(q, size / 2, 1));
	char *to = mmap(NULL, size, PROT_NONE, ANON, -1, 0);
	CHECK(mremap(q, size / 2, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	CHECK(holds(to, size / 2, 1) && zeros(to + size / 2, size / 2));
	p = map(big);
	fill(p, big, 2);
	q = mremap(p, big, 2 * big, MREMAP_MAYMOVE);
	CHECK(q != MAP_FAILED && holds(q, big, 2) && zeros(q + big, big));
	fill(q, 2 * big, 3);
	char *half = mremap(q + big, big, big, MREMAP_MAYMOVE | MREMAP_FIXED,
			    mmap(NULL, big, PROT_NONE, ANON, -1, 0));
	CHECK(half != MAP_FAILED && holds(q, big, 3));
	CHECK(*(uint64_t *)(half + big / PAGE % 500 * 8) == 3 * 1000003 + big + 1);
	CHECK(!munmap(q, big) && !munmap(half, big) && !munmap(to, size));
}

static void partial_unmap(void)
{
	size_t big = 64 * MIB;
	/* the page before it is this program's, too: what is mapped there by chance is not */
	char *before = mmap(NULL, PAGE + big, PROT_NONE, ANON, -1, 0);
	CHECK(before != MAP_FAILED);
	char *p = mmap(before + PAGE, big, RW, ANON | MAP_FIXED, -1, 0);

	CHECK(p == before + PAGE);
	fill(p, big, 1);
	CHECK(!munmap(p + 16 * MIB, 16 * MIB));
	CHECK(holds(p, 16 * MIB, 1));
	CHECK(*(uint64_t *)(p + 32 * MIB + 32 * MIB / PAGE % 500 * 8) == 1000003 + 32 * MIB + 1);
	CHECK(faults(p + 16 * MIB));
	CHECK(!munmap(before, PAGE));
	CHECK(!munmap(p, big)); /* over the hole */
	CHECK(faults(p));
	p = map(big);
	CHECK(zeros(p, big));
	CHECK(!munmap(p + big - PAGE, PAGE) && !munmap(p, PAGE) && !munmap(p, big));
}

static void discards(void)
{
	char *p = map(size);
	const int advices[] = { MADV_DONTNEED, MADV_FREE };

	for (int i = 0; i < 2; i++) {
		fill(p, size, 1);
		CHECK(!madvise(p + MIB, MIB, advices[i]));
		CHECK(holds(p, MIB, 1));
		CHECK(advices[i] == MADV_FREE || zeros(p + MIB, MIB));
	}
	fill(p, size, 2);
	CHECK(!madvise(p, size, MADV_HUGEPAGE) && !madvise(p, size, MADV_MERGEABLE));
	CHECK(!madvise(p, size, MADV_WILLNEED) && !madvise(p, size, MADV_COLD));
	CHECK(!posix_madvise(p, size, POSIX_MADV_DONTNEED));
	CHECK(!mlock(p, size) && !munlock(p, size));
	CHECK(holds(p, size, 2));
	CHECK(madvise(p, size, MADV_REMOVE) == -1 && errno == EINVAL);
	CHECK(madvise(p + 1, size, MADV_DONTNEED) == -1 && errno == EINVAL);
	char *s = mmap(NULL, size, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(s != MAP_FAILED);
	fill(s, size, 3);
	CHECK(!madvise(s, size, MADV_DONTNEED) && holds(s, size, 3)); /* shared: keeps its data */
	CHECK(!madvise(s, MIB, MADV_REMOVE) && zeros(s, MIB));
}

static void protect(void)
{
	char *p = map(size);

	fill(p, size, 1);
	CHECK(!mprotect(p, MIB, PROT_READ));
	CHECK(faults(p) && holds(p, size, 1));
	CHECK(!mprotect(p, MIB, PROT_NONE) && faults(p));
	CHECK(!mprotect(p, MIB, RW) && holds(p, size, 1));
	fill(p, size, 2);
	CHECK(holds(p, size, 2));
	CHECK(!mprotect(p, size, PROT_READ));
	char *q = map(size); /* what cannot be written must be able to leave, too */
	fill(q, size, 4);
	CHECK(holds(p, size, 2) && holds(q, size, 4) && faults(p));
	CHECK(!mprotect(q, size, PROT_NONE));
	CHECK(!mprotect(p, size, RW));
	fill(p, size, 5);
	CHECK(!mprotect(q, size, RW) && holds(q, size, 4) && holds(p, size, 5));
	CHECK(!munmap(q, size));
	CHECK(!mprotect(p, MIB, PROT_READ) && !munmap(p, size));
	p = map(size); /* its pages may come again */
	CHECK(zeros(p, size));
	fill(p, size, 3);
}

/* As QEMU does: reserve more than is needed, then map the exact part over it. */
static void qemu_like(void)
{
	size_t ram = 64 * MIB, slack = 2 * MIB;
	char *r = mmap(NULL, ram + slack, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);

	CHECK(r != MAP_FAILED);
	char *p = (char *)(((uintptr_t)r + slack - 1) & ~(slack - 1));
	CHECK(mmap(p, ram, RW, ANON | MAP_FIXED | MAP_NORESERVE, -1, 0) == p);
	if (p > r)
		CHECK(!munmap(r, (size_t)(p - r)));
	size_t rest = (size_t)(r + ram + slack - p) - ram;
	if (rest > PAGE)
		CHECK(!munmap(p + ram + PAGE, rest - PAGE));
	CHECK(!madvise(p, ram, MADV_HUGEPAGE) && !madvise(p, ram, MADV_DONTFORK));
	fill(p, ram, 1);
	CHECK(holds(p, ram, 1));
	CHECK(!madvise(p + 4 * MIB, 4 * MIB, MADV_DONTNEED) && zeros(p + 4 * MIB, 4 * MIB));
	CHECK(mmap(p, MIB, RW, ANON | MAP_FIXED, -1, 0) == p && zeros(p, MIB));
	CHECK(mmap(p, MIB, PROT_NONE, ANON | MAP_FIXED, -1, 0) == p);
	CHECK(mmap(p, MIB, RW, ANON | MAP_FIXED, -1, 0) == p && zeros(p, MIB));
	int fd = open("/dev/zero", O_RDWR);
	CHECK(mmap(p + MIB, MIB, RW, MAP_PRIVATE | MAP_FIXED, fd, 0) == p + MIB);
	CHECK(zeros(p + MIB, MIB));
	CHECK(!munmap(p, ram));
}

static void reserve_then_open(void)
{
	char *p = mmap(NULL, 64 * MIB, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);

	CHECK(p != MAP_FAILED);
	CHECK(!mprotect(p + 8 * MIB, 16 * MIB, RW));
	CHECK(zeros(p + 8 * MIB, 16 * MIB));
	fill(p + 8 * MIB, 16 * MIB, 1);
	CHECK(!mprotect(p, PAGE, RW)); /* too small, stays local */
	*p = 7;
	CHECK(holds(p + 8 * MIB, 16 * MIB, 1) && *p == 7);
	CHECK(faults(p + 4 * MIB));
	CHECK(!munmap(p, 64 * MIB));
}

static void mallocs(void)
{
	static char *block[64];
	static size_t bytes[64];
	unsigned seed = 1;

	for (int round = 0; round < 2000; round++) {
		int i = rand_r(&seed) % 64;
		size_t want = (size_t)(rand_r(&seed) % (round % 7 ? 100000 : 6000000)) + 8;
		if (block[i])
			for (size_t k = 0; k + 8 <= bytes[i]; k += 4096)
				CHECK(*(uint64_t *)(block[i] + k) == k + (size_t)i);
		size_t kept = 0;
		switch (rand_r(&seed) % 5) {
		case 0:
			free(block[i]);
			CHECK((block[i] = calloc(want, 1)));
			for (size_t k = 0; k < want; k++)
				CHECK(!block[i][k]);
			break;
		case 1:
			free(block[i]);
			CHECK(!posix_memalign((void **)&block[i], 1 << 16, want));
			CHECK(((uintptr_t)block[i] & 0xffff) == 0);
			break;
		case 2:
			free(block[i]);
			CHECK((block[i] = malloc(want)));
			break;
		default:
			kept = block[i] ? bytes[i] : 0;
			CHECK((block[i] = realloc(block[i], want)));
			kept = kept < want ? kept : want;
		}
		CHECK(malloc_usable_size(block[i]) >= want);
		for (size_t k = 0; k + 8 <= kept; k += 4096)
			CHECK(*(uint64_t *)(block[i] + k) == k + (size_t)i);
		bytes[i] = want;
		for (size_t k = 0; k + 8 <= want; k += 4096)
			*(uint64_t *)(block[i] + k) = k + (size_t)i;
	}
	for (int i = 0; i < 64; i++)
		free(block[i]);
	volatile size_t absurd = PTRDIFF_MAX;
	CHECK(!malloc(absurd) && errno == ENOMEM && !calloc(absurd, 3));
	char *text = strdup("copied");
	CHECK(!strcmp(text, "copied"));
	free(text);
	free(NULL);
}

static void plugin(void)
{
	void *lib = dlopen(getenv("PLUGIN"), RTLD_NOW);

	CHECK(lib);
	void *(*plugin_map)(size_t) = (void *(*)(size_t))dlsym(lib, "plugin_map");
	char *p = plugin_map(64 * MIB);
	fill(p, 64 * MIB, 1);
	CHECK(holds(p, 64 * MIB, 1));
}

static void daemonised(void)
{
	int done[2];
	char c;

	CHECK(!pipe(done));
	pid_t pid = fork();
	if (pid) {
		close(done[1]);
		CHECK(read(done[0], &c, 1) == 1 && c == 'k'); /* the daemon is well */
		CHECK(!read(done[0], &c, 1));                 /* and has ended, with its report */
		exit(0);
	}
	CHECK(!daemon(0, 1));
	fill_verify();
	CHECK(write(done[1], "k", 1) == 1);
	exit(0);
}

static void not_taken(void)
{
	CHECK(mmap(NULL, size, RW | PROT_EXEC, ANON, -1, 0) != MAP_FAILED);
	CHECK(mmap(NULL, size, RW, ANON | MAP_STACK, -1, 0) != MAP_FAILED);
	CHECK(mmap(NULL, size, PROT_READ, ANON, -1, 0) != MAP_FAILED);
	CHECK(mmap(NULL, 0, RW, ANON, -1, 0) == MAP_FAILED && errno == EINVAL);
	CHECK(mmap(NULL, size, RW, MAP_SHARED, -1, 0) == MAP_FAILED && errno == EBADF);
}

/* As QEMU maps its guest's memory with share=off of a file, and with share=on of none; beside a
 * little that is taken over. */
static void left_alone(void)
{
	int fd = memfd_create("guest-ram", MFD_CLOEXEC);

	CHECK(fd >= 0 && !ftruncate(fd, 10 * (off_t)size));
	for (int i = 0; i < 2; i++) {
		/* over a reservation, as QEMU does */
		char *at = mmap(NULL, 10 * size, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
		CHECK(at != MAP_FAILED);
		CHECK(mmap(at, 10 * size, RW, MAP_PRIVATE | MAP_FIXED, fd, 0) == at);
	}
	CHECK(mmap(NULL, size + MIB, RW | PROT_EXEC, ANON, -1, 0) != MAP_FAILED);
	if (getenv("LEFT_SHARED"))
		CHECK(mmap(NULL, size, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
	fill(map(size / 2), size / 2, 1);
}

/* Give a descriptor to another process. */
static ssize_t send_fd(int fd)
{
	char control[CMSG_SPACE(sizeof fd)] = "", byte = 0;
	struct iovec io = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &io,
			      .msg_iovlen = 1,
			      .msg_control = control,
			      .msg_controllen = sizeof control };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	int pair[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(c), &fd, sizeof fd);
	return sendmsg(pair[0], &msg, 0);
}

static void memfd(void)
{
	int fd = memfd_create("guest-ram", 0);
	char word[8];

	CHECK(fd >= 0 && !ftruncate(fd, (off_t)size));
	char *p = mmap(NULL, size, RW, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED && zeros(p, size));
	fill(p, size, 1);
	CHECK(holds(p, size, 1));
	CHECK(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, MIB, MIB));
	CHECK(holds(p, MIB, 1) && zeros(p + MIB, MIB));
	CHECK(mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0) == MAP_FAILED && errno == ENOTSUP);
	CHECK(pread(fd, word, 8, 0) == 8);
	CHECK(send_fd(fd) == -1 && errno == EPERM);
	CHECK(send_fd(0) == 1);
	CHECK(!munmap(p, size));
	p = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0); /* what was there still is */
	CHECK(p != MAP_FAILED && holds(p, PAGE, 1));
}

/* A file that holds data: left alone, or with --load read in. */
static void data(void)
{
	int fd = memfd_create("with-data", 0);

	CHECK(fd >= 0 && !ftruncate(fd, (off_t)size));
	CHECK(pwrite(fd, "precious", 8, (off_t)MIB) == 8);
	char *p = mmap(NULL, size, RW, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED && !memcmp(p + MIB, "precious", 8) && zeros(p, MIB));
}

/*
 * The next signal half a millisecond after the last was handled: where that takes longer than the
 * time between signals, a timer that repeats would leave the program no time for anything else.
 */
static void next_signal(void)
{
	struct itimerval timer = { .it_value = { 0, 500 } };

	CHECK(!setitimer(ITIMER_REAL, &timer, NULL));
}

static volatile sig_atomic_t handled;
static void on_signal(int number)
{
	char *p = mmap(NULL, size, RW, ANON, -1, 0);

	if (p != MAP_FAILED) {
		*p = 1;
		munmap(p, size);
		handled = handled + 1;
	}
	next_signal();
}

/* mmap in a handler, whatever the program was doing. */
static void signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	CHECK(!sigaction(SIGALRM, &action, NULL));
	next_signal();
	for (int i = 0; i < 3000 || handled < 5; i++) {
		char *p = map(size);
		*p = 1;
		CHECK(!munmap(p, size));
		free(malloc(size));
	}
}

static void sleeper(void)
{
	char *p = map(size);

	fill(p, size, 1);
	if (write(1, "ready\n", 6) == 6)
		pause();
}

/* A parent and its child, both there until they are ended. */
static void sleepers(void)
{
	char *p = map(size), line[32];

	fill(p, size, 1);
	pid_t pid = fork();
	CHECK(pid >= 0);
	snprintf(line, sizeof line, "%d\n", (int)getpid());
	if (write(1, line, strlen(line)) > 0)
		pause();
}

static const struct {
	const char *name;
	void (*run)(void);
} scenarios[] = {
	{ "fill", fill_verify },
	{ "small", small },
	{ "insists", insists },
	{ "threads", threads },
	{ "fork", fork_both_ways },
	{ "fork_busy", fork_busy },
	{ "fork_deep", fork_deep },
	{ "fork_many", fork_many },
	{ "handlers", fork_handlers },
	{ "exec", fork_exec },
	{ "spawns", spawns },
	{ "vforks", vforks },
	{ "asks_a_shell", asks_a_shell },
	{ "becomes", becomes },
	{ "big_then_small", big_then_small },
	{ "another_beside_small", another_beside_small },
	{ "dontfork", dontfork },
	{ "reserved_fork", reserved_fork },
	{ "shared_fork", shared_fork },
	{ "shared_lost", shared_lost },
	{ "closed", closed },
	{ "remap", remap },
	{ "partial", partial_unmap },
	{ "discards", discards },
	{ "protect", protect },
	{ "qemu", qemu_like },
	{ "reserve", reserve_then_open },
	{ "malloc", mallocs },
	{ "plugin", plugin },
	{ "daemon", daemonised },
	{ "not_taken", not_taken },
	{ "left_alone", left_alone },
	{ "memfd", memfd },
	{ "file_io", file_io },
	{ "file_size", file_size },
	{ "file_again", file_again },
	{ "file_fork", file_fork },
	{ "file_stream", file_stream },
	{ "file_threads", file_threads },
	{ "fd_closefrom", fd_closefrom },
	{ "fd_loop", fd_loop },
	{ "fd_ranges", fd_ranges },
	{ "fd_dup2", fd_dup2 },
	{ "fd_own_numbers", fd_own_numbers },
	{ "fd_fork_exec", fd_fork_exec },
	{ "fd_fork_on", fd_fork_on },
	{ "fd_spawn", fd_spawn },
	{ "fd_threads", fd_threads },
	{ "fd_pipe", fd_pipe },
	{ "fd_raw", fd_raw },
	{ "fd_raw_fork", fd_raw_fork },
	{ "fd_raw_exec", fd_raw_exec },
	{ "data", data },
	{ "signals", signals },
	{ "stack_threads", stack_threads },
	{ "signal_stack", signal_stack },
	{ "signal_stacks", signal_stacks },
	{ "stripes", stripes },
	{ "sleeper", sleeper },
	{ "sleepers", sleepers },
};

int main(int argc, char **argv)
{
	if (argc > 2)
		size = strtoul(argv[2], NULL, 10) * MIB;
	for (size_t i = 0; argc > 1 && i < sizeof scenarios / sizeof *scenarios; i++)
		if (!strcmp(argv[1], scenarios[i].name)) {
			scenarios[i].run();
			return 0;
		}
	fprintf(stderr, "preload_prog: which scenario?\n");
	return 2;
}
