/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The region client and memory nodes that break: restarts, with and without the data, slabs that
 * are forgotten, keys that are withdrawn, answers that are wrong or lost. Shown here: loss and its
 * absence, who is told what, and that a model of the contents holds under random faults.
 */
#include "tests/region_nodes.h"
#include "core/region_internal.h"

/* A node restarts on its data: what waits goes on, everything is there, the client is told. */
static void test_restart(void **state)
{
	uint64_t slab = slab_on("vm1", 2);
	uint8_t buf[PAGE], back[PAGE];
	struct result get, store;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < 40; s++)
		put_version(s * SLAB_PAGES, s + 1);
	fake_stop(&node[1]);
	prepare(&get, GVM_NEVER);
	prepare(&store, GVM_NEVER);
	fill(buf, slab * SLAB_PAGES + 1, 7);
	assert_int_equal(gvm_region_fetch(region, slab * SLAB_PAGES, 1, back, &get.op), 0);
	assert_int_equal(gvm_region_put(region, slab * SLAB_PAGES + 1, 1, buf, &store.op), 0);
	UNTIL(told_count);
	assert_int_equal(told[0].node, 2);
	assert_true(told[0].why < 0 && told[0].why != -EIO);
	/* the others go on meanwhile */
	expect_version(slab_on("vm1", 1) * SLAB_PAGES, slab_on("vm1", 1) + 1);
	run_for(30 * MS);
	assert_int_equal(get.done + store.done, 0);
	fake_start(&node[1]);
	UNTIL(get.done && store.done);
	assert_int_equal(get.status, 0);
	assert_int_equal(store.status, 0);
	assert_true(holds(back, slab * SLAB_PAGES, slab + 1));
	expect_version(slab * SLAB_PAGES + 1, 7);
	for (uint64_t s = 0; s < 40; s++)
		expect_version(s * SLAB_PAGES, s + 1);
	assert_int_equal(told_count, 2);
	assert_int_equal(told[1].node, 2);
	assert_int_equal(told[1].why, 0);
	assert_int_equal(get.done + store.done, 2);
}

/* The connection of a region that nobody uses breaks: it is opened again all the same. */
static void test_idle_reconnect(void **state)
{
	struct gvm_loop_faults faults = { .seed = 1, .drop_conn = 65536 };
	struct gvm_peer *peer;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	put_version(0, 1);
	gvm_loop_set_faults(&faults);
	assert_int_equal(gvm_peer_get(worker, 3, &peer), 0);
	gvm_peer_disconnect(peer, -ECONNRESET);
	faults.drop_conn = 0;
	gvm_loop_set_faults(&faults);
	node[2].opens = 0;
	UNTIL(node[2].opens == 1 && told_count == 2);
	assert_int_equal(told[0].node, 3);
	assert_int_equal(told[1].why, 0);
	expect_version(0, 1);
}

/* A node comes back without the data: -EIO for good, never zeros; the rest is unharmed. */
static void test_loss(void **state)
{
	uint64_t slab = slab_on("vm1", 2);
	uint8_t back[PAGE];
	struct result get;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < 40; s++)
		put_version(s * SLAB_PAGES, s + 1);
	fake_stop(&node[1]);
	fake_wipe(&node[1]);
	prepare(&get, GVM_NEVER);
	assert_int_equal(gvm_region_fetch(region, slab * SLAB_PAGES, 1, back, &get.op), 0);
	fake_start(&node[1]);
	UNTIL(get.done);
	assert_int_equal(get.status, -EIO);
	assert_int_equal(fetch(slab * SLAB_PAGES + 5, 1, back), -EIO);
	assert_int_equal(put(slab * SLAB_PAGES, 1, back), -EIO);
	assert_int_equal(discard(0, 40 * SLAB_PAGES), -EIO);
	assert_true(gvm_region_has_storage(region, slab * SLAB_PAGES));
	assert_int_equal(told[told_count - 1].node, 2);
	assert_int_equal(told[told_count - 1].why, -EIO);
	/* it is there, though the data is not: nobody need wait for it */
	assert_int_equal(gvm_region_node(region, slab * SLAB_PAGES), 2);
	assert_int_equal(gvm_region_away_since(region, slab * SLAB_PAGES), 0);
	expect_version(slab_on("vm1", 1) * SLAB_PAGES, 0);
	assert_null(fake_find(&node[1], gvm_region_id_of("vm1")));
	for (unsigned i = 0; i + 1 < told_count; i++)
		assert_int_not_equal(told[i].why, -EIO);
}

