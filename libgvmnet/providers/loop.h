/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of the loop provider share; loop.c says what the provider is.
 *
 *     loop.c          ends and inboxes: posting, serving, the table of operations
 *     loop_link.c     links, frames and faults
 *     loop_listen.c   listeners and connecting
 */
#ifndef GVM_PROVIDERS_LOOP_H
#define GVM_PROVIDERS_LOOP_H

#include <pthread.h>
#include <stdlib.h>
#include "providers/provider.h"
#include "providers/slots.h"

#define QUEUE_MAX   256u /* frames of one direction of a link that are not yet served */
#define QUEUE_LOW   128u /* so few again: a refused post may be tried again */
#define SERVE_BATCH 256  /* frames served in one round */

enum frame_kind {
	F_CONNECT, /* to the listening side */
	F_OPEN,    /* to the connecting side: accepted; status */
	F_WIRE,    /* hdr and payload */
	F_ROOM,    /* the other side has served what was queued */
	F_CLOSE,   /* the other side has closed, in order behind what it said */
	F_BREAK,   /* a fault has broken the connection */
};

struct link;
struct frame {
	struct frame *next;
	struct link *link;
	struct gvm_listener *listener; /* of F_CONNECT; compared, not followed, until found alive */
	uint64_t due;                  /* not before */
	uint8_t kind, to;              /* to: which end */
	int status;
	struct gvm_hdr hdr;
	uint8_t payload[];
};

struct loop_ep {
	struct gvm_ep ep; /* first */
	struct loop_ep *dead_next;
	struct link *link;
	struct gvm_slots slots;
	uint8_t side, dead, silent, open, allowed, want_room;
};

struct link {
	unsigned refs;            /* the two ends, and each frame */
	int broken;               /* frames of it are not delivered any more, but F_BREAK */
	unsigned queued[2];       /* F_WIRE frames on their way to an end */
	int starved[2];           /* this end was refused room */
	uint64_t due[2];          /* of the last frame to an end */
	struct gvm_prov *prov[2]; /* NULL: this end is gone */
	struct loop_ep *ep[2];    /* touched by its own worker only */
};

struct gvm_listener {
	struct gvm_listener *next;
	struct gvm_prov *prov;
	unsigned port;
};

struct gvm_prov {
	struct gvm_prov *next;
	struct gvm_host *host;
	const struct gvm_host_ops *up;
	struct gvm_watch wake, timer;
	struct frame *inbox, **inbox_end;
	struct loop_ep *dead;
};

/* What all workers share, and the lock that guards it. */
struct gvm_loop_shared {
	pthread_mutex_t lock;
	struct gvm_listener *listeners;
	struct gvm_prov *provs;
	struct gvm_loop_faults faults;
	uint64_t chance;
	unsigned next_port, next_turn;
};
extern struct gvm_loop_shared gvm_loop __attribute__((visibility("hidden")));

/* ---- loop_link.c, under the lock ----------------------------------------------------------- */

/* The next random number, by the seed of the faults. */
uint64_t gvm_loop_draw(void);

/* Whether a fault of this chance (of 65,536) happens now. */
static inline int gvm_loop_happens(uint32_t chance)
{
	return chance && (gvm_loop_draw() & 0xFFFF) < chance;
}

/* Make its worker look at the inbox. */
void gvm_loop_wake(struct gvm_prov *prov);

static inline void gvm_loop_link_put(struct link *link)
{
	if (!--link->refs)
		free(link);
}

/* With room for so many bytes of payload, and a reference to the link. NULL: no memory. */
struct frame *gvm_loop_frame_new(struct link *link, unsigned to, enum frame_kind kind,
				 uint32_t bytes);

static inline void gvm_loop_frame_free(struct frame *f)
{
	gvm_loop_link_put(f->link);
	free(f);
}

/* Into the inbox; it is the receiver's from here. */
static inline void gvm_loop_frame_post(struct gvm_prov *prov, struct frame *f)
{
	struct link *link = f->link;

	if (f->due < link->due[f->to])
		f->due = link->due[f->to];
	link->due[f->to] = f->due;
	if (f->kind == F_WIRE)
		link->queued[f->to]++;
	f->next = NULL;
	*prov->inbox_end = f;
	prov->inbox_end = &f->next;
	gvm_loop_wake(prov);
}

/* A word without payload to an end; if there is no memory for it the link breaks on this side only,
 * which core's liveness finds. */
void gvm_loop_tell(struct link *link, unsigned to, enum frame_kind kind, int status);
void gvm_loop_break(struct link *link);

/* ---- loop_listen.c ------------------------------------------------------------------------- */

/* Whether it still listens. Under the lock. */
int gvm_loop_listens(const struct gvm_listener *listener);
/* As in gvm_provider_ops. */
int gvm_loop_listen(struct gvm_prov *prov, const char *host, unsigned port,
		    struct gvm_listener **listener, unsigned *bound_port);
void gvm_loop_unlisten(struct gvm_listener *l);
int gvm_loop_connect(struct gvm_prov *prov, const char *host, unsigned port, void *user,
		     struct gvm_ep **out);

/* ---- loop.c -------------------------------------------------------------------------------- */

/* One end of a link. NULL: no memory. */
struct loop_ep *gvm_loop_ep_new(struct gvm_prov *prov, struct link *link, unsigned side,
				void *user);

#endif
