/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Histograms, and the one description of each counter from which JSON, Prometheus and gvm top are
 * made. A statistics struct has one writer; its words are read and written whole (relaxed atomics),
 * so a reader on any thread sees values that are slightly old, never torn.
 */
#include <gvmnet/gvmnet.h>

#include <inttypes.h>
#include <math.h>

/* ---- histograms ---------------------------------------------------------------------------- */

static uint64_t load(const uint64_t *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

static void store(uint64_t *at, uint64_t value)
{
	__atomic_store_n(at, value, __ATOMIC_RELAXED);
}

/*
 * Buckets 0 to 7 are the values 0 to 7; from there each power of two, 2^e, has 8 buckets of
 * 2^(e - 3) values, so that the buckets of values below 16 are exact too.
 */
static unsigned bucket_of(uint64_t value)
{
	unsigned e;

	if (value < GVM_HIST_STEPS)
		return (unsigned)value;
	e = 63u - (unsigned)__builtin_clzll(value);
	return (e - 2) * GVM_HIST_STEPS + (unsigned)((value >> (e - 3)) & (GVM_HIST_STEPS - 1));
}

uint64_t gvm_hist_edge(unsigned bucket)
{
	unsigned shift;

	if (bucket < GVM_HIST_STEPS)
		return bucket;
	if (bucket >= GVM_HIST_BUCKETS)
		return UINT64_MAX;
	shift = bucket / GVM_HIST_STEPS - 1;
	return ((uint64_t)(GVM_HIST_STEPS + bucket % GVM_HIST_STEPS) << shift) +
	       ((1ull << shift) - 1);
}

void gvm_hist_add(struct gvm_hist *hist, uint64_t value)
{
	uint64_t *bucket = &hist->bucket[bucket_of(value)];

	store(bucket, load(bucket) + 1);
	store(&hist->count, load(&hist->count) + 1);
	store(&hist->sum, load(&hist->sum) + value);
	if (value > load(&hist->max))
		store(&hist->max, value);
}

/* The buckets' own total: the writer may be between a bucket and the count. */
static uint64_t samples(const struct gvm_hist *hist)
{
	uint64_t total = 0;
	unsigned i;

	for (i = 0; i < GVM_HIST_BUCKETS; i++)
		total += load(&hist->bucket[i]);
	return total;
}

/* How many samples, counted from the smallest, the fraction spans: 1 to total. */
static uint64_t rank_of(double fraction, uint64_t total)
{
	double rank;

	if (!(fraction > 0))
		return 1;
	if (fraction >= 1)
		return total;
	rank = ceil(fraction * (double)total);
	return rank < 1 ? 1 : rank >= (double)total ? total : (uint64_t)rank;
}

uint64_t gvm_hist_percentile(const struct gvm_hist *hist, double fraction)
{
	uint64_t total = samples(hist), max = load(&hist->max), seen = 0, rank, edge;
	unsigned i;

	if (total == 0)
		return 0;
	rank = rank_of(fraction, total);
	for (i = 0; i < GVM_HIST_BUCKETS - 1; i++) {
		seen += load(&hist->bucket[i]);
		if (seen >= rank)
			break;
	}
	edge = gvm_hist_edge(i);
	return edge < max ? edge : max;
}

void gvm_hist_merge(struct gvm_hist *into, const struct gvm_hist *from)
{
	unsigned i;

	for (i = 0; i < GVM_HIST_BUCKETS; i++)
		store(&into->bucket[i], load(&into->bucket[i]) + load(&from->bucket[i]));
	store(&into->count, load(&into->count) + load(&from->count));
	store(&into->sum, load(&into->sum) + load(&from->sum));
	if (load(&from->max) > load(&into->max))
		store(&into->max, load(&from->max));
}

void gvm_hist_json(FILE *out, const struct gvm_hist *hist)
{
	uint64_t count = load(&hist->count);

	fprintf(out,
		"{\"count\": %" PRIu64 ", \"mean\": %" PRIu64 ", \"p50\": %" PRIu64
		", \"p90\": %" PRIu64 ", \"p99\": %" PRIu64 ", \"p999\": %" PRIu64
		", \"max\": %" PRIu64 "}",
		count, count ? load(&hist->sum) / count : 0, gvm_hist_percentile(hist, 0.5),
		gvm_hist_percentile(hist, 0.9), gvm_hist_percentile(hist, 0.99),
		gvm_hist_percentile(hist, 0.999), load(&hist->max));
}

void gvm_hist_prometheus(FILE *out, const char *name, const char *help, double scale,
			 const struct gvm_hist *hist)
{
	static const double fractions[] = { 0.5, 0.9, 0.99, 0.999, 1 };
	size_t i;

	fprintf(out, "# HELP %s %s\n# TYPE %s summary\n", name, help, name);
	for (i = 0; i < sizeof(fractions) / sizeof(fractions[0]); i++)
		fprintf(out, "%s{quantile=\"%g\"} %.9g\n", name, fractions[i],
			(double)gvm_hist_percentile(hist, fractions[i]) * scale);
	fprintf(out, "%s_sum %.9g\n%s_count %" PRIu64 "\n", name, (double)load(&hist->sum) * scale,
		name, load(&hist->count));
}

/* ---- counters ------------------------------------------------------------------------------ */

#define COUNT(field, unit, help)                                                                   \
	{                                                                                          \
#field, unit, help, offsetof(struct gvm_net_stats, field), 0                       \
	}
#define LEVEL(field, unit, help)                                                                   \
	{                                                                                          \
#field, unit, help, offsetof(struct gvm_net_stats, field), 1                       \
	}

static const struct gvm_counter net_counters[] = {
	COUNT(connects, "connections", "Connections that this side has opened"),
	COUNT(accepts, "connections", "Connections that the other side has opened"),
	COUNT(handshake_refused, "connections", "Connections ended by the handshake"),
	COUNT(disconnects, "connections", "Connections that have ended"),
	COUNT(malformed, "connections", "Connections ended because of a malformed frame"),
	COUNT(timeouts, "operations", "Operations whose deadline has passed"),
	COUNT(msgs_sent, "messages", "Messages sent"),
	COUNT(msgs_received, "messages", "Messages received"),
	COUNT(fetches, "operations", "Fetches that this side has posted"),
	COUNT(puts, "operations", "Puts that this side has posted"),
	COUNT(fetches_served, "operations", "Fetches that peers have made here"),
	COUNT(puts_served, "operations", "Puts that peers have made here"),
	COUNT(bytes_sent, "bytes", "Bytes sent, headers included"),
	COUNT(bytes_received, "bytes", "Bytes received, headers included"),
	COUNT(refused_keys, "operations",
	      "Fetches and puts refused for their memory key or bounds"),
	COUNT(no_credit, "operations",
	      "Posts answered with \"try again\" for want of credits or room"),
	LEVEL(peers_ready, "connections", "Peers that are connected and proven"),
	LEVEL(peers_open, "connections", "Connections that are open, proven or not"),
	COUNT(rests, "connections",
	      "Connections that were closed because others were needed, to be made again"),
	LEVEL(peers_waiting, "connections",
	      "Peers that wait for others to be closed (GVM_CONNECTIONS)"),
};

const struct gvm_counter *gvm_net_counters(size_t *count)
{
	*count = sizeof(net_counters) / sizeof(net_counters[0]);
	return net_counters;
}

static uint64_t counter_value(const struct gvm_counter *counter, const void *stats)
{
	return load((const uint64_t *)((const char *)stats + counter->offset));
}

void gvm_counters_prometheus(FILE *out, const char *prefix, const struct gvm_counter *counters,
			     size_t count, const void *stats)
{
	const struct gvm_counter *c;

	for (c = counters; c < counters + count; c++) {
		const char *tail = c->gauge ? "" : "_total";

		fprintf(out, "# HELP %s_%s%s %s%s%s%s\n", prefix, c->name, tail, c->help,
			*c->unit ? " (" : "", c->unit, *c->unit ? ")" : "");
		fprintf(out, "# TYPE %s_%s%s %s\n", prefix, c->name, tail,
			c->gauge ? "gauge" : "counter");
		fprintf(out, "%s_%s%s %" PRIu64 "\n", prefix, c->name, tail,
			counter_value(c, stats));
	}
}

void gvm_counters_json(FILE *out, const struct gvm_counter *counters, size_t count,
		       const void *stats)
{
	size_t i;

	for (i = 0; i < count; i++)
		fprintf(out, "%s\"%s\": %" PRIu64, i ? ", " : "", counters[i].name,
			counter_value(&counters[i], stats));
}
