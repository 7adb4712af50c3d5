/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Regions that this node was a home of when it ended: taken up with their generation and the
 * members that they had. Those come back and report what they hold, or are buried when they must
 * have given it up; then the directory is built. New members are let in meanwhile, and wait.
 */
#include "home_internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MS           UINT64_C(1000000)
#define PAGE_TIME_NS UINT64_C(20000) /* for each page of a report: many times what it takes */
#define ALL_TIME_NS  UINT64_C(2000)  /* for each page of anybody's */

static int take_members(struct home_region *r)
{
	for (unsigned node = 0; node < r->home->nodes; node++) {
		uint64_t promise_ms, view = home_state_member(r->state, node, &promise_ms);
		struct home_member *m;

		if (!view)
			continue;
		m = home_member_make(r, (uint16_t)node, view);
		if (!m)
			return -ENOMEM;
		m->before = 1;
		m->patience_ns = 2 * MS * promise_ms;
		m->lost_at = gvm_now(); /* it has heard of this node before that, not after */
		m->owes_since = m->lost_at;
	}
	return 0;
}

/* As it was; its store is empty. */
static int take_up(struct home *home, struct home_state *st, uint64_t id,
		   struct gvm_region_open *req, const struct gvm_region_opened *was)
{
	struct gvm_region_opened opened;
	struct store_shared *store;
	struct home_region *r;
	uint64_t low, high;
	int err;

	req->flags = (req->flags & ~(uint32_t)GVM_RO_EXCL) | GVM_RO_CREATE;
	req->generation = 0;
	err = store_shared_open(home->config.store, was->generation, "restart", id, req, &opened,
				&store);
	if (err) {
		home_state_set_aside(st, strerror(-err));
		return err;
	}
	store_shared_again(store, was->generation);
	r = home_region_make(home, req, id, was, store);
	if (!r) {
		store_shared_close(store);
		home_state_free(st);
		return -ENOMEM;
	}
	r->state = st;
	(void)store_shared_take(store, home_state_bytes(st), 1);
	LIST_INSERT_HEAD(&home->regions, r, in_home);
	r->written = home_state_copy_written(st);
	home_state_versions(st, &low, &high);
	err = ivy_rebuild_begin(r->ivy, low, high);
	if (!err)
		err = take_members(r);
	r->collects = !err;
	gvm_log(GVM_LOG_WARN, "region %s: taken up again, with %u members of before", r->name,
		r->count);
	return err;
}

/* One of this node's: others may have theirs in the same folder. */
static int is_state(const struct home *home, const char *name)
{
	size_t len = strlen(name), end = strlen(HOME_STATE_END);
	char own[16];

	snprintf(own, sizeof(own), "%u-", home->config.node);
	return len > end && !strncmp(name, own, strlen(own)) &&
	       !strcmp(name + len - end, HOME_STATE_END);
}

static int take_up_file(struct home *home, const char *name)
{
	struct gvm_region_opened opened;
	struct gvm_region_open req;
	uint64_t id;
	struct home_state *st = home_state_load(home, name, &req, &opened, &id);
	int err;

	if (!st)
		return 0;
	err = take_up(home, st, id, &req, &opened);
	if (err)
		gvm_log(GVM_LOG_ERROR, "region %s cannot be taken up again: %s", req.name,
			strerror(-err));
	return err == -ENOMEM ? err : 0;
}

int home_again(struct home *home)
{
	DIR *dir = opendir(home->config.state);
	const struct dirent *entry;
	int err = 0;

	if (!dir) {
		gvm_log(GVM_LOG_WARN, "%s: %s; a restart of this node loses its shared regions",
			home->config.state, strerror(errno));
		return 0;
	}
	while (!err && (entry = readdir(dir)))
		if (is_state(home, entry->d_name))
			err = take_up_file(home, entry->d_name);
	closedir(dir);
	return err;
}

/* ---- members of before -------------------------------------------------------------------- */

/*
 * It is treated like one that is not heard of: its connection ends and it is not let back, so that
 * it gives up what it holds within the time that it has promised, and is buried after that.
 */
static void expel(struct home_member *m, const char *why)
{
	gvm_log(GVM_LOG_ERROR,
		"region %s: node %u %s: it is expelled; the pages that it alone held are lost",
		m->region->name, m->node, why);
	m->expelled = 1;
	if (m->link)
		home_cut(m, -ETIMEDOUT);
}

void home_again_frame(struct home_region *r, struct home_member *m, const struct gvm_hdr *h)
{
	uint64_t pages = h->length / GVM_HELD_LEN;

	if (!r->collects || h->type != GVM_COH_REPORT)
		return;
	if (m->told + pages > r->pages) /* it is told again, or does not come to an end */
		pages = r->pages > m->told ? r->pages - m->told : 0;
	m->told += pages;
	r->told += pages;
}

/* Time to come back, as for one that is lost, and for the report: for each page, and for those of
 * all others, which this node takes meanwhile. */
static uint64_t time_for(const struct home_member *m)
{
	return m->patience_ns + m->told * PAGE_TIME_NS + m->region->told * ALL_TIME_NS;
}

/* Whether it is connected does not matter: a connection that it ends, or that is ended, again and
 * again must not begin its time anew, as it does that to its burial. */
static void press(struct home_region *r, struct home_member *m, uint64_t now)
{
	int owes = ivy_rebuild_owes(r->ivy, m->node) && (m->before || !r->collects);

	if (!owes)
		m->owes_since = 0;
	else if (!m->owes_since)
		m->owes_since = now;
	else if (now - m->owes_since >= time_for(m))
		expel(m, "does not report what it holds");
}

void home_again_press(struct home_region *r, uint64_t now)
{
	if (!ivy_rebuild_busy(r->ivy))
		return;
	for (unsigned node = 0; node < r->home->nodes; node++)
		if (r->members[node] && !r->members[node]->expelled)
			press(r, r->members[node], now);
}

/* 1: somebody is expelled, and waited for. */
static int is_contradicted(struct home_region *r)
{
	uint16_t liar = ivy_rebuild_liar(r->ivy);

	if (liar == GVM_WIRE_NODE_NONE || !r->members[liar])
		return 0;
	if (!r->members[liar]->expelled)
		expel(r->members[liar], "reports what several others contradict");
	return 1;
}

void home_again_step(struct home_region *r)
{
	if (!r->collects)
		return;
	for (; r->collected < r->home->nodes; r->collected++) {
		const struct home_member *m = r->members[r->collected];

		if (m && m->before && !ivy_rebuild_reported(r->ivy, m->node))
			return;
	}
	if (is_contradicted(r))
		return;
	r->collects = 0;
	for (unsigned node = 0; node < r->home->nodes; node++)
		if (r->members[node])
			r->members[node]->owes_since = 0;
	ivy_rebuild_end(r->ivy);
	gvm_log(GVM_LOG_WARN, "region %s: its members have reported what they hold", r->name);
}
