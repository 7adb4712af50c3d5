/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A shard: the thread that owns a part of the pages, its loop, its reading of the userfaultfd, and
 * its part of the budget. One epoll set holds the userfaultfd and the connections (gvm_worker), so
 * a fault costs one wait, one read, one send, one wait, one receive and one request to the kernel.
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>
#include "internal.h"

#define MESSAGES 16

void (*pager_observer)(void);

/* ---- budget -------------------------------------------------------------------------------- */

int64_t frames_left(const struct shard *shard)
{
	const struct gvm_pager *pager = shard->pager;

	return (int64_t)(frames_budget(pager) - __atomic_load_n(&pager->used, __ATOMIC_RELAXED));
}

bool budget_holds_all(const struct gvm_pager *pager)
{
	return __atomic_load_n(&pager->attached, __ATOMIC_RELAXED) <=
	       __atomic_load_n(&pager->budget, __ATOMIC_RELAXED);
}

static void account(struct shard *shard, int64_t n)
{
	__atomic_store_n(&shard->used, shard->used + (uint64_t)n, __ATOMIC_RELAXED);
}

bool frames_reserve(struct shard *shard, uint32_t n)
{
	struct gvm_pager *pager = shard->pager;
	uint64_t budget = frames_budget(pager);

	if (__atomic_add_fetch(&pager->used, n, __ATOMIC_SEQ_CST) > budget && !shard->spare) {
		__atomic_sub_fetch(&pager->used, n, __ATOMIC_SEQ_CST);
		return false;
	}
	account(shard, n);
	return true;
}

/* Without asking: for a page that is here already and only changes its place. */
void frames_force(struct shard *shard, uint32_t n)
{
	__atomic_add_fetch(&shard->pager->used, n, __ATOMIC_SEQ_CST);
	account(shard, n);
}

void frames_release(struct shard *shard, uint32_t n)
{
	struct gvm_pager *pager = shard->pager;
	uint64_t starving;

	if (n == 0)
		return;
	__atomic_sub_fetch(&pager->used, n, __ATOMIC_SEQ_CST);
	account(shard, -(int64_t)n);
	starving = __atomic_load_n(&pager->starving, __ATOMIC_SEQ_CST);
	if (starving & ~(1ull << shard->number))
		shard_poke_others(shard);
}

/* ---- other shards -------------------------------------------------------------------------- */

static void poked(struct gvm_task *task)
{
	struct shard *shard = (struct shard *)((char *)task - offsetof(struct shard, poke));

	__atomic_store_n(&shard->poked, 0, __ATOMIC_SEQ_CST);
	if (frames_left(shard) < (int64_t)gvm_policy_high(frames_budget(shard->pager)))
		shard->evicting = true;
	shard_wake_waits(shard);
}

/* Those that hold much, to give some of it; those that wait for frames, to look again. */
void shard_poke_others(struct shard *shard)
{
	struct gvm_pager *pager = shard->pager;
	uint64_t share = __atomic_load_n(&pager->budget, __ATOMIC_RELAXED) / pager->shards / 2;
	uint64_t starving = __atomic_load_n(&pager->starving, __ATOMIC_SEQ_CST);

	for (unsigned i = 0; i < pager->shards; i++) {
		struct shard *other = &pager->shard[i];

		if (other == shard || (!(starving >> i & 1) &&
				       __atomic_load_n(&other->used, __ATOMIC_RELAXED) <= share))
			continue;
		if (__atomic_exchange_n(&other->poked, 1, __ATOMIC_SEQ_CST) == 0)
			gvm_worker_run(other->worker, &other->poke);
	}
}

/* ---- faults and events --------------------------------------------------------------------- */

void shard_queue_fault(struct shard *shard, uint64_t addr, uint32_t flags, uint64_t start_ns)
{
	if (shard->fault_head - shard->fault_tail == FAULTS) {
		mem_wake(shard->uffd, addr, PAGE); /* it faults again */
		return;
	}
	shard->faults[shard->fault_head++ % FAULTS] = (struct fault){
		.addr = addr & ~(uint64_t)(PAGE - 1), .flags = flags & 15, .start_ns = start_ns
	};
}

