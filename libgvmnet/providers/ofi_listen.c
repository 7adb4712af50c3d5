/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Listeners of the ofi fabric: TCP sockets at the ports of the cluster file. */
#include "providers/ofi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define ACCEPT_BATCH 64

static void listeners_watch(struct ofi_prov *prov, uint32_t events)
{
	for (struct ofi_listener *l = prov->listeners; l; l = l->next)
		for (unsigned i = 0; i < l->n; i++)
			prov->rma.up->rewatch(prov->rma.host, &l->at[i].watch, events);
}

/* There is no descriptor for a connection that waits, which would be reported for ever. */
static void listeners_rest(struct ofi_prov *prov, int err)
{
	if (!prov->listeners_rest)
		gvm_log(GVM_LOG_WARN,
			"cannot accept a connection: %s; raise the limit of open files",
			strerror(-err));
	prov->listeners_rest = 1;
	listeners_watch(prov, 0);
	ofi_tick(prov);
}

void ofi_listeners_resume(struct ofi_prov *prov)
{
	prov->listeners_rest = 0;
	listeners_watch(prov, EPOLLIN);
}

static void acceptor_ready(struct gvm_watch *watch, uint32_t events)
{
	struct ofi_acceptor *a = container_of(watch, struct ofi_acceptor, watch);
	struct gvm_listener *l = a->listener->l;
	struct ofi_prov *prov = ofi_prov(l->rma);
	struct sockaddr_storage from;
	socklen_t len;
	int fd;

	for (int i = 0; i < ACCEPT_BATCH && !prov->listeners_rest; i++) {
		len = sizeof(from);
		fd = accept4(watch->fd, (struct sockaddr *)&from, &len,
			     SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0)
			ofi_accept(prov, l, fd, (const struct sockaddr *)&from);
		else if (errno == EAGAIN)
			return;
		else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			listeners_rest(prov, -errno);
	}
}

static void listener_close(void *arg)
{
	struct ofi_listener *l = arg;
	struct ofi_prov *prov = ofi_prov(l->l->rma);

	while (l->n) {
		struct gvm_watch *watch = &l->at[--l->n].watch;

		prov->rma.up->unwatch(prov->rma.host, watch);
		gvm_addr_unlisten(watch->fd);
		close(watch->fd);
	}
}

static int listener_add(void *arg, const struct gvm_addrs *addrs, unsigned i, unsigned *port)
{
	struct ofi_listener *l = arg;
	struct ofi_prov *prov = ofi_prov(l->l->rma);
	struct ofi_acceptor *a = &l->at[l->n];
	int err = gvm_addr_listen(addrs, i, port, &a->watch.fd);

	if (err)
		return err;
	a->listener = l;
	a->watch.ready = acceptor_ready;
	err = prov->rma.up->watch(prov->rma.host, &a->watch, EPOLLIN);
	if (err) {
		gvm_addr_unlisten(a->watch.fd);
		close(a->watch.fd);
		return err;
	}
	l->n++;
	return 0;
}

int ofi_listen(struct gvm_rma *rma, struct gvm_listener *listener, const char *host, unsigned port,
	       unsigned *bound_port)
{
	struct ofi_prov *prov = ofi_prov(rma);
	struct ofi_listener *l;
	struct gvm_addrs addrs;
	int err = gvm_addrs_passive(host, port, &addrs);

	if (err)
		return err;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->l = listener;
	err = gvm_addrs_listen(&addrs, port, bound_port, listener_add, listener_close, l);
	if (err) {
		free(l);
		return err;
	}
	listener->fabric = l;
	l->next = prov->listeners;
	prov->listeners = l;
	return 0;
}

void ofi_unlisten(struct gvm_rma *rma, struct gvm_listener *listener)
{
	struct ofi_prov *prov = ofi_prov(rma);
	struct ofi_listener *l = listener->fabric, **at = &prov->listeners;

	ofi_unaccept_all(prov, listener);
	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	listener_close(l);
	free(l);
}
