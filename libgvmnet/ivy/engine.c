/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One engine: its life, messages in and out, who is there, time. A message is checked here once for
 * what needs no page's state: its form, region, epoch, and that it comes from the page's home, or
 * has come to it, as its type says.
 */
#include "ivy/internal.h"

enum peer_state { PEER_THERE, PEER_LOST, PEER_DEAD };

#define BACKOFF_MAX 6u /* doublings */
#define PAGES_MAX   ((uint64_t)1 << 40)

#ifdef IVY_TEST_BUGS
enum ivy_bug ivy_test_bug;
#endif

/* ---- small things that all use ------------------------------------------------------------- */

void *ivy_alloc(struct ivy *ivy, size_t size)
{
	return ivy->config.env->alloc(ivy->config.user, size);
}

void ivy_release(struct ivy *ivy, void *mem, size_t size)
{
	ivy->config.env->free(ivy->config.user, mem, size);
}

/* So many versions at a time: to note how far they go costs nothing then. */
#define RESERVE ((uint64_t)1 << 20)

uint64_t ivy_draw(struct ivy *ivy)
{
	const struct ivy_env *env = ivy->config.env;

	if (ivy->clock >= ivy->reserved) {
		ivy->reserved = ivy->clock + RESERVE;
		if (env->reserve)
			env->reserve(ivy->config.user, ivy->clock, ivy->reserved);
	}
	return ++ivy->clock;
}

uint16_t ivy_home_of(const struct ivy *ivy, uint64_t page)
{
	return ivy->config.env->home(ivy->config.user, page);
}

static size_t peers_size(const struct ivy_config *config)
{
	return (config->nodes + 3u) / 4;
}

static unsigned peer_state(const struct ivy *ivy, uint16_t peer)
{
	if (!ivy->peers_away) /* as most of the time: the table need not be looked at */
		return PEER_THERE;
	return ivy->peers[peer / 4] >> peer % 4 * 2 & 3u;
}

int ivy_peer_down(const struct ivy *ivy, uint16_t peer)
{
	return peer_state(ivy, peer) != PEER_THERE;
}

int ivy_peer_gone(const struct ivy *ivy, uint16_t peer)
{
	return peer_state(ivy, peer) == PEER_DEAD;
}

static void set_peer(struct ivy *ivy, uint16_t peer, enum peer_state state)
{
	uint8_t *at = &ivy->peers[peer / 4];
	unsigned shift = peer % 4 * 2;

	ivy->peers_away -= ivy_peer_down(ivy, peer) != 0;
	ivy->peers_away += state != PEER_THERE;
	*at = (uint8_t)((*at & ~(3u << shift)) | (unsigned)state << shift);
}

int ivy_refuse(struct ivy *ivy)
{
	ivy->stats.refused++;
	return -EPROTO;
}

int ivy_late(struct ivy *ivy)
{
	ivy->stats.late++;
	return 0;
}

/* Full jitter: anything up to retry_ns doubled so often, but for the first, which is all of it. */
uint64_t ivy_backoff(struct ivy *ivy, unsigned tries)
{
	uint64_t most = ivy->config.retry_ns << (tries < BACKOFF_MAX ? tries : BACKOFF_MAX);

	if (tries == 0)
		return ivy->now + most;
	return ivy->now + 1 + ivy->config.env->nonce(ivy->config.user) % most;
}

/* ---- messages out -------------------------------------------------------------------------- */

static void trace(struct ivy *ivy, int out, uint16_t peer, const struct gvm_hdr *h)
{
	if (ivy->config.env->trace)
		ivy->config.env->trace(ivy->config.user, out, peer, h);
}

/* To itself: behind what is being done, so that nothing is called from within itself. */
static int post_self(struct ivy *ivy, const struct gvm_hdr *h, const void *payload)
{
	struct ivy_self *m = ivy_alloc(ivy, sizeof(*m) + h->length);

	if (!m) {
		ivy->stats.no_memory++;
		return -ENOMEM;
	}
	m->next = NULL;
	m->h = *h;
	if (h->length)
		memcpy(m->payload, payload, h->length);
	*ivy->self_last = m;
	ivy->self_last = &m->next;
	return 0;
}

int ivy_post(struct ivy *ivy, uint16_t to, struct gvm_hdr *h, const void *payload)
{
	h->region = ivy->config.region;
	h->epoch = ivy->config.epoch;
	if (to == ivy->config.self) {
		trace(ivy, 1, to, h);
		return post_self(ivy, h, payload);
	}
	if (ivy_peer_down(ivy, to))
		return -ENOTCONN;
	trace(ivy, 1, to, h);
	ivy->stats.sent++;
	ivy->config.env->send(ivy->config.user, to, h, h->length ? payload : NULL);
	return 0;
}

