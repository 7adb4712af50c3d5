/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Listeners over TCP; see tcp_accept.h. */
#include "providers/tcp_accept.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "providers/tcp_dial.h"

#define ACCEPT_BATCH 64
#define PAUSE_NS     100000000ull
#define LOG_EVERY_NS 1000000000ull

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

void gvm_acceptors_log(struct gvm_acceptors *acceptors, int err)
{
	uint64_t now = acceptors->up->now(acceptors->host);

	if (now < acceptors->log_at)
		return;
	acceptors->log_at = now + LOG_EVERY_NS;
	gvm_log(GVM_LOG_WARN, "cannot accept a connection: %s%s", strerror(-err),
		err == -EMFILE || err == -ENFILE ? "; raise the limit of open files" : "");
}

static void acceptors_watch(struct gvm_acceptors *acceptors, int on)
{
	for (struct gvm_acceptor *acceptor = acceptors->list; acceptor; acceptor = acceptor->next) {
		if (acceptor->paused == !on)
			continue;
		acceptor->paused = !on;
		for (unsigned i = 0; i < acceptor->n; i++)
			acceptors->up->rewatch(acceptors->host, &acceptor->at[i].watch,
					       on ? EPOLLIN : 0);
	}
}

static void spare_open(struct gvm_acceptors *acceptors)
{
	if (acceptors->spare_fd < 0)
		acceptors->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/*
 * There is no descriptor for a connection that waits. It must be taken and closed, or it would be
 * reported for ever; the spare descriptor makes that possible. Where even that fails the listeners
 * rest for a while.
 */
static void turn_away(struct gvm_acceptors *acceptors, int listen_fd, int err)
{
	const struct itimerspec rest = { .it_value = { .tv_nsec = PAUSE_NS } };
	int fd = -1;

	gvm_acceptors_log(acceptors, err);
	if (acceptors->spare_fd >= 0) {
		close(acceptors->spare_fd);
		acceptors->spare_fd = -1;
		fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	}
	if (fd >= 0)
		close(fd);
	spare_open(acceptors);
	if (fd >= 0 && acceptors->spare_fd >= 0)
		return;
	timerfd_settime(acceptors->rest.fd, 0, &rest, NULL);
	acceptors_watch(acceptors, 0);
}

/* A worker with nothing else to do sleeps without end, so it is a timer of the poll set that ends
 * it. */
static void rest_is_over(struct gvm_watch *watch, uint32_t events)
{
	struct gvm_acceptors *acceptors = container_of(watch, struct gvm_acceptors, rest);
	uint64_t times;

	if (read(watch->fd, &times, sizeof(times)) != sizeof(times))
		return;
	spare_open(acceptors);
	acceptors_watch(acceptors, 1);
}

/* Made before the first listener: when it is needed there are no descriptors left. */
static int rest_open(struct gvm_acceptors *acceptors)
{
	int err;

	if (acceptors->rest.fd >= 0)
		return 0;
	acceptors->rest.ready = rest_is_over;
	acceptors->rest.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (acceptors->rest.fd < 0)
		return -errno;
	err = acceptors->up->watch(acceptors->host, &acceptors->rest, EPOLLIN);
	if (err) {
		close(acceptors->rest.fd);
		acceptors->rest.fd = -1;
	}
	return err;
}

static void socket_ready(struct gvm_watch *watch, uint32_t events)
{
	struct gvm_acceptor *acceptor =
	    container_of(watch, struct gvm_accept_socket, watch)->acceptor;
	struct sockaddr_storage from;
	socklen_t len;
	int fd;

	for (int i = 0; i < ACCEPT_BATCH && !acceptor->paused; i++) {
		len = sizeof(from);
		fd = accept4(watch->fd, (struct sockaddr *)&from, &len,
			     SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0)
			acceptor->acceptors->accepted(acceptor, fd, (const struct sockaddr *)&from);
		else if (errno == EAGAIN)
			return;
		else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			turn_away(acceptor->acceptors, watch->fd, -errno);
	}
}

static void sockets_close(void *arg)
{
	struct gvm_acceptor *acceptor = arg;

	while (acceptor->n) {
		struct gvm_watch *watch = &acceptor->at[--acceptor->n].watch;

		acceptor->acceptors->up->unwatch(acceptor->acceptors->host, watch);
		gvm_addr_unlisten(watch->fd);
		close(watch->fd);
	}
}

static int socket_add(void *arg, const struct gvm_addrs *addrs, unsigned i, unsigned *port)
{
	struct gvm_acceptor *acceptor = arg;
	struct gvm_accept_socket *s = &acceptor->at[acceptor->n];
	int err = gvm_addr_listen(addrs, i, port, &s->watch.fd);

	if (err)
		return err;
	s->acceptor = acceptor;
	s->watch.ready = socket_ready;
	err = acceptor->acceptors->up->watch(acceptor->acceptors->host, &s->watch, EPOLLIN);
	if (err) {
		gvm_addr_unlisten(s->watch.fd);
		close(s->watch.fd);
		return err;
	}
	acceptor->n++;
	return 0;
}

int gvm_acceptor_open(struct gvm_acceptors *acceptors, struct gvm_acceptor *acceptor,
		      const char *host, unsigned port, unsigned *bound_port)
{
	struct gvm_addrs addrs;
	unsigned bound;
	int err = gvm_addrs_passive(host, port, &addrs);

	if (!err)
		err = rest_open(acceptors);
	if (err)
		return err;
	acceptor->acceptors = acceptors;
	spare_open(acceptors);
	err = gvm_addrs_listen(&addrs, port, &bound, socket_add, sockets_close, acceptor);
	if (err)
		return err;
	acceptor->next = acceptors->list;
	acceptors->list = acceptor;
	if (bound_port)
		*bound_port = bound;
	return 0;
}

void gvm_acceptor_close(struct gvm_acceptor *acceptor)
{
	struct gvm_acceptor **at = &acceptor->acceptors->list;

	while (*at != acceptor)
		at = &(*at)->next;
	*at = acceptor->next;
	sockets_close(acceptor);
}

void gvm_acceptors_init(struct gvm_acceptors *acceptors, struct gvm_host *host,
			const struct gvm_host_ops *up,
			void (*accepted)(struct gvm_acceptor *acceptor, int fd,
					 const struct sockaddr *from))
{
	*acceptors = (struct gvm_acceptors){
		.host = host, .up = up, .accepted = accepted, .rest.fd = -1, .spare_fd = -1
	};
}

void gvm_acceptors_close(struct gvm_acceptors *acceptors)
{
	if (acceptors->rest.fd >= 0) {
		acceptors->up->unwatch(acceptors->host, &acceptors->rest);
		close(acceptors->rest.fd);
	}
	if (acceptors->spare_fd >= 0)
		close(acceptors->spare_fd);
}
