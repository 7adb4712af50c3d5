/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm run: check all that can be checked, then become the program, with the preload library in its
 * environment. Signals, exit code and terminal are the program's own. The options travel as GVM_*
 * variables, files by absolute names because the program may change its directory.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <gvmnet/cluster.h>
#include <gvmnet/gvmnet.h>
#include "tools/gvm.h"
#include "tools/gvm_nodes.h"
#include "tools/gvm_run.h"

#define LIBRARY "libgvmnet-preload.so"

int run_refuse(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("gvm run: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	return -1;
}

static const char help[] =
    "usage: gvm run --cluster FILE [OPTION]... -- PROGRAM [ARGUMENT]...\n"
    "       gvm run --connect HOST:PORT [OPTION]... -- PROGRAM [ARGUMENT]...\n\n"
    "Run an unmodified program. Its large mappings, and large blocks of malloc, live on memory\n"
    "nodes; at most --local of them are in this machine's memory at a time. Or: programs on\n"
    "several machines share memory (--shared).\n\n"
    "  --cluster FILE       the memory nodes: a line \"ID HOST PORT\" for each\n"
    "  --connect HOST:PORT  the one memory node, in place of a cluster file\n"
    "  --key-file FILE      the pre-shared key, the same as the memory nodes'\n"
    "  --local SIZE         most memory that may be local (default 1G)\n"
    "  --min SIZE           smallest mapping that is taken over (default 2M)\n"
    "  --malloc SIZE|off    smallest block of malloc that is taken over (default 2M)\n"
    "  --match PATTERN,...  shared mappings of files of these names are taken over, and no other\n"
    "                       process sees what is in them; default: memfds, and files in\n"
    "                       tmpfs that are unlinked already, from --min on\n"
    "  --shared-anonymous   also shared anonymous memory; a forked child has none of it\n"
    "  --load               also files that hold data: it is read in, and never written back\n"
    "  --shared NAME,...    POSIX shared memory objects of these names (or patterns) are one for\n"
    "                       all programs that are started so, on any machine of the --cluster\n"
    "                       file, which has a line role=compute for each; private memory is\n"
    "                       left alone then, unless --local is given\n"
    "  --node ID            which of these lines is this program (default: the first that has an\n"
    "                       address of this machine and is free)\n"
    "  --shared-local SIZE  most of each shared object that may be local (default: all)\n"
    "  --unreachable HOW    stall, sigbus or zero, when a memory node does not answer\n"
    "  --prefetch PAGES     most pages fetched ahead of a fault\n"
    "  --stats-file FILE    statistics as JSON, renewed each second; off: none (default: a\n"
    "                       folder where gvm top looks)\n"
    "  --verbose            a line for each mapping that is taken over\n"
    "  --no-report          no report at the end\n\n"
    "Not taken over: stacks, executable and huge-page mappings, private mappings of files, and\n"
    "what the program maps without the C library. A large private reservation (PROT_NONE) is\n"
    "taken over where --min or more of it are made writable at once. mlock of what is taken over\n"
    "succeeds and does nothing. A child of fork sees all of it but shared memory.\n\n"
    "The exit code is the program's; 120: gvm run refused to start it, 2: wrong usage.\n";

/* Spellings that the option table does not have. */
static void respell(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
		if (!strcmp(argv[i], "--no-report"))
			argv[i] = "--report=0";
		else if (!strcmp(argv[i], "--malloc=off"))
			argv[i] = "--malloc=0";
		else if (!strcmp(argv[i], "--stats") && i + 1 < argc)
			argv[i] = "--stats-file";
		else if (!strcmp(argv[i], "--malloc") && i + 1 < argc &&
			 !strcmp(argv[i + 1], "off"))
			argv[i + 1] = "0";
	}
}

/* Returns the index of the program in argv, or 0 after a complaint. */
static int find_arguments(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--")) {
		if (*argv[1] == '-')
			gvm_usage(argv, 1);
		else
			run_refuse("put \"--\" before the program and its arguments");
		return 0;
	}
	if (argc < 3) {
		run_refuse("which program? gvm run [OPTION]... -- PROGRAM [ARGUMENT]...");
		return 0;
	}
	return 2;
}

