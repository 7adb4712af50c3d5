/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What makes a region smaller or larger: discards and resizes. */
#include "store_internal.h"

#include <errno.h>

/* Zero count pages from page (in the slab) on; where that is all of it the slab goes. */
static int discard_in(struct session *s, struct region *r, uint64_t index, struct slab *sl,
		      uint64_t page, uint64_t count)
{
	int err;

	if (page == 0 && count >= region_pages_in(r, r->pages, index))
		return slab_drop(s->store, r, index, sl);
	err = slab_shared(sl) ? slab_unshare(s, r, index, sl) : 0;
	if (err)
		return err;
	storage_discard(sl->storage, page * GVM_PAGE_SIZE, count * GVM_PAGE_SIZE);
	return 0;
}

static int discard_run(struct session *s, struct region *r, uint64_t page, uint64_t count)
{
	uint64_t end = page + count, i = page / r->slab_pages;
	struct slab *sl;
	int err;

	for (; (sl = slab_map_next(&r->slabs, &i)) && i * r->slab_pages < end; i++) {
		uint64_t low = i * r->slab_pages, high = low + r->slab_pages;
		uint64_t from = page > low ? page : low, to = end < high ? end : high;

		err = discard_in(s, r, i, sl, from - low, to - from);
		if (err)
			return err;
	}
	return 0;
}

/* Inside the region, and together no more than it has: a list cannot make work out of nothing. */
static int check_runs(const struct region *r, const struct gvm_page_run *runs, uint32_t count)
{
	uint64_t left = r->pages;

	for (uint32_t i = 0; i < count; i++) {
		if (!runs[i].count || runs[i].page >= r->pages ||
		    runs[i].count > r->pages - runs[i].page)
			return -ERANGE;
		if (runs[i].count > left)
			return -EINVAL;
		left -= runs[i].count;
	}
	return 0;
}

static int discard_locked(struct session *s, uint64_t id, const struct gvm_page_run *runs,
			  uint32_t count)
{
	struct store *store = s->store;
	struct region *r;
	int err = hold_check(s, id, 1, &r);

	if (err)
		return err;
	err = check_runs(r, runs, count);
	if (err)
		return store_refuse(store, err);
	r->version++;
	for (uint32_t i = 0; i < count && !err; i++) {
		err = discard_run(s, r, runs[i].page, runs[i].count);
		if (!err)
			store->stats.discarded_pages += runs[i].count;
	}
	return err;
}

int store_discard(struct session *s, uint64_t id, const struct gvm_page_run *runs, uint32_t count)
{
	int err;

	pthread_mutex_lock(&s->store->lock);
	err = discard_locked(s, id, runs, count);
	pthread_mutex_unlock(&s->store->lock);
	return err;
}

/* ---- resize -------------------------------------------------------------------------------- */

/* A key reaches as far as its slab is in the region: a new size needs a new key. */
static void rekey_last(struct region *r, uint64_t pages)
{
	if (pages % r->slab_pages)
		key_withdraw_slab(r, (pages - 1) / r->slab_pages);
}

static uint64_t used_below(const struct region *r, uint64_t slabs)
{
	uint64_t n = 0;

	for (uint64_t i = 0; slab_map_next(&r->slabs, &i) && i < slabs; i++)
		n++;
	return n;
}

static int drop_from(struct store *store, struct region *r, uint64_t slabs)
{
	struct slab *sl;
	int err = 0;

	for (uint64_t i = slabs; !err && (sl = slab_map_next(&r->slabs, &i)); i++)
		err = slab_drop(store, r, i, sl);
	return err;
}

/* Pages that a later growth would bring back are zeroed first. */
static int cut_tail(struct session *s, struct region *r, uint64_t pages)
{
	uint64_t slab = pages / r->slab_pages, page = pages % r->slab_pages;
	struct slab *sl = page ? slab_map_get(&r->slabs, slab) : NULL;
	uint64_t in;

	if (!sl || pages >= r->pages)
		return 0;
	in = region_pages_in(r, r->pages, slab);
	return in > page ? discard_in(s, r, slab, sl, page, in - page) : 0;
}

static int resize_locked(struct session *s, uint64_t id, uint64_t pages, uint64_t share)
{
	struct store *store = s->store;
	struct region *r;
	uint64_t slabs, before, old_pages, old_share, keep;
	int err = hold_check(s, id, 1, &r);

	if (err)
		return err;
	slabs = region_slabs(pages, r->slab_pages);
	keep = used_below(r, slabs);
	if (!pages || pages > STORE_PAGES_MAX || share > slabs || share < keep)
		return store_refuse(store, -EINVAL);
	before = r->reserved;
	old_pages = r->pages;
	old_share = r->share;
	if (share > r->reserved) {
		err = room_reserve(s, r, share - r->reserved);
		if (err)
			return err;
	}
	err = cut_tail(s, r, pages);
	if (err)
		goto undo;
	r->pages = pages;
	r->share = share;
	err = region_save(store, r, IMAGE_LIVE);
	if (err)
		goto undo;
	r->version++;
	err = drop_from(store, r, slabs);
	rekey_last(r, old_pages);
	rekey_last(r, pages);
	if (!err && r->reserved > share) {
		room_unreserve(store, r, r->reserved - share);
		store_changed(store);
		region_save(store, r, IMAGE_LIVE);
	}
	store->stats.resizes++;
	return err;
undo:
	room_unreserve(store, r, r->reserved - before);
	r->pages = old_pages;
	r->share = old_share;
	return err;
}

int store_region_resize(struct session *s, uint64_t id, uint64_t pages, uint64_t share)
{
	int err;

	pthread_mutex_lock(&s->store->lock);
	err = resize_locked(s, id, pages, share);
	pthread_mutex_unlock(&s->store->lock);
	return err;
}
