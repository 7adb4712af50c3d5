/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Memory that nodes share is sequentially consistent: litmus tests, and histories of loads and
 * stores, over engines and memories in this process. That these tests can fail is shown too: by
 * hardware that does what is forbidden to shared memory, by nodes that close a page too late, and
 * by histories that are wrong. LITMUS: iterations of each test (2,000, with the thread sanitizer
 * 1,000).
 */
#include "dsm_rig.h"
#include "history.h"
#include "litmus.h"

static uint64_t iterations(void)
{
	const char *text = getenv("LITMUS");
	uint64_t otherwise = 2000;

#ifdef __SANITIZE_THREAD__
	otherwise = 1000; /* each takes longer */
#endif
	return text ? strtoull(text, NULL, 10) : otherwise;
}

static void *run_thread(void *arg)
{
	litmus_thread(arg, 0);
	return NULL;
}

/* Each thread on a node of its own, or all on one. */
static struct litmus_verdict run_litmus(struct bed *bed, const struct litmus *test, uint64_t times,
					bool plain)
{
	struct litmus_run *run = calloc(1, sizeof(*run));
	struct litmus_thread thread[LITMUS_THREADS] = { 0 };
	pthread_t id[LITMUS_THREADS];
	struct litmus_verdict v;

	for (unsigned t = 0; t < test->threads; t++) {
		char *mem = bed->node[t % bed->nodes].mem;

		thread[t] = (struct litmus_thread){ .test = test,
						    .run = run,
						    .page = { mem, mem + PAGE },
						    .number = t,
						    .iterations = times,
						    .seed = t * 7919 + 13,
						    .plain = plain };
		pthread_create(&id[t], NULL, run_thread, &thread[t]);
	}
	for (unsigned t = 0; t < test->threads; t++)
		pthread_join(id[t], NULL);
	v = litmus_judge(test, run);
	if (getenv("TEST_VERBOSE"))
		fprintf(stderr,
			"  %-5s %llu times: %u of %u outcomes that may be, %llu that may not\n",
			test->name, (unsigned long long)times, v.seen, v.allowed,
			(unsigned long long)v.forbidden);
	free(run);
	return v;
}

static void nothing_forbidden_comes_out(void **state)
{
	for (unsigned i = 0; i < LITMUS_TESTS; i++) {
		const struct litmus *test = &litmus_tests[i];
		struct bed bed = { .nodes = test->threads, .pages = 2, .hold_ns = 20000 };
		struct litmus_verdict v;

		open_bed(&bed, &kinds[i % 2]);
		v = run_litmus(&bed, test, iterations(), false);
		assert_int_equal(v.forbidden, 0);
		assert_true(v.seen >= 2); /* they do meet */
		close_bed(&bed);
	}
}

/* x86 lets a load overtake a store of the same thread: two threads of one node, without fences. */
static void the_test_sees_what_hardware_does(void **state)
{
	struct bed bed = { .nodes = 1, .pages = 2 };

#ifdef __SANITIZE_THREAD__
	skip(); /* its own locks around every access are fences */
#endif
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		skip();
	open_bed(&bed, &kinds[0]);
	assert_true(IS_MET(run_litmus(&bed, &litmus_tests[0], 20000, true).forbidden > 0));
	close_bed(&bed);
}

/* ---- histories ----------------------------------------------------------------------------- */

#define PLACES 6u /* locations, on two pages */
#define OPS    4000u

struct client {
	struct node *node;
	unsigned number;
	uint64_t seed;
	struct history_op op[PLACES][OPS];
	size_t ops[PLACES];
};

static uint64_t *place(struct client *c, unsigned i)
{
	return (uint64_t *)(c->node->mem + (i & 1) * PAGE) + i;
}

static void *load_and_store(void *arg)
{
	struct client *c = arg;

	for (uint64_t i = 1; i <= OPS; i++) {
		unsigned at = (unsigned)(litmus_random(&c->seed) % PLACES);
		struct history_op *op = &c->op[at][c->ops[at]++];

		op->store = litmus_random(&c->seed) % 3 == 0;
		op->value = (uint64_t)(c->number + 1) << 32 | i;
		op->begin = gvm_now();
		if (op->store)
			__atomic_store_n(place(c, at), op->value, __ATOMIC_SEQ_CST);
		else
			op->value = __atomic_load_n(place(c, at), __ATOMIC_SEQ_CST);
		op->end = gvm_now();
	}
	return NULL;
}

