/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A region's engine in a process: what it acts through (struct ivy_env), the faults that go into
 * it, its time, and frames that are kept back for a moment. The node's thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include "dsm/internal.h"

#define FAULTS    256u /* whose time is taken at once; a power of two */
#define TICK_NS   (100 * DSM_MS)
#define TRIM_NS   (5 * DSM_MS)
#define HOLD_NS   200000ull       /* a page is left to the thread that it was opened for */
#define REFUSE_NS (1000 * DSM_MS) /* until a page is asked for again that there was no room for */

struct dsm_open_fault {
	uint64_t page, began; /* began 0: none */
	uint8_t write;
};

/* ---- what the engine acts through ---------------------------------------------------------- */

static void *engine_alloc(void *user, size_t size)
{
	return malloc(size);
}

static void engine_free(void *user, void *mem, size_t size)
{
	free(mem);
}

static void engine_send(void *user, uint16_t to, const struct gvm_hdr *h, const void *payload)
{
	struct dsm_link *link = dsm_link_get(user, to);

	/* Without memory for a link it is as if the frame had been lost with its session, and asked
	 * for again in time. */
	if (link)
		dsm_link_send(link, h, payload);
}

uint16_t dsm_home(struct gvm_dsm *dsm, uint64_t page)
{
	uint16_t *home = &dsm->homes[page / dsm->slab_pages];

	if (*home == GVM_WIRE_NODE_NONE)
		gvm_place(dsm->node->cluster, dsm->id, page / dsm->slab_pages, 1, home);
	return *home;
}

static uint16_t engine_home(void *user, uint64_t page)
{
	return dsm_home(user, page);
}

/* As many at a time as getrandom() gives without being interrupted. */
uint64_t dsm_random(void)
{
	static _Thread_local uint64_t drawn[32];
	static _Thread_local unsigned left;
	uint64_t v;

	while (left == 0)
		if (getrandom(drawn, sizeof(drawn), 0) == sizeof(drawn))
			left = sizeof(drawn) / sizeof(drawn[0]);
	v = drawn[--left];
	drawn[left] = 0;
	return v;
}

static uint64_t engine_nonce(void *user)
{
	return dsm_random();
}

static const void *copy_read(void *user, uint64_t page)
{
	struct gvm_dsm *dsm = user;

	return dsm_memory_copy_read(dsm->memory, page);
}

static int copy_write(void *user, uint64_t page, const void *bytes)
{
	struct gvm_dsm *dsm = user;

	return dsm_memory_copy_write(dsm->memory, page, bytes);
}

static void copy_drop(void *user, uint64_t page)
{
	struct gvm_dsm *dsm = user;

	dsm_memory_copy_drop(dsm->memory, page);
}

static void protect(void *user, uint64_t page, enum ivy_access access)
{
	struct gvm_dsm *dsm = user;

	dsm_memory_protect(dsm->memory, page, access);
}

/* This node is home of nothing: a home is a memory node. */
static const void *store_read(void *user, uint64_t page)
{
	return NULL;
}

static int store_write(void *user, uint64_t page, const void *bytes)
{
	return -EIO;
}

/* ---- faults -------------------------------------------------------------------------------- */

static struct dsm_open_fault *open_fault(struct gvm_dsm *dsm, uint64_t page)
{
	return &dsm->faults[page & (FAULTS - 1)];
}

static void fault_began(struct gvm_dsm *dsm, uint64_t page, enum ivy_access access)
{
	struct dsm_open_fault *f = open_fault(dsm, page);

	if (!f->began)
		*f = (struct dsm_open_fault){ page, gvm_now(), access == IVY_WRITE };
}

static void fault_ended(struct gvm_dsm *dsm, uint64_t page, enum ivy_access access, int status)
{
	struct dsm_open_fault *f = open_fault(dsm, page);

	if (!f->began || f->page != page || f->write > (access == IVY_WRITE))
		return;
	if (status == 0)
		gvm_hist_add(&dsm->latency[f->write], gvm_now() - f->began);
	f->began = 0;
}

static void copy_stats(struct gvm_dsm *dsm);

