/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm region list and delete. They ask each node by itself, not through the region client: a region
 * is there to be seen and to be deleted also where a part of it is lost, and a clone without the
 * name that it was placed as. One thread.
 */
#include "tools/gvm.h"
#include "tools/gvm_nodes.h"
#include "tools/gvm_region.h"
#include "wire/wire.h"

#include <gvmnet/region.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

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
		region_complain("memory node %u (%s:%u) cannot be reached: %s", one->node->id,
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
			      json_pack("{s:s, s:I, s:I, s:I, s:b, s:s, s:s, s:i}", "name", e->name,
					"bytes", (json_int_t)(e->pages * GVM_PAGE_SIZE), "pages",
					(json_int_t)e->pages, "slabs", (json_int_t)e->slabs_used,
					"ephemeral", (int)(e->flags & GVM_RO_EPHEMERAL), "mode",
					e->flags & GVM_RO_SHARED ? "shared" : "private", "holder",
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
		return region_complain("%s", *gvm_why_line() ? gvm_why_line() : strerror(-err));
	if (!*parts)
		return region_complain("%s", strerror(ENOMEM));
	if (!nodes->count)
		return region_complain("the cluster file has no memory node");
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
	return region_complain("cannot write: %s", strerror(errno));
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

int region_list(const struct gvm_cluster *cluster, const struct region_asked *asked)
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

/* As it is, by its generation; let go of with the connection, however this process ends. A shared
 * one cannot be held; each node deletes its part if no program has it. */
static void ask_open(struct nodes_one *one)
{
	const struct part *part = part_of(one);
	uint8_t body[GVM_REGION_OPEN_LEN];
	struct gvm_region_open open = { .generation = part->entry.generation,
					.slab_pages = GVM_SLAB_BYTES / GVM_PAGE_SIZE,
					.page_size = GVM_PAGE_SIZE };
	struct gvm_msg msg = { .type = GVM_T_REGION_OPEN, .region = part->id, .body = body };

	if (part->entry.flags & GVM_RO_SHARED)
		return;
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
		return region_complain(
		    "there is no region %s; \"gvm region list\" shows those that there "
		    "are",
		    name);
	return found;
}

static int refuse_used(const struct nodes_one *one, const struct gvm_region_entry *e)
{
	if (e->sessions)
		return region_complain(
		    "region %s is in use: client %016" PRIx64
		    " has %u connection%s to it on node %u; end that program first",
		    e->name, e->holder, e->sessions, e->sessions == 1 ? "" : "s", one->node->id);
	return region_complain(
	    "region %s is in use: node %u keeps it for client %016" PRIx64
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
			return region_complain(
			    "region %s: a client has just %s it on node %u; nothing was "
			    "deleted",
			    part->entry.name, part->status == -EBUSY ? "taken" : "deleted",
			    nodes->one[i].node->id);
		if (part->status)
			return region_complain("region %s: node %u: %s; nothing was deleted",
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

		if (part->status == -EBUSY && part->entry.flags & GVM_RO_SHARED)
			err = region_complain(
			    "region %s is in use: programs share it, or one did that was killed "
			    "and is not buried yet (twice GVM_DSM_FENCE_MS), on node %u",
			    part->entry.name, nodes->one[i].node->id);
		else if (part->status && part->status != -ENOENT)
			err = region_complain(
			    "region %s: node %u could not delete its part: %s; its log "
			    "says more",
			    part->entry.name, nodes->one[i].node->id, strerror(-part->status));
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

int region_delete(const struct gvm_cluster *cluster, const struct region_asked *asked)
{
	int err = 0;

	for (int i = 0; i < asked->count; i++)
		err |= delete_one(cluster, asked->names[i]);
	return err;
}
