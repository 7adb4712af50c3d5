/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that a home which is killed and started again in time (--state) takes nothing with it but
 * what no member held: members go on with what they have mapped meanwhile, all of it has its right
 * contents afterwards, the rest fails with SIGBUS and never reads as zeros or an older version;
 * what has never been written can be used; also twice, with a member that dies at the same time,
 * one that comes new, and under load. A home that comes back too late is dead; until then it is
 * tried often enough to be found.
 */
#include "dsm_members.h"

#include <sys/inotify.h>

#define BYTES (4u << 20)

static int setup_with(const char *fence_ms)
{
	setenv("GVM_DSM_FENCE_MS", fence_ms, 1);
	setenv("GVM_DSM_RETRY_MS", "100", 1);
	setenv("GVM_DSM_ROUND_MS", "200", 1);
	for (unsigned h = 0; h < HOMES; h++)
		home_start_lasting(h);
	for (unsigned i = 0; i < MEMBERS; i++)
		member_start(i);
	for (unsigned i = 0; i < MEMBERS; i++)
		assert_int_equal(m_open(i, BYTES, GVM_DSM_CREATE, 0), 0);
	return 0;
}

/* A home that is to be back in time has it, on a busy machine too; a burial takes twice as long. */
static int setup(void **state)
{
	return setup_with("20000");
}

static int setup_short(void **state)
{
	return setup_with("4000");
}

static int teardown(void **state)
{
	dsm_teardown(state);
	home_forget();
	return 0;
}

/* The n-th slab of node 1. */
static uint64_t slab_of(unsigned n)
{
	uint64_t page = 0;

	for (;; page += 16)
		if (home_of(page) == 1 && n-- == 0)
			return page * PAGE;
}

static void m_evict(unsigned i, uint64_t offset)
{
	assert_int_equal(
	    order(i, (struct order){ .op = EVICT, .offset = offset, .value = PAGE }).status, 0);
}

static void assert_lost(unsigned i, uint64_t offset)
{
	uint64_t value;

	assert_int_equal(m_load(i, offset, &value), -EFAULT);
}

static void what_members_hold_lives(void **state)
{
	uint64_t at = slab_of(0), value;

	m_store(0, at, 1);        /* exclusive */
	m_store(0, at + PAGE, 2); /* owned, and shared by 1 */
	assert_load(1, at + PAGE, 2);
	m_store(0, at + 2 * PAGE, 3); /* shared by 2; written back */
	m_evict(0, at + 2 * PAGE);
	assert_load(2, at + 2 * PAGE, 3);
	m_store(0, at + 3 * PAGE, 4); /* at the home only */
	m_evict(0, at + 3 * PAGE);
	assert_load(1, at + 3 * PAGE, 4);
	m_evict(1, at + 3 * PAGE);
	home_end(1, SIGKILL);
	m_store(0, at, 10); /* no fault */
	assert_load(1, at + PAGE, 2);
	tell(2, &(struct order){ .op = LOAD, .offset = at }); /* waits */
	home_start_lasting(1);
	assert_int_equal(hear(2).value, 10);
	assert_load(1, at, 10);
	m_store(1, at + PAGE, 20);
	assert_load(0, at + PAGE, 20);
	assert_load(2, at + PAGE, 20);
	assert_load(0, at + 2 * PAGE, 3);
	m_store(1, at + 2 * PAGE, 30);
	assert_load(2, at + 2 * PAGE, 30);
	for (unsigned i = 0; i < MEMBERS; i++) {
		assert_lost(i, at + 3 * PAGE);
		assert_lost(i, at + 4 * PAGE); /* of a slab that was written to: who knows */
		assert_int_equal(m_load(i, slab_of(1), &value), 0); /* never written */
		assert_int_equal(value, 0);
		assert_int_equal(m_stats(i).homes_dead, 0);
	}
	m_store(2, slab_of(1), 5);
	assert_load(0, slab_of(1), 5);
}

static void twice(void **state)
{
	uint64_t at = slab_of(0);

	m_store(0, at, 1);
	assert_load(1, at, 1);
	m_store(2, slab_of(1), 2);
	for (unsigned round = 0; round < 3; round++) {
		home_again(1);
		assert_load(2, at, 1 + round);
		m_store(round % 2, at, 2 + round);
		assert_load(2, at, 2 + round);
		assert_load(0, slab_of(1), 2);
	}
	/* what was written and is at the home only is lost, though its slab was not when it began
	 */
	m_store(0, slab_of(2), 7);
	m_evict(0, slab_of(2));
	assert_load(1, slab_of(2), 7);
	m_evict(1, slab_of(2));
	home_again(1);
	assert_lost(0, slab_of(2));
}

