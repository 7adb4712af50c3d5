/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The coherence engine, as home, also one that was started anew, and as node, and whatever its
 * peers and programs do: the input is a list of events of 12 bytes, a message's payload behind
 * them. What is sent must be well formed, a mapped page is not written to, sets have one form each,
 * memory is bounded and all given back. What is taken for a delta stays within its page, and pages
 * come out of deltas as they went in.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "ivy/ivy.h"
#include "wire/delta.h"

#define NODES 20u
#define PAGES 4u
#define PAGE  64u
#define ANEW  0xFFu /* in place of a node */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static size_t memory;
static uint64_t last_xid, last_arg, nonces;
static uint8_t access_now[PAGES], bytes[PAGE];

static void check(int good)
{
	if (!good)
		abort();
}

static void *env_alloc(void *user, size_t size)
{
	memory += size;
	check(memory < 1 << 20);
	return malloc(size);
}

static void env_free(void *user, void *mem, size_t size)
{
	memory -= size;
	free(mem);
}

static void env_send(void *user, uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	check(to < NODES && to != 0 && gvm_coh_check(h, PAGE) == 0);
	check((h->length != 0) == (payload != NULL));
	last_xid = h->xid;
	last_arg = h->arg;
}

static uint16_t env_home(void *user, uint64_t page)
{
	return page & 1;
}

static uint64_t env_nonce(void *user)
{
	return ++nonces << 8;
}

static const void *env_copy_read(void *user, uint64_t page)
{
	return bytes;
}

static int env_copy_write(void *user, uint64_t page, const void *from)
{
	check(!access_now[page]);
	memset(bytes, 0, sizeof(bytes));
	if (from)
		memcpy(bytes, from, sizeof(bytes));
	return 0;
}

static void env_copy_drop(void *user, uint64_t page)
{
	check(!access_now[page]);
}

static void env_protect(void *user, uint64_t page, enum ivy_access access)
{
	access_now[page] = (uint8_t)access;
}

static const void *env_store_read(void *user, uint64_t page)
{
	return bytes;
}

static int env_store_write(void *user, uint64_t page, const void *from)
{
	return 0;
}

static void env_fault_done(void *user, uint64_t page, enum ivy_access access, int status)
{
	check(page < PAGES && (status != 0 || access_now[page] >= access));
}

static const struct ivy_env env = IVY_ENV(env_);

static void try_set(const uint8_t *set, size_t len)
{
	uint16_t ids[GVM_WIRE_NODE_MAX];
	uint8_t again[GVM_SET_MAX];
	int n = gvm_set_count(set, len, GVM_WIRE_NODE_MAX);

	if (n < 0)
		return;
	check((uint32_t)n <= GVM_WIRE_NODE_MAX);
	gvm_set_decode(set, len, ids);
	len = gvm_set_encode(again, ids, (uint32_t)n);
	check(gvm_set_count(again, len, GVM_WIRE_NODE_MAX) == n);
}

static void try_delta(const uint8_t *delta, size_t len)
{
	uint8_t page[PAGE + 1], again[PAGE + 1], buf[2 * PAGE];
	size_t made;

	memset(page, 0x5A, sizeof(page));
	memcpy(again, page, sizeof(page));
	if (gvm_delta_check(delta, len, PAGE) != 0)
		return;
	gvm_delta_patch(page, delta, len);
	check(page[PAGE] == 0x5A);
	made = gvm_delta_encode(buf, sizeof(buf), again, gvm_delta_base(delta), page,
				gvm_delta_digest(page, PAGE), PAGE);
	check(made >= GVM_DELTA_HEAD && gvm_delta_check(buf, made, PAGE) == 0);
	check(gvm_delta_apply(again, buf, made, PAGE) == 0 && memcmp(again, page, PAGE) == 0);
}

/* A delta's digests are those of a content that is here: no input would find them. */
static void mend_delta(uint8_t *delta, size_t len, int zeros)
{
	uint8_t page[PAGE];

	if (len < GVM_DELTA_HEAD || gvm_delta_check(delta, len, PAGE) != 0)
		return;
	memcpy(page, bytes, PAGE);
	if (zeros)
		memset(page, 0, PAGE);
	gvm_delta_base_put(delta, zeros ? 0 : gvm_delta_digest(page, PAGE));
	gvm_delta_patch(page, delta, len);
	gvm_delta_base_put(delta + 8, gvm_delta_digest(page, PAGE));
}

