/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The store: what may be made and opened, what is promised and refused, which key does what, and
 * that clones, discards and resizes show each client the pages that it should see.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "store_client.h"

/* ---- opening ------------------------------------------------------------------------------- */

static void creates_and_opens(void **state)
{
	uint64_t generation;

	assert_int_equal(open_region(alice, "vm", 100, 0), -ENOENT);
	assert_int_equal(open_region(alice, "vm", 100, GVM_RO_CREATE), 0);
	assert_int_equal(got.flags, GVM_RO_CREATE);
	assert_int_equal(got.pages, 100);
	assert_int_equal(got.slab_pages, SLAB_PAGES);
	assert_int_equal(got.page_size, 4096);
	assert_int_equal(got.incarnation, 77);
	generation = got.generation;
	assert_int_not_equal(generation, 0);
	assert_int_equal(open_region(alice, "vm", 0, 0), 0);
	assert_int_equal(got.flags, 0);
	assert_int_equal(got.pages, 100);
	assert_int_equal(got.generation, generation);
	assert_int_equal(open_region(alice, "vm", 100, GVM_RO_CREATE | GVM_RO_EXCL), -EEXIST);
	assert_int_equal(open_region(alice, "vm", 101, 0), -EINVAL);
}

static void opens_by_generation(void **state)
{
	struct gvm_region_open req = request("vm", 100, GVM_RO_CREATE);
	uint64_t id = id_of("vm");

	req.generation = 5;
	assert_int_equal(store_region_open(alice, id, &req, &got), -ENOENT);
	req.generation = 0;
	assert_int_equal(store_region_open(alice, id, &req, &got), 0);
	req.generation = got.generation + 1;
	assert_int_equal(store_region_open(alice, id, &req, &got), -ENOENT);
	req.generation = got.generation;
	req.flags |= GVM_RO_EXCL;
	assert_int_equal(store_region_open(alice, id, &req, &got), 0);
}

static void refuses_requests_that_make_no_sense(void **state)
{
	struct gvm_region_open ok = request("vm", 100, GVM_RO_CREATE), r;
	uint64_t id = id_of("vm");

#define REFUSED(change)                                                                            \
	do {                                                                                       \
		r = ok;                                                                            \
		change;                                                                            \
		assert_int_equal(store_region_open(alice, id, &r, &got), -EINVAL);                 \
	} while (0)
	REFUSED(r.name[0] = '/');
	REFUSED(r.name[0] = 'x'); /* not the name that the id goes with */
	REFUSED(r.page_size = 8192);
	REFUSED(r.slab_pages = 0);
	REFUSED(r.slab_pages = 17);
	REFUSED(r.slab_pages = 8);
	REFUSED(r.slab_pages = STORE_SLAB_PAGES_MAX * 2);
	REFUSED(r.slab_pages = 1u << 31);
	REFUSED(r.pages = 0);
	REFUSED(r.pages = UINT64_MAX);
	REFUSED(r.pages = STORE_PAGES_MAX + 1);
	REFUSED(r.share_slabs = 8);
	REFUSED(r.share_slabs = UINT64_MAX);
	REFUSED(r.flags = 0x10);
#undef REFUSED
	assert_int_equal(stats().regions, 0);
	assert_int_equal(stats().reserved_bytes, 0);
}

static void a_deleted_slab_stays_until_its_transfer_ends(void **state)
{
	struct gvm_mem *mem;

	assert_int_equal(open_region(alice, "vm", 16, GVM_RO_CREATE), 0);
	mem = fake_mem(grant(alice, "vm", 0));
	mem->pinned = 1;
	assert_int_equal(store_region_delete(alice, id_of("vm")), 0);
	memset(mem->base, 1, SLAB); /* still mapped */
	assert_int_equal(stats().stored_bytes, SLAB);
	fake_unpin(mem);
	assert_int_equal(stats().stored_bytes, 0);
}

/* ---- space --------------------------------------------------------------------------------- */

