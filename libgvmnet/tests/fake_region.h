/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A region store inside the test's process: deterministic, with latency, stalls, failures and loss
 * at command. It holds the pager to the rules of region.h: within one slab, buffers unchanged until
 * done, no two operations on one page at a time where that is undefined. Breaking one aborts.
 */
#ifndef FAKE_REGION_H
#define FAKE_REGION_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "pager/internal.h"

#define FAKE_REGIONS 64

/* The data of a region, shared by its views. */
struct fake_data {
	char name[64];
	uint64_t bytes;
	uint32_t slab_bytes, flags;
	char **page;   /* NULL: never stored */
	uint8_t *busy; /* FAKE_* of operations under way */
	unsigned views;
	bool exists;
};
enum { FAKE_FETCH = 1, FAKE_PUT = 2, FAKE_DISCARD = 4, FAKE_CONTROL = 8 };

static struct {
	pthread_mutex_t lock;
	struct fake_data data[FAKE_REGIONS];
	_Atomic uint64_t latency_ns;
	_Atomic bool stall;       /* nothing completes */
	_Atomic bool lost;        /* fetches and puts fail with -EIO */
	_Atomic bool full;        /* puts fail with -ENOSPC */
	_Atomic bool mute;        /* who opens a region is not answered */
	_Atomic unsigned refused; /* puts that did */
	_Atomic uint64_t away_since;
	_Atomic unsigned nodes;        /* slabs lie on nodes 0 to nodes - 1 in turn; 0: on one */
	_Atomic unsigned node_step;    /* their ids are multiples of it; 0: of 1 */
	_Atomic uint64_t node_away[3]; /* since when; nothing of theirs completes */
	_Atomic bool node_silent[3];   /* nor here, but nobody knows that it is away */
	_Atomic bool node_full[3];     /* puts fail with -ENOSPC */
	_Atomic uint64_t away_asked;   /* how often the pager has asked */
	_Atomic uint64_t fetches, puts, discards, fetched, put, discarded;
	struct gvm_region *open;
} fake = { .lock = PTHREAD_MUTEX_INITIALIZER };

struct gvm_region {
	struct gvm_region *next_open; /* of all, under the lock */
	struct gvm_task wake;
	struct gvm_worker *worker;
	struct fake_data *data;
	struct gvm_timer timer;
	struct gvm_region_op *first, *last;
	gvm_region_cb opened;
	int open_status;
	void *arg;
	void (*node_state)(void *arg, unsigned node, int why);
	bool told_away, noted;
};

#define FAKE_RULE(what, ...)                                                                       \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			fprintf(stderr, "rule of region.h broken: " #what ": " __VA_ARGS__);       \
			fputc('\n', stderr);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static struct fake_data *fake_find(const char *name)
{
	for (int i = 0; i < FAKE_REGIONS; i++)
		if (fake.data[i].exists && strcmp(fake.data[i].name, name) == 0)
			return &fake.data[i];
	return NULL;
}

static struct fake_data *fake_make(const char *name, uint64_t bytes, uint32_t slab, uint32_t flags)
{
	for (int i = 0; i < FAKE_REGIONS; i++) {
		struct fake_data *d = &fake.data[i];

		if (d->exists || d->views)
			continue;
		memset(d, 0, sizeof(*d));
		snprintf(d->name, sizeof(d->name), "%s", name);
		d->bytes = bytes;
		d->slab_bytes = slab ? slab : GVM_SLAB_BYTES;
		d->flags = flags;
		d->page = calloc(bytes / PAGE, sizeof(*d->page));
		d->busy = calloc(bytes / PAGE, 1);
		d->exists = true;
		return d;
	}
	abort();
}

static void fake_drop(struct fake_data *d)
{
	d->exists = false;
	if (d->views || !d->page)
		return;
	for (uint64_t i = 0; i < d->bytes / PAGE; i++)
		free(d->page[i]);
	free(d->page);
	free(d->busy);
	d->page = NULL;
}

/* Everything the test has left behind. */
static void fake_reset(void)
{
	for (int i = 0; i < FAKE_REGIONS; i++)
		if (fake.data[i].exists)
			fake_drop(&fake.data[i]);
	fake.stall = fake.lost = fake.full = fake.mute = false;
	fake.latency_ns = fake.away_since = 0;
	fake.nodes = fake.node_step = 0;
	for (unsigned i = 0; i < 3; i++) {
		fake.node_full[i] = fake.node_silent[i] = false;
		fake.node_away[i] = 0;
	}
	fake.away_asked = 0;
	fake.fetches = fake.puts = fake.discards = fake.fetched = fake.put = fake.discarded = 0;
}

