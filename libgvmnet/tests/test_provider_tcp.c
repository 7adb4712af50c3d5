/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is tcp's own, shown with a minimal host in core's place and a peer that keeps to no rule:
 * frames byte by byte, broken off, wrong or never read; cancelling in the middle of a payload;
 * names, ports and descriptors.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "provider_rig.h"

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
		{ .type = GVM_T_MAP, .region = 1 },
		{ .type = GVM_T_MAPPED, .xid = 3, .length = GVM_MAPPED_LEN },
		{ .type = GVM_T_UNMAP, .region = 1 },
		{ .type = GVM_T_UNMAPPED, .region = 1 },
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

/* Not even the spare one to be had: the listeners rest, and wake a worker that sleeps without end.
 */
static void no_spare_descriptor_left(void **state)
{
	struct rlimit old, low;
	struct epoll_event event;
	struct sockaddr_in sa = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)server.port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	getrlimit(RLIMIT_NOFILE, &old);
	low = old;
	low.rlim_cur = 3;
	setrlimit(RLIMIT_NOFILE, &low);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	while (poll_once(epfd, 10))
		;
	assert_int_equal(server.accepted, 0);
	setrlimit(RLIMIT_NOFILE, &old);
	/* nobody runs the provider meanwhile: it is the poll set that must say so */
	assert_int_equal(epoll_wait(epfd, &event, 1, 5000), 1);
	until(server.accepted == 1);
	close(fd);
	for (struct conn *s = server.conns; s; s = s->next)
		until(s->closed_calls);
}

static struct conn *passed_on_to;

/* To the other one, then to who has sent it. */
static int pass_on(struct conn *c, const struct gvm_hdr *hdr, const void *payload)
{
	struct gvm_hdr told = { .type = GVM_T_USER };

	assert_int_equal(server.ops->send(passed_on_to->ep, hdr, payload), 0);
	return server.ops->send(c->ep, &told, NULL);
}

static int has_come(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

/* Who is passed a request is not kept waiting by what its sender is told. */
static void what_is_posted_first_leaves_first(void **state)
{
	struct gvm_hdr msg = { .type = GVM_T_USER };
	uint8_t bytes[48];
	int other = raw_dial(), asks;

	passed_on_to = server.conns;
	asks = raw_dial();
	server.conns->on_message = pass_on;
	raw_put_frame(bytes, &msg);
	raw_send(asks, bytes, sizeof(bytes));
	while (!server.conns->messages)
		assert_true(poll_once(epfd, 5000));
	assert_false(has_come(asks) && !has_come(other));
	while (!has_come(asks))
		step(5);
	assert_true(has_come(other));
	/* one that is alone is told at once, also after that */
	server.conns->on_message = NULL;
	passed_on_to->on_message = pass_on;
	passed_on_to = server.conns;
	raw_recv(other, bytes, sizeof(bytes));
	raw_recv(asks, bytes, sizeof(bytes));
	raw_send(other, bytes, sizeof(bytes));
	raw_recv(asks, bytes, sizeof(bytes));
	raw_recv(other, bytes, sizeof(bytes));
	close(other);
	close(asks);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
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
		TCP(what_is_posted_first_leaves_first),
		TCP(no_descriptor_left),
		TCP(no_spare_descriptor_left),
	};

	return cmocka_run_group_tests_name("provider tcp", tests, NULL, NULL);
}
