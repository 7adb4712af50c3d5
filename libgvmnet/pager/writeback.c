/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How victims that are dirty get to their memory nodes: a queue and a bounded number of puts for
 * each node. The shard's thread only.
 *
 * Puts have no deadline, so one to a node that is away holds its place until the node is back. A
 * node may hold PUTS_NODE of the PUTS places, and while it is away it is asked for no more. Its
 * dirty victims are then stranded: still here and still to be written, but out of the order in
 * which victims leave, so that eviction neither counts them nor meets them again. So pages of other
 * nodes leave as ever. Nothing is looked at meanwhile but one page a node. Where there is but one
 * node nothing could leave in their place, and they stay where they are. A node that is full is
 * left alone for a while, and counts as away meanwhile.
 */
#include "internal.h"

#define HOLD_NS  100000000ull /* a full memory node is not asked again before; doubles up to 1 s */
#define HOLD_MAX 1000000000ull
#define LATE_NS  500000000ull /* a node that has answered no put for so long counts as away */

/* ---- outlets ------------------------------------------------------------------------------- */

static void *dirty_links(struct shard *shard)
{
	return (char *)shard->slots + offsetof(struct slot, dirty);
}

static struct outlet *outlet_of(struct shard *shard, uint32_t slot)
{
	return &shard->outlets[shard->slots[slot].outlet];
}

static uint32_t number_of(const struct shard *shard, const struct outlet *outlet)
{
	return (uint32_t)(outlet - shard->outlets);
}

/* Listed while there is something to be written, or under way. */
static void relist(struct shard *shard, struct outlet *outlet)
{
	bool want = outlet->dirty.count || outlet->putting;

	if (want && !outlet->listed)
		gvm_queue_push(&shard->outbound, shard->outlets, sizeof(*outlet),
			       number_of(shard, outlet));
	else if (!want && outlet->listed)
		gvm_queue_remove(&shard->outbound, shard->outlets, sizeof(*outlet),
				 number_of(shard, outlet));
	outlet->listed = want;
}

uint16_t outlet_note(struct shard *shard, unsigned node)
{
	uint16_t number = node % OUTLETS;
	struct outlet *outlet = &shard->outlets[number];

	for (uint32_t n = 0; n < OUTLETS && outlet->seen && outlet->node != node; n++) {
		number = (number + 1) % OUTLETS;
		outlet = &shard->outlets[number];
	}
	if (!outlet->seen) {
		gvm_queue_init(&outlet->dirty);
		outlet->node = node;
		__atomic_store_n(&shard->outlets_seen, shard->outlets_seen + 1, __ATOMIC_RELAXED);
	}
	outlet->seen = true;
	return number;
}

/* Is there one node, or are there several? */
void outlets_note(struct view *view)
{
	const struct store_ops *store = view->shard->pager->store;
	uint64_t pages = store->pages(view->region), slab = store->slab_pages(view->region);

	for (uint64_t page = 0; page < pages; page += slab)
		outlet_note(view->shard, store->node(view->region, page));
}

/* From when on slot i holds a dirty page of the view. */
void dirty_assign(struct view *view, uint64_t page, uint32_t i)
{
	struct shard *shard = view->shard;

	shard->slots[i].outlet = outlet_note(shard, shard->pager->store->node(view->region, page));
}

void dirty_push(struct shard *shard, uint32_t i)
{
	struct outlet *outlet = outlet_of(shard, i);

	if (shard->slots[i].flags & SLOT_QUEUED)
		return;
	shard->slots[i].flags |= SLOT_QUEUED;
	gvm_queue_push(&outlet->dirty, dirty_links(shard), sizeof(struct slot), i);
	relist(shard, outlet);
	__atomic_store_n(&shard->dirty, shard->dirty + 1, __ATOMIC_RELAXED);
}

