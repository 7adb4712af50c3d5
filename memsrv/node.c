/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "node.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include <gvmnet/cluster.h>

#include "identity.h"
#include "image.h"
#include "machine.h"
#include "metrics.h"
#include "store.h"

#define TICK_NS      100000000L
#define MAX_SESSIONS 65536u

struct node {
	struct settings *settings;
	struct gvm_cluster *cluster;
	struct gvm_net *net;
	struct image *image;
	struct store *store;
	struct service *service;
	struct metrics *metrics;
	sigset_t signals;

	/* the thread that syncs the image now and then */
	pthread_t syncer;
	int syncing;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	int stop;
};

/* ---- log ----------------------------------------------------------------------------------- */

static void to_journal(enum gvm_log_level level, const char *line)
{
	static const char *const prefix[] = { SD_ERR, SD_WARNING, SD_INFO, SD_DEBUG };

	fprintf(stderr, "%s%s\n", prefix[level], line);
}

static void to_terminal(enum gvm_log_level level, const char *line)
{
	static const char *const words[] = { "error: ", "warning: ", "", "debug: " };

	fprintf(stderr, "gvm-memsrv: %s%s\n", words[level], line);
}

void node_log_init(void)
{
	gvm_log_set(getenv("JOURNAL_STREAM") ? to_journal : to_terminal);
}

/* ---- opening ------------------------------------------------------------------------------- */

/* Clients ask at the address of a line: without --id and --listen it must be known which. */
static enum node_exit find_id(const struct node *n, const char *path)
{
	char text[16];
	unsigned id;

	if (n->settings->listens || gvm_option_number("GVM_NODE") != GVM_NODE_NONE)
		return NODE_OK;
	if (identity_find(n->cluster, path, &id))
		return NODE_USAGE;
	snprintf(text, sizeof(text), "%u", id);
	gvm_log(GVM_LOG_INFO, "this is node %u of %s: its host is this machine", id, path);
	return gvm_option_set("GVM_NODE", text) ? NODE_FAILED : NODE_OK;
}

static enum node_exit open_cluster(struct node *n)
{
	const char *path = gvm_option_text("GVM_CLUSTER");
	char *error = NULL;

	if (!*path)
		return NODE_OK;
	if (!gvm_cluster_load(path, &n->cluster, &error))
		return find_id(n, path);
	gvm_log(GVM_LOG_ERROR, "%s", error ? error : "the cluster file cannot be read");
	free(error);
	return NODE_USAGE;
}

/* Without --listen: this node's own line in the cluster file, or loopback. */
static void default_listen(struct node *n)
{
	struct settings *s = n->settings;
	unsigned id = (unsigned)gvm_option_number("GVM_NODE");
	const struct gvm_node *me = n->cluster ? gvm_cluster_node(n->cluster, id) : NULL;

	if (s->listens)
		return;
	snprintf(s->listen[0].host, sizeof(s->listen[0].host), "%s", me ? me->host : "127.0.0.1");
	s->listen[0].port = me ? me->port : 9999;
	s->listens = 1;
}

static int has_key(void)
{
	return *gvm_option_text("GVM_KEY_FILE") != 0;
}

static enum node_exit open_net(struct node *n)
{
	struct gvm_net_config config = { .cluster = n->cluster,
					 .node = (unsigned)gvm_option_number("GVM_NODE"),
					 .insecure = (int)gvm_option_number("GVM_INSECURE") };
	int err = gvm_net_open(&config, &n->net);

	if (!err)
		return NODE_OK;
	if (err == -ENOMEM)
		gvm_log(GVM_LOG_ERROR, "out of memory");
	return err == -EINVAL || err == -EPROTONOSUPPORT ? NODE_USAGE
	       : has_key()                               ? NODE_KEY
							 : NODE_FAILED;
}

static enum node_exit open_image(struct node *n)
{
	const struct settings *s = n->settings;

	if (!s->image)
		return NODE_OK;
	return image_open(s->image, s->trust ? IMAGE_TRUST : 0, &n->image) ? NODE_IMAGE : NODE_OK;
}

static enum node_exit open_store(struct node *n)
{
	const struct settings *s = n->settings;
	struct store_config config = { .net = n->net,
				       .incarnation = gvm_net_incarnation(n->net),
				       .memory = s->memory,
				       .limit = s->memory,
				       .region_quota = s->region_quota,
				       .max_regions = s->max_regions,
				       .max_sessions = MAX_SESSIONS,
				       .huge = s->huge,
				       .image = n->image };
	int err;