static void promises_no_more_than_it_has(void **state)
{
	assert_int_equal(open_region(alice, "a", 60 * SLAB_PAGES, GVM_RO_CREATE), 0);
	assert_int_equal(open_region(alice, "b", 5 * SLAB_PAGES, GVM_RO_CREATE), -ENOSPC);
	assert_non_null(strstr(fake_log, "region b: no room"));
	assert_non_null(strstr(fake_log, "--memory"));
	assert_int_equal(store_session_full(alice), GVM_FULL_MEMORY);
	store_session_patience(alice, 0); /* as before each request */
	assert_int_equal(store_session_full(alice), GVM_FULL_UNKNOWN);
	assert_int_equal(open_region(alice, "b", 4 * SLAB_PAGES, GVM_RO_CREATE), 0);
	assert_int_equal(stats().reserved_bytes, 64 * SLAB);
	assert_int_equal(stats().stored_bytes, 0);
	assert_int_equal(store_region_delete(alice, id_of("a")), 0);
	assert_int_equal(open_region(alice, "c", 60 * SLAB_PAGES, GVM_RO_CREATE), 0);
	assert_int_equal(stats().refused_space, 1);
}

static void a_huge_region_with_a_small_share_is_fine(void **state)
{
	struct gvm_region_open req = request("big", STORE_PAGES_MAX, GVM_RO_CREATE);
	struct gvm_slab_entry e;
	uint64_t last = STORE_PAGES_MAX / SLAB_PAGES - 1;

	req.share_slabs = STORE_PAGES_MAX / SLAB_PAGES;
	assert_int_equal(store_region_open(alice, id_of("big"), &req, &got), -ENOSPC);
	req.share_slabs = 2;
	assert_int_equal(store_region_open(alice, id_of("big"), &req, &got), 0);
	grant(alice, "big", last);
	grant(alice, "big", 0);
	assert_int_equal(store_slab_grant(alice, id_of("big"), 5, &e), -ENOSPC);
	assert_non_null(strstr(fake_log, "share"));
	assert_int_equal(store_slab_grant(alice, id_of("big"), last + 1, &e), -ERANGE);
	assert_int_equal(store_slab_grant(alice, id_of("big"), UINT64_MAX, &e), -ERANGE);
}

static void overcommit_promises_more_but_stores_no_more(void **state)
{
	struct store_config c = config();
	struct gvm_slab_entry e;

	c.limit = 2 * c.memory;
	restart(&c);
	assert_int_equal(open_region(alice, "a", 100 * SLAB_PAGES, GVM_RO_CREATE), 0);
	for (int i = 0; i < 64; i++)
		grant(alice, "a", i);
	assert_int_equal(store_slab_grant(alice, id_of("a"), 64, &e), -ENOSPC);
	assert_non_null(strstr(fake_log, "full"));
	assert_int_equal(store_session_full(alice), GVM_FULL_MEMORY);
	assert_int_equal(stats().stored_bytes, 64 * SLAB);
}

static void a_region_quota_bounds_each_region(void **state)
{
	struct store_config c = config();

	c.region_quota = 10 * SLAB;
	restart(&c);
	assert_int_equal(open_region(alice, "a", 11 * SLAB_PAGES, GVM_RO_CREATE), -ENOSPC);
	assert_non_null(strstr(fake_log, "--region-quota"));
	assert_int_equal(store_session_full(alice), GVM_FULL_QUOTA);
	assert_int_equal(open_region(alice, "a", 10 * SLAB_PAGES, GVM_RO_CREATE), 0);
}

static void regions_and_sessions_are_bounded(void **state)
{
	struct session *more[10];
	char name[8];

	for (int i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "r%d", i);
		assert_int_equal(open_region(i % 2 ? alice : bob, name, 1, GVM_RO_CREATE), 0);
	}
	assert_int_equal(open_region(alice, "r10", 1, GVM_RO_CREATE), -EUSERS);
	assert_string_equal(fake_log, "no further region for alice: there are 10; raise "
				      "--max-regions, or delete regions (gvm region)");
	assert_int_equal(clone(alice, "r1", "r10", 0), -EUSERS);
	for (int i = 0; i < 8; i++)
		assert_int_equal(store_session_open(store, 9, "more", &more[i]), 0);
	assert_int_equal(store_session_open(store, 9, "more", &more[9]), -EUSERS);
	for (int i = 0; i < 8; i++)
		store_session_close(more[i]);
}

/* With regions that cost nothing, for as long as it may: others still get theirs, and it does not
 * last. */
