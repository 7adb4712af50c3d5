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

	if (t->supplier == NOBODY && !t->same) {
		ivy_say_page(ivy, w->node, &h,
			     ivy->config.env->store_read(ivy->config.user, h.page), w->base);
		return;
	}
	h.flags = t->supplier != NOBODY ? GVM_F_WAIT : GVM_F_SAME;
	ivy_post(ivy, w->node, &h, NULL);
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
	t->due = ivy->now + ivy->config.round_ns;
	forward(ivy, t);
	if (t->fan) {
		t->fan->version = t->version;
		ivy_fan_start(ivy, t->fan, ivy_new_round(ivy), 0);
	}
	ivy_write_step(ivy, t, e);
	return 0;
}

/* Those who are left and not dead are told by the home itself. 0: there are none. */
static int tell_left(struct ivy *ivy, struct ivy_txn *t)
{
	struct ivy_fan *fan = t->fan;
	uint32_t n = ivy_fan_left(fan), i;

	fan->n = 0;
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
	if (t->served.first && !(e->bits & DIR_STALE)) {
		t->phase = TXN_GRANT;
		t->due = ivy_backoff(ivy, 0);
		grant(ivy, t, e);
	} else if (t->served.first) { /* the owner died: perhaps it had sent the page before */
		uint16_t writer = t->served.first->node;

		ivy_txn_requeue(t);
		ivy_recall_start(ivy, t, e, writer, 0);
	} else { /* the writer died: the page is with whom it was, or here */
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
