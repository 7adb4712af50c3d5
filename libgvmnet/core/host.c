/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a worker gives its provider: the table of upcalls. Those about connections go to their
 * peers, the others are answered here.
 */
#include "core/peer.h"

static int host_watch(struct gvm_host *host, struct gvm_watch *watch, uint32_t events)
{
	return gvm_worker_watch_provider(host->worker, watch, events);
}

static int host_rewatch(struct gvm_host *host, struct gvm_watch *watch, uint32_t events)
{
	return gvm_worker_rewatch(host->worker, watch, events);
}

static void host_unwatch(struct gvm_host *host, struct gvm_watch *watch)
{
	gvm_worker_unwatch_provider(host->worker, watch);
}

static uint64_t host_now(struct gvm_host *host)
{
	return gvm_worker_clock(host->worker);
}

static const uint64_t *host_clock(struct gvm_host *host)
{
	return &host->worker->now;
}

static int host_mem_get(struct gvm_host *host, uint64_t key, uint64_t owner, unsigned access,
			uint64_t offset, uint64_t len, void **at, struct gvm_mem **mem)
{
	struct gvm_worker *worker = host->worker;
	int err = gvm_mem_lookup(&worker->net->mem, key, owner, access, offset, len, at, mem);

	if (err)
		gvm_count(&worker->stats.refused_keys, 1);
	return err;
}

static int host_mem_hold(struct gvm_host *host, uint64_t key, uint64_t owner,
			 struct gvm_mem_user *user)
{
	struct gvm_worker *worker = host->worker;
	int err = gvm_mem_hold(&worker->net->mem, key, owner, user);

	if (err && err != -EOPNOTSUPP)
		gvm_count(&worker->stats.refused_keys, 1);
	return err;
}

static void host_wake(struct gvm_host *host)
{
	gvm_worker_wake(host->worker);
}

static int host_has_key(struct gvm_host *host)
{
	return host->worker->net->key != NULL;
}

static int host_prove(struct gvm_host *host, const void *text, size_t len,
		      uint8_t mac[GVM_WIRE_MAC_LEN])
{
	return gvm_key_prove(host->worker->net, text, len, mac);
}

static int host_proven(struct gvm_host *host, const void *text, size_t len,
		       const uint8_t mac[GVM_WIRE_MAC_LEN])
{
	struct gvm_worker *worker = host->worker;
	int err = gvm_key_proven(worker->net, text, len, mac);

	if (err == -EACCES)
		gvm_count(&worker->stats.handshake_refused, 1);
	return err;
}

static struct gvm_net_stats *host_stats(struct gvm_host *host)
{
	return &host->worker->stats;
}

const struct gvm_host_ops gvm_core_host_ops = {
	.accepted = peer_accepted,
	.connected = peer_connected,
	.message = peer_message,
	.writable = peer_writable,
	.closed = peer_closed,
	.completed = peer_completed,
	.watch = host_watch,
	.rewatch = host_rewatch,
	.unwatch = host_unwatch,
	.now = host_now,
	.clock = host_clock,
	.mem_get = host_mem_get,
	.mem_put = gvm_mem_drop,
	.mem_hold = host_mem_hold,
	.mem_release = gvm_mem_release,
	.mem_hold_local = gvm_mem_hold_local,
	.wake = host_wake,
	.has_key = host_has_key,
	.prove = host_prove,
	.proven = host_proven,
	.stats = host_stats,
};
