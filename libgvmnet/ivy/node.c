/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A page at a node: what its programs want of it. A fault becomes one request to the home; DATA and
 * GRANT end it. A request is made again until it is answered; only the answer to the request that
 * is open now, by its random id, changes anything.
 */
#include "ivy/internal.h"

struct ivy_page *ivy_page_find(const struct ivy *ivy, uint64_t page)
{
	return (struct ivy_page *)ivy_table_find(&ivy->pages, page);
}

static enum ivy_access access_of(const struct ivy_page *p)
{
	switch (p->state) {
	case PAGE_SHARED:
	case PAGE_OWNED:
		return IVY_READ;
	case PAGE_EXCL:
		return IVY_WRITE;
	default:
		return IVY_NONE;
	}
}

enum ivy_access ivy_page_access(const struct ivy *ivy, uint64_t page)
{
	const struct ivy_page *p = ivy_page_find(ivy, page);

	return p ? access_of(p) : IVY_NONE;
}

uint64_t ivy_page_version(const struct ivy *ivy, uint64_t page)
{
	const struct ivy_page *p = ivy_page_find(ivy, page);

	return p && access_of(p) ? p->version : 0;
}

/* ---- records ------------------------------------------------------------------------------- */

static struct ivy_page *page_make(struct ivy *ivy, uint64_t page)
{
	struct ivy_page *p;

	if (ivy->pages.count >= ivy->config.max_pages)
		return NULL;
	p = ivy_alloc(ivy, sizeof(*p));
	if (!p)
		return NULL;
	memset(p, 0, sizeof(*p));
	p->link.key = page;
	if (ivy_table_add(ivy, &ivy->pages, &p->link) == 0)
		return p;
	ivy_release(ivy, p, sizeof(*p));
	return NULL;
}

static void unlist(struct ivy *ivy, struct ivy_page *p)
{
	if (!p->open)
		return;
	if (p->prev)
		p->prev->next = p->next;
	else
		ivy->open = p->next;
	if (p->next)
		p->next->prev = p->prev;
	p->open = 0;
	ivy->open_count--;
}

static void enlist(struct ivy *ivy, struct ivy_page *p)
{
	p->tries = 0;
	p->due = ivy_backoff(ivy, 0);
	if (p->open)
		return;
	p->open = 1;
	ivy->open_count++;
	p->prev = NULL;
	p->next = ivy->open;
	if (p->next)
		p->next->prev = p;
	ivy->open = p;
}

static void page_free(struct ivy *ivy, struct ivy_page *p)
{
	unlist(ivy, p);
	ivy_table_del(&ivy->pages, &p->link);
	ivy_release(ivy, p, sizeof(*p));
}

/* ---- who has acknowledged to a writer ------------------------------------------------------- */

struct ivy_tally *ivy_tally_find(const struct ivy *ivy, const struct ivy_page *p)
{
	return (struct ivy_tally *)ivy_table_find(&ivy->tallies, p->link.key);
}

static struct ivy_tally *tally_get(struct ivy *ivy, const struct ivy_page *p)
{
	struct ivy_tally *t = ivy_tally_find(ivy, p);

	if (t)
		return t;
	t = ivy_alloc(ivy, sizeof(*t));
	if (!t)
		return NULL;
	memset(t, 0, sizeof(*t));
	t->link.key = p->link.key;
	if (ivy_table_add(ivy, &ivy->tallies, &t->link) == 0)
		return t;
	ivy_release(ivy, t, sizeof(*t));
	return NULL;
}

static void tally_drop(struct ivy *ivy, const struct ivy_page *p)
{
	struct ivy_tally *t = ivy->tallies.count ? ivy_tally_find(ivy, p) : NULL;

	if (!t)
		return;
	ivy_table_del(&ivy->tallies, &t->link);
	ivy_release(ivy, t, sizeof(*t));
}

static void tally_ack(struct ivy_tally *t, uint16_t from, uint64_t version)
{
	uint32_t i;

	for (i = 0; i < t->acks && t->from[i] != from; i++)
		;
	if (i == FAN_OUT)
		return;
	t->acks += i == t->acks;
	t->from[i] = from;
	t->version[i] = version;
}

static int has_acked(const struct ivy_tally *t, uint16_t node, uint64_t version)
{
	uint32_t i;

	for (i = 0; i < t->acks; i++)
		if (t->from[i] == node && (t->version[i] == version || IVY_BUG(ANY_ACK)))
			return 1;
	return 0;
}

