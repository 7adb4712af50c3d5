/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An RDMA device that is none: what the verbs provider calls of libibverbs and librdmacm, within
 * one process and between its threads. Whatever is posted is done at once, in the posting thread.
 * It stands in for hardware where that is not the point: where instructions are counted (bench/
 * instructions), and where the conformance suite is to meet the provider's own code on any machine.
 *
 * It checks what hardware checks: keys, ranges and rights of remote memory, local keys, that there
 * is a receive buffer, that a queue pair is connected. What fails is a completion in error, and the
 * receive buffers of that queue pair are flushed. It is never late, loses nothing, and has no path
 * that breaks, but for what a test does to it (stub_rdma.h).
 *
 * Every address of loopback is the device's, and ports alone tell listeners apart. One lock, which
 * on the way of a fetch is a flag, so that no function of libc's is counted as the device's.
 */
#include "stub_rdma.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MR_MAX  (1u << 20)
#define QP_MAX  (1u << 16)
#define PRIVATE 64u

struct stub_device stub = { .devices = 1,
			    .ports = 1,
			    .transport = IBV_TRANSPORT_IB,
			    .max_qp_wr = 4096,
			    .max_cqe = 1 << 22,
			    .max_rd_atom = 16,
			    .port_state = IBV_PORT_ACTIVE,
			    .pin_max = SIZE_MAX };

/* ---- one lock ------------------------------------------------------------------------------ */

static int stub_lock;

static void lock(void)
{
	while (__atomic_exchange_n(&stub_lock, 1, __ATOMIC_ACQUIRE))
		sched_yield();
}

static void unlock(void)
{
	__atomic_store_n(&stub_lock, 0, __ATOMIC_RELEASE);
}

static void copy(void *to, const void *from, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void ring_fd(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		abort();
}

static void quiet_fd(int fd)
{
	uint64_t n;

	if (read(fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		abort();
}

/* ---- objects ------------------------------------------------------------------------------- */

struct stub_mr {
	struct ibv_mr mr; /* first */
	int access;
};

struct stub_cq {
	struct ibv_cq cq; /* first */
	struct ibv_wc *wc;
	unsigned head, tail, room; /* a power of two */
	int armed, fired;
	struct stub_cq *next; /* of those that have fired */
};

struct stub_channel {
	struct ibv_comp_channel channel; /* first */
	struct stub_cq *fired;
};

struct stub_recv {
	uint64_t id;
	void *at;
	uint32_t len;
};

struct stub_qp {
	struct ibv_qp qp; /* first */
	struct stub_qp *peer;
	struct stub_recv *recv;
	unsigned head, tail, room;
	int broken;
};

static struct stub_mr *mrs[MR_MAX]; /* by key; NULL: none */
static struct stub_qp *qps[QP_MAX];
static uint32_t next_key, next_qp;

/* ---- the device ---------------------------------------------------------------------------- */

#define DEVICE(n)                                                                                  \
	{                                                                                          \
		.node_type = IBV_NODE_CA, .transport_type = IBV_TRANSPORT_IB, .name = n,           \
		.dev_name = n                                                                      \
	}
static struct ibv_device devices[2] = { DEVICE("stub0"), DEVICE("stub1") };

struct stub_async {
	struct ibv_async_event event;
	struct stub_async *next;
};

struct stub_context {
	struct ibv_context context; /* first */
	struct stub_async *first, **end;
	struct stub_context *next; /* of those that are open */
};
static struct stub_context *contexts;

struct stub_qp;
static void break_qp(struct stub_qp *qp);
static int stub_poll_cq(struct ibv_cq *cq, int n, struct ibv_wc *wc);
static int stub_notify(struct ibv_cq *cq, int solicited);
static int stub_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad);
static int stub_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad);

struct ibv_device **ibv_get_device_list(int *n)
{
	struct ibv_device **list = calloc(3, sizeof(struct ibv_device *));
	int i;

	for (i = 0; list && i < stub.devices; i++) {
		list[i] = &devices[i];
		if (list[i]->transport_type != (enum ibv_transport_type)stub.transport)
			list[i]->transport_type = (enum ibv_transport_type)stub.transport;
	}
	if (n)
		*n = i;
	return list;
}

void ibv_free_device_list(struct ibv_device **list)
{
	free(list);
}

const char *ibv_get_device_name(struct ibv_device *dev)
{
	return dev->name;
}

/* What rdma_cm has opened, and the model of what a program opens: never written after the start. */
#define MANAGER(i)                                                                                 \
	{                                                                                          \
		.device = &devices[i],                                                             \
		.ops = { .poll_cq = stub_poll_cq,                                                  \
			 .req_notify_cq = stub_notify,                                             \
			 .post_send = stub_post_send,                                              \
			 .post_recv = stub_post_recv },                                            \
		.async_fd = -1                                                                     \
	}
static const struct ibv_context manager[2] = { MANAGER(0), MANAGER(1) };

struct ibv_context *ibv_open_device(struct ibv_device *dev)
{
	struct stub_context *c = stub.no_open ? NULL : calloc(1, sizeof(*c));

	errno = EACCES;
	if (!c)
		return NULL;
	c->end = &c->first;
	c->context.device = dev;
	c->context.ops = manager[0].ops;
	c->context.async_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	lock();
	c->next = contexts;
	contexts = c;
	unlock();
	return &c->context;
}

int ibv_close_device(struct ibv_context *context)
{
	struct stub_context *c = (struct stub_context *)context, **at;
	struct stub_async *e;

	lock();
	for (at = &contexts; *at != c; at = &(*at)->next)
		;
	*at = c->next;
	unlock();
	close(context->async_fd);
	while ((e = c->first)) {
		c->first = e->next;
		free(e);
	}
	free(c);
	return 0;
}

int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
	*attr = (struct ibv_device_attr){ .max_qp = QP_MAX,
					  .max_qp_wr = stub.max_qp_wr,
					  .max_cqe = stub.max_cqe,
					  .max_mr = MR_MAX,
					  .max_qp_rd_atom = stub.max_rd_atom,
					  .max_qp_init_rd_atom = stub.max_rd_atom,
					  .phys_port_cnt = (uint8_t)stub.ports };
	return 0;
}

