/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A region over more nodes than there may be connections: what a program does with it does not show
 * it. Nothing fails, nothing is lost or told, whatever is done while nodes rest; and what fails
 * then fails as it does otherwise.
 */
#define NODES 8
#include "tests/region_nodes.h"
#include "core/region_internal.h"

#define LIMIT "3"

static int setup_limit(void **state)
{
	assert_int_equal(gvm_option_set("GVM_CONNECTIONS", LIMIT), 0);
	model_reset();
	lost_ok = 0;
	return setup(state);
}

static struct gvm_net_stats client_stats(void)
{
	struct gvm_net_stats stats;

	gvm_worker_stats(worker, &stats);
	return stats;
}

static void bounded(void)
{
	assert_true(client_stats().peers_open <= 3);
}

/* No node has been asked with a key of an earlier connection, or told of an end that was none. */
static void nobody_has_noticed(void)
{
	struct gvm_net_stats stats;
	unsigned rests = 0;

	for (unsigned i = 0; i < NODES; i++) {
		gvm_worker_stats(node[i].worker, &stats);
		assert_int_equal(stats.refused_keys, 0);
		assert_int_equal(stats.disconnects, 0);
		rests += node[i].rests;
	}
	assert_true(rests > 0);
	assert_int_equal(client_stats().disconnects, 0);
	assert_int_equal(told_count, 0);
}

static void test_the_contents(void **state)
{
	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	play(11, 6000, bounded);
	check_model();
	nobody_has_noticed();
	assert_true(client_stats().rests > 20);
	close_region();
}

/* One after the other: each is opened again, and by nothing but what needs it. */
static void test_one_after_the_other(void **state)
{
	unsigned opens[NODES], again = 0;
	uint64_t rests;

	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	for (unsigned round = 1; round < 4; round++) {
		for (uint64_t s = 0; s < M_SLABS; s++) {
			put_version(s * SLAB_PAGES, round * 100 + s);
			assert_int_equal(gvm_region_away_since(region, s * SLAB_PAGES), 0);
		}
		for (uint64_t s = 0; s < M_SLABS; s++)
			expect_version(s * SLAB_PAGES, round * 100 + s);
	}
	rests = client_stats().rests;
	for (unsigned i = 0; i < NODES; i++)
		opens[i] = node[i].opens;
	run_for(50 * MS);
	for (unsigned i = 0; i < NODES; i++)
		again += node[i].opens - opens[i];
	assert_int_equal(again, 0);
	assert_int_equal(client_stats().rests, rests);
	nobody_has_noticed();
}

static void test_wide_ones(void **state)
{
	struct gvm_region_config config = { .name = "child",
					    .placed_as = "vm1",
					    .node_state = node_state };
	struct gvm_region *source;
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < 40; s++)
		put_version(s * SLAB_PAGES, s + 1);
	prepare(&r, GVM_NEVER);
	assert_int_equal(await(&r, gvm_region_clone(region, "child", 0, &r.op)), 0);
	for (uint64_t s = 0; s < 40; s += 2)
		put_version(s * SLAB_PAGES, 1000 + s);
	/* both of them over the same three connections */
	source = region;
	assert_int_equal(open_with(&config), 0);
	for (uint64_t s = 0; s < 40; s++)
		expect_version(s * SLAB_PAGES, s + 1);
	close_region();
	region = source;
	for (uint64_t s = 0; s < 40; s++)
		expect_version(s * SLAB_PAGES, s % 2 ? s + 1 : 1000 + s);
	prepare(&r, GVM_NEVER);
	assert_int_equal(await(&r, gvm_region_resize(region, 60 * SLAB, &r.op)), 0);
	put_version(60 * SLAB_PAGES - 1, 7);
	assert_int_equal(discard(0, 20 * SLAB_PAGES), 0);
	for (uint64_t s = 0; s < 40; s++)
		expect_version(s * SLAB_PAGES, s < 20 ? 0 : s % 2 ? s + 1 : 1000 + s);
	bounded();
	assert_int_equal(told_count, 0);
	prepare(&r, GVM_NEVER);
	assert_int_equal(await(&r, gvm_region_delete(region, &r.op)), 0);
	for (unsigned i = 0; i < NODES; i++)
		assert_null(fake_find(&node[i], gvm_region_id_of("vm1")));
}

/*
 * Deleted while operations are under way: a node that has deleted it is not opened again for them,
 * though it rests meanwhile, and nobody is told of a loss. They are cancelled.
 */
