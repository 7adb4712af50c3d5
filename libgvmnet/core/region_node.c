/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One memory node as one region sees it: opened, its slabs listed, lost from sight, opened again
 * by generation, or found to have lost the data. All control messages of that go through
 * node->call, so there is at most one under way. Used by the thread of the region's worker only.
 */
#include "core/region_internal.h"
#include <errno.h>
#include <string.h>

#define LIST_MAX (GVM_MSG_MAX / GVM_SLAB_ENTRY_LEN)

static bool opening(const struct gvm_region *region)
{
	return region->state == REGION_PROBING || region->state == REGION_OPENING;
}

bool region_status_final(int status)
{
	switch (status) {
	case -ECANCELED:
	case -EIO:
	case -ENOSPC:
	case -ENOMEM:
	case -ERANGE:
	case -EINVAL:
	case -EOPNOTSUPP:
	case -EMSGSIZE:
	case -EFAULT:
		return true;
	}
	return false;
}

bool region_status_transient(int status)
{
	switch (status) {
	case -EAGAIN:
	case -ECONNABORTED:
	case -ECONNREFUSED:
	case -ECONNRESET:
	case -EHOSTDOWN:
	case -EHOSTUNREACH:
	case -ENETDOWN:
	case -ENETUNREACH:
	case -ENOTCONN:
	case -EPIPE:
	case -ESHUTDOWN:
	case -ETIMEDOUT:
	case -EUSERS:
		return true;
	}
	return false;
}

/* ---- the one control message ---------------------------------------------------------------- */

int region_node_call(struct region_node *node, const struct gvm_msg *msg, uint64_t deadline,
		     void (*done)(struct gvm_op *op, int status))
{
	int rc;

	node->call.done = done;
	node->call.deadline_ns = deadline;
	rc = gvm_call(node->peer, msg, &node->call);
	if (rc)
		return rc;
	node->calling = true;
	region_get(node->region);
	return 0;
}

void region_node_note_full(struct region_node *node, int status, const struct gvm_msg *reply)
{
	node->full = status == -ENOSPC && reply ? gvm_full_decode(reply->body, reply->length)
						: GVM_FULL_UNKNOWN;
}

const char *region_node_full_advice(const struct region_node *node)
{
	switch (node->full) {
	case GVM_FULL_MEMORY:
		return "what it offers is used up: offer more memory there (gvm-memsrv "
		       "--memory), or delete regions (gvm region)";
	case GVM_FULL_QUOTA:
		return "one region may not have more there: see gvm-memsrv --region-quota";
	case GVM_FULL_DISK:
		return "disk full: free space on the disk of its image";
	default:
		return "offer more memory there, or free space on the disk of its image";
	}
}

struct region_node *region_node_called(struct gvm_op *op)
{
	struct region_node *node = container(op, struct region_node, call);

	node->calling = false;
	return node;
}

void region_node_retry_in(struct region_node *node, uint64_t ns)
{
	struct gvm_worker *worker = node->region->worker;

	if (gvm_timer_set(worker, &node->retry, gvm_worker_now(worker) + ns))
		gvm_log(GVM_LOG_ERROR, "region %s: out of memory for a timer", node->region->name);
}

static void retry_later(struct region_node *node)
{
	struct gvm_region *region = node->region;
	uint64_t now = gvm_worker_now(region->worker), ns = region_jitter(region, node->tries);

	if (opening(region) && region->open_deadline > now && region->open_deadline - now < ns)
		ns = region->open_deadline - now;
	region_node_retry_in(node, ns);
	if (node->tries < 32)
		node->tries++;
}

/* ---- slabs ---------------------------------------------------------------------------------- */

