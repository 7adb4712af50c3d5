/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The pager over two memory nodes of which one is away: pages of the other come and go as ever,
 * what was written for the absent one stays here and is stored when it is back, and nobody looks at
 * it again and again meanwhile.
 */
#include "pager_rig.h"

#define LOCAL      (4 * MIB)
#define LOCAL_N    (LOCAL / PAGE)
#define SLAB_N     64u /* pages of a slab; slabs lie on node 0 and 1 in turn */
#define PAGES      (20 * MIB / PAGE)
#define PATIENCE_S 120

enum { AWAY = 0, HERE = 1 };

static bool is_on(uint64_t page, unsigned node)
{
	return page / SLAB_N % 2 == node;
}

static void open_many(struct bed *bed, const struct kind *kind, unsigned nodes)
{
	gvm_pager_config_init(&bed->config);
	bed->config.local_bytes = LOCAL;
	bed->config.slab_bytes = SLAB_N * PAGE;
	bed->config.prefetch_pages = 0;
	fake.nodes = nodes;
	open_bed(bed, kind, PAGES * PAGE);
	gvm_pager_set_prefetch(bed->pager, 0);
}

static void open_two(struct bed *bed, const struct kind *kind)
{
	open_many(bed, kind, 2);
}

/* Every second page of a node's, so that each is a put of its own; n at most. */
static void fill_scattered(struct bed *bed, unsigned node, unsigned n)
{
	for (uint64_t p = 0; p < PAGES && n; p += 2)
		if (is_on(p, node)) {
			fill_page(bed->mem, p, 3);
			n--;
		}
}

static void check_scattered(struct bed *bed, unsigned node, unsigned n)
{
	for (uint64_t p = 0; p < PAGES && n; p += 2)
		if (is_on(p, node)) {
			assert_page(bed->mem, p, 3);
			n--;
		}
}

struct user {
	struct bed *bed;
	unsigned wrong;
	atomic_bool ended;
	pthread_t thread;
};

/* Much more than there is room for, of the node that is there: all of it is written and read. */
static void *use_the_other(void *arg)
{
	struct user *user = arg;
	char *mem = user->bed->mem;

	for (uint64_t p = 0; p < PAGES; p++)
		if (is_on(p, HERE))
			fill_page(mem, p, 5);
	for (uint64_t p = 0; p < PAGES; p++)
		if (is_on(p, HERE))
			user->wrong += !page_is(mem, p, 5);
	user->ended = true;
	return NULL;
}

static bool ends_in_time(struct user *user)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_S;
	return pthread_timedjoin_np(user->thread, NULL, &until) == 0;
}

/* More than the places for puts are owed to the absent node, and more than the policy's victims. */
static void eviction_goes_on_without_a_node(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		struct user user = { .bed = &bed };
		unsigned owed = LOCAL_N / 2;

		open_two(&bed, kind);
		fill_scattered(&bed, AWAY, owed);
		fake_set_away(AWAY, true);
		pthread_create(&user.thread, NULL, use_the_other, &user);
		if (!ends_in_time(&user)) {
			fake_set_away(AWAY, false);
			pthread_join(user.thread, NULL);
			fail_msg("%s: pages of the other node could not be evicted", kind->name);
		}
		assert_int_equal(user.wrong, 0);
		assert_true(stats_of(&bed).local_pages <= LOCAL_N);
		/* what is owed is here, and can be used */
		assert_int_equal(fake_stored("r"), PAGES / 2);
		check_scattered(&bed, AWAY, owed);
		fake_set_away(AWAY, false);
		assert_int_equal(gvm_pager_sync(bed.range), 0);
		assert_int_equal(fake_stored("r"), PAGES / 2 + owed);
		check_scattered(&bed, AWAY, owed);
		close_bed(&bed);
	}
}

/* All of the absent node's pages: more than there is room for. */
static void *owe_all(void *arg)
{
	struct user *user = arg;

	fill_scattered(user->bed, AWAY, PAGES);
	user->ended = true;
	return NULL;
}

static uint64_t cpu_ns(struct bed *bed)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < bed->pager->shards; i++) {
		struct timespec t;
		clockid_t clock;

		assert_int_equal(pthread_getcpuclockid(bed->pager->shard[i].thread, &clock), 0);
		clock_gettime(clock, &t);
		sum += (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
	}
	return sum;
}

/* Whether next to nothing was done in a while. A time in which nothing happens has no event at its
 * end. */
static bool rests(struct bed *bed)
{
	const struct timespec look = { .tv_nsec = 400000000 };
	uint64_t asked = fake.away_asked, rounds = rounds_so_far(), cpu = cpu_ns(bed);

	nanosleep(&look, NULL);
	return fake.away_asked - asked < 40 * bed->pager->shards &&
	       rounds_so_far() - rounds < 40 * bed->pager->shards &&
	       cpu_ns(bed) - cpu < (uint64_t)look.tv_nsec / 20;
}

