/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Memory that nodes share, each by an engine and a mapping of its own: nothing that is stored is
 * lost, nothing is seen that was not there, and what a program does with its mapping does no harm.
 */
#include <semaphore.h>
#include <time.h>
#include "dsm_rig.h"
#include "each_alone.h"

static uint64_t *word(struct node *n, uint64_t page, unsigned i)
{
	return (uint64_t *)(n->mem + page * PAGE) + i;
}

/* ---- contents ------------------------------------------------------------------------------ */

static void one_sees_what_the_other_has_written(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { .nodes = 2, .pages = 64 };

		open_bed(&bed, kind);
		for (uint64_t p = 0; p < bed.pages; p++)
			assert_int_equal(*word(&bed.node[p % 2], p, 5), 0);
		for (unsigned round = 1; round < 4; round++) {
			struct node *w = &bed.node[round % 2], *r = &bed.node[!(round % 2)];

			for (uint64_t p = 0; p < bed.pages; p++)
				for (unsigned i = 0; i < PAGE / 8; i++)
					*word(w, p, i) = round << 20 | (p * 512 + i);
			for (uint64_t p = 0; p < bed.pages; p++)
				for (unsigned i = 0; i < PAGE / 8; i++)
					assert_int_equal(*word(r, p, i),
							 round << 20 | (p * 512 + i));
		}
		close_bed(&bed);
	}
}

#define ADDED_NS 60000000000ull /* by when adders are done; they need a second or two */

struct adder {
	struct node *node;
	unsigned number, times;
	uint64_t until;
};

