/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows, of the coherence engine's parts: sets of nodes travel in their shortest form and nothing
 * else is taken for one; the directory has all sharers, in at most 32 bytes for up to four of them,
 * and nothing for a page that nobody else has; limits are kept; and a peer that breaks the rules,
 * with anything that fits in a frame, changes nothing of what others have.
 */
#include "ivy_alone.h"

/* ---- sets ---------------------------------------------------------------------------------- */

static int compare_ids(const void *a, const void *b)
{
	return *(const uint16_t *)a - *(const uint16_t *)b;
}

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
		for (uint16_t id = 0; id < GVM_WIRE_NODE_MAX; id = (uint16_t)(id + 1 + draw() % 99))
			assert_int_equal(gvm_set_has(buf, len, id),
					 bsearch(&id, ids, n, sizeof(id), compare_ids) != NULL);
		assert_true(n == 0 || gvm_set_first(buf) == ids[0]);
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

static uint64_t directory_bytes(const struct ivy *ivy, uint64_t entries)
{
	struct ivy_stats stats;

	ivy_stats(ivy, &stats);
	assert_int_equal(stats.entries, entries);
	return stats.directory_bytes;
}

/* However many pages: 32 bytes each, and what does not depend on their number: a chunk of 64
 * entries, the smallest index, the smallest array of chunks. From 2,000 on 32 are enough for that,
 * too. */
static void assert_small(const struct ivy *ivy, uint64_t entries)
{
	uint64_t bytes = directory_bytes(ivy, entries);

	assert_true(bytes <= 32 * entries + 64 * 28 + 256 + 64);
	assert_true(entries < 2000 || bytes <= 32 * entries);
}

static void directory_is_small(void **state)
{
	struct ivy *ivy = engine(0);
	struct ivy_stats stats;
	uint64_t page, entries = 0;
	uint16_t node;

	assert_int_equal(directory_bytes(ivy, 0), 0);
	for (page = 0; page < PAGES; page += 2) {
		for (node = 1; node <= 4; node++)
			read_by(ivy, node, page);
		assert_small(ivy, ++entries);
	}
	ivy_stats(ivy, &stats);
	assert_int_equal(stats.txns, 0);
	assert_int_equal(stats.waiters, 0);
	for (page = 0; page < PAGES; page += 2)
		for (node = 1; node <= 4; node++)
			assert_int_equal(say(ivy, node, GVM_COH_DROP, page, 0, 1), 0);
	assert_int_equal(directory_bytes(ivy, 0), 0); /* all that was shared is so no more */
	read_by(ivy, 1, 0);
	assert_small(ivy, 1);
	end(ivy);
}

/* What one node has alone has an entry while it does, and what nobody has, has none: not before it
 * was touched, and not when it has come home. */
