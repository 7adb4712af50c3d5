/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A home that has been started anew builds its directory of what the nodes report
 * (docs/coherence.md, "A home's loss").
 *
 *     COLLECTS --ivy_rebuild_end()--> RESUMES --all have said TAKEN--> SERVES
 *     SERVES --no page is with sharers only--> SETTLED
 *
 * What is mapped goes into entries at once, since all of it agrees: the newest version of a page is
 * the only one that is mapped. What was given away or is being written back, and which requests are
 * open, is kept as claims until all have reported. Before SERVES no request is answered, so nothing
 * of a node's report can change.
 */
#include "ivy/internal.h"

#define CLAIMANTS 4u /* one node may have such a part of all claims */

static size_t rebuild_size(const struct ivy *ivy)
{
	return sizeof(struct ivy_rebuild) + ivy->config.nodes * sizeof(struct ivy_witness);
}

int ivy_rebuild_begin(struct ivy *ivy, uint64_t low, uint64_t high)
{
	ivy->rebuild = ivy_alloc(ivy, rebuild_size(ivy));
	if (!ivy->rebuild)
		return -ENOMEM;
	memset(ivy->rebuild, 0, rebuild_size(ivy));
	ivy->rebuild->low = low;
	ivy->rebuild->base = high;
	if (high)
		ivy->clock = ivy->reserved = high;
	return 0;
}

int ivy_rebuild_busy(const struct ivy *ivy)
{
	return ivy->rebuild && ivy->rebuild->phase < REBUILD_SERVES;
}

int ivy_rebuild_reported(const struct ivy *ivy, uint16_t node)
{
	return ivy->rebuild && node < ivy->config.nodes &&
	       ivy->rebuild->witness[node].member != MEMBER_NONE;
}

int ivy_rebuild_owes(const struct ivy *ivy, uint16_t node)
{
	const struct ivy_rebuild *b = ivy->rebuild;

	if (!b || node >= ivy->config.nodes || b->phase >= REBUILD_SERVES)
		return 0;
	return b->witness[node].member ==
	       (b->phase == REBUILD_COLLECTS ? MEMBER_NONE : MEMBER_REPORTED);
}

static void say(struct ivy *ivy, uint16_t to, unsigned what)
{
	struct gvm_hdr h = { .type = GVM_COH_REPORT, .xid = what, .arg = ivy->rebuild->base };

	ivy_post(ivy, to, &h, NULL);
}

/* How it stands, to who has reported. */
static void say_status(struct ivy *ivy, uint16_t to)
{
	const struct ivy_rebuild *b = ivy->rebuild;

	if (b->phase == REBUILD_COLLECTS || b->witness[to].member == MEMBER_NONE)
		return;
	if (b->witness[to].member == MEMBER_REPORTED)
		say(ivy, to, GVM_REPORT_RESUME);
	else if (b->phase == REBUILD_SETTLED)
		say(ivy, to, GVM_REPORT_SETTLED);
	else if (b->phase == REBUILD_SERVES)
		say(ivy, to, GVM_REPORT_SERVES);
}

static void say_all(struct ivy *ivy)
{
	uint16_t node;

	for (node = 0; node < ivy->config.nodes; node++)
		say_status(ivy, node);
}

/* ---- claims -------------------------------------------------------------------------------- */

static struct ivy_claim *first_claim(const struct ivy_rebuild *b, uint64_t page)
{
	return (struct ivy_claim *)ivy_table_find(&b->claims, page);
}

static struct ivy_claim *next_claim(const struct ivy_claim *c)
{
	return (struct ivy_claim *)ivy_table_again(&c->link);
}

static void claim_free(struct ivy *ivy, struct ivy_claim *c)
{
	ivy_table_del(&ivy->rebuild->claims, &c->link);
	ivy->rebuild->witness[c->node].claims--;
	ivy_release(ivy, c, sizeof(*c));
}

static int is_mapped(unsigned state)
{
	return state >= GVM_HELD_SHARED && state <= GVM_HELD_EXCL;
}

/* 0, also if there is one of this kind of this node, or -ENOMEM. */
static int claim(struct ivy *ivy, uint16_t node, const struct gvm_held *h, unsigned state,
		 uint64_t id)
{
	struct ivy_rebuild *b = ivy->rebuild;
	struct ivy_claim *c = first_claim(b, h->page);

	while (c && (c->node != node || !c->state != !state || c->id != id))
		c = next_claim(c);
	if (c)
		return 0;
	if (b->claims.count >= ivy->config.max_waiters)
		return -ENOMEM;
	c = ivy_alloc(ivy, sizeof(*c));
	if (!c)
		return -ENOMEM;
	memset(c, 0, sizeof(*c));
	c->link.key = h->page;
	c->node = node;
	c->state = (uint8_t)state;
	c->id = id;
	c->version = h->version;
	if (ivy_table_add(ivy, &b->claims, &c->link) == 0) {
		b->witness[node].claims++;
		return 0;
	}
	ivy_release(ivy, c, sizeof(*c));
	return -ENOMEM;
}

