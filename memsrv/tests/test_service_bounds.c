/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The real gvm-memsrv program and what it must bear: hostile clients get nothing and cost nobody
 * else anything, and connections and data cost little more than themselves.
 */
#include "service_client.h"

/* A client that has the key, and no manners. */
static void survives_a_hostile_client(void **state)
{
	struct node n;
	struct client c;
	unsigned seed = (unsigned)getpid();
	uint8_t body[GVM_MSG_MAX];
	uint64_t odd[] = { 0,
			   1,
			   15,
			   16,
			   255,
			   256,
			   257,
			   UINT32_MAX,
			   UINT64_MAX,
			   UINT64_MAX - 1,
			   UINT64_C(1) << 63,
			   UINT64_C(1) << 52,
			   UINT64_C(1) << 40 };
	const unsigned odds = sizeof(odd) / sizeof(odd[0]);

	print_message("seed %u\n", seed);
	START(&n, "--listen", "127.0.0.1:0", "--key-file", key, "--memory", "16M", "--max-regions",
	      "8", "--log", "error");
	client_open(&c, n.port, key);
	assert_int_equal(raw_open(&c, "vm", 256, GVM_RO_CREATE), 0);
	for (int i = 0; i < 4000; i++) {
		uint8_t type = (uint8_t)(GVM_T_REGION_OPEN + rand_r(&seed) % 10);
		uint64_t id =
		    rand_r(&seed) % 4 ? gvm_region_id_of("vm") : odd[rand_r(&seed) % odds];
		uint32_t len = 0;
		int status;

		if (type == GVM_T_REGION_DELETE && i % 16)
			type = GVM_T_DISCARD;
		if (type == GVM_T_REGION_OPEN || type == GVM_T_REGION_CLONE ||
		    type == GVM_T_DISCARD)
			len = type == GVM_T_REGION_OPEN ? GVM_REGION_OPEN_LEN
			      : type == GVM_T_REGION_CLONE
				  ? GVM_REGION_CLONE_LEN
				  : 16 * (1 + (uint32_t)rand_r(&seed) % 512);
		for (uint32_t k = 0; k < len; k++)
			body[k] = (uint8_t)rand_r(&seed);
		for (uint32_t k = 64; k + 8 <= len && i % 2; k += 8)
			memcpy(body + k, &odd[rand_r(&seed) % odds], 8);
		if (type != GVM_T_DISCARD && len && i % 3) {
			memset(body, 0, 64);
			memcpy(body, "vm", 2);
		}
		if (type == GVM_T_DISCARD && i % 2)
			for (uint32_t k = 0; k + 8 <= len; k += 8)
				memcpy(body + k, &odd[rand_r(&seed) % odds], 8);
		status = call(&c, type, id, odd[rand_r(&seed) % odds], odd[rand_r(&seed) % odds],
			      body, len);
		assert_int_not_equal(status, -ETIMEDOUT);
		if (i % 50 == 0)
			raw_open(&c, "vm", 256, GVM_RO_CREATE);
	}
	/* lengths that no request has, and messages that are none of a memory node's */
	for (uint32_t len = 0; len < 120; len += 17)
		for (uint8_t type = GVM_T_REGION_OPEN; type <= GVM_T_NODE_STAT; type++)
			assert_int_not_equal(call(&c, type, 1, 0, 0, body, len), -ETIMEDOUT);
	assert_int_equal(call(&c, 200, 1, 2, 3, body, 100), -EOPNOTSUPP);
	call(&c, GVM_T_REGION_DELETE, gvm_region_id_of("vm"), 0, 0, NULL, 0);
	client_close(&c);
	client_open(&c, n.port, key);
	assert_int_equal(raw_open(&c, "fresh", 16, GVM_RO_CREATE), 0);
	client_close(&c);
	stop(&n);
}

static unsigned fds_of(pid_t pid)
{
	char path[64];
	unsigned n = 0;

	for (int fd = 0; fd < 4096; fd++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
		n += faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
	}
	return n;
}

/* Somebody without the key: each connection ends, by itself, and leaves nothing. */
static void survives_garbage(void **state)
{
	struct node n;
	struct client c;
	unsigned seed = (unsigned)getpid(), before;
	uint8_t buf[4096];
	int fds[40];

	setenv("GVM_HANDSHAKE_MS", "300", 1);
	START(&n, "--listen", "127.0.0.1:0", "--key-file", key, "--log", "error");
	unsetenv("GVM_HANDSHAKE_MS");
	client_open(&c, n.port, key);
	assert_int_equal(raw_open(&c, "before", 16, GVM_RO_CREATE), 0);
	before = fds_of(n.pid); /* with that client's */
	for (int i = 0; i < 40; i++) {
		size_t len = i % 4 == 3 ? 0 : 1 + (size_t)rand_r(&seed) % sizeof(buf);

		for (size_t k = 0; k < len; k++)
			buf[k] = (uint8_t)rand_r(&seed);
		if (i % 2) {
			buf[0] = GVM_WIRE_MAGIC;
			buf[1] = (uint8_t)(i % 20);
		}
		fds[i] = dial(n.port);
		assert_true(fds[i] >= 0);
		assert_true(send(fds[i], buf, len, MSG_NOSIGNAL) >= 0 || errno == EPIPE ||
			    errno == ECONNRESET);
	}
	assert_int_equal(raw_open(&c, "vm", 16, GVM_RO_CREATE), 0);
	for (int i = 0; i < 40; i++) { /* it closes them, also the silent ones */
		ssize_t got;

		do
			got = read(fds[i], buf, sizeof(buf));
		while (got > 0);
		assert_true(got == 0 || errno != EAGAIN); /* the end says nothing in errno */
		close(fds[i]);
	}
	await_level(&c, "peers_open", 1);
	assert_int_equal(fds_of(n.pid), before);
	client_close(&c);
	stop(&n);
}

