/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * So many fetches or puts of pages, for bench/instructions to count what they take: a server's
 * worker and a client's in one thread, the client's operations from registered buffers or others,
 * so many under way at a time. The transport is GVM_TRANSPORT, and is to serve them without the
 * server's worker, as hardware does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <gvmnet/gvmnet.h>

#define PAGES     64u
#define DEPTH_MAX 256u
#define WARM      1000u

struct slot {
	struct gvm_op op;
	char *buf;
};

static struct gvm_worker *worker;
static struct gvm_peer *peer;
static struct slot slots[DEPTH_MAX];
static struct gvm_mem *local;
static uint64_t key;
static uint32_t size;
static unsigned long posted, completed, wanted;
static int puts_, failed;

static void post(struct slot *slot)
{
	uint64_t at = posted++ % PAGES * GVM_PAGE_SIZE;
	int err = puts_ ? gvm_put(peer, key, at, slot->buf, size, local, &slot->op)
			: gvm_fetch(peer, key, at, slot->buf, size, local, &slot->op);

	if (err) {
		fprintf(stderr, "gvm-count: a post was refused: %s\n", strerror(-err));
		exit(1);
	}
}

static void done(struct gvm_op *op, int status)
{
	failed |= status;
	completed++;
	if (posted < wanted)
		post((struct slot *)op);
}

/* What is counted. */
static void __attribute__((noinline)) measured(unsigned depth)
{
	for (unsigned i = 0; i < depth && posted < wanted; i++)
		post(&slots[i]);
	while (completed < wanted)
		gvm_worker_wait(worker, GVM_NEVER);
}

static void check(const char *what, int err)
{
	if (!err)
		return;
	fprintf(stderr, "gvm-count: %s: %s\n", what, strerror(-err));
	exit(1);
}

int main(int argc, char **argv)
{
	struct gvm_net_config nc = { .node = GVM_NODE_NONE };
	struct gvm_worker_config wc = { .cpu = -1 };
	static char memory[(PAGES + 256) * GVM_PAGE_SIZE], *buffers;
	struct gvm_worker *server;
	struct gvm_net *net;
	struct gvm_mem *mem;
	unsigned port, depth;

	if (argc != 6) {
		fprintf(stderr, "gvm-count fetch|put BYTES DEPTH direct|copied COUNT\n");
		return 2;
	}
	puts_ = strcmp(argv[1], "put") == 0;
	size = (uint32_t)strtoul(argv[2], NULL, 10);
	depth = (unsigned)strtoul(argv[3], NULL, 10);
	depth = depth < 1 ? 1 : depth > DEPTH_MAX ? DEPTH_MAX : depth;
	buffers = calloc(depth, size);
	check("net", gvm_net_open(&nc, &net));
	check("worker", gvm_worker_open(net, &wc, &server));
	check("worker", gvm_worker_open(net, &wc, &worker));
	check("listen", gvm_worker_listen(server, "127.0.0.1", 0, &port));
	check("memory", gvm_mem_register(net, memory, sizeof(memory),
					 GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0, &mem));
	if (strcmp(argv[4], "direct") == 0)
		check("memory", gvm_mem_register(net, buffers, (size_t)depth * size, 0, 0, &local));
	check("peer", gvm_peer_at(worker, "127.0.0.1", port, &peer));
	key = gvm_mem_key(mem);
	for (unsigned i = 0; i < depth; i++) {
		slots[i].op.done = done;
		slots[i].buf = buffers + (size_t)i * size;
	}
	wanted = WARM;
	for (unsigned i = 0; i < depth; i++)
		post(&slots[i]);
	while (completed < wanted) {
		gvm_worker_progress(worker);
		gvm_worker_progress(server);
	}
	wanted += strtoul(argv[5], NULL, 10);
	measured(depth);
	check("an operation", failed);
	gvm_worker_close(worker);
	gvm_worker_close(server);
	if (local)
		gvm_mem_unregister(local, NULL, NULL);
	gvm_mem_unregister(mem, NULL, NULL);
	gvm_net_close(net);
	free(buffers);
	return 0;
}
