/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a client has sent on a connection that it has given up comes too late: a real gvm-memsrv
 * with two workers, and between it and the client a wire that this test can hold back. It keeps
 * what the client wrote on its first connection, lets the second one do the same again and more,
 * and only then delivers: nothing of that may be seen.
 */
#include <fcntl.h>
#include <libgen.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/region_client.h"

#define LINES_MAX 16

static char folder[] = "/tmp/gvm-fence-XXXXXX", key_file[64], program[4096];
static pid_t node_pid;
static FILE *node_words; /* its standard error */
static unsigned node_port, wire_port;

/* ---- the wire ------------------------------------------------------------------------------ */

/* One connection: what came in from the client waits in held while the line is held back. */
static struct line {
	int client, node;
	uint8_t *held;
	size_t len, room;
} lines[LINES_MAX];
static unsigned line_count;
static int listener = -1, hold; /* hold: of lines that exist, what the client sends is kept */

/* A socket that is connected to port, or listens at one; port 0: any. */
static int socket_at(unsigned *port, int listening)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)*port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof at;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (!listening) {
		assert_int_equal(connect(fd, (struct sockaddr *)&at, len), 0);
		return fd;
	}
	assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	*port = ntohs(at.sin_port);
	return fd;
}

static void wire_accept(void)
{
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct line *line = &lines[line_count];

	if (fd < 0)
		return;
	assert_true(line_count < LINES_MAX);
	line_count++;
	*line = (struct line){ .client = fd, .node = socket_at(&node_port, 0) };
	fcntl(line->node, F_SETFL, O_NONBLOCK);
}

static void send_all(int fd, const uint8_t *buf, size_t len)
{
	while (len) {
		struct pollfd p = { fd, POLLOUT, 0 };
		ssize_t n = send(fd, buf, len, MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			return; /* the other side has ended it */
		if (n < 0)
			poll(&p, 1, 1000);
		else
			buf += n, len -= (size_t)n;
	}
}

static void keep(struct line *line, const uint8_t *buf, size_t len)
{
	if (line->len + len > line->room) {
		line->room = 2 * (line->len + len);
		line->held = realloc(line->held, line->room);
		assert_non_null(line->held);
	}
	memcpy(line->held + line->len, buf, len);
	line->len += len;
}

/* Bytes from one side to the other. What the client ends is not ended towards the node. */
static void wire_move(struct line *line, int held)
{
	static uint8_t buf[1 << 16];
	ssize_t n;

	while (line->client >= 0 && (n = recv(line->client, buf, sizeof buf, 0)) != -1) {
		if (n == 0)
			break;
		if (held)
			keep(line, buf, (size_t)n);
		else
			send_all(line->node, buf, (size_t)n);
	}
	while ((n = recv(line->node, buf, sizeof buf, 0)) > 0)
		send_all(line->client, buf, (size_t)n);
}

/* The first `hold` lines are held back. */
static void wire_run(void)
{
	wire_accept();
	for (unsigned i = 0; i < line_count; i++)
		wire_move(&lines[i], (int)i < hold);
}

static void wire_deliver(struct line *line)
{
	send_all(line->node, line->held, line->len);
	line->len = 0;
}

static void wire_close(void)
{
	for (unsigned i = 0; i < line_count; i++) {
		close(lines[i].client);
		close(lines[i].node);
		free(lines[i].held);
	}
	line_count = 0;
	hold = 0;
}

static void progress(void)
{
	wire_run();
	gvm_worker_wait(worker, MS / 4);
}

/* ---- node and client ----------------------------------------------------------------------- */

/* Its port, when it says that it listens. */
static unsigned node_said(FILE *words)
{
	char line[256];
	unsigned port = 0;
	const char *at;

	while (!port && fgets(line, sizeof line, words)) {
		at = strstr(line, "listening on 127.0.0.1:");
		if (!at || sscanf(at, "listening on 127.0.0.1:%u", &port) != 1)
			fputs(line, stderr);
	}
	return port;
}

static void node_start(void)
{
	pid_t parent = getpid();
	int ends[2];

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	node_pid = fork();
	assert_true(node_pid >= 0);
	if (!node_pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == parent && dup2(ends[1], STDERR_FILENO) >= 0)
			execl(program, program, "--listen", "127.0.0.1:0", "--key-file", key_file,
			      "--memory", "16M", "--workers", "2", "--log", "error", (char *)NULL);
		_exit(127);
	}
	close(ends[1]);
	node_words = fdopen(ends[0], "r");
	assert_non_null(node_words);
	node_port = node_said(node_words);
	assert_int_not_equal(node_port, 0);
}

static int setup(void **state)
{
	char map[64];

	(void)state;
	told_count = 0;
	node_start();
	wire_port = 0;
	listener = socket_at(&wire_port, 1);
	fcntl(listener, F_SETFL, O_NONBLOCK);
	snprintf(map, sizeof map, "0 127.0.0.1 %u role=memory\n", wire_port);
	client_start("tcp", map, key_file);
	return 0;
}

