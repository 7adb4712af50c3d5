/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The worker: one event loop over one epoll set. A round serves, in this order: the provider's
 * queues, descriptors, tasks from other threads, timers, ended operations and peers with something
 * left to do; then it hands what was gathered to the provider.
 *
 * Belongs to the thread that runs it, except for gvm_worker_run and gvm_worker_wake, which any
 * thread may call and which meet the worker only in three atomic fields, and for the statistics,
 * which the worker alone writes and any thread may read.
 *
 * Waiting: `sleeping` is raised before the last look at tasks and `woken`, and whoever adds to
 * these looks at `sleeping` afterwards, all sequentially consistent, so that one of the two sees
 * the other; the descriptor is written only if there is somebody to wake.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include "core/core.h"

#define NS_PER_MS         1000000ULL
#define NS_PER_S          1000000000ULL
#define CONNECTIONS_MIN   64u /* of GVM_CONNECTIONS=auto */
#define CONNECTIONS_MAX   4096u
#define ALARM_MIN_NS      (200 * 1000ULL) /* a nearer end of a sleep is given to the sleep itself */
#define PEEKS_PER_POLL    4u
#define TIMERS_UNSEEN_MAX 64u
#define SPIN_FAILS_MAX    10u /* 1,024 waits between two tries of a spin that never pays */
#define WAITS_UNPOLLED    4u /* in a row that find work elsewhere, until the poll set has its turn */
#define SPINS_PER_LOOK    64u /* spins between two looks at how often the CPU was taken away */

/* ---- the clock and jitter ------------------------------------------------------------------ */

uint64_t gvm_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t gvm_worker_now(struct gvm_worker *worker)
{
	return gvm_worker_clock(worker);
}

/* xorshift64*: spreads retries, decides nothing else. */
uint64_t gvm_worker_random(struct gvm_worker *worker, uint64_t limit)
{
	uint64_t x = worker->random;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	worker->random = x;
	return limit ? (x * 0x2545F4914F6CDD1DULL >> 11) % limit : 0;
}

/* ---- watches ------------------------------------------------------------------------------- */

static int control(struct gvm_worker *worker, int what, struct gvm_watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };

	return epoll_ctl(worker->epoll_fd, what, watch->fd, &event) < 0 ? -errno : 0;
}

int gvm_worker_watch(struct gvm_worker *worker, struct gvm_watch *watch, uint32_t epoll_events)
{
	return control(worker, EPOLL_CTL_ADD, watch, epoll_events);
}

int gvm_worker_rewatch(struct gvm_worker *worker, struct gvm_watch *watch, uint32_t epoll_events)
{
	return control(worker, EPOLL_CTL_MOD, watch, epoll_events);
}

void gvm_worker_unwatch(struct gvm_worker *worker, struct gvm_watch *watch)
{
	int i;

	control(worker, EPOLL_CTL_DEL, watch, 0);
	for (i = worker->batch_at; i < worker->batch_count; i++)
		if (worker->batch[i].data.ptr == watch)
			worker->batch[i].data.ptr = NULL;
}

static int remember(struct gvm_worker *worker, int fd)
{
	size_t word = (size_t)fd / 64,
	       words = worker->provider_fd_words ? worker->provider_fd_words : 4;
	uint64_t *fds;

	while (words <= word)
		words *= 2;
	if (words > worker->provider_fd_words) {
		fds = realloc(worker->provider_fds, words * sizeof(*fds));
		if (!fds)
			return -ENOMEM;
		memset(fds + worker->provider_fd_words, 0,
		       (words - worker->provider_fd_words) * sizeof(*fds));
		worker->provider_fds = fds;
		worker->provider_fd_words = words;
	}
	worker->provider_fds[word] |= 1ull << fd % 64;
	return 0;
}

int gvm_worker_watch_provider(struct gvm_worker *worker, struct gvm_watch *watch, uint32_t events)
{
	int err = watch->fd < 0 ? -EBADF : remember(worker, watch->fd);

	if (err)
		return err;
	err = gvm_worker_watch(worker, watch, events);
	if (err)
		worker->provider_fds[watch->fd / 64] &= ~(1ull << watch->fd % 64);
	return err;
}

void gvm_worker_unwatch_provider(struct gvm_worker *worker, struct gvm_watch *watch)
{
	gvm_worker_unwatch(worker, watch);
	worker->provider_fds[watch->fd / 64] &= ~(1ull << watch->fd % 64);
}