void dirty_remove(struct shard *shard, uint32_t i)
{
	struct outlet *outlet = outlet_of(shard, i);

	if (!(shard->slots[i].flags & SLOT_QUEUED))
		return;
	shard->slots[i].flags &= (uint16_t)~SLOT_QUEUED;
	gvm_queue_remove(&outlet->dirty, dirty_links(shard), sizeof(struct slot), i);
	relist(shard, outlet);
	__atomic_store_n(&shard->dirty, shard->dirty - 1, __ATOMIC_RELAXED);
}

/* ---- victims, and those that are stranded -------------------------------------------------- */

void victim_push(struct shard *shard, uint32_t i)
{
	struct slot *slot = &shard->slots[i];

	if ((slot->flags & SLOT_QUEUED) && outlet_of(shard, i)->away) {
		slot->flags |= SLOT_STRANDED;
		shard->stranded++;
		return;
	}
	slot->flags |= SLOT_VICTIM;
	gvm_queue_push(&shard->victims, shard->slots, sizeof(*slot), i);
}

void victim_remove(struct shard *shard, uint32_t i)
{
	struct slot *slot = &shard->slots[i];

	if (slot->flags & SLOT_VICTIM)
		gvm_queue_remove(&shard->victims, shard->slots, sizeof(*slot), i);
	if (slot->flags & SLOT_STRANDED)
		shard->stranded--;
	slot->flags &= (uint16_t) ~(SLOT_VICTIM | SLOT_STRANDED);
}

static void strand(struct shard *shard, uint32_t i)
{
	if (!(shard->slots[i].flags & SLOT_VICTIM))
		return;
	victim_remove(shard, i);
	shard->slots[i].flags |= SLOT_STRANDED;
	shard->stranded++;
}

static void set_away(struct shard *shard, struct outlet *outlet)
{
	const struct slot *slots = shard->slots;

	outlet->away = true;
	for (uint32_t i = outlet->dirty.tail; i != GVM_NIL; i = slots[i].dirty.prev)
		strand(shard, i);
	for (uint32_t i = 0; i < PUTS && outlet->putting; i++) {
		const struct put *put = &shard->puts[i];

		for (uint32_t k = 0; k < put->count; k++)
			if (outlet_of(shard, put->slot + k) == outlet)
				strand(shard, put->slot + k);
	}
}

/* A page that waits for the node of an outlet that is listed. */
static const struct slot *waiting_for(const struct shard *shard, const struct outlet *outlet)
{
	uint32_t i = 0;

	if (outlet->dirty.count)
		return &shard->slots[outlet->dirty.tail];
	while (shard->puts[i].count == 0 ||
	       shard->slots[shard->puts[i].slot].outlet != number_of(shard, outlet))
		i++;
	return &shard->slots[shard->puts[i].slot];
}

/* Is the node away, or as good as that? */
static bool is_away(const struct shard *shard, const struct outlet *outlet)
{
	const struct slot *slot;
	const struct view *view;

	if (shard->outlets_seen < 2)
		return false;
	if (outlet->putting && gvm_now() - outlet->heard_ns > LATE_NS)
		return true;
	slot = waiting_for(shard, outlet);
	view = &shard->views[slot->range];
	if (!view->region) /* it is closing: its pages are forgotten in a moment */
		return outlet->away;
	return shard->pager->store->away_since(view->region, slot->page) != 0;
}

void outlets_reset(struct shard *shard)
{
	for (uint32_t i = 0; i < OUTLETS; i++) {
		struct outlet *outlet = &shard->outlets[i];

		if (outlet->away || outlet->hold_ns) {
			outlet->away = false;
			outlet->hold = outlet->hold_ns = 0;
		}
	}
}

/* ---- puts ---------------------------------------------------------------------------------- */

/* Is slot i of a page that can be put now? */
static bool can_put(struct shard *shard, uint32_t i)
{
	const struct slot *slot = &shard->slots[i];
	page_word w = shard->views[slot->range].table[slot->page];

	return (w & PAGE_DIRTY) && !(w & (PAGE_WRITING | PAGE_PURGING)) &&
	       !shard->views[slot->range].closing;
}

static void back_from_sync(struct view *view, uint64_t page)
{
	view->table[page] &= ~(page_word)PAGE_RETURN;
	victim_back(view, page, false);
}

