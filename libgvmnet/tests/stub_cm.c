/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The RDMA device that is none (stub_rdma.c): its connection manager, what the verbs provider calls
 * of librdmacm. Every address of loopback is the device's, and ports alone tell listeners apart.
 */
#include "stub_parts.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/eventfd.h>

#define PRIVATE 64u

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
	int asked;            /* for a connection by the other side, and has not accepted it yet */
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

/* Whoever it told of has been destroyed, and what was left to be told went along. */
void rdma_destroy_event_channel(struct rdma_event_channel *channel)
{
	if (((struct stub_events *)channel)->first)
		abort();
	close(channel->fd);
	free(channel);
}

/* librdmacm's own way to the devices: here there is none. */
struct ibv_context **rdma_get_devices(int *n)
{
	return NULL;
}

void rdma_free_devices(struct ibv_context **list)
{
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

/* Of one that is asked for a connection the kernel says no more until it has accepted, which fails
 * where the other side is gone (ucma_event_handler()). */
static void tell(struct stub_id *id, enum rdma_cm_event_type type, int status,
		 const struct rdma_conn_param *param, struct stub_id *child)
{
	if (!id->asked && !(stub.mute >> type & 1))
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

/* Those about id are told at another channel, or no more. Who asks is of the channel that tells. */
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
		e->event.id->channel = &to->channel;
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

	errno = EIO;
	if (stub.no_migrate)
		return -1;
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
	id->id.verbs = stub_manager();
	id->id.port_num = 1;
}

int rdma_bind_addr(struct rdma_cm_id *id, struct sockaddr *sa)
{
	struct sockaddr *own = &id->route.addr.src_addr;
	int taken = 0;

	errno = EADDRNOTAVAIL;
	if (is_elsewhere(sa) || stub.removed)
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
	lock();
	if (level == RDMA_OPTION_ID && name == RDMA_OPTION_ID_TOS && len == 1) {
		stub.tos = *(uint8_t *)value;
		stub.tos_set++;
	}
	unlock();
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

void stub_unlisten(unsigned port)
{
	struct stub_id *l, **at;

	lock();
	l = listener_at(htons((uint16_t)port));
	for (at = &listeners; l && *at != l; at = &(*at)->next)
		;
	if (l) {
		*at = l->next;
		tell_all(l, RDMA_CM_EVENT_DEVICE_REMOVAL, 0, NULL, NULL);
	}
	unlock();
}

int rdma_connect(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
	struct stub_id *s = (struct stub_id *)id, *l, *child;
	struct rdma_conn_param none = { 0 };
	uint64_t one;

	if (stub.connect_waits && read(stub.connect_waits, &one, sizeof(one)) < 0)
		abort();
	errno = stub.connect_errno;
	if (stub.connect_errno)
		return -1;
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
		child->asked = 1;
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
	int err;

	lock();
	err = s->peer ? stub_join(param->qp_num, s->peer->qp_num) : -1;
	if (!err) {
		s->asked = 0;
		tell(s->peer, RDMA_CM_EVENT_CONNECT_RESPONSE, 0, param, NULL);
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
static int part(struct rdma_cm_id *id, enum rdma_cm_event_type type,
		const struct rdma_conn_param *param)
{
	struct stub_id *s = (struct stub_id *)id;

	lock();
	if (s->peer) {
		s->peer->peer = NULL;
		tell(s->peer, type, 0, param, NULL);
	}
	s->peer = NULL;
	unlock();
	return 0;
}

int rdma_reject(struct rdma_cm_id *id, const void *data, uint8_t len)
{
	struct rdma_conn_param param = { .private_data = data, .private_data_len = len };

	return part(id, RDMA_CM_EVENT_REJECTED, &param);
}

int rdma_disconnect(struct rdma_cm_id *id)
{
	return part(id, RDMA_CM_EVENT_DISCONNECTED, NULL);
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
	if (attr->qp_state != IBV_QPS_RTR)
		return 0;
	*mask |= IBV_QP_PATH_MTU | IBV_QP_AV;
	attr->path_mtu = (enum ibv_mtu)stub.path_mtu;
	attr->ah_attr.sl = (uint8_t)stub.path_sl;
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
