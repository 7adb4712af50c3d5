/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The region client against memory nodes made for this test: they speak the region protocol over
 * the loop provider, in this thread, and can restart with or without their data, forget slabs,
 * withdraw keys and refuse. Shown here: contents, loss and its absence, who is told what, exactly
 * one completion of each operation, and that a model of the contents holds under random faults.
 */
#include "tests/region_client.h"
#include "providers/provider.h"
#include "wire/wire.h"

#define NODES   3
#define REGIONS 8
#define SLABS   1100

/* ---- a memory node -------------------------------------------------------------------------- */

struct fake_slab {
	uint8_t *memory; /* NULL: no storage */
	struct gvm_mem *mem;
	int readonly;
};

struct fake_region {
	char name[64];
	uint64_t id, pages, generation, holder;
	uint32_t slab_pages;
	struct fake_slab slab[SLABS];
};

struct fake_node {
	unsigned id;
	int up;
	struct gvm_net *net;
	struct gvm_worker *worker;
	struct fake_region *regions[REGIONS];
	/* what it is told to do */
	unsigned list_max; /* entries of an answer */
	int refuse_open;   /* answer to REGION_OPEN */
	int refuse_grant, refuse_clone, refuse_resize;
	int lie; /* how its answers are wrong */
	/* what it has seen */
	unsigned opens, closes, deletes, grants, lists, discards, discard_runs, resizes;
	uint64_t share;
};

static struct fake_node node[NODES];
static uint64_t generations;
static const char *config_text = "1 loop 49001 role=memory\n2 loop 49002 role=memory\n"
				 "3 loop 49003 role=memory\n";
static const char *config_one = "1 loop 49001 role=memory\n";

static void nothing(void *arg)
{
	(void)arg;
}

static struct fake_region *fake_find(struct fake_node *n, uint64_t id)
{
	for (unsigned i = 0; i < REGIONS; i++) {
		if (n->regions[i] && n->regions[i]->id == id)
			return n->regions[i];
	}
	return NULL;
}

static void fake_withdraw(struct fake_slab *slab)
{
	if (slab->mem)
		gvm_mem_unregister(slab->mem, nothing, NULL);
	slab->mem = NULL;
}

static void fake_offer(struct fake_node *n, struct fake_region *r, struct fake_slab *slab)
{
	unsigned access = slab->readonly ? GVM_ACCESS_FETCH : GVM_ACCESS_FETCH | GVM_ACCESS_PUT;

	fake_withdraw(slab);
	assert_int_equal(gvm_mem_register(n->net, slab->memory, (size_t)r->slab_pages * PAGE,
					  access, r->holder, &slab->mem),
			 0);
}

static void fake_forget(struct fake_slab *slab)
{
	fake_withdraw(slab);
	free(slab->memory);
	memset(slab, 0, sizeof *slab);
}

static void fake_delete(struct fake_node *n, struct fake_region *r)
{
	for (unsigned i = 0; i < SLABS; i++)
		fake_forget(&r->slab[i]);
	for (unsigned i = 0; i < REGIONS; i++) {
		if (n->regions[i] == r)
			n->regions[i] = NULL;
	}
	free(r);
}

static unsigned fake_used(const struct fake_region *r)
{
	unsigned used = 0;

	for (unsigned i = 0; i < SLABS; i++)
		used += r->slab[i].memory != NULL;
	return used;
}

/* A connection has a region open: a bit per place in regions. */
static int is_open(struct gvm_peer *peer, struct fake_node *n, const struct fake_region *r)
{
	for (unsigned i = 0; i < REGIONS; i++) {
		if (n->regions[i] == r)
			return ((uintptr_t)gvm_peer_user(peer) >> i) & 1;
	}
	return 0;
}

static void set_open(struct gvm_peer *peer, struct fake_node *n, const struct fake_region *r,
		     int on)
{
	uintptr_t bits = (uintptr_t)gvm_peer_user(peer);

	for (unsigned i = 0; i < REGIONS; i++) {
		if (n->regions[i] == r)
			bits = on ? bits | (uintptr_t)1 << i : bits & ~((uintptr_t)1 << i);
	}
	gvm_peer_set_user(peer, (void *)bits);
}

static struct fake_region *fake_make(struct fake_node *n, const char *name, uint64_t id)
{
	for (unsigned i = 0; i < REGIONS; i++) {
		if (!n->regions[i]) {
			struct fake_region *r = calloc(1, sizeof *r);

			memcpy(r->name, name, strlen(name) + 1);
			r->id = id;
			r->generation = ++generations;
			n->regions[i] = r;
			return r;
		}
	}
	fail_msg("too many regions");
	return NULL;
}

/* Ways in which an answer can be wrong. */
enum { TRUTH, NO_BODY, HALF_BODY, ZEROS, ONES, TWICE, ENDLESS, LIES };

static int telling; /* LIES: of the node that answers */

static void answer(struct gvm_peer *peer, const struct gvm_msg *msg, int status, const void *body,
		   size_t length, int more)
{
	static uint8_t twisted[GVM_MSG_MAX];

	if (telling == NO_BODY)
		length = 0;
	if (telling == HALF_BODY)
		length /= 2;
	if (telling >= ZEROS && length) {
		memset(twisted, telling == ONES ? 0xff : 0, sizeof twisted);
		if (telling >= TWICE) {
			memcpy(twisted, body, length);
			memcpy(twisted + length, body, length);
			length *= telling == TWICE ? 2 : 1;
		}
		body = twisted;
	}
	more |= telling == ENDLESS;
	struct gvm_msg reply = { .body = body,
				 .length = (uint32_t)length,
				 .flags = more ? GVM_F_MORE : 0 };

	assert_int_equal(gvm_reply(peer, msg->xid, status, &reply), 0);
}

