/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The system calls that the preload library interposes, past all interposition, and the targets of
 * ld --wrap: what the objects in this library mean by mmap is this, not the program's mmap. Any
 * thread.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "preload.h"

__thread int preload_inside __attribute__((tls_model("initial-exec")));

void *raw_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);
}

int raw_munmap(void *addr, size_t len)
{
	return (int)syscall(SYS_munmap, addr, len);
}

void *raw_mremap(void *old, size_t old_len, size_t new_len, int flags, void *fixed)
{
	return (void *)syscall(SYS_mremap, old, old_len, new_len, flags, fixed);
}

int raw_madvise(void *addr, size_t len, int advice)
{
	return (int)syscall(SYS_madvise, addr, len, advice);
}

int raw_mprotect(void *addr, size_t len, int prot)
{
	return (int)syscall(SYS_mprotect, addr, len, prot);
}

int raw_mlock(const void *addr, size_t len, unsigned flags)
{
	return (int)(flags ? syscall(SYS_mlock2, addr, len, flags) : syscall(SYS_mlock, addr, len));
}

int raw_munlock(const void *addr, size_t len)
{
	return (int)syscall(SYS_munlock, addr, len);
}

int raw_mlockall(int flags)
{
	return (int)syscall(SYS_mlockall, flags);
}

int raw_fallocate(int fd, int mode, off_t off, off_t len)
{
	return (int)syscall(SYS_fallocate, fd, mode, off, len);
}

void raw_exit(int code)
{
	for (;;)
		syscall(SYS_exit_group, code);
}

pid_t raw_getpid(void)
{
	return (pid_t)syscall(SYS_getpid);
}

/* The names that ld --wrap gives to references from within this library. */
void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	return raw_mmap(addr, len, prot, flags, fd, off);
}

int __wrap_munmap(void *addr, size_t len);
int __wrap_munmap(void *addr, size_t len)
{
	return raw_munmap(addr, len);
}

void *__wrap_mremap(void *old, size_t old_len, size_t new_len, int flags, ...);
void *__wrap_mremap(void *old, size_t old_len, size_t new_len, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	void *fixed = flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) ? va_arg(ap, void *) : NULL;
	va_end(ap);
	return raw_mremap(old, old_len, new_len, flags, fixed);
}

int __wrap_madvise(void *addr, size_t len, int advice);
int __wrap_madvise(void *addr, size_t len, int advice)
{
	return raw_madvise(addr, len, advice);
}

int __wrap_mprotect(void *addr, size_t len, int prot);
int __wrap_mprotect(void *addr, size_t len, int prot)
{
	return raw_mprotect(addr, len, prot);
}

int __wrap_mlock(const void *addr, size_t len);
int __wrap_mlock(const void *addr, size_t len)
{
	return raw_mlock(addr, len, 0);
}

int __wrap_fallocate(int fd, int mode, off_t off, off_t len);
int __wrap_fallocate(int fd, int mode, off_t off, off_t len)
{
	return raw_fallocate(fd, mode, off, len);
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	return syscall(SYS_sendmsg, fd, msg, flags);
}

int __wrap_sendmmsg(int fd, struct mmsghdr *msgs, unsigned count, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *msgs, unsigned count, int flags)
{
	return (int)syscall(SYS_sendmmsg, fd, msgs, count, flags);
}

void __wrap__exit(int code) __attribute__((noreturn));
void __wrap__exit(int code)
{
	raw_exit(code);
}
