/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of ivy/ share and nobody else sees.
 *
 *     engine.c    one engine: its life, messages in and out, peers, time
 *     node.c      a page at a node: faults, what ends them, eviction
 *     node_serve.c  the same page as others see it: what an owner or sharer is told to do
 *     pin.c       pages that are not to be taken from this node for a while
 *     walk.c      many pages of a node, in pieces
 *     home.c      a page at its home: who is served and who waits
 *     home_write.c  a writer, from its turn to its DONE
 *     home_room.c  pages that are taken back because the directory is full
 *     node_report.c  what a node tells a home that has been started anew
 *     home_rebuild.c  the directory, built of that
 *     home_loss.c   content that is to be got back; peers that die
 *     tree.c      an invalidation on its way down, at the home and at those that pass it on
 *     old.c       contents that are not the newest any more; pages as deltas against them
 *     dir.c, sharers.c  the directory
 *     table.c     the hash table of all of them
 */
#ifndef GVM_IVY_INTERNAL_H
#define GVM_IVY_INTERNAL_H

#include "ivy/ivy.h"
#include "wire/delta.h"

#include <linux/errno.h> /* numbers only, the same file for programs and for the kernel */
#ifdef __KERNEL__
#include <linux/string.h>
#else
#include <string.h>
#endif

#define NOBODY GVM_WIRE_NODE_NONE
#define NEVER  (~(uint64_t)0)

/* Faults that the tests put in, to see that they are found. */
#ifdef IVY_TEST_BUGS
enum ivy_bug {
	IVY_BUG_NONE,
	IVY_BUG_NO_ACK,      /* a writer is granted before its invalidation is acknowledged */
	IVY_BUG_GIVE_ALL,    /* an owner drops what it gave before it has arrived */
	IVY_BUG_RELAY_EARLY, /* a relay answers before its children have */
	IVY_BUG_OLD_BACK,    /* the home takes any version back */
	IVY_BUG_NO_RENEW,    /* a request keeps its id after BACK */
	IVY_BUG_NO_KEEP,     /* an evicted owner's page is dropped before the home has it */
	IVY_BUG_ZERO,        /* a lost page is given out as it last was at home */
	IVY_BUG_BASE,        /* a delta is put upon any older content that is there */
	IVY_BUG_PIN,         /* a pinned copy is said to be invalidated, and kept */
	IVY_BUG_GIVEN_GOOD,  /* a home that comes back takes what was given to a writer for the
				newest */
	IVY_BUG_NO_FREEZE,   /* a node takes answers of before while it reports */
	IVY_BUG_NOT_ALL,     /* a home that comes back does not wait for all reports */
	IVY_BUG_FORGET,      /* a page of which nobody reports is as if never written */
	IVY_BUG_ONE_SHORT,   /* a writer goes on before the last ACK has come to it */
	IVY_BUG_ANY_ACK,     /* a writer takes an ACK of an earlier turn for one of this */
	IVY_BUG_ACK_FIRST,   /* a sharer acknowledges to the writer before it unmaps */
	IVY_BUG_EARLY_DEATH, /* a writer that died, granted early, is taken not to have written */
	IVY_BUG_EARLY_KEPT,  /* a request that is renewed keeps what the one before was granted */
	IVY_BUG_ROOM_EARLY,  /* a page is forgotten before its sharers have dropped it */
	IVY_BUG_COUNT
};
extern enum ivy_bug ivy_test_bug;
#define IVY_BUG(which) (ivy_test_bug == IVY_BUG_##which)
#else
#define IVY_BUG(which) 0
#endif

/* ---- table.c: objects by a 64-bit key, chained --------------------------------------------- */

struct ivy_link {
	struct ivy_link *next;
	uint64_t key;
};

struct ivy_table {
	struct ivy_link **heads; /* a power of two of them, or NULL */
	uint32_t size, count;
};

/* The first object with this key, or NULL; the next one with the same. */
struct ivy_link *ivy_table_find(const struct ivy_table *table, uint64_t key);
struct ivy_link *ivy_table_again(const struct ivy_link *link);
/* Any object, or NULL: first, and the one after link. The table does not change meanwhile, but for
 * the removal of link after its successor was asked for. */