static void a_member_dies_with_it(void **state)
{
	uint64_t at = slab_of(0);

	m_store(2, at, 1);
	m_store(2, at + PAGE, 2);
	assert_load(0, at + PAGE, 2);
	m_store(1, at + 2 * PAGE, 3);
	home_end(1, SIGKILL);
	member_end(2, SIGKILL);
	home_start_lasting(1);
	assert_load(0, at + PAGE, 2); /* when the dead one has been buried */
	assert_load(0, at + 2 * PAGE, 3);
	assert_lost(0, at);
	member_start(2);
	assert_int_equal(m_open(2, 0, 0, 0), 0);
	assert_load(2, at + PAGE, 2);
	assert_lost(2, at);
}

static void nobody_comes_back(void **state)
{
	uint64_t at = slab_of(0), value;

	m_store(0, at, 1);
	home_end(1, SIGKILL);
	for (unsigned i = 0; i < MEMBERS; i++)
		member_end(i, SIGKILL);
	home_start_lasting(1);
	member_start(0);
	assert_int_equal(m_open(0, 0, 0, 0), 0); /* the region is there, and says what is lost */
	assert_lost(0, at);
	assert_int_equal(m_load(0, slab_of(1), &value), 0);
}

/* Who opened the region is told of a home that goes and comes back, and of it only. */
static void comings_and_goings_are_told(void **state)
{
	m_store(0, slab_of(0), 1);
	for (unsigned time = 0; time < 5; time++) {
		if (time % 2)
			home_end(1, SIGKILL);
		else if (time)
			home_start_lasting(1);
		for (unsigned i = 0; i < MEMBERS; i++)
			assert_int_equal(m_told(i, 1, time), time % 2 ? -EHOSTUNREACH : 0);
	}
	assert_load(1, slab_of(0), 1);
	assert_int_equal(m_told(2, 0, 0), 0);
	/* the next that there is to say of node 0 is this */
	home_end(0, SIGKILL);
	assert_int_equal(m_told(2, 0, 1), -EHOSTUNREACH);
}

static void too_late_is_dead(void **state)
{
	uint64_t at = slab_of(0);

	m_store(0, at, 1);
	home_end(1, SIGKILL);
	for (unsigned i = 0; i < MEMBERS; i++) {
		unsigned time = 1;

		while (m_told(i, 1, time) != -EIO) /* a busy machine may lose and find it before */
			time++;
		assert_int_equal(m_told(i, 1, time - 1), -EHOSTUNREACH);
		assert_true(m_stats(i).homes_dead > 0);
	}
	home_start_lasting(1);
	assert_lost(0, at);
}

/* A file in the folder whose name ends so; 1: there is one, and (to) it gets that end. */
static int has_file(const char *end, const char *to)
{
	char path[600], other[600];
	const struct dirent *entry;
	DIR *dir = opendir(folder);
	int found = 0;

	while (!found && (entry = readdir(dir))) {
		size_t len = strlen(entry->d_name), cut = strlen(end);

		if (len < cut || strcmp(entry->d_name + len - cut, end) != 0 ||
		    strncmp(entry->d_name, "1-", 2) != 0)
			continue;
		found = 1;
		if (!to)
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		snprintf(other, sizeof(other), "%s/%.*s%s", folder, (int)(len - cut), entry->d_name,
			 to);
		assert_int_equal(rename(path, other), 0);
	}
	closedir(dir);
	return found;
}

static int watch_folder(void)
{
	int fd = inotify_init1(IN_CLOEXEC);

	assert_true(fd >= 0);
	assert_true(inotify_add_watch(fd, folder, IN_CREATE | IN_MOVED_TO) >= 0);
	return fd;
}

static void await_file(int watch, const char *end)
{
	struct pollfd in = { .fd = watch, .events = POLLIN };
	char events[4096];

	while (!has_file(end, NULL)) {
		assert_int_equal(poll(&in, 1, 60000), 1);
		assert_true(read(watch, events, sizeof(events)) > 0);
	}
}

/* A node that cannot take a region up keeps what it knows of it, and can do so when that is mended.
 */
