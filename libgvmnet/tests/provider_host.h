/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a provider test needs of core, and no more: a host with an epoll set, offered memory by key
 * and a record of what the provider has told. Nodes of one thread share an epoll set, so that one
 * loop drives both sides of a connection and every test is single-threaded unless it says
 * otherwise.
 */
#ifndef GVM_TESTS_PROVIDER_HOST_H
#define GVM_TESTS_PROVIDER_HOST_H

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "providers/provider.h"
#include "fake_key.h"

struct gvm_mem {
	struct gvm_mem *next;
	uint64_t key, owner;
	unsigned access;
	uint8_t *base;
	size_t len;
	int refs, withdrawn;
	struct gvm_mem_user *users;
};

/* One side of a connection, as the test sees it. */
struct conn {
	struct conn *next;
	struct gvm_ep *ep; /* NULL: gone */
	struct gvm_host *node;
	int connected; /* 1: yes; negative: why not */
	int closed, closed_calls;
	const char *reason;
	unsigned messages, writable, completed;
	uint64_t next_arg; /* of the next message, when ordered */
	int ordered;
	int (*on_message)(struct conn *conn, const struct gvm_hdr *hdr, const void *payload);
	void (*on_connected)(struct conn *conn);
};

struct gvm_host {
	const struct gvm_provider_ops *ops;
	struct gvm_prov *prov;
	struct gvm_listener *listener;
	unsigned port;
	int epfd;
	struct gvm_mem *mems;
	uint64_t clock; /* of this round; 0: not read */
	struct gvm_net_stats stats;
	struct conn *conns; /* accepted ones */
	unsigned accepted;
	const char *key; /* the cluster's; NULL: none */
	unsigned proven, refused;
	int allow;         /* accepted ones are past the handshake at once */
	int shut_accepted; /* shut in accepted() */
	int shut_connected;
	unsigned watches;
};

/* Operation whose end is recorded. */
struct top {
	struct gvm_op op;
	int calls, status;
};

/* NULL: the time itself, not that of somebody's round. */
static inline uint64_t host_now(struct gvm_host *host)
{
	struct timespec ts;
	uint64_t now;

	if (host && host->clock)
		return host->clock;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	if (host)
		host->clock = now;
	return now;
}

static inline const uint64_t *host_clock(struct gvm_host *host)
{
	return &host->clock;
}

static inline void host_accepted(struct gvm_host *host, struct gvm_listener *listener,
				 struct gvm_ep *ep)
{
	struct conn *c = calloc(1, sizeof(*c));

	assert(c && listener == host->listener);
	host->accepted++;
	c->ep = ep;
	c->node = host;
	c->connected = 1;
	c->next = host->conns;
	host->conns = c;
	ep->user = c;
	if (host->allow) {
		ep->owner = 7;
		host->ops->allow(ep);
	}
	if (host->shut_accepted) {
		host->ops->shut(ep, -ECANCELED);
		c->ep = NULL;
	}
}

static inline void host_connected(struct gvm_ep *ep, int status)
{
	struct conn *c = ep->user;

	assert(!c->connected);
	c->connected = status ? status : 1;
	c->reason = ep->why;
	if (!status && c->node->shut_connected)
		c->node->ops->shut(ep, -ECANCELED);
	if (status || c->node->shut_connected)
		c->ep = NULL;
	if (c->on_connected)
		c->on_connected(c);
}

static inline int host_message(struct gvm_ep *ep, const struct gvm_hdr *hdr, const void *payload)
{
	struct conn *c = ep->user;

	c->messages++;
	if (c->ordered) {
		assert(hdr->arg == c->next_arg);
		c->next_arg++;
	}
	return c->on_message ? c->on_message(c, hdr, payload) : 0;
}

static inline void host_writable(struct gvm_ep *ep)
{
	((struct conn *)ep->user)->writable++;
}

static inline void host_closed(struct gvm_ep *ep, int why, const char *reason)
{
	struct conn *c = ep->user;

	assert(why < 0 && reason && *reason);
	c->closed = why;
	c->closed_calls++;
	c->reason = reason;
	c->ep = NULL;
}

static inline void host_completed(struct gvm_ep *ep, struct gvm_op *op, int status)
{
	struct top *t = (struct top *)op;
	struct conn *c = ep->user;

	assert(!c->closed_calls);
	t->calls++;
	t->status = status;
	c->completed++;
}

static inline int host_watch(struct gvm_host *host, struct gvm_watch *watch, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = watch };

	host->watches++;
	return epoll_ctl(host->epfd, EPOLL_CTL_ADD, watch->fd, &e) ? -errno : 0;
}

static inline int host_rewatch(struct gvm_host *host, struct gvm_watch *watch, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = watch };

	return epoll_ctl(host->epfd, EPOLL_CTL_MOD, watch->fd, &e) ? -errno : 0;
}

static inline void host_unwatch(struct gvm_host *host, struct gvm_watch *watch)
{
	host->watches--;
	if (epoll_ctl(host->epfd, EPOLL_CTL_DEL, watch->fd, NULL))
		abort();
}

