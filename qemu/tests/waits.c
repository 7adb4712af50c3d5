/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * waits.c: a thread is held where it waits for a lock, as gvm-stall.c holds vCPUs, by a signal that
 * is sent by the owner of the lock. It is held if nobody wakes it; but if the owner unlocks right
 * after, the unlock may wake the very thread that the signal is for, and then that one goes on:
 * held, it would keep the free lock from the others who wait.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* of qemu/atomic.h, and of GLib */
#define qatomic_read(p)             __atomic_load_n(p, __ATOMIC_RELAXED)
#define qatomic_set(p, v)           __atomic_store_n(p, v, __ATOMIC_RELAXED)
#define qatomic_load_acquire(p)     __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define qatomic_store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define smp_wmb()                   __atomic_thread_fence(__ATOMIC_RELEASE)
#define smp_rmb()                   __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define MAX(a, b)                   ((a) > (b) ? (a) : (b))

#include "gvm-waits.h"

#define TRIALS 100
#define LONG   5000 /* ms; more than a thread takes to run on a machine that is busy */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static GvmPlace place;
static unsigned go; /* those that are held go on when it changes */
static unsigned held, handled, done;

static void hold(int n, siginfo_t *info, void *context)
{
	unsigned now = qatomic_read(&go);
	bool stays = gvm_is_at(&place, context);

	(void)n;
	(void)info;
	qatomic_set(&held, stays);
	qatomic_store_release(&handled, 1);
	while (stays && qatomic_read(&go) == now)
		syscall(SYS_futex, &go, FUTEX_WAIT, now, NULL, NULL, 0);
}

static void *takes(void *tid)
{
	qatomic_store_release((int *)tid, (int)gettid());
	pthread_mutex_lock(&lock);
	__atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&lock);
	return NULL;
}

static bool await(const unsigned *what, unsigned atleast)
{
	for (int ms = 0; ms < LONG && qatomic_load_acquire(what) < atleast; ms++)
		usleep(1000);
	return qatomic_load_acquire(what) >= atleast;
}

/* A thread that waits for the lock. */
static pthread_t waiter(int *tid)
{
	GvmPlace at = { 0 };
	pthread_t thread;

	*tid = 0;
	pthread_create(&thread, NULL, takes, tid);
	while (!qatomic_load_acquire(tid) || !gvm_find_place(*tid, &at) || at.kind != GVM_IN_FUTEX)
		usleep(100);
	return thread;
}

/* True if the lock, once free, came to one of the two. @wake: the owner unlocks right after the
 * signal. */
static bool trial(bool wake, unsigned *was_held)
{
	pthread_t first, second;
	int first_tid, second_tid;
	bool came;

	held = handled = done = 0;
	pthread_mutex_lock(&lock);
	first = waiter(&first_tid);
	second = waiter(&second_tid);
	gvm_find_place(first_tid, &place);
	pthread_kill(first, SIGBUS);
	if (!wake)
		await(&handled, 1);
	pthread_mutex_unlock(&lock);
	came = await(&handled, 1) && await(&done, 1);
	*was_held += qatomic_read(&held);
	__atomic_add_fetch(&go, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &go, FUTEX_WAKE, 1000, NULL, NULL, 0);
	pthread_join(first, NULL);
	pthread_join(second, NULL);
	return came;
}

static void trials(const char *name, bool wake, unsigned count, unsigned *was_held, unsigned *stuck)
{
	*was_held = *stuck = 0;
	for (unsigned i = 0; i < count && *stuck < 3; i++)
		*stuck += !trial(wake, was_held);
	printf("%s: held=%u free lock not taken=%u\n", name, *was_held, *stuck);
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = hold, .sa_flags = SA_SIGINFO };
	unsigned was_held, stuck, wrong = 0;
	cpu_set_t one;

	sigaction(SIGBUS, &action, NULL);
	trials("not woken", false, 10, &was_held, &stuck);
	wrong += stuck || was_held != 10;
	trials("woken", true, TRIALS, &was_held, &stuck);
	wrong += stuck;
	/* here the one who unlocks is mostly faster than the signal */
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
	trials("woken, on one CPU", true, TRIALS, &was_held, &stuck);
	wrong += stuck;
	return wrong != 0;
}
