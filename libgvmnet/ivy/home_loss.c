/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A page whose owner cannot be asked any more: the content is got back from who has it, or the page
 * is lost, and says so. And what else follows from peers that are gone, or back, or silent.
 */
#include "ivy/internal.h"

void ivy_home_lose(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e)
{
	e->owner = NOBODY;
	e->bits &= (uint8_t)~DIR_STALE;
	ivy_sharers_clear(ivy, e);
	if (!IVY_BUG(ZERO))
		e->bits |= DIR_LOST;
	ivy->stats.lost++;
	if (!t)
		return;
	if (t->served.first)
		ivy_txn_requeue(t);
	ivy_fan_free(ivy, t->fan);
	t->fan = NULL;
	t->supplier = NOBODY;
	t->phase = TXN_IDLE;
	if (!IVY_BUG(ZERO))
		ivy_txn_refuse(ivy, t, GVM_ST_IO);
}

void ivy_recall_again(struct ivy *ivy, struct ivy_txn *t)
{
	ivy_say(ivy, t->candidate, GVM_COH_RECALL, t->link.key, t->round, t->strict);
}

void ivy_recall_start(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e, uint16_t candidate,
		      int strict)
{
	if (candidate == NOBODY) {
		t->version = 0;
		candidate = ivy_sharers_from(e, 0);
	}
	if (candidate == NOBODY) {
		ivy_home_lose(ivy, t, e);
		return;
	}
	t->phase = TXN_RECALL;
	t->strict = (uint8_t)strict;
	t->supplier = NOBODY;
	t->candidate = candidate;
	t->round = ivy_new_round(ivy);
	t->tries = 0;
	t->due = ivy_backoff(ivy, 0);
	ivy_recall_again(ivy, t);
}

int ivy_recall_owner(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e)
{
	if (!t)
		t = ivy_txn_get(ivy, entry_page(e), e->owner);
	ivy->stats.delta_unknown++;
	if (t && t->phase == TXN_IDLE) {
		t->version = 0;
		ivy_recall_start(ivy, t, e, e->owner, 0);
	}
	return 0;
}

int ivy_recall_store(struct ivy *ivy, struct ivy_entry *e, const struct gvm_hdr *h,
		     const void *bytes)
{
	const struct ivy_env *env = ivy->config.env;

	if (ivy->config.max_old)
		ivy_old_keep(ivy, entry_page(e), env->store_read(ivy->config.user, entry_page(e)));
	return env->store_write(ivy->config.user, entry_page(e), h->length ? bytes : NULL);
}

/* ---- what comes back ----------------------------------------------------------------------- */

/* The answer to a RECALL. */
static void recalled(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e,
		     const struct gvm_hdr *h, const void *bytes)
{
	uint16_t from = t->candidate;
	struct ivy_waiter *w = ivy_waiter_queued(ivy, t, from);
	int newer = t->version && h->arg == t->version;
	int good =
	    h->status == GVM_ST_OK && (h->arg == entry_version(e) || newer || IVY_BUG(OLD_BACK));

	if (w && !IVY_BUG(NO_RENEW)) /* it asks anew */
		ivy_waiter_del(ivy, t, w);
	ivy_sharers_del(ivy, e, from);
	if (e->owner == from)
		e->owner = NOBODY;
	t->candidate = NOBODY;
	ivy_txn_charge(ivy, t, NOBODY);
	t->phase = TXN_IDLE;
	e->bits |= DIR_STALE;
	if (!good) /* somebody else may have it: ivy_home_advance() sees to that */
		return;
	if (ivy_recall_store(ivy, e, h, bytes) != 0) {
		ivy_home_lose(ivy, t, e);
		return;
	}
	e->bits &= (uint8_t)~DIR_STALE;
	if (newer)
		entry_set_version(e, h->arg);
}

/* The owner cannot reach who it was told to send its page to: pass it on. */
static int pass_on(struct ivy *ivy, const struct ivy_txn *t, const struct ivy_entry *e,
		   uint16_t from, const struct gvm_hdr *back, const void *bytes)
{
	const struct ivy_waiter *w = t->served.first;
	struct gvm_hdr h = {
		.type = GVM_COH_DATA, .page = back->page, .xid = back->xid, .arg = back->arg
	};

	if (e->owner != from || back->status != GVM_ST_OK)
		return ivy_late(ivy);
	while (w && w->request != back->xid)
		w = w->next;
	if (!w)
		return ivy_late(ivy);
	if (back->arg != entry_version(e))
		return ivy_refuse(ivy);
	if (w->write && t->same) {
		h.flags = GVM_F_SAME;
		ivy_post(ivy, w->node, &h, NULL);
	} else {
		ivy_say_page(ivy, w->node, &h, back->length ? bytes : NULL, w->base);
	}
	return 0;
}

int ivy_home_back(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_txn *t = ivy_txn_find(ivy, h->page);
	struct ivy_entry *e = ivy_dir_find(ivy, h->page);
	int status = 0;

	if (!t || !e)
		return ivy_late(ivy);
	if (t->phase == TXN_RECALL && t->candidate == from && t->round == h->xid)
		recalled(ivy, t, e, h, bytes);
	else
		status = pass_on(ivy, t, e, from, h, bytes);
	if (status == 0 && h->status == GVM_ST_OK)
		ivy_home_still(ivy, from, h, NULL);
	ivy_home_advance(ivy, h->page);
	return status;
}

/* ---- peers --------------------------------------------------------------------------------- */

static void ask_served(struct ivy *ivy, const struct ivy_txn *t, uint16_t node)
{
	const struct ivy_waiter *w =
	    node == NOBODY ? t->served.first : ivy_waiter_served(ivy, t, node);

	for (; w; w = node == NOBODY ? w->next : NULL)
		ivy_say(ivy, w->node, GVM_COH_ASK, t->link.key, w->request, 0);
}

