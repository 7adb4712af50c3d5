/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The coherence engine: one region's shared memory on one node, as home of its pages and as a node
 * that maps them (docs/coherence.md). It performs no I/O: events go in through the functions below,
 * actions come out through struct ivy_env. It reads no clock, takes no lock and has no state but
 * what ivy_new() returns; the same calls have the same effects. It needs nothing of libc but
 * <string.h> and compiles in the kernel.
 *
 * Threads: one at a time; the caller serialises. The functions of ivy_env are called from within
 * the functions below and must not call back into the engine.
 *
 * Errors are negative errno values. What a peer sends can neither end the program nor make the
 * engine keep more than its configuration allows.
 */
#ifndef GVM_IVY_H
#define GVM_IVY_H

#include "wire/coherence.h"

struct ivy;

/* What a program may do with a page here. */
enum ivy_access { IVY_NONE = 0, IVY_READ = 1, IVY_WRITE = 2 };

#define IVY_PAGE_MAX 4096u /* bytes */

/* What the engine acts through. All are set, but for
 * store_kept, reserve and trace; user is ivy_config's. */
struct ivy_env {
	/* Memory, aligned for any object, contents undefined; NULL: there is none. */
	void *(*alloc)(void *user, size_t size);
	void (*free)(void *user, void *mem, size_t size);
	/*
	 * Send a frame: h, and h->length bytes of payload (NULL if that is 0), valid until this
	 * returns; h->credits is 0. Never to this node itself, nor to a peer that is lost or dead.
	 * It cannot fail: what cannot be sent is a lost peer, which ivy_peer_lost() tells later.
	 */
	void (*send)(void *user, uint16_t to, const struct gvm_hdr *h, const void *payload);
	/* The home of a page (below ivy_config's pages): always the same answer. */
	uint16_t (*home)(void *user, uint64_t page);
	/* 64 bits that nobody can guess. */
	uint64_t (*nonce)(void *user);

	/* The copy of a page on this node, that programs map. */
	const void *(*copy_read)(void *user, uint64_t page); /* its bytes, until the next call */
	/* Set its bytes (NULL: zeros); it is not mapped. -ENOMEM: as if the message had been lost.
	 */
	int (*copy_write)(void *user, uint64_t page, const void *bytes);
	void (*copy_drop)(void *user, uint64_t page); /* the content is of no further use */
	/* From when this returns, programs can do this and no more. Called before fault_done(). */
	void (*protect)(void *user, uint64_t page, enum ivy_access access);

	/* The backing copy at the home. NULL: never written, reads as zeros. */
	const void *(*store_read)(void *user, uint64_t page);
	/* NULL: zeros. An error means that the content is lost, and the page with it. */
	int (*store_write)(void *user, uint64_t page, const void *bytes);
	/*
	 * NULL, or of a home that has been started anew, about a page of which no node has reported
	 * content: 1 if nobody can have written it since store_read() gives what it does.
	 */
	int (*store_kept)(void *user, uint64_t page);
	/*
	 * NULL, or of a home that may be started anew: the versions that it draws from
	 * now on are above from, and up to upto at most. For ivy_rebuild_begin().
	 */
	void (*reserve)(void *user, uint64_t from, uint64_t upto);

	/*
	 * A fault that ivy_fault() answered with 1 has ended, and all others on the page that want
	 * this access or less: 0, or why there is no access (-EIO: the page is lost, -EHOSTDOWN:
	 * its home is). The page may be taken away again at any time from when this returns.
	 */
	void (*fault_done)(void *user, uint64_t page, enum ivy_access access, int status);
	/* NULL, or told of each message that is sent (out 1) or taken (0), those to itself too. */
	void (*trace)(void *user, int out, uint16_t peer, const struct gvm_hdr *h);
};

/* That of functions whose names are prefix and the member's, but for those that may be NULL. */
#define IVY_ENV(prefix)                                                                            \
	{                                                                                          \
		.alloc = prefix##alloc, .free = prefix##free, .send = prefix##send,                \
		.home = prefix##home, .nonce = prefix##nonce, .copy_read = prefix##copy_read,      \
		.copy_write = prefix##copy_write, .copy_drop = prefix##copy_drop,                  \
		.protect = prefix##protect, .store_read = prefix##store_read,                      \
		.store_write = prefix##store_write, .fault_done = prefix##fault_done,              \
	}