static void what_cannot_be_taken_up_is_kept(void **state)
{
	const char *const less[] = { "--state", folder, "--memory", "1M", NULL };
	int watch;

	m_store(0, slab_of(0), 1);
	assert_int_equal(m_close(2), 0);
	home_end(1, SIGKILL);
	assert_true(has_file(".shared", NULL));
	watch = watch_folder();
	home_start_with(1, less);
	await_file(watch, ".shared.aside");
	close(watch);
	home_end(1, SIGKILL);
	assert_false(has_file(".shared", NULL));
	assert_true(has_file(".shared.aside", ".shared"));
	home_start_lasting(1);
	assert_int_equal(m_open(2, 0, 0, 0), 0); /* the region, not a new one */
	assert_true(has_file(".shared", NULL));
}

/* Counters that all members add to, each on a page of its own, while the home is killed and started
 * again. What is lost says so; nothing that was added is missing in the others. */
static void under_load(void **state)
{
	enum { COUNTERS = 32, TIMES = 2000 };
	uint64_t at[COUNTERS], added[COUNTERS] = { 0 };
	unsigned lost = 0, failed[COUNTERS] = { 0 };

	for (unsigned c = 0; c < COUNTERS; c++) {
		at[c] = slab_of(c / 8) + c % 8 * PAGE;
		m_store(c % MEMBERS, at[c], 0);
	}
	for (unsigned round = 0; round < 3 * COUNTERS; round++) {
		for (unsigned i = 0; i < MEMBERS; i++) /* two of them meet at one page */
			tell(i, &(struct order){ .op = ADD,
						 .offset = at[(round + (i > 0) * i / 2) % COUNTERS],
						 .value = TIMES });
		if (round % 8 == 3)
			home_again(1);
		for (unsigned i = 0; i < MEMBERS; i++) {
			unsigned c = (round + (i > 0) * i / 2) % COUNTERS;
			struct answer a = hear(i);

			assert_true(a.status == 0 || a.status == -EFAULT);
			failed[c] |= a.status != 0;
			added[c] += TIMES;
		}
	}
	for (unsigned c = 0; c < COUNTERS; c++) {
		uint64_t value;
		int status = m_load(c % MEMBERS, at[c], &value);

		assert_true(status == 0 || status == -EFAULT);
		if (status == 0 && !failed[c])
			assert_int_equal(value, added[c]);
		lost += status != 0;
	}
	print_message("%u of %u pages were on their way and are lost\n", lost, COUNTERS);
	assert_true(lost < COUNTERS / 2);
}

/* Stands where a home was, and lets nobody in. Returns after how long so many had tried, or at
 * most. */
static uint64_t tried_after(unsigned port, unsigned times, uint64_t most_ns)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	struct pollfd in = { .fd = fd, .events = POLLIN };
	uint64_t began = gvm_now();

	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 64), 0);
	while (times && gvm_now() - began < most_ns)
		if (poll(&in, 1, 10) == 1) {
			close(accept(fd, NULL, NULL));
			times--;
		}
	close(fd);
	return gvm_now() - began;
}

/* Until a home is given up it is tried all the time, not less and less often: with the pauses that
 * connections have by default a member would try 18 times in this time, and each could be the last
 * one before the fence. */
static void a_home_is_tried_often(void **state)
{
	enum { TIMES = 30, MOST_MS = 8000 };
	uint64_t took;

	m_store(0, slab_of(0), 1);
	home_end(1, SIGKILL);
	took = tried_after(home[1].port, TIMES * MEMBERS, MOST_MS * MS);
	print_message("[          ] each tried %u times in %lu ms\n", TIMES,
		      (unsigned long)(took / MS));
	assert_true(took < MOST_MS * MS);
	home_start_lasting(1);
	assert_load(1, slab_of(0), 1);
	for (unsigned i = 0; i < MEMBERS; i++)
		assert_int_equal(m_stats(i).homes_dead, 0);
}

#define T(name)     cmocka_unit_test_setup_teardown(name, setup, teardown)
#define SHORT(name) cmocka_unit_test_setup_teardown(name, setup_short, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(what_members_hold_lives),
		T(twice),
		SHORT(a_member_dies_with_it),
		SHORT(nobody_comes_back),
		T(comings_and_goings_are_told),
		SHORT(too_late_is_dead),
		SHORT(what_cannot_be_taken_up_is_kept),
		T(under_load),
		T(a_home_is_tried_often),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return dsm_run(tests);
}