#undef ibv_query_port
int ibv_query_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *compat)
{
	struct ibv_port_attr *attr = (void *)compat; /* which begins as the other does */

	attr->state = (enum ibv_port_state)stub.port_state;
	attr->max_mtu = attr->active_mtu = IBV_MTU_4096;
	return port >= 1 && port <= stub.ports ? 0 : EINVAL;
}

/* ::ffff:127.0.0.1 */
static const union ibv_gid own_gid = { .raw = { [10] = 0xFF, 0xFF, 127, 0, 0, 1 } };

int ibv_query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid)
{
	*gid = own_gid;
	return port == 1 && index == 0 ? 0 : -1;
}

ssize_t _ibv_query_gid_table(struct ibv_context *context, struct ibv_gid_entry *entries, size_t max,
			     uint32_t flags, size_t size)
{
	*entries = (struct ibv_gid_entry){ .gid = own_gid,
					   .port_num = 1,
					   .gid_type = IBV_GID_TYPE_ROCE_V2 };
	return 1;
}

enum ibv_fork_status ibv_is_fork_initialized(void)
{
	return IBV_FORK_UNNEEDED;
}

int ibv_fork_init(void)
{
	return 0;
}

const char *ibv_node_type_str(enum ibv_node_type type)
{
	return "stub";
}

const char *ibv_port_state_str(enum ibv_port_state state)
{
	return state == IBV_PORT_ACTIVE ? "active" : "down";
}

const char *ibv_wc_status_str(enum ibv_wc_status status)
{
	return status ? "failed" : "success";
}

int ibv_get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
	struct stub_context *c = (struct stub_context *)context;
	struct stub_async *e;

	lock();
	e = c->first;
	if (e) {
		c->first = e->next;
		if (!c->first)
			c->end = &c->first;
		*event = e->event;
	} else if (!stub.removed) {
		/* of one that was removed the descriptor stays readable */
		quiet_fd(context->async_fd);
	}
	unlock();
	errno = stub.removed ? EIO : EAGAIN;
	free(e);
	return e ? 0 : -1;
}

static void tell_context(struct stub_context *c, struct ibv_async_event event)
{
	struct stub_async *e = calloc(1, sizeof(*e));

	if (!e)
		abort();
	e->event = event;
	*c->end = e;
	c->end = &e->next;
	ring_fd(c->context.async_fd);
}

void stub_async(struct ibv_context *context, struct ibv_async_event event)
{
	lock();
	tell_context((struct stub_context *)context, event);
	unlock();
}

