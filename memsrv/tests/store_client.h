/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the tests of the store share: a store with two clients, Alice and Bob, who have a session
 * each, and what they do in one line. For one test program each, so everything is static.
 */
#ifndef MEMSRV_TESTS_STORE_CLIENT_H
#define MEMSRV_TESTS_STORE_CLIENT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fake.h"
#include "store.h"

#define SLAB_PAGES 16u /* 64 KiB */
#define SLAB       (SLAB_PAGES * GVM_PAGE_SIZE)
#define SEC        UINT64_C(1000000000)
#define ALICE      UINT64_C(0xA11CE)
#define BOB        UINT64_C(0xB0B)

static struct store *store;
static struct session *alice, *bob;

static struct store_config config(void)
{
	return (struct store_config){ .incarnation = 77,
				      .memory = 64 * SLAB,
				      .limit = 64 * SLAB,
				      .max_regions = 10,
				      .max_sessions = 10 };
}

static void start_with(const struct store_config *c)
{
	assert_int_equal(store_open(c, &store), 0);
	assert_int_equal(store_session_open(store, ALICE, "alice", &alice), 0);
	assert_int_equal(store_session_open(store, BOB, "bob", &bob), 0);
}

static int start(void **state)
{
	struct store_config c = config();

	fake_log[0] = 0;
	start_with(&c);
	return 0;
}

static int stop(void **state)
{
	if (alice)
		store_session_close(alice);
	if (bob)
		store_session_close(bob);
	store_close(store);
	assert_null(fake_mems);
	return 0;
}

static inline void restart(const struct store_config *c)
{
	stop(NULL);
	start_with(c);
}

static struct gvm_region_open request(const char *name, uint64_t pages, uint32_t flags)
{
	struct gvm_region_open req = { .pages = pages,
				       .share_slabs = (pages + SLAB_PAGES - 1) / SLAB_PAGES,
				       .slab_pages = SLAB_PAGES,
				       .page_size = GVM_PAGE_SIZE,
				       .flags = flags,
				       .linger_ms = 30000 };

	snprintf(req.name, sizeof(req.name), "%s", name);
	return req;
}

static uint64_t id_of(const char *name)
{
	return __wrap_gvm_region_id_of(name);
}

static struct gvm_region_opened got;

static int open_region(struct session *s, const char *name, uint64_t pages, uint32_t flags)
{
	struct gvm_region_open req = request(name, pages, flags);

	return store_region_open(s, id_of(name), &req, &got);
}

static inline uint64_t grant(struct session *s, const char *name, uint64_t slab)
{
	struct gvm_slab_entry e = { 0 };

	assert_int_equal(store_slab_grant(s, id_of(name), slab, &e), 0);
	assert_int_equal(e.slab, slab);
	assert_int_not_equal(e.key, 0);
	return e.key;
}

/* The key that the list gives for a slab; 0: the slab is not in it. */
static inline uint64_t listed(struct session *s, const char *name, uint64_t slab, int *readonly)
{
	struct gvm_slab_entry e[512];
	uint32_t count;
	int more;

	assert_int_equal(store_slab_list(s, id_of(name), 0, 512, e, &count, &more), 0);
	for (uint32_t i = 0; i < count; i++)
		if ((e[i].slab & ~GVM_SLAB_READONLY) == slab) {
			*readonly = !!(e[i].slab & GVM_SLAB_READONLY);
			return e[i].key;
		}
	return 0;
}

static inline void write_page(uint64_t key, uint64_t owner, uint64_t page, int byte)
{
	uint8_t *at = fake_get(key, owner, GVM_ACCESS_PUT, page * 4096, 4096);

	assert_non_null(at);
	memset(at, byte, 4096);
}

/* The page's one byte value, or -1. */
static inline int read_page(uint64_t key, uint64_t owner, uint64_t page)
{
	uint8_t *at = fake_get(key, owner, GVM_ACCESS_FETCH, page * 4096, 4096);

	if (!at)
		return -1;
	for (int i = 1; i < 4096; i++)
		assert_int_equal(at[i], at[0]);
	return at[0];
}

static inline int page_of(struct session *s, uint64_t owner, const char *name, uint64_t page)
{
	int ro;
	uint64_t key = listed(s, name, page / SLAB_PAGES, &ro);

	return key ? read_page(key, owner, page % SLAB_PAGES) : 0;
}

static inline int clone(struct session *s, const char *from, const char *to, uint32_t flags)
{
	struct gvm_region_clone req = { .id = id_of(to), .flags = flags, .linger_ms = 1000 };

	snprintf(req.name, sizeof(req.name), "%s", to);
	return store_region_clone(s, id_of(from), &req, &got);
}

static struct store_stats stats(void)
{
	struct store_stats st;

	store_stats(store, &st);
	return st;
}

#endif
