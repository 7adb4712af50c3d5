/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A page holds how often it was written. Where pages go as deltas it also has what stays the same
 * and is not zeros, so that a delta of it is made, applied and checked by the engine as of one of
 * 4 KiB; what is counted is what the wire would carry of 4 KiB.
 */
#include <string.h>
#include "tools/sim_internal.h"
#include "wire/delta.h"

#define WORDS    (DELTA_PAGE / 8)
#define RUN_HEAD 4u

static void fill(uint64_t *words, uint64_t page, uint64_t content)
{
	words[0] = content;
	for (uint64_t i = 1; i < WORDS; i++)
		words[i] = content ? (page * WORDS + i) * 0x9e3779b97f4a7c15ull : 0;
}

const void *sim_bytes_of(struct sim *s, uint64_t page, const uint64_t *content)
{
	uint64_t *words = s->scratch[s->scratch_at++ % 4];

	if (!s->c.changed)
		return content;
	fill(words, page, *content);
	return words;
}

int sim_content_of(struct sim *s, uint64_t page, const void *bytes, uint64_t *content)
{
	uint64_t words[WORDS];

	*content = 0;
	if (bytes)
		memcpy(content, bytes, sizeof(*content));
	if (!s->c.changed || !bytes)
		return 1;
	fill(words, page, *content);
	return memcmp(words, bytes, sizeof(words)) == 0;
}

static int carries_page(const struct gvm_hdr *h)
{
	return h->length && !(h->flags & GVM_F_ACKS) &&
	       (h->type == GVM_COH_DATA || h->type == GVM_COH_GRANT || h->type == GVM_COH_BACK ||
		h->type == GVM_COH_WB);
}

/* A base is said for the sake of deltas only. */
static int says_base(const struct gvm_hdr *h)
{
	return h->type == GVM_COH_READ || h->type == GVM_COH_WRITE || h->type == GVM_COH_FWD_READ ||
	       h->type == GVM_COH_FWD_WRITE;
}

void sim_count(struct sim *s, const struct gvm_hdr *h)
{
	uint64_t len = h->length, whole = says_base(h) ? 0 : len;
	int page = carries_page(h);

	if (page)
		len = whole = GVM_WIRE_PAGE;
	if (page && h->flags & GVM_F_DELTA) {
		len = GVM_DELTA_HEAD + RUN_HEAD + s->c.changed;
		s->r->deltas++;
	}
	s->r->messages++;
	s->r->pages_sent += (uint64_t)page;
	s->r->bytes += GVM_WIRE_HDR_LEN + len;
	s->r->bytes_whole += GVM_WIRE_HDR_LEN + whole;
}
