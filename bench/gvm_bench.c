/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm-bench: gvmnet against what the machine can do and against well-known servers, side by side.
 *
 * Machines are noisy and drift, so no figure stands alone: all contenders are asked in turns, round
 * after round, and what is reported is the ratio of two figures of the same round, as the median
 * over the rounds with the smallest and the largest. The absolute columns are medians too and only
 * say what order of magnitude the ratios belong to.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "bench.h"

#define ROUNDS_MAX     101
#define MAX_CONTENDERS 10

static const struct contender *const contenders[MAX_CONTENDERS] = {
	&contender_tcp,       &contender_uffd,           &contender_epoll, &contender_gvm_fetch,
	&contender_gvm_fault, &contender_gvm_sequential, &contender_ofi,   &contender_memcached,
	&contender_redis,     &contender_nbdkit,
};

struct result {
	int usable;
	unsigned rounds;
	double p50[ROUNDS_MAX], p99[ROUNDS_MAX]; /* µs */
	double rate[ROUNDS_MAX];                 /* thousand pages a second */
};

static struct result results[MAX_CONTENDERS];
static struct bench_opts opts = { .pages = 32768,
				  .ops = 3000,
				  .seconds = 0.4,
				  .window = 32,
				  .client_cpu = -1,
				  .server_cpu = -1 };
static unsigned rounds = 7;
static const char *only, *json_path;
static int sizes, shared;

static int by_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static int by_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(const double *v, unsigned n)
{
	double copy[ROUNDS_MAX];

	if (!n)
		return 0;
	memcpy(copy, v, n * sizeof(*v));
	qsort(copy, n, sizeof(*copy), by_double);
	return n % 2 ? copy[n / 2] : (copy[n / 2 - 1] + copy[n / 2]) / 2;
}

static void fail(unsigned i, const char *step, int err, const char *why)
{
	fprintf(stderr, "gvm-bench: %s is left out: %s: %s%s%s\n", contenders[i]->name, step,
		strerror(-err), why ? ": " : "", why ? why : "");
	contenders[i]->stop();
	results[i].usable = 0;
}

static int ask_latency(unsigned i, uint64_t *ns, unsigned round)
{
	int err;

	if (!contenders[i]->latency)
		return 0;
	err = contenders[i]->latency(&opts, opts.ops / 10 + 1, ns); /* warm */
	if (!err)
		err = contenders[i]->latency(&opts, opts.ops, ns);
	if (err)
		return err;
	qsort(ns, opts.ops, sizeof(*ns), by_u64);
	results[i].p50[round] = (double)ns[opts.ops / 2] / 1e3;
	results[i].p99[round] = (double)ns[(uint64_t)opts.ops * 99 / 100] / 1e3;
	return 0;
}

static int ask_rate(unsigned i, unsigned round)
{
	double per_second = 0;
	int err;

	if (!contenders[i]->throughput)
		return 0;
	err = contenders[i]->throughput(&opts, &per_second);
	results[i].rate[round] = per_second / 1e3;
	return err;
}

/* Where the latency of a contender should be compared with; the driver knows the two floors. */
static double floor_of(const struct contender *c, unsigned round)
{
	double tcp = results[0].p50[round], uffd = results[1].p50[round];

	return c == &contender_gvm_fault ? tcp + uffd : tcp;
}

static void print_ratio(const double *ratio, unsigned n)
{
	double copy[ROUNDS_MAX];

	memcpy(copy, ratio, n * sizeof(*ratio));
	qsort(copy, n, sizeof(*copy), by_double);
	printf("  %5.2f [%4.2f to %4.2f]", median(ratio, n), copy[0], copy[n - 1]);
}

