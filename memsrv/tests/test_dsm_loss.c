/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows what becomes of a shared region whose members are lost: a killed reader takes nothing with
 * it; of a killed owner the pages that it had changed are lost, each access to them is SIGBUS and
 * never zeros or an older version, and all others go on; a home that is killed takes its own pages,
 * at once when it comes back without them, and no others; a node that cannot be reached by its home
 * gives its pages up before the home gives it up, and says so when it leaves; a node that is
 * stopped for a moment loses nothing; what only a part of its homes still has cannot be opened
 * until it is deleted; an id is free for another process when the one before is buried.
 */
#include "dsm_members.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define BYTES (1u << 20)
#define LONG  60000 /* ms, for what comes: it matters only when something hangs */

static int setup_with(const char *fence_ms)
{
	setenv("GVM_DSM_FENCE_MS", fence_ms, 1);
	setenv("GVM_DSM_RETRY_MS", "100", 1);
	setenv("GVM_DSM_ROUND_MS", "200", 1);
	return dsm_setup(NULL);
}

/* Who is alive is heard of in time, on a busy machine too; each that is lost is waited for. */
static int setup(void **state)
{
	return setup_with("1000");
}

/* For what must be over before that, and where nobody is lost. */
static int setup_long(void **state)
{
	return setup_with("6000");
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

/* Until a member has given up the home of a page that it has never had. */
static void await_death(unsigned i, uint64_t at)
{
	uint64_t value;

	assert_int_equal(m_load(i, at, &value), -EFAULT);
	assert_int_equal(m_stats(i).homes_dead, 1);
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
	await_death(0, at[1] + PAGE);
	await_death(1, at[1] + PAGE);
	assert_int_equal(m_load(0, at[1], &value), -EFAULT);
	assert_int_equal(m_load(1, at[1], &value), -EFAULT);
	assert_int_equal(m_load(2, at[1], &value), -EFAULT);
	m_store(2, at[0], 20);
	assert_load(0, at[0], 20);
	/* one that starts again has another region */
	home_start(1);
	assert_int_equal(m_load(0, at[1] + 2 * PAGE, &value), -EFAULT);
	assert_load(1, at[0], 20);
}

static void a_home_that_comes_back_empty_is_dead_at_once(void **state)
{
	uint64_t at = page_of(1) * PAGE, value;

	open_all();
	m_store(0, at, 1);
	home_end(1, SIGKILL);
	home_start(1);
	await_death(0, at + PAGE);
	assert_int_equal(m_load(0, at, &value), -EFAULT);
}

/* Stopped for less than what was promised: the connection stays, or comes back. */
static void a_pause_loses_nothing(void **state)
{
	open_all();
	m_store(0, 0, 1);
	home_stop(home_of(0));
	tell(1, &(struct order){ .op = LOAD, .offset = 0 });
	/* it waits */
	assert_int_equal(poll(&(struct pollfd){ .fd = member[1].fd, .events = POLLIN }, 1, 2000),
			 0);
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
	home_stop(1);
	for (unsigned i = 0; i < MEMBERS; i++)
		await_death(i, at + PAGE);
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

/* Its pages cannot be given back any more when it is given up: that nothing is left is no success.
 */
static void a_home_that_is_lost_while_its_pages_come_home(void **state)
{
	uint64_t at[2] = { page_of(0) * PAGE, page_of(1) * PAGE };

	open_all();
	m_store(0, at[1], 1);
	m_store(1, at[0], 2);
	m_store(1, at[1] + PAGE, 3);
	home_stop(1);
	tell(0, &(struct order){ .op = CLOSE });
	tell(1, &(struct order){ .op = LEAVE, .ms = LONG });
	assert_int_equal(hear(0).status, -EIO);
	assert_int_equal(hear(1).status, -EIO);
	assert_load(1, at[0], 2); /* it has stayed */
	assert_load(2, at[0], 2);
	assert_int_equal(m_close(1), -EIO);
}

static int m_delete(unsigned i)
{
	return order(i, (struct order){ .op = DELETE, .name = NAME }).status;
}

/* It comes back without its part of a region that nobody has open: that is not made anew beside the
 * other's, which would be zeros where there was something. */
static void lose_the_part_of(unsigned h)
{
	uint64_t at[2] = { page_of(0) * PAGE, page_of(1) * PAGE };
	int without = h == home_of(0) ? -ENOENT : -EIO; /* the first home alone says that */

	assert_int_equal(m_open(0, BYTES, GVM_DSM_CREATE | GVM_DSM_EXCL, 0), 0);
	for (unsigned k = 0; k < 2; k++)
		m_store(0, at[k], 5 + k);
	assert_int_equal(m_close(0), 0);
	home_end(h, SIGKILL);
	home_start(h);
	for (unsigned round = 0; round < 2; round++) { /* nothing is left that was half made */
		assert_int_equal(m_open(1, BYTES, GVM_DSM_CREATE, 0), -EIO);
		assert_int_equal(m_open(2, 0, 0, 0), without);
	}
	assert_int_equal(m_delete(0), 0);
	assert_int_equal(m_open(1, BYTES, GVM_DSM_CREATE, 0), 0);
	for (unsigned k = 0; k < 2; k++)
		assert_load(1, at[k], 0);
	assert_int_equal(m_close(1), 0);
	assert_int_equal(m_delete(0), 0);
}

static void what_one_of_two_homes_has_lost_is_not_made_anew(void **state)
{
	lose_the_part_of(0);
	lose_the_part_of(1);
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

/* Takes connections where a member was, and ends them. */
static int listen_as(unsigned i)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)member[i].port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 64), 0);
	return fd;
}

