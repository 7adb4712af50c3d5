/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of the ofi fabric share; docs/rdma.md says how it works.
 *
 *     ofi.c          the worker: device, completions, sleeping, memory
 *     ofi_port.c     libfabric's endpoints, their addresses and receive buffers
 *     ofi_boot.c     connections: the TCP connection that begins, keeps and ends each
 *     ofi_listen.c   listeners
 *     ofi_shm.c      endpoints of the shm provider that outlive their worker
 *     ofi_gate.c     who may be inside of such an endpoint
 *     ofi_module.c   the provider's table, and the door of its module
 *
 * Threads: everything belongs to one worker's thread.
 */
#ifndef GVM_PROVIDERS_OFI_H
#define GVM_PROVIDERS_OFI_H

#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>

#include "providers/rma.h"
#include "providers/rma_table.h"
#include "providers/tcp_accept.h"
#include "providers/tcp_dial.h"

#define OFI_VERSION FI_VERSION(1, 14)

struct ofi_port;

/* What a completion points to. */
struct ofi_ctx {
	struct fi_context2 fi;       /* libfabric's, while it is under way */
	struct ofi_ctx *next, *prev; /* work and first cells that are under way */
	enum { OFI_CTX_RECV, OFI_CTX_PATH, OFI_CTX_WORK } kind;
};

struct ofi_buf {
	struct ofi_ctx ctx; /* first */
	struct ofi_buf *next;
	struct ofi_port *port;
	struct ofi_block *block;
	uint8_t *at;
	struct ofi_ep *ep; /* of a first cell that is sent: whose; NULL: it has ended */
	struct ofi_addr *addr;
};

/* An address of another endpoint, as libfabric knows it: one for all connections to it. */
struct ofi_addr {
	struct ofi_addr *next, *prev; /* last used first */
	struct ofi_port *port;
	unsigned refs;         /* connections and works */
	struct ofi_shm *shm;   /* shm: of this process */
	struct ofi_gate *gate; /* shm */
	fi_addr_t fi;
	uint32_t len;
	uint8_t name[240];
};

/* An endpoint of libfabric's. There is one for each local address that connections are made from;
 * providers whose addresses are not the network's have one. */
struct ofi_port {
	struct ofi_port *next;
	struct ofi_prov *prov;
	struct sockaddr_storage local; /* without a port; family 0: whatever */
	struct fid_av *av;
	struct fid_ep *ep;
	uint8_t name[240];
	uint32_t name_len;
	struct ofi_shm *shm;   /* shm: for others of this process */
	struct ofi_gate *gate; /* shm: for all, and the file that says so */
	int gate_fd;
	struct ofi_addr *addrs, *addrs_last;
	unsigned n_addrs, idle_addrs;
	struct ofi_buf *idle;
	struct ofi_block *blocks;
	unsigned receives, posted; /* buffers: of its connections together, and with libfabric */
};

enum ofi_state {
	OFI_DIALLING,
	OFI_HELLO, /* waits for what the other side says first */
	OFI_PROOF, /* for its proof of the key; libfabric hears of it after that */
	OFI_NAME,  /* for its name */
	OFI_PATH,  /* the first cell is to come through */
	OFI_OPEN,
	OFI_ENDING, /* the other side has said how many cells come */
	OFI_ENDED
};

/* What is not waited for for ever. Whoever waits for the same has the same time, so those who wait
 * are in the order in which their time is over. */
enum ofi_wait {
	OFI_WAIT_PROOF, /* accepted ones, for what shows that they have the key */
	OFI_WAIT_OPEN,  /* accepted ones that have it, for the rest */
	OFI_WAIT_END,   /* for cells that were to come */
	OFI_WAITS
};

struct ofi_queue {
	struct ofi_ep *first, *last; /* the oldest first */
	unsigned count;
	unsigned most; /* then the oldest gives way; 0: as many as there are */
	uint64_t ns;
};

/* All that both sides have said before libfabric is used, in order: what they prove. A frame that
 * is being received is at its end. */
struct ofi_talk {
	uint32_t len;
	int key_of_one; /* so the proofs cannot be the same */
	uint8_t said[2 * (GVM_OFI_HELLO_LEN + GVM_OFI_PROOF_LEN + GVM_OFI_NAME_LEN)];
};
_Static_assert(sizeof(((struct ofi_talk *)0)->said) <= GVM_PROOF_TEXT_MAX, "it can be proven");

struct ofi_ep {
	struct gvm_rma_ep ep; /* first */
	struct rma_node node; /* in prov->ids, by the id that cells to us carry */
	struct gvm_watch watch;
	enum ofi_state state;
	struct ofi_port *port;
	unsigned receives; /* buffers that the port has for it */
	struct ofi_addr *addr;
	struct gvm_listener *listener; /* of an accepted one that is not open */
	uint64_t to;                   /* what cells to the other side carry */
	uint64_t sent, received, last; /* cells; last: how many will have been received */
	struct ofi_queue *wait;        /* NULL: it waits for ever, or for nothing */
	uint64_t until;                /* of those that do not wait for ever */
	struct ofi_ep *wait_next, *wait_prev;
	struct ofi_ep *path_next; /* in prov->paths */
	struct ofi_buf *path;     /* the first cell, under way */
	unsigned path_tries;
	int ends_early;        /* its end was heard of before its first cell */
	uint64_t path_at;      /* not before */
	struct ofi_talk *talk; /* until PATH */
	int told;              /* why it is refused: that is to arrive */
	uint8_t rx[GVM_OFI_END_LEN];
	uint32_t rx_len; /* of a frame that has not come in whole */
	struct gvm_dial dial;
};

