/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * This process as a node of the regions that it shares: which id it has. It is the one that
 * --node gives, or the first of the cluster file's role=compute lines whose address is this
 * machine's and that nobody listens at. Under the lock of preload_shared.c.
 */
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <gvmnet/cluster.h>
#include "preload.h"
#include "preload_shared.h"

#define PATIENCE_MS                                                                                \
	500           /* with an id whose last process may not be buried yet, while there are      \
			 others */
#define LEAVE_MS 3000 /* for a process that becomes another program, to give back what it has */
#define KEEPERS  8    /* regions for which a thread is worth it, see preload_fd.c */

static struct {
	struct gvm_cluster *cluster;
	struct gvm_net *net;
	unsigned kept;
} self;

/* See open_pager in preload_take.c. */
int OPENSSL_init_crypto(uint64_t options, const void *settings) __attribute__((weak));
#define NO_ATEXIT      0x00080000ull /* OPENSSL_INIT_NO_ATEXIT */
#define NO_LOAD_CONFIG 0x00000080ull /* OPENSSL_INIT_NO_LOAD_CONFIG */

static int load_cluster(void)
{
	char *error = NULL;
	int err;

	if (self.cluster)
		return 0;
	err = gvm_cluster_load(gvm_option_text("GVM_CLUSTER"), &self.cluster, &error);
	if (err)
		say("%s", error ? error : strerror(-err));
	free(error);
	return err;
}

static int can_bind(const struct addrinfo *at)
{
	int one = 1, fd = (int)syscall(SYS_socket, at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int ok;

	if (fd < 0)
		return 0;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	/* one that only binds does not keep others from it: it must listen */
	ok = !bind(fd, at->ai_addr, at->ai_addrlen) && !listen(fd, 1);
	syscall(SYS_close, fd);
	return ok;
}

static int line_free(const char *host, unsigned port)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
	struct addrinfo *all = NULL;
	char text[16];
	int ok = 0;

	snprintf(text, sizeof text, "%u", port);
	if (getaddrinfo(host, text, &hints, &all))
		return 0;
	for (const struct addrinfo *at = all; at && !ok; at = at->ai_next)
		ok = can_bind(at);
	freeaddrinfo(all);
	return ok;
}

/* -EADDRINUSE and -EBUSY: another process is that node. */
static int open_as(unsigned id, const struct gvm_dsm_config *config, struct gvm_dsm **dsm)
{
	const char *key = gvm_option_text("GVM_KEY_FILE");
	struct gvm_net_config net = { .cluster = self.cluster,
				      .node = id,
				      .key_file = *key ? key : NULL,
				      .insecure = (int)gvm_option_number("GVM_INSECURE") };

	if (OPENSSL_init_crypto)
		OPENSSL_init_crypto(NO_ATEXIT | NO_LOAD_CONFIG, NULL);
	int err = gvm_net_open(&net, &self.net);
	if (err)
		return err;
	err = gvm_dsm_open(self.net, config, dsm);
	if (err) {
		gvm_net_close(self.net);
		self.net = NULL;
	}
	return err;
}

/* Once over all lines. -ENOLINK: none is to be had. */
static int open_as_any(struct gvm_dsm_config *config, struct gvm_dsm **dsm)
{
	const struct gvm_node *line;
	int err = -ENOLINK;

	for (size_t i = 0; (line = gvm_cluster_at(self.cluster, i)); i++) {
		if (!(line->roles & GVM_ROLE_COMPUTE) || !line_free(line->host, line->port))
			continue;
		err = open_as(line->id, config, dsm);
		if (err != -EBUSY && err != -EADDRINUSE && err != -EADDRNOTAVAIL)
			return err;
	}
	return err;
}

static int open_first(struct gvm_dsm_config *config, struct gvm_dsm **dsm)
{
	unsigned id = (unsigned)gvm_option_number("GVM_NODE");
	int err = load_cluster();

	if (err)
		return err;
	if (id != GVM_NODE_NONE)
		return open_as(id, config, dsm);
	config->open_ms = PATIENCE_MS;
	err = open_as_any(config, dsm);
	if (err == -EBUSY) {
		config->open_ms = 0;
		err = open_as_any(config, dsm);
	}
	return err;
}

static const char *why_not(int err)
{
	switch (err) {
	case -ENOLINK:
		return "no line of the cluster file with role=compute has an address of this "
		       "machine that is not in use; each process needs one";
	case -EADDRINUSE:
		return "another process has this node's address; each needs a line of its own";
	case -EBUSY:
		return "another process has this node's id, or had it a moment ago";
	case -EHOSTDOWN:
		return "a memory node does not answer";
	default:
		return strerror(-err);
	}
}

int shared_region_open(struct shared_region *region, const char *name, uint64_t bytes,
		       uint32_t slab, unsigned flags)
{
	struct gvm_dsm_config config = { .name = name,
					 .flags = flags,
					 .bytes = bytes,
					 .slab_bytes = slab,
					 .local_bytes = gvm_option_number("GVM_RUN_SHARED_LOCAL") };
	void *mem;
	int err = self.net ? gvm_dsm_open(self.net, &config, &region->dsm)
			   : open_first(&config, &region->dsm);

	if (err == -ENOENT)
		return err;
	if (!err) {
		err = gvm_dsm_map(region->dsm, &mem);
		if (err)
			gvm_dsm_close(region->dsm);
	}
	if (err) {
		region->dsm = NULL;
		report_refused();
		say("shared memory %s cannot be had: %s", name, why_not(err));
		return err;
	}
	region->mem = mem;
	region->bytes = gvm_dsm_bytes(region->dsm);
	if (self.kept++ < KEEPERS)
		fd_keep();
	return 0;
}

int shared_region_close(struct shared_region *region, const char *name)
{
	int err = gvm_dsm_close(region->dsm);

	region->dsm = NULL;
	region->mem = NULL;
	if (err)
		say("LOST: shared memory %s: what this process alone had of it could not be given "
		    "back (%s)",
		    name, strerror(-err));
	return err;
}

/* If it cannot leave, it is as if it had been killed: its pages are given back by a part, and its
 * id is free later. */
void shared_region_part(struct shared_region *region, const char *name)
{
	if (gvm_dsm_leave(region->dsm, LEAVE_MS))
		say("shared memory %s: what this process alone had of it could not be given back "
		    "before it became another program",
		    name);
}

void shared_region_stay(struct shared_region *region, const char *name)
{
	int err = gvm_dsm_stay(region->dsm);

	if (err && err != -EINVAL) /* it had not left */
		say("LOST: shared memory %s: no other program could be started, and now this one "
		    "cannot have it again: %s",
		    name, why_not(err));
}

void shared_region_clear(const char *name)
{
	gvm_dsm_delete(self.net, name);
}

void shared_region_delete(const char *name)
{
	int err = gvm_dsm_delete(self.net, name);

	if (err && err != -EBUSY && err != -ENOENT)
		say("shared memory %s is unlinked, and could not be deleted: %s", name,
		    strerror(-err));
}

void shared_node_forget(void)
{
	self.kept = 0;
	self.net = NULL; /* the parent's, whose threads are not here */
}
