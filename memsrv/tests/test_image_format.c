/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The bytes of an image file: where each field lies (files of earlier builds must stay readable),
 * that what is written is read back, and that no damaged, misplaced or senseless record is taken.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "image_format.h"

/* CRC-32C bit by bit, of the place in the file and then of the bytes. */
static uint32_t crc_bit(uint32_t c, uint8_t byte)
{
	c ^= byte;
	for (int k = 0; k < 8; k++)
		c = (c >> 1) ^ (0x82F63B78u & -(c & 1));
	return c;
}

static uint32_t crc_slow(const uint8_t *buf, size_t len, uint64_t off)
{
	uint32_t c = UINT32_MAX;

	for (int i = 0; i < 8; i++)
		c = crc_bit(c, (uint8_t)(off >> (8 * i)));
	for (size_t i = 0; i < len; i++)
		c = crc_bit(c, buf[i]);
	return ~c;
}

static uint64_t le(const uint8_t *b, unsigned bytes)
{
	uint64_t v = 0;

	while (bytes--)
		v = v << 8 | b[bytes];
	return v;
}

static struct image_region a_region(void)
{
	struct image_region r = { .name = "vm-1",
				  .id = 0x1122334455667788,
				  .generation = 2,
				  .holder = 3,
				  .pages = 4096,
				  .share = 5,
				  .reserved = 6,
				  .slab_pages = 4096,
				  .flags = 7,
				  .linger_ms = 8 };

	return r;
}

static void the_checksum_is_crc32c(void **state)
{
	uint8_t b[REGION_LEN];
	struct image_region r = a_region();

	/* the check value of the published CRC-32C, so that the slow one is right */
	uint32_t c = UINT32_MAX;
	for (const char *p = "123456789"; *p; p++)
		c = crc_bit(c, (uint8_t)*p);
	assert_int_equal(~c, 0xE3069283u);
	image_region_encode(&r, IMAGE_LIVE, b, REGION_OFF + REGION_LEN);
	assert_int_equal(le(b, 4), crc_slow(b + 4, REGION_LEN - 4, REGION_OFF + REGION_LEN));
}

static void fields_lie_where_they_lay(void **state)
{
	struct image_region r = a_region();
	struct image_head st = {
		.clean = 1, .seq = 9, .boot = "b0", .region_pages = 10, .index_pages = 11
	};
	uint8_t b[BLOCK];

	image_super_encode(b);
	assert_memory_equal(b + 8, "gvmnet-image\r\n\x1a", 16);
	assert_int_equal(image_super_version(b), 1);
	assert_int_equal(le(b + 24, 4), 1);
	assert_int_equal(le(b + 28, 4), 256);
	assert_int_equal(le(b + 32, 8), 64 << 10);
	assert_int_equal(le(b + 40, 4), 65536);
	assert_int_equal(le(b + 44, 4), 32);
	assert_int_equal(le(b + 48, 8), 32 << 20);
	assert_int_equal(le(b + 56, 4), 1 << 24);
	assert_int_equal(le(b + 64, 8), 1 << 30);
	image_state_encode(&st, b, STATE_OFF);
	assert_int_equal(le(b + 4, 4), 1);
	assert_int_equal(le(b + 8, 8), 9);
	assert_string_equal((char *)b + 16, "b0");
	assert_int_equal(le(b + 56, 4), 10);
	assert_int_equal(le(b + 60, 4), 11);
	image_region_encode(&r, IMAGE_BUILDING, b, REGION_OFF);
	assert_int_equal(le(b + 4, 4), 2);
	assert_true(le(b + 8, 8) == 0x1122334455667788);
	assert_int_equal(le(b + 16, 8), 2);
	assert_int_equal(le(b + 24, 8), 3);
	assert_int_equal(le(b + 32, 8), 4096);
	assert_int_equal(le(b + 40, 8), 5);
	assert_int_equal(le(b + 48, 8), 6);
	assert_int_equal(le(b + 56, 4), 4096);
	assert_int_equal(le(b + 60, 4), 7);
	assert_int_equal(le(b + 64, 4), 8);
	assert_string_equal((char *)b + 128, "vm-1");
	image_entry_encode(12, 13, 14, b, INDEX_OFF);
	assert_int_equal(le(b + 4, 4), 12);
	assert_int_equal(le(b + 8, 8), 13);
	assert_int_equal(le(b + 16, 8), 14);
}

