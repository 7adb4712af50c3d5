/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Files whose mappings are paged, as the program reads and writes them: what is in the mapping is
 * read from there and written to there, by copying, and the rest in the file. What moves bytes
 * within the kernel is refused, in the way that lets programs fall back to read and write. A
 * program that has no such file pays one load a call; one that has, an fstat. Any thread, any
 * handler.
 *
 * The copy goes by a file of our own in memory, because the kernel then says what is wrong with the
 * program's buffer as it ever did.
 */
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "preload.h"
#include "preload_take.h"

#define CHUNK MIB

static struct {
	ssize_t (*read)(int, void *, size_t);
	ssize_t (*write)(int, const void *, size_t);
	ssize_t (*pread)(int, void *, size_t, off_t);
	ssize_t (*pwrite)(int, const void *, size_t, off_t);
	ssize_t (*readv)(int, const struct iovec *, int);
	ssize_t (*writev)(int, const struct iovec *, int);
	ssize_t (*preadv)(int, const struct iovec *, int, off_t);
	ssize_t (*pwritev)(int, const struct iovec *, int, off_t);
	ssize_t (*preadv2)(int, const struct iovec *, int, off_t, int);
	ssize_t (*pwritev2)(int, const struct iovec *, int, off_t, int);
	off_t (*lseek)(int, off_t, int);
	int (*ftruncate)(int, off_t);
	int (*fcntl)(int, int, ...);
	int (*close)(int);
	ssize_t (*sendfile)(int, int, off_t *, size_t);
	ssize_t (*splice)(int, off64_t *, int, off64_t *, size_t, unsigned);
	ssize_t (*copy_file_range)(int, off64_t *, int, off64_t *, size_t, unsigned);
	int (*aio_read)(struct aiocb *);
	int (*aio_write)(struct aiocb *);
	int (*lio_listio)(int, struct aiocb *const *, int, struct sigevent *);
} next;

void io_init(void)
{
#define FIND(name) next.name = (__typeof__(next.name))next_symbol(#name)
	FIND(read);
	FIND(write);
	FIND(pread);
	FIND(pwrite);
	FIND(readv);
	FIND(writev);
	FIND(preadv);
	FIND(pwritev);
	FIND(preadv2);
	FIND(pwritev2);
	FIND(lseek);
	FIND(ftruncate);
	FIND(fcntl);
	FIND(sendfile);
	FIND(splice);
	FIND(copy_file_range);
	FIND(aio_read);
	FIND(aio_write);
	FIND(lio_listio);
	FIND(close); /* last: it says that all are there */
#undef FIND
}

/* A library's constructor may come before ours. */
#define NEXT(name, ...) (next.close ? (void)0 : io_init(), next.name(__VA_ARGS__))

static int known(int fd)
{
	return !preload_inside && take_has_files() && take_knows(fd);
}

/* ---- copying -------------------------------------------------------------------------------- */

struct io {
	int fd, scratch; /* -1: not there yet */
	int writes;
	uint64_t at;   /* in the file */
	uint64_t size; /* of the file */
};

/* Bytes between the program's buffer and the mapping, at most CHUNK. Their number or -errno. */
static ssize_t copy_mapped(struct io *io, char *buffer, char *mapped, size_t len)
{
	ssize_t n;

	if (io->scratch < 0)
		io->scratch = memfd_create("gvm-copy", MFD_CLOEXEC);
	if (io->scratch < 0)
		return -errno;
	if (io->writes) {
		n = next.pwrite(io->scratch, buffer, len, 0);
		if (n > 0 && next.pread(io->scratch, mapped, (size_t)n, 0) != n)
			return -EIO; /* a page that is lost, or cannot be reached */
	} else {
		if (next.pwrite(io->scratch, mapped, len, 0) != (ssize_t)len)
			return -EIO;
		n = next.pread(io->scratch, buffer, len, 0);
	}
	return n < 0 ? -errno : n;
}

