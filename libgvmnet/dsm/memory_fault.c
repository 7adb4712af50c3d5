/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel says of a shared region's mapping: faults of its programs' threads, and what they
 * do with the mapping itself. Faults are gathered as they are read and served one after another:
 * while one is served a request may have to wait for events, and others are read with those.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include "core/fd.h"
#include "memory_internal.h"

#define MESSAGES 16

/* ---- the program changes its mappings ------------------------------------------------------ */

/* Pages whose addresses are the program's again; they leave next. */
static void lose_pages(struct dsm_memory *m, uint64_t from, uint64_t to)
{
	uint64_t base = addr_of(m, 0), end = base + m->bytes;

	from = from < base ? base : from;
	to = to > end ? end : to;
	for (uint64_t addr = from; addr < to; addr += PAGE) {
		uint64_t page = (addr - base) / PAGE;

		/* it is the cover that is being laid over it */
		if (!(m->page[page].flags & (F_COVERED | F_GONE)))
			memory_page_lose(m, page);
	}
}

static void take_move(struct dsm_memory *m, uint64_t from, uint64_t to, uint64_t len)
{
	uint64_t page = (to - addr_of(m, 0)) / PAGE;

	if (to >= addr_of(m, 0) && page < m->config.pages && len == PAGE &&
	    (m->page[page].flags & F_COVERED)) {
		page_uncovered(m, page);
		return;
	}
	lose_pages(m, from, from + len);
	/* what was open is so at the new place, where nobody would close it */
	sys_madvise((void *)to, len, MADV_DONTNEED_LOCKED);
}

static void queue_fault(struct dsm_memory *m, int uffd, const struct uffd_msg *msg)
{
	const uint64_t writes = UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP;
	uint64_t addr = msg->arg.pagefault.address & ~(uint64_t)(PAGE - 1);

	if (m->fault_head - m->fault_tail == FAULTS) {
		mem_wake(uffd, addr, PAGE); /* it faults again */
		return;
	}
	m->faults[m->fault_head++ % FAULTS] =
	    (struct fault){ .addr = addr,
			    .tid = msg->arg.pagefault.feat.ptid,
			    .uffd = uffd,
			    .write = msg->arg.pagefault.flags & writes };
}

static void take_message(struct dsm_memory *m, int uffd, const struct uffd_msg *msg)
{
	switch (msg->event) {
	case UFFD_EVENT_PAGEFAULT:
		queue_fault(m, uffd, msg);
		break;
	case UFFD_EVENT_UNMAP:
		lose_pages(m, msg->arg.remove.start, msg->arg.remove.end);
		break;
	case UFFD_EVENT_REMAP:
		take_move(m, msg->arg.remap.from, msg->arg.remap.to, msg->arg.remap.len);
		break;
	default:
		break;
	}
}

static int read_messages(struct dsm_memory *m, int uffd)
{
	struct uffd_msg msgs[MESSAGES];
	int total = 0;
	ssize_t got;

	do {
		got = sys_read(uffd, msgs, sizeof(msgs));
		if (got < (ssize_t)sizeof(msgs[0])) {
			if (got >= 0 || errno == EBADF)
				gvm_fd_lost("userfaultfd");
			break;
		}
		for (unsigned i = 0; i < (size_t)got / sizeof(msgs[0]); i++)
			take_message(m, uffd, &msgs[i]);
		total += (int)((size_t)got / sizeof(msgs[0]));
	} while (got == (ssize_t)sizeof(msgs));
	return total;
}

void settle(struct dsm_memory *m)
{
	int n = 0;

	for (unsigned i = 0; i < m->config.fds; i++)
		n += read_messages(m, m->uffd[i]);
	if (n == 0)
		sched_yield(); /* the thread whose event was read has not gone on yet */
}

/* ---- faults -------------------------------------------------------------------------------- */

static void wait_for_room(struct dsm_memory *m, const struct fault *f)
{
	if (m->wait_head - m->wait_tail == WAITS) {
		mem_wake(f->uffd, f->addr, PAGE);
		return;
	}
	m->waits[m->wait_head++ % WAITS] = *f;
}

/* It has access, and it is not in the mapping: put aside, or discarded by the program. */
static void serve_here(struct dsm_memory *m, uint64_t page)
{
	m->stats.faults_local++;
	page_map(m, page);
}

static void ask(struct dsm_memory *m, uint64_t page, const struct fault *f)
{
	enum ivy_access access = f->write ? IVY_WRITE : IVY_READ;
	struct page *p = &m->page[page];
	int r;

	if (access == IVY_WRITE)
		m->stats.faults_write++;
	else
		m->stats.faults_read++;
	hold_waits(m, page, f->tid);
	p->flags |= F_AWAITED;
	r = m->config.fault(m->config.user, page, access);
	if (r == 1)
		return;
	p->flags &= (uint16_t)~F_AWAITED;
	if (r == 0 && access_of(p) >= access)
		page_map(m, page);
	else if (r == 0 || r == -ENOMEM || r == -EAGAIN)
		wait_for_room(m, f);
	else
		dsm_memory_end(m, page, r);
}

/* The program has discarded the mark; or the cover is just being laid, or taken away. */
static void serve_refused(struct dsm_memory *m, uint64_t page, const struct fault *f)
{
	if (m->page[page].flags & F_COVERED)
		mem_wake(f->uffd, f->addr, PAGE);
	else
		page_shut(m, page);
}

/* More than is here already, and there is no room: others leave first. */
static bool full(const struct dsm_memory *m, const struct page *p)
{
	uint64_t used = m->present - m->queue[DEAD].count;

	return m->config.budget && (p->place == ABSENT || p->place == DEAD) &&
	       used >= m->config.budget + m->config.budget / 16;
}

static void serve(struct dsm_memory *m, const struct fault *f)
{
	uint64_t page = (f->addr - addr_of(m, 0)) / PAGE;
	struct page *p;

	if (f->addr < addr_of(m, 0) || page >= m->config.pages) {
		refuse_at(m, f->uffd, f->addr); /* where mremap has put it */
		return;
	}
	p = &m->page[page];
	if (p->flags & F_GONE)
		refuse_at(m, f->uffd, f->addr);
	else if (p->flags & F_POISONED)
		page_shut(m, page);
	else if (p->flags & F_REFUSED)
		serve_refused(m, page, f);
	else if (access_of(p) >= (f->write ? IVY_WRITE : IVY_READ))
		serve_here(m, page);
	else if (full(m, p))
		wait_for_room(m, f);
	else
		ask(m, page, f);
}

bool serve_faults(struct dsm_memory *m)
{
	bool any = false;

	if (m->serving)
		return false;
	m->serving = true;
	while (m->fault_tail != m->fault_head) {
		struct fault f = m->faults[m->fault_tail++ % FAULTS];

		serve(m, &f);
		any = true;
	}
	m->serving = false;
	return any;
}

void serve_waits(struct dsm_memory *m)
{
	uint32_t n = m->wait_head - m->wait_tail;

	if (m->serving)
		return;
	m->serving = true;
	while (n-- > 0) {
		struct fault f = m->waits[m->wait_tail++ % WAITS];

		serve(m, &f); /* may wait again, at the end */
	}
	m->serving = false;
}

int dsm_memory_read(struct dsm_memory *m, unsigned i)
{
	int n = read_messages(m, m->uffd[i]);

	serve_faults(m);
	return n;
}