int region_node_take_entry(struct region_node *node, const struct gvm_slab_entry *entry,
			   uint64_t asked_at)
{
	struct gvm_region *region = node->region;
	uint64_t index = entry->slab & ~GVM_SLAB_READONLY;
	struct region_slab *slab;

	if (index >= region->layout.count || entry->key == 0)
		return -EPROTO;
	if (region_home(region, index) != node)
		return -EXDEV;
	slab = &region->layout.slabs[index];
	if (slab->flags & SLAB_LOST) /* what was lost once is not believed to be back */
		return 0;
	slab->key = entry->key;
	slab->flags &= (uint8_t) ~(SLAB_READONLY | SLAB_DOUBT);
	slab->flags |= SLAB_STORED;
	slab->stored_at = asked_at;
	if (entry->slab & GVM_SLAB_READONLY)
		slab->flags |= SLAB_READONLY;
	return 0;
}

int region_node_slab_missing(struct region_node *node, uint64_t index)
{
	struct region_slab *slab = &node->region->layout.slabs[index];

	slab->key = 0;
	if ((slab->flags & SLAB_LOST) || !(slab->flags & SLAB_STORED))
		return 0;
	if ((slab->flags & SLAB_DOUBT) ||
	    region_views_discarded(node->region, index, slab->stored_at)) {
		slab->flags &= (uint8_t) ~(SLAB_STORED | SLAB_DOUBT | SLAB_READONLY);
		return 0;
	}
	slab->flags |= SLAB_LOST;
	node->lacks = true;
	gvm_log(GVM_LOG_ERROR, "region %s: %s has lost slab %llu; its pages fail from now on",
		node->region->name, gvm_peer_name(node->peer), (unsigned long long)index);
	return 1;
}

static void forget_keys(struct region_node *node)
{
	struct gvm_region *region = node->region;

	for (uint64_t s = 0; s < region->layout.count; s++) {
		if (region_home(region, s) == node)
			region->layout.slabs[s].key = 0;
	}
}

/* ---- back, or lost -------------------------------------------------------------------------- */

static void tell(struct region_node *node, int why)
{
	struct gvm_region *region = node->region;

	if (region->node_state)
		region->node_state(region->arg, node->id, why);
}

static void tell_away(struct region_node *node)
{
	if (node->told_away || node->region->state != REGION_OPEN)
		return;
	node->told_away = true;
	gvm_log(GVM_LOG_WARN, "region %s: %s cannot be reached (%s); what needs it waits",
		node->region->name, gvm_peer_name(node->peer), strerror(-node->why));
	tell(node, node->why);
}

static void node_lost(struct region_node *node)
{
	node->state = NODE_LOST;
	node->away_since = 0;
	gvm_log(GVM_LOG_ERROR,
		"region %s: %s is back without the region's data; its slabs fail from now on",
		node->region->name, gvm_peer_name(node->peer));
	tell(node, -EIO);
	region_node_wake(node);
	region_wide_node_changed(node);
}

void region_node_gone(struct region_node *node)
{
	node->state = NODE_GONE;
	node->away_since = 0;
	gvm_timer_clear(node->region->worker, &node->retry);
	forget_keys(node);
	region_node_wake(node);
}

void region_node_ready(struct region_node *node)
{
	struct gvm_region *region = node->region;

	node->state = NODE_READY;
	node->tries = 0;
	node->why = 0;
	node->away_since = 0;
	node->told_busy = false;
	if (opening(region)) {
		region_open_progress(node, 0);
		return;
	}
	if (node->told_away) {
		node->told_away = false;
		gvm_log(GVM_LOG_WARN, "region %s: %s is back", region->name,
			gvm_peer_name(node->peer));
		tell(node, 0);
	}
	region_wide_node_changed(node);
	region_node_drain(node);
}

/* ---- listing -------------------------------------------------------------------------------- */

static void send_list(struct region_node *node);

/* The list has ended: what is stored by our knowledge and was not in it is lost. */
static void list_complete(struct region_node *node)
{
	struct gvm_region *region = node->region;
	unsigned lost = 0;

	for (uint64_t s = 0; s < region->layout.count; s++) {
		if (region_home(region, s) == node && !region->layout.slabs[s].key)
			lost += (unsigned)region_node_slab_missing(node, s);
	}
	if (lost)
		tell(node, -EIO);
	region_node_ready(node);
}

