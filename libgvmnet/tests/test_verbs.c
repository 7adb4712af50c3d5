/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The verbs fabric by itself: cells, reads and writes, ends in each state, what is refused. This
 * program stands in for rma.c: it keeps no credits but counts cells, so that no more than
 * GVM_RMA_CELLS are under way. Both sides in one thread, over an RDMA device of this machine, which
 * reaches itself; without one there is nothing to show (exit status 77).
 *
 * GVM_CONFORMANCE_HOST: the address of its interface, where the device does not say it (iWARP).
 */
#include "providers/verbs.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

_Static_assert(VERBS_SENDS == 288 && VERBS_COPIES * GVM_RMA_CELL == 256 << 10 && VERBS_BLOCKS == 32,
	       "docs/rdma.md, Pinned memory, says so; test_docs reckons with it");

#define MIB     (1u << 20)
#define SKIPPED 77

static char here[64]; /* the address that is listened at */

/* ---- nodes --------------------------------------------------------------------------------- */

struct gvm_host {
	struct gvm_rma *rma;
	struct gvm_listener listener;
	unsigned port;
	int epfd, wake_fd;
	int refuse; /* gvm_rma_accept() says no */
	int shut;   /* end it in accepted() */
	unsigned accepted, unaccepted, broken;
	struct gvm_rma_ep *last; /* that was accepted */
};

/* What rma.c would know of a connection. */
struct gvm_rma_conn {
	struct gvm_rma_ep *ep; /* NULL: gone */
	int connected;         /* 1, or why not */
	int broken;            /* why */
	unsigned cells, sent, acked;
	int echo;
	uint8_t bytes[64][GVM_RMA_CELL];
	uint32_t len[64];
	struct gvm_rma_conn *next;
};

/* A work, and what became of it. */
struct job {
	struct gvm_rma_work work; /* first */
	int done, status;
};

static struct gvm_host server, client, other;
static struct gvm_rma_conn *conns;

static int host_watch(struct gvm_host *host, struct gvm_watch *watch, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = watch };

	return epoll_ctl(host->epfd, EPOLL_CTL_ADD, watch->fd, &e) ? -errno : 0;
}

static void host_unwatch(struct gvm_host *host, struct gvm_watch *watch)
{
	epoll_ctl(host->epfd, EPOLL_CTL_DEL, watch->fd, NULL);
}

static void host_wake(struct gvm_host *host)
{
	const uint64_t one = 1;

	assert_int_equal(write(host->wake_fd, &one, sizeof(one)), sizeof(one));
}

static const struct gvm_host_ops up = { .watch = host_watch,
					.unwatch = host_unwatch,
					.wake = host_wake };

static int fabric_open(struct gvm_host *host, const char *args)
{
	struct epoll_event e = { .events = EPOLLIN };

	memset(host, 0, sizeof(*host));
	host->epfd = epoll_create1(EPOLL_CLOEXEC);
	host->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	epoll_ctl(host->epfd, EPOLL_CTL_ADD, host->wake_fd, &e);
	host->rma = calloc(1, verbs_fabric.prov_size);
	host->rma->host = host;
	host->rma->up = &up;
	host->rma->fabric = &verbs_fabric;
	return verbs_fabric.open(host->rma, args);
}

static void fabric_listen(struct gvm_host *host, unsigned port)
{
	host->listener.rma = host->rma;
	assert_int_equal(verbs_fabric.listen(host->rma, &host->listener, here, port, &host->port),
			 0);
}

static void forget(struct gvm_host *host)
{
	close(host->epfd);
	close(host->wake_fd);
	free(host->rma);
	host->rma = NULL;
}

static void fabric_unlisten(struct gvm_host *host)
{
	if (host->port)
		verbs_fabric.unlisten(host->rma, &host->listener);
	host->port = 0;
}

static void fabric_close(struct gvm_host *host)
{
	if (!host->rma)
		return;
	fabric_unlisten(host);
	for (struct gvm_rma_conn *c = conns; c; c = c->next)
		if (c->ep && c->ep->rma == host->rma) {
			verbs_fabric.disconnect(c->ep, 0);
			c->ep = NULL;
		}
	verbs_fabric.stop(host->rma);
	verbs_fabric.close(host->rma);
	forget(host);
}

