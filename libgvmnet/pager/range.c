/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ranges: putting memory under the pager and taking it away, whole or in part; moving it. Called
 * from the program's threads, one at a time (pager->control); the shards' sides run on the shards.
 *
 * Order matters in both directions. In: region, bookkeeping, empty memory, registration; so that
 * the first fault finds everything. Out: no more evictions, end of the registration (which lets
 * waiting threads go on), empty memory, then the bookkeeping.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#include "internal.h"

/* most that a node is waited for that is to let go of a region */
#define RELEASE_NS 1000000000ull
#define REGISTER   (UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP)

void *gvm_range_base(const struct gvm_range *range)
{
	return (void *)range->base;
}

uint64_t gvm_range_bytes(const struct gvm_range *range)
{
	return range->bytes;
}

void gvm_range_set_fork(struct gvm_range *range, int follow)
{
	range->no_fork = !follow;
}

/* ---- views --------------------------------------------------------------------------------- */

void view_idle(struct view *view)
{
	struct call *call = view->drain;

	if (!call || view->jobs || (call->a && view->busy))
		return;
	view->drain = NULL;
	call_done(call, 0);
}

static void region_opened(void *arg, struct gvm_region *region, int status)
{
	struct view *view = arg;
	struct call *call = view->drain;

	view->drain = NULL;
	if (status == 0)
		outlets_note(view);
	call_done(call, status);
}

/* flags: GVM_REGION_*. A node that is away at the start is an error, not a stall. b: until when it
 * is waited for, 0: as the options say. */
static void open_region(struct call *call, struct view *view, uint32_t flags)
{
	struct gvm_range *range = call->range;
	struct shard *shard = call->shard;
	struct gvm_region_config config = {
		.name = range->name,
		.bytes = flags & GVM_REGION_CREATE ? range->bytes : 0,
		.slab_bytes = flags & GVM_REGION_CREATE ? range->slab_bytes : 0,
		.flags = flags,
		.placed_as = range->placed_as,
		.arg = view,
		.node_state = pager_node_state,
	};
	int err;

	view->drain = call;
	err = shard->pager->store->open(shard->worker, &config, call->b, region_opened,
					&view->region);
	if (err) {
		view->drain = NULL;
		view->region = NULL;
		call_done(call, err);
	}
	gvm_worker_flush(shard->worker);
}

/* a: GVM_REGION_* flags; b: deadline, or 0 */
static void call_open(struct call *call)
{
	struct gvm_range *range = call->range;
	struct view *view = &call->shard->views[range->id];

	memset(view, 0, sizeof(*view));
	view->shard = call->shard;
	view->range = range;
	view->id = range->id;
	view->anon = range->anon;
	open_region(call, view, (uint32_t)call->a);
}

/* The region has another size, or is another one (a clone): nothing of it is under way. */
void call_reopen(struct call *call)
{
	struct view *view = &call->shard->views[call->range->id];

	if (view->region)
		call->shard->pager->store->close(view->region);
	view->region = NULL;
	pager_node_forget(view);
	open_region(call, view, (uint32_t)call->a);
}

static void released(void *arg)
{
	call_done(arg, 0);
}

/* Ends the call when the nodes have let go of the region. */
static void release(struct call *call, struct gvm_region *region)
{
	struct shard *shard = call->shard;

	shard->pager->store->release(region, gvm_now() + RELEASE_NS, released, call);
	gvm_worker_flush(shard->worker);
}

static void call_close(struct call *call)
{
	struct view *view = &call->shard->views[call->range->id];
	struct gvm_region *region = view->region;

	if (view->shard)
		pager_node_forget(view);
	memset(view, 0, sizeof(*view));
	if (region)
		release(call, region);
	else
		call_done(call, 0);
}

/* What the region holds already, for one that existed. */
static void note_stored(struct view *view)
{
	const struct store_ops *store = view->shard->pager->store;
	uint64_t until;

	for (uint64_t p = 0; (p = view_stretch(view, p, view->pages, &until)) < view->pages;) {
		uint64_t slab_end = (p / view->slab_pages + 1) * view->slab_pages;
		int stored = store->has_storage(view->region, p);

		until = until < slab_end ? until : slab_end;
		if (stored)
			STAT_ADD(view->shard, stored_pages, until - p);
		for (; p < until; p++)
			if (stored)
				view->table[p] |= PAGE_STORED;
	}
}