static void fake_open(struct fake_node *n, struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct gvm_region_open open;
	struct gvm_region_opened opened = { .page_size = PAGE, .incarnation = 1 };
	struct fake_region *r = fake_find(n, msg->region);
	uint8_t body[GVM_REGION_OPENED_LEN];
	int rc = n->refuse_open;

	n->opens++;
	assert_int_equal(gvm_region_open_decode(msg->body, msg->length, &open), 0);
	if (!rc && !r && !(open.flags & GVM_RO_CREATE))
		rc = -ENOENT;
	if (!rc && r && (open.flags & GVM_RO_EXCL))
		rc = -EEXIST;
	if (!rc && r && open.generation && open.generation != r->generation)
		rc = -ENOENT;
	if (!rc && r && r->holder && r->holder != gvm_peer_incarnation(peer))
		rc = -EBUSY;
	if (rc) {
		answer(peer, msg, rc, NULL, 0, 0);
		return;
	}
	if (!r) {
		r = fake_make(n, open.name, msg->region);
		r->pages = open.pages;
		r->slab_pages = open.slab_pages;
		n->share = open.share_slabs;
		opened.flags = GVM_RO_CREATE;
	}
	if (r->holder != gvm_peer_incarnation(peer)) {
		r->holder = gvm_peer_incarnation(peer);
		for (unsigned i = 0; i < SLABS; i++) {
			if (r->slab[i].memory)
				fake_offer(n, r, &r->slab[i]);
		}
	}
	set_open(peer, n, r, 1);
	opened.generation = r->generation;
	opened.pages = r->pages;
	opened.slabs_used = fake_used(r);
	opened.slab_pages = r->slab_pages;
	gvm_region_opened_encode(body, &opened);
	answer(peer, msg, 0, body, sizeof body, 0);
}

static void fake_list(struct fake_node *n, struct fake_region *r, struct gvm_peer *peer,
		      const struct gvm_msg *msg)
{
	uint8_t body[GVM_MSG_MAX];
	size_t length = 0;
	uint64_t most = n->list_max && n->list_max < msg->arg ? n->list_max : msg->arg;
	int more = 0;

	n->lists++;
	for (uint64_t i = msg->page; i < SLABS && !more; i++) {
		struct gvm_slab_entry entry = { .slab = i };

		if (!r->slab[i].memory)
			continue;
		if (most-- == 0) {
			more = 1;
			break;
		}
		entry.key = gvm_mem_key(r->slab[i].mem);
		if (r->slab[i].readonly)
			entry.slab |= GVM_SLAB_READONLY;
		length += gvm_slab_entry_encode(body + length, &entry);
	}
	answer(peer, msg, 0, body, length, more);
}

static void fake_grant(struct fake_node *n, struct fake_region *r, struct gvm_peer *peer,
		       const struct gvm_msg *msg)
{
	struct fake_slab *slab = &r->slab[msg->page];
	struct gvm_slab_entry entry = { .slab = msg->page };
	uint8_t body[GVM_SLAB_ENTRY_LEN];

	n->grants++;
	if (n->refuse_grant) {
		answer(peer, msg, n->refuse_grant, NULL, 0, 0);
		return;
	}
	if (!slab->memory || slab->readonly) {
		if (!slab->memory)
			slab->memory = calloc(r->slab_pages, PAGE);
		slab->readonly = 0;
		fake_offer(n, r, slab);
	}
	entry.key = gvm_mem_key(slab->mem);
	gvm_slab_entry_encode(body, &entry);
	answer(peer, msg, 0, body, sizeof body, 0);
}

static void fake_discard(struct fake_node *n, struct fake_region *r, struct gvm_peer *peer,
			 const struct gvm_msg *msg)
{
	struct gvm_page_run run;

	n->discards++;
	for (uint32_t at = 0; at < msg->length; at += GVM_PAGE_RUN_LEN) {
		struct fake_slab *slab;
		uint64_t first, slab_end;

		assert_int_equal(
		    gvm_page_run_decode((const uint8_t *)msg->body + at, GVM_PAGE_RUN_LEN, &run),
		    0);
		n->discard_runs++;
		slab = &r->slab[run.page / r->slab_pages];
		first = run.page / r->slab_pages * r->slab_pages;
		slab_end = first + r->slab_pages < r->pages ? first + r->slab_pages : r->pages;
		assert_true(run.page + run.count <= slab_end);
		if (!slab->memory)
			continue;
		if (run.page == first && run.page + run.count == slab_end)
			fake_forget(slab);
		else
			memset(slab->memory + (run.page - first) * PAGE, 0, run.count * PAGE);
	}
	answer(peer, msg, 0, NULL, 0, 0);
}

static void fake_clone(struct fake_node *n, struct fake_region *r, struct gvm_peer *peer,
		       const struct gvm_msg *msg)
{
	struct gvm_region_clone clone;
	struct fake_region *c;
	struct gvm_region_opened opened = { .page_size = PAGE, .incarnation = 1 };
	uint8_t body[GVM_REGION_OPENED_LEN];

	assert_int_equal(gvm_region_clone_decode(msg->body, msg->length, &clone), 0);
	if (n->refuse_clone || fake_find(n, clone.id)) {
		answer(peer, msg, n->refuse_clone ? n->refuse_clone : -EEXIST, NULL, 0, 0);
		return;
	}
	c = fake_make(n, clone.name, clone.id);
	c->pages = r->pages;
	c->slab_pages = r->slab_pages;
	for (unsigned i = 0; i < SLABS; i++) {
		if (!r->slab[i].memory)
			continue;
		c->slab[i].memory = malloc((size_t)r->slab_pages * PAGE);
		memcpy(c->slab[i].memory, r->slab[i].memory, (size_t)r->slab_pages * PAGE);
		c->slab[i].readonly = r->slab[i].readonly = 1;
		fake_offer(n, c, &c->slab[i]);
		fake_offer(n, r, &r->slab[i]);
	}
	opened.generation = c->generation;
	opened.pages = c->pages;
	opened.slabs_used = fake_used(c);
	opened.slab_pages = c->slab_pages;
	gvm_region_opened_encode(body, &opened);
	answer(peer, msg, 0, body, sizeof body, 0);
}

static void fake_resize(struct fake_node *n, struct fake_region *r, struct gvm_peer *peer,
			const struct gvm_msg *msg)
{
	n->resizes++;
	if (!n->refuse_resize) {
		r->pages = msg->page;
		n->share = msg->arg;
		for (uint64_t i = (r->pages + r->slab_pages - 1) / r->slab_pages; i < SLABS; i++)
			fake_forget(&r->slab[i]);
		if (r->pages % r->slab_pages && r->slab[r->pages / r->slab_pages].memory)
			memset(r->slab[r->pages / r->slab_pages].memory +
				   r->pages % r->slab_pages * PAGE,
			       0, (r->slab_pages - r->pages % r->slab_pages) * PAGE);
	}
	answer(peer, msg, n->refuse_resize, NULL, 0, 0);
}

