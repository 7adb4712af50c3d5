/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the tests of the image file have in common: a file in a folder of its own, and a store on it
 * with one client, alice. */
#ifndef MEMSRV_TESTS_IMAGE_RIG_H
#define MEMSRV_TESTS_IMAGE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <fcntl.h>
#include <unistd.h>

#include "fake.h"
#include "image.h"
#include "store.h"

#define SLAB_PAGES 16u
#define SLAB       (SLAB_PAGES * 4096u)
#define DATA_OFF   (UINT64_C(1) << 30)
#define ALICE      UINT64_C(0xA11CE)
#define BOB        UINT64_C(0xB0B)
#define SEC        UINT64_C(1000000000)

static char dir[64], path[96];
static struct image *image;
static struct store *store;
static struct session *alice;
static struct gvm_region_opened got;

/* So many calls from now on report a lost write, as the kernel does. */
static struct {
	int fdatasync, syncfs, sync_file_range;
	int killed; /* in syncfs, which may take long */
} fail;

int __real_fdatasync(int fd);
int __real_sync_file_range(int fd, off_t offset, off_t len, unsigned flags);
int __wrap_fdatasync(int fd);
int __wrap_syncfs(int fd);
int __wrap_sync_file_range(int fd, off_t offset, off_t len, unsigned flags);

static inline int failing(int *count)
{
	if (!*count)
		return 0;
	--*count;
	errno = EIO;
	return 1;
}

int __wrap_fdatasync(int fd)
{
	return failing(&fail.fdatasync) ? -1 : __real_fdatasync(fd);
}

int __wrap_syncfs(int fd)
{
	if (failing(&fail.killed))
		raise(SIGKILL);
	return failing(&fail.syncfs) ? -1
				     : 0; /* the real one waits for other programs' files too */
}

int __wrap_sync_file_range(int fd, off_t offset, off_t len, unsigned flags)
{
	return failing(&fail.sync_file_range) ? -1 : __real_sync_file_range(fd, offset, len, flags);
}

static inline uint64_t id_of(const char *name)
{
	return __wrap_gvm_region_id_of(name);
}

static inline int up_flags(unsigned flags)
{
	struct store_config c = { .incarnation = 1,
				  .memory = 256 * SLAB,
				  .limit = 512 * SLAB,
				  .max_regions = 100,
				  .max_sessions = 10 };
	int err = image_open(path, flags, &image);

	if (err)
		return err;
	c.image = image;
	err = store_open(&c, &store);
	if (!err)
		err = store_session_open(store, ALICE, "alice", &alice);
	return err;
}

static inline void up(void)
{
	assert_int_equal(up_flags(0), 0);
}

/* As if the process ended: sessions are not closed in order. */
static inline void down(int clean)
{
	store_session_close(alice);
	store_close(store);
	assert_int_equal(image_close(image, clean), 0);
}

static inline int setup(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/gvm-image-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/image", dir);
	return 0;
}

static inline int teardown(void **state)
{
	unlink(path);
	return rmdir(dir);
}

static inline int open_as(struct session *s, const char *name, uint64_t pages, uint64_t generation,
			  uint32_t flags)
{
	struct gvm_region_open req = { .pages = pages,
				       .generation = generation,
				       .share_slabs = (pages + SLAB_PAGES - 1) / SLAB_PAGES,
				       .slab_pages = SLAB_PAGES,
				       .page_size = 4096,
				       .flags = flags,
				       .linger_ms = 1000 };

	snprintf(req.name, sizeof(req.name), "%s", name);
	return store_region_open(s, id_of(name), &req, &got);
}

static inline int make(const char *name, uint64_t pages)
{
	return open_as(alice, name, pages, 0, GVM_RO_CREATE);
}

static inline int put_page(const char *name, uint64_t page, int byte)
{
	struct gvm_slab_entry e;
	int err = store_slab_grant(alice, id_of(name), page / SLAB_PAGES, &e);
	uint8_t *at;

	if (err)
		return err;
	at = fake_get(e.key, ALICE, GVM_ACCESS_PUT, page % SLAB_PAGES * 4096, 4096);
	if (!at)
		return -EPERM;
	/* hardware writes past the file system */
	assert_non_null(fake_get(e.key, ALICE, GVM_ACCESS_SOFT, page % SLAB_PAGES * 4096, 4096));
	memset(at, byte, 4096);
	return 0;
}

/* The byte that the page is full of; -1: it is a mixture. */
static inline int get_page(const char *name, uint64_t page)
{
	struct gvm_slab_entry e;
	uint32_t n;
	int more, err;
	const uint8_t *at;

	err = store_slab_list(alice, id_of(name), page / SLAB_PAGES, 1, &e, &n, &more);
	if (err || !n || (e.slab & ~GVM_SLAB_READONLY) != page / SLAB_PAGES)
		return err;
	at = fake_get(e.key, ALICE, GVM_ACCESS_FETCH, page % SLAB_PAGES * 4096, 4096);
	assert_non_null(at);
	return memcmp(at, at + 1, 4095) ? -1 : at[0];
}

/* The image cannot be opened, and the log says so. */
static inline void refused(int why, const char *says)
{
	struct image *img;

	fake_log[0] = 0;
	assert_int_equal(image_open(path, 0, &img), why);
	assert_non_null(strstr(fake_log, says));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
