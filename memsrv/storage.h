/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The memory behind a slab: private anonymous memory, or an extent of the image file. Counted
 * references, because a clone shares its source's slabs, and because a slab that was withdrawn
 * must stay mapped until the last transfer with its key has ended.
 *
 * storage_new, storage_discard and storage_copy are called under the store's lock; the others from
 * any thread that has a reference.
 */
#ifndef MEMSRV_STORAGE_H
#define MEMSRV_STORAGE_H

#include <stdatomic.h>
#include <stdint.h>

struct image;

enum huge_pages {
	HUGE_NEVER,  /* 4 KiB pages: a page never written costs nothing */
	HUGE_AUTO,   /* 4 KiB pages, and huge ones for a slab whose pages have all been written */
	HUGE_ALWAYS, /* huge pages from the start: the first page written costs 2 MiB */
};

struct storage_pool {
	struct image *image; /* NULL: anonymous memory */
	enum huge_pages huge;
	int pins;    /* hardware may hold anonymous memory: no page is given back or replaced */
	int pagemap; /* /proc/self/pagemap, which tells the pages written, or -1 */
	_Atomic uint64_t bytes;      /* of all storage that exists */
	_Atomic uint64_t huge_bytes; /* of it, slabs remade of huge pages */
	_Atomic uint64_t engine_bytes; /* beside it, of shared regions' engines */
};

struct storage {
	struct storage_pool *pool;
	uint8_t *base;
	uint64_t len;
	uint64_t extent; /* in the image */
	_Atomic uint32_t refs;
	uint32_t sharers; /* slabs that have it; the store's lock */
	_Atomic int huge; /* remade of huge pages */
};

/* len bytes of zeros, one reference. -ENOMEM, -ENOSPC (the image's disk is full). */
int storage_new(struct storage_pool *pool, uint64_t len, struct storage **storage);
/* The same for an extent that the image has already. */
int storage_load(struct storage_pool *pool, uint64_t len, uint64_t extent,
		 struct storage **storage);
void storage_ref(struct storage *storage);
void storage_put(struct storage *storage);
/* Like storage_put, but the image keeps the extent: the end of the process, not of the slab. */
void storage_forget(struct storage *storage);
/* Zero a part (multiples of 4,096) and, where that is possible, give its memory back. Pages that
 * hardware may hold are written with zeros: it would go on with those that were given back. */
void storage_discard(struct storage *storage, uint64_t offset, uint64_t len);
/* Copy what is not zero; into is new. What was never written is not looked at, and costs nothing.
 */
void storage_copy(struct storage *into, const struct storage *from);
/* With HUGE_AUTO: remake it of huge pages if all of it has been written. 1: that was done; 0: not
 * yet; -errno: the kernel would not. */
int storage_collapse(struct storage *storage);

#endif
