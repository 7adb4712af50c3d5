/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The conformance suite: what gvmnet.h promises, shown through the public API alone, for whatever
 * transport is named (first argument, else GVM_CONFORMANCE, else tcp). A provider is done when this
 * passes over it. Cases that need another process are passed over where the transport has none
 * (loop); those with a raw socket are tcp's own.
 *
 *     test_conformance loop
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gvmnet/gvmnet.h>
#include "providers/provider.h" /* the loop transport's stall, and frames for the raw socket */

#define MIB     (1u << 20)
#define MS      1000000ull
#define HANDLE  (GVM_MSG_USER + 1u) /* answer at once, with the same body */
#define IGNORE  (GVM_MSG_USER + 2u) /* never answer */
#define ORDERED (GVM_MSG_USER + 3u) /* arg counts up from 0 */

static const char *transport = "tcp";

/* ---- nodes --------------------------------------------------------------------------------- */

struct node {
	struct gvm_net *net;
	struct gvm_worker *worker;
	unsigned port;
	unsigned messages, ready, ended, writable;
	uint64_t ordered;
	int last_why;
	struct gvm_peer *accepted; /* the last that became ready */
};

static void on_message(void *arg, struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct node *node = arg;

	node->messages++;
	if (msg->type == ORDERED && msg->arg != node->ordered++)
		abort();
	if (msg->type == HANDLE && gvm_reply(peer, msg->xid, 0, msg))
		abort();
}

static void on_state(void *arg, struct gvm_peer *peer, enum gvm_peer_state state, int why)
{
	struct node *node = arg;

	if (state == GVM_PEER_READY) {
		node->ready++;
		node->accepted = peer;
		return;
	}
	node->ended++;
	node->last_why = why;
	if (node->accepted == peer)
		node->accepted = NULL;
}

static void on_writable(void *arg, struct gvm_peer *peer)
{
	((struct node *)arg)->writable++;
}

static void node_open(struct node *node)
{
	struct gvm_net_config config = { .transport = transport,
					 .node = GVM_NODE_NONE,
					 .insecure = 1 };
	struct gvm_worker_config wc = { node, on_message, on_state, on_writable, -1 };

	memset(node, 0, sizeof(*node));
	if (gvm_net_open(&config, &node->net) || gvm_worker_open(node->net, &wc, &node->worker))
		abort();
}

static void node_listen(struct node *node, const char *host, unsigned port)
{
	if (gvm_worker_listen(node->worker, host, port, &node->port))
		abort();
}

static void node_close(struct node *node)
{
	gvm_worker_close(node->worker);
	gvm_net_close(node->net);
}

static struct node server, client;
static unsigned fds_before;

static unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 4096; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* One turn of whoever is there; waits a little when nobody has anything to do. */
static void turn(void)
{
	int served = client.worker ? gvm_worker_progress(client.worker) : 0;

	if (server.worker)
		served += gvm_worker_progress(server.worker);
	if (!served && (client.worker || server.worker))
		gvm_worker_wait(client.worker ? client.worker : server.worker, MS / 2);
}

/* Ten seconds are for ever. */
#define until(cond)                                                                                \
	do {                                                                                       \
		uint64_t end_ = gvm_now() + 10000 * MS;                                            \
		while (!(cond)) {                                                                  \
			turn();                                                                    \
			assert_true(gvm_now() < end_);                                             \
		}                                                                                  \
	} while (0)

static int setup(void **state)
{
	gvm_option_set("GVM_BACKOFF_MIN_MS", "1");
	gvm_option_set("GVM_BACKOFF_MAX_MS", "20");
	fds_before = open_fds();
	node_open(&server);
	node_open(&client);
	node_listen(&server, "127.0.0.1", 0);
	return 0;
}

static int teardown(void **state)
{
	if (client.net)
		node_close(&client);
	if (server.net)
		node_close(&server);
	memset(&client, 0, sizeof(client));
	memset(&server, 0, sizeof(server));
	assert_int_equal(open_fds(), fds_before);
	return 0;
}

static struct gvm_peer *the_server(void)
{
	struct gvm_peer *peer;

	assert_int_equal(gvm_peer_at(client.worker, "127.0.0.1", server.port, &peer), 0);
	return peer;
}

static struct gvm_peer *ready_server(void)
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

static void job_done(struct gvm_op *op, int status)
{
	struct job *job = (struct job *)op;

	job->calls++;
	job->status = status;
	job->length = op->reply ? op->reply->length : 0;
	jobs_done++;
}

static void job_init(struct job *job, uint64_t timeout_ns)
{
	memset(job, 0, sizeof(*job));
	job->op.done = job_done;
	job->op.deadline_ns = timeout_ns ? gvm_now() + timeout_ns : 0;
}

