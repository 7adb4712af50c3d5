/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "service.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include <gvmnet/coherence.h>
#include "home.h"
#include "store.h"

#define SLABS_MAX   (GVM_MSG_MAX / GVM_SLAB_ENTRY_LEN)
#define REGIONS_MAX (GVM_MSG_MAX / GVM_REGION_ENTRY_LEN)

/* Most that a request waits for what is about to end. */
#define WAIT_NS (UINT64_C(5000) * 1000000)

/* A connection that has used a region. */
struct conn {
	LIST_ENTRY(conn) in_worker;
	struct gvm_peer *peer;
	struct session *session;
	struct home_links links; /* shared regions that it has open */
};

/* A request that waits for something to end. */
struct waiter {
	TAILQ_ENTRY(waiter) in_worker;
	struct gvm_peer *peer;
	struct gvm_msg msg;
	uint64_t until;
	uint8_t body[];
};
TAILQ_HEAD(waiters, waiter);

struct worker {
	struct service *service;
	struct gvm_worker *worker;
	struct home_worker *home;
	pthread_t thread;
	int started;
	struct gvm_task unlisten;
	LIST_HEAD(, conn) conns;
	struct waiters waiters; /* the one that came first is the first whose time is up */
	struct gvm_timer timer; /* for that */
	struct gvm_task look;   /* something has changed in the store */
	atomic_int look_queued, look_ended;
};

struct service {
	struct service_config config;
	struct home *home;
	struct worker *workers;
	uint64_t started_ns;
	atomic_int stop;
	char transports[64]; /* that are listened with */
};

/* ---- requests ------------------------------------------------------------------------------ */

/* A reply under way: what the handler fills in. */
struct reply {
	struct gvm_msg msg;
	int joined; /* of a shared region: a member, from when it is answered */
	uint8_t body[GVM_MSG_MAX];
};

/* The connection's session; made by the first request that needs one, so that a connection that
 * asks for nothing costs the store nothing. */
static int session_of(struct worker *w, struct gvm_peer *peer, struct session **session)
{
	struct conn *c = gvm_peer_user(peer);
	int err;

	if (!c) {
		c = malloc(sizeof(*c));
		if (!c)
			return -ENOMEM;
		c->peer = peer;
		LIST_INIT(&c->links);
		err = store_session_open(w->service->config.store, gvm_peer_incarnation(peer),
					 gvm_peer_name(peer), &c->session);
		if (err) {
			free(c);
			return err;
		}
		LIST_INSERT_HEAD(&w->conns, c, in_worker);
		gvm_peer_set_user(peer, c);
	}
	*session = c->session;
	return 0;
}

static int on_open(struct worker *w, struct gvm_peer *peer, const struct gvm_msg *msg,
		   struct reply *out)
{
	struct conn *c = gvm_peer_user(peer);
	struct gvm_region_open req;
	struct gvm_region_opened opened;
	int err;

	if (gvm_region_open_decode(msg->body, msg->length, &req))
		return -EPROTO;
	if (req.flags & GVM_RO_SHARED) {
		err = home_region_open(w->home, &c->links, peer, msg, &req, &opened);
		out->joined = !err;
	} else {
		store_session_view(c->session, msg->arg);
		err = store_region_open(c->session, msg->region, &req, &opened);
	}
	if (!err)
		out->msg.length = (uint32_t)gvm_region_opened_encode(out->body, &opened);
	return err;
}

static int on_clone(struct session *s, const struct gvm_msg *msg, struct reply *out)
{
	struct gvm_region_clone req;
	struct gvm_region_opened opened;
	int err;

	if (gvm_region_clone_decode(msg->body, msg->length, &req))
		return -EPROTO;
	err = store_region_clone(s, msg->region, &req, &opened);
	if (!err)
		out->msg.length = (uint32_t)gvm_region_opened_encode(out->body, &opened);
	return err;
}

static int on_grant(struct session *s, const struct gvm_msg *msg, struct reply *out)
{
	struct gvm_slab_entry entry;
	int err = store_slab_grant(s, msg->region, msg->page, &entry);

	if (!err)
		out->msg.length = (uint32_t)gvm_slab_entry_encode(out->body, &entry);
	return err;
}

