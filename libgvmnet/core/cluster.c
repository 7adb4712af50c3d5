/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The cluster file: reading it, strictly, with file and line in every refusal. A mistake in this
 * file would send pages to the wrong machine, so nothing is guessed or passed over. The map is the
 * caller's; immutable once returned, so any thread may read it.
 */
#include "core/cluster_map.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define FILE_MAX_BYTES (16u << 20)
#define DEFAULT_WEIGHT 100u
#define MAX_WEIGHT     1000000u
#define HOST_MAX_BYTES 253u
#define SEEN_SLOTS     32768u /* power of two, more than twice GVM_MAX_NODES */

/* A piece of the file; not terminated. */
struct word {
	const char *at;
	size_t len;
};

struct parser {
	const char *name; /* of the file, for errors */
	unsigned line;
	char **error;
	struct gvm_cluster *cluster;
	size_t hosts_used;
	unsigned name_line;                /* where the cluster is named; 0: nowhere yet */
	unsigned id_line[GVM_MAX_NODES];   /* where each id was met; 0: nowhere */
	uint16_t seen[SEEN_SLOTS];         /* 1 + index in nodes, by hash of host and port */
	unsigned node_line[GVM_MAX_NODES]; /* by index in nodes */
};

/* ---- errors -------------------------------------------------------------------------------- */

