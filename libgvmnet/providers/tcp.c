/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The tcp provider: streams (stream.h) over kernel sockets; connecting, and the worker's rounds.
 *
 * Nothing is copied but by the kernel, with one exception: what arrives is received into a buffer
 * of the worker (one for all of its connections, so that an idle one costs a few hundred bytes) and
 * copied from there, unless much of it is still missing.
 *
 *   receiving  recv() -> worker's buffer -> complete frames are served at once; the beginning of an
 *              incomplete one is kept by the stream until the rest is there. One recv() a
 *              readiness: the poll is edge-triggered (level-triggered looks at each socket once
 *              more before each sleep), and a connection that has more waits in prov->more until
 *              the others have had their turn.
 *   sending    posts only queue (txq.h); one sendmsg() per flush takes all that is queued, at the
 *              end of serving what one recv() has brought, or when core flushes. One that was
 *              posted something later than others does not leave before them.
 *
 * An endpoint that has ended stays allocated until the next progress(), because callers further up
 * the stack may still hold it.
 *
 * Host names are looked up by a thread of their own (tcp_addr.h), numeric addresses at once.
 *
 * Threads: everything here belongs to one worker's thread.
 */
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
#include <unistd.h>

#include "providers/stream.h"
#include "providers/tcp_accept.h"
#include "providers/tcp_dial.h"

#define RX_BYTES        (256u << 10) /* of the worker's receive buffer */
#define RX_SERVE        (64u << 10)  /* read at once from one that asks: bounds the answers */
#define TX_IOV          128          /* iovecs of a sendmsg(): 64 pages */
#define TX_JOINED       8192u        /* two pieces of up to half of it are sent as one */
#define USER_TIMEOUT_MS 30000        /* the kernel gives up on bytes that are not acknowledged */

#define EP_EVENTS (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)
#define EP_ENDS   (EPOLLRDHUP | EPOLLERR | EPOLLHUP)

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

struct tcp_ep {
	struct gvm_ep ep;
	struct gvm_stream s; /* NEW: looked up (no descriptor yet) or connecting */
	struct gvm_watch watch;
	struct tcp_ep *flush_next, *more_next, *late_next, *dead_next;
	uint8_t on_flush; /* in prov->flush */
	uint8_t on_more;  /* in prov->more */
	uint8_t on_late;  /* in prov->late */
	uint8_t readable; /* the socket may have more */
	uint8_t ending;   /* the other side has: read until it says so */
	uint8_t silent;   /* shut() by core: no more upcalls but completions */
	int error;        /* found while flushing, to be told by progress() */

	/* while connecting */
	struct gvm_dial dial;
};

struct gvm_listener {
	struct gvm_prov *prov;
	struct gvm_acceptor acceptor;
};

struct gvm_prov {
	struct gvm_stream_env env;
	struct tcp_ep *flush, **flush_end; /* endpoints with something new to send */
	struct tcp_ep *more;               /* endpoints that were not read to the end */
	struct tcp_ep *late;               /* endpoints with something to tell core */
	struct tcp_ep *dead;
	struct tcp_ep *hot; /* the one that was heard of last; NULL: it has ended */
	struct gvm_acceptors acceptors;
	struct gvm_dialler dialler;
	uint8_t *rx;
	uint8_t joined[TX_JOINED];
};

