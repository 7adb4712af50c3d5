/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The conformance suite (conformance.h): the other side is killed, stopped or says nothing. */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conformance.h"

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

	server_open(&server);
	node_listen(&server, here, port);
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

/* libfabric's shm (1.17) has spin locks in the memory that processes share. One that is killed
 * while it has such a lock leaves it locked, and who sends to it spins in fi_send() for good. So a
 * busy process cannot be killed there and its peers go on (docs/rdma.md). */
static int locks_die_with_processes(void)
{
	if (strcmp(transport, "ofi:shm") != 0)
		return 0;
	print_message(
	    "not over ofi:shm: its locks are not given up by processes that are killed\n");
	return 1;
}

static void a_killed_server(void **state)
{
	enum { N = 24 };
	struct job jobs[N], again;
	struct gvm_peer *peer;
	struct child c, d;
	uint64_t first;
	uint8_t *buf;

	if (one_process() || locks_die_with_processes())
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
		server_open(&server);
		node_listen(&server, here, 0);
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

#define FORK(test) cmocka_unit_test_setup_teardown(test, setup_none, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		FORK(a_killed_server),
		FORK(a_stopped_server),
		FORK(a_stopped_server_is_noticed),
		FORK(an_idle_server_is_killed),
	};

	return cmocka_run_group_tests_name(choose_transport(argc, argv), tests, NULL, NULL);
}
