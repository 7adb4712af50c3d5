/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that histogram buckets cover all of 64 bits without gap or overlap, that percentiles are
 * never too low and at most 12.5 % too high, that readers on other threads are safe, and that
 * every field of the network counters is described once, in JSON and for Prometheus.
 */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <gvmnet/gvmnet.h>
#include <gvmnet/pager.h>

static void buckets_tile_the_numbers(void **state)
{
	static struct gvm_hist hist;
	unsigned b;

	assert_true(gvm_hist_edge(GVM_HIST_BUCKETS - 1) == UINT64_MAX);
	assert_true(gvm_hist_edge(GVM_HIST_BUCKETS + 7) == UINT64_MAX);
	for (b = 0; b < GVM_HIST_BUCKETS; b++) {
		uint64_t low = b ? gvm_hist_edge(b - 1) + 1 : 0, high = gvm_hist_edge(b);

		assert_true(high >= low);
		assert_true(high - low <= low / 8);
		memset(&hist, 0, sizeof(hist));
		gvm_hist_add(&hist, low);
		gvm_hist_add(&hist, high);
		assert_int_equal(hist.bucket[b], 2);
		assert_true(hist.max == high);
		assert_int_equal(hist.count, 2);
	}
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void percentiles(void **state)
{
	static const double fractions[] = { 0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1 };
	static struct gvm_hist hist;
	static uint64_t samples[5000];
	uint64_t seed = 88172645463325252ull;
	size_t i;

	assert_int_equal(gvm_hist_percentile(&hist, 0.5), 0);
	for (i = 0; i < 5000; i++) {
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		samples[i] = seed >> (i % 61);
		gvm_hist_add(&hist, samples[i]);
	}
	qsort(samples, 5000, sizeof(samples[0]), ascending);
	for (i = 0; i < sizeof(fractions) / sizeof(fractions[0]); i++) {
		size_t rank = (size_t)ceil(fractions[i] * 5000);
		uint64_t exact = samples[rank ? rank - 1 : 0];
		uint64_t got = gvm_hist_percentile(&hist, fractions[i]);

		assert_true(got >= exact);
		assert_true(got - exact <= exact / 8);
	}
	assert_true(gvm_hist_percentile(&hist, 1) == samples[4999]);
	assert_true(gvm_hist_percentile(&hist, 7) == samples[4999]);
	assert_true(gvm_hist_percentile(&hist, NAN) == gvm_hist_percentile(&hist, 0));
}

static void merged(void **state)
{
	static struct gvm_hist a, b, both;
	uint64_t i;

	for (i = 0; i < 1000; i++) {
		gvm_hist_add(i % 3 ? &a : &b, i * i);
		gvm_hist_add(&both, i * i);
	}
	gvm_hist_merge(&a, &b);
	assert_memory_equal(&a, &both, sizeof(a));
}

static struct gvm_hist shared;
static int stop;

static void *reader(void *arg)
{
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
		assert_true(gvm_hist_percentile(&shared, 0.99) <= 1000);
	return NULL;
}

static void read_while_written(void **state)
{
	pthread_t thread;
	uint64_t i;

	pthread_create(&thread, NULL, reader, NULL);
	for (i = 0; i < 100000; i++)
		gvm_hist_add(&shared, i % 1001);
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	assert_int_equal(shared.count, 100000);
}

/* Each field of the struct once, with what a reader is to know of it. */
static void check_described(const struct gvm_counter *c, size_t n, size_t size)
{
	size_t i, j;

	assert_int_equal(n * sizeof(uint64_t), size);
	for (i = 0; i < n; i++) {
		assert_int_equal(c[i].offset % sizeof(uint64_t), 0);
		assert_true(c[i].offset < size);
		assert_true(*c[i].name && *c[i].help && c[i].unit);
		for (j = 0; j < i; j++) {
			assert_true(c[i].offset != c[j].offset);
			assert_string_not_equal(c[i].name, c[j].name);
			assert_string_not_equal(c[i].help, c[j].help);
		}
	}
}

static void every_field_is_described(void **state)
{
	const struct gvm_counter *c;
	size_t n;

	c = gvm_net_counters(&n);
	check_described(c, n, sizeof(struct gvm_net_stats));
	c = gvm_pager_counters(&n);
	check_described(c, n, sizeof(struct gvm_pager_stats));
}

static char *written(void (*write)(FILE *out, const void *what), const void *what)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	assert_non_null(out);
	write(out, what);
	fclose(out);
	return text;
}

static void as_prometheus(FILE *out, const void *stats)
{
	size_t n;
	const struct gvm_counter *c = gvm_net_counters(&n);

	gvm_counters_prometheus(out, "gvm", c, n, stats);
}

static void as_json(FILE *out, const void *stats)
{
	size_t n;
	const struct gvm_counter *c = gvm_net_counters(&n);

	gvm_counters_json(out, c, n, stats);
}

static void hist_json(FILE *out, const void *hist)
{
	gvm_hist_json(out, hist);
}

static void hist_prometheus(FILE *out, const void *hist)
{
	gvm_hist_prometheus(out, "gvm_fault_seconds", "How long faults take", 1e-9, hist);
}

static void texts(void **state)
{
	static struct gvm_hist hist;
	struct gvm_net_stats stats = { .connects = 3,
				       .peers_open = UINT64_MAX,
				       .peers_waiting = UINT64_MAX };
	char *text = written(as_prometheus, &stats);

	assert_int_equal(strncmp(text, "# HELP gvm_connects_total ", 26), 0);
	assert_non_null(strstr(text, "# TYPE gvm_connects_total counter\ngvm_connects_total 3\n"));
	assert_non_null(strstr(text, "# TYPE gvm_peers_open gauge\n"
				     "gvm_peers_open 18446744073709551615\n"));
	assert_int_equal(text[strlen(text) - 1], '\n');
	free(text);

	text = written(as_json, &stats);
	assert_int_equal(strncmp(text, "\"connects\": 3, \"accepts\": 0, ", 29), 0);
	assert_string_equal(text + strlen(text) - 37, "\"peers_waiting\": 18446744073709551615");
	free(text);

	text = written(hist_json, &hist);
	assert_string_equal(text, "{\"count\": 0, \"mean\": 0, \"p50\": 0, \"p90\": 0, "
				  "\"p99\": 0, \"p999\": 0, \"max\": 0}");
	free(text);
	gvm_hist_add(&hist, 1000);
	gvm_hist_add(&hist, 3000);
	text = written(hist_json, &hist);
	assert_string_equal(text, "{\"count\": 2, \"mean\": 2000, \"p50\": 1023, \"p90\": 3000, "
				  "\"p99\": 3000, \"p999\": 3000, \"max\": 3000}");
	free(text);
	text = written(hist_prometheus, &hist);
	assert_non_null(strstr(text, "gvm_fault_seconds{quantile=\"0.99\"} 3e-06\n"));
	assert_non_null(strstr(text, "gvm_fault_seconds_sum 4e-06\ngvm_fault_seconds_count 2\n"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buckets_tile_the_numbers),
		cmocka_unit_test(percentiles),
		cmocka_unit_test(merged),
		cmocka_unit_test(read_while_written),
		cmocka_unit_test(every_field_is_described),
		cmocka_unit_test(texts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
