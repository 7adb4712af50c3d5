/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Types, checks and the set of nodes of wire/coherence.h. Pure functions of their arguments.
 */
#include "wire/coherence.h"
#include "wire/delta.h"

enum { SET_IDS = 1, SET_BITS = 2, SET_HEAD = 4 };

/* What a type may have. */
enum {
	HAS_PAGE = 1,     /* a page, or a delta, or ZERO in its place */
	HAS_SAME = 2,     /* or SAME in its place */
	HAS_WAIT = 4,     /* or WAIT in its place */
	HAS_SET = 8,      /* a set of nodes, or nothing */
	HAS_NOENT = 16,   /* status NOENT, and then nothing else */
	HAS_STATUS = 32,  /* a status other than 0 */
	HAS_VERSION = 64, /* in arg */
	HAS_TO = 128,     /* in arg, a requester */
	HAS_STRICT = 256, /* in arg, 0 or 1 */
	HAS_BASE = 512,   /* a digest, or nothing */
	HAS_HELD = 1024,  /* a report, by what it is */
};

static const struct {
	const char *name;
	unsigned has;
} types[] = {
	[GVM_COH_REPORT - GVM_COH_FIRST] = { "REPORT", HAS_HELD | HAS_VERSION },
	[GVM_COH_READ - GVM_COH_FIRST] = { "READ", HAS_BASE },
	[GVM_COH_WRITE - GVM_COH_FIRST] = { "WRITE", HAS_VERSION | HAS_BASE },
	[GVM_COH_DATA - GVM_COH_FIRST] = { "DATA", HAS_PAGE | HAS_SAME | HAS_VERSION },
	[GVM_COH_GRANT - GVM_COH_FIRST] = { "GRANT", HAS_PAGE | HAS_SAME | HAS_WAIT | HAS_VERSION },
	[GVM_COH_NAK - GVM_COH_FIRST] = { "NAK", HAS_STATUS },
	[GVM_COH_DONE - GVM_COH_FIRST] = { "DONE", HAS_NOENT | HAS_VERSION },
	[GVM_COH_ASK - GVM_COH_FIRST] = { "ASK", 0 },
	[GVM_COH_FWD_READ - GVM_COH_FIRST] = { "FWD_READ", HAS_TO | HAS_BASE },
	[GVM_COH_FWD_WRITE - GVM_COH_FIRST] = { "FWD_WRITE", HAS_TO | HAS_SAME | HAS_BASE },
	[GVM_COH_FREE - GVM_COH_FIRST] = { "FREE", 0 },
	[GVM_COH_STILL - GVM_COH_FIRST] = { "STILL", 0 },
	[GVM_COH_RECALL - GVM_COH_FIRST] = { "RECALL", HAS_STRICT },
	[GVM_COH_BACK - GVM_COH_FIRST] = { "BACK", HAS_PAGE | HAS_NOENT | HAS_VERSION },
	[GVM_COH_WB - GVM_COH_FIRST] = { "WB", HAS_PAGE | HAS_VERSION },
	[GVM_COH_WB_OK - GVM_COH_FIRST] = { "WB_OK", 0 },
	[GVM_COH_DROP - GVM_COH_FIRST] = { "DROP", HAS_VERSION },
	[GVM_COH_INV - GVM_COH_FIRST] = { "INV", HAS_SET | HAS_VERSION },
	[GVM_COH_ACK - GVM_COH_FIRST] = { "ACK", HAS_SET | HAS_VERSION },
	[GVM_COH_READY - GVM_COH_FIRST] = { "READY", 0 },
};

const char *gvm_coh_name(unsigned type)
{
	return type >= GVM_COH_FIRST && type <= GVM_COH_LAST ? types[type - GVM_COH_FIRST].name
							     : "unknown";
}

/* With the flag ACKS: a set of few in a GRANT, of one in an INV. What it names is checked where the
 * payload is looked at. */
static int acks_ok(const struct gvm_hdr *h)
{
	unsigned others = h->flags & ~GVM_F_ACKS, most = 1;

	if (h->type == GVM_COH_GRANT && (others == GVM_F_SAME || others == GVM_F_WAIT))
		most = GVM_COH_ACKS_MAX;
	else if (h->type != GVM_COH_INV || others)
		return 0;
	return h->length > SET_HEAD && h->length <= SET_HEAD + 2 * most;
}

