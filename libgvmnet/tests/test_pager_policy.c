/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which page goes next, and which comes before it is asked for: the pager's policy over millions of
 * references without a single fault, against exact LRU; and the trend tracker over known patterns.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "pager/policy.h"
#include "pager/trend.h"
#include "tests/zipf.h"

/* ---- two caches ---------------------------------------------------------------------------- */

enum where { OUT, MAPPED, VICTIM };

struct cache {
	struct gvm_link *link; /* of pages: a page is in one list at most */
	uint8_t *where;
	struct gvm_queue mapped, victims;
	uint64_t budget, hits, faults;
};

static void cache_make(struct cache *c, uint32_t pages, uint64_t budget)
{
	memset(c, 0, sizeof(*c));
	c->link = calloc(pages, sizeof(*c->link));
	c->where = calloc(pages, 1);
	gvm_queue_init(&c->mapped);
	gvm_queue_init(&c->victims);
	c->budget = budget;
}

static void cache_free(struct cache *c)
{
	free(c->link);
	free(c->where);
}

static void move(struct cache *c, struct gvm_queue *from, struct gvm_queue *to, uint32_t page,
		 enum where where)
{
	if (from)
		gvm_queue_remove(from, c->link, sizeof(*c->link), page);
	if (to)
		gvm_queue_push(to, c->link, sizeof(*c->link), page);
	c->where[page] = (uint8_t)where;
}

static void lru(struct cache *c, uint32_t page)
{
	if (c->where[page] == MAPPED) {
		c->hits++;
		move(c, &c->mapped, &c->mapped, page, MAPPED);
		return;
	}
	if (c->mapped.count == c->budget)
		move(c, &c->mapped, NULL, c->mapped.tail, OUT);
	move(c, NULL, &c->mapped, page, MAPPED);
}

static uint64_t used(const struct cache *c)
{
	return c->mapped.count + c->victims.count;
}

/* As shard_evict does it, between its two water marks. */
static void evict(struct cache *c)
{
	if (c->budget - used(c) >= gvm_policy_low(c->budget))
		return;
	while (c->budget - used(c) < gvm_policy_high(c->budget)) {
		if (c->victims.count >= gvm_policy_victims(used(c)))
			move(c, &c->victims, NULL, c->victims.tail, OUT);
		else
			move(c, &c->mapped, &c->victims, c->mapped.tail, VICTIM);
	}
}

static void paged(struct cache *c, uint32_t page)
{
	if (c->where[page] == MAPPED) {
		c->hits++;
		return;
	}
	if (c->where[page] == VICTIM) { /* no network: a hit, though not for nothing */
		c->hits++;
		c->faults++;
		move(c, &c->victims, &c->mapped, page, MAPPED);
		return;
	}
	move(c, NULL, &c->mapped, page, MAPPED);
	evict(c);
}

/* Hit rates in per cent, after a warm-up. */
static void compare(uint32_t pages, uint32_t budget, double s, double *exact, double *ours,
		    double *cheap)
{
	struct cache a, b;
	struct zipf z;
	uint32_t warm = pages * 8, count = 2000000;

	zipf_seed = 88172645463325252ull;
	zipf_make(&z, pages, s);
	cache_make(&a, pages, budget);
	cache_make(&b, pages, budget);
	for (uint32_t i = 0; i < warm + count; i++) {
		uint32_t page = zipf_draw(&z);

		if (i == warm)
			a.hits = b.hits = b.faults = 0;
		lru(&a, page);
		paged(&b, page);
		assert_true(used(&b) <= budget);
	}
	*exact = 100.0 * (double)a.hits / count;
	*ours = 100.0 * (double)b.hits / count;
	*cheap = 100.0 * (double)b.faults / count;
	cache_free(&a);
	cache_free(&b);
	zipf_free(&z);
}

