/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that the cluster file is read as cluster.h says and every mistake in it is refused with its
 * line, and that placement gives the agreed answers (golden vectors, worked out apart from the code
 * with real logarithms), spreads by weight, and moves only what must move when a node comes or
 * goes.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>

static struct gvm_cluster *parse(const char *text)
{
	struct gvm_cluster *cluster = NULL;
	char *error = NULL, *copy = malloc(strlen(text) + 1);
	int err;

	/* An allocation of its own, not terminated, so that reading past the end is seen. */
	memcpy(copy, text, strlen(text));
	err = gvm_cluster_parse(copy, strlen(text), "c.conf", &cluster, &error);
	if (err < 0)
		fail_msg("%s", error);
	free(copy);
	return cluster;
}

static void refused(const char *text, size_t len, int want, const char *sentence)
{
	struct gvm_cluster *cluster = (void *)1;
	char *error = NULL;

	assert_int_equal(gvm_cluster_parse(text, len, "c.conf", &cluster, &error), want);
	assert_ptr_equal(cluster, (void *)1);
	assert_non_null(error);
	if (!strstr(error, sentence))
		fail_msg("\"%s\" does not say \"%s\"", error, sentence);
	free(error);
	assert_int_equal(gvm_cluster_parse(text, len, "c.conf", &cluster, NULL), want);
}

static void well_formed(void **state)
{
	struct gvm_cluster *c = parse("# a cluster\n"
				      "cluster lab-1.north\r\n"
				      "\n"
				      "  7\tnode7.ex-am_ple.AZaz09  65535   # the last one\n"
				      "0 10.0.0.1 1 weight=1 role=both\r\n"
				      "3 [2001:db8::3] 9999 role=compute\n"
				      "2 2001:db8::2 9999 role=memory weight=1000000#x\n"
				      "10239 fe80::1%eth0 9999");
	static const struct gvm_node want[] = {
		{ 0, "10.0.0.1", 1, GVM_ROLE_MEMORY | GVM_ROLE_COMPUTE, 1 },
		{ 2, "2001:db8::2", 9999, GVM_ROLE_MEMORY, 1000000 },
		{ 3, "2001:db8::3", 9999, GVM_ROLE_COMPUTE, 100 },
		{ 7, "node7.ex-am_ple.AZaz09", 65535, GVM_ROLE_MEMORY, 100 },
		{ 10239, "fe80::1%eth0", 9999, GVM_ROLE_MEMORY, 100 },
	};
	size_t i;

	assert_string_equal(gvm_cluster_name(c), "lab-1.north");
	assert_int_equal(gvm_cluster_epoch(c), 1);
	assert_int_equal(gvm_cluster_size(c), 5);
	for (i = 0; i < 5; i++) {
		const struct gvm_node *n = gvm_cluster_at(c, i);

		assert_int_equal(n->id, want[i].id);
		assert_string_equal(n->host, want[i].host);
		assert_int_equal(n->port, want[i].port);
		assert_int_equal(n->roles, want[i].roles);
		assert_int_equal(n->weight, want[i].weight);
		assert_ptr_equal(gvm_cluster_node(c, n->id), n);
	}
	assert_null(gvm_cluster_at(c, 5));
	assert_null(gvm_cluster_node(c, 1));
	assert_null(gvm_cluster_node(c, 10240));
	assert_null(gvm_cluster_node(c, GVM_NODE_NONE));
	gvm_cluster_free(c);
	gvm_cluster_free(NULL);

	c = parse("\xef\xbb\xbf"
		  "1 localhost 9999");
	assert_string_equal(gvm_cluster_name(c), "default");
	gvm_cluster_free(c);
}

#define REFUSED(text, sentence) refused(text, sizeof(text) - 1, -EINVAL, sentence)

