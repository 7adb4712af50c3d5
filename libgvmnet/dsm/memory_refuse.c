/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * SIGBUS: pages that cannot be had, for good (lost, or their home is) or for want of something that
 * there may be again (memory at the home, time). Of the latter a page stays as it is, with what the
 * engine lets programs do with it; an access raises SIGBUS until refuse_ns are over, or the page
 * comes after all. The next one is a fault like any other, and the page is asked for again.
 *
 * The kernel does it by a mark in the page table (UFFDIO_POISON), which MADV_DONTNEED takes away
 * again; before 6.6 by a mapping that a thread lays over the page (memory_cover.c).
 */
#include <errno.h>
#include "memory_internal.h"

bool refuse_at(struct dsm_memory *m, int uffd, uint64_t addr)
{
	int err = -EAGAIN;

	while (m->poison && err == -EAGAIN) {
		err = mem_poison(uffd, addr, PAGE);
		/* the mark of write-protection outlives the page, and is in the way */
		if (err == -EEXIST && mem_protect(uffd, addr, PAGE, false) == 0)
			err = mem_poison(uffd, addr, PAGE);
		if (err == -EAGAIN)
			settle(m);
	}
	if (err && err != -ENOENT)
		return cover_post(m, uffd, addr);
	mem_wake(uffd, addr, PAGE);
	return false;
}

static void empty(struct dsm_memory *m, uint64_t page)
{
	while (sys_madvise((void *)addr_of(m, page), PAGE, MADV_DONTNEED_LOCKED) < 0 &&
	       (errno == EAGAIN || errno == EINTR))
		;
}

void page_shut(struct dsm_memory *m, uint64_t page)
{
	struct page *p = &m->page[page];

	if (!(p->flags & F_COVERED))
		empty(m, page); /* it may have the mark already */
	if (refuse_at(m, uffd_of(m, page), addr_of(m, page)))
		p->flags |= F_COVERED;
}

/* False: the thread that takes covers away has too much to do. */
static bool reopen(struct dsm_memory *m, uint64_t page)
{
	struct page *p = &m->page[page];

	if ((p->flags & (F_REFUSED | F_POISONED | F_GONE)) != F_REFUSED)
		return true;
	if (p->flags & F_COVERED)
		return cover_lift(m, page); /* page_uncovered() follows */
	empty(m, page);
	p->flags &= (uint16_t)~F_REFUSED;
	return true;
}

void page_reopen(struct dsm_memory *m, uint64_t page)
{
	(void)reopen(m, page); /* else when its time is over */
}

void page_uncovered(struct dsm_memory *m, uint64_t page)
{
	m->page[page].flags &= (uint16_t) ~(F_COVERED | F_REFUSED);
}

void refusals_end(struct dsm_memory *m)
{
	while (m->refused_tail != m->refused_head) {
		struct refusal *r = &m->refusals[m->refused_tail % REFUSALS];

		if (gvm_now() < r->until || !reopen(m, r->page))
			return;
		m->refused_tail++;
	}
}

/* The oldest one is over early if there are too many. */
static bool note(struct dsm_memory *m, uint64_t page)
{
	if (m->refused_head - m->refused_tail == REFUSALS) {
		if (!reopen(m, m->refusals[m->refused_tail % REFUSALS].page))
			return false;
		m->refused_tail++;
	}
	m->refusals[m->refused_head++ % REFUSALS] =
	    (struct refusal){ .page = page, .until = gvm_now() + m->config.refuse_ns };
	return true;
}

/* Whom nobody waits for does not harm anybody: it was a hint. */
static void refuse_for_now(struct dsm_memory *m, uint64_t page, bool awaited)
{
	struct page *p = &m->page[page];

	if (!awaited || (p->flags & F_REFUSED))
		return;
	if (!note(m, page)) {
		mem_wake(uffd_of(m, page), addr_of(m, page), PAGE); /* it is asked for again */
		return;
	}
	page_unmap(m, page);
	p->flags |= F_REFUSED;
	m->stats.refused++;
	page_shut(m, page);
}

static bool may_change(int status)
{
	return status == -ENOMEM || status == -ENOSPC || status == -ETIMEDOUT;
}

void dsm_memory_end(struct dsm_memory *m, uint64_t page, int status)
{
	struct page *p = &m->page[page];
	bool awaited = p->flags & F_AWAITED;

	p->flags &= (uint16_t)~F_AWAITED;
	if (status == 0) {
		/* else they have gone on when it was mapped */
		if (!(p->flags & F_MAPPED))
			mem_wake(uffd_of(m, page), addr_of(m, page), PAGE);
		return;
	}
	if (p->flags & (F_POISONED | F_GONE))
		return;
	if (may_change(status)) {
		refuse_for_now(m, page, awaited);
		return;
	}
	dsm_memory_protect(m, page, IVY_NONE);
	p->flags |= F_POISONED;
	m->stats.poisoned++;
	if (!(p->flags & F_REFUSED))
		page_shut(m, page);
}
