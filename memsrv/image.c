/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "image.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <gvmnet/gvmnet.h>

#define MAGIC         "gvmnet-image\r\n\x1a"
#define MAGIC_LEN     16u
#define VERSION       1u
#define BLOCK         4096u
#define STATE_OFF     4096u
#define STATES        2u
#define REGION_OFF    (UINT64_C(64) << 10)
#define REGION_LEN    256u
#define REGION_CAP    65536u
#define INDEX_OFF     (UINT64_C(32) << 20)
#define INDEX_LEN     32u
#define INDEX_CAP     (1u << 24)
#define DATA_OFF      (UINT64_C(1) << 30)
#define UNIT          (UINT64_C(64) << 10)
#define CHUNK         (UINT64_C(1) << 30)
#define DATA_MAX      (UINT64_C(1) << 46) /* bytes of extents */
#define NO_SLOT       UINT32_MAX
#define SLAB_PAGE_MIN 16u
#define SLAB_PAGE_MAX (1u << 18)

/* One of the two tables of records: what it is and which records are free. */
struct table {
	const char *what;
	uint64_t off;
	uint32_t record, cap;
	uint32_t pages;  /* of 4 KiB, as the state says */
	uint32_t *spare; /* stack of free record numbers */
	size_t spares, room;
};

struct entry {
	uint64_t slab, extent, len;
	uint32_t place, slot;
};

struct found_region {
	struct image_region region;
	enum image_state state;
};

struct image {
	int fd;
	char *path;
	pthread_mutex_t lock;
	struct table regions, index;
	uint64_t seq;
	char boot[40];
	int no_holes; /* the file system cannot punch or allocate: zeros are written */

	uint64_t *busy; /* bitmap of units in use */
	uint64_t units; /* bits in it */
	uint64_t first; /* no unit below is free */
	void **chunk;   /* where each GiB of extents is mapped */
	size_t chunks;

	/* from image_open to image_walk */
	struct found_region *found;
	uint32_t found_count;
	struct entry *entries;
	size_t entry_count;
};

/* ---- checksums and single records ---------------------------------------------------------- */

static uint32_t crc_table[256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void crc_init(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int k = 0; k < 8; k++)
			c = c & 1 ? (c >> 1) ^ 0x82F63B78u : c >> 1;
		crc_table[i] = c;
	}
}

/* CRC-32C (Castagnoli; RFC 3720, appendix B.4) of a record and its place in the file. */
static uint32_t crc_of(const uint8_t *buf, size_t len, uint64_t where)
{
	uint32_t c = UINT32_MAX;

	pthread_once(&crc_once, crc_init);
	for (int i = 0; i < 8; i++)
		c = crc_table[(c ^ (uint8_t)(where >> (8 * i))) & 0xFF] ^ (c >> 8);
	for (size_t i = 0; i < len; i++)
		c = crc_table[(c ^ buf[i]) & 0xFF] ^ (c >> 8);
	return ~c;
}

static void put32(uint8_t *at, uint32_t v)
{
	v = htole32(v);
	memcpy(at, &v, 4);
}

static void put64(uint8_t *at, uint64_t v)
{
	v = htole64(v);
	memcpy(at, &v, 8);
}

static uint32_t get32(const uint8_t *at)
{
	uint32_t v;

	memcpy(&v, at, 4);
	return le32toh(v);
}

static uint64_t get64(const uint8_t *at)
{
	uint64_t v;

	memcpy(&v, at, 8);
	return le64toh(v);
}

/* The checksum is the first word of each record and each block. */
static void seal(uint8_t *record, size_t len, uint64_t where)
{
	put32(record, crc_of(record + 4, len - 4, where));
}

static int sealed(const uint8_t *record, size_t len, uint64_t where)
{
	return get32(record) == crc_of(record + 4, len - 4, where);
}

