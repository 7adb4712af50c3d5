/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Invalidation in a tree. A fan is one node's part of a round: the ids that it has to see to, cut
 * in runs; the first of each run is told and sees to the rest of it. The home has a fan for each
 * writer; who passes a round on has one in a relay. Only the home tries again: whoever could not be
 * told is named to it, and is told by the home itself, in a round of its own.
 */
#include "ivy/internal.h"

/* What any set of n ids takes: it is made here and not on the stack, which is small in the kernel.
 */
static size_t set_room(uint32_t n)
{
	size_t ids = 4 + 2 * (size_t)n;

	return ids < GVM_SET_MAX ? ids : GVM_SET_MAX;
}

static size_t fan_size(uint32_t room, uint32_t child_room)
{
	return sizeof(struct ivy_fan) + child_room * sizeof(struct ivy_child) +
	       2 * (size_t)room * sizeof(uint16_t) + set_room(room);
}

/* Of a tree: this node by itself is one more, and cuts a run in two. */
#define CHILDREN (FAN_OUT + 2u)

struct ivy_fan *ivy_fan_make(struct ivy *ivy, uint64_t page, uint32_t n, int direct)
{
	uint32_t child_room = !direct && n > CHILDREN ? CHILDREN : n;
	struct ivy_fan *fan = ivy_alloc(ivy, fan_size(n, child_room));

	if (!fan)
		return NULL;
	memset(fan, 0, sizeof(*fan));
	fan->page = page;
	fan->room = fan->n = n;
	fan->writer = NOBODY;
	fan->child_room = child_room;
	fan->ids = (uint16_t *)(fan->child + child_room);
	fan->left = fan->ids + n;
	fan->set = (uint8_t *)(fan->left + n);
	return fan;
}

void ivy_fan_free(struct ivy *ivy, struct ivy_fan *fan)
{
	if (fan)
		ivy_release(ivy, fan, fan_size(fan->room, fan->child_room));
}

static void tell(struct ivy *ivy, struct ivy_fan *fan, struct ivy_child *c)
{
	struct gvm_hdr h = {
		.type = GVM_COH_INV, .page = fan->page, .xid = fan->round, .arg = fan->version
	};

	if (fan->writer != NOBODY) { /* then nobody has others to tell */
		h.flags = GVM_F_ACKS;
		h.length = (uint32_t)gvm_set_encode(fan->set, &fan->writer, 1);
	} else {
		h.length =
		    (uint32_t)gvm_set_encode(fan->set, fan->ids + c->first + 1, c->count - 1u);
	}
	c->state = ivy_post(ivy, c->node, &h, fan->set) == 0 ? CHILD_PENDING : CHILD_UNSENT;
}

static void settle(struct ivy_fan *fan, struct ivy_child *c)
{
	c->state = CHILD_SETTLED;
	fan->open--;
}

static void leave(struct ivy_fan *fan, struct ivy_child *c)
{
	memcpy(fan->left + c->first, fan->ids + c->first, c->count * sizeof(*fan->left));
	c->left = c->count;
	settle(fan, c);
}

uint32_t ivy_fan_left(struct ivy_fan *fan)
{
	uint32_t i, n = 0;

	for (i = 0; i < fan->children; i++) {
		const struct ivy_child *c = &fan->child[i];

		memmove(fan->left + n, fan->left + c->first, c->left * sizeof(*fan->left));
		n += c->left;
	}
	return n;
}

/* The nodes of the least full tree with room for all: of one child, itself included. */
static uint32_t run_of(uint32_t n)
{
	uint32_t run = 1;

	while (run * FAN_OUT < n)
		run = 1 + run * FAN_OUT;
	return run;
}

/* Full trees first, at least one for each child: so the fewest nodes have others to tell, and no
 * path is longer than it must be. */
static uint32_t take_run(uint32_t left, uint32_t children, uint32_t run)
{
	uint32_t most = left - (children - 1);

	return run < most ? run : most;
}

/* Of so many ids from first on, those before this node; itself, if it is the first. */
static uint32_t cut_at(const struct ivy_fan *fan, uint32_t first, uint32_t count, uint16_t self)
{
	uint32_t n = 1;

	if (fan->ids[first] == self)
		return 1;
	while (n < count && fan->ids[first + n] != self)
		n++;
	return n;
}

/* A home that is a sharer, too, tells itself: it is in nobody's run, so that it need take no INV
 * for its own pages from others. */
