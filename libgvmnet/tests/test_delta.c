/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows, of deltas: a page comes out as it went in, whatever has changed of it; a delta never takes
 * more room than it is given, and none is made that does not fit; put upon another base than its
 * own, or spoilt by a bit, it is noticed; what is no delta is refused and touches nothing beyond
 * the page. And what an engine makes of it: that an older content is asked for by its digest,
 * answered with what has changed, in full when the base is not there any more, and that memory is
 * bounded.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "ivy/internal.h"

static uint64_t rng = 7;

static uint64_t draw(void)
{
	uint64_t x = rng += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

/* ---- deltas alone -------------------------------------------------------------------------- */

#define SIZE 4096u

static uint8_t base[SIZE], page[SIZE], buf[2 * SIZE], guarded[SIZE + 64];

static void fill(uint8_t *p, uint32_t size)
{
	uint32_t i;

	for (i = 0; i < size; i++)
		p[i] = (uint8_t)draw();
}

/* Some runs of it: other bytes, or zeros. */
static void change(uint8_t *p, uint32_t size)
{
	uint32_t runs = (uint32_t)(draw() % 6), at, n;

	for (; runs; runs--) {
		at = (uint32_t)(draw() % size);
		n = 1 + (uint32_t)(draw() % (draw() % 2 ? 12 : size));
		n = n < size - at ? n : size - at;
		if (draw() % 4 == 0)
			memset(p + at, 0, n);
		else
			fill(p + at, n);
	}
}

static size_t delta_of(uint32_t size, size_t room)
{
	return gvm_delta_encode(buf, room, base, gvm_delta_digest(base, size), page,
				gvm_delta_digest(page, size), size);
}

static void pages_come_out_as_they_went_in(void **state)
{
	int i;

	for (i = 0; i < 30000; i++) {
		uint32_t size = i % 3 ? SIZE : 1 + (uint32_t)(draw() % SIZE);
		size_t len, room;

		if (i % 100 == 0)
			fill(base, SIZE);
		memcpy(page, base, size);
		change(page, size);
		len = delta_of(size, sizeof(buf));
		assert_true(len >= GVM_DELTA_HEAD);
		assert_int_equal(gvm_delta_check(buf, len, size), 0);
		assert_int_equal(gvm_delta_base(buf), gvm_delta_digest(base, size));
		memcpy(guarded, base, size);
		memset(guarded + size, 0xA5, 64);
		assert_int_equal(gvm_delta_apply(guarded, buf, len, size), 0);
		assert_memory_equal(guarded, page, size);
		assert_int_equal(guarded[size], 0xA5);
		room = draw() % (len + 8);
		memset(buf, 0xA5, sizeof(buf));
		assert_int_equal(delta_of(size, room), room < len ? 0 : len);
		assert_int_equal(buf[room < len ? room : len], 0xA5);
	}
}

static void what_is_put_upon_another_base_is_noticed(void **state)
{
	int i, noticed = 0;

	for (i = 0; i < 30000; i++) {
		uint32_t bit = (uint32_t)(draw() % (8 * SIZE));
		size_t len;

		fill(base, i % 64 ? 64 : SIZE);
		memcpy(page, base, SIZE);
		change(page, SIZE);
		len = delta_of(SIZE, sizeof(buf));
		memcpy(guarded, base, SIZE);
		guarded[bit / 8] ^= (uint8_t)(1u << bit % 8);
		if (gvm_delta_apply(guarded, buf, len, SIZE) == 0) /* it was overwritten */
			assert_memory_equal(guarded, page, SIZE);
		else
			noticed++;
	}
	assert_true(noticed > 10000);
}

/* Whatever it is, it stays within the page; a bit that is another one is noticed. */
static void bytes_that_are_no_delta_are_refused(void **state)
{
	int i, taken = 0, refused = 0;

	fill(base, SIZE);
	for (i = 0; i < 200000; i++) {
		size_t len, cut;
		uint32_t k;

		memcpy(page, base, SIZE);
		memset(page + draw() % (SIZE - 8), i, draw() % 8);
		page[draw() % SIZE] ^= 1;
		len = delta_of(SIZE, sizeof(buf));
		for (k = 0; k <= draw() % 3; k++)
			buf[8 + draw() % (len - 8)] ^= (uint8_t)(1u << draw() % 8);
		cut = draw() % 4 ? len : draw() % (len + 1);
		if (gvm_delta_check(buf, cut, SIZE) != 0) {
			refused++;
			continue;
		}
		memcpy(guarded, base, SIZE);
		memset(guarded + SIZE, 0xA5, 64);
		if (gvm_delta_apply(guarded, buf, cut, SIZE) == 0)
			assert_memory_equal(guarded, page, SIZE);
		else
			taken++;
		for (k = 0; k < 64; k++)
			assert_int_equal(guarded[SIZE + k], 0xA5);
	}
	assert_true(taken > 1000 && refused > 1000);
}

static void digests_tell_contents_apart(void **state)
{
	uint64_t *all = calloc(8 * SIZE + 1, sizeof(*all));
	uint32_t bit, i;

	memset(page, 0, SIZE);
	all[8 * SIZE] = gvm_delta_digest(page, SIZE);
	for (bit = 0; bit < 8 * SIZE; bit++) {
		page[bit / 8] ^= (uint8_t)(1u << bit % 8);
		all[bit] = gvm_delta_digest(page, SIZE);
		page[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	for (bit = 0; bit <= 8 * SIZE; bit += 61)
		for (i = 0; i <= 8 * SIZE; i++)
			assert_true(i == bit || all[i] != all[bit]);
	free(all);
	/* the same on all machines: it is part of the protocol */
	for (i = 0; i < SIZE; i++)
		page[i] = (uint8_t)(i * 7);
	assert_true(gvm_delta_digest(page, SIZE) == 0x8b688f642ecf8bbbull);
	assert_true(gvm_delta_digest(page, 45) == 0x6bc5cf61bdb1a118ull);
}

/* ---- an engine ------------------------------------------------------------------------------ */

#define PAGES 64u

static struct {
	struct gvm_hdr sent;
	uint8_t payload[SIZE];
	uint8_t copy[PAGES][SIZE];
	uint8_t store[SIZE]; /* of a home, if it has_store */
	int has_store;
	int64_t memory;
	int done;
} seen;

static void *env_alloc(void *user, size_t size)
{
	seen.memory += (int64_t)size;
	return malloc(size);
}

static void env_free(void *user, void *mem, size_t size)
{
	seen.memory -= (int64_t)size;
	free(mem);
}

static void env_send(void *user, uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	assert_int_equal(gvm_coh_check(h, SIZE), 0);
	seen.sent = *h;
	if (h->length)
		memcpy(seen.payload, payload, h->length);
}

static uint16_t env_home(void *user, uint64_t at)
{
	return 1;
}

static uint64_t env_nonce(void *user)
{
	return draw();
}

static const void *env_copy_read(void *user, uint64_t at)
{
	return seen.copy[at];
}

static int env_copy_write(void *user, uint64_t at, const void *bytes)
{
	memset(seen.copy[at], 0, SIZE);
	if (bytes)
		memcpy(seen.copy[at], bytes, SIZE);
	return 0;
}

static void env_copy_drop(void *user, uint64_t at)
{
	memset(seen.copy[at], 0xDD, SIZE);
}

static void env_protect(void *user, uint64_t at, enum ivy_access access)
{
}

static const void *env_store_read(void *user, uint64_t at)
{
	return seen.has_store ? seen.store : NULL;
}

static int env_store_write(void *user, uint64_t at, const void *bytes)
{
	memcpy(seen.store, bytes, SIZE);
	return 0;
}

static void env_fault_done(void *user, uint64_t at, enum ivy_access access, int status)
{
	seen.done++;
}

static const struct ivy_env env = {
	.alloc = env_alloc,
	.free = env_free,
	.send = env_send,
	.home = env_home,
	.nonce = env_nonce,
	.copy_read = env_copy_read,
	.copy_write = env_copy_write,
	.copy_drop = env_copy_drop,
	.protect = env_protect,
	.store_read = env_store_read,
	.store_write = env_store_write,
	.fault_done = env_fault_done,
};

/* A node of a cluster in which node 1 is the home of all pages. */
static struct ivy *engine_of(uint16_t self, uint32_t max_old)
{
	struct ivy_config c = { .env = &env,
				.region = 9,
				.pages = PAGES,
				.page_size = SIZE,
				.epoch = 3,
				.self = self,
				.nodes = 4,
				.max_entries = 1,
				.max_txns = 1,
				.max_waiters = 1,
				.max_pages = PAGES,
				.max_relays = 1,
				.retry_ns = 1000,
				.round_ns = 1000,
				.max_old = max_old };
	struct ivy *ivy;

	memset(&seen, 0, sizeof(seen));
	assert_int_equal(ivy_new(&c, &ivy), 0);
	return ivy;
}

static struct ivy *engine(uint32_t max_old)
{
	return engine_of(0, max_old);
}

static void end(struct ivy *ivy)
{
	ivy_free(ivy);
	assert_int_equal(seen.memory, 0);
}

static int say(struct ivy *ivy, unsigned type, uint64_t at, uint64_t xid, uint64_t arg,
	       unsigned flags, const void *payload, size_t len)
{
	struct gvm_hdr h = { .type = (uint8_t)type, .epoch = 3, .region = 9, .page = at };

	h.xid = xid;
	h.arg = arg;
	h.flags = (uint16_t)flags;
	h.length = (uint32_t)len;
	return ivy_receive(ivy, 1, &h, len ? payload : NULL);
}

/* The node reads the page, which is what base is, and is told to give it up. */
static void had(struct ivy *ivy, uint64_t at, uint64_t version)
{
	assert_int_equal(ivy_fault(ivy, at, IVY_READ), 1);
	assert_int_equal(say(ivy, GVM_COH_DATA, at, seen.sent.xid, version, 0, base, SIZE), 0);
	assert_int_equal(say(ivy, GVM_COH_INV, at, 1000 + version, version + 1, 0, NULL, 0), 0);
	assert_int_equal(ivy_page_access(ivy, at), IVY_NONE);
}

static void what_a_node_had_it_names(void **state)
{
	struct ivy *ivy = engine(8);
	uint64_t xid;
	size_t len;

	fill(base, SIZE);
	memcpy(page, base, SIZE);
	page[77] ^= 1;
	had(ivy, 3, 50);
	assert_int_equal(ivy_fault(ivy, 3, IVY_READ), 1);
	assert_int_equal(seen.sent.length, GVM_COH_BASE_LEN);
	assert_true(gvm_delta_base(seen.payload) == gvm_delta_digest(base, SIZE));
	xid = seen.sent.xid;
	len = delta_of(SIZE, sizeof(buf));
	assert_int_equal(len, GVM_DELTA_HEAD + 5);
	assert_int_equal(say(ivy, GVM_COH_DATA, 3, xid, 52, GVM_F_DELTA, buf, len), 0);
	assert_int_equal(ivy_page_access(ivy, 3), IVY_READ);
	assert_memory_equal(seen.copy[3], page, SIZE);
	end(ivy);
}

/* What is not of use is asked for in full, by the same request, and nothing has happened. */
static void a_base_that_is_not_there(void **state)
{
	struct ivy *ivy = engine(8);
	struct ivy_stats st;
	uint64_t xid;
	size_t len;
	int spoilt;

	for (spoilt = 0; spoilt < 2; spoilt++) {
		fill(base, SIZE);
		had(ivy, 5, 50 + 10u * (unsigned)spoilt);
		if (!spoilt)
			fill(base, SIZE); /* a delta of another one */
		memcpy(page, base, SIZE);
		page[9] ^= 4;
		assert_int_equal(ivy_fault(ivy, 5, IVY_READ), 1);
		xid = seen.sent.xid;
		len = delta_of(SIZE, sizeof(buf));
		buf[8] ^= (uint8_t)spoilt;
		assert_int_equal(say(ivy, GVM_COH_DATA, 5, xid, 70, GVM_F_DELTA, buf, len), 0);
		assert_int_equal(ivy_page_access(ivy, 5), IVY_NONE);
		assert_int_equal(seen.sent.type, GVM_COH_READ);
		assert_int_equal(seen.sent.xid, xid);
		assert_int_equal(seen.sent.length, 0);
		assert_int_equal(say(ivy, GVM_COH_DATA, 5, xid, 70, 0, page, SIZE), 0);
		assert_int_equal(ivy_page_access(ivy, 5), IVY_READ);
		assert_int_equal(say(ivy, GVM_COH_INV, 5, 2000 + (unsigned)spoilt, 71, 0, NULL, 0),
				 0);
	}
	ivy_stats(ivy, &st);
	assert_int_equal(st.delta_unknown, 2);
	assert_int_equal(st.refused, 0);
	end(ivy);
}

/* A delta against zeros needs no base: one that does not come out right is a breach. */
static void a_delta_that_is_wrong_is_refused(void **state)
{
	struct ivy *ivy = engine(0);
	uint64_t xid;
	size_t len;

	memset(base, 0, SIZE);
	memcpy(page, base, SIZE);
	page[3000] = 1;
	assert_int_equal(ivy_fault(ivy, 7, IVY_READ), 1);
	xid = seen.sent.xid;
	assert_int_equal(seen.sent.length, 0);
	len = delta_of(SIZE, sizeof(buf));
	gvm_delta_base_put(buf, 0);
	buf[8] ^= 1;
	assert_int_equal(say(ivy, GVM_COH_DATA, 7, xid, 50, GVM_F_DELTA, buf, len), -EPROTO);
	buf[8] ^= 1;
	assert_int_equal(say(ivy, GVM_COH_DATA, 7, xid, 50, GVM_F_DELTA, buf, len - 1), -EPROTO);
	assert_int_equal(say(ivy, GVM_COH_DATA, 7, xid, 50, GVM_F_DELTA, buf, 15), -EPROTO);
	assert_int_equal(ivy_page_access(ivy, 7), IVY_NONE);
	assert_int_equal(say(ivy, GVM_COH_DATA, 7, xid, 50, GVM_F_DELTA, buf, len), 0);
	assert_memory_equal(seen.copy[7], page, SIZE);
	end(ivy);
}

/* The writer sends what it has changed since it had the page. */
static void an_owner_sends_what_has_changed(void **state)
{
	struct ivy *ivy = engine(8);
	uint8_t digest[GVM_COH_BASE_LEN];
	struct ivy_stats st;

	fill(base, SIZE);
	assert_int_equal(ivy_fault(ivy, 2, IVY_WRITE), 1);
	assert_int_equal(say(ivy, GVM_COH_GRANT, 2, seen.sent.xid, 50, 0, base, SIZE), 0);
	seen.copy[2][100] ^= 1;
	seen.copy[2][4000] ^= 1;
	gvm_delta_base_put(digest, gvm_delta_digest(base, SIZE));
	assert_int_equal(say(ivy, GVM_COH_FWD_READ, 2, 99, 3, 0, digest, sizeof(digest)), 0);
	assert_int_equal(seen.sent.type, GVM_COH_DATA);
	assert_int_equal(seen.sent.flags, GVM_F_DELTA);
	assert_int_equal(seen.sent.length, GVM_DELTA_HEAD + 10);
	assert_int_equal(gvm_delta_apply(base, seen.payload, seen.sent.length, SIZE), 0);
	assert_memory_equal(base, seen.copy[2], SIZE);
	assert_int_equal(say(ivy, GVM_COH_FWD_READ, 2, 99, 3, 0, NULL, 0), 0);
	assert_int_equal(seen.sent.length, SIZE);
	gvm_delta_base_put(digest, 5); /* who knows */
	assert_int_equal(say(ivy, GVM_COH_FWD_READ, 2, 99, 3, 0, digest, sizeof(digest)), 0);
	assert_int_equal(seen.sent.length, SIZE);
	gvm_delta_base_put(digest, gvm_delta_digest(seen.copy[2], SIZE)); /* it has it already */
	assert_int_equal(say(ivy, GVM_COH_FWD_READ, 2, 99, 3, 0, digest, sizeof(digest)), 0);
	assert_int_equal(seen.sent.length, GVM_DELTA_HEAD);
	ivy_stats(ivy, &st);
	assert_int_equal(st.deltas, 2);
	assert_int_equal(st.delta_saved, 2 * SIZE - 2 * GVM_DELTA_HEAD - 10);
	end(ivy);
}

/* The node writes the page, which it has got from this node, and evicts it. */
static void write_and_evict(struct ivy *ivy, uint64_t at, uint16_t from)
{
	struct gvm_hdr h = { .type = GVM_COH_DATA, .epoch = 3, .region = 9, .page = at };

	assert_int_equal(ivy_fault(ivy, at, IVY_WRITE), 1);
	h.xid = seen.sent.xid;
	h.arg = 60;
	h.length = SIZE;
	assert_int_equal(ivy_receive(ivy, from, &h, base), 0);
	assert_int_equal(say(ivy, GVM_COH_GRANT, at, h.xid, 61, GVM_F_WAIT, NULL, 0), 0);
	assert_int_equal(ivy_page_access(ivy, at), IVY_WRITE);
	seen.copy[at][77] ^= 1;
	assert_int_equal(ivy_evict(ivy, at), 0);
	assert_int_equal(seen.sent.type, GVM_COH_WB);
}

/* To the home goes what has changed of what it had; whole, if another node had it, or the first try
 * has had no answer. */
static void what_is_written_back_is_what_has_changed(void **state)
{
	struct ivy *ivy = engine(8);

	fill(base, SIZE);
	write_and_evict(ivy, 3, 1);
	assert_int_equal(seen.sent.flags, GVM_F_DELTA);
	assert_true(seen.sent.length < SIZE / 4);
	assert_true(gvm_delta_base(seen.payload) == gvm_delta_digest(base, SIZE));
	ivy_tick(ivy, 1 << 20);
	assert_int_equal(seen.sent.type, GVM_COH_WB);
	assert_int_equal(seen.sent.length, SIZE);
	write_and_evict(ivy, 4, 2);
	assert_int_equal(seen.sent.length, SIZE);
	end(ivy);
}

static int from_owner(struct ivy *ivy, unsigned type, uint64_t xid, uint64_t arg, unsigned flags,
		      const void *payload, size_t len)
{
	struct gvm_hdr h = { .type = (uint8_t)type, .epoch = 3, .region = 9 };

	h.xid = xid;
	h.arg = arg;
	h.flags = (uint16_t)flags;
	h.length = (uint32_t)len;
	return ivy_receive(ivy, 2, &h, len ? payload : NULL);
}

/* A home puts it upon its backing copy; if that is another one it fetches all of the page. */
static void a_home_takes_what_has_changed(void **state)
{
	for (int known = 0; known < 2; known++) {
		struct ivy *ivy = engine_of(1, 8);
		uint64_t version;
		size_t len;

		seen.has_store = 1;
		memcpy(page, base, SIZE);
		page[77] ^= 1;
		memcpy(seen.store, base, SIZE);
		seen.store[5] ^= (uint8_t)!known;
		assert_int_equal(from_owner(ivy, GVM_COH_WRITE, 7, 0, 0, NULL, 0), 0);
		version = seen.sent.arg;
		assert_int_equal(from_owner(ivy, GVM_COH_DONE, 7, version, 0, NULL, 0), 0);
		len = gvm_delta_encode(buf, sizeof(buf), base, gvm_delta_digest(base, SIZE), page,
				       gvm_delta_digest(page, SIZE), SIZE);
		assert_int_equal(from_owner(ivy, GVM_COH_WB, 8, version, GVM_F_DELTA, buf, len), 0);
		if (!known) {
			assert_int_equal(seen.sent.type, GVM_COH_RECALL);
			assert_memory_not_equal(seen.store, page, SIZE);
			assert_int_equal(
			    from_owner(ivy, GVM_COH_BACK, seen.sent.xid, version, 0, page, SIZE),
			    0);
			assert_int_equal(seen.sent.type, GVM_COH_FREE);
		} else {
			assert_int_equal(seen.sent.type, GVM_COH_WB_OK);
		}
		assert_memory_equal(seen.store, page, SIZE);
		end(ivy);
	}
}

static void memory_is_bounded(void **state)
{
	struct ivy *ivy = engine(8);
	struct ivy_stats st;
	uint64_t version = 100;
	int i;

	for (i = 0; i < 2000; i++) {
		fill(base, 64);
		had(ivy, draw() % (i < 1000 ? PAGES : 2), version += 2);
		ivy_stats(ivy, &st);
		assert_true(st.old <= 8);
	}
	assert_int_equal(st.old, 8); /* four of each */
	assert_true(seen.memory < 10 * (int64_t)SIZE + 20000);
	end(ivy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_come_out_as_they_went_in),
		cmocka_unit_test(what_is_put_upon_another_base_is_noticed),
		cmocka_unit_test(bytes_that_are_no_delta_are_refused),
		cmocka_unit_test(digests_tell_contents_apart),
		cmocka_unit_test(what_a_node_had_it_names),
		cmocka_unit_test(a_base_that_is_not_there),
		cmocka_unit_test(a_delta_that_is_wrong_is_refused),
		cmocka_unit_test(an_owner_sends_what_has_changed),
		cmocka_unit_test(what_is_written_back_is_what_has_changed),
		cmocka_unit_test(a_home_takes_what_has_changed),
		cmocka_unit_test(memory_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
