/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that a member of the cluster that breaks the rules of coherence does no harm: a malformed
 * frame of each type, one that is out of place, or of a region that it has not opened, ends its
 * connection, is counted, and everybody else goes on; the two modes of regions do not mix; and what
 * a home has no room for, or does not offer, is refused and loses nothing.
 */
#include "dsm_members.h"

#include <gvmnet/region.h>
#include "core/coherence.h"

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

static struct answered open_as(const char *name, unsigned flags, uint64_t generation,
			       uint32_t promise)
{
	struct gvm_region_open req = { .pages = BYTES / PAGE,
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
	{ .type = GVM_COH_DATA },
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
	{ .type = GVM_COH_INV, .length = 5 },
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
		m_store(0, page * PAGE, page + 1);
	assert_int_equal(m_close(0), 0); /* then all is at the homes */
	assert_int_equal(m_open(0, 0, 0, 0), 0);
	assert_int_equal(gvm_option_set("GVM_CREDITS", "4"), 0); /* for what comes to it */
	rogue_start(ROGUE);
	assert_int_equal(gvm_option_set("GVM_CREDITS", "64"), 0);
	to(at);
	assert_int_equal(open_as(NAME, GVM_RO_SHARED, 0, 200).status, 0);
	before = rogue.ended;
	for (unsigned page = 0, n = 0; page < BYTES / PAGE && n < 40; page++) {
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
	usleep(300000); /* it does not look: nothing to wait for */
	await_end(before);
	assert_int_equal(figure("overrun"), 1);
	all_is_well();
	rogue_end();
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
	assert_int_equal(stored, 2 * BYTES / (16 * PAGE)); /* a slab each */
	assert_true(m_stats(0).faults_failed > 0);
	assert_int_equal(m_close(0), 0);
	for (uint64_t at = 0; at < 4 * BYTES; at += 16 * PAGE) {
		assert_int_equal(m_load(1, at, &value), 0);
		assert_true(value == at || value == 0);
		stored -= value == at && at;
	}
	assert_int_equal(stored, 1); /* the first one, whose value is 0 */
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

#define T(name) cmocka_unit_test_setup_teardown(name, dsm_setup, dsm_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_home_refuses_what_breaks_the_rules),
		T(a_node_refuses_what_breaks_the_rules),
		T(frames_need_a_session),
		T(modes_do_not_mix),
		T(two_views_on_one_connection),
		T(who_does_not_take_is_cut_off),
		T(without_room_a_write_fails_and_nothing_is_lost),
		T(with_an_image_there_are_none),
	};

	return dsm_run(tests);
}
