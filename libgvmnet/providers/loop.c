/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The loop provider: connections within one process, for tests. It has tcp's semantics with none of
 * its machinery, and breaks, delays, refuses or stalls connections when told to.
 *
 *     worker A                                       worker B
 *     end[0] --- frame ---> inbox of B, descriptor --> end[1]
 *
 * A link joins two ends. What one end says is copied into a frame and put into the inbox of the
 * other end's worker, whose descriptor wakes it; the receiving worker serves its inbox in order. A
 * fetch or put is a frame like any other, served by the receiver against the offered memory, and
 * answered by a frame. A frame that is delayed waits in the inbox until it is due, and so do the
 * later ones of its link, so that order is kept.
 *
 * Threads: an end belongs to its worker's thread. Listeners, links' liveness, inboxes and the
 * faults are shared by all and guarded by gvm_loop.lock, which no upcall is made under.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "providers/loop.h"

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static struct loop_ep *to_loop(struct gvm_ep *ep)
{
	return container_of(ep, struct loop_ep, ep);
}

static void count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static struct gvm_net_stats *stats(struct gvm_prov *prov)
{
	return prov->up->stats(prov->host);
}

/* ---- ends ---------------------------------------------------------------------------------- */

struct loop_ep *gvm_loop_ep_new(struct gvm_prov *prov, struct link *link, unsigned side, void *user)
{
	struct loop_ep *ep = calloc(1, sizeof(*ep));

	if (!ep)
		return NULL;
	ep->ep.ops = &gvm_provider_loop;
	ep->ep.prov = prov;
	ep->ep.user = user;
	ep->ep.last_heard = prov->up->now(prov->host);
	ep->link = link;
	ep->side = (uint8_t)side;
	link->ep[side] = ep;
	return ep;
}

static void complete_all(struct loop_ep *ep, int why)
{
	struct gvm_op *op;

	while ((op = gvm_slots_pop(&ep->slots)))
		ep->ep.prov->up->completed(&ep->ep, op, why);
}

static void ep_end(struct loop_ep *ep, int why)
{
	struct gvm_prov *prov = ep->ep.prov;
	struct link *link = ep->link;

	ep->dead = 1;
	pthread_mutex_lock(&gvm_loop.lock);
	link->ep[ep->side] = NULL;
	link->prov[ep->side] = NULL;
	if (!link->broken)
		gvm_loop_tell(link, !ep->side, F_CLOSE, 0);
	gvm_loop_link_put(link);
	pthread_mutex_unlock(&gvm_loop.lock);
	ep->link = NULL;
	ep->dead_next = prov->dead;
	prov->dead = ep;
	complete_all(ep, why);
}

static void ep_fail(struct loop_ep *ep, int why, const char *reason)
{
	if (ep->dead)
		return;
	ep_end(ep, -ECONNRESET);
	if (!ep->silent)
		ep->ep.prov->up->closed(&ep->ep, why, reason);
}

static void loop_shut(struct gvm_ep *gep, int why)
{
	struct loop_ep *ep = to_loop(gep);

	ep->silent = 1;
	if (ep->dead)
		complete_all(ep, why);
	else
		ep_end(ep, why);
}

static void loop_allow(struct gvm_ep *ep)
{
	to_loop(ep)->allowed = 1;
}

/* ---- posting ------------------------------------------------------------------------------- */

/* How many ns the next frame is late. Under the lock. */
static uint64_t delay_of_frame(void)
{
	const struct gvm_loop_faults *faults = &gvm_loop.faults;

	return gvm_loop_happens(faults->delay) && faults->delay_ns
		   ? gvm_loop_draw() % faults->delay_ns + 1
		   : 0;
}

static int post_locked(struct loop_ep *ep, struct frame *f, int answer)
{
	struct link *link = ep->link;
	unsigned to = !ep->side;

	if (!answer && link->queued[to] >= QUEUE_MAX) {
		link->starved[ep->side] = 1;
		return -EAGAIN;
	}
	if (gvm_loop_happens(gvm_loop.faults.drop_conn))
		gvm_loop_break(link);
	if (link->broken || !link->prov[to])
		gvm_loop_frame_free(
		    f); /* lost on the way; the end of the link is already in our inbox */
	else {
		f->due = delay_of_frame();
		if (f->due)
			f->due += gvm_now();
		gvm_loop_frame_post(link->prov[to], f);
	}
	return 0;
}

