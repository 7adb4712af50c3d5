/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the tests of the gvm-memsrv program share: the program on a loopback port, what it says, and
 * a client that opens regions, or sends single messages. For one test program each, so everything
 * is static.
 */
#ifndef MEMSRV_TESTS_SERVICE_CLIENT_H
#define MEMSRV_TESTS_SERVICE_CLIENT_H

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
#include <sys/prctl.h>
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

static inline void spawn(struct node *n, const char *const *args)
{
	const char *argv[24] = { program };
	pid_t parent = getpid();
	int pipes[2], i = 1;

	memset(n, 0, sizeof(*n));
	while (*args && i < 23)
		argv[i++] = *args++;
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	n->pid = fork();
	if (!n->pid) {
		/* a test that is ended leaves no node behind */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(127);
		dup2(pipes[1], 2);
		execv(program, (char *const *)argv);
		_exit(127);
	}
	close(pipes[1]);
	n->out = pipes[0];
}

/* Read what it says until it has said text or has ended. */
static inline int await_text(struct node *n, const char *text)
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

static inline int end_of(struct node *n)
{
	int status;

	await_text(n, "\xff");
	assert_int_equal(waitpid(n->pid, &status, 0), n->pid);
	close(n->out);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static inline void ready(struct node *n)
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
static inline void stop(struct node *n)
{
	int status;

	kill(n->pid, SIGTERM);
	status = end_of(n);
	if (status)
		fail_msg("exit status %d: %s", status, n->said);
}

static inline void kill_node(struct node *n)
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

static inline void client_open(struct client *c, unsigned port, const char *key_file)
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

static inline void client_close(struct client *c)
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

static inline void call_done(struct gvm_op *op, int status)
{
	struct answer *a = (struct answer *)op;

	a->done = 1;
	a->status = status;
	a->length = op->reply ? op->reply->length : 0;
	if (a->length)
		memcpy(a->body, op->reply->body, a->length);
}

static struct answer answer;

static inline int call(struct client *c, uint8_t type, uint64_t region, uint64_t page, uint64_t arg,
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

static inline int raw_open(struct client *c, const char *name, uint64_t pages, uint32_t flags)
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

static inline void region_opened(void *arg, struct gvm_region *region, int status)
{
	region_status = status;
}

static inline int region_open(struct client *c, const char *name, uint64_t bytes, uint32_t flags)
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

static inline void op_done(struct gvm_region_op *op, int status)
{
	op_status = status;
}

static inline int page_op(struct client *c, int put, uint64_t page, void *buf)
{
	struct gvm_region_op op = { .done = op_done, .deadline_ns = gvm_now() + 20 * SEC };
	int err = put ? gvm_region_put(c->region, page, 1, buf, &op)
		      : gvm_region_fetch(c->region, page, 1, buf, &op);

	op_status = 1;
	while (!err && op_status == 1)
		gvm_worker_wait(c->worker, SEC / 10);
	return err ? err : op_status;
}

static inline int put_page(struct client *c, uint64_t page, int byte)
{
	uint8_t buf[4096];

	memset(buf, byte, sizeof(buf));
	return page_op(c, 1, page, buf);
}

static inline int get_page(struct client *c, uint64_t page)
{
	uint8_t buf[4096];
	int err = page_op(c, 0, page, buf);

	if (err)
		return err;
	assert_memory_equal(buf, buf + 1, 4095);
	return buf[0];
}

/* ---- plain sockets ------------------------------------------------------------------------- */

static inline int dial(unsigned port)
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

static inline const char *http(unsigned port, const char *request, const char *path)
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

static inline json_t *stat_json(struct client *c)
{
	json_t *root;

	assert_int_equal(call(c, GVM_T_NODE_STAT, 0, 0, 0, NULL, 0), 0);
	root = json_loadb((const char *)answer.body, answer.length, 0, NULL);
	assert_non_null(root);
	return root;
}

static inline long long stat_of(json_t *root, const char *part, const char *name)
{
	json_t *v = json_object_get(json_object_get(root, part), name);

	assert_true(json_is_integer(v));
	return json_integer_value(v);
}

/* Ask until one of the node's levels, over all its workers, is this. */
static inline void await_level(struct client *c, const char *name, long long level)
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

static inline int setup(void **state)
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

static inline int teardown(void **state)
{
	unlink(key);
	unlink(image);
	return rmdir(dir);
}

#endif