/* ---- reports ------------------------------------------------------------------------------- */

static struct ivy_entry *entry_get(struct ivy *ivy, uint64_t page)
{
	struct ivy_entry *e = ivy_dir_find(ivy, page);

	if (e)
		return e;
	e = ivy_dir_get(ivy, page);
	if (e)
		entry_set_version(e, 0); /* none is known */
	return e;
}

/* It agrees with what has been said of the page. */
static int agrees(const struct ivy_entry *e, uint16_t node, unsigned state, uint64_t version)
{
	return (!entry_version(e) || entry_version(e) == version) &&
	       (state == GVM_HELD_SHARED || e->owner == NOBODY || e->owner == node);
}

static void put_mapped(struct ivy *ivy, struct ivy_entry *e, uint16_t node, unsigned state,
		       uint64_t version)
{
	entry_set_version(e, version);
	if (state != GVM_HELD_SHARED)
		e->owner = node;
	else if (ivy_sharers_add(ivy, e, node) != 0)
		e->bits |= DIR_LOST; /* the set would name too few */
}

/* A mapped copy. One that contradicts what others have said waits for what can be found of that. */
static int take_mapped(struct ivy *ivy, uint16_t node, const struct gvm_held *h)
{
	struct ivy_entry *e = entry_get(ivy, h->page);

	if (!e)
		return -ENOMEM;
	if (e->bits & DIR_LOST)
		return 0;
	if (agrees(e, node, h->state, h->version)) {
		put_mapped(ivy, e, node, h->state, h->version);
	} else {
		ivy->stats.refused++;
		if (claim(ivy, node, h, h->state, 0) != 0)
			e->bits |= DIR_LOST;
	}
	return 0;
}

static int take_held(struct ivy *ivy, uint16_t node, const struct gvm_held *h)
{
	int status = 0;

	if (h->request)
		status = claim(ivy, node, h, GVM_HELD_NONE, h->request);
	if (status == 0 && h->state >= GVM_HELD_EVICT)
		status = claim(ivy, node, h, h->state, h->given);
	else if (status == 0 && h->state != GVM_HELD_NONE)
		status = take_mapped(ivy, node, h);
	return status;
}

/* What it says can be so, whatever others say: of a page of this home, with a version that this
 * home can have given to somebody. */
static int possible(const struct ivy *ivy, const struct gvm_held *held)
{
	const struct ivy_rebuild *b = ivy->rebuild;

	return held->page < ivy->config.pages && ivy_home_of(ivy, held->page) == ivy->config.self &&
	       (!held->version || (held->version > b->low && held->version <= b->base));
}

static int well_formed(const struct ivy *ivy, uint16_t from, const struct gvm_hdr *h,
		       const uint8_t *bytes)
{
	uint32_t most = ivy->config.max_waiters / CLAIMANTS, at;
	struct gvm_held held;

	if (ivy->rebuild->witness[from].claims > most)
		return 0; /* so that there is room for those of others */
	for (at = 0; at < h->length; at += GVM_HELD_LEN)
		if (gvm_held_decode(bytes + at, &held) != 0 || !possible(ivy, &held))
			return 0;
	return 1;
}

/* There was no memory for this. If others say something of that page and there is memory then, it
 * must not be forgotten. */
static void take_nothing(struct ivy *ivy, uint16_t node, unsigned state)
{
	struct ivy_rebuild *b = ivy->rebuild;
	uint8_t what = state == GVM_HELD_SHARED ? UNHEARD_SHARED : UNHEARD_OWNED;

	ivy->stats.no_memory++;
	b->blind = 1;
	if (is_mapped(state) && what > b->witness[node].unheard)
		b->witness[node].unheard = what;
}

static int collect(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const uint8_t *bytes)
{
	struct ivy_rebuild *b = ivy->rebuild;
	struct gvm_held held;
	uint32_t at;

	for (at = 0; at < h->length; at += GVM_HELD_LEN) {
		gvm_held_decode(bytes + at, &held);
		if (take_held(ivy, from, &held) != 0)
			take_nothing(ivy, from, held.state);
	}
	if (h->xid == GVM_REPORT_MORE)
		say(ivy, from, GVM_REPORT_NEXT);
	else
		b->witness[from].member = MEMBER_REPORTED;
	return 0;
}