/* As a worker's round, with a sleep only when the device has agreed to end it. */
static int turn(struct gvm_host *host, int timeout_ms)
{
	struct epoll_event e[8];
	uint64_t count;
	int n = verbs_fabric.poll(host->rma), got;

	verbs_fabric.ring(host->rma);
	if (n || verbs_fabric.arm(host->rma))
		timeout_ms = 0;
	got = epoll_wait(host->epfd, e, 8, timeout_ms);
	for (int i = 0; i < got; i++) {
		struct gvm_watch *watch = e[i].data.ptr;

		if (watch)
			watch->ready(watch, e[i].events);
		else if (read(host->wake_fd, &count, sizeof(count)) < 0)
			continue;
	}
	return n + (got > 0 ? got : 0);
}

static int turn_all(int timeout_ms)
{
	int n = 0;

	if (server.rma)
		n += turn(&server, 0);
	if (other.rma)
		n += turn(&other, 0);
	if (client.rma)
		n += turn(&client, n ? 0 : timeout_ms);
	return n;
}

#define until_s(cond, s)                                                                           \
	do {                                                                                       \
		uint64_t end_ = gvm_now() + (s)*1000000000ull;                                     \
		while (!(cond)) {                                                                  \
			turn_all(1);                                                               \
			assert_true(gvm_now() < end_);                                             \
		}                                                                                  \
	} while (0)
#define until(cond) until_s(cond, 20)

static void settle(void)
{
	for (int quiet = 0; quiet < 5;)
		quiet = turn_all(5) ? 0 : quiet + 1;
}

/* ---- what the fabric says ------------------------------------------------------------------ */

static struct gvm_rma_conn *conn_new(struct gvm_rma *rma)
{
	struct gvm_rma_conn *c = calloc(1, sizeof(*c));

	c->ep = calloc(1, verbs_fabric.ep_size);
	c->ep->rma = rma;
	c->ep->conn = c;
	c->next = conns;
	conns = c;
	return c;
}

/* Its memory stays, as rma.c's does for the rest of the poll: here it is leaked until the end. */
static void end(struct gvm_rma_conn *c, int orderly)
{
	if (!c->ep)
		return;
	verbs_fabric.disconnect(c->ep, orderly);
	c->ep = NULL;
}

struct gvm_rma_ep *gvm_rma_accept(struct gvm_rma *rma)
{
	return rma->host->refuse ? NULL : conn_new(rma)->ep;
}

void gvm_rma_accepted(struct gvm_listener *listener, struct gvm_rma_ep *ep)
{
	struct gvm_host *host = ep->rma->host;

	assert_ptr_equal(listener, &host->listener);
	host->accepted++;
	host->last = ep;
	ep->conn->connected = 1;
	ep->conn->echo = 1;
	if (host->shut)
		end(ep->conn, 0);
}

void gvm_rma_unaccept(struct gvm_rma_ep *ep)
{
	ep->rma->host->unaccepted++;
	end(ep->conn, 0);
}

void gvm_rma_connected(struct gvm_rma_ep *ep, int status)
{
	assert_int_equal(ep->conn->connected, 0);
	ep->conn->connected = status ? status : 1;
	if (status)
		end(ep->conn, 0);
}

static const struct gvm_rma_reg *cell_reg;

static void send_cell(struct gvm_rma_conn *c, const uint8_t *bytes, uint32_t len)
{
	struct job *job = calloc(1, sizeof(*job));

	job->work.ep = c->ep;
	job->work.kind = GVM_RMA_SEND;
	job->work.buf = (uint8_t *)(uintptr_t)cell_reg->base;
	memcpy(job->work.buf, bytes, len);
	job->work.len = len;
	job->work.reg = cell_reg;
	assert_int_equal(verbs_fabric.post(c->ep, &job->work), 0);
	c->sent++;
	/* the one buffer is free again only when the provider has its copy */
	verbs_fabric.ring(c->ep->rma);
}

void gvm_rma_cell(struct gvm_rma_ep *ep, const uint8_t *cell, uint32_t len)
{
	struct gvm_rma_conn *c = ep->conn;
	unsigned i = c->cells++ % 64;

	memcpy(c->bytes[i], cell, len);
	c->len[i] = len;
	if (c->echo && ep->rma == server.rma && cell_reg)
		send_cell(c, cell, len);
}

