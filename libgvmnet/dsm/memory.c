/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Pages of a shared region in one process: making the two mappings, and opening and closing pages
 * of the one for what the other holds.
 *
 * Only requests made here put a page into the programs' mapping: it is registered for minor faults,
 * so the kernel maps nothing by itself that the file has, and for missing ones, so it makes
 * nothing. It is taken out with MADV_DONTNEED, which has flushed all CPUs' translations when it
 * returns and leaves the file as it is.
 *
 * Chosen by measuring, per page of 4 KiB (6.18): map what the file has 0.6 us, unmap 1.0 to 1.2;
 * with a file that only has what is mapped, copied in 1.8, copied out and punched out 5.6; private
 * memory, copied in 1.2, out 0.3 and emptied 1.3, but there a program's own MADV_DONTNEED loses
 * data.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <string.h>
#include "core/fd.h"
#include "memory_internal.h"

static const char zeros[PAGE];

/* ---- queues -------------------------------------------------------------------------------- */

static bool queued(unsigned place)
{
	return place == LIVE || place == VICTIM || place == DEAD;
}

static void leave_queue(struct dsm_memory *m, struct page *p)
{
	struct queue *q = &m->queue[p->place];

	if (!queued(p->place))
		return;
	if (p->prev != NIL)
		m->page[p->prev].next = p->next;
	else
		q->first = p->next;
	if (p->next != NIL)
		m->page[p->next].prev = p->prev;
	else
		q->last = p->prev;
	q->count--;
}

static bool usable(unsigned place)
{
	return place == LIVE || place == VICTIM;
}

/* The counts that depend on the place alone. */
static void set_place(struct dsm_memory *m, struct page *p, enum place place)
{
	leave_queue(m, p);
	m->present += (uint64_t)(place != ABSENT) - (p->place != ABSENT);
	if (p->flags & F_GONE)
		m->parting += (uint64_t)usable(place) - usable(p->place);
	if ((place == DEAD || place == ABSENT) && (p->flags & F_LEAVING)) {
		p->flags &= (uint16_t)~F_LEAVING;
		m->leaving--;
	}
	p->place = (uint16_t)place;
}

void page_place(struct dsm_memory *m, uint64_t page, enum place place)
{
	struct page *p = &m->page[page];
	struct queue *q = &m->queue[place];

	set_place(m, p, place);
	if (!queued(place))
		return;
	p->next = NIL;
	p->prev = q->last;
	if (q->last != NIL)
		m->page[q->last].next = (uint32_t)page;
	else
		q->first = (uint32_t)page;
	q->last = (uint32_t)page;
	q->count++;
}

static void victim_first(struct dsm_memory *m, uint64_t page)
{
	struct page *p = &m->page[page];
	struct queue *q = &m->queue[VICTIM];

	set_place(m, p, VICTIM);
	p->prev = NIL;
	p->next = q->first;
	if (q->first != NIL)
		m->page[q->first].prev = (uint32_t)page;
	else
		q->last = (uint32_t)page;
	q->first = (uint32_t)page;
	q->count++;
}

void memory_page_lose(struct dsm_memory *m, uint64_t page)
{
	struct page *p = &m->page[page];

	m->pierced = true;
	m->parting += usable(p->place);
	p->flags = (uint16_t)((p->flags | F_GONE) & ~F_MAPPED);
	if (usable(p->place))
		victim_first(m, page);
}

/* ---- contents ------------------------------------------------------------------------------ */

/* Where the file may have a hole: an error instead of a signal if there is no memory. */
static int fill(struct dsm_memory *m, uint64_t page, const void *bytes)
{
	ssize_t put;

	do
		put = pwrite(m->file, bytes, PAGE, (off_t)(page * PAGE));
	while (put < 0 && errno == EINTR);
	if (put < 0 && errno == EBADF)
		gvm_fd_lost("a shared region's file");
	return put == PAGE ? 0 : -ENOMEM;
}

const void *dsm_memory_copy_read(struct dsm_memory *m, uint64_t page)
{
	return m->alias + page * PAGE;
}

