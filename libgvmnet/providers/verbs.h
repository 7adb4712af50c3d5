/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of the verbs provider share: reliable connected queue pairs over InfiniBand, RoCE
 * and iWARP, made by rdma_cm, as a fabric of rma.h.
 *
 *   verbs.c         a worker's device: its completion queues, polling, sleeping, memory
 *   verbs_qp.c      making queue pairs
 *   verbs_post.c    ending them, posting, what completions say
 *   verbs_recv.c    receive buffers, shared receive queues
 *   verbs_cm.c      connecting: each event of rdma_cm in each state
 *   verbs_dial.c    rdma_connect() in a thread of its own, where it waits
 *   verbs_listen.c  listening, with the workers of the process at one port
 *   verbs_key.c     the cluster's key, proven before there is a queue pair
 *   verbs_prove.c   those whose connection was accepted and whose handshake is not over
 *   verbs_info.c    which devices there are and what they are, for probe and gvm info
 *   verbs_return.c  a device that goes away, and comes back
 *   verbs_module.c  the table and the module's door
 *
 * What a worker has to itself: one device opened anew, one protection domain, one completion
 * channel, one event channel of rdma_cm. So no thread waits for another, an asynchronous event
 * comes to the worker that it is about, and a key of the hardware reaches no further than the
 * connections of its worker. Shared by the process: the table of ports listened at
 * (verbs_listen.c).
 *
 * Completion queues are in lanes: one takes so many connections as it has entries for all that they
 * can have under way, the next one is twice as large, up to what the device can do. A lane has a
 * shared receive queue too, where the device has such.
 *
 * A dead peer is noticed by RoCE and InfiniBand after (VERBS_RETRIES + 1) time-outs of
 * 4.096 us << VERBS_TIMEOUT: 1.9 s, by the specification up to four times as much, and only where
 * something is under way. iWARP has TCP's own time-out, which is longer than core's liveness.
 */
#ifndef GVM_PROVIDERS_VERBS_H
#define GVM_PROVIDERS_VERBS_H

#include <infiniband/verbs.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>

#include "providers/rma.h"
#include "providers/rma_table.h"
#include "providers/tcp_addr.h"

#define VERBS_TIMEOUT   16u
#define VERBS_RETRIES   6u
#define VERBS_RNR_TIMER 20u                   /* 10 ms: of a receiver that is not ready */
#define VERBS_SENDS     (GVM_RMA_WORKS + 32u) /* of the send queue: sends are done with early */
#define VERBS_ENTRIES   (VERBS_SENDS + GVM_RMA_RECVS) /* of a completion queue, a connection */
#define VERBS_RING      512u /* a power of two, of which VERBS_SENDS are used */
#define VERBS_INLINE    92u
#define VERBS_READS     16u /* RDMA reads of a connection under way in the hardware */
#define VERBS_LANE      32u /* connections of the first lane */
#define VERBS_LANE_MAX  2048u
#define VERBS_GATHER    256u /* requests gathered until ring() */
#define VERBS_COPIES    63u  /* cells that are copied so that a send is done with at once */
#define VERBS_BATCH     32u
#define VERBS_PROOF     4096u /* the page of verbs_proof: others read from its beginning */
#define VERBS_SINK      64u   /* where in it is read to */
#define VERBS_UNPROVEN  GVM_HANDSHAKES_MAX /* accepted, and core has not seen the proof */
#define VERBS_NONCE     16u                /* bytes; of a MAC, and of a cookie, which is one */
#define VERBS_MAC       16u
#define VERBS_ASKING    1024u /* asked for by others, while there are so many: no queue pair yet */
#define VERBS_GRACE_MS  50u   /* that an unproven one has while others wait for its place */
#define VERBS_CONNECTING                                                                           \
	64u /* asked for, not yet answered: more would lose datagrams of the manager */
