/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Pages on their way here: fetches for faults and for prefetch, and what happens when they arrive.
 * The shard's thread only. Each page of a fetch holds a frame of the budget from the post on; a
 * page that is discarded meanwhile just no longer points to the fetch, which then gives its frame
 * back.
 */
#include "internal.h"

static void fetch_done(struct gvm_region_op *op, int status);

static struct fetch *take(struct shard *shard, uint32_t *list)
{
	struct fetch *fetch;

	if (*list == GVM_NIL)
		return NULL;
	fetch = &shard->fetches[*list];
	*list = fetch->next_free;
	return fetch;
}

void shard_free_fetch(struct shard *shard, struct fetch *fetch)
{
	uint32_t *list = fetch->number < DEMANDS ? &shard->demand_free : &shard->ahead_free;

	fetch->next_free = *list;
	*list = fetch->number;
}

/*
 * A node that is away has GVM_UNREACHABLE_MS from when it went, not from each fault: once that is
 * over, who asks is answered at once, until the node gives a sign of life.
 */
static uint64_t deadline(const struct view *view, uint64_t page, uint64_t *since)
{
	const struct gvm_pager *pager = view->shard->pager;
	uint64_t now = gvm_now(), most = pager->config.unreachable_ms * 1000000ull;

	*since = 0;
	if (pager->config.unreachable == GVM_UNREACHABLE_STALL)
		return GVM_NEVER;
	*since = pager->store->away_since(view->region, page);
	if (!*since)
		return now + most;
	return *since + most > now ? *since + most : now;
}

static int send_fetch(struct fetch *fetch)
{
	struct view *view = fetch->view;
	uint64_t since;

	fetch->op.done = fetch_done;
	fetch->op.local = view->shard->landing;
	fetch->op.deadline_ns = deadline(view, fetch->page, &since);
	fetch->hurried = since != 0;
	return view->shard->pager->store->fetch(view->region, fetch->page, fetch->count, fetch->buf,
						&fetch->op);
}

/* Its time was what the node had left while it was away. If it is back it has all of it. */
static bool sent_again(struct fetch *fetch)
{
	uint64_t since;

	return fetch->hurried && deadline(fetch->view, fetch->page, &since) > gvm_now() &&
	       send_fetch(fetch) == 0;
}

static int post(struct view *view, struct fetch *fetch, uint64_t page, uint32_t count)
{
	struct shard *shard = view->shard;
	int err;

	fetch->view = view;
	fetch->page = page;
	fetch->count = count;
	err = send_fetch(fetch);
	if (err) {
		shard_free_fetch(shard, fetch);
		return err;
	}
	view->busy++;
	shard->fetching++;
	return 0;
}

static bool is_away(const struct view *view, uint64_t page)
{
	return view->shard->outlets_seen > 1 &&
	       view->shard->pager->store->away_since(view->region, page) != 0;
}

/*
 * How many places may be in use, for all nodes, for this one to get another? A node that does not
 * answer keeps what it has for as long, and until that is known it looks like any other. So a node
 * has at most as many as are free (Choudhury and Hahne, 1998, dynamic thresholds): one alone half
 * of them, two a third each; some are left for the others however many stop in the same instant.
 * Those that are known to be away get none of the last half.
 */
static uint32_t places_below(const struct view *view, uint64_t page, const struct outlet *outlet)
{
	uint32_t most = DEMANDS - outlet->demands;

	return most > DEMANDS_NODE && is_away(view, page) ? DEMANDS_NODE : most;
}

static bool claim(struct view *view, uint64_t page, uint16_t *number)
{
	struct shard *shard = view->shard;
	struct outlet *outlet;
	uint32_t below;

	*number = NO_OUTLET;
	if (shard->outlets_seen < 2)
		return true;
	*number = outlet_note(shard, shard->pager->store->node(view->region, page));
	outlet = &shard->outlets[*number];
	below = places_below(view, page, outlet);
	if (shard->demands < below)
		return true;
	if (shard->unpark_below < below)
		shard->unpark_below = below;
	outlet->parked = true;
	return false;
}

