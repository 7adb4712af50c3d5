/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "storage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <gvmnet/gvmnet.h>

#include "image.h"

#define HUGE_PAGE (UINT64_C(2) << 20)

/* Of a page in /proc/self/pagemap */
#define PAGEMAP_MAX    512u /* read at once */
#define PAGE_PRESENT   (UINT64_C(1) << 63)
#define PAGE_SWAPPED   (UINT64_C(1) << 62)
#define PAGE_EXCLUSIVE (UINT64_C(1) << 56)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static uint8_t *map_len(uint64_t len)
{
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

/* Aligned to len's largest useful page. The kernel puts mappings side by side, so after the first
 * they are aligned by themselves, and neighbours become one mapping to it. */
static uint8_t *map_aligned(uint64_t len, uint64_t align)
{
	uint8_t *at = map_len(len);
	uint64_t head;

	if (!at || ((uintptr_t)at & (align - 1)) == 0)
		return at;
	munmap(at, len);
	at = map_len(len + align);
	if (!at)
		return NULL;
	head = -(uintptr_t)at & (align - 1);
	if (head)
		munmap(at, head);
	munmap(at + head + len, align - head);
	return at + head;
}

static uint8_t *map_anonymous(uint64_t len, enum huge_pages huge)
{
	uint64_t align = huge != HUGE_NEVER && len >= HUGE_PAGE ? HUGE_PAGE : GVM_PAGE_SIZE;
	uint8_t *at = map_aligned(len, align);

	if (!at)
		return NULL;
	madvise(at, len, huge == HUGE_ALWAYS ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	/* A core file of this process would hold the clients' memory, and be large. */
	madvise(at, len, MADV_DONTDUMP);
	return at;
}

static int fill(struct storage *st, struct image *image, uint64_t len)
{
	void *at;
	int err;

	if (!image) {
		st->base = map_anonymous(len, st->pool->huge);
		return st->base ? 0 : -ENOMEM;
	}
	err = image_extent_get(image, len, &st->extent, &at);
	if (!err)
		st->base = at;
	return err;
}

static struct storage *alloc(struct storage_pool *pool, uint64_t len)
{
	struct storage *st = calloc(1, sizeof(*st));

	if (st) {
		st->pool = pool;
		st->len = len;
		atomic_init(&st->refs, 1);
	}
	return st;
}

int storage_new(struct storage_pool *pool, uint64_t len, struct storage **storage)
{
	struct storage *st = alloc(pool, len);
	int err;

	if (!st)
		return -ENOMEM;
	err = fill(st, pool->image, len);
	if (err) {
		free(st);
		return err;
	}
	atomic_fetch_add(&pool->bytes, len);
	*storage = st;
	return 0;
}

int storage_load(struct storage_pool *pool, uint64_t len, uint64_t extent, struct storage **storage)
{
	struct storage *st = alloc(pool, len);
	void *at;
	int err;

	if (!st)
		return -ENOMEM;
	st->extent = extent;
	err = image_extent_map(pool->image, extent, len, &at);
	if (err) {
		free(st);
		return err;
	}
	st->base = at;
	atomic_fetch_add(&pool->bytes, len);
	*storage = st;
	return 0;
}

void storage_ref(struct storage *storage)
{
	atomic_fetch_add(&storage->refs, 1);
}

static int last_ref(struct storage *storage)
{
	struct storage_pool *pool = storage->pool;

	if (atomic_fetch_sub(&storage->refs, 1) != 1)
		return 0;
	atomic_fetch_sub(&pool->bytes, storage->len);
	if (storage->huge)
		atomic_fetch_sub(&pool->huge_bytes, storage->len);
	return 1;
}

void storage_put(struct storage *storage)
{
	struct image *image = storage->pool->image;

	if (!last_ref(storage))
		return;
	if (image)
		image_extent_put(image, storage->extent, storage->len);
	else if (munmap(storage->base, storage->len)) {
		/* Only a full table of mappings makes this fail: the pages at least are freed. */
		gvm_log(GVM_LOG_WARN, "cannot unmap a slab: %s; raise vm.max_map_count",
			strerror(errno));
		madvise(storage->base, storage->len, MADV_DONTNEED);
	}
	free(storage);
}

void storage_forget(struct storage *storage)
{
	if (last_ref(storage))
		free(storage);
}

static int all_zero(const uint8_t *page)
{
	const uint64_t *w = (const uint64_t *)page;
	uint64_t any = 0;

	for (unsigned i = 0; i < GVM_PAGE_SIZE / 8; i += 8) {
		any |= w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] |
		       w[i + 7];
		if (any)
			return 0;
	}
	return 1;
}

static void copy_range(struct storage *into, const struct storage *from, uint64_t at, uint64_t end)
{
	for (; at < end; at += GVM_PAGE_SIZE)
		if (!all_zero(from->base + at))
			memcpy(into->base + at, from->base + at, GVM_PAGE_SIZE);
}

/* The kernel's words for up to PAGEMAP_MAX pages from the byte at on (Documentation/admin-guide/mm/
 * pagemap.rst). Returns how many; 0: the kernel does not tell. */
static uint64_t pagemap_read(const struct storage *st, uint64_t at, uint64_t entry[PAGEMAP_MAX])
{
	uint64_t first = ((uintptr_t)st->base + at) / GVM_PAGE_SIZE;
	uint64_t n = (st->len - at) / GVM_PAGE_SIZE;

	n = n < PAGEMAP_MAX ? n : PAGEMAP_MAX;
	if (pread(st->pool->pagemap, entry, n * 8, (off_t)(first * 8)) != (ssize_t)(n * 8))
		return 0;
	return n;
}

/* To look at a page that was never written is to make the kernel map one of zeros there, with a
 * fault for each. */
static void copy_anonymous(struct storage *into, const struct storage *from)
{
	uint64_t entry[PAGEMAP_MAX], n;

	for (uint64_t at = 0; at < from->len; at += n * GVM_PAGE_SIZE) {
		n = pagemap_read(from, at, entry);
		if (!n) {
			copy_range(into, from, at, from->len);
			return;
		}
		for (uint64_t i = 0; i < n; i++)
			if (entry[i] & (PAGE_PRESENT | PAGE_SWAPPED))
				copy_range(into, from, at + i * GVM_PAGE_SIZE,
					   at + (i + 1) * GVM_PAGE_SIZE);
	}
}

static void copy_image(struct storage *into, const struct storage *from)
{
	const struct image *image = from->pool->image;
	uint64_t at = 0, end;

	while (image_extent_data(image, from->extent, from->len, &at, &end)) {
		copy_range(into, from, at, end);
		at = end;
	}
}

void storage_copy(struct storage *into, const struct storage *from)
{
	if (from->pool->image)
		copy_image(into, from);
	else
		copy_anonymous(into, from);
}

/* ---- discards ------------------------------------------------------------------------------ */

static void zero_range(struct storage *st, uint64_t at, uint64_t end)
{
	for (; at < end; at += GVM_PAGE_SIZE)
		if (!all_zero(st->base + at))
			memset(st->base + at, 0, GVM_PAGE_SIZE);
}

/* In place, and what was never written is not looked at. */
static void zero_anonymous(struct storage *st, uint64_t at, uint64_t end)
{
	uint64_t entry[PAGEMAP_MAX], n;

	while (at < end) {
		n = pagemap_read(st, at, entry);
		if (!n) {
			zero_range(st, at, end);
			return;
		}
		for (uint64_t i = 0; i < n && at < end; i++, at += GVM_PAGE_SIZE)
			if (entry[i] & (PAGE_PRESENT | PAGE_SWAPPED))
				zero_range(st, at, at + GVM_PAGE_SIZE);
	}
}

static void give_back(struct storage *storage, uint64_t offset, uint64_t len)
{
	if (atomic_exchange(&storage->huge, 0)) {
		/* The next page written here shall cost 4 KiB again. */
		madvise(storage->base, storage->len, MADV_NOHUGEPAGE);
		atomic_fetch_sub(&storage->pool->huge_bytes, storage->len);
	}
	if (madvise(storage->base + offset, len, MADV_DONTNEED))
		memset(storage->base + offset, 0, len);
}

void storage_discard(struct storage *storage, uint64_t offset, uint64_t len)
{
	struct storage_pool *pool = storage->pool;

	if (pool->image)
		image_extent_zero(pool->image, storage->extent, offset, len, storage->base);
	else if (pool->pins)
		zero_anonymous(storage, offset, offset + len);
	else
		give_back(storage, offset, len);
}

/* ---- huge pages ---------------------------------------------------------------------------- */

/* Has each page been written? The kernel's shared page of zeros, which reading puts in place, is
 * present but not exclusively mapped. */
static int all_written(const struct storage *st)
{
	const uint64_t own = PAGE_PRESENT | PAGE_EXCLUSIVE;
	uint64_t entry[PAGEMAP_MAX], n;

	for (uint64_t at = 0; at < st->len; at += n * GVM_PAGE_SIZE) {
		n = pagemap_read(st, at, entry);
		if (!n)
			return 0;
		for (uint64_t i = 0; i < n; i++)
			if ((entry[i] & own) != own)
				return 0;
	}
	return 1;
}

int storage_collapse(struct storage *storage)
{
	struct storage_pool *pool = storage->pool;

	if (pool->huge != HUGE_AUTO || pool->pins || pool->image || storage->huge ||
	    storage->len < HUGE_PAGE || pool->pagemap < 0 || !all_written(storage))
		return 0;
	if (madvise(storage->base, storage->len, MADV_HUGEPAGE))
		return 0;
	if (madvise(storage->base, storage->len, MADV_COLLAPSE)) {
		int err = -errno;

		madvise(storage->base, storage->len, MADV_NOHUGEPAGE);
		return err;
	}
	atomic_fetch_add(&pool->huge_bytes, storage->len);
	atomic_store(&storage->huge, 1);
	return 1;
}
