/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A region's sessions with other members (docs/coherence.md, "In user space"): one connection for
 * both directions, agreed to by REGION_OPEN and its answer. The node's thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "dsm/internal.h"

#define ASK_NS   (3000 * DSM_MS)  /* for an answer */
#define AGAIN_NS (100 * DSM_MS)   /* after a refusal that may not last */
#define SOON_NS  (2 * DSM_MS)     /* there was no credit */
#define LATE_NS  300000ull        /* that a frame waits at most for another one to go with */
#define STREAK   32u              /* in a row, before the first one waits */
#define LATER_NS (1000 * DSM_MS)  /* to a node that has not the region open */
#define LAST_NS  (60000 * DSM_MS) /* what these grow to while nobody answers */

static void ask_answered(struct gvm_op *op, int status);
static int ask(struct dsm_link *link);
static void on_retry(struct gvm_timer *timer);
static void on_fence(struct gvm_timer *timer);

static uint64_t now(const struct dsm_link *link)
{
	return gvm_worker_now(link->dsm->node->worker);
}

static void set_timer(struct dsm_link *link, struct gvm_timer *timer, uint64_t in_ns)
{
	if (gvm_timer_set(link->dsm->node->worker, timer, now(link) + in_ns))
		gvm_log(GVM_LOG_ERROR, "region %s: out of memory for a timer", link->dsm->name);
}

/* ---- made and freed ------------------------------------------------------------------------ */

struct dsm_link *dsm_link_get(struct gvm_dsm *dsm, uint16_t node)
{
	struct dsm_link *link = dsm->links[node];

	if (link)
		return link;
	link = calloc(1, sizeof(*link));
	if (!link)
		return NULL;
	link->dsm = dsm;
	link->node = node;
	link->told = 1;
	STAILQ_INIT(&link->queue);
	link->retry.fn = on_retry;
	link->fence.fn = on_fence;
	LIST_INSERT_HEAD(&dsm->all, link, in_region);
	dsm->links[node] = link;
	return link;
}

static void not_late(struct dsm_link *link)
{
	if (link->late_count)
		LIST_REMOVE(link, in_late);
	link->late_count = 0;
}

static void drop_queue(struct dsm_link *link)
{
	struct dsm_frame *f;

	not_late(link);
	while ((f = STAILQ_FIRST(&link->queue))) {
		STAILQ_REMOVE_HEAD(&link->queue, next);
		free(f);
	}
	link->dsm->queued -= link->queued;
	link->queued = 0;
}

/* It has no call under way. */
void dsm_link_free(struct dsm_link *link)
{
	struct gvm_worker *worker = link->dsm->node->worker;

	drop_queue(link);
	gvm_timer_clear(worker, &link->retry);
	gvm_timer_clear(worker, &link->fence);
	LIST_REMOVE(link, in_region);
	link->dsm->links[link->node] = NULL;
	free(link);
}

/* ---- frames -------------------------------------------------------------------------------- */

/* It is sent nothing more; its connection is ended when nothing of it is on the stack. */
static void overrun(struct dsm_link *link)
{
	gvm_log_limited(&link->dsm->node->limit, GVM_LOG_WARN,
			"region %s: node %u does not take what it is sent; connection ended",
			link->dsm->name, link->node);
	drop_queue(link);
	link->overrun = 1;
	set_timer(link, &link->retry, 0);
}

static void enqueue(struct dsm_link *link, const struct gvm_hdr *h, const void *payload)
{
	uint64_t cost = sizeof(struct dsm_frame) + h->length;
	struct dsm_frame *f = NULL;

	if (link->queued + cost <= link->dsm->node->queue_max)
		f = malloc(cost);
	if (!f) {
		overrun(link);
		return;
	}
	f->h = *h;
	if (h->length)
		memcpy(f->payload, payload, h->length);
	STAILQ_INSERT_TAIL(&link->queue, f, next);
	link->queued += cost;
	link->dsm->queued += cost;
}

static void count_sent(struct gvm_dsm *dsm, const struct gvm_hdr *h)
{
	dsm_count(&dsm->stats.bytes_sent, GVM_WIRE_HDR_LEN + h->length);
	dsm_count(&dsm->stats.pages_sent, gvm_coh_has_page(h));
}

