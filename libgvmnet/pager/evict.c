/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How pages leave: out of the mapping into the queue of victims, from there to the memory node if
 * they are dirty, and away. The shard's thread only, in rounds of bounded work between faults.
 *
 * Taking a page must be atomic for those who write to it. Anonymous memory, new kernels: the page
 * itself is moved into the slot (UFFDIO_MOVE). Anonymous memory, older kernels: write-protect; the
 * helper copies it and empties the mapping (the emptying waits for this thread to read its event,
 * so this thread cannot do it). Shared memory: write-protect, copy through the descriptor, punch a
 * hole. A thread that writes in between waits in a write-protection fault, and faults again
 * afterwards.
 */
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>
#include "internal.h"

#define RETRY_NS 2000000ull   /* pages that did not let go are not asked again before */
#define STAY     64u          /* mapped pages that are left where nearly all is stranded */
#define IDLE_NS  100000000ull /* nor is anything looked at when only an absent node can help */

#define SYNC_FIRST_NS 1000000ull /* a sync does not ask again for a page before; doubles */
#define SYNC_LAST_NS  64000000ull

/* A page has not let go of what a sync wants of it. */
static void sync_later(struct call *call)
{
	call->again_ns = call->again_ns ? 2 * call->again_ns : SYNC_FIRST_NS;
	if (call->again_ns > SYNC_LAST_NS)
		call->again_ns = SYNC_LAST_NS;
	call->again = gvm_now() + call->again_ns;
}

/* ---- taking -------------------------------------------------------------------------------- */

/* The page's contents are in slot i, out of the mapping: what is it worth? */
static void settle_victim(struct view *view, uint64_t page, uint32_t i, bool give_back)
{
	struct shard *shard = view->shard;
	page_word w = view->table[page];
	struct slot *slot = &shard->slots[i];
	bool zero = (w & PAGE_DIRTY) && !(w & PAGE_STORED) && mem_is_zero(slot_mem(shard, i));

	slot->flags |= SLOT_FULL;
	if (w & PAGE_AHEAD) /* what was put there as zeros and is none any more was written to */
		prefetch_outcome(view, page, (w & PAGE_DIRTY) && !(w & PAGE_STORED) && !zero);
	if (w & PAGE_REMOVED) {
		slot_put(shard, i);
		frames_release(shard, 1);
		view->table[page] = page_make(PAGE_NONE, w & PAGE_KEEP, 0);
		return;
	}
	if (zero) {
		slot_put(shard, i);
		frames_release(shard, 1);
		STAT_ADD(shard, evicted_pages, 1);
		STAT_ADD(shard, evicted_zero, 1);
		view->table[page] = page_make(PAGE_NONE, w & PAGE_KEEP, 0);
		return;
	}
	slot->page = (uint32_t)page;
	slot->range = (uint16_t)view->id;
	view->table[page] = page_make(
	    PAGE_VICTIM, (w & (PAGE_KEEP | PAGE_DIRTY)) | (give_back ? PAGE_RETURN : 0), i);
	if (w & PAGE_DIRTY) {
		view->dirty++;
		dirty_assign(view, page, i);
		dirty_push(shard, i);
	}
	victim_push(shard, i);
	if (!(w & PAGE_DIRTY) && give_back) {
		view->table[page] &= ~(page_word)PAGE_RETURN;
		victim_back(view, page, false);
	}
}

static void unlink_frame(struct view *view, uint64_t page)
{
	struct shard *shard = view->shard;
	uint32_t i = page_index(view->table[page]);

	frame_unlink(shard, i);
	frame_put(shard, i);
}

/* Does a page that is in its slot hold what was fetched? Nobody can write to it any more. */
static void judge(struct view *view, uint64_t page, uint32_t slot, const struct digest *digest)
{
	struct shard *shard = view->shard;
	page_word w = view->table[page];

	if ((w & (PAGE_UNSURE | PAGE_DIRTY)) == PAGE_UNSURE &&
	    !digest_matches(shard->pager->digests, slot_mem(shard, slot), digest)) {
		if (w & PAGE_AHEAD)
			prefetch_outcome(view, page, true);
		w = (w | PAGE_DIRTY) & ~(page_word)PAGE_AHEAD;
	}
	view->table[page] = w & ~(page_word)PAGE_UNSURE;
}

