/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A fabric within one thread, for tests of rma.c: cells are copied by hand, reads and writes too,
 * and it does what hardware does when it is at its worst. It checks what rma.c has promised to it:
 * no more cells than buffers, nothing posted to what has ended, all registrations taken back.
 */
#ifndef GVM_TESTS_FAKE_FABRIC_H
#define GVM_TESTS_FAKE_FABRIC_H

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "providers/rma.h"

/* What it does, and has done. */
static struct fake {
	unsigned depth;      /* works of an endpoint in the hardware; 0: no limit */
	int hold;            /* reads and writes stay in the hardware until fake_run() */
	int hold_done;       /* they are carried out, but their completions are held */
	int fail;            /* so many works end with an error */
	int refuse_reg;      /* memory cannot be registered, but for local buffers */
	int refuse_local;    /* nor can those */
	int refuse_receives; /* there are no more receive buffers */
	int overdraws;       /* a side sends more cells than there are buffers */
	unsigned tries;      /* registrations that were asked for */
	const void *buf;     /* of the last read or write */
	unsigned in_flight, most_in_flight; /* cells that one endpoint has not yet taken */
	unsigned regs, shared;              /* registrations, and those for the other side */
	unsigned reads, writes, cells;
	uint32_t longest; /* cell */
	unsigned late;    /* works that have ended after their connection */
} fake;

struct fake_reg {
	struct fake_reg *next;
	struct gvm_rma *rma;
	uint64_t key, base, len;
	uint8_t *at;
	unsigned access;
	struct gvm_rma_ep *ep; /* whose other side may reach it */
};

enum fake_kind { EV_ASK, EV_CONNECTED, EV_CELL, EV_DONE, EV_BROKEN };

struct fake_ep;
struct fake_event {
	struct fake_event *next;
	enum fake_kind kind;
	struct fake_ep *ep;
	struct gvm_listener *listener;
	struct fake_work *work;
	int status;
	uint32_t len;
	uint8_t cell[2 * GVM_RMA_CELL];
};

struct fake_prov {
	struct gvm_rma rma;
	struct fake_prov *next;
	struct gvm_watch wake;
	struct fake_event *first, **end;
	struct fake_work *held;
	unsigned receives, most_receives; /* of all its connections */
	unsigned listening;               /* the port; 0: none */
	struct gvm_listener *listener;
};

struct fake_ep {
	struct gvm_rma_ep ep;
	struct fake_ep *peer;
	int ended;
	unsigned works;
	unsigned receives, queued; /* buffers, and cells that are in them */
};

struct fake_work {
	struct gvm_rma_work work;
	struct fake_work *next;
	struct fake_prov *prov;
	struct fake_ep *ep; /* NULL: its connection has ended */
	int executed, status;
};

static struct fake_prov *fake_provs;
static struct fake_reg *fake_regs;
static uint64_t fake_next_key;
static unsigned fake_next_port;
static struct gvm_rma_fabric fake_fabric;

static inline struct fake_prov *fake_prov_of(struct fake_ep *ep)
{
	return (struct fake_prov *)ep->ep.rma;
}

static inline struct fake_event *fake_push(struct fake_prov *prov, enum fake_kind kind,
					   struct fake_ep *ep)
{
	struct fake_event *ev = calloc(1, sizeof(*ev));
	uint64_t one = 1;

	ev->kind = kind;
	ev->ep = ep;
	*prov->end = ev;
	prov->end = &ev->next;
	if (write(prov->wake.fd, &one, sizeof(one)) != sizeof(one))
		abort();
	return ev;
}

static inline struct fake_event *fake_pop(struct fake_prov *prov)
{
	struct fake_event *ev = prov->first;

	if (!ev)
		return NULL;
	prov->first = ev->next;
	if (!prov->first)
		prov->end = &prov->first;
	return ev;
}

/* What has not been told of an endpoint is told no more. */
static inline void fake_forget(struct fake_prov *prov, struct fake_ep *ep)
{
	struct fake_event **at = &prov->first, *ev;

	while ((ev = *at)) {
		if (ev->ep != ep || ev->kind == EV_DONE) {
			at = &ev->next;
			continue;
		}
		*at = ev->next;
		free(ev);
	}
	prov->end = at;
}

/* ---- reads, writes and cells --------------------------------------------------------------- */

