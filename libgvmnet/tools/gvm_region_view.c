/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "tools/gvm_region.h"

#include <gvmnet/gvmnet.h>

#include <string.h>

#define NAME_LEAST 4 /* "NAME" */

struct shown {
	char text[160];
};

static double number(const json_t *object, const char *name)
{
	return json_number_value(json_object_get(object, name));
}

static const char *text(const json_t *object, const char *name)
{
	const char *value = json_string_value(json_object_get(object, name));

	return value ? value : "";
}

static struct shown show_bytes(double bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	struct shown s;
	unsigned i = 0;

	for (; bytes >= 1024 && i < 5; i++)
		bytes /= 1024;
	snprintf(s.text, sizeof(s.text), i ? "%.1f %s" : "%.0f %s", bytes, units[i]);
	return s;
}

static int is_shared(const json_t *region)
{
	return strcmp(text(region, "mode"), "shared") == 0;
}

/* A client without connections was lost: what it had is kept for it. */
static struct shown show_holder(const json_t *region)
{
	const char *holder = text(region, "holder");
	int sessions = (int)number(region, "sessions");
	struct shown s;

	if (is_shared(region))
		snprintf(s.text, sizeof(s.text), "%d node%s", sessions, sessions == 1 ? "" : "s");
	else if (!*holder)
		snprintf(s.text, sizeof(s.text), "nobody");
	else if (!sessions)
		snprintf(s.text, sizeof(s.text), "%s, lost: kept for it", holder);
	else
		snprintf(s.text, sizeof(s.text), "%s, %d connection%s", holder, sessions,
			 sessions == 1 ? "" : "s");
	return s;
}

static int name_width(const json_t *regions)
{
	const json_t *r;
	size_t i, most = NAME_LEAST;

	json_array_foreach(regions, i, r)
	{
		size_t len = strlen(text(r, "name"));

		most = len > most ? len : most;
	}
	return (int)most;
}

static void show_regions(const json_t *regions, FILE *out)
{
	int width = name_width(regions);
	const json_t *r;
	size_t i;

	if (json_array_size(regions))
		fprintf(out, "  %-*s  %10s  %6s  %-7s  %-9s  %s\n", width, "NAME", "SIZE", "SLABS",
			"MODE", "KIND", "HELD BY");
	json_array_foreach(regions, i, r)
	{
		double pages = number(r, "pages");

		fprintf(out, "  %-*s  %10s  %6.0f  %-7s  %-9s  %s\n", width, text(r, "name"),
			show_bytes(pages * GVM_PAGE_SIZE).text, number(r, "slabs"),
			is_shared(r) ? "shared" : "private",
			json_is_true(json_object_get(r, "ephemeral")) ? "ephemeral" : "saved",
			show_holder(r).text);
	}
}

static void show_node(const json_t *node, FILE *out)
{
	const json_t *regions = json_object_get(node, "regions"),
		     *store = json_object_get(node, "store");
	size_t count = json_array_size(regions);

	if (json_object_get(node, "why"))
		return;
	fprintf(out, "node %.0f (%s:%.0f): %zu region%s", number(node, "id"), text(node, "host"),
		number(node, "port"), count, count == 1 ? "" : "s");
	if (store)
		fprintf(out, "; %s stored, %s promised, of %s",
			show_bytes(number(store, "stored_bytes")).text,
			show_bytes(number(store, "reserved_bytes")).text,
			show_bytes(number(store, "limit_bytes")).text);
	fputc('\n', out);
	show_regions(regions, out);
}

void region_show(const json_t *all, FILE *out)
{
	const json_t *node;
	size_t i;

	json_array_foreach(json_object_get(all, "nodes"), i, node)
	{
		show_node(node, out);
	}
}
