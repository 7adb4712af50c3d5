/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Locks in memory that several nodes share. The C library's sleep in the kernel, which knows the
 * sleepers of its own machine only; so whoever would sleep on one that lies in an object that is
 * shared looks again after a moment instead. What is taken and given back is what the C library
 * has there: only waiting is done here, but for condition variables and barriers, which are nothing
 * but waiting, and have a layout of ours in their place, on all nodes.
 *
 * Not there: what tells owners apart by thread ids (recursive, error-checking, robust mutexes,
 * priorities), since two machines have the same ones. They are refused when they are made.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "preload.h"

#define NS          1000000000ull
#define SPINS       64      /* looks before the first sleep */
#define SLEEP_FIRST 20000   /* ns */
#define SLEEP_MOST  1000000 /* ns */

static struct {
	int (*mutex_init)(pthread_mutex_t *, const pthread_mutexattr_t *);
	int (*mutex_lock)(pthread_mutex_t *);
	int (*mutex_timedlock)(pthread_mutex_t *, const struct timespec *);
	int (*mutex_clocklock)(pthread_mutex_t *, clockid_t, const struct timespec *);
	int (*cond_init)(pthread_cond_t *, const pthread_condattr_t *);
	int (*cond_destroy)(pthread_cond_t *);
	int (*cond_wait)(pthread_cond_t *, pthread_mutex_t *);
	int (*cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
	int (*cond_clockwait)(pthread_cond_t *, pthread_mutex_t *, clockid_t,
			      const struct timespec *);
	int (*cond_signal)(pthread_cond_t *);
	int (*cond_broadcast)(pthread_cond_t *);
	int (*rdlock)(pthread_rwlock_t *);
	int (*wrlock)(pthread_rwlock_t *);
	int (*timedrdlock)(pthread_rwlock_t *, const struct timespec *);
	int (*timedwrlock)(pthread_rwlock_t *, const struct timespec *);
	int (*barrier_init)(pthread_barrier_t *, const pthread_barrierattr_t *, unsigned);
	int (*barrier_wait)(pthread_barrier_t *);
	int (*barrier_destroy)(pthread_barrier_t *);
	int (*sem_wait)(sem_t *);
	int (*sem_timedwait)(sem_t *, const struct timespec *);
	int (*sem_clockwait)(sem_t *, clockid_t, const struct timespec *);
} next;

/* Condition variables have two versions; an older one is what dlsym would find. */
static void *find(const char *name, const char *version)
{
	preload_inside++;
	void *symbol = version ? dlvsym(RTLD_NEXT, name, version) : NULL;
	preload_inside--;
	return symbol ? symbol : next_symbol(name);
}

#define NEXT(name, symbol, version)                                                                \
	({                                                                                         \
		if (!next.name)                                                                    \
			next.name = (__typeof__(next.name))find(symbol, version);                  \
		next.name;                                                                         \
	})
#define NEXT_COND(name) NEXT(name, "pthread_" #name, "GLIBC_2.3.2")

/* ---- waiting -------------------------------------------------------------------------------- */

struct wait {
	const struct timespec *until; /* NULL: for ever */
	clockid_t clock;
	unsigned looks;
	const struct heed *heed; /* NULL: signals do not end it */
};

/*
 * For who must return when a handler has run (EINTR): signals whose handlers end the wait are
 * blocked while it looks, so that one that comes then is not lost, and let in while it sleeps. The
 * others, after which it goes on, are let in while it looks. Bits are signals, from 1 at bit 0.
 */
struct heed {
	uint64_t had; /* blocked before */
	uint64_t ends, others;
};

static int is_over(const struct wait *wait)
{
	struct timespec now;

	if (!wait->until)
		return 0;
	clock_gettime(wait->clock, &now);
	return now.tv_sec > wait->until->tv_sec ||
	       (now.tv_sec == wait->until->tv_sec && now.tv_nsec >= wait->until->tv_nsec);
}

/* 0, or EINTR. Past the C library: to lock a mutex is no point of cancellation. */
static int sleep_for(long ns, const struct heed *heed)
{
	struct timespec time = { .tv_nsec = ns };

	if (!heed) {
		syscall(SYS_nanosleep, &time, NULL);
		return 0;
	}
	uint64_t mask = heed->had | heed->others;
	return syscall(SYS_ppoll, NULL, 0, &time, &mask, sizeof mask) < 0 && errno == EINTR ? EINTR
											    : 0;
}

/* Before the next look. Longer and longer, so that the page is not on its way all the time. */
static int pause_for(struct wait *wait)
{
	unsigned n = wait->looks++;
	long ns = SLEEP_FIRST;

	if (n < SPINS) {
		__builtin_ia32_pause();
		return 0;
	}
	if (wait->until && ((unsigned long)wait->until->tv_nsec >= NS))
		return EINVAL;
	if (is_over(wait))
		return ETIMEDOUT;
	for (n = (n - SPINS) / 8; n && ns < SLEEP_MOST; n--)
		ns *= 2;
	return sleep_for(ns, wait->heed);
}

#define FOR_EVER                                                                                   \
	{                                                                                          \
		0                                                                                  \
	}
#define UNTIL(when, which)                                                                         \
	{                                                                                          \
		.until = (when), .clock = (which)                                                  \
	}

/* ---- mutexes -------------------------------------------------------------------------------- */

/* Its first word is 0 when it is free: to read that does not take the page from who has it. */
static int lock_mutex(pthread_mutex_t *m, struct wait wait)
{
	for (;;) {
		int err = EBUSY;
		if (!__atomic_load_n(&m->__data.__lock, __ATOMIC_RELAXED))
			err = pthread_mutex_trylock(m);
		if (err != EBUSY)
			return err;
		err = pause_for(&wait);
		if (err)
			return err;
	}
}

PRELOAD_EXPORT int pthread_mutex_lock(pthread_mutex_t *m)
{
	if (!shared_holds(m))
		return NEXT(mutex_lock, "pthread_mutex_lock", NULL)(m);
	return lock_mutex(m, (struct wait)FOR_EVER);
}

PRELOAD_EXPORT int pthread_mutex_timedlock(pthread_mutex_t *m, const struct timespec *until)
{
	if (!shared_holds(m))
		return NEXT(mutex_timedlock, "pthread_mutex_timedlock", NULL)(m, until);
	return lock_mutex(m, (struct wait)UNTIL(until, CLOCK_REALTIME));
}

PRELOAD_EXPORT int pthread_mutex_clocklock(pthread_mutex_t *m, clockid_t clock,
					   const struct timespec *until)
{
	if (!shared_holds(m))
		return NEXT(mutex_clocklock, "pthread_mutex_clocklock", NULL)(m, clock, until);
	return lock_mutex(m, (struct wait)UNTIL(until, clock));
}

static int has_owner(const pthread_mutexattr_t *attr)
{
	int type = PTHREAD_MUTEX_NORMAL, robust = PTHREAD_MUTEX_STALLED,
	    protocol = PTHREAD_PRIO_NONE;

	if (!attr)
		return 0;
	pthread_mutexattr_gettype(attr, &type);
	pthread_mutexattr_getrobust(attr, &robust);
	pthread_mutexattr_getprotocol(attr, &protocol);
	return type == PTHREAD_MUTEX_RECURSIVE || type == PTHREAD_MUTEX_ERRORCHECK ||
	       robust != PTHREAD_MUTEX_STALLED || protocol != PTHREAD_PRIO_NONE;
}

PRELOAD_EXPORT int pthread_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *attr)
{
	if (shared_holds(m) && has_owner(attr)) {
		say_once("a mutex in memory that several nodes share is refused: recursive, "
			 "error-checking and robust ones, and those with priorities, tell owners "
			 "apart by thread ids, which are the same on several machines");
		return ENOTSUP;
	}
	return NEXT(mutex_init, "pthread_mutex_init", NULL)(m, attr);
}

