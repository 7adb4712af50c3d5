/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Listening. rdma_cm lets one id listen at a port, so the workers of a process that listen at the
 * same one share it: the first one's event channel has it, and its thread hands the connections
 * that are asked for to all of them in turn, itself among them. When that worker stops listening,
 * another one gets the id.
 *
 * Shared by the process, under one lock: the ports, who listens at them, and each worker's inbox. A
 * request is moved to its worker's event channel before that hears of it.
 *
 * The kernel moves who listens at all addresses to each device that comes. Who listens at an
 * address of a device that goes away does so no more: the port stays in the table without an id,
 * and the first of its workers that finds the device again listens anew.
 */
#include "providers/tcp_dial.h"
#include "providers/verbs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#define BACKLOG 1024

struct member {
	struct member *next; /* of the port, in turn */
	struct verbs_port *port;
	struct verbs *v;
	struct gvm_listener *listener;
};

struct verbs_port {
	enum verbs_kind kind; /* first */
	struct verbs_port *next;
	struct sockaddr_storage sa; /* with the port that it has */
	socklen_t len;
	struct rdma_cm_id *id; /* NULL: its device is gone; who finds it again listens anew */
	struct member *members;
	struct verbs *owner; /* whose event channel has id */
};

struct verbs_listener {
	struct verbs *v;
	struct gvm_listener *listener;
	unsigned n;
	struct member at[GVM_ADDRS_MAX];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct verbs_port *ports;

/* ---- requests ------------------------------------------------------------------------------ */

/* The next one whose device it has come by; it goes to the end of the line. */
static struct member *next_member(struct verbs_port *port, const struct rdma_cm_id *id)
{
	struct member **at, **end, *m;

	for (at = &port->members; *at && !verbs_is_mine((*at)->v, id); at = &(*at)->next)
		;
	m = *at;
	if (!m)
		return NULL;
	*at = m->next;
	for (end = at; *end; end = &(*end)->next)
		;
	m->next = NULL;
	*end = m;
	return m;
}

/* Under the lock, so that the other worker is there. -errno: it is still the caller's. */
static int hand_over(struct verbs *to, const struct verbs_request *request)
{
	struct verbs_request *copy = malloc(sizeof(*copy));

	if (!copy)
		return -ENOMEM;
	if (rdma_migrate_id(request->id, to->events)) {
		free(copy);
		return -errno;
	}
	*copy = *request;
	copy->next = to->inbox;
	to->inbox = copy;
	__atomic_store_n(&to->inbox_due, 1, __ATOMIC_RELEASE);
	to->rma.up->wake(to->rma.host);
	return 0;
}

/* The key of the worker that has the port stands for those of all that share it. */
static int has_proven(const struct verbs *v, struct rdma_cm_id *id, const struct verbs_hello *hello,
		      struct verbs_challenge *challenge)
{
	static struct gvm_log_limit wrong, cannot;
	char name[64];
	int err = verbs_key_check(v, id, hello, challenge);

	if (!err)
		return 1;
	if (err == -EACCES || err == -EPERM) {
		gvm_count(&v->rma.up->stats(v->rma.host)->handshake_refused, 1);
		gvm_addr_print(rdma_get_peer_addr(id), name, sizeof(name));
		gvm_log_limited(&wrong, GVM_LOG_WARN, "%s: refused: %s", name,
				err == -EPERM ? GVM_KEY_OF_ONE
					      : "its proof of the cluster's key is wrong (compare "
						"the key files), or came late");
	}
	if (err == -EACCES || err == -EPERM || err == -EAGAIN) {
		verbs_refuse(id, challenge, sizeof(*challenge));
		return 0;
	}
	gvm_log_limited(&cannot, GVM_LOG_ERROR, "%s: nobody is let in: %s", v->device,
			strerror(-err));
	verbs_refuse(id, NULL, 0);
	return 0;
}

void verbs_asked(struct verbs *v, struct verbs_port *port, struct rdma_cm_id *id,
		 const struct rdma_conn_param *param)
{
	struct verbs_request request = { .id = id,
					 .reads_in = param->responder_resources,
					 .reads_out = param->initiator_depth };
	const struct verbs_hello *hello = param->private_data;
	static struct gvm_log_limit strange;
	struct verbs_challenge challenge;
	struct member *m;

	if (verbs_hello_check(hello, param->private_data_len, &request.proof, &request.mtu)) {
		gvm_log_limited(&strange, GVM_LOG_WARN,
				"%s: a connection is refused: the other side is no gvmnet node of "
				"this version",
				v->device);
		verbs_refuse(id, NULL, 0);
		return;
	}
	if (!has_proven(v, id, hello, &challenge))
		return;
	memcpy(request.nonce, hello->nonce, sizeof(request.nonce));
	memcpy(request.cookie, challenge.cookie, sizeof(request.cookie));
	pthread_mutex_lock(&lock);
	m = next_member(port, id);
	request.listener = m ? m->listener : NULL;
	if (!m || (m->v != v && hand_over(m->v, &request))) {
		verbs_refuse(id, NULL, 0);
		m = NULL;
	}
	pthread_mutex_unlock(&lock);
	if (m && m->v == v)
		verbs_consider(v, &request);
}

static int listens_at(const struct verbs *v, const struct verbs_port *p)
{
	const struct member *m = p->members;

	while (m && m->v != v)
		m = m->next;
	return m != NULL;
}

/* Nobody listens at a port that is also v's. */
static int lacks_port(const struct verbs *v)
{
	const struct verbs_port *p = ports;

	while (p && (p->id || !listens_at(v, p)))
		p = p->next;
	return p != NULL;
}

int verbs_take_inbox(struct verbs *v)
{
	struct verbs_request *list, *r;
	int n = 0, lacks;

	pthread_mutex_lock(&lock);
	list = v->inbox;
	v->inbox = NULL;
	__atomic_store_n(&v->inbox_due, 0, __ATOMIC_RELAXED);
	lacks = lacks_port(v);
	pthread_mutex_unlock(&lock);
	while ((r = list)) {
		list = r->next;
		verbs_consider(v, r);
		free(r);
		n++;
	}
	if (lacks && !v->missing)
		verbs_look_soon(v);
	return n;
}

/* ---- listening ----------------------------------------------------------------------------- */

static void set_port(struct sockaddr_storage *sa, unsigned port)
{
	if (sa->ss_family == AF_INET6)
		((struct sockaddr_in6 *)sa)->sin6_port = htons((uint16_t)port);
	else
		((struct sockaddr_in *)sa)->sin_port = htons((uint16_t)port);
}

static unsigned port_of(const struct sockaddr_storage *sa)
{
	return ntohs(sa->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)sa)->sin6_port
					       : ((const struct sockaddr_in *)sa)->sin_port);
}