struct ivy_link *ivy_table_any(const struct ivy_table *table);
struct ivy_link *ivy_table_after(const struct ivy_table *table, const struct ivy_link *link);
/* 0 or -ENOMEM. link->key is set. */
int ivy_table_add(struct ivy *ivy, struct ivy_table *table, struct ivy_link *link);
void ivy_table_del(struct ivy_table *table, struct ivy_link *link);
void ivy_table_fini(struct ivy *ivy, struct ivy_table *table);
uint32_t ivy_hash(uint64_t key);

/* ---- dir.c, sharers.c ---------------------------------------------------------------------- */

#define DIR_INLINE 4u
#define DIR_COUNT  0x07u /* of bits: ids inline, or DIR_HEAP */
#define DIR_HEAP   0x07u
#define DIR_LOST   0x08u
#define DIR_STALE  0x10u

/* A directory entry: 28 bytes. Where a page has none, the backing copy is all there is of it. */
struct ivy_entry {
	uint32_t version_low, version_high;
	union {
		uint16_t id[DIR_INLINE]; /* ascending */
		uint8_t heap[8];         /* a pointer to a struct ivy_sharers */
	} set;
	uint32_t page_low;
	uint32_t next; /* index of the next one of its chain, or of the free ones; NO_ENTRY */
	uint16_t owner;
	uint8_t page_high;
	uint8_t bits;
};
#define NO_ENTRY 0xFFFFFFFFu
_Static_assert(sizeof(struct ivy_entry) == 28, "an entry has 28 bytes");

struct ivy_dir {
	struct ivy_entry **chunks;
	uint32_t *heads;
	uint32_t chunk_room, chunk_count, size, count, used, free;
	uint64_t bytes;
};

struct ivy_entry *ivy_dir_find(const struct ivy *ivy, uint64_t page);
/* Made if it is not there; NULL: no memory, or the limit. */
struct ivy_entry *ivy_dir_get(struct ivy *ivy, uint64_t page);
void ivy_dir_del(struct ivy *ivy, struct ivy_entry *entry);
/* All entries: from 0 until NULL; *at is the next to ask for. */
struct ivy_entry *ivy_dir_walk(const struct ivy *ivy, uint32_t *at);
/* The one in this place, below dir.used; NULL: it is free. */
struct ivy_entry *ivy_dir_at(const struct ivy *ivy, uint32_t at);
void ivy_dir_fini(struct ivy *ivy);

static inline uint64_t entry_version(const struct ivy_entry *e)
{
	return (uint64_t)e->version_high << 32 | e->version_low;
}

static inline void entry_set_version(struct ivy_entry *e, uint64_t version)
{
	e->version_low = (uint32_t)version;
	e->version_high = (uint32_t)(version >> 32);
}

static inline uint64_t entry_page(const struct ivy_entry *e)
{
	return (uint64_t)e->page_high << 32 | e->page_low;
}

/* 0, also if it is there already, or -ENOMEM. */
int ivy_sharers_add(struct ivy *ivy, struct ivy_entry *e, uint16_t node);
void ivy_sharers_del(struct ivy *ivy, struct ivy_entry *e, uint16_t node);
void ivy_sharers_clear(struct ivy *ivy, struct ivy_entry *e);
int ivy_sharers_has(const struct ivy_entry *e, uint16_t node);
uint32_t ivy_sharers_count(const struct ivy_entry *e);
/* Ascending; ids has room for all. */
void ivy_sharers_list(const struct ivy_entry *e, uint16_t *ids);
/* The first one that is not below node, or NOBODY. */
uint16_t ivy_sharers_from(const struct ivy_entry *e, uint16_t node);

/* ---- tree.c -------------------------------------------------------------------------------- */

#ifndef IVY_FAN_OUT
#define IVY_FAN_OUT 16u
#endif
#define FAN_OUT IVY_FAN_OUT

enum child_state { CHILD_UNSENT, CHILD_PENDING, CHILD_SETTLED };

/* One that was told, and its run: ids first to first + count - 1, itself the first of them. */
struct ivy_child {
	uint16_t node, first, count;
	uint16_t left; /* of its run, that could not be told: in the fan's left, from first on */
	uint8_t state;
};

/* An invalidation at one node: at the home, or at one that passes it on. */
struct ivy_fan {
	uint64_t page, round, version;
	uint32_t room; /* ids, left: that many; children: child_room */
	uint32_t child_room;
	uint32_t n, children, open; /* open: children that have not settled */
	uint16_t *ids, *left;       /* to be told; could not be told */
	uint8_t *set;               /* room for the payload of a message about any of them */
	uint16_t writer;            /* who is to have ACKs, too, or NOBODY */
	struct ivy_child child[];
};

