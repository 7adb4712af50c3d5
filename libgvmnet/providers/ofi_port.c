/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * libfabric's endpoints. One is made for each local address from which connections are made or
 * accepted, so that a worker that listens on loopback alone is reached by nobody else, and one that
 * has peers here and elsewhere reaches both; where a provider's addresses are not the network's
 * there is one. All have the worker's completion queue.
 *
 * Receive buffers are an endpoint's: as many as its connections may have cells on their way to it,
 * and never more than libfabric takes at a time (beyond, it keeps cells itself until there is one).
 */
#include "providers/ofi.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BUFS 64u
#define IDLE_ADDRS 256u /* of an endpoint, that no connection uses */

struct ofi_block {
	struct ofi_block *next;
	struct gvm_rma_reg reg;
	struct ofi_buf buf[BLOCK_BUFS];
	uint8_t bytes[BLOCK_BUFS][GVM_RMA_CELL] __attribute__((aligned(64)));
};

/* ---- receive buffers ----------------------------------------------------------------------- */

static int block_new(struct ofi_port *port)
{
	struct gvm_rma *rma = &port->prov->rma;
	struct ofi_block *block;
	int err;

	if (posix_memalign((void **)&block, 4096, sizeof(*block)))
		return -ENOMEM;
	memset(block, 0, sizeof(*block));
	err = rma->fabric->reg(rma, NULL, block->bytes, sizeof(block->bytes), 0, &block->reg);
	if (err) {
		free(block);
		return err;
	}
	for (unsigned i = 0; i < BLOCK_BUFS; i++) {
		struct ofi_buf *buf = &block->buf[i];

		buf->port = port;
		buf->block = block;
		buf->at = block->bytes[i];
		buf->next = port->idle;
		port->idle = buf;
	}
	block->next = port->blocks;
	port->blocks = block;
	return 0;
}

static unsigned wanted(const struct ofi_port *port)
{
	size_t most = port->prov->info->rx_attr->size;
	size_t want = (size_t)port->conns * GVM_RMA_RECVS;

	return (unsigned)(want < most ? want : most);
}

static int post_more(struct ofi_port *port)
{
	while (port->posted < wanted(port)) {
		struct ofi_buf *buf = port->idle;
		ssize_t err = buf ? 0 : block_new(port);

		if (err)
			return (int)err;
		buf = port->idle;
		buf->ctx.kind = OFI_CTX_RECV;
		err = fi_recv(port->ep, buf->at, GVM_RMA_CELL, buf->block->reg.local,
			      FI_ADDR_UNSPEC, &buf->ctx);
		if (err == -FI_EAGAIN && port->posted)
			return 0; /* the next one that is served comes with another try */
		if (err)
			return ofi_errno(err);
		port->idle = buf->next;
		port->posted++;
	}
	return 0;
}

int ofi_port_use(struct ofi_port *port)
{
	int err;

	port->conns++;
	err = post_more(port);
	if (err)
		port->conns--;
	return err;
}

void ofi_port_unuse(struct ofi_port *port)
{
	port->conns--;
}

void ofi_port_repost(struct ofi_buf *buf)
{
	struct ofi_port *port = buf->port;

	port->posted--;
	buf->next = port->idle;
	port->idle = buf;
	post_more(port);
}

/* ---- other sides' addresses ---------------------------------------------------------------- */
/*
 * One that is not used any more is kept for a while: to take it from libfabric's table would break
 * the way to the other side off, under cells that are still to arrive and a connection that is just
 * being made again. When there are many, those that have not been used for longest go, whose other
 * side is no more as a rule.
 */

static void addr_unlink(struct ofi_addr *addr)
{
	struct ofi_port *port = addr->port;

	if (addr->prev)
		addr->prev->next = addr->next;
	else
		port->addrs = addr->next;
	if (addr->next)
		addr->next->prev = addr->prev;
	else
		port->addrs_last = addr->prev;
}

static void addr_link(struct ofi_addr *addr)
{
	struct ofi_port *port = addr->port;

	addr->prev = NULL;
	addr->next = port->addrs;
	if (addr->next)
		addr->next->prev = addr;
	else
		port->addrs_last = addr;
	port->addrs = addr;
}

static struct ofi_addr *addr_new(struct ofi_port *port, const uint8_t *name, uint32_t len)
{
	struct ofi_addr *addr = calloc(1, sizeof(*addr));

