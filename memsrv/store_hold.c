/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Holds: which sessions have a region open, and how long its client keeps it without any.
 *
 * A client has a session for each of its views (its workers). One that comes back on a new
 * connection takes over from its earlier session, which may not have ended here yet: requests and
 * puts of it that were received and not served are refused from then on.
 */
#include "store_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* One that rests is there for its holds alone. */
void hold_remove(struct hold *h)
{
	struct session *s = h->session;

	key_withdraw_hold(h);
	h->region->sessions--;
	LIST_REMOVE(h, in_session);
	LIST_REMOVE(h, in_region);
	free(h);
	if (!s->rests || !LIST_EMPTY(&s->holds))
		return;
	LIST_REMOVE(s, in_store);
	s->store->stats.resting--;
	free(s);
}

struct hold *hold_of(const struct session *s, const struct region *r)
{
	struct hold *h;

	LIST_FOREACH(h, &r->holds, in_region)
	if (h->session == s)
		return h;
	return NULL;
}

int hold_check(struct session *s, uint64_t id, int write, struct region **region)
{
	struct region *r = region_find(s->store, id);
	struct hold *h = r ? hold_of(s, r) : NULL;

	if (r && r->shared)
		return store_refuse(s->store, -EPERM);
	/* Also where the region is there: it may be another than the one that was open before. */
	if (!h)
		return store_refuse(s->store, -ENOENT);
	if (write && h->readonly)
		return store_refuse(s->store, -EPERM);
	*region = r;
	return 0;
}

/* The hold that the same view of s's client has by an earlier connection. Without a view nothing
 * says that a connection has been given up; but one that rests is none. */
static struct hold *earlier(const struct session *s, const struct region *r)
{
	struct hold *h;

	LIST_FOREACH(h, &r->holds, in_region)
	if (h->session != s && h->session->view == s->view && (s->view || h->session->rests))
		return h;
	return NULL;
}

int hold_rests(const struct region *r)
{
	struct hold *h;

	LIST_FOREACH(h, &r->holds, in_region)
	if (h->session->rests)
		return 1;
	return 0;
}

/* Nobody had noticed, but for the image. */
static void succeed_resting(struct store *store, struct region *r, struct hold *h)
{
	hold_remove(h);
	region_save(store, r, IMAGE_LIVE);
	if (!r->sessions)
		hold_linger(store, r);
}

int hold_succeed(struct session *s, struct region *r)
{
	static struct gvm_log_limit limit;
	struct store *store = s->store;
	struct hold *h = earlier(s, r);

	if (!h)
		return 0;
	if (h->session->rests) {
		succeed_resting(store, r, h);
		return 1;
	}
	gvm_log_limited(&limit, GVM_LOG_INFO,
			"region %s: %s comes back; its earlier connection is ended", r->name,
			s->name);
	h->session->ended = 1;
	hold_remove(h);
	if (!r->sessions)
		hold_linger(store, r);
	if (store->changed)
		store->changed(store->changed_arg, 1);
	return 1;
}

/* A client asks again, and again. */
static int too_many_holds(struct session *s, const struct region *r)
{
	static struct gvm_log_limit limit;

	gvm_log_limited(&limit, GVM_LOG_WARN,
			"region %s: %s has it open on %u connections; that is the most with slabs "
			"of %" PRIu64 " KiB: use fewer threads, or larger slabs",
			r->name, s->name, r->sessions, region_slab_bytes(r) >> 10);
	return store_refuse(s->store, -EUSERS);
}