static void send_now(struct dsm_link *link, const struct gvm_hdr *h, const void *payload)
{
	int err = -EAGAIN;

	if (link->state == LINK_UP && STAILQ_EMPTY(&link->queue))
		err = gvm_coherence_send(link->peer, h, payload);
	if (err != -EAGAIN)
		return; /* sent, or its end is about to be told */
	enqueue(link, h, payload);
	/* within the engine: it can be told of a failure later only */
	if (link->state == LINK_IDLE && ask(link))
		set_timer(link, &link->retry, AGAIN_NS);
}

/* ---- put off ------------------------------------------------------------------------------- */

/*
 * That a reader has its page is told for the next writer's sake, the reader waits for nothing. A
 * thread that reads one page after the other asks for the next one so soon that both can go as one
 * message, which spares the home, and a processor that it shares with this node, to be woken twice
 * for each page. It is done within a row of such requests only, as a writer may have to wait for
 * the end of the last one's time.
 *
 * The timer is left as it is when nothing is late any more: to set and clear it each time costs as
 * much as a message (7 us on a virtual machine).
 */
static void followed(struct dsm_link *link)
{
	if (!link->done_at)
		return;
	link->streak = now(link) - link->done_at < LATE_NS ? link->streak + 1 : 0;
	link->done_at = 0;
}

static void send_late(struct dsm_link *link)
{
	unsigned n = link->late_count;

	not_late(link);
	for (unsigned i = 0; i < n; i++)
		send_now(link, &link->late[i], NULL);
}

static int may_wait(const struct dsm_link *link, const struct gvm_hdr *h)
{
	return link->streak >= STREAK && link->late_count < DSM_LATE && link->state == LINK_UP &&
	       STAILQ_EMPTY(&link->queue) && ivy_page_access(link->dsm->ivy, h->page) == IVY_READ;
}

/* 0: it must go at once. */
static int put_off(struct dsm_link *link, const struct gvm_hdr *h)
{
	struct gvm_dsm *dsm = link->dsm;

	link->done_at = now(link);
	if (!may_wait(link, h))
		return 0;
	if (!dsm->put_off.place &&
	    gvm_timer_set(dsm->node->worker, &dsm->put_off, now(link) + LATE_NS))
		return 0;
	if (!link->late_count)
		LIST_INSERT_HEAD(&dsm->lates, link, in_late);
	link->late[link->late_count++] = *h;
	return 1;
}

/* What has just come waits for the next time. */
void dsm_link_on_late(struct gvm_timer *timer)
{
	struct gvm_dsm *dsm = dsm_container(timer, struct gvm_dsm, put_off);
	uint64_t next = GVM_NEVER;
	struct dsm_link *link, *after;

	for (link = LIST_FIRST(&dsm->lates); link; link = after) {
		uint64_t due = link->done_at + LATE_NS;

		after = LIST_NEXT(link, in_late);
		if (due <= now(link)) {
			link->streak = 0;
			send_late(link);
		} else if (due < next) {
			next = due;
		}
	}
	if (next != GVM_NEVER && gvm_timer_set(dsm->node->worker, timer, next))
		while (!LIST_EMPTY(&dsm->lates))
			send_late(LIST_FIRST(&dsm->lates));
}

void dsm_link_send(struct dsm_link *link, const struct gvm_hdr *h, const void *payload)
{
	if (link->overrun || link->state == LINK_DEAD)
		return;
	/* many pages are written back at once when a home is back: those beyond are as if lost, and
	 * go when it is time to ask again */
	if (h->type == GVM_COH_WB && link->queued > link->dsm->node->queue_max / 2)
		return;
	count_sent(link->dsm, h);
	if (h->type != GVM_COH_DONE)
		followed(link);
	else if (put_off(link, h))
		return;
	send_late(link);
	send_now(link, h, payload);
}

void dsm_link_drain(struct dsm_link *link)
{
	struct dsm_frame *f;

	while (link->state == LINK_UP && (f = STAILQ_FIRST(&link->queue))) {
		uint64_t cost = sizeof(*f) + f->h.length;

		if (gvm_coherence_send(link->peer, &f->h, f->payload) == -EAGAIN)
			return;
		STAILQ_REMOVE_HEAD(&link->queue, next);
		link->queued -= cost;
		link->dsm->queued -= cost;
		free(f);
	}
	dsm_region_evict_on(link->dsm);
	dsm_region_close_on(link->dsm);
}

/* ---- when to ask again --------------------------------------------------------------------- */