/* Entries of one answer; *more is set if there are further ones. */
static int take_list(struct region_node *node, const struct gvm_msg *reply, bool *more)
{
	const uint8_t *body = reply->body;
	struct gvm_slab_entry entry;
	int rc;

	*more = reply->flags & GVM_F_MORE;
	if (reply->length % GVM_SLAB_ENTRY_LEN || (*more && reply->length == 0))
		return -EPROTO;
	for (uint32_t at = 0; at < reply->length; at += GVM_SLAB_ENTRY_LEN) {
		if (gvm_slab_entry_decode(body + at, GVM_SLAB_ENTRY_LEN, &entry))
			return -EPROTO;
		if ((entry.slab & ~GVM_SLAB_READONLY) < node->list_from)
			return -EPROTO;
		rc = region_node_take_entry(node, &entry, node->listed_at);
		if (rc)
			return rc;
		node->list_from = (entry.slab & ~GVM_SLAB_READONLY) + 1;
	}
	return 0;
}

static void list_failed(struct region_node *node, int status)
{
	struct gvm_region *region = node->region;

	/* -ENOENT: a view of the region that was closed while its node was away has closed this one
	 * too, on the connection that they share; so open it again */
	if (opening(region) && !region_status_transient(status) && status != -ENOENT) {
		region_open_progress(node, status);
		return;
	}
	region_node_away(node, status);
}

static void list_done(struct gvm_op *op, int status)
{
	struct region_node *node = region_node_called(op);
	struct gvm_region *region = node->region;
	bool more = false;

	if (region->state == REGION_FAILING) {
		region_fail_progress(region);
	} else if (region->state <= REGION_OPEN && node->state == NODE_LISTING) {
		if (status == 0)
			status = take_list(node, op->reply, &more);
		if (status)
			list_failed(node, status);
		else if (more)
			send_list(node);
		else
			list_complete(node);
	}
	region_put(region);
}

static void send_list(struct region_node *node)
{
	struct gvm_region *region = node->region;
	struct gvm_msg msg = { .type = GVM_T_SLAB_LIST,
			       .region = region->id,
			       .page = node->list_from,
			       .arg = LIST_MAX };
	int rc;

	node->listed_at = region_views_time(region);
	rc = region_node_call(node, &msg, gvm_worker_now(region->worker) + region->op_timeout_ns,
			      list_done);
	if (rc == -EAGAIN)
		region_node_retry_in(node, REGION_ROOM_NS);
	else if (rc)
		region_node_away(node, rc);
}

void region_node_relist(struct region_node *node)
{
	if (node->state != NODE_READY)
		return;
	forget_keys(node);
	node->state = NODE_LISTING;
	node->list_from = 0;
	send_list(node);
}

/* ---- opening -------------------------------------------------------------------------------- */

struct gvm_msg region_node_open_msg(const struct region_node *node, uint64_t pages, uint64_t share,
				    uint32_t flags, uint8_t *body)
{
	const struct gvm_region *region = node->region;
	struct gvm_region_open open = { .pages = pages,
					.generation = node->known ? node->generation : 0,
					.share_slabs = share,
					.slab_pages = 1u << region->slab_shift,
					.page_size = GVM_PAGE_SIZE,
					.flags = flags,
					.linger_ms = region->linger_ms };

	memcpy(open.name, region->name, sizeof open.name);
	return (struct gvm_msg){ .type = GVM_T_REGION_OPEN,
				 .region = region->id,
				 .arg = gvm_worker_number(region->worker),
				 .body = body,
				 .length = (uint32_t)gvm_region_open_encode(body, &open) };
}

