/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm perf: latency and rate of send, fetch, put and page faults, in the manner of perftest. The
 * command line and the report; the measuring itself is in gvm_perf_net.c and gvm_perf_fault.c.
 */
#include "tools/gvm.h"
#include "tools/gvm_nodes.h"
#include "tools/gvm_perf.h"
#include "wire/wire.h"

#include <errno.h>
#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

volatile sig_atomic_t perf_interrupted;
void (*volatile perf_interrupt)(void);

static const char *const test_names[] = { "send", "fetch", "put", "fault" };

/* ---- recorder ------------------------------------------------------------------------------- */

static unsigned bucket_of(uint64_t ns)
{
	unsigned shift;

	if (ns < PERF_STEPS)
		return (unsigned)ns;
	shift = 63u - (unsigned)__builtin_clzll(ns) - 7u; /* 7: log2 of the steps */
	return shift * PERF_STEPS + (unsigned)(ns >> shift);
}

/* The largest value of a bucket. */
static uint64_t bucket_edge(unsigned bucket)
{
	unsigned shift;

	if (bucket < 2 * PERF_STEPS)
		return bucket;
	shift = bucket / PERF_STEPS - 1;
	return (((uint64_t)(bucket % PERF_STEPS + PERF_STEPS) + 1) << shift) - 1;
}

void perf_record(struct perf_recorder *recorder, uint64_t ns)
{
	if (recorder->count++ == 0 || ns < recorder->min)
		recorder->min = ns;
	if (ns > recorder->max)
		recorder->max = ns;
	recorder->sum += ns;
	recorder->bucket[bucket_of(ns)]++;
}

void perf_merge(struct perf_recorder *into, const struct perf_recorder *from)
{
	if (from->count && (into->count == 0 || from->min < into->min))
		into->min = from->min;
	if (from->max > into->max)
		into->max = from->max;
	into->count += from->count;
	into->sum += from->sum;
	for (unsigned i = 0; i < PERF_BUCKETS; i++)
		into->bucket[i] += from->bucket[i];
}

uint64_t perf_percentile(const struct perf_recorder *recorder, double fraction)
{
	uint64_t want = (uint64_t)(fraction * (double)recorder->count + 0.5), seen = 0;

	if (want == 0)
		want = 1;
	for (unsigned i = 0; i < PERF_BUCKETS; i++) {
		seen += recorder->bucket[i];
		if (seen >= want)
			return bucket_edge(i) < recorder->max ? bucket_edge(i) : recorder->max;
	}
	return recorder->max;
}

uint64_t perf_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static int logged; /* atomic: the library has said what is wrong */

/* What the library logs, as this command's own lines. Any thread. */
static void log_line(enum gvm_log_level level, const char *line)
{
	if (level == GVM_LOG_ERROR)
		__atomic_store_n(&logged, 1, __ATOMIC_RELAXED);
	fprintf(stderr, "gvm perf: %s\n", line);
}

void perf_tell(const struct perf *perf, int status)
{
	if (status == -EINTR)
		fprintf(stderr, "gvm perf: interrupted before anything was measured\n");
	else if (!perf->told && !__atomic_load_n(&logged, __ATOMIC_RELAXED))
		fprintf(stderr, "gvm perf: %s\n", strerror(-status));
}

/* ---- the nodes ------------------------------------------------------------------------------ */

/* A node that refuses, or is not there, is known at once, and not when an operation's time is up.
 */
static int probe(struct perf *perf, const struct gvm_cluster *cluster)
{
	int one = perf->test == PERF_SEND && perf->node >= 0;
	char why[512];
	int rc = nodes_probe(cluster, one ? (unsigned)perf->node : GVM_NODE_NONE, why, sizeof why);

	gvm_log_set(log_line);
	if (!rc)
		return 0;
	fprintf(stderr, "gvm perf: %s\n", why);
	perf->told = 1;
	return -EHOSTUNREACH;
}

int perf_cluster(struct perf *perf, struct gvm_cluster **cluster)
{
	char *error = NULL;
	int rc = perf->connect ? gvm_cluster_single(perf->connect, cluster, &error)
			       : gvm_cluster_load(perf->cluster_file, cluster, &error);

	if (rc && error)
		fprintf(stderr, "gvm perf: %s%s\n", perf->connect ? "--connect " : "", error);
	perf->told = rc && error;
	free(error);
	if (!rc && perf->node >= 0 && !gvm_cluster_node(*cluster, (unsigned)perf->node)) {
		fprintf(stderr, "gvm perf: --node %ld is not in %s\n", perf->node,
			perf->cluster_file);
		perf->told = 1;
		return -ENOENT;
	}
	return rc ? rc : probe(perf, *cluster);
}

