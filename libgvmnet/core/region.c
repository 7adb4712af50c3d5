/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The region client's object: identity, layout over the nodes, open and close.
 *
 * Open asks the home of slab 0 first and the other nodes when that has answered. So of two clients
 * that create the same region at once one wins everywhere, and the home says whether the region
 * is new: then no other node may have anything of it, else none may lack its part. A part that is
 * missing is a loss; it is never made anew under a region that exists.
 * Used by the thread of the region's worker only.
 */
#include "core/region_internal.h"
#include "core/core.h"
#include <errno.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(GVM_REGION_CREATE == GVM_RO_CREATE && GVM_REGION_EXCL == GVM_RO_EXCL &&
		   GVM_REGION_EPHEMERAL == GVM_RO_EPHEMERAL &&
		   GVM_REGION_READONLY == GVM_RO_READONLY,
	       "the API's flags are the wire's");

#define LINGER_MS 30000u

/* ---- small things --------------------------------------------------------------------------- */

uint64_t gvm_region_id_of(const char *name)
{
	uint8_t digest[SHA256_DIGEST_LENGTH];
	char text[sizeof "gvmnet region " + GVM_WIRE_NAME_MAX];
	int len = snprintf(text, sizeof text, "gvmnet region %s", name);
	uint64_t id = 0;

	gvm_crypto_init();
	SHA256((const unsigned char *)text, len < (int)sizeof text ? (size_t)len : sizeof text - 1,
	       digest);
	for (unsigned i = 0; i < 8; i++)
		id |= (uint64_t)digest[i] << (8 * i);
	return id ? id : 1;
}

uint64_t gvm_region_id(const struct gvm_region *region)
{
	return region->id;
}

uint64_t gvm_region_pages(const struct gvm_region *region)
{
	return region->pages;
}

uint64_t gvm_region_slab_pages(const struct gvm_region *region)
{
	return 1ull << region->slab_shift;
}

int gvm_region_has_storage(const struct gvm_region *region, uint64_t page)
{
	return page < region->pages &&
	       (region->layout.slabs[region_slab_of(region, page)].flags & SLAB_STORED) != 0;
}

uint64_t gvm_region_away_since(const struct gvm_region *region, uint64_t page)
{
	if (region->state != REGION_OPEN || page >= region->pages)
		return 0;
	return region_home(region, region_slab_of(region, page))->away_since;
}

unsigned gvm_region_node(const struct gvm_region *region, uint64_t page)
{
	return region_home(region, region_slab_of(region, page))->id;
}

/* xorshift64 */
uint64_t region_random(struct gvm_region *region, uint64_t limit)
{
	region->random ^= region->random << 13;
	region->random ^= region->random >> 7;
	region->random ^= region->random << 17;
	return region->random % limit;
}

uint64_t region_jitter(struct gvm_region *region, unsigned tries)
{
	uint64_t most = REGION_BACKOFF_NS << (tries < 10 ? tries : 10);

	if (most > REGION_BACKOFF_MAX_NS)
		most = REGION_BACKOFF_MAX_NS;
	return region_random(region, most);
}

/* ---- layout --------------------------------------------------------------------------------- */

static int add_node(struct gvm_region *region, uint16_t id)
{
	struct region_node **nodes =
	    realloc(region->nodes, (region->node_count + 1) * sizeof *nodes);
	struct region_node *node;
	int rc;

	if (!nodes)
		return -ENOMEM;
	region->nodes = nodes;
	node = calloc(1, sizeof *node);
	if (!node)
		return -ENOMEM;
	node->region = region;
	node->id = id;
	rc = gvm_peer_get(region->worker, id, &node->peer);
	if (rc) {
		free(node);
		return rc;
	}
	region_node_init(node);
	nodes[region->node_count++] = node;
	return 0;
}