static void took(struct view *view, uint64_t page, uint32_t slot, bool give_back)
{
	judge(view, page, slot, &view->shard->frames[page_index(view->table[page])].digest);
	unlink_frame(view, page);
	settle_victim(view, page, slot, give_back);
}

static void give_slots_back(struct shard *shard, uint32_t first, uint32_t from, uint32_t count)
{
	for (uint32_t k = from; k < count; k++)
		slot_put(shard, first + k);
}

/*
 * The kernel's word that there is no page is no proof: while it migrates a page (compaction), a
 * move can find the entry empty for an instant (seen on 6.18). mincore looks under the lock.
 */
static bool is_gone(struct view *view, uint64_t page)
{
	unsigned char present = 1;

	return mincore((void *)view_addr(view, page), PAGE, &present) == 0 && !(present & 1);
}

static int take_helped(struct view *view, uint64_t page, uint32_t count, bool give_back)
{
	struct shard *shard = view->shard;
	struct job *job = job_get(shard);
	uint32_t first = 0, n;
	int err = 0;

	if (!job)
		return 0;
	n = slot_get(shard, count, false, &first);
	if (n)
		err = mem_protect(shard->uffd, view_addr(view, page), (uint64_t)n * PAGE, true);
	if (n == 0 || err) {
		give_slots_back(shard, first, 0, n);
		job->next_free = shard->job_free;
		shard->job_free = job->number;
		return n == 0 || err == -EAGAIN ? 0 : TAKE_STAYS;
	}
	job->view = view;
	job->kind = JOB_TAKE;
	job->page = page;
	job->count = n;
	job->slot = first;
	job->addr = view_addr(view, page);
	for (uint32_t k = 0; k < n; k++) {
		page_word w = view->table[page + k];

		/* what it is to be judged by lies in the slot meanwhile, which is in no queue */
		memcpy(&shard->slots[first + k].link, &shard->frames[page_index(w)].digest,
		       sizeof(struct digest));
		unlink_frame(view, page + k);
		view->table[page + k] =
		    page_make(PAGE_TAKING,
			      (w & (PAGE_KEEP | PAGE_DIRTY | PAGE_AHEAD | PAGE_UNSURE)) |
				  (give_back ? PAGE_RETURN : 0),
			      job->number);
	}
	view->taking += n;
	shard->taking += n;
	job_post(job);
	return (int)n;
}

/*
 * How many of the pages from this one on are shared with a child, or, if this one is not, how many
 * are not: the kernel tells whether a page is mapped here only.
 */
static uint32_t shared_run(struct view *view, uint64_t page, uint32_t count, bool *shared)
{
	const uint64_t here = 1ull << 63, mine = 1ull << 56;
	uint64_t maps[ROUND], at = view_addr(view, page) / PAGE * sizeof(*maps);
	ssize_t got = pread(view->shard->pagemap_fd, maps, count * sizeof(*maps), (off_t)at);
	uint32_t n = 1;

	*shared = got > 0 && (maps[0] & (here | mine)) == here;
	while (n < count && (size_t)got > n * sizeof(*maps) && (maps[n] & here) &&
	       !(maps[n] & mine) == *shared)
		n++;
	return n;
}

/* Have the kernel unshare pages, as a write would. */
static int have_unshared(struct view *view, uint64_t page, uint32_t count)
{
	struct job *job = job_get(view->shard);

	if (!job)
		return TAKE_REFUSED;
	job->view = view;
	job->kind = JOB_POPULATE;
	job->page = page;
	job->count = count;
	job->addr = view_addr(view, page);
	job_post(job);
	for (uint32_t k = 0; k < count; k++)
		view->table[page + k] |= PAGE_BUSY;
	return TAKE_REFUSED;
}

