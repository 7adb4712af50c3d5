/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The faults that the loop provider can be told to have, shown with a minimal host in core's place.
 */
#include "provider_rig.h"

static int clear_faults(void **state)
{
	gvm_loop_set_faults(&(struct gvm_loop_faults){ 0 });
	return teardown(state);
}

static unsigned completed_before_the_break(uint64_t seed)
{
	unsigned before = server.accepted, done = 0, i;
	struct top t[256];
	uint8_t buf[64];
	struct conn c;

	gvm_loop_set_faults(&(struct gvm_loop_faults){ 0 });
	dial_host(&c, "x");
	until(c.connected == 1 && server.accepted > before);
	client.ops->allow(c.ep);
	gvm_loop_set_faults(&(struct gvm_loop_faults){ .seed = seed, .drop_conn = 655 });
	for (i = 0; i < 200 && c.ep; i++) {
		assert_int_equal(post(&c, GVM_OP_FETCH, &t[i], 1, 0, buf, 64), 0);
		until(t[i].calls);
		assert_int_equal(t[i].calls, 1);
		done += !t[i].status;
	}
	if (c.ep)
		client.ops->shut(c.ep, -ECANCELED);
	else
		assert_int_equal(c.closed, -ECONNRESET);
	return done;
}

static void broken_links_repeat_with_the_seed(void **state)
{
	unsigned differ = 0;

	offer(1, 4096, GVM_ACCESS_FETCH, 0);
	for (uint64_t seed = 1; seed < 6; seed++) {
		unsigned n = completed_before_the_break(seed);

		assert_int_equal(completed_before_the_break(seed), n);
		differ += n != completed_before_the_break(1);
	}
	assert_true(differ > 0);
}

static void delays_keep_the_order(void **state)
{
	struct conn c;

	dial(&c);
	server.conns->ordered = 1;
	gvm_loop_set_faults(
	    &(struct gvm_loop_faults){ .seed = 3, .delay = 32768, .delay_ns = 2000000 });
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(say(&c, i, "x", 1), 0);
	until(server.conns->messages == 100);
	client.ops->shut(c.ep, -ECANCELED);
}

static void stall_and_refusal(void **state)
{
	struct conn c, d;

	dial(&c);
	gvm_loop_set_faults(&(struct gvm_loop_faults){ .stall = 1 });
	say(&c, 0, "x", 1);
	settle();
	assert_int_equal(server.conns->messages, 0);
	gvm_loop_set_faults(&(struct gvm_loop_faults){ .refuse = 65536 });
	until(server.conns->messages == 1);
	dial_host(&d, "x");
	until(d.connected);
	assert_int_equal(d.connected, -ECONNREFUSED);
	client.ops->shut(c.ep, -ECANCELED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOOP(broken_links_repeat_with_the_seed),
		LOOP(delays_keep_the_order),
		LOOP(stall_and_refusal),
	};

	return cmocka_run_group_tests_name("provider loop", tests, NULL, NULL);
}
