/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An image file whose disk fails: a write that it does not take is the end, for good, a full disk
 * is an answer, and a file that was taken away is told of.
 */
#include "image_rig.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

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

/* ---- a file that is taken away ------------------------------------------------------------- */

/* Nobody would find it again, and a disk that is looked at says nothing of that. */
static void a_file_that_is_removed_or_replaced_is_told_of_once(void **state)
{
	char other[sizeof(path) + 8];
	FILE *f;

	snprintf(other, sizeof(other), "%s.moved", path);
	up_with_a_page();
	assert_int_equal(rename(path, other), 0);
	assert_int_equal(image_check(image), 0);
	assert_non_null(strstr(fake_log, "removed or replaced"));
	fake_log[0] = 0;
	assert_int_equal(image_check(image), 0);
	assert_string_equal(fake_log, "");
	f = fopen(path, "w");
	assert_non_null(f);
	fclose(f);
	assert_int_equal(image_check(image), 0);
	assert_string_equal(fake_log, "");
	assert_int_equal(rename(other, path), 0);
	assert_int_equal(image_check(image), 0);
	assert_non_null(strstr(fake_log, "is back"));
	down(1);
	up();
	assert_int_equal(open_as(alice, "vm", 16, 0, 0), 0);
	assert_int_equal(get_page("vm", 3), 5);
	assert_int_equal(unlink(path), 0);
	store_session_close(alice);
	store_close(store);
	assert_int_equal(image_close(image, 1), -ESTALE);
	assert_non_null(strstr(fake_log, "removed or replaced"));
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
	fake_log_unbounded = 0;
	assert_int_equal(image_extent_get(image, SLAB, &extent, &at), -ENOSPC);
	assert_non_null(strstr(fake_log, "ulimit -f"));
	assert_int_equal(fake_log_unbounded, 0); /* clients try again and again */
	assert_int_equal(put_page("vm", 48, 3), -ENOSPC);
	assert_int_equal(store_session_full(alice), GVM_FULL_DISK);
	assert_non_null(strstr(fake_log, "disk full"));
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_failed_sync_is_for_good),
		T(a_failed_sync_at_the_end_is_for_good),
		T(what_the_kernel_failed_to_write_is_noticed_without_a_sync),
		T(the_mark_is_tried_again),
		T(a_write_lost_by_a_killed_process_is_asked_for),
		T(a_start_that_is_killed_as_it_asks_costs_nothing),
		T(trust_takes_a_lost_write_of_a_killed_process),
		T(a_file_that_is_removed_or_replaced_is_told_of_once),
		T(a_file_size_limit_is_an_answer),
		T(a_full_disk_is_an_answer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