/*
 * A node that is gone for good must cost the others nothing, and if it was one of thousands they
 * should not ask for it at once. It is lost to the engine meanwhile, which goes by the home.
 */
static uint64_t back_off(const struct dsm_link *link, uint64_t first)
{
	unsigned doublings = link->tries > 1 ? link->tries - 1u : 0;
	uint64_t bound = doublings < 16 ? first << doublings : LAST_NS;

	if (bound > LAST_NS)
		bound = LAST_NS;
	return bound / 2 + dsm_random() % (bound / 2 + 1);
}

/* There is a reason to ask for it now, but not all the time: it may be out of reach from here. */
void dsm_link_needed(struct gvm_dsm *dsm, uint16_t node)
{
	struct dsm_link *link = node < dsm->node->nodes ? dsm->links[node] : NULL;
	uint64_t next;

	if (!link || link->is_home || link->state != LINK_DOWN || link->calling)
		return;
	next = link->asked_at + AGAIN_NS;
	link->tries = 0;
	/* within the engine, or on a peer's stack: not here */
	set_timer(link, &link->retry, next > now(link) ? next - now(link) : 0);
}

/* ---- up and down --------------------------------------------------------------------------- */

static void home_is_dead(struct dsm_link *link, const char *why);

/* Whoever opened the region is told of a home. */
static void tell_state(struct dsm_link *link, int why)
{
	struct gvm_dsm *dsm = link->dsm;

	if (!dsm->node_state || !link->is_home || link->told == why || dsm->state == DSM_LEAVING)
		return;
	link->told = why;
	dsm->node_state(dsm->arg, link->node, why);
}

/* It may be another incarnation of a home than it was: then it is told what is here. */
static void tell_up(struct dsm_link *link)
{
	struct gvm_dsm *dsm = link->dsm;
	uint64_t was = link->incarnation;
	int err;

	link->incarnation = gvm_peer_incarnation(link->peer);
	link->reborn |= link->is_home && was && was != link->incarnation;
	if (!link->reborn) {
		dsm_peer_back(dsm, link->node);
		return;
	}
	err = dsm_home_reborn(dsm, link->node);
	if (err == -EAGAIN) /* dsm_engine_new() sees to it */
		return;
	link->reborn = 0;
	if (err)
		home_is_dead(link,
			     "was started anew, and there is no memory to tell it of its pages");
	else
		gvm_log_limited(
		    &dsm->node->limit, GVM_LOG_WARN,
		    "region %s: its home, node %u, was started anew; it is told what this node has",
		    dsm->name, link->node);
}

static void go_up(struct dsm_link *link, struct gvm_peer *peer)
{
	struct gvm_dsm *dsm = link->dsm;

	link->state = LINK_UP;
	link->peer = peer;
	link->tries = 0;
	link->hang_up = 0;
	gvm_timer_clear(dsm->node->worker, &link->fence);
	gvm_timer_clear(dsm->node->worker, &link->retry);
	__atomic_fetch_add(&dsm->stats.nodes_here, 1, __ATOMIC_RELAXED);
	tell_up(link);
	if (link->state == LINK_UP)
		tell_state(link, 0);
	dsm_link_drain(link);
}

/* There is no session, and what was to go by one is lost. */
static void go_down(struct dsm_link *link, uint64_t again_ns)
{
	struct gvm_dsm *dsm = link->dsm;
	int was_up = link->state == LINK_UP;

	drop_queue(link);
	link->overrun = link->leaving = 0;
	link->peer = NULL;
	if (link->state == LINK_DEAD)
		return;
	link->state = LINK_DOWN;
	if (was_up) {
		dsm_count(&dsm->stats.sessions_lost, 1);
		__atomic_fetch_sub(&dsm->stats.nodes_here, 1, __ATOMIC_RELAXED);
		if (link->is_home) {
			gvm_log_limited(&dsm->node->limit, GVM_LOG_WARN,
					"region %s: the connection to its home, node %u, is lost",
					dsm->name, link->node);
			/* its silence has lasted for as much as half of what was promised */
			set_timer(link, &link->fence, dsm->node->fence_ns / 2);
			tell_state(link, -EHOSTUNREACH);
		}
	}
	set_timer(link, &link->retry, again_ns);
	dsm_peer_lost(dsm, link->node);
}