static long rss_anon_kb(pid_t pid)
{
	char line[256], path[64];
	long kb = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %ld", &kb) == 1)
			break;
	fclose(f);
	return kb;
}

/* What 2,000 clients (GVM_TEST_CONNECTIONS) that have proven their key and say nothing cost the
 * node: at most 16 KiB each.
 */
static void idle_connections_are_cheap(void **state)
{
	const char *asked = getenv("GVM_TEST_CONNECTIONS");
	const unsigned count = asked ? (unsigned)atoi(asked) : SANITIZED ? 200 : 2000;
	struct rlimit files;
	struct node n;
	struct client c;
	struct gvm_peer **peers = calloc(count, sizeof(struct gvm_peer *));
	unsigned ready_peers = 0;
	long before, after;
	char host[32];

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	gvm_option_set("GVM_CONNECTIONS", "0");
	/* all of 127/8 is this machine: one peer for each address */
	START(&n, "--listen", "127.0.0.1:0", "--listen", "0.0.0.0:0", "--key-file", key, "--memory",
	      "16M");
	client_open(&c, n.port, key);
	assert_int_equal(raw_open(&c, "vm", 16, GVM_RO_CREATE), 0);
	before = rss_anon_kb(n.pid);
	unsigned any = (unsigned)atoi(strstr(n.said, "0.0.0.0:") + 8);
	for (unsigned i = 0; i < count; i++) {
		snprintf(host, sizeof(host), "127.1.%u.%u", i / 200, 1 + i % 200);
		assert_int_equal(gvm_peer_at(c.worker, host, any, &peers[i]), 0);
		assert_int_equal(gvm_peer_connect(peers[i]), 0);
		gvm_worker_progress(c.worker);
	}
	for (uint64_t end = gvm_now() + 60 * SEC; ready_peers < count && gvm_now() < end;) {
		gvm_worker_wait(c.worker, SEC / 10);
		ready_peers = 0;
		for (unsigned i = 0; i < count; i++)
			ready_peers += gvm_peer_state(peers[i]) == GVM_PEER_READY;
	}
	assert_int_equal(ready_peers, count);
	/* the client's last words of its handshakes may be under way, to any of the node's workers
	 */
	await_level(&c, "peers_ready", 1 + (long long)count);
	after = rss_anon_kb(n.pid);
	print_message("%u idle connections: %.2f KiB of the node's memory each\n", count,
		      (double)(after - before) / count);
	if (!SANITIZED)
		assert_true(after - before <= (long)count * 16);
	client_close(&c);
	stop(&n);
	free(peers);
}

/* What the node needs besides the data: at most 1 % of it, also with the smallest slabs. */
static void data_costs_little_more_than_itself(void **state)
{
	const unsigned slabs = SANITIZED ? 64 : 2048; /* of 64 KiB */
	static uint8_t buf[64 << 10];
	struct gvm_region_op op = { .done = op_done };
	struct node n;
	struct client c;
	long before, grown, data = (long)slabs * 64;

	START(&n, "--listen", "127.0.0.1:0", "--key-file", key, "--memory", "256M", "--huge",
	      "never");
	client_open(&c, n.port, key);
	assert_int_equal(region_open(&c, "warm", 16 * sizeof(buf), GVM_REGION_CREATE), 0);
	assert_int_equal(put_page(&c, 0, 1), 0);
	gvm_region_close(c.region);
	memset(buf, 0x5A, sizeof(buf));
	assert_int_equal(region_open(&c, "vm", slabs * sizeof(buf), GVM_REGION_CREATE), 0);
	before = rss_anon_kb(n.pid);
	for (unsigned s = 0; s < slabs; s++) {
		op.deadline_ns = gvm_now() + 20 * SEC;
		op_status = 1;
		assert_int_equal(gvm_region_put(c.region, (uint64_t)s * 16, 16, buf, &op), 0);
		while (op_status == 1)
			gvm_worker_wait(c.worker, SEC / 10);
		assert_int_equal(op_status, 0);
	}
	grown = rss_anon_kb(n.pid) - before;
	print_message("%ld KiB of data in slabs of 64 KiB cost %ld KiB: %.2f %% over\n", data,
		      grown, 100.0 * (double)(grown - data) / (double)data);
	if (!SANITIZED)
		assert_true(grown - data <= data / 100);
	assert_true(grown >= data);
	client_close(&c);
	stop(&n);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(survives_a_hostile_client),
		cmocka_unit_test(survives_garbage),
		cmocka_unit_test(idle_connections_are_cheap),
		cmocka_unit_test(data_costs_little_more_than_itself),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, setup, teardown);
}