void region_drop_nodes(struct gvm_region *region, unsigned count)
{
	while (region->node_count > count) {
		struct region_node *node = region->nodes[--region->node_count];

		region_node_fini(node);
		free(node);
	}
}

/* Find, or make, the nodes of all slabs. index: by node id, 1 + position in region->nodes. */
static int place_slabs(struct gvm_region *region, struct region_layout *layout, uint16_t *index)
{
	uint16_t at[GVM_MAX_COPIES];
	int rc;

	for (uint64_t s = 0; s < layout->count; s++) {
		if (gvm_place(region->cluster, region->placed_as, s, REGION_COPIES, at) <
		    (int)REGION_COPIES) {
			gvm_log(GVM_LOG_ERROR, "region %s: the cluster map has no memory node",
				region->name);
			return -EINVAL;
		}
		for (unsigned c = 0; c < REGION_COPIES; c++) {
			if (!index[at[c]]) {
				rc = add_node(region, at[c]);
				if (rc)
					return rc;
				index[at[c]] = (uint16_t)region->node_count;
			}
			layout->place[s * REGION_COPIES + c] = (uint16_t)(index[at[c]] - 1);
		}
	}
	return 0;
}

void region_layout_free(struct region_layout *layout)
{
	free(layout->slabs);
	free(layout->place);
	*layout = (struct region_layout){ 0 };
}

int region_layout_make(struct gvm_region *region, uint64_t pages, struct region_layout *layout,
		       uint64_t **shares)
{
	unsigned old_nodes = region->node_count;
	uint16_t *index = calloc(GVM_MAX_NODES, sizeof *index);
	struct region_layout made = { 0 };
	uint64_t *count = NULL;
	int rc = -EINVAL;

	made.count = pages ? ((pages - 1) >> region->slab_shift) + 1 : 0;
	if (made.count == 0 || made.count > GVM_SLABS_MAX) {
		gvm_log(GVM_LOG_ERROR,
			"region %s: %llu slabs of %llu KiB are too many; use larger slabs",
			region->name, (unsigned long long)made.count,
			(unsigned long long)(GVM_PAGE_SIZE << region->slab_shift) >> 10);
		goto fail;
	}
	rc = -ENOMEM;
	made.slabs = calloc(made.count, sizeof *made.slabs);
	made.place = calloc(made.count, REGION_COPIES * sizeof *made.place);
	if (!index || !made.slabs || !made.place)
		goto fail;
	for (unsigned i = 0; i < region->node_count; i++)
		index[region->nodes[i]->id] = (uint16_t)(i + 1);
	rc = place_slabs(region, &made, index);
	if (rc)
		goto fail;
	rc = -ENOMEM;
	count = calloc(region->node_count + 1, sizeof *count);
	if (!count || region_views_reserve(region, made.count))
		goto fail;
	for (uint64_t i = 0; i < made.count * REGION_COPIES; i++)
		count[made.place[i]]++;
	free(index);
	*layout = made;
	*shares = count;
	return 0;
fail:
	region_drop_nodes(region, old_nodes);
	region_layout_free(&made);
	free(index);
	free(count);
	return rc;
}

/* The layout of a region that is being opened, all of its nodes NEW. */
static int lay_out(struct gvm_region *region)
{
	uint64_t *shares;
	int rc;

	region_layout_free(&region->layout);
	rc = region_layout_make(region, region->pages, &region->layout, &shares);
	if (rc)
		return rc;
	for (unsigned i = 0; i < region->node_count; i++)
		region->nodes[i]->share = shares[i];
	free(shares);
	return 0;
}

/* ---- open ----------------------------------------------------------------------------------- */

