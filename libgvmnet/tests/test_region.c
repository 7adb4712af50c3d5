/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The region client against memory nodes made for this test: names and bounds, opening and closing,
 * contents, deadlines and back-pressure, and exactly one completion of each operation.
 */
#include "tests/region_nodes.h"

/* A name has one id; the id does not change from release to release. */
static void test_id(void **state)
{
	(void)state;
	assert_true(gvm_region_id_of("vm1") == gvm_region_id_of("vm1"));
	assert_true(gvm_region_id_of("vm1") != gvm_region_id_of("vm2"));
	/* echo -n "gvmnet region vm1" | sha256sum: first 8 bytes, little-endian */
	assert_true(gvm_region_id_of("vm1") == 0x1a469d42a2938332ull);
}

/* What is put is fetched; what never was is zeros, and costs no message. */
static void test_contents(void **state)
{
	static uint8_t buf[SLAB], back[SLAB];
	struct gvm_net_stats before, after;

	(void)state;
	assert_int_equal(open_region("vm1", 12, GVM_REGION_CREATE), 0);
	assert_int_equal(gvm_region_pages(region), 12 * SLAB_PAGES);
	assert_int_equal(gvm_region_slab_pages(region), SLAB_PAGES);
	assert_int_equal(node[0].share + node[1].share + node[2].share, 12);
	gvm_worker_stats(worker, &before);
	assert_false(gvm_region_has_storage(region, 5));
	for (uint64_t p = 0; p < 12 * SLAB_PAGES; p += 7)
		expect_version(p, 0);
	gvm_worker_stats(worker, &after);
	assert_int_equal(before.fetches, after.fetches);
	assert_int_equal(before.msgs_sent, after.msgs_sent);
	for (uint64_t p = 0; p < 12 * SLAB_PAGES; p += 5)
		put_version(p, p + 1);
	for (uint64_t p = 0; p < 12 * SLAB_PAGES; p++)
		expect_version(p, p % 5 ? 0 : p + 1);
	assert_true(gvm_region_has_storage(region, 5));
	assert_int_equal(node[0].grants + node[1].grants + node[2].grants, 12);
	for (unsigned i = 0; i < SLAB_PAGES; i++)
		fill(buf + i * PAGE, 16 + i, 99);
	assert_int_equal(put(16, 16, buf), 0);
	assert_int_equal(fetch(16, 16, back), 0);
	assert_memory_equal(buf, back, SLAB);
}

/* Calls that make no sense are refused, and nothing is called back. */
static void test_bounds(void **state)
{
	static uint8_t buf[SLAB * 2];
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm1", 4, GVM_REGION_CREATE), 0);
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_fetch(region, 4 * SLAB_PAGES, 1, buf, &r.op), -ERANGE);
	assert_int_equal(gvm_region_fetch(region, UINT64_MAX, 1, buf, &r.op), -ERANGE);
	assert_int_equal(gvm_region_fetch(region, 4 * SLAB_PAGES - 1, 2, buf, &r.op), -ERANGE);
	assert_int_equal(gvm_region_fetch(region, SLAB_PAGES - 1, 2, buf, &r.op), -EINVAL);
	assert_int_equal(gvm_region_fetch(region, 0, 0, buf, &r.op), -EINVAL);
	assert_int_equal(gvm_region_put(region, 0, UINT32_MAX, buf, &r.op), -EINVAL);
	assert_int_equal(gvm_region_discard(region, 1, UINT64_MAX, &r.op), -ERANGE);
	assert_int_equal(gvm_region_discard(region, 0, 0, &r.op), -EINVAL);
	run_for(MS);
	assert_int_equal(r.done, 0);
}

