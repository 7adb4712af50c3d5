/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every provider promises to core (provider.h), shown with a minimal host in core's place,
 * over tcp and over loop: order, exactly one completion, back-pressure, sizes, refused keys, the
 * ends of connections, upcalls that shut. Then what is each one's own: for tcp a peer that keeps to
 * no rule, for loop the faults that it can be told to have.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "provider_host.h"

#define MIB (1u << 20)

static int epfd;
static struct gvm_host server, client;
static uint64_t next_xid = 1;

/* ---- driving ------------------------------------------------------------------------------- */

/* One event, and whatever needs none; returns whether there was something. */
static int step(int timeout_ms)
{
	int more = node_round(&server);

	more |= node_round(&client);
	return poll_once(epfd, more ? 0 : timeout_ms) || more;
}

/* Run both nodes until cond, for ten seconds at most. */
#define until(cond)                                                                                \
	do {                                                                                       \
		uint64_t end_ = host_now(NULL) + 10000000000ull;                                   \
		while (!(cond)) {                                                                  \
			step(20);                                                                  \
			assert_true(host_now(NULL) < end_);                                        \
		}                                                                                  \
	} while (0)

/* Run until nothing more happens. */
static void settle(void)
{
	int quiet = 0;

	while (quiet < 3)
		quiet = step(2) ? 0 : quiet + 1;
}

static void dial_host(struct conn *c, const char *host)
{
	memset(c, 0, sizeof(*c));
	c->node = &client;
	assert_int_equal(client.ops->connect(client.prov, host, server.port, c, &c->ep), 0);
}

static void dial(struct conn *c)
{
	dial_host(c, "127.0.0.1");
	until(c->connected && (c->connected < 0 || server.accepted));
	assert_int_equal(c->connected, 1);
	c->ep->owner = 9;
	client.ops->allow(c->ep);
}

static int no_allow(void **state)
{
	epfd = epoll_create1(EPOLL_CLOEXEC);
	next_xid = 1;
	node_open(&server, *state, epfd);
	node_open(&client, *state, epfd);
	node_listen(&server, "127.0.0.1");
	return 0;
}

static int teardown(void **state)
{
	struct gvm_mem *m;

	node_close(&client);
	while ((m = server.mems)) {
		server.mems = m->next;
		m->withdrawn = 1;
		m->next = client.mems;
		client.mems = m;
	}
	node_close(&server);
	while ((m = client.mems)) {
		client.mems = m->next;
		assert_int_equal(m->refs, 0);
		free(m->base);
		free(m);
	}
	close(epfd);
	return 0;
}

static struct gvm_mem *offer(uint64_t key, size_t len, unsigned access, uint64_t owner)
{
	struct gvm_mem *m = calloc(1, sizeof(*m));

	m->key = key;
	m->len = len;
	m->base = calloc(1, len);
	m->access = access;
	m->owner = owner;
	m->next = server.mems;
	server.mems = m;
	return m;
}

static int post(struct conn *c, enum gvm_op_kind kind, struct top *t, uint64_t key, uint64_t offset,
		void *buf, uint32_t len)
{
	memset(t, 0, sizeof(*t));
	t->op.key = key;
	t->op.offset = offset;
	t->op.buf = buf;
	t->op.len = len;
	t->op.xid = next_xid++;
	t->op.kind = kind;
	return kind == GVM_OP_FETCH ? client.ops->fetch(c->ep, &t->op)
				    : client.ops->put(c->ep, &t->op);
}

static int do_op(struct conn *c, enum gvm_op_kind kind, uint64_t key, uint64_t offset, void *buf,
		 uint32_t len)
{
	struct top t;

	assert_int_equal(post(c, kind, &t, key, offset, buf, len), 0);
	until(t.calls);
	assert_int_equal(t.calls, 1);
	return t.status;
}

static int say(struct conn *c, uint64_t arg, const void *body, uint32_t len)
{
	struct gvm_hdr hdr = { .type = GVM_T_USER, .arg = arg, .length = len };

	return c->node->ops->send(c->ep, &hdr, body);
}

static void fill(uint8_t *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(seed = seed * 1103515245u + 12345u, seed >> 16);
}

/* ---- every provider ------------------------------------------------------------------------ */

static uint8_t echo_body[GVM_WIRE_MSG_MAX];

static int check_and_echo(struct conn *c, const struct gvm_hdr *hdr, const void *payload)
{
	assert_memory_equal(payload, echo_body, hdr->length);
	return c->node->ops->send(c->ep, hdr, payload);
}

static void messages_arrive_in_order(void **state)
{
	static const uint32_t sizes[] = { 0, 1, 47, 48, 49, 4095, 4096, 8191, 8192 };
	const unsigned total = 500;
	struct conn c;
	unsigned sent = 0;

	fill(echo_body, sizeof(echo_body), 1);
	dial(&c);
	c.ordered = 1;
	server.conns->ordered = 1;
	server.conns->on_message = check_and_echo;
	while (c.messages < total) {
		while (sent < total && sent - c.messages < 12 &&
		       !say(&c, sent, echo_body, sizes[sent % 9]))
			sent++;
		step(20);
	}
	assert_int_equal(sent, total);
	assert_int_equal(c.next_arg, total);
	client.ops->shut(c.ep, -ECANCELED);
}

