/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A shard's bookkeeping: which address is which page (pieces), frames of mapped pages, slots of
 * pages taken out, and the changes of a page's word that several others share. The shard's thread
 * only.
 */
#include <sys/mman.h>
#include <stdlib.h>
#include "internal.h"

/* ---- pieces: sorted by address ------------------------------------------------------------- */

/* The first piece that ends after addr. */
static uint32_t piece_after(const struct shard *shard, uint64_t addr)
{
	uint32_t low = 0, high = shard->piece_count;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;
		const struct piece *p = &shard->pieces[mid];

		if (p->addr + p->pages * PAGE <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

struct view *piece_find(struct shard *shard, uint64_t addr, uint64_t *page, uint64_t *until)
{
	uint32_t i = piece_after(shard, addr);
	const struct piece *p = &shard->pieces[i];

	if (i == shard->piece_count || p->addr > addr) {
		if (until)
			*until = i == shard->piece_count ? UINT64_MAX : p->addr;
		return NULL;
	}
	*page = p->first + (addr - p->addr) / PAGE;
	if (until)
		*until = p->addr + p->pages * PAGE;
	return &shard->views[p->range];
}

static int piece_insert(struct shard *shard, uint32_t at, struct piece piece)
{
	if (shard->piece_count == PIECES_MAX) {
		gvm_log(GVM_LOG_ERROR,
			"a pager thread follows %u parts of mappings already: "
			"too many holes in paged memory",
			PIECES_MAX);
		return -ENOSPC;
	}
	memmove(shard->pieces + at + 1, shard->pieces + at,
		(shard->piece_count - at) * sizeof(piece));
	shard->pieces[at] = piece;
	shard->piece_count++;
	return 0;
}

static void view_recount(struct shard *shard, uint32_t range)
{
	struct view *view = &shard->views[range];
	uint32_t n = 0;

	view->whole = false;
	for (uint32_t i = 0; i < shard->piece_count && n < 2; i++) {
		const struct piece *p = &shard->pieces[i];

		if (p->range != range)
			continue;
		view->whole = ++n == 1 && p->first == 0 && p->pages == view->pages;
		view->base = p->addr;
	}
}

int piece_add(struct shard *shard, uint64_t addr, uint64_t first, uint64_t pages, uint32_t range)
{
	struct piece piece = { .addr = addr, .first = first, .pages = pages, .range = range };
	uint32_t at = piece_after(shard, addr);
	int err = 0;

	/* what continues the one before is joined to it: a range that has grown or moved piecemeal
	 */
	if (at > 0) {
		struct piece *before = &shard->pieces[at - 1];

		if (before->range == range && before->addr + before->pages * PAGE == addr &&
		    before->first + before->pages == first) {
			before->pages += pages;
			at = UINT32_MAX;
		}
	}
	if (at != UINT32_MAX)
		err = piece_insert(shard, at, piece);
	view_recount(shard, range);
	return err;
}

void piece_cut(struct shard *shard, uint64_t addr, uint64_t end)
{
	uint32_t i = piece_after(shard, addr);

	while (i < shard->piece_count && shard->pieces[i].addr < end) {
		struct piece *p = &shard->pieces[i], after = *p;
		uint64_t p_end = p->addr + p->pages * PAGE;

		if (p_end > end) {
			after.pages = (p_end - end) / PAGE;
			after.first = p->first + (p->pages - after.pages);
			after.addr = end;
		} else {
			after.pages = 0;
		}
		if (p->addr < addr) {
			p->pages = (addr - p->addr) / PAGE;
			i++;
			if (after.pages)
				piece_insert(shard, i, after);
		} else if (after.pages) {
			*p = after;
		} else {
			memmove(p, p + 1, (shard->piece_count - i - 1) * sizeof(*p));
			shard->piece_count--;
			view_recount(shard, after.range);
			continue;
		}
		view_recount(shard, after.range);
		if (after.pages)
			break;
	}
}

void piece_drop_range(struct shard *shard, uint32_t range)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < shard->piece_count; i++)
		if (shard->pieces[i].range != range)
			shard->pieces[kept++] = shard->pieces[i];
	shard->piece_count = kept;
}

uint64_t view_addr(struct view *view, uint64_t page)
{
	struct shard *shard = view->shard;

	if (view->whole)
		return view->base + page * PAGE;
	for (uint32_t i = 0; i < shard->piece_count; i++) {
		const struct piece *p = &shard->pieces[i];

		if (p->range == view->id && page - p->first < p->pages)
			return p->addr + (page - p->first) * PAGE;
	}
	return 0;
}

