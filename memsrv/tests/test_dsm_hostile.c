/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that a member of the cluster that breaks the rules of coherence does no harm: a malformed
 * frame of each type, one that is out of place, or of a region that it has not opened, ends its
 * connection, is counted, and everybody else goes on; the two modes of regions do not mix; and what
 * a home has no room for, or does not offer, is refused and loses nothing.
 */
#include "dsm_members.h"

#include <gvmnet/region.h>
#include "wire/coherence.h"
#include <gvmnet/coherence.h>

#define BYTES (1u << 20)

static struct {
	struct gvm_cluster *cluster;
	struct gvm_net *net;
	struct gvm_worker *worker;
	struct gvm_peer *peer; /* whom it harms */
	uint64_t view;
	unsigned ready, ended;
} rogue;

static int taken(void *arg, struct gvm_peer *peer, const struct gvm_hdr *h, const void *payload,
		 const char **reason)
{
	return 0;
}

static void on_state(void *arg, struct gvm_peer *peer, enum gvm_peer_state state, int why)
{
	if (peer != rogue.peer)
		return;
	rogue.ready += state == GVM_PEER_READY;
	rogue.ended += state != GVM_PEER_READY;
}

static void rogue_start(unsigned id)
{
	struct gvm_worker_config config = { .peer_state = on_state, .cpu = -1 };
	struct gvm_net_config net = { .transport = "tcp", .node = id, .key_file = key_file };

	memset(&rogue, 0, sizeof(rogue));
	rogue.view = 77;
	assert_int_equal(gvm_option_set("GVM_BACKOFF_MAX_MS", "10"), 0);
	assert_int_equal(gvm_cluster_load(map_file, &rogue.cluster, NULL), 0);
	net.cluster = rogue.cluster;
	assert_int_equal(gvm_net_open(&net, &rogue.net), 0);
	assert_int_equal(gvm_worker_open(rogue.net, &config, &rogue.worker), 0);
	gvm_worker_coherence(rogue.worker, taken);
}

static void rogue_end(void)
{
	gvm_worker_close(rogue.worker);
	gvm_net_close(rogue.net);
	gvm_cluster_free(rogue.cluster);
}

static void turn(void)
{
	gvm_worker_wait(rogue.worker, 5 * MS);
}

struct answered {
	struct gvm_op op;
	int done, status;
	uint64_t generation;
	char body[GVM_MSG_MAX + 1];
};

static void on_answer(struct gvm_op *op, int status)
{
	struct answered *a = (struct answered *)op;
	struct gvm_region_opened opened;

	a->done = 1;
	a->status = status;
	if (!op->reply)
		return;
	memcpy(a->body, op->reply->body, op->reply->length);
	a->body[op->reply->length] = 0;
	if (!gvm_region_opened_decode(op->reply->body, op->reply->length, &opened))
		a->generation = opened.generation;
}

static struct answered ask(const struct gvm_msg *msg)
{
	static struct answered a;

	memset(&a, 0, sizeof(a));
	a.op.done = on_answer;
	a.op.deadline_ns = gvm_now() + 10000 * MS;
	assert_int_equal(gvm_call(rogue.peer, msg, &a.op), 0);
	while (!a.done)
		turn();
	return a;
}

static struct answered open_of(uint64_t pages, const char *name, unsigned flags,
			       uint64_t generation, uint32_t promise)
{
	struct gvm_region_open req = { .pages = pages,
				       .slab_pages = 16,
				       .page_size = PAGE,
				       .generation = generation,
				       .flags = flags,
				       .linger_ms = promise };
	uint8_t body[GVM_REGION_OPEN_LEN];

	strcpy(req.name, name);
	gvm_region_open_encode(body, &req);
	return ask(&(struct gvm_msg){ .type = GVM_T_REGION_OPEN,
				      .region = gvm_region_id_of(name),
				      .arg = rogue.view,
				      .body = body,
				      .length = sizeof(body) });
}

static struct answered open_as(const char *name, unsigned flags, uint64_t generation,
			       uint32_t promise)
{
	return open_of(BYTES / PAGE, name, flags, generation, promise);
}

static void to(unsigned node)
{
	assert_int_equal(gvm_peer_get(rogue.worker, node, &rogue.peer), 0);
}

/* A number of the home's statistics. */
static uint64_t figure(const char *name)
{
	struct answered a = ask(&(struct gvm_msg){ .type = GVM_T_NODE_STAT });
	char key[64];
	const char *at;

	snprintf(key, sizeof(key), "\"%s\":", name);
	at = strstr(a.body, key);
	assert_non_null(at);
	return strtoull(at + strlen(key), NULL, 10);
}

static void send_frame(const struct gvm_hdr *h)
{
	static const uint8_t payload[2 * GVM_MSG_MAX];

	assert_int_equal(gvm_coherence_send(rogue.peer, h, payload), 0);
}

static void await_end(unsigned before)
{
	while (rogue.ended == before)
		turn();
}

/* Members do as ever. */
static void all_is_well(void)
{
	static uint64_t value;

	m_store(0, 0, ++value);
	assert_load(1, 0, value);
	m_store(1, BYTES - 8, ++value);
	assert_load(0, BYTES - 8, value);
}

