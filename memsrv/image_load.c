/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Opening an image file: a new one is made, an old one is read and checked whole, and what was half
 * done when its process ended is finished.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gvmnet/gvmnet.h>

#include "image_internal.h"

/* ---- superblock and state ------------------------------------------------------------------ */

static int super_check(const struct image *image, const uint8_t *b)
{
	uint8_t mine[BLOCK];
	char magic[MAGIC_LEN] = MAGIC;
	unsigned version = image_super_version(b);

	if (memcmp(b + 8, magic, MAGIC_LEN)) {
		gvm_log(GVM_LOG_ERROR,
			"%s is not an image of gvm-memsrv and is left alone; name another file",
			image->path);
		return -EMEDIUMTYPE;
	}
	if (!image_sealed(b, BLOCK, 0))
		return image_damaged(image, "the superblock", 0);
	if (version != VERSION) {
		gvm_log(
		    GVM_LOG_ERROR,
		    "image %s has format %u; this program reads format %u: use the version that "
		    "wrote it",
		    image->path, version, VERSION);
		return -EPROTONOSUPPORT;
	}
	image_super_encode(mine);
	return memcmp(b, mine, BLOCK) ? image_damaged(image, "the superblock", 0) : 0;
}

static int state_read(const struct image *image, unsigned i, struct image_head *st)
{
	uint8_t b[BLOCK];
	uint64_t off = STATE_OFF + i * (uint64_t)BLOCK;
	int err = image_read_at(image, b, BLOCK, off);

	if (err && err != -ENODATA)
		return image_io_error(image, "read its state", err);
	if (err)
		memset(st, 0, sizeof(*st));
	else
		image_state_decode(b, off, st);
	return 0;
}

/* The state to go by. A damaged copy is damage like any other, but after the machine's death it
 * may be a write that was cut short, and then the other copy is the one. */
static int state_choose(const struct image *image, unsigned flags, struct image_head *st)
{
	struct image_head both[STATES];
	unsigned valid = 0;

	for (unsigned i = 0; i < STATES; i++) {
		int err = state_read(image, i, &both[i]);

		if (err)
			return err;
		valid += both[i].valid ? 1 : 0;
	}
	if (valid == 0 || (valid == 1 && !(flags & IMAGE_TRUST)))
		return image_damaged(image, "a state block",
				     STATE_OFF + (both[0].valid ? (uint64_t)BLOCK : 0));
	*st = both[0];
	if (!both[0].valid || (both[1].valid && both[1].seq > both[0].seq))
		*st = both[1];
	return 0;
}

static int read_boot_id(char *boot, size_t len)
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, boot, len - 1);

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return -ENOENT;
	boot[n] = 0;
	boot[strcspn(boot, "\n")] = 0;
	return 0;
}

/* ---- tables -------------------------------------------------------------------------------- */

static int load_regions(struct image *image)
{
	struct image_table *t = &image->regions;
	uint32_t per = BLOCK / REGION_LEN;
	uint8_t page[BLOCK];

	image->found_count = t->pages * per;
	image->found = calloc(image->found_count + 1, sizeof(*image->found));
	if (!image->found || image_table_room(t, t->pages))
		return -ENOMEM;
	for (uint32_t n = 0; n < image->found_count; n++) {
		uint64_t off = image_record_off(t, n);
		int err = n % per ? 0 : image_read_at(image, page, BLOCK, off);

		if (err == -ENODATA)
			return image_damaged(image, "the region table is cut off", off);
		if (err)
			return image_io_error(image, "read its region table", err);
		if (image_region_decode(page + (size_t)(n % per) * REGION_LEN, off,
					&image->found[n].region, &image->found[n].state))
			return image_damaged(image, "a region's record", off);
	}
	return 0;
}

/* What the entry's region says about it: 1 keep, 0 the region is going or has shrunk, -EBADMSG. */
static int entry_verdict(const struct image *image, const struct image_entry *e)
{
	const struct image_found *f;
	uint64_t slabs;

	if (e->slot >= image->found_count || image->found[e->slot].state == IMAGE_FREE)
		return -EBADMSG;
	f = &image->found[e->slot];
	if (e->extent % e->len || e->extent > DATA_MAX - e->len)
		return -EBADMSG;
	slabs = (f->region.pages - 1) / f->region.slab_pages + 1;
	return f->state == IMAGE_LIVE && e->slab < slabs;
}