/*
 * Busy: shared with a child, by a fork. Nobody can have pinned such a page, for the kernel gives
 * each side its own then: so the helper copies them. Or, if it is mapped here only, the child has
 * gone, and the kernel has to be told that it is ours now. Or it is pinned by a transfer of the
 * kernel's. That is seen when it still does not leave after the helper has asked for it.
 */
static int take_busy(struct view *view, uint64_t page, uint32_t count, bool give_back)
{
	struct shard *shard = view->shard;
	bool shared;
	uint32_t n;

	n = shared_run(view, page, count, &shared);
	if (shared)
		return take_helped(view, page, n, give_back);
	if (!(view->table[page] & PAGE_BUSY))
		return have_unshared(view, page, n);
	if (shard->populating)
		return TAKE_REFUSED;
	view->table[page] &= ~(page_word)PAGE_BUSY;
	return TAKE_STAYS;
}

/*
 * Nor is the number of pages that a move reports when it ends early (seen on 6.18, during
 * compaction): it may have moved more. A slot that was empty and has a page now has the page that
 * was to go there.
 */
static uint64_t really_moved(struct shard *shard, uint32_t first, uint32_t n, uint64_t done)
{
	unsigned char present[ROUND] = { 0 };

	if (mincore(slot_mem(shard, first), (uint64_t)n * PAGE, present) < 0)
		return done;
	while (done / PAGE < n && (present[done / PAGE] & 1))
		done += PAGE;
	return done;
}

static int take_move(struct view *view, uint64_t page, uint32_t count, bool give_back)
{
	struct shard *shard = view->shard;
	uint64_t done, addr = view_addr(view, page);
	uint32_t first = 0, n, k;
	int err;

	n = slot_get(shard, count, true, &first);
	if (n == 0)
		return 0;
	err = mem_move(shard->stage_fd, (uintptr_t)slot_mem(shard, first), addr, (uint64_t)n * PAGE,
		       &done);
	if (err)
		done = really_moved(shard, first, n, done);
	for (k = 0; k < done / PAGE; k++)
		took(view, page + k, first + k, give_back);
	give_slots_back(shard, first, k, n);
	if (k)
		return (int)k;
	/* not writable now, or locked: the kernel moves only pages that may be written */
	if (err == -EINVAL)
		return take_helped(view, page, 1, give_back);
	if (err == -EBUSY)
		return take_busy(view, page, count, give_back);
	if (err == -ENOENT && is_gone(view, page)) { /* discarded */
		page_discard(view, page, PAGE_NONE);
		return 1;
	}
	return err == -EAGAIN || err == -ENOENT ? TAKE_REFUSED : TAKE_STAYS;
}

static int take_shared(struct view *view, uint64_t page, uint32_t count, bool give_back)
{
	struct shard *shard = view->shard;
	struct gvm_range *range = view->range;
	uint64_t addr = view_addr(view, page), at = range->offset + page * PAGE;
	uint32_t first = 0, n = slot_get(shard, count, false, &first);
	ssize_t got;
	int err;

	if (n == 0)
		return 0;
	err = mem_protect(shard->uffd, addr, (uint64_t)n * PAGE, true);
	if (err) {
		give_slots_back(shard, first, 0, n);
		return err == -EAGAIN ? 0 : TAKE_STAYS;
	}
	got = pread(range->memfd, slot_mem(shard, first), (size_t)n * PAGE, (off_t)at);
	for (uint32_t k = 0; k < n; k++)
		shard->slots[first + k].flags |= SLOT_FULL;
	if (got != (ssize_t)n * PAGE || sys_punch(range->memfd, at, (uint64_t)n * PAGE)) {
		/* the program has made its file shorter: these pages stay where they are */
		for (uint32_t k = 0; k < n; k++)
			view->table[page + k] |= PAGE_DIRTY;
		mem_protect(shard->uffd, addr, (uint64_t)n * PAGE, false);
		give_slots_back(shard, first, 0, n);
		return TAKE_STAYS;
	}
	for (uint32_t k = 0; k < n; k++)
		took(view, page + k, first + k, give_back);
	return (int)n;
}