/* The config is checked, with a reason, before anything is sent. */
static void test_config(void **state)
{
	struct gvm_region_config config = { .name = "a b",
					    .bytes = SLAB,
					    .flags = GVM_REGION_CREATE };

	(void)state;
	assert_int_equal(gvm_region_open(worker, &config, 0, opened_cb, &region), -EINVAL);
	config.name = "";
	assert_int_equal(gvm_region_open(worker, &config, 0, opened_cb, &region), -EINVAL);
	config.name = "ok";
	config.bytes = 4097;
	assert_int_equal(gvm_region_open(worker, &config, 0, opened_cb, &region), -EINVAL);
	config.bytes = 0;
	assert_int_equal(gvm_region_open(worker, &config, 0, opened_cb, &region), -EINVAL);
	config.bytes = SLAB;
	config.slab_bytes = 3 * SLAB;
	assert_int_equal(gvm_region_open(worker, &config, 0, opened_cb, &region), -EINVAL);
	assert_int_equal(node[0].opens + node[1].opens + node[2].opens, 0);
}

/* Opening: absent, present, held, too large; what was begun is taken back everywhere. */
static void test_open(void **state)
{
	struct gvm_region_config config = { .name = "vm1", .node_state = node_state };
	unsigned home = home_of("vm1", 0), other = home == 1 ? 2 : 1, opens;

	(void)state;
	assert_int_equal(open_region("vm1", 0, 0), -ENOENT);
	node[other - 1].refuse_open = -ENOSPC;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), -ENOSPC);
	/* a node that takes no more says so at once, not when the time to open is over */
	node[other - 1].refuse_open = -EUSERS;
	opens = node[other - 1].opens;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), -EUSERS);
	assert_int_equal(node[other - 1].opens, opens + 1);
	node[other - 1].refuse_open = 0;
	for (unsigned i = 0; i < NODES; i++)
		assert_null(fake_find(&node[i], gvm_region_id_of("vm1")));
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE | GVM_REGION_EXCL), 0);
	for (uint64_t s = 0; s < 40; s++)
		put_version(s * SLAB_PAGES + 3, s + 1);
	close_region();
	assert_int_equal(node[0].closes + node[1].closes + node[2].closes, 3);
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE | GVM_REGION_EXCL), -EEXIST);
	/* as it is: size, slab size and contents come from the nodes, in lists of any length */
	node[0].list_max = node[1].list_max = 1;
	assert_int_equal(open_with(&config), 0);
	assert_int_equal(gvm_region_pages(region), 40 * SLAB_PAGES);
	assert_int_equal(gvm_region_slab_pages(region), SLAB_PAGES);
	assert_true(node[0].lists + node[1].lists > 10);
	for (uint64_t s = 0; s < 40; s++)
		expect_version(s * SLAB_PAGES + 3, s + 1);
	close_region();
	/* another size is no match */
	assert_int_equal(open_region("vm1", 39, 0), -EINVAL);
	fake_find(&node[other - 1], gvm_region_id_of("vm1"))->holder = 4711;
	assert_int_equal(open_region("vm1", 40, 0), -EBUSY);
	fake_find(&node[other - 1], gvm_region_id_of("vm1"))->holder = 0;
	/* a node that has lost its part: never made anew */
	fake_wipe(&node[other - 1]);
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), -EIO);
	assert_null(fake_find(&node[other - 1], gvm_region_id_of("vm1")));
	assert_non_null(fake_find(&node[home - 1], gvm_region_id_of("vm1")));
	/* nor is a home that has lost its own */
	fake_wipe(&node[home - 1]);
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), -EIO);
	assert_null(fake_find(&node[home - 1], gvm_region_id_of("vm1")));
}

/* A node that is not there yet is waited for; one that never comes ends the open. */
static void test_open_late(void **state)
{
	struct gvm_region_config config = { .name = "vm1",
					    .bytes = 40 * SLAB,
					    .slab_bytes = SLAB,
					    .flags = GVM_REGION_CREATE,
					    .arg = &opening };
	uint64_t begin = gvm_now();

	(void)state;
	fake_stop(&node[1]);
	opening = (struct opening){ 0 };
	assert_int_equal(gvm_region_open(worker, &config, begin + 100 * MS, opened_cb, &region), 0);
	UNTIL(opening.called);
	assert_true(opening.status == -ETIMEDOUT || opening.status == -ECONNREFUSED);
	assert_true(gvm_now() - begin >= 90 * MS);
	gvm_region_close(region);
	opening = (struct opening){ 0 };
	assert_int_equal(gvm_region_open(worker, &config, GVM_NEVER, opened_cb, &region), 0);
	run_for(30 * MS);
	assert_int_equal(opening.called, 0);
	fake_start(&node[1]);
	UNTIL(opening.called);
	assert_int_equal(opening.status, 0);
}

