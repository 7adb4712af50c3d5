/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A page at its home: who is served, who waits. One transaction at a time: readers together, or a
 * writer alone (home_write.c), in the order in which they came.
 */
#include "ivy/internal.h"

/* ---- transactions -------------------------------------------------------------------------- */

struct ivy_txn *ivy_txn_find(const struct ivy *ivy, uint64_t page)
{
	return (struct ivy_txn *)ivy_table_find(&ivy->txns, page);
}

static int has_its_share(const struct ivy *ivy, uint16_t node)
{
	return ivy->shares && node != NOBODY && ivy->shares[node] >= ivy->config.max_share;
}

static void share_add(struct ivy *ivy, uint16_t node, uint32_t n)
{
	if (ivy->shares && node != NOBODY)
		ivy->shares[node] += n;
}

void ivy_txn_charge(struct ivy *ivy, struct ivy_txn *t, uint16_t node)
{
	share_add(ivy, t->charged, (uint32_t)-1);
	t->charged = node;
	share_add(ivy, node, 1);
}

struct ivy_txn *ivy_txn_get(struct ivy *ivy, uint64_t page, uint16_t charged)
{
	struct ivy_txn *t = ivy_txn_find(ivy, page);

	if (t || ivy->txns.count >= ivy->config.max_txns || has_its_share(ivy, charged))
		return t;
	t = ivy_alloc(ivy, sizeof(*t));
	if (!t)
		return NULL;
	memset(t, 0, sizeof(*t));
	t->link.key = page;
	t->supplier = t->candidate = t->charged = NOBODY;
	if (ivy_table_add(ivy, &ivy->txns, &t->link) != 0) {
		ivy_release(ivy, t, sizeof(*t));
		return NULL;
	}
	ivy_txn_charge(ivy, t, charged);
	t->next = ivy->txn_list;
	if (t->next)
		t->next->prev = t;
	ivy->txn_list = t;
	return t;
}

static void txn_free(struct ivy *ivy, struct ivy_txn *t)
{
	while (t->queue.first)
		ivy_waiter_del(ivy, t, t->queue.first);
	while (t->served.first)
		ivy_waiter_del(ivy, t, t->served.first);
	ivy_fan_free(ivy, t->fan);
	ivy_txn_charge(ivy, t, NOBODY);
	if (t->prev)
		t->prev->next = t->next;
	else
		ivy->txn_list = t->next;
	if (t->next)
		t->next->prev = t->prev;
	ivy_table_del(&ivy->txns, &t->link);
	ivy_release(ivy, t, sizeof(*t));
}

/* ---- waiters ------------------------------------------------------------------------------- */

static uint64_t waiter_key(uint64_t page, uint16_t node)
{
	return page << 16 | node;
}

static uint64_t base_in(const struct gvm_hdr *h, const void *payload)
{
	return h->length ? gvm_delta_base(payload) : 0;
}

static void set_request(struct ivy_waiter *w, const struct gvm_hdr *h, uint64_t base)
{
	w->request = h->xid;
	w->has = h->arg;
	w->base = base;
}

static struct ivy_waiter *waiter_make(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h,
				      uint64_t base)
{
	struct ivy_waiter *w;

	if (has_its_share(ivy, from)) {
		ivy->stats.over_share++;
		return NULL;
	}
	if (ivy->stats.waiters >= ivy->config.max_waiters)
		return NULL;
	w = ivy_alloc(ivy, sizeof(*w));
	if (!w)
		return NULL;
	w->link.key = waiter_key(h->page, from);
	if (ivy_table_add(ivy, &ivy->waiters, &w->link) != 0) {
		ivy_release(ivy, w, sizeof(*w));
		return NULL;
	}
	w->next = w->prev = NULL;
	w->node = from;
	set_request(w, h, base);
	w->write = h->type == GVM_COH_WRITE;
	w->served = 0;
	ivy->stats.waiters++;
	share_add(ivy, from, 1);
	return w;
}

static void append(struct ivy_waiters *list, struct ivy_waiter *w)
{
	w->prev = list->last;
	w->next = NULL;
	*(w->prev ? &w->prev->next : &list->first) = w;
	list->last = w;
}

static void take_out(struct ivy_waiters *list, struct ivy_waiter *w)
{
	*(w->prev ? &w->prev->next : &list->first) = w->next;
	*(w->next ? &w->next->prev : &list->last) = w->prev;
}

void ivy_waiter_serve(struct ivy_txn *t)
{
	struct ivy_waiter *w = t->queue.first;

	take_out(&t->queue, w);
	w->served = 1;
	w->prev = NULL;
	w->next = t->served.first;
	*(w->next ? &w->next->prev : &t->served.last) = w;
	t->served.first = w;
}

