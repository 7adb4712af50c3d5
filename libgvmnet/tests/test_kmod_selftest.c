/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that the kernel module's self-test (kmod/selftest.c, the same files) passes with the engine
 * as it is, that one seed repeats a run, that it finds the faults that it can have put in, and
 * those of the engine that the explorer finds too; and that it stops when it is told to, and
 * without memory.
 *
 * With a seed as argument: only one run, and what happened in it. GVM_SIM_S: so many seconds of
 * further seeds (ci/soak.d); GVM_SIM_SEED: begin with this one.
 */
#include "../../kmod/selftest.h"
#include "ivy/internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

static size_t in_use;
static int allocations_left, pauses_left;

#define SHORTAGE 200 /* allocations that fail, once they do */

static void *take(void *user, size_t size)
{
	if (allocations_left > -SHORTAGE && allocations_left-- <= 0)
		return NULL;
	in_use += size;
	return malloc(size);
}

static void give(void *user, void *mem, size_t size)
{
	in_use -= size;
	free(mem);
}

static int go_on(void)
{
	return pauses_left-- <= 0;
}

static const struct selftest_host host = { take, give, go_on };

static int run(struct selftest *t, uint64_t seed, uint32_t steps, enum selftest_bug bug)
{
	int status;

	*t = (struct selftest){ .host = &host, .seed = seed, .steps = steps, .bug = bug };
	status = selftest_run(t);
	if (in_use != 0)
		fail_msg("seed %llu: %zu bytes are left", (unsigned long long)seed, in_use);
	return status;
}

static int set_up(void **state)
{
	allocations_left = pauses_left = 1 << 30;
	ivy_test_bug = IVY_BUG_NONE;
	return 0;
}

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 10) : otherwise;
}

/* What happened in all runs. */
static void add(struct selftest *sum, const struct selftest *t)
{
	sum->messages += t->messages;
	sum->pages_sent += t->pages_sent;
	sum->faults += t->faults;
	sum->evictions += t->evictions;
	sum->breaks += t->breaks;
	sum->deaths += t->deaths;
	sum->repeated += t->repeated;
	sum->invalidated += t->invalidated;
	sum->no_memory += t->no_memory;
}

/* A few seeds; with GVM_SIM_S for so many seconds, from GVM_SIM_SEED on. What each run has of
 * something is chance; on average there is enough of all.
 */
static void the_engine_passes(void **state)
{
	uint64_t first = from_environment("GVM_SIM_SEED", 1), seed = first, runs;
	time_t until = time(NULL) + (time_t)from_environment("GVM_SIM_S", 0);
	struct selftest t, sum = { 0 };

	for (; seed < first + 12 || time(NULL) < until; seed++) {
		if (run(&t, seed, 24000, SELFTEST_BUG_NONE) != 0)
			fail_msg("seed %llu, round %u: %s", (unsigned long long)seed, t.rounds,
				 t.error);
		assert_int_equal(t.rounds, 8);
		add(&sum, &t);
	}
	runs = seed - first;
	print_message("%llu runs: %llu messages, %llu pages sent, %llu faults, %llu evictions, "
		      "%llu breaks, %llu deaths, %llu repeated, %llu invalidated, %llu times no "
		      "memory\n",
		      (unsigned long long)runs, (unsigned long long)sum.messages,
		      (unsigned long long)sum.pages_sent, (unsigned long long)sum.faults,
		      (unsigned long long)sum.evictions, (unsigned long long)sum.breaks,
		      (unsigned long long)sum.deaths, (unsigned long long)sum.repeated,
		      (unsigned long long)sum.invalidated, (unsigned long long)sum.no_memory);
	assert_true(sum.messages > 10000 * runs && sum.pages_sent > 1000 * runs);
	assert_true(sum.faults > 1000 * runs && sum.evictions > 100 * runs);
	assert_true(sum.breaks > 10 * runs && sum.deaths > runs && sum.repeated > 10 * runs);
	assert_true(sum.invalidated > 100 * runs && sum.no_memory > 3 * runs);
}