static void take_message(struct shard *shard, const struct uffd_msg *msg, uint64_t now)
{
	switch (msg->event) {
	case UFFD_EVENT_PAGEFAULT:
		shard_queue_fault(shard, msg->arg.pagefault.address,
				  (uint32_t)msg->arg.pagefault.flags, now);
		break;
	case UFFD_EVENT_REMOVE:
		event_remove(shard, msg->arg.remove.start, msg->arg.remove.end);
		break;
	case UFFD_EVENT_UNMAP:
		event_unmap(shard, msg->arg.remove.start, msg->arg.remove.end);
		break;
	case UFFD_EVENT_REMAP:
		event_remap(shard, msg->arg.remap.from, msg->arg.remap.to, msg->arg.remap.len);
		break;
	default:
		break;
	}
}

int shard_read(struct shard *shard)
{
	struct uffd_msg msgs[MESSAGES];
	int total = 0;
	ssize_t got;

	do {
		uint64_t now;

		got = sys_read(shard->uffd, msgs, sizeof(msgs));
		if (got < (ssize_t)sizeof(msgs[0])) {
			if (got >= 0 || errno == EBADF)
				gvm_fd_lost("userfaultfd");
			break;
		}
		now = gvm_now();
		for (unsigned i = 0; i < (size_t)got / sizeof(msgs[0]); i++)
			take_message(shard, &msgs[i], now);
		total += (int)((size_t)got / sizeof(msgs[0]));
		/* a short read says that there was no more: no need to be told by another */
	} while (got == (ssize_t)sizeof(msgs));
	return total;
}

void shard_settle(struct shard *shard)
{
	/* nothing to read: the thread whose event was read has not gone on yet */
	if (shard_read(shard) == 0)
		sched_yield();
}

void shard_wake_waits(struct shard *shard)
{
	uint32_t n = shard->wait_head - shard->wait_tail;

	if (n == 0 || shard->resting)
		return;
	__atomic_fetch_and(&shard->pager->starving, ~(1ull << shard->number), __ATOMIC_SEQ_CST);
	while (n-- > 0) {
		struct fault fault = shard->waits[shard->wait_tail++ % FAULTS];

		fault_serve(shard, &fault); /* may wait again, at the end of the queue */
		if (shard->wait_head != shard->wait_tail && frames_left(shard) <= 0 &&
		    !shard->spare)
			break;
	}
	if (shard->wait_head != shard->wait_tail)
		__atomic_fetch_or(&shard->pager->starving, 1ull << shard->number, __ATOMIC_SEQ_CST);
	gvm_worker_flush(shard->worker);
}

void shard_serve(struct shard *shard)
{
	if (shard->serving) /* from within a request that had to settle: the outer call goes on */
		return;
	shard->serving = true;
	while (shard->fault_tail != shard->fault_head) {
		struct fault fault = shard->faults[shard->fault_tail++ % FAULTS];

		fault_serve(shard, &fault);
	}
	shard->serving = false;
}

static void uffd_ready(struct gvm_watch *watch, uint32_t events)
{
	struct shard *shard = (struct shard *)((char *)watch - offsetof(struct shard, watch));

	shard_read(shard);
	if (shard->resting)
		return;
	shard_serve(shard);
	gvm_worker_flush(shard->worker); /* the demands first */
	if (shard->ahead_count) {
		prefetch_run(shard, true);
		gvm_worker_flush(shard->worker);
	}
	/* while the network has the ball */
	if (shard->fetching && !shard->settling)
		shard_evict(shard);
}

/* ---- the thread ---------------------------------------------------------------------------- */

/* Nothing is begun; when what is under way has ended, whoever asked for rest is told. */
static bool rest(struct shard *shard)
{
	struct call *call = shard->rest;

	shard->resting = true;
	if (call && !shard->fetching && !shard->putting && !shard->purging && !shard->jobs_out) {
		shard->rest = NULL;
		call_done(call, 0);
	}
	return false;
}