/* ---- condition variables -------------------------------------------------------------------- */

/* In the place of the C library's. Zeros are one that is initialised, as there. */
struct cond {
	_Atomic(unsigned) turn; /* changes with each signal: to all, which is allowed */
	int clock;
};

static int wait_cond(struct cond *c, pthread_mutex_t *m, struct wait wait)
{
	unsigned turn = atomic_load(&c->turn);
	int err = pthread_mutex_unlock(m);

	if (err)
		return err;
	while (!err && atomic_load_explicit(&c->turn, memory_order_acquire) == turn)
		err = pause_for(&wait);
	pthread_mutex_lock(m);
	return err;
}

PRELOAD_EXPORT int pthread_cond_init(pthread_cond_t *at, const pthread_condattr_t *attr)
{
	struct cond *c = (struct cond *)at;

	if (!shared_holds(at))
		return NEXT_COND(cond_init)(at, attr);
	clockid_t clock = CLOCK_REALTIME;
	if (attr)
		pthread_condattr_getclock(attr, &clock);
	c->clock = clock;
	atomic_store(&c->turn, 0);
	return 0;
}

PRELOAD_EXPORT int pthread_cond_destroy(pthread_cond_t *at)
{
	return shared_holds(at) ? 0 : NEXT_COND(cond_destroy)(at);
}