#define VERBS_BUFS       126u /* receive buffers that are registered together: half a MiB */
#define VERBS_RESOLVE_MS 2000
#define VERBS_NONE       0xFFFFu
#define VERBS_SILENT     2u /* ticks; twice as many after each nudge */
#define VERBS_NUDGES     6u
#define VERBS_TICK_MS    50
#define VERBS_PINNED     (GVM_RMA_BOUNCE_MAX + (2u << 20)) /* bytes that a worker may want to pin */
#define VERBS_SIW        0x626D74u    /* the kernel's iWARP in software: its vendor id */
#define VERBS_RXE        0xFFFFFFu    /* the kernel's RoCE in software */
#define VERBS_SHARED     (3ull << 62) /* and a buffer's number: a receive of a shared queue */

struct verbs;
struct verbs_conn;

#define VERBS_LAST_TRIES 3 /* in a row that came late, or not at all */

struct verbs_lane {
	struct verbs_lane *next;
	struct ibv_cq *cq;
	unsigned room, conns, unacked;
	int armed;
	int failed; /* one of its queues; no more connections */
	/* receive buffers of its connections; srq NULL: each has its own */
	struct ibv_srq *srq;
	unsigned depth;
	unsigned wanted, posted;                    /* posted: in it or gathered for it, at least */
	struct ibv_recv_wr *recv_first, *recv_last; /* gathered */
};

/* A receive buffer of the worker's, at sge.addr. */
struct verbs_buf {
	struct verbs_buf *next;  /* free */
	struct verbs_lane *lane; /* in its shared queue */
	uint32_t number;
	struct ibv_recv_wr wr;
	struct ibv_sge sge;
};
struct verbs_chunk {
	uint8_t *at;
	struct ibv_mr *mr;
	struct verbs_buf buf[VERBS_BUFS];
};

/*
 * LOOKUP ADDR ROUTE CONNECT: on the way out. ACCEPT: accepted, the other side has not said so.
 * OPEN. LINGER: ended in order by this side, which has no endpoint any more: what was sent is
 * waited for, by the hardware's own bounds.
 */
enum verbs_state {
	VERBS_LOOKUP,
	VERBS_ADDR,
	VERBS_ROUTE,
	VERBS_CONNECT,
	VERBS_ACCEPT,
	VERBS_OPEN,
	VERBS_LINGER
};

/* Something in the send queue. */
struct verbs_sent {
	struct gvm_rma_work *work; /* NULL: it was told already */
	uint16_t copy;             /* index of the copied cell; VERBS_NONE: none */
	uint8_t kind, over;
};

/* What the context of an rdma_cm_id begins with: a connection, or a port that is listened at (also
 * of one that was asked for there and is not answered yet). */
enum verbs_kind { VERBS_CONN = 1, VERBS_PORT };

/* A byte that the peer may read, which proves that what was written before is where it belongs. */
struct verbs_proof {
	uint64_t at;
	uint32_t key;
};

/* What the device has said of itself, to be handled. */
struct verbs_news {
	struct verbs_news *next;
	enum ibv_event_type type;
	struct verbs_lane *lane;
	int port;
};

/* A connection in the hardware. Its endpoint may end before it. */
struct verbs_conn {
	enum verbs_kind kind; /* first */
	struct verbs *v;
	struct verbs_ep *ep; /* NULL: LINGER */
	struct gvm_listener *listener;
	struct rdma_cm_id *id;
	struct ibv_qp *qp;
	struct rma_node node; /* in v->qps, by the number of its queue pair */
	struct verbs_lane *lane;
	struct verbs_conn *next, *prev; /* of v->conns */
	struct verbs_conn *ring_next, *late_next, *wait_next;
	struct verbs_conn *unproven_next, *unproven_prev;
	uint64_t asked; /* when it was accepted, while it is unproven */
	uint32_t slot, generation;
	uint64_t tag; /* slot and generation, as its requests are named by */
	uint8_t state;
	uint8_t failed; /* nothing goes any more */
	uint8_t in_ring, in_late;
	uint8_t unproven;         /* of v->unproven: core has not seen its proof yet */
	uint8_t ready, drained;   /* its queue pair may receive; has taken its last buffer */
	uint8_t flush;            /* writes are gathered that need a proof (iWARP) */
	uint8_t silent;           /* ticks until it is nudged, as nothing has come (siw) */
	uint8_t nudges;           /* that there have been */
	int error;                /* found while posting, told by poll() */
	struct verbs_proof proof; /* the peer's (iWARP) */
	uint8_t mtu;              /* the most that the sides have agreed on, enum ibv_mtu; 0: any */