void ivy_waiter_del(struct ivy *ivy, struct ivy_txn *t, struct ivy_waiter *w)
{
	take_out(w->served ? &t->served : &t->queue, w);
	share_add(ivy, w->node, (uint32_t)-1);
	ivy_table_del(&ivy->waiters, &w->link);
	ivy_release(ivy, w, sizeof(*w));
	ivy->stats.waiters--;
}

static struct ivy_waiter *waiter_of(const struct ivy *ivy, const struct ivy_txn *t, uint16_t node)
{
	return t ? (struct ivy_waiter *)ivy_table_find(&ivy->waiters, waiter_key(t->link.key, node))
		 : NULL;
}

struct ivy_waiter *ivy_waiter_served(const struct ivy *ivy, const struct ivy_txn *t, uint16_t node)
{
	struct ivy_waiter *w = waiter_of(ivy, t, node);

	return w && w->served ? w : NULL;
}

struct ivy_waiter *ivy_waiter_queued(const struct ivy *ivy, const struct ivy_txn *t, uint16_t node)
{
	struct ivy_waiter *w = waiter_of(ivy, t, node);

	return w && !w->served ? w : NULL;
}

void ivy_txn_requeue(struct ivy_txn *t)
{
	struct ivy_waiter *w;

	if (!t->served.first)
		return;
	for (w = t->served.first; w; w = w->next)
		w->served = 0;
	t->served.last->next = t->queue.first;
	if (t->queue.first)
		t->queue.first->prev = t->served.last;
	else
		t->queue.last = t->served.last;
	t->queue.first = t->served.first;
	t->served.first = t->served.last = NULL;
}

static void nak(struct ivy *ivy, uint16_t to, uint64_t page, uint64_t request, unsigned status)
{
	struct gvm_hdr h = {
		.type = GVM_COH_NAK, .status = (uint16_t)status, .page = page, .xid = request
	};

	ivy->stats.no_memory += status == GVM_ST_LIMIT;
	ivy_post(ivy, to, &h, NULL);
}

static void refuse_first(struct ivy *ivy, struct ivy_txn *t, unsigned status)
{
	struct ivy_waiter *w = t->queue.first;

	nak(ivy, w->node, t->link.key, w->request, status);
	ivy_waiter_del(ivy, t, w);
}

void ivy_txn_refuse(struct ivy *ivy, struct ivy_txn *t, unsigned status)
{
	while (t->queue.first)
		refuse_first(ivy, t, status);
}

/* ---- serving ------------------------------------------------------------------------------- */

void ivy_home_serve_read(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e,
			 struct ivy_waiter *w)
{
	struct gvm_hdr h = { .type = GVM_COH_DATA,
			     .page = t->link.key,
			     .xid = w->request,
			     .arg = entry_version(e) };

	if (e->owner != NOBODY) {
		h.type = GVM_COH_FWD_READ;
		h.arg = w->node;
		ivy_say_base(ivy, e->owner, &h, w->base);
	} else {
		ivy_say_page(ivy, w->node, &h,
			     ivy->config.env->store_read(ivy->config.user, h.page), w->base);
	}
}

/* The first of the queue reads. It is a sharer from now on: the content may be on its way. */
static void start_read(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e)
{
	struct ivy_waiter *w = t->queue.first;

	if (ivy_sharers_add(ivy, e, w->node) != 0) {
		refuse_first(ivy, t, GVM_ST_LIMIT);
		return;
	}
	ivy_waiter_serve(t);
	if (t->phase == TXN_IDLE) {
		t->phase = TXN_READ;
		t->tries = 0;
		t->due = ivy_backoff(ivy, 0);
	}
	ivy_home_serve_read(ivy, t, e, w);
}

/* One step for the first of the queue. 0: there may be another one. */
static int serve_first(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e)
{
	int status;

	if (!t->queue.first->write) {
		start_read(ivy, t, e);
		return 0;
	}
	if (t->phase == TXN_READ)
		return 1;
	status = ivy_write_start(ivy, t, e);
	if (status != 0)
		refuse_first(ivy, t, status == -ENOMEM ? GVM_ST_LIMIT : GVM_ST_PROTO);
	return status == 0;
}

/* Content that only others have is fetched before anybody is served. */
static void look_for_content(struct ivy *ivy, struct ivy_txn **t, struct ivy_entry *e)
{
	if ((e->bits & DIR_STALE) && !*t)
		*t = ivy_txn_get(ivy, entry_page(e), ivy_itself(ivy));
	if (!*t || (*t)->phase != TXN_IDLE)
		return;
	if (e->bits & DIR_STALE)
		ivy_recall_start(ivy, *t, e, NOBODY, 0);
	else if (e->bits & DIR_LOST)
		ivy_txn_refuse(ivy, *t, GVM_ST_IO);
}

