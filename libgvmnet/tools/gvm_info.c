/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm info: what there is on this machine and what is in force. First everything is looked at and
 * put into one JSON value, then that is printed, as it is or as text; so both say the same.
 */
#include "tools/gvm.h"

#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

enum form { FORM_TEXT, FORM_VERBOSE, FORM_JSON, FORM_ENVIRONMENT, FORM_MANUAL };

/* ---- providers ----------------------------------------------------------------------------- */

/* One string a line, two spaces for each step of its depth. */
static void add_line(void *arg, unsigned depth, const char *text)
{
	json_array_append_new(arg, json_sprintf("%*s%s", (int)(2 * depth), "", text));
}

static json_t *look_at_hardware(const char *name)
{
	json_t *lines = json_array();

	gvm_provider_describe(name, add_line, lines);
	return lines;
}

static json_t *look_at_providers(void)
{
	struct gvm_provider_info info[16];
	size_t i, n = gvm_providers(info, 16);
	json_t *list = json_array();

	for (i = 0; i < n && i < 16; i++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:s, s:o}", "name",
						      info[i].name, "what", info[i].what, "usable",
						      info[i].usable == 0, "why", info[i].why,
						      "hardware", look_at_hardware(info[i].name)));
	return list;
}

static void show_providers(const json_t *list, int verbose)
{
	const json_t *p, *line;
	size_t i, k;

	printf("Transport providers (GVM_TRANSPORT=%s)\n", gvm_option_text("GVM_TRANSPORT"));
	json_array_foreach(list, i, p)
	{
		int usable = json_is_true(json_object_get(p, "usable"));

		printf("  %-6s %-9s %s\n", json_string_value(json_object_get(p, "name")),
		       usable ? "usable" : "not here",
		       json_string_value(json_object_get(p, usable ? "what" : "why")));
		if (verbose)
			json_array_foreach(json_object_get(p, "hardware"), k, line)
			    printf("         %s\n", json_string_value(line));
	}
}

/* ---- userfaultfd --------------------------------------------------------------------------- */

/* Bits of UFFDIO_API that older headers do not name. */
static const struct {
	unsigned bit;
	int needed; /* by the pager */
	const char *name, *what;
} features[] = {
	{ 0, 1, "wp", "write-protection, which finds the dirty pages" },
	{ 1, 1, "event_fork", "following fork" },
	{ 2, 1, "event_remap", "following mremap" },
	{ 3, 1, "event_remove", "following discards (balloon, MADV_DONTNEED)" },
	{ 5, 1, "missing_shmem", "shared memory and memfd" },
	{ 6, 1, "event_unmap", "following munmap" },
	{ 12, 1, "wp_hugetlbfs_shmem", "write-protection of shared memory and memfd" },
	{ 13, 0, "wp_unpopulated", "write-protection of pages not there" },
	{ 14, 0, "poison", "pages that give SIGBUS" },
	{ 15, 0, "wp_async", "write-protection without a fault" },
	{ 16, 0, "move", "eviction of private memory without a copy" },
};
#define FEATURES (sizeof(features) / sizeof(features[0]))

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* A userfaultfd for faults of the kernel too, and how it was come by; or -errno of the call. */
static int open_userfaultfd(const char **how)
{
	int dev, fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), err = errno;

	*how = "system call";
	if (fd >= 0)
		return fd;
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return -err;
	fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	err = errno;
	close(dev);
	*how = "/dev/userfaultfd";
	return fd >= 0 ? fd : -err;
}

static const char *userfaultfd_advice(int err)
{
	if (err == -EPERM)
		return "no permission: run as root or with CAP_SYS_PTRACE, or let your group use "
		       "/dev/userfaultfd, or set sysctl vm.unprivileged_userfaultfd=1";
	if (err == -ENOSYS)
		return "this kernel has none: it needs CONFIG_USERFAULTFD";
	return strerror(-err);
}

static json_t *look_at_features(uint64_t have, int *complete)
{
	json_t *list = json_array();
	size_t i;

	for (i = 0; i < FEATURES; i++) {
		int there = (have >> features[i].bit) & 1;

		*complete &= there || !features[i].needed;
		json_array_append_new(list,
				      json_pack("{s:s, s:s, s:b, s:b}", "name", features[i].name,
						"what", features[i].what, "needed",
						features[i].needed, "there", there));
	}
	return list;
}