int ivy_say(struct ivy *ivy, uint16_t to, unsigned type, uint64_t page, uint64_t xid, uint64_t arg)
{
	struct gvm_hdr h = { .type = (uint8_t)type, .page = page, .xid = xid, .arg = arg };

	return ivy_post(ivy, to, &h, NULL);
}

int ivy_say_base(struct ivy *ivy, uint16_t to, struct gvm_hdr *h, uint64_t base)
{
	uint8_t payload[GVM_COH_BASE_LEN];

	if (!base)
		return ivy_post(ivy, to, h, NULL);
	gvm_delta_base_put(payload, base);
	h->length = sizeof(payload);
	return ivy_post(ivy, to, h, payload);
}

int ivy_all_zeros(const void *mem, uint32_t size)
{
	const uint8_t *bytes = mem;

	return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

int ivy_say_page(struct ivy *ivy, uint16_t to, struct gvm_hdr *h, const void *bytes, uint64_t base)
{
	if (!bytes || ivy_all_zeros(bytes, ivy->config.page_size)) {
		h->flags = GVM_F_ZERO;
		return ivy_post(ivy, to, h, NULL);
	}
	h->length = ivy->config.page_size;
	if (to != ivy->config.self && !ivy_peer_down(ivy, to))
		bytes = ivy_old_encode(ivy, h, bytes, base);
	return ivy_post(ivy, to, h, bytes);
}

/* ---- messages in --------------------------------------------------------------------------- */

enum { FROM_HOME = 1, TO_HOME = 2 };

static const struct {
	int (*take)(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *payload);
	unsigned who;
} handlers[] = {
	[GVM_COH_REPORT - GVM_COH_FIRST] = { ivy_rebuild_report, 0 },
	[GVM_COH_READ - GVM_COH_FIRST] = { ivy_home_request, TO_HOME },
	[GVM_COH_WRITE - GVM_COH_FIRST] = { ivy_home_request, TO_HOME },
	[GVM_COH_DATA - GVM_COH_FIRST] = { ivy_node_data, 0 },
	[GVM_COH_GRANT - GVM_COH_FIRST] = { ivy_node_grant, FROM_HOME },
	[GVM_COH_NAK - GVM_COH_FIRST] = { ivy_node_nak, FROM_HOME },
	[GVM_COH_DONE - GVM_COH_FIRST] = { ivy_home_done, TO_HOME },
	[GVM_COH_ASK - GVM_COH_FIRST] = { ivy_node_ask, FROM_HOME },
	[GVM_COH_FWD_READ - GVM_COH_FIRST] = { ivy_node_forward, FROM_HOME },
	[GVM_COH_FWD_WRITE - GVM_COH_FIRST] = { ivy_node_forward, FROM_HOME },
	[GVM_COH_FREE - GVM_COH_FIRST] = { ivy_node_free, FROM_HOME },
	[GVM_COH_STILL - GVM_COH_FIRST] = { ivy_home_still, TO_HOME },
	[GVM_COH_RECALL - GVM_COH_FIRST] = { ivy_node_recall, FROM_HOME },
	[GVM_COH_BACK - GVM_COH_FIRST] = { ivy_home_back, TO_HOME },
	[GVM_COH_WB - GVM_COH_FIRST] = { ivy_home_wb, TO_HOME },
	[GVM_COH_WB_OK - GVM_COH_FIRST] = { ivy_node_wb_ok, FROM_HOME },
	[GVM_COH_DROP - GVM_COH_FIRST] = { ivy_home_drop, TO_HOME },
	[GVM_COH_INV - GVM_COH_FIRST] = { ivy_tree_inv, 0 },
	[GVM_COH_ACK - GVM_COH_FIRST] = { ivy_tree_ack, 0 },
	[GVM_COH_READY - GVM_COH_FIRST] = { ivy_home_ready, TO_HOME },
};

static int dispatch(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *payload)
{
	unsigned index = h->type - GVM_COH_FIRST, who = handlers[index].who;
	uint16_t home = ivy_home_of(ivy, h->page);

	if (((who & FROM_HOME) && from != home) || ((who & TO_HOME) && ivy->config.self != home))
		return ivy_refuse(ivy);
	trace(ivy, 0, from, h);
	if ((who & TO_HOME) && ivy_rebuild_busy(ivy)) /* it will be asked for again */
		return ivy_late(ivy);
	return handlers[index].take(ivy, from, h, payload);
}

/* What this node has said to itself. Each message causes a bounded number of others. */
void ivy_drain(struct ivy *ivy)
{
	struct ivy_self *m;

	while ((m = ivy->self_first)) {
		ivy->self_first = m->next;
		if (!m->next)
			ivy->self_last = &ivy->self_first;
		dispatch(ivy, ivy->config.self, &m->h, m->payload);
		ivy_release(ivy, m, sizeof(*m) + m->h.length);
	}
}

/* The handlers see a page where a delta has come, or the flag without it: its base is not here. */
static int receive_delta(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h,
			 const void *payload)
{
	struct gvm_hdr whole = *h;
	const void *bytes;

	if (ivy_old_decode(ivy, h, payload, &bytes) != 0)
		return ivy_refuse(ivy);
	whole.flags = bytes ? 0 : GVM_F_DELTA;
	whole.length = bytes ? ivy->config.page_size : 0;
	return dispatch(ivy, from, &whole, bytes);
}

int ivy_receive(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *payload)
{
	int status;

	if (from >= ivy->config.nodes || from == ivy->config.self ||
	    gvm_coh_check(h, ivy->config.page_size) != 0 || h->region != ivy->config.region ||
	    h->page >= ivy->config.pages)
		return ivy_refuse(ivy);
	if (ivy_peer_down(ivy, from) || h->epoch != ivy->config.epoch) {
		ivy->stats.stale++;
		return -ESTALE;
	}
	ivy->stats.received++;
	status = h->flags == GVM_F_DELTA ? receive_delta(ivy, from, h, payload)
					 : dispatch(ivy, from, h, payload);
	ivy_drain(ivy);
	return status;
}

/* ---- peers and time ------------------------------------------------------------------------ */

static int other(const struct ivy *ivy, uint16_t peer)
{
	return peer < ivy->config.nodes && peer != ivy->config.self;
}

void ivy_peer_lost(struct ivy *ivy, uint16_t peer)
{
	if (!other(ivy, peer) || ivy_peer_down(ivy, peer))
		return;
	set_peer(ivy, peer, PEER_LOST);
	ivy_tree_peer_lost(ivy, peer);
	ivy_home_peer_lost(ivy, peer);
	ivy_drain(ivy);
}

void ivy_peer_back(struct ivy *ivy, uint16_t peer)
{
	if (!other(ivy, peer) || !ivy_peer_down(ivy, peer))
		return;
	set_peer(ivy, peer, PEER_THERE);
	ivy_node_peer_back(ivy, peer);
	ivy_home_peer_back(ivy, peer);
	ivy_report_peer_back(ivy, peer);
	ivy_rebuild_peer_back(ivy, peer);
	ivy_drain(ivy);
}

void ivy_peer_dead(struct ivy *ivy, uint16_t peer)
{
	if (!other(ivy, peer) || ivy_peer_gone(ivy, peer))
		return;
	set_peer(ivy, peer, PEER_DEAD);
	ivy_tree_peer_lost(ivy, peer);
	ivy_node_home_dead(ivy, peer);
	ivy_home_peer_dead(ivy, peer);
	ivy_report_peer_dead(ivy, peer);
	ivy_rebuild_peer_dead(ivy, peer);
	ivy_drain(ivy);
}

void ivy_clock(struct ivy *ivy, uint64_t now)
{
	if (now > ivy->now)
		ivy->now = now;
}

void ivy_tick(struct ivy *ivy, uint64_t now)
{
	ivy_clock(ivy, now);
	ivy_node_tick(ivy);
	ivy_home_tick(ivy);
	ivy_tree_tick(ivy);
	ivy_rebuild_tick(ivy);
	ivy_drain(ivy);
}

uint64_t ivy_next_tick(const struct ivy *ivy)
{
	const struct ivy_page *p;
	const struct ivy_txn *t;
	uint64_t next = ivy_tree_due(ivy);

	for (p = ivy->open; p; p = p->next) {
		if (p->due < next)
			next = p->due;
		if (ivy->config.wait_ns && p->want && !(p->pin & GAVE_UP) &&
		    p->since + ivy->config.wait_ns < next)
			next = p->since + ivy->config.wait_ns;
	}
	for (t = ivy->txn_list; t; t = t->next)
		if (t->due < next)
			next = t->due;
	if (ivy->rebuild && ivy->rebuild->phase == REBUILD_SERVES && ivy->rebuild->due < next)
		next = ivy->rebuild->due;
	return next;
}

/* ---- life ---------------------------------------------------------------------------------- */

static size_t shares_size(const struct ivy_config *c)
{
	return c->max_share ? (c->nodes + 1u) * sizeof(uint32_t) : 0;
}

static int config_ok(const struct ivy_config *c)
{
	return c->env && c->pages > 0 && c->pages < PAGES_MAX && c->page_size > 0 &&
	       c->page_size <= IVY_PAGE_MAX && c->nodes > 0 && c->nodes <= GVM_WIRE_NODE_MAX &&
	       c->self < c->nodes && c->max_entries && c->max_txns && c->max_waiters &&
	       c->max_pages && c->max_relays && c->retry_ns && c->round_ns &&
	       c->retry_ns < NEVER >> (BACKOFF_MAX + 1);
}

/* What is as large as the number of nodes, and the buffer. */
static int alloc_all(struct ivy *ivy)
{
	const struct ivy_config *c = &ivy->config;

	ivy->peers = ivy_alloc(ivy, peers_size(c));
	ivy->buffer = ivy->peers ? ivy_alloc(ivy, 2 * c->page_size) : NULL;
	if (ivy->buffer && c->max_share)
		ivy->shares = ivy_alloc(ivy, shares_size(c));
	if (!ivy->buffer || (c->max_share && !ivy->shares))
		return -ENOMEM;
	memset(ivy->peers, 0, peers_size(c)); /* all are PEER_THERE */
	if (ivy->shares)
		memset(ivy->shares, 0, shares_size(c));
	return 0;
}

static void free_all(struct ivy *ivy)
{
	const struct ivy_config config = ivy->config;

	if (ivy->shares)
		ivy_release(ivy, ivy->shares, shares_size(&config));
	if (ivy->buffer)
		ivy_release(ivy, ivy->buffer, 2 * config.page_size);
	if (ivy->peers)
		ivy_release(ivy, ivy->peers, peers_size(&config));
	config.env->free(config.user, ivy, sizeof(*ivy));
}

int ivy_new(const struct ivy_config *config, struct ivy **out)
{
	struct ivy *ivy;

	if (!config_ok(config))
		return -EINVAL;
	ivy = config->env->alloc(config->user, sizeof(*ivy));
	if (!ivy)
		return -ENOMEM;
	memset(ivy, 0, sizeof(*ivy));
	ivy->config = *config;
	ivy->self_last = &ivy->self_first;
	if (alloc_all(ivy) != 0) {
		free_all(ivy);
		return -ENOMEM;
	}
	ivy->clock = config->env->nonce(config->user) >> 2; /* unlike that of another incarnation */
	*out = ivy;
	return 0;
}

void ivy_free(struct ivy *ivy)
{
	ivy_node_fini(ivy);
	ivy_home_fini(ivy);
	ivy_tree_fini(ivy);
	ivy_old_fini(ivy);
	ivy_report_fini(ivy);
	ivy_rebuild_fini(ivy);
	free_all(ivy);
}

int ivy_fault(struct ivy *ivy, uint64_t page, enum ivy_access access)
{
	int status = ivy_node_fault(ivy, page, access);

	ivy_drain(ivy);
	return status;
}

int ivy_evict(struct ivy *ivy, uint64_t page)
{
	int status = ivy_node_evict(ivy, page);

	ivy_drain(ivy);
	return status;
}

void ivy_stats(const struct ivy *ivy, struct ivy_stats *stats)
{
	*stats = ivy->stats;
	stats->entries = ivy->dir.count;
	stats->txns = ivy->txns.count;
	stats->pages = ivy->pages.count;
	stats->open = ivy->open_count;
	stats->relays = ivy->relays.count;
	stats->old = ivy->old.count;
	stats->directory_bytes = ivy->dir.bytes;
}

void ivy_home_view(const struct ivy *ivy, uint64_t page, struct ivy_view *view)
{
	const struct ivy_entry *e = ivy_dir_find(ivy, page);

	memset(view, 0, sizeof(*view));
	view->owner = NOBODY;
	view->busy = ivy_txn_find(ivy, page) != NULL;
	view->lost = ivy_rebuild_forgot(ivy, page);
	if (!e)
		return;
	view->entry = 1;
	view->lost = (e->bits & DIR_LOST) != 0;
	view->stale = (e->bits & DIR_STALE) != 0;
	view->owner = e->owner;
	view->sharers = ivy_sharers_count(e);
	view->version = entry_version(e);
}

int ivy_home_has(const struct ivy *ivy, uint64_t page, uint16_t node)
{
	const struct ivy_entry *e = ivy_dir_find(ivy, page);

	return e && node < ivy->config.nodes && ivy_sharers_has(e, node);
}
