/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Encoders and decoders of everything that wire.h names. Each layout is one enumeration of offsets,
 * in which a field begins where the one before it ends; the last entry is the length, and the build
 * fails if it is not the one that wire.h promises. Pure functions of their arguments, so any thread
 * may call them. Also compiled in the kernel: memcpy, memset and nothing else.
 */
#include "wire/wire.h"
#include "wire/coherence.h"

#ifdef __KERNEL__
#include <linux/string.h>
#else
#include <string.h>
#endif

#define MAX64       (~(uint64_t)0) /* the kernel has no UINT64_MAX */
#define NAME_BYTES  (GVM_WIRE_NAME_MAX + 1)
#define NODE_OK(id) ((id) < GVM_WIRE_NODE_MAX || (id) == GVM_WIRE_NODE_NONE)

/* ---- integers ------------------------------------------------------------------------------ */

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, (uint16_t)v);
	put16(p + 2, (uint16_t)(v >> 16));
}

static void put64(uint8_t *p, uint64_t v)
{
	put32(p, (uint32_t)v);
	put32(p + 4, (uint32_t)(v >> 32));
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | (uint32_t)p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
	return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t get64(const uint8_t *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static int power_of_two(uint32_t v)
{
	return v != 0 && (v & (v - 1)) == 0;
}

/* ---- names --------------------------------------------------------------------------------- */

static int name_char(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
	       c == '.' || c == '_' || c == '-';
}

int gvm_wire_name_ok(const char *name)
{
	size_t i = 0;

	while (i < NAME_BYTES && name_char(name[i]))
		i++;
	if (i == 0 || i == NAME_BYTES)
		return 0;
	for (; i < NAME_BYTES; i++)
		if (name[i] != 0)
			return 0;
	return 1;
}

/* What follows the terminator of the caller's name does not leave this machine. */
static void put_name(uint8_t *p, const char *name)
{
	size_t i = 0;

	memset(p, 0, NAME_BYTES);
	for (; i < GVM_WIRE_NAME_MAX && name[i] != 0; i++)
		p[i] = (uint8_t)name[i];
}

static int get_name(const uint8_t *p, char *name)
{
	memcpy(name, p, NAME_BYTES);
	return gvm_wire_name_ok(name) ? 0 : -GVM_EPROTO;
}

/* ---- frame types --------------------------------------------------------------------------- */

/* What a frame of a type may look like. */
struct shape {
	const char *name;
	uint16_t flags;    /* allowed */
	uint8_t status;    /* 1: may have a status other than OK */
	uint8_t unit;      /* the payload's length is a multiple of it; 0: no such rule */
	uint32_t min, max; /* bytes of payload */
};

static const struct shape shapes[GVM_T_USER] = {
	[GVM_T_HELLO] = { "HELLO", 0, 0, 0, GVM_HELLO_LEN, GVM_HELLO_LEN },
	[GVM_T_CHALLENGE] = { "CHALLENGE", 0, 0, 0, GVM_HELLO_LEN, GVM_HELLO_LEN },
	[GVM_T_PROOF] = { "PROOF", 0, 0, 0, GVM_WIRE_MAC_LEN, GVM_WIRE_MAC_LEN },
	[GVM_T_READY] = { "READY", 0, 0, 0, GVM_WIRE_MAC_LEN, GVM_WIRE_MAC_LEN },
	[GVM_T_REFUSED] = { "REFUSED", 0, 1, 0, 0, GVM_REFUSED_MAX },
	[GVM_T_PING] = { "PING", 0, 0, 0, 0, 0 },
	[GVM_T_PONG] = { "PONG", 0, 0, 0, 0, 0 },
	[GVM_T_CREDIT] = { "CREDIT", 0, 0, 0, 0, 0 },
	[GVM_T_BYE] = { "BYE", 0, 1, 0, 0, 0 },
	[GVM_T_FETCH] = { "FETCH", 0, 0, 0, 0, 0 },
	[GVM_T_FETCHED] = { "FETCHED", GVM_F_ZERO, 1, 0, 0, GVM_WIRE_XFER_MAX },
	[GVM_T_PUT] = { "PUT", 0, 0, 0, 1, GVM_WIRE_XFER_MAX },
	[GVM_T_STORED] = { "STORED", 0, 1, 0, 0, 0 },
	[GVM_T_MAP] = { "MAP", 0, 0, 0, 0, 0 },
	[GVM_T_MAPPED] = { "MAPPED", 0, 1, 0, 0, GVM_MAPPED_LEN },
	[GVM_T_UNMAP] = { "UNMAP", 0, 0, 0, 0, 0 },
	[GVM_T_UNMAPPED] = { "UNMAPPED", 0, 0, 0, 0, 0 },
	[GVM_T_REGION_OPEN] = { "REGION_OPEN", 0, 0, 0, GVM_REGION_OPEN_LEN, GVM_REGION_OPEN_LEN },
	[GVM_T_REGION_CLOSE] = { "REGION_CLOSE", 0, 0, 0, 0, 0 },
	[GVM_T_REGION_DELETE] = { "REGION_DELETE", 0, 0, 0, 0, 0 },
	[GVM_T_REGION_RESIZE] = { "REGION_RESIZE", 0, 0, 0, 0, 0 },
	[GVM_T_REGION_CLONE] = { "REGION_CLONE", 0, 0, 0, GVM_REGION_CLONE_LEN,
				 GVM_REGION_CLONE_LEN },
	[GVM_T_SLAB_GRANT] = { "SLAB_GRANT", 0, 0, 0, 0, 0 },
	[GVM_T_SLAB_LIST] = { "SLAB_LIST", 0, 0, 0, 0, 0 },
	[GVM_T_DISCARD] = { "DISCARD", 0, 0, GVM_PAGE_RUN_LEN, GVM_PAGE_RUN_LEN, GVM_WIRE_MSG_MAX },
	[GVM_T_REGION_LIST] = { "REGION_LIST", 0, 0, 0, 0, 0 },
	[GVM_T_NODE_STAT] = { "NODE_STAT", 0, 0, 0, 0, 0 },
	[GVM_T_REPLY] = { "REPLY", GVM_F_MORE, 1, 0, 0, GVM_WIRE_MSG_MAX },
};

/* The application's messages: any flag that is defined, any status, any length. */
static const struct shape user_shape = { "USER", GVM_F_ALL, 1, 0, 0, GVM_WIRE_MSG_MAX };

static const struct shape *shape_of(unsigned type)
{
	if (type >= GVM_T_USER)
		return type <= 255 ? &user_shape : NULL;
	return shapes[type].name ? &shapes[type] : NULL;
}

/* Types with rules of their own: wire/coherence.h. */
static int is_coherence(unsigned type)
{
	return type >= GVM_COH_FIRST && type <= GVM_COH_LAST;
}

const char *gvm_wire_type_name(unsigned type)
{
	const struct shape *shape = shape_of(type);

	if (is_coherence(type))
		return gvm_coh_name(type);
	return shape ? shape->name : "unknown";
}

/* ---- the header ---------------------------------------------------------------------------- */

enum hdr_at {
	HDR_MAGIC = 0,
	HDR_TYPE = HDR_MAGIC + 1,
	HDR_FLAGS = HDR_TYPE + 1,
	HDR_STATUS = HDR_FLAGS + 2,
	HDR_CREDITS = HDR_STATUS + 2,
	HDR_LENGTH = HDR_CREDITS + 2,
	HDR_EPOCH = HDR_LENGTH + 4,
	HDR_XID = HDR_EPOCH + 4,
	HDR_REGION = HDR_XID + 8,
	HDR_PAGE = HDR_REGION + 8,
	HDR_ARG = HDR_PAGE + 8,
	HDR_END = HDR_ARG + 8
};
_Static_assert(HDR_END == GVM_WIRE_HDR_LEN, "length of the frame header");

void gvm_hdr_encode(uint8_t *buf, const struct gvm_hdr *h)
{
	buf[HDR_MAGIC] = GVM_WIRE_MAGIC;
	buf[HDR_TYPE] = h->type;
	put16(buf + HDR_FLAGS, h->flags);
	put16(buf + HDR_STATUS, h->status);
	put16(buf + HDR_CREDITS, h->credits);
	put32(buf + HDR_LENGTH, h->length);
	put32(buf + HDR_EPOCH, h->epoch);
	put64(buf + HDR_XID, h->xid);
	put64(buf + HDR_REGION, h->region);
	put64(buf + HDR_PAGE, h->page);
	put64(buf + HDR_ARG, h->arg);
}

static int shape_fits(const struct shape *shape, const struct gvm_hdr *h)
{
	if (h->flags & ~shape->flags)
		return 0;
	if (h->status >= GVM_ST_MAX || (h->status != GVM_ST_OK && !shape->status))
		return 0;
	if (h->length < shape->min || h->length > shape->max)
		return 0;
	return shape->unit == 0 || h->length % shape->unit == 0;
}

/* An answer to FETCH has the bytes, or says that they are zeros, or says why there are none. */
static int fetched_fits(const struct gvm_hdr *h)
{
	if (h->status != GVM_ST_OK)
		return h->length == 0 && !(h->flags & GVM_F_ZERO);
	return (h->length == 0) == ((h->flags & GVM_F_ZERO) != 0);
}

/* The rules that involve more than one field. */
static int type_fits(const struct gvm_hdr *h)
{
	switch (h->type) {
	case GVM_T_REFUSED:
		return h->status != GVM_ST_OK;
	case GVM_T_FETCH:
		return h->arg >= 1 && h->arg <= GVM_WIRE_XFER_MAX;
	case GVM_T_FETCHED:
		return fetched_fits(h);
	case GVM_T_MAPPED:
		return h->length == (h->status == GVM_ST_OK ? GVM_MAPPED_LEN : 0);
	default:
		return 1;
	}
}

int gvm_hdr_decode(const uint8_t *buf, struct gvm_hdr *h)
{
	const struct shape *shape = shape_of(buf[HDR_TYPE]);
	struct gvm_hdr got = {
		.type = buf[HDR_TYPE],
		.flags = get16(buf + HDR_FLAGS),
		.status = get16(buf + HDR_STATUS),
		.credits = get16(buf + HDR_CREDITS),
		.length = get32(buf + HDR_LENGTH),
		.epoch = get32(buf + HDR_EPOCH),
		.xid = get64(buf + HDR_XID),
		.region = get64(buf + HDR_REGION),
		.page = get64(buf + HDR_PAGE),
		.arg = get64(buf + HDR_ARG),
	};

	if (buf[HDR_MAGIC] != GVM_WIRE_MAGIC)
		return -GVM_EPROTO;
	if (is_coherence(got.type)) {
		if (gvm_coh_check(&got, GVM_WIRE_PAGE) != 0)
			return -GVM_EPROTO;
	} else if (!shape || !shape_fits(shape, &got) || !type_fits(&got)) {
		return -GVM_EPROTO;
	}
	*h = got;
	return 0;
}

/* ---- status -------------------------------------------------------------------------------- */

/* Linux's numbers, which are the same on every architecture that this runs on. */
static const struct {
	uint8_t err;
	const char *name;
} statuses[GVM_ST_MAX] = {
	[GVM_ST_OK] = { 0, "ok" },
	[GVM_ST_PROTO] = { GVM_EPROTO, "protocol error" },
	[GVM_ST_AUTH] = { 13, "wrong key" },
	[GVM_ST_VERSION] = { 93, "no common version" },
	[GVM_ST_CLUSTER] = { 18, "another cluster" },
	[GVM_ST_BUSY] = { 16, "busy" },
	[GVM_ST_NOENT] = { 2, "not found" },
	[GVM_ST_EXIST] = { 17, "exists" },
	[GVM_ST_RANGE] = { 34, "out of range" },
	[GVM_ST_ACCESS] = { 1, "not allowed" },
	[GVM_ST_NOSPACE] = { 28, "no space" },
	[GVM_ST_NOMEM] = { 12, "out of memory" },
	[GVM_ST_INVAL] = { 22, "invalid argument" },
	[GVM_ST_NOTSUP] = { 95, "not supported" },
	[GVM_ST_DRAIN] = { 108, "going away" },
	[GVM_ST_IO] = { 5, "data lost" },
	[GVM_ST_EPOCH] = { 116, "another cluster map" },
	[GVM_ST_LIMIT] = { 87, "too many" },
};

int gvm_wire_errno(unsigned status)
{
	return status < GVM_ST_MAX ? -(int)statuses[status].err : -GVM_EPROTO;
}

unsigned gvm_wire_status(int err)
{
	unsigned i;

	for (i = 0; i < GVM_ST_MAX; i++)
		if (err == -(int)statuses[i].err || err == (int)statuses[i].err)
			return i;
	return GVM_ST_IO;
}

const char *gvm_wire_status_name(unsigned status)
{
	return status < GVM_ST_MAX ? statuses[status].name : "unknown";
}

/* ---- HELLO and CHALLENGE ------------------------------------------------------------------- */

enum hello_at {
	HELLO_MAGIC = 0,
	HELLO_PROTO_MIN = HELLO_MAGIC + 8,
	HELLO_PROTO_MAX = HELLO_PROTO_MIN + 2,
	HELLO_NODE = HELLO_PROTO_MAX + 2,
	HELLO_TO_NODE = HELLO_NODE + 2,
	HELLO_FEATURES = HELLO_TO_NODE + 2,
	HELLO_CREDITS = HELLO_FEATURES + 4,
	HELLO_MAX_FETCH = HELLO_CREDITS + 2,
	HELLO_INCARNATION = HELLO_MAX_FETCH + 2,
	HELLO_MAP_DIGEST = HELLO_INCARNATION + 8,
	HELLO_NONCE = HELLO_MAP_DIGEST + 8,
	HELLO_CLUSTER = HELLO_NONCE + GVM_WIRE_NONCE_LEN,
	HELLO_END = HELLO_CLUSTER + NAME_BYTES
};
_Static_assert(HELLO_END == GVM_HELLO_LEN, "length of HELLO");

size_t gvm_hello_encode(uint8_t *buf, const struct gvm_hello *m)
{
	put64(buf + HELLO_MAGIC, m->magic);
	put16(buf + HELLO_PROTO_MIN, m->proto_min);
	put16(buf + HELLO_PROTO_MAX, m->proto_max);
	put16(buf + HELLO_NODE, m->node);
	put16(buf + HELLO_TO_NODE, m->to_node);
	put32(buf + HELLO_FEATURES, m->features);
	put16(buf + HELLO_CREDITS, m->credits);
	put16(buf + HELLO_MAX_FETCH, m->max_fetch);
	put64(buf + HELLO_INCARNATION, m->incarnation);
	put64(buf + HELLO_MAP_DIGEST, m->map_digest);
	memcpy(buf + HELLO_NONCE, m->nonce, GVM_WIRE_NONCE_LEN);
	put_name(buf + HELLO_CLUSTER, m->cluster);
	return HELLO_END;
}

/* A node without a cluster file has no name to give: all zeros. */
static int get_cluster(const uint8_t *p, char *name)
{
	static const char none[NAME_BYTES];

	memcpy(name, p, NAME_BYTES);
	return memcmp(name, none, NAME_BYTES) == 0 || gvm_wire_name_ok(name) ? 0 : -GVM_EPROTO;
}

/* Features that are not known here are not an error: a newer node may have them. */
static int hello_fits(const struct gvm_hello *m)
{
	return m->magic == GVM_HELLO_MAGIC && m->proto_min >= 1 && m->proto_min <= m->proto_max &&
	       NODE_OK(m->node) && NODE_OK(m->to_node) && m->incarnation != 0;
}

int gvm_hello_decode(const uint8_t *buf, size_t len, struct gvm_hello *m)
{
	struct gvm_hello got;

	if (len != HELLO_END)
		return -GVM_EPROTO;
	got.magic = get64(buf + HELLO_MAGIC);
	got.proto_min = get16(buf + HELLO_PROTO_MIN);
	got.proto_max = get16(buf + HELLO_PROTO_MAX);
	got.node = get16(buf + HELLO_NODE);
	got.to_node = get16(buf + HELLO_TO_NODE);
	got.features = get32(buf + HELLO_FEATURES);
	got.credits = get16(buf + HELLO_CREDITS);
	got.max_fetch = get16(buf + HELLO_MAX_FETCH);
	got.incarnation = get64(buf + HELLO_INCARNATION);
	got.map_digest = get64(buf + HELLO_MAP_DIGEST);
	memcpy(got.nonce, buf + HELLO_NONCE, GVM_WIRE_NONCE_LEN);
	if (get_cluster(buf + HELLO_CLUSTER, got.cluster) < 0 || !hello_fits(&got))
		return -GVM_EPROTO;
	*m = got;
	return 0;
}

/* ---- MAPPED -------------------------------------------------------------------------------- */

enum mapped_at {
	MAPPED_RKEY = 0,
	MAPPED_BASE = MAPPED_RKEY + 8,
	MAPPED_LENGTH = MAPPED_BASE + 8,
	MAPPED_ACCESS = MAPPED_LENGTH + 8,
	MAPPED_ZERO = MAPPED_ACCESS + 4,
	MAPPED_END = MAPPED_ZERO + 4
};
_Static_assert(MAPPED_END == GVM_MAPPED_LEN, "length of MAPPED");

size_t gvm_mapped_encode(uint8_t *buf, const struct gvm_mapped *m)
{
	put64(buf + MAPPED_RKEY, m->rkey);
	put64(buf + MAPPED_BASE, m->base);
	put64(buf + MAPPED_LENGTH, m->len);
	put32(buf + MAPPED_ACCESS, m->access);
	put32(buf + MAPPED_ZERO, 0);
	return MAPPED_END;
}

int gvm_mapped_decode(const uint8_t *buf, size_t len, struct gvm_mapped *m)
{
	struct gvm_mapped got;

	if (len != MAPPED_END || get32(buf + MAPPED_ZERO) != 0)
		return -GVM_EPROTO;
	got.rkey = get64(buf + MAPPED_RKEY);
	got.base = get64(buf + MAPPED_BASE);
	got.len = get64(buf + MAPPED_LENGTH);
	got.access = get32(buf + MAPPED_ACCESS);
	if (got.len == 0 || got.base > MAX64 - got.len || got.access == 0 || got.access > 3)
		return -GVM_EPROTO;
	*m = got;
	return 0;
}

/* ---- a cell -------------------------------------------------------------------------------- */

enum cell_at {
	CELL_MAGIC = 0,
	CELL_FLAGS = CELL_MAGIC + 1,
	CELL_CREDITS = CELL_FLAGS + 1,
	CELL_RETURNED = CELL_CREDITS + 2,
	CELL_ZERO = CELL_RETURNED + 2,
	CELL_PROVIDER = CELL_ZERO + 2,
	CELL_END = CELL_PROVIDER + 8
};
_Static_assert(CELL_END == GVM_CELL_LEN, "length of a cell's header");

size_t gvm_cell_encode(uint8_t *buf, const struct gvm_cell *m)
{
	buf[CELL_MAGIC] = GVM_CELL_MAGIC;
	buf[CELL_FLAGS] = m->flags;
	put16(buf + CELL_CREDITS, m->credits);
	put16(buf + CELL_RETURNED, m->returned);
	put16(buf + CELL_ZERO, 0);
	put64(buf + CELL_PROVIDER, m->provider);
	return CELL_END;
}

int gvm_cell_decode(const uint8_t *buf, size_t len, struct gvm_cell *m)
{
	if (len != CELL_END || buf[CELL_MAGIC] != GVM_CELL_MAGIC ||
	    buf[CELL_FLAGS] > GVM_CELL_RECALL || get16(buf + CELL_ZERO) != 0)
		return -GVM_EPROTO;
	m->flags = buf[CELL_FLAGS];
	m->returned = get16(buf + CELL_RETURNED);
	m->credits = get16(buf + CELL_CREDITS);
	m->provider = get64(buf + CELL_PROVIDER);
	return 0;
}

/* ---- libfabric's bootstrap ----------------------------------------------------------------- */

enum ofi_hello_at {
	OFI_MAGIC = 0,
	OFI_FEATURES = OFI_MAGIC + 8,
	OFI_ZERO = OFI_FEATURES + 4,
	OFI_NONCE = OFI_ZERO + 4,
	OFI_PROVIDER = OFI_NONCE + 32,
	OFI_MACHINE = OFI_PROVIDER + 40,
	OFI_ZEROS = OFI_MACHINE + 16,
	OFI_END = OFI_ZEROS + 216
};
_Static_assert(OFI_END == GVM_OFI_HELLO_LEN, "length of libfabric's hello");

size_t gvm_ofi_hello_encode(uint8_t *buf, const struct gvm_ofi_hello *m)
{
	put64(buf + OFI_MAGIC, m->magic);
	put32(buf + OFI_FEATURES, m->features);
	put32(buf + OFI_ZERO, 0);
	memcpy(buf + OFI_NONCE, m->nonce, sizeof(m->nonce));
	memcpy(buf + OFI_PROVIDER, m->provider, sizeof(m->provider));
	memcpy(buf + OFI_MACHINE, m->machine, sizeof(m->machine));
	memset(buf + OFI_ZEROS, 0, OFI_END - OFI_ZEROS);
	return OFI_END;
}

/* Printable, as it comes into logs, and zero-padded. */
static int provider_ok(const char name[40])
{
	unsigned n = 0;

	while (n < 40 && name[n] > ' ' && name[n] < 0x7f)
		n++;
	if (n == 0 || n == 40)
		return 0;
	while (n < 40 && !name[n])
		n++;
	return n == 40;
}

static int zeros_ok(const uint8_t *buf, size_t len)
{
	while (len && !buf[len - 1])
		len--;
	return len == 0;
}

int gvm_ofi_hello_decode(const uint8_t *buf, size_t len, struct gvm_ofi_hello *m)
{
	struct gvm_ofi_hello got;

	if (len != OFI_END || get32(buf + OFI_ZERO) != 0 ||
	    !zeros_ok(buf + OFI_ZEROS, OFI_END - OFI_ZEROS))
		return -GVM_EPROTO;
	got.magic = get64(buf + OFI_MAGIC);
	got.features = get32(buf + OFI_FEATURES);
	got.reserved = 0;
	memcpy(got.nonce, buf + OFI_NONCE, sizeof(got.nonce));
	memcpy(got.provider, buf + OFI_PROVIDER, sizeof(got.provider));
	memcpy(got.machine, buf + OFI_MACHINE, sizeof(got.machine));
	if (got.magic != GVM_OFI_HELLO_MAGIC || !provider_ok(got.provider))
		return -GVM_EPROTO;
	*m = got;
	return 0;
}

size_t gvm_ofi_proof_encode(uint8_t *buf, const struct gvm_ofi_proof *m)
{
	put64(buf, m->magic);
	put32(buf + 8, m->status);
	put32(buf + 12, 0);
	memcpy(buf + 16, m->mac, sizeof(m->mac));
	return GVM_OFI_PROOF_LEN;
}

int gvm_ofi_proof_decode(const uint8_t *buf, size_t len, struct gvm_ofi_proof *m)
{
	struct gvm_ofi_proof got;

	if (len != GVM_OFI_PROOF_LEN || get32(buf + 12) != 0)
		return -GVM_EPROTO;
	got.magic = get64(buf);
	got.status = get32(buf + 8);
	got.reserved = 0;
	memcpy(got.mac, buf + 16, sizeof(got.mac));
	if (got.magic != GVM_OFI_PROOF_MAGIC || (got.status && got.status != GVM_ST_AUTH))
		return -GVM_EPROTO;
	*m = got;
	return 0;
}

enum ofi_name_at {
	OFI_NAME_MAGIC = 0,
	OFI_NAME_ID = OFI_NAME_MAGIC + 8,
	OFI_NAME_LEN = OFI_NAME_ID + 8,
	OFI_NAME_ZERO = OFI_NAME_LEN + 4,
	OFI_NAME_NAME = OFI_NAME_ZERO + 4,
	OFI_NAME_MAC = OFI_NAME_NAME + 240,
	OFI_NAME_END = OFI_NAME_MAC + GVM_WIRE_MAC_LEN
};
_Static_assert(OFI_NAME_END == GVM_OFI_NAME_LEN, "length of libfabric's name");

size_t gvm_ofi_name_encode(uint8_t *buf, const struct gvm_ofi_name *m)
{
	put64(buf + OFI_NAME_MAGIC, m->magic);
	put64(buf + OFI_NAME_ID, m->id);
	put32(buf + OFI_NAME_LEN, m->name_len);
	put32(buf + OFI_NAME_ZERO, 0);
	memcpy(buf + OFI_NAME_NAME, m->name, sizeof(m->name));
	memcpy(buf + OFI_NAME_MAC, m->mac, sizeof(m->mac));
	return OFI_NAME_END;
}

int gvm_ofi_name_decode(const uint8_t *buf, size_t len, struct gvm_ofi_name *m)
{
	struct gvm_ofi_name got;

	if (len != OFI_NAME_END || get32(buf + OFI_NAME_ZERO) != 0)
		return -GVM_EPROTO;
	got.magic = get64(buf + OFI_NAME_MAGIC);
	got.id = get64(buf + OFI_NAME_ID);
	got.name_len = get32(buf + OFI_NAME_LEN);
	got.reserved = 0;
	memcpy(got.name, buf + OFI_NAME_NAME, sizeof(got.name));
	memcpy(got.mac, buf + OFI_NAME_MAC, sizeof(got.mac));
	if (got.magic != GVM_OFI_NAME_MAGIC || got.id == 0 || got.name_len == 0 ||
	    got.name_len > sizeof(got.name) ||
	    !zeros_ok(got.name + got.name_len, sizeof(got.name) - got.name_len))
		return -GVM_EPROTO;
	*m = got;
	return 0;
}

size_t gvm_ofi_end_encode(uint8_t *buf, const struct gvm_ofi_end *m)
{
	put64(buf, m->magic);
	put64(buf + 8, m->cells);
	return GVM_OFI_END_LEN;
}

int gvm_ofi_end_decode(const uint8_t *buf, size_t len, struct gvm_ofi_end *m)
{
	if (len != GVM_OFI_END_LEN || get64(buf) != GVM_OFI_END_MAGIC)
		return -GVM_EPROTO;
	m->magic = get64(buf);
	m->cells = get64(buf + 8);
	return 0;
}

/* ---- REGION_OPEN --------------------------------------------------------------------------- */

enum open_at {
	OPEN_NAME = 0,
	OPEN_PAGES = OPEN_NAME + NAME_BYTES,
	OPEN_GENERATION = OPEN_PAGES + 8,
	OPEN_SHARE_SLABS = OPEN_GENERATION + 8,
	OPEN_SLAB_PAGES = OPEN_SHARE_SLABS + 8,
	OPEN_PAGE_SIZE = OPEN_SLAB_PAGES + 4,
	OPEN_FLAGS = OPEN_PAGE_SIZE + 4,
	OPEN_LINGER_MS = OPEN_FLAGS + 4,
	OPEN_END = OPEN_LINGER_MS + 4
};
_Static_assert(OPEN_END == GVM_REGION_OPEN_LEN, "length of REGION_OPEN");

size_t gvm_region_open_encode(uint8_t *buf, const struct gvm_region_open *m)
{
	put_name(buf + OPEN_NAME, m->name);
	put64(buf + OPEN_PAGES, m->pages);
	put64(buf + OPEN_GENERATION, m->generation);
	put64(buf + OPEN_SHARE_SLABS, m->share_slabs);
	put32(buf + OPEN_SLAB_PAGES, m->slab_pages);
	put32(buf + OPEN_PAGE_SIZE, m->page_size);
	put32(buf + OPEN_FLAGS, m->flags);
	put32(buf + OPEN_LINGER_MS, m->linger_ms);
	return OPEN_END;
}

/* Pages and slabs of a region whose bytes can be counted in 64 bits. */
static int geometry_fits(uint64_t pages, uint32_t slab_pages, uint32_t page_size)
{
	return power_of_two(slab_pages) && power_of_two(page_size) && pages <= MAX64 / page_size;
}

static uint64_t slabs_of(uint64_t pages, uint32_t slab_pages)
{
	return pages / slab_pages + (pages % slab_pages != 0);
}

static int open_fits(const struct gvm_region_open *m)
{
	if ((m->flags & ~GVM_RO_ALL) || !geometry_fits(m->pages, m->slab_pages, m->page_size))
		return 0;
	if (m->pages == 0)
		return !(m->flags & GVM_RO_CREATE);
	return m->share_slabs <= slabs_of(m->pages, m->slab_pages);
}

int gvm_region_open_decode(const uint8_t *buf, size_t len, struct gvm_region_open *m)
{
	struct gvm_region_open got;

	if (len != OPEN_END || get_name(buf + OPEN_NAME, got.name) < 0)
		return -GVM_EPROTO;
	got.pages = get64(buf + OPEN_PAGES);
	got.generation = get64(buf + OPEN_GENERATION);
	got.share_slabs = get64(buf + OPEN_SHARE_SLABS);
	got.slab_pages = get32(buf + OPEN_SLAB_PAGES);
	got.page_size = get32(buf + OPEN_PAGE_SIZE);
	got.flags = get32(buf + OPEN_FLAGS);
	got.linger_ms = get32(buf + OPEN_LINGER_MS);
	if (!open_fits(&got))
		return -GVM_EPROTO;
	*m = got;
	return 0;
}

/* ---- the answer to REGION_OPEN and REGION_CLONE -------------------------------------------- */

enum opened_at {
	OPENED_GENERATION = 0,
	OPENED_PAGES = OPENED_GENERATION + 8,
	OPENED_SLABS_USED = OPENED_PAGES + 8,
	OPENED_INCARNATION = OPENED_SLABS_USED + 8,
	OPENED_SLAB_PAGES = OPENED_INCARNATION + 8,
	OPENED_PAGE_SIZE = OPENED_SLAB_PAGES + 4,
	OPENED_FLAGS = OPENED_PAGE_SIZE + 4,
	OPENED_RESERVED = OPENED_FLAGS + 4,
	OPENED_END = OPENED_RESERVED + 4
};
_Static_assert(OPENED_END == GVM_REGION_OPENED_LEN, "length of the answer to REGION_OPEN");

size_t gvm_region_opened_encode(uint8_t *buf, const struct gvm_region_opened *m)
{
	put64(buf + OPENED_GENERATION, m->generation);
	put64(buf + OPENED_PAGES, m->pages);
	put64(buf + OPENED_SLABS_USED, m->slabs_used);
	put64(buf + OPENED_INCARNATION, m->incarnation);
	put32(buf + OPENED_SLAB_PAGES, m->slab_pages);
	put32(buf + OPENED_PAGE_SIZE, m->page_size);
	put32(buf + OPENED_FLAGS, m->flags);
	put32(buf + OPENED_RESERVED, 0);
	return OPENED_END;
}

static int opened_fits(const struct gvm_region_opened *m)
{
	return m->generation != 0 && m->incarnation != 0 && m->pages != 0 && m->reserved == 0 &&
	       !(m->flags & ~GVM_RO_ALL) && geometry_fits(m->pages, m->slab_pages, m->page_size) &&
	       m->slabs_used <= slabs_of(m->pages, m->slab_pages);
}

int gvm_region_opened_decode(const uint8_t *buf, size_t len, struct gvm_region_opened *m)
{
	struct gvm_region_opened got;

	if (len != OPENED_END)
		return -GVM_EPROTO;
	got.generation = get64(buf + OPENED_GENERATION);
	got.pages = get64(buf + OPENED_PAGES);
	got.slabs_used = get64(buf + OPENED_SLABS_USED);
	got.incarnation = get64(buf + OPENED_INCARNATION);
	got.slab_pages = get32(buf + OPENED_SLAB_PAGES);
	got.page_size = get32(buf + OPENED_PAGE_SIZE);
	got.flags = get32(buf + OPENED_FLAGS);
	got.reserved = get32(buf + OPENED_RESERVED);
	if (!opened_fits(&got))
		return -GVM_EPROTO;
	*m = got;
	return 0;
}

/* ---- REGION_CLONE -------------------------------------------------------------------------- */

enum clone_at {
	CLONE_NAME = 0,
	CLONE_ID = CLONE_NAME + NAME_BYTES,
	CLONE_FLAGS = CLONE_ID + 8,
	CLONE_LINGER_MS = CLONE_FLAGS + 4,
	CLONE_END = CLONE_LINGER_MS + 4
};
_Static_assert(CLONE_END == GVM_REGION_CLONE_LEN, "length of REGION_CLONE");

size_t gvm_region_clone_encode(uint8_t *buf, const struct gvm_region_clone *m)
{
	put_name(buf + CLONE_NAME, m->name);
	put64(buf + CLONE_ID, m->id);
	put32(buf + CLONE_FLAGS, m->flags);
	put32(buf + CLONE_LINGER_MS, m->linger_ms);
	return CLONE_END;
}

int gvm_region_clone_decode(const uint8_t *buf, size_t len, struct gvm_region_clone *m)
{
	struct gvm_region_clone got;

	if (len != CLONE_END || get_name(buf + CLONE_NAME, got.name) < 0)
		return -GVM_EPROTO;
	got.id = get64(buf + CLONE_ID);
	got.flags = get32(buf + CLONE_FLAGS);
	got.linger_ms = get32(buf + CLONE_LINGER_MS);
	if (got.flags & ~GVM_RO_EPHEMERAL)
		return -GVM_EPROTO;
	*m = got;
	return 0;
}

/* ---- entries of lists ---------------------------------------------------------------------- */

enum slab_at { SLAB_SLAB = 0, SLAB_KEY = SLAB_SLAB + 8, SLAB_END = SLAB_KEY + 8 };
_Static_assert(SLAB_END == GVM_SLAB_ENTRY_LEN, "length of a slab entry");

size_t gvm_slab_entry_encode(uint8_t *buf, const struct gvm_slab_entry *m)
{
	put64(buf + SLAB_SLAB, m->slab);
	put64(buf + SLAB_KEY, m->key);
	return SLAB_END;
}

int gvm_slab_entry_decode(const uint8_t *buf, size_t len, struct gvm_slab_entry *m)
{
	if (len != SLAB_END || get64(buf + SLAB_KEY) == 0)
		return -GVM_EPROTO;
	m->slab = get64(buf + SLAB_SLAB);
	m->key = get64(buf + SLAB_KEY);
	return 0;
}

enum run_at { RUN_PAGE = 0, RUN_COUNT = RUN_PAGE + 8, RUN_END = RUN_COUNT + 8 };
_Static_assert(RUN_END == GVM_PAGE_RUN_LEN, "length of a run of pages");

size_t gvm_page_run_encode(uint8_t *buf, const struct gvm_page_run *m)
{
	put64(buf + RUN_PAGE, m->page);
	put64(buf + RUN_COUNT, m->count);
	return RUN_END;
}

int gvm_page_run_decode(const uint8_t *buf, size_t len, struct gvm_page_run *m)
{
	uint64_t page, count;

	if (len != RUN_END)
		return -GVM_EPROTO;
	page = get64(buf + RUN_PAGE);
	count = get64(buf + RUN_COUNT);
	if (count == 0 || count > MAX64 - page)
		return -GVM_EPROTO;
	m->page = page;
	m->count = count;
	return 0;
}

/* ---- what is full -------------------------------------------------------------------------- */

size_t gvm_full_encode(uint8_t *buf, enum gvm_full full)
{
	put32(buf, (uint32_t)full);
	return GVM_FULL_LEN;
}

enum gvm_full gvm_full_decode(const uint8_t *buf, size_t len)
{
	uint32_t full = len == GVM_FULL_LEN ? get32(buf) : GVM_FULL_UNKNOWN;

	return full <= GVM_FULL_DISK ? (enum gvm_full)full : GVM_FULL_UNKNOWN;
}

enum entry_at {
	ENTRY_NAME = 0,
	ENTRY_ID = ENTRY_NAME + NAME_BYTES,
	ENTRY_PAGES = ENTRY_ID + 8,
	ENTRY_SLABS_USED = ENTRY_PAGES + 8,
	ENTRY_GENERATION = ENTRY_SLABS_USED + 8,
	ENTRY_HOLDER = ENTRY_GENERATION + 8,
	ENTRY_FLAGS = ENTRY_HOLDER + 8,
	ENTRY_SESSIONS = ENTRY_FLAGS + 4,
	ENTRY_END = ENTRY_SESSIONS + 4
};
_Static_assert(ENTRY_END == GVM_REGION_ENTRY_LEN, "length of an entry of REGION_LIST");

size_t gvm_region_entry_encode(uint8_t *buf, const struct gvm_region_entry *m)
{
	put_name(buf + ENTRY_NAME, m->name);
	put64(buf + ENTRY_ID, m->id);
	put64(buf + ENTRY_PAGES, m->pages);
	put64(buf + ENTRY_SLABS_USED, m->slabs_used);
	put64(buf + ENTRY_GENERATION, m->generation);
	put64(buf + ENTRY_HOLDER, m->holder);
	put32(buf + ENTRY_FLAGS, m->flags);
	put32(buf + ENTRY_SESSIONS, m->sessions);
	return ENTRY_END;
}

int gvm_region_entry_decode(const uint8_t *buf, size_t len, struct gvm_region_entry *m)
{
	struct gvm_region_entry got;

	if (len != ENTRY_END || get_name(buf + ENTRY_NAME, got.name) < 0)
		return -GVM_EPROTO;
	got.id = get64(buf + ENTRY_ID);
	got.pages = get64(buf + ENTRY_PAGES);
	got.slabs_used = get64(buf + ENTRY_SLABS_USED);
	got.generation = get64(buf + ENTRY_GENERATION);
	got.holder = get64(buf + ENTRY_HOLDER);
	got.flags = get32(buf + ENTRY_FLAGS);
	got.sessions = get32(buf + ENTRY_SESSIONS);
	if (got.pages == 0 || got.generation == 0 ||
	    (got.flags & ~(GVM_RO_EPHEMERAL | GVM_RO_SHARED)))
		return -GVM_EPROTO;
	*m = got;
	return 0;
}
