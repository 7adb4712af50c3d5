/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The budget of a shared region's memory: what of it leaves, and when. Pages leave in the order in
 * which they were opened, by way of a queue in which they are out of the mapping but still here: a
 * fault on one that is in use puts it back at the price of one local fault (segmented FIFO, Turner
 * and Levy, 1981; the pager does the same). The program's own use of a page that is open cannot be
 * seen otherwise.
 */
#include <errno.h>
#include "memory_internal.h"

#define DEAD_MAX 4096u /* pages of memory that are kept for contents to come, 16 MiB */

static void give_back(struct dsm_memory *m, uint64_t page)
{
	sys_punch(m->file, page * PAGE, PAGE);
	page_place(m, page, ABSENT);
}

static uint64_t dead_max(const struct dsm_memory *m)
{
	return m->config.budget && m->config.budget / 8 < DEAD_MAX ? m->config.budget / 8
								   : DEAD_MAX;
}

static bool over_budget(const struct dsm_memory *m)
{
	return m->queue[DEAD].count && m->config.budget && m->present > m->config.budget;
}

static bool too_many_dead(const struct dsm_memory *m)
{
	return m->queue[DEAD].count > dead_max(m) || over_budget(m);
}

/* To give memory back takes longer than all else that a message brings about, and somebody waits
 * for the answer: so it is left to dsm_memory_bury(), unless that cannot keep up. */
static bool dead_are_urgent(const struct dsm_memory *m)
{
	return m->queue[DEAD].count > dead_max(m) + dead_max(m) / 8 || over_budget(m);
}

void dsm_memory_bury(struct dsm_memory *m)
{
	for (unsigned i = 0; i < ROUND && too_many_dead(m); i++)
		give_back(m, m->queue[DEAD].first);
}

/* So many contents should leave, beside those that do already. */
static uint64_t excess(struct dsm_memory *m)
{
	uint64_t used = m->present - m->queue[DEAD].count - m->leaving;
	uint64_t low = m->config.budget - m->config.budget / 32;
	uint64_t waits = m->wait_head - m->wait_tail; /* the engine may have no place for more */
	uint64_t want = waits > m->leaving ? waits - m->leaving : 0;

	if (m->config.budget && used > m->config.budget)
		m->evicting = true;
	if (!m->config.budget || used <= low)
		m->evicting = false;
	if (m->evicting && used - low > want)
		want = used - low;
	return m->parting > want ? m->parting : want;
}

/* Out of the mapping, and soon out of here if nobody asks for them. */
static void put_aside(struct dsm_memory *m)
{
	uint32_t want = (m->queue[LIVE].count + m->queue[VICTIM].count) / 5 + 1;

	for (unsigned i = 0; i < ROUND && m->queue[LIVE].count && m->queue[VICTIM].count < want;
	     i++) {
		uint64_t page = m->queue[LIVE].first;

		page_unmap(m, page);
		page_place(m, page, VICTIM);
	}
}

/* Whether it has left, or is about to. */
static bool send_away(struct dsm_memory *m, uint64_t page)
{
	struct page *p = &m->page[page];
	int r = m->config.evict(m->config.user, page);

	if (r == 0 && p->place == KEPT && !(p->flags & F_LEAVING)) {
		p->flags |= F_LEAVING;
		m->leaving++;
	}
	if (p->place == VICTIM) { /* not now; it is pinned, or wanted: it must not hold up others */
		if (r == -EBUSY && !(p->flags & F_GONE))
			page_map(m, page);
		else
			page_place(m, page, VICTIM);
		return false;
	}
	m->stats.evictions++;
	return true;
}

static bool evict(struct dsm_memory *m, uint64_t want)
{
	bool any = false;

	put_aside(m);
	for (unsigned i = 0; i < ROUND && want > 0 && m->queue[VICTIM].count; i++) {
		if (!send_away(m, m->queue[VICTIM].first))
			continue;
		any = true;
		want--;
	}
	return any;
}

int dsm_memory_trim(struct dsm_memory *m)
{
	bool moved = serve_faults(m);
	uint64_t want = excess(m);

	refusals_end(m);
	if (want > 0)
		moved |= evict(m, want);
	if (dead_are_urgent(m))
		dsm_memory_bury(m);
	if (m->wait_head != m->wait_tail)
		serve_waits(m);
	if (m->fault_head != m->fault_tail || dead_are_urgent(m))
		return 1;
	if (excess(m) > 0)
		return moved ? 1 : 2;
	return m->wait_head != m->wait_tail || too_many_dead(m) ? 2 : 0;
}
