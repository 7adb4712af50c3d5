/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The bytes of an image file (image.h says how they lie and in which order they are written):
 * encode and decode of each record, no I/O. All integers are little-endian. The first word of each
 * record and block is a CRC-32C of the rest and of its place in the file, off.
 */
#ifndef MEMSRV_IMAGE_FORMAT_H
#define MEMSRV_IMAGE_FORMAT_H

#include "image.h"

#define MAGIC         "gvmnet-image\r\n\x1a"
#define MAGIC_LEN     16u
#define VERSION       1u
#define BLOCK         4096u
#define STATE_OFF     4096u
#define STATES        2u
#define REGION_OFF    (UINT64_C(64) << 10)
#define REGION_LEN    256u
#define REGION_CAP    65536u
#define INDEX_OFF     (UINT64_C(32) << 20)
#define INDEX_LEN     32u
#define INDEX_CAP     (1u << 24)
#define DATA_OFF      (UINT64_C(1) << 30)
#define DATA_MAX      (UINT64_C(1) << 46) /* bytes of extents */
#define NO_SLOT       UINT32_MAX          /* the region of a free slab record */
#define SLAB_PAGE_MIN 16u
#define SLAB_PAGE_MAX (1u << 18)

/* A state block. valid: its bytes were whole and make sense; the rest is zero otherwise. */
struct image_head {
	int valid, clean, failed; /* clean and failed: not both */
	uint64_t seq;             /* of two, the higher one is the newer */
	char boot[40];
	uint32_t region_pages, index_pages; /* 4 KiB pages of the two tables */
};

/* A slab record. len, of the region's slabs, is not in the file. */
struct image_entry {
	uint64_t slab, extent, len;
	uint32_t place, slot; /* its own number, its region's */
};

void image_seal(uint8_t *record, size_t len, uint64_t off);
int image_sealed(const uint8_t *record, size_t len, uint64_t off);

void image_super_encode(uint8_t *b);
unsigned image_super_version(const uint8_t *b);
void image_state_encode(const struct image_head *st, uint8_t *b, uint64_t off);
void image_state_decode(const uint8_t *b, uint64_t off, struct image_head *st);
/* A free record of this length: REGION_LEN or INDEX_LEN. */
void image_free_encode(uint32_t record, uint8_t *b, uint64_t off);
void image_region_encode(const struct image_region *r, enum image_state state, uint8_t *b,
			 uint64_t off);
/* -EBADMSG: damaged, or not what region_encode makes. r has meaning unless *state is IMAGE_FREE. */
int image_region_decode(const uint8_t *b, uint64_t off, struct image_region *r,
			enum image_state *state);
void image_entry_encode(uint32_t slot, uint64_t slab, uint64_t extent, uint8_t *b, uint64_t off);
/* -EBADMSG: damaged. Leaves place and len alone. */
int image_entry_decode(const uint8_t *b, uint64_t off, struct image_entry *e);

#endif
