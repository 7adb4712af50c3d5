/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm region: the regions that memory nodes keep. The list and what is deleted are asked of each
 * node by itself, not through the region client: a region is there to be seen and to be deleted
 * also where a part of it is lost, and a clone without the name that it was placed as. What is made
 * or resized is a whole, so that is the region client's. One thread.
 */
#include "tools/gvm.h"
#include "tools/gvm_nodes.h"
#include "tools/gvm_region.h"
#include "wire/wire.h"

#include <gvmnet/region.h>

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_NS 100000000ull

struct asked {
	int json;
	uint64_t bytes;
	const char *placed_as;
	char **names; /* up to the NULL */
	int count;
};

/* ---- command line -------------------------------------------------------------------------- */

static int help(void)
{
	puts("usage: gvm region list [--json]\n"
	     "       gvm region delete NAME...\n"
	     "       gvm region create NAME --bytes SIZE\n"
	     "       gvm region resize NAME --bytes SIZE [--placed-as NAME]\n"
	     "\n"
	     "Shows and changes the regions that the memory nodes of a cluster keep.\n"
	     "\n"
	     "  list      by node: name, size, slabs that have memory there, saved or\n"
	     "            ephemeral (goes with its client), and who holds it: a number that\n"
	     "            stands for the client, the same for all of its regions on that\n"
	     "            node, and its connections\n"
	     "  delete    from all nodes, with what is in it; not one that a client holds\n"
	     "  create    make one that is saved; its pages are zeros. GVM_SLAB: how large\n"
	     "            its slabs are\n"
	     "  resize    growing gives zeros, what is cut off is gone; not one that a\n"
	     "            client holds\n"
	     "\n"
	     "  --cluster FILE       the memory nodes: a line \"ID HOST PORT\" for each\n"
	     "  --connect HOST:PORT  the one memory node, in place of a cluster file\n"
	     "  --key-file FILE      the pre-shared key, the same as the memory nodes'\n"
	     "  --bytes SIZE         a multiple of 4096, such as 64M\n"
	     "  --placed-as NAME     resize a clone: the region that it was cloned from\n"
	     "  --json               the list as JSON\n"
	     "\n"
	     "Exit code 0: done; 1: not, standard error says why; 2: wrong usage.");
	return GVM_EXIT_OK;
}

