/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Memory nodes made for the tests of the region client: they speak the region protocol over the
 * loop provider, in this thread, and can restart with or without their data, forget slabs, withdraw
 * keys and refuse. For one test program each, so everything is static.
 */
#ifndef REGION_NODES_H
#define REGION_NODES_H

#include "tests/region_client.h"
#include "providers/provider.h"
#include "wire/wire.h"

#ifndef NODES /* up to 8 */
#define NODES 3
#endif
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
	uint64_t id, pages, generation, holder, clone_of;
	int resting;
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
	enum gvm_full full; /* what it says in answers of -ENOSPC to opens and grants */
	int lie; /* how its answers are wrong */
	/* what it has seen */
	unsigned opens, closes, deletes, grants, lists, discards, discard_runs, resizes, rests,
	    leaves;
	uint64_t share;
};

static struct fake_node node[NODES];
static uint64_t generations;
/* The transport of nodes and client: loop, which can be told to fail, or another one (test_region
 * NAME). */
static const char *over = "loop";

static int over_loop(void)
{
	return strcmp(over, "loop") == 0;
}

static const char *node_host(void)
{
	return over_loop() ? "loop" : "127.0.0.1";
}

static inline const char *config_one(void)
{
	static char text[64];

	snprintf(text, sizeof text, "1 %s 49001 role=memory\n", node_host());
	return text;
}

static const char *config_text(void)
{
	static char text[NODES * 48];
	int len = 0;

	for (unsigned i = 1; i <= NODES; i++)
		len += snprintf(text + len, sizeof text - (size_t)len, "%u %s %u role=memory\n", i,
				node_host(), 49000 + i);
	return text;
}

/* The memory of a slab stays until the slab and all that it was offered as have let go of it:
 * hardware may use what is withdrawn for a while. */
struct fake_memory {
	unsigned uses;
	uint8_t bytes[];
};

static unsigned going; /* what was withdrawn, and is not gone yet */

static uint8_t *memory_new(size_t len)
{
	struct fake_memory *m = calloc(1, sizeof *m + len);

	assert_non_null(m);
	m->uses = 1;
	return m->bytes;
}

static struct fake_memory *memory_of(uint8_t *bytes)
{
	return (struct fake_memory *)(bytes - offsetof(struct fake_memory, bytes));
}

static void memory_drop(uint8_t *bytes)
{
	if (bytes && --memory_of(bytes)->uses == 0)
		free(memory_of(bytes));
}

static void memory_gone(void *arg)
{
	going--;
	memory_drop(arg);
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
	if (slab->mem) {
		going++;
		gvm_mem_unregister(slab->mem, memory_gone, slab->memory);
	}
	slab->mem = NULL;
}

static void fake_offer(struct fake_node *n, struct fake_region *r, struct fake_slab *slab)
{
	unsigned access = slab->readonly ? GVM_ACCESS_FETCH : GVM_ACCESS_FETCH | GVM_ACCESS_PUT;

	fake_withdraw(slab);
	memory_of(slab->memory)->uses++;
	assert_int_equal(gvm_mem_register(n->net, slab->memory, (size_t)r->slab_pages * PAGE,
					  access, r->holder, &slab->mem),
			 0);
}

