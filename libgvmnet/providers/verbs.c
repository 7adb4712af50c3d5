/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A worker's device: opening and closing it, its completion queues, polling and sleeping, memory.
 * verbs.h says how the parts belong together.
 *
 * The descriptors of the poll set only note that there is something; poll() looks, so that all
 * upcalls come from it.
 */
#include "providers/verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define ADVISE_MAX (1u << 30) /* bytes that a device is told of at a time */

#define LINGER_MS 200 /* at the end of the worker, for what was sent last */

/* ---- memory -------------------------------------------------------------------------------- */

int verbs_told_limit(struct verbs *v, int err, size_t len)
{
	struct rlimit limit = { 0 };

	if (err != ENOMEM || v->told_limit)
		return -err;
	v->told_limit = 1;
	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (limit.rlim_cur == RLIM_INFINITY)
		gvm_log(GVM_LOG_WARN,
			"%s cannot have %zu more bytes of pinned memory, or has no more resources",
			v->device, len);
	else
		gvm_log(GVM_LOG_WARN,
			"%s cannot have %zu more bytes of pinned memory: this process may lock "
			"%llu bytes; raise that (ulimit -l, LimitMEMLOCK=infinity in a unit)",
			v->device, len, (unsigned long long)limit.rlim_cur);
	return -err;
}

/* Memory that is not pinned: the device asks for the pages that it does not know. It is told of
 * those that are there. NULL: it does not do that with this memory. */
static struct ibv_mr *reg_on_demand(struct verbs *v, void *at, size_t len, int flags)
{
	struct ibv_mr *mr = ibv_reg_mr(v->pd, at, len, flags | IBV_ACCESS_ON_DEMAND);
	struct ibv_sge all = { .addr = (uintptr_t)at };

	if (!mr)
		return NULL;
	all.lkey = mr->lkey;
	for (size_t done = 0; done < len; done += all.length) {
		size_t left = len - done;

		all.addr = (uintptr_t)at + done;
		all.length = left < ADVISE_MAX ? (uint32_t)left : ADVISE_MAX;
		/* whether it heeds that or not */
		if (ibv_advise_mr(v->pd, IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT, 0, &all, 1))
			break;
	}
	return mr;
}

static int reg(struct gvm_rma *rma, struct gvm_rma_ep *ep, void *at, size_t len, unsigned access,
	       struct gvm_rma_reg *reg)
{
	struct verbs *v = verbs_of(rma);
	int flags = 0;
	struct ibv_mr *mr;

	if (!access)
		/* On iWARP what is read is written to this side by the other. */
		flags = IBV_ACCESS_LOCAL_WRITE | (v->iwarp ? IBV_ACCESS_REMOTE_WRITE : 0);
	if (access & GVM_ACCESS_FETCH)
		flags |= IBV_ACCESS_REMOTE_READ;
	if (access & GVM_ACCESS_PUT)
		flags |= IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_LOCAL_WRITE;
	mr = access && v->on_demand ? reg_on_demand(v, at, len, flags) : NULL;
	if (!mr)
		mr = ibv_reg_mr(v->pd, at, len, flags);
	if (!mr)
		return verbs_told_limit(v, errno ? errno : ENOMEM, len);
	reg->mr = mr;
	reg->local = (void *)(uintptr_t)mr->lkey; /* the number itself: one look less a request */
	reg->key = mr->rkey;
	reg->base = (uintptr_t)at;
	reg->len = len;
	return 0;
}

static void dereg(struct gvm_rma *rma, struct gvm_rma_reg *reg)
{
	int err = reg->mr ? ibv_dereg_mr(reg->mr) : 0;

	if (err && !verbs_of(rma)->gone)
		gvm_log(GVM_LOG_ERROR, "%s does not give memory back: %s", verbs_of(rma)->device,
			strerror(err));
	reg->mr = reg->local = NULL;
}

uint8_t *verbs_pin(struct verbs *v, size_t len, int access, struct ibv_mr **mr)
{
	uint8_t *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return NULL;
	*mr = ibv_reg_mr(v->pd, at, len, IBV_ACCESS_LOCAL_WRITE | access);
	if (*mr)
		return at;
	verbs_told_limit(v, errno, len);
	munmap(at, len);
	return NULL;
}

