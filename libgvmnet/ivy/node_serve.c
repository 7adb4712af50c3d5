/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A page at a node, as others see it: the home has an owner send it, give it up or give it back, a
 * sharer forget it. What an owner gives it keeps, unmapped, until the home says that it has
 * arrived: a connection may break with the page in it.
 */
#include "ivy/internal.h"

static int is_owner(const struct ivy_page *p)
{
	return p->state == PAGE_OWNED || p->state == PAGE_EXCL || p->state == PAGE_EVICT;
}

static void unmap(struct ivy *ivy, const struct ivy_page *p)
{
	if (p->state == PAGE_SHARED || p->state == PAGE_OWNED || p->state == PAGE_EXCL)
		ivy->config.env->protect(ivy->config.user, p->link.key, IVY_NONE);
}

/* It is not this node's any more, but its content is kept under this id. */
static void give(struct ivy *ivy, struct ivy_page *p, uint64_t id)
{
	unmap(ivy, p);
	ivy_page_keep_old(ivy, p);
	pin_yielded(p);
	p->state = PAGE_GIVEN;
	p->side = id;
	p->flags &= (uint8_t)~HAS_DATA;
	ivy_page_settle(ivy, p);
}

static int send_back(struct ivy *ivy, const struct ivy_page *p, uint64_t id)
{
	struct gvm_hdr h = {
		.type = GVM_COH_BACK, .page = p->link.key, .xid = id, .arg = p->version
	};

	return ivy_say_page(ivy, ivy_home_of(ivy, h.page), &h,
			    ivy->config.env->copy_read(ivy->config.user, h.page), 0);
}

/* All that is here goes to the home, and what is wanted is asked for anew behind it: no answer to
 * the request before can make this a sharer of which the home does not know. */
static void give_back(struct ivy *ivy, struct ivy_page *p, uint64_t id)
{
	if (send_back(ivy, p, id) != 0)
		return; /* the home asks again */
	if (!IVY_BUG(NO_RENEW))
		ivy_page_forget(p); /* not ASKED: renewed below */
	give(ivy, p, id);
}

/* To who wants it; if it cannot be reached from here, to the home, which can reach both of us. */
static void send_data(struct ivy *ivy, const struct ivy_page *p, const struct gvm_hdr *fwd,
		      uint64_t base)
{
	uint16_t to = (uint16_t)fwd->arg;
	struct gvm_hdr h = {
		.type = GVM_COH_DATA, .page = fwd->page, .xid = fwd->xid, .arg = p->version
	};

	if (ivy_peer_down(ivy, to)) {
		send_back(ivy, p, fwd->xid);
	} else if (fwd->arg & GVM_COH_FWD_SAME) {
		h.flags = GVM_F_SAME;
		ivy_post(ivy, to, &h, NULL);
	} else {
		ivy_say_page(ivy, to, &h, ivy->config.env->copy_read(ivy->config.user, fwd->page),
			     base);
	}
}

static void forward_read(struct ivy *ivy, struct ivy_page *p, const struct gvm_hdr *h,
			 uint64_t base)
{
	if (p->state == PAGE_EXCL) {
		ivy->config.env->protect(ivy->config.user, h->page, IVY_READ);
		p->state = PAGE_OWNED;
	}
	pin_yielded(p);
	send_data(ivy, p, h, base);
}

static void forward_write(struct ivy *ivy, struct ivy_page *p, const struct gvm_hdr *h,
			  uint64_t base)
{
	if (is_owner(p))
		give(ivy, p, h->xid);
	p->side = h->xid; /* the writer may have renewed its request */
	send_data(ivy, p, h, base);
	if (IVY_BUG(GIVE_ALL))
		ivy_page_drop(ivy, p);
}

int ivy_node_forward(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_page *p = ivy_page_find(ivy, h->page);
	uint64_t base = h->length ? gvm_delta_base(bytes) : 0;
	uint16_t to = (uint16_t)h->arg;
	int again = p && h->type == GVM_COH_FWD_WRITE && p->state == PAGE_GIVEN;

	if (to >= ivy->config.nodes || to == ivy->config.self)
		return ivy_refuse(ivy);
	if (!p || (!is_owner(p) && !again))
		return ivy_late(ivy);
	if (ivy_pin_refuses(ivy, p, h->type == GVM_COH_FWD_READ ? IVY_READ : IVY_NONE))
		return 0;
	if (h->type == GVM_COH_FWD_READ)
		forward_read(ivy, p, h, base);
	else
		forward_write(ivy, p, h, base);
	return 0;
}

int ivy_node_recall(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_page *p = ivy_page_find(ivy, h->page);
	struct gvm_hdr none = {
		.type = GVM_COH_BACK, .status = GVM_ST_NOENT, .page = h->page, .xid = h->xid
	};

	/* what was given to a writer who died may be old: the home does not want that */
	int given = p && h->arg && p->state == PAGE_GIVEN && p->side != h->xid;

	if (p && ivy_pin_refuses(ivy, p, IVY_NONE))
		return 0;
	if (p && page_has_content(p) && !given) {
		give_back(ivy, p, h->xid);
		return 0;
	}
	if (ivy_post(ivy, from, &none, NULL) != 0 || !p)
		return 0;
	if (p->want)
		ivy_page_renew(ivy, p);
	if (given)
		ivy_page_drop(ivy, p);
	return 0;
}

int ivy_node_free(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_page *p = ivy_page_find(ivy, h->page);

	if (!p || p->state != PAGE_GIVEN || p->side != h->xid)
		return ivy_late(ivy);
	ivy_page_drop(ivy, p);
	return 0;
}

int ivy_node_wb_ok(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_page *p = ivy_page_find(ivy, h->page);

	if (!p || p->state != PAGE_EVICT || p->side != h->xid)
		return ivy_late(ivy);
	ivy_page_drop(ivy, p);
	return 0;
}

/* The home has not heard how a request ended. If one is open, it will be asked for again. */
int ivy_node_ask(struct ivy *ivy, uint16_t from, const struct gvm_hdr *h, const void *bytes)
{
	struct ivy_page *p = ivy_page_find(ivy, h->page);
	struct gvm_hdr done = {
		.type = GVM_COH_DONE, .status = GVM_ST_NOENT, .page = h->page, .xid = h->xid
	};

	if (p && p->want && (p->flags & ASKED))
		return 0;
	if (p && (is_owner(p) || p->state == PAGE_SHARED)) {
		done.status = GVM_ST_OK;
		done.arg = p->version;
	}
	ivy_post(ivy, from, &done, NULL);
	return 0;
}

int ivy_node_may_invalidate(const struct ivy *ivy, uint64_t page, uint64_t version)
{
	const struct ivy_page *p = ivy_page_find(ivy, page);

	return !p || !is_owner(p) || p->version >= version || version == GVM_COH_ANY_VERSION;
}

void ivy_node_invalidate(struct ivy *ivy, uint64_t page, uint64_t version)
{
	struct ivy_page *p = ivy_page_find(ivy, page);

	if (!p || p->state != PAGE_SHARED ||
	    (p->version >= version && version != GVM_COH_ANY_VERSION))
		return;
	ivy->stats.invalidated++;
	ivy_page_drop(ivy, p);
}