/* The same where the program may have taken the mapping's access away, or unmapped it. */
static ssize_t copy_shut(struct io *io, char *buffer, char *mapped, size_t len, int prot)
{
	char *page = (char *)((uintptr_t)mapped & ~(PRELOAD_PAGE - 1));
	size_t bytes = (size_t)(mapped - page) + len;
	int want = io->writes ? RW : PROT_READ, shut = (prot & want) != want;

	if (shut && raw_mprotect(page, bytes, prot | want))
		return -EIO;
	ssize_t n = copy_mapped(io, buffer, mapped, len);
	if (shut)
		raw_mprotect(page, bytes, prot);
	return n;
}

/* What one call can do at io->at. Bytes done, 0 at the end of the file, or -errno. */
static ssize_t step(struct io *io, char *buffer, size_t len)
{
	char *mapped;
	int prot, where;
	ssize_t n;

	if (!io->writes && io->at >= io->size)
		return 0;
	if (!io->writes && len > io->size - io->at)
		len = io->size - io->at;
	len = len > CHUNK ? CHUNK : len;
	where = take_file_at(io->fd, io->at, &len, &mapped, &prot);
	if (where < 0)
		return where;
	if (!where) {
		n = io->writes ? next.pwrite(io->fd, buffer, len, (off_t)io->at)
			       : next.pread(io->fd, buffer, len, (off_t)io->at);
		return n < 0 ? -errno : n;
	}
	n = copy_shut(io, buffer, mapped, len, prot);
	if (n > 0 && io->writes && io->at + (uint64_t)n > io->size) {
		/* it was cut short before: the mapping has it, the file's size must say so */
		if (next.ftruncate(io->fd, (off_t)(io->at + (uint64_t)n)))
			return -errno;
		io->size = io->at + (uint64_t)n;
	}
	return n;
}

static ssize_t all_steps(struct io *io, const struct iovec *iov, int count)
{
	size_t done = 0;

	for (int i = 0; i < count; i++) {
		for (size_t at = 0; at < iov[i].iov_len;) {
			ssize_t n = step(io, (char *)iov[i].iov_base + at, iov[i].iov_len - at);
			if (n <= 0)
				return done || !n ? (ssize_t)done : n;
			at += (size_t)n;
			done += (size_t)n;
			io->at += (uint64_t)n;
		}
	}
	return (ssize_t)done;
}

/* May this descriptor do that? 0 or -errno. */
static int check_access(const struct io *io, int flags)
{
	if (flags < 0 || flags & O_PATH ||
	    (flags & O_ACCMODE) == (io->writes ? O_RDONLY : O_WRONLY))
		return -EBADF;
	int seals = io->writes ? next.fcntl(io->fd, F_GET_SEALS) : 0;
	return seals > 0 && seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) ? -EPERM : 0;
}

#define AT_POSITION ((off_t)-1)

static ssize_t locked_io(struct io *io, const struct iovec *iov, int count, off_t off)
{
	int flags = next.fcntl(io->fd, F_GETFL), err = check_access(io, flags);
	struct stat st;

	if (err || fstat(io->fd, &st))
		return err ? err : -errno;
	off_t at = off == AT_POSITION ? next.lseek(io->fd, 0, SEEK_CUR) : off;
	if (at < 0)
		return -EINVAL;
	io->size = (uint64_t)st.st_size;
	io->at = io->writes && flags & O_APPEND ? io->size : (uint64_t)at;
	uint64_t ends = take_mortal();
	ssize_t n = all_steps(io, iov, count);
	take_immortal(ends);
	if (n > 0 && off == AT_POSITION)
		next.lseek(io->fd, (off_t)io->at, SEEK_SET);
	return n;
}

