/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows what becomes of a shared region whose members are lost: a killed reader takes nothing with
 * it; of a killed owner the pages that it had changed are lost, each access to them is SIGBUS and
 * never zeros or an older version, and all others go on; a home that is killed takes its own pages,
 * at once when it comes back without them, and no others; a node that cannot be reached by its home
 * gives its pages up before the home gives it up; a node that is stopped for a moment loses
 * nothing; an id is free for another process when the one before is buried.
 */
#include "dsm_members.h"

#define BYTES    (1u << 20)
#define FENCE_MS "400"

static int setup(void **state)
{
	setenv("GVM_DSM_FENCE_MS", FENCE_MS, 1);
	setenv("GVM_DSM_RETRY_MS", "100", 1);
	setenv("GVM_DSM_ROUND_MS", "200", 1);
	return dsm_setup(state);
}

static void open_all(void)
{
	for (unsigned i = 0; i < MEMBERS; i++)
		assert_int_equal(m_open(i, BYTES, GVM_DSM_CREATE, 0), 0);
}

static uint64_t page_of(unsigned home)
{
	uint64_t page = 0;

	while (home_of(page) != home)
		page += 16;
	return page;
}

static void a_killed_reader_is_not_missed(void **state)
{
	open_all();
	m_store(0, 0, 1);
	assert_load(1, 0, 1);
	assert_load(2, 0, 1);
	member_end(1, SIGKILL);
	m_store(2, 0, 2); /* waits for the burial of the reader */
	assert_load(0, 0, 2);
}

static void what_a_killed_owner_changed_is_lost(void **state)
{
	uint64_t value;

	open_all();
	m_store(0, 0, 1);
	assert_load(1, 0, 1);
	m_store(2, 0, 2); /* the older version is at 0 and 1, and given up */
	m_store(2, 8 * PAGE, 3);
	assert_load(0, 8 * PAGE, 3); /* a copy, so this one lives */
	m_store(0, 9 * PAGE, 4);
	member_end(2, SIGKILL);
	assert_int_equal(m_load(0, 0, &value), -EFAULT);
	assert_int_equal(m_load(1, 0, &value), -EFAULT);
	assert_int_equal(m_load(1, 0, &value), -EFAULT);
	assert_load(1, 8 * PAGE, 3);
	assert_load(1, 9 * PAGE, 4);
	m_store(1, 8 * PAGE, 5);
	assert_load(0, 8 * PAGE, 5);
	assert_true(m_stats(0).faults_failed > 0);
	/* a process that comes in its place is another member */
	member_start(2);
	assert_int_equal(m_open(2, 0, 0, 0), 0);
	assert_int_equal(m_load(2, 0, &value), -EFAULT);
	assert_load(2, 8 * PAGE, 5);
}

static void a_killed_home_takes_its_own_pages(void **state)
{
	uint64_t at[2] = { page_of(0) * PAGE, page_of(1) * PAGE }, value;

	open_all();
	for (unsigned h = 0; h < 2; h++) {
		m_store(0, at[h], 10 + h);
		assert_load(1, at[h], 10 + h);
	}
	home_end(1, SIGKILL);
	while (m_stats(0).homes_dead == 0 || m_stats(1).homes_dead == 0)
		usleep(20000);
	assert_int_equal(m_load(0, at[1], &value), -EFAULT);
	assert_int_equal(m_load(1, at[1], &value), -EFAULT);
	assert_int_equal(m_load(2, at[1], &value), -EFAULT);
	m_store(2, at[0], 20);
	assert_load(0, at[0], 20);
	/* one that starts again has another region */
	home_start(1);
	assert_int_equal(m_load(0, at[1] + PAGE, &value), -EFAULT);
	assert_load(1, at[0], 20);
}

static void a_home_that_comes_back_empty_is_dead_at_once(void **state)
{
	uint64_t at = page_of(1) * PAGE, value;

	open_all();
	m_store(0, at, 1);
	home_end(1, SIGKILL);
	home_start(1);
	while (m_stats(0).homes_dead == 0)
		usleep(5000);
	assert_int_equal(m_load(0, at, &value), -EFAULT);
}

