/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What cluster.c, which reads the map, and place.c, which places by it, know of its insides.
 * Immutable once loaded.
 */
#ifndef GVM_CLUSTER_MAP_H
#define GVM_CLUSTER_MAP_H

#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>

/* A memory node as placement sees it. */
struct gvm_candidate {
	uint64_t seed; /* of its id, well mixed */
	uint32_t weight;
	uint16_t id;
};

struct gvm_cluster {
	char name[64];
	uint64_t digest;
	size_t count, candidate_count;
	struct gvm_node *nodes;           /* by id */
	struct gvm_candidate *candidates; /* by weight, then id */
	char *hosts;                      /* the text of all nodes[].host */
};

/* Fill in candidates and digest from nodes. -ENOMEM. */
int gvm_place_prepare(struct gvm_cluster *cluster);

#endif
