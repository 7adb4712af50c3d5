/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "home_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <gvmnet/cluster.h>

#define MS          UINT64_C(1000000)
#define PAGES_MAX   (UINT64_C(1) << 32) /* of a shared region: 16 TiB */
#define PROMISE_MIN 100u                /* ms */
#define PROMISE_MAX (24u * 3600 * 1000)

/* ---- regions ------------------------------------------------------------------------------- */

/* The home's lock is held, or the home's reference is being given up. */
static void add_up(struct home_stats *sum, struct home_region *r)
{
	struct ivy_stats st;

	sum->frames_late += r->late;
	sum->frames_refused += r->refused;
	sum->no_room += r->no_room;
	if (!r->ivy)
		return;
	ivy_stats(r->ivy, &st);
	sum->frames_sent += st.sent;
	sum->frames_received += st.received;
	sum->frames_refused += st.refused;
	sum->frames_late += st.late + st.stale;
	sum->pages_lost += st.lost;
	sum->pages_reclaimed += st.reclaimed;
	sum->directory_bytes += st.directory_bytes;
}

static void region_free(struct home_region *r)
{
	if (r->ivy)
		ivy_free(r->ivy);
	pthread_mutex_destroy(&r->lock);
	free(r->members);
	free(r->homes);
	free(r->written);
	home_state_free(r->state);
	free(r);
}

void home_region_put(struct home_region *r)
{
	if (atomic_fetch_sub(&r->refs, 1) == 1)
		region_free(r);
}

static struct home_region *find_locked(struct home *home, uint64_t id)
{
	struct home_region *r;

	LIST_FOREACH(r, &home->regions, in_home)
	if (r->id == id)
		return r;
	return NULL;
}

/* With a reference. */
static struct home_region *region_get(struct home *home, uint64_t id)
{
	struct home_region *r;

	pthread_mutex_lock(&home->lock);
	r = find_locked(home, id);
	if (r)
		atomic_fetch_add(&r->refs, 1);
	pthread_mutex_unlock(&home->lock);
	return r;
}

struct home_region *home_region_make(struct home *home, const struct gvm_region_open *req,
				     uint64_t id, const struct gvm_region_opened *opened,
				     struct store_shared *store)
{
	uint64_t slabs = (opened->pages + opened->slab_pages - 1) / opened->slab_pages;
	struct home_region *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	atomic_store(&r->refs, 1);
	pthread_mutex_init(&r->lock, NULL);
	r->home = home;
	r->id = id;
	r->generation = opened->generation;
	memcpy(r->name, req->name, sizeof(r->name));
	r->ephemeral = !!(req->flags & GVM_RO_EPHEMERAL);
	r->store = store;
	r->slab_pages = opened->slab_pages;
	r->pages = opened->pages;
	r->homes = calloc(slabs, sizeof(*r->homes)); /* of a huge region most is never touched */
	r->members = calloc(home->nodes, sizeof(struct home_member *));
	if (!r->homes || !r->members)
		goto free;
	if (home_engine_new(r))
		goto free;
	return r;
free:
	region_free(r);
	return NULL;
}

/* Whether this is who is making it, and may not have heard the answer to the first request. */
static int is_made_by(struct home_region *r, uint64_t view)
{
	int is;

	pthread_mutex_lock(&r->lock);
	is = r->maker == view;
	pthread_mutex_unlock(&r->lock);
	return is;
}

/* The region as the store has it, and its engine. */
static int region_open(struct home *home, struct gvm_peer *peer, const struct gvm_msg *msg,
		       const struct gvm_region_open *req, struct gvm_region_opened *out,
		       struct home_region **region)
{
	struct gvm_region_open wanted = *req;
	uint64_t id = msg->region;
	struct store_shared *sh;
	struct home_region *r;
	int err;

	pthread_mutex_lock(&home->lock);
	r = find_locked(home, id);
	if (r && is_made_by(r, msg->arg))
		wanted.flags &= ~GVM_RO_EXCL;
	err = store_shared_open(home->config.store, gvm_peer_incarnation(peer), gvm_peer_name(peer),
				id, &wanted, out, &sh);
	if (err)
		goto out;
	if (!r) {
		r = home_region_make(home, req, id, out, sh);
		if (!r) {
			store_shared_close(sh);
			err = -ENOMEM;
			goto out;
		}
		r->state = home_state_new(r, req);
		r->maker = msg->arg;
		LIST_INSERT_HEAD(&home->regions, r, in_home);
		gvm_log(GVM_LOG_INFO, "region %s: shared, made for %s", r->name,
			gvm_peer_name(peer));
	}
	atomic_fetch_add(&r->refs, 1);
	*region = r;
out:
	pthread_mutex_unlock(&home->lock);
	return err;
}

