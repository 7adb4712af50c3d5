/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The cluster map: which nodes there are, where they listen, what they are for; and placement, the
 * pure function from (map, region, slab) to memory nodes.
 *
 * The file has one node a line: ID HOST PORT [role=memory|compute|both] [weight=N], white space
 * between, '#' to the end of a line is a comment, HOST is a name, an IPv4 or an IPv6 address
 * (brackets allowed). A line "cluster NAME" names the cluster. Immutable once loaded, so any
 * thread may read it.
 */
#ifndef GVMNET_CLUSTER_H
#define GVMNET_CLUSTER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GVM_ROLE_MEMORY  1u
#define GVM_ROLE_COMPUTE 2u
#define GVM_MAX_COPIES   8

struct gvm_node {
	unsigned id;      /* 0 to GVM_MAX_NODES - 1 */
	const char *host; /* as written, without brackets */
	unsigned port;    /* 1 to 65,535 */
	unsigned roles;   /* GVM_ROLE_*; memory where the line names none */
	unsigned weight;  /* 1 to 1,000,000: share of the slabs; 100 where the line names none */
};

struct gvm_cluster;

/*
 * Read a map. On failure -errno, and *error (if error is not NULL) is a sentence with file and
 * line that the caller frees: "cluster.conf:7: node 3 is already on line 2".
 */
int gvm_cluster_load(const char *path, struct gvm_cluster **cluster, char **error);
/* The same from memory; name stands for the file in errors. text need not be terminated. */
int gvm_cluster_parse(const char *text, size_t len, const char *name, struct gvm_cluster **cluster,
		      char **error);
/*
 * The map of one memory node, with id 0, at "HOST:PORT"; an IPv6 address may have brackets. *error
 * says first which address is meant, as gvm_cluster_load's does of a file.
 */
int gvm_cluster_single(const char *address, struct gvm_cluster **cluster, char **error);
/* NULL is nothing to free. */
void gvm_cluster_free(struct gvm_cluster *cluster);

const char *gvm_cluster_name(const struct gvm_cluster *cluster); /* "default" if not named */
uint32_t gvm_cluster_epoch(const struct gvm_cluster *cluster);   /* 1 for a file */
size_t gvm_cluster_size(const struct gvm_cluster *cluster);
/* The i-th node in order of ids, or NULL. */
const struct gvm_node *gvm_cluster_at(const struct gvm_cluster *cluster, size_t i);
/* The node with this id, or NULL. */
const struct gvm_node *gvm_cluster_node(const struct gvm_cluster *cluster, unsigned id);
/* Of all that placement depends on; never 0. Two nodes with the same digest place alike. */
uint64_t gvm_cluster_digest(const struct gvm_cluster *cluster);

/*
 * Where slab of region lies: up to want (1 to GVM_MAX_COPIES) distinct memory nodes, the home
 * first, by weighted rendezvous hashing. Returns how many there are, 0 when the map has no memory
 * node. Pure: same map, same answer, on every machine.
 */
int gvm_place(const struct gvm_cluster *cluster, uint64_t region, uint64_t slab, unsigned want,
	      uint16_t *nodes);
/* How many of a region's slabs have their home on node. Takes time in slabs times nodes (7 ms for
 * 65,536 x 16): slabs must be bounded before it comes here from the network. */
uint64_t gvm_place_share(const struct gvm_cluster *cluster, uint64_t region, uint64_t slabs,
			 unsigned node);

#ifdef __cplusplus
}
#endif
#endif
