/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A home has been started anew and knows nothing: a node tells it what it holds of its pages. They
 * stay mapped meanwhile, and what is here does not change: no answer of before is taken, no copy is
 * given up, and what is wanted keeps the id by which it was asked for, so that the home can learn
 * which requests have not completed. When all have reported, the ids are drawn anew (RESUME); when
 * all have done that, it is asked for again (SERVES). One part of a report is under way at a time.
 */
#include "ivy/internal.h"

#ifndef IVY_REPORT_PART
#define IVY_REPORT_PART GVM_REPORT_MAX
#endif
#define PART IVY_REPORT_PART /* pages */

_Static_assert((int)PAGE_SHARED == GVM_HELD_SHARED && (int)PAGE_OWNED == GVM_HELD_OWNED &&
		   (int)PAGE_EXCL == GVM_HELD_EXCL && (int)PAGE_EVICT == GVM_HELD_EVICT &&
		   (int)PAGE_GIVEN == GVM_HELD_GIVEN,
	       "a state has one number");

static struct ivy_reborn *reborn_find(const struct ivy *ivy, uint16_t home)
{
	return (struct ivy_reborn *)ivy_table_find(&ivy->reborn, home);
}

static struct ivy_reborn *reborn_get(struct ivy *ivy, uint16_t home)
{
	struct ivy_reborn *r = reborn_find(ivy, home);

	if (r)
		return r;
	r = ivy_alloc(ivy, sizeof(*r));
	if (!r)
		return NULL;
	memset(r, 0, sizeof(*r));
	r->link.key = home;
	if (ivy_table_add(ivy, &ivy->reborn, &r->link) == 0)
		return r;
	ivy_release(ivy, r, sizeof(*r));
	return NULL;
}

int ivy_report_waits(const struct ivy *ivy, uint64_t page)
{
	const struct ivy_reborn *r = reborn_find(ivy, ivy_home_of(ivy, page));

	return r && r->phase <= REBORN_REPORTS;
}

int ivy_report_keeps(const struct ivy *ivy, uint64_t page)
{
	uint16_t home = ivy_home_of(ivy, page);
	const struct ivy_reborn *r = reborn_find(ivy, home);

	return ivy_peer_down(ivy, home) || (r && r->phase < REBORN_SETTLED);
}

int ivy_report_past(const struct ivy *ivy, uint64_t page, uint64_t version)
{
	const struct ivy_reborn *r = reborn_find(ivy, ivy_home_of(ivy, page));

	return r && !IVY_BUG(NO_FREEZE) && (r->phase <= REBORN_REPORTS || version <= r->base);
}

/* ---- the report ---------------------------------------------------------------------------- */

/* Something of this page is worth telling. */
static int held(const struct ivy_page *p, struct gvm_held *h)
{
	memset(h, 0, sizeof(*h));
	h->page = p->link.key;
	h->state = p->state;
	h->version = p->state == PAGE_NONE ? 0 : p->version;
	h->given = p->state == PAGE_GIVEN ? p->side : 0;
	h->request = p->want == IVY_WRITE ? p->request : 0;
	return h->state != PAGE_NONE || h->request;
}

static void send_part(struct ivy *ivy, uint16_t home, unsigned what, const uint8_t *buf, uint32_t n)
{
	struct gvm_hdr h = { .type = GVM_COH_REPORT, .xid = what, .length = n * GVM_HELD_LEN };

	ivy_post(ivy, home, &h, buf);
}

/* The next part. The table may grow meanwhile, and then all is told again: that does no harm. */
static void report(struct ivy *ivy, struct ivy_reborn *r)
{
	uint16_t home = (uint16_t)r->link.key;
	uint8_t *buf = ivy_alloc(ivy, PART * GVM_HELD_LEN);
	const struct ivy_link *link;
	struct gvm_held h;
	uint32_t n = 0;

	if (!buf) { /* as if it had been lost; there is nothing to do but to try again */
		ivy->stats.no_memory++;
		send_part(ivy, home, GVM_REPORT_MORE, NULL, 0);
		return;
	}
	if (r->size != ivy->pages.size) {
		r->size = ivy->pages.size;
		r->slot = 0;
	}
	for (; r->slot < r->size && n < PART / 2; r->slot++)
		for (link = ivy->pages.heads[r->slot]; link; link = link->next) {
			if (ivy_home_of(ivy, link->key) != home ||
			    !held((const struct ivy_page *)link, &h))
				continue;
			if (n == PART) { /* a long chain: this is one too many in flight */
				send_part(ivy, home, GVM_REPORT_MORE, buf, n);
				n = 0;
			}
			gvm_held_encode(buf + n++ * GVM_HELD_LEN, &h);
		}
	send_part(ivy, home, r->slot < r->size ? GVM_REPORT_MORE : GVM_REPORT_LAST, buf, n);
	ivy_release(ivy, buf, PART * GVM_HELD_LEN);
}