PRELOAD_EXPORT int pthread_cond_wait(pthread_cond_t *at, pthread_mutex_t *m)
{
	if (!shared_holds(at))
		return NEXT_COND(cond_wait)(at, m);
	return wait_cond((struct cond *)at, m, (struct wait)FOR_EVER);
}

PRELOAD_EXPORT int pthread_cond_timedwait(pthread_cond_t *at, pthread_mutex_t *m,
					  const struct timespec *until)
{
	struct cond *c = (struct cond *)at;

	if (!shared_holds(at))
		return NEXT_COND(cond_timedwait)(at, m, until);
	return wait_cond(c, m, (struct wait)UNTIL(until, c->clock));
}

PRELOAD_EXPORT int pthread_cond_clockwait(pthread_cond_t *at, pthread_mutex_t *m, clockid_t clock,
					  const struct timespec *until)
{
	if (!shared_holds(at))
		return NEXT(cond_clockwait, "pthread_cond_clockwait", NULL)(at, m, clock, until);
	return wait_cond((struct cond *)at, m, (struct wait)UNTIL(until, clock));
}

static int signal_all(pthread_cond_t *at)
{
	atomic_fetch_add(&((struct cond *)at)->turn, 1);
	return 0;
}

PRELOAD_EXPORT int pthread_cond_signal(pthread_cond_t *at)
{
	return shared_holds(at) ? signal_all(at) : NEXT_COND(cond_signal)(at);
}

PRELOAD_EXPORT int pthread_cond_broadcast(pthread_cond_t *at)
{
	return shared_holds(at) ? signal_all(at) : NEXT_COND(cond_broadcast)(at);
}

/* ---- locks for readers and writers ---------------------------------------------------------- */

static int lock_rw(pthread_rwlock_t *l, int (*try)(pthread_rwlock_t *), struct wait wait)
{
	int err;

	while ((err = try(l)) == EBUSY && !(err = pause_for(&wait)))
		;
	return err;
}

PRELOAD_EXPORT int pthread_rwlock_rdlock(pthread_rwlock_t *l)
{
	if (!shared_holds(l))
		return NEXT(rdlock, "pthread_rwlock_rdlock", NULL)(l);
	return lock_rw(l, pthread_rwlock_tryrdlock, (struct wait)FOR_EVER);
}

PRELOAD_EXPORT int pthread_rwlock_wrlock(pthread_rwlock_t *l)
{
	if (!shared_holds(l))
		return NEXT(wrlock, "pthread_rwlock_wrlock", NULL)(l);
	return lock_rw(l, pthread_rwlock_trywrlock, (struct wait)FOR_EVER);
}

PRELOAD_EXPORT int pthread_rwlock_timedrdlock(pthread_rwlock_t *l, const struct timespec *until)
{
	if (!shared_holds(l))
		return NEXT(timedrdlock, "pthread_rwlock_timedrdlock", NULL)(l, until);
	return lock_rw(l, pthread_rwlock_tryrdlock, (struct wait)UNTIL(until, CLOCK_REALTIME));
}

PRELOAD_EXPORT int pthread_rwlock_timedwrlock(pthread_rwlock_t *l, const struct timespec *until)
{
	if (!shared_holds(l))
		return NEXT(timedwrlock, "pthread_rwlock_timedwrlock", NULL)(l, until);
	return lock_rw(l, pthread_rwlock_trywrlock, (struct wait)UNTIL(until, CLOCK_REALTIME));
}

/* ---- barriers ------------------------------------------------------------------------------- */

/* In the place of the C library's. */
struct barrier {
	_Atomic(unsigned) there, turn;
	unsigned wanted;
};

