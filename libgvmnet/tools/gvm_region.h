/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * "gvm region", between its files: gvm_region.c has the command line, gvm_region_nodes.c what asks each
 * node by itself, gvm_region_change.c what the region client does, gvm_region_view.c the list as text.
 */
#ifndef GVM_REGION_H
#define GVM_REGION_H

#include <gvmnet/cluster.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

struct region_asked {
	int json;
	uint64_t bytes;
	const char *placed_as;
	char **names; /* up to the NULL */
	int count;
};

/* One line on standard error: "gvm region: ...". Returns -1. */
int region_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* 0, or -1 after a complaint. */
int region_list(const struct gvm_cluster *cluster, const struct region_asked *asked);
int region_delete(const struct gvm_cluster *cluster, const struct region_asked *asked);
int region_create(const struct gvm_cluster *cluster, const struct region_asked *asked);
int region_resize(const struct gvm_cluster *cluster, const struct region_asked *asked);

/*
 * The list as text. all: {"nodes": [{"id", "host", "port", "store": what NODE_STAT says of it,
 * "regions": [{"name", "pages", "slabs", "holder": "" or a number in hexadecimal digits, "sessions",
 * "ephemeral"}]}]}. One with "why" cannot be reached, and is passed over: standard error has it.
 */
void region_show(const json_t *all, FILE *out);

#endif