/* ---- tasks and wakes ----------------------------------------------------------------------- */

static void wake_sleeper(struct gvm_worker *worker)
{
	uint64_t one = 1;
	int saved = errno;

	if (atomic_load(&worker->sleeping) && atomic_exchange(&worker->sleeping, 0))
		while (write(worker->wake_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
			if (errno != EINTR)
				gvm_fd_lost("eventfd");
	errno = saved;
}

void gvm_worker_run(struct gvm_worker *worker, struct gvm_task *task)
{
	struct gvm_task *first = atomic_load_explicit(&worker->tasks, memory_order_relaxed);

	do
		task->next = first;
	while (!atomic_compare_exchange_weak(&worker->tasks, &first, task));
	wake_sleeper(worker);
}

void gvm_worker_wake(struct gvm_worker *worker)
{
	atomic_store(&worker->woken, 1);
	wake_sleeper(worker);
}

/* The list is last in, first out; tasks run in the order in which they came. */
static int run_tasks(struct gvm_worker *worker)
{
	struct gvm_task *task, *next, *ordered = NULL;
	int ran = 0;

	if (!atomic_load_explicit(&worker->tasks, memory_order_relaxed))
		return 0;
	for (task = atomic_exchange(&worker->tasks, NULL); task; task = next) {
		next = task->next;
		task->next = ordered;
		ordered = task;
	}
	for (task = ordered; task; task = next) {
		next = task->next;
		task->fn(task);
		ran++;
	}
	return ran;
}

/* ---- timers -------------------------------------------------------------------------------- */

int gvm_timer_set(struct gvm_worker *worker, struct gvm_timer *timer, uint64_t when)
{
	return gvm_timers_set(&worker->timers, timer, when);
}

void gvm_timer_clear(struct gvm_worker *worker, struct gvm_timer *timer)
{
	gvm_timers_clear(&worker->timers, timer);
}

/*
 * The clock is not read for them alone, which would be a tenth of what a round costs in user space:
 * they are looked at when somebody has read it, when a sleep or its alarm has ended, and every so
 * often in a worker that never sleeps.
 */
static int run_timers(struct gvm_worker *worker)
{
	uint64_t now;

	if (!worker->timers.count)
		return 0;
	if (!worker->now && !worker->timers_due && ++worker->timers_unseen < TIMERS_UNSEEN_MAX)
		return 0;
	worker->timers_due = 0;
	worker->timers_unseen = 0;
	now = gvm_worker_clock(worker);
	return gvm_timers_next(&worker->timers) <= now ? gvm_timers_run(&worker->timers, now) : 0;
}

/* ---- rounds -------------------------------------------------------------------------------- */

void gvm_worker_stats(struct gvm_worker *worker, struct gvm_net_stats *stats)
{
	const uint64_t *from = (const uint64_t *)&worker->stats;
	uint64_t *to = (uint64_t *)stats;
	size_t i;

	for (i = 0; i < sizeof(*stats) / sizeof(*from); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

/* The thread is known only now. */
static void pin(struct gvm_worker *worker)
{
	cpu_set_t cpus;

	worker->pinned = 1;
	if (worker->config.cpu < 0 || worker->config.cpu >= CPU_SETSIZE)
		return;
	CPU_ZERO(&cpus);
	CPU_SET(worker->config.cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus) < 0)
		gvm_log(GVM_LOG_WARN, "a worker cannot be pinned to CPU %d: %s", worker->config.cpu,
			strerror(errno));
}

static int begin(struct gvm_worker *worker)
{
	if (worker->in_round)
		return 0;
	worker->in_round = 1;
	worker->now = 0;
	if (!worker->pinned)
		pin(worker);
	return 1;
}

/* The time between two rounds is the user's, so the clock is not kept over it. */
static int end(struct gvm_worker *worker, int served)
{
	worker->now = 0;
	worker->in_round = 0;
	return served;
}

static int dispatch(struct gvm_worker *worker, int count)
{
	int served = 0;

	worker->now = 0;
	worker->batch_at = 0;
	worker->batch_count = count;
	while (worker->batch_at < worker->batch_count) {
		struct epoll_event *event = &worker->batch[worker->batch_at++];
		struct gvm_watch *watch = event->data.ptr;

		if (event->data.ptr == &worker->alarm) {
			worker->alarm = GVM_NEVER;
			worker->timers_due = 1;
		}
		if (!watch || event->data.ptr == worker || event->data.ptr == &worker->alarm)
			continue;
		watch->ready(watch, event->events);
		served++;
	}
	worker->batch_at = worker->batch_count = 0;
	return served;
}

/* Without its epoll set a worker would go round for ever and hear of nothing. */
static int waited(int count)
{
	if (count < 0 && (errno == EBADF || errno == EINVAL))
		gvm_fd_lost("epoll");
	return count;
}

/* The system call itself: no point of cancellation, and nobody's who has put a name over it. */
static int sys_epoll_wait(struct gvm_worker *worker, int ms)
{
	worker->unpolled = 0;
	return waited(
	    (int)syscall(SYS_epoll_pwait, worker->epoll_fd, worker->batch, GVM_BATCH, ms, NULL, 0));
}

static int poll_now(struct gvm_worker *worker)
{
	int count = sys_epoll_wait(worker, 0);

	return count > 0 ? dispatch(worker, count) : 0;
}

static int progress_all(struct gvm_worker *worker)
{
	int served = 0;

	for (unsigned i = 0; i < worker->provider_count; i++)
		served += worker->providers[i].ops->progress(worker->providers[i].prov);
	return served;
}

static int peek_all(struct gvm_worker *worker)
{
	int served = 0;

	for (unsigned i = 0; i < worker->provider_count && !served; i++)
		served = worker->providers[i].ops->peek(worker->providers[i].prov);
	return served;
}

static int arm_all(struct gvm_worker *worker)
{
	int busy = 0;

	for (unsigned i = 0; i < worker->provider_count; i++)
		busy |= worker->providers[i].ops->arm(worker->providers[i].prov);
	return busy;
}

/* All that needs no system call to find. */
static int serve_queues(struct gvm_worker *worker)
{
	int served = run_tasks(worker);

	served += run_timers(worker);
	served += gvm_peers_serve(worker);
	gvm_worker_flush(worker);
	return served;
}

int gvm_worker_progress(struct gvm_worker *worker)
{
	int served;

	if (!begin(worker))
		return 0;
	worker->timers_due = 1;
	served = progress_all(worker);
	served += poll_now(worker);
	served += serve_queues(worker);
	atomic_store_explicit(&worker->woken, 0, memory_order_relaxed);
	return end(worker, served);
}

void gvm_worker_flush(struct gvm_worker *worker)
{
	for (unsigned i = 0; i < worker->provider_count; i++)
		worker->providers[i].ops->flush(worker->providers[i].prov);
}

/* ---- waiting ------------------------------------------------------------------------------- */

static int called(struct gvm_worker *worker)
{
	return atomic_load(&worker->woken) || atomic_load(&worker->tasks);
}

/*
 * Whether spinning pays is learnt: each spin in vain counts two against it, each that found
 * something one for it, and the count's power of two is the number of waits that go without. An
 * event that was there at the first look says nothing.
 */
static void spin_failed(struct gvm_worker *worker)
{
	worker->spin_fails += 2;
	if (worker->spin_fails > SPIN_FAILS_MAX)
		worker->spin_fails = SPIN_FAILS_MAX;
	worker->spin_skip = 1u << worker->spin_fails;
}

static void spin_paid(struct gvm_worker *worker)
{
	if (worker->spin_fails > 0)
		worker->spin_fails--;
}

/*
 * A worker that spins on a CPU which it shares with those who serve it: the kernel takes the CPU
 * from it whenever it has sent one of them something, because they have slept and it has not. They
 * serve that one request alone, and find nothing else. One that sleeps gets as far as they do. So
 * when it has lost the CPU in every second spin, it does not spin for a while.
 */
static int is_pushed_aside(struct gvm_worker *worker)
{
	uint64_t before = worker->cpu_lost;
	struct rusage use;

	if (++worker->spins < SPINS_PER_LOOK)
		return 0;
	worker->spins = 0;
	if (getrusage(RUSAGE_THREAD, &use) < 0)
		return 0;
	worker->cpu_lost = (uint64_t)use.ru_nivcsw + 1;
	return before && worker->cpu_lost - before >= SPINS_PER_LOOK / 2;
}

/*
 * The poll set has its turn too, but the likely place is looked at more often. The time is that of
 * the last look, not read again.
 */
static int look(struct gvm_worker *worker, unsigned looks, uint64_t now)
{
	worker->now = now;
	if (looks % PEEKS_PER_POLL)
		return peek_all(worker);
	return progress_all(worker) + poll_now(worker);
}

/* Returns the number of events; stops at until. */
static int spin(struct gvm_worker *worker, uint64_t until)
{
	uint64_t now, stop;
	unsigned looks = 1;
	int served;

	if (worker->spin_skip > 0) {
		worker->spin_skip--;
		return 0;
	}
	if (is_pushed_aside(worker)) {
		worker->spin_fails = SPIN_FAILS_MAX;
		worker->spin_skip = 1u << SPIN_FAILS_MAX;
		return 0;
	}
	now = gvm_worker_clock(worker);
	stop = now + worker->opt.spin_ns;
	do {
		served = look(worker, looks, now);
		if (served || called(worker)) {
			if (looks > 1)
				spin_paid(worker);
			return served;
		}
		looks++;
		now = gvm_now();
	} while (now < stop && now < until);
	if (now >= stop)
		spin_failed(worker);
	return 0;
}

static int epoll_sleep_ms(struct gvm_worker *worker, uint64_t ns)
{
	uint64_t ms = ns / NS_PER_MS + (ns % NS_PER_MS != 0);

	return sys_epoll_wait(worker,
			      ns == GVM_NEVER ? -1 : (int)(ms > INT32_MAX ? INT32_MAX : ms));
}

static int epoll_sleep(struct gvm_worker *worker, uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / NS_PER_S),
			       .tv_nsec = (long)(ns % NS_PER_S) };
	int count;

	if (worker->no_pwait2 || ns == GVM_NEVER)
		return epoll_sleep_ms(worker, ns);
	count = epoll_pwait2(worker->epoll_fd, worker->batch, GVM_BATCH, &ts, NULL);
	if (count < 0 && (errno == ENOSYS || errno == EPERM)) {
		worker->no_pwait2 = 1;
		return epoll_sleep_ms(worker, ns);
	}
	return waited(count);
}

static int set_alarm(struct gvm_worker *worker, uint64_t when)
{
	struct itimerspec spec = { .it_value = { .tv_sec = (time_t)(when / NS_PER_S),
						 .tv_nsec = (long)(when % NS_PER_S) } };

	if (timerfd_settime(worker->alarm_fd, TFD_TIMER_ABSTIME, &spec, NULL) < 0) {
		if (errno == EBADF)
			gvm_fd_lost("timerfd");
		return -errno;
	}
	worker->alarm = when;
	return 0;
}

/*
 * How long a sleep until then may last. A sleep with an end costs the kernel a timer set and
 * cleared, a microsecond of each short wait; a descriptor that is set once for a time not later
 * than all that is to come costs nothing. It may end a sleep too early, which finds nothing to do
 * and sleeps on.
 */
static uint64_t sleep_limit(struct gvm_worker *worker, uint64_t until)
{
	uint64_t now, ns;

	if (until >= worker->alarm)
		return GVM_NEVER;
	now = gvm_now();
	ns = until > now ? until - now : 0;
	if (ns < ALARM_MIN_NS || set_alarm(worker, until))
		return ns;
	return GVM_NEVER;
}

/* Returns the number of events, negative when a signal has ended the sleep. */
static int sleep_until(struct gvm_worker *worker, uint64_t until)
{
	uint64_t ns;
	int count = 0;

	worker->now = 0;
	if (arm_all(worker))
		return progress_all(worker);
	ns = sleep_limit(worker, until);
	atomic_store(&worker->sleeping, 1);
	if (!called(worker))
		count = epoll_sleep(worker, ns);
	atomic_store(&worker->sleeping, 0);
	worker->now = 0;
	worker->timers_due |= ns != GVM_NEVER;
	if (count < 0)
		return errno == EINTR ? -1 : 0;
	return dispatch(worker, count);
}

/* Spin or sleep until something was served, `until`, a wake or a signal. */
static int wait_for_events(struct gvm_worker *worker, uint64_t until)
{
	for (;;) {
		uint64_t timer = gvm_timers_next(&worker->timers);
		uint64_t stop = timer < until ? timer : until;
		int served = 0, events = 0;

		if (worker->opt.spin_ns)
			events = spin(worker, stop);
		if (!events && !called(worker))
			events = sleep_until(worker, stop);
		served = events > 0 ? events : 0;
		served += serve_queues(worker);
		if (atomic_exchange(&worker->woken, 0))
			return served + 1;
		if (served || events < 0)
			return served;
		if (until != GVM_NEVER && gvm_worker_clock(worker) >= until)
			return 0;
	}
}

int gvm_worker_wait(struct gvm_worker *worker, uint64_t timeout_ns)
{
	uint64_t until = GVM_NEVER, now;
	int served;

	if (!begin(worker))
		return 0;
	served = progress_all(worker);
	served += serve_queues(worker);
	if (atomic_load_explicit(&worker->woken, memory_order_relaxed) &&
	    atomic_exchange(&worker->woken, 0))
		served++;
	/* it is a system call, which mostly finds nothing where there is other work */
	if (++worker->unpolled >= WAITS_UNPOLLED)
		served += poll_now(worker);
	if (served)
		return end(worker, served);
	if (timeout_ns != GVM_NEVER) {
		now = gvm_worker_clock(worker);
		until = timeout_ns < GVM_NEVER - now ? now + timeout_ns : GVM_NEVER;
	}
	return end(worker, wait_for_events(worker, until));
}

/* ---- who it is ----------------------------------------------------------------------------- */

uint64_t gvm_worker_number(const struct gvm_worker *worker)
{
	return worker->number;
}

struct gvm_net *gvm_worker_net(const struct gvm_worker *worker)
{
	return worker->net;
}

/* ---- open and close ------------------------------------------------------------------------ */

static uint64_t option_ms(const char *name)
{
	uint64_t ms = gvm_option_number(name);

	return ms < GVM_NEVER / NS_PER_MS ? ms * NS_PER_MS : GVM_NEVER;
}

static uint32_t option_count(const char *name, uint32_t most)
{
	uint64_t n = gvm_option_number(name);

	return (uint32_t)(n < 1 ? 1 : n > most ? most : n);
}

/* Where nothing else is said: descriptors are left for the program and for other workers. */
static uint32_t connections(void)
{
	uint64_t given = gvm_option_number("GVM_CONNECTIONS");
	struct rlimit files;

	if (given != GVM_OPTION_AUTO)
		return (uint32_t)given;
	if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur / 16 > CONNECTIONS_MAX)
		return CONNECTIONS_MAX;
	return files.rlim_cur / 16 < CONNECTIONS_MIN ? CONNECTIONS_MIN
						     : (uint32_t)(files.rlim_cur / 16);
}

