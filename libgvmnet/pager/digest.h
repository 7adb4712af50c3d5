/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Digests of pages, that tell whether a page still holds what was fetched into it.
 *
 * A page is 256 pairs of 64-bit words, and its hash the sum over them of
 * (word + key)(next word + next key) in the field of 2^64 elements: the pseudo-dot-product of
 * Winograd, as used by Black and others ("UMAC: fast and secure message authentication",
 * CRYPTO 1999) and Lemire and Kaser ("Faster 64-bit universal hashing using carry-less
 * multiplications", 2015). For two pages that differ, say in the first word of a pair, the
 * difference of their hashes is (difference of the words) * (key of the second word) + something
 * that does not depend on that key; in a field exactly one of the 2^64 keys makes it zero. So two
 * given pages collide with probability 2^-64, whatever is in them, for a key that is drawn at
 * random after no more is known of it than that they did not collide before.
 *
 * A digest is the hash under one key, and 16 bits of the hash under a second one that has nothing
 * to do with the first: 2^-80. After 380 million years of a changed page each microsecond the odds
 * are one in a hundred that a single change has gone unseen. Any thread.
 */
#ifndef GVM_PAGER_DIGEST_H
#define GVM_PAGER_DIGEST_H

#include <stdbool.h>
#include <stdint.h>

#define DIGEST_WORDS 512u /* 64-bit words of a page */

struct digest_key {
	uint64_t first[DIGEST_WORDS], second[DIGEST_WORDS];
} __attribute__((aligned(64)));

struct digest {
	uint8_t byte[10];
};

/* Draw a key. 0, or -ENOSYS: this CPU cannot multiply in the field, or -errno. */
int digest_init(struct digest_key *key);
void digest_page(const struct digest_key *key, const void *page, struct digest *digest);
/* The same with the instructions that every CPU with digests has; for the test. */
void digest_page_plain(const struct digest_key *key, const void *page, struct digest *digest);
bool digest_matches(const struct digest_key *key, const void *page, const struct digest *digest);

#endif