static inline struct fake_reg *fake_find(struct fake_ep *to, const struct gvm_rma_work *w)
{
	unsigned access = w->kind == GVM_RMA_READ ? GVM_ACCESS_FETCH : GVM_ACCESS_PUT;
	struct fake_reg *reg = fake_regs;

	while (reg && (reg->rma != to->ep.rma || reg->key != w->remote_key))
		reg = reg->next;
	if (!reg || reg->ep != &to->ep || !(reg->access & access) || w->remote_addr < reg->base ||
	    w->remote_addr - reg->base > reg->len ||
	    w->len > reg->len - (w->remote_addr - reg->base))
		return NULL;
	return reg;
}

static inline void fake_done(struct fake_work *w)
{
	struct fake_event *ev = fake_push(w->prov, EV_DONE, w->ep);

	ev->work = w;
	ev->status = w->status;
}

/* The hardware does it. A read whose connection has ended may still write to its buffer. */
static inline void fake_execute(struct fake_work *w)
{
	struct fake_ep *to = w->ep ? w->ep->peer : NULL;
	struct gvm_rma_work *work = &w->work;
	struct fake_reg *reg = to ? fake_find(to, work) : NULL;

	w->executed = 1;
	if (work->kind == GVM_RMA_READ && !w->ep)
		memset(work->buf, 0xBD, work->len);
	if (!reg || fake.fail) {
		fake.fail -= fake.fail > 0;
		w->status = -EIO;
		return;
	}
	if (work->kind == GVM_RMA_READ)
		memcpy(work->buf, reg->at + (work->remote_addr - reg->base), work->len);
	else
		memcpy(reg->at + (work->remote_addr - reg->base), work->buf, work->len);
}

/* All that was held goes on. */
static inline void fake_run(void)
{
	struct fake_work *w;

	for (struct fake_prov *prov = fake_provs; prov; prov = prov->next)
		while ((w = prov->held)) {
			prov->held = w->next;
			if (!w->executed)
				fake_execute(w);
			fake_done(w);
		}
}

/* Does the hardware have anything of this? */
static inline int fake_holds(const uint8_t *at, size_t len)
{
	for (struct fake_prov *prov = fake_provs; prov; prov = prov->next)
		for (struct fake_work *w = prov->held; w; w = w->next)
			if (w->work.buf < at + len && w->work.buf + w->work.len > at)
				return 1;
	return 0;
}

static inline void fake_hold(struct fake_work *w)
{
	struct fake_work **at = &w->prov->held;

	while (*at)
		at = &(*at)->next;
	w->next = NULL;
	*at = w;
}

static inline void fake_send(struct fake_ep *to, const uint8_t *cell, uint32_t len)
{
	struct fake_event *ev = fake_push(fake_prov_of(to), EV_CELL, to);

	assert(to->queued < to->receives || fake.overdraws);
	if (++to->queued > fake.most_in_flight)
		fake.most_in_flight = to->queued;
	assert(len <= sizeof(ev->cell));
	memcpy(ev->cell, cell, len);
	ev->len = len;
	fake.cells++;
	if (len > fake.longest)
		fake.longest = len;
}

static inline int fake_post(struct gvm_rma_ep *gep, struct gvm_rma_work *work)
{
	struct fake_ep *ep = (struct fake_ep *)gep;
	struct fake_work *w = (struct fake_work *)work;

	assert(!ep->ended);
	assert(work->buf >= (uint8_t *)(uintptr_t)work->reg->base &&
	       work->buf + work->len <= (uint8_t *)(uintptr_t)work->reg->base + work->reg->len);
	if (fake.depth && ep->works >= fake.depth)
		return -EAGAIN;
	ep->works++;
	w->next = NULL;
	w->executed = w->status = 0;
	w->ep = ep;
	w->prov = fake_prov_of(ep);
	if (work->kind == GVM_RMA_SEND) {
		if (ep->peer)
			fake_send(ep->peer, work->buf, work->len);
		fake_done(w);
		return 0;
	}
	fake.buf = work->buf;
	fake.reads += work->kind == GVM_RMA_READ;
	fake.writes += work->kind == GVM_RMA_WRITE;
	if (!fake.hold)
		fake_execute(w);
	if (fake.hold || fake.hold_done)
		fake_hold(w);
	else
		fake_done(w);
	return 0;
}

static inline void fake_ring(struct gvm_rma *rma)
{
}

/* ---- connections --------------------------------------------------------------------------- */

static inline int fake_listen(struct gvm_rma *rma, struct gvm_listener *listener, const char *host,
			      unsigned port, unsigned *bound_port)
{
	struct fake_prov *prov = (struct fake_prov *)rma;

	assert(!prov->listening);
	prov->listening = port ? port : 1000 + fake_next_port++;
	prov->listener = listener;
	*bound_port = prov->listening;
	return 0;
}

