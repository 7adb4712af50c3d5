/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm set: show and change what a running program may have, by the socket that it has in this
 * user's folder (control.h). Sockets of processes that have ended are cleared away on the way.
 */
#include "tools/gvm.h"
#include "tools/control.h"

#include <gvmnet/gvmnet.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#define ANSWER_S 5 /* a program that does not answer for so long is stopped, or forks */

static const char help[] =
    "usage: gvm set [PID | NAME] [local=SIZE] [prefetch=PAGES]\n\n"
    "Change what a running program may have that gvm run started. PID is its process, NAME the\n"
    "program's name; without either it is the one program of this user that there is. Without\n"
    "anything to set, the programs and what they have are shown.\n\n"
    "  local=SIZE       most memory that may be local, as gvm run --local: 1M to 256T. What is\n"
    "                   above it goes to the memory nodes as fast as that can be written\n"
    "  prefetch=PAGES   most pages fetched ahead of a fault: 0 to 256\n\n"
    "A forked child has a budget of its own. Exit status: 0; 1 if it could not be done, and a\n"
    "line says why; 2 for bad usage.\n";

/* ---- asking one process --------------------------------------------------------------------- */

struct program {
	int pid;
	unsigned long long local, used;
	unsigned prefetch;
	char name[64];
};

static int complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int complain(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("gvm set: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	return GVM_EXIT_FAILED;
}

static int exchange(int fd, const char *request, char *reply)
{
	struct timeval patience = { .tv_sec = ANSWER_S };

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (send(fd, request, strlen(request), MSG_NOSIGNAL) < 0)
		return -errno;
	ssize_t n = recv(fd, reply, CONTROL_LINE - 1, 0);
	if (n < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -errno;
	reply[n] = 0;
	for (char *p = reply; *p; p++) /* nothing of it may move the cursor */
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	return n ? 0 : -ECONNRESET;
}

/* 0 and a reply; -ECONNREFUSED: nobody listens; other negative errno. */
static int ask(int dir, int pid, const char *request, char *reply)
{
	struct timeval patience = { .tv_sec = ANSWER_S };
	struct sockaddr_un address;
	socklen_t len = control_address(&address, dir, pid);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), err;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&address, len) < 0)
		err = errno == EAGAIN ? -ETIMEDOUT : -errno;
	else
		err = exchange(fd, request, reply);
	close(fd);
	return err;
}

static int parse_reply(const char *reply, struct program *program)
{
	int name = 0;

	if (sscanf(reply, "ok pid=%d local=%llu used=%llu prefetch=%u program=%n", &program->pid,
		   &program->local, &program->used, &program->prefetch, &name) < 4 ||
	    !name)
		return -EBADMSG;
	snprintf(program->name, sizeof(program->name), "%s", reply + name);
	return 0;
}

/* ---- finding them --------------------------------------------------------------------------- */

struct found {
	struct program *at;
	size_t count, room;
	int silent; /* one that does not answer, or 0 */
};

static int keep(struct found *found, const struct program *program)
{
	if (found->count == found->room) {
		size_t room = found->room ? found->room * 2 : 16;
		struct program *at = realloc(found->at, room * sizeof(*at));

		if (!at)
			return -ENOMEM;
		found->at = at;
		found->room = room;
	}
	found->at[found->count++] = *program;
	return 0;
}

static int ended(int pid)
{
	return kill(pid, 0) < 0 && errno == ESRCH;
}

static int meet(int dir, int pid, const char *file, struct found *found)
{
	char reply[CONTROL_LINE];
	struct program program;
	int err = ask(dir, pid, "get", reply);

	if (err == -ECONNREFUSED && ended(pid))
		unlinkat(dir, file, 0);
	if (err == -ETIMEDOUT)
		found->silent = pid;
	if (!err && parse_reply(reply, &program) == 0)
		return keep(found, &program);
	return 0;
}

static int by_pid(const void *a, const void *b)
{
	return ((const struct program *)a)->pid - ((const struct program *)b)->pid;
}

static int find_all(int dir, struct found *found)
{
	DIR *in = fdopendir(dup(dir));
	struct dirent *entry;
	int err = in ? 0 : -errno;

	while (!err && (entry = readdir(in))) {
		int pid = 0, end = 0;

		if (sscanf(entry->d_name, "%d.sock%n", &pid, &end) == 1 && end &&
		    !entry->d_name[end] && pid > 0)
			err = meet(dir, pid, entry->d_name, found);
	}
	if (in)
		closedir(in);
	if (found->count)
		qsort(found->at, found->count, sizeof(*found->at), by_pid);
	return err;
}