/* One malformed frame of each type. */
static const struct gvm_hdr malformed[] = {
	{ .type = GVM_COH_READ, .arg = 1 },
	{ .type = GVM_COH_WRITE, .flags = GVM_F_ZERO },
	{ .type = GVM_COH_DATA, .flags = GVM_F_DELTA, .length = 15 },
	{ .type = GVM_COH_GRANT, .length = 17 },
	{ .type = GVM_COH_NAK },
	{ .type = GVM_COH_DONE, .length = 4096 },
	{ .type = GVM_COH_ASK, .arg = 1 },
	{ .type = GVM_COH_FWD_READ, .arg = 10240 },
	{ .type = GVM_COH_FWD_WRITE, .arg = 1 << 17 },
	{ .type = GVM_COH_FREE, .length = 1 },
	{ .type = GVM_COH_STILL, .arg = 1 },
	{ .type = GVM_COH_RECALL, .arg = 2 },
	{ .type = GVM_COH_BACK, .status = GVM_ST_IO },
	{ .type = GVM_COH_WB, .length = 4095 },
	{ .type = GVM_COH_WB_OK, .arg = 1 },
	{ .type = GVM_COH_DROP, .flags = GVM_F_SAME },
	{ .type = GVM_COH_INV, .length = GVM_SET_MAX + 1 },
	{ .type = GVM_COH_ACK, .flags = GVM_F_ZERO },
	{ .type = GVM_COH_READY, .arg = 1 },
	{ .type = GVM_COH_REPORT, .length = GVM_HELD_LEN - 1 },
};
_Static_assert(sizeof(malformed) / sizeof(malformed[0]) == GVM_COH_LAST - GVM_COH_FIRST + 1,
	       "one of each");

/* Well formed, and not for this receiver, or about nothing that there is. */
static const struct gvm_hdr misplaced_at_home[] = {
	{ .type = GVM_COH_READ, .xid = 1, .page = BYTES / PAGE },
	{ .type = GVM_COH_WRITE, .xid = 1, .page = UINT64_MAX },
	{ .type = GVM_COH_DATA, .flags = GVM_F_ZERO, .page = UINT64_MAX },
	{ .type = GVM_COH_GRANT, .flags = GVM_F_ZERO },
	{ .type = GVM_COH_NAK, .status = GVM_ST_IO },
	{ .type = GVM_COH_ASK },
	{ .type = GVM_COH_FWD_READ, .arg = 16 },
	{ .type = GVM_COH_FWD_WRITE, .arg = 16 },
	{ .type = GVM_COH_FREE },
	{ .type = GVM_COH_RECALL },
	{ .type = GVM_COH_WB_OK },
	{ .type = GVM_COH_INV, .length = 5 },
	{ .type = GVM_COH_INV, .arg = 1 }, /* to be passed on by the home, or obeyed */
	{ .type = GVM_COH_INV, .arg = GVM_COH_ANY_VERSION },
	{ .type = GVM_COH_INV, .arg = 1, .flags = GVM_F_ACKS, .length = 6 },
	{ .type = GVM_COH_GRANT, .arg = 1, .flags = GVM_F_ACKS | GVM_F_WAIT, .length = 6 },
	{ .type = GVM_COH_WB, .flags = GVM_F_DELTA, .length = 20 }, /* a run of nothing */
	{ .type = GVM_COH_REPORT, .xid = GVM_REPORT_LAST },
	{ .type = GVM_COH_REPORT, .xid = GVM_REPORT_RESUME },
};
static const struct gvm_hdr misplaced_at_node[] = {
	{ .type = GVM_COH_READ, .xid = 1 },
	{ .type = GVM_COH_WRITE, .xid = 1 },
	{ .type = GVM_COH_DATA, .flags = GVM_F_ZERO, .page = BYTES / PAGE },
	{ .type = GVM_COH_GRANT, .flags = GVM_F_ZERO },
	{ .type = GVM_COH_NAK, .status = GVM_ST_IO },
	{ .type = GVM_COH_DONE },
	{ .type = GVM_COH_ASK },
	{ .type = GVM_COH_FWD_READ, .arg = 16 },
	{ .type = GVM_COH_FWD_WRITE, .arg = 16 },
	{ .type = GVM_COH_FREE },
	{ .type = GVM_COH_STILL },
	{ .type = GVM_COH_RECALL },
	{ .type = GVM_COH_BACK, .flags = GVM_F_ZERO },
	{ .type = GVM_COH_WB, .flags = GVM_F_ZERO },
	{ .type = GVM_COH_WB_OK },
	{ .type = GVM_COH_DROP },
	{ .type = GVM_COH_READY },
	{ .type = GVM_COH_DATA, .flags = GVM_F_DELTA, .length = 20 },
	{ .type = GVM_COH_INV, .length = 5 },
	{ .type = GVM_COH_INV, .arg = GVM_COH_ANY_VERSION }, /* only the home says that */
	{ .type = GVM_COH_INV, .arg = 1, .flags = GVM_F_ACKS, .length = 6 }, /* nor this */
	{ .type = GVM_COH_GRANT, .arg = 1, .flags = GVM_F_ACKS | GVM_F_WAIT, .length = 6 },
	{ .type = GVM_COH_REPORT, .xid = GVM_REPORT_LAST },
	{ .type = GVM_COH_REPORT, .xid = GVM_REPORT_RESUME },
};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Each ends the connection, after which it is let in again and tries the next. */
static void throw_all(const struct gvm_hdr *frames, size_t count, uint64_t generation)
{
	for (size_t i = 0; i < count; i++) {
		struct gvm_hdr h = frames[i];
		struct answered a;
		unsigned before;

		/* it may not have noticed that the connection before has ended */
		do
			a = open_as(NAME, GVM_RO_SHARED, generation, 1000);
		while (a.status == -EBUSY || a.status == -ECONNRESET);
		assert_int_equal(a.status, 0);
		before = rogue.ended;
		h.region = gvm_region_id_of(NAME);
		send_frame(&h);
		await_end(before);
		all_is_well();
	}
}

