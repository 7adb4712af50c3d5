/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm sim: the coherence engine on a simulated network of up to 10,240 nodes. The command line; the
 * simulator is sim.c, the report gvm_sim_report.c.
 */
#include "tools/gvm.h"
#include "tools/gvm_sim.h"
#include "wire/wire.h"

#include <gvmnet/gvmnet.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Sizes of --sweep. */
static const uint32_t sweep[] = { 16, 64, 256, 1024, 4096, GVM_WIRE_NODE_MAX };
#define SWEEP (sizeof(sweep) / sizeof(sweep[0]))

/* What is asked for, as it is on the command line; below 0: not given. */
struct asked {
	double nodes, homes, pages, accesses, seed, writes, evict;
	double latency_us, jitter_us, think_us, slow;
	double entries, loss, breaks_ms, partitions, partition_ms, crashes, returns, twice, changed;
	enum sim_pattern pattern;
	int json, sweep;
};

static const struct {
	const char *name;
	size_t at; /* of the double in struct asked */
	double low, high;
	int whole;
	const char *arg, *help;
} numbers[] = {
#define NUMBER(name, field) name, offsetof(struct asked, field)
	{ NUMBER("--nodes", nodes), 2, GVM_WIRE_NODE_MAX, 1, "N", "2 to 10240 (default 256)" },
	{ NUMBER("--homes", homes), 1, GVM_WIRE_NODE_MAX, 1, "N",
	  "the first N are homes of the pages (default: one of 16)" },
	{ NUMBER("--pages", pages), 1, 1 << 24, 1, "N",
	  "of the region (default: 4 a node; readers, broadcast: 1)" },
	{ NUMBER("--accesses", accesses), 1, 1e9, 1, "N", "of each node, on average (default 50)" },
	{ NUMBER("--seed", seed), 0, 9e15, 1, "N", "the same seed, the same run (default 1)" },
	{ NUMBER("--writes", writes), 0, 100, 1, "PERCENT", "uniform, hot, zipf (default 30)" },
	{ NUMBER("--evict", evict), 0, 100, 1, "PERCENT",
	  "of accesses after which the page is evicted (default 0)" },
	{ NUMBER("--changed", changed), 1, SIM_CHANGED_MAX, 1, "BYTES",
	  "of 4 KiB that a write changes: pages go as deltas (default: whole)" },
	{ NUMBER("--entries", entries), 1, 1 << 24, 1, "N",
	  "of a home's directory: beyond that pages are taken back (default: 16 Mi)" },
	{ NUMBER("--latency", latency_us), 0.001, 1e6, 0, "US", "of a message (default 5)" },
	{ NUMBER("--jitter", jitter_us), 0, 1e6, 0, "US",
	  "so much more at most, at random (default 0)" },
	{ NUMBER("--think", think_us), 0, 1e6, 0, "US",
	  "between two accesses of a program, at most (default 20)" },
	{ NUMBER("--slow", slow), 0, GVM_WIRE_NODE_MAX, 1, "N",
	  "the last N nodes get messages 20 times as late" },
	/* a request takes some messages in a row that all arrive: with more it hardly ever ends */
	{ NUMBER("--loss", loss), 0, 5e5, 1, "N",
	  "of a million messages are lost, half at most, each with its connection" },
	{ NUMBER("--breaks", breaks_ms), 0.001, 1e6, 0, "MS",
	  "about as often a connection breaks, or all of a node" },
	{ NUMBER("--partitions", partitions), 0, 1000, 1, "N",
	  "so many times the cluster falls in two" },
	{ NUMBER("--partition", partition_ms), 0.001, 1e6, 0, "MS",
	  "for half of this to this (default 2)" },
	{ NUMBER("--crashes", crashes), 0, 1000, 1, "N",
	  "so many times a node that is no home dies, and comes back" },
	{ NUMBER("--home-restarts", returns), 0, 1000, 1, "N",
	  "so many times a home dies and starts again; then homes run no programs" },
	{ NUMBER("--duplicates", twice), 0, 1e6, 1, "N",
	  "of a million messages arrive twice, one behind the other" },
};
#define NUMBERS (sizeof(numbers) / sizeof(numbers[0]))