/* All limits are numbers of objects, above 0. */
struct ivy_config {
	const struct ivy_env *env; /* must outlive the engine */
	void *user;
	uint64_t region;
	uint64_t pages;       /* of the region; below 2^40 */
	uint32_t page_size;   /* bytes, 1 to IVY_PAGE_MAX */
	uint32_t epoch;       /* of the cluster map; other epochs' messages are refused */
	uint16_t self;        /* this node */
	uint16_t nodes;       /* ids are below this; at most GVM_WIRE_NODE_MAX */
	uint32_t max_entries; /* of the directory: pages in use elsewhere that this node is home of;
				 near it those that nobody waits for are taken back */
	uint32_t max_txns;    /* pages that this node is home of and somebody waits for */
	uint32_t max_waiters; /* requests that are served or wait here */
	/* Of these, that one node may have: who says no DONE is told to be patient, and leaves
	 * room to others. So many pages the home fetches by itself at a time. 0: no bound. */
	uint32_t max_share;
	uint32_t max_pages;  /* pages that this node has a copy of or wants */
	uint32_t max_relays; /* invalidations that this node passes on at a time */
	uint64_t retry_ns;   /* after which an open request is asked for again, doubling; not 0 */
	uint64_t round_ns;   /* after which a home gives up on an invalidation's tree; not 0 */
	/*
	 * Contents that are kept though they are not the newest, of all pages together: what a
	 * page was before it was written here, and copies that were given up, so that who asks
	 * for a page can be sent what has changed of it. As many pages of memory. May be 0.
	 */
	uint32_t max_old;
	/* After which a program is told that its fault has failed (-ETIMEDOUT), though the page is
	 * still asked for. 0: it waits. */
	uint64_t wait_ns;
};

/* Counters since ivy_new(), and levels. */
struct ivy_stats {
	uint64_t sent, received; /* messages, without those to itself */
	uint64_t refused;        /* broke the rules; -EPROTO was returned */
	uint64_t stale;          /* of another epoch, or from a peer that is lost: ignored */
	uint64_t late;           /* nobody waits for it any more: ignored */
	uint64_t faults_read, faults_write, faults_failed;
	uint64_t repeated;      /* requests that were asked for again */
	uint64_t invalidated;   /* copies given up to INV */
	uint64_t early;         /* writes that went on before the home knew that they may */
	uint64_t lost;          /* pages of this home that nobody has */
	uint64_t reclaimed;     /* pages that were taken back to make room in the directory */
	uint64_t no_memory;     /* a limit or the allocator said no */
	uint64_t over_share;    /* requests refused for max_share: these are in no_memory, too */
	uint64_t deltas;        /* pages that were sent as what has changed of them */
	uint64_t delta_saved;   /* bytes that these were shorter */
	uint64_t pin_refused;   /* messages that were not obeyed for a pin: they come again */
	uint64_t delta_unknown; /* deltas that came too late for their base: asked for in full */
	uint32_t entries, txns, waiters, pages, relays, old, pinned; /* in use now */
	uint32_t open;            /* of these pages: something has to come before they can go */
	uint64_t directory_bytes; /* memory of entries, index and sharer sets */
};

/* 0, -EINVAL: a value is out of range, or -ENOMEM. */
int ivy_new(const struct ivy_config *config, struct ivy **ivy);
/* Frees all memory. Tells nobody, and does not end faults. */
void ivy_free(struct ivy *ivy);

/*
 * A program needs access (IVY_READ or IVY_WRITE) to a page. 0: it has it. 1: fault_done() follows,
 * with this access or more, and may have come already when this returns. -EIO, -EHOSTDOWN: the
 * page's home is dead; -ENOMEM, -EINVAL.
 */
int ivy_fault(struct ivy *ivy, uint64_t page, enum ivy_access access);
/*
 * This node does not need its copy: it is unmapped at once; an owner's is kept until the home has
 * it. 0, also if there is none; -EBUSY: the page is wanted, or on its way to another node.
 */
int ivy_evict(struct ivy *ivy, uint64_t page);
/*
 * Until ivy_unpin() this access stays here: who wants the page waits. 0, and pins add up; -EAGAIN:
 * this node does not have the access (ivy_fault() it first), or somebody was refused it and goes
 * first: after the next event of this page, or of time, it may be otherwise. -EBUSY: 65,535 pins;
 * -EINVAL. A home that dies takes its pages all the same.
 */
int ivy_pin(struct ivy *ivy, uint64_t page, enum ivy_access access);
void ivy_unpin(struct ivy *ivy, uint64_t page);
/*
 * One of these with each page from first to before end, in pieces: a walk. What is not here costs
 * nothing: looked at are all numbers of the range or all that is here, whichever is less. A page
 * that is here all the time is met once; one that comes or goes meanwhile once or not at all.
 */
enum ivy_walk_what {
	IVY_WALK_EVICT, /* ivy_evict(), of what a program may use */
	IVY_WALK_UNPIN, /* ivy_unpin() */
	IVY_WALK_LEAVE  /* ivy_unpin() for each of its pins, then ivy_evict() */
};
struct ivy_walk {
	uint64_t first, end; /* pages */
	uint64_t looked;     /* pages, and chains of the table: how much work it has been */
	uint32_t chain;      /* the next one */
	uint8_t by_chain, over;
};
void ivy_walk_begin(const struct ivy *ivy, struct ivy_walk *walk, uint64_t first, uint64_t end);
/* A piece: until that many have been looked at, and a chain more, or the walk is over. Returns how
 * many pages a program could use, and cannot any more. */
