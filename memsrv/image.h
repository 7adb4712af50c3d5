/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The image file: a memory node's regions in one file, so that they outlive its process.
 *
 *     offset          what
 *     0               superblock: magic, version, where the rest is
 *     4 KiB, 8 KiB    state, twice: clean flag, boot id, lengths of the two tables
 *     64 KiB          region table: records of 256 bytes
 *     32 MiB          slab index: records of 32 bytes: (region, slab) -> extent
 *     1 GiB           extents: the slabs, each a shared mapping, aligned to its length
 *
 * The file is sparse: what is not used takes no disk. Each record has a CRC-32C that covers its
 * position too; both tables are filled with valid records (free ones) up to the length that the
 * state says, so any damaged, zeroed or misplaced byte is found when the file is opened.
 *
 * Order of writes. A process that dies by any signal leaves every write() and every store to a
 * mapping that it had made, in the page cache, so at each moment the file must be right as it is:
 *   - A table grows by a page of free records first; then the state says so.
 *   - A slab: blocks are allocated (fallocate), then its index record is written, then its key is
 *     given away. So an acknowledged page always has a record, and a full disk is an ENOSPC answer
 *     and not a SIGBUS.
 *   - Copy on write: the copy is made, then the record is changed in place to point to it.
 *   - A clone: region record BUILDING, index records, region record LIVE.
 *   - A deletion: region record DELETING, index records freed, region record freed; the blocks
 *     are given back last. Opening finishes what was half done: BUILDING and DELETING regions go,
 *     and blocks that no record names are given back to the disk.
 *   - Records are small and never cross a page, and the kernel copies such a write whole.
 *
 * Durability. The state holds the machine's boot id and says clean, in use or failed. Clean, or in
 * use under the same boot id (the process died, the machine did not) and no write was lost since:
 * everything acknowledged is there. In use and another boot id: the machine died with writes in its
 * cache, so the regions are dropped, unless the operator says trust: then everything is there that
 * was written before the last image_sync, and later pages may be old.
 *
 * Lost writes. When the disk does not take a page, the kernel reports it once for each open file,
 * keeps the page as if it had been written, and drops it when it likes: the next reader gets what
 * the disk has, mostly zeros. So the first such report is the end: the state says failed, for good,
 * and nobody but an operator who says trust opens the file again. A process that is killed takes
 * its report with it, and the inode's may go with the inode; the file system's own is kept for the
 * first who calls syncfs. Asking consumes the answer, so opening a file that is in use says failed
 * first, makes that durable, asks, and only then says in use again.
 *
 * Locking: one process (flock). All functions may be called from any thread; those that name a
 * region or a slab record are called under the store's lock.
 */
#ifndef MEMSRV_IMAGE_H
#define MEMSRV_IMAGE_H

#include <stddef.h>
#include <stdint.h>

struct image;

enum image_state { IMAGE_FREE = 1, IMAGE_BUILDING, IMAGE_LIVE, IMAGE_DELETING };

struct image_region {
	char name[64];
	uint64_t id, generation, holder;
	uint64_t pages, share, reserved;
	uint32_t slab_pages, flags, linger_ms;
};

/* What image_open found, one call each; regions first, then slabs in order of their extents, so
 * that slabs which share an extent follow each other. Non-zero ends the walk and is returned. */
struct image_visitor {
	void *arg;
	int (*region)(void *arg, uint32_t slot, const struct image_region *region);
	int (*slab)(void *arg, uint32_t slot, uint64_t slab, uint32_t place, uint64_t extent);
};

/* Keep the regions also after an unclean death of the machine, or a lost write. */
#define IMAGE_TRUST 1u

/*
 * Open or create. On failure one logged sentence and -errno: -EBUSY another process has it,
 * -EIO a write was lost, -EBADMSG damaged, -EMEDIUMTYPE not an image, -EPROTONOSUPPORT another
 * version, or the system's.
 */
int image_open(const char *path, unsigned flags, struct image **image);
int image_walk(struct image *image, const struct image_visitor *visitor);
/* Everything written so far is on the disk when this returns 0. */
int image_sync(struct image *image);
/* Has the disk failed to take something that was written? Cheap: it starts no writing. From the
 * first -EIO on it is always that, and so is image_sync. Says, too, if the file is not under its
 * name any more. */
int image_check(struct image *image);
/* clean: all regions are at rest; sync and say so in the file, unless a write was lost: -EIO.
 * -ESTALE: that is done, but the file was removed or replaced. */
int image_close(struct image *image, int clean);
const char *image_path(const struct image *image);
/* Bytes that the file's disk has left for new extents. */
uint64_t image_room(const struct image *image);

int image_region_add(struct image *image, const struct image_region *region, enum image_state state,
		     uint32_t *slot);
int image_region_write(struct image *image, uint32_t slot, const struct image_region *region,
		       enum image_state state);
int image_region_free(struct image *image, uint32_t slot);

int image_slab_add(struct image *image, uint32_t slot, uint64_t slab, uint64_t extent,
		   uint32_t *place);
int image_slab_move(struct image *image, uint32_t place, uint32_t slot, uint64_t slab,
		    uint64_t extent);
int image_slab_free(struct image *image, uint32_t place);

/* An extent of len bytes (a power of two, 64 KiB to 1 GiB) that reads as zeros and has its blocks.
 * -ENOSPC, -ENOMEM. */
int image_extent_get(struct image *image, uint64_t len, uint64_t *extent, void **at);
/* Where an extent that is in use is mapped. */
int image_extent_map(struct image *image, uint64_t extent, uint64_t len, void **at);
/* The next part at or after *at (in the extent) that may hold anything but zeros: it is from *at to
 * *end then. 0: there is none. */
int image_extent_data(const struct image *image, uint64_t extent, uint64_t len, uint64_t *at,
		      uint64_t *end);
/* Nobody refers to it any more: give its blocks back. */
void image_extent_put(struct image *image, uint64_t extent, uint64_t len);
/* Zero a part without giving up its blocks. offset and len are multiples of 4,096. */
void image_extent_zero(struct image *image, uint64_t extent, uint64_t offset, uint64_t len,
		       void *at);

#endif
