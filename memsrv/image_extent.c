/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The extents of an image file: which units of it are in use, their blocks on the disk, and where
 * they are mapped. Apart from opening, all of it is under the image's lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <gvmnet/gvmnet.h>

#include "image_internal.h"

/* ---- units --------------------------------------------------------------------------------- */

static int unit_busy(const struct image *image, uint64_t unit)
{
	return unit < image->units && (image->busy[unit / 64] >> (unit % 64) & 1);
}

void image_units_set(struct image *image, uint64_t unit, uint64_t count, int busy)
{
	for (uint64_t u = unit; u < unit + count; u++) {
		uint64_t bit = UINT64_C(1) << (u % 64);

		if (busy)
			image->busy[u / 64] |= bit;
		else
			image->busy[u / 64] &= ~bit;
	}
}

int image_units_room(struct image *image, uint64_t units)
{
	uint64_t words = image->units / 64, want = (units + 63) / 64;
	uint64_t *busy;

	if (want <= words)
		return 0;
	want = want < 2 * words ? 2 * words : want;
	busy = realloc(image->busy, want * sizeof(*busy));
	if (!busy)
		return -ENOMEM;
	memset(busy + words, 0, (want - words) * sizeof(*busy));
	image->busy = busy;
	image->units = want * 64;
	return 0;
}

static int run_free(const struct image *image, uint64_t unit, uint64_t count)
{
	if (count >= 64) {
		for (uint64_t w = unit / 64; w < (unit + count) / 64 && w < image->units / 64; w++)
			if (image->busy[w])
				return 0;
		return 1;
	}
	for (uint64_t u = unit; u < unit + count; u++)
		if (unit_busy(image, u))
			return 0;
	return 1;
}

/* First fit, aligned to the length: all lengths are powers of two, so holes stay usable. */
static int units_take(struct image *image, uint64_t count, uint64_t *unit)
{
	uint64_t at;
	int err;

	while (unit_busy(image, image->first))
		image->first++;
	at = (image->first + count - 1) / count * count;
	while (!run_free(image, at, count))
		at += count;
	if (at + count > DATA_MAX / UNIT)
		return -ENOSPC;
	err = image_units_room(image, at + count);
	if (err)
		return err;
	image_units_set(image, at, count, 1);
	*unit = at;
	return 0;
}

static void units_give(struct image *image, uint64_t unit, uint64_t count)
{
	image_units_set(image, unit, count, 0);
	if (unit < image->first)
		image->first = unit;
}

/* ---- blocks -------------------------------------------------------------------------------- */

static int write_zeros(struct image *image, uint64_t off, uint64_t len)
{
	static const uint8_t zeros[64 << 10];
	int err = 0;

	for (uint64_t done = 0; done < len && !err; done += sizeof(zeros))
		err = image_write_at(image, zeros,
				     len - done < sizeof(zeros) ? len - done : sizeof(zeros),
				     off + done);
	return err;
}

static int unsupported(int err)
{
	return err == EOPNOTSUPP || err == ENOSYS || err == EINVAL;
}

/* Give the blocks back, leaving zeros. Where that fails, old bytes stay, and whoever allocates
 * must write zeros over them from now on. */
void image_punch(struct image *image, uint64_t off, uint64_t len)
{
	const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	while (!image->no_holes && fallocate(image->fd, mode, (off_t)off, (off_t)len))
		if (errno != EINTR)
			image->no_holes = 1;
}

static int allocate(struct image *image, uint64_t off, uint64_t len)
{
	int err;

	if (!image->no_holes) {
		do
			err = fallocate(image->fd, 0, (off_t)off, (off_t)len) ? -errno : 0;
		while (err == -EINTR);
		if (!err || !unsupported(-err))
			return err;
		image->no_holes = 1;
	}
	return write_zeros(image, off, len);
}

/* ---- mappings ------------------------------------------------------------------------------ */