static void serve(struct ivy *ivy);

static int taken(struct ivy *ivy, uint16_t from)
{
	struct ivy_rebuild *b = ivy->rebuild;

	if (b->phase == REBUILD_COLLECTS || b->witness[from].member == MEMBER_NONE)
		return ivy_late(ivy);
	if (b->witness[from].member == MEMBER_TAKEN) {
		say_status(ivy, from);
		return 0;
	}
	b->witness[from].member = MEMBER_TAKEN;
	if (b->phase != REBUILD_RESUMES)
		say_status(ivy, from);
	else if (--b->waits == 0)
		serve(ivy);
	return 0;
}

int ivy_rebuild_report(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_rebuild *b = ivy->rebuild;

	if (h->xid >= GVM_REPORT_NEXT)
		return ivy_report_answer(ivy, from, h);
	if (!b)
		return ivy_refuse(ivy);
	if (h->xid == GVM_REPORT_TAKEN)
		return taken(ivy, from);
	if (!well_formed(ivy, from, h, bytes))
		return ivy_refuse(ivy);
	if (b->phase == REBUILD_COLLECTS)
		return collect(ivy, from, h, bytes);
	if (b->witness[from].member == MEMBER_NONE) /* it is too late for that */
		return ivy_refuse(ivy);
	say(ivy, from, h->xid == GVM_REPORT_MORE ? GVM_REPORT_NEXT : GVM_REPORT_RESUME);
	return 0;
}

/* ---- who does not tell the truth ------------------------------------------------------------ */

static void contradict(struct ivy_rebuild *b, uint16_t node, uint16_t by)
{
	struct ivy_witness *w = &b->witness[node];

	if (by == NOBODY || by == node)
		return;
	w->disputed |= w->against != NOBODY && w->against != by;
	w->against = by;
}

/* This claim cannot be true if what the entry has of others is. Two of them are enough to know. */
static void weigh(struct ivy_rebuild *b, const struct ivy_claim *c, const struct ivy_entry *e)
{
	uint16_t with[3] = { e->owner, ivy_sharers_from(e, 0), NOBODY };
	unsigned i;

	if (b->witness[c->node].disputed)
		return;
	if (with[1] != NOBODY)
		with[2] = ivy_sharers_from(e, (uint16_t)(with[1] + 1));
	for (i = 0; i < 3; i++) {
		contradict(b, c->node, with[i]);
		if (with[i] != NOBODY)
			contradict(b, with[i], c->node);
	}
}

uint16_t ivy_rebuild_liar(struct ivy *ivy)
{
	struct ivy_rebuild *b = ivy->rebuild;
	const struct ivy_link *link;
	uint16_t node, liar = NOBODY;
	unsigned count = 0;

	if (!b || b->phase != REBUILD_COLLECTS)
		return NOBODY;
	for (node = 0; node < ivy->config.nodes; node++) {
		b->witness[node].against = NOBODY;
		b->witness[node].disputed = 0;
	}
	for (link = ivy_table_any(&b->claims); link; link = ivy_table_after(&b->claims, link)) {
		const struct ivy_claim *c = (const struct ivy_claim *)link;
		const struct ivy_entry *e = ivy_dir_find(ivy, link->key);

		if (e && entry_version(e) &&
		    (is_mapped(c->state) ||
		     (c->state >= GVM_HELD_EVICT && c->version > entry_version(e))))
			weigh(b, c, e);
	}
	for (node = 0; node < ivy->config.nodes; node++)
		if (b->witness[node].disputed) {
			liar = node;
			count++;
		}
	if (count != 1)
		return NOBODY;
	b->witness[liar].liar = 1;
	return liar;
}

/* ---- what follows from them ---------------------------------------------------------------- */

static int is_open(const struct ivy_rebuild *b, uint64_t page, uint64_t request)
{
	const struct ivy_claim *c = first_claim(b, page);

	while (c && (c->state != GVM_HELD_NONE || c->id != request))
		c = next_claim(c);
	return c != NULL;
}

/* Content that is not mapped, and is the newest there is. It is good if others have the same one
 * mapped, or if it was given to a writer that has not completed. */