static inline void fake_unlisten(struct gvm_rma *rma, struct gvm_listener *listener)
{
	((struct fake_prov *)rma)->listening = 0;
}

static inline int fake_connect(struct gvm_rma_ep *gep, const char *host, unsigned port)
{
	struct fake_ep *ep = (struct fake_ep *)gep;
	struct fake_prov *prov = fake_provs;

	while (prov && prov->listening != port)
		prov = prov->next;
	if (!prov)
		fake_push(fake_prov_of(ep), EV_CONNECTED, ep)->status = -ECONNREFUSED;
	else
		fake_push(prov, EV_ASK, ep)->listener = prov->listener;
	return 0;
}

/* Those that are too many are taken back at once, so that none too few shows. */
static inline int fake_receives(struct gvm_rma_ep *gep, unsigned n)
{
	struct fake_ep *ep = (struct fake_ep *)gep;
	struct fake_prov *prov = fake_prov_of(ep);

	assert(!ep->ended && n <= GVM_RMA_RECVS && (n >= ep->queued || fake.overdraws));
	if (n > ep->receives && fake.refuse_receives)
		return -ENOMEM;
	prov->receives += n - ep->receives;
	if (prov->receives > prov->most_receives)
		prov->most_receives = prov->receives;
	ep->receives = n;
	return 0;
}

static inline void fake_asked(struct fake_prov *prov, struct fake_event *ev)
{
	struct fake_ep *ep = ev->ep, *other;

	if (!prov->listening) {
		fake_push(fake_prov_of(ep), EV_CONNECTED, ep)->status = -ECONNREFUSED;
		return;
	}
	other = (struct fake_ep *)gvm_rma_accept(&prov->rma);
	assert(other);
	snprintf(other->ep.ep.name, sizeof(other->ep.ep.name), "fake:%p", (void *)ep);
	ep->peer = other;
	other->peer = ep;
	fake_receives(&ep->ep, GVM_RMA_FIRST);
	fake_receives(&other->ep, GVM_RMA_FIRST);
	fake_push(fake_prov_of(ep), EV_CONNECTED, ep);
	gvm_rma_accepted(ev->listener, &other->ep);
}

static inline void fake_disconnect(struct gvm_rma_ep *gep, int orderly)
{
	struct fake_ep *ep = (struct fake_ep *)gep;
	struct fake_prov *prov = fake_prov_of(ep);
	struct fake_event *ev;

	assert(!ep->ended);
	prov->receives -= ep->receives;
	ep->ended = 1;
	for (struct fake_prov *p = fake_provs; p; p = p->next)
		fake_forget(p, ep);
	for (struct fake_work *w = prov->held; w; w = w->next)
		w->ep = w->ep == ep ? NULL : w->ep;
	for (ev = prov->first; ev; ev = ev->next)
		if (ev->ep == ep) {
			ev->ep = NULL;
			ev->work->ep = NULL;
		}
	if (ep->peer) {
		ep->peer->peer = NULL;
		fake_push(fake_prov_of(ep->peer), EV_BROKEN, ep->peer);
	}
	if (!fake_fabric.takes_back)
		return;
	for (struct fake_work **at = &prov->held; *at;)
		if ((*at)->ep)
			at = &(*at)->next;
		else
			*at = (*at)->next;
	for (struct fake_event **at = &prov->first; (ev = *at);) {
		if (ev->kind == EV_DONE && !ev->ep) {
			*at = ev->next;
			free(ev);
		} else {
			at = &ev->next;
		}
		prov->end = at;
	}
}

/* ---- rounds -------------------------------------------------------------------------------- */

static inline void fake_tell_done(struct fake_event *ev)
{
	struct fake_ep *ep = ev->ep;

	if (ep)
		ep->works--;
	fake.late += !ep;
	gvm_rma_done(&ev->work->work, ev->status);
	if (ep && ev->status && !ep->ended)
		gvm_rma_broken(&ep->ep, -ECONNRESET, "a work has failed");
}

static inline void fake_tell(struct fake_prov *prov, struct fake_event *ev)
{
	switch (ev->kind) {
	case EV_ASK:
		fake_asked(prov, ev);
		break;
	case EV_CONNECTED:
		gvm_rma_connected(&ev->ep->ep, ev->status);
		break;
	case EV_CELL:
		gvm_rma_cell(&ev->ep->ep, ev->cell, ev->len);
		ev->ep->queued--;
		break;
	case EV_DONE:
		fake_tell_done(ev);
		break;
	case EV_BROKEN:
		gvm_rma_broken(&ev->ep->ep, -ECONNRESET, "the other side has ended it");
		break;
	}
}

