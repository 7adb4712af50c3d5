/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The real gvm-memsrv program on a loopback port: what it says, what it refuses and with which exit
 * status, and that clients get their memory and nobody else's.
 */
#include "service_client.h"

static void says_that_it_is_ready_and_ends_in_order(void **state)
{
	struct node n;
	const char *page;
	json_t *root;

	START(&n, "--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--key-file", key, "--memory",
	      "512M", "--metrics", "0", "--workers", "2");
	assert_non_null(strstr(n.said, ", [::1]:"));
	assert_non_null(strstr(n.said, "512 MiB for slabs, key required, image none\n"));
	page = http(n.http, "GET", "/metrics");
	assert_non_null(strstr(page, "200 OK"));
	assert_non_null(strstr(page, "# TYPE gvm_memsrv_memory_bytes gauge\n"));
	assert_non_null(strstr(page, "\ngvm_memsrv_memory_bytes 536870912\n"));
	assert_non_null(strstr(page, "\n# TYPE gvm_memsrv_grants_total counter\n"));
	assert_non_null(strstr(page, "\ngvm_net_accepts_total 0\n"));
	page = http(n.http, "GET", "/json");
	root = json_loads(strstr(page, "\r\n\r\n") + 4, 0, NULL);
	assert_non_null(root);
	assert_int_equal(stat_of(root, "store", "memory_bytes"), 512 << 20);
	assert_int_equal(stat_of(root, "node", "workers"), 2);
	assert_true(json_is_array(json_object_get(root, "region_list")));
	json_decref(root);
	assert_non_null(strstr(http(n.http, "GET", "/healthz"), "ok\n"));
	assert_non_null(strstr(http(n.http, "GET", "/etc/passwd"), " 404 "));
	assert_non_null(strstr(http(n.http, "POST", "/json"), " 405 "));
	stop(&n);
}

/* Of more than tcp, in the line that says that it is ready. */
static void says_what_it_listens_with(void **state)
{
	struct node n;

	START(&n, "--listen", "127.0.0.1:0", "--key-file", key, "--memory", "64M");
	assert_null(strstr(n.said, " over "));
	stop(&n);
	START(&n, "--listen", "127.0.0.1:0", "--key-file", key, "--memory", "64M", "--transport",
	      "loop+tcp");
	assert_non_null(strstr(n.said, " over loop+tcp, 64 MiB for slabs"));
	stop(&n);
}

/* A health check is answered however many connections there are that ask nothing. */
static void who_is_silent_gives_way_to_who_asks(void **state)
{
	int silent[300];
	struct node n;

	START(&n, "--listen", "127.0.0.1:0", "--key-file", key, "--memory", "16M", "--metrics",
	      "0");
	uint64_t began = gvm_now();
	for (size_t i = 0; i < sizeof(silent) / sizeof(silent[0]); i++) {
		silent[i] = dial(n.http);
		assert_true(silent[i] >= 0);
	}
	for (int i = 0; i < 10; i++)
		assert_non_null(strstr(http(n.http, "GET", "/healthz"), "ok\n"));
	assert_true(gvm_now() - began < 4 * SEC);
	/* those that came first have gone, the last have not yet */
	char byte;
	assert_int_equal(recv(silent[0], &byte, 1, 0), 0);
	assert_int_equal(recv(silent[299], &byte, 1, MSG_DONTWAIT), -1);
	for (size_t i = 0; i < sizeof(silent) / sizeof(silent[0]); i++)
		close(silent[i]);
	stop(&n);
}