void ivy_fan_start(struct ivy *ivy, struct ivy_fan *fan, uint64_t round, int direct)
{
	uint32_t run = direct ? 1 : run_of(fan->n), runs = direct ? fan->n : FAN_OUT, first = 0;

	fan->round = round;
	fan->children = fan->open = 0;
	while (first < fan->n) {
		struct ivy_child *c = &fan->child[fan->children++];
		uint32_t left = fan->n - first;
		uint32_t most = take_run(left, runs < left ? runs : left, run);
		uint32_t count = cut_at(fan, first, most, ivy->config.self);

		c->first = (uint16_t)first;
		c->count = (uint16_t)count;
		c->left = 0;
		c->node = fan->ids[first];
		runs -= count == most && c->node != ivy->config.self;
		first += count;
		fan->open++;
		tell(ivy, fan, c);
		if (c->state == CHILD_UNSENT && !direct)
			leave(fan, c);
	}
}

int ivy_fan_is_flat(const struct ivy_fan *fan)
{
	uint32_t i;

	for (i = 0; i < fan->children; i++)
		if (fan->child[i].state != CHILD_PENDING || fan->child[i].count != 1)
			return 0;
	return 1;
}

static struct ivy_child *child_of(struct ivy_fan *fan, uint16_t node)
{
	uint32_t low = 0, high = fan->children;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (fan->child[middle].node < node)
			low = middle + 1;
		else
			high = middle;
	}
	return low < fan->children && fan->child[low].node == node ? &fan->child[low] : NULL;
}

void ivy_fan_lost(struct ivy_fan *fan, uint16_t peer, int dead)
{
	struct ivy_child *c = child_of(fan, peer);

	if (c && (c->state == CHILD_PENDING || (dead && c->state == CHILD_UNSENT)))
		leave(fan, c);
}

void ivy_fan_give_up(struct ivy_fan *fan)
{
	uint32_t i;

	for (i = 0; i < fan->children; i++)
		if (fan->child[i].state == CHILD_PENDING)
			leave(fan, &fan->child[i]);
}

void ivy_fan_resume(struct ivy *ivy, struct ivy_fan *fan, uint16_t peer)
{
	uint32_t i;

	for (i = 0; i < fan->children; i++) {
		struct ivy_child *c = &fan->child[i];

		if (c->state == CHILD_UNSENT && (c->node == peer || peer == NOBODY))
			tell(ivy, fan, c);
	}
}

void ivy_fan_repeat(struct ivy *ivy, struct ivy_fan *fan, uint16_t peer)
{
	struct ivy_child *c = child_of(fan, peer);

	if (c && c->state == CHILD_PENDING && c->count == 1)
		tell(ivy, fan, c);
}

/* Whether all of the n ids, ascending, are of the child's run. */
static int of_run(const struct ivy_fan *fan, const struct ivy_child *c, const uint16_t *ids,
		  uint32_t n)
{
	const uint16_t *run = fan->ids + c->first, *end = run + c->count;

	for (; n > 0; n--, ids++) {
		while (run < end && *run < *ids)
			run++;
		if (run == end || *run != *ids)
			return 0;
	}
	return 1;
}

int ivy_fan_ack(struct ivy *ivy, struct ivy_fan *fan, uint16_t from, const struct gvm_hdr *h,
		const void *set)
{
	struct ivy_child *c = child_of(fan, from);
	int n = gvm_set_count(set, h->length, ivy->config.nodes);

	if (n < 0)
		return ivy_refuse(ivy);
	if (!c || c->state != CHILD_PENDING) /* not owed, or given up */
		return ivy_late(ivy);
	if (n > c->count)
		return ivy_refuse(ivy);
	gvm_set_decode(set, h->length, fan->left + c->first);
	if (!of_run(fan, c, fan->left + c->first, (uint32_t)n))
		return ivy_refuse(ivy);
	c->left = (uint16_t)n;
	settle(fan, c);
	return 0;
}

/* So many times all nodes there may be in the sets of all relays together: a set is large. */
#define RELAY_SETS 64u

/* ---- those that pass it on ----------------------------------------------------------------- */

static void acknowledge(struct ivy *ivy, uint16_t to, struct ivy_fan *fan)
{
	struct gvm_hdr h = { .type = GVM_COH_ACK, .page = fan->page, .xid = fan->round };

	h.length = (uint32_t)gvm_set_encode(fan->set, fan->left, ivy_fan_left(fan));
	ivy_post(ivy, to, &h, fan->set);
}

static void relay_free(struct ivy *ivy, struct ivy_relay *r)
{
	ivy->relay_ids -= r->fan->room;
	ivy_table_del(&ivy->relays, &r->link);
	ivy_fan_free(ivy, r->fan);
	ivy_release(ivy, r, sizeof(*r));
}