/* Stopped for less than what was promised: the connection stays, or comes back. */
static void a_pause_loses_nothing(void **state)
{
	open_all();
	m_store(0, 0, 1);
	kill(home[home_of(0)].pid, SIGSTOP);
	tell(1, &(struct order){ .op = LOAD, .offset = 0 });
	usleep(150000);
	kill(home[home_of(0)].pid, SIGCONT);
	assert_int_equal(hear(1).value, 1);
	m_store(1, 0, 2);
	assert_load(0, 0, 2);
	assert_int_equal(m_stats(0).homes_dead, 0);
}

/* The home is stopped for longer than the fence: nodes give its pages up, and fail, before it could
 * have given them to others. */
static void the_fence_comes_before_the_burial(void **state)
{
	uint64_t at = page_of(1) * PAGE, value;

	open_all();
	m_store(0, at, 1);
	kill(home[1].pid, SIGSTOP);
	while (m_stats(0).homes_dead == 0 || m_stats(1).homes_dead == 0 ||
	       m_stats(2).homes_dead == 0)
		usleep(20000);
	assert_int_equal(m_load(0, at, &value), -EFAULT); /* its own copy is gone, too */
	kill(home[1].pid, SIGCONT);
	assert_int_equal(m_load(1, at, &value), -EFAULT);
	m_store(1, page_of(0) * PAGE, 5);
	assert_load(2, page_of(0) * PAGE, 5);
	/* the process can open the region anew when the home has buried what it was */
	assert_int_equal(m_close(0), -EIO);
	assert_int_equal(m_open(0, 0, 0, 0), 0);
	assert_int_equal(m_load(0, at, &value), -EFAULT); /* it was changed, and is lost */
	assert_load(0, page_of(0) * PAGE, 5);
}

static void an_id_is_one_process(void **state)
{
	struct order open = { .op = OPEN, .name = NAME, .flags = GVM_DSM_CREATE, .offset = BYTES };

	assert_int_equal(m_open(0, BYTES, GVM_DSM_CREATE, 0), 0);
	m_store(0, 0, 7);
	assert_int_equal(order(0, open).status, -EBUSY); /* open in this process already */
	assert_load(0, 0, 7);
}

/* Each member has the others at an address where nobody is: all that they have to say to each other
 * goes by the home. */
static void nodes_that_cannot_reach_each_other_use_the_home(void **state)
{
	static char name[MEMBERS][80];
	uint64_t value = 0;

	for (unsigned i = 0; i < MEMBERS; i++) {
		char map[1024];
		int at = 0;

		for (unsigned h = 0; h < HOMES; h++)
			at += snprintf(map + at, sizeof(map) - (size_t)at,
				       "%u 127.0.0.1 %u role=memory\n", h, home[h].port);
		for (unsigned k = 0; k < MEMBERS; k++)
			at += snprintf(map + at, sizeof(map) - (size_t)at,
				       "%u 127.0.0.1 %u role=compute\n", FIRST + k,
				       k == i ? member[k].port : free_port());
		snprintf(name[i], sizeof(name[i]), "%s/map-%u", folder, i);
		assert_int_equal(write_file(name[i], map), 0);
		member_end(i, SIGKILL);
		member_map = name[i];
		member_start(i);
	}
	member_map = map_file;
	open_all();
	for (unsigned round = 0; round < 4; round++)
		for (unsigned i = 0; i < MEMBERS; i++) {
			m_store(i, 0, ++value); /* ownership goes round */
			assert_load((i + 1) % MEMBERS, 0, value);
			assert_load((i + 2) % MEMBERS, 0, value);
		}
	for (unsigned i = 0; i < MEMBERS; i++) {
		assert_int_equal(m_stats(i).nodes_here, HOMES);
		unlink(name[i]);
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, dsm_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_killed_reader_is_not_missed),
		T(what_a_killed_owner_changed_is_lost),
		T(a_killed_home_takes_its_own_pages),
		T(a_home_that_comes_back_empty_is_dead_at_once),
		T(a_pause_loses_nothing),
		T(the_fence_comes_before_the_burial),
		T(an_id_is_one_process),
		T(nodes_that_cannot_reach_each_other_use_the_home),
	};

	return dsm_run(tests);
}
