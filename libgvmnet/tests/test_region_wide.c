/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What all nodes of a region must answer: clone, resize, delete. Shown here: all of them do it or
 * none has done it, whoever refuses, is away or lost its answer; and one such operation at a time.
 */
#include "tests/region_nodes.h"

static int wide(struct result *r, int posted)
{
	return await(r, posted);
}

/* A clone has what the source had; both go their own way; one refusal undoes it all. */
static void test_clone(void **state)
{
	struct gvm_region_config config = { .name = "child",
					    .placed_as = "vm1",
					    .node_state = node_state };
	struct gvm_region *source;
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < 40; s += 2)
		put_version(s * SLAB_PAGES, s + 1);
	node[1].refuse_clone = -ENOSPC;
	prepare(&r, PATIENCE);
	assert_int_equal(wide(&r, gvm_region_clone(region, "child", 0, &r.op)), -ENOSPC);
	for (unsigned i = 0; i < NODES; i++)
		assert_null(fake_find(&node[i], gvm_region_id_of("child")));
	node[1].refuse_clone = 0;
	prepare(&r, PATIENCE);
	assert_int_equal(wide(&r, gvm_region_clone(region, "child", 0, &r.op)), 0);
	for (uint64_t s = 0; s < 40; s++)
		expect_version(s * SLAB_PAGES, s % 2 ? 0 : s + 1);
	for (uint64_t s = 0; s < 40; s++)
		put_version(s * SLAB_PAGES, 1000 + s);
	source = region;
	assert_int_equal(open_with(&config), 0);
	for (uint64_t s = 0; s < 40; s++)
		expect_version(s * SLAB_PAGES, s % 2 ? 0 : s + 1);
	put_version(0, 77);
	expect_version(0, 77);
	close_region();
	region = source;
	expect_version(0, 1000);
	close_region();
	/* without the name it is placed as, it is refused, not read as zeros */
	config.placed_as = NULL;
	assert_true(open_with(&config) < 0);
}

/* Growing reaches nodes that had no part; shrinking forgets; a refusal changes nothing. */
static void test_resize(void **state)
{
	struct result r;
	uint8_t buf[PAGE];

	(void)state;
	assert_int_equal(open_region("vm1", 1, GVM_REGION_CREATE), 0);
	put_version(3, 9);
	for (unsigned i = 0; i < NODES; i++)
		node[i].refuse_open = -ENOSPC;
	prepare(&r, PATIENCE);
	assert_int_equal(wide(&r, gvm_region_resize(region, 40 * SLAB, &r.op)), -ENOSPC);
	assert_int_equal(gvm_region_pages(region), SLAB_PAGES);
	for (unsigned i = 0; i < NODES; i++) {
		struct fake_region *f = fake_find(&node[i], gvm_region_id_of("vm1"));

		node[i].refuse_open = 0;
		if (f)
			assert_int_equal(f->pages, SLAB_PAGES);
	}
	prepare(&r, PATIENCE);
	assert_int_equal(wide(&r, gvm_region_resize(region, 40 * SLAB, &r.op)), 0);
	assert_int_equal(gvm_region_pages(region), 40 * SLAB_PAGES);
	assert_int_equal(node[0].share + node[1].share + node[2].share, 40);
	expect_version(3, 9);
	for (uint64_t p = SLAB_PAGES; p < 40 * SLAB_PAGES; p += 3) {
		expect_version(p, 0);
		put_version(p, p);
	}
	prepare(&r, PATIENCE);
	assert_int_equal(wide(&r, gvm_region_resize(region, 20 * SLAB + 2 * PAGE, &r.op)), 0);
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_fetch(region, 20 * SLAB_PAGES + 2, 1, buf, &r.op), -ERANGE);
	prepare(&r, PATIENCE);
	assert_int_equal(wide(&r, gvm_region_resize(region, 40 * SLAB, &r.op)), 0);
	for (uint64_t p = SLAB_PAGES; p < 40 * SLAB_PAGES; p++)
		expect_version(p, (p - SLAB_PAGES) % 3 || p >= 20 * SLAB_PAGES + 2 ? 0 : p);
	expect_version(3, 9);
	close_region();
	assert_int_equal(open_region("vm1", 0, 0), 0);
	expect_version(3, 9);
}