	/* the send queue: [tail, head) is in it or gathered for it */
	uint16_t head, tail;
	uint16_t cells; /* sends that are gathered */
	uint16_t max_inline;
	uint32_t write_special;           /* bytes: longer writes are nothing but posted */
	struct verbs_sent *sent;          /* VERBS_RING, by number */
	struct ibv_send_wr *first, *last; /* gathered */
	/* receive buffers, where it has its own: in its queue, or gathered for that; as many as are
	 * wanted, or more */
	struct ibv_recv_wr *recv_first, *recv_last;
	struct verbs_buf *recv[GVM_RMA_RECVS]; /* by number */
	unsigned recvs, recvs_wanted;

	/* while connecting */
	struct gvm_addrs *addrs;
	unsigned addr_next;
	struct gvm_lookup *lookup;
	uint8_t nonce[VERBS_NONCE], cookie[VERBS_MAC];
	uint8_t challenges;      /* that came: the last one's cookie is above */
	struct verbs_dial *dial; /* siw: a thread calls rdma_connect(), or has done so */
};

struct verbs_ep {
	struct gvm_rma_ep rma;   /* first */
	struct verbs_conn *conn; /* NULL: disconnect() has been called */
};

struct verbs_gathered {
	struct ibv_send_wr wr;
	struct ibv_sge sge;
};

struct verbs_early {
	struct gvm_rma_work *work;
	struct verbs_conn *conn;
};

/* A connection that was asked for at a port, on its way to the worker that shall have it, or
 * waiting there. */
struct verbs_request {
	struct verbs_request *next;
	struct rdma_cm_id *id;
	struct gvm_listener *listener;
	struct verbs_proof proof;
	uint8_t nonce[VERBS_NONCE], cookie[VERBS_MAC];
	uint8_t mtu;
	uint8_t reads_in, reads_out;
};

/* A descriptor of the worker's poll set: poll() does what there is to do. */
struct verbs_watch {
	struct gvm_watch watch;
	struct verbs *v;
	int due;
};

struct verbs {
	struct gvm_rma rma; /* first */
	struct ibv_context *context;
	struct ibv_device_attr attr;
	int on_demand; /* the device reaches memory that is not pinned */
	char device[64];
	unsigned port;      /* 0: any */
	int gid;            /* -1: any */
	int gid_is_address; /* RoCE: connections leave from it */
	int automatic;      /* GVM_PROVIDER_AUTO: there is another transport */
	int iwarp;   /* no time-outs of its own, and a read's sink is written to by the peer */
	int siw;     /* iWARP in software */
	int gone;    /* the device was taken away, and is looked for */
	int missing; /* something is not as it was before: ports, or the device itself */
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct rdma_event_channel *events;
	struct gvm_resolver *resolver;
	struct verbs_watch completion_watch, event_watch, async_watch, resolver_watch;
	struct verbs_watch tick_watch;                 /* siw */
	struct verbs_watch return_watch, uevent_watch; /* verbs_return.c */
	struct verbs_watch prove_watch;                /* verbs_prove.c */
	int noted;                                     /* one of them is due */
	int tick_fd, return_fd, uevent_fd, prove_fd;
	unsigned return_ms; /* until the next look */

