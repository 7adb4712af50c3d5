/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Between rma.c, which runs gvmnet's connections over one-sided hardware, and a fabric, which is
 * what one kind of hardware does (docs/rdma.md). A fabric moves cells in order, reads and writes
 * the other side's registered memory, makes and ends connections; it knows no frames and no keys.
 *
 * Threads: everything of a gvm_rma belongs to the thread of its worker. Registrations too.
 *
 * Who frees what: endpoints and work are allocated by rma.c with room for the fabric's part behind
 * them (ep_size, work_size), which is zeroed in an endpoint, and of a work what the fabric left
 * there; a work is the fabric's from post to gvm_rma_done().
 * disconnect() is called once for each endpoint, whoever has ended it, and is where the fabric
 * gives up its part; the endpoint's memory stays until after the current poll(), so that a fabric
 * that has made an upcall can see in its own part that disconnect() has been called inside.
 *
 * A cell is a header of 16 bytes and a piece of the stream. Bytes 8 to 15 of the header are the
 * fabric's to fill in at post() (zero: it has no use for them), the rest is rma.c's.
 */
#ifndef GVM_PROVIDERS_RMA_H
#define GVM_PROVIDERS_RMA_H

#include "providers/provider.h"
#include "providers/stream.h"

#define GVM_RMA_CELL     4160u /* bytes of a receive buffer: a page, a frame's header, a cell's */
#define GVM_RMA_CELL_HDR 16u
#define GVM_RMA_BASE     2u  /* cells that may always be on their way to a peer, */
#define GVM_RMA_CELLS    16u /* and at most, besides one for credits */
#define GVM_RMA_LEND     126u /* that a worker's connections have together beyond GVM_RMA_BASE each */
#define GVM_RMA_FIRST    (GVM_RMA_BASE + 1u)  /* receive buffers that a connection begins with, */
#define GVM_RMA_RECVS    (GVM_RMA_CELLS + 1u) /* and has at most */
#define GVM_RMA_WORKS    256u /* sends, reads and writes of a connection under way */
#define GVM_RMA_GRACE_MS 200u
#define GVM_RMA_SHARES                                                                             \
	(16u << 10) /* registrations for a peer; beyond, memory is served in software */
#define GVM_RMA_LOCALS     1024u       /* buffers of the application's that a worker registers */
#define GVM_RMA_SEND_CELLS 126u        /* of a worker: half a MiB */
#define GVM_RMA_BOUNCE_MAX (32u << 20) /* bytes of a worker's bounce buffers */

struct gvm_rma;
struct gvm_rma_ep;

/* Memory known to the device. key and base are what the other side needs to reach it. */
struct gvm_rma_reg {
	uint64_t key, base, len;
	void *local; /* the fabric's: what its own work requests name the memory by */
	void *mr;    /* the fabric's */
};

enum gvm_rma_kind { GVM_RMA_SEND, GVM_RMA_READ, GVM_RMA_WRITE };

/* One thing that the hardware does. */
struct gvm_rma_work {
	struct gvm_rma_ep *ep; /* NULL: its connection has ended and it is still in the hardware */
	struct gvm_rma_work *next, *prev; /* rma.c's */
	struct gvm_op *op;                /* rma.c's; NULL: cancelled, or a cell */
	void *map, *chunk, *local;        /* rma.c's */
	uint8_t *buf;                     /* local bytes, inside of reg; of a send, the cell */
	uint8_t kind;
	uint16_t slot; /* rma.c's */
	uint32_t len;
	uint64_t since; /* rma.c's: with late_ms, when one was made that has its own buffer */
	const struct gvm_rma_reg *reg;
	uint64_t remote_key, remote_addr; /* of a read or write: as the other side's reg says */
};

struct gvm_rma_fabric {
	const char *name, *what;
	size_t prov_size, ep_size,
	    work_size; /* of the fabric's own structs, which begin with ours */
	/* disconnect() takes work back out of the hardware at once. Only then may work->buf be the
	 * application's own. */
	int takes_back;

	int (*probe)(const char **why);
	/* args as of provider.h. On return, gvm_rma_local() may be called. */
	int (*open)(struct gvm_rma *rma, const char *args);
	/* All endpoints and listeners have been ended. Take back what work is left in the hardware:
	 * gvm_rma_done() comes no more, and no memory is touched. Then all registrations are taken
	 * back, then close(). */
	void (*stop)(struct gvm_rma *rma);
	void (*close)(struct gvm_rma *rma);

