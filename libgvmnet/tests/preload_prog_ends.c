/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ends of threads whose stacks are paged memory, scenarios of preload_prog: what the kernel writes
 * then, and reads, lies at the top of the stack, and it does not wait for pages.
 */
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#if __has_include(<sys/rseq.h>)
#include <sys/rseq.h>
#endif
#include "preload_prog.h"

#define ROUNDS 12
#define STACK  (4 * MIB)
#define LITTLE (128 * 1024ul) /* a stack beside others in a block that is taken over */
#define MANY   24u
#define TIMES  12u

static pthread_mutex_t robust;
static sem_t ready;
static _Atomic int go;
static _Atomic pid_t tid;

static void make_robust(void)
{
	pthread_mutexattr_t attr;

	CHECK(!pthread_mutexattr_init(&attr));
	CHECK(!pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST));
	CHECK(!pthread_mutex_init(&robust, &attr));
}

/* The kernel writes there whenever the thread goes on. */
static void without_rseq(void)
{
#ifdef RSEQ_SIG
	char *area = (char *)__builtin_thread_pointer() + __rseq_offset;

	syscall(SYS_rseq, area, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
#endif
}

/* From here to its end the thread touches no page that it has touched before but its frame's. */
__attribute__((noinline)) static void vanish(void)
{
	volatile char far[3 * PAGE];

	far[0] = 1;
	CHECK(!sem_post(&ready));
	without_rseq();
	while (!go)
		syscall(SYS_futex, &go, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	syscall(SYS_exit, 0);
	far[1] = far[0];
}

static void *lock_and_vanish(void *arg)
{
	tid = (pid_t)syscall(SYS_gettid);
	CHECK(!pthread_mutex_lock(&robust));
	vanish();
	return arg;
}

static struct timespec soon(void)
{
	struct timespec until;

	CHECK(!clock_gettime(CLOCK_REALTIME, &until));
	until.tv_sec += 120; /* never, unless something is broken */
	return until;
}

/* Not by joining it, which would bring the page. */
static void await_end(pid_t thread)
{
	struct timespec until = soon(), now;

	while (!syscall(SYS_tgkill, getpid(), thread, 0)) {
		CHECK(!clock_gettime(CLOCK_REALTIME, &now) && now.tv_sec < until.tv_sec);
		sched_yield();
	}
}

enum way { TIMED, DETACHED, TRIED, JOINED, WAYS };

static void join(pthread_t thread, enum way way)
{
	struct timespec until = soon();

	if (way == TIMED)
		CHECK(!pthread_timedjoin_np(thread, NULL, &until));
	else if (way == TRIED)
		CHECK(!pthread_tryjoin_np(thread, NULL));
	else if (way == JOINED)
		CHECK(!pthread_join(thread, NULL));
	CHECK(pthread_mutex_timedlock(&robust, &until) == EOWNERDEAD);
	CHECK(!pthread_mutex_consistent(&robust) && !pthread_mutex_unlock(&robust));
}

static void end_once(char *stack, char *walk, unsigned round)
{
	pthread_t thread;
	pthread_attr_t attr;

	go = 0;
	CHECK(!pthread_attr_init(&attr));
	CHECK(!pthread_attr_setstack(&attr, stack, STACK));
	CHECK(!pthread_create(&thread, &attr, lock_and_vanish, NULL));
	if (round % WAYS == DETACHED)
		CHECK(!pthread_detach(thread));
	CHECK(!sem_wait(&ready));
	for (unsigned i = 0; i < 3; i++)
		fill(walk, size, round * 4 + i);
	CHECK(holds(walk, size, round * 4 + 2));
	go = 1;
	syscall(SYS_futex, &go, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	await_end(tid);
	join(thread, round % WAYS);
}

/* A thread ends after others have used far more memory than may be here. Its stack is used again,
 * but for every third time. */
void stack_ends(void)
{
	char *walk = map(size), *stack = map(STACK);

	make_robust();
	CHECK(!sem_init(&ready, 0, 0));
	for (unsigned round = 0; round < ROUNDS; round++) {
		end_once(stack, walk, round);
		if (round % 3 < 2)
			continue;
		CHECK(!munmap(stack, STACK));
		stack = map(STACK);
	}
}

/* ---- many of them --------------------------------------------------------------------------- */

static pthread_barrier_t all_here;

static void *meet(void *arg)
{
	int err = pthread_barrier_wait(&all_here);

	CHECK(!err || err == PTHREAD_BARRIER_SERIAL_THREAD);
	return arg;
}

static void on_stack(pthread_attr_t *attr, char *stack, int state)
{
	CHECK(!pthread_attr_init(attr));
	CHECK(!pthread_attr_setstack(attr, stack, LITTLE));
	CHECK(!pthread_attr_setdetachstate(attr, state));
}

/* None is over before all have begun. */
static void join_many(char *stacks)
{
	pthread_t thread[MANY];
	pthread_attr_t attr;
	void *result;

	CHECK(!pthread_barrier_init(&all_here, NULL, MANY));
	for (unsigned i = 0; i < MANY; i++) {
		on_stack(&attr, stacks + i * LITTLE, PTHREAD_CREATE_JOINABLE);
		CHECK(!pthread_create(&thread[i], &attr, meet, stacks + i));
	}
	for (unsigned i = 0; i < MANY; i++) {
		CHECK(!pthread_join(thread[i], &result));
		CHECK(result == stacks + i);
	}
}

static pthread_t forker;

static void *join_forker(void *arg)
{
	void *result;

	CHECK(!pthread_join(forker, &result) && result == &forker);
	exit(0);
	return arg;
}

/* In the child it is the first thread, and its stack is as it was. */
static void *fork_here(void *stack)
{
	pthread_attr_t attr;
	pthread_t thread;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		join_many((char *)stack + 2 * LITTLE);
		on_stack(&attr, (char *)stack + LITTLE, PTHREAD_CREATE_JOINABLE);
		CHECK(!pthread_create(&thread, &attr, join_forker, NULL));
		pthread_exit(&forker);
	}
	wait_for(pid);
	return &forker;
}

static void forks(char *stacks)
{
	pthread_attr_t attr;
	void *result;

	on_stack(&attr, stacks, PTHREAD_CREATE_JOINABLE);
	CHECK(!pthread_create(&forker, &attr, fork_here, stacks));
	CHECK(!pthread_join(forker, &result) && result == &forker);
}

static _Atomic pid_t tids[MANY];

static void *say_tid(void *to)
{
	*(_Atomic pid_t *)to = (pid_t)syscall(SYS_gettid);
	return to;
}

/* Each on a stack of its own that is never used again, and none joined. In the end they are all
 * over for the kernel too. */
static void detach_many(char *stacks)
{
	pthread_attr_t attr;
	pthread_t thread;

	for (unsigned i = 0; i < MANY; i++) {
		tids[i] = 0;
		on_stack(&attr, stacks + i * LITTLE, PTHREAD_CREATE_DETACHED);
		CHECK(!pthread_create(&thread, &attr, say_tid, &tids[i]));
	}
	for (unsigned i = 0; i < MANY; i++) {
		while (!tids[i])
			sched_yield();
		await_end(tids[i]);
	}
}

/* Threads come and go on stacks that are used again, in a forked child too, in memory that moves
 * when they are over, and that is given back. */
void stack_many(void)
{
	size_t bytes = (MANY + 2) * LITTLE;
	char *stacks = map(bytes);

	for (unsigned i = 0; i < TIMES; i++)
		join_many(stacks + 2 * LITTLE);
	forks(stacks);
	join_many(stacks + 2 * LITTLE);
	stacks = mremap(stacks, bytes, 2 * bytes, MREMAP_MAYMOVE);
	CHECK(stacks != MAP_FAILED);
	join_many(stacks + bytes);
	CHECK(!munmap(stacks, 2 * bytes));
	for (unsigned i = 0; i < TIMES; i++)
		detach_many(map(MANY * LITTLE));
	stacks = map(bytes);
	fill(stacks, bytes, 1);
	CHECK(holds(stacks, bytes, 1));
	join_many(stacks);
}