void verbs_unpin(uint8_t *at, size_t len, struct ibv_mr *mr)
{
	if (!at)
		return;
	ibv_dereg_mr(mr);
	munmap(at, len);
}

/* ---- completion queues --------------------------------------------------------------------- */

static struct verbs_lane *lane_new(struct verbs *v, unsigned room)
{
	struct verbs_lane *lane = calloc(1, sizeof(*lane));
	unsigned most = (unsigned)v->attr.max_cqe / VERBS_ENTRIES;

	if (!lane)
		return NULL;
	lane->room = room < most ? room : most;
	if (lane->room && verbs_srq_open(v, lane)) {
		free(lane);
		return NULL;
	}
	lane->cq = lane->room ? ibv_create_cq(v->context, (int)(lane->room * VERBS_ENTRIES), lane,
					      v->channel, 0)
			      : NULL;
	if (!lane->cq) {
		if (lane->room)
			verbs_told_limit(v, errno, (size_t)lane->room * VERBS_ENTRIES * 64);
		if (lane->srq)
			ibv_destroy_srq(lane->srq);
		free(lane);
		return NULL;
	}
	return lane;
}

struct verbs_lane *verbs_lane_get(struct verbs *v)
{
	struct verbs_lane **at;
	unsigned room = VERBS_LANE;

	for (at = &v->lanes; *at; at = &(*at)->next) {
		if ((*at)->conns < (*at)->room && !(*at)->failed)
			return *at;
		if (room < VERBS_LANE_MAX)
			room *= 2;
	}
	*at = lane_new(v, room);
	return *at;
}

static void lane_free(struct verbs_lane *lane)
{
	if (lane->srq)
		ibv_destroy_srq(lane->srq);
	ibv_ack_cq_events(lane->cq, lane->unacked);
	ibv_destroy_cq(lane->cq);
	free(lane);
}

/* The completion channel has fired: those queues are not armed any more. Each that is armed says so
 * once, so that none needs to be asked for in vain. */
static void take_channel(struct verbs *v)
{
	struct verbs_lane *lane;
	struct ibv_cq *cq;
	void *context;

	do {
		if (ibv_get_cq_event(v->channel, &cq, &context))
			return;
		lane = context;
		v->armed -= (unsigned)lane->armed;
		lane->armed = 0;
		if (++lane->unacked < 1024)
			continue;
		ibv_ack_cq_events(cq, lane->unacked);
		lane->unacked = 0;
	} while (v->armed);
}

static int stash_grow(struct verbs *v)
{
	unsigned room = v->stash_room ? 2 * v->stash_room : 2 * VERBS_BATCH;
	struct ibv_wc *stash = realloc(v->stash, room * sizeof(*stash));

	if (!stash)
		return -ENOMEM;
	v->stash = stash;
	v->stash_room = room;
	return 0;
}

void verbs_stash_lane(struct verbs *v, struct verbs_lane *lane)
{
	int n;

	do {
		if (v->stash_room - v->stash_count < VERBS_BATCH && stash_grow(v))
			return;
		n = ibv_poll_cq(lane->cq, VERBS_BATCH, v->stash + v->stash_count);
		v->stash_count += n > 0 ? (unsigned)n : 0;
	} while (n == (int)VERBS_BATCH);
}

/* Serving may put more aside. */
static __attribute__((noinline)) int serve_stash(struct verbs *v)
{
	struct ibv_wc *stash = v->stash;
	unsigned n = v->stash_count, room = v->stash_room;

	v->stash = NULL;
	v->stash_count = v->stash_room = 0;
	verbs_serve(v, stash, n);
	if (v->stash) {
		free(stash);
	} else {
		v->stash = stash;
		v->stash_room = room;
	}
	return (int)n;
}

/* Serving makes upcalls, and those may add lanes, but never take one away. */
static int poll_lane(struct verbs *v, struct verbs_lane *lane, int most)
{
	struct ibv_wc wc[VERBS_BATCH];
	int n, served = 0;

	while (served < most) {
		if (v->stash_count) {
			served += serve_stash(v); /* which is older */
			continue;
		}
		n = ibv_poll_cq(lane->cq, VERBS_BATCH, wc);
		if (n <= 0)
			break;
		verbs_serve(v, wc, (unsigned)n);
		served += n;
		if (n < (int)VERBS_BATCH)
			break;
	}
	return served;
}

