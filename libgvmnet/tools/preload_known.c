/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Files of which a part is paged. The mapping is the truth: the file itself holds nothing there. So
 * whatever else the program does with the file must find the mapping. Here: which files these are,
 * where a byte of one is, what becomes of its contents when it is unmapped, mapped again, cut short
 * or punched, and what a forked child is told. preload_io.c has the calls.
 *
 * A part that the program unmaps while it has the file open is parked: it stays where it is,
 * inaccessible, until it is mapped again or nothing can reach the file any more. Under the lock of
 * preload_take.c, but for the first three.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "preload.h"
#include "preload_take.h"

#define STREAMS 64

struct file_id {
	uint64_t dev, ino;
};

static struct {
	struct file_id *at; /* files of the parent's, in a forked child */
	size_t count, room;
} lost;

static struct {
	struct file_id at[STREAMS];
	size_t count; /* more than STREAMS: not all are known */
} streams;

/* ---- which files ---------------------------------------------------------------------------- */

int take_has_files(void)
{
	return atomic_load_explicit(&take.files, memory_order_acquire) > 0;
}

int take_has_parked(void)
{
	return atomic_load_explicit(&take.parked, memory_order_acquire) > 0;
}

int take_may_know(int fd)
{
	struct stat st;
	int saved = errno, may = 0;

	if (!take_has_files())
		return 0;
	if (!fstat(fd, &st))
		may = S_ISREG(st.st_mode) && (take.inodes >> (st.st_ino % 64) & 1);
	errno = saved;
	return may;
}

static int is_of(const struct source *source, const struct stat *st)
{
	return source && source->ino && source->ino == st->st_ino && source->dev == st->st_dev;
}

static int is_lost(const struct stat *st)
{
	for (size_t i = 0; i < lost.count; i++)
		if (lost.at[i].ino == st->st_ino && lost.at[i].dev == st->st_dev)
			return 1;
	return 0;
}

int take_knows_file(int fd)
{
	struct stat st;

	if (!take_has_files() || fstat(fd, &st))
		return 0;
	for (size_t i = 0; i < take.table.count; i++)
		if (is_of(take.table.seg[i].source, &st))
			return 1;
	return is_lost(&st);
}

int take_knows(int fd)
{
	struct take_guard guard;

	if (!take_may_know(fd))
		return 0;
	take_lock(&guard);
	int knows = take_knows_file(fd);
	take_unlock(&guard);
	return knows;
}

/* While the source lives its file must, too: the file's number in the file system would otherwise
 * be another file's one day. A mapping holds it, and no program closes it by mistake. */
void known_add(struct source *source, int fd, off_t off)
{
	void *pin = raw_mmap(NULL, PRELOAD_PAGE, PROT_NONE, MAP_PRIVATE, fd, off);

	source->pin = pin == MAP_FAILED ? NULL : pin;
	source->known = 1;
	atomic_fetch_or(&take.inodes, 1ull << (source->ino % 64));
	take.files++;
	if (!(fcntl(fd, F_GETFD) & FD_CLOEXEC))
		say_once("%s is inherited by the programs that this one starts, and they will not "
			 "see what is in it (leave it out with --match)",
			 source->what);
}

void known_drop(struct source *source)
{
	if (source->pin)
		raw_munmap(source->pin, PRELOAD_PAGE);
	take.files--;
}

void known_lose(struct source *source)
{
	for (size_t i = 0; i < lost.count; i++)
		if (lost.at[i].ino == source->ino && lost.at[i].dev == source->dev)
			return;
	if (lost.count == lost.room) {
		size_t room = lost.room ? lost.room * 2 : 16;
		struct file_id *at = realloc(lost.at, room * sizeof *at);
		if (!at) {
			say("this forked child is ended: no memory");
			raw_exit(125);
		}
		lost.at = at;
		lost.room = room;
	}
	lost.at[lost.count++] = (struct file_id){ source->dev, source->ino };
	source->pin = NULL; /* it stays, as the file must */
	take.files++;
}

void take_note_stream(int fd)
{
	struct stat st;
	struct take_guard guard;

	/* those with a name are taken over only if the user names them */
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_nlink)
		return;
	take_lock(&guard);
	if (streams.count < STREAMS)
		streams.at[streams.count] = (struct file_id){ st.st_dev, st.st_ino };
	streams.count++;
	take_unlock(&guard);
}

