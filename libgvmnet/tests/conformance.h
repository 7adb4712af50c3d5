/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The conformance suite: what gvmnet.h promises, shown through the public API alone, for whatever
 * transport is named (first argument, else GVM_CONFORMANCE, else tcp). A provider is done when
 * these pass over it:
 *
 *     test_conformance loop             messages, memory, ends, threads
 *     test_conformance_process loop     the other side is killed, stopped or cut off
 *     test_conformance loop+tcp tcp     the servers have this alone: everything over a fallback
 *     test_conformance_stranger         with raw sockets, so for tcp alone
 *
 * Hardware that does not reach 127.0.0.1 wants an address of its own: GVM_CONFORMANCE_HOST.
 */
#ifndef GVM_TESTS_CONFORMANCE_H
#define GVM_TESTS_CONFORMANCE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include <gvmnet/gvmnet.h>
#include "providers/provider.h" /* the loop transport's stall, and frames for the raw socket */

#define MIB     (1u << 20)
#define MS      1000000ull
#define HANDLE  (GVM_MSG_USER + 1u) /* answer at once, with the same body */
#define IGNORE  (GVM_MSG_USER + 2u) /* never answer */
#define ORDERED (GVM_MSG_USER + 3u) /* arg counts up from 0 */

static const char *transport = "tcp";
static const char *servers = NULL;     /* transport of the servers, where it is another one */
static const char *here = "127.0.0.1"; /* where servers listen: GVM_CONFORMANCE_HOST */

/* ---- nodes --------------------------------------------------------------------------------- */

struct node {
	struct gvm_net *net;
	struct gvm_worker *worker;
	unsigned port;
	unsigned messages, ready, ended, rested, writable;
	uint64_t ordered;
	int last_why;
	struct gvm_peer *accepted; /* the last that became ready */
};

static inline void on_message(void *arg, struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct node *node = arg;

	node->messages++;
	if (msg->type == ORDERED && msg->arg != node->ordered++)
		abort();
	if (msg->type == HANDLE && gvm_reply(peer, msg->xid, 0, msg))
		abort();
}

static inline void on_state(void *arg, struct gvm_peer *peer, enum gvm_peer_state state, int why)
{
	struct node *node = arg;

	if (state == GVM_PEER_READY) {
		node->ready++;
		node->accepted = peer;
		return;
	}
	node->ended += why != 0;
	node->rested += why == 0;
	node->last_why = why;
	if (node->accepted == peer)
		node->accepted = NULL;
}

static inline void on_writable(void *arg, struct gvm_peer *peer)
{
	((struct node *)arg)->writable++;
}

static inline void node_open_over(struct node *node, const char *name)
{
	struct gvm_net_config config = { .transport = name, .node = GVM_NODE_NONE, .insecure = 1 };
	struct gvm_worker_config wc = { node, on_message, on_state, on_writable, -1 };

	memset(node, 0, sizeof(*node));
	if (gvm_net_open(&config, &node->net) || gvm_worker_open(node->net, &wc, &node->worker))
		abort();
}

static inline void node_open(struct node *node)
{
	node_open_over(node, transport);
}

static inline void server_open(struct node *node)
{
	node_open_over(node, servers ? servers : transport);
}

static inline void node_listen(struct node *node, const char *host, unsigned port)
{
	if (gvm_worker_listen(node->worker, host, port, &node->port))
		abort();
}

static inline void node_close(struct node *node)
{
	gvm_worker_close(node->worker);
	gvm_net_close(node->net);
}

static struct node server, client;
static unsigned fds_before;
static int used_before;

/* Cases that need another process, or a socket, are passed over where the transport has none. */
static inline int one_process(void)
{
	return strcmp(transport, "loop") == 0;
}

static inline unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 4096; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* One turn of whoever is there; waits a little when nobody has anything to do. */
static inline void turn(void)
{
	int served = client.worker ? gvm_worker_progress(client.worker) : 0;

	if (server.worker)
		served += gvm_worker_progress(server.worker);
	if (!served && (client.worker || server.worker))
		gvm_worker_wait(client.worker ? client.worker : server.worker, MS / 2);
}

/* Ten seconds are for ever, where the machine is a real one. */
#define until(cond)                                                                                \
	do {                                                                                       \
		uint64_t end_ = gvm_now() + (getenv("GVM_CONFORMANCE_HOST") ? 60000 : 10000) * MS; \
		while (!(cond)) {                                                                  \
			turn();                                                                    \
			assert_true(gvm_now() < end_);                                             \
		}                                                                                  \
	} while (0)

static inline int setup(void **state)
{
	gvm_option_set("GVM_BACKOFF_MIN_MS", "1");
	gvm_option_set("GVM_BACKOFF_MAX_MS", "20");
	fds_before = open_fds();
	server_open(&server);
	node_open(&client);
	node_listen(&server, here, 0);
	return 0;
}

static inline int teardown(void **state)
{
	if (client.net)
		node_close(&client);
	if (server.net)
		node_close(&server);
	memset(&client, 0, sizeof(client));
	memset(&server, 0, sizeof(server));
	/* The libraries below the hardware's providers keep what they open at their first use. */
	if (!strcmp(transport, "tcp") || one_process() || used_before)
		assert_int_equal(open_fds(), fds_before);
	used_before = 1;
	return 0;
}