	struct verbs_lane *lanes;
	unsigned armed;              /* of them */
	struct verbs_chunk **chunks; /* receive buffers, by number */
	unsigned chunk_count, chunk_room;
	struct verbs_buf *bufs; /* free */
	int shared_due;         /* some are gathered for a shared queue */
	int tells_last;         /* so often the device may still be waited for, to say that a
				 * queue pair has taken its last one */
	struct rma_table qps;   /* struct verbs_conn */
	int reused; /* the number of one that was destroyed may come again, with completions left */
	struct verbs_conn *conns;
	unsigned lingering, connecting;
	struct verbs_conn *unproven, *unproven_end; /* oldest first */
	unsigned unproven_count;
	struct verbs_request *asking, **asking_end; /* for whom there is no place, oldest first */
	unsigned asking_count;
	uint64_t prove_ns;                        /* that each has */
	uint64_t prove_at;                        /* when the timer fires next; 0: not at all */
	struct verbs_conn *waiting, *waiting_end; /* in ROUTE, until fewer are CONNECTING */

	struct verbs_conn **slots; /* by number; NULL: free */
	uint32_t *generations;
	uint32_t slot_room, slot_next;

	struct verbs_conn *ring;              /* with something gathered */
	struct verbs_conn *late;              /* with an error to be told */
	struct verbs_gathered *gathered_next; /* the first that is free */
	struct verbs_gathered gathered[VERBS_GATHER];
	unsigned early_count;
	struct verbs_early early[VERBS_GATHER]; /* sends that are done with, to be told */

	uint8_t *copies; /* VERBS_COPIES cells */
	struct ibv_mr *copies_mr;
	uint16_t copy_free[VERBS_COPIES];
	unsigned copy_count;

	uint8_t *proof; /* iWARP: a page that peers read from, and that is read to */
	struct ibv_mr *proof_mr;

	struct ibv_wc *stash; /* found beside poll(), to be served before what is in the queues */
	unsigned stash_count, stash_room;
	struct verbs_news *news, **news_end;
	int lost; /* the kernel has forgotten the device */

	struct verbs_request *inbox; /* the lock of verbs_listen.c */
	int inbox_due;
	int dials_due;  /* atomic: one of them has failed */
	int told_limit; /* that memory cannot be pinned has been said */
};

#define container_of_verbs(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

static inline struct verbs *verbs_of(struct gvm_rma *rma)
{
	return container_of_verbs(rma, struct verbs, rma);
}

static inline struct verbs_ep *verbs_ep_of(struct gvm_rma_ep *ep)
{
	return container_of_verbs(ep, struct verbs_ep, rma);
}

/* Some providers return an errno, some a negative one. */
static inline int verbs_negative(int err)
{
	return err > 0 ? -err : err;
}

/* Of what is said when something cannot be done: "auto" does it with another transport, and core
 * says that. */
static inline enum gvm_log_level verbs_level(const struct verbs *v, enum gvm_log_level level)
{
	if (v->missing)
		return GVM_LOG_DEBUG; /* tried again and again */
	return v->automatic ? GVM_LOG_INFO : level;
}

extern const struct gvm_rma_fabric verbs_fabric;

/* ---- verbs.c ------------------------------------------------------------------------------- */

/* A lane with room for one more connection, or NULL. */
struct verbs_lane *verbs_lane_get(struct verbs *v);
/* Pinned pages of the provider's own, or NULL. */
uint8_t *verbs_pin(struct verbs *v, size_t len, int access, struct ibv_mr **mr);
void verbs_unpin(uint8_t *at, size_t len, struct ibv_mr *mr);
/* Put aside what is in its completion queue, as far as there is memory for that. */
void verbs_stash_lane(struct verbs *v, struct verbs_lane *lane);
/* Hear what the device says of itself; what makes upcalls is left for poll(). */
void verbs_note_async(struct verbs *v);
/* Serve all completions that there are. */
void verbs_drain(struct verbs *v);
/* There is one that may have to be nudged. */
void verbs_tick_soon(struct verbs *v);
/* The kernel would not pin memory: say once what to do. Returns -err. */
int verbs_told_limit(struct verbs *v, int err, size_t len);
/* What a worker has of its device, which is open. On failure verbs_unmake() is still to be called.
 */