static int fetch(struct gvm_peer *peer, uint64_t key, uint64_t offset, void *buf, uint32_t len)
{
	struct job job;

	job_init(&job, 0);
	assert_int_equal(gvm_fetch(peer, key, offset, buf, len, NULL, &job.op), 0);
	assert_int_equal(job.calls, 0);
	until(job.calls);
	assert_int_equal(job.calls, 1);
	return job.status;
}

static int put(struct gvm_peer *peer, uint64_t key, uint64_t offset, const void *buf, uint32_t len)
{
	struct job job;

	job_init(&job, 0);
	assert_int_equal(gvm_put(peer, key, offset, buf, len, NULL, &job.op), 0);
	assert_int_equal(job.calls, 0);
	until(job.calls);
	assert_int_equal(job.calls, 1);
	return job.status;
}

static int call(struct gvm_peer *peer, uint8_t type, const void *body, uint32_t len,
		uint64_t timeout_ns, struct job *job)
{
	struct gvm_msg msg = { .type = type, .body = body, .length = len };

	job_init(job, timeout_ns);
	return gvm_call(peer, &msg, &job->op);
}

static void fill(uint8_t *p, size_t n, unsigned seed)
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

static void offer_open(struct offer *o, size_t len, unsigned access, uint64_t owner)
{
	memset(o, 0, sizeof(*o));
	o->len = len;
	o->base = calloc(1, len);
	assert_int_equal(gvm_mem_register(server.net, o->base, len, access, owner, &o->mem), 0);
	o->key = gvm_mem_key(o->mem);
}

static void offer_gone(void *arg)
{
	struct offer *o = arg;

	o->gone++;
	memset(o->base, 0xDD, o->len); /* nobody may see this */
}

static void offer_close(struct offer *o)
{
	if (!o->gone)
		gvm_mem_unregister(o->mem, offer_gone, o);
	until(o->gone == 1);
	free(o->base);
}

#define RW (GVM_ACCESS_FETCH | GVM_ACCESS_PUT)

/* ---- messages ------------------------------------------------------------------------------ */

static void messages_arrive_in_order(void **state)
{
	static uint8_t body[GVM_MSG_MAX];
	struct gvm_peer *peer = ready_server();
	struct gvm_msg msg = { .type = ORDERED, .body = body };

	while (msg.arg < 2000) {
		int err;

		msg.length = (uint32_t)(msg.arg * 37 % (GVM_MSG_MAX + 1));
		err = gvm_send(peer, &msg);
		if (!err)
			msg.arg++;
		else {
			assert_int_equal(err, -EAGAIN);
			turn();
		}
	}
	until(server.messages == 2000);
	assert_int_equal(server.ordered, 2000);
}

/* Refused posts are told of when they may be tried again, and nothing of the rest is lost. */
static void back_pressure_is_told(void **state)
{
	static uint8_t body[GVM_MSG_MAX];
	struct gvm_peer *peer = ready_server();
	struct gvm_msg msg = { .type = ORDERED, .body = body, .length = sizeof(body) };

	for (int round = 0; round < 5; round++) {
		client.writable = 0;
		while (!gvm_send(peer, &msg)) {
			msg.arg++;
			assert_true(msg.arg < 100000);
		}
		until(client.writable);
	}
	until(server.messages == msg.arg);
}

static void calls_are_answered_once(void **state)
{
	enum { N = 600 };
	static uint8_t body[GVM_MSG_MAX];
	struct job *jobs = calloc(N, sizeof(*jobs));
	struct gvm_peer *peer = the_server();
	unsigned posted = 0, turns = 0;

	jobs_done = 0;
	while (jobs_done < N) {
		while (posted < N &&
		       !call(peer, HANDLE, body, posted * 13 % (GVM_MSG_MAX + 1), 0, &jobs[posted]))
			posted++;
		turn();
		assert_true(++turns < 100000);
	}
	for (unsigned i = 0; i < N; i++) {
		assert_true(jobs[i].calls == 1 && jobs[i].status == 0);
		assert_int_equal(jobs[i].length, i * 13 % (GVM_MSG_MAX + 1));
	}
	free(jobs);
}

/* ---- memory -------------------------------------------------------------------------------- */