static int on_list(struct session *s, const struct gvm_msg *msg, struct reply *out)
{
	struct gvm_slab_entry entries[SLABS_MAX];
	uint32_t count, want = msg->arg && msg->arg < SLABS_MAX ? (uint32_t)msg->arg : SLABS_MAX;
	int more, err = store_slab_list(s, msg->region, msg->page, want, entries, &count, &more);

	if (err)
		return err;
	for (uint32_t i = 0; i < count; i++)
		gvm_slab_entry_encode(out->body + (size_t)i * GVM_SLAB_ENTRY_LEN, &entries[i]);
	out->msg.length = count * GVM_SLAB_ENTRY_LEN;
	out->msg.flags = more ? GVM_F_MORE : 0;
	return 0;
}

static int on_discard(struct session *s, const struct gvm_msg *msg)
{
	struct gvm_page_run runs[GVM_DISCARD_MAX];
	uint32_t count = msg->length / GVM_PAGE_RUN_LEN;

	if (msg->length % GVM_PAGE_RUN_LEN || count > GVM_DISCARD_MAX || !count)
		return -EPROTO;
	for (uint32_t i = 0; i < count; i++)
		if (gvm_page_run_decode((const uint8_t *)msg->body + (size_t)i * GVM_PAGE_RUN_LEN,
					GVM_PAGE_RUN_LEN, &runs[i]))
			return -EPROTO;
	return store_discard(s, msg->region, runs, count);
}

static int on_region_list(struct service *service, const struct gvm_msg *msg, struct reply *out)
{
	struct gvm_region_entry entries[REGIONS_MAX];
	int more;
	uint32_t n =
	    store_region_list(service->config.store, msg->page, REGIONS_MAX, entries, &more);

	for (uint32_t i = 0; i < n; i++)
		gvm_region_entry_encode(out->body + (size_t)i * GVM_REGION_ENTRY_LEN, &entries[i]);
	out->msg.length = n * GVM_REGION_ENTRY_LEN;
	out->msg.flags = more ? GVM_F_MORE : 0;
	return 0;
}

static int on_node_stat(struct service *service, struct reply *out)
{
	FILE *f = fmemopen(out->body, sizeof(out->body), "w");
	long len;
	int bad;

	if (!f)
		return -ENOMEM;
	service_json(service, f, 0);
	len = ftell(f);
	bad = ferror(f);
	if (fclose(f) || bad || len < 0 || len >= (long)sizeof(out->body))
		return -EIO;
	out->msg.length = (uint32_t)len;
	return 0;
}

static int on_close(struct worker *w, struct conn *c, const struct gvm_msg *msg)
{
	if (home_region_close(w->home, &c->links, msg->region) == 0)
		return 0;
	store_session_view(c->session, msg->arg);
	return store_region_close(c->session, msg->region);
}

static int on_delete(struct worker *w, struct session *s, const struct gvm_msg *msg)
{
	int err = home_region_delete(w->service->home, msg->region);

	return err == -ENOENT ? store_region_delete(s, msg->region) : err;
}

/* Requests of a connection that has a session. */
static int serve_session(struct worker *w, struct gvm_peer *peer, const struct gvm_msg *msg,
			 struct reply *out)
{
	struct conn *c = gvm_peer_user(peer);
	struct session *s = c->session;

	switch (msg->type) {
	case GVM_T_REGION_OPEN:
		return on_open(w, peer, msg, out);
	case GVM_T_REGION_CLOSE:
		return on_close(w, c, msg);
	case GVM_T_REGION_DELETE:
		return on_delete(w, s, msg);
	case GVM_T_REGION_RESIZE:
		return store_region_resize(s, msg->region, msg->page, msg->arg);
	case GVM_T_REGION_CLONE:
		return on_clone(s, msg, out);
	case GVM_T_SLAB_GRANT:
		return on_grant(s, msg, out);
	case GVM_T_SLAB_LIST:
		return on_list(s, msg, out);
	case GVM_T_DISCARD:
		return on_discard(s, msg);
	default:
		return -EOPNOTSUPP;
	}
}

/* patient: -EINPROGRESS is an answer that the caller understands. */
static int serve(struct worker *w, struct gvm_peer *peer, const struct gvm_msg *msg, int patient,
		 struct reply *out)
{
	struct service *service = w->service;
	struct session *s;
	int err;

