/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The real gvm-memsrv program on a loopback port: what it says, what it refuses and with which exit
 * status, that clients get their memory and nobody else's, that hostile ones get nothing, and what
 * an idle connection costs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>
#include <gvmnet/region.h>

#include "wire/wire.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define SEC UINT64_C(1000000000)

static char dir[64], key[96], image[96], program[512];

/* ---- the program --------------------------------------------------------------------------- */

struct node {
	pid_t pid;
	int out; /* its standard error */
	char said[8192];
	size_t len;
	unsigned port, http;
};

static void spawn(struct node *n, const char *const *args)
{
	const char *argv[24] = { program };
	int pipes[2], i = 1;

	memset(n, 0, sizeof(*n));
	while (*args && i < 23)
		argv[i++] = *args++;
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	n->pid = fork();
	if (!n->pid) {
		dup2(pipes[1], 2);
		execv(program, (char *const *)argv);
		_exit(127);
	}
	close(pipes[1]);
	n->out = pipes[0];
}

/* Read what it says until it has said text or has ended. */
static int await_text(struct node *n, const char *text)
{
	struct pollfd p = { n->out, POLLIN, 0 };

	while (!strstr(n->said, text)) {
		ssize_t got;

		if (poll(&p, 1, 20000) <= 0)
			return 0;
		got = read(n->out, n->said + n->len, sizeof(n->said) - 1 - n->len);
		if (got <= 0)
			return 0;
		n->len += (size_t)got;
	}
	return 1;
}