/* Of a region whose opening was cancelled nothing is left, of another nobody has it. */
static int nodes_let_go(int status)
{
	for (unsigned i = 0; i < NODES; i++) {
		const struct fake_region *r = fake_find(&node[i], gvm_region_id_of("vm1"));

		if (r && (status == -ECANCELED || r->holder))
			return 0;
	}
	return 1;
}

/* Closed while it is opened: called back once, and nothing is left at the nodes. */
static void test_close_while_opening(void **state)
{
	struct gvm_region_config config = { .name = "vm1",
					    .bytes = 40 * SLAB,
					    .slab_bytes = SLAB,
					    .flags = GVM_REGION_CREATE,
					    .arg = &opening };

	(void)state;
	for (unsigned rounds = 0; rounds < 12; rounds++) {
		opening = (struct opening){ 0 };
		assert_int_equal(gvm_region_open(worker, &config, GVM_NEVER, opened_cb, &region),
				 0);
		for (unsigned i = 0; i < rounds; i++)
			progress();
		if (opening.called)
			assert_int_equal(opening.status, 0);
		else
			opening.status = 1;
		gvm_region_close(region);
		region = NULL;
		assert_int_equal(opening.called, 1);
		run_for(3 * MS);
		assert_int_equal(opening.called, 1);
		UNTIL(nodes_let_go(opening.status));
	}
}

static char logged[512];

static void keep_line(enum gvm_log_level level, const char *line)
{
	(void)level;
	snprintf(logged, sizeof logged, "%s", line);
}

/* The line says what is to be done about it, by what the node has said, if it has. */
static void test_no_space_advice(void **state)
{
	static const struct {
		enum gvm_full full;
		const char *advice, *not_this;
	} cases[] = { { GVM_FULL_DISK, "disk full", "--memory" },
		      { GVM_FULL_QUOTA, "--region-quota", "--memory" },
		      { GVM_FULL_MEMORY, "gvm-memsrv --memory", "disk" },
		      { GVM_FULL_UNKNOWN, "offer more memory there, or free space", "quota" } };
	uint8_t buf[PAGE] = { 1 };

	(void)state;
	gvm_log_set(keep_line);
	for (unsigned c = 0; c < 4; c++) {
		for (unsigned i = 0; i < NODES; i++) {
			node[i].full = cases[c].full;
			node[i].refuse_open = -ENOSPC;
		}
		assert_int_equal(open_region("vm1", 1, GVM_REGION_CREATE), -ENOSPC);
		assert_non_null(strstr(logged, "has not enough room"));
		/* for how long something is kept there is not known here */
		assert_null(strstr(logged, " s;"));
		assert_non_null(strstr(logged, cases[c].advice));
		assert_null(strstr(logged, cases[c].not_this));
		for (unsigned i = 0; i < NODES; i++) {
			node[i].refuse_open = 0;
			node[i].refuse_grant = -ENOSPC;
		}
		assert_int_equal(open_region("vm1", 1, GVM_REGION_CREATE), 0);
		assert_int_equal(put(0, 1, buf), -ENOSPC);
		assert_non_null(strstr(logged, "has no room for another slab"));
		assert_non_null(strstr(logged, cases[c].advice));
		assert_null(strstr(logged, cases[c].not_this));
		for (unsigned i = 0; i < NODES; i++)
			node[i].refuse_grant = 0;
		close_region();
	}
	gvm_log_set(NULL);
}