	if (msg->type == GVM_T_REGION_LIST)
		return on_region_list(service, msg, out);
	if (msg->type == GVM_T_NODE_STAT)
		return on_node_stat(service, out);
	if (msg->type < GVM_T_REGION_OPEN || msg->type > GVM_T_NODE_STAT)
		return -EOPNOTSUPP;
	/* A connection that has opened nothing has nothing to ask about, but for what an earlier
	 * one has. */
	if (!gvm_peer_user(peer) && msg->type != GVM_T_REGION_OPEN &&
	    msg->type != GVM_T_REGION_DELETE && msg->type != GVM_T_REGION_CLOSE)
		return -ENOENT;
	err = session_of(w, peer, &s);
	if (err)
		return err;
	store_session_patience(s, patient);
	return serve_session(w, peer, msg, out);
}

/* The body of an answer that there is no room. */
static uint32_t say_full(const struct gvm_peer *peer, uint8_t *body)
{
	const struct conn *c = gvm_peer_user(peer);
	enum gvm_full full = c ? store_session_full(c->session) : GVM_FULL_UNKNOWN;

	return full ? (uint32_t)gvm_full_encode(body, full) : 0;
}

/* Serve and answer; -EINPROGRESS: not yet. */
static int answer(struct worker *w, struct gvm_peer *peer, const struct gvm_msg *msg, int patient)
{
	struct reply out;
	int status;

	memset(&out.msg, 0, sizeof(out.msg));
	out.joined = 0;
	status = serve(w, peer, msg, patient, &out);
	if (status == -EINPROGRESS)
		return status;
	if (status)
		out.msg.length = status == -ENOSPC ? say_full(peer, out.body) : 0;
	out.msg.body = out.body;
	/* A reply that cannot be sent ends the connection, in the library; there is no more to do.
	 */
	gvm_reply(peer, msg->xid, status, &out.msg);
	if (out.joined)
		home_joined(w->home, &((struct conn *)gvm_peer_user(peer))->links, msg->region);
	return 0;
}

/* ---- requests that wait -------------------------------------------------------------------- */

static int watch_first(struct worker *w)
{
	struct waiter *first = TAILQ_FIRST(&w->waiters);

	return first ? gvm_timer_set(w->worker, &w->timer, first->until) : 0;
}

/* Keep a request until it can be answered. */
static int keep(struct worker *w, struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct waiter *r = malloc(sizeof(*r) + msg->length);

	if (!r)
		return -ENOMEM;
	r->peer = peer;
	r->msg = *msg;
	r->msg.body = r->body;
	r->until = gvm_worker_now(w->worker) + WAIT_NS;
	if (msg->length)
		memcpy(r->body, msg->body, msg->length);
	TAILQ_INSERT_TAIL(&w->waiters, r, in_worker);
	if (!watch_first(w))
		return 0;
	TAILQ_REMOVE(&w->waiters, r, in_worker);
	free(r);
	return -ENOMEM;
}

/* Make all requests that wait again; those whose time is up for the last time. */
static void retry(struct worker *w)
{
	struct waiters all = TAILQ_HEAD_INITIALIZER(all);
	uint64_t now = gvm_worker_now(w->worker);
	struct waiter *r;

	TAILQ_CONCAT(&all, &w->waiters, in_worker);
	while ((r = TAILQ_FIRST(&all))) {
		TAILQ_REMOVE(&all, r, in_worker);
		if (answer(w, r->peer, &r->msg, now < r->until))
			TAILQ_INSERT_TAIL(&w->waiters, r, in_worker);
		else
			free(r);
	}
	watch_first(w);
}

static void time_is_up(struct gvm_timer *timer)
{
	retry((struct worker *)((char *)timer - offsetof(struct worker, timer)));
}

static void forget_requests(struct worker *w, const struct gvm_peer *peer)
{
	struct waiter *r, *next;

	for (r = TAILQ_FIRST(&w->waiters); r; r = next) {
		next = TAILQ_NEXT(r, in_worker);
		if (r->peer != peer)
			continue;
		TAILQ_REMOVE(&w->waiters, r, in_worker);
		free(r);
	}
}

/* ---- what happens in the store ------------------------------------------------------------- */