static void put_page_done(struct put *put, uint32_t k, int status)
{
	struct view *view = put->view;
	struct shard *shard = view->shard;
	uint64_t page = put->page + k;
	uint32_t i = put->slot + k;
	page_word w = view->table[page] & ~(page_word)(PAGE_WRITING | (status ? 0 : PAGE_LOST));
	bool here = page_state(w) == PAGE_VICTIM && page_index(w) == i;

	view->table[page] = w;
	if (!here) {
		shard->slots[i].flags &= (uint16_t)~SLOT_ORPHAN;
		slot_put(shard, i);
		if (status && page_state(w) == PAGE_MAPPED)
			view->table[page] |= PAGE_DIRTY;
		return;
	}
	if (status == -EIO && !(w & PAGE_RETURN)) {
		page_forget(view, page, PAGE_NONE);
		page_lose(view, page);
	} else if (status) {
		view->table[page] |= PAGE_DIRTY;
		view->dirty++;
		dirty_push(shard, i);
		if (status == -EIO) /* it was but to be stored, and is here: so it stays */
			back_from_sync(view, page);
	} else if (w & PAGE_RETURN) {
		back_from_sync(view, page);
	} else if (shard->slots[i].flags & SLOT_STRANDED) { /* among those that leave, again */
		victim_remove(shard, i);
		victim_push(shard, i);
	}
}

static void wake_for(struct shard *shard, const struct outlet *outlet)
{
	if (shard->hold_timer.place == 0 || shard->hold_timer.when > outlet->hold)
		gvm_timer_set(shard->worker, &shard->hold_timer, outlet->hold);
}

/* The node is full, or otherwise unwilling: again in a while, by the timer. */
static void hold_puts(struct shard *shard, struct outlet *outlet)
{
	if (outlet->hold) /* of the same turn */
		return;
	outlet->hold_ns = outlet->hold_ns ? 2 * outlet->hold_ns : HOLD_NS;
	if (outlet->hold_ns > HOLD_MAX)
		outlet->hold_ns = HOLD_MAX;
	outlet->hold = gvm_now() + outlet->hold_ns;
	wake_for(shard, outlet);
}

static bool is_held(struct shard *shard, struct outlet *outlet)
{
	if (!outlet->hold)
		return false;
	if (gvm_now() >= outlet->hold) {
		outlet->hold = 0;
		return false;
	}
	wake_for(shard, outlet);
	return true;
}

/* Tried again and again, so told once, until a put succeeds or fails otherwise. */
static void tell_refused(struct outlet *outlet, const struct put *put, int status)
{
	static struct gvm_log_limit limit;

	if (outlet->told == status)
		return;
	outlet->told = status;
	gvm_log_limited(&limit, GVM_LOG_ERROR,
			"%u pages of %s from %llu on could not be stored%s: %s", put->count,
			put->view->range->name, (unsigned long long)put->page,
			status == -EIO ? "" : ", and are tried again",
			status == -EIO ? "the memory node has lost the region" : strerror(-status));
}

static void put_done(struct gvm_region_op *op, int status)
{
	struct put *put = (struct put *)op;
	struct view *view = put->view;
	struct shard *shard = view->shard;
	struct outlet *outlet = outlet_of(shard, put->slot);

	outlet->putting--;
	outlet->heard_ns = gvm_now();
	if (status && status != -EIO && status != -ECANCELED)
		hold_puts(shard, outlet);
	if (status)
		view->put_err = status;
	if (status && status != -ECANCELED)
		tell_refused(outlet, put, status);
	if (status == 0) {
		outlet->hold_ns = 0;
		outlet->told = 0;
		STAT_ADD(shard, written_pages, put->count);
		STAT_ADD(shard, written_bytes, (uint64_t)put->count * PAGE);
	}
	for (uint32_t k = 0; k < put->count; k++)
		put_page_done(put, k, status);
	put->count = 0;
	relist(shard, outlet);
	shard->putting--;
	view->writing[put->turn]--;
	put->next_free = shard->put_free;
	shard->put_free = (uint32_t)(put - shard->puts);
	if (view->purge_lo < view->purge_hi)
		shard->purge_wanted = true;
	if (--view->busy == 0)
		view_idle(view);
}