static inline int host_mem_get(struct gvm_host *host, uint64_t key, uint64_t owner, unsigned access,
			       uint64_t offset, uint64_t len, void **at, struct gvm_mem **mem)
{
	struct gvm_mem *m = host->mems;

	while (m && (m->key != key || m->withdrawn))
		m = m->next;
	if (!m)
		return -ENOENT;
	if ((m->owner && m->owner != owner) || !(m->access & access))
		return -EPERM;
	if (offset > m->len || len > m->len - offset)
		return -ERANGE;
	m->refs++;
	*at = m->base + offset;
	*mem = m;
	return 0;
}

static inline void host_mem_put(struct gvm_mem *mem)
{
	assert(mem->refs > 0);
	mem->refs--;
}

static inline int host_mem_hold(struct gvm_host *host, uint64_t key, uint64_t owner,
				struct gvm_mem_user *user)
{
	void *at;
	int err = host_mem_get(host, key, owner, ~0u, 0, 0, &at, &user->mem);

	if (err)
		return err;
	user->prev = NULL;
	user->next = user->mem->users;
	if (user->next)
		user->next->prev = user;
	user->mem->users = user;
	user->base = user->mem->base;
	user->len = user->mem->len;
	user->access = user->mem->access;
	return 0;
}

static inline void host_mem_release(struct gvm_mem_user *user)
{
	if (user->prev)
		user->prev->next = user->next;
	else
		user->mem->users = user->next;
	if (user->next)
		user->next->prev = user->prev;
	host_mem_put(user->mem);
}

static inline int host_mem_hold_local(struct gvm_mem *mem, struct gvm_mem_user *user)
{
	if (mem->withdrawn)
		return -ENOENT;
	mem->refs++;
	user->mem = mem;
	user->prev = NULL;
	user->next = mem->users;
	if (user->next)
		user->next->prev = user;
	mem->users = user;
	user->base = mem->base;
	user->len = mem->len;
	user->access = mem->access;
	return 0;
}

/* From here on it is not found, and gone when refs is 0. */
static inline void withdraw(struct gvm_mem *mem)
{
	mem->withdrawn = 1;
	for (struct gvm_mem_user *user = mem->users; user; user = user->next)
		user->withdrawn(user);
}

/* There is one thread. */
static inline void host_wake(struct gvm_host *host)
{
}

static inline struct gvm_net_stats *host_stats(struct gvm_host *host)
{
	return &host->stats;
}

static inline int host_has_key(struct gvm_host *host)
{
	return host->key != NULL;
}

static inline int host_prove(struct gvm_host *host, const void *text, size_t len, uint8_t *mac)
{
	assert(len <= GVM_PROOF_TEXT_MAX);
	key_mac(host->key, text, len, mac);
	return 0;
}

static inline int host_proven(struct gvm_host *host, const void *text, size_t len,
			      const uint8_t *mac)
{
	uint8_t ours[GVM_WIRE_MAC_LEN];
	int same;

	host_prove(host, text, len, ours);
	same = memcmp(ours, mac, sizeof(ours)) == 0;
	host->proven += same;
	host->refused += !same;
	return same ? 0 : -EACCES;
}

static const struct gvm_host_ops host_ops = {
	.accepted = host_accepted,
	.connected = host_connected,
	.message = host_message,
	.writable = host_writable,
	.closed = host_closed,
	.completed = host_completed,
	.watch = host_watch,
	.rewatch = host_rewatch,
	.unwatch = host_unwatch,
	.now = host_now,
	.mem_get = host_mem_get,
	.mem_put = host_mem_put,
	.mem_hold = host_mem_hold,
	.mem_release = host_mem_release,
	.clock = host_clock,
	.mem_hold_local = host_mem_hold_local,
	.wake = host_wake,
	.has_key = host_has_key,
	.prove = host_prove,
	.proven = host_proven,
	.stats = host_stats,
};

static const char *node_args = ""; /* what follows the provider's name */

static inline void node_open(struct gvm_host *node, const struct gvm_provider_ops *ops, int epfd)
{
	memset(node, 0, sizeof(*node));
	node->ops = ops;
	node->epfd = epfd;
	node->allow = 1;
	node->key = "the key of the cluster";
	if (ops->open(node, &host_ops, node_args, &node->prov))
		abort();
}

static inline void node_listen(struct gvm_host *node, const char *host)
{
	int err = node->ops->listen(node->prov, host, 0, &node->listener, &node->port);

	if (err)
		abort();
}

static inline void node_close(struct gvm_host *node)
{
	struct conn *c;

	while ((c = node->conns)) {
		node->conns = c->next;
		if (c->ep)
			node->ops->shut(c->ep, -ECANCELED);
		free(c);
	}
	if (node->listener)
		node->ops->unlisten(node->listener);
	node->ops->close(node->prov);
	if (node->watches)
		abort();
}

/* 1: there is more to do, do not sleep. */
static inline int node_round(struct gvm_host *node)
{
	int n;

	node->clock = 0;
	n = node->ops->progress(node->prov);
	node->ops->flush(node->prov);
	return n > 0 || node->ops->arm(node->prov);
}

/* One event at most, so that a watch that its predecessor has removed is never called. */
static inline int poll_once(int epfd, int timeout_ms)
{
	struct epoll_event e;
	struct gvm_watch *watch;

	if (epoll_wait(epfd, &e, 1, timeout_ms) != 1)
		return 0;
	watch = e.data.ptr;
	watch->ready(watch, e.events);
	return 1;
}

#endif