static void one_client_does_not_lock_the_others_out(void **state)
{
	struct gvm_region_open req = request("", 1, GVM_RO_CREATE | GVM_RO_EPHEMERAL);
	struct session *again;

	req.linger_ms = UINT32_MAX;
	req.share_slabs = 0;
	for (int i = 0; i < 4; i++) {
		snprintf(req.name, sizeof(req.name), "r%d", i);
		assert_int_equal(store_region_open(alice, id_of(req.name), &req, &got), 0);
	}
	/* a clone counts as its until another opens it */
	assert_int_equal(clone(alice, "r0", "c", GVM_RO_EPHEMERAL), 0);
	assert_int_equal(open_region(alice, "x", 1, GVM_RO_CREATE), -EUSERS);
	assert_string_equal(fake_log,
			    "no further region for alice: it has 5, and one client may have "
			    "half of --max-regions (10)");
	assert_int_equal(open_region(bob, "c", 0, GVM_RO_EPHEMERAL), 0);
	assert_int_equal(open_region(alice, "x", 1, GVM_RO_CREATE), 0);
	assert_int_equal(clone(alice, "r0", "d", GVM_RO_EPHEMERAL), -EUSERS);
	store_session_close(alice);
	assert_int_equal(store_session_open(store, ALICE, "alice", &again), 0);
	alice = again;
	assert_int_equal(open_region(alice, "y", 1, GVM_RO_CREATE), -EUSERS);
	for (int i = 0; i < 4; i++) {
		snprintf(req.name, sizeof(req.name), "b%d", i);
		assert_int_equal(open_region(bob, req.name, 1, GVM_RO_CREATE), 0);
	}
	fake_clock += 10 * 60 * SEC - 1;
	store_tick(store);
	assert_int_equal(stats().regions, 10);
	fake_clock += 1;
	store_tick(store);
	assert_int_equal(stats().regions, 6);
	assert_int_equal(open_region(alice, "y", 1, GVM_RO_CREATE), 0);
}

