/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Threads of the program's whose stacks it gives them (pthread_attr_setstack), out of memory that
 * is paged. The C library keeps what it knows of a thread, its descriptor, at the top of the stack,
 * and there the kernel writes when the thread ends: a zero for those who join it; it also reads
 * which robust mutexes the thread has. It does not wait for a userfaultfd then, so these pages must
 * be here, and writable: the pager holds them from before the thread begins until it is no more.
 * Stacks that the C library makes are not paged.
 *
 * That a thread is no more is seen when it is joined, when its stack is unmapped, mapped over or
 * moved, or used again, and otherwise when threads are made: all are looked at whenever they have
 * become twice as many as the last look left. The pages of a few that have been joined stay held,
 * so that the next thread on the same stack costs no question to the pager.
 *
 * All under take_lock.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "preload.h"
#include "preload_take.h"

#define DESCRIPTOR PRELOAD_PAGE /* bytes at the top of a stack that have it; glibc's has 2,304 */
#define LOOK_FIRST 16u
#define JOINED     (-1)

struct kept {
	uintptr_t base, end; /* pages */
	pid_t tid;           /* 0: about to begin */
};

static struct {
	struct kept *at; /* ascending, disjoint */
	size_t room, look_at, joined;
	_Atomic(size_t) count;
} kept = { .look_at = LOOK_FIRST };

typedef int tell_fn(struct gvm_range *range, uint64_t offset, uint64_t bytes);

static void tell(const struct kept *pages, tell_fn *fn)
{
	for (uintptr_t at = pages->base; at < pages->end; at += PRELOAD_PAGE) {
		const struct seg *seg = table_at(&take.table, at);

		if (seg && seg->source)
			fn(seg->source->range, at - seg->source->base, PRELOAD_PAGE);
	}
}

