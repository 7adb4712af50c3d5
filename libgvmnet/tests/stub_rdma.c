/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An RDMA device that is none: what the verbs provider calls of libibverbs, and with stub_cm.c of
 * librdmacm, within one process and between its threads. Whatever is posted is done at once, in the
 * posting thread. It stands in for hardware where that is not the point: where instructions are
 * counted (bench/ instructions), and where the conformance suite is to meet the provider's own code
 * on any machine.
 *
 * It checks what hardware checks: keys, ranges and rights of remote memory, local keys, that there
 * is a receive buffer, that a queue pair is connected. What fails is a completion in error, and the
 * receive buffers of that queue pair are flushed. It is never late, loses nothing, and has no path
 * that breaks, but for what a test does to it (stub_rdma.h).
 */
#include "stub_parts.h"

#include <string.h>
#include <sys/eventfd.h>

#define MR_MAX (1u << 20)
#define QP_MAX (1u << 16)

struct stub_device stub = { .devices = 1,
			    .ports = 1,
			    .transport = IBV_TRANSPORT_IB,
			    .max_qp_wr = 4096,
			    .max_cqe = 1 << 22,
			    .max_srq_wr = 1 << 15,
			    .max_rd_atom = 16,
			    .path_mtu = IBV_MTU_4096,
			    .port_state = IBV_PORT_ACTIVE,
			    .pin_max = SIZE_MAX };
struct stub_use stub_use;

int stub_lock;

static void copy(void *to, const void *from, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
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
	unsigned asked;
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

/* Receive buffers in a queue. */
struct stub_recvs {
	struct stub_recv *recv;
	unsigned head, tail, room;
};

struct stub_srq {
	struct ibv_srq srq; /* first */
	struct stub_recvs recvs;
	unsigned max; /* at a time */
};

/* A send that has found no receive buffer, and is repeated. */
struct stub_waits {
	struct stub_waits *next;
	struct ibv_wc wc;
	unsigned signaled;
	uint32_t len;
	uint8_t bytes[];
};

struct stub_qp {
	struct ibv_qp qp; /* first */
	struct stub_qp *peer;
	struct stub_recvs own, *recvs; /* own's, or those of a shared queue */
	struct stub_waits *waits, **waits_end;
	int broken;
	int access; /* what of it the other side's requests may use */
	int mtu;
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
	struct verbs_context ext; /* first; the context is its end */
	struct stub_async *first, **end;
	struct stub_context *next; /* of those that are open */
};
static struct stub_context *contexts;

static struct stub_context *to_context(struct ibv_context *context)
{
	return (struct stub_context *)((char *)context - offsetof(struct verbs_context, context));
}

struct stub_qp;
static void break_qp(struct stub_qp *qp);
static int stub_poll_cq(struct ibv_cq *cq, int n, struct ibv_wc *wc);
static int stub_notify(struct ibv_cq *cq, int solicited);
static int stub_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad);
static int stub_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad);
static int stub_post_srq(struct ibv_srq *srq, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad);

struct ibv_device **ibv_get_device_list(int *n)
{
	struct ibv_device **list = calloc(3, sizeof(struct ibv_device *));
	int i;

	for (i = 0; list && i < stub.devices && !stub.removed; i++) {
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
			 .post_recv = stub_post_recv,                                              \
			 .post_srq_recv = stub_post_srq },                                         \
		.async_fd = -1                                                                     \
	}
static const struct ibv_context manager[2] = { MANAGER(0), MANAGER(1) };

struct ibv_context *stub_manager(void)
{
	return (struct ibv_context *)&manager[stub.way];
}

static int query_device_ex(struct ibv_context *context,
			   const struct ibv_query_device_ex_input *input,
			   struct ibv_device_attr_ex *attr, size_t size)
{
	const uint32_t both = IBV_ODP_SUPPORT_READ | IBV_ODP_SUPPORT_WRITE;