void verbs_drain(struct verbs *v)
{
	int n;

	v->reused = 0;
	do {
		n = v->stash_count ? serve_stash(v) : 0;
		for (struct verbs_lane *lane = v->lanes; lane; lane = lane->next)
			n += poll_lane(v, lane, VERBS_ENTRIES);
	} while (n >= (int)VERBS_BATCH || v->stash_count);
}

/* ---- what the device says of itself -------------------------------------------------------- */

/* Those of a lane, or all. An upcall ends connections, of which any may be the next one. */
static void all_fail(struct verbs *v, const struct verbs_lane *lane, int why, const char *reason)
{
	struct verbs_conn *conn = v->conns;

	while (conn) {
		if (lane && (!conn->qp || conn->lane != lane)) {
			conn = conn->next;
			continue;
		}
		verbs_conn_fail(conn, why, reason);
		conn = v->conns;
	}
}

void verbs_unwatch(struct verbs *v, struct verbs_watch *w)
{
	if (w->watch.fd >= 0)
		v->rma.up->unwatch(v->rma.host, &w->watch);
	w->watch.fd = -1;
	w->due = 0;
}

/* What is left of it is given back at the end of the round, which may be in the midst of it. */
static void device_gone(struct verbs *v)
{
	if (v->gone)
		return;
	v->gone = 1;
	gvm_log(GVM_LOG_ERROR, "the RDMA device %s has failed or was taken away", v->device);
	all_fail(v, NULL, -ENODEV, "the RDMA device is gone");
}

static void lane_failed(struct verbs *v, struct verbs_lane *lane)
{
	if (lane->failed)
		return;
	lane->failed = 1;
	gvm_log(GVM_LOG_ERROR, "%s: a completion queue has failed", v->device);
	all_fail(v, lane, -EIO, "a completion queue of the RDMA device has failed");
}

static void keep_news(struct verbs *v, struct verbs_news found)
{
	struct verbs_news *news = malloc(sizeof(*news));

	if (!news) {
		v->lost = 1; /* nobody would hear of it */
		return;
	}
	*news = found;
	news->next = NULL;
	*v->news_end = news;
	v->news_end = &news->next;
}

static void qp_event(struct verbs_conn *conn, enum ibv_event_type type)
{
	switch (type) {
	case IBV_EVENT_COMM_EST:
		/* The message that says so may be lost; the first cell will do as well. */
		rdma_notify(conn->id, IBV_EVENT_COMM_EST);
		break;
	case IBV_EVENT_QP_LAST_WQE_REACHED:
		conn->drained = 1;
		break;
	default:
		verbs_fail_later(conn, -EPROTO);
	}
}

/* Acknowledged before anything is destroyed, which waits for that. Of a queue pair that has been
 * destroyed there are none. */
static void note_event(struct verbs *v, struct ibv_async_event *event)
{
	struct verbs_news news = { .type = event->event_type };
	struct verbs_conn *conn = NULL;

	switch (event->event_type) {
	case IBV_EVENT_CQ_ERR:
		news.lane = event->element.cq->cq_context;
		break;
	case IBV_EVENT_SRQ_ERR:
		news.lane = event->element.srq->srq_context;
		break;
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
	case IBV_EVENT_PATH_MIG_ERR:
	case IBV_EVENT_COMM_EST:
	case IBV_EVENT_QP_LAST_WQE_REACHED:
		conn = event->element.qp->qp_context;
		break;
	case IBV_EVENT_PORT_ERR:
	case IBV_EVENT_PORT_ACTIVE:
		news.port = event->element.port_num;
		break;
	default:
		break;
	}
	ibv_ack_async_event(event);
	if (conn)
		qp_event(conn, news.type);
	else
		keep_news(v, news);
}

void verbs_note_async(struct verbs *v)
{
	struct ibv_async_event event;

	while (!v->gone && !v->lost) {
		if (!ibv_get_async_event(v->context, &event))
			note_event(v, &event);
		else if (errno == EAGAIN || errno == EINTR)
			break;
		else
			/* The kernel has forgotten the device, and may not have said so. */
			v->lost = 1;
	}
	if (!v->news && !v->lost)
		return;
	v->async_watch.due = 1;
	v->noted = 1;
}