/* ---- frozen and thawed --------------------------------------------------------------------- */

/* What came for a request that cannot complete any more is kept like what was given to it. */
static void freeze(struct ivy_page *p)
{
	if ((p->flags & HAS_DATA) && p->state == PAGE_NONE) {
		p->state = PAGE_GIVEN;
		p->side = p->request;
	}
	if (!IVY_BUG(NO_FREEZE))
		p->flags &= WANT_MORE;
}

static void for_pages(struct ivy *ivy, uint16_t home, void (*fn)(struct ivy *, struct ivy_page *))
{
	struct ivy_link *link = ivy_table_any(&ivy->pages), *next;

	for (; link; link = next) {
		next = ivy_table_after(&ivy->pages, link);
		if (ivy_home_of(ivy, link->key) == home)
			fn(ivy, (struct ivy_page *)link);
	}
}

static void freeze_one(struct ivy *ivy, struct ivy_page *p)
{
	freeze(p);
	ivy_page_settle(ivy, p);
}

static void thaw_one(struct ivy *ivy, struct ivy_page *p)
{
	p->flags &= WANT_MORE;
	ivy_page_settle(ivy, p);
}

int ivy_home_reborn(struct ivy *ivy, uint16_t home)
{
	struct ivy_reborn *r;

	if (home >= ivy->config.nodes || home == ivy->config.self || ivy_peer_gone(ivy, home))
		return -EINVAL;
	r = reborn_get(ivy, home);
	if (!r)
		return -ENOMEM;
	ivy_peer_lost(ivy, home);
	if (r->phase != REBORN_REPORTS) {
		r->phase = REBORN_REPORTS;
		for_pages(ivy, home, freeze_one);
	}
	ivy_peer_back(ivy, home);
	return 0;
}

void ivy_report_peer_back(struct ivy *ivy, uint16_t peer)
{
	struct ivy_reborn *r = reborn_find(ivy, peer);

	if (!r || r->phase != REBORN_REPORTS)
		return;
	r->slot = 0;
	r->size = ivy->pages.size;
	report(ivy, r);
}

void ivy_report_peer_dead(struct ivy *ivy, uint16_t peer)
{
	struct ivy_reborn *r = reborn_find(ivy, peer);

	if (!r)
		return;
	ivy_table_del(&ivy->reborn, &r->link);
	ivy_release(ivy, r, sizeof(*r));
}

int ivy_report_answer(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h)
{
	struct ivy_reborn *r = reborn_find(ivy, from);
	uint8_t before;

	if (!r)
		return ivy_refuse(ivy);
	before = r->phase;
	switch (h->xid) {
	case GVM_REPORT_NEXT:
		if (before == REBORN_REPORTS)
			report(ivy, r);
		break;
	case GVM_REPORT_RESUME:
		if (before == REBORN_REPORTS) {
			r->base = h->arg;
			r->phase = REBORN_RESUMED;
			for_pages(ivy, from, thaw_one);
		}
		send_part(ivy, from, GVM_REPORT_TAKEN, NULL, 0);
		break;
	default:
		if (before == REBORN_REPORTS)
			return ivy_refuse(ivy);
		r->phase = h->xid == GVM_REPORT_SETTLED ? REBORN_SETTLED : REBORN_SERVED;
		if (before == REBORN_RESUMED)
			ivy_node_peer_back(ivy, from); /* asks for all that is open there */
	}
	return 0;
}

void ivy_report_fini(struct ivy *ivy)
{
	struct ivy_link *link;

	while ((link = ivy_table_any(&ivy->reborn)))
		ivy_report_peer_dead(ivy, (uint16_t)link->key);
	ivy_table_fini(ivy, &ivy->reborn);
}