static int load_entry(struct image *image, const uint8_t *b, uint32_t n)
{
	uint64_t off = image_record_off(&image->index, n);
	struct image_entry e = { .place = n };
	int verdict;

	if (image_entry_decode(b, off, &e))
		return image_damaged(image, "a slab's record", off);
	if (e.slot == NO_SLOT) {
		image->index.spare[image->index.spares++] = n;
		return 0;
	}
	if (e.slot < image->found_count)
		e.len = (uint64_t)image->found[e.slot].region.slab_pages * BLOCK;
	verdict = e.len ? entry_verdict(image, &e) : -EBADMSG;
	if (verdict < 0)
		return image_damaged(image, "a slab's record contradicts the region table", off);
	if (verdict == 0)
		return image_table_give(image, &image->index, n);
	image->entries[image->entry_count++] = e;
	return 0;
}

static int by_extent(const void *a, const void *b)
{
	const struct image_entry *x = a, *y = b;

	if (x->extent != y->extent)
		return x->extent < y->extent ? -1 : 1;
	return x->place < y->place ? -1 : x->place > y->place;
}

static int by_slab(const void *a, const void *b)
{
	const struct image_entry *x = a, *y = b;

	if (x->slot != y->slot)
		return x->slot < y->slot ? -1 : 1;
	return x->slab < y->slab ? -1 : x->slab > y->slab;
}

/* No slab twice; extents are the same or apart. Leaves the entries in order of extents. */
static int check_entries(struct image *image)
{
	struct image_entry *e = image->entries;

	qsort(e, image->entry_count, sizeof(*e), by_slab);
	for (size_t i = 1; i < image->entry_count; i++)
		if (e[i].slot == e[i - 1].slot && e[i].slab == e[i - 1].slab)
			return image_damaged(image, "a slab has two records",
					     image_record_off(&image->index, e[i].place));
	qsort(e, image->entry_count, sizeof(*e), by_extent);
	for (size_t i = 1; i < image->entry_count; i++) {
		int same = e[i].extent == e[i - 1].extent && e[i].len == e[i - 1].len;

		if (!same && e[i].extent < e[i - 1].extent + e[i - 1].len)
			return image_damaged(image, "two slabs overlap",
					     image_record_off(&image->index, e[i].place));
	}
	return 0;
}

static int load_index(struct image *image)
{
	struct image_table *t = &image->index;
	uint32_t per = BLOCK / INDEX_LEN, count = t->pages * per;
	uint8_t page[BLOCK];

	image->entries = calloc((size_t)count + 1, sizeof(*image->entries));
	if (!image->entries || image_table_room(t, t->pages))
		return -ENOMEM;
	for (uint32_t n = 0; n < count; n++) {
		uint64_t off = image_record_off(t, n);
		int err = n % per ? 0 : image_read_at(image, page, BLOCK, off);

		if (err == -ENODATA)
			return image_damaged(image, "the slab index is cut off", off);
		if (err)
			return image_io_error(image, "read its slab index", err);
		err = load_entry(image, page + (size_t)(n % per) * INDEX_LEN, n);
		if (err)
			return err;
	}
	return check_entries(image);
}

/* Give back what no record names, mark what one does, and see that it is really there. */
static int load_extents(struct image *image)
{
	uint64_t end = 0;
	struct stat st;
	int err;

	if (fstat(image->fd, &st))
		return image_io_error(image, "look at it", -errno);
	for (size_t i = 0; i < image->entry_count; i++) {
		struct image_entry *e = &image->entries[i];

		if (i && e->extent == e[-1].extent)
			continue;
		if ((uint64_t)st.st_size < DATA_OFF + e->extent + e->len)
			return image_damaged(image, "the file is cut off", (uint64_t)st.st_size);
		if (e->extent > end)
			image_punch(image, DATA_OFF + end, e->extent - end);
		end = e->extent + e->len;
		err = image_units_room(image, end / UNIT);
		if (err)
			return err;
		image_units_set(image, e->extent / UNIT, e->len / UNIT, 1);
	}
	if ((uint64_t)st.st_size > DATA_OFF + end && ftruncate(image->fd, (off_t)(DATA_OFF + end)))
		return image_io_error(image, "shorten it", -errno);
	return 0;
}

/* Regions whose creation or deletion was under way are freed when all their entries have been. */
static int load_finish(struct image *image)
{
	int err = 0;

	for (uint32_t n = image->found_count; n-- > 0 && !err;) {
		enum image_state state = image->found[n].state;

		if (state == IMAGE_BUILDING || state == IMAGE_DELETING)
			err = image_table_give(image, &image->regions, n);
		else if (state == IMAGE_FREE)
			image->regions.spare[image->regions.spares++] = n;
	}
	return err;
}