int verbs_make(struct verbs *v);
/* Give all of it back and close the device. There are no connections. */
void verbs_unmake(struct verbs *v);
/* Have poll() look when there is something at fd; and no more. */
int verbs_watch(struct verbs *v, struct verbs_watch *w, int fd);
void verbs_unwatch(struct verbs *v, struct verbs_watch *w);

/* ---- verbs_return.c ------------------------------------------------------------------------ */

int verbs_return_open(struct verbs *v);
void verbs_return_close(struct verbs *v);
/* It is gone, its connections have ended: let go of all of it, and look for it from now on. */
void verbs_leave(struct verbs *v);
/* Something is missing. */
void verbs_look_soon(struct verbs *v);
/* It may be time to look for what is missing, or the kernel has said something of devices. */
void verbs_look(struct verbs *v);

/* ---- verbs_post.c -------------------------------------------------------------------------- */

struct verbs_conn *verbs_conn_new(struct verbs *v, struct verbs_ep *ep, enum verbs_state state);
/* What its requests are named by from now on; those of before are nobody's. */
void verbs_conn_rename(struct verbs_conn *conn);
/* conn->state, and the counters that go with it. */
void verbs_enter(struct verbs_conn *conn, enum verbs_state state);
/* Take it out of a list that is linked by the member at offset. */
void verbs_unlist(struct verbs_conn **list, struct verbs_conn *conn, size_t offset);
/* Out of the hardware and freed, whatever its state. */
void verbs_conn_free(struct verbs_conn *conn);
/* It ends with the next poll(). */
void verbs_fail_later(struct verbs_conn *conn, int err);
/* Have the peer's hardware answer something, with the next ring(); on iWARP. */
void verbs_nudge(struct verbs_conn *conn);
uint64_t verbs_receive_id(const struct verbs_conn *conn, unsigned i);
void verbs_disconnect(struct gvm_rma_ep *ep, int orderly);
int verbs_post(struct gvm_rma_ep *ep, struct gvm_rma_work *work);
void verbs_ring(struct gvm_rma *rma);
/* Tell of sends that are done with, and of what failed while posting. Returns how many. */
int verbs_tell(struct verbs *v);
/* So many completions. */
void verbs_serve(struct verbs *v, const struct ibv_wc *wc, unsigned count);

/* ---- verbs_recv.c -------------------------------------------------------------------------- */

void verbs_bufs_close(struct verbs *v);
/* Give the lane a shared receive queue, if the device has such: lane->room may become less. */
int verbs_srq_open(struct verbs *v, struct verbs_lane *lane);
/* n receive buffers for it, which are posted with the next ring(). */
int verbs_want_receives(struct verbs_conn *conn, unsigned n);
int verbs_receives(struct gvm_rma_ep *ep, unsigned n);
void verbs_allow(struct gvm_rma_ep *ep);
/* Those of its own that are gathered. */
int verbs_post_receives(struct verbs_conn *conn);
/* Those that are gathered for shared queues. */
void verbs_post_shared(struct verbs *v);
/* The cell in the i-th of its own was served: it is posted with the next ring(). */
void verbs_receive_again(struct verbs_conn *conn, unsigned i);
/* The buffer that a completion of a shared queue names, or NULL; and when it was served. */
struct verbs_buf *verbs_shared_take(struct verbs *v, uint64_t id);
void verbs_shared_again(struct verbs *v, struct verbs_buf *buf);
/* Its queue pair is in its error state and is to be destroyed. */
void verbs_stop_receiving(struct verbs_conn *conn);
/* Its queue pair is no more: its receive buffers are anybody's. */
void verbs_free_receives(struct verbs_conn *conn);

/* ---- verbs_qp.c ---------------------------------------------------------------------------- */

