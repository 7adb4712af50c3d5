/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A writer's turn. The owner sends it the page while the sharers are told, in a tree; when all have
 * answered it is granted; when it has said DONE, it is the owner. Until then the entry is as it
 * was, but for the sharers.
 */
#include "ivy/internal.h"

static void forward(struct ivy *ivy, const struct ivy_txn *t)
{
	const struct ivy_waiter *w = t->served.first;
	struct gvm_hdr h = {
		.type = GVM_COH_FWD_WRITE,
		.page = t->link.key,
		.xid = w->request,
		.arg = w->node | (t->same ? GVM_COH_FWD_SAME : 0),
	};

	if (t->supplier != NOBODY)
		ivy_say_base(ivy, t->supplier, &h, t->same ? 0 : w->base);
}

static void grant(struct ivy *ivy, struct ivy_txn *t, const struct ivy_entry *e)
{
	const struct ivy_waiter *w = t->served.first;
	struct gvm_hdr h = {
		.type = GVM_COH_GRANT, .page = t->link.key, .xid = w->request, .arg = t->version
	};

	if (t->supplier == NOBODY && !t->same && !t->sent) {
		ivy_say_page(ivy, w->node, &h,
			     ivy->config.env->store_read(ivy->config.user, h.page), w->base);
		return;
	}
	h.flags = t->supplier == NOBODY && t->same ? GVM_F_SAME : GVM_F_WAIT;
	ivy_post(ivy, w->node, &h, NULL);
}

/*
 * All that have a copy have been told to acknowledge to the writer, too: so it need not wait until
 * this home says that they have. The page goes with that, if nobody else sends it.
 */
static void grant_early(struct ivy *ivy, struct ivy_txn *t, const struct ivy_entry *e)
{
	const struct ivy_waiter *w = t->served.first;
	struct gvm_hdr h = {
		.type = GVM_COH_GRANT, .page = t->link.key, .xid = w->request, .arg = t->version
	};
	struct gvm_hdr data = {
		.type = GVM_COH_DATA, .page = h.page, .xid = h.xid, .arg = entry_version(e)
	};
	int here = t->supplier == NOBODY && !t->same;

	if (here)
		ivy_say_page(ivy, w->node, &data,
			     ivy->config.env->store_read(ivy->config.user, h.page), w->base);
	h.flags = GVM_F_ACKS | (t->supplier == NOBODY && t->same ? GVM_F_SAME : GVM_F_WAIT);
	h.length = (uint32_t)gvm_set_encode(t->fan->set, t->fan->ids, t->fan->n);
	t->early = ivy_post(ivy, w->node, &h, t->fan->set) == 0;
	t->sent = t->early && here;
}

/* It is worth that: a few others are told, another node than this one waits for it, and somebody
 * else is told than this home, which is asked nothing over the wire. */
static int may_grant_early(const struct ivy *ivy, const struct ivy_txn *t)
{
	const struct ivy_fan *fan = t->fan;
	uint16_t writer = t->served.first->node;

	return fan->n <= FAN_OUT && (fan->n > 1 || fan->ids[0] != ivy->config.self) &&
	       writer != ivy->config.self && !ivy_peer_down(ivy, writer);
}

static void tell_sharers(struct ivy *ivy, struct ivy_txn *t, const struct ivy_entry *e)
{
	struct ivy_fan *fan = t->fan;

	fan->version = t->version;
	if (may_grant_early(ivy, t))
		fan->writer = t->served.first->node;
	ivy_fan_start(ivy, fan, ivy_new_round(ivy), 0);
	if (fan->writer != NOBODY && ivy_fan_is_flat(fan))
		grant_early(ivy, t, e);
}

/* A fan for all sharers but the writer; *fan NULL: there are none. */
static int plan(struct ivy *ivy, const struct ivy_txn *t, const struct ivy_entry *e,
		struct ivy_fan **fan)
{
	uint32_t n = ivy_sharers_count(e), i, kept = 0;
	uint16_t writer = t->queue.first->node;

	*fan = NULL;
	if (n == (uint32_t)ivy_sharers_has(e, writer))
		return 0;
	*fan = ivy_fan_make(ivy, t->link.key, n, 1);
	if (!*fan)
		return -ENOMEM;
	ivy_sharers_list(e, (*fan)->ids);
	for (i = 0; i < n; i++)
		if ((*fan)->ids[i] != writer)
			(*fan)->ids[kept++] = (*fan)->ids[i];
	(*fan)->n = kept;
	return 0;
}

void ivy_write_nobody(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e)
{
	uint32_t n = ivy_sharers_count(e);

	t->fan = ivy_fan_make(ivy, t->link.key, n, 1);
	if (!t->fan)
		return; /* another time */
	ivy_sharers_list(e, t->fan->ids);
	t->phase = TXN_INV;
	t->same = t->early = t->sent = t->done = 0;
	t->supplier = NOBODY;
	t->version = t->fan->version = ivy_draw(ivy);
	t->tries = 0;
	t->due = ivy->now + ivy->config.round_ns;
	ivy_fan_start(ivy, t->fan, ivy_new_round(ivy), 0);
	ivy_write_step(ivy, t, e);
}

