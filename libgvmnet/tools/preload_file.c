/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shared memory: anonymous, and of files in memory. The program gets a memfd of ours, so that
 * nothing but the one mapping, through the pager, can see it: what would see it another way is
 * refused aloud. Under the lock of preload_take.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <unistd.h>
#include "preload.h"
#include "preload_take.h"

#define MEMFD_BYTES ((off_t)1 << 46)

/* The mapping may grow, and beyond the end of its file there is only SIGBUS. A hole costs nothing.
 */
static int size_memfd(int fd, size_t len)
{
	return !ftruncate(fd, MEMFD_BYTES) || !ftruncate(fd, (off_t)len) ? 0 : -1;
}

/* Map a memfd of ours and attach it. The child of a fork must not have it: see gvm_range_set_fork.
 */
static void *take_memfd(struct source *source, void *addr, size_t len, int prot, int flags)
{
	int fd = -1, err = table_reserve(&take.table, 1);
	void *p = MAP_FAILED;

	if (!err) {
		fd = memfd_create("gvm", MFD_CLOEXEC);
		if (fd < 0 || size_memfd(fd, len))
			err = -errno;
	}
	if (!err) {
		p = raw_mmap(addr, len, prot, take_quiet(flags) & ~MAP_ANONYMOUS, fd, 0);
		err = p == MAP_FAILED ? -errno : 0;
	}
	if (!err)
		err = take_attach(source, p, len, fd, 0);
	if (fd >= 0)
		close(fd);
	if (err && p != MAP_FAILED)
		return take_refuse(p, len, source);
	if (err) {
		free(source);
		return take_fail(-err);
	}
	source->shared = 1;
	gvm_range_set_fork(source->range, 0);
	raw_madvise(p, len, MADV_DONTFORK);
	take_add(source, SEG_USED, (uintptr_t)p, len, prot);
	table_at(&take.table, (uintptr_t)p)->nofork = 1;
	report_took(source, (uintptr_t)p, len, 0);
	return p;
}

void *take_shared(void *addr, size_t len, int prot, int flags)
{
	struct source *source = source_new("shared anonymous");

	if (!source || take_start()) {
		free(source);
		return take_fail(ENOMEM);
	}
	return take_memfd(source, addr, len, prot, flags);
}

/* Is this file mapped already, past us? Such a mapping would not see what ours holds. */
static int mapped_already(const struct stat *st)
{
	char want[64], line[512];
	FILE *maps = fopen("/proc/self/maps", "re");
	int found = 0;

	if (!maps)
		return 0;
	snprintf(want, sizeof want, " %02x:%02x %lu ", (unsigned)(st->st_dev >> 8 & 0xfff),
		 (unsigned)((st->st_dev & 0xff) | (st->st_dev >> 12 & 0xfff00)),
		 (unsigned long)st->st_ino);
	while (!found && fgets(line, sizeof line, maps))
		found = strstr(line, want) != NULL && !strstr(line, " ---p "); /* known_add's */
	fclose(maps);
	return found;
}

/* Open the file anew: the program's descriptor keeps its position, and may be write-only. */
static int reopen(int fd)
{
	char path[32];

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

int take_holds_data(int fd, off_t off, size_t len)
{
	int again = reopen(fd);
	if (again < 0)
		return 1;
	off_t data = lseek(again, off, SEEK_DATA);
	int none = data < 0 ? errno == ENXIO : data >= off + (off_t)len;
	close(again);
	return !none;
}

int take_read_in(int fd, off_t off, char *to, size_t len)
{
	int again = reopen(fd), err = 0;

	if (again < 0)
		return -errno;
	for (size_t done = 0; done < len;) {
		ssize_t n =
		    pread(again, to + done, len - done > MIB ? MIB : len - done, off + (off_t)done);
		if (n <= 0) {
			err = n ? -errno : 0;
			break;
		}
		done += (size_t)n;
	}
	close(again);
	return err;
}

/* Half a sentence why this file stays as it is, or NULL. */
static const char *why_not(int fd, const struct stat *st, off_t off, size_t len)
{
	if (st->st_size < off || (uint64_t)(st->st_size - off) < len)
		return "it is shorter than the mapping";
	if (known_stream(st->st_dev, st->st_ino))
		return known_stream(st->st_dev, st->st_ino);
	if (mapped_already(st))
		return "it is mapped elsewhere in this process, and the two would not agree";
	if (!preload_policy.load && take_holds_data(fd, off, len))
		return "it holds data; --load would read it in first";
	return NULL;
}

/* In memory, and no other process can open it by a name: a memfd, or a tmpfs file unlinked already.
 * One with a name may be there to be shared. */
static int unnamed(const struct stat *st, const struct statfs *fs, const char *path)
{
	return !strncmp(path, "/memfd:", 7) || (fs->f_type == TMPFS_MAGIC && !st->st_nlink);
}

void *take_file(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	char path[512], link[32];
	struct stat st;
	struct statfs fs;

	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || fstatfs(fd, &fs))
		return raw_mmap(addr, len, prot, flags, fd, off);
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	path[n > 0 ? n : 0] = 0;
	int wanted = *preload_policy.match ? policy_match(preload_policy.match, path)
					   : unnamed(&st, &fs, path);
	if (!wanted || fs.f_type == HUGETLBFS_MAGIC) {
		int huge = fs.f_type == HUGETLBFS_MAGIC;
		void *p = raw_mmap(addr, len, prot, flags, fd, off);
		if (p != MAP_FAILED)
			(huge || fs.f_type == TMPFS_MAGIC ? report_passed : report_passed_quietly)(
			    len, huge ? "of a file of huge pages"
				      : "of a file that --match does not name");
		return p;
	}
	const char *why = why_not(fd, &st, off, len);
	if (why) {
		say("the mapping of %zu MiB of %s is left alone: %s", len / MIB, path, why);
		report_passed_quietly(len, why);
		return raw_mmap(addr, len, prot, flags, fd, off);
	}
	struct source *source = source_new(path);
	if (!source || take_start()) {
		free(source);
		return take_fail(ENOMEM);
	}
	source->dev = st.st_dev;
	source->ino = st.st_ino;
	source->file_offset = (uint64_t)off;
	void *p = take_memfd(source, addr, len, prot, flags);
	if (p == MAP_FAILED)
		return p;
	int err = preload_policy.load ? take_read_in(fd, off, p, len) : 0;
	if (err) {
		say("%s cannot be read in: %s", path, strerror(-err));
		take_unmap((uintptr_t)p, len);
		return take_fail(-err);
	}
	known_add(source, fd, off);
	return p;
}