/* Sums on a few pages, from both nodes, whose pages come and go meanwhile. */
static void *add(void *arg)
{
	struct adder *a = arg;
	uint64_t x = a->number * 77 + 1;

	for (unsigned i = 0; i < a->times && gvm_now() < a->until; i++) {
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		__atomic_fetch_add(word(a->node, x >> 62, x >> 40 & 7), 1, __ATOMIC_SEQ_CST);
		if (x >> 33 & 1)
			(void)__atomic_load_n(word(a->node, x >> 50 & 3, 0), __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* The sum that they come to in time. */
static uint64_t run_adders(struct bed *bed, unsigned threads, unsigned times)
{
	struct adder adder[16];
	pthread_t thread[16];
	uint64_t sum = 0, until = gvm_now() + ADDED_NS;

	for (unsigned i = 0; i < threads; i++) {
		adder[i] = (struct adder){ &bed->node[i % bed->nodes], i, times, until };
		pthread_create(&thread[i], NULL, add, &adder[i]);
	}
	for (unsigned i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	for (uint64_t p = 0; p < 4; p++)
		for (unsigned i = 0; i < 8; i++)
			sum += *word(&bed->node[0], p, i);
	return sum;
}

/* A store that came after the page was read for sending, or on a page taken away, would be missing.
 */
static void no_store_is_lost(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { .nodes = 3, .pages = 8, .hold_ns = 50000 };

		open_bed(&bed, kind);
		assert_int_equal(run_adders(&bed, 6, 2000), 12000);
		close_bed(&bed);
	}
}

/* Without leaving a page to a thread for a while everything ends just the same. */
static void threads_come_forward_without_a_hold(void **state)
{
	struct bed bed = { .nodes = 2, .pages = 8 };

	open_bed(&bed, &kinds[0]);
	assert_int_equal(run_adders(&bed, 4, 300), 1200);
	close_bed(&bed);
}

struct pair {
	struct node *node;
	uint64_t last;
	bool stop;
};

/* Two words on two pages: the second never is ahead of the first. */
static void *write_pairs(void *arg)
{
	struct pair *pair = arg;

	for (uint64_t i = 1; !__atomic_load_n(&pair->stop, __ATOMIC_RELAXED); i++) {
		__atomic_store_n(word(pair->node, 0, 0), i, __ATOMIC_RELEASE);
		__atomic_store_n(word(pair->node, 1, 0), i, __ATOMIC_RELEASE);
		pair->last = i;
	}
	return NULL;
}

static void a_reader_sees_stores_in_their_order(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { .nodes = 2, .pages = 2, .hold_ns = 20000 };
		struct pair pair = { .node = &bed.node[0] };
		uint64_t before = 0, until = gvm_now() + 20000000000ull;
		unsigned changes = 0;
		pthread_t thread;

		open_bed(&bed, kind);
		pthread_create(&thread, NULL, write_pairs, &pair);
		while (changes < 200 && gvm_now() < until) {
			uint64_t second =
			    __atomic_load_n(word(&bed.node[1], 1, 0), __ATOMIC_ACQUIRE);
			uint64_t first =
			    __atomic_load_n(word(&bed.node[1], 0, 0), __ATOMIC_ACQUIRE);

			assert_true(second >= before);
			assert_true(first >= second);
			changes += second != before;
			before = second;
		}
		__atomic_store_n(&pair.stop, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		assert_int_equal(changes, 200);
		assert_int_equal(*word(&bed.node[1], 1, 0), pair.last);
		close_bed(&bed);
	}
}

/* The kernel's own accesses wait for pages as those of programs do. */
static void system_calls_work_on_it(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { .nodes = 2, .pages = 4 };
		int fd[2];

		open_bed(&bed, kind);
		assert_int_equal(pipe(fd), 0);
		memset(bed.node[0].mem, 'x', 3 * PAGE);
		assert_int_equal(write(fd[1], bed.node[1].mem + 100, 2 * PAGE), 2 * PAGE);
		assert_int_equal(read(fd[0], bed.node[1].mem + PAGE + 7, 2 * PAGE), 2 * PAGE);
		for (unsigned i = 0; i < 3 * PAGE + 7; i++)
			assert_int_equal(bed.node[0].mem[i], 'x');
		assert_int_equal(bed.node[0].mem[3 * PAGE + 7], 0);
		close(fd[0]);
		close(fd[1]);
		close_bed(&bed);
	}
}

/* ---- a thread that has its page, but no CPU ------------------------------------------------- */

struct storer {
	struct dsm_memory *m;
	uint64_t *at;
	pthread_t thread;
	uint64_t opened_cpu_ns; /* its CPU time when its page was opened */
	sem_t has_run, go_home;
};

static uint64_t cpu_ns(pthread_t thread)
{
	struct timespec t;
	clockid_t clock;

	pthread_getcpuclockid(thread, &clock);
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int open_at_once(void *user, uint64_t page, enum ivy_access access)
{
	struct storer *s = user;

	s->opened_cpu_ns = cpu_ns(s->thread);
	dsm_memory_copy_write(s->m, page, NULL);
	dsm_memory_protect(s->m, page, access);
	return 1;
}

static int never(void *user, uint64_t page)
{
	return -EBUSY;
}

/* And has some CPU time afterwards. */
static void *store_once(void *arg)
{
	struct storer *s = arg;
	uint64_t began;

	__atomic_store_n(s->at, 1, __ATOMIC_RELAXED);
	began = cpu_ns(pthread_self());
	while (cpu_ns(pthread_self()) - began < 100000)
		;
	sem_post(&s->has_run);
	sem_wait(&s->go_home);
	return NULL;
}

static void pin(pthread_t thread, int cpu, int policy)
{
	struct sched_param priority = { .sched_priority = policy == SCHED_FIFO };
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (pthread_setaffinity_np(thread, sizeof(one), &one) != 0 ||
	    pthread_setschedparam(thread, policy, &priority) != 0)
		skip(); /* no right to */
}

#define LOOK_NS 10000 /* until it is to be asked again, at least */

/* How often it was looked at before the thread had any CPU time. Each time it must be held: from
 * when it was asked, for by now that time may be over. */
static unsigned times_held(struct storer *s, uint64_t page)
{
	unsigned times = 0;

	for (unsigned i = 0; i < 100; i++) {
		uint64_t now = gvm_now(), until = dsm_memory_held_until(s->m, page);

		if (cpu_ns(s->thread) != s->opened_cpu_ns)
			break;
		assert_true(until >= now + LOOK_NS);
		times++;
	}
	return times;
}

/* This thread has the CPU before the other, which has its page and cannot use it. */
static unsigned store_without_cpu(struct storer *s, uint64_t page, int cpu)
{
	struct pollfd poll_fd = { .fd = dsm_memory_fd(s->m, 0), .events = POLLIN };
	unsigned times;

	s->at = (uint64_t *)((char *)dsm_memory_base(s->m) + page * PAGE);
	assert_int_equal(dsm_memory_held_until(s->m, page), 0);
	pin(pthread_self(), cpu, SCHED_FIFO);
	pthread_create(&s->thread, NULL, store_once, s);
	pin(s->thread, cpu, SCHED_OTHER);
	while (dsm_memory_read(s->m, 0) == 0)
		poll(&poll_fd, 1, 1000);
	times = times_held(s, page);
	pin(pthread_self(), cpu, SCHED_OTHER);
	sem_wait(&s->has_run);
	assert_int_equal(dsm_memory_held_until(s->m, page), 0);
	sem_post(&s->go_home);
	pthread_join(s->thread, NULL);
	return times;
}

/* The kernel may let the other go first all the same, so that those of normal priority are not
 * starved: but not each time. */
static void a_page_is_left_until_its_thread_has_run(void **state)
{
	struct storer storer;
	struct dsm_memory_config c = { .pages = 100,
				       .hold_ns = 3600000000000,
				       .user = &storer,
				       .fault = open_at_once,
				       .evict = never };
	int cpu = sched_getcpu();
	unsigned times = 0;

	sem_init(&storer.has_run, 0, 0);
	sem_init(&storer.go_home, 0, 0);
	assert_int_equal(dsm_memory_open(&c, &storer.m), 0);
	for (uint64_t page = 0; page < c.pages && times < 100; page++)
		times += store_without_cpu(&storer, page, cpu);
	assert_true(times >= 100);
	dsm_memory_close(storer.m);
	sem_destroy(&storer.has_run);
	sem_destroy(&storer.go_home);
}

/* ---- the budget ---------------------------------------------------------------------------- */

static void what_is_here_stays_within_the_budget(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { .nodes = 2, .pages = 1024, .budget = 64 };
		uint64_t most = 0;

		open_bed(&bed, kind);
		for (uint64_t p = 0; p < bed.pages; p++) {
			*word(&bed.node[0], p, 1) = p + 1;
			if (memory_stats(&bed.node[0]).present > most)
				most = memory_stats(&bed.node[0]).present;
		}
		for (uint64_t p = 0; p < bed.pages; p++) {
			assert_int_equal(*word(&bed.node[1], p, 1), p + 1);
			*word(&bed.node[1], p, 2) = p + 2;
		}
		for (uint64_t p = bed.pages; p-- > 0;)
			assert_int_equal(*word(&bed.node[0], p, 2), p + 2);
		assert_true(most <= bed.budget + bed.budget / 16 + 1);
		assert_true(COMES_ABOUT(memory_stats(&bed.node[1]).present <= bed.budget));
		assert_true(memory_stats(&bed.node[0]).evictions > bed.pages / 2);
		close_bed(&bed);
	}
}

/* A part of it is kept for contents to come; the rest goes when nobody waits for anything. */
static void memory_of_no_use_is_given_back(void **state)
{
	struct bed bed = { .nodes = 2, .pages = 1000, .budget = 1000 };

	open_bed(&bed, &kinds[0]);
	for (unsigned node = 0; node < 2; node++)
		for (uint64_t p = 0; p < bed.pages; p++)
			*word(&bed.node[node], p, node) = p + 1;
	assert_true(COMES_ABOUT(memory_stats(&bed.node[0]).present == bed.budget / 8));
	for (uint64_t p = bed.pages; p-- > 0;)
		assert_int_equal(*word(&bed.node[0], p, 0), p + 1);
	assert_true(memory_stats(&bed.node[0]).present > bed.pages - 8);
	close_bed(&bed);
}

/* A page that is touched all the time is put aside, but not sent away. */
static void what_is_in_use_stays(void **state)
{
	struct bed bed = { .nodes = 2, .pages = 2000, .budget = 100 };
	uint64_t asked;

	open_bed(&bed, &kinds[0]);
	*word(&bed.node[0], 0, 0) = 1;
	asked = memory_stats(&bed.node[0]).faults_write;
	for (uint64_t p = 1; p < bed.pages; p++) {
		*word(&bed.node[0], p, 0) = 1;
		*word(&bed.node[0], 0, 0) += 1;
	}
	assert_int_equal(*word(&bed.node[0], 0, 0), bed.pages);
	assert_true(COMES_ABOUT(memory_stats(&bed.node[0]).faults_local > 10));
	assert_true(memory_stats(&bed.node[0]).faults_write - asked <= bed.pages + 20);
	close_bed(&bed);
}

/* The engine has no place for another page: one leaves, and the thread goes on. */
static void a_full_engine_makes_room(void **state)
{
	struct bed bed = { .nodes = 2, .pages = 300, .max_pages = 20 };

	open_bed(&bed, &kinds[0]);
	for (uint64_t p = 0; p < bed.pages; p++)
		*word(&bed.node[0], p, 1) = p + 1;
	for (uint64_t p = 0; p < bed.pages; p++)
		assert_int_equal(*word(&bed.node[0], p, 1), p + 1);
	close_bed(&bed);
}

/* ---- what a program does with its mapping -------------------------------------------------- */

static void a_discard_loses_nothing(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { .nodes = 2, .pages = 16 };

		open_bed(&bed, kind);
		for (uint64_t p = 0; p < bed.pages; p++)
			*word(&bed.node[0], p, 0) = p + 1;
		for (uint64_t p = 0; p < 8; p++) /* read-only on both sides */
			assert_int_equal(*word(&bed.node[1], p, 0), p + 1);
		for (unsigned i = 0; i < 2; i++) {
			madvise(bed.node[i].mem, bed.pages * PAGE, MADV_DONTNEED);
			for (uint64_t p = 0; p < bed.pages; p++)
				assert_int_equal(*word(&bed.node[i], p, 0), p + 1);
		}
		madvise(bed.node[0].mem, bed.pages * PAGE, MADV_DONTNEED);
		for (uint64_t p = 0; p < bed.pages; p++)
			*word(&bed.node[0], p, 0) += 1;
		madvise(bed.node[1].mem, bed.pages * PAGE, MADV_DONTNEED);
		for (uint64_t p = 0; p < bed.pages; p++)
			assert_int_equal(*word(&bed.node[1], p, 0), p + 2);
		close_bed(&bed);
	}
}

#define DISCARDS_NS 5000000000ull

struct discarder {
	struct bed *bed;
	uint64_t until;
	bool stop;
};

/* Not for ever: a scheduler may well let it discard a page each time before a thread that waits for
 * the page has used it. */
static void *discard(void *arg)
{
	struct discarder *d = arg;

	while (!__atomic_load_n(&d->stop, __ATOMIC_RELAXED) && gvm_now() < d->until) {
		for (unsigned i = 0; i < d->bed->nodes; i++)
			madvise(d->bed->node[i].mem, 4 * PAGE, MADV_DONTNEED);
		await_round(rounds_made());
	}
	return NULL;
}

static void no_store_is_lost_to_discards(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { .nodes = 2, .pages = 8, .hold_ns = 20000 };
		struct discarder d = { .bed = &bed, .until = gvm_now() + DISCARDS_NS };
		pthread_t thread;

		open_bed(&bed, kind);
		pthread_create(&thread, NULL, discard, &d);
		assert_int_equal(run_adders(&bed, 4, 1000), 4000);
		__atomic_store_n(&d.stop, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		close_bed(&bed);
	}
}

/* What is unmapped goes home, and what comes in its place is the program's. */
static void unmapped_pages_are_given_back(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { .nodes = 2, .pages = 16 };
		char *mine;

		open_bed(&bed, kind);
		for (uint64_t p = 0; p < bed.pages; p++)
			*word(&bed.node[0], p, 0) = p + 1;
		munmap(bed.node[0].mem + 4 * PAGE, 8 * PAGE);
		assert_true(COMES_ABOUT(memory_stats(&bed.node[0]).evictions == 8));
		mine = mmap(bed.node[0].mem + 4 * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		assert_ptr_equal(mine, bed.node[0].mem + 4 * PAGE);
		memset(mine, 'm', 8 * PAGE);
		for (uint64_t p = 0; p < bed.pages; p++) {
			assert_int_equal(*word(&bed.node[1], p, 0), p + 1);
			*word(&bed.node[1], p, 0) = p + 2;
		}
		for (uint64_t p = 0; p < bed.pages; p++)
			if (p < 4 || p >= 12)
				assert_int_equal(*word(&bed.node[0], p, 0), p + 2);
		for (unsigned i = 0; i < 8 * PAGE; i++)
			assert_int_equal(mine[i], 'm');
		close_bed(&bed);
		assert_int_equal(mine[0], 'm'); /* closing leaves it alone */
		munmap(mine, 8 * PAGE);
	}
}

static void moved_pages_raise_sigbus(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { .nodes = 2, .pages = 16 };
		char *moved;

		open_bed(&bed, kind);
		for (uint64_t p = 0; p < bed.pages; p++)
			*word(&bed.node[0], p, 0) = p + 1;
		moved = mremap(bed.node[0].mem + 2 * PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE);
		assert_true(moved != MAP_FAILED);
		assert_int_equal(signal_of(moved, false), SIGBUS);
		assert_int_equal(signal_of(moved, true), SIGBUS);
		assert_int_equal(signal_of(moved + PAGE, true), SIGBUS);
		for (uint64_t p = 0; p < bed.pages; p++) {
			assert_int_equal(*word(&bed.node[1], p, 0), p + 1);
			if (p != 2)
				assert_int_equal(*word(&bed.node[0], p, 0), p + 1);
		}
		munmap(moved, 2 * PAGE);
		close_bed(&bed);
	}
}

