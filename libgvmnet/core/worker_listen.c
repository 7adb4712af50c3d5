/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a worker listens: at one address with all of its providers, or with those that serve it.
 * The worker's thread.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/core.h"

static int is_loopback(const struct sockaddr *addr)
{
	const struct sockaddr_in *v4 = (const void *)addr;
	const struct sockaddr_in6 *v6 = (const void *)addr;

	if (addr->sa_family == AF_INET)
		return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
	if (addr->sa_family != AF_INET6)
		return 0;
	if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
		return v6->sin6_addr.s6_addr[12] == 127;
	return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

/* A name that does not resolve is not this function's to complain about. */
static int reaches_beyond(const char *host)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list, *at;
	int beyond = 0;

	if (strcmp(host, "*") == 0)
		return 1;
	if (getaddrinfo(host, NULL, &hints, &list) != 0)
		return 0;
	for (at = list; at && !beyond; at = at->ai_next)
		beyond = !is_loopback(at->ai_addr);
	freeaddrinfo(list);
	return beyond;
}

static int only_in_process(const struct gvm_net *net)
{
	return net->provider_count == 1 && net->providers[0].ops == &gvm_provider_loop;
}

static int may_listen(const struct gvm_net *net, const char *host)
{
	if (net->key || net->insecure || only_in_process(net) || !reaches_beyond(host))
		return 0;
	gvm_log(GVM_LOG_ERROR,
		"%s reaches beyond this machine and there is no key: give one "
		"(--key-file; openssl rand -hex 32 > FILE; chmod 600 FILE), or say --insecure",
		host);
	return -EACCES;
}

/* An address that this transport does not serve, where another one may. */
static int not_its_address(int err)
{
	return err == -EADDRNOTAVAIL || err == -ENODEV || err == -EOPNOTSUPP ||
	       err == -EAFNOSUPPORT;
}

/*
 * Whether the others go on without it: another one may serve the address; with "auto", whatever it
 * is but for a port of our own choice, which the next try has another one for.
 */
static int goes_without(const struct gvm_worker *worker, unsigned i, int err, int chosen)
{
	if (worker->provider_count == 1)
		return 0;
	if (not_its_address(err))
		return 1;
	return worker->net->automatic && i + 1 < worker->provider_count &&
	       !(chosen && err == -EADDRINUSE);
}

/* ofi's peers meet over TCP, so its ports are tcp's. Were it another program, tcp would not be
 * there. */
static int is_there_itself(const struct gvm_worker *worker, unsigned i, size_t before, int err)
{
	return err == -EADDRINUSE && strcmp(worker->providers[i].ops->name, "ofi") == 0 &&
	       worker->listener_count > before &&
	       worker->listeners[worker->listener_count - 1].ops == &gvm_provider_tcp;
}

static void unlisten_to(struct gvm_worker *worker, size_t count)
{
	while (worker->listener_count > count) {
		struct gvm_worker_listener *l = &worker->listeners[--worker->listener_count];

		l->ops->unlisten(l->listener);
	}
}

/* At one port with all providers; *port 0: the last chooses, whose ports are the scarcest. All of
 * them or none, apart from those that the address is not for. */
static int listen_all(struct gvm_worker *worker, const char *host, unsigned *port)
{
	size_t before = worker->listener_count;
	int err = 0, chosen = *port == 0;

	for (unsigned i = worker->provider_count; i-- > 0;) {
		struct gvm_worker_provider *p = &worker->providers[i];
		struct gvm_worker_listener *l = &worker->listeners[worker->listener_count];

		err = p->ops->listen(p->prov, host, *port, &l->listener, port);
		if (!err) {
			l->ops = p->ops;
			worker->listener_count++;
		} else if (is_there_itself(worker, i, before, err)) {
			gvm_log(GVM_LOG_ERROR,
				"%s port %u: a node cannot listen with both ofi and tcp, as peers "
				"over ofi meet by TCP at the same port: name one of them "
				"(clients may have ofi+tcp)",
				host, *port);
			unlisten_to(worker, before);
			return -EOPNOTSUPP;
		} else if (goes_without(worker, i, err, chosen)) {
			gvm_log(not_its_address(err) ? GVM_LOG_INFO : GVM_LOG_WARN,
				"%s: transport %s cannot be used there: %s", host, p->ops->name,
				strerror(-err));
		} else {
			unlisten_to(worker, before);
			return err;
		}
	}
	return worker->listener_count > before ? 0 : err;
}

/* A port that is free with one provider need not be with the next. */
#define LISTEN_TRIES 16

int gvm_worker_listen(struct gvm_worker *worker, const char *host, unsigned port,
		      unsigned *bound_port)
{
	struct gvm_worker_listener *listeners;
	size_t most = worker->listener_count + worker->provider_count;
	unsigned bound = port;
	int err;

	if (!host || port > 65535)
		return -EINVAL;
	err = may_listen(worker->net, host);
	if (err)
		return err;
	listeners = realloc(worker->listeners, most * sizeof(*listeners));
	if (!listeners)
		return -ENOMEM;
	worker->listeners = listeners;
	for (int tries = 0; tries < LISTEN_TRIES; tries++) {
		bound = port;
		err = listen_all(worker, host, &bound);
		if (err != -EADDRINUSE || port)
			break;
	}
	if (!err && bound_port)
		*bound_port = bound;
	return err;
}

void gvm_worker_unlisten(struct gvm_worker *worker)
{
	unlisten_to(worker, 0);
	free(worker->listeners);
	worker->listeners = NULL;
}

void gvm_worker_listens_with(const struct gvm_worker *worker, char *names, size_t room)
{
	size_t at = 0;

	names[0] = 0;
	for (unsigned i = 0; i < worker->provider_count; i++) {
		const struct gvm_provider_ops *ops = worker->providers[i].ops;
		size_t k = 0;

		while (k < worker->listener_count && worker->listeners[k].ops != ops)
			k++;
		if (k < worker->listener_count && at < room)
			at += (size_t)snprintf(names + at, room - at, "%s%s", at ? "+" : "",
					       ops->name);
	}
}