static void sizes_and_odd_offsets(void **state)
{
	static const uint32_t sizes[] = { 1, 2, 47, 48, 49, 4095, 4096, 4097, 65536, MIB };
	static const uint32_t offsets[] = { 0, 1, 47, 4095, 4097, 65535, MIB - 3 };
	uint8_t *want = malloc(2 * MIB), *buf = malloc(MIB + 64);
	struct gvm_peer *peer = the_server();
	struct offer o;

	offer_open(&o, 2 * MIB, RW, 0);
	fill(want, 2 * MIB, 1);
	memcpy(o.base, want, 2 * MIB);
	for (unsigned i = 0; i < 10; i++)
		for (unsigned j = 0; j < 7; j++) {
			uint32_t n = sizes[i], at = offsets[j];

			memset(buf, 0xEE, n + 64);
			assert_int_equal(fetch(peer, o.key, at, buf + 5, n), 0);
			assert_memory_equal(buf + 5, want + at, n);
			assert_true(buf[4] == 0xEE && buf[n + 5] == 0xEE);
			fill(buf, n, i * 7 + j);
			memcpy(want + at, buf, n);
			assert_int_equal(put(peer, o.key, at, buf, n), 0);
			assert_memory_equal(o.base, want, 2 * MIB);
		}
	offer_close(&o);
	free(want);
	free(buf);
}

static void keys_are_checked(void **state)
{
	struct gvm_peer *peer = ready_server();
	struct offer mine, other, read, write;
	uint8_t buf[8192] = { 0 };

	offer_open(&mine, 8192, RW, gvm_net_incarnation(client.net));
	offer_open(&other, 8192, RW, gvm_net_incarnation(client.net) + 1);
	offer_open(&read, 8192, GVM_ACCESS_FETCH, 0);
	offer_open(&write, 8192, GVM_ACCESS_PUT, 0);
	assert_int_equal(fetch(peer, mine.key, 0, buf, 8192), 0);
	assert_int_equal(put(peer, mine.key, 0, buf, 8192), 0);
	assert_int_equal(fetch(peer, mine.key + 1, 0, buf, 1), -ENOENT);
	assert_int_equal(put(peer, 0, 0, buf, 1), -ENOENT);
	assert_int_equal(fetch(peer, other.key, 0, buf, 1), -EPERM);
	assert_int_equal(put(peer, other.key, 0, buf, 1), -EPERM);
	assert_int_equal(put(peer, read.key, 0, buf, 1), -EPERM);
	assert_int_equal(fetch(peer, write.key, 0, buf, 1), -EPERM);
	assert_int_equal(fetch(peer, mine.key, 1, buf, 8192), -ERANGE);
	assert_int_equal(put(peer, mine.key, 8192, buf, 1), -ERANGE);
	assert_int_equal(fetch(peer, mine.key, UINT64_MAX, buf, 1), -ERANGE);
	assert_int_equal(put(peer, mine.key, UINT64_MAX - 4095, buf, 4096), -ERANGE);
	assert_int_equal(fetch(peer, mine.key, 8191, buf, 1), 0);
	offer_close(&mine);
	offer_close(&other);
	offer_close(&read);
	offer_close(&write);
	assert_int_equal(client.ended, 0);
}

/* Whatever is under way when memory is withdrawn either sees it as it was or is refused. */
static void memory_withdrawn_in_flight(void **state)
{
	enum { N = 32 };
	uint8_t *buf = malloc(N * 65536);
	struct job jobs[N];
	struct gvm_peer *peer = ready_server();
	struct offer o;
	unsigned ok = 0;

	offer_open(&o, 65536, RW, 0);
	memset(o.base, 0x11, 65536);
	jobs_done = 0;
	for (unsigned i = 0; i < N; i++) {
		job_init(&jobs[i], 0);
		assert_int_equal(
		    gvm_fetch(peer, o.key, 0, buf + i * 65536, 65536, NULL, &jobs[i].op), 0);
		if (i == N / 2)
			while (!jobs_done)
				turn();
	}
	gvm_mem_unregister(o.mem, offer_gone, &o);
	until(jobs_done == N);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(jobs[i].calls, 1);
		assert_true(jobs[i].status == 0 || jobs[i].status == -ENOENT);
		ok += !jobs[i].status;
		for (unsigned k = 0; !jobs[i].status && k < 65536; k++)
			assert_int_equal(buf[i * 65536 + k], 0x11);
	}
	assert_true(ok >= 1 && ok < N);
	assert_int_equal(o.gone, 1);
	free(o.base);
	free(buf);
}