bool view_owns(const struct view *view, uint64_t page)
{
	unsigned shards = view->shard->pager->shards;

	return shards == 1 || (page / view->slab_pages + view->id) % shards == view->shard->number;
}

uint64_t view_stretch(const struct view *view, uint64_t page, uint64_t end, uint64_t *until)
{
	uint64_t stop;

	if (view->shard->pager->shards == 1) {
		*until = end;
		return page;
	}
	while (page < end && !view_owns(view, page))
		page = (page / view->slab_pages + 1) * view->slab_pages;
	stop = (page / view->slab_pages + 1) * view->slab_pages;
	*until = stop < end ? stop : end;
	return page < end ? page : end;
}

/* ---- frames -------------------------------------------------------------------------------- */

static void *regrow(void *old, uint64_t old_bytes, uint64_t bytes)
{
	void *p;

	if (!old)
		return mem_map(bytes);
#ifdef __SANITIZE_THREAD__
	/* it is not told of a mapping that moves, and would take what comes to lie in the old
	 * place, of another thread perhaps, for what was there */
	p = mem_map(bytes);
	return p ? memcpy(p, old, old_bytes) : NULL;
#else
	p = sys_mremap(old, old_bytes, bytes, MREMAP_MAYMOVE, NULL);
	return p == MAP_FAILED ? NULL : p;
#endif
}

/* A shard may come to hold the whole budget, and more for a moment (see frames_force). */
int frames_limit(struct shard *shard, uint64_t budget)
{
	uint64_t want = budget + budget / 8 + 4096, old = shard->frame_limit;
	struct frame *frames;

	if (want <= old)
		return 0;
	if (want >= GVM_NIL)
		return -ERANGE;
	frames = regrow(shard->frames, old * sizeof(*frames), want * sizeof(*frames));
	if (!frames)
		return -ENOMEM;
	shard->frames = frames;
	shard->frame_limit = (uint32_t)want;
	return 0;
}

uint32_t frame_get(struct shard *shard)
{
	uint32_t i = shard->frame_free;

	if (i != GVM_NIL) {
		shard->frame_free = shard->frames[i].link.next;
		return i;
	}
	/* only far above the budget, where pages will not let go: then more room is better than
	 * none */
	if (shard->frame_used == shard->frame_limit &&
	    frames_limit(shard, (uint64_t)shard->frame_limit + shard->frame_limit / 8))
		abort();
	/* other threads read it for statistics */
	__atomic_store_n(&shard->frame_used, shard->frame_used + 1, __ATOMIC_RELAXED);
	return shard->frame_used - 1;
}

void frame_put(struct shard *shard, uint32_t i)
{
	shard->frames[i].link.next = shard->frame_free;
	shard->frame_free = i;
}

/* ---- slots --------------------------------------------------------------------------------- */

#define CHUNK_SLOTS 1024u /* that lie beside each other */
#define CHUNKS_MAX  65536u
#define SLOTS_STEP  64u /* a chunk is put to use by so many */

char *slot_mem(struct shard *shard, uint32_t slot)
{
	return shard->chunks[slot / CHUNK_SLOTS] + (uint64_t)(slot % CHUNK_SLOTS) * PAGE;
}

static int chunk_add(struct shard *shard, uint32_t number)
{
	uint64_t bytes = (uint64_t)CHUNK_SLOTS * PAGE;
	char *chunk = mem_map(bytes);
	int err;

	if (!chunk)
		return -ENOMEM;
	if (shard->stage_fd >= 0) {
		/* only so that pages may be moved in; write-protection is never asked for here */
		err =
		    mem_register(shard->stage_fd, (uintptr_t)chunk, bytes, UFFDIO_REGISTER_MODE_WP);
		if (err) {
			mem_unmap(chunk, bytes);
			return err;
		}
	}
	shard->chunks[number] = chunk;
	return 0;
}

