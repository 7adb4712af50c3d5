/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that a member which asks and never says DONE, or writes back what nobody can make sense of
 * and does not answer, fills no more than its share of what a home can have under way: all others
 * are served as ever, it itself is told to be patient, and has its share again when it goes on. And
 * that who has had as many pages as a home has entries keeps nobody out.
 */
#include "ivy_alone.h"

#define SHARE 250u /* of 1,000 transactions */
#define ROGUE 5u
#define OTHER 6u

static struct ivy *home_with_shares(void)
{
	struct ivy_config c = config_of(0);
	struct ivy *ivy;

	c.max_share = SHARE;
	assert_int_equal(ivy_new(&c, &ivy), 0);
	return ivy;
}

static struct ivy_stats stats_of(const struct ivy *ivy)
{
	struct ivy_stats stats;

	ivy_stats(ivy, &stats);
	return stats;
}

/* The page from which it asks is the home's, as all even ones. */
static uint64_t page_of(uint32_t i)
{
	return 2ull * i;
}

static void read_by(struct ivy *ivy, uint16_t node, uint32_t i)
{
	assert_int_equal(say(ivy, node, GVM_COH_READ, page_of(i), i + 1, 0), 0);
}

static void is_served(struct ivy *ivy, uint16_t node, uint32_t i)
{
	read_by(ivy, node, i);
	assert_int_equal(seen.to, node);
	assert_int_equal(seen.sent.type, GVM_COH_DATA);
	assert_int_equal(say(ivy, node, GVM_COH_DONE, page_of(i), i + 1, seen.sent.arg), 0);
}

static void is_refused(struct ivy *ivy, uint16_t node, uint32_t i)
{
	read_by(ivy, node, i);
	assert_int_equal(seen.to, node);
	assert_int_equal(seen.sent.type, GVM_COH_NAK);
	assert_int_equal(seen.sent.status, GVM_ST_LIMIT);
}

static void who_says_no_done_has_its_share(void **state)
{
	struct ivy *ivy = home_with_shares();
	uint32_t i;

	for (i = 0; i < 3000; i++)
		read_by(ivy, ROGUE, i);
	assert_int_equal(stats_of(ivy).txns, SHARE);
	assert_int_equal(stats_of(ivy).over_share, 3000 - SHARE);
	assert_int_equal(seen.of_type[GVM_COH_NAK], 3000 - SHARE);
	for (i = 0; i < 3000; i++)
		is_served(ivy, OTHER, i); /* also what it has asked for */
	is_refused(ivy, ROGUE, 5000);
	read_by(ivy, ROGUE, 7); /* once more is nothing more */
	assert_int_equal(seen.sent.type, GVM_COH_DATA);
	assert_int_equal(say(ivy, ROGUE, GVM_COH_DONE, page_of(7), 8, seen.sent.arg), 0);
	is_served(ivy, ROGUE, 5000);
	read_by(ivy, ROGUE, 5001);
	is_refused(ivy, ROGUE, 5002);
	ivy_peer_dead(ivy, ROGUE);
	assert_int_equal(stats_of(ivy).waiters, 0);
	ivy_peer_back(ivy, ROGUE);
	for (i = 0; i < SHARE; i++)
		read_by(ivy, ROGUE, i);
	assert_int_equal(stats_of(ivy).txns, SHARE);
	end(ivy);
}

/* Who waits behind others has a part of its share for each page, too. */
static void who_waits_everywhere_has_its_share(void **state)
{
	struct ivy *ivy = home_with_shares();
	uint32_t i;

	for (i = 0; i < SHARE; i++)
		assert_int_equal(say(ivy, OTHER, GVM_COH_WRITE, page_of(i), i + 1, 0), 0);
	for (i = 0; i < SHARE; i++)
		read_by(ivy, ROGUE, i);
	assert_int_equal(stats_of(ivy).waiters, 2 * SHARE);
	is_refused(ivy, ROGUE, SHARE);
	is_served(ivy, OTHER + 1, SHARE);
	end(ivy);
}