/* Each failure: one line with what to do, and its exit status. */
static void refuses_with_one_line_and_a_status(void **state)
{
	char open_key[96], short_key[96], foreign[96], two_conf[96];
	FILE *f;

	snprintf(open_key, sizeof(open_key), "%s/open", dir);
	snprintf(short_key, sizeof(short_key), "%s/short", dir);
	snprintf(foreign, sizeof(foreign), "%s/foreign", dir);
	snprintf(two_conf, sizeof(two_conf), "%s/two.conf", dir);
	f = fopen(two_conf, "w");
	fputs("0 127.0.0.1 9\n1 127.0.0.1 10\n", f);
	fclose(f);
	f = fopen(open_key, "w");
	fputs("0123456789abcdef0123456789abcdef\n", f);
	fclose(f);
	chmod(open_key, 0644);
	f = fopen(short_key, "w");
	fputs("0123\n", f);
	fclose(f);
	chmod(short_key, 0600);
	f = fopen(foreign, "w");
	fputs("not an image\n", f);
	fclose(f);
#define REFUSED(status, text, ...)                                                                 \
	do {                                                                                       \
		const char *const args_[] = { __VA_ARGS__, NULL };                                 \
		struct node n_;                                                                    \
		int got_;                                                                          \
		spawn(&n_, args_);                                                                 \
		got_ = end_of(&n_);                                                                \
		if (got_ != (status) || !strstr(n_.said, text) ||                                  \
		    strchr(n_.said, '\n') != n_.said + n_.len - 1)                                 \
			fail_msg("exit status %d: %s", got_, n_.said);                             \
	} while (0)
	REFUSED(2, "--help", "--frobnicate");
	REFUSED(2, "--help", "--listen");
	REFUSED(2, "--help", "extra");
	REFUSED(2, "--listen", "--listen", "9999");
	REFUSED(2, "--listen", "--listen", "::1:9999");
	REFUSED(2, "--listen", "--listen", "host:99999");
	REFUSED(2, "8G", "--memory", "lots");
	REFUSED(2, "8G", "--memory", "-1");
	REFUSED(2, "8G", "--memory", "99999999999999999999G");
	REFUSED(2, "--workers", "--workers", "0");
	REFUSED(2, "--overcommit", "--overcommit", "0.5");
	REFUSED(2, "--overcommit", "--overcommit", "nan");
	REFUSED(2, "--huge", "--huge", "maybe");
	REFUSED(2, "--sync-interval", "--sync-interval", "1s");
	REFUSED(2, "cannot be read", "--cluster", "/nowhere/cluster.conf");
	REFUSED(2, "cluster", "--id", "7", "--cluster", "/nowhere/cluster.conf");
	REFUSED(2, "; usable here: tcp, loop", "--transport", "verbs");
	REFUSED(2, "--transport: \"foo\" is not legal here", "--transport", "foo");
	REFUSED(2, "--log: \"nope\" is not legal here", "--log=nope");
	REFUSED(2, "--id: \"many\" is not legal here", "--id", "many");
	REFUSED(2, "say which one this is with --id", "--cluster", two_conf);
	REFUSED(3, "openssl rand", "--key-file", "/nowhere/key");
	REFUSED(3, "chmod 600", "--key-file", open_key);
	REFUSED(3, "at least", "--key-file", short_key);
	REFUSED(3, "--insecure", "--listen", "0.0.0.0:0");
	REFUSED(4, "not an address", "--listen", "198.51.100.7:9", "--key-file", key);
	REFUSED(4, "give a name that resolves", "--listen", "no-such-host.invalid:9", "--key-file",
		key);
	REFUSED(4, "--metrics", "--listen", "127.0.0.1:0", "--metrics", "198.51.100.7:9");
	REFUSED(5, "left alone", "--listen", "127.0.0.1:0", "--image", foreign);
	REFUSED(5, "cannot open", "--listen", "127.0.0.1:0", "--image", "/nowhere/image");
	unlink(open_key);
	unlink(short_key);
	unlink(foreign);
	unlink(two_conf);
}

#ifdef HAVE_OFI
/* In one line, that names each that there is once. */
static void a_fabric_that_is_not_there(void **state)
{
	const char *const args[] = { "--transport", "ofi:nosuch", "--listen", "127.0.0.1:0", NULL };
	char *list, *name, *rest, seen[8192] = ",";
	struct node n;

	(void)state;
	spawn(&n, args);
	assert_int_equal(end_of(&n), 2);
	list = strstr(n.said, "transport ofi:nosuch: libfabric has no such provider");
	assert_non_null(list);
	assert_ptr_equal(strchr(n.said, '\n'), n.said + n.len - 1);
	list = strstr(list, "; there ");
	assert_non_null(list);
	list = strchr(list, ':');
	assert_non_null(list);
	for (name = strtok_r(list + 1, ", \n", &rest); name; name = strtok_r(NULL, ", \n", &rest)) {
		char entry[128];

		snprintf(entry, sizeof(entry), ",%s,", name);
		if (strstr(seen, entry))
			fail_msg("%s is named again", name);
		strcat(seen, entry + 1);
	}
}
#endif

static void a_taken_port_and_a_taken_image(void **state)
{
	struct node n;
	char at[32];

	START(&n, "--listen", "127.0.0.1:0", "--key-file", key, "--image", image);
	snprintf(at, sizeof(at), "127.0.0.1:%u", n.port);
	REFUSED(4, "in use", "--listen", at, "--key-file", key);
	REFUSED(5, "in use by another gvm-memsrv", "--listen", "127.0.0.1:0", "--image", image);
	stop(&n);
	unlink(image);
}