static void print_row(unsigned i)
{
	const struct contender *c = contenders[i];
	const struct result *r = &results[i];
	double ratio[ROUNDS_MAX];

	printf("%-20s", c->name);
	if (c->latency) {
		printf(" %8.1f %8.1f", median(r->p50, r->rounds), median(r->p99, r->rounds));
		for (unsigned k = 0; k < r->rounds; k++)
			ratio[k] = r->p50[k] / floor_of(c, k);
		print_ratio(ratio, r->rounds);
	} else {
		printf(" %8s %8s  %22s", "-", "-", "-");
	}
	if (c->throughput) {
		printf(" %9.0f", median(r->rate, r->rounds));
		for (unsigned k = 0; k < r->rounds; k++)
			ratio[k] = r->rate[k] / results[0].rate[k];
		print_ratio(ratio, r->rounds);
	}
	putchar('\n');
}

/* A page that is read in order has to come over the wire and to be put in its place. On one CPU
 * that is one after the other. */
static void print_both(unsigned seq)
{
	const struct result *r = &results[seq];
	double ratio[ROUNDS_MAX];

	for (unsigned k = 0; k < r->rounds; k++)
		ratio[k] = r->rate[k] * (1 / results[0].rate[k] + 1 / results[1].rate[k]);
	printf("\n%s, against raw TCP and then raw userfaultfd for each page: ",
	       contenders[seq]->name);
	print_ratio(ratio, r->rounds);
	putchar('\n');
}

static void print_table(void)
{
	printf("\n%-20s %8s %8s  %22s %9s  %s\n", "one 4 KiB page", "p50 µs", "p99 µs",
	       "p50 against floor", "kpages/s", "against raw TCP");
	for (unsigned i = 0; i < MAX_CONTENDERS; i++)
		if (results[i].usable)
			print_row(i);
	for (unsigned i = 0; i < MAX_CONTENDERS; i++)
		if (results[i].usable && contenders[i] == &contender_gvm_sequential)
			print_both(i);
	printf(
	    "\nThe floor is raw TCP's p50 of the same round; for a fault, raw TCP's and raw\n"
	    "userfaultfd's together. Throughput is with %u requests outstanding. Ratios: median\n"
	    "of %u rounds, [smallest to largest].\n",
	    opts.window, rounds);
}

static void json_array(FILE *f, const char *name, const double *v, unsigned n, int last)
{
	fprintf(f, "\"%s\":[", name);
	for (unsigned k = 0; k < n; k++)
		fprintf(f, "%s%.3f", k ? "," : "", v[k]);
	fprintf(f, "]%s", last ? "" : ",");
}

static int write_json(void)
{
	FILE *f = fopen(json_path, "we");
	const char *comma = "";

	if (!f) {
		fprintf(stderr, "gvm-bench: %s: %s\n", json_path, strerror(errno));
		return 1;
	}
	fprintf(f,
		"{\"pages\":%u,\"window\":%u,\"client_cpu\":%d,\"server_cpu\":%d,\"contenders\":[",
		opts.pages, opts.window, opts.client_cpu, opts.server_cpu);
	for (unsigned i = 0; i < MAX_CONTENDERS; i++) {
		const struct result *r = &results[i];

		if (!r->usable)
			continue;
		fprintf(f, "%s\n{\"name\":\"%s\",", comma, contenders[i]->name);
		json_array(f, "p50_us", r->p50, contenders[i]->latency ? r->rounds : 0, 0);
		json_array(f, "p99_us", r->p99, contenders[i]->latency ? r->rounds : 0, 0);
		json_array(f, "kpages_per_second", r->rate,
			   contenders[i]->throughput ? r->rounds : 0, 1);
		fputs("}", f);
		comma = ",";
	}
	fputs("\n]}\n", f);
	return fclose(f) ? 1 : 0;
}

