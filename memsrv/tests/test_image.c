/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The image file: regions outlive their process however it ends, a full disk is an answer, and a
 * file that is damaged, foreign, of another version, in use or not to be trusted is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
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

static int failing(int *count)
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

static uint64_t id_of(const char *name)
{
	return __wrap_gvm_region_id_of(name);
}

static int up_flags(unsigned flags)
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

static void up(void)
{
	assert_int_equal(up_flags(0), 0);
}

/* As if the process ended: sessions are not closed in order. */
static void down(int clean)
{
	store_session_close(alice);
	store_close(store);
	assert_int_equal(image_close(image, clean), 0);
}

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/gvm-image-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/image", dir);
	return 0;
}

static int teardown(void **state)
{
	unlink(path);
	return rmdir(dir);
}

static int open_as(struct session *s, const char *name, uint64_t pages, uint64_t generation,
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

static int make(const char *name, uint64_t pages)
{
	return open_as(alice, name, pages, 0, GVM_RO_CREATE);
}

static int put_page(const char *name, uint64_t page, int byte)
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
static int get_page(const char *name, uint64_t page)
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

/* ---- what stays ---------------------------------------------------------------------------- */

static void regions_outlive_the_process(void **state)
{
	struct session *bob;
	uint64_t generation;

	for (int clean = 0; clean < 2; clean++) {
		up();
		assert_int_equal(make("vm", 40), 0);
		generation = got.generation;
		for (int p = 0; p < 40; p += 3)
			assert_int_equal(put_page("vm", p, p + 1), 0);
		down(clean);
		up();
		/* its client may come back to it, nobody else may, for the linger time */
		assert_int_equal(store_session_open(store, BOB, "bob", &bob), 0);
		assert_int_equal(open_as(bob, "vm", 0, 0, 0), -EBUSY);
		assert_int_equal(open_as(alice, "vm", 40, generation, 0), 0);
		assert_int_equal(got.slabs_used, 3);
		for (int p = 0; p < 40; p++)
			assert_int_equal(get_page("vm", p), p % 3 ? 0 : p + 1);
		assert_int_equal(store_region_close(alice, id_of("vm")), 0);
		assert_int_equal(open_as(bob, "vm", 0, 0, 0), 0);
		assert_int_equal(store_region_delete(bob, id_of("vm")), 0);
		store_session_close(bob);
		down(1);
	}
}

/* A client may be stopped while the node is started again. It has all the time that a client has
 * whose connection falls silent, if it has not said that it leaves; its linger time of a second is
 * long over.
 */
static void ephemeral_regions_wait_for_their_client_after_a_restart(void **state)
{
	for (int clean = 0; clean < 2; clean++) {
		up();
		assert_int_equal(open_as(alice, "a", 16, 0, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
		assert_int_equal(open_as(alice, "b", 16, 0, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
		assert_int_equal(put_page("a", 0, 7), 0);
		down(clean);
		up();
		fake_clock += STORE_SILENT_MS / 1000 * SEC - 1;
		store_tick(store);
		assert_int_equal(open_as(alice, "a", 16, 0, 0), 0);
		fake_log[0] = 0;
		fake_clock += 1;
		store_tick(store);
		assert_string_equal(fake_log,
				    "region b: deleted, with 0 KiB stored of 64: its client (since "
				    "before the node's start) was not heard of and did not come "
				    "back in 3600 s");
		assert_int_equal(get_page("a", 0), 7);
		assert_int_equal(open_as(alice, "b", 16, 0, 0), -ENOENT);
		assert_int_equal(store_region_delete(alice, id_of("a")), 0);
		down(1);
	}
}

static void who_has_said_that_it_leaves_is_not_waited_for_after_a_restart(void **state)
{
	struct gvm_region_open leave = { .name = "a", .page_size = 4096 };
	struct store_stats st;
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (!pid) { /* a node that is killed before the client's connection has ended */
		up();
		assert_int_equal(open_as(alice, "a", 16, 0, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
		_exit(store_region_open(alice, id_of("a"), &leave, &got) ? 1 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	up();
	store_stats(store, &st);
	assert_int_equal(st.regions, 1);
	store_tick(store);
	store_stats(store, &st);
	assert_int_equal(st.regions, 0);
	down(1);
}

static void clones_stay_shared_and_private(void **state)
{
	struct gvm_region_clone req = { .name = "fork", .id = id_of("fork"), .linger_ms = 1000 };
	struct store_stats st;

	up();
	assert_int_equal(make("vm", 48), 0);
	for (int p = 0; p < 48; p += 16)
		assert_int_equal(put_page("vm", p, 0x10 + p), 0);
	assert_int_equal(store_region_clone(alice, id_of("vm"), &req, &got), 0);
	assert_int_equal(put_page("vm", 0, 0x99), 0);
	down(0);
	up();
	assert_int_equal(open_as(alice, "vm", 48, 0, 0), 0);
	assert_int_equal(open_as(alice, "fork", 48, 0, 0), 0);
	store_stats(store, &st);
	assert_int_equal(st.stored_bytes, 4 * SLAB);
	assert_int_equal(st.slabs, 6);
	assert_int_equal(get_page("vm", 0), 0x99);
	assert_int_equal(get_page("fork", 0), 0x10);
	assert_int_equal(put_page("fork", 16, 0x77), 0);
	assert_int_equal(get_page("vm", 16), 0x20);
	assert_int_equal(get_page("fork", 16), 0x77);
	down(1);
}

static uint64_t blocks(void)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void space_is_given_back_and_comes_back_as_zeros(void **state)
{
	uint64_t empty;

	up();
	empty = blocks();
	for (int round = 0; round < 3; round++) {
		assert_int_equal(make("vm", 20 * SLAB_PAGES), 0);
		for (int p = 0; p < 20 * (int)SLAB_PAGES; p += 5)
			assert_int_equal(get_page("vm", p), 0);
		for (int p = 0; p < 20 * (int)SLAB_PAGES; p += 5) {
			assert_int_equal(put_page("vm", p, 0xEE), 0);
			assert_int_equal(get_page("vm", p + 1), 0);
		}
		assert_true(blocks() >= empty + 20 * SLAB);
		assert_int_equal(store_region_delete(alice, id_of("vm")), 0);
		assert_true(blocks() < empty + 4 * SLAB);
	}
	down(1);
}

/* ---- what is refused ----------------------------------------------------------------------- */

static void refused(int why, const char *says)
{
	struct image *img;

	fake_log[0] = 0;
	assert_int_equal(image_open(path, 0, &img), why);
	assert_non_null(strstr(fake_log, says));
}

static void write_file(const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void two_processes_cannot_have_it(void **state)
{
	up();
	refused(-EBUSY, "in use by another gvm-memsrv");
	down(1);
}

static void foreign_files_are_left_alone(void **state)
{
	char text[64] = { 0 };
	FILE *f;

	write_file("my precious letters\n");
	refused(-EMEDIUMTYPE, "left alone");
	f = fopen(path, "r");
	assert_non_null(fgets(text, sizeof(text), f));
	fclose(f);
	assert_string_equal(text, "my precious letters\n");
	unlink(path);
	assert_int_equal(mkdir(path, 0700), 0);
	refused(-EISDIR, "cannot open it");
	rmdir(path);
}

/* CRC-32C bit by bit, over the record's offset and the record without its first word. */
static uint32_t crc(const uint8_t *buf, size_t len, uint64_t where)
{
	uint32_t c = UINT32_MAX;

	for (size_t i = 0; i < len + 8; i++) {
		c ^= i < 8 ? (uint8_t)(where >> (8 * i)) : buf[i - 8];
		for (int k = 0; k < 8; k++)
			c = (c >> 1) ^ (c & 1 ? 0x82F63B78u : 0);
	}
	return ~c;
}

/* Change bytes of a 4 KiB block and give it a right checksum. */
static void patch(uint64_t off, unsigned at, const void *with, size_t len)
{
	uint8_t b[4096];
	uint32_t sum;
	int fd = open(path, O_RDWR);

	assert_int_equal(pread(fd, b, sizeof(b), (off_t)off), sizeof(b));
	memcpy(b + at, with, len);
	sum = crc(b + 4, sizeof(b) - 4, off);
	memcpy(b, &sum, 4);
	assert_int_equal(pwrite(fd, b, sizeof(b), (off_t)off), sizeof(b));
	close(fd);
}

static void other_versions_are_refused(void **state)
{
	uint32_t version = 2;

	up();
	down(1);
	patch(0, 24, &version, 4);
	refused(-EPROTONOSUPPORT, "format 2");
}

static void after_the_death_of_the_machine(void **state)
{
	const char boot[] = "00000000-0000-0000-0000-00000000dead";

	for (int clean = 0; clean < 2; clean++)
		for (unsigned flags = 0; flags < 2; flags++) {
			up();
			assert_int_equal(make("vm", 16), 0);
			assert_int_equal(put_page("vm", 3, 5), 0);
			down(clean);
			patch(4096, 16, boot, sizeof(boot));
			patch(8192, 16, boot, sizeof(boot));
			assert_int_equal(up_flags(flags ? IMAGE_TRUST : 0), 0);
			if (clean || flags) {
				assert_int_equal(open_as(alice, "vm", 16, 0, 0), 0);
				assert_int_equal(get_page("vm", 3), 5);
				assert_int_equal(store_region_delete(alice, id_of("vm")), 0);
			} else {
				assert_non_null(strstr(fake_log, "dropped"));
				assert_int_equal(open_as(alice, "vm", 16, 0, 0), -ENOENT);
			}
			down(1);
		}
}

/* Every byte of metadata: one flipped bit, and no region is taken over. */
static void every_damaged_byte_is_found(void **state)
{
	const uint64_t pages[] = { 0, 4096, 8192, 64 << 10, 32 << 20 };
	uint8_t zero[4096] = { 0 }, keep[4096];
	struct image *img;
	int fd;

	up();
	assert_int_equal(make("vm", 64), 0);
	for (int p = 0; p < 64; p += 16)
		assert_int_equal(put_page("vm", p, 1), 0);
	down(1);
	fd = open(path, O_RDWR);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(pread(fd, keep, 4096, (off_t)pages[i]), 4096);
		for (unsigned at = 0; at < 4096; at += at < 320 ? 1 : 13) {
			uint8_t bad = keep[at] ^ (uint8_t)(1 << at % 8);

			assert_int_equal(pwrite(fd, &bad, 1, (off_t)pages[i] + at), 1);
			if (image_open(path, 0, &img) == 0)
				fail_msg("byte %u of the page at %lu", at, (unsigned long)pages[i]);
			assert_int_equal(pwrite(fd, keep + at, 1, (off_t)pages[i] + at), 1);
		}
		assert_int_equal(pwrite(fd, zero, 4096, (off_t)pages[i]), 4096);
		assert_int_not_equal(image_open(path, 0, &img), 0);
		assert_int_equal(pwrite(fd, keep, 4096, (off_t)pages[i]), 4096);
	}
	/* pages in each other's place */
	assert_int_equal(pread(fd, keep, 4096, 4096), 4096);
	assert_int_equal(pwrite(fd, keep, 4096, 8192), 4096);
	refused(-EBADMSG, "damaged");
	assert_int_equal(up_flags(IMAGE_TRUST), 0);
	assert_int_equal(open_as(alice, "vm", 64, 0, 0), 0);
	assert_int_equal(get_page("vm", 48), 1);
	down(1);
	/* cut off, in the slabs and in each table */
	for (uint64_t len = DATA_OFF + 4 * SLAB - 4096; len > 8192; len /= 5) {
		assert_int_equal(ftruncate(fd, (off_t)len), 0);
		refused(-EBADMSG, "damaged");
	}
	close(fd);
}

/* ---- a disk that does not take what is written --------------------------------------------- */

static void regions_of_a_failed_image_need_trust(void)
{
	for (int again = 0; again < 2; again++)
		refused(-EIO, "--trust-image");
	assert_int_equal(up_flags(IMAGE_TRUST), 0);
	assert_int_equal(open_as(alice, "vm", 16, 0, 0), 0);
	down(1);
	up();
	assert_int_equal(open_as(alice, "vm", 16, 0, 0), 0);
	assert_int_equal(store_region_delete(alice, id_of("vm")), 0);
	down(1);
}

static void up_with_a_page(void)
{
	up();
	assert_int_equal(make("vm", 16), 0);
	assert_int_equal(put_page("vm", 3, 5), 0);
}

static void end_failed(void)
{
	store_session_close(alice);
	store_close(store);
	assert_int_equal(image_close(image, 1), -EIO);
}

/* The kernel reports it once: the second sync would be good, and must not be believed. */
static void a_failed_sync_is_for_good(void **state)
{
	up_with_a_page();
	assert_int_equal(image_check(image), 0);
	assert_int_equal(image_sync(image), 0);
	fail.fdatasync = 1;
	assert_int_equal(image_sync(image), -EIO);
	assert_non_null(strstr(fake_log, "--trust-image"));
	assert_int_equal(image_sync(image), -EIO);
	assert_int_equal(image_check(image), -EIO);
	end_failed();
	regions_of_a_failed_image_need_trust();
}

static void a_failed_sync_at_the_end_is_for_good(void **state)
{
	up_with_a_page();
	fail.fdatasync = 1;
	end_failed();
	regions_of_a_failed_image_need_trust();
}

static void what_the_kernel_failed_to_write_is_noticed_without_a_sync(void **state)
{
	up_with_a_page();
	fail.sync_file_range = 1;
	assert_int_equal(image_check(image), -EIO);
	end_failed();
	regions_of_a_failed_image_need_trust();
}

/* The mark's own sync reports what the first one did not reach. */
static void the_mark_is_tried_again(void **state)
{
	up_with_a_page();
	fail.fdatasync = 4;
	assert_int_equal(image_sync(image), -EIO);
	assert_non_null(strstr(fake_log, "could not be noted"));
	assert_int_equal(fail.fdatasync, 1);
	end_failed();
	assert_int_equal(fail.fdatasync, 0);
	regions_of_a_failed_image_need_trust();
}

/* Nobody was told, as the process was killed: whoever opens it next asks, and is told once. */
static void a_write_lost_by_a_killed_process_is_asked_for(void **state)
{
	for (int which = 0; which < 2; which++) {
		up_with_a_page();
		down(0);
		fail.fdatasync = which == 0;
		fail.syncfs = which == 1;
		refused(-EIO, "--trust-image");
		regions_of_a_failed_image_need_trust();
	}
}

/* A disk that is busy lets a start wait, and who waits for the start may lose patience. */
static void a_start_that_is_killed_as_it_asks_costs_nothing(void **state)
{
	int status;
	pid_t pid;

	up_with_a_page();
	down(0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		fail.killed = 1;
		_exit(up_flags(0) != 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	up();
	assert_int_equal(open_as(alice, "vm", 16, 0, 0), 0);
	assert_int_equal(get_page("vm", 3), 5);
	down(1);
}

/* Trust is asked for once: what was lost before is not a failure of the run that takes it. */
static void trust_takes_a_lost_write_of_a_killed_process(void **state)
{
	up_with_a_page();
	down(0);
	fail.fdatasync = 1;
	assert_int_equal(up_flags(IMAGE_TRUST), 0);
	assert_non_null(strstr(fake_log, "may read as zeros"));
	assert_int_equal(image_check(image), 0);
	assert_int_equal(open_as(alice, "vm", 16, 0, 0), 0);
	assert_int_equal(get_page("vm", 3), 5);
	down(1);
}

/* A creation that was cut short is begun again. */
static void an_unfinished_file_is_made_anew(void **state)
{
	for (off_t len = 0; len <= 12288; len += 4096) {
		write_file("");
		assert_int_equal(truncate(path, len), 0);
		up();
		assert_int_equal(make("vm", 16), 0);
		down(1);
	}
}

/* ---- full disks ---------------------------------------------------------------------------- */

/* A file that may not grow: the same answer as a full disk, and what is stored stays. */
static void a_file_size_limit_is_an_answer(void **state)
{
	struct rlimit old, tight;
	uint64_t extent;
	void *at;

	signal(SIGXFSZ, SIG_IGN);
	up();
	assert_int_equal(make("vm", 64), 0);
	getrlimit(RLIMIT_FSIZE, &old);
	tight = old;
	tight.rlim_cur = DATA_OFF + 2 * SLAB;
	setrlimit(RLIMIT_FSIZE, &tight);
	assert_int_equal(put_page("vm", 0, 1), 0);
	assert_int_equal(put_page("vm", 16, 2), 0);
	assert_int_equal(put_page("vm", 32, 3), -ENOSPC);
	assert_int_equal(image_extent_get(image, SLAB, &extent, &at), -ENOSPC);
	assert_non_null(strstr(fake_log, "ulimit -f"));
	assert_int_equal(put_page("vm", 48, 3), -ENOSPC);
	assert_int_equal(get_page("vm", 0), 1);
	assert_int_equal(get_page("vm", 16), 2);
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(put_page("vm", 32, 3), 0);
	assert_int_equal(get_page("vm", 33), 0);
	down(1);
}

static int on_small_disk(void)
{
	unsigned n = 0;
	int err = 0;

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", dir, "tmpfs", 0, "size=2m"))
		return 77;
	up();
	/* limit > memory: the disk is looked at slab by slab */
	assert_int_equal(make("vm", 100 * SLAB_PAGES), 0);
	for (n = 0; n < 100 && !err; n++)
		err = put_page("vm", n * SLAB_PAGES, (int)n + 1);
	assert_int_equal(err, -ENOSPC);
	n--;
	assert_true(n >= 20 && n < 32);
	for (unsigned i = 0; i < n; i++)
		for (unsigned p = 0; p < SLAB_PAGES;
		     p++) /* a write to a page without blocks: SIGBUS */
			assert_int_equal(put_page("vm", i * SLAB_PAGES + p, (int)i + 1), 0);
	assert_int_equal(store_region_delete(alice, id_of("vm")), 0);
	assert_int_equal(make("vm", 100 * SLAB_PAGES), 0);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(put_page("vm", i * SLAB_PAGES, 9), 0);
	down(0);
	up();
	assert_int_equal(open_as(alice, "vm", 100 * SLAB_PAGES, 0, 0), 0);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(get_page("vm", i * SLAB_PAGES), 9);
	down(1);
	return 0;
}

static void a_full_disk_is_an_answer(void **state)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		status = on_small_disk();
		_exit(status);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("no permission to mount a tmpfs: skipped\n");
		skip();
	}
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- kill -9 ------------------------------------------------------------------------------- */

/*
 * A child changes regions at random and is killed at a random moment. It writes what it is about
 * to do, does it, and then writes what has become of it, into memory that outlives it. Afterwards
 * each page is what was acknowledged, or, for the one operation that was under way, the page
 * before or after it.
 */
#define REGIONS 4
#define SLABS   6
#define PAGES   (SLABS * SLAB_PAGES)

enum op { NONE, CREATE, DELETE, CLONE, WRITE, DISCARD, RESIZE };

struct model {
	struct {
		int exists;
		uint64_t generation, pages;
		uint8_t page[PAGES];
	} region[REGIONS];
	/* the operation under way */
	enum op op;
	int on, to;
	uint64_t first, count;
	uint8_t byte;
	unsigned done; /* operations so far; the parent waits for it */
	unsigned failed;
};

static const char *const names[REGIONS] = { "r0", "r1", "r2", "r3" };
static volatile struct model *m;

static void began(enum op op, int on, int to, uint64_t first, uint64_t count, uint8_t byte)
{
	m->on = on;
	m->to = to;
	m->first = first;
	m->count = count;
	m->byte = byte;
	__atomic_store_n(&m->op, op, __ATOMIC_SEQ_CST);
}

static int ask(void)
{
	const struct gvm_page_run run = { m->first, m->count };
	struct gvm_region_clone req = { .linger_ms = 1000 };
	uint64_t id = id_of(names[m->on]);
	int err = 0;

	switch (m->op) {
	case CREATE:
		return make(names[m->on], m->count);
	case DELETE:
		return store_region_delete(alice, id);
	case CLONE:
		snprintf(req.name, sizeof(req.name), "%s", names[m->to]);
		req.id = id_of(req.name);
		err = store_region_clone(alice, id, &req, &got);
		return err;
	case WRITE:
		return put_page(names[m->on], m->first, m->byte);
	case DISCARD:
		return store_discard(alice, id, &run, 1);
	case RESIZE:
		return store_region_resize(alice, id, m->count,
					   (m->count + SLAB_PAGES - 1) / SLAB_PAGES);
	default:
		return 0;
	}
}

/* The model after the operation. */
static void apply(volatile struct model *x)
{
	volatile uint8_t *page = x->region[x->on].page;

	switch (x->op) {
	case CREATE:
		x->region[x->on].pages = x->count;
		x->region[x->on].exists = 1;
		for (int p = 0; p < (int)PAGES; p++)
			page[p] = 0;
		break;
	case DELETE:
		x->region[x->on].exists = 0;
		break;
	case CLONE:
		x->region[x->to].pages = x->region[x->on].pages;
		x->region[x->to].exists = 1;
		for (int p = 0; p < (int)PAGES; p++)
			x->region[x->to].page[p] = page[p];
		break;
	case WRITE:
		page[x->first] = x->byte;
		break;
	case DISCARD:
		for (uint64_t p = x->first; p < x->first + x->count; p++)
			page[p] = 0;
		break;
	case RESIZE:
		x->region[x->on].pages = x->count;
		for (uint64_t p = x->count; p < PAGES; p++)
			page[p] = 0;
		break;
	default:
		break;
	}
}

static void choose(unsigned *seed)
{
	int on = rand_r(seed) % REGIONS, to = rand_r(seed) % REGIONS, dice = rand_r(seed) % 100;
	uint64_t pages = m->region[on].pages, first;

	if (!m->region[on].exists && dice < 30) {
		began(CREATE, on, 0, 0, 1 + (uint64_t)rand_r(seed) % PAGES, 0);
		return;
	}
	if (!m->region[on].exists) {
		began(NONE, on, 0, 0, 0, 0);
		return;
	}
	first = (uint64_t)rand_r(seed) % pages;
	if (dice < 40)
		began(WRITE, on, 0, first, 1, 1 + (uint8_t)(rand_r(seed) % 255));
	else if (dice < 60)
		began(DISCARD, on, 0, first, 1 + (uint64_t)rand_r(seed) % (pages - first), 0);
	else if (dice < 70)
		began(RESIZE, on, 0, 0, 1 + (uint64_t)rand_r(seed) % PAGES, 0);
	else if (dice < 85 && !m->region[to].exists)
		began(CLONE, on, to, 0, 0, 0);
	else if (dice >= 85)
		began(DELETE, on, 0, 0, 0, 0);
	else
		began(WRITE, on, 0, first, 1, 0x80);
}

static void child(unsigned seed)
{
	if (up_flags(0))
		_exit(3);
	for (int r = 0; r < REGIONS; r++)
		if (m->region[r].exists && open_as(alice, names[r], 0, 0, 0))
			_exit(4);
	for (;;) {
		choose(&seed);
		if (ask()) {
			m->failed++;
			_exit(5);
		}
		if (m->op == CLONE && open_as(alice, names[m->to], 0, 0, 0))
			_exit(6);
		apply(m);
		__atomic_store_n(&m->op, NONE, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&m->done, 1, __ATOMIC_SEQ_CST);
	}
}

static int matches(const volatile struct model *x, int r)
{
	for (uint64_t p = 0; p < x->region[r].pages; p++)
		if (get_page(names[r], p) != x->region[r].page[p])
			return 0;
	return 1;
}

/* The region is as before or after the operation under way; then the model says which. */
static void check_region(int r, const struct model *before, const struct model *after)
{
	int err = open_as(alice, names[r], 0, 0, 0);
	int is_there = err == 0;

	if (err && err != -ENOENT)
		fail_msg("%s: open says %d", names[r], err);
	if (before->region[r].exists == after->region[r].exists &&
	    is_there != before->region[r].exists)
		fail_msg("%s: %s", names[r], is_there ? "should not be there" : "is lost");
	if (!is_there) {
		m->region[r].exists = 0;
		return;
	}
	m->region[r].exists = 1;
	m->region[r].pages = got.pages;
	if (got.pages != before->region[r].pages && got.pages != after->region[r].pages)
		fail_msg("%s: %lu pages", names[r], (unsigned long)got.pages);
	for (uint64_t p = 0; p < PAGES; p++) {
		int is = p < got.pages ? get_page(names[r], p) : 0;
		int torn = before->op == WRITE && before->on == r && before->first == p;
		int was = before->region[r].exists ? before->region[r].page[p] : -2;

		if (!torn && is != was && is != after->region[r].page[p])
			fail_msg("%s page %lu: is %d, was %d, to be %d (operation %d)", names[r],
				 (unsigned long)p, is, was, after->region[r].page[p], before->op);
		if (torn && is != after->region[r].page[p])
			assert_int_equal(put_page(names[r], p, is = after->region[r].page[p]), 0);
		m->region[r].page[p] = (uint8_t)is;
	}
}

static void check_all(void)
{
	struct model before, after;

	memcpy(&before, (const void *)m, sizeof(before));
	after = before;
	apply(&after);
	up();
	for (int r = 0; r < REGIONS; r++)
		check_region(r, &before, &after);
	/* A clone that came to be is whole. */
	if (before.op == CLONE && m->region[before.to].exists)
		assert_true(matches(&after, before.to));
	m->op = NONE;
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Wait until the child has done so many operations more, and is in one of kind op if that is not
 * NONE: those of several steps are the ones to interrupt, and over in microseconds. */
static void await(pid_t pid, unsigned until, enum op op, int spin)
{
	int status;

	while (__atomic_load_n(&m->done, __ATOMIC_SEQ_CST) < until &&
	       waitpid(pid, &status, WNOHANG) == 0)
		sched_yield();
	for (double end = seconds() + 0.02; op != NONE && seconds() < end;)
		if (__atomic_load_n(&m->op, __ATOMIC_SEQ_CST) == op)
			break;
	for (; spin > 0; spin--)
		__asm__ volatile("");
}

static void no_acknowledged_page_is_lost_by_kill(void **state)
{
	unsigned seed = (unsigned)getpid(), rounds = 0;
	double end = seconds() + 3;
	int status;

	m = mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	print_message("seed %u\n", seed);
	up();
	down(0);
	for (; seconds() < end || rounds < 5; rounds++) {
		unsigned until = m->done + (unsigned)rand_r(&seed) % 200;
		pid_t pid = fork();

		if (!pid)
			child((unsigned)rand_r(&seed) + rounds);
		await(pid, until, (enum op)(rand_r(&seed) % (RESIZE + 1)), rand_r(&seed) % 40000);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), SIGKILL);
		check_all();
		down(rand_r(&seed) % 2);
	}
	print_message("killed %u times after %u operations\n", rounds, m->done);
	munmap((void *)m, sizeof(*m));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(regions_outlive_the_process),
		T(ephemeral_regions_wait_for_their_client_after_a_restart),
		T(who_has_said_that_it_leaves_is_not_waited_for_after_a_restart),
		T(clones_stay_shared_and_private),
		T(space_is_given_back_and_comes_back_as_zeros),
		T(two_processes_cannot_have_it),
		T(foreign_files_are_left_alone),
		T(other_versions_are_refused),
		T(after_the_death_of_the_machine),
		T(every_damaged_byte_is_found),
		T(a_failed_sync_is_for_good),
		T(a_failed_sync_at_the_end_is_for_good),
		T(what_the_kernel_failed_to_write_is_noticed_without_a_sync),
		T(the_mark_is_tried_again),
		T(a_write_lost_by_a_killed_process_is_asked_for),
		T(a_start_that_is_killed_as_it_asks_costs_nothing),
		T(trust_takes_a_lost_write_of_a_killed_process),
		T(an_unfinished_file_is_made_anew),
		T(a_file_size_limit_is_an_answer),
		T(a_full_disk_is_an_answer),
		T(no_acknowledged_page_is_lost_by_kill),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