/* An ACK: with a round, and perhaps a set, for who told it; with a version, for the writer. */
static int set_ok(const struct gvm_hdr *h)
{
	if (h->type == GVM_COH_ACK && h->arg && (h->length || h->xid))
		return 0;
	return h->flags == 0 && h->length <= GVM_SET_MAX;
}

/* A page, a delta that is shorter, or just one of the flags that stand for it. */
static int page_ok(const struct gvm_hdr *h, unsigned has, uint32_t page_size)
{
	if (h->flags == GVM_F_DELTA)
		return h->length >= GVM_DELTA_HEAD && h->length < page_size;
	if (h->length)
		return h->length == page_size && h->flags == 0;
	return h->flags == GVM_F_ZERO || (h->flags == GVM_F_SAME && (has & HAS_SAME)) ||
	       (h->flags == GVM_F_WAIT && (has & HAS_WAIT));
}

/* The one number that is none only a direct INV may have. A node's REPORT has nothing in arg that
 * counts. */
static int version_ok(const struct gvm_hdr *h, unsigned has)
{
	if (h->arg != GVM_COH_ANY_VERSION || (has & HAS_HELD))
		return 1;
	return h->type == GVM_COH_INV && h->length == 0;
}

static int arg_ok(const struct gvm_hdr *h, unsigned has)
{
	if (has & HAS_VERSION)
		return version_ok(h, has);
	if (has & HAS_TO)
		return (h->arg & 0xFFFF) < GVM_WIRE_NODE_MAX &&
		       h->arg >> 16 <= ((has & HAS_SAME) ? 1u : 0u);
	return h->arg <= ((has & HAS_STRICT) ? 1u : 0u);
}

static int status_ok(const struct gvm_hdr *h, unsigned has)
{
	if (has & HAS_STATUS)
		return h->status != GVM_ST_OK && h->status < GVM_ST_MAX;
	return h->status == GVM_ST_OK || (h->status == GVM_ST_NOENT && (has & HAS_NOENT));
}

static int report_ok(const struct gvm_hdr *h)
{
	if (h->flags || h->page || h->xid > GVM_REPORT_SETTLED)
		return 0;
	if (h->xid > GVM_REPORT_LAST)
		return h->length == 0;
	return h->length % GVM_HELD_LEN == 0 && h->length <= GVM_REPORT_MAX * GVM_HELD_LEN;
}

int gvm_coh_check(const struct gvm_hdr *h, uint32_t page_size)
{
	unsigned has;
	int ok;

	if (h->type < GVM_COH_FIRST || h->type > GVM_COH_LAST)
		return -GVM_EPROTO;
	has = types[h->type - GVM_COH_FIRST].has;
	if (!arg_ok(h, has) || !status_ok(h, has))
		return -GVM_EPROTO;
	if (h->flags & GVM_F_ACKS)
		ok = acks_ok(h);
	else if ((has & HAS_PAGE) && h->status == GVM_ST_OK)
		ok = page_ok(h, has, page_size);
	else if (has & HAS_HELD)
		ok = report_ok(h);
	else if (has & HAS_SET)
		ok = set_ok(h);
	else if (has & HAS_BASE)
		ok = h->flags == 0 && (h->length == 0 || h->length == GVM_COH_BASE_LEN);
	else
		ok = h->flags == 0 && h->length == 0;
	return ok ? 0 : -GVM_EPROTO;
}

/* ---- reports ------------------------------------------------------------------------------- */

static void put_word(uint8_t *p, uint64_t v)
{
	int i;

	for (i = 0; i < 8; i++, v >>= 8)
		p[i] = (uint8_t)v;
}

static uint64_t get_word(const uint8_t *p)
{
	uint64_t v = 0;
	int i;

	for (i = 7; i >= 0; i--)
		v = v << 8 | p[i];
	return v;
}

void gvm_held_encode(uint8_t *buf, const struct gvm_held *held)
{
	put_word(buf, held->page | (uint64_t)held->state << 56);
	put_word(buf + 8, held->version);
	put_word(buf + 16, held->given);
	put_word(buf + 24, held->request);
}

int gvm_held_decode(const uint8_t *buf, struct gvm_held *held)
{
	uint64_t first = get_word(buf);

	held->page = first & 0xFFFFFFFFFFFFFFull;
	held->state = (uint8_t)(first >> 56);
	held->version = get_word(buf + 8);
	held->given = get_word(buf + 16);
	held->request = get_word(buf + 24);
	if (held->state > GVM_HELD_GIVEN || !held->version != (held->state == GVM_HELD_NONE))
		return -GVM_EPROTO;
	return 0;
}