	memset(attr, 0, size);
	if (stub.on_demand) {
		attr->odp_caps.general_caps = IBV_ODP_SUPPORT;
		attr->odp_caps.per_transport_caps.rc_odp_caps = both;
	}
	return ibv_query_device(context, &attr->orig_attr);
}

static int advise_mr(struct ibv_pd *pd, enum ibv_advise_mr_advice advice, uint32_t flags,
		     struct ibv_sge *sge, uint32_t count)
{
	lock();
	stub.advised += sge->length;
	unlock();
	return 0;
}

struct ibv_context *ibv_open_device(struct ibv_device *dev)
{
	struct stub_context *c = stub.no_open ? NULL : calloc(1, sizeof(*c));

	errno = EACCES;
	if (!c)
		return NULL;
	c->end = &c->first;
	c->ext.sz = sizeof(c->ext);
	c->ext.query_device_ex = query_device_ex;
	c->ext.advise_mr = advise_mr;
	c->ext.context.abi_compat = __VERBS_ABI_IS_EXTENDED;
	c->ext.context.device = dev;
	c->ext.context.ops = manager[0].ops;
	c->ext.context.async_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	lock();
	c->next = contexts;
	contexts = c;
	unlock();
	return &c->ext.context;
}

int ibv_close_device(struct ibv_context *context)
{
	struct stub_context *c = to_context(context), **at;
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

unsigned stub_open(void)
{
	unsigned n = 0;

	lock();
	for (const struct stub_context *c = contexts; c; c = c->next)
		n++;
	unlock();
	return n;
}

int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
	*attr = (struct ibv_device_attr){ .max_qp = QP_MAX,
					  .max_qp_wr = stub.max_qp_wr,
					  .max_cqe = stub.max_cqe,
					  .max_mr = MR_MAX,
					  .max_mr_size = UINT64_MAX,
					  .max_srq = stub.max_srq_wr > 0,
					  .max_srq_wr = stub.max_srq_wr,
					  .max_qp_rd_atom = stub.max_rd_atom,
					  .max_qp_init_rd_atom = stub.max_rd_atom,
					  .phys_port_cnt = (uint8_t)stub.ports,
					  .vendor_id = stub.vendor };
	return 0;
}

/* As soft-RoCE's: a long table, in which places that hold nothing are zeros. */
#define GIDS 1024

#undef ibv_query_port
int ibv_query_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *compat)
{
	struct ibv_port_attr *attr = (void *)compat; /* which begins as the other does */

	attr->state = (enum ibv_port_state)stub.port_state;
	attr->max_mtu = attr->active_mtu = IBV_MTU_4096;
	attr->link_layer = IBV_LINK_LAYER_ETHERNET;
	attr->gid_tbl_len = GIDS;
	return port >= 1 && port <= stub.ports ? 0 : EINVAL;
}

static const union ibv_gid gids[GIDS] = {
	{ .raw = { [10] = 0xFF, 0xFF, 127, 0, 0, 1 } },  /* ::ffff:127.0.0.1 */
	{ .raw = { 0xFE, 0x80, [15] = 1 } },             /* fe80::1 */
	{ .raw = { 0x20, 0x01, 0x0D, 0xB8, [15] = 1 } }, /* 2001:db8::1 */
};

int ibv_query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid)
{
	if (port != 1)
		return -1;
	memset(gid, 0, sizeof(*gid));
	if (index < GIDS)
		*gid = gids[index];
	return 0;
}

