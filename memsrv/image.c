/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An open image file: its records, and the state that says how many there are. Reading and writing
 * them is here; what they hold is in image_format.c, opening in image_load.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gvmnet/gvmnet.h>

#include "image_internal.h"

/* ---- the file ------------------------------------------------------------------------------ */

/* No room is an answer; anything else may be half written. */
static int write_failed(struct image *image, int err)
{
	if (err != ENOSPC && err != EDQUOT && err != EFBIG)
		atomic_store(&image->failed, 1);
	return -err;
}

int image_write_at(struct image *image, const void *buf, size_t len, uint64_t off)
{
	const uint8_t *at = buf;

	while (len) {
		ssize_t n = pwrite(image->fd, at, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return write_failed(image, n < 0 ? errno : EIO);
		at += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* -ENODATA: the file ends before. */
int image_read_at(const struct image *image, void *buf, size_t len, uint64_t off)
{
	uint8_t *at = buf;

	while (len) {
		ssize_t n = pread(image->fd, at, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		at += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int image_damaged(const struct image *image, const char *what, uint64_t off)
{
	gvm_log(GVM_LOG_ERROR,
		"image %s is damaged: %s at byte %" PRIu64
		"; restore it, or remove the file to start without its regions",
		image->path, what, off);
	return -EBADMSG;
}

const char *image_advice(int err)
{
	return err == -EFBIG    ? "; raise the limit of a file's length (ulimit -f, LimitFSIZE=)"
	       : err == -EDQUOT ? "; raise this user's disk quota"
	       : err == -ENOSPC ? "; free disk space"
				: "";
}

int image_io_error(const struct image *image, const char *what, int err)
{
	gvm_log(GVM_LOG_ERROR, "image %s: cannot %s: %s%s", image->path, what, strerror(-err),
		image_advice(err));
	return err;
}

static int sync_file(const struct image *image)
{
	while (fdatasync(image->fd))
		if (errno != EINTR)
			return -errno;
	return 0;
}

int image_sync(struct image *image)
{
	int err = atomic_load(&image->failed) ? -EIO : sync_file(image);

	return err ? image_fail(image, err) : 0;
}

/* Is something else, or nothing, where the next start will look for it? A folder that does not
 * answer says neither. */
static int file_is_gone(const struct image *image)
{
	struct stat here, there;

	if (fstat(image->fd, &here))
		return 0;
	if (stat(image->path, &there))
		return errno == ENOENT || errno == ENOTDIR;
	return here.st_dev != there.st_dev || here.st_ino != there.st_ino;
}

/* To clients nothing has happened: the file goes on without a name as long as it is open. */
static void look_for_file(struct image *image)
{
	int gone = file_is_gone(image);

	if (gone && !atomic_exchange(&image->gone, 1))
		gvm_log(GVM_LOG_ERROR,
			"image %s: the file was removed or replaced while in use: what clients "
			"have here ends with this process; let them end first, or put the file "
			"back if it was moved",
			image->path);
	else if (!gone && atomic_exchange(&image->gone, 0))
		gvm_log(GVM_LOG_WARN, "image %s: the file is back", image->path);
}

int image_check(struct image *image)
{
	/* Waiting for what is being written of a block that nobody writes: all that is left of it
	 * is the report of what failed anywhere in the file. */
	int lost = !atomic_load(&image->failed) &&
		   sync_file_range(image->fd, 0, BLOCK, SYNC_FILE_RANGE_WAIT_BEFORE) &&
		   errno != EINTR && errno != ENOSYS && errno != EINVAL;

	look_for_file(image);
	if (lost)
		return image_fail(image, -errno);
	return atomic_load(&image->failed) ? image_fail(image, -EIO) : 0;
}

/* ---- state --------------------------------------------------------------------------------- */

/* Both copies, one after the other: one of them is whole at any moment. */
int image_state_write(struct image *image, int clean)
{
	struct image_head st = { .clean = clean,
				 .region_pages = image->regions.pages,
				 .index_pages = image->index.pages };
	uint8_t b[BLOCK];
	int err = 0;

	st.failed = atomic_load(&image->failed);
	st.seq = ++image->seq;
	memcpy(st.boot, image->boot, sizeof(st.boot));
	for (unsigned i = 0; i < STATES && !err; i++) {
		uint64_t off = STATE_OFF + i * (uint64_t)BLOCK;

		image_state_encode(&st, b, off);
		err = image_write_at(image, b, BLOCK, off);
	}
	return err ? image_io_error(image, "write its state", err) : 0;
}

/* The mark is written over blocks that the disk has had since the image was made. The sync may
 * report once more what brought us here; what the second one reports is the mark's. */
static int mark_failed(struct image *image)
{
	int err;

	pthread_mutex_lock(&image->lock);
	err = image_state_write(image, 0);
	pthread_mutex_unlock(&image->lock);
	if (!err && sync_file(image))
		err = sync_file(image);
	atomic_store(&image->noted, !err);
	return err;
}

int image_fail(struct image *image, int err)
{
	atomic_store(&image->failed, 1);
	if (atomic_exchange(&image->told, 1))
		return -EIO;
	gvm_log(
	    GVM_LOG_ERROR,
	    "image %s: the disk did not take what was written (%s): pages in it may read as zeros "
	    "or be old; see to the disk, then remove the file, or take it as it is with "
	    "--trust-image%s",
	    image->path, strerror(-err),
	    mark_failed(image) ? "; this could not be noted in it: remove it before the next "
				 "start"
			       : "");
	return -EIO;
}

/* ---- tables -------------------------------------------------------------------------------- */

uint64_t image_record_off(const struct image_table *t, uint32_t n)
{
	return t->off + (uint64_t)n * t->record;
}

/* Room in the stack for every record that there is, so that freeing one cannot fail. */
int image_table_room(struct image_table *t, uint32_t pages)
{
	size_t need = (size_t)pages * (BLOCK / t->record);
	uint32_t *spare;

	if (need <= t->room)
		return 0;
	need = need < 2 * t->room ? 2 * t->room : need;
	spare = realloc(t->spare, need * sizeof(*spare));
	if (!spare)
		return -ENOMEM;
	t->spare = spare;
	t->room = need;
	return 0;
}

/* One more page of free records; then the state says that it is there. */
static int table_grow(struct image *image, struct image_table *t)
{
	static struct gvm_log_limit limit;
	uint32_t per = BLOCK / t->record, base = t->pages * per;
	uint8_t page[BLOCK];
	int err;

	if (base + per > t->cap) {
		gvm_log_limited(&limit, GVM_LOG_WARN, "image %s: its %s is full", image->path,
				t->what);
		return -ENOSPC;
	}
	err = image_table_room(t, t->pages + 1);
	if (err)
		return err;
	for (uint32_t i = 0; i < per; i++)
		image_free_encode(t->record, page + (size_t)i * t->record,
				  image_record_off(t, base + i));
	err = image_write_at(image, page, BLOCK, t->off + (uint64_t)t->pages * BLOCK);
	if (err)
		return image_io_error(image, "extend its tables", err);
	t->pages++;
	err = image_state_write(image, 0);
	if (err) {
		t->pages--;
		return err;
	}
	for (uint32_t i = per; i-- > 0;)
		t->spare[t->spares++] = base + i;
	return 0;
}

static int table_take(struct image *image, struct image_table *t, uint32_t *n)
{
	int err = t->spares ? 0 : table_grow(image, t);

	if (!err)
		*n = t->spare[--t->spares];
	return err;
}

int image_table_give(struct image *image, struct image_table *t, uint32_t n)
{
	uint8_t b[REGION_LEN];
	int err;

	image_free_encode(t->record, b, image_record_off(t, n));
	err = image_write_at(image, b, t->record, image_record_off(t, n));
	if (err)
		return image_io_error(image, "free a record", err);
	t->spare[t->spares++] = n;
	return 0;
}

/* ---- records ------------------------------------------------------------------------------- */

int image_region_write(struct image *image, uint32_t slot, const struct image_region *region,
		       enum image_state state)
{
	uint8_t b[REGION_LEN];
	uint64_t off = image_record_off(&image->regions, slot);
	int err;

	image_region_encode(region, state, b, off);
	err = image_write_at(image, b, REGION_LEN, off);
	return err ? image_io_error(image, "write a region's record", err) : 0;
}

int image_region_add(struct image *image, const struct image_region *region, enum image_state state,
		     uint32_t *slot)
{
	uint32_t n;
	int err;

	pthread_mutex_lock(&image->lock);
	err = table_take(image, &image->regions, &n);
	if (!err) {
		err = image_region_write(image, n, region, state);
		if (err)
			image->regions.spare[image->regions.spares++] = n;
	}
	pthread_mutex_unlock(&image->lock);
	if (!err)
		*slot = n;
	return err;
}

int image_region_free(struct image *image, uint32_t slot)
{
	int err;

	pthread_mutex_lock(&image->lock);
	err = image_table_give(image, &image->regions, slot);
	pthread_mutex_unlock(&image->lock);
	return err;
}

int image_slab_move(struct image *image, uint32_t place, uint32_t slot, uint64_t slab,
		    uint64_t extent)
{
	uint8_t b[INDEX_LEN];
	uint64_t off = image_record_off(&image->index, place);
	int err;

	image_entry_encode(slot, slab, extent, b, off);
	err = image_write_at(image, b, INDEX_LEN, off);
	return err ? image_io_error(image, "write a slab's record", err) : 0;
}

int image_slab_add(struct image *image, uint32_t slot, uint64_t slab, uint64_t extent,
		   uint32_t *place)
{
	uint32_t n;
	int err;

	pthread_mutex_lock(&image->lock);
	err = table_take(image, &image->index, &n);
	if (!err) {
		err = image_slab_move(image, n, slot, slab, extent);
		if (err)
			image->index.spare[image->index.spares++] = n;
	}
	pthread_mutex_unlock(&image->lock);
	if (!err)
		*place = n;
	return err;
}

int image_slab_free(struct image *image, uint32_t place)
{
	int err;

	pthread_mutex_lock(&image->lock);
	err = image_table_give(image, &image->index, place);
	pthread_mutex_unlock(&image->lock);
	return err;
}

/* ---- the end ------------------------------------------------------------------------------- */

void image_forget(struct image *image)
{
	for (size_t i = 0; i < image->chunks; i++)
		if (image->chunk[i])
			munmap(image->chunk[i], CHUNK);
	if (image->fd >= 0)
		close(image->fd);
	pthread_mutex_destroy(&image->lock);
	free(image->chunk);
	free(image->busy);
	free(image->regions.spare);
	free(image->index.spare);
	free(image->found);
	free(image->entries);
	free(image->path);
	free(image);
}

int image_close(struct image *image, int clean)
{
	int err = image_check(image);

	if (clean && !err) {
		err = image_sync(image);
		if (!err)
			err = image_state_write(image, 1);
		if (!err)
			err = image_sync(image);
	}
	if (err && !atomic_load(&image->noted))
		(void)mark_failed(image);
	if (!err && atomic_load(&image->gone))
		err = -ESTALE; /* whole, and nobody will find it */
	image_forget(image);
	return err;
}

const char *image_path(const struct image *image)
{
	return image->path;
}