/* Deleted on all nodes, also on one that was away while it was asked. */
static void test_delete(void **state)
{
	struct result r;
	uint8_t buf[PAGE];

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < 40; s++)
		put_version(s * SLAB_PAGES, s + 1);
	fake_stop(&node[2]);
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_delete(region, &r.op), 0);
	run_for(20 * MS);
	assert_int_equal(r.done, 0);
	fake_start(&node[2]);
	UNTIL(r.done);
	assert_int_equal(r.status, 0);
	for (unsigned i = 0; i < NODES; i++)
		assert_null(fake_find(&node[i], gvm_region_id_of("vm1")));
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_fetch(region, 0, 1, buf, &r.op), -EINVAL);
}

/* Deleted here and refused there: what is gone is never taken for zeros, and the rest is there. */
static void test_delete_in_part(void **state)
{
	uint64_t gone = slab_on("vm1", 1) * SLAB_PAGES, here = slab_on("vm1", 2) * SLAB_PAGES;
	struct fake_region *kept;
	uint64_t holder;
	uint8_t buf[PAGE];
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	put_version(gone, 5);
	put_version(here, 6);
	kept = fake_find(&node[1], gvm_region_id_of("vm1"));
	holder = kept->holder;
	kept->holder = holder + 1;
	prepare(&r, PATIENCE);
	assert_int_equal(wide(&r, gvm_region_delete(region, &r.op)), -EBUSY);
	kept->holder = holder;
	expect_version(here, 6);
	prepare(&r, GVM_NEVER);
	assert_int_equal(await(&r, gvm_region_fetch(region, gone, 1, buf, &r.op)), -EIO);
	prepare(&r, GVM_NEVER);
	assert_int_equal(await(&r, gvm_region_fetch(region, gone + SLAB_PAGES - 1, 1, buf, &r.op)),
			 -EIO);
	assert_int_equal(told_count, 0);
	prepare(&r, PATIENCE);
	assert_int_equal(wide(&r, gvm_region_delete(region, &r.op)), 0);
}

static uint64_t pages_at(unsigned i, const char *name)
{
	const struct fake_region *r = fake_find(&node[i], gvm_region_id_of(name));

	return r ? r->pages : 0;
}

/* A node that has cloned and whose answer was lost has cloned. */
static void test_clone_answer_lost(void **state)
{
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	put_version(slab_on("vm1", 1) * SLAB_PAGES, 5);
	node[0].lie = SILENCE;
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_clone(region, "child", 0, &r.op), 0);
	UNTIL(pages_at(0, "child"));
	fake_stop(&node[0]);
	node[0].lie = TRUTH;
	run_for(5 * MS);
	assert_int_equal(r.done, 0);
	fake_start(&node[0]);
	UNTIL(r.done);
	assert_int_equal(r.status, 0);
	for (unsigned i = 0; i < NODES; i++)
		assert_int_equal(pages_at(i, "child"), 40 * SLAB_PAGES);
}

/* Another's region of that name is no answer that was lost: it is refused, and left alone. */
static void test_clone_name_is_taken(void **state)
{
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	fake_make(&node[1], "child", gvm_region_id_of("child"))->pages = 7;
	prepare(&r, PATIENCE);
	assert_int_equal(wide(&r, gvm_region_clone(region, "child", 0, &r.op)), -EEXIST);
	assert_int_equal(pages_at(0, "child"), 0);
	assert_int_equal(pages_at(1, "child"), 7);
	assert_int_equal(pages_at(2, "child"), 0);
}