/* As often as it likes: whatever a client can cause is a line whose number is bounded. */
static void no_client_floods_the_log(void **state)
{
	struct session *second;

	fake_log_unbounded = 0;
	store_session_view(alice, 1);
	assert_int_equal(open_region(alice, "vm", 16, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
	assert_int_equal(
	    store_region_resize(alice, id_of("vm"), UINT64_C(1) << 40, UINT64_C(1) << 36), -ENOSPC);
	assert_int_equal(store_region_resize(alice, id_of("vm"), 100 * SLAB_PAGES, 100), -ENOSPC);
	assert_int_equal(open_region(alice, "vm", 32, 0), -EINVAL);
	for (int i = 0; i < 4; i++)
		assert_int_equal(
		    open_region(alice, (char[]){ 'r', (char)('0' + i), 0 }, 1, GVM_RO_CREATE), 0);
	assert_int_equal(open_region(alice, "r4", 1, GVM_RO_CREATE), -EUSERS);
	fake_log[0] = 0;
	assert_int_equal(store_session_open(store, ALICE, "alice 2", &second), 0);
	store_session_view(second, 1);
	assert_int_equal(open_region(second, "vm", 16, 0), 0);
	assert_non_null(strstr(fake_log, "comes back"));
	store_session_close(second);
	fake_clock += 30 * SEC;
	store_tick(store);
	assert_string_equal(fake_log,
			    "region vm: deleted, with 0 KiB stored of 64: its client (alice "
			    "2) lost its connections and did not come back in 30 s");
	assert_int_equal(fake_log_unbounded, 0);
}

/* No address space for a slab, no registration: an answer, and everything goes on. */
static void survives_running_out_of_memory(void **state)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	struct rlimit old, tight;
	struct store_config c = config();
#endif
	struct gvm_slab_entry e;
	uint64_t key;

	assert_int_equal(open_region(alice, "vm", 32, GVM_RO_CREATE), 0);
	fake_register_fails = 1;
	assert_int_equal(store_slab_grant(alice, id_of("vm"), 0, &e), -ENOMEM);
	fake_register_fails = 0;
	key = grant(alice, "vm", 0);
	write_page(key, ALICE, 0, 9);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	c.memory = c.limit = UINT64_C(4) << 30;
	restart(&c);
	struct gvm_region_open req = request("big", 4 << 14, GVM_RO_CREATE);
	req.slab_pages = 1 << 14; /* 64 MiB, which malloc does not have spare */
	req.share_slabs = 4;
	assert_int_equal(store_region_open(alice, id_of("big"), &req, &got), 0);
	getrlimit(RLIMIT_AS, &old);
	tight = old;
	tight.rlim_cur = 64 << 20;
	setrlimit(RLIMIT_AS, &tight);
	assert_int_equal(store_slab_grant(alice, id_of("big"), 1, &e), -ENOMEM);
	assert_non_null(strstr(fake_log, "no memory for a slab"));
	setrlimit(RLIMIT_AS, &old);
	assert_int_equal(stats().stored_bytes, 0);
	grant(alice, "big", 1);
#endif
}

/* ---- slabs --------------------------------------------------------------------------------- */

static void a_slab_never_written_is_not_there(void **state)
{
	struct gvm_slab_entry e[4];
	uint32_t n;
	int more;

	assert_int_equal(open_region(alice, "vm", 64 * SLAB_PAGES, GVM_RO_CREATE), 0);
	assert_int_equal(store_slab_list(alice, id_of("vm"), 0, 4, e, &n, &more), 0);
	assert_int_equal(n, 0);
	assert_int_equal(more, 0);
	for (int i = 0; i < 10; i += 2)
		grant(alice, "vm", i);
	assert_int_equal(store_slab_list(alice, id_of("vm"), 1, 3, e, &n, &more), 0);
	assert_int_equal(n, 3);
	assert_int_equal(more, 1);
	assert_int_equal(e[0].slab, 2);
	assert_int_equal(e[2].slab, 6);
	assert_int_equal(store_slab_list(alice, id_of("vm"), 7, 3, e, &n, &more), 0);
	assert_int_equal(n, 1);
	assert_int_equal(more, 0);
	assert_int_equal(store_slab_list(alice, id_of("vm"), UINT64_MAX, 3, e, &n, &more), 0);
	assert_int_equal(n, 0);
	assert_int_equal(grant(alice, "vm", 2), grant(alice, "vm", 2));
}

/* The last slab's key ends where the region does. */
static void keys_reach_no_further_than_the_region(void **state)
{
	uint64_t key;

	assert_int_equal(open_region(alice, "vm", SLAB_PAGES + 3, GVM_RO_CREATE), 0);
	key = grant(alice, "vm", 1);
	write_page(key, ALICE, 2, 1);
	assert_null(fake_get(key, ALICE, GVM_ACCESS_PUT, 3 * 4096, 1));
	assert_null(fake_get(key, ALICE, GVM_ACCESS_PUT, 0, 3 * 4096 + 1));
	assert_null(fake_get(key, ALICE, GVM_ACCESS_PUT, UINT64_MAX, 2));
}

static void discarded_pages_are_zeros(void **state)
{
	const struct gvm_page_run runs[] = { { 2, 3 }, { SLAB_PAGES - 1, 2 } };
	struct gvm_page_run bad = { 0, 0 };
	uint64_t id = id_of("vm"), key;

	assert_int_equal(open_region(alice, "vm", 2 * SLAB_PAGES + 4, GVM_RO_CREATE), 0);
	for (int s = 0; s < 2; s++) {
		key = grant(alice, "vm", s);
		for (unsigned p = 0; p < SLAB_PAGES; p++)
			write_page(key, ALICE, p, 0x50 + p);
	}
	assert_int_equal(store_discard(alice, id, runs, 2), 0);
	for (unsigned p = 0; p < 2 * SLAB_PAGES; p++) {
		int gone = (p >= 2 && p < 5) || p == SLAB_PAGES - 1 || p == SLAB_PAGES;

		assert_int_equal(page_of(alice, ALICE, "vm", p), gone ? 0 : 0x50 + p % SLAB_PAGES);
	}
	assert_int_equal(stats().discarded_pages, 5);
	assert_int_equal(stats().slabs, 2);
#define REFUSED(p, n, why)                                                                         \
	do {                                                                                       \
		bad = (struct gvm_page_run){ p, n };                                               \
		assert_int_equal(store_discard(alice, id, &bad, 1), why);                          \
	} while (0)
	REFUSED(0, 0, -ERANGE);
	REFUSED(2 * SLAB_PAGES + 4, 1, -ERANGE);
	REFUSED(0, 2 * SLAB_PAGES + 5, -ERANGE);
	REFUSED(1, UINT64_MAX, -ERANGE);
	REFUSED(UINT64_MAX, 2, -ERANGE);
#undef REFUSED
	/* one bad run: nothing is touched */
	const struct gvm_page_run mixed[] = { { 0, 1 }, { UINT64_MAX, 1 } };
	assert_int_equal(store_discard(alice, id, mixed, 2), -ERANGE);
	assert_int_equal(page_of(alice, ALICE, "vm", 0), 0x50);
	const struct gvm_page_run twice[] = { { 0, 36 }, { 0, 36 } };
	assert_int_equal(store_discard(alice, id, twice, 2), -EINVAL);
}

static void a_slab_that_is_discarded_whole_is_gone(void **state)
{
	const struct gvm_page_run all = { 0, SLAB_PAGES + 4 };
	uint64_t key;
	int ro;

	assert_int_equal(open_region(alice, "vm", SLAB_PAGES + 4, GVM_RO_CREATE), 0);
	key = grant(alice, "vm", 0);
	grant(alice, "vm", 1);
	assert_int_equal(store_discard(alice, id_of("vm"), &all, 1), 0);
	assert_int_equal(listed(alice, "vm", 0, &ro), 0);
	assert_int_equal(listed(alice, "vm", 1, &ro), 0);
	assert_int_equal(stats().stored_bytes, 0);
	assert_null(fake_get(key, ALICE, GVM_ACCESS_PUT, 0, 1));
	assert_int_equal(read_page(grant(alice, "vm", 0), ALICE, 0), 0);
}

static void resizes(void **state)
{
	uint64_t id = id_of("vm"), key;
	int ro;

	assert_int_equal(open_region(alice, "vm", 3 * SLAB_PAGES, GVM_RO_CREATE), 0);
	for (int s = 0; s < 3; s++)
		for (unsigned p = 0; p < SLAB_PAGES; p++)
			write_page(grant(alice, "vm", s), ALICE, p, 0x20 + s);
	assert_int_equal(store_region_resize(alice, id, SLAB_PAGES + 5, 2), 0);
	assert_int_equal(stats().reserved_bytes, 2 * SLAB);
	assert_int_equal(stats().stored_bytes, 2 * SLAB);
	key = listed(alice, "vm", 1, &ro);
	assert_null(fake_get(key, ALICE, GVM_ACCESS_PUT, 5 * 4096, 1));
	assert_int_equal(store_region_resize(alice, id, 3 * SLAB_PAGES, 3), 0);
	assert_int_equal(page_of(alice, ALICE, "vm", SLAB_PAGES + 4), 0x21);
	assert_int_equal(page_of(alice, ALICE, "vm", SLAB_PAGES + 5), 0);
	assert_int_equal(page_of(alice, ALICE, "vm", 2 * SLAB_PAGES), 0);
	assert_int_equal(store_region_resize(alice, id, 0, 0), -EINVAL);
	assert_int_equal(store_region_resize(alice, id, UINT64_MAX, 1), -EINVAL);
	assert_int_equal(store_region_resize(alice, id, 3 * SLAB_PAGES, 4), -EINVAL);
	assert_int_equal(store_region_resize(alice, id, 3 * SLAB_PAGES, 1), -EINVAL);
	assert_int_equal(store_region_resize(alice, id, 65 * SLAB_PAGES, 65), -ENOSPC);
	assert_int_equal(open_region(alice, "vm", 0, 0), 0);
	assert_int_equal(got.pages, 3 * SLAB_PAGES);
}

/* ---- clones -------------------------------------------------------------------------------- */

static void a_clone_and_its_source_go_their_own_ways(void **state)
{
	struct session *child;
	uint64_t old, key;
	int ro;

	assert_int_equal(store_session_open(store, 1234, "child", &child), 0);
	assert_int_equal(open_region(alice, "vm", 3 * SLAB_PAGES, GVM_RO_CREATE), 0);
	old = grant(alice, "vm", 0);
	write_page(old, ALICE, 0, 0xA0);
	write_page(grant(alice, "vm", 1), ALICE, 0, 0xA1);
	assert_int_equal(clone(alice, "vm", "fork", GVM_RO_EPHEMERAL), 0);
	assert_int_equal(got.slabs_used, 2);
	assert_int_equal(stats().stored_bytes, 2 * SLAB);
	assert_int_equal(stats().reserved_bytes, 5 * SLAB);
	/* the old key is worth nothing, the new one reads */
	assert_null(fake_get(old, ALICE, GVM_ACCESS_FETCH, 0, 1));
	key = listed(alice, "vm", 0, &ro);
	assert_int_equal(ro, 1);
	assert_null(fake_get(key, ALICE, GVM_ACCESS_PUT, 0, 1));
	assert_int_equal(read_page(key, ALICE, 0), 0xA0);

	assert_int_equal(open_region(child, "fork", 0, 0), 0);
	assert_int_equal(page_of(child, 1234, "fork", 0), 0xA0);
	write_page(grant(alice, "vm", 0), ALICE, 0, 0xB0);
	assert_int_equal(stats().copies, 1);
	assert_int_equal(stats().stored_bytes, 3 * SLAB);
	assert_int_equal(page_of(alice, ALICE, "vm", 0), 0xB0);
	assert_int_equal(page_of(child, 1234, "fork", 0), 0xA0);
	/* the child is alone with it now: no copy */
	write_page(grant(child, "fork", 0), 1234, 0, 0xC0);
	assert_int_equal(stats().copies, 1);
	write_page(grant(child, "fork", 2), 1234, 0, 0xC2);
	assert_int_equal(page_of(alice, ALICE, "vm", 2 * SLAB_PAGES), 0);
	/* the source goes, the child's pages stay */
	assert_int_equal(store_region_delete(alice, id_of("vm")), 0);
	assert_int_equal(page_of(child, 1234, "fork", 0), 0xC0);
	assert_int_equal(page_of(child, 1234, "fork", SLAB_PAGES), 0xA1);
	assert_int_equal(store_region_close(child, id_of("fork")), 0);
	assert_int_equal(stats().stored_bytes, 0);
	assert_int_equal(stats().reserved_bytes, 0);
	store_session_close(child);
}

static void a_clone_waits_for_its_child(void **state)
{
	assert_int_equal(open_region(alice, "vm", SLAB_PAGES, GVM_RO_CREATE), 0);
	grant(alice, "vm", 0);
	assert_int_equal(clone(alice, "vm", "one", GVM_RO_EPHEMERAL), 0);
	fake_clock += SEC - 1;
	store_tick(store);
	assert_int_equal(open_region(bob, "one", 0, 0), 0);
	assert_int_equal(clone(alice, "vm", "two", GVM_RO_EPHEMERAL), 0);
	fake_clock += SEC;
	store_tick(store);
	assert_int_equal(open_region(bob, "two", 0, 0), -ENOENT);
	fake_clock += 100 * SEC;
	store_tick(store);
	assert_int_equal(stats().regions, 2);
	assert_int_equal(clone(alice, "vm", "three", 0), 0);
	fake_clock += 100 * SEC;
	store_tick(store);
	assert_int_equal(open_region(bob, "three", 0, 0), 0);
}

static void a_clone_asked_for_again_is_the_same_if_nothing_has_changed(void **state)
{
	uint64_t generation;

	assert_int_equal(open_region(alice, "vm", SLAB_PAGES, GVM_RO_CREATE), 0);
	grant(alice, "vm", 0);
	assert_int_equal(clone(alice, "vm", "fork", GVM_RO_EPHEMERAL), 0);
	generation = got.generation;
	assert_int_equal(clone(alice, "vm", "fork", GVM_RO_EPHEMERAL), 0);
	assert_int_equal(got.generation, generation);
	grant(alice, "vm", 0);
	assert_int_equal(clone(alice, "vm", "fork", GVM_RO_EPHEMERAL), -EEXIST);
	assert_int_equal(clone(alice, "vm", "vm", 0), -EEXIST);
}

static void a_clone_reserves_the_worst_case(void **state)
{
	assert_int_equal(open_region(alice, "vm", 40 * SLAB_PAGES, GVM_RO_CREATE), 0);
	for (int i = 0; i < 30; i++)
		grant(alice, "vm", i);
	assert_int_equal(clone(alice, "vm", "fork", 0), -ENOSPC);
	assert_int_equal(stats().regions, 1);
	assert_int_equal(stats().reserved_bytes, 40 * SLAB);
	assert_int_equal(open_region(alice, "vm", 0, 0), 0);
	/* less is used: it fits, and grows slab by slab until nothing is left */
	const struct gvm_page_run half = { 0, 10 * SLAB_PAGES };
	assert_int_equal(store_discard(alice, id_of("vm"), &half, 1), 0);
	assert_int_equal(clone(alice, "vm", "fork", 0), 0);
	assert_int_equal(open_region(alice, "fork", 0, 0), 0);
	assert_int_equal(stats().reserved_bytes, 60 * SLAB);
	for (int i = 0; i < 4; i++)
		grant(alice, "fork", i);
	struct gvm_slab_entry e;
	assert_int_equal(store_slab_grant(alice, id_of("fork"), 4, &e), -ENOSPC);
	/* what was reserved for copies is there */
	for (int i = 10; i < 30; i++)
		grant(alice, "fork", i);
	assert_int_equal(stats().copies, 20);
}

static void discards_of_shared_slabs_stay_private(void **state)
{
	const struct gvm_page_run part = { 1, 2 }, whole = { 0, SLAB_PAGES };

	assert_int_equal(open_region(alice, "vm", 2 * SLAB_PAGES, GVM_RO_CREATE), 0);
	for (unsigned p = 0; p < SLAB_PAGES; p++)
		write_page(grant(alice, "vm", 0), ALICE, p, 0x70 + p);
	assert_int_equal(clone(alice, "vm", "a", 0), 0);
	assert_int_equal(clone(alice, "vm", "b", 0), 0);
	assert_int_equal(open_region(bob, "a", 0, 0), 0);
	assert_int_equal(open_region(bob, "b", 0, 0), 0);
	assert_int_equal(store_discard(bob, id_of("a"), &part, 1), 0);
	assert_int_equal(store_discard(bob, id_of("b"), &whole, 1), 0);
	assert_int_equal(page_of(bob, BOB, "a", 0), 0x70);
	assert_int_equal(page_of(bob, BOB, "a", 1), 0);
	assert_int_equal(page_of(bob, BOB, "a", 3), 0x73);
	assert_int_equal(page_of(bob, BOB, "b", 0), 0);
	for (unsigned p = 0; p < SLAB_PAGES; p++)
		assert_int_equal(page_of(alice, ALICE, "vm", p), 0x70 + p);
	assert_int_equal(stats().stored_bytes, 2 * SLAB);
}

/* ---- the rest ------------------------------------------------------------------------------ */

static void lists_regions(void **state)
{
	struct gvm_region_entry e[4];
	uint64_t shown;
	int more;

	assert_int_equal(open_region(alice, "a", 16, GVM_RO_CREATE), 0);
	assert_int_equal(open_region(alice, "b", 16, GVM_RO_CREATE | GVM_RO_EPHEMERAL), 0);
	assert_int_equal(open_region(bob, "c", 16, GVM_RO_CREATE), 0);
	store_region_close(bob, id_of("c"));
	grant(alice, "b", 0);
	assert_int_equal(store_region_list(store, 0, 2, e, &more), 2);
	assert_int_equal(more, 1);
	assert_string_equal(e[1].name, "b");
	/* who holds both can be seen, and not who it is: whoever knows that is that client */
	shown = e[1].holder;
	assert_int_equal(e[0].holder, shown);
	assert_int_not_equal(shown, 0);
	assert_int_not_equal(shown, ALICE);
	assert_int_equal(e[1].flags, GVM_RO_EPHEMERAL);
	assert_int_equal(e[1].slabs_used, 1);
	assert_int_equal(e[1].sessions, 1);
	assert_int_equal(store_region_list(store, 2, 2, e, &more), 1);
	assert_int_equal(more, 0);
	assert_string_equal(e[0].name, "c");
	assert_int_equal(e[0].holder, 0);
	assert_int_equal(store_region_list(store, UINT64_MAX, 2, e, &more), 0);
	/* nor is it the same on every node, which would be one table for all of them */
	assert_int_equal(open_region(bob, "c", 16, 0), 0);
	assert_int_equal(store_region_list(store, 2, 1, e, &more), 1);
	assert_int_not_equal(e[0].holder, 0);
	assert_int_not_equal(e[0].holder, shown);
	restart(&(struct store_config){ .incarnation = 78,
					.memory = SLAB,
					.limit = SLAB,
					.max_regions = 10,
					.max_sessions = 10 });
	assert_int_equal(open_region(alice, "a", 16, GVM_RO_CREATE), 0);
	assert_int_equal(store_region_list(store, 0, 1, e, &more), 1);
	assert_int_not_equal(e[0].holder, shown);
}

static void draining_refuses_what_is_new(void **state)
{
	assert_int_equal(open_region(alice, "vm", 32, GVM_RO_CREATE), 0);
	store_drain(store);
	assert_int_equal(open_region(bob, "other", 16, GVM_RO_CREATE), -ESHUTDOWN);
	assert_int_equal(open_region(alice, "vm", 32, 0), -ESHUTDOWN);
	assert_int_equal(clone(alice, "vm", "fork", 0), -ESHUTDOWN);
	grant(alice, "vm", 1);
	assert_int_equal(store_sessions(store), 1);
}

/* A page never written costs nothing; one that was costs 4 KiB; a full slab may become huge. */
static uint64_t resident_kb(void)
{
#ifdef __SANITIZE_THREAD__
	return 0; /* its shadow of what we touch is counted too */
#endif
	char line[256];
	unsigned long kb = 0;
	FILE *f = fopen("/proc/self/smaps_rollup", "r");

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "Anonymous: %lu", &kb) == 1)
			break;
	fclose(f);
	return kb;
}