void stub_fail_all(void)
{
	struct ibv_async_event event = { .event_type = IBV_EVENT_DEVICE_FATAL };

	lock();
	for (struct stub_context *c = contexts; c; c = c->next)
		tell_context(c, event);
	unlock();
}

void ibv_ack_async_event(struct ibv_async_event *event)
{
}

/* ---- memory -------------------------------------------------------------------------------- */

struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
	struct ibv_pd *pd = calloc(1, sizeof(*pd));

	if (pd)
		pd->context = context;
	return pd;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	free(pd);
	return 0;
}

#undef ibv_reg_mr
struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *at, size_t len, int access)
{
	struct stub_mr *mr = len > stub.pin_max ? NULL : calloc(1, sizeof(*mr));
	uint32_t key;

	errno = ENOMEM;
	if (!mr)
		return NULL;
	lock();
	do
		key = ++next_key % MR_MAX;
	while (!key || mrs[key]);
	mr->access = access;
	mr->mr = (struct ibv_mr){ .context = pd->context,
				  .pd = pd,
				  .addr = at,
				  .length = len,
				  .lkey = key,
				  .rkey = key };
	mrs[key] = mr;
	unlock();
	return &mr->mr;
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	lock();
	mrs[mr->lkey] = NULL;
	unlock();
	free(mr);
	return 0;
}

static int may(const struct ibv_pd *pd, uint32_t key, uint64_t at, size_t len, int access)
{
	const struct stub_mr *mr = key < MR_MAX ? mrs[key] : NULL;
	uint64_t offset = mr ? at - (uintptr_t)mr->mr.addr : 0;

	return mr && mr->mr.pd == pd && (mr->access & access) == access &&
	       offset <= mr->mr.length && len <= mr->mr.length - offset;
}

/* ---- completions --------------------------------------------------------------------------- */

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
	struct stub_channel *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->channel.context = context;
	c->channel.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return &c->channel;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
	close(channel->fd);
	free(channel);
	return 0;
}

struct ibv_cq *ibv_create_cq(struct ibv_context *context, int entries, void *user,
			     struct ibv_comp_channel *channel, int vector)
{
	struct stub_cq *cq = calloc(1, sizeof(*cq));

	if (!cq)
		return NULL;
	for (cq->room = 64; cq->room < (unsigned)entries;)
		cq->room *= 2;
	cq->wc = calloc(cq->room, sizeof(*cq->wc));
	if (!cq->wc) {
		free(cq);
		return NULL;
	}
	cq->cq.context = context;
	cq->cq.channel = channel;
	cq->cq.cq_context = user;
	cq->cq.cqe = (int)cq->room;
	return &cq->cq;
}

int ibv_destroy_cq(struct ibv_cq *cq)
{
	struct stub_cq *s = (struct stub_cq *)cq, **at;

	lock();
	at = cq->channel ? &((struct stub_channel *)cq->channel)->fired : NULL;
	while (at && *at && *at != s)
		at = &(*at)->next;
	if (at && *at)
		*at = s->next;
	unlock();
	free(s->wc);
	free(s);
	return 0;
}

static void push(struct ibv_cq *cq, const struct ibv_wc *wc)
{
	struct stub_cq *s = (struct stub_cq *)cq;
	struct stub_channel *channel = (struct stub_channel *)cq->channel;

	if (s->head - s->tail == s->room)
		abort(); /* the provider has promised that this cannot be */
	s->wc[s->head++ & (s->room - 1)] = *wc;
	if (!s->armed)
		return;
	s->armed = 0;
	if (!s->fired) {
		s->fired = 1;
		s->next = channel->fired;
		channel->fired = s;
	}
	ring_fd(channel->channel.fd);
}

static int stub_poll_cq(struct ibv_cq *cq, int most, struct ibv_wc *wc)
{
	struct stub_cq *s = (struct stub_cq *)cq;
	int n = 0;

	lock();
	while (n < most && s->tail != s->head)
		wc[n++] = s->wc[s->tail++ & (s->room - 1)];
	unlock();
	return n;
}

static int stub_notify(struct ibv_cq *cq, int solicited)
{
	lock();
	((struct stub_cq *)cq)->armed = 1;
	unlock();
	return 0;
}

void stub_complete(struct ibv_cq *cq, struct ibv_wc wc)
{
	lock();
	push(cq, &wc);
	unlock();
}