static void test_deleted_under_operations(void **state)
{
	static uint8_t buf[NODES][PAGE];
	static struct result fetch[NODES];
	struct result gone, wipe, late;
	unsigned opens;

	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < M_SLABS; s++)
		put_version(s * SLAB_PAGES, s + 1);
	/* one does not come to an end meanwhile */
	fake_stop(&node[NODES - 1]);
	prepare(&gone, GVM_NEVER);
	assert_int_equal(gvm_region_delete(region, &gone.op), 0);
	prepare(&wipe, GVM_NEVER);
	assert_int_equal(gvm_region_discard(region, 0, M_SLABS * SLAB_PAGES, &wipe.op), 0);
	for (unsigned i = 0; i < NODES; i++) {
		prepare(&fetch[i], GVM_NEVER);
		assert_int_equal(gvm_region_fetch(region, slab_on("vm1", i + 1) * SLAB_PAGES, 1,
						  buf[i], &fetch[i].op),
				 0);
	}
	for (unsigned i = 0; i + 1 < NODES; i++) {
		UNTIL(!fake_find(&node[i], gvm_region_id_of("vm1")));
		UNTIL(fetch[i].done);
		assert_true(fetch[i].status == 0 || fetch[i].status == -ECANCELED);
	}
	run_for(20 * MS);
	opens = node[0].opens;
	prepare(&late, GVM_NEVER);
	assert_int_equal(await(&late, gvm_region_fetch(region, slab_on("vm1", 1) * SLAB_PAGES, 1,
						       buf[0], &late.op)),
			 -ECANCELED);
	assert_int_equal(node[0].opens, opens);
	assert_int_equal(gone.done, 0);
	fake_start(&node[NODES - 1]);
	UNTIL(gone.done && wipe.done && fetch[NODES - 1].done);
	assert_int_equal(gone.status, 0);
	for (unsigned i = 0; i < told_count; i++) /* the one that was stopped, and no loss */
		assert_true(told[i].node == NODES && told[i].why != -EIO);
}

/* A node dies while it rests: it is missed when it is needed, and back when it is back. */
static void test_a_node_that_dies_while_it_rests(void **state)
{
	uint64_t slab = slab_on("vm1", 4);
	uint8_t buf[PAGE];
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	put_version(slab * SLAB_PAGES, 9);
	for (unsigned id = 1; id <= NODES; id++) {
		if (id != 4)
			put_version(slab_on("vm1", id) * SLAB_PAGES, id);
	}
	UNTIL(node[3].rests);
	fake_stop(&node[3]);
	run_for(20 * MS);
	assert_int_equal(told_count, 0);
	assert_int_equal(gvm_region_away_since(region, slab * SLAB_PAGES), 0);
	prepare(&r, 100 * MS);
	assert_int_equal(await(&r, gvm_region_fetch(region, slab * SLAB_PAGES, 1, buf, &r.op)),
			 -ETIMEDOUT);
	assert_int_not_equal(gvm_region_away_since(region, slab * SLAB_PAGES), 0);
	fake_start(&node[3]);
	expect_version(slab * SLAB_PAGES, 9);
	assert_int_equal(gvm_region_away_since(region, slab * SLAB_PAGES), 0);
	/* and without its data it is a loss */
	for (unsigned id = 5; id <= NODES; id++)
		expect_version(slab_on("vm1", id) * SLAB_PAGES, id);
	UNTIL(node[3].rests >= 2);
	fake_stop(&node[3]);
	fake_wipe(&node[3]);
	fake_start(&node[3]);
	prepare(&r, GVM_NEVER);
	assert_int_equal(await(&r, gvm_region_fetch(region, slab * SLAB_PAGES, 1, buf, &r.op)),
			 -EIO);
	expect_version(slab_on("vm1", 1) * SLAB_PAGES, 1);
}

static void on_released(void *arg)
{
	++*(unsigned *)arg;
}

/* Who closes or leaves tells all nodes, also those where it rests. */
static void test_the_end_is_told(void **state)
{
	unsigned released = 0;
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < M_SLABS; s++)
		put_version(s * SLAB_PAGES, s + 1);
	for (unsigned i = 0; i < NODES; i++)
		node[i].leaves = 0;
	prepare(&r, PATIENCE);
	assert_int_equal(await(&r, gvm_region_leave(region, &r.op)), 0);
	for (unsigned i = 0; i < NODES; i++)
		assert_int_equal(node[i].leaves, 1);
	prepare(&r, PATIENCE);
	assert_int_equal(await(&r, gvm_region_stay(region, &r.op)), 0);
	for (uint64_t s = 0; s < M_SLABS; s++)
		expect_version(s * SLAB_PAGES, s + 1);
	gvm_region_release(region, gvm_now() + PATIENCE, on_released, &released);
	region = NULL;
	UNTIL(released);
	for (unsigned i = 0; i < NODES; i++) {
		assert_int_equal(node[i].closes, 1);
		assert_int_equal(fake_find(&node[i], gvm_region_id_of("vm1"))->holder, 0);
	}
	bounded();
}

/* What rests is heard of now and then, however little it is needed. */
static void test_a_sign_of_life(void **state)
{
	unsigned opens;

	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	UNTIL(node[0].rests + node[1].rests + node[2].rests);
	for (unsigned i = 0; i < region->node_count; i++) {
		struct region_node *n = region->nodes[i];
		uint64_t in;

		if (n->state != NODE_RESTING)
			continue;
		in = n->retry.when - gvm_now();
		assert_true(n->retry.place && in > 19 * 60000 * MS && in <= 30 * 60000 * MS);
		opens = node[n->id - 1].opens;
		assert_int_equal(gvm_timer_set(worker, &n->retry, gvm_now()), 0);
		UNTIL(n->state == NODE_READY || n->state == NODE_RESTING);
		UNTIL(node[n->id - 1].opens == opens + 1);
	}
	nobody_has_noticed();
}

int main(int argc, char **argv)
{
#define L(name) cmocka_unit_test_setup_teardown(name, setup_limit, teardown)
	const struct CMUnitTest tests[] = {
		L(test_the_contents),
		L(test_one_after_the_other),
		L(test_wide_ones),
		L(test_a_node_that_dies_while_it_rests),
		L(test_the_end_is_told),
		L(test_a_sign_of_life),
		L(test_deleted_under_operations),
	};

	begin(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