static void mistakes(void **state)
{
	REFUSED("", "c.conf: there is no node in it");
	REFUSED("# nothing\n\n", "c.conf: there is no node in it");
	REFUSED("cluster a\n", "c.conf: there is no node in it");
	REFUSED("0 a 1\n1 b 1\n0 c 1\n", "c.conf:3: node 0 is already on line 1");
	REFUSED("0 a 1\n\n1 A 1\n", "c.conf:3: host A port 1 is already on line 1, as node 0");
	REFUSED("0 a. 1\n1 a 1\n", "c.conf:2: host a port 1 is already on line 1");
	REFUSED("0 ::1 1\n1 [0:0::1] 1\n", "c.conf:2: host 0:0::1 port 1 is already on line 1");
	REFUSED("-1 a 1\n", "c.conf:1: \"-1\" is not a node id, a number from 0 to 10239");
	REFUSED("10240 a 1\n", "\"10240\" is not a node id");
	REFUSED("99999999999999999999 a 1\n", "is not a node id");
	REFUSED("0x1 a 1\n", "\"0x1\" is not a node id");
	REFUSED("+1 a 1\n", "\"+1\" is not a node id");
	REFUSED("1\n", "this one has no host");
	REFUSED("1 a\n", "this one has no port");
	REFUSED("1 a # 1\n", "this one has no port");
	REFUSED("1 a 0\n", "\"0\" is not a port");
	REFUSED("1 a 65536\n", "\"65536\" is not a port");
	REFUSED("1 a 99x\n", "\"99x\" is not a port");
	REFUSED("1 a:1 1\n", "\"a:1\" is not a host");
	REFUSED("1 [a] 1\n", "\"[a]\" is not a host");
	REFUSED("1 [] 1\n", "\"[]\" is not a host");
	REFUSED("1 [::1 1\n", "\"[::1\" is not a host");
	REFUSED("1 [10.0.0.1] 1\n", "is not a host");
	REFUSED("1 10.0.0.256 1\n", "\"10.0.0.256\" is not a host");
	REFUSED("1 10.0.1 1\n", "\"10.0.1\" is not a host");
	REFUSED("1 1 1\n", "\"1\" is not a host");
	REFUSED("1 -a 1\n", "is not a host");
	REFUSED("1 a..b 1\n", "is not a host");
	REFUSED("1 a/b 1\n", "is not a host");
	REFUSED("1 fe80::1%e/0 1\n", "is not a host");
	REFUSED("1 fe80::1% 1\n", "is not a host");
	REFUSED("1 a 1 weight=0\n", "weight \"0\" is not a number from 1 to 1000000");
	REFUSED("1 a 1 weight=1000001\n", "weight \"1000001\"");
	REFUSED("1 a 1 weight=\n", "weight \"\"");
	REFUSED("1 a 1 weight=1 weight=1\n", "weight= is there twice");
	REFUSED("1 a 1 role=\n", "role \"\" is not known; it may be memory, compute or both");
	REFUSED("1 a 1 role=mem\n", "role \"mem\" is not known");
	REFUSED("1 a 1 role=both role=both\n", "role= is there twice");
	REFUSED("1 a 1 colour=red\n", "\"colour=red\" is not known here");
	REFUSED("cluster\n1 a 1\n", "c.conf:1: the cluster's name is one word");
	REFUSED("cluster a b\n1 a 1\n", "the cluster's name is one word");
	REFUSED("cluster a/b\n1 a 1\n", "the cluster's name is one word");
	REFUSED("cluster a\n1 a 1\ncluster b\n",
		"c.conf:3: the cluster is already named on line 1");
	REFUSED("1 a 1\n2 b\0c 1\n", "c.conf:2: there is a NUL byte");
	REFUSED("1 a 1\n# \0\n", "c.conf:2: there is a NUL byte");
	REFUSED("\0", "c.conf:1: there is a NUL byte");
	REFUSED("1 a\r 1\n", "is not a host");
	/* What a terminal would obey is not repeated to it. */
	REFUSED("1 a\033[2J 1\n", "\"a?[2J\" is not a host");
}