int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **context)
{
	struct stub_channel *c = (struct stub_channel *)channel;
	struct stub_cq *s;

	lock();
	s = c->fired;
	if (s) {
		c->fired = s->next;
		s->fired = 0;
		*cq = &s->cq;
		*context = s->cq.cq_context;
	} else {
		quiet_fd(channel->fd);
	}
	unlock();
	errno = EAGAIN;
	return s ? 0 : -1;
}

void ibv_ack_cq_events(struct ibv_cq *cq, unsigned n)
{
}

/* ---- queue pairs --------------------------------------------------------------------------- */

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
	struct stub_qp *qp = calloc(1, sizeof(*qp));
	uint32_t number;

	if (!qp)
		return NULL;
	for (qp->room = 2; qp->room < init->cap.max_recv_wr;)
		qp->room *= 2;
	qp->recv = calloc(qp->room, sizeof(*qp->recv));
	if (!qp->recv) {
		free(qp);
		return NULL;
	}
	lock();
	do
		number = ++next_qp % QP_MAX;
	while (!number || qps[number]);
	qps[number] = qp;
	unlock();
	qp->qp.context = pd->context;
	qp->qp.pd = pd;
	qp->qp.qp_context = init->qp_context;
	qp->qp.send_cq = init->send_cq;
	qp->qp.recv_cq = init->recv_cq;
	qp->qp.qp_num = number;
	return &qp->qp;
}

/* Into its error state, which gives the receive buffers back. With the lock held. */
static void break_qp(struct stub_qp *qp)
{
	qp->broken = 1;
	for (; qp->tail != qp->head; qp->tail++) {
		struct ibv_wc wc = { .wr_id = qp->recv[qp->tail & (qp->room - 1)].id,
				     .status = IBV_WC_WR_FLUSH_ERR,
				     .qp_num = qp->qp.qp_num };

		push(qp->qp.recv_cq, &wc);
	}
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	lock();
	if (attr->qp_state == IBV_QPS_ERR)
		break_qp((struct stub_qp *)qp);
	unlock();
	return 0;
}

int ibv_destroy_qp(struct ibv_qp *qp)
{
	struct stub_qp *s = (struct stub_qp *)qp;

	lock();
	if (s->peer)
		s->peer->peer = NULL;
	qps[qp->qp_num] = NULL;
	unlock();
	free(s->recv);
	free(s);
	return 0;
}

static int stub_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	struct stub_qp *s = (struct stub_qp *)qp;

	lock();
	for (; wr && s->head - s->tail < s->room; wr = wr->next)
		s->recv[s->head++ & (s->room - 1)] =
		    (struct stub_recv){ wr->wr_id, (void *)(uintptr_t)wr->sg_list->addr,
					wr->sg_list->length };
	unlock();
	*bad = wr;
	return wr ? ENOMEM : 0;
}

static enum ibv_wc_status send_to(struct stub_qp *to, const struct ibv_sge *sge)
{
	struct stub_recv *r = &to->recv[to->tail & (to->room - 1)];
	struct ibv_wc wc = { .opcode = IBV_WC_RECV,
			     .byte_len = sge->length,
			     .qp_num = to->qp.qp_num };

	if (to->tail == to->head)
		return IBV_WC_RNR_RETRY_EXC_ERR;
	if (sge->length > r->len)
		return IBV_WC_REM_INV_REQ_ERR;
	copy(r->at, (void *)(uintptr_t)sge->addr, sge->length);
	wc.wr_id = r->id;
	to->tail++;
	push(to->qp.recv_cq, &wc);
	return IBV_WC_SUCCESS;
}

static enum ibv_wc_status carry_out(struct stub_qp *qp, const struct ibv_send_wr *wr)
{
	const struct ibv_sge *sge = wr->sg_list;
	struct stub_qp *to = qp->peer;
	int read = wr->opcode == IBV_WR_RDMA_READ;
	void *near = (void *)(uintptr_t)sge->addr, *far = (void *)wr->wr.rdma.remote_addr;
	enum ibv_wc_status status;

