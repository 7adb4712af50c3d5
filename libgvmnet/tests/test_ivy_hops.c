/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows what a miss takes, of the engine that ships, on a network where each message takes one
 * round and nothing else takes any: at most three hops until the program goes on, wherever the page
 * is and however often it has changed hands, and its content on the wire once, or not at all where
 * that is not needed. And what a write takes that others have to be told of: rounds and bytes, by
 * how many they are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "ivy/ivy.h"
#include "wire/wire.h"

#define NODES GVM_WIRE_NODE_MAX
#define PAGE  IVY_PAGE_MAX
#define HOME  0u /* of the only page; it runs programs, too */

struct message {
	struct message *next;
	uint64_t at; /* the round in which it arrives */
	uint16_t from, to;
	struct gvm_hdr h;
	uint8_t payload[];
};

struct node {
	struct ivy *ivy;
	uint8_t *copy;
	uint16_t id;
	uint8_t access;
	int waits;
};

static struct node nodes[NODES];
static struct message *first, **last = &first;
static uint64_t now, rng, written; /* written: so often */
static uint8_t *store;

/* Of the fault that is being measured. */
static struct {
	uint64_t begun, hops, messages, bytes;
	unsigned contents; /* pages on the wire */
	int status;
} cost;

/* ---- what the engines act through ----------------------------------------------------------- */

static uint64_t draw(void)
{
	uint64_t x = rng += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static void *env_alloc(void *user, size_t size)
{
	return malloc(size);
}

static void env_free(void *user, void *mem, size_t size)
{
	free(mem);
}

static void env_send(void *user, uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	const struct node *n = user;
	struct message *m = malloc(sizeof(*m) + h->length);

	assert_non_null(m);
	*m = (struct message){ .next = NULL, .at = now + 1, .from = n->id, .to = to, .h = *h };
	if (h->length)
		memcpy(m->payload, payload, h->length);
	*last = m;
	last = &m->next;
	cost.messages++;
	cost.bytes += GVM_WIRE_HDR_LEN + h->length;
	cost.contents += h->length && !(h->flags & GVM_F_ACKS) &&
			 (h->type == GVM_COH_DATA || h->type == GVM_COH_GRANT ||
			  h->type == GVM_COH_BACK || h->type == GVM_COH_WB);
}

static uint16_t env_home(void *user, uint64_t page)
{
	return HOME;
}

static uint64_t env_nonce(void *user)
{
	return draw();
}

static const void *env_copy_read(void *user, uint64_t page)
{
	const struct node *n = user;

	assert_non_null(n->copy);
	return n->copy;
}

static void put(uint8_t **at, const void *bytes)
{
	if (!*at)
		*at = malloc(PAGE);
	assert_non_null(*at);
	if (bytes)
		memcpy(*at, bytes, PAGE);
	else
		memset(*at, 0, PAGE);
}

static int env_copy_write(void *user, uint64_t page, const void *bytes)
{
	struct node *n = user;

	assert_int_equal(n->access, IVY_NONE);
	put(&n->copy, bytes);
	return 0;
}

static void env_copy_drop(void *user, uint64_t page)
{
	struct node *n = user;

	free(n->copy);
	n->copy = NULL;
}

static void env_protect(void *user, uint64_t page, enum ivy_access access)
{
	((struct node *)user)->access = (uint8_t)access;
}

static const void *env_store_read(void *user, uint64_t page)
{
	return store;
}

static int env_store_write(void *user, uint64_t page, const void *bytes)
{
	put(&store, bytes);
	return 0;
}

static void env_fault_done(void *user, uint64_t page, enum ivy_access access, int status)
{
	struct node *n = user;

	assert_true(n->waits);
	n->waits = 0;
	cost.status = status;
	cost.hops = now - cost.begun;
}

static const struct ivy_env env = IVY_ENV(env_);

/* ---- the network, and programs -------------------------------------------------------------- */

/* Until there is nothing under way any more. */
static void settle(void)
{
	struct message *m;

	while ((m = first)) {
		first = m->next;
		if (!first)
			last = &first;
		now = m->at;
		assert_int_equal(
		    ivy_receive(nodes[m->to].ivy, m->from, &m->h, m->h.length ? m->payload : NULL),
		    0);
		free(m);
	}
}

/* Begins at the round in which all is quiet. Who reads finds what was written last. */
static void fault(unsigned node, enum ivy_access access)
{
	struct node *n = &nodes[node];
	uint64_t stamp;
	int status;

	memset(&cost, 0, sizeof(cost));
	cost.begun = now;
	n->waits = 1;
	status = ivy_fault(n->ivy, 0, access);
	if (status == 0)
		n->waits = 0;
	else
		assert_int_equal(status, 1);
	settle();
	assert_int_equal(n->waits, 0);
	assert_int_equal(cost.status, 0);
	assert_true(n->access >= access);
	memcpy(&stamp, n->copy, sizeof(stamp));
	assert_int_equal(stamp, written);
	if (access == IVY_READ)
		return;
	for (size_t i = 0; i < PAGE; i += sizeof(stamp)) {
		stamp = i ? draw() : ++written;
		memcpy(n->copy + i, &stamp, sizeof(stamp));
	}
}

static void reads(unsigned node)
{
	fault(node, IVY_READ);
}

static void writes(unsigned node)
{
	fault(node, IVY_WRITE);
}

static void evicts(unsigned node)
{
	assert_int_equal(ivy_evict(nodes[node].ivy, 0), 0);
	settle();
	assert_int_equal(nodes[node].access, IVY_NONE);
}

static void begin(unsigned count)
{
	rng = 1;
	written = 0;
	for (unsigned i = 0; i < count; i++) {
		struct ivy_config config = { .env = &env,
					     .user = &nodes[i],
					     .region = 1,
					     .pages = 1,
					     .page_size = PAGE,
					     .epoch = 1,
					     .self = (uint16_t)i,
					     .nodes = (uint16_t)count,
					     .max_entries = 1,
					     .max_txns = 1,
					     .max_waiters = 2,
					     .max_pages = 1,
					     .max_relays = 4,
					     .retry_ns = 1000,
					     .round_ns = 1000 };

		nodes[i] = (struct node){ .id = (uint16_t)i };
		assert_int_equal(ivy_new(&config, &nodes[i].ivy), 0);
	}
}

static void end(unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct ivy_stats stats;

		ivy_stats(nodes[i].ivy, &stats);
		assert_int_equal(stats.refused, 0);
		assert_int_equal(stats.repeated, 0);
		ivy_free(nodes[i].ivy);
		free(nodes[i].copy);
	}
	free(store);
	store = NULL;
}

