/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The tcp provider: frames of wire.h over kernel sockets.
 *
 * Fetch and put are requests that the receiving worker serves in place, from and into the offered
 * memory. Nothing is copied but by the kernel, with one exception: what arrives is received into a
 * buffer of the worker (one for all of its connections, so that an idle one costs a few hundred
 * bytes) and copied from there, unless much of it is still missing.
 *
 *   receiving  recv() -> worker's buffer -> complete frames are served at once; the beginning of an
 *              incomplete one is kept in ep->part until the rest is there. One recv() a readiness:
 *              the poll is edge-triggered (level-triggered looks at each socket once more before
 *              each sleep), and a connection that has more waits in prov->more until the others
 *              have had their turn.
 *   sending    posts only queue (txq.h); one sendmsg() per flush takes all that is queued, at the
 *              end of serving what one recv() has brought, or when core flushes.
 *
 * What bounds a connection: TX_POSTS and TX_STAGED for what this side posts (-EAGAIN), GVM_SLOTS
 * operations under way, and TX_ANSWERS answers that the other side does not take: then it is not
 * read from until it does. More than that comes only from one that asks for more than GVM_SLOTS
 * operations at a time, so two nodes of this kind cannot block each other.
 *
 * A put is stored in whole pages: of one that breaks off in the middle of a page nothing of that
 * page is stored.
 *
 * An endpoint that has ended stays allocated until the next progress(), because callers further up
 * the stack may still hold it.
 *
 * Host names are looked up by a thread of their own (tcp_addr.h), numeric addresses at once.
 *
 * Threads: everything here belongs to one worker's thread.
 */
#include "providers/provider.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "providers/slots.h"
#include "providers/tcp_addr.h"
#include "providers/txq.h"

#define RX_BYTES        (256u << 10) /* of the worker's receive buffer */
#define RX_SERVE        (64u << 10)  /* read at once from one that asks: bounds the answers */
#define RX_DIRECT       (16u << 10)  /* this much of a payload missing: receive it into its place */
#define TX_IOV          128          /* iovecs of a sendmsg(): 64 pages */
#define TX_BATCH        64u          /* frames after which serving pauses to send */
#define TX_JOINED       8192u        /* two pieces of up to half of it are sent as one */
#define TX_POSTS        512u
#define TX_STAGED       (128u << 10)
#define TX_ANSWERS      512u
#define ACCEPT_BATCH    64
#define PAUSE_NS        100000000ull /* a listener without descriptors rests */
#define LOG_EVERY_NS    1000000000ull
#define USER_TIMEOUT_MS 30000 /* the kernel gives up on bytes that are not acknowledged */
#define PAGE            4096u

#define EP_ENDS   (EPOLLRDHUP | EPOLLERR | EPOLLHUP)
#define EP_EVENTS (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)

enum ep_state { EP_LOOKUP, EP_CONNECTING, EP_OPEN, EP_DEAD };

/* What the next bytes are. */
enum rx_state { RX_FRAME, RX_FETCHED, RX_PUT, RX_DROP };

struct tcp_ep {
	struct gvm_ep ep;
	struct gvm_watch watch;
	struct tcp_ep *flush_next, *more_next, *late_next, *dead_next;
	uint8_t state, rx;
	uint8_t allowed;   /* the handshake is through */
	uint8_t on_flush;  /* in prov->flush */
	uint8_t on_more;   /* in prov->more */
	uint8_t on_late;   /* in prov->late */
	uint8_t readable;  /* the socket may have more */
	uint8_t ending;    /* the other side has: read until it says so */
	uint8_t blocked;   /* the socket takes no more */
	uint8_t want_room; /* a post was refused */
	uint8_t silent;    /* shut() by core: no more upcalls but completions */
	uint8_t serving;   /* the other side asks for memory */
	int error;         /* found while flushing, to be told by progress() */

	struct gvm_txq *tx; /* NULL: nothing to send */
	uint64_t tx_seq;    /* number of the next frame when there is no tx */
	struct gvm_slots *slots;

	uint8_t *part; /* the beginning of an incomplete frame, or page of a put */
	uint32_t part_len, part_cap;

	/* the payload that is arriving */
	uint32_t rx_left;
	int rx_status;            /* of a put: what it will be answered */
	uint8_t *rx_to;           /* of a fetch: where the rest goes */
	struct gvm_slot *rx_slot; /* of a fetch; NULL: cancelled */
	uint64_t rx_xid, rx_key, rx_offset;

	/* while connecting */
	struct gvm_addrs *addrs;
	unsigned addr_next;
	struct gvm_lookup *lookup;
};

struct acceptor {
	struct gvm_watch watch;
	struct gvm_listener *listener;
};

struct gvm_listener {
	struct gvm_prov *prov;
	struct gvm_listener *next;
	unsigned n;
	int paused;
	struct acceptor at[GVM_ADDRS_MAX];
};

struct gvm_prov {
	struct gvm_host *host;
	const struct gvm_host_ops *up;
	struct tcp_ep *flush, **flush_end; /* endpoints with something new to send */
	struct tcp_ep *more;               /* endpoints that were not read to the end */
	struct tcp_ep *late;               /* endpoints with something to tell core */
	struct tcp_ep *dead;
	struct tcp_ep *hot; /* the one that was heard of last; NULL: it has ended */
	struct gvm_txq_pool txqs;
	struct gvm_listener *listeners;
	struct gvm_resolver *resolver;
	struct gvm_watch resolver_watch;
	struct gvm_watch rest_watch; /* a timer: the listeners have rested long enough */
	int spare_fd;                /* given up to accept and close what cannot be served */
	uint64_t log_at;
	uint8_t *rx;
	uint8_t joined[TX_JOINED];
};

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static struct tcp_ep *to_tcp(struct gvm_ep *ep)
{
	return container_of(ep, struct tcp_ep, ep);
}

/* One writer, readers on other threads. */
static void count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/*
 * The two system calls of each fetch, themselves: the C library's are points where a thread may be
 * cancelled, which nobody does here and costs two locked instructions each time.
 */