ssize_t _ibv_query_gid_table(struct ibv_context *context, struct ibv_gid_entry *entries, size_t max,
			     uint32_t flags, size_t size)
{
	*entries = (struct ibv_gid_entry){ .gid = gids[0],
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
	struct stub_context *c = to_context(context);
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
	ring_fd(c->ext.context.async_fd);
}

void stub_async(struct ibv_context *context, struct ibv_async_event event)
{
	lock();
	tell_context(to_context(context), event);
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
	int pins = !(access & IBV_ACCESS_ON_DEMAND);
	int refused = pins ? len > stub.pin_max : stub.on_demand != 1;
	struct stub_mr *mr = refused ? NULL : calloc(1, sizeof(*mr));
	uint32_t key;

	errno = ENOMEM;
	if (!mr)
		return NULL;
	lock();
	stub.regs_on_demand += !pins;
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
	stub_use.pinned += pins ? len : 0;
	unlock();
	return &mr->mr;
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *at, size_t len, uint64_t iova,
				unsigned access)
{
	return ibv_reg_mr(pd, at, len, (int)access);
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	lock();
	mrs[mr->lkey] = NULL;
	if (!(((struct stub_mr *)mr)->access & IBV_ACCESS_ON_DEMAND))
		stub_use.pinned -= mr->length;
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
	cq->asked = (unsigned)entries;
	lock();
	stub_use.cqs++;
	stub_use.cq_entries += cq->asked;
	unlock();
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
	stub_use.cqs--;
	stub_use.cq_entries -= s->asked;
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

static int recvs_open(struct stub_recvs *r, unsigned n)
{
	for (r->room = 2; r->room < n;)
		r->room *= 2;
	r->recv = calloc(r->room, sizeof(*r->recv));
	return r->recv ? 0 : -ENOMEM;
}

struct ibv_srq *ibv_create_srq(struct ibv_pd *pd, struct ibv_srq_init_attr *init)
{
	struct stub_srq *srq = stub.no_srq ? NULL : calloc(1, sizeof(*srq));

	errno = EOPNOTSUPP;
	if (!srq)
		return NULL;
	if (recvs_open(&srq->recvs, init->attr.max_wr)) {
		free(srq);
		return NULL;
	}
	srq->max = init->attr.max_wr;
	srq->srq.context = pd->context;
	srq->srq.pd = pd;
	srq->srq.srq_context = init->srq_context;
	lock();
	stub_use.srqs++;
	stub_use.srq_entries += srq->max;
	unlock();
	return &srq->srq;
}

int ibv_destroy_srq(struct ibv_srq *srq)
{
	lock();
	stub_use.srqs--;
	stub_use.srq_entries -= ((struct stub_srq *)srq)->max;
	unlock();
	free(((struct stub_srq *)srq)->recvs.recv);
	free(srq);
	return 0;
}

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
	struct stub_qp *qp = calloc(1, sizeof(*qp));
	uint32_t number;

	if (!qp)
		return NULL;
	if (recvs_open(&qp->own, init->cap.max_recv_wr)) {
		free(qp);
		return NULL;
	}
	qp->recvs = init->srq ? &((struct stub_srq *)init->srq)->recvs : &qp->own;
	qp->waits_end = &qp->waits;
	qp->qp.srq = init->srq;
	lock();
	do
		number = ++next_qp % QP_MAX;
	while (!number || qps[number]);
	qps[number] = qp;
	stub_use.qps++;
	unlock();
	qp->qp.context = pd->context;
	qp->qp.pd = pd;
	qp->qp.qp_context = init->qp_context;
	qp->qp.send_cq = init->send_cq;
	qp->qp.recv_cq = init->recv_cq;
	qp->qp.qp_num = number;
	return &qp->qp;
}

/* Into its error state, which gives the receive buffers back, but for those of a shared queue. With
 * the lock held. */
static void break_qp(struct stub_qp *qp)
{
	struct ibv_async_event last = { .event_type = IBV_EVENT_QP_LAST_WQE_REACHED,
					.element.qp = &qp->qp };
	struct stub_waits *w;

	if (qp->qp.srq && !qp->broken && !stub.no_last)
		tell_context(to_context(qp->qp.context), last);
	qp->broken = 1;
	while ((w = qp->waits)) {
		w->wc.status = IBV_WC_WR_FLUSH_ERR;
		qp->waits = w->next;
		push(qp->qp.send_cq, &w->wc);
		free(w);
	}
	qp->waits_end = &qp->waits;
	for (struct stub_recvs *r = &qp->own; r->tail != r->head; r->tail++) {
		struct ibv_wc wc = { .wr_id = r->recv[r->tail & (r->room - 1)].id,
				     .status = IBV_WC_WR_FLUSH_ERR,
				     .qp_num = qp->qp.qp_num };

		push(qp->qp.recv_cq, &wc);
	}
}

/* As libraries of devices do: completions of a queue pair that is destroyed are forgotten, and the
 * buffers of a shared queue that they were of. */
static void forget_completions(struct stub_cq *cq, uint32_t number)
{
	unsigned to = cq->tail;

	for (unsigned i = cq->tail; i != cq->head; i++)
		if (cq->wc[i & (cq->room - 1)].qp_num != number)
			cq->wc[to++ & (cq->room - 1)] = cq->wc[i & (cq->room - 1)];
	cq->head = to;
}

/* Events that nobody has heard yet are not told of what is no more. */
static void forget_events(struct ibv_qp *qp)
{
	struct stub_context *c = to_context(qp->context);
	struct stub_async **at = &c->first, *e;

	while ((e = *at)) {
		if (e->event.event_type == IBV_EVENT_QP_LAST_WQE_REACHED &&
		    e->event.element.qp == qp) {
			*at = e->next;
			free(e);
		} else {
			at = &e->next;
		}
	}
	c->end = at;
}

/* What was noted second is the last. */
static void swap_last(void)
{
	int mtu = stub.mtu[0], sl = stub.sl[0];

	stub.mtu[0] = stub.mtu[1];
	stub.sl[0] = stub.sl[1];
	stub.mtu[1] = mtu;
	stub.sl[1] = sl;
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	lock();
	if (attr->qp_state == IBV_QPS_ERR)
		break_qp((struct stub_qp *)qp);
	if (mask & IBV_QP_ACCESS_FLAGS)
		((struct stub_qp *)qp)->access = (int)attr->qp_access_flags;
	if (mask & IBV_QP_PATH_MTU) {
		((struct stub_qp *)qp)->mtu = stub.mtu[1] = (int)attr->path_mtu;
		stub.sl[1] = attr->ah_attr.sl;
		swap_last();
	}
	unlock();
	return 0;
}

int ibv_destroy_qp(struct ibv_qp *qp)
{
	struct stub_qp *s = (struct stub_qp *)qp;
	struct stub_waits *w;

	lock();
	if (s->peer)
		s->peer->peer = NULL;
	qps[qp->qp_num] = NULL;
	stub_use.qps--;
	while ((w = s->waits)) {
		s->waits = w->next;
		free(w);
	}
	if (qp->srq) {
		forget_completions((struct stub_cq *)qp->recv_cq, qp->qp_num);
		forget_events(qp);
	}
	unlock();
	free(s->own.recv);
	free(s);
	return 0;
}

static struct ibv_recv_wr *add_recvs(struct stub_recvs *r, struct ibv_recv_wr *wr, unsigned most)
{
	for (; wr && r->head - r->tail < most; wr = wr->next)
		r->recv[r->head++ & (r->room - 1)] =
		    (struct stub_recv){ wr->wr_id, (void *)(uintptr_t)wr->sg_list->addr,
					wr->sg_list->length };
	return wr;
}

static int stub_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	struct stub_qp *s = (struct stub_qp *)qp;

	lock();
	*bad = add_recvs(&s->own, wr, s->own.room);
	unlock();
	return *bad ? ENOMEM : 0;
}

