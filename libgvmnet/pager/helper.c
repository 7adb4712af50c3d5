/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A shard's helper thread: calls that do not return before the shard has read an event that they
 * cause (emptying or replacing a part of the mapping), or that may fault themselves (copying out of
 * the mapping). One ring of job numbers, from the shard to the helper; answers come back as tasks
 * of the shard's worker.
 */
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "internal.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define SLOW_US 300 /* what a job takes longer with QUIRK_SLOW_HELPER */

static void futex_wait(uint32_t *at, uint32_t value)
{
	syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(uint32_t *at)
{
	syscall(SYS_futex, at, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* ---- shard's side -------------------------------------------------------------------------- */

static void job_done(struct gvm_task *task)
{
	struct job *job = (struct job *)task;
	struct shard *shard = job->shard;
	struct view *view = job->view;

	if (job->kind == JOB_TAKE)
		take_done(job);
	else if (job->kind != JOB_POPULATE)
		heal_done(job);
	job->next_free = shard->job_free;
	shard->job_free = job->number;
	view->busy--;
	shard->jobs_out--;
	if (job->kind == JOB_POPULATE)
		shard->populating--;
	if (--view->jobs == 0)
		view_idle(view);
}

struct job *job_get(struct shard *shard)
{
	struct job *job;

	if (shard->job_free == GVM_NIL)
		return NULL;
	job = &shard->jobs[shard->job_free];
	shard->job_free = job->next_free;
	job->status = 0;
	job->copied = 0;
	return job;
}

void job_post(struct job *job)
{
	struct shard *shard = job->shard;

	job->task.fn = job_done;
	job->view->busy++;
	job->view->jobs++;
	shard->jobs_out++;
	if (job->kind == JOB_POPULATE)
		shard->populating++;
	shard->ring[shard->job_posted % JOBS] = (uint16_t)job->number;
	__atomic_store_n(&shard->job_posted, shard->job_posted + 1, __ATOMIC_SEQ_CST);
}

/* Once for all that a round has posted, so that the helper does not push in between two posts. */
void helper_kick(struct shard *shard)
{
	if (shard->job_kicked == shard->job_posted)
		return;
	shard->job_kicked = shard->job_posted;
	if (__atomic_load_n(&shard->helper_asleep, __ATOMIC_SEQ_CST))
		futex_wake(&shard->job_posted);
}

/* ---- helper's side ------------------------------------------------------------------------- */

/* Through /proc/self/mem: a mapping that may not be read, or has gone, is an error, not a signal.
 */
static int copy_out(struct shard *shard, struct job *job)
{
	char *to = slot_mem(shard, job->slot);
	size_t bytes = (size_t)job->count * PAGE, done = 0;

	while (done < bytes) {
		ssize_t got =
		    pread(shard->mem_fd, to + done, bytes - done, (off_t)(job->addr + done));

		if (got < 0 && errno == EBADF)
			gvm_fd_lost("/proc/self/mem");
		if (got <= 0)
			return got < 0 ? -errno : -EFAULT;
		done += (size_t)got;
	}
	return 0;
}

static int empty(const struct job *job)
{
	uint64_t bytes = (uint64_t)job->count * PAGE;

	return sys_madvise((void *)job->addr, bytes, MADV_DONTNEED) < 0 ? -errno : 0;
}

static int cover(struct shard *shard, const struct job *job)
{
	void *p = sys_mmap((void *)job->addr, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			   shard->pager->empty_fd, 0);

	return p == MAP_FAILED ? -errno : 0;
}

/*
 * As it was before it was covered. It is mapped and registered elsewhere and moved there in one
 * step: a page that was mapped first and registered then could be read as zeros in between. The
 * shard is told of the move, which concerns none of its pages.
 */
static int uncover(struct shard *shard, const struct job *job)
{
	const struct gvm_range *range = job->view->range;
	void *p;
	int err;

	if (shard->pager->poison)
		return empty(job);
	if (range->anon)
		p = sys_mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	else
		p = sys_mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, range->memfd,
			     (off_t)(range->offset + job->page * PAGE));
	if (p == MAP_FAILED)
		return -errno;
	err = mem_register(shard->uffd, (uint64_t)(uintptr_t)p, PAGE,
			   UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
	if (!err && sys_mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)job->addr) ==
			MAP_FAILED)
		err = -errno;
	if (err)
		sys_munmap(p, PAGE);
	return err;
}

static int work(struct shard *shard, struct job *job)
{
	int err;

	switch (job->kind) {
	case JOB_TAKE:
		err = copy_out(shard, job);
		if (err)
			return err;
		__atomic_store_n(&job->copied, 1, __ATOMIC_SEQ_CST);
		return empty(job);
	case JOB_POPULATE:
		return sys_madvise((void *)job->addr, job->count * (uint64_t)PAGE,
				   MADV_POPULATE_WRITE) < 0
			   ? -errno
			   : 0;
	case JOB_COVER:
		return cover(shard, job);
	case JOB_HEAL:
		return uncover(shard, job);
	}
	return 0;
}

static void *helper_main(void *arg)
{
	const bool slow = pager_quirks & QUIRK_SLOW_HELPER;
	struct shard *shard = arg;
	uint32_t taken = 0;
	char name[16];

	snprintf(name, sizeof(name), "gvm-helper/%u", shard->number % 1000);
	prctl(PR_SET_NAME, name);
	for (;;) {
		uint32_t posted = __atomic_load_n(&shard->job_posted, __ATOMIC_SEQ_CST);

		if (taken != posted) {
			struct job *job = &shard->jobs[shard->ring[taken++ % JOBS]];

			if (slow)
				usleep(SLOW_US);
			job->status = work(shard, job);
			gvm_worker_run(shard->worker, &job->task);
			continue;
		}
		if (__atomic_load_n(&shard->helper_stop, __ATOMIC_SEQ_CST))
			return NULL;
		__atomic_store_n(&shard->helper_asleep, 1, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(&shard->job_posted, __ATOMIC_SEQ_CST) == taken &&
		    !__atomic_load_n(&shard->helper_stop, __ATOMIC_SEQ_CST))
			futex_wait(&shard->job_posted, taken);
		__atomic_store_n(&shard->helper_asleep, 0, __ATOMIC_SEQ_CST);
	}
}

int helper_start(struct shard *shard)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	shard->job_posted = shard->job_kicked = 0;
	shard->helper_stop = 0;
	err = -pthread_create(&shard->helper, NULL, helper_main, shard);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	shard->helper_started = err == 0;
	return err;
}

/* All its jobs have been answered. */
void helper_stop(struct shard *shard)
{
	if (!shard->helper_started)
		return;
	__atomic_store_n(&shard->helper_stop, 1, __ATOMIC_SEQ_CST);
	/* a posted number that means nothing: it only ends the wait */
	do {
		futex_wake(&shard->job_posted);
	} while (__atomic_load_n(&shard->helper_asleep, __ATOMIC_SEQ_CST) && usleep(1000) == 0);
	pthread_join(shard->helper, NULL);
	shard->helper_started = false;
}