/* The sentence about a node that keeps a region from being opened. */
static void explain(const struct region_node *node, int status)
{
	const struct gvm_region *region = node->region;
	const char *peer = gvm_peer_name(node->peer);
	uint64_t mib = (node->share << region->slab_shift) * GVM_PAGE_SIZE >> 20;
	static struct gvm_log_limit full, many;

	switch (status) {
	case -EBUSY:
		gvm_log(GVM_LOG_ERROR,
			"region %s: another client holds it on %s; wait for its end, or choose "
			"another name",
			region->name, peer);
		return;
	case -ENOSPC:
		/* a program that gets no memory may ask for it again, and again */
		if (node->full == GVM_FULL_DISK || node->full == GVM_FULL_QUOTA)
			gvm_log_limited(
			    &full, GVM_LOG_ERROR,
			    "region %s: %s has not enough room: %llu MiB were asked of it; %s, or "
			    "lower its weight in the cluster file",
			    region->name, peer, (unsigned long long)mib,
			    region_node_full_advice(node));
		else
			gvm_log_limited(
			    &full, GVM_LOG_ERROR,
			    "region %s: %s has not enough room: %llu MiB were asked of it; %s, or "
			    "lower its weight in the cluster file; or wait, if a program was "
			    "killed: what it had is kept for a while, the node's log says how long",
			    region->name, peer, (unsigned long long)mib,
			    region_node_full_advice(node));
		return;
	case -ENOENT:
		gvm_log(GVM_LOG_ERROR, "region %s: %s has no region of that name", region->name,
			peer);
		return;
	case -EUSERS:
		gvm_log_limited(
		    &many, GVM_LOG_ERROR,
		    "region %s: %s takes no more regions or connections, from this "
		    "program or from all: end programs that use it, let this one have "
		    "fewer and larger mappings, or raise gvm-memsrv --max-regions there "
		    "(its log says which)",
		    region->name, peer);
		return;
	case -EEXIST:
		gvm_log(GVM_LOG_ERROR,
			"region %s: %s has a region of that name already, in use or kept; wait for "
			"its end, or choose another name",
			region->name, peer);
		return;
	case -EACCES:
		gvm_log(GVM_LOG_ERROR,
			"region %s: %s does not let this side in: have both the same key?",
			region->name, peer);
		return;
	case -EXDEV:
		gvm_log(
		    GVM_LOG_ERROR,
		    "region %s: %s has slabs of it that this cluster map places elsewhere; use the "
		    "map that it was made with (or, for a clone, the name it was placed as)",
		    region->name, peer);
		return;
	}
	gvm_log(GVM_LOG_ERROR, "region %s: %s: %s", region->name, peer, strerror(-status));
}

static void cleaned(struct gvm_op *op, int status)
{
	struct region_node *node = region_node_called(op);
	struct gvm_region *region = node->region;

	(void)status; /* what could not be taken back is empty, and goes with its linger time */
	if (region->state == REGION_FAILING)
		region_fail_progress(region);
	region_put(region);
}

static bool calls_under_way(const struct gvm_region *region)
{
	for (unsigned i = 0; i < region->node_count; i++) {
		if (region->nodes[i]->calling)
			return true;
	}
	return false;
}

/* Take back what this open has made, let go of what it has opened. */
static void clean_up(struct gvm_region *region)
{
	uint64_t deadline = gvm_worker_now(region->worker) + region->op_timeout_ns;

	region->cleaning = true;
	for (unsigned i = 0; i < region->node_count; i++) {
		struct region_node *node = region->nodes[i];
		struct gvm_msg msg = { .type =
					   node->created ? GVM_T_REGION_DELETE : GVM_T_REGION_CLOSE,
				       .region = region->id,
				       .arg = gvm_worker_number(region->worker) };

		if (node->known)
			(void)region_node_call(node, &msg, deadline, cleaned);
	}
}

void region_fail_progress(struct gvm_region *region)
{
	gvm_region_cb opened = region->opened;

	if (calls_under_way(region))
		return;
	if (!region->cleaning) {
		clean_up(region);
		if (calls_under_way(region))
			return;
	}
	region->state = REGION_FAILED;
	region->opened = NULL;
	opened(region->arg, region, region->open_status);
}