/* ---- report --------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	double fraction;
} points[] = { { "p50", 0.5 }, { "p90", 0.9 }, { "p99", 0.99 }, { "p99.9", 0.999 } };
#define POINTS (sizeof points / sizeof points[0])

static double rate(const struct perf *perf)
{
	return perf->took > 0 ? (double)perf->latency.count / perf->took : 0;
}

static void report_text(const struct perf *perf, int histogram)
{
	const struct perf_recorder *r = &perf->latency;

	printf("gvm perf %s: %s, %llu bytes, %s %u\n\n", test_names[perf->test], perf->target,
	       (unsigned long long)perf->size, perf->test == PERF_FAULT ? "threads" : "depth",
	       perf->depth);
	printf("%10s", "min [us]");
	for (size_t i = 0; i < POINTS; i++)
		printf("%7s [us]", points[i].name);
	printf("%12s %14s %12s %12s %9s\n", "max [us]", "rate [op/s]", "bw [MB/s]", "count [op]",
	       "time [s]");
	printf("%10.2f", (double)r->min / 1e3);
	for (size_t i = 0; i < POINTS; i++)
		printf("%12.2f", (double)perf_percentile(r, points[i].fraction) / 1e3);
	printf("%12.2f %14.0f %12.1f %12llu %9.3f\n", (double)r->max / 1e3, rate(perf),
	       rate(perf) * (double)perf->size / 1e6, (unsigned long long)r->count, perf->took);
	if (perf->test == PERF_FAULT)
		printf("\npages touched %llu, faults %llu, of which %llu waited for a memory node; "
		       "pages fetched %llu, written back %llu\n",
		       (unsigned long long)r->count, (unsigned long long)perf->faults,
		       (unsigned long long)(perf->faults_remote + perf->faults_prefetch),
		       (unsigned long long)perf->fetched_pages,
		       (unsigned long long)perf->written_pages);
	if (!histogram)
		return;
	printf("\n%14s %12s\n", "up to [us]", "count [op]");
	/* 8 rows a power of two */
	for (unsigned i = 0; i < PERF_BUCKETS; i += PERF_STEPS / 8) {
		uint64_t sum = 0;

		for (unsigned k = i; k < i + PERF_STEPS / 8; k++)
			sum += r->bucket[k];
		if (sum)
			printf("%14.2f %12llu\n",
			       (double)(bucket_edge(i + PERF_STEPS / 8 - 1) + 1) / 1e3,
			       (unsigned long long)sum);
	}
}

static void report_json(const struct perf *perf, int histogram)
{
	const struct perf_recorder *r = &perf->latency;
	json_t *latency = json_object(), *root = json_object(), *rows;

	json_object_set_new(root, "test", json_string(test_names[perf->test]));
	json_object_set_new(root, "target", json_string(perf->target));
	json_object_set_new(root, "size_bytes", json_integer((json_int_t)perf->size));
	json_object_set_new(root, perf->test == PERF_FAULT ? "threads" : "depth",
			    json_integer(perf->depth));
	json_object_set_new(root, "span_bytes", json_integer((json_int_t)perf->span));
	json_object_set_new(root, "sequential", json_boolean(perf->sequential));
	json_object_set_new(root, "operations", json_integer((json_int_t)r->count));
	json_object_set_new(root, "seconds", json_real(perf->took));
	json_object_set_new(root, "operations_per_second", json_real(rate(perf)));
	json_object_set_new(root, "bytes_per_second", json_real(rate(perf) * (double)perf->size));
	json_object_set_new(latency, "min", json_integer((json_int_t)r->min));
	for (size_t i = 0; i < POINTS; i++)
		json_object_set_new(
		    latency, points[i].name,
		    json_integer((json_int_t)perf_percentile(r, points[i].fraction)));
	json_object_set_new(latency, "max", json_integer((json_int_t)r->max));
	json_object_set_new(latency, "mean",
			    json_real(r->count ? (double)r->sum / (double)r->count : 0));
	json_object_set_new(root, "latency_ns", latency);
	if (perf->test == PERF_FAULT) {
		json_object_set_new(root, "write", json_boolean(perf->write));
		json_object_set_new(root, "local_bytes",
				    json_integer((json_int_t)perf->local_bytes));
		json_object_set_new(root, "faults", json_integer((json_int_t)perf->faults));
		json_object_set_new(root, "faults_remote",
				    json_integer((json_int_t)perf->faults_remote));
		json_object_set_new(root, "faults_prefetch",
				    json_integer((json_int_t)perf->faults_prefetch));
		json_object_set_new(root, "fetched_pages",
				    json_integer((json_int_t)perf->fetched_pages));
		json_object_set_new(root, "written_pages",
				    json_integer((json_int_t)perf->written_pages));
	}
	if (histogram) {
		rows = json_array();
		for (unsigned i = 0; i < PERF_BUCKETS; i++) {
			if (r->bucket[i])
				json_array_append_new(rows, json_pack("[I, I]",
								      (json_int_t)bucket_edge(i),
								      (json_int_t)r->bucket[i]));
		}
		json_object_set_new(root, "histogram_ns", rows);
	}
	json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	putchar('\n');
	json_decref(root);
}

