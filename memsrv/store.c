/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "store_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

uint64_t store_now(const struct store *store)
{
	return store->config.now ? store->config.now() : gvm_now();
}

uint64_t store_draw(void)
{
	uint64_t v = 0;

	while (!v)
		if (getrandom(&v, sizeof(v), 0) != sizeof(v))
			v = 0;
	return v;
}

uint64_t store_show_holder(const struct store *store, uint64_t incarnation)
{
	const uint64_t text[3] = { store->secret[0], store->secret[1], incarnation };
	uint8_t digest[SHA256_DIGEST_LENGTH];
	uint64_t shown;

	if (!incarnation)
		return 0;
	SHA256((const uint8_t *)text, sizeof(text), digest);
	memcpy(&shown, digest, sizeof(shown));
	return shown ? shown : 1;
}

int store_busy(struct store *store)
{
	store->stats.refused_busy++;
	return -EBUSY;
}

int store_refuse(struct store *store, int err)
{
	store->stats.refused_other++;
	return err;
}

/* ---- waiting ------------------------------------------------------------------------------- */

/* Noted before the caller looks at what it waits for, so that no change falls in between. */
int store_await(struct session *s)
{
	if (!s->patient)
		return 0;
	atomic_store(&s->store->awaited, 1);
	return 1;
}

void store_changed(struct store *store)
{
	if (atomic_exchange(&store->awaited, 0) && store->changed)
		store->changed(store->changed_arg, 0);
}

void store_notify(struct store *store, void (*changed)(void *arg, int ended), void *arg)
{
	pthread_mutex_lock(&store->lock);
	store->changed = changed;
	store->changed_arg = arg;
	pthread_mutex_unlock(&store->lock);
}

/* ---- now and then -------------------------------------------------------------------------- */

void store_drain(struct store *store)
{
	pthread_mutex_lock(&store->lock);
	store->stats.draining = 1;
	pthread_mutex_unlock(&store->lock);
}

/* The next slab after where the last look ended, over all regions. */
static struct slab *sweep_next(struct store *store)
{
	struct region *r = NULL, *at;
	struct slab *sl;

	TAILQ_FOREACH(at, &store->regions, order)
	if (at->id == store->sweep_id)
		r = at;
	if (!r) {
		r = TAILQ_FIRST(&store->regions);
		store->sweep_slab = 0;
	}
	if (!r)
		return NULL;
	store->sweep_id = r->id;
	sl = slab_map_next(&r->slabs, &store->sweep_slab);
	if (sl) {
		store->sweep_slab++;
		return sl;
	}
	r = TAILQ_NEXT(r, order);
	store->sweep_id = r ? r->id : 0;
	store->sweep_slab = 0;
	return NULL;
}

/* One slab at a time, and without the lock: remaking a slab takes milliseconds. */
static void sweep(struct store *store)
{
	struct storage *storage;
	struct slab *sl;
	int err;

	pthread_mutex_lock(&store->lock);
	sl = sweep_next(store);
	storage = sl ? sl->storage : NULL;
	if (storage) {
		storage_ref(storage);
		atomic_fetch_add(&store->in_use, 1);
	}
	pthread_mutex_unlock(&store->lock);
	if (!storage)
		return;
	err = storage_collapse(storage);
	storage_put(storage);
	atomic_fetch_sub(&store->in_use, 1);
	store_changed(store);
	if (err == -EINVAL || err == -EPERM) {
		gvm_log(GVM_LOG_INFO,
			"the kernel makes no huge pages on request; going on without");
		store->no_sweep = 1;
	}
}

void store_tick(struct store *store)
{
	pthread_mutex_lock(&store->lock);
	hold_expire_resting(store);
	hold_expire_all(store, NULL);
	pthread_mutex_unlock(&store->lock);
	if (!atomic_load(&store->no_sweep))
		sweep(store);
}

/* ---- begin and end ------------------------------------------------------------------------- */

int store_open(const struct store_config *config, struct store **store)
{
	struct store *st = calloc(1, sizeof(*st));
	int err = 0;

	if (!st)
		return -ENOMEM;
	st->config = *config;
	st->secret[0] = store_draw();
	st->secret[1] = store_draw();
	st->pool.image = config->image;
	st->pool.huge = config->huge;
	st->pool.pins = config->net && gvm_net_pins(config->net);
	st->pool.pagemap = -1;
	if (!config->image)
		st->pool.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	st->no_sweep = config->huge != HUGE_AUTO || st->pool.pins || st->pool.pagemap < 0;
	pthread_mutex_init(&st->lock, NULL);
	TAILQ_INIT(&st->regions);
	LIST_INIT(&st->resting);
	if (config->image)
		err = store_load(st);
	if (err)
		store_close(st);
	else
		*store = st;
	return err;
}

/* The image keeps its extents: storage that ends here must not give them back. */
static void let_go(struct store *store, struct region *r)
{
	struct slab *sl;

	for (uint64_t i = 0; (sl = slab_map_next(&r->slabs, &i)); i++) {
		slab_map_clear(&r->slabs, i);
		sl->storage->sharers--;
		if (store->pool.image)
			storage_forget(sl->storage);
		else
			storage_put(sl->storage);
		free(sl);
	}
}

void store_close(struct store *store)
{
	struct session *s;
	struct region *r;

	while ((s = LIST_FIRST(&store->resting)))
		hold_remove(LIST_FIRST(&s->holds));
	while ((r = TAILQ_FIRST(&store->regions))) {
		TAILQ_REMOVE(&store->regions, r, order);
		let_go(store, r);
		region_free(r);
	}
	if (store->pool.pagemap >= 0)
		close(store->pool.pagemap);
	pthread_mutex_destroy(&store->lock);
	free(store->by_slot);
	free(store);
}