__attribute__((format(printf, 1, 2))) static int complain(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("gvm region: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	return -1;
}

static int name_ok(const char *text)
{
	char padded[GVM_WIRE_NAME_MAX + 1] = "";

	if (strlen(text) < sizeof padded) {
		memcpy(padded, text, strlen(text));
		if (gvm_wire_name_ok(padded))
			return 1;
	}
	complain("\"%.80s\" is no name of a region: 1 to %u of A-Z a-z 0-9 . _ -", text,
		 GVM_WIRE_NAME_MAX);
	return 0;
}

/* "--name=VALUE", or "--name" with the next word: that is then skipped. 0: it is another one. */
static const char *value_of(char **argv, int *i, const char *name)
{
	size_t len = strlen(name);

	if (strncmp(argv[*i], name, len))
		return NULL;
	if (argv[*i][len] == '=')
		return argv[*i] + len + 1;
	return argv[*i][len] || !argv[*i + 1] ? NULL : argv[++*i];
}

static int take_bytes(const char *text, uint64_t *bytes)
{
	if (!gvm_parse_bytes(text, bytes) && *bytes && *bytes % GVM_PAGE_SIZE == 0 &&
	    *bytes <= INT64_MAX)
		return 0;
	return complain("--bytes %s: a multiple of %u is wanted, such as 64M", text, GVM_PAGE_SIZE);
}

/* The words behind the verb. 0, or -1 after a complaint. */
static int take_words(struct asked *asked, char **argv)
{
	const char *value;
	int i, kept = 2;

	for (i = 2; argv[i]; i++) {
		int at = i;

		if (!strcmp(argv[i], "--json"))
			asked->json = 1;
		else if ((value = value_of(argv, &i, "--bytes"))) {
			if (take_bytes(value, &asked->bytes))
				return -1;
		} else if ((value = value_of(argv, &i, "--placed-as"))) {
			asked->placed_as = value;
		} else if (*argv[at] == '-') {
			gvm_usage(argv, at);
			return -1;
		} else {
			argv[kept++] = argv[at];
		}
	}
	argv[kept] = NULL;
	asked->names = argv + 2;
	asked->count = kept - 2;
	for (i = 0; i < asked->count; i++)
		if (!name_ok(asked->names[i]))
			return -1;
	return asked->placed_as && !name_ok(asked->placed_as) ? -1 : 0;
}

/* ---- asking all nodes ---------------------------------------------------------------------- */

/* What is asked of one node, and what it has said. */
struct part {
	json_t *store, *regions; /* list */
	uint64_t seen;           /* entries of REGION_LIST */
	int bad;                 /* its answer was none */
	/* delete */
	uint64_t id;
	struct gvm_region_entry entry; /* with this id; pages 0: it has none */
	int status;
};

static struct part *part_of(struct nodes_one *one)
{
	return one->user;
}

/* Say of all nodes that have not answered why. How many there are. */
static int say_bad(const struct nodes *nodes)
{
	int count = 0;

	for (size_t i = 0; i < nodes->count; i++) {
		const struct nodes_one *one = &nodes->one[i];

		if (!one->why)
			continue;
		count++;
		complain("memory node %u (%s:%u) cannot be reached: %s", one->node->id,
			 one->node->host, one->node->port, nodes_reason(one->why));
	}
	return count;
}

static uint64_t patience_ms(void)
{
	return gvm_option_number("GVM_OP_TIMEOUT_MS");
}

static void ask_list(struct nodes_one *one);

static void take_entry(struct part *part, const struct gvm_region_entry *e)
{
	char holder[24] = "";

	if (e->id == part->id)
		part->entry = *e;
	if (!part->regions)
		return;
	if (e->holder)
		snprintf(holder, sizeof holder, "%016" PRIx64, e->holder);
	json_array_append_new(part->regions,
			      json_pack("{s:s, s:I, s:I, s:I, s:b, s:s, s:i}", "name", e->name,
					"bytes", (json_int_t)(e->pages * GVM_PAGE_SIZE), "pages",
					(json_int_t)e->pages, "slabs", (json_int_t)e->slabs_used,
					"ephemeral", (int)(e->flags & GVM_RO_EPHEMERAL), "holder",
					holder, "sessions", (int)e->sessions));
}

static void listed(struct nodes_one *one, int status, const struct gvm_msg *reply)
{
	struct part *part = part_of(one);
	struct gvm_region_entry entry;

	if (status) {
		one->why = status;
		return;
	}
	for (uint32_t at = 0; at + GVM_REGION_ENTRY_LEN <= reply->length;
	     at += GVM_REGION_ENTRY_LEN, part->seen++) {
		if (gvm_region_entry_decode((const uint8_t *)reply->body + at, GVM_REGION_ENTRY_LEN,
					    &entry)) {
			one->why = -EPROTO;
			return;
		}
		take_entry(part, &entry);
	}
	if (reply->flags & GVM_F_MORE && reply->length)
		ask_list(one);
}

static void ask_list(struct nodes_one *one)
{
	const struct gvm_msg msg = { .type = GVM_T_REGION_LIST, .page = part_of(one)->seen };

	nodes_ask(one, &msg, patience_ms(), listed);
}

/* Open the nodes of the map, each with a part of its own. 0, or -1 after a complaint. */
static int open_nodes(struct nodes *nodes, const struct gvm_cluster *cluster, struct part **parts)
{
	int err = nodes_open(nodes, cluster, GVM_NODE_NONE);

	*parts = err ? NULL : calloc(nodes->count + 1, sizeof **parts);
	if (err)
		return complain("%s", *gvm_why_line() ? gvm_why_line() : strerror(-err));
	if (!*parts)
		return complain("%s", strerror(ENOMEM));
	if (!nodes->count)
		return complain("the cluster file has no memory node");
	for (size_t i = 0; i < nodes->count; i++)
		nodes->one[i].user = &(*parts)[i];
	return 0;
}

/* ---- list ---------------------------------------------------------------------------------- */

static void told(struct nodes_one *one, int status, const struct gvm_msg *reply)
{
	struct part *part = part_of(one);
	json_t *json;

	if (status) {
		one->why = status;
		return;
	}
	json = json_loadb(reply->body, reply->length, JSON_REJECT_DUPLICATES, NULL);
	part->store = json_incref(json_object_get(json, "store"));
	json_decref(json);
	ask_list(one);
}

static json_t *describe(const struct nodes_one *one, const struct part *part)
{
	json_t *node = json_pack("{s:i, s:s, s:i}", "id", (int)one->node->id, "host",
				 one->node->host, "port", (int)one->node->port);

	if (one->why) {
		json_object_set_new(node, "why", json_string(nodes_reason(one->why)));
		return node;
	}
	if (part->store)
		json_object_set(node, "store", part->store);
	json_object_set(node, "regions", part->regions);
	return node;
}

static int print(const json_t *all, int as_json)
{
	if (as_json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		region_show(all, stdout);
	}
	if (fflush(stdout) == 0)
		return 0;
	return complain("cannot write: %s", strerror(errno));
}

static int list_nodes(struct nodes *nodes, struct part *parts, int as_json)
{
	const struct gvm_msg msg = { .type = GVM_T_NODE_STAT };
	json_t *list = json_array(), *all = json_pack("{s:o}", "nodes", list);
	int err;

	for (size_t i = 0; i < nodes->count; i++) {
		parts[i].regions = json_array();
		nodes_ask(&nodes->one[i], &msg, patience_ms(), told);
	}
	nodes_wait(nodes, 0);
	for (size_t i = 0; i < nodes->count; i++) {
		json_array_append_new(list, describe(&nodes->one[i], &parts[i]));
		json_decref(parts[i].store);
		json_decref(parts[i].regions);
	}
	err = print(all, as_json);
	json_decref(all);
	return say_bad(nodes) ? -1 : err;
}

static int list(const struct gvm_cluster *cluster, const struct asked *asked)
{
	struct nodes nodes;
	struct part *parts;
	int err = open_nodes(&nodes, cluster, &parts);

	if (!err)
		err = list_nodes(&nodes, parts, asked->json);
	nodes_close(&nodes);
	free(parts);
	return err;
}

/* ---- delete -------------------------------------------------------------------------------- */

static void noted(struct nodes_one *one, int status, const struct gvm_msg *reply)
{
	part_of(one)->status = status;
}

/* As it is, by its generation; let go of with the connection, however this process ends. */
static void ask_open(struct nodes_one *one)
{
	const struct part *part = part_of(one);
	uint8_t body[GVM_REGION_OPEN_LEN];
	struct gvm_region_open open = { .generation = part->entry.generation,
					.slab_pages = GVM_SLAB_BYTES / GVM_PAGE_SIZE,
					.page_size = GVM_PAGE_SIZE };
	struct gvm_msg msg = { .type = GVM_T_REGION_OPEN, .region = part->id, .body = body };

	memcpy(open.name, part->entry.name, sizeof open.name);
	msg.length = (uint32_t)gvm_region_open_encode(body, &open);
	nodes_ask(one, &msg, patience_ms(), noted);
}

static void ask_delete(struct nodes_one *one)
{
	const struct gvm_msg msg = { .type = GVM_T_REGION_DELETE, .region = part_of(one)->id };

	nodes_ask(one, &msg, patience_ms(), noted);
}

/* Ask all nodes that have it, and wait. */
static void ask_parts(struct nodes *nodes, void (*ask)(struct nodes_one *one))
{
	for (size_t i = 0; i < nodes->count; i++)
		if (part_of(&nodes->one[i])->entry.pages)
			ask(&nodes->one[i]);
	nodes_wait(nodes, 0);
}

/* A node that cannot be asked may have a part of it, and a client that holds it there. */
static int find_parts(struct nodes *nodes, struct part *parts, const char *name)
{
	int found = 0;

	for (size_t i = 0; i < nodes->count; i++) {
		parts[i].id = gvm_region_id_of(name);
		ask_list(&nodes->one[i]);
	}
	nodes_wait(nodes, 0);
	if (say_bad(nodes))
		return -1;
	for (size_t i = 0; i < nodes->count; i++)
		found += parts[i].entry.pages != 0;
	if (!found)
		return complain("there is no region %s; \"gvm region list\" shows those that there "
				"are",
				name);
	return found;
}

static int refuse_used(const struct nodes_one *one, const struct gvm_region_entry *e)
{
	if (e->sessions)
		return complain("region %s is in use: client %016" PRIx64
				" has %u connection%s to it on node %u; end that program first",
				e->name, e->holder, e->sessions, e->sessions == 1 ? "" : "s",
				one->node->id);
	return complain("region %s is in use: node %u keeps it for client %016" PRIx64
			", which was lost and may come back; it is free, or gone if it is "
			"ephemeral, when the client's time for that is over (30 s if it named "
			"none): try again then",
			e->name, one->node->id, e->holder);
}

/* Nothing is deleted before this process holds every part: so no client finds half of it gone. */
static int hold_parts(struct nodes *nodes)
{
	for (size_t i = 0; i < nodes->count; i++) {
		const struct gvm_region_entry *e = &part_of(&nodes->one[i])->entry;

		if (e->pages && e->holder)
			return refuse_used(&nodes->one[i], e);
	}
	ask_parts(nodes, ask_open);
	if (say_bad(nodes))
		return -1;
	for (size_t i = 0; i < nodes->count; i++) {
		const struct part *part = part_of(&nodes->one[i]);

		if (part->status == -EBUSY || part->status == -ENOENT)
			return complain(
			    "region %s: a client has just %s it on node %u; nothing was "
			    "deleted",
			    part->entry.name, part->status == -EBUSY ? "taken" : "deleted",
			    nodes->one[i].node->id);
		if (part->status)
			return complain("region %s: node %u: %s; nothing was deleted",
					part->entry.name, nodes->one[i].node->id,
					strerror(-part->status));
	}
	return 0;
}

static int delete_parts(struct nodes *nodes)
{
	int err = 0;

	ask_parts(nodes, ask_delete);
	if (say_bad(nodes))
		err = -1;
	for (size_t i = 0; i < nodes->count; i++) {
		const struct part *part = part_of(&nodes->one[i]);

		if (part->status && part->status != -ENOENT)
			err = complain("region %s: node %u could not delete its part: %s; its log "
				       "says more",
				       part->entry.name, nodes->one[i].node->id,
				       strerror(-part->status));
	}
	return err;
}

static int delete_one(const struct gvm_cluster *cluster, const char *name)
{
	struct nodes nodes;
	struct part *parts;
	int found = 0, err = open_nodes(&nodes, cluster, &parts);

	if (!err) {
		found = find_parts(&nodes, parts, name);
		err = found < 0 ? -1 : hold_parts(&nodes);
	}
	if (!err)
		err = delete_parts(&nodes);
	nodes_close(&nodes);
	free(parts);
	if (!err)
		printf("%s is deleted, from %d node%s\n", name, found, found == 1 ? "" : "s");
	return err;
}

static int delete_all(const struct gvm_cluster *cluster, const struct asked *asked)
{
	int err = 0;

	for (int i = 0; i < asked->count; i++)
		err |= delete_one(cluster, asked->names[i]);
	return err;
}

/* ---- create, resize ------------------------------------------------------------------------ */

struct whole {
	struct gvm_net *net;
	struct gvm_worker *worker;
	struct gvm_region *region;
	struct gvm_region_op op;
	int over, status;
};

static void opened(void *arg, struct gvm_region *region, int status)
{
	struct whole *w = arg;

	w->over = 1;
	w->status = status;
}

static void resized(struct gvm_region_op *op, int status)
{
	struct whole *w = (struct whole *)((char *)op - offsetof(struct whole, op));

	w->over = 1;
	w->status = status;
}

static void released(void *arg)
{
	((struct whole *)arg)->over = 1;
}

static int await(struct whole *w)
{
	while (!w->over)
		gvm_worker_wait(w->worker, WAIT_NS);
	w->over = 0;
	return w->status;
}

static int open_whole(struct whole *w, const struct gvm_cluster *cluster, const struct asked *asked,
		      int create)
{
	struct gvm_net_config net = { .cluster = cluster, .node = GVM_NODE_NONE };
	struct gvm_worker_config worker = { .arg = w, .cpu = -1 };
	struct gvm_region_config config = {
		.name = asked->names[0],
		.bytes = create ? asked->bytes : 0,
		.slab_bytes = create ? (uint32_t)gvm_option_number("GVM_SLAB") : 0,
		.flags = create ? GVM_REGION_CREATE | GVM_REGION_EXCL : 0,
		.linger_ms = 1,
		.arg = w,
		.placed_as = asked->placed_as
	};
	int err = gvm_net_open(&net, &w->net);

	if (!err)
		err = gvm_worker_open(w->net, &worker, &w->worker);
	if (!err)
		err = gvm_region_open(w->worker, &config, 0, opened, &w->region);
	return err ? err : await(w);
}

static int resize_whole(struct whole *w, uint64_t bytes)
{
	int err;

	w->op.done = resized;
	err = gvm_region_resize(w->region, bytes, &w->op);
	return err ? err : await(w);
}

/* Another client finds it free when this has returned. */
static void close_whole(struct whole *w, int is_open)
{
	if (is_open) {
		gvm_region_release(w->region, 0, released, w);
		await(w);
	} else if (w->region) {
		gvm_region_close(w->region);
	}
	if (w->worker)
		gvm_worker_close(w->worker);
	gvm_net_close(w->net);
}

static int change(const struct gvm_cluster *cluster, const struct asked *asked, int create)
{
	struct whole w = { 0 };
	char why[512];
	int err, is_open;

	if (nodes_probe(cluster, GVM_NODE_NONE, why, sizeof why))
		return complain("%s", why);
	gvm_why_begin();
	err = open_whole(&w, cluster, asked, create);
	is_open = !err;
	if (!err && !create)
		err = resize_whole(&w, asked->bytes);
	snprintf(why, sizeof why, "%s", *gvm_why_line() ? gvm_why_line() : strerror(-err));
	close_whole(&w, is_open);
	gvm_log_set(NULL);
	if (err)
		return complain("%s", why);
	printf("%s %s %" PRIu64 " bytes\n", asked->names[0], create ? "is made, with" : "has now",
	       asked->bytes);
	return 0;
}

static int create(const struct gvm_cluster *cluster, const struct asked *asked)
{
	return change(cluster, asked, 1);
}

static int resize(const struct gvm_cluster *cluster, const struct asked *asked)
{
	return change(cluster, asked, 0);
}

/* ---- the command --------------------------------------------------------------------------- */

static const struct verb {
	const char *name;
	int (*run)(const struct gvm_cluster *cluster, const struct asked *asked);
	int least, most; /* names */
	int bytes;
} verbs[] = { { "list", list, 0, 0, 0 },
	      { "delete", delete_all, 1, 1 << 16, 0 },
	      { "create", create, 1, 1, 1 },
	      { "resize", resize, 1, 1, 1 } };
#define VERBS (sizeof verbs / sizeof verbs[0])

static const struct verb *find_verb(const char *word)
{
	for (size_t i = 0; word && i < VERBS; i++)
		if (!strcmp(word, verbs[i].name))
			return &verbs[i];
	complain("what is to be done: list, delete, create or resize? See gvm region --help");
	return NULL;
}

static int check(const struct verb *verb, const struct asked *asked)
{
	if (asked->count < verb->least)
		return complain("%s which region? See gvm region --help", verb->name);
	if (asked->count > verb->most)
		return complain("%s: \"%s\" is one name too many; see gvm region --help",
				verb->name, asked->names[verb->most]);
	if (!asked->bytes != !verb->bytes)
		return complain(verb->bytes ? "%s needs --bytes SIZE" : "%s takes no --bytes",
				verb->name);
	return 0;
}

int gvm_cmd_region(int argc, char **argv)
{
	struct gvm_cluster *cluster;
	struct asked asked = { 0 };
	const struct verb *verb;
	int err;

	if (gvm_wants_help(argc, argv))
		return help();
	if (gvm_options_check() || gvm_options_parse(&argc, argv))
		return GVM_EXIT_USAGE;
	verb = find_verb(argv[1]);
	if (!verb || take_words(&asked, argv) || check(verb, &asked))
		return GVM_EXIT_USAGE;
	if (nodes_cluster("region", &cluster))
		return GVM_EXIT_FAILED;
	err = verb->run(cluster, &asked);
	gvm_cluster_free(cluster);
	return err ? GVM_EXIT_FAILED : GVM_EXIT_OK;
}
