/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Pages that are not to be taken from this node for a while (docs/coherence.md, "Pins"). A message
 * that would is not obeyed, as if it had been lost: who wants the page asks again. When the last
 * pin ends the home is told, and who was refused goes before the next pin.
 */
#include "ivy/internal.h"

#define PINS_MAX 0xFFFFu

static int has(const struct ivy_page *p, enum ivy_access access)
{
	return p->state == PAGE_EXCL ||
	       (access == IVY_READ && (p->state == PAGE_SHARED || p->state == PAGE_OWNED));
}

int ivy_pin(struct ivy *ivy, uint64_t page, enum ivy_access access)
{
	struct ivy_page *p = ivy_page_find(ivy, page);

	if (page >= ivy->config.pages || (access != IVY_READ && access != IVY_WRITE))
		return -EINVAL;
	if (!p || !has(p, access))
		return -EAGAIN;
	if (p->pins == PINS_MAX)
		return -EBUSY;
	if (!p->pins && (p->pin & PIN_REFUSED)) {
		if (ivy->now - p->since < ivy->config.retry_ns)
			return -EAGAIN;
		pin_yielded(p); /* they have thought better of it */
	}
	ivy->stats.pinned += p->pins == 0;
	p->pins++;
	if (access == IVY_WRITE)
		p->pin |= PIN_WRITE;
	return 0;
}

static void unpin(struct ivy *ivy, struct ivy_page *p)
{
	p->pins = 0;
	p->pin &= (uint8_t)~PIN_WRITE;
	ivy->stats.pinned--;
	if (!(p->pin & PIN_REFUSED))
		return;
	p->since = ivy->now;
	ivy_say(ivy, ivy_home_of(ivy, p->link.key), GVM_COH_READY, p->link.key, 0, 0);
}

void ivy_page_unpin(struct ivy *ivy, struct ivy_page *p, int all)
{
	if (!p->pins) /* its home has died meanwhile */
		return;
	if (p->pins > 1 && !all)
		p->pins--;
	else
		unpin(ivy, p);
}

void ivy_unpin(struct ivy *ivy, uint64_t page)
{
	struct ivy_page *p = ivy_page_find(ivy, page);

	if (p)
		ivy_page_unpin(ivy, p, 0);
	ivy_drain(ivy);
}

int ivy_pin_refuses(struct ivy *ivy, struct ivy_page *p, enum ivy_access left)
{
	if (!p->pins || (left == IVY_READ && !(p->pin & PIN_WRITE)))
		return 0;
	p->pin |= PIN_REFUSED;
	ivy->stats.pin_refused++;
	return 1;
}

int ivy_pin_refuses_inv(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h)
{
	struct ivy_page *p = ivy_page_find(ivy, h->page);

	if (!p || !p->pins || p->state != PAGE_SHARED || p->version >= h->arg ||
	    h->arg == GVM_COH_ANY_VERSION) /* from the home: no good copy */
		return 0;
	if (from == ivy_home_of(ivy, h->page))
		return ivy_pin_refuses(ivy, p, IVY_NONE);
	ivy->stats.pin_refused++; /* nobody is waiting before the home has said so */
	return 1;
}

int ivy_home_ready(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_txn *t = ivy_txn_find(ivy, h->page);

	if (!t)
		return ivy_late(ivy);
	ivy_home_tell_again(ivy, t, from);
	if (t->fan)
		ivy_fan_repeat(ivy, t->fan, from);
	return 0;
}
