/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of core/ share and nobody else sees: the insides of net, worker, peer and memory.
 *
 * A net is immutable once open, but for its memory table (mem.c), which has locks of its own. All
 * of a worker and its peers belongs to the thread that runs the worker, but for the fields marked
 * as shared.
 */
#ifndef GVM_CORE_H
#define GVM_CORE_H

#include <gvmnet/cluster.h>
#include <gvmnet/coherence.h>
#include <gvmnet/gvmnet.h>
#include <errno.h>
#include <stdatomic.h>
#include <pthread.h>
#include "core/fd.h"
#include "providers/provider.h"

#define GVM_KEY_MIN 16u /* bytes of a pre-shared key */
#define GVM_KEY_MAX 4096u

/* ---- mem.c --------------------------------------------------------------------------------- */

#define GVM_MEM_SHARDS 16u

struct gvm_mem_shard {
	pthread_rwlock_t lock;
	struct gvm_mem **buckets; /* a power of two of them */
	size_t bucket_count, count;
} __attribute__((aligned(64)));

struct gvm_mem_table {
	struct gvm_mem_shard shard[GVM_MEM_SHARDS];
};

struct gvm_mem {
	struct gvm_mem *next;
	struct gvm_mem_table *table;
	uint64_t key, owner;
	uint8_t *base;
	size_t len;
	unsigned access;
	/* one is the table's (or the registrant's, with no access), one each user's and operation's
	 */
	atomic_uint refs;
	struct gvm_mem_user *users; /* under the shard's lock, as withdrawn */
	int withdrawn;
	void (*gone)(void *arg);
	void *arg;
};

int gvm_mem_table_init(struct gvm_mem_table *table);
/* Everything must have been unregistered. */
void gvm_mem_table_fini(struct gvm_mem_table *table);
/* As mem_get of gvm_host_ops. */
int gvm_mem_lookup(struct gvm_mem_table *table, uint64_t key, uint64_t owner, unsigned access,
		   uint64_t offset, uint64_t len, void **at, struct gvm_mem **mem);
/* The last reference is gone. */
void gvm_mem_end(struct gvm_mem *mem);
static inline void gvm_mem_drop(struct gvm_mem *mem)
{
	if (atomic_fetch_sub_explicit(&mem->refs, 1, memory_order_acq_rel) == 1)
		gvm_mem_end(mem);
}
/* As mem_hold and mem_release of gvm_host_ops. */
int gvm_mem_hold(struct gvm_mem_table *table, uint64_t key, uint64_t owner,
		 struct gvm_mem_user *user);
void gvm_mem_release(struct gvm_mem_user *user);
/* As mem_hold_local of gvm_host_ops. */
int gvm_mem_hold_local(struct gvm_mem *mem, struct gvm_mem_user *user);
/* An operation's buffer is in it: a reference, for gvm_mem_drop(). -EINVAL: it is not. */
static inline int gvm_mem_use(struct gvm_mem *mem, const void *buf, uint32_t len)
{
	uint64_t offset = (uintptr_t)buf - (uintptr_t)mem->base;

	if (offset > mem->len || len > mem->len - offset)
		return -EINVAL;
	atomic_fetch_add_explicit(&mem->refs, 1, memory_order_relaxed);
	return 0;
}

/* ---- group.c ------------------------------------------------------------------------------- */

/* The least that the file of this name ("memory.max", "memory.high") says for the control group of
 * this process or one that it is in. root: where /proc and /sys are, "" but in tests. */
uint64_t gvm_group_limit(const char *root, const char *name);

/* ---- net.c --------------------------------------------------------------------------------- */

#define GVM_NET_PROVIDERS 3u

/* One of the providers of a net, the best first. */
struct gvm_net_provider {
	const struct gvm_provider_ops *ops;
	const char *args; /* what follows "name:" in the transport's name */
};

struct gvm_net {
	struct gvm_net_provider providers[GVM_NET_PROVIDERS];
	unsigned provider_count;
	int automatic;        /* chosen by "auto": what is better than the last may be missing */
	atomic_uint unusable; /* of the providers, a bit each: that has been said */
	char transport[64];   /* the names of them: "verbs+tcp" */
	char transport_words[64]; /* what was asked for, cut into strings that args point to */
	const struct gvm_cluster *cluster;
	uint16_t node;
	int insecure;
	uint64_t incarnation, map_digest;
	uint32_t epoch;
	char cluster_name[GVM_WIRE_NAME_MAX + 1]; /* "" without a map */
	uint8_t *key;                             /* NULL: none */
	size_t key_len;
	struct gvm_mem_table mem;
	atomic_int workers;
	atomic_ullong worker_numbers; /* the last one given */
	pthread_mutex_t views_lock;
	struct region_views *views; /* region_views.c */
};