static void open_two(void)
{
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(m_open(i, BYTES, GVM_DSM_CREATE, 0), 0);
	all_is_well();
}

static void a_home_refuses_what_breaks_the_rules(void **state)
{
	unsigned h = home_of(0);
	uint64_t refused, broken;

	open_two();
	rogue_start(ROGUE);
	to(h);
	broken = figure("malformed");
	throw_all(malformed, COUNT(malformed), 0);
	assert_int_equal(figure("malformed"), broken + COUNT(malformed));
	refused = figure("frames_refused");
	throw_all(misplaced_at_home, COUNT(misplaced_at_home), 0);
	assert_int_equal(figure("frames_refused"), refused + COUNT(misplaced_at_home));
	assert_int_equal(figure("malformed"), broken + COUNT(malformed) + COUNT(misplaced_at_home));
	rogue_end();
}

static void a_node_refuses_what_breaks_the_rules(void **state)
{
	uint64_t generation, refused;

	open_two();
	rogue_start(ROGUE);
	to(home_of(0));
	generation = open_as(NAME, GVM_RO_SHARED, 0, 1000).generation;
	assert_true(generation != 0);
	to(FIRST);
	throw_all(malformed, COUNT(malformed), generation);
	refused = m_stats(0).refused;
	throw_all(misplaced_at_node, COUNT(misplaced_at_node), generation);
	assert_int_equal(m_stats(0).refused, refused + COUNT(misplaced_at_node));
	assert_int_equal(m_stats(0).faults_failed, 0);
	assert_int_equal(open_as(NAME, GVM_RO_SHARED, generation + 1, 1000).status, -ENOENT);
	assert_int_equal(open_as(NAME, 0, generation, 1000).status, -EINVAL);
	assert_int_equal(open_as("another", GVM_RO_SHARED, generation, 1000).status, -ENOENT);
	assert_int_equal(ask(&(struct gvm_msg){ .type = GVM_T_SLAB_LIST }).status, -EOPNOTSUPP);
	all_is_well();
	rogue_end();
}

/* Who makes a region has it alone until it says that it is made; if it goes before, so does the
 * region. And a part of one is made with the generation that it has elsewhere, or is another one.
 */
static void who_is_making_a_region_and_goes(void **state)
{
	const struct order open = {
		.op = OPEN, .name = NAME, .flags = GVM_DSM_CREATE, .offset = BYTES
	};
	const unsigned create = GVM_RO_SHARED | GVM_RO_CREATE;
	const struct gvm_msg close = { .type = GVM_T_REGION_CLOSE,
				       .region = gvm_region_id_of(NAME),
				       .arg = 77 };
	struct answered made;

	rogue_start(ROGUE);
	to(home_of(0));
	assert_int_equal(open_as(NAME, create, 0, 1000).status, 0);
	tell(0, &open);
	assert_int_equal(poll(&(struct pollfd){ .fd = member[0].fd, .events = POLLIN }, 1, 300), 0);
	assert_int_equal(ask(&close).status, 0);
	assert_int_equal(hear(0).status, 0);
	m_store(0, 8, 5);
	assert_int_equal(m_open(1, 0, 0, 0), 0);
	assert_load(1, 8, 5);
	assert_int_equal(open_as(NAME, create, 4711, 1000).status, -EEXIST);
	assert_int_equal(open_as("another", create, 4711, 1000).generation, 4711);
	rogue.view++;
	assert_int_equal(open_as("another", GVM_RO_SHARED, 0, 1000).status, -EBUSY);
	rogue.view--;
	assert_int_equal(open_as("another", create, 4711, 1000).status, 0);
	assert_int_equal(open_as("another", GVM_RO_SHARED, 4711, 1000).status, 0);
	/* the answer may have been lost: for who makes it, it is not there already */
	assert_int_equal(open_as("third", create | GVM_RO_EXCL, 0, 1000).status, 0);
	made = open_as("third", create | GVM_RO_EXCL, 0, 1000);
	assert_int_equal(made.status, 0);
	assert_int_equal(open_as("third", create, made.generation, 1000).status, 0);
	assert_int_equal(open_as("third", create | GVM_RO_EXCL, 0, 1000).status, -EEXIST);
	rogue_end();
}

