/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Contents that are not the newest any more, a bounded number of them: of a page that is written
 * here, what it was before; of a copy that was given up, what it was. Who asks for a page names the
 * last one that it has by its digest. Who sends it and has the same one sends what has changed. A
 * content is known by nothing but its digest, so it makes no difference whose it was, or when; and
 * what comes of a delta is compared with the digest of what it was made from.
 */
#include "ivy/internal.h"

#define OF_A_PAGE 4u /* contents of one page, at most: a busy page leaves room for others */

static const uint8_t zeros[IVY_PAGE_MAX];

static size_t old_size(const struct ivy *ivy)
{
	return sizeof(struct ivy_old) + ivy->config.page_size;
}

static struct ivy_old *first_of(const struct ivy *ivy, uint64_t page)
{
	return (struct ivy_old *)ivy_table_find(&ivy->old, page);
}

static struct ivy_old *next_of(const struct ivy_old *o)
{
	return (struct ivy_old *)ivy_table_again(&o->link);
}

static uint64_t digest_of(const struct ivy *ivy, struct ivy_old *o)
{
	if (!o->digest)
		o->digest = gvm_delta_digest(o->bytes, ivy->config.page_size);
	return o->digest;
}

/* ---- the list ------------------------------------------------------------------------------ */

static void append(struct ivy *ivy, struct ivy_old *o)
{
	o->next = NULL;
	o->prev = ivy->old_last;
	*(o->prev ? &o->prev->next : &ivy->old_first) = o;
	ivy->old_last = o;
}

static void take_out(struct ivy *ivy, struct ivy_old *o)
{
	*(o->prev ? &o->prev->next : &ivy->old_first) = o->next;
	*(o->next ? &o->next->prev : &ivy->old_last) = o->prev;
	ivy_table_del(&ivy->old, &o->link);
}

/* Of those of the page the first or the last that was kept, and how many there are. */
static struct ivy_old *of_page(const struct ivy *ivy, uint64_t page, int last, uint32_t *count)
{
	struct ivy_old *o, *found = NULL;

	*count = 0;
	for (o = first_of(ivy, page); o; o = next_of(o), ++*count)
		if (!found || (o->age > found->age) == last)
			found = o;
	return found;
}

/* One that nobody needs as much as the next one, or new memory. Not in the list. */
static struct ivy_old *room_for(struct ivy *ivy, uint64_t page)
{
	uint32_t count;
	struct ivy_old *o = of_page(ivy, page, 0, &count);

	if (count < OF_A_PAGE)
		o = ivy->old.count >= ivy->config.max_old ? ivy->old_first : NULL;
	if (o)
		take_out(ivy, o);
	return o ? o : ivy_alloc(ivy, old_size(ivy));
}

void ivy_old_keep(struct ivy *ivy, uint64_t page, const void *bytes)
{
	uint32_t size = ivy->config.page_size;
	struct ivy_old *o;

	if (!bytes || ivy_all_zeros(bytes, size)) /* everybody has those */
		return;
	for (o = first_of(ivy, page); o; o = next_of(o))
		if (memcmp(o->bytes, bytes, size) == 0)
			break;
	if (o)
		take_out(ivy, o);
	else if ((o = room_for(ivy, page)))
		o->digest = 0;
	else
		return;
	o->link.key = page;
	o->age = ++ivy->old_age;
	memcpy(o->bytes, bytes, size);
	if (ivy_table_add(ivy, &ivy->old, &o->link) != 0)
		ivy_release(ivy, o, old_size(ivy));
	else
		append(ivy, o);
}

uint64_t ivy_old_last(struct ivy *ivy, uint64_t page)
{
	uint32_t count;
	struct ivy_old *o = of_page(ivy, page, 1, &count);

	return o ? digest_of(ivy, o) : 0;
}

void ivy_old_fini(struct ivy *ivy)
{
	struct ivy_old *o;

	while ((o = ivy->old_first)) {
		take_out(ivy, o);
		ivy_release(ivy, o, old_size(ivy));
	}
	ivy_table_fini(ivy, &ivy->old);
}

/* ---- deltas -------------------------------------------------------------------------------- */

static const uint8_t *find(struct ivy *ivy, uint64_t page, uint64_t digest)
{
	struct ivy_old *o;

	if (digest == 0)
		return zeros;
	for (o = first_of(ivy, page); o; o = next_of(o))
		if (digest_of(ivy, o) == digest || IVY_BUG(BASE))
			return o->bytes;
	return NULL;
}

/* A quarter shorter at least: it has to be made and undone, too. */
static size_t room(const struct ivy *ivy)
{
	return ivy->config.page_size - ivy->config.page_size / 4;
}

static size_t encode(struct ivy *ivy, const struct gvm_hdr *h, const uint8_t *bytes, uint64_t base)
{
	const uint8_t *from = NULL;
	uint8_t *buf = ivy->buffer + ivy->config.page_size;
	uint32_t size = ivy->config.page_size;
	uint64_t digest = 0;
	size_t len = 0;

	if (base) {
		digest = gvm_delta_digest(bytes, size);
		from = digest == base ? bytes : find(ivy, h->page, base);
	}
	if (from)
		len = gvm_delta_encode(buf, room(ivy), from, base, bytes, digest, size);
	if (!len && gvm_delta_likely(zeros, bytes, size))
		len = gvm_delta_encode(buf, room(ivy), zeros, 0, bytes, digest, size);
	if (len && !digest)
		gvm_delta_base_put(buf + 8, gvm_delta_digest(bytes, size));
	return len;
}

const void *ivy_old_encode(struct ivy *ivy, struct gvm_hdr *h, const void *bytes, uint64_t base)
{
	size_t len = encode(ivy, h, bytes, base);

	if (!len)
		return bytes;
	ivy->stats.deltas++;
	ivy->stats.delta_saved += ivy->config.page_size - len;
	h->flags = GVM_F_DELTA;
	h->length = (uint32_t)len;
	return ivy->buffer + ivy->config.page_size;
}

/* The backing copy, if it is that. */
static const uint8_t *find_stored(struct ivy *ivy, uint64_t page, uint64_t digest)
{
	const uint8_t *bytes;

	if (ivy_home_of(ivy, page) != ivy->config.self)
		return NULL;
	bytes = ivy->config.env->store_read(ivy->config.user, page);
	return bytes && gvm_delta_digest(bytes, ivy->config.page_size) == digest ? bytes : NULL;
}

int ivy_old_decode(struct ivy *ivy, const struct gvm_hdr *h, const void *payload,
		   const void **bytes)
{
	uint32_t size = ivy->config.page_size;
	int optional = h->type != GVM_COH_BACK; /* else the home has asked for all of it */
	uint64_t base;
	const uint8_t *from;

	if (gvm_delta_check(payload, h->length, size) != 0)
		return -EPROTO;
	base = gvm_delta_base(payload);
	if (base && !optional)
		return -EPROTO;
	*bytes = NULL;
	from = find(ivy, h->page, base);
	if (!from && h->type == GVM_COH_WB)
		from = find_stored(ivy, h->page, base);
	if (!from)
		return 0;
	memcpy(ivy->buffer, from, size);
	if (IVY_BUG(BASE))
		gvm_delta_patch(ivy->buffer, payload, h->length);
	else if (gvm_delta_apply(ivy->buffer, payload, h->length, size) != 0)
		return optional && base ? 0 : -EPROTO;
	*bytes = ivy->buffer;
	return 0;
}