static void handle_news(struct verbs *v, const struct verbs_news *news)
{
	switch (news->type) {
	case IBV_EVENT_CQ_ERR:
	case IBV_EVENT_SRQ_ERR:
		lane_failed(v, news->lane);
		break;
	case IBV_EVENT_DEVICE_FATAL:
		device_gone(v);
		break;
	case IBV_EVENT_PORT_ERR:
		gvm_log(GVM_LOG_WARN, "%s: port %d is down", v->device, news->port);
		break;
	case IBV_EVENT_PORT_ACTIVE:
		gvm_log(GVM_LOG_INFO, "%s: port %d is active", v->device, news->port);
		break;
	default:
		break;
	}
}

static int take_async(struct verbs *v)
{
	struct verbs_news *news;
	int n = 0;

	verbs_note_async(v);
	while ((news = v->news)) {
		v->news = news->next;
		if (!v->news)
			v->news_end = &v->news;
		handle_news(v, news);
		free(news);
		n++;
	}
	v->async_watch.due = 0;
	return n + (v->late != NULL);
}

/* ---- connections that hear nothing ----------------------------------------------------------- */

void verbs_tick_soon(struct verbs *v)
{
	const struct itimerspec when = { .it_value = { 0, VERBS_TICK_MS * 1000000l } };

	timerfd_settime(v->tick_fd, 0, &when, NULL);
}

/*
 * siw_accept(), 6.1, answers the other side before it watches the socket for what comes next
 * (siw_qp_socket_assoc()): what comes in between is left in the socket until something else comes.
 * So who has connected and hears nothing sends something else, and again, as nobody knows how long
 * the other side's thread is kept between the two. (Who has accepted must not: MPA has the
 * connecting side speak first, and siw ends a connection whose first words come with the answer.)
 */
static void tick(struct verbs *v)
{
	uint64_t times;
	int again = 0;

	if (read(v->tick_fd, &times, sizeof(times)) < 0)
		return;
	for (struct verbs_conn *conn = v->conns; conn; conn = conn->next) {
		if (conn->state != VERBS_OPEN || conn->failed || !conn->silent)
			continue;
		if (!--conn->silent) {
			verbs_nudge(conn);
			if (++conn->nudges < VERBS_NUDGES)
				conn->silent = (uint8_t)(VERBS_SILENT << conn->nudges);
		}
		again |= conn->silent != 0;
	}
	if (again)
		verbs_tick_soon(v);
}

/* ---- poll and sleep ------------------------------------------------------------------------ */

static int due(struct verbs_watch *w)
{
	int was = w->due;

	w->due = 0;
	return was;
}

/* Of the descriptors that have something, all but that of completions. */
static __attribute__((noinline)) int serve_noted(struct verbs *v)
{
	int n = 0;

	v->noted = 0;
	if (due(&v->event_watch) | due(&v->resolver_watch))
		n += verbs_cm_poll(v);
	if (due(&v->async_watch))
		n += take_async(v);
	if (due(&v->tick_watch))
		tick(v);
	if (due(&v->prove_watch))
		verbs_prove_late(v);
	if (due(&v->return_watch) | due(&v->uevent_watch))
		verbs_look(v);
	if (v->lost)
		device_gone(v);
	if (v->gone && v->context)
		verbs_leave(v);
	return n;
}

static int poll_all(struct gvm_rma *rma)
{
	struct verbs *v = verbs_of(rma);
	int n = v->early_count || v->late ? verbs_tell(v) : 0;

	if (v->noted && due(&v->completion_watch))
		take_channel(v);
	if (v->stash_count)
		n += serve_stash(v);
	for (struct verbs_lane *lane = v->lanes; lane; lane = lane->next)
		n += poll_lane(v, lane, 2 * VERBS_BATCH);
	if (v->noted)
		n += serve_noted(v);
	if (__atomic_load_n(&v->inbox_due, __ATOMIC_ACQUIRE))
		n += verbs_take_inbox(v);
	if (__atomic_load_n(&v->dials_due, __ATOMIC_ACQUIRE))
		n += verbs_take_dials(v);
	if (v->asking)
		verbs_admit(v);
	if (v->waiting)
		verbs_connect_waiting(v);
	verbs_ring(rma); /* the buffers of the cells that were served */
	return n;
}

