/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows, of pins and hints between processes over tcp: what is pinned is not taken, who wants it
 * waits and gets it when the pin ends, before the next pin; a pin for reading lets others read;
 * what cannot be had in time is said, and nothing stays pinned; an access that waits for too long
 * fails loudly if that is asked for. And a hint brings pages, which hold what was written last.
 */
#include "dsm_members.h"

#define BYTES (64 * PAGE)
#define LONG  60000 /* ms, for what comes: it matters only when something hangs */

static void open_all(void)
{
	assert_int_equal(m_open(0, BYTES, GVM_DSM_CREATE, 0), 0);
	for (unsigned i = 1; i < MEMBERS; i++)
		assert_int_equal(m_open(i, 0, 0, 0), 0);
}

static int pin(unsigned i, uint64_t offset, uint64_t len, int write, unsigned ms)
{
	return order(i, (struct order){ .op = PIN,
					.offset = offset,
					.value = len,
					.flags = (unsigned)write,
					.ms = ms })
	    .status;
}

static int unpin(unsigned i, uint64_t offset, uint64_t len)
{
	return order(i, (struct order){ .op = UNPIN, .offset = offset, .value = len }).status;
}

static int is_silent(unsigned i, unsigned ms)
{
	struct pollfd fd = { .fd = member[i].fd, .events = POLLIN };

	return poll(&fd, 1, (int)ms) == 0;
}

static void who_wants_what_is_pinned_waits(void **state)
{
	const struct order load = { .op = LOAD, .offset = 8 };
	const struct order store = { .op = STORE, .offset = 8, .value = 44 };
	uint64_t faults;

	open_all();
	m_store(0, 8, 42);
	assert_int_equal(pin(0, 0, 2 * PAGE, 1, LONG), 0);
	faults = m_stats(0).faults_write;
	tell(1, &load);
	tell(2, &store);
	assert_true(is_silent(1, 300));
	assert_true(is_silent(2, 0));
	m_store(0, 8, 43); /* it has it all the time */
	assert_int_equal(m_stats(0).faults_write, faults);
	assert_int_equal(unpin(0, 0, 2 * PAGE), 0);
	assert_true(hear(1).value >= 43);
	assert_int_equal(hear(2).status, 0);
	assert_load(0, 8, 44);
}

static void a_pin_for_reading_lets_others_read(void **state)
{
	const struct order store = { .op = STORE, .offset = 8, .value = 50 };

	open_all();
	m_store(0, 8, 42);
	assert_int_equal(pin(0, 0, PAGE, 0, LONG), 0);
	assert_load(1, 8, 42);
	assert_int_equal(pin(2, 0, PAGE, 0, LONG), 0);
	tell(1, &store);
	assert_true(is_silent(1, 200));
	assert_int_equal(unpin(0, 0, PAGE), 0);
	assert_true(is_silent(1, 200)); /* for the other one */
	assert_int_equal(unpin(2, 0, PAGE), 0);
	assert_int_equal(hear(1).status, 0);
	assert_load(0, 8, 50);
	assert_load(2, 8, 50);
}

/* Pins without a pause between them: others get their turn. */
static void nobody_starves(void **state)
{
	const struct order add = { .op = ADD, .offset = 16, .value = 50 };
	unsigned rounds = 0;

	open_all();
	m_store(0, 16, 0);
	tell(1, &add);
	tell(2, &add);
	while (rounds < 20 || is_silent(1, 0) || is_silent(2, 0)) {
		assert_int_equal(pin(0, 0, PAGE, 1, LONG), 0);
		assert_int_equal(unpin(0, 0, PAGE), 0);
		rounds++;
	}
	assert_int_equal(hear(1).status, 0);
	assert_int_equal(hear(2).status, 0);
	assert_load(0, 16, 100);
}

static void what_cannot_be_pinned(void **state)
{
	open_all();
	m_store(0, 8, 1);
	m_store(1, 3 * PAGE, 1);
	assert_int_equal(pin(1, 3 * PAGE, PAGE, 1, LONG), 0);
	assert_int_equal(pin(0, 0, 4 * PAGE, 1, 200), -ETIMEDOUT);
	assert_load(2, 8, 1); /* page 0 is not pinned any more */
	assert_int_equal(pin(0, BYTES, 1, 1, 200), -ERANGE);
	assert_int_equal(pin(0, BYTES, 0, 1, 200), 0);
	assert_int_equal(m_close(1), 0); /* with its pin */
	assert_int_equal(pin(0, 0, BYTES, 1, LONG), 0);
	assert_int_equal(unpin(0, 0, BYTES), 0);
}

