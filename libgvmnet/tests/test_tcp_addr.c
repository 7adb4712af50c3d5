/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Addresses of the tcp provider: which texts are numeric, where a name or "*" listens, that an
 * address is shared within the process and with nobody else, what a connection with itself is, and
 * that each lookup is answered once, in order, to whom it is for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>
#include <cmocka.h>

#include <gvmnet/gvmnet.h>
#include "providers/tcp_dial.h"

static const struct sockaddr *sa(const struct gvm_addrs *addrs, unsigned i)
{
	return (const struct sockaddr *)&addrs->at[i].sa;
}

static void numeric_addresses_are_no_names(void **state)
{
	static const char *const names[] = {
		"localhost", "", "10.0.0.256", "1.2.3.4x", "::g", "*"
	};
	struct gvm_addrs addrs;
	char text[80];

	assert_int_equal(gvm_addrs_numeric("10.0.0.3", 9999, &addrs), 0);
	assert_int_equal(addrs.n, 1);
	gvm_addr_print(sa(&addrs, 0), text, sizeof text);
	assert_string_equal(text, "10.0.0.3:9999");
	assert_int_equal(gvm_addrs_numeric("::1", 65535, &addrs), 0);
	assert_int_equal(addrs.n, 1);
	gvm_addr_print(sa(&addrs, 0), text, sizeof text);
	assert_string_equal(text, "[::1]:65535");
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		assert_int_equal(gvm_addrs_numeric(names[i], 1, &addrs), -EINVAL);
}

static void a_star_is_every_address(void **state)
{
	int v4 = 0, v6 = 0;
	struct gvm_addrs addrs;

	assert_int_equal(gvm_addrs_passive("*", 4711, &addrs), 0);
	for (unsigned i = 0; i < addrs.n; i++) {
		char text[80];

		gvm_addr_print(sa(&addrs, i), text, sizeof text);
		v4 += !strcmp(text, "0.0.0.0:4711");
		v6 += !strcmp(text, "[::]:4711");
	}
	assert_int_equal(v4, 1);
	assert_int_equal(v6, 1);
	assert_int_equal(gvm_addrs_passive("no host", 1, &addrs), -EADDRNOTAVAIL);
}

/* A socket as another program has it that lets others join: SO_REUSEPORT. */
static int stranger(unsigned port)
{
	struct sockaddr_in in = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one), 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof in), 0);
	assert_int_equal(listen(fd, 1), 0);
	return fd;
}

/* Also when this process was there before: what it knows of an address ends with its last socket.
 */
static void an_address_is_shared_within_the_process_only(void **state)
{
	struct gvm_addrs addrs;
	unsigned port = 0;
	int first, second, third, other;

	assert_int_equal(gvm_addrs_passive("127.0.0.1", 0, &addrs), 0);
	assert_int_equal(gvm_addr_listen(&addrs, 0, &port, &first), 0);
	assert_int_not_equal(port, 0);
	assert_int_equal(gvm_addr_listen(&addrs, 0, &port, &second), 0);
	gvm_addr_unlisten(first);
	close(first);
	assert_int_equal(gvm_addr_listen(&addrs, 0, &port, &third), 0);
	gvm_addr_unlisten(second);
	close(second);
	gvm_addr_unlisten(third);
	close(third);
	other = stranger(port);
	first = -1;
	assert_int_equal(gvm_addr_listen(&addrs, 0, &port, &first), -EADDRINUSE);
	assert_int_equal(first, -1);
	close(other);
	assert_int_equal(gvm_addr_listen(&addrs, 0, &port, &first), 0);
	gvm_addr_unlisten(first);
	close(first);
}

/* Each listens for its own family, so both can have the same port. */
static void both_families_have_one_port(void **state)
{
	struct gvm_addrs addrs;
	unsigned port = 0;
	int fd[GVM_ADDRS_MAX];

	assert_int_equal(gvm_addrs_passive("*", 0, &addrs), 0);
	for (unsigned i = 0; i < addrs.n; i++) {
		int err = gvm_addr_listen(&addrs, i, &port, &fd[i]);

		if (err == -EAFNOSUPPORT || err == -EADDRNOTAVAIL)
			fd[i] = -1; /* a machine without IPv6 */
		else
			assert_int_equal(err, 0);
	}
	for (unsigned i = 0; i < addrs.n; i++)
		if (fd[i] >= 0) {
			gvm_addr_unlisten(fd[i]);
			close(fd[i]);
		}
}

/* TCP's simultaneous open: a socket that dials its own address. */
static void a_connection_with_itself_is_known(void **state)
{
	struct sockaddr_in in = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof in;
	int fd = socket(AF_INET, SOCK_STREAM, 0), server = stranger(0), client;

	assert_int_equal(gvm_addr_is_self(fd), 0); /* not connected */
	assert_int_equal(bind(fd, (struct sockaddr *)&in, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &len), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&in, len), 0);
	assert_int_equal(gvm_addr_is_self(fd), 1);
	close(fd);
	assert_int_equal(getsockname(server, (struct sockaddr *)&in, &len), 0);
	client = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(client, (struct sockaddr *)&in, len), 0);
	assert_int_equal(gvm_addr_is_self(client), 0);
	close(client);
	close(server);
}

static struct gvm_lookup *answer(struct gvm_resolver *r, int fd)
{
	struct gvm_lookup *l;

	while (!(l = gvm_resolver_next(r))) {
		struct pollfd p = { .fd = fd, .events = POLLIN };

		assert_int_equal(poll(&p, 1, 20000), 1);
	}
	return l;
}