static void a_full_window(void **state)
{
	enum { N = 1000, LEN = 4096 };
	struct job *jobs = calloc(N, sizeof(*jobs));
	uint8_t *buf = malloc((size_t)N * LEN);
	struct gvm_peer *peer = the_server();
	struct offer o;

	offer_open(&o, (size_t)N * LEN, RW, 0);
	fill(o.base, (size_t)N * LEN, 9);
	for (int puts = 0; puts < 2; puts++) {
		unsigned posted = 0, turns = 0;

		jobs_done = 0;
		while (jobs_done < N) {
			for (; posted < N; posted++) {
				uint64_t at = (uint64_t)posted * LEN;
				struct job *j = &jobs[posted];
				int err;

				job_init(j, 0);
				err = puts
					  ? gvm_put(peer, o.key, at, buf + at, LEN, NULL, &j->op)
					  : gvm_fetch(peer, o.key, at, buf + at, LEN, NULL, &j->op);
				if (err) {
					assert_int_equal(err, -EAGAIN);
					break;
				}
			}
			turn();
			assert_true(++turns < 100000);
		}
		for (unsigned i = 0; i < N; i++)
			assert_true(jobs[i].calls == 1 && !jobs[i].status);
		assert_memory_equal(buf, o.base, (size_t)N * LEN);
		fill(buf, (size_t)N * LEN, 10);
	}
	fill(buf, (size_t)N * LEN, 9);
	offer_close(&o);
	free(buf);
	free(jobs);
}

/* ---- ends ---------------------------------------------------------------------------------- */

static void nobody_listens(void **state)
{
	struct gvm_peer *peer = the_server();
	uint8_t buf[64];
	struct job job;

	gvm_worker_unlisten(server.worker);
	job_init(&job, 300 * MS);
	assert_int_equal(gvm_fetch(peer, 1, 0, buf, 64, NULL, &job.op), 0);
	until(job.calls);
	assert_int_equal(job.calls, 1);
	assert_int_equal(job.status, -ECONNREFUSED);
	assert_true(gvm_now() < job.op.deadline_ns + 5000 * MS);
}

static void deadlines_hold(void **state)
{
	struct gvm_peer *peer = ready_server();
	uint64_t begin = gvm_now();
	struct job job, fast;

	assert_int_equal(call(peer, IGNORE, NULL, 0, 50 * MS, &job), 0);
	assert_int_equal(call(peer, HANDLE, "x", 1, 5000 * MS, &fast), 0);
	until(job.calls && fast.calls);
	assert_true(gvm_now() - begin >= 50 * MS);
	assert_int_equal(job.status, -ETIMEDOUT);
	assert_int_equal(fast.status, 0);
	assert_int_equal(client.ended, 0); /* a late answer is no reason to end a connection */
}

/* Operations of all kinds, then this side lets go, or the other one does. */
static void post_all_kinds(struct gvm_peer *peer, struct job *jobs, unsigned n, uint64_t key,
			   uint8_t *buf)
{
	for (unsigned i = 0; i < n; i++) {
		int err;

		job_init(&jobs[i], 0);
		if (i % 3 == 0)
			err = gvm_fetch(peer, key, 0, buf + i * 4096, 4096, NULL, &jobs[i].op);
		else if (i % 3 == 1)
			err = gvm_put(peer, key, 0, buf + i * 4096, 4096, NULL, &jobs[i].op);
		else
			err = call(peer, i % 2 ? HANDLE : IGNORE, "x", 1, 0, &jobs[i]);
		assert_int_equal(err, 0);
	}
}

static void each_end_completes_all_once(void **state)
{
	enum { N = 48 };
	uint8_t *buf = calloc(N, 4096);
	struct job jobs[N];
	struct gvm_peer *peer;
	struct offer o;

	offer_open(&o, 4096, RW, 0);
	for (unsigned round = 0; round < 20; round++) {
		int mine = round & 1;

		peer = ready_server();
		until(server.accepted);
		jobs_done = 0;
		post_all_kinds(peer, jobs, N, o.key, buf);
		for (unsigned i = 0; i < round / 4; i++)
			turn();
		if (mine)
			gvm_peer_disconnect(peer, -ECANCELED);
		else if (server.accepted)
			gvm_peer_disconnect(server.accepted, -ECANCELED);
		until(jobs_done >= N);
		until(!server.accepted);
		for (unsigned i = 0; i < N; i++) {
			assert_int_equal(jobs[i].calls, 1);
			assert_true(jobs[i].status == 0 ||
				    jobs[i].status == (mine ? -ECANCELED : -ECONNRESET));
		}
		assert_int_equal(jobs_done, N);
	}
	gvm_peer_disconnect(the_server(), -ECANCELED);
	offer_close(&o);
	free(buf);
}

static void closing_a_worker_completes_all(void **state)
{
	enum { N = 30 };
	uint8_t *buf = calloc(N, 4096);
	struct job jobs[N];
	struct offer o;

	offer_open(&o, 4096, RW, 0);
	post_all_kinds(ready_server(), jobs, N, o.key, buf);
	node_close(&client);
	memset(&client, 0, sizeof(client));
	for (unsigned i = 0; i < N; i++)
		assert_true(jobs[i].calls == 1 && jobs[i].status == -ECANCELED);
	until(!server.accepted);
	offer_close(&o);
	free(buf);
}