static void fake_message(void *arg, struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct fake_node *n = arg;
	struct fake_region *r = fake_find(n, msg->region);

	telling = n->lie;
	if (msg->type == GVM_T_REGION_OPEN) {
		fake_open(n, peer, msg);
		return;
	}
	if (msg->type == GVM_T_REGION_DELETE) {
		n->deletes++;
		if (r && r->holder && r->holder != gvm_peer_incarnation(peer)) {
			answer(peer, msg, -EBUSY, NULL, 0, 0);
			return;
		}
		if (r) {
			set_open(peer, n, r, 0);
			fake_delete(n, r);
		}
		answer(peer, msg, r ? 0 : -ENOENT, NULL, 0, 0);
		return;
	}
	if (!r || !is_open(peer, n, r)) {
		answer(peer, msg, -ENOENT, NULL, 0, 0);
		return;
	}
	switch (msg->type) {
	case GVM_T_REGION_CLOSE:
		n->closes++;
		r->holder = 0;
		set_open(peer, n, r, 0);
		for (unsigned i = 0; i < SLABS; i++) {
			if (r->slab[i].memory)
				fake_offer(n, r, &r->slab[i]);
		}
		answer(peer, msg, 0, NULL, 0, 0);
		return;
	case GVM_T_REGION_RESIZE:
		fake_resize(n, r, peer, msg);
		return;
	case GVM_T_REGION_CLONE:
		fake_clone(n, r, peer, msg);
		return;
	case GVM_T_SLAB_GRANT:
		fake_grant(n, r, peer, msg);
		return;
	case GVM_T_SLAB_LIST:
		fake_list(n, r, peer, msg);
		return;
	case GVM_T_DISCARD:
		fake_discard(n, r, peer, msg);
		return;
	}
	fail_msg("unexpected message %u", msg->type);
}

static void fake_start(struct fake_node *n)
{
	struct gvm_net_config net = { .transport = "loop", .node = GVM_NODE_NONE };
	struct gvm_worker_config worker = { .arg = n, .message = fake_message, .cpu = -1 };

	assert_int_equal(gvm_net_open(&net, &n->net), 0);
	assert_int_equal(gvm_worker_open(n->net, &worker, &n->worker), 0);
	assert_int_equal(gvm_worker_listen(n->worker, "loop", 49000 + n->id, NULL), 0);
	n->up = 1;
	for (unsigned i = 0; i < REGIONS; i++) {
		for (unsigned s = 0; n->regions[i] && s < SLABS; s++) {
			if (n->regions[i]->slab[s].memory)
				fake_offer(n, n->regions[i], &n->regions[i]->slab[s]);
		}
	}
}

static void fake_stop(struct fake_node *n)
{
	if (!n->up)
		return;
	gvm_worker_close(n->worker);
	for (unsigned i = 0; i < REGIONS; i++) {
		for (unsigned s = 0; n->regions[i] && s < SLABS; s++)
			fake_withdraw(&n->regions[i]->slab[s]);
	}
	gvm_net_close(n->net);
	n->up = 0;
}

static void fake_wipe(struct fake_node *n)
{
	for (unsigned i = 0; i < REGIONS; i++) {
		if (n->regions[i])
			fake_delete(n, n->regions[i]);
	}
}

/* ---- the client ------------------------------------------------------------------------------ */

static void progress(void)
{
	int busy = gvm_worker_progress(worker);

	for (unsigned i = 0; i < NODES; i++) {
		if (node[i].up)
			busy += gvm_worker_progress(node[i].worker);
	}
	if (!busy)
		gvm_worker_wait(worker, MS / 4);
}

static int setup_map(const char *map)
{
	struct gvm_loop_faults none = { 0 };

	gvm_loop_set_faults(&none);
	memset(node, 0, sizeof node);
	told_count = 0;
	for (unsigned i = 0; i < NODES; i++) {
		node[i].id = i + 1;
		fake_start(&node[i]);
	}
	client_start("loop", map, NULL);
	return 0;
}

static int setup(void **state)
{
	(void)state;
	return setup_map(config_text);
}

static int setup_one(void **state)
{
	(void)state;
	return setup_map(config_one);
}

static int teardown(void **state)
{
	struct gvm_loop_faults none = { 0 };

	(void)state;
	gvm_loop_set_faults(&none);
	client_stop();
	for (unsigned i = 0; i < NODES; i++) {
		fake_stop(&node[i]);
		fake_wipe(&node[i]);
	}
	return 0;
}

static unsigned home_of(const char *name, uint64_t slab)
{
	uint16_t at;

	assert_int_equal(gvm_place(cluster, gvm_region_id_of(name), slab, 1, &at), 1);
	return at;
}

/* The first slab of the region that lies on this node. */
static uint64_t slab_on(const char *name, unsigned id)
{
	for (uint64_t s = 0; s < 100; s++) {
		if (home_of(name, s) == id)
			return s;
	}
	fail_msg("no slab on node %u", id);
	return 0;
}

/* ---- tests ---------------------------------------------------------------------------------- */

/* A name has one id; the id does not change from release to release. */
static void test_id(void **state)
{
	(void)state;
	assert_true(gvm_region_id_of("vm1") == gvm_region_id_of("vm1"));
	assert_true(gvm_region_id_of("vm1") != gvm_region_id_of("vm2"));
	/* echo -n "gvmnet region vm1" | sha256sum: first 8 bytes, little-endian */
	assert_true(gvm_region_id_of("vm1") == 0x1a469d42a2938332ull);
}

/* What is put is fetched; what never was is zeros, and costs no message. */
static void test_contents(void **state)
{
	static uint8_t buf[SLAB], back[SLAB];
	struct gvm_net_stats before, after;

	(void)state;
	assert_int_equal(open_region("vm1", 12, GVM_REGION_CREATE), 0);
	assert_int_equal(gvm_region_pages(region), 12 * SLAB_PAGES);
	assert_int_equal(gvm_region_slab_pages(region), SLAB_PAGES);
	assert_int_equal(node[0].share + node[1].share + node[2].share, 12);
	gvm_worker_stats(worker, &before);
	assert_false(gvm_region_has_storage(region, 5));
	for (uint64_t p = 0; p < 12 * SLAB_PAGES; p += 7)
		expect_version(p, 0);
	gvm_worker_stats(worker, &after);
	assert_int_equal(before.fetches, after.fetches);
	assert_int_equal(before.msgs_sent, after.msgs_sent);
	for (uint64_t p = 0; p < 12 * SLAB_PAGES; p += 5)
		put_version(p, p + 1);
	for (uint64_t p = 0; p < 12 * SLAB_PAGES; p++)
		expect_version(p, p % 5 ? 0 : p + 1);
	assert_true(gvm_region_has_storage(region, 5));
	assert_int_equal(node[0].grants + node[1].grants + node[2].grants, 12);
	for (unsigned i = 0; i < SLAB_PAGES; i++)
		fill(buf + i * PAGE, 16 + i, 99);
	assert_int_equal(put(16, 16, buf), 0);
	assert_int_equal(fetch(16, 16, back), 0);
	assert_memory_equal(buf, back, SLAB);
}