static void clients_keep_and_exclude(void **state)
{
	struct node n;
	struct client a, b, stranger;
	json_t *root;
	char other[96];
	FILE *f;

	START(&n, "--listen", "127.0.0.1:0", "--key-file", key, "--memory", "64M", "--workers",
	      "2");
	client_open(&a, n.port, key);
	client_open(&b, n.port, key);
	assert_int_equal(region_open(&a, "vm", 1 << 20, GVM_REGION_CREATE), 0);
	for (int p = 0; p < 256; p += 7)
		assert_int_equal(put_page(&a, (uint64_t)p, p + 1), 0);
	for (int p = 0; p < 256; p++)
		assert_int_equal(get_page(&a, (uint64_t)p), p % 7 ? 0 : p + 1);
	assert_int_equal(raw_open(&b, "vm", 256, 0), -EBUSY);
	assert_int_equal(raw_open(&b, "big", 1 << 20, GVM_RO_CREATE), -ENOSPC);
	assert_int_equal(call(&b, GVM_T_REGION_DELETE, gvm_region_id_of("vm"), 0, 0, NULL, 0),
			 -EBUSY);
	root = stat_json(&b);
	assert_int_equal(stat_of(root, "store", "regions"), 1);
	assert_int_equal(stat_of(root, "store", "stored_bytes"), 1 << 20);
	assert_int_equal(stat_of(root, "store", "refused_busy"), 2);
	assert_int_equal(stat_of(root, "store", "refused_space"), 1);
	assert_true(stat_of(root, "net", "puts_served") >= 37);
	json_decref(root);
	/* a key that is not the node's: nothing, not even statistics */
	snprintf(other, sizeof(other), "%s/other", dir);
	f = fopen(other, "w");
	fputs("fedcba9876543210fedcba9876543210\n", f);
	fclose(f);
	chmod(other, 0600);
	client_open(&stranger, n.port, other);
	assert_int_equal(call(&stranger, GVM_T_NODE_STAT, 0, 0, 0, NULL, 0), -EACCES);
	client_close(&stranger);
	unlink(other);
	client_close(&a);
	/* the region was closed in order: free at once */
	while (raw_open(&b, "vm", 256, 0) == -EBUSY)
		;
	assert_int_equal(answer.status, 0);
	client_close(&b);
	stop(&n);
}

static void the_image_survives_kill(void **state)
{
	struct node n;
	struct client c;
	char at[32];

	START(&n, "--listen", "127.0.0.1:0", "--key-file", key, "--image", image, "--sync-interval",
	      "1");
	client_open(&c, n.port, key);
	assert_int_equal(region_open(&c, "vm", 1 << 20, GVM_REGION_CREATE | GVM_REGION_EPHEMERAL),
			 0);
	snprintf(at, sizeof(at), "127.0.0.1:%u", n.port);
	for (int round = 0; round < 3; round++) {
		for (int p = 0; p < 256; p += 5)
			assert_int_equal(put_page(&c, (uint64_t)p, 1 + (p + round) % 255), 0);
		if (round < 2)
			kill_node(&n);
		else
			stop(&n);
		START(&n, "--listen", at, "--key-file", key, "--image", image);
		for (int p = 0; p < 256; p++)
			assert_int_equal(get_page(&c, (uint64_t)p),
					 p % 5 ? 0 : 1 + (p + round) % 255);
	}
	/* without the image it is another node, and the data is lost, not zero */
	kill_node(&n);
	START(&n, "--listen", at, "--key-file", key);
	assert_int_equal(get_page(&c, 0), -EIO);
	client_close(&c);
	stop(&n);
	unlink(image);
}

static void drains(void **state)
{
	struct node n;
	struct client c;

	START(&n, "--listen", "127.0.0.1:0", "--key-file", key, "--drain-ms", "20000", "--metrics",
	      "0");
	client_open(&c, n.port, key);
	assert_int_equal(raw_open(&c, "vm", 256, GVM_RO_CREATE), 0);
	kill(n.pid, SIGTERM);
	while (!strstr(http(n.http, "GET", "/healthz"), "draining"))
		;
	assert_int_equal(raw_open(&c, "other", 256, GVM_RO_CREATE), -ESHUTDOWN);
	assert_int_equal(call(&c, GVM_T_SLAB_GRANT, gvm_region_id_of("vm"), 0, 0, NULL, 0), 0);
	/* the last client lets go: the end comes before the 20 seconds do */
	assert_int_equal(call(&c, GVM_T_REGION_CLOSE, gvm_region_id_of("vm"), 0, 0, NULL, 0), 0);
	assert_int_equal(end_of(&n), 0);
	client_close(&c);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_that_it_is_ready_and_ends_in_order),
		cmocka_unit_test(says_what_it_listens_with),
		cmocka_unit_test(who_is_silent_gives_way_to_who_asks),
		cmocka_unit_test(refuses_with_one_line_and_a_status),
#ifdef HAVE_OFI
		cmocka_unit_test(a_fabric_that_is_not_there),
#endif
		cmocka_unit_test(a_taken_port_and_a_taken_image),
		cmocka_unit_test(clients_keep_and_exclude),
		cmocka_unit_test(the_image_survives_kill),
		cmocka_unit_test(drains),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, setup, teardown);
}