/* hdr->length bytes of payload follow. */
static int post(struct loop_ep *ep, const struct gvm_hdr *hdr, const void *payload, int answer)
{
	struct gvm_prov *prov = ep->ep.prov;
	struct frame *f;
	int err = -ENOMEM;

	pthread_mutex_lock(&gvm_loop.lock);
	f = gvm_loop_frame_new(ep->link, !ep->side, F_WIRE, hdr->length);
	if (f) {
		f->hdr = *hdr;
		if (hdr->length)
			memcpy(f->payload, payload, hdr->length);
		err = post_locked(ep, f, answer);
		if (err)
			gvm_loop_frame_free(f);
	}
	pthread_mutex_unlock(&gvm_loop.lock);
	if (!err)
		count(&stats(prov)->bytes_sent, GVM_WIRE_HDR_LEN + hdr->length);
	if (err == -EAGAIN)
		ep->want_room = 1;
	return err;
}

static int may_post(const struct loop_ep *ep)
{
	if (ep->dead)
		return -ECONNRESET;
	return ep->open ? 0 : -ENOTCONN;
}

static int loop_send(struct gvm_ep *gep, const struct gvm_hdr *hdr, const void *payload)
{
	struct loop_ep *ep = to_loop(gep);
	int err = may_post(ep);

	return err ? err : post(ep, hdr, payload, 0);
}

static int post_op(struct loop_ep *ep, struct gvm_op *op, const struct gvm_hdr *hdr,
		   const void *payload, enum gvm_op_kind kind)
{
	int err = may_post(ep);

	if (err)
		return err;
	if (gvm_slots_full(&ep->slots)) {
		ep->want_room = 1;
		return -EAGAIN;
	}
	err = post(ep, hdr, payload, 0);
	if (!err)
		gvm_slots_add(&ep->slots, op, kind);
	return err;
}

static int loop_fetch(struct gvm_ep *ep, struct gvm_op *op)
{
	struct gvm_hdr hdr = { .type = GVM_T_FETCH,
			       .xid = op->xid,
			       .region = op->key,
			       .page = op->offset,
			       .arg = op->len };

	return post_op(to_loop(ep), op, &hdr, NULL, GVM_OP_FETCH);
}

static int loop_put(struct gvm_ep *ep, struct gvm_op *op)
{
	struct gvm_hdr hdr = { .type = GVM_T_PUT,
			       .xid = op->xid,
			       .region = op->key,
			       .page = op->offset,
			       .length = op->len };

	return post_op(to_loop(ep), op, &hdr, op->buf, GVM_OP_PUT);
}

static int loop_cancel(struct gvm_ep *gep, struct gvm_op *op)
{
	struct gvm_slot *slot = gvm_slots_of(&to_loop(gep)->slots, op);

	if (slot)
		slot->op = NULL; /* its answer is still to come */
	return 0;
}

/* ---- serving ------------------------------------------------------------------------------- */

static void answer(struct loop_ep *ep, const struct gvm_hdr *hdr, const void *payload)
{
	if (!ep->dead && post(ep, hdr, payload, 1))
		ep_fail(ep, -ENOMEM, "out of memory");
}

static void serve_fetch(struct loop_ep *ep, const struct gvm_hdr *req)
{
	struct gvm_hdr hdr = { .type = GVM_T_FETCHED, .xid = req->xid };
	struct gvm_prov *prov = ep->ep.prov;
	struct gvm_mem *mem;
	void *at = NULL;
	int err;

	err = prov->up->mem_get(prov->host, req->region, ep->ep.owner, GVM_ACCESS_FETCH, req->page,
				req->arg, &at, &mem);
	hdr.status = (uint16_t)gvm_wire_status(err);
	if (!err) {
		hdr.length = (uint32_t)req->arg;
		count(&stats(prov)->fetches_served, 1);
	}
	answer(ep, &hdr, at);
	if (!err)
		prov->up->mem_put(mem);
}