static void sizes_and_odd_offsets(void **state)
{
	static const uint32_t sizes[] = { 1, 2, 47, 48, 49, 4095, 4096, 4097, 65536, MIB };
	static const uint32_t offsets[] = { 0, 1, 7, 4095, 4096, 8191, MIB - 1 };
	struct gvm_mem *m = offer(5, 2 * MIB, GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 7);
	uint8_t *want = malloc(2 * MIB), *buf = malloc(MIB + 16);
	struct conn c;

	dial(&c);
	fill(want, 2 * MIB, 2);
	memcpy(m->base, want, 2 * MIB);
	for (unsigned i = 0; i < 10; i++)
		for (unsigned j = 0; j < 7; j++) {
			uint32_t n = sizes[i], at = offsets[j];

			memset(buf, 0xEE, n + 16);
			assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, at, buf + 3, n), 0);
			assert_memory_equal(buf + 3, want + at, n);
			assert_int_equal(buf[2], 0xEE);
			assert_int_equal(buf[n + 3], 0xEE);
			fill(buf, n, i * 100 + j);
			memcpy(want + at, buf, n);
			assert_int_equal(do_op(&c, GVM_OP_PUT, 5, at, buf, n), 0);
			assert_memory_equal(m->base, want, 2 * MIB);
		}
	assert_int_equal(server.stats.fetches_served, 70);
	assert_int_equal(server.stats.puts_served, 70);
	assert_int_equal(m->refs, 0);
	client.ops->shut(c.ep, -ECANCELED);
	free(want);
	free(buf);
}

static void refused_keys_leave_the_connection(void **state)
{
	uint8_t buf[4096] = { 0 };
	struct gvm_mem *m;
	struct conn c;

	dial(&c);
	m = offer(1, 8192, GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0);
	offer(2, 8192, GVM_ACCESS_FETCH, 0);
	offer(3, 8192, GVM_ACCESS_PUT, 0);
	offer(4, 8192, GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 8);
	for (int k = GVM_OP_FETCH; k <= GVM_OP_PUT; k++) {
		assert_int_equal(do_op(&c, k, 99, 0, buf, 4096), -ENOENT);
		assert_int_equal(do_op(&c, k, k == GVM_OP_PUT ? 2 : 3, 0, buf, 4096), -EPERM);
		assert_int_equal(do_op(&c, k, 4, 0, buf, 4096), -EPERM);
		assert_int_equal(do_op(&c, k, 1, 8192, buf, 1), -ERANGE);
		assert_int_equal(do_op(&c, k, 1, 4097, buf, 4096), -ERANGE);
		assert_int_equal(do_op(&c, k, 1, UINT64_MAX, buf, 1), -ERANGE);
		assert_int_equal(do_op(&c, k, 1, UINT64_MAX - 4095, buf, 4096), -ERANGE);
		assert_int_equal(do_op(&c, k, 1, 4096, buf, 4096), 0);
	}
	m->withdrawn = 1;
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 1, 0, buf, 4096), -ENOENT);
	assert_int_equal(c.closed_calls, 0);
	client.ops->shut(c.ep, -ECANCELED);
}

static void window_of_operations(void **state)
{
	struct gvm_mem *m = offer(1, 64 * 4096, GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0);
	static uint8_t buf[64][4096], got[64][4096];
	struct top put[64], fetch[64];
	struct conn c;

	dial(&c);
	for (unsigned i = 0; i < 64; i++) {
		fill(buf[i], 4096, i);
		assert_int_equal(post(&c, GVM_OP_PUT, &put[i], 1, i * 4096, buf[i], 4096), 0);
		assert_int_equal(post(&c, GVM_OP_FETCH, &fetch[i], 1, i * 4096, got[i], 4096), 0);
	}
	until(c.completed == 128);
	for (unsigned i = 0; i < 64; i++) {
		assert_int_equal(put[i].calls, 1);
		assert_int_equal(fetch[i].calls, 1);
		assert_int_equal(put[i].status | fetch[i].status, 0);
		assert_memory_equal(m->base + i * 4096, buf[i], 4096);
		assert_memory_equal(got[i], buf[i], 4096); /* a connection serves in order */
	}
	client.ops->shut(c.ep, -ECANCELED);
}

/* Post until refused while the other side does nothing; then all arrives and writable is told. */
static void back_pressure_is_told(void **state)
{
	static uint8_t body[GVM_WIRE_MSG_MAX];
	unsigned sent = 0, refused_at;
	struct conn c;
	int err;

	dial(&c);
	server.conns->ordered = 1;
	while (!(err = say(&c, sent, body, sizeof(body)))) {
		sent++;
		client.ops->flush(client.prov);
		assert_true(sent < 100000);
	}
	assert_int_equal(err, -EAGAIN);
	refused_at = sent;
	assert_int_equal(c.writable, 0);
	until(c.writable);
	while (sent < refused_at + 200) {
		if (!say(&c, sent, body, 100))
			sent++;
		else
			step(20);
	}
	until(server.conns->messages == sent);
	assert_int_equal(c.closed_calls, 0);
	client.ops->shut(c.ep, -ECANCELED);
}

static void operations_are_bounded(void **state)
{
	enum { N = 2000 };
	struct top *t = calloc(N, sizeof(*t));
	uint8_t *buf = malloc(N * 64);
	unsigned posted = 0;
	struct conn c;
	int err = 0;

	offer(1, 4096, GVM_ACCESS_FETCH, 0);
	dial(&c);
	while (posted < N &&
	       !(err = post(&c, GVM_OP_FETCH, &t[posted], 1, 0, buf + posted * 64, 64)))
		posted++;
	assert_int_equal(err, -EAGAIN);
	assert_true(posted >= 64 && posted < N);
	while (c.completed < N) {
		step(20);
		while (posted < N &&
		       !post(&c, GVM_OP_FETCH, &t[posted], 1, 0, buf + posted * 64, 64))
			posted++;
	}
	for (unsigned i = 0; i < N; i++)
		assert_true(t[i].calls == 1 && t[i].status == 0);
	assert_true(c.writable > 0);
	client.ops->shut(c.ep, -ECANCELED);
	free(t);
	free(buf);
}

