/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Names, addresses and listening sockets of the tcp provider; tcp_addr.h says what they are for.
 *
 * Shared by the threads of the process: the table of addresses that this process listens at (its
 * own lock). A resolver is shared by its worker and its thread (its lock, counted references).
 */
#include "providers/tcp_addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <gvmnet/gvmnet.h>

#define LISTEN_BACKLOG 4096
#define LOOKUP_STACK   (256u << 10)

/* ---- addresses ----------------------------------------------------------------------------- */

static int get_info(const char *host, unsigned port, int flags, struct gvm_addrs *addrs)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags };
	struct addrinfo *list, *a;
	char service[16];
	int rc;

	/* To the C library it is a name of the loopback address. */
	if (host && !strcmp(host, "*"))
		return EAI_NONAME;
	snprintf(service, sizeof(service), "%u", port);
	rc = getaddrinfo(host, service, &hints, &list);
	if (rc)
		return rc;
	addrs->n = 0;
	for (a = list; a && addrs->n < GVM_ADDRS_MAX; a = a->ai_next) {
		if (a->ai_family != AF_INET && a->ai_family != AF_INET6)
			continue;
		memcpy(&addrs->at[addrs->n].sa, a->ai_addr, a->ai_addrlen);
		addrs->at[addrs->n++].len = a->ai_addrlen;
	}
	freeaddrinfo(list);
	return addrs->n ? 0 : EAI_NONAME;
}

/* The usual spellings, without allocating: a program's malloc may wait for this very connection. */
static int plain_numeric(const char *host, unsigned port, struct gvm_addrs *addrs)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };

	if (inet_pton(AF_INET, host, &in.sin_addr) == 1) {
		memcpy(&addrs->at[0].sa, &in, sizeof(in));
		addrs->at[0].len = sizeof(in);
	} else if (inet_pton(AF_INET6, host, &in6.sin6_addr) == 1) {
		memcpy(&addrs->at[0].sa, &in6, sizeof(in6));
		addrs->at[0].len = sizeof(in6);
	} else {
		return 0;
	}
	addrs->n = 1;
	return 1;
}

int gvm_addrs_numeric(const char *host, unsigned port, struct gvm_addrs *addrs)
{
	if (plain_numeric(host, port, addrs))
		return 0;
	return get_info(host, port, AI_NUMERICHOST, addrs) ? -EINVAL : 0;
}

int gvm_addrs_passive(const char *host, unsigned port, struct gvm_addrs *addrs)
{
	int rc = get_info(strcmp(host, "*") ? host : NULL, port, AI_PASSIVE, addrs);

	if (!rc)
		return 0;
	gvm_log(GVM_LOG_ERROR,
		"cannot listen at '%s': %s; give a name that resolves, or an "
		"address of this machine",
		host, gai_strerror(rc));
	return -EADDRNOTAVAIL;
}

void gvm_addr_print(const struct sockaddr *sa, char *text, size_t size)
{
	const struct sockaddr_in6 *in6 = (const void *)sa;
	const struct sockaddr_in *in = (const void *)sa;
	char host[INET6_ADDRSTRLEN] = "?";

	if (sa->sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		snprintf(text, size, "[%s]:%u", host, ntohs(in6->sin6_port));
	} else {
		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(text, size, "%s:%u", host, ntohs(in->sin_port));
	}
}

int gvm_addr_is_self(int fd)
{
	struct sockaddr_storage here = { 0 }, there = { 0 };
	socklen_t here_len = sizeof(here), there_len = sizeof(there);

	if (getsockname(fd, (struct sockaddr *)&here, &here_len) ||
	    getpeername(fd, (struct sockaddr *)&there, &there_len))
		return 0;
	return here_len == there_len && !memcmp(&here, &there, here_len);
}

static void set_port(struct sockaddr_storage *sa, unsigned port)
{
	if (sa->ss_family == AF_INET6)
		((struct sockaddr_in6 *)sa)->sin6_port = htons((uint16_t)port);
	else
		((struct sockaddr_in *)sa)->sin_port = htons((uint16_t)port);
}

static unsigned get_port(const struct sockaddr_storage *sa)
{
	if (sa->ss_family == AF_INET6)
		return ntohs(((const struct sockaddr_in6 *)sa)->sin6_port);
	return ntohs(((const struct sockaddr_in *)sa)->sin_port);
}

