/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The calls by which programs come to a POSIX shared memory object: shm_open and shm_unlink, and
 * what does the same by the name /dev/shm/NAME. What is not shared goes to the C library.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "preload.h"

#define FOLDER "/dev/shm/"
#define NEXT(name)                                                                                 \
	static __typeof__(name) *real;                                                             \
	if (!real)                                                                                 \
	real = (__typeof__(real))next_symbol(#name)

static int looks(void)
{
	return !preload_inside && preload_active && *preload_policy.names;
}

/* What is behind the folder's name, if it is a file in it; else NULL. */
static const char *in_folder(const char *path)
{
	if (!looks() || strncmp(path, FOLDER, strlen(FOLDER)) != 0)
		return NULL;
	path += strlen(FOLDER);
	return *path && !strchr(path, '/') ? path : NULL;
}

/* As the C library: any number of slashes in front. */
static const char *bare(const char *name)
{
	return name + strspn(name, "/");
}

static unsigned mode_of(int flags, va_list ap)
{
	return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(ap, unsigned) : 0;
}

PRELOAD_EXPORT int shm_open(const char *name, int flags, mode_t mode)
{
	NEXT(shm_open);
	int fd;

	return looks() && shared_opens(bare(name), flags, &fd) ? fd : real(name, flags, mode);
}

PRELOAD_EXPORT int shm_unlink(const char *name)
{
	NEXT(shm_unlink);
	int err;

	return looks() && shared_unlinks(bare(name), &err) ? err : real(name);
}

PRELOAD_EXPORT int open(const char *path, int flags, ...)
{
	NEXT(open);
	const char *name = in_folder(path);
	va_list ap;
	int fd;

	va_start(ap, flags);
	unsigned mode = mode_of(flags, ap);
	va_end(ap);
	return name && shared_opens(name, flags, &fd) ? fd : real(path, flags, mode);
}

PRELOAD_EXPORT int open64(const char *path, int flags, ...) __attribute__((alias("open")));

PRELOAD_EXPORT int openat(int dir, const char *path, int flags, ...)
{
	NEXT(openat);
	const char *name = in_folder(path);
	va_list ap;
	int fd;

	va_start(ap, flags);
	unsigned mode = mode_of(flags, ap);
	va_end(ap);
	return name && shared_opens(name, flags, &fd) ? fd : real(dir, path, flags, mode);
}

PRELOAD_EXPORT int openat64(int dir, const char *path, int flags, ...)
    __attribute__((alias("openat")));

/* What they are called by when they were compiled with _FORTIFY_SOURCE. */
int __open_2(const char *path, int flags);
PRELOAD_EXPORT int __open_2(const char *path, int flags)
{
	NEXT(__open_2);
	const char *name = in_folder(path);
	int fd;

	return name && shared_opens(name, flags, &fd) ? fd : real(path, flags);
}

int __open64_2(const char *path, int flags);
PRELOAD_EXPORT int __open64_2(const char *path, int flags) __attribute__((alias("__open_2")));

PRELOAD_EXPORT int unlink(const char *path)
{
	NEXT(unlink);
	const char *name = in_folder(path);
	int err;

	return name && shared_unlinks(name, &err) ? err : real(path);
}