static void read_options(struct gvm_options_read *opt)
{
	opt->op_timeout_ns = option_ms("GVM_OP_TIMEOUT_MS");
	opt->keepalive_ns = option_ms("GVM_KEEPALIVE_MS");
	opt->handshake_ns = option_ms("GVM_HANDSHAKE_MS");
	opt->spin_ns = gvm_option_number("GVM_SPIN_US") * 1000;
	opt->window = option_count("GVM_OP_WINDOW", 4096);
	opt->max_conns = option_count("GVM_MAX_CONNS", UINT32_MAX);
	opt->max_handshakes = GVM_HANDSHAKES_MAX;
	opt->connections = connections();
	opt->connect_ns = option_ms("GVM_CONNECT_MS");
	opt->backoff_min_ns = option_ms("GVM_BACKOFF_MIN_MS");
	opt->backoff_max_ns = option_ms("GVM_BACKOFF_MAX_MS");
	opt->credits = (uint16_t)option_count("GVM_CREDITS", 4096);
}

static int open_descriptors(struct gvm_worker *worker)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.ptr = worker };
	int err;

	worker->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (worker->epoll_fd < 0)
		return -errno;
	worker->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (worker->wake_fd < 0) {
		err = -errno;
		goto close_epoll;
	}
	if (epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, worker->wake_fd, &event) < 0) {
		err = -errno;
		goto close_wake;
	}
	worker->alarm_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (worker->alarm_fd < 0) {
		err = -errno;
		goto close_wake;
	}
	worker->alarm = GVM_NEVER;
	event.data.ptr = &worker->alarm;
	if (epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, worker->alarm_fd, &event) < 0) {
		err = -errno;
		goto close_alarm;
	}
	return 0;
