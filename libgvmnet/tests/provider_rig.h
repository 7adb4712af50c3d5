/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A server and a client over one provider, in one thread: what the tests of providers share.
 */
#ifndef GVM_TESTS_PROVIDER_RIG_H
#define GVM_TESTS_PROVIDER_RIG_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "provider_host.h"

#define MIB (1u << 20)

static int epfd;
static struct gvm_host server, client;
static uint64_t next_xid = 1;
static struct gvm_mem *post_mem; /* what the buffers of operations are said to be in */
static uint64_t post_expires = GVM_NEVER;

/* ---- driving ------------------------------------------------------------------------------- */

/* One event, and whatever needs none; returns whether there was something. */
static inline int step(int timeout_ms)
{
	int more = node_round(&server);

	more |= node_round(&client);
	return poll_once(epfd, more ? 0 : timeout_ms) || more;
}

/* Run both nodes until cond, for ten seconds at most. */
/* Thread sanitizer looks at each byte of the 70 MiB of an endpoint that libfabric makes for tcp. */
#ifdef __SANITIZE_THREAD__
#define PATIENCE_NS 60000000000ull
#else
#define PATIENCE_NS 10000000000ull
#endif

#define until(cond)                                                                                \
	do {                                                                                       \
		uint64_t end_ = host_now(NULL) + PATIENCE_NS;                                      \
		while (!(cond)) {                                                                  \
			step(20);                                                                  \
			assert_true(host_now(NULL) < end_);                                        \
		}                                                                                  \
	} while (0)

/* Run until nothing more happens. */
static inline void settle(void)
{
	int quiet = 0;

	while (quiet < 3)
		quiet = step(2) ? 0 : quiet + 1;
}

static inline void dial_host(struct conn *c, const char *host)
{
	memset(c, 0, sizeof(*c));
	c->node = &client;
	assert_int_equal(client.ops->connect(client.prov, host, server.port, c, &c->ep), 0);
}

static inline void dial(struct conn *c)
{
	dial_host(c, "127.0.0.1");
	until(c->connected && (c->connected < 0 || server.accepted));
	assert_int_equal(c->connected, 1);
	c->ep->owner = 9;
	client.ops->allow(c->ep);
}

static inline int no_allow(void **state)
{
	epfd = epoll_create1(EPOLL_CLOEXEC);
	next_xid = 1;
	post_mem = NULL;
	post_expires = GVM_NEVER;
	node_open(&server, *state, epfd);
	node_open(&client, *state, epfd);
	node_listen(&server, "127.0.0.1");
	return 0;
}

static inline int teardown(void **state)
{
	struct gvm_mem *m;

	node_close(&client);
	while ((m = server.mems)) {
		server.mems = m->next;
		m->withdrawn = 1;
		m->next = client.mems;
		client.mems = m;
	}
	node_close(&server);
	while ((m = client.mems)) {
		client.mems = m->next;
		assert_int_equal(m->refs, 0);
		free(m->base);
		free(m);
	}
	close(epfd);
	return 0;
}

static inline struct gvm_mem *offer(uint64_t key, size_t len, unsigned access, uint64_t owner)
{
	struct gvm_mem *m = calloc(1, sizeof(*m));

	m->key = key;
	m->len = len;
	m->base = calloc(1, len);
	m->access = access;
	m->owner = owner;
	m->next = server.mems;
	server.mems = m;
	return m;
}

static inline int post(struct conn *c, enum gvm_op_kind kind, struct top *t, uint64_t key,
		       uint64_t offset, void *buf, uint32_t len)
{
	memset(t, 0, sizeof(*t));
	t->op.key = key;
	t->op.offset = offset;
	t->op.buf = buf;
	t->op.len = len;
	t->op.xid = next_xid++;
	t->op.kind = kind;
	t->op.mem = post_mem;
	t->op.expires = post_expires;
	return kind == GVM_OP_FETCH ? client.ops->fetch(c->ep, &t->op)
				    : client.ops->put(c->ep, &t->op);
}

static inline int do_op(struct conn *c, enum gvm_op_kind kind, uint64_t key, uint64_t offset,
			void *buf, uint32_t len)
{
	struct top t;

	assert_int_equal(post(c, kind, &t, key, offset, buf, len), 0);
	until(t.calls);
	assert_int_equal(t.calls, 1);
	return t.status;
}

static inline int say(struct conn *c, uint64_t arg, const void *body, uint32_t len)
{
	struct gvm_hdr hdr = { .type = GVM_T_USER, .arg = arg, .length = len };

	return c->node->ops->send(c->ep, &hdr, body);
}

static inline void fill(uint8_t *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(seed = seed * 1103515245u + 12345u, seed >> 16);
}

/* ---- each test over its provider ----------------------------------------------------------- */

#define TCP(test)                                                                                  \
	cmocka_unit_test_prestate_setup_teardown(test, no_allow, teardown,                         \
						 (void *)&gvm_provider_tcp)
#define LOOP(test)                                                                                 \
	cmocka_unit_test_prestate_setup_teardown(test, no_allow, clear_faults,                     \
						 (void *)&gvm_provider_loop)

#endif