static void serve_put(struct loop_ep *ep, const struct gvm_hdr *req, const void *payload)
{
	struct gvm_hdr hdr = { .type = GVM_T_STORED, .xid = req->xid };
	struct gvm_prov *prov = ep->ep.prov;
	struct gvm_mem *mem;
	void *at;
	int err;

	err = prov->up->mem_get(prov->host, req->region, ep->ep.owner, GVM_ACCESS_PUT, req->page,
				req->length, &at, &mem);
	hdr.status = (uint16_t)gvm_wire_status(err);
	if (!err) {
		memcpy(at, payload, req->length);
		prov->up->mem_put(mem);
		count(&stats(prov)->puts_served, 1);
	}
	answer(ep, &hdr, NULL);
}

static void serve_answer(struct loop_ep *ep, const struct gvm_hdr *hdr, const void *payload)
{
	struct gvm_slot *slot = gvm_slots_find(&ep->slots, hdr->xid);
	struct gvm_op *op = slot ? slot->op : NULL;

	if (!slot) {
		ep_fail(ep, -EPROTO, "an answer to a question that was not asked");
		return;
	}
	gvm_slots_free(&ep->slots, slot);
	if (!op)
		return;
	if (hdr->type == GVM_T_FETCHED && !hdr->status)
		memcpy(op->buf, payload, op->len);
	ep->ep.prov->up->completed(&ep->ep, op, gvm_wire_errno(hdr->status));
}

static void serve_wire(struct loop_ep *ep, const struct gvm_hdr *hdr, const void *payload)
{
	struct gvm_prov *prov = ep->ep.prov;
	int transfer = hdr->type >= GVM_T_FETCH && hdr->type <= GVM_T_STORED, err;

	ep->ep.last_heard = prov->up->now(prov->host);
	count(&stats(prov)->bytes_received, GVM_WIRE_HDR_LEN + hdr->length);
	if (!ep->allowed && (transfer || hdr->length > GVM_HELLO_MAX)) {
		ep_fail(ep, -EPROTO, "a fetch, put or long message before the handshake");
		return;
	}
	switch (hdr->type) {
	case GVM_T_FETCH:
		serve_fetch(ep, hdr);
		break;
	case GVM_T_PUT:
		serve_put(ep, hdr, payload);
		break;
	case GVM_T_FETCHED:
	case GVM_T_STORED:
		serve_answer(ep, hdr, payload);
		break;
	default:
		err = prov->up->message(&ep->ep, hdr, payload);
		if (err)
			ep_fail(ep, err, "the message was refused");
	}
}

static void serve_connect(struct gvm_prov *prov, struct frame *f)
{
	struct link *link = f->link;
	struct gvm_listener *l = f->listener;
	struct loop_ep *ep = NULL;

	pthread_mutex_lock(&gvm_loop.lock);
	if (gvm_loop_listens(l) && link->prov[0] && !link->broken)
		ep = gvm_loop_ep_new(prov, link, 1, NULL);
	if (ep) {
		ep->open = 1;
		link->prov[1] = prov;
		link->refs++;
	}
	gvm_loop_tell(link, 0, F_OPEN, ep ? 0 : -ECONNREFUSED);
	pthread_mutex_unlock(&gvm_loop.lock);
	if (!ep)
		return;
	snprintf(ep->ep.name, sizeof(ep->ep.name), "loop:%u<-", l->port);
	prov->up->accepted(prov->host, l, &ep->ep);
}

static void serve_open(struct loop_ep *ep, int status)
{
	if (status) {
		ep_end(ep, status);
		ep->ep.prov->up->connected(&ep->ep, status);
		return;
	}
	ep->open = 1;
	ep->ep.prov->up->connected(&ep->ep, 0);
}

static void serve_end(struct loop_ep *ep, int why, const char *reason)
{
	if (ep->open) {
		ep_fail(ep, why, reason);
		return;
	}
	ep_end(ep, -ECONNREFUSED);
	ep->ep.prov->up->connected(&ep->ep, -ECONNREFUSED);
}

