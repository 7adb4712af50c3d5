/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows, of the coherence engine's parts: sets of nodes travel in their shortest form and nothing
 * else is taken for one; the directory has all sharers, in at most 32 bytes for up to four of them,
 * and nothing for a page that nobody else has; limits are kept; and a peer that breaks the rules,
 * with anything that fits in a frame, changes nothing of what others have.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "ivy/internal.h"

static uint64_t rng = 1;

static uint64_t draw(void)
{
	uint64_t x = rng += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

/* ---- an engine alone ----------------------------------------------------------------------- */

#define PAGES 200000u
#define PAGE  64u

/* What the engine under test has said and done last. */
static struct {
	struct gvm_hdr sent;
	uint8_t payload[8192];
	uint16_t to;
	unsigned count, of_type[256];
	int64_t memory, memory_max, fail_in;
	uint8_t access[PAGES];
	uint8_t bytes[PAGE];
	int done, status;
} seen;

static void *env_alloc(void *user, size_t size)
{
	if (seen.fail_in > 0 && --seen.fail_in == 0)
		return NULL;
	seen.memory += (int64_t)size;
	if (seen.memory > seen.memory_max)
		seen.memory_max = seen.memory;
	return malloc(size);
}

static void env_free(void *user, void *mem, size_t size)
{
	seen.memory -= (int64_t)size;
	free(mem);
}

static void env_send(void *user, uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	assert_int_equal(gvm_coh_check(h, PAGE), 0);
	seen.sent = *h;
	seen.to = to;
	seen.count++;
	seen.of_type[h->type]++;
	if (h->length)
		memcpy(seen.payload, payload, h->length);
}

static uint16_t env_home(void *user, uint64_t page)
{
	return page & 1; /* even pages: node 0, odd ones: node 1 */
}

static uint64_t env_nonce(void *user)
{
	return draw();
}

static const void *env_copy_read(void *user, uint64_t page)
{
	return seen.bytes;
}

static int env_copy_write(void *user, uint64_t page, const void *bytes)
{
	assert_int_equal(seen.access[page], IVY_NONE);
	return 0;
}

static void env_copy_drop(void *user, uint64_t page)
{
}

static void env_protect(void *user, uint64_t page, enum ivy_access access)
{
	seen.access[page] = (uint8_t)access;
}

static const void *env_store_read(void *user, uint64_t page)
{
	return NULL;
}

static int env_store_write(void *user, uint64_t page, const void *bytes)
{
	return 0;
}

static void env_fault_done(void *user, uint64_t page, enum ivy_access access, int status)
{
	seen.done++;
	seen.status = status;
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

static struct ivy_config config_of(uint16_t self)
{
	memset(&seen, 0, sizeof(seen));
	return (struct ivy_config){ .env = &env,
				    .region = 9,
				    .pages = PAGES,
				    .page_size = PAGE,
				    .epoch = 3,
				    .self = self,
				    .nodes = GVM_WIRE_NODE_MAX,
				    .max_entries = 1 << 20,
				    .max_txns = 1000,
				    .max_waiters = 1000,
				    .max_pages = 1000,
				    .max_relays = 100,
				    .retry_ns = 1000,
				    .round_ns = 1000 };
}

static struct ivy *engine(uint16_t self)
{
	struct ivy_config c = config_of(self);
	struct ivy *ivy;

	assert_int_equal(ivy_new(&c, &ivy), 0);
	return ivy;
}

static void end(struct ivy *ivy)
{
	ivy_free(ivy);
	assert_int_equal(seen.memory, 0);
}

static struct gvm_hdr message(unsigned type, uint64_t page, uint64_t xid, uint64_t arg)
{
	return (struct gvm_hdr){
		.type = (uint8_t)type, .epoch = 3, .region = 9, .page = page, .xid = xid, .arg = arg
	};
}

static int say(struct ivy *ivy, uint16_t from, unsigned type, uint64_t page, uint64_t xid,
	       uint64_t arg)
{
	struct gvm_hdr h = message(type, page, xid, arg);

	return ivy_receive(ivy, from, &h, NULL);
}

/* ---- sets ---------------------------------------------------------------------------------- */

static uint32_t random_set(uint16_t *ids)
{
	uint32_t span = 1 + (uint32_t)(draw() % GVM_WIRE_NODE_MAX), n = 0, id;
	uint32_t first = (uint32_t)(draw() % (GVM_WIRE_NODE_MAX - span + 1));
	uint32_t one_in = 1 + (uint32_t)(draw() % 100);

	for (id = first; id < first + span; id++)
		if (draw() % one_in == 0)
			ids[n++] = (uint16_t)id;
	return n;
}

static void sets_travel(void **state)
{
	static uint16_t ids[GVM_WIRE_NODE_MAX], back[GVM_WIRE_NODE_MAX];
	uint8_t buf[GVM_SET_MAX];
	int i;

	for (i = 0; i < 2000; i++) {
		uint32_t n = random_set(ids);
		size_t len = gvm_set_encode(buf, ids, n);

		assert_true(len <= GVM_SET_MAX && len <= 4 + 2 * (size_t)n);
		assert_int_equal(gvm_set_count(buf, len, GVM_WIRE_NODE_MAX), n);
		gvm_set_decode(buf, len, back);
		assert_memory_equal(ids, back, n * sizeof(*ids));
	}
}

/* Whatever is taken for a set encodes to something that has the same members. */
static void bytes_that_are_no_set_are_refused(void **state)
{
	static uint16_t ids[GVM_WIRE_NODE_MAX];
	uint8_t buf[GVM_SET_MAX];
	int i, n, taken = 0;
	uint32_t k;

	for (i = 0; i < 200000; i++) {
		size_t len = gvm_set_encode(buf, ids, random_set(ids) % 40), cut;

		for (k = 0; k < 3 && len; k++)
			buf[draw() % (len < 6 ? len : 6)] ^= (uint8_t)(1u << draw() % 8);
		cut = draw() % 2 ? len : draw() % (len + 1);
		n = gvm_set_count(buf, cut, GVM_WIRE_NODE_MAX);
		if (n <= 0)
			continue;
		taken++;
		assert_true((uint32_t)n <= GVM_WIRE_NODE_MAX);
		gvm_set_decode(buf, cut, ids);
		assert_int_equal(gvm_set_count(buf, cut, ids[n - 1]), -GVM_EPROTO);
		for (k = 1; k < (uint32_t)n; k++)
			assert_true(ids[k - 1] < ids[k]);
		assert_true(ids[n - 1] < GVM_WIRE_NODE_MAX);
	}
	assert_true(taken > 1000);
}

/* ---- the directory ------------------------------------------------------------------------- */

static void sharers_are_all_there(void **state)
{
	static uint8_t model[GVM_WIRE_NODE_MAX];
	static uint16_t ids[GVM_WIRE_NODE_MAX];
	struct ivy *ivy = engine(0);
	struct ivy_entry *e = ivy_dir_get(ivy, 0);
	uint32_t count = 0, i, span = 8;

	memset(model, 0, sizeof(model));
	for (i = 0; i < 300000; i++) {
		uint16_t node = (uint16_t)(draw() % span);
		int add = draw() % 100 < (i % 60000 < 40000 ? 70 : 20);

		if (i % 30000 == 0)
			span = i % 60000 ? GVM_WIRE_NODE_MAX : 8u << i / 60000;
		if (add && draw() % 16 == 0)
			seen.fail_in = 1;
		if (!add)
			ivy_sharers_del(ivy, e, node);
		else if (ivy_sharers_add(ivy, e, node) != 0)
			add = model[node];
		seen.fail_in = 0;
		count += (uint32_t)add - model[node];
		model[node] = (uint8_t)add;
		assert_int_equal(ivy_sharers_count(e), count);
		assert_int_equal(ivy_sharers_has(e, node), add);
	}
	ivy_sharers_list(e, ids);
	for (i = 0; i < count; i++) {
		assert_true(i == 0 || ids[i - 1] < ids[i]);
		assert_true(model[ids[i]]);
	}
	ivy_sharers_clear(ivy, e);
	ivy_dir_del(ivy, e);
	end(ivy);
}

static void read_by(struct ivy *ivy, uint16_t node, uint64_t page)
{
	uint64_t request = draw();

	assert_int_equal(say(ivy, node, GVM_COH_READ, page, request, 0), 0);
	assert_int_equal(seen.sent.type, GVM_COH_DATA);
	assert_int_equal(seen.to, node);
	assert_int_equal(say(ivy, node, GVM_COH_DONE, page, request, seen.sent.arg), 0);
}

static void directory_is_small(void **state)
{
	struct ivy *ivy = engine(0);
	struct ivy_stats stats;
	uint64_t page;
	uint16_t node;

	for (page = 0; page < PAGES; page += 2)
		for (node = 1; node <= 4; node++)
			read_by(ivy, node, page);
	ivy_stats(ivy, &stats);
	assert_int_equal(stats.entries, PAGES / 2);
	assert_true(stats.directory_bytes <= 32ull * stats.entries + 256ull * 28);
	assert_int_equal(stats.txns, 0);
	assert_int_equal(stats.waiters, 0);
	for (page = 0; page < PAGES; page += 2)
		for (node = 1; node <= 4; node++)
			assert_int_equal(say(ivy, node, GVM_COH_DROP, page, 0, 1), 0);
	ivy_stats(ivy, &stats);
	assert_int_equal(stats.entries, 0);
	end(ivy);
}

/* ---- limits -------------------------------------------------------------------------------- */

static void a_home_at_its_limit_says_so(void **state)
{
	struct ivy *ivy = engine(0);
	struct ivy_stats stats;
	uint32_t i;

	for (i = 0; i < 3000; i++)
		assert_int_equal(say(ivy, (uint16_t)(1 + i), GVM_COH_READ, 2ull * i, i + 1, 0), 0);
	ivy_stats(ivy, &stats);
	assert_int_equal(stats.txns, 1000);
	assert_int_equal(stats.entries, 1000);
	assert_int_equal(seen.of_type[GVM_COH_NAK], 2000);
	assert_int_equal(seen.sent.status, GVM_ST_LIMIT);
	end(ivy);
}

static void a_node_at_its_limit_says_so(void **state)
{
	struct ivy *ivy = engine(0);
	uint32_t i;

	for (i = 0; i < 1000; i++)
		assert_int_equal(ivy_fault(ivy, 2ull * i + 1, IVY_READ), 1);
	assert_int_equal(ivy_fault(ivy, 2001, IVY_READ), -ENOMEM);
	assert_int_equal(ivy_fault(ivy, PAGES, IVY_READ), -EINVAL);
	assert_int_equal(ivy_fault(ivy, 1, IVY_NONE), -EINVAL);
	ivy_peer_dead(ivy, 1);
	assert_int_equal(seen.done, 1000);
	assert_int_equal(seen.status, -EHOSTDOWN);
	assert_int_equal(ivy_fault(ivy, 1, IVY_READ), -EHOSTDOWN);
	end(ivy);
}

/* An engine that cannot have its k-th allocation has either all or nothing. */
static void allocations_that_fail(void **state)
{
	struct ivy_config c;
	struct ivy *ivy;
	int k;

	for (k = 1; k < 20; k++) {
		c = config_of(0);
		seen.fail_in = k;
		if (ivy_new(&c, &ivy) != 0) {
			assert_int_equal(seen.memory, 0);
			continue;
		}
		ivy_fault(ivy, 1, IVY_WRITE);
		say(ivy, 1, GVM_COH_READ, 0, 5, 0);
		say(ivy, 2, GVM_COH_WRITE, 0, 6, 0);
		ivy_fault(ivy, 0, IVY_READ);
		ivy_peer_lost(ivy, 1);
		end(ivy);
	}
}

/* ---- peers that break the rules ------------------------------------------------------------ */

static uint16_t random_node(void)
{
	return (uint16_t)(draw() % 4 ? draw() % 8 : draw());
}

static unsigned not_this_type; /* random_message() does not send it */

/* Anything, but more often than not something that could be meant. */
static int random_message(struct ivy *ivy, uint16_t from, const uint64_t *ids, unsigned n_ids,
			  uint64_t version)
{
	static const uint32_t lengths[] = { 0, 0, 0, PAGE, 6, 8, 4096, GVM_SET_MAX, 8192 };
	static uint8_t payload[8192];
	struct gvm_hdr h = message((unsigned)(draw() % 20 ? 44 + draw() % 18 : draw()), draw() % 8,
				   draw() % 2 ? ids[draw() % n_ids] : draw(), 0);
	uint16_t set[4];

	if (h.type == not_this_type)
		h.type = GVM_COH_READ;
	h.arg = draw() % 3 == 0 ? draw() % 8 : draw() % 2 ? version + draw() % 5 - 2 : draw();
	h.flags = (uint16_t)(draw() % 2 ? 0 : draw() % 2 ? 1u << draw() % 4 : draw());
	h.status = (uint16_t)(draw() % 3 ? 0 : draw() % 20);
	h.length = lengths[draw() % (sizeof(lengths) / sizeof(lengths[0]))];
	if (h.length == 6 || h.length == 8) {
		set[0] = (uint16_t)(draw() % 8);
		set[1] = (uint16_t)(set[0] + 1 + draw() % 300);
		h.length = (uint32_t)gvm_set_encode(payload, set, h.length == 6 ? 1 : 2);
	}
	if (draw() % 50 == 0)
		h.region++;
	if (draw() % 50 == 0)
		h.epoch++;
	if (draw() % 50 == 0)
		h.page = draw();
	return ivy_receive(ivy, from, &h, payload);
}

/* Node 5 becomes the owner of page 0 of this home. Returns the version. */
static uint64_t make_owner(struct ivy *ivy)
{
	uint64_t version;

	assert_int_equal(say(ivy, 5, GVM_COH_WRITE, 0, 77, 0), 0);
	assert_int_equal(seen.sent.type, GVM_COH_GRANT);
	version = seen.sent.arg;
	assert_int_equal(say(ivy, 5, GVM_COH_DONE, 0, 77, version), 0);
	return version;
}

/* Node 6 says what it likes. It may ask to write, and is served then: that is no breach, and not
 * here. */
static void strangers_do_not_move_an_owner(void **state)
{
	struct ivy *ivy = engine(0);
	uint64_t version = make_owner(ivy);
	struct ivy_view v;
	int i;

	not_this_type = GVM_COH_WRITE;
	for (i = 0; i < 300000; i++) {
		uint64_t ids[] = { 77, seen.sent.xid, 0 };

		random_message(ivy, 6, ids, 3, version);
		ivy_home_view(ivy, 0, &v);
		assert_int_equal(v.owner, 5);
		assert_int_equal(v.version, version);
		assert_false(v.lost);
		if (i % 1000 == 0)
			ivy_tick(ivy, (uint64_t)i * 100);
	}
	not_this_type = 0;
	assert_true(seen.memory_max < 1 << 20);
	end(ivy);
}

/* Node 6 asks for the page and then says that it has nothing of it: the owner has kept it. */
static void who_wants_nothing_takes_nothing(void **state)
{
	struct ivy *ivy = engine(0);
	uint64_t version = make_owner(ivy);
	struct gvm_hdr h = message(GVM_COH_DONE, 0, 78, 0);
	struct ivy_view v;

	assert_int_equal(say(ivy, 6, GVM_COH_WRITE, 0, 78, 0), 0);
	assert_int_equal(seen.sent.type, GVM_COH_GRANT);
	h.status = GVM_ST_NOENT;
	assert_int_equal(ivy_receive(ivy, 6, &h, NULL), 0);
	assert_int_equal(seen.sent.type, GVM_COH_RECALL);
	assert_int_equal(seen.to, 5);
	h = message(GVM_COH_BACK, 0, seen.sent.xid, version);
	h.flags = GVM_F_ZERO;
	assert_int_equal(ivy_receive(ivy, 6, &h, NULL), 0); /* not asked */
	ivy_home_view(ivy, 0, &v);
	assert_true(v.busy);
	assert_int_equal(ivy_receive(ivy, 5, &h, NULL), 0);
	ivy_home_view(ivy, 0, &v);
	assert_false(v.entry);
	end(ivy);
}

/* This node has page 1 for writing and page 3 for reading; its home is node 1. All others say what
 * they like. */
static void strangers_do_not_take_a_page(void **state)
{
	struct ivy *ivy = engine(0);
	struct gvm_hdr grant;
	struct ivy_stats stats;
	int i;

	assert_int_equal(ivy_fault(ivy, 1, IVY_WRITE), 1);
	grant = message(GVM_COH_GRANT, 1, seen.sent.xid, 50);
	grant.flags = GVM_F_ZERO;
	assert_int_equal(ivy_receive(ivy, 1, &grant, NULL), 0);
	assert_int_equal(seen.done, 1);
	assert_int_equal(seen.access[1], IVY_WRITE);
	for (i = 0; i < 300000; i++) {
		uint64_t ids[] = { grant.xid, seen.sent.xid, 0 };
		uint16_t from = random_node();

		if (from == 1)
			from = 2;
		random_message(ivy, from, ids, 3, 50);
		assert_int_equal(seen.access[1], IVY_WRITE);
		assert_int_equal(ivy_page_version(ivy, 1), 50);
		if (i % 1000 == 0)
			ivy_tick(ivy, (uint64_t)i * 100);
	}
	ivy_stats(ivy, &stats);
	assert_true(stats.refused > 1000 && stats.stale > 100);
	assert_true(seen.memory_max < 4 << 20);
	end(ivy);
}

/* What a relay was given to pass on: nodes that there are, and not itself; and not for ever. */
static void a_relay_does_not_wait_for_ever(void **state)
{
	struct ivy_config c = config_of(0);
	struct gvm_hdr inv = message(GVM_COH_INV, 1, 7, 9);
	const uint16_t sets[][2] = { { 2, 30 }, { 0, 2 }, { 2, 3 } };
	struct ivy_stats stats;
	uint8_t set[GVM_SET_MAX];
	struct ivy *ivy;
	int i;

	c.nodes = 30;
	assert_int_equal(ivy_new(&c, &ivy), 0);
	for (i = 0; i < 3; i++) {
		inv.length = (uint32_t)gvm_set_encode(set, sets[i], 2);
		assert_int_equal(ivy_receive(ivy, 1, &inv, set), i < 2 ? -EPROTO : 0);
	}
	assert_int_equal(say(ivy, 3, GVM_COH_ACK, 1, 7, 0), 0);
	ivy_stats(ivy, &stats);
	assert_int_equal(stats.relays, 1);
	ivy_tick(ivy, ivy_next_tick(ivy));
	ivy_stats(ivy, &stats);
	assert_int_equal(stats.relays, 0);
	assert_int_equal(seen.sent.type, GVM_COH_ACK);
	assert_int_equal(seen.to, 1);
	assert_int_equal(gvm_set_count(seen.payload, seen.sent.length, 30), 1); /* node 2 is left */
	end(ivy);
}

/* Everybody, the home too: nothing ends the program, nothing grows beyond the limits. */
static void nobody_can_do_more_than_is_bounded(void **state)
{
	struct ivy *ivy = engine(0);
	struct ivy_stats stats;
	int i;

	for (i = 0; i < 500000; i++) {
		uint64_t ids[] = { seen.sent.xid, seen.sent.xid, 0, 1 };

		random_message(ivy, random_node(), ids, 4, seen.sent.arg);
		if (i % 64 == 0)
			ivy_fault(ivy, draw() % 8, draw() % 2 ? IVY_READ : IVY_WRITE);
		if (i % 512 == 0)
			ivy_evict(ivy, draw() % 8);
		if (i % 1000 == 0)
			ivy_tick(ivy, (uint64_t)i * 100);
		if (i % 10000 == 0)
			ivy_peer_lost(ivy, (uint16_t)(draw() % 8));
		if (i % 10000 == 5000)
			ivy_peer_dead(ivy, (uint16_t)(draw() % 8));
		if (i % 1000 == 500)
			ivy_peer_back(ivy, (uint16_t)(draw() % 8));
	}
	ivy_stats(ivy, &stats);
	assert_true(stats.waiters <= 1000 && stats.txns <= 8 && stats.pages <= 8);
	assert_true(stats.relays <= 100);
	assert_true(seen.memory_max < 4 << 20);
	end(ivy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sets_travel),
		cmocka_unit_test(bytes_that_are_no_set_are_refused),
		cmocka_unit_test(sharers_are_all_there),
		cmocka_unit_test(directory_is_small),
		cmocka_unit_test(a_home_at_its_limit_says_so),
		cmocka_unit_test(a_node_at_its_limit_says_so),
		cmocka_unit_test(allocations_that_fail),
		cmocka_unit_test(strangers_do_not_move_an_owner),
		cmocka_unit_test(who_wants_nothing_takes_nothing),
		cmocka_unit_test(strangers_do_not_take_a_page),
		cmocka_unit_test(a_relay_does_not_wait_for_ever),
		cmocka_unit_test(nobody_can_do_more_than_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