int dsm_memory_copy_write(struct dsm_memory *m, uint64_t page, const void *bytes)
{
	struct page *p = &m->page[page];

	if (!bytes)
		bytes = zeros;
	if (p->place == ABSENT) {
		if (fill(m, page, bytes) != 0)
			return -ENOMEM;
	} else {
		memcpy(m->alias + page * PAGE, bytes, PAGE);
	}
	page_place(m, page, KEPT);
	return 0;
}

void dsm_memory_copy_drop(struct dsm_memory *m, uint64_t page)
{
	if (access_of(&m->page[page]) != IVY_NONE)
		dsm_memory_protect(m, page, IVY_NONE);
	if (m->page[page].place != ABSENT)
		page_place(m, page, DEAD);
}

/* ---- the programs' mapping ----------------------------------------------------------------- */

/*
 * Kernels before 6.4 cannot map what the file has write-protected, and to protect it afterwards
 * would leave a moment for a store. But they can when they make the page: so the file is given it
 * anew.
 */
static int map_anew(struct dsm_memory *m, uint64_t page)
{
	uint64_t done;
	int err;

	memcpy(m->bounce, m->alias + page * PAGE, PAGE);
	sys_punch(m->file, page * PAGE, PAGE);
	while ((err = mem_copy(uffd_of(m, page), addr_of(m, page), m->bounce, PAGE, true, &done))) {
		if (err != -EAGAIN && err != -ENOMEM)
			break;
		settle(m); /* events; or until there is memory: nobody else has this content */
		if (m->page[page].flags & F_GONE)
			break;
	}
	if (err && fill(m, page, m->bounce) != 0)
		memcpy(m->alias + page * PAGE, m->bounce,
		       PAGE); /* SIGBUS if there is none at all */
	return err;
}

static int map_once(struct dsm_memory *m, uint64_t page, bool writable)
{
	int uffd = uffd_of(m, page), err;

	if (writable)
		err = mem_continue(uffd, addr_of(m, page), PAGE, false);
	else if (m->continue_wp)
		err = mem_continue(uffd, addr_of(m, page), PAGE, true);
	else
		err = map_anew(m, page);
	if (err == -EEXIST) { /* it is there: it was asked for when it had just come */
		err = mem_protect(uffd, addr_of(m, page), PAGE, !writable);
		mem_wake(uffd, addr_of(m, page), PAGE);
	}
	return err;
}

static void not_mapped(struct dsm_memory *m, uint64_t page, int err)
{
	static struct gvm_log_limit limit;

	if (err != -ENOENT)
		gvm_log_limited(&limit, GVM_LOG_WARN, "page %llu of shared memory: %s; tried again",
				(unsigned long long)page, strerror(-err));
	else
		memory_page_lose(m, page);
	mem_wake(uffd_of(m, page), addr_of(m, page), PAGE); /* who waits faults again */
}

void page_map(struct dsm_memory *m, uint64_t page)
{
	struct page *p = &m->page[page];
	int err;

	while (!(p->flags & (F_GONE | F_POISONED | F_REFUSED))) {
		err = map_once(m, page, access_of(p) == IVY_WRITE);
		if (err == 0) {
			p->flags |= F_MAPPED;
			break;
		}
		if (err == -EAGAIN) {
			settle(m);
		} else if (err != -EFAULT || fill(m, page, zeros) != 0) {
			/* EFAULT: the program has punched a hole */
			not_mapped(m, page, err);
			break;
		}
	}
	if (p->flags & F_GONE)
		victim_first(m, page);
	else
		page_place(m, page, LIVE);
}

void page_unmap(struct dsm_memory *m, uint64_t page)
{
	struct page *p = &m->page[page];

	while ((p->flags & F_MAPPED) && !(p->flags & F_GONE)) {
		if (sys_madvise((void *)addr_of(m, page), PAGE, MADV_DONTNEED_LOCKED) == 0)
			break;
		if (errno == EAGAIN || errno == EINTR)
			continue;
		/* nothing is there; if an event will say so the kernel asks for patience */
		if (mem_protect(uffd_of(m, page), addr_of(m, page), PAGE, true) != -EAGAIN)
			break;
		settle(m);
	}
	p->flags &= (uint16_t)~F_MAPPED;
}

