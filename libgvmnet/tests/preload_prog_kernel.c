/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Scenarios of preload_prog: what the kernel does with a program's memory, or is told of it. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include "preload_prog.h"

/* Pages that lie in a pipe, by reference, while others come and go. */
void lent(void)
{
	const size_t part = 512 * 1024;
	char *p = map(size), *got = malloc(part);
	struct iovec iov = { p, part };
	int ends[2], one = 1, s = socket(AF_INET, SOCK_STREAM, 0);

	CHECK(got && !pipe(ends) && fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) >= (int)part);
	fill(p, size, 1);
	CHECK(vmsplice(ends[1], &iov, 1, 0) == (ssize_t)part);
	for (uint64_t i = 0; i < 3; i++) {
		fill(p + part, size - part, 2 + i);
		CHECK(holds(p + part, size - part, 2 + i));
	}
	for (size_t at = 0; at < part;) {
		ssize_t n = read(ends[0], got + at, part - at);
		CHECK(n > 0);
		at += (size_t)n;
	}
	CHECK(holds(got, part, 1) && holds(p, part, 1));
	CHECK(s >= 0 && !setsockopt(s, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof one));
	free(got);
}

/* What is not a hint is done or refused. */
void advices(void)
{
	char *p = map(size);

	fill(p, size, 1);
	CHECK(!madvise(p, size, MADV_PAGEOUT) && !madvise(p, size, MADV_POPULATE_READ));
	CHECK(holds(p, size, 1));
	/* of guard pages, and of the next thing that a kernel learns */
	CHECK(madvise(p, PAGE, 102) == -1 && errno == EINVAL);
	CHECK(madvise(p, PAGE, 250) == -1 && errno == EINVAL);
	CHECK(holds(p, size, 1));
	CHECK(!madvise(p + MIB, MIB, MADV_DONTNEED_LOCKED));
	CHECK(holds(p, MIB, 1) && zeros(p + MIB, MIB));
	CHECK(holds(p, MIB, 1));
}