/* A sync that counted on the page has not got it: it comes back to it, in a while. */
static void sync_again(struct view *view, uint64_t page)
{
	for (struct call *call = view->shard->syncs; call; call = call->next) {
		if (call->range != view->range || call->phase || call->cursor <= page)
			continue;
		if (call->seen < call->cursor)
			call->seen = call->cursor;
		call->cursor = page;
		sync_later(call);
	}
}

/* The helper could not take the pages (the mapping forbids it): they are mapped as before. */
static void untake(struct view *view, uint64_t page)
{
	page_word w = view->table[page];
	uint64_t addr = view_addr(view, page);

	page_set_mapped(view, page, (w & (PAGE_KEEP | PAGE_REMOVED)) | PAGE_DIRTY);
	page_set_aside(view, page);
	view->shard->aside_let_go = false;
	sync_again(view, page);
	/* whose announcement that was is not known: whether the page goes is seen later */
	if (w & (PAGE_EVENT | PAGE_REMOVED)) {
		view->table[page] |= PAGE_REMOVED;
		recheck_add(view->shard, view->id, page, 1);
	}
	while (addr && mem_protect(view->shard->uffd, addr, PAGE, false) == -EAGAIN)
		shard_settle(view->shard);
	if (addr)
		mem_wake(view->shard->uffd, addr, PAGE);
}

static void take_page_done(struct job *job, uint32_t k)
{
	struct view *view = job->view;
	struct shard *shard = job->shard;
	uint64_t page = job->page + k;
	uint32_t i = job->slot + k;
	page_word w = view->table[page];
	struct digest digest;

	view->taking--;
	shard->taking--;
	shard->taken++;
	shard->slots[i].flags |= SLOT_FULL;
	if (page_state(w) != PAGE_TAKING || page_index(w) != job->number) {
		slot_put(shard, i);
		frames_release(shard, 1);
		return;
	}
	/* of several mappings it may have emptied some before one of them refused */
	if (job->status && !((w & PAGE_EVENT) && is_gone(view, page))) {
		slot_put(shard, i);
		untake(view, page);
		return;
	}
	memcpy(&digest, &shard->slots[i].link, sizeof(digest));
	judge(view, page, i, &digest);
	settle_victim(view, page, i, w & PAGE_RETURN);
	if (!(w & PAGE_WANTED))
		return;
	if (page_state(view->table[page]) == PAGE_VICTIM)
		victim_back(view, page, w & PAGE_WANTED_W);
	else
		mem_wake(shard->uffd, view_addr(view, page), PAGE);
}

void take_done(struct job *job)
{
	for (uint32_t k = 0; k < job->count; k++)
		take_page_done(job, k);
}

int page_take(struct view *view, uint64_t page, uint32_t count, bool give_back)
{
	struct shard *shard = view->shard;

	if (slots_prepare(shard, count))
		return 0;
	if (!view->anon)
		return take_shared(view, page, count, give_back);
	if (shard->pager->move)
		return take_move(view, page, count, give_back);
	return take_helped(view, page, count, give_back);
}

/* ---- rounds -------------------------------------------------------------------------------- */

static bool can_take(const struct view *view, uint64_t page)
{
	page_word w = view->table[page];

	return page_state(w) == PAGE_MAPPED && !(w & (PAGE_WRITING | PAGE_REMOVED | PAGE_HELD));
}

static bool can_take_at(struct view *view, uint64_t page, uint64_t addr)
{
	return page < view->pages && can_take(view, page) && view_addr(view, page) == addr;
}

/*
 * How many pages from the one of frame i on can leave together: neighbours that follow each other
 * in the order of leaving. A single page that is missing there goes along, for it is most likely a
 * window's marker, which came into the mapping later than the pages around it: runs that end at
 * each marker are short, and the helper's price is by the run.
 */