/* No room for another slab is said at once; later ones may succeed. */
static void test_no_space(void **state)
{
	uint8_t buf[PAGE] = { 1 };

	(void)state;
	assert_int_equal(open_region("vm1", 1, GVM_REGION_CREATE), 0);
	for (unsigned i = 0; i < NODES; i++)
		node[i].refuse_grant = -ENOSPC;
	assert_int_equal(put(0, 1, buf), -ENOSPC);
	expect_version(0, 0);
	for (unsigned i = 0; i < NODES; i++)
		node[i].refuse_grant = 0;
	assert_int_equal(put(0, 1, buf), 0);
}

/* What waits for a node that is away ends at its own deadline, and nothing else does; another
 * client's hold is told from absence. */
static void test_deadline(void **state)
{
	uint64_t slab = slab_on("vm1", 1);
	uint8_t put_buf[PAGE], buf[PAGE] = { 1 };
	struct result patient, hasty;
	unsigned opens;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	put_version(slab * SLAB_PAGES, 1);
	fake_stop(&node[0]);
	fill(put_buf, slab * SLAB_PAGES + 1, 2);
	prepare(&patient, GVM_NEVER);
	assert_int_equal(gvm_region_put(region, slab * SLAB_PAGES + 1, 1, put_buf, &patient.op), 0);
	for (unsigned kind = 0; kind < 3; kind++) {
		prepare(&hasty, 20 * MS);
		assert_int_equal(
		    kind == 0   ? gvm_region_put(region, slab * SLAB_PAGES, 1, buf, &hasty.op)
		    : kind == 1 ? gvm_region_fetch(region, slab * SLAB_PAGES, 1, buf, &hasty.op)
				: gvm_region_discard(region, slab * SLAB_PAGES, 1, &hasty.op),
		    0);
		UNTIL(hasty.done);
		assert_true(gvm_now() >= hasty.op.deadline_ns);
		assert_int_equal(hasty.status, -ETIMEDOUT);
		assert_int_equal(patient.done, 0);
	}
	/* It is back, and another client holds the region. That it is asked a second time shows
	 * that its first answer was heard. */
	fake_find(&node[0], gvm_region_id_of("vm1"))->holder = 4711;
	opens = node[0].opens;
	fake_start(&node[0]);
	UNTIL(node[0].opens >= opens + 2);
	prepare(&hasty, 20 * MS);
	assert_int_equal(
	    await(&hasty, gvm_region_fetch(region, slab * SLAB_PAGES, 1, buf, &hasty.op)), -EBUSY);
	assert_int_equal(patient.done, 0);
	fake_find(&node[0], gvm_region_id_of("vm1"))->holder = 0;
	UNTIL(patient.done);
	assert_int_equal(patient.status, 0);
	expect_version(slab * SLAB_PAGES, 1);
	expect_version(slab * SLAB_PAGES + 1, 2);
}

/* More operations than there is room for: all complete, once, and fetches before waiting puts. */
static void test_back_pressure(void **state)
{
	enum { N = 3000 };
	static struct result puts[N], get;
	static uint8_t buf[PAGE], back[PAGE];
	unsigned pending = 0;

	(void)state;
	assert_int_equal(open_region("vm1", 1, GVM_REGION_CREATE), 0);
	put_version(0, 3);
	fill(buf, 0, 3);
	for (unsigned i = 0; i < N; i++) {
		prepare(&puts[i], GVM_NEVER);
		assert_int_equal(gvm_region_put(region, i % SLAB_PAGES, 1, buf, &puts[i].op), 0);
	}
	prepare(&get, GVM_NEVER);
	assert_int_equal(gvm_region_fetch(region, 0, 1, back, &get.op), 0);
	UNTIL(get.done);
	for (unsigned i = 0; i < N; i++)
		pending += !puts[i].done;
	assert_true(pending > N / 2);
	for (unsigned i = 0; i < N; i++)
		UNTIL(puts[i].done);
	run_for(5 * MS);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(puts[i].done, 1);
		assert_int_equal(puts[i].status, 0);
	}
	assert_memory_equal(back, buf, PAGE);
}