void gvm_rma_done(struct gvm_rma_work *work, int status)
{
	struct job *job = (struct job *)work;

	assert_int_equal(job->done, 0);
	job->done = 1;
	job->status = status;
	if (work->kind == GVM_RMA_SEND)
		free(job);
}

void gvm_rma_broken(struct gvm_rma_ep *ep, int why, const char *reason)
{
	struct gvm_rma_conn *c = ep->conn;

	assert_true(why < 0 && reason && *reason);
	if (!c->ep)
		return;
	ep->rma->host->broken++;
	c->broken = why;
	end(c, 0);
}

/* ---- a client, a server, connections ------------------------------------------------------- */

static struct gvm_rma_reg local;
static uint8_t *local_at, *remote_at;
static struct gvm_rma_reg remote;

static int setup(void **state)
{
	assert_int_equal(fabric_open(&server, ""), 0);
	assert_int_equal(fabric_open(&client, ""), 0);
	fabric_listen(&server, 0);
	local_at = aligned_alloc(4096, 2 * MIB);
	remote_at = aligned_alloc(4096, 2 * MIB);
	memset(local_at, 0, 2 * MIB);
	memset(remote_at, 0, 2 * MIB);
	assert_int_equal(verbs_fabric.reg(client.rma, NULL, local_at, 2 * MIB, 0, &local), 0);
	return 0;
}

static int teardown(void **state)
{
	struct gvm_rma_conn *c;

	verbs_fabric.dereg(client.rma, &local);
	fabric_close(&other);
	fabric_close(&client);
	fabric_close(&server);
	while ((c = conns)) {
		conns = c->next;
		free(c);
	}
	free(local_at);
	free(remote_at);
	cell_reg = NULL;
	return 0;
}

static struct gvm_rma_conn *dial_at(const char *host, unsigned port)
{
	struct gvm_rma_conn *c = conn_new(client.rma);
	int err = verbs_fabric.connect(c->ep, host, port);

	if (err) {
		c->connected = err;
		c->ep = NULL;
	}
	return c;
}

static struct gvm_rma_conn *dialled(void)
{
	unsigned before = server.accepted + other.accepted;
	struct gvm_rma_conn *c = dial_at(here, server.port);

	until(c->connected);
	assert_int_equal(c->connected, 1);
	until(server.accepted + other.accepted > before);
	return c;
}

static int post(struct gvm_rma_conn *c, struct job *job, enum gvm_rma_kind kind, size_t at,
		size_t remote_off, uint32_t len)
{
	memset(job, 0, sizeof(*job));
	job->work.ep = c->ep;
	job->work.kind = (uint8_t)kind;
	job->work.buf = local_at + at;
	job->work.reg = &local;
	job->work.len = len;
	job->work.remote_key = remote.key;
	job->work.remote_addr = remote.base + remote_off;
	return verbs_fabric.post(c->ep, &job->work);
}

static int do_job(struct gvm_rma_conn *c, enum gvm_rma_kind kind, size_t at, size_t remote_off,
		  uint32_t len)
{
	struct job job;

	assert_int_equal(post(c, &job, kind, at, remote_off, len), 0);
	until(job.done || c->broken);
	return job.done ? job.status : c->broken;
}

static void offer(struct gvm_rma_conn *c, unsigned access)
{
	assert_int_equal(
	    verbs_fabric.reg(server.rma, server.last, remote_at, 2 * MIB, access, &remote), 0);
}

/* For what is asked for on purpose. */
static void drop_line(enum gvm_log_level level, const char *line)
{
}

static void fill(uint8_t *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(seed = seed * 1103515245u + 12345u, seed >> 16);
}

#define RW (GVM_ACCESS_FETCH | GVM_ACCESS_PUT)

/* ---- tests --------------------------------------------------------------------------------- */