static void a_broken_connection_completes_all(void **state)
{
	static uint8_t buf[100][4096];
	struct top t[100];
	struct conn c;

	offer(1, 4096, GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0);
	dial(&c);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(
		    post(&c, i & 1 ? GVM_OP_PUT : GVM_OP_FETCH, &t[i], 1, 0, buf[i], 4096), 0);
	server.ops->shut(server.conns->ep, -ECANCELED);
	server.conns->ep = NULL;
	until(c.closed_calls);
	assert_int_equal(c.closed, -ECONNRESET);
	assert_int_equal(c.closed_calls, 1);
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(t[i].calls, 1);
		assert_int_equal(t[i].status, -ECONNRESET);
	}
	assert_int_equal(server.conns->closed_calls, 0);
}

static void shut_completes_all_and_says_no_more(void **state)
{
	uint8_t buf[4096];
	struct top t[10];
	struct conn c;

	offer(1, 4096, GVM_ACCESS_FETCH, 0);
	dial(&c);
	for (unsigned i = 0; i < 10; i++)
		post(&c, GVM_OP_FETCH, &t[i], 1, 0, buf, 4096);
	client.ops->shut(c.ep, -ECANCELED);
	for (unsigned i = 0; i < 10; i++)
		assert_true(t[i].calls == 1 && t[i].status == -ECANCELED);
	until(server.conns->closed_calls);
	settle();
	assert_int_equal(c.closed_calls, 0);
	assert_int_equal(c.completed, 10);
}

/* What was said before the end arrives before the end: a refusal is the last word of a handshake.
 */
static void last_words_arrive(void **state)
{
	struct conn c;

	dial(&c);
	say(&c, 1, "unread", 6);
	client.ops->flush(client.prov);
	assert_int_equal(say(server.conns, 0, "no", 2), 0);
	server.ops->shut(server.conns->ep, -EACCES);
	server.conns->ep = NULL;
	until(c.closed_calls);
	assert_int_equal(c.messages, 1);
}

static void cancelled_operations_are_forgotten(void **state)
{
	struct gvm_mem *m = offer(1, 8192, GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0);
	uint8_t buf[3][4096], clean[4096];
	struct top t[3];
	struct conn c;

	memset(m->base, 1, 8192);
	memset(buf, 0xAA, sizeof(buf));
	memset(clean, 0xAA, sizeof(clean));
	dial(&c);
	/* not yet sent */
	post(&c, GVM_OP_FETCH, &t[0], 1, 0, buf[0], 4096);
	post(&c, GVM_OP_PUT, &t[1], 1, 4096, buf[1], 4096);
	post(&c, GVM_OP_FETCH, &t[2], 1, 0, buf[2], 4096);
	assert_int_equal(client.ops->cancel(c.ep, &t[0].op), 0);
	assert_int_equal(client.ops->cancel(c.ep, &t[1].op), 0);
	assert_int_equal(say(&c, 1, "behind", 6), 0);
	until(t[2].calls && server.conns->messages == 1);
	if (*state == (void *)&gvm_provider_tcp) /* nothing was put; loop sends at once */
		assert_memory_equal(m->base + 4096, m->base, 4096);
	assert_int_equal(t[2].status, 0);
	assert_memory_equal(buf[2], m->base, 4096);
	/* sent and waiting */
	post(&c, GVM_OP_FETCH, &t[0], 1, 0, buf[0], 4096);
	client.ops->flush(client.prov);
	assert_int_equal(client.ops->cancel(c.ep, &t[0].op), 0);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 1, 0, buf[2], 4096), 0);
	assert_int_equal(t[0].calls + t[1].calls, 0);
	assert_memory_equal(buf[0], clean, 4096);
	assert_int_equal(c.closed_calls, 0);
	client.ops->shut(c.ep, -ECANCELED);
	assert_int_equal(t[0].calls + t[1].calls, 0);
}

static int unallowed(void **state)
{
	no_allow(state);
	server.allow = 0;
	return 0;
}

static void a_fetch_before_the_handshake_ends_it(void **state)
{
	uint8_t buf[64];
	struct top t;
	struct conn c;

	offer(1, 4096, GVM_ACCESS_FETCH, 0);
	dial(&c);
	post(&c, GVM_OP_FETCH, &t, 1, 0, buf, 64);
	until(server.conns->closed_calls && c.closed_calls);
	assert_int_equal(server.conns->closed, -EPROTO);
	assert_int_equal(t.status, -ECONNRESET);
}

static void a_long_message_before_the_handshake_ends_it(void **state)
{
	uint8_t body[GVM_HELLO_MAX + 1] = { 0 };
	struct conn c;

	dial(&c);
	say(&c, 0, body, GVM_HELLO_MAX);
	until(server.conns->messages == 1);
	say(&c, 0, body, GVM_HELLO_MAX + 1);
	until(server.conns->closed_calls && c.closed_calls);
	assert_int_equal(server.conns->closed, -EPROTO);
	assert_int_equal(server.conns->messages, 1);
}

static void nobody_listens(void **state)
{
	struct conn c = { .node = &client };

	server.ops->unlisten(server.listener);
	server.listener = NULL;
	if (!client.ops->connect(client.prov, "127.0.0.1", server.port, &c, &c.ep))
		until(c.connected);
	else
		c.connected = -ECONNREFUSED;
	assert_int_equal(c.connected, -ECONNREFUSED);
	assert_int_equal(c.closed_calls, 0);
}

static void shut_while_connecting(void **state)
{
	struct conn c[3];

	for (int i = 0; i < 3; i++)
		dial_host(&c[i], i == 2 ? "localhost" : "127.0.0.1");
	for (int i = 0; i < 3; i++)
		client.ops->shut(c[i].ep, -ECANCELED);
	settle();
	for (int i = 0; i < 3; i++)
		assert_true(!c[i].connected && !c[i].closed_calls);
}

