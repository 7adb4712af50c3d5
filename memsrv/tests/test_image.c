/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The image file: regions outlive their process, and a file that is damaged, foreign, of another
 * version, in use or not to be trusted is refused.
 */
#include "image_rig.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

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

/* A client whose connection rests does not hear of a restart: its region is not given to another.
 */
static void regions_that_rest_stay_held_after_a_restart(void **state)
{
	struct session *bob;

	for (int clean = 0; clean < 2; clean++) {
		up();
		assert_int_equal(make("vm", 40), 0);
		assert_int_equal(put_page("vm", 0, 7), 0);
		store_session_rest(alice);
		assert_int_equal(store_session_open(store, ALICE, "alice", &alice), 0);
		down(clean);
		up();
		assert_int_equal(store_session_open(store, BOB, "bob", &bob), 0);
		fake_clock += STORE_SILENT_MS / 1000 * SEC - 1;
		store_tick(store);
		assert_int_equal(open_as(bob, "vm", 0, 0, 0), -EBUSY);
		/* and once it is back it is as before */
		assert_int_equal(open_as(alice, "vm", 0, 0, 0), 0);
		assert_int_equal(get_page("vm", 0), 7);
		store_session_close(bob);
		down(clean);
		up();
		assert_int_equal(store_session_open(store, BOB, "bob", &bob), 0);
		fake_clock += 31 * SEC;
		store_tick(store);
		assert_int_equal(open_as(bob, "vm", 0, 0, 0), 0);
		assert_int_equal(store_region_delete(bob, id_of("vm")), 0);
		store_session_close(bob);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(regions_outlive_the_process),
		T(ephemeral_regions_wait_for_their_client_after_a_restart),
		T(regions_that_rest_stay_held_after_a_restart),
		T(who_has_said_that_it_leaves_is_not_waited_for_after_a_restart),
		T(clones_stay_shared_and_private),
		T(space_is_given_back_and_comes_back_as_zeros),
		T(two_processes_cannot_have_it),
		T(foreign_files_are_left_alone),
		T(other_versions_are_refused),
		T(after_the_death_of_the_machine),
		T(every_damaged_byte_is_found),
		T(an_unfinished_file_is_made_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
