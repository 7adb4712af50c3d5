/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* gvm region: its command line. */
#include "tools/gvm.h"
#include "tools/gvm_nodes.h"
#include "tools/gvm_region.h"
#include "wire/wire.h"

#include <stdarg.h>
#include <string.h>

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

int region_complain(const char *fmt, ...)
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
	region_complain("\"%.80s\" is no name of a region: 1 to %u of A-Z a-z 0-9 . _ -", text,
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
	return region_complain("--bytes %s: a multiple of %u is wanted, at least %u, such as 64M",
			       text, GVM_PAGE_SIZE, GVM_PAGE_SIZE);
}

/* The words behind the verb. 0, or -1 after a complaint. */
static int take_words(struct region_asked *asked, char **argv)
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
		} else if (!strcmp(argv[at], "--bytes") || !strcmp(argv[at], "--placed-as")) {
			return region_complain("%s needs a value", argv[at]);
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

/* ---- the command --------------------------------------------------------------------------- */

static const struct verb {
	const char *name;
	int (*run)(const struct gvm_cluster *cluster, const struct region_asked *asked);
	int least, most; /* names */
	int bytes;
} verbs[] = { { "list", region_list, 0, 0, 0 },
	      { "delete", region_delete, 1, 1 << 16, 0 },
	      { "create", region_create, 1, 1, 1 },
	      { "resize", region_resize, 1, 1, 1 } };
#define VERBS (sizeof verbs / sizeof verbs[0])

static const struct verb *find_verb(const char *word)
{
	for (size_t i = 0; word && i < VERBS; i++)
		if (!strcmp(word, verbs[i].name))
			return &verbs[i];
	region_complain(
	    "what is to be done: list, delete, create or resize? See gvm region --help");
	return NULL;
}

static int check(const struct verb *verb, const struct region_asked *asked)
{
	if (asked->count < verb->least)
		return region_complain("%s which region? See gvm region --help", verb->name);
	if (asked->count > verb->most)
		return region_complain("%s: \"%s\" is one name too many; see gvm region --help",
				       verb->name, asked->names[verb->most]);
	if (!asked->bytes != !verb->bytes)
		return region_complain(
		    verb->bytes ? "%s needs --bytes SIZE" : "%s takes no --bytes", verb->name);
	return 0;
}

int gvm_cmd_region(int argc, char **argv)
{
	struct gvm_cluster *cluster;
	struct region_asked asked = { 0 };
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