/* A restart that has lost one slab: that one fails, the others of the node do not. */
static void test_slab_lost(void **state)
{
	struct fake_region *r;
	uint64_t lost = slab_on("vm1", 1);
	struct result clone;
	uint8_t back[PAGE];

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < 40; s++)
		put_version(s * SLAB_PAGES, s + 1);
	fake_stop(&node[0]);
	r = fake_find(&node[0], gvm_region_id_of("vm1"));
	fake_forget(&r->slab[lost]);
	fake_start(&node[0]);
	for (uint64_t s = 0; s < 40; s++) {
		if (s == lost)
			assert_int_equal(fetch(s * SLAB_PAGES, 1, back), -EIO);
		else
			expect_version(s * SLAB_PAGES, s + 1);
	}
	assert_int_equal(put(lost * SLAB_PAGES, 1, back), -EIO);
	assert_null(r->slab[lost].memory);
	/* in a clone it would be zeros */
	prepare(&clone, PATIENCE);
	assert_int_equal(gvm_region_clone(region, "child", 0, &clone.op), 0);
	UNTIL(clone.done);
	assert_int_equal(clone.status, -EIO);
	for (unsigned i = 0; i < NODES; i++)
		assert_null(fake_find(&node[i], gvm_region_id_of("child")));
}

/* Another view of the region, with a worker of its own. */
struct other {
	struct gvm_worker *worker;
	struct gvm_region *region;
	struct opening opening;
	unsigned lost;
};

static void other_state(void *arg, unsigned id, int why)
{
	struct opening *opening = arg;

	((struct other *)((char *)opening - offsetof(struct other, opening)))->lost += why == -EIO;
}

#define UNTIL_OTHER(o, cond) UNTIL((gvm_worker_progress((o)->worker), (cond)))

static void other_open(struct other *o)
{
	struct gvm_worker_config worker_config = { .cpu = -1 };
	struct gvm_region_config config = { .name = "vm1",
					    .bytes = 40 * SLAB,
					    .slab_bytes = SLAB,
					    .arg = &o->opening,
					    .node_state = other_state };

	memset(o, 0, sizeof(*o));
	assert_int_equal(gvm_worker_open(net, &worker_config, &o->worker), 0);
	assert_int_equal(
	    gvm_region_open(o->worker, &config, gvm_now() + PATIENCE, opened_cb, &o->region), 0);
	UNTIL_OTHER(o, o->opening.called);
	assert_int_equal(o->opening.status, 0);
}

/* It hears from node 1 anew which slabs there are. */
static void other_lists_again(struct other *o)
{
	struct gvm_peer *peer;

	assert_int_equal(gvm_peer_get(o->worker, 1, &peer), 0);
	node[0].opens = 0;
	gvm_peer_disconnect(peer, -ECONNRESET);
	UNTIL_OTHER(o, node[0].opens && o->region->nodes[0]->state == NODE_READY &&
			   o->region->nodes[1]->state == NODE_READY &&
			   o->region->nodes[2]->state == NODE_READY);
}

static int other_clones(struct other *o, const char *name)
{
	struct result clone;

	prepare(&clone, PATIENCE);
	assert_int_equal(gvm_region_clone(o->region, name, 0, &clone.op), 0);
	UNTIL_OTHER(o, clone.done);
	return clone.status;
}

/* What one view has had discarded is no loss to another that has known it, also if it has been
 * written again and discarded again meanwhile. What is lost is. */