/* Why the history of one of the locations cannot be, or NULL. */
static const char *check_places(struct client *client, unsigned clients)
{
	struct history_op *all = malloc(clients * OPS * sizeof(*all));
	const char *why = NULL;

	for (unsigned i = 0; i < PLACES && !why; i++) {
		size_t n = 0;

		for (unsigned c = 0; c < clients; c++) {
			memcpy(all + n, client[c].op[i], client[c].ops[i] * sizeof(*all));
			n += client[c].ops[i];
		}
		why = history_check(all, n);
	}
	free(all);
	return why;
}

static const char *run_history(bool late)
{
	struct bed bed = { .nodes = 3, .pages = 2, .hold_ns = 20000, .late = late };
	struct client *client = calloc(4, sizeof(*client));
	pthread_t thread[4];
	const char *why;

	open_bed(&bed, &kinds[0]);
	for (unsigned i = 0; i < 4; i++) {
		client[i].node = &bed.node[i % bed.nodes];
		client[i].number = i;
		client[i].seed = i * 31 + 7;
		pthread_create(&thread[i], NULL, load_and_store, &client[i]);
	}
	for (unsigned i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	why = check_places(client, 4);
	close_bed(&bed);
	free(client);
	return why;
}

static void histories_are_linearizable(void **state)
{
	const char *why = run_history(false);

	if (why)
		fail_msg("%s", why);
}

static void a_page_closed_too_late_is_found(void **state)
{
	struct bed bed = { .nodes = 2, .pages = 2, .late = true };
	uint64_t forbidden = 0;

	assert_true(IS_MET(run_history(true) != NULL));
	open_bed(&bed, &kinds[0]);
	for (unsigned i = 0; i < LITMUS_TESTS; i++)
		if (litmus_tests[i].threads == 2)
			forbidden += run_litmus(&bed, &litmus_tests[i], 1000, false).forbidden;
	assert_true(forbidden > 0);
	close_bed(&bed);
}

static void the_checker_tells_right_from_wrong(void **state)
{
	static const struct {
		const char *why;
		struct history_op op[5];
	} cases[] = {
		/* begin, end, value, store */
		{ NULL, { { 1, 2, 7, 1 }, { 3, 4, 7, 0 }, { 5, 6, 8, 1 }, { 7, 8, 8, 0 } } },
		{ NULL, { { 1, 9, 7, 1 }, { 2, 3, 0, 0 }, { 4, 5, 7, 0 }, { 6, 7, 7, 0 } } },
		{ NULL, { { 1, 9, 7, 1 }, { 1, 9, 8, 1 }, { 2, 3, 8, 0 }, { 4, 5, 7, 0 } } },
		{ "never stored", { { 1, 2, 7, 1 }, { 3, 4, 9, 0 } } },
		{ "stored twice", { { 1, 2, 7, 1 }, { 3, 4, 7, 1 } } },
		{ "read before it was there", { { 3, 4, 7, 1 }, { 1, 2, 7, 0 } } },
		{ "an old value comes back",
		  { { 1, 2, 7, 1 }, { 3, 4, 8, 1 }, { 5, 6, 8, 0 }, { 7, 8, 7, 0 } } },
		{ "a store is lost", { { 1, 2, 7, 1 }, { 3, 4, 8, 1 }, { 5, 6, 7, 0 } } },
		{ "the first value comes back", { { 1, 2, 7, 1 }, { 3, 4, 0, 0 } } },
		{ "two readers disagree",
		  { { 1, 9, 7, 1 },
		    { 1, 9, 8, 1 },
		    { 2, 3, 7, 0 },
		    { 4, 5, 8, 0 },
		    { 6, 7, 7, 0 } } },
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct history_op op[5];
		size_t n = 0;

		memcpy(op, cases[i].op, sizeof(op));
		while (n < 5 && op[n].end)
			n++;
		if (!history_check(op, n) != !cases[i].why)
			fail_msg("%s, case %u", cases[i].why ? cases[i].why : "right", i);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_forbidden_comes_out),
		cmocka_unit_test(the_test_sees_what_hardware_does),
		cmocka_unit_test(the_checker_tells_right_from_wrong),
		cmocka_unit_test(histories_are_linearizable),
		cmocka_unit_test(a_page_closed_too_late_is_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