/* So many hops until the program went on, so often the content, all that followed included. */
static void took(unsigned hops, unsigned contents)
{
	assert_int_equal(cost.hops, hops);
	assert_int_equal(cost.contents, contents);
	assert_true(hops <= 3 && contents <= 1);
}

/* ---- misses --------------------------------------------------------------------------------- */

static void reads_of_what_nobody_has(void **state)
{
	begin(8);
	reads(1); /* never touched: zeros, of which nothing travels */
	took(2, 0);
	reads(HOME);
	took(0, 0);
	writes(2);
	evicts(2); /* the home has it */
	reads(3);
	took(2, 1);
	reads(HOME);
	took(0, 0);
	end(8);
}

static void reads_of_what_another_owns(void **state)
{
	begin(8);
	writes(HOME);
	reads(1); /* the home owns it */
	took(2, 1);
	writes(2);
	reads(3); /* another node does */
	took(3, 1);
	reads(4); /* and others have it, too */
	took(3, 1);
	reads(HOME);
	took(2, 1);
	end(8);
}

static void writes_of_what_nobody_shares(void **state)
{
	begin(8);
	writes(1); /* never touched */
	took(2, 0);
	writes(2); /* another node owns it */
	took(3, 1);
	writes(HOME);
	took(2, 1);
	writes(3); /* the home does */
	took(2, 1);
	evicts(3);
	writes(4); /* the home has it, and nobody else */
	took(2, 1);
	evicts(4);
	reads(5);
	writes(5); /* in place: nobody else has it */
	took(2, 0);
	reads(6);
	evicts(6);
	writes(5); /* in place, by its owner, whose reader has gone */
	took(2, 0);
	end(8);
}

