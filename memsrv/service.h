/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The service: N workers, each a thread with an event loop that accepts connections at the same
 * addresses, and the region protocol between their messages and the store. The data path (fetch and
 * put by key) is the library's and does not come here. A request that cannot be answered before
 * something has ended (see store.h) is kept until then, for five seconds at most.
 *
 * Threads: service_* is called by the thread that made the service, the statistics by any.
 */
#ifndef MEMSRV_SERVICE_H
#define MEMSRV_SERVICE_H

#include <stdint.h>
#include <stdio.h>

#include <gvmnet/gvmnet.h>

struct service;
struct store;

struct address {
	char host[256];
	unsigned port;
};

struct service_config {
	struct gvm_net *net;
	struct store *store;
	unsigned workers;
	struct address *listen; /* port 0: any; the one that was bound is written here */
	unsigned listens;
	const char *state; /* home_config's */
};

/* Open the workers, listen and start their threads. One logged sentence and -errno on failure. */
int service_open(const struct service_config *config, struct service **service);
/* What it listens with: "tcp", "verbs+tcp". */
const char *service_transports(const struct service *service);
/* Accept no more connections; those that are open go on. */
void service_unlisten(struct service *service);
/* Call it every 100 ms or so. */
void service_tick(struct service *service);
/* End all connections and threads. Then nothing of the store is in use by them. */
void service_close(struct service *service);

/* Everything about this node, as text: Prometheus' or one JSON object. regions: how many regions
 * are named in it at most. */
void service_prometheus(struct service *service, FILE *out);
void service_json(struct service *service, FILE *out, unsigned regions);
int service_draining(struct service *service);

#endif
