/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Listeners of the ofi fabric: TCP sockets at the ports of the cluster file. */
#include "providers/ofi.h"

#include <errno.h>
#include <stdlib.h>

void ofi_acceptor_accepted(struct gvm_acceptor *acceptor, int fd, const struct sockaddr *from)
{
	struct gvm_listener *l = container_of(acceptor, struct ofi_listener, acceptor)->l;

	ofi_accept(ofi_prov(l->rma), l, fd, from);
}

int ofi_listen(struct gvm_rma *rma, struct gvm_listener *listener, const char *host, unsigned port,
	       unsigned *bound_port)
{
	struct ofi_listener *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return -ENOMEM;
	l->l = listener;
	err = gvm_acceptor_open(&ofi_prov(rma)->acceptors, &l->acceptor, host, port, bound_port);
	if (err) {
		free(l);
		return err;
	}
	listener->fabric = l;
	return 0;
}

void ofi_unlisten(struct gvm_rma *rma, struct gvm_listener *listener)
{
	struct ofi_listener *l = listener->fabric;

	ofi_unaccept_all(ofi_prov(rma), listener);
	gvm_acceptor_close(&l->acceptor);
	free(l);
}
