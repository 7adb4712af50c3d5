/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A state of the world as words, and their hash: states that differ in nothing that matters are
 * equal.
 */
#include "ivy_world.h"

#define WORDS_MAX  4096
#define VALUES_MAX 512 /* different ids; different counts */

struct words {
	uint64_t at[WORDS_MAX];
	unsigned count;
	/* which of them are ids, and counts */
	uint16_t id[WORDS_MAX], number[WORDS_MAX];
	unsigned ids, numbers;
};

/* A random id; a version or round: the counter began with a quarter of one. */
static int is_id(uint64_t word)
{
	return word >> 56 >= 0xA0 && word >> 56 < 0xA0 + NODES_MAX;
}

static int is_count(uint64_t word)
{
	return word >> 56 == 0x28;
}

static void put(void *to, uint64_t word)
{
	struct words *w = to;

	if (w->count == WORDS_MAX)
		abort();
	if (is_id(word))
		w->id[w->ids++] = (uint16_t)w->count;
	else if (is_count(word))
		w->number[w->numbers++] = (uint16_t)w->count;
	w->at[w->count++] = word;
}

/* Of ids only matters which are equal: number them as they appear. */
static void rename_ids(struct words *w)
{
	uint64_t known[VALUES_MAX];
	unsigned n = 0, i, k;

	for (i = 0; i < w->ids; i++) {
		uint64_t *word = &w->at[w->id[i]];

		for (k = 0; k < n && known[k] != *word; k++)
			;
		if (k == VALUES_MAX)
			abort();
		if (k == n)
			known[n++] = *word;
		*word = 0xABull << 56 | k;
	}
}

/* Of versions only matters which is greater: number them by rank. */
static void rename_counts(struct words *w)
{
	uint64_t known[VALUES_MAX]; /* in their order */
	unsigned n = 0, i, k;

	for (i = 0; i < w->numbers; i++) {
		uint64_t word = w->at[w->number[i]];

		for (k = n; k > 0 && known[k - 1] > word; k--)
			;
		if (k > 0 && known[k - 1] == word)
			continue;
		if (n == VALUES_MAX)
			abort();
		memmove(&known[k + 1], &known[k], (n++ - k) * sizeof(known[0]));
		known[k] = word;
	}
	for (i = 0; i < w->numbers; i++) {
		uint64_t *word = &w->at[w->number[i]];

		for (k = 0; known[k] != *word; k++)
			;
		*word = 0xACull << 56 | k;
	}
}

static uint64_t mixed(uint64_t h, uint64_t word)
{
	h = (h ^ word) * 0xff51afd7ed558ccdull;
	return h ^ h >> 32;
}

/* Four at a time, so that none of the four waits for the product of another. */
static uint64_t hash_of(struct words *w)
{
	uint64_t a = 0x9e3779b97f4a7c15ull, b = a, c = a, d = w->count;
	unsigned i;

	while (w->count % 4 != 0)
		put(w, 0);
	for (i = 0; i < w->count; i += 4) {
		a = mixed(a, w->at[i]);
		b = mixed(b, w->at[i + 1]);
		c = mixed(c, w->at[i + 2]);
		d = mixed(d, w->at[i + 3]);
	}
	a = mixed(mixed(mixed(a, b), c), d);
	return a ? a : 1;
}

static void put_packets(struct words *w)
{
	const struct packet *p;
	int a, b;

	for (a = 0; a < scenario.nodes; a++)
		for (b = 0; b < scenario.nodes; b++)
			for (p = W.queue[a][b]; p; p = p->next) {
				uint64_t bytes =
				    p->h.length ? gvm_delta_digest(p->payload, p->h.length) : 0;
				uint32_t at;

				put(w, (uint64_t)a << 40 | (uint64_t)b << 32 | p->h.type << 16 |
					   p->h.flags << 8 | p->h.status);
				put(w, p->h.page << 32 | (W.session[a][b] - p->session));
				put(w, p->h.xid);
				put(w, p->h.arg);
				/* A report has ids and versions; of anything else the digest,
				 * which must not be taken for one. */
				if (p->h.type != GVM_COH_REPORT) {
					put(w, bytes >> 16);
					continue;
				}
				for (at = 0; at < p->h.length; at += 8) {
					uint64_t bytes = 0;

					memcpy(&bytes, p->payload + at,
					       p->h.length - at < 8 ? p->h.length - at : 8);
					put(w, bytes);
				}
			}
}

static void put_node(struct words *w, const struct world_node *n)
{
	int i;

	put(w, (uint64_t)(n->ivy != NULL) | (uint64_t)n->reads << 8 | (uint64_t)n->writes << 16 |
		   (uint64_t)n->restarted << 24 | (uint64_t)n->life << 32);
	if (scenario.rebuild && n->high) {
		put(w, n->low);
		put(w, n->high);
		put(w, n->ivy ? n->ivy->reserved : 0);
	}
	for (i = 0; i < scenario.nodes; i++)
		put(w, (uint64_t)n->link[i] | (uint64_t)n->buried[i] << 8 |
			   (uint64_t)(W.session[n->id][i] - n->view[i]) << 16 |
			   (uint64_t)n->knows[i] << 48);
	for (i = 0; i < scenario.pages; i++) {
		put(w, (uint64_t)n->access[i] | (uint64_t)n->waits[i] << 8 |
			   (uint64_t)n->has_copy[i] << 16 | (uint64_t)n->pinned[i] << 24);
		put(w, n->has_copy[i] ? n->copy[i] : 0);
		put(w, n->store[i]);
	}
	if (n->ivy)
		ivy_snapshot(n->ivy, put, w);
}

uint64_t world_hash(void)
{
	static struct words w;
	unsigned i;

	w.count = w.ids = w.numbers = 0;
	put(&w, (uint64_t)W.left.evicts | (uint64_t)W.left.stores << 8 |
		    (uint64_t)W.left.resets << 16 | (uint64_t)W.left.crashes << 24 |
		    (uint64_t)W.left.restarts << 32 | (uint64_t)W.left.burials << 40 |
		    (uint64_t)W.left.early_ticks << 48 | (uint64_t)W.left.pins << 56);
	put(&w, (uint64_t)W.left.twice);
	for (i = 0; i < (unsigned)scenario.pages; i++)
		put(&w, W.last[i] << 16 | (uint64_t)W.may_lose[i] << 8 | W.home_gone[i]);
	for (i = 0; i < (unsigned)scenario.nodes; i++)
		put_node(&w, &W.node[i]);
	put_packets(&w);
	rename_ids(&w);
	rename_counts(&w);
	return hash_of(&w);
}
