/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Stands in for rma.c and core, for test_verbs: nodes with a fabric each, connections that count
 * what comes, a client and a server in one thread.
 */
#ifndef GVM_TESTS_VERBS_RIG_H
#define GVM_TESTS_VERBS_RIG_H

#include "providers/verbs.h"
#include "fake_key.h"

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

#define MIB     (1u << 20)
#define SKIPPED 77

static char here[64]; /* the address that is listened at */

/* ---- nodes --------------------------------------------------------------------------------- */

struct gvm_host {
	struct gvm_rma *rma;
	struct gvm_listener listener;
	unsigned port;
	int epfd, wake_fd;
	int refuse;   /* gvm_rma_accept() says no */
	int shut;     /* end it in accepted() */
	int unproven; /* accepted connections are not allowed anything */
	unsigned accepted, unaccepted, broken;
	struct gvm_rma_ep *last; /* that was accepted */
	const char *key;         /* NULL: none */
	struct gvm_net_stats stats;
};

/* What rma.c would know of a connection. */
struct gvm_rma_conn {
	struct gvm_rma_ep *ep; /* NULL: gone */
	struct gvm_rma_ep *memory;
	int connected; /* 1, or why not */
	int broken;    /* why */
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
	struct job *next; /* of cells */
};

static struct gvm_host server, client, other;
static struct gvm_rma_conn *conns;
static struct job *cells;

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

static uint64_t stopped_at; /* 0: the workers' clock goes */

static uint64_t host_now(struct gvm_host *host)
{
	return stopped_at ? stopped_at : gvm_now();
}

static int host_has_key(struct gvm_host *host)
{
	return host->key != NULL;
}

static int host_prove(struct gvm_host *host, const void *text, size_t len, uint8_t *mac)
{
	assert_true(len <= GVM_PROOF_TEXT_MAX);
	key_mac(host->key, text, len, mac);
	return 0;
}

static struct gvm_net_stats *host_stats(struct gvm_host *host)
{
	return &host->stats;
}

static const struct gvm_host_ops up = { .watch = host_watch,
					.unwatch = host_unwatch,
					.wake = host_wake,
					.now = host_now,
					.has_key = host_has_key,
					.prove = host_prove,
					.stats = host_stats };

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

#ifndef SETTLE_MS
#define SETTLE_MS 5 /* in which a device may say something more */
#endif

static inline void settle(void)
{
	for (int quiet = 0; quiet < 5;)
		quiet = turn_all(SETTLE_MS) ? 0 : quiet + 1;
}

/* ---- what the fabric says ------------------------------------------------------------------ */

static struct gvm_rma_conn *conn_new(struct gvm_rma *rma)
{
	struct gvm_rma_conn *c = calloc(1, sizeof(*c));

	c->ep = c->memory = calloc(1, verbs_fabric.ep_size);
	c->ep->rma = rma;
	c->ep->conn = c;
	c->next = conns;
	conns = c;
	return c;
}

/* Its memory stays, as rma.c's does for the rest of the poll: here until the end. */
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
	if (!host->unproven) {
		verbs_fabric.allow(ep);
		assert_int_equal(verbs_fabric.receives(ep, GVM_RMA_RECVS), 0);
	}
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
	if (status) {
		end(ep->conn, 0);
		return;
	}
	verbs_fabric.allow(ep);
	assert_int_equal(verbs_fabric.receives(ep, GVM_RMA_RECVS), 0);
}

static const struct gvm_rma_reg *cell_reg;

static void send_cell_with(struct gvm_rma_conn *c, const uint8_t *bytes, uint32_t len,
			   const struct gvm_rma_reg *reg)
{
	struct job *job = calloc(1, sizeof(*job));

	job->next = cells;
	cells = job;
	job->work.ep = c->ep;
	job->work.kind = GVM_RMA_SEND;
	job->work.buf = (uint8_t *)(uintptr_t)reg->base;
	memcpy(job->work.buf, bytes, len);
	job->work.len = len;
	job->work.reg = reg;
	assert_int_equal(verbs_fabric.post(c->ep, &job->work), 0);
	c->sent++;
	/* the one buffer is free again only when the provider has its copy */
	verbs_fabric.ring(c->ep->rma);
}

static inline void send_cell(struct gvm_rma_conn *c, const uint8_t *bytes, uint32_t len)
{
	send_cell_with(c, bytes, len, cell_reg);
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
	struct job *job;

	verbs_fabric.dereg(client.rma, &local);
	fabric_close(&other);
	fabric_close(&client);
	fabric_close(&server);
	while ((c = conns)) {
		conns = c->next;
		free(c->memory);
		free(c);
	}
	while ((job = cells)) {
		cells = job->next;
		free(job);
	}
	free(local_at);
	free(remote_at);
	cell_reg = NULL;
	stopped_at = 0;
	return 0;
}

/* What is registered: the client's one buffer. */
void gvm_rma_lost(struct gvm_rma *rma)
{
	if (rma == client.rma)
		verbs_fabric.dereg(rma, &local);
}

int gvm_rma_back(struct gvm_rma *rma)
{
	return rma == client.rma ? verbs_fabric.reg(rma, NULL, local_at, 2 * MIB, 0, &local) : 0;
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

static inline struct gvm_rma_conn *dialled(void)
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

static inline int do_job(struct gvm_rma_conn *c, enum gvm_rma_kind kind, size_t at,
			 size_t remote_off, uint32_t len)
{
	struct job job;

	assert_int_equal(post(c, &job, kind, at, remote_off, len), 0);
	until(job.done || c->broken);
	return job.done ? job.status : c->broken;
}

static inline void offer(struct gvm_rma_conn *c, unsigned access)
{
	assert_int_equal(
	    verbs_fabric.reg(server.rma, server.last, remote_at, 2 * MIB, access, &remote), 0);
}

/* For what is asked for on purpose. */
static inline void drop_line(enum gvm_log_level level, const char *line)
{
}

static inline void fill(uint8_t *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(seed = seed * 1103515245u + 12345u, seed >> 16);
}

#define RW (GVM_ACCESS_FETCH | GVM_ACCESS_PUT)

#endif