/* The first that ends above addr. */
static size_t find(uintptr_t addr)
{
	size_t low = 0, high = kept.count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (kept.at[middle].end > addr)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static void drop(size_t i)
{
	tell(&kept.at[i], gvm_pager_let_go);
	memmove(&kept.at[i], &kept.at[i + 1], (kept.count - i - 1) * sizeof *kept.at);
	kept.count--;
}

void stack_forget(uintptr_t base, size_t len)
{
	size_t i = kept.count ? find(base) : 0;

	while (i < kept.count && kept.at[i].base < base + len)
		drop(i);
}

/* A thread that the kernel does not know any more has been cleared before. */
static int is_over(const struct kept *pages)
{
	return pages->tid == JOINED ||
	       (pages->tid && syscall(SYS_tgkill, take.pid, pages->tid, 0) && errno == ESRCH);
}

static void look(void)
{
	struct kept *to = kept.at;

	for (struct kept *from = kept.at; from < kept.at + kept.count; from++) {
		if (is_over(from))
			tell(from, gvm_pager_let_go);
		else
			*to++ = *from;
	}
	kept.count = (size_t)(to - kept.at);
	kept.look_at = 2 * kept.count + LOOK_FIRST;
	kept.joined = 0;
}

static int has_room(void)
{
	if (kept.count >= kept.look_at)
		look();
	if (kept.count < kept.room)
		return 1;
	size_t room = kept.room ? 2 * kept.room : LOOK_FIRST;
	struct kept *at = realloc(kept.at, room * sizeof *at);
	if (!at)
		return 0;
	kept.at = at;
	kept.room = room;
	return 1;
}

/* In a forked child there is one thread. */
void stack_fork_child(void)
{
	size_t i = 0;

	while (i < kept.count) {
		uintptr_t self = (uintptr_t)pthread_self();

		if (self >= kept.at[i].base && self < kept.at[i].end)
			kept.at[i++].tid = (pid_t)syscall(SYS_gettid);
		else
			drop(i);
	}
}

/* ---- making threads ------------------------------------------------------------------------- */

static struct kept top_of(const pthread_attr_t *attr)
{
	void *low = NULL;
	size_t bytes = 0;

	/* without a stack that is given the two add up to nothing */
	if (attr && pthread_attr_getstack(attr, &low, &bytes))
		return (struct kept){ 0 };
	uintptr_t top = (uintptr_t)low + bytes;
	if (top < DESCRIPTOR)
		return (struct kept){ 0 };
	return (struct kept){ .base = (top - DESCRIPTOR) & ~(PRELOAD_PAGE - 1),
			      .end = (top + PRELOAD_PAGE - 1) & ~(PRELOAD_PAGE - 1) };
}

/* -1: no memory. */
static int add(const struct kept *pages)
{
	size_t i = find(pages->base);

	if (i < kept.count && kept.at[i].base == pages->base && kept.at[i].end == pages->end) {
		kept.at[i].tid = 0;
		return 0;
	}
	stack_forget(pages->base, pages->end - pages->base);
	if (!has_room())
		return -1;
	i = find(pages->base);
	memmove(&kept.at[i + 1], &kept.at[i], (kept.count - i) * sizeof *kept.at);
	kept.at[i] = *pages;
	kept.count++;
	tell(pages, gvm_pager_hold);
	return 0;
}

/* Have the pages stay. 0: they are not paged; 1: they will; -1: no memory. */
static int keep(const struct kept *pages)
{
	size_t len = pages->end - pages->base;
	struct take_guard guard;
	int keeps = 0;

	if (!pages->base || !take_meets((void *)pages->base, len))
		return 0;
	take_lock(&guard);
	if (table_meets(&take.table, pages->base, len))
		keeps = add(pages) ? -1 : 1;
	take_unlock(&guard);
	return keeps;
}

/* The tid of the thread that has this address among its pages; JOINED: it is no more. */
static void note(uintptr_t addr, pid_t tid)
{
	struct take_guard guard;

	if (!kept.count)
		return;
	take_lock(&guard);
	size_t i = find(addr);
	if (i < kept.count && kept.at[i].base <= addr) {
		kept.at[i].tid = tid;
		if (tid == JOINED && ++kept.joined > LOOK_FIRST)
			look();
	}
	take_unlock(&guard);
}

struct start {
	void *(*fn)(void *arg);
	void *arg;
};

static void *run(void *arg)
{
	struct start start = *(struct start *)arg;

	heap_free(arg);
	note((uintptr_t)pthread_self(), (pid_t)syscall(SYS_gettid));
	return start.fn(start.arg);
}

typedef int create_fn(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
		      void *arg);

PRELOAD_EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attr,
				  void *(*fn)(void *), void *arg)
{
	static create_fn *real;

	if (!real)
		real = (create_fn *)next_symbol("pthread_create");
	if (!preload_ready() || preload_inside || !attr)
		return real(thread, attr, fn, arg);
	struct kept pages = top_of(attr);
	int keeps = keep(&pages);
	if (!keeps)
		return real(thread, attr, fn, arg);
	struct start *start = keeps > 0 ? heap_alloc(sizeof *start) : NULL;
	int err = EAGAIN;
	if (start) {
		*start = (struct start){ fn, arg };
		err = real(thread, attr, run, start);
	}
	if (err && keeps > 0)
		note(pages.base, JOINED);
	if (err && start)
		heap_free(start);
	return err;
}

/* ---- joining them --------------------------------------------------------------------------- */

/* The kernel has written. Whoever else may use the stack now learns of it from the caller. */
static int joined(int err, pthread_t thread)
{
	if (!err && !preload_inside)
		note((uintptr_t)thread, JOINED);
	return err;
}

#define NEXT(name)                                                                                 \
	static __typeof__(name) *real;                                                             \
	if (!real)                                                                                 \
	real = (__typeof__(name) *)next_symbol(#name)

PRELOAD_EXPORT int pthread_join(pthread_t thread, void **result)
{
	NEXT(pthread_join);
	return joined(real(thread, result), thread);
}

PRELOAD_EXPORT int pthread_tryjoin_np(pthread_t thread, void **result)
{
	NEXT(pthread_tryjoin_np);
	return joined(real(thread, result), thread);
}

PRELOAD_EXPORT int pthread_timedjoin_np(pthread_t thread, void **result,
					const struct timespec *until)
{
	NEXT(pthread_timedjoin_np);
	return joined(real(thread, result, until), thread);
}

PRELOAD_EXPORT int pthread_clockjoin_np(pthread_t thread, void **result, clockid_t clock,
					const struct timespec *until)
{
	NEXT(pthread_clockjoin_np);
	return joined(real(thread, result, clock, until), thread);
}
