/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One coherence engine whose peers are the test: what it says and does is seen, the last of it. */
#ifndef TESTS_IVY_ALONE_H
#define TESTS_IVY_ALONE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "ivy/internal.h"

static uint64_t rng = 1;

static uint64_t draw(void)
{
	uint64_t x = rng += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

#define PAGES 200000u
#define PAGE  64u

/* What the engine under test has said and done last. */
static struct {
	struct gvm_hdr sent;
	uint8_t payload[8192];
	uint16_t to;
	unsigned count, of_type[256];
	int64_t memory, memory_max, fail_in;
	uint8_t access[PAGES];
	uint8_t bytes[PAGE];
	int done, status;
	void (*on_send)(uint16_t to, const struct gvm_hdr *h, const void *payload); /* or NULL */
} seen;

static void *env_alloc(void *user, size_t size)
{
	if (seen.fail_in > 0 && --seen.fail_in == 0)
		return NULL;
	seen.memory += (int64_t)size;
	if (seen.memory > seen.memory_max)
		seen.memory_max = seen.memory;
	return malloc(size);
}

static void env_free(void *user, void *mem, size_t size)
{
	seen.memory -= (int64_t)size;
	free(mem);
}

static void env_send(void *user, uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	assert_int_equal(gvm_coh_check(h, PAGE), 0);
	seen.sent = *h;
	seen.to = to;
	seen.count++;
	seen.of_type[h->type]++;
	if (h->length)
		memcpy(seen.payload, payload, h->length);
	if (seen.on_send)
		seen.on_send(to, h, payload);
}

static uint16_t env_home(void *user, uint64_t page)
{
	return page & 1; /* even pages: node 0, odd ones: node 1 */
}

static uint64_t env_nonce(void *user)
{
	return draw();
}

static const void *env_copy_read(void *user, uint64_t page)
{
	return seen.bytes;
}

static int env_copy_write(void *user, uint64_t page, const void *bytes)
{
	assert_int_equal(seen.access[page], IVY_NONE);
	return 0;
}

static void env_copy_drop(void *user, uint64_t page)
{
}

static void env_protect(void *user, uint64_t page, enum ivy_access access)
{
	seen.access[page] = (uint8_t)access;
}

static const void *env_store_read(void *user, uint64_t page)
{
	return NULL;
}

static int env_store_write(void *user, uint64_t page, const void *bytes)
{
	return 0;
}

static void env_fault_done(void *user, uint64_t page, enum ivy_access access, int status)
{
	seen.done++;
	seen.status = status;
}

static const struct ivy_env env = IVY_ENV(env_);

static struct ivy_config config_of(uint16_t self)
{
	memset(&seen, 0, sizeof(seen));
	return (struct ivy_config){ .env = &env,
				    .region = 9,
				    .pages = PAGES,
				    .page_size = PAGE,
				    .epoch = 3,
				    .self = self,
				    .nodes = GVM_WIRE_NODE_MAX,
				    .max_entries = 1 << 20,
				    .max_txns = 1000,
				    .max_waiters = 1000,
				    .max_pages = 1000,
				    .max_relays = 100,
				    .retry_ns = 1000,
				    .round_ns = 1000 };
}

static struct ivy *engine(uint16_t self)
{
	struct ivy_config c = config_of(self);
	struct ivy *ivy;

	assert_int_equal(ivy_new(&c, &ivy), 0);
	return ivy;
}

static void end(struct ivy *ivy)
{
	ivy_free(ivy);
	assert_int_equal(seen.memory, 0);
}

static struct gvm_hdr message(unsigned type, uint64_t page, uint64_t xid, uint64_t arg)
{
	return (struct gvm_hdr){
		.type = (uint8_t)type, .epoch = 3, .region = 9, .page = page, .xid = xid, .arg = arg
	};
}

static inline int say(struct ivy *ivy, uint16_t from, unsigned type, uint64_t page, uint64_t xid,
		      uint64_t arg)
{
	struct gvm_hdr h = message(type, page, xid, arg);

	return ivy_receive(ivy, from, &h, NULL);
}

#endif
