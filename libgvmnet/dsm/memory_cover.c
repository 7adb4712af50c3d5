/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * SIGBUS on kernels that have no UFFDIO_POISON (before 6.6): a mapping of an empty file is laid
 * over the page. What it replaces is told as an event, and the call does not return before that has
 * been read: so a thread of its own makes it, and the engine's thread goes on reading.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include "core/fd.h"
#include "memory_internal.h"

static void lay(struct cover *c, int uffd, uint64_t addr)
{
	void *p = sys_mmap((void *)addr, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			   c->empty_fd, 0);

	if (p == MAP_FAILED)
		gvm_log(GVM_LOG_ERROR,
			"a page of shared memory cannot be had, nor its use be ended: %s",
			strerror(errno));
	else
		mem_wake(uffd, addr, PAGE);
}

static void *cover_main(void *arg)
{
	struct cover *c = arg;

	prctl(PR_SET_NAME, "gvm-cover");
	pthread_mutex_lock(&c->lock);
	while (!c->stop) {
		uint64_t addr;
		int uffd;

		if (c->head == c->tail) {
			pthread_cond_wait(&c->posted, &c->lock);
			continue;
		}
		addr = c->ring[c->tail % COVERS].addr;
		uffd = c->ring[c->tail++ % COVERS].uffd;
		pthread_mutex_unlock(&c->lock);
		lay(c, uffd, addr);
		pthread_mutex_lock(&c->lock);
	}
	pthread_mutex_unlock(&c->lock);
	__atomic_store_n(&c->ended, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static int start(struct cover *c)
{
	sigset_t all, old;
	int err;

	c->empty_fd = gvm_own_fd(memfd_create("gvmnet-nothing", MFD_CLOEXEC));
	if (c->empty_fd < 0)
		return -errno;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->posted, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = -pthread_create(&c->thread, NULL, cover_main, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	c->started = err == 0;
	return err;
}

void cover_post(struct dsm_memory *m, int uffd, uint64_t addr)
{
	struct cover *c = &m->cover;
	int err = c->started ? 0 : start(c);
	bool room;

	if (err) {
		gvm_log(GVM_LOG_ERROR, "a thread cannot be started: %s", strerror(-err));
		return;
	}
	pthread_mutex_lock(&c->lock);
	room = c->head - c->tail < COVERS;
	if (room) {
		c->ring[c->head % COVERS].addr = addr;
		c->ring[c->head++ % COVERS].uffd = uffd;
		pthread_cond_signal(&c->posted);
	}
	pthread_mutex_unlock(&c->lock);
	if (!room)
		mem_wake(uffd, addr, PAGE); /* it faults again, and is posted again */
}

void cover_close(struct dsm_memory *m)
{
	struct cover *c = &m->cover;

	if (c->started) {
		pthread_mutex_lock(&c->lock);
		c->stop = true;
		pthread_cond_signal(&c->posted);
		pthread_mutex_unlock(&c->lock);
		while (!__atomic_load_n(&c->ended, __ATOMIC_SEQ_CST))
			settle(m); /* it may wait for an event to be read */
		pthread_join(c->thread, NULL);
		pthread_mutex_destroy(&c->lock);
		pthread_cond_destroy(&c->posted);
	}
	if (c->empty_fd >= 0)
		close(c->empty_fd);
}
