/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a page fault does, state by state, and how a page comes into the program's mapping. The
 * shard's thread only; nothing here allocates or touches paged memory.
 *
 * Any request to the kernel may be refused with -EAGAIN: the program is changing its mappings. Then
 * the events are read and served first, and the page's word, which they may have changed, is looked
 * at again.
 */
#include <sched.h>
#include "internal.h"

static void latency(struct gvm_hist *hist, uint64_t start_ns)
{
	gvm_hist_add(hist, gvm_now() - start_ns);
}

/* The same place in the same state as before the kernel was asked to wait? */
static bool unchanged(struct view *view, uint64_t page, page_word before)
{
	const page_word waiting = PAGE_WANTED | PAGE_WANTED_W;

	return ((view->table[page] ^ before) & ~waiting) == 0;
}

int page_install(struct view *view, uint64_t page, const void *src, bool writable)
{
	struct shard *shard = view->shard;
	page_word before = view->table[page];
	uint64_t done, addr;
	int err;

	for (;;) {
		addr = view_addr(view, page);
		if (!addr)
			return -ENOENT;
		err = mem_copy(shard->uffd, addr, src, PAGE, !writable, &done);
		if (err != -EAGAIN)
			break;
		shard_settle(shard);
		if (!unchanged(view, page, before))
			return -ECHILD;
	}
	if (err == -EEXIST)
		mem_wake(shard->uffd, addr, PAGE);
	return err;
}

int page_install_zero(struct view *view, uint64_t page, bool write)
{
	struct shard *shard = view->shard;
	page_word before = view->table[page];
	uint64_t done, addr;
	int err;

	/* an anonymous page that is written at once would fault a second time, in the kernel, if
	 * the shared page of zeros were put there */
	if (write && view->anon)
		return page_install(view, page, shard->zero, true);
	for (;;) {
		addr = view_addr(view, page);
		if (!addr)
			return -ENOENT;
		err = mem_zero(shard->uffd, addr, PAGE, &done);
		if (err != -EAGAIN)
			break;
		shard_settle(shard);
		if (!unchanged(view, page, before))
			return -ECHILD;
	}
	if (err == -EEXIST)
		mem_wake(shard->uffd, addr, PAGE);
	return err;
}

/* ---- pages that cannot be had -------------------------------------------------------------- */

static void note_poison(struct view *view, uint64_t page)
{
	if (view->poison_lo >= view->poison_hi) {
		view->poison_lo = page;
		view->poison_hi = page + 1;
		return;
	}
	if (page < view->poison_lo)
		view->poison_lo = page;
	if (page >= view->poison_hi)
		view->poison_hi = page + 1;
}

static void cover(struct view *view, uint64_t page, enum job_kind kind)
{
	struct job *job = job_get(view->shard);

	if (!job) { /* every job is taken: the thread that waits faults again and comes back here */
		if (kind == JOB_HEAL)
			view->shard->heal_wanted = true;
		else
			view->table[page] = page_make(PAGE_NONE, view->table[page] & PAGE_KEEP, 0);
		mem_wake(view->shard->uffd, view_addr(view, page), PAGE);
		return;
	}
	job->view = view;
	job->kind = kind;
	job->page = page;
	job->count = 1;
	job->addr = view_addr(view, page);
	job_post(job);
}

/* From now on an access to the page raises SIGBUS. It must hold neither frame nor slot. */
static void poison(struct view *view, uint64_t page)
{
	struct shard *shard = view->shard;
	page_word w = view->table[page];
	uint64_t addr;
	int err = 0;

	view->table[page] = page_make(PAGE_POISONED, w & PAGE_KEEP, 0);
	note_poison(view, page);
	STAT_ADD(shard, unreachable_sigbus, 1);
	if (!shard->pager->poison) {
		cover(view, page, JOB_COVER);
		return;
	}
	while ((addr = view_addr(view, page)) != 0) {
		err = mem_poison(shard->uffd, addr, PAGE);
		/* write-protection of shared memory outlives the page, and is in the way */
		if (err == -EEXIST && mem_protect(shard->uffd, addr, PAGE, false) == 0)
			err = mem_poison(shard->uffd, addr, PAGE);
		if (err != -EAGAIN)
			break;
		shard_settle(shard);
		if (page_state(view->table[page]) != PAGE_POISONED)
			return;
	}
	if (addr && err)
		cover(view, page, JOB_COVER);
	else if (addr)
		mem_wake(shard->uffd, addr, PAGE);
}

