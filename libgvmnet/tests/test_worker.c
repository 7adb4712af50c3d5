/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that a worker serves descriptors, timers and tasks of other threads in one wait, that what
 * a callback takes away is not called any more, and that no wake is lost.
 */
#include <errno.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/time.h>
#include <unistd.h>
#include "core/core.h"

#define MS                              1000000ULL
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

struct fixture {
	struct gvm_net *net;
	struct gvm_worker *worker;
};

static struct gvm_worker *open_worker(struct fixture *f, const char *spin_us)
{
	struct gvm_net_config net = { .transport = "loop", .node = GVM_NODE_NONE };
	struct gvm_worker_config config = { .cpu = -1 };

	assert_int_equal(gvm_option_set("GVM_SPIN_US", spin_us), 0);
	assert_int_equal(gvm_net_open(&net, &f->net), 0);
	assert_int_equal(gvm_worker_open(f->net, &config, &f->worker), 0);
	return f->worker;
}

static void close_worker(struct fixture *f)
{
	gvm_worker_close(f->worker);
	gvm_net_close(f->net);
}

/* ---- waits --------------------------------------------------------------------------------- */

static void wait_times_out(void **state)
{
	static const char *const spins[] = { "0", "50" };
	struct fixture f;
	unsigned i;

	for (i = 0; i < 2; i++) {
		struct gvm_worker *worker = open_worker(&f, spins[i]);
		uint64_t begin = gvm_now();

		assert_int_equal(gvm_worker_wait(worker, 3 * MS), 0);
		assert_true(gvm_now() - begin >= 3 * MS);
		begin = gvm_now();
		assert_int_equal(gvm_worker_wait(worker, 0), 0);
		assert_true(gvm_now() - begin < 1000 * MS);
		assert_int_equal(gvm_worker_progress(worker), 0);
		close_worker(&f);
	}
}

/* Each is a spin that the end of the wait ends. */
static void spin_often(struct gvm_worker *worker, unsigned times)
{
	while (times--)
		gvm_worker_wait(worker, 1);
}

/* Who loses the CPU in every second spin goes without for a while. */
static void who_is_pushed_aside_does_not_spin(void **state)
{
	struct fixture f;

	for (unsigned lost = 0; lost <= 48; lost += 48) {
		struct gvm_worker *worker = open_worker(&f, "1000");

		spin_often(worker, 64);
		assert_true(worker->cpu_lost > 0);
		worker->cpu_lost -= lost; /* as if that had happened since */
		spin_often(worker, 64);
		assert_int_equal(worker->spin_skip, lost ? 1024 : 0);
		spin_often(worker, 1024);
		assert_int_equal(worker->spin_skip, 0);
		close_worker(&f);
	}
}

static struct gvm_worker *to_wake;

static void on_alarm(int sig)
{
	gvm_worker_wake(to_wake);
}

static void wake_ends_a_wait(void **state)
{
	struct itimerval soon = { .it_value.tv_usec = 2000 };
	struct fixture f;

	to_wake = open_worker(&f, "0");
	gvm_worker_wake(to_wake);
	assert_int_equal(gvm_worker_wait(to_wake, GVM_NEVER), 1);
	assert_int_equal(gvm_worker_wait(to_wake, 0), 0);
	signal(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &soon, NULL);
	assert_true(gvm_worker_wait(to_wake, GVM_NEVER) >= 1);
	signal(SIGALRM, SIG_DFL);
	close_worker(&f);
}

/* ---- timers -------------------------------------------------------------------------------- */

#define TIMERS 1000

struct alarm {
	struct gvm_timer timer;
	uint64_t want;
	unsigned fired;
};

static uint64_t last_fired;
static unsigned fired_count;

static void on_fire(struct gvm_timer *timer)
{
	struct alarm *alarm = container_of(timer, struct alarm, timer);

	assert_true(alarm->want >= last_fired);
	last_fired = alarm->want;
	alarm->fired++;
	fired_count++;
}

