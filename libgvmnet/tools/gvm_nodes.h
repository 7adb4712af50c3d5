/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The memory nodes that --cluster or --connect names, for commands that ask each of them something:
 * one request at a time of each, of all nodes at once. What the library would log on the way is
 * kept (gvm_why), so that a command says one line of its own. One thread owns it all.
 */
#ifndef GVM_NODES_H
#define GVM_NODES_H

#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>
#include <stddef.h>

struct nodes;
struct nodes_one {
	struct gvm_op op;
	struct nodes *all;
	const struct gvm_node *node;
	struct gvm_peer *peer;
	void (*answered)(struct nodes_one *one, int status, const struct gvm_msg *reply);
	int busy;
	int why; /* it cannot be reached, or its connection broke: it is asked nothing more */
	void *user;
};

struct nodes {
	const struct gvm_cluster *cluster;
	struct gvm_net *net;
	struct gvm_worker *worker;
	struct nodes_one *one; /* in order of ids */
	size_t count;
};

/* The map that --cluster or --connect names; 0, or -1 with "gvm COMMAND: why" on standard error. */
int nodes_cluster(const char *command, struct gvm_cluster **cluster);
/* Its memory nodes; or those of them with the id only, if that is not GVM_NODE_NONE. 0, or -errno;
 * nodes_reason says why in words. cluster must outlive them. */
int nodes_open(struct nodes *nodes, const struct gvm_cluster *cluster, unsigned only);
/* Also after nodes_open has failed. The log goes where it goes by default again. */
void nodes_close(struct nodes *nodes);
/* Ask one node. answered is called once, from nodes_wait, and may ask again; or, when the node
 * cannot be reached, never, and one->why says so. timeout_ms: until it must have answered. */
void nodes_ask(struct nodes_one *one, const struct gvm_msg *msg, uint64_t timeout_ms,
	       void (*answered)(struct nodes_one *one, int status, const struct gvm_msg *reply));
/* Until all have answered or cannot be reached; first: or one cannot. Returns the first of those
 * that cannot be reached, or NULL. */
const struct nodes_one *nodes_wait(struct nodes *nodes, int first);
/* Why that is, in words that say what to do. */
const char *nodes_reason(int err);

/*
 * Does each memory node of the map answer, and accept the key? The first failed attempt is enough:
 * nobody waits for a node that refuses. only as above. 0, or -1 with a sentence in why.
 */
int nodes_probe(const struct gvm_cluster *cluster, unsigned only, char *why, size_t room);

#endif