/* End the connections whose client has come back on another one. */
static void end_old(struct worker *w)
{
	struct conn *c, *next;

	for (c = LIST_FIRST(&w->conns); c; c = next) {
		next = LIST_NEXT(c, in_worker);
		if (store_session_ended(c->session))
			gvm_peer_disconnect(c->peer, -ECONNRESET);
	}
}

static void look(struct gvm_task *task)
{
	struct worker *w = (struct worker *)((char *)task - offsetof(struct worker, look));

	atomic_store(&w->look_queued, 0);
	if (atomic_exchange(&w->look_ended, 0))
		end_old(w);
	retry(w);
}

/* On any thread, in the middle of the store's work. */
static void on_change(void *arg, int ended)
{
	struct service *service = arg;

	if (atomic_load(&service->stop))
		return;
	for (unsigned i = 0; i < service->config.workers; i++) {
		struct worker *w = &service->workers[i];

		if (ended)
			atomic_store(&w->look_ended, 1);
		if (!atomic_exchange(&w->look_queued, 1))
			gvm_worker_run(w->worker, &w->look);
	}
}

/* ---- what the library tells ---------------------------------------------------------------- */

static void on_message(void *arg, struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct worker *w = arg;

	/* Nobody waits for an answer, and a node does nothing unasked. */
	if (!msg->xid)
		return;
	if (answer(w, peer, msg, 1) && keep(w, peer, msg))
		answer(w, peer, msg, 0);
}

static int on_coherence(void *arg, struct gvm_peer *peer, const struct gvm_hdr *h,
			const void *payload, const char **reason)
{
	struct worker *w = arg;
	struct home_links none = LIST_HEAD_INITIALIZER(none);
	struct conn *c = gvm_peer_user(peer);

	return home_frame(w->home, c ? &c->links : &none, h, payload, reason);
}

static void on_writable(void *arg, struct gvm_peer *peer)
{
	struct worker *w = arg;
	struct conn *c = gvm_peer_user(peer);

	if (c)
		home_writable(w->home, &c->links);
}

static void on_peer_state(void *arg, struct gvm_peer *peer, enum gvm_peer_state state, int why)
{
	struct worker *w = arg;
	struct conn *c = gvm_peer_user(peer);

	if (state != GVM_PEER_CLOSED || !c)
		return;
	gvm_peer_set_user(peer, NULL);
	forget_requests(w, peer);
	LIST_REMOVE(c, in_worker);
	home_lost(w->home, &c->links);
	if (why == 0)
		store_session_rest(c->session);
	else if (why == -ETIMEDOUT)
		store_session_silent(c->session);
	else
		store_session_close(c->session);
	free(c);
}

/* ---- figures ------------------------------------------------------------------------------- */

static uint64_t *field(void *stats, const struct gvm_counter *c)
{
	return (uint64_t *)((char *)stats + c->offset);
}

static void net_stats(struct service *service, struct gvm_net_stats *sum)
{
	const struct gvm_counter *counters;
	struct gvm_net_stats one;
	size_t n;

	memset(sum, 0, sizeof(*sum));
	counters = gvm_net_counters(&n);
	for (unsigned i = 0; i < service->config.workers; i++) {
		gvm_worker_stats(service->workers[i].worker, &one);
		for (size_t k = 0; k < n; k++)
			*field(sum, &counters[k]) += *field(&one, &counters[k]);
	}
}

static double uptime(const struct service *service)
{
	return (double)(gvm_now() - service->started_ns) / 1e9;
}

void service_prometheus(struct service *service, FILE *out)
{
	const struct gvm_counter *counters;
	struct gvm_net_stats net;
	struct home_stats home;
	struct store_stats st;
	size_t n;

	store_stats(service->config.store, &st);
	counters = store_counters(&n);
	gvm_counters_prometheus(out, "gvm_memsrv", counters, n, &st);
	home_stats(service->home, &home);
	counters = home_counters(&n);
	gvm_counters_prometheus(out, "gvm_memsrv", counters, n, &home);
	net_stats(service, &net);
	counters = gvm_net_counters(&n);
	gvm_counters_prometheus(out, "gvm_net", counters, n, &net);
	fprintf(out,
		"# HELP gvm_memsrv_info This node.\n# TYPE gvm_memsrv_info gauge\n"
		"gvm_memsrv_info{version=\"%s\",transport=\"%s\",incarnation=\"%016" PRIx64
		"\"} 1\n"
		"# HELP gvm_memsrv_uptime_seconds Since the node was started.\n"
		"# TYPE gvm_memsrv_uptime_seconds gauge\ngvm_memsrv_uptime_seconds %.3f\n",
		gvm_version(), gvm_net_transport(service->config.net),
		gvm_net_incarnation(service->config.net), uptime(service));
}