static int run(void)
{
	uint64_t *ns = calloc(opts.ops + 1, sizeof(*ns));

	if (!ns)
		return 1;
	for (unsigned i = 0; i < MAX_CONTENDERS; i++) {
		const char *why = NULL;
		int err;

		if (only && i > 1 && !strstr(contenders[i]->name, only))
			continue;
		results[i].usable = 1;
		bench_pin(opts.client_cpu);
		err = contenders[i]->start(&opts, &why);
		if (err)
			fail(i, "start", err, why);
	}
	for (unsigned round = 0; round < rounds; round++) {
		fprintf(stderr, "\rround %u of %u ", round + 1, rounds);
		for (unsigned i = 0; i < MAX_CONTENDERS; i++) {
			int err = results[i].usable ? ask_latency(i, ns, round) : 0;

			if (!err && results[i].usable)
				err = ask_rate(i, round);
			if (err)
				fail(i, "round", err, NULL);
			else
				results[i].rounds = round + 1;
		}
	}
	fputc('\n', stderr);
	free(ns);
	if (!results[0].usable || !results[1].usable) {
		fprintf(stderr, "gvm-bench: without the floors there is nothing to compare with\n");
		return 1;
	}
	print_table();
	for (unsigned i = 0; i < MAX_CONTENDERS; i++)
		if (results[i].usable)
			contenders[i]->stop();
	return json_path ? write_json() : 0;
}

static void usage(FILE *out)
{
	fputs("usage: gvm-bench --memsrv PATH --scratch DIR [options]\n"
	      "  --rounds N     rounds, each asks every contender once (7; at most 101)\n"
	      "  --ops N        operations of a latency round (3000)\n"
	      "  --seconds S    length of a throughput round (0.4)\n"
	      "  --window N     outstanding requests for throughput (32)\n"
	      "  --mib N        memory asked for, in MiB (128)\n"
	      "  --cpus C,S     pin client and server to these CPUs (equal: they share one)\n"
	      "  --only TEXT    the floors, and contenders whose name has TEXT\n"
	      "  --json FILE    all rounds' figures\n"
	      "  --sizes        instead: memory that is needed, and hit rates against exact LRU;\n"
	      "                 exit status 1 if a goal is missed\n"
	      "  --shared       instead: memory that two processes share, against the pager\n",
	      out);
}

static int number(const char *text, unsigned low, unsigned high, unsigned *value)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (*end || end == text || v < low || v > high) {
		fprintf(stderr, "gvm-bench: '%s' is not a number from %u to %u\n", text, low, high);
		return -EINVAL;
	}
	*value = (unsigned)v;
	return 0;
}

static int parse(int argc, char **argv)
{
	static const struct option table[] = {
		{ "rounds", 1, NULL, 'r' },  { "ops", 1, NULL, 'o' },
		{ "seconds", 1, NULL, 's' }, { "window", 1, NULL, 'w' },
		{ "mib", 1, NULL, 'm' },     { "cpus", 1, NULL, 'c' },
		{ "only", 1, NULL, 'y' },    { "json", 1, NULL, 'j' },
		{ "memsrv", 1, NULL, 'S' },  { "scratch", 1, NULL, 'd' },
		{ "help", 0, NULL, 'h' },    { "sizes", 0, &sizes, 1 },
		{ "shared", 0, &shared, 1 }, { 0 },
	};
	unsigned mib = 128;
	int c, err = 0;

	while (!err && (c = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (c) {
		case 0:
			break;
		case 'r':
			err = number(optarg, 1, ROUNDS_MAX, &rounds);
			break;
		case 'o':
			err = number(optarg, 10, 10000000, &opts.ops);
			break;
		case 's':
			opts.seconds = strtod(optarg, NULL);
			err = opts.seconds > 0 ? 0 : -EINVAL;
			break;
		case 'w':
			err = number(optarg, 1, 256, &opts.window);
			break;
		case 'm':
			err = number(optarg, 32, 65536, &mib);
			break;
		case 'c':
			err = sscanf(optarg, "%d,%d", &opts.client_cpu, &opts.server_cpu) == 2
				  ? 0
				  : -EINVAL;
			break;
		case 'y':
			only = optarg;
			break;
		case 'j':
			json_path = optarg;
			break;
		case 'S':
			opts.memsrv = optarg;
			break;
		case 'd':
			opts.scratch = optarg;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			err = -EINVAL;
		}
	}
	opts.pages = mib * 256;
	return err ? err : opts.memsrv && opts.scratch ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
	if (parse(argc, argv)) {
		usage(stderr);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (shared)
		return bench_shared(&opts, rounds);
	return sizes ? bench_sizes(&opts) : run();
}