struct ivy_relay {
	struct ivy_link link; /* by round */
	struct ivy_fan *fan;
	uint64_t due; /* then it is given up */
	uint16_t parent;
};

/* Room for n ids, and for as many children if direct, else for those of a tree; ids are the
 * caller's to set. */
struct ivy_fan *ivy_fan_make(struct ivy *ivy, uint64_t page, uint32_t n, int direct);
void ivy_fan_free(struct ivy *ivy, struct ivy_fan *fan);
/* Cut the ids in runs and tell the first of each. direct: each by itself, as this node always is;
 * who is down is told later, where a tree has its run among those left. */
void ivy_fan_start(struct ivy *ivy, struct ivy_fan *fan, uint64_t round, int direct);
/* The peer is not to be heard of: its run is left. Who was not told yet waits on, but for the dead.
 */
void ivy_fan_lost(struct ivy_fan *fan, uint16_t peer, int dead);
/* All have settled: bring those that are left to the front, ascending. Returns how many. */
uint32_t ivy_fan_left(struct ivy_fan *fan);
/* All that have not answered are left. */
void ivy_fan_give_up(struct ivy_fan *fan);
/* Who could not be told because it was down is back; NOBODY: try all of them again. */
void ivy_fan_resume(struct ivy *ivy, struct ivy_fan *fan, uint16_t peer);
/* Who was told by the home itself and has not answered is told again. */
void ivy_fan_repeat(struct ivy *ivy, struct ivy_fan *fan, uint16_t peer);
/* An ACK with its set. 0, or -EPROTO: it is not owed. */
int ivy_fan_ack(struct ivy *ivy, struct ivy_fan *fan, uint16_t from, const struct gvm_hdr *h,
		const void *set);
/* All have been told, each by this node itself, and none has answered yet. */
int ivy_fan_is_flat(const struct ivy_fan *fan);

int ivy_tree_inv(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *set);
int ivy_tree_ack(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *set);
void ivy_tree_peer_lost(struct ivy *ivy, uint16_t peer);
void ivy_tree_tick(struct ivy *ivy);
/* When that has something to do, or NEVER. */
uint64_t ivy_tree_due(const struct ivy *ivy);
void ivy_tree_fini(struct ivy *ivy);

/* ---- node.c -------------------------------------------------------------------------------- */

enum page_state { PAGE_NONE, PAGE_SHARED, PAGE_OWNED, PAGE_EXCL, PAGE_EVICT, PAGE_GIVEN };

#define ASKED     1u /* the request has been sent (in EVICT it waits for WB_OK) */
#define HAS_DATA  2u /* the content for WRITE is here */
#define HAS_GRANT 4u
#define WANT_MORE 8u  /* a program wants WRITE too, after READ */
#define HURRIED   16u /* asked for again because some peer came back, since the last time-out */
#define IN_FULL   32u /* a delta came that was of no use */
#define HAS_EARLY 64u /* granted, when all of its tally have acknowledged */

/* A page at a node. In the list of open pages while something has to come. */
struct ivy_page {
	struct ivy_link link; /* by page */
	struct ivy_page *next, *prev;
	uint64_t version; /* of the content */
	uint64_t request; /* id of what is wanted */
	uint64_t granted; /* version to be, with HAS_GRANT or HAS_EARLY */
	uint64_t side;    /* id of the write-back, or of the request that it was given to */
	uint64_t due;
	uint64_t since; /* what is wanted was asked for; or, with PIN_REFUSED, the last pin ended */
	uint16_t pins;
	uint8_t state, want, flags, tries;
	uint8_t open : 1;
	uint8_t at_home : 1; /* the home had what this was before it was written here */
	uint8_t pin;         /* PIN_* */
};

/*
 * Who has acknowledged to a writer, and who has to: both can come first. Of each node the last one
 * counts, of so many nodes; where there is no room for one, the home has it, too.
 */
struct ivy_tally {
	struct ivy_link link; /* by page */
	uint32_t owed, acks;
	uint16_t owe[FAN_OUT]; /* with HAS_EARLY: those that have to */
	uint16_t from[FAN_OUT];
	uint64_t version[FAN_OUT]; /* of the writer, that they have acknowledged */
};