/*
 * For a fork no page is taken until the helper has come to rest, and the helper may be one of those
 * that wait for a frame: what it was to unshare has been taken meanwhile. So they get what they
 * need, beyond the budget, which is a page a job at most for the helper.
 */
static void feed_helper(struct shard *shard)
{
	shard->spare = true;
	shard_wake_waits(shard);
	shard->spare = false;
}

/* What is not bound to an event. Returns whether there is more to do at once. */
static bool round_of(struct shard *shard)
{
	bool more;

	if (shard->resting || (shard->settling && !shard->jobs_out))
		return rest(shard);
	shard_serve(shard); /* what was read while something else was done */
	if (shard->purge_wanted)
		shard_purge(shard);
	if (shard->heal_wanted && shard->job_free != GVM_NIL)
		shard_heal(shard);
	if (shard->stranded && !shard->settling)
		shard_write_back(shard); /* is one of the nodes back? */
	more = shard->settling ? false : shard_evict(shard);
	if (shard->syncs)
		more |= shard_sync(shard);
	if (shard->settling && shard->populating)
		feed_helper(shard);
	if (shard->unpark)
		shard_unpark(shard);
	if (shard->wait_head != shard->wait_tail && frames_left(shard) > 0 &&
	    shard->demand_free != GVM_NIL)
		shard_wake_waits(shard);
	/* after the demands, with what eviction has made room for */
	if (shard->ahead_count) {
		prefetch_run(shard, shard->evicting);
		gvm_worker_flush(shard->worker);
	}
	return more;
}

static void *shard_main(void *arg)
{
	struct shard *shard = arg;
	char name[16];

	snprintf(name, sizeof(name), "gvm-pager/%u", shard->number % 1000);
	prctl(PR_SET_NAME, name);
	while (!shard->stop) {
		bool more = round_of(shard);

		helper_kick(shard);
		if (pager_observer)
			pager_observer();
		if (more) {
			gvm_worker_progress(shard->worker);
		} else {
			huge_prepare(shard);
			gvm_worker_wait(shard->worker, GVM_NEVER);
		}
	}
	return NULL;
}

static void stop_task(struct call *call)
{
	call->shard->stop = true;
	call_done(call, 0);
}

int shard_start(struct shard *shard)
{
	sigset_t all, old;
	int err = helper_start(shard);

	if (err)
		return err;
	shard->stop = false;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = -pthread_create(&shard->thread, NULL, shard_main, shard);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	shard->started = err == 0;
	return err;
}

void shard_stop(struct shard *shard)
{
	struct call call = { 0 };

	if (shard->started) {
		pager_call(shard, stop_task, &call);
		pthread_join(shard->thread, NULL);
		shard->started = false;
	}
	helper_stop(shard);
}

/* ---- making and unmaking ------------------------------------------------------------------- */

static void link_records(struct shard *shard)
{
	shard->demand_free = shard->ahead_free = GVM_NIL;
	for (uint32_t i = DEMANDS + shard->aheads; i-- > 0;) {
		shard->fetches[i].number = i;
		shard_free_fetch(shard, &shard->fetches[i]);
	}
	shard->put_free = shard->purge_free = shard->job_free = GVM_NIL;
	for (uint32_t i = PUTS; i-- > 0; shard->put_free = i)
		shard->puts[i].next_free = shard->put_free;
	for (uint32_t i = DISCARDS; i-- > 0; shard->purge_free = i) {
		shard->purges[i].shard = shard;
		shard->purges[i].next_free = shard->purge_free;
	}
	for (uint32_t i = JOBS; i-- > 0; shard->job_free = i) {
		shard->jobs[i].shard = shard;
		shard->jobs[i].number = i;
		shard->jobs[i].next_free = shard->job_free;
	}
}

static uint64_t buffers_bytes(const struct shard *shard)
{
	return (DEMANDS + (uint64_t)shard->aheads * RUN_MAX) * PAGE;
}