static void take_claims(struct ivy *ivy, struct ivy_entry *e, uint64_t floor, uint64_t top)
{
	const struct ivy_rebuild *b = ivy->rebuild;
	struct ivy_claim *c;

	for (c = first_claim(b, entry_page(e)); c; c = next_claim(c)) {
		if (c->version != top)
			continue;
		if (c->state == GVM_HELD_EVICT && floor == top && e->owner == NOBODY)
			e->owner = c->node; /* it is going to write it back again */
		else if (c->state == GVM_HELD_GIVEN && e->owner == NOBODY &&
			 (floor == top || is_open(b, entry_page(e), c->id) ||
			  IVY_BUG(GIVEN_GOOD)) &&
			 ivy_sharers_add(ivy, e, c->node) == 0)
			entry_set_version(e, top); /* to be RECALLed */
	}
}

static void judge(struct ivy *ivy, uint64_t page)
{
	struct ivy_entry *e = ivy_dir_find(ivy, page);
	uint64_t floor = e ? entry_version(e) : 0, top = 0;
	const struct ivy_claim *c;

	for (c = first_claim(ivy->rebuild, page); c; c = next_claim(c)) {
		if (is_mapped(c->state) && e)
			e->bits |= DIR_LOST; /* who tells the truth is not known */
		if (c->state >= GVM_HELD_EVICT && c->version > top)
			top = c->version;
	}
	if (top == 0 || top < floor || (e && (e->bits & DIR_LOST)))
		return;
	if (!e)
		e = entry_get(ivy, page);
	if (!e)
		return; /* no entry: it is lost */
	if (floor && top > floor)
		e->bits |= DIR_LOST; /* somebody does not tell the truth */
	else
		take_claims(ivy, e, floor, top);
}

static void drop_claims(struct ivy *ivy)
{
	const struct ivy_table *claims = &ivy->rebuild->claims;
	struct ivy_link *link = ivy_table_any(claims), *next;

	for (; link; link = next) {
		next = ivy_table_after(claims, link);
		claim_free(ivy, (struct ivy_claim *)link);
	}
}

/* What is not mapped, and requests. */
static void drop_hidden(struct ivy *ivy)
{
	struct ivy_table *claims = &ivy->rebuild->claims;
	struct ivy_link *link, *next;

	for (link = ivy_table_any(claims); link; link = next) {
		next = ivy_table_after(claims, link);
		if (!is_mapped(((struct ivy_claim *)link)->state))
			claim_free(ivy, (struct ivy_claim *)link);
	}
}

static void judge_all(struct ivy *ivy)
{
	struct ivy_rebuild *b = ivy->rebuild;
	struct ivy_link *link;

	if (b->blind) /* what is newer may not be known */
		drop_hidden(ivy);
	for (link = ivy_table_any(&b->claims); link; link = ivy_table_after(&b->claims, link))
		if (ivy_table_find(&b->claims, link->key) == link)
			judge(ivy, link->key);
	drop_claims(ivy);
}

/* The node may have this page, too. Who shares a page may be too many; but its owner has to be the
 * one, and if it may be this one the page cannot be had. */
static void add_unheard(struct ivy *ivy, struct ivy_entry *e, uint16_t node, unsigned unheard)
{
	if (e->owner == node)
		return;
	if ((e->owner == NOBODY && unheard == UNHEARD_OWNED) || ivy_sharers_add(ivy, e, node) != 0)
		e->bits |= DIR_LOST;
}

static void add_all_unheard(struct ivy *ivy)
{
	struct ivy_rebuild *b = ivy->rebuild;
	struct ivy_entry *e;
	uint32_t at;
	uint16_t node;

	for (node = 0; node < ivy->config.nodes; node++) {
		unsigned unheard = b->witness[node].unheard;

		if (!unheard || b->witness[node].member == MEMBER_NONE) /* it is dead */
			continue;
		b->unheard = 1;
		for (at = 0; (e = ivy_dir_walk(ivy, &at));)
			add_unheard(ivy, e, node, unheard);
	}
}

void ivy_rebuild_end(struct ivy *ivy)
{
	struct ivy_rebuild *b = ivy->rebuild;
	struct ivy_entry *e;
	uint32_t at = 0;
	uint16_t node;

	if (!b || b->phase != REBUILD_COLLECTS)
		return;
	judge_all(ivy);
	if (b->blind)
		add_all_unheard(ivy);
	while ((e = ivy_dir_walk(ivy, &at))) {
		if (e->bits & DIR_LOST)
			ivy_home_lose(ivy, NULL, e);
		else if (e->owner == NOBODY)
			e->bits |= DIR_STALE;
	}
	b->phase = REBUILD_RESUMES;
	for (node = 0; node < ivy->config.nodes; node++)
		b->waits += b->witness[node].member != MEMBER_NONE;
	say_all(ivy);
	if (b->waits == 0)
		serve(ivy);
}

