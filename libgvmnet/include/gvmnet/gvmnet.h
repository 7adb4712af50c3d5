/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvmnet: the transport of a distributed shared memory. Messages, and one-sided fetch and put, over
 * RDMA where there is some and TCP where there is none.
 *
 * Objects
 *   gvm_net     who this process is: node id, cluster map, key, options. Thread-safe.
 *   gvm_worker  one event loop, used by one thread at a time: its connections, operations, timers.
 *   gvm_peer    another node as one worker sees it. Connected when first used, again when lost.
 *   gvm_mem     memory that peers may fetch from and put to, named to them by a 64-bit key.
 *   gvm_op      one operation under way. The caller's memory: nothing is allocated per operation.
 *
 * Rules that hold everywhere
 *   - Functions return 0 (or a count) or a negative errno. Outputs are set only on success.
 *   - An operation that was accepted (return value 0) completes exactly once, through op->done, on
 *     the worker's thread, from gvm_worker_progress(), gvm_worker_wait() or gvm_worker_close(),
 *     never from within the function that posts it. One that was refused never calls done.
 *   - When done has been called, the library touches neither the operation nor its buffer again,
 *     also after a time-out.
 *   - -EAGAIN: credits or queue places are out; post again after a completion, or when the
 *     worker's writable handler says so. Nothing is dropped and nothing grows without bound.
 *   - Only functions that say so may be called from another thread than the worker's.
 *   - Times are nanoseconds of CLOCK_MONOTONIC unless a name says otherwise.
 */
#ifndef GVMNET_GVMNET_H
#define GVMNET_GVMNET_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <gvmnet/version.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GVM_MAX_NODES 10240   /* legal node ids are 0 to GVM_MAX_NODES - 1 */
#define GVM_NODE_NONE 0xFFFFu /* a client without an id of its own */
#define GVM_OPTION_AUTO UINT64_MAX /* a number that the library chooses */
#define GVM_PAGE_SIZE 4096u
#define GVM_MSG_MAX   8192u      /* bytes of a message's payload */
#define GVM_XFER_MAX  (1u << 20) /* bytes of one fetch or put */
#define GVM_MSG_USER  64u /* the first message type that is the application's; the last is 255 */
#define GVM_NEVER     UINT64_MAX /* a deadline that does not come */

struct gvm_net;
struct gvm_worker;
struct gvm_peer;
struct gvm_mem;
struct gvm_cluster;

/* ---- logging ------------------------------------------------------------------------------- */

enum gvm_log_level { GVM_LOG_ERROR, GVM_LOG_WARN, GVM_LOG_INFO, GVM_LOG_DEBUG };

/*
 * One line to the log (standard error, or what gvm_log_set chose). The function that first decides
 * that something is an error logs it. Thread-safe; does not allocate.
 */
