/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What coherent nodes say to each other (docs/coherence.md): the frame types, their flags, and the
 * one body that is not a page, a set of nodes. Nothing here allocates or knows a page's state; it
 * compiles in the kernel.
 */
#ifndef GVM_WIRE_COHERENCE_H
#define GVM_WIRE_COHERENCE_H

#include "wire/wire.h"

/* Frame types. Numbers are the protocol's: never reuse one. */
enum gvm_coh_type {
	GVM_COH_REPORT = 43,
	GVM_COH_READ = 44,
	GVM_COH_WRITE = 45,
	GVM_COH_DATA = 46,
	GVM_COH_GRANT = 47,
	GVM_COH_NAK = 48,
	GVM_COH_DONE = 49,
	GVM_COH_ASK = 50,
	GVM_COH_FWD_READ = 51,
	GVM_COH_FWD_WRITE = 52,
	GVM_COH_FREE = 53,
	GVM_COH_STILL = 54,
	GVM_COH_RECALL = 55,
	GVM_COH_BACK = 56,
	GVM_COH_WB = 57,
	GVM_COH_WB_OK = 58,
	GVM_COH_DROP = 59,
	GVM_COH_INV = 60,
	GVM_COH_ACK = 61,
	GVM_COH_READY = 62,
};
#define GVM_COH_FIRST 43u
#define GVM_COH_LAST  62u

/* Header flags of these types, beside GVM_F_ZERO. */
#define GVM_F_SAME  0x0004u /* the receiver has this content already */
#define GVM_F_WAIT  0x0008u /* the owner sends the content */
#define GVM_F_DELTA 0x0010u /* the payload is not the page but what has changed: wire/delta.h */
/* INV: the set is the writer, who is to have an ACK, too. GRANT, beside SAME or WAIT: only when all
 * of the set have sent theirs. */
#define GVM_F_ACKS 0x0020u

#define GVM_COH_BASE_LEN 8u /* the payload of a request: digest of a content that it still has */

#define GVM_COH_FWD_SAME (1ull << 16) /* in arg of FWD_WRITE */

#define GVM_COH_ACKS_MAX 16u /* nodes in the set of a GRANT */
/* In arg of INV without a set, from the home only: drop a copy of any version. No version is this.
 */
#define GVM_COH_ANY_VERSION (~0ull)

/* What a REPORT is, in xid. From a node to a home that has been started anew: */
#define GVM_REPORT_MORE                                                                            \
	0u /* a part of what it holds; arg: the highest version that it was told of */
#define GVM_REPORT_LAST  1u /* the last part */
#define GVM_REPORT_TAKEN 2u /* RESUME has come */
/* From that home to the node: */
#define GVM_REPORT_NEXT   3u /* send the next part */
#define GVM_REPORT_RESUME 4u /* all have reported; arg: versions up to this one are of before */
#define GVM_REPORT_SERVES 5u /* all have resumed: ask for what you want */
#define GVM_REPORT_SETTLED                                                                         \
	6u /* what was only with sharers is at the home, too: they may drop it                     \
	    */

/* What a node holds of a page, or wants: a REPORT has up to GVM_REPORT_MAX of them. */
struct gvm_held {
	uint64_t page;
	uint64_t version; /* of the content; 0: none */
	uint64_t given;   /* state GIVEN: the request or round that it was given to */
	uint64_t request; /* for WRITE, that has not completed; 0: none */
	uint8_t state;    /* GVM_HELD_* */
};
enum {
	GVM_HELD_NONE,
	GVM_HELD_SHARED,
	GVM_HELD_OWNED,
	GVM_HELD_EXCL,
	GVM_HELD_EVICT,
	GVM_HELD_GIVEN
};
#define GVM_HELD_LEN   32u
#define GVM_REPORT_MAX 128u

void gvm_held_encode(uint8_t *buf, const struct gvm_held *held);
/* 0 or -GVM_EPROTO: no such state, or content without a version or the reverse. */
int gvm_held_decode(const uint8_t *buf, struct gvm_held *held);

/*
 * Check what can be checked of a header without knowing the receiver's state: type, flags, status,
 * arg, and a length that goes with them. page_size: bytes of a page. 0 or -GVM_EPROTO.
 */
int gvm_coh_check(const struct gvm_hdr *h, uint32_t page_size);
/* There is a page in it that is not zero, whole or as a delta. */
static inline int gvm_coh_has_page(const struct gvm_hdr *h)
{
	return h->length == GVM_WIRE_PAGE || (h->flags & GVM_F_DELTA) != 0;
}

/* "READ", never NULL. */
const char *gvm_coh_name(unsigned type);

/* Most bytes that a set takes. */
#define GVM_SET_MAX (4u + (GVM_WIRE_NODE_MAX + 7u) / 8u)
/*
 * The bytes of a set of n node ids, ascending, each below GVM_WIRE_NODE_MAX; the shortest form of
 * it. buf has room for GVM_SET_MAX bytes, or for 4 + 2 n where that is less. Returns how many were
 * written; 0 for the empty set.
 */
size_t gvm_set_encode(uint8_t *buf, const uint16_t *ids, uint32_t n);
/*
 * How many ids the set has, or -GVM_EPROTO: form, order, padding or length are wrong, or an id is
 * not below nodes (at most GVM_WIRE_NODE_MAX). len 0 is the empty set.
 */
int gvm_set_count(const uint8_t *buf, size_t len, uint32_t nodes);
/* Of such a set that is not empty: the lowest id. Of any: 1 if id is in it. */
uint16_t gvm_set_first(const uint8_t *buf);
int gvm_set_has(const uint8_t *buf, size_t len, uint16_t id);
/* Write the ids of a set that gvm_set_count has found good, ascending; ids has room for all. */
void gvm_set_decode(const uint8_t *buf, size_t len, uint16_t *ids);

#endif
