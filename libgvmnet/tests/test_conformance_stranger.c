/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The conformance suite (conformance.h): what strangers send to a listener disturbs nobody. */
#include "conformance.h"

/* ---- tcp: strangers ------------------------------------------------------------------------ */

static int raw_dial(void)
{
	struct sockaddr_in sa;
	int fd = far_socket(here, far_port, &sa);

	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static struct gvm_net_stats server_stats(void)
{
	return there()->stats;
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
				   .features = getenv("GVM_KEY_FILE") ? GVM_FEAT_KEY : 0,
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

	option("GVM_HANDSHAKE_MS", "100");
	err = setup(state);
	option("GVM_HANDSHAKE_MS", "5000");
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

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PAIR(strangers_disturb_nobody),
		PAIR(a_hello_byte_by_byte_is_a_hello),
		cmocka_unit_test_setup_teardown(silence_is_ended, setup_impatient, teardown),
		PAIR(a_flood_of_connects),
	};

	return cmocka_run_group_tests_name(choose_transport(argc, argv), tests, NULL, NULL);
}