	if (s->overcommit > 1)
		config.limit = (uint64_t)((double)s->memory * s->overcommit);
	err = store_open(&config, &n->store);
	if (!err)
		return NODE_OK;
	if (!n->image)
		gvm_log(GVM_LOG_ERROR, "cannot open the store: %s", strerror(-err));
	return n->image ? NODE_IMAGE : NODE_FAILED;
}

static enum node_exit listen_failed(int err)
{
	switch (err) {
	case -EACCES:
		if (!has_key() && !gvm_option_number("GVM_INSECURE"))
			return NODE_KEY;
		return NODE_ADDRESS;
	case -EADDRINUSE:
	case -EADDRNOTAVAIL:
	case -EHOSTUNREACH:
	case -ENOENT:
		return NODE_ADDRESS;
	case -ENODEV: /* --transport names a device that is not there */
		return NODE_USAGE;
	default:
		return NODE_FAILED;
	}
}

static enum node_exit open_service(struct node *n)
{
	struct settings *s = n->settings;
	struct service_config config = { .net = n->net,
					 .store = n->store,
					 .workers = s->workers,
					 .listen = s->listen,
					 .listens = s->listens,
					 .state = s->state };
	int err = service_open(&config, &n->service);

	return err ? listen_failed(err) : NODE_OK;
}

static enum node_exit open_metrics(struct node *n)
{
	if (!n->settings->has_metrics)
		return NODE_OK;
	return metrics_open(n->service, &n->settings->metrics, &n->metrics) ? NODE_ADDRESS
									    : NODE_OK;
}

/* ---- syncing ------------------------------------------------------------------------------- */

static void *sync_now_and_then(void *arg)
{
	struct node *n = arg;
	struct timespec until;

	pthread_mutex_lock(&n->lock);
	clock_gettime(CLOCK_MONOTONIC, &until);
	while (!n->stop) {
		until.tv_sec += n->settings->sync_s;
		while (!n->stop && pthread_cond_timedwait(&n->wake, &n->lock, &until) == 0)
			;
		pthread_mutex_unlock(&n->lock);
		(void)image_sync(n->image); /* serve() sees what it found */
		pthread_mutex_lock(&n->lock);
		clock_gettime(CLOCK_MONOTONIC, &until);
	}
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

static enum node_exit start_syncer(struct node *n)
{
	pthread_condattr_t attr;
	int err;

	if (!n->image || !n->settings->sync_s)
		return NODE_OK;
	pthread_mutex_init(&n->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&n->wake, &attr);
	pthread_condattr_destroy(&attr);
	err = pthread_create(&n->syncer, NULL, sync_now_and_then, n);
	if (err) {
		gvm_log(GVM_LOG_ERROR, "cannot start a thread: %s", strerror(err));
		return NODE_FAILED;
	}
	n->syncing = 1;
	return NODE_OK;
}

static void stop_syncer(struct node *n)
{
	if (!n->syncing)
		return;
	pthread_mutex_lock(&n->lock);
	n->stop = 1;
	pthread_cond_signal(&n->wake);
	pthread_mutex_unlock(&n->lock);
	pthread_join(n->syncer, NULL);
	pthread_cond_destroy(&n->wake);
	pthread_mutex_destroy(&n->lock);
}

/* ---- running ------------------------------------------------------------------------------- */

static void say_ready(const struct node *n)
{
	const struct settings *s = n->settings;
	int large = s->memory >= UINT64_C(1) << 30;
	char line[1024];
	size_t at = 0;

	for (unsigned i = 0; i < s->listens && at < sizeof(line); i++) {
		const struct address *a = &s->listen[i];
		const char *v6 = strchr(a->host, ':');

		at += (size_t)snprintf(line + at, sizeof(line) - at, "%s%s%s%s:%u", i ? ", " : "",
				       v6 ? "[" : "", a->host, v6 ? "]" : "", a->port);
	}
	if (n->metrics)
		fprintf(stderr, "%sgvm-memsrv: metrics at http://%s%s%s:%u/metrics\n",
			getenv("JOURNAL_STREAM") ? SD_NOTICE : "",
			strchr(s->metrics.host, ':') ? "[" : "", s->metrics.host,
			strchr(s->metrics.host, ':') ? "]" : "", s->metrics.port);
	if (strcmp(service_transports(n->service), "tcp") && at < sizeof(line))
		snprintf(line + at, sizeof(line) - at, " over %s", service_transports(n->service));
	fprintf(stderr, "%sgvm-memsrv: listening on %s, %.*f %s for slabs, %s, image %s\n",
		getenv("JOURNAL_STREAM") ? SD_NOTICE : "", line, large,
		(double)s->memory / (double)(UINT64_C(1) << (large ? 30 : 20)),
		large ? "GiB" : "MiB", has_key() ? "key required" : "no key",
		s->image ? s->image : "none");
	sd_notifyf(0, "READY=1\nSTATUS=listening on %s", line);
}

static int image_is_lost(const struct node *n)
{
	return n->image && image_check(n->image);
}

/* A tick each 100 ms until a signal asks for the end, or the image can be trusted no more: what the
 * kernel has dropped of it would be served as zeros, so then nothing is served and nothing is
 * drained. To clients it is a node that is gone: what they have stays with them, and they wait. */
static enum node_exit serve(struct node *n)
{
	const struct timespec tick = { 0, TICK_NS };

	while (sigtimedwait(&n->signals, NULL, &tick) < 0) {
		if (image_is_lost(n))
			return NODE_IMAGE;
		store_tick(n->store);
		service_tick(n->service);
	}
	return NODE_OK;
}

/* Nothing new; what clients have under way may end, for drain_ms or until they have let go. A
 * second signal cuts it short. */
static void drain(struct node *n)
{
	const struct timespec tick = { 0, TICK_NS / 5 };
	uint64_t end = gvm_now() + n->settings->drain_ms * UINT64_C(1000000);

	sd_notify(0, "STOPPING=1\nSTATUS=draining");
	store_drain(n->store);
	service_unlisten(n->service);
	while (store_sessions(n->store) && gvm_now() < end) {
		if (sigtimedwait(&n->signals, NULL, &tick) > 0 || image_is_lost(n))
			break;
		store_tick(n->store);
		service_tick(n->service);
	}
}

static enum node_exit open_all(struct node *n)
{
	static enum node_exit (*const steps[])(
	    struct node *) = { open_cluster, open_net,     open_image,  open_store,
			       open_service, open_metrics, start_syncer };
	enum node_exit status = NODE_OK;

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]) && status == NODE_OK; i++) {
		if (steps[i] == open_service)
			default_listen(n);
		status = steps[i](n);
	}
	return status;
}