/* The queue pair of conn->id, ready to receive buffers (INIT), with the first of them posted. */
int verbs_qp_make(struct verbs_conn *conn);
/* To where it receives and sends. reads_*: RDMA reads under way, 0: as rdma_cm has it. */
int verbs_qp_ready(struct verbs_conn *conn, unsigned reads_in, unsigned reads_out);
/* The shorter of two, and the one that GVM_VERBS_MTU has; enum ibv_mtu, 0: any. */
uint8_t verbs_mtu_least(uint8_t a, uint8_t b);
uint8_t verbs_mtu_own(void);
/* Destroy it, if there is one: the hardware touches nothing of it any more. */
void verbs_qp_end(struct verbs_conn *conn);

/* ---- verbs_cm.c ---------------------------------------------------------------------------- */

int verbs_connect(struct gvm_rma_ep *ep, const char *host, unsigned port);
/* A connection that was asked for at a port that this worker listens at, and there is a place for
 * it: accept or refuse it. */
void verbs_answer(struct verbs *v, const struct verbs_request *request);
/* data: what the other side is told by it. */
void verbs_refuse(struct rdma_cm_id *id, const void *data, size_t len);
/* Those that wait for their turn to connect, as far as it has come. */
void verbs_connect_waiting(struct verbs *v);
/* Forget that it waits. */
void verbs_unwait(struct verbs_conn *conn);
/* It is established, as its first cell or rdma_cm says. */
void verbs_established(struct verbs_conn *conn);
/* Of those that are dialled for: who has failed is told so. Returns how many. */
int verbs_take_dials(struct verbs *v);
/* Events of rdma_cm, answers of the resolver. */
int verbs_cm_poll(struct verbs *v);
/* Is this the worker's device? rdma_cm has opened it for itself. */
int verbs_is_mine(const struct verbs *v, const struct rdma_cm_id *id);
/* The connection is over, in whatever state: whoever waits for it is told. */
void verbs_conn_fail(struct verbs_conn *conn, int why, const char *reason);

/* ---- verbs_dial.c -------------------------------------------------------------------------- */

/* rdma_connect() for it by a thread; param's private data are the hello. Negative errno: there is
 * no thread to be had. */
struct verbs_hello;
int verbs_dial(struct verbs_conn *conn, const struct rdma_conn_param *param,
	       const struct verbs_hello *hello);
/* There is no thread of its any more, whatever has become of it: before its id is destroyed, and
 * when it is established. */
void verbs_dial_end(struct verbs_conn *conn);
/* One whose thread has failed, with the reason, or NULL. */
struct verbs_conn *verbs_dial_failed(struct verbs *v, int *err);

#define VERBS_HELLO_VERSION 5u

/* What both sides say of themselves as they connect; checked in front of everything else. */
struct verbs_hello {
	uint8_t magic[4]; /* "GVMR" */
	uint8_t version;  /* VERBS_HELLO_VERSION */
	uint8_t cells;    /* GVM_RMA_CELLS */
	uint8_t cell[2];  /* GVM_RMA_CELL, little-endian */
	/* verbs_proof of who sends this, little-endian; elsewhere than on iWARP nothing */
	uint8_t proof_key[4];
	uint8_t proof_at[8];
	/* enum ibv_mtu, 0: any. The connecting side's wish, and what the other makes of it: both
	 * must have the same, as a packet of another length breaks a queue pair. */
	uint8_t mtu;
	uint8_t flags;              /* VERBS_KEYED */
	uint8_t nonce[VERBS_NONCE]; /* the connecting side's, in both */
	uint8_t mac[VERBS_MAC];     /* zeros: nothing is proven */
};
/* InfiniBand's and RoCE's request: what rdma_cm leaves of it (RDMA_PS_TCP). */
_Static_assert(sizeof(struct verbs_hello) <= 56, "a hello fits into a request");

#define VERBS_KEYED 1u /* who sends it has a key */

/* With a refusal: what a proof is to be of. */
#define VERBS_CHALLENGE_MAGIC                                                                      \
	{                                                                                          \
		'G', 'V', 'M', 'C'                                                                 \
	}
struct verbs_challenge {
	uint8_t magic[4];
	uint8_t version;
	uint8_t cookie[VERBS_MAC];
};