static int fail(char **error, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static int fail(char **error, int err, const char *fmt, ...)
{
	va_list args;

	if (error) {
		va_start(args, fmt);
		if (vasprintf(error, fmt, args) < 0)
			*error = NULL;
		va_end(args);
	}
	return err;
}

#define REFUSE(p, fmt, ...)                                                                        \
	fail((p)->error, -EINVAL, "%s:%u: " fmt, (p)->name, (p)->line, ##__VA_ARGS__)

/* A word as it may be shown: short, and without what a terminal would obey. */
struct shown {
	char text[48];
};

static struct shown show(struct word w)
{
	struct shown s;
	size_t i, n = w.len < sizeof(s.text) - 4 ? w.len : sizeof(s.text) - 4;

	for (i = 0; i < n; i++)
		s.text[i] = w.at[i] < 0x20 || w.at[i] == 0x7f ? '?' : w.at[i];
	memcpy(s.text + n, n < w.len ? "..." : "", n < w.len ? 4 : 1);
	return s;
}

/* ---- words --------------------------------------------------------------------------------- */

static int is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static struct word next_word(const char **at, const char *end)
{
	struct word w;

	while (*at < end && is_blank(**at))
		(*at)++;
	w.at = *at;
	while (*at < end && !is_blank(**at))
		(*at)++;
	w.len = (size_t)(*at - w.at);
	return w;
}

static int same(struct word w, const char *text)
{
	return w.len == strlen(text) && memcmp(w.at, text, w.len) == 0;
}

/* If w begins with prefix, what follows it. */
static int after(struct word w, const char *prefix, struct word *rest)
{
	size_t n = strlen(prefix);

	if (w.len < n || memcmp(w.at, prefix, n) != 0)
		return 0;
	*rest = (struct word){ w.at + n, w.len - n };
	return 1;
}

/* Digits only, min to max. */
static int number(struct word w, unsigned min, unsigned max, unsigned *value)
{
	unsigned long v = 0;
	size_t i;

	for (i = 0; i < w.len; i++) {
		if (w.at[i] < '0' || w.at[i] > '9')
			return 0;
		v = v * 10 + (unsigned long)(w.at[i] - '0');
		if (v > max)
			return 0;
	}
	if (w.len == 0 || v < min)
		return 0;
	*value = (unsigned)v;
	return 1;
}

static int alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int only(struct word w, const char *also)
{
	size_t i;

	for (i = 0; i < w.len; i++)
		if (!alnum(w.at[i]) && (w.at[i] == 0 || !strchr(also, w.at[i])))
			return 0;
	return w.len > 0;
}

/* ---- hosts --------------------------------------------------------------------------------- */

/* An IPv6 address, with or without %zone, canonical in out. */
static int canonical_ipv6(const char *host, char *out, size_t size)
{
	char address[INET6_ADDRSTRLEN];
	size_t n = strcspn(host, "%");
	const char *zone = host + n;
	struct in6_addr in6;

	if (n >= sizeof(address))
		return 0;
	memcpy(address, host, n);
	address[n] = 0;
	if (inet_pton(AF_INET6, address, &in6) != 1)
		return 0;
	if (*zone && !only((struct word){ zone + 1, strlen(zone + 1) }, "._-"))
		return 0;
	inet_ntop(AF_INET6, &in6, address, sizeof(address));
	return snprintf(out, size, "%s%s", address, zone) < (int)size;
}

/* Labels of letters, digits, '-' and '_', and not one that reads as a number at the end. */
static int canonical_name(const char *host, char *out, size_t size)
{
	const char *label = host;
	size_t i, n;

	for (;;) {
		n = strcspn(label, ".");
		if (n < 1 || n > 63 || !only((struct word){ label, n }, "-_") || label[0] == '-' ||
		    label[n - 1] == '-')
			return 0;
		if (!label[n] || !label[n + 1])
			break;
		label += n + 1;
	}
	if (strspn(label, "0123456789") == n)
		return 0;
	for (i = 0; host[i] && i < size - 1; i++)
		out[i] = host[i] >= 'A' && host[i] <= 'Z' ? (char)(host[i] + 32) : host[i];
	if (out[i - 1] == '.')
		i--;
	out[i] = 0;
	return 1;
}

/* One spelling for each host, so that doubles are seen. */
static int canonical(const char *host, char *out, size_t size)
{
	struct in_addr in;

	if (strchr(host, ':'))
		return canonical_ipv6(host, out, size);
	if (inet_pton(AF_INET, host, &in) == 1)
		return inet_ntop(AF_INET, &in, out, (socklen_t)size) != NULL;
	return canonical_name(host, out, size);
}

static int parse_host(struct parser *p, struct word w, struct gvm_node *node, char *spelling,
		      size_t size)
{
	char *host = p->cluster->hosts + p->hosts_used;
	struct word inner = w;
	int brackets = w.len >= 2 && w.at[0] == '[' && w.at[w.len - 1] == ']';

	if (brackets)
		inner = (struct word){ w.at + 1, w.len - 2 };
	if (inner.len == 0 || inner.len > HOST_MAX_BYTES)
		return REFUSE(p, "\"%s\" is not a host: it may have 1 to %u bytes", show(w).text,
			      HOST_MAX_BYTES);
	memcpy(host, inner.at, inner.len);
	host[inner.len] = 0;
	if ((brackets && !strchr(host, ':')) || !canonical(host, spelling, size))
		return REFUSE(p,
			      "\"%s\" is not a host: it may be a name, an IPv4 or an IPv6 address",
			      show(w).text);
	p->hosts_used += inner.len + 1;
	node->host = host;
	return 0;
}

/* ---- one node ------------------------------------------------------------------------------ */

static int parse_role(struct parser *p, struct word w, struct gvm_node *node)
{
	if (node->roles)
		return REFUSE(p, "role= is there twice");
	if (same(w, "memory"))
		node->roles = GVM_ROLE_MEMORY;
	else if (same(w, "compute"))
		node->roles = GVM_ROLE_COMPUTE;
	else if (same(w, "both"))
		node->roles = GVM_ROLE_MEMORY | GVM_ROLE_COMPUTE;
	else
		return REFUSE(p, "role \"%s\" is not known; it may be memory, compute or both",
			      show(w).text);
	return 0;
}

static int parse_weight(struct parser *p, struct word w, struct gvm_node *node)
{
	if (node->weight)
		return REFUSE(p, "weight= is there twice");
	if (!number(w, 1, MAX_WEIGHT, &node->weight))
		return REFUSE(p, "weight \"%s\" is not a number from 1 to %u", show(w).text,
			      MAX_WEIGHT);
	return 0;
}

static int parse_attributes(struct parser *p, const char *at, const char *end,
			    struct gvm_node *node)
{
	struct word w, value;
	int err = 0;

	while (err == 0 && (w = next_word(&at, end)).len > 0) {
		if (after(w, "role=", &value))
			err = parse_role(p, value, node);
		else if (after(w, "weight=", &value))
			err = parse_weight(p, value, node);
		else
			err = REFUSE(p, "\"%s\" is not known here; role=... and weight=... are",
				     show(w).text);
	}
	if (!node->roles)
		node->roles = GVM_ROLE_MEMORY;
	if (!node->weight)
		node->weight = DEFAULT_WEIGHT;
	return err;
}

static uint32_t hash_of(const char *spelling, unsigned port)
{
	uint32_t h = 2166136261u ^ port; /* FNV-1a */

	for (; *spelling; spelling++)
		h = (h ^ (unsigned char)*spelling) * 16777619u;
	return h;
}

/* Refuse an id, or a host and port, that another line has. */
static int note_node(struct parser *p, const struct gvm_node *node, const char *spelling)
{
	uint32_t slot = hash_of(spelling, node->port);
	char other[HOST_MAX_BYTES + 32];
	size_t index = p->cluster->count;

	if (p->id_line[node->id])
		return REFUSE(p, "node %u is already on line %u", node->id, p->id_line[node->id]);
	for (; p->seen[slot % SEEN_SLOTS]; slot++) {
		size_t i = p->seen[slot % SEEN_SLOTS] - 1u;
		const struct gvm_node *have = &p->cluster->nodes[i];

		if (have->port == node->port && canonical(have->host, other, sizeof(other)) &&
		    strcmp(other, spelling) == 0)
			return REFUSE(p, "host %.80s port %u is already on line %u, as node %u",
				      node->host, node->port, p->node_line[i], have->id);
	}
	p->seen[slot % SEEN_SLOTS] = (uint16_t)(index + 1);
	p->id_line[node->id] = p->line;
	p->node_line[index] = p->line;
	return 0;
}

static int parse_node(struct parser *p, struct word id, const char *at, const char *end)
{
	char spelling[HOST_MAX_BYTES + 32];
	struct gvm_node node = { 0 };
	struct word host, port;
	int err;

	if (!number(id, 0, GVM_MAX_NODES - 1, &node.id))
		return REFUSE(p, "\"%s\" is not a node id, a number from 0 to %u", show(id).text,
			      GVM_MAX_NODES - 1);
	host = next_word(&at, end);
	port = next_word(&at, end);
	if (port.len == 0)
		return REFUSE(p, "a line is ID HOST PORT; this one has no %s",
			      host.len ? "port" : "host");
	if (!number(port, 1, 65535, &node.port))
		return REFUSE(p, "\"%s\" is not a port, a number from 1 to 65535", show(port).text);
	err = parse_host(p, host, &node, spelling, sizeof(spelling));
	if (err == 0)
		err = parse_attributes(p, at, end, &node);
	if (err == 0)
		err = note_node(p, &node, spelling);
	if (err == 0)
		p->cluster->nodes[p->cluster->count++] = node;
	return err;
}

/* ---- the file ------------------------------------------------------------------------------ */

static int parse_name(struct parser *p, const char *at, const char *end)
{
	struct word name = next_word(&at, end), more = next_word(&at, end);

	if (p->name_line)
		return REFUSE(p, "the cluster is already named on line %u", p->name_line);
	if (more.len || name.len >= sizeof(p->cluster->name) || !only(name, "._-"))
		return REFUSE(p, "the cluster's name is one word of 1 to 63 letters, digits, "
				 "'.', '_' and '-'");
	memcpy(p->cluster->name, name.at, name.len);
	p->cluster->name[name.len] = 0;
	p->name_line = p->line;
	return 0;
}

static int parse_line(struct parser *p, const char *at, const char *end)
{
	const char *comment;
	struct word first;

	if (memchr(at, 0, (size_t)(end - at)))
		return REFUSE(p, "there is a NUL byte; is this a text file?");
	comment = memchr(at, '#', (size_t)(end - at));
	if (comment)
		end = comment;
	else if (end > at && end[-1] == '\r')
		end--;
	first = next_word(&at, end);
	if (first.len == 0)
		return 0;
	if (same(first, "cluster"))
		return parse_name(p, at, end);
	return parse_node(p, first, at, end);
}

static int parse_text(struct parser *p, const char *text, size_t len)
{
	const char *at = text, *end = text + len;
	int err = 0;

	if (len >= 3 && memcmp(at, "\xef\xbb\xbf", 3) == 0)
		at += 3; /* the mark that some editors put before UTF-8 */
	while (err == 0 && at < end) {
		const char *stop = memchr(at, '\n', (size_t)(end - at));

		if (!stop)
			stop = end;
		p->line++;
		err = parse_line(p, at, stop);
		at = stop + 1;
	}
	if (err == 0 && p->cluster->count == 0)
		err = fail(p->error, -EINVAL, "%s: there is no node in it; a line is ID HOST PORT",
			   p->name);
	return err;
}

static int by_id(const void *a, const void *b)
{
	const struct gvm_node *x = a, *y = b;

	return (int)x->id - (int)y->id;
}

/* How many nodes the text can have at most, so that a small file takes little memory. */
static size_t lines_in(const char *text, size_t len)
{
	const char *end = text + len;
	size_t n = 1;

	while (n < GVM_MAX_NODES && text < end &&
	       (text = memchr(text, '\n', (size_t)(end - text)))) {
		text++;
		n++;
	}
	return n;
}

static struct gvm_cluster *new_cluster(const char *text, size_t len)
{
	struct gvm_cluster *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	strcpy(c->name, "default");
	c->nodes = calloc(lines_in(text, len), sizeof(*c->nodes));
	c->hosts = malloc(len + 1);
	if (c->nodes && c->hosts)
		return c;
	gvm_cluster_free(c);
	return NULL;
}

int gvm_cluster_parse(const char *text, size_t len, const char *name, struct gvm_cluster **cluster,
		      char **error)
{
	struct parser *p = calloc(1, sizeof(*p));
	int err = -ENOMEM;

	if (!p)
		return fail(error, -ENOMEM, "%s: out of memory", name);
	p->name = name;
	p->error = error;
	p->cluster = new_cluster(text, len);
	if (p->cluster) {
		err = parse_text(p, text, len);
		if (err == 0) {
			qsort(p->cluster->nodes, p->cluster->count, sizeof(struct gvm_node), by_id);
			err = gvm_place_prepare(p->cluster);
		}
	}
	if (err == -ENOMEM)
		fail(error, err, "%s: out of memory", name);
	if (err == 0)
		*cluster = p->cluster;
	else
		gvm_cluster_free(p->cluster);
	free(p);
	return err;
}

int gvm_cluster_single(const char *address, struct gvm_cluster **cluster, char **error)
{
	const char *colon = strrchr(address, ':');
	char line[HOST_MAX_BYTES + 32], *why = NULL;
	int len = -1, err;

	if (colon && colon != address && colon[1] && !strpbrk(address, " \t\r\n#"))
		len = snprintf(line, sizeof(line), "0 %.*s %s\n", (int)(colon - address), address,
			       colon + 1);
	if (len < 0 || (size_t)len >= sizeof(line))
		return fail(error, -EINVAL, "%.80s: HOST:PORT is wanted", address);
	err = gvm_cluster_parse(line, (size_t)len, "", cluster, error ? &why : NULL);
	if (why) /* without the place in the text, which is ours */
		fail(error, err, "%s: %s", address, strncmp(why, ":1: ", 4) ? why : why + 4);
	free(why);
	return err;
}

/* A buffer that grows up to what a cluster file may have. */
struct text {
	char *at;
	size_t used, size;
};

static int text_grow(struct text *text)
{
	size_t size = text->size ? text->size * 2 : 65536;
	char *grown;

	if (size > 2 * FILE_MAX_BYTES)
		return -EFBIG;
	grown = realloc(text->at, size);
	if (!grown)
		return -ENOMEM;
	text->at = grown;
	text->size = size;
	return 0;
}

/* Everything that fd has, also if it is a pipe. */
static int text_read(struct text *text, int fd)
{
	for (;;) {
		int err = text->used == text->size ? text_grow(text) : 0;
		ssize_t n;

		if (err < 0)
			return err;
		n = read(fd, text->at + text->used, text->size - text->used);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return text->used > FILE_MAX_BYTES ? -EFBIG : 0;
		text->used += n > 0 ? (size_t)n : 0;
	}
}

int gvm_cluster_load(const char *path, struct gvm_cluster **cluster, char **error)
{
	int err, fd = open(path, O_RDONLY | O_CLOEXEC);
	struct text text = { 0 };

	err = fd < 0 ? -errno : text_read(&text, fd);
	if (fd >= 0)
		close(fd);
	if (err < 0)
		fail(error, err, "%s: cannot be read: %s", path, strerror(-err));
	else
		err = gvm_cluster_parse(text.at, text.used, path, cluster, error);
	free(text.at);
	return err;
}

void gvm_cluster_free(struct gvm_cluster *cluster)
{
	if (!cluster)
		return;
	free(cluster->nodes);
	free(cluster->candidates);
	free(cluster->hosts);
	free(cluster);
}

/* ---- questions ----------------------------------------------------------------------------- */

const char *gvm_cluster_name(const struct gvm_cluster *cluster)
{
	return cluster->name;
}

uint32_t gvm_cluster_epoch(const struct gvm_cluster *cluster)
{
	return 1;
}

size_t gvm_cluster_size(const struct gvm_cluster *cluster)
{
	return cluster->count;
}

const struct gvm_node *gvm_cluster_at(const struct gvm_cluster *cluster, size_t i)
{
	return i < cluster->count ? &cluster->nodes[i] : NULL;
}

const struct gvm_node *gvm_cluster_node(const struct gvm_cluster *cluster, unsigned id)
{
	struct gvm_node key = { .id = id };

	if (id >= GVM_MAX_NODES)
		return NULL;
	return bsearch(&key, cluster->nodes, cluster->count, sizeof(key), by_id);
}

uint64_t gvm_cluster_digest(const struct gvm_cluster *cluster)
{
	return cluster->digest;
}
