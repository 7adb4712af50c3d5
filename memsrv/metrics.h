/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Statistics over HTTP: /metrics for Prometheus, /json, and /healthz (200, or 503 while the node
 * drains). A thread of libmicrohttpd's; it reads figures and changes nothing.
 */
#ifndef MEMSRV_METRICS_H
#define MEMSRV_METRICS_H

#include "service.h"

struct metrics;

/* at->port is set to the one that was bound. One logged sentence and -errno on failure. */
int metrics_open(struct service *service, struct address *at, struct metrics **metrics);
void metrics_close(struct metrics *metrics);

#endif
