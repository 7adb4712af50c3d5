/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "tools/gvm_sim.h"

#include <jansson.h>
#include <stdio.h>

typedef unsigned long long ull;

static double hop(const struct sim_config *c)
{
	return (double)c->latency_ns + (double)c->jitter_ns / 2;
}

static double per(uint64_t what, uint64_t of)
{
	return of ? (double)what / (double)of : 0;
}

static const char *const kinds[] = { "read", "write" };

/* ---- text ----------------------------------------------------------------------------------- */

static void show_latency(const struct sim_done *d, int write)
{
	const struct sim_latency *l = &d->result.latency[write];
	double p50 = (double)sim_latency_part(l, 500), p99 = (double)sim_latency_part(l, 990);
	double h = hop(&d->config), max = (double)l->max;

	printf("%-6s %10llu %10.2f %10.2f %10.2f %12.2f %12.2f %12.2f\n", kinds[write],
	       (ull)l->count, p50 / h, p99 / h, max / h, p50 / 1e3, p99 / 1e3, max / 1e3);
}

static void show_broadcast(const struct sim_done *d)
{
	const struct sim_result *r = &d->result;

	printf("The write to the page that all share: %.2f hops, %llu messages, %llu bytes\n",
	       (double)r->last_fault_ns / hop(&d->config), (ull)r->last_messages,
	       (ull)r->last_bytes);
}

void sim_report_text(const struct sim_done *d)
{
	const struct sim_config *c = &d->config;
	const struct sim_result *r = &d->result;

	printf("gvm sim %s: %u nodes, %u of them homes, %u pages, seed %llu\n\n",
	       sim_pattern_name(c->pattern), c->nodes, c->homes, c->pages, (ull)c->seed);
	printf("%-6s %10s %10s %10s %10s %12s %12s %12s\n", "fault", "count", "p50 [hop]",
	       "p99 [hop]", "max [hop]", "p50 [us]", "p99 [us]", "max [us]");
	show_latency(d, 0);
	show_latency(d, 1);
	printf("\nAccesses %llu, of which %llu had to wait and %llu failed\n", (ull)r->accesses,
	       (ull)r->faults, (ull)r->failed);
	printf("Messages %llu, %.2f a fault; bytes %llu, %.0f a fault; pages sent %llu\n",
	       (ull)r->messages, per(r->messages, r->faults), (ull)r->bytes,
	       per(r->bytes, r->faults), (ull)r->pages_sent);
	if (c->changed)
		printf("With %u bytes changed by a write: %llu deltas; whole pages had been %llu "
		       "bytes, %.0f a fault\n",
		       c->changed, (ull)r->deltas, (ull)r->bytes_whole,
		       per(r->bytes_whole, r->faults));
	printf("Directory at the end: %llu entries, %llu bytes, %.1f an entry\n", (ull)r->entries,
	       (ull)r->directory_bytes, per(r->directory_bytes, r->entries));
	printf("Fairness: %llu to %llu accesses a node, Jain's index %.4f\n", (ull)r->node_least,
	       (ull)r->node_most, r->fairness);
	printf("What went wrong: %llu messages lost, %llu twice, %llu connections broken, "
	       "%llu partitions, %llu deaths, %llu homes started again\n",
	       (ull)r->dropped, (ull)r->twice, (ull)r->resets, (ull)r->partitions, (ull)r->deaths,
	       (ull)r->returns);
	printf("Of that came: %llu requests repeated, %llu pages lost\n", (ull)r->repeated,
	       (ull)r->lost);
	if (c->pattern == SIM_BROADCAST)
		show_broadcast(d);
	printf("Simulated: %.3f ms, %llu events, digest %016llx\n", (double)r->time_ns / 1e6,
	       (ull)r->events, (ull)r->digest);
}

void sim_report_row(const struct sim_done *d, int first)
{
	const struct sim_config *c = &d->config;
	const struct sim_result *r = &d->result;
	const struct sim_latency *read = &r->latency[0], *write = &r->latency[1];
	double h = hop(c);

	if (first)
		printf("gvm sim %s, seed %llu; latencies in hops\n\n"
		       "%6s %8s %8s %8s %9s %9s %9s %8s %8s %8s %10s %7s %9s\n",
		       sim_pattern_name(c->pattern), (ull)c->seed, "nodes", "read p50", "p99",
		       "max", "write p50", "p99", "max", "msg/flt", "B/fault", "dir B/pg",
		       "dir bytes", "Jain", "events");
	printf("%6u %8.2f %8.2f %8.2f %9.2f %9.2f %9.2f %8.2f %8.0f %8.1f %10llu %7.4f %9llu\n",
	       c->nodes, (double)sim_latency_part(read, 500) / h,
	       (double)sim_latency_part(read, 990) / h, (double)read->max / h,
	       (double)sim_latency_part(write, 500) / h, (double)sim_latency_part(write, 990) / h,
	       (double)write->max / h, per(r->messages, r->faults), per(r->bytes, r->faults),
	       per(r->directory_bytes, r->entries), (ull)r->directory_bytes, r->fairness,
	       (ull)r->events);
	if (c->pattern == SIM_BROADCAST)
		show_broadcast(d);
	fflush(stdout);
}