/* Discards: parts and wholes, over slabs and nodes, one message a node; then zeros. */
static void test_discard(void **state)
{
	unsigned messages;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	assert_int_equal(discard(0, 40 * SLAB_PAGES), 0);
	assert_int_equal(node[0].discards + node[1].discards + node[2].discards, 0);
	for (uint64_t p = 0; p < 40 * SLAB_PAGES; p += 2)
		put_version(p, 5);
	/* the end of slab 0 to the beginning of slab 38 */
	assert_int_equal(discard(6, 38 * SLAB_PAGES), 0);
	messages = node[0].discards + node[1].discards + node[2].discards;
	assert_true(messages <= 3);
	assert_int_equal(node[0].discard_runs + node[1].discard_runs + node[2].discard_runs, 39);
	for (uint64_t p = 0; p < 40 * SLAB_PAGES; p++)
		expect_version(p, p % 2 || (p >= 6 && p < 6 + 38 * SLAB_PAGES) ? 0 : 5);
	assert_true(gvm_region_has_storage(region, 0));
	assert_false(gvm_region_has_storage(region, 5 * SLAB_PAGES));
	put_version(5 * SLAB_PAGES, 8);
	expect_version(5 * SLAB_PAGES, 8);
	/* what was discarded whole is no loss after a reconnect */
	for (unsigned i = 0; i < NODES; i++) {
		fake_stop(&node[i]);
		fake_start(&node[i]);
	}
	expect_version(5 * SLAB_PAGES, 8);
	expect_version(6 * SLAB_PAGES, 0);
	expect_version(0, 5);
}

/* Close in every state: each operation completes once, before or with it, or soon after. */
static void test_close(void **state)
{
	enum { N = 600 };
	static struct result ops[N];
	static uint8_t buf[N][PAGE];

	(void)state;
	for (unsigned round = 0; round < 4; round++) {
		assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
		if (round == 2)
			fake_stop(&node[0]);
		for (unsigned i = 0; i < N; i++) {
			uint64_t page = (i * 7) % (40 * SLAB_PAGES);

			prepare(&ops[i], GVM_NEVER);
			assert_int_equal(i % 3 ? gvm_region_put(region, page, 1, buf[i], &ops[i].op)
					 : i % 2
					     ? gvm_region_fetch(region, page, 1, buf[i], &ops[i].op)
					     : gvm_region_discard(region, page, 1, &ops[i].op),
					 0);
		}
		for (unsigned i = 0; i < round; i++)
			progress();
		gvm_region_close(region);
		region = NULL;
		for (unsigned i = 0; i < N; i++)
			UNTIL(ops[i].done);
		run_for(5 * MS);
		for (unsigned i = 0; i < N; i++) {
			assert_int_equal(ops[i].done, 1);
			assert_true(ops[i].status == 0 || ops[i].status == -ECANCELED);
		}
		if (round == 2)
			fake_start(&node[0]);
	}
	/* and the worker's end ends what is still under way */
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	for (unsigned i = 0; i < N; i++) {
		prepare(&ops[i], GVM_NEVER);
		assert_int_equal(gvm_region_put(region, i, 1, buf[i], &ops[i].op), 0);
	}
	client_stop();
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(ops[i].done, 1);
	client_start(over, config_text(), NULL);
}

/* One node: the map's simplest form. */
static void test_one_node(void **state)
{
	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	model_reset();
	play(5, 1500, NULL);
	check_model();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(test_id),
		T(test_contents),
		T(test_bounds),
		T(test_config),
		T(test_open),
		T(test_open_late),
		T(test_close_while_opening),
		T(test_no_space),
		T(test_no_space_advice),
		T(test_deadline),
		T(test_back_pressure),
		T(test_discard),
		T(test_close),
		cmocka_unit_test_setup_teardown(test_one_node, setup_one, teardown),
	};

	begin(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
