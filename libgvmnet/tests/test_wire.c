/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that the bytes of every frame and body are the ones that docs/wire.md draws (golden bytes),
 * that what was encoded decodes to the same, that no other length is taken, that single corrupted
 * bytes are either refused or decode to something well formed that encodes back to those bytes,
 * and that the decoders read nothing beyond the length they are given (each buffer is its own
 * allocation, so the address sanitizer watches its ends).
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "wire/coherence.h"
#include "wire/wire.h"

/* ---- the header ---------------------------------------------------------------------------- */

static const uint8_t golden_hdr[GVM_WIRE_HDR_LEN] = {
	0xA7, 63,                                    /* magic, type REPLY */
	0x02, 0x00,                                  /* flags MORE */
	0x05, 0x00,                                  /* status busy */
	0x34, 0x12,                                  /* credits */
	0x00, 0x20, 0x00, 0x00,                      /* length 8,192 */
	0x44, 0x33, 0x22, 0x11,                      /* epoch */
	0x08, 0x07, 0x06, 0x05, 4,    3,    2,    1, /* xid */
	0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0x28, 0x27, 0x26, 0x25,
	0x24, 0x23, 0x22, 0x21, 0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31,
};

static const struct gvm_hdr sample_hdr = {
	.type = GVM_T_REPLY,
	.flags = GVM_F_MORE,
	.status = GVM_ST_BUSY,
	.credits = 0x1234,
	.length = 8192,
	.epoch = 0x11223344,
	.xid = 0x0102030405060708,
	.region = 0x1112131415161718,
	.page = 0x2122232425262728,
	.arg = 0x3132333435363738,
};

static void header_is_golden(void **state)
{
	uint8_t buf[GVM_WIRE_HDR_LEN];
	struct gvm_hdr back;

	gvm_hdr_encode(buf, &sample_hdr);
	assert_memory_equal(buf, golden_hdr, sizeof(buf));
	assert_int_equal(gvm_hdr_decode(buf, &back), 0);
	assert_int_equal(back.type, sample_hdr.type);
	assert_int_equal(back.flags, sample_hdr.flags);
	assert_int_equal(back.status, sample_hdr.status);
	assert_int_equal(back.credits, sample_hdr.credits);
	assert_int_equal(back.length, sample_hdr.length);
	assert_int_equal(back.epoch, sample_hdr.epoch);
	assert_true(back.xid == sample_hdr.xid && back.region == sample_hdr.region);
	assert_true(back.page == sample_hdr.page && back.arg == sample_hdr.arg);
}

static int decode(struct gvm_hdr h)
{
	uint8_t buf[GVM_WIRE_HDR_LEN];
	struct gvm_hdr back;

	gvm_hdr_encode(buf, &h);
	return gvm_hdr_decode(buf, &back);
}

/* The lengths that each type allows, said once more here, apart from the code. */
static const struct {
	uint8_t type;
	uint32_t min, max, unit;
} lengths[] = {
	{ GVM_T_HELLO, 136, 136, 1 },
	{ GVM_T_CHALLENGE, 136, 136, 1 },
	{ GVM_T_PROOF, 32, 32, 1 },
	{ GVM_T_READY, 32, 32, 1 },
	{ GVM_T_PING, 0, 0, 1 },
	{ GVM_T_PONG, 0, 0, 1 },
	{ GVM_T_CREDIT, 0, 0, 1 },
	{ GVM_T_BYE, 0, 0, 1 },
	{ GVM_T_PUT, 1, 1 << 20, 1 },
	{ GVM_T_STORED, 0, 0, 1 },
	{ GVM_T_MAP, 0, 0, 1 },
	{ GVM_T_MAPPED, 32, 32, 1 },
	{ GVM_T_UNMAP, 0, 0, 1 },
	{ GVM_T_UNMAPPED, 0, 0, 1 },
	{ GVM_T_REGION_OPEN, 104, 104, 1 },
	{ GVM_T_REGION_CLOSE, 0, 0, 1 },
	{ GVM_T_REGION_DELETE, 0, 0, 1 },
	{ GVM_T_REGION_RESIZE, 0, 0, 1 },
	{ GVM_T_REGION_CLONE, 80, 80, 1 },
	{ GVM_T_SLAB_GRANT, 0, 0, 1 },
	{ GVM_T_SLAB_LIST, 0, 0, 1 },
	{ GVM_T_DISCARD, 16, 8192, 16 },
	{ GVM_T_REGION_LIST, 0, 0, 1 },
	{ GVM_T_NODE_STAT, 0, 0, 1 },
	{ GVM_T_REPLY, 0, 8192, 1 },
	{ GVM_T_USER, 0, 8192, 1 },
	{ 255, 0, 8192, 1 },
};