/* a: whether the region existed */
static void call_ready(struct call *call)
{
	struct gvm_range *range = call->range;
	struct view *view = &call->shard->views[range->id];
	int err;

	view->table = range->table;
	view->pages = range->pages;
	view->slab_pages = range->slab_pages;
	if (call->a)
		note_stored(view);
	err = piece_add(call->shard, range->base, 0, range->pages, range->id);
	view->used = err == 0;
	call_done(call, err);
}

static void call_closing(struct call *call)
{
	struct view *view = &call->shard->views[call->range->id];

	/* no fault is answered and no page taken from now on */
	view->closing = true;
	prefetch_forget(call->shard, view->id);
	call_done(call, 0);
}

/* Wait for the helper's jobs; a: for the region's operations too. */
void call_drain(struct call *call)
{
	struct view *view = &call->shard->views[call->range->id];

	view->drain = call;
	view_idle(view);
}

void view_forget(struct view *view)
{
	uint64_t until;

	if (!view->used)
		return;
	for (uint64_t p = 0; (p = view_stretch(view, p, view->pages, &until)) < view->pages;)
		for (; p < until; p++) {
			if (view->table[p] & PAGE_STORED)
				STAT_ADD(view->shard, stored_pages, -1);
			if (view->table[p])
				page_forget(view, p, PAGE_GONE);
		}
	piece_drop_range(view->shard, view->id);
	view->used = false;
}

static void call_forget(struct call *call)
{
	view_forget(&call->shard->views[call->range->id]);
	shard_wake_waits(call->shard);
	call_done(call, 0);
}

/* With operations under way the region completes them all, cancelled, before close returns. */
static void call_cancel(struct call *call)
{
	struct view *view = &call->shard->views[call->range->id];

	release(call, view->region);
	view->region = NULL;
}

/* Before the first view deletes it: to the others it would be gone without their doing. */
static void call_cancel_others(struct call *call)
{
	if (call->shard->number)
		call_cancel(call);
	else
		call_done(call, 0);
}

static void removed(struct gvm_region_op *op, int status)
{
	call_done((struct call *)((char *)op - offsetof(struct call, op)), status);
}

static void call_remove(struct call *call)
{
	struct view *view = &call->shard->views[call->range->id];
	int err;

	call->op.done = removed;
	call->op.deadline_ns = gvm_now() + RELEASE_NS;
	err = call->shard->pager->store->remove(view->region, &call->op);
	if (err)
		call_done(call, err);
	gvm_worker_flush(call->shard->worker);
}

/* ---- memory -------------------------------------------------------------------------------- */

int range_punch(const struct gvm_range *range, uint64_t offset, uint64_t bytes)
{
	return sys_punch(range->memfd, range->offset + offset, bytes) < 0 ? -errno : 0;
}

static int empty_range(const struct gvm_range *range)
{
	if (range->anon)
		return sys_madvise((void *)range->base, range->bytes, MADV_DONTNEED) < 0 ? -errno
											 : 0;
	return range_punch(range, 0, range->bytes);
}

/* Every slab with the userfaultfd of its shard. */
int range_register(struct gvm_range *range, uint64_t first, uint64_t pages, uint64_t addr)
{
	struct gvm_pager *pager = range->pager;
	int err = 0;

	for (unsigned i = 0; i < pager->shards && !err; i++) {
		struct view *view = &pager->shard[i].views[range->id];
		uint64_t p = first, end = first + pages, until;

		while (!err && (p = view_stretch(view, p, end, &until)) < end) {
			err = mem_register(pager->shard[i].uffd, addr + (p - first) * PAGE,
					   (until - p) * PAGE, REGISTER);
			p = until;
		}
	}
	return err;
}

/* ---- where the range is -------------------------------------------------------------------- */

/* a, b: pages from, to; cursor: where to write; phase: room there. */
static void call_parts(struct call *call)
{
	struct shard *shard = call->shard;
	struct view *view = &shard->views[call->range->id];
	struct part *parts = (struct part *)call->cursor;
	uint32_t n = 0;

	for (uint32_t k = 0; k < shard->piece_count; k++) {
		const struct piece *p = &shard->pieces[k];
		uint64_t at = p->first > call->a ? p->first : call->a, until;
		uint64_t end = p->first + p->pages < call->b ? p->first + p->pages : call->b;

		if (p->range != view->id)
			continue;
		while (at < end && (at = view_stretch(view, at, end, &until)) < end) {
			if (n == call->phase) {
				call_done(call, -ENOSPC);
				return;
			}
			parts[n++] = (struct part){ p->addr + (at - p->first) * PAGE, at,
						    until - at, shard->number };
			at = until;
		}
	}
	call_done(call, (int)n);
}

