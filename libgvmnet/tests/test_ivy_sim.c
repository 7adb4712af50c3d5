/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that the coherence engine keeps its promises over long random runs: with connections that
 * break, partitions, nodes that die and come back, slow nodes and allocations that fail; that one
 * seed repeats a run exactly; and what a write to a page that 10,239 nodes share takes.
 * GVM_SIM_S: so many seconds of further seeds (ci/soak.d); GVM_SIM_SEED: begin with this one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <time.h>
#include "tools/sim.h"

static struct sim_config base(uint64_t seed)
{
	return (struct sim_config){ .seed = seed,
				    .nodes = 24,
				    .homes = 3,
				    .pages = 64,
				    .ops = 20000,
				    .write_percent = 30,
				    .evict_percent = 5,
				    .latency_ns = 5000,
				    .jitter_ns = 20000,
				    .think_ns = 20000 };
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void must_run(const struct sim_config *c, struct sim_result *r)
{
	if (sim_run(c, r) != 0)
		fail_msg("%s; repeat it with GVM_SIM_SEED=%llu", r->error,
			 (unsigned long long)c->seed);
	assert_int_equal(r->refused, 0);
}

/* What a seed stands for: each has another mixture. */
static struct sim_config of_seed(uint64_t seed)
{
	struct sim_config c = base(seed);

	c.pattern = (enum sim_pattern)(seed % 3);
	c.pages = seed % 5 == 0 ? 2 : 64;
	c.nodes = seed % 7 == 0 ? 100 : 24;
	c.slow_nodes = seed % 4 == 1 ? 2 : 0;
	c.chaos_ns = seed % 2 ? 300000 : 0;
	c.crashes = seed % 3 ? 3 : 0;
	c.alloc_fail = seed % 6 == 5 ? 20 : 0;
	return c;
}

static void all_goes_well(void **state)
{
	struct sim_config c = base(1);
	struct sim_result r;
	double begun = seconds();

	c.ops = 400000;
	must_run(&c, &r);
	print_message("%llu events, %.2f million a second, %llu faults, mean %llu ns\n",
		      (unsigned long long)r.events, (double)r.events / 1e6 / (seconds() - begun),
		      (unsigned long long)r.faults, (unsigned long long)(r.fault_ns / r.faults));
	assert_int_equal(r.failed, 0);
	assert_int_equal(r.lost, 0);
	assert_true(r.node_most < 2 * r.node_least);
}

static void random_runs_keep_the_promises(void **state)
{
	const char *first = getenv("GVM_SIM_SEED"), *time = getenv("GVM_SIM_S");
	uint64_t seed = first ? strtoull(first, NULL, 10) : 1, events = 0, resets = 0, deaths = 0;
	double until = seconds() + (time ? atof(time) : 0);
	struct sim_result r;
	unsigned runs;

	for (runs = 0; runs < 42 || seconds() < until; runs++, seed++) {
		struct sim_config c = of_seed(seed);

		must_run(&c, &r);
		events += r.events;
		resets += r.resets;
		deaths += r.deaths;
		if (first && !time)
			break;
	}
	print_message("%u runs, %llu events, %llu broken connections, %llu deaths\n", runs,
		      (unsigned long long)events, (unsigned long long)resets,
		      (unsigned long long)deaths);
}

static void a_seed_repeats_a_run(void **state)
{
	struct sim_config c = of_seed(5);
	struct sim_result a, b;

	must_run(&c, &a);
	must_run(&c, &b);
	assert_memory_equal(&a, &b, sizeof(a));
	c.seed++;
	must_run(&c, &b);
	assert_int_not_equal(a.digest, b.digest);
}

/* 2 x ceil(log16 n) + 3 rounds, and 1 MB. */
static void a_write_to_what_all_share(void **state)
{
	struct sim_config c = { .seed = 1,
				.nodes = 10240,
				.homes = 1,
				.pages = 1,
				.ops = 30000,
				.pattern = SIM_BROADCAST,
				.latency_ns = 1000000,
				.think_ns = 1000 };
	struct sim_result r;

	must_run(&c, &r);
	print_message("rounds %.2f, messages %llu, bytes %llu, directory %llu bytes\n",
		      (double)r.last_fault_ns / 1e6, (unsigned long long)r.last_messages,
		      (unsigned long long)r.last_bytes, (unsigned long long)r.directory_bytes);
	assert_true(r.last_fault_ns < 11 * 1000000ull + 100000);
	assert_true(r.last_bytes <= 1000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_goes_well),
		cmocka_unit_test(random_runs_keep_the_promises),
		cmocka_unit_test(a_seed_repeats_a_run),
		cmocka_unit_test(a_write_to_what_all_share),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