/* ---- listening ----------------------------------------------------------------------------- */

/*
 * SO_REUSEPORT lets any process of this user join an address, which would hand half of a memory
 * node's clients to another that was started on the same port by mistake. So the first socket of
 * this process at an address proves, by a bind without SO_REUSEPORT, that nobody else is there.
 */
static pthread_mutex_t bound_lock = PTHREAD_MUTEX_INITIALIZER;
static struct bound {
	struct bound *next;
	struct sockaddr_storage sa;
	socklen_t len;
	unsigned sockets;
} * bound_list;

static struct bound **bound_find(const struct sockaddr_storage *sa, socklen_t len)
{
	struct bound **b = &bound_list;

	while (*b && ((*b)->len != len || memcmp(&(*b)->sa, sa, len)))
		b = &(*b)->next;
	return b;
}

static int bound_add(int fd)
{
	struct sockaddr_storage sa = { 0 };
	socklen_t len = sizeof(sa);
	struct bound **b;

	if (getsockname(fd, (struct sockaddr *)&sa, &len))
		return -errno;
	b = bound_find(&sa, len);
	if (!*b) {
		*b = calloc(1, sizeof(**b));
		if (!*b)
			return -ENOMEM;
		(*b)->sa = sa;
		(*b)->len = len;
	}
	(*b)->sockets++;
	return 0;
}

void gvm_addr_unlisten(int fd)
{
	struct sockaddr_storage sa = { 0 };
	socklen_t len = sizeof(sa);
	struct bound **b, *gone;

	if (getsockname(fd, (struct sockaddr *)&sa, &len))
		return;
	pthread_mutex_lock(&bound_lock);
	b = bound_find(&sa, len);
	gone = *b;
	if (gone && !--gone->sockets) {
		*b = gone->next;
		free(gone);
	}
	pthread_mutex_unlock(&bound_lock);
}

static int open_bound(const struct sockaddr_storage *sa, socklen_t len, int reuse_port)
{
	int fd = socket(sa->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int one = 1, err;

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    (reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one))) ||
	    (sa->ss_family == AF_INET6 &&
	     setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one))) ||
	    bind(fd, (const struct sockaddr *)sa, len)) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

static int listen_locked(struct sockaddr_storage *sa, socklen_t len, unsigned *port)
{
	int probe, fd, err = 0;

	set_port(sa, *port);
	if (*port && !*bound_find(sa, len)) {
		probe = open_bound(sa, len, 0);
		if (probe < 0)
			return probe;
		close(probe);
	}
	fd = open_bound(sa, len, 1);
	if (fd < 0)
		return fd;
	if (listen(fd, LISTEN_BACKLOG))
		err = -errno;
	else
		err = bound_add(fd);
	if (err) {
		close(fd);
		return err;
	}
	if (!*port) {
		getsockname(fd, (struct sockaddr *)sa, &len);
		*port = get_port(sa);
	}
	return fd;
}

int gvm_addr_listen(const struct gvm_addrs *addrs, unsigned i, unsigned *port, int *fd)
{
	struct sockaddr_storage sa = addrs->at[i].sa;
	int got;

	pthread_mutex_lock(&bound_lock);
	got = listen_locked(&sa, addrs->at[i].len, port);
	pthread_mutex_unlock(&bound_lock);
	if (got < 0)
		return got;
	*fd = got;
	return 0;
}

/* ---- names --------------------------------------------------------------------------------- */

/* A name without an address: it has been told, and is asked for again and again. */
struct unknown {
	struct unknown *next;
	char host[];
};

struct gvm_resolver {
	pthread_mutex_t lock;
	struct unknown *unknown; /* the thread's */
	struct gvm_lookup *asked, **asked_end, *done;
	int fd, running, closed;
	unsigned refs; /* the worker, and the thread while it runs */
};

static void free_list(struct gvm_lookup *list)
{
	while (list) {
		struct gvm_lookup *next = list->next;

		free(list);
		list = next;
	}
}

static struct unknown **find_unknown(struct gvm_resolver *r, const char *host)
{
	struct unknown **at = &r->unknown;

	while (*at && strcmp((*at)->host, host) != 0)
		at = &(*at)->next;
	return at;
}

static void forget_unknown(struct unknown **at)
{
	struct unknown *u = *at;

	*at = u->next;
	free(u);
}