const char *known_stream(uint64_t dev, uint64_t ino)
{
	int found = streams.count > STREAMS;

	for (size_t i = 0; i < streams.count && !found; i++)
		found = streams.at[i].ino == ino && streams.at[i].dev == dev;
	return found ? "the program reads or writes it by a stream (fdopen), too" : NULL;
}

/* A descriptor of this process on the source's file, or -1. */
static int open_fd(const struct source *source)
{
	DIR *in = opendir("/proc/self/fd");
	struct dirent *entry;
	struct stat st;
	int found = -1;

	while (in && found < 0 && (entry = readdir(in))) {
		int fd = *entry->d_name == '.' ? -1 : atoi(entry->d_name);
		if (fd >= 0 && !fstat(fd, &st) && is_of(source, &st))
			found = fd;
	}
	if (in)
		closedir(in);
	return found;
}

/* ---- where a byte is ------------------------------------------------------------------------ */

static uint64_t file_base(const struct seg *seg)
{
	return seg->source->file_offset + (seg->base - seg->source->base);
}

int take_file_at(int fd, uint64_t off, size_t *len, char **at, int *prot)
{
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	if (is_lost(&st))
		return -EIO;
	for (size_t i = 0; i < take.table.count; i++) {
		const struct seg *seg = &take.table.seg[i];
		if (!is_of(seg->source, &st))
			continue;
		uint64_t base = file_base(seg);
		if (off >= base && off < base + seg->bytes) {
			*at = (char *)seg->base + (off - base);
			*prot = seg->prot;
			if (*len > seg->bytes - (off - base))
				*len = seg->bytes - (off - base);
			return 1;
		}
		if (off<base && * len> base - off)
			*len = base - off;
	}
	return 0;
}

/* Zeros in a part of a page, which the program may have made inaccessible. */
static void zero_bytes(const struct seg *seg, uintptr_t at, size_t len)
{
	uintptr_t page = at & ~(PRELOAD_PAGE - 1);
	int shut = (seg->prot & RW) != RW;

	if (!len)
		return;
	if (shut)
		raw_mprotect((void *)page, PRELOAD_PAGE, RW);
	memset((void *)at, 0, len);
	if (shut)
		raw_mprotect((void *)page, PRELOAD_PAGE, seg->prot);
}

static void zero_part(const struct seg *seg, uintptr_t from, uintptr_t to)
{
	uintptr_t first = (from + PRELOAD_PAGE - 1) & ~(PRELOAD_PAGE - 1);
	uintptr_t last = to & ~(PRELOAD_PAGE - 1);

	if (first > last) {
		zero_bytes(seg, from, to - from);
		return;
	}
	zero_bytes(seg, from, first - from);
	if (first < last)
		take_discard(seg, first, last);
	zero_bytes(seg, last, to - last);
}

void take_zero_file(int fd, uint64_t off, uint64_t len)
{
	uint64_t end = off + len < off ? UINT64_MAX : off + len;
	struct stat st;

	if (fstat(fd, &st))
		return;
	for (size_t i = 0; i < take.table.count; i++) {
		const struct seg *seg = &take.table.seg[i];
		if (!is_of(seg->source, &st))
			continue;
		uint64_t base = file_base(seg), a = off > base ? off - base : 0;
		uint64_t b = end > base ? end - base : 0;
		if (b > seg->bytes)
			b = seg->bytes;
		if (a < b)
			zero_part(seg, seg->base + a, seg->base + b);
	}
}

/* ---- unmapped and mapped again -------------------------------------------------------------- */

int known_open(const struct seg *seg)
{
	return seg->source && seg->source->known && open_fd(seg->source) >= 0;
}

int known_park(size_t i)
{
	struct seg *seg = &take.table.seg[i];

	if (seg->state == SEG_PARKED)
		return 1;
	if (!known_open(seg) || raw_mprotect((void *)seg->base, seg->bytes, PROT_NONE))
		return 0;
	seg->state = SEG_PARKED;
	seg->prot = PROT_NONE;
	take.parked++;
	table_join(&take.table, i);
	return 1;
}

void take_release_parked(void)
{
	unsigned left = 0;

	for (size_t i = 0; i < take.table.count; i++) {
		struct seg seg = take.table.seg[i];
		if (seg.state != SEG_PARKED)
			continue;
		if (open_fd(seg.source) >= 0) {
			left++;
			continue;
		}
		take.table.seg[i].state = SEG_USED; /* and goes as any mapping does */
		if (take_unmap(seg.base, seg.bytes))
			return;
		i--;
	}
	take.parked = left;
}