static void cells_come_back_in_order(void **state)
{
	static uint8_t bytes[GVM_RMA_CELL];
	struct gvm_rma_conn *c = dialled();
	unsigned sent = 0, seen = 0;

	cell_reg = &local;
	/* both sides' buffers are the client's here: the server copies or inlines what it sends */
	while (seen < 3000) {
		for (; sent < 3000 && sent - c->cells < GVM_RMA_CELLS; sent++) {
			uint32_t len = GVM_RMA_CELL_HDR + sent * 37 % (GVM_RMA_CELL - 15);

			fill(bytes, len, sent);
			send_cell(c, bytes, len);
		}
		until(c->cells > seen);
		for (; seen < c->cells; seen++) {
			uint32_t len = GVM_RMA_CELL_HDR + seen * 37 % (GVM_RMA_CELL - 15);

			fill(bytes, len, seen);
			assert_int_equal(c->len[seen % 64], len);
			assert_memory_equal(c->bytes[seen % 64], bytes, len);
		}
	}
	assert_int_equal(c->broken, 0);
}

static void reads_and_writes(void **state)
{
	static const uint32_t sizes[] = {
		1, 47, 219, 220, 221, 1024, 4096, 4097, 65536, MIB - 4096
	};
	struct gvm_rma_conn *c = dialled();

	offer(c, RW);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		fill(local_at, MIB, i);
		assert_int_equal(do_job(c, GVM_RMA_WRITE, 3, 5 + i, sizes[i]), 0);
		assert_memory_equal(remote_at + 5 + i, local_at + 3, sizes[i]);
		memset(local_at + MIB, 0xEE, MIB);
		assert_int_equal(do_job(c, GVM_RMA_READ, MIB - 1 - sizes[i] + MIB, 5 + i, sizes[i]),
				 0);
		assert_memory_equal(local_at + MIB - 1 - sizes[i] + MIB, local_at + 3, sizes[i]);
		assert_int_equal(local_at[2 * MIB - 1], 0xEE);
	}
	verbs_fabric.dereg(server.rma, &remote);
}

/* N reads or writes as fast as the queue takes them; returns how often it was full. */
static unsigned run_jobs(struct gvm_rma_conn *c, enum gvm_rma_kind kind, struct job *jobs,
			 unsigned n)
{
	unsigned posted = 0, full = 0, done = 0;

	while (done < n) {
		for (; posted < n; posted++) {
			size_t at = posted % 1000 * 1024;
			int err = post(c, &jobs[posted], kind, at, at, 1024);

			if (!err)
				continue;
			assert_int_equal(err, -EAGAIN);
			full++;
			break;
		}
		until(jobs[done].done);
		while (done < posted && jobs[done].done)
			assert_int_equal(jobs[done++].status, 0);
	}
	return full;
}

static void a_full_queue_says_so(void **state)
{
	struct job *jobs = calloc(1000, sizeof(*jobs));
	struct gvm_rma_conn *c = dialled();

	offer(c, RW);
	fill(remote_at, 2 * MIB, 3);
	assert_true(run_jobs(c, GVM_RMA_READ, jobs, 1000) > 0);
	assert_memory_equal(local_at, remote_at, 1000 * 1024);
	fill(local_at, 2 * MIB, 4);
	assert_true(run_jobs(c, GVM_RMA_WRITE, jobs, 1000) > 0);
	assert_memory_equal(local_at, remote_at, 1000 * 1024);
	verbs_fabric.dereg(server.rma, &remote);
	free(jobs);
}

/* Requests are numbered in 16 bits. */
static void numbers_begin_anew(void **state)
{
	enum { N = 70000 };
	struct job *jobs = calloc(N, sizeof(*jobs));
	struct gvm_rma_conn *c = dialled();

	offer(c, RW);
	assert_true(run_jobs(c, GVM_RMA_READ, jobs, N) > 0);
	verbs_fabric.dereg(server.rma, &remote);
	free(jobs);
}

/* Writes whose proof waits at the other side behind the answers to reads. */
static void writes_behind_reads(void **state)
{
	enum { READS = 12, LEN = 65536 };
	struct gvm_rma_conn *c = dialled();
	struct job jobs[READS + 1];

	offer(c, RW);
	fill(remote_at, MIB, 5);
	for (unsigned round = 0; round < 20; round++) {
		fill(local_at + MIB, 4096, round);
		for (unsigned i = 0; i < READS; i++)
			assert_int_equal(post(c, &jobs[i], GVM_RMA_READ, i * LEN, i * LEN, LEN), 0);
		assert_int_equal(post(c, &jobs[READS], GVM_RMA_WRITE, MIB, MIB, 4096), 0);
		for (unsigned i = 0; i <= READS; i++) {
			until(jobs[i].done || c->broken);
			assert_int_equal(c->broken, 0);
			assert_int_equal(jobs[i].status, 0);
		}
		assert_memory_equal(local_at, remote_at, READS * LEN);
		assert_memory_equal(local_at + MIB, remote_at + MIB, 4096);
	}
	verbs_fabric.dereg(server.rma, &remote);
}