/* ---- memory that nodes share ---------------------------------------------------------------- */

/* Is it given, by an option or a variable? It has a default, which is for paging. */
static int gives_local(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
		if (!strcmp(argv[i], "--local") || !strncmp(argv[i], "--local=", 8))
			return 1;
	return getenv("GVM_LOCAL") != NULL;
}

/* "--shared -- PROGRAM" would take "--" for a name, and an empty one would share nothing. */
static int check_shared_usage(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
		if (!strcmp(argv[i], "--shared=") ||
		    (!strcmp(argv[i], "--shared") &&
		     (i + 1 == argc || !*argv[i + 1] || *argv[i + 1] == '-')))
			return run_refuse("--shared needs the name of a shared memory object; "
					  "anonymous memory is --shared-anonymous");
	return 0;
}

#define NAME_CHARS    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
#define OBJECT_MAX    55u /* a dot counts as two: as OBJECT_NAME_MAX of the preload library */
#define PATTERN_CHARS NAME_CHARS "*?[]!^"
#define PATTERN_MAX   63u

/* Can an object have this name, or one that the pattern matches? */
static int is_shared_name(const char *name, size_t len)
{
	size_t dots = 0, chars = strspn(name, NAME_CHARS);

	if (len == 0 || strspn(name, PATTERN_CHARS) < len)
		return 0;
	if (chars < len)
		return len <= PATTERN_MAX;
	for (size_t i = 0; i < len; i++)
		dots += name[i] == '.';
	return len + dots <= OBJECT_MAX && !(dots == len && len <= 2); /* a folder */
}

static int check_shared_names(void)
{
	const char *name = gvm_option_text("GVM_RUN_SHARED");

	for (size_t len; *name; name += len + 1) {
		len = strcspn(name, ",");
		if (!is_shared_name(name, len) || (name[len] && !name[len + 1]))
			return run_refuse(
			    "--shared: \"%.*s\" is no name of a shared memory object: "
			    "that has 1 to 55 of [A-Za-z0-9._-], a dot counts as two, "
			    "and no slash; a pattern has 1 to 63 of these and *?[]",
			    len && is_shared_name(name, len) ? 0 : (int)len, name);
		if (!name[len])
			break;
	}
	return 0;
}

static int check_shared(const struct gvm_cluster *cluster)
{
	unsigned id = (unsigned)gvm_option_number("GVM_NODE"), lines = 0;
	uint64_t local = gvm_option_number("GVM_RUN_SHARED_LOCAL");
	const struct gvm_node *line;

	if (!*gvm_option_text("GVM_RUN_SHARED"))
		return 0;
	if (*gvm_option_text("GVM_CONNECT"))
		return run_refuse("--shared needs a --cluster file: each program has a line of its "
				  "own there");
	if (local && local < 65536)
		return run_refuse("--shared-local is at least 64K");
	for (size_t i = 0; (line = gvm_cluster_at(cluster, i)); i++)
		lines += (line->roles & GVM_ROLE_COMPUTE) != 0;
	if (!lines)
		return run_refuse("--shared: the cluster file has no line with role=compute: each "
				  "program that shares memory needs one, \"ID HOST PORT "
				  "role=compute\"");
	line = id == GVM_NODE_NONE ? NULL : gvm_cluster_node(cluster, id);
	if (id != GVM_NODE_NONE && !(line && line->roles & GVM_ROLE_COMPUTE))
		return run_refuse("--node %u: the cluster file has no line of that id with "
				  "role=compute",
				  id);
	return 0;
}

/* So that a wrong address or key is known before the program starts. */
static int probe(const struct gvm_cluster *cluster)
{
	char why[512];

	return nodes_probe(cluster, GVM_NODE_NONE, why, sizeof why) ? run_refuse("%s", why) : 0;
}