/* ---- room in the directory ----------------------------------------------------------------- */

#define ROOM  160u /* entries */
#define TURNS (20 * ROOM)

static struct gvm_hdr given; /* the last DATA or GRANT */
static struct {
	struct gvm_hdr h;
	uint16_t to;
} told[ROOM]; /* what is to be answered */
static unsigned tells;
static uint64_t version[TURNS];

static void note(uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	if (h->type == GVM_COH_DATA || h->type == GVM_COH_GRANT)
		given = *h;
	if (h->type != GVM_COH_INV && h->type != GVM_COH_RECALL)
		return;
	assert_true(tells < ROOM);
	told[tells].h = *h;
	told[tells++].to = to;
}

static struct ivy *home_with_little_room(void)
{
	struct ivy_config c = config_of(0);
	struct ivy *ivy;

	c.max_entries = ROOM;
	assert_int_equal(ivy_new(&c, &ivy), 0);
	seen.on_send = note;
	tells = 0;
	return ivy;
}

static void all_answer(struct ivy *ivy)
{
	while (tells > 0) {
		const struct gvm_hdr h = told[--tells].h;
		struct gvm_hdr back = message(GVM_COH_BACK, h.page, h.xid, version[h.page / 2]);

		back.flags = GVM_F_ZERO;
		if (h.type == GVM_COH_INV)
			assert_int_equal(say(ivy, told[tells].to, GVM_COH_ACK, h.page, h.xid, 0),
					 0);
		else
			assert_int_equal(ivy_receive(ivy, told[tells].to, &back, NULL), 0);
	}
}

/* 1: it is. Each third one is written. */
static int is_let_in(struct ivy *ivy, uint16_t node, uint32_t i)
{
	unsigned type = i % 3 ? GVM_COH_READ : GVM_COH_WRITE;

	given.page = ~0ull;
	assert_int_equal(say(ivy, node, type, page_of(i), i + 1, 0), 0);
	if (given.page != page_of(i))
		return 0;
	version[i] = given.arg;
	assert_int_equal(say(ivy, node, GVM_COH_DONE, page_of(i), i + 1, given.arg), 0);
	return 1;
}

/* Who has had all that there is room for keeps nobody out, and need not wait himself. */
static void who_reads_everything_keeps_nobody_out(void **state)
{
	struct ivy *ivy = home_with_little_room();
	uint32_t i;

	for (i = 0; i < TURNS; i++) {
		assert_true(is_let_in(ivy, i % 16 == 15 ? OTHER : ROGUE, i));
		assert_true(stats_of(ivy).entries <= ROOM);
		all_answer(ivy);
	}
	assert_int_equal(seen.of_type[GVM_COH_NAK], 0);
	assert_true(stats_of(ivy).reclaimed >= TURNS - ROOM);
	end(ivy);
}

static uint16_t all_at_home(void *user, uint64_t page)
{
	return 0;
}

/* What is only at home dies with it: so nothing is taken back for room that is not needed. */
static void where_all_have_an_entry_nothing_is_taken_back(void **state)
{
	struct ivy_config c = config_of(0);
	struct ivy_env own = env;
	struct ivy *ivy;
	uint64_t page;

	own.home = all_at_home;
	c.env = &own;
	c.max_entries = ROOM;
	c.pages = ROOM;
	assert_int_equal(ivy_new(&c, &ivy), 0);
	seen.on_send = note;
	tells = 0;
	for (page = 0; page < ROOM; page++) {
		assert_int_equal(say(ivy, ROGUE, GVM_COH_READ, page, page + 1, 0), 0);
		assert_int_equal(say(ivy, ROGUE, GVM_COH_DONE, page, page + 1, given.arg), 0);
	}
	assert_int_equal(stats_of(ivy).entries, ROOM);
	assert_int_equal(stats_of(ivy).reclaimed, 0);
	end(ivy);
}

