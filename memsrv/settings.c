/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "settings.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define WORKERS_MAX  64u
#define DEFAULT_PORT 9999u

/* An option: how it is written, what it takes, what it does. set: 0, or -1 where the value makes no
 * sense; env: it is the library's option of that name. */
struct row {
	const char *name, *arg, *help;
	int (*set)(struct settings *s, const char *value);
	const char *env;
	const char *legal; /* what the value may be, for the sentence that refuses one */
};

/* ---- values -------------------------------------------------------------------------------- */

static int whole(const char *text, unsigned long min, unsigned long max, unsigned *value)
{
	unsigned long v;
	char *end;

	if (*text < '0' || *text > '9')
		return -1;
	errno = 0;
	v = strtoul(text, &end, 10);
	if (errno || *end || v < min || v > max)
		return -1;
	*value = (unsigned)v;
	return 0;
}

int settings_address(const char *text, struct address *at)
{
	const char *host = text, *colon = strrchr(text, ':');
	size_t len;

	if (!colon || whole(colon + 1, 0, 65535, &at->port))
		return -EINVAL;
	len = (size_t)(colon - text);
	if (*text == '[') {
		if (len < 3 || text[len - 1] != ']')
			return -EINVAL;
		host++;
		len -= 2;
	} else if (memchr(text, ':', len)) {
		return -EINVAL; /* an IPv6 address wants brackets */
	}
	if (!len || len >= sizeof(at->host))
		return -EINVAL;
	memcpy(at->host, host, len);
	at->host[len] = 0;
	return 0;
}

static int set_listen(struct settings *s, const char *value)
{
	if (s->listens == LISTENS_MAX || settings_address(value, &s->listen[s->listens]))
		return -1;
	s->listens++;
	return 0;
}

static int set_memory(struct settings *s, const char *value)
{
	return gvm_parse_bytes(value, &s->memory) || s->memory < (1u << 20) ||
		       s->memory > UINT64_C(1) << 50
		   ? -1
		   : 0;
}

static int set_overcommit(struct settings *s, const char *value)
{
	char *end;
	double r = strtod(value, &end);

	if (end == value || *end || !isfinite(r) || r < 1 || r > 1000)
		return -1;
	s->overcommit = r;
	return 0;
}

static int set_quota(struct settings *s, const char *value)
{
	return gvm_parse_bytes(value, &s->region_quota) ? -1 : 0;
}

static int set_max_regions(struct settings *s, const char *value)
{
	return whole(value, 1, 65536, &s->max_regions);
}

static int set_workers(struct settings *s, const char *value)
{
	return whole(value, 1, WORKERS_MAX, &s->workers);
}

static int set_image(struct settings *s, const char *value)
{
	s->image = value;
	return *value ? 0 : -1;
}

static int set_state(struct settings *s, const char *value)
{
	s->state = value;
	return *value && strlen(value) < 4000 ? 0 : -1;
}

static int set_trust(struct settings *s, const char *value)
{
	s->trust = 1;
	return 0;
}

static int set_sync(struct settings *s, const char *value)
{
	return whole(value, 0, 86400, &s->sync_s);
}

static int set_drain(struct settings *s, const char *value)
{
	return whole(value, 0, 3600000, &s->drain_ms);
}

static int set_metrics(struct settings *s, const char *value)
{
	s->has_metrics = 1;
	if (!whole(value, 0, 65535, &s->metrics.port)) {
		strcpy(s->metrics.host, "127.0.0.1");
		return 0;
	}
	return settings_address(value, &s->metrics) ? -1 : 0;
}

static int set_huge(struct settings *s, const char *value)
{
	static const char *const words[] = {
		[HUGE_NEVER] = "never", [HUGE_AUTO] = "auto", [HUGE_ALWAYS] = "always"
	};

	for (int i = HUGE_NEVER; i <= HUGE_ALWAYS; i++)
		if (!strcmp(value, words[i])) {
			s->huge = (enum huge_pages)i;
			return 0;
		}
	return -1;
}

/* ---- the table ----------------------------------------------------------------------------- */