static void one_node(void **state)
{
	static const char *const bad[][2] = {
		{ "nonsense", "nonsense: HOST:PORT is wanted" },
		{ ":9999", ":9999: HOST:PORT is wanted" },
		{ "a:", "a:: HOST:PORT is wanted" },
		{ "", ": HOST:PORT is wanted" },
		{ "a 1 role=compute:2", "HOST:PORT is wanted" },
		{ "a\n1 b:2", "HOST:PORT is wanted" },
		{ "a:65536", "a:65536: \"65536\" is not a port, a number from 1 to 65535" },
		{ "a/b:1", "a/b:1: \"a/b\" is not a host" },
	};
	struct gvm_cluster *c = NULL;
	char *error = NULL, longer[2048];

	assert_int_equal(gvm_cluster_single("[2001:db8::3]:9999", &c, &error), 0);
	assert_int_equal(gvm_cluster_size(c), 1);
	assert_string_equal(gvm_cluster_at(c, 0)->host, "2001:db8::3");
	assert_int_equal(gvm_cluster_at(c, 0)->port, 9999);
	assert_int_equal(gvm_cluster_at(c, 0)->roles, GVM_ROLE_MEMORY);
	gvm_cluster_free(c);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(gvm_cluster_single(bad[i][0], &c, &error), -EINVAL);
		if (!strstr(error, bad[i][1]))
			fail_msg("\"%s\" does not say \"%s\"", error, bad[i][1]);
		free(error);
		assert_int_equal(gvm_cluster_single(bad[i][0], &c, NULL), -EINVAL);
	}
	memset(longer, 'a', sizeof(longer));
	strcpy(longer + sizeof(longer) - 3, ":1");
	assert_int_equal(gvm_cluster_single(longer, &c, &error), -EINVAL);
	free(error);
}

static void long_things(void **state)
{
	size_t len = 5 << 20;
	char *text = malloc(len);
	struct gvm_cluster *c;

	memset(text, 'x', len);
	refused(text, len, -EINVAL, "is not a node id");
	memcpy(text, "1 ", 2);
	refused(text, len, -EINVAL, "this one has no port");
	memcpy(text + len - 3, " 1\n", 3);
	refused(text, len, -EINVAL, "xxx...\" is not a host: it may have 1 to 253 bytes");
	memset(text, ' ', len);
	memcpy(text + len / 2, "1 a 1 #", 7);
	assert_int_equal(gvm_cluster_parse(text, len, "c.conf", &c, NULL), 0);
	gvm_cluster_free(c);
	memset(text, '\n', len);
	refused(text, len, -EINVAL, "there is no node");
	free(text);
}

static void full_size(void **state)
{
	char *text = malloc(GVM_MAX_NODES * 64), *error;
	size_t len = 0;
	struct gvm_cluster *c;
	unsigned i;

	for (i = 0; i < GVM_MAX_NODES; i++)
		len += (size_t)sprintf(text + len, "%u 10.1.%u.%u %u\n", GVM_MAX_NODES - 1 - i,
				       i / 250, i % 250, 9000 + i % 3);
	assert_int_equal(gvm_cluster_parse(text, len, "c.conf", &c, NULL), 0);
	assert_int_equal(gvm_cluster_size(c), GVM_MAX_NODES);
	for (i = 0; i < GVM_MAX_NODES; i++)
		assert_int_equal(gvm_cluster_node(c, i)->id, i);
	gvm_cluster_free(c);
	len += (size_t)sprintf(text + len, "10240 a 1\n");
	assert_int_equal(gvm_cluster_parse(text, len, "c.conf", &c, &error), -EINVAL);
	assert_non_null(strstr(error, "c.conf:10241:"));
	free(error);
	free(text);
}

static void files(void **state)
{
	char dir[] = "/tmp/test_cluster.XXXXXX", path[64];
	struct gvm_cluster *c;
	char *error, *want;
	FILE *f;
	int fds[2];

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/c.conf", dir);
	assert_int_equal(gvm_cluster_load(path, &c, &error), -ENOENT);
	assert_int_equal(asprintf(&want, "%s: cannot be read: No such file or directory", path) > 0,
			 1);
	assert_string_equal(error, want);
	free(error);
	free(want);
	assert_int_equal(gvm_cluster_load(dir, &c, &error), -EISDIR);
	free(error);
	assert_int_equal(gvm_cluster_load("/dev/zero", &c, &error), -EFBIG);
	assert_non_null(strstr(error, "File too large"));
	free(error);
	assert_int_equal(gvm_cluster_load("/dev/null", &c, NULL), -EINVAL);

	f = fopen(path, "w");
	fputs("1 localhost 9999\n", f);
	fclose(f);
	assert_int_equal(gvm_cluster_load(path, &c, NULL), 0);
	assert_int_equal(gvm_cluster_size(c), 1);
	gvm_cluster_free(c);
	unlink(path);
	rmdir(dir);

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(write(fds[1], "1 localhost 9999\n", 17), 17);
	close(fds[1]);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[0]);
	assert_int_equal(gvm_cluster_load(path, &c, NULL), 0);
	gvm_cluster_free(c);
	close(fds[0]);
}