static enum ibv_wc_status send_to(struct stub_qp *to, const void *from, uint32_t len)
{
	struct stub_recvs *recvs = to->recvs;
	struct stub_recv *r = &recvs->recv[recvs->tail & (recvs->room - 1)];
	struct ibv_wc wc = { .opcode = IBV_WC_RECV, .byte_len = len, .qp_num = to->qp.qp_num };

	if (recvs->tail == recvs->head)
		return IBV_WC_RNR_RETRY_EXC_ERR;
	if (len > r->len)
		return IBV_WC_REM_INV_REQ_ERR;
	copy(r->at, from, len);
	wc.wr_id = r->id;
	recvs->tail++;
	push(to->qp.recv_cq, &wc);
	return IBV_WC_SUCCESS;
}

/* It is tried again when there is a buffer. */
static void wait_for_buffer(struct stub_qp *qp, const struct ibv_send_wr *wr, struct ibv_wc wc)
{
	const struct ibv_sge *sge = wr->sg_list;
	struct stub_waits *w = malloc(sizeof(*w) + sge->length);

	if (!w)
		abort();
	w->next = NULL;
	w->wc = wc;
	w->signaled = wr->send_flags & IBV_SEND_SIGNALED;
	w->len = sge->length;
	copy(w->bytes, (void *)(uintptr_t)sge->addr, sge->length);
	*qp->waits_end = w;
	qp->waits_end = &w->next;
}

