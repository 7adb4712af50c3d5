/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that processes share a region coherently by gvm-memsrv nodes, over tcp: what one writes the
 * others read, whoever has the page; writers of one page lose nothing; what a node has no room for,
 * or leaves, is at the home; and all of it with pages of several homes.
 */
#include "dsm_members.h"

#define BYTES (1u << 20)

static void open_all(uint64_t local)
{
	for (unsigned i = 0; i < MEMBERS; i++)
		assert_int_equal(m_open(i, BYTES, GVM_DSM_CREATE, local), 0);
}

static void what_one_writes_all_read(void **state)
{
	struct gvm_dsm_stats st;

	open_all(0);
	assert_load(0, 0, 0); /* never written */
	m_store(0, 8, 42);
	assert_load(1, 8, 42); /* from the owner */
	assert_load(2, 8, 42);
	m_store(1, 16, 43); /* upgrade of a copy */
	assert_load(0, 16, 43);
	assert_load(2, 8, 42);
	for (unsigned page = 0; page < BYTES / PAGE; page++) /* of all homes */
		m_store(page % MEMBERS, page * PAGE + 64, page + 1);
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		assert_load((page + 1) % MEMBERS, page * PAGE + 64, page + 1);
	st = m_stats(0);
	assert_int_equal(st.refused, 0);
	assert_int_equal(st.faults_failed, 0);
	assert_true(st.pages_received > 0 && st.pages_sent > 0);
	assert_int_equal(st.nodes_here, HOMES + MEMBERS - 1);
	for (unsigned i = 0; i < MEMBERS; i++)
		assert_int_equal(m_close(i), 0);
}

static void writers_of_one_page_lose_nothing(void **state)
{
	const uint64_t times = 2000;

	open_all(0);
	for (unsigned i = 0; i < MEMBERS; i++)
		tell(i, &(struct order){ .op = ADD, .offset = 128, .value = times });
	for (unsigned i = 0; i < MEMBERS; i++)
		assert_int_equal(hear(i).status, 0);
	assert_load(0, 128, MEMBERS * times);
}

static void a_node_without_room_gives_back(void **state)
{
	open_all(32 * PAGE);
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		m_store(0, page * PAGE, page + 7);
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		assert_load(1, page * PAGE, page + 7);
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		assert_load(0, page * PAGE, page + 7);
	assert_true(m_stats(0).evicted > 0);
	assert_true(m_stats(0).pages_here <= 64);
}

static void who_leaves_takes_nothing_with_it(void **state)
{
	open_all(0);
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		m_store(0, page * PAGE, page + 9);
	assert_int_equal(m_close(0), 0);
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		assert_load(1, page * PAGE, page + 9);
	assert_int_equal(m_close(1), 0);
	assert_int_equal(m_close(2), 0);
	assert_int_equal(
	    order(0, (struct order){ .op = OPEN, .name = NAME, .slab = 128 << 10 }).status,
	    -EINVAL);                            /* its slabs are of another size */
	assert_int_equal(m_open(0, 0, 0, 0), 0); /* as it is, anew */
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		assert_load(0, page * PAGE, page + 9);
	assert_int_equal(order(1, (struct order){ .op = DELETE, .name = NAME }).status, -EBUSY);
	assert_int_equal(m_close(0), 0);
	assert_int_equal(order(1, (struct order){ .op = DELETE, .name = NAME }).status, 0);
	assert_int_equal(order(1, (struct order){ .op = DELETE, .name = NAME }).status, -ENOENT);
	assert_int_equal(m_open(0, 0, 0, 0), -ENOENT);
}

/* All make it at the same time: it is one region, at all of its homes. */
static void who_makes_it_first_makes_it_for_all(void **state)
{
	const struct order open = {
		.op = OPEN, .name = NAME, .flags = GVM_DSM_CREATE, .offset = BYTES
	};

	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < MEMBERS; i++)
			tell((i + round) % MEMBERS, &open);
		for (unsigned i = 0; i < MEMBERS; i++)
			assert_int_equal(hear((i + round) % MEMBERS).status, 0);
		for (unsigned page = 0; page < BYTES / PAGE; page += 16)
			m_store(page / 16 % MEMBERS, page * PAGE, page + round + 1);
		for (unsigned page = 0; page < BYTES / PAGE; page += 16)
			assert_load((page / 16 + 1) % MEMBERS, page * PAGE, page + round + 1);
		for (unsigned i = 0; i < MEMBERS; i++)
			assert_int_equal(m_close(i), 0);
		assert_int_equal(order(0, (struct order){ .op = DELETE, .name = NAME }).status, 0);
	}
}