/* Where RDMA devices are seen; tests have another one. */
extern const char *gvm_net_rdma_folder;

/* Fill buf with unpredictable bytes; ends the process if the system cannot give any. */
void gvm_random(void *buf, size_t len);

/* ---- handshake.c --------------------------------------------------------------------------- */

enum gvm_hs_stage { GVM_HS_HELLO, GVM_HS_CHALLENGE, GVM_HS_PROOF, GVM_HS_READY, GVM_HS_OVER };

/* One side of one handshake; no I/O of its own. */
struct gvm_hs {
	const struct gvm_net *net;
	enum gvm_hs_stage expect;    /* the frame that must come next */
	uint16_t to_node;            /* whom the connecting side wants */
	uint16_t credits, max_fetch; /* what this side grants */
	uint8_t hello[GVM_HELLO_LEN], challenge[GVM_HELLO_LEN];
	struct gvm_hello theirs; /* believed only after the proof */
};

/* What one step of a handshake has to say. */
struct gvm_hs_out {
	uint8_t type;    /* of the frame to send; 0: none */
	uint16_t status; /* of a REFUSED */
	uint32_t length;
	uint8_t body[GVM_REFUSED_MAX > GVM_HELLO_LEN ? GVM_REFUSED_MAX : GVM_HELLO_LEN];
	char why[GVM_REFUSED_MAX + 1]; /* sentence for the log, printable, when refused */
};

/* crypto.c. Before libcrypto is used for anything: that it outlives exit(). Any thread, as often as
 * one likes. */
void gvm_crypto_init(void);
/* HMAC-SHA-256. 0, or -EIO: libcrypto cannot, or has ended. */
int gvm_hmac(const void *key, size_t key_len, const void *text, size_t text_len,
	     uint8_t mac[GVM_WIRE_MAC_LEN]);

void gvm_hs_init(struct gvm_hs *hs, const struct gvm_net *net, int accepting, unsigned to_node,
		 uint16_t credits, uint16_t max_fetch);
/* The connecting side's first frame. */
void gvm_hs_begin(struct gvm_hs *hs, struct gvm_hs_out *out);
/*
 * A frame has arrived. 0: send out and go on; 1: send out (if it has a type), the other side is
 * proven and hs->theirs holds; negative errno: send out (if it has a type) and end the connection.
 */
int gvm_hs_step(struct gvm_hs *hs, const struct gvm_hdr *hdr, const void *payload,
		struct gvm_hs_out *out);