/* Calls that make no sense are refused, and nothing is called back. */
static void test_bounds(void **state)
{
	static uint8_t buf[SLAB * 2];
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm1", 4, GVM_REGION_CREATE), 0);
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_fetch(region, 4 * SLAB_PAGES, 1, buf, &r.op), -ERANGE);
	assert_int_equal(gvm_region_fetch(region, UINT64_MAX, 1, buf, &r.op), -ERANGE);
	assert_int_equal(gvm_region_fetch(region, 4 * SLAB_PAGES - 1, 2, buf, &r.op), -ERANGE);
	assert_int_equal(gvm_region_fetch(region, SLAB_PAGES - 1, 2, buf, &r.op), -EINVAL);
	assert_int_equal(gvm_region_fetch(region, 0, 0, buf, &r.op), -EINVAL);
	assert_int_equal(gvm_region_put(region, 0, UINT32_MAX, buf, &r.op), -EINVAL);
	assert_int_equal(gvm_region_discard(region, 1, UINT64_MAX, &r.op), -ERANGE);
	assert_int_equal(gvm_region_discard(region, 0, 0, &r.op), -EINVAL);
	run_for(MS);
	assert_int_equal(r.done, 0);
}

/* The config is checked, with a reason, before anything is sent. */
static void test_config(void **state)
{
	struct gvm_region_config config = { .name = "a b",
					    .bytes = SLAB,
					    .flags = GVM_REGION_CREATE };

	(void)state;
	assert_int_equal(gvm_region_open(worker, &config, 0, opened_cb, &region), -EINVAL);
	config.name = "";
	assert_int_equal(gvm_region_open(worker, &config, 0, opened_cb, &region), -EINVAL);
	config.name = "ok";
	config.bytes = 4097;
	assert_int_equal(gvm_region_open(worker, &config, 0, opened_cb, &region), -EINVAL);
	config.bytes = 0;
	assert_int_equal(gvm_region_open(worker, &config, 0, opened_cb, &region), -EINVAL);
	config.bytes = SLAB;
	config.slab_bytes = 3 * SLAB;
	assert_int_equal(gvm_region_open(worker, &config, 0, opened_cb, &region), -EINVAL);
	assert_int_equal(node[0].opens + node[1].opens + node[2].opens, 0);
}

/* Opening: absent, present, held, too large; what was begun is taken back everywhere. */
static void test_open(void **state)
{
	struct gvm_region_config config = { .name = "vm1", .node_state = node_state };
	unsigned home = home_of("vm1", 0), other = home == 1 ? 2 : 1;

	(void)state;
	assert_int_equal(open_region("vm1", 0, 0), -ENOENT);
	node[other - 1].refuse_open = -ENOSPC;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), -ENOSPC);
	node[other - 1].refuse_open = 0;
	for (unsigned i = 0; i < NODES; i++)
		assert_null(fake_find(&node[i], gvm_region_id_of("vm1")));
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE | GVM_REGION_EXCL), 0);
	for (uint64_t s = 0; s < 40; s++)
		put_version(s * SLAB_PAGES + 3, s + 1);
	close_region();
	assert_int_equal(node[0].closes + node[1].closes + node[2].closes, 3);
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE | GVM_REGION_EXCL), -EEXIST);
	/* as it is: size, slab size and contents come from the nodes, in lists of any length */
	node[0].list_max = node[1].list_max = 1;
	assert_int_equal(open_with(&config), 0);
	assert_int_equal(gvm_region_pages(region), 40 * SLAB_PAGES);
	assert_int_equal(gvm_region_slab_pages(region), SLAB_PAGES);
	assert_true(node[0].lists + node[1].lists > 10);
	for (uint64_t s = 0; s < 40; s++)
		expect_version(s * SLAB_PAGES + 3, s + 1);
	close_region();
	/* another size is no match */
	assert_int_equal(open_region("vm1", 39, 0), -EINVAL);
	fake_find(&node[other - 1], gvm_region_id_of("vm1"))->holder = 4711;
	assert_int_equal(open_region("vm1", 40, 0), -EBUSY);
	fake_find(&node[other - 1], gvm_region_id_of("vm1"))->holder = 0;
	/* a node that has lost its part: never made anew */
	fake_wipe(&node[other - 1]);
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), -EIO);
	assert_null(fake_find(&node[other - 1], gvm_region_id_of("vm1")));
	assert_non_null(fake_find(&node[home - 1], gvm_region_id_of("vm1")));
	/* nor is a home that has lost its own */
	fake_wipe(&node[home - 1]);
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), -EIO);
	assert_null(fake_find(&node[home - 1], gvm_region_id_of("vm1")));
}

/* A node that is not there yet is waited for; one that never comes ends the open. */
static void test_open_late(void **state)
{
	struct gvm_region_config config = { .name = "vm1",
					    .bytes = 40 * SLAB,
					    .slab_bytes = SLAB,
					    .flags = GVM_REGION_CREATE,
					    .arg = &opening };
	uint64_t begin = gvm_now();

	(void)state;
	fake_stop(&node[1]);
	opening = (struct opening){ 0 };
	assert_int_equal(gvm_region_open(worker, &config, begin + 100 * MS, opened_cb, &region), 0);
	UNTIL(opening.called);
	assert_true(opening.status == -ETIMEDOUT || opening.status == -ECONNREFUSED);
	assert_true(gvm_now() - begin >= 90 * MS);
	gvm_region_close(region);
	opening = (struct opening){ 0 };
	assert_int_equal(gvm_region_open(worker, &config, GVM_NEVER, opened_cb, &region), 0);
	run_for(30 * MS);
	assert_int_equal(opening.called, 0);
	fake_start(&node[1]);
	UNTIL(opening.called);
	assert_int_equal(opening.status, 0);
}