static void serve(struct gvm_prov *prov, struct frame *f)
{
	struct loop_ep *ep;

	if (f->kind == F_CONNECT) {
		serve_connect(prov, f);
		return;
	}
	ep = f->link->ep[f->to];
	if (!ep)
		return;
	switch (f->kind) {
	case F_OPEN:
		serve_open(ep, f->status);
		break;
	case F_WIRE:
		serve_wire(ep, &f->hdr, f->payload);
		break;
	case F_CLOSE:
		serve_end(ep, -ECONNRESET, "the other side has closed the connection");
		break;
	case F_BREAK:
		serve_end(ep, -ECONNRESET, "the connection was reset");
		break;
	default:
		break;
	}
	if (ep->dead || !ep->want_room || gvm_slots_full(&ep->slots))
		return;
	pthread_mutex_lock(&gvm_loop.lock);
	if (f->link->queued[!ep->side] <= QUEUE_LOW) {
		ep->want_room = 0;
		f->link->starved[ep->side] = 0;
	}
	pthread_mutex_unlock(&gvm_loop.lock);
	if (!ep->want_room)
		prov->up->writable(&ep->ep);
}

/* ---- the inbox ----------------------------------------------------------------------------- */

static void set_timer(struct gvm_prov *prov, uint64_t due)
{
	struct itimerspec at = { .it_value = { (time_t)(due / 1000000000u),
					       (long)(due % 1000000000u) } };

	timerfd_settime(prov->timer.fd, TFD_TIMER_ABSTIME, &at, NULL);
}

/* Take the first frame that is due; NULL: none, and the timer is set for the next. Under the lock.
 */
static struct frame *inbox_take(struct gvm_prov *prov)
{
	uint64_t first = 0, now = 0;
	struct frame **at, *f;

	if (gvm_loop.faults.stall)
		return NULL;
	for (at = &prov->inbox; (f = *at); at = &f->next) {
		if (f->due && !now)
			now = gvm_now();
		if (f->due <= now || (f->link->broken && f->kind != F_BREAK))
			break;
		if (!first || f->due < first)
			first = f->due;
	}
	if (!f) {
		if (first)
			set_timer(prov, first);
		return NULL;
	}
	*at = f->next;
	if (!*at)
		prov->inbox_end = at;
	return f;
}

/* The frame has left the queue; who waits for room is told. Under the lock. */
static void inbox_left(struct frame *f)
{
	struct link *link = f->link;
	unsigned from = !f->to;

	if (f->kind != F_WIRE)
		return;
	link->queued[f->to]--;
	if (link->starved[from] && link->queued[f->to] <= QUEUE_LOW) {
		link->starved[from] = 0;
		gvm_loop_tell(link, from, F_ROOM, 0);
	}
}

static int loop_progress(struct gvm_prov *prov)
{
	struct loop_ep *ep;
	struct frame *f;
	int n = 0, lost;

	while ((ep = prov->dead)) {
		prov->dead = ep->dead_next;
		free(ep);
	}
	while (n < SERVE_BATCH) {
		pthread_mutex_lock(&gvm_loop.lock);
		f = inbox_take(prov);
		if (f)
			inbox_left(f);
		lost = f && f->link->broken && f->kind != F_BREAK && f->kind != F_CONNECT;
		pthread_mutex_unlock(&gvm_loop.lock);
		if (!f)
			return n;
		if (!lost)
			serve(prov, f);
		pthread_mutex_lock(&gvm_loop.lock);
		gvm_loop_frame_free(f);
		pthread_mutex_unlock(&gvm_loop.lock);
		n++;
	}
	pthread_mutex_lock(&gvm_loop.lock);
	if (prov->inbox)
		gvm_loop_wake(prov);
	pthread_mutex_unlock(&gvm_loop.lock);
	return n;
}

static void drain_fd(int fd)
{
	uint64_t n;

	while (read(fd, &n, sizeof(n)) > 0)
		;
}

