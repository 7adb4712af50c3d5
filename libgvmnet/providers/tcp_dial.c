/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What tcp_dial.h says. */
#include "providers/tcp_dial.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define USER_TIMEOUT_MS 30000
#define PORT_TRIES      16

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

void gvm_dial_options(int fd)
{
	int one = 1, ms = USER_TIMEOUT_MS;

	/* Neither can fail on a TCP socket in a way that matters. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
}

/* ---- addresses ----------------------------------------------------------------------------- */

static int dial_one(struct gvm_dial *dial, unsigned i)
{
	const struct sockaddr *sa = (const void *)&dial->addrs->at[i].sa;
	struct gvm_dialler *d = dial->dialler;
	int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), err;

	if (fd < 0)
		return -errno;
	gvm_dial_options(fd);
	if (connect(fd, sa, dial->addrs->at[i].len) && errno != EINPROGRESS) {
		err = -errno;
		goto close_fd;
	}
	dial->watch->fd = fd;
	err = d->up->watch(d->host, dial->watch, dial->events);
	if (err)
		goto forget_fd;
	gvm_addr_print(sa, dial->ep->name, sizeof(dial->ep->name));
	return 0;

forget_fd:
	dial->watch->fd = -1;
close_fd:
	close(fd);
	return err;
}

/* Try the addresses that are left; err is how the one before has failed. */
static int dial_next(struct gvm_dial *dial, int err)
{
	while (dial->next < dial->addrs->n) {
		err = dial_one(dial, dial->next++);
		if (!err)
			break;
	}
	return err;
}

static void close_socket(struct gvm_dial *dial)
{
	struct gvm_dialler *d = dial->dialler;

	if (dial->watch->fd < 0)
		return;
	d->up->unwatch(d->host, dial->watch);
	close(dial->watch->fd);
	dial->watch->fd = -1;
}

int gvm_dial_ready(struct gvm_dial *dial)
{
	socklen_t len = sizeof(int);
	int err = 0;

	if (getsockopt(dial->watch->fd, SOL_SOCKET, SO_ERROR, &err, &len))
		err = errno;
	if (!err && gvm_addr_is_self(dial->watch->fd))
		err = ECONNREFUSED;
	if (err) {
		close_socket(dial);
		err = dial_next(dial, -err);
		return err ? err : -EINPROGRESS;
	}
	free(dial->addrs);
	dial->addrs = NULL;
	return 0;
}

void gvm_dial_stop(struct gvm_dial *dial)
{
	if (!dial->addrs)
		return;
	if (dial->lookup)
		dial->lookup->user = NULL;
	dial->lookup = NULL;
	close_socket(dial);
	free(dial->addrs);
	dial->addrs = NULL;
}

/* ---- names --------------------------------------------------------------------------------- */

static void lookup_done(struct gvm_dial *dial, const struct gvm_lookup *l)
{
	int err = l->err;

	dial->lookup = NULL;
	if (!err) {
		*dial->addrs = l->addrs;
		err = dial_next(dial, -EHOSTUNREACH);
	}
	if (err)
		dial->dialler->failed(dial, err);
}

static void resolver_ready(struct gvm_watch *watch, uint32_t events)
{
	struct gvm_dialler *d = container_of(watch, struct gvm_dialler, watch);
	struct gvm_lookup *l;

	while ((l = gvm_resolver_next(d->resolver))) {
		if (l->user)
			lookup_done(l->user, l);
		free(l);
	}
}

static int open_resolver(struct gvm_dialler *d)
{
	int err;

	if (d->resolver)
		return 0;
	err = gvm_resolver_open(&d->resolver, &d->watch.fd);
	if (err)
		return err;
	d->watch.ready = resolver_ready;
	err = d->up->watch(d->host, &d->watch, EPOLLIN);
	if (err) {
		gvm_resolver_close(d->resolver);
		d->resolver = NULL;
	}
	return err;
}

static int look_up(struct gvm_dial *dial, const char *host, unsigned port)
{
	int err = open_resolver(dial->dialler);

	return err ? err
		   : gvm_resolver_ask(dial->dialler->resolver, host, port, dial, &dial->lookup);
}

int gvm_dial_start(struct gvm_dialler *d, struct gvm_dial *dial, const char *host, unsigned port)
{
	int err;

	dial->dialler = d;
	dial->watch->fd = -1;
	dial->addrs = calloc(1, sizeof(*dial->addrs));
	if (!dial->addrs)
		return -ENOMEM;
	if (gvm_addrs_numeric(host, port, dial->addrs))
		err = look_up(dial, host, port);
	else
		err = dial_next(dial, -EHOSTUNREACH);
	if (err)
		gvm_dial_stop(dial);
	return err;
}

void gvm_dialler_close(struct gvm_dialler *d)
{
	if (!d->resolver)
		return;
	d->up->unwatch(d->host, &d->watch);
	gvm_resolver_close(d->resolver);
	d->resolver = NULL;
}

/* ---- listening ----------------------------------------------------------------------------- */

static int is_elsewhere(int err)
{
	return err == -EAFNOSUPPORT || err == -EADDRNOTAVAIL || err == -ENODEV;
}

int gvm_addrs_listen(const struct gvm_addrs *addrs, unsigned port, unsigned *bound,
		     int (*add)(void *arg, const struct gvm_addrs *addrs, unsigned i,
				unsigned *port),
		     void (*drop)(void *arg), void *arg)
{
	int err = -EADDRNOTAVAIL, got;
	unsigned added;

	for (int tries = 0; tries < PORT_TRIES; tries++) {
		*bound = port;
		added = 0;
		got = 0;
		for (unsigned i = 0; i < addrs->n && (!got || is_elsewhere(got)); i++) {
			got = add(arg, addrs, i, bound);
			added += !got;
			err = got ? got : err;
		}
		if (added && (!got || is_elsewhere(got)))
			return 0;
		drop(arg);
		if (err != -EADDRINUSE || port)
			break;
	}
	return err;
}