static ssize_t sys_send(int fd, const void *buf, size_t len)
{
	return syscall(SYS_sendto, fd, buf, len, MSG_NOSIGNAL, NULL, 0);
}

static ssize_t sys_recv(int fd, void *buf, size_t len)
{
	return syscall(SYS_recvfrom, fd, buf, len, 0, NULL, NULL);
}

static struct gvm_net_stats *stats(struct tcp_ep *ep)
{
	return ep->ep.prov->up->stats(ep->ep.prov->host);
}

/* ---- the end of an endpoint ---------------------------------------------------------------- */

static void complete_all(struct tcp_ep *ep, int why)
{
	struct gvm_op *op;

	while ((op = gvm_slots_pop(ep->slots)))
		ep->ep.prov->up->completed(&ep->ep, op, why);
}

static void close_socket(struct tcp_ep *ep)
{
	struct gvm_prov *prov = ep->ep.prov;

	if (ep->watch.fd < 0)
		return;
	prov->up->unwatch(prov->host, &ep->watch);
	close(ep->watch.fd);
	ep->watch.fd = -1;
}

/*
 * Have the close throw away what has not been sent, and say so by a reset. Operations that end with
 * -ECONNRESET are tried again on a new connection; the kernel, left alone with the old one, would
 * go on trying to deliver it, and an old put could arrive after a newer one.
 */