/* A region that was not opened on this connection, or not as a shared one. */
static void frames_need_a_session(void **state)
{
	struct gvm_hdr h = { .type = GVM_COH_READ, .xid = 1, .region = gvm_region_id_of(NAME) };
	const unsigned at[] = { home_of(0), FIRST };

	open_two();
	rogue_start(ROGUE);
	for (unsigned i = 0; i < 2; i++) {
		unsigned before;

		to(at[i]);
		gvm_peer_connect(rogue.peer);
		while (gvm_peer_state(rogue.peer) != GVM_PEER_READY)
			turn();
		before = rogue.ended;
		send_frame(&h);
		await_end(before);
		all_is_well();
	}
	to(at[0]);
	assert_int_equal(open_as("private", GVM_RO_CREATE, 0, 0).status, 0);
	h.region = gvm_region_id_of("private");
	unsigned before = rogue.ended;
	send_frame(&h);
	await_end(before);
	all_is_well();
	rogue_end();
}

static int ask_about(unsigned type, const char *name, uint64_t arg, const void *body,
		     uint32_t length)
{
	return ask(&(struct gvm_msg){ .type = (uint8_t)type,
				      .region = gvm_region_id_of(name),
				      .page = type == GVM_T_REGION_RESIZE,
				      .arg = arg,
				      .body = body,
				      .length = length })
	    .status;
}

static void modes_do_not_mix(void **state)
{
	uint8_t body[GVM_REGION_CLONE_LEN];
	struct gvm_region_clone clone = { .name = "clone", .id = gvm_region_id_of("clone") };
	struct gvm_page_run run = { 0, 1 };

	open_two();
	rogue_start(ROGUE);
	to(home_of(0));
	assert_int_equal(open_as(NAME, 0, 0, 0).status, -EBUSY);
	assert_int_equal(open_as(NAME, GVM_RO_CREATE, 0, 0).status, -EBUSY);
	assert_int_equal(open_as("private", GVM_RO_CREATE, 0, 0).status, 0);
	assert_int_equal(open_as("private", GVM_RO_SHARED, 0, 1000).status, -EPERM);
	assert_int_equal(open_as(NAME, GVM_RO_SHARED, 0, 99).status, -EINVAL);
	assert_int_equal(open_as(NAME, GVM_RO_SHARED | GVM_RO_READONLY, 0, 1000).status, -EINVAL);
	assert_int_equal(open_as(NAME, GVM_RO_SHARED, 5, 1000).status, -ENOENT);
	assert_int_equal(open_as(NAME, GVM_RO_SHARED, 0, 1000).status, 0);
	assert_int_equal(ask_about(GVM_T_SLAB_GRANT, NAME, 0, NULL, 0), -EPERM);
	assert_int_equal(ask_about(GVM_T_SLAB_LIST, NAME, 1, NULL, 0), -EPERM);
	assert_int_equal(ask_about(GVM_T_REGION_RESIZE, NAME, 1, NULL, 0), -EPERM);
	gvm_region_clone_encode(body, &clone);
	assert_int_equal(ask_about(GVM_T_REGION_CLONE, NAME, 0, body, sizeof(body)), -EPERM);
	gvm_page_run_encode(body, &run);
	assert_int_equal(ask_about(GVM_T_DISCARD, NAME, 0, body, GVM_PAGE_RUN_LEN), -EPERM);
	assert_int_equal(ask_about(GVM_T_REGION_DELETE, NAME, 0, NULL, 0), -EBUSY);
	/* another process under this id, and the same one come back */
	rogue.view = 78;
	assert_int_equal(open_as(NAME, GVM_RO_SHARED, 0, 1000).status, -EBUSY);
	rogue.view = 77;
	assert_int_equal(open_as(NAME, GVM_RO_SHARED, 0, 1000).status, 0);
	assert_int_equal(ask_about(GVM_T_REGION_CLOSE, NAME, 77, NULL, 0), 0);
	rogue.view = 78;
	assert_int_equal(open_as(NAME, GVM_RO_SHARED, 0, 1000).status, 0);
	all_is_well();
	rogue_end();
	rogue_start(GVM_NODE_NONE); /* who is not in the map shares nothing */
	to(home_of(0));
	assert_int_equal(open_as(NAME, GVM_RO_SHARED, 0, 1000).status, -EINVAL);
	rogue_end();
}

/* One that opens the region under two views on one connection, leaves a request open and goes: the
 * member that it was is lost with the connection, and nothing is sent to it any more. */
static void two_views_on_one_connection(void **state)
{
	uint64_t page = 16 * PAGE * 3;
	struct gvm_hdr h = { .type = GVM_COH_READ,
			     .xid = 5,
			     .region = gvm_region_id_of(NAME),
			     .page = page / PAGE };

	open_two();
	rogue_start(ROGUE);
	to(home_of(h.page));
	assert_int_equal(open_as(NAME, GVM_RO_SHARED, 0, 200).status, 0);
	rogue.view = 78;
	assert_int_equal(open_as(NAME, GVM_RO_SHARED, 0, 200).status, -EBUSY);
	send_frame(&h); /* of the first view, which is still the member */
	assert_int_equal(open_as(NAME, GVM_RO_SHARED, 0, 200).status, -EBUSY);
	assert_int_equal(figure("shared_members"), 3);
	rogue_end();
	m_store(0, page, 1); /* when the rogue, who may have the page, is buried */
	assert_load(1, page, 1);
	all_is_well();
}