/* Ends the connections that are tried, until the pause before one was at least so long: returns
 * when that one came, and its pause. */
static uint64_t tried_until(int fd, uint64_t least_ns, unsigned *tries, uint64_t *pause_ns)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	uint64_t before, at = gvm_now();

	*tries = 0;
	do {
		before = at;
		assert_int_equal(poll(&poll_fd, 1, LONG), 1);
		close(accept(fd, NULL, NULL));
		at = gvm_now();
		*pause_ns = at - before;
		(*tries)++;
	} while (*pause_ns < least_ns);
	return at;
}

/* Who is gone is asked for less and less often; when somebody waits for what this node has, at
 * once. */
static void who_is_gone_is_left_alone(void **state)
{
	uint64_t last, pause;
	unsigned tries;
	int fd;

	open_all();
	m_store(2, 0, 1);
	assert_load(0, 0, 1);
	m_store(0, 16 * PAGE, 2);
	assert_int_equal(m_stats(0).nodes_here, HOMES + 1);
	member_end(2, SIGKILL);
	fd = listen_as(2);
	last = tried_until(fd, 3000 * MS, &tries, &pause);
	print_message("[          ] tried %u times, the last time after %u ms\n", tries,
		      (unsigned)(pause / MS));
	/* pauses of 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4 s, or half of that */
	assert_in_range(tries, 1, 10);
	close(fd);
	member_start(2);
	assert_int_equal(m_open(2, 0, 0, 0), 0);
	assert_load(2, 16 * PAGE, 2);
	while (m_stats(0).nodes_here < HOMES + 1)
		usleep(5000);
	/* the next pause would not have been shorter */
	assert_true(gvm_now() - last < pause);
}

#define T(name)      cmocka_unit_test_setup_teardown(name, setup, dsm_teardown)
#define T_LONG(name) cmocka_unit_test_setup_teardown(name, setup_long, dsm_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_killed_reader_is_not_missed),
		T(what_a_killed_owner_changed_is_lost),
		T(a_killed_home_takes_its_own_pages),
		T(a_home_that_comes_back_empty_is_dead_at_once),
		T_LONG(a_pause_loses_nothing),
		T(the_fence_comes_before_the_burial),
		T(a_home_that_is_lost_while_its_pages_come_home),
		T_LONG(what_one_of_two_homes_has_lost_is_not_made_anew),
		T_LONG(an_id_is_one_process),
		T(who_is_gone_is_left_alone),
		T_LONG(nodes_that_cannot_reach_each_other_use_the_home),
	};

	return dsm_run(tests);
}