static ssize_t paged_io(int fd, const struct iovec *iov, int count, off_t off, int writes)
{
	struct io io = { .fd = fd, .scratch = -1, .writes = writes };
	struct take_guard guard;

	take_lock(&guard);
	ssize_t n = locked_io(&io, iov, count, off);
	if (io.scratch >= 0)
		(void)close(io.scratch); /* as this library */
	take_unlock(&guard);
	if (n >= 0)
		return n;
	if (n == -EIO)
		say_once("a file whose mapping is paged cannot be read or written here: it is its "
			 "parent's, from before fork, or pages of it cannot be had");
	errno = (int)-n;
	return -1;
}

/* The kernel's checks of a list of buffers, which then stays as it is. NULL with errno. */
static const struct iovec *check_list(const struct iovec *iov, int count)
{
	size_t sum = 0;

	if (count < 0 || count > 1024)
		count = -1;
	for (int i = 0; i < count; i++)
		if (iov[i].iov_len > (size_t)SSIZE_MAX - sum)
			count = -1;
		else
			sum += iov[i].iov_len;
	if (count < 0)
		errno = EINVAL;
	return count < 0 ? NULL : iov;
}

static ssize_t list_io(int fd, const struct iovec *iov, int count, off_t off, int writes)
{
	return check_list(iov, count) ? paged_io(fd, iov, count, off, writes) : -1;
}

/* ---- read, write ---------------------------------------------------------------------------- */

/* Offsets that the kernel refuses are left to it. */
#define PAGED(fd, off) ((off) >= 0 && known(fd))

PRELOAD_EXPORT ssize_t read(int fd, void *buffer, size_t len)
{
	struct iovec iov = { buffer, len };

	return known(fd) ? paged_io(fd, &iov, 1, AT_POSITION, 0) : NEXT(read, fd, buffer, len);
}

PRELOAD_EXPORT ssize_t write(int fd, const void *buffer, size_t len)
{
	struct iovec iov = { (void *)(uintptr_t)buffer, len };

	return known(fd) ? paged_io(fd, &iov, 1, AT_POSITION, 1) : NEXT(write, fd, buffer, len);
}

PRELOAD_EXPORT ssize_t pread(int fd, void *buffer, size_t len, off_t off)
{
	struct iovec iov = { buffer, len };

	return PAGED(fd, off) ? paged_io(fd, &iov, 1, off, 0) : NEXT(pread, fd, buffer, len, off);
}

PRELOAD_EXPORT ssize_t pwrite(int fd, const void *buffer, size_t len, off_t off)
{
	struct iovec iov = { (void *)(uintptr_t)buffer, len };

	return PAGED(fd, off) ? paged_io(fd, &iov, 1, off, 1) : NEXT(pwrite, fd, buffer, len, off);
}

PRELOAD_EXPORT ssize_t readv(int fd, const struct iovec *iov, int count)
{
	return known(fd) ? list_io(fd, iov, count, AT_POSITION, 0) : NEXT(readv, fd, iov, count);
}

PRELOAD_EXPORT ssize_t writev(int fd, const struct iovec *iov, int count)
{
	return known(fd) ? list_io(fd, iov, count, AT_POSITION, 1) : NEXT(writev, fd, iov, count);
}

PRELOAD_EXPORT ssize_t preadv(int fd, const struct iovec *iov, int count, off_t off)
{
	return PAGED(fd, off) ? list_io(fd, iov, count, off, 0) : NEXT(preadv, fd, iov, count, off);
}

PRELOAD_EXPORT ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t off)
{
	return PAGED(fd, off) ? list_io(fd, iov, count, off, 1)
			      : NEXT(pwritev, fd, iov, count, off);
}

/* An offset of -1 is the position here; flags that ask for something more are not served. */
static ssize_t flagged_io(int fd, const struct iovec *iov, int count, off_t off, int flags,
			  int writes)
{
	if (flags & ~RWF_HIPRI || off < -1) {
		errno = off < -1 ? EINVAL : EOPNOTSUPP;
		return -1;
	}
	return list_io(fd, iov, count, off, writes);
}

