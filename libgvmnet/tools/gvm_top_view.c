/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How gvm top shows what a source has said: a few lines that sum up, then each number with its
 * change per second. Units are read off the names, which say them (…_bytes, …_pages, …_ns), so that
 * a counter that is added elsewhere shows up here by itself.
 */
#include "tools/gvm_top.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define PAGE       4096.0
#define STALE_S    3
#define BAR_WIDTH  30
#define NAME_WIDTH 30

/* ---- lines --------------------------------------------------------------------------------- */

static void put(struct top_out *out, enum top_style style, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Names and words come from other programs: nothing of them may move the cursor. */
static void put(struct top_out *out, enum top_style style, const char *fmt, ...)
{
	char text[512], *p;
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	for (p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	while (p > text && p[-1] == ' ')
		*--p = 0;
	out->line(out, style, text);
}

/* ---- numbers ------------------------------------------------------------------------------- */

struct shown {
	char text[32];
};

static struct shown show_bytes(double bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	struct shown s;
	unsigned i = 0;
	double size = bytes < 0 ? -bytes : bytes;

	for (; size >= 1024 && i < 5; i++)
		size /= 1024;
	snprintf(s.text, sizeof(s.text), i ? "%s%.1f %s" : "%s%.0f %s", bytes < 0 ? "-" : "", size,
		 units[i]);
	return s;
}

static struct shown show_duration(double ns)
{
	struct shown s;

	if (ns < 1e3)
		snprintf(s.text, sizeof(s.text), "%.0f ns", ns);
	else if (ns < 1e6)
		snprintf(s.text, sizeof(s.text), "%.1f us", ns / 1e3);
	else if (ns < 1e9)
		snprintf(s.text, sizeof(s.text), "%.1f ms", ns / 1e6);
	else
		snprintf(s.text, sizeof(s.text), "%.1f s", ns / 1e9);
	return s;
}

/* 1,234,567 */
static struct shown show_count(double value)
{
	char digits[32];
	struct shown s;
	size_t i, n = 0, len;

	snprintf(digits, sizeof(digits), "%.0f", value);
	len = strlen(digits);
	for (i = 0; i < len && n < sizeof(s.text) - 2; i++) {
		s.text[n++] = digits[i];
		if (digits[i] != '-' && (len - 1 - i) % 3 == 0 && i + 1 < len)
			s.text[n++] = ',';
	}
	s.text[n] = 0;
	return s;
}

static int ends_with(const char *name, const char *tail)
{
	size_t a = strlen(name), b = strlen(tail);

	return a >= b && strcmp(name + a - b, tail) == 0;
}

static struct shown show_value(const char *name, double value)
{
	if (strstr(name, "bytes"))
		return show_bytes(value);
	if (ends_with(name, "_ns"))
		return show_duration(value);
	return show_count(value);
}

/* A member of an object, or of objects in it: "latency.all.p50_ns". 0 where there is none. */
static double number(const json_t *json, const char *path)
{
	char name[64];
	const char *dot;

	while (json && (dot = strchr(path, '.'))) {
		snprintf(name, sizeof(name), "%.*s", (int)(dot - path), path);
		json = json_object_get(json, name);
		path = dot + 1;
	}
	return json_number_value(json_object_get(json, path));
}

static double rate(const struct top_source *s, const char *path)
{
	double seconds;

	if (!s->before)
		return 0;
	/* A pager's own clock is nearer to what it says than when that was read. */
	seconds = number(s->now, "uptime_s") - number(s->before, "uptime_s");
	if (seconds <= 0)
		seconds = (double)(s->now_ns - s->before_ns) / 1e9;
	if (seconds <= 0)
		return 0;
	return (number(s->now, path) - number(s->before, path)) / seconds;
}

static double percent(double part, double whole)
{
	return whole > 0 ? 100 * part / whole : 0;
}

/* ---- summing up a pager -------------------------------------------------------------------- */

static int is_pager(const json_t *json)
{
	return json_object_get(json, "faults") != NULL && json_object_get(json, "latency") != NULL;
}

/* A program that shares memory with other nodes; it may be paged, too. */
static int shares(const json_t *json)
{
	return json_is_object(json_object_get(json, "shared"));
}

static const char *word(const json_t *json, const char *name)
{
	const char *text = json_string_value(json_object_get(json, name));

	return text ? text : "?";
}

/* Of a pager, how it is with the process: "" if all is well. */
static const char *condition(const struct top_source *s)
{
	pid_t pid = (pid_t)number(s->now, "pid");
	double age = (double)time(NULL) - number(s->now, "time");

	if (!is_pager(s->now) && !shares(s->now))
		return "";
	if (pid > 0 && kill(pid, 0) < 0 && errno == ESRCH)
		return ", ended";
	return age > STALE_S ? ", silent" : "";
}

static void show_bar(struct top_out *out, const char *what, double part, double whole)
{
	char bar[BAR_WIDTH + 1];
	int full = whole > 0 ? (int)(part / whole * BAR_WIDTH + 0.5) : 0;

	full = full < 0 ? 0 : full > BAR_WIDTH ? BAR_WIDTH : full;
	memset(bar, '-', BAR_WIDTH);
	memset(bar, '#', (size_t)full);
	bar[BAR_WIDTH] = 0;
	put(out, TOP_PLAIN, "%-9s [%s] %s of %s", what, bar, show_bytes(part).text,
	    show_bytes(whole).text);
}

static void show_program(struct top_out *out, const struct top_source *s)
{
	const json_t *j = s->now;

	put(out, TOP_TITLE, "%s, process %.0f, up %.0f s%s", word(j, "program"), number(j, "pid"),
	    number(j, "uptime_s"), condition(s));
}

static void show_shared(struct top_out *out, const struct top_source *s)
{
	const json_t *j = s->now;
	double objects = number(j, "shared.objects");

	put(out, TOP_PLAIN, "shared    %s in %.0f object%s, as node %.0f",
	    show_bytes(number(j, "shared.mapped_bytes")).text, objects, objects == 1 ? "" : "s",
	    number(j, "shared.node"));
	put(out, TOP_PLAIN, "its faults  %s reads/s, p99 %s, %s writes/s, p99 %s",
	    show_count(rate(s, "shared.faults_read")).text,
	    show_duration(number(j, "shared.latency.read.p99_ns")).text,
	    show_count(rate(s, "shared.faults_write")).text,
	    show_duration(number(j, "shared.latency.write.p99_ns")).text);
	put(out, TOP_PLAIN, "its network in %s/s, out %s/s",
	    show_bytes(rate(s, "shared.bytes_received")).text,
	    show_bytes(rate(s, "shared.bytes_sent")).text);
	if (number(j, "shared.faults_failed") > 0)
		put(out, TOP_WARN, "%s accesses to it FAILED (SIGBUS)",
		    show_count(number(j, "shared.faults_failed")).text);
}

static void show_pager(struct top_out *out, const struct top_source *s)
{
	const json_t *j = s->now;
	double faults = number(j, "faults"), local = number(j, "local_bytes");
	double used = number(j, "local_pages") * PAGE, away = number(j, "nodes_away");

	show_bar(out, "local", used, local > used ? local : used);
	show_bar(out, "dirty", number(j, "dirty_pages") * PAGE, used);
	put(out, TOP_PLAIN, "faults    %s/s, p50 %s, p99 %s, %.1f %% waited for a memory node",
	    show_count(rate(s, "faults")).text, show_duration(number(j, "latency.all.p50_ns")).text,
	    show_duration(number(j, "latency.all.p99_ns")).text,
	    percent(number(j, "faults_remote") + number(j, "faults_prefetch"), faults));
	put(out, TOP_PLAIN, "network   in %s/s, out %s/s",
	    show_bytes(rate(s, "fetched_bytes")).text, show_bytes(rate(s, "written_bytes")).text);
	put(out, TOP_PLAIN, "prefetch  %s pages, %.1f %% used",
	    show_count(number(j, "prefetched_pages")).text,
	    percent(number(j, "prefetch_used"), number(j, "prefetched_pages")));
	if (away > 0)
		put(out, TOP_WARN, "%.0f memory node%s away", away, away == 1 ? " is" : "s are");
	if (number(j, "lost_pages") > 0)
		put(out, TOP_WARN, "%s pages are LOST: their memory node came back without them",
		    show_count(number(j, "lost_pages")).text);
}

/* ---- summing up a memory node -------------------------------------------------------------- */

static int is_node(const json_t *json)
{
	return json_object_get(json, "store") != NULL && json_object_get(json, "net") != NULL;
}

static void show_node(struct top_out *out, const struct top_source *s)
{
	const json_t *j = s->now;
	double memory = number(j, "store.memory_bytes");

	put(out, TOP_PLAIN, "up %s s, %s regions, %s held, %s connections ready",
	    show_count(number(j, "node.uptime_seconds")).text,
	    show_count(number(j, "store.regions")).text,
	    show_count(number(j, "store.regions_held")).text,
	    show_count(number(j, "net.peers_ready")).text);
	show_bar(out, "stored", number(j, "store.stored_bytes"), memory);
	show_bar(out, "promised", number(j, "store.reserved_bytes"),
		 number(j, "store.limit_bytes"));
	if (number(j, "store.lingering_bytes") > 0)
		put(out, TOP_PLAIN, "kept      %s of that for clients that were lost",
		    show_bytes(number(j, "store.lingering_bytes")).text);
	put(out, TOP_PLAIN, "served    %s fetches/s, %s puts/s",
	    show_count(rate(s, "net.fetches_served")).text,
	    show_count(rate(s, "net.puts_served")).text);
	put(out, TOP_PLAIN, "network   in %s/s, out %s/s",
	    show_bytes(rate(s, "net.bytes_received")).text,
	    show_bytes(rate(s, "net.bytes_sent")).text);
	if (number(j, "store.draining") > 0)
		put(out, TOP_WARN, "it is going away (drain)");
}

/* ---- every number -------------------------------------------------------------------------- */

static void show_number(struct top_out *out, const struct top_source *s, const char *path)
{
	double change = rate(s, path);
	struct shown per_second = { "" };

	if (change != 0 && !ends_with(path, "_ns"))
		per_second = show_value(path, change);
	put(out, TOP_PLAIN, "%-*s %18s %16s%s", NAME_WIDTH, path,
	    show_value(path, number(s->now, path)).text, per_second.text,
	    *per_second.text ? "/s" : "");
}

/* What the lines above have said already. */
static int in_title(const struct top_source *s, const char *path)
{
	return (is_pager(s->now) || shares(s->now)) &&
	       (strcmp(path, "program") == 0 || strcmp(path, "pid") == 0 ||
		strcmp(path, "time") == 0 || strcmp(path, "uptime_s") == 0);
}

static void show_members(struct top_out *out, const struct top_source *s, const json_t *object,
			 const char *prefix, int depth)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)object, name, value)
	{
		char path[128];

		snprintf(path, sizeof(path), "%s%s%.60s", prefix, *prefix ? "." : "", name);
		if (in_title(s, path))
			continue;
		if (json_is_number(value) && !strchr(name, '.'))
			show_number(out, s, path);
		else if (json_is_object(value) && depth < 4)
			show_members(out, s, value, path, depth + 1);
		else if (json_is_array(value))
			put(out, TOP_PLAIN, "%-*s %18zu", NAME_WIDTH, path, json_array_size(value));
		else if (json_is_string(value))
			put(out, TOP_PLAIN, "%-*s %18.60s", NAME_WIDTH, path,
			    json_string_value(value));
		else if (json_is_boolean(value))
			put(out, TOP_PLAIN, "%-*s %18s", NAME_WIDTH, path,
			    json_is_true(value) ? "yes" : "no");
	}
}

