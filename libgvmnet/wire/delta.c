/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Digests and deltas of wire/delta.h. Words of 8 bytes at a time, byte by byte only at the ends.
 */
#include "wire/delta.h"

#ifdef __KERNEL__
#include <linux/string.h>
#else
#include <string.h>
#endif

enum { OP_HEAD = 4, OP_ZEROS = 0x8000 };

#define STRIDE 256u /* compared at once, where most is the same */

static uint64_t get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	v = __builtin_bswap64(v);
#endif
	return v;
}

static void put64(uint8_t *p, uint64_t v)
{
	int i;

	for (i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> 8 * i);
}

static uint32_t get16(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8;
}

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

/* ---- digests ------------------------------------------------------------------------------- */

/* For a given word a permutation of h, and the other way round: no word is lost on the way. */
static uint64_t mix(uint64_t h, uint64_t word)
{
	h = (h ^ word) * 0xff51afd7ed558ccdull;
	return h ^ h >> 32;
}

/* Eight at a time, because each step waits for the one before. */
uint64_t gvm_delta_digest(const uint8_t *page, uint32_t size)
{
	uint64_t a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = size, last = 0;
	uint32_t at = 0;

	for (; size - at >= 64; at += 64) {
		a = mix(a, get64(page + at));
		b = mix(b, get64(page + at + 8));
		c = mix(c, get64(page + at + 16));
		d = mix(d, get64(page + at + 24));
		e = mix(e, get64(page + at + 32));
		f = mix(f, get64(page + at + 40));
		g = mix(g, get64(page + at + 48));
		h = mix(h, get64(page + at + 56));
	}
	for (; size - at >= 8; at += 8)
		a = mix(a, get64(page + at));
	for (; at < size; at++)
		last = last << 8 | page[at];
	a = mix(mix(mix(mix(mix(a, last), b), c), d), 0x9e3779b97f4a7c15ull);
	a = mix(mix(mix(mix(a, e), f), g), h);
	a = mix(a, a >> 29);
	return a ? a : 1;
}

/* ---- making one ---------------------------------------------------------------------------- */

/* The first place from at on where they differ, or size. */
static uint32_t same_until(const uint8_t *x, const uint8_t *y, uint32_t at, uint32_t size)
{
	while (size - at >= STRIDE && memcmp(x + at, y + at, STRIDE) == 0)
		at += STRIDE;
	while (size - at >= 8 && get64(x + at) == get64(y + at))
		at += 8;
	while (at < size && x[at] == y[at])
		at++;
	return at;
}

/* Where the run that begins at at ends: 8 bytes that are the same are worth a run of their own. */
static uint32_t differ_until(const uint8_t *x, const uint8_t *y, uint32_t at, uint32_t size)
{
	uint32_t end = at;

	for (; size - at >= 8; at += 8) {
		uint64_t other = get64(x + at) ^ get64(y + at);

		if (!other)
			return end;
		for (end = at + 8; !(other >> 56); other <<= 8)
			end--;
	}
	for (; at < size; at++)
		if (x[at] != y[at])
			end = at + 1;
	return end;
}

static int zeros(const uint8_t *p, uint32_t n)
{
	return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

size_t gvm_delta_encode(uint8_t *buf, size_t room, const uint8_t *base, uint64_t base_digest,
			const uint8_t *page, uint64_t digest, uint32_t size)
{
	size_t len = GVM_DELTA_HEAD;
	uint32_t at = 0, from, end, bytes;

	if (room < len || size > GVM_DELTA_PAGE)
		return 0;
	put64(buf, base_digest);
	put64(buf + 8, digest);
	while ((from = same_until(base, page, at, size)) < size) {
		end = differ_until(base, page, from, size);
		bytes = zeros(page + from, end - from) ? 0 : end - from;
		if (len + OP_HEAD + bytes > room)
			return 0;
		put16(buf + len, from - at);
		put16(buf + len + 2, (end - from) | (bytes ? 0u : OP_ZEROS));
		memcpy(buf + len + OP_HEAD, page + from, bytes);
		len += OP_HEAD + bytes;
		at = end;
	}
	return len;
}

/* By some words of it. */
int gvm_delta_likely(const uint8_t *base, const uint8_t *page, uint32_t size)
{
	uint32_t at, same = 0, looked = 0;

	for (at = 0; at + 8 <= size; at += size / 32 / 8 * 8 + 8, looked++)
		same += get64(base + at) == get64(page + at);
	return 4 * same >= looked;
}

/* ---- taking one ---------------------------------------------------------------------------- */

int gvm_delta_check(const uint8_t *buf, size_t len, uint32_t size)
{
	size_t at = GVM_DELTA_HEAD;
	uint32_t done = 0;

	if (len < GVM_DELTA_HEAD)
		return -GVM_EPROTO;
	while (at < len) {
		uint32_t skip, n, bytes;

		if (len - at < OP_HEAD)
			return -GVM_EPROTO;
		skip = get16(buf + at);
		n = get16(buf + at + 2);
		bytes = n & OP_ZEROS ? 0 : n;
		n &= OP_ZEROS - 1u;
		at += OP_HEAD;
		if (n == 0 || skip > size - done || n > size - done - skip || bytes > len - at)
			return -GVM_EPROTO;
		done += skip + n;
		at += bytes;
	}
	return 0;
}

uint64_t gvm_delta_base(const uint8_t *buf)
{
	return get64(buf);
}

void gvm_delta_base_put(uint8_t *buf, uint64_t digest)
{
	put64(buf, digest);
}

void gvm_delta_patch(uint8_t *page, const uint8_t *buf, size_t len)
{
	size_t at = GVM_DELTA_HEAD;

	while (at < len) {
		uint32_t n = get16(buf + at + 2);

		page += get16(buf + at);
		at += OP_HEAD;
		if (n & OP_ZEROS) {
			n &= OP_ZEROS - 1u;
			memset(page, 0, n);
		} else {
			memcpy(page, buf + at, n);
			at += n;
		}
		page += n;
	}
}

int gvm_delta_apply(uint8_t *page, const uint8_t *buf, size_t len, uint32_t size)
{
	gvm_delta_patch(page, buf, len);
	return gvm_delta_digest(page, size) == get64(buf + 8) ? 0 : -GVM_EPROTO;
}