static void what_is_written_is_read(void **state)
{
	struct image_region r = a_region(), back;
	struct image_head st = {
		.clean = 1, .seq = 9, .boot = "b0", .region_pages = 10, .index_pages = 11
	};
	struct image_head st_back;
	struct image_entry e = { .place = 1, .len = 2 };
	enum image_state what;
	uint8_t b[BLOCK];

	image_region_encode(&r, IMAGE_LIVE, b, REGION_OFF);
	memset(&back, 0, sizeof(back));
	assert_int_equal(image_region_decode(b, REGION_OFF, &back, &what), 0);
	assert_int_equal(what, IMAGE_LIVE);
	assert_memory_equal(&back, &r, offsetof(struct image_region, linger_ms) + 4);
	image_state_encode(&st, b, STATE_OFF);
	image_state_decode(b, STATE_OFF, &st_back);
	assert_true(st_back.valid && st_back.clean && st_back.seq == 9);
	assert_string_equal(st_back.boot, "b0");
	assert_int_equal(st_back.region_pages, 10);
	assert_int_equal(st_back.index_pages, 11);
	assert_false(st_back.failed);
	st.failed = 1; /* whatever else is said */
	image_state_encode(&st, b, STATE_OFF);
	image_state_decode(b, STATE_OFF, &st_back);
	assert_true(st_back.valid && st_back.failed && !st_back.clean);
	image_entry_encode(12, 13, 14, b, INDEX_OFF);
	assert_int_equal(image_entry_decode(b, INDEX_OFF, &e), 0);
	assert_true(e.slot == 12 && e.slab == 13 && e.extent == 14 && e.place == 1 && e.len == 2);
	image_free_encode(REGION_LEN, b, REGION_OFF);
	assert_int_equal(image_region_decode(b, REGION_OFF, &back, &what), 0);
	assert_int_equal(what, IMAGE_FREE);
	image_free_encode(INDEX_LEN, b, INDEX_OFF);
	assert_int_equal(image_entry_decode(b, INDEX_OFF, &e), 0);
	assert_int_equal(e.slot, NO_SLOT);
}

/* Each bit of each record, and each record in another's place. */
static void damage_is_found(void **state)
{
	struct image_region r = a_region(), back;
	struct image_head st = { .seq = 1 }, st_back;
	struct image_entry e;
	enum image_state what;
	uint8_t b[BLOCK];

	image_region_encode(&r, IMAGE_LIVE, b, REGION_OFF);
	for (unsigned bit = 0; bit < REGION_LEN * 8; bit++) {
		b[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(image_region_decode(b, REGION_OFF, &back, &what), -EBADMSG);
		b[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(image_region_decode(b, REGION_OFF + REGION_LEN, &back, &what), -EBADMSG);
	image_entry_encode(1, 2, 3, b, INDEX_OFF);
	for (unsigned bit = 0; bit < INDEX_LEN * 8; bit++) {
		b[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(image_entry_decode(b, INDEX_OFF, &e), -EBADMSG);
		b[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_int_equal(image_entry_decode(b, INDEX_OFF + INDEX_LEN, &e), -EBADMSG);
	image_state_encode(&st, b, STATE_OFF);
	image_state_decode(b, STATE_OFF + BLOCK, &st_back);
	assert_false(st_back.valid);
	for (unsigned bit = 0; bit < BLOCK * 8; bit += 7) {
		b[bit / 8] ^= (uint8_t)(1 << bit % 8);
		image_state_decode(b, STATE_OFF, &st_back);
		assert_false(st_back.valid);
		b[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	memset(b, 0, sizeof(b));
	assert_int_equal(image_region_decode(b, REGION_OFF, &back, &what), -EBADMSG);
	assert_int_equal(image_entry_decode(b, INDEX_OFF, &e), -EBADMSG);
}

/* With a right checksum, but not what this program writes. */
static int senseless(const struct image_region *r, unsigned what)
{
	struct image_region back;
	enum image_state state;
	uint8_t b[REGION_LEN];

	image_region_encode(r, (enum image_state)what, b, REGION_OFF);
	return image_region_decode(b, REGION_OFF, &back, &state);
}

static void senseless_records_are_refused(void **state)
{
	struct image_region r = a_region();
	struct image_head st = { .region_pages = REGION_CAP / 16 + 1 }, back;
	uint8_t b[BLOCK];

	assert_int_equal(senseless(&r, IMAGE_LIVE), 0);
	assert_int_equal(senseless(&r, 0), -EBADMSG);
	assert_int_equal(senseless(&r, IMAGE_DELETING + 1), -EBADMSG);
	r.pages = 0;
	assert_int_equal(senseless(&r, IMAGE_LIVE), -EBADMSG);
	r = a_region();
	r.slab_pages = SLAB_PAGE_MIN / 2;
	assert_int_equal(senseless(&r, IMAGE_LIVE), -EBADMSG);
	r.slab_pages = SLAB_PAGE_MAX * 2;
	assert_int_equal(senseless(&r, IMAGE_LIVE), -EBADMSG);
	r.slab_pages = 4096 + 16;
	assert_int_equal(senseless(&r, IMAGE_LIVE), -EBADMSG);
	r = a_region();
	r.name[0] = 0;
	assert_int_equal(senseless(&r, IMAGE_LIVE), -EBADMSG);
	memset(r.name, 'x', sizeof(r.name));
	assert_int_equal(senseless(&r, IMAGE_LIVE), -EBADMSG);
	image_state_encode(&st, b, STATE_OFF);
	image_state_decode(b, STATE_OFF, &back);
	assert_false(back.valid);
	st.region_pages--;
	st.index_pages = INDEX_CAP / 128;
	image_state_encode(&st, b, STATE_OFF);
	image_state_decode(b, STATE_OFF, &back);
	assert_true(back.valid);
	st.index_pages++;
	image_state_encode(&st, b, STATE_OFF);
	image_state_decode(b, STATE_OFF, &back);
	assert_false(back.valid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_checksum_is_crc32c),
		cmocka_unit_test(fields_lie_where_they_lay),
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(damage_is_found),
		cmocka_unit_test(senseless_records_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
