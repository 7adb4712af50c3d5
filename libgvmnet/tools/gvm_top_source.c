/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where gvm top's numbers come from: files that pagers renew each second, and memory nodes, which
 * are asked by NODE_STAT over a connection of their own, with the handshake that all connections
 * have. The network part is opened only when a node is to be asked.
 */
#include "tools/gvm_top.h"
#include "tools/gvm.h"
#include "wire/wire.h"

#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ASK_NS         1000000000ull
#define FILE_MAX_BYTES (1u << 20)

struct top_node {
	struct gvm_op op;
	struct top_source *source;
	struct gvm_peer *peer;
	int busy;
};

struct top_sources {
	struct top_source *first, **end;
	char dir[PATH_MAX]; /* to look for pagers in, or "" */
	struct gvm_cluster *cluster;
	struct gvm_net *net;
	struct gvm_worker *worker;
};

/* ---- what a source has said ---------------------------------------------------------------- */

static void said(struct top_source *s, json_t *json)
{
	s->why[0] = 0;
	/* Read twice between two of its words: the change is still that of the last one. */
	if (json_equal(s->now, json)) {
		json_decref(json);
		return;
	}
	json_decref(s->before);
	s->before = s->now;
	s->before_ns = s->now_ns;
	s->now = json;
	s->now_ns = gvm_now();
}

static void said_text(struct top_source *s, const char *text, size_t len)
{
	json_error_t error;
	json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);

	if (json_is_object(json)) {
		said(s, json);
		return;
	}
	json_decref(json);
	snprintf(s->why, sizeof(s->why), "what it says is not JSON");
}

static struct top_source *add(struct top_sources *sources, const char *title)
{
	struct top_source *s = calloc(1, sizeof(*s));

	if (s)
		s->title = strdup(title);
	if (!s || !s->title) {
		free(s);
		return NULL;
	}
	*sources->end = s;
	sources->end = &s->next;
	return s;
}

/* ---- files --------------------------------------------------------------------------------- */

static void read_file(struct top_source *s)
{
	FILE *in = fopen(s->file, "re");
	char *text = in ? malloc(FILE_MAX_BYTES) : NULL;
	size_t len = text ? fread(text, 1, FILE_MAX_BYTES, in) : 0;

	if (len > 0)
		said_text(s, text, len);
	else
		snprintf(s->why, sizeof(s->why), "cannot be read: %.100s",
			 in ? "it is empty" : strerror(errno));
	free(text);
	if (in)
		fclose(in);
}

static int add_file(struct top_sources *sources, const char *path, int found)
{
	struct top_source *s;

	for (s = sources->first; s; s = s->next)
		if (s->file && strcmp(s->file, path) == 0)
			return 0;
	s = add(sources, path);
	if (!s)
		return -ENOMEM;
	s->file = s->title;
	s->found = found;
	return 0;
}

static void free_source(struct top_source *s)
{
	json_decref(s->now);
	json_decref(s->before);
	free(s->node);
	free(s->title);
	free(s);
}

/* Pagers take their files with them when they end. */
static void forget_ended(struct top_sources *sources)
{
	struct top_source **at = &sources->first, *s;

	while ((s = *at)) {
		if (s->found && access(s->file, F_OK) < 0) {
			*at = s->next;
			free_source(s);
		} else {
			at = &s->next;
		}
	}
	sources->end = at;
}

/* Files of pagers that begin after gvm top are found too. */
static void look_for_files(struct top_sources *sources)
{
	char path[PATH_MAX + NAME_MAX + 2];
	struct dirent *entry;
	DIR *dir = *sources->dir ? opendir(sources->dir) : NULL;

	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		size_t len = strlen(entry->d_name);

		if (len < 6 || strcmp(entry->d_name + len - 5, ".json") != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", sources->dir, entry->d_name);
		add_file(sources, path, 1);
	}
	closedir(dir);
}

/* ---- memory nodes -------------------------------------------------------------------------- */

static void set_why(struct top_source *s, int err)
{
	const char *why = gvm_why(err);

	snprintf(s->why, sizeof(s->why), "cannot be asked: %.140s", why ? why : strerror(-err));
}

static void answered(struct gvm_op *op, int status)
{
	struct top_node *node = (struct top_node *)op;
	struct top_source *s = node->source;

	node->busy = 0;
	if (status == 0 && op->reply)
		said_text(s, op->reply->body, op->reply->length);
	else
		set_why(s, status);
}

static void ask(struct top_node *node)
{
	struct gvm_msg msg = { .type = GVM_T_NODE_STAT };
	int err;

	node->op.done = answered;
	node->op.deadline_ns = gvm_now() + ASK_NS;
	err = gvm_call(node->peer, &msg, &node->op);
	node->busy = err == 0;
	if (err < 0)
		set_why(node->source, err);
}

static int open_net(struct top_sources *sources)
{
	struct gvm_net_config config = { .cluster = sources->cluster, .node = GVM_NODE_NONE };
	struct gvm_worker_config worker = { .cpu = -1 };
	int err = 0;

	gvm_why_begin();
	if (!sources->net)
		err = gvm_net_open(&config, &sources->net);
	if (err && *gvm_why_line()) {
		fprintf(stderr, "gvm top: %s\n", gvm_why_line());
		return -EALREADY; /* said */
	}
	if (err == 0 && !sources->worker)
		err = gvm_worker_open(sources->net, &worker, &sources->worker);
	return err;
}

