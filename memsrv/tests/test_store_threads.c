/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The store under several threads that want the same regions at the same time, with the library's
 * own registrations: each region has one holder, no page of one client shows up at another, an
 * earlier connection of a client that has come back is out, and nothing is left in the end. For
 * the thread sanitizer above all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include <gvmnet/region.h>

#include "store.h"

#define THREADS    4
#define ROUNDS     1500
#define SLAB_PAGES 16u
#define SLABS      8u

static struct store *store;
static _Atomic uint64_t holder[3]; /* who believes to hold the region */
static _Atomic unsigned opened, refused, waiting, wrong, changes, endings;

static struct gvm_region_open request(const char *name, uint32_t flags)
{
	struct gvm_region_open req = { .pages = SLABS * SLAB_PAGES,
				       .share_slabs = SLABS,
				       .slab_pages = SLAB_PAGES,
				       .page_size = GVM_PAGE_SIZE,
				       .flags = flags };

	snprintf(req.name, sizeof(req.name), "%s", name);
	return req;
}

static void use(struct session *s, uint64_t id, unsigned me, unsigned *seed)
{
	struct gvm_slab_entry entries[SLABS];
	struct gvm_page_run run = { (uint64_t)rand_r(seed) % (SLABS * SLAB_PAGES), 1 };
	struct gvm_region_clone clone = { .flags = GVM_RO_EPHEMERAL, .linger_ms = 60000 };
	struct gvm_region_opened out;
	uint32_t count;
	int more;

	for (int i = 0; i < 6; i++)
		wrong += store_slab_grant(s, id, (uint64_t)rand_r(seed) % SLABS, entries) != 0;
	wrong += store_discard(s, id, &run, 1) != 0;
	snprintf(clone.name, sizeof(clone.name), "clone-%u", me);
	clone.id = gvm_region_id_of(clone.name);
	wrong += store_region_clone(s, id, &clone, &out) != 0;
	wrong += store_slab_list(s, id, 0, SLABS, entries, &count, &more) != 0 || more;
	for (uint32_t i = 0; i < count; i++)
		wrong += !(entries[i].slab & GVM_SLAB_READONLY);
	wrong += store_slab_grant(s, id, (uint64_t)rand_r(seed) % SLABS, entries) != 0;
	wrong += store_region_delete(s, clone.id) != 0;
}

/* The same client on another connection; the one before is of no use from then on. */
static struct session *come_back(struct session *before, const struct gvm_region_open *req,
				 uint64_t id, unsigned me)
{
	struct gvm_region_open again = *req;
	struct gvm_slab_entry entry;
	struct gvm_region_opened out;
	struct session *s;

	again.flags &= GVM_RO_EPHEMERAL;
	wrong += store_session_open(store, me, "again", &s) != 0;
	store_session_view(s, 1);
	wrong += store_region_open(s, id, &again, &out) != 0;
	wrong += store_slab_grant(before, id, 0, &entry) != -ENOENT;
	wrong += store_region_open(before, id, &again, &out) != -ESHUTDOWN;
	wrong += !store_session_ended(before);
	store_session_close(before);
	return s;
}

static void on_change(void *arg, int ended)
{
	(void)arg;
	if (ended)
		endings++;
	else
		changes++;
}

static void *client(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg, seed = me;
	struct store_stats stats;
	struct gvm_region_opened out;
	struct gvm_region_entry list[4];
	char name[16];
	int more;

	for (int round = 0; round < ROUNDS; round++) {
		unsigned which = (unsigned)rand_r(&seed) % 3;
		uint64_t nobody = 0, id;
		struct gvm_region_open req;
		struct session *s;

		snprintf(name, sizeof(name), "shared-%u", which);
		id = gvm_region_id_of(name);
		wrong += store_session_open(store, me, "client", &s) != 0;
		store_session_view(s, 1);
		store_session_patience(s, round & 2);
		req = request(name, GVM_RO_CREATE | (round & 1 ? GVM_RO_EPHEMERAL : 0));
		switch (store_region_open(s, id, &req, &out)) {
		case 0:
			opened++;
			wrong += !atomic_compare_exchange_strong(&holder[which], &nobody, me);
			use(s, id, me, &seed);
			if (round % 5 == 0)
				s = come_back(s, &req, id, me);
			use(s, id, me, &seed);
			holder[which] = 0;
			if (round % 3)
				store_region_close(s, id);
			break;
		case -EINPROGRESS:
			wrong += !(round & 2);
			waiting++;
			break;
		default:
			refused++;
		}
		store_session_close(s); /* linger is 0: the hold ends here at the latest */
		store_tick(store);
		store_stats(store, &stats);
		store_region_list(store, 0, 4, list, &more);
	}
	return NULL;
}

static void clients_do_not_meet(void **state)
{
	struct gvm_net_config nc = { .transport = "loop", .node = GVM_NODE_NONE };
	struct store_config config = { .memory = 64 << 20,
				       .limit = 64 << 20,
				       .max_regions = 100,
				       .max_sessions = 100,
				       .incarnation = 1,
				       .huge = HUGE_AUTO };
	pthread_t threads[THREADS];
	struct store_stats stats;
	struct session *s;

	assert_int_equal(gvm_net_open(&nc, &config.net), 0);
	assert_int_equal(store_open(&config, &store), 0);
	store_notify(store, on_change, NULL);
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, client, (void *)(i + 1)), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	print_message("%u opened, %u refused, %u told to wait, %u told of changes, %u ended\n",
		      opened, refused, waiting, changes, endings);
	assert_int_equal(wrong, 0);
	assert_true(endings > 0);
	/* the holder has said that it leaves (linger 0): who waits is told when it has gone */
	assert_true(waiting == 0 || changes > 0);
	assert_true(opened > ROUNDS / 2);
	assert_int_equal(store_session_open(store, 99, "last", &s), 0);
	for (int i = 0; i < 3; i++) {
		char name[16];

		snprintf(name, sizeof(name), "shared-%d", i);
		store_region_delete(s, gvm_region_id_of(name));
	}
	store_session_close(s);
	store_stats(store, &stats);
	assert_int_equal(stats.regions, 0);
	assert_int_equal(stats.stored_bytes, 0);
	assert_int_equal(stats.reserved_bytes, 0);
	assert_int_equal(stats.keys, 0);
	assert_int_equal(stats.slabs, 0);
	assert_int_equal(stats.sessions, 0);
	store_close(store);
	gvm_net_close(config.net);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clients_do_not_meet),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