static inline uint64_t fake_stored(const char *name)
{
	struct fake_data *d;
	uint64_t n = 0;

	pthread_mutex_lock(&fake.lock);
	d = fake_find(name);
	for (uint64_t i = 0; d && i < d->bytes / PAGE; i++)
		n += d->page[i] != NULL;
	pthread_mutex_unlock(&fake.lock);
	return n;
}

/* ---- operations ---------------------------------------------------------------------------- */

static void fake_serve(struct fake_data *d, struct gvm_region_op *op)
{
	for (uint64_t p = op->page; p < op->end && op->kind != FAKE_CONTROL; p++) {
		char *to = (char *)op->buf + (p - op->page) * PAGE;

		if (op->kind == FAKE_FETCH && d->page[p]) {
			memcpy(to, d->page[p], PAGE);
		} else if (op->kind == FAKE_FETCH) {
			memset(to, 0, PAGE);
		} else if (op->kind == FAKE_PUT) {
			if (!d->page[p])
				d->page[p] = malloc(PAGE);
			memcpy(d->page[p], to, PAGE);
		} else {
			free(d->page[p]);
			d->page[p] = NULL;
		}
	}
}

static unsigned fake_nth(const struct gvm_region *r, uint64_t page)
{
	return fake.nodes ? (unsigned)(page / (r->data->slab_bytes / PAGE)) % fake.nodes : 0;
}

static unsigned fake_node(const struct gvm_region *r, uint64_t page)
{
	return fake_nth(r, page) * (fake.node_step ? fake.node_step : 1);
}

static int fake_outcome(const struct gvm_region *r, const struct gvm_region_op *op)
{
	if (op->kind == FAKE_CONTROL)
		return op->failure;
	if (fake.lost)
		return -EIO;
	if (op->kind == FAKE_PUT && (fake.full || fake.node_full[fake_nth(r, op->page)])) {
		fake.refused++;
		return -ENOSPC;
	}
	return 0;
}

static void fake_unlink(struct gvm_region *r, struct gvm_region_op *op)
{
	if (op->prev)
		op->prev->next = op->next;
	else
		r->first = op->next;
	if (op->next)
		op->next->prev = op->prev;
	else
		r->last = op->prev;
}

static void fake_complete(struct gvm_region *r, struct gvm_region_op *op, int status)
{
	pthread_mutex_lock(&fake.lock);
	fake_unlink(r, op);
	if (status == 0)
		fake_serve(r->data, op);
	if (op->kind != FAKE_CONTROL)
		for (uint64_t p = op->page; p < op->end; p++)
			r->data->busy[p] &= (uint8_t)~op->kind;
	pthread_mutex_unlock(&fake.lock);
	op->done(op, status);
}

static bool fake_stuck(const struct gvm_region *r, const struct gvm_region_op *op)
{
	unsigned node = fake_nth(r, op->page);

	return fake.stall ||
	       (op->kind != FAKE_CONTROL && (fake.node_away[node] || fake.node_silent[node]));
}

static void fake_arm(struct gvm_region *r)
{
	uint64_t when = GVM_NEVER;

	for (struct gvm_region_op *op = r->first; op; op = op->next)
		when = !fake_stuck(r, op) && op->at < when ? op->at : when;
	if (r->opened)
		when = 0;
	if (fake.stall)
		when = gvm_now() + 1000000;
	if (when != GVM_NEVER || fake.stall || r->told_away)
		gvm_timer_set(r->worker, &r->timer, when == GVM_NEVER ? gvm_now() + 1000000 : when);
}

static void fake_tell(struct gvm_region *r)
{
	if (fake.stall != r->told_away && r->node_state && r->first) {
		r->told_away = fake.stall;
		r->node_state(r->arg, 1, r->told_away ? -EHOSTUNREACH : 0);
	} else if (!fake.stall && r->told_away) {
		r->told_away = false;
		r->node_state(r->arg, 1, 0);
	}
}

static void fake_timer(struct gvm_timer *timer)
{
	struct gvm_region *r =
	    (struct gvm_region *)((char *)timer - offsetof(struct gvm_region, timer));
	struct gvm_region_op *op, *next;
	uint64_t now = gvm_now();

	if (r->opened) {
		gvm_region_cb opened = r->opened;

		r->opened = NULL;
		opened(r->arg, r, r->open_status);
		fake_arm(r);
		return;
	}
	fake_tell(r);
	for (op = r->first; op; op = next) {
		next = op->next;
		if (!fake_stuck(r, op) && op->at <= now) {
			fake_complete(r, op, fake_outcome(r, op));
			next = r->first; /* done may have posted or closed anything */
		} else if (op->deadline_ns && op->deadline_ns <= now) {
			fake_complete(r, op, -ETIMEDOUT);
			next = r->first;
		}
	}
	fake_arm(r);
}

