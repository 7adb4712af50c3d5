/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The region client against real memory nodes: three gvm-memsrv processes over tcp with a key and
 * an image file each. They are killed in the middle and started again, with and without their data,
 * stopped and continued; the contents are held against the model throughout.
 */
#define NODES     3
#define NODE_ARGS "--memory", "64M", "--workers", "2"
#include "nodes.h"
#include "tests/region_client.h"

static void progress(void)
{
	gvm_worker_wait(worker, MS);
}

static int setup(void **state)
{
	(void)state;
	told_count = 0;
	lost_ok = 0;
	model_reset();
	nodes_start();
	client_start("tcp", map, key_file);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	client_stop();
	nodes_end();
	return 0;
}

/* Kill -9 one after the other, each back on its image a moment later. */
static unsigned kills, down = NODES;
static uint64_t up_at;

static void kill_some(void)
{
	if (down < NODES && gvm_now() >= up_at) {
		node_start(down);
		down = NODES;
	}
	if (!kills || down < NODES || rnd(300))
		return;
	kills--;
	down = (unsigned)rnd(NODES);
	node_end(down, SIGKILL);
	up_at = gvm_now() + rnd(30) * MS;
}

/* What was acknowledged is there, whatever was killed meanwhile. */
static void test_killed(void **state)
{
	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	kills = 4;
	play(3, 2500, kill_some);
	if (down < NODES)
		node_start(down);
	down = NODES;
	assert_int_equal(kills, 0);
	check_model();
	/* and for another client, after an end in order */
	close_region();
	nodes_restart();
	client_stop();
	client_start("tcp", map, key_file);
	assert_int_equal(open_region("vm1", 0, 0), 0);
	assert_int_equal(gvm_region_pages(region), M_PAGES);
	check_model();
}

/* One node loses its image: its pages fail, nobody else's, and none is made up. */
static void test_lost(void **state)
{
	unsigned lost = 0;

	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	play(4, 1500, NULL);
	node_end(1, SIGKILL);
	node_wipe(1);
	node_start(1);
	lost_ok = 1;
	check_model();
	for (uint64_t s = 0; s < M_SLABS; s++) {
		uint16_t at;
		uint8_t buf[PAGE];
		int rc = fetch(s * SLAB_PAGES, 1, buf);

		assert_int_equal(gvm_place(cluster, gvm_region_id(region), s, 1, &at), 1);
		assert_int_equal(rc, at == 1 ? -EIO : 0);
		lost += rc != 0;
	}
	assert_true(lost > 0 && lost < M_SLABS);
	assert_int_equal(told[told_count - 1].why, -EIO);
	close_region();
	/* nor is it taken for a new one by who opens it next */
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), -EIO);
}

/* A node that stands still: deadlines hold, and afterwards all is as it was. */
static void test_stopped(void **state)
{
	struct result all[M_SLABS];
	uint8_t buf[M_SLABS][PAGE];
	unsigned late = 0;
	int status;

	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < M_SLABS; s++)
		put_version(s * SLAB_PAGES, s + 1);
	kill(node[2].pid, SIGSTOP);
	/* all of its threads stand still when this returns */
	assert_int_equal(waitpid(node[2].pid, &status, WUNTRACED), node[2].pid);
	for (uint64_t s = 0; s < M_SLABS; s++) {
		prepare(&all[s], 500 * MS);
		assert_int_equal(gvm_region_fetch(region, s * SLAB_PAGES, 1, buf[s], &all[s].op),
				 0);
	}
	for (uint64_t s = 0; s < M_SLABS; s++) {
		UNTIL(all[s].done);
		late += all[s].status == -ETIMEDOUT;
		assert_true(all[s].status == 0 || all[s].status == -ETIMEDOUT);
	}
	assert_true(late > 0 && late < M_SLABS);
	kill(node[2].pid, SIGCONT);
	for (uint64_t s = 0; s < M_SLABS; s++)
		expect_version(s * SLAB_PAGES, s + 1);
}

/* Another client, which waits for the region while this one has it. */
static void another_waits(void)
{
	struct gvm_region_config config = { .name = "vm1",
					    .bytes = (uint64_t)M_SLABS * SLAB,
					    .slab_bytes = SLAB,
					    .flags = GVM_REGION_CREATE,
					    .node_state = node_state };

	client_start("tcp", map, key_file);
	assert_int_equal(open_within(&config, 5000 * MS), -EBUSY);
	client_stop();
}