static void timers_fire_in_order(void **state)
{
	static struct alarm alarms[TIMERS];
	struct fixture f;
	struct gvm_worker *worker = open_worker(&f, "0");
	uint64_t now = gvm_now();
	unsigned i, expect = 0;

	srandom(1);
	last_fired = 0;
	fired_count = 0;
	for (i = 0; i < TIMERS; i++) {
		alarms[i] = (struct alarm){ .timer.fn = on_fire };
		assert_int_equal(gvm_timer_set(worker, &alarms[i].timer, now + 1000 * MS), 0);
	}
	for (i = 0; i < TIMERS; i++) {
		alarms[i].want = now + (uint64_t)random() % (5 * MS);
		assert_int_equal(gvm_timer_set(worker, &alarms[i].timer, alarms[i].want), 0);
	}
	for (i = 0; i < TIMERS; i += 3) {
		gvm_timer_clear(worker, &alarms[i].timer);
		gvm_timer_clear(worker, &alarms[i].timer);
	}
	for (i = 0; i < TIMERS; i++)
		expect += i % 3 != 0;
	while (fired_count < expect)
		assert_true(gvm_worker_wait(worker, 5000 * MS) > 0);
	for (i = 0; i < TIMERS; i++)
		assert_int_equal(alarms[i].fired, i % 3 != 0);
	assert_true(gvm_now() >= last_fired);
	close_worker(&f);
}

static struct fixture again;

static void set_again(struct gvm_timer *timer)
{
	fired_count++;
	gvm_timer_set(again.worker, timer, 0);
}

/* A timer that is always due does not keep the rest from being served. */
static void timer_that_sets_itself(void **state)
{
	struct gvm_timer timer = { .fn = set_again };

	open_worker(&again, "0");
	fired_count = 0;
	gvm_timer_set(again.worker, &timer, 0);
	assert_int_equal(gvm_worker_wait(again.worker, GVM_NEVER), 1);
	assert_int_equal(gvm_worker_wait(again.worker, GVM_NEVER), 1);
	assert_int_equal(fired_count, 2);
	gvm_timer_clear(again.worker, &timer);
	close_worker(&again);
}

/* ---- watches ------------------------------------------------------------------------------- */

#define WATCHES 10

struct bell {
	struct gvm_watch watch;
	struct gvm_worker *worker;
	struct bell *all;
	unsigned rung;
};

/* The first that is called takes all the others away. */
static void take_others_away(struct gvm_watch *watch, uint32_t events)
{
	struct bell *bell = container_of(watch, struct bell, watch);
	unsigned i;

	assert_int_equal(events, EPOLLIN);
	bell->rung++;
	for (i = 0; i < WATCHES; i++)
		if (&bell->all[i] != bell) {
			gvm_worker_unwatch(bell->worker, &bell->all[i].watch);
			close(bell->all[i].watch.fd);
			memset(&bell->all[i].watch, 0xff, sizeof(bell->all[i].watch));
		}
	gvm_worker_unwatch(bell->worker, watch);
	close(watch->fd);
}

static void removed_watch_is_not_called(void **state)
{
	struct bell bells[WATCHES];
	struct fixture f;
	struct gvm_worker *worker = open_worker(&f, "0");
	unsigned i, rung = 0;

	for (i = 0; i < WATCHES; i++) {
		bells[i] = (struct bell){ .worker = worker, .all = bells };
		bells[i].watch.fd = eventfd(1, EFD_NONBLOCK);
		bells[i].watch.ready = take_others_away;
		assert_int_equal(gvm_worker_watch(worker, &bells[i].watch, EPOLLIN), 0);
	}
	assert_int_equal(gvm_worker_wait(worker, GVM_NEVER), 1);
	assert_int_equal(gvm_worker_progress(worker), 0);
	for (i = 0; i < WATCHES; i++)
		rung += bells[i].rung;
	assert_int_equal(rung, 1);
	close_worker(&f);
}

static void count_ring(struct gvm_watch *watch, uint32_t events)
{
	container_of(watch, struct bell, watch)->rung++;
}

static void rewatch_changes_the_mask(void **state)
{
	struct bell bell = { .watch = { .fd = eventfd(1, EFD_NONBLOCK), .ready = count_ring } };
	struct fixture f;
	struct gvm_worker *worker = open_worker(&f, "0");

	assert_int_equal(gvm_worker_watch(worker, &bell.watch, 0), 0);
	assert_int_equal(gvm_worker_progress(worker), 0);
	assert_int_equal(gvm_worker_rewatch(worker, &bell.watch, EPOLLIN), 0);
	assert_int_equal(gvm_worker_progress(worker), 1);
	gvm_worker_unwatch(worker, &bell.watch);
	assert_int_equal(gvm_worker_progress(worker), 0);
	assert_int_equal(bell.rung, 1);
	close(bell.watch.fd);
	bell.watch.fd = -1;
	assert_int_equal(gvm_worker_watch(worker, &bell.watch, EPOLLIN), -EBADF);
	close_worker(&f);
}