static bool post_put(struct shard *shard, uint32_t first, uint32_t count)
{
	struct slot *slot = &shard->slots[first];
	struct view *view = &shard->views[slot->range];
	struct put *put = &shard->puts[shard->put_free];
	struct outlet *outlet = outlet_of(shard, first);
	int err;

	put->view = view;
	put->page = slot->page;
	put->count = count;
	put->slot = first;
	put->op.done = put_done;
	put->op.deadline_ns = GVM_NEVER;
	err = shard->pager->store->put(view->region, put->page, count, slot_mem(shard, first),
				       &put->op);
	if (err) {
		put->count = 0;
		return false;
	}
	if (outlet->putting++ == 0)
		outlet->heard_ns = gvm_now();
	shard->put_free = put->next_free;
	shard->putting++;
	put->turn = view->turn;
	view->writing[put->turn]++;
	view->busy++;
	for (uint32_t k = 0; k < count; k++) {
		page_word *w = &view->table[put->page + k];

		if (!(*w & PAGE_STORED))
			STAT_ADD(shard, stored_pages, 1);
		/* what was discarded and not told yet is overwritten now, so it need not be told */
		*w = (*w & ~(page_word)(PAGE_DIRTY | PAGE_PURGE)) | PAGE_WRITING | PAGE_STORED |
		     PAGE_PUT;
		view->dirty--;
		dirty_remove(shard, first + k);
	}
	return true;
}

/* Neighbours in slots beside each other go together. */
static uint32_t put_run(struct shard *shard, uint32_t first)
{
	const struct slot *s = shard->slots;
	uint32_t slab = shard->views[s[first].range].slab_pages, n = 1;

	while (n < RUN_MAX && first + n < shard->slot_limit &&
	       slot_mem(shard, first + n) == slot_mem(shard, first) + (uint64_t)n * PAGE &&
	       (s[first + n].flags & SLOT_QUEUED) && s[first + n].range == s[first].range &&
	       s[first + n].page == s[first].page + n && s[first + n].page % slab != 0 &&
	       can_put(shard, first + n))
		n++;
	return n;
}

static void write_out(struct shard *shard, struct outlet *outlet)
{
	uint32_t i = outlet->dirty.tail;

	while (i != GVM_NIL && shard->put_free != GVM_NIL && outlet->putting < PUTS_NODE) {
		uint32_t next = shard->slots[i].dirty.prev;
		uint32_t n = can_put(shard, i) ? put_run(shard, i) : 0;

		/* the run may have taken what is next in the queue: begin again from its end */
		if (n && !post_put(shard, i, n))
			break;
		i = n > 1 ? outlet->dirty.tail : next;
	}
}

void shard_write_back(struct shard *shard)
{
	if (shard->outbound.count == 0)
		return;
	/* each node once, and in turn, so that all get their share of the places */
	for (uint32_t n = shard->outbound.count; n > 0; n--) {
		uint32_t i = shard->outbound.tail;
		struct outlet *outlet = &shard->outlets[i];
		bool held = is_held(shard, outlet),
		     away = held ? shard->outlets_seen > 1 : is_away(shard, outlet);

		gvm_queue_remove(&shard->outbound, shard->outlets, sizeof(*outlet), i);
		gvm_queue_push(&shard->outbound, shard->outlets, sizeof(*outlet), i);
		if (away && !outlet->away)
			set_away(shard, outlet);
		outlet->away = away;
		if (!away && !held)
			write_out(shard, outlet);
	}
	gvm_worker_flush(shard->worker);
}

void hold_timer(struct gvm_timer *timer)
{
	struct shard *shard = (struct shard *)((char *)timer - offsetof(struct shard, hold_timer));

	if (!shard->settling && !shard->resting)
		shard_write_back(shard);
}