/* Final: this member is no member there any more, or cannot know. */
static void home_is_dead(struct dsm_link *link, const char *why)
{
	struct gvm_dsm *dsm = link->dsm;

	if (link->state == LINK_DEAD)
		return;
	if (link->state == LINK_UP)
		go_down(link, AGAIN_NS);
	link->state = LINK_DEAD;
	gvm_timer_clear(dsm->node->worker, &link->fence);
	gvm_timer_clear(dsm->node->worker, &link->retry);
	/* who gets SIGBUS finds it counted, and who is told of it finds its pages gone */
	dsm_count(&dsm->stats.homes_dead, 1);
	dsm_peer_dead(dsm, link->node);
	tell_state(link, -EIO);
	gvm_log(GVM_LOG_ERROR,
		"region %s: its home, node %u, %s; its pages fail here until the region is opened "
		"anew",
		dsm->name, link->node, why);
	dsm_engine_after(dsm);
}

static void on_fence(struct gvm_timer *timer)
{
	home_is_dead(dsm_container(timer, struct dsm_link, fence), "was not heard of for too long");
}

static void leave_again(struct dsm_link *link)
{
	dsm_link_leave(link);
	if (!link->leaving)
		dsm_region_left(link->dsm);
}

/* A home that this node had a session with: there is a time after which it is dead. */
static int must_be_back(const struct dsm_link *link)
{
	return link->is_home && !link->pending;
}

/*
 * The call would have the peer connect again and again until its time is over, with pauses that
 * grow: too long ones to notice in time that a home is back. What comes of it is told to
 * ask_answered(), and the next call begins with an attempt of its own.
 */
static void hang_up(struct dsm_link *link)
{
	link->hang_up = 0;
	if (link->calling && link->state == LINK_DOWN &&
	    gvm_peer_state(link->dial) != GVM_PEER_READY)
		gvm_peer_disconnect(link->dial, -EHOSTUNREACH);
	else
		set_timer(link, &link->retry, link->is_home ? AGAIN_NS : back_off(link, AGAIN_NS));
}

/* An attempt whose first packet is lost would be repeated too late by the network, too. */
static void hang_up_slow(struct dsm_link *link)
{
	if (gvm_peer_state(link->dial) == GVM_PEER_CONNECTING)
		gvm_peer_disconnect(link->dial, -EHOSTUNREACH);
}

static void on_retry(struct gvm_timer *timer)
{
	struct dsm_link *link = dsm_container(timer, struct dsm_link, retry);

	if (link->overrun && link->peer)
		gvm_peer_disconnect(link->peer, -ENOBUFS);
	else if (link->overrun) /* of one that is not connected yet */
		go_down(link, AGAIN_NS);
	else if (link->leaving)
		leave_again(link);
	else if (link->hang_up)
		hang_up(link);
	else if (link->calling && link->state == LINK_ASKING && must_be_back(link))
		hang_up_slow(link);
	else
		dsm_link_ask(link);
	dsm_engine_after(link->dsm);
}

/* ---- asking -------------------------------------------------------------------------------- */

/* Of several homes the first decides; the others make it for who has made it there, as the same. */
static void fill_create(const struct dsm_link *link, struct gvm_region_open *req)
{
	const struct gvm_dsm *dsm = link->dsm;

	if (dsm->flags & GVM_DSM_EPHEMERAL)
		req->flags |= GVM_RO_EPHEMERAL;
	if (dsm->making) {
		req->flags |= GVM_RO_CREATE;
		req->generation = dsm->generation;
	} else if (link->node == dsm->first && (dsm->flags & GVM_DSM_CREATE)) {
		req->flags |= GVM_RO_CREATE;
		req->flags |= dsm->flags & GVM_DSM_EXCL ? GVM_RO_EXCL : 0u;
	}
}

static void fill_open(const struct dsm_link *link, struct gvm_region_open *req)
{
	const struct gvm_dsm *dsm = link->dsm;

	memset(req, 0, sizeof(*req));
	memcpy(req->name, dsm->name, sizeof(req->name));
	req->pages = dsm->pages;
	req->slab_pages = dsm->slab_pages;
	req->page_size = GVM_PAGE_SIZE;
	req->generation = link->is_home ? link->generation : dsm->generation;
	req->share_slabs = link->share;
	req->linger_ms = (uint32_t)(dsm->node->fence_ns / DSM_MS);
	req->flags = GVM_RO_SHARED;
	if (link->is_home && link->pending)
		fill_create(link, req);
}