/* Granted, and all that had a copy have said that they have it no more. */
static int is_told(const struct ivy *ivy, const struct ivy_page *p)
{
	const struct ivy_tally *t = p->flags & HAS_EARLY ? ivy_tally_find(ivy, p) : NULL;
	uint32_t i, left = 0;

	if (!t)
		return 0;
	for (i = 0; i < t->owed; i++)
		left += !has_acked(t, t->owe[i], p->granted);
	return left <= (IVY_BUG(ONE_SHORT) ? 1u : 0u);
}

/* ---- requests ------------------------------------------------------------------------------ */

/* The digest of a content that the page may be sent as a delta against. A copy of it that is here
 * may have become an older one when the request is served: then it is among the old ones. */
static uint64_t base_of(struct ivy *ivy, const struct ivy_page *p)
{
	const struct ivy_config *c = &ivy->config;

	if (!c->max_old || (p->flags & IN_FULL) || p->state == PAGE_OWNED)
		return 0;
	if (p->state == PAGE_SHARED)
		return gvm_delta_digest(c->env->copy_read(c->user, p->link.key), c->page_size);
	return ivy_old_last(ivy, p->link.key);
}

/* Ask for what is wanted, by the id that it has. */
static void ask(struct ivy *ivy, struct ivy_page *p)
{
	uint64_t has = p->state == PAGE_SHARED || p->state == PAGE_OWNED ? p->version : 0;

	struct gvm_hdr h = {
		.type = p->want == IVY_WRITE ? GVM_COH_WRITE : GVM_COH_READ,
		.page = p->link.key,
		.xid = p->request,
		.arg = p->want == IVY_WRITE ? has : 0,
	};

	p->flags |= ASKED;
	ivy_say_base(ivy, ivy_home_of(ivy, h.page), &h, base_of(ivy, p));
}

void ivy_page_forget(struct ivy_page *p)
{
	p->flags &= WANT_MORE | (IVY_BUG(EARLY_KEPT) ? HAS_EARLY : 0u);
}

void ivy_page_renew(struct ivy *ivy, struct ivy_page *p)
{
	if (!IVY_BUG(NO_RENEW))
		p->request = ivy->config.env->nonce(ivy->config.user);
	ivy_page_forget(p);
	if (!IVY_BUG(EARLY_KEPT))
		tally_drop(ivy, p);
	ask(ivy, p);
}

void ivy_page_settle(struct ivy *ivy, struct ivy_page *p)
{
	int waits = p->want || p->state == PAGE_EVICT || p->state == PAGE_GIVEN;

	if (p->want && !(p->flags & ASKED) && p->state != PAGE_EVICT &&
	    !ivy_report_waits(ivy, p->link.key))
		ivy_page_renew(ivy, p);
	if (waits)
		enlist(ivy, p);
	else if (p->state == PAGE_NONE)
		page_free(ivy, p);
	else
		unlist(ivy, p);
}

void ivy_page_keep_old(struct ivy *ivy, const struct ivy_page *p)
{
	if (ivy->config.max_old)
		ivy_old_keep(ivy, p->link.key,
			     ivy->config.env->copy_read(ivy->config.user, p->link.key));
}

void ivy_page_drop(struct ivy *ivy, struct ivy_page *p)
{
	const struct ivy_env *env = ivy->config.env;

	if (access_of(p))
		env->protect(ivy->config.user, p->link.key, IVY_NONE);
	if (page_has_content(p)) {
		ivy_page_keep_old(ivy, p);
		env->copy_drop(ivy->config.user, p->link.key);
	}
	p->state = PAGE_NONE;
	ivy->stats.pinned -= p->pins > 0;
	p->pins = 0;
	p->pin &= GAVE_UP;
	p->flags &= (uint8_t)~HAS_DATA;
	ivy_page_settle(ivy, p);
}

/* The fault has ended. Access is there already; more may be wanted. */
static void end_fault(struct ivy *ivy, struct ivy_page *p, int status)
{
	uint64_t page = p->link.key;
	enum ivy_access want = p->want;
	int more = p->flags & WANT_MORE, told = p->pin & GAVE_UP;

	ivy->stats.faults_failed += status != 0;
	p->want = status == 0 && more ? IVY_WRITE : IVY_NONE;
	p->request = 0;
	p->flags = 0;
	tally_drop(ivy, p);
	if (!p->want)
		p->pin &= (uint8_t)~GAVE_UP;
	p->since = ivy->now;
	ivy_page_settle(ivy, p);
	if (told)
		return;
	ivy->config.env->fault_done(ivy->config.user, page, status != 0 && more ? IVY_WRITE : want,
				    status);
}