/* All there is room for is owed to the absent node: who needs a frame waits, and nothing spins. */
static void a_full_budget_waits_at_rest(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		struct user user = { .bed = &bed };

		open_two(&bed, kind);
		/* so that both nodes are known */
		for (uint64_t p = 0; p < 2 * SLAB_N; p++)
			fill_page(bed.mem, p, 3);
		assert_int_equal(gvm_pager_sync(bed.range), 0);
		fake_set_away(AWAY, true);
		pthread_create(&user.thread, NULL, owe_all, &user);
		assert_true(AWAITED(stats_of(&bed).dirty_pages >= LOCAL_N * 3 / 4 &&
				    __atomic_load_n(&bed.pager->starving, __ATOMIC_RELAXED)));
		/* a slow machine is longer about what there was to do before */
		for (int tries = 0; tries < 50 && !rests(&bed); tries++)
			;
		assert_true(rests(&bed));
		assert_false(user.ended);
		fake_set_away(AWAY, false);
		assert_true(ends_in_time(&user));
		check_scattered(&bed, AWAY, PAGES);
		close_bed(&bed);
	}
}

/* A node that is full holds up the puts of nobody else, and what is owed to it is stored when it
 * has room. */
static void a_full_node_holds_up_no_other(void **state)
{
	EACH_KIND(kind)
	{
		struct bed bed = { 0 };
		struct user user = { .bed = &bed };
		unsigned owed = LOCAL_N / 2;

		open_two(&bed, kind);
		fill_scattered(&bed, AWAY, owed);
		fake.node_full[AWAY] = true;
		pthread_create(&user.thread, NULL, use_the_other, &user);
		if (!ends_in_time(&user)) {
			fake.node_full[AWAY] = false;
			pthread_join(user.thread, NULL);
			fail_msg("%s: pages of the other node could not be evicted", kind->name);
		}
		assert_int_equal(user.wrong, 0);
		assert_true(fake.refused > 0);
		assert_true(fake_stored("r") >= PAGES / 2);
		check_scattered(&bed, AWAY, owed);
		fake.node_full[AWAY] = false;
		assert_int_equal(gvm_pager_sync(bed.range), 0);
		assert_int_equal(fake_stored("r"), PAGES / 2 + owed);
		check_scattered(&bed, AWAY, owed);
		close_bed(&bed);
	}
}

/* Two nodes whose ids are as far apart as there are queues: one that is away does not take the
 * other with it. */
static void nodes_have_queues_of_their_own(void **state)
{
	struct bed bed = { 0 };
	struct user user = { .bed = &bed };

	fake.node_step = OUTLETS;
	open_two(&bed, &kinds[0]);
	assert_int_equal(bed.pager->shard[0].outlets_seen, 2);
	fill_scattered(&bed, AWAY, LOCAL_N / 2);
	fake_set_away(AWAY, true);
	pthread_create(&user.thread, NULL, use_the_other, &user);
	if (!ends_in_time(&user)) {
		fake_set_away(AWAY, false);
		pthread_join(user.thread, NULL);
		fail_msg("pages of the other node could not be evicted");
	}
	assert_int_equal(user.wrong, 0);
	fake_set_away(AWAY, false);
	close_bed(&bed);
}

#define MANY (2 * DEMANDS)

struct waiter {
	struct bed *bed;
	uint64_t page;
	bool right;
	pthread_t thread;
};

static void *wait_for_page(void *arg)
{
	struct waiter *waiter = arg;

	waiter->right = page_is(waiter->bed->mem, waiter->page, 3);
	return NULL;
}

static void begin_waiting(struct bed *bed, struct waiter *waiter, uint64_t page)
{
	*waiter = (struct waiter){ .bed = bed, .page = page };
	pthread_create(&waiter->thread, NULL, wait_for_page, waiter);
}

static void *read_the_other(void *arg)
{
	struct user *user = arg;

	for (uint64_t p = 0; p < PAGES; p++)
		if (is_on(p, HERE))
			user->wrong += !page_is(user->bed->mem, p, 3);
	user->ended = true;
	return NULL;
}

/* More threads than there are places for fetches wait for the absent node: others do not wait with
 * them. */
static void many_waiters_take_not_all_places(void **state)
{
	EACH_KIND(kind)
	{
		static struct waiter waiters[MANY];
		struct bed bed = { 0 };
		struct user user = { .bed = &bed };
		uint64_t before, page = 0;
		bool in_time;

		open_two(&bed, kind);
		for (uint64_t p = 0; p < PAGES; p++)
			fill_page(bed.mem, p, 3);
		for (uint64_t p = PAGES / 2; p < PAGES; p++)
			assert_page(bed.mem, p, 3);
		assert_int_equal(gvm_pager_sync(bed.range), 0);
		fake_set_away(AWAY, true);
		before = stats_of(&bed).faults;
		for (unsigned i = 0; i < MANY; i++) {
			while (!is_on(page, AWAY))
				page++;
			begin_waiting(&bed, &waiters[i], page++);
		}
		assert_true(AWAITED(stats_of(&bed).faults - before >= MANY));
		pthread_create(&user.thread, NULL, read_the_other, &user);
		in_time = ends_in_time(&user);
		fake_set_away(AWAY, false);
		for (unsigned i = 0; i < MANY; i++) {
			pthread_join(waiters[i].thread, NULL);
			assert_true(waiters[i].right);
		}
		if (!in_time) {
			pthread_join(user.thread, NULL);
			fail_msg("%s: pages of the other node waited too", kind->name);
		}
		assert_int_equal(user.wrong, 0);
		close_bed(&bed);
	}
}