static int end_of(struct node *n)
{
	int status;

	await_text(n, "\xff");
	assert_int_equal(waitpid(n->pid, &status, 0), n->pid);
	close(n->out);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void ready(struct node *n)
{
	const char *at;

	if (!await_text(n, "for slabs"))
		fail_msg("it says: %s", n->said);
	at = strstr(n->said, "listening on 127.0.0.1:");
	assert_non_null(at);
	n->port = (unsigned)atoi(at + 23);
	at = strstr(n->said, "http://127.0.0.1:");
	n->http = at ? (unsigned)atoi(at + 17) : 0;
}

#define START(n, ...)                                                                              \
	do {                                                                                       \
		const char *const args_[] = { __VA_ARGS__, NULL };                                 \
		spawn(n, args_);                                                                   \
		ready(n);                                                                          \
	} while (0)

/* Ends in order: exit status 0 and no complaint of a sanitizer. */
static void stop(struct node *n)
{
	int status;

	kill(n->pid, SIGTERM);
	status = end_of(n);
	if (status)
		fail_msg("exit status %d: %s", status, n->said);
}

static void kill_node(struct node *n)
{
	kill(n->pid, SIGKILL);
	assert_int_equal(end_of(n), -SIGKILL);
}

/* ---- clients ------------------------------------------------------------------------------- */

struct client {
	struct gvm_cluster *cluster;
	struct gvm_net *net;
	struct gvm_worker *worker;
	struct gvm_peer *peer;
	struct gvm_region *region;
};

static void client_open(struct client *c, unsigned port, const char *key_file)
{
	struct gvm_net_config config = { .transport = "tcp",
					 .node = GVM_NODE_NONE,
					 .key_file = key_file };
	struct gvm_worker_config wc = { .cpu = -1 };
	char map[64];

	memset(c, 0, sizeof(*c));
	snprintf(map, sizeof(map), "0 127.0.0.1 %u\n", port);
	assert_int_equal(gvm_cluster_parse(map, strlen(map), "map", &c->cluster, NULL), 0);
	config.cluster = c->cluster;
	assert_int_equal(gvm_net_open(&config, &c->net), 0);
	assert_int_equal(gvm_worker_open(c->net, &wc, &c->worker), 0);
	assert_int_equal(gvm_peer_get(c->worker, 0, &c->peer), 0);
}

static void client_close(struct client *c)
{
	if (c->region)
		gvm_region_close(c->region);
	for (int i = 0; i < 3; i++) /* the CLOSE goes out */
		gvm_worker_progress(c->worker);
	gvm_worker_close(c->worker);
	gvm_net_close(c->net);
	gvm_cluster_free(c->cluster);
}

struct answer {
	struct gvm_op op;
	int done, status;
	uint32_t length;
	uint8_t body[GVM_MSG_MAX];
};

static void call_done(struct gvm_op *op, int status)
{
	struct answer *a = (struct answer *)op;

	a->done = 1;
	a->status = status;
	a->length = op->reply ? op->reply->length : 0;
	if (a->length)
		memcpy(a->body, op->reply->body, a->length);
}

static struct answer answer;

static int call(struct client *c, uint8_t type, uint64_t region, uint64_t page, uint64_t arg,
		const void *body, uint32_t len)
{
	struct gvm_msg msg = { .type = type,
			       .region = region,
			       .page = page,
			       .arg = arg,
			       .body = body,
			       .length = len };
	int err;

	memset(&answer, 0, sizeof(answer));
	answer.op.done = call_done;
	answer.op.deadline_ns = gvm_now() + 20 * SEC;
	while ((err = gvm_call(c->peer, &msg, &answer.op)) == -EAGAIN)
		gvm_worker_wait(c->worker, SEC / 10);
	if (err)
		return err;
	while (!answer.done)
		gvm_worker_wait(c->worker, SEC / 10);
	return answer.status;
}

static int raw_open(struct client *c, const char *name, uint64_t pages, uint32_t flags)
{
	struct gvm_region_open req = { .pages = pages,
				       .share_slabs = (pages + 15) / 16,
				       .slab_pages = 16,
				       .page_size = 4096,
				       .flags = flags };
	uint8_t body[GVM_REGION_OPEN_LEN];

	snprintf(req.name, sizeof(req.name), "%s", name);
	return call(c, GVM_T_REGION_OPEN, gvm_region_id_of(name), 0, 0, body,
		    (uint32_t)gvm_region_open_encode(body, &req));
}

/* Through the region client. */
static int region_status = 1;

static void region_opened(void *arg, struct gvm_region *region, int status)
{
	region_status = status;
}

static int region_open(struct client *c, const char *name, uint64_t bytes, uint32_t flags)
{
	struct gvm_region_config config = {
		.name = name, .bytes = bytes, .slab_bytes = 64 << 10, .flags = flags
	};

	region_status = 1;
	assert_int_equal(
	    gvm_region_open(c->worker, &config, gvm_now() + 20 * SEC, region_opened, &c->region),
	    0);
	while (region_status == 1)
		gvm_worker_wait(c->worker, SEC / 10);
	return region_status;
}

static int op_status;

static void op_done(struct gvm_region_op *op, int status)
{
	op_status = status;
}

static int page_op(struct client *c, int put, uint64_t page, void *buf)
{
	struct gvm_region_op op = { .done = op_done, .deadline_ns = gvm_now() + 20 * SEC };
	int err = put ? gvm_region_put(c->region, page, 1, buf, &op)
		      : gvm_region_fetch(c->region, page, 1, buf, &op);

	op_status = 1;
	while (!err && op_status == 1)
		gvm_worker_wait(c->worker, SEC / 10);
	return err ? err : op_status;
}

static int put_page(struct client *c, uint64_t page, int byte)
{
	uint8_t buf[4096];

	memset(buf, byte, sizeof(buf));
	return page_op(c, 1, page, buf);
}

static int get_page(struct client *c, uint64_t page)
{
	uint8_t buf[4096];
	int err = page_op(c, 0, page, buf);

	if (err)
		return err;
	assert_memory_equal(buf, buf + 1, 4095);
	return buf[0];
}

/* ---- plain sockets ------------------------------------------------------------------------- */

static int dial(unsigned port)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_port = htons((uint16_t)port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct timeval limit = { 20, 0 };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		close(fd);
		return -errno;
	}
	return fd;
}