/* A page that is lost fails for good: also the copy of an older version, that an upgrade which
 * failed has left. One that failed for want of something can be asked for again. Who gets a SIGBUS
 * finds it counted. */
static void fault_done(void *user, uint64_t page, enum ivy_access access, int status)
{
	struct gvm_dsm *dsm = user;

	fault_ended(dsm, page, access, status);
	if (status) {
		gvm_log_limited(&dsm->node->limit, GVM_LOG_ERROR,
				"region %s: page %llu cannot be had: %s", dsm->name,
				(unsigned long long)page, strerror(-status));
		dsm_pins_failed(dsm, page, status);
		copy_stats(dsm);
	}
	dsm_memory_end(dsm->memory, page, status);
}

static int on_fault(void *user, uint64_t page, enum ivy_access access)
{
	struct gvm_dsm *dsm = user;
	int rc;

	if (dsm->parting)
		return dsm->lost ? -EHOSTDOWN : -EAGAIN;
	fault_began(dsm, page, access);
	rc = ivy_fault(dsm->ivy, page, access);
	if (rc != 1)
		open_fault(dsm, page)->began = 0;
	if (rc < 0 && rc != -ENOMEM)
		dsm_count(&dsm->stats.faults_failed, 1);
	return rc;
}

static int on_evict(void *user, uint64_t page)
{
	struct gvm_dsm *dsm = user;
	enum ivy_access had;
	int rc;

	if (!dsm->ivy)
		return -EBUSY;
	had = ivy_page_access(dsm->ivy, page);
	rc = ivy_evict(dsm->ivy, page);

	if (rc == 0 && had)
		dsm_count(&dsm->stats.evicted, 1);
	return rc;
}

static void on_taken(void *user, uint64_t page)
{
	struct gvm_dsm *dsm = user;

	dsm->taken(dsm->arg, page * GVM_PAGE_SIZE);
}

static void on_memory(struct gvm_watch *watch, uint32_t events)
{
	struct dsm_watch *w = dsm_container(watch, struct dsm_watch, watch);

	dsm_memory_read(w->dsm->memory, w->index);
	dsm_engine_after(w->dsm);
}

/* ---- frames -------------------------------------------------------------------------------- */

/* What takes a page from the programs here, or a part of what they may do with it. */
static int closes(const struct gvm_hdr *h)
{
	return h->type == GVM_COH_INV || h->type == GVM_COH_FWD_READ ||
	       h->type == GVM_COH_FWD_WRITE || h->type == GVM_COH_RECALL;
}

/* Behind one of the same sender about the same page that is kept. */
static int behind_kept(const struct gvm_dsm *dsm, uint16_t from, uint64_t page)
{
	const struct dsm_frame *f;

	STAILQ_FOREACH(f, &dsm->kept, next)
	if (f->from == from && f->h.page == page)
		return 1;
	return 0;
}

static uint64_t held_until(const struct gvm_dsm *dsm, const struct gvm_hdr *h)
{
	return dsm->memory && closes(h) ? dsm_memory_held_until(dsm->memory, h->page) : 0;
}

/*
 * The thread for which a page was opened has been woken, but may have had no processor yet: without
 * this a page that several nodes want could go round without anybody getting on. 1: it is kept.
 */
static int keep(struct gvm_dsm *dsm, uint16_t from, const struct gvm_hdr *h, const void *payload)
{
	int behind = !STAILQ_EMPTY(&dsm->kept) && behind_kept(dsm, from, h->page);
	uint64_t until = behind ? 0 : held_until(dsm, h);
	struct dsm_frame *f;

	if (!behind && !until) /* when to ask again may be over by now, and it is held still */
		return 0;
	f = malloc(sizeof(*f) + h->length);
	if (!f)
		return behind; /* then it is lost, and asked for again; order is kept */
	f->from = from;
	f->h = *h;
	if (h->length)
		memcpy(f->payload, payload, h->length);
	STAILQ_INSERT_TAIL(&dsm->kept, f, next);
	if (!dsm->keep.place)
		gvm_timer_set(dsm->node->worker, &dsm->keep, until);
	return 1;
}