static json_t *look_at_userfaultfd(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	const char *how;
	int fd = open_userfaultfd(&how), complete = 1;
	json_t *list;

	if (fd < 0)
		return json_pack("{s:b, s:s}", "usable", 0, "why", userfaultfd_advice(fd));
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		api.features = 0;
	close(fd);
	list = look_at_features(api.features, &complete);
	return json_pack("{s:b, s:s, s:s, s:o}", "usable", complete, "how", how, "why",
			 complete ? "" : "this kernel lacks features that the pager needs",
			 "features", list);
}

static void show_userfaultfd(const json_t *u)
{
	int usable = json_is_true(json_object_get(u, "usable"));
	const char *why = json_string_value(json_object_get(u, "why"));
	const json_t *f;
	size_t i;

	printf("\nuserfaultfd: %s%s\n", usable ? "usable, by " : "not usable here: ",
	       usable ? json_string_value(json_object_get(u, "how")) : why);
	json_array_foreach(json_object_get(u, "features"), i, f)
	    printf("  %-3s  %-19s %s%s\n", json_is_true(json_object_get(f, "there")) ? "yes" : "no",
		   json_string_value(json_object_get(f, "name")),
		   json_string_value(json_object_get(f, "what")),
		   json_is_true(json_object_get(f, "needed")) ? "" : " (not needed)");
}

/* ---- the machine --------------------------------------------------------------------------- */

static json_t *look_at_machine(void)
{
	struct rlimit files = { 0 }, locked = { 0 };
	struct utsname uts;

	uname(&uts);
	getrlimit(RLIMIT_NOFILE, &files);
	getrlimit(RLIMIT_MEMLOCK, &locked);
	return json_pack("{s:s, s:I, s:I, s:I, s:b}", "kernel", uts.release, "cpus",
			 (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "open_files",
			 files.rlim_cur == RLIM_INFINITY ? -1 : (json_int_t)files.rlim_cur,
			 "locked_bytes",
			 locked.rlim_cur == RLIM_INFINITY ? -1 : (json_int_t)locked.rlim_cur,
			 "kernel_module", access("/dev/giantvm", F_OK) == 0);
}

static void show_limit(const char *what, const json_t *machine, const char *name)
{
	json_int_t value = json_integer_value(json_object_get(machine, name));

	if (value < 0)
		printf(", %s unlimited", what);
	else
		printf(", %s %lld", what, (long long)value);
}

static void show_machine(const json_t *m)
{
	printf("\nMachine: kernel %s, %lld CPUs", json_string_value(json_object_get(m, "kernel")),
	       (long long)json_integer_value(json_object_get(m, "cpus")));
	show_limit("open files", m, "open_files");
	show_limit("locked bytes", m, "locked_bytes");
	printf(", kernel module %s\n",
	       json_is_true(json_object_get(m, "kernel_module")) ? "loaded" : "not loaded");
}

/* ---- options ------------------------------------------------------------------------------- */

static const char *source_of(const struct gvm_option *o, const char *value)
{
	const char *env = getenv(o->env);

	if (value == o->fallback)
		return "default";
	return value == env ? "environment" : "command line";
}

static json_t *look_at_options(void)
{
	json_t *list = json_array();
	size_t i, n;
	const struct gvm_option *o = gvm_options(&n);

	for (i = 0; i < n; i++) {
		const char *value = gvm_option_text(o[i].env);
		json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "name", o[i].env, "type",
				      o[i].type, "default", o[i].fallback, "value", value, "source",
				      source_of(&o[i], value), "help", o[i].help);

		if (o[i].flag)
			json_object_set_new(j, "flag", json_string(o[i].flag));
		if (o[i].choices)
			json_object_set_new(j, "choices", json_string(o[i].choices));
		if (o[i].max) {
			json_object_set_new(j, "min", json_integer((json_int_t)o[i].min));
			json_object_set_new(j, "max", json_integer((json_int_t)o[i].max));
		}
		json_array_append_new(list, j);
	}
	return list;
}

static const char *text_of(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "";
}

/* 268435456 as 256M, where that is exact. */
static void show_amount(json_int_t value, int bytes)
{
	static const char units[] = " KMGT";
	unsigned i = 0;

	for (; bytes && value && value % 1024 == 0 && i < 4; i++)
		value /= 1024;
	printf("%lld", (long long)value);
	if (i)
		putchar(units[i]);
}

static void show_choices(const char *choices)
{
	size_t n;

	for (; *choices; choices += n + (choices[n] == '|')) {
		n = strcspn(choices, "|");
		printf("%.*s%s", (int)n, choices, choices[n] ? ", " : "");
	}
}