static uint32_t run_from(struct shard *shard, uint32_t i)
{
	const struct frame *first = &shard->frames[i], *f;
	struct view *view = &shard->views[first->range];
	uint64_t page = first->page, addr = view_addr(view, page);
	uint32_t n = 1;

	for (i = first->link.prev; n < ROUND && i != GVM_NIL; i = f->link.prev) {
		f = &shard->frames[i];
		if (f->range != first->range)
			break;
		if (f->page - page < n) /* went along */
			continue;
		if (f->page == page + n + 1 && n + 1 < ROUND &&
		    can_take_at(view, page + n, addr + (uint64_t)n * PAGE))
			n++;
		if (f->page != page + n || !can_take_at(view, f->page, addr + (uint64_t)n * PAGE))
			break;
		n++;
	}
	return n;
}

static int take_oldest(struct shard *shard)
{
	uint32_t i = shard->mapped.tail;
	const struct frame *frame = &shard->frames[i];
	struct view *view = &shard->views[frame->range];
	int done;

	if (view->table[frame->page] & PAGE_HELD) {
		page_set_aside(view, frame->page);
		return TAKE_STAYS;
	}
	if (view->closing || view->paused || !can_take(view, frame->page) ||
	    !view_addr(view, frame->page) ||
	    ((view->table[frame->page] & PAGE_BUSY) && shard->populating))
		return TAKE_REFUSED;
	done = page_take(view, frame->page, run_from(shard, i), false);
	if (done == TAKE_STAYS)
		page_set_aside(view, frame->page);
	return done;
}

static void rotate_oldest(struct shard *shard)
{
	uint32_t i = shard->mapped.tail;

	if (i == GVM_NIL)
		return;
	gvm_queue_remove(&shard->mapped, shard->frames, sizeof(struct frame), i);
	gvm_queue_push(&shard->mapped, shard->frames, sizeof(struct frame), i);
}

/*
 * Not while it owes something to the store. While the helper has others on their way the queue may
 * hold little but the markers of windows, which their streams are about to reach.
 */
static bool can_drop(const struct shard *shard, struct view *view, uint64_t page)
{
	if (view->table[page] & (PAGE_DIRTY | PAGE_WRITING | PAGE_RETURN))
		return false;
	return shard->taking == 0 || !prefetch_is_marker(view, page);
}

/* Drop the oldest victim that can be; the very oldest may still be on its way to the store. */
static bool drop_victim(struct shard *shard)
{
	uint32_t i = shard->victims.tail;

	for (unsigned seen = 0; i != GVM_NIL && seen < 4 * RUN_MAX; seen++) {
		struct slot *slot = &shard->slots[i];
		struct view *view = &shard->views[slot->range];

		if (can_drop(shard, view, slot->page)) {
			STAT_ADD(shard, evicted_pages, 1);
			STAT_ADD(shard, evicted_clean, !(view->table[slot->page] & PAGE_PUT));
			page_forget(view, slot->page, PAGE_NONE);
			return true;
		}
		i = slot->link.prev;
	}
	return false;
}

/* How much of the pressure is this shard's to relieve? */
static bool mine_to_give(const struct shard *shard)
{
	const struct gvm_pager *pager = shard->pager;
	uint64_t budget = __atomic_load_n(&pager->budget, __ATOMIC_RELAXED);

	return pager->shards == 1 ||
	       shard->used - shard->aside.count > budget / pager->shards / 2 ||
	       shard->wait_head != shard->wait_tail;
}

/*
 * Is there a page that has not just refused? Where nearly all is stranded the next to leave is soon
 * the page that came last, before the thread that it came for has used it: the last few stay.
 */
static bool can_try(const struct shard *shard)
{
	uint32_t stay = 0;

	if (shard->stranded)
		stay = shard->wait_head == shard->wait_tail ? STAY : STAY / 8;
	return shard->mapped.count > stay && shard->stuck <= shard->mapped.count;
}

