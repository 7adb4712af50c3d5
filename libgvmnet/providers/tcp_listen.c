/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The tcp provider's listeners. When the process has no descriptor left, who waits to be accepted
 * is turned away by means of a spare one; where there is not even that, the listeners rest for a
 * while.
 */
#include "providers/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define ACCEPT_BATCH 64
#define PAUSE_NS     100000000ull
#define LOG_EVERY_NS 1000000000ull

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

static void accept_log(struct gvm_prov *prov, int err)
{
	uint64_t now = prov->env.up->now(prov->env.host);

	if (now < prov->rest.log_at)
		return;
	prov->rest.log_at = now + LOG_EVERY_NS;
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
			prov->env.up->rewatch(prov->env.host, &l->at[i].watch, on ? EPOLLIN : 0);
	}
}

static void spare_open(struct gvm_prov *prov)
{
	if (prov->rest.spare_fd < 0)
		prov->rest.spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
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
	if (prov->rest.spare_fd >= 0) {
		close(prov->rest.spare_fd);
		prov->rest.spare_fd = -1;
		fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	}
	if (fd >= 0)
		close(fd);
	spare_open(prov);
	if (fd >= 0 && prov->rest.spare_fd >= 0)
		return;
	timerfd_settime(prov->rest.watch.fd, 0, &rest, NULL);
	listeners_watch(prov, 0);
}

/* A worker with nothing else to do sleeps without end, so it is a timer of the poll set that ends
 * it. */
static void rest_is_over(struct gvm_watch *watch, uint32_t events)
{
	struct gvm_prov *prov = container_of(watch, struct gvm_prov, rest.watch);
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

	if (prov->rest.watch.fd >= 0)
		return 0;
	prov->rest.watch.ready = rest_is_over;
	prov->rest.watch.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (prov->rest.watch.fd < 0)
		return -errno;
	err = prov->env.up->watch(prov->env.host, &prov->rest.watch, EPOLLIN);
	if (err) {
		close(prov->rest.watch.fd);
		prov->rest.watch.fd = -1;
	}
	return err;
}

static void accept_one(struct gvm_listener *l, int fd, const struct sockaddr *sa)
{
	struct gvm_prov *prov = l->prov;
	struct tcp_ep *ep = gvm_tcp_ep_new(prov, fd, NULL);
	int err;

	if (!ep) {
		close(fd);
		return;
	}
	gvm_dial_options(fd);
	gvm_addr_print(sa, ep->ep.name, sizeof(ep->ep.name));
	ep->s.state = GVM_STREAM_OPEN;
	ep->ep.last_heard = prov->env.up->now(prov->env.host);
	err = prov->env.up->watch(prov->env.host, &ep->watch, GVM_TCP_EVENTS);
	if (err) {
		accept_log(prov, err);
		close(fd);
		free(ep);
		return;
	}
	prov->env.up->accepted(prov->env.host, l, &ep->ep);
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

static void listener_close(void *arg)
{
	struct gvm_listener *l = arg;

	while (l->n) {
		struct gvm_watch *watch = &l->at[--l->n].watch;

		l->prov->env.up->unwatch(l->prov->env.host, watch);
		gvm_addr_unlisten(watch->fd);
		close(watch->fd);
	}
}

static int listener_add(void *arg, const struct gvm_addrs *addrs, unsigned i, unsigned *port)
{
	struct gvm_listener *l = arg;
	struct acceptor *a = &l->at[l->n];
	int err = gvm_addr_listen(addrs, i, port, &a->watch.fd);

	if (err)
		return err;
	a->listener = l;
	a->watch.ready = acceptor_ready;
	err = l->prov->env.up->watch(l->prov->env.host, &a->watch, EPOLLIN);
	if (err) {
		gvm_addr_unlisten(a->watch.fd);
		close(a->watch.fd);
		return err;
	}
	l->n++;
	return 0;
}

int gvm_tcp_listen(struct gvm_prov *prov, const char *host, unsigned port,
		   struct gvm_listener **listener, unsigned *bound_port)
{
	struct gvm_listener *l;
	struct gvm_addrs addrs;
	unsigned bound;
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
	err = gvm_addrs_listen(&addrs, port, &bound, listener_add, listener_close, l);
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

void gvm_tcp_unlisten(struct gvm_listener *l)
{
	struct gvm_listener **at = &l->prov->listeners;

	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	listener_close(l);
	free(l);
}

void gvm_tcp_rest_close(struct gvm_prov *prov)
{
	if (prov->rest.watch.fd >= 0) {
		prov->env.up->unwatch(prov->env.host, &prov->rest.watch);
		close(prov->rest.watch.fd);
	}
	if (prov->rest.spare_fd >= 0)
		close(prov->rest.spare_fd);
}