int ivy_node_fault(struct ivy *ivy, uint64_t page, enum ivy_access access)
{
	struct ivy_page *p;

	if (page >= ivy->config.pages || (access != IVY_READ && access != IVY_WRITE))
		return -EINVAL;
	p = ivy_page_find(ivy, page);
	if (p && access_of(p) >= access)
		return 0;
	if (ivy_peer_gone(ivy, ivy_home_of(ivy, page)))
		return -EHOSTDOWN;
	if (access == IVY_WRITE)
		ivy->stats.faults_write++;
	else
		ivy->stats.faults_read++;
	if (!p)
		p = page_make(ivy, page);
	if (!p) {
		ivy->stats.no_memory++;
		return -ENOMEM;
	}
	if (p->want) {
		if (access > (enum ivy_access)p->want)
			p->flags |= WANT_MORE;
		if (p->pin & GAVE_UP) /* another program, or another try */
			p->since = ivy->now;
		p->pin &= (uint8_t)~GAVE_UP;
		return 1;
	}
	p->since = ivy->now;
	p->want = (uint8_t)access;
	ivy_page_settle(ivy, p);
	return 1;
}

/* ---- answers ------------------------------------------------------------------------------- */

static struct ivy_page *open_request(const struct ivy *ivy, const struct gvm_hdr *h)
{
	struct ivy_page *p = ivy_page_find(ivy, h->page);

	return p && p->want && (p->flags & ASKED) && p->request == h->xid ? p : NULL;
}

static void say_done(struct ivy *ivy, const struct ivy_page *p, uint64_t request)
{
	ivy_say(ivy, ivy_home_of(ivy, p->link.key), GVM_COH_DONE, p->link.key, request, p->version);
}

/* Content for a page that is not mapped. 0 or -ENOMEM: as if it had not come. */
static int take_content(struct ivy *ivy, struct ivy_page *p, uint16_t from, const struct gvm_hdr *h,
			const void *bytes)
{
	if (ivy->config.env->copy_write(ivy->config.user, h->page, h->length ? bytes : NULL) != 0) {
		ivy->stats.no_memory++;
		return -ENOMEM;
	}
	p->state = PAGE_NONE; /* what was GIVEN is overwritten */
	p->version = h->arg;
	p->at_home = from == ivy_home_of(ivy, h->page);
	return 0;
}

/* A delta against what is not here any more. */
static int is_useless(const struct gvm_hdr *h)
{
	return (h->flags & GVM_F_DELTA) != 0;
}

static void ask_in_full(struct ivy *ivy, struct ivy_page *p)
{
	ivy->stats.delta_unknown++;
	p->flags |= IN_FULL;
	ask(ivy, p);
}

static int take_read(struct ivy *ivy, struct ivy_page *p, uint16_t from, const struct gvm_hdr *h,
		     const void *bytes)
{
	uint64_t request = p->request;

	if ((h->flags & GVM_F_SAME) || (p->state != PAGE_NONE && p->state != PAGE_GIVEN))
		return ivy_refuse(ivy);
	if (is_useless(h)) {
		ask_in_full(ivy, p);
		return 0;
	}
	if (take_content(ivy, p, from, h, bytes) != 0)
		return 0;
	p->state = PAGE_SHARED;
	ivy->config.env->protect(ivy->config.user, h->page, IVY_READ);
	say_done(ivy, p, request);
	end_fault(ivy, p, 0);
	return 0;
}

/* Content for WRITE: keep it, or note that the copy that is here is the one. */
static void take_data(struct ivy *ivy, struct ivy_page *p, uint16_t from, const struct gvm_hdr *h,
		      const void *bytes)
{
	int copy = p->state == PAGE_SHARED || p->state == PAGE_OWNED;
	int same = (h->flags & GVM_F_SAME) != 0;

	if ((p->flags & HAS_DATA) || copy != same) /* a mapped page is not written to */
		return;
	if (is_useless(h))
		ask_in_full(ivy, p);
	else if (same || take_content(ivy, p, from, h, bytes) == 0)
		p->flags |= HAS_DATA;
}