/* The home says by another connection that it has cut somebody off. */
static void await_overrun(unsigned at)
{
	struct gvm_worker_config config = { .cpu = -1 };
	struct gvm_worker *worker = rogue.worker;
	struct gvm_peer *peer = rogue.peer;

	assert_int_equal(gvm_worker_open(rogue.net, &config, &rogue.worker), 0);
	to(at);
	while (figure("overrun") == 0)
		;
	gvm_worker_close(rogue.worker);
	rogue.worker = worker;
	rogue.peer = peer;
}

/* The rogue asks for so many pages of this home. */
static void ask_for_pages(unsigned at, unsigned most)
{
	for (unsigned page = 0, n = 0; page < BYTES / PAGE && n < most; page++) {
		struct gvm_hdr h = { .type = GVM_COH_READ,
				     .xid = page + 1,
				     .region = gvm_region_id_of(NAME),
				     .page = page };

		if (home_of(page) != at)
			continue;
		send_frame(&h);
		n++;
	}
	gvm_worker_flush(rogue.worker);
}

/* A member that asks for pages and takes none of them: what waits for it is bounded. */
static void who_does_not_take_is_cut_off(void **state)
{
	unsigned at = home_of(0), before;

	setenv("GVM_DSM_QUEUE", "64K", 1);
	home_end(at, SIGKILL);
	home_start(at);
	unsetenv("GVM_DSM_QUEUE");
	open_two();
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		assert_int_equal(order(0, (struct order){ .op = FILL,
							  .offset = page * PAGE,
							  .value = 1 + 1000 * page })
				     .status,
				 0);
	assert_int_equal(m_close(0), 0); /* then all is at the homes */
	assert_int_equal(m_open(0, 0, 0, 0), 0);
	assert_int_equal(gvm_option_set("GVM_CREDITS", "4"), 0); /* for what comes to it */
	rogue_start(ROGUE);
	assert_int_equal(gvm_option_set("GVM_CREDITS", "64"), 0);
	to(at);
	assert_int_equal(open_as(NAME, GVM_RO_SHARED, 0, 200).status, 0);
	before = rogue.ended;
	ask_for_pages(at, 40);
	await_overrun(at); /* it does not look meanwhile */
	await_end(before);
	assert_int_equal(figure("overrun"), 1);
	all_is_well();
	rogue_end();
}

static void member_with_a_small_queue(void)
{
	member_end(0, SIGKILL);
	setenv("GVM_DSM_QUEUE", "64K", 1);
	member_start(0);
	unsetenv("GVM_DSM_QUEUE");
	open_two();
}

/* With what no other page has, nor this one in another round. */
static uint64_t filling(unsigned page, unsigned round)
{
	return 1 + 1000ull * page + 10000000ull * round;
}

static void fill_page(unsigned i, unsigned page, unsigned round)
{
	assert_int_equal(order(i, (struct order){ .op = FILL,
						  .offset = page * PAGE,
						  .value = filling(page, round) })
			     .status,
			 0);
}

static void is_filled(unsigned i, unsigned page, unsigned round)
{
	uint64_t value = filling(page, round);

	assert_load(i, page * PAGE, value * 0x9e3779b97f4a7c15ull);
	assert_load(i, page * PAGE + 8, (value + 1) * 0x9e3779b97f4a7c15ull);
}

/* Homes that take nothing for a while: what a node has for them waits for them, or is asked for
 * again; no connection is ended for it. Also what goes when a connection is back. */
static void a_node_whose_queue_is_full_waits(void **state)
{
	const struct order evict = { .op = EVICT, .value = BYTES };

	member_with_a_small_queue();
	for (unsigned again = 0; again < 2; again++) {
		for (unsigned page = 0; page < BYTES / PAGE; page++)
			fill_page(0, page, again);
		for (unsigned h = 0; h < HOMES; h++)
			home_stop(h);
		tell(0, &evict);
		/* more than the queue and the connection take: it does not end */
		assert_int_equal(
		    poll(&(struct pollfd){ .fd = member[0].fd, .events = POLLIN }, 1, 300), 0);
		for (unsigned h = 0; h < HOMES; h++)
			kill(home[h].pid, SIGCONT);
		assert_int_equal(hear(0).status, 0);
		for (unsigned page = 0; page < BYTES / PAGE; page++)
			is_filled(1, page, again);
	}
	assert_int_equal(m_stats(0).sessions_lost, 0);
	assert_int_equal(m_close(0), 0);
}

/* A member that asks another one for pages, by the home, and takes none of them. The owner ends its
 * connection, loses nothing, and serves all others. */