void gvm_log(enum gvm_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Send lines elsewhere; line has no newline. NULL: standard error again. Before threads start. */
void gvm_log_set(void (*sink)(enum gvm_log_level level, const char *line));
/* The most detailed level that is written (GVM_LOG: error, warn, info or debug; default warn). */
void gvm_log_set_level(enum gvm_log_level level);
enum gvm_log_level gvm_log_level(void);

/*
 * For lines that a remote peer can cause, or a state that lasts (a full disk): at most
 * GVM_LOG_BURST of them in a second, then silence; while they keep coming, fewer and fewer in twice
 * the time, in the end one in GVM_LOG_WINDOW_S seconds. The first line of a later time says how
 * many were left out. One limit, static and zero-initialised, for each kind of line. Thread-safe;
 * does not allocate.
 */
#define GVM_LOG_BURST    10u
#define GVM_LOG_WINDOW_S 64u
struct gvm_log_limit {
	uint64_t second;                  /* the library's */
	uint32_t lines, left_out, window; /* the library's */
};
void gvm_log_limited(struct gvm_log_limit *limit, enum gvm_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- options ------------------------------------------------------------------------------- */

/* One option as the table declares it: GVM_* in the environment, --name on a command line. */
struct gvm_option {
	const char *env;  /* "GVM_TRANSPORT" */
	const char *flag; /* "--transport", or NULL */
	const char
	    *type; /* "text", "folder", "count", "bytes", "ms", "bool", "choice", "provider" (a
		    * choice, then ":arguments" or nothing), "node" (an id or "none"), "cpus"
		    * ("0,2-5") */
	const char *fallback; /* the default, as text */
	const char *help;     /* one sentence */
	const char
	    *choices;      /* for choice and provider: "a|b|c"; for bytes: "power of two" or NULL */
	uint64_t min, max; /* for count, bytes and ms: what is legal, both inclusive */
};
/* The table, *count entries. */
const struct gvm_option *gvm_options(size_t *count);
/* The value in force: set by gvm_option_set, else the environment, else the default. Never NULL
 * for an option that is in the table. */
const char *gvm_option_text(const char *env);
/* The same as a number; bytes understand K, M, G, T (1,024-based), bool is 0 or 1, a node that is
 * "none" is GVM_NODE_NONE, a count that is "auto" GVM_OPTION_AUTO. Values are checked when read
 * from the command line or by gvm_options_check, so these cannot fail; an illegal one in the
 * environment counts as not there.
 */
uint64_t gvm_option_number(const char *env);
/* The CPU of the i-th polling thread by GVM_POLL_CPUS, in turn; -1: not to be pinned. */
int gvm_option_cpu(unsigned i);
/* Set an option by its environment name; -EINVAL with a logged sentence if the value is not legal,
 * -ENOENT if there is no such option. Before the net is opened. */
int gvm_option_set(const char *env, const char *value);
/* The same where the user wrote name for it ("--id"): that is what the sentence names. */
int gvm_option_set_as(const char *env, const char *name, const char *value);
/* Take the options that the table knows out of argv ("--name value", "--name=value"), leaving the
 * rest in order and *argc changed; stops at "--". -EINVAL with a logged sentence. */
int gvm_options_parse(int *argc, char **argv);
/* Check all that came from the environment; unknown GVM_* names are warned of. */
int gvm_options_check(void);
/* "256M", "1.5G", "4096" in bytes. -EINVAL, or -ERANGE where it does not fit. */
int gvm_parse_bytes(const char *text, uint64_t *bytes);

/* ---- net ----------------------------------------------------------------------------------- */

struct gvm_net_config {
	/* "tcp", "loop", "verbs", "ofi"; several, the best first, "verbs+tcp": each peer is
	 * connected with the first that connects; "auto": verbs, where an RDMA device suits, then
	 * tcp; NULL: GVM_TRANSPORT */
	const char *transport;
	const struct gvm_cluster *cluster; /* borrowed until gvm_net_close; NULL: only listens */
	unsigned node;                     /* my id, or GVM_NODE_NONE */
	const char *key_file; /* NULL: GVM_KEY_FILE; none at all: no proof is asked for or given */
	int insecure;         /* allow listening beyond loopback without a key */
};

/*
 * Open this process's identity. -EINVAL: the configuration makes no sense; -EACCES, -ENOENT: the
 * key file; -EPROTONOSUPPORT: that transport is not in this build (the log lists what is).
 */
int gvm_net_open(const struct gvm_net_config *config, struct gvm_net **net);
/* All workers must be closed. */
void gvm_net_close(struct gvm_net *net);
/*
 * In a forked child, before anything else of the net: it is another process than its parent, with
 * the same configuration and an incarnation of its own. The parent's workers are not usable in it,
 * and not closed either: their connections are the parent's.
 */
int gvm_net_renew(struct gvm_net *net);
/* Drawn when the net was opened, never 0: tells peers one life of this process from the next. */
uint64_t gvm_net_incarnation(const struct gvm_net *net);
const struct gvm_cluster *gvm_net_cluster(const struct gvm_net *net);
/* Its id in the cluster map, or GVM_NODE_NONE. */
unsigned gvm_net_node(const struct gvm_net *net);
/* Of the providers in force, the best first: "tcp", "verbs+tcp". */
const char *gvm_net_transport(const struct gvm_net *net);
/* 1: hardware may use offered memory at any time until gone(): its pages must stay where they are,
 * so no MADV_DONTNEED, no hole punched, until then. */
int gvm_net_pins(const struct gvm_net *net);

/* What providers there are, for "gvm info": fills up to n, returns how many there are. */
struct gvm_provider_info {
	const char *name;
	const char *what; /* one sentence */
	int usable;       /* 0, or why not as a negative errno */
	const char *why;  /* sentence for usable != 0, else "" */
};
size_t gvm_providers(struct gvm_provider_info *info, size_t n);
/* The hardware that a provider sees: line() for each thing there is to say; depth: how far it
 * belongs below the one before. Nothing is said of a provider that needs none. -ENOENT: there is no
 * such provider. */
int gvm_provider_describe(const char *name,
			  void (*line)(void *arg, unsigned depth, const char *text), void *arg);

/* ---- worker -------------------------------------------------------------------------------- */

/* A message that has arrived. Valid only while the handler runs. */
struct gvm_msg {
	uint8_t type;
	uint16_t flags;
	int status;   /* 0 or a negative errno */
	uint64_t xid; /* give it to gvm_reply */
	uint64_t region, page, arg;
	const void *body;
	uint32_t length;
};

/*
 * IDLE: not connected, nobody waits. CONNECTING, PROVING (the handshake), READY: operations go.
 * BACKOFF: not connected, will try again. CLOSED: the end of a connection that the other side made.
 */
enum gvm_peer_state {
	GVM_PEER_IDLE,
	GVM_PEER_CONNECTING,
	GVM_PEER_PROVING,
	GVM_PEER_READY,
	GVM_PEER_BACKOFF,
	GVM_PEER_CLOSED
};

struct gvm_worker_config {
	/* All on the worker's thread; each may be NULL. arg is the first argument. */
	void *arg;
	/* A message that is not the answer to a gvm_call. */
	void (*message)(void *arg, struct gvm_peer *peer, const struct gvm_msg *msg);
	/* A peer has become READY (why 0), has ceased to be, or an attempt to connect has failed
	 * (why, negative errno; the operations under way have completed before). For a connection
	 * that the other side opened, CLOSED is its last event: the peer is freed after.
	 * Another state than READY with why 0: nothing is wrong; the connection had nothing to do
	 * and was closed to make room (GVM_CONNECTIONS). The next operation makes it again; of
	 * CLOSED, the other side has said that it will. Keys that are given to one connection are
	 * not good for the next. */
	void (*peer_state)(void *arg, struct gvm_peer *peer, enum gvm_peer_state state, int why);
	/* A post that was answered -EAGAIN may be tried again. */
	void (*writable)(void *arg, struct gvm_peer *peer);
	int cpu; /* pin wait's polling to this CPU; -1: do not */
};

/* One event loop; net must outlive it, config is copied. -ENOMEM, or what the system refuses. */
int gvm_worker_open(struct gvm_net *net, const struct gvm_worker_config *config,
		    struct gvm_worker **worker);
struct gvm_net *gvm_worker_net(const struct gvm_worker *worker);
/* Which of its net's workers this is, from 1 on; a number is given once. */
uint64_t gvm_worker_number(const struct gvm_worker *worker);
/* Ends connections; operations under way complete with -ECANCELED before this returns. */
void gvm_worker_close(struct gvm_worker *worker);
/*
 * In a child that fork made: give up a worker of the parent's. Its descriptors are closed in this
 * process and nowhere else: nothing is sent, no handler is called, its operations never complete.
 * Its memory is not given back, as another thread may have been in the middle of it; the worker
 * must not be used again. Async-signal-safe. Watched descriptors of the caller's stay the caller's.
 */
void gvm_worker_abandon(struct gvm_worker *worker);
/* Do what can be done now without waiting. Returns the number of events served. */
int gvm_worker_progress(struct gvm_worker *worker);
/*
 * Wait until something happens or until timeout_ns (relative; GVM_NEVER: for ever) and do it.
 * Spins for up to GVM_SPIN_US first when that pays, then sleeps. Returns the number of events
 * served, 0 on time-out.
 */
int gvm_worker_wait(struct gvm_worker *worker, uint64_t timeout_ns);
/* End a wait, from any thread or a signal handler. */
void gvm_worker_wake(struct gvm_worker *worker);
/* The clock, read at most once per round of progress. */
uint64_t gvm_worker_now(struct gvm_worker *worker);
/* The clock now: ns of CLOCK_MONOTONIC. Thread-safe. */
uint64_t gvm_now(void);
/* Bytes of memory that the control groups of this process, of version 1 or 2, let it have before
 * the kernel kills for it, and (high, may be NULL) before the kernel slows it down. UINT64_MAX: no
 * bound, or none to be seen. Thread-safe. */
uint64_t gvm_memory_limit(uint64_t *high);

/* Run fn on the worker's thread soon. From any thread; the task is the caller's until fn runs. */
struct gvm_task {
	void (*fn)(struct gvm_task *task);
	struct gvm_task *next; /* the library's */
};
void gvm_worker_run(struct gvm_worker *worker, struct gvm_task *task);

/* One-shot timer. Zero-initialise; the caller's memory, which it clears before it frees it. fn may
 * set it again. */
struct gvm_timer {
	void (*fn)(struct gvm_timer *timer);
	uint64_t when;  /* the library's */
	uint32_t place; /* the library's: 1 + position in the heap, 0 when not set */
};
/* when: absolute; one that is past fires in the next round. One that is set is moved. -ENOMEM. */
int gvm_timer_set(struct gvm_worker *worker, struct gvm_timer *timer, uint64_t when);
/* No-op when it is not set. */
void gvm_timer_clear(struct gvm_worker *worker, struct gvm_timer *timer);

/* Have the worker watch a descriptor of the caller's, in the same wait as everything else. ready
 * may add, change and remove watches, also its own. Both are the caller's; unwatch before the
 * descriptor is closed. Negative errno: what epoll_ctl refuses. */
struct gvm_watch {
	int fd;
	void (*ready)(struct gvm_watch *watch, uint32_t epoll_events);
};
int gvm_worker_watch(struct gvm_worker *worker, struct gvm_watch *watch, uint32_t epoll_events);
int gvm_worker_rewatch(struct gvm_worker *worker, struct gvm_watch *watch, uint32_t epoll_events);
void gvm_worker_unwatch(struct gvm_worker *worker, struct gvm_watch *watch);

/*
 * Accept connections at host (name, IPv4, IPv6; "*": all) and port (0: any). May be called by
 * several workers for one address: the kernel spreads connections over them. *bound_port, if not
 * NULL, gets the port. -EADDRINUSE, -EADDRNOTAVAIL, -EACCES (not loopback, no key, not insecure).
 */
int gvm_worker_listen(struct gvm_worker *worker, const char *host, unsigned port,
		      unsigned *bound_port);
/* Accept no more; what is open goes on. */
void gvm_worker_unlisten(struct gvm_worker *worker);
/* Of the providers that it listens with, anywhere: "verbs+tcp"; cut to room. */
void gvm_worker_listens_with(const struct gvm_worker *worker, char *names, size_t room);

/* ---- peers --------------------------------------------------------------------------------- */

/* The peer with this id of the cluster map, the worker's until it is closed; connects when first
 * used. -ENOENT: not in the map; -ENOMEM. */
int gvm_peer_get(struct gvm_worker *worker, unsigned node, struct gvm_peer **peer);
/* The peer at an address that is in no map; the same one each time. -EINVAL: no host, or a port
 * that is not 1 to 65,535; -ENOMEM. */
int gvm_peer_at(struct gvm_worker *worker, const char *host, unsigned port, struct gvm_peer **peer);
/* Begin to connect now; no-op when connected or connecting. -ECANCELED: the worker is being closed;
 * -ENOTCONN: a peer of the other side's making that is CLOSED. How it goes is told to peer_state.
 */
int gvm_peer_connect(struct gvm_peer *peer);
/* Close the connection; operations under way complete with why (a negative errno). A peer that
 * this side connects can be used again and will connect anew. */
void gvm_peer_disconnect(struct gvm_peer *peer, int why);
enum gvm_peer_state gvm_peer_state(const struct gvm_peer *peer);
/* Names in messages: "node 3 (10.0.0.3:9999)". Valid as long as the peer. */
const char *gvm_peer_name(const struct gvm_peer *peer);
/* The provider that its connection runs over; "" without one. */
const char *gvm_peer_transport(const struct gvm_peer *peer);
unsigned gvm_peer_node(const struct gvm_peer *peer);        /* GVM_NODE_NONE where unknown */
uint64_t gvm_peer_incarnation(const struct gvm_peer *peer); /* as it says; 0 before READY */
struct gvm_worker *gvm_peer_worker(const struct gvm_peer *peer);
/* A word of the application's, e.g. its session. */
void gvm_peer_set_user(struct gvm_peer *peer, void *user);
void *gvm_peer_user(const struct gvm_peer *peer);

/*
 * What becomes of a peer, for a layer between the application and the worker (the region client):
 * each observer of a peer is told what gvm_worker_config's handlers of the same names are told,
 * before them, and after the operations of a connection that ended have completed. An observer may
 * take itself away, also from within. Zero-initialise; the caller's memory until taken away.
 * For peers that this side connects: they last as long as their worker.
 */
struct gvm_peer_observer {
	void (*peer_state)(struct gvm_peer_observer *observer, struct gvm_peer *peer,
			   enum gvm_peer_state state, int why);
	void (*writable)(struct gvm_peer_observer *observer, struct gvm_peer *peer);
	struct gvm_peer_observer *next, *prev; /* the library's */
	struct gvm_peer *peer;                 /* the library's */
};
void gvm_peer_observe(struct gvm_peer *peer, struct gvm_peer_observer *observer);
/* No-op for one that observes nothing. */
void gvm_peer_unobserve(struct gvm_peer_observer *observer);

/* ---- operations ---------------------------------------------------------------------------- */

/*
 * The caller fills in done and deadline_ns and owns the memory; everything else is the library's
 * from post to done. Zero-initialise once.
 */
struct gvm_op {
	/* status: 0; -ETIMEDOUT: the deadline passed; -ECONNRESET: the connection broke;
	 * -ECONNREFUSED, -EHOSTUNREACH, -EACCES, ...: it could not be made; -ECANCELED: closed by
	 * this side; else what the peer answered (-ENOENT: no such key, -ERANGE, -EPERM, ...). */
	void (*done)(struct gvm_op *op, int status);
	uint64_t deadline_ns; /* absolute; 0: now + GVM_OP_TIMEOUT_MS; GVM_NEVER */

	/* results, valid in done */
	const struct gvm_msg *reply; /* of a gvm_call that was answered, also with a status */

	/* the library's */
	struct gvm_op *next, *prev;
	struct gvm_peer *peer;
	struct gvm_mem *mem;
	void *buf;
	uint64_t key, offset, xid, expires;
	uint32_t len;
	uint8_t kind, state;
	uint16_t slot;
	int status;
	uint64_t prov[4]; /* the provider's */
};

/*
 * Send a message: type, flags, status, region, page, arg of msg, and body (at most GVM_MSG_MAX
 * bytes, copied before this returns). Ordered per connection; delivered at most once. There is no
 * completion: who wants to know that it was served uses gvm_call. -EAGAIN: no credits;
 * -ENOTCONN: not READY (a peer of ours begins to connect).
 */
int gvm_send(struct gvm_peer *peer, const struct gvm_msg *msg);
/*
 * Answer msg, from its handler or later (keep peer and xid). status is 0 or a negative errno; body
 * (copied; NULL: none) gives length, region, page and arg. Needs no credit and never says -EAGAIN.
 * -EINVAL: not a call that is owed an answer, or a body that is too long; -ENOTCONN: the connection
 * has gone, and the caller's operation with it; else the connection is ended.
 */
int gvm_reply(struct gvm_peer *peer, uint64_t xid, int status, const struct gvm_msg *body);
/* Send a message and complete when the answer with its xid arrives. Waits for the connection.
 * -EINVAL: no done, or a message that cannot be; -EBUSY: op is under way; -EAGAIN; -ENOMEM;
 * -ECANCELED: the worker is being closed; -ENOTCONN: the peer is CLOSED. */
int gvm_call(struct gvm_peer *peer, const struct gvm_msg *msg, struct gvm_op *op);

/*
 * Read len bytes (1 to GVM_XFER_MAX) at offset of the peer's memory named by key into buf. local
 * is the registration of memory that buf is in; NULL: the provider copies if it must. With it
 * hardware reads into buf itself, and then a deadline that passes while it does ends the
 * connection, as done must not be called before the hardware has let go of buf. An operation whose
 * deadline is less than a second away is copied nevertheless, and never does that. The bytes are
 * all there when done is called with 0. Fetches are not ordered among each other. Errors as of
 * gvm_call; also -EOPNOTSUPP: the peer serves none; -EINVAL: buf is not in local.
 */
int gvm_fetch(struct gvm_peer *peer, uint64_t key, uint64_t offset, void *buf, uint32_t len,
	      struct gvm_mem *local, struct gvm_op *op);
/* Write. done(0): the bytes are in the peer's memory, and each later fetch by anyone sees them.
 * buf must not change until then. local as of gvm_fetch. */
int gvm_put(struct gvm_peer *peer, uint64_t key, uint64_t offset, const void *buf, uint32_t len,
	    struct gvm_mem *local, struct gvm_op *op);
/* Posted operations may be gathered until the next progress or wait; this sends them now. */
void gvm_worker_flush(struct gvm_worker *worker);

/* ---- memory -------------------------------------------------------------------------------- */

#define GVM_ACCESS_FETCH 1u /* peers may fetch */
#define GVM_ACCESS_PUT   2u /* peers may put */
/* Never by hardware: for a mapped file, whose file system does not see what hardware writes, and
 * for memory whose pages are given back while it is offered. */
#define GVM_ACCESS_SOFT 4u

/*
 * Offer memory to peers. owner: only the client with this incarnation may use it; 0: every peer
 * that has proven the key. The memory must stay mapped until gone() (see gvm_mem_unregister).
 * With access 0 it is only a registration of local buffers, for operations to name (all of them, or
 * offered memory too). Each worker whose hardware can has it registered once, by the first
 * operation that names it, and its pages must stay where they are from then on: none given back
 * to the system, moved or mapped anew, or the hardware goes on with the old ones. Where it cannot
 * be registered operations are as without. Thread-safe. -ENOMEM.
 */
int gvm_mem_register(struct gvm_net *net, void *base, size_t len, unsigned access, uint64_t owner,
		     struct gvm_mem **mem);
/* The key to give to a peer: unguessable, never 0, never used again by this net. */
uint64_t gvm_mem_key(const struct gvm_mem *mem);
/*
 * Withdraw it: operations that arrive from now on fail with -ENOENT; where hardware serves them,
 * those that arrive before gone() may still succeed. gone(arg), which may be NULL, is called once,
 * when no operation touches the memory any more, for local memory when all that name it have been
 * told done too: from here or from a worker's thread, in the middle of its work, so it posts and
 * disconnects nothing. Thread-safe.
 */
void gvm_mem_unregister(struct gvm_mem *mem, void (*gone)(void *arg), void *arg);

/* ---- statistics ---------------------------------------------------------------------------- */

/*
 * Histogram of durations or sizes: 8 linear steps per power of two, so any percentile is at most
 * 12.5 % too high. One writer; readers on other threads see slightly old values.
 */
#define GVM_HIST_STEPS   8
#define GVM_HIST_BUCKETS (62 * GVM_HIST_STEPS)
struct gvm_hist {
	uint64_t count, sum, max;
	uint64_t bucket[GVM_HIST_BUCKETS];
};
void gvm_hist_add(struct gvm_hist *hist, uint64_t value);
/* The value that fraction (0 to 1) of the samples do not exceed; 0 when there are none. */
uint64_t gvm_hist_percentile(const struct gvm_hist *hist, double fraction);
void gvm_hist_merge(struct gvm_hist *into, const struct gvm_hist *from);
/* Upper edge (inclusive) of a bucket. */
uint64_t gvm_hist_edge(unsigned bucket);

/* As a JSON object: count, mean, p50, p90, p99, p999, max, in the unit of the samples. */
void gvm_hist_json(FILE *out, const struct gvm_hist *hist);
/* As a Prometheus summary called name; samples are multiplied by scale (1e-9: from ns to s). */
void gvm_hist_prometheus(FILE *out, const char *name, const char *help, double scale,
			 const struct gvm_hist *hist);

/* Counters of one worker's connections; each has one name everywhere (see gvm_net_counters). */
struct gvm_net_stats {
	uint64_t connects, accepts, handshake_refused, disconnects, malformed, timeouts;
	uint64_t msgs_sent, msgs_received, fetches, puts, fetches_served, puts_served;
	uint64_t bytes_sent, bytes_received, refused_keys, no_credit;
	uint64_t peers_ready, peers_open; /* now, not a count */
	uint64_t rests;
	uint64_t peers_waiting; /* now */
};
/* From any thread; values are a moment old. */
void gvm_worker_stats(struct gvm_worker *worker, struct gvm_net_stats *stats);
/* Describes the fields of a statistics struct once, for JSON, Prometheus and gvm top. */
struct gvm_counter {
	const char *name; /* "fetches_served" */
	const char *unit; /* "operations", "bytes", "pages", "connections", "" */
	const char *help;
	unsigned offset; /* of a uint64_t in the struct */
	int gauge;       /* a level, not a count */
};
const struct gvm_counter *gvm_net_counters(size_t *count);
/* Prometheus text exposition of a struct that counters describe: prefix_name_total or prefix_name.
 */
void gvm_counters_prometheus(FILE *out, const char *prefix, const struct gvm_counter *counters,
			     size_t count, const void *stats);
/* The same as the members of a JSON object, without its braces. */
void gvm_counters_json(FILE *out, const struct gvm_counter *counters, size_t count,
		       const void *stats);

#ifdef __cplusplus
}
#endif
#endif
