/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Streams. libc's fork, in the child, resets the lock of each open stream, before the child can
 * have its view of the paged memory. With an allocator whose chunks are taken over (jemalloc) a
 * stream could lie in them; so streams come from the private heap. Their buffers do not.
 */
#include <stdio.h>
#include <wchar.h>
#include "preload.h"

/* Call the next definition of a function that opens a stream. */
#define OPEN_STREAM(name, ...)                                                                     \
	static __typeof__(name) *real;                                                             \
	if (!real)                                                                                 \
		real = next_symbol(#name);                                                         \
	preload_inside++;                                                                          \
	FILE *stream = real(__VA_ARGS__);                                                          \
	preload_inside--;                                                                          \
	return stream

PRELOAD_EXPORT FILE *fopen(const char *path, const char *mode)
{
	OPEN_STREAM(fopen, path, mode);
}

PRELOAD_EXPORT FILE *fopen64(const char *path, const char *mode)
{
	OPEN_STREAM(fopen64, path, mode);
}

PRELOAD_EXPORT FILE *fdopen(int fd, const char *mode)
{
	OPEN_STREAM(fdopen, fd, mode);
}

PRELOAD_EXPORT FILE *tmpfile(void)
{
	OPEN_STREAM(tmpfile);
}

PRELOAD_EXPORT FILE *tmpfile64(void)
{
	OPEN_STREAM(tmpfile64);
}

PRELOAD_EXPORT FILE *popen(const char *command, const char *mode)
{
	OPEN_STREAM(popen, command, mode);
}

PRELOAD_EXPORT FILE *fopencookie(void *cookie, const char *mode, cookie_io_functions_t functions)
{
	OPEN_STREAM(fopencookie, cookie, mode, functions);
}