bool zeros_for_lost(const struct shard *shard)
{
	return shard->pager->config.unreachable == GVM_UNREACHABLE_ZERO;
}

static const char *reason(int status)
{
	switch (status) {
	case -EIO:
		return "its memory node has lost it";
	case -ETIMEDOUT:
		return "its memory node did not answer";
	default:
		return strerror(-status);
	}
}

void page_lose(struct view *view, uint64_t page)
{
	STAT_ADD(view->shard, lost_pages, 1);
	view->table[page] |= PAGE_LOST;
}

void page_refuse(struct view *view, uint64_t page, int status)
{
	static struct gvm_log_limit limit;

	gvm_log_limited(&limit, GVM_LOG_ERROR,
			"page %llu of %s cannot be had: %s; access raises SIGBUS",
			(unsigned long long)page, view->range->name, reason(status));
	poison(view, page);
}

/* As clean: unless the program writes to it, what the region may hold comes with the next fetch. */
int page_zeroed(struct view *view, uint64_t page, int status)
{
	struct shard *shard = view->shard;
	static struct gvm_log_limit limit;
	int err;

	/* told before it can be read */
	STAT_ADD(shard, unreachable_zeroed, 1);
	gvm_log_limited(&limit, GVM_LOG_ERROR, "page %llu of %s reads as zeros: %s",
			(unsigned long long)page, view->range->name, reason(status));
	err = page_install(view, page, shard->zero, false);
	if (err && err != -EEXIST)
		return err;
	page_set_mapped(view, page,
			(view->table[page] & PAGE_KEEP) | (err == -EEXIST ? PAGE_DIRTY : 0));
	return 0;
}

/* The nodes of a view are back: what was merely out of reach may be asked for again. */
void shard_heal(struct shard *shard)
{
	shard->heal_wanted = false;
	for (uint32_t id = 0; id < RANGES_MAX && id < shard->pager->range_next; id++) {
		struct view *view = &shard->views[id];

		if (!view->used || view->closing || view->poison_lo >= view->poison_hi)
			continue;
		for (uint64_t p = view->poison_lo; p < view->poison_hi && !shard->heal_wanted;
		     p++) {
			page_word w = view->table[p];

			if (!view_owns(view, p) || page_state(w) != PAGE_POISONED ||
			    (w & (PAGE_LOST | PAGE_BUSY)))
				continue;
			view->table[p] |= PAGE_BUSY;
			cover(view, p, JOB_HEAL);
			if (shard->heal_wanted)
				view->table[p] &= ~(page_word)PAGE_BUSY;
		}
	}
}

void heal_done(struct job *job)
{
	struct view *view = job->view;
	page_word w = view->table[job->page];

	if (job->kind == JOB_HEAL && page_state(w) == PAGE_POISONED)
		view->table[job->page] = page_make(PAGE_NONE, w & PAGE_KEEP, 0);
	mem_wake(view->shard->uffd, job->addr, PAGE);
}

/* ---- faults by state ----------------------------------------------------------------------- */

static void wait_for_frame(struct shard *shard, const struct fault *fault)
{
	if (shard->wait_head - shard->wait_tail == FAULTS) {
		mem_wake(shard->uffd, fault->addr, PAGE); /* it faults again */
		return;
	}
	shard->waits[shard->wait_head % FAULTS] = *fault;
	shard->waits[shard->wait_head++ % FAULTS].flags |= FAULT_AGAIN;
	__atomic_fetch_or(&shard->pager->starving, 1ull << shard->number, __ATOMIC_SEQ_CST);
}

/* Its node has all the places of fetches that it may have while it does not answer. */
void fault_park(struct shard *shard, const struct fault *fault)
{
	if (shard->parked_count == PARKED) {
		wait_for_frame(shard, fault);
		return;
	}
	shard->parked[shard->parked_count] = *fault;
	shard->parked[shard->parked_count++].flags |= FAULT_AGAIN;
}