static void a_node_cuts_off_who_does_not_take(void **state)
{
	unsigned at = home_of(0), before;
	uint64_t generation;

	member_with_a_small_queue();
	for (unsigned page = 0; page < BYTES / PAGE; page++)
		fill_page(0, page, 0);
	assert_int_equal(gvm_option_set("GVM_CREDITS", "4"), 0);
	rogue_start(ROGUE);
	assert_int_equal(gvm_option_set("GVM_CREDITS", "64"), 0);
	to(at);
	generation = open_as(NAME, GVM_RO_SHARED, 0, 200).generation;
	to(FIRST);
	assert_int_equal(open_as(NAME, GVM_RO_SHARED, generation, 200).status, 0);
	before = m_stats(0).sessions_lost;
	to(at);
	ask_for_pages(at, 60);
	while (m_stats(0).sessions_lost == before) /* it does not look meanwhile */
		;
	assert_int_equal(m_stats(0).sessions_lost, before + 1);
	rogue_end();
	for (unsigned page = 0; page < BYTES / PAGE; page++) {
		is_filled(1, page, 0);
		fill_page(1, page, 1); /* when the rogue is buried */
		is_filled(0, page, 1);
	}
	assert_int_equal(m_stats(0).faults_failed, 0);
	all_is_well();
}

static void without_room_a_write_fails_and_nothing_is_lost(void **state)
{
	static const char *const small[] = { "--memory", "1M", "--overcommit", "8", NULL };
	unsigned stored = 0;
	uint64_t value;

	home_end(0, SIGKILL);
	home_end(1, SIGKILL);
	home_start_with(0, small);
	home_start_with(1, small);
	assert_int_equal(m_open(0, 4 * BYTES, GVM_DSM_CREATE, 0), 0);
	assert_int_equal(m_open(1, 4 * BYTES, GVM_DSM_CREATE, 0), 0);
	for (uint64_t at = 0; at < 4 * BYTES; at += 16 * PAGE) {
		struct answer a =
		    order(0, (struct order){ .op = STORE, .offset = at, .value = at });

		assert_true(a.status == 0 || a.status == -EFAULT);
		stored += a.status == 0;
	}
	/* a slab each, but for what is left to the directories */
	assert_in_range(stored, BYTES / (16 * PAGE), 2 * BYTES / (16 * PAGE) - 2);
	assert_true(m_stats(0).faults_failed > 0);
	assert_int_equal(m_close(0), 0);
	for (uint64_t at = 0; at < 4 * BYTES; at += 16 * PAGE) {
		assert_int_equal(m_load(1, at, &value), 0);
		assert_true(value == at || value == 0);
		stored -= value == at && at;
	}
	assert_int_equal(stored, 1); /* the first one, whose value is 0 */
}

static int try_store(unsigned i, uint64_t at, uint64_t value)
{
	return order(i, (struct order){ .op = STORE, .offset = at, .value = value }).status;
}

/* A page that there was no room for: when there is room again it is as any other, in the same
 * process. A hint that fails harms nobody who may read. */
static void when_there_is_room_again_a_write_succeeds(void **state)
{
	static const char *const small[] = { "--memory", "1M", "--overcommit", "8", NULL };
	struct order other = {
		.op = OPEN, .name = "other", .flags = GVM_DSM_CREATE, .offset = 4 * BYTES
	};
	const uint64_t at = 5 * PAGE;
	uint64_t value, until;

	for (unsigned i = 0; i < HOMES; i++) {
		home_end(i, SIGKILL);
		home_start_with(i, small);
	}
	assert_int_equal(order(1, other).status, 0);
	for (uint64_t o = 0; o < 4 * BYTES; o += 16 * PAGE)
		try_store(1, o, 1);
	assert_int_equal(m_open(0, BYTES, GVM_DSM_CREATE, 0), 0);
	assert_load(0, at + PAGE, 0);
	order(0, (struct order){ .op = PREFETCH, .offset = at + PAGE, .value = 1, .flags = 1 });
	assert_int_equal(try_store(0, at, 1), -EFAULT);
	assert_int_equal(try_store(0, at, 1), -EFAULT);
	assert_load(0, at + PAGE, 0);
	assert_int_equal(m_close(1), 0);
	other.op = DELETE;
	assert_int_equal(order(1, other).status, 0);
	until = gvm_now() + 20000 * MS;
	while (try_store(0, at, 2) && gvm_now() < until)
		;
	assert_load(0, at, 2);
	assert_int_equal(m_open(1, 0, 0, 0), 0);
	assert_load(1, at, 2);
	assert_int_equal(m_load(1, at + PAGE, &value), 0);
}

/* Of what nodes have promised every page can be written, whatever directories need. */
static void what_is_promised_can_be_filled(void **state)
{
	static const char *const small[] = { "--memory", "1M", NULL };
	uint64_t bytes = 2 << 20;
	int status;

	for (unsigned i = 0; i < HOMES; i++) {
		home_end(i, SIGKILL);
		home_start_with(i, small);
	}
	while ((status = m_open(0, bytes, GVM_DSM_CREATE, 0)) == -ENOSPC)
		bytes -= 16 * PAGE;
	assert_int_equal(status, 0);
	assert_true(bytes >= 1 << 20);
	for (uint64_t at = 0; at < bytes; at += PAGE)
		m_store(0, at, at + 1);
	assert_int_equal(m_close(0), 0);
	assert_int_equal(m_open(1, 0, 0, 0), 0);
	for (uint64_t at = 0; at < bytes; at += PAGE)
		assert_load(1, at, at + 1);
}