static int shut_in_message(struct conn *c, const struct gvm_hdr *hdr, const void *payload)
{
	c->node->ops->shut(c->ep, -ECANCELED);
	c->ep = NULL;
	return 0;
}

static int refuse(struct conn *c, const struct gvm_hdr *hdr, const void *payload)
{
	return -EPROTO;
}

static void upcalls_may_shut(void **state)
{
	struct conn c;

	dial(&c);
	server.conns->on_message = shut_in_message;
	for (int i = 0; i < 10; i++)
		say(&c, 0, "x", 1);
	until(c.closed_calls);
	assert_int_equal(server.conns->messages, 1);
	assert_int_equal(server.conns->closed_calls, 0);

	server.shut_accepted = 1;
	dial_host(&c, "127.0.0.1");
	until(c.closed_calls);
	server.shut_accepted = 0;

	client.shut_connected = 1;
	server.accepted = 0;
	dial_host(&c, "127.0.0.1");
	until(server.accepted && c.connected);
	until(server.conns->closed_calls);
	client.shut_connected = 0;
}

static void a_refused_message_closes(void **state)
{
	struct conn c;

	dial(&c);
	server.conns->on_message = refuse;
	say(&c, 0, "x", 1);
	say(&c, 0, "x", 1);
	until(c.closed_calls && server.conns->closed_calls);
	assert_int_equal(server.conns->closed, -EPROTO);
	assert_int_equal(server.conns->messages, 1);
}

static void posts_to_the_dead_are_refused(void **state)
{
	uint8_t buf[64];
	struct top t;
	struct conn c;
	struct gvm_ep *ep;

	dial_host(&c, "127.0.0.1");
	assert_int_equal(say(&c, 0, "x", 1), -ENOTCONN);
	assert_int_equal(post(&c, GVM_OP_FETCH, &t, 1, 0, buf, 64), -ENOTCONN);
	until(c.connected && server.accepted);
	ep = c.ep;
	client.ops->shut(ep, -ECANCELED);
	/* gone, but its memory is there until the next progress: as from within an upcall */
	assert_int_equal(say(&c, 0, "x", 1), -ECONNRESET);
	assert_int_equal(post(&c, GVM_OP_PUT, &t, 1, 0, buf, 64), -ECONNRESET);
}

static unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 4096; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void many_connections_and_none_left(void **state)
{
	enum { N = 300 };
	struct conn *c = calloc(N, sizeof(*c));
	struct top *t = calloc(N, sizeof(*t));
	unsigned before = open_fds(), done = 0;
	static uint8_t buf[4096];

	offer(1, 4096, GVM_ACCESS_FETCH, 0);
	for (unsigned i = 0; i < N; i++)
		dial_host(&c[i], "127.0.0.1");
	until(server.accepted == N);
	for (unsigned i = 0; i < N; i++) {
		until(c[i].connected == 1);
		client.ops->allow(c[i].ep);
		assert_int_equal(post(&c[i], GVM_OP_FETCH, &t[i], 1, 0, buf, 4096), 0);
	}
	for (unsigned i = 0; i < N; i++) {
		until(t[i].calls);
		done += !t[i].status;
	}
	assert_int_equal(done, N);
	for (unsigned i = 0; i < N; i++)
		client.ops->shut(c[i].ep, -ECANCELED);
	for (struct conn *s = server.conns; s; s = s->next)
		until(s->closed_calls);
	assert_true(open_fds() <= before + 1); /* tcp keeps a spare */
	free(c);
	free(t);
}

struct thread_arg {
	const struct gvm_provider_ops *ops;
	int pipe[2];
	volatile int stop;
	struct gvm_mem mem;
};

static void *serve_thread(void *arg)
{
	struct thread_arg *a = arg;
	struct gvm_host *node = calloc(1, sizeof(*node));
	int fd = epoll_create1(0);

	node_open(node, a->ops, fd);
	node->mems = &a->mem;
	node_listen(node, "127.0.0.1");
	if (write(a->pipe[1], &node->port, sizeof(node->port)) < 0)
		abort();
	while (!__atomic_load_n(&a->stop, __ATOMIC_ACQUIRE)) {
		poll_once(fd, node_round(node) ? 0 : 1);
	}
	node->mems = NULL;
	node_close(node);
	close(fd);
	free(node);
	return NULL;
}

/* The server is another thread with a worker of its own. */
static void two_threads(void **state)
{
	struct thread_arg a = { .ops = *state };
	uint8_t page[4096], buf[4096];
	pthread_t thread;
	struct conn c;

	a.mem =
	    (struct gvm_mem){ .key = 1, .len = 65536, .access = GVM_ACCESS_FETCH | GVM_ACCESS_PUT };
	a.mem.base = calloc(1, 65536);
	assert_int_equal(pipe(a.pipe), 0);
	pthread_create(&thread, NULL, serve_thread, &a);
	assert_int_equal(read(a.pipe[0], &server.port, sizeof(server.port)), sizeof(server.port));
	server.accepted = 1;
	dial(&c);
	for (unsigned i = 0; i < 200; i++) {
		fill(page, 4096, i);
		assert_int_equal(do_op(&c, GVM_OP_PUT, 1, (i % 16) * 4096, page, 4096), 0);
		assert_int_equal(do_op(&c, GVM_OP_FETCH, 1, (i % 16) * 4096, buf, 4096), 0);
		assert_memory_equal(page, buf, 4096);
	}
	client.ops->shut(c.ep, -ECANCELED);
	__atomic_store_n(&a.stop, 1, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	free(a.mem.base);
	close(a.pipe[0]);
	close(a.pipe[1]);
}

/* ---- tcp: a peer that keeps to no rule ----------------------------------------------------- */

static int raw_dial(void)
{
	struct sockaddr_in sa = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)server.port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	unsigned before = server.accepted;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	until(server.accepted > before);
	return fd;
}

