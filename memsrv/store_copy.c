/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Copies of slabs that a clone shares, made by a thread of the store's own and without its lock: to
 * copy 1 GiB takes half a second. While the slab is shared nobody can write what is being copied.
 * The slab may go meanwhile, or be shared no more: then the copy is dropped.
 */
#include "store_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

struct copy {
	TAILQ_ENTRY(copy) order;
	struct region *region;
	struct slab *slab; /* NULL: nobody wants it any more */
	uint64_t index;
	struct storage *from, *into;
};

int copy_begin(struct region *r, uint64_t index, struct slab *sl, struct store *store,
	       struct storage *into)
{
	struct copy *c = malloc(sizeof(*c));

	if (!c)
		return -ENOMEM;
	*c = (struct copy){
		.region = r, .slab = sl, .index = index, .from = sl->storage, .into = into
	};
	storage_ref(c->from);
	atomic_fetch_add(&store->in_use, 1);
	sl->copy = c;
	TAILQ_INSERT_TAIL(&store->copies, c, order);
	pthread_cond_signal(&store->copy_more);
	return 0;
}

/* To unmap a large copy takes long too. */
static void copy_free(struct copy *c)
{
	storage_put(c->from);
	if (c->into)
		storage_put(c->into);
	free(c);
}

static void copy_freed(struct store *store)
{
	atomic_fetch_sub(&store->in_use, 1);
	store_changed(store);
}

void copy_cancel(struct store *store, struct slab *sl)
{
	struct copy *c = sl->copy;

	if (!c)
		return;
	sl->copy = NULL;
	c->slab = NULL;
	if (c == store->copying)
		return;
	TAILQ_REMOVE(&store->copies, c, order);
	copy_free(c);
	copy_freed(store);
}

static void copy_end(struct store *store, struct copy *c)
{
	struct slab *sl = c->slab;

	store->copying = NULL;
	if (sl) {
		sl->copy = NULL;
		if (slab_shared(sl)) {
			sl->copy_err = slab_move(store, c->region, c->index, sl, c->into);
			if (!sl->copy_err)
				c->into = NULL;
		}
	}
}

static void *run(void *arg)
{
	struct store *store = arg;
	struct copy *c;

	pthread_mutex_lock(&store->lock);
	while (!store->copy_stop) {
		c = TAILQ_FIRST(&store->copies);
		if (!c) {
			pthread_cond_wait(&store->copy_more, &store->lock);
			continue;
		}
		TAILQ_REMOVE(&store->copies, c, order);
		store->copying = c;
		pthread_mutex_unlock(&store->lock);
		storage_copy(c->into, c->from);
		pthread_mutex_lock(&store->lock);
		copy_end(store, c);
		pthread_mutex_unlock(&store->lock);
		copy_free(c);
		pthread_mutex_lock(&store->lock);
		copy_freed(store);
	}
	pthread_mutex_unlock(&store->lock);
	return NULL;
}

int copy_start(struct store *store)
{
	sigset_t all, old;
	int err;

	TAILQ_INIT(&store->copies);
	pthread_cond_init(&store->copy_more, NULL);
	/* Signals are for the thread that waits for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&store->copier, NULL, run, store);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		store->copy_stop = 1; /* there is no thread to stop */
	return -err;
}

void copy_stop(struct store *store)
{
	int started;

	pthread_mutex_lock(&store->lock);
	started = !store->copy_stop;
	store->copy_stop = 1;
	pthread_cond_signal(&store->copy_more);
	pthread_mutex_unlock(&store->lock);
	if (started)
		pthread_join(store->copier, NULL);
	pthread_cond_destroy(&store->copy_more);
}
