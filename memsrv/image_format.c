/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "image_format.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

static uint32_t crc_table[256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

/* What a state block says of the regions. Versions that do not know FAILED take it for damage. */
enum { IN_USE, CLEAN, FAILED };

static void crc_init(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int k = 0; k < 8; k++)
			c = c & 1 ? (c >> 1) ^ 0x82F63B78u : c >> 1;
		crc_table[i] = c;
	}
}

/* CRC-32C (Castagnoli; RFC 3720, appendix B.4) of a record and its place in the file. */
static uint32_t crc_of(const uint8_t *buf, size_t len, uint64_t where)
{
	uint32_t c = UINT32_MAX;

	pthread_once(&crc_once, crc_init);
	for (int i = 0; i < 8; i++)
		c = crc_table[(c ^ (uint8_t)(where >> (8 * i))) & 0xFF] ^ (c >> 8);
	for (size_t i = 0; i < len; i++)
		c = crc_table[(c ^ buf[i]) & 0xFF] ^ (c >> 8);
	return ~c;
}

static void put32(uint8_t *at, uint32_t v)
{
	v = htole32(v);
	memcpy(at, &v, 4);
}

static void put64(uint8_t *at, uint64_t v)
{
	v = htole64(v);
	memcpy(at, &v, 8);
}

static uint32_t get32(const uint8_t *at)
{
	uint32_t v;

	memcpy(&v, at, 4);
	return le32toh(v);
}

static uint64_t get64(const uint8_t *at)
{
	uint64_t v;

	memcpy(&v, at, 8);
	return le64toh(v);
}

/* The checksum is the first word of each record and each block. */
void image_seal(uint8_t *record, size_t len, uint64_t where)
{
	put32(record, crc_of(record + 4, len - 4, where));
}

int image_sealed(const uint8_t *record, size_t len, uint64_t where)
{
	return get32(record) == crc_of(record + 4, len - 4, where);
}

void image_super_encode(uint8_t *b)
{
	memset(b, 0, BLOCK);
	memcpy(b + 8, MAGIC, sizeof(MAGIC));
	put32(b + 24, VERSION);
	put32(b + 28, REGION_LEN);
	put64(b + 32, REGION_OFF);
	put32(b + 40, REGION_CAP);
	put32(b + 44, INDEX_LEN);
	put64(b + 48, INDEX_OFF);
	put32(b + 56, INDEX_CAP);
	put64(b + 64, DATA_OFF);
	image_seal(b, BLOCK, 0);
}

unsigned image_super_version(const uint8_t *b)
{
	return get32(b + 24);
}

void image_state_encode(const struct image_head *st, uint8_t *b, uint64_t off)
{
	memset(b, 0, BLOCK);
	put32(b + 4, st->failed ? FAILED : st->clean ? CLEAN : IN_USE);
	put64(b + 8, st->seq);
	memcpy(b + 16, st->boot, sizeof(st->boot));
	put32(b + 56, st->region_pages);
	put32(b + 60, st->index_pages);
	image_seal(b, BLOCK, off);
}

void image_state_decode(const uint8_t *b, uint64_t off, struct image_head *st)
{
	memset(st, 0, sizeof(*st));
	if (!image_sealed(b, BLOCK, off) || get32(b + 4) > FAILED)
		return;
	st->clean = get32(b + 4) == CLEAN;
	st->failed = get32(b + 4) == FAILED;
	st->seq = get64(b + 8);
	memcpy(st->boot, b + 16, sizeof(st->boot));
	st->boot[sizeof(st->boot) - 1] = 0;
	st->region_pages = get32(b + 56);
	st->index_pages = get32(b + 60);
	st->valid = st->region_pages <= REGION_CAP / (BLOCK / REGION_LEN) &&
		    st->index_pages <= INDEX_CAP / (BLOCK / INDEX_LEN);
}

void image_free_encode(uint32_t record, uint8_t *b, uint64_t off)
{
	memset(b, 0, record);
	put32(b + 4, record == REGION_LEN ? (uint32_t)IMAGE_FREE : NO_SLOT);
	image_seal(b, record, off);
}

void image_region_encode(const struct image_region *r, enum image_state state, uint8_t *b,
			 uint64_t off)
{
	memset(b, 0, REGION_LEN);
	put32(b + 4, state);
	put64(b + 8, r->id);
	put64(b + 16, r->generation);
	put64(b + 24, r->holder);
	put64(b + 32, r->pages);
	put64(b + 40, r->share);
	put64(b + 48, r->reserved);
	put32(b + 56, r->slab_pages);
	put32(b + 60, r->flags);
	put32(b + 64, r->linger_ms);
	memcpy(b + 128, r->name, sizeof(r->name));
	image_seal(b, REGION_LEN, off);
}

int image_region_decode(const uint8_t *b, uint64_t off, struct image_region *r,
			enum image_state *state)
{
	if (!image_sealed(b, REGION_LEN, off))
		return -EBADMSG;
	*state = (enum image_state)get32(b + 4);
	r->id = get64(b + 8);
	r->generation = get64(b + 16);
	r->holder = get64(b + 24);
	r->pages = get64(b + 32);
	r->share = get64(b + 40);
	r->reserved = get64(b + 48);
	r->slab_pages = get32(b + 56);
	r->flags = get32(b + 60);
	r->linger_ms = get32(b + 64);
	memcpy(r->name, b + 128, sizeof(r->name));
	if (*state == IMAGE_FREE)
		return 0;
	if (*state > IMAGE_DELETING || *state < IMAGE_FREE || r->name[63] || !r->name[0] ||
	    !r->pages || r->slab_pages < SLAB_PAGE_MIN || r->slab_pages > SLAB_PAGE_MAX ||
	    (r->slab_pages & (r->slab_pages - 1)))
		return -EBADMSG;
	return 0;
}

void image_entry_encode(uint32_t slot, uint64_t slab, uint64_t extent, uint8_t *b, uint64_t off)
{
	memset(b, 0, INDEX_LEN);
	put32(b + 4, slot);
	put64(b + 8, slab);
	put64(b + 16, extent);
	image_seal(b, INDEX_LEN, off);
}

int image_entry_decode(const uint8_t *b, uint64_t off, struct image_entry *e)
{
	if (!image_sealed(b, INDEX_LEN, off))
		return -EBADMSG;
	e->slot = get32(b + 4);
	e->slab = get64(b + 8);
	e->extent = get64(b + 16);
	return 0;
}