void ivy_home_advance(struct ivy *ivy, uint64_t page)
{
	struct ivy_entry *e = ivy_dir_find(ivy, page);
	struct ivy_txn *t = ivy_txn_find(ivy, page);

	if (!e || ivy_rebuild_busy(ivy))
		return;
	look_for_content(ivy, &t, e);
	while (t && t->queue.first && (t->phase == TXN_IDLE || t->phase == TXN_READ))
		if (serve_first(ivy, t, e))
			break;
	if (t && t->phase == TXN_IDLE)
		txn_free(ivy, t);
	else if (t)
		return;
	if (ivy->rebuild) /* here no entry does not mean that the backing copy is good */
		return;
	if (e->owner == NOBODY && ivy_sharers_count(e) == 0 && !(e->bits & (DIR_LOST | DIR_STALE)))
		ivy_dir_del(ivy, e);
}

/* ---- requests ------------------------------------------------------------------------------ */

static void reader_done(struct ivy *ivy, struct ivy_txn *t, struct ivy_waiter *w)
{
	ivy_waiter_del(ivy, t, w);
	if (!t->served.first)
		t->phase = TXN_IDLE;
}

static void again(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e, struct ivy_waiter *w,
		  const struct gvm_hdr *h, uint64_t base)
{
	set_request(w, h, base); /* a writer may have renewed it, after a RECALL that came twice */
	if (t->phase == TXN_READ)
		ivy_home_serve_read(ivy, t, e, w);
	else
		ivy_write_again(ivy, t, e);
}

static void enqueue(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, uint64_t base)
{
	struct ivy_txn *t = ivy_txn_get(ivy, h->page, NOBODY);
	struct ivy_waiter *w = t ? waiter_make(ivy, from, h, base) : NULL;

	if (w)
		append(&t->queue, w);
	else
		nak(ivy, from, h->page, h->xid, GVM_ST_LIMIT);
	ivy_home_advance(ivy, h->page);
}

/* The node was the owner, and has been asked for its page. */
static int is_giving(const struct ivy_txn *t, uint16_t node)
{
	return t && (t->supplier == node || (t->phase == TXN_RECALL && t->candidate == node));
}

/* A copy whose version is not the page's may be higher than that of any INV to come: this one takes
 * it. The reader is a sharer as ever, and told as such, too. */
static void take_from_reader(struct ivy *ivy, uint16_t node, uint64_t page)
{
	ivy_say(ivy, node, GVM_COH_INV, page, ivy_new_round(ivy), GVM_COH_ANY_VERSION);
}

/* Who wants to write and has the page under another version, though it is a sharer of this one, or
 * all sharers have been told for it: INV above has not arrived. */
static void check_copy(struct ivy *ivy, const struct ivy_entry *e, const struct ivy_waiter *served,
		       uint16_t from, const struct gvm_hdr *h)
{
	if (h->type == GVM_COH_WRITE && h->arg && h->arg != entry_version(e) &&
	    (ivy_sharers_has(e, from) || (served && served->write)))
		take_from_reader(ivy, from, h->page);
}

int ivy_home_request(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_entry *e = ivy_dir_get(ivy, h->page);
	struct ivy_txn *t = ivy_txn_find(ivy, h->page);
	struct ivy_waiter *w = ivy_waiter_served(ivy, t, from);

	if (!e) {
		ivy_room_make(ivy);
		nak(ivy, from, h->page, h->xid, GVM_ST_LIMIT);
		return 0;
	}
	check_copy(ivy, e, w, from, h);
	if (w && w->write == (h->type == GVM_COH_WRITE) && (w->write || w->request == h->xid)) {
		again(ivy, t, e, w, h, base_in(h, bytes));
		return 0;
	}
	if (w && (w->write || w->request == h->xid))
		return ivy_refuse(ivy);
	if (w) /* another request: the one before is done, and its DONE was lost */
		reader_done(ivy, t, w);
	w = ivy_waiter_queued(ivy, t, from);
	if (w) {
		set_request(w, h, base_in(h, bytes));
		w->write = h->type == GVM_COH_WRITE;
		ivy_home_advance(ivy, h->page);
		return 0;
	}
	if (e->owner == from && h->type == GVM_COH_READ && !is_giving(t, from))
		return ivy_refuse(ivy);
	enqueue(ivy, from, h, base_in(h, bytes));
	ivy_room_keep(ivy);
	return 0;
}