static void a_thousand_peers(void **state)
{
	enum { N = 1000 };
	struct job *jobs = calloc(N, sizeof(*jobs));
	struct gvm_peer **peers = calloc(N, sizeof(*peers));
	uint8_t *buf = malloc((size_t)N * 4096);
	struct offer o;

	gvm_worker_unlisten(server.worker);
	node_listen(&server, "0.0.0.0", 0);
	offer_open(&o, 4096, RW, 0);
	fill(o.base, 4096, 3);
	for (unsigned round = 0; round < 2; round++) {
		jobs_done = 0;
		for (unsigned i = 0; i < N; i++) {
			char host[32];

			snprintf(host, sizeof(host), "127.0.%u.%u", i / 250, 1 + i % 250);
			assert_int_equal(gvm_peer_at(client.worker, host, server.port, &peers[i]),
					 0);
			job_init(&jobs[i], 0);
			assert_int_equal(
			    gvm_fetch(peers[i], o.key, 0, buf + i * 4096, 4096, NULL, &jobs[i].op),
			    0);
		}
		until(jobs_done == N);
		for (unsigned i = 0; i < N; i++) {
			assert_true(jobs[i].calls == 1 && jobs[i].status == 0);
			assert_memory_equal(buf + i * 4096, o.base, 4096);
		}
	}
	assert_int_equal(client.ready, N);
	offer_close(&o);
	free(peers);
	free(jobs);
	free(buf);
}

/* ---- other threads ------------------------------------------------------------------------- */

struct served {
	struct node node;
	pthread_t thread;
	atomic_int stop;
};

static void *serve(void *arg)
{
	struct served *s = arg;

	while (!atomic_load(&s->stop))
		gvm_worker_wait(s->node.worker, GVM_NEVER);
	return NULL;
}

/* Two workers of one net on two threads, at one address where the transport can share it. */
static void two_threads_serve(void **state)
{
	enum { PEERS = 40, ROUNDS = 20 };
	struct served *s = calloc(2, sizeof(*s));
	struct gvm_worker_config wc = { NULL, on_message, on_state, on_writable, -1 };
	struct gvm_peer *peers[PEERS];
	uint8_t page[4096], buf[PEERS][4096];
	struct job jobs[PEERS];
	struct offer o;

	offer_open(&o, PEERS * 4096, RW, 0);
	for (int i = 0; i < 2; i++) {
		wc.arg = &s[i].node;
		assert_int_equal(gvm_worker_open(server.net, &wc, &s[i].node.worker), 0);
		node_listen(&s[i].node, "0.0.0.0", i ? s[0].node.port : 0);
		pthread_create(&s[i].thread, NULL, serve, &s[i]);
	}
	for (unsigned i = 0; i < PEERS; i++) {
		char host[32];

		/* one address a peer: two of the same would be one */
		snprintf(host, sizeof(host), "127.0.0.%u", 1 + i);
		assert_int_equal(gvm_peer_at(client.worker, host, s[0].node.port, &peers[i]), 0);
	}
	for (unsigned round = 0; round < ROUNDS; round++) {
		jobs_done = 0;
		for (unsigned i = 0; i < PEERS; i++) {
			fill(page, 4096, round * PEERS + i);
			memcpy(buf[i], page, 4096);
			job_init(&jobs[i], 0);
			assert_int_equal(
			    gvm_put(peers[i], o.key, i * 4096, buf[i], 4096, NULL, &jobs[i].op), 0);
		}
		until(jobs_done == PEERS);
		for (unsigned i = 0; i < PEERS; i++) {
			assert_int_equal(jobs[i].status, 0);
			fill(page, 4096, round * PEERS + i);
			assert_int_equal(fetch(peers[i], o.key, i * 4096, buf[i], 4096), 0);
			assert_memory_equal(page, buf[i], 4096);
		}
	}
	for (int i = 0; i < 2; i++) {
		atomic_store(&s[i].stop, 1);
		gvm_worker_wake(s[i].node.worker);
		pthread_join(s[i].thread, NULL);
		gvm_worker_close(s[i].node.worker);
	}
	offer_close(&o);
	free(s);
}

/* ---- other processes ----------------------------------------------------------------------- */

struct child {
	pid_t pid;
	unsigned port;
	uint64_t key;
	size_t len;
};

static void child_main(int fd, unsigned port)
{
	struct child c = { .len = 4 * MIB };
	static struct offer o;

	node_open(&server);
	node_listen(&server, "127.0.0.1", port);
	offer_open(&o, c.len, RW, 0);
	memset(o.base, 0x42, c.len);
	c.key = o.key;
	c.port = server.port;
	if (write(fd, &c, sizeof(c)) != sizeof(c))
		abort();
	for (;;)
		gvm_worker_wait(server.worker, GVM_NEVER);
}