uint32_t ivy_walk_on(struct ivy *ivy, struct ivy_walk *walk, enum ivy_walk_what what,
		     uint32_t most);
/*
 * A frame of types GVM_COH_FIRST to GVM_COH_LAST has come, with h->length bytes of payload. 0:
 * taken or without effect. -EPROTO: it breaks the rules, nothing has happened; the connection
 * should be ended. -ESTALE: another epoch, or the peer is lost.
 */
int ivy_receive(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *payload);
/* The connection is gone, and what was under way with it. It may come back. */
void ivy_peer_lost(struct ivy *ivy, uint16_t peer);
/* There is a connection again, to the same incarnation after ivy_peer_lost, to a new one after
 * ivy_peer_dead. At first all peers are taken to be there. */
void ivy_peer_back(struct ivy *ivy, uint16_t peer);
/* This incarnation will never be heard of again ("fence before burial" in docs/coherence.md). */
void ivy_peer_dead(struct ivy *ivy, uint16_t peer);
/*
 * Instead of ivy_peer_back: the peer is a new incarnation of a home that knows nothing of before,
 * has been told to build its directory anew (ivy_rebuild_begin), and this node has not been without
 * that home for so long that it may have been buried. It is told what this node holds, which stays
 * mapped. 0; -ENOMEM, -EINVAL: ivy_peer_dead() must be called.
 */
int ivy_home_reborn(struct ivy *ivy, uint16_t home);
/*
 * This home has been started anew, and nodes hold pages of it: to be called before all else. It
 * collects what they report and answers nothing. Its versions of before, of all its lives, were
 * above low and up to high: the first from and the last upto that reserve() was told; 0, 0: there
 * were none. A report with any other is refused. 0 or -ENOMEM.
 */
int ivy_rebuild_begin(struct ivy *ivy, uint64_t low, uint64_t high);
/*
 * All nodes that may hold a page of it have reported (ivy_rebuild_reported() says 1), or are sure
 * to have given it up: the directory is built. The home serves when all of them have noted it.
 */
void ivy_rebuild_end(struct ivy *ivy);
int ivy_rebuild_reported(const struct ivy *ivy, uint16_t node);
/* 1: this node holds the home up: it has not reported, or has not noted what followed. Who does so
 * for too long is to be treated like one that is not heard of: fenced, then ivy_peer_dead(). */
int ivy_rebuild_owes(const struct ivy *ivy, uint16_t node);
/*
 * Before ivy_rebuild_end(): the only node whose report, as far as it has come, contradicts those of
 * two others or more, which is to be treated likewise, and then this asked again; or
 * GVM_WIRE_NODE_NONE.
 */
uint16_t ivy_rebuild_liar(struct ivy *ivy);
/* 1 from ivy_rebuild_begin() until the home serves. */
int ivy_rebuild_busy(const struct ivy *ivy);
/* Time has come to now (any unit that rises; ns in the configuration). Asks again for what is due,
 * for which it looks at all that is open. */
void ivy_tick(struct ivy *ivy, uint64_t now);
/* The same without looking: for before each message, where ivy_tick() is called now and then. */
void ivy_clock(struct ivy *ivy, uint64_t now);
/* When ivy_tick() has something to do, or ~0: nothing is open. */
uint64_t ivy_next_tick(const struct ivy *ivy);

/* What a program may do with the page here. */
enum ivy_access ivy_page_access(const struct ivy *ivy, uint64_t page);
/* The version of this node's copy, or 0. */
uint64_t ivy_page_version(const struct ivy *ivy, uint64_t page);
void ivy_stats(const struct ivy *ivy, struct ivy_stats *stats);

/* The home's view of a page, for tests and statistics. */
struct ivy_view {
	int entry, busy, lost, stale; /* there is an entry, a transaction; marks */
	uint16_t owner;               /* or GVM_WIRE_NODE_NONE */
	uint32_t sharers;
	uint64_t version;
};
void ivy_home_view(const struct ivy *ivy, uint64_t page, struct ivy_view *view);
/* 1: the home has this node as a sharer of the page. */
int ivy_home_has(const struct ivy *ivy, uint64_t page, uint16_t node);
/*
 * All of the state that can make a difference to what follows, but for the clock and time-outs, in
 * an order that does not depend on how it came about: put() is called with pieces of it.
 */
void ivy_snapshot(const struct ivy *ivy, void (*put)(void *to, uint64_t word), void *to);

#endif
