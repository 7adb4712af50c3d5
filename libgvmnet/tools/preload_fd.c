/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Descriptors of this library's, the pager's and the transport's, in the program's table. A program
 * may close what it does not know (closefrom, loops of close), and a userfaultfd that is closed
 * lets pages that are away read as zeros. So each number is noted here as soon as it is open, out
 * of the way of the low ones, and the program's calls pass it by. Any thread, any signal handler.
 *
 * A program that makes the system calls itself is not seen. Against it a thread, the keeper, holds
 * the userfaultfds in a table of its own: the kernel goes on to ask, the pager finds that its
 * number is gone, and ends the process before any page is wrong.
 *
 * Between the call that opens a descriptor and the note of it lies a microsecond; close() waits for
 * that to be over.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include "preload.h"

#define NUMBERS   (1u << 20) /* higher ones are not noted */
#define HIGHEST   1280u      /* a table of descriptors that is longer makes forks slower */
#define ROOM      256u
#define EXIT_LOST 125

static _Atomic(uint64_t) owned[NUMBERS / 64];
static _Atomic(unsigned) above;   /* every number of ours is below it */
static _Atomic(unsigned) opening; /* threads between opening one and noting it */

_Atomic(int) fd_threads;
__thread int fd_apart __attribute__((tls_model("initial-exec")));

/* ---- which numbers ------------------------------------------------------------------------- */

static int is_ours(unsigned fd)
{
	return fd < above && owned[fd / 64] >> fd % 64 & 1;
}

/* The first of ours from there on, or UINT_MAX. */
static unsigned next_ours(unsigned from)
{
	for (unsigned end = above; from < end; from++) {
		uint64_t rest = owned[from / 64] >> from % 64;

		if (rest)
			return from + (unsigned)__builtin_ctzll(rest);
		from |= 63;
	}
	return UINT_MAX;
}

static void note(unsigned fd)
{
	unsigned end = above;

	if (fd >= NUMBERS)
		return;
	owned[fd / 64] |= 1ull << fd % 64;
	while (end <= fd && !atomic_compare_exchange_weak(&above, &end, fd + 1))
		;
}

void fd_forget(int fd)
{
	if (fd >= 0 && (unsigned)fd < above)
		owned[fd / 64] &= ~(1ull << fd % 64);
}

/* The upper part of what the limit allows, and not far beyond what select() can have. */
static unsigned floor_now(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur > HIGHEST)
		return HIGHEST - ROOM;
	unsigned most = (unsigned)files.rlim_cur;
	return most >= 2 * ROOM ? most - ROOM : most / 2;
}

int fd_own(int fd)
{
	int saved = errno;

	if (fd < 0)
		return fd;
	int high = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, floor_now());
	if (high >= 0) {
		note((unsigned)high);
		syscall(SYS_close, fd);
		fd = high;
	} else {
		note((unsigned)fd); /* no room there: it stays where it is */
	}
	errno = saved;
	return fd;
}

int fd_all_there(void)
{
	for (unsigned fd = next_ours(0); fd != UINT_MAX; fd = next_ours(fd + 1))
		if (syscall(SYS_fcntl, fd, F_GETFD) < 0 && is_ours(fd))
			return 0;
	return 1;
}

int fd_keeps(int fd)
{
	if (!above || preload_inside)
		return 0;
	for (int i = 0; opening && i < 1000; i++)
		sched_yield();
	return fd >= 0 && is_ours((unsigned)fd);
}

/* ---- what this library opens and closes ---------------------------------------------------- */

#define OWNED(...)                                                                                 \
	opening++;                                                                                 \
	int fd = fd_own((int)syscall(__VA_ARGS__));                                                \
	opening--;                                                                                 \
	return fd

int __wrap_gvm_own_fd(int fd);
int __wrap_gvm_own_fd(int fd)
{
	return fd_own(fd);
}

