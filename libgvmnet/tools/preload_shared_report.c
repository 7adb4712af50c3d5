/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the user is told of shared memory objects: lines at the end, and a part of the statistics
 * file. All objects of the process are summed up, also those that it has no longer. Under the lock
 * of preload_shared.c.
 */
#include <string.h>
#include "preload.h"
#include "preload_shared.h"

#define MIB (1024.0 * 1024)

struct sum {
	unsigned node, objects;
	uint64_t bytes;
	struct gvm_dsm_stats stats;
	struct gvm_hist fault[2];
};
static struct sum ended;

static void add_object(struct sum *sum, const struct shared_object *o)
{
	struct gvm_dsm_stats st;
	struct gvm_hist hist;
	uint64_t *to = (uint64_t *)&sum->stats;

	gvm_dsm_stats(o->data.dsm, &st);
	if (sum->stats.nodes_here > st.nodes_here) /* they are the same ones */
		st.nodes_here = sum->stats.nodes_here;
	sum->stats.nodes_here = 0;
	for (size_t i = 0; i < sizeof st / sizeof *to; i++)
		to[i] += ((const uint64_t *)&st)[i];
	for (int write = 0; write < 2; write++) {
		gvm_dsm_latency(o->data.dsm, write, &hist);
		gvm_hist_merge(&sum->fault[write], &hist);
	}
	sum->node = gvm_dsm_node(o->data.dsm);
	sum->objects++;
	sum->bytes += o->data.bytes;
}

void shared_report_end(const struct shared_object *o)
{
	add_object(&ended, o);
	ended.stats.pages_here = ended.stats.nodes_here = 0;
}

void shared_report_fork_child(void)
{
	ended = (struct sum){ 0 };
}

static void sum_up(struct sum *sum)
{
	*sum = ended;
	for (const struct shared_object *o = shared_objects; o; o = o->next)
		if (o->data.dsm)
			add_object(sum, o);
}

int shared_report_any(void)
{
	struct sum sum;

	sum_up(&sum);
	return sum.objects != 0;
}

int shared_report_print(void)
{
	const struct gvm_dsm_stats *s;
	struct gvm_hist all;
	struct sum sum;

	sum_up(&sum);
	if (!sum.objects)
		return 0;
	s = &sum.stats;
	all = sum.fault[0];
	gvm_hist_merge(&all, &sum.fault[1]);
	say("shared %.1f MiB in %u object%s with other nodes, as node %u", (double)sum.bytes / MIB,
	    sum.objects, sum.objects == 1 ? "" : "s", sum.node);
	say("%llu read and %llu write faults that needed another node, p50 %.1f us, p99 %.1f us",
	    (unsigned long long)s->faults_read, (unsigned long long)s->faults_write,
	    (double)gvm_hist_percentile(&all, 0.5) / 1e3,
	    (double)gvm_hist_percentile(&all, 0.99) / 1e3);
	say("%llu pages received, %llu sent; %.1f MiB received, %.1f MiB sent in all; %llu copies "
	    "given up to a writer elsewhere",
	    (unsigned long long)s->pages_received, (unsigned long long)s->pages_sent,
	    (double)s->bytes_received / MIB, (double)s->bytes_sent / MIB,
	    (unsigned long long)s->invalidated);
	if (s->faults_failed || s->homes_dead)
		say("LOST: %llu accesses to shared memory failed (SIGBUS), %llu memory nodes were "
		    "given up",
		    (unsigned long long)s->faults_failed, (unsigned long long)s->homes_dead);
	return 1;
}

static void put_latency(FILE *out, const char *name, const struct gvm_hist *hist, const char *end)
{
	fprintf(out, "\"%s\":{\"count\":%llu,\"p50_ns\":%llu,\"p99_ns\":%llu,\"max_ns\":%llu}%s",
		name, (unsigned long long)hist->count,
		(unsigned long long)gvm_hist_percentile(hist, 0.5),
		(unsigned long long)gvm_hist_percentile(hist, 0.99), (unsigned long long)hist->max,
		end);
}

int shared_report_json(FILE *out)
{
	size_t count;
	const struct gvm_counter *counters = gvm_dsm_counters(&count);
	struct sum sum;

	sum_up(&sum);
	if (!sum.objects)
		return 0;
	fprintf(out, "\"shared\":{\"node\":%u,\"objects\":%u,\"mapped_bytes\":%llu,\"latency\":{",
		sum.node, sum.objects, (unsigned long long)sum.bytes);
	put_latency(out, "read", &sum.fault[0], ",");
	put_latency(out, "write", &sum.fault[1], "},");
	gvm_counters_json(out, counters, count, &sum.stats);
	fputs("}", out);
	return 1;
}