	if (stub.fail) {
		status = (enum ibv_wc_status)stub.fail;
		stub.fail = 0;
		return status;
	}
	if (!to || to->broken)
		return IBV_WC_RETRY_EXC_ERR;
	if (!(wr->send_flags & IBV_SEND_INLINE) &&
	    !may(qp->qp.pd, sge->lkey, sge->addr, sge->length, read ? IBV_ACCESS_LOCAL_WRITE : 0))
		return IBV_WC_LOC_PROT_ERR;
	if (wr->opcode == IBV_WR_SEND)
		return send_to(to, sge);
	if (!may(to->qp.pd, wr->wr.rdma.rkey, wr->wr.rdma.remote_addr, sge->length,
		 read ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_WRITE)) {
		break_qp(to);
		return IBV_WC_REM_ACCESS_ERR;
	}
	copy(read ? near : far, read ? far : near, sge->length);
	return IBV_WC_SUCCESS;
}

static int stub_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	struct stub_qp *s = (struct stub_qp *)qp;

	lock();
	for (; wr; wr = wr->next) {
		struct ibv_wc wc = { .wr_id = wr->wr_id, .qp_num = qp->qp_num };

		wc.status = s->broken ? IBV_WC_WR_FLUSH_ERR : carry_out(s, wr);
		if (wc.status != IBV_WC_SUCCESS || (wr->send_flags & IBV_SEND_SIGNALED))
			push(qp->send_cq, &wc);
		if (wc.status != IBV_WC_SUCCESS && !s->broken)
			break_qp(s);
	}
	unlock();
	*bad = NULL;
	return 0;
}

/* ---- the connection manager ---------------------------------------------------------------- */

struct stub_event {
	struct rdma_cm_event event; /* first */
	struct stub_event *next;
	uint8_t data[PRIVATE];
};

struct stub_events {
	struct rdma_event_channel channel; /* first */
	struct stub_event *first, **end;
};

struct stub_id {
	struct rdma_cm_id id; /* first */
	struct stub_id *peer; /* the other side's, once it is asked for */
	struct stub_id *next; /* of those that listen */
	uint32_t qp_num;
};

static struct stub_id *listeners;
static unsigned next_port = 20000;

static uint16_t *port_of(struct sockaddr *sa)
{
	return sa->sa_family == AF_INET6 ? &((struct sockaddr_in6 *)(void *)sa)->sin6_port
					 : &((struct sockaddr_in *)(void *)sa)->sin_port;
}

static size_t len_of(const struct sockaddr *sa)
{
	return sa->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

struct rdma_event_channel *rdma_create_event_channel(void)
{
	struct stub_events *c = stub.no_manager ? NULL : calloc(1, sizeof(*c));

	errno = ENOENT;
	if (!c)
		return NULL;
	c->end = &c->first;
	c->channel.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return &c->channel;
}

void rdma_destroy_event_channel(struct rdma_event_channel *channel)
{
	close(channel->fd);
	free(channel);
}

static void tell_all(struct stub_id *id, enum rdma_cm_event_type type, int status,
		     const struct rdma_conn_param *param, struct stub_id *child)
{
	struct stub_events *c = (struct stub_events *)id->id.channel;
	struct stub_event *e = calloc(1, sizeof(*e));

	if (!e)
		abort();
	e->event.id = child ? &child->id : &id->id;
	e->event.listen_id = child ? &id->id : NULL;
	e->event.event = type;
	e->event.status = status;
	if (param) {
		e->event.param.conn = *param;
		if (param->private_data_len)
			memcpy(e->data, param->private_data, param->private_data_len);
		e->event.param.conn.private_data = e->data;
	}
	*c->end = e;
	c->end = &e->next;
	ring_fd(c->channel.fd);
}

static void tell(struct stub_id *id, enum rdma_cm_event_type type, int status,
		 const struct rdma_conn_param *param, struct stub_id *child)
{
	if (!(stub.mute >> type & 1))
		tell_all(id, type, status, param, child);
}

void stub_cm(struct rdma_cm_id *id, enum rdma_cm_event_type type, int status)
{
	static const uint8_t none[1];
	struct rdma_conn_param param = { .private_data = none };

	lock();
	tell_all((struct stub_id *)id, type, status, &param, NULL);
	unlock();
}

int rdma_get_cm_event(struct rdma_event_channel *channel, struct rdma_cm_event **event)
{
	struct stub_events *c = (struct stub_events *)channel;
	struct stub_event *e;

	lock();
	e = c->first;
	if (e) {
		c->first = e->next;
		if (!c->first)
			c->end = &c->first;
		*event = &e->event;
	} else {
		quiet_fd(channel->fd);
	}
	unlock();
	errno = EAGAIN;
	return e ? 0 : -1;
}

int rdma_ack_cm_event(struct rdma_cm_event *event)
{
	free(event);
	return 0;
}

/* One whose connection was asked for, and whom nobody knows yet, is refused. */
static void drop_event(struct stub_event *e)
{
	struct stub_id *child = e->event.listen_id ? (struct stub_id *)e->event.id : NULL;

	if (child && child->peer) {
		child->peer->peer = NULL;
		tell(child->peer, RDMA_CM_EVENT_REJECTED, 0, NULL, NULL);
	}
	free(child);
	free(e);
}

/* Those about id are told at another channel, or no more. */
static void move_events(struct stub_id *id, struct stub_events *to)
{
	struct stub_events *c = (struct stub_events *)id->id.channel;
	struct stub_event **at = &c->first, *mine = NULL, **mine_end = &mine, *e;

	while ((e = *at)) {
		if (e->event.id != &id->id && e->event.listen_id != &id->id) {
			at = &e->next;
			continue;
		}
		*at = e->next;
		e->next = NULL;
		*mine_end = e;
		mine_end = &e->next;
	}
	c->end = at;
	while ((e = mine)) {
		mine = e->next;
		e->next = NULL;
		if (!to) {
			drop_event(e);
			continue;
		}
		*to->end = e;
		to->end = &e->next;
		ring_fd(to->channel.fd);
	}
}

int rdma_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **id, void *context,
		   enum rdma_port_space ps)
{
	struct stub_id *s = calloc(1, sizeof(*s));

