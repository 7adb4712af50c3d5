/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one interface that every transport provider fills: bytes between two nodes, nothing of
 * pages, regions or coherence. core/ calls down through gvm_provider_ops; a provider calls up
 * through gvm_host_ops. Neither knows the other's insides.
 *
 * Threads: everything of a prov_worker (its endpoints, operations and listeners) is used by the
 * one thread that runs its worker. Memory registrations are shared by all.
 *
 * Life of an endpoint (gvm_ep):
 *
 *     connect() ---> [connecting] --- connected(0) ---> [open] --- close() or closed(why) ---> gone
 *     accepted() ------------------------------------->   |
 *                        connected(err) = gone            +-- allow(): fetch and put are served
 *
 * Until core calls allow(), after the handshake, the endpoint carries messages only, the length of
 * their payload is bounded by GVM_HELLO_MAX, and a fetch or put from the other side is a protocol
 * error. After closed() or close() the provider never mentions the endpoint again; all its
 * operations have been completed before closed(), or before close() returns.
 *
 * Who owns what of a gvm_op between fetch() or put() and completed(): core has next, prev, peer,
 * state and status; the provider has slot and prov[4] (its queue links go there) and reads the
 * rest.
 *
 * Who calls when: core calls send, fetch, put, cancel and shut also from within message(), and shut
 * from within connected() and accepted(); shut() inside an upcall makes the endpoint gone when the
 * upcall returns, whatever it returns. completed(), writable() and closed() call nothing of the
 * provider: core serves them after progress() or ready() has returned.
 *
 * Who counts what: the provider bytes_*, fetches_served and puts_served; core all the others.
 */
#ifndef GVM_PROVIDER_H
#define GVM_PROVIDER_H

#include <gvmnet/gvmnet.h>
#include "wire/wire.h"

struct gvm_ep;
struct gvm_prov; /* a provider's state for one worker */
struct gvm_listener;
struct gvm_host;

#define GVM_PROVIDER_AUTO "auto" /* args of one that GVM_TRANSPORT=auto has chosen */
#define GVM_HELLO_MAX     512u   /* bytes of payload of a message before allow() */

#define GVM_PROOF_TEXT_MAX 2048u

/* Accepted connections of a worker that have not proven themselves: one more, and the oldest of
 * them gives way. Core counts those that it has been told of; a provider that asks for a proof
 * before that counts its own. Each has GVM_HANDSHAKE_MS. */
#define GVM_HANDSHAKES_MAX 1024u

/* Why a proof of the key is refused: the same words wherever it is looked at. Both sides log them,
 * so neither is "this side" in them. */
#define GVM_KEYS_DIFFER "the keys of the two sides are not the same (compare the key files)"
#define GVM_KEY_OF_ONE                                                                             \
	"only one of the two sides has a key: both need the same one (GVM_KEY_FILE, --key-file)"

/* Kinds of operations, in gvm_op.kind. */
enum gvm_op_kind { GVM_OP_IDLE = 0, GVM_OP_CALL, GVM_OP_FETCH, GVM_OP_PUT };

/* What every endpoint begins with; the provider embeds it first in its own struct. */
struct gvm_ep {
	const struct gvm_provider_ops *ops;
	struct gvm_prov *prov;
	void *user; /* core's connection */
	uint64_t
	    owner; /* incarnation that the peer gave in the handshake; set by core before allow() */
	uint64_t last_heard; /* when bytes last arrived, worker's clock: liveness reads it */
	char name[64];       /* the other side, for the log: "10.0.0.3:9999" */
	const char *why;     /* connected(err): what err does not say, static; NULL: nothing more */
};

/* Offered or local memory that a provider's hardware reaches by itself, from mem_hold() or
 * mem_hold_local() to mem_release(). */
struct gvm_mem_user {
	/* The memory is withdrawn: release it soon. On any thread, with a lock held: it may do no
	 * more than note it and wake its worker. Comes once at most, not after mem_release(). */
	void (*withdrawn)(struct gvm_mem_user *user);
	struct gvm_mem *mem; /* core's, as the next two */
	struct gvm_mem_user *next, *prev;
	/* set by mem_hold() */
	void *base;
	uint64_t len;
	unsigned access; /* GVM_ACCESS_* */
};