/* The node may have places again: they look once more, those that came first before the others. */
void shard_unpark(struct shard *shard)
{
	uint32_t n = shard->parked_count;

	shard->unpark = false;
	shard->unpark_below = 0;
	/* in place: what is parked again goes to the end of what has been looked at */
	shard->parked_count = 0;
	for (uint32_t i = 0; i < n; i++) {
		struct fault fault = shard->parked[i];

		fault_serve(shard, &fault);
	}
	gvm_worker_flush(shard->worker);
}

static void fault_lost(struct view *view, uint64_t page, const struct fault *fault)
{
	struct shard *shard = view->shard;

	if (!zeros_for_lost(shard)) {
		page_refuse(view, page, -EIO);
		return;
	}
	if (!frames_reserve(shard, 1)) {
		wait_for_frame(shard, fault);
		return;
	}
	if (page_zeroed(view, page, -EIO) == 0)
		return;
	frames_release(shard, 1);
	mem_wake(shard->uffd, fault->addr, PAGE);
}

static void fault_none(struct view *view, uint64_t page, const struct fault *fault)
{
	struct shard *shard = view->shard;
	bool write = fault->flags & UFFD_PAGEFAULT_FLAG_WRITE;
	page_word w = view->table[page];
	int err;

	if (w & PAGE_LOST) {
		fault_lost(view, page, fault);
		return;
	}
	if (prefetch_gathers(view, page) || !frames_reserve(shard, 1)) {
		wait_for_frame(shard, fault);
		return;
	}
	if (w & PAGE_STORED) {
		err = fetch_demand(view, page, write, fault->start_ns);
		if (err) {
			frames_release(shard, 1);
			if (err == -EBUSY)
				fault_park(shard, fault);
			else
				wait_for_frame(shard, fault);
			return;
		}
		STAT_ADD(shard, faults_remote, 1);
		prefetch_note(view, page, true, write);
		return;
	}
	if (huge_fill(view, page)) {
		STAT_ADD(shard, faults_zero, 1);
		latency(&shard->latency.zero, fault->start_ns);
		return;
	}
	err = page_install_zero(view, page, write);
	if (err == -ECHILD || (err && err != -EEXIST)) {
		frames_release(shard, 1);
		mem_wake(shard->uffd, fault->addr, PAGE);
		return;
	}
	/* whether it is ever written is seen when it is taken out: a page of zeros costs nothing */
	page_set_mapped(view, page, (view->table[page] & PAGE_KEEP) | PAGE_DIRTY);
	STAT_ADD(shard, faults_zero, 1);
	latency(&shard->latency.zero, fault->start_ns);
	prefetch_note(view, page, true, write);
}

static void fault_mapped(struct view *view, uint64_t page, const struct fault *fault)
{
	struct shard *shard = view->shard;
	page_word w = view->table[page];
	uint64_t addr;
	int err;

	if (fault->flags & UFFD_PAGEFAULT_FLAG_WP) {
		if (w & PAGE_AHEAD)
			prefetch_outcome(view, page, true);
		view->table[page] = (w | PAGE_DIRTY) & ~(page_word)PAGE_AHEAD;
		for (;;) {
			addr = view_addr(view, page);
			err = addr ? mem_protect(shard->uffd, addr, PAGE, false) : -ENOENT;
			if (err != -EAGAIN)
				break;
			shard_settle(shard);
			if (page_state(view->table[page]) != PAGE_MAPPED)
				break;
		}
		if (err)
			mem_wake(shard->uffd, fault->addr, PAGE);
		if (!(w & PAGE_DIRTY))
			STAT_ADD(shard, faults_write, 1);
		latency(&shard->latency.write, fault->start_ns);
		return;
	}
	/*
	 * Either another thread's fault brought it a moment ago, or the program has discarded it
	 * after all: the kernel tells, for it refuses zeros where a page is.
	 */
	err = page_install_zero(view, page, false);
	if (err == 0)
		view->table[page] = (view->table[page] & ~(page_word)PAGE_REMOVED) | PAGE_DIRTY;
	else
		mem_wake(shard->uffd, fault->addr, PAGE);
}

/* A victim is in the mapping now, and leaves its slot. */
static void came_back(struct view *view, uint64_t page, uint64_t flags, const struct digest *digest)
{
	struct shard *shard = view->shard;
	page_word w = view->table[page];

	page_forget(view, page, PAGE_NONE);
	frames_force(shard, 1);
	page_set_mapped(view, page, (w & PAGE_KEEP) | flags);
	shard->frames[page_index(view->table[page])].digest = *digest;
}