static void a_seed_repeats_a_run(void **state)
{
	struct selftest a, b;

	assert_int_equal(run(&a, 77, 9000, SELFTEST_BUG_NONE), 0);
	assert_int_equal(run(&b, 77, 9000, SELFTEST_BUG_NONE), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(run(&b, 78, 9000, SELFTEST_BUG_NONE), 0);
	assert_true(a.messages != b.messages);
}

static void faults_of_the_cluster_are_found(void **state)
{
	struct selftest t;
	unsigned seed;
	int bug;

	for (bug = SELFTEST_BUG_FLIP; bug < SELFTEST_BUGS; bug++)
		for (seed = 1; seed <= 8; seed++) {
			int status = run(&t, seed, 24000, (enum selftest_bug)bug);

			if (status != -EIO || !t.error[0])
				fail_msg("\"%s\" is not found with seed %u: %d",
					 selftest_bug_name((enum selftest_bug)bug), seed, status);
			if (seed == 1)
				print_message("%s: \"%s\" in round %u\n",
					      selftest_bug_name((enum selftest_bug)bug), t.error,
					      t.rounds);
		}
}

/* Rare ones need several seeds; a few of them need an order of events that chance hardly meets, and
 * are the explorer's. */
static void faults_of_the_engine_are_found(void **state)
{
	struct selftest t;
	int bug;

	/* those behind it need a home that comes back: no home dies here */
	for (bug = IVY_BUG_NO_ACK; bug < IVY_BUG_GIVEN_GOOD; bug++) {
		unsigned seed, found = 0;

		if (bug == IVY_BUG_OLD_BACK || bug == IVY_BUG_PIN) /* it pins nothing */
			continue;

		for (seed = 1; seed <= 20 && !found; seed++) {
			ivy_test_bug = (enum ivy_bug)bug;
			found = run(&t, seed, 24000, SELFTEST_BUG_NONE) == -EIO;
		}
		if (!found)
			fail_msg("fault %d of the engine is not found", bug);
		print_message("fault %d: \"%s\" in round %u\n", bug, t.error, t.rounds);
	}
}

static void names_are_read(void **state)
{
	int bug;

	for (bug = 0; bug < SELFTEST_BUGS; bug++)
		assert_int_equal(selftest_bug_by_name(selftest_bug_name((enum selftest_bug)bug)),
				 bug);
	assert_int_equal(selftest_bug_by_name("nonsense"), -1);
	assert_int_equal(selftest_bug_by_name(""), -1);
}

static void it_stops_when_told(void **state)
{
	struct selftest t;

	for (pauses_left = 0; pauses_left < 400; pauses_left += 7) {
		int pauses = pauses_left;

		assert_int_equal(run(&t, 5, 24000, SELFTEST_BUG_NONE), -EINTR);
		assert_string_equal(t.error, "");
		pauses_left = pauses;
	}
}

/* From the first allocation on, wherever memory ends: it says so, or does what can be done without.
 */
static void it_bears_the_end_of_memory(void **state)
{
	struct selftest t;
	int most;

	for (most = 0; most < 4000; most += most < 80 ? 1 : 37) {
		int status;

		allocations_left = most;
		status = run(&t, 6, 3000, SELFTEST_BUG_NONE);
		if (most < 73) /* its own, and three for each engine */
			assert_int_equal(status, -ENOMEM);
		else if (status != 0)
			fail_msg("without memory after %d allocations: %d, %s", most, status,
				 t.error);
	}
}

/* A run of this seed, in the words of the module (kmod/giantvm_main.c), to be compared with its
 * own. */
static int show(const char *seed)
{
	struct selftest t;

	set_up(NULL);
	if (run(&t, strtoull(seed, NULL, 10), 24000, SELFTEST_BUG_NONE) != 0)
		fprintf(stderr, "%s\n", t.error);
	return printf("%llu messages, %llu pages sent, %llu faults, %llu evictions, "
		      "%llu connections broken, %llu nodes died\n",
		      (unsigned long long)t.messages, (unsigned long long)t.pages_sent,
		      (unsigned long long)t.faults, (unsigned long long)t.evictions,
		      (unsigned long long)t.breaks, (unsigned long long)t.deaths) < 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(the_engine_passes, set_up),
		cmocka_unit_test_setup(a_seed_repeats_a_run, set_up),
		cmocka_unit_test_setup(faults_of_the_cluster_are_found, set_up),
		cmocka_unit_test_setup(faults_of_the_engine_are_found, set_up),
		cmocka_unit_test_setup(names_are_read, set_up),
		cmocka_unit_test_setup(it_stops_when_told, set_up),
		cmocka_unit_test_setup(it_bears_the_end_of_memory, set_up),
	};

	if (argc > 1)
		return show(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