/* What an option may be: "stall, sigbus, zero", "bytes from 1M to 256T". */
static void show_legal(const json_t *o)
{
	const char *type = text_of(o, "type"), *choices = text_of(o, "choices");
	int bytes = strcmp(type, "bytes") == 0;

	if (strcmp(type, "choice") == 0 || strcmp(type, "provider") == 0) {
		show_choices(choices);
		return;
	}
	printf("%s", type);
	if (json_object_get(o, "max") && strcmp(type, "bool") != 0) {
		printf(" from ");
		show_amount(json_integer_value(json_object_get(o, "min")), bytes);
		printf(" to ");
		show_amount(json_integer_value(json_object_get(o, "max")), bytes);
	}
	if (*choices)
		printf(", a %s", choices);
}

static void show_options(const json_t *list)
{
	const json_t *o;
	size_t i;

	printf("\nOptions (command line over environment over default)\n");
	json_array_foreach(list, i, o)
	{
		const char *flag = text_of(o, "flag");
		int changed = strcmp(text_of(o, "source"), "default") != 0;

		printf("  %s%s%s  (", text_of(o, "name"), *flag ? ", " : "", flag);
		show_legal(o);
		printf("; default \"%s\")\n", text_of(o, "default"));
		printf("      %s\n", text_of(o, "help"));
		if (changed)
			printf("      Now \"%s\", from the %s.\n", text_of(o, "value"),
			       text_of(o, "source"));
	}
}

/* Fit for a shell and for systemd's EnvironmentFile=. */
static void show_quoted(const char *text)
{
	putchar('\'');
	for (; *text; text++)
		if (*text == '\'')
			printf("'\\''");
		else
			putchar(*text);
	putchar('\'');
}

static void show_environment(const json_t *list)
{
	const json_t *o;
	size_t i;

	json_array_foreach(list, i, o)
	{
		printf("# %s\n", text_of(o, "help"));
		/* What is the default stays a comment, so that a later default is not frozen. */
		if (strcmp(text_of(o, "source"), "default") == 0)
			printf("# ");
		printf("%s=", text_of(o, "name"));
		show_quoted(text_of(o, "value"));
		printf("\n");
	}
}

/* scdoc would take these for markup. */
static void show_scdoc(const char *text)
{
	for (; *text; text++) {
		if (strchr("_*\\", *text))
			putchar('\\');
		putchar(*text);
	}
}

/* The options' part of gvmnet(7), as scdoc reads it. */
static void show_manual(const json_t *list)
{
	const json_t *o;
	size_t i;

	json_array_foreach(list, i, o)
	{
		putchar('*');
		show_scdoc(text_of(o, "name"));
		printf("*");
		if (*text_of(o, "flag"))
			printf(", *%s*", text_of(o, "flag"));
		printf("\n\t");
		show_scdoc(text_of(o, "help"));
		printf("++\n(");
		show_legal(o);
		printf("; default: ");
		show_scdoc(*text_of(o, "default") ? text_of(o, "default") : "none");
		printf(")\n\n");
	}
}

/* ---- the cluster file ---------------------------------------------------------------------- */

static const char *role_name(unsigned roles)
{
	if (roles == (GVM_ROLE_MEMORY | GVM_ROLE_COMPUTE))
		return "both";
	return roles == GVM_ROLE_MEMORY ? "memory" : "compute";
}

static json_t *describe_cluster(const struct gvm_cluster *cluster)
{
	json_t *nodes = json_array();
	char digest[24];
	size_t i;

	for (i = 0; i < gvm_cluster_size(cluster); i++) {
		const struct gvm_node *n = gvm_cluster_at(cluster, i);

		json_array_append_new(nodes,
				      json_pack("{s:i, s:s, s:i, s:s, s:i}", "id", (int)n->id,
						"host", n->host, "port", (int)n->port, "role",
						role_name(n->roles), "weight", (int)n->weight));
	}
	snprintf(digest, sizeof(digest), "%016llx",
		 (unsigned long long)gvm_cluster_digest(cluster));
	return json_pack("{s:s, s:s, s:o}", "name", gvm_cluster_name(cluster), "digest", digest,
			 "nodes", nodes);
}