static int call(struct dsm_link *link, const struct gvm_msg *msg)
{
	int err;

	memset(&link->call, 0, sizeof(link->call));
	link->call.done = ask_answered;
	link->call.deadline_ns = now(link) + ASK_NS;
	err = gvm_call(link->dial, msg, &link->call);
	link->calling = !err;
	link->joining = msg->type == GVM_T_REGION_OPEN;
	return err;
}

static int call_open(struct dsm_link *link)
{
	struct gvm_dsm *dsm = link->dsm;
	struct gvm_region_open req;
	uint8_t body[GVM_REGION_OPEN_LEN];
	struct gvm_msg msg = { .type = GVM_T_REGION_OPEN,
			       .region = dsm->id,
			       .arg = dsm->view,
			       .body = body,
			       .length = GVM_REGION_OPEN_LEN };

	fill_open(link, &req);
	gvm_region_open_encode(body, &req);
	return call(link, &msg);
}

static int ask(struct dsm_link *link)
{
	struct gvm_dsm *dsm = link->dsm;
	int err = 0;

	link->state = LINK_ASKING;
	link->asked_at = now(link);
	if (link->tries < UINT8_MAX)
		link->tries++;
	if (!link->dial)
		err = gvm_peer_get(dsm->node->worker, link->node, &link->dial);
	if (!err && must_be_back(link)) {
		/* a pause that an attempt of before has left */
		if (gvm_peer_state(link->dial) == GVM_PEER_BACKOFF)
			gvm_peer_disconnect(link->dial, -EHOSTUNREACH);
		set_timer(link, &link->retry, dsm->node->fence_ns / 8);
	}
	return err ? err : call_open(link);
}

int dsm_link_made(struct dsm_link *link)
{
	return link->state == LINK_UP && !link->calling ? call_open(link) : -ENOTCONN;
}

void dsm_link_ask(struct dsm_link *link)
{
	if (link->state == LINK_UP || link->state == LINK_DEAD || link->calling)
		return;
	if (link->dsm->state != DSM_OPENING && link->dsm->state != DSM_OPEN &&
	    link->dsm->state != DSM_CLOSING)
		return;
	if (ask(link))
		go_down(link, AGAIN_NS);
}

void dsm_link_ask_in(struct dsm_link *link, uint64_t ns)
{
	set_timer(link, &link->retry, ns);
}

void dsm_link_joined(struct dsm_link *link)
{
	go_up(link, link->dial);
}

/* A home's answer to one who was a member already, or thinks so. */
static void home_answered(struct dsm_link *link, int status)
{
	if (status == 0)
		go_up(link, link->dial);
	else if (status == -ENOENT || status == -ESTALE || status == -EBUSY)
		home_is_dead(link, status == -ENOENT ? "was started anew, without the region"
						     : "has given this node up");
	else
		go_down(link, AGAIN_NS);
}

static void peer_view(struct dsm_link *link, uint64_t view)
{
	if (link->view && link->view != view)
		dsm_peer_dead(link->dsm, link->node);
	link->view = view;
}

/* Its view is in arg of the answer. A session that was there is the one that the other side gave
 * up. */
static void node_answered(struct dsm_link *link, int status, const struct gvm_msg *reply)
{
	if (status == 0 && reply && reply->arg) {
		if (link->state == LINK_UP)
			go_down(link, AGAIN_NS);
		peer_view(link, reply->arg);
		go_up(link, link->dial);
	} else if (link->state != LINK_UP) {
		go_down(link, back_off(link, status == -ENOENT ? LATER_NS : AGAIN_NS));
	}
}

/* A home that was given up has let this member in again, too late: it must not wait for it. */
static void leave_dead(struct dsm_link *link, int status)
{
	struct gvm_msg msg = { .type = GVM_T_REGION_CLOSE,
			       .region = link->dsm->id,
			       .arg = link->dsm->view };

	if (status == 0 && link->joining)
		(void)call(link, &msg);
}

static void ask_answered(struct gvm_op *op, int status)
{
	struct dsm_link *link = dsm_container(op, struct dsm_link, call);
	struct gvm_dsm *dsm = link->dsm;

	link->calling = link->hang_up = 0;
	if (dsm->state == DSM_LEAVING)
		dsm_region_left(dsm);
	else if (dsm->state == DSM_OPENING && link->pending)
		dsm_region_answered(dsm, link, status, op->reply);
	else if (link->state == LINK_DEAD)
		leave_dead(link, status);
	else if (link->is_home)
		home_answered(link, status);
	else
		node_answered(link, status, op->reply);
	if (dsm->state == DSM_OPEN)
		dsm_engine_after(dsm);
}