void region_fail_open(struct gvm_region *region, int status)
{
	region->state = REGION_FAILING;
	region->open_status = status;
	for (unsigned i = 0; i < region->node_count; i++)
		gvm_timer_clear(region->worker, &region->nodes[i]->retry);
	region_fail_progress(region);
}

uint64_t region_spread(uint64_t random, unsigned others, uint64_t left_ns)
{
	uint64_t span = others * REGION_SPREAD_NS;

	if (span > REGION_SPREAD_MAX_NS)
		span = REGION_SPREAD_MAX_NS;
	if (span > left_ns / 4)
		span = left_ns / 4;
	return span ? random % span : 0;
}

/* All but the home: the first few at once, so that a person does not wait, the others bit by bit.
 */
static void open_others(struct gvm_region *region, const struct region_node *home)
{
	uint64_t now = gvm_worker_now(region->worker);
	uint64_t left = region->open_deadline > now ? region->open_deadline - now : 0;
	unsigned count = 0;

	for (unsigned i = 0; i < region->node_count; i++) {
		struct region_node *node = region->nodes[i];

		if (node == home)
			continue;
		if (count++ < REGION_AT_ONCE)
			region_node_open(node);
		else
			region_node_retry_in(node, region_spread(region_random(region, UINT64_MAX),
								 region->node_count, left));
	}
}

/* The home of slab 0 has answered: the region's size is known, and whether it is new. */
static int probed(struct region_node *home)
{
	struct gvm_region *region = home->region;
	int rc;

	if (region->pages && region->pages != home->pages) {
		gvm_log(GVM_LOG_ERROR, "region %s: it has %llu MiB, not %llu", region->name,
			(unsigned long long)(home->pages * GVM_PAGE_SIZE >> 20),
			(unsigned long long)(region->pages * GVM_PAGE_SIZE >> 20));
		return -EINVAL;
	}
	region->pages = home->pages;
	/* an answer may have been lost on the way: an empty region is then taken for the one made
	 */
	region->home_created = home->created || ((region->flags & GVM_REGION_CREATE) &&
						 home->sent_before && home->slabs_used == 0);
	rc = lay_out(region);
	if (rc)
		return rc;
	region->state = REGION_OPENING;
	open_others(region, home);
	return 0;
}

int region_open_check(struct region_node *node)
{
	struct gvm_region *region = node->region;

	if (region->state == REGION_PROBING) {
		if (node->slabs_used && node->sent_before && (region->flags & GVM_REGION_EXCL)) {
			explain(node, -EEXIST);
			return -EEXIST;
		}
		return probed(node);
	}
	if (node->pages != region->pages) {
		gvm_log(GVM_LOG_ERROR, "region %s: its part on %s has another size", region->name,
			gvm_peer_name(node->peer));
		return -EINVAL;
	}
	if (region->home_created && node->slabs_used) {
		gvm_log(
		    GVM_LOG_ERROR,
		    "region %s: %s holds data of one that its home node does not have (any more)",
		    region->name, gvm_peer_name(node->peer));
		return region->flags & GVM_REGION_EXCL ? -EEXIST : -EIO;
	}
	return 0;
}

void region_open_progress(struct region_node *node, int status)
{
	struct gvm_region *region = node->region;
	gvm_region_cb opened = region->opened;

	if (status) {
		if (region->state == REGION_OPENING && status == -ENOENT && !region->home_created) {
			gvm_log(GVM_LOG_ERROR, "region %s: %s has lost its part of it",
				region->name, gvm_peer_name(node->peer));
			status = -EIO;
		} else {
			explain(node, status);
		}
		region_fail_open(region, status);
		return;
	}
	for (unsigned i = 0; i < region->node_count; i++) {
		if (region->nodes[i]->state != NODE_READY &&
		    region->nodes[i]->state != NODE_RESTING)
			return;
	}
	if (region->state != REGION_OPENING)
		return;
	region->state = REGION_OPEN;
	for (unsigned i = 0; i < region->node_count; i++)
		region->nodes[i]->created = false;
	region->opened = NULL;
	opened(region->arg, region, 0);
}

