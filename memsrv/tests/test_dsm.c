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
	assert_int_equal(m_open(0, 0, 0, 0), 0); /* as it is, anew */
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		assert_load(0, page * PAGE, page + 9);
	assert_int_equal(order(1, (struct order){ .op = DELETE, .name = NAME }).status, -EBUSY);
	assert_int_equal(m_close(0), 0);
	assert_int_equal(order(1, (struct order){ .op = DELETE, .name = NAME }).status, 0);
	assert_int_equal(order(1, (struct order){ .op = DELETE, .name = NAME }).status, -ENOENT);
	assert_int_equal(m_open(0, 0, 0, 0), -ENOENT);
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
		T(what_one_writes_all_read),       T(writers_of_one_page_lose_nothing),
		T(a_node_without_room_gives_back), T(who_leaves_takes_nothing_with_it),
		T(how_long_a_miss_takes),
	};

	return dsm_run(tests);
}