/* As long as it does not answer there is no room; when it does, or dies, there is. */
static void who_does_not_answer_does(void **state)
{
	struct ivy *ivy = home_with_little_room();
	uint32_t i;

	for (i = 0; is_let_in(ivy, ROGUE, i); i++)
		;
	assert_int_equal(i, ROOM);
	assert_false(is_let_in(ivy, OTHER, 1000));
	assert_int_equal(seen.sent.type, GVM_COH_NAK);
	assert_int_equal(seen.sent.status, GVM_ST_LIMIT);
	all_answer(ivy);
	assert_true(is_let_in(ivy, OTHER, 1000));

	for (i = ROOM; is_let_in(ivy, ROGUE, i); i++)
		;
	assert_false(is_let_in(ivy, OTHER, 1001));
	ivy_peer_dead(ivy, ROGUE);
	tells = 0;
	for (i = 1; i < 400 && !is_let_in(ivy, OTHER, 1000 + i); i++)
		all_answer(ivy);
	assert_true(i < 400);
	end(ivy);
}

/* A delta against what nobody has. */
static size_t riddle(uint8_t *to)
{
	uint8_t old[PAGE], new[PAGE];
	uint32_t i;

	for (i = 0; i < PAGE; i++)
		old[i] = new[i] = (uint8_t)draw();
	new[8]++;
	return gvm_delta_encode(to, PAGE, old, gvm_delta_digest(old, PAGE), new,
				gvm_delta_digest(new, PAGE), PAGE);
}

/* Each is RECALLed, and it does not answer. */
static void who_writes_back_riddles_has_its_share(void **state)
{
	enum { OWNED = 800 };
	struct ivy *ivy = home_with_shares();
	uint64_t version[OWNED];
	uint8_t delta[PAGE];
	uint32_t i;

	for (i = 0; i < OWNED; i++) {
		assert_int_equal(say(ivy, ROGUE, GVM_COH_WRITE, page_of(i), i + 1, 0), 0);
		assert_int_equal(seen.sent.type, GVM_COH_GRANT);
		version[i] = seen.sent.arg;
		assert_int_equal(say(ivy, ROGUE, GVM_COH_DONE, page_of(i), i + 1, version[i]), 0);
	}
	for (i = 0; i < OWNED; i++) {
		struct gvm_hdr h = message(GVM_COH_WB, page_of(i), 4711, version[i]);

		h.flags = GVM_F_DELTA;
		h.length = (uint32_t)riddle(delta);
		assert_int_equal(ivy_receive(ivy, ROGUE, &h, delta), 0);
	}
	assert_int_equal(stats_of(ivy).txns, SHARE);
	assert_int_equal(seen.of_type[GVM_COH_RECALL], SHARE);
	is_served(ivy, OTHER, 900);
	is_refused(ivy, ROGUE, 901);
	ivy_peer_dead(ivy, ROGUE);
	ivy_peer_back(ivy, ROGUE);
	is_served(ivy, ROGUE, 901);
	end(ivy);
}

/* Of each node, what is under way for it. */
static void shares_are_true(const struct ivy *ivy)
{
	static uint32_t is[GVM_WIRE_NODE_MAX + 1];
	const struct ivy_waiter *w;
	const struct ivy_txn *t;

	memset(is, 0, sizeof(is));
	for (t = ivy->txn_list; t; t = t->next) {
		if (t->charged != NOBODY)
			is[t->charged]++;
		for (w = t->queue.first; w; w = w->next)
			is[w->node]++;
		for (w = t->served.first; w; w = w->next)
			is[w->node]++;
	}
	assert_memory_equal(ivy->shares, is, sizeof(is));
}

/* What has been said last, to be answered in any order. */
static struct {
	struct gvm_hdr h;
	uint16_t to;
} said[64];
static unsigned said_count;
static uint64_t version_of[64];

static void note_said(uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	said[said_count % 64].h = *h;
	said[said_count++ % 64].to = to;
	if (h->type == GVM_COH_GRANT || h->type == GVM_COH_DATA)
		version_of[h->page / 2 % 64] = h->arg;
}