static void a_page_that_came_home_has_no_entry(void **state)
{
	struct ivy *ivy = engine(0);
	uint64_t round, version;

	for (round = 0; round < 1000; round++) {
		uint64_t page = 2 * (round % 3);
		struct gvm_hdr wb;

		assert_int_equal(say(ivy, 1, GVM_COH_WRITE, page, 5 + round, 0), 0);
		version = seen.sent.arg;
		assert_int_equal(say(ivy, 1, GVM_COH_DONE, page, 5 + round, version), 0);
		assert_small(ivy, 1);
		assert_true(directory_bytes(ivy, 1) > 0);
		wb = message(GVM_COH_WB, page, 7, version);
		wb.flags = GVM_F_ZERO;
		assert_int_equal(ivy_receive(ivy, 1, &wb, NULL), 0);
		assert_int_equal(seen.sent.type, GVM_COH_WB_OK);
		assert_small(ivy, 0);
	}
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

/* Rounds that all nodes are to be told of, without end: what a relay keeps of them has a bound, and
 * the rest is said not to have been told. */
static void sets_to_pass_on_are_bounded(void **state)
{
	static uint16_t ids[GVM_WIRE_NODE_MAX];
	static uint8_t set[GVM_SET_MAX];
	struct ivy_config c = config_of(3);
	struct gvm_hdr h;
	struct ivy *ivy;
	uint32_t n = 0;

	c.max_relays = 4096;
	assert_int_equal(ivy_new(&c, &ivy), 0);
	for (uint16_t id = 4; id < GVM_WIRE_NODE_MAX; id++)
		ids[n++] = id;
	h = message(GVM_COH_INV, 0, 0, 1);
	h.length = (uint32_t)gvm_set_encode(set, ids, n);
	for (h.xid = 1; h.xid <= 4096; h.xid++)
		assert_int_equal(ivy_receive(ivy, 2, &h, set), 0);
	assert_true(seen.memory_max < 8 << 20);
	assert_true(seen.of_type[GVM_COH_ACK] > 4000);
	ivy_peer_lost(ivy, 2);
	assert_int_equal(ivy->relay_ids, 0);
	end(ivy);
}

/* The node reads page 0, which an owner sends under this version. */
static void reads_from(struct ivy *node, uint16_t owner, uint64_t version)
{
	struct gvm_hdr h;

	assert_int_equal(ivy_fault(node, 0, IVY_READ), 1);
	h = message(GVM_COH_DATA, 0, seen.sent.xid, version);
	h.flags = GVM_F_ZERO;
	assert_int_equal(ivy_receive(node, owner, &h, NULL), 0);
	assert_int_equal(seen.access[0], IVY_READ);
}

/* An owner sends its page under a version that is not the page's: the reader would keep that copy
 * when others write, as it were newer than all that follows. So the home takes it from it. */
static void a_copy_of_another_version_is_taken_back(void **state)
{
	struct ivy *home = engine(0), *node;
	struct ivy_view v;

	make_owner(home);
	assert_int_equal(say(home, 7, GVM_COH_READ, 0, 78, 0), 0);
	assert_int_equal(seen.sent.type, GVM_COH_FWD_READ);
	assert_int_equal(say(home, 7, GVM_COH_DONE, 0, 78, UINT64_MAX - 1), 0);
	assert_int_equal(seen.of_type[GVM_COH_INV], 1);
	assert_int_equal(seen.sent.type, GVM_COH_ASK);
	assert_int_equal(seen.to, 7);
	assert_true(ivy_home_has(home, 0, 7));
	ivy_home_view(home, 0, &v);
	assert_int_equal(v.owner, 5);
	end(home);

	node = engine(3);
	reads_from(node, 5, UINT64_MAX - 1);
	assert_int_equal(say(node, 0, GVM_COH_INV, 0, 99, UINT64_MAX), 0);
	assert_int_equal(seen.access[0], IVY_NONE);
	end(node);
}

/* What takes that copy may be lost with the connection: nobody may write before it has arrived. */
static void a_copy_is_taken_back_until_it_is_gone(void **state)
{
	struct gvm_hdr nothing = message(GVM_COH_DONE, 0, 78, 0);
	struct ivy *home = engine(0);

	make_owner(home);
	assert_int_equal(say(home, 7, GVM_COH_READ, 0, 78, 0), 0);
	assert_int_equal(say(home, 7, GVM_COH_DONE, 0, 78, UINT64_MAX - 1), 0);
	assert_int_equal(say(home, 6, GVM_COH_WRITE, 0, 79, 0), 0);
	ivy_peer_lost(home, 7);
	ivy_peer_back(home, 7);
	assert_int_equal(seen.sent.type, GVM_COH_ASK);
	assert_int_equal(say(home, 7, GVM_COH_DONE, 0, 78, UINT64_MAX - 1), 0);
	assert_int_equal(seen.of_type[GVM_COH_INV], 2);
	assert_int_equal(seen.of_type[GVM_COH_FWD_WRITE], 0);
	nothing.status = GVM_ST_NOENT;
	assert_int_equal(ivy_receive(home, 7, &nothing, NULL), 0);
	assert_int_equal(seen.of_type[GVM_COH_FWD_WRITE], 1);
	assert_int_equal(seen.of_type[GVM_COH_INV], 2); /* it is no sharer any more */
	end(home);
}

/* It wants to write, and its DONE was lost: it is told to drop its copy, else it could not take the
 * page; also if it asks again after all others have been told. */
static void a_writer_does_not_keep_a_copy_of_another_version(void **state)
{
	struct ivy *home = engine(0);

	make_owner(home);
	assert_int_equal(say(home, 7, GVM_COH_READ, 0, 78, 0), 0);
	assert_int_equal(say(home, 7, GVM_COH_WRITE, 0, 79, UINT64_MAX - 1), 0);
	assert_int_equal(seen.of_type[GVM_COH_INV], 1);
	assert_int_equal(seen.sent.type, GVM_COH_GRANT);
	assert_int_equal(seen.sent.flags, GVM_F_WAIT);
	assert_int_equal(say(home, 7, GVM_COH_WRITE, 0, 79, UINT64_MAX - 1), 0);
	assert_int_equal(seen.of_type[GVM_COH_INV], 2);
	assert_int_equal(say(home, 7, GVM_COH_WRITE, 0, 79, 0), 0);
	assert_int_equal(seen.of_type[GVM_COH_INV], 2);
	end(home);
}

/* The owner died before the reader said which version it got, and it waits to be served anew. */
static void a_copy_is_taken_back_from_who_waits(void **state)
{
	struct ivy *home = engine(0);
	uint64_t version = make_owner(home);

	assert_int_equal(say(home, 8, GVM_COH_READ, 0, 77, 0), 0);
	assert_int_equal(say(home, 8, GVM_COH_DONE, 0, 77, version), 0);
	assert_int_equal(say(home, 9, GVM_COH_READ, 0, 78, 0), 0);
	ivy_peer_dead(home, 5);
	assert_int_equal(seen.sent.type, GVM_COH_RECALL);
	assert_int_equal(seen.to, 8);
	assert_int_equal(say(home, 9, GVM_COH_DONE, 0, 78, UINT64_MAX - 1), 0);
	assert_int_equal(seen.of_type[GVM_COH_INV], 1);
	assert_int_equal(seen.to, 9);
	end(home);
}

/* The number that is no version, with which the home takes any copy, comes from nobody else and is
 * nobody's: a copy of that version could never be taken. */
static void what_is_no_version_is_refused(void **state)
{
	static const uint8_t types[] = { GVM_COH_WRITE, GVM_COH_DATA, GVM_COH_GRANT, GVM_COH_DONE,
					 GVM_COH_BACK,  GVM_COH_WB,   GVM_COH_DROP };
	const uint16_t ids[] = { 5 };
	struct ivy *node = engine(3);
	struct gvm_hdr h;
	uint8_t set[8];

	for (unsigned i = 0; i < sizeof(types); i++) {
		h = message(types[i], 0, 1, UINT64_MAX - 1);
		h.flags = types[i] == GVM_COH_DATA || types[i] == GVM_COH_GRANT ||
				  types[i] == GVM_COH_BACK || types[i] == GVM_COH_WB
			      ? GVM_F_ZERO
			      : 0;
		assert_int_equal(gvm_coh_check(&h, PAGE), 0);
		h.arg = UINT64_MAX;
		assert_int_equal(gvm_coh_check(&h, PAGE), -GVM_EPROTO);
	}
	assert_int_equal(ivy_fault(node, 0, IVY_READ), 1);
	h = message(GVM_COH_DATA, 0, seen.sent.xid, UINT64_MAX);
	h.flags = GVM_F_ZERO;
	assert_int_equal(ivy_receive(node, 5, &h, NULL), -EPROTO);
	assert_int_equal(seen.access[0], IVY_NONE);
	h.arg = 1000;
	assert_int_equal(ivy_receive(node, 5, &h, NULL), 0);
	ivy_page_find(node, 0)->version = UINT64_MAX; /* however it came by that */
	assert_int_equal(say(node, 2, GVM_COH_INV, 0, 99, UINT64_MAX), -EPROTO);
	h = message(GVM_COH_INV, 0, 99, UINT64_MAX);
	h.length = (uint32_t)gvm_set_encode(set, ids, 1);
	assert_int_equal(ivy_receive(node, 0, &h, set), -EPROTO);
	assert_int_equal(ivy_pin(node, 0, IVY_READ), 0);
	assert_int_equal(say(node, 0, GVM_COH_INV, 0, 99, UINT64_MAX), 0);
	assert_int_equal(seen.access[0], IVY_NONE);
	assert_int_equal(seen.sent.type, GVM_COH_ACK);
	end(node);
}

/* ---- members that report to a home which was started anew ----------------------------------- */

#define LOW  1000u
#define HIGH 2000u

/* A home with members 1 to 4, which collects. */
static struct ivy *collecting(void)
{
	struct ivy *ivy = engine(0);

	assert_int_equal(ivy_rebuild_begin(ivy, LOW, HIGH), 0);
	return ivy;
}

static int report(struct ivy *ivy, uint16_t from, unsigned what, const struct gvm_held *held,
		  unsigned n)
{
	uint8_t bytes[8 * GVM_HELD_LEN];
	struct gvm_hdr h = message(GVM_COH_REPORT, 0, what, 0);

	for (unsigned i = 0; i < n; i++)
		gvm_held_encode(bytes + i * GVM_HELD_LEN, &held[i]);
	h.length = n * GVM_HELD_LEN;
	return ivy_receive(ivy, from, &h, bytes);
}

static int report_one(struct ivy *ivy, uint16_t from, uint64_t page, unsigned state,
		      uint64_t version)
{
	const struct gvm_held held = { .page = page, .state = (uint8_t)state, .version = version };

	return report(ivy, from, GVM_REPORT_LAST, &held, 1);
}

static struct ivy_view view_of(const struct ivy *ivy, uint64_t page)
{
	struct ivy_view v;

	ivy_home_view(ivy, page, &v);
	return v;
}

/* What the home cannot have given to anybody is not taken, and none of what came with it. */
static void versions_that_cannot_be_are_refused(void **state)
{
	const uint64_t wrong[] = { 1, LOW, HIGH + 1, HIGH + ((uint64_t)1 << 40), UINT64_MAX };
	struct ivy *ivy = collecting();

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		const struct gvm_held held[] = {
			{ .page = 2, .state = GVM_HELD_EXCL, .version = LOW + 1 },
			{ .page = 0, .state = GVM_HELD_SHARED, .version = wrong[i] },
		};

		assert_int_equal(report(ivy, 4, GVM_REPORT_LAST, held, 2), -EPROTO);
		assert_true(ivy_rebuild_owes(ivy, 4));
	}
	assert_int_equal(report_one(ivy, 1, 0, GVM_HELD_EXCL, HIGH), 0);
	assert_int_equal(ivy_rebuild_liar(ivy), GVM_WIRE_NODE_NONE);
	ivy_rebuild_end(ivy);
	assert_int_equal(view_of(ivy, 0).owner, 1);
	assert_int_equal(view_of(ivy, 2).owner, GVM_WIRE_NODE_NONE);
	assert_true(ivy->clock >= HIGH && ivy->clock < HIGH + 100);
	end(ivy);
}