PRELOAD_EXPORT int pthread_barrier_init(pthread_barrier_t *at, const pthread_barrierattr_t *attr,
					unsigned wanted)
{
	struct barrier *b = (struct barrier *)at;

	if (!shared_holds(at))
		return NEXT(barrier_init, "pthread_barrier_init", NULL)(at, attr, wanted);
	if (!wanted)
		return EINVAL;
	b->wanted = wanted;
	atomic_store(&b->there, 0);
	atomic_store(&b->turn, 0);
	return 0;
}

PRELOAD_EXPORT int pthread_barrier_wait(pthread_barrier_t *at)
{
	struct barrier *b = (struct barrier *)at;
	struct wait wait = FOR_EVER;

	if (!shared_holds(at))
		return NEXT(barrier_wait, "pthread_barrier_wait", NULL)(at);
	unsigned turn = atomic_load(&b->turn);
	if (atomic_fetch_add(&b->there, 1) + 1 == b->wanted) {
		atomic_store(&b->there, 0);
		atomic_store(&b->turn, turn + 1);
		return PTHREAD_BARRIER_SERIAL_THREAD;
	}
	while (atomic_load(&b->turn) == turn)
		pause_for(&wait);
	return 0;
}

PRELOAD_EXPORT int pthread_barrier_destroy(pthread_barrier_t *at)
{
	return shared_holds(at) ? 0 : NEXT(barrier_destroy, "pthread_barrier_destroy", NULL)(at);
}

/* ---- semaphores ----------------------------------------------------------------------------- */

#define BIT(sig)  (1ull << ((sig)-1))
#define OWN_FIRST 32 /* and 33: the C library's own */
#define AT_ONCE                                                                                    \
	(BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGILL) | BIT(SIGTRAP) | BIT(SIGSYS))

/* As the kernel has it. */
struct action {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

/* As the kernel does it with the C library's: with a time each handler ends the wait, without one
 * those that were set without SA_RESTART. */
static void heed_begin(struct heed *heed, int timed)
{
	struct action action;

	for (int sig = 1; sig <= 64; sig++) {
		if (BIT(sig) & AT_ONCE || syscall(SYS_rt_sigaction, sig, NULL, &action, 8) ||
		    action.handler == SIG_DFL || action.handler == SIG_IGN)
			continue;
		if (sig != OWN_FIRST && sig != OWN_FIRST + 1 &&
		    (timed || !(action.flags & SA_RESTART)))
			heed->ends |= BIT(sig);
		else
			heed->others |= BIT(sig);
	}
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, &heed->ends, &heed->had, sizeof heed->had);
}

static void heed_end(void *arg)
{
	const struct heed *heed = arg;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &heed->had, NULL, sizeof heed->had);
}

static int take_sem(sem_t *s)
{
	/* its value is its first word */
	return __atomic_load_n((unsigned *)s, __ATOMIC_RELAXED) && !sem_trywait(s);
}

static int look_for_sem(sem_t *s, struct wait *wait)
{
	int err = 0;

	while (!err && !take_sem(s)) {
		err = pause_for(wait);
		pthread_testcancel();
	}
	return err;
}

static int wait_sem(sem_t *s, struct wait wait)
{
	struct heed heed = { 0 };
	volatile int err; /* a cancellation is a longjmp */

	pthread_testcancel();
	if (take_sem(s))
		return 0;
	heed_begin(&heed, wait.until != NULL);
	wait.heed = &heed;
	pthread_cleanup_push(heed_end, &heed);
	err = look_for_sem(s, &wait);
	pthread_cleanup_pop(1);
	if (err)
		errno = err;
	return err ? -1 : 0;
}

PRELOAD_EXPORT int sem_wait(sem_t *s)
{
	if (!shared_holds(s))
		return NEXT(sem_wait, "sem_wait", NULL)(s);
	return wait_sem(s, (struct wait)FOR_EVER);
}

PRELOAD_EXPORT int sem_timedwait(sem_t *s, const struct timespec *until)
{
	if (!shared_holds(s))
		return NEXT(sem_timedwait, "sem_timedwait", NULL)(s, until);
	return wait_sem(s, (struct wait)UNTIL(until, CLOCK_REALTIME));
}

PRELOAD_EXPORT int sem_clockwait(sem_t *s, clockid_t clock, const struct timespec *until)
{
	if (!shared_holds(s))
		return NEXT(sem_clockwait, "sem_clockwait", NULL)(s, clock, until);
	return wait_sem(s, (struct wait)UNTIL(until, clock));
}