/* Something is under way, or waits for its turn, or for its node. */
static bool will_change(const struct shard *shard)
{
	return shard->putting || shard->fetching || (shard->jobs_out && !shard->populating) ||
	       shard->dirty;
}

/*
 * Completions will change that, or pages that let go later. If nothing is under way and all pages
 * have refused (a transfer of the kernel's has pinned them, say, and needs yet more of them), the
 * threads that wait go on above the budget rather than never. The helper may be one of those that
 * wait: what it was to unshare has been taken, and it faults.
 */
static void nothing_to_evict(struct shard *shard)
{
	/* a node that is back wakes the shard by itself */
	uint64_t again = shard->stranded && !shard->stuck ? IDLE_NS : RETRY_NS;
	uint64_t now = gvm_now();
	bool ask = shard->pager->shards > 1 || shard->populating;

	/* all that there is has been set aside */
	if (shard->mapped.count == 0 && shard->aside.count && shard->aside_at > now + again)
		again = shard->aside_at - now < IDLE_NS ? shard->aside_at - now : IDLE_NS;
	if (shard->retry_timer.place == 0)
		gvm_timer_set(shard->worker, &shard->retry_timer, now + again);
	if (shard->wait_head == shard->wait_tail || can_try(shard))
		return;
	if (will_change(shard) && !shard->stranded)
		return;
	/* other shards may have pages to give, or the helper: they are given until the next time */
	if (ask && !shard->asked) {
		shard->asked = true;
		shard_poke_others(shard);
		return;
	}
	if (will_change(shard))
		return;
	shard->asked = false;
	if (!shard->over_budget)
		gvm_log(GVM_LOG_WARN, "no page can be taken away: all are locked or in use by the "
				      "kernel; going over the local budget");
	shard->over_budget = true;
	shard->spare = true;
	shard_wake_waits(shard);
	shard->spare = false;
}

/*
 * One round. Returns whether there is more to do at once (else a completion or a fault brings the
 * shard back here).
 */
bool shard_evict(struct shard *shard)
{
	struct gvm_pager *pager = shard->pager;
	uint64_t budget = frames_budget(pager);
	bool all = budget_holds_all(pager);
	int64_t room = prefetch_room(shard, budget);
	int64_t low = all ? 0 : gvm_policy_low(budget) + room;
	int64_t high = all ? 0 : gvm_policy_high(budget) + room;
	uint32_t want, coming;
	int done = 0;
	bool more = true;

	if (!shard->evicting && frames_left(shard) >= low)
		return false;
	shard->evicting = true;
	if (shard->huge_ready)
		huge_forget(shard);
	if (!mine_to_give(shard)) {
		shard_poke_others(shard);
		shard->evicting = false;
		return false;
	}
	shard_try_aside(shard);
	for (unsigned i = 0; i < ROUND && more; i += done > 0 ? (unsigned)done : 1) {
		if (frames_left(shard) >= high) {
			shard->evicting = false;
			break;
		}
		want = gvm_policy_victims(shard->used - shard->stranded - shard->aside.count);
		done = 0;
		/* what the helper is about is as good as taken: no fault need wait for its end */
		coming = shard->victims.count + shard->taking;
		if (coming >= want && drop_victim(shard)) {
			done = 1;
		} else if (coming < want + RUN_MAX && can_try(shard)) {
			/* for want of a slot or of the helper the order of leaving is not changed
			 */
			done = take_oldest(shard);
			more = done != 0;
			if (done == TAKE_REFUSED)
				rotate_oldest(shard);
			shard->stuck = done < 0 ? shard->stuck + (done == TAKE_REFUSED) : 0;
		} else if (!drop_victim(shard)) {
			more = false;
		}
	}
	shard_write_back(shard);
	if (shard->evicting && !more)
		nothing_to_evict(shard);
	return shard->evicting && more;
}