/* Node 4 says that it has newer contents of all pages, before or after who has them. */
static void who_contradicts_all_others_does_not_win(void **state)
{
	for (unsigned order = 0; order < 2; order++) {
		const struct gvm_held lies[] = {
			{ .page = 0, .state = GVM_HELD_EXCL, .version = LOW + 50 },
			{ .page = 2, .state = GVM_HELD_EVICT, .version = HIGH },
			{ .page = 4, .state = GVM_HELD_SHARED, .version = HIGH },
			{ .page = 6, .state = GVM_HELD_EXCL, .version = HIGH },
		};
		const struct gvm_held third[] = {
			{ .page = 4, .state = GVM_HELD_EXCL, .version = LOW + 3 },
			{ .page = 0, .state = GVM_HELD_SHARED, .version = LOW + 1 },
		};
		struct ivy *ivy = collecting();

		if (order)
			assert_int_equal(report(ivy, 4, GVM_REPORT_LAST, lies, 4), 0);
		assert_int_equal(report_one(ivy, 1, 0, GVM_HELD_OWNED, LOW + 1), 0);
		assert_int_equal(report_one(ivy, 2, 2, GVM_HELD_EXCL, LOW + 2), 0);
		assert_int_equal(report(ivy, 3, GVM_REPORT_LAST, third, 2), 0);
		if (!order)
			assert_int_equal(report(ivy, 4, GVM_REPORT_LAST, lies, 4), 0);
		assert_int_equal(ivy_rebuild_liar(ivy), 4);
		ivy_peer_dead(ivy, 4);
		assert_int_equal(ivy_rebuild_liar(ivy), GVM_WIRE_NODE_NONE);
		ivy_rebuild_end(ivy);
		for (uint16_t node = 1; node < 4; node++) {
			assert_int_equal(view_of(ivy, 2u * (node - 1u)).owner, node);
			assert_int_equal(view_of(ivy, 2u * (node - 1u)).version, LOW + node);
			assert_false(view_of(ivy, 2u * (node - 1u)).lost);
		}
		assert_true(ivy_home_has(ivy, 0, 3));
		for (uint16_t node = 1; node < 4; node++) /* nobody is told who was believed */
			say(ivy, node, GVM_COH_REPORT, 0, GVM_REPORT_TAKEN, 0);
		assert_true(view_of(ivy, 6).lost);
		end(ivy);
	}
}