	/* listen, connect: as in provider.h; ep is rma.c's, its name is set by the fabric.
	 * gvm_rma_accepted() asks for an endpoint, gvm_rma_connected() tells how connect ended.
	 * Both sides have posted GVM_RMA_FIRST receive buffers before anything can arrive. At most
	 * so many cells, or as many as receives() has said last, are on their way at a time as long
	 * as a buffer whose cell was handed to gvm_rma_cell() is posted again before poll()
	 * returns.
	 */
	int (*listen)(struct gvm_rma *rma, struct gvm_listener *listener, const char *host,
		      unsigned port, unsigned *bound_port);
	void (*unlisten)(struct gvm_rma *rma, struct gvm_listener *listener);
	int (*connect)(struct gvm_rma_ep *ep, const char *host, unsigned port);
	/* There are to be n receive buffers for what comes from ep, at most GVM_RMA_RECVS; one
	 * whose cell gvm_rma_cell() has counts. More are with the hardware before anything that is
	 * posted after this; -ENOMEM: none have been added. Fewer, which always succeeds, need not
	 * be taken out of it. Makes no upcall. */
	int (*receives)(struct gvm_rma_ep *ep, unsigned n);
	/* The other side has proven the cluster's key: the hardware may serve it. Makes no upcall.
	 * NULL: it does so as soon as there is a registration. */
	void (*allow)(struct gvm_rma_ep *ep);
	/*
	 * End it, in whatever state. orderly: cells that were posted are given to the wire if that
	 * is possible without waiting, and what the other side sees last is their end, not a
	 * failure. No upcall about ep follows. work->ep of all its work is NULL already. With
	 * takes_back the hardware is done with all of it when this returns, and gvm_rma_done() need
	 * not be called; else it still comes for each.
	 */
	void (*disconnect)(struct gvm_rma_ep *ep, int orderly);

	/* -EAGAIN: a queue is full; tried again after each poll(). Where no gvm_rma_done() and
	 * no event of arm()'s will come when there is room, arm() must see to that. Else a
	 * negative errno: the connection is broken. Posts may be gathered until ring(). Makes no
	 * upcall. */
	int (*post)(struct gvm_rma_ep *ep, struct gvm_rma_work *work);
	void (*ring)(struct gvm_rma *rma);
	/* Take completions and events: at most about 64. Returns how many. */
	int (*poll)(struct gvm_rma *rma);
	/* Have the device wake the worker (a watched descriptor): 1 if something is there already.
	 */
	int (*arm)(struct gvm_rma *rma);

	/* Memory for the other side of ep, and no other where the hardware can tell (access:
	 * GVM_ACCESS_*), or local buffers (access 0, ep NULL). reg is rma.c's and zeroed.
	 * -EOPNOTSUPP, -ENOMEM, ...: it cannot. */
	int (*reg)(struct gvm_rma *rma, struct gvm_rma_ep *ep, void *at, size_t len,
		   unsigned access, struct gvm_rma_reg *reg);
	/* The hardware no longer reaches it when this returns. May come after disconnect(), and
	 * again for a reg whose reg() has failed or whose dereg() has been. */
	void (*dereg)(struct gvm_rma *rma, struct gvm_rma_reg *reg);
};

/* A worker's state; the fabric's follows. */
struct gvm_rma {
	struct gvm_host *host;
	const struct gvm_host_ops *up;
	const struct gvm_rma_fabric *fabric;
	struct gvm_rma_core *core; /* rma.c's */
	/* Set by open(): a read whose answer ends half way with a refusal may be told done. So no
	 * registration is taken away from a connection that may still use it. */
	int hides_refusals;
	unsigned grace_ms; /* set by open(): how long UNMAP may wait for its answer; 0:
			      GVM_RMA_GRACE_MS */
	/* Set by open(): what this side's CPU, or the other's, moves as if it were hardware can not
	 * be stopped in the middle of a message, by dereg() or disconnect().
	 * no_writes: so nobody is let write to memory of this side.
	 * linger_ms: a read that has begun may go on for so long after its connection has ended
	 *   (0: it ends with it), unless the other side has_let_go.
	 * late_ms: less than that; a read that takes longer is not believed, and is made again. */
	int no_writes;
	unsigned linger_ms, late_ms;
	uint32_t cell; /* set by open(): the most bytes of a cell that this side sends, more than
			  GVM_RMA_CELL_HDR; 0: GVM_RMA_CELL */
};

