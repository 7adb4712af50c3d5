/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "home_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <gvmnet/coherence.h>

_Thread_local struct home_worker *home_current;

/* Have its worker look at it. */
static void make_due(struct home_member *m)
{
	struct home_worker *hw = m->hw;
	int wake = 0;

	pthread_mutex_lock(&hw->lock);
	if (!m->due) {
		m->due = 1;
		TAILQ_INSERT_TAIL(&hw->due, m, in_due);
		wake = !hw->queued;
		hw->queued = 1;
	}
	pthread_mutex_unlock(&hw->lock);
	if (wake)
		gvm_worker_run(hw->worker, &hw->task);
}

static void drop_queue(struct home_member *m)
{
	struct home_frame *f;

	while ((f = STAILQ_FIRST(&m->queue))) {
		STAILQ_REMOVE_HEAD(&m->queue, next);
		free(f);
	}
	m->queued = m->late_count = 0;
}

void home_cut(struct home_member *m, int reason)
{
	drop_queue(m);
	m->cut = reason;
	make_due(m);
}

/* It is sent nothing more, until it is back on another connection. */
static void overrun(struct home_member *m)
{
	static struct gvm_log_limit limit;

	gvm_log_limited(&limit, GVM_LOG_WARN,
			"region %s: node %u does not take what it is sent; connection ended",
			m->region->name, m->node);
	atomic_fetch_add(&m->region->home->overrun, 1);
	home_cut(m, -ENOBUFS);
}

static void enqueue(struct home_member *m, const struct gvm_hdr *h, const void *payload)
{
	uint64_t cost = sizeof(struct home_frame) + h->length;
	struct home_frame *f = NULL;

	if (m->queued + cost <= m->region->home->config.queue)
		f = malloc(cost);
	if (!f) {
		overrun(m);
		return;
	}
	f->h = *h;
	if (h->length)
		memcpy(f->payload, payload, h->length);
	STAILQ_INSERT_TAIL(&m->queue, f, next);
	m->queued += cost;
}

static void send_now(struct home_member *m, const struct gvm_hdr *h, const void *payload)
{
	int mine = m->hw == home_current, err = -EAGAIN;

	if (mine && STAILQ_EMPTY(&m->queue))
		err = gvm_coherence_send(m->peer, h, payload);
	if (err != -EAGAIN)
		return; /* sent, or its end is about to be told */
	enqueue(m, h, payload);
	if (!mine)
		make_due(m);
}

void home_hurry(struct home_member *m)
{
	unsigned n = m->late_count;

	m->late_count = 0;
	for (unsigned i = 0; i < n && m->link && !m->cut; i++)
		send_now(m, &m->late[i], NULL);
}

/*
 * Who has given its page away, and is told by FREE that it has arrived, waits for nothing: it keeps
 * the page until then. It is worth no message of its own, and no waking up.
 */
void home_send(struct home_member *m, const struct gvm_hdr *h, const void *payload)
{
	if (!m->link || m->cut || atomic_load(&m->region->home->stop))
		return;
	if (h->type == GVM_COH_FREE && m->late_count < HOME_LATE) {
		m->late[m->late_count++] = *h;
		return;
	}
	home_hurry(m);
	if (!m->cut)
		send_now(m, h, payload);
}

void home_drain(struct home_member *m)
{
	struct home_frame *f;

	while (m->link && (f = STAILQ_FIRST(&m->queue))) {
		if (gvm_coherence_send(m->peer, &f->h, f->payload) == -EAGAIN)
			return;
		STAILQ_REMOVE_HEAD(&m->queue, next);
		m->queued -= sizeof(*f) + f->h.length;
		free(f);
	}
}

void home_forget(struct home_member *m)
{
	struct home_worker *hw = m->hw;

	drop_queue(m);
	m->cut = 0;
	if (!hw)
		return;
	pthread_mutex_lock(&hw->lock);
	if (m->due)
		TAILQ_REMOVE(&hw->due, m, in_due);
	m->due = 0;
	pthread_mutex_unlock(&hw->lock);
}

/* The next one that is due, by region, of which there is a reference, and node. */
static struct home_region *next_due(struct home_worker *hw, uint16_t *node)
{
	struct home_region *r = NULL;
	struct home_member *m;

	pthread_mutex_lock(&hw->lock);
	m = TAILQ_FIRST(&hw->due);
	if (m) {
		TAILQ_REMOVE(&hw->due, m, in_due);
		m->due = 0;
		*node = m->node;
		r = m->region;
		atomic_fetch_add(&r->refs, 1);
	} else {
		hw->queued = 0;
	}
	pthread_mutex_unlock(&hw->lock);
	return r;
}

void home_serve_due(struct gvm_task *task)
{
	struct home_worker *hw =
	    (struct home_worker *)((char *)task - offsetof(struct home_worker, task));
	struct home_region *r;
	uint16_t node;

	while ((r = next_due(hw, &node))) {
		struct gvm_peer *end = NULL;
		struct home_member *m;
		int why = 0;

		pthread_mutex_lock(&r->lock);
		m = r->gone ? NULL : r->members[node];
		if (m && m->hw == hw && m->link) {
			home_drain(m);
			why = m->cut;
			end = why ? m->peer : NULL;
		}
		pthread_mutex_unlock(&r->lock);
		if (end) /* of this thread, so it is still there */
			gvm_peer_disconnect(end, why);
		home_region_put(r);
	}
}