static void locked_pages_are_shared_too(void **state)
{
	struct bed bed = { .nodes = 2, .pages = 4 };

	open_bed(&bed, &kinds[0]);
	assert_int_equal(mlock(bed.node[0].mem, 4 * PAGE), 0);
	for (unsigned i = 0; i < 10; i++) {
		*word(&bed.node[i % 2], 1, 0) += 1;
		assert_int_equal(*word(&bed.node[!(i % 2)], 1, 0), i + 1);
	}
	close_bed(&bed);
}

/* The thread sanitizer lets no child of a process with threads be. */
static void no_children_under_tsan(void)
{
#ifdef __SANITIZE_THREAD__
	skip();
#endif
}

static void a_child_does_not_have_it(void **state)
{
	struct bed bed = { .nodes = 2, .pages = 4 };
	int status;
	pid_t pid;

	no_children_under_tsan();
	open_bed(&bed, &kinds[0]);
	*word(&bed.node[0], 0, 0) = 1;
	pid = fork();
	if (pid == 0)
		_exit(signal_of(bed.node[0].mem, false));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), SIGSEGV);
	*word(&bed.node[1], 0, 0) += 1;
	assert_int_equal(*word(&bed.node[0], 0, 0), 2);
	close_bed(&bed);
}

/* A child that lives on has the descriptors, but it is not waited for. */
static void it_closes_while_a_child_lives(void **state)
{
	struct bed bed = { .nodes = 1, .pages = 4 };
	int fd[2], status;
	char c;
	pid_t pid;

	no_children_under_tsan();
	open_bed(&bed, &kinds[0]);
	*word(&bed.node[0], 0, 0) = 1;
	assert_int_equal(pipe(fd), 0);
	pid = fork();
	if (pid == 0) {
		close(fd[1]);
		_exit((int)read(fd[0], &c, 1));
	}
	close_bed(&bed);
	close(fd[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 0);
	close(fd[0]);
}

/* ---- pages that cannot be had -------------------------------------------------------------- */

static void lose_home(struct bed *bed, unsigned node, unsigned home)
{
	struct node *n = &bed->node[node];

	pthread_mutex_lock(&n->lock);
	n->home_dies = 1 + (int)home;
	pthread_mutex_unlock(&n->lock);
	node_wake(n);
}

static void what_is_lost_raises_sigbus(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { .nodes = 2, .pages = 200 };
		int fd[2];

		open_bed(&bed, kind);
		for (uint64_t p = 0; p < bed.pages / 2; p++)
			*word(&bed.node[p & 1], p, 0) = p + 1;
		for (uint64_t p = 0; p < 8; p++) /* some write-protected */
			assert_int_equal(*word(&bed.node[1], p, 0), p + 1);
		lose_home(&bed, 1, 0);
		assert_true(COMES_ABOUT(signal_of((char *)word(&bed.node[1], 0, 0), false)));
		assert_int_equal(pipe(fd), 0);
		for (uint64_t p = 0; p < bed.pages; p++) {
			char *at = (char *)word(&bed.node[1], p, 0);
			bool lost = p % 2 == 0; /* of which node 0 is the home */

			if (lost && p % 3 == 0)
				assert_int_equal(write(fd[1], at, 8), -1);
			assert_int_equal(signal_of(at, p % 4 == 0), lost ? SIGBUS : 0);
			if (lost && p % 3 == 0) {
				madvise(at, PAGE, MADV_DONTNEED);
				assert_int_equal(write(fd[1], at, 8), -1);
				assert_int_equal(errno, EFAULT);
				assert_int_equal(signal_of(at, true), SIGBUS); /* for good */
			}
		}
		assert_int_equal(memory_stats(&bed.node[1]).poisoned, bed.pages / 2);
		close(fd[0]);
		close(fd[1]);
		close_bed(&bed);
	}
}