static void raw_put_frame(uint8_t *buf, const struct gvm_hdr *hdr)
{
	gvm_hdr_encode(buf, hdr);
}

static void raw_send(int fd, const void *buf, size_t n)
{
	assert_int_equal(send(fd, buf, n, MSG_NOSIGNAL), n);
}

/* Read n bytes while the nodes run. */
static void raw_recv(int fd, void *buf, size_t n)
{
	size_t got = 0;

	while (got < n) {
		ssize_t r = recv(fd, (char *)buf + got, n - got, MSG_DONTWAIT);

		assert_true(r != 0);
		if (r > 0)
			got += (size_t)r;
		step(r > 0 ? 0 : 5);
	}
}

static void half_frames_byte_by_byte(void **state)
{
	struct gvm_mem *m = offer(1, 16384, GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0);
	struct gvm_hdr put = {
		.type = GVM_T_PUT, .xid = 4, .region = 1, .page = 4000, .length = 5000
	};
	struct gvm_hdr msg = { .type = GVM_T_USER, .length = 300 }, hdr;
	uint8_t bytes[48 + 300 + 48 + 5000], answer[48];
	int fd = raw_dial();
	uint64_t in;

	raw_put_frame(bytes, &msg);
	fill(bytes + 48, 300, 3);
	raw_put_frame(bytes + 348, &put);
	fill(bytes + 396, 5000, 4);
	for (size_t i = 0; i < sizeof(bytes); i++) {
		in = server.stats.bytes_received;
		raw_send(fd, bytes + i, 1);
		until(server.stats.bytes_received == in + 1);
	}
	raw_recv(fd, answer, 48);
	assert_int_equal(gvm_hdr_decode(answer, &hdr), 0);
	assert_true(hdr.type == GVM_T_STORED && hdr.xid == 4 && hdr.status == 0);
	assert_memory_equal(m->base + 4000, bytes + 396, 5000);
	assert_int_equal(server.conns->messages, 1);
	close(fd);
	until(server.conns->closed_calls);
}

static void a_put_that_breaks_off_stores_whole_pages(void **state)
{
	struct gvm_mem *m = offer(1, 65536, GVM_ACCESS_PUT, 0);
	struct gvm_hdr put = {
		.type = GVM_T_PUT, .xid = 1, .region = 1, .page = 2048, .length = 40000
	};
	static uint8_t bytes[48 + 40000], zero[65536];
	int fd = raw_dial();

	raw_put_frame(bytes, &put);
	memset(bytes + 48, 0x55, 40000);
	raw_send(fd, bytes, 48 + 2048 + 4096 + 4095); /* half a page, a page, most of a page */
	until(server.stats.bytes_received == 48 + 2048 + 4096 + 4095);
	assert_int_equal(m->refs, 0);
	close(fd);
	until(server.conns->closed_calls);
	assert_int_equal(server.conns->closed, -ECONNRESET);
	assert_non_null(strstr(server.conns->reason, "middle"));
	assert_memory_equal(m->base, zero, 2048);
	assert_memory_equal(m->base + 2048, bytes + 48, 2048 + 4096);
	assert_memory_equal(m->base + 8192, zero, 65536 - 8192);
	assert_int_equal(server.stats.puts_served, 0);
}

static void memory_withdrawn_in_the_middle_of_a_put(void **state)
{
	struct gvm_mem *m = offer(1, 65536, GVM_ACCESS_PUT, 0);
	struct gvm_hdr put = { .type = GVM_T_PUT, .xid = 1, .region = 1, .length = 65536 }, hdr;
	static uint8_t bytes[48 + 65536];
	uint8_t answer[48];
	int fd = raw_dial();

	raw_put_frame(bytes, &put);
	raw_send(fd, bytes, 48 + 10000);
	until(server.stats.bytes_received == 48 + 10000);
	assert_int_equal(m->refs, 0);
	m->withdrawn = 1;
	raw_send(fd, bytes + 48 + 10000, 55536);
	raw_recv(fd, answer, 48);
	assert_int_equal(gvm_hdr_decode(answer, &hdr), 0);
	assert_true(hdr.type == GVM_T_STORED && hdr.status == GVM_ST_NOENT);
	close(fd);
	until(server.conns->closed_calls);
}

/* Each of these ends its connection with EPROTO, and no other. */
static void rules_broken_end_one_connection(void **state)
{
	const struct gvm_hdr bad[] = {
		{ .type = GVM_T_FETCHED, .xid = 3, .length = 4096 },
		{ .type = GVM_T_STORED, .xid = 3 },
		{ .type = GVM_T_FETCH, .region = 1, .arg = 0 },
		{ .type = GVM_T_FETCH, .region = 1, .arg = GVM_WIRE_XFER_MAX + 1 },
		{ .type = GVM_T_FETCH, .region = 1, .arg = UINT64_MAX },
		{ .type = GVM_T_FETCH, .region = 1, .arg = 1, .length = 5 },
		{ .type = GVM_T_PUT, .region = 1, .length = GVM_WIRE_XFER_MAX + 1 },
		{ .type = GVM_T_PUT, .region = 1, .length = UINT32_MAX },
		{ .type = GVM_T_PUT, .region = 1, .length = 0 },
		{ .type = GVM_T_USER, .length = GVM_WIRE_MSG_MAX + 1 },
		{ .type = GVM_T_USER, .flags = 0x8000 },
		{ .type = GVM_T_USER, .status = GVM_ST_MAX },
		{ .type = 0 },
	};
	struct conn c, *bystander;
	uint8_t buf[4096];

	offer(1, 4096, GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0);
	dial(&c);
	bystander = server.conns;
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad) + 2; i++) {
		uint8_t bytes[4096] = { 0 };
		int fd = raw_dial();

		memset(bytes, 0x47, sizeof(bytes)); /* the last two are garbage */
		if (i < sizeof(bad) / sizeof(*bad))
			raw_put_frame(bytes, &bad[i]);
		raw_send(fd, bytes, i == sizeof(bad) / sizeof(*bad) ? 1 : sizeof(bytes));
		until(server.conns->closed_calls);
		assert_int_equal(server.conns->closed, -EPROTO);
		close(fd);
		assert_int_equal(do_op(&c, GVM_OP_FETCH, 1, 0, buf, 4096), 0);
	}
	assert_int_equal(bystander->closed_calls + c.closed_calls, 0);
	client.ops->shut(c.ep, -ECANCELED);
}