/* It goes with its last member, home by home, while others make it again. */
static void one_that_comes_and_goes_is_whole(void **state)
{
	const struct order open = { .op = OPEN,
				    .name = NAME,
				    .flags = GVM_DSM_CREATE | GVM_DSM_EPHEMERAL,
				    .offset = BYTES };
	const struct order store = { .op = STORE, .offset = BYTES - PAGE, .value = 3 };
	const struct order close = { .op = CLOSE };
	enum { ROUNDS = 30 };

	for (unsigned round = 0; round < ROUNDS; round++)
		for (unsigned i = 0; i < MEMBERS; i++) {
			tell(i, &open);
			tell(i, &store);
			tell(i, &close);
		}
	for (unsigned n = 0; n < ROUNDS * 3; n++)
		for (unsigned i = 0; i < MEMBERS; i++)
			assert_int_equal(hear(i).status, 0);
	assert_int_equal(m_open(0, 0, 0, 0), -ENOENT);
}

/* Nothing of what takes time in the number of slabs is begun. What is not too large for itself may
 * be so for the homes. */
static void what_is_too_large_is_refused(void **state)
{
	const uint64_t tib = UINT64_C(1) << 40;
	struct order open = { .op = OPEN, .name = NAME, .flags = GVM_DSM_CREATE };

	for (unsigned h = 0; h < HOMES; h++)
		home_stop(h); /* none is asked */
	open.offset = UINT64_C(1) << 62;
	assert_int_equal(order(0, open).status, -EINVAL);
	open.slab = 64 << 20;
	assert_int_equal(order(0, open).status, -EINVAL);
	open.offset = 16 * tib;
	assert_int_equal(order(0, open).status, -EINVAL);
	open.offset = 16 * tib - PAGE; /* a page more than may be */
	assert_int_equal(order(0, open).status, -EINVAL);
	open.offset = 8 * tib;
	open.slab = 64 << 10;
	assert_int_equal(order(0, open).status, -EINVAL);
	open.offset = tib / 4 + PAGE; /* a slab more than may be */
	assert_int_equal(order(0, open).status, -EINVAL);
	for (unsigned h = 0; h < HOMES; h++)
		kill(home[h].pid, SIGCONT);
	open.offset = 16 * tib - 2 * PAGE;
	open.slab = 64 << 20;
	assert_int_equal(order(0, open).status, -ENOSPC);
	open.slab = 64 << 10;
	open.offset = tib / 4;
	assert_int_equal(order(0, open).status, -ENOSPC);
	open.offset = 16 * tib - PAGE;
	open.slab = 64 << 20;
	assert_int_equal(order(0, open).status, -EINVAL);
	open.offset -= PAGE;
	assert_int_equal(order(0, open).status, -ENOSPC);
	open_all(0);
	m_store(0, 0, 1);
	assert_load(1, 0, 1);
}

static int leave(unsigned i, unsigned ms)
{
	return order(i, (struct order){ .op = LEAVE, .ms = ms }).status;
}

static int stay(unsigned i)
{
	return order(i, (struct order){ .op = STAY }).status;
}

/* Who is about to become another program: others have what it had, and it comes back if need be. */
static void who_leaves_for_a_moment_can_come_back(void **state)
{
	struct gvm_dsm_stats before, after;
	uint64_t value;

	open_all(0);
	assert_int_equal(stay(0), -EINVAL);
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		m_store(0, page * PAGE, page + 9);
	before = m_stats(0);
	for (unsigned round = 0; round < 3; round++) {
		assert_int_equal(leave(0, 20000), 0);
		assert_int_equal(leave(0, 20000), 0); /* it has */
		assert_int_equal(order(0, (struct order){ .op = EVICT, .value = BYTES }).status, 0);
		for (unsigned page = 0; page < BYTES / PAGE; page++)
			assert_load(1, page * PAGE, page + 9 + round);
		for (unsigned page = 0; page < BYTES / PAGE; page++)
			m_store(1 + round % 2, page * PAGE, page + 10 + round);
		assert_int_equal(stay(0), 0);
		for (unsigned page = 0; page < BYTES / PAGE; page++)
			assert_load(0, page * PAGE, page + 10 + round);
		m_store(0, 8, round);
		assert_load(2, 8, round);
	}
	after = m_stats(0);
	assert_true(after.faults_write > before.faults_write);
	assert_true(after.sent > before.sent);
	assert_int_equal(after.faults_failed, 0);
	assert_int_equal(after.repeated, 0);
	/* its homes do not answer: it stays */
	m_store(0, 8, 5);
	for (unsigned h = 0; h < HOMES; h++)
		home_stop(h);
	assert_int_equal(leave(0, 200), -EIO);
	for (unsigned h = 0; h < HOMES; h++)
		kill(home[h].pid, SIGCONT);
	assert_load(0, 8, 5);
	/* away, and closed; or deleted meanwhile */
	assert_int_equal(leave(0, 20000), 0);
	assert_int_equal(m_close(0), 0);
	assert_int_equal(m_close(2), 0);
	assert_load(1, 8, 5);
	assert_int_equal(leave(1, 20000), 0);
	assert_int_equal(order(2, (struct order){ .op = DELETE, .name = NAME }).status, 0);
	assert_int_equal(stay(1), -ENOENT);
	assert_int_equal(m_load(1, 8, &value), -EFAULT);
	/* a pin without an end fails like the access; a hint is none */
	assert_int_equal(order(1, (struct order){ .op = PIN, .value = PAGE }).status, -EHOSTDOWN);
	assert_int_equal(order(1, (struct order){ .op = PREFETCH, .value = PAGE }).status, 0);
	assert_int_equal(order(1, (struct order){ .op = UNPIN, .value = PAGE }).status, 0);
	assert_int_equal(m_close(1), 0);
}