/* Whether accesses become possible in time, and how many were refused before. */
static bool is_had_again(struct node *n, uint64_t page, unsigned *refused)
{
	return COMES_ABOUT(signal_of((char *)word(n, page, 3), true) == 0 || ++*refused == 0);
}

static void set_full(struct bed *bed, int how)
{
	__atomic_store_n(&bed->full, how, __ATOMIC_SEQ_CST);
}

/* More pages than are kept account of; those of which node 0 is the home. Every third was here for
 * reading. */
static void what_there_was_no_room_for_is_asked_for_again(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { .nodes = 2, .pages = 800, .refuse_ns = 100000000 };
		struct node *n = &bed.node[1];
		unsigned refused = 0;

		open_bed(&bed, kind);
		for (uint64_t p = 0; p < bed.pages; p += 6)
			assert_int_equal(*word(n, p, 0), 0);
		set_full(&bed, FULL_REFUSES);
		for (uint64_t p = 0; p < bed.pages; p += 2)
			assert_int_equal(signal_of((char *)word(n, p, 3), true), SIGBUS);
		set_full(&bed, FULL_NOT);
		for (uint64_t p = 0; p < bed.pages; p += 2) {
			assert_true(is_had_again(n, p, &refused));
			*word(n, p, 1) = p + 1;
		}
		for (uint64_t p = 0; p < bed.pages; p += 2)
			assert_int_equal(*word(&bed.node[0], p, 1), p + 1);
		assert_int_equal(memory_stats(n).poisoned, 0);
		close_bed(&bed);
	}
}