static void drop_unsent(struct tcp_ep *ep)
{
	struct linger now = { .l_onoff = 1, .l_linger = 0 };

	if (ep->watch.fd >= 0)
		setsockopt(ep->watch.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

/* Nothing but completions may be told of it from here on. */
static void ep_end(struct tcp_ep *ep, int why)
{
	struct gvm_prov *prov = ep->ep.prov;

	assert(ep->state != EP_DEAD);
	if (ep->allowed && why == -ECONNRESET)
		drop_unsent(ep);
	ep->state = EP_DEAD;
	if (prov->hot == ep)
		prov->hot = NULL;
	close_socket(ep);
	if (ep->lookup)
		ep->lookup->user = NULL;
	if (ep->tx) {
		gvm_txq_release(&prov->txqs, ep->tx, prov->up->mem_put);
		ep->tx = NULL;
	}
	free(ep->addrs);
	free(ep->part);
	ep->addrs = NULL;
	ep->part = NULL;
	ep->part_len = ep->part_cap = 0;
	ep->dead_next = prov->dead;
	prov->dead = ep;
	complete_all(ep, why);
}

static void ep_fail(struct tcp_ep *ep, int why, const char *reason)
{
	if (ep->state == EP_DEAD)
		return;
	ep_end(ep, -ECONNRESET);
	if (!ep->silent)
		ep->ep.prov->up->closed(&ep->ep, why, reason);
}

static void ep_malformed(struct tcp_ep *ep, const char *reason)
{
	ep_fail(ep, -EPROTO, reason);
}

static void ep_broken(struct tcp_ep *ep, int err)
{
	if (err == -ETIMEDOUT)
		ep_fail(ep, -ETIMEDOUT, "the other side has stopped acknowledging");
	else if (err == -ENOMEM || err == -ENOBUFS)
		ep_fail(ep, -ENOMEM, "out of memory");
	else
		ep_fail(ep, -ECONNRESET, "the connection was reset");
}

static struct tcp_ep *ep_new(struct gvm_prov *prov, int fd, void *user);

/* ---- sending ------------------------------------------------------------------------------- */

static void flush_later(struct tcp_ep *ep)
{
	struct gvm_prov *prov = ep->ep.prov;

	if (ep->on_flush)
		return;
	ep->on_flush = 1;
	ep->flush_next = NULL;
	*prov->flush_end = ep;
	prov->flush_end = &ep->flush_next;
}

static void tell_later(struct tcp_ep *ep)
{
	if (ep->on_late)
		return;
	ep->on_late = 1;
	ep->late_next = ep->ep.prov->late;
	ep->ep.prov->late = ep;
}

static int push(struct tcp_ep *ep, const struct gvm_hdr *hdr, const void *body, uint32_t body_len,
		const struct gvm_txent *ent)
{
	if (!ep->tx) {
		ep->tx = gvm_txq_get(&ep->ep.prov->txqs, ep->tx_seq);
		if (!ep->tx)
			return -ENOMEM;
	}
	return gvm_txq_push(ep->tx, hdr, body, body_len, ent);
}

/* A header and a page leave sooner as one piece than as two. */
static ssize_t send_joined(struct tcp_ep *ep, const struct iovec *iov)
{
	uint8_t *to = ep->ep.prov->joined;

	memcpy(to, iov[0].iov_base, iov[0].iov_len);
	memcpy(to + iov[0].iov_len, iov[1].iov_base, iov[1].iov_len);
	return sys_send(ep->watch.fd, to, iov[0].iov_len + iov[1].iov_len);
}

static ssize_t send_iov(struct tcp_ep *ep, struct iovec *iov, int n)
{
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = (size_t)n };

	if (n == 1)
		return sys_send(ep->watch.fd, iov->iov_base, iov->iov_len);
	if (n == 2 && iov[0].iov_len <= TX_JOINED / 2 && iov[1].iov_len <= TX_JOINED / 2)
		return send_joined(ep, iov);
	return sendmsg(ep->watch.fd, &msg, MSG_NOSIGNAL);
}

/*
 * One sendmsg(). 0: go on; 1: the socket is full, which only EAGAIN says for sure: an edge will
 * come; or a negative errno.
 */
static int send_some(struct tcp_ep *ep)
{
	struct gvm_prov *prov = ep->ep.prov;
	struct iovec iov[TX_IOV];
	ssize_t sent;
	int n = gvm_txq_iov(ep->tx, iov, TX_IOV);

	do
		sent = n ? send_iov(ep, iov, n) : 0;
	while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return errno == EAGAIN ? 1 : -errno;
	count(&stats(ep)->bytes_sent, (uint64_t)sent);
	gvm_txq_sent(ep->tx, (size_t)sent, prov->up->mem_put);
	return 0;
}

/* Send what the socket takes. 0 or a negative errno; ep->blocked says whether some is left. */
static int ep_flush(struct tcp_ep *ep)
{
	int got = 0;

	while (ep->tx && ep->tx->count && !got)
		got = send_some(ep);
	if (got < 0)
		return got;
	ep->blocked = got != 0;
	if (ep->tx && !ep->tx->count) {
		ep->tx_seq = ep->tx->seq;
		gvm_txq_release(&ep->ep.prov->txqs, ep->tx, ep->ep.prov->up->mem_put);
		ep->tx = NULL;
	}
	return 0;
}

static int has_room(const struct tcp_ep *ep, unsigned share)
{
	const struct gvm_txq *tx = ep->tx;

	if (!tx)
		return 1;
	return tx->count - tx->answers < TX_POSTS / share && gvm_txq_staged(tx) < TX_STAGED / share;
}

/* It has asked for more than it takes: it is not read from until it does. */
static int is_paused(const struct tcp_ep *ep)
{
	return ep->tx && ep->tx->answers >= TX_ANSWERS;
}

static void read_later(struct tcp_ep *ep)
{
	if (ep->on_more)
		return;
	ep->on_more = 1;
	ep->more_next = ep->ep.prov->more;
	ep->ep.prov->more = ep;
}

/* At the end of serving an endpoint: send what that has brought about, tell of room. */
static void ep_settle(struct tcp_ep *ep)
{
	int err;

	if (ep->state != EP_OPEN)
		return;
	err = ep->tx && !ep->blocked ? ep_flush(ep) : 0;
	if (err) {
		ep_broken(ep, err);
		return;
	}
	if (ep->readable && !is_paused(ep))
		read_later(ep);
	if (ep->want_room && has_room(ep, 2) && !gvm_slots_full(ep->slots)) {
		ep->want_room = 0;
		ep->ep.prov->up->writable(&ep->ep);
	}
}

/* ---- answering ----------------------------------------------------------------------------- */

static void answer(struct tcp_ep *ep, const struct gvm_hdr *hdr, const struct gvm_txent *ent)
{
	if (ep->state == EP_OPEN && !push(ep, hdr, NULL, 0, ent))
		return;
	if (ent->mem)
		ep->ep.prov->up->mem_put(ent->mem);
	ep_fail(ep, -ENOMEM, "out of memory");
}

static void answer_put(struct tcp_ep *ep)
{
	struct gvm_hdr hdr = { .type = GVM_T_STORED, .xid = ep->rx_xid };
	struct gvm_txent ent = { .answer = 1 };

	hdr.status = (uint16_t)gvm_wire_status(ep->rx_status);
	if (!ep->rx_status)
		count(&stats(ep)->puts_served, 1);
	answer(ep, &hdr, &ent);
}

static void serve_fetch(struct tcp_ep *ep, const struct gvm_hdr *req)
{
	struct gvm_hdr hdr = { .type = GVM_T_FETCHED, .xid = req->xid };
	struct gvm_txent ent = { .answer = 1 };
	struct gvm_prov *prov = ep->ep.prov;
	void *at = NULL;
	int err;

	ep->serving = 1;
	err = prov->up->mem_get(prov->host, req->region, ep->ep.owner, GVM_ACCESS_FETCH, req->page,
				req->arg, &at, &ent.mem);
	if (err) {
		hdr.status = (uint16_t)gvm_wire_status(err);
		ent.mem = NULL;
	} else {
		hdr.length = (uint32_t)req->arg;
		ent.ext = at;
		ent.ext_len = hdr.length;
		count(&stats(ep)->fetches_served, 1);
	}
	answer(ep, &hdr, &ent);
}

/* ---- receiving ----------------------------------------------------------------------------- */
/*
 * Each of these looks at n bytes and returns how many it has used; 0: it needs more to go on.
 */

/* How much of the n bytes at hand ends with a page of the memory, or with the put. */
static uint32_t whole_pages(const struct tcp_ep *ep, uint32_t n)
{
	uint64_t end;

	if (n >= ep->rx_left)
		return ep->rx_left;
	end = (ep->rx_offset + n) & ~(uint64_t)(PAGE - 1);
	return end > ep->rx_offset ? (uint32_t)(end - ep->rx_offset) : 0;
}

static uint32_t rx_put(struct tcp_ep *ep, const uint8_t *buf, uint32_t n)
{
	struct gvm_prov *prov = ep->ep.prov;
	uint32_t take = whole_pages(ep, n);
	struct gvm_mem *mem;
	void *at;

	if (!take)
		return 0;
	/* The key is looked up for each piece, so that a put that never ends does not hold memory
	 * that has been withdrawn. */
	if (!ep->rx_status)
		ep->rx_status = prov->up->mem_get(prov->host, ep->rx_key, ep->ep.owner,
						  GVM_ACCESS_PUT, ep->rx_offset, take, &at, &mem);
	if (!ep->rx_status) {
		memcpy(at, buf, take);
		prov->up->mem_put(mem);
	}
	ep->rx_offset += take;
	ep->rx_left -= take;
	if (!ep->rx_left) {
		ep->rx = RX_FRAME;
		answer_put(ep);
	}
	return take;
}

static void begin_put(struct tcp_ep *ep, const struct gvm_hdr *hdr)
{
	struct gvm_prov *prov = ep->ep.prov;
	struct gvm_mem *mem;
	void *at;

	ep->rx = RX_PUT;
	ep->rx_left = hdr->length;
	ep->rx_xid = hdr->xid;
	ep->rx_key = hdr->region;
	ep->rx_offset = hdr->page;
	/* All of it must be inside, or nothing is stored. */
	ep->rx_status = prov->up->mem_get(prov->host, hdr->region, ep->ep.owner, GVM_ACCESS_PUT,
					  hdr->page, hdr->length, &at, &mem);
	if (!ep->rx_status)
		prov->up->mem_put(mem);
}

static void end_op(struct tcp_ep *ep, struct gvm_slot *slot, int status)
{
	struct gvm_op *op = slot->op;

	gvm_slots_free(ep->slots, slot);
	if (op)
		ep->ep.prov->up->completed(&ep->ep, op, status);
}

/* The rest of a fetched payload has come by n bytes. */
static void fetched_more(struct tcp_ep *ep, uint32_t n)
{
	ep->rx_to += n;
	ep->rx_left -= n;
	if (ep->rx_left)
		return;
	ep->rx = RX_FRAME;
	end_op(ep, ep->rx_slot, 0);
}

static uint32_t rx_fetched(struct tcp_ep *ep, const uint8_t *buf, uint32_t n)
{
	uint32_t take = n < ep->rx_left ? n : ep->rx_left;

	memcpy(ep->rx_to, buf, take);
	fetched_more(ep, take);
	return take;
}

static uint32_t rx_drop(struct tcp_ep *ep, const uint8_t *buf, uint32_t n)
{
	uint32_t take = n < ep->rx_left ? n : ep->rx_left;

	ep->rx_left -= take;
	if (!ep->rx_left) {
		ep->rx = RX_FRAME;
		if (ep->rx_slot)
			end_op(ep, ep->rx_slot, -ECANCELED);
		ep->rx_slot = NULL;
	}
	return take;
}

static void begin_fetched(struct tcp_ep *ep, const struct gvm_hdr *hdr, struct gvm_slot *slot)
{
	if (hdr->status) {
		end_op(ep, slot, gvm_wire_errno(hdr->status));
		return;
	}
	if (hdr->flags & GVM_F_ZERO) {
		if (slot->op)
			memset(slot->op->buf, 0, slot->len);
		end_op(ep, slot, 0);
		return;
	}
	if (hdr->length != slot->len) {
		ep_malformed(ep, "a fetch was answered with another length than was asked for");
		return;
	}
	ep->rx_left = hdr->length;
	ep->rx_slot = slot;
	ep->rx = slot->op ? RX_FETCHED : RX_DROP;
	ep->rx_to = slot->op ? slot->op->buf : NULL;
}

static void rx_answer(struct tcp_ep *ep, const struct gvm_hdr *hdr)
{
	unsigned kind = hdr->type == GVM_T_FETCHED ? GVM_OP_FETCH : GVM_OP_PUT;
	struct gvm_slot *slot = gvm_slots_find(ep->slots, hdr->xid);

	if (!slot || slot->kind != kind)
		ep_malformed(ep, "an answer to a question that was not asked");
	else if (slot->op && !gvm_txq_is_sent(ep->tx, slot->op->prov[0]))
		ep_malformed(ep, "an answer to a question that was not yet asked");
	else if (kind == GVM_OP_FETCH)
		begin_fetched(ep, hdr, slot);
	else
		end_op(ep, slot, gvm_wire_errno(hdr->status));
}

/* A message is served when all of it is here. */
static uint32_t rx_message(struct tcp_ep *ep, const struct gvm_hdr *hdr, const uint8_t *body,
			   uint32_t n)
{
	int err;

	if (!ep->allowed && hdr->length > GVM_HELLO_MAX) {
		ep_malformed(ep, "a long message before the handshake");
		return 0;
	}
	if (n < hdr->length)
		return 0;
	err = ep->ep.prov->up->message(&ep->ep, hdr, body);
	if (err)
		ep_fail(ep, err, "the message was refused");
	return GVM_WIRE_HDR_LEN + hdr->length;
}

static int is_transfer(unsigned type)
{
	return type >= GVM_T_FETCH && type <= GVM_T_STORED;
}

static uint32_t rx_frame(struct tcp_ep *ep, const uint8_t *buf, uint32_t n)
{
	struct gvm_hdr hdr;

	if (buf[0] != GVM_WIRE_MAGIC) {
		ep_malformed(ep, "this is not the gvmnet protocol");
		return 0;
	}
	if (n < GVM_WIRE_HDR_LEN)
		return 0;
	if (gvm_hdr_decode(buf, &hdr)) {
		ep_malformed(ep, "a malformed header");
		return 0;
	}
	if (!is_transfer(hdr.type))
		return rx_message(ep, &hdr, buf + GVM_WIRE_HDR_LEN, n - GVM_WIRE_HDR_LEN);
	if (!ep->allowed) {
		ep_malformed(ep, "a fetch or put before the handshake");
		return 0;
	}
	if (hdr.type == GVM_T_FETCH)
		serve_fetch(ep, &hdr);
	else if (hdr.type == GVM_T_PUT)
		begin_put(ep, &hdr);
	else
		rx_answer(ep, &hdr);
	return GVM_WIRE_HDR_LEN;
}

static uint32_t rx_step(struct tcp_ep *ep, const uint8_t *buf, uint32_t n)
{
	switch (ep->rx) {
	case RX_FETCHED:
		return rx_fetched(ep, buf, n);
	case RX_PUT:
		return rx_put(ep, buf, n);
	case RX_DROP:
		return rx_drop(ep, buf, n);
	default:
		return rx_frame(ep, buf, n);
	}
}

/* Serve what is whole; returns the bytes used. */
static uint32_t rx_serve(struct tcp_ep *ep, const uint8_t *buf, uint32_t n)
{
	uint32_t at = 0, used;
	int err;

	while (at < n && ep->state == EP_OPEN) {
		used = rx_step(ep, buf + at, n - at);
		if (!used)
			break;
		at += used;
		if (ep->state != EP_OPEN || !ep->tx || ep->blocked || ep->tx->count < TX_BATCH)
			continue;
		err = ep_flush(ep);
		if (err)
			ep_broken(ep, err);
	}
	return at;
}

/* Keep the unused end of what was received. */
static void keep_part(struct tcp_ep *ep, const uint8_t *buf, uint32_t n)
{
	uint32_t cap = 64;

	assert(n < GVM_WIRE_HDR_LEN + GVM_WIRE_MSG_MAX);
	if (n > ep->part_cap || !n) {
		free(ep->part);
		ep->part = NULL;
		ep->part_cap = 0;
	}
	if (n && !ep->part) {
		while (cap < n)
			cap *= 2;
		ep->part = malloc(cap);
		if (!ep->part) {
			ep_fail(ep, -ENOMEM, "out of memory");
			return;
		}
		ep->part_cap = cap;
	}
	if (n)
		memcpy(ep->part, buf, n);
	ep->part_len = n;
}

/* Receive into the payload's place, and what follows it into the worker's buffer. */
static ssize_t recv_direct(struct tcp_ep *ep, size_t *room, uint32_t *placed)
{
	struct iovec iov[2] = { { ep->rx_to, ep->rx_left }, { ep->ep.prov->rx, RX_BYTES } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	ssize_t got = recvmsg(ep->watch.fd, &msg, 0);

	*room = ep->rx_left + RX_BYTES;
	if (got > 0)
		*placed = (size_t)got < ep->rx_left ? (uint32_t)got : ep->rx_left;
	return got;
}

static ssize_t recv_buffered(struct tcp_ep *ep, size_t *room)
{
	uint8_t *rx = ep->ep.prov->rx;

	*room = (ep->serving ? RX_SERVE : RX_BYTES) - ep->part_len;
	if (ep->part_len)
		memcpy(rx, ep->part, ep->part_len);
	return sys_recv(ep->watch.fd, rx + ep->part_len, *room);
}

static const char *how_ended(const struct tcp_ep *ep)
{
	if (ep->part_len || ep->rx != RX_FRAME)
		return "the connection broke off in the middle of a frame";
	return "the other side has closed the connection";
}

/* 0: there was nothing. */
static int ep_read(struct tcp_ep *ep)
{
	struct gvm_prov *prov = ep->ep.prov;
	uint32_t placed = 0, n, used;
	ssize_t got;
	size_t room;

	if (ep->rx == RX_FETCHED && ep->rx_left >= RX_DIRECT)
		got = recv_direct(ep, &room, &placed);
	else
		got = recv_buffered(ep, &room);
	if (got < 0) {
		ep->readable = errno == EINTR;
		if (errno == EAGAIN || errno == EINTR)
			return 0;
		ep_broken(ep, -errno);
		return 1;
	}
	if (!got) {
		ep_fail(ep, -ECONNRESET, how_ended(ep));
		return 1;
	}
	prov->hot = ep;
	/* The poll tells of what arrives from now on, so what did not fill the room was all. */
	ep->readable = (size_t)got == room || ep->ending;
	ep->ep.last_heard = prov->up->now(prov->host);
	count(&stats(ep)->bytes_received, (uint64_t)got);
	n = ep->part_len + (uint32_t)got - placed;
	if (placed)
		fetched_more(ep, placed);
	used = rx_serve(ep, prov->rx, n);
	if (ep->state == EP_OPEN && (n != used || ep->part))
		keep_part(ep, prov->rx + used, n - used);
	return 1;
}

/* ---- connecting ---------------------------------------------------------------------------- */

static void set_options(int fd)
{
	int one = 1, ms = USER_TIMEOUT_MS;

	/* Neither can fail on a TCP socket in a way that matters. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
}

static int dial(struct tcp_ep *ep, unsigned i)
{
	const struct sockaddr *sa = (const void *)&ep->addrs->at[i].sa;
	struct gvm_prov *prov = ep->ep.prov;
	int fd, err;

	fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	set_options(fd);
	if (connect(fd, sa, ep->addrs->at[i].len) && errno != EINPROGRESS) {
		err = -errno;
		goto close_fd;
	}
	ep->watch.fd = fd;
	err = prov->up->watch(prov->host, &ep->watch, EP_EVENTS);
	if (err)
		goto forget_fd;
	gvm_addr_print(sa, ep->ep.name, sizeof(ep->ep.name));
	ep->state = EP_CONNECTING;
	return 0;

forget_fd:
	ep->watch.fd = -1;
close_fd:
	close(fd);
	return err;
}

/* Try the addresses that are left; err is how the one before has failed. */
static int dial_next(struct tcp_ep *ep, int err)
{
	while (ep->addr_next < ep->addrs->n) {
		err = dial(ep, ep->addr_next++);
		if (!err)
			break;
	}
	return err;
}

static void not_connected(struct tcp_ep *ep, int err)
{
	ep_end(ep, err);
	ep->ep.prov->up->connected(&ep->ep, err);
}

static void connect_ready(struct tcp_ep *ep)
{
	struct gvm_prov *prov = ep->ep.prov;
	socklen_t len = sizeof(int);
	int err = 0;

	if (getsockopt(ep->watch.fd, SOL_SOCKET, SO_ERROR, &err, &len))
		err = errno;
	if (!err && gvm_addr_is_self(ep->watch.fd))
		err = ECONNREFUSED;
	if (err) {
		close_socket(ep);
		err = dial_next(ep, -err);
		if (err)
			not_connected(ep, err);
		return;
	}
	free(ep->addrs);
	ep->addrs = NULL;
	ep->state = EP_OPEN;
	ep->ep.last_heard = prov->up->now(prov->host);
	prov->up->connected(&ep->ep, 0);
}

static void lookup_done(struct tcp_ep *ep, const struct gvm_lookup *l)
{
	int err = l->err;

	ep->lookup = NULL;
	if (!err) {
		*ep->addrs = l->addrs;
		err = dial_next(ep, -EHOSTUNREACH);
	}
	if (err)
		not_connected(ep, err);
}

static void resolver_ready(struct gvm_watch *watch, uint32_t events)
{
	struct gvm_prov *prov = container_of(watch, struct gvm_prov, resolver_watch);
	struct gvm_lookup *l;

	while ((l = gvm_resolver_next(prov->resolver))) {
		if (l->user)
			lookup_done(l->user, l);
		free(l);
	}
}

static int open_resolver(struct gvm_prov *prov)
{
	int err;

	if (prov->resolver)
		return 0;
	err = gvm_resolver_open(&prov->resolver, &prov->resolver_watch.fd);
	if (err)
		return err;
	prov->resolver_watch.ready = resolver_ready;
	err = prov->up->watch(prov->host, &prov->resolver_watch, EPOLLIN);
	if (err) {
		gvm_resolver_close(prov->resolver);
		prov->resolver = NULL;
	}
	return err;
}

static int look_up(struct tcp_ep *ep, const char *host, unsigned port)
{
	int err = open_resolver(ep->ep.prov);

	if (err)
		return err;
	ep->state = EP_LOOKUP;
	return gvm_resolver_ask(ep->ep.prov->resolver, host, port, ep, &ep->lookup);
}

static int tcp_connect(struct gvm_prov *prov, const char *host, unsigned port, void *user,
		       struct gvm_ep **out)
{
	struct tcp_ep *ep = ep_new(prov, -1, user);
	int err = -ENOMEM;

	if (!ep)
		return -ENOMEM;
	ep->addrs = malloc(sizeof(*ep->addrs));
	if (!ep->addrs)
		goto free_ep;
	snprintf(ep->ep.name, sizeof(ep->ep.name), "%.50s:%u", host, port);
	if (gvm_addrs_numeric(host, port, ep->addrs))
		err = look_up(ep, host, port);
	else
		err = dial_next(ep, -EHOSTUNREACH);
	if (err)
		goto free_addrs;
	*out = &ep->ep;
	return 0;

free_addrs:
	free(ep->addrs);
free_ep:
	free(ep);
	return err;
}

/* ---- endpoints ----------------------------------------------------------------------------- */

static void ep_ready(struct gvm_watch *watch, uint32_t events)
{
	struct tcp_ep *ep = container_of(watch, struct tcp_ep, watch);
	int err = 0;

	if (ep->state == EP_CONNECTING)
		connect_ready(ep);
	if (ep->state != EP_OPEN)
		return;
	if (ep->blocked && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
		ep->blocked = 0;
		err = ep_flush(ep);
	}
	if (events & (EPOLLIN | EP_ENDS))
		ep->readable = 1;
	if (events & EP_ENDS)
		ep->ending = 1;
	/* Read also after an error in sending: what the other side said last is still in there. */
	if (ep->readable && !is_paused(ep))
		ep_read(ep);
	else if (!err && (events & (EPOLLERR | EPOLLHUP)))
		err = -ECONNRESET;
	if (err && ep->state == EP_OPEN && !(events & EPOLLIN))
		ep_broken(ep, err);
	ep_settle(ep);
}

static struct tcp_ep *ep_new(struct gvm_prov *prov, int fd, void *user)
{
	struct tcp_ep *ep = calloc(1, sizeof(*ep));

	if (!ep)
		return NULL;
	ep->ep.ops = &gvm_provider_tcp;
	ep->ep.prov = prov;
	ep->ep.user = user;
	ep->watch.fd = fd;
	ep->watch.ready = ep_ready;
	return ep;
}

static void tcp_shut(struct gvm_ep *gep, int why)
{
	struct tcp_ep *ep = to_tcp(gep);

	ep->silent = 1;
	if (ep->state == EP_DEAD) {
		complete_all(ep, why);
		return;
	}
	if (ep->state == EP_OPEN && !(ep->allowed && why == -ECONNRESET) && !ep_flush(ep)) {
		/* Unread bytes would turn the close into a reset, which may overtake what was just
		 * sent, e.g. why the other side is refused. */
		shutdown(ep->watch.fd, SHUT_WR);
		for (int i = 0; i < 8; i++)
			if (recv(ep->watch.fd, NULL, RX_BYTES, MSG_TRUNC) <= 0)
				break;
	}
	ep_end(ep, why);
}

/* The kernel says nothing of a socket that another descriptor still has. */
static int tcp_hush(struct gvm_ep *ep)
{
	int fd = to_tcp(ep)->watch.fd;

	return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static void tcp_allow(struct gvm_ep *ep)
{
	to_tcp(ep)->allowed = 1;
}

/* ---- posting ------------------------------------------------------------------------------- */

/* May a frame be posted? -EAGAIN is remembered. */
static int may_post(struct tcp_ep *ep)
{
	if (ep->state != EP_OPEN)
		return ep->state == EP_DEAD ? -ECONNRESET : -ENOTCONN;
	if (has_room(ep, 1))
		return 0;
	ep->want_room = 1;
	return -EAGAIN;
}

static int tcp_send(struct gvm_ep *gep, const struct gvm_hdr *hdr, const void *payload)
{
	struct tcp_ep *ep = to_tcp(gep);
	struct gvm_txent ent = { 0 };
	int err = may_post(ep);

	if (!err)
		err = push(ep, hdr, payload, hdr->length, &ent);
	if (!err)
		flush_later(ep);
	return err;
}

static int may_post_op(struct tcp_ep *ep)
{
	int err = may_post(ep);

	if (err)
		return err;
	if (!ep->slots) {
		ep->slots = calloc(1, sizeof(*ep->slots));
		return ep->slots ? 0 : -ENOMEM;
	}
	if (!gvm_slots_full(ep->slots))
		return 0;
	ep->want_room = 1;
	return -EAGAIN;
}

static int post_op(struct tcp_ep *ep, struct gvm_op *op, const struct gvm_hdr *hdr,
		   const struct gvm_txent *ent, enum gvm_op_kind kind)
{
	int err = may_post_op(ep);

	if (!err)
		err = push(ep, hdr, NULL, 0, ent);
	if (err)
		return err;
	op->prov[0] = ep->tx->seq + ep->tx->count - 1;
	gvm_slots_add(ep->slots, op, kind);
	flush_later(ep);
	return 0;
}

static int tcp_fetch(struct gvm_ep *ep, struct gvm_op *op)
{
	struct gvm_hdr hdr = { .type = GVM_T_FETCH,
			       .xid = op->xid,
			       .region = op->key,
			       .page = op->offset,
			       .arg = op->len };
	struct gvm_txent ent = { 0 };

	return post_op(to_tcp(ep), op, &hdr, &ent, GVM_OP_FETCH);
}

static int tcp_put(struct gvm_ep *ep, struct gvm_op *op)
{
	struct gvm_hdr hdr = { .type = GVM_T_PUT,
			       .xid = op->xid,
			       .region = op->key,
			       .page = op->offset,
			       .length = op->len };
	struct gvm_txent ent = { .ext = op->buf, .ext_len = op->len };

	return post_op(to_tcp(ep), op, &hdr, &ent, GVM_OP_PUT);
}

static int tcp_cancel(struct gvm_ep *gep, struct gvm_op *op)
{
	struct tcp_ep *ep = to_tcp(gep);
	struct gvm_slot *slot = gvm_slots_of(ep->slots, op);

	if (!slot)
		return 0;
	if (!gvm_txq_is_sent(ep->tx, op->prov[0])) {
		/* A fetch that is half sent has nothing of the caller's in it. */
		if (!gvm_txq_remove(ep->tx, op->prov[0])) {
			gvm_slots_free(ep->slots, slot);
			if (ep->want_room)
				tell_later(ep);
		} else if (slot->kind == GVM_OP_PUT) {
			return -EBUSY;
		} else {
			slot->op = NULL;
		}
		return 0;
	}
	slot->op = NULL;
	if (ep->rx == RX_FETCHED && ep->rx_slot == slot)
		ep->rx = RX_DROP;
	return 0;
}

/* ---- listening ----------------------------------------------------------------------------- */

static void accept_log(struct gvm_prov *prov, int err)
{
	uint64_t now = prov->up->now(prov->host);

	if (now < prov->log_at)
		return;
	prov->log_at = now + LOG_EVERY_NS;
	gvm_log(GVM_LOG_WARN, "cannot accept a connection: %s; raise the limit of open files",
		strerror(-err));
}

static void listeners_watch(struct gvm_prov *prov, int on)
{
	for (struct gvm_listener *l = prov->listeners; l; l = l->next) {
		if (l->paused == !on)
			continue;
		l->paused = !on;
		for (unsigned i = 0; i < l->n; i++)
			prov->up->rewatch(prov->host, &l->at[i].watch, on ? EPOLLIN : 0);
	}
}

static void spare_open(struct gvm_prov *prov)
{
	if (prov->spare_fd < 0)
		prov->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/*
 * There is no descriptor for a connection that waits. It must be taken and closed, or it would be
 * reported for ever; the spare descriptor makes that possible. Where even that fails the listeners
 * rest for a while.
 */
static void accept_drop(struct gvm_prov *prov, int listen_fd, int err)
{
	const struct itimerspec rest = { .it_value = { .tv_nsec = PAUSE_NS } };
	int fd = -1;

	accept_log(prov, err);
	if (prov->spare_fd >= 0) {
		close(prov->spare_fd);
		prov->spare_fd = -1;
		fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	}
	if (fd >= 0)
		close(fd);
	spare_open(prov);
	if (fd >= 0 && prov->spare_fd >= 0)
		return;
	timerfd_settime(prov->rest_watch.fd, 0, &rest, NULL);
	listeners_watch(prov, 0);
}

/* A worker with nothing else to do sleeps without end, so it is a timer of the poll set that ends
 * it. */
static void rest_is_over(struct gvm_watch *watch, uint32_t events)
{
	struct gvm_prov *prov = container_of(watch, struct gvm_prov, rest_watch);
	uint64_t times;

	if (read(watch->fd, &times, sizeof(times)) != sizeof(times))
		return;
	spare_open(prov);
	listeners_watch(prov, 1);
}

/* Made before the first listener: when it is needed there are no descriptors left. */
static int rest_open(struct gvm_prov *prov)
{
	int err;

	if (prov->rest_watch.fd >= 0)
		return 0;
	prov->rest_watch.ready = rest_is_over;
	prov->rest_watch.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (prov->rest_watch.fd < 0)
		return -errno;
	err = prov->up->watch(prov->host, &prov->rest_watch, EPOLLIN);
	if (err) {
		close(prov->rest_watch.fd);
		prov->rest_watch.fd = -1;
	}
	return err;
}

static void accept_one(struct gvm_listener *l, int fd, const struct sockaddr *sa)
{
	struct gvm_prov *prov = l->prov;
	struct tcp_ep *ep = ep_new(prov, fd, NULL);
	int err;

	if (!ep) {
		close(fd);
		return;
	}
	set_options(fd);
	gvm_addr_print(sa, ep->ep.name, sizeof(ep->ep.name));
	ep->state = EP_OPEN;
	ep->ep.last_heard = prov->up->now(prov->host);
	err = prov->up->watch(prov->host, &ep->watch, EP_EVENTS);
	if (err) {
		accept_log(prov, err);
		close(fd);
		free(ep);
		return;
	}
	prov->up->accepted(prov->host, l, &ep->ep);
}

static void acceptor_ready(struct gvm_watch *watch, uint32_t events)
{
	struct acceptor *a = container_of(watch, struct acceptor, watch);
	struct gvm_listener *l = a->listener;
	struct sockaddr_storage sa;
	socklen_t len;
	int fd;

	for (int i = 0; i < ACCEPT_BATCH && !l->paused; i++) {
		len = sizeof(sa);
		fd = accept4(watch->fd, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0) {
			accept_one(l, fd, (const struct sockaddr *)&sa);
			continue;
		}
		if (errno == EAGAIN)
			return;
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			accept_drop(l->prov, watch->fd, -errno);
	}
}

static void listener_close(struct gvm_listener *l)
{
	while (l->n) {
		struct gvm_watch *watch = &l->at[--l->n].watch;

		l->prov->up->unwatch(l->prov->host, watch);
		gvm_addr_unlisten(watch->fd);
		close(watch->fd);
	}
}

static int listener_add(struct gvm_listener *l, const struct gvm_addrs *addrs, unsigned i,
			unsigned *port)
{
	struct acceptor *a = &l->at[l->n];
	int err = gvm_addr_listen(addrs, i, port, &a->watch.fd);

	if (err)
		return err;
	a->listener = l;
	a->watch.ready = acceptor_ready;
	err = l->prov->up->watch(l->prov->host, &a->watch, EPOLLIN);
	if (err) {
		gvm_addr_unlisten(a->watch.fd);
		close(a->watch.fd);
		return err;
	}
	l->n++;
	return 0;
}

/* An address of a name that this machine does not have is passed over if there is another. */
static int listener_open(struct gvm_listener *l, const struct gvm_addrs *addrs, unsigned *port)
{
	int err = -EADDRNOTAVAIL, got;

	for (unsigned i = 0; i < addrs->n; i++) {
		got = listener_add(l, addrs, i, port);
		if (!got)
			continue;
		err = got;
		if (got == -EAFNOSUPPORT || got == -EADDRNOTAVAIL)
			continue;
		listener_close(l);
		return got;
	}
	return l->n ? 0 : err;
}

static int tcp_listen(struct gvm_prov *prov, const char *host, unsigned port,
		      struct gvm_listener **listener, unsigned *bound_port)
{
	struct gvm_listener *l;
	struct gvm_addrs addrs;
	unsigned bound = port;
	int err = gvm_addrs_passive(host, port, &addrs);

	if (!err)
		err = rest_open(prov);
	if (err)
		return err;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->prov = prov;
	spare_open(prov);
	/* A port that is free at one address need not be at the next. */
	for (int tries = 0; tries < 16; tries++) {
		bound = port;
		err = listener_open(l, &addrs, &bound);
		if (err != -EADDRINUSE || port)
			break;
	}
	if (err) {
		free(l);
		return err;
	}
	l->next = prov->listeners;
	prov->listeners = l;
	*listener = l;
	if (bound_port)
		*bound_port = bound;
	return 0;
}

static void tcp_unlisten(struct gvm_listener *l)
{
	struct gvm_listener **at = &l->prov->listeners;

	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	listener_close(l);
	free(l);
}

/* ---- rounds -------------------------------------------------------------------------------- */

/* Send for all that have something new. What that turns up is told by progress(). */
static void tcp_flush(struct gvm_prov *prov)
{
	while (prov->flush) {
		struct tcp_ep *ep = prov->flush;

		prov->flush = ep->flush_next;
		if (!prov->flush)
			prov->flush_end = &prov->flush;
		ep->on_flush = 0;
		if (ep->state != EP_OPEN || ep->blocked || !ep->tx)
			continue;
		ep->error = ep_flush(ep);
		if (ep->error || ep->blocked || ep->want_room)
			tell_later(ep);
	}
}

static int read_more(struct gvm_prov *prov)
{
	struct tcp_ep *list = prov->more, *ep;
	int n = 0;

	prov->more = NULL;
	while ((ep = list)) {
		list = ep->more_next;
		ep->on_more = 0;
		if (ep->state != EP_OPEN || !ep->readable || is_paused(ep))
			continue;
		n++;
		ep_read(ep);
		ep_settle(ep);
	}
	return n;
}

static int tell(struct gvm_prov *prov)
{
	struct tcp_ep *list = prov->late, *ep;
	int n = 0;

	prov->late = NULL;
	while ((ep = list)) {
		list = ep->late_next;
		ep->on_late = 0;
		if (ep->state != EP_OPEN)
			continue;
		n++;
		if (ep->error) {
			ep_read(ep); /* what the other side said last */
			ep_broken(ep, ep->error);
		} else {
			ep_settle(ep);
		}
	}
	return n;
}

static void bury(struct gvm_prov *prov)
{
	struct tcp_ep *list = prov->dead, *ep;

	prov->dead = NULL;
	while ((ep = list)) {
		list = ep->dead_next;
		if (ep->on_flush || ep->on_more || ep->on_late) {
			ep->dead_next = prov->dead;
			prov->dead = ep;
			continue;
		}
		free(ep->slots);
		free(ep);
	}
}

static int tcp_progress(struct gvm_prov *prov)
{
	int n = 0;

	tcp_flush(prov);
	if (prov->more)
		n += read_more(prov);
	if (prov->late)
		n += tell(prov);
	if (prov->dead)
		bury(prov);
	return n;
}

/* An answer, or the next request of a burst, comes over the connection of the last one. */
static int tcp_peek(struct gvm_prov *prov)
{
	struct tcp_ep *ep = prov->hot;

	if (!ep || is_paused(ep) || ep->part_len || !ep_read(ep))
		return 0;
	ep_settle(ep);
	return 1;
}

static int tcp_arm(struct gvm_prov *prov)
{
	return prov->flush || prov->more || prov->late;
}

static int tcp_open(struct gvm_host *host, const struct gvm_host_ops *ops, const char *args,
		    struct gvm_prov **out)
{
	struct gvm_prov *prov;

	if (args && *args)
		return -EINVAL;
	prov = calloc(1, sizeof(*prov));
	if (!prov)
		return -ENOMEM;
	prov->rx = malloc(RX_BYTES);
	if (!prov->rx) {
		free(prov);
		return -ENOMEM;
	}
	prov->host = host;
	prov->up = ops;
	prov->flush_end = &prov->flush;
	prov->spare_fd = prov->rest_watch.fd = -1;
	*out = prov;
	return 0;
}

static void tcp_close(struct gvm_prov *prov)
{
	assert(!prov->listeners);
	tcp_flush(prov); /* unlinks the dead from the lists */
	read_more(prov);
	tell(prov);
	bury(prov);
	assert(!prov->dead);
	if (prov->resolver) {
		prov->up->unwatch(prov->host, &prov->resolver_watch);
		gvm_resolver_close(prov->resolver);
	}
	if (prov->rest_watch.fd >= 0) {
		prov->up->unwatch(prov->host, &prov->rest_watch);
		close(prov->rest_watch.fd);
	}
	if (prov->spare_fd >= 0)
		close(prov->spare_fd);
	gvm_txq_pool_drain(&prov->txqs);
	free(prov->rx);
	free(prov);
}

static int tcp_probe(const char **why)
{
	return 0;
}

const struct gvm_provider_ops gvm_provider_tcp = {
	.name = "tcp",
	.what = "kernel TCP sockets, IPv4 and IPv6",
	.probe = tcp_probe,
	.open = tcp_open,
	.close = tcp_close,
	.progress = tcp_progress,
	.peek = tcp_peek,
	.flush = tcp_flush,
	.arm = tcp_arm,
	.listen = tcp_listen,
	.unlisten = tcp_unlisten,
	.connect = tcp_connect,
	.shut = tcp_shut,
	.hush = tcp_hush,
	.allow = tcp_allow,
	.send = tcp_send,
	.fetch = tcp_fetch,
	.put = tcp_put,
	.cancel = tcp_cancel,
	.mem_reg = gvm_unsupported_mem_reg,
	.mem_dereg = gvm_unsupported_mem_dereg,
};
