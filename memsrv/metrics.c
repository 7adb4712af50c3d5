/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "metrics.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS 256u /* the server takes no more, and takes none away */
#define VISITORS    64u  /* beyond that the one that has been silent for longest gives way */
#define IDLE_S      5u   /* without a byte either way */
#define REGIONS     1000u

/* A connection. */
struct visitor {
	struct visitor *before, *after;
	struct MHD_Connection *connection;
	int busy; /* it has asked and is being answered */
};

/* The list is the server's thread's, which is one. */
struct metrics {
	struct MHD_Daemon *daemon;
	struct service *service;
	struct visitor *first, *last; /* in the order in which they came, or were answered last */
	unsigned visitors;
};

/* ---- who gives way ------------------------------------------------------------------------- */

static void append(struct metrics *m, struct visitor *v)
{
	v->before = m->last;
	v->after = NULL;
	*(m->last ? &m->last->after : &m->first) = v;
	m->last = v;
	m->visitors++;
}

static void take_out(struct metrics *m, struct visitor *v)
{
	*(v->before ? &v->before->after : &m->first) = v->after;
	*(v->after ? &v->after->before : &m->last) = v->before;
	m->visitors--;
}

/* The server closes it when it reads the end. If all are being answered, the slowest reader goes.
 */
static void send_one_away(struct metrics *m)
{
	struct visitor *v = m->first;
	const union MHD_ConnectionInfo *info;

	while (v && v->busy)
		v = v->after;
	v = v ? v : m->first;
	info = MHD_get_connection_info(v->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	if (info)
		shutdown(info->connect_fd, SHUT_RDWR);
	take_out(m, v);
	v->connection = NULL; /* it is in the list no more */
}

static void on_connection(void *arg, struct MHD_Connection *c, void **context,
			  enum MHD_ConnectionNotificationCode what)
{
	struct metrics *m = arg;
	struct visitor *v = *context;

	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		*context = v = calloc(1, sizeof(*v));
		if (!v)
			return;
		v->connection = c;
		append(m, v);
		if (m->visitors > VISITORS)
			send_one_away(m);
	} else if (v) {
		if (v->connection)
			take_out(m, v);
		free(v);
		*context = NULL;
	}
}

static void set_busy(struct metrics *m, struct MHD_Connection *c, int busy)
{
	const union MHD_ConnectionInfo *info =
	    MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	struct visitor *v = info ? info->socket_context : NULL;

	if (!v || !v->connection)
		return;
	v->busy = busy;
	take_out(m, v);
	append(m, v);
}

static void on_answered(void *arg, struct MHD_Connection *c, void **state,
			enum MHD_RequestTerminationCode how)
{
	set_busy(arg, c, 0);
}

/* ---- pages --------------------------------------------------------------------------------- */

static void page_health(struct service *service, FILE *out)
{
	fputs(service_draining(service) ? "draining\n" : "ok\n", out);
}

static void page_json(struct service *service, FILE *out)
{
	service_json(service, out, REGIONS);
	fputc('\n', out);
}

static const struct page {
	const char *path, *type;
	void (*write)(struct service *service, FILE *out);
} pages[] = {
	{ "/metrics", "text/plain; version=0.0.4; charset=utf-8", service_prometheus },
	{ "/json", "application/json", page_json },
	{ "/healthz", "text/plain; charset=utf-8", page_health },
};

static enum MHD_Result answer(struct MHD_Connection *c, unsigned status, const char *type,
			      char *text, size_t len, enum MHD_ResponseMemoryMode mode)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(len, text, mode);
	enum MHD_Result sent;

	if (!response) {
		if (mode == MHD_RESPMEM_MUST_FREE)
			free(text);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	sent = MHD_queue_response(c, status, response);
	MHD_destroy_response(response);
	return sent;
}

static enum MHD_Result plain(struct MHD_Connection *c, unsigned status, const char *text)
{
	return answer(c, status, "text/plain; charset=utf-8", (char *)(uintptr_t)text, strlen(text),
		      MHD_RESPMEM_PERSISTENT);
}

static enum MHD_Result send_page(struct metrics *m, struct MHD_Connection *c,
				 const struct page *page)
{
	unsigned status = MHD_HTTP_OK;
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return MHD_NO;
	page->write(m->service, out);
	if (fclose(out)) {
		free(text);
		return MHD_NO;
	}
	if (page->write == page_health && service_draining(m->service))
		status = MHD_HTTP_SERVICE_UNAVAILABLE;
	return answer(c, status, page->type, text, len, MHD_RESPMEM_MUST_FREE);
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url,
				  const char *method, const char *version, const char *upload,
				  size_t *upload_len, void **state)
{
	set_busy(arg, c, 1);
	if (strcmp(method, MHD_HTTP_METHOD_GET) && strcmp(method, MHD_HTTP_METHOD_HEAD))
		return plain(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		if (!strcmp(url, pages[i].path))
			return send_page(arg, c, &pages[i]);
	return plain(c, MHD_HTTP_NOT_FOUND, "there are /metrics, /json and /healthz\n");
}

static int listen_at(const struct addrinfo *ai)
{
	int one = 1, err, fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (!bind(fd, ai->ai_addr, ai->ai_addrlen) && !listen(fd, CONNECTIONS))
		return fd;
	err = -errno;
	close(fd);
	return err;
}

static void bound_port(int fd, struct address *at)
{
	union {
		struct sockaddr_storage any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} addr = { 0 };
	socklen_t len = sizeof(addr);

	if (getsockname(fd, (struct sockaddr *)&addr, &len))
		return;
	at->port = ntohs(addr.any.ss_family == AF_INET6 ? addr.v6.sin6_port : addr.v4.sin_port);
}

static int listen_socket(struct address *at)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *ai;
	const char *host = strcmp(at->host, "*") ? at->host : NULL;
	char port[8];
	int fd, why;

	snprintf(port, sizeof(port), "%u", at->port);
	why = getaddrinfo(host, port, &hints, &ai);
	if (why) {
		gvm_log(GVM_LOG_ERROR, "--metrics %s: %s", at->host, gai_strerror(why));
		return -EINVAL;
	}
	fd = listen_at(ai);
	freeaddrinfo(ai);
	if (fd < 0)
		gvm_log(GVM_LOG_ERROR, "--metrics: cannot listen on %s port %u: %s", at->host,
			at->port, strerror(-fd));
	else
		bound_port(fd, at);
	return fd;
}

int metrics_open(struct service *service, struct address *at, struct metrics **metrics)
{
	struct metrics *m = calloc(1, sizeof(*m));
	int fd;

	if (!m)
		return -ENOMEM;
	m->service = service;
	fd = listen_socket(at);
	if (fd < 0) {
		free(m);
		return fd;
	}
	m->daemon = MHD_start_daemon(
	    MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL, 0, NULL, NULL, on_request, m,
	    MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS,
	    MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S, MHD_OPTION_NOTIFY_CONNECTION, on_connection, m,
	    MHD_OPTION_NOTIFY_COMPLETED, on_answered, m, MHD_OPTION_END);
	if (!m->daemon) {
		gvm_log(GVM_LOG_ERROR, "--metrics: cannot start the HTTP server");
		close(fd);
		free(m);
		return -EIO;
	}
	*metrics = m;
	return 0;
}

void metrics_close(struct metrics *metrics)
{
	MHD_stop_daemon(metrics->daemon);
	free(metrics);
}