/* siw may have left what came first in its socket; the answer to a read wakes it up. */
static void a_silent_connection_is_nudged(void **state)
{
	struct gvm_rma_conn *c;
	struct verbs_conn *accepted;

	if (!verbs_of(server.rma)->siw)
		skip();
	c = dialled();
	accepted = verbs_ep_of(server.last)->conn;
	until_s(accepted->tail == 1, 5);
	assert_int_equal(accepted->silent, 0);
	assert_int_equal(c->broken, 0);
}

/* What is not offered is not reached, and the connection ends, on both sides, soon. */
static void refused_access(struct gvm_rma_conn *c, enum gvm_rma_kind kind)
{
	uint64_t begun = gvm_now();
	struct gvm_rma_conn *peer = server.last->conn;
	int status;

	memset(remote_at, 0x55, 4096);
	status = do_job(c, kind, 0, 0, 4096);
	assert_true(status < 0);
	until(c->broken && peer->broken);
	assert_true(gvm_now() - begun < 10000000000ull);
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(remote_at[i], 0x55);
}

static void a_wrong_key_ends_the_connection(void **state)
{
	struct gvm_rma_conn *c = dialled();

	offer(c, RW);
	remote.key ^= 0x5A00;
	refused_access(c, GVM_RMA_WRITE);
	c = dialled();
	refused_access(c, GVM_RMA_READ);
	verbs_fabric.dereg(server.rma, &remote);
}

static void withdrawn_memory_is_not_reached(void **state)
{
	struct gvm_rma_conn *c = dialled();

	offer(c, RW);
	assert_int_equal(do_job(c, GVM_RMA_WRITE, 0, 0, 4096), 0);
	verbs_fabric.dereg(server.rma, &remote);
	refused_access(c, GVM_RMA_WRITE);
	c = dialled();
	refused_access(c, GVM_RMA_READ);
}

static void access_is_what_was_offered(void **state)
{
	struct gvm_rma_conn *c = dialled();

	offer(c, GVM_ACCESS_FETCH);
	assert_int_equal(do_job(c, GVM_RMA_READ, 0, 0, 4096), 0);
	refused_access(c, GVM_RMA_WRITE);
	verbs_fabric.dereg(server.rma, &remote);
	c = dialled();
	offer(c, GVM_ACCESS_PUT);
	assert_int_equal(do_job(c, GVM_RMA_WRITE, 0, 0, 4096), 0);
	if (!verbs_of(client.rma)->iwarp)
		refused_access(c, GVM_RMA_READ);
	verbs_fabric.dereg(server.rma, &remote);
}

static enum verbs_state state_of(struct gvm_rma_conn *c)
{
	return verbs_ep_of(c->ep)->conn->state;
}

/* Whenever this side ends it: nothing is left, and the server goes on. */
static void ends_in_each_state(void **state)
{
	static const enum verbs_state states[] = { VERBS_ADDR, VERBS_ROUTE, VERBS_CONNECT,
						   VERBS_OPEN };
	struct gvm_rma_conn *c;

	for (unsigned i = 0; i < 2 * sizeof(states) / sizeof(states[0]); i++) {
		enum verbs_state want = states[i / 2];

		c = dial_at(here, server.port);
		until(!c->ep || state_of(c) >= want);
		assert_non_null(c->ep);
		if (state_of(c) == want)
			end(c, i & 1);
		until(!c->ep || c->connected);
		end(c, 0);
		assert_null(verbs_of(client.rma)->conns);
	}
	c = dial_at("no-such-host.invalid", server.port);
	assert_int_equal(state_of(c), VERBS_LOOKUP);
	end(c, 0);
	settle();
	until(!verbs_of(server.rma)->conns);
	assert_int_equal(verbs_of(server.rma)->half_open, 0);
	dialled();
}