/*
 * The server's address as the i-th of a thousand peers: two of the same text would be one. Loopback
 * has that many addresses; of another one there are as many ways to write it, with zeros in front.
 */
static inline const char *peer_host(unsigned i, char host[64])
{
	unsigned a, b, c, d;

	if (strcmp(here, "127.0.0.1") == 0)
		snprintf(host, 64, "127.0.%u.%u", i / 250, 1 + i % 250);
	else if (sscanf(here, "%u.%u.%u.%u", &a, &b, &c, &d) == 4)
		snprintf(host, 64, "%u.0%0*o.0%0*o.0%0*o", a, i / 100 + 3, b, i / 10 % 10 + 3, c,
			 i % 10 + 3, d);
	else
		abort();
	return host;
}

static inline struct gvm_peer *the_server(void)
{
	struct gvm_peer *peer;

	assert_int_equal(gvm_peer_at(client.worker, here, server.port, &peer), 0);
	return peer;
}

static inline struct gvm_peer *ready_server(void)
{
	struct gvm_peer *peer = the_server();

	gvm_peer_connect(peer);
	until(gvm_peer_state(peer) == GVM_PEER_READY);
	if (server.worker)
		until(server.ready);
	return peer;
}

/* ---- operations that count their ends ------------------------------------------------------ */

struct job {
	struct gvm_op op;
	int calls, status;
	uint32_t length;
};

static unsigned jobs_done;

static inline void job_done(struct gvm_op *op, int status)
{
	struct job *job = (struct job *)op;

	job->calls++;
	job->status = status;
	job->length = op->reply ? op->reply->length : 0;
	jobs_done++;
}

static inline void job_init(struct job *job, uint64_t timeout_ns)
{
	memset(job, 0, sizeof(*job));
	job->op.done = job_done;
	job->op.deadline_ns = timeout_ns ? gvm_now() + timeout_ns : 0;
}

static inline int fetch(struct gvm_peer *peer, uint64_t key, uint64_t offset, void *buf,
			uint32_t len)
{
	struct job job;

	job_init(&job, 0);
	assert_int_equal(gvm_fetch(peer, key, offset, buf, len, NULL, &job.op), 0);
	assert_int_equal(job.calls, 0);
	until(job.calls);
	assert_int_equal(job.calls, 1);
	return job.status;
}

static inline int put(struct gvm_peer *peer, uint64_t key, uint64_t offset, const void *buf,
		      uint32_t len)
{
	struct job job;

	job_init(&job, 0);
	assert_int_equal(gvm_put(peer, key, offset, buf, len, NULL, &job.op), 0);
	assert_int_equal(job.calls, 0);
	until(job.calls);
	assert_int_equal(job.calls, 1);
	return job.status;
}

static inline int call(struct gvm_peer *peer, uint8_t type, const void *body, uint32_t len,
		       uint64_t timeout_ns, struct job *job)
{
	struct gvm_msg msg = { .type = type, .body = body, .length = len };

	job_init(job, timeout_ns);
	return gvm_call(peer, &msg, &job->op);
}

static inline void fill(uint8_t *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(seed = seed * 1103515245u + 12345u, seed >> 16);
}

/* Memory of the server's. */
struct offer {
	struct gvm_mem *mem;
	uint8_t *base;
	size_t len;
	uint64_t key;
	int gone;
};

static inline void offer_open(struct offer *o, size_t len, unsigned access, uint64_t owner)
{
	memset(o, 0, sizeof(*o));
	o->len = len;
	o->base = calloc(1, len);
	assert_int_equal(gvm_mem_register(server.net, o->base, len, access, owner, &o->mem), 0);
	o->key = gvm_mem_key(o->mem);
}

static inline void offer_gone(void *arg)
{
	struct offer *o = arg;

	o->gone++;
	memset(o->base, 0xDD, o->len); /* nobody may see this */
}

static inline void offer_close(struct offer *o)
{
	if (!o->gone)
		gvm_mem_unregister(o->mem, offer_gone, o);
	until(o->gone == 1);
	free(o->base);
}

#define RW (GVM_ACCESS_FETCH | GVM_ACCESS_PUT)

/* ---- each test ----------------------------------------------------------------------------- */

#define PAIR(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

static inline const char *choose_transport(int argc, char **argv)
{
	static char name[128];

	if (getenv("GVM_CONFORMANCE"))
		transport = getenv("GVM_CONFORMANCE");
	if (getenv("GVM_CONFORMANCE_HOST")) {
		here = getenv("GVM_CONFORMANCE_HOST");
		gvm_option_set("GVM_OP_TIMEOUT_MS", "60000");
		gvm_option_set("GVM_CONNECT_MS", "60000");
		gvm_option_set("GVM_HANDSHAKE_MS", "60000");
	}
	if (argc > 1)
		transport = argv[1];
	if (argc > 2)
		servers = argv[2];
	gvm_option_set("GVM_CONNECTIONS", "0"); /* where it is not what is shown */
	gvm_log_set_level(GVM_LOG_ERROR);
	snprintf(name, sizeof(name), "conformance %s%s%s", transport, servers ? " to " : "",
		 servers ? servers : "");
	return name;
}

#endif