/* ---- showing -------------------------------------------------------------------------------- */

static const char *size_of(unsigned long long bytes, char *text, size_t room)
{
	static const char units[] = " KMGT";
	unsigned i = 0;

	for (; bytes && bytes % 1024 == 0 && i < 4; i++)
		bytes /= 1024;
	snprintf(text, room, i ? "%llu%c" : "%llu", bytes, units[i]);
	return text;
}

static void show(const struct program *p)
{
	char local[32];

	printf("%d %s local=%s prefetch=%u, %.1f MiB are here\n", p->pid, p->name,
	       size_of(p->local, local, sizeof(local)), p->prefetch, (double)p->used / (1 << 20));
}

/* Say what there is to choose from. */
static int which(const struct found *found, const char *name)
{
	char list[256] = "";
	size_t used = 0;

	for (size_t i = 0; i < found->count && used + 32 < sizeof(list); i++)
		if (!name || strcmp(found->at[i].name, name) == 0)
			used +=
			    (size_t)snprintf(list + used, sizeof(list) - used, "%s%d (%.16s)",
					     used ? ", " : "", found->at[i].pid, found->at[i].name);
	return complain("which of them? Give its PID: %s", list);
}

/* The folder of another user's process is out of sight: what can be said of a PID that is not here.
 */
static int not_here(int pid)
{
	struct stat st;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", pid);
	if (stat(path, &st) < 0)
		return complain("there is no process %d", pid);
	if (st.st_uid != geteuid())
		return complain("process %d is another user's: run gvm set as that user", pid);
	return complain("process %d has no memory that gvm run took over (gvm set without "
			"arguments lists the programs that have)",
			pid);
}

/* ---- setting -------------------------------------------------------------------------------- */

static int set_one(int dir, int pid, const char *request)
{
	char reply[CONTROL_LINE];
	struct program program;
	int err = ask(dir, pid, request, reply);

	if (err == -ENOENT || err == -ECONNREFUSED)
		return not_here(pid);
	if (err == -ETIMEDOUT)
		return complain("process %d does not answer within %d s: is it stopped? Nothing "
				"was changed",
				pid, ANSWER_S);
	if (err == -ECONNRESET || err == -EPIPE)
		return complain("process %d ended, or refuses this user", pid);
	if (err)
		return complain("process %d cannot be asked: %s", pid, strerror(-err));
	if (strncmp(reply, "error ", 6) == 0)
		return complain("process %d refuses: %s", pid, reply + 6);
	if (parse_reply(reply, &program) < 0)
		return complain("process %d answers something else: is it of another version?",
				pid);
	show(&program);
	return GVM_EXIT_OK;
}

static int nothing_runs(const struct found *found, const char *name)
{
	if (found->silent)
		return complain("process %d does not answer within %d s: is it stopped?",
				found->silent, ANSWER_S);
	if (name)
		return complain("no program \"%s\" of this user has memory that gvm run took "
				"over (gvm set without arguments lists those that have)",
				name);
	return complain("no program of this user has memory that gvm run took over");
}

/* By name, or the only one there is. */
static int set_named(int dir, const char *name, const char *request, const struct found *found)
{
	int pid = 0, count = 0;

	for (size_t i = 0; i < found->count; i++)
		if (!name || strcmp(found->at[i].name, name) == 0) {
			pid = found->at[i].pid;
			count++;
		}
	if (count == 0)
		return nothing_runs(found, name);
	return count == 1 ? set_one(dir, pid, request) : which(found, name);
}

static int show_named(const char *name, const struct found *found)
{
	int count = 0;

	for (size_t i = 0; i < found->count; i++)
		if (!name || strcmp(found->at[i].name, name) == 0) {
			show(&found->at[i]);
			count++;
		}
	return count ? GVM_EXIT_OK : nothing_runs(found, name);
}