#define THIRD 2

static bool is_of_three(uint64_t page, unsigned node)
{
	return page / SLAB_N % 3 == node;
}

static void *read_the_third(void *arg)
{
	struct user *user = arg;

	for (uint64_t p = 0; p < PAGES; p++)
		if (is_of_three(p, THIRD))
			user->wrong += !page_is(user->bed->mem, p, 3);
	user->ended = true;
	return NULL;
}

/* Two nodes stop answering in the same instant, before anybody knows: each has what it can get of
 * the places, and what is left does for the third. */
static void two_that_stop_at_once_take_not_all_places(void **state)
{
	EACH_KIND(kind)
	{
		static struct waiter waiters[2 * MANY];
		struct bed bed = { 0 };
		struct user user = { .bed = &bed };
		uint64_t before;
		bool in_time;

		open_many(&bed, kind, 3);
		for (uint64_t p = 0; p < PAGES; p++)
			fill_page(bed.mem, p, 3);
		for (uint64_t p = PAGES / 2; p < PAGES; p++)
			assert_page(bed.mem, p, 3);
		assert_int_equal(gvm_pager_sync(bed.range), 0);
		fake_set_silent(2, true);
		before = stats_of(&bed).faults;
		for (unsigned i = 0; i < 2 * MANY; i++)
			begin_waiting(&bed, &waiters[i],
				      i / 2 / SLAB_N * 3 * SLAB_N + i % 2 * SLAB_N +
					  i / 2 % SLAB_N);
		assert_true(AWAITED(stats_of(&bed).faults - before >= 2 * MANY));
		pthread_create(&user.thread, NULL, read_the_third, &user);
		in_time = ends_in_time(&user);
		fake_set_silent(2, false);
		for (unsigned i = 0; i < 2 * MANY; i++) {
			pthread_join(waiters[i].thread, NULL);
			assert_true(waiters[i].right);
		}
		if (!in_time) {
			pthread_join(user.thread, NULL);
			fail_msg("%s: pages of the third node waited too", kind->name);
		}
		assert_int_equal(user.wrong, 0);
		close_bed(&bed);
	}
}

/* Who has said that a node is away and has gone cannot say that it is back. */
static void an_absent_node_is_forgotten_with_who_said_so(void **state)
{
	struct gvm_range *others[2];
	struct view *views[2];
	struct bed bed = { 0 };

	open_bed(&bed, &kinds[0], 64 * PAGE);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(gvm_pager_attach(bed.pager, i ? "b" : "a", NULL, 64 * PAGE, -1, 0,
						  GVM_ATTACH_ANON, &others[i]),
				 0);
		views[i] = &bed.pager->shard[0].views[others[i]->id];
		pager_node_state(views[i], 7, -EHOSTUNREACH);
	}
	pager_node_state(views[0], 8, -EHOSTUNREACH);
	assert_int_equal(stats_of(&bed).nodes_away, 2);
	assert_int_equal(gvm_pager_detach(others[0]), 0);
	assert_int_equal(stats_of(&bed).nodes_away, 1);
	assert_int_equal(gvm_pager_detach(others[1]), 0);
	assert_int_equal(stats_of(&bed).nodes_away, 0);
	close_bed(&bed);
}

/* Who attaches says how long it may take, if nodes do not answer; then nothing is left of it. */
static void an_attach_waits_as_long_as_it_may(void **state)
{
	struct gvm_range *range;
	struct bed bed = { 0 };
	uint64_t begun;

	gvm_pager_config_init(&bed.config);
	bed.config.local_bytes = LOCAL;
	bed.config.attach_ms = 300;
	open_bed(&bed, &kinds[0], MIB);
	fake.mute = true;
	begun = gvm_now();
	assert_int_equal(
	    gvm_pager_attach(bed.pager, "mute", NULL, MIB, -1, 0, GVM_ATTACH_ANON, &range),
	    -ETIMEDOUT);
	assert_in_range(gvm_now() - begun, 300000000, PATIENCE_S * 1000000000ull);
	fake.mute = false;
	assert_int_equal(
	    gvm_pager_attach(bed.pager, "there", NULL, MIB, -1, 0, GVM_ATTACH_ANON, &range), 0);
	assert_int_equal(gvm_pager_detach(range), 0);
	close_bed(&bed);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(eviction_goes_on_without_a_node),
		cmocka_unit_test(a_full_budget_waits_at_rest),
		cmocka_unit_test(a_full_node_holds_up_no_other),
		cmocka_unit_test(many_waiters_take_not_all_places),
		cmocka_unit_test(two_that_stop_at_once_take_not_all_places),
		cmocka_unit_test(an_absent_node_is_forgotten_with_who_said_so),
		cmocka_unit_test(nodes_have_queues_of_their_own),
		cmocka_unit_test(an_attach_waits_as_long_as_it_may),
	};

	return RUN_TESTS(tests);
}
