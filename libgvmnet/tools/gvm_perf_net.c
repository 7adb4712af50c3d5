/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm perf send, fetch and put. The other side is a memory node, through an ephemeral region that
 * is made for the run and deleted after it, or with --local a thread of this process that offers
 * memory and echoes messages: the transport alone. Each of `depth` slots posts its next operation
 * from the completion of the one before. All of a run belongs to the measuring thread.
 */
#include "tools/gvm_perf.h"

#include <errno.h>
#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>
#include <gvmnet/region.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "wire/wire.h"

#define ECHO        GVM_MSG_USER
#define SLABS_SPARE 4u /* times as many slabs are made when only one node's are wanted */

struct server {
	struct gvm_net *net;
	struct gvm_worker *worker;
	struct gvm_mem *mem;
	void *base;
	size_t bytes;
	unsigned port;
	int stop; /* atomic */
	pthread_t thread;
};

struct run;
struct slot {
	struct run *run;
	uint8_t *buf;
	uint64_t begun;
	union {
		struct gvm_op op; /* --local, send */
		struct gvm_region_op page;
	};
};

struct run {
	struct perf *perf;
	struct gvm_cluster *cluster;
	struct gvm_net *net;
	struct gvm_worker *worker;
	struct gvm_peer *peer;
	struct gvm_region *region;
	char name[64];
	struct server server;
	uint64_t key;
	/* where the operations go: blocks of size bytes; a slab's blocks are together */
	uint64_t *slabs, slab_count, blocks_per_slab, next, random;
	struct slot *slots;
	uint8_t *buffers;
	size_t buffer_bytes;
	struct gvm_mem *mem; /* all of them */
	unsigned under_way, dropped;
	uint64_t posted, completed, target, begin, end_at;
	int filling, measuring, ending, failure, waited_status, waited;
};

static void on_free(void *arg)
{
	(void)arg;
}

/* ---- the serving thread --------------------------------------------------------------------- */

static void echo(void *arg, struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct gvm_msg reply = { .body = msg->body, .length = msg->length };

	(void)arg;
	(void)gvm_reply(peer, msg->xid, 0, &reply);
}

static void *serve(void *arg)
{
	struct server *server = arg;

	while (!__atomic_load_n(&server->stop, __ATOMIC_ACQUIRE))
		gvm_worker_wait(server->worker, GVM_NEVER);
	return NULL;
}