/*
 * Can a victim come back by being moved? A moved page is writable, so one that is clean needs a
 * digest, but for write; and while the region is being told of its contents they stay where they
 * are.
 */
static bool moves_back(const struct view *view, page_word w, bool write)
{
	const struct gvm_pager *pager = view->shard->pager;

	return pager->move && view->anon && ((w & PAGE_DIRTY) || write || pager->digests) &&
	       !(w & PAGE_WRITING);
}

/* A victim comes back: by moving it where that keeps the truth about it, else by copying. */
void victim_back(struct view *view, uint64_t page, bool write)
{
	struct shard *shard = view->shard;
	page_word w = view->table[page];
	uint32_t i = page_index(w);
	struct digest digest = { 0 };
	bool dirty = w & PAGE_DIRTY, moved = false;
	uint64_t addr = view_addr(view, page), done;
	int err = -EAGAIN;

	write |= w & PAGE_HELD; /* a sync has had it: it was writable, and is to be */
	if (addr && moves_back(view, w, write)) {
		if (!dirty && !write)
			digest_page(shard->pager->digests, slot_mem(shard, i), &digest);
		err = mem_move(shard->uffd, addr, (uintptr_t)slot_mem(shard, i), PAGE, &done);
		moved = err == 0;
	}
	if (!moved)
		err = page_install(view, page, slot_mem(shard, i), dirty || write);
	if (err == -ECHILD || (err && err != -EEXIST)) {
		mem_wake(shard->uffd, addr, PAGE);
		return;
	}
	if (moved)
		shard->slots[i].flags &= (uint16_t)~SLOT_FULL;
	came_back(view, page,
		  dirty || write || err == -EEXIST ? PAGE_DIRTY
		  : moved                          ? PAGE_UNSURE
						   : 0,
		  &digest);
}

/* How many victims, from page on in steps of 1 or -1, lie beside each other where they are, too. */
static uint32_t victims_beside(const struct view *view, uint64_t page, uint32_t most, int64_t step)
{
	uint32_t first = page_index(view->table[page]), n = 0;

	while (n < most && n < RUN_MAX) {
		uint64_t at = page + (uint64_t)(n * step);
		page_word w = view->table[at];

		if (page_state(w) != PAGE_VICTIM || (w & (PAGE_RETURN | PAGE_HELD)) ||
		    !moves_back(view, w, false) || page_index(w) != first + (uint32_t)(n * step) ||
		    slot_mem(view->shard, page_index(w)) !=
			slot_mem(view->shard, first) + (int64_t)n * step * PAGE)
			break;
		n++;
	}
	return n;
}

uint32_t victims_back(struct view *view, uint64_t page, uint32_t most, int64_t step)
{
	struct shard *shard = view->shard;
	struct digest digest[RUN_MAX] = { 0 };
	unsigned char left[RUN_MAX] = { 0 };
	uint32_t n = victims_beside(view, page, most, step), back = 0;
	uint64_t first, addr, done, ahead;
	uint32_t slot;

	if (n == 0 || !view->whole)
		return 0;
	first = step < 0 ? page - (n - 1) : page;
	slot = page_index(view->table[first]);
	addr = view_addr(view, first);
	for (uint32_t k = 0; k < n; k++)
		if (!(view->table[first + k] & PAGE_DIRTY))
			digest_page(shard->pager->digests, slot_mem(shard, slot + k), &digest[k]);
	if (mem_move(shard->uffd, addr, (uintptr_t)slot_mem(shard, slot), (uint64_t)n * PAGE,
		     &done))
		/* the number that the kernel gives may be too small */
		mem_present(slot_mem(shard, slot), n, left);
	for (uint32_t k = 0; k < n; k++) {
		if (left[k] & 1)
			continue;
		shard->slots[slot + k].flags &= (uint16_t)~SLOT_FULL;
		/* a marker that is not wanted as one any more: what becomes of it is still to be
		 * seen */
		ahead = view->table[first + k] & PAGE_AHEAD;
		view->table[first + k] &= ~ahead;
		came_back(view, first + k,
			  ahead | (view->table[first + k] & PAGE_DIRTY ? PAGE_DIRTY : PAGE_UNSURE),
			  &digest[k]);
		back++;
	}
	return back;
}