/* Take it out, unless it has members (again). The engine goes with the last reference. */
static int region_delete(struct home *home, struct home_region *r)
{
	struct store_shared *store;
	int err = 0;

	pthread_mutex_lock(&home->lock);
	pthread_mutex_lock(&r->lock);
	store = r->store;
	if (r->gone)
		err = -ENOENT;
	else if (r->count)
		err = -EBUSY;
	r->gone |= !err;
	if (!err)
		r->store = NULL; /* the engine may be freed later */
	pthread_mutex_unlock(&r->lock);
	if (!err) {
		LIST_REMOVE(r, in_home);
		add_up(&home->ended, r);
		home->ended.directory_bytes = 0;
		store_shared_close(store);
		if (!atomic_load(&home->stop)) { /* else it is to be found again */
			home_state_delete(r->state);
			r->state = NULL;
		}
	}
	pthread_mutex_unlock(&home->lock);
	if (!err)
		home_region_put(r);
	return err;
}

/* ---- members: with the region's lock ------------------------------------------------------- */

static void tell_count(struct home_region *r)
{
	store_shared_members(r->store, r->count);
}

/* Its connection is no more. */
static void member_unlink(struct home_member *m)
{
	home_forget(m);
	m->link = NULL;
	m->peer = NULL;
	m->hw = NULL;
	m->lost_at = gvm_now();
	ivy_peer_lost(m->region->ivy, m->node);
}

static void member_free(struct home_member *m)
{
	struct home_region *r = m->region;

	home_forget(m);
	r->members[m->node] = NULL;
	if (!atomic_load(&r->home->stop))
		home_state_leave(r->state, m->node);
	r->count--;
	tell_count(r);
	ivy_peer_dead(r->ivy, m->node);
	free(m);
}

struct home_member *home_member_make(struct home_region *r, uint16_t node, uint64_t view)
{
	struct home_member *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->region = r;
	m->node = node;
	m->view = view;
	STAILQ_INIT(&m->queue);
	r->members[node] = m;
	r->count++;
	tell_count(r);
	return m;
}

/* Who this view is: a new member, or one that comes back. */
static int member_of(struct home_region *r, uint16_t node, uint64_t view, int back,
		     struct home_member **member)
{
	struct home_member *m = r->members[node];

	if (r->gone)
		return -EAGAIN;
	if (m && m->view != view)
		return back ? -ESTALE : -EBUSY;
	if (m && m->expelled)
		return -ESTALE;
	if (!m && back)
		return -ESTALE;
	if (!m)
		m = home_member_make(r, node, view);
	if (!m)
		return -ENOMEM;
	*member = m;
	return 0;
}

/* Who makes it says so, by asking for it again with CREATE and its generation. */
static void made(struct home_region *r, const struct gvm_region_open *req,
		 struct gvm_region_opened *out)
{
	int creates = !!(req->flags & GVM_RO_CREATE);

	if (creates && req->generation && !(out->flags & GVM_RO_CREATE))
		r->maker = 0;
	else if (creates && r->maker) /* the answer to its first request may not have arrived */
		out->flags |= GVM_RO_CREATE;
}

static int join(struct home_worker *hw, struct home_region *r, struct home_link *link,
		const struct gvm_msg *msg, const struct gvm_region_open *req,
		struct gvm_region_opened *out)
{
	int back = req->generation && !(req->flags & GVM_RO_CREATE), err;
	struct home_member *m;

	pthread_mutex_lock(&r->lock);
	err = r->maker && r->maker != msg->arg ? -EBUSY : 0;
	if (r->gone || !err)
		err = member_of(r, link->node, msg->arg, back, &m);
	if (!err) {
		made(r, req, out);
		if (m->link)
			member_unlink(m);
		m->patience_ns = 2 * MS * req->linger_ms;
		home_state_join(r->state, m->node, m->view, req->linger_ms);
		m->link = link;
		m->peer = link->peer;
		m->hw = hw;
	}
	pthread_mutex_unlock(&r->lock);
	return err;
}