/* ---- placement ----------------------------------------------------------------------------- */

static void golden_placement(void **state)
{
	static const uint16_t want[8][2][5] = {
		{ { 0, 1, 3 }, { 7, 10239, 1, 2, 0 } }, { { 0, 1, 4 }, { 10239, 7, 1, 2, 0 } },
		{ { 0, 1, 3 }, { 10239, 7, 1, 2, 0 } }, { { 4, 0, 2 }, { 7, 10239, 2, 1, 0 } },
		{ { 3, 4, 1 }, { 7, 10239, 2, 1, 0 } }, { { 4, 0, 1 }, { 7, 10239, 2, 1, 0 } },
		{ { 2, 1, 3 }, { 7, 10239, 2, 1, 0 } }, { { 1, 3, 2 }, { 7, 10239, 1, 2, 0 } },
	};
	struct gvm_cluster *even = parse("0 a 1\n1 a 2\n2 a 3\n3 a 4\n4 a 5\n5 b 1 role=compute\n");
	struct gvm_cluster *uneven = parse("0 a 1 weight=1\n1 a 2 weight=50\n2 a 3\n"
					   "7 a 4 weight=1000000\n10239 a 5 weight=300000\n");
	uint16_t got[GVM_MAX_COPIES];
	unsigned slab;

	for (slab = 0; slab < 8; slab++) {
		assert_int_equal(gvm_place(even, 0x1234, slab, 3, got), 3);
		assert_memory_equal(got, want[slab][0], 3 * sizeof(*got));
		assert_int_equal(gvm_place(uneven, 0x1234, slab, 8, got), 5);
		assert_memory_equal(got, want[slab][1], 5 * sizeof(*got));
	}
	gvm_cluster_free(even);
	gvm_cluster_free(uneven);
}

#define SLABS 20000

/* The answers for 20,000 slabs on 40 uneven nodes, folded into one number (FNV-1a over the ids). */
static void golden_sum(void **state)
{
	char text[40 * 32];
	uint64_t sum = 14695981039346656037ull;
	struct gvm_cluster *c;
	unsigned i, slab;
	uint16_t got[3];
	int len = 0;

	for (i = 0; i < 40; i++)
		len +=
		    sprintf(text + len, "%u a %u weight=%u\n", i * 7, i + 1, 1 + i * i * 37 % 999);
	c = parse(text);
	for (slab = 0; slab < SLABS; slab++) {
		assert_int_equal(gvm_place(c, 0xabcdef, slab, 3, got), 3);
		for (i = 0; i < 3; i++)
			sum = (sum ^ got[i]) * 1099511628211ull;
	}
	assert_true(sum == 0xbdd35eecf198e3aaull);
	gvm_cluster_free(c);
}

static void shares_follow_weights(void **state)
{
	static const unsigned weights[] = { 100, 100, 200, 400, 50, 1 };
	struct gvm_cluster *c = parse("0 a 1\n1 a 2\n2 a 3 weight=200\n3 a 4 weight=400\n"
				      "4 a 5 weight=50\n5 a 6 weight=1\n");
	uint64_t total = 0, share;
	unsigned i;

	for (i = 0; i < 6; i++) {
		double p = weights[i] / 851.0, sigma = sqrt(SLABS * p * (1 - p));

		share = gvm_place_share(c, 0xfeed, SLABS, i);
		total += share;
		/* Five standard deviations of an ideal draw. */
		assert_true(fabs((double)share - SLABS * p) <= 5 * sigma);
	}
	assert_int_equal(total, SLABS);
	assert_int_equal(gvm_place_share(c, 0xfeed, SLABS, 6), 0);
	assert_int_equal(gvm_place_share(c, 0xfeed, 0, 0), 0);
	gvm_cluster_free(c);
}