static void test_another_view_discards(void **state)
{
	uint64_t slab = slab_on("vm1", 1);
	struct fake_region *r;
	struct other o;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	put_version(slab * SLAB_PAGES, 1);
	other_open(&o);
	for (unsigned round = 0; round < 3; round++) {
		assert_true(gvm_region_has_storage(o.region, slab * SLAB_PAGES));
		assert_int_equal(discard(slab * SLAB_PAGES, SLAB_PAGES), 0);
		other_lists_again(&o);
		assert_false(gvm_region_has_storage(o.region, slab * SLAB_PAGES));
		assert_int_equal(o.lost, 0);
		put_version(slab * SLAB_PAGES, 2 + round);
		other_lists_again(&o);
	}
	assert_int_equal(other_clones(&o, "child"), 0);
	r = fake_find(&node[0], gvm_region_id_of("vm1"));
	fake_stop(&node[0]);
	fake_forget(&r->slab[slab]);
	fake_start(&node[0]);
	UNTIL_OTHER(&o, o.lost);
	assert_int_equal(other_clones(&o, "second"), -EIO);
	gvm_region_close(o.region);
	gvm_worker_close(o.worker);
}

/* Keys that the node withdraws are asked for again; a slab gone meanwhile is a loss. */
static void test_withdrawn(void **state)
{
	struct fake_region *r;
	uint64_t slab = slab_on("vm1", 1);
	uint8_t back[PAGE];

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	put_version(slab * SLAB_PAGES, 1);
	r = fake_find(&node[0], gvm_region_id_of("vm1"));
	fake_offer(&node[0], r, &r->slab[slab]);
	expect_version(slab * SLAB_PAGES, 1);
	r->slab[slab].readonly = 1;
	fake_offer(&node[0], r, &r->slab[slab]);
	put_version(slab * SLAB_PAGES, 2);
	expect_version(slab * SLAB_PAGES, 2);
	assert_int_equal(told_count, 0);
	fake_forget(&r->slab[slab]);
	UNTIL(!going);
	assert_int_equal(put(slab * SLAB_PAGES, 1, back), -EIO);
	assert_int_equal(fetch(slab * SLAB_PAGES, 1, back), -EIO);
}

/* Answers that make no sense: refused or waited out, never believed; then the truth is. */
static void test_lies(void **state)
{
	struct gvm_region_config config = { .name = "vm1", .arg = &opening };
	uint8_t buf[PAGE] = { 1 };
	struct result r;

	(void)state;
	for (int lie = TRUTH + 1; lie < LIES; lie++) {
		assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
		for (unsigned i = 0; i < NODES; i++)
			node[i].lie = lie;
		prepare(&r, 60 * MS);
		assert_int_equal(await(&r, gvm_region_put(region, 0, 1, buf, &r.op)) < 0,
				 lie != ENDLESS);
		for (unsigned i = 0; i < NODES; i++)
			node[i].lie = TRUTH;
		for (uint64_t s = 0; s < 40; s++)
			put_version(s * SLAB_PAGES, s + 1);
		close_region();
		for (unsigned i = 0; i < NODES; i++)
			node[i].lie = lie;
		opening = (struct opening){ 0 };
		assert_int_equal(
		    gvm_region_open(worker, &config, gvm_now() + 50 * MS, opened_cb, &region), 0);
		UNTIL(opening.called);
		assert_true(opening.status < 0);
		gvm_region_close(region);
		region = NULL;
		run_for(2 * MS);
		for (unsigned i = 0; i < NODES; i++)
			node[i].lie = TRUTH;
		assert_int_equal(open_region("vm1", 0, 0), 0);
		for (uint64_t s = 0; s < 40; s++)
			expect_version(s * SLAB_PAGES, s + 1);
		close_region();
		for (unsigned i = 0; i < NODES; i++)
			fake_wipe(&node[i]);
	}
}

/* Sizes that would have this side work without end are refused. */
static void test_too_many_slabs(void **state)
{
	struct gvm_region_config config = {
		.name = "vm1", .bytes = 1ull << 50, .slab_bytes = SLAB, .flags = GVM_REGION_CREATE
	};
	struct result r;

	(void)state;
	assert_int_equal(gvm_region_open(worker, &config, 0, opened_cb, &region), -EINVAL);
	assert_int_equal(open_region("vm1", 1, GVM_REGION_CREATE), 0);
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_resize(region, 1ull << 50, &r.op), -EINVAL);
	put_version(0, 1);
	close_region();
	for (unsigned i = 0; i < NODES; i++) {
		if (node[i].regions[0])
			node[i].regions[0]->pages = 1ull << 38;
	}
	assert_int_equal(open_region("vm1", 0, 0), -EINVAL);
}