/* Also not if it never comes to the end of its report; nor is the home held up by it twice. */
static void who_contradicts_others_is_named_before_its_report_ends(void **state)
{
	const struct gvm_held lies[] = {
		{ .page = 0, .state = GVM_HELD_EXCL, .version = HIGH },
		{ .page = 2, .state = GVM_HELD_EXCL, .version = HIGH },
	};
	struct ivy *ivy = collecting();

	assert_int_equal(report(ivy, 4, GVM_REPORT_MORE, lies, 2), 0);
	assert_int_equal(report_one(ivy, 1, 0, GVM_HELD_OWNED, LOW + 1), 0);
	assert_int_equal(ivy_rebuild_liar(ivy), GVM_WIRE_NODE_NONE);
	assert_int_equal(report_one(ivy, 2, 2, GVM_HELD_EXCL, LOW + 2), 0);
	assert_int_equal(ivy_rebuild_liar(ivy), 4);
	assert_true(ivy_rebuild_owes(ivy, 4));
	ivy_peer_dead(ivy, 4);
	assert_int_equal(ivy_rebuild_liar(ivy), GVM_WIRE_NODE_NONE);
	ivy_rebuild_end(ivy);
	assert_int_equal(view_of(ivy, 0).owner, 1);
	assert_int_equal(view_of(ivy, 2).owner, 2);
	end(ivy);
}