int region_node_take_opened(struct region_node *node, const struct gvm_msg *reply)
{
	struct gvm_region *region = node->region;
	struct gvm_region_opened opened;

	if (gvm_region_opened_decode(reply->body, reply->length, &opened) ||
	    opened.page_size != GVM_PAGE_SIZE)
		return -EPROTO;
	if (node->known && opened.generation != node->generation)
		return -ENOENT;
	if (!node->known)
		node->created = opened.flags & GVM_RO_CREATE;
	node->generation = opened.generation;
	node->slabs_used = opened.slabs_used;
	node->pages = opened.pages;
	node->known = true;
	if (opened.slab_pages == 1u << region->slab_shift)
		return 0;
	if (region->state != REGION_PROBING || region->slab_bytes_given) {
		gvm_log(GVM_LOG_ERROR, "region %s: on %s its slabs are of %u KiB, not of %u",
			region->name, gvm_peer_name(node->peer),
			opened.slab_pages * (GVM_PAGE_SIZE >> 10),
			(1u << region->slab_shift) * (GVM_PAGE_SIZE >> 10));
		return -EINVAL;
	}
	region->slab_shift = (unsigned)__builtin_ctz(opened.slab_pages);
	return 0;
}

/* An open was not answered with 0. */
static void open_failed(struct region_node *node, int status, bool answered)
{
	struct gvm_region *region = node->region;

	if (opening(region)) {
		if (node->known && answered && status == -ENOENT)
			status = -EIO; /* it was there a moment ago */
		/* its word that it takes no more regions does not change in a moment */
		if (region_status_transient(status) && !(answered && status == -EUSERS) &&
		    gvm_worker_now(region->worker) < region->open_deadline) {
			node->why = status;
			node->sent_before = true;
			retry_later(node);
		} else {
			/* what kept us from it says more than that the time is up */
			region_open_progress(node, status == -ETIMEDOUT && node->why ? node->why
										     : status);
		}
		return;
	}
	if (answered && status == -ENOENT) {
		node_lost(node);
		return;
	}
	if (!node->away_since) /* it rested until now */
		node->away_since = gvm_worker_now(region->worker);
	if (status == -EBUSY && !node->told_busy) {
		node->told_busy = true;
		gvm_log(GVM_LOG_ERROR,
			"region %s: on %s another client holds it now; waiting for it",
			region->name, gvm_peer_name(node->peer));
	}
	node->why = status;
	retry_later(node);
}

/* A node that is away answers: whoever counts for how long it has not begins again. */
static void sign_of_life(struct region_node *node)
{
	if (node->away_since)
		node->away_since = gvm_worker_now(node->region->worker);
}

/* A node has let itself be opened. */
static void node_opened(struct region_node *node, bool first)
{
	struct gvm_region *region = node->region;
	int rc;

	node->sent_before = false;
	sign_of_life(node);
	if (first && opening(region)) {
		rc = region_open_check(node);
		if (rc) {
			region_fail_open(region, rc);
			return;
		}
	}
	node->state = NODE_LISTING;
	node->list_from = 0;
	send_list(node);
}

static void open_done(struct gvm_op *op, int status)
{
	struct region_node *node = region_node_called(op);
	struct gvm_region *region = node->region;
	bool answered = op->reply != NULL, first = !node->known;

	region_node_note_full(node, status, op->reply);
	if (status == 0 && answered)
		status = region_node_take_opened(node, op->reply);
	if (region->state == REGION_FAILING)
		region_fail_progress(region);
	else if (region->state == REGION_CLOSED && status == 0)
		region_node_bye(node);
	else if (region->state <= REGION_OPEN && status == 0)
		node_opened(node, first);
	else if (region->state <= REGION_OPEN)
		open_failed(node, status, answered);
	region_put(region);
}

void region_node_open(struct region_node *node)
{
	struct gvm_region *region = node->region;
	uint64_t deadline = gvm_worker_now(region->worker) + region->op_timeout_ns;
	uint32_t flags = region->flags & (GVM_RO_EPHEMERAL | GVM_RO_READONLY);
	uint8_t body[GVM_REGION_OPEN_LEN];
	struct gvm_msg msg;
	int rc;

	if (node->calling)
		return;
	if (opening(region) && region->open_deadline < deadline)
		deadline = region->open_deadline;
	if (node->known) {
		msg = region_node_open_msg(node, 0, 0, flags, body);
	} else {
		if (region->state == REGION_PROBING)
			flags = region->flags & ~(node->sent_before ? GVM_RO_EXCL : 0u);
		else if (region->home_created)
			flags |= GVM_RO_CREATE;
		msg = region_node_open_msg(node, region->pages, node->share, flags, body);
	}
	rc = region_node_call(node, &msg, deadline, open_done);
	if (rc == -EAGAIN) {
		region_node_retry_in(node, REGION_ROOM_NS);
	} else if (rc) {
		node->failed = rc;
		region_node_retry_in(node, 0);
	}
}