/* The other side asks and never reads: it is not served without bound, and the rest goes on. */
static void who_does_not_read_is_not_served(void **state)
{
	struct gvm_hdr req = { .type = GVM_T_FETCH, .region = 1, .arg = MIB };
	struct gvm_mem *m = offer(1, MIB, GVM_ACCESS_FETCH, 0);
	uint8_t bytes[48 * 64], buf[4096];
	uint64_t in = 0;
	struct conn c;
	int fd = raw_dial(), quiet = 0;

	fcntl(fd, F_SETFL, O_NONBLOCK);
	for (unsigned i = 0; i < 64; i++)
		raw_put_frame(bytes + 48 * i, &req);
	while (quiet < 20) {
		ssize_t n = send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL);

		node_round(&server);
		poll_once(epfd, n < 0 ? 5 : 0);
		quiet = server.stats.bytes_received == in && n < 0 ? quiet + 1 : 0;
		in = server.stats.bytes_received;
		assert_true(in < 4 * MIB);
	}
	assert_true(m->refs > 0 && m->refs < 4096);
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 1, 0, buf, 4096), 0);
	client.ops->shut(c.ep, -ECANCELED);
	settle();
	/* it may read again and is served all that it has asked for */
	in = server.stats.fetches_served;
	while (server.stats.fetches_served < in + 100) {
		if (recv(fd, NULL, MIB, MSG_TRUNC) < 0)
			step(20);
		else
			step(0);
	}
	close(fd);
	for (struct conn *s = server.conns; s; s = s->next)
		until(s->closed_calls);
	assert_int_equal(m->refs, 0);
}

/* A server of the test's own, to misbehave towards the client. */
static int raw_listen(int *fd)
{
	struct sockaddr_in sa = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(sa);

	*fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(*fd, (struct sockaddr *)&sa, len), 0);
	assert_int_equal(listen(*fd, 10), 0);
	getsockname(*fd, (struct sockaddr *)&sa, &len);
	return ntohs(sa.sin_port);
}

static int raw_accept(int lfd, struct conn *c, unsigned port)
{
	unsigned real = server.port;
	int fd;

	server.port = port;
	dial_host(c, "127.0.0.1");
	fd = accept(lfd, NULL, NULL);
	until(c->connected);
	client.ops->allow(c->ep);
	server.port = real;
	return fd;
}

static void wrong_answers_end_the_connection(void **state)
{
	int lfd, port = raw_listen(&lfd);
	uint8_t req[48], bytes[48 + 4096] = { 0 }, buf[4096];

	for (int i = 0; i < 4; i++) {
		struct gvm_hdr hdr = { .type = GVM_T_FETCHED, .length = 4096 }, got;
		struct top t;
		struct conn c;
		int fd = raw_accept(lfd, &c, (unsigned)port);

		post(&c, GVM_OP_FETCH, &t, 1, 0, buf, 4096);
		if (i < 3) {
			raw_recv(fd, req, 48);
			assert_int_equal(gvm_hdr_decode(req, &got), 0);
		}
		hdr.xid = t.op.xid + (i == 0);
		hdr.length = i == 1 ? 4095 : 4096;
		if (i == 2)
			hdr = (struct gvm_hdr){ .type = GVM_T_STORED, .xid = t.op.xid };
		raw_put_frame(bytes, &hdr);
		raw_send(fd, bytes, sizeof(bytes));
		if (i == 3) /* answered before it was asked: do not let the request out */
			while (!c.closed_calls && poll_once(epfd, 1000))
				;
		until(c.closed_calls);
		assert_int_equal(c.closed, -EPROTO);
		assert_true(t.calls == 1 && t.status == -ECONNRESET);
		close(fd);
	}
	close(lfd);
}

/* A broken connection's puts are tried again elsewhere: the kernel must not deliver the old ones.
 */
static void a_break_drops_what_was_not_sent(void **state)
{
	int lfd, port = raw_listen(&lfd);
	static uint8_t big[65536], got[65536];

	for (int orderly = 0; orderly < 2; orderly++) {
		struct top t[64];
		struct conn c;
		int fd = raw_accept(lfd, &c, (unsigned)port);
		ssize_t n;

		for (unsigned i = 0; i < 64; i++)
			post(&c, GVM_OP_PUT, &t[i], 1, 0, big, sizeof(big));
		client.ops->flush(client.prov);
		client.ops->shut(c.ep, orderly ? -ECANCELED : -ECONNRESET);
		while ((n = read(fd, got, sizeof(got))) > 0)
			;
		assert_int_equal(n, orderly ? 0 : -1);
		assert_true(orderly || errno == ECONNRESET);
		close(fd);
	}
	close(lfd);
}

