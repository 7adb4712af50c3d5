/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The pager as its user sees it: opening and closing, the budget, and how a control call gets to
 * the shards' threads and back. Control calls are serialised by pager->control; what they do to
 * pages they do on the shard that owns them.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "internal.h"

#define LOCAL_MIN (1ull << 20)

const struct store_ops store_region = {
	.open = gvm_region_open,
	.pages = gvm_region_pages,
	.slab_pages = gvm_region_slab_pages,
	.has_storage = gvm_region_has_storage,
	.away_since = gvm_region_away_since,
	.node = gvm_region_node,
	.fetch = gvm_region_fetch,
	.put = gvm_region_put,
	.discard = gvm_region_discard,
	.clone = gvm_region_clone,
	.resize = gvm_region_resize,
	.remove = gvm_region_delete,
	.leave = gvm_region_leave,
	.stay = gvm_region_stay,
	.close = gvm_region_close,
	.release = gvm_region_release,
};

/* ---- calls to shards ----------------------------------------------------------------------- */

static void call_task(struct gvm_task *task)
{
	struct call *call = (struct call *)task;

	call->fn(call);
}

void call_done(struct call *call, int status)
{
	call->status = status;
	__atomic_store_n(&call->done, 1, __ATOMIC_SEQ_CST);
	/* the caller may be gone by now, and its stack with it: a wake of nobody does no harm */
	syscall(SYS_futex, &call->done, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void call_post(struct shard *shard, void (*fn)(struct call *call), struct call *call)
{
	call->shard = shard;
	call->fn = fn;
	call->task.fn = call_task;
	__atomic_store_n(&call->done, 0, __ATOMIC_SEQ_CST);
	gvm_worker_run(shard->worker, &call->task);
}

static int call_wait(struct call *call)
{
	while (!__atomic_load_n(&call->done, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, &call->done, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	return call->status;
}

/*
 * What a shard reads must not be paged: it would wait for itself. The caller's stack may be (a
 * thread or a signal handler whose stack the program has taken from its malloc), so calls lie in
 * memory of their own meanwhile. Without any to be had, the stack must do.
 */
int pager_call(struct shard *shard, void (*fn)(struct call *call), struct call *call)
{
	struct call *safe = mem_map(sizeof(*safe));
	int err;

	if (!safe) {
		call_post(shard, fn, call);
		return call_wait(call);
	}
	*safe = *call;
	call_post(shard, fn, safe);
	err = call_wait(safe);
	*call = *safe;
	mem_unmap(safe, sizeof(*safe));
	return err;
}

static bool call_wait_until(struct call *call, uint64_t until)
{
	while (!__atomic_load_n(&call->done, __ATOMIC_SEQ_CST)) {
		uint64_t now = gvm_now();
		struct timespec left = { .tv_sec = (time_t)((until - now) / 1000000000),
					 .tv_nsec = (long)((until - now) % 1000000000) };

		if (now >= until)
			return false;
		syscall(SYS_futex, &call->done, FUTEX_WAIT_PRIVATE, 0, &left, NULL, 0);
	}
	return true;
}

/* A call that is late keeps its memory: the shard may answer yet. */
int pager_call_until(struct shard *shard, void (*fn)(struct call *call), const struct call *call,
		     uint64_t until)
{
	struct call *safe = mem_map(sizeof(*safe));
	int err;

	if (!safe)
		return -ENOMEM;
	*safe = *call;
	call_post(shard, fn, safe);
	if (!call_wait_until(safe, until))
		return -ETIMEDOUT;
	err = safe->status;
	mem_unmap(safe, sizeof(*safe));
	return err;
}

int pager_call_all(struct gvm_pager *pager, void (*fn)(struct call *call), struct gvm_range *range,
		   uint64_t a, uint64_t b)
{
	struct call on_stack[SHARDS_MAX], *calls = mem_map(sizeof(on_stack));
	struct call *mapped = calls;
	int err = 0, r;

	if (!calls)
		calls = on_stack;
	memset(calls, 0, sizeof(calls[0]) * pager->shards);
	for (unsigned i = 0; i < pager->shards; i++) {
		calls[i].range = range;
		calls[i].a = a;
		calls[i].b = b;
		call_post(&pager->shard[i], fn, &calls[i]);
	}
	for (unsigned i = 0; i < pager->shards; i++) {
		r = call_wait(&calls[i]);
		if (r && !err)
			err = r;
	}
	if (mapped)
		mem_unmap(mapped, sizeof(on_stack));
	return err;
}

/* ---- nodes --------------------------------------------------------------------------------- */

enum { NODE_HERE, NODE_AWAY, NODE_LOST };

static bool away_bit(const struct view *view, unsigned node)
{
	return view->away && (view->away[node / 8] >> node % 8 & 1);
}

/* Whether this view says that the node is away, so that it can be taken back. */
static void note_away(struct view *view, unsigned node, bool away)
{
	uint32_t *said = &view->shard->pager->nodes_said[node];

	if (away_bit(view, node) == away)
		return;
	if (!view->away)
		view->away = mem_map(GVM_MAX_NODES / 8);
	if (!view->away)
		return;
	view->away[node / 8] ^= (uint8_t)(1u << node % 8);
	if (away)
		__atomic_add_fetch(said, 1, __ATOMIC_SEQ_CST);
	else
		__atomic_sub_fetch(said, 1, __ATOMIC_SEQ_CST);
}

/* Nobody says any more that it is away, and nobody will say that it is back. */
static void unsay(struct gvm_pager *pager, unsigned node)
{
	uint8_t away = NODE_AWAY;

	if (__atomic_sub_fetch(&pager->nodes_said[node], 1, __ATOMIC_SEQ_CST))
		return;
	if (__atomic_compare_exchange_n(&pager->nodes[node], &away, NODE_HERE, false,
					__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		__atomic_sub_fetch(&pager->nodes_away, 1, __ATOMIC_RELAXED);
}

void pager_node_forget(struct view *view)
{
	for (unsigned node = 0; view->away && node < GVM_MAX_NODES; node++)
		if (away_bit(view, node))
			unsay(view->shard->pager, node);
	mem_unmap(view->away, GVM_MAX_NODES / 8);
	view->away = NULL;
}

/* Each view of each region tells; the user is told once per change. */
void pager_node_state(void *arg, unsigned node, int why)
{
	struct view *view = arg;
	struct gvm_pager *pager = view->shard->pager;
	uint8_t now = why == 0 ? NODE_HERE : why == -EIO ? NODE_LOST : NODE_AWAY, old;

	if (why == 0)
		view->shard->heal_wanted = true;
	if (node >= GVM_MAX_NODES)
		return;
	note_away(view, node, now == NODE_AWAY);
	old = __atomic_exchange_n(&pager->nodes[node], now, __ATOMIC_SEQ_CST);
	if (old == now)
		return;
	if (now == NODE_AWAY)
		__atomic_add_fetch(&pager->nodes_away, 1, __ATOMIC_RELAXED);
	else if (old == NODE_AWAY)
		__atomic_sub_fetch(&pager->nodes_away, 1, __ATOMIC_RELAXED);
	if (pager->config.node_state)
		pager->config.node_state(pager->config.arg, node, why);
}

/* ---- opening and closing ------------------------------------------------------------------- */

void gvm_pager_config_init(struct gvm_pager_config *config)
{
	const char *policy = gvm_option_text("GVM_UNREACHABLE");

	memset(config, 0, sizeof(*config));
	config->local_bytes = gvm_option_number("GVM_LOCAL");
	config->threads = (unsigned)gvm_option_number("GVM_PAGER_THREADS");
	config->unreachable = strcmp(policy, "sigbus") == 0 ? GVM_UNREACHABLE_SIGBUS
			      : strcmp(policy, "zero") == 0 ? GVM_UNREACHABLE_ZERO
							    : GVM_UNREACHABLE_STALL;
	config->unreachable_ms = (unsigned)gvm_option_number("GVM_UNREACHABLE_MS");
	config->prefetch_pages = (unsigned)gvm_option_number("GVM_PREFETCH");
	config->slab_bytes = (uint32_t)gvm_option_number("GVM_SLAB");
}

static unsigned shards_wanted(const struct gvm_pager_config *config)
{
	unsigned n =
	    config->threads ? config->threads : (unsigned)gvm_option_number("GVM_PAGER_THREADS");
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (n == 0)
		n = cpus <= 2 ? 1 : cpus >= 8 ? 4 : (unsigned)cpus / 2;
	return n > SHARDS_MAX ? SHARDS_MAX : n;
}

/* Without digests (an old CPU, no entropy) pages are copied in, write-protected. */
static void open_digests(struct gvm_pager *pager)
{
	struct digest_key *key = mem_map(sizeof(*key));

	if (!key)
		return;
	if ((pager_quirks & QUIRK_NO_DIGESTS) || digest_init(key))
		mem_unmap(key, sizeof(*key));
	else
		pager->digests = key;
}

static int probe(struct gvm_pager *pager)
{
	int fd, err = mem_uffd(0, &pager->features, &fd);

	if (err)
		return err;
	close(fd);
	pager->move = mem_has_move(pager->features);
	if (pager->move)
		open_digests(pager);
	pager->poison = mem_has_poison(pager->features);
	pager->shmem_wp = pager->features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
	pager->empty_fd = memfd_create("gvm-empty", MFD_CLOEXEC);
	return pager->empty_fd < 0 ? -errno : 0;
}

static void pager_free(struct gvm_pager *pager)
{
	mem_unmap(pager->ranges, RANGES_MAX * sizeof(*pager->ranges));
	mem_unmap(pager->nodes, GVM_MAX_NODES);
	mem_unmap(pager->nodes_said, GVM_MAX_NODES * sizeof(*pager->nodes_said));
	mem_unmap(pager->digests, sizeof(*pager->digests));
	if (pager->empty_fd >= 0)
		close(pager->empty_fd);
	pthread_mutex_destroy(&pager->control);
	mem_unmap(pager->shard, pager->shards * sizeof(*pager->shard));
	mem_unmap(pager, pager->map_bytes);
}

static void stop_shards(struct gvm_pager *pager, unsigned started, unsigned opened)
{
	for (unsigned i = 0; i < started; i++)
		shard_stop(&pager->shard[i]);
	for (unsigned i = 0; i < opened; i++)
		shard_close(&pager->shard[i]);
}

int pager_start(struct gvm_pager *pager)
{
	unsigned opened = 0, started = 0;
	int err = 0;

	for (; opened < pager->shards && !err; opened++)
		err = shard_open(pager, opened, &pager->shard[opened]);
	for (; started < pager->shards && !err; started++)
		err = shard_start(&pager->shard[started]);
	if (err)
		stop_shards(pager, started, opened);
	return err;
}

static struct gvm_pager *pager_alloc(struct gvm_net *net, const struct gvm_pager_config *config,
				     const struct store_ops *store)
{
	struct gvm_pager *pager = mem_map(sizeof(*pager));

	if (!pager)
		return NULL;
	pager->map_bytes = sizeof(*pager);
	pager->net = net;
	pager->config = *config;
	pager->store = store;
	pager->shards = shards_wanted(config);
	pager->budget = config->local_bytes / PAGE;
	pager->prefetch = config->prefetch_pages;
	pager->empty_fd = -1;
	pthread_mutex_init(&pager->control, NULL);
	pager->shard = mem_map(pager->shards * sizeof(*pager->shard));
	pager->ranges = mem_map(RANGES_MAX * sizeof(*pager->ranges));
	pager->nodes = mem_map(GVM_MAX_NODES);
	pager->nodes_said = mem_map(GVM_MAX_NODES * sizeof(*pager->nodes_said));
	if (!pager->shard || !pager->ranges || !pager->nodes || !pager->nodes_said) {
		pager_free(pager);
		return NULL;
	}
	return pager;
}

int pager_open_store(struct gvm_net *net, const struct gvm_pager_config *config,
		     const struct store_ops *store, struct gvm_pager **out)
{
	struct gvm_pager *pager;
	int err;

	if (config->local_bytes < LOCAL_MIN) {
		gvm_log(GVM_LOG_ERROR,
			"the pager needs at least 1 MiB of local memory, not %llu bytes",
			(unsigned long long)config->local_bytes);
		return -EINVAL;
	}
	pager = pager_alloc(net, config, store);
	if (!pager)
		return -ENOMEM;
	err = probe(pager);
	if (!err)
		err = pager_start(pager);
	if (err) {
		pager_free(pager);
		return err;
	}
	*out = pager;
	return 0;
}

int gvm_pager_open(struct gvm_net *net, const struct gvm_pager_config *config,
		   struct gvm_pager **pager)
{
	return pager_open_store(net, config, &store_region, pager);
}

void gvm_pager_close(struct gvm_pager *pager)
{
	for (struct gvm_range *range = pager->list; range; range = pager->list) {
		int err = range_detach(range, false);

		if (pager->list == range) {
			gvm_log(GVM_LOG_ERROR, "%s could not be taken from under the pager: %s",
				range->name, strerror(-err));
			pager->list = range->next;
		}
	}
	stop_shards(pager, pager->shards, pager->shards);
	pager_free(pager);
}

/* ---- while it runs ------------------------------------------------------------------------- */

static void call_limit(struct call *call)
{
	int err = frames_limit(call->shard, call->a);

	if (!err)
		err = slots_limit(call->shard, call->a);
	call_done(call, err);
}

static void call_look(struct call *call)
{
	call->shard->evicting = true;
	shard_wake_waits(call->shard);
	call_done(call, 0);
}

int gvm_pager_set_local(struct gvm_pager *pager, uint64_t bytes)
{
	int err = 0;

	if (bytes < LOCAL_MIN)
		return -EINVAL;
	pthread_mutex_lock(&pager->control);
	/* room for the bookkeeping first, then the frames */
	err = pager_call_all(pager, call_limit, NULL, bytes / PAGE, 0);
	if (!err) {
		__atomic_store_n(&pager->budget, bytes / PAGE, __ATOMIC_SEQ_CST);
		pager->config.local_bytes = bytes;
		err = pager_call_all(pager, call_look, NULL, 0, 0);
	}
	pthread_mutex_unlock(&pager->control);
	return err;
}

int gvm_pager_set_prefetch(struct gvm_pager *pager, unsigned pages)
{
	__atomic_store_n(&pager->prefetch, pages, __ATOMIC_RELAXED);
	return 0;
}

void gvm_pager_lend(struct gvm_pager *pager)
{
	__atomic_store_n(&pager->lent, true, __ATOMIC_SEQ_CST);
}
