/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Memory that this process offers to peers, found by unguessable 64-bit keys, and memory of its own
 * that operations read to and write from (access 0), which is in no table.
 *
 * The table is the net's and is used by all threads. It is cut into shards by the key's low bits,
 * each a chained hash table under a reader-writer lock that the data path holds only to find the
 * entry and count a reference. An entry out of the table lives until its last reference is dropped;
 * who drops it calls gone(). Providers whose hardware uses an entry are its users: they are told
 * when it is withdrawn, under the lock, so that none can go away meanwhile. An operation that names
 * local memory has a reference to it, so that it may be withdrawn while the operation waits.
 */
#include <errno.h>
#include <stdlib.h>
#include "core/core.h"

#define FIRST_BUCKETS 16u

static struct gvm_mem_shard *shard_of(struct gvm_mem_table *table, uint64_t key)
{
	return &table->shard[key % GVM_MEM_SHARDS];
}

/* Keys are uniform, so any bits serve; the low ones chose the shard. */
static struct gvm_mem **bucket_of(const struct gvm_mem_shard *shard, uint64_t key)
{
	return &shard->buckets[(key >> 32) & (shard->bucket_count - 1)];
}

static struct gvm_mem *find(const struct gvm_mem_shard *shard, uint64_t key)
{
	struct gvm_mem *mem;

	for (mem = *bucket_of(shard, key); mem && mem->key != key; mem = mem->next)
		;
	return mem;
}

/* Staying small is no error: a longer chain is still right. */
static void grow(struct gvm_mem_shard *shard)
{
	struct gvm_mem_shard bigger = { .bucket_count = shard->bucket_count * 2 };
	size_t i;

	bigger.buckets = calloc(bigger.bucket_count, sizeof(*bigger.buckets));
	if (!bigger.buckets)
		return;
	for (i = 0; i < shard->bucket_count; i++) {
		struct gvm_mem *mem = shard->buckets[i], *next;

		for (; mem; mem = next) {
			struct gvm_mem **bucket = bucket_of(&bigger, mem->key);

			next = mem->next;
			mem->next = *bucket;
			*bucket = mem;
		}
	}
	free(shard->buckets);
	shard->buckets = bigger.buckets;
	shard->bucket_count = bigger.bucket_count;
}

/* 0 if the key is taken. */
static int insert(struct gvm_mem_table *table, struct gvm_mem *mem)
{
	struct gvm_mem_shard *shard = shard_of(table, mem->key);
	struct gvm_mem **bucket;
	int taken;

	pthread_rwlock_wrlock(&shard->lock);
	taken = find(shard, mem->key) != NULL;
	if (!taken) {
		if (shard->count >= shard->bucket_count)
			grow(shard);
		bucket = bucket_of(shard, mem->key);
		mem->next = *bucket;
		*bucket = mem;
		shard->count++;
	}
	pthread_rwlock_unlock(&shard->lock);
	return !taken;
}

static void withdraw(struct gvm_mem *mem)
{
	struct gvm_mem_shard *shard = shard_of(mem->table, mem->key);
	struct gvm_mem **at;

	pthread_rwlock_wrlock(&shard->lock);
	if (mem->access) {
		for (at = bucket_of(shard, mem->key); *at != mem; at = &(*at)->next)
			;
		*at = mem->next;
		shard->count--;
	}
	mem->withdrawn = 1;
	for (struct gvm_mem_user *user = mem->users; user; user = user->next)
		user->withdrawn(user);
	pthread_rwlock_unlock(&shard->lock);
}

static void draw_key(struct gvm_mem *mem)
{
	do
		gvm_random(&mem->key, sizeof(mem->key));
	while (mem->key == 0);
}

int gvm_mem_table_init(struct gvm_mem_table *table)
{
	unsigned i;

	for (i = 0; i < GVM_MEM_SHARDS; i++) {
		struct gvm_mem_shard *shard = &table->shard[i];

		*shard = (struct gvm_mem_shard){ .bucket_count = FIRST_BUCKETS };
		shard->buckets = calloc(FIRST_BUCKETS, sizeof(*shard->buckets));
		if (!shard->buckets) {
			while (i-- > 0)
				free(table->shard[i].buckets);
			return -ENOMEM;
		}
	}
	for (i = 0; i < GVM_MEM_SHARDS; i++)
		pthread_rwlock_init(&table->shard[i].lock, NULL);
	return 0;
}

void gvm_mem_table_fini(struct gvm_mem_table *table)
{
	unsigned i;

	for (i = 0; i < GVM_MEM_SHARDS; i++) {
		free(table->shard[i].buckets);
		pthread_rwlock_destroy(&table->shard[i].lock);
	}
}