close_alarm:
	close(worker->alarm_fd);
close_wake:
	close(worker->wake_fd);
close_epoll:
	close(worker->epoll_fd);
	return err;
}

static void close_descriptors(struct gvm_worker *worker)
{
	close(worker->alarm_fd);
	close(worker->wake_fd);
	close(worker->epoll_fd);
}

static void close_providers(struct gvm_worker *worker)
{
	while (worker->provider_count > 0) {
		struct gvm_worker_provider *p = &worker->providers[--worker->provider_count];

		p->ops->close(p->prov);
	}
}

/* Those of the net that open; one has to. */
static int open_providers(struct gvm_worker *worker)
{
	const struct gvm_net *net = worker->net;
	int err = 0;

	for (unsigned i = 0; i < net->provider_count; i++) {
		const struct gvm_provider_ops *ops = net->providers[i].ops;
		struct gvm_worker_provider *p = &worker->providers[worker->provider_count];

		err =
		    ops->open(&worker->host, &gvm_core_host_ops, net->providers[i].args, &p->prov);
		if (!err) {
			p->ops = ops;
			worker->provider_count++;
		} else if (net->provider_count > 1 &&
			   !(atomic_fetch_or(&worker->net->unusable, 1u << i) & 1u << i)) {
			gvm_log(GVM_LOG_WARN, "transport %s cannot be used: %s", ops->name,
				strerror(-err));
		}
	}
	return worker->provider_count ? 0 : err;
}