/* ---- tasks of other threads ---------------------------------------------------------------- */

#define SENDERS 3
#define TASKS   3000

struct errand {
	struct gvm_task task;
	unsigned number;
	struct sender *sender;
};

struct sender {
	struct gvm_worker *worker;
	struct errand errands[TASKS];
	unsigned next;
	pthread_t thread;
	sem_t caught_up; /* all that was sent has been run: the worker may go to sleep */
};

static void run_errand(struct gvm_task *task)
{
	struct errand *errand = container_of(task, struct errand, task);

	assert_int_equal(errand->number, errand->sender->next);
	errand->sender->next++;
	if (errand->number % 64 == 0)
		sem_post(&errand->sender->caught_up);
}

static void *send_errands(void *arg)
{
	struct sender *sender = arg;
	unsigned i;

	for (i = 0; i < TASKS; i++) {
		struct errand *errand = &sender->errands[i];

		*errand = (struct errand){ .task.fn = run_errand, .number = i, .sender = sender };
		gvm_worker_run(sender->worker, &errand->task);
		if (i % 64 == 0)
			sem_wait(&sender->caught_up);
	}
	return NULL;
}

/* With no time-out: a lost wake would hang this. */
static void run_tasks_of_threads(const char *spin_us)
{
	static struct sender senders[SENDERS];
	struct fixture f;
	struct gvm_worker *worker = open_worker(&f, spin_us);
	unsigned i, done = 0;

	memset(senders, 0, sizeof(senders));
	for (i = 0; i < SENDERS; i++) {
		senders[i].worker = worker;
		sem_init(&senders[i].caught_up, 0, 0);
		pthread_create(&senders[i].thread, NULL, send_errands, &senders[i]);
	}
	while (done < SENDERS * TASKS) {
		gvm_worker_wait(worker, GVM_NEVER);
		for (i = done = 0; i < SENDERS; i++)
			done += senders[i].next;
	}
	for (i = 0; i < SENDERS; i++)
		pthread_join(senders[i].thread, NULL);
	for (i = 0; i < SENDERS; i++)
		sem_destroy(&senders[i].caught_up);
	close_worker(&f);
}

static void tasks_when_sleeping(void **state)
{
	run_tasks_of_threads("0");
}

static void tasks_when_spinning(void **state)
{
	run_tasks_of_threads("200");
}

static void tasks_run_at_close(void **state)
{
	static struct sender sender;
	struct fixture f;
	struct errand *errand = &sender.errands[0];

	memset(&sender, 0, sizeof(sender));
	*errand = (struct errand){ .task.fn = run_errand, .sender = &sender };
	sem_init(&sender.caught_up, 0, 0);
	gvm_worker_run(open_worker(&f, "0"), &errand->task);
	close_worker(&f);
	assert_int_equal(sender.next, 1);
}

struct reader {
	struct gvm_worker *worker;
	unsigned open;
	atomic_int done;
};

static void *read_often(void *arg)
{
	struct reader *reader = arg;
	struct gvm_net_stats stats;

	for (unsigned i = 0; i < 1000; i++) {
		gvm_worker_wake(reader->worker);
		gvm_worker_stats(reader->worker, &stats);
		reader->open += stats.peers_open;
	}
	atomic_store(&reader->done, 1);
	gvm_worker_wake(reader->worker);
	return NULL;
}

/* Statistics may be read while the worker runs (the thread sanitizer has the last word on that). */
static void statistics_from_another_thread(void **state)
{
	struct fixture f;
	struct reader reader = { .worker = open_worker(&f, "0") };
	pthread_t thread;

	pthread_create(&thread, NULL, read_often, &reader);
	while (!atomic_load(&reader.done))
		gvm_worker_wait(reader.worker, GVM_NEVER);
	pthread_join(thread, NULL);
	assert_int_equal(reader.open, 0);
	close_worker(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wait_times_out),
		cmocka_unit_test(who_is_pushed_aside_does_not_spin),
		cmocka_unit_test(wake_ends_a_wait),
		cmocka_unit_test(timers_fire_in_order),
		cmocka_unit_test(timer_that_sets_itself),
		cmocka_unit_test(removed_watch_is_not_called),
		cmocka_unit_test(rewatch_changes_the_mask),
		cmocka_unit_test(tasks_when_sleeping),
		cmocka_unit_test(tasks_when_spinning),
		cmocka_unit_test(tasks_run_at_close),
		cmocka_unit_test(statistics_from_another_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