static void cancel_in_the_middle_of_a_payload(void **state)
{
	int lfd, port = raw_listen(&lfd);
	static uint8_t bytes[48 + 65536], big[65536], clean[65536];
	uint8_t req[48];

	memset(bytes, 0x33, sizeof(bytes));
	for (int i = 0; i < 2; i++) {
		struct gvm_hdr hdr = { .type = GVM_T_FETCHED, .length = 65536 };
		struct top t, t2;
		struct conn c;
		int fd = raw_accept(lfd, &c, (unsigned)port);
		uint64_t in;

		memset(big, 0x77, sizeof(big));
		post(&c, GVM_OP_FETCH, &t, 1, 0, big, 65536);
		raw_recv(fd, req, 48);
		hdr.xid = t.op.xid;
		raw_put_frame(bytes, &hdr);
		in = client.stats.bytes_received;
		raw_send(fd, bytes, 48 + 1000);
		until(client.stats.bytes_received == in + 1048);
		assert_int_equal(client.ops->cancel(c.ep, &t.op), 0);
		memcpy(clean, big, sizeof(big));
		raw_send(fd, bytes + 1048, 65536 - 1000);
		/* the connection goes on; a page of zeros comes as a flag */
		memset(req, 1, sizeof(req));
		post(&c, GVM_OP_FETCH, &t2, 1, 0, req, 48);
		raw_recv(fd, bytes, 48);
		hdr = (struct gvm_hdr){ .type = GVM_T_FETCHED,
					.flags = GVM_F_ZERO,
					.xid = t2.op.xid };
		raw_put_frame(bytes, &hdr);
		raw_send(fd, bytes, 48);
		until(t2.calls);
		assert_int_equal(t2.status, 0);
		assert_true(req[0] == 0 && req[47] == 0);
		assert_int_equal(t.calls, 0);
		assert_memory_equal(big, clean, sizeof(big));
		client.ops->shut(c.ep, -ECANCELED);
		close(fd);
		memset(bytes, 0x33, sizeof(bytes));
	}
	close(lfd);
}

static void half_sent_puts_cannot_be_cancelled(void **state)
{
	int lfd, port = raw_listen(&lfd), fd, err;
	uint8_t *buf = calloc(1, MIB);
	struct top t[64], last;
	unsigned posted = 0, freed = 0, busy = 0;
	struct conn c;

	fd = raw_accept(lfd, &c, (unsigned)port);
	while (posted < 64 && !post(&c, GVM_OP_PUT, &t[posted], 1, 0, buf, MIB))
		posted++;
	client.ops->flush(client.prov);
	post(&c, GVM_OP_PUT, &last, 1, 0, buf, 100);
	assert_int_equal(client.ops->cancel(c.ep, &last.op), 0);
	for (unsigned i = 0; i < posted; i++) {
		err = client.ops->cancel(c.ep, &t[i].op);
		freed += !err;
		busy += err == -EBUSY;
	}
	assert_int_equal(busy, 1);
	assert_int_equal(freed, posted - 1);
	client.ops->shut(c.ep, -ETIMEDOUT);
	for (unsigned i = 0; i < posted; i++)
		freed -= !t[i].calls;
	assert_int_equal(freed, 0);
	close(fd);
	close(lfd);
	free(buf);
}

static void names_and_all_addresses(void **state)
{
	static const char *const hosts[] = { "127.0.0.1", "localhost", "::1" };
	struct conn c;

	server.ops->unlisten(server.listener);
	node_listen(&server, "*");
	for (int i = 0; i < 3; i++) {
		dial_host(&c, hosts[i]);
		until(c.connected);
		if (i == 2 && c.connected < 0)
			break; /* no IPv6 here */
		assert_int_equal(c.connected, 1);
		assert_non_null(strchr(c.ep->name, ':'));
		client.ops->shut(c.ep, -ECANCELED);
	}
	memset(&c, 0, sizeof(c));
	c.node = &client;
	if (!client.ops->connect(client.prov, "no-such-host.invalid", 1, &c, &c.ep))
		until(c.connected);
	assert_int_equal(c.connected, -EHOSTUNREACH);
}