static int fake_post(struct gvm_region *r, struct gvm_region_op *op, uint8_t kind, uint64_t page,
		     uint64_t count, void *buf)
{
	uint64_t slab = r->data->slab_bytes / PAGE;

	op->region = r;
	op->kind = kind;
	op->page = page;
	op->end = page + count;
	op->buf = buf;
	op->at = gvm_now() + (kind == FAKE_CONTROL ? 0 : fake.latency_ns);
	op->next = NULL;
	if (kind != FAKE_CONTROL) {
		FAKE_RULE(count > 0 && page + count <= r->data->bytes / PAGE, "page %llu + %llu",
			  (unsigned long long)page, (unsigned long long)count);
		FAKE_RULE(kind == FAKE_DISCARD || page / slab == (page + count - 1) / slab,
			  "page %llu + %llu", (unsigned long long)page, (unsigned long long)count);
		pthread_mutex_lock(&fake.lock);
		for (uint64_t p = page; p < page + count; p++) {
			/* a fetch whose page is discarded meanwhile is ignored by the pager */
			FAKE_RULE(!(r->data->busy[p] & (FAKE_PUT | FAKE_DISCARD)),
				  "page %llu: %u while %u", (unsigned long long)p, kind,
				  r->data->busy[p]);
			r->data->busy[p] |= kind;
		}
		pthread_mutex_unlock(&fake.lock);
	}
	op->prev = r->last;
	if (r->last)
		r->last->next = op;
	else
		r->first = op;
	r->last = op;
	fake_arm(r);
	return 0;
}

static inline void fake_wake_all(void)
{
	pthread_mutex_lock(&fake.lock);
	for (struct gvm_region *r = fake.open; r; r = r->next_open)
		gvm_worker_run(r->worker, &r->wake);
	pthread_mutex_unlock(&fake.lock);
}

/* A node goes away, with all that is under way to it; or it is back, and the workers learn of it.
 */
static inline void fake_set_away(unsigned node, bool away)
{
	fake.node_away[node] = away ? gvm_now() : 0;
	if (!away)
		fake_wake_all();
}

/* The first nodes stop in the same instant, and nobody knows; or they go on. */
static inline void fake_set_silent(unsigned nodes, bool silent)
{
	for (unsigned i = 0; i < nodes; i++)
		fake.node_silent[i] = silent;
	if (!silent)
		fake_wake_all();
}

static void fake_wake(struct gvm_task *task)
{
	fake_arm((struct gvm_region *)((char *)task - offsetof(struct gvm_region, wake)));
}

/* ---- the table ----------------------------------------------------------------------------- */

static int fake_open(struct gvm_worker *worker, const struct gvm_region_config *config,
		     uint64_t deadline_ns, gvm_region_cb opened, struct gvm_region **out)
{
	struct gvm_region *r = calloc(1, sizeof(*r));
	struct fake_data *d;

	pthread_mutex_lock(&fake.lock);
	d = fake_find(config->name);
	if (d && (config->flags & GVM_REGION_EXCL))
		r->open_status = -EEXIST;
	else if (!d && !(config->flags & GVM_REGION_CREATE))
		r->open_status = -ENOENT;
	else if (!d)
		d = fake_make(config->name, config->bytes, config->slab_bytes, config->flags);
	if (r->open_status == 0 && fake.mute)
		r->open_status = -ETIMEDOUT;
	if (r->open_status == 0)
		d->views++;
	r->worker = worker;
	r->wake.fn = fake_wake;
	r->next_open = fake.open;
	fake.open = r;
	pthread_mutex_unlock(&fake.lock);
	r->data = r->open_status == 0 ? d : NULL;
	r->timer.fn = fake_timer;
	r->opened = opened;
	r->arg = config->arg;
	r->node_state = config->node_state;
	gvm_timer_set(worker, &r->timer, fake.mute ? deadline_ns : 0);
	*out = r;
	return 0;
}

static uint64_t fake_pages(const struct gvm_region *r)
{
	return r->data->bytes / PAGE;
}

static uint64_t fake_slab_pages(const struct gvm_region *r)
{
	return r->data->slab_bytes / PAGE;
}

static int fake_has_storage(const struct gvm_region *r, uint64_t page)
{
	uint64_t slab = r->data->slab_bytes / PAGE, first = page / slab * slab;
	int has = 0;

	pthread_mutex_lock(&fake.lock);
	for (uint64_t p = first; p < first + slab && p < r->data->bytes / PAGE; p++)
		has |= r->data->page[p] != NULL;
	pthread_mutex_unlock(&fake.lock);
	return has;
}