/* If all have answered, so does this node. */
static void relay_step(struct ivy *ivy, struct ivy_relay *r)
{
	struct ivy_fan *fan = r->fan;

	if (fan->open && !IVY_BUG(RELAY_EARLY))
		return;
	acknowledge(ivy, r->parent, fan);
	relay_free(ivy, r);
}

static struct ivy_relay *relay_find(const struct ivy *ivy, uint64_t round, uint64_t page)
{
	struct ivy_link *link = ivy_table_find(&ivy->relays, round);

	while (link && ((struct ivy_relay *)link)->fan->page != page)
		link = ivy_table_again(link);
	return (struct ivy_relay *)link;
}

static struct ivy_relay *relay_make(struct ivy *ivy, uint16_t parent, const struct gvm_hdr *h,
				    uint32_t n)
{
	struct ivy_relay *r;

	if (ivy->relays.count >= ivy->config.max_relays ||
	    ivy->relay_ids + n > RELAY_SETS * ivy->config.nodes)
		return NULL;
	r = ivy_alloc(ivy, sizeof(*r));
	if (!r)
		return NULL;
	r->parent = parent;
	r->due = ivy->now + ivy->config.round_ns;
	r->link.key = h->xid;
	r->fan = ivy_fan_make(ivy, h->page, n, 0);
	if (r->fan && ivy_table_add(ivy, &ivy->relays, &r->link) == 0) {
		ivy->relay_ids += n;
		return r;
	}
	ivy_fan_free(ivy, r->fan);
	ivy_release(ivy, r, sizeof(*r));
	return NULL;
}

/* Nobody of the set could be told: all of them in the answer. */
static void pass_back(struct ivy *ivy, uint16_t parent, const struct gvm_hdr *h, const void *set)
{
	struct gvm_hdr ack = {
		.type = GVM_COH_ACK, .page = h->page, .xid = h->xid, .length = h->length
	};

	ivy->stats.no_memory++;
	ivy_post(ivy, parent, &ack, set);
}

/* Neither has this node dropped what it has, nor told anybody: the home is to tell each by itself.
 */
static void decline(struct ivy *ivy, uint16_t to, const struct gvm_hdr *h, const void *set,
		    uint32_t n)
{
	struct gvm_hdr ack = { .type = GVM_COH_ACK, .page = h->page, .xid = h->xid };
	struct ivy_fan *fan = ivy_fan_make(ivy, h->page, n + 1, 0);

	if (!fan) /* they are given up in time */
		return;
	fan->ids[0] = ivy->config.self;
	gvm_set_decode(set, h->length, fan->ids + 1);
	ack.length = (uint32_t)gvm_set_encode(fan->set, fan->ids, fan->n);
	ivy_post(ivy, to, &ack, fan->set);
	ivy_fan_free(ivy, fan);
}

/* On each way down a tree ids ascend, but for the home's, which starts it and is in nobody's run.
 * So nobody can be made to send INV to who has to refuse it, nor one in a circle. */
static int has_place(const struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *set,
		     int n)
{
	uint16_t home = ivy_home_of(ivy, h->page), self = ivy->config.self;

	if (n < 0)
		return 0;
	if (from != home && (self == home || from > self || h->arg == GVM_COH_ANY_VERSION))
		return 0;
	return n == 0 || (gvm_set_first(set) > self && !gvm_set_has(set, h->length, home));
}

/* It is not obeyed: it would take what is not to be taken, or a round is known by another parent.
 * If a relay was told so by somebody who may not, the relay is not to blame. */
static int is_declined(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h,
		       const struct ivy_relay *r)
{
	return (r && r->parent != from) || !ivy_node_may_invalidate(ivy, h->page, h->arg) ||
	       ivy_pin_refuses_inv(ivy, from, h);
}

/* A home's INV of which the writer is to hear, too: it waits for that, so it hears first. */
static void obey_writer(struct ivy *ivy, const struct gvm_hdr *h, uint16_t writer)
{
	if (!IVY_BUG(ACK_FIRST))
		ivy_node_invalidate(ivy, h->page, h->arg);
	ivy_say(ivy, writer, GVM_COH_ACK, h->page, 0, h->arg);
	if (!IVY_BUG(ACK_FIRST))
		ivy_say(ivy, ivy_home_of(ivy, h->page), GVM_COH_ACK, h->page, h->xid, 0);
}

/* Its set is the writer, if it is well formed: one that the home tells this node of. */
static int inv_for_writer(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *set)
{
	uint16_t writer =
	    gvm_set_count(set, h->length, ivy->config.nodes) == 1 ? gvm_set_first(set) : NOBODY;

	if (from != ivy_home_of(ivy, h->page) || writer == NOBODY || writer == ivy->config.self ||
	    !ivy_node_may_invalidate(ivy, h->page, h->arg))
		return ivy_refuse(ivy);
	if (!ivy_pin_refuses_inv(ivy, from, h)) /* else the home tells this one again, in time */
		obey_writer(ivy, h, writer);
	return 0;
}

