/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Dialling over TCP, for the providers that do: a name is looked up without stopping the worker,
 * and its addresses are tried one after the other until one connects. And the addresses of a
 * listener, which are taken together.
 *
 * Threads: everything belongs to the worker's thread.
 */
#ifndef GVM_PROVIDERS_TCP_DIAL_H
#define GVM_PROVIDERS_TCP_DIAL_H

#include "providers/provider.h"
#include "providers/tcp_addr.h"

struct gvm_dial;

/* A worker's. The first three are the provider's to set, the rest is zero. */
struct gvm_dialler {
	struct gvm_host *host;
	const struct gvm_host_ops *up;
	void (*failed)(struct gvm_dial *dial, int err); /* the name, or all addresses of it */
	struct gvm_resolver *resolver;
	struct gvm_watch watch; /* the resolver's */
};

/* One connection that is being made. The first three are the provider's to set. */
struct gvm_dial {
	struct gvm_ep *ep;       /* gets the name of the address that is tried */
	struct gvm_watch *watch; /* gets the socket; ready() is to call gvm_dial_ready() */
	uint32_t events;         /* that it is watched for */
	struct gvm_dialler *dialler;
	struct gvm_addrs *addrs; /* NULL: nothing is being dialled */
	unsigned next;
	struct gvm_lookup *lookup;
};

/* Begin. A negative errno: it has come to nothing at once, and failed() is not called. */
int gvm_dial_start(struct gvm_dialler *dialler, struct gvm_dial *dial, const char *host,
		   unsigned port);
/* The socket has something to say. 0: it is connected; -EINPROGRESS: it is not, and another address
 * is tried; else why none worked, and there is no socket. */
int gvm_dial_ready(struct gvm_dial *dial);
/* Give up, if it is being dialled: the socket is closed. */
void gvm_dial_stop(struct gvm_dial *dial);
/* Lookups under way are abandoned. */
void gvm_dialler_close(struct gvm_dialler *dialler);
/* What a connection's socket wants, whoever has made it. */
void gvm_dial_options(int fd);

/*
 * Listen at all of addrs, at one port: add() for each. One that this machine does not have
 * (-EAFNOSUPPORT, -EADDRNOTAVAIL, -ENODEV) is passed over if there is another; after any other
 * failure drop() takes back those that were added. A port that is to be found (port 0) and is taken
 * at a further address is tried again with another. *bound gets the port.
 */
int gvm_addrs_listen(const struct gvm_addrs *addrs, unsigned port, unsigned *bound,
		     int (*add)(void *arg, const struct gvm_addrs *addrs, unsigned i,
				unsigned *port),
		     void (*drop)(void *arg), void *arg);

#endif