static int deliver(struct gvm_dsm *dsm, uint16_t from, const struct gvm_hdr *h, const void *payload,
		   const char **reason)
{
	int err = ivy_receive(dsm->ivy, from, h, payload);

	if (err != -EPROTO)
		return 0;
	*reason = "a frame of coherence that breaks the rules";
	return err;
}

/* All whose time has come, and those behind them. */
static void on_keep(struct gvm_timer *timer)
{
	struct gvm_dsm *dsm = dsm_container(timer, struct gvm_dsm, keep);
	struct dsm_frames all = STAILQ_HEAD_INITIALIZER(all);
	const char *reason;
	struct dsm_frame *f;

	STAILQ_CONCAT(&all, &dsm->kept);
	while ((f = STAILQ_FIRST(&all))) {
		struct dsm_link *link = dsm->links[f->from];

		STAILQ_REMOVE_HEAD(&all, next);
		/* its session may have ended by the one before */
		if (link->state == LINK_UP && !keep(dsm, f->from, &f->h, f->payload) &&
		    deliver(dsm, f->from, &f->h, f->payload, &reason))
			dsm_link_broke(link, reason);
		free(f);
	}
	dsm_engine_after(dsm);
}

/* Of a session that has ended nothing is delivered any more. */
static void drop_kept(struct gvm_dsm *dsm, int from)
{
	struct dsm_frames all = STAILQ_HEAD_INITIALIZER(all);
	struct dsm_frame *f;

	STAILQ_CONCAT(&all, &dsm->kept);
	while ((f = STAILQ_FIRST(&all))) {
		STAILQ_REMOVE_HEAD(&all, next);
		if (from < 0 || f->from == from)
			free(f);
		else
			STAILQ_INSERT_TAIL(&dsm->kept, f, next);
	}
}

int dsm_engine_take(struct gvm_dsm *dsm, uint16_t from, const struct gvm_hdr *h,
		    const void *payload, const char **reason)
{
	int err = 0;

	dsm_count(&dsm->stats.bytes_received, GVM_WIRE_HDR_LEN + h->length);
	dsm_count(&dsm->stats.pages_received, gvm_coh_has_page(h));
	/* who waits for the page, or for an ACK of this node, is there */
	if (h->type == GVM_COH_FWD_READ || h->type == GVM_COH_FWD_WRITE)
		dsm_link_needed(dsm, (uint16_t)h->arg);
	else if (h->flags & GVM_F_ACKS && h->type == GVM_COH_INV &&
		 gvm_set_count(payload, h->length, dsm->node->nodes) == 1)
		dsm_link_needed(dsm, gvm_set_first(payload));
	if (!keep(dsm, from, h, payload))
		err = deliver(dsm, from, h, payload, reason);
	dsm_engine_after(dsm);
	return err;
}

/* ---- peers --------------------------------------------------------------------------------- */

void dsm_peer_lost(struct gvm_dsm *dsm, uint16_t node)
{
	drop_kept(dsm, node);
	if (dsm->ivy)
		ivy_peer_lost(dsm->ivy, node);
}

void dsm_peer_back(struct gvm_dsm *dsm, uint16_t node)
{
	if (dsm->ivy)
		ivy_peer_back(dsm->ivy, node);
}

void dsm_peer_dead(struct gvm_dsm *dsm, uint16_t node)
{
	drop_kept(dsm, node);
	if (dsm->ivy)
		ivy_peer_dead(dsm->ivy, node);
}

int dsm_home_reborn(struct gvm_dsm *dsm, uint16_t node)
{
	drop_kept(dsm, node);
	return dsm->ivy ? ivy_home_reborn(dsm->ivy, node) : -EAGAIN;
}

/* ---- time ---------------------------------------------------------------------------------- */

/* The counters of an engine that is gone. */
static void add_stats(struct ivy_stats *to, const struct ivy_stats *from)
{
	to->faults_read += from->faults_read;
	to->faults_write += from->faults_write;
	to->faults_failed += from->faults_failed;
	to->sent += from->sent;
	to->received += from->received;
	to->repeated += from->repeated;
	to->invalidated += from->invalidated;
	to->stale += from->stale;
	to->no_memory += from->no_memory;
	to->deltas += from->deltas;
	to->delta_saved += from->delta_saved;
	to->refused += from->refused;
	to->late += from->late;
}