/* While it lasts nothing is asked for, and what is discarded is refused as before. */
static void a_refusal_lasts_for_a_while(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { .nodes = 2, .pages = 4, .refuse_ns = 1500000000 };
		struct node *n = &bed.node[1];
		char *at;
		int fd[2];

		open_bed(&bed, kind);
		at = (char *)word(n, 2, 0);
		assert_int_equal(*word(n, 2, 0), 0);
		set_full(&bed, FULL_REFUSES);
		assert_int_equal(signal_of(at, true), SIGBUS);
		set_full(&bed, FULL_NOT);
		assert_int_equal(pipe(fd), 0);
		for (unsigned i = 0; i < 4; i++) {
			assert_int_equal(signal_of(at, i & 1), SIGBUS);
			assert_int_equal(write(fd[1], at, 8), -1);
			assert_int_equal(errno, EFAULT);
			madvise(at, PAGE, MADV_DONTNEED);
		}
		assert_true(COMES_ABOUT(memory_stats(n).refused == 1));
		/* what is lost meanwhile is so for good */
		lose_home(&bed, 1, 0);
		assert_true(
		    COMES_ABOUT(signal_of(at, false) == SIGBUS && memory_stats(n).poisoned == 1));
		close(fd[0]);
		close(fd[1]);
		close_bed(&bed);
	}
}