static uint64_t fake_away_since(const struct gvm_region *r, uint64_t page)
{
	uint64_t since = fake.node_away[fake_nth(r, page)];

	fake.away_asked++;
	return since ? since : fake.away_since;
}

static int fake_fetch(struct gvm_region *r, uint64_t page, uint32_t count, void *buf,
		      struct gvm_region_op *op)
{
	fake.fetches++;
	fake.fetched += count;
	return fake_post(r, op, FAKE_FETCH, page, count, buf);
}

static int fake_put(struct gvm_region *r, uint64_t page, uint32_t count, const void *buf,
		    struct gvm_region_op *op)
{
	fake.puts++;
	fake.put += count;
	return fake_post(r, op, FAKE_PUT, page, count, (void *)buf);
}

static int fake_discard(struct gvm_region *r, uint64_t page, uint64_t count,
			struct gvm_region_op *op)
{
	fake.discards++;
	fake.discarded += count;
	return fake_post(r, op, FAKE_DISCARD, page, count, NULL);
}

static int fake_clone(struct gvm_region *r, const char *name, uint32_t flags,
		      struct gvm_region_op *op)
{
	struct fake_data *d;

	pthread_mutex_lock(&fake.lock);
	d = fake_make(name, r->data->bytes, r->data->slab_bytes, flags);
	for (uint64_t p = 0; p < d->bytes / PAGE; p++) {
		FAKE_RULE(r->data->busy[p] == 0, "clone while page %llu is in use",
			  (unsigned long long)p);
		if (!r->data->page[p])
			continue;
		d->page[p] = malloc(PAGE);
		memcpy(d->page[p], r->data->page[p], PAGE);
	}
	pthread_mutex_unlock(&fake.lock);
	op->failure = 0;
	return fake_post(r, op, FAKE_CONTROL, 0, 0, NULL);
}

static int fake_resize(struct gvm_region *r, uint64_t bytes, struct gvm_region_op *op)
{
	struct fake_data *d = r->data;
	uint64_t old = d->bytes / PAGE, now = bytes / PAGE;

	pthread_mutex_lock(&fake.lock);
	for (uint64_t p = now; p < old; p++)
		free(d->page[p]);
	d->page = realloc(d->page, now * sizeof(*d->page));
	d->busy = realloc(d->busy, now);
	for (uint64_t p = old; p < now; p++) {
		d->page[p] = NULL;
		d->busy[p] = 0;
	}
	d->bytes = bytes;
	pthread_mutex_unlock(&fake.lock);
	op->failure = 0;
	return fake_post(r, op, FAKE_CONTROL, 0, 0, NULL);
}

static int fake_leave(struct gvm_region *r, struct gvm_region_op *op)
{
	return fake_post(r, op, FAKE_CONTROL, 0, 0, NULL);
}

static int fake_remove(struct gvm_region *r, struct gvm_region_op *op)
{
	pthread_mutex_lock(&fake.lock);
	FAKE_RULE(r->data->views == 1, "%u views have it open", r->data->views);
	r->data->exists = false;
	pthread_mutex_unlock(&fake.lock);
	op->failure = 0;
	return fake_post(r, op, FAKE_CONTROL, 0, 0, NULL);
}

static void fake_close(struct gvm_region *r)
{
	while (r->first)
		fake_complete(r, r->first, -ECANCELED);
	gvm_timer_clear(r->worker, &r->timer);
	pthread_mutex_lock(&fake.lock);
	for (struct gvm_region **at = &fake.open; *at; at = &(*at)->next_open)
		if (*at == r) {
			*at = r->next_open;
			break;
		}
	if (r->data) {
		r->data->views--;
		if (r->data->views == 0 &&
		    (!r->data->exists || (r->data->flags & GVM_REGION_EPHEMERAL)))
			fake_drop(r->data);
	}
	pthread_mutex_unlock(&fake.lock);
	free(r);
}

static void fake_release(struct gvm_region *r, uint64_t deadline_ns, void (*released)(void *),
			 void *arg)
{
	fake_close(r);
	released(arg);
}

static const struct store_ops fake_store = {
	.open = fake_open,
	.pages = fake_pages,
	.slab_pages = fake_slab_pages,
	.has_storage = fake_has_storage,
	.away_since = fake_away_since,
	.node = fake_node,
	.fetch = fake_fetch,
	.put = fake_put,
	.discard = fake_discard,
	.clone = fake_clone,
	.resize = fake_resize,
	.remove = fake_remove,
	.leave = fake_leave,
	.stay = fake_leave,
	.close = fake_close,
	.release = fake_release,
};

#endif