/* Does reading what was never written leave the kernel's one page of zeros there? Some kernels for
 * guests have none (pvm_no_zero_page=1) and give each reader memory of its own. */
static int kernel_has_page_of_zeros(void)
{
	volatile char *p =
	    mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(*p, 0);
	if (fd >= 0 && pread(fd, &entry, 8, (off_t)((uintptr_t)p / 4096 * 8)) != 8)
		entry = 0;
	if (fd >= 0)
		close(fd);
	munmap((void *)p, 4096);
	return !(entry >> 56 & 1); /* mapped here alone */
}

static void pages_never_written_cost_nothing(void **state)
{
	struct store_config c = config();
	struct gvm_region_open req;
	uint64_t before, key;
	int step = 1;

	c.memory = c.limit = 256 << 20;
	c.huge = HUGE_AUTO;
	restart(&c);
	req = request("big", 4 * 4096, GVM_RO_CREATE);
	req.slab_pages = 4096;
	req.share_slabs = 4;
	assert_int_equal(store_region_open(alice, id_of("big"), &req, &got), 0);
	before = resident_kb();
	key = grant(alice, "big", 0);
	for (int i = 0; i < 8; i++)
		write_page(key, ALICE, i * 512, 1);
	if (!kernel_has_page_of_zeros()) {
		print_message("this kernel has no page of zeros: what reading costs is not seen\n");
		step = 512;
	}
	for (int i = 0; i < 4096; i += step) /* reading puts the page of zeros in place */
		assert_int_equal(read_page(key, ALICE, i), i % 512 == 0);
	for (int i = 0; i < 20; i++)
		store_tick(store);
	assert_int_equal(stats().huge_bytes, 0);
	assert_true(resident_kb() - before < 1024);
	for (int i = 0; i < 4096; i++)
		write_page(key, ALICE, i, 1 + i % 200);
	for (int i = 0; i < 20; i++)
		store_tick(store);
	for (int i = 0; i < 4096; i++)
		assert_int_equal(read_page(key, ALICE, i), 1 + i % 200);
	if (!stats().huge_bytes)
		print_message("no huge pages on request here: %s\n", fake_log);
	const struct gvm_page_run run = { 10, 4000 };
	assert_int_equal(store_discard(alice, id_of("big"), &run, 1), 0);
	assert_true(resident_kb() - before < 2048 + 512);
	assert_int_equal(stats().huge_bytes, 0);
	assert_int_equal(read_page(key, ALICE, 9), 10);
	assert_int_equal(read_page(key, ALICE, 10), 0);
	assert_int_equal(read_page(key, ALICE, 4010), 11);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, start, stop)
	const struct CMUnitTest tests[] = {
		T(creates_and_opens),
		T(opens_by_generation),
		T(refuses_requests_that_make_no_sense),
		T(a_deleted_slab_stays_until_its_transfer_ends),
		T(promises_no_more_than_it_has),
		T(a_huge_region_with_a_small_share_is_fine),
		T(overcommit_promises_more_but_stores_no_more),
		T(a_region_quota_bounds_each_region),
		T(regions_and_sessions_are_bounded),
		T(one_client_does_not_lock_the_others_out),
		T(no_client_floods_the_log),
		T(survives_running_out_of_memory),
		T(a_slab_never_written_is_not_there),
		T(keys_reach_no_further_than_the_region),
		T(discarded_pages_are_zeros),
		T(a_slab_that_is_discarded_whole_is_gone),
		T(resizes),
		T(a_clone_and_its_source_go_their_own_ways),
		T(a_clone_waits_for_its_child),
		T(a_clone_asked_for_again_is_the_same_if_nothing_has_changed),
		T(a_clone_reserves_the_worst_case),
		T(discards_of_shared_slabs_stay_private),
		T(lists_regions),
		T(draining_refuses_what_is_new),
		T(pages_never_written_cost_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