/* NULL when no file is named; -errno of a file that is not well, which has been said. */
static int look_at_cluster(json_t **result)
{
	const char *path = gvm_option_text("GVM_CLUSTER");
	struct gvm_cluster *cluster;
	char *error = NULL;
	int err;

	*result = NULL;
	if (!*path)
		return 0;
	err = gvm_cluster_load(path, &cluster, &error);
	if (err < 0) {
		fprintf(stderr, "gvm info: %s\n", error ? error : strerror(-err));
		free(error);
		return err;
	}
	*result = describe_cluster(cluster);
	gvm_cluster_free(cluster);
	return 0;
}

static void show_cluster(const json_t *c)
{
	const json_t *nodes = json_object_get(c, "nodes"), *n;
	size_t i;

	printf("\nCluster \"%s\" (%s): %zu node%s, digest %s\n", text_of(c, "name"),
	       gvm_option_text("GVM_CLUSTER"), json_array_size(nodes),
	       json_array_size(nodes) == 1 ? "" : "s", text_of(c, "digest"));
	json_array_foreach(nodes, i, n)
	    printf("  %5lld  %-30s %5lld  %-7s  weight %lld\n",
		   (long long)json_integer_value(json_object_get(n, "id")), text_of(n, "host"),
		   (long long)json_integer_value(json_object_get(n, "port")), text_of(n, "role"),
		   (long long)json_integer_value(json_object_get(n, "weight")));
}

/* ---- the command --------------------------------------------------------------------------- */

static void help(void)
{
	printf(
	    "usage: gvm info [-v | --json | --manual | -e] [OPTION]...\n\n"
	    "Show the transport providers, userfaultfd, the machine's limits, and each option "
	    "with\n"
	    "its type, default and value. With a cluster file (--cluster FILE or GVM_CLUSTER),\n"
	    "check it and list its nodes; the options then only with -v.\n\n"
	    "  -v               the hardware of the transport providers, too\n"
	    "  --json           everything as one JSON object\n"
	    "  -e               only the options, as a file for a shell or systemd to read\n"
	    "  --cluster FILE   the cluster file to check\n\n"
	    "Exit status: 0; 1 if the cluster file or an option is not legal; 2 for bad usage.\n");
}

static void show(const json_t *all, int verbose)
{
	printf("gvmnet %s\n\n", text_of(all, "version"));
	show_providers(json_object_get(all, "providers"), verbose);
	show_userfaultfd(json_object_get(all, "userfaultfd"));
	show_machine(json_object_get(all, "machine"));
	if (json_object_get(all, "cluster"))
		show_cluster(json_object_get(all, "cluster"));
	/* who checks a cluster file is not after the options */
	if (verbose || !json_object_get(all, "cluster"))
		show_options(json_object_get(all, "options"));
}

static int print(json_t *all, enum form form)
{
	if (form == FORM_JSON) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (form == FORM_ENVIRONMENT) {
		show_environment(json_object_get(all, "options"));
	} else if (form == FORM_MANUAL) {
		show_manual(json_object_get(all, "options"));
	} else {
		show(all, form == FORM_VERBOSE);
	}
	json_decref(all);
	if (fflush(stdout) == 0)
		return GVM_EXIT_OK;
	fprintf(stderr, "gvm info: cannot write: %s\n", strerror(errno));
	return GVM_EXIT_FAILED;
}

int gvm_cmd_info(int argc, char **argv)
{
	enum form form = FORM_TEXT;
	json_t *cluster, *all;
	int i, status = GVM_EXIT_OK;

	if (gvm_wants_help(argc, argv)) {
		help();
		return GVM_EXIT_OK;
	}
	if (gvm_options_parse(&argc, argv) < 0)
		return GVM_EXIT_USAGE;
	for (i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--json") == 0)
			form = FORM_JSON;
		else if (strcmp(argv[i], "-v") == 0)
			form = FORM_VERBOSE;
		else if (strcmp(argv[i], "-e") == 0)
			form = FORM_ENVIRONMENT;
		else if (strcmp(argv[i], "--manual") == 0)
			form = FORM_MANUAL;
		else
			return gvm_usage(argv, i);
	}
	if (gvm_options_check() < 0 || look_at_cluster(&cluster) < 0)
		return GVM_EXIT_FAILED;
	all = json_pack("{s:s, s:o, s:o, s:o, s:o}", "version", gvm_version(), "providers",
			look_at_providers(), "userfaultfd", look_at_userfaultfd(), "machine",
			look_at_machine(), "options", look_at_options());
	if (cluster)
		json_object_set_new(all, "cluster", cluster);
	status = print(all, form);
	return status;
}
