/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Listening over TCP, for the providers that do. When the process has no descriptor left, who waits
 * to be accepted is turned away by means of a spare one; where there is not even that, the
 * listeners rest for a while.
 *
 * Threads: everything belongs to the worker's thread.
 */
#ifndef GVM_PROVIDERS_TCP_ACCEPT_H
#define GVM_PROVIDERS_TCP_ACCEPT_H

#include "providers/provider.h"
#include "providers/tcp_addr.h"

/* One listener: a socket for each address of its name. */
struct gvm_acceptor {
	struct gvm_acceptors *acceptors;
	struct gvm_acceptor *next;
	unsigned n;
	int paused;
	struct gvm_accept_socket {
		struct gvm_watch watch;
		struct gvm_acceptor *acceptor;
	} at[GVM_ADDRS_MAX];
};

/* A worker's. */
struct gvm_acceptors {
	struct gvm_host *host;
	const struct gvm_host_ops *up;
	/* A connection; fd is the callee's now, non-blocking. acceptor may not be closed here. */
	void (*accepted)(struct gvm_acceptor *acceptor, int fd, const struct sockaddr *from);
	struct gvm_acceptor *list;
	struct gvm_watch rest; /* a timer: they have rested long enough */
	int spare_fd;          /* given up to accept and close what cannot be served */
	uint64_t log_at;
};

void gvm_acceptors_init(struct gvm_acceptors *acceptors, struct gvm_host *host,
			const struct gvm_host_ops *up,
			void (*accepted)(struct gvm_acceptor *acceptor, int fd,
					 const struct sockaddr *from));
/* At the end of the worker, without listeners. */
void gvm_acceptors_close(struct gvm_acceptors *acceptors);
/* A connection could not be taken: said, within bounds. */
void gvm_acceptors_log(struct gvm_acceptors *acceptors, int err);

/* Listen, as listen() of gvm_provider_ops; bound_port may be NULL. acceptor is zero, and stays at
 * its place. */
int gvm_acceptor_open(struct gvm_acceptors *acceptors, struct gvm_acceptor *acceptor,
		      const char *host, unsigned port, unsigned *bound_port);
void gvm_acceptor_close(struct gvm_acceptor *acceptor);

#endif