int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	va_list ap;

	va_start(ap, flags);
	unsigned mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(ap, unsigned) : 0;
	va_end(ap);
	OWNED(SYS_openat, AT_FDCWD, path, flags, mode);
}

int __wrap_socket(int domain, int type, int protocol);
int __wrap_socket(int domain, int type, int protocol)
{
	OWNED(SYS_socket, domain, type, protocol);
}

/* It may wait for a connection: close() does not wait for that. */
int __wrap_accept4(int listener, struct sockaddr *address, socklen_t *len, int flags);
int __wrap_accept4(int listener, struct sockaddr *address, socklen_t *len, int flags)
{
	return fd_own((int)syscall(SYS_accept4, listener, address, len, flags));
}

int __wrap_epoll_create1(int flags);
int __wrap_epoll_create1(int flags)
{
	OWNED(SYS_epoll_create1, flags);
}

int __wrap_eventfd(unsigned start, int flags);
int __wrap_eventfd(unsigned start, int flags)
{
	OWNED(SYS_eventfd2, start, flags);
}

int __wrap_timerfd_create(int clock, int flags);
int __wrap_timerfd_create(int clock, int flags)
{
	OWNED(SYS_timerfd_create, clock, flags);
}

int __wrap_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags)
{
	OWNED(SYS_memfd_create, name, flags);
}

/* Those that a module of the transport's has opened become known when they are watched. */
int __wrap_epoll_ctl(int epoll, int what, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll, int what, int fd, struct epoll_event *event)
{
	int err = (int)syscall(SYS_epoll_ctl, epoll, what, fd, event);

	if (!err && what == EPOLL_CTL_ADD)
		note((unsigned)fd);
	return err;
}

int __wrap_close(int fd);
int __wrap_close(int fd)
{
	fd_forget(fd);
	return (int)syscall(SYS_close, fd);
}

/* ---- what the program closes --------------------------------------------------------------- */

PRELOAD_EXPORT int dup2(int from, int to)
{
	if (fd_keeps(to) && from != to) {
		say_once("dup2 to descriptor %d is refused: the pager has it", to);
		errno = EBADF; /* as for a number that is beyond the limit */
		return -1;
	}
	if (from != to)
		return (int)syscall(SYS_dup3, from, to, 0);
	return syscall(SYS_fcntl, from, F_GETFD) < 0 ? -1 : to;
}

PRELOAD_EXPORT int dup3(int from, int to, int flags)
{
	if (fd_keeps(to) && from != to) {
		say_once("dup3 to descriptor %d is refused: the pager has it", to);
		errno = EBADF;
		return -1;
	}
	return (int)syscall(SYS_dup3, from, to, flags);
}

static int sys_close_range(unsigned first, unsigned last, unsigned flags)
{
	return (int)syscall(SYS_close_range, first, last, flags);
}

/* Is there no other thread but this one and those of ours, which share its table? */
static int alone(void)
{
	struct stat st;

	return !stat("/proc/self/task", &st) && st.st_nlink <= 3 + (nlink_t)fd_threads;
}

PRELOAD_EXPORT int unshare(int flags)
{
	int err = (int)syscall(SYS_unshare, flags);

	if (!err && flags & CLONE_FILES)
		fd_apart = 1;
	return err;
}

/* All but ours of [first, last]. */
static int close_between(unsigned first, unsigned last)
{
	for (;;) {
		unsigned ours = next_ours(first);

		if (ours > last || ours == UINT_MAX)
			return sys_close_range(first, last, 0);
		if (ours > first && sys_close_range(first, ours - 1, 0))
			return -1;
		if (ours == last)
			return 0;
		first = ours + 1;
	}
}

/*
 * CLOSE_RANGE_UNSHARE protects the descriptors of others in the process. Where these are our
 * threads only, the program shares its table with them as it believes that it has it alone: the
 * other ends of its pipes would otherwise never see what it closes.
 */