/* Closed while it is opened: called back once, and nothing is left at the nodes. */
static void test_close_while_opening(void **state)
{
	struct gvm_region_config config = { .name = "vm1",
					    .bytes = 40 * SLAB,
					    .slab_bytes = SLAB,
					    .flags = GVM_REGION_CREATE,
					    .arg = &opening };

	(void)state;
	for (unsigned rounds = 0; rounds < 12; rounds++) {
		opening = (struct opening){ 0 };
		assert_int_equal(gvm_region_open(worker, &config, GVM_NEVER, opened_cb, &region),
				 0);
		for (unsigned i = 0; i < rounds; i++)
			progress();
		if (opening.called)
			assert_int_equal(opening.status, 0);
		else
			opening.status = 1;
		gvm_region_close(region);
		region = NULL;
		assert_int_equal(opening.called, 1);
		run_for(3 * MS);
		assert_int_equal(opening.called, 1);
		for (unsigned i = 0; i < NODES; i++) {
			struct fake_region *r = fake_find(&node[i], gvm_region_id_of("vm1"));

			if (opening.status == -ECANCELED)
				assert_null(r);
			else if (r)
				assert_int_equal(r->holder, 0);
		}
	}
}

/* A node restarts on its data: what waits goes on, everything is there, the client is told. */
static void test_restart(void **state)
{
	uint64_t slab = slab_on("vm1", 2);
	uint8_t buf[PAGE], back[PAGE];
	struct result get, store;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < 40; s++)
		put_version(s * SLAB_PAGES, s + 1);
	fake_stop(&node[1]);
	prepare(&get, GVM_NEVER);
	prepare(&store, GVM_NEVER);
	fill(buf, slab * SLAB_PAGES + 1, 7);
	assert_int_equal(gvm_region_fetch(region, slab * SLAB_PAGES, 1, back, &get.op), 0);
	assert_int_equal(gvm_region_put(region, slab * SLAB_PAGES + 1, 1, buf, &store.op), 0);
	UNTIL(told_count);
	assert_int_equal(told[0].node, 2);
	assert_true(told[0].why < 0 && told[0].why != -EIO);
	/* the others go on meanwhile */
	expect_version(slab_on("vm1", 1) * SLAB_PAGES, slab_on("vm1", 1) + 1);
	run_for(30 * MS);
	assert_int_equal(get.done + store.done, 0);
	fake_start(&node[1]);
	UNTIL(get.done && store.done);
	assert_int_equal(get.status, 0);
	assert_int_equal(store.status, 0);
	assert_true(holds(back, slab * SLAB_PAGES, slab + 1));
	expect_version(slab * SLAB_PAGES + 1, 7);
	for (uint64_t s = 0; s < 40; s++)
		expect_version(s * SLAB_PAGES, s + 1);
	assert_int_equal(told_count, 2);
	assert_int_equal(told[1].node, 2);
	assert_int_equal(told[1].why, 0);
	assert_int_equal(get.done + store.done, 2);
}

/* The connection of a region that nobody uses breaks: it is opened again all the same. */
static void test_idle_reconnect(void **state)
{
	struct gvm_loop_faults faults = { .seed = 1, .drop_conn = 65536 };
	struct gvm_peer *peer;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	put_version(0, 1);
	gvm_loop_set_faults(&faults);
	assert_int_equal(gvm_peer_get(worker, 3, &peer), 0);
	gvm_peer_disconnect(peer, -ECONNRESET);
	faults.drop_conn = 0;
	gvm_loop_set_faults(&faults);
	node[2].opens = 0;
	UNTIL(node[2].opens == 1 && told_count == 2);
	assert_int_equal(told[0].node, 3);
	assert_int_equal(told[1].why, 0);
	expect_version(0, 1);
}

/* A node comes back without the data: -EIO for good, never zeros; the rest is unharmed. */
static void test_loss(void **state)
{
	uint64_t slab = slab_on("vm1", 2);
	uint8_t back[PAGE];
	struct result get;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < 40; s++)
		put_version(s * SLAB_PAGES, s + 1);
	fake_stop(&node[1]);
	fake_wipe(&node[1]);
	prepare(&get, GVM_NEVER);
	assert_int_equal(gvm_region_fetch(region, slab * SLAB_PAGES, 1, back, &get.op), 0);
	fake_start(&node[1]);
	UNTIL(get.done);
	assert_int_equal(get.status, -EIO);
	assert_int_equal(fetch(slab * SLAB_PAGES + 5, 1, back), -EIO);
	assert_int_equal(put(slab * SLAB_PAGES, 1, back), -EIO);
	assert_int_equal(discard(0, 40 * SLAB_PAGES), -EIO);
	assert_true(gvm_region_has_storage(region, slab * SLAB_PAGES));
	assert_int_equal(told[told_count - 1].node, 2);
	assert_int_equal(told[told_count - 1].why, -EIO);
	expect_version(slab_on("vm1", 1) * SLAB_PAGES, 0);
	assert_null(fake_find(&node[1], gvm_region_id_of("vm1")));
	for (unsigned i = 0; i + 1 < told_count; i++)
		assert_int_not_equal(told[i].why, -EIO);
}

/* A restart that has lost one slab: that one fails, the others of the node do not. */
static void test_slab_lost(void **state)
{
	struct fake_region *r;
	uint64_t lost = slab_on("vm1", 1);
	uint8_t back[PAGE];

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < 40; s++)
		put_version(s * SLAB_PAGES, s + 1);
	fake_stop(&node[0]);
	r = fake_find(&node[0], gvm_region_id_of("vm1"));
	fake_forget(&r->slab[lost]);
	fake_start(&node[0]);
	for (uint64_t s = 0; s < 40; s++) {
		if (s == lost)
			assert_int_equal(fetch(s * SLAB_PAGES, 1, back), -EIO);
		else
			expect_version(s * SLAB_PAGES, s + 1);
	}
	assert_int_equal(put(lost * SLAB_PAGES, 1, back), -EIO);
	assert_null(r->slab[lost].memory);
}

/* Keys that the node withdraws are asked for again; a slab gone meanwhile is a loss. */
static void test_withdrawn(void **state)
{
	struct fake_region *r;
	uint64_t slab = slab_on("vm1", 1);
	uint8_t back[PAGE];

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	put_version(slab * SLAB_PAGES, 1);
	r = fake_find(&node[0], gvm_region_id_of("vm1"));
	fake_offer(&node[0], r, &r->slab[slab]);
	expect_version(slab * SLAB_PAGES, 1);
	r->slab[slab].readonly = 1;
	fake_offer(&node[0], r, &r->slab[slab]);
	put_version(slab * SLAB_PAGES, 2);
	expect_version(slab * SLAB_PAGES, 2);
	assert_int_equal(told_count, 0);
	fake_forget(&r->slab[slab]);
	assert_int_equal(put(slab * SLAB_PAGES, 1, back), -EIO);
	assert_int_equal(fetch(slab * SLAB_PAGES, 1, back), -EIO);
}