static void account(struct shard *shard, uint16_t number, int n)
{
	if (number == NO_OUTLET)
		return;
	shard->outlets[number].demands += (uint32_t)n;
	shard->demands += (uint32_t)n;
}

/* Those that wait for its node, or for one that had to stand back, may go on. */
static void give_back(struct shard *shard, const struct fetch *fetch)
{
	struct outlet *outlet;

	if (fetch->outlet == NO_OUTLET)
		return;
	outlet = &shard->outlets[fetch->outlet];
	account(shard, fetch->outlet, -1);
	if (shard->parked_count && (outlet->parked || shard->demands < shard->unpark_below))
		shard->unpark = true;
	outlet->parked = false;
}

int fetch_demand(struct view *view, uint64_t page, bool write, uint64_t start_ns)
{
	struct shard *shard = view->shard;
	page_word w = view->table[page];
	struct fetch *fetch;
	uint16_t outlet;
	int err;

	if (!claim(view, page, &outlet))
		return -EBUSY;
	fetch = take(shard, &shard->demand_free);
	if (!fetch)
		return -EAGAIN;
	fetch->outlet = outlet;
	fetch->start_ns = start_ns;
	fetch->demand = true;
	err = post(view, fetch, page, 1);
	if (err)
		return err == -EBUSY ? -EAGAIN : err;
	account(shard, outlet, 1);
	view->table[page] =
	    page_make(PAGE_FETCHING, (w & PAGE_KEEP) | PAGE_WANTED | (write ? PAGE_WANTED_W : 0),
		      fetch->number);
	return 0;
}

/* Fetch up to count pages, all stored and not here; the caller has reserved their frames. Returns
 * how many are on their way. */
uint32_t fetch_ahead(struct view *view, uint64_t page, uint32_t count)
{
	struct shard *shard = view->shard;
	/* the last few single places are kept for faults */
	struct fetch *fetch = NULL;

	if (is_away(view, page)) /* it would keep the place */
		return 0;
	if (count > 1)
		fetch = take(shard, &shard->ahead_free);
	if (!fetch && shard->fetching < DEMANDS / 2) {
		fetch = take(shard, &shard->demand_free);
		count = 1;
	}
	if (!fetch)
		return 0;
	fetch->start_ns = 0;
	fetch->demand = false;
	fetch->outlet = NO_OUTLET;
	if (post(view, fetch, page, count))
		return 0;
	if (fetch->number < DEMANDS && shard->outlets_seen > 1) {
		fetch->outlet = outlet_note(shard, shard->pager->store->node(view->region, page));
		account(shard, fetch->outlet, 1);
	}
	for (uint32_t i = 0; i < count; i++)
		view->table[page + i] = page_make(
		    PAGE_FETCHING, (view->table[page + i] & PAGE_KEEP) | PAGE_AHEAD, fetch->number);
	return count;
}

static bool is_of(const struct fetch *fetch, page_word w)
{
	return page_state(w) == PAGE_FETCHING && page_index(w) == fetch->number;
}

/* ---- arrival ------------------------------------------------------------------------------- */

/* Put a page that nobody has asked for yet among the victims, where its first touch is seen. */
static bool lay_aside(struct view *view, uint64_t page, const char *src)
{
	struct shard *shard = view->shard;
	page_word w = view->table[page];
	struct slot *slot;
	uint32_t i;

	if (!slot_recycle(shard, 1, &i) && !slot_get(shard, 1, false, &i))
		return false;
	memcpy(slot_mem(shard, i), src, PAGE);
	slot = &shard->slots[i];
	slot->page = (uint32_t)page;
	slot->range = (uint16_t)view->id;
	slot->flags |= SLOT_FULL;
	victim_push(shard, i);
	view->table[page] = page_make(PAGE_VICTIM, (w & PAGE_KEEP) | PAGE_AHEAD, i);
	return true;
}

/*
 * A run into the mapping by way of memory that pages have left, which saves the kernel the pages'
 * making and unmaking. (For a single page the move and its flush of the TLB cost more than that: a
 * random fault took 2.5 us longer.) A page that is moved can be written to at once, so what tells
 * whether it was is its digest. Where the kernel says that fewer went than did, the rest are found
 * there, and dirty.
 */
