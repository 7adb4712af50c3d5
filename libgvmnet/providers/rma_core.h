/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of the one-sided providers share; docs/rdma.md says how they work.
 *
 *     rma.c         endpoints: cells, their life, a worker's rounds
 *     rma_credit.c  how many cells each side may send
 *     rma_buf.c     registered buffers of the worker, and work
 *     rma_local.c   registered buffers of the application
 *     rma_map.c     fetch and put: the other side's keys, and what is under way with them
 *     rma_share.c   this side's memory in the other side's reach
 *     rma_table.h   keys to whatever is kept for them
 *
 * Threads: everything belongs to the worker's thread, but core->noted and noted_locals.
 */
#ifndef GVM_PROVIDERS_RMA_CORE_H
#define GVM_PROVIDERS_RMA_CORE_H

#include <pthread.h>
#include <stdatomic.h>

#include "providers/rma.h"
#include "providers/rma_table.h"

/* On the way of each operation, where a call costs as much as what is called does; and beside it,
 * kept out of its way. */
#define HOT  inline __attribute__((always_inline))
#define COLD __attribute__((noinline, cold))

/* ---- lists of operations ------------------------------------------------------------------- */
/*
 * Of an operation's prov[4]: [0] is the stream's while it has it, else the status with which it is
 * to end; [1] says who has it: IN_STREAM, IN_HARDWARE, or the list that it is in; [2] and [3] are
 * its neighbours there, or [2] its work.
 */
#define IN_STREAM   1u
#define IN_HARDWARE 2u

struct rma_ops {
	struct gvm_op *first, *last;
};

void gvm_rma_ops_add(struct rma_ops *list, struct gvm_op *op);
void gvm_rma_ops_remove(struct gvm_op *op); /* from the list that it is in */
/* Append all of from, which is empty afterwards. */
void gvm_rma_ops_move(struct rma_ops *list, struct rma_ops *from);

/* ---- connections --------------------------------------------------------------------------- */

/* What is known of a key of the other side's. */
struct rma_key {
	struct rma_node node;          /* first */
	struct rma_key *older, *newer; /* of those that are served in software */
	enum { KEY_ASKED, KEY_HARD, KEY_SOFT, KEY_GOING } state;
	unsigned under_way;
	struct rma_ops wait; /* while it is asked or going */
	struct gvm_mapped at;
};

/* Memory of this side's that the other side may reach. */
struct rma_share {
	struct rma_node node; /* first */
	struct gvm_rma_core *core;
	struct gvm_rma_conn *conn; /* NULL: it has ended */
	struct gvm_mem_user user;
	struct gvm_rma_reg reg;
	unsigned access; /* of the hardware */
	/* LATE: the registration has ended, UNMAPPED has not come */
	enum { SHARE_LIVE, SHARE_GOING, SHARE_LATE } state;
	int noted;                     /* in core->noted; under its lock */
	struct rma_share *noted_next;  /* under the same lock */
	struct rma_share *next, *prev; /* in core->going */
	uint64_t until;
};

/* Memory of the application's that this side's hardware reads to and writes from. */
struct rma_local {
	struct rma_node node; /* first */
	struct gvm_rma_core *core;
	struct gvm_mem_user user;
	struct gvm_rma_reg reg;
	enum { LOCAL_LIVE, LOCAL_GOING, LOCAL_REFUSED } state;
	unsigned under_way;
	int noted;                    /* in core->noted_locals; under core->noted_lock */
	struct rma_local *noted_next; /* under the same lock */
};

struct gvm_rma_conn {
	struct gvm_stream s; /* first */
	struct gvm_rma_ep *ep;
	struct gvm_rma_core *core;
	struct gvm_rma_conn *flush_next, *late_next, *dead_next, *starved_next;
	uint8_t on_flush;   /* in core->flush */
	uint8_t on_late;    /* in core->late */
	uint8_t on_starved; /* in core->starved */
	uint8_t silent;     /* shut() by core: no more upcalls but completions */
	int error;          /* found while posting, to be told by progress() */

