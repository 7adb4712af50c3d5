/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who waits for a page, and whether it has got on since the page was opened for it. A thread that
 * has been woken may have no CPU for long; were its page taken away meanwhile it would wait again,
 * and a page that many want could go round without anybody getting on. Its use of the page cannot
 * be seen, but its clock can: when it has run for longer than it takes to come back from a fault,
 * the access that faulted has been made.
 */
#include <time.h>
#include "memory_internal.h"

#define RETURN_NS 1000u  /* of CPU time: from being woken to the access */
#define LOOK_NS   10000u /* until it is looked at again, at least */

/* The clock of the CPU time of a thread of this process: Linux encodes it so
 * (clock_getcpuclockid(3) does for processes, pthread_getcpuclockid(3) for threads that are known
 * by pthread_t). */
static clockid_t clock_of(uint32_t tid)
{
	return (clockid_t)(~tid << 3 | 6);
}

static bool cpu_time(uint32_t tid, uint64_t *ns)
{
	struct timespec t;

	if (clock_gettime(clock_of(tid), &t) < 0)
		return false;
	*ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
	return true;
}

static struct hold *hold_of(struct dsm_memory *m, uint64_t page)
{
	return &m->holds[page % HOLDS];
}

void hold_waits(struct dsm_memory *m, uint64_t page, uint32_t tid)
{
	struct hold *h = hold_of(m, page);

	/* the first of several that wait for a page is the one that is watched */
	if (m->config.hold_ns && (h->page != page || !h->waits))
		*h = (struct hold){ .page = page, .tid = tid, .waits = true };
}

void hold_begin(struct dsm_memory *m, uint64_t page)
{
	struct hold *h = hold_of(m, page);

	if (!h->waits || h->page != page)
		return;
	h->waits = false;
	h->opened_ns = cpu_time(h->tid, &h->cpu_ns) ? gvm_now() : 0;
}

void hold_end(struct dsm_memory *m, uint64_t page)
{
	struct hold *h = hold_of(m, page);

	if (h->page == page)
		h->opened_ns = 0;
}

uint64_t dsm_memory_held_until(struct dsm_memory *m, uint64_t page)
{
	struct hold *h = hold_of(m, page);
	uint64_t now, cpu, until, limit;

	if (h->page != page || !h->opened_ns)
		return 0;
	now = gvm_now();
	limit = h->opened_ns + m->config.hold_ns;
	if (now >= limit || !cpu_time(h->tid, &cpu) || cpu >= h->cpu_ns + RETURN_NS) {
		h->opened_ns = 0;
		return 0;
	}
	/* the longer it has had no CPU, the longer it may take */
	until = now + (now - h->opened_ns > LOOK_NS ? now - h->opened_ns : LOOK_NS);
	return until < limit ? until : limit;
}
