/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * This side's memory in the reach of the other side's hardware: this side is the server.
 *
 * A share is one registration with the device, for one connection and key. It ends when the memory
 * is withdrawn and the other side has answered UNMAP, or has not within GVM_RMA_GRACE_MS; and with
 * the connection, which is ended first where the device hides refusals. Only then is the memory
 * released.
 *
 *     MAP -> LIVE -- withdrawn: UNMAP --> GOING -- UNMAPPED --> none
 *                                           +-- grace over --> LATE -- UNMAPPED --> none
 *
 * Where reads that are under way go on after the connection has ended (linger_ms), and the other
 * side has not shown that it has ended it too, the share and its memory stay for as long:
 *
 *     LIVE, GOING -- the connection ends --> GOING, without a connection -- linger_ms --> none
 */
#include "providers/rma_core.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define WORKER_MAX (8 * GVM_RMA_SHARES)

#define ACCESS                          (GVM_ACCESS_FETCH | GVM_ACCESS_PUT)
#define NS_PER_S                        1000000000ull
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* ---- those that wait for the other side ---------------------------------------------------- */

static void set_timer(struct gvm_rma_core *core)
{
	const struct rma_share *first = core->going;
	struct itimerspec when = { 0 };

	if (first) {
		when.it_value.tv_sec = (time_t)(first->until / NS_PER_S);
		when.it_value.tv_nsec = (long)(first->until % NS_PER_S);
	}
	timerfd_settime(core->grace.fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static uint64_t grace_ns(const struct gvm_rma_core *core)
{
	unsigned ms = core->rma->grace_ms;

	return (ms ? ms : GVM_RMA_GRACE_MS) * 1000000ull;
}

/* In the order of their ends. Of two kinds, each of which comes in order: few are passed. */
static void going_add(struct gvm_rma_core *core, struct rma_share *share, uint64_t ns)
{
	struct rma_share *after = core->going_last;

	share->state = SHARE_GOING;
	share->until = gvm_rma_now(core) + ns;
	while (after && after->until > share->until)
		after = after->prev;
	share->prev = after;
	share->next = after ? after->next : core->going;
	if (share->next)
		share->next->prev = share;
	else
		core->going_last = share;
	if (after) {
		after->next = share;
		return;
	}
	core->going = share;
	set_timer(core);
}

/* The timer is left to run out: it finds nothing to do, or those that came later. */
static void going_remove(struct gvm_rma_core *core, struct rma_share *share)
{
	if (share->prev)
		share->prev->next = share->next;
	else
		core->going = share->next;
	if (share->next)
		share->next->prev = share->prev;
	else
		core->going_last = share->prev;
}

/* ---- the end of a share -------------------------------------------------------------------- */

static void note_remove(struct gvm_rma_core *core, struct rma_share *share)
{
	struct rma_share **at;

	pthread_mutex_lock(&core->noted_lock);
	if (share->noted) {
		for (at = &core->noted; *at != share; at = &(*at)->noted_next)
			;
		*at = share->noted_next;
		share->noted = 0;
	}
	pthread_mutex_unlock(&core->noted_lock);
}

/* The hardware reaches it no more, and the memory is given back. */
static void share_end(struct rma_share *share)
{
	struct gvm_rma_core *core = share->core;

	core->rma->fabric->dereg(core->rma, &share->reg);
	if (share->state == SHARE_GOING)
		going_remove(core, share);
	share->state = SHARE_LATE;
	core->n_shares--;
	/* no withdrawn() comes after this, and what it has noted is not of interest */
	core->up.mem_release(&share->user);
	note_remove(core, share);
}

/* Its connection has ended. */
static void lingerer_free(struct rma_share *share)
{
	share_end(share);
	free(share);
}

static void share_over(struct gvm_rma_core *core, struct rma_share *share)
{
	if (!share->conn)
		lingerer_free(share);
	else if (core->rma->hides_refusals)
		gvm_rma_fail(share->conn, -ETIMEDOUT,
			     "it did not let go of memory that was withdrawn");
	else
		share_end(share);
}

static void grace_over(struct gvm_watch *watch, uint32_t events)
{
	struct gvm_rma_core *core = container_of(watch, struct gvm_rma_core, grace);
	uint64_t times, now = gvm_rma_now(core);

	if (read(watch->fd, &times, sizeof(times)) != sizeof(times))
		return;
	while (core->going && core->going->until <= now)
		share_over(core, core->going);
	set_timer(core);
}

static int grace_open(struct gvm_rma_core *core)
{
	int err;

	if (core->grace.fd >= 0)
		return 0;
	core->grace.ready = grace_over;
	core->grace.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (core->grace.fd < 0)
		return -errno;
	err = core->up.watch(core->rma->host, &core->grace, EPOLLIN);
	if (err) {
		close(core->grace.fd);
		core->grace.fd = -1;
	}
	return err;
}

void gvm_rma_shares_open(struct gvm_rma_core *core)
{
	core->grace.fd = -1;
	pthread_mutex_init(&core->noted_lock, NULL);
}

void gvm_rma_shares_close(struct gvm_rma_core *core)
{
	if (core->grace.fd >= 0) {
		core->up.unwatch(core->rma->host, &core->grace);
		close(core->grace.fd);
	}
	pthread_mutex_destroy(&core->noted_lock);
}

void gvm_rma_lingerers_free(struct gvm_rma_core *core)
{
	while (core->going)
		lingerer_free(core->going);
}

/* The connection has ended, and the other side may go on reading. */
static void linger(struct rma_share *share)
{
	struct gvm_rma_core *core = share->core;

	if (share->state == SHARE_GOING)
		going_remove(core, share);
	note_remove(core, share);
	share->conn = NULL;
	going_add(core, share, core->rma->linger_ms * 1000000ull);
}

void gvm_rma_shares_free(struct gvm_rma_conn *conn)
{
	int lingers = conn->core->rma->linger_ms && !conn->ep->has_let_go;
	struct rma_share *share;

	while ((share = (struct rma_share *)rma_table_pop(&conn->shares)))
		if (share->state == SHARE_LATE) {
			free(share);
		} else if (lingers) {
			linger(share);
		} else {
			share_end(share);
			free(share);
		}
}

/* ---- memory is withdrawn ------------------------------------------------------------------- */

/* On any thread, with core's lock held. */
static void withdrawn(struct gvm_mem_user *user)
{
	struct rma_share *share = container_of(user, struct rma_share, user);
	struct gvm_rma_core *core = share->core;

	pthread_mutex_lock(&core->noted_lock);
	share->noted = 1;
	share->noted_next = core->noted;
	core->noted = share;
	pthread_mutex_unlock(&core->noted_lock);
	atomic_store(&core->any_noted, 1);
	core->up.wake(core->rma->host);
}

static struct rma_share *note_take(struct gvm_rma_core *core)
{
	struct rma_share *share;

	pthread_mutex_lock(&core->noted_lock);
	share = core->noted;
	if (share) {
		core->noted = share->noted_next;
		share->noted = 0;
	}
	pthread_mutex_unlock(&core->noted_lock);
	return share;
}

int gvm_rma_shares_withdraw(struct gvm_rma_core *core)
{
	struct rma_share *share;
	int n = 0;

	while ((share = note_take(core))) {
		struct gvm_hdr hdr = { .type = GVM_T_UNMAP, .region = share->node.key };
		struct gvm_rma_conn *conn = share->conn;
		struct gvm_txent ent = { 0 };

		n++;
		if (!conn)
			continue; /* it ends as it is */
		going_add(core, share, grace_ns(core));
		if (gvm_stream_push(&conn->s, &hdr, NULL, 0, &ent))
			gvm_rma_fail(conn, -ENOMEM, "out of memory");
		else
			gvm_rma_flush_later(conn);
	}
	return n;
}

/* ---- what the other side says -------------------------------------------------------------- */

/* 0: share is complete but for its place in the table. -EOPNOTSUPP: it is not for hardware. */
static int share_open(struct gvm_rma_conn *conn, struct rma_share *share)
{
	struct gvm_rma_core *core = conn->core;
	struct gvm_rma *rma = core->rma;
	int err;

	share->core = core;
	share->conn = conn;
	share->user.withdrawn = withdrawn;
	err = core->up.mem_hold(rma->host, share->node.key, conn->ep->ep.owner, &share->user);
	if (err)
		return err;
	if (conn->shares.count >= GVM_RMA_SHARES || core->n_shares >= WORKER_MAX ||
	    grace_open(core))
		goto release;
	share->access = share->user.access & (rma->no_writes ? GVM_ACCESS_FETCH : ACCESS);
	if (!share->access)
		goto release;
	err = rma->fabric->reg(rma, conn->ep, share->user.base, share->user.len, share->access,
			       &share->reg);
	if (err)
		goto release;
	core->n_shares++;
	return 0;

release:
	core->up.mem_release(&share->user);
	note_remove(core, share);
	return -EOPNOTSUPP;
}

/* status: 0, and share with what the hardware needs, or why not. */
static void answer_map(struct gvm_rma_conn *conn, const struct gvm_hdr *req, int status,
		       const struct rma_share *share)
{
	struct gvm_hdr hdr = { .type = GVM_T_MAPPED, .xid = req->xid, .region = req->region };
	struct gvm_txent ent = { .answer = 1 };
	uint8_t body[GVM_MAPPED_LEN];

	hdr.status = (uint16_t)gvm_wire_status(status);
	if (!status) {
		struct gvm_mapped at = { .rkey = share->reg.key,
					 .base = share->reg.base,
					 .len = share->user.len,
					 .access = share->access };

		hdr.length = (uint32_t)gvm_mapped_encode(body, &at);
	}
	if (gvm_stream_push(&conn->s, &hdr, body, hdr.length, &ent))
		gvm_rma_fail(conn, -ENOMEM, "out of memory");
	else
		gvm_rma_flush_later(conn);
}

void gvm_rma_map(struct gvm_rma_conn *conn, const struct gvm_hdr *hdr)
{
	struct rma_share *share;
	int err;

	if (rma_table_find(&conn->shares, hdr->region)) {
		gvm_stream_malformed(&conn->s, "memory was mapped twice");
		return;
	}
	conn->s.serving = 1;
	share = calloc(1, sizeof(*share));
	if (!share) {
		answer_map(conn, hdr, -EOPNOTSUPP, NULL);
		return;
	}
	share->node.key = hdr->region;
	err = share_open(conn, share);
	if (!err && rma_table_add(&conn->shares, &share->node)) {
		share_end(share);
		err = -EOPNOTSUPP;
	}
	answer_map(conn, hdr, err, share);
	if (err)
		free(share);
}

void gvm_rma_unmapped(struct gvm_rma_conn *conn, const struct gvm_hdr *hdr)
{
	struct rma_share *share = (struct rma_share *)rma_table_find(&conn->shares, hdr->region);

	if (!share || share->state == SHARE_LIVE) {
		gvm_stream_malformed(&conn->s, "memory was unmapped that was not to be");
		return;
	}
	rma_table_remove(&conn->shares, &share->node);
	if (share->state == SHARE_GOING)
		share_end(share);
	free(share);
}
