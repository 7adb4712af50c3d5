/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Scenarios of preload_prog: mappings whose shape changes. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include "preload_prog.h"

void remap(void)
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

/* What cannot be moved leaves what is at both ends as it was. */
void moved_in_vain(void)
{
	size_t big = 32 * MIB;
	char *p = map(big), *q = map(big), *r = map(big), *small_one;
	char *both = mmap(NULL, 4 * PAGE, RW, ANON, -1, 0);

	fill(p, big, 1);
	fill(q, big, 2);
	fill(r, big, 4);
	/* over itself, without leave to move, to an odd place */
	CHECK(mremap(p, big, big, MREMAP_MAYMOVE | MREMAP_FIXED, p + MIB) == MAP_FAILED &&
	      errno == EINVAL);
	CHECK(mremap(p, big / 2, big / 2, MREMAP_MAYMOVE | MREMAP_FIXED, p + big / 4) ==
		  MAP_FAILED &&
	      errno == EINVAL);
	CHECK(mremap(p, big, big, MREMAP_FIXED, q) == MAP_FAILED && errno == EINVAL);
	CHECK(mremap(p, big, big, MREMAP_MAYMOVE | MREMAP_FIXED, q + 1) == MAP_FAILED &&
	      errno == EINVAL);
	/* from where nothing is, and from over the end of what is paged */
	CHECK(!munmap(both + PAGE, PAGE));
	CHECK(mremap(both, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q) == MAP_FAILED &&
	      errno == EFAULT);
	CHECK(mremap(p + MIB, big, big, MREMAP_MAYMOVE | MREMAP_FIXED, r) == MAP_FAILED &&
	      errno == EFAULT);
	CHECK(holds(p, big, 1) && holds(q, big, 2) && holds(r, big, 4));
	/* and what can be */
	small_one = mmap(NULL, 2 * PAGE, RW, ANON, -1, 0);
	fill(small_one, 2 * PAGE, 3);
	CHECK(mremap(small_one, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q + MIB) ==
	      q + MIB);
	CHECK(holds(q + MIB, 2 * PAGE, 3) && zeros(q + MIB + 2 * PAGE, 2 * PAGE));
	CHECK(faults(small_one) && holds(q, MIB, 2));
	CHECK(*(uint64_t *)(q + 2 * MIB + 2 * MIB / PAGE % 500 * 8) == 2 * 1000003 + 2 * MIB + 1);
}

/* Huge pages that the system does not have are not in local memory. */
void huge_in_vain(void)
{
	CHECK(mmap(NULL, 1ul << 40, RW, ANON | MAP_HUGETLB, -1, 0) == MAP_FAILED);
	CHECK(holds(map(4 * MIB), 0, 0));
}

/* A heap of code and data, as some runtimes have: reserved, then opened. */
void executable_heap(void)
{
	char *p = mmap(NULL, 64 * MIB, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);

	CHECK(p != MAP_FAILED && !mprotect(p, 64 * MIB, RW | PROT_EXEC));
	fill(p, 64 * MIB, 1);
	CHECK(holds(p, 64 * MIB, 1));
}

/* A heap that is opened in pieces that are too small. */
void small_pieces(void)
{
	char *p = mmap(NULL, 64 * MIB, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);

	CHECK(p != MAP_FAILED);
	for (size_t at = 0; at < 64 * MIB; at += MIB)
		CHECK(!mprotect(p + at, MIB, RW));
	fill(p, 64 * MIB, 1);
	CHECK(holds(p, 64 * MIB, 1));
}

/* Who writes a core by reading the mappings leaves out what says "dd" of itself. */
void dump_is_small(void)
{
	FILE *maps;
	char line[512];
	unsigned long kib = 0;
	int seen = 0;

	fill(map(size), size, 1);
	maps = fopen("/proc/self/smaps", "r");
	CHECK(maps != NULL);
	while (fgets(line, sizeof line, maps)) {
		sscanf(line, "Size: %lu kB", &kib);
		if (strncmp(line, "VmFlags:", 8) || kib < 1ul << 20)
			continue;
		seen++;
		CHECK(strstr(line, " dd") != NULL);
	}
	fclose(maps);
	CHECK(seen > 0);
}

/* An address that fits into 32 bits is no hint. */
void low(void)
{
	for (size_t bytes = 2 * MIB; bytes <= 64 * MIB; bytes *= 2) {
		char *p = mmap(NULL, bytes, RW, ANON | MAP_32BIT, -1, 0);

		CHECK(p != MAP_FAILED && (uintptr_t)p < 1ul << 31);
		fill(p, bytes, 1);
		CHECK(holds(p, bytes, 1) && !munmap(p, bytes));
	}
}

void limited(void)
{
	struct rlimit limit;

	CHECK(!getrlimit(RLIMIT_DATA, &limit));
	limit.rlim_cur = 32 * MIB;
	CHECK(!setrlimit(RLIMIT_DATA, &limit));
	CHECK(mmap(NULL, 64 * MIB, RW, ANON, -1, 0) == MAP_FAILED && errno == ENOMEM);
}

void partial_unmap(void)
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

void discards(void)
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

void protect(void)
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
void qemu_like(void)
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

void reserve_then_open(void)
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