void gvm_worker_coherence(struct gvm_worker *worker, gvm_coherence_fn *fn)
{
	worker->coherence = fn;
}

void gvm_worker_keepalive(struct gvm_worker *worker, uint64_t ns)
{
	worker->opt.keepalive_ns = ns;
}

void gvm_worker_spin(struct gvm_worker *worker, uint64_t ns)
{
	if (worker->opt.spin_ns && worker->opt.spin_ns < ns)
		worker->opt.spin_ns = ns;
}

int gvm_worker_open(struct gvm_net *net, const struct gvm_worker_config *config,
		    struct gvm_worker **out)
{
	struct gvm_worker *worker = aligned_alloc(_Alignof(struct gvm_worker), sizeof(*worker));
	int err = -ENOMEM;

	if (!worker)
		return err;
	memset(worker, 0, sizeof(*worker));
	worker->host.worker = worker;
	worker->net = net;
	worker->number = atomic_fetch_add(&net->worker_numbers, 1) + 1;
	worker->config = *config;
	read_options(&worker->opt);
	gvm_random(&worker->random, sizeof(worker->random));
	worker->random |= 1;
	worker->batch = calloc(GVM_BATCH, sizeof(*worker->batch));
	if (!worker->batch)
		goto free_worker;
	worker->turn.fn = gvm_places_turn;
	worker->done_end = &worker->done;
	err = gvm_timers_reserve(&worker->timers, 1);
	if (err)
		goto free_batch;
	err = open_descriptors(worker);
	if (err)
		goto free_timers;
	err = open_providers(worker);
	if (err)
		goto close_fds;
	atomic_fetch_add(&net->workers, 1);
	*out = worker;
	return 0;
close_fds:
	close_descriptors(worker);
free_timers:
	gvm_timers_fini(&worker->timers);
free_batch:
	free(worker->batch);
free_worker:
	free(worker);
	return err;
}

void gvm_worker_close(struct gvm_worker *worker)
{
	if (!worker)
		return;
	run_tasks(worker);
	worker->closing = 1;
	worker->in_round = 1;
	gvm_worker_unlisten(worker);
	gvm_peers_close(worker);
	close_providers(worker);
	gvm_timers_fini(&worker->timers);
	close_descriptors(worker);
	free(worker->provider_fds);
	free(worker->batch);
	atomic_fetch_sub(&worker->net->workers, 1);
	free(worker);
}

/*
 * The epoll set is shared with the parent: taking a descriptor out of it here would take it out
 * there too. Closing what this process has of them does not.
 */
void gvm_worker_abandon(struct gvm_worker *worker)
{
	size_t word, bit;

	for (word = 0; word < worker->provider_fd_words; word++)
		for (bit = 0; bit < 64; bit++)
			if (worker->provider_fds[word] >> bit & 1)
				close((int)(word * 64 + bit));
	close_descriptors(worker);
	atomic_fetch_sub(&worker->net->workers, 1);
}