/* No room for another slab is said at once; later ones may succeed. */
static void test_no_space(void **state)
{
	uint8_t buf[PAGE] = { 1 };

	(void)state;
	assert_int_equal(open_region("vm1", 1, GVM_REGION_CREATE), 0);
	for (unsigned i = 0; i < NODES; i++)
		node[i].refuse_grant = -ENOSPC;
	assert_int_equal(put(0, 1, buf), -ENOSPC);
	expect_version(0, 0);
	for (unsigned i = 0; i < NODES; i++)
		node[i].refuse_grant = 0;
	assert_int_equal(put(0, 1, buf), 0);
}

/* Answers that make no sense: refused or waited out, never believed; then the truth is. */
static void test_lies(void **state)
{
	struct gvm_region_config config = { .name = "vm1", .arg = &opening };
	uint8_t buf[PAGE] = { 1 };
	struct result r;

	(void)state;
	for (int lie = TRUTH + 1; lie < LIES; lie++) {
		assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
		for (unsigned i = 0; i < NODES; i++)
			node[i].lie = lie;
		prepare(&r, 60 * MS);
		assert_int_equal(await(&r, gvm_region_put(region, 0, 1, buf, &r.op)) < 0,
				 lie != ENDLESS);
		for (unsigned i = 0; i < NODES; i++)
			node[i].lie = TRUTH;
		for (uint64_t s = 0; s < 40; s++)
			put_version(s * SLAB_PAGES, s + 1);
		close_region();
		for (unsigned i = 0; i < NODES; i++)
			node[i].lie = lie;
		opening = (struct opening){ 0 };
		assert_int_equal(
		    gvm_region_open(worker, &config, gvm_now() + 50 * MS, opened_cb, &region), 0);
		UNTIL(opening.called);
		assert_true(opening.status < 0);
		gvm_region_close(region);
		region = NULL;
		run_for(2 * MS);
		for (unsigned i = 0; i < NODES; i++)
			node[i].lie = TRUTH;
		assert_int_equal(open_region("vm1", 0, 0), 0);
		for (uint64_t s = 0; s < 40; s++)
			expect_version(s * SLAB_PAGES, s + 1);
		close_region();
		for (unsigned i = 0; i < NODES; i++)
			fake_wipe(&node[i]);
	}
}

/* Sizes that would have this side work without end are refused. */
static void test_too_many_slabs(void **state)
{
	struct gvm_region_config config = {
		.name = "vm1", .bytes = 1ull << 50, .slab_bytes = SLAB, .flags = GVM_REGION_CREATE
	};
	struct result r;

	(void)state;
	assert_int_equal(gvm_region_open(worker, &config, 0, opened_cb, &region), -EINVAL);
	assert_int_equal(open_region("vm1", 1, GVM_REGION_CREATE), 0);
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_resize(region, 1ull << 50, &r.op), -EINVAL);
	put_version(0, 1);
	close_region();
	for (unsigned i = 0; i < NODES; i++) {
		if (node[i].regions[0])
			node[i].regions[0]->pages = 1ull << 38;
	}
	assert_int_equal(open_region("vm1", 0, 0), -EINVAL);
}

/* What waits for a node that is away ends at its own deadline, and nothing else does; another
 * client's hold is told from absence. */
static void test_deadline(void **state)
{
	uint64_t slab = slab_on("vm1", 1);
	uint8_t put_buf[PAGE], buf[PAGE] = { 1 };
	struct result patient, hasty;
	unsigned opens;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	put_version(slab * SLAB_PAGES, 1);
	fake_stop(&node[0]);
	fill(put_buf, slab * SLAB_PAGES + 1, 2);
	prepare(&patient, GVM_NEVER);
	assert_int_equal(gvm_region_put(region, slab * SLAB_PAGES + 1, 1, put_buf, &patient.op), 0);
	for (unsigned kind = 0; kind < 3; kind++) {
		prepare(&hasty, 20 * MS);
		assert_int_equal(
		    kind == 0   ? gvm_region_put(region, slab * SLAB_PAGES, 1, buf, &hasty.op)
		    : kind == 1 ? gvm_region_fetch(region, slab * SLAB_PAGES, 1, buf, &hasty.op)
				: gvm_region_discard(region, slab * SLAB_PAGES, 1, &hasty.op),
		    0);
		UNTIL(hasty.done);
		assert_true(gvm_now() >= hasty.op.deadline_ns);
		assert_int_equal(hasty.status, -ETIMEDOUT);
		assert_int_equal(patient.done, 0);
	}
	/* It is back, and another client holds the region. That it is asked a second time shows
	 * that its first answer was heard. */
	fake_find(&node[0], gvm_region_id_of("vm1"))->holder = 4711;
	opens = node[0].opens;
	fake_start(&node[0]);
	UNTIL(node[0].opens >= opens + 2);
	prepare(&hasty, 20 * MS);
	assert_int_equal(
	    await(&hasty, gvm_region_fetch(region, slab * SLAB_PAGES, 1, buf, &hasty.op)), -EBUSY);
	assert_int_equal(patient.done, 0);
	fake_find(&node[0], gvm_region_id_of("vm1"))->holder = 0;
	UNTIL(patient.done);
	assert_int_equal(patient.status, 0);
	expect_version(slab * SLAB_PAGES, 1);
	expect_version(slab * SLAB_PAGES + 1, 2);
}

/* More operations than there is room for: all complete, once, and fetches before waiting puts. */
static void test_back_pressure(void **state)
{
	enum { N = 3000 };
	static struct result puts[N], get;
	static uint8_t buf[PAGE], back[PAGE];
	unsigned pending = 0;

	(void)state;
	assert_int_equal(open_region("vm1", 1, GVM_REGION_CREATE), 0);
	put_version(0, 3);
	fill(buf, 0, 3);
	for (unsigned i = 0; i < N; i++) {
		prepare(&puts[i], GVM_NEVER);
		assert_int_equal(gvm_region_put(region, i % SLAB_PAGES, 1, buf, &puts[i].op), 0);
	}
	prepare(&get, GVM_NEVER);
	assert_int_equal(gvm_region_fetch(region, 0, 1, back, &get.op), 0);
	UNTIL(get.done);
	for (unsigned i = 0; i < N; i++)
		pending += !puts[i].done;
	assert_true(pending > N / 2);
	for (unsigned i = 0; i < N; i++)
		UNTIL(puts[i].done);
	run_for(5 * MS);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(puts[i].done, 1);
		assert_int_equal(puts[i].status, 0);
	}
	assert_memory_equal(back, buf, PAGE);
}