static void complete_write(struct ivy *ivy, struct ivy_page *p)
{
	uint64_t request = p->request;

	if (!(p->flags & HAS_DATA) || (!(p->flags & HAS_GRANT) && !is_told(ivy, p)))
		return;
	if (p->state == PAGE_OWNED) /* it was written here before */
		p->at_home = 0;
	ivy->stats.early += !(p->flags & HAS_GRANT);
	ivy_page_keep_old(ivy, p); /* before it is another one */
	p->state = PAGE_EXCL;
	p->version = p->granted;
	ivy->config.env->protect(ivy->config.user, p->link.key, IVY_WRITE);
	say_done(ivy, p, request);
	end_fault(ivy, p, 0);
}

int ivy_node_data(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_page *p = open_request(ivy, h);

	if (!p)
		return ivy_late(ivy);
	if (p->want == IVY_READ)
		return take_read(ivy, p, from, h, bytes);
	take_data(ivy, p, from, h, bytes);
	complete_write(ivy, p);
	return 0;
}

/* Granted, when all of the set have acknowledged to this node. Whatever it lacks for that, GRANT
 * itself follows, when the home knows that they have. */
static int take_early(struct ivy *ivy, struct ivy_page *p, const struct gvm_hdr *h, const void *set)
{
	int n = gvm_set_count(set, h->length, ivy->config.nodes);
	struct ivy_tally *t;

	if (n < 1 || (unsigned)n > GVM_COH_ACKS_MAX ||
	    gvm_set_has(set, h->length, ivy->config.self))
		return ivy_refuse(ivy);
	t = (unsigned)n <= FAN_OUT ? tally_get(ivy, p) : NULL;
	if (!t || (p->flags & HAS_GRANT))
		return 0;
	t->owed = (uint32_t)n;
	gvm_set_decode(set, h->length, t->owe);
	p->flags |= HAS_EARLY;
	p->granted = h->arg;
	return 0;
}

int ivy_node_told(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h)
{
	struct ivy_page *p = ivy_page_find(ivy, h->page);
	struct ivy_tally *t;

	if (!p || p->want != IVY_WRITE || !(p->flags & ASKED) || (p->flags & HAS_GRANT))
		return ivy_late(ivy);
	t = tally_get(ivy, p);
	if (!t)
		return 0;
	tally_ack(t, from, h->arg);
	complete_write(ivy, p);
	return 0;
}

int ivy_node_grant(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_page *p = open_request(ivy, h);

	if (!p)
		return ivy_late(ivy);
	if (p->want != IVY_WRITE)
		return ivy_refuse(ivy);
	if (h->flags & GVM_F_ACKS) {
		if (take_early(ivy, p, h, bytes) != 0)
			return -EPROTO;
	} else {
		p->flags |= HAS_GRANT;
		p->granted = h->arg;
	}
	if (!(h->flags & GVM_F_WAIT))
		take_data(ivy, p, from, h, bytes);
	complete_write(ivy, p);
	return 0;
}

int ivy_node_nak(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_page *p = open_request(ivy, h);

	if (!p)
		return ivy_late(ivy);
	if (h->status == GVM_ST_LIMIT) /* it is asked again in time */
		return 0;
	if (p->flags & HAS_DATA && p->state == PAGE_NONE)
		ivy->config.env->copy_drop(ivy->config.user, h->page);
	end_fault(ivy, p, gvm_wire_errno(h->status));
	return 0;
}

/* ---- eviction ------------------------------------------------------------------------------ */

static void write_back(struct ivy *ivy, const struct ivy_page *p, uint64_t base)
{
	struct gvm_hdr h = {
		.type = GVM_COH_WB, .page = p->link.key, .xid = p->side, .arg = p->version
	};

	ivy_say_page(ivy, ivy_home_of(ivy, h.page), &h,
		     ivy->config.env->copy_read(ivy->config.user, h.page), base);
}

static void evict_owned(struct ivy *ivy, struct ivy_page *p)
{
	ivy->config.env->protect(ivy->config.user, p->link.key, IVY_NONE);
	p->state = PAGE_EVICT;
	p->side = ivy->config.env->nonce(ivy->config.user);
	write_back(ivy, p, p->at_home && ivy->config.max_old ? ivy_old_last(ivy, p->link.key) : 0);
	if (IVY_BUG(NO_KEEP))
		ivy_page_drop(ivy, p);
	else
		ivy_page_settle(ivy, p);
}