	if (!addr)
		return NULL;
	if (fi_av_insert(port->av, name, 1, &addr->fi, 0, NULL) != 1) {
		free(addr);
		return NULL;
	}
	memcpy(addr->name, name, len);
	addr->shm = ofi_shm_use(port->prov, name, len);
	addr->port = port;
	addr_link(addr);
	port->idle_addrs++;
	return addr;
}

int ofi_addr_get(struct ofi_port *port, const uint8_t *name, uint32_t len, struct ofi_addr **out)
{
	struct ofi_addr *addr = port->addrs;

	/* libfabric would read as much of it as its own addresses have. */
	if (len != port->name_len)
		return -EPROTO;
	while (addr && memcmp(addr->name, name, len) != 0)
		addr = addr->next;
	if (!addr)
		addr = addr_new(port, name, len);
	if (!addr)
		return -EHOSTUNREACH;
	port->idle_addrs -= addr->refs++ == 0;
	*out = addr;
	return 0;
}

static void addr_free(struct ofi_addr *addr)
{
	if (addr->shm)
		ofi_shm_unuse(addr->shm);
	free(addr);
}

/* The one of those not used that was used before all others. */
static void forget_oldest(struct ofi_port *port)
{
	struct ofi_addr *addr = port->addrs_last;

	while (addr->refs)
		addr = addr->prev;
	addr_unlink(addr);
	port->idle_addrs--;
	fi_av_remove(port->av, &addr->fi, 1, 0);
	addr_free(addr);
}

void ofi_addr_put(struct ofi_addr *addr)
{
	struct ofi_port *port = addr->port;

	if (--addr->refs)
		return;
	addr_unlink(addr);
	addr_link(addr);
	if (++port->idle_addrs > IDLE_ADDRS && port->ep)
		forget_oldest(port);
}

/* ---- the first cell ------------------------------------------------------------------------ */

int ofi_path_send(struct ofi_ep *ep)
{
	struct gvm_cell cell = { .provider = ep->to };
	struct ofi_port *port = ep->port;
	int err = port->idle ? 0 : block_new(port);
	struct ofi_buf *buf = port->idle;

	if (err)
		return err;
	gvm_cell_encode(buf->at, &cell);
	buf->ctx.kind = OFI_CTX_PATH;
	err = ofi_errno(fi_send(port->ep, buf->at, GVM_CELL_LEN, buf->block->reg.local,
				ep->addr->fi, &buf->ctx));
	if (err)
		return err;
	port->idle = buf->next;
	buf->ep = ep;
	buf->addr = ep->addr;
	buf->addr->refs++;
	ep->path = buf;
	return 0;
}

struct ofi_ep *ofi_path_sent(struct ofi_buf *buf)
{
	struct ofi_ep *ep = buf->ep;

	buf->next = buf->port->idle;
	buf->port->idle = buf;
	ofi_addr_put(buf->addr);
	if (ep)
		ep->path = NULL;
	return ep;
}

/* ---- ports --------------------------------------------------------------------------------- */

/* Are the provider's addresses the network's, so that the local one can be chosen? */
static int is_network(const struct ofi_prov *prov)
{
	return strncmp(prov->info->fabric_attr->prov_name, "tcp", 3) == 0;
}

static void one_loopback(struct sockaddr_in *in)
{
	if (ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET)
		in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
}

/* The address alone; all of loopback's are one. */
static void without_port(const struct sockaddr *sa, struct sockaddr_storage *out)
{
	const struct sockaddr_in6 *in6 = (const void *)sa;
	const struct sockaddr_in *in = (const void *)sa;

	memset(out, 0, sizeof(*out));
	if (sa->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
		struct sockaddr_in *to = (void *)out;

		to->sin_family = AF_INET;
		memcpy(&to->sin_addr, &in6->sin6_addr.s6_addr[12], 4);
		one_loopback(to);
	} else if (sa->sa_family == AF_INET6) {
		struct sockaddr_in6 *to = (void *)out;

		to->sin6_family = AF_INET6;
		to->sin6_addr = in6->sin6_addr;
		to->sin6_scope_id = in6->sin6_scope_id;
	} else {
		struct sockaddr_in *to = (void *)out;

		to->sin_family = AF_INET;
		to->sin_addr = in->sin_addr;
		one_loopback(to);
	}
}