static int bind_and_listen(struct verbs *v, struct verbs_port *port)
{
	uint8_t tos = (uint8_t)gvm_option_number("GVM_VERBS_TCLASS");
	int one = 1;

	/* IPv4 has a listener of its own. */
	if (port->sa.ss_family == AF_INET6)
		rdma_set_option(port->id, RDMA_OPTION_ID, RDMA_OPTION_ID_AFONLY, &one, sizeof(one));
	if (tos)
		rdma_set_option(port->id, RDMA_OPTION_ID, RDMA_OPTION_ID_TOS, &tos, sizeof(tos));
	if (rdma_bind_addr(port->id, (struct sockaddr *)&port->sa))
		return -errno;
	if (port->id->verbs && !verbs_is_mine(v, port->id)) {
		gvm_log(verbs_level(v, GVM_LOG_ERROR),
			"the address to listen at belongs to %s, this worker has %s; choose with "
			"GVM_TRANSPORT=verbs:DEVICE[:PORT]",
			ibv_get_device_name(port->id->verbs->device), v->device);
		return -EADDRNOTAVAIL;
	}
	return rdma_listen(port->id, BACKLOG) ? -errno : 0;
}

static struct verbs_port *port_find(const struct sockaddr_storage *sa, socklen_t len)
{
	struct verbs_port *p = ports;

	while (p && (p->len != len || memcmp(&p->sa, sa, len)))
		p = p->next;
	return p;
}

/* Have v's event channel listen at it. */
static int port_listen(struct verbs *v, struct verbs_port *p)
{
	int err;

	if (rdma_create_id(v->events, &p->id, p, RDMA_PS_TCP)) {
		p->id = NULL;
		return -errno;
	}
	err = bind_and_listen(v, p);
	if (err) {
		rdma_destroy_id(p->id);
		p->id = NULL;
		return err;
	}
	p->owner = v;
	set_port(&p->sa, ntohs(rdma_get_src_port(p->id)));
	return 0;
}

static int port_new(struct verbs *v, const struct sockaddr_storage *sa, socklen_t len,
		    struct verbs_port **out)
{
	struct verbs_port *p = calloc(1, sizeof(*p));
	int err;

	if (!p)
		return -ENOMEM;
	p->kind = VERBS_PORT;
	p->sa = *sa;
	p->len = len;
	err = port_listen(v, p);
	if (err) {
		free(p);
		return err;
	}
	p->next = ports;
	ports = p;
	*out = p;
	return 0;
}

static int join(void *arg, const struct gvm_addrs *addrs, unsigned i, unsigned *port)
{
	struct verbs_listener *vl = arg;
	struct member *m = &vl->at[vl->n], **end;
	struct sockaddr_storage at = addrs->at[i].sa;
	socklen_t len = addrs->at[i].len;
	struct verbs_port *p = NULL;
	int err = 0;

	set_port(&at, *port);
	pthread_mutex_lock(&lock);
	if (*port)
		p = port_find(&at, len);
	if (!p)
		err = port_new(vl->v, &at, len, &p);
	if (!err) {
		*m = (struct member){ .port = p, .v = vl->v, .listener = vl->listener };
		for (end = &p->members; *end; end = &(*end)->next)
			;
		*end = m;
		vl->n++;
		*port = port_of(&p->sa);
	}
	pthread_mutex_unlock(&lock);
	return err;
}

