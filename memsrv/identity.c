/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "identity.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gvmnet/gvmnet.h>

/* What can be bound to is this machine's; port 0 takes no port from anybody. */
static int can_bind(const struct addrinfo *ai)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), here;

	if (fd < 0)
		return 0;
	here = !bind(fd, ai->ai_addr, ai->ai_addrlen);
	close(fd);
	return here;
}

int identity_is_here(const char *host)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *all, *ai;
	int here = 0;

	if (getaddrinfo(host, NULL, &hints, &all))
		return 0;
	for (ai = all; ai && !here; ai = ai->ai_next)
		here = can_bind(ai);
	freeaddrinfo(all);
	return here;
}

int identity_find(const struct gvm_cluster *cluster, const char *path, unsigned *id)
{
	char ids[64] = "";
	size_t found = 0, at = 0;

	for (size_t i = 0; i < gvm_cluster_size(cluster); i++) {
		const struct gvm_node *node = gvm_cluster_at(cluster, i);

		if (!(node->roles & GVM_ROLE_MEMORY) || !identity_is_here(node->host))
			continue;
		*id = node->id;
		found++;
		if (at + 16 < sizeof(ids))
			at += (size_t)snprintf(ids + at, sizeof(ids) - at, "%s%u", at ? ", " : "",
					       node->id);
	}
	if (found == 1)
		return 0;
	if (found)
		gvm_log(GVM_LOG_ERROR,
			"%s has %zu memory nodes on this machine (%s%s): say which one this is "
			"with --id, or where to listen with --listen",
			path, found, ids, at + 16 < sizeof(ids) ? "" : ", ...");
	else
		gvm_log(GVM_LOG_ERROR,
			"%s has no memory node on this machine: say which one this is with --id, "
			"or where to listen with --listen",
			path);
	return -EINVAL;
}
