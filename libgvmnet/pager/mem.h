/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's side of paging: userfaultfd and its requests, and memory that is nobody's malloc's.
 * For the pager and dsm/. Nothing here knows of pages' states. Any thread.
 */
#ifndef GVM_PAGER_MEM_H
#define GVM_PAGER_MEM_H

#include <linux/falloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

/* Behave as an older kernel would, for tests. */
#define QUIRK_NO_MOVE        1u
#define QUIRK_NO_POISON      2u
#define QUIRK_NO_DIGESTS     4u
#define QUIRK_SLOW_HELPER    8u /* as on a machine that is very busy */
#define QUIRK_NO_CONTINUE_WP 16u
extern unsigned pager_quirks;

/* The system calls themselves: the C library's names for them may be somebody's who watches for the
 * program's mappings, to page them with this very pager. */
static inline void *sys_mmap(void *at, uint64_t bytes, int prot, int flags, int fd, uint64_t offset)
{
	return (void *)syscall(SYS_mmap, at, bytes, prot, flags, fd, offset);
}
static inline int sys_munmap(void *at, uint64_t bytes)
{
	return (int)syscall(SYS_munmap, at, bytes);
}
static inline void *sys_mremap(void *at, uint64_t bytes, uint64_t now, int flags, void *to)
{
	return (void *)syscall(SYS_mremap, at, bytes, now, flags, to);
}
static inline int sys_madvise(void *at, uint64_t bytes, int advice)
{
	return (int)syscall(SYS_madvise, at, bytes, advice);
}
static inline ssize_t sys_read(int fd, void *to, size_t bytes)
{
	return syscall(SYS_read, fd, to, bytes);
}
static inline int sys_punch(int fd, uint64_t offset, uint64_t bytes)
{
	return (int)syscall(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
			    bytes);
}

void *mem_map(uint64_t bytes);
void mem_unmap(void *base, uint64_t bytes);
/* A userfaultfd with these features; *features is what the kernel has. Logs why not. */
int mem_uffd(uint64_t want, uint64_t *features, int *fd);
int mem_register(int uffd, uint64_t addr, uint64_t len, uint64_t mode);
void mem_unregister(int uffd, uint64_t addr, uint64_t len);
/* 0, or -errno; *done is how many bytes were done before that. */
int mem_copy(int uffd, uint64_t to, const void *from, uint64_t len, bool wp, uint64_t *done);
int mem_zero(int uffd, uint64_t to, uint64_t len, uint64_t *done);
int mem_move(int uffd, uint64_t to, uint64_t from, uint64_t len, uint64_t *done);
int mem_protect(int uffd, uint64_t addr, uint64_t len, bool on);
int mem_poison(int uffd, uint64_t addr, uint64_t len);
void mem_wake(int uffd, uint64_t addr, uint64_t len);
bool mem_is_zero(const void *page);
/* Which of so many pages from base on are there: bit 0 of each byte. */
void mem_present(const void *base, uint32_t pages, unsigned char *present);
bool mem_has_move(uint64_t features);
bool mem_has_poison(uint64_t features);
/* Pages that a file in memory has, at their place in a mapping of it. wp: write-protected; before
 * 6.4 that is -EINVAL. */
int mem_continue(int uffd, uint64_t to, uint64_t len, bool wp);

#endif