/* Beside the program in the build tree, else where it was installed; GVM_PRELOAD overrides. */
static int find_library(char *path, size_t room)
{
	const char *given = gvm_option_text("GVM_PRELOAD");
	char exe[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);

	if (*given) {
		if (!realpath(given, path) || access(path, R_OK))
			return run_refuse("GVM_PRELOAD names %s, which cannot be read: %s", given,
					  strerror(errno));
		return 0;
	}
	exe[n > 0 ? n : 0] = 0;
	char *slash = strrchr(exe, '/');
	if (slash)
		*slash = 0;
	const char *forms[] = { "%s/" LIBRARY, "%s/../" GVM_LIBDIR "/gvmnet/" LIBRARY,
				GVM_FULL_LIBDIR "/gvmnet/" LIBRARY };
	for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
		char form[PATH_MAX + 128];
		if (i < 2)
			snprintf(form, sizeof form, "%s%s", exe, forms[i] + 2);
		else
			snprintf(form, sizeof form, "%s", forms[i]);
		char *found = realpath(form, NULL);
		if (found && strlen(found) < room && !access(found, R_OK)) {
			strcpy(path, found);
			free(found);
			return 0;
		}
		free(found);
	}
	return run_refuse(
	    "the preload library %s was found neither beside %s nor in " GVM_FULL_LIBDIR
	    "/gvmnet; GVM_PRELOAD can name it",
	    LIBRARY, exe);
}

/* ---- the environment ------------------------------------------------------------------------ */

static int put(const char *name, const char *value)
{
	return setenv(name, value, 1) ? run_refuse("%s: %s", name, strerror(errno)) : 0;
}

/* Where the statistics go there must be a folder that lets a file be made: they are renewed by a
 * new one each second. */
static int check_stats_file(void)
{
	const char *name = gvm_option_text("GVM_STATS_FILE"), *slash = strrchr(name, '/');
	char dir[PATH_MAX];
	struct stat st;

	if (!*name || !strcmp(name, "off") || !strncmp(name, "/dev/", 5))
		return 0;
	if ((!slash || slash[1]) && !stat(name, &st) && S_ISDIR(st.st_mode))
		return run_refuse("--stats-file %s is a folder: name a file in it, or the folder "
				  "with a slash at its end, for a file of each process",
				  name);
	snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - name) : 1, slash ? name : ".");
	if (!access(*dir ? dir : "/", W_OK | X_OK))
		return 0;
	return run_refuse("--stats-file %s: no file can be made in %s: %s; name another, or off",
			  name, *dir ? dir : "/", strerror(errno));
}

/* Each process of the program reads it for itself. */
static int check_cluster_file(void)
{
	const char *name = gvm_option_text("GVM_CLUSTER");
	struct stat st;

	if (!*name || stat(name, &st) || S_ISREG(st.st_mode))
		return 0;
	return run_refuse("--cluster %s is not a regular file, and each process of the program "
			  "reads it again: name a file",
			  name);
}

/* A file's absolute name; it need not exist. */
static int put_path(const char *name)
{
	const char *value = gvm_option_text(name);
	char dir[PATH_MAX], path[PATH_MAX * 2];

	if (!*value || !strcmp(value, "off"))
		return 0;
	if (*value == '/')
		return put(name, value);
	if (!getcwd(dir, sizeof dir))
		return run_refuse("the current directory has no name: %s", strerror(errno));
	snprintf(path, sizeof path, "%s/%s", dir, value);
	return put(name, path);
}

/* What processes that were killed have left in the folder is cleared away. */
static void clear_folder(const char *dir)
{
	DIR *in = opendir(dir);

	for (struct dirent *entry; in && (entry = readdir(in));) {
		char tail[8] = "";
		int pid = 0, end = 0;
		if (sscanf(entry->d_name, "%d.%5[a-z]%n", &pid, tail, &end) == 2 && pid > 0 &&
		    (!strcmp(tail, "json") || !strcmp(tail, "sock")) && !entry->d_name[end] &&
		    kill(pid, 0) && errno == ESRCH)
			unlinkat(dirfd(in), entry->d_name, 0);
	}
	if (in)
		closedir(in);
}

/* Statistics and the control socket go where gvm top and gvm set find them, unless they were sent
 * elsewhere. That there is no such folder is no reason to refuse. */
