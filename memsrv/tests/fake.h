/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Stands in for the library under the store: memory registrations that the test can look into and
 * hold on to, a clock that stands still, and the last line of the log. Linked with --wrap.
 */
#ifndef MEMSRV_TESTS_FAKE_H
#define MEMSRV_TESTS_FAKE_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>

#include <gvmnet/gvmnet.h>
#include <gvmnet/region.h>

struct gvm_mem {
	struct gvm_mem *next;
	uint8_t *base;
	size_t len;
	unsigned access;
	uint64_t owner, key;
	int pinned; /* a transfer is under way */
	int withdrawn;
	void (*gone)(void *arg);
	void *arg;
};

static struct gvm_mem *fake_mems;
static uint64_t fake_keys;
static int fake_register_fails;
static uint64_t fake_clock = 1000;
static char fake_log[512];
static unsigned fake_log_unbounded; /* lines that are not limited */

int __wrap_gvm_mem_register(struct gvm_net *net, void *base, size_t len, unsigned access,
			    uint64_t owner, struct gvm_mem **mem);
uint64_t __wrap_gvm_mem_key(const struct gvm_mem *mem);
void __wrap_gvm_mem_unregister(struct gvm_mem *mem, void (*gone)(void *arg), void *arg);
void __wrap_gvm_log(enum gvm_log_level level, const char *fmt, ...);
void __wrap_gvm_log_limited(struct gvm_log_limit *limit, enum gvm_log_level level, const char *fmt,
			    ...);
uint64_t __wrap_gvm_now(void);
uint64_t __wrap_gvm_region_id_of(const char *name);

int __wrap_gvm_mem_register(struct gvm_net *net, void *base, size_t len, unsigned access,
			    uint64_t owner, struct gvm_mem **mem)
{
	struct gvm_mem *m;

	if (fake_register_fails)
		return -ENOMEM;
	m = calloc(1, sizeof(*m));
	*m = (struct gvm_mem){ .next = fake_mems,
			       .base = base,
			       .len = len,
			       .access = access,
			       .owner = owner,
			       .key = ++fake_keys };
	fake_mems = m;
	*mem = m;
	return 0;
}

uint64_t __wrap_gvm_mem_key(const struct gvm_mem *mem)
{
	return mem->key;
}

static void fake_remove(struct gvm_mem *mem)
{
	struct gvm_mem **at = &fake_mems;

	while (*at != mem)
		at = &(*at)->next;
	*at = mem->next;
	mem->gone(mem->arg);
	free(mem);
}

void __wrap_gvm_mem_unregister(struct gvm_mem *mem, void (*gone)(void *arg), void *arg)
{
	mem->withdrawn = 1;
	mem->gone = gone;
	mem->arg = arg;
	if (!mem->pinned)
		fake_remove(mem);
}

/* The transfer ends. */
static inline void fake_unpin(struct gvm_mem *mem)
{
	mem->pinned = 0;
	if (mem->withdrawn)
		fake_remove(mem);
}

static inline struct gvm_mem *fake_mem(uint64_t key)
{
	for (struct gvm_mem *m = fake_mems; m; m = m->next)
		if (m->key == key && !m->withdrawn)
			return m;
	return NULL;
}

/* What a provider's mem_get says: the address, or NULL. */
static inline uint8_t *fake_get(uint64_t key, uint64_t owner, unsigned access, uint64_t offset,
				uint64_t len)
{
	struct gvm_mem *m = fake_mem(key);

	if (!m || m->owner != owner || !(m->access & access) || offset > m->len ||
	    len > m->len - offset)
		return NULL;
	return m->base + offset;
}

void __wrap_gvm_log(enum gvm_log_level level, const char *fmt, ...)
{
	va_list ap;

	fake_log_unbounded++;
	va_start(ap, fmt);
	vsnprintf(fake_log, sizeof(fake_log), fmt, ap);
	va_end(ap);
}

void __wrap_gvm_log_limited(struct gvm_log_limit *limit, enum gvm_log_level level, const char *fmt,
			    ...)
{
	va_list ap;

	assert_non_null(limit);
	va_start(ap, fmt);
	vsnprintf(fake_log, sizeof(fake_log), fmt, ap);
	va_end(ap);
}

uint64_t __wrap_gvm_now(void)
{
	return fake_clock;
}

/* FNV-1a: any function of the name will do. */
uint64_t __wrap_gvm_region_id_of(const char *name)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	while (*name)
		h = (h ^ (uint8_t)*name++) * UINT64_C(0x100000001b3);
	return h ? h : 1;
}

#endif