/* Returns 1 if it is news. Without memory to note that, it is again. */
static int note_unknown(struct gvm_resolver *r, const char *host)
{
	size_t len = strlen(host) + 1;
	struct unknown *u;

	if (*find_unknown(r, host))
		return 0;
	u = malloc(sizeof(*u) + len);
	if (u) {
		memcpy(u->host, host, len);
		u->next = r->unknown;
		r->unknown = u;
	}
	return 1;
}

/* Takes the lock from the caller. */
static void unref_unlock(struct gvm_resolver *r)
{
	unsigned refs = --r->refs;

	pthread_mutex_unlock(&r->lock);
	if (refs)
		return;
	free_list(r->asked);
	free_list(r->done);
	while (r->unknown)
		forget_unknown(&r->unknown);
	close(r->fd);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

int gvm_resolver_open(struct gvm_resolver **resolver, int *fd)
{
	struct gvm_resolver *r = calloc(1, sizeof(*r));
	int err;

	if (!r)
		return -ENOMEM;
	r->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (r->fd < 0) {
		err = -errno;
		free(r);
		return err;
	}
	pthread_mutex_init(&r->lock, NULL);
	r->asked_end = &r->asked;
	r->refs = 1;
	*resolver = r;
	*fd = r->fd;
	return 0;
}

void gvm_resolver_close(struct gvm_resolver *r)
{
	pthread_mutex_lock(&r->lock);
	r->closed = 1;
	unref_unlock(r);
}

/* Only the first of a row of failures is news. */
static void look_up(struct gvm_resolver *r, struct gvm_lookup *l)
{
	struct unknown **told;
	int rc = get_info(l->host, l->port, AI_ADDRCONFIG, &l->addrs);

	/* AI_ADDRCONFIG hides ::1 and 127.0.0.1 on a machine that has nothing but loopback. */
	if (rc)
		rc = get_info(l->host, l->port, 0, &l->addrs);
	if (rc && note_unknown(r, l->host))
		gvm_log(GVM_LOG_WARN, "cannot find the address of '%s': %s", l->host,
			gai_strerror(rc));
	told = find_unknown(r, l->host);
	if (!rc && *told)
		forget_unknown(told);
	l->err = rc ? -EHOSTUNREACH : 0;
}

static void *lookup_main(void *arg)
{
	struct gvm_resolver *r = arg;
	const uint64_t one = 1;
	struct gvm_lookup *l;

	pthread_mutex_lock(&r->lock);
	while (r->asked && !r->closed) {
		l = r->asked;
		r->asked = l->next;
		if (!r->asked)
			r->asked_end = &r->asked;
		pthread_mutex_unlock(&r->lock);
		look_up(r, l);
		pthread_mutex_lock(&r->lock);
		l->next = r->done;
		r->done = l;
		if (write(r->fd, &one, sizeof(one)) < 0)
			continue; /* only a full counter fails: then it is readable already */
	}
	r->running = 0;
	unref_unlock(r);
	return NULL;
}

static int start_thread(struct gvm_resolver *r)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, before;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all,
			&before); /* the program's signals are not for this thread */
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, LOOKUP_STACK);
	err = pthread_create(&thread, &attr, lookup_main, r);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (err)
		return -err;
	r->running = 1;
	r->refs++;
	return 0;
}

int gvm_resolver_ask(struct gvm_resolver *r, const char *host, unsigned port, void *user,
		     struct gvm_lookup **lookup)
{
	size_t len = strlen(host) + 1;
	struct gvm_lookup *l = calloc(1, sizeof(*l) + len);
	int err = 0;

	if (!l)
		return -ENOMEM;
	memcpy(l->host, host, len);
	l->port = port;
	l->user = user;
	pthread_mutex_lock(&r->lock);
	if (!r->running)
		err = start_thread(r);
	if (!err) {
		*r->asked_end = l;
		r->asked_end = &l->next;
	}
	pthread_mutex_unlock(&r->lock);
	if (err) {
		free(l);
		return err;
	}
	*lookup = l;
	return 0;
}

struct gvm_lookup *gvm_resolver_next(struct gvm_resolver *r)
{
	struct gvm_lookup *l;
	uint64_t count;

	pthread_mutex_lock(&r->lock);
	if (read(r->fd, &count, sizeof(count)) < 0)
		count = 0;
	l = r->done;
	if (l)
		r->done = l->next;
	pthread_mutex_unlock(&r->lock);
	return l;
}