static void explain(const struct verbs *v, const char *host, unsigned port, int err)
{
	if (err == -ENODEV || err == -EADDRNOTAVAIL)
		gvm_log(verbs_level(v, GVM_LOG_ERROR),
			"cannot listen at %s: it is no address of an RDMA device; take that of the "
			"interface that %s belongs to (rdma link), or *",
			host, v->device);
	else
		gvm_log(verbs_level(v, GVM_LOG_ERROR), "cannot listen at %s, port %u: %s%s", host,
			port, strerror(-err),
			err == -EADDRINUSE && v->iwarp
			    ? " (the ports of iWARP are TCP's: a node listens with verbs or with "
			      "tcp)"
			    : "");
}

static void leave_all(void *arg);

int verbs_listen(struct gvm_rma *rma, struct gvm_listener *listener, const char *host,
		 unsigned port, unsigned *bound_port)
{
	struct verbs *v = verbs_of(rma);
	struct verbs_listener *vl;
	struct gvm_addrs addrs;
	unsigned bound;
	int err = gvm_addrs_passive(host, port, &addrs);

	if (err)
		return err;
	vl = calloc(1, sizeof(*vl));
	if (!vl)
		return -ENOMEM;
	vl->v = v;
	vl->listener = listener;
	err = gvm_addrs_listen(&addrs, port, &bound, join, leave_all, vl);
	if (err) {
		explain(v, host, port, err);
		free(vl);
		return err == -ENODEV ? -EADDRNOTAVAIL : err;
	}
	listener->fabric = vl;
	if (bound_port)
		*bound_port = bound;
	return 0;
}

/* A port whose device is gone cannot be, or is not there: then the other one listens anew. */
static void hand_on(struct verbs_port *p, struct verbs *to)
{
	if (p->id && rdma_migrate_id(p->id, to->events)) {
		rdma_destroy_id(p->id);
		p->id = NULL;
	}
	p->owner = to;
	if (p->id)
		return;
	__atomic_store_n(&to->inbox_due, 1, __ATOMIC_RELEASE);
	to->rma.up->wake(to->rma.host);
}

/* The port goes on with another worker, or is given up. */
static struct verbs_port *leave(struct member *m)
{
	struct verbs_port *p = m->port, **at;
	struct member **from;

	for (from = &p->members; *from != m; from = &(*from)->next)
		;
	*from = m->next;
	if (p->members && (p->owner != m->v || p->members->v == p->owner))
		return NULL;
	if (p->members) {
		hand_on(p, p->members->v);
		return NULL;
	}
	for (at = &ports; *at != p; at = &(*at)->next)
		;
	*at = p->next;
	return p;
}

static void leave_all(void *arg)
{
	struct verbs_listener *vl = arg;
	struct verbs_port *p;

	pthread_mutex_lock(&lock);
	while (vl->n) {
		p = leave(&vl->at[--vl->n]);
		if (!p)
			continue;
		if (p->id)
			rdma_destroy_id(p->id);
		free(p);
	}
	pthread_mutex_unlock(&lock);
}

/* ---- the device goes and comes ------------------------------------------------------------- */

void verbs_ports_leave(struct verbs *v)
{
	pthread_mutex_lock(&lock);
	for (struct verbs_port *p = ports; p; p = p->next) {
		if (p->owner != v || !p->id || !p->id->verbs)
			continue;
		rdma_destroy_id(p->id);
		p->id = NULL;
	}
	pthread_mutex_unlock(&lock);
}

int verbs_ports_return(struct verbs *v)
{
	int err = 0, failed;

	pthread_mutex_lock(&lock);
	for (struct verbs_port *p = ports; p; p = p->next) {
		if (p->id || !listens_at(v, p))
			continue;
		failed = port_listen(v, p);
		err = failed ? failed : err;
	}
	pthread_mutex_unlock(&lock);
	return err;
}

/* What was handed to the worker for this listener and not looked at yet. */
static struct verbs_request *take_back(struct verbs *v, const struct gvm_listener *listener)
{
	struct verbs_request **at = &v->inbox, *mine = NULL, *r;

	while ((r = *at)) {
		if (r->listener != listener) {
			at = &r->next;
			continue;
		}
		*at = r->next;
		r->next = mine;
		mine = r;
	}
	return mine;
}

static void fail_half_open(struct verbs *v, const struct gvm_listener *listener)
{
	struct verbs_conn *conn = v->conns, *next;

	for (; conn; conn = next) {
		next = conn->next;
		if (conn->state == VERBS_ACCEPT && conn->listener == listener)
			verbs_conn_fail(conn, -ECANCELED, "");
	}
}

void verbs_unlisten(struct gvm_rma *rma, struct gvm_listener *listener)
{
	struct verbs *v = verbs_of(rma);
	struct verbs_listener *vl = listener->fabric;
	struct verbs_request *r, *mine;

	leave_all(vl);
	pthread_mutex_lock(&lock);
	mine = take_back(v, listener);
	pthread_mutex_unlock(&lock);
	while ((r = mine)) {
		mine = r->next;
		verbs_refuse(r->id, NULL, 0);
		free(r);
	}
	verbs_refuse_asking(v, listener);
	fail_half_open(v, listener);
	listener->fabric = NULL;
	free(vl);
}