static void copy_stats(struct gvm_dsm *dsm)
{
	struct gvm_dsm_stats *out = &dsm->stats;
	struct ivy_stats st;

	ivy_stats(dsm->ivy, &st);
	add_stats(&st, &dsm->before);
#define SET(to, from) __atomic_store_n(&out->to, st.from, __ATOMIC_RELAXED)
	SET(faults_read, faults_read);
	SET(faults_write, faults_write);
	SET(sent, sent);
	SET(received, received);
	SET(repeated, repeated);
	SET(invalidated, invalidated);
	SET(stale, stale);
	SET(no_memory, no_memory);
	SET(deltas_sent, deltas);
	SET(delta_saved, delta_saved);
	SET(pages_here, pages);
#undef SET
	__atomic_store_n(&dsm->engine_refused, st.refused, __ATOMIC_RELAXED);
	__atomic_store_n(&dsm->engine_late, st.late, __ATOMIC_RELAXED);
	__atomic_store_n(&dsm->engine_failed, st.faults_failed, __ATOMIC_RELAXED);
}

static void keep_stats(struct gvm_dsm *dsm)
{
	struct ivy_stats st;

	copy_stats(dsm);
	ivy_stats(dsm->ivy, &st);
	add_stats(&dsm->before, &st);
}

void dsm_engine_after(struct gvm_dsm *dsm)
{
	int more;

	dsm_pins_go_on(dsm);
	if (!dsm->ivy)
		return;
	dsm_region_evict_on(dsm);
	copy_stats(dsm);
	more = dsm->memory ? dsm_memory_trim(dsm->memory) : 0;
	if (more && !dsm->trim.place)
		gvm_timer_set(dsm->node->worker, &dsm->trim, gvm_now() + (more == 1 ? 0 : TRIM_NS));
	dsm_region_close_on(dsm);
}

static void on_more(struct gvm_timer *timer)
{
	dsm_engine_after(dsm_container(timer, struct gvm_dsm, more));
}

/* If there is no room for the timer: with the next event, or the next tick. */
void dsm_engine_more(struct gvm_dsm *dsm)
{
	if (!dsm->more.place)
		gvm_timer_set(dsm->node->worker, &dsm->more, gvm_now());
}

static void on_trim(struct gvm_timer *timer)
{
	struct gvm_dsm *dsm = dsm_container(timer, struct gvm_dsm, trim);

	if (dsm->memory)
		dsm_memory_bury(dsm->memory);
	dsm_engine_after(dsm);
}

static void on_tick(struct gvm_timer *timer)
{
	struct gvm_dsm *dsm = dsm_container(timer, struct gvm_dsm, tick);
	uint64_t now = gvm_worker_now(dsm->node->worker);

	gvm_timer_set(dsm->node->worker, &dsm->tick, now + TICK_NS);
	ivy_tick(dsm->ivy, now);
	dsm_region_tick(dsm);
	dsm_engine_after(dsm);
}

/* ---- begin and end ------------------------------------------------------------------------- */

static const struct ivy_env env = {
	.alloc = engine_alloc,
	.free = engine_free,
	.send = engine_send,
	.home = engine_home,
	.nonce = engine_nonce,
	.copy_read = copy_read,
	.copy_write = copy_write,
	.copy_drop = copy_drop,
	.protect = protect,
	.store_read = store_read,
	.store_write = store_write,
	.fault_done = fault_done,
};