/* The segment of this file that meets [off, off + len); its index, or the count of segments. */
static size_t part_of(const struct stat *st, uint64_t off, size_t len)
{
	size_t i = 0;

	for (; i < take.table.count; i++) {
		const struct seg *seg = &take.table.seg[i];
		if (is_of(seg->source, st) && file_base(seg) < off + len &&
		    off < file_base(seg) + seg->bytes)
			break;
	}
	return i;
}

int known_may_grow(const struct seg *seg, size_t more)
{
	uint64_t end = file_base(seg) + seg->bytes;
	struct stat st = { .st_dev = seg->source->dev, .st_ino = seg->source->ino };
	int fd = open_fd(seg->source);

	if (part_of(&st, end, more) == take.table.count &&
	    (fd < 0 || !take_holds_data(fd, (off_t)end, more)))
		return 1;
	say_once(
	    "mremap that lets a paged mapping of a file grow is refused: there is data in that "
	    "part of the file");
	return 0;
}

static int opened(struct seg part, int prot)
{
	if (take_cut(part.base, part.bytes) || raw_mprotect((void *)part.base, part.bytes, prot))
		return 0;
	struct seg *seg = table_at(&take.table, part.base);
	seg->state = SEG_USED;
	seg->prot = prot;
	return 1;
}

/* The whole range, which is parked, goes to another address or gets longer. The new part of the
 * file may have been written to. NULL: it cannot be had. */
static char *reshape(size_t i, size_t len, int flags, void *addr, int fd, uint64_t off)
{
	struct seg seg = take.table.seg[i];
	int fix = flags & MAP_FIXED ? MREMAP_FIXED : 0;
	struct stat st;

	if (seg.base != seg.source->base || seg.bytes != seg.source->bytes ||
	    file_base(&seg) != off || len < seg.bytes || fstat(fd, &st) ||
	    st.st_size < (off_t)(off + len) || table_reserve(&take.table, 4))
		return NULL;
	char *p = take_move_range(i, len, MREMAP_MAYMOVE | fix, fix ? addr : NULL);
	if (p == MAP_FAILED || len == seg.bytes)
		return p == MAP_FAILED ? NULL : p;
	off_t tail = (off_t)(off + seg.bytes);
	if (!take_holds_data(fd, tail, len - seg.bytes))
		return p;
	raw_mprotect(p, len, RW);
	int err = take_read_in(fd, tail, p + seg.bytes, len - seg.bytes);
	raw_mprotect(p, len, PROT_NONE);
	return err ? NULL : p;
}

static void *refuse(const char *what)
{
	say_once(
	    "%s is refused: it would not see the same memory; --match NAME takes over files of "
	    "that name only and leaves this one local",
	    what);
	return take_fail(ENOTSUP);
}

static void *again(size_t i, void *addr, size_t len, int prot, int flags, int fd, uint64_t off)
{
	struct seg seg = take.table.seg[i];
	int fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);

	if (seg.state != SEG_PARKED || (flags & MAP_TYPE) == MAP_PRIVATE || prot & PROT_EXEC)
		return refuse("a further mapping of a file that is paged");
	struct seg part = seg;
	part.base += off - file_base(&seg); /* means nothing if off lies before */
	part.bytes = len;
	int inside = off >= file_base(&seg) && off + len <= file_base(&seg) + seg.bytes;
	if (!inside || (fixed && part.base != (uintptr_t)addr)) {
		if (flags & MAP_FIXED && take_clear((uintptr_t)addr, len))
			return MAP_FAILED;
		struct stat st;
		char *p = flags & MAP_FIXED_NOREPLACE || fstat(fd, &st)
			      ? NULL
			      : reshape(part_of(&st, off, len), len, flags, addr, fd, off);
		if (!p)
			return refuse("a mapping of a part of a file whose other parts are paged");
		part.base = (uintptr_t)p;
	}
	return opened(part, prot) ? (void *)part.base : take_fail(ENOMEM);
}

int take_file_again(void *addr, size_t len, int prot, int flags, int fd, off_t off, void **p)
{
	struct stat st;

	if (fstat(fd, &st) || off < 0 || (uint64_t)off + len < (uint64_t)off)
		return 0;
	if (is_lost(&st)) {
		say_once("a file whose mapping is paged in the parent is not mapped: this forked "
			 "child cannot see what is in it");
		*p = take_fail(EIO);
		return 1;
	}
	size_t i = part_of(&st, (uint64_t)off, len);
	if (i == take.table.count)
		return 0;
	*p = again(i, addr, len, prot, flags, fd, (uint64_t)off);
	return 1;
}
