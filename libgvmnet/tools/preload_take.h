/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files that take over, change and give back share: the state, under the one lock. Only
 * preload_take.c, preload_anon.c, preload_file.c, preload_change.c and preload_stack.c.
 */
#ifndef GVM_PRELOAD_TAKE_H
#define GVM_PRELOAD_TAKE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include "preload.h"

#define MIB        ((size_t)1 << 20)
#define RW         (PROT_READ | PROT_WRITE)
#define POOL_PIECE (32 * MIB) /* larger mappings have a range of their own */

struct taking {
	pthread_mutex_t lock;
	struct table table;
	_Atomic(uintptr_t) low, high; /* everything that was ever in the table lies between */
	_Atomic(unsigned) files;      /* sources that stand for a file, and files that are lost */
	_Atomic(unsigned) parked;     /* segments of that state, at least when there is one */
	_Atomic(uint64_t) inodes;     /* bit i: there is or was a file with inode % 64 == i */
	struct gvm_cluster *cluster;
	struct gvm_net *net;
	struct gvm_pager *pager;
	pid_t pid;         /* whose threads the pager's are (not those of a vforked child) */
	_Atomic(int) lent; /* see take_lend */
	int failed;        /* why the pager could not be started; said once */
	unsigned number;   /* of the last region */
	size_t pooled;     /* bytes of all pools */
	uint64_t blocked;  /* signals, by the program, in the thread that has the lock */
};
extern struct taking take;

/* Around calls that may wait for a memory node for long: signals that simply end the program may do
 * so. Returns the set for take_immortal. */
uint64_t take_mortal(void);
void take_immortal(uint64_t set);

/* Give [base, base + bytes), which is mapped, to the pager, and fill in source. The first says
 * nothing on failure: something else will be tried. */
int take_try_attach(struct source *source, void *base, size_t bytes, int memfd, unsigned flags);
int take_attach(struct source *source, void *base, size_t bytes, int memfd, unsigned flags);

struct source *source_new(const char *what);
/* Free it if no segment refers to it. */
void source_drop(struct source *source);

/* A segment for addresses that are not in the table. */
int take_add(struct source *source, enum seg_state state, uintptr_t base, size_t bytes, int prot);
void take_widen(uintptr_t base, size_t bytes);
/* Cut segments at both ends of [base, base + len). -1 with errno. */
int take_cut(uintptr_t base, size_t len);
/* Remove the i-th segment, and its source with the last one. */
void take_forget(size_t i);
void take_discard(const struct seg *seg, uintptr_t from, uintptr_t to);
/* A reservation, or a part of it, becomes writable for the first time. -1 with errno. */
int take_reserved(uintptr_t base, size_t len, int prot);

/* ---- stacks of the program's threads: preload_stack.c ---- */
/* These addresses go, or what is in them does: before it happens. */
void stack_forget(uintptr_t base, size_t len);
/* When the pager has started in a forked child. */
void stack_fork_child(void);

/* ---- files that are known ---- */
/* Keep the file of a source, which is mapped at off, for as long as there is the source. */
void known_add(struct source *source, int fd, off_t off);
/* The source goes. */
void known_drop(struct source *source);
/* In a forked child: what it had of the source's file is its parent's. */
void known_lose(struct source *source);
/* Half a sentence why no mapping of this file can be paged, or NULL. */
const char *known_stream(uint64_t dev, uint64_t ino);
/* Is the segment of a file that the program can reach still? */
int known_open(const struct seg *seg);
/* The program unmaps the i-th segment. 1: its contents are kept, because the file is open. */
int known_park(size_t i);
/* May the range of this segment grow by more bytes of its file? */
int known_may_grow(const struct seg *seg, size_t more);
/* A whole range goes to other addresses, fixed or not: as mremap. */
void *take_move_range(size_t i, size_t new_len, int flags, void *fixed);
int take_holds_data(int fd, off_t off, size_t len);
int take_read_in(int fd, off_t off, char *to, size_t len);

/* MAP_FAILED with errno. */
void *take_fail(int err);
/* Undo a mapping that could not be attached, and its source; MAP_FAILED with errno. */
void *take_refuse(void *p, size_t len, struct source *source);
/* Flags for the system call: nothing is filled in or locked ahead, nothing is promised here. */
int take_quiet(int flags);

#endif