static uint32_t arrive_moved(struct fetch *fetch, uint32_t from, uint32_t count)
{
	struct view *view = fetch->view;
	struct shard *shard = view->shard;
	const char *src = fetch->buf + (uint64_t)from * PAGE;
	uint64_t page = fetch->page + from, addr = view_addr(view, page), done;
	uint32_t slot, n, k;

	if (!shard->pager->digests || !view->anon || !addr)
		return 0;
	n = slot_recycle(shard, count, &slot);
	if (n == 0)
		return 0;
	memcpy(slot_mem(shard, slot), src, (uint64_t)n * PAGE);
	mem_move(shard->uffd, addr, (uintptr_t)slot_mem(shard, slot), (uint64_t)n * PAGE, &done);
	for (k = 0; k < done / PAGE; k++) {
		page_word w = view->table[page + k];

		shard->slots[slot + k].flags &= (uint16_t)~SLOT_FULL;
		if (w & PAGE_WANTED_W)
			page_set_mapped(view, page + k, (w & PAGE_KEEP) | PAGE_DIRTY);
		else
			page_set_unsure(view, page + k, w & (PAGE_KEEP | PAGE_AHEAD),
					src + (uint64_t)k * PAGE);
	}
	for (uint32_t i = 0; i < n; i++)
		slot_put(shard, slot + i);
	return k;
}

/* One page into the mapping; false: it is not this fetch's any more. */
static bool arrive(struct fetch *fetch, uint32_t i)
{
	struct view *view = fetch->view;
	uint64_t page = fetch->page + i;
	page_word w = view->table[page];
	bool write = w & PAGE_WANTED_W;
	int err;

	err = page_install(view, page, fetch->buf + (uint64_t)i * PAGE, write);

	if (err == -ECHILD)
		return is_of(fetch, view->table[page]) && arrive(fetch, i);
	if (err && err != -EEXIST) {
		uint64_t addr = view_addr(view, page);

		view->table[page] = page_make(PAGE_NONE, view->table[page] & PAGE_KEEP, 0);
		if (addr)
			mem_wake(view->shard->uffd, addr, PAGE);
		return false;
	}
	w = view->table[page];
	page_set_mapped(view, page,
			(w & (PAGE_KEEP | PAGE_AHEAD)) |
			    (write || err == -EEXIST ? PAGE_DIRTY : 0));
	return true;
}

static bool plain(const struct fetch *fetch, uint32_t i)
{
	page_word w = fetch->view->table[fetch->page + i];

	return is_of(fetch, w) && !(w & PAGE_WANTED_W) &&
	       ((w & PAGE_WANTED) || !prefetch_is_marker(fetch->view, fetch->page + i));
}

/* As many pages as can go in with one request to the kernel. Returns how many went. */
static uint32_t arrive_run(struct fetch *fetch, uint32_t from)
{
	struct view *view = fetch->view;
	uint32_t n = 0, k;
	uint64_t done, addr = view_addr(view, fetch->page + from);

	while (from + n < fetch->count && plain(fetch, from + n) &&
	       view_addr(view, fetch->page + from + n) == addr + (uint64_t)n * PAGE)
		n++;
	if (n < 2 || !addr)
		return 0;
	k = arrive_moved(fetch, from, n);
	if (k)
		return k;
	mem_copy(view->shard->uffd, addr, fetch->buf + (uint64_t)from * PAGE, (uint64_t)n * PAGE,
		 true, &done);
	for (k = 0; k < done / PAGE; k++) {
		uint64_t page = fetch->page + from + k;

		page_set_mapped(view, page, view->table[page] & (PAGE_KEEP | PAGE_AHEAD));
	}
	return k;
}

/* Pages that came ahead of the faults that asked for them, but not by much. */
static void count_wanted(struct fetch *fetch)
{
	struct view *view = fetch->view;

	for (uint64_t p = fetch->page; p < fetch->page + fetch->count; p++) {
		page_word w = view->table[p];

		if (!is_of(fetch, w) || !(w & PAGE_WANTED))
			continue;
		prefetch_outcome(view, p, true);
		view->table[p] &= ~(page_word)PAGE_AHEAD;
	}
}

