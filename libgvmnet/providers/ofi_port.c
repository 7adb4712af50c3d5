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

#include <ctype.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BUFS 32u
#define IDLE_ADDRS 256u /* of an endpoint, that no connection uses */
#define SHM_ADDRS  200u /* of an endpoint: shm has 256, its own among them, and looks no further */
#define PORT_TRIES 8u

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

	return port->receives < most ? port->receives : (unsigned)most;
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

/* If none is posted, none is served that would come with another try. */
static void post_or_later(struct ofi_port *port)
{
	if (!post_more(port))
		return;
	port->prov->unposted = 1;
	port->prov->again = 1;
}

int ofi_receives(struct gvm_rma_ep *gep, unsigned n)
{
	struct ofi_ep *ep = (struct ofi_ep *)gep;
	struct ofi_port *port = ep->port;
	int err = 0;

	port->receives += n - ep->receives;
	if (n > ep->receives)
		err = post_more(port);
	if (err)
		port->receives -= n - ep->receives;
	else
		ep->receives = n;
	return err;
}

void ofi_port_repost(struct ofi_buf *buf)
{
	struct ofi_port *port = buf->port;

	port->posted--;
	buf->next = port->idle;
	port->idle = buf;
	post_or_later(port); /* where its connection has fewer by now, it stays idle */
}

void ofi_ports_post(struct ofi_prov *prov)
{
	prov->unposted = 0;
	for (struct ofi_port *port = prov->ports; port; port = port->next)
		if (port->ep)
			post_or_later(port);
}

/* ---- names of endpoints -------------------------------------------------------------------- */
/*
 * They come from who has the cluster's key, which may mean none, and libfabric believes all that is
 * in one: of an unknown family it takes no note of the length, and its table is spoiled for those
 * that come after.
 */

static int is_inet(const uint8_t *name, uint32_t len)
{
	struct sockaddr_in in;

	if (len != sizeof(in))
		return 0;
	memcpy(&in, name, sizeof(in));
	return in.sin_port && in.sin_addr.s_addr != htonl(INADDR_ANY) &&
	       !IN_MULTICAST(ntohl(in.sin_addr.s_addr));
}

static int is_inet6(const uint8_t *name, uint32_t len)
{
	struct sockaddr_in6 in;

	if (len != sizeof(in))
		return 0;
	memcpy(&in, name, sizeof(in));
	return in.sin6_port && !IN6_IS_ADDR_UNSPECIFIED(&in.sin6_addr) &&
	       !IN6_IS_ADDR_MULTICAST(&in.sin6_addr);
}

static int is_sockaddr(const struct ofi_port *port, const uint8_t *name, uint32_t len)
{
	sa_family_t family, ours;

	if (len != port->name_len || len < sizeof(family))
		return 0;
	memcpy(&family, name, sizeof(family));
	memcpy(&ours, port->name, sizeof(ours));
	if (family != ours)
		return 0;
	if (family == AF_INET)
		return is_inet(name, len);
	return family != AF_INET6 || is_inet6(name, len);
}

/* "fi_shm://PID:UID:NUMBER" and its end; numbers have as many digits as they have. */
static int is_text(const struct ofi_port *port, const uint8_t *name, uint32_t len)
{
	const char *text = (const char *)name, *ours = (const char *)port->name;
	const char *rest = memchr(ours, '/', port->name_len);
	size_t prefix = rest ? (size_t)(rest - ours) + 2 : 0;

	if (len < prefix + 2 || name[len - 1] || memcmp(text, ours, prefix) != 0)
		return 0;
	for (uint32_t i = (uint32_t)prefix; i < len - 1; i++)
		if (!isalnum(name[i]) && name[i] != ':' && name[i] != '_' && name[i] != '-')
			return 0;
	return !ofi_is_shm(port->prov) || ofi_shm_exists(text + prefix);
}

/* Of other formats no more than the length is known. */
static int is_name(const struct ofi_port *port, const uint8_t *name, uint32_t len)
{
	switch (port->prov->info->addr_format) {
	case FI_SOCKADDR:
	case FI_SOCKADDR_IN:
	case FI_SOCKADDR_IN6:
	case FI_SOCKADDR_IB:
		return is_sockaddr(port, name, len);
	case FI_ADDR_STR:
		return is_text(port, name, len);
	default:
		return len == port->name_len;
	}
}