int gvm_mem_register(struct gvm_net *net, void *base, size_t len, unsigned access, uint64_t owner,
		     struct gvm_mem **out)
{
	struct gvm_mem *mem;

	if (!base || len == 0 || (access & ~(GVM_ACCESS_FETCH | GVM_ACCESS_PUT | GVM_ACCESS_SOFT)))
		return -EINVAL;
	if ((uintptr_t)base > UINTPTR_MAX - len)
		return -EINVAL;
	mem = calloc(1, sizeof(*mem));
	if (!mem)
		return -ENOMEM;
	mem->table = &net->mem;
	mem->owner = owner;
	mem->base = base;
	mem->len = len;
	mem->access = access;
	atomic_init(&mem->refs, 1);
	do
		draw_key(mem);
	while (access && !insert(&net->mem, mem));
	*out = mem;
	return 0;
}

uint64_t gvm_mem_key(const struct gvm_mem *mem)
{
	return mem->key;
}

void gvm_mem_unregister(struct gvm_mem *mem, void (*gone)(void *arg), void *arg)
{
	mem->gone = gone;
	mem->arg = arg;
	withdraw(mem);
	gvm_mem_drop(mem);
}

static int may_use(const struct gvm_mem *mem, uint64_t owner, unsigned access, uint64_t offset,
		   uint64_t len)
{
	if (mem->owner && mem->owner != owner)
		return -ENOENT; /* nobody learns that another has such a key */
	if ((mem->access & access) != access)
		return -EPERM;
	if (offset > mem->len || len > mem->len - offset)
		return -ERANGE;
	return 0;
}

int gvm_mem_lookup(struct gvm_mem_table *table, uint64_t key, uint64_t owner, unsigned access,
		   uint64_t offset, uint64_t len, void **at, struct gvm_mem **out)
{
	struct gvm_mem_shard *shard = shard_of(table, key);
	struct gvm_mem *mem;
	int err;

	pthread_rwlock_rdlock(&shard->lock);
	mem = find(shard, key);
	err = mem ? may_use(mem, owner, access, offset, len) : -ENOENT;
	if (!err)
		atomic_fetch_add_explicit(&mem->refs, 1, memory_order_relaxed);
	pthread_rwlock_unlock(&shard->lock);
	if (err)
		return err;
	*at = mem->base + offset;
	*out = mem;
	return 0;
}

/* With the lock held. */
static void add_user(struct gvm_mem *mem, struct gvm_mem_user *user)
{
	atomic_fetch_add_explicit(&mem->refs, 1, memory_order_relaxed);
	user->mem = mem;
	user->prev = NULL;
	user->next = mem->users;
	if (mem->users)
		mem->users->prev = user;
	mem->users = user;
	user->base = mem->base;
	user->len = mem->len;
	user->access = mem->access;
}

int gvm_mem_hold(struct gvm_mem_table *table, uint64_t key, uint64_t owner,
		 struct gvm_mem_user *user)
{
	struct gvm_mem_shard *shard = shard_of(table, key);
	struct gvm_mem *mem;
	int err;

	pthread_rwlock_wrlock(&shard->lock);
	mem = find(shard, key);
	err = mem ? may_use(mem, owner, 0, 0, 0) : -ENOENT;
	if (!err && (mem->access & GVM_ACCESS_SOFT))
		err = -EOPNOTSUPP;
	if (!err)
		add_user(mem, user);
	pthread_rwlock_unlock(&shard->lock);
	return err;
}

int gvm_mem_hold_local(struct gvm_mem *mem, struct gvm_mem_user *user)
{
	struct gvm_mem_shard *shard = shard_of(mem->table, mem->key);
	int err;

	pthread_rwlock_wrlock(&shard->lock);
	err = mem->withdrawn ? -ENOENT : 0;
	if (!err)
		add_user(mem, user);
	pthread_rwlock_unlock(&shard->lock);
	return err;
}

void gvm_mem_release(struct gvm_mem_user *user)
{
	struct gvm_mem *mem = user->mem;
	struct gvm_mem_shard *shard = shard_of(mem->table, mem->key);

	pthread_rwlock_wrlock(&shard->lock);
	if (user->prev)
		user->prev->next = user->next;
	else
		mem->users = user->next;
	if (user->next)
		user->next->prev = user->prev;
	pthread_rwlock_unlock(&shard->lock);
	gvm_mem_drop(mem);
}

void gvm_mem_end(struct gvm_mem *mem)
{
	if (mem->gone)
		mem->gone(mem->arg);
	free(mem);
}