/* What a provider says to core. */
struct gvm_host_ops {
	/* A listener has a new connection. Core sets ep->user. */
	void (*accepted)(struct gvm_host *host, struct gvm_listener *listener, struct gvm_ep *ep);
	/* connect() has ended: 0, or why not; then ep is gone when this returns. */
	void (*connected)(struct gvm_ep *ep, int status);
	/*
	 * A message, in order; payload valid until this returns. Non-zero: core has refused it and
	 * the provider closes the endpoint, with closed(that). Core may call close(ep) inside.
	 */
	int (*message)(struct gvm_ep *ep, const struct gvm_hdr *hdr, const void *payload);
	/* send() was refused with -EAGAIN and has room again. */
	void (*writable)(struct gvm_ep *ep);
	/* The connection has ended: -ECONNRESET, -EPROTO (the other side broke the rules; counted
	 * and logged by core with ep->name and reason), -ETIMEDOUT, ... reason: a sentence, static.
	 */
	void (*closed)(struct gvm_ep *ep, int why, const char *reason);
	/* An operation that fetch() or put() took has ended. */
	void (*completed)(struct gvm_ep *ep, struct gvm_op *op, int status);

	/* Descriptors in the worker's one epoll set. */
	int (*watch)(struct gvm_host *host, struct gvm_watch *watch, uint32_t events);
	int (*rewatch)(struct gvm_host *host, struct gvm_watch *watch, uint32_t events);
	void (*unwatch)(struct gvm_host *host, struct gvm_watch *watch);
	/* The time of this round. clock: where it is kept, 0 as long as nobody has asked; for who
	 * looks there first. */
	uint64_t (*now)(struct gvm_host *host);
	const uint64_t *(*clock)(struct gvm_host *host);

	/*
	 * Memory by key, for providers that serve fetch and put in software. Checks owner
	 * (ep->owner), access (GVM_ACCESS_*) and that [offset, offset + len) is inside,
	 * overflow-safe. On 0 *at is the address and *mem holds a reference that mem_put drops.
	 * -ENOENT, -EPERM, -ERANGE.
	 */
	int (*mem_get)(struct gvm_host *host, uint64_t key, uint64_t owner, unsigned access,
		       uint64_t offset, uint64_t len, void **at, struct gvm_mem **mem);
	void (*mem_put)(struct gvm_mem *mem);
	/*
	 * All of the memory by key, for providers whose hardware serves fetch and put: checks owner
	 * (ep->owner). user is the provider's memory, with withdrawn set. The memory stays until
	 * mem_release(). -ENOENT, -EPERM, -EOPNOTSUPP: it is served in software only.
	 */
	int (*mem_hold)(struct gvm_host *host, uint64_t key, uint64_t owner,
			struct gvm_mem_user *user);
	void (*mem_release)(struct gvm_mem_user *user);
	/* The same of an operation's op->mem, all of which buf is inside. -ENOENT: it has been
	 * withdrawn. */
	int (*mem_hold_local)(struct gvm_mem *mem, struct gvm_mem_user *user);
	/* End the worker's sleep. From any thread. */
	void (*wake)(struct gvm_host *host);

	/*
	 * The cluster's key, for a provider whose hardware or library is to do nothing for a side
	 * that has not proven it: core's handshake comes only when there is a connection. The proof
	 * of a text that both sides know, with nonces of both in it, is of no use as a proof of
	 * core's, and the other way round. Without a key it is zeros and proves nothing.
	 * len: at most GVM_PROOF_TEXT_MAX.
	 */
	int (*has_key)(struct gvm_host *host);
	/* -EIO: libcrypto cannot. */
	int (*prove)(struct gvm_host *host, const void *text, size_t len,
		     uint8_t mac[GVM_WIRE_MAC_LEN]);
	/* Has the other side made mac of this text with the same key? 0, -EACCES (counted as a
	 * refused handshake), -EIO. */
	int (*proven)(struct gvm_host *host, const void *text, size_t len,
		      const uint8_t mac[GVM_WIRE_MAC_LEN]);

	/* Counters that the provider adds to. */
	struct gvm_net_stats *(*stats)(struct gvm_host *host);
};

/* What core says to a provider. Every slot is filled: gvm_provider_unsupported has the rest. */
struct gvm_provider_ops {
	const char *name;
	const char *what;
	/* Its hardware reaches offered memory by itself: the pages must stay where they are. */
	int pins;
	/* 0 if it can be used here; else -errno and *why a static sentence. */
	int (*probe)(const char **why);