/* ---- command line --------------------------------------------------------------------------- */

static int help(void)
{
	puts("usage: gvm perf send|fetch|put|fault --local|--connect HOST:PORT|--cluster FILE "
	     "[OPTION]...\n"
	     "\n"
	     "Measures latency and rate against a memory node (or, with --local, against a thread "
	     "of\n"
	     "this process over the same transport):\n"
	     "  send    a message and its answer; to a memory node a request without data\n"
	     "  fetch   reads from memory of the node, put writes to it\n"
	     "  fault   touches pages of a paged range whose pages live on the node\n"
	     "\n"
	     "  --local            serve in this process (send, fetch, put)\n"
	     "  --connect H:P      the memory node at this address\n"
	     "  --cluster FILE     the memory nodes of this cluster file\n"
	     "  --node N           only what lies on node N of it\n"
	     "  --region NAME      fetch, put, fault: the region to make, which one process at a "
	     "time\n"
	     "                     may have; the same name has the same places on the nodes\n"
	     "  --size BYTES       of one operation (default 4K; send: 0 to 8K, default 32)\n"
	     "  --depth N          operations under way at a time, for fault threads (default 1);\n"
	     "                     also --window\n"
	     "  --iterations N     measure so many operations\n"
	     "  --duration SEC     or for so long (default 2)\n"
	     "  --warmup N         operations before that (default 1000)\n"
	     "  --bytes BYTES      how much memory they go over (default 64M)\n"
	     "  --sequential       in order; default: at random\n"
	     "  --cpu N            pin the measuring thread; --server-cpu N: the one of --local\n"
	     "  --write            fault: write to the pages; default: read\n"
	     "  --local-bytes B    fault: how much of it may be here (default: a quarter)\n"
	     "  --json             as JSON; --histogram: all of the distribution\n"
	     "\n"
	     "fault gives up when a node has been away for GVM_UNREACHABLE_MS, whatever\n"
	     "GVM_UNREACHABLE says.\n"
	     "\n"
	     "Options of \"gvm info\", such as --transport, --key-file and --prefetch, are\n"
	     "understood too. Exit code 0: measured; 1: not possible, standard error says why;\n"
	     "2: wrong usage.");
	return GVM_EXIT_OK;
}

struct asked {
	int json, histogram, size_given;
};

static int number(const char *name, const char *text, double low, double high, double *value)
{
	char *end;

	*value = strtod(text, &end);
	if (*text && !*end && *value >= low && *value <= high)
		return 0;
	fprintf(stderr, "gvm perf: %s %s: a number from %g to %g is wanted\n", name, text, low,
		high);
	return -EINVAL;
}

static int region_name(const char *text)
{
	char padded[GVM_WIRE_NAME_MAX + 1] = "";

	snprintf(padded, sizeof padded, "%s", text);
	if (strlen(text) < sizeof padded && gvm_wire_name_ok(padded))
		return 0;
	fprintf(stderr,
		"gvm perf: --region %s: a name is wanted, of at most 63 letters, digits, '.', '_' "
		"and '-'\n",
		text);
	return -EINVAL;
}