static int teardown(void **state)
{
	int status;

	(void)state;
	client_stop();
	wire_close();
	close(listener);
	kill(node_pid, SIGTERM);
	assert_int_equal(waitpid(node_pid, &status, 0), node_pid);
	fclose(node_words);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	return 0;
}

/* ---- tests --------------------------------------------------------------------------------- */

/* Let the client lose its connection; what it has sent since hold was set is on the wire still. */
static void cut(unsigned had)
{
	close(lines[had - 1].client);
	lines[had - 1].client = -1;
	UNTIL(line_count > had);
}

/* Bytes that are delivered have been served when a later request on the same line has been
 * answered; the old line has nobody who could ask. So look for a while, and that nothing changes.
 */
static void expect_for_a_while(uint64_t page, uint64_t version)
{
	uint64_t end = gvm_now() + 300 * MS;

	while (gvm_now() < end)
		expect_version(page, version);
}

static void a_late_put_does_not_land(void **state)
{
	struct result r;
	uint8_t buf[PAGE];

	(void)state;
	assert_int_equal(open_region("vm", 4, GVM_REGION_CREATE), 0);
	put_version(5, 1);
	assert_int_equal(line_count, 1);

	hold = 1;
	fill(buf, 5, 2);
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_put(region, 5, 1, buf, &r.op), 0);
	UNTIL(lines[0].len >= PAGE);
	assert_int_equal(r.done, 0);
	cut(1);
	UNTIL(r.done); /* tried again, on the new connection */
	assert_int_equal(r.status, 0);
	put_version(5, 3);
	wire_deliver(&lines[0]);
	expect_for_a_while(5, 3);
}

static void a_late_discard_does_not_land(void **state)
{
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm", 4, GVM_REGION_CREATE), 0);
	put_version(5, 1);
	put_version(6, 1);

	hold = 1;
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_discard(region, 5, 1, &r.op), 0);
	UNTIL(lines[0].len >= 48 + 16);
	cut(1);
	UNTIL(r.done);
	assert_int_equal(r.status, 0);
	put_version(5, 3);
	wire_deliver(&lines[0]);
	expect_for_a_while(5, 3);
	expect_version(6, 1);
}

/* A put of which the node has a half when its client comes back. */
static void half_a_put_does_not_land(void **state)
{
	struct result r;
	static uint8_t buf[8 * PAGE];
	size_t half;

	(void)state;
	assert_int_equal(open_region("vm", 4, GVM_REGION_CREATE), 0);
	for (uint64_t p = 0; p < 8; p++)
		put_version(p, 1);
	hold = 1;
	for (uint64_t p = 0; p < 8; p++)
		fill(buf + p * PAGE, p, 2);
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_put(region, 0, 8, buf, &r.op), 0);
	UNTIL(lines[0].len >= sizeof buf);
	half = lines[0].len / 2;
	send_all(lines[0].node, lines[0].held, half);
	cut(1);
	UNTIL(r.done);
	assert_int_equal(r.status, 0);
	for (uint64_t p = 0; p < 8; p++)
		put_version(p, 3);
	send_all(lines[0].node, lines[0].held + half, lines[0].len - half);
	for (uint64_t p = 0; p < 8; p++)
		expect_for_a_while(p, 3);
}

/* The node ends a connection when its client has come back on another one, and nobody else's. */
static void the_old_connection_is_ended(void **state)
{
	struct pollfd p;
	uint8_t byte;

	(void)state;
	assert_int_equal(open_region("vm", 4, GVM_REGION_CREATE), 0);
	hold = 1;
	cut(1);
	put_version(5, 3);
	p = (struct pollfd){ lines[0].node, POLLIN, 0 };
	assert_int_equal(poll(&p, 1, 5000), 1);
	assert_true(recv(lines[0].node, &byte, 1, 0) <= 0);
	expect_version(5, 3);
	assert_int_equal(line_count, 2);
}

static int prepare_all(void)
{
	char self[4000];
	ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
	int fd;

	if (len < 0 || !mkdtemp(folder))
		return -1;
	self[len] = 0;
	snprintf(program, sizeof program, "%s/gvm-memsrv", dirname(self));
	snprintf(key_file, sizeof key_file, "%s/key", folder);
	fd = open(key_file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, "0123456789abcdef0123456789abcdef", 32) != 32)
		return -1;
	close(fd);
	return access(program, X_OK);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_late_put_does_not_land),
		T(a_late_discard_does_not_land),
		T(half_a_put_does_not_land),
		T(the_old_connection_is_ended),
	};
	int rc;

	if (prepare_all()) {
		fprintf(stderr, "%s: %s\n", program, strerror(errno));
		return 1;
	}
	if (!getenv("GVM_LOG"))
		gvm_log_set_level(GVM_LOG_ERROR);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(key_file);
	rmdir(folder);
	return rc;
}