/* ---- away ----------------------------------------------------------------------------------- */

void region_node_away(struct region_node *node, int why)
{
	if (node->state == NODE_AWAY && !node->away_since) {
		node->away_since = gvm_worker_now(node->region->worker);
		node->why = why;
	}
	if (node->state != NODE_READY && node->state != NODE_LISTING)
		return;
	node->state = NODE_AWAY;
	node->why = why;
	if (!node->away_since)
		node->away_since = gvm_worker_now(node->region->worker);
	node->tries = 0;
	forget_keys(node);
	retry_later(node);
}

static void retry_open(struct region_node *node)
{
	struct gvm_region *region = node->region;
	int failed = node->failed;

	node->failed = 0;
	if (failed) {
		open_failed(node, failed, false);
		return;
	}
	if (opening(region) && gvm_worker_now(region->worker) >= region->open_deadline) {
		region_open_progress(node, node->why ? node->why : -ETIMEDOUT);
		return;
	}
	if (node->why)
		tell_away(node);
	if (region->state <= REGION_OPEN)
		region_node_open(node);
}

static void node_retry(struct gvm_timer *timer)
{
	struct region_node *node = container(timer, struct region_node, retry);
	struct gvm_region *region = node->region;

	region_get(region);
	switch (node->state) {
	case NODE_NEW:
		if (opening(region))
			retry_open(node);
		else
			region_wide_node_changed(node);
		break;
	case NODE_AWAY:
		retry_open(node);
		break;
	case NODE_RESTING:
		region_node_need(node);
		break;
	case NODE_LISTING:
		if (!node->calling)
			send_list(node);
		break;
	case NODE_READY:
		region_wide_node_changed(node);
		region_node_drain(node);
		break;
	}
	region_put(region);
}

/* It is heard of again at a random time: those that rest since one moment come back at many. */
static void node_rests(struct region_node *node)
{
	struct gvm_region *region = node->region;

	if (node->state == NODE_LISTING) {
		node->state = NODE_RESTING;
		region_node_need(node);
	}
	if (node->state != NODE_READY)
		return;
	node->state = NODE_RESTING;
	forget_keys(node);
	region_node_retry_in(node, REGION_REST_NS + region_random(region, REGION_REST_NS / 2));
	if (node->fetches.first || node->puts.first || node->parked.first)
		region_node_need(node);
	else
		region_wide_node_changed(node);
}

void region_node_need(struct region_node *node)
{
	struct gvm_region *region = node->region;

	if (node->state != NODE_RESTING || (!opening(region) && region->state != REGION_OPEN))
		return;
	node->state = NODE_AWAY;
	node->tries = 0;
	node->why = 0;
	gvm_timer_clear(region->worker, &node->retry);
	region_node_open(node);
}

/* What the connection does, whoever made it move: another region may use the same peer. */
static void peer_state(struct gvm_peer_observer *observer, struct gvm_peer *peer,
		       enum gvm_peer_state state, int why)
{
	struct region_node *node = container(observer, struct region_node, observer);

	if (state != GVM_PEER_READY && !why) {
		region_get(node->region);
		node_rests(node);
		region_put(node->region);
		return;
	}
	if (state != GVM_PEER_READY) {
		region_node_away(node, why);
		return;
	}
	sign_of_life(node);
	if (node->state == NODE_AWAY && !node->calling)
		region_node_retry_in(node, 0);
}