void perf_region_name(const struct perf *perf, char *name, size_t size)
{
	uint64_t draw;

	if (perf->region) {
		snprintf(name, size, "%s", perf->region);
		return;
	}
	if (getrandom(&draw, sizeof(draw), 0) != sizeof(draw))
		draw = gvm_now();
	snprintf(name, size, "perf-%ld-%llx", (long)getpid(), (unsigned long long)draw);
}

static int bytes(const char *name, const char *text, uint64_t *value)
{
	if (gvm_parse_bytes(text, value) == 0)
		return 0;
	fprintf(stderr, "gvm perf: %s %s: bytes are wanted, such as 4096 or 64M\n", name, text);
	return -EINVAL;
}

static int take_flag(struct perf *perf, struct asked *asked, const char *name)
{
	if (!strcmp(name, "--local"))
		perf->local = 1;
	else if (!strcmp(name, "--sequential"))
		perf->sequential = 1;
	else if (!strcmp(name, "--random"))
		perf->sequential = 0;
	else if (!strcmp(name, "--write"))
		perf->write = 1;
	else if (!strcmp(name, "--read"))
		perf->write = 0;
	else if (!strcmp(name, "--json"))
		asked->json = 1;
	else if (!strcmp(name, "--histogram"))
		asked->histogram = 1;
	else
		return 0;
	return 1;
}

/* 1: taken; 0: not one of these; negative: wrong. */
static int take_value(struct perf *perf, struct asked *asked, const char *name, const char *text)
{
	double v = 0;
	int rc = 0;

	if (!strcmp(name, "--connect"))
		perf->connect = text;
	else if (!strcmp(name, "--cluster"))
		perf->cluster_file = text;
	else if (!strcmp(name, "--region"))
		rc = region_name(text), perf->region = text;
	else if (!strcmp(name, "--node"))
		rc = number(name, text, 0, GVM_MAX_NODES - 1, &v), perf->node = (long)v;
	else if (!strcmp(name, "--size"))
		rc = bytes(name, text, &perf->size), asked->size_given = 1;
	else if (!strcmp(name, "--bytes"))
		rc = bytes(name, text, &perf->span);
	else if (!strcmp(name, "--local-bytes"))
		rc = bytes(name, text, &perf->local_bytes);
	else if (!strcmp(name, "--depth") || !strcmp(name, "--window"))
		rc = number(name, text, 1, 4096, &v), perf->depth = (unsigned)v;
	else if (!strcmp(name, "--iterations"))
		rc = number(name, text, 1, 1e15, &v), perf->iterations = (uint64_t)v;
	else if (!strcmp(name, "--duration"))
		rc = number(name, text, 0.001, 1e6, &perf->seconds);
	else if (!strcmp(name, "--warmup"))
		rc = number(name, text, 0, 1e12, &v), perf->warmup = (uint64_t)v;
	else if (!strcmp(name, "--cpu"))
		rc = number(name, text, 0, 4095, &v), perf->cpu = (int)v;
	else if (!strcmp(name, "--server-cpu"))
		rc = number(name, text, 0, 4095, &v), perf->server_cpu = (int)v;
	else
		return 0;
	return rc ? rc : 1;
}

/* Take what is perf's own out of argv; the rest is for gvm_options_parse. */
static int take_own(struct perf *perf, struct asked *asked, int *argc, char **argv)
{
	int kept = 1;

	for (int i = 1; i < *argc && argv[i]; i++) {
		char *equals = strchr(argv[i], '='), *value = argv[i + 1];
		char name[32];
		int rc;

		if (!equals && take_flag(perf, asked, argv[i]))
			continue;
		if (equals && (size_t)(equals - argv[i]) < sizeof name) {
			memcpy(name, argv[i], (size_t)(equals - argv[i]));
			name[equals - argv[i]] = 0;
			rc = take_value(perf, asked, name, equals + 1);
		} else if (value) {
			rc = take_value(perf, asked, argv[i], value);
			i += rc > 0;
		} else {
			rc = 0;
		}
		if (rc < 0)
			return rc;
		if (rc == 0)
			argv[kept++] = argv[i];
	}
	argv[kept] = NULL;
	*argc = kept;
	return 0;
}

static int complain(const char *sentence)
{
	fprintf(stderr, "gvm perf: %s\n", sentence);
	return -EINVAL;
}