/* Write-protect, or let write, what is in the mapping. */
static void change(struct dsm_memory *m, uint64_t page, bool writable)
{
	struct page *p = &m->page[page];
	int err = -EAGAIN;

	while (err == -EAGAIN && !(p->flags & F_GONE)) {
		err = mem_protect(uffd_of(m, page), addr_of(m, page), PAGE, !writable);
		if (err == -EAGAIN)
			settle(m);
	}
	if (err == 0 || (p->flags & F_GONE))
		return;
	/* what cannot be protected is taken away */
	page_unmap(m, page);
	mem_wake(uffd_of(m, page), addr_of(m, page), PAGE);
}

static void set_access(struct page *p, enum ivy_access access)
{
	p->flags = (uint16_t)((p->flags & ~F_ACCESS) | access);
}

static void lessen(struct dsm_memory *m, uint64_t page, enum ivy_access access)
{
	struct page *p = &m->page[page];

	/* first, as what was read may be served in between: nobody gets what is being taken */
	set_access(p, access);
	hold_end(m, page);
	if (access == IVY_NONE) {
		m->stats.closed++;
		page_unmap(m, page);
		page_place(m, page, KEPT);
		if (m->config.taken)
			m->config.taken(m->config.user, page);
		return;
	}
	m->stats.downgraded++;
	if (p->flags & F_MAPPED)
		change(m, page, false);
}

void dsm_memory_protect(struct dsm_memory *m, uint64_t page, enum ivy_access access)
{
	struct page *p = &m->page[page];
	enum ivy_access before = access_of(p);

	if (access == before)
		return;
	if (access < before) {
		lessen(m, page, access);
		return;
	}
	set_access(p, access);
	hold_begin(m, page);
	page_reopen(m, page); /* it has come after all */
	if (before == IVY_NONE)
		m->stats.opened++;
	else
		m->stats.upgraded++;
	if (before == IVY_READ && (p->flags & F_MAPPED)) {
		change(m, page, true);
		page_place(m, page, LIVE);
	} else {
		page_map(m, page);
	}
}

/* ---- making and unmaking ------------------------------------------------------------------- */