/* Who has read it writes it, and nobody but the owner has it, too. */
static void a_copy_of_an_owners_page_is_written_in_place(void **state)
{
	begin(8);
	writes(1);
	reads(2);
	writes(2);
	took(3, 0);
	reads(HOME);
	writes(HOME);
	took(2, 0);
	reads(3);
	writes(3); /* the owner is the home */
	took(2, 0);
	end(8);
}

/* Who has it is asked, not who had it before. */
static void many_owners_make_no_chain(void **state)
{
	begin(200);
	for (unsigned i = 1; i < 200; i++) {
		writes(i);
		took(i == 1 ? 2 : 3, i != 1);
		if (i % 8 == 0) {
			reads(1 + i / 2);
			took(3, 1);
			evicts(1 + i / 2);
		}
	}
	end(200);
}

/* ---- writes that others have to be told of -------------------------------------------------- */

static unsigned height(unsigned n)
{
	unsigned levels = 0;

	for (unsigned room = 1; room < n; room *= 16)
		levels++;
	return levels; /* log16, rounded up */
}

/* Nodes from 1 on read the page, or the home from 0 on, so many; the last node of all writes it,
 * and has read it, too, or not. */
static void written_with(unsigned from, unsigned sharers, int in_place)
{
	unsigned writer = from + sharers, bound = 2 * height(sharers) + 3;

	begin(writer + 1);
	writes(writer);
	evicts(writer); /* so the home has it, and it is no zeros */
	for (unsigned i = from; i < writer; i++)
		reads(i);
	if (in_place)
		reads(writer);
	writes(writer);
	print_message("%u sharers%s: %u rounds of %u, %llu messages, %llu bytes\n", sharers,
		      in_place ? " and the writer" : "", (unsigned)cost.hops, bound,
		      (unsigned long long)cost.messages, (unsigned long long)cost.bytes);
	assert_true(cost.hops <= bound);
	if (sharers <= 16)
		assert_int_equal(cost.hops, 3);
	assert_int_equal(cost.contents, !in_place);
	assert_true(cost.bytes <= 1000000);
	/* few tell the writer and the home, and that grants it twice */
	assert_true(cost.messages <= (sharers <= 16 ? 7 + 3 * sharers : 6 + 2 * sharers));
	for (unsigned i = from; i < writer; i++)
		assert_int_equal(nodes[i].access, IVY_NONE);
	end(writer + 1);
}

static void a_write_is_told_in_a_tree(void **state)
{
	static const unsigned sharers[] = { 1, 2, 3, 15, 16, 17, 256, 257, 272, 273, 4096, 10238 };

	for (unsigned i = 0; i < sizeof(sharers) / sizeof(sharers[0]); i++) {
		written_with(1, sharers[i], 1);
		written_with(1, sharers[i], 0);
	}
	for (unsigned n = 2; n <= 16; n++) {
		written_with(HOME, n, 1);
		written_with(HOME, n, 0);
	}
	written_with(HOME, 10239, 1);
	written_with(HOME, 10239, 0);
}

/* Up to 16 sharers: three hops, WRITE, INV and ACK, or WRITE, FWD_WRITE and DATA; two if it is the
 * home only that is told. */
static void a_write_with_few_sharers(void **state)
{
	begin(8);
	reads(HOME);
	reads(1);
	writes(1); /* the home itself */
	took(2, 0);
	reads(2);
	writes(1); /* a reader of the writer's own page */
	took(3, 0);
	reads(2);
	reads(3);
	writes(3); /* the owner, and a reader */
	took(3, 0);
	reads(2);
	writes(4); /* the same, and the content has to come */
	took(3, 1);
	end(8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_of_what_nobody_has),
		cmocka_unit_test(reads_of_what_another_owns),
		cmocka_unit_test(writes_of_what_nobody_shares),
		cmocka_unit_test(a_copy_of_an_owners_page_is_written_in_place),
		cmocka_unit_test(many_owners_make_no_chain),
		cmocka_unit_test(a_write_is_told_in_a_tree),
		cmocka_unit_test(a_write_with_few_sharers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
