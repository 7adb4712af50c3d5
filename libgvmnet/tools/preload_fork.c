/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * fork. The child must have its view of the paged memory before anything in it touches a page. The
 * handlers of pthread_atfork run within libc's fork and may touch some (an allocator's do), so they
 * are kept here and run around ours: prepare handlers, the pager comes to rest, fork, the child's
 * view, child handlers. vfork and posix_spawn share the parent's memory and need nothing.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utmp.h>
#include "preload.h"

struct handler {
	void (*prepare)(void);
	void (*parent)(void);
	void (*child)(void);
	void *dso;
};

/* Grows for as long as the program lives: libraries register once each. */
static struct {
	pthread_mutex_t lock;
	struct handler *at;
	size_t count, room;
} handlers = { .lock = PTHREAD_MUTEX_INITIALIZER };

int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *dso);
PRELOAD_EXPORT int __register_atfork(void (*prepare)(void), void (*parent)(void),
				     void (*child)(void), void *dso)
{
	int err = 0;

	pthread_mutex_lock(&handlers.lock);
	if (handlers.count == handlers.room) {
		size_t room = handlers.room ? handlers.room * 2 : 32;
		struct handler *at = heap_realloc(handlers.at, room * sizeof *at);
		if (at) {
			handlers.at = at;
			handlers.room = room;
		} else {
			err = ENOMEM;
		}
	}
	if (!err)
		handlers.at[handlers.count++] = (struct handler){ prepare, parent, child, dso };
	pthread_mutex_unlock(&handlers.lock);
	return err;
}

/* A library that is being unloaded takes its handlers with it. */
static void (*next_finalize)(void *dso);

void __cxa_finalize(void *dso);
PRELOAD_EXPORT void __cxa_finalize(void *dso)
{
	size_t kept = 0;

	if (dso) {
		pthread_mutex_lock(&handlers.lock);
		for (size_t i = 0; i < handlers.count; i++)
			if (handlers.at[i].dso != dso)
				handlers.at[kept++] = handlers.at[i];
		handlers.count = kept;
		pthread_mutex_unlock(&handlers.lock);
	}
	if (!next_finalize)
		next_finalize = next_symbol("__cxa_finalize");
	if (next_finalize)
		next_finalize(dso);
}

/* libc holds the list of its streams while it flushes them all, perhaps from paged memory; its own
 * fork wants that list when the pager rests already. So it is taken before. */
void _IO_list_lock(void) __attribute__((weak));
void _IO_list_unlock(void) __attribute__((weak));

typedef pid_t fork_fn(void);

static pid_t paged_fork(fork_fn *real)
{
	struct take_guard guard;
	int streams = _IO_list_lock && _IO_list_unlock && take_pager();

	if (streams)
		_IO_list_lock();
	shared_fork_prepare();
	take_lock(&guard);
	env_fork_prepare();
	int prepared = take_fork_prepare();
	pid_t pid = -1;
	if (prepared >= 0) {
		heap_lock();
		pid = real();
		if (pid)
			heap_unlock();
	}
	int saved = prepared < 0 ? ENOMEM : errno;
	if (pid == 0) {
		take_fork_child(prepared);
	} else {
		if (prepared > 0)
			take_fork_parent(pid > 0);
		else if (pid > 0)
			report_fork_parent();
		if (streams)
			_IO_list_unlock();
	}
	errno = saved;
	take_unlock(&guard);
	if (pid)
		shared_fork_parent();
	else
		shared_fork_child();
	return pid;
}

static pid_t handled_fork(fork_fn *real)
{
	size_t count;

	pthread_mutex_lock(&handlers.lock);
	count = handlers.count;
	for (size_t i = count; i-- > 0;)
		if (handlers.at[i].prepare)
			handlers.at[i].prepare();
	pid_t pid = paged_fork(real);
	if (pid == 0)
		pthread_mutex_init(&handlers.lock, NULL);
	for (size_t i = 0; i < count; i++) {
		void (*fn)(void) = pid ? handlers.at[i].parent : handlers.at[i].child;
		if (fn)
			fn();
	}
	if (pid)
		pthread_mutex_unlock(&handlers.lock);
	return pid;
}

static fork_fn *real_fork(const char *name)
{
	return (fork_fn *)next_symbol(name);
}

PRELOAD_EXPORT pid_t fork(void)
{
	static fork_fn *real;

	if (!real)
		real = real_fork("fork");
	return handled_fork(real);
}

pid_t __fork(void);
PRELOAD_EXPORT pid_t __fork(void) __attribute__((alias("fork"), nothrow));

/* The fork that may be called in a signal handler: no handlers run. */
PRELOAD_EXPORT pid_t _Fork(void)
{
	static fork_fn *real;

	if (!real)
		real = real_fork("_Fork");
	if (!real) {
		errno = ENOSYS;
		return -1;
	}
	return paged_fork(real);
}

/* libc's own daemon and forkpty call its fork, not ours. */
PRELOAD_EXPORT int daemon(int nochdir, int noclose)
{
	pid_t pid = fork();

	if (pid < 0)
		return -1;
	if (pid > 0)
		raw_exit(0);
	if (setsid() < 0)
		return -1;
	if (!nochdir && chdir("/"))
		return -1;
	if (noclose)
		return 0;
	int fd = (int)syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR); /* not ours */
	if (fd < 0)
		return -1;
	for (int to = 0; to < 3; to++)
		dup2(fd, to);
	if (fd > 2)
		close(fd);
	return 0;
}

PRELOAD_EXPORT int forkpty(int *master, char *name, const struct termios *termios,
			   const struct winsize *size)
{
	int parent, child;

	if (openpty(&parent, &child, name, termios, size))
		return -1;
	pid_t pid = fork();
	if (pid < 0) {
		close(parent);
		close(child);
		return -1;
	}
	if (pid) {
		close(child);
		*master = parent;
		return pid;
	}
	close(parent);
	if (login_tty(child))
		raw_exit(1);
	return 0;
}

/* A clone that copies the memory is a fork that nobody follows. */
PRELOAD_EXPORT int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
{
	static int (*real)(int (*)(void *), void *, int, void *, ...);
	va_list ap;

	va_start(ap, arg);
	void *ptid = va_arg(ap, void *), *tls = va_arg(ap, void *), *ctid = va_arg(ap, void *);
	va_end(ap);
	if (!(flags & CLONE_VM) && take_pager()) {
		say_once(
		    "clone without CLONE_VM is refused: the child could not see the paged memory; "
		    "fork can be used");
		errno = ENOSYS;
		return -1;
	}
	if (!real)
		real = (int (*)(int (*)(void *), void *, int, void *, ...))next_symbol("clone");
	return real(fn, stack, flags, arg, ptid, tls, ctid);
}
