/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * preload_prog's shared memory objects: what a program may do with one whose name gvm run --shared
 * has, and two programs that work on one. But for what is refused, a kernel does the same.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include "preload_prog.h"

#define NAME   "/gvm-object"
#define BYTES  (4 * MIB + 1000)
#define MAPPED (4 * MIB + PAGE)
#define ROUNDS 20

/* On the first page. */
struct meeting {
	_Atomic unsigned turn, done;
};

static int fails(long result, int err)
{
	return result == -1 && errno == err;
}

static char *map_of(int fd)
{
	char *p = mmap(NULL, BYTES, RW, MAP_SHARED, fd, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

static int make(void)
{
	int fd = shm_open(NAME, O_RDWR | O_CREAT | O_EXCL, 0600);

	CHECK(fd >= 0 && !ftruncate(fd, BYTES));
	return fd;
}

static off_t size_of(int fd)
{
	struct stat st;

	CHECK(!fstat(fd, &st));
	return st.st_size;
}

static int again(void)
{
	int fd = shm_open(NAME, O_RDWR, 0);

	CHECK(fd >= 0);
	return fd;
}

/* A name, a size, several descriptors, as ever. */
static void names(void)
{
	CHECK(fails(shm_open(NAME, O_RDWR, 0), ENOENT) && fails(shm_unlink(NAME), ENOENT));
	int fd = make(), other = again(), path = open("/dev/shm" NAME, O_RDWR), copy = dup(fd);
	CHECK(path >= 0 && copy >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
	CHECK(fails(shm_open(NAME, O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST));
	CHECK(size_of(fd) == BYTES && size_of(other) == BYTES && size_of(path) == BYTES);
	CHECK(!ftruncate(other, BYTES) && !posix_fallocate(other, 0, BYTES));
	char *p = map_of(fd), *q = map_of(copy);
	fill(p, BYTES, 1);
	CHECK(!close(fd) && !close(copy) && holds(q, BYTES, 1));
	CHECK(!munmap(p, BYTES) && holds(q, BYTES, 1) && !munmap(q, BYTES));
	q = map_of(path);
	CHECK(holds(q, BYTES, 1) && !munmap(q, BYTES) && faults(q));
	CHECK(!close(path) && !close(other));
}

/* Parts of it, and what may be done with them. */
static void parts(void)
{
	int fd = again();
	char *p = map_of(fd), *q = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, MIB);

	CHECK(q != MAP_FAILED && holds(p, BYTES, 1));
	memcpy(q, "a part", 6);
	CHECK(!memcmp(p + MIB, "a part", 6));
	CHECK(!munmap(p + 2 * MIB, 2 * PAGE) && faults(p + 2 * MIB) && faults(p + 2 * MIB + PAGE));
	p[2 * MIB + 2 * PAGE] = 1;
	CHECK(!munmap(p, MAPPED) && !memcmp(q, "a part", 6) && faults(p));
	CHECK(!munmap(q, 4 * PAGE) && faults(q));
	p = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED && !memcmp(p + MIB, "a part", 6) && faults(p));
	CHECK(!mprotect(p, BYTES, RW));
	fill(p, BYTES, 1);
	CHECK(!madvise(p, BYTES, MADV_DONTNEED) && holds(p, BYTES, 1) && !msync(p, BYTES, MS_SYNC));
	CHECK(!munmap(p, BYTES) && !close(fd));
}

/* What cannot be done fails; nothing is read or written elsewhere in secret. */
static void refused(void)
{
	char word[8] = "";
	int fd = again();
	char *p = map_of(fd);

	CHECK(fails(read(fd, word, 8), EBADF) && fails(write(fd, word, 8), EPERM));
	CHECK(fails(ftruncate(fd, 2 * BYTES), EFBIG) && size_of(fd) == BYTES);
	CHECK(fails((long)mmap(p, PAGE, RW, MAP_SHARED | MAP_FIXED, fd, 0), ENOTSUP));
	CHECK(fails((long)mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
		    ENOTSUP));
	CHECK(fails((long)mmap(NULL, PAGE, RW, MAP_PRIVATE, fd, 0), ENOTSUP));
	CHECK(fails((long)mmap(NULL, 2 * BYTES, RW, MAP_SHARED, fd, 0), EINVAL));
	CHECK(fails((long)mremap(p, BYTES, 2 * BYTES, MREMAP_MAYMOVE), ENOTSUP));
	CHECK(fails(madvise(p, BYTES, MADV_DOFORK), EINVAL) && !madvise(p, BYTES, MADV_DONTFORK));
	CHECK(holds(p, BYTES, 1) && !munmap(p, BYTES) && !close(fd));
}

/* Who has it mapped keeps it; the name is free at once. */
static void unlinked(void)
{
	int fd = again(), old = fd;
	char *p = map_of(fd);

	CHECK(!shm_unlink(NAME) && fails(shm_open(NAME, O_RDWR, 0), ENOENT));
	fd = make();
	char *q = map_of(fd);
	CHECK(zeros(q, BYTES) && holds(p, BYTES, 1));
	fill(q, BYTES, 2);
	CHECK(holds(p, BYTES, 1) && !munmap(p, BYTES) && holds(q, BYTES, 2));
	CHECK(!unlink("/dev/shm" NAME) && holds(q, BYTES, 2) && !munmap(q, BYTES));
	CHECK(!close(fd) && !close(old) && fails(shm_unlink(NAME), ENOENT));
	/* and one that nobody else ever sees */
	fd = shm_open(NAME, O_RDWR | O_CREAT | O_EXCL, 0600);
	CHECK(fd >= 0 && !shm_unlink(NAME) && !ftruncate(fd, BYTES) && size_of(fd) == BYTES);
	q = map_of(fd);
	fill(q, BYTES, 3);
	CHECK(holds(q, BYTES, 3) && !munmap(q, BYTES) && !close(fd));
}

void object(void)
{
	int fd = shm_open("/gvm-other", O_RDWR | O_CREAT, 0600); /* not shared with anybody */

	CHECK(fd >= 0 && !shm_unlink("/gvm-other") && write(fd, "local", 5) == 5);
	names();
	parts();
	refused();
	unlinked();
}

/* Names that look like each other's, or like what regions are called. */
static const char *const alike[] = {
	NAME, NAME ".2", NAME "..2", NAME ".", NAME "..", NAME ".object", NAME ".2.object",
};

#define ALIKE (sizeof alike / sizeof *alike)

static char *page_of(const char *name, int flags)
{
	int fd = shm_open(name, O_RDWR | flags, 0600);

	CHECK(fd >= 0 && (!flags || !ftruncate(fd, PAGE)));
	char *p = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED && !close(fd));
	return p;
}

static void long_names(void)
{
	char name[64] = "/";

	memset(name + 1, 'n', 55);
	CHECK(*page_of(name, O_CREAT | O_EXCL) == 0 && !shm_unlink(name));
	name[56] = 'n';
	CHECK(fails(shm_open(name, O_RDWR | O_CREAT, 0600), ENAMETOOLONG));
	memset(name + 28, 0, 36);
	memset(name + 1, '.', 27);
	CHECK(*page_of(name, O_CREAT | O_EXCL) == 0 && !shm_unlink(name));
	name[28] = '.';
	CHECK(fails(shm_open(name, O_RDWR | O_CREAT, 0600), ENAMETOOLONG));
}

/* Each name has memory of its own, in each of its lives. With '*' as the names that are shared. */
void object_names(void)
{
	char *p[2][ALIKE];

	for (size_t i = 0; i < 2 * ALIKE; i++) {
		char **at = &p[i / ALIKE][i % ALIKE];
		*at = page_of(alike[i % ALIKE], O_CREAT | O_EXCL);
		CHECK(zeros(*at, PAGE));
		fill(*at, PAGE, i + 1);
		CHECK(i >= ALIKE || !shm_unlink(alike[i])); /* it has it still */
	}
	for (size_t i = 0; i < 2 * ALIKE; i++)
		CHECK(holds(p[i / ALIKE][i % ALIKE], PAGE, i + 1));
	for (size_t i = 0; i < ALIKE; i++)
		CHECK(holds(page_of(alike[i], 0), PAGE, ALIKE + i + 1) && !shm_unlink(alike[i]));
	long_names();
	/* folders are none */
	CHECK(fails(shm_open("/..", O_RDWR | O_CREAT, 0600), EINVAL));
	CHECK(fails(shm_open("/.", O_RDWR | O_CREAT, 0600), EINVAL));
	int fd = open("/dev/shm/.", O_RDONLY | O_DIRECTORY);
	CHECK(fd >= 0 && !close(fd));
}

/* The child is a node of its own. */
void object_fork(void)
{
	char *p = map_of(make());

	fill(p, BYTES, 1);
	CHECK(fails(madvise(p + MIB, PAGE, MADV_DOFORK), EINVAL));
	pid_t pid = fork();
	if (!pid) {
		CHECK(faults(p) && faults(p + MIB));
		char *q = map_of(again());
		CHECK(holds(q, BYTES, 1));
		fill(q, BYTES, 2);
		exit(0);
	}
	wait_for(pid);
	CHECK(holds(p, BYTES, 2) && !shm_unlink(NAME));
}

/* One program leaves it, another one finds it. */
void object_left(void)
{
	char *p = map_of(make());

	CHECK(zeros(p, BYTES));
	fill(p, BYTES, 1);
}

void object_found(void)
{
	CHECK(holds(map_of(again()), BYTES, 1) && !shm_unlink(NAME));
}

/* By looking: nothing but this memory is common to the two, which may run on two machines. */
static void wait_until(_Atomic unsigned *what, unsigned value)
{
	while (atomic_load(what) < value)
		usleep(200);
}

/* Each page holds which it is, and a sum that both add to; each checks what the other has left. */
static void work(char *p, unsigned round)
{
	for (size_t at = PAGE; at + PAGE <= BYTES; at += PAGE) {
		uint64_t *word = (uint64_t *)(p + at);
		uint64_t want = round ? at * 31 + (uint64_t)round * (round + 1) / 2 : 0;
		CHECK(word[0] == want && word[511] == ~want * (round > 0));
		word[0] = at * 31 + (uint64_t)(round + 1) * (round + 2) / 2;
		word[511] = ~word[0];
	}
}

/* It becomes another program, which finds it; when that fails it has it still. */
void object_exec(void)
{
	char *p = map_of(make());

	fill(p, BYTES, 1);
	CHECK(fails(execl("/nowhere", "nobody", NULL), ENOENT));
	CHECK(holds(p, BYTES, 1));
	fill(p, BYTES, 1);
	execl("/proc/self/exe", "preload_prog", "object_found", NULL);
	CHECK(0);
}

static int told_to_end(void)
{
	struct pollfd in = { .fd = 0, .events = POLLIN };

	return poll(&in, 1, 0) != 0;
}

/* Started twice, with standard input open: they take turns until there is something to read, or it
 * is closed, to who has made the object. Each turn is told. */
void object_long(void)
{
	int fd = shm_open(NAME, O_RDWR | O_CREAT | O_EXCL, 0600);
	unsigned me = fd < 0, round = me;

	if (me)
		fd = again();
	else
		CHECK(!ftruncate(fd, BYTES));
	char *p = map_of(fd);
	struct meeting *all = (struct meeting *)p;
	for (;; round += 2) {
		wait_until(&all->turn, round);
		if (atomic_load(&all->done))
			break;
		work(p, round);
		if (!me && told_to_end())
			atomic_store(&all->done, 1);
		printf("turn %u\n", round);
		fflush(stdout);
		atomic_fetch_add(&all->turn, 1);
		if (!me && atomic_load(&all->done))
			break;
	}
	if (me) {
		atomic_store(&all->done, 2);
		return;
	}
	wait_until(&all->done, 2);
	CHECK(!shm_unlink(NAME));
	printf("all right\n");
}

/* Started twice, anywhere: who makes the object begins, and they take turns. */
void object_turns(void)
{
	int fd = shm_open(NAME, O_RDWR | O_CREAT | O_EXCL, 0600);
	unsigned me = fd < 0;

	if (me)
		fd = again();
	else
		CHECK(!ftruncate(fd, BYTES));
	CHECK(size_of(fd) == BYTES);
	char *p = map_of(fd);
	struct meeting *all = (struct meeting *)p;
	for (unsigned round = me; round < ROUNDS; round += 2) {
		wait_until(&all->turn, round);
		work(p, round);
		atomic_fetch_add(&all->turn, 1);
	}
	atomic_fetch_add(&all->done, 1);
	if (me)
		return;
	wait_until(&all->done, 2);
	CHECK(!shm_unlink(NAME));
	printf("%u turns, all right\n", ROUNDS);
}

/* ---- locks ---------------------------------------------------------------------------------- */

#define TIMES 300

struct locks {
	_Atomic unsigned made;
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	pthread_rwlock_t rw;
	pthread_barrier_t barrier;
	sem_t go, went;
	unsigned count, turn, inside, wrong;
};

static void make_locks(struct locks *l)
{
	pthread_mutexattr_t mutex, recursive;
	pthread_condattr_t cond;
	pthread_rwlockattr_t rw;

	CHECK(!pthread_mutexattr_init(&mutex) && !pthread_condattr_init(&cond) &&
	      !pthread_rwlockattr_init(&rw) && !pthread_mutexattr_init(&recursive));
	pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
	pthread_condattr_setpshared(&cond, PTHREAD_PROCESS_SHARED);
	pthread_condattr_setclock(&cond, CLOCK_MONOTONIC);
	pthread_rwlockattr_setpshared(&rw, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
	CHECK(pthread_mutex_init(&l->mutex, &recursive) == ENOTSUP);
	CHECK(!pthread_mutex_init(&l->mutex, &mutex) && !pthread_cond_init(&l->cond, &cond) &&
	      !pthread_rwlock_init(&l->rw, &rw) && !sem_init(&l->go, 1, 0) &&
	      !sem_init(&l->went, 1, 0) && !pthread_barrier_init(&l->barrier, NULL, 2));
	CHECK(sem_trywait(&l->go) == -1 && errno == EAGAIN);
	/* what does not come is waited for until then */
	struct timespec now, soon;
	clock_gettime(CLOCK_MONOTONIC, &now);
	soon = now;
	soon.tv_nsec = soon.tv_nsec < 900000000 ? soon.tv_nsec + 50000000 : 999999999;
	CHECK(!pthread_mutex_lock(&l->mutex));
	CHECK(pthread_cond_timedwait(&l->cond, &l->mutex, &soon) == ETIMEDOUT);
	CHECK(pthread_mutex_clocklock(&l->mutex, CLOCK_MONOTONIC, &soon) == ETIMEDOUT);
	CHECK(!pthread_mutex_unlock(&l->mutex));
	CHECK(sem_clockwait(&l->go, CLOCK_MONOTONIC, &soon) == -1 && errno == ETIMEDOUT);
	atomic_store(&l->made, 1);
}

/* Both add to what is no atomic number; then they take turns by the condition variable. */
static void use_locks(struct locks *l, unsigned me)
{
	for (unsigned i = 0; i < TIMES; i++) {
		CHECK(!pthread_mutex_lock(&l->mutex));
		l->count++;
		CHECK(!pthread_mutex_unlock(&l->mutex));
		CHECK(!pthread_rwlock_wrlock(&l->rw));
		l->wrong += l->inside++ != 0;
		l->inside--;
		CHECK(!pthread_rwlock_unlock(&l->rw));
	}
	pthread_barrier_wait(&l->barrier);
	CHECK(l->count == 2 * TIMES && !pthread_rwlock_rdlock(&l->rw) && !l->wrong &&
	      !pthread_rwlock_unlock(&l->rw));
	CHECK(!pthread_mutex_lock(&l->mutex));
	for (unsigned i = me; i < TIMES; i += 2) {
		while (l->turn != i)
			CHECK(!pthread_cond_wait(&l->cond, &l->mutex));
		l->turn++;
		CHECK(!pthread_cond_signal(&l->cond));
	}
	CHECK(!pthread_mutex_unlock(&l->mutex));
	for (unsigned i = 0; i < TIMES; i++) {
		CHECK(!(me ? sem_wait(&l->go) : sem_post(&l->go)));
		CHECK(!(me ? sem_post(&l->went) : sem_wait(&l->went)));
	}
}

static _Atomic unsigned alarms, post_with; /* the alarm that posts; 0: none does */
static sem_t *posted;

static void on_alarm(int sig)
{
	(void)sig;
	if (atomic_fetch_add(&alarms, 1) + 1 == atomic_load(&post_with))
		CHECK(!sem_post(posted));
}

/* Each 50 ms from now on: those that come before the wait has begun are not missed. */
static void alarm_with(int flags, unsigned post)
{
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = flags };
	struct itimerval each = { .it_interval = { 0, 50000 }, .it_value = { 0, 50000 } };

	atomic_store(&alarms, 0);
	atomic_store(&post_with, post);
	CHECK(!sigaction(SIGALRM, &action, NULL) && !setitimer(ITIMER_REAL, &each, NULL));
}

/* Not byte by byte: the C library fills only as much of a set as the kernel has signals. */
static int same_signals(const sigset_t *a, const sigset_t *b)
{
	for (int sig = 1; sig <= SIGRTMAX; sig++)
		if (sigismember(a, sig) != sigismember(b, sig))
			return 0;
	return 1;
}

/* Handlers of signals end the wait for a semaphore as with the kernel's. */
void object_signals(void)
{
	const struct itimerval never = { 0 };
	sigset_t before, after;
	struct timespec late;

	posted = (sem_t *)map_of(make());
	CHECK(!sem_init(posted, 1, 0) && !clock_gettime(CLOCK_REALTIME, &late));
	late.tv_sec += 120; /* never, unless something is broken */
	CHECK(!sigprocmask(SIG_SETMASK, NULL, &before));
	alarm_with(0, 0);
	CHECK(fails(sem_timedwait(posted, &late), EINTR) && alarms);
	alarm_with(0, 0);
	CHECK(fails(sem_wait(posted), EINTR) && alarms);
	alarm_with(SA_RESTART, 0);
	CHECK(fails(sem_timedwait(posted, &late), EINTR) && alarms);
	alarm_with(SA_RESTART, 3);
	CHECK(!sem_wait(posted) && alarms >= 3);
	CHECK(!setitimer(ITIMER_REAL, &never, NULL) && !sigprocmask(SIG_SETMASK, NULL, &after));
	CHECK(same_signals(&before, &after) && !shm_unlink(NAME));
}

/* Started twice: locks that are in the object. */
void object_locks(void)
{
	int fd = shm_open(NAME, O_RDWR | O_CREAT | O_EXCL, 0600);
	unsigned me = fd < 0;

	if (me)
		fd = again();
	else
		CHECK(!ftruncate(fd, BYTES));
	struct locks *l = (struct locks *)map_of(fd);
	if (!me)
		make_locks(l);
	wait_until(&l->made, 1);
	use_locks(l, me);
	if (me)
		return;
	CHECK(!shm_unlink(NAME));
	printf("locks hold\n");
}

/* It is killed when it has written. */
void object_killed(void)
{
	char *p = map_of(make());

	fill(p + MIB, MIB, 1);
	atomic_store((_Atomic unsigned *)p, 1);
	CHECK(write(1, "ready\n", 6) == 6);
	pause();
}

/* Another one changes it. It makes nothing. */
void object_changed(void)
{
	char *p = map_of(again());

	fill(p + MIB, MIB, 2);
}

/* Who made it is dead; what the one above has left is there, in its size. */
void object_orphan(void)
{
	int fd = again();

	CHECK(size_of(fd) == BYTES && holds(map_of(fd) + MIB, MIB, 2) && !shm_unlink(NAME));
}

static void on_bus(int sig)
{
	(void)sig;
	_exit(0);
}

/* It reads what was written; when that one is gone it must not read anything else. */
void object_outlives(void)
{
	char *p = map_of(again());

	signal(SIGBUS, on_bus);
	wait_until((_Atomic unsigned *)p, 1);
	CHECK(holds(p + MIB, MIB / 2, 1));
	CHECK(!shm_unlink(NAME) && write(1, "ready\n", 6) == 6);
	getchar();
	CHECK(holds(p + MIB, MIB / 2, 1));                /* has copies of it */
	CHECK(holds(p + MIB + MIB / 2, MIB / 2, 1) && 0); /* only that one had this: SIGBUS */
}