static const struct row rows[] = {
	{ NULL, NULL, "Where and who", NULL, NULL, NULL },
	{ "listen", "HOST:PORT",
	  "accept clients here; may be given again. [::1]:9999, *:9999; port 0: "
	  "any. Default: this node's line in the cluster file, else 127.0.0.1:9999",
	  set_listen, NULL,
	  "HOST:PORT, as 127.0.0.1:9999, [::1]:9999 or *:9999, at most 16 times" },
	{ "key-file", "FILE",
	  "the pre-shared key, not readable by others (openssl rand -hex 32 > "
	  "FILE; chmod 600 FILE); without one only loopback is listened on",
	  NULL, "GVM_KEY_FILE", NULL },
	{ "insecure", NULL, "listen beyond loopback although there is no key", NULL, "GVM_INSECURE",
	  NULL },
	{ "cluster", "FILE", "the cluster file; clients with another one are refused", NULL,
	  "GVM_CLUSTER", NULL },
	{ "id", "N",
	  "this node's id in the cluster file. Default, without --listen: the one memory node in "
	  "it that is on this machine",
	  NULL, "GVM_NODE", NULL },
	{ "node", "N", NULL, NULL, "GVM_NODE", NULL },
	{ "transport", "NAME", "auto, tcp, verbs or ofi", NULL, "GVM_TRANSPORT", NULL },
	{ "workers", "N", "threads that serve; default: one a CPU, at most 8", set_workers, NULL,
	  "a whole number from 1 to 64" },
	{ NULL, NULL, "How much", NULL, NULL, NULL },
	{ "memory", "SIZE", "memory to offer, as 8G or 512M; default 1G", set_memory, NULL,
	  "a number of bytes from 1M on, such as 512M or 8G" },
	{ "overcommit", "R",
	  "promise R times as much to regions (default 1: a write-back never meets "
	  "a full node; above, it may)",
	  set_overcommit, NULL, "a ratio from 1 to 1000, such as 1.5" },
	{ "region-quota", "SIZE", "most memory that one region may have here; default: no bound",
	  set_quota, NULL, "a number of bytes such as 4G" },
	{ "max-regions", "N", "most regions; one client may have half of them; default 4096",
	  set_max_regions, NULL, "a whole number from 1 to 65536" },
	{ "huge", "WHEN",
	  "huge pages: never; auto: for a slab whose pages have all been written "
	  "(default, so a page never written costs nothing); always: from the first write, which "
	  "then costs 2 MiB",
	  set_huge, NULL, "never, auto or always" },
	{ NULL, NULL, "What stays", NULL, NULL, NULL },
	{ "image", "FILE", "keep the memory in this file, so that it outlives the process",
	  set_image, NULL, "a file's name" },
	{ "sync-interval", "S",
	  "write the image to the disk each S seconds; default 0: leave it to "
	  "the kernel",
	  set_sync, NULL, "seconds from 0 to 86400" },
	{ "trust-image", NULL,
	  "take the image's regions over even after the machine has died with "
	  "the node running, or its disk has lost writes; pages stored after the "
	  "last sync may then be old, or zeros",
	  set_trust, NULL, NULL },
	{ "state", "DIR",
	  "note in this folder, such as one of /run, who has shared regions open: if the process "
	  "is started again within half of their members' GVM_DSM_FENCE_MS, what these hold of "
	  "them lives",
	  set_state, NULL, "a folder's name" },
	{ NULL, NULL, "Operation", NULL, NULL, NULL },
	{ "metrics", "[HOST:]PORT",
	  "HTTP: /metrics (Prometheus), /json, /healthz; on loopback unless "
	  "HOST says otherwise",
	  set_metrics, NULL, "PORT or HOST:PORT" },
	{ "drain-ms", "MS", "after SIGTERM, wait so long for clients to let go; default 1000",
	  set_drain, NULL, "milliseconds from 0 to 3600000" },
	{ "log", "LEVEL", "error, warn (default), info or debug", NULL, "GVM_LOG", NULL },
	{ "help", NULL, "this text", NULL, NULL, NULL },
	{ "version", NULL, "the version", NULL, NULL, NULL },
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

/* ---- help ---------------------------------------------------------------------------------- */

/* Text in lines of at most 96 columns, indented by 26. */
static void wrap(FILE *out, const char *text)
{
	const size_t indent = 26, width = 96;
	size_t at = indent;

	while (*text) {
		size_t word = strcspn(text, " ");

		if (at + word > width) {
			fprintf(out, "\n%*s", (int)indent, "");
			at = indent;
		}
		fprintf(out, "%.*s", (int)word, text);
		at += word;
		text += word;
		if (*text) {
			fputc(' ', out);
			at++;
			text++;
		}
	}
	fputc('\n', out);
}

void settings_help(FILE *out)
{
	fputs(
	    "gvm-memsrv: a memory node. It keeps regions of memory for clients on other machines.\n"
	    "\n  gvm-memsrv --listen 127.0.0.1:9999 --key-file KEY --memory 8G\n",
	    out);
	for (size_t i = 0; i < ROWS; i++) {
		char left[40];

		if (!rows[i].name) {
			fprintf(out, "\n%s\n", rows[i].help);
			continue;
		}
		if (!rows[i].help)
			continue;
		snprintf(left, sizeof(left), "--%s %s", rows[i].name,
			 rows[i].arg ? rows[i].arg : "");
		fprintf(out, "  %-24s", left);
		wrap(out, rows[i].help);
	}
	fputs("\nSIGTERM and SIGINT end it in order: the image is synced and marked clean.\n"
	      "Exit status: 0 ended in order, 1 failure while running, 2 wrong usage, 3 key,\n"
	      "4 address cannot be listened on, 5 image, 6 a part of the image cannot be read.\n",
	      out);
}

/* ---- parsing ------------------------------------------------------------------------------- */

static void defaults(struct settings *s)
{
	cpu_set_t cpus;
	unsigned n = sched_getaffinity(0, sizeof(cpus), &cpus) ? 1 : (unsigned)CPU_COUNT(&cpus);

	memset(s, 0, sizeof(*s));
	s->memory = UINT64_C(1) << 30;
	s->overcommit = 1;
	s->workers = n > 8 ? 8 : n ? n : 1;
	s->max_regions = 4096;
	s->drain_ms = 1000;
	s->huge = HUGE_AUTO;
}

static void long_options(struct option *out)
{
	size_t n = 0;

	for (size_t i = 0; i < ROWS; i++)
		if (rows[i].name)
			out[n++] = (struct option){ rows[i].name,
						    rows[i].arg ? required_argument : no_argument,
						    NULL, 256 + (int)i };
	memset(&out[n], 0, sizeof(out[n]));
}

/* As "--NAME=VALUE", so that a value that is refused is refused under the name that was typed. */
static int set_library(const struct row *r, const char *value)
{
	char arg[32];

	snprintf(arg, sizeof(arg), "--%s", r->name);
	return gvm_option_set_as(r->env, arg, value);
}

static int take(struct settings *s, const struct row *r, const char *value)
{
	if (r->env)
		return set_library(r, value ? value : "1");
	if (!r->set(s, value)) {
		return 0;
	}
	gvm_log(GVM_LOG_ERROR, "--%s: \"%s\" is not legal; it is %s", r->name, value, r->legal);
	return -1;
}

static enum settings_answer wrong(const char *what, const char *arg)
{
	gvm_log(GVM_LOG_ERROR, "%s %s; gvm-memsrv --help lists the options", arg, what);
	return SETTINGS_WRONG;
}

/* Of options that are legal one by one: what nobody can have meant. */
static enum settings_answer sense(void)
{
	if (gvm_option_number("GVM_NODE") < GVM_MAX_NODES && !*gvm_option_text("GVM_CLUSTER"))
		return wrong("is an id in the cluster file: name that with --cluster FILE", "--id");
	if (!strcmp(gvm_option_text("GVM_TRANSPORT"), "loop"))
		return wrong("is for tests within one process: nobody could reach this node",
			     "--transport loop");
	return SETTINGS_RUN;
}

enum settings_answer settings_parse(int argc, char **argv, struct settings *s)
{
	struct option longs[ROWS + 1];
	int c;

	defaults(s);
	long_options(longs);
	optind = 0; /* begin anew, in glibc */
	opterr = 0;
	while ((c = getopt_long(argc, argv, "+:h", longs, NULL)) != -1) {
		const struct row *r = c >= 256 ? &rows[c - 256] : NULL;

		if (c == 'h' || (r && !strcmp(r->name, "help")))
			return SETTINGS_HELP;
		if (r && !strcmp(r->name, "version"))
			return SETTINGS_VERSION;
		if (!r)
			return wrong(c == ':' ? "needs a value" : "is not an option",
				     argv[optind - 1]);
		if (take(s, r, optarg))
			return SETTINGS_WRONG;
	}
	return optind < argc ? wrong("is not an option", argv[optind]) : sense();
}
