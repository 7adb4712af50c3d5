/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * mmap and its family, as the program calls them. What is not ours goes straight to the kernel,
 * without a lock; what is, or becomes ours, to preload_take.c. Any thread, any signal handler.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "preload.h"

#define OUTSIDE (preload_inside || !preload_ready())

static size_t whole(size_t len)
{
	return (len + PRELOAD_PAGE - 1) & ~(PRELOAD_PAGE - 1);
}

static int odd(const void *addr)
{
	return ((uintptr_t)addr & (PRELOAD_PAGE - 1)) != 0;
}

/* Arguments that the kernel would refuse are left to the kernel, before anything is changed. */
static int nonsense(const void *addr, size_t len)
{
	return !len || whole(len) < len || odd(addr) ||
	       (uintptr_t)addr + whole(len) < (uintptr_t)addr;
}

/* Private memory of zeros: what can also be had by discarding what is there. */
static int plain(int prot, int flags)
{
	return (flags & MAP_TYPE) == MAP_PRIVATE && (flags & MAP_ANONYMOUS) &&
	       !(prot & PROT_EXEC) && !(flags & (MAP_HUGETLB | MAP_GROWSDOWN | MAP_STACK));
}

static void *map_locked(void *addr, size_t len, int prot, int flags, int fd, off_t off,
			enum verdict verdict)
{
	void *again;
	if (!(flags & MAP_ANONYMOUS) && take_knows_file(fd) &&
	    take_file_again(addr, len, prot, flags, fd, off, &again))
		return again;
	if (flags & MAP_FIXED && take_meets(addr, len)) {
		void *p = plain(prot, flags) ? take_over_fixed(addr, len, prot) : NULL;
		if (p)
			return p;
		if (take_clear((uintptr_t)addr, len))
			return MAP_FAILED;
	}
	switch (verdict) {
	case TAKE_ANON:
		return take_anon(addr, len, prot, flags, 0);
	case TAKE_SHARED:
		return take_shared(addr, len, prot, flags);
	case TAKE_FILE:
		return take_file(addr, len, prot, flags, fd, off);
	case TAKE_RESERVE:
	case TAKE_NO:
		break;
	}
	void *p = raw_mmap(addr, len, prot, flags, fd, off);
	if (p != MAP_FAILED && verdict == TAKE_RESERVE)
		take_reserve(p, len);
	return p;
}

/* What the kernel has not mapped is not in local memory either. */
static void *tell_passed(void *p, size_t len, int prot, const char *why)
{
	int saved = errno;

	if (p != MAP_FAILED)
		report_passed(prot & PROT_WRITE ? len : 0, why);
	errno = saved;
	return p;
}

PRELOAD_EXPORT void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	const char *why = NULL;
	struct take_guard guard;

	if (OUTSIDE || nonsense(flags & MAP_FIXED ? addr : NULL, len))
		return raw_mmap(addr, len, prot, flags, fd, off);
	void *shared;
	if (shared_map(addr, len, prot, flags, fd, off, &shared))
		return shared;
	enum verdict verdict = policy_mmap(&preload_policy, len, prot, flags, fd, &why);
	int file = !(flags & MAP_ANONYMOUS);
	if (verdict == TAKE_NO && !(flags & MAP_FIXED && take_meets(addr, whole(len))) &&
	    !(file && take_has_files()))
		return tell_passed(raw_mmap(addr, len, prot, flags, fd, off), len, prot, why);
	if (file && fcntl(fd, F_GETFD) < 0)
		return raw_mmap(addr, len, prot, flags, fd, off);
	if (fd_apart && (verdict == TAKE_FILE || verdict == TAKE_SHARED))
		/* the pager's threads could not use its descriptors */
		return tell_passed(raw_mmap(addr, len, prot, flags, fd, off), len, PROT_WRITE,
				   "of a thread with descriptors of its own (unshare)");
	take_lock(&guard);
	void *p = map_locked(addr, whole(len), prot, flags, fd, off, verdict);
	take_unlock(&guard);
	if (verdict == TAKE_NO && !plain(prot, flags)) /* over a reservation, as QEMU does */
		tell_passed(p, len, prot, why);
	return p;
}

PRELOAD_EXPORT void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t off)
    __attribute__((alias("mmap")));

PRELOAD_EXPORT int munmap(void *addr, size_t len)
{
	struct take_guard guard;
	int done;

	if (OUTSIDE || nonsense(addr, len))
		return raw_munmap(addr, len);
	if (shared_unmap(addr, len, &done))
		return done;
	if (!take_meets(addr, whole(len)))
		return raw_munmap(addr, len);
	take_lock(&guard);
	int err = take_unmap((uintptr_t)addr, whole(len));
	take_unlock(&guard);
	return err;
}