/* Names are of [A-Za-z0-9._-]: they need no escapes. */
static void json_regions(struct service *service, FILE *out, unsigned most)
{
	struct gvm_region_entry entries[REGIONS_MAX];
	uint64_t at = 0;
	int more = most > 0;

	fputs(",\"region_list\":[", out);
	while (more && at < most) {
		uint32_t want = most - at < REGIONS_MAX ? (uint32_t)(most - at) : REGIONS_MAX;
		uint32_t n = store_region_list(service->config.store, at, want, entries, &more);

		for (uint32_t i = 0; i < n; i++)
			fprintf(out,
				"%s{\"name\":\"%s\",\"pages\":%" PRIu64 ",\"slabs\":%" PRIu64
				",\"ephemeral\":%s,\"mode\":\"%s\",\"sessions\":%u,\"holder\":\"%"
				"016" PRIx64 "\"}",
				at + i ? "," : "", entries[i].name, entries[i].pages,
				entries[i].slabs_used,
				entries[i].flags & GVM_RO_EPHEMERAL ? "true" : "false",
				entries[i].flags & GVM_RO_SHARED ? "shared" : "private",
				entries[i].sessions, entries[i].holder);
		at += n;
		if (!n)
			break;
	}
	fputc(']', out);
}

void service_json(struct service *service, FILE *out, unsigned regions)
{
	const struct gvm_counter *counters;
	struct gvm_net_stats net;
	struct home_stats home;
	struct store_stats st;
	size_t n;

	fprintf(out,
		"{\"node\":{\"version\":\"%s\",\"transport\":\"%s\",\"incarnation\":\"%016" PRIx64
		"\",\"workers\":%u,\"uptime_seconds\":%.3f},\"store\":{",
		gvm_version(), gvm_net_transport(service->config.net),
		gvm_net_incarnation(service->config.net), service->config.workers, uptime(service));
	store_stats(service->config.store, &st);
	counters = store_counters(&n);
	gvm_counters_json(out, counters, n, &st);
	fputs("},\"home\":{", out);
	home_stats(service->home, &home);
	counters = home_counters(&n);
	gvm_counters_json(out, counters, n, &home);
	fputs("},\"net\":{", out);
	net_stats(service, &net);
	counters = gvm_net_counters(&n);
	gvm_counters_json(out, counters, n, &net);
	fputc('}', out);
	if (regions)
		json_regions(service, out, regions);
	fputc('}', out);
}

int service_draining(struct service *service)
{
	struct store_stats st;

	store_stats(service->config.store, &st);
	return st.draining != 0;
}

/* ---- workers ------------------------------------------------------------------------------- */

static void *run(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(&w->service->stop))
		gvm_worker_wait(w->worker, GVM_NEVER);
	return NULL;
}

/* Is there such a host at all? If not, the library has said so. */
static int resolves(const char *host)
{
	struct addrinfo *ai;

	if (getaddrinfo(host, NULL, NULL, &ai))
		return 0;
	freeaddrinfo(ai);
	return 1;
}

static void explain(const struct address *a, int err)
{
	if (err == -EADDRINUSE)
		gvm_log(
		    GVM_LOG_ERROR,
		    "%s port %u is in use by another program: stop it, or choose another address "
		    "with --listen",
		    a->host, a->port);
	else if (err == -EACCES && a->port > 0 && a->port < 1024)
		gvm_log(GVM_LOG_ERROR,
			"port %u needs a privilege that this user lacks: choose one from 1024 on",
			a->port);
	else if (err == -EADDRNOTAVAIL && resolves(a->host))
		gvm_log(GVM_LOG_ERROR, "%s is not an address of this machine: see --listen",
			a->host);
	else if (err != -EACCES && err != -EADDRNOTAVAIL)
		gvm_log(GVM_LOG_ERROR, "cannot listen on %s port %u: %s", a->host, a->port,
			strerror(-err));
}