static const char *http(unsigned port, const char *request, const char *path)
{
	static char text[65536];
	size_t len = 0;
	ssize_t n;
	int fd = dial(port);

	assert_true(fd >= 0);
	snprintf(text, sizeof(text), "%s %s HTTP/1.0\r\n\r\n", request, path);
	assert_true(write(fd, text, strlen(text)) > 0);
	while (len < sizeof(text) - 1 && (n = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)n;
	text[len] = 0;
	close(fd);
	return text;
}

static json_t *stat_json(struct client *c)
{
	json_t *root;

	assert_int_equal(call(c, GVM_T_NODE_STAT, 0, 0, 0, NULL, 0), 0);
	root = json_loadb((const char *)answer.body, answer.length, 0, NULL);
	assert_non_null(root);
	return root;
}

static long long stat_of(json_t *root, const char *part, const char *name)
{
	json_t *v = json_object_get(json_object_get(root, part), name);

	assert_true(json_is_integer(v));
	return json_integer_value(v);
}

/* Ask until one of the node's levels, over all its workers, is this. */
static void await_level(struct client *c, const char *name, long long level)
{
	uint64_t end = gvm_now() + 60 * SEC;
	long long now;

	do {
		json_t *root = stat_json(c);

		now = stat_of(root, "net", name);
		json_decref(root);
		assert_true(gvm_now() < end);
	} while (now != level);
}

/* ---- tests --------------------------------------------------------------------------------- */

static void says_that_it_is_ready_and_ends_in_order(void **state)
{
	struct node n;
	const char *page;
	json_t *root;

	START(&n, "--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--key-file", key, "--memory",
	      "512M", "--metrics", "0", "--workers", "2");
	assert_non_null(strstr(n.said, ", [::1]:"));
	assert_non_null(strstr(n.said, "0.5 GiB for slabs, key required, image none\n"));
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

/* Each failure: one line with what to do, and its exit status. */
static void refuses_with_one_line_and_a_status(void **state)
{
	char open_key[96], short_key[96], foreign[96];
	FILE *f;

	snprintf(open_key, sizeof(open_key), "%s/open", dir);
	snprintf(short_key, sizeof(short_key), "%s/short", dir);
	snprintf(foreign, sizeof(foreign), "%s/foreign", dir);
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
	REFUSED(2, "this build has", "--transport", "verbs");
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
}

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

static int setup(void **state)
{
	char self[400];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	FILE *f;

	if (len <= 0)
		return -1;
	self[len] = 0;
	*strrchr(self, '/') = 0;
	snprintf(program, sizeof(program), "%s/gvm-memsrv", self);
	snprintf(dir, sizeof(dir), "/tmp/gvm-memsrv-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(key, sizeof(key), "%s/key", dir);
	snprintf(image, sizeof(image), "%s/image", dir);
	f = fopen(key, "w");
	if (!f)
		return -1;
	fputs("0123456789abcdef0123456789abcdef\n", f);
	fclose(f);
	unsetenv("JOURNAL_STREAM");
	gvm_log_set_level(GVM_LOG_ERROR);
	setenv("GVM_BACKOFF_MAX_MS", "10", 1);
	return chmod(key, 0600);
}

static int teardown(void **state)
{
	unlink(key);
	unlink(image);
	return rmdir(dir);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_that_it_is_ready_and_ends_in_order),
		cmocka_unit_test(refuses_with_one_line_and_a_status),
		cmocka_unit_test(a_taken_port_and_a_taken_image),
		cmocka_unit_test(clients_keep_and_exclude),
		cmocka_unit_test(the_image_survives_kill),
		cmocka_unit_test(drains),
		cmocka_unit_test(survives_a_hostile_client),
		cmocka_unit_test(survives_garbage),
		cmocka_unit_test(idle_connections_are_cheap),
		cmocka_unit_test(data_costs_little_more_than_itself),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, setup, teardown);
}