int hold_add(struct session *s, struct region *r, const struct gvm_region_open *req)
{
	struct hold *h = hold_of(s, r);
	uint64_t holder = r->holder;
	uint32_t linger_ms = r->linger_ms;

	if (!h && r->sessions >= key_holds_max(r))
		return too_many_holds(s, r);
	r->holder = s->incarnation;
	r->linger_ms = hold_linger_ms(r->flags, req->linger_ms);
	if ((r->holder != holder || r->linger_ms != linger_ms) &&
	    region_save(s->store, r, IMAGE_LIVE)) {
		r->holder = holder;
		r->linger_ms = linger_ms;
		return -EIO;
	}
	if (!h) {
		h = calloc(1, sizeof(*h));
		if (!h) {
			r->holder = holder;
			r->linger_ms = linger_ms;
			return -ENOMEM;
		}
		h->session = s;
		h->region = r;
		LIST_INSERT_HEAD(&s->holds, h, in_session);
		LIST_INSERT_HEAD(&r->holds, h, in_region);
		r->sessions++;
	}
	h->readonly = !!(req->flags & GVM_RO_READONLY);
	memcpy(r->client, s->name, sizeof(r->client));
	r->client_id = s->incarnation;
	r->linger_until = 0;
	r->silent = 0;
	r->clone_of = 0;
	return 0;
}

/* ---- the end of a hold --------------------------------------------------------------------- */

int hold_leaving(const struct region *r)
{
	return r->linger_ms == 0 && r->sessions > 0;
}

int hold_release(struct store *store, struct region *r)
{
	key_withdraw_all(r);
	store_changed(store);
	r->holder = 0;
	r->linger_until = 0;
	if (r->flags & GVM_RO_EPHEMERAL) {
		if (!region_destroy(store, r))
			return 1;
		r->linger_until = store_now(store) + STORE_RETRY_NS;
	}
	region_save(store, r, IMAGE_LIVE);
	return 0;
}

uint32_t hold_linger_ms(uint32_t flags, uint32_t wanted)
{
	uint32_t most = flags & GVM_RO_EPHEMERAL ? STORE_LINGER_EPHEMERAL_MS : STORE_LINGER_MAX_MS;

	return wanted < most ? wanted : most;
}

static uint64_t linger_time(const struct region *r)
{
	uint64_t ms = r->linger_ms;

	if (r->silent && r->flags & GVM_RO_EPHEMERAL && ms < STORE_SILENT_MS)
		ms = STORE_SILENT_MS;
	return ms;
}

void hold_linger(struct store *store, struct region *r)
{
	r->linger_until = store_now(store) + linger_time(r) * STORE_MS;
}

/* Memory of a client that may live still is about to be given up, or nobody is to hold it. */
static void tell_expired(const struct region *r)
{
	static struct gvm_log_limit deleted, released;
	uint64_t waited = linger_time(r) / 1000;
	const char *client = r->client[0] ? r->client : "since before the node's start";
	const char *why = r->silent ? "was not heard of" : "lost its connections";

	if (r->flags & GVM_RO_EPHEMERAL)
		gvm_log_limited(&deleted, GVM_LOG_WARN,
				"region %s: deleted, with %" PRIu64 " KiB stored of %" PRIu64
				": its client (%s) %s and did not come back in %" PRIu64 " s",
				r->name, r->used * region_slab_bytes(r) >> 10,
				r->pages * GVM_PAGE_SIZE >> 10, client, why, waited);
	else
		gvm_log_limited(&released, GVM_LOG_INFO,
				"region %s: its client (%s) did not come back in %" PRIu64
				" s; free for others",
				r->name, client, waited);
}

int hold_expire(struct store *store, struct region *r)
{
	if (!r->linger_until || r->sessions || store_now(store) < r->linger_until)
		return 0;
	if (r->linger_ms) {
		tell_expired(r);
		store->stats.expired++;
	}
	return hold_release(store, r);
}

void hold_expire_all(struct store *store, const struct region *but)
{
	struct region *r, *next;

	for (r = TAILQ_FIRST(&store->regions); r; r = next) {
		next = TAILQ_NEXT(r, order);
		if (r != but)
			hold_expire(store, r);
	}
}

/* ---- sessions ------------------------------------------------------------------------------ */

int store_session_open(struct store *store, uint64_t incarnation, const char *name,
		       struct session **session)
{
	struct session *s = calloc(1, sizeof(*s));
	int err = 0;

	if (!s)
		return -ENOMEM;
	s->store = store;
	s->incarnation = incarnation;
	LIST_INIT(&s->holds);
	snprintf(s->name, sizeof(s->name), "%s", name);
	pthread_mutex_lock(&store->lock);
	if (store->stats.sessions >= store->config.max_sessions)
		err = store_refuse(store, -EUSERS);
	else
		store->stats.sessions++;
	pthread_mutex_unlock(&store->lock);
	if (err)
		free(s);
	else
		*session = s;
	return err;
}