/* Workers of this process share a port; somebody else's socket there is an error. */
static void a_taken_port_is_told(void **state)
{
	struct sockaddr_in sa = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int lfd, port = raw_listen(&lfd), one = 1;
	socklen_t len = sizeof(sa);
	struct gvm_listener *l;
	unsigned bound;

	assert_int_equal(client.ops->listen(client.prov, "127.0.0.1", (unsigned)port, &l, &bound),
			 -EADDRINUSE);
	close(lfd);
	/* nor may it join one that would let it */
	lfd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(lfd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
	assert_int_equal(bind(lfd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(lfd, 1), 0);
	getsockname(lfd, (struct sockaddr *)&sa, &len);
	assert_int_equal(
	    client.ops->listen(client.prov, "127.0.0.1", ntohs(sa.sin_port), &l, &bound),
	    -EADDRINUSE);
	close(lfd);
	assert_int_equal(client.ops->listen(client.prov, "127.0.0.1", server.port, &l, &bound), 0);
	assert_int_equal(bound, server.port);
	client.ops->unlisten(l);
	assert_int_equal(client.ops->listen(client.prov, "203.0.113.7", 1, &l, &bound),
			 -EADDRNOTAVAIL);
}

/* No descriptor left: who waits is turned away, nothing spins, and afterwards all is as before. */
static void no_descriptor_left(void **state)
{
	struct rlimit old, low;
	int fd[3], extra, rounds = 0;
	char byte;

	getrlimit(RLIMIT_NOFILE, &old);
	fd[0] = raw_dial();
	for (int i = 1; i < 3; i++)
		fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	extra = open("/dev/null", O_RDONLY | O_CLOEXEC);
	low = old;
	low.rlim_cur = (rlim_t)extra;
	close(extra);
	setrlimit(RLIMIT_NOFILE, &low);
	for (int i = 1; i < 3; i++) {
		struct sockaddr_in sa = { .sin_family = AF_INET,
					  .sin_port = htons((uint16_t)server.port),
					  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

		assert_int_equal(connect(fd[i], (struct sockaddr *)&sa, sizeof(sa)), 0);
	}
	while (poll_once(epfd, 50))
		assert_true(++rounds < 10);
	setrlimit(RLIMIT_NOFILE, &old);
	for (int i = 1; i < 3; i++)
		assert_true(recv(fd[i], &byte, 1, 0) <= 0);
	assert_int_equal(server.accepted, 1);
	for (int i = 0; i < 3; i++)
		close(fd[i]);
	close(raw_dial());
	for (struct conn *s = server.conns; s; s = s->next)
		until(s->closed_calls);
}

/* ---- loop: faults -------------------------------------------------------------------------- */

static int clear_faults(void **state)
{
	gvm_loop_set_faults(&(struct gvm_loop_faults){ 0 });
	return teardown(state);
}

static unsigned completed_before_the_break(uint64_t seed)
{
	unsigned before = server.accepted, done = 0, i;
	struct top t[256];
	uint8_t buf[64];
	struct conn c;

	gvm_loop_set_faults(&(struct gvm_loop_faults){ 0 });
	dial_host(&c, "x");
	until(c.connected == 1 && server.accepted > before);
	client.ops->allow(c.ep);
	gvm_loop_set_faults(&(struct gvm_loop_faults){ .seed = seed, .drop_conn = 655 });
	for (i = 0; i < 200 && c.ep; i++) {
		assert_int_equal(post(&c, GVM_OP_FETCH, &t[i], 1, 0, buf, 64), 0);
		until(t[i].calls);
		assert_int_equal(t[i].calls, 1);
		done += !t[i].status;
	}
	if (c.ep)
		client.ops->shut(c.ep, -ECANCELED);
	else
		assert_int_equal(c.closed, -ECONNRESET);
	return done;
}

static void broken_links_repeat_with_the_seed(void **state)
{
	unsigned differ = 0;

	offer(1, 4096, GVM_ACCESS_FETCH, 0);
	for (uint64_t seed = 1; seed < 6; seed++) {
		unsigned n = completed_before_the_break(seed);

		assert_int_equal(completed_before_the_break(seed), n);
		differ += n != completed_before_the_break(1);
	}
	assert_true(differ > 0);
}

static void delays_keep_the_order(void **state)
{
	struct conn c;

	dial(&c);
	server.conns->ordered = 1;
	gvm_loop_set_faults(
	    &(struct gvm_loop_faults){ .seed = 3, .delay = 32768, .delay_ns = 2000000 });
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(say(&c, i, "x", 1), 0);
	until(server.conns->messages == 100);
	client.ops->shut(c.ep, -ECANCELED);
}

static void stall_and_refusal(void **state)
{
	struct conn c, d;

	dial(&c);
	gvm_loop_set_faults(&(struct gvm_loop_faults){ .stall = 1 });
	say(&c, 0, "x", 1);
	settle();
	assert_int_equal(server.conns->messages, 0);
	gvm_loop_set_faults(&(struct gvm_loop_faults){ .refuse = 65536 });
	until(server.conns->messages == 1);
	dial_host(&d, "x");
	until(d.connected);
	assert_int_equal(d.connected, -ECONNREFUSED);
	client.ops->shut(c.ep, -ECANCELED);
}

/* ---- all ----------------------------------------------------------------------------------- */

#define BOTH(test)                                                                                 \
	cmocka_unit_test_prestate_setup_teardown(test, no_allow, teardown,                         \
						 (void *)&gvm_provider_tcp),                       \
	    cmocka_unit_test_prestate_setup_teardown(test, no_allow, teardown,                     \
						     (void *)&gvm_provider_loop)
#define RAW(test)                                                                                  \
	cmocka_unit_test_prestate_setup_teardown(test, unallowed, teardown,                        \
						 (void *)&gvm_provider_tcp),                       \
	    cmocka_unit_test_prestate_setup_teardown(test, unallowed, teardown,                    \
						     (void *)&gvm_provider_loop)
#define TCP(test)                                                                                  \
	cmocka_unit_test_prestate_setup_teardown(test, no_allow, teardown,                         \
						 (void *)&gvm_provider_tcp)
#define LOOP(test)                                                                                 \
	cmocka_unit_test_prestate_setup_teardown(test, no_allow, clear_faults,                     \
						 (void *)&gvm_provider_loop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(messages_arrive_in_order),
		BOTH(sizes_and_odd_offsets),
		BOTH(refused_keys_leave_the_connection),
		BOTH(window_of_operations),
		BOTH(back_pressure_is_told),
		BOTH(operations_are_bounded),
		BOTH(a_broken_connection_completes_all),
		BOTH(shut_completes_all_and_says_no_more),
		BOTH(last_words_arrive),
		BOTH(cancelled_operations_are_forgotten),
		RAW(a_fetch_before_the_handshake_ends_it),
		RAW(a_long_message_before_the_handshake_ends_it),
		BOTH(nobody_listens),
		BOTH(shut_while_connecting),
		BOTH(upcalls_may_shut),
		BOTH(a_refused_message_closes),
		BOTH(posts_to_the_dead_are_refused),
		BOTH(many_connections_and_none_left),
		BOTH(two_threads),
		TCP(half_frames_byte_by_byte),
		TCP(a_put_that_breaks_off_stores_whole_pages),
		TCP(memory_withdrawn_in_the_middle_of_a_put),
		TCP(rules_broken_end_one_connection),
		TCP(who_does_not_read_is_not_served),
		TCP(wrong_answers_end_the_connection),
		TCP(a_break_drops_what_was_not_sent),
		TCP(cancel_in_the_middle_of_a_payload),
		TCP(half_sent_puts_cannot_be_cancelled),
		TCP(names_and_all_addresses),
		TCP(a_taken_port_is_told),
		TCP(no_descriptor_left),
		LOOP(broken_links_repeat_with_the_seed),
		LOOP(delays_keep_the_order),
		LOOP(stall_and_refusal),
	};

	return cmocka_run_group_tests_name("provider", tests, NULL, NULL);
}