/* The addresses of pages [from, to), as far as they are mapped: at most PARTS_MAX parts. */
int parts_get(struct gvm_range *range, uint64_t from, uint64_t to, struct parts *parts)
{
	struct gvm_pager *pager = range->pager;
	uint64_t most;

	parts->count = 0;
	/* each slab and each hole may divide it once */
	most = range->pages / range->slab_pages + PARTS_MAX;
	parts->bytes = most * sizeof(*parts->part);
	parts->part = mem_map(parts->bytes);
	if (!parts->part)
		return -ENOMEM;
	for (unsigned i = 0; i < pager->shards; i++) {
		struct call call = { .range = range,
				     .a = from,
				     .b = to,
				     .cursor = (uintptr_t)(parts->part + parts->count),
				     .phase = (uint32_t)(most - parts->count) };
		int n = pager_call(&pager->shard[i], call_parts, &call);

		if (n < 0) {
			parts_free(parts);
			return n;
		}
		parts->count += (uint32_t)n;
	}
	return 0;
}

void parts_free(struct parts *parts)
{
	mem_unmap(parts->part, parts->bytes);
}

static void unregister_parts(struct gvm_range *range, const struct parts *parts)
{
	for (uint32_t i = 0; i < parts->count; i++)
		mem_unregister(range->pager->shard[parts->part[i].shard].uffd, parts->part[i].addr,
			       parts->part[i].pages * PAGE);
}

static int empty_parts(const struct parts *parts)
{
	int err = 0;

	for (uint32_t i = 0; i < parts->count; i++)
		if (sys_madvise((void *)parts->part[i].addr, parts->part[i].pages * PAGE,
				MADV_DONTNEED) < 0)
			err = -errno;
	return err;
}

static void unmap_parts(const struct parts *parts)
{
	for (uint32_t i = 0; i < parts->count; i++)
		sys_munmap((void *)parts->part[i].addr, parts->part[i].pages * PAGE);
}

static int adopt_memfd(struct gvm_range *range, int memfd, uint64_t offset)
{
	range->memfd = gvm_own_fd(fcntl(memfd, F_DUPFD_CLOEXEC, 3));
	if (range->memfd < 0)
		return -errno;
	range->offset = offset;
	return 0;
}