void verbs_hello_make(const struct verbs *v, uint8_t mtu, struct verbs_hello *hello);
/* Is it one, and what it says of its sender's proof and packets. */
int verbs_hello_check(const void *data, size_t len, struct verbs_proof *proof, uint8_t *mtu);

/* ---- verbs_listen.c ------------------------------------------------------------------------ */

int verbs_listen(struct gvm_rma *rma, struct gvm_listener *listener, const char *host,
		 unsigned port, unsigned *bound_port);
void verbs_unlisten(struct gvm_rma *rma, struct gvm_listener *listener);
/* CONNECT_REQUEST: id is new, port what the listening id has as its context. */
struct verbs_port;
void verbs_asked(struct verbs *v, struct verbs_port *port, struct rdma_cm_id *id,
		 const struct rdma_conn_param *param);
/* Requests that other workers have handed over. Returns how many. */
int verbs_take_inbox(struct verbs *v);
/* The device is gone, and what this worker listens with at its addresses. */
void verbs_ports_leave(struct verbs *v);
/* It is there: listen again. An error: it is to be tried again. */
int verbs_ports_return(struct verbs *v);

/* ---- verbs_key.c --------------------------------------------------------------------------- */

/* Has who asks proven the key? 0: yes, with this cookie, or there is none. Else refuse it with this
 * challenge: -EAGAIN: it did not try; -EACCES: its proof is wrong, late, or was used before;
 * -EPERM: it has no key. -EIO: libcrypto cannot. */
int verbs_key_check(const struct verbs *v, struct rdma_cm_id *id, const struct verbs_hello *hello,
		    struct verbs_challenge *challenge);
/* This side's proof, for who has proven the key with these two. */
int verbs_key_answer(const struct verbs *v, const uint8_t nonce[VERBS_NONCE],
		     const uint8_t cookie[VERBS_MAC], struct verbs_hello *hello);
/* Nonce and, if there was a challenge, proof for a request. */
int verbs_key_ask(struct verbs_conn *conn, struct verbs_hello *hello);
/* What came with a refusal. 1: a challenge, ask again; 0: it was something else; -EACCES. */
int verbs_key_challenged(struct verbs_conn *conn, const void *data, size_t len);
/* Has who has accepted proven the key? 0, -EACCES, -EPROTO, -EIO. */
int verbs_key_accepted(const struct verbs_conn *conn, const struct verbs_hello *hello);

/* ---- verbs_prove.c ------------------------------------------------------------------------- */

int verbs_prove_open(struct verbs *v);
void verbs_prove_close(struct verbs *v);
/* A connection that was asked for: answer it now, or when there is a place. */
void verbs_consider(struct verbs *v, const struct verbs_request *request);
/* Those that wait at this listener are refused; NULL: all. */
void verbs_refuse_asking(struct verbs *v, const struct gvm_listener *listener);
/* It was accepted, and is unproven from now on. */
void verbs_unproven(struct verbs_conn *conn);
/* It is proven, or no more. */
void verbs_proven(struct verbs_conn *conn);
/* Answer whom there is a place for. */
void verbs_admit(struct verbs *v);
/* There is somebody whom admit() would answer. */
int verbs_may_admit(struct verbs *v);
/* The timer has fired: end those that have had their time. */
void verbs_prove_late(struct verbs *v);

/* ---- verbs_info.c -------------------------------------------------------------------------- */

int verbs_probe(const char **why);
/* As gvm_module. */
int verbs_suits(const char **why);
void verbs_describe(void (*line)(void *arg, unsigned depth, const char *text), void *arg);
/* "DEVICE[:PORT[:GID]]", "" or GVM_PROVIDER_AUTO: open the device into v. Says what is wrong. */
int verbs_device_open(struct verbs *v, const char *args);
/* The same one again. */
int verbs_device_reopen(struct verbs *v);
/* The address of this family to leave from, where a GID was asked for; *len 0: any.
 * -EADDRNOTAVAIL: the GID is none. */
int verbs_own_address(const struct verbs *v, int family, struct sockaddr_storage *sa,
		      socklen_t *len);

#endif