static const struct {
	enum sim_pattern pattern;
	const char *name, *help;
} workloads[] = {
	{ SIM_UNIFORM, "uniform", "any page" },
	{ SIM_ZIPF, "zipf", "the i-th page 1/i as often as the first" },
	{ SIM_HOT, "hot", "half of the accesses to 1/64 of the pages" },
	{ SIM_READERS, "readers", "one node writes, all others read" },
	{ SIM_PING_PONG, "ping-pong", "nodes in pairs, both write the pair's pages" },
	{ SIM_PRODUCER, "producer", "nodes in pairs, one writes and the other one reads" },
	{ SIM_MIGRATORY, "migratory", "a node reads any page, then writes it" },
	{ SIM_BROADCAST, "broadcast", "all read one page, then one node writes it, once" },
};
#define WORKLOADS (sizeof(workloads) / sizeof(workloads[0]))

const char *sim_pattern_name(enum sim_pattern pattern)
{
	size_t i;

	for (i = 0; i < WORKLOADS; i++)
		if (workloads[i].pattern == pattern)
			return workloads[i].name;
	return NULL;
}

static int help(void)
{
	size_t i;

	puts("usage: gvm sim [--workload NAME] [--nodes N] [--pages N] [--seed N] [OPTION]...\n"
	     "\n"
	     "Runs the coherence engine itself on a simulated network, checks what it promises as\n"
	     "it goes, and says what faults, messages and memory that took.\n"
	     "\n"
	     "  --workload NAME    (default uniform)");
	for (i = 0; i < WORKLOADS; i++)
		printf("      %-12s   %s\n", workloads[i].name, workloads[i].help);
	for (i = 0; i < NUMBERS; i++)
		printf("  %s %-*s %s\n", numbers[i].name, 17 - (int)strlen(numbers[i].name),
		       numbers[i].arg, numbers[i].help);
	puts("  --sweep            16, 64, 256, 1024, 4096 and 10240 nodes, as a table\n"
	     "  --json             as JSON\n"
	     "\n"
	     "A hop is the mean time of a message. How fast this machine simulates is said on\n"
	     "standard error. Exit code 0: all promises kept; 1: not, standard error says which;\n"
	     "2: wrong usage.");
	return GVM_EXIT_OK;
}

/* ---- command line --------------------------------------------------------------------------- */

static int take_workload(struct asked *asked, const char *text)
{
	size_t i;

	for (i = 0; i < WORKLOADS; i++)
		if (strcmp(text, workloads[i].name) == 0) {
			asked->pattern = workloads[i].pattern;
			return 0;
		}
	fprintf(stderr, "gvm sim: --workload %s: it is not known; see gvm sim --help\n", text);
	return -1;
}

static int take_number(struct asked *asked, size_t i, const char *text)
{
	char *end;
	double v = strtod(text, &end);

	if (!*text || *end || !(v >= numbers[i].low && v <= numbers[i].high) ||
	    (numbers[i].whole && v != floor(v))) {
		fprintf(stderr, "gvm sim: %s %s: a %snumber from %.16g to %.16g is wanted\n",
			numbers[i].name, text, numbers[i].whole ? "whole " : "", numbers[i].low,
			numbers[i].high);
		return -1;
	}
	memcpy((char *)asked + numbers[i].at, &v, sizeof(v));
	return 0;
}

/* argv[*i], and what belongs to it. */
static int take(struct asked *asked, char **argv, int *i)
{
	char *equals = strchr(argv[*i], '='), *value = equals ? equals + 1 : argv[*i + 1];
	size_t len = equals ? (size_t)(equals - argv[*i]) : strlen(argv[*i]), k;
	const char *name = argv[*i];

	if (strcmp(name, "--json") == 0 || strcmp(name, "--sweep") == 0) {
		*(name[2] == 'j' ? &asked->json : &asked->sweep) = 1;
		return 0;
	}
	for (k = 0; k < NUMBERS; k++)
		if (strlen(numbers[k].name) == len && strncmp(name, numbers[k].name, len) == 0)
			break;
	if (k == NUMBERS && (len != strlen("--workload") || strncmp(name, "--workload", len))) {
		gvm_usage(argv, *i);
		return -1;
	}
	if (!value) {
		fprintf(stderr, "gvm sim: %s wants a value\n", name);
		return -1;
	}
	*i += !equals;
	return k == NUMBERS ? take_workload(asked, value) : take_number(asked, k, value);
}

static double or_else(double value, double fallback)
{
	return value < 0 ? fallback : value;
}

static uint64_t ns(double value, double unit)
{
	return (uint64_t)llround(value * unit);
}