static void send_again(struct stub_qp *qp)
{
	struct stub_waits *w;

	while ((w = qp->waits) && qp->peer && !qp->peer->broken) {
		w->wc.status = send_to(qp->peer, w->bytes, w->len);
		if (w->wc.status == IBV_WC_RNR_RETRY_EXC_ERR)
			return;
		qp->waits = w->next;
		if (!qp->waits)
			qp->waits_end = &qp->waits;
		if (w->signaled)
			push(qp->qp.send_cq, &w->wc);
		free(w);
	}
}

static int stub_post_srq(struct ibv_srq *srq, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	struct stub_srq *s = (struct stub_srq *)srq;

	lock();
	*bad = add_recvs(&s->recvs, wr, s->max);
	for (unsigned i = 0; stub.rnr_waits && i < QP_MAX; i++)
		if (qps[i] && qps[i]->waits)
			send_again(qps[i]);
	unlock();
	return *bad ? ENOMEM : 0;
}

static enum ibv_wc_status carry_out(struct stub_qp *qp, const struct ibv_send_wr *wr)
{
	const struct ibv_sge *sge = wr->sg_list;
	struct stub_qp *to = qp->peer;
	int read = wr->opcode == IBV_WR_RDMA_READ;
	void *near = (void *)(uintptr_t)sge->addr, *far = (void *)wr->wr.rdma.remote_addr;
	enum ibv_wc_status status;
	int access;

	if (stub.fail) {
		status = (enum ibv_wc_status)stub.fail;
		stub.fail = 0;
		return status;
	}
	if (!to || to->broken)
		return IBV_WC_RETRY_EXC_ERR;
	if (to->mtu != qp->mtu)
		return IBV_WC_REM_INV_REQ_ERR; /* as packets have another length than is expected */
	if (!(wr->send_flags & IBV_SEND_INLINE) &&
	    !may(qp->qp.pd, sge->lkey, sge->addr, sge->length, read ? IBV_ACCESS_LOCAL_WRITE : 0))
		return IBV_WC_LOC_PROT_ERR;
	if (wr->opcode == IBV_WR_SEND)
		return send_to(to, (void *)(uintptr_t)sge->addr, sge->length);
	access = read ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_WRITE;
	if (!(to->access & access) ||
	    !may(to->qp.pd, wr->wr.rdma.rkey, wr->wr.rdma.remote_addr, sge->length, access)) {
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

		if (s->waits) {
			wait_for_buffer(s, wr, wc); /* in order; a test sends nothing else then */
			continue;
		}
		wc.status = s->broken ? IBV_WC_WR_FLUSH_ERR : carry_out(s, wr);
		if (wc.status == IBV_WC_RNR_RETRY_EXC_ERR && stub.rnr_waits) {
			wait_for_buffer(s, wr, wc);
			continue;
		}
		if (wc.status != IBV_WC_SUCCESS || (wr->send_flags & IBV_SEND_SIGNALED))
			push(qp->send_cq, &wc);
		if (wc.status != IBV_WC_SUCCESS && !s->broken)
			break_qp(s);
	}
	unlock();
	*bad = NULL;
	return 0;
}

int stub_join(uint32_t one, uint32_t other)
{
	struct stub_qp *a = qps[one], *b = qps[other];

	if (!a || !b)
		return -1;
	a->peer = b;
	b->peer = a;
	return 0;
}
