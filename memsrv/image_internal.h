/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the files of an image share: image.c (records and state), image_extent.c (extents) and
 * image_load.c (opening). Under the image's lock, or while it is being opened.
 */
#ifndef MEMSRV_IMAGE_INTERNAL_H
#define MEMSRV_IMAGE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "image_format.h"

#define UNIT  (UINT64_C(64) << 10) /* extents are made of such */
#define CHUNK (UINT64_C(1) << 30)  /* extents are mapped by such */

/* One of the two tables of records: what it is and which records are free. */
struct image_table {
	const char *what;
	uint64_t off;
	uint32_t record, cap;
	uint32_t pages;  /* of 4 KiB, as the state says */
	uint32_t *spare; /* stack of free record numbers */
	size_t spares, room;
};

struct image_found {
	struct image_region region;
	enum image_state state;
};

struct image {
	int fd;
	char *path;
	pthread_mutex_t lock;
	struct image_table regions, index;
	uint64_t seq;
	char boot[40];
	_Atomic int failed; /* a write was lost: what is in the file may not be what was put */
	_Atomic int noted;  /* the file says so */
	_Atomic int told;   /* and so does the log */
	_Atomic int gone;   /* the file has no name any more, or not this one */
	int no_holes;       /* the file system cannot punch or allocate: zeros are written */

	uint64_t *busy; /* bitmap of units in use */
	uint64_t units; /* bits in it */
	uint64_t first; /* no unit below is free */
	void **chunk;   /* where each GiB of extents is mapped */
	size_t chunks;

	/* from image_open to image_walk */
	struct image_found *found;
	uint32_t found_count;
	struct image_entry *entries;
	size_t entry_count;
};

/* ---- image.c ------------------------------------------------------------------------------- */

int image_write_at(struct image *image, const void *buf, size_t len, uint64_t off);
/* -ENODATA: the file ends before. */
int image_read_at(const struct image *image, void *buf, size_t len, uint64_t off);
/* Log what is damaged, and where; -EBADMSG. */
int image_damaged(const struct image *image, const char *what, uint64_t off);
/* What to do about it, to follow the system's word for it; may be empty. */
const char *image_advice(int err);
/* Log what could not be done ("read it"); returns err. */
int image_io_error(const struct image *image, const char *what, int err);
/* With failed set it says that, whatever clean is. */
int image_state_write(struct image *image, int clean);
/* The disk did not take a write: the image is never called clean again, and the file says so. -EIO.
 */
int image_fail(struct image *image, int err);
/* Where the n-th record is in the file. */
uint64_t image_record_off(const struct image_table *t, uint32_t n);
/* Room in the stack for every record that there is, so that freeing one cannot fail. -ENOMEM. */
int image_table_room(struct image_table *t, uint32_t pages);
int image_table_give(struct image *image, struct image_table *t, uint32_t n);
/* Close and free, whatever of it there is yet. */
void image_forget(struct image *image);

/* ---- image_extent.c ------------------------------------------------------------------------ */

/* Make the bitmap hold so many units. -ENOMEM. */
int image_units_room(struct image *image, uint64_t units);
void image_units_set(struct image *image, uint64_t unit, uint64_t count, int busy);
/* Give the blocks back, leaving zeros. Where that fails, old bytes stay, and whoever allocates
 * must write zeros over them from now on. */
void image_punch(struct image *image, uint64_t off, uint64_t len);

#endif