struct ofi_work {
	struct gvm_rma_work work; /* first */
	struct ofi_ctx ctx;
	struct ofi_addr *addr;
};

struct ofi_listener {
	struct gvm_listener *l;
	struct gvm_acceptor acceptor;
};

struct ofi_prov {
	struct gvm_rma rma; /* first */
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_domain *domain;
	struct fid_cq *cq;
	struct gvm_watch cq_watch; /* fd -1: the provider has none, and nap is used */
	struct gvm_watch nap;      /* a timer: look again */
	int again;                 /* something could not be posted, and is tried again */
	int looked;                /* nothing was left a moment ago */
	uint64_t busy_at;          /* when something was last found */
	struct ofi_port *ports;
	struct rma_table ids;
	unsigned conns, sends; /* endpoints with a socket; cells under way, first ones too */
	struct ofi_ctx *under_way;
	int spoiled;           /* shm: a process has died inside the port's region */
	struct ofi_ep *paths;  /* those whose first cell is to be sent */
	struct ofi_ep *trying; /* the rest of those that were in paths, in ofi_paths_try() */
	int unposted;          /* receive buffers are to be posted that could not be */
	uint64_t renew_at;     /* without cq: not before */
	uint8_t machine[16];

	struct gvm_watch clock; /* a timer that ticks while there are waits */
	struct ofi_queue waits[OFI_WAITS];
	int late; /* the last tick came late */
	struct gvm_acceptors acceptors;
	uint64_t log_at; /* not before: who is refused does not fill the log */
	struct gvm_dialler dialler;
};

static inline struct ofi_prov *ofi_prov(const struct gvm_rma *rma)
{
	return (struct ofi_prov *)(uintptr_t)rma;
}

static inline struct ofi_prov *ofi_of(const struct ofi_ep *ep)
{
	return ofi_prov(ep->ep.rma);
}

static inline uint64_t ofi_now(const struct ofi_prov *prov)
{
	return prov->rma.up->now(prov->rma.host);
}

static inline int ofi_is_shm(const struct ofi_prov *prov)
{
	return strncmp(prov->info->fabric_attr->prov_name, "shm", 3) == 0;
}

/* Are the provider's addresses the network's, so that the local one can be chosen? */
static inline int ofi_is_network(const struct fi_info *info)
{
	return strncmp(info->fabric_attr->prov_name, "tcp", 3) == 0;
}

/* Over verbs, where libfabric's sizes may be more than the device has. */
static inline int ofi_is_verbs(const struct fi_info *info)
{
	return strncmp(info->fabric_attr->prov_name, "verbs", 5) == 0;
}

/* What to do about that: of completion queues libfabric (1.17: rxm_ep_msg_cq_open()) asks for
 * (128 + 128) * FI_UNIVERSE_SIZE entries, which is 1024 unless it is set, and takes no for an
 * answer. */
#define OFI_VERBS_ADVICE                                                                           \
	"its completion queue may be more than the device has (gvm info -v shows its limits): "    \
	"FI_UNIVERSE_SIZE=100 asks for one of 25,600 entries"

extern const struct gvm_rma_fabric ofi_fabric;

/* ---- ofi.c --------------------------------------------------------------------------------- */

/* What is asked of libfabric. provider: its name, or NULL. NULL: out of memory. */
struct fi_info *ofi_hints(const char *provider);
/* -errno of libfabric's. */
int ofi_errno(ssize_t err);
int ofi_probe(const char **why);
/* Has an entry before this one the same name? libfabric sorts by more than the name. */
int ofi_is_repeated(const struct fi_info *list, const struct fi_info *entry);
/* Can an endpoint be made? 0, or why not. */
int ofi_try(struct fi_info *info);
int ofi_poll(struct gvm_rma *rma);

/* ---- ofi_port.c ---------------------------------------------------------------------------- */

/* The port for connections from this local address. */
int ofi_port_get(struct ofi_prov *prov, const struct sockaddr *local, struct ofi_port **port);
/* Send to this address; as fi_send(), but for what ofi_gate_enter() says. */
ssize_t ofi_send(struct ofi_port *port, struct ofi_addr *addr, const void *buf, size_t len,
		 void *desc, struct ofi_ctx *ctx);