PRELOAD_EXPORT ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t off, int flags)
{
	return known(fd) ? flagged_io(fd, iov, count, off, flags, 0)
			 : NEXT(preadv2, fd, iov, count, off, flags);
}

PRELOAD_EXPORT ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t off, int flags)
{
	return known(fd) ? flagged_io(fd, iov, count, off, flags, 1)
			 : NEXT(pwritev2, fd, iov, count, off, flags);
}

/* What a compiler that checks sizes makes of read. */
void __chk_fail(void) __attribute__((noreturn));

ssize_t __read_chk(int fd, void *buffer, size_t len, size_t room);
PRELOAD_EXPORT ssize_t __read_chk(int fd, void *buffer, size_t len, size_t room)
{
	if (len > room)
		__chk_fail();
	return read(fd, buffer, len);
}

ssize_t __pread_chk(int fd, void *buffer, size_t len, off_t off, size_t room);
PRELOAD_EXPORT ssize_t __pread_chk(int fd, void *buffer, size_t len, off_t off, size_t room)
{
	if (len > room)
		__chk_fail();
	return pread(fd, buffer, len, off);
}

ssize_t __pread64_chk(int fd, void *buffer, size_t len, off64_t off, size_t room);
PRELOAD_EXPORT ssize_t __pread64_chk(int fd, void *buffer, size_t len, off64_t off, size_t room)
    __attribute__((alias("__pread_chk")));
PRELOAD_EXPORT ssize_t pread64(int fd, void *buffer, size_t len, off64_t off)
    __attribute__((alias("pread")));
PRELOAD_EXPORT ssize_t pwrite64(int fd, const void *buffer, size_t len, off64_t off)
    __attribute__((alias("pwrite")));
PRELOAD_EXPORT ssize_t preadv64(int fd, const struct iovec *iov, int count, off64_t off)
    __attribute__((alias("preadv")));
PRELOAD_EXPORT ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t off)
    __attribute__((alias("pwritev")));
PRELOAD_EXPORT ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off64_t off,
				  int flags) __attribute__((alias("preadv2")));
PRELOAD_EXPORT ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off64_t off,
				   int flags) __attribute__((alias("pwritev2")));

/* ---- position, size, seals, the end --------------------------------------------------------- */

/* The file itself is a hole where its mapping is paged: all of it counts as data. */
static off_t seek_data(int fd, off_t off, int whence)
{
	struct stat st;

	if (fstat(fd, &st))
		return -1;
	if (off < 0 || off >= st.st_size) {
		errno = ENXIO;
		return -1;
	}
	return next.lseek(fd, whence == SEEK_DATA ? off : st.st_size, SEEK_SET);
}

PRELOAD_EXPORT off_t lseek(int fd, off_t off, int whence)
{
	if ((whence == SEEK_DATA || whence == SEEK_HOLE) && known(fd))
		return seek_data(fd, off, whence);
	return NEXT(lseek, fd, off, whence);
}

PRELOAD_EXPORT off64_t lseek64(int fd, off64_t off, int whence) __attribute__((alias("lseek")));

PRELOAD_EXPORT int ftruncate(int fd, off_t len)
{
	struct take_guard guard;
	int err;

	if (!preload_inside && shared_size(fd, len, &err))
		return err;
	err = NEXT(ftruncate, fd, len);

	if (err || !known(fd))
		return err;
	take_lock(&guard);
	take_zero_file(fd, (uint64_t)len, UINT64_MAX);
	take_unlock(&guard);
	return 0;
}

PRELOAD_EXPORT int ftruncate64(int fd, off64_t len) __attribute__((alias("ftruncate")));