static void ends_on_the_servers_side(void **state)
{
	struct gvm_rma_conn *c;

	server.shut = 1;
	c = dial_at(here, server.port);
	until(c->connected);
	if (c->connected == 1)
		until(c->broken);
	server.shut = 0;
	dialled();
	/* unlisten() while one is being accepted */
	c = dial_at(here, server.port);
	until(!c->ep || state_of(c) == VERBS_CONNECT);
	until(verbs_of(server.rma)->half_open || c->connected);
	fabric_unlisten(&server);
	until(c->connected);
	if (c->connected == 1)
		until(c->broken || server.accepted >= 3);
	assert_int_equal(verbs_of(server.rma)->half_open, 0);
}

static void last_words_arrive(void **state)
{
	static uint8_t bytes[GVM_RMA_CELL];
	struct gvm_rma_conn *c = dialled(), *peer = server.last->conn;

	cell_reg = &local;
	peer->echo = 0;
	for (unsigned i = 0; i < GVM_RMA_CELLS; i++) {
		fill(bytes, sizeof(bytes), i);
		send_cell(c, bytes, i & 1 ? 200 : GVM_RMA_CELL);
	}
	end(c, 1);
	until(peer->broken);
	assert_int_equal(peer->broken, -ECONNRESET);
	assert_int_equal(peer->cells, GVM_RMA_CELLS);
	for (unsigned i = 0; i < GVM_RMA_CELLS; i++) {
		fill(bytes, sizeof(bytes), i);
		assert_memory_equal(peer->bytes[i], bytes, 200);
	}
	until(!verbs_of(client.rma)->conns);
}

/* Also when the worker itself is closed at once. */
static void last_words_of_a_worker_arrive(void **state)
{
	uint8_t bytes[64] = { 7 };
	struct gvm_rma_conn *c = dialled(), *peer = server.last->conn;
	struct gvm_rma_reg reg = local;

	cell_reg = &local;
	peer->echo = 0;
	for (unsigned i = 0; i < 5; i++)
		send_cell(c, bytes, sizeof(bytes));
	end(c, 1);
	verbs_fabric.stop(client.rma);
	assert_null(verbs_of(client.rma)->conns);
	local = reg;
	until(peer->broken);
	assert_int_equal(peer->cells, 5);
}

/* disconnect() takes reads back: what the server would still send changes nothing here. */
static void reads_are_taken_back(void **state)
{
	enum { N = 64, LEN = 16384 };
	struct job jobs[N];

	for (int round = 0; round < 10; round++) {
		struct gvm_rma_conn *c = dialled();

		offer(c, RW);
		memset(remote_at, 0xAA, 2 * MIB);
		for (unsigned i = 0; i < N; i++)
			assert_int_equal(post(c, &jobs[i], GVM_RMA_READ, i * LEN, i * LEN, LEN), 0);
		verbs_fabric.ring(client.rma);
		for (int i = 0; i < round; i++)
			turn_all(0);
		end(c, 0);
		memset(local_at, 0x11, 2 * MIB);
		settle();
		for (size_t i = 0; i < N * LEN; i++)
			assert_int_equal(local_at[i], 0x11);
		verbs_fabric.dereg(server.rma, &remote);
	}
}

static void nobody_there(void **state)
{
	unsigned port = server.port;
	struct gvm_rma_conn *c;

	fabric_unlisten(&server);
	c = dial_at(here, port);
	until(c->connected);
	assert_int_equal(c->connected, -ECONNREFUSED);
	c = dial_at("no-such-host.invalid", port);
	until(c->connected);
	assert_int_equal(c->connected, -EHOSTUNREACH);
	assert_null(verbs_of(client.rma)->conns);
}

static void the_server_says_no(void **state)
{
	struct gvm_rma_conn *c;

	server.refuse = 1;
	c = dial_at(here, server.port);
	until(c->connected);
	assert_int_equal(c->connected, -ECONNREFUSED);
	server.refuse = 0;
	dialled();
}