/* Make out a REFUSED with this status and sentence; returns the status as a negative errno. */
int gvm_hs_refuse(struct gvm_hs_out *out, unsigned status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* As prove and proven of gvm_host_ops. */
int gvm_key_prove(const struct gvm_net *net, const void *text, size_t len,
		  uint8_t mac[GVM_WIRE_MAC_LEN]);
int gvm_key_proven(const struct gvm_net *net, const void *text, size_t len,
		   const uint8_t mac[GVM_WIRE_MAC_LEN]);
/* Copy len bytes of text from the network to a string that is safe to log. */
void gvm_sanitise(char *to, size_t room, const void *text, size_t len);

/* ---- timer.c ------------------------------------------------------------------------------- */

struct gvm_timers {
	struct gvm_timer **heap;
	size_t count, room;
	size_t reserved; /* timers that must always find a place */
};

/* Make sure that `more` further timers can always be set. -ENOMEM. */
int gvm_timers_reserve(struct gvm_timers *timers, size_t more);
void gvm_timers_release(struct gvm_timers *timers, size_t fewer);
int gvm_timers_set(struct gvm_timers *timers, struct gvm_timer *timer, uint64_t when);
/* For timers that were reserved: cannot fail. */
void gvm_timers_set_reserved(struct gvm_timers *timers, struct gvm_timer *timer, uint64_t when);
void gvm_timers_clear(struct gvm_timers *timers, struct gvm_timer *timer);
/* GVM_NEVER when none is set. */
static inline uint64_t gvm_timers_next(const struct gvm_timers *timers)
{
	return timers->count ? timers->heap[0]->when : GVM_NEVER;
}
/* Run what is due; a timer set meanwhile runs next time. Returns how many ran. */
int gvm_timers_run(struct gvm_timers *timers, uint64_t now);
void gvm_timers_fini(struct gvm_timers *timers);

/* ---- worker.c, worker_listen.c -------------------------------------------------------------- */

#define GVM_BATCH 64 /* epoll events taken at once */

struct epoll_event;
struct gvm_host {
	struct gvm_worker *worker;
};

struct gvm_op_list {
	struct gvm_op *first, *last;
	uint32_t count;
};

struct gvm_peer_list {
	struct gvm_peer *first, *last;
	uint32_t count;
};

struct gvm_worker_provider {
	const struct gvm_provider_ops *ops;
	struct gvm_prov *prov;
};

struct gvm_worker_listener {
	const struct gvm_provider_ops *ops;
	struct gvm_listener *listener;
};

struct gvm_options_read {
	uint64_t op_timeout_ns, keepalive_ns, connect_ns, handshake_ns, spin_ns;
	uint64_t backoff_min_ns, backoff_max_ns;
	uint32_t window, max_conns, max_handshakes;
	uint32_t connections; /* that this side makes at a time; 0: no limit */
	uint16_t credits;
};

struct gvm_worker {
	struct gvm_host host;
	struct gvm_net *net;
	uint64_t number;
	struct gvm_worker_provider providers[GVM_NET_PROVIDERS]; /* the best first */
	unsigned provider_count;
	struct gvm_worker_config config;
	gvm_coherence_fn *coherence; /* NULL: takes no such frames */
	struct gvm_options_read opt;
	int epoll_fd, wake_fd, alarm_fd;
	int pinned, closing, in_round;
	int no_pwait2;  /* the kernel is older than epoll_pwait2 */
	uint64_t now;   /* 0: not read yet */
	uint64_t alarm; /* when alarm_fd ends a sleep; GVM_NEVER: it does not */

	struct epoll_event *batch; /* events not yet served are [batch_at, batch_count) */
	int batch_at, batch_count;

	unsigned unpolled;              /* waits since the poll set had its turn */
	unsigned spin_skip, spin_fails; /* waits that will not spin; how little spinning pays */
	unsigned spins;                 /* since cpu_lost was looked at */
	uint64_t cpu_lost; /* 1 + how often the kernel had taken the CPU away; 0: not known */

	uint64_t *provider_fds; /* a bit for each descriptor that the provider watches */
	size_t provider_fd_words;

	struct gvm_timers timers;
	unsigned timers_due, timers_unseen; /* look at them now; rounds since that was done */
	struct gvm_op *done, **done_end;    /* ended, status set, user not told; by next */
	struct gvm_peer *pending;           /* peers with work that waits for the end of upcalls */
	struct gvm_peer *pending_last;
	struct gvm_peer *peers;    /* all */
	struct gvm_peer **by_node; /* client peers by node id */
	size_t by_node_room;
	struct gvm_peer_list greeting; /* accepted, in handshake, oldest first */
	unsigned accepted_ready;
	struct gvm_peer_list placed, seeking; /* peer_rest.c: that may connect; that wait for it */
	struct gvm_timer turn;
	uint32_t asked, yielding; /* of placed */
	int places_due;
	uint64_t uses; /* counts up */
	struct gvm_worker_listener *listeners;
	size_t listener_count;
	struct gvm_log_limit limit; /* of lines that strangers cause */
	uint64_t random;            /* jitter */

	/* shared with all threads; this one writes the statistics (gvm_count) */
	struct gvm_net_stats stats;
	_Atomic(struct gvm_task *) tasks __attribute__((aligned(64)));
	atomic_int woken, sleeping;
};

/* One writer, readers on other threads. */
static inline void gvm_count(uint64_t *counter, int64_t n)
{
	__atomic_store_n(counter, *counter + (uint64_t)n, __ATOMIC_RELAXED);
}

/* The clock of this round. */
static inline uint64_t gvm_worker_clock(struct gvm_worker *worker)
{
	if (worker->now == 0)
		worker->now = gvm_now();
	return worker->now;
}
/* Below limit (0: 0), uniformly. */
uint64_t gvm_worker_random(struct gvm_worker *worker, uint64_t limit);
/* Watches of the provider: as the public ones, and remembered for gvm_worker_abandon. */
int gvm_worker_watch_provider(struct gvm_worker *worker, struct gvm_watch *watch, uint32_t events);
void gvm_worker_unwatch_provider(struct gvm_worker *worker, struct gvm_watch *watch);
extern const struct gvm_host_ops gvm_core_host_ops;

/* ---- peers; core/peer.h has their insides -------------------------------------------------- */

/* Serve done operations and pending peers. Returns how many. */
int gvm_peers_serve(struct gvm_worker *worker);
/* Something waits for gvm_peers_serve. */
static inline int gvm_peers_pending(const struct gvm_worker *worker)
{
	return worker->done || worker->pending;
}
/* Of peer_rest.c: give places, and ask for some; the timer behind it. */
int gvm_places_serve(struct gvm_worker *worker);
void gvm_places_turn(struct gvm_timer *timer);
/* End all connections with -ECANCELED and free all peers. */
void gvm_peers_close(struct gvm_worker *worker);

#endif