/* A server in a process of its own; port 0: any. */
static void child_start(struct child *c, unsigned port)
{
	pid_t parent = getpid(), pid;
	int fd[2];

	assert_int_equal(pipe(fd), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
			_exit(1);
		child_main(fd[1], port);
	}
	assert_int_equal(read(fd[0], c, sizeof(*c)), sizeof(*c));
	c->pid = pid;
	server.port = c->port;
	close(fd[0]);
	close(fd[1]);
}

static void child_kill(struct child *c)
{
	kill(c->pid, SIGKILL);
	waitpid(c->pid, NULL, 0);
}

static int one_process(void)
{
	return strcmp(transport, "loop") == 0;
}

/* Child first: it must not inherit a worker. */
static int setup_none(void **state)
{
	gvm_option_set("GVM_BACKOFF_MIN_MS", "1");
	gvm_option_set("GVM_BACKOFF_MAX_MS", "20");
	fds_before = open_fds();
	memset(&server, 0, sizeof(server));
	memset(&client, 0, sizeof(client));
	return 0;
}

static void a_killed_server(void **state)
{
	enum { N = 24 };
	struct job jobs[N], again;
	struct gvm_peer *peer;
	struct child c, d;
	uint64_t first;
	uint8_t *buf;

	if (one_process())
		skip();
	buf = malloc((size_t)N * MIB);
	child_start(&c, 0);
	node_open(&client);
	for (unsigned round = 0; round < 6; round++) {
		peer = ready_server();
		first = gvm_peer_incarnation(peer);
		jobs_done = 0;
		for (unsigned i = 0; i < N; i++) {
			void *at = buf + (size_t)i * MIB;
			int err;

			memset(at, 0, MIB);
			job_init(&jobs[i], 0);
			if (i % 2)
				err =
				    gvm_put(peer, c.key, (i % 4) * MIB, at, MIB, NULL, &jobs[i].op);
			else
				err = gvm_fetch(peer, c.key, (i % 4) * MIB, at, MIB, NULL,
						&jobs[i].op);
			assert_int_equal(err, 0);
		}
		while (jobs_done < round)
			turn();
		child_kill(&c);
		until(jobs_done == N);
		for (unsigned i = 0; i < N; i++) {
			assert_int_equal(jobs[i].calls, 1);
			assert_true(jobs[i].status == 0 || jobs[i].status == -ECONNRESET);
		}
		assert_int_equal(jobs[N - 1].status, -ECONNRESET);
		/* the same address, another life */
		child_start(&d, c.port);
		job_init(&again, 5000 * MS);
		assert_int_equal(gvm_fetch(peer, d.key, 7, buf, 4096, NULL, &again.op), 0);
		until(again.calls);
		assert_int_equal(again.status, 0);
		assert_int_equal(buf[0], 0x42);
		assert_true(gvm_peer_incarnation(peer) != first);
		c = d;
	}
	child_kill(&c);
	free(buf);
}

static void stall(struct child *c, int on)
{
	if (one_process())
		gvm_loop_set_faults(&(struct gvm_loop_faults){ .stall = on });
	else
		kill(c->pid, on ? SIGSTOP : SIGCONT);
}

/* It does not die, it only says nothing. Deadlines hold, buffers are the caller's again. */
static void a_stopped_server(void **state)
{
	enum { N = 12 };
	uint8_t *buf = malloc((size_t)N * MIB), *copy = malloc((size_t)N * MIB);
	struct job jobs[N];
	struct gvm_peer *peer;
	struct child c = { 0 };
	struct offer o;

	if (one_process()) {
		node_open(&server);
		node_listen(&server, "127.0.0.1", 0);
		offer_open(&o, 4 * MIB, RW, 0);
		c.key = o.key;
	} else {
		child_start(&c, 0);
	}
	node_open(&client);
	for (unsigned puts = 0; puts < 3; puts++) {
		peer = ready_server();
		stall(&c, 1);
		jobs_done = 0;
		for (unsigned i = 0; i < N; i++) {
			void *at = buf + (size_t)i * MIB;
			int err;

			job_init(&jobs[i], (30 + i) * MS);
			if (puts == 1 || (puts == 2 && i % 2))
				err = gvm_put(peer, c.key, 0, at, MIB, NULL, &jobs[i].op);
			else
				err = gvm_fetch(peer, c.key, 0, at, MIB, NULL, &jobs[i].op);
			assert_int_equal(err, 0);
		}
		until(jobs_done == N);
		for (unsigned i = 0; i < N; i++) {
			assert_int_equal(jobs[i].calls, 1);
			/* a put that is half sent takes the connection with it */
			assert_true(jobs[i].status == -ETIMEDOUT ||
				    (puts && jobs[i].status == -ECONNRESET));
		}
		assert_int_equal(jobs[0].status, -ETIMEDOUT);
		fill(buf, (size_t)N * MIB, puts);
		memcpy(copy, buf, (size_t)N * MIB);
		stall(&c, 0);
		assert_int_equal(fetch(the_server(), c.key, 5, copy, 1), 0);
		copy[0] = buf[0];
		assert_memory_equal(buf, copy, (size_t)N * MIB);
	}
	if (one_process())
		offer_close(&o);
	else
		child_kill(&c);
	free(buf);
	free(copy);
}