static void each_lookup_is_answered_once(void **state)
{
	struct gvm_lookup *asked[3], *l;
	struct gvm_resolver *r;
	int fd, seen[3] = { 0 };

	assert_int_equal(gvm_resolver_open(&r, &fd), 0);
	assert_null(gvm_resolver_next(r));
	for (int round = 0; round < 50; round++) { /* the thread ends, and is started again */
		static const char *const hosts[] = { "localhost", "*", "127.0.0.1" };

		memset(seen, 0, sizeof seen);
		for (int i = 0; i < 3; i++)
			assert_int_equal(
			    gvm_resolver_ask(r, hosts[i], 70u + (unsigned)i, &seen[i], &asked[i]),
			    0);
		for (int i = 0; i < 3; i++) {
			char text[80];

			l = answer(r, fd);
			int which = (int)((int *)l->user - seen);
			assert_ptr_equal(l, asked[which]);
			assert_int_equal(++seen[which], 1);
			assert_int_equal(l->err, which == 1 ? -EHOSTUNREACH : 0);
			if (which == 2) {
				gvm_addr_print(sa(&l->addrs, 0), text, sizeof text);
				assert_string_equal(text, "127.0.0.1:72");
			}
			free(l);
		}
		assert_null(gvm_resolver_next(r));
	}
	/* abandoned: nothing is waited for, and nothing is left (the address sanitizer says so) */
	for (int i = 0; i < 3; i++)
		assert_int_equal(gvm_resolver_ask(r, "localhost", 1, NULL, &l), 0);
	gvm_resolver_close(r);
}

static int lines;

static void count_line(enum gvm_log_level level, const char *line)
{
	__atomic_add_fetch(&lines, 1, __ATOMIC_SEQ_CST);
}

/* A node whose name has no address any more is looked up at each try to connect. */
static void a_name_without_address_is_told_once(void **state)
{
	enum gvm_log_level before = gvm_log_level();
	struct gvm_lookup *asked, *l;
	struct gvm_resolver *r;
	int fd;

	gvm_log_set_level(GVM_LOG_WARN);
	gvm_log_set(count_line);
	lines = 0;
	assert_int_equal(gvm_resolver_open(&r, &fd), 0);
	for (int round = 0; round < 8; round++) {
		assert_int_equal(gvm_resolver_ask(r, "*", 70, NULL, &asked), 0);
		l = answer(r, fd);
		assert_int_equal(l->err, -EHOSTUNREACH);
		free(l);
	}
	assert_int_equal(lines, 1);
	gvm_resolver_close(r);
	gvm_log_set(NULL);
	gvm_log_set_level(before);
}

/* ---- all addresses of a listener ------------------------------------------------------------ */

static struct {
	const int *answers; /* of add, in turn */
	unsigned asked, added, dropped, port;
} listening;

static int add(void *arg, const struct gvm_addrs *addrs, unsigned i, unsigned *port)
{
	int err = listening.answers[listening.asked++];

	assert_true(arg == &listening && i < addrs->n);
	if (err)
		return err;
	listening.added++;
	*port = *port ? *port : 1000 + listening.asked;
	return 0;
}

static void drop(void *arg)
{
	listening.dropped++;
	listening.added = 0;
}

static int listen_with(unsigned n, unsigned port, const int *answers)
{
	struct gvm_addrs addrs = { .n = n };

	memset(&listening, 0, sizeof listening);
	listening.answers = answers;
	return gvm_addrs_listen(&addrs, port, &listening.port, add, drop, &listening);
}

static void all_addresses_are_listened_at_or_none(void **state)
{
	int taken[64];

	assert_int_equal(listen_with(2, 0, (int[]){ 0, 0 }), 0);
	assert_int_equal(listening.added, 2);
	assert_int_equal(listening.port, 1001);
	/* one that another machine has is passed over, if there is another */
	assert_int_equal(listen_with(2, 7, (int[]){ -EADDRNOTAVAIL, 0 }), 0);
	assert_int_equal(listening.added, 1);
	assert_int_equal(listen_with(2, 7, (int[]){ 0, -ENODEV }), 0);
	assert_int_equal(listening.dropped, 0);
	assert_int_equal(listen_with(2, 7, (int[]){ -EADDRNOTAVAIL, -EAFNOSUPPORT }),
			 -EAFNOSUPPORT);
	/* one that cannot be had takes the others with it */
	assert_int_equal(listen_with(2, 7, (int[]){ 0, -EACCES }), -EACCES);
	assert_int_equal(listening.dropped, 1);
	assert_int_equal(listen_with(2, 7, (int[]){ 0, -EADDRINUSE }), -EADDRINUSE);
	assert_int_equal(listening.asked, 2);
	/* a port that was free at the first one only */
	assert_int_equal(listen_with(2, 0, (int[]){ 0, -EADDRINUSE, 0, 0 }), 0);
	assert_int_equal(listening.added, 2);
	assert_int_equal(listening.port, 1003);
	for (unsigned i = 0; i < 64; i++)
		taken[i] = -EADDRINUSE;
	assert_int_equal(listen_with(2, 0, taken), -EADDRINUSE);
	assert_in_range(listening.asked, 2, 32);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_addresses_are_listened_at_or_none),
		cmocka_unit_test(numeric_addresses_are_no_names),
		cmocka_unit_test(a_star_is_every_address),
		cmocka_unit_test(an_address_is_shared_within_the_process_only),
		cmocka_unit_test(both_families_have_one_port),
		cmocka_unit_test(a_connection_with_itself_is_known),
		cmocka_unit_test(each_lookup_is_answered_once),
		cmocka_unit_test(a_name_without_address_is_told_once),
	};

	if (!getenv("GVM_LOG"))
		gvm_log_set_level(GVM_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