static void fill_config(struct gvm_dsm *dsm, struct ivy_config *config)
{
	*config = (struct ivy_config){
		.env = &env,
		.user = dsm,
		.region = dsm->id,
		.pages = dsm->pages,
		.page_size = GVM_PAGE_SIZE,
		.epoch = gvm_cluster_epoch(dsm->node->cluster),
		.self = (uint16_t)dsm->node->self,
		.nodes = (uint16_t)dsm->node->nodes,
		/* of the home's part it has none */
		.max_entries = 1,
		.max_txns = 1,
		.max_waiters = 1,
		.max_pages = dsm->pages < UINT32_MAX ? (uint32_t)dsm->pages : UINT32_MAX,
		.max_relays = 4096,
		.retry_ns = gvm_option_number("GVM_DSM_RETRY_MS") * DSM_MS,
		.round_ns = gvm_option_number("GVM_DSM_ROUND_MS") * DSM_MS,
		.wait_ns = gvm_option_number("GVM_DSM_WAIT_MS") * DSM_MS,
		.max_old = (uint32_t)gvm_option_number("GVM_DSM_OLD_PAGES"),
	};
}

int dsm_engine_new(struct gvm_dsm *dsm)
{
	uint64_t now = gvm_worker_now(dsm->node->worker);
	struct ivy_config config;
	struct dsm_link *link;
	int err;

	dsm->faults = calloc(FAULTS, sizeof(*dsm->faults));
	if (!dsm->faults)
		return -ENOMEM;
	fill_config(dsm, &config);
	dsm->tick.fn = on_tick;
	dsm->trim.fn = on_trim;
	dsm->keep.fn = on_keep;
	dsm->more.fn = on_more;
	dsm->put_off.fn = dsm_link_on_late;
	err = gvm_timer_set(dsm->node->worker, &dsm->tick, now + TICK_NS);
	if (!err)
		err = ivy_new(&config, &dsm->ivy);
	if (err)
		return err;
	ivy_tick(dsm->ivy, now);
	LIST_FOREACH(link, &dsm->all, in_region)
	{
		if (link->state != LINK_UP)
			ivy_peer_lost(dsm->ivy, link->node);
		if (link->state == LINK_DEAD)
			ivy_peer_dead(dsm->ivy, link->node);
		if (link->state == LINK_UP && link->reborn)
			err = err ? err : ivy_home_reborn(dsm->ivy, link->node);
		if (link->state == LINK_UP)
			link->reborn = 0;
	}
	return err;
}

void dsm_engine_free(struct gvm_dsm *dsm)
{
	struct gvm_worker *worker = dsm->node->worker;

	gvm_timer_clear(worker, &dsm->tick);
	gvm_timer_clear(worker, &dsm->trim);
	gvm_timer_clear(worker, &dsm->keep);
	gvm_timer_clear(worker, &dsm->more);
	gvm_timer_clear(worker, &dsm->put_off);
	drop_kept(dsm, -1);
	if (dsm->ivy) {
		keep_stats(dsm);
		ivy_free(dsm->ivy);
	}
	dsm->ivy = NULL;
	free(dsm->faults);
	dsm->faults = NULL;
}

static int watch(struct gvm_dsm *dsm)
{
	int err = 0;

	for (unsigned i = 0; i < dsm_memory_fds(dsm->memory) && !err; i++) {
		struct dsm_watch *w = &dsm->watch[i];

		*w = (struct dsm_watch){
			.watch = { .fd = dsm_memory_fd(dsm->memory, i), .ready = on_memory },
			.dsm = dsm,
			.index = i,
		};
		err = gvm_worker_watch(dsm->node->worker, &w->watch, EPOLLIN);
		dsm->watches += !err;
	}
	return err;
}

int dsm_memory_start(struct gvm_dsm *dsm)
{
	struct dsm_memory_config config = { .pages = dsm->pages,
					    .budget = dsm->budget,
					    .hold_ns = HOLD_NS,
					    .refuse_ns = REFUSE_NS,
					    .user = dsm,
					    .fault = on_fault,
					    .evict = on_evict,
					    .taken = dsm->taken ? on_taken : NULL };
	int err = dsm_memory_open(&config, &dsm->memory);

	if (err)
		return err;
	err = watch(dsm);
	if (err)
		dsm_memory_stop(dsm);
	return err;
}

void dsm_memory_stop(struct gvm_dsm *dsm)
{
	for (unsigned i = 0; i < dsm->watches; i++)
		gvm_worker_unwatch(dsm->node->worker, &dsm->watch[i].watch);
	dsm->watches = 0;
	if (dsm->memory)
		dsm_memory_close(dsm->memory);
	dsm->memory = NULL;
}
