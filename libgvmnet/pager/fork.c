/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * fork of a paged process. What the child inherits is enough to go on from: the pages that are
 * mapped and the ones that are victims, copied on write by the kernel, and the bookkeeping of both.
 * What it cannot share is made anew: net, workers, userfaultfds, threads; and regions, of which it
 * gets clones.
 *
 *   prepare   every shard comes to rest (no operation under way, none begun; faults wait), the
 * regions are cloned, the shards' threads stop in their tracks fork      by the caller parent the
 * threads go on child     single-threaded: everything is made anew over the same addresses
 *
 * Shared memory stays shared with the parent, so the child gets no view of it.
 */
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <sys/random.h>
#include "internal.h"

static bool follows(const struct gvm_range *range)
{
	return range->anon && !range->no_fork;
}

/* ---- coming to rest ------------------------------------------------------------------------ */

static void call_rest(struct call *call)
{
	call->shard->settling = true;
	call->shard->rest = call;
	/* the shard's loop ends the call when nothing is under way any more */
}

static void call_go_on(struct call *call)
{
	call->shard->settling = call->shard->resting = false;
	call_done(call, 0);
}

static void cloned(struct gvm_region_op *op, int status)
{
	call_done((struct call *)((char *)op - offsetof(struct call, op)), status);
}

static void call_clone(struct call *call)
{
	struct view *view = &call->shard->views[call->range->id];
	int err;

	call->op.done = cloned;
	call->op.deadline_ns = 0;
	err = call->shard->pager->store->clone(view->region, call->name, GVM_REGION_EPHEMERAL,
					       &call->op);
	if (err)
		call_done(call, err);
	gvm_worker_flush(call->shard->worker);
}

#define DROP_NS 1000000000ull /* most that nodes are waited for that are to drop clones */

static void clone_opened(void *arg, struct gvm_region *region, int status)
{
	call_done(arg, status);
}

/* a: until when */
static void call_clone_open(struct call *call)
{
	struct gvm_range *range = call->range;
	struct shard *shard = call->shard;
	struct gvm_region_config config = { .name = range->clone,
					    .flags = GVM_REGION_EPHEMERAL,
					    .placed_as = range->placed_as,
					    .arg = call };
	int err =
	    shard->pager->store->open(shard->worker, &config, call->a, clone_opened, &call->region);

	if (err) {
		call->region = NULL;
		call_done(call, err);
	}
	gvm_worker_flush(shard->worker);
}

static void call_clone_remove(struct call *call)
{
	int err;

	call->op.done = cloned;
	call->op.deadline_ns = call->a;
	err = call->shard->pager->store->remove(call->region, &call->op);
	if (err)
		call_done(call, err);
	gvm_worker_flush(call->shard->worker);
}

static void call_clone_close(struct call *call)
{
	call->shard->pager->store->close(call->region);
	call_done(call, 0);
}

/* There is no child: what its clones have promised to them is not kept for their linger time. */
static void drop_clone(struct gvm_range *range, uint64_t until)
{
	struct shard *shard = &range->pager->shard[0];
	struct call call = { .range = range, .a = until };

	/* what cannot be opened now goes by itself, as it is ephemeral */
	if (pager_call(shard, call_clone_open, &call) == 0)
		pager_call(shard, call_clone_remove, &call);
	if (call.region)
		pager_call(shard, call_clone_close, &call);
	range->clone[0] = 0;
}

static void drop_clones(struct gvm_pager *pager)
{
	uint64_t until = gvm_now() + DROP_NS;

	for (struct gvm_range *range = pager->list; range && gvm_now() < until; range = range->next)
		if (range->clone[0])
			drop_clone(range, until);
}

static int clone_ranges(struct gvm_pager *pager)
{
	unsigned long long draw;
	int err = 0;

	for (struct gvm_range *range = pager->list; range; range = range->next)
		range->clone[0] = 0;
	/* Names are shown to everybody: no incarnation may be in one. */
	if (getrandom(&draw, sizeof(draw), 0) != sizeof(draw))
		return -EIO;
	for (struct gvm_range *range = pager->list; range && !err; range = range->next) {
		struct call call = { .range = range, .name = range->clone };

		if (!follows(range))
			continue;
		snprintf(range->clone, sizeof(range->clone), "fork-%016llx-%llx-%x", draw,
			 (unsigned long long)pager->forks, range->id);
		err = pager_call(&pager->shard[0], call_clone, &call);
		if (!err)
			continue;
		range->clone[0] = 0;
		gvm_log(GVM_LOG_ERROR, "fork: %s could not be cloned: %s", range->name,
			strerror(-err));
	}
	return err;
}