static void answer_some(struct ivy *ivy)
{
	unsigned at = draw() % 64;
	struct gvm_hdr h =
	    message(0, said[at].h.page, said[at].h.xid, version_of[said[at].h.page / 2 % 64]);
	uint16_t from = said[at].to;

	switch (said[at].h.type) {
	case GVM_COH_FWD_READ: /* whoever it is for has it */
		from = (uint16_t)said[at].h.arg;
		/* fallthrough */
	case GVM_COH_DATA:
	case GVM_COH_GRANT:
		h.type = GVM_COH_DONE;
		h.status = draw() % 4 ? GVM_ST_OK : GVM_ST_NOENT;
		break;
	case GVM_COH_RECALL:
		h.type = GVM_COH_BACK;
		h.flags = GVM_F_ZERO;
		break;
	case GVM_COH_INV:
		h.type = GVM_COH_ACK;
		h.arg = 0;
		break;
	default:
		return;
	}
	(void)ivy_receive(ivy, from, &h, NULL);
}

/* From a page on: those before are lost in the end. */
static void ask_some(struct ivy *ivy, uint32_t first)
{
	static const uint8_t types[] = { GVM_COH_READ, GVM_COH_WRITE, GVM_COH_WB, GVM_COH_DROP };
	struct gvm_hdr h =
	    message(types[draw() % 4], page_of(first + (uint32_t)(draw() % 10)), draw() % 3, 0);
	uint8_t delta[PAGE];

	if (h.type == GVM_COH_WB) {
		h.arg = version_of[h.page / 2 % 64];
		h.flags = GVM_F_DELTA;
		h.length = (uint32_t)riddle(delta);
	}
	(void)ivy_receive(ivy, (uint16_t)(1 + draw() % 6), &h, delta);
}

static void shares_are_given_back(void **state)
{
	struct ivy_config c = config_of(0);
	struct ivy *ivy;

	c.max_share = 4;
	assert_int_equal(ivy_new(&c, &ivy), 0);
	seen.on_send = note_said;
	for (uint32_t i = 0; i < 50000; i++) {
		if (draw() % 2)
			ask_some(ivy, i / 20);
		else
			answer_some(ivy);
		if (i % 50 == 0) {
			uint16_t node = (uint16_t)(1 + draw() % 6);

			ivy_peer_dead(ivy, node);
			ivy_peer_back(ivy, node);
		}
		if (i % 50 == 0)
			shares_are_true(ivy);
	}
	print_message("[          ] %u granted, %u read, %u recalled, %u refused\n",
		      seen.of_type[GVM_COH_GRANT], seen.of_type[GVM_COH_DATA],
		      seen.of_type[GVM_COH_RECALL], (unsigned)stats_of(ivy).over_share);
	assert_true(seen.of_type[GVM_COH_GRANT] > 1000);
	assert_true(seen.of_type[GVM_COH_RECALL] > 100);
	assert_true(stats_of(ivy).over_share > 100);
	for (uint16_t node = 1; node <= 6; node++)
		ivy_peer_dead(ivy, node);
	assert_int_equal(stats_of(ivy).waiters, 0);
	shares_are_true(ivy);
	end(ivy);
}

/* What the shares are for. */
static void without_shares_one_fills_the_home(void **state)
{
	struct ivy *ivy = engine(0);
	uint32_t i;

	for (i = 0; i < 1000; i++)
		read_by(ivy, ROGUE, i);
	assert_int_equal(seen.of_type[GVM_COH_NAK], 0);
	is_refused(ivy, OTHER, 1000);
	assert_int_equal(stats_of(ivy).over_share, 0);
	end(ivy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_says_no_done_has_its_share),
		cmocka_unit_test(who_waits_everywhere_has_its_share),
		cmocka_unit_test(who_reads_everything_keeps_nobody_out),
		cmocka_unit_test(who_does_not_answer_does),
		cmocka_unit_test(where_all_have_an_entry_nothing_is_taken_back),
		cmocka_unit_test(who_writes_back_riddles_has_its_share),
		cmocka_unit_test(shares_are_given_back),
		cmocka_unit_test(without_shares_one_fills_the_home),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