#define PIN_WRITE   1u /* one of the pins is for writing */
#define PIN_REFUSED 2u /* somebody wants the page, and was not obeyed */
#define GAVE_UP     4u /* the program has been told that its fault has failed */

struct ivy_page *ivy_page_find(const struct ivy *ivy, uint64_t page);
/* Whether there are bytes of it. */
static inline int page_has_content(const struct ivy_page *p)
{
	return p->state != PAGE_NONE || (p->flags & HAS_DATA);
}
/* Unmap and forget the content; the record goes too if nothing is wanted. */
void ivy_page_drop(struct ivy *ivy, struct ivy_page *p);
/* Its content will be another one, or nobody's: it may be asked about. */
void ivy_page_keep_old(struct ivy *ivy, const struct ivy_page *p);
/* After a change of state or want: in the list or not; and what waited for EVICT's end is asked. */
void ivy_page_settle(struct ivy *ivy, struct ivy_page *p);
/* The open request takes another id, and is made again. */
void ivy_page_renew(struct ivy *ivy, struct ivy_page *p);
/* What has come for the open request is of no use any more. */
void ivy_page_forget(struct ivy_page *p);
int ivy_node_data(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
int ivy_node_grant(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
int ivy_node_nak(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
/* Of a page that is wanted for writing; NULL: nobody has acknowledged or has to. */
struct ivy_tally *ivy_tally_find(const struct ivy *ivy, const struct ivy_page *p);
/* An ACK to a writer. */
int ivy_node_told(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h);
/* As ivy_fault() and ivy_evict(). */
int ivy_node_fault(struct ivy *ivy, uint64_t page, enum ivy_access access);
int ivy_node_evict(struct ivy *ivy, uint64_t page);
void ivy_node_tick(struct ivy *ivy);
void ivy_node_peer_back(struct ivy *ivy, uint16_t peer);
void ivy_node_home_dead(struct ivy *ivy, uint16_t home);
void ivy_node_fini(struct ivy *ivy);

/* ---- old.c --------------------------------------------------------------------------------- */

/* A content that was the newest once. By page, and in a list from the oldest on. */
struct ivy_old {
	struct ivy_link link; /* by page */
	struct ivy_old *next, *prev;
	uint64_t age;    /* when it was kept: counts up */
	uint64_t digest; /* 0: not computed yet */
	uint8_t bytes[];
};

/* Keep a content (NULL: zeros) that may be asked about; the oldest one goes for it. Without memory
 * it is not kept. */
void ivy_old_keep(struct ivy *ivy, uint64_t page, const void *bytes);
/* The digest of the last one that is kept of the page, or 0. */
uint64_t ivy_old_last(struct ivy *ivy, uint64_t page);
void ivy_old_fini(struct ivy *ivy);
/*
 * The payload for a page, from now until the next call: bytes, or a delta if that is shorter
 * against zeros or against what the receiver has, with this digest (0: nothing); h->flags and
 * length are set.
 */
const void *ivy_old_encode(struct ivy *ivy, struct gvm_hdr *h, const void *bytes, uint64_t base);
/*
 * The page that comes of a delta, from now until the next call, in *bytes; NULL: its base is not
 * here any more, which only DATA, GRANT and WB may bring about. 0 or -EPROTO: it is none.
 */
int ivy_old_decode(struct ivy *ivy, const struct gvm_hdr *h, const void *payload,
		   const void **bytes);
/* ---- node_report.c ------------------------------------------------------------------------- */

enum reborn_phase { REBORN_NEW, REBORN_REPORTS, REBORN_RESUMED, REBORN_SERVED, REBORN_SETTLED };

/* A home that has been started anew, at a node. */
struct ivy_reborn {
	struct ivy_link link; /* by node */
	uint64_t base;        /* versions up to this one are of before */
	uint32_t slot,
	    size; /* of the table of pages: where the report goes on, and its size then */
	uint8_t phase;
};

/* What is wanted of this page cannot be asked for now: its home is being told what is here. */
int ivy_report_waits(const struct ivy *ivy, uint64_t page);
/* No copy of it may be given up now: it may be the last one. */
int ivy_report_keeps(const struct ivy *ivy, uint64_t page);
/* An INV of this version is of before the page's home was started anew. */
int ivy_report_past(const struct ivy *ivy, uint64_t page, uint64_t version);
void ivy_report_peer_back(struct ivy *ivy, uint16_t peer);
void ivy_report_peer_dead(struct ivy *ivy, uint16_t peer);
int ivy_report_answer(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h);
void ivy_report_fini(struct ivy *ivy);

/* ---- node_serve.c -------------------------------------------------------------------------- */

int ivy_node_ask(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
int ivy_node_forward(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
int ivy_node_free(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
int ivy_node_recall(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
int ivy_node_wb_ok(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
/* This node's copy, if older than version or that is any, is none any more; an owner's may not be
 * taken so, and of any is not meant. */
int ivy_node_may_invalidate(const struct ivy *ivy, uint64_t page, uint64_t version);
void ivy_node_invalidate(struct ivy *ivy, uint64_t page, uint64_t version);

/* ---- pin.c --------------------------------------------------------------------------------- */

/* As ivy_unpin(); all: so often as it is pinned. */
void ivy_page_unpin(struct ivy *ivy, struct ivy_page *p, int all);
/* Whether a message that leaves this node that access at most is not to be obeyed now. It comes
 * again: when it is due, or when READY has told the home. */
int ivy_pin_refuses(struct ivy *ivy, struct ivy_page *p, enum ivy_access left);
/* The same of INV. From a relay: who was refused is then told by the home, and only that counts. */
int ivy_pin_refuses_inv(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h);
/* Others have had their turn. */
static inline void pin_yielded(struct ivy_page *p)
{
	p->pin &= (uint8_t)~PIN_REFUSED;
}
int ivy_home_ready(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);

/* ---- home*.c ------------------------------------------------------------------------------- */

enum txn_phase { TXN_IDLE, TXN_READ, TXN_INV, TXN_GRANT, TXN_RECALL };

/* A request at the home, in the queue or served: one for a page and node. */
struct ivy_waiter {
	struct ivy_link link; /* by page and node */
	struct ivy_waiter *next, *prev;
	uint64_t request, has; /* its id; the version that the node has a copy of */
	uint64_t base;         /* digest of an older content that it has, or 0 */
	uint16_t node;
	uint8_t write, served; /* served: it is in that list */
};

struct ivy_waiters {
	struct ivy_waiter *first, *last;
};

/* A page for which somebody is served or waits. */
struct ivy_txn {
	struct ivy_link link; /* by page */
	struct ivy_txn *next, *prev;
	struct ivy_waiters queue, served; /* served: readers, or the one writer */
	struct ivy_fan *fan;
	uint64_t version; /* that the writer will have */
	uint64_t round;   /* of a RECALL */
	uint64_t due;
	uint16_t supplier;  /* who was told to send its page to the writer, or NOBODY */
	uint16_t candidate; /* of a RECALL */
	uint16_t charged;   /* whose share it is a part of, beside those of who waits; or NOBODY */
	uint8_t phase, same, tries, strict;
	/* The writer may go on when all sharers have acknowledged to it; it has the page with that,
	 * unless it asks again; it has said DONE. Others are not served before all have been told
	 * here, too. */
	uint8_t early, sent, done;
};

struct ivy_txn *ivy_txn_find(const struct ivy *ivy, uint64_t page);
/* Made if there is none, as a part of this node's share (of the home's: ivy_itself(); NOBODY: who
 * waits for it has a part of its own); NULL: no memory, or a limit. */
struct ivy_txn *ivy_txn_get(struct ivy *ivy, uint64_t page, uint16_t charged);
/* It is a part of this node's share, or of nobody's. */
void ivy_txn_charge(struct ivy *ivy, struct ivy_txn *t, uint16_t node);
/* Serve whoever is next; the transaction, and the entry, go when there is nothing to keep them for.
 */
void ivy_home_advance(struct ivy *ivy, uint64_t page);
/* The request of a node, if there is one; where it is served, where it waits. */
struct ivy_waiter *ivy_waiter_served(const struct ivy *ivy, const struct ivy_txn *t, uint16_t node);
struct ivy_waiter *ivy_waiter_queued(const struct ivy *ivy, const struct ivy_txn *t, uint16_t node);
/* The first of the queue is served, before all others that are. */
void ivy_waiter_serve(struct ivy_txn *t);
/* Take w out of its list and free it. */
void ivy_waiter_del(struct ivy *ivy, struct ivy_txn *t, struct ivy_waiter *w);
/* All that are served wait again, before the others. */
void ivy_txn_requeue(struct ivy_txn *t);
/* Refuse all that wait. */
void ivy_txn_refuse(struct ivy *ivy, struct ivy_txn *t, unsigned status);
void ivy_home_serve_read(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e,
			 struct ivy_waiter *w);
int ivy_home_request(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
int ivy_home_done(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
int ivy_home_wb(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
int ivy_home_drop(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
int ivy_home_still(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
void ivy_home_fini(struct ivy *ivy);

/* home_write.c. The first of the queue becomes the writer: 0, or -ENOMEM, -EPROTO: it may not. */
int ivy_write_start(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e);
/* The writer asks again, or is thought to need it. */
void ivy_write_again(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e);
/* The writer has completed. */
void ivy_write_finish(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e);
/* The writer has completed, if this version says so, by an early GRANT, and not all have been told
 * yet as far as this home knows. 1: it is noted. */
int ivy_write_has_said(struct ivy *ivy, struct ivy_txn *t, uint16_t from, uint64_t version);
/* The writer has died, granted, and no longer is served: it may have written, and nobody else has
 * that; unless it cannot have had the page. */
void ivy_write_lost(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e);
/* The writer, granted, says that it has nothing. */
void ivy_write_abandon(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e);
/* The invalidation may be over: look, and go on. */
void ivy_write_step(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e);

/* As if a writer had died: all sharers are told, and then nobody has a copy. There is no owner. */
void ivy_write_nobody(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e);

/* home_room.c. There is no room for an entry, or no memory: take a page back. */
void ivy_room_make(struct ivy *ivy);
/* The same if there will soon be none. */
void ivy_room_keep(struct ivy *ivy);

/* home_loss.c. The page is lost: all that wait are refused. */
void ivy_home_lose(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e);
/* Fetch the content from candidate, or (NOBODY) from any sharer. strict: not if it has given it to
 * the writer, who may have changed it. */
void ivy_recall_start(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e, uint16_t candidate,
		      int strict);
void ivy_recall_again(struct ivy *ivy, struct ivy_txn *t);
/* Fetch it from its owner, if nothing is under way; t may be NULL. Returns 0. */
int ivy_recall_owner(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e);
/* Keep content that came back. 0, or the page is lost. */
int ivy_recall_store(struct ivy *ivy, struct ivy_entry *e, const struct gvm_hdr *h,
		     const void *bytes);
int ivy_home_back(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
void ivy_home_tick(struct ivy *ivy);
void ivy_home_peer_lost(struct ivy *ivy, uint16_t peer);
void ivy_home_peer_back(struct ivy *ivy, uint16_t peer);
/* What this peer was told to do with a page it is told again. */
void ivy_home_tell_again(struct ivy *ivy, struct ivy_txn *t, uint16_t peer);
void ivy_home_peer_dead(struct ivy *ivy, uint16_t peer);

/* ---- home_rebuild.c ------------------------------------------------------------------------ */

enum rebuild_phase { REBUILD_COLLECTS, REBUILD_RESUMES, REBUILD_SERVES, REBUILD_SETTLED };
enum rebuild_member { MEMBER_NONE, MEMBER_REPORTED, MEMBER_TAKEN };

/* What cannot be put into an entry before all have reported: content that was given away or is
 * being written back; what is said to be mapped, and contradicts what another one has said; or
 * (state NONE) a request that has not completed. */
struct ivy_claim {
	struct ivy_link link; /* by page */
	uint64_t version, id;
	uint16_t node;
	uint8_t state;
};

enum { UNHEARD_NOTHING, UNHEARD_SHARED, UNHEARD_OWNED };

/* A node, as a home knows it that is building its directory. */
struct ivy_witness {
	uint32_t claims;  /* that are kept of it */
	uint16_t against; /* who contradicts it, or NOBODY */
	uint8_t member;   /* MEMBER_* */
	uint8_t disputed; /* more than one do */
	uint8_t liar;     /* and nobody is but this one */
	uint8_t unheard;  /* UNHEARD_*: of what it has mapped, not all could be noted */
};

struct ivy_rebuild {
	struct ivy_table claims;
	uint64_t low, base; /* versions of before are above low, and not above base */
	uint64_t due;       /* in SERVES: when to look for content again */
	uint32_t waits;     /* in RESUMES: how many have not said TAKEN */
	uint8_t phase;
	uint8_t blind;                /* there was no memory for all of it */
	uint8_t unheard;              /* some node's is */
	struct ivy_witness witness[]; /* by node */
};

int ivy_rebuild_report(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes);
/* A page that has no entry gets this one. */
void ivy_rebuild_fresh(struct ivy *ivy, struct ivy_entry *e);
/* 1: no entry means that the page is lost. */
int ivy_rebuild_forgot(const struct ivy *ivy, uint64_t page);
void ivy_rebuild_tick(struct ivy *ivy);
void ivy_rebuild_peer_back(struct ivy *ivy, uint16_t peer);
void ivy_rebuild_peer_dead(struct ivy *ivy, uint16_t peer);
void ivy_rebuild_fini(struct ivy *ivy);

/* ---- engine.c ------------------------------------------------------------------------------ */

/* A message to this node itself. */
struct ivy_self {
	struct ivy_self *next;
	struct gvm_hdr h;
	uint8_t payload[];
};

struct ivy {
	struct ivy_config config;
	struct ivy_stats stats;
	struct ivy_self *self_first, **self_last;
	uint8_t *peers;      /* two bits each: there, lost or dead */
	uint32_t peers_away; /* so many of them are lost or dead */
	uint64_t now;
	uint64_t clock;    /* of versions */
	uint64_t reserved; /* up to here it may go before reserve() is told */
	/* node */
	struct ivy_table pages;
	struct ivy_page *open;
	uint32_t open_count;
	struct ivy_table relays;
	uint32_t relay_ids; /* that their sets have together */
	struct ivy_table tallies;
	/* both */
	struct ivy_table old;
	struct ivy_old *old_first, *old_last; /* the oldest, the newest */
	uint64_t old_age;
	uint8_t *buffer; /* a page that came as a delta, and a delta that goes: page_size each */
	/* home */
	struct ivy_dir dir;
	struct ivy_table txns, waiters;
	struct ivy_txn *txn_list;
	uint32_t room_at; /* in the directory: where to look for a page to take back */
	uint32_t *shares; /* by node, then its own: see max_share; NULL: there is no bound */
	/* homes that have been started anew; this one, if it has */
	struct ivy_table reborn;
	struct ivy_rebuild *rebuild;
};

/* The next version. */
uint64_t ivy_draw(struct ivy *ivy);
/* The id of a round, or of a RECALL: nobody can be ahead of it with one of that id. */
static inline uint64_t ivy_new_round(struct ivy *ivy)
{
	return ivy->config.env->nonce(ivy->config.user);
}
void *ivy_alloc(struct ivy *ivy, size_t size);
void ivy_release(struct ivy *ivy, void *mem, size_t size);

/* A message to be: h.region, epoch are set when it is sent. 0; -ENOTCONN: the peer is down;
 * -ENOMEM: to itself, and no memory. */
int ivy_post(struct ivy *ivy, uint16_t to, struct gvm_hdr *h, const void *payload);
/* One without payload. */
int ivy_say(struct ivy *ivy, uint16_t to, unsigned type, uint64_t page, uint64_t xid, uint64_t arg);
/* One with a digest, or without payload if that is 0. */
int ivy_say_base(struct ivy *ivy, uint16_t to, struct gvm_hdr *h, uint64_t base);
/* One with a page: bytes, or NULL for zeros; base: the digest of what the receiver has, or 0. */
int ivy_say_page(struct ivy *ivy, uint16_t to, struct gvm_hdr *h, const void *bytes, uint64_t base);
int ivy_all_zeros(const void *bytes, uint32_t size);

/* Take what this node has said to itself. */
void ivy_drain(struct ivy *ivy);

uint16_t ivy_home_of(const struct ivy *ivy, uint64_t page);
/* Whose share it is that the home begins by itself. No node has this id. */
static inline uint16_t ivy_itself(const struct ivy *ivy)
{
	return ivy->config.nodes;
}
int ivy_peer_down(const struct ivy *ivy, uint16_t peer); /* lost or dead */
int ivy_peer_gone(const struct ivy *ivy, uint16_t peer); /* dead */
/* When to ask again, the tries-th time. */
uint64_t ivy_backoff(struct ivy *ivy, unsigned tries);
/* It broke the rules, and is counted. Returns -EPROTO. */
int ivy_refuse(struct ivy *ivy);
/* Nobody waits for it. Returns 0. */
int ivy_late(struct ivy *ivy);

#endif