static void tick_txn(struct ivy *ivy, struct ivy_txn *t)
{
	uint64_t page = t->link.key;

	if (t->tries < 255)
		t->tries++;
	t->due = ivy_backoff(ivy, t->tries);
	if (t->phase == TXN_RECALL) {
		ivy_recall_again(ivy, t);
	} else if (t->phase == TXN_INV) {
		t->due = ivy->now + ivy->config.round_ns;
		if (t->fan) {
			ivy_fan_give_up(t->fan);
			ivy_fan_resume(ivy, t->fan, NOBODY); /* there may have been no memory */
		}
		ivy_write_step(ivy, t, ivy_dir_find(ivy, page));
		ivy_home_advance(ivy, page);
	} else {
		ask_served(ivy, t, NOBODY);
	}
}

void ivy_home_tick(struct ivy *ivy)
{
	struct ivy_txn *t, *next;

	for (t = ivy->txn_list; t; t = next) {
		next = t->next;
		if (t->due <= ivy->now)
			tick_txn(ivy, t);
	}
}

void ivy_home_peer_lost(struct ivy *ivy, uint16_t peer)
{
	struct ivy_txn *t, *next;

	for (t = ivy->txn_list; t; t = next) {
		uint64_t page = t->link.key;

		next = t->next;
		if (!t->fan)
			continue;
		ivy_fan_lost(t->fan, peer, 0);
		ivy_write_step(ivy, t, ivy_dir_find(ivy, page));
		ivy_home_advance(ivy, page);
	}
}

/* What the owner was told to send may have been lost on the way to it. */
static void tell_owner(struct ivy *ivy, struct ivy_txn *t, uint16_t peer)
{
	struct ivy_entry *e = NULL;
	struct ivy_waiter *w;

	if (t->phase == TXN_READ ||
	    ((t->phase == TXN_INV || t->phase == TXN_GRANT) && t->supplier == peer))
		e = ivy_dir_find(ivy, t->link.key);
	if (!e || !t->served.first)
		return;
	if (t->phase != TXN_READ)
		ivy_write_again(ivy, t, e);
	else if (e->owner == peer)
		for (w = t->served.first; w; w = w->next)
			ivy_home_serve_read(ivy, t, e, w);
}

void ivy_home_tell_again(struct ivy *ivy, struct ivy_txn *t, uint16_t peer)
{
	tell_owner(ivy, t, peer);
	if (t->phase == TXN_RECALL && t->candidate == peer)
		ivy_recall_again(ivy, t);
}

void ivy_home_peer_back(struct ivy *ivy, uint16_t peer)
{
	struct ivy_txn *t;

	for (t = ivy->txn_list; t; t = t->next) {
		ivy_home_tell_again(ivy, t, peer);
		if (t->fan)
			ivy_fan_resume(ivy, t->fan, peer);
		if (t->phase == TXN_READ || t->phase == TXN_GRANT)
			ask_served(ivy, t, peer);
	}
}

/* ---- deaths -------------------------------------------------------------------------------- */

static void owner_died(struct ivy_txn *t, struct ivy_entry *e)
{
	e->owner = NOBODY;
	e->bits |= DIR_STALE;
	if (!t)
		return;
	t->supplier = NOBODY;
	if (t->phase != TXN_READ)
		return;
	ivy_txn_requeue(t); /* nobody sends it to them any more */
	t->phase = TXN_IDLE;
}

static void served_died(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e,
			struct ivy_waiter *w)
{
	ivy_waiter_del(ivy, t, w);
	if (t->phase == TXN_READ && !t->served.first)
		t->phase = TXN_IDLE;
	if (t->phase == TXN_GRANT) /* with an early GRANT, when all others have been told */
		ivy_write_lost(ivy, t, e);
}

static void txn_peer_dead(struct ivy *ivy, struct ivy_txn *t, uint16_t peer)
{
	struct ivy_entry *e = ivy_dir_find(ivy, t->link.key);
	struct ivy_waiter *served = ivy_waiter_served(ivy, t, peer);
	struct ivy_waiter *queued = ivy_waiter_queued(ivy, t, peer);

	if (queued)
		ivy_waiter_del(ivy, t, queued);
	if (t->phase != TXN_INV) /* else they are all told to drop it, and the dead has */
		ivy_sharers_del(ivy, e, peer);
	if (served)
		served_died(ivy, t, e, served);
	if (e->owner == peer)
		owner_died(t, e);
	if (t->phase == TXN_RECALL && t->candidate == peer) {
		e->bits |= DIR_STALE;
		t->phase = TXN_IDLE;
	}
	if (t->fan)
		ivy_fan_lost(t->fan, peer, 1);
	ivy_write_step(ivy, t, e);
}

static void entry_peer_dead(struct ivy *ivy, struct ivy_entry *e, uint16_t peer)
{
	int owned = e->owner == peer;

	if (!owned && !ivy_sharers_has(e, peer))
		return;
	ivy_sharers_del(ivy, e, peer);
	if (owned)
		owner_died(NULL, e);
	ivy_home_advance(ivy, entry_page(e));
}

void ivy_home_peer_dead(struct ivy *ivy, uint16_t peer)
{
	struct ivy_txn *t, *next;
	struct ivy_entry *e;
	uint32_t at = 0;

	for (t = ivy->txn_list; t; t = next) {
		uint64_t page = t->link.key;

		next = t->next;
		txn_peer_dead(ivy, t, peer);
		ivy_home_advance(ivy, page);
	}
	while ((e = ivy_dir_walk(ivy, &at)))
		entry_peer_dead(ivy, e, peer);
}