/* Who says nothing, or something else, as it connects. */
static void strangers_are_refused(void **state)
{
	struct verbs_hello hello;
	struct rdma_cm_id *id;
	struct ibv_pd *pd;
	struct rdma_conn_param param = { .private_data = &hello,
					 .private_data_len = sizeof(hello) };
	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_RC, .cap = { 1, 1, 1, 1, 0 } };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)server.port) };

	if (inet_pton(AF_INET, here, &to.sin_addr) != 1)
		skip();
	for (int i = 0; i < 2; i++) {
		struct rdma_event_channel *events = rdma_create_event_channel();
		struct rdma_cm_event *event;

		assert_int_equal(rdma_create_id(events, &id, NULL, RDMA_PS_TCP), 0);
		assert_int_equal(rdma_resolve_addr(id, NULL, (struct sockaddr *)&to, 2000), 0);
		assert_int_equal(rdma_get_cm_event(events, &event), 0);
		assert_int_equal(event->event, RDMA_CM_EVENT_ADDR_RESOLVED);
		rdma_ack_cm_event(event);
		assert_int_equal(rdma_resolve_route(id, 2000), 0);
		assert_int_equal(rdma_get_cm_event(events, &event), 0);
		assert_int_equal(event->event, RDMA_CM_EVENT_ROUTE_RESOLVED);
		rdma_ack_cm_event(event);
		pd = ibv_alloc_pd(id->verbs);
		init.send_cq = init.recv_cq = ibv_create_cq(id->verbs, 4, NULL, NULL, 0);
		assert_int_equal(rdma_create_qp(id, pd, &init), 0);
		verbs_hello_make(verbs_of(client.rma), &hello);
		hello.version += 1;
		assert_int_equal(rdma_connect(id, i ? &param : NULL), 0);
		gvm_log_set(drop_line);
		settle();
		gvm_log_set(NULL);
		assert_int_equal(rdma_get_cm_event(events, &event), 0);
		assert_int_equal(event->event, RDMA_CM_EVENT_REJECTED);
		rdma_ack_cm_event(event);
		rdma_destroy_qp(id);
		ibv_destroy_cq(init.send_cq);
		ibv_dealloc_pd(pd);
		rdma_destroy_id(id);
		rdma_destroy_event_channel(events);
	}
	assert_int_equal(server.accepted, 0);
}

/* One port, two workers: they get connections in turn; when the first one leaves, the other goes
 * on. */
static void workers_share_a_port(void **state)
{
	struct gvm_rma_conn *c[8];
	unsigned port = server.port;

	assert_int_equal(fabric_open(&other, ""), 0);
	fabric_listen(&other, port);
	for (unsigned i = 0; i < 8; i++)
		c[i] = dialled();
	assert_int_equal(server.accepted, 4);
	assert_int_equal(other.accepted, 4);
	fabric_unlisten(&server);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(c[i]->broken, 0);
	server.port = port; /* for dialled() */
	dialled();
	assert_int_equal(server.accepted, 4);
	assert_int_equal(other.accepted, 5);
	server.port = 0;
	/* handed over and not looked at yet */
	fabric_unlisten(&other);
	fabric_listen(&server, port);
	fabric_listen(&other, port);
	c[0] = dial_at(here, port);
	c[1] = dial_at(here, port);
	for (uint64_t end_ = gvm_now() + 20000000000ull; !verbs_of(other.rma)->inbox;) {
		turn(&server, 0);
		turn(&client, 1);
		assert_true(gvm_now() < end_);
	}
	fabric_unlisten(&other);
	until(c[0]->connected && c[1]->connected);
	assert_int_equal(c[0]->connected + c[1]->connected, 1 - ECONNREFUSED);
}

static void many_connections(void **state)
{
	enum { N = 100 };
	static struct gvm_rma_conn *c[N];
	uint8_t bytes[64] = { 9 };

	cell_reg = &local;
	for (unsigned i = 0; i < N; i++)
		c[i] = dial_at(here, server.port);
	for (unsigned i = 0; i < N; i++)
		until(c[i]->connected == 1);
	assert_non_null(verbs_of(client.rma)->lanes->next);
	for (unsigned i = 0; i < N; i++)
		send_cell(c[i], bytes, sizeof(bytes));
	for (unsigned i = 0; i < N; i++)
		until(c[i]->cells == 1);
	for (unsigned i = 0; i < N; i++)
		end(c[i], 1);
	until(!verbs_of(server.rma)->conns && !verbs_of(client.rma)->conns);
	assert_int_equal(server.broken, N);
	assert_int_equal(verbs_of(client.rma)->copy_count, VERBS_COPIES);
	assert_int_equal(verbs_of(server.rma)->copy_count, VERBS_COPIES);
}