	/* args: what follows "name:" in GVM_TRANSPORT, or "". GVM_PROVIDER_AUTO: nobody has asked
	 * for it and there is another one, so what it cannot do is no error. */
	int (*open)(struct gvm_host *host, const struct gvm_host_ops *ops, const char *args,
		    struct gvm_prov **prov);
	/* All endpoints and listeners have been closed. */
	void (*close)(struct gvm_prov *prov);
	/* Whatever needs no descriptor: poll completion queues, submit what was gathered. Called at
	 * the start of each round and before each sleep. Returns the number of events. */
	int (*progress)(struct gvm_prov *prov);
	/* Look where something is most likely to come next, for one cheap system call at most.
	 * Called over and over while the worker spins, with progress() and the poll set in between.
	 * Returns the number of events. */
	int (*peek)(struct gvm_prov *prov);
	/* Submit what was gathered. */
	void (*flush)(struct gvm_prov *prov);
	/* About to sleep: 0, or 1 if there are events already (do not sleep). */
	int (*arm)(struct gvm_prov *prov);

	int (*listen)(struct gvm_prov *prov, const char *host, unsigned port,
		      struct gvm_listener **listener, unsigned *bound_port);
	void (*unlisten)(struct gvm_listener *listener);
	/* Asynchronous; connected() follows unless this fails. host and port from the cluster map.
	 */
	int (*connect)(struct gvm_prov *prov, const char *host, unsigned port, void *user,
		       struct gvm_ep **ep);
	/* End it now; operations under way complete with why, before this returns. Queued messages
	 * are given to the wire if that is possible without waiting. No closed() follows. After
	 * allow() and with -ECONNRESET, which has puts tried again on a new connection: as little
	 * as possible of what was posted may still arrive. */
	void (*shut)(struct gvm_ep *ep, int why);
	/* Just before shut(), when nothing was heard of the other side for too long: it must not
	 * take the end of the connection, if it can hear, for the end of this process. Returns a
	 * descriptor that keeps the end from being told until it is closed, -1 where there is none.
	 */
	int (*hush)(struct gvm_ep *ep);
	/* The handshake is through: ep->owner is set, fetch and put are served from now on. */
	void (*allow)(struct gvm_ep *ep);

	/* hdr->length bytes of payload, copied. -EAGAIN: queue full, writable() will follow. */
	int (*send)(struct gvm_ep *ep, const struct gvm_hdr *hdr, const void *payload);
	/* op->key, offset, buf, len, mem, xid, expires are set. completed() follows once, when
	 * nothing touches buf any more. -EAGAIN. */
	int (*fetch)(struct gvm_ep *ep, struct gvm_op *op);
	int (*put)(struct gvm_ep *ep, struct gvm_op *op);
	/*
	 * The deadline of an operation has passed. 0: the provider has forgotten it and touches
	 * neither op nor buffer again (core completes it). -EBUSY: it cannot be taken back (bytes
	 * are half sent, hardware has it): core ends the connection, which completes it.
	 */
	int (*cancel)(struct gvm_ep *ep, struct gvm_op *op);

	/* Register local or offered memory with the hardware; *cookie is kept in the gvm_mem. */
	int (*mem_reg)(struct gvm_prov *prov, void *base, size_t len, unsigned access,
		       void **cookie);
	void (*mem_dereg)(struct gvm_prov *prov, void *cookie);
};

/* Loopback or not: does listening at this address reach beyond this machine? (core asks) */
extern const struct gvm_provider_ops gvm_provider_tcp;
extern const struct gvm_provider_ops gvm_provider_loop;

/* Fillers for slots that a provider has no use for: -EOPNOTSUPP, or nothing. */
int gvm_unsupported_mem_reg(struct gvm_prov *prov, void *base, size_t len, unsigned access,
			    void **cookie);
void gvm_unsupported_mem_dereg(struct gvm_prov *prov, void *cookie);
int gvm_unsupported_peek(struct gvm_prov *prov);
int gvm_unsupported_hush(struct gvm_ep *ep);

/*
 * loop: a provider within one process, for tests. Endpoints find listeners by port. Faults are set
 * for the whole process; all chances are per 65,536, drawn from one seeded generator, so a single
 * -threaded test repeats exactly.
 */
struct gvm_loop_faults {
	uint64_t seed;
	uint32_t drop_conn; /* per message or operation: the connection breaks */
	uint32_t delay;     /* per message or operation: held back for up to delay_ns */
	uint64_t delay_ns;
	uint32_t refuse; /* per connect */
	int stall;       /* nothing moves */
};
void gvm_loop_set_faults(const struct gvm_loop_faults *faults);

#endif