/* What is with sharers only is fetched, as much at a time as there is room for. */
static void fetch(struct ivy *ivy)
{
	struct ivy_entry *e;
	uint32_t at = 0, left = 0;

	while ((e = ivy_dir_walk(ivy, &at))) {
		if (e->bits & DIR_STALE)
			ivy_home_advance(ivy, entry_page(e));
		left += (e->bits & DIR_STALE) != 0;
	}
	ivy->rebuild->due = ivy->now + ivy->config.retry_ns;
	if (left == 0)
		ivy->rebuild->phase = REBUILD_SETTLED;
}

static void serve(struct ivy *ivy)
{
	ivy->rebuild->phase = REBUILD_SERVES;
	fetch(ivy);
	say_all(ivy);
}

void ivy_rebuild_tick(struct ivy *ivy)
{
	struct ivy_rebuild *b = ivy->rebuild;

	if (!b || b->phase != REBUILD_SERVES || ivy->now < b->due)
		return;
	fetch(ivy);
	if (b->phase == REBUILD_SETTLED)
		say_all(ivy);
}

int ivy_rebuild_forgot(const struct ivy *ivy, uint64_t page)
{
	const struct ivy_env *env = ivy->config.env;

	return ivy->rebuild && ivy->rebuild->phase > REBUILD_COLLECTS && !IVY_BUG(FORGET) &&
	       !(env->store_kept && env->store_kept(ivy->config.user, page));
}

void ivy_rebuild_fresh(struct ivy *ivy, struct ivy_entry *e)
{
	const struct ivy_rebuild *b = ivy->rebuild;
	uint16_t node;

	if (b && b->unheard) /* a page that nobody has written can only be shared */
		for (node = 0; node < ivy->config.nodes; node++)
			if (b->witness[node].unheard && !ivy_peer_gone(ivy, node) &&
			    ivy_sharers_add(ivy, e, node) != 0)
				e->bits |= DIR_LOST;
	if ((e->bits & DIR_LOST) || ivy_rebuild_forgot(ivy, entry_page(e)))
		ivy_home_lose(ivy, NULL, e);
}

/* ---- peers --------------------------------------------------------------------------------- */

void ivy_rebuild_peer_back(struct ivy *ivy, uint16_t peer)
{
	if (ivy->rebuild)
		say_status(ivy, peer);
}

/* Copies that contradicted what the one who is gone now had said are the good ones. */
static void hear_again(struct ivy *ivy)
{
	struct ivy_table *claims = &ivy->rebuild->claims;
	struct ivy_link *link, *next;

	for (link = ivy_table_any(claims); link; link = next) {
		struct ivy_claim *c = (struct ivy_claim *)link;
		struct ivy_entry *e = is_mapped(c->state) ? ivy_dir_find(ivy, link->key) : NULL;

		next = ivy_table_after(claims, link);
		if (!e || (e->bits & DIR_LOST))
			continue;
		if (e->owner == NOBODY && ivy_sharers_count(e) == 0) {
			entry_set_version(e, 0);
			e->bits &= (uint8_t)~DIR_STALE;
		}
		if (!agrees(e, c->node, c->state, c->version))
			continue;
		put_mapped(ivy, e, c->node, c->state, c->version);
		claim_free(ivy, c);
	}
}

/* What it had is gone. That its requests had not completed stays true. */
void ivy_rebuild_peer_dead(struct ivy *ivy, uint16_t peer)
{
	struct ivy_rebuild *b = ivy->rebuild;
	struct ivy_link *link, *next;
	int waited;

	if (!b)
		return;
	for (link = ivy_table_any(&b->claims); link; link = next) {
		struct ivy_claim *c = (struct ivy_claim *)link;

		next = ivy_table_after(&b->claims, link);
		if (c->node == peer && c->state != GVM_HELD_NONE)
			claim_free(ivy, c);
	}
	if (b->phase == REBUILD_COLLECTS && b->witness[peer].liar)
		hear_again(ivy);
	waited = b->phase == REBUILD_RESUMES && b->witness[peer].member == MEMBER_REPORTED;
	b->witness[peer].member = MEMBER_NONE;
	b->witness[peer].unheard = UNHEARD_NOTHING;
	if (waited && --b->waits == 0)
		serve(ivy);
}

void ivy_rebuild_fini(struct ivy *ivy)
{
	if (!ivy->rebuild)
		return;
	drop_claims(ivy);
	ivy_table_fini(ivy, &ivy->rebuild->claims);
	ivy_release(ivy, ivy->rebuild, rebuild_size(ivy));
	ivy->rebuild = NULL;
}