/* ---- other sides' addresses ---------------------------------------------------------------- */
/*
 * One that is not used any more is kept for a while: to take it from libfabric's table would break
 * the way to the other side off, under cells that are still to arrive and a connection that is just
 * being made again. When there are many, those that have not been used for longest go, whose other
 * side is no more as a rule. Not so over shm: its names are made of process ids, which come back,
 * and an address stays with the memory of the process that had it first. There it goes with its
 * last use.
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

static void addr_free(struct ofi_addr *addr)
{
	if (addr->shm)
		ofi_shm_unuse(addr->shm);
	if (addr->gate)
		ofi_gate_sweep((const char *)addr->name); /* it may have died */
	ofi_gate_close(addr->gate);
	free(addr);
}

static struct ofi_addr *addr_new(struct ofi_port *port, const uint8_t *name, uint32_t len)
{
	struct ofi_addr *addr = calloc(1, sizeof(*addr));

	if (!addr)
		return NULL;
	addr->len = len;
	memcpy(addr->name, name, len);
	if (port->gate)
		addr->gate = ofi_gate_open((const char *)name);
	if ((port->gate && !addr->gate) ||
	    fi_av_insert(port->av, name, 1, &addr->fi, 0, NULL) != 1) {
		addr_free(addr);
		return NULL;
	}
	addr->shm = ofi_shm_use(port->prov, name, len);
	addr->port = port;
	addr_link(addr);
	port->n_addrs++;
	port->idle_addrs++;
	return addr;
}

int ofi_addr_get(struct ofi_port *port, const uint8_t *name, uint32_t len, struct ofi_addr **out)
{
	struct ofi_addr *addr = port->addrs;

	if (!is_name(port, name, len))
		return -EPROTO;
	while (addr && (addr->len != len || memcmp(addr->name, name, len) != 0))
		addr = addr->next;
	if (!addr && (!ofi_is_shm(port->prov) || port->n_addrs < SHM_ADDRS))
		addr = addr_new(port, name, len);
	if (!addr)
		return -EHOSTUNREACH;
	port->idle_addrs -= addr->refs++ == 0;
	*out = addr;
	return 0;
}

/* The one of those not used that was used before all others. */
static void forget_oldest(struct ofi_port *port)
{
	struct ofi_addr *addr = port->addrs_last;

	while (addr->refs)
		addr = addr->prev;
	addr_unlink(addr);
	port->n_addrs--;
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
	if (++port->idle_addrs > (ofi_is_shm(port->prov) ? 0 : IDLE_ADDRS) && port->ep)
		forget_oldest(port);
}

/* ---- the first cell ------------------------------------------------------------------------ */

ssize_t ofi_send(struct ofi_port *port, struct ofi_addr *addr, const void *buf, size_t len,
		 void *desc, struct ofi_ctx *ctx)
{
	ssize_t err = addr->gate ? ofi_gate_enter(addr->gate) : 0;

	if (err)
		return err;
	err = fi_send(port->ep, buf, len, desc, addr->fi, ctx);
	if (addr->gate)
		ofi_gate_leave(addr->gate);
	if (!err)
		port->prov->sends++;
	return err;
}

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
	err = ofi_errno(
	    ofi_send(port, ep->addr, buf->at, GVM_CELL_LEN, buf->block->reg.local, &buf->ctx));
	if (err)
		return err;
	ofi_begin(port->prov, &buf->ctx);
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

	buf->port->prov->sends--;
	ofi_end(buf->port->prov, &buf->ctx);
	buf->next = buf->port->idle;
	buf->port->idle = buf;
	ofi_addr_put(buf->addr);
	if (ep)
		ep->path = NULL;
	return ep;
}

/* ---- ports --------------------------------------------------------------------------------- */

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

	if (ofi_is_shm(prov))
		ofi_shm_sweep(); /* one of this name among them */
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
	if (!err && ofi_is_shm(prov))
		err = ofi_gate_make((const char *)port->name, &port->gate, &port->gate_fd);
	return err ? ofi_errno(err) : ofi_shm_add(port);
}

/* Over siw an endpoint's port is one of TCP's, which rdma_cm draws without looking for who has it.
 */
static int port_open_free(struct ofi_port *port, struct fi_info *info)
{
	int err = port_open(port, info);

	for (unsigned i = 0; i < PORT_TRIES && err == -EADDRINUSE; i++) {
		if (port->ep)
			fi_close(&port->ep->fid);
		if (port->av)
			fi_close(&port->av->fid);
		port->ep = NULL;
		port->av = NULL;
		err = port_open(port, info);
	}
	return err;
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
	if (port->gate)
		ofi_gate_unmake((const char *)port->name, port->gate, port->gate_fd);
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
		err = port_open_free(port, info ? info : prov->info);
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

	if (prov->spoiled)
		return -EIO;
	memset(&local, 0, sizeof(local));
	if (ofi_is_network(prov->info))
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