static int chunk_map(struct image *image, uint64_t extent)
{
	size_t n = extent / CHUNK;
	void *at;

	if (n >= image->chunks) {
		void **chunk = realloc(image->chunk, (n + 1) * sizeof(*chunk));

		if (!chunk)
			return -ENOMEM;
		memset(chunk + image->chunks, 0, (n + 1 - image->chunks) * sizeof(*chunk));
		image->chunk = chunk;
		image->chunks = n + 1;
	}
	if (image->chunk[n])
		return 0;
	at = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE, MAP_SHARED, image->fd,
		  (off_t)(DATA_OFF + n * CHUNK));
	if (at == MAP_FAILED)
		return image_io_error(image, "map it", -errno);
	/* What a dump of this process would show of it is the clients' memory, and large. */
	madvise(at, CHUNK, MADV_DONTDUMP);
	image->chunk[n] = at;
	return 0;
}

static int extent_map(struct image *image, uint64_t extent, void **at)
{
	int err = chunk_map(image, extent);

	if (!err)
		*at = (uint8_t *)image->chunk[extent / CHUNK] + extent % CHUNK;
	return err;
}

int image_extent_map(struct image *image, uint64_t extent, uint64_t len, void **at)
{
	int err;

	pthread_mutex_lock(&image->lock);
	err = extent_map(image, extent, at);
	pthread_mutex_unlock(&image->lock);
	return err;
}

int image_extent_get(struct image *image, uint64_t len, uint64_t *extent, void **at)
{
	static struct gvm_log_limit limit;
	uint64_t unit;
	int err;

	pthread_mutex_lock(&image->lock);
	err = units_take(image, len / UNIT, &unit);
	if (err)
		goto out;
	err = extent_map(image, unit * UNIT, at);
	if (err)
		goto give;
	err = allocate(image, DATA_OFF + unit * UNIT, len);
	if (!err) {
		*extent = unit * UNIT;
		goto out;
	}
	/* a full disk stays full, and clients try again */
	gvm_log_limited(&limit, GVM_LOG_WARN,
			"image %s: no room for a slab of %" PRIu64 " KiB: %s%s", image->path,
			len >> 10, strerror(-err), image_advice(err));
	image_punch(image, DATA_OFF + unit * UNIT, len);
	if (err == -EFBIG || err == -EDQUOT)
		err = -ENOSPC;
give:
	units_give(image, unit, len / UNIT);
out:
	pthread_mutex_unlock(&image->lock);
	return err;
}

void image_extent_put(struct image *image, uint64_t extent, uint64_t len)
{
	pthread_mutex_lock(&image->lock);
	image_punch(image, DATA_OFF + extent, len);
	units_give(image, extent / UNIT, len / UNIT);
	pthread_mutex_unlock(&image->lock);
}

void image_extent_zero(struct image *image, uint64_t extent, uint64_t offset, uint64_t len,
		       void *at)
{
	/* A hole would free blocks that a later store needs: zeroing keeps them allocated. */
	if (fallocate(image->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
		      (off_t)(DATA_OFF + extent + offset), (off_t)len))
		memset((uint8_t *)at + offset, 0, len);
}

int image_extent_data(const struct image *image, uint64_t extent, uint64_t len, uint64_t *at,
		      uint64_t *end)
{
	uint64_t from = DATA_OFF + extent, page = GVM_PAGE_SIZE;
	off_t data, hole;

	if (*at >= len)
		return 0;
	*end = len;
	data = lseek(image->fd, (off_t)(from + *at), SEEK_DATA);
	if (data < 0)
		return errno != ENXIO; /* nothing up to the file's end, or it does not tell */
	if ((uint64_t)data >= from + len)
		return 0;
	*at = ((uint64_t)data - from) / page * page;
	hole = lseek(image->fd, data, SEEK_HOLE);
	if (hole > 0 && (uint64_t)hole < from + len)
		*end = ((uint64_t)hole - from + page - 1) / page * page;
	return 1;
}

uint64_t image_room(const struct image *image)
{
	struct statvfs vfs;

	if (fstatvfs(image->fd, &vfs))
		return UINT64_MAX;
	return (uint64_t)vfs.f_bavail * vfs.f_frsize;
}