/* ---- links --------------------------------------------------------------------------------- */

/* The newest is the first: one before it may be of a region that has been deleted since. */
static struct home_link *link_of(struct home_links *links, uint64_t region)
{
	struct home_link *link;

	LIST_FOREACH(link, links, in_conn)
	if (link->region->id == region)
		return link;
	return NULL;
}

static struct home_link *link_make(struct home_links *links, struct home_region *r,
				   struct gvm_peer *peer)
{
	struct home_link *link = calloc(1, sizeof(*link));

	if (!link)
		return NULL;
	link->region = r;
	link->node = (uint16_t)gvm_peer_node(peer);
	link->peer = peer;
	LIST_INSERT_HEAD(links, link, in_conn);
	return link;
}

static void link_free(struct home_link *link)
{
	LIST_REMOVE(link, in_conn);
	home_region_put(link->region);
	free(link);
}

/* ---- requests ------------------------------------------------------------------------------ */

static int refuse(struct gvm_peer *peer, const struct gvm_region_open *req, int err,
		  const char *why)
{
	static struct gvm_log_limit limit;

	gvm_log_limited(&limit, GVM_LOG_WARN, "region %s: %s may not share it: %s", req->name,
			gvm_peer_name(peer), why);
	return err;
}

static int check(const struct home *home, struct gvm_peer *peer, const struct gvm_msg *msg,
		 const struct gvm_region_open *req)
{
	unsigned node = gvm_peer_node(peer);

	if (!home->nodes)
		return refuse(peer, req, -EOPNOTSUPP,
			      "this memory node has no id in a cluster file (--cluster, --node)");
	if (node >= home->nodes || !gvm_cluster_node(home->cluster, node))
		return refuse(peer, req, -EINVAL, "it has no id in the cluster file");
	if (node == home->config.node)
		return refuse(peer, req, -EINVAL, "it has this memory node's id");
	if (!msg->arg || req->pages >= PAGES_MAX || req->linger_ms < PROMISE_MIN ||
	    req->linger_ms > PROMISE_MAX || (req->flags & GVM_RO_READONLY))
		return refuse(peer, req, -EINVAL, "its request makes no sense");
	return 0;
}

/* Open it on this connection; -EAGAIN: it has been deleted meanwhile. */
static int open_once(struct home_worker *hw, struct home_links *links, struct gvm_peer *peer,
		     const struct gvm_msg *msg, const struct gvm_region_open *req,
		     struct gvm_region_opened *out)
{
	struct home_region *r;
	struct home_link *link = link_of(links, msg->region);
	int had, err = region_open(hw->home, peer, msg, req, out, &r);

	if (err)
		return err;
	had = link && link->region == r;
	if (had)
		home_region_put(r);
	else
		link = link_make(links, r, peer);
	if (!link) {
		home_region_put(r);
		return -ENOMEM;
	}
	err = join(hw, r, link, msg, req, out);
	if (err && !had) /* else it is the link of who has opened the region here before */
		link_free(link);
	return err;
}

int home_region_open(struct home_worker *hw, struct home_links *links, struct gvm_peer *peer,
		     const struct gvm_msg *msg, const struct gvm_region_open *req,
		     struct gvm_region_opened *out)
{
	int err = check(hw->home, peer, msg, req), tries = 8;

	home_current = hw;
	while (!err && (err = open_once(hw, links, peer, msg, req, out)) == -EAGAIN && tries--)
		err = 0;
	return err;
}

void home_joined(struct home_worker *hw, struct home_links *links, uint64_t region)
{
	struct home_link *link = link_of(links, region);
	struct home_region *r = link ? link->region : NULL;

	if (!r)
		return;
	home_current = hw;
	pthread_mutex_lock(&r->lock);
	if (r->members[link->node] && r->members[link->node]->link == link) {
		ivy_tick(r->ivy, gvm_now());
		ivy_peer_back(r->ivy, link->node);
	}
	pthread_mutex_unlock(&r->lock);
}

/* What it still owned is lost: it had its time. Returns 1 if the region is to go with its last
 * member. */
static int leave(struct home_link *link)
{
	struct home_region *r = link->region;
	struct home_member *m;
	int goes;

	pthread_mutex_lock(&r->lock);
	m = r->members[link->node];
	if (m && m->link == link)
		member_free(m);
	goes = r->ephemeral || r->maker;
	pthread_mutex_unlock(&r->lock);
	return goes;
}