/* Pages that are only read need no slab, but entries: these count against --memory, too. */
static void a_directory_that_fills_the_memory_fails_reads(void **state)
{
	static const char *const small[] = { "--memory", "1M", "--overcommit", "1000", NULL };
	const uint64_t pages = 32768, read = 8192, spare = 2 * (128 << 10) / 28;
	uint64_t value, had = 0, failed = 0, at = 0;

	for (unsigned i = 0; i < HOMES; i++) {
		home_end(i, SIGKILL);
		home_start_with(i, small);
	}
	assert_int_equal(m_open(0, pages * PAGE, GVM_DSM_CREATE, 0), 0);
	for (unsigned slab = 0; slab < 100; slab++) /* until slabs have taken all that they get */
		order(0, (struct order){ .op = STORE, .offset = slab * 16ull * PAGE, .value = 1 });
	for (uint64_t page = read; page < pages && failed < 20; page++) {
		int status = m_load(0, page * PAGE, &value);

		assert_true(status == -EFAULT || (status == 0 && value == 0));
		at = status ? page : at;
		had += !status;
		failed += !!status;
	}
	assert_int_equal(failed, 20);
	assert_in_range(had, spare / 4, spare);
	rogue_start(ROGUE);
	to(home_of(at));
	assert_true(figure("engine_bytes") >= 64 << 10);
	assert_true(figure("engine_bytes") + figure("stored_bytes") <= 1 << 20);
	assert_true(figure("no_room") > 0);
	rogue_end();
	/* what has been given up is free again */
	assert_int_equal(m_close(0), 0);
	assert_int_equal(m_open(1, 0, 0, 0), 0);
	assert_load(1, at * PAGE, 0);
}

static void with_an_image_there_are_none(void **state)
{
	char image[80];
	const char *const args[] = { "--image", image, NULL };

	for (unsigned i = 0; i < HOMES; i++) {
		home_end(i, SIGKILL);
		snprintf(image, sizeof(image), "%s/image-%u", folder, i);
		home_start_with(i, args);
	}
	assert_int_equal(m_open(0, BYTES, GVM_DSM_CREATE, 0), -EOPNOTSUPP);
	for (unsigned i = 0; i < HOMES; i++) {
		snprintf(image, sizeof(image), "%s/image-%u", folder, i);
		unlink(image);
	}
}

/* A member that is here, and does not report to a home that was started again: the others wait for
 * it as long as for one that is away, and then go on; it is not let back. */
static void who_does_not_report_is_expelled(void **state)
{
	enum { PROMISE_MS = 500 };
	uint64_t until, generation;
	unsigned h = home_of(0);
	struct answered a;

	home_end(h, SIGKILL);
	home_start_lasting(h);
	open_two();
	rogue_start(ROGUE);
	to(h);
	generation = open_as(NAME, GVM_RO_SHARED, 0, PROMISE_MS).generation;
	m_store(0, 0, 4711);
	home_again(h);
	do
		a = open_as(NAME, GVM_RO_SHARED, generation, PROMISE_MS);
	while (a.status == -ECONNRESET || a.status == -ECONNREFUSED || a.status == -EAGAIN ||
	       a.status == -ETIMEDOUT || a.status == -EHOSTUNREACH);
	assert_int_equal(a.status, 0);
	tell(1, &(struct order){ .op = LOAD, .offset = 0 });
	until = gvm_now() + 30000 * MS;
	while (poll(&(struct pollfd){ .fd = member[1].fd, .events = POLLIN }, 1, 0) == 0 &&
	       gvm_now() < until)
		turn();
	assert_true(gvm_now() < until);
	assert_int_equal(hear(1).value, 4711);
	do
		a = open_as(NAME, GVM_RO_SHARED, generation, PROMISE_MS);
	while (a.status == -ECONNRESET);
	assert_int_equal(a.status, -ESTALE);
	assert_int_equal(m_stats(0).homes_dead + m_stats(1).homes_dead, 0);
	all_is_well();
	rogue_end();
	home_forget();
}

/* Until it has answered, or this time. */
static int is_silent_until(unsigned i, uint64_t until)
{
	while (poll(&(struct pollfd){ .fd = member[i].fd, .events = POLLIN }, 1, 0) == 0)
		if (gvm_now() < until)
			turn();
		else
			return 1;
	return 0;
}

/* The same, of one whose report breaks the rules, so that its connection ends and it comes back,
 * and is hardly ever there: that gives it no more time. */