static int load(struct image *image, const struct image_head *st)
{
	int err;

	image->seq = st->seq;
	image->regions.pages = st->region_pages;
	image->index.pages = st->index_pages;
	err = load_regions(image);
	if (!err)
		err = load_index(image);
	if (!err)
		err = load_extents(image);
	if (err == -ENOMEM)
		gvm_log(GVM_LOG_ERROR, "image %s: not enough memory for its tables", image->path);
	return err ? err : load_finish(image);
}

/* ---- opening ------------------------------------------------------------------------------- */

/* Have writes been lost of which nobody was told? Ask, so that whoever asks next hears of later
 * ones only. */
static int lost_before(const struct image *image)
{
	int file, disk;

	while ((file = fdatasync(image->fd)) && errno == EINTR)
		;
	while ((disk = syncfs(image->fd)) && errno == EINTR)
		;
	return file || disk;
}

/* The superblock last: a file without one is a creation that did not end, see unfinished(). */
static int format(struct image *image)
{
	uint8_t b[BLOCK];
	long attr = 0;
	int err;

	if (ftruncate(image->fd, 0))
		return image_io_error(image, "empty it", -errno);
	(void)lost_before(image);
#ifdef FS_NOCOW_FL
	/* btrfs would need new blocks to overwrite old ones, whatever was allocated before. */
	if (!ioctl(image->fd, FS_IOC_GETFLAGS, &attr)) {
		attr |= FS_NOCOW_FL;
		(void)!ioctl(image->fd, FS_IOC_SETFLAGS, &attr);
	}
#endif
	err = image_state_write(image, 0);
	if (err)
		return err;
	image_super_encode(b);
	err = image_write_at(image, b, BLOCK, 0);
	return err ? image_io_error(image, "write its superblock", err) : 0;
}

/* An empty file, or one whose creation was cut short: nothing but valid or empty state blocks. */
static int unfinished(const struct image *image, const uint8_t *super, uint64_t size)
{
	uint8_t b[BLOCK], zero[BLOCK] = { 0 };

	if (size > STATE_OFF + STATES * (uint64_t)BLOCK || memcmp(super, zero, BLOCK))
		return 0;
	for (unsigned i = 0; i < STATES; i++) {
		uint64_t off = STATE_OFF + i * (uint64_t)BLOCK;

		memset(b, 0, BLOCK);
		if (off >= size)
			break;
		if (image_read_at(image, b, BLOCK, off) ||
		    (memcmp(b, zero, BLOCK) && !image_sealed(b, BLOCK, off)))
			return 0;
	}
	return 1;
}

static int refuse_failed(const struct image *image)
{
	gvm_log(
	    GVM_LOG_ERROR,
	    "image %s: the disk has lost writes to it: pages in it may read as zeros or be old; "
	    "remove the file to start without its regions, or take them as they are with "
	    "--trust-image",
	    image->path);
	return -EIO;
}

/* Wait until the kernel has written the file, and leave the report of what it could not write to
 * the sync that comes next. */
static void settle(const struct image *image)
{
	struct fiemap map = { .fm_length = FIEMAP_MAX_OFFSET, .fm_flags = FIEMAP_FLAG_SYNC };

	(void)!ioctl(image->fd, FS_IOC_FIEMAP, &map);
}

/* Its process was killed: has a write been lost since, that nobody was told of? The answer comes
 * once, and is lost with a process that is killed before it has noted it in the file. So what takes
 * long is done before the question. To note the worst beforehand would turn each start that is
 * killed, while the disk is busy with other things, into the loss of all regions. */
static int ask_lost_writes(struct image *image, struct image_head *st)
{
	settle(image);
	if (!lost_before(image))
		return 0;
	image->seq = st->seq;
	image->regions.pages = st->region_pages;
	image->index.pages = st->index_pages;
	atomic_store(&image->failed, 1);
	if (!image_state_write(image, 0) && fdatasync(image->fd))
		image_io_error(image, "have its state written to the disk", -errno);
	return refuse_failed(image);
}

