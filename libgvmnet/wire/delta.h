/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A page as what has changed of it since another content that the receiver still has, or since all
 * zeros (docs/coherence.md, "Deltas"). Pure functions of their arguments; they allocate nothing and
 * compile in the kernel.
 *
 * A delta is: 8 bytes, the digest of the base, 0 for zeros; 8 bytes, the digest of the page that
 * comes out; then runs, each of 2 bytes: so many bytes stay as they are; 2 bytes: how many follow
 * that do not (1 or more), with the top bit set if they are zeros and not in the delta; those
 * bytes.
 */
#ifndef GVM_WIRE_DELTA_H
#define GVM_WIRE_DELTA_H

#include "wire/wire.h"

#define GVM_DELTA_HEAD 16u
#define GVM_DELTA_PAGE 32767u /* bytes of a page, at most */

/*
 * 64 bits that tell contents apart, the same on all machines; never 0. Not for those who choose
 * contents to deceive: who shares a page may write to it anyhow.
 */
uint64_t gvm_delta_digest(const uint8_t *page, uint32_t size);
/*
 * The delta from base to page, with these digests; 0: it would not fit into room bytes.
 */
size_t gvm_delta_encode(uint8_t *buf, size_t room, const uint8_t *base, uint64_t base_digest,
			const uint8_t *page, uint64_t digest, uint32_t size);
/* Whether it is worth a try, at little cost: a quarter of both looks the same. */
int gvm_delta_likely(const uint8_t *base, const uint8_t *page, uint32_t size);
/* 0, or -GVM_EPROTO: it is no delta of a page of this size. */
int gvm_delta_check(const uint8_t *buf, size_t len, uint32_t size);
/* A digest as it travels, alone or (the base's) as the first thing of a delta. */
uint64_t gvm_delta_base(const uint8_t *buf);
void gvm_delta_base_put(uint8_t *buf, uint64_t digest);
/* Turn the base, in page, into what comes out. 0; or -GVM_EPROTO: that is not what it says, and the
 * page is of no use. */
int gvm_delta_apply(uint8_t *page, const uint8_t *buf, size_t len, uint32_t size);
/* The same without that check, for tests that need a fault to find. */
void gvm_delta_patch(uint8_t *page, const uint8_t *buf, size_t len);

#endif