void sim_report_speed(const struct sim_done *done, unsigned runs)
{
	unsigned i;

	for (i = 0; i < runs; i++)
		fprintf(stderr, "%u nodes: %.3f s, %.2f million events a second\n",
			done[i].config.nodes, done[i].took,
			(double)done[i].result.events / 1e6 / done[i].took);
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static void put(json_t *to, const char *name, uint64_t value)
{
	json_object_set_new(to, name, json_integer((json_int_t)value));
}

static json_t *latency(const struct sim_done *d, int write)
{
	const struct sim_latency *l = &d->result.latency[write];
	const uint64_t value[] = { sim_latency_part(l, 500), sim_latency_part(l, 990), l->max };
	static const char *const name[] = { "p50", "p99", "max" };
	json_t *o = json_object(), *hops = json_object(), *ns = json_object();
	size_t i;

	put(o, "count", l->count);
	for (i = 0; i < 3; i++) {
		put(ns, name[i], value[i]);
		json_object_set_new(hops, name[i], json_real((double)value[i] / hop(&d->config)));
	}
	json_object_set_new(ns, "mean", json_real(per(l->sum, l->count)));
	json_object_set_new(o, "hops", hops);
	json_object_set_new(o, "ns", ns);
	return o;
}

static void put_config(json_t *o, const struct sim_config *c)
{
	json_object_set_new(o, "workload", json_string(sim_pattern_name(c->pattern)));
	put(o, "nodes", c->nodes);
	put(o, "homes", c->homes);
	put(o, "pages", c->pages);
	put(o, "seed", c->seed);
	put(o, "latency_ns", c->latency_ns);
	put(o, "jitter_ns", c->jitter_ns);
	put(o, "think_ns", c->think_ns);
	put(o, "changed", c->changed);
}

static void put_faults(json_t *o, const struct sim_result *r)
{
	json_t *wrong = json_object();

	put(wrong, "messages_lost", r->dropped);
	put(wrong, "messages_twice", r->twice);
	put(wrong, "connections_broken", r->resets);
	put(wrong, "partitions", r->partitions);
	put(wrong, "deaths", r->deaths);
	put(wrong, "homes_restarted", r->returns);
	put(wrong, "repeated", r->repeated);
	put(wrong, "pages_lost", r->lost);
	put(wrong, "accesses_failed", r->failed);
	json_object_set_new(o, "wrong", wrong);
}

static void put_last_write(json_t *o, const struct sim_done *d)
{
	const struct sim_result *r = &d->result;
	json_t *last = json_object();

	json_object_set_new(last, "hops", json_real((double)r->last_fault_ns / hop(&d->config)));
	put(last, "messages", r->last_messages);
	put(last, "bytes", r->last_bytes);
	json_object_set_new(o, "last_write", last);
}

static json_t *as_json(const struct sim_done *d)
{
	const struct sim_result *r = &d->result;
	json_t *o = json_object(), *host = json_object();
	char digest[17];
	int i;

	put_config(o, &d->config);
	put(o, "accesses", r->accesses);
	put(o, "faults", r->faults);
	for (i = 0; i < 2; i++)
		json_object_set_new(o, kinds[i], latency(d, i));
	put(o, "messages", r->messages);
	put(o, "bytes", r->bytes);
	put(o, "pages_sent", r->pages_sent);
	put(o, "deltas", r->deltas);
	put(o, "bytes_whole", r->bytes_whole);
	put(o, "directory_entries", r->entries);
	put(o, "directory_bytes", r->directory_bytes);
	put(o, "reclaimed", r->reclaimed);
	put(o, "node_accesses_least", r->node_least);
	put(o, "node_accesses_most", r->node_most);
	json_object_set_new(o, "jain", json_real(r->fairness));
	put_faults(o, r);
	if (d->config.pattern == SIM_BROADCAST)
		put_last_write(o, d);
	put(o, "simulated_ns", r->time_ns);
	put(o, "events", r->events);
	snprintf(digest, sizeof(digest), "%016llx", (ull)r->digest);
	json_object_set_new(o, "digest", json_string(digest));
	json_object_set_new(host, "seconds", json_real(d->took));
	json_object_set_new(host, "events_per_second", json_real((double)r->events / d->took));
	json_object_set_new(o, "host", host); /* last: the only part that a seed does not settle */
	return o;
}

void sim_report_json(const struct sim_done *done, unsigned runs, int many)
{
	json_t *all = json_array();
	unsigned i;

	for (i = 0; i < runs; i++)
		json_array_append_new(all, as_json(&done[i]));
	json_dumpf(many ? all : json_array_get(all, 0), stdout,
		   JSON_INDENT(2) | JSON_REAL_PRECISION(9));
	putchar('\n');
	json_decref(all);
}