/* An idle connection to it is noticed without anybody asking. */
static void a_stopped_server_is_noticed(void **state)
{
	struct child c;

	if (one_process())
		skip();
	child_start(&c, 0);
	gvm_option_set("GVM_KEEPALIVE_MS", "50");
	node_open(&client);
	gvm_option_set("GVM_KEEPALIVE_MS", "10000");
	ready_server();
	kill(c.pid, SIGSTOP);
	until(client.ended);
	assert_int_equal(client.last_why, -ETIMEDOUT);
	child_kill(&c);
}

static void an_idle_server_is_killed(void **state)
{
	struct child c;

	if (one_process())
		skip();
	child_start(&c, 0);
	node_open(&client);
	ready_server();
	child_kill(&c);
	until(client.ended);
	assert_int_equal(client.last_why, -ECONNRESET);
}

/* ---- tcp: strangers ------------------------------------------------------------------------ */

static int raw_dial(void)
{
	struct sockaddr_in sa = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)server.port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static struct gvm_net_stats server_stats(void)
{
	struct gvm_net_stats stats;

	gvm_worker_stats(server.worker, &stats);
	return stats;
}

/* The server has ended the connection. */
static void raw_ended(int fd)
{
	char buf[512];
	ssize_t n;

	do {
		turn();
		n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
	} while (n > 0 || (n < 0 && errno == EAGAIN));
	close(fd);
}

static size_t raw_hello(uint8_t *buf)
{
	struct gvm_hdr hdr = { .type = GVM_T_HELLO, .length = GVM_HELLO_LEN };
	struct gvm_hello hello = { .magic = GVM_HELLO_MAGIC,
				   .proto_min = GVM_WIRE_PROTO_MIN,
				   .proto_max = GVM_WIRE_PROTO_MAX,
				   .node = GVM_WIRE_NODE_NONE,
				   .to_node = GVM_WIRE_NODE_NONE,
				   .credits = 16,
				   .max_fetch = 16,
				   .incarnation = 77 };

	gvm_hdr_encode(buf, &hdr);
	return GVM_WIRE_HDR_LEN + gvm_hello_encode(buf + GVM_WIRE_HDR_LEN, &hello);
}

/* Each of them costs itself its connection, is counted, and disturbs nobody. */
static void strangers_disturb_nobody(void **state)
{
	static const struct gvm_hdr first[] = {
		{ .type = GVM_T_FETCH, .region = 1, .arg = 4096 },
		{ .type = GVM_T_PUT, .region = 1, .length = 4096 },
		{ .type = GVM_T_FETCHED, .length = 4096 },
		{ .type = GVM_T_PUT, .length = UINT32_MAX },
		{ .type = GVM_T_HELLO, .length = UINT32_MAX },
		{ .type = GVM_T_USER, .length = GVM_MSG_MAX },
		{ .type = GVM_T_USER },
		{ .type = GVM_T_PROOF, .length = GVM_WIRE_MAC_LEN },
		{ .type = GVM_T_READY, .length = GVM_WIRE_MAC_LEN },
		{ .type = GVM_T_REGION_OPEN, .length = GVM_REGION_OPEN_LEN },
		{ .type = 255, .flags = 0xFFFF },
	};
	const unsigned n = sizeof(first) / sizeof(*first);
	struct gvm_peer *peer;
	uint8_t bytes[8192], buf[4096];
	struct offer o;

	if (strcmp(transport, "tcp"))
		skip();
	offer_open(&o, 4096, RW, 0);
	peer = ready_server();
	for (unsigned i = 0; i < n + 2; i++) {
		struct gvm_net_stats before = server_stats(), after;
		size_t len = sizeof(bytes);
		int fd = raw_dial();

		memset(bytes, i == n ? 0xA7 : 0, sizeof(bytes));
		if (i < n)
			gvm_hdr_encode(bytes, &first[i]);
		if (i == n + 1) {
			/* in order so far, and then a second HELLO */
			len = raw_hello(bytes);
			len += raw_hello(bytes + len);
		}
		assert_int_equal(send(fd, bytes, len, MSG_NOSIGNAL), len);
		raw_ended(fd);
		until(server_stats().peers_open == before.peers_open);
		after = server_stats();
		assert_true(after.malformed + after.handshake_refused >
			    before.malformed + before.handshake_refused);
		assert_int_equal(fetch(peer, o.key, 0, buf, 4096), 0);
	}
	assert_int_equal(client.ended, 0);
	offer_close(&o);
}