int home_region_close(struct home_worker *hw, struct home_links *links, uint64_t region)
{
	struct home_link *link = link_of(links, region);
	struct home_region *r;

	if (!link)
		return -ENOENT;
	home_current = hw;
	r = link->region;
	if (leave(link))
		region_delete(hw->home, r);
	link_free(link);
	return 0;
}

int home_region_delete(struct home *home, uint64_t region)
{
	struct home_region *r = region_get(home, region);
	int err;

	if (!r)
		return -ENOENT;
	err = region_delete(home, r);
	home_region_put(r);
	return err;
}

/* ---- frames -------------------------------------------------------------------------------- */

int home_frame(struct home_worker *hw, struct home_links *links, const struct gvm_hdr *h,
	       const void *payload, const char **reason)
{
	struct home_link *link = link_of(links, h->region);
	struct home_region *r;
	struct home_member *m;
	int err = 0;

	if (!link) {
		atomic_fetch_add(&hw->home->refused, 1);
		*reason = "a frame of coherence for a region that it has not opened";
		return -EPROTO;
	}
	home_current = hw;
	r = link->region;
	pthread_mutex_lock(&r->lock);
	m = r->members[link->node];
	if (m && m->link == link && !m->expelled) {
		home_again_frame(r, m, h);
		err = home_engine_take(r, m, h, payload, reason);
		if (h->type == GVM_COH_REPORT)
			home_again_step(r);
	} else {
		r->late++; /* it has left, or has come back on another connection */
	}
	pthread_mutex_unlock(&r->lock);
	return err;
}

void home_writable(struct home_worker *hw, struct home_links *links)
{
	struct home_link *link;

	home_current = hw;
	LIST_FOREACH(link, links, in_conn)
	{
		struct home_region *r = link->region;
		struct home_member *m;

		pthread_mutex_lock(&r->lock);
		m = r->members[link->node];
		if (m && m->link == link)
			home_drain(m);
		pthread_mutex_unlock(&r->lock);
	}
}

void home_lost(struct home_worker *hw, struct home_links *links)
{
	struct home_link *link;

	home_current = hw;
	while ((link = LIST_FIRST(links))) {
		struct home_region *r = link->region;
		struct home_member *m;

		pthread_mutex_lock(&r->lock);
		m = r->members[link->node];
		if (m && m->link == link)
			member_unlink(m);
		pthread_mutex_unlock(&r->lock);
		link_free(link);
	}
}

/* ---- time ---------------------------------------------------------------------------------- */

static void bury(struct home_member *m)
{
	gvm_log(GVM_LOG_WARN,
		"region %s: node %u was not heard of for %" PRIu64
		" ms; the pages that it had changed are lost",
		m->region->name, m->node, m->patience_ns / MS);
	atomic_fetch_add(&m->region->home->buried, 1);
	member_free(m);
}

/* Returns 1 if it is to be deleted. */
static int region_tick(struct home_region *r)
{
	uint64_t now;
	int unused;

	pthread_mutex_lock(&r->lock);
	if (r->gone) { /* since it was found */
		pthread_mutex_unlock(&r->lock);
		return 0;
	}
	now = gvm_now(); /* not before what another thread has noted under the lock */
	ivy_tick(r->ivy, now);
	for (unsigned i = 0; i < r->home->nodes && r->count; i++) {
		struct home_member *m = r->members[i];

		if (m && m->link)
			home_hurry(m);
		else if (m && now - m->lost_at >= m->patience_ns)
			bury(m);
	}
	home_again_press(r, now);
	home_again_step(r);
	unused = (r->ephemeral || r->maker) && !r->count;
	pthread_mutex_unlock(&r->lock);
	return unused;
}

/* The region behind it, with a reference, in place of r's; NULL, NULL: there is none. */
static struct home_region *next_region(struct home *home, struct home_region *r)
{
	struct home_region *next;

	pthread_mutex_lock(&home->lock);
	if (!r)
		next = LIST_FIRST(&home->regions);
	else
		next = r->gone ? NULL : LIST_NEXT(r, in_home);
	if (next)
		atomic_fetch_add(&next->refs, 1);
	pthread_mutex_unlock(&home->lock);
	if (r)
		home_region_put(r);
	return next;
}