/* Discards: parts and wholes, over slabs and nodes, one message a node; then zeros. */
static void test_discard(void **state)
{
	unsigned messages;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	assert_int_equal(discard(0, 40 * SLAB_PAGES), 0);
	assert_int_equal(node[0].discards + node[1].discards + node[2].discards, 0);
	for (uint64_t p = 0; p < 40 * SLAB_PAGES; p += 2)
		put_version(p, 5);
	/* the end of slab 0 to the beginning of slab 38 */
	assert_int_equal(discard(6, 38 * SLAB_PAGES), 0);
	messages = node[0].discards + node[1].discards + node[2].discards;
	assert_true(messages <= 3);
	assert_int_equal(node[0].discard_runs + node[1].discard_runs + node[2].discard_runs, 39);
	for (uint64_t p = 0; p < 40 * SLAB_PAGES; p++)
		expect_version(p, p % 2 || (p >= 6 && p < 6 + 38 * SLAB_PAGES) ? 0 : 5);
	assert_true(gvm_region_has_storage(region, 0));
	assert_false(gvm_region_has_storage(region, 5 * SLAB_PAGES));
	put_version(5 * SLAB_PAGES, 8);
	expect_version(5 * SLAB_PAGES, 8);
	/* what was discarded whole is no loss after a reconnect */
	for (unsigned i = 0; i < NODES; i++) {
		fake_stop(&node[i]);
		fake_start(&node[i]);
	}
	expect_version(5 * SLAB_PAGES, 8);
	expect_version(6 * SLAB_PAGES, 0);
	expect_version(0, 5);
}

/* A discard whose answer is lost: the slab is gone at the node, and that is not a loss. */
static void test_discard_answer_lost(void **state)
{
	struct fake_region *r;
	struct result d;
	uint64_t slab = slab_on("vm1", 1);

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	put_version(slab * SLAB_PAGES, 5);
	prepare(&d, GVM_NEVER);
	assert_int_equal(gvm_region_discard(region, slab * SLAB_PAGES, SLAB_PAGES, &d.op), 0);
	/* the node has done it, and dies before the client reads the answer */
	r = fake_find(&node[0], gvm_region_id_of("vm1"));
	fake_forget(&r->slab[slab]);
	fake_stop(&node[0]);
	run_for(5 * MS);
	fake_start(&node[0]);
	UNTIL(d.done);
	assert_int_equal(d.status, 0);
	expect_version(slab * SLAB_PAGES, 0);
	put_version(slab * SLAB_PAGES, 6);
	expect_version(slab * SLAB_PAGES, 6);
}

static int wide(struct result *r, int posted)
{
	return await(r, posted);
}

/* A clone has what the source had; both go their own way; one refusal undoes it all. */
static void test_clone(void **state)
{
	struct gvm_region_config config = { .name = "child",
					    .placed_as = "vm1",
					    .node_state = node_state };
	struct gvm_region *source;
	struct result r;

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < 40; s += 2)
		put_version(s * SLAB_PAGES, s + 1);
	node[1].refuse_clone = -ENOSPC;
	prepare(&r, 5000 * MS);
	assert_int_equal(wide(&r, gvm_region_clone(region, "child", 0, &r.op)), -ENOSPC);
	for (unsigned i = 0; i < NODES; i++)
		assert_null(fake_find(&node[i], gvm_region_id_of("child")));
	node[1].refuse_clone = 0;
	prepare(&r, 5000 * MS);
	assert_int_equal(wide(&r, gvm_region_clone(region, "child", 0, &r.op)), 0);
	for (uint64_t s = 0; s < 40; s++)
		expect_version(s * SLAB_PAGES, s % 2 ? 0 : s + 1);
	for (uint64_t s = 0; s < 40; s++)
		put_version(s * SLAB_PAGES, 1000 + s);
	source = region;
	assert_int_equal(open_with(&config), 0);
	for (uint64_t s = 0; s < 40; s++)
		expect_version(s * SLAB_PAGES, s % 2 ? 0 : s + 1);
	put_version(0, 77);
	expect_version(0, 77);
	close_region();
	region = source;
	expect_version(0, 1000);
	close_region();
	/* without the name it is placed as, it is refused, not read as zeros */
	config.placed_as = NULL;
	assert_true(open_with(&config) < 0);
}

/* Growing reaches nodes that had no part; shrinking forgets; a refusal changes nothing. */
static void test_resize(void **state)
{
	struct result r;
	uint8_t buf[PAGE];

	(void)state;
	assert_int_equal(open_region("vm1", 1, GVM_REGION_CREATE), 0);
	put_version(3, 9);
	for (unsigned i = 0; i < NODES; i++)
		node[i].refuse_open = -ENOSPC;
	prepare(&r, 5000 * MS);
	assert_int_equal(wide(&r, gvm_region_resize(region, 40 * SLAB, &r.op)), -ENOSPC);
	assert_int_equal(gvm_region_pages(region), SLAB_PAGES);
	for (unsigned i = 0; i < NODES; i++) {
		struct fake_region *f = fake_find(&node[i], gvm_region_id_of("vm1"));

		node[i].refuse_open = 0;
		if (f)
			assert_int_equal(f->pages, SLAB_PAGES);
	}
	prepare(&r, 5000 * MS);
	assert_int_equal(wide(&r, gvm_region_resize(region, 40 * SLAB, &r.op)), 0);
	assert_int_equal(gvm_region_pages(region), 40 * SLAB_PAGES);
	assert_int_equal(node[0].share + node[1].share + node[2].share, 40);
	expect_version(3, 9);
	for (uint64_t p = SLAB_PAGES; p < 40 * SLAB_PAGES; p += 3) {
		expect_version(p, 0);
		put_version(p, p);
	}
	prepare(&r, 5000 * MS);
	assert_int_equal(wide(&r, gvm_region_resize(region, 20 * SLAB + 2 * PAGE, &r.op)), 0);
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_fetch(region, 20 * SLAB_PAGES + 2, 1, buf, &r.op), -ERANGE);
	prepare(&r, 5000 * MS);
	assert_int_equal(wide(&r, gvm_region_resize(region, 40 * SLAB, &r.op)), 0);
	for (uint64_t p = SLAB_PAGES; p < 40 * SLAB_PAGES; p++)
		expect_version(p, (p - SLAB_PAGES) % 3 || p >= 20 * SLAB_PAGES + 2 ? 0 : p);
	expect_version(3, 9);
	close_region();
	assert_int_equal(open_region("vm1", 0, 0), 0);
	expect_version(3, 9);
}

