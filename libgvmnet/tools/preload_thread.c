/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Threads that this library starts work for it for as long as they live, and never run the
 * program's signal handlers.
 *
 * In a forked child they are started before its memory is served again: whatever that touches must
 * be there. glibc gives them stacks of the parent's threads, and looks at each one's vector of TLS
 * blocks, which the program's malloc may have put into memory that is paged: away, it is zeros,
 * which glibc takes for a vector that is too short and grows by the program's malloc, whose lock
 * somebody may have held at the fork. So they have stacks of a size that nobody else asks for, of
 * which glibc then finds their predecessors' alone; and the vectors of those are locked over a
 * fork.
 *
 * Any thread starts threads; threads_keep is called under take_lock.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include "preload.h"

#define STACK   ((1ul << 20) + 9 * PRELOAD_PAGE)
#define VECTORS 1024u /* of threads; those of more are not kept */
#define VECTOR  512u  /* bytes of one that may be looked at */
#define HEAD    64u   /* and before it */

static _Atomic(uintptr_t) vectors[VECTORS]; /* 0: not yet */

/* What glibc keeps of a thread begins with its own address, then its vector's (x86-64's ABI for
 * TLS). That of a thread that has ended is kept, too: its stack, with all that, waits for the next
 * one, which then is not noted twice.
 */
static void note_vector(void)
{
	uintptr_t at = ((const uintptr_t *)pthread_self())[1];

	for (unsigned i = 0; i < VECTORS; i++) {
		uintptr_t none = 0;

		if (atomic_load(&vectors[i]) == at ||
		    atomic_compare_exchange_strong(&vectors[i], &none, at))
			return;
	}
}

void threads_keep(int keep)
{
	for (unsigned i = 0; i < VECTORS; i++) {
		uintptr_t at = atomic_load(&vectors[i]);
		uintptr_t from = (at - HEAD) & ~(PRELOAD_PAGE - 1);
		uintptr_t to = (at + VECTOR + PRELOAD_PAGE - 1) & ~(PRELOAD_PAGE - 1);

		if (!at || !take_meets((void *)from, to - from))
			continue;
		if (keep)
			raw_mlock((void *)from, to - from, 0);
		else
			raw_munlock((void *)from, to - from);
	}
}

void threads_fork_child(void)
{
	for (unsigned i = 0; i < VECTORS; i++)
		atomic_store(&vectors[i], 0);
}

struct thread_start {
	void *(*fn)(void *arg);
	void *arg;
};

static void *thread_main(void *arg)
{
	struct thread_start start = *(struct thread_start *)arg;

	preload_inside = 1;
	note_vector();
	heap_free(arg);
	void *result = start.fn(start.arg);
	fd_threads--;
	return result;
}

/* As attr says (NULL: nothing) whether it is detached; nothing else is asked for here. */
static int own_attr(pthread_attr_t *own, const pthread_attr_t *attr)
{
	int detached = PTHREAD_CREATE_JOINABLE, err = pthread_attr_init(own);

	if (!err && attr)
		err = pthread_attr_getdetachstate(attr, &detached);
	if (!err)
		err = pthread_attr_setdetachstate(own, detached);
	return err ? err : pthread_attr_setstacksize(own, STACK);
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
			  void *arg)
{
	struct thread_start *start = heap_alloc(sizeof *start);
	pthread_attr_t own;
	sigset_t all, old;

	if (!start)
		return EAGAIN;
	*start = (struct thread_start){ fn, arg };
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	preload_inside++;
	fd_threads++;
	int err = own_attr(&own, attr);
	if (!err)
		err = __real_pthread_create(thread, &own, thread_main, start);
	preload_inside--;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err) {
		fd_threads--;
		heap_free(start);
	}
	return err;
}