static void wake_ready(struct gvm_watch *watch, uint32_t events)
{
	drain_fd(watch->fd);
	loop_progress(container_of(watch, struct gvm_prov, wake));
}

static void timer_ready(struct gvm_watch *watch, uint32_t events)
{
	drain_fd(watch->fd);
	loop_progress(container_of(watch, struct gvm_prov, timer));
}

static int loop_arm(struct gvm_prov *prov)
{
	return 0; /* the descriptor is readable whenever there is something */
}

static void loop_flush(struct gvm_prov *prov)
{
}

/* ---- open and close ------------------------------------------------------------------------ */

static int watch_fd(struct gvm_prov *prov, struct gvm_watch *watch, int fd,
		    void (*ready)(struct gvm_watch *watch, uint32_t events))
{
	int err;

	if (fd < 0)
		return -errno;
	watch->fd = fd;
	watch->ready = ready;
	err = prov->up->watch(prov->host, watch, EPOLLIN);
	if (err)
		close(fd);
	return err;
}

static int loop_open(struct gvm_host *host, const struct gvm_host_ops *ops, const char *args,
		     struct gvm_prov **out)
{
	struct gvm_prov *prov;
	int err;

	if (args && *args)
		return -EINVAL;
	prov = calloc(1, sizeof(*prov));
	if (!prov)
		return -ENOMEM;
	prov->host = host;
	prov->up = ops;
	prov->inbox_end = &prov->inbox;
	err = watch_fd(prov, &prov->wake, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), wake_ready);
	if (err)
		goto free_prov;
	err = watch_fd(prov, &prov->timer,
		       timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), timer_ready);
	if (err)
		goto close_wake;
	pthread_mutex_lock(&gvm_loop.lock);
	prov->next = gvm_loop.provs;
	gvm_loop.provs = prov;
	pthread_mutex_unlock(&gvm_loop.lock);
	*out = prov;
	return 0;

close_wake:
	ops->unwatch(host, &prov->wake);
	close(prov->wake.fd);
free_prov:
	free(prov);
	return err;
}

/* Connects that were not yet served are refused; anything else in the inbox is for ends that are
 * gone. Under the lock. */
static void drop_inbox(struct gvm_prov *prov)
{
	struct frame *f;

	while ((f = prov->inbox)) {
		prov->inbox = f->next;
		if (f->kind == F_CONNECT)
			gvm_loop_tell(f->link, 0, F_OPEN, -ECONNREFUSED);
		gvm_loop_frame_free(f);
	}
	prov->inbox_end = &prov->inbox;
}

static void loop_close(struct gvm_prov *prov)
{
	struct gvm_prov **at = &gvm_loop.provs;
	struct loop_ep *ep;

	pthread_mutex_lock(&gvm_loop.lock);
	while (*at != prov)
		at = &(*at)->next;
	*at = prov->next;
	drop_inbox(prov);
	pthread_mutex_unlock(&gvm_loop.lock);
	while ((ep = prov->dead)) {
		prov->dead = ep->dead_next;
		free(ep);
	}
	prov->up->unwatch(prov->host, &prov->wake);
	prov->up->unwatch(prov->host, &prov->timer);
	close(prov->wake.fd);
	close(prov->timer.fd);
	free(prov);
}

static int loop_probe(const char **why)
{
	return 0;
}

const struct gvm_provider_ops gvm_provider_loop = {
	.name = "loop",
	.what = "connections within one process, for tests",
	.probe = loop_probe,
	.open = loop_open,
	.close = loop_close,
	.progress = loop_progress,
	.peek = gvm_unsupported_peek,
	.flush = loop_flush,
	.arm = loop_arm,
	.listen = gvm_loop_listen,
	.unlisten = gvm_loop_unlisten,
	.connect = gvm_loop_connect,
	.shut = loop_shut,
	.hush = gvm_unsupported_hush,
	.allow = loop_allow,
	.send = loop_send,
	.fetch = loop_fetch,
	.put = loop_put,
	.cancel = loop_cancel,
	.mem_reg = gvm_unsupported_mem_reg,
	.mem_dereg = gvm_unsupported_mem_dereg,
};