void ofi_ports_stop(struct ofi_prov *prov);
/* After ofi_ports_stop. */
void ofi_ports_free(struct ofi_prov *prov);
/* It has so many receive buffers for this connection, which is at ep->port. */
int ofi_receives(struct gvm_rma_ep *ep, unsigned n);
/* A receive buffer has been served. */
void ofi_port_repost(struct ofi_buf *buf);
/* Post those that could not be. */
void ofi_ports_post(struct ofi_prov *prov);
/* Send the first cell. -EAGAIN: not yet. */
int ofi_path_send(struct ofi_ep *ep);
/* It has been, or could not be; buf is given back. NULL: of one that has ended. */
struct ofi_ep *ofi_path_sent(struct ofi_buf *buf);
/* The other side's endpoint; a reference. -EPROTO: this is no name of the provider's. */
int ofi_addr_get(struct ofi_port *port, const uint8_t *name, uint32_t len, struct ofi_addr **addr);
void ofi_addr_put(struct ofi_addr *addr);

/* ---- ofi_boot.c ---------------------------------------------------------------------------- */

int ofi_connect(struct gvm_rma_ep *ep, const char *host, unsigned port);
void ofi_disconnect(struct gvm_rma_ep *ep, int orderly);
/* A connection that has been asked for. fd is taken. */
void ofi_accept(struct ofi_prov *prov, struct gvm_listener *listener, int fd,
		const struct sockaddr *from);
/* Send the first cells that have not been. */
void ofi_paths_try(struct ofi_prov *prov);
/* Libfabric has it from now on, and no longer. */
static inline void ofi_begin(struct ofi_prov *prov, struct ofi_ctx *ctx)
{
	ctx->prev = NULL;
	ctx->next = prov->under_way;
	if (ctx->next)
		ctx->next->prev = ctx;
	prov->under_way = ctx;
}

static inline void ofi_end(struct ofi_prov *prov, struct ofi_ctx *ctx)
{
	if (ctx->prev)
		ctx->prev->next = ctx->next;
	else
		prov->under_way = ctx->next;
	if (ctx->next)
		ctx->next->prev = ctx->prev;
}

/* A first cell has been sent, or not. */
void ofi_path_done(struct ofi_ep *ep, int err);
/* All that have a port end. */
void ofi_conns_fail(struct ofi_prov *prov, const char *reason);
/* There is a way to the other side: the connection is open. */
void ofi_path_open(struct ofi_ep *ep);
/* All cells that were to come have: it has ended. */
void ofi_check_ending(struct ofi_ep *ep);
/* Connections that were asked for at this listener and are not open come to nothing. */
void ofi_unaccept_all(struct ofi_prov *prov, const struct gvm_listener *listener);
int ofi_boot_open(struct ofi_prov *prov);
void ofi_boot_close(struct ofi_prov *prov);

/* ---- ofi_shm.c ----------------------------------------------------------------------------- */

/* The others do nothing, and return 0 or NULL, where the provider is not shm. */
int ofi_shm_add(struct ofi_port *port);
/* An endpoint of this process has this name: it is not closed until it is not used any more. */
struct ofi_shm *ofi_shm_use(const struct ofi_prov *prov, const uint8_t *name, uint32_t len);
void ofi_shm_unuse(struct ofi_shm *shm);
/* The longest cell that is with the other side once it is sent. */
size_t ofi_shm_cell(const struct fi_info *info);
/* Is there an endpoint of this name, on this machine? */
int ofi_shm_exists(const char *name);
/* port ends. 1: it is used; its endpoint, and what belongs to that, is closed later. */
int ofi_shm_end(struct ofi_port *port);

/* ---- ofi_gate.c ---------------------------------------------------------------------------- */

/* The gate of this process's endpoint, and the descriptor that keeps it from being swept away. */
int ofi_gate_make(const char *name, struct ofi_gate **gate, int *fd);
void ofi_gate_unmake(const char *name, struct ofi_gate *gate, int fd);
/* That of an endpoint of this machine and user; NULL: there is none. */
struct ofi_gate *ofi_gate_open(const char *name);
void ofi_gate_close(struct ofi_gate *gate);
/* -EAGAIN: somebody is inside. -EOWNERDEAD: somebody has died there, now or earlier. */
int ofi_gate_enter(struct ofi_gate *gate);
void ofi_gate_leave(struct ofi_gate *gate);
/* Gates and regions that processes of this user have left behind: of this name, or all. Those of
 * processes that live stay. */
void ofi_gate_sweep(const char *name);
void ofi_gates_sweep(void);
/* Regions with this process's number that are older than it (CLOCK_REALTIME, ns): of an earlier
 * one. libfabric takes them for this one's, and makes no endpoint: EBUSY. */
void ofi_regions_sweep(int pid, uint64_t started);
/* All that, before an endpoint is made. */
void ofi_shm_sweep(void);

/* ---- ofi_listen.c -------------------------------------------------------------------------- */

int ofi_listen(struct gvm_rma *rma, struct gvm_listener *listener, const char *host, unsigned port,
	       unsigned *bound_port);
void ofi_unlisten(struct gvm_rma *rma, struct gvm_listener *listener);
/* accepted() of gvm_acceptors. */
void ofi_acceptor_accepted(struct gvm_acceptor *acceptor, int fd, const struct sockaddr *from);

#endif