/* Four times the budget, Zipf 0.99: within 3 points of exact LRU; other shapes too. */
static void comes_close_to_lru(void **state)
{
	static const struct {
		uint32_t pages, budget;
		double s;
	} cases[] = { { 65536, 16384, 0.99 },
		      { 4096, 1024, 0.99 },
		      { 65536, 16384, 0.7 },
		      { 65536, 32768, 0.99 },
		      { 65536, 4096, 1.2 } };

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		double exact, ours, cheap;

		compare(cases[i].pages, cases[i].budget, cases[i].s, &exact, &ours, &cheap);
		printf(
		    "zipf %.2f, %u pages in %u: LRU %.2f %%, here %.2f %%, cheap faults %.2f %%\n",
		    cases[i].s, cases[i].pages, cases[i].budget, exact, ours, cheap);
		assert_true(exact - ours < 3.0);
	}
}

/* ---- trends -------------------------------------------------------------------------------- */

struct reader {
	struct gvm_trend trend;
	uint8_t *here; /* page is here: no fault */
	uint32_t pages, faults, brought, used;
};

/* Touch a page as the pager would see it: windows arrive at once, their markers stay out. */
static void touch(struct reader *r, uint32_t page, unsigned most)
{
	uint32_t from, count;
	int32_t stride;

	if (r->here[page] == 1) {
		r->used++;
		r->here[page] = 3;
	}
	if (r->here[page] == 3)
		return;
	r->faults += r->here[page] != 2;
	r->used += r->here[page] == 2;
	r->here[page] = 3;
	if (!gvm_trend_fault(&r->trend, page, most, &from, &count, &stride))
		return;
	assert_true(count <= most);
	for (uint32_t i = 0; i < count; i++) {
		int64_t p = (int64_t)from + (int64_t)i * stride;

		if (p < 0 || p >= r->pages || r->here[p])
			continue;
		r->brought++;
		r->here[p] = i == count / 2 ? 2 : 1;
	}
	gvm_trend_posted(&r->trend, (uint32_t)((int64_t)from + (int64_t)count * stride),
			 (uint32_t)((int64_t)from + (int64_t)(count / 2) * stride));
}

static void reader_make(struct reader *r, uint32_t pages)
{
	memset(r, 0, sizeof(*r));
	r->trend.marker = GVM_TREND_NONE;
	r->pages = pages;
	r->here = calloc(pages, 1);
}

static void steady_streams_are_followed(void **state)
{
	static const int32_t strides[] = { 1, -1, 3, 7, -5 };

	for (unsigned i = 0; i < sizeof(strides) / sizeof(strides[0]); i++) {
		struct reader r;
		uint32_t touched = 0;

		reader_make(&r, 4096);
		for (int64_t p = strides[i] > 0 ? 0 : 4095; p >= 0 && p < 4096; p += strides[i]) {
			touch(&r, (uint32_t)p, 32);
			touched++;
		}
		assert_true(r.faults < 10);
		assert_true(r.used * 10 >= r.brought * 9);
		free(r.here);
	}
}

/* A majority is enough: every fifth access goes elsewhere. */
static void noise_is_borne(void **state)
{
	struct reader r;

	reader_make(&r, 1 << 20);
	zipf_seed = 77;
	for (uint32_t p = 0; p < 4000; p++) {
		touch(&r, p, 32);
		if (p % 5 == 4)
			touch(&r, 8192 + (uint32_t)(zipf_random() % 1000000), 32);
	}
	assert_true(r.faults < 4000 / 2);
	assert_true(r.brought > 0);
	free(r.here);
}

static void random_access_brings_little(void **state)
{
	struct reader r;

	reader_make(&r, 1 << 20);
	zipf_seed = 4711;
	for (uint32_t i = 0; i < 20000; i++)
		touch(&r, (uint32_t)(zipf_random() % r.pages), 32);
	assert_true(r.brought < r.faults / 100);
	free(r.here);
}

static void nothing_is_brought_when_switched_off(void **state)
{
	struct reader r;

	reader_make(&r, 4096);
	for (uint32_t p = 0; p < 4096; p++)
		touch(&r, p, 0);
	assert_int_equal(r.brought, 0);
	assert_int_equal(r.faults, 4096);
	free(r.here);
}

/* The same in too little room: what came first leaves first, used or not. */
struct crowd {
	struct reader r;
	uint32_t *queue, head, tail, room, wasted;
};