static int check_config(const struct gvm_region_config *config)
{
	uint32_t slab = config->slab_bytes;
	char name[GVM_WIRE_NAME_MAX + 1] = { 0 };

	if (!config->name || strlen(config->name) > GVM_WIRE_NAME_MAX)
		goto bad_name;
	memcpy(name, config->name, strlen(config->name));
	if (!gvm_wire_name_ok(name))
		goto bad_name;
	if (config->bytes % GVM_PAGE_SIZE || config->bytes > INT64_MAX ||
	    (config->bytes == 0 && (config->flags & GVM_REGION_CREATE))) {
		gvm_log(GVM_LOG_ERROR, "region %s: its size must be a multiple of %u bytes",
			config->name, GVM_PAGE_SIZE);
		return -EINVAL;
	}
	if (slab &&
	    (slab < GVM_SLAB_BYTES_MIN || slab > GVM_SLAB_BYTES_MAX || (slab & (slab - 1)))) {
		gvm_log(GVM_LOG_ERROR,
			"region %s: slabs must be a power of two between 64 KiB and 64 MiB",
			config->name);
		return -EINVAL;
	}
	if (config->flags & ~GVM_RO_ALL)
		return -EINVAL;
	return 0;
bad_name:
	gvm_log(GVM_LOG_ERROR, "a region's name is 1 to %u of A-Z a-z 0-9 . _ -",
		GVM_WIRE_NAME_MAX);
	return -EINVAL;
}

static void init(struct gvm_region *region, struct gvm_worker *worker,
		 const struct gvm_region_config *config)
{
	uint32_t slab = config->slab_bytes ? config->slab_bytes : GVM_SLAB_BYTES;

	region->worker = worker;
	region->cluster = gvm_net_cluster(gvm_worker_net(worker));
	memcpy(region->name, config->name, strlen(config->name));
	region->id = gvm_region_id_of(config->name);
	region->placed_as = gvm_region_id_of(config->placed_as ? config->placed_as : config->name);
	region->pages = config->bytes / GVM_PAGE_SIZE;
	region->slab_shift = (unsigned)__builtin_ctz(slab / GVM_PAGE_SIZE);
	region->slab_bytes_given = config->slab_bytes != 0;
	region->flags = config->flags;
	region->linger_given = config->linger_ms ? config->linger_ms : LINGER_MS;
	region->linger_ms = region->linger_given;
	region->arg = config->arg;
	region->node_state = config->node_state;
	region->op_timeout_ns = gvm_option_number("GVM_OP_TIMEOUT_MS") * 1000000;
	region->random = (gvm_now() ^ region->id ^ (uintptr_t)region) | 1;
	region->refs = 1;
	region->soon.fn = region_soon;
}

/* How many of the region's slabs the home of slab 0 is to have. */
static int find_home(struct gvm_region *region)
{
	uint16_t at[GVM_MAX_COPIES];
	uint64_t slabs;
	int rc;

	if (!region->cluster || gvm_place(region->cluster, region->placed_as, 0, 1, at) < 1) {
		gvm_log(GVM_LOG_ERROR, "region %s: the cluster map has no memory node",
			region->name);
		return -EINVAL;
	}
	rc = add_node(region, at[0]);
	if (rc || region->pages == 0)
		return rc;
	slabs = ((region->pages - 1) >> region->slab_shift) + 1;
	if (slabs > GVM_SLABS_MAX) {
		gvm_log(GVM_LOG_ERROR, "region %s: %llu slabs are too many; use larger ones",
			region->name, (unsigned long long)slabs);
		return -EINVAL;
	}
	region->nodes[0]->share = gvm_place_share(region->cluster, region->placed_as, slabs, at[0]);
	return 0;
}