static uint32_t arrived(struct fetch *fetch)
{
	struct view *view = fetch->view;
	uint32_t here = 0;

	for (uint32_t i = 0; i < fetch->count;) {
		uint64_t page = fetch->page + i;
		page_word w = view->table[page];
		uint32_t n = plain(fetch, i) ? arrive_run(fetch, i) : 0;

		if (n) {
			here += n;
			i += n;
			continue;
		}
		if (is_of(fetch, w)) {
			if (!(w & PAGE_WANTED) && prefetch_is_marker(view, page) &&
			    lay_aside(view, page, fetch->buf + (uint64_t)i * PAGE))
				here++;
			else
				here += arrive(fetch, i);
		}
		i++;
	}
	return here;
}

/* ---- failure ------------------------------------------------------------------------------- */

/* Policy zero: 1 if the page is here. */
static uint32_t zeroed(struct fetch *fetch, uint64_t page, int status)
{
	struct view *view = fetch->view;
	int err;

	do
		err = page_zeroed(view, page, status);
	while (err == -ECHILD && is_of(fetch, view->table[page]));
	if (err == 0)
		return 1;
	if (is_of(fetch, view->table[page])) {
		uint64_t addr = view_addr(view, page);

		/* whoever waits for it faults again */
		view->table[page] = page_make(PAGE_NONE, view->table[page] & PAGE_KEEP, 0);
		if (addr)
			mem_wake(view->shard->uffd, addr, PAGE);
	}
	return 0;
}

/* A page of a fetch that has failed. Returns 1 if it is here nevertheless (policy zero). */
static uint32_t failed_page(struct fetch *fetch, uint64_t page, int status)
{
	struct view *view = fetch->view;
	bool refused = (view->table[page] & PAGE_WANTED) && status != -ECANCELED;

	if (status == -EIO)
		page_lose(view, page);
	if (refused && zeros_for_lost(view->shard))
		return zeroed(fetch, page, status);
	view->table[page] = page_make(PAGE_NONE, view->table[page] & PAGE_KEEP, 0);
	if (refused)
		page_refuse(view, page, status);
	return 0;
}

static uint32_t failed(struct fetch *fetch, int status)
{
	uint32_t here = 0;

	for (uint32_t i = 0; i < fetch->count; i++)
		if (is_of(fetch, fetch->view->table[fetch->page + i]))
			here += failed_page(fetch, fetch->page + i, status);
	return here;
}

/* The range is closing or paused: who waits asks again. */
static uint32_t unwanted(struct fetch *fetch)
{
	struct view *view = fetch->view;

	for (uint64_t p = fetch->page; p < fetch->page + fetch->count; p++)
		if (is_of(fetch, view->table[p]))
			view->table[p] = page_make(PAGE_NONE, view->table[p] & PAGE_KEEP, 0);
	return 0;
}

static void fetch_done(struct gvm_region_op *op, int status)
{
	struct fetch *fetch = (struct fetch *)op;
	struct view *view = fetch->view;
	struct shard *shard = view->shard;
	uint32_t here;

	if (view->closing) {
		here = unwanted(fetch);
	} else if (status == 0) {
		STAT_ADD(shard, fetched_pages, fetch->count);
		STAT_ADD(shard, fetched_bytes, (uint64_t)fetch->count * PAGE);
		if (!fetch->demand) {
			STAT_ADD(shard, prefetched_pages, fetch->count);
			count_wanted(fetch);
		}
		here = arrived(fetch);
		if (!fetch->demand) /* discarded meanwhile */
			STAT_ADD(shard, prefetch_wasted, fetch->count - here);
	} else if (status == -ETIMEDOUT && sent_again(fetch)) {
		return;
	} else {
		here = failed(fetch, status);
	}
	if (fetch->start_ns)
		gvm_hist_add(&shard->latency.remote, gvm_now() - fetch->start_ns);
	frames_release(shard, fetch->count - here);
	shard->fetching--;
	give_back(shard, fetch);
	shard_free_fetch(shard, fetch);
	if (--view->busy == 0)
		view_idle(view);
}
