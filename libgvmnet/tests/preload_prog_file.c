/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * preload_prog's files: in memory, mapped, and meanwhile read, written, cut, unmapped and mapped
 * again by all the calls that there are. But for what is refused, a kernel does the same.
 */
#include <aio.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include "preload_prog.h"

/* A memfd of "size" with a mapping of it, filled with 1. */
static char *filled_memfd(int *fd)
{
	*fd = memfd_create("guest-ram", MFD_CLOEXEC);
	CHECK(*fd >= 0 && !ftruncate(*fd, (off_t)size));
	char *p = mmap(NULL, size, RW, MAP_SHARED, *fd, 0);
	CHECK(p != MAP_FAILED);
	fill(p, size, 1);
	return p;
}

/* Read all of a file, by its position, into a new mapping. */
static char *read_all(int fd)
{
	char *q = map(size);
	size_t done = 0;

	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	for (ssize_t n; done < size && (n = read(fd, q + done, size - done)) > 0;)
		done += (size_t)n;
	CHECK(done == size && read(fd, q, 1) == 0 && lseek(fd, 0, SEEK_CUR) == (off_t)size);
	return q;
}

/* What is written to the mapping is read from the file, and the other way round, by each call and
 * descriptor. */
void file_io(void)
{
	char path[64], word[16] = "", big[3 * PAGE], *volatile nowhere = (char *)16;
	int fd, ro, pipes[2];
	char *p = filled_memfd(&fd), *q = read_all(fd);

	CHECK(holds(q, size, 1));
	fill(q, size, 2);
	CHECK(lseek(fd, 0, SEEK_SET) == 0 && write(fd, q, size) == (ssize_t)size &&
	      holds(p, size, 2));
	CHECK(lseek(fd, 0, SEEK_CUR) == (off_t)size);
	memcpy(p + MIB - 3, "straddle", 8);
	CHECK(pread(fd, word, 8, MIB - 3) == 8 && !memcmp(word, "straddle", 8));
	CHECK(pwrite(fd, "written!", 8, 2 * MIB - 5) == 8 &&
	      !memcmp(p + 2 * MIB - 5, "written!", 8));
	struct iovec parts[3] = { { word, 3 }, { NULL, 0 }, { word + 8, 5 } };
	CHECK(preadv(fd, parts, 3, 2 * MIB - 5) == 8 && !memcmp(word, "wri", 3) &&
	      !memcmp(word + 8, "tten!", 5));
	CHECK(pwritev(fd, parts, 3, 4 * MIB) == 8 && !memcmp(p + 4 * MIB, "written!", 8));
	CHECK(lseek(fd, MIB - 3, SEEK_SET) == MIB - 3 && readv(fd, parts, 1) == 3);
	CHECK(!memcmp(word, "str", 3) && writev(fd, parts, 1) == 3 && !memcmp(p + MIB, "str", 3));
	/* into itself, over a page that is far away */
	CHECK(pread(fd, p + 5 * MIB, 8, 4 * MIB) == 8 && !memcmp(p + 5 * MIB, "written!", 8));
	/* other descriptors */
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	int twin = dup(fd);
	CHECK(ro >= 0 && twin >= 0 && read(ro, big, sizeof big) == sizeof big);
	CHECK(!memcmp(big, p, sizeof big) && lseek(ro, 0, SEEK_CUR) == sizeof big);
	CHECK(pread(twin, word, 8, 4 * MIB) == 8 && !memcmp(word, "written!", 8));
	/* what cannot be */
	CHECK(write(ro, "x", 1) == -1 && errno == EBADF);
	CHECK(pread(fd, nowhere, 8, 0) == -1 && errno == EFAULT);
	CHECK(pwrite(fd, nowhere, 8, 0) == -1 && errno == EFAULT &&
	      *(uint64_t *)p == 2 * 1000003 + 1);
	CHECK(pread(fd, word, 8, -1) == -1 && errno == EINVAL);
	CHECK(pread(fd, word, 8, (off_t)size) == 0 && pread(fd, word, 8, (off_t)size - 3) == 3);
	/* protected from the program, not from the file's other users */
	CHECK(!mprotect(p, MIB, PROT_NONE) && pwrite(fd, "hidden", 6, 100) == 6);
	CHECK(pread(fd, word, 6, 100) == 6 && !memcmp(word, "hidden", 6) && faults(p));
	CHECK(!mprotect(p, MIB, RW) && !memcmp(p + 100, "hidden", 6));
	/* moved within the kernel: refused, as where it cannot be done */
	CHECK(!pipe(pipes));
	off_t at = 0;
	CHECK(sendfile(pipes[1], fd, &at, PAGE) == -1 && errno == EINVAL);
	CHECK(splice(fd, &at, pipes[1], NULL, PAGE, 0) == -1 && errno == EINVAL);
	int other = memfd_create("other", MFD_CLOEXEC);
	CHECK(copy_file_range(fd, &at, other, NULL, PAGE, 0) == -1 && errno == EXDEV);
	CHECK(!fdopen(dup(fd), "r") && errno == ENOTSUP && !fopen(path, "r") && errno == ENOTSUP);
	struct aiocb cb = { .aio_fildes = fd, .aio_buf = word, .aio_nbytes = 8 };
	CHECK(aio_read(&cb) == -1 && errno == ENOSYS);
	/* and other files are as ever */
	CHECK(write(other, "plain", 5) == 5 && pread(other, word, 5, 0) == 5 &&
	      !memcmp(word, "plain", 5));
	CHECK(sendfile(pipes[1], other, &at, 5) == 5 && read(pipes[0], word, 5) == 5);
}