/* Of the payload that follows as much as there is. Returns how much was used. */
static size_t message(struct ivy *ivy, const uint8_t *e, const uint8_t *payload, size_t len)
{
	struct gvm_hdr h = { .type = e[2], .epoch = 1, .region = 1, .page = e[3] % 8 };
	uint8_t copy[256];

	h.xid = e[4] & 1 ? last_xid : (uint64_t)e[5] << 8;
	h.arg = e[4] & 2 ? last_arg + e[6] - 1 : (uint64_t)e[6] | (uint64_t)(e[7] & 1) << 16;
	if (h.type == GVM_COH_REPORT && !(e[4] & 1))
		h.xid = e[5] % 8;
	h.flags = e[8];
	h.status = e[9];
	h.length = e[10] == 1 ? PAGE : e[10];
	if (h.length > len)
		h.length = (uint32_t)len;
	try_set(payload, h.length);
	try_delta(payload, h.length);
	memcpy(copy, payload, h.length);
	if (e[11] & 1)
		mend_delta(copy, h.length, e[11] & 2);
	ivy_receive(ivy, e[1], &h, copy);
	return h.length;
}

/* Whoever is named is not named again once it is dead: a home is not held up for ever. */
static void bury_liars(struct ivy *ivy)
{
	uint16_t liar;

	while ((liar = ivy_rebuild_liar(ivy)) != GVM_WIRE_NODE_NONE) {
		ivy_peer_dead(ivy, liar);
		check(ivy_rebuild_liar(ivy) != liar);
	}
}

static size_t event(struct ivy *ivy, const uint8_t *e, const uint8_t *payload, size_t len,
		    uint64_t *now)
{
	switch (e[0] % 16) {
	case 0:
		ivy_fault(ivy, e[1] % PAGES, e[2] & 1 ? IVY_READ : IVY_WRITE);
		return 0;
	case 1:
		ivy_evict(ivy, e[1]);
		return 0;
	case 2:
		ivy_peer_lost(ivy, e[1]);
		return 0;
	case 3:
		if (e[2] == 0xFF)
			ivy_home_reborn(ivy, e[1]);
		else
			ivy_peer_back(ivy, e[1]);
		return 0;
	case 4:
		ivy_peer_dead(ivy, e[1]);
		return 0;
	case 5:
		ivy_tick(ivy, *now += e[1] * 10u);
		return 0;
	case 6:
		if (e[1] == ANEW) {
			bury_liars(ivy);
			ivy_rebuild_end(ivy);
			return 0;
		}
		return message(ivy, e, payload, len);
	default:
		return message(ivy, e, payload, len);
	}
}

/* A first event that says so: the home was started anew. */
static int begins_anew(const uint8_t *data, size_t len)
{
	return len >= 12 && data[0] % 16 == 7 && data[1] == ANEW;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct ivy_config c = { .env = &env,
				.region = 1,
				.pages = PAGES,
				.page_size = PAGE,
				.epoch = 1,
				.self = 0,
				.nodes = NODES,
				.max_entries = 8,
				.max_txns = 4,
				.max_waiters = 16,
				.max_share = 3,
				.max_pages = 4,
				.max_relays = 4,
				.retry_ns = 100,
				.round_ns = 100,
				.max_old = 3 };
	struct ivy *ivy;
	uint64_t now = 0;
	size_t used;

	memset(access_now, 0, sizeof(access_now));
	memset(bytes, 0, sizeof(bytes));
	nonces = last_xid = last_arg = 0;
	check(ivy_new(&c, &ivy) == 0);
	if (begins_anew(data, len))
		check(ivy_rebuild_begin(ivy, 0, 0xFFFF) == 0);
	for (; len >= 12; data += used, len -= used)
		used = 12 + event(ivy, data, data + 12, len - 12, &now);
	ivy_free(ivy);
	check(memory == 0);
	return 0;
}