/* A discard whose answer is lost: the slab is gone at the node, and that is not a loss. */
static void test_discard_answer_lost(void **state)
{
	struct fake_region *r;
	struct result d;
	uint64_t slab = slab_on("vm1", 1);

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	put_version(slab * SLAB_PAGES, 5);
	prepare(&d, GVM_NEVER);
	assert_int_equal(gvm_region_discard(region, slab * SLAB_PAGES, SLAB_PAGES, &d.op), 0);
	/* the node has done it, and dies before the client reads the answer */
	r = fake_find(&node[0], gvm_region_id_of("vm1"));
	fake_forget(&r->slab[slab]);
	fake_stop(&node[0]);
	run_for(5 * MS);
	fake_start(&node[0]);
	UNTIL(d.done);
	assert_int_equal(d.status, 0);
	expect_version(slab * SLAB_PAGES, 0);
	put_version(slab * SLAB_PAGES, 6);
	expect_version(slab * SLAB_PAGES, 6);
}

/* Nodes that die and are back soon, with their data. */
static unsigned restarts, down = NODES;
static uint64_t up_at;

static void restart_end(void)
{
	if (down < NODES)
		fake_start(&node[down]);
	down = NODES;
}

static void restart_some(void)
{
	if (down < NODES && gvm_now() >= up_at)
		restart_end();
	if (!restarts || down < NODES || rnd(400))
		return;
	down = (unsigned)rnd(NODES);
	fake_stop(&node[down]);
	up_at = gvm_now() + rnd(15) * MS;
	restarts--;
}

/* Connections break, operations are delayed, connects are refused, nodes restart. */
static void test_random_faults(void **state)
{
	const char *text = getenv("GVM_TEST_SEED");
	uint64_t seed = text ? strtoull(text, NULL, 0) : 1;

	(void)state;
	for (unsigned i = 0; i < 4; i++, seed++) {
		struct gvm_loop_faults faults = { .seed = seed,
						  .drop_conn = i % 2 ? 100 : 0,
						  .delay = 8000,
						  .delay_ns = MS / 4,
						  .refuse = i % 2 ? 4000 : 0 };
		struct gvm_loop_faults none = { 0 };

		print_message("seed %llu (repeat with GVM_TEST_SEED=%llu)\n",
			      (unsigned long long)seed, (unsigned long long)seed);
		assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
		gvm_loop_set_faults(&faults);
		model_reset();
		restarts = i >= 2 ? 4 : 0;
		play(seed, 1500, restart_some);
		restart_end();
		gvm_loop_set_faults(&none);
		check_model();
		close_region();
		for (unsigned n = 0; n < NODES; n++)
			fake_wipe(&node[n]);
		told_count = 0;
	}
}

/* One of three nodes dies for good: its pages fail, all others stay right. */
static void test_one_dies(void **state)
{
	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	model_reset();
	play(11, 1500, NULL);
	fake_stop(&node[1]);
	fake_wipe(&node[1]);
	fake_start(&node[1]);
	lost_ok = 1;
	check_model();
	for (uint64_t p = 0; p < M_PAGES; p++) {
		uint8_t buf[PAGE];
		int rc = fetch(p, 1, buf);

		assert_int_equal(rc, home_of("vm1", p / SLAB_PAGES) == 2 ? -EIO : 0);
	}
	lost_ok = 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(test_restart),
		T(test_idle_reconnect),
		T(test_loss),
		T(test_slab_lost),
		T(test_withdrawn),
		T(test_lies),
		T(test_too_many_slabs),
		T(test_discard_answer_lost),
		T(test_random_faults),
		T(test_one_dies),
		T(test_another_view_discards),
	};

	begin(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