/* In reverse. The image is clean when everything that used it has ended. */
static int close_all(struct node *n)
{
	int err = 0;

	stop_syncer(n);
	if (n->metrics)
		metrics_close(n->metrics);
	if (n->service)
		service_close(n->service);
	if (n->store)
		store_close(n->store);
	if (n->image)
		err = image_close(n->image, 1);
	if (n->net)
		gvm_net_close(n->net);
	gvm_cluster_free(n->cluster);
	return err;
}

/* Said by a signal handler, so made before. */
static char torn_line[4352];
static size_t torn_len;

/* A page of the image's mapping cannot be had, in whatever thread needs it: there is no going on.
 */
static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	if (info->si_code == BUS_ADRERR) {
		(void)!write(STDERR_FILENO, torn_line, torn_len);
		_exit(NODE_TORN);
	}
	signal(sig, SIG_DFL);
	raise(sig);
}

static void explain_sigbus(const struct settings *s)
{
	struct sigaction act = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
	int n;

	if (!s->image)
		return;
	n = snprintf(
	    torn_line, sizeof(torn_line),
	    "%simage %s: a part of it cannot be read: the file was cut short while in use, "
	    "or its disk fails (see dmesg); restore it, or remove it to start without its "
	    "regions\n",
	    getenv("JOURNAL_STREAM") ? SD_ERR : "gvm-memsrv: error: ", s->image);
	torn_len = n < (int)sizeof(torn_line) ? (size_t)n : sizeof(torn_line) - 1;
	sigaction(SIGBUS, &act, NULL);
}

static void take_signals(struct node *n)
{
	sigemptyset(&n->signals);
	sigaddset(&n->signals, SIGTERM);
	sigaddset(&n->signals, SIGINT);
	pthread_sigmask(SIG_BLOCK, &n->signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* an image that may not grow is -ENOSPC */
}

enum node_exit node_run(struct settings *settings)
{
	struct node n = { .settings = settings };
	enum node_exit status;

	take_signals(&n);
	explain_sigbus(settings);
	if (machine_raise_file_limit() ||
	    machine_check_memory(settings->memory, settings->image != NULL))
		return NODE_USAGE;
	status = open_all(&n);
	if (status == NODE_OK) {
		say_ready(&n);
		status = serve(&n);
		if (status == NODE_OK)
			drain(&n);
	}
	if (close_all(&n) && status == NODE_OK)
		status = NODE_IMAGE;
	return status;
}