static void fake_forget(struct fake_slab *slab)
{
	fake_withdraw(slab);
	memory_drop(slab->memory);
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
enum { TRUTH, NO_BODY, HALF_BODY, ZEROS, ONES, TWICE, ENDLESS, LIES, SILENCE };

static int telling; /* LIES: of the node that answers */

static void answer(struct gvm_peer *peer, const struct gvm_msg *msg, int status, const void *body,
		   size_t length, int more)
{
	static uint8_t twisted[GVM_MSG_MAX];

	if (telling == SILENCE)
		return;
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

/* With what is full, if that is why. */
static void answer_refused(struct fake_node *n, struct gvm_peer *peer, const struct gvm_msg *msg,
			   int status)
{
	uint8_t body[GVM_FULL_LEN];
	size_t length =
	    status == -ENOSPC && n->full ? gvm_full_encode(body, n->full) : 0;

	answer(peer, msg, status, body, length, 0);
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
		answer_refused(n, peer, msg, rc);
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
	r->resting = 0;
	n->leaves += open.linger_ms == 0;
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
		answer_refused(n, peer, msg, n->refuse_grant);
		return;
	}
	if (!slab->memory || slab->readonly) {
		if (!slab->memory)
			slab->memory = memory_new((size_t)r->slab_pages * PAGE);
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

static struct fake_region *fake_copy(struct fake_node *n, struct fake_region *r,
				     const struct gvm_region_clone *clone)
{
	struct fake_region *c;

	c = fake_make(n, clone->name, clone->id);
	c->pages = r->pages;
	c->clone_of = r->generation;
	c->slab_pages = r->slab_pages;
	for (unsigned i = 0; i < SLABS; i++) {
		if (!r->slab[i].memory)
			continue;
		c->slab[i].memory = memory_new((size_t)r->slab_pages * PAGE);
		memcpy(c->slab[i].memory, r->slab[i].memory, (size_t)r->slab_pages * PAGE);
		c->slab[i].readonly = r->slab[i].readonly = 1;
		fake_offer(n, c, &c->slab[i]);
		fake_offer(n, r, &r->slab[i]);
	}
	return c;
}

/* Asked for again, it is the same. */
static void fake_clone(struct fake_node *n, struct fake_region *r, struct gvm_peer *peer,
		       const struct gvm_msg *msg)
{
	struct gvm_region_clone clone;
	struct fake_region *c;
	struct gvm_region_opened opened = { .page_size = PAGE, .incarnation = 1 };
	uint8_t body[GVM_REGION_OPENED_LEN];

	assert_int_equal(gvm_region_clone_decode(msg->body, msg->length, &clone), 0);
	c = fake_find(n, clone.id);
	if (n->refuse_clone || (c && c->clone_of != r->generation)) {
		answer(peer, msg, n->refuse_clone ? n->refuse_clone : -EEXIST, NULL, 0, 0);
		return;
	}
	if (!c)
		c = fake_copy(n, r, &clone);
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
	if (!r || (!is_open(peer, n, r) && !(msg->type == GVM_T_REGION_CLOSE && r->resting &&
					     r->holder == gvm_peer_incarnation(peer)))) {
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

/* The keys end with the connection that they were given on. */
static void fake_peer_state(void *arg, struct gvm_peer *peer, enum gvm_peer_state state, int why)
{
	struct fake_node *n = arg;

	if (state != GVM_PEER_CLOSED)
		return;
	n->rests += why == 0;
	for (unsigned i = 0; i < REGIONS; i++) {
		struct fake_region *r = n->regions[i];

		if (!r || !is_open(peer, n, r))
			continue;
		r->resting = why == 0;
		for (unsigned s = 0; s < SLABS; s++) {
			if (r->slab[s].memory)
				fake_offer(n, r, &r->slab[s]);
		}
	}
}

static void fake_start(struct fake_node *n)
{
	struct gvm_net_config net = { .transport = over, .node = GVM_NODE_NONE, .insecure = 1 };
	struct gvm_worker_config worker = {
		.arg = n, .message = fake_message, .peer_state = fake_peer_state, .cpu = -1
	};

	assert_int_equal(gvm_net_open(&net, &n->net), 0);
	assert_int_equal(gvm_worker_open(n->net, &worker, &n->worker), 0);
	assert_int_equal(gvm_worker_listen(n->worker, node_host(), 49000 + n->id, NULL), 0);
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
	client_start(over, map, NULL);
	return 0;
}

static int setup(void **state)
{
	(void)state;
	return setup_map(config_text());
}

static inline int setup_one(void **state)
{
	(void)state;
	return setup_map(config_one());
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

static inline unsigned home_of(const char *name, uint64_t slab)
{
	uint16_t at;

	assert_int_equal(gvm_place(cluster, gvm_region_id_of(name), slab, 1, &at), 1);
	return at;
}

/* The first slab of the region that lies on this node. */
static inline uint64_t slab_on(const char *name, unsigned id)
{
	for (uint64_t s = 0; s < 100; s++) {
		if (home_of(name, s) == id)
			return s;
	}
	fail_msg("no slab on node %u", id);
	return 0;
}

/* What every main() begins with. */
static void begin(int argc, char **argv)
{
	if (argc > 1)
		over = argv[1];
	assert_int_equal(gvm_option_set("GVM_CONNECT_MS", "60000"), 0); /* as PATIENCE */
	assert_int_equal(gvm_option_set("GVM_HANDSHAKE_MS", "60000"), 0);
	if (!getenv("GVM_LOG"))
		gvm_log_set_level(GVM_LOG_ERROR);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
