/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The gvm program: a table of commands. Each lives in gvm_NAME.c and knows nothing of the others.
 */
#include "tools/gvm.h"

#include <gvmnet/version.h>
#include <stdio.h>
#include <string.h>

static int cmd_help(int argc, char **argv);
static int cmd_version(int argc, char **argv);

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
} commands[] = {
	{ "run", gvm_cmd_run, "Run a program whose large mappings live on memory nodes" },
	{ "set", gvm_cmd_set, "Change the local budget of a running program" },
	{ "info", gvm_cmd_info, "Show providers, options, userfaultfd, and check a cluster file" },
	{ "top", gvm_cmd_top, "Show live what pagers and memory nodes do" },
	{ "region", gvm_cmd_region, "List, delete, make and resize the regions of memory nodes" },
	{ "perf", gvm_cmd_perf, "Measure send, fetch, put and page faults: latency and rate" },
	{ "sim", gvm_cmd_sim, "Run the coherence engine on a simulated cluster, and report" },
	{ "help", cmd_help, "Say how gvm, or one of its commands, is used" },
	{ "version", cmd_version, "Say which version this is" },
};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static const struct command *find(const char *name)
{
	size_t i;

	for (i = 0; i < COMMANDS; i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

int gvm_wants_help(int argc, char **argv)
{
	int i;

	for (i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return 1;
	return 0;
}

int gvm_usage(char **argv, int i)
{
	fprintf(stderr, "gvm %s: \"%s\" is not known here; see gvm %s --help\n", argv[0], argv[i],
		argv[0]);
	return GVM_EXIT_USAGE;
}

static void show_commands(FILE *out)
{
	size_t i;

	fprintf(out, "usage: gvm COMMAND [OPTION]...\n\n");
	for (i = 0; i < COMMANDS; i++)
		fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].help);
	fprintf(out,
		"\n\"gvm COMMAND --help\" says more of each, \"gvm info\" lists the options.\n");
}

static int unknown(const char *name)
{
	fprintf(stderr, "gvm: there is no command \"%s\"; \"gvm help\" lists them\n", name);
	return GVM_EXIT_USAGE;
}

static int cmd_help(int argc, char **argv)
{
	char *args[] = { NULL, "--help", NULL };
	const struct command *c;

	if (argc < 2 || gvm_wants_help(argc, argv)) {
		show_commands(stdout);
		return GVM_EXIT_OK;
	}
	c = find(argv[1]);
	if (!c)
		return unknown(argv[1]);
	args[0] = argv[1];
	return c->run == cmd_help ? cmd_help(1, args) : c->run(2, args);
}

static int cmd_version(int argc, char **argv)
{
	printf("gvm %s\n", gvm_version());
	return GVM_EXIT_OK;
}

int main(int argc, char **argv)
{
	const struct command *c;

	if (argc < 2) {
		show_commands(stderr);
		return GVM_EXIT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
		argv[1] = "help";
	else if (strcmp(argv[1], "--version") == 0)
		argv[1] = "version";
	c = find(argv[1]);
	return c ? c->run(argc - 1, argv + 1) : unknown(argv[1]);
}