/* Small regions, and regions with neighbouring ids, must spread as well as one large one. */
static void small_regions_spread(void **state)
{
	struct gvm_cluster *c = parse("0 a 1\n1 a 2\n2 a 3\n3 a 4\n");
	unsigned count[4] = { 0 }, region, i;
	uint16_t home;

	for (region = 0; region < SLABS; region++) {
		assert_int_equal(gvm_place(c, region, 0, 1, &home), 1);
		count[home]++;
	}
	for (i = 0; i < 4; i++)
		assert_in_range(count[i], SLABS / 4 - 310, SLABS / 4 + 310);
	gvm_cluster_free(c);
}

static void only_its_slabs_move(void **state)
{
	struct gvm_cluster *all = parse("0 a 1\n1 a 2 weight=70\n2 a 3\n3 a 4 weight=300\n4 a 5\n");
	struct gvm_cluster *less = parse("0 a 1\n1 a 2 weight=70\n2 a 3\n4 a 5\n");
	uint16_t a[3], b[3];
	unsigned slab, i, j, moved = 0;

	for (slab = 0; slab < SLABS; slab++) {
		assert_int_equal(gvm_place(all, 5, slab, 3, a), 3);
		assert_int_equal(gvm_place(less, 5, slab, 3, b), 3);
		/* Without node 3 the others keep their order, and one more joins at the end. */
		for (i = j = 0; i < 3; i++)
			if (a[i] == 3)
				moved++;
			else
				assert_int_equal(a[i], b[j++]);
		for (i = 0; i < 3; i++)
			assert_int_not_equal(b[i], 3);
	}
	assert_true(moved > SLABS / 3 && moved < SLABS);
	gvm_cluster_free(all);
	gvm_cluster_free(less);
}

static void places_are_distinct(void **state)
{
	struct gvm_cluster *c = parse("0 a 1\n1 a 2\n2 a 3\n3 a 4 role=compute\n");
	struct gvm_cluster *none = parse("3 a 4 role=compute\n");
	uint16_t n[GVM_MAX_COPIES] = { 0 };
	unsigned slab, want;

	for (slab = 0; slab < 100; slab++)
		for (want = 0; want < 20; want++) {
			int got = gvm_place(c, 1, slab, want, n);

			assert_int_equal(got, want < 3 ? want : 3);
			assert_true(got < 2 || n[0] != n[1]);
			assert_true(got < 3 || (n[2] != n[0] && n[2] != n[1]));
		}
	assert_int_equal(gvm_place(none, 1, 1, 1, n), 0);
	assert_int_equal(gvm_place_share(none, 1, 100, 3), 0);
	gvm_cluster_free(c);
	gvm_cluster_free(none);
}

static void digests(void **state)
{
	struct gvm_cluster *a = parse("cluster x\n0 a 1\n1 a 2\n");
	struct gvm_cluster *same = parse("1 elsewhere 7 weight=100\n2 q 1 role=compute\n0 b 1\n");
	struct gvm_cluster *weight = parse("0 a 1\n1 a 2 weight=101\n");
	struct gvm_cluster *id = parse("0 a 1\n2 a 2\n");
	struct gvm_cluster *fewer = parse("0 a 1\n");

	assert_true(gvm_cluster_digest(a) != 0);
	assert_true(gvm_cluster_digest(a) == gvm_cluster_digest(same));
	assert_true(gvm_cluster_digest(a) != gvm_cluster_digest(weight));
	assert_true(gvm_cluster_digest(a) != gvm_cluster_digest(id));
	assert_true(gvm_cluster_digest(a) != gvm_cluster_digest(fewer));
	gvm_cluster_free(a);
	gvm_cluster_free(same);
	gvm_cluster_free(weight);
	gvm_cluster_free(id);
	gvm_cluster_free(fewer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(well_formed),
		cmocka_unit_test(mistakes),
		cmocka_unit_test(one_node),
		cmocka_unit_test(long_things),
		cmocka_unit_test(full_size),
		cmocka_unit_test(files),
		cmocka_unit_test(golden_placement),
		cmocka_unit_test(golden_sum),
		cmocka_unit_test(shares_follow_weights),
		cmocka_unit_test(small_regions_spread),
		cmocka_unit_test(only_its_slabs_move),
		cmocka_unit_test(places_are_distinct),
		cmocka_unit_test(digests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