int ivy_node_evict(struct ivy *ivy, uint64_t page)
{
	struct ivy_page *p = ivy_page_find(ivy, page);

	if (!p || p->state == PAGE_EVICT)
		return 0;
	if (p->want || p->state == PAGE_GIVEN || p->pins || ivy_report_keeps(ivy, page))
		return -EBUSY;
	if (p->state == PAGE_SHARED) {
		uint64_t version = p->version;

		ivy_page_drop(ivy, p); /* first: the home may let a writer in as soon as it hears */
		ivy_say(ivy, ivy_home_of(ivy, page), GVM_COH_DROP, page, 0, version);
	} else {
		evict_owned(ivy, p);
	}
	return 0;
}

/* ---- time and peers ------------------------------------------------------------------------ */

/* Ask once more for what this page waits for. */
static void ask_again(struct ivy *ivy, struct ivy_page *p)
{
	uint64_t page = p->link.key;

	ivy->stats.repeated++;
	if (p->state == PAGE_EVICT)
		write_back(ivy, p, 0);
	else if (p->state == PAGE_GIVEN)
		ivy_say(ivy, ivy_home_of(ivy, page), GVM_COH_STILL, page, p->side, 0);
	if (p->want && (p->flags & ASKED))
		ask(ivy, p);
}

/* The program does not wait any more; the page is asked for all the same, as any answer to that is
 * better than to take one back. */
static void give_up(struct ivy *ivy, struct ivy_page *p)
{
	ivy->stats.faults_failed++;
	p->pin |= GAVE_UP;
	ivy->config.env->fault_done(ivy->config.user, p->link.key,
				    p->flags & WANT_MORE ? IVY_WRITE : p->want, -ETIMEDOUT);
}

void ivy_node_tick(struct ivy *ivy)
{
	uint64_t wait = ivy->config.wait_ns;
	struct ivy_page *p;

	for (p = ivy->open; wait && p; p = p->next)
		if (p->want && !(p->pin & GAVE_UP) && ivy->now - p->since >= wait)
			give_up(ivy, p);

	for (p = ivy->open; p; p = p->next) {
		if (p->due > ivy->now)
			continue;
		if (p->tries < 255)
			p->tries++;
		p->due = ivy_backoff(ivy, p->tries);
		p->flags &= (uint8_t)~HURRIED;
		ask_again(ivy, p);
	}
}

/* Any peer may be the owner that was to send it, and that may have been lost. But it is asked for
 * once, and then in its time: after a partition thousands of peers come back together. */
static int lacks_data(const struct ivy_page *p)
{
	return p->want && (p->flags & ASKED) && !(p->flags & HAS_DATA) && p->state < PAGE_EVICT;
}

void ivy_node_peer_back(struct ivy *ivy, uint16_t peer)
{
	struct ivy_page *p;

	for (p = ivy->open; p; p = p->next) {
		if (ivy_home_of(ivy, p->link.key) == peer) {
			ask_again(ivy, p);
		} else if (lacks_data(p) && !(p->flags & HURRIED)) {
			p->flags |= HURRIED;
			ask_again(ivy, p);
		}
	}
}

/* Nothing of this home can be trusted to be the newest any more: take it from the programs. */
static void take_away(struct ivy *ivy, uint16_t home)
{
	struct ivy_link *link = ivy_table_any(&ivy->pages), *next;

	for (; link; link = next) {
		struct ivy_page *p = (struct ivy_page *)link;

		next = ivy_table_after(&ivy->pages, link);
		if (ivy_home_of(ivy, link->key) != home)
			continue;
		p->flags |= ASKED; /* that it is not asked for when EVICT ends */
		if (!p->want || page_has_content(p))
			ivy_page_drop(ivy, p);
	}
}

/* All is taken before anybody is told of it. */
void ivy_node_home_dead(struct ivy *ivy, uint16_t home)
{
	struct ivy_link *link, *next;

	take_away(ivy, home);
	for (link = ivy_table_any(&ivy->pages); link; link = next) {
		struct ivy_page *p = (struct ivy_page *)link;

		next = ivy_table_after(&ivy->pages, link);
		if (ivy_home_of(ivy, link->key) == home && p->want)
			end_fault(ivy, p, -EHOSTDOWN);
	}
}

void ivy_node_fini(struct ivy *ivy)
{
	struct ivy_link *link = ivy_table_any(&ivy->pages), *next;

	for (; link; link = next) {
		next = ivy_table_after(&ivy->pages, link);
		tally_drop(ivy, (struct ivy_page *)link);
		page_free(ivy, (struct ivy_page *)link);
	}
	ivy_table_fini(ivy, &ivy->tallies);
	ivy_table_fini(ivy, &ivy->pages);
}
