/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that strangers do no harm: who says nothing, garbage or half of something on a connection
 * that it makes, or as the listener that one of ours has connected to.
 */
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>
#include "tests/peer_rig.h"

/* ---- strangers over sockets ---------------------------------------------------------------- */

static int dial(unsigned port)
{
	struct sockaddr_in sin = { .sin_family = AF_INET,
				   .sin_port = htons((uint16_t)port),
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	assert_true(connect(fd, (struct sockaddr *)&sin, sizeof(sin)) == 0 || errno == EINPROGRESS);
	return fd;
}

static int is_closed(int fd)
{
	char byte;
	ssize_t n = recv(fd, &byte, 1, 0);

	return n == 0 || (n < 0 && errno != EAGAIN);
}

static void silent_strangers_go(void **state)
{
	struct gvm_net_stats stats;
	struct rig rig;
	int fds[4], i;

	assert_int_equal(gvm_option_set("GVM_HANDSHAKE_MS", "50"), 0);
	open_rig(&rig);
	rig.server.worker->opt.max_handshakes = 3;
	for (i = 0; i < 4; i++) {
		fds[i] = dial(rig.port);
		UNTIL(&rig, (gvm_worker_stats(rig.server.worker, &stats),
			     stats.accepts == 1u + (unsigned)i));
	}
	/* one too many: the oldest goes at once, the others at their deadline */
	UNTIL(&rig, is_closed(fds[0]));
	for (i = 1; i < 4; i++)
		UNTIL(&rig, is_closed(fds[i]));
	UNTIL(&rig, (gvm_worker_stats(rig.server.worker, &stats), stats.peers_open == 0));
	assert_int_equal(rig.server.ended + rig.server.ready, 0);
	for (i = 0; i < 4; i++)
		close(fds[i]);
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	close_rig(&rig);
	assert_int_equal(gvm_option_set("GVM_HANDSHAKE_MS", "5000"), 0);
}

static void garbage_ends_one_connection(void **state)
{
	struct gvm_net_stats stats;
	unsigned seed = 7, i, n;
	uint8_t junk[600];
	struct rig rig;

	open_rig(&rig);
	gvm_peer_connect(rig.peer);
	UNTIL(&rig, rig.client.ready);
	for (i = 0; i < 100; i++) {
		struct gvm_hdr hdr = { .type = (uint8_t)rand_r(&seed),
				       .length = (uint32_t)rand_r(&seed) % 300,
				       .region = (uint64_t)rand_r(&seed),
				       .arg = 100 };
		int fd = dial(rig.port);

		for (n = 0; n < sizeof(junk); n++)
			junk[n] = (uint8_t)rand_r(&seed);
		if (i % 2) /* a well-formed header before the junk */
			gvm_hdr_encode(junk, &hdr);
		UNTIL(&rig, send(fd, junk, sizeof(junk), MSG_NOSIGNAL) == sizeof(junk));
		shutdown(fd, SHUT_WR);
		UNTIL(&rig, is_closed(fd));
		close(fd);
	}
	UNTIL(&rig, (gvm_worker_stats(rig.server.worker, &stats), stats.peers_open == 1));
	assert_true(stats.malformed >= 90);
	assert_int_equal(rig.server.ready, 1);
	assert_int_equal(rig.server.messages, 0);
	assert_int_equal(gvm_peer_state(rig.peer), GVM_PEER_READY);
	close_rig(&rig);
}

/* ---- listeners that are not what they seem ------------------------------------------------- */

static int open_trap(unsigned *port)
{
	struct sockaddr_in sin = { .sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(sin);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
	*port = ntohs(sin.sin_port);
	return fd;
}

static size_t make_frame(uint8_t *buf, uint8_t type, uint16_t status, const void *body,
			 uint32_t len)
{
	struct gvm_hdr hdr = { .type = type, .status = status, .length = len };

	gvm_hdr_encode(buf, &hdr);
	memcpy(buf + GVM_WIRE_HDR_LEN, body, len);
	return GVM_WIRE_HDR_LEN + len;
}

/* Connect to a listener that says these bytes, and nothing else; how does the operation end? */
static int trapped(const void *bytes, size_t len)
{
	struct job job = new_job();
	struct gvm_msg msg = { .type = 64 };
	struct node client;
	struct gvm_peer *peer;
	unsigned port;
	int trap = open_trap(&port), fds[64], count = 0;
	uint64_t until = gvm_now() + PATIENCE;

	open_node(&client);
	assert_int_equal(gvm_peer_at(client.worker, "127.0.0.1", port, &peer), 0);
	job.op.deadline_ns = gvm_now() + SECOND / 5;
	assert_int_equal(gvm_call(peer, &msg, &job.op), 0);
	while (!job.done) {
		assert_true(gvm_now() < until);
		gvm_worker_wait(client.worker, SECOND / 100);
		while (count < 64 && (fds[count] = accept(trap, NULL, NULL)) >= 0)
			assert_int_equal(send(fds[count++], bytes, len, MSG_NOSIGNAL), len);
	}
	assert_true(count > 0);
	assert_int_equal(job.done, 1);
	assert_int_equal(client.ready, 0);
	close_node(&client);
	while (count > 0)
		close(fds[--count]);
	close(trap);
	return job.status;
}

static void hostile_listeners(void **state)
{
	static const char busy[] = "go \033[31maway";
	struct gvm_hello hello = { .magic = GVM_HELLO_MAGIC,
				   .proto_min = 1,
				   .proto_max = 1,
				   .node = GVM_NODE_NONE,
				   .to_node = GVM_NODE_NONE,
				   .incarnation = 1 };
	uint8_t buf[512], body[GVM_HELLO_LEN];
	size_t len;

	assert_int_equal(gvm_option_set("GVM_HANDSHAKE_MS", "50"), 0);
	assert_int_equal(trapped("", 0), -ETIMEDOUT);
	assert_int_equal(
	    trapped("220 mail.example ESMTP\r\n220 and so on, for longer than a header\r\n", 65),
	    -EPROTO);
	len = make_frame(buf, GVM_T_REFUSED, GVM_ST_AUTH, busy, sizeof(busy));
	assert_int_equal(trapped(buf, len), -EACCES);
	len = make_frame(buf, GVM_T_REFUSED, GVM_ST_LIMIT, busy, sizeof(busy));
	assert_int_equal(trapped(buf, len), -EUSERS);
	assert_int_equal(trapped(buf, len - 1), -ETIMEDOUT);
	memset(body, 0, sizeof(body));
	len = make_frame(buf, GVM_T_READY, GVM_ST_OK, body, GVM_WIRE_MAC_LEN);
	assert_int_equal(trapped(buf, len), -EPROTO);
	len = make_frame(buf, GVM_T_PING, GVM_ST_OK, body, 0);
	assert_int_equal(trapped(buf, len), -EPROTO);
	len = make_frame(buf, GVM_T_CHALLENGE, GVM_ST_OK, body, GVM_HELLO_LEN);
	assert_int_equal(trapped(buf, len), -EPROTO);
	hello.features = GVM_FEAT_KEY;
	gvm_hello_encode(body, &hello);
	len = make_frame(buf, GVM_T_CHALLENGE, GVM_ST_OK, body, GVM_HELLO_LEN);
	assert_int_equal(trapped(buf, len), -EACCES);
	hello.features = 0;
	gvm_hello_encode(body, &hello);
	len = make_frame(buf, GVM_T_CHALLENGE, GVM_ST_OK, body, GVM_HELLO_LEN);
	assert_int_equal(trapped(buf, len), -ETIMEDOUT);
	/* a challenge, and at once a proof that proves nothing in a place where none can be */
	memset(body, 1, sizeof(body));
	len += make_frame(buf + len, GVM_T_READY, GVM_ST_OK, body, GVM_WIRE_MAC_LEN);
	assert_int_equal(trapped(buf, len), -EACCES);
	assert_int_equal(gvm_option_set("GVM_HANDSHAKE_MS", "5000"), 0);
}

static unsigned told;

static void count_line(enum gvm_log_level level, const char *line)
{
	if (strstr(line, "not the gvmnet protocol"))
		told++;
}

/* Another service at the node's address is tried again and again, and told of once. */
static void a_wrong_service_is_told_once(void **state)
{
	static const char banner[] =
	    "220 mail.example ESMTP\r\n220 and so on, for longer than a header\r\n";
	struct job job = new_job();
	struct gvm_msg msg = { .type = 64 };
	struct gvm_net_stats stats = { 0 };
	struct node client;
	struct gvm_peer *peer;
	unsigned port;
	int trap = open_trap(&port), fds[64], count = 0;
	uint64_t until = gvm_now() + PATIENCE;

	gvm_log_set(count_line);
	open_node(&client);
	assert_int_equal(gvm_peer_at(client.worker, "127.0.0.1", port, &peer), 0);
	job.op.deadline_ns = GVM_NEVER;
	assert_int_equal(gvm_call(peer, &msg, &job.op), 0);
	while (stats.malformed < 4) {
		assert_true(gvm_now() < until);
		gvm_worker_wait(client.worker, SECOND / 100);
		while (count < 64 && (fds[count] = accept(trap, NULL, NULL)) >= 0)
			assert_int_equal(
			    send(fds[count++], banner, sizeof(banner) - 1, MSG_NOSIGNAL),
			    sizeof(banner) - 1);
		gvm_worker_stats(client.worker, &stats);
	}
	close_node(&client);
	assert_int_equal(told, 1);
	while (count > 0)
		close(fds[--count]);
	close(trap);
	if (!getenv("GVM_LOG"))
		gvm_log_set(no_line);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(silent_strangers_go, tcp),
		TEST(garbage_ends_one_connection, tcp),
		TEST(hostile_listeners, tcp),
		TEST(a_wrong_service_is_told_once, tcp),
	};

	return RUN(tests);
}