static void a_hello_byte_by_byte_is_a_hello(void **state)
{
	uint8_t bytes[GVM_WIRE_HDR_LEN + GVM_HELLO_LEN], answer[GVM_WIRE_HDR_LEN];
	struct gvm_hdr hdr;
	uint64_t in = 0;
	ssize_t n;
	int fd;

	if (strcmp(transport, "tcp"))
		skip();
	fd = raw_dial();
	raw_hello(bytes);
	for (size_t i = 0; i < sizeof(bytes); i++) {
		assert_int_equal(send(fd, bytes + i, 1, MSG_NOSIGNAL), 1);
		in++;
		until(server_stats().bytes_received == in);
	}
	do {
		turn();
		n = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
	} while (n < 0 && errno == EAGAIN);
	assert_int_equal(n, sizeof(answer));
	assert_int_equal(gvm_hdr_decode(answer, &hdr), 0);
	assert_int_equal(hdr.type, GVM_T_CHALLENGE);
	close(fd);
	until(server_stats().peers_open == 0);
}

static void silence_is_ended(void **state)
{
	uint8_t bytes[GVM_WIRE_HDR_LEN + GVM_HELLO_LEN];
	int fd[3];

	if (strcmp(transport, "tcp"))
		skip();
	for (int i = 0; i < 3; i++)
		fd[i] = raw_dial();
	raw_hello(bytes);
	send(fd[1], bytes, 20, MSG_NOSIGNAL);
	send(fd[2], bytes, sizeof(bytes), MSG_NOSIGNAL);
	for (int i = 0; i < 3; i++)
		raw_ended(fd[i]);
	until(server_stats().peers_open == 0);
}

static int setup_impatient(void **state)
{
	int err;

	gvm_option_set("GVM_HANDSHAKE_MS", "100");
	err = setup(state);
	gvm_option_set("GVM_HANDSHAKE_MS", "5000");
	return err;
}

static void a_flood_of_connects(void **state)
{
	enum { N = 1500 };
	struct gvm_peer *peer;
	uint8_t buf[4096];
	struct offer o;
	int *fd;

	if (strcmp(transport, "tcp"))
		skip();
	fd = calloc(N, sizeof(*fd));
	offer_open(&o, 4096, RW, 0);
	peer = ready_server();
	for (unsigned i = 0; i < N; i++) {
		fd[i] = raw_dial();
		if (i % 50 == 0)
			assert_int_equal(fetch(peer, o.key, 0, buf, 4096), 0);
	}
	until(server_stats().accepts == N + 1);
	assert_true(server_stats().peers_open < N); /* so many at a time are too many */
	for (unsigned i = 0; i < N; i++)
		close(fd[i]);
	until(server_stats().peers_open == 1);
	assert_int_equal(fetch(peer, o.key, 0, buf, 4096), 0);
	assert_int_equal(client.ended, 0);
	offer_close(&o);
	free(fd);
}

/* ---- all ----------------------------------------------------------------------------------- */

#define PAIR(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define FORK(test) cmocka_unit_test_setup_teardown(test, setup_none, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PAIR(messages_arrive_in_order),
		PAIR(back_pressure_is_told),
		PAIR(calls_are_answered_once),
		PAIR(sizes_and_odd_offsets),
		PAIR(keys_are_checked),
		PAIR(memory_withdrawn_in_flight),
		PAIR(a_full_window),
		PAIR(nobody_listens),
		PAIR(deadlines_hold),
		PAIR(each_end_completes_all_once),
		PAIR(closing_a_worker_completes_all),
		PAIR(a_thousand_peers),
		PAIR(two_threads_serve),
		FORK(a_killed_server),
		FORK(a_stopped_server),
		FORK(a_stopped_server_is_noticed),
		FORK(an_idle_server_is_killed),
		PAIR(strangers_disturb_nobody),
		PAIR(a_hello_byte_by_byte_is_a_hello),
		cmocka_unit_test_setup_teardown(silence_is_ended, setup_impatient, teardown),
		PAIR(a_flood_of_connects),
	};
	char name[64];

	if (getenv("GVM_CONFORMANCE"))
		transport = getenv("GVM_CONFORMANCE");
	if (argc > 1)
		transport = argv[1];
	gvm_log_set_level(GVM_LOG_ERROR);
	snprintf(name, sizeof(name), "conformance %s", transport);
	return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}