	if (!s)
		return -1;
	s->id.channel = channel;
	s->id.context = context;
	s->id.ps = ps;
	*id = &s->id;
	return 0;
}

int rdma_destroy_id(struct rdma_cm_id *id)
{
	struct stub_id *s = (struct stub_id *)id, **at;

	lock();
	for (at = &listeners; *at && *at != s;)
		at = &(*at)->next;
	if (*at)
		*at = s->next;
	move_events(s, NULL);
	if (s->peer) {
		s->peer->peer = NULL;
		tell(s->peer, RDMA_CM_EVENT_DISCONNECTED, 0, NULL, NULL);
	}
	unlock();
	free(s);
	return 0;
}

int rdma_migrate_id(struct rdma_cm_id *id, struct rdma_event_channel *channel)
{
	struct stub_id *s = (struct stub_id *)id;

	lock();
	move_events(s, (struct stub_events *)channel);
	id->channel = channel;
	unlock();
	return 0;
}

static int is_wildcard(const struct sockaddr *sa)
{
	const struct sockaddr_in6 *in6 = (const void *)sa;
	const struct sockaddr_in *in = (const void *)sa;

	return sa->sa_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr)
					 : in->sin_addr.s_addr == htonl(INADDR_ANY);
}

static int is_elsewhere(const struct sockaddr *sa)
{
	const struct sockaddr_in *in = (const void *)sa;

	return sa->sa_family == AF_INET && !is_wildcard(sa) &&
	       ntohl(in->sin_addr.s_addr) >> 24 != 127;
}

static void on_device(struct stub_id *id)
{
	id->id.verbs = (struct ibv_context *)&manager[stub.way];
	id->id.port_num = 1;
}

int rdma_bind_addr(struct rdma_cm_id *id, struct sockaddr *sa)
{
	struct sockaddr *own = &id->route.addr.src_addr;
	int taken = 0;

	errno = EADDRNOTAVAIL;
	if (is_elsewhere(sa))
		return -1;
	memcpy(own, sa, len_of(sa));
	if (!is_wildcard(sa))
		on_device((struct stub_id *)id);
	lock();
	if (!*port_of(own))
		*port_of(own) = htons((uint16_t)(next_port = next_port % 30000 + 20000 + 1));
	for (struct stub_id *l = listeners; l; l = l->next)
		taken |= l->id.route.addr.src_addr.sa_family == own->sa_family &&
			 *port_of(&l->id.route.addr.src_addr) == *port_of(own);
	unlock();
	errno = EADDRINUSE;
	return taken ? -1 : 0;
}

int rdma_listen(struct rdma_cm_id *id, int backlog)
{
	struct stub_id *s = (struct stub_id *)id;

	errno = stub.listen_errno;
	if (stub.listen_errno)
		return -1;
	lock();
	s->next = listeners;
	listeners = s;
	unlock();
	return 0;
}