void top_show(struct top_out *out, const struct top_source *s)
{
	put(out, *s->why ? TOP_WARN : TOP_TITLE, "%s%s%s", s->title, *s->why ? " " : "", s->why);
	if (!s->now)
		return;
	if (is_pager(s->now) || shares(s->now))
		show_program(out, s);
	if (is_pager(s->now))
		show_pager(out, s);
	else if (is_node(s->now))
		show_node(out, s);
	if (shares(s->now))
		show_shared(out, s);
	put(out, TOP_HEAD, "%-*s %18s %18s", NAME_WIDTH, "", "now", "change");
	show_members(out, s, s->now, "", 0);
}

void top_show_brief(struct top_out *out, const struct top_source *s, enum top_style style)
{
	if (*s->why || !s->now)
		put(out, style, "%-32s %s", s->title, s->why);
	else if (is_pager(s->now))
		put(out, style, "%-32s %s (%.0f%s): %s local, %s faults/s", s->title,
		    word(s->now, "program"), number(s->now, "pid"), condition(s),
		    show_bytes(number(s->now, "local_pages") * PAGE).text,
		    show_count(rate(s, "faults")).text);
	else if (shares(s->now))
		put(out, style, "%-32s %s (%.0f%s): %s shared, %s faults/s", s->title,
		    word(s->now, "program"), number(s->now, "pid"), condition(s),
		    show_bytes(number(s->now, "shared.mapped_bytes")).text,
		    show_count(rate(s, "shared.faults_read") + rate(s, "shared.faults_write"))
			.text);
	else if (is_node(s->now))
		put(out, style, "%-32s %s of %s stored, %s fetches/s, %s puts/s", s->title,
		    show_bytes(number(s->now, "store.stored_bytes")).text,
		    show_bytes(number(s->now, "store.memory_bytes")).text,
		    show_count(rate(s, "net.fetches_served")).text,
		    show_count(rate(s, "net.puts_served")).text);
	else
		put(out, style, "%s", s->title);
}