	/* rma_credit.c's */
	unsigned credits;            /* cells that this side may send */
	unsigned lent;               /* that the other side may send, or has on their way */
	unsigned held;               /* buffers for those; what is not lent is to be */
	uint32_t given, taken;       /* credits, ever: to the other side, and used by it */
	uint32_t heard, spent;       /* of the other side, and used */
	uint32_t empty_given;        /* given before the last empty cell was sent, */
	uint32_t empty_heard;        /* heard before one came */
	uint8_t empty_out, empty_in; /* one may still be on its way; one has come */
	uint8_t recall, recalled;    /* to be asked for what it does not need, and has been */
	uint8_t give_up;             /* this side has been asked */
	uint64_t used_at;            /* when the other side last used one */
	struct gvm_rma_conn *lend_next, *lend_prev; /* in core->lenders */

	struct gvm_rma_work works; /* in the hardware: a ring, this its head */
	unsigned n_works;
	unsigned n_ops;       /* fetches and puts that core waits for */
	struct rma_ops ready; /* not yet posted: for want of room, in order */
	struct rma_ops ended; /* progress() tells */

	/* puts that the stream has: how many, and where, in memory of puts_key; 0: of several */
	unsigned soft_puts;
	uint64_t puts_key, puts_begin, puts_end;

	struct rma_table keys;    /* struct rma_key */
	struct rma_key *last_key; /* that was found, or gvm_rma_no_key */
	struct rma_key *soft_first, *soft_last;
	unsigned n_soft;
	struct rma_table shares; /* struct rma_share */
};

/* ---- the worker ---------------------------------------------------------------------------- */

#define CHUNK_BYTES GVM_WIRE_XFER_MAX
#define CHUNK_SIZES 5u   /* 4 KiB, 16 KiB, ... 1 MiB */
#define CHUNK_BUFS  256u /* at most */

/* A registered piece of memory, cut into buffers of one size. */
struct rma_chunk {
	struct rma_chunk *next, *prev; /* in core->room or core->empty */
	struct rma_chunk *all_next;
	struct gvm_rma_core *core;
	struct gvm_rma_reg reg;
	uint8_t *base;
	uint32_t bytes, size; /* of a buffer */
	unsigned shift;       /* of the size; of no use for cells */
	unsigned n_free, n;
	uint16_t free[CHUNK_BUFS];
};

struct gvm_rma_core {
	struct gvm_rma *rma;
	const struct gvm_rma_fabric *fabric;                           /* rma's */
	int (*post)(struct gvm_rma_ep *ep, struct gvm_rma_work *work); /* fabric's */
	int takes_back;                                                /* fabric's */
	struct gvm_net_stats *stats;                                   /* the worker's */
	const uint64_t *clock;                                         /* host's */
	const struct gvm_provider_ops *self;
	struct gvm_host_ops up; /* as core gave it, but for the end of operations in the stream */
	void (*completed)(struct gvm_ep *ep, struct gvm_op *op, int status);
	struct gvm_stream_env env;

	struct gvm_rma_conn *flush, **flush_end; /* something to send or to post */
	struct gvm_rma_conn *late;               /* something to tell core */
	struct gvm_rma_conn *dead;
	struct gvm_rma_conn *starved, **starved_end; /* a queue or the buffers were full */
	struct gvm_rma_conn *hungry;                 /* has its turn with the buffers first */
	struct gvm_rma_conn *lenders,
	    *lenders_last;         /* hold more than GVM_RMA_BASE; used last first */
	unsigned n_lenders, spare; /* spare: of GVM_RMA_LEND */
	int refused;               /* one could not have more of those */
	int room;                  /* a work has ended since */

	struct gvm_rma_work orphans;     /* as works, of connections that have ended */
	struct gvm_rma_work *free_works; /* by next */
	unsigned n_works;                /* in the hardware */
	struct rma_chunk *cells, *all, *empty, *chunk_room[CHUNK_SIZES];
	unsigned n_chunks;

	struct rma_table locals;      /* struct rma_local */
	struct rma_local *last_local; /* that was found, or gvm_rma_no_local */

	/* shares and locals whose memory is withdrawn, noted by any thread */
	pthread_mutex_t noted_lock;
	struct rma_share *noted;
	struct rma_local *noted_locals;
	atomic_int any_noted;
	/* wait for UNMAPPED, or for what may still be reading; first to be over first */
	struct rma_share *going, *going_last;
	unsigned n_shares;
	struct gvm_watch grace; /* a timer: the first of going is over */
};