static void writable(struct gvm_peer_observer *observer, struct gvm_peer *peer)
{
	struct region_node *node = container(observer, struct region_node, observer);

	region_get(node->region);
	region_wide_node_changed(node);
	region_node_drain(node);
	region_put(node->region);
}

/* ---- begin and end -------------------------------------------------------------------------- */

void region_node_init(struct region_node *node)
{
	node->retry.fn = node_retry;
	node->expiry.fn = region_node_expiry;
	node->expiry_at = GVM_NEVER;
	node->observer.peer_state = peer_state;
	node->observer.writable = writable;
	gvm_peer_observe(node->peer, &node->observer);
}

void region_node_fini(struct region_node *node)
{
	gvm_peer_unobserve(&node->observer);
	gvm_timer_clear(node->region->worker, &node->retry);
	gvm_timer_clear(node->region->worker, &node->expiry);
}

static void bye_done(struct gvm_op *op, int status)
{
	struct region_node *node = container(op, struct region_node, bye);
	struct gvm_region *region = node->region;

	(void)status; /* a node that does not hear of it finds the connection gone */
	region_bye_over(region);
	region_put(region);
}

static void bye_again(struct gvm_timer *timer)
{
	struct region_node *node = container(timer, struct region_node, retry);
	struct gvm_region *region = node->region;

	if (node->bye_due)
		region_node_bye(node);
	region_put(region);
}

/*
 * There is no room for it now. An operation of ours that ends makes some; if there is none others
 * have it all, and then time must tell.
 */
static bool bye_later(struct region_node *node)
{
	struct gvm_region *region = node->region;

	if (node->posted)
		return true;
	if (!region->released || gvm_worker_now(region->worker) >= region->bye_deadline)
		return false;
	node->retry.fn = bye_again;
	if (gvm_timer_set(region->worker, &node->retry,
			  gvm_worker_now(region->worker) + REGION_ROOM_NS))
		return false;
	region_get(region);
	return true;
}

/* Whoever has to be connected first has forgotten this region, or holds it for its linger time; but
 * where it rests it is held for long, and one that had no room may rest by now. */
static bool hears_of_us(const struct region_node *node)
{
	return node->known &&
	       (gvm_peer_state(node->peer) == GVM_PEER_READY || node->bye_due ||
		node->state == NODE_RESTING || (node->state == NODE_AWAY && !node->away_since));
}

static int send_bye(struct region_node *node)
{
	struct gvm_region *region = node->region;
	struct gvm_msg msg = { .type = node->created ? GVM_T_REGION_DELETE : GVM_T_REGION_CLOSE,
			       .region = region->id,
			       .arg = gvm_worker_number(region->worker) };

	if (!hears_of_us(node))
		return -ENOTCONN;
	node->bye.done = bye_done;
	node->bye.deadline_ns = region->bye_deadline;
	return gvm_call(node->peer, &msg, &node->bye);
}

void region_node_bye(struct region_node *node)
{
	struct gvm_region *region = node->region;
	int rc;

	if (!node->bye_due)
		region->byes++;
	rc = send_bye(node);
	node->bye_due = rc == -EAGAIN && bye_later(node);
	if (node->bye_due)
		return;
	if (rc == 0)
		region_get(region);
	else
		region_bye_over(region);
}

static void leave_done(struct gvm_op *op, int status)
{
	struct region_node *node = container(op, struct region_node, leave);
	struct gvm_region *region = node->region;

	(void)status; /* a node that does not hear of it waits for the region's linger time */
	if (--region->leaving == 0)
		region_left(region, 0);
	region_put(region);
}

void region_node_leave(struct region_node *node, uint64_t deadline)
{
	struct gvm_region *region = node->region;
	uint8_t body[GVM_REGION_OPEN_LEN];
	struct gvm_msg msg =
	    region_node_open_msg(node, 0, 0, region->flags & GVM_RO_READONLY, body);

	if (!hears_of_us(node))
		return;
	node->leave.done = leave_done;
	node->leave.deadline_ns = deadline;
	if (gvm_call(node->peer, &msg, &node->leave))
		return;
	region->leaving++;
	region_get(region);
}