static int write_at(const struct image *image, const void *buf, size_t len, uint64_t off)
{
	const uint8_t *at = buf;

	while (len) {
		ssize_t n = pwrite(image->fd, at, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		at += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* -ENODATA: the file ends before. */
static int read_at(const struct image *image, void *buf, size_t len, uint64_t off)
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

static int damaged(const struct image *image, const char *what, uint64_t off)
{
	gvm_log(GVM_LOG_ERROR,
		"image %s is damaged: %s at byte %" PRIu64
		"; restore it, or remove the file to start without its regions",
		image->path, what, off);
	return -EBADMSG;
}

static int io_error(const struct image *image, const char *what, int err)
{
	gvm_log(GVM_LOG_ERROR, "image %s: cannot %s: %s", image->path, what, strerror(-err));
	return err;
}

/* ---- superblock and state ------------------------------------------------------------------ */

static void super_encode(uint8_t *b)
{
	memset(b, 0, BLOCK);
	memcpy(b + 8, MAGIC, sizeof(MAGIC));
	put32(b + 24, VERSION);
	put32(b + 28, REGION_LEN);
	put64(b + 32, REGION_OFF);
	put32(b + 40, REGION_CAP);
	put32(b + 44, INDEX_LEN);
	put64(b + 48, INDEX_OFF);
	put32(b + 56, INDEX_CAP);
	put64(b + 64, DATA_OFF);
	seal(b, BLOCK, 0);
}

static int super_check(const struct image *image, const uint8_t *b)
{
	uint8_t mine[BLOCK];
	char magic[MAGIC_LEN] = MAGIC;

	if (memcmp(b + 8, magic, MAGIC_LEN)) {
		gvm_log(GVM_LOG_ERROR,
			"%s is not an image of gvm-memsrv and is left alone; name another file",
			image->path);
		return -EMEDIUMTYPE;
	}
	if (!sealed(b, BLOCK, 0))
		return damaged(image, "the superblock", 0);
	if (get32(b + 24) != VERSION) {
		gvm_log(
		    GVM_LOG_ERROR,
		    "image %s has format %u; this program reads format %u: use the version that "
		    "wrote it",
		    image->path, get32(b + 24), VERSION);
		return -EPROTONOSUPPORT;
	}
	super_encode(mine);
	return memcmp(b, mine, BLOCK) ? damaged(image, "the superblock", 0) : 0;
}

static void state_encode(const struct image *image, uint8_t *b, int clean, uint64_t off)
{
	memset(b, 0, BLOCK);
	put32(b + 4, clean ? 1 : 0);
	put64(b + 8, image->seq);
	memcpy(b + 16, image->boot, sizeof(image->boot));
	put32(b + 56, image->regions.pages);
	put32(b + 60, image->index.pages);
	seal(b, BLOCK, off);
}

/* Both copies, one after the other: one of them is whole at any moment. */
static int state_write(struct image *image, int clean)
{
	uint8_t b[BLOCK];
	int err = 0;

	image->seq++;
	for (unsigned i = 0; i < STATES && !err; i++) {
		uint64_t off = STATE_OFF + i * (uint64_t)BLOCK;

		state_encode(image, b, clean, off);
		err = write_at(image, b, BLOCK, off);
	}
	return err ? io_error(image, "write its state", err) : 0;
}

struct state {
	int valid, clean;
	uint64_t seq;
	char boot[40];
	uint32_t region_pages, index_pages;
};

static int state_read(const struct image *image, unsigned i, struct state *st)
{
	uint8_t b[BLOCK];
	uint64_t off = STATE_OFF + i * (uint64_t)BLOCK;
	int err = read_at(image, b, BLOCK, off);

	if (err && err != -ENODATA)
		return io_error(image, "read its state", err);
	memset(st, 0, sizeof(*st));
	if (err || !sealed(b, BLOCK, off) || get32(b + 4) > 1)
		return 0;
	st->clean = (int)get32(b + 4);
	st->seq = get64(b + 8);
	memcpy(st->boot, b + 16, sizeof(st->boot));
	st->boot[sizeof(st->boot) - 1] = 0;
	st->region_pages = get32(b + 56);
	st->index_pages = get32(b + 60);
	st->valid = st->region_pages <= REGION_CAP / (BLOCK / REGION_LEN) &&
		    st->index_pages <= INDEX_CAP / (BLOCK / INDEX_LEN);
	return 0;
}

/* The state to go by. A damaged copy is damage like any other, but after the machine's death it
 * may be a write that was cut short, and then the other copy is the one. */
static int state_choose(const struct image *image, unsigned flags, struct state *st)
{
	struct state both[STATES];
	unsigned valid = 0;

	for (unsigned i = 0; i < STATES; i++) {
		int err = state_read(image, i, &both[i]);

		if (err)
			return err;
		valid += both[i].valid ? 1 : 0;
	}
	if (valid == 0 || (valid == 1 && !(flags & IMAGE_TRUST)))
		return damaged(image, "a state block",
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

static uint64_t record_off(const struct table *t, uint32_t n)
{
	return t->off + (uint64_t)n * t->record;
}

/* Room in the stack for every record that there is, so that freeing one cannot fail. */
static int table_room(struct table *t, uint32_t pages)
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

static void free_record(const struct table *t, uint8_t *b, uint32_t n)
{
	memset(b, 0, t->record);
	put32(b + 4, t->record == REGION_LEN ? (uint32_t)IMAGE_FREE : NO_SLOT);
	seal(b, t->record, record_off(t, n));
}

/* One more page of free records; then the state says that it is there. */
static int table_grow(struct image *image, struct table *t)
{
	uint32_t per = BLOCK / t->record, base = t->pages * per;
	uint8_t page[BLOCK];
	int err;

	if (base + per > t->cap) {
		gvm_log(GVM_LOG_WARN, "image %s: its %s is full", image->path, t->what);
		return -ENOSPC;
	}
	err = table_room(t, t->pages + 1);
	if (err)
		return err;
	for (uint32_t i = 0; i < per; i++)
		free_record(t, page + (size_t)i * t->record, base + i);
	err = write_at(image, page, BLOCK, t->off + (uint64_t)t->pages * BLOCK);
	if (err)
		return io_error(image, "extend its tables", err);
	t->pages++;
	err = state_write(image, 0);
	if (err) {
		t->pages--;
		return err;
	}
	for (uint32_t i = per; i-- > 0;)
		t->spare[t->spares++] = base + i;
	return 0;
}

static int table_take(struct image *image, struct table *t, uint32_t *n)
{
	int err = t->spares ? 0 : table_grow(image, t);

	if (!err)
		*n = t->spare[--t->spares];
	return err;
}

static int table_give(struct image *image, struct table *t, uint32_t n)
{
	uint8_t b[REGION_LEN];
	int err;

	free_record(t, b, n);
	err = write_at(image, b, t->record, record_off(t, n));
	if (err)
		return io_error(image, "free a record", err);
	t->spare[t->spares++] = n;
	return 0;
}

static void region_encode(const struct image_region *r, enum image_state state, uint8_t *b,
			  uint64_t off)
{
	memset(b, 0, REGION_LEN);
	put32(b + 4, state);
	put64(b + 8, r->id);
	put64(b + 16, r->generation);
	put64(b + 24, r->holder);
	put64(b + 32, r->pages);
	put64(b + 40, r->share);
	put64(b + 48, r->reserved);
	put32(b + 56, r->slab_pages);
	put32(b + 60, r->flags);
	put32(b + 64, r->linger_ms);
	memcpy(b + 128, r->name, sizeof(r->name));
	seal(b, REGION_LEN, off);
}

static int region_decode(const uint8_t *b, uint64_t off, struct found_region *f)
{
	struct image_region *r = &f->region;

	if (!sealed(b, REGION_LEN, off))
		return -EBADMSG;
	f->state = (enum image_state)get32(b + 4);
	r->id = get64(b + 8);
	r->generation = get64(b + 16);
	r->holder = get64(b + 24);
	r->pages = get64(b + 32);
	r->share = get64(b + 40);
	r->reserved = get64(b + 48);
	r->slab_pages = get32(b + 56);
	r->flags = get32(b + 60);
	r->linger_ms = get32(b + 64);
	memcpy(r->name, b + 128, sizeof(r->name));
	if (f->state == IMAGE_FREE)
		return 0;
	if (f->state > IMAGE_DELETING || f->state < IMAGE_FREE || r->name[63] || !r->name[0] ||
	    !r->pages || r->slab_pages < SLAB_PAGE_MIN || r->slab_pages > SLAB_PAGE_MAX ||
	    (r->slab_pages & (r->slab_pages - 1)))
		return -EBADMSG;
	return 0;
}

static void entry_encode(uint32_t slot, uint64_t slab, uint64_t extent, uint8_t *b, uint64_t off)
{
	memset(b, 0, INDEX_LEN);
	put32(b + 4, slot);
	put64(b + 8, slab);
	put64(b + 16, extent);
	seal(b, INDEX_LEN, off);
}

int image_region_write(struct image *image, uint32_t slot, const struct image_region *region,
		       enum image_state state)
{
	uint8_t b[REGION_LEN];
	uint64_t off = record_off(&image->regions, slot);
	int err;

	region_encode(region, state, b, off);
	err = write_at(image, b, REGION_LEN, off);
	return err ? io_error(image, "write a region's record", err) : 0;
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
	err = table_give(image, &image->regions, slot);
	pthread_mutex_unlock(&image->lock);
	return err;
}

int image_slab_move(struct image *image, uint32_t place, uint32_t slot, uint64_t slab,
		    uint64_t extent)
{
	uint8_t b[INDEX_LEN];
	uint64_t off = record_off(&image->index, place);
	int err;

	entry_encode(slot, slab, extent, b, off);
	err = write_at(image, b, INDEX_LEN, off);
	return err ? io_error(image, "write a slab's record", err) : 0;
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
	err = table_give(image, &image->index, place);
	pthread_mutex_unlock(&image->lock);
	return err;
}

/* ---- extents ------------------------------------------------------------------------------- */

static int unit_busy(const struct image *image, uint64_t unit)
{
	return unit < image->units && (image->busy[unit / 64] >> (unit % 64) & 1);
}

static void units_set(struct image *image, uint64_t unit, uint64_t count, int busy)
{
	for (uint64_t u = unit; u < unit + count; u++) {
		uint64_t bit = UINT64_C(1) << (u % 64);

		if (busy)
			image->busy[u / 64] |= bit;
		else
			image->busy[u / 64] &= ~bit;
	}
}

static int units_room(struct image *image, uint64_t units)
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
	err = units_room(image, at + count);
	if (err)
		return err;
	units_set(image, at, count, 1);
	*unit = at;
	return 0;
}

static void units_give(struct image *image, uint64_t unit, uint64_t count)
{
	units_set(image, unit, count, 0);
	if (unit < image->first)
		image->first = unit;
}

static int write_zeros(const struct image *image, uint64_t off, uint64_t len)
{
	static const uint8_t zeros[64 << 10];
	int err = 0;

	for (uint64_t done = 0; done < len && !err; done += sizeof(zeros))
		err = write_at(image, zeros,
			       len - done < sizeof(zeros) ? len - done : sizeof(zeros), off + done);
	return err;
}

static int unsupported(int err)
{
	return err == EOPNOTSUPP || err == ENOSYS || err == EINVAL;
}

/* Give the blocks back, leaving zeros. Where that fails, old bytes stay, and whoever allocates
 * must write zeros over them from now on. */
static void punch(struct image *image, uint64_t off, uint64_t len)
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
			return err == -EFBIG ? -ENOSPC : err;
		image->no_holes = 1;
	}
	err = write_zeros(image, off, len);
	return err == -EFBIG || err == -EDQUOT ? -ENOSPC : err;
}

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
		return io_error(image, "map it", -errno);
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
	gvm_log(GVM_LOG_WARN,
		"image %s: no room for a slab of %" PRIu64 " KiB: %s; free disk space", image->path,
		len >> 10, strerror(-err));
	punch(image, DATA_OFF + unit * UNIT, len);
give:
	units_give(image, unit, len / UNIT);
out:
	pthread_mutex_unlock(&image->lock);
	return err;
}

void image_extent_put(struct image *image, uint64_t extent, uint64_t len)
{
	pthread_mutex_lock(&image->lock);
	punch(image, DATA_OFF + extent, len);
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

uint64_t image_room(const struct image *image)
{
	struct statvfs vfs;

	if (fstatvfs(image->fd, &vfs))
		return UINT64_MAX;
	return (uint64_t)vfs.f_bavail * vfs.f_frsize;
}

/* ---- opening ------------------------------------------------------------------------------- */

static int load_regions(struct image *image)
{
	struct table *t = &image->regions;
	uint32_t per = BLOCK / REGION_LEN;
	uint8_t page[BLOCK];

	image->found_count = t->pages * per;
	image->found = calloc(image->found_count + 1, sizeof(*image->found));
	if (!image->found || table_room(t, t->pages))
		return -ENOMEM;
	for (uint32_t n = 0; n < image->found_count; n++) {
		uint64_t off = record_off(t, n);
		int err = n % per ? 0 : read_at(image, page, BLOCK, off);

		if (err == -ENODATA)
			return damaged(image, "the region table is cut off", off);
		if (err)
			return io_error(image, "read its region table", err);
		if (region_decode(page + (size_t)(n % per) * REGION_LEN, off, &image->found[n]))
			return damaged(image, "a region's record", off);
	}
	return 0;
}

/* What the entry's region says about it: 1 keep, 0 the region is going or has shrunk, -EBADMSG. */
static int entry_verdict(const struct image *image, const struct entry *e)
{
	const struct found_region *f;
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
	uint64_t off = record_off(&image->index, n);
	struct entry e = {
		.place = n, .slot = get32(b + 4), .slab = get64(b + 8), .extent = get64(b + 16)
	};
	int verdict;

	if (!sealed(b, INDEX_LEN, off))
		return damaged(image, "a slab's record", off);
	if (e.slot == NO_SLOT) {
		image->index.spare[image->index.spares++] = n;
		return 0;
	}
	if (e.slot < image->found_count)
		e.len = (uint64_t)image->found[e.slot].region.slab_pages * BLOCK;
	verdict = e.len ? entry_verdict(image, &e) : -EBADMSG;
	if (verdict < 0)
		return damaged(image, "a slab's record contradicts the region table", off);
	if (verdict == 0)
		return table_give(image, &image->index, n);
	image->entries[image->entry_count++] = e;
	return 0;
}

static int by_extent(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	if (x->extent != y->extent)
		return x->extent < y->extent ? -1 : 1;
	return x->place < y->place ? -1 : x->place > y->place;
}

static int by_slab(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	if (x->slot != y->slot)
		return x->slot < y->slot ? -1 : 1;
	return x->slab < y->slab ? -1 : x->slab > y->slab;
}

/* No slab twice; extents are the same or apart. Leaves the entries in order of extents. */
static int check_entries(struct image *image)
{
	struct entry *e = image->entries;

	qsort(e, image->entry_count, sizeof(*e), by_slab);
	for (size_t i = 1; i < image->entry_count; i++)
		if (e[i].slot == e[i - 1].slot && e[i].slab == e[i - 1].slab)
			return damaged(image, "a slab has two records",
				       record_off(&image->index, e[i].place));
	qsort(e, image->entry_count, sizeof(*e), by_extent);
	for (size_t i = 1; i < image->entry_count; i++) {
		int same = e[i].extent == e[i - 1].extent && e[i].len == e[i - 1].len;

		if (!same && e[i].extent < e[i - 1].extent + e[i - 1].len)
			return damaged(image, "two slabs overlap",
				       record_off(&image->index, e[i].place));
	}
	return 0;
}

static int load_index(struct image *image)
{
	struct table *t = &image->index;
	uint32_t per = BLOCK / INDEX_LEN, count = t->pages * per;
	uint8_t page[BLOCK];

	image->entries = calloc((size_t)count + 1, sizeof(*image->entries));
	if (!image->entries || table_room(t, t->pages))
		return -ENOMEM;
	for (uint32_t n = 0; n < count; n++) {
		uint64_t off = record_off(t, n);
		int err = n % per ? 0 : read_at(image, page, BLOCK, off);

		if (err == -ENODATA)
			return damaged(image, "the slab index is cut off", off);
		if (err)
			return io_error(image, "read its slab index", err);
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
		return io_error(image, "look at it", -errno);
	for (size_t i = 0; i < image->entry_count; i++) {
		struct entry *e = &image->entries[i];

		if (i && e->extent == e[-1].extent)
			continue;
		if ((uint64_t)st.st_size < DATA_OFF + e->extent + e->len)
			return damaged(image, "the file is cut off", (uint64_t)st.st_size);
		if (e->extent > end)
			punch(image, DATA_OFF + end, e->extent - end);
		end = e->extent + e->len;
		err = units_room(image, end / UNIT);
		if (err)
			return err;
		units_set(image, e->extent / UNIT, e->len / UNIT, 1);
	}
	if ((uint64_t)st.st_size > DATA_OFF + end && ftruncate(image->fd, (off_t)(DATA_OFF + end)))
		return io_error(image, "shorten it", -errno);
	return 0;
}

/* Regions whose creation or deletion was under way are freed when all their entries have been. */
static int load_finish(struct image *image)
{
	int err = 0;

	for (uint32_t n = image->found_count; n-- > 0 && !err;) {
		enum image_state state = image->found[n].state;

		if (state == IMAGE_BUILDING || state == IMAGE_DELETING)
			err = table_give(image, &image->regions, n);
		else if (state == IMAGE_FREE)
			image->regions.spare[image->regions.spares++] = n;
	}
	return err;
}

static int load(struct image *image, const struct state *st)
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

/* The superblock last: a file without one is a creation that did not end, see unfinished(). */
static int format(struct image *image)
{
	uint8_t b[BLOCK];
	long attr = 0;
	int err;

	if (ftruncate(image->fd, 0))
		return io_error(image, "empty it", -errno);
#ifdef FS_NOCOW_FL
	/* btrfs would need new blocks to overwrite old ones, whatever was allocated before. */
	if (!ioctl(image->fd, FS_IOC_GETFLAGS, &attr)) {
		attr |= FS_NOCOW_FL;
		(void)!ioctl(image->fd, FS_IOC_SETFLAGS, &attr);
	}
#endif
	err = state_write(image, 0);
	if (err)
		return err;
	super_encode(b);
	err = write_at(image, b, BLOCK, 0);
	return err ? io_error(image, "write its superblock", err) : 0;
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
		if (read_at(image, b, BLOCK, off) ||
		    (memcmp(b, zero, BLOCK) && !sealed(b, BLOCK, off)))
			return 0;
	}
	return 1;
}

static int open_existing(struct image *image, unsigned flags)
{
	struct state st;
	int err = state_choose(image, flags, &st);

	if (err)
		return err;
	if (!st.clean && strcmp(st.boot, image->boot)) {
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
		return io_error(image, "look at it", -errno);
	if (!S_ISREG(st.st_mode)) {
		gvm_log(GVM_LOG_ERROR, "%s is not a regular file; name a file for the image",
			image->path);
		return -EMEDIUMTYPE;
	}
	err = read_at(image, super, st.st_size < BLOCK ? (size_t)st.st_size : BLOCK, 0);
	if (err)
		return io_error(image, "read it", err);
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
		return io_error(image, "lock it", -errno);
	gvm_log(GVM_LOG_ERROR,
		"image %s is in use by another gvm-memsrv: stop it, or name another file",
		image->path);
	return -EBUSY;
}

static void image_free(struct image *image)
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

int image_open(const char *path, unsigned flags, struct image **image)
{
	struct image *img = calloc(1, sizeof(*img));
	int err = -ENOMEM;

	if (!img)
		return err;
	img->fd = -1;
	pthread_mutex_init(&img->lock, NULL);
	img->regions = (struct table){
		.what = "region table", .off = REGION_OFF, .record = REGION_LEN, .cap = REGION_CAP
	};
	img->index = (struct table){
		.what = "slab index", .off = INDEX_OFF, .record = INDEX_LEN, .cap = INDEX_CAP
	};
	img->path = strdup(path);
	if (!img->path)
		goto fail;
	err = read_boot_id(img->boot, sizeof(img->boot));
	if (err) {
		io_error(img, "read /proc/sys/kernel/random/boot_id, which it needs", err);
		goto fail;
	}
	err = open_locked(img);
	if (!err)
		err = open_contents(img, flags);
	if (!err)
		err = state_write(img, 0);
	if (!err)
		err = image_sync(img);
	if (err)
		goto fail;
	*image = img;
	return 0;
fail:
	image_free(img);
	return err;
}

int image_walk(struct image *image, const struct image_visitor *visitor)
{
	int err = 0;

	for (uint32_t n = 0; n < image->found_count && !err; n++)
		if (image->found[n].state == IMAGE_LIVE)
			err = visitor->region(visitor->arg, n, &image->found[n].region);
	for (size_t i = 0; i < image->entry_count && !err; i++) {
		const struct entry *e = &image->entries[i];

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

int image_sync(struct image *image)
{
	while (fdatasync(image->fd))
		if (errno != EINTR)
			return io_error(image, "sync it", -errno);
	return 0;
}

int image_close(struct image *image, int clean)
{
	int err = 0;

	if (clean) {
		err = image_sync(image);
		if (!err)
			err = state_write(image, 1);
		if (!err)
			err = image_sync(image);
	}
	image_free(image);
	return err;
}

const char *image_path(const struct image *image)
{
	return image->path;
}