static int writer_done(struct ivy *ivy, uint16_t from, struct ivy_txn *t, const struct gvm_hdr *h)
{
	struct ivy_entry *e = ivy_dir_find(ivy, h->page);

	if (h->status == GVM_ST_OK && ivy_write_has_said(ivy, t, from, h->arg))
		return 0;
	if (t->phase != TXN_GRANT || (h->status == GVM_ST_OK && h->arg != t->version))
		return ivy_refuse(ivy);
	if (h->status == GVM_ST_OK)
		ivy_write_finish(ivy, t, e);
	else
		ivy_write_abandon(ivy, t, e);
	ivy_home_advance(ivy, h->page);
	return 0;
}

/* What the reader says it has got has another version than the page. It is told to drop that, and
 * asked: until it says that it has nothing it is being served. */
static int is_wrong(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h)
{
	if (h->status != GVM_ST_OK || h->arg == entry_version(ivy_dir_find(ivy, h->page)))
		return 0;
	ivy->stats.refused++;
	take_from_reader(ivy, from, h->page);
	ivy_say(ivy, from, GVM_COH_ASK, h->page, h->xid, 0);
	return 1;
}

int ivy_home_done(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_txn *t = ivy_txn_find(ivy, h->page);
	struct ivy_waiter *served = ivy_waiter_served(ivy, t, from);
	struct ivy_waiter *queued = ivy_waiter_queued(ivy, t, from);

	if (served && served->request == h->xid && served->write)
		return writer_done(ivy, from, t, h);
	if (served && served->request != h->xid)
		served = NULL;
	if (queued && (queued->request != h->xid || queued->write))
		queued = NULL;
	if (!served && !queued)
		return ivy_late(ivy);
	if (is_wrong(ivy, from, h))
		return 0;
	if (served)
		reader_done(ivy, t, served);
	else
		ivy_waiter_del(ivy, t, queued); /* it was served before */
	if (h->status != GVM_ST_OK)
		ivy_sharers_del(ivy, ivy_dir_find(ivy, h->page), from);
	ivy_home_advance(ivy, h->page);
	return 0;
}

/* ---- copies that are given up -------------------------------------------------------------- */

int ivy_home_drop(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_entry *e = ivy_dir_find(ivy, h->page);
	struct ivy_txn *t = ivy_txn_find(ivy, h->page);
	struct ivy_waiter *w = t && t->phase == TXN_READ ? ivy_waiter_served(ivy, t, from) : NULL;

	if (!e)
		return ivy_late(ivy);
	if (w) /* it had it, so it was done */
		reader_done(ivy, t, w);
	ivy_sharers_del(ivy, e, from);
	ivy_home_advance(ivy, h->page);
	return 0;
}

/* What an owner wrote back becomes the backing copy. If it came as a delta against what is not
 * here, all of it is RECALLed; when readers are being served, the owner is left to send all of it
 * by itself. */
static int keep_written(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e,
			const struct gvm_hdr *h, const void *bytes)
{
	if (h->flags & GVM_F_DELTA)
		return ivy_recall_owner(ivy, t, e);
	if (ivy_recall_store(ivy, e, h, bytes) != 0)
		ivy_home_lose(ivy, t, e);
	else
		e->owner = NOBODY;
	return 1;
}

int ivy_home_wb(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_entry *e = ivy_dir_find(ivy, h->page);
	struct ivy_txn *t = ivy_txn_find(ivy, h->page);

	if (t && t->phase == TXN_GRANT && t->served.first->node == from && h->arg == t->version)
		ivy_write_finish(ivy, t, e); /* it had it, so it was done */
	else if (t && ivy_write_has_said(ivy, t, from, h->arg))
		return 0; /* likewise; it comes again when it is the owner here */
	if (e && e->owner == from) {
		if (h->arg != entry_version(e))
			return ivy_refuse(ivy);
		if (t && t->phase != TXN_IDLE && t->phase != TXN_READ)
			return 0; /* it has been asked for this page, and answers that */
		if (!keep_written(ivy, t, e, h, bytes))
			return 0;
	}
	ivy_say(ivy, from, GVM_COH_WB_OK, h->page, h->xid, 0);
	ivy_home_advance(ivy, h->page);
	return 0;
}

int ivy_home_still(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_txn *t = ivy_txn_find(ivy, h->page);
	const struct ivy_entry *e = ivy_dir_find(ivy, h->page);

	if (is_giving(t, from) || (ivy->rebuild && e && (e->bits & DIR_STALE)))
		return 0;
	ivy_say(ivy, from, GVM_COH_FREE, h->page, h->xid, 0);
	return 0;
}

void ivy_home_fini(struct ivy *ivy)
{
	while (ivy->txn_list)
		txn_free(ivy, ivy->txn_list);
	ivy_table_fini(ivy, &ivy->txns);
	ivy_table_fini(ivy, &ivy->waiters);
	ivy_dir_fini(ivy);
}