/* A queue that is armed tells of the next completion; what came before must be looked for. */
static int arm(struct gvm_rma *rma)
{
	struct verbs *v = verbs_of(rma);

	if ((v->waiting && v->connecting < VERBS_CONNECTING) || v->early_count || v->late ||
	    v->stash_count || v->completion_watch.due || v->event_watch.due ||
	    v->resolver_watch.due || v->async_watch.due || v->tick_watch.due ||
	    v->return_watch.due || v->uevent_watch.due || v->prove_watch.due ||
	    (v->asking && verbs_may_admit(v)) || __atomic_load_n(&v->inbox_due, __ATOMIC_ACQUIRE) ||
	    __atomic_load_n(&v->dials_due, __ATOMIC_ACQUIRE))
		return 1;
	for (struct verbs_lane *lane = v->lanes; lane; lane = lane->next) {
		if (!lane->armed && !ibv_req_notify_cq(lane->cq, 0)) {
			lane->armed = 1;
			v->armed++;
		}
		verbs_stash_lane(v, lane);
		if (v->stash_count)
			return 1;
	}
	return 0;
}

/* ---- open and close ------------------------------------------------------------------------ */

static void note(struct gvm_watch *watch, uint32_t events)
{
	struct verbs_watch *w = container_of_verbs(watch, struct verbs_watch, watch);

	w->due = 1;
	w->v->noted = 1;
}

int verbs_watch(struct verbs *v, struct verbs_watch *w, int fd)
{
	int flags = fcntl(fd, F_GETFL), err;

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		return -errno;
	w->v = v;
	w->watch.fd = fd;
	w->watch.ready = note;
	err = v->rma.up->watch(v->rma.host, &w->watch, EPOLLIN);
	if (err)
		w->watch.fd = -1;
	return err;
}

/* What is there whether the device is or not. */
static int open_lasting(struct verbs *v)
{
	int fd, err;

	v->events = rdma_create_event_channel();
	if (!v->events)
		return -errno;
	err = verbs_watch(v, &v->event_watch, v->events->fd);
	if (!err)
		err = gvm_resolver_open(&v->resolver, &fd);
	if (!err)
		err = verbs_watch(v, &v->resolver_watch, fd);
	if (!err)
		err = verbs_prove_open(v);
	return err ? err : verbs_return_open(v);
}

static int watch_device(struct verbs *v)
{
	int err = verbs_watch(v, &v->completion_watch, v->channel->fd);

	if (!err)
		err = verbs_watch(v, &v->async_watch, v->context->async_fd);
	if (err || !v->siw)
		return err;
	v->tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	return v->tick_fd < 0 ? -errno : verbs_watch(v, &v->tick_watch, v->tick_fd);
}

static void prepare_requests(struct verbs *v)
{
	v->tells_last = VERBS_LAST_TRIES;
	v->gathered_next = v->gathered;
	for (unsigned i = 0; i < VERBS_GATHER; i++) {
		v->gathered[i].wr.sg_list = &v->gathered[i].sge;
		v->gathered[i].wr.num_sge = 1;
	}
	while (v->copy_count < VERBS_COPIES) {
		v->copy_free[v->copy_count] = (uint16_t)v->copy_count;
		v->copy_count++;
	}
}

int verbs_make(struct verbs *v)
{
	v->pd = ibv_alloc_pd(v->context);
	if (!v->pd)
		return verbs_told_limit(v, errno, 0);
	v->channel = ibv_create_comp_channel(v->context);
	if (!v->channel)
		return -errno;
	v->copies = verbs_pin(v, VERBS_COPIES * GVM_RMA_CELL, 0, &v->copies_mr);
	if (!v->copies)
		return -ENOMEM;
	if (v->iwarp)
		v->proof = verbs_pin(
		    v, VERBS_PROOF, IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE, &v->proof_mr);
	if (v->iwarp && !v->proof)
		return -ENOMEM;
	prepare_requests(v);
	v->lanes = lane_new(v, VERBS_LANE);
	return v->lanes ? watch_device(v) : -ENOMEM;
}

static void forget_news(struct verbs *v)
{
	struct verbs_news *news;

	while ((news = v->news)) {
		v->news = news->next;
		free(news);
	}
	v->news_end = &v->news;
	v->lost = 0;
}