/* One client at a time; a reader cannot write. */
static void test_held(void **state)
{
	struct gvm_region *first;
	struct gvm_worker *first_worker = worker;
	struct gvm_net *first_net = net;
	struct gvm_cluster *first_cluster = cluster;
	uint8_t buf[PAGE] = { 1 };
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	put_version(0, 1);
	first = region;
	another_waits();
	worker = first_worker;
	net = first_net;
	cluster = first_cluster;
	region = first;
	expect_version(0, 1);
	close_region();
	UNTIL(open_region("vm1", 0, GVM_REGION_READONLY) == 0);
	expect_version(0, 1);
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_put(region, 0, 1, buf, &r.op), -EPERM);
}

static int done_ok(struct result *r, int posted)
{
	return await(r, posted);
}

/* ---- giving back --------------------------------------------------------------------------- */

#define LARGE 1800u /* slabs: more than half of what the nodes have together */

static int told_parent, told_child;

enum manner { STAYS, LEAVES, CHANGES_ITS_MIND };

/* Another process: has a large region, says so, waits for a word, and is gone. */
static void other(enum manner manner)
{
	struct result r;
	char c;

	client_start("tcp", map, key_file);
	if (open_region("other", LARGE, GVM_REGION_CREATE | GVM_REGION_EPHEMERAL))
		_exit(1);
	put_version(7, 1);
	prepare(&r, PATIENCE);
	if (manner != STAYS && await(&r, gvm_region_leave(region, &r.op)))
		_exit(2);
	prepare(&r, PATIENCE);
	if (manner == CHANGES_ITS_MIND && await(&r, gvm_region_stay(region, &r.op)))
		_exit(2);
	expect_version(7, 1);
	if (write(told_parent, "x", 1) != 1 || read(told_child, &c, 1) != 1)
		_exit(3);
	_exit(0);
}