/* A file's size, holes, seals and appended data. */
void file_size(void)
{
	char word[16];
	int fd;
	char *p = filled_memfd(&fd);
	struct stat st;

	CHECK(!fstat(fd, &st) && st.st_size == (off_t)size);
	CHECK(lseek(fd, 0, SEEK_DATA) == 0 && lseek(fd, PAGE, SEEK_HOLE) == (off_t)size);
	CHECK(lseek(fd, (off_t)size, SEEK_DATA) == -1 && errno == ENXIO);
	/* beyond the mapping it is a file */
	CHECK(pwrite(fd, "beyond", 6, (off_t)size) == 6 && pread(fd, word, 16, (off_t)size) == 6);
	CHECK(!memcmp(word, "beyond", 6) && !fstat(fd, &st) && st.st_size == (off_t)size + 6);
	memcpy(p + size - 4, "last", 4);
	CHECK(pread(fd, word, 16, (off_t)size - 4) == 10 && !memcmp(word, "lastbeyond", 10));
	CHECK(pwrite(fd, "across-it", 9, (off_t)size - 4) == 9 && !memcmp(p + size - 4, "acro", 4));
	CHECK(pread(fd, word, 16, (off_t)size) == 6 && !memcmp(word, "ss-itd", 6));
	CHECK(!fcntl(fd, F_SETFL, O_APPEND) && write(fd, "more", 4) == 4 && !fcntl(fd, F_SETFL, 0));
	CHECK(pread(fd, word, 16, (off_t)size) == 10 && !memcmp(word, "ss-itdmore", 10));
	/* holes and a smaller size read as zeros, also when it grows again, to the byte */
	fill(p, size, 3);
	memset(p + MIB, 7, 3 * PAGE);
	CHECK(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, MIB + 100, 2 * PAGE));
	CHECK(p[MIB + 99] == 7 && !p[MIB + 100] && zeros(p + MIB + PAGE, PAGE));
	CHECK(!p[MIB + 2 * PAGE + 99] && p[MIB + 2 * PAGE + 100] == 7);
	memset(p + 2 * MIB, 7, PAGE);
	CHECK(!ftruncate(fd, 2 * MIB + 10) && pread(fd, word, 16, 2 * MIB) == 10);
	CHECK(!ftruncate(fd, (off_t)size));
	CHECK(p[2 * MIB + 9] == 7 && !p[2 * MIB + 10] && zeros(p + 3 * MIB, size - 3 * MIB));
	CHECK(pread(fd, word, 16, 2 * MIB + 8) == 16 && word[1] == 7 && !word[2]);
	CHECK(!ftruncate(fd, 3 * MIB) && pwrite(fd, "grown", 5, 4 * MIB) == 5);
	CHECK(!memcmp(p + 4 * MIB, "grown", 5) && !fstat(fd, &st) && st.st_size == 4 * MIB + 5);
	/* what the kernel would refuse of a file that is mapped */
	int sealed = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK(!ftruncate(sealed, (off_t)size));
	p = mmap(NULL, size, RW, MAP_SHARED, sealed, 0);
	CHECK(p != MAP_FAILED && fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE) == -1 && errno == EBUSY);
	CHECK(!fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK));
}