/* Deleted on all nodes, also on one that was away while it was asked. */
static void test_delete(void **state)
{
	struct result r;
	uint8_t buf[PAGE];

	(void)state;
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	for (uint64_t s = 0; s < 40; s++)
		put_version(s * SLAB_PAGES, s + 1);
	fake_stop(&node[2]);
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_delete(region, &r.op), 0);
	run_for(20 * MS);
	assert_int_equal(r.done, 0);
	fake_start(&node[2]);
	UNTIL(r.done);
	assert_int_equal(r.status, 0);
	for (unsigned i = 0; i < NODES; i++)
		assert_null(fake_find(&node[i], gvm_region_id_of("vm1")));
	prepare(&r, GVM_NEVER);
	assert_int_equal(gvm_region_fetch(region, 0, 1, buf, &r.op), -EINVAL);
}

/* Close in every state: each operation completes once, before or with it, or soon after. */
static void test_close(void **state)
{
	enum { N = 600 };
	static struct result ops[N];
	static uint8_t buf[N][PAGE];

	(void)state;
	for (unsigned round = 0; round < 4; round++) {
		assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
		if (round == 2)
			fake_stop(&node[0]);
		for (unsigned i = 0; i < N; i++) {
			uint64_t page = (i * 7) % (40 * SLAB_PAGES);

			prepare(&ops[i], GVM_NEVER);
			assert_int_equal(i % 3 ? gvm_region_put(region, page, 1, buf[i], &ops[i].op)
					 : i % 2
					     ? gvm_region_fetch(region, page, 1, buf[i], &ops[i].op)
					     : gvm_region_discard(region, page, 1, &ops[i].op),
					 0);
		}
		for (unsigned i = 0; i < round; i++)
			progress();
		gvm_region_close(region);
		region = NULL;
		for (unsigned i = 0; i < N; i++)
			UNTIL(ops[i].done);
		run_for(5 * MS);
		for (unsigned i = 0; i < N; i++) {
			assert_int_equal(ops[i].done, 1);
			assert_true(ops[i].status == 0 || ops[i].status == -ECANCELED);
		}
		if (round == 2)
			fake_start(&node[0]);
	}
	/* and the worker's end ends what is still under way */
	assert_int_equal(open_region("vm1", 40, GVM_REGION_CREATE), 0);
	for (unsigned i = 0; i < N; i++) {
		prepare(&ops[i], GVM_NEVER);
		assert_int_equal(gvm_region_put(region, i, 1, buf[i], &ops[i].op), 0);
	}
	client_stop();
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(ops[i].done, 1);
	client_start("loop", config_text, NULL);
}

/* Nodes that die and are back soon, with their data. */
static unsigned restarts, down = NODES;
static uint64_t up_at;

static void restart_end(void)
{
	if (down < NODES)
		fake_start(&node[down]);
	down = NODES;
}

static void restart_some(void)
{
	if (down < NODES && gvm_now() >= up_at)
		restart_end();
	if (!restarts || down < NODES || rnd(400))
		return;
	down = (unsigned)rnd(NODES);
	fake_stop(&node[down]);
	up_at = gvm_now() + rnd(15) * MS;
	restarts--;
}

/* Connections break, operations are delayed, connects are refused, nodes restart. */
static void test_random_faults(void **state)
{
	const char *text = getenv("GVM_TEST_SEED");
	uint64_t seed = text ? strtoull(text, NULL, 0) : 1;

	(void)state;
	for (unsigned i = 0; i < 4; i++, seed++) {
		struct gvm_loop_faults faults = { .seed = seed,
						  .drop_conn = i % 2 ? 100 : 0,
						  .delay = 8000,
						  .delay_ns = MS / 4,
						  .refuse = i % 2 ? 4000 : 0 };
		struct gvm_loop_faults none = { 0 };

		print_message("seed %llu (repeat with GVM_TEST_SEED=%llu)\n",
			      (unsigned long long)seed, (unsigned long long)seed);
		assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
		gvm_loop_set_faults(&faults);
		model_reset();
		restarts = i >= 2 ? 4 : 0;
		play(seed, 1500, restart_some);
		restart_end();
		gvm_loop_set_faults(&none);
		check_model();
		close_region();
		for (unsigned n = 0; n < NODES; n++)
			fake_wipe(&node[n]);
		told_count = 0;
	}
}

/* One of three nodes dies for good: its pages fail, all others stay right. */
static void test_one_dies(void **state)
{
	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	model_reset();
	play(11, 1500, NULL);
	fake_stop(&node[1]);
	fake_wipe(&node[1]);
	fake_start(&node[1]);
	lost_ok = 1;
	check_model();
	for (uint64_t p = 0; p < M_PAGES; p++) {
		uint8_t buf[PAGE];
		int rc = fetch(p, 1, buf);

		assert_int_equal(rc, home_of("vm1", p / SLAB_PAGES) == 2 ? -EIO : 0);
	}
	lost_ok = 0;
}

/* One node: the map's simplest form. */
static void test_one_node(void **state)
{
	(void)state;
	assert_int_equal(open_region("vm1", M_SLABS, GVM_REGION_CREATE), 0);
	model_reset();
	play(5, 1500, NULL);
	check_model();
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_id),
		T(test_contents),
		T(test_bounds),
		T(test_config),
		T(test_open),
		T(test_open_late),
		T(test_close_while_opening),
		T(test_restart),
		T(test_idle_reconnect),
		T(test_loss),
		T(test_slab_lost),
		T(test_withdrawn),
		T(test_no_space),
		T(test_lies),
		T(test_too_many_slabs),
		T(test_deadline),
		T(test_back_pressure),
		T(test_discard),
		T(test_discard_answer_lost),
		T(test_clone),
		T(test_resize),
		T(test_delete),
		T(test_close),
		T(test_random_faults),
		T(test_one_dies),
		cmocka_unit_test_setup_teardown(test_one_node, setup_one, teardown),
	};

	if (!getenv("GVM_LOG"))
		gvm_log_set_level(GVM_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