int ivy_write_start(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e)
{
	struct ivy_waiter *w = t->queue.first;
	int same =
	    w->has == entry_version(e) && (e->owner == w->node || ivy_sharers_has(e, w->node));
	int status;

	if (e->owner == w->node && !same) /* an owner that has lost its page? */
		return -EPROTO;
	status = plan(ivy, t, e, &t->fan);
	if (status != 0)
		return status;
	ivy_waiter_serve(t);
	t->phase = TXN_INV;
	t->same = (uint8_t)same;
	t->supplier = e->owner == w->node ? NOBODY : e->owner;
	t->version = ivy_draw(ivy);
	t->tries = 0;
	t->early = t->sent = t->done = 0;
	t->due = ivy->now + ivy->config.round_ns;
	forward(ivy, t);
	if (t->fan)
		tell_sharers(ivy, t, e);
	ivy_write_step(ivy, t, e);
	return 0;
}

/* Those who are left and not dead are told by the home itself. 0: there are none. */
static int tell_left(struct ivy *ivy, struct ivy_txn *t)
{
	struct ivy_fan *fan = t->fan;
	uint32_t n = ivy_fan_left(fan), i;

	fan->n = 0;
	fan->writer = NOBODY;
	for (i = 0; i < n; i++)
		if (!ivy_peer_gone(ivy, fan->left[i]))
			fan->ids[fan->n++] = fan->left[i];
	if (fan->n == 0)
		return 0;
	t->due = ivy->now + ivy->config.round_ns;
	ivy_fan_start(ivy, fan, ivy_new_round(ivy), 1);
	return 1;
}

/* Nobody but the owner and the writer has a copy any more. */
static void all_told(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e)
{
	uint16_t supplier = t->supplier;

	ivy_sharers_clear(ivy, e);
	if (t->served.first && t->done) {
		ivy_write_finish(ivy, t, e);
	} else if (t->served.first && !(e->bits & DIR_STALE)) {
		t->phase = TXN_GRANT;
		t->due = ivy_backoff(ivy, 0);
		grant(ivy, t, e);
	} else if (t->served.first) { /* the owner died: perhaps it had sent the page before */
		uint16_t writer = t->served.first->node;

		ivy_txn_requeue(t);
		ivy_recall_start(ivy, t, e, writer, 0);
	} else if (t->early && !IVY_BUG(EARLY_DEATH)) {
		ivy_write_lost(ivy, t, e);
	} else { /* the writer died, or there was none: the page is with whom it was, or here */
		ivy_txn_charge(ivy, t, NOBODY);
		t->phase = TXN_IDLE;
		t->supplier = NOBODY;
		if (supplier != NOBODY)
			ivy_recall_start(ivy, t, e, supplier, 0);
	}
}

void ivy_write_step(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e)
{
	if (t->phase != TXN_INV)
		return;
	while (t->fan && (t->fan->open == 0 || IVY_BUG(NO_ACK))) {
		if (!IVY_BUG(NO_ACK) && tell_left(ivy, t))
			continue;
		ivy_fan_free(ivy, t->fan);
		t->fan = NULL;
	}
	if (!t->fan)
		all_told(ivy, t, e);
}

void ivy_write_again(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e)
{
	t->sent = 0;
	if (t->served.first->has != entry_version(e) && e->owner != t->served.first->node)
		t->same = 0;
	if (e->bits & DIR_STALE) {
		if (t->phase != TXN_GRANT)
			return;
		ivy_txn_requeue(t);
		ivy_recall_start(ivy, t, e, t->queue.first->node, 0);
		return;
	}
	forward(ivy, t);
	if (t->phase == TXN_GRANT)
		grant(ivy, t, e);
}

void ivy_write_finish(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e)
{
	struct ivy_waiter *w = t->served.first;

	if (t->supplier != NOBODY)
		ivy_say(ivy, t->supplier, GVM_COH_FREE, t->link.key, w->request, 0);
	e->owner = w->node;
	e->bits &= (uint8_t)~DIR_STALE;
	entry_set_version(e, t->version);
	ivy_waiter_del(ivy, t, w);
	t->supplier = NOBODY;
	t->phase = TXN_IDLE;
}

void ivy_write_lost(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e)
{
	uint16_t supplier = t->supplier;

	t->phase = TXN_IDLE;
	t->version = 0;
	if (supplier == NOBODY)
		ivy_home_lose(ivy, t, e);
	else
		ivy_recall_start(ivy, t, e, supplier, 1);
}

int ivy_write_has_said(struct ivy *ivy, struct ivy_txn *t, uint16_t from, uint64_t version)
{
	const struct ivy_waiter *w = t->phase == TXN_INV && t->early ? t->served.first : NULL;

	if (!w || w->node != from || version != t->version)
		return 0;
	t->done = 1;
	return 1;
}

void ivy_write_abandon(struct ivy *ivy, struct ivy_txn *t, struct ivy_entry *e)
{
	uint16_t supplier = t->supplier, writer = t->served.first->node;

	ivy_waiter_del(ivy, t, t->served.first);
	t->supplier = NOBODY;
	t->phase = TXN_IDLE;
	t->version = 0;
	if (supplier != NOBODY) /* it has kept the page */
		ivy_recall_start(ivy, t, e, supplier, 0);
	else if (e->owner == writer)
		ivy_home_lose(ivy, t, e);
}