struct gvm_listener {
	struct gvm_rma *rma;
	void *fabric; /* the fabric's */
};

/* An endpoint; the fabric's part follows. */
struct gvm_rma_ep {
	struct gvm_ep ep; /* first */
	struct gvm_rma *rma;
	struct gvm_rma_conn *conn; /* rma.c's */
	/* The fabric's, before it tells of the end: the other side has ended the connection first,
	 * or is no more; what it may still read it gives to nobody. */
	int has_let_go;
};

/* ---- what a fabric calls ------------------------------------------------------------------- */

/* An endpoint for a connection that has been asked for at listener; NULL: refuse it. */
struct gvm_rma_ep *gvm_rma_accept(struct gvm_rma *rma);
/* It is open: cells may come and go. core hears of it. */
void gvm_rma_accepted(struct gvm_listener *listener, struct gvm_rma_ep *ep);
/* It has come to nothing: ep is gone; disconnect() is called inside. */
void gvm_rma_unaccept(struct gvm_rma_ep *ep);
/* connect() has ended: 0, or why not, then ep is gone when this returns, disconnect() called. */
void gvm_rma_connected(struct gvm_rma_ep *ep, int status);
/* A cell has arrived. Its buffer is the fabric's and is posted again after this. May end ep. */
void gvm_rma_cell(struct gvm_rma_ep *ep, const uint8_t *cell, uint32_t len);
/* The hardware is done with a work, which is freed: 0 or a negative errno. An error is to be
 * followed by gvm_rma_broken(), where the endpoint has not ended. Ends nothing by itself. */
void gvm_rma_done(struct gvm_rma_work *work, int status);
/* The connection has ended. ep is gone when this returns; disconnect() has been called inside.
 * No-op for an endpoint that is gone already. */
void gvm_rma_broken(struct gvm_rma_ep *ep, int why, const char *reason);

/* The device is gone, and all endpoints have ended: dereg() comes for whatever is registered. No
 * reg() until gvm_rma_back(). */
void gvm_rma_lost(struct gvm_rma *rma);
/* It is there again: reg() for the worker's buffers. An error: they cannot be, and it is as after
 * gvm_rma_lost(). */
int gvm_rma_back(struct gvm_rma *rma);

/*
 * A provider over a fabric: its table is GVM_RMA_OPS with an open() that calls gvm_rma_open.
 */
int gvm_rma_open(const struct gvm_rma_fabric *fabric, const struct gvm_provider_ops *self,
		 struct gvm_host *host, const struct gvm_host_ops *ops, const char *args,
		 struct gvm_prov **prov);
void gvm_rma_close(struct gvm_prov *prov);
int gvm_rma_progress(struct gvm_prov *prov);
int gvm_rma_peek(struct gvm_prov *prov);
void gvm_rma_flush(struct gvm_prov *prov);
int gvm_rma_arm(struct gvm_prov *prov);
int gvm_rma_listen(struct gvm_prov *prov, const char *host, unsigned port,
		   struct gvm_listener **listener, unsigned *bound_port);
void gvm_rma_unlisten(struct gvm_listener *listener);
int gvm_rma_connect(struct gvm_prov *prov, const char *host, unsigned port, void *user,
		    struct gvm_ep **ep);
void gvm_rma_shut(struct gvm_ep *ep, int why);
void gvm_rma_allow(struct gvm_ep *ep);
int gvm_rma_send(struct gvm_ep *ep, const struct gvm_hdr *hdr, const void *payload);
int gvm_rma_fetch(struct gvm_ep *ep, struct gvm_op *op);
int gvm_rma_put(struct gvm_ep *ep, struct gvm_op *op);
int gvm_rma_cancel(struct gvm_ep *ep, struct gvm_op *op);
#define GVM_RMA_OPS                                                                                \
	.pins = 1, .close = gvm_rma_close, .progress = gvm_rma_progress, .peek = gvm_rma_peek,     \
	.flush = gvm_rma_flush, .arm = gvm_rma_arm, .listen = gvm_rma_listen,                      \
	.unlisten = gvm_rma_unlisten, .connect = gvm_rma_connect, .shut = gvm_rma_shut,            \
	.allow = gvm_rma_allow, .send = gvm_rma_send, .fetch = gvm_rma_fetch, .put = gvm_rma_put,  \
	.cancel = gvm_rma_cancel, .hush = gvm_unsupported_hush,                                    \
	.mem_reg = gvm_unsupported_mem_reg, .mem_dereg = gvm_unsupported_mem_dereg

#endif
