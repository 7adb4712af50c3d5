/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of the tcp provider share; tcp.c says what the provider is.
 *
 *     tcp.c          endpoints: sockets, connecting, rounds
 *     tcp_listen.c   listeners, and what they do without descriptors
 */
#ifndef GVM_PROVIDERS_TCP_H
#define GVM_PROVIDERS_TCP_H

#include <stddef.h>
#include <sys/epoll.h>

#include "providers/stream.h"
#include "providers/tcp_dial.h"

#define GVM_TCP_JOINED 8192u /* two pieces of up to half of it are sent as one */

#define GVM_TCP_EVENTS (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)

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

/* What the listeners do when there is no descriptor left. */
struct tcp_rest {
	struct gvm_watch watch; /* a timer: they have rested long enough */
	int spare_fd;           /* given up to accept and close what cannot be served */
	uint64_t log_at;
};

struct gvm_prov {
	struct gvm_stream_env env;
	struct tcp_ep *flush, **flush_end; /* endpoints with something new to send */
	struct tcp_ep *more;               /* endpoints that were not read to the end */
	struct tcp_ep *late;               /* endpoints with something to tell core */
	struct tcp_ep *dead;
	struct tcp_ep *hot; /* the one that was heard of last; NULL: it has ended */
	struct gvm_listener *listeners;
	struct tcp_rest rest;
	struct gvm_dialler dialler;
	uint8_t *rx;
	uint8_t joined[GVM_TCP_JOINED];
};

/* ---- tcp.c --------------------------------------------------------------------------------- */

/* An endpoint with this socket, or -1. NULL: no memory. */
struct tcp_ep *gvm_tcp_ep_new(struct gvm_prov *prov, int fd, void *user);

/* ---- tcp_listen.c -------------------------------------------------------------------------- */

/* As in gvm_provider_ops. */
int gvm_tcp_listen(struct gvm_prov *prov, const char *host, unsigned port,
		   struct gvm_listener **listener, unsigned *bound_port);
void gvm_tcp_unlisten(struct gvm_listener *l);
/* At the end of the worker, without listeners. */
void gvm_tcp_rest_close(struct gvm_prov *prov);

#endif
