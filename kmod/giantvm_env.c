// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Memory for the engine. Its records (of pages, requests, waiting messages) are small and many:
 * they have slab caches of their own, so /proc/slabinfo shows what they take, and one that is
 * forgotten is noticed when the caches go. What is larger (tables, sets, pages) is kvmalloc's. What
 * is in use is counted, for each CPU apart.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "giantvm_env.h"

#include <linux/mm.h>
#include <linux/percpu_counter.h>
#include <linux/random.h>
#include <linux/slab.h>

static struct {
	const char *name;
	size_t size;
	struct kmem_cache *slab;
} records[] = {
	{ "giantvm_64", 64, NULL },
	{ "giantvm_96", 96, NULL },
	{ "giantvm_128", 128, NULL },
};

static struct percpu_counter bytes;

/* NULL: it is larger than any record. */
static struct kmem_cache *slab_for(size_t size)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(records); i++)
		if (size <= records[i].size)
			return records[i].slab;
	return NULL;
}

/* The engine does without what there is not, so the kernel need not complain. */
void *giantvm_alloc(void *user, size_t size)
{
	struct kmem_cache *slab = slab_for(size);
	void *mem = slab ? kmem_cache_alloc(slab, GFP_KERNEL | __GFP_NOWARN)
			 : kvmalloc(size, GFP_KERNEL | __GFP_NOWARN);

	if (mem)
		percpu_counter_add(&bytes, (s64)size);
	return mem;
}

void giantvm_free(void *user, void *mem, size_t size)
{
	struct kmem_cache *slab = slab_for(size);

	percpu_counter_sub(&bytes, (s64)size);
	if (slab)
		kmem_cache_free(slab, mem);
	else
		kvfree(mem);
}

uint64_t giantvm_nonce(void *user)
{
	return get_random_u64();
}

static void destroy_slabs(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(records); i++) {
		kmem_cache_destroy(records[i].slab); /* or NULL */
		records[i].slab = NULL;
	}
}

int giantvm_env_init(void)
{
	unsigned int i;
	int status = percpu_counter_init(&bytes, 0, GFP_KERNEL);

	if (status != 0)
		return status;
	for (i = 0; i < ARRAY_SIZE(records); i++) {
		records[i].slab = kmem_cache_create(records[i].name, records[i].size,
						    __alignof__(unsigned long long), 0, NULL);
		if (!records[i].slab) {
			destroy_slabs();
			percpu_counter_destroy(&bytes);
			return -ENOMEM;
		}
	}
	return 0;
}

void giantvm_env_exit(void)
{
	s64 left = percpu_counter_sum(&bytes);

	if (left != 0)
		pr_err("%lld bytes of memory were not freed\n", left);
	destroy_slabs();
	percpu_counter_destroy(&bytes);
}