static struct tcp_ep *to_tcp(struct gvm_ep *ep)
{
	return container_of(ep, struct tcp_ep, ep);
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

/* ---- the end of an endpoint ---------------------------------------------------------------- */

static void close_socket(struct tcp_ep *ep)
{
	struct gvm_prov *prov = ep->ep.prov;

	if (ep->watch.fd < 0)
		return;
	prov->env.up->unwatch(prov->env.host, &ep->watch);
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

	assert(ep->s.state != GVM_STREAM_DEAD);
	if (ep->s.allowed && why == -ECONNRESET)
		drop_unsent(ep);
	if (prov->hot == ep)
		prov->hot = NULL;
	gvm_dial_stop(&ep->dial);
	close_socket(ep);
	ep->dead_next = prov->dead;
	prov->dead = ep;
	gvm_stream_end(&ep->s, why);
}

static void ep_fail(struct tcp_ep *ep, int why, const char *reason)
{
	if (ep->s.state == GVM_STREAM_DEAD)
		return;
	ep_end(ep, -ECONNRESET);
	if (!ep->silent)
		ep->ep.prov->env.up->closed(&ep->ep, why, reason);
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

/*
 * EFAULT: memory of this process that is to be sent, or received into, cannot be had. That is no
 * fault of the connection, which would only be made again, and again. Whoever touches such memory
 * is told by a signal, as send_joined() is, and the program may have something to say to that: a
 * memory node knows that its image was cut short, or that its disk fails.
 */
static void touch(const struct iovec *iov, int n)
{
	for (; n > 0; n--, iov++) {
		const volatile uint8_t *at = iov->iov_base;

		for (size_t i = 0; i < iov->iov_len; i += GVM_PAGE_SIZE)
			(void)at[i];
		if (iov->iov_len)
			(void)at[iov->iov_len - 1];
	}
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
	struct iovec iov[TX_IOV];
	ssize_t sent;
	int n = gvm_txq_iov(ep->s.tx, iov, TX_IOV);

	do
		sent = n ? send_iov(ep, iov, n) : 0;
	while (sent < 0 && errno == EINTR);
	if (sent < 0) {
		int err = errno;

		if (err == EFAULT)
			touch(iov, n);
		return err == EAGAIN ? 1 : -err;
	}
	gvm_stream_sent(&ep->s, (size_t)sent);
	return 0;
}

/* Send what the socket takes. 0 or a negative errno; ep->s.blocked says whether some is left. */
static int ep_flush(struct tcp_ep *ep)
{
	int got = 0;

	while (gvm_stream_has_tx(&ep->s) && !got)
		got = send_some(ep);
	if (got < 0)
		return got;
	ep->s.blocked = got != 0;
	gvm_stream_rest(&ep->s);
	return 0;
}

static void read_later(struct tcp_ep *ep)
{
	if (ep->on_more)
		return;
	ep->on_more = 1;
	ep->more_next = ep->ep.prov->more;
	ep->ep.prov->more = ep;
}

static struct tcp_ep *next_to_flush(struct gvm_prov *prov)
{
	struct tcp_ep *ep = prov->flush;

	prov->flush = ep->flush_next;
	if (!prov->flush)
		prov->flush_end = &prov->flush;
	ep->on_flush = 0;
	return ep;
}

/*
 * Whether others wait for their flush that were sent something before this one was. It has to wait
 * with them then: what serving one endpoint brings about leaves in the order in which it was
 * posted. A request that is passed on is waited for, what its sender is told meanwhile is not.
 */
static int is_behind_others(struct tcp_ep *ep)
{
	struct gvm_prov *prov = ep->ep.prov;

	if (ep->on_flush && prov->flush == ep)
		next_to_flush(prov);
	return ep->on_flush;
}

/* At the end of serving an endpoint: send what that has brought about, tell of room. */
static void ep_settle(struct tcp_ep *ep)
{
	int err = 0;

	if (ep->s.state != GVM_STREAM_OPEN)
		return;
	if (ep->s.tx && !ep->s.blocked && !is_behind_others(ep))
		err = ep_flush(ep);
	if (err) {
		ep_broken(ep, err);
		return;
	}
	if (ep->readable && !gvm_stream_is_paused(&ep->s))
		read_later(ep);
	gvm_stream_tell_room(&ep->s);
}

/* ---- receiving ----------------------------------------------------------------------------- */

/* Receive into the payload's place, and what follows it into the worker's buffer. */
static ssize_t recv_direct(struct tcp_ep *ep, size_t *room, uint32_t *placed)
{
	struct iovec iov[2] = { { ep->s.rx_to, ep->s.rx_left }, { ep->ep.prov->rx, RX_BYTES } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	ssize_t got = recvmsg(ep->watch.fd, &msg, 0);

	*room = ep->s.rx_left + RX_BYTES;
	if (got > 0)
		*placed = (size_t)got < ep->s.rx_left ? (uint32_t)got : ep->s.rx_left;
	else if (got < 0 && errno == EFAULT)
		touch(iov, 1);
	return got;
}

static ssize_t recv_buffered(struct tcp_ep *ep, size_t *room)
{
	uint8_t *rx = ep->ep.prov->rx;

	*room = (ep->s.serving ? RX_SERVE : RX_BYTES) - ep->s.part_len;
	if (ep->s.part_len)
		memcpy(rx, ep->s.part, ep->s.part_len);
	return sys_recv(ep->watch.fd, rx + ep->s.part_len, *room);
}

static const char *how_ended(const struct tcp_ep *ep)
{
	if (gvm_stream_in_frame(&ep->s))
		return "the connection broke off in the middle of a frame";
	return "the other side has closed the connection";
}

/* 0: there was nothing. */
static int ep_read(struct tcp_ep *ep)
{
	struct gvm_prov *prov = ep->ep.prov;
	uint32_t placed = 0, n;
	ssize_t got;
	size_t room;

	if (gvm_stream_is_direct(&ep->s))
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
	ep->ep.last_heard = prov->env.up->now(prov->env.host);
	gvm_count(&gvm_stream_stats(&ep->s)->bytes_received, (uint64_t)got);
	n = ep->s.part_len + (uint32_t)got - placed;
	if (placed)
		gvm_stream_placed(&ep->s, placed);
	gvm_stream_take(&ep->s, prov->rx, n);
	return 1;
}

/* ---- what the stream asks ------------------------------------------------------------------ */

static struct tcp_ep *of_stream(struct gvm_stream *s)
{
	return container_of(s, struct tcp_ep, s);
}

static void stream_flush(struct gvm_stream *s)
{
	int err = ep_flush(of_stream(s));

	if (err)
		ep_broken(of_stream(s), err);
}

static void stream_fail(struct gvm_stream *s, int why, const char *reason)
{
	ep_fail(of_stream(s), why, reason);
}

/* No hardware reaches memory over this connection. */
static void stream_mapping(struct gvm_stream *s, const struct gvm_hdr *hdr, const uint8_t *body)
{
	gvm_stream_malformed(s, "a frame that is for hardware which reaches memory");
}

static const struct gvm_stream_ops stream_ops = {
	.flush = stream_flush,
	.fail = stream_fail,
	.mapping = stream_mapping,
};

/* ---- connecting ---------------------------------------------------------------------------- */

static void not_connected(struct tcp_ep *ep, int err)
{
	ep_end(ep, err);
	ep->ep.prov->env.up->connected(&ep->ep, err);
}

static void dial_failed(struct gvm_dial *dial, int err)
{
	not_connected(container_of(dial, struct tcp_ep, dial), err);
}

static void connect_ready(struct tcp_ep *ep)
{
	struct gvm_prov *prov = ep->ep.prov;
	int err = gvm_dial_ready(&ep->dial);

	if (err) {
		if (err != -EINPROGRESS)
			not_connected(ep, err);
		return;
	}
	ep->s.state = GVM_STREAM_OPEN;
	ep->ep.last_heard = prov->env.up->now(prov->env.host);
	prov->env.up->connected(&ep->ep, 0);
}

static void ep_ready(struct gvm_watch *watch, uint32_t events);

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
	gvm_stream_init(&ep->s, &prov->env, &ep->ep);
	return ep;
}

static int tcp_connect(struct gvm_prov *prov, const char *host, unsigned port, void *user,
		       struct gvm_ep **out)
{
	struct tcp_ep *ep = ep_new(prov, -1, user);
	int err;

	if (!ep)
		return -ENOMEM;
	ep->dial = (struct gvm_dial){ .ep = &ep->ep, .watch = &ep->watch, .events = EP_EVENTS };
	snprintf(ep->ep.name, sizeof(ep->ep.name), "%.50s:%u", host, port);
	err = gvm_dial_start(&prov->dialler, &ep->dial, host, port);
	if (err) {
		free(ep);
		return err;
	}
	*out = &ep->ep;
	return 0;
}

/* ---- endpoints ----------------------------------------------------------------------------- */

static void ep_ready(struct gvm_watch *watch, uint32_t events)
{
	struct tcp_ep *ep = container_of(watch, struct tcp_ep, watch);
	int err = 0;

	if (ep->s.state == GVM_STREAM_NEW)
		connect_ready(ep);
	if (ep->s.state != GVM_STREAM_OPEN)
		return;
	if (ep->s.blocked && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
		ep->s.blocked = 0;
		err = ep_flush(ep);
	}
	if (events & (EPOLLIN | EP_ENDS))
		ep->readable = 1;
	if (events & EP_ENDS)
		ep->ending = 1;
	/* Read also after an error in sending: what the other side said last is still in there. */
	if (ep->readable && !gvm_stream_is_paused(&ep->s))
		ep_read(ep);
	else if (!err && (events & (EPOLLERR | EPOLLHUP)))
		err = -ECONNRESET;
	if (err && ep->s.state == GVM_STREAM_OPEN && !(events & EPOLLIN))
		ep_broken(ep, err);
	ep_settle(ep);
}

static void accept_one(struct gvm_acceptor *acceptor, int fd, const struct sockaddr *from)
{
	struct gvm_listener *l = container_of(acceptor, struct gvm_listener, acceptor);
	struct gvm_prov *prov = l->prov;
	struct tcp_ep *ep = ep_new(prov, fd, NULL);
	int err;

	if (!ep) {
		close(fd);
		return;
	}
	gvm_dial_options(fd);
	gvm_addr_print(from, ep->ep.name, sizeof(ep->ep.name));
	ep->s.state = GVM_STREAM_OPEN;
	ep->ep.last_heard = prov->env.up->now(prov->env.host);
	err = prov->env.up->watch(prov->env.host, &ep->watch, EP_EVENTS);
	if (err) {
		gvm_acceptors_log(&prov->acceptors, err);
		close(fd);
		free(ep);
		return;
	}
	prov->env.up->accepted(prov->env.host, l, &ep->ep);
}

static int tcp_listen(struct gvm_prov *prov, const char *host, unsigned port,
		      struct gvm_listener **listener, unsigned *bound_port)
{
	struct gvm_listener *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return -ENOMEM;
	l->prov = prov;
	err = gvm_acceptor_open(&prov->acceptors, &l->acceptor, host, port, bound_port);
	if (err) {
		free(l);
		return err;
	}
	*listener = l;
	return 0;
}

static void tcp_unlisten(struct gvm_listener *l)
{
	gvm_acceptor_close(&l->acceptor);
	free(l);
}

static void tcp_shut(struct gvm_ep *gep, int why)
{
	struct tcp_ep *ep = to_tcp(gep);

	ep->silent = 1;
	if (ep->s.state == GVM_STREAM_DEAD) {
		gvm_stream_complete_all(&ep->s, why);
		return;
	}
	if (ep->s.state == GVM_STREAM_OPEN && !(ep->s.allowed && why == -ECONNRESET) &&
	    !ep_flush(ep)) {
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
	to_tcp(ep)->s.allowed = 1;
}

/* ---- posting ------------------------------------------------------------------------------- */

static int tcp_send(struct gvm_ep *gep, const struct gvm_hdr *hdr, const void *payload)
{
	struct tcp_ep *ep = to_tcp(gep);
	int err = gvm_stream_send(&ep->s, hdr, payload);

	if (!err)
		flush_later(ep);
	return err;
}

static int tcp_fetch(struct gvm_ep *gep, struct gvm_op *op)
{
	struct tcp_ep *ep = to_tcp(gep);
	int err = gvm_stream_fetch(&ep->s, op);

	if (!err)
		flush_later(ep);
	return err;
}

static int tcp_put(struct gvm_ep *gep, struct gvm_op *op)
{
	struct tcp_ep *ep = to_tcp(gep);
	int err = gvm_stream_put(&ep->s, op);

	if (!err)
		flush_later(ep);
	return err;
}

static int tcp_cancel(struct gvm_ep *gep, struct gvm_op *op)
{
	struct tcp_ep *ep = to_tcp(gep);
	int err = gvm_stream_cancel(&ep->s, op);

	if (ep->s.want_room)
		tell_later(ep);
	return err;
}

/* ---- rounds -------------------------------------------------------------------------------- */

/* Send for all that have something new. What that turns up is told by progress(). */
static void tcp_flush(struct gvm_prov *prov)
{
	while (prov->flush) {
		struct tcp_ep *ep = next_to_flush(prov);

		if (ep->s.state != GVM_STREAM_OPEN || ep->s.blocked || !ep->s.tx)
			continue;
		ep->error = ep_flush(ep);
		if (ep->error || ep->s.blocked || ep->s.want_room)
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
		if (ep->s.state != GVM_STREAM_OPEN || !ep->readable || gvm_stream_is_paused(&ep->s))
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
		if (ep->s.state != GVM_STREAM_OPEN)
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
		gvm_stream_free(&ep->s);
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

	if (!ep || gvm_stream_is_paused(&ep->s) || ep->s.part_len || !ep_read(ep))
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
	prov->env = (struct gvm_stream_env){ .host = host, .up = ops, .ops = &stream_ops };
	prov->dialler = (struct gvm_dialler){ .host = host, .up = ops, .failed = dial_failed };
	prov->flush_end = &prov->flush;
	gvm_acceptors_init(&prov->acceptors, host, ops, accept_one);
	*out = prov;
	return 0;
}

static void tcp_close(struct gvm_prov *prov)
{
	assert(!prov->acceptors.list);
	tcp_flush(prov); /* unlinks the dead from the lists */
	read_more(prov);
	tell(prov);
	bury(prov);
	assert(!prov->dead);
	gvm_dialler_close(&prov->dialler);
	gvm_acceptors_close(&prov->acceptors);
	gvm_txq_pool_drain(&prov->env.txqs);
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