static pid_t start_other(enum manner manner, int *say)
{
	int up[2], down[2];
	pid_t pid;
	char c;

	assert_int_equal(pipe2(up, O_CLOEXEC) | pipe2(down, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		close(up[0]);
		close(down[1]);
		told_parent = up[1];
		told_child = down[0];
		other(manner);
	}
	close(up[1]);
	close(down[0]);
	assert_int_equal(read(up[0], &c, 1), 1);
	close(up[0]);
	*say = down[1];
	return pid;
}

static void end_other(pid_t pid, int say)
{
	int status;

	assert_int_equal(write(say, "x", 1), 1);
	close(say);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void open_next(void)
{
	struct gvm_region_config config = { .name = "next",
					    .bytes = (uint64_t)LARGE * SLAB,
					    .slab_bytes = SLAB,
					    .arg = &opening,
					    .flags = GVM_REGION_CREATE | GVM_REGION_EPHEMERAL };

	opening = (struct opening){ 0 };
	assert_int_equal(
	    gvm_region_open(worker, &config, gvm_now() + 20000 * MS, opened_cb, &region), 0);
}

/* Who says that it leaves is waited for; its memory is the next one's as soon as it has gone. */
static void test_left(void **state)
{
	pid_t pid;
	int say;

	(void)state;
	pid = start_other(LEAVES, &say);
	open_next();
	run_for(300 * MS);
	assert_int_equal(opening.called, 0); /* neither refused nor let in */
	end_other(pid, say);
	UNTIL(opening.called);
	assert_int_equal(opening.status, 0);
	expect_version(7, 0);
}

/* Who says so and does not go is not waited for without end. */
static void test_left_for_long(void **state)
{
	pid_t pid;
	int say;

	(void)state;
	pid = start_other(LEAVES, &say);
	open_next();
	UNTIL(opening.called);
	assert_int_equal(opening.status, -ENOSPC);
	gvm_region_close(region);
	end_other(pid, say);
	open_next(); /* the connections of the other are perhaps not ended yet */
	UNTIL(opening.called);
	assert_int_equal(opening.status, 0);
}

/* Who does not say so keeps what it has, and nobody waits for it. */
static void not_left(enum manner manner)
{
	pid_t pid;
	int say;

	pid = start_other(manner, &say);
	assert_int_equal(open_region("next", LARGE, GVM_REGION_CREATE), -ENOSPC);
	end_other(pid, say);
	assert_int_equal(open_region("next", LARGE, GVM_REGION_CREATE), -ENOSPC);
}

static void test_not_left(void **state)
{
	(void)state;
	not_left(STAYS);
}

static void test_stayed(void **state)
{
	(void)state;
	not_left(CHANGES_ITS_MIND);
}

/* Clone, discard, resize and delete do what they say. */
static void test_wide(void **state)
{
	struct gvm_region_config config = { .name = "child", .placed_as = "vm1" };
	struct gvm_region *source;
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	for (uint64_t p = 0; p < M_PAGES; p += 3)
		put_version(p, p + 1);
	prepare(&r, PATIENCE);
	assert_int_equal(done_ok(&r, gvm_region_clone(region, "child", 0, &r.op)), 0);
	for (uint64_t p = 0; p < M_PAGES; p += 6)
		put_version(p, 7777);
	assert_int_equal(discard(10, M_PAGES - 20), 0);
	for (uint64_t p = 0; p < M_PAGES; p++)
		expect_version(p, p % 3 || (p >= 10 && p < M_PAGES - 10) ? 0
				  : p % 6                                ? p + 1
									 : 7777);
	source = region;
	assert_int_equal(open_with(&config), 0);
	for (uint64_t p = 0; p < M_PAGES; p++)
		expect_version(p, p % 3 ? 0 : p + 1);
	put_version(1, 5);
	close_region();
	region = source;
	expect_version(1, 0);
	prepare(&r, PATIENCE);
	assert_int_equal(done_ok(&r, gvm_region_resize(region, 100 * SLAB, &r.op)), 0);
	put_version(100 * SLAB_PAGES - 1, 9);
	expect_version(0, 7777);
	prepare(&r, PATIENCE);
	assert_int_equal(done_ok(&r, gvm_region_resize(region, 2 * SLAB, &r.op)), 0);
	expect_version(0, 7777);
	prepare(&r, PATIENCE);
	assert_int_equal(done_ok(&r, gvm_region_resize(region, 100 * SLAB, &r.op)), 0);
	expect_version(100 * SLAB_PAGES - 1, 0);
	/* more than the nodes have: refused, and as before */
	prepare(&r, PATIENCE);
	assert_int_equal(done_ok(&r, gvm_region_resize(region, 100000ull * SLAB, &r.op)), -ENOSPC);
	expect_version(0, 7777);
	put_version(99 * SLAB_PAGES, 4);
	expect_version(99 * SLAB_PAGES, 4);
	prepare(&r, PATIENCE);
	assert_int_equal(done_ok(&r, gvm_region_delete(region, &r.op)), 0);
	gvm_region_close(region);
	assert_int_equal(open_region("vm1", 0, 0), -ENOENT);
}

/* ---- fewer connections than nodes ---------------------------------------------------------- */

/* One connection, three nodes: the contents are as ever, and nobody else gets the region. */
static void test_resting(void **state)
{
	struct gvm_worker *first_worker = worker;
	struct gvm_cluster *first_cluster = cluster;
	struct gvm_region *first;
	struct gvm_net *first_net = net;
	struct gvm_net_stats stats;

	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	play(6, 1500, NULL);
	gvm_worker_stats(worker, &stats);
	assert_true(stats.rests > 10 && stats.peers_open <= 1);
	assert_int_equal(stats.disconnects, 0);
	first = region;
	another_waits();
	worker = first_worker;
	net = first_net;
	cluster = first_cluster;
	region = first;
	check_model();
	assert_int_equal(told_count, 0);
}

static void released(void *arg)
{
	++*(int *)arg;
}

/* Let go of, it is free at once on all three. */
static void test_resting_and_closed(void **state)
{
	int over = 0;

	(void)state;
	assert_int_equal(open_region("vm1", LARGE, GVM_REGION_CREATE | GVM_REGION_EPHEMERAL), 0);
	for (uint64_t s = 0; s < 60; s++)
		put_version(s * SLAB_PAGES, s + 1);
	gvm_region_release(region, gvm_now() + PATIENCE, released, &over);
	region = NULL;
	UNTIL(over);
	client_stop();
	client_start("tcp", map, key_file);
	assert_int_equal(open_region("next", LARGE, GVM_REGION_CREATE), 0);
	expect_version(0, 0);
}

/* A node that is killed while the region rests there and started again keeps it for its client. */
static void test_resting_and_killed(void **state)
{
	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	kills = 3;
	play(7, 1500, kill_some);
	if (down < NODES)
		node_start(down);
	down = NODES;
	check_model();
}

static int setup_one(void **state)
{
	gvm_option_set("GVM_CONNECTIONS", "1");
	return setup(state);
}

static int teardown_one(void **state)
{
	gvm_option_set("GVM_CONNECTIONS", "auto");
	return teardown(state);
}

int main(void)
{
#define R(name) cmocka_unit_test_setup_teardown(name, setup_one, teardown_one)
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_killed),
		T(test_lost),
		T(test_stopped),
		T(test_held),
		T(test_wide),
		T(test_left),
		T(test_left_for_long),
		T(test_not_left),
		T(test_stayed),
		R(test_left),
		R(test_stayed),
		R(test_wide),
		R(test_resting),
		R(test_resting_and_closed),
		R(test_resting_and_killed),
	};

	if (!getenv("GVM_LOG"))
		gvm_log_set_level(GVM_LOG_ERROR);
	return nodes_run(tests);
}