/* Tell those of the set, then drop what is here; the answer may have to wait for theirs. */
static void obey(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *set,
		 uint32_t n)
{
	struct ivy_relay *r = n > 0 ? relay_make(ivy, from, h, n) : NULL;

	if (r) {
		r->fan->version = h->arg;
		gvm_set_decode(set, h->length, r->fan->ids);
		ivy_fan_start(ivy, r->fan, h->xid, 0);
	}
	ivy_node_invalidate(ivy, h->page, h->arg);
	if (r)
		relay_step(ivy, r);
	else if (n > 0)
		pass_back(ivy, from, h, set);
	else
		ivy_say(ivy, from, GVM_COH_ACK, h->page, h->xid, 0);
}

int ivy_tree_inv(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *set)
{
	int n = gvm_set_count(set, h->length, ivy->config.nodes);
	int home = from == ivy_home_of(ivy, h->page);
	const struct ivy_relay *r = relay_find(ivy, h->xid, h->page);

	if (ivy_report_past(ivy, h->page, h->arg))
		return ivy_late(ivy);
	if (h->flags & GVM_F_ACKS)
		return inv_for_writer(ivy, from, h, set);
	if (!has_place(ivy, from, h, set, n) ||
	    (home && !ivy_node_may_invalidate(ivy, h->page, h->arg)))
		return ivy_refuse(ivy);
	if (r && r->parent == from) /* it has come twice; it is being answered */
		return ivy_late(ivy);
	if (!is_declined(ivy, from, h, r))
		obey(ivy, from, h, set, (uint32_t)n);
	else if (IVY_BUG(PIN))
		ivy_say(ivy, from, GVM_COH_ACK, h->page, h->xid, 0);
	else if (n > 0 || !home || r) /* else the home tells this one again, in time */
		decline(ivy, from, h, set, (uint32_t)n);
	return 0;
}

int ivy_tree_ack(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *set)
{
	struct ivy_txn *t = ivy_txn_find(ivy, h->page);
	struct ivy_relay *r;
	int status;

	if (h->arg)
		return ivy_node_told(ivy, from, h);
	if (t && t->fan && t->fan->round == h->xid) {
		status = ivy_fan_ack(ivy, t->fan, from, h, set);
		if (status == 0) {
			ivy_write_step(ivy, t, ivy_dir_find(ivy, h->page));
			ivy_home_advance(ivy, h->page);
		}
		return status;
	}
	r = relay_find(ivy, h->xid, h->page);
	if (!r)
		return ivy_late(ivy);
	status = ivy_fan_ack(ivy, r->fan, from, h, set);
	if (status == 0)
		relay_step(ivy, r);
	return status;
}

void ivy_tree_peer_lost(struct ivy *ivy, uint16_t peer)
{
	struct ivy_link *link = ivy_table_any(&ivy->relays), *next;

	for (; link; link = next) {
		struct ivy_relay *r = (struct ivy_relay *)link;

		next = ivy_table_after(&ivy->relays, link);
		if (r->parent == peer) {
			relay_free(ivy, r);
			continue;
		}
		ivy_fan_lost(r->fan, peer, 1);
		if (!r->fan->open)
			relay_step(ivy, r);
	}
}

/* Who has not answered for long is left to the home. */
void ivy_tree_tick(struct ivy *ivy)
{
	struct ivy_link *link = ivy_table_any(&ivy->relays), *next;

	for (; link; link = next) {
		struct ivy_relay *r = (struct ivy_relay *)link;

		next = ivy_table_after(&ivy->relays, link);
		if (r->due > ivy->now)
			continue;
		ivy_fan_give_up(r->fan);
		relay_step(ivy, r);
	}
}

uint64_t ivy_tree_due(const struct ivy *ivy)
{
	struct ivy_link *link = ivy_table_any(&ivy->relays);
	uint64_t due = NEVER;

	for (; link; link = ivy_table_after(&ivy->relays, link))
		if (((struct ivy_relay *)link)->due < due)
			due = ((struct ivy_relay *)link)->due;
	return due;
}

void ivy_tree_fini(struct ivy *ivy)
{
	struct ivy_link *link;

	while ((link = ivy_table_any(&ivy->relays)))
		relay_free(ivy, (struct ivy_relay *)link);
	ivy_table_fini(ivy, &ivy->relays);
}