static inline struct gvm_rma_conn *gvm_rma_of_stream(struct gvm_stream *s)
{
	return (struct gvm_rma_conn *)s;
}

static inline struct gvm_rma_conn *gvm_rma_of_ep(struct gvm_ep *ep)
{
	return ((struct gvm_rma_ep *)ep)->conn;
}

static inline int gvm_rma_is_open(const struct gvm_rma_conn *conn)
{
	return conn->s.state == GVM_STREAM_OPEN;
}

static inline uint64_t gvm_rma_now(const struct gvm_rma_core *core)
{
	return *core->clock ? *core->clock : core->up.now(core->rma->host);
}

/* ---- rma.c --------------------------------------------------------------------------------- */

void gvm_rma_flush_later(struct gvm_rma_conn *conn);
void gvm_rma_tell_later(struct gvm_rma_conn *conn);
/* It has something to post for which there is no room: it is tried again when a work has ended. */
void gvm_rma_starve(struct gvm_rma_conn *conn);
void gvm_rma_fail(struct gvm_rma_conn *conn, int why, const char *reason);

/* ---- rma_credit.c -------------------------------------------------------------------------- */

void gvm_rma_credits_init(struct gvm_rma_conn *conn);
void gvm_rma_credits_end(struct gvm_rma_conn *conn);
/* What is wrong with a cell that has come, or NULL. */
const char *gvm_rma_credits_check(const struct gvm_rma_conn *conn, const struct gvm_cell *cell,
				  int has_bytes);
/* It was served. */
void gvm_rma_credits_take(struct gvm_rma_conn *conn, const struct gvm_cell *cell, int has_bytes);
/* The header of the next cell with bytes. */
void gvm_rma_credits_bytes(const struct gvm_rma_conn *conn, struct gvm_cell *cell);
/* 1: a cell without bytes is to be sent, of this header. Asked until it says 0. */
int gvm_rma_credits_due(struct gvm_rma_conn *conn, struct gvm_cell *cell);
void gvm_rma_credits_sent(struct gvm_rma_conn *conn, const struct gvm_cell *cell, int has_bytes);

/* ---- rma_local.c --------------------------------------------------------------------------- */

/* In place of one that there is not, for who only compares; never written. */
extern struct rma_local gvm_rma_no_local;
/* What this memory is to the device; gvm_rma_no_local: nothing. */
struct rma_local *gvm_rma_local_find(struct gvm_rma_core *core, struct gvm_mem *mem);
/* It was withdrawn, and the last operation that had it has ended. */
void gvm_rma_local_end(struct rma_local *local);
/* Give up what was withdrawn, or have its last work do that. Returns how many there were. */
int gvm_rma_locals_withdraw(struct gvm_rma_core *core);
/* With no work left in the hardware. */
void gvm_rma_locals_close(struct gvm_rma_core *core);

/* ---- rma_buf.c ----------------------------------------------------------------------------- */

int gvm_rma_bufs_open(struct gvm_rma_core *core);
/* With no work left in the hardware. */
void gvm_rma_bufs_close(struct gvm_rma_core *core);
/* The same: the device does not know them any more; and knows them again. */
void gvm_rma_bufs_dereg(struct gvm_rma_core *core);
int gvm_rma_bufs_reg(struct gvm_rma_core *core);
/* A cell. NULL: there is none. */
struct gvm_rma_work *gvm_rma_work_cell(struct gvm_rma_conn *conn);
/* With a buffer for len bytes, or NULL. */
struct gvm_rma_work *gvm_rma_work_new(struct gvm_rma_conn *conn, uint32_t len);
/* A bounce buffer or cell goes back. */
void gvm_rma_buf_put(struct gvm_rma_work *work);
/* All of a connection's work is an orphan from here on; its operations come to ops. */
void gvm_rma_works_orphan(struct gvm_rma_conn *conn, struct rma_ops *ops);
void gvm_rma_orphans_free(struct gvm_rma_core *core);

/* Without a buffer, or NULL. */
static inline struct gvm_rma_work *gvm_rma_work_alloc(struct gvm_rma_core *core)
{
	struct gvm_rma_work *work = core->free_works;

	if (!work)
		return calloc(1, core->fabric->work_size);
	core->free_works = work->next;
	return work;
}

