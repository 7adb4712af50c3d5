/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * SIGBUS on kernels that have no UFFDIO_POISON (before 6.6): a mapping of an empty file is laid
 * over the page. What it replaces is told as an event, and the call does not return before that has
 * been read: so a thread of its own makes it, and the engine's thread goes on reading.
 *
 * To take a cover away the region's page is mapped elsewhere, where nobody knows of it, registered
 * there, and moved over the cover: so it is nowhere without the kernel watching over it.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
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

/* ---- what is there ------------------------------------------------------------------------- */

struct maps {
	int fd;
	size_t at, have;
	char bytes[4096];
};

/* The beginning of the next line, and no more than fits. */
static bool next_line(struct maps *m, char *line, size_t size)
{
	size_t n = 0;
	char c = 0;

	while (c != '\n') {
		if (m->at == m->have) {
			ssize_t got = sys_read(m->fd, m->bytes, sizeof(m->bytes));

			if (got <= 0)
				return false;
			m->at = 0;
			m->have = (size_t)got;
		}
		c = m->bytes[m->at++];
		if (n < size - 1)
			line[n++] = c;
	}
	line[n] = 0;
	return true;
}

/* fn() for all covers that are mapped in this process. */
static void each_cover(const struct cover *c, void (*fn)(void *arg, uint64_t addr), void *arg)
{
	struct maps maps = { .fd = gvm_own_fd(open("/proc/self/maps", O_RDONLY | O_CLOEXEC)) };
	unsigned long long from, to, inode;
	char line[128];

	while (maps.fd >= 0 && next_line(&maps, line, sizeof(line)))
		if (sscanf(line, "%llx-%llx %*s %*s %*s %llu", &from, &to, &inode) == 3 &&
		    inode == c->inode && strstr(line, "gvmnet-nothing"))
			fn(arg, from);
	if (maps.fd >= 0)
		close(maps.fd);
}

static void is_it(void *arg, uint64_t addr)
{
	uint64_t *wanted = arg;

	if (addr == *wanted)
		*wanted = 0;
}

static bool is_laid(const struct cover *c, uint64_t addr)
{
	each_cover(c, is_it, &addr);
	return addr == 0;
}

static void is_ours(void *arg, uint64_t addr)
{
	struct dsm_memory *m = arg;
	uint64_t page = (addr - addr_of(m, 0)) / PAGE;

	if (addr >= addr_of(m, 0) && page < m->config.pages && (m->page[page].flags & F_COVERED))
		m->page[page].flags &= (uint16_t)~F_GONE;
}

void cover_forget(struct dsm_memory *m)
{
	if (!m->cover.started)
		return;
	for (uint64_t page = 0; page < m->config.pages; page++)
		if (m->page[page].flags & F_COVERED) {
			m->page[page].flags |= F_GONE;
			m->pierced = true;
		}
	each_cover(&m->cover, is_ours, m);
}

static void lift(const struct cover *c, int uffd, uint64_t addr, uint64_t offset)
{
	void *p = MAP_FAILED, *at = MAP_FAILED;

	if (!is_laid(c, addr))
		return;
	p = sys_mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, c->file,
		     offset);
	if (p != MAP_FAILED && sys_madvise(p, PAGE, MADV_DONTFORK) == 0 &&
	    mem_register(uffd, (uintptr_t)p, PAGE, WATCHED) == 0)
		at = sys_mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)addr);
	if (at != MAP_FAILED)
		return;
	gvm_log(GVM_LOG_ERROR, "a page of shared memory cannot be made usable again: %s",
		strerror(errno));
	if (p != MAP_FAILED)
		sys_munmap(p, PAGE);
}

/* ---- the thread ---------------------------------------------------------------------------- */

static void *cover_main(void *arg)
{
	struct cover *c = arg;

	prctl(PR_SET_NAME, "gvm-cover");
	pthread_mutex_lock(&c->lock);
	while (!c->stop) {
		uint64_t addr, offset;
		bool lifted;
		int uffd;

		if (c->head == c->tail) {
			pthread_cond_wait(&c->posted, &c->lock);
			continue;
		}
		addr = c->ring[c->tail % COVERS].addr;
		offset = c->ring[c->tail % COVERS].offset;
		lifted = c->ring[c->tail % COVERS].lift;
		uffd = c->ring[c->tail++ % COVERS].uffd;
		pthread_mutex_unlock(&c->lock);
		if (lifted)
			lift(c, uffd, addr, offset);
		else
			lay(c, uffd, addr);
		pthread_mutex_lock(&c->lock);
	}
	pthread_mutex_unlock(&c->lock);
	__atomic_store_n(&c->ended, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static int start(struct cover *c)
{
	struct stat st;
	sigset_t all, old;
	int err;

	c->empty_fd = gvm_own_fd(memfd_create("gvmnet-nothing", MFD_CLOEXEC));
	if (c->empty_fd < 0 || fstat(c->empty_fd, &st) < 0)
		return -errno;
	c->inode = st.st_ino;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->posted, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = -pthread_create(&c->thread, NULL, cover_main, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	c->started = err == 0;
	return err;
}

static bool post(struct cover *c, int uffd, uint64_t addr, uint64_t offset, bool lifted)
{
	bool room;

	pthread_mutex_lock(&c->lock);
	room = c->head - c->tail < COVERS;
	if (room) {
		c->ring[c->head % COVERS].addr = addr;
		c->ring[c->head % COVERS].offset = offset;
		c->ring[c->head % COVERS].lift = lifted;
		c->ring[c->head++ % COVERS].uffd = uffd;
		pthread_cond_signal(&c->posted);
	}
	pthread_mutex_unlock(&c->lock);
	return room;
}

bool cover_post(struct dsm_memory *m, int uffd, uint64_t addr)
{
	struct cover *c = &m->cover;
	int err = 0;
	bool posted;

	if (!c->started) {
		c->file = m->file;
		err = start(c);
	}
	if (err) {
		gvm_log(GVM_LOG_ERROR, "a thread cannot be started: %s", strerror(-err));
		return false;
	}
	posted = post(c, uffd, addr, 0, false);
	if (!posted)
		mem_wake(uffd, addr, PAGE); /* it faults again, and is posted again */
	return posted;
}

bool cover_lift(struct dsm_memory *m, uint64_t page)
{
	return post(&m->cover, uffd_of(m, page), addr_of(m, page), page * PAGE, true);
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