static int prepare_memory(struct gvm_range *range, void *base)
{
	void *p = base;
	int err;

	if (!base) {
		p = sys_mmap(NULL, range->bytes, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (p == MAP_FAILED)
			return -errno;
		range->own_mapping = true;
	}
	range->base = (uintptr_t)p;
	sys_madvise(p, range->bytes, huge_advice(range));
	sys_madvise(p, range->bytes, MADV_UNMERGEABLE);
	err = empty_range(range);
	if (err)
		gvm_log(GVM_LOG_ERROR, "memory for %s cannot be emptied: %s", range->name,
			strerror(-err));
	return err;
}

/* ---- attaching ----------------------------------------------------------------------------- */

static int range_number(struct gvm_pager *pager, struct gvm_range *range)
{
	for (uint32_t id = 0; id < RANGES_MAX; id++) {
		if (pager->ranges[id])
			continue;
		pager->ranges[id] = range;
		range->id = id;
		/* shards read it; views below it are valid, if unused */
		if (id >= pager->range_next)
			__atomic_store_n(&pager->range_next, id + 1, __ATOMIC_SEQ_CST);
		return 0;
	}
	return -ENOSPC;
}

void range_free(struct gvm_range *range)
{
	struct gvm_pager *pager = range->pager;

	if (range->memfd >= 0)
		close(range->memfd);
	if (range->table) {
		mem_unmap(range->table, range->table_pages * sizeof(*range->table));
		__atomic_sub_fetch(&pager->metadata, range->table_pages * sizeof(*range->table),
				   __ATOMIC_RELAXED);
	}
	if (pager->ranges[range->id] == range)
		pager->ranges[range->id] = NULL;
	mem_unmap(range, sizeof(*range));
}

static void close_views(struct gvm_range *range)
{
	pager_call_all(range->pager, call_close, range, 0, 0);
}

static int open_views(struct gvm_range *range, uint32_t flags)
{
	struct gvm_pager *pager = range->pager;
	uint32_t later = flags & ~(GVM_REGION_CREATE | GVM_REGION_EXCL);
	uint64_t ms = pager->config.attach_ms, until = ms ? gvm_now() + ms * 1000000 : 0;
	int err;

	for (unsigned i = 0; i < pager->shards; i++) {
		struct call call = { .range = range, .a = i == 0 ? flags : later, .b = until };

		err = pager_call(&pager->shard[i], call_open, &call);
		if (err) {
			close_views(range);
			return err;
		}
	}
	return 0;
}

static int check_attach(const char *name, void *base, uint64_t bytes, int memfd, uint64_t offset,
			unsigned flags)
{
	if (!name || strlen(name) > 63 || bytes == 0 || bytes % PAGE || (uintptr_t)base % PAGE ||
	    offset % PAGE)
		return -EINVAL;
	if (bytes / PAGE >= GVM_NIL || (uintptr_t)base + bytes < (uintptr_t)base)
		return -ERANGE;
	if (flags & ~(GVM_ATTACH_KEEP | GVM_ATTACH_SAVE | GVM_ATTACH_ANON | GVM_ATTACH_HUGE))
		return -EINVAL;
	if (!!(flags & GVM_ATTACH_ANON) == (memfd >= 0) || (memfd >= 0 && !base))
		return -EINVAL;
	if ((flags & GVM_ATTACH_HUGE) && memfd >= 0)
		return -EINVAL;
	return 0;
}

static uint32_t region_flags(unsigned flags)
{
	if (flags & GVM_ATTACH_KEEP)
		return 0;
	return GVM_REGION_CREATE | GVM_REGION_EXCL |
	       (flags & GVM_ATTACH_SAVE ? 0 : GVM_REGION_EPHEMERAL);
}

/* A memory node gives whole slabs: a program with many small mappings is not to use one up for
 * each.
 */
static uint32_t slab_for(const struct gvm_pager *pager, uint64_t bytes)
{
	uint32_t slab = pager->config.slab_bytes ? pager->config.slab_bytes : GVM_SLAB_BYTES;

	while (slab / 2 >= GVM_SLAB_BYTES_MIN && slab / 2 >= bytes)
		slab /= 2;
	return slab;
}

static struct gvm_range *range_alloc(struct gvm_pager *pager, const char *name, uint64_t bytes,
				     unsigned flags)
{
	struct gvm_range *range = mem_map(sizeof(*range));

	if (!range)
		return NULL;
	range->pager = pager;
	range->bytes = bytes;
	range->pages = range->mapped_pages = bytes / PAGE;
	range->flags = flags;
	range->anon = flags & GVM_ATTACH_ANON;
	range->slab_bytes = slab_for(pager, bytes);
	range->slab_pages = range->slab_bytes / PAGE;
	range->memfd = -1;
	snprintf(range->name, sizeof(range->name), "%s", name);
	snprintf(range->placed_as, sizeof(range->placed_as), "%s", name);
	return range;
}

static int make_table(struct gvm_range *range)
{
	uint64_t bytes = range->pages * sizeof(*range->table);

	range->table_pages = range->pages;
	range->table = mem_map(bytes);
	if (!range->table)
		return -ENOMEM;
	__atomic_add_fetch(&range->pager->metadata, bytes, __ATOMIC_RELAXED);
	return 0;
}

static int match_region(struct gvm_range *range)
{
	const struct view *view = &range->pager->shard[0].views[range->id];
	const struct store_ops *store = range->pager->store;

	if (store->pages(view->region) < range->pages) {
		gvm_log(GVM_LOG_ERROR,
			"region %s has %llu pages, not the %llu of the memory that is to "
			"show it",
			range->name, (unsigned long long)store->pages(view->region),
			(unsigned long long)range->pages);
		return -EINVAL;
	}
	range->slab_pages = (uint32_t)store->slab_pages(view->region);
	range->slab_bytes = range->slab_pages * PAGE;
	return 0;
}

static void enlist(struct gvm_range *range)
{
	struct gvm_pager *pager = range->pager;

	range->next = pager->list;
	if (range->next)
		range->next->prev = range;
	pager->list = range;
	__atomic_add_fetch(&pager->attached, range->pages, __ATOMIC_RELAXED);
}

/* An attach that failed half way. */
static void take_apart(struct gvm_range *range)
{
	struct gvm_pager *pager = range->pager;
	struct parts parts;

	if (range->table && parts_get(range, 0, range->pages, &parts) == 0) {
		unregister_parts(range, &parts);
		parts_free(&parts);
		pager_call_all(pager, call_forget, range, 0, 0);
	}
	if (range->own_mapping)
		sys_munmap((void *)range->base, range->bytes);
	close_views(range);
}

static int attach(struct gvm_range *range, void *base)
{
	struct gvm_pager *pager = range->pager;
	bool keep = range->flags & GVM_ATTACH_KEEP;
	int err = range_number(pager, range);

	if (err)
		return err;
	err = open_views(range, region_flags(range->flags));
	if (err)
		return err;
	err = match_region(range);
	if (!err)
		err = make_table(range);
	if (!err)
		err = prepare_memory(range, base);
	if (!err)
		err = pager_call_all(pager, call_ready, range, keep, 0);
	if (!err)
		err = range_register(range, 0, range->pages, range->base);
	if (!err) {
		enlist(range);
		return 0;
	}
	gvm_log(GVM_LOG_ERROR, "memory at %p cannot be paged: %s", (void *)range->base,
		strerror(-err));
	take_apart(range);
	return err;
}

int gvm_pager_attach(struct gvm_pager *pager, const char *name, void *base, uint64_t bytes,
		     int memfd, uint64_t offset, unsigned flags, struct gvm_range **out)
{
	struct gvm_range *range;
	int err = check_attach(name, base, bytes, memfd, offset, flags);

	if (err)
		return err;
	if (memfd >= 0 && !pager->shmem_wp) {
		gvm_log(GVM_LOG_ERROR, "this kernel cannot write-protect shared memory: "
				       "a kernel of 5.19 or later is needed, or private memory");
		return -ENOSYS;
	}
	range = range_alloc(pager, name, bytes, flags);
	if (!range)
		return -ENOMEM;
	pthread_mutex_lock(&pager->control);
	if (memfd >= 0)
		err = adopt_memfd(range, memfd, offset);
	if (!err)
		err = attach(range, base);
	if (err)
		range_free(range);
	pthread_mutex_unlock(&pager->control);
	if (!err)
		*out = range;
	return err;
}

/* ---- detaching ----------------------------------------------------------------------------- */

void range_delist(struct gvm_range *range)
{
	struct gvm_pager *pager = range->pager;

	if (range->prev)
		range->prev->next = range->next;
	else
		pager->list = range->next;
	if (range->next)
		range->next->prev = range->prev;
	__atomic_sub_fetch(&pager->attached, range->pages, __ATOMIC_RELAXED);
}

/* No operation of the region is under way or wanted any more. */
static void let_region_go(struct gvm_range *range, bool save)
{
	struct gvm_pager *pager = range->pager;
	struct call call = { .range = range }, last = { .range = range };

	/* what is under way need not be waited for if nothing is kept: its node may be away, and
	 * then an ephemeral region goes by itself */
	if (!save && !(range->flags & GVM_ATTACH_SAVE) &&
	    __atomic_load_n(&pager->nodes_away, __ATOMIC_RELAXED) == 0) {
		pager_call_all(pager, call_cancel_others, range, 0, 0);
		pager_call(&pager->shard[0], call_remove, &call);
		pager_call(&pager->shard[0], call_cancel, &last);
	} else if (!save) {
		pager_call_all(pager, call_cancel, range, 0, 0);
	}
	pager_call_all(pager, call_drain, range, 1, 0);
}

/* Under control. The first error is told, but everything is taken apart in any case. */
int range_detach_locked(struct gvm_range *range, bool save)
{
	struct gvm_pager *pager = range->pager;
	struct parts parts;
	int err = save ? pager_call_all(pager, call_sync, range, 0, 0) : 0, r;

	pager_call_all(pager, call_closing, range, 0, 0);
	r = parts_get(range, 0, range->pages, &parts);
	if (r)
		return r;
	/* a job of the helper's may itself wait for a fault that is not answered any more */
	unregister_parts(range, &parts);
	pager_call_all(pager, call_drain, range, 0, 0);
	r = range->anon ? empty_parts(&parts) : range_punch(range, 0, range->bytes);
	err = err ? err : r;
	let_region_go(range, save);
	pager_call_all(pager, call_forget, range, 0, 0);
	close_views(range);
	if (range->own_mapping)
		unmap_parts(&parts);
	parts_free(&parts);
	range_delist(range);
	range_free(range);
	return err;
}

int range_detach(struct gvm_range *range, bool save)
{
	struct gvm_pager *pager = range->pager;
	int err;

	pthread_mutex_lock(&pager->control);
	err = range_detach_locked(range, save);
	pthread_mutex_unlock(&pager->control);
	return err;
}

int gvm_pager_detach(struct gvm_range *range)
{
	return range_detach(range, range->flags & GVM_ATTACH_SAVE);
}

int gvm_pager_sync(struct gvm_range *range)
{
	struct gvm_pager *pager = range->pager;
	int err;

	pthread_mutex_lock(&pager->control);
	err = pager_call_all(pager, call_sync, range, 1, 0);
	pthread_mutex_unlock(&pager->control);
	return err;
}

/* ---- discarding ---------------------------------------------------------------------------- */

/* a, b: pages from, to */
static void call_discard(struct call *call)
{
	struct view *view = &call->shard->views[call->range->id];

	discard_pages(view, call->a, call->b);
	call_done(call, 0);
}

static void call_recheck(struct call *call)
{
	shard_recheck(call->shard, false);
	call_done(call, 0);
}

static bool inside(const struct gvm_range *range, uint64_t offset, uint64_t bytes)
{
	return offset % PAGE == 0 && bytes % PAGE == 0 && offset <= range->bytes &&
	       bytes <= range->bytes - offset;
}

/* The mapping is emptied from this thread: a shard would wait for itself to read the event. */
static int empty_pages(struct gvm_range *range, uint64_t from, uint64_t to)
{
	struct parts parts;
	int err;

	if (!range->anon)
		return range_punch(range, from * PAGE, (to - from) * PAGE);
	err = parts_get(range, from, to, &parts);
	if (err)
		return err;
	err = empty_parts(&parts);
	parts_free(&parts);
	return err;
}

int gvm_pager_discard(struct gvm_range *range, uint64_t offset, uint64_t bytes)
{
	struct gvm_pager *pager = range->pager;
	int err;

	if (!inside(range, offset, bytes))
		return -EINVAL;
	if (bytes == 0)
		return 0;
	pthread_mutex_lock(&pager->control);
	pager_call_all(pager, call_discard, range, offset / PAGE, (offset + bytes) / PAGE);
	err = empty_pages(range, offset / PAGE, (offset + bytes) / PAGE);
	pager_call_all(pager, call_recheck, range, 0, 0);
	pthread_mutex_unlock(&pager->control);
	return err;
}

/* ---- leaving ------------------------------------------------------------------------------- */

#define LEAVE_NS 1000000000ull /* most that the end of a process waits for */

static void leave_answered(struct call *call)
{
	if (--call->a == 0)
		call_done(call, 0);
}

static void left(struct gvm_region_op *op, int status)
{
	struct gvm_range *range =
	    (struct gvm_range *)((char *)op - offsetof(struct gvm_range, leave));
	struct call *call = range->leaving;

	(void)status; /* who has not heard of it keeps the memory for its linger time */
	range->leaving = NULL;
	leave_answered(call);
}

/* The linger time is the region's, not a view's: one view is enough. call->a: what is not over yet;
 * call->b: stay. */
static void call_leave(struct call *call)
{
	struct gvm_pager *pager = call->shard->pager;

	call->a = 1;
	for (struct gvm_range *range = pager->list; range; range = range->next) {
		struct view *view = &call->shard->views[range->id];

		if (range->leaving) /* an earlier one was late */
			continue;
		if (!view->region || range->flags & (GVM_ATTACH_SAVE | GVM_ATTACH_KEEP))
			continue;
		range->leave.done = left;
		range->leave.deadline_ns = gvm_now() + LEAVE_NS;
		range->leaving = call;
		if (!(call->b ? pager->store->stay : pager->store->leave)(view->region,
									  &range->leave))
			call->a++;
		else
			range->leaving = NULL;
	}
	gvm_worker_flush(call->shard->worker);
	leave_answered(call);
}

/* Somebody who has the lock waits for a node, perhaps for long; then the linger time must do. */
static void leave_or_stay(struct gvm_pager *pager, int stay)
{
	struct call call = { .b = (uint64_t)stay };
	uint64_t end = gvm_now() + LEAVE_NS;
	struct timespec until = { .tv_sec = (time_t)(end / 1000000000),
				  .tv_nsec = (long)(end % 1000000000) };

	if (pthread_mutex_clocklock(&pager->control, CLOCK_MONOTONIC, &until))
		return;
	pager_call_until(&pager->shard[0], call_leave, &call, end);
	pthread_mutex_unlock(&pager->control);
}

void gvm_pager_leave(struct gvm_pager *pager)
{
	leave_or_stay(pager, 0);
}

void gvm_pager_stay(struct gvm_pager *pager)
{
	leave_or_stay(pager, 1);
}