static int alloc_records(struct shard *shard, uint64_t budget)
{
	uint64_t aheads = budget / shard->pager->shards / (4 * RUN_MAX);
	char *buf;

	shard->aheads = aheads < 1 ? 1 : aheads > AHEADS_MAX ? AHEADS_MAX : (uint32_t)aheads;
	shard->views = mem_map(RANGES_MAX * sizeof(*shard->views));
	shard->pieces = mem_map(PIECES_MAX * sizeof(*shard->pieces));
	shard->fetches = mem_map((DEMANDS + shard->aheads) * sizeof(*shard->fetches));
	shard->puts = mem_map(PUTS * sizeof(*shard->puts));
	shard->outlets = mem_map(OUTLETS * sizeof(*shard->outlets));
	shard->purges = mem_map(DISCARDS * sizeof(*shard->purges));
	shard->jobs = mem_map(JOBS * sizeof(*shard->jobs));
	shard->faults = mem_map(FAULTS * sizeof(*shard->faults));
	shard->waits = mem_map(FAULTS * sizeof(*shard->waits));
	shard->parked = mem_map(PARKED * sizeof(*shard->parked));
	shard->trackers = mem_map(TRACKERS * sizeof(*shard->trackers));
	shard->zero = mem_map(RUN_MAX * PAGE);
	buf = mem_map(buffers_bytes(shard));
	if (!shard->views || !shard->pieces || !shard->fetches || !shard->puts || !shard->outlets ||
	    !shard->purges || !shard->jobs || !shard->faults || !shard->waits || !shard->parked ||
	    !shard->trackers || !shard->zero || !buf)
		return -ENOMEM;
	for (uint32_t i = 0; i < DEMANDS + shard->aheads; i++) {
		shard->fetches[i].buf = buf;
		buf += (i < DEMANDS ? 1 : RUN_MAX) * PAGE;
	}
	link_records(shard);
	return 0;
}

static int open_fds(struct shard *shard)
{
	const uint64_t events = UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |
				UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_PAGEFAULT_FLAG_WP |
				UFFD_FEATURE_MISSING_SHMEM;
	uint64_t features;
	int err = mem_uffd(events, &features, &shard->uffd);

	if (err)
		return err;
	shard->mem_fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	if (shard->mem_fd < 0)
		return -errno;
	if (!mem_has_move(features))
		return 0;
	/* without it pages are unshared before they are moved */
	shard->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return mem_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP, &features, &shard->stage_fd);
}

/*
 * What pages are fetched into stays where it is, and pages are copied on from there. So hardware
 * may have it, once for all. Not what is written back: the kernel moves pages in and out of the
 * slots.
 */
static void name_landing(struct shard *shard)
{
	if (gvm_mem_register(shard->pager->net, shard->fetches[0].buf, buffers_bytes(shard), 0, 0,
			     &shard->landing))
		shard->landing = NULL;
}

static int open_worker(struct shard *shard)
{
	struct gvm_worker_config config = { .arg = shard, .cpu = gvm_option_cpu(shard->number) };
	int err = gvm_worker_open(shard->pager->net, &config, &shard->worker);

	if (err)
		return err;
	/* in a forked child the one before is the parent's worker's */
	name_landing(shard);
	if (shard->recheck_count)
		gvm_timer_set(shard->worker, &shard->recheck_timer, 0);
	shard->watch.fd = shard->uffd;
	shard->watch.ready = uffd_ready;
	return gvm_worker_watch(shard->worker, &shard->watch, EPOLLIN | EPOLLET);
}