static void arguments(void **state)
{
	static const char *const illegal[] = { ":1",      "rxe0:",    "rxe0:0",    "rxe0:x",
					       "rxe0:1:", "rxe0:1:x", "rxe0:1:2:3" };
	char text[128], device[64];

	snprintf(device, sizeof(device), "%s", verbs_of(client.rma)->device);
	gvm_log_set(drop_line);
	for (unsigned i = 0; i < sizeof(illegal) / sizeof(illegal[0]); i++) {
		assert_int_equal(fabric_open(&other, illegal[i]), -EINVAL);
		forget(&other);
	}
	assert_int_equal(fabric_open(&other, "pigeon0"), -ENODEV);
	forget(&other);
	snprintf(text, sizeof(text), "%s:200", device);
	assert_int_equal(fabric_open(&other, text), -ENODEV);
	forget(&other);
	snprintf(text, sizeof(text), "%s:1:60000", device);
	assert_int_equal(fabric_open(&other, text), -ENODEV);
	forget(&other);
	gvm_log_set(NULL);
	snprintf(text, sizeof(text), "%s:1:0", device);
	assert_int_equal(fabric_open(&other, text), 0);
	assert_int_equal(verbs_of(other.rma)->gid, 0);
}

static void listening_elsewhere(void **state)
{
	struct gvm_rma_conn *c;
	unsigned port;

	assert_int_equal(fabric_open(&other, ""), 0);
	other.listener.rma = other.rma;
	gvm_log_set(drop_line);
	assert_int_equal(verbs_fabric.listen(other.rma, &other.listener, "192.0.2.1", 0, &port),
			 -EADDRNOTAVAIL);
	gvm_log_set(NULL);
	assert_int_equal(verbs_fabric.listen(other.rma, &other.listener, "*", 0, &port), 0);
	assert_in_range(port, 1, 65535);
	other.port = port;
	c = dial_at(here, port);
	until(other.accepted == 1 && c->connected == 1);
}

/* ---- the device ---------------------------------------------------------------------------- */

/* An IPv4 address of the device, as RoCE has one in its table. */
static int find_address(void)
{
	const char *env = getenv("GVM_CONFORMANCE_HOST");
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_gid_entry gids[64];
	ssize_t n = 0;

	if (env)
		snprintf(here, sizeof(here), "%s", env);
	for (int d = 0; list && list[d] && !*here; d++) {
		struct ibv_context *context = ibv_open_device(list[d]);

		n = context ? ibv_query_gid_table(context, gids, 64, 0) : 0;
		for (ssize_t i = 0; i < n && !*here; i++)
			if (IN6_IS_ADDR_V4MAPPED((struct in6_addr *)gids[i].gid.raw))
				inet_ntop(AF_INET, gids[i].gid.raw + 12, here, sizeof(here));
		if (context)
			ibv_close_device(context);
	}
	if (list)
		ibv_free_device_list(list);
	return *here != 0;
}

#define PAIR(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		PAIR(cells_come_back_in_order),
		PAIR(reads_and_writes),
		PAIR(a_full_queue_says_so),
		PAIR(writes_behind_reads),
		PAIR(a_silent_connection_is_nudged),
		PAIR(numbers_begin_anew),
		PAIR(a_wrong_key_ends_the_connection),
		PAIR(withdrawn_memory_is_not_reached),
		PAIR(access_is_what_was_offered),
		PAIR(ends_in_each_state),
		PAIR(ends_on_the_servers_side),
		PAIR(last_words_arrive),
		PAIR(last_words_of_a_worker_arrive),
		PAIR(reads_are_taken_back),
		PAIR(nobody_there),
		PAIR(the_server_says_no),
		PAIR(strangers_are_refused),
		PAIR(workers_share_a_port),
		PAIR(many_connections),
		PAIR(arguments),
		PAIR(listening_elsewhere),
	};
	const char *why = "it has no IPv4 address; name one: GVM_CONFORMANCE_HOST";

	if (verbs_probe(&why) || !find_address()) {
		printf("skipped: %s\n", why);
		return SKIPPED;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