/* It was asked for all the time, and is there before the refusal's time is over. */
static void what_comes_after_all_can_be_used(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = {
			.nodes = 2, .pages = 64, .refuse_ns = 2 * SOON_NS, .wait_ns = 50000000
		};
		struct node *n = &bed.node[1];
		unsigned refused = 0;

		open_bed(&bed, kind);
		/* what takes longer than wait_ns by itself is refused before it comes, too */
		assert_true(COMES_ABOUT(signal_of((char *)word(n, 2, 0), false) == 0));
		assert_int_equal(*word(n, 2, 0), 0);
		for (uint64_t p = 0; p < 6; p += 2) {
			set_full(&bed, FULL_WAITS);
			assert_int_equal(signal_of((char *)word(n, p, 0), true), SIGBUS);
			set_full(&bed, FULL_NOT);
			assert_true(is_had_again(n, p, &refused));
			*word(n, p, 0) = p + 5;
			assert_true(is_had_again(&bed.node[0], p, &refused));
			assert_int_equal(*word(&bed.node[0], p, 0), p + 5);
		}
		close_bed(&bed);
	}
}

/* Of pages that are refused, for a while or for good, the addresses can be the program's again. */
static void refused_pages_can_be_unmapped(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { .nodes = 2, .pages = 64, .refuse_ns = 50000000 };
		struct node *n = &bed.node[1];
		char *mine[2], *at[2] = { NULL };

		open_bed(&bed, kind);
		at[0] = (char *)word(n, 2, 0), at[1] = (char *)word(n, 8, 0);
		set_full(&bed, FULL_REFUSES);
		for (unsigned i = 0; i < 2; i++) {
			if (i == 1) {
				set_full(&bed, FULL_NOT);
				lose_home(&bed, 1, 0);
			}
			assert_true(COMES_ABOUT(signal_of(at[i], true) == SIGBUS));
			assert_int_equal(munmap(at[i], PAGE), 0);
			mine[i] = mmap(at[i], PAGE, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
			assert_ptr_equal(mine[i], at[i]);
			memset(mine[i], 'm', PAGE);
		}
		for (uint64_t made = rounds_made(), i = 0; i < 10; i++, made = rounds_made())
			await_round(made); /* the time of the one that was for a while is over */
		for (unsigned i = 0; i < 2; i++)
			assert_int_equal(mine[i][0], 'm');
		close_bed(&bed);
		for (unsigned i = 0; i < 2; i++) {
			for (unsigned b = 0; b < PAGE; b++)
				assert_int_equal(mine[i][b], 'm');
			munmap(mine[i], PAGE);
		}
	}
}