/* A place to move to that the kernel refuses whatever there is. */
static int wrong_place(const void *old, size_t old_len, const void *to, size_t new_len, int flags)
{
	uintptr_t a = (uintptr_t)old, b = (uintptr_t)to;

	if (!(flags & MREMAP_FIXED))
		return 0;
	return !(flags & MREMAP_MAYMOVE) || (a < b + whole(new_len) && b < a + whole(old_len));
}

PRELOAD_EXPORT void *mremap(void *old, size_t old_len, size_t new_len, int flags, ...)
{
	struct take_guard guard;
	va_list ap;

	va_start(ap, flags);
	void *fixed = flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) ? va_arg(ap, void *) : NULL;
	va_end(ap);
	if (!OUTSIDE && shared_moves(old, old_len ? old_len : 1))
		return MAP_FAILED;
	int from = take_meets(old, old_len ? whole(old_len) : PRELOAD_PAGE);
	int to = flags & MREMAP_FIXED && take_meets(fixed, whole(new_len));
	if (OUTSIDE || odd(old) || (!from && !to) || nonsense(fixed, new_len) ||
	    wrong_place(old, old_len, fixed, new_len, flags) ||
	    flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP))
		return raw_mremap(old, old_len, new_len, flags, fixed);
	take_lock(&guard);
	void *p = take_remap((uintptr_t)old, whole(old_len), whole(new_len), flags, fixed);
	take_unlock(&guard);
	return p;
}

PRELOAD_EXPORT int madvise(void *addr, size_t len, int advice)
{
	struct take_guard guard;
	int ours = !OUTSIDE && !nonsense(addr, len);

	if (ours && advice == MADV_DOFORK && shared_inherits(addr, len))
		return -1;
	if (!ours || !take_meets(addr, whole(len)))
		return raw_madvise(addr, len, advice);
	take_lock(&guard);
	int err = take_advise((uintptr_t)addr, whole(len), advice);
	take_unlock(&guard);
	return err;
}

/* POSIX_MADV_DONTNEED is a hint that must not lose data, so there is nothing to do on paged memory.
 */
PRELOAD_EXPORT int posix_madvise(void *addr, size_t len, int advice)
{
	int saved = errno, err = 0;

	if (advice == POSIX_MADV_DONTNEED)
		return 0;
	if (OUTSIDE || nonsense(addr, len) || !take_meets(addr, whole(len)))
		err = raw_madvise(addr, len, advice) ? errno : 0;
	errno = saved;
	return err;
}

PRELOAD_EXPORT int mprotect(void *addr, size_t len, int prot)
{
	struct take_guard guard;

	if (OUTSIDE || nonsense(addr, len) || !take_meets(addr, whole(len)) ||
	    prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC))
		return raw_mprotect(addr, len, prot);
	take_lock(&guard);
	int err = take_protect((uintptr_t)addr, whole(len), prot);
	take_unlock(&guard);
	return err;
}

/* Paged memory cannot be locked: it succeeds without effect, as for a user whose limit allows it.
 */
PRELOAD_EXPORT int mlock(const void *addr, size_t len)
{
	return OUTSIDE || !take_holds(addr, len) ? raw_mlock(addr, len, 0) : 0;
}

PRELOAD_EXPORT int mlock2(const void *addr, size_t len, unsigned flags)
{
	return OUTSIDE || !take_holds(addr, len) ? raw_mlock(addr, len, flags) : 0;
}

PRELOAD_EXPORT int munlock(const void *addr, size_t len)
{
	return OUTSIDE || !take_holds(addr, len) ? raw_munlock(addr, len) : 0;
}

PRELOAD_EXPORT int mlockall(int flags)
{
	if (OUTSIDE)
		return raw_mlockall(flags);
	say_once("mlockall has no effect in a program whose memory is paged");
	return 0;
}

PRELOAD_EXPORT int fallocate(int fd, int mode, off_t off, off_t len)
{
	struct take_guard guard;
	int known = !OUTSIDE && take_has_files() && take_knows(fd), done;

	if (!OUTSIDE && !mode && off >= 0 && len > 0 && shared_size(fd, off + len, &done))
		return done;
	if (known && mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) {
		errno = EOPNOTSUPP;
		return -1;
	}
	int err = raw_fallocate(fd, mode, off, len);
	if (err || !known || !(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)))
		return err;
	take_lock(&guard);
	take_zero_file(fd, (uint64_t)off, (uint64_t)len);
	take_unlock(&guard);
	return 0;
}

PRELOAD_EXPORT int fallocate64(int fd, int mode, off64_t off, off64_t len)
    __attribute__((alias("fallocate")));