/* Of two that contradict each other nobody knows who is right: that page is lost, and only that. */
static void what_two_contradict_is_lost(void **state)
{
	const struct gvm_held held[] = {
		{ .page = 0, .state = GVM_HELD_EXCL, .version = LOW + 1 },
		{ .page = 2, .state = GVM_HELD_EXCL, .version = LOW + 2 },
	};
	struct ivy *ivy = collecting();

	assert_int_equal(report(ivy, 1, GVM_REPORT_LAST, held, 2), 0);
	assert_int_equal(report_one(ivy, 2, 0, GVM_HELD_EXCL, LOW + 3), 0);
	assert_int_equal(ivy_rebuild_liar(ivy), GVM_WIRE_NODE_NONE);
	ivy_rebuild_end(ivy);
	assert_true(view_of(ivy, 0).lost);
	assert_int_equal(view_of(ivy, 2).owner, 1);
	end(ivy);
}

/* One that claims without end does not take the room that the claims of others need. */
static void claims_of_one_are_bounded(void **state)
{
	struct ivy *ivy = collecting();
	struct gvm_held held = { .state = GVM_HELD_EVICT, .version = LOW + 1 };
	const struct gvm_held request = { .page = 2, .request = 5 };
	const struct gvm_held given = {
		.page = 2, .state = GVM_HELD_GIVEN, .version = LOW + 9, .given = 5
	};
	int status = 0;

	for (held.page = 100; status == 0 && held.page < 5000; held.page += 2)
		status = report(ivy, 4, GVM_REPORT_MORE, &held, 1);
	assert_int_equal(status, -EPROTO);
	assert_int_equal(report(ivy, 1, GVM_REPORT_LAST, &given, 1), 0);
	assert_int_equal(report(ivy, 2, GVM_REPORT_LAST, &request, 1), 0);
	ivy_peer_dead(ivy, 4);
	ivy_rebuild_end(ivy);
	assert_true(view_of(ivy, 2).stale); /* to be RECALLed */
	end(ivy);
}

