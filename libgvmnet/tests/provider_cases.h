/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every provider promises to core (provider.h), shown with a minimal host in core's place:
 * order, exactly one completion, back-pressure, sizes, refused keys, the ends of connections,
 * upcalls that shut. PROVIDER_CASES(PROVIDER) is the list of the tests.
 */
#ifndef GVM_TESTS_PROVIDER_CASES_H
#define GVM_TESTS_PROVIDER_CASES_H

#include <fcntl.h>
#include <pthread.h>

#include "provider_rig.h"

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
	if (!server.ops->pins) { /* else the hardware has served them, and keeps the memory */
		assert_int_equal(server.stats.fetches_served, 70);
		assert_int_equal(server.stats.puts_served, 70);
		assert_int_equal(m->refs, 0);
	}
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
	withdraw(m);
	until(m->refs == 0);
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
	/* the connecting side has spoken, as it always has when it is refused */
	say(&c, 0, "hello", 5);
	until(server.conns->messages == 1);
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
	unsigned before, done = 0;
	static uint8_t buf[4096];

	/* what the first connection makes for all, e.g. an endpoint of libfabric's, is not counted */
	offer(1, 4096, GVM_ACCESS_FETCH, 0);
	dial(&c[0]);
	assert_int_equal(do_op(&c[0], GVM_OP_FETCH, 1, 0, buf, 4096), 0);
	client.ops->shut(c[0].ep, -ECANCELED);
	until(server.conns->closed_calls);
	server.accepted = 0;
	before = open_fds();
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
__attribute__((unused)) static void two_threads(void **state)
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

#define CASE(test, provider)                                                                       \
	cmocka_unit_test_prestate_setup_teardown(test, no_allow, teardown, (void *)(provider))
#define CASE_RAW(test, provider)                                                                   \
	cmocka_unit_test_prestate_setup_teardown(test, unallowed, teardown, (void *)(provider))

/* clang-format off */
#define PROVIDER_CASES(provider) \
	CASE(messages_arrive_in_order, provider), \
	CASE(sizes_and_odd_offsets, provider), \
	CASE(refused_keys_leave_the_connection, provider), \
	CASE(window_of_operations, provider), \
	CASE(back_pressure_is_told, provider), \
	CASE(operations_are_bounded, provider), \
	CASE(a_broken_connection_completes_all, provider), \
	CASE(shut_completes_all_and_says_no_more, provider), \
	CASE(last_words_arrive, provider), \
	CASE(cancelled_operations_are_forgotten, provider), \
	CASE_RAW(a_fetch_before_the_handshake_ends_it, provider), \
	CASE_RAW(a_long_message_before_the_handshake_ends_it, provider), \
	CASE(nobody_listens, provider), \
	CASE(shut_while_connecting, provider), \
	CASE(upcalls_may_shut, provider), \
	CASE(a_refused_message_closes, provider), \
	CASE(posts_to_the_dead_are_refused, provider), \
	CASE(many_connections_and_none_left, provider)
/* clang-format on */

#endif