static int server_open(struct server *server, const struct perf *perf)
{
	struct gvm_net_config net = { .node = GVM_NODE_NONE };
	struct gvm_worker_config worker = { .message = echo, .cpu = perf->server_cpu };
	int rc;

	server->bytes = perf->span;
	server->base = mmap(NULL, server->bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (server->base == MAP_FAILED) {
		server->base = NULL;
		return -errno;
	}
	rc = gvm_net_open(&net, &server->net);
	if (rc)
		return rc;
	rc = gvm_worker_open(server->net, &worker, &server->worker);
	if (rc)
		return rc;
	rc = gvm_worker_listen(server->worker, "127.0.0.1", 0, &server->port);
	if (rc)
		return rc;
	rc = gvm_mem_register(server->net, server->base, server->bytes,
			      GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0, &server->mem);
	if (rc)
		return rc;
	rc = -pthread_create(&server->thread, NULL, serve, server);
	if (rc)
		server->thread = 0;
	return rc;
}

static void server_close(struct server *server)
{
	if (server->thread) {
		__atomic_store_n(&server->stop, 1, __ATOMIC_RELEASE);
		gvm_worker_wake(server->worker);
		pthread_join(server->thread, NULL);
	}
	if (server->worker)
		gvm_worker_close(server->worker);
	if (server->mem)
		gvm_mem_unregister(server->mem, on_free, NULL);
	if (server->net)
		gvm_net_close(server->net);
	if (server->base)
		munmap(server->base, server->bytes);
}

/* ---- waiting for one thing ------------------------------------------------------------------ */

static struct gvm_worker *interruptible;

static void interrupt(void)
{
	gvm_worker_wake(interruptible);
}

static void opened(void *arg, struct gvm_region *region, int status)
{
	struct run *run = arg;

	(void)region;
	run->waited = 1;
	run->waited_status = status;
}

static void page_waited(struct gvm_region_op *op, int status)
{
	struct slot *slot = (struct slot *)((char *)op - offsetof(struct slot, page));

	slot->run->waited = 1;
	slot->run->waited_status = status;
}

static int await(struct run *run, int posted)
{
	if (posted)
		return posted;
	while (!run->waited && !perf_interrupted)
		gvm_worker_wait(run->worker, GVM_NEVER);
	return run->waited ? run->waited_status : -EINTR;
}

/* ---- one operation -------------------------------------------------------------------------- */

static void post(struct slot *slot);

static int over(const struct run *run, uint64_t now)
{
	if (run->failure || perf_interrupted)
		return 1;
	if (run->target)
		return run->measuring && run->posted >= run->target;
	return run->measuring && now >= run->end_at;
}

static void completed(struct slot *slot, int status)
{
	struct run *run = slot->run;
	struct perf *perf = run->perf;
	uint64_t now = gvm_now();

	run->under_way--;
	if (status) {
		run->failure = status;
		run->ending = 1;
		return;
	}
	if (run->measuring && slot->begun >= run->begin) {
		perf_record(&perf->latency, now - slot->begun);
		perf->took = (double)(now - run->begin) / 1e9;
	} else if (!run->filling && !run->measuring && ++run->completed >= perf->warmup) {
		run->measuring = 1;
		run->begin = now;
		run->posted = 0;
		run->target = perf->iterations;
		run->end_at = now + (uint64_t)(perf->seconds * 1e9);
	}
	if (!run->ending && !over(run, now))
		post(slot);
	else
		run->ending = 1;
}

static void op_completed(struct gvm_op *op, int status)
{
	completed((struct slot *)((char *)op - offsetof(struct slot, op)), status);
}

static void page_completed(struct gvm_region_op *op, int status)
{
	completed((struct slot *)((char *)op - offsetof(struct slot, page)), status);
}

/* The next block's page in the region, or offset / 4096 in the served memory. */
static uint64_t next_page(struct run *run)
{
	uint64_t blocks = run->slab_count * run->blocks_per_slab, pages;
	uint64_t block = run->filling || run->perf->sequential ? run->next++ % blocks
							       : perf_random(&run->random) % blocks;

	pages = run->blocks_per_slab * run->perf->size / GVM_PAGE_SIZE;
	return run->slabs[block / run->blocks_per_slab] * pages +
	       block % run->blocks_per_slab * (run->perf->size / GVM_PAGE_SIZE);
}

static int post_send(struct run *run, struct slot *slot)
{
	struct gvm_msg msg = { .type = ECHO,
			       .body = slot->buf,
			       .length = (uint32_t)run->perf->size };

	if (!run->perf->local) /* a list of regions from beyond the last one: a header each way */
		msg = (struct gvm_msg){ .type = GVM_T_REGION_LIST, .page = UINT32_MAX };
	slot->op.done = op_completed;
	return gvm_call(run->peer, &msg, &slot->op);
}

static int post_local(struct run *run, struct slot *slot)
{
	uint64_t offset = next_page(run) * GVM_PAGE_SIZE;

	uint32_t size = (uint32_t)run->perf->size;

	slot->op.done = op_completed;
	return run->perf->test == PERF_PUT
		   ? gvm_put(run->peer, run->key, offset, slot->buf, size, run->mem, &slot->op)
		   : gvm_fetch(run->peer, run->key, offset, slot->buf, size, run->mem, &slot->op);
}

static int post_page(struct run *run, struct slot *slot)
{
	uint64_t page = next_page(run);
	uint32_t count = (uint32_t)(run->perf->size / GVM_PAGE_SIZE);

	slot->page.done = page_completed;
	slot->page.local = run->mem;
	return run->perf->test == PERF_PUT || run->filling
		   ? gvm_region_put(run->region, page, count, slot->buf, &slot->page)
		   : gvm_region_fetch(run->region, page, count, slot->buf, &slot->page);
}

static void post(struct slot *slot)
{
	struct run *run = slot->run;
	int rc;

	slot->begun = gvm_now();
	if (run->perf->test == PERF_SEND)
		rc = post_send(run, slot);
	else
		rc = run->perf->local ? post_local(run, slot) : post_page(run, slot);
	if (rc == 0) {
		run->posted++;
		run->under_way++;
		return;
	}
	if (rc != -EAGAIN) {
		run->failure = rc;
	} else if (run->under_way == 0) {
		fprintf(stderr, "gvm perf: not even one operation finds room\n");
		run->failure = rc;
	} else {
		run->dropped++; /* the depth is more than the transport takes */
	}
}

/* Let all slots run until it is over. */
static int go(struct run *run)
{
	run->ending = 0;
	for (unsigned i = 0; i < run->perf->depth && !run->failure && !over(run, gvm_now()); i++)
		post(&run->slots[i]);
	while (run->under_way && !(perf_interrupted && run->failure))
		gvm_worker_wait(run->worker, run->ending ? 1000000000 : GVM_NEVER);
	return run->failure;
}

/* ---- a run ---------------------------------------------------------------------------------- */

static int make_slots(struct run *run)
{
	size_t room = run->perf->size > GVM_PAGE_SIZE ? run->perf->size : GVM_PAGE_SIZE;

	run->slots = calloc(run->perf->depth, sizeof *run->slots);
	run->buffer_bytes = room * run->perf->depth;
	run->buffers = mmap(NULL, run->buffer_bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (!run->slots || run->buffers == MAP_FAILED) {
		run->buffers = NULL;
		return -ENOMEM;
	}
	memset(run->buffers, 0x5a, room * run->perf->depth);
	for (unsigned i = 0; i < run->perf->depth; i++) {
		run->slots[i].run = run;
		run->slots[i].buf = run->buffers + i * room;
	}
	return gvm_mem_register(run->net, run->buffers, run->buffer_bytes, 0, 0, &run->mem);
}

/* The slabs that the operations go over. */
static int choose_slabs(struct run *run, uint64_t slabs, uint64_t wanted)
{
	uint16_t at;

	run->slabs = calloc(slabs, sizeof *run->slabs);
	if (!run->slabs)
		return -ENOMEM;
	for (uint64_t s = 0; s < slabs && run->slab_count < wanted; s++) {
		if (run->perf->node >= 0 &&
		    (gvm_place(run->cluster, gvm_region_id(run->region), s, 1, &at) != 1 ||
		     at != run->perf->node))
			continue;
		run->slabs[run->slab_count++] = s;
	}
	if (run->slab_count)
		return 0;
	fprintf(stderr, "gvm perf: node %ld has no slab of the region; is it a memory node?\n",
		run->perf->node);
	return -ENOENT;
}

static int open_region(struct run *run)
{
	struct perf *perf = run->perf;
	uint32_t slab = perf->span >= GVM_SLAB_BYTES ? GVM_SLAB_BYTES : 65536;
	struct gvm_region_config config = { .name = run->name,
					    .flags = GVM_REGION_CREATE | GVM_REGION_EXCL |
						     GVM_REGION_EPHEMERAL,
					    .linger_ms = 1000,
					    .arg = run };
	uint64_t wanted, slabs;
	int rc;

	while (slab < perf->size)
		slab *= 2;
	wanted = (perf->span + slab - 1) / slab;
	slabs = perf->node >= 0 ? wanted * gvm_cluster_size(run->cluster) * SLABS_SPARE : wanted;
	config.slab_bytes = slab;
	config.bytes = slabs * slab;
	perf_region_name(perf, run->name, sizeof run->name);
	rc = await(run, gvm_region_open(run->worker, &config, 0, opened, &run->region));
	if (rc) {
		perf->told = rc != -EINTR; /* by the region, with the node's name */
		return rc;
	}
	run->blocks_per_slab = slab / perf->size;
	return choose_slabs(run, slabs, wanted);
}

/* Pages that were never written are not fetched from anywhere: write them all. */
static int fill(struct run *run)
{
	int rc;

	run->filling = 1;
	run->target = run->slab_count * run->blocks_per_slab;
	run->measuring = 1;
	run->begin = UINT64_MAX; /* nothing of it is recorded */
	rc = go(run);
	run->filling = run->measuring = 0;
	run->posted = run->target = run->next = 0;
	return rc;
}

static int open_peer(struct run *run)
{
	const struct gvm_node *node =
	    run->perf->node >= 0 ? gvm_cluster_node(run->cluster, (unsigned)run->perf->node)
				 : gvm_cluster_at(run->cluster, 0);

	return gvm_peer_get(run->worker, node->id, &run->peer);
}

static int open_target(struct run *run)
{
	struct perf *perf = run->perf;
	int rc;

	if (perf->local) {
		run->slabs = calloc(1, sizeof *run->slabs);
		if (!run->slabs)
			return -ENOMEM;
		run->slab_count = 1;
		run->key = gvm_mem_key(run->server.mem);
		run->blocks_per_slab = perf->size ? perf->span / perf->size : 1;
		return gvm_peer_at(run->worker, "127.0.0.1", run->server.port, &run->peer);
	}
	if (perf->test == PERF_SEND)
		return open_peer(run);
	rc = open_region(run);
	return rc ? rc : fill(run);
}

static int open_run(struct run *run)
{
	struct perf *perf = run->perf;
	struct gvm_net_config net = { .node = GVM_NODE_NONE };
	struct gvm_worker_config worker = { .cpu = perf->cpu };
	int rc = perf->local ? server_open(&run->server, perf) : perf_cluster(perf, &run->cluster);

	if (rc)
		return rc;
	net.cluster = run->cluster;
	rc = gvm_net_open(&net, &run->net);
	if (rc)
		return rc;
	rc = gvm_worker_open(run->net, &worker, &run->worker);
	if (rc)
		return rc;
	interruptible = run->worker;
	perf_interrupt = interrupt;
	rc = make_slots(run);
	return rc ? rc : open_target(run);
}

/* Give the region's memory back before its linger time. */
static void delete_region(struct run *run)
{
	struct slot *slot = run->slots;

	if (!slot || run->under_way)
		return;
	memset(slot, 0, sizeof *slot);
	slot->run = run;
	slot->page.done = page_waited;
	slot->page.deadline_ns = gvm_now() + 2000000000ull;
	run->waited = 0;
	if (gvm_region_delete(run->region, &slot->page))
		return;
	while (!run->waited)
		gvm_worker_wait(run->worker, GVM_NEVER);
}

static void close_run(struct run *run)
{
	perf_interrupt = NULL;
	if (run->region) {
		delete_region(run);
		gvm_region_close(run->region);
	}
	if (run->worker)
		gvm_worker_close(run->worker);
	if (run->mem)
		gvm_mem_unregister(run->mem, NULL, NULL);
	if (run->net)
		gvm_net_close(run->net);
	server_close(&run->server);
	gvm_cluster_free(run->cluster);
	if (run->buffers)
		munmap(run->buffers, run->buffer_bytes);
	free(run->slots);
	free(run->slabs);
	free(run);
}

static void describe(const struct run *run, struct perf *perf)
{
	const char *order = perf->test == PERF_SEND ? ""
			    : perf->sequential      ? ", in order"
						    : ", random";

	snprintf(perf->target, sizeof perf->target, "%s to %s%s", gvm_net_transport(run->net),
		 run->peer            ? gvm_peer_name(run->peer)
		 : perf->cluster_file ? perf->cluster_file
				      : perf->connect,
		 order);
}

int perf_net(struct perf *perf)
{
	struct run *run = calloc(1, sizeof *run);
	int rc;

	if (!run)
		return -ENOMEM;
	run->perf = perf;
	run->random = 88172645463325252ull;
	rc = open_run(run);
	if (rc == 0) {
		describe(run, perf);
		if (perf->warmup == 0) {
			run->measuring = 1;
			run->begin = gvm_now();
			run->target = perf->iterations;
			run->end_at = run->begin + (uint64_t)(perf->seconds * 1e9);
		}
		rc = go(run);
		if (rc == 0 && perf->latency.count == 0)
			rc = -EINTR;
		if (run->dropped) {
			perf->depth -= run->dropped;
			fprintf(stderr, "gvm perf: no more than %u at a time found room\n",
				perf->depth);
		}
	}
	if (rc)
		perf_tell(perf, rc);
	close_run(run);
	return rc;
}