static int address_ok(const char *address)
{
	struct gvm_cluster *cluster;
	char *error = NULL;
	int err = gvm_cluster_single(address, &cluster, &error);

	if (err)
		fprintf(stderr, "gvm perf: --connect %s\n", error ? error : strerror(-err));
	else
		gvm_cluster_free(cluster);
	free(error);
	return !err;
}

static int check(struct perf *perf, const struct asked *asked)
{
	if (!perf->cluster_file && !perf->connect && !perf->local) {
		if (*gvm_option_text("GVM_CONNECT"))
			perf->connect = gvm_option_text("GVM_CONNECT");
		else if (*gvm_option_text("GVM_CLUSTER"))
			perf->cluster_file = gvm_option_text("GVM_CLUSTER");
	}
	if (!!perf->local + !!perf->connect + !!perf->cluster_file != 1)
		return complain("one of --local, --connect HOST:PORT and --cluster FILE is needed");
	if (perf->connect && !address_ok(perf->connect))
		return -EINVAL;
	if (perf->local && perf->test == PERF_FAULT)
		return complain("fault needs a memory node: --connect or --cluster");
	if (perf->node >= 0 && (!perf->cluster_file || perf->test == PERF_FAULT))
		return complain("--node goes with --cluster and send, fetch or put");
	if (perf->test == PERF_SEND) {
		if (!asked->size_given)
			perf->size = perf->local ? 32 : 0;
		if (perf->size > GVM_MSG_MAX || (!perf->local && perf->size))
			return complain("send takes --size 0 to 8192, and none with a memory node");
	} else if (perf->size < GVM_PAGE_SIZE || perf->size > GVM_XFER_MAX ||
		   (perf->size & (perf->size - 1))) {
		return complain("--size must be a power of two from 4K to 1M");
	}
	if (perf->test == PERF_FAULT && perf->size != GVM_PAGE_SIZE)
		return complain("fault has a size of one page, 4096 bytes");
	if (perf->span < perf->size || perf->span < GVM_PAGE_SIZE || perf->span % GVM_PAGE_SIZE)
		return complain("--bytes must be a multiple of 4096, at least 4096, and no less "
				"than --size");
	if (!perf->local_bytes)
		perf->local_bytes = perf->span / 4 > (1 << 20) ? perf->span / 4 : 1 << 20;
	return 0;
}

static void interrupted(int signal)
{
	void (*interrupt)(void) = perf_interrupt;
	int saved = errno;

	(void)signal;
	perf_interrupted = 1;
	if (interrupt)
		interrupt();
	errno = saved;
}

int gvm_cmd_perf(int argc, char **argv)
{
	/* a second signal ends it the hard way */
	struct sigaction action = { .sa_handler = interrupted, .sa_flags = SA_RESETHAND };
	struct asked asked = { 0 };
	struct perf *perf;
	int rc = GVM_EXIT_USAGE;

	if (gvm_wants_help(argc, argv))
		return help();
	perf = calloc(1, sizeof *perf);
	if (!perf)
		return GVM_EXIT_FAILED;
	perf->node = perf->cpu = perf->server_cpu = -1;
	perf->size = GVM_PAGE_SIZE;
	perf->span = 64 << 20;
	perf->depth = 1;
	perf->warmup = 1000;
	perf->seconds = 2;
	if (take_own(perf, &asked, &argc, argv) || gvm_options_parse(&argc, argv) ||
	    gvm_options_check())
		goto out;
	for (perf->test = PERF_SEND; argc > 1 && perf->test <= PERF_FAULT; perf->test++) {
		if (!strcmp(argv[1], test_names[perf->test]))
			break;
	}
	if (argc < 2 || perf->test > PERF_FAULT) {
		fprintf(stderr, "gvm perf: what is to be measured: send, fetch, put or fault? "
				"See gvm perf --help\n");
		goto out;
	}
	if (argc > 2) {
		gvm_usage(argv, 2);
		goto out;
	}
	if (check(perf, &asked))
		goto out;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	rc = GVM_EXIT_FAILED;
	gvm_log_set(log_line);
	if (perf->test == PERF_FAULT ? perf_fault(perf) : perf_net(perf))
		goto out;
	if (asked.json)
		report_json(perf, asked.histogram);
	else
		report_text(perf, asked.histogram);
	rc = GVM_EXIT_OK;
out:
	free(perf);
	return rc;
}