uint16_t rdma_get_src_port(struct rdma_cm_id *id)
{
	return *port_of(&id->route.addr.src_addr);
}

int rdma_set_option(struct rdma_cm_id *id, int level, int name, void *value, size_t len)
{
	return 0;
}

int rdma_resolve_addr(struct rdma_cm_id *id, struct sockaddr *from, struct sockaddr *to, int ms)
{
	lock();
	memcpy(&id->route.addr.dst_addr, to, len_of(to));
	on_device((struct stub_id *)id);
	tell((struct stub_id *)id, RDMA_CM_EVENT_ADDR_RESOLVED, 0, NULL, NULL);
	unlock();
	return 0;
}

int rdma_resolve_route(struct rdma_cm_id *id, int ms)
{
	lock();
	tell((struct stub_id *)id, RDMA_CM_EVENT_ROUTE_RESOLVED, 0, NULL, NULL);
	unlock();
	return 0;
}

static struct stub_id *listener_at(uint16_t port)
{
	struct stub_id *l = listeners;

	while (l && *port_of(&l->id.route.addr.src_addr) != port)
		l = l->next;
	return l;
}

int rdma_connect(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
	struct stub_id *s = (struct stub_id *)id, *l, *child;
	struct rdma_conn_param none = { 0 };

	param = param ? param : &none;
	lock();
	s->qp_num = id->qp ? id->qp->qp_num : param->qp_num;
	l = listener_at(*port_of(&id->route.addr.dst_addr));
	child = l ? calloc(1, sizeof(*child)) : NULL;
	if (child) {
		child->id.channel = l->id.channel;
		child->id.context = l->id.context;
		memcpy(&child->id.route.addr.dst_addr, &id->route.addr.dst_addr,
		       len_of(&id->route.addr.dst_addr));
		on_device(child);
		child->peer = s;
		s->peer = child;
		tell(l, RDMA_CM_EVENT_CONNECT_REQUEST, 0, param, child);
	} else {
		tell(s, RDMA_CM_EVENT_REJECTED, 0, NULL, NULL);
	}
	unlock();
	return 0;
}

int rdma_accept(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
	struct stub_id *s = (struct stub_id *)id;
	struct stub_qp *a, *b;
	int err = -1;

	lock();
	a = qps[param->qp_num];
	b = s->peer ? qps[s->peer->qp_num] : NULL;
	if (a && b) {
		a->peer = b;
		b->peer = a;
		tell(s->peer, RDMA_CM_EVENT_CONNECT_RESPONSE, 0, param, NULL);
		err = 0;
	}
	unlock();
	errno = ECONNRESET;
	return err;
}

int rdma_establish(struct rdma_cm_id *id)
{
	struct stub_id *s = (struct stub_id *)id;

	lock();
	if (s->peer)
		tell(s->peer, RDMA_CM_EVENT_ESTABLISHED, 0, NULL, NULL);
	unlock();
	return 0;
}

/* The other side is told once. */
static int part(struct rdma_cm_id *id, enum rdma_cm_event_type type)
{
	struct stub_id *s = (struct stub_id *)id;

	lock();
	if (s->peer) {
		s->peer->peer = NULL;
		tell(s->peer, type, 0, NULL, NULL);
	}
	s->peer = NULL;
	unlock();
	return 0;
}

int rdma_reject(struct rdma_cm_id *id, const void *data, uint8_t len)
{
	return part(id, RDMA_CM_EVENT_REJECTED);
}

int rdma_disconnect(struct rdma_cm_id *id)
{
	return part(id, RDMA_CM_EVENT_DISCONNECTED);
}

int rdma_create_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
	id->qp = ibv_create_qp(pd, init);
	return id->qp ? 0 : -1;
}

void rdma_destroy_qp(struct rdma_cm_id *id)
{
	ibv_destroy_qp(id->qp);
	id->qp = NULL;
}

int rdma_init_qp_attr(struct rdma_cm_id *id, struct ibv_qp_attr *attr, int *mask)
{
	*mask = IBV_QP_STATE;
	return 0;
}

int rdma_notify(struct rdma_cm_id *id, enum ibv_event_type event)
{
	return 0;
}

const char *rdma_event_str(enum rdma_cm_event_type event)
{
	return "an event";
}