/* Pages may let go again. */
void retry_timer(struct gvm_timer *timer)
{
	struct shard *shard = (struct shard *)((char *)timer - offsetof(struct shard, retry_timer));

	if (shard->asked)
		nothing_to_evict(shard);
	shard->asked = false;
	shard->stuck = 0;
}

/* ---- sync ---------------------------------------------------------------------------------- */

enum pass {
	PASS_OVER,
	PASS_MORE,  /* it has looked at enough for once */
	PASS_WAIT,  /* there are no means now, or the page is being written */
	PASS_STAYS, /* the page there does not let go */
};

/* Take every dirty page from the cursor on, as far as there is room. */
static enum pass sync_pass(struct view *view, struct call *call)
{
	uint64_t end = view->pages, until;
	unsigned looked = 0;
	int done;

	while (call->cursor < end) {
		call->cursor = view_stretch(view, call->cursor, end, &until);
		for (; call->cursor < until; call->cursor++) {
			page_word w = view->table[call->cursor];

			if (++looked > 65536)
				return PASS_MORE;
			bool again = call->cursor < call->seen;
			/* what the helper gave back is dirty; the rest has been judged */
			if (page_state(w) != PAGE_MAPPED ||
			    !(w & (again ? PAGE_DIRTY : PAGE_DIRTY | PAGE_UNSURE)))
				continue;
			if (!view_addr(view, call->cursor))
				continue;
			done =
			    w & PAGE_WRITING ? 0 : page_take(view, call->cursor, 1, call->a != 0);
			if (done <= 0)
				return done ? PASS_STAYS : PASS_WAIT;
			/* what the helper is to take may yet not let go */
			if (!again && page_state(view->table[call->cursor]) != PAGE_TAKING)
				call->again_ns = 0;
		}
	}
	return PASS_OVER;
}

/* As sync_pass; but a page that does not let go is not asked again and again. */
static enum pass sync_some(struct view *view, struct call *call)
{
	struct shard *shard = view->shard;
	uint64_t now = gvm_now();
	enum pass pass = PASS_STAYS;

	if (call->again <= now) {
		pass = sync_pass(view, call);
		/* a completion brings the shard back here */
		if (pass == PASS_OVER || pass == PASS_MORE ||
		    (pass == PASS_WAIT && (shard->putting || shard->taking)))
			return pass;
		sync_later(call);
	}
	if (shard->sync_timer.place == 0 || shard->sync_timer.when > call->again)
		gvm_timer_set(shard->worker, &shard->sync_timer, call->again);
	return pass;
}

/* It is enough that the shard wakes. */
void sync_timer(struct gvm_timer *timer)
{
	(void)timer;
}

/* Returns whether some sync can go on at once. */
bool shard_sync(struct shard *shard)
{
	struct call **at = &shard->syncs;
	bool more = false;

	while (*at) {
		struct call *call = *at;
		struct view *view = &shard->views[call->range->id];
		enum pass pass = sync_some(view, call);

		shard_write_back(shard);
		/* what was dirty is on its way: wait for those puts, not for the ones after them */
		if (pass == PASS_OVER && call->phase == 0 && view->dirty == 0 &&
		    view->taking == 0 && view->writing[!view->turn] == 0) {
			view->turn = !view->turn;
			call->phase = 1;
		}
		if (call->phase == 1 && view->writing[!view->turn] == 0 &&
		    view->purge_lo >= view->purge_hi && view->purging == 0) {
			*at = call->next;
			call_done(call, view->put_err);
			continue;
		}
		more |= pass == PASS_MORE;
		at = &call->next;
	}
	return more;
}

/* a: whether pages go back into the mapping when they are stored */
void call_sync(struct call *call)
{
	struct shard *shard = call->shard;

	shard->views[call->range->id].put_err = 0;
	call->cursor = call->seen = 0;
	call->again = call->again_ns = 0;
	call->phase = 0;
	call->next = shard->syncs;
	shard->syncs = call;
}