static void park(struct call *call)
{
	struct gvm_pager *pager = call->shard->pager;

	call_done(call, 0);
	while (__atomic_load_n(&pager->parked, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, &pager->parked, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
}

int gvm_pager_fork_prepare(struct gvm_pager *pager)
{
	int err;

	pthread_mutex_lock(&pager->control);
	pager->forks++;
	pager_call_all(pager, call_rest, NULL, 0, 0);
	err = clone_ranges(pager);
	if (err) {
		drop_clones(pager);
		pager_call_all(pager, call_go_on, NULL, 0, 0);
		pthread_mutex_unlock(&pager->control);
		return err;
	}
	__atomic_store_n(&pager->parked, 1, __ATOMIC_SEQ_CST);
	pager_call_all(pager, park, NULL, 0, 0);
	return 0;
}

void gvm_pager_fork_parent(struct gvm_pager *pager, int forked)
{
	__atomic_store_n(&pager->parked, 0, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &pager->parked, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
	if (!forked)
		drop_clones(pager);
	pager_call_all(pager, call_go_on, NULL, 0, 0);
	pthread_mutex_unlock(&pager->control);
}

/* ---- the child ----------------------------------------------------------------------------- */

/* The child's addresses of it are as the kernel made them. */
static void leave(struct gvm_range *range)
{
	struct gvm_pager *pager = range->pager;

	for (unsigned i = 0; i < pager->shards; i++)
		view_forget(&pager->shard[i].views[range->id]);
	range->own_mapping = false;
	range_free(range);
}

static void leave_some(struct gvm_pager *pager)
{
	struct gvm_range *range = pager->list, *next;

	for (; range; range = next) {
		next = range->next;
		if (!follows(range)) {
			range_delist(range);
			leave(range);
		}
	}
}

static int open_clone(struct gvm_range *range)
{
	struct gvm_pager *pager = range->pager;
	int err = 0;

	snprintf(range->name, sizeof(range->name), "%s", range->clone);
	range->flags &= ~(GVM_ATTACH_SAVE | GVM_ATTACH_KEEP);
	for (unsigned i = 0; i < pager->shards && !err; i++) {
		struct call call = { .range = range, .a = GVM_REGION_EPHEMERAL };

		err = pager_call(&pager->shard[i], call_reopen, &call);
	}
	return err;
}

/* Is it known to be clean for as long as nobody can write to it? */
static bool is_guarded(page_word w)
{
	return page_state(w) == PAGE_MAPPED && !(w & (PAGE_DIRTY | PAGE_UNSURE));
}

/* Pages that are not here may go along with those that are protected; they have nothing to protect.
 */
static int protect_again(struct view *view, const struct part *part)
{
	const page_word *table = view->table + part->first;
	uint64_t from = 0, end, p;
	int err = 0;

	for (; from < part->pages && !err; from = p) {
		if (!is_guarded(table[from])) {
			p = from + 1;
			continue;
		}
		for (p = end = from + 1; p < part->pages; p++) {
			if (is_guarded(table[p]))
				end = p + 1;
			else if (page_state(table[p]) == PAGE_MAPPED)
				break;
		}
		/* the shard is about to read what has changed of the mappings */
		while ((err = mem_protect(view->shard->uffd, part->addr + from * PAGE,
					  (end - from) * PAGE, true)) == -EAGAIN)
			sched_yield();
	}
	return err;
}

/*
 * The kernel has dropped registration and write-protection in the child. The pages that are clean
 * are protected again, to be known to be clean; not those that are dirty or are judged by their
 * digest, for each would cost a fault.
 */
static int register_again(struct gvm_range *range)
{
	struct gvm_pager *pager = range->pager;
	struct parts parts;
	int err = parts_get(range, 0, range->pages, &parts);

	if (err)
		return err;
	for (uint32_t i = 0; i < parts.count && !err; i++) {
		const struct part *part = &parts.part[i];
		int uffd = pager->shard[part->shard].uffd;

		err = mem_register(uffd, part->addr, part->pages * PAGE,
				   UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
		if (!err)
			err = protect_again(&pager->shard[part->shard].views[range->id], part);
	}
	parts_free(&parts);
	return err;
}

/* Until a range has its clone nothing of it may be taken or written. */
static void forget_regions(struct gvm_pager *pager)
{
	for (struct gvm_range *range = pager->list; range; range = range->next) {
		range->leaving = NULL;
		for (unsigned i = 0; i < pager->shards; i++) {
			struct view *view = &pager->shard[i].views[range->id];

			view->region = NULL;
			pager_node_forget(view);
			view->closing = view->paused = true;
		}
	}
}

int gvm_pager_fork_child(struct gvm_pager *pager)
{
	int err;

	pthread_mutex_init(&pager->control, NULL);
	pager->parked = 0;
	err = gvm_net_renew(pager->net);
	if (err)
		return err;
	forget_regions(pager);
	leave_some(pager);
	for (unsigned i = 0; i < pager->shards && !err; i++)
		err = shard_renew(&pager->shard[i]);
	for (unsigned i = 0; i < pager->shards && !err; i++)
		err = shard_start(&pager->shard[i]);
	/* all of them before the first goes on, whose pages then leave: on the same descriptors */
	for (struct gvm_range *range = pager->list; range && !err; range = range->next)
		err = register_again(range);
	for (struct gvm_range *range = pager->list; range && !err; range = range->next) {
		err = open_clone(range);
		if (!err)
			range_resume(range);
	}
	if (err)
		gvm_log(GVM_LOG_ERROR, "a forked child cannot have its paged memory: %s",
			strerror(-err));
	return err;
}