static void whose_report_is_refused_is_expelled(void **state)
{
	enum { PROMISE_MS = 1000, PAUSE_MS = 300 };
	struct gvm_hdr bad = { .type = GVM_COH_REPORT, .xid = GVM_REPORT_RESUME };
	unsigned h = home_of(0), refused = 0;
	uint64_t began, generation;
	struct answered a;

	bad.region = gvm_region_id_of(NAME);
	home_end(h, SIGKILL);
	home_start_lasting(h);
	open_two();
	rogue_start(ROGUE);
	to(h);
	generation = open_as(NAME, GVM_RO_SHARED, 0, PROMISE_MS).generation;
	m_store(0, 0, 4711);
	home_again(h);
	began = gvm_now();
	tell(1, &(struct order){ .op = LOAD, .offset = 0 });
	do {
		unsigned before = rogue.ended;

		a = open_as(NAME, GVM_RO_SHARED, generation, PROMISE_MS);
		if (a.status)
			continue;
		refused++;
		send_frame(&bad);
		await_end(before);
	} while (is_silent_until(1, gvm_now() + PAUSE_MS * MS) && gvm_now() - began < 30000 * MS);
	print_message("[          ] %u reports were refused; the others waited for %lu ms\n",
		      refused, (unsigned long)((gvm_now() - began) / MS));
	assert_true(gvm_now() - began < 6 * PROMISE_MS * MS); /* 4, and a busy machine */
	assert_true(refused > 1);
	assert_int_equal(hear(1).value, 4711);
	assert_int_equal(m_stats(0).homes_dead + m_stats(1).homes_dead, 0);
	rogue_end();
	home_forget();
}

/* Sends it when there is room for it; what comes meanwhile is taken. */
static void send_in_turn(const struct gvm_hdr *h)
{
	while (gvm_coherence_send(rogue.peer, h, NULL) == -EAGAIN)
		turn();
}

/* A member that asks for every page and never says that it has one: more of them than a home can
 * have under way. Others get what they ask for, and it is answered. */
static void who_asks_for_all_pages_holds_up_nobody(void **state)
{
	static const char *const room[] = { "--overcommit", "16", NULL };
	enum { ALL = 160000 };
	unsigned h, sent = 0;
	uint64_t page;

	for (unsigned i = 0; i < HOMES; i++) {
		home_end(i, SIGKILL);
		home_start_with(i, room);
	}
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(m_open(i, (uint64_t)ALL * PAGE, GVM_DSM_CREATE, 0), 0);
	h = home_of(0);
	rogue_start(ROGUE);
	to(h);
	assert_int_equal(open_of(ALL, NAME, GVM_RO_SHARED, 0, 1000).status, 0);
	for (page = 16; page < ALL && sent < 70000; page += 16) {
		if (home_of(page) != h)
			continue;
		for (unsigned i = 0; i < 16; i++, sent++)
			send_in_turn(&(struct gvm_hdr){ .type = GVM_COH_READ,
							.xid = page + i + 1,
							.region = gvm_region_id_of(NAME),
							.page = page + i });
	}
	assert_int_equal(sent, 70000);
	tell(0, &(struct order){ .op = LOAD, .offset = 0 });
	assert_false(is_silent_until(0, gvm_now() + 20000 * MS));
	assert_int_equal(hear(0).status, 0);
	all_is_well();
	rogue_end();
}

/* A frame that was kept back for a page's sake is as much a breach as any other. */
static void what_is_kept_back_is_refused_too(void **state)
{
	enum { TIMES = 1000 };
	struct gvm_hdr h = { .type = GVM_COH_FWD_READ, .arg = 16 };
	uint64_t generation;

	h.region = gvm_region_id_of(NAME);
	open_two();
	rogue_start(ROGUE);
	to(home_of(0));
	generation = open_as(NAME, GVM_RO_SHARED, 0, 1000).generation;
	to(FIRST);
	for (unsigned i = 0; i < TIMES; i++) {
		unsigned before;
		uint64_t until;

		while (open_as(NAME, GVM_RO_SHARED, generation, 1000).status)
			;
		for (unsigned m = 0; m < 2; m++)
			tell(m, &(struct order){ .op = ADD, .offset = 0, .value = 100 });
		before = rogue.ended;
		until = gvm_now() + 10000 * MS;
		send_frame(&h);
		while (rogue.ended == before && gvm_now() < until)
			turn();
		assert_true(rogue.ended > before);
		for (unsigned m = 0; m < 2; m++)
			assert_int_equal(hear(m).status, 0);
	}
	assert_int_equal(m_stats(0).faults_failed, 0);
	all_is_well();
	rogue_end();
}

#define T(name) cmocka_unit_test_setup_teardown(name, dsm_setup, dsm_teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(a_home_refuses_what_breaks_the_rules),
		T(a_node_refuses_what_breaks_the_rules),
		T(who_is_making_a_region_and_goes),
		T(frames_need_a_session),
		T(modes_do_not_mix),
		T(two_views_on_one_connection),
		T(who_does_not_take_is_cut_off),
		T(a_node_whose_queue_is_full_waits),
		T(a_node_cuts_off_who_does_not_take),
		T(without_room_a_write_fails_and_nothing_is_lost),
		T(when_there_is_room_again_a_write_succeeds),
		T(what_is_promised_can_be_filled),
		T(a_directory_that_fills_the_memory_fails_reads),
		T(with_an_image_there_are_none),
		T(who_does_not_report_is_expelled),
		T(whose_report_is_refused_is_expelled),
		T(who_asks_for_all_pages_holds_up_nobody),
		T(what_is_kept_back_is_refused_too),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return dsm_run(tests);
}