static int act(int dir, const char *who, const char *request)
{
	struct found found = { 0 };
	int sets = strcmp(request, "get") != 0, status;

	if (who && strspn(who, "0123456789") == strlen(who)) {
		long pid = strtol(who, NULL, 10);

		return pid > 0 && pid <= INT_MAX ? set_one(dir, (int)pid, request)
						 : complain("%s is no process's id", who);
	}
	if (find_all(dir, &found) < 0)
		status = complain("the programs cannot be listed: %s", strerror(errno));
	else if (sets)
		status = set_named(dir, who, request, &found);
	else
		status = show_named(who, &found);
	free(found.at);
	return status;
}

/* ---- the command ---------------------------------------------------------------------------- */

static const struct {
	const char *word, *env, *legal;
} settings[] = { { "local", "GVM_LOCAL", "a size from 1M to 256T, such as 512M" },
		 { "prefetch", "GVM_PREFETCH", "a number of pages from 0 to 256" } };
#define SETTINGS (sizeof(settings) / sizeof(settings[0]))

/* Which setting "local=1G", "--local=1G" or "--local" is; *value is behind the '=', or NULL. */
static int setting_of(const char *arg, const char **value)
{
	int flag = strncmp(arg, "--", 2) == 0;

	for (size_t i = 0; i < SETTINGS; i++) {
		size_t len = strlen(settings[i].word);
		const char *end = arg + (flag ? 2 : 0);

		if (strncmp(end, settings[i].word, len) != 0)
			continue;
		end += len;
		*value = *end == '=' ? end + 1 : NULL;
		if (*end == '=' || (flag && !*end))
			return (int)i;
	}
	return -1;
}

/* The option's complaint names the option, which is not what was typed. */
static void unsaid(enum gvm_log_level level, const char *line)
{
}

static int refuse(int which, const char *value)
{
	char shown[64];

	snprintf(shown, sizeof(shown), "%s", value);
	for (char *p = shown; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f)
			*p = '?';
	complain("%s=%s: it must be %s", settings[which].word, shown, settings[which].legal);
	return -EINVAL;
}

/* The option's table says what is legal. */
static int add_setting(char *request, size_t size, int which, const char *value)
{
	size_t used = strlen(request);

	gvm_log_set(unsaid);
	int err = gvm_option_set(settings[which].env, value);
	gvm_log_set(NULL);
	if (err < 0)
		return refuse(which, value);
	snprintf(request + used, size - used, " %s=%llu", settings[which].word,
		 (unsigned long long)gvm_option_number(settings[which].env));
	return 0;
}

static int parse(int argc, char **argv, char *request, size_t size, const char **who)
{
	for (int i = 1; i < argc; i++) {
		const char *value;
		int which = setting_of(argv[i], &value);

		if (which >= 0 && !value && i + 1 < argc)
			value = argv[++i];
		if (which >= 0 && value) {
			if (strlen(request) + 64 > size)
				return complain("too much is to be set"), GVM_EXIT_USAGE;
			if (add_setting(request, size, which, value) < 0)
				return GVM_EXIT_USAGE;
		} else if (*argv[i] && *argv[i] != '-' && !strchr(argv[i], '=') && !*who) {
			*who = argv[i];
		} else {
			return gvm_usage(argv, i);
		}
	}
	return GVM_EXIT_OK;
}

static int open_folder(void)
{
	char path[PATH_MAX];
	int err = gvm_stats_dir(path, sizeof(path), 0), dir;

	if (err == -EPERM) {
		complain("%s is not this user's alone, so nothing in it is trusted: remove it",
			 path);
		return -1;
	}
	if (err == -ENOENT) {
		complain("no program of this user has memory that gvm run took over: there is no "
			 "%s (XDG_RUNTIME_DIR must be what it was for gvm run)",
			 path);
		return -1;
	}
	dir = err ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		complain("%s cannot be read: %s", path, strerror(err ? -err : errno));
	return dir;
}

int gvm_cmd_set(int argc, char **argv)
{
	char request[CONTROL_LINE] = "set";
	const char *who = NULL;
	int status, dir;

	if (gvm_wants_help(argc, argv)) {
		fputs(help, stdout);
		return GVM_EXIT_OK;
	}
	status = parse(argc, argv, request, sizeof(request), &who);
	if (status != GVM_EXIT_OK)
		return status;
	dir = open_folder();
	if (dir < 0)
		return GVM_EXIT_FAILED;
	status = act(dir, who, strcmp(request, "set") == 0 ? "get" : request);
	close(dir);
	return status;
}
