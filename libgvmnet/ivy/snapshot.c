/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The state of an engine as a sequence of words, for those who compare states. Tables are gone
 * through in the order of pages where there are few, so the order of their chains makes no
 * difference; clocks, time-outs and statistics are left out.
 */
#include "ivy/internal.h"

struct sink {
	void (*put)(void *to, uint64_t word);
	void *to;
};

static void put(const struct sink *s, uint64_t word)
{
	s->put(s->to, word);
}

static void put_page(const struct sink *s, const struct ivy_page *p)
{
	put(s, p->state | p->want << 8 | p->flags << 16 | (uint64_t)p->pin << 24 |
		   (uint64_t)p->pins << 32 | (uint64_t)p->at_home << 48);
	put(s, p->version);
	put(s, p->want ? p->request : 0);
	put(s, p->flags & (HAS_GRANT | HAS_EARLY) ? p->granted : 0);
	put(s, p->state == PAGE_EVICT || p->state == PAGE_GIVEN ? p->side : 0);
}

/* Who has acknowledged to a writer is in no order that matters. */
static void put_tally(const struct ivy *ivy, const struct sink *s, const struct ivy_page *p)
{
	const struct ivy_tally *t = ivy_tally_find(ivy, p);
	uint16_t node;
	uint32_t i;

	if (!t)
		return;
	put(s, t->acks);
	for (node = 0; node < ivy->config.nodes; node++)
		for (i = 0; i < t->acks; i++)
			if (t->from[i] == node) {
				put(s, node);
				put(s, t->version[i]);
			}
	for (i = 0; i < t->owed && (p->flags & HAS_EARLY); i++)
		put(s, t->owe[i]);
}

static void put_entry(const struct ivy *ivy, const struct sink *s, const struct ivy_entry *e)
{
	uint16_t node;

	put(s, entry_version(e));
	put(s, e->owner | (uint64_t)(e->bits & (DIR_LOST | DIR_STALE)) << 16);
	for (node = 0; node < ivy->config.nodes; node++)
		if (ivy_sharers_has(e, node))
			put(s, node);
}

static void put_waiters(const struct sink *s, const struct ivy_waiter *w)
{
	for (; w; w = w->next) {
		put(s, w->node | w->write << 16);
		put(s, w->request);
		put(s, w->has);
		put(s, w->base >> 16);
	}
	put(s, NEVER);
}

static void put_fan(const struct sink *s, const struct ivy_fan *fan)
{
	uint32_t i, at;

	put(s, fan->round);
	put(s, fan->version);
	put(s, fan->writer);
	for (i = 0; i < fan->n; i++)
		put(s, fan->ids[i]);
	for (i = 0; i < fan->children; i++) {
		const struct ivy_child *c = &fan->child[i];

		put(s, c->node | (uint64_t)c->state << 16 | (uint64_t)c->left << 32);
		for (at = 0; at < c->left; at++)
			put(s, fan->left[c->first + at]);
	}
}

static void put_txn(const struct sink *s, const struct ivy_txn *t)
{
	put(s, t->phase | (uint64_t)t->supplier << 8 | (uint64_t)t->candidate << 24 |
		   (uint64_t)t->same << 40 | (uint64_t)t->strict << 41 | (uint64_t)t->early << 42 |
		   (uint64_t)t->sent << 43 | (uint64_t)t->done << 44);
	put(s, t->version);
	put(s, t->phase == TXN_RECALL ? t->round : 0);
	put_waiters(s, t->queue.first);
	put_waiters(s, t->served.first);
	if (t->fan)
		put_fan(s, t->fan);
}

static void put_relays(const struct ivy *ivy, const struct sink *s, uint64_t page)
{
	const struct ivy_link *link;

	for (link = ivy_table_any(&ivy->relays); link; link = ivy_table_after(&ivy->relays, link)) {
		const struct ivy_relay *r = (const struct ivy_relay *)link;

		if (r->fan->page != page)
			continue;
		put(s, r->parent);
		put_fan(s, r->fan);
	}
}

/* In the order in which they go; a digest must not be taken for an id or a version. */
static void put_old(const struct ivy *ivy, const struct sink *s)
{
	const struct ivy_old *o;

	for (o = ivy->old_first; o; o = o->next)
		put(s, gvm_delta_digest(o->bytes, ivy->config.page_size) >> 16 ^ o->link.key);
}

static void put_rebuild(const struct ivy *ivy, const struct sink *s)
{
	const struct ivy_rebuild *b = ivy->rebuild;
	const struct ivy_link *link;
	uint16_t node;

	for (link = ivy_table_any(&ivy->reborn); link; link = ivy_table_after(&ivy->reborn, link)) {
		const struct ivy_reborn *r = (const struct ivy_reborn *)link;

		put(s, link->key | (uint64_t)r->phase << 16);
		put(s, r->phase > REBORN_REPORTS ? r->base : r->slot);
	}
	if (!b)
		return;
	put(s, b->phase | (uint64_t)b->waits << 8);
	put(s, b->base);
	for (node = 0; node < ivy->config.nodes; node++)
		put(s, b->witness[node].member);
	for (link = ivy_table_any(&b->claims); link; link = ivy_table_after(&b->claims, link)) {
		const struct ivy_claim *c = (const struct ivy_claim *)link;

		put(s, link->key | (uint64_t)c->node << 40 | (uint64_t)c->state << 56);
		put(s, c->version);
		put(s, c->id);
	}
}

void ivy_snapshot(const struct ivy *ivy, void (*put_word)(void *to, uint64_t word), void *to)
{
	const struct sink s = { put_word, to };
	const struct ivy_page *p;
	const struct ivy_entry *e;
	const struct ivy_txn *t;
	uint64_t page;
	uint16_t peer;

	for (peer = 0; peer < ivy->config.nodes; peer++)
		put(&s, (uint64_t)ivy_peer_down(ivy, peer) + (uint64_t)ivy_peer_gone(ivy, peer));
	put_old(ivy, &s);
	put_rebuild(ivy, &s);
	for (page = 0; page < ivy->config.pages; page++) {
		p = ivy_page_find(ivy, page);
		e = ivy_dir_find(ivy, page);
		t = ivy_txn_find(ivy, page);
		put(&s, page | (uint64_t)(p != NULL) << 40 | (uint64_t)(e != NULL) << 41 |
			    (uint64_t)(t != NULL) << 42);
		if (p) {
			put_page(&s, p);
			put_tally(ivy, &s, p);
		}
		if (e)
			put_entry(ivy, &s, e);
		if (t)
			put_txn(&s, t);
		put_relays(ivy, &s, page);
	}
}
