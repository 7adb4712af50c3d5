/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows which states of a peer may follow which, and that the levels that follow from states (how
 * many connections are open, ready, accepted) are right whichever way a connection goes.
 */
#include "tests/peer_rig.h"

#define STATES (GVM_PEER_CLOSED + 1)

/* Row: from; column: to, in the order of the enum. */
static const char *const client_may[STATES] = {
	[GVM_PEER_IDLE] = ".x....",    [GVM_PEER_CONNECTING] = "..x.x.",
	[GVM_PEER_PROVING] = "...xx.", [GVM_PEER_READY] = "x...x.",
	[GVM_PEER_BACKOFF] = "x.....", [GVM_PEER_CLOSED] = "......",
};
static const char *const accepted_may[STATES] = {
	[GVM_PEER_IDLE] = "..x...",    [GVM_PEER_CONNECTING] = "..x...",
	[GVM_PEER_PROVING] = "...x.x", [GVM_PEER_READY] = ".....x",
	[GVM_PEER_BACKOFF] = "......", [GVM_PEER_CLOSED] = "......",
};

static void only_these_follow(void **state)
{
	struct gvm_peer peer = { .node = GVM_NODE_NONE };
	unsigned from, to;

	for (from = 0; from < STATES; from++)
		for (to = 0; to < STATES; to++) {
			peer.state = (uint8_t)from;
			peer.accepted = 0;
			assert_int_equal(peer_may_become(&peer, to), client_may[from][to] == 'x');
			peer.accepted = 1;
			assert_int_equal(peer_may_become(&peer, to), accepted_may[from][to] == 'x');
		}
}

static void levels(struct node *node, unsigned open, unsigned ready)
{
	struct gvm_net_stats stats;

	gvm_worker_stats(node->worker, &stats);
	assert_int_equal(stats.peers_open, open);
	assert_int_equal(stats.peers_ready, ready);
}

static void levels_follow_the_states(void **state)
{
	struct rig rig;
	unsigned round;

	open_rig(&rig);
	for (round = 1; round <= 3; round++) {
		levels(&rig.client, 0, 0);
		levels(&rig.server, 0, 0);
		gvm_peer_connect(rig.peer);
		levels(&rig.client, 0, 0);
		UNTIL(&rig, gvm_peer_state(rig.peer) == GVM_PEER_PROVING);
		levels(&rig.client, 1, 0);
		UNTIL(&rig, rig.client.ready == round && rig.server.ready == round);
		levels(&rig.client, 1, 1);
		levels(&rig.server, 1, 1);
		assert_int_equal(rig.server.worker->accepted_ready, 1);
		assert_int_equal(rig.client.worker->accepted_ready, 0);
		gvm_peer_disconnect(rig.peer, -ECANCELED);
		levels(&rig.client, 0, 0);
		UNTIL(&rig, rig.server.ended == round);
		levels(&rig.server, 0, 0);
		assert_int_equal(rig.server.worker->accepted_ready, 0);
	}
	close_rig(&rig);
}

/* ---- a provider that has no memory for the last word of a handshake ------------------------- */

static const struct gvm_provider_ops *real;
static unsigned lost;

static int lose_ready(struct gvm_ep *ep, const struct gvm_hdr *hdr, const void *payload)
{
	if (hdr->type == GVM_T_READY && lost) {
		lost--;
		return -ENOMEM;
	}
	return real->send(ep, hdr, payload);
}

static void put_before_greeting(struct node *node, const struct gvm_provider_ops *ops)
{
	for (struct gvm_peer *peer = node->worker->greeting.first; peer; peer = peer->next_greeting)
		peer->ep->ops = ops;
}

/* A connection that ends when it was proven but not yet ready holds no place among GVM_MAX_CONNS.
 */
static void proven_but_never_ready(void **state)
{
	struct gvm_provider_ops ops;
	struct job job = new_job();
	struct gvm_msg msg = { .type = 64 };
	struct rig rig;

	open_rig(&rig);
	real = rig.server.worker->providers[0].ops;
	ops = *real;
	ops.send = lose_ready;
	lost = 3;
	rig.server.worker->opt.max_conns = 1;
	rig.client.worker->opt.backoff_max_ns = 1;
	assert_int_equal(gvm_call(rig.peer, &msg, &job.op), 0);
	UNTIL(&rig, (put_before_greeting(&rig.server, &ops), job.done));
	assert_int_equal(lost, 0);
	assert_int_equal(job.status, 0);
	levels(&rig.server, 1, 1);
	assert_int_equal(rig.server.worker->accepted_ready, 1);
	close_rig(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_these_follow),
		BOTH(levels_follow_the_states),
		BOTH(proven_but_never_ready),
	};

	return RUN(tests);
}