/* ---- sets ---------------------------------------------------------------------------------- */

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static uint32_t get16(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8;
}

static size_t encode_bits(uint8_t *buf, const uint16_t *ids, uint32_t n, size_t bytes)
{
	uint32_t i;
	size_t at;

	put16(buf, SET_BITS);
	put16(buf + 2, ids[0]);
	for (at = 0; at < bytes; at++)
		buf[SET_HEAD + at] = 0;
	for (i = 0; i < n; i++) {
		uint32_t bit = (uint32_t)ids[i] - ids[0];

		buf[SET_HEAD + bit / 8] |= (uint8_t)(1u << bit % 8);
	}
	return SET_HEAD + bytes;
}

size_t gvm_set_encode(uint8_t *buf, const uint16_t *ids, uint32_t n)
{
	size_t bytes;
	uint32_t i;

	if (n == 0)
		return 0;
	bytes = ((uint32_t)ids[n - 1] - ids[0]) / 8 + 1;
	if (bytes < 2 * (size_t)n)
		return encode_bits(buf, ids, n, bytes);
	put16(buf, SET_IDS);
	put16(buf + 2, n);
	for (i = 0; i < n; i++)
		put16(buf + SET_HEAD + 2 * i, ids[i]);
	return SET_HEAD + 2 * (size_t)n;
}

static int count_ids(const uint8_t *buf, size_t len, uint32_t nodes)
{
	uint32_t n = get16(buf + 2), i;
	int64_t before = -1;

	if (n == 0 || len != SET_HEAD + 2 * (size_t)n)
		return -GVM_EPROTO;
	for (i = 0; i < n; i++) {
		uint32_t id = get16(buf + SET_HEAD + 2 * i);

		if (id >= nodes || id <= before)
			return -GVM_EPROTO;
		before = id;
	}
	return (int)n;
}

/* Not the compiler's own, which is a function of a library that the kernel does not have. */
static int ones(unsigned byte)
{
	int n = 0;

	for (; byte; byte &= byte - 1)
		n++;
	return n;
}

static int count_bits(const uint8_t *buf, size_t len, uint32_t nodes)
{
	uint32_t first = get16(buf + 2), top = 7;
	size_t at;
	int n = 0;

	if (len == SET_HEAD || !(buf[SET_HEAD] & 1) || buf[len - 1] == 0)
		return -GVM_EPROTO;
	while (!(buf[len - 1] >> top))
		top--;
	if (first + 8 * (len - SET_HEAD - 1) + top >= nodes)
		return -GVM_EPROTO;
	for (at = SET_HEAD; at < len; at++)
		n += ones(buf[at]);
	return n;
}

int gvm_set_count(const uint8_t *buf, size_t len, uint32_t nodes)
{
	if (len == 0)
		return 0;
	if (len < SET_HEAD || len > GVM_SET_MAX)
		return -GVM_EPROTO;
	switch (get16(buf)) {
	case SET_IDS:
		return count_ids(buf, len, nodes);
	case SET_BITS:
		return count_bits(buf, len, nodes);
	default:
		return -GVM_EPROTO;
	}
}

uint16_t gvm_set_first(const uint8_t *buf)
{
	return (uint16_t)get16(get16(buf) == SET_IDS ? buf + SET_HEAD : buf + 2);
}

int gvm_set_has(const uint8_t *buf, size_t len, uint16_t id)
{
	uint32_t bit = (uint32_t)id - get16(buf + 2);
	size_t at;

	if (len == 0)
		return 0;
	if (get16(buf) == SET_BITS)
		return id >= get16(buf + 2) && bit / 8 < len - SET_HEAD &&
		       (buf[SET_HEAD + bit / 8] >> bit % 8 & 1);
	for (at = SET_HEAD; at < len; at += 2)
		if (get16(buf + at) == id)
			return 1;
	return 0;
}

void gvm_set_decode(const uint8_t *buf, size_t len, uint16_t *ids)
{
	uint32_t first, bit;
	size_t at;

	if (len == 0)
		return;
	first = get16(buf + 2);
	if (get16(buf) == SET_IDS) {
		for (at = 0; at < first; at++)
			ids[at] = (uint16_t)get16(buf + SET_HEAD + 2 * at);
		return;
	}
	for (at = 0; at < len - SET_HEAD; at++)
		for (bit = 0; bit < 8; bit++)
			if (buf[SET_HEAD + at] >> bit & 1)
				*ids++ = (uint16_t)(first + 8 * at + bit);
}