/* Unmapped, read, and mapped again: the file has kept it. */
void file_again(void)
{
	int fd, other;
	char *p = filled_memfd(&fd), *q, word[8];

	CHECK(!munmap(p, size) && faults(p));
	q = read_all(fd);
	CHECK(holds(q, size, 1) && pwrite(fd, q, MIB, 0) == MIB);
	p = mmap(NULL, size, RW, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED && holds(p, size, 1));
	fill(p, size, 4);
	/* a part, and the whole of it at another place */
	CHECK(!munmap(p + MIB, 2 * MIB) && faults(p + MIB) && holds(p, MIB, 4));
	CHECK(mmap(p + MIB, 2 * MIB, RW, MAP_SHARED | MAP_FIXED, fd, MIB) == p + MIB);
	CHECK(holds(p, size, 4) && !munmap(p, size));
	char *to = mmap(NULL, size, PROT_NONE, ANON, -1, 0);
	CHECK(mmap(to, size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == to && holds(to, size, 4));
	CHECK(faults(to) && !mprotect(to, size, RW));
	fill(to, size, 5);
	/* another mapping over it: the file still has it */
	CHECK(mmap(to, size, RW, ANON | MAP_FIXED, -1, 0) == to && zeros(to, size));
	fill(to, size, 6);
	q = read_all(fd);
	CHECK(holds(q, size, 5) && holds(to, size, 6));
	/* over a part of it: not possible without losing the rest */
	p = mmap(NULL, size, RW, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED && holds(p, size, 5));
	CHECK(mmap(p, MIB, RW, ANON | MAP_FIXED, -1, 0) == MAP_FAILED && errno == ENOMEM);
	/* larger, with data in what is new */
	CHECK(!munmap(p, size) && !ftruncate(fd, (off_t)(2 * size)));
	CHECK(pwrite(fd, "in the file", 8, (off_t)(size + MIB)) == 8);
	p = mmap(NULL, 2 * size, RW, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED && holds(p, size, 5) && !memcmp(p + size + MIB, "in the f", 8));
	CHECK(zeros(p + size, MIB));
	fill(p, 2 * size, 7);
	CHECK(pread(fd, word, 8, (off_t)size) == 8 && !memcmp(word, p + size, 8));
	CHECK(!ftruncate(fd, (off_t)(3 * size)));
	p = mremap(p, 2 * size, 3 * size, MREMAP_MAYMOVE);
	CHECK(p != MAP_FAILED && holds(p, 2 * size, 7) && zeros(p + 2 * size, size));
	fill(p + 2 * size, size, 8);
	CHECK(mremap(p, 3 * size, 2 * size, 0) == p && pread(fd, word, 8, (off_t)(2 * size)) == 8);
	CHECK(*(uint64_t *)word == 8 * 1000003 + 1);
	CHECK(mremap(p, 2 * size, 3 * size, MREMAP_MAYMOVE) == MAP_FAILED && errno == ENOTSUP);
	/* the second mapping at a time is refused; the end of the last descriptor ends it all */
	CHECK(mmap(NULL, size, RW, MAP_SHARED, fd, 0) == MAP_FAILED && errno == ENOTSUP);
	CHECK(!munmap(p, 2 * size) && (other = dup(fd)) >= 0 && !close(fd));
	p = mmap(NULL, 2 * size, RW, MAP_SHARED, other, 0);
	CHECK(p != MAP_FAILED && holds(p, 2 * size, 7) && !munmap(p, 2 * size) && !close(other));
	CHECK(faults(p));
}

/* A forked child cannot see it, and is told so rather than shown zeros. */
void file_fork(void)
{
	int fd, parked;
	char *p = filled_memfd(&fd), word[8] = "";

	CHECK(!munmap(filled_memfd(&parked), size));
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		CHECK(pread(fd, word, 8, 0) == -1 && errno == EIO);
		CHECK(write(fd, "x", 1) == -1 && errno == EIO);
		CHECK(mmap(NULL, size, RW, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EIO);
		CHECK(pread(parked, word, 8, 0) == -1 && errno == EIO);
		char *q = filled_memfd(&fd); /* of its own */
		CHECK(holds(q, size, 1) && pread(fd, word, 8, 0) == 8 && !memcmp(word, q, 8));
		_exit(0);
	}
	wait_for(pid);
	CHECK(holds(p, size, 1) && pread(parked, word, 8, 0) == 8 && !memcmp(word, p, 8));
}

/* A stream from before the mapping: then the file stays as it is. */
void file_stream(void)
{
	int fd = memfd_create("with-a-stream", MFD_CLOEXEC);
	FILE *stream = fdopen(dup(fd), "r+");
	char word[8];

	CHECK(stream && !ftruncate(fd, (off_t)size));
	char *p = mmap(NULL, size, RW, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED);
	memcpy(p + MIB, "mapping", 8);
	CHECK(!fseek(stream, MIB, SEEK_SET) && fread(word, 1, 8, stream) == 8);
	CHECK(!memcmp(word, "mapping", 8) && !fclose(stream));
}

#define WRITERS 3u

/* Pages of its own, which hold what it wrote whenever it looks. */
static void *file_writer(void *arg)
{
	unsigned fd = (unsigned)(uintptr_t)arg / WRITERS, me = (unsigned)(uintptr_t)arg % WRITERS;
	char wrote[PAGE], found[PAGE];

	for (unsigned round = 1; round <= 2; round++)
		for (size_t page = me; page < size / PAGE; page += WRITERS) {
			off_t at = (off_t)(page * PAGE);
			memset(wrote, (int)(me * 2 + round), PAGE);
			CHECK(pwrite((int)fd, wrote, PAGE, at) == PAGE);
			CHECK(pread((int)fd, found, PAGE, at) == PAGE);
			CHECK(!memcmp(wrote, found, PAGE));
		}
	return NULL;
}

/* Several threads, while the mapping comes and goes. */
void file_threads(void)
{
	pthread_t id[WRITERS];
	int fd;
	char *p = filled_memfd(&fd);

	for (unsigned i = 0; i < WRITERS; i++)
		CHECK(!pthread_create(&id[i], NULL, file_writer,
				      (void *)(uintptr_t)((unsigned)fd * WRITERS + i)));
	for (int i = 0; i < 50; i++) {
		CHECK(!munmap(p, size));
		p = mmap(NULL, size, RW, MAP_SHARED, fd, 0);
		CHECK(p != MAP_FAILED);
	}
	for (unsigned i = 0; i < WRITERS; i++)
		CHECK(!pthread_join(id[i], NULL));
	for (size_t page = 0; page < size / PAGE; page++)
		for (size_t at = 0; at < PAGE; at += PAGE - 1)
			CHECK(p[page * PAGE + at] == (char)(page % WRITERS * 2 + 2));
}