static int open_file(struct dsm_memory *m)
{
	m->file = gvm_own_fd(memfd_create("gvmnet-shared", MFD_CLOEXEC | MFD_ALLOW_SEALING));
	if (m->file < 0)
		return -errno;
	if (ftruncate(m->file, (off_t)m->bytes) < 0 ||
	    fcntl(m->file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	return 0;
}

static int map_file(struct dsm_memory *m, char **at)
{
	void *p = sys_mmap(NULL, m->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
			   m->file, 0);

	if (p == MAP_FAILED)
		return -errno;
	*at = p;
	/* a child would have the pages without anybody watching over them */
	if (sys_madvise(p, m->bytes, MADV_DONTFORK) < 0)
		return -errno;
	sys_madvise(p, m->bytes, MADV_NOHUGEPAGE); /* a kernel may have none */
	return 0;
}

static int open_uffds(struct dsm_memory *m)
{
	const uint64_t want = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM |
			      UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
			      UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMAP |
			      UFFD_FEATURE_THREAD_ID;
	uint64_t features = 0;

	for (unsigned i = 0; i < m->config.fds; i++) {
		int err = mem_uffd(want, &features, &m->uffd[i]);

		if (err)
			return err;
	}
	m->poison = mem_has_poison(features);
	return 0;
}

static int watch(struct dsm_memory *m)
{
	for (uint64_t page = 0; page < m->config.pages; page += m->stripe) {
		uint64_t n =
		    m->config.pages - page < m->stripe ? m->config.pages - page : m->stripe;
		int err = mem_register(uffd_of(m, page), addr_of(m, page), n * PAGE, WATCHED);

		if (err)
			return err;
	}
	return 0;
}

/* No feature bit tells. */
static int probe_continue(struct dsm_memory *m)
{
	int err = fill(m, 0, zeros);

	if (err)
		return err;
	m->continue_wp = mem_continue(uffd_of(m, 0), addr_of(m, 0), PAGE, true) == 0;
	sys_madvise(m->base, PAGE, MADV_DONTNEED);
	sys_punch(m->file, 0, PAGE);
	return 0;
}

static int build(struct dsm_memory *m)
{
	int err = open_file(m);

	if (!err)
		err = map_file(m, &m->alias);
	if (!err)
		err = map_file(m, &m->base);
	if (!err)
		err = open_uffds(m);
	if (!err)
		err = watch(m);
	if (!err)
		err = probe_continue(m);
	m->page = mem_map(m->config.pages * sizeof(*m->page));
	return err ? err : m->page ? 0 : -ENOMEM;
}

static bool sensible(const struct dsm_memory_config *c)
{
	return c->pages > 0 && c->pages < NIL && (c->budget == 0 || c->budget >= 16) &&
	       c->fds <= DSM_MEMORY_FDS_MAX && c->fault && c->evict;
}

int dsm_memory_open(const struct dsm_memory_config *config, struct dsm_memory **memory)
{
	struct dsm_memory *m;
	int err;

	if (!sensible(config))
		return -EINVAL;
	m = mem_map(sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->config = *config;
	if (m->config.fds == 0)
		m->config.fds = 1;
	m->bytes = config->pages * PAGE;
	/* 16 MiB, or what makes 64 stripes each: every one is a mapping to the kernel */
	m->stripe = config->pages / (64ull * m->config.fds) + 1;
	if (m->stripe < 4096)
		m->stripe = 4096;
	if (m->config.fds == 1)
		m->stripe = config->pages;
	for (unsigned i = 0; i < PLACES; i++)
		m->queue[i].first = m->queue[i].last = NIL;
	m->file = m->cover.empty_fd = -1;
	memset(m->uffd, 0xff, sizeof(m->uffd));
	err = build(m);
	if (err) {
		dsm_memory_close(m);
		return err;
	}
	*memory = m;
	return 0;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

/* The stretches of the programs' mapping that are still ours. */
static void each_stretch(struct dsm_memory *m, void (*fn)(struct dsm_memory *, uint64_t, uint64_t))
{
	uint64_t from = 0, page = 0;

	for (; m->pierced && page < m->config.pages; page++) {
		if (!(m->page[page].flags & F_GONE))
			continue;
		if (from < page)
			fn(m, addr_of(m, from), (page - from) * PAGE);
		from = page + 1;
	}
	if (from < m->config.pages)
		fn(m, addr_of(m, from), (m->config.pages - from) * PAGE);
}

static void forbid(struct dsm_memory *m, uint64_t addr, uint64_t bytes)
{
	syscall(SYS_mprotect, addr, bytes, PROT_NONE);
}

/* A child of the program's may have the descriptors too, so to close them is not enough. */
static void unwatch(struct dsm_memory *m, uint64_t addr, uint64_t bytes)
{
	uint64_t page = (addr - addr_of(m, 0)) / PAGE, end = page + bytes / PAGE;

	while (page < end) {
		uint64_t next = (page / m->stripe + 1) * m->stripe;

		next = next < end ? next : end;
		if (uffd_of(m, page) >= 0)
			mem_unregister(uffd_of(m, page), addr_of(m, page), (next - page) * PAGE);
		page = next;
	}
}

static void unmap(struct dsm_memory *m, uint64_t addr, uint64_t bytes)
{
	sys_munmap((void *)addr, bytes);
}

void dsm_memory_close(struct dsm_memory *m)
{
	cover_close(m);
	cover_forget(m);
	if (m->base) {
		each_stretch(m, forbid); /* before nobody watches over it */
		each_stretch(m, unwatch);
	}
	for (unsigned i = 0; i < m->config.fds; i++)
		close_fd(m->uffd[i]);
	if (m->base)
		each_stretch(m, unmap);
	mem_unmap(m->alias, m->bytes);
	mem_unmap(m->page, m->config.pages * sizeof(*m->page));
	close_fd(m->file);
	mem_unmap(m, sizeof(*m));
}

void *dsm_memory_base(const struct dsm_memory *m)
{
	return m->base;
}

unsigned dsm_memory_fds(const struct dsm_memory *m)
{
	return m->config.fds;
}

int dsm_memory_fd(const struct dsm_memory *m, unsigned i)
{
	return m->uffd[i];
}

void dsm_memory_stats(const struct dsm_memory *m, struct dsm_memory_stats *stats)
{
	*stats = m->stats;
	stats->present = m->present;
	stats->waiting = m->wait_head - m->wait_tail;
}
