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
};
#define GVM_COH_FIRST 44u
#define GVM_COH_LAST  61u

/* Header flags of these types, beside GVM_F_ZERO. */
#define GVM_F_SAME 0x0004u /* the receiver has this content already */
#define GVM_F_WAIT 0x0008u /* the owner sends the content */

#define GVM_COH_FWD_SAME (1ull << 16) /* in arg of FWD_WRITE */

/*
 * Check what can be checked of a header without knowing the receiver's state: type, flags, status,
 * arg, and a length that goes with them. page_size: bytes of a page. 0 or -GVM_EPROTO.
 */
int gvm_coh_check(const struct gvm_hdr *h, uint32_t page_size);
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
/* Write the ids of a set that gvm_set_count has found good, ascending; ids has room for all. */
void gvm_set_decode(const uint8_t *buf, size_t len, uint16_t *ids);

#endif