static void crowd_make(struct crowd *c, uint32_t pages, uint32_t room)
{
	memset(c, 0, sizeof(*c));
	reader_make(&c->r, pages);
	c->queue = calloc(1 << 22, sizeof(*c->queue));
	c->room = room;
}

static void crowd_free(struct crowd *c)
{
	free(c->queue);
	free(c->r.here);
}

static void crowd_touch(struct crowd *c, uint32_t page)
{
	struct reader *r = &c->r;
	uint32_t from, count;
	int32_t stride;
	uint8_t was = r->here[page];

	if (was == 1 || was == 2)
		gvm_trend_outcome(&r->trend, 1);
	if (was == 0) {
		c->queue[c->head++] = page;
		r->faults++;
	}
	r->here[page] = 3;
	if ((was == 0 || was == 2) &&
	    gvm_trend_fault(&r->trend, page, 32, &from, &count, &stride)) {
		for (uint32_t i = 0; i < count; i++) {
			int64_t p = (int64_t)from + (int64_t)i * stride;

			if (p < 0 || p >= r->pages || r->here[p])
				continue;
			r->brought++;
			r->here[p] = i == count / 2 ? 2 : 1;
			c->queue[c->head++] = (uint32_t)p;
		}
		gvm_trend_posted(&r->trend, (uint32_t)((int64_t)from + (int64_t)count * stride),
				 (uint32_t)((int64_t)from + (int64_t)(count / 2) * stride));
	}
	while (c->head - c->tail > c->room) {
		uint32_t out = c->queue[c->tail++];

		if (r->here[out] != 3) {
			gvm_trend_outcome(&r->trend, 0);
			c->wasted++;
		}
		r->here[out] = 0;
	}
}

/* Many threads in turn, each eight pages of its own stack: what is fetched beyond them must not
 * take the room of those that are in use. */
static void stacks_in_turn(struct crowd *c, uint32_t room)
{
	crowd_make(c, 100 * 512, room);
	zipf_seed = 4711;
	for (uint32_t turn = 0; turn < 10000; turn++) {
		uint32_t thread = (uint32_t)(zipf_random() % 100);

		for (uint32_t i = 0; i < 8; i++)
			crowd_touch(c, thread * 512 + 511 - i);
	}
	printf("stacks of 800 pages in %u: %u faults, %u brought, %u of them in vain\n", room,
	       c->r.faults, c->r.brought, c->wasted);
}

static void windows_shrink_to_what_is_used(void **state)
{
	struct crowd c;
	uint32_t faults;

	stacks_in_turn(&c, 1024); /* there is room for all that is used */
	assert_true(c.r.faults < 1000 && c.r.brought < 4000);
	faults = c.r.faults;
	for (uint32_t p = 0; p < 20000; p++) /* and a stream has its large windows again */
		crowd_touch(&c, p);
	assert_true(c.r.faults - faults < 20000 / 20);
	crowd_free(&c);
	stacks_in_turn(&c, 256);
	assert_true(c.wasted < c.r.brought / 2);
	crowd_free(&c);
}

/* Where nothing that is brought is ever used there is no window but a small one now and then. */
static void useless_prefetch_ends(void **state)
{
	struct reader r;
	uint32_t from, count, asked = 0, large = 0;
	int32_t stride;

	reader_make(&r, 1);
	for (uint32_t p = 0; p < 20000; p++) {
		if (!gvm_trend_fault(&r.trend, p, 64, &from, &count, &stride))
			continue;
		gvm_trend_posted(&r.trend, from, GVM_TREND_NONE);
		for (uint32_t i = 0; i < count; i++)
			gvm_trend_outcome(&r.trend, p >= 10000);
		asked += p >= 1000 && p < 10000 ? count : 0;
		large += p >= 11000 && count == 64;
	}
	assert_true(asked < 9000 / 20);
	assert_true(large > 1000);
	free(r.here);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(comes_close_to_lru),
		cmocka_unit_test(steady_streams_are_followed),
		cmocka_unit_test(noise_is_borne),
		cmocka_unit_test(random_access_brings_little),
		cmocka_unit_test(nothing_is_brought_when_switched_off),
		cmocka_unit_test(windows_shrink_to_what_is_used),
		cmocka_unit_test(useless_prefetch_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