/* With room for 32 pages half of them. */
static void pins_leave_room(void **state)
{
	assert_int_equal(m_open(0, BYTES, GVM_DSM_CREATE, 32 * PAGE), 0);
	assert_int_equal(pin(0, 0, 17 * PAGE, 1, LONG), -ENOMEM);
	assert_int_equal(pin(0, 0, 16 * PAGE, 1, LONG), 0);
	/* once more, and for less; but nothing else */
	assert_int_equal(pin(0, 0, 16 * PAGE, 1, LONG), 0);
	assert_int_equal(pin(0, 3 * PAGE, 2 * PAGE, 0, LONG), 0);
	assert_int_equal(pin(0, 16 * PAGE, PAGE, 0, LONG), -ENOMEM);
	m_store(0, 16 * PAGE, 3); /* here, but not pinned */
	assert_int_equal(pin(0, 16 * PAGE, PAGE, 0, LONG), -ENOMEM);
	assert_int_equal(pin(0, 15 * PAGE, 2 * PAGE, 1, LONG), -ENOMEM);
	assert_int_equal(unpin(0, 3 * PAGE, 2 * PAGE), 0);
	assert_int_equal(unpin(0, 0, 16 * PAGE), 0);
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		m_store(0, page * PAGE, page + 7);
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		assert_load(0, page * PAGE, page + 7);
	assert_int_equal(unpin(0, 0, 16 * PAGE), 0);
	assert_int_equal(m_close(0), 0);
}

/* A member that was started with GVM_DSM_WAIT_MS. */
static void who_does_not_wait_for_ever_fails_loudly(void **state)
{
	uint64_t value, until;

	member_end(1, SIGKILL);
	setenv("GVM_DSM_WAIT_MS", "300", 1);
	member_start(1);
	unsetenv("GVM_DSM_WAIT_MS");
	open_all();
	assert_int_equal(pin(0, 0, PAGE, 1, LONG), 0);
	assert_int_equal(order(1, (struct order){ .op = LOAD, .offset = 8 }).status, -EFAULT);
	assert_int_equal(m_stats(1).faults_failed, 1);
	assert_int_equal(unpin(0, 0, PAGE), 0);
	m_store(2, 8, 9); /* the others are not concerned */
	assert_load(0, 8, 9);
	/* nor is it for good */
	until = gvm_now() + LONG * MS;
	while (m_load(1, 8, &value) && gvm_now() < until)
		;
	assert_load(1, 8, 9);
}

/* How long it takes to read all pages one after the other, median, with and without. */
static void a_hint_brings_pages(void **state)
{
	const struct order read = { .op = MEASURE, .value = BYTES / PAGE };
	const struct order hint = { .op = PREFETCH, .value = BYTES };
	uint64_t with, without;

	open_all();
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		m_store(0, page * PAGE, page + 1);
	without = order(2, read).value;
	assert_int_equal(order(1, hint).status, 0);
	while (m_stats(1).pages_received < BYTES / PAGE) /* nobody is told when a hint is done */
		usleep(1000);
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		assert_load(1, page * PAGE, page + 1);
	assert_int_equal(m_stats(1).faults_read, BYTES / PAGE);
	with = order(1, read).value;
	print_message("[          ] read of a page: %lu ns; when a hint has brought it: %lu ns\n",
		      (unsigned long)without, (unsigned long)with);
	assert_int_equal(
	    order(1, (struct order){ .op = PREFETCH, .value = BYTES, .flags = 1 }).status, 0);
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		m_store(1, page * PAGE, page + 2);
	/* who comes before the page waits for it, and that is a fault too */
	assert_true(m_stats(1).faults_write <= 2 * BYTES / PAGE);
	assert_load(2, 0, 2);
	assert_int_equal(
	    order(1, (struct order){ .op = PREFETCH, .offset = BYTES, .value = 1 }).status,
	    -ERANGE);
}

#define T(name) cmocka_unit_test_setup_teardown(name, dsm_setup, dsm_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(who_wants_what_is_pinned_waits),
		T(a_pin_for_reading_lets_others_read),
		T(nobody_starves),
		T(what_cannot_be_pinned),
		T(pins_leave_room),
		T(who_does_not_wait_for_ever_fails_loudly),
		T(a_hint_brings_pages),
	};

	return dsm_run(tests);
}