static int add_peer(struct top_sources *sources, struct gvm_peer *peer)
{
	struct top_source *s = add(sources, gvm_peer_name(peer));

	if (s)
		s->node = calloc(1, sizeof(*s->node));
	if (!s || !s->node)
		return -ENOMEM;
	s->node->source = s;
	s->node->peer = peer;
	return 0;
}

static int add_node(struct top_sources *sources, unsigned id)
{
	struct gvm_peer *peer;
	int err = open_net(sources);

	if (err == 0)
		err = gvm_peer_get(sources->worker, id, &peer);
	return err ? err : add_peer(sources, peer);
}

/* "HOST:PORT", "[IPv6]:PORT" */
static int add_address(struct top_sources *sources, const char *text)
{
	const char *colon = strrchr(text, ':');
	char host[256], *end;
	size_t len = colon ? (size_t)(colon - text) : 0;
	unsigned long port;
	struct gvm_peer *peer;
	int err;

	if (len == 0 || len >= sizeof(host))
		return -EINVAL;
	port = strtoul(colon + 1, &end, 10);
	if (*end || port < 1 || port > 65535)
		return -EINVAL;
	if (text[0] == '[' && text[len - 1] == ']')
		snprintf(host, sizeof(host), "%.*s", (int)len - 2, text + 1);
	else
		snprintf(host, sizeof(host), "%.*s", (int)len, text);
	err = open_net(sources);
	if (err == 0)
		err = gvm_peer_at(sources->worker, host, (unsigned)port, &peer);
	return err ? err : add_peer(sources, peer);
}

static int add_cluster(struct top_sources *sources)
{
	const struct gvm_node *n;
	size_t i;
	int err = 0;

	for (i = 0; err == 0 && (n = gvm_cluster_at(sources->cluster, i)); i++)
		if (n->roles & GVM_ROLE_MEMORY)
			err = add_node(sources, n->id);
	return err;
}

/* ---- all of them --------------------------------------------------------------------------- */

static int load_cluster(struct top_sources *sources)
{
	const char *path = gvm_option_text("GVM_CLUSTER");
	char *error = NULL;
	int err = *path ? gvm_cluster_load(path, &sources->cluster, &error) : 0;

	if (err < 0)
		fprintf(stderr, "gvm top: %s\n", error ? error : strerror(-err));
	free(error);
	return err;
}

static int add_named(struct top_sources *sources, const char *name)
{
	int err;

	if (*name && strspn(name, "0123456789") == strlen(name))
		err = sources->cluster ? add_node(sources, (unsigned)strtoul(name, NULL, 10))
				       : -ENOENT;
	else if (strchr(name, ':') && !strchr(name, '/'))
		err = add_address(sources, name);
	else
		err = add_file(sources, name, 0);
	if (err == -EINVAL)
		fprintf(stderr,
			"gvm top: \"%s\" is neither a file, nor HOST:PORT, nor a node's id\n",
			name);
	else if (err == -ENOENT)
		fprintf(stderr, "gvm top: there is no node %s%s\n", name,
			sources->cluster ? " in the cluster file" : ": name a --cluster file");
	else if (err < 0 && err != -EALREADY)
		fprintf(stderr, "gvm top: %s: %s\n", name, strerror(-err));
	return err;
}

static int add_default(struct top_sources *sources)
{
	const char *file = gvm_option_text("GVM_STATS_FILE");
	int err = *file ? add_file(sources, file, 0) : 0;

	if (gvm_stats_dir(sources->dir, sizeof(sources->dir), 0) < 0)
		sources->dir[0] = 0;
	if (err == 0 && sources->cluster)
		err = add_cluster(sources);
	return err;
}

struct top_sources *top_sources_open(char **names, int count)
{
	struct top_sources *sources = calloc(1, sizeof(*sources));
	int i, err;

	if (!sources)
		return NULL;
	sources->end = &sources->first;
	err = load_cluster(sources);
	for (i = 0; err == 0 && i < count; i++)
		err = add_named(sources, names[i]);
	if (err == 0 && count == 0)
		err = add_default(sources);
	if (err == 0)
		return sources;
	top_sources_close(sources);
	return NULL;
}

void top_sources_close(struct top_sources *sources)
{
	struct top_source *s, *next;

	if (sources->worker)
		gvm_worker_close(sources->worker);
	if (sources->net)
		gvm_net_close(sources->net);
	gvm_cluster_free(sources->cluster);
	for (s = sources->first; s; s = next) {
		next = s->next;
		free_source(s);
	}
	free(sources);
}

static int nodes_busy(const struct top_sources *sources)
{
	const struct top_source *s;

	for (s = sources->first; s; s = s->next)
		if (s->node && s->node->busy)
			return 1;
	return 0;
}

void top_sources_refresh(struct top_sources *sources, uint64_t patience_ns)
{
	uint64_t now, until = gvm_now() + patience_ns;
	struct top_source *s;

	forget_ended(sources);
	look_for_files(sources);
	for (s = sources->first; s; s = s->next) {
		if (s->file)
			read_file(s);
		else if (!s->node->busy)
			ask(s->node);
	}
	while (nodes_busy(sources) && (now = gvm_now()) < until)
		gvm_worker_wait(sources->worker, until - now);
}

struct top_source *top_sources_first(struct top_sources *sources)
{
	return sources->first;
}