/* Behind all that it has been sent, by the connection that the other side knows. */
void dsm_link_leave(struct dsm_link *link)
{
	struct gvm_msg msg = { .type = GVM_T_REGION_CLOSE,
			       .region = link->dsm->id,
			       .arg = link->dsm->view };
	int err = -EAGAIN;

	link->leaving = 0;
	if (link->calling || link->state != LINK_UP)
		return;
	send_late(link);
	link->dial = link->peer;
	if (STAILQ_EMPTY(&link->queue))
		err = call(link, &msg);
	if (err != -EAGAIN)
		return;
	link->leaving = 1;
	set_timer(link, &link->retry, SOON_NS);
}

/* ---- being asked --------------------------------------------------------------------------- */

static int may_join(struct dsm_link *link, const struct gvm_msg *msg,
		    const struct gvm_region_open *req)
{
	const struct gvm_dsm *dsm = link->dsm;

	if (link->is_home || !(req->flags & GVM_RO_SHARED) || !msg->arg)
		return -EINVAL;
	if (dsm->state != DSM_OPEN)
		return -EUSERS; /* in a moment, or never */
	if (req->generation != dsm->generation || req->pages != dsm->pages)
		return -ENOENT;
	if (link->state == LINK_UP && link->view == msg->arg)
		return -EBUSY;
	if (link->calling && dsm->node->self < link->node) /* of two that ask, one remains */
		return -EBUSY;
	return 0;
}

void dsm_link_asked(struct gvm_dsm *dsm, struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct dsm_link *link = dsm_link_get(dsm, (uint16_t)gvm_peer_node(peer));
	struct gvm_msg reply = { .arg = dsm->view };
	struct gvm_region_open req;
	int err = link ? 0 : -ENOMEM;

	if (!err && gvm_region_open_decode(msg->body, msg->length, &req))
		err = -EPROTO;
	if (!err)
		err = may_join(link, msg, &req);
	if (!err && link->state == LINK_UP)
		go_down(link, LATER_NS);
	if (!err)
		peer_view(link, msg->arg);
	gvm_reply(peer, msg->xid, err, &reply);
	if (!err)
		go_up(link, peer);
	dsm_engine_after(dsm);
}

/* The other node leaves the region. */
void dsm_link_left(struct gvm_dsm *dsm, struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct dsm_link *link = dsm->links[gvm_peer_node(peer)];

	gvm_reply(peer, msg->xid, 0, NULL);
	if (!link || link->is_home || link->state != LINK_UP || link->view != msg->arg)
		return;
	go_down(link, LATER_NS);
	gvm_timer_clear(dsm->node->worker, &link->retry);
	dsm_peer_dead(dsm, link->node);
	link->view = 0;
	/* as at first: asked when it is needed again */
	link->state = LINK_IDLE;
	dsm_peer_back(dsm, link->node);
	dsm_engine_after(dsm);
}

/* ---- events of the connection -------------------------------------------------------------- */

void dsm_link_ready(struct dsm_link *link, struct gvm_peer *peer)
{
	if (link->state == LINK_DOWN && peer == link->dial)
		dsm_link_ask(link);
	else /* it lives, and has connected here for another region */
		dsm_link_needed(link->dsm, link->node);
}

void dsm_link_broke(struct dsm_link *link, const char *reason)
{
	struct gvm_peer *peer = link->peer;

	gvm_log_limited(&link->dsm->node->limit, GVM_LOG_WARN,
			"region %s: node %u: connection ended: %s", link->dsm->name, link->node,
			reason);
	go_down(link, 0);
	gvm_peer_disconnect(peer, -EPROTO);
}

/* Who cannot be connected at once is lost to the engine: it has other ways. */
void dsm_link_ended(struct dsm_link *link, struct gvm_peer *peer, int why)
{
	if (link->state == LINK_UP && link->peer == peer) {
		go_down(link, 0);
	} else if (link->state == LINK_ASKING && link->dial == peer && !link->pending) {
		go_down(link, 0);
		link->hang_up = 1;
	} else {
		return;
	}
	if (link->dsm->state == DSM_LEAVING)
		dsm_region_left(link->dsm);
	dsm_engine_after(link->dsm);
}