/* A child of fork() is another process: a node of its own, if it wants to be one. */
static void a_child_opens_the_region_itself(void **state)
{
	const struct order fork_one = { .op = FORK, .name = NAME, .offset = 8, .value = FIRST + 2 };

	open_all(0);
	assert_int_equal(m_close(2), 0);
	m_store(0, 8, 5);
#ifdef __SANITIZE_THREAD__ /* which lets no child have threads */
	skip();
#endif
	for (unsigned round = 0; round < 3; round++) {
		assert_int_equal(order(0, fork_one).status, 0);
		assert_load(0, 8, 6 + round);
		assert_load(1, 8, 6 + round);
	}
	assert_int_equal(m_close(0), 0);
	assert_int_equal(m_close(1), 0);
}

/* What is lost, or left undone, is noticed after a minute. */
static void ask_nothing_again(void **state)
{
	dsm_teardown(state);
	setenv("GVM_DSM_RETRY_MS", "60000", 1);
	dsm_setup(state);
	unsetenv("GVM_DSM_RETRY_MS");
}

/* Nothing else is said to who has given its pages away, so that FREE could go with it. */
static void who_gives_all_away_keeps_nothing(void **state)
{
	uint64_t began;

	ask_nothing_again(state);
	open_all(0);
	for (unsigned page = 0; page < 7; page++)
		m_store(0, page * PAGE, page + 1);
	for (unsigned page = 0; page < 7; page++)
		m_store(1, page * PAGE, page + 2);
	began = gvm_now();
	while (m_stats(0).pages_here && gvm_now() - began < 20000 * MS)
		;
	assert_int_equal(m_stats(0).pages_here, 0);
	assert_int_equal(m_stats(0).repeated, 0);
	assert_int_equal(m_stats(1).pages_here, 7);
}

/*
 * In a row of reads DONE goes with the next request. The last of a row waits for none: the writer
 * has its page long before the home would ask the reader.
 */
static void a_writer_waits_for_no_reader_who_has_read_enough(void **state)
{
	const struct order open = {
		.op = OPEN, .name = NAME, .flags = GVM_DSM_CREATE, .offset = BYTES, .slab = BYTES
	};
	const struct order read = { .op = MEASURE, .value = BYTES / PAGE };
	uint64_t began;

	ask_nothing_again(state);
	for (unsigned i = 0; i < MEMBERS; i++)
		assert_int_equal(order(i, open).status, 0);
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		m_store(0, page * PAGE, page + 1);
	order(1, read); /* from the owner */
	order(2, read);
	began = gvm_now();
	m_store(0, BYTES - PAGE, 42);
	assert_true(gvm_now() - began < 20000 * MS);
	assert_load(1, BYTES - PAGE, 42);
	assert_load(2, BYTES - PAGE, 42);
	order(1, read);
	assert_int_equal(m_close(1), 0); /* what waits goes before the member does */
	m_store(0, BYTES - PAGE, 43);
	assert_true(gvm_now() - began < 40000 * MS);
	assert_int_equal(m_stats(0).repeated, 0);
}

/* Figures, for whoever reads them: a machine that is busy says nothing. */
static void how_long_a_miss_takes(void **state)
{
	const struct order read = { .op = MEASURE, .value = BYTES / PAGE };

	open_all(0);
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		m_store(0, page * PAGE, page + 1);
	print_message("[          ] read miss, from the owner, p50: %lu ns\n",
		      (unsigned long)order(1, read).value);
	assert_int_equal(m_close(0), 0);
	assert_int_equal(m_close(1), 0);
	print_message("[          ] read miss, from the home, p50:  %lu ns\n",
		      (unsigned long)order(2, read).value);
}

#define T(name) cmocka_unit_test_setup_teardown(name, dsm_setup, dsm_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(what_one_writes_all_read),
		T(writers_of_one_page_lose_nothing),
		T(a_node_without_room_gives_back),
		T(who_leaves_takes_nothing_with_it),
		T(what_is_too_large_is_refused),
		T(who_makes_it_first_makes_it_for_all),
		T(one_that_comes_and_goes_is_whole),
		T(who_leaves_for_a_moment_can_come_back),
		T(a_child_opens_the_region_itself),
		T(who_gives_all_away_keeps_nothing),
		T(a_writer_waits_for_no_reader_who_has_read_enough),
		T(how_long_a_miss_takes),
	};

	return dsm_run(tests);
}