static inline int fake_poll(struct gvm_rma *rma)
{
	struct fake_prov *prov = (struct fake_prov *)rma;
	struct fake_event *ev;
	int n = 0;

	while (n < 64 && (ev = fake_pop(prov))) {
		n++;
		fake_tell(prov, ev);
		free(ev);
	}
	return n;
}

static inline int fake_arm(struct gvm_rma *rma)
{
	return ((struct fake_prov *)rma)->first != NULL;
}

static inline void fake_woken(struct gvm_watch *watch, uint32_t events)
{
	uint64_t n;

	if (read(watch->fd, &n, sizeof(n)) < 0)
		assert(errno == EAGAIN);
}

/* ---- memory -------------------------------------------------------------------------------- */

static inline int fake_reg(struct gvm_rma *rma, struct gvm_rma_ep *ep, void *at, size_t len,
			   unsigned access, struct gvm_rma_reg *reg)
{
	struct fake_reg *r;

	fake.tries++;
	if (access ? fake.refuse_reg : fake.refuse_local)
		return -EOPNOTSUPP;
	r = calloc(1, sizeof(*r));
	r->rma = rma;
	r->key = ++fake_next_key << 32;
	r->at = at;
	r->base = access ? fake_next_key << 40 : (uintptr_t)at;
	r->len = len;
	r->access = access;
	r->ep = ep;
	r->next = fake_regs;
	fake_regs = r;
	fake.regs++;
	fake.shared += access != 0;
	*reg = (struct gvm_rma_reg){ .key = r->key, .base = r->base, .len = len, .mr = r };
	return 0;
}

static inline void fake_dereg(struct gvm_rma *rma, struct gvm_rma_reg *reg)
{
	struct fake_reg **at = &fake_regs, *r = reg->mr;

	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	fake.regs--;
	fake.shared -= r->access != 0;
	free(r);
}

/* ---- the worker ---------------------------------------------------------------------------- */

static inline int fake_probe(const char **why)
{
	return 0;
}

static inline int fake_open(struct gvm_rma *rma, const char *args)
{
	struct fake_prov *prov = (struct fake_prov *)rma;

	prov->end = &prov->first;
	prov->wake.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	prov->wake.ready = fake_woken;
	rma->up->watch(rma->host, &prov->wake, EPOLLIN);
	prov->next = fake_provs;
	fake_provs = prov;
	return 0;
}

static inline void fake_stop(struct gvm_rma *rma)
{
	struct fake_prov *prov = (struct fake_prov *)rma;
	struct fake_event *ev;

	prov->held = NULL;
	while ((ev = fake_pop(prov))) {
		assert(ev->kind == EV_DONE || ev->kind == EV_ASK);
		free(ev);
	}
}

static inline void fake_close(struct gvm_rma *rma)
{
	struct fake_prov *prov = (struct fake_prov *)rma, **at = &fake_provs;

	while (*at != prov)
		at = &(*at)->next;
	*at = prov->next;
	rma->up->unwatch(rma->host, &prov->wake);
	close(prov->wake.fd);
	for (struct fake_reg *r = fake_regs; r; r = r->next)
		assert(r->rma != rma);
}

static struct gvm_rma_fabric fake_fabric = {
	.name = "fake",
	.what = "one thread's memory",
	.prov_size = sizeof(struct fake_prov),
	.ep_size = sizeof(struct fake_ep),
	.work_size = sizeof(struct fake_work),
	.probe = fake_probe,
	.open = fake_open,
	.stop = fake_stop,
	.close = fake_close,
	.listen = fake_listen,
	.unlisten = fake_unlisten,
	.connect = fake_connect,
	.receives = fake_receives,
	.disconnect = fake_disconnect,
	.post = fake_post,
	.ring = fake_ring,
	.poll = fake_poll,
	.arm = fake_arm,
	.reg = fake_reg,
	.dereg = fake_dereg,
};

static const struct gvm_provider_ops fake_provider;

static inline int fake_provider_open(struct gvm_host *host, const struct gvm_host_ops *ops,
				     const char *args, struct gvm_prov **prov)
{
	return gvm_rma_open(&fake_fabric, &fake_provider, host, ops, args, prov);
}

static const struct gvm_provider_ops fake_provider = {
	.name = "fake",
	.what = "one thread's memory",
	.probe = fake_probe,
	.open = fake_provider_open,
	GVM_RMA_OPS,
};

#endif