int shard_open(struct gvm_pager *pager, unsigned number, struct shard *shard)
{
	int err;

	shard->pager = pager;
	shard->number = number;
	shard->uffd = shard->stage_fd = shard->mem_fd = shard->pagemap_fd = -1;
	shard->frame_free = GVM_NIL;
	gvm_queue_init(&shard->mapped);
	gvm_queue_init(&shard->aside);
	gvm_queue_init(&shard->victims);
	gvm_queue_init(&shard->outbound);
	shard->poke.fn = poked;
	shard->recheck_timer.fn = recheck_timer;
	shard->retry_timer.fn = retry_timer;
	shard->hold_timer.fn = hold_timer;
	shard->sync_timer.fn = sync_timer;
	err = open_fds(shard);
	if (err)
		return err;
	err = alloc_records(shard, pager->budget);
	if (err)
		return err;
	err = frames_limit(shard, pager->budget);
	if (err)
		return err;
	err = slots_limit(shard, pager->budget);
	if (err)
		return err;
	return open_worker(shard);
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

/*
 * The worker of the parent is not closed here: its epoll set and connections are the parent's too.
 * The faults that waited are those of threads that this process does not have.
 */
int shard_renew(struct shard *shard)
{
	int err;

	close_fd(shard->uffd);
	close_fd(shard->stage_fd);
	close_fd(shard->mem_fd);
	close_fd(shard->pagemap_fd);
	shard->uffd = shard->stage_fd = shard->mem_fd = shard->pagemap_fd = -1;
	shard->worker = NULL;
	shard->started = shard->helper_started = shard->resting = shard->settling = false;
	shard->rest = NULL;
	shard->syncs = NULL;
	shard->fault_tail = shard->fault_head;
	shard->wait_tail = shard->wait_head;
	shard->parked_count = 0;
	shard->unpark = false;
	shard->unpark_below = 0;
	shard->ahead_count = 0;
	shard->recheck_timer.place = shard->retry_timer.place = shard->hold_timer.place = 0;
	shard->sync_timer.place = 0;
	shard_aside_reset(shard);
	huge_forget(shard);
	shard->poked = 0;
	shard->evicting = shard->dirty > 0;
	outlets_reset(shard);
	err = open_fds(shard);
	if (err)
		return err;
	for (uint32_t i = 0; i * 1024u < shard->slot_limit && shard->stage_fd >= 0 && !err; i++)
		err = mem_register(shard->stage_fd, (uintptr_t)shard->chunks[i], 1024ull * PAGE,
				   UFFDIO_REGISTER_MODE_WP);
	if (err)
		return err;
	return open_worker(shard);
}

void shard_close(struct shard *shard)
{
	if (shard->worker) {
		gvm_worker_unwatch(shard->worker, &shard->watch);
		gvm_worker_close(shard->worker);
		if (shard->landing)
			gvm_mem_unregister(shard->landing, NULL, NULL);
	}
	close_fd(shard->uffd);
	for (uint32_t i = 0; i * 1024u < shard->slot_limit; i++)
		mem_unmap(shard->chunks[i], 1024ull * PAGE);
	close_fd(shard->stage_fd);
	close_fd(shard->mem_fd);
	close_fd(shard->pagemap_fd);
	mem_unmap(shard->chunks, 65536 * sizeof(*shard->chunks));
	mem_unmap(shard->slots, shard->slot_limit * sizeof(*shard->slots));
	mem_unmap(shard->frames, shard->frame_limit * sizeof(*shard->frames));
	if (shard->fetches)
		mem_unmap(shard->fetches[0].buf, buffers_bytes(shard));
	mem_unmap(shard->views, RANGES_MAX * sizeof(*shard->views));
	mem_unmap(shard->pieces, PIECES_MAX * sizeof(*shard->pieces));
	mem_unmap(shard->fetches, (DEMANDS + shard->aheads) * sizeof(*shard->fetches));
	mem_unmap(shard->puts, PUTS * sizeof(*shard->puts));
	mem_unmap(shard->outlets, OUTLETS * sizeof(*shard->outlets));
	mem_unmap(shard->purges, DISCARDS * sizeof(*shard->purges));
	mem_unmap(shard->jobs, JOBS * sizeof(*shard->jobs));
	mem_unmap(shard->faults, FAULTS * sizeof(*shard->faults));
	mem_unmap(shard->waits, FAULTS * sizeof(*shard->waits));
	mem_unmap(shard->parked, PARKED * sizeof(*shard->parked));
	mem_unmap(shard->trackers, TRACKERS * sizeof(*shard->trackers));
	mem_unmap(shard->zero, RUN_MAX * PAGE);
	mem_unmap(shard->huge, HUGE_BYTES);
}