/* Node 4 says what it has mapped, and there is no memory to note it; then others say so of the same
 * page, and there is. It is a sharer; or, if it may be the owner, the page is lost. */
static void what_could_not_be_noted_is_not_forgotten(void **state)
{
	struct ivy *ivy = collecting();

	seen.fail_in = 1;
	assert_int_equal(report_one(ivy, 4, 0, GVM_HELD_SHARED, LOW + 1), 0);
	assert_int_equal(report_one(ivy, 1, 0, GVM_HELD_OWNED, LOW + 1), 0);
	assert_int_equal(report_one(ivy, 2, 2, GVM_HELD_SHARED, LOW + 2), 0);
	ivy_rebuild_end(ivy);
	assert_int_equal(view_of(ivy, 0).owner, 1);
	assert_true(ivy_home_has(ivy, 0, 4));
	assert_true(ivy_home_has(ivy, 2, 4) && ivy_home_has(ivy, 2, 2));
	end(ivy);

	ivy = collecting();
	seen.fail_in = 1;
	assert_int_equal(report_one(ivy, 4, 0, GVM_HELD_OWNED, LOW + 1), 0);
	assert_int_equal(report_one(ivy, 1, 0, GVM_HELD_SHARED, LOW + 1), 0);
	assert_int_equal(report_one(ivy, 2, 2, GVM_HELD_EXCL, LOW + 2), 0);
	ivy_rebuild_end(ivy);
	assert_true(view_of(ivy, 0).lost);
	assert_int_equal(view_of(ivy, 2).owner, 2);
	end(ivy);

	ivy = collecting();
	seen.fail_in = 1;
	assert_int_equal(report_one(ivy, 4, 0, GVM_HELD_OWNED, LOW + 1), 0);
	assert_int_equal(report_one(ivy, 1, 0, GVM_HELD_SHARED, LOW + 1), 0);
	ivy_peer_dead(ivy, 4); /* what it had is gone */
	ivy_rebuild_end(ivy);
	assert_false(view_of(ivy, 0).lost);
	end(ivy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sets_travel),
		cmocka_unit_test(bytes_that_are_no_set_are_refused),
		cmocka_unit_test(sharers_are_all_there),
		cmocka_unit_test(directory_is_small),
		cmocka_unit_test(a_page_that_came_home_has_no_entry),
		cmocka_unit_test(a_home_at_its_limit_says_so),
		cmocka_unit_test(a_node_at_its_limit_says_so),
		cmocka_unit_test(allocations_that_fail),
		cmocka_unit_test(strangers_do_not_move_an_owner),
		cmocka_unit_test(who_wants_nothing_takes_nothing),
		cmocka_unit_test(strangers_do_not_take_a_page),
		cmocka_unit_test(a_relay_does_not_wait_for_ever),
		cmocka_unit_test(nobody_can_do_more_than_is_bounded),
		cmocka_unit_test(sets_to_pass_on_are_bounded),
		cmocka_unit_test(a_copy_of_another_version_is_taken_back),
		cmocka_unit_test(a_copy_is_taken_back_until_it_is_gone),
		cmocka_unit_test(a_writer_does_not_keep_a_copy_of_another_version),
		cmocka_unit_test(a_copy_is_taken_back_from_who_waits),
		cmocka_unit_test(what_is_no_version_is_refused),
		cmocka_unit_test(versions_that_cannot_be_are_refused),
		cmocka_unit_test(who_contradicts_all_others_does_not_win),
		cmocka_unit_test(who_contradicts_others_is_named_before_its_report_ends),
		cmocka_unit_test(what_two_contradict_is_lost),
		cmocka_unit_test(claims_of_one_are_bounded),
		cmocka_unit_test(what_could_not_be_noted_is_not_forgotten),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