void store_session_view(struct session *s, uint64_t view)
{
	pthread_mutex_lock(&s->store->lock);
	if (!s->view)
		s->view = view;
	pthread_mutex_unlock(&s->store->lock);
}

void store_session_patience(struct session *s, int patient)
{
	pthread_mutex_lock(&s->store->lock);
	s->patient = patient;
	s->full = GVM_FULL_UNKNOWN;
	pthread_mutex_unlock(&s->store->lock);
}

enum gvm_full store_session_full(struct session *s)
{
	enum gvm_full full;

	pthread_mutex_lock(&s->store->lock);
	full = s->full;
	pthread_mutex_unlock(&s->store->lock);
	return full;
}

int store_session_ended(struct session *s)
{
	int ended;

	pthread_mutex_lock(&s->store->lock);
	ended = s->ended;
	pthread_mutex_unlock(&s->store->lock);
	return ended;
}

static void session_end(struct session *s, int silent)
{
	struct store *store = s->store;

	pthread_mutex_lock(&store->lock);
	while (!LIST_EMPTY(&s->holds)) {
		struct hold *h = LIST_FIRST(&s->holds);
		struct region *r = h->region;

		hold_remove(h);
		r->silent |= silent;
		if (!r->sessions) {
			hold_linger(store, r);
			hold_expire(store, r);
		}
	}
	store->stats.sessions--;
	pthread_mutex_unlock(&store->lock);
	free(s);
}

void store_session_close(struct session *s)
{
	session_end(s, 0);
}

void store_session_silent(struct session *s)
{
	session_end(s, 1);
}

/* ---- sessions that rest -------------------------------------------------------------------- */

/* Its keys are for the connection that is gone. The image is told, so that a node that is started
 * again meanwhile keeps the region for as long. */
void store_session_rest(struct session *s)
{
	struct store *store = s->store;
	struct hold *h;
	int empty;

	pthread_mutex_lock(&store->lock);
	empty = s->ended || LIST_EMPTY(&s->holds);
	if (!empty) {
		s->rests = 1;
		s->rests_since = store_now(store);
		LIST_INSERT_HEAD(&store->resting, s, in_store);
		store->stats.resting++;
		store->stats.sessions--;
		LIST_FOREACH(h, &s->holds, in_session)
		{
			key_withdraw_hold(h);
			region_save(store, h->region, IMAGE_LIVE);
		}
		store_changed(store);
	}
	pthread_mutex_unlock(&store->lock);
	if (empty)
		store_session_close(s);
}

static int rested_long(const struct hold *h, uint64_t now)
{
	uint64_t ms = h->region->linger_ms ? STORE_SILENT_MS : STORE_LEAVING_MS;

	return now - h->session->rests_since >= ms * STORE_MS;
}

/* What is left is as if the connection were lost now. */
static void expire_holds(struct store *store, struct session *s, uint64_t now)
{
	struct hold *h, *next;

	for (h = LIST_FIRST(&s->holds); h; h = next) {
		struct region *r = h->region;

		next = LIST_NEXT(h, in_session);
		if (!rested_long(h, now))
			continue;
		hold_remove(h);
		if (!r->sessions) {
			hold_linger(store, r);
			hold_expire(store, r);
		}
	}
}

void hold_expire_resting(struct store *store)
{
	uint64_t now = store_now(store);
	struct session *s, *next;

	for (s = LIST_FIRST(&store->resting); s; s = next) {
		next = LIST_NEXT(s, in_store);
		expire_holds(store, s, now);
	}
}

uint32_t store_sessions(struct store *store)
{
	struct region *r;
	struct hold *h;
	uint32_t n = 0;

	pthread_mutex_lock(&store->lock);
	TAILQ_FOREACH(r, &store->regions, order)
	if (r->shared)
		n += r->members;
	else
		LIST_FOREACH(h, &r->holds, in_region)
	n += !h->session->rests;
	pthread_mutex_unlock(&store->lock);
	return n;
}
