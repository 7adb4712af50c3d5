/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Addresses for the tcp provider: names to addresses without stopping the worker, and sockets that
 * listen.
 *
 * A numeric address never blocks. A name is looked up by a thread that a resolver starts when it is
 * needed and that ends when there is nothing to look up; the answer is collected by the worker when
 * the resolver's descriptor becomes readable. Listening looks names up on the spot: it is done at
 * start-up, before there is anything to stall.
 */
#ifndef GVM_PROVIDERS_TCP_ADDR_H
#define GVM_PROVIDERS_TCP_ADDR_H

#include <sys/socket.h>
#include <stddef.h>

#define GVM_ADDRS_MAX 8u /* addresses of one name that are tried */

struct gvm_addrs {
	unsigned n;
	struct {
		struct sockaddr_storage sa;
		socklen_t len;
	} at[GVM_ADDRS_MAX];
};

/* A numeric IPv4 or IPv6 address. -EINVAL: it is a name. */
int gvm_addrs_numeric(const char *host, unsigned port, struct gvm_addrs *addrs);
/* Where to listen for host: "*" is every IPv4 and IPv6 address. Blocks for a name. -EADDRNOTAVAIL
 * with a logged reason. */
int gvm_addrs_passive(const char *host, unsigned port, struct gvm_addrs *addrs);
/* "10.0.0.3:9999" or "[::1]:9999". */
void gvm_addr_print(const struct sockaddr *sa, char *text, size_t size);
/* The two ends of a connection are the same socket: TCP's simultaneous open with itself, which
 * happens when a port of the ephemeral range is dialled that nobody listens at. */
int gvm_addr_is_self(int fd);

/*
 * A listening, non-blocking socket at addrs->at[i]; other workers of this process may listen at the
 * same address, other processes may not. *port 0 takes any and says which. -EADDRINUSE, ...
 */
int gvm_addr_listen(const struct gvm_addrs *addrs, unsigned i, unsigned *port, int *fd);
/* Before fd is closed. */
void gvm_addr_unlisten(int fd);

struct gvm_resolver;
struct gvm_lookup {
	struct gvm_lookup *next;
	void *user; /* whom it is for; the worker's thread may set it to NULL: nobody */
	int err;    /* 0 or a negative errno; the reason is logged */
	struct gvm_addrs addrs;
	unsigned port;
	char host[];
};

/* *fd becomes readable when answers can be collected. */
int gvm_resolver_open(struct gvm_resolver **resolver, int *fd);
/* Lookups under way are abandoned; does not wait for them. */
void gvm_resolver_close(struct gvm_resolver *resolver);
int gvm_resolver_ask(struct gvm_resolver *resolver, const char *host, unsigned port, void *user,
		     struct gvm_lookup **lookup);
/* The next answer, or NULL; free() it. */
struct gvm_lookup *gvm_resolver_next(struct gvm_resolver *resolver);

#endif
