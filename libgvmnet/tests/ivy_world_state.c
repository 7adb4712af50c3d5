/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A state of the world as words, and their hash: states that differ in nothing that matters are
 * equal.
 */
#include "ivy_world.h"

#define WORDS_MAX 4096

struct words {
	uint64_t at[WORDS_MAX];
	unsigned count;
};

static void put(void *to, uint64_t word)
{
	struct words *w = to;

	if (w->count == WORDS_MAX)
		abort();
	w->at[w->count++] = word;
}

/* A random id, or a version or round: the counter began with a quarter of one. */
static int is_id(uint64_t word)
{
	return word >> 56 >= 0xA0 && word >> 56 < 0xA0 + NODES_MAX;
}

static int is_count(uint64_t word)
{
	return word >> 56 >= 0x28 && word >> 56 < 0x28 + 1;
}

/* Of ids only matters which are equal: number them as they appear. */
static void rename_ids(struct words *w)
{
	uint64_t ids[256];
	unsigned known = 0, i, k;

	for (i = 0; i < w->count; i++) {
		if (!is_id(w->at[i]))
			continue;
		for (k = 0; k < known && ids[k] != w->at[i]; k++)
			;
		if (k == known && known < 256)
			ids[known++] = w->at[i];
		w->at[i] = 0xABull << 56 | k;
	}
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Of versions only matters which is greater: number them by rank. */
static void rename_counts(struct words *w)
{
	uint64_t all[512];
	unsigned n = 0, i, k, rank;

	for (i = 0; i < w->count && n < 512; i++)
		if (is_count(w->at[i]))
			all[n++] = w->at[i];
	qsort(all, n, sizeof(all[0]), compare);
	for (i = 0; i < w->count; i++) {
		if (!is_count(w->at[i]))
			continue;
		for (k = 0, rank = 0; k < n && all[k] != w->at[i]; k++)
			rank += k == 0 || all[k] != all[k - 1];
		w->at[i] = 0xACull << 56 | rank;
	}
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
	uint64_t h = 0x9e3779b97f4a7c15ull;
	unsigned i;

	w.count = 0;
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
	for (i = 0; i < w.count; i++) {
		h = (h ^ w.at[i]) * 0xff51afd7ed558ccdull;
		h ^= h >> 32;
	}
	return h ? h : 1;
}
