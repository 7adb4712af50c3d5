// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What wire/ writes it can read again, and it takes no frame that is damaged: little of what the
 * tests in user space show of it, enough to see that it is the same in here.
 */
#include "selftest_internal.h"

#define SET_IDS 1000u /* nodes in a set, at most */

/* A header whose fields all are random, but for those that the type binds. */
static void headers(struct st_world *w)
{
	uint8_t bytes[GVM_WIRE_HDR_LEN];
	struct gvm_hdr h = { .type = GVM_T_FETCH, .region = st_draw(w), .page = st_draw(w) }, got;

	h.xid = st_draw(w);
	h.epoch = (uint32_t)st_draw(w);
	h.credits = (uint16_t)st_draw(w);
	h.arg = 1 + st_below(w, GVM_WIRE_XFER_MAX);
	gvm_hdr_encode(bytes, &h);
	if (gvm_hdr_decode(bytes, &got) != 0 || got.type != h.type || got.region != h.region ||
	    got.page != h.page || got.xid != h.xid || got.epoch != h.epoch ||
	    got.credits != h.credits || got.arg != h.arg || got.length != 0)
		st_fail(w, "a header is not read as it was written");
	bytes[0] ^= (uint8_t)(1 + st_below(w, 255));
	if (gvm_hdr_decode(bytes, &got) == 0)
		st_fail(w, "a header without its first byte is taken");
}

struct sets {
	uint16_t ids[SET_IDS], got[SET_IDS];
	uint8_t bytes[GVM_SET_MAX];
};

static void set_of_nodes(struct st_world *w, struct sets *s)
{
	uint32_t most = 1 + st_below(w, 60), id = st_below(w, 9), n = 0;
	size_t length;

	for (; id < GVM_WIRE_NODE_MAX && n < SET_IDS; id += 1 + st_below(w, most))
		s->ids[n++] = (uint16_t)id;
	length = gvm_set_encode(s->bytes, s->ids, n);
	if (gvm_set_count(s->bytes, length, GVM_WIRE_NODE_MAX) != (int)n) {
		st_fail(w, "a set of %u nodes is not read as it was written", n);
		return;
	}
	gvm_set_decode(s->bytes, length, s->got);
	if (memcmp(s->ids, s->got, n * sizeof(s->ids[0])) != 0)
		st_fail(w, "a set of %u nodes has other ones in it when it is read", n);
	if (gvm_set_count(s->bytes, length, s->ids[n - 1]) >= 0 ||
	    gvm_set_count(s->bytes, length - 1, GVM_WIRE_NODE_MAX) == (int)n)
		st_fail(w, "a set with a node that cannot be, or cut short, is taken");
}

void st_wire(struct st_world *w)
{
	struct sets *s = st_alloc(w, sizeof(*s));
	uint32_t i;

	for (i = 0; s && i < 64; i++) {
		headers(w);
		set_of_nodes(w, s);
	}
	if (s)
		st_free(w, s, sizeof(*s));
}