static void each_type_has_its_lengths(void **state)
{
	static const uint32_t tries[] = {
		0,          1,          2,         15,   16,   17,      31,
		32,         33,         48,        79,   80,   81,      103,
		104,        105,        135,       136,  137,  256,     257,
		4096,       8191,       8192,      8193, 8208, 1 << 20, (1 << 20) + 1,
		0x7fffffff, 0x80000000, 0xffffffff
	};
	size_t i, j;

	for (i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
		for (j = 0; j < sizeof(tries) / sizeof(tries[0]); j++) {
			struct gvm_hdr h = { .type = lengths[i].type, .length = tries[j] };
			int legal = tries[j] >= lengths[i].min && tries[j] <= lengths[i].max &&
				    tries[j] % lengths[i].unit == 0;

			assert_int_equal(decode(h), legal ? 0 : -GVM_EPROTO);
		}
}

static void unknown_types_are_refused(void **state)
{
	unsigned type, known = 0;

	for (type = 0; type < 256; type++) {
		int named = strcmp(gvm_wire_type_name(type), "unknown") != 0;

		known += named;
		if (!named)
			assert_int_equal(decode((struct gvm_hdr){ .type = type }), -GVM_EPROTO);
	}
	assert_int_equal(known, 9 + 8 + 10 + 20 + 1 + 192);
	assert_string_equal(gvm_wire_type_name(GVM_T_FETCH), "FETCH");
	assert_string_equal(gvm_wire_type_name(GVM_COH_ACK), "ACK");
	assert_string_equal(gvm_wire_type_name(256), "unknown");
	assert_string_equal(gvm_wire_type_name(~0u), "unknown");
}

static void header_rules(void **state)
{
	uint8_t buf[GVM_WIRE_HDR_LEN];
	struct gvm_hdr back = { .xid = 77 };

	memcpy(buf, golden_hdr, sizeof(buf));
	buf[0] ^= 1;
	assert_int_equal(gvm_hdr_decode(buf, &back), -GVM_EPROTO);
	assert_int_equal(back.xid, 77); /* outputs are set only on success */

#define OK(...)  assert_int_equal(decode((struct gvm_hdr){ __VA_ARGS__ }), 0)
#define BAD(...) assert_int_equal(decode((struct gvm_hdr){ __VA_ARGS__ }), -GVM_EPROTO)
	/* the rules of coherence: wire/coherence.c, which test_ivy shows */
	OK(.type = GVM_COH_READ, .xid = 1);
	BAD(.type = GVM_COH_READ, .arg = 1);
	BAD(.type = GVM_COH_READ, .length = 1);
	OK(.type = GVM_COH_DATA, .length = 4096);
	BAD(.type = GVM_COH_DATA, .length = 4095);
	BAD(.type = GVM_COH_DATA);
	OK(.type = GVM_COH_INV, .length = GVM_SET_MAX);
	BAD(.type = GVM_COH_INV, .length = GVM_SET_MAX + 1);
	OK(.type = GVM_COH_REPORT, .xid = GVM_REPORT_LAST, .length = 2 * GVM_HELD_LEN);
	BAD(.type = GVM_COH_REPORT, .length = GVM_HELD_LEN + 1);
	BAD(.type = GVM_COH_REPORT, .length = (GVM_REPORT_MAX + 1) * GVM_HELD_LEN);
	BAD(.type = GVM_COH_REPORT, .xid = GVM_REPORT_TAKEN, .length = GVM_HELD_LEN);
	BAD(.type = GVM_COH_REPORT, .xid = GVM_REPORT_SETTLED + 1);
	BAD(.type = GVM_COH_FIRST - 1);
	BAD(.type = GVM_COH_READY, .arg = 1);
	OK(.type = GVM_COH_READ, .xid = 1, .length = 8);
	OK(.type = GVM_COH_DATA, .flags = GVM_F_DELTA, .length = 16);
	BAD(.type = GVM_COH_DATA, .flags = GVM_F_DELTA, .length = 15);
	BAD(.type = GVM_COH_DATA, .flags = GVM_F_DELTA, .length = 4096);
	BAD(.type = GVM_COH_DATA, .flags = GVM_F_DELTA | GVM_F_SAME, .length = 20);
	BAD(.type = GVM_COH_INV, .flags = GVM_F_DELTA, .length = 20);
	OK(.type = GVM_COH_INV, .flags = GVM_F_ACKS, .arg = 9, .length = 5);
	OK(.type = GVM_COH_INV, .flags = GVM_F_ACKS, .arg = 9, .length = 6);
	BAD(.type = GVM_COH_INV, .flags = GVM_F_ACKS, .arg = 9, .length = 4);
	BAD(.type = GVM_COH_INV, .flags = GVM_F_ACKS, .arg = 9, .length = 7);
	BAD(.type = GVM_COH_INV, .flags = GVM_F_ACKS, .arg = GVM_COH_ANY_VERSION, .length = 6);
	OK(.type = GVM_COH_GRANT, .flags = GVM_F_ACKS | GVM_F_WAIT, .arg = 9, .length = 36);
	OK(.type = GVM_COH_GRANT, .flags = GVM_F_ACKS | GVM_F_SAME, .arg = 9, .length = 6);
	BAD(.type = GVM_COH_GRANT, .flags = GVM_F_ACKS | GVM_F_WAIT, .arg = 9, .length = 37);
	BAD(.type = GVM_COH_GRANT, .flags = GVM_F_ACKS | GVM_F_WAIT, .arg = 9);
	BAD(.type = GVM_COH_GRANT, .flags = GVM_F_ACKS, .arg = 9, .length = 6);
	BAD(.type = GVM_COH_GRANT, .flags = GVM_F_ACKS | GVM_F_ZERO, .arg = 9, .length = 6);
	BAD(.type = GVM_COH_DATA, .flags = GVM_F_ACKS | GVM_F_SAME, .arg = 9, .length = 6);
	BAD(.type = GVM_COH_READ, .flags = GVM_F_ACKS, .length = 6);
	OK(.type = GVM_COH_ACK, .xid = 7);
	OK(.type = GVM_COH_ACK, .arg = 9);
	BAD(.type = GVM_COH_ACK, .xid = 7, .arg = 9);
	BAD(.type = GVM_COH_ACK, .arg = 9, .length = 6);
	BAD(.type = GVM_COH_ACK, .arg = GVM_COH_ANY_VERSION);
	OK(.type = GVM_T_FETCH, .arg = 1);
	OK(.type = GVM_T_FETCH, .arg = 1 << 20);
	BAD(.type = GVM_T_FETCH);
	BAD(.type = GVM_T_FETCH, .arg = (1 << 20) + 1);
	BAD(.type = GVM_T_FETCH, .arg = UINT64_MAX);
	BAD(.type = GVM_T_FETCH, .arg = 1, .length = 1);
	OK(.type = GVM_T_FETCHED, .length = 1 << 20);
	OK(.type = GVM_T_FETCHED, .flags = GVM_F_ZERO);
	OK(.type = GVM_T_FETCHED, .status = GVM_ST_NOENT);
	BAD(.type = GVM_T_FETCHED);
	BAD(.type = GVM_T_FETCHED, .length = (1 << 20) + 1);
	BAD(.type = GVM_T_FETCHED, .flags = GVM_F_ZERO, .length = 1);
	BAD(.type = GVM_T_FETCHED, .flags = GVM_F_MORE, .length = 1);
	BAD(.type = GVM_T_FETCHED, .status = GVM_ST_NOENT, .length = 1);
	BAD(.type = GVM_T_FETCHED, .status = GVM_ST_NOENT, .flags = GVM_F_ZERO);
	BAD(.type = GVM_T_PUT, .length = 4096, .flags = GVM_F_ZERO);
	BAD(.type = GVM_T_PUT, .length = 4096, .status = GVM_ST_BUSY);
	OK(.type = GVM_T_STORED, .status = GVM_ST_LIMIT);
	OK(.type = GVM_T_MAPPED, .status = GVM_ST_NOTSUP);
	BAD(.type = GVM_T_MAPPED, .status = GVM_ST_NOTSUP, .length = GVM_MAPPED_LEN);
	BAD(.type = GVM_T_MAPPED);
	BAD(.type = GVM_T_STORED, .status = GVM_ST_MAX);
	BAD(.type = GVM_T_STORED, .status = 0xffff);
	BAD(.type = GVM_T_REFUSED);
	OK(.type = GVM_T_REFUSED, .status = GVM_ST_AUTH, .length = 256);
	BAD(.type = GVM_T_REFUSED, .status = GVM_ST_AUTH, .length = 257);
	BAD(.type = GVM_T_PING, .status = GVM_ST_IO);
	BAD(.type = GVM_T_PING, .flags = GVM_F_ZERO);
	OK(.type = GVM_T_REPLY, .flags = GVM_F_MORE);
	BAD(.type = GVM_T_REPLY, .flags = GVM_F_ZERO);
	BAD(.type = GVM_T_REPLY, .flags = 4);
	BAD(.type = GVM_T_REPLY, .flags = 0x8000);
	OK(.type = 200, .flags = GVM_F_ALL, .status = GVM_ST_IO, .length = 8192);
	BAD(.type = 200, .flags = 4);
#undef OK
#undef BAD
}

/* A changed byte gives a refusal, or a header that encodes back to the same bytes. */
static void corrupted_headers(void **state)
{
	unsigned type, at, value;
	uint8_t buf[GVM_WIRE_HDR_LEN], again[GVM_WIRE_HDR_LEN];
	struct gvm_hdr back;

	for (type = 0; type < 256; type++)
		for (at = 0; at < GVM_WIRE_HDR_LEN; at++)
			for (value = 0; value < 256; value++) {
				memcpy(buf, golden_hdr, sizeof(buf));
				buf[1] = (uint8_t)type;
				buf[at] = (uint8_t)value;
				if (gvm_hdr_decode(buf, &back) < 0)
					continue;
				gvm_hdr_encode(again, &back);
				assert_memory_equal(again, buf, sizeof(buf));
			}
}

/* ---- bodies -------------------------------------------------------------------------------- */

/* One body: its decoded sample, its bytes, and its functions behind one signature. */
struct body {
	const char *name;
	size_t len;
	const void *sample;
	size_t size; /* of the structure */
	size_t (*encode)(uint8_t *buf, const void *m);
	int (*decode)(const uint8_t *buf, size_t len, void *m);
	const char *golden; /* hexadecimal, with spaces */
};

#define ADAPT(what)                                                                                \
	static size_t what##_enc(uint8_t *buf, const void *m)                                      \
	{                                                                                          \
		return gvm_##what##_encode(buf, m);                                                \
	}                                                                                          \
	static int what##_dec(const uint8_t *buf, size_t len, void *m)                             \
	{                                                                                          \
		return gvm_##what##_decode(buf, len, m);                                           \
	}
ADAPT(hello)
ADAPT(mapped)
ADAPT(cell)
ADAPT(ofi_hello)
ADAPT(ofi_proof)
ADAPT(ofi_name)
ADAPT(ofi_end)
ADAPT(region_open)
ADAPT(region_opened)
ADAPT(region_clone)
ADAPT(slab_entry)
ADAPT(page_run)
ADAPT(region_entry)

static const struct gvm_hello hello = {
	.magic = GVM_HELLO_MAGIC,
	.proto_min = 1,
	.proto_max = 0x0203,
	.node = 10239,
	.to_node = GVM_WIRE_NODE_NONE,
	.features = 0xa1a2a3a4,
	.credits = 0xb1b2,
	.max_fetch = 0xc1c2,
	.incarnation = 0xd1d2d3d4d5d6d7d8,
	.map_digest = 0xe1e2e3e4e5e6e7e8,
	.nonce = { 0x01, 0x02, [31] = 0xff },
	.cluster = "lab-1",
};
static const struct gvm_mapped mapped = {
	.rkey = 0x3132333435363738,
	.base = 0x0000414243444546,
	.len = 0x0000000001000000,
	.access = 3,
};
static const struct gvm_cell cell = { .flags = GVM_CELL_RECALL,
				      .credits = 0x0110,
				      .returned = 0x0203,
				      .provider = 0x2122232425262728 };
static const struct gvm_ofi_hello ofi_hello = {
	.magic = GVM_OFI_HELLO_MAGIC,
	.features = 0xa1a2a3a4,
	.nonce = { 0xb1, [31] = 0xb2 },
	.provider = "tcp;ofi_rxm",
	.machine = { 1, 2, [15] = 9 },
};
static const struct gvm_ofi_proof ofi_proof = {
	.magic = GVM_OFI_PROOF_MAGIC,
	.status = GVM_ST_AUTH,
	.mac = { 0xb1, [31] = 0xb2 },
};
static const struct gvm_ofi_name ofi_name = {
	.magic = GVM_OFI_NAME_MAGIC,
	.id = 0xa1a2a3a4a5a6a7a8,
	.name_len = 240,
	.name = { 0xb1, [239] = 0xb2 },
	.mac = { 0xc1, [31] = 0xc2 },
};
static const struct gvm_ofi_end ofi_end = { GVM_OFI_END_MAGIC, 0xc1c2 };
static const struct gvm_region_open region_open = {
	.name = "vm.ram_0",
	.pages = 0x0001020304050607,
	.generation = 0x1112131415161718,
	.share_slabs = 0x0000000000212223,
	.slab_pages = 4096,
	.page_size = 4096,
	.flags = GVM_RO_ALL,
	.linger_ms = 0x00007530,
};
static const struct gvm_region_opened region_opened = {
	.generation = 0x1112131415161718,
	.pages = 0x0001020304050607,
	.slabs_used = 0x0000000000313233,
	.incarnation = 0x4142434445464748,
	.slab_pages = 4096,
	.page_size = 4096,
	.flags = GVM_RO_CREATE,
};
static const struct gvm_region_clone region_clone = {
	.name = "child",
	.id = 0x5152535455565758,
	.flags = GVM_RO_EPHEMERAL,
	.linger_ms = 0x61626364,
};
static const struct gvm_slab_entry slab_entry = { GVM_SLAB_READONLY | 0x0203, 0x7172737475767778 };
static const struct gvm_page_run page_run = { 0x0102, UINT64_MAX - 0x0102 };
static const struct gvm_region_entry region_entry = {
	.name = "a",
	.id = 0x8182838485868788,
	.pages = 0x0001020304050607,
	.slabs_used = 0x0000000000313233,
	.generation = 0x1112131415161718,
	.holder = 0x9192939495969798,
	.flags = GVM_RO_EPHEMERAL,
	.sessions = 4,
};

#define Z8 "00 00 00 00 00 00 00 00 "
#define BODY(what, LEN)                                                                            \
	.name = #what, .len = LEN, .sample = &what, .size = sizeof(what), .encode = what##_enc,    \
	.decode = what##_dec
static const struct body bodies[] = {
	{ BODY(hello, GVM_HELLO_LEN),
	  .golden = "5f 5f 47 56 4d 4e 54 31 "       /* __GVMNT1 */
		    "01 00 03 02 ff 27 ff ff "       /* versions, node, to_node */
		    "a4 a3 a2 a1 b2 b1 c2 c1 "       /* features, credits, max_fetch */
		    "d8 d7 d6 d5 d4 d3 d2 d1 "       /* incarnation */
		    "e8 e7 e6 e5 e4 e3 e2 e1 "       /* digest */
		    "01 02 00 00 00 00 00 00 " Z8 Z8 /* nonce */
		    "00 00 00 00 00 00 00 ff "
		    "6c 61 62 2d 31 00 00 00 " Z8 Z8 Z8 Z8 Z8 Z8 Z8 },
	{ BODY(mapped, GVM_MAPPED_LEN), .golden =
					    "38 37 36 35 34 33 32 31 46 45 44 43 42 41 00 00 "
					    "00 00 00 01 00 00 00 00 03 00 00 00 00 00 00 00 " },
	{ BODY(cell, GVM_CELL_LEN), .golden = "a8 01 10 01 03 02 00 00 28 27 26 25 24 23 22 21 " },
	{ BODY(ofi_hello, GVM_OFI_HELLO_LEN),
	  .golden = "11 47 56 4d 4f 46 49 34 a4 a3 a2 a1 00 00 00 00 "          /* features */
		    "b1 00 00 00 00 00 00 00 " Z8 Z8 "00 00 00 00 00 00 00 b2 " /* nonce */
		    "74 63 70 3b 6f 66 69 5f 72 78 6d 00 00 00 00 00 " Z8 Z8 Z8
		    "01 02 00 00 00 00 00 00 00 00 00 00 00 00 00 09 " /* machine */
	  Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 },
	{ BODY(ofi_proof, GVM_OFI_PROOF_LEN),
	  .golden = "11 47 56 4d 4f 46 49 50 02 00 00 00 00 00 00 00 " /* status */
		    "b1 00 00 00 00 00 00 00 " Z8 Z8 "00 00 00 00 00 00 00 b2 " },
	{ BODY(ofi_name, GVM_OFI_NAME_LEN),
	  .golden = "11 47 56 4d 4f 46 49 4e a8 a7 a6 a5 a4 a3 a2 a1 " /* id */
		    "f0 00 00 00 00 00 00 00 "                         /* name_len */
		    "b1 00 00 00 00 00 00 00 " Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 /* name */
			Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 Z8 "00 00 00 00 00 00 00 b2 "
		    "c1 00 00 00 00 00 00 00 " Z8 Z8 "00 00 00 00 00 00 00 c2 " },
	{ BODY(ofi_end, GVM_OFI_END_LEN),
	  .golden = "11 47 56 4d 4f 46 49 32 c2 c1 00 00 00 00 00 00 " },
	{ BODY(region_open, GVM_REGION_OPEN_LEN),
	  .golden =
	      "76 6d 2e 72 61 6d 5f 30 " Z8 Z8 Z8 Z8 Z8 Z8 Z8 "07 06 05 04 03 02 01 00 " /* pages */
	      "18 17 16 15 14 13 12 11 " /* generation */
	      "23 22 21 00 00 00 00 00 " /* share */
	      "00 10 00 00 00 10 00 00 " /* slab_pages, page_size */
	      "1f 00 00 00 30 75 00 00 " /* flags, linger */ },
	{ BODY(region_opened, GVM_REGION_OPENED_LEN),
	  .golden = "18 17 16 15 14 13 12 11 07 06 05 04 03 02 01 00 "
		    "33 32 31 00 00 00 00 00 48 47 46 45 44 43 42 41 "
		    "00 10 00 00 00 10 00 00 01 00 00 00 00 00 00 00 " },
	{ BODY(region_clone, GVM_REGION_CLONE_LEN),
	  .golden = "63 68 69 6c 64 00 00 00 " Z8 Z8 Z8 Z8 Z8 Z8 Z8
		    "58 57 56 55 54 53 52 51 04 00 00 00 64 63 62 61 " },
	{ BODY(slab_entry, GVM_SLAB_ENTRY_LEN),
	  .golden = "03 02 00 00 00 00 00 80 78 77 76 75 74 73 72 71 " },
	{ BODY(page_run, GVM_PAGE_RUN_LEN),
	  .golden = "02 01 00 00 00 00 00 00 fd fe ff ff ff ff ff ff " },
	{ BODY(region_entry, GVM_REGION_ENTRY_LEN),
	  .golden = "61 00 00 00 00 00 00 00 " Z8 Z8 Z8 Z8 Z8 Z8 Z8
		    "88 87 86 85 84 83 82 81 07 06 05 04 03 02 01 00 "
		    "33 32 31 00 00 00 00 00 18 17 16 15 14 13 12 11 "
		    "98 97 96 95 94 93 92 91 04 00 00 00 04 00 00 00 " },
};
#define BODIES (sizeof(bodies) / sizeof(bodies[0]))

static size_t unhex(const char *text, uint8_t *out)
{
	size_t n = 0;
	char *end;

	for (;; n++) {
		unsigned long v = strtoul(text, &end, 16);

		if (end == text)
			return n;
		out[n] = (uint8_t)v;
		text = end;
	}
}

static void *copy_of(const uint8_t *bytes, size_t len)
{
	void *copy = malloc(len ? len : 1);

	assert_non_null(copy);
	memcpy(copy, bytes, len);
	return copy;
}

static void bodies_are_golden(void **state)
{
	uint8_t buf[512], golden[512], back[512];
	size_t i;

	for (i = 0; i < BODIES; i++) {
		const struct body *b = &bodies[i];

		memset(buf, 0xee, sizeof(buf));
		assert_int_equal(unhex(b->golden, golden), b->len);
		assert_int_equal(b->encode(buf, b->sample), b->len);
		assert_memory_equal(buf, golden, b->len);
		assert_int_equal(buf[b->len], 0xee);
		memset(back, 0, sizeof(back));
		assert_int_equal(b->decode(buf, b->len, back), 0);
		assert_int_equal(b->encode(buf, back), b->len);
		assert_memory_equal(buf, golden, b->len);
		/* Their members leave no holes, so the structures compare as bytes. */
		if (b->decode != hello_dec)
			assert_memory_equal(back, b->sample, b->size);
	}
}

static void other_lengths_are_refused(void **state)
{
	uint8_t golden[512] = { 0 }, back[512];
	size_t i, len;

	for (i = 0; i < BODIES; i++) {
		unhex(bodies[i].golden, golden);
		for (len = 0; len <= bodies[i].len + 8; len++) {
			uint8_t *buf = copy_of(golden, len);
			int want = len == bodies[i].len ? 0 : -GVM_EPROTO;

			assert_int_equal(bodies[i].decode(buf, len, back), want);
			free(buf);
		}
	}
}

static void corrupted_bodies(void **state)
{
	uint8_t golden[512], again[512], back[512];
	size_t i, at;
	unsigned value;

	for (i = 0; i < BODIES; i++) {
		const struct body *b = &bodies[i];
		uint8_t *buf;

		unhex(b->golden, golden);
		buf = copy_of(golden, b->len);
		for (at = 0; at < b->len; at++) {
			for (value = 0; value < 256; value++) {
				buf[at] = (uint8_t)value;
				if (b->decode(buf, b->len, back) < 0)
					continue;
				b->encode(again, back);
				assert_memory_equal(again, buf, b->len);
			}
			buf[at] = golden[at];
		}
		free(buf);
	}
}

/* Change one member of a sample, encode, decode: is it taken? */
#define TAKES(what, member, value)                                                                 \
	({                                                                                         \
		struct gvm_##what m_ = what, back_;                                                \
		uint8_t buf_[512];                                                                 \
		size_t len_;                                                                       \
		m_.member = (value);                                                               \
		len_ = gvm_##what##_encode(buf_, &m_);                                             \
		gvm_##what##_decode(buf_, len_, &back_);                                           \
	})

static void body_rules(void **state)
{
	struct gvm_region_open as_it_is = region_open, back;
	uint8_t buf[512];

	assert_int_equal(TAKES(hello, magic, GVM_HELLO_MAGIC + 1), -GVM_EPROTO);
	assert_int_equal(TAKES(hello, proto_min, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(hello, proto_max, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(hello, node, 0), 0);
	assert_int_equal(TAKES(hello, node, 10240), -GVM_EPROTO);
	assert_int_equal(TAKES(hello, node, 0xfffe), -GVM_EPROTO);
	assert_int_equal(TAKES(hello, to_node, 10240), -GVM_EPROTO);
	assert_int_equal(TAKES(hello, incarnation, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(hello, map_digest, 0), 0);
	assert_int_equal(TAKES(hello, cluster[0], 0), 0); /* a node without a map */
	assert_int_equal(TAKES(hello, cluster[2], '/'), -GVM_EPROTO);

	assert_int_equal(TAKES(region_open, page_size, 4097), -GVM_EPROTO);
	assert_int_equal(TAKES(region_open, page_size, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(region_open, slab_pages, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(region_open, slab_pages, 3), -GVM_EPROTO);
	assert_int_equal(TAKES(region_open, flags, 0x20), -GVM_EPROTO);
	assert_int_equal(TAKES(region_open, pages, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(region_open, pages, UINT64_MAX / 4096), 0);
	assert_int_equal(TAKES(region_open, pages, UINT64_MAX / 4096 + 1), -GVM_EPROTO);
	assert_int_equal(TAKES(region_open, share_slabs, region_open.pages / 4096 + 1), 0);
	assert_int_equal(TAKES(region_open, share_slabs, region_open.pages / 4096 + 2),
			 -GVM_EPROTO);
	as_it_is.pages = 0;
	as_it_is.flags = GVM_RO_READONLY;
	gvm_region_open_encode(buf, &as_it_is);
	assert_int_equal(gvm_region_open_decode(buf, GVM_REGION_OPEN_LEN, &back), 0);

	assert_int_equal(TAKES(region_opened, generation, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(region_opened, incarnation, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(region_opened, pages, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(region_opened, slabs_used, UINT64_MAX), -GVM_EPROTO);
	assert_int_equal(TAKES(region_opened, flags, 0x20), -GVM_EPROTO);
	gvm_region_opened_encode(buf, &region_opened);
	buf[44] = 1; /* reserved */
	assert_int_equal(gvm_region_opened_decode(buf, GVM_REGION_OPENED_LEN, (void *)&back),
			 -GVM_EPROTO);

	assert_int_equal(TAKES(region_clone, flags, GVM_RO_CREATE), -GVM_EPROTO);
	assert_int_equal(TAKES(region_clone, name[0], 0), -GVM_EPROTO);
	assert_int_equal(TAKES(mapped, len, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(mapped, base, UINT64_MAX - 0x1000000), 0);
	assert_int_equal(TAKES(mapped, base, UINT64_MAX - 0xffffff), -GVM_EPROTO);
	assert_int_equal(TAKES(mapped, access, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(mapped, access, 4), -GVM_EPROTO);
	assert_int_equal(TAKES(slab_entry, key, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(page_run, count, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(page_run, page, 0x0103), -GVM_EPROTO);
	assert_int_equal(TAKES(region_entry, pages, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(region_entry, generation, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(region_entry, flags, GVM_RO_CREATE), -GVM_EPROTO);
}

static void fabric_rules(void **state)
{
	struct gvm_ofi_hello back;
	uint8_t buf[GVM_OFI_HELLO_LEN];

	assert_int_equal(TAKES(ofi_hello, magic, 0x3349464f4d564711ull), -GVM_EPROTO);
	gvm_ofi_hello_encode(buf, &ofi_hello);
	buf[GVM_OFI_HELLO_LEN - 1] = 1; /* zeros */
	assert_int_equal(ofi_hello_dec(buf, GVM_OFI_HELLO_LEN, &back), -GVM_EPROTO);
	assert_int_equal(TAKES(ofi_proof, magic, GVM_OFI_HELLO_MAGIC), -GVM_EPROTO);
	assert_int_equal(TAKES(ofi_proof, status, 0), 0);
	assert_int_equal(TAKES(ofi_proof, status, GVM_ST_PROTO), -GVM_EPROTO);
	assert_int_equal(TAKES(ofi_name, magic, GVM_OFI_PROOF_MAGIC), -GVM_EPROTO);
	assert_int_equal(TAKES(ofi_name, id, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(ofi_name, name_len, 0), -GVM_EPROTO);
	assert_int_equal(TAKES(ofi_name, name_len, 239), -GVM_EPROTO); /* not zero-padded */
	assert_int_equal(TAKES(ofi_name, name_len, 241), -GVM_EPROTO);
	assert_int_equal(TAKES(ofi_hello, provider[39], 'x'), -GVM_EPROTO);
	assert_int_equal(TAKES(ofi_hello, provider[0], '\033'), -GVM_EPROTO);
	assert_int_equal(TAKES(ofi_hello, provider[0], 0), -GVM_EPROTO);
}

static void names(void **state)
{
	char name[GVM_WIRE_NAME_MAX + 1] = "";
	int c;

	assert_false(gvm_wire_name_ok(name));
	memset(name, 'x', sizeof(name));
	assert_false(gvm_wire_name_ok(name)); /* no terminator */
	name[GVM_WIRE_NAME_MAX] = 0;
	assert_true(gvm_wire_name_ok(name));
	memset(name, 0, sizeof(name));
	memcpy(name, "a\0b", 3); /* something behind the terminator */
	assert_false(gvm_wire_name_ok(name));
	memset(name, 0, sizeof(name));
	for (c = 1; c < 256; c++) {
		name[0] = (char)c;
		assert_int_equal(gvm_wire_name_ok(name),
				 strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
					"0123456789._-",
					c) != NULL);
	}
}

/* Bytes behind the terminator of a caller's buffer must not reach the wire. */
static void name_padding_is_cleared(void **state)
{
	struct gvm_region_clone dirty = region_clone, back;
	uint8_t buf[GVM_REGION_CLONE_LEN];

	memset(dirty.name, 's', sizeof(dirty.name));
	memcpy(dirty.name, "child", 6);
	gvm_region_clone_encode(buf, &dirty);
	assert_int_equal(gvm_region_clone_decode(buf, sizeof(buf), &back), 0);
	assert_memory_equal(&back, &region_clone, sizeof(back));
}

static void status_table(void **state)
{
	static const int errs[GVM_ST_MAX] = {
		0,         EPROTO, EACCES, EPROTONOSUPPORT, EXDEV,  EBUSY,  ENOENT,
		EEXIST,    ERANGE, EPERM,  ENOSPC,          ENOMEM, EINVAL, EOPNOTSUPP,
		ESHUTDOWN, EIO,    ESTALE, EUSERS,
	};
	unsigned i;

	for (i = 0; i < GVM_ST_MAX; i++) {
		assert_int_equal(gvm_wire_errno(i), -errs[i]);
		assert_int_equal(gvm_wire_status(-errs[i]), i);
		assert_int_equal(gvm_wire_status(errs[i]), i);
		assert_string_not_equal(gvm_wire_status_name(i), "unknown");
	}
	assert_int_equal(gvm_wire_errno(GVM_ST_MAX), -EPROTO);
	assert_int_equal(gvm_wire_errno(~0u), -EPROTO);
	assert_int_equal(gvm_wire_status(-ETIMEDOUT), GVM_ST_IO);
	assert_int_equal(gvm_wire_status(INT32_MIN), GVM_ST_IO);
	assert_string_equal(gvm_wire_status_name(GVM_ST_MAX), "unknown");
}

/* A body that is none, or of a later version, says nothing; it is no reason to end a connection. */
static void what_is_full(void **state)
{
	uint8_t buf[GVM_FULL_LEN + 1] = { 0 };

	for (int full = GVM_FULL_UNKNOWN; full <= GVM_FULL_DISK; full++) {
		assert_int_equal(gvm_full_encode(buf, (enum gvm_full)full), GVM_FULL_LEN);
		assert_int_equal(buf[0], full);
		assert_int_equal(gvm_full_decode(buf, GVM_FULL_LEN), full);
	}
	assert_int_equal(gvm_full_decode(NULL, 0), GVM_FULL_UNKNOWN);
	assert_int_equal(gvm_full_decode(buf, GVM_FULL_LEN - 1), GVM_FULL_UNKNOWN);
	assert_int_equal(gvm_full_decode(buf, GVM_FULL_LEN + 1), GVM_FULL_UNKNOWN);
	buf[0] = GVM_FULL_DISK + 1;
	assert_int_equal(gvm_full_decode(buf, GVM_FULL_LEN), GVM_FULL_UNKNOWN);
	buf[0] = GVM_FULL_DISK;
	buf[3] = 1;
	assert_int_equal(gvm_full_decode(buf, GVM_FULL_LEN), GVM_FULL_UNKNOWN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(header_is_golden),
		cmocka_unit_test(each_type_has_its_lengths),
		cmocka_unit_test(unknown_types_are_refused),
		cmocka_unit_test(header_rules),
		cmocka_unit_test(corrupted_headers),
		cmocka_unit_test(bodies_are_golden),
		cmocka_unit_test(other_lengths_are_refused),
		cmocka_unit_test(corrupted_bodies),
		cmocka_unit_test(body_rules),
		cmocka_unit_test(fabric_rules),
		cmocka_unit_test(names),
		cmocka_unit_test(name_padding_is_cleared),
		cmocka_unit_test(status_table),
		cmocka_unit_test(what_is_full),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
