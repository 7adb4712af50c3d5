/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Streams. libc's fork, in the child, resets the lock of each open stream, before the child can
 * have its view of the paged memory. With an allocator whose chunks are taken over (jemalloc) a
 * stream could lie in them; so streams come from the private heap. Their buffers do not.
 *
 * And what they read and write libc does past all interposition, so that there must be none on a
 * file whose mapping is paged, and no such mapping of a file with a stream.
 */
#include <errno.h>
#include <stdio.h>
#include <wchar.h>
#include "preload.h"

/* What a stream reads and writes goes past us: a file whose mapping is paged has none. */
static int refused(int fd)
{
	if (preload_inside || !take_has_files() || !take_knows(fd))
		return 0;
	say_once("a stream on a file whose mapping is paged is refused: it would read and write "
		 "the file, which does not hold what the mapping holds");
	errno = ENOTSUP;
	return 1;
}

static FILE *noted(FILE *stream)
{
	int fd = stream && !preload_inside && preload_active ? fileno(stream) : -1;

	if (fd < 0)
		return stream;
	if (refused(fd)) {
		fclose(stream);
		errno = ENOTSUP;
		return NULL;
	}
	take_note_stream(fd);
	return stream;
}

/* Call the next definition of a function that opens a stream. */
#define OPEN_STREAM(name, ...)                                                                     \
	static __typeof__(name) *real;                                                             \
	if (!real)                                                                                 \
		real = next_symbol(#name);                                                         \
	preload_inside++;                                                                          \
	FILE *stream = real(__VA_ARGS__);                                                          \
	preload_inside--;                                                                          \
	return noted(stream)

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
	if (refused(fd))
		return NULL;
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
	env_restore();
	report_fork_parent();
	OPEN_STREAM(popen, command, mode);
}

PRELOAD_EXPORT FILE *fopencookie(void *cookie, const char *mode, cookie_io_functions_t functions)
{
	OPEN_STREAM(fopencookie, cookie, mode, functions);
}
