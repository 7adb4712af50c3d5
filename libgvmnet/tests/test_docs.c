/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that docs/wire.md is true: each table of fields has every field where the encoder puts it
 * and ends where the structure ends; the table of types has every type, with the lengths that the
 * decoder takes; the table of status codes has the errno of each; the frames drawn in it decode.
 * And that the pinned memory that docs/rdma.md promises is what the constants make of it.
 */
#include "providers/rma.h" /* before cmocka.h, which has a macro fail */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "wire/coherence.h"
#include "wire/wire.h"

static char *wire_md, *rdma_md, *coherence_md;

static char *read_doc(const char *path)
{
	FILE *f = fopen(path, "r");
	char *text = calloc(1, 1 << 20);
	size_t len;

	assert_non_null(f);
	len = fread(text, 1, (1 << 20) - 1, f);
	assert_true(len > 1000 && feof(f));
	fclose(f);
	return text;
}

static int read_docs(void **state)
{
	wire_md = read_doc(GVM_DOCS "/wire.md");
	rdma_md = read_doc(GVM_DOCS "/rdma.md");
	coherence_md = read_doc(GVM_DOCS "/coherence.md");
	return 0;
}

static int free_docs(void **state)
{
	free(wire_md);
	free(rdma_md);
	free(coherence_md);
	return 0;
}

/* The n-th cell of a table row, without the spaces around it. */
static char *cell(const char *row, int n, char *out, size_t size)
{
	size_t len;

	while (n-- >= 0 && row)
		row = strchr(row, '|') ? strchr(row, '|') + 1 : NULL;
	assert_non_null(row);
	row += strspn(row, " ");
	len = strcspn(row, "|\n");
	while (len > 0 && row[len - 1] == ' ')
		len--;
	snprintf(out, size, "%.*s", (int)len, row);
	return out;
}

/* The first row of numbers of the table behind a line that begins with heading. */
static const char *table_in(const char *text, const char *heading)
{
	const char *at = strstr(text, heading);

	if (!at)
		fail_msg("there is no \"%s\"", heading);
	at = strstr(at, "\n| ---");
	assert_non_null(at);
	return strchr(at + 1, '\n') + 1;
}

static const char *table_behind(const char *heading)
{
	return table_in(wire_md, heading);
}

static const char *next_row(const char *row)
{
	row = strchr(row, '\n');
	return row && row[1] == '|' ? row + 1 : NULL;
}

/* ---- fields -------------------------------------------------------------------------------- */

/* Where two encodings begin to differ. */
static size_t difference(const uint8_t *a, const uint8_t *b, size_t len)
{
	size_t i = 0;

	while (i < len && a[i] == b[i])
		i++;
	return i;
}

struct field {
	const char *name;
	size_t offset;
};

