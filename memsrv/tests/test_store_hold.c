/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who holds a region: one client at a time, with its connections, for its linger time; what it had
 * is given back when it goes; and an earlier connection of a client that has come back changes
 * nothing.
 */
#include "store_client.h"

static void a_second_client_is_refused_until_the_linger_is_over(void **state)
{
	assert_int_equal(open_region(alice, "vm", 16, GVM_RO_CREATE), 0);
	assert_int_equal(open_region(bob, "vm", 16, 0), -EBUSY);
	store_session_close(alice);
	alice = NULL;
	assert_int_equal(open_region(bob, "vm", 16, 0), -EBUSY);
	fake_clock += 30 * SEC - 1;
	store_tick(store);
	assert_int_equal(open_region(bob, "vm", 16, 0), -EBUSY);
	fake_clock += 1;
	assert_int_equal(open_region(bob, "vm", 16, 0), 0);
	assert_int_equal(stats().expired, 1);
	assert_int_equal(stats().refused_busy, 3);
}

static void the_same_client_comes_back_to_its_pages(void **state)
{
	uint64_t key;
	int ro;

	assert_int_equal(open_region(alice, "vm", 16, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
	key = grant(alice, "vm", 0);
	write_page(key, ALICE, 3, 0x33);
	store_session_close(alice);
	assert_int_equal(read_page(key, ALICE, 3), -1); /* no key outlives its connection */
	fake_clock += 29 * SEC;
	store_tick(store);
	assert_int_equal(store_session_open(store, ALICE, "alice again", &alice), 0);
	assert_int_equal(store_slab_list(alice, id_of("vm"), 0, 1, NULL, NULL, NULL), -ENOENT);
	assert_int_equal(open_region(alice, "vm", 16, 0), 0);
	assert_int_not_equal(listed(alice, "vm", 0, &ro), key);
	fake_clock += 100 * SEC;
	store_tick(store);
	assert_int_equal(page_of(alice, ALICE, "vm", 3), 0x33);
}

static void several_sessions_of_one_client(void **state)
{
	struct session *second;

	assert_int_equal(store_session_open(store, ALICE, "alice 2", &second), 0);
	assert_int_equal(open_region(alice, "vm", 16, GVM_RO_CREATE), 0);
	assert_int_equal(open_region(second, "vm", 16, 0), 0);
	store_session_close(second);
	fake_clock += 100 * SEC;
	store_tick(store);
	assert_int_equal(open_region(bob, "vm", 16, 0), -EBUSY);
	assert_int_equal(store_region_close(alice, id_of("vm")), 0);
	assert_int_equal(open_region(bob, "vm", 16, 0), 0);
}

static void an_ephemeral_region_goes_with_its_client(void **state)
{
	assert_int_equal(open_region(alice, "a", 16, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
	assert_int_equal(open_region(alice, "b", 16, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
	assert_int_equal(open_region(alice, "c", 16, GVM_RO_CREATE), 0);
	grant(alice, "a", 0);
	grant(alice, "c", 0);
	assert_int_equal(store_region_close(alice, id_of("b")), 0);
	assert_int_equal(stats().regions, 2);
	store_session_close(alice);
	alice = NULL;
	fake_clock += 30 * SEC;
	store_tick(store);
	assert_int_equal(stats().regions, 1);
	assert_int_equal(stats().stored_bytes, SLAB);
	assert_int_equal(stats().reserved_bytes, SLAB);
	assert_int_equal(open_region(bob, "c", 16, 0), 0);
}

/* Who is stopped, or behind a cut cable, finds its memory again; also when one connection was still
 * closed. */
static void a_client_that_falls_silent_has_longer(void **state)
{
	struct session *second;

	assert_int_equal(store_session_open(store, ALICE, "alice 2", &second), 0);
	assert_int_equal(open_region(alice, "a", 16, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
	assert_int_equal(open_region(second, "a", 16, 0), 0);
	grant(alice, "a", 0);
	store_session_silent(alice);
	store_session_close(second);
	fake_clock += STORE_SILENT_MS / 1000 * SEC - 1;
	store_tick(store);
	assert_int_equal(stats().regions, 1);
	assert_int_equal(store_session_open(store, ALICE, "alice", &alice), 0);
	assert_int_equal(open_region(alice, "a", 16, 0), 0);
	store_session_close(alice); /* this time it was heard of */
	alice = NULL;
	fake_clock += 30 * SEC;
	store_tick(store);
	assert_int_equal(stats().regions, 0);
}

static void an_old_key_ends_with_the_hold(void **state)
{
	uint64_t key, again;
	struct gvm_mem *mem;
	int ro;

	assert_int_equal(open_region(alice, "vm", 16, GVM_RO_CREATE), 0);
	key = grant(alice, "vm", 0);
	write_page(key, ALICE, 0, 0x11);
	mem = fake_mem(key);
	mem->pinned = 1; /* a put of alice's is half received */
	assert_int_equal(store_region_close(alice, id_of("vm")), 0);
	assert_null(fake_get(key, ALICE, GVM_ACCESS_FETCH, 0, 4096));
	assert_int_equal(open_region(bob, "vm", 16, 0), -EBUSY);
	fake_unpin(mem);
	assert_int_equal(open_region(bob, "vm", 16, 0), 0);
	again = listed(bob, "vm", 0, &ro);
	assert_int_equal(ro, 0);
	assert_int_not_equal(again, key);
	assert_int_equal(read_page(again, BOB, 0), 0x11);
	assert_null(fake_get(again, ALICE, GVM_ACCESS_FETCH, 0, 4096));
}

static void readonly_sessions_cannot_change_anything(void **state)
{
	struct gvm_slab_entry e;
	struct gvm_page_run run = { 0, 1 };
	uint64_t id = id_of("vm"), key;
	struct session *second;
	int ro;

	assert_int_equal(open_region(alice, "vm", 16, GVM_RO_CREATE), 0);
	write_page(grant(alice, "vm", 0), ALICE, 0, 0x44);
	store_region_close(alice, id);
	assert_int_equal(open_region(bob, "vm", 0, GVM_RO_READONLY), 0);
	key = listed(bob, "vm", 0, &ro);
	assert_int_equal(ro, 1);
	assert_int_equal(read_page(key, BOB, 0), 0x44);
	assert_null(fake_get(key, BOB, GVM_ACCESS_PUT, 0, 4096));
	assert_int_equal(store_slab_grant(bob, id, 0, &e), -EPERM);
	assert_int_equal(store_discard(bob, id, &run, 1), -EPERM);
	assert_int_equal(store_region_resize(bob, id, 32, 2), -EPERM);
	assert_int_equal(store_region_delete(bob, id), -EPERM);
	assert_int_equal(store_session_open(store, BOB, "bob 2", &second), 0);
	assert_int_equal(store_region_delete(second, id), -EPERM);
	assert_int_equal(open_region(second, "vm", 0, 0), 0);
	assert_int_equal(store_region_delete(bob, id), -EPERM);
	assert_int_equal(store_region_delete(second, id), 0);
	store_session_close(second);
}

static void only_the_holder_may_ask(void **state)
{
	struct gvm_slab_entry e;
	struct gvm_page_run run = { 0, 1 };
	uint64_t id = id_of("vm");
	uint32_t n;
	int more;

	assert_int_equal(open_region(alice, "vm", 16, GVM_RO_CREATE), 0);
	assert_int_equal(store_slab_grant(bob, id, 0, &e), -ENOENT);
	assert_int_equal(store_slab_list(bob, id, 0, 1, &e, &n, &more), -ENOENT);
	assert_int_equal(store_discard(bob, id, &run, 1), -ENOENT);
	assert_int_equal(store_region_resize(bob, id, 32, 2), -ENOENT);
	assert_int_equal(clone(bob, "vm", "copy", 0), -ENOENT);
	assert_int_equal(store_region_close(bob, id), -ENOENT);
	assert_int_equal(store_region_delete(bob, id), -EBUSY);
	store_region_close(alice, id);
	assert_int_equal(store_region_delete(bob, id), 0);
	assert_int_equal(store_region_delete(bob, id), -ENOENT);
}

/* ---- leaving ------------------------------------------------------------------------------- */

/* What the service is told. */
static unsigned changes, endings;

static void on_change(void *arg, int ended)
{
	(void)arg;
	if (ended)
		endings++;
	else
		changes++;
}

static int start_told(void **state)
{
	start(state);
	changes = endings = 0;
	store_notify(store, on_change, NULL);
	return 0;
}

/* As a process does that is about to end: the same open again, with no time to come back. */
static void leave(struct session *s, const char *name)
{
	struct gvm_region_open req = request(name, 0, 0);

	req.linger_ms = 0;
	assert_int_equal(store_region_open(s, id_of(name), &req, &got), 0);
}

static void who_has_left_leaves_nothing(void **state)
{
	assert_int_equal(open_region(alice, "a", 16, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
	assert_int_equal(open_region(alice, "kept", 16, GVM_RO_CREATE), 0);
	grant(alice, "a", 0);
	leave(alice, "a");
	leave(alice, "kept");
	assert_int_equal(stats().regions, 2); /* it is still there, and may use them */
	grant(alice, "a", 0);
	store_session_close(alice);
	alice = NULL;
	assert_int_equal(stats().regions, 1);
	assert_int_equal(stats().stored_bytes, 0);
	assert_int_equal(stats().expired, 0);
	assert_int_equal(open_region(bob, "kept", 16, 0), 0);
}

/* Two connections of one client end one after the other. */
static void the_next_waits_for_one_that_is_leaving(void **state)
{
	struct session *second;
	uint64_t pages = 40 * SLAB_PAGES;

	assert_int_equal(store_session_open(store, ALICE, "alice 2", &second), 0);
	assert_int_equal(open_region(alice, "a", pages, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
	assert_int_equal(open_region(second, "a", pages, GVM_RO_EPHEMERAL), 0);
	store_session_patience(bob, 1);
	/* nothing says that it will go */
	assert_int_equal(open_region(bob, "b", pages, GVM_RO_CREATE), -ENOSPC);
	assert_int_equal(open_region(bob, "a", pages, 0), -EBUSY);
	leave(alice, "a");
	store_session_close(alice);
	alice = NULL;
	changes = 0;
	assert_int_equal(open_region(bob, "b", pages, GVM_RO_CREATE), -EINPROGRESS);
	assert_int_equal(open_region(bob, "a", pages, 0), -EINPROGRESS);
	assert_int_equal(changes, 0);
	assert_int_equal(stats().regions, 1);
	assert_int_equal(stats().refused_space, 1);
	assert_int_equal(stats().refused_busy, 1);
	/* who has no patience is told how it is now */
	store_session_patience(bob, 0);
	assert_int_equal(open_region(bob, "b", pages, GVM_RO_CREATE), -ENOSPC);
	store_session_close(second);
	assert_int_equal(changes, 1);
	assert_int_equal(open_region(bob, "b", pages, GVM_RO_CREATE), 0);
}

/* The clones that forked children had: each is there for the next as soon as one has gone. */
static void a_clone_waits_for_one_that_is_leaving(void **state)
{
	struct session *child;

	assert_int_equal(open_region(alice, "p", 32 * SLAB_PAGES, GVM_RO_CREATE | GVM_RO_EPHEMERAL),
			 0);
	for (uint64_t i = 0; i < 32; i++)
		grant(alice, "p", i);
	store_session_patience(alice, 1);
	for (int round = 0; round < 5; round++) {
		assert_int_equal(clone(alice, "p", "c", GVM_RO_EPHEMERAL), 0);
		assert_int_equal(store_session_open(store, BOB + 1, "child", &child), 0);
		assert_int_equal(open_region(child, "c", 0, GVM_RO_EPHEMERAL), 0);
		leave(child, "c");
		assert_int_equal(clone(alice, "p", "d", GVM_RO_EPHEMERAL), -EINPROGRESS);
		store_session_close(child);
	}
}

/* The tick has not come by yet. */
static void a_linger_time_that_is_over_makes_room_at_once(void **state)
{
	uint64_t pages = 40 * SLAB_PAGES;

	assert_int_equal(open_region(alice, "a", pages, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
	store_session_close(alice);
	alice = NULL;
	fake_clock += 30 * SEC - 1;
	assert_int_equal(open_region(bob, "b", pages, GVM_RO_CREATE), -ENOSPC);
	fake_clock += 1;
	assert_int_equal(open_region(bob, "b", pages, GVM_RO_CREATE), 0);
}

/* Who is refused because of them learns it: how much it is, and until when. */
static void what_is_kept_for_lost_clients_is_told(void **state)
{
	uint64_t pages = 32 * SLAB_PAGES;
	struct session *second;

	assert_int_equal(store_session_open(store, ALICE, "alice 2", &second), 0);
	assert_int_equal(open_region(alice, "a", pages, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
	assert_int_equal(open_region(second, "a", pages, 0), 0);
	assert_int_equal(open_region(alice, "stays", SLAB_PAGES, GVM_RO_CREATE), 0);
	store_session_close(alice);
	alice = NULL;
	assert_int_equal(stats().lingering_bytes, 0); /* one connection of it is there */
	assert_int_equal(open_region(bob, "b", pages, GVM_RO_CREATE), -ENOSPC);
	assert_null(strstr(fake_log, "kept"));
	store_session_close(second);
	assert_int_equal(stats().lingering_bytes,
			 32 * SLAB); /* what stays is not about to be free */
	fake_clock += 10 * SEC - 1;
	assert_int_equal(open_region(bob, "b", pages, GVM_RO_CREATE), -ENOSPC);
	assert_non_null(strstr(fake_log, "2 MiB are kept for clients that were lost"));
	assert_non_null(strstr(fake_log, "free in 21 s at the latest"));
	fake_clock += 20 * SEC + 1;
	store_tick(store);
	assert_int_equal(stats().lingering_bytes, 0);
	assert_int_equal(open_region(bob, "b", pages, GVM_RO_CREATE), 0);
	assert_int_equal(open_region(bob, "c", pages, GVM_RO_CREATE), -ENOSPC);
	assert_null(strstr(fake_log, "kept"));
}

/* Memory of a region that is gone is there as long as a transfer uses it. */
static void storage_waits_for_a_transfer(void **state)
{
	struct gvm_slab_entry e;
	struct gvm_mem *mem;

	assert_int_equal(open_region(alice, "a", 64 * SLAB_PAGES, GVM_RO_CREATE), 0);
	for (uint64_t i = 0; i < 64; i++)
		mem = fake_mem(grant(alice, "a", i));
	mem->pinned = 1;
	assert_int_equal(store_region_delete(alice, id_of("a")), 0);
	assert_int_equal(open_region(bob, "b", 64 * SLAB_PAGES, GVM_RO_CREATE), 0);
	for (uint64_t i = 0; i < 63; i++)
		grant(bob, "b", i);
	assert_int_equal(store_slab_grant(bob, id_of("b"), 63, &e), -ENOSPC);
	store_session_patience(bob, 1);
	changes = 0;
	assert_int_equal(store_slab_grant(bob, id_of("b"), 63, &e), -EINPROGRESS);
	assert_int_equal(changes, 0);
	fake_unpin(mem);
	assert_int_equal(changes, 1);
	assert_int_equal(store_slab_grant(bob, id_of("b"), 63, &e), 0);
}

/* ---- coming back --------------------------------------------------------------------------- */

/* The node has not heard yet that the first connection is dead, and has requests of it to serve. */
static void an_earlier_connection_of_a_view_changes_nothing(void **state)
{
	struct gvm_page_run run = { 3, 1 };
	struct session *sibling, *again;
	uint64_t id = id_of("vm"), old, other, key;
	struct gvm_slab_entry e;
	int ro;

	store_session_view(alice, 1);
	assert_int_equal(store_session_open(store, ALICE, "view 2", &sibling), 0);
	store_session_view(sibling, 2);
	assert_int_equal(open_region(alice, "vm", 32, GVM_RO_CREATE), 0);
	assert_int_equal(open_region(sibling, "vm", 32, 0), 0);
	old = grant(alice, "vm", 0);
	other = grant(sibling, "vm", 1);
	write_page(old, ALICE, 3, 0x11);

	assert_int_equal(store_session_open(store, ALICE, "view 1 again", &again), 0);
	store_session_view(again, 1);
	assert_int_equal(open_region(again, "vm", 32, 0), 0);
	key = listed(again, "vm", 0, &ro);
	assert_int_equal(ro, 0);
	assert_int_equal(read_page(key, ALICE, 3), 0x11);
	write_page(key, ALICE, 3, 0x22);

	assert_null(fake_get(old, ALICE, GVM_ACCESS_PUT, 0, 4096));
	assert_null(fake_get(old, ALICE, GVM_ACCESS_FETCH, 0, 4096));
	assert_int_equal(store_discard(alice, id, &run, 1), -ENOENT);
	assert_int_equal(store_slab_grant(alice, id, 0, &e), -ENOENT);
	assert_int_equal(store_region_resize(alice, id, 16, 1), -ENOENT);
	assert_int_equal(store_region_close(alice, id), -ENOENT);
	assert_int_equal(store_region_delete(alice, id), -ESHUTDOWN);
	assert_int_equal(open_region(alice, "vm", 32, 0), -ESHUTDOWN);
	assert_int_equal(endings, 1);
	assert_true(store_session_ended(alice));
	assert_int_equal(read_page(key, ALICE, 3), 0x22);
	/* the client's other view has nothing to do with it */
	write_page(other, ALICE, 0, 0x33);
	assert_false(store_session_ended(sibling));
	assert_int_equal(stats().sessions, 4);
	store_session_close(sibling);
	store_session_close(again);
}

/* Views that are not told apart, as of a client that gives none, are all left alone. */
static void without_a_view_nobody_is_ended(void **state)
{
	struct session *second;
	uint64_t key;

	assert_int_equal(store_session_open(store, ALICE, "alice 2", &second), 0);
	assert_int_equal(open_region(alice, "vm", 16, GVM_RO_CREATE), 0);
	key = grant(alice, "vm", 0);
	assert_int_equal(open_region(second, "vm", 16, 0), 0);
	write_page(key, ALICE, 0, 1);
	assert_int_equal(endings, 0);
	store_session_close(second);
}

static void a_region_is_opened_again_when_the_last_old_transfer_is_over(void **state)
{
	struct session *again;
	struct gvm_mem *mem;

	store_session_view(alice, 1);
	assert_int_equal(open_region(alice, "vm", 16, GVM_RO_CREATE), 0);
	mem = fake_mem(grant(alice, "vm", 0));
	mem->pinned = 1;
	assert_int_equal(store_session_open(store, ALICE, "alice again", &again), 0);
	store_session_view(again, 1);
	assert_int_equal(open_region(again, "vm", 16, 0), -EBUSY);
	store_session_patience(again, 1);
	changes = 0;
	assert_int_equal(open_region(again, "vm", 16, 0), -EINPROGRESS);
	fake_unpin(mem);
	assert_int_equal(changes, 1);
	assert_int_equal(open_region(again, "vm", 16, 0), 0);
	store_session_close(again);
}

/* ---- what keys cost ------------------------------------------------------------------------ */

/* Sessions of Alice that get the region open, of 70; all have views, and all are closed again. */
static unsigned holders(uint32_t slab_pages)
{
	struct gvm_region_open req = request("keys", 1024, GVM_RO_CREATE);
	struct session *s[70];
	unsigned n = 0;

	req.slab_pages = slab_pages;
	req.share_slabs = 1;
	for (unsigned i = 0; i < 70; i++) {
		assert_int_equal(store_session_open(store, ALICE, "alice", &s[i]), 0);
		store_session_view(s[i], i + 1);
		n += store_region_open(s[i], id_of("keys"), &req, &got) == 0;
	}
	assert_true(n < 69);
	/* A view that comes back takes the place that it had. */
	store_session_close(s[69]);
	assert_int_equal(store_session_open(store, ALICE, "alice", &s[69]), 0);
	store_session_view(s[69], 1);
	assert_int_equal(store_region_open(s[69], id_of("keys"), &req, &got), 0);
	assert_int_equal(store_region_open(s[n], id_of("keys"), &req, &got), -EUSERS);
	/* So does another one, when that is let go of. */
	assert_int_equal(store_region_close(s[1], id_of("keys")), 0);
	assert_int_equal(store_region_open(s[n], id_of("keys"), &req, &got), 0);
	assert_int_equal(store_region_delete(alice, id_of("keys")), 0);
	for (unsigned i = 0; i < 70; i++)
		store_session_close(s[i]);
	return n;
}

static void keys_cost_little_of_what_they_open(void **state)
{
	struct store_config c = config();

	c.memory = c.limit = 64 << 20;
	c.max_sessions = 80;
	restart(&c);
	assert_int_equal(holders(16), 8);
	assert_non_null(strstr(fake_log, "region keys: alice has it open on 8 connections"));
	assert_int_equal(holders(64), 16);
	assert_int_equal(holders(256), 64);
	assert_int_equal(holders(1024), 64);
	assert_int_equal(stats().reserved_bytes, 0);
}

/* ---- connections that rest ----------------------------------------------------------------- */

#define HOUR (3600 * SEC)

static struct session *again(const char *name, uint64_t view)
{
	struct session *s;

	assert_int_equal(store_session_open(store, ALICE, name, &s), 0);
	store_session_view(s, view);
	return s;
}

/* Alice has "vm" with page 3 of slab 0 written, and rests. Returns the key that she had. */
static uint64_t rest_with(uint32_t flags)
{
	uint64_t key;

	store_session_view(alice, 1);
	assert_int_equal(open_region(alice, "vm", 16, GVM_RO_CREATE | flags), 0);
	key = grant(alice, "vm", 0);
	write_page(key, ALICE, 3, 0x33);
	store_session_rest(alice);
	alice = NULL;
	return key;
}

static void who_rests_keeps_what_it_has(void **state)
{
	uint64_t key = rest_with(GVM_RO_EPHEMERAL);

	assert_int_equal(read_page(key, ALICE, 3), -1);
	assert_int_equal(stats().resting, 1);
	assert_int_equal(stats().sessions, 1);      /* bob's */
	assert_int_equal(store_sessions(store), 0); /* nobody to wait for at the end */
	fake_clock += HOUR - 1;
	store_tick(store);
	assert_int_equal(open_region(bob, "vm", 16, 0), -EBUSY);
	alice = again("alice again", 1);
	assert_int_equal(open_region(alice, "vm", 16, 0), 0);
	assert_int_equal(stats().resting, 0);
	assert_int_equal(page_of(alice, ALICE, "vm", 3), 0x33);
	/* and as often as it likes, for longer than an hour in all */
	for (unsigned i = 0; i < 20; i++) {
		store_session_rest(alice);
		fake_clock += HOUR / 2;
		store_tick(store);
		alice = again("alice again", 1);
		assert_int_equal(open_region(alice, "vm", 16, 0), 0);
	}
	assert_int_equal(page_of(alice, ALICE, "vm", 3), 0x33);
	assert_int_equal(stats().expired, 0);
	assert_string_equal(fake_log, "");
}

static void who_rests_for_too_long_is_lost(void **state)
{
	rest_with(GVM_RO_EPHEMERAL);
	fake_clock += HOUR;
	store_tick(store);
	assert_int_equal(stats().resting, 0);
	assert_int_equal(stats().regions, 1); /* as if the connection were lost now */
	fake_clock += 30 * SEC;
	store_tick(store);
	assert_int_equal(stats().regions, 0);
	assert_int_equal(stats().expired, 1);
}

/* What another view of the client closes stays open for the one that rests. */
static void a_view_that_rests_has_it_open(void **state)
{
	struct session *second;

	rest_with(GVM_RO_EPHEMERAL);
	second = again("alice 2", 2);
	assert_int_equal(open_region(second, "vm", 16, 0), 0);
	assert_int_equal(store_region_close(second, id_of("vm")), 0);
	assert_int_equal(stats().regions, 1);
	/* nor does the other view close it for that one */
	assert_int_equal(store_region_close(second, id_of("vm")), -ENOENT);
	store_session_close(second);
	fake_clock += HOUR / 2;
	store_tick(store);
	assert_int_equal(stats().regions, 1);
	/* and the one that rests needs not open it to close it */
	alice = again("alice again", 1);
	assert_int_equal(store_region_close(alice, id_of("vm")), 0);
	assert_int_equal(stats().regions, 0);
	assert_int_equal(stats().resting, 0);
}

static void nobody_else_closes_what_rests(void **state)
{
	rest_with(0);
	store_session_view(bob, 1);
	assert_int_equal(store_region_close(bob, id_of("vm")), -ENOENT);
	assert_int_equal(open_region(bob, "vm", 16, 0), -EBUSY);
}

/* One of two regions is opened again: the other rests on. */
static void a_session_rests_as_long_as_one_region_does(void **state)
{
	store_session_view(alice, 1);
	assert_int_equal(open_region(alice, "a", 16, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
	assert_int_equal(open_region(alice, "b", 16, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
	store_session_rest(alice);
	alice = again("alice again", 1);
	assert_int_equal(open_region(alice, "a", 16, 0), 0);
	assert_int_equal(stats().resting, 1);
	assert_int_equal(store_slab_list(alice, id_of("b"), 0, 1, NULL, NULL, NULL), -ENOENT);
	store_session_rest(alice);
	assert_int_equal(stats().resting, 2);
	fake_clock += HOUR / 2;
	store_tick(store);
	alice = again("alice again", 1);
	assert_int_equal(open_region(alice, "b", 16, 0), 0);
	assert_int_equal(store_region_delete(alice, id_of("a")), 0);
	assert_int_equal(stats().resting, 0);
	assert_int_equal(stats().regions, 1);
}

/* Who leaves does not come back: what rests goes too, but not in the same moment. */
static void who_leaves_does_not_rest_for_long(void **state)
{
	struct gvm_region_open req = request("vm", 0, 0);

	rest_with(GVM_RO_EPHEMERAL);
	alice = again("alice again", 1);
	req.share_slabs = 0;
	req.linger_ms = 0;
	assert_int_equal(store_region_open(alice, id_of("vm"), &req, &got), 0);
	store_session_rest(alice);
	alice = NULL;
	fake_clock += STORE_LEAVING_MS / 1000 * SEC - 1;
	store_tick(store);
	assert_int_equal(stats().regions, 1);
	fake_clock += 1;
	store_tick(store);
	assert_int_equal(stats().regions, 0);
	assert_int_equal(stats().expired, 0);
}

/* A client without views has a connection more, or comes back: one that rests is none. */
static void without_a_view_it_comes_back_too(void **state)
{
	assert_int_equal(open_region(alice, "vm", 16, GVM_RO_CREATE), 0);
	for (unsigned i = 0; i < 100; i++) {
		store_session_rest(alice);
		alice = again("alice again", 0);
		assert_int_equal(open_region(alice, "vm", 16, 0), 0);
	}
	assert_int_equal(stats().resting, 0);
}

static void who_has_nothing_open_does_not_rest(void **state)
{
	store_session_rest(alice);
	alice = NULL;
	assert_int_equal(stats().resting, 0);
	assert_int_equal(stats().sessions, 1);
}

int main(void)
{
#define T(name)    cmocka_unit_test_setup_teardown(name, start, stop)
#define TOLD(name) cmocka_unit_test_setup_teardown(name, start_told, stop)
	const struct CMUnitTest tests[] = {
		T(a_second_client_is_refused_until_the_linger_is_over),
		T(the_same_client_comes_back_to_its_pages),
		T(several_sessions_of_one_client),
		T(an_ephemeral_region_goes_with_its_client),
		T(a_client_that_falls_silent_has_longer),
		T(an_old_key_ends_with_the_hold),
		T(readonly_sessions_cannot_change_anything),
		T(only_the_holder_may_ask),
		TOLD(who_has_left_leaves_nothing),
		TOLD(the_next_waits_for_one_that_is_leaving),
		TOLD(a_clone_waits_for_one_that_is_leaving),
		TOLD(a_linger_time_that_is_over_makes_room_at_once),
		T(what_is_kept_for_lost_clients_is_told),
		TOLD(storage_waits_for_a_transfer),
		TOLD(an_earlier_connection_of_a_view_changes_nothing),
		TOLD(without_a_view_nobody_is_ended),
		TOLD(a_region_is_opened_again_when_the_last_old_transfer_is_over),
		T(keys_cost_little_of_what_they_open),
		T(who_rests_keeps_what_it_has),
		T(who_rests_for_too_long_is_lost),
		T(a_view_that_rests_has_it_open),
		T(nobody_else_closes_what_rests),
		T(a_session_rests_as_long_as_one_region_does),
		T(who_leaves_does_not_rest_for_long),
		T(without_a_view_it_comes_back_too),
		T(who_has_nothing_open_does_not_rest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