static int put_folder(void)
{
	char dir[PATH_MAX - 1], path[PATH_MAX];
	int stats = !*gvm_option_text("GVM_STATS_FILE"), err;

	if (!stats && *gvm_option_text("GVM_CONTROL"))
		return 0;
	err = gvm_stats_dir(dir, sizeof dir, 1);
	if (err) {
		fprintf(stderr,
			"gvm run: gvm top and gvm set will not find this program: %s %s%s\n", dir,
			err == -EPERM ? "is not this user's alone: remove it, or set "
					"XDG_RUNTIME_DIR"
				      : "cannot be made: ",
			err == -EPERM ? "" : strerror(-err));
		return 0;
	}
	clear_folder(dir);
	snprintf(path, sizeof path, "%s/", dir);
	if (stats && put("GVM_STATS_FILE", path))
		return -1;
	return *gvm_option_text("GVM_CONTROL") ? 0 : put("GVM_CONTROL", dir);
}

static int put_options(void)
{
	static const char *const files[] = { "GVM_CLUSTER", "GVM_KEY_FILE", "GVM_STATS_FILE",
					     "GVM_CONTROL" };
	size_t count;
	const struct gvm_option *options = gvm_options(&count);
	int err = 0;

	for (size_t i = 0; i < count && !err; i++) {
		const char *value = gvm_option_text(options[i].env);
		if (strcmp(value, options[i].fallback) || getenv(options[i].env))
			err = put(options[i].env, value);
	}
	for (size_t i = 0; i < sizeof files / sizeof *files && !err; i++)
		err = put_path(files[i]);
	return err ? err : put_folder();
}

static int put_preload(const char *library)
{
	const char *had = getenv("LD_PRELOAD");
	char text[PATH_MAX * 4], pid[32];

	if (strpbrk(library, " :"))
		return run_refuse("%s: the loader cannot take a name with a space or a colon",
				  library);
	if ((size_t)snprintf(text, sizeof text, "%s%s%s", library, had && *had ? ":" : "",
			     had ? had : "") >= sizeof text)
		return run_refuse("LD_PRELOAD is too long already");
	snprintf(pid, sizeof pid, "%d", (int)getpid());
	return put("GVM_RUN_PID", pid) || put("LD_PRELOAD", text) ? -1 : 0;
}

static int check_all(const char *program, char *path, char *library)
{
	struct gvm_cluster *cluster;

	if (!strcmp(gvm_option_text("GVM_MODE"), "kernel"))
		return run_refuse(
		    "GVM_MODE=kernel is for the kernel module, which has no device yet; gvm run "
		    "pages in user space (auto or user)");
	if (!strcmp(gvm_option_text("GVM_TRANSPORT"), "loop"))
		return run_refuse("the transport loop is for within one process, and memory nodes "
				  "are others: use tcp");
	if (run_check_program(program, path, PATH_MAX) || find_library(library, PATH_MAX) ||
	    check_stats_file() || check_cluster_file() || nodes_cluster("run", &cluster))
		return -1;
	int err = check_shared(cluster);
	err = err ? err : run_check_userfaultfd();
	if (!err && gvm_option_number("GVM_RUN_PRIVATE"))
		err = run_check_memory();
	if (!err)
		err = probe(cluster);
	gvm_cluster_free(cluster);
	return err;
}

int gvm_cmd_run(int argc, char **argv)
{
	char path[PATH_MAX], library[PATH_MAX];

	if (gvm_wants_help(argc, argv)) {
		fputs(help, stdout);
		return GVM_EXIT_OK;
	}
	if (check_shared_usage(argc, argv))
		return GVM_EXIT_USAGE;
	respell(argc, argv);
	int local = gives_local(argc, argv);
	if (gvm_options_check() || gvm_options_parse(&argc, argv))
		return GVM_EXIT_USAGE;
	int program = find_arguments(argc, argv);
	if (!program || check_shared_names())
		return GVM_EXIT_USAGE;
	if (*gvm_option_text("GVM_RUN_SHARED") && !local && put("GVM_RUN_PRIVATE", "0"))
		return GVM_RUN_REFUSED;
	if (check_all(argv[program], path, library) || put_options() || put_preload(library))
		return GVM_RUN_REFUSED;
	execv(path, argv + program);
	run_refuse("%s cannot be run: %s", path, strerror(errno));
	return GVM_RUN_REFUSED;
}