/* libfabric's description of an endpoint with this source address. */
static int find_info(struct ofi_prov *prov, const struct sockaddr_storage *local,
		     struct fi_info **out)
{
	struct fi_info *hints = fi_dupinfo(prov->info);
	int err;

	if (!hints)
		return -ENOMEM;
	free(hints->domain_attr->name);
	free(hints->fabric_attr->name);
	free(hints->src_addr);
	free(hints->dest_addr);
	hints->domain_attr->name = hints->fabric_attr->name = NULL;
	hints->dest_addr = NULL;
	hints->dest_addrlen = 0;
	hints->addr_format = local->ss_family == AF_INET6 ? FI_SOCKADDR_IN6 : FI_SOCKADDR_IN;
	hints->src_addrlen =
	    local->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
	hints->src_addr = malloc(hints->src_addrlen);
	if (hints->src_addr)
		memcpy(hints->src_addr, local, hints->src_addrlen);
	hints->handle = NULL;
	err = hints->src_addr ? fi_getinfo(OFI_VERSION, NULL, NULL, 0, hints, out) : -FI_ENOMEM;
	fi_freeinfo(hints);
	return ofi_errno(err);
}

static int port_open(struct ofi_port *port, struct fi_info *info)
{
	struct ofi_prov *prov = port->prov;
	struct fi_av_attr av = { .type = FI_AV_UNSPEC };
	size_t len = sizeof(port->name);
	int err;

	err = fi_av_open(prov->domain, &av, &port->av, NULL);
	if (!err)
		err = fi_endpoint(prov->domain, info, &port->ep, NULL);
	if (!err)
		err = fi_ep_bind(port->ep, &port->av->fid, 0);
	if (!err)
		err = fi_ep_bind(port->ep, &prov->cq->fid, FI_TRANSMIT | FI_RECV);
	if (!err)
		err = fi_enable(port->ep);
	if (!err)
		err = fi_getname(&port->ep->fid, port->name, &len);
	port->name_len = (uint32_t)len;
	return err ? ofi_errno(err) : ofi_shm_add(port);
}

static void port_close(struct ofi_port *port)
{
	if (ofi_shm_end(port))
		return;
	if (port->ep)
		fi_close(&port->ep->fid);
	port->ep = NULL;
}

static void port_free(struct ofi_port *port)
{
	struct gvm_rma *rma = &port->prov->rma;
	struct ofi_block *block;
	struct ofi_addr *addr;

	while ((block = port->blocks)) {
		port->blocks = block->next;
		rma->fabric->dereg(rma, &block->reg);
		free(block);
	}
	while ((addr = port->addrs)) {
		port->addrs = addr->next;
		addr_free(addr);
	}
	if (port->av)
		fi_close(&port->av->fid);
	free(port);
}

static int port_new(struct ofi_prov *prov, const struct sockaddr_storage *local,
		    struct ofi_port **out)
{
	struct ofi_port *port = calloc(1, sizeof(*port));
	struct fi_info *info = NULL;
	int err;

	if (!port)
		return -ENOMEM;
	port->prov = prov;
	port->local = *local;
	err = local->ss_family ? find_info(prov, local, &info) : 0;
	if (!err)
		err = port_open(port, info ? info : prov->info);
	if (info)
		fi_freeinfo(info);
	if (err) {
		port_close(port);
		port_free(port);
		return err;
	}
	port->next = prov->ports;
	prov->ports = port;
	*out = port;
	return 0;
}

int ofi_port_get(struct ofi_prov *prov, const struct sockaddr *sa, struct ofi_port **out)
{
	struct sockaddr_storage local;

	memset(&local, 0, sizeof(local));
	if (is_network(prov))
		without_port(sa, &local);
	for (struct ofi_port *port = prov->ports; port; port = port->next)
		if (memcmp(&port->local, &local, sizeof(local)) == 0) {
			*out = port;
			return 0;
		}
	return port_new(prov, &local, out);
}

void ofi_ports_stop(struct ofi_prov *prov)
{
	for (struct ofi_port *port = prov->ports; port; port = port->next)
		port_close(port);
}

void ofi_ports_free(struct ofi_prov *prov)
{
	struct ofi_port *port;

	while ((port = prov->ports)) {
		prov->ports = port->next;
		port_free(port);
	}
}