/* ---- the interface ------------------------------------------------------------------------- */

static void what_makes_no_sense_is_refused(void **state)
{
	struct dsm_memory_config c = { .pages = 4, .fault = on_fault, .evict = on_evict };
	struct dsm_memory *m;

	c.pages = 0;
	assert_int_equal(dsm_memory_open(&c, &m), -EINVAL);
	c.pages = UINT32_MAX;
	assert_int_equal(dsm_memory_open(&c, &m), -EINVAL);
	c.pages = 4;
	c.budget = 15;
	assert_int_equal(dsm_memory_open(&c, &m), -EINVAL);
	c.budget = 0;
	c.fds = DSM_MEMORY_FDS_MAX + 1;
	assert_int_equal(dsm_memory_open(&c, &m), -EINVAL);
	c.fds = 1;
	c.evict = NULL;
	assert_int_equal(dsm_memory_open(&c, &m), -EINVAL);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_makes_no_sense_is_refused),
		cmocka_unit_test(one_sees_what_the_other_has_written),
		cmocka_unit_test(no_store_is_lost),
		cmocka_unit_test(threads_come_forward_without_a_hold),
		cmocka_unit_test(a_reader_sees_stores_in_their_order),
		cmocka_unit_test(system_calls_work_on_it),
		cmocka_unit_test(a_page_is_left_until_its_thread_has_run),
		cmocka_unit_test(what_is_here_stays_within_the_budget),
		cmocka_unit_test(memory_of_no_use_is_given_back),
		cmocka_unit_test(what_is_in_use_stays),
		cmocka_unit_test(a_full_engine_makes_room),
		cmocka_unit_test(a_discard_loses_nothing),
		cmocka_unit_test(no_store_is_lost_to_discards),
		cmocka_unit_test(unmapped_pages_are_given_back),
		cmocka_unit_test(moved_pages_raise_sigbus),
		cmocka_unit_test(locked_pages_are_shared_too),
		cmocka_unit_test(a_child_does_not_have_it),
		cmocka_unit_test(it_closes_while_a_child_lives),
		cmocka_unit_test(what_is_lost_raises_sigbus),
		cmocka_unit_test(what_there_was_no_room_for_is_asked_for_again),
		cmocka_unit_test(a_refusal_lasts_for_a_while),
		cmocka_unit_test(what_comes_after_all_can_be_used),
		cmocka_unit_test(refused_pages_can_be_unmapped),
	};

	return RUN_TESTS(tests);
}