void home_tick(struct home *home)
{
	struct home_region *r = NULL;

	home_current = NULL;
	while ((r = next_region(home, r)))
		if (region_tick(r))
			region_delete(home, r);
}

/* ---- figures ------------------------------------------------------------------------------- */

void home_stats(struct home *home, struct home_stats *stats)
{
	struct home_region *r;

	pthread_mutex_lock(&home->lock);
	*stats = home->ended;
	LIST_FOREACH(r, &home->regions, in_home)
	{
		pthread_mutex_lock(&r->lock);
		add_up(stats, r);
		stats->shared_regions++;
		stats->shared_members += r->count;
		pthread_mutex_unlock(&r->lock);
	}
	pthread_mutex_unlock(&home->lock);
	stats->buried = atomic_load(&home->buried);
	stats->overrun = atomic_load(&home->overrun);
	stats->frames_refused += atomic_load(&home->refused);
}

#define COUNTER(field, unit, gauge, help)                                                          \
	{                                                                                          \
#field, unit, help, offsetof(struct home_stats, field), gauge                      \
	}

const struct gvm_counter *home_counters(size_t *count)
{
	static const struct gvm_counter counters[] = {
		COUNTER(shared_regions, "regions", 1,
			"Shared regions that this node is a home of."),
		COUNTER(shared_members, "nodes", 1, "Nodes that have a shared region open."),
		COUNTER(directory_bytes, "bytes", 1,
			"Memory of the directories of shared regions."),
		COUNTER(frames_sent, "messages", 0, "Coherence messages sent."),
		COUNTER(frames_received, "messages", 0, "Coherence messages taken."),
		COUNTER(frames_refused, "messages", 0,
			"Coherence messages that broke the rules; each ended its connection."),
		COUNTER(frames_late, "messages", 0,
			"Coherence messages that came too late to matter."),
		COUNTER(buried, "nodes", 0,
			"Members of shared regions that were not heard of for too long."),
		COUNTER(overrun, "nodes", 0,
			"Members of shared regions that did not take what they were sent."),
		COUNTER(pages_lost, "pages", 0,
			"Pages of shared regions that nobody has any more."),
		COUNTER(pages_reclaimed, "pages", 0,
			"Pages of shared regions taken back to make room in the directory."),
		COUNTER(
		    no_room, "requests", 0,
		    "Requests for pages of shared regions that were refused for want of memory."),
	};

	*count = sizeof(counters) / sizeof(counters[0]);
	return counters;
}

/* ---- begin and end ------------------------------------------------------------------------- */

int home_new(const struct home_config *config, struct home **out)
{
	struct home *home = calloc(1, sizeof(*home));
	int err;

	if (!home)
		return -ENOMEM;
	home->config = *config;
	home->cluster = gvm_net_cluster(config->net);
	pthread_mutex_init(&home->lock, NULL);
	LIST_INIT(&home->regions);
	if (home->cluster && gvm_cluster_node(home->cluster, config->node))
		home->nodes =
		    gvm_cluster_at(home->cluster, gvm_cluster_size(home->cluster) - 1)->id + 1;
	err = config->state && home->nodes ? home_again(home) : 0;
	if (err) {
		home_stop(home); /* what is in the folder stays */
		home_free(home);
		return err;
	}
	*out = home;
	return 0;
}

void home_stop(struct home *home)
{
	atomic_store(&home->stop, 1);
}

void home_free(struct home *home)
{
	struct home_region *r;

	while ((r = LIST_FIRST(&home->regions))) {
		for (unsigned i = 0; i < home->nodes; i++)
			if (r->members[i])
				member_free(r->members[i]);
		region_delete(home, r);
	}
	pthread_mutex_destroy(&home->lock);
	free(home);
}

int home_worker_new(struct home *home, struct gvm_worker *worker, struct home_worker **out)
{
	struct home_worker *hw = calloc(1, sizeof(*hw));

	if (!hw)
		return -ENOMEM;
	hw->home = home;
	hw->worker = worker;
	hw->task.fn = home_serve_due;
	pthread_mutex_init(&hw->lock, NULL);
	TAILQ_INIT(&hw->due);
	*out = hw;
	return 0;
}

void home_worker_free(struct home_worker *hw)
{
	if (!hw)
		return;
	pthread_mutex_destroy(&hw->lock);
	free(hw);
}