static int worker_listen(struct service *service, struct worker *w)
{
	for (unsigned i = 0; i < service->config.listens; i++) {
		struct address *a = &service->config.listen[i];
		int err = gvm_worker_listen(w->worker, a->host, a->port, &a->port);

		if (err) {
			explain(a, err);
			return err;
		}
	}
	return 0;
}

static int worker_open(struct service *service, unsigned i)
{
	struct worker *w = &service->workers[i];
	struct gvm_worker_config config = { .arg = w,
					    .message = on_message,
					    .peer_state = on_peer_state,
					    .writable = on_writable,
					    .cpu = gvm_option_cpu(i) };
	int err;

	w->service = service;
	w->timer.fn = time_is_up;
	w->look.fn = look;
	LIST_INIT(&w->conns);
	TAILQ_INIT(&w->waiters);
	err = gvm_worker_open(service->config.net, &config, &w->worker);
	if (err) {
		/* of a device that is not there the transport has said so, with those that are */
		if (err != -ENODEV)
			gvm_log(GVM_LOG_ERROR, "cannot start a worker: %s", strerror(-err));
		return err;
	}
	err = home_worker_new(service->home, w->worker, &w->home);
	if (err)
		return err;
	gvm_worker_coherence(w->worker, on_coherence);
	return worker_listen(service, w);
}

/* Signals are the main thread's. */
static int start_threads(struct service *service)
{
	sigset_t all, old;
	int err = 0;

	sigfillset(&all);
	sigdelset(&all, SIGBUS); /* a part of an image that cannot be had; node.c says so */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (unsigned i = 0; i < service->config.workers && !err; i++) {
		struct worker *w = &service->workers[i];

		err = -pthread_create(&w->thread, NULL, run, w);
		w->started = !err;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		gvm_log(GVM_LOG_ERROR, "cannot start a thread: %s", strerror(-err));
	return err;
}

static int open_home(struct service *service)
{
	struct home_config config = { .net = service->config.net,
				      .store = service->config.store,
				      .node = gvm_net_node(service->config.net),
				      .queue = gvm_option_number("GVM_DSM_QUEUE"),
				      .state = service->config.state };

	return home_new(&config, &service->home);
}

void service_tick(struct service *service)
{
	home_tick(service->home);
}

int service_open(const struct service_config *config, struct service **service)
{
	struct service *s = calloc(1, sizeof(*s));
	int err = 0;

	if (!s)
		return -ENOMEM;
	s->config = *config;
	s->started_ns = gvm_now();
	s->workers = calloc(config->workers, sizeof(*s->workers));
	if (!s->workers) {
		free(s);
		return -ENOMEM;
	}
	err = open_home(s);
	for (unsigned i = 0; i < config->workers && !err; i++)
		err = worker_open(s, i);
	if (!err) {
		gvm_worker_listens_with(s->workers[0].worker, s->transports, sizeof(s->transports));
		store_notify(config->store, on_change, s);
		err = start_threads(s);
	}
	if (err)
		service_close(s);
	else
		*service = s;
	return err;
}

const char *service_transports(const struct service *service)
{
	return service->transports;
}

static void unlisten(struct gvm_task *task)
{
	struct worker *w = (struct worker *)((char *)task - offsetof(struct worker, unlisten));

	gvm_worker_unlisten(w->worker);
}

void service_unlisten(struct service *service)
{
	for (unsigned i = 0; i < service->config.workers; i++) {
		struct worker *w = &service->workers[i];

		w->unlisten.fn = unlisten;
		gvm_worker_run(w->worker, &w->unlisten);
	}
}

void service_close(struct service *service)
{
	atomic_store(&service->stop, 1);
	for (unsigned i = 0; i < service->config.workers; i++)
		if (service->workers[i].started) {
			gvm_worker_wake(service->workers[i].worker);
			pthread_join(service->workers[i].thread, NULL);
		}
	if (service->home)
		home_stop(service->home);
	for (unsigned i = 0; i < service->config.workers; i++)
		if (service->workers[i].worker)
			gvm_worker_close(service->workers[i].worker);
	store_notify(service->config.store, NULL, NULL);
	for (unsigned i = 0; i < service->config.workers; i++)
		home_worker_free(service->workers[i].home);
	if (service->home)
		home_free(service->home);
	free(service->workers);
	free(service);
}