static struct sim_config configure(const struct asked *a, uint32_t nodes)
{
	int one = a->pattern == SIM_READERS || a->pattern == SIM_BROADCAST;
	uint32_t homes = (uint32_t)or_else(a->homes, (nodes + 15) / 16);

	return (struct sim_config){
		.seed = (uint64_t)or_else(a->seed, 1),
		.nodes = nodes,
		.homes = homes < nodes ? homes : nodes,
		.pages = (uint32_t)or_else(a->pages, one ? 1 : 4 * nodes),
		.ops = (uint64_t)or_else(a->accesses, 50) * nodes,
		.pattern = a->pattern,
		.write_percent = (uint32_t)or_else(a->writes, 30),
		.evict_percent = (uint32_t)or_else(a->evict, 0),
		.latency_ns = ns(or_else(a->latency_us, 5), 1e3),
		.jitter_ns = ns(or_else(a->jitter_us, 0), 1e3),
		.think_ns = ns(or_else(a->think_us, 20), 1e3),
		.slow_nodes = (uint32_t)or_else(a->slow, 0),
		.chaos_ns = ns(or_else(a->breaks_ms, 0), 1e6),
		.loss = (uint32_t)or_else(a->loss, 0),
		.entries = (uint32_t)or_else(a->entries, 0),
		.partitions = (uint32_t)or_else(a->partitions, 0),
		.partition_ns = ns(or_else(a->partition_ms, 2), 1e6),
		.crashes = (uint32_t)or_else(a->crashes, 0),
		.returns = (uint32_t)or_else(a->returns, 0),
		.twice = (uint32_t)or_else(a->twice, 0),
		.changed = (uint32_t)or_else(a->changed, 0),
	};
}

static int complain(const char *sentence)
{
	fprintf(stderr, "gvm sim: %s\n", sentence);
	return -1;
}

static int check(const struct asked *asked)
{
	struct sim_config c = configure(asked, (uint32_t)or_else(asked->nodes, 256));

	if (asked->sweep && asked->nodes >= 0)
		return complain("--sweep has its own numbers of nodes");
	if (asked->sweep)
		c.nodes = sweep[0];
	if (asked->homes > c.nodes)
		return complain("--homes must not be above the number of nodes");
	if (c.slow_nodes > c.nodes)
		return complain("--slow must not be above the number of nodes");
	if (c.crashes && asked->homes >= c.nodes)
		return complain("--crashes needs a node that is no home");
	if (c.returns && c.homes >= c.nodes)
		return complain("--home-restarts needs a node that is no home");
	return 0;
}

/* ---- runs ----------------------------------------------------------------------------------- */

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int run(struct sim_done *done)
{
	double begun = seconds();

	if (sim_run(&done->config, &done->result) != 0) {
		fprintf(stderr, "gvm sim: %s\n", done->result.error);
		return -1;
	}
	done->took = seconds() - begun;
	return 0;
}

static int run_all(const struct asked *asked, struct sim_done *done, unsigned runs)
{
	unsigned i;

	for (i = 0; i < runs; i++) {
		done[i].config = configure(
		    asked, asked->sweep ? sweep[i] : (uint32_t)or_else(asked->nodes, 256));
		if (run(&done[i]) != 0)
			return -1;
		if (asked->sweep && !asked->json)
			sim_report_row(&done[i], i == 0);
	}
	if (asked->json)
		sim_report_json(done, runs, asked->sweep);
	else if (!asked->sweep)
		sim_report_text(done);
	fflush(stdout);
	sim_report_speed(done, runs);
	return 0;
}

int gvm_cmd_sim(int argc, char **argv)
{
	struct asked asked = { .pattern = SIM_UNIFORM };
	struct sim_done *done;
	size_t k;
	int i, status;

	if (gvm_wants_help(argc, argv))
		return help();
	for (k = 0; k < NUMBERS; k++)
		memcpy((char *)&asked + numbers[k].at, &(double){ -1 }, sizeof(double));
	for (i = 1; i < argc; i++)
		if (take(&asked, argv, &i) != 0)
			return GVM_EXIT_USAGE;
	if (check(&asked) != 0)
		return GVM_EXIT_USAGE;
	done = calloc(SWEEP, sizeof(*done));
	if (!done)
		return GVM_EXIT_FAILED;
	status = run_all(&asked, done, asked.sweep ? SWEEP : 1);
	free(done);
	return status == 0 ? GVM_EXIT_OK : GVM_EXIT_FAILED;
}
