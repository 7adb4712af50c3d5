/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs that close what they did not open: all of their memory is there afterwards, and all that
 * is theirs is closed. Those that make the system calls themselves end; none reads a page of zeros.
 */
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "preload_prog.h"

#define NUMBERS 1600 /* more than the limit is as a rule */

extern char **environ;

static int is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

/* It pages as before: what was written is read, and what is written now, too. */
static void goes_on(char *p, uint64_t seed)
{
	CHECK(holds(p, size, seed));
	fill(p, size, seed + 1);
	CHECK(holds(p, size, seed + 1));
}

static char *filled(void)
{
	char *p = map(size);

	fill(p, size, 1);
	return p;
}

void fd_closefrom(void)
{
	char *p = filled();
	int own = dup(0);

	closefrom(3);
	CHECK(!is_open(own) && is_open(0) && is_open(2));
	goes_on(p, 1);
	p = map(size); /* and takes over what comes then */
	fill(p, size, 5);
	goes_on(p, 5);
}

void fd_loop(void)
{
	char *p = filled();
	int own = dup(0), closed = 0;

	for (int fd = 3; fd < NUMBERS; fd++) {
		int err = close(fd);
		CHECK(!err || errno == EBADF);
		closed += !err;
	}
	CHECK(closed >= 1 && !is_open(own));
	goes_on(p, 1);
}

void fd_ranges(void)
{
	char *p = filled();
	uint64_t seed = 1;

	for (unsigned flags = 0; flags < 8; flags += 2) {
		int low = dup(0), high = fcntl(0, F_DUPFD, 300);
		CHECK(low > 2 && high >= 300);
		CHECK(!close_range(3, ~0u, (int)flags));
		int cloexec = (flags & CLOSE_RANGE_CLOEXEC) != 0;
		CHECK(is_open(low) == cloexec && is_open(high) == cloexec);
		CHECK(!cloexec ||
		      (fcntl(low, F_GETFD) == FD_CLOEXEC && fcntl(high, F_GETFD) == FD_CLOEXEC));
		goes_on(p, seed++);
		close(low);
		close(high);
	}
	int fd = fcntl(0, F_DUPFD, 300);
	CHECK(!close_range((unsigned)fd, (unsigned)fd, 0) && !is_open(fd));
	CHECK(close_range(5, 3, 0) == -1 && errno == EINVAL);
	CHECK(close_range(3, 5, 1) == -1 && errno == EINVAL);
	goes_on(p, seed);
}

void fd_dup2(void)
{
	char *p = filled();

	for (int fd = 3; fd < NUMBERS; fd++) {
		int got = fd % 2 ? dup2(1, fd) : dup3(1, fd, 0);
		CHECK(got == fd || (got == -1 && errno == EBADF));
	}
	goes_on(p, 1);
	CHECK(dup2(1, 1) == 1 && dup2(2999, 2999) == -1 && errno == EBADF);
	closefrom(3);
	goes_on(p, 2);
}

/* The low numbers are the program's, as they would be without the pager. */
void fd_own_numbers(void)
{
	int before[3];

	for (size_t i = 0; i < 3; i++)
		before[i] = dup(0);
	for (size_t i = 0; i < 3; i++)
		close(before[i]);
	char *p = filled();
	for (size_t i = 0; i < 3; i++)
		CHECK(dup(0) == before[i]);
	goes_on(p, 1);
}

static void child_execs(int raw)
{
	char *p = filled(), *argv[] = { "true", NULL };
	pid_t pid = fork();

	if (!pid) {
		if (raw)
			syscall(SYS_close_range, 4, ~0u, 0);
		else
			closefrom(4);
		execv("/bin/true", argv);
		_exit(9);
	}
	wait_for(pid);
	goes_on(p, 1);
}

void fd_fork_exec(void)
{
	child_execs(0);
}

void fd_raw_exec(void)
{
	child_execs(1);
}

void fd_fork_on(void)
{
	char *p = filled();
	pid_t pid = fork();

	if (!pid) {
		for (int fd = 3; fd < NUMBERS; fd++)
			close(fd);
		closefrom(3);
		goes_on(p, 1);
		pid = fork();
		if (!pid) {
			close_range(3, ~0u, CLOSE_RANGE_UNSHARE);
			goes_on(p, 2);
			_exit(0);
		}
		wait_for(pid);
		_exit(0);
	}
	wait_for(pid);
	goes_on(p, 1);
}

/* Between fork and exec within libc, and in a vforked child, which has its parent's memory. */
void fd_spawn(void)
{
	char *p = filled(), *argv[] = { "true", NULL };
	posix_spawn_file_actions_t actions;
	pid_t pid;

	CHECK(!posix_spawn_file_actions_init(&actions));
	CHECK(!posix_spawn_file_actions_addclosefrom_np(&actions, 3));
	CHECK(!posix_spawnp(&pid, "true", &actions, NULL, argv, environ));
	wait_for(pid);
	posix_spawn_file_actions_destroy(&actions);
	pid = vfork();
	if (!pid) {
		for (int fd = 3; fd < NUMBERS; fd++)
			close(fd);
		closefrom(3);
		execlp("true", "true", (char *)NULL);
		_exit(1);
	}
	wait_for(pid);
	goes_on(p, 1);
}

static _Atomic(int) stop;

static void *closes(void *arg)
{
	int own = dup(0);

	if (arg) /* of its own: the others keep theirs */
		CHECK(!close_range(3, ~0u, CLOSE_RANGE_UNSHARE) && !is_open(own));
	while (!stop) {
		closefrom(400);
		for (int fd = 400; fd < NUMBERS; fd++)
			close(fd);
	}
	return NULL;
}

void fd_threads(void)
{
	pthread_t thread[2];
	char *p = filled();
	int own = fcntl(0, F_DUPFD, 350);

	for (size_t i = 0; i < 2; i++)
		CHECK(!pthread_create(&thread[i], NULL, closes, i ? p : NULL));
	goes_on(p, 1);
	goes_on(p, 2);
	stop = 1;
	for (size_t i = 0; i < 2; i++)
		CHECK(!pthread_join(thread[i], NULL));
	CHECK(is_open(own));
}

/* Whoever reads from the other end is told that it is closed. */
void fd_pipe(void)
{
	char *p = filled(), byte;
	int ends[2], go[2];

	CHECK(!pipe(ends) && !pipe(go));
	CHECK(dup2(go[0], 0) == 0);
	pid_t pid = fork();
	if (!pid) {
		CHECK(!close_range(3, ~0u, CLOSE_RANGE_UNSHARE));
		CHECK(read(0, &byte, 1) == 1);
		goes_on(p, 1);
		_exit(0);
	}
	close(ends[1]);
	CHECK(read(ends[0], &byte, 1) == 0); /* while the child is there */
	CHECK(write(go[1], "", 1) == 1);
	wait_for(pid);
	goes_on(p, 1);
}

/* 125 before a page is read that does not hold what was written. */
static void read_to_the_end(const char *p)
{
	syscall(SYS_close_range, 3, ~0u, 0);
	for (int i = 0; i < 3; i++)
		CHECK(holds(p, size, 1));
	_exit(4);
}

void fd_raw(void)
{
	read_to_the_end(filled());
}

void fd_raw_fork(void)
{
	char *p = filled();
	pid_t pid = fork();
	int status;

	if (!pid)
		read_to_the_end(p);
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	CHECK(WEXITSTATUS(status) == 125);
	goes_on(p, 1);
}