static int slots_grow(struct shard *shard)
{
	uint32_t old = shard->slot_limit;
	uint64_t want = old + SLOTS_STEP;
	struct slot *slots;
	int err = 0;

	if (want > (uint64_t)CHUNK_SLOTS * CHUNKS_MAX)
		return -ERANGE;
	slots = regrow(shard->slots, old * sizeof(*slots), want * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	shard->slots = slots;
	if (old % CHUNK_SLOTS == 0)
		err = chunk_add(shard, old / CHUNK_SLOTS);
	if (err == 0)
		__atomic_store_n(&shard->slot_limit, (uint32_t)want, __ATOMIC_RELAXED);
	return err;
}

/* So many for that many victims: some are being written, some not yet emptied, and runs of free
 * ones are wanted. They are all used in turn, so each of them is memory. */
static uint64_t slots_for(uint64_t victims)
{
	return victims + victims / 8 + 4 * RUN_MAX + POOL_MAX;
}

/* Room for the victims that the policy wants of a shard's share of the budget; it may come to hold
 * more than that (see slots_prepare), up to all of it. */
int slots_limit(struct shard *shard, uint64_t budget)
{
	uint64_t share = budget / shard->pager->shards;
	uint64_t pool = share / 16;

	shard->stale_limit = pool < ZAP_BATCH  ? ZAP_BATCH
			     : pool > POOL_MAX ? POOL_MAX
					       : (uint32_t)pool;
	if (!shard->chunks)
		shard->chunks = mem_map(CHUNKS_MAX * sizeof(*shard->chunks));
	if (!shard->chunks)
		return -ENOMEM;
	shard->slot_most = slots_for(gvm_policy_victims(budget));
	while (shard->slot_limit < slots_for(gvm_policy_victims(share))) {
		int err = slots_grow(shard);

		if (err)
			return err;
	}
	return 0;
}

int slots_prepare(struct shard *shard, uint32_t count)
{
	bool more =
	    shard->slot_limit < shard->slot_most && shard->slot_limit < slots_for(shard->slot_busy);
	/* the slots of stranded pages are not there for those that leave */
	bool must = shard->stranded && shard->slot_limit - shard->slot_busy < count;
	int err = more || must ? slots_grow(shard) : 0;

	return must ? err : 0;
}

static bool is_stale(const struct shard *shard, uint32_t slot)
{
	return (shard->slots[slot].flags & (SLOT_BUSY | SLOT_FULL)) == SLOT_FULL;
}

static uint32_t stale_pop(struct shard *shard)
{
	shard->stale_count--;
	return shard->stale[shard->stale_from++ % POOL_MAX];
}

/* Empty up to a batch of them, neighbours in one call. Sorted here: qsort may allocate. */
void slot_zap(struct shard *shard)
{
	uint32_t stale[ZAP_BATCH] = { 0 };
	uint32_t n = shard->stale_count < ZAP_BATCH ? shard->stale_count : ZAP_BATCH;

	for (uint32_t i = 0, k; i < n; i++) {
		uint32_t slot = stale_pop(shard);

		for (k = i; k > 0 && stale[k - 1] > slot; k--)
			stale[k] = stale[k - 1];
		stale[k] = slot;
	}
	for (uint32_t i = 0; i < n;) {
		uint32_t first = stale[i], end = first;

		/* a slot that was used again meanwhile is in the list twice, or not stale */
		for (; i < n && (stale[i] == end || stale[i] + 1 == end); i++) {
			if (!is_stale(shard, stale[i]) || (end > first && end % CHUNK_SLOTS == 0))
				break;
			shard->slots[stale[i]].flags = 0;
			end = stale[i] + 1;
		}
		if (end > first)
			sys_madvise(slot_mem(shard, first), (uint64_t)(end - first) * PAGE,
				    MADV_DONTNEED);
		else
			i++;
	}
}

/* What was a page of the program's may still be read by the kernel, to which it was lent. */
static bool is_lent(const struct shard *shard)
{
	return __atomic_load_n(&shard->pager->lent, __ATOMIC_SEQ_CST);
}

/* In the order in which they were freed: pages that left together lie beside each other. */
uint32_t slot_recycle(struct shard *shard, uint32_t want, uint32_t *first)
{
	uint32_t n = 0, i;

	if (is_lent(shard))
		return 0;
	while (n < want && shard->stale_count) {
		i = shard->stale[shard->stale_from % POOL_MAX];
		if (n && (i != *first + n || i % CHUNK_SLOTS == 0))
			break;
		stale_pop(shard);
		if (!is_stale(shard, i)) {
			if (n)
				break;
			continue;
		}
		if (n++ == 0)
			*first = i;
		shard->slots[i].flags |= SLOT_BUSY;
		shard->slot_busy++;
	}
	return n;
}

static bool slot_fits(const struct shard *shard, uint32_t slot, bool empty)
{
	unsigned flags = shard->slots[slot].flags;

	return !(flags & SLOT_BUSY) && !(empty && (flags & SLOT_FULL));
}

static uint32_t slot_search(struct shard *shard, uint32_t want, bool empty, uint32_t *first)
{
	uint32_t i = shard->slot_cursor, got = 0;

	for (uint32_t seen = 0; seen < shard->slot_limit; seen++, i++) {
		if (i >= shard->slot_limit)
			i = 0;
		if (!slot_fits(shard, i, empty))
			continue;
		*first = i;
		do {
			shard->slots[i].flags |= SLOT_BUSY;
			got++;
			i++;
		} while (got < want && i < shard->slot_limit && i % CHUNK_SLOTS != 0 &&
			 slot_fits(shard, i, empty));
		shard->slot_cursor = i;
		shard->slot_busy += got;
		return got;
	}
	return 0;
}

/*
 * Next fit: pages that are taken one after another get slots beside each other, so that
 * neighbours can be written back in one put from where they are.
 */
uint32_t slot_get(struct shard *shard, uint32_t want, bool empty, uint32_t *first)
{
	uint32_t got = 0;

	empty |= is_lent(shard);
	if (shard->slot_busy < shard->slot_limit)
		got = slot_search(shard, want, empty, first);
	if (got == 0 && shard->stale_count) {
		while (shard->stale_count)
			slot_zap(shard);
		got = slot_search(shard, want, empty, first);
	}
	return got;
}

void slot_put(struct shard *shard, uint32_t slot)
{
	struct slot *s = &shard->slots[slot];

	s->flags &= SLOT_FULL;
	shard->slot_busy--;
	if (!(s->flags & SLOT_FULL))
		return;
	if (shard->stale_count >= shard->stale_limit)
		slot_zap(shard);
	shard->stale[(shard->stale_from + shard->stale_count++) % POOL_MAX] = slot;
}

/* ---- a page's word ------------------------------------------------------------------------- */

void page_set_mapped(struct view *view, uint64_t page, uint64_t flags)
{
	struct shard *shard = view->shard;
	uint32_t i = frame_get(shard);
	struct frame *frame = &shard->frames[i];

	frame->page = (uint32_t)page;
	frame->range = (uint16_t)view->id;
	gvm_queue_push(&shard->mapped, shard->frames, sizeof(*frame), i);
	view->table[page] = page_make(PAGE_MAPPED, flags, i);
}

void page_set_unsure(struct view *view, uint64_t page, uint64_t flags, const void *contents)
{
	struct shard *shard = view->shard;

	page_set_mapped(view, page, flags | PAGE_UNSURE);
	digest_page(shard->pager->digests, contents,
		    &shard->frames[page_index(view->table[page])].digest);
}

static void drop_frame(struct view *view, uint32_t i)
{
	struct shard *shard = view->shard;

	frame_unlink(shard, i);
	frame_put(shard, i);
}

/* A victim leaves its slot. While it is being written the slot stays until that is done. */
static void drop_slot(struct view *view, uint32_t i, page_word w)
{
	struct shard *shard = view->shard;
	struct slot *slot = &shard->slots[i];

	victim_remove(shard, i);
	if (w & PAGE_DIRTY)
		view->dirty--;
	dirty_remove(shard, i);
	if (w & PAGE_WRITING)
		slot->flags |= SLOT_ORPHAN;
	else
		slot_put(shard, i);
}

void page_forget(struct view *view, uint64_t page, unsigned state)
{
	page_word w = view->table[page];
	bool here = page_state(w) == PAGE_MAPPED || page_state(w) == PAGE_VICTIM;

	if (here && (w & PAGE_AHEAD))
		prefetch_outcome(view, page, false);
	switch (page_state(w)) {
	case PAGE_MAPPED:
		drop_frame(view, page_index(w));
		frames_release(view->shard, 1);
		break;
	case PAGE_VICTIM:
		drop_slot(view, page_index(w), w);
		frames_release(view->shard, 1);
		break;
	default:
		break; /* a fetch or a job finds out that the page is not its any more */
	}
	if (state == PAGE_GONE)
		w &= ~(page_word)PAGE_HELD;
	view->table[page] = page_make(state, w & PAGE_KEEP, 0);
}

void view_purge_note(struct view *view, uint64_t page, uint64_t pages)
{
	if (view->purge_lo >= view->purge_hi) {
		view->purge_lo = page;
		view->purge_hi = page + pages;
	} else {
		if (page < view->purge_lo)
			view->purge_lo = page;
		if (page + pages > view->purge_hi)
			view->purge_hi = page + pages;
	}
	view->shard->purge_wanted = true;
}

/* What the region holds is void from now on; it will be told. */
page_word page_unstore(struct view *view, uint64_t page, page_word w)
{
	view_purge_note(view, page, 1);
	STAT_ADD(view->shard, discarded_pages, 1);
	STAT_ADD(view->shard, stored_pages, -1);
	return (w & ~(page_word)PAGE_STORED) | PAGE_PURGE;
}

void page_discard(struct view *view, uint64_t page, unsigned state)
{
	page_word w;

	page_forget(view, page, state);
	w = view->table[page] & ~(page_word)PAGE_LOST;
	if (w & PAGE_STORED)
		w = page_unstore(view, page, w);
	view->table[page] = w;
}