int gvm_region_open(struct gvm_worker *worker, const struct gvm_region_config *config,
		    uint64_t deadline_ns, gvm_region_cb opened, struct gvm_region **out)
{
	struct gvm_region *region;
	int rc = check_config(config);

	if (rc)
		return rc;
	region = calloc(1, sizeof *region);
	if (!region)
		return -ENOMEM;
	init(region, worker, config);
	region->opened = opened;
	region->open_deadline = region_deadline(region, deadline_ns);
	rc = region_views_join(region);
	if (rc) {
		free(region);
		return rc;
	}
	rc = find_home(region);
	if (rc) {
		region_views_leave(region);
		region_drop_nodes(region, 0);
		free(region->nodes);
		free(region);
		return rc;
	}
	region->state = REGION_PROBING;
	region_node_open(region->nodes[0]);
	*out = region;
	return 0;
}

/* ---- close ---------------------------------------------------------------------------------- */

static void destroy(struct gvm_region *region)
{
	region_drop_nodes(region, 0);
	free(region->nodes);
	region_layout_free(&region->layout);
	region_views_leave(region);
	free(region);
}

void region_put(struct gvm_region *region)
{
	if (--region->refs == 0 && region->ops == 0)
		destroy(region);
}

void region_bye_over(struct gvm_region *region)
{
	void (*released)(void *arg) = region->released;

	if (--region->byes)
		return;
	region->released = NULL;
	if (released)
		released(region->released_arg);
}

static void close_region(struct gvm_region *region)
{
	gvm_region_cb opened = region->opened;
	bool held = region->state == REGION_PROBING || region->state == REGION_OPENING ||
		    region->state == REGION_OPEN;

	if (region->state == REGION_CLOSED)
		return;
	region->state = REGION_CLOSED;
	region->opened = NULL;
	region->byes++; /* until all are sent */
	gvm_timer_clear(region->worker, &region->soon);
	for (unsigned i = 0; i < region->node_count; i++) {
		region_node_fini(region->nodes[i]);
		if (held)
			region_node_bye(region->nodes[i]);
	}
	region_wide_cancel(region);
	region_left(region, -ECANCELED);
	region_cancel_waiting(region);
	if (opened)
		opened(region->arg, region, -ECANCELED);
	region_bye_over(region);
	region_put(region);
}

void gvm_region_close(struct gvm_region *region)
{
	region->bye_deadline = region_deadline(region, 0);
	close_region(region);
}

void gvm_region_release(struct gvm_region *region, uint64_t deadline_ns,
			void (*released)(void *arg), void *arg)
{
	region->bye_deadline = region_deadline(region, deadline_ns);
	region->released = released;
	region->released_arg = arg;
	close_region(region);
}

void region_left(struct gvm_region *region, int status)
{
	struct gvm_region_op *op = region->leave;

	region->leave = NULL;
	if (op)
		region_finish(op, status);
}

/* Tell all nodes that are connected how long the region is to be kept without a connection. */
static int tell_linger(struct gvm_region *region, uint32_t linger_ms, struct gvm_region_op *op)
{
	if (region->state != REGION_OPEN)
		return -EINVAL;
	if (region->leaving)
		return -EBUSY;
	region_op_init(region, op, 0, 0, 0, NULL);
	region->linger_ms = linger_ms;
	region->leave = op;
	for (unsigned i = 0; i < region->node_count; i++)
		region_node_leave(region->nodes[i], op->op.deadline_ns);
	if (!region->leaving) {
		region->leave = NULL;
		region_finish_soon(op, 0);
	}
	return 0;
}

int gvm_region_leave(struct gvm_region *region, struct gvm_region_op *op)
{
	return tell_linger(region, 0, op);
}

int gvm_region_stay(struct gvm_region *region, struct gvm_region_op *op)
{
	return tell_linger(region, region->linger_given, op);
}