/* The kernel refuses to seal a file that is mapped writable. It does not know that this one is. */
PRELOAD_EXPORT int fcntl(int fd, int command, ...)
{
	va_list ap;

	va_start(ap, command);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	if (command == F_SETFD && fd_keeps(fd))
		return 0; /* no other program inherits ours */
	if (command == F_ADD_SEALS && (uintptr_t)arg & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) &&
	    known(fd)) {
		say_once("a file whose mapping is paged is not sealed against writing");
		errno = EBUSY;
		return -1;
	}
	return NEXT(fcntl, fd, command, arg);
}

PRELOAD_EXPORT int fcntl64(int fd, int command, ...) __attribute__((alias("fcntl")));

PRELOAD_EXPORT int close(int fd)
{
	struct take_guard guard;

	if (fd_keeps(fd)) {
		errno = EBADF; /* the program did not open it */
		return -1;
	}
	if (preload_inside)
		fd_forget(fd);
	int release = !preload_inside && take_has_parked() && take_may_know(fd);
	int err = NEXT(close, fd);

	if (!release)
		return err;
	take_lock(&guard);
	take_release_parked();
	take_unlock(&guard);
	return err;
}

/* ---- refused -------------------------------------------------------------------------------- */

static int refused(int fd, const char *call, int err)
{
	if (!known(fd))
		return 0;
	say_once("%s of a file whose mapping is paged is refused: the kernel would read the file, "
		 "which does not hold what the mapping holds",
		 call);
	errno = err;
	return 1;
}

PRELOAD_EXPORT ssize_t sendfile(int out, int in, off_t *off, size_t len)
{
	if (refused(in, "sendfile", EINVAL) || refused(out, "sendfile", EINVAL))
		return -1;
	return NEXT(sendfile, out, in, off, len);
}

PRELOAD_EXPORT ssize_t sendfile64(int out, int in, off64_t *off, size_t len)
    __attribute__((alias("sendfile")));

PRELOAD_EXPORT ssize_t splice(int in, off64_t *in_off, int out, off64_t *out_off, size_t len,
			      unsigned flags)
{
	if (refused(in, "splice", EINVAL) || refused(out, "splice", EINVAL))
		return -1;
	return NEXT(splice, in, in_off, out, out_off, len, flags);
}

PRELOAD_EXPORT ssize_t copy_file_range(int in, off64_t *in_off, int out, off64_t *out_off,
				       size_t len, unsigned flags)
{
	if (refused(in, "copy_file_range", EXDEV) || refused(out, "copy_file_range", EXDEV))
		return -1;
	return NEXT(copy_file_range, in, in_off, out, out_off, len, flags);
}

PRELOAD_EXPORT int aio_read(struct aiocb *cb)
{
	return refused(cb->aio_fildes, "aio_read", ENOSYS) ? -1 : NEXT(aio_read, cb);
}

PRELOAD_EXPORT int aio_write(struct aiocb *cb)
{
	return refused(cb->aio_fildes, "aio_write", ENOSYS) ? -1 : NEXT(aio_write, cb);
}

PRELOAD_EXPORT int lio_listio(int mode, struct aiocb *const list[], int count,
			      struct sigevent *event)
{
	for (int i = 0; i < count; i++)
		if (list[i] && refused(list[i]->aio_fildes, "lio_listio", ENOSYS))
			return -1;
	return NEXT(lio_listio, mode, list, count, event);
}

int aio_read64(struct aiocb64 *cb);
PRELOAD_EXPORT int aio_read64(struct aiocb64 *cb)
{
	return aio_read((struct aiocb *)cb);
}

int aio_write64(struct aiocb64 *cb);
PRELOAD_EXPORT int aio_write64(struct aiocb64 *cb)
{
	return aio_write((struct aiocb *)cb);
}

int lio_listio64(int mode, struct aiocb64 *const list[], int count, struct sigevent *event);
PRELOAD_EXPORT int lio_listio64(int mode, struct aiocb64 *const list[], int count,
				struct sigevent *event)
{
	return lio_listio(mode, (struct aiocb *const *)list, count, event);
}