PRELOAD_EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	const int known = CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC;

	if (preload_inside || !above || first > last || flags & ~known)
		return sys_close_range(first, last, (unsigned)flags);
	fd_keeps(-1);
	if (flags & CLOSE_RANGE_UNSHARE && !alone() && unshare(CLONE_FILES))
		return -1;
	if (flags & CLOSE_RANGE_CLOEXEC) /* ours are so already */
		return sys_close_range(first, last, CLOSE_RANGE_CLOEXEC);
	return close_between(first, last);
}

PRELOAD_EXPORT void closefrom(int first)
{
	close_range(first < 0 ? 0 : (unsigned)first, UINT_MAX, 0);
}

/* ---- the keeper ---------------------------------------------------------------------------- */

#define KEPT 256

static struct {
	unsigned fd[KEPT]; /* ascending */
	unsigned count;
	uint32_t ready;
	_Atomic(int) holds;
} keeper;

static void find_uffds(void)
{
	char path[32], what[64];

	keeper.count = 0;
	for (unsigned fd = next_ours(0); fd != UINT_MAX; fd = next_ours(fd + 1)) {
		snprintf(path, sizeof path, "/proc/self/fd/%u", fd);
		ssize_t n = readlink(path, what, sizeof what - 1);
		what[n > 0 ? n : 0] = 0;
		if (strstr(what, "[userfaultfd]") && keeper.count < KEPT)
			keeper.fd[keeper.count++] = fd;
	}
}

static void *keeper_main(void *arg)
{
	/* one call makes the table this thread's own: unshare is not allowed everywhere */
	int apart =
	    !sys_close_range(keeper.fd[keeper.count - 1] + 1, UINT_MAX, CLOSE_RANGE_UNSHARE);

	for (unsigned i = 0, from = 0; apart && i < keeper.count; from = keeper.fd[i++] + 1)
		if (keeper.fd[i] > from)
			sys_close_range(from, keeper.fd[i] - 1, 0);
	prctl(PR_SET_NAME, "gvm-keeper");
	keeper.holds = apart;
	__atomic_store_n(&keeper.ready, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &keeper.ready, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	if (!apart)
		return arg;
	for (;;)
		pause(); /* all signals are blocked */
}

void fd_keep(void)
{
	const struct timespec most = { .tv_sec = 1 };
	pthread_attr_t attr;
	pthread_t thread;

	find_uffds();
	keeper.ready = 0;
	if (!keeper.count || pthread_attr_init(&attr))
		return;
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&thread, &attr, keeper_main, NULL))
		say("no thread can be started that guards the pager's descriptors");
	else if (!__atomic_load_n(&keeper.ready, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, &keeper.ready, FUTEX_WAIT_PRIVATE, 0, &most, NULL, 0);
	pthread_attr_destroy(&attr);
}

void fd_drop(int (*keep)(int fd))
{
	for (unsigned fd = next_ours(0); fd != UINT_MAX; fd = next_ours(fd + 1)) {
		if (keep((int)fd))
			continue;
		fd_forget((int)fd);
		syscall(SYS_close, fd);
	}
}

void fd_fork_child(void)
{
	opening = 0;
	fd_threads = 0;
	keeper.holds = 0;
}

void __wrap_gvm_fd_lost(const char *what) __attribute__((noreturn));
void __wrap_gvm_fd_lost(const char *what)
{
	const struct timespec most = { .tv_nsec = 500000000 };

	/* Who has closed all may be about to become another program. Nobody reads a wrong page
	 * meanwhile: who needs one waits. */
	if (keeper.holds)
		nanosleep(&most, NULL);
	say("this process ends: it closed a descriptor of the pager's (%s) by a bare system call, "
	    "and "
	    "its memory could not be had any more; it must leave numbers that it did not open, or "
	    "close them by the C library's close, close_range or closefrom",
	    what);
	raw_exit(EXIT_LOST);
}