/* Who has grown shrinks back if another will not grow. */
static void test_resize_is_undone(void **state)
{
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm1", 20, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < 20; s++)
		put_version(s * SLAB_PAGES, s + 1);
	uint64_t before[NODES] = { node[0].share, node[1].share, node[2].share };
	node[1].refuse_resize = -ENOSPC;
	prepare(&r, PATIENCE);
	assert_int_equal(wide(&r, gvm_region_resize(region, 40 * SLAB, &r.op)), -ENOSPC);
	assert_int_equal(gvm_region_pages(region), 20 * SLAB_PAGES);
	for (unsigned i = 0; i < NODES; i++) {
		assert_int_equal(node[i].resizes, i == 1 ? 1 : 2);
		assert_int_equal(node[i].share, before[i]);
		assert_int_equal(pages_at(i, "vm1"), 20 * SLAB_PAGES);
	}
	for (uint64_t s = 0; s < 20; s++)
		expect_version(s * SLAB_PAGES, s + 1);
}

/* The time is up while a node is away: those that have cloned are not left with it. */
static void test_clone_time_is_up(void **state)
{
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	fake_stop(&node[2]);
	prepare(&r, 30 * MS);
	assert_true(wide(&r, gvm_region_clone(region, "child", 0, &r.op)) < 0);
	for (unsigned i = 0; i < NODES; i++)
		assert_int_equal(pages_at(i, "child"), 0);
	assert_true(node[0].deletes && node[1].deletes);
	fake_start(&node[2]);
	prepare(&r, GVM_NEVER);
	assert_int_equal(wide(&r, gvm_region_clone(region, "child", 0, &r.op)), 0);
}

/* One at a time, and a clone or a resize not while an operation is under way; the end of the region
 * ends it. */
static void test_one_at_a_time(void **state)
{
	struct result r, other;
	uint8_t buf[PAGE];

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	prepare(&r, GVM_NEVER);
	prepare(&other, GVM_NEVER);
	assert_int_equal(gvm_region_fetch(region, 0, 1, buf, &r.op), 0);
	assert_int_equal(gvm_region_clone(region, "child", 0, &other.op), -EBUSY);
	assert_int_equal(gvm_region_resize(region, SLAB, &other.op), -EBUSY);
	UNTIL(r.done);
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_clone(region, "child", 0, &r.op), 0);
	assert_int_equal(gvm_region_clone(region, "child2", 0, &other.op), -EBUSY);
	assert_int_equal(gvm_region_resize(region, SLAB, &other.op), -EBUSY);
	assert_int_equal(gvm_region_delete(region, &other.op), -EBUSY);
	close_region();
	assert_int_equal(r.done, 1);
	assert_int_equal(r.status, -ECANCELED);
	assert_int_equal(other.done, 0);
}

static void test_refused_at_once(void **state)
{
	char name[GVM_WIRE_NAME_MAX + 2];
	struct result r;

	(void)state;
	memset(name, 'n', sizeof name - 1);
	name[sizeof name - 1] = 0;
	assert_int_equal(open_region("vm1", 4, GVM_REGION_CREATE), 0);
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_clone(region, NULL, 0, &r.op), -EINVAL);
	assert_int_equal(gvm_region_clone(region, "", 0, &r.op), -EINVAL);
	assert_int_equal(gvm_region_clone(region, "a/b", 0, &r.op), -EINVAL);
	assert_int_equal(gvm_region_clone(region, name, 0, &r.op), -EINVAL);
	assert_int_equal(gvm_region_clone(region, "child", GVM_REGION_CREATE, &r.op), -EINVAL);
	assert_int_equal(gvm_region_resize(region, 0, &r.op), -EINVAL);
	assert_int_equal(gvm_region_resize(region, PAGE + 1, &r.op), -EINVAL);
	assert_int_equal(gvm_region_resize(region, UINT64_MAX - PAGE + 1, &r.op), -EINVAL);
	close_region();
	assert_int_equal(open_region("vm1", 0, GVM_REGION_READONLY), 0);
	assert_int_equal(gvm_region_resize(region, SLAB, &r.op), -EPERM);
	assert_int_equal(gvm_region_delete(region, &r.op), -EPERM);
	assert_int_equal(r.done, 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(test_clone),
		T(test_resize),
		T(test_delete),
		T(test_delete_in_part),
		T(test_clone_answer_lost),
		T(test_clone_name_is_taken),
		T(test_resize_is_undone),
		T(test_clone_time_is_up),
		T(test_one_at_a_time),
		T(test_refused_at_once),
	};

	begin(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