static void fault_victim(struct view *view, uint64_t page, const struct fault *fault)
{
	struct shard *shard = view->shard;
	bool write = fault->flags & UFFD_PAGEFAULT_FLAG_WRITE;

	/* reaching the marker is what tells prefetch that its guess was right */
	prefetch_note(view, page, false, write);
	if (view->table[page] & PAGE_AHEAD)
		prefetch_outcome(view, page, true);
	view->table[page] &= ~(page_word)PAGE_AHEAD;
	victim_back(view, page, write);
	STAT_ADD(shard, faults_victim, 1);
	latency(&shard->latency.victim, fault->start_ns);
}

static void fault_fetching(struct view *view, uint64_t page, const struct fault *fault)
{
	struct shard *shard = view->shard;
	struct fetch *fetch = &shard->fetches[page_index(view->table[page])];
	bool write = fault->flags & UFFD_PAGEFAULT_FLAG_WRITE;

	if (!(view->table[page] & PAGE_WANTED) && !fetch->demand)
		STAT_ADD(shard, faults_prefetch, 1);
	view->table[page] |= PAGE_WANTED | (write ? PAGE_WANTED_W : 0);
	if (fetch->start_ns == 0)
		fetch->start_ns = fault->start_ns;
	prefetch_note(view, page, false, write);
}

/*
 * It comes back when the helper has it out. But if the program has discarded it before the helper
 * had copied it, it may be the helper that waits: for zeros, which nobody may write to, for they go
 * with the mapping in a moment.
 */
static void fault_taking(struct view *view, uint64_t page, const struct fault *fault)
{
	page_word w = view->table[page];
	const struct job *job = &view->shard->jobs[page_index(w)];

	if ((w & PAGE_REMOVED) && !(fault->flags & UFFD_PAGEFAULT_FLAG_WP) &&
	    !__atomic_load_n(&job->copied, __ATOMIC_SEQ_CST)) {
		page_install(view, page, view->shard->zero, false);
		return;
	}
	view->table[page] |= PAGE_WANTED;
	if (fault->flags & UFFD_PAGEFAULT_FLAG_WRITE)
		view->table[page] |= PAGE_WANTED_W;
}

/*
 * Registered with this shard, and no page that it knows: a mapping that the program has grown by
 * itself. It is ordinary memory then, which stays here. If an event that explains it is still to be
 * read the kernel says so.
 */
static void fault_unknown(struct shard *shard, const struct fault *fault)
{
	uint64_t page, done;
	int err;

	if (fault->flags & UFFD_PAGEFAULT_FLAG_WP) {
		/* here, and protected as what it was before: zeros would be refused for ever */
		while ((err = mem_protect(shard->uffd, fault->addr, PAGE, false)) == -EAGAIN)
			shard_settle(shard);
		if (err)
			mem_wake(shard->uffd, fault->addr, PAGE);
		return;
	}
	while ((err = mem_zero(shard->uffd, fault->addr, PAGE, &done)) == -EAGAIN) {
		shard_settle(shard);
		if (piece_find(shard, fault->addr, &page, NULL)) {
			shard_queue_fault(shard, fault->addr, fault->flags, fault->start_ns);
			return;
		}
	}
	if (err)
		mem_wake(shard->uffd, fault->addr, PAGE);
}

void fault_serve(struct shard *shard, const struct fault *fault)
{
	uint64_t page;
	struct view *view = piece_find(shard, fault->addr, &page, NULL);

	if (!view) {
		fault_unknown(shard, fault);
		return;
	}
	if (view->closing)
		return; /* the end of the registration, or of the pause, wakes it */
	if (!(fault->flags & FAULT_AGAIN))
		STAT_ADD(shard, faults, 1);
	switch (page_state(view->table[page])) {
	case PAGE_NONE:
		fault_none(view, page, fault);
		break;
	case PAGE_MAPPED:
		fault_mapped(view, page, fault);
		break;
	case PAGE_VICTIM:
		fault_victim(view, page, fault);
		break;
	case PAGE_FETCHING:
		fault_fetching(view, page, fault);
		break;
	case PAGE_TAKING:
		fault_taking(view, page, fault);
		break;
	default:
		mem_wake(shard->uffd, fault->addr, PAGE);
		break;
	}
}