#define FIELD(what, encode_to, member)                                                             \
	({                                                                                         \
		struct gvm_##what m_;                                                              \
		uint8_t a_[512] = { 0 }, b_[512] = { 0 };                                          \
		memset(&m_, 0, sizeof(m_));                                                        \
		encode_to(a_, &m_);                                                                \
		memset(&m_.member, 'x', sizeof(m_.member));                                        \
		encode_to(b_, &m_);                                                                \
		(struct field){ #member, difference(a_, b_, sizeof(a_)) };                         \
	})

static void check_table(const char *heading, size_t len, const struct field *fields, size_t count)
{
	const char *row = table_behind(heading);
	char number[32], name[64];
	size_t at = 0, i, seen = 0;

	for (; row; row = next_row(row)) {
		assert_int_equal(strtoul(cell(row, 0, number, sizeof(number)), NULL, 10), at);
		cell(row, 2, name, sizeof(name));
		for (i = 0; i < count; i++)
			if (strcmp(fields[i].name, name) == 0) {
				assert_int_equal(fields[i].offset, at);
				seen++;
			}
		at += strtoul(cell(row, 1, number, sizeof(number)), NULL, 10);
	}
	assert_int_equal(at, len);
	assert_int_equal(seen, count);
}
#define CHECK_TABLE(heading, len, ...)                                                             \
	do {                                                                                       \
		const struct field fields_[] = { __VA_ARGS__ };                                    \
		check_table(heading, len, fields_, sizeof(fields_) / sizeof(fields_[0]));          \
	} while (0)

static void fields_are_where_they_are_drawn(void **state)
{
#define F(member) FIELD(hdr, gvm_hdr_encode, member)
	CHECK_TABLE("## 2. The header (48 bytes)", GVM_WIRE_HDR_LEN, F(type), F(flags), F(status),
		    F(credits), F(length), F(epoch), F(xid), F(region), F(page), F(arg));
#undef F
#define F(member) FIELD(hello, gvm_hello_encode, member)
	CHECK_TABLE("### HELLO and CHALLENGE (136 bytes)", GVM_HELLO_LEN, F(magic), F(proto_min),
		    F(proto_max), F(node), F(to_node), F(features), F(credits), F(max_fetch),
		    F(incarnation), F(map_digest), F(nonce), F(cluster));
#undef F
#define F(member) FIELD(mapped, gvm_mapped_encode, member)
	CHECK_TABLE("### MAPPED (32 bytes)", GVM_MAPPED_LEN, F(rkey), F(base), F(len), F(access));
#undef F
#define F(member) FIELD(cell, gvm_cell_encode, member)
	CHECK_TABLE("### The header of a cell (16 bytes)", GVM_CELL_LEN, F(flags), F(credits),
		    F(returned), F(provider));
#undef F
#define F(member) FIELD(ofi_hello, gvm_ofi_hello_encode, member)
	CHECK_TABLE("### Before libfabric: hello (320 bytes)", GVM_OFI_HELLO_LEN, F(magic),
		    F(features), F(nonce), F(provider), F(machine));
#undef F
#define F(member) FIELD(ofi_proof, gvm_ofi_proof_encode, member)
	CHECK_TABLE("### Before libfabric: proof (48 bytes)", GVM_OFI_PROOF_LEN, F(magic),
		    F(status), F(mac));
#undef F
#define F(member) FIELD(ofi_name, gvm_ofi_name_encode, member)
	CHECK_TABLE("### Before libfabric: name (296 bytes)", GVM_OFI_NAME_LEN, F(magic), F(id),
		    F(name_len), F(name), F(mac));
#undef F
#define F(member) FIELD(ofi_end, gvm_ofi_end_encode, member)
	CHECK_TABLE("### The end over libfabric (16 bytes)", GVM_OFI_END_LEN, F(magic), F(cells));
#undef F
#define F(member) FIELD(region_open, gvm_region_open_encode, member)
	CHECK_TABLE("### REGION_OPEN (104 bytes)", GVM_REGION_OPEN_LEN, F(name), F(pages),
		    F(generation), F(share_slabs), F(slab_pages), F(page_size), F(flags),
		    F(linger_ms));
#undef F
#define F(member) FIELD(region_opened, gvm_region_opened_encode, member)
	CHECK_TABLE("### The body of the answer to REGION_OPEN and REGION_CLONE (48 bytes)",
		    GVM_REGION_OPENED_LEN, F(generation), F(pages), F(slabs_used), F(incarnation),
		    F(slab_pages), F(page_size), F(flags));
#undef F
#define F(member) FIELD(region_clone, gvm_region_clone_encode, member)
	CHECK_TABLE("### REGION_CLONE (80 bytes)", GVM_REGION_CLONE_LEN, F(name), F(id), F(flags),
		    F(linger_ms));
#undef F
#define F(member) FIELD(slab_entry, gvm_slab_entry_encode, member)
	CHECK_TABLE("### A slab entry (16 bytes)", GVM_SLAB_ENTRY_LEN, F(slab), F(key));
#undef F
#define F(member) FIELD(page_run, gvm_page_run_encode, member)
	CHECK_TABLE("### A run of pages, in DISCARD (16 bytes)", GVM_PAGE_RUN_LEN, F(page),
		    F(count));
#undef F
#define F(member) FIELD(region_entry, gvm_region_entry_encode, member)
	CHECK_TABLE("### An entry of REGION_LIST (112 bytes)", GVM_REGION_ENTRY_LEN, F(name), F(id),
		    F(pages), F(slabs_used), F(generation), F(holder), F(flags), F(sessions));
#undef F
}

/* ---- types and status ---------------------------------------------------------------------- */

static int takes(unsigned type, uint32_t length)
{
	struct gvm_hdr h = { .type = (uint8_t)type, .length = length, .arg = 1 }, back;
	uint8_t buf[GVM_WIRE_HDR_LEN];

	if (type == GVM_T_REFUSED)
		h.status = GVM_ST_AUTH;
	if (type == GVM_T_FETCHED && length == 0)
		h.flags = GVM_F_ZERO;
	gvm_hdr_encode(buf, &h);
	return gvm_hdr_decode(buf, &back) == 0;
}

/* Those of coherence have a table of their own. */
static unsigned coherence_types(void)
{
	const char *row = table_in(coherence_md, "\n## Messages");
	unsigned type = GVM_COH_FIRST;
	char text[64];

	for (; row; row = next_row(row), type++) {
		assert_int_equal(strtoul(cell(row, 0, text, sizeof(text)), NULL, 10), type);
		assert_string_equal(cell(row, 1, text, sizeof(text)), gvm_wire_type_name(type));
	}
	assert_int_equal(type, GVM_COH_LAST + 1);
	return type - GVM_COH_FIRST;
}

static void types_are_complete(void **state)
{
	const char *row = table_behind("\n## 3. Frame types");
	char text[64], *rest;
	unsigned type, documented = 0, known = 0;

	documented += coherence_types();
	for (; row; row = next_row(row)) {
		uint32_t min, max;

		type = (unsigned)strtoul(cell(row, 0, text, sizeof(text)), NULL, 10);
		documented += strstr(text, "64 to 255") ? 192 : 1;
		assert_string_equal(cell(row, 1, text, sizeof(text)), gvm_wire_type_name(type));
		min = max = (uint32_t)strtoul(cell(row, 3, text, sizeof(text)), &rest, 10);
		if (strncmp(rest, " to ", 4) == 0)
			max = (uint32_t)strtoul(rest + 4, NULL, 10);
		assert_true(takes(type, min) && takes(type, max));
		assert_false(takes(type, max + 1) || takes(type, min - 1));
	}
	for (type = 0; type < 256; type++)
		known += strcmp(gvm_wire_type_name(type), "unknown") != 0;
	assert_int_equal(documented, known);
}

static void status_codes_are_complete(void **state)
{
	const char *row = next_row(table_behind("\n## 4. Status"));
	char text[64];
	unsigned n = 1;

	for (; row; row = next_row(row), n++) {
		assert_int_equal(strtoul(cell(row, 0, text, sizeof(text)), NULL, 10), n);
		assert_string_equal(cell(row, 2, text, sizeof(text)),
				    strerrorname_np(-gvm_wire_errno(n)));
	}
	assert_int_equal(n, GVM_ST_MAX);
}

/* ---- examples ------------------------------------------------------------------------------ */

static void drawn_frames_decode(void **state)
{
	const char *at = wire_md;
	unsigned frames = 0;

	while ((at = strstr(at, "```hex "))) {
		uint8_t buf[GVM_WIRE_HDR_LEN];
		char name[32];
		struct gvm_hdr h;
		size_t i;

		at += 7;
		snprintf(name, sizeof(name), "%.*s", (int)strcspn(at, "\n"), at);
		at = strchr(at, '\n');
		for (i = 0; i < sizeof(buf); i++)
			buf[i] = (uint8_t)strtoul(at, (char **)&at, 16);
		assert_int_equal(strncmp(at, "\n```", 4), 0);
		assert_int_equal(gvm_hdr_decode(buf, &h), 0);
		assert_string_equal(gvm_wire_type_name(h.type), name);
		assert_int_equal(h.xid, 5);
		frames++;
	}
	assert_int_equal(frames, 2);
}

/* ---- pinned memory ------------------------------------------------------------------------- */

/* "1,486,080" */
static uint64_t number(const char *row, int n)
{
	char text[64];
	uint64_t v = 0;

	for (const char *c = cell(row, n, text, sizeof(text)); *c; c++) {
		assert_true(*c == ',' || (*c >= '0' && *c <= '9'));
		v = *c == ',' ? v : v * 10 + (uint64_t)(*c - '0');
	}
	return v;
}

/* What verbs.h, which not every machine can compile, has of it: test_verbs holds it to these. */
#define VERBS_SENDS_KIB  128u /* of soft-RoCE, for the 288 requests of a send queue */
#define VERBS_COPIES_KIB 256u
#define VERBS_ENTRIES    305u /* of a completion queue, for a connection */
#define VERBS_ENTRY      64u  /* bytes, also of a shared receive queue */

static uint64_t kib(uint64_t bytes)
{
	return (bytes + 1023) >> 10;
}

/* Completion queues and shared receive queues are made for 32 connections, 64, and so forth, up to
 * 2,048 at a time (test_verbs_shared holds verbs.c to it). */
static uint64_t shared_queues_kib(uint64_t peers)
{
	uint64_t room = 0, lanes = 0;

	for (uint64_t next = 32; room < peers; next = next < 2048 ? 2 * next : 2048) {
		room += next;
		lanes++;
	}
	return kib((room * (VERBS_ENTRIES + GVM_RMA_FIRST) + lanes * GVM_RMA_LEND) * VERBS_ENTRY);
}

static void pinned_memory_is_what_it_is(void **state)
{
	static const uint64_t peers[] = { 10, 1000, 10240 };
	const char *row = table_in(rdma_md, "### Pinned memory");
	unsigned n = 0;

	for (; row; row = next_row(row), n++) {
		uint64_t recvs = kib(peers[n] * GVM_RMA_FIRST * GVM_RMA_CELL);
		uint64_t lent = kib(GVM_RMA_LEND * GVM_RMA_CELL);
		uint64_t sends = kib(GVM_RMA_SEND_CELLS * GVM_RMA_CELL);
		uint64_t queues = shared_queues_kib(peers[n]);

		assert_int_equal(number(row, 0), peers[n]);
		assert_int_equal(number(row, 1), recvs);
		assert_int_equal(number(row, 2), lent);
		assert_int_equal(number(row, 3), peers[n] * VERBS_SENDS_KIB);
		assert_int_equal(number(row, 4), queues);
		assert_int_equal(number(row, 5), sends);
		assert_int_equal(number(row, 6), VERBS_COPIES_KIB);
		assert_int_equal(number(row, 7), recvs + lent + peers[n] * VERBS_SENDS_KIB +
						     queues + sends + VERBS_COPIES_KIB);
		assert_int_equal(number(row, 8), GVM_RMA_BOUNCE_MAX >> 10);
	}
	assert_int_equal(n, 3);
	assert_int_equal(GVM_RMA_BASE, 2);
	assert_int_equal(GVM_RMA_CELLS, 16);
	assert_int_equal(GVM_RMA_LEND, 126);
	assert_int_equal(GVM_RMA_CELL, GVM_RMA_CELL_HDR + GVM_WIRE_HDR_LEN + GVM_WIRE_PAGE);
	assert_int_equal(GVM_RMA_SHARES, 16384);
	assert_int_equal(GVM_RMA_WORKS + 32, 288);
	assert_int_equal(288 + GVM_RMA_RECVS, VERBS_ENTRIES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fields_are_where_they_are_drawn),
		cmocka_unit_test(types_are_complete),
		cmocka_unit_test(status_codes_are_complete),
		cmocka_unit_test(drawn_frames_decode),
		cmocka_unit_test(pinned_memory_is_what_it_is),
	};

	return cmocka_run_group_tests(tests, read_docs, free_docs);
}