static int open_existing(struct image *image, unsigned flags)
{
	struct image_head st;
	int err = state_choose(image, flags, &st);

	if (err)
		return err;
	if (st.failed && !(flags & IMAGE_TRUST))
		return refuse_failed(image);
	/* What was lost before is not to be a failure of this run. */
	if (flags & IMAGE_TRUST && !st.clean && (lost_before(image) || st.failed))
		gvm_log(GVM_LOG_WARN,
			"image %s: the disk has lost writes to it; pages in it may read as zeros "
			"or be old (--trust-image)",
			image->path);
	if (!st.clean && !st.failed && !strcmp(st.boot, image->boot)) {
		err = flags & IMAGE_TRUST ? 0 : ask_lost_writes(image, &st);
		if (err)
			return err;
	} else if (!st.clean && !st.failed) {
		if (!(flags & IMAGE_TRUST)) {
			gvm_log(GVM_LOG_WARN,
				"image %s: the machine went down with it in use; its regions are "
				"dropped (--trust-image would have kept them, as of the last sync)",
				image->path);
			return format(image);
		}
		gvm_log(
		    GVM_LOG_WARN,
		    "image %s: the machine went down with it in use; pages stored after the last "
		    "sync may be old (--trust-image)",
		    image->path);
	}
	return load(image, &st);
}

static int open_contents(struct image *image, unsigned flags)
{
	uint8_t super[BLOCK] = { 0 };
	struct stat st;
	int err;

	if (fstat(image->fd, &st))
		return image_io_error(image, "look at it", -errno);
	if (!S_ISREG(st.st_mode)) {
		gvm_log(GVM_LOG_ERROR, "%s is not a regular file; name a file for the image",
			image->path);
		return -EMEDIUMTYPE;
	}
	err = image_read_at(image, super, st.st_size < BLOCK ? (size_t)st.st_size : BLOCK, 0);
	if (err)
		return image_io_error(image, "read it", err);
	if (unfinished(image, super, (uint64_t)st.st_size))
		return format(image);
	err = super_check(image, super);
	if (err)
		return err;
	if (st.st_mode & (S_IRWXG | S_IRWXO))
		gvm_log(GVM_LOG_WARN, "image %s may be used by others than its owner: chmod 600 %s",
			image->path, image->path);
	return open_existing(image, flags);
}

static int open_error(const struct image *image, int err)
{
	const char *advice = err == -ENOENT   ? "; its folder must be there: make it first"
			     : err == -EISDIR ? "; --image names a file, which may be new"
			     : err == -EACCES ? "; this user must be able to read and write it, or "
						"to make it in its folder"
			     : err == -EROFS  ? "; name one on a file system that can be written to"
			     : err == -ENOTDIR ? "; a part of its name is a file, not a folder"
					       : "";

	gvm_log(GVM_LOG_ERROR, "image %s: cannot open it: %s%s", image->path, strerror(-err),
		advice);
	return err;
}

static int open_locked(struct image *image)
{
	image->fd = open(image->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (image->fd < 0)
		return open_error(image, -errno);
	if (flock(image->fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno != EWOULDBLOCK)
		return image_io_error(image, "lock it", -errno);
	gvm_log(GVM_LOG_ERROR,
		"image %s is in use by another gvm-memsrv: stop it, or name another file",
		image->path);
	return -EBUSY;
}

int image_open(const char *path, unsigned flags, struct image **image)
{
	struct image *img = calloc(1, sizeof(*img));
	int err = -ENOMEM;

	if (!img)
		return err;
	img->fd = -1;
	pthread_mutex_init(&img->lock, NULL);
	img->regions = (struct image_table){
		.what = "region table", .off = REGION_OFF, .record = REGION_LEN, .cap = REGION_CAP
	};
	img->index = (struct image_table){
		.what = "slab index", .off = INDEX_OFF, .record = INDEX_LEN, .cap = INDEX_CAP
	};
	img->path = strdup(path);
	if (!img->path)
		goto fail;
	err = read_boot_id(img->boot, sizeof(img->boot));
	if (err) {
		image_io_error(img, "read /proc/sys/kernel/random/boot_id, which it needs", err);
		goto fail;
	}
	err = open_locked(img);
	if (!err)
		err = open_contents(img, flags);
	if (!err)
		err = image_state_write(img, 0);
	if (!err)
		err = image_sync(img);
	if (err)
		goto fail;
	*image = img;
	return 0;
fail:
	image_forget(img);
	return err;
}

/* ---- what was found ------------------------------------------------------------------------ */

int image_walk(struct image *image, const struct image_visitor *visitor)
{
	int err = 0;

	for (uint32_t n = 0; n < image->found_count && !err; n++)
		if (image->found[n].state == IMAGE_LIVE)
			err = visitor->region(visitor->arg, n, &image->found[n].region);
	for (size_t i = 0; i < image->entry_count && !err; i++) {
		const struct image_entry *e = &image->entries[i];

		err = visitor->slab(visitor->arg, e->slot, e->slab, e->place, e->extent);
	}
	free(image->found);
	free(image->entries);
	image->found = NULL;
	image->entries = NULL;
	image->found_count = 0;
	image->entry_count = 0;
	return err;
}
