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

void small(void)
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

/* As coreutils do: standard error is closed before the end. */
static void closed(void)
{
	fill_verify();
	close(2);
	int fd = memfd_create("another", 0); /* has its number now */
	CHECK(fd == 2);
}

static void mallocs(void)
{
	static char *block[64];
	static size_t bytes[64];
	unsigned seed = 1;
	const int rounds = (int)(size / MIB) * 100;

	for (int round = 0; round < rounds; round++) {
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
	for (int i = 0; i < 1000 || handled < 20; i++) {
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
	{ "cleared", cleared },
	{ "let_out", let_out },
	{ "helpers", helpers },
	{ "helpers_let_out", helpers_let_out },
	{ "helpers_without", helpers_without },
	{ "dontfork", dontfork },
	{ "reserved_fork", reserved_fork },
	{ "shared_fork", shared_fork },
	{ "shared_lost", shared_lost },
	{ "closed", closed },
	{ "remap", remap },
	{ "partial", partial_unmap },
	{ "discards", discards },
	{ "advices", advices },
	{ "lent", lent },
	{ "protect", protect },
	{ "qemu", qemu_like },
	{ "reserve", reserve_then_open },
	{ "moved_in_vain", moved_in_vain },
	{ "huge_in_vain", huge_in_vain },
	{ "executable_heap", executable_heap },
	{ "small_pieces", small_pieces },
	{ "dump_is_small", dump_is_small },
	{ "low", low },
	{ "limited", limited },
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
	{ "object", object },
	{ "object_names", object_names },
	{ "object_changed", object_changed },
	{ "object_orphan", object_orphan },
	{ "object_signals", object_signals },
	{ "object_fork", object_fork },
	{ "object_left", object_left },
	{ "object_found", object_found },
	{ "object_turns", object_turns },
	{ "object_long", object_long },
	{ "object_exec", object_exec },
	{ "object_locks", object_locks },
	{ "object_killed", object_killed },
	{ "object_outlives", object_outlives },
	{ "stack_threads", stack_threads },
	{ "stack_ends", stack_ends },
	{ "stack_many", stack_many },
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