void verbs_unmake(struct verbs *v)
{
	struct verbs_lane *lane;

	verbs_unwatch(v, &v->completion_watch);
	verbs_unwatch(v, &v->async_watch);
	verbs_unwatch(v, &v->tick_watch);
	if (v->tick_fd >= 0)
		close(v->tick_fd);
	v->tick_fd = -1;
	while ((lane = v->lanes)) {
		v->lanes = lane->next;
		lane_free(lane);
	}
	v->armed = 0;
	v->shared_due = v->reused = 0;
	v->stash_count = 0; /* of connections that are no more */
	verbs_bufs_close(v);
	forget_news(v);
	verbs_unpin(v->copies, VERBS_COPIES * GVM_RMA_CELL, v->copies_mr);
	verbs_unpin(v->proof, VERBS_PROOF, v->proof_mr);
	v->copies = v->proof = NULL;
	if (v->channel)
		ibv_destroy_comp_channel(v->channel);
	v->channel = NULL;
	if (v->pd)
		ibv_dealloc_pd(v->pd);
	v->pd = NULL;
	if (v->context)
		ibv_close_device(v->context);
	v->context = NULL;
}

static void close_all(struct gvm_rma *rma)
{
	struct verbs *v = verbs_of(rma);

	verbs_return_close(v);
	verbs_prove_close(v);
	verbs_unwatch(v, &v->event_watch);
	verbs_unwatch(v, &v->resolver_watch);
	if (v->resolver)
		gvm_resolver_close(v->resolver);
	verbs_unmake(v);
	if (v->events)
		rdma_destroy_event_channel(v->events);
	free(v->slots);
	free(v->generations);
	free(v->stash);
	free(v->qps.slot);
}

static int open_all(struct gvm_rma *rma, const char *args)
{
	struct verbs *v = verbs_of(rma);
	int err;

	v->completion_watch.watch.fd = v->event_watch.watch.fd = -1;
	v->async_watch.watch.fd = v->resolver_watch.watch.fd = v->tick_watch.watch.fd = -1;
	v->return_watch.watch.fd = v->uevent_watch.watch.fd = v->prove_watch.watch.fd = -1;
	v->tick_fd = v->return_fd = v->uevent_fd = v->prove_fd = -1;
	v->news_end = &v->news;
	err = verbs_device_open(v, args); /* which says why not */
	if (err)
		goto close;
	err = open_lasting(v);
	if (!err)
		err = verbs_make(v);
	if (!err)
		return 0;
	gvm_log(verbs_level(v, GVM_LOG_ERROR), "the verbs provider cannot use %s: %s", v->device,
		strerror(-err));
close:
	close_all(rma);
	return err;
}

/* What lingers has a little time to be sent, then all is taken back. */
static void stop(struct gvm_rma *rma)
{
	struct verbs *v = verbs_of(rma);
	uint64_t now = gvm_now(), end = now + LINGER_MS * 1000000ull;
	struct pollfd p = { .fd = v->channel ? v->channel->fd : -1, .events = POLLIN };

	verbs_drain(v);
	while (v->lingering && !v->gone && now < end) {
		if (!arm(rma) && poll(&p, 1, (int)((end - now + 999999) / 1000000)) > 0)
			take_channel(v);
		verbs_drain(v);
		now = gvm_now();
	}
	while (v->conns)
		verbs_conn_free(v->conns);
}

const struct gvm_rma_fabric verbs_fabric = { .name = "verbs",
					     .what = "RDMA over InfiniBand, RoCE and iWARP",
					     .prov_size = sizeof(struct verbs),
					     .ep_size = sizeof(struct verbs_ep),
					     .work_size = sizeof(struct gvm_rma_work),
					     .takes_back = 1,
					     .probe = verbs_probe,
					     .open = open_all,
					     .stop = stop,
					     .close = close_all,
					     .listen = verbs_listen,
					     .unlisten = verbs_unlisten,
					     .connect = verbs_connect,
					     .receives = verbs_receives,
					     .allow = verbs_allow,
					     .disconnect = verbs_disconnect,
					     .post = verbs_post,
					     .ring = verbs_ring,
					     .poll = poll_all,
					     .arm = arm,
					     .reg = reg,
					     .dereg = dereg };
