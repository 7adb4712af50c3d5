/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The cluster file. What is accepted must be in order, unique and within its ranges, and placement
 * must work on it; what is refused must come with a sentence that names the file.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check(int good)
{
	if (!good)
		abort();
}

static void check_nodes(const struct gvm_cluster *cluster)
{
	size_t i, n = gvm_cluster_size(cluster);

	check(n > 0 && n <= GVM_MAX_NODES && gvm_cluster_digest(cluster) != 0);
	for (i = 0; i < n; i++) {
		const struct gvm_node *node = gvm_cluster_at(cluster, i);

		check(i == 0 || node->id > gvm_cluster_at(cluster, i - 1)->id);
		check(node->id < GVM_MAX_NODES && node->port >= 1 && node->port <= 65535);
		check(*node->host && !strpbrk(node->host, " \t\r\n#[]"));
		check(node->roles && node->weight >= 1 && node->weight <= 1000000);
		check(gvm_cluster_node(cluster, node->id) == node);
	}
}

static void check_placement(const struct gvm_cluster *cluster, uint64_t slab)
{
	uint16_t nodes[GVM_MAX_COPIES];
	int i, n = gvm_place(cluster, 1, slab, GVM_MAX_COPIES, nodes);

	for (i = 0; i < n; i++)
		check(gvm_cluster_node(cluster, nodes[i])->roles & GVM_ROLE_MEMORY);
	check(n > 0 || gvm_place_share(cluster, 1, 4, 0) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct gvm_cluster *cluster = NULL;
	char *error = NULL;

	if (gvm_cluster_parse((const char *)data, len, "fuzz.conf", &cluster, &error) < 0) {
		check(error && strncmp(error, "fuzz.conf:", 10) == 0);
		free(error);
		return 0;
	}
	check(!error);
	check_nodes(cluster);
	check_placement(cluster, len);
	gvm_cluster_free(cluster);
	return 0;
}