static HOT void gvm_rma_ring_init(struct gvm_rma_work *head)
{
	head->next = head->prev = head;
}

static HOT void gvm_rma_ring_add(struct gvm_rma_work *head, struct gvm_rma_work *work)
{
	struct gvm_rma_work *first = head->next;

	work->next = first;
	first->prev = work;
	work->prev = head;
	head->next = work;
}

static HOT void gvm_rma_ring_remove(struct gvm_rma_work *work)
{
	struct gvm_rma_work *next = work->next, *prev = work->prev;

	prev->next = next;
	next->prev = prev;
}

/* The work posted last is not in the hardware. Returns err. */
int gvm_rma_work_refused(struct gvm_rma_conn *conn, int err);
/* Give it to the hardware, of which it may have so many more: n_works < GVM_RMA_WORKS. -EAGAIN, or
 * what has broken the connection: then work is not in it. */
static HOT int gvm_rma_work_post(struct gvm_rma_conn *conn, struct gvm_rma_work *work)
{
	struct gvm_rma_core *core = conn->core;
	int err;

	gvm_rma_ring_add(&conn->works, work);
	conn->n_works++;
	core->n_works++;
	err = core->post(conn->ep, work);
	return err ? gvm_rma_work_refused(conn, err) : 0;
}

static inline struct gvm_rma_core *gvm_rma_core_of(const struct gvm_rma_work *work)
{
	const struct rma_local *local = work->local;

	return local ? local->core : ((const struct rma_chunk *)work->chunk)->core;
}

/* The hardware is done with it; an orphan is in no connection's count. */
static HOT void gvm_rma_work_unlink(struct gvm_rma_core *core, struct gvm_rma_work *work)
{
	gvm_rma_ring_remove(work);
	core->n_works--;
	core->room = 1;
}

/* Its memory, for the next one. */
static HOT void gvm_rma_work_keep(struct gvm_rma_core *core, struct gvm_rma_work *work)
{
	work->next = core->free_works;
	core->free_works = work;
}

/* That was not posted, or has ended and is in no list. */
static inline void gvm_rma_work_free(struct gvm_rma_core *core, struct gvm_rma_work *work)
{
	struct rma_local *local = work->local;

	if (!local)
		gvm_rma_buf_put(work);
	else if (--local->under_way == 0 && local->state == LOCAL_GOING)
		gvm_rma_local_end(local);
	gvm_rma_work_keep(core, work);
}

/* ---- rma_map.c ----------------------------------------------------------------------------- */

/* As gvm_rma_no_local. */
extern struct rma_key gvm_rma_no_key;
/* Post what is ready, as far as there is room. */
void gvm_rma_run_ready(struct gvm_rma_conn *conn);
/* An operation ends: core is told. */
void gvm_rma_op_end(struct gvm_rma_conn *conn, struct gvm_op *op, int status);
/* In place of core's completed(), for operations that the stream had. */
void gvm_rma_soft_completed(struct gvm_ep *ep, struct gvm_op *op, int status);
/* MAPPED and UNMAP. */
void gvm_rma_mapped(struct gvm_rma_conn *conn, const struct gvm_hdr *hdr, const uint8_t *body);
void gvm_rma_unmap(struct gvm_rma_conn *conn, const struct gvm_hdr *hdr);
/* All keys are forgotten; what waits for them comes to ops. */
void gvm_rma_keys_free(struct gvm_rma_conn *conn, struct rma_ops *ops);

/* ---- rma_share.c --------------------------------------------------------------------------- */

void gvm_rma_shares_open(struct gvm_rma_core *core);
void gvm_rma_shares_close(struct gvm_rma_core *core);
/* MAP and UNMAPPED. */
void gvm_rma_map(struct gvm_rma_conn *conn, const struct gvm_hdr *hdr);
void gvm_rma_unmapped(struct gvm_rma_conn *conn, const struct gvm_hdr *hdr);
/* Tell the other sides of memory that was withdrawn. Returns of how much. */
int gvm_rma_shares_withdraw(struct gvm_rma_core *core);
/* The connection has ended, and with it the hardware's reach, or so it will within linger_ms. */
void gvm_rma_shares_free(struct gvm_rma_conn *conn);
/* All connections have ended, and nothing reads any more. */
void gvm_rma_lingerers_free(struct gvm_rma_core *core);

#endif
