/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a program needs in its environment to be under gvm run, and whether it can be. A program
 * that starts others with an environment of its own making (env -i, a shell that unsets LD_PRELOAD)
 * does not mean to have them run without: what is missing is put back. Who does mean it says so
 * with an empty GVM_CLUSTER or GVM_CONNECT.
 *
 * env_room, env_fill and env_look may be called in a vforked child and in a signal handler: they
 * allocate nothing and take no lock.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "preload.h"
#include "tools/loadable.h"

extern char **environ;

#define LOADS     "LD_PRELOAD="
#define KEPT_MOST 64
#define TOLD_MOST 64

static struct {
	char *kept[KEPT_MOST]; /* as they were when this program began: "GVM_A=b" */
	size_t count;
	char *loads;         /* "LD_PRELOAD=..." as it was, with this library */
	const char *library; /* as it was loaded */
	/* Files that a line was said of. From the first fork on they are shared with the children,
	 * which are about to exec: a shell starts one program many times. */
	_Atomic(uint64_t) *_Atomic told;
	_Atomic(uint64_t) told_alone[TOLD_MOST];
} env;

static int is_of(const char *var, const char *prefix)
{
	return !strncmp(var, prefix, strlen(prefix));
}

/* Is it one of the list's? Another build of this library counts. */
static int lists_us(const char *list)
{
	const char *ours = strrchr(env.library, '/') + 1;
	size_t wanted = strlen(ours);

	while (*list) {
		size_t len = strcspn(list, ": ");
		if (len >= wanted && !strncmp(list + len - wanted, ours, wanted) &&
		    (len == wanted || list[len - wanted - 1] == '/'))
			return 1;
		list += len + (list[len] != 0);
	}
	return 0;
}

static char *joined(const char *a, const char *b, const char *c)
{
	size_t room = strlen(a) + strlen(b) + strlen(c) + 2;
	char *text = heap_alloc(room);

	if (text)
		snprintf(text, room, "%s%s%s%s", a, b, *c ? ":" : "", c);
	return text;
}

void env_init(void)
{
	static const char here;
	const char *had = getenv("LD_PRELOAD");
	Dl_info us;

	if (!preload_active || !dladdr(&here, &us) || !us.dli_fname || *us.dli_fname != '/')
		return;
	env.library = joined(us.dli_fname, "", "");
	if (!env.library)
		return;
	had = had ? had : "";
	env.loads = lists_us(had) ? joined(LOADS, had, "") : joined(LOADS, env.library, had);
	for (char **var = environ; var && *var && env.count < KEPT_MOST; var++)
		if (is_of(*var, "GVM_") && strchr(*var, '=') &&
		    (env.kept[env.count] = joined(*var, "", "")))
			env.count++;
	env.told = env.told_alone;
}

void env_fork_prepare(void)
{
	if (env.told != env.told_alone)
		return;
	void *page =
	    raw_mmap(NULL, PRELOAD_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return;
	memcpy(page, env.told_alone, sizeof env.told_alone);
	env.told = page;
}

/* ---- what is missing ----------------------------------------------------------------------- */

/* The variable of that name ("GVM_A=...") in a list, or NULL. */
static const char *find(char *const list[], const char *var)
{
	size_t len = strcspn(var, "=") + 1;

	while (list && *list && strncmp(*list, var, len))
		list++;
	return list ? *list : NULL;
}

/* The two that name the memory nodes exclude each other: one of them is enough, and says that the
 * program knows what it does. */
static int names_nodes(char *const list[])
{
	return find(list, "GVM_CLUSTER=") || find(list, "GVM_CONNECT=");
}

static int is_let_out(char *const list[])
{
	const char *cluster = find(list, "GVM_CLUSTER="), *connect = find(list, "GVM_CONNECT=");

	return (cluster || connect) && !(cluster && cluster[strlen("GVM_CLUSTER=")]) &&
	       !(connect && connect[strlen("GVM_CONNECT=")]);
}

static int is_missing(char *const list[], const char *var, int named)
{
	if (named && (is_of(var, "GVM_CLUSTER=") || is_of(var, "GVM_CONNECT=")))
		return 0;
	return !find(list, var);
}

/* The value of LD_PRELOAD, if this library is missing in it; NULL if it is not. */
static const char *lacking(char *const list[])
{
	const char *loads = find(list, LOADS);

	loads = loads ? loads + strlen(LOADS) : "";
	return lists_us(loads) ? NULL : loads;
}

size_t env_room(char *const list[])
{
	size_t pointers = 0, missing = 0, text = 0;

	if (!env.loads || is_let_out(list))
		return 0;
	int named = names_nodes(list);
	for (; list && list[pointers]; pointers++)
		;
	for (size_t i = 0; i < env.count; i++)
		missing += (size_t)is_missing(list, env.kept[i], named);
	const char *lacks = lacking(list);
	if (lacks)
		text = strlen(LOADS) + strlen(env.library) + 1 + strlen(lacks) + 1;
	if (!missing && !lacks)
		return 0;
	return pointers + missing + 2 + (text + sizeof(char *) - 1) / sizeof(char *);
}

/* Text that is made goes behind the pointers. */
char *const *env_fill(char *const list[], char **room, size_t words)
{
	size_t n = 0;

	if (!words)
		return list;
	const char *lacks = lacking(list);
	int named = names_nodes(list);
	for (char *const *var = list; var && *var; var++)
		if (!lacks || !is_of(*var, LOADS))
			room[n++] = *var;
	for (size_t i = 0; i < env.count; i++)
		if (is_missing(list, env.kept[i], named))
			room[n++] = env.kept[i];
	if (lacks && !*lacks) {
		room[n++] = env.loads;
	} else if (lacks) {
		size_t text = strlen(LOADS) + strlen(env.library) + 1 + strlen(lacks) + 1;
		char *at = (char *)(room + words) - text;
		room[n++] = at;
		at = stpcpy(stpcpy(at, LOADS), env.library);
		*at++ = ':';
		strcpy(at, lacks);
	}
	room[n] = NULL;
	return room;
}

void env_restore(void)
{
	const char *lacks;
	size_t words = env_room(environ);

	if (!words)
		return;
	int named = names_nodes(environ);
	for (size_t i = 0; i < env.count; i++)
		if (is_missing(environ, env.kept[i], named))
			putenv(env.kept[i]);
	lacks = lacking(environ);
	if (!lacks)
		return;
	char *loads = *lacks ? joined(LOADS, env.library, lacks) : env.loads;
	if (loads)
		putenv(loads);
}

/* ---- whether it can be --------------------------------------------------------------------- */

/* Once for each file. */
static int is_told(const struct loadable_file *file)
{
	uint64_t key = file->ino * 0x9e3779b97f4a7c15u ^ file->dev;
	_Atomic(uint64_t) *told = env.told;

	key += !key;
	for (size_t i = 0; i < TOLD_MOST; i++) {
		uint64_t none = 0;
		if (atomic_compare_exchange_strong(&told[i], &none, key))
			return 0;
		if (none == key)
			return 1;
	}
	return 0;
}

static void warn(const struct loadable_file *file, enum loadable what)
{
	const char *name = file->name;
	char real[256];

	if (is_of(name, "/proc/self/fd/")) {
		ssize_t n = readlink(name, real, sizeof real - 1);
		real[n > 0 ? n : 0] = 0;
		name = n > 0 ? real : name;
	}
	if (what == LOADABLE_GO)
		say("WARNING: %s %s", name, loadable_text(what));
	else
		say("WARNING: %s runs without gvm, in local memory only: it %s", name,
		    loadable_text(what));
}

void env_look(const char *path, char *const envp[])
{
	struct loadable_file file;
	int saved = errno;

	if (env.loads && !is_let_out(envp) && loadable_executable(path)) {
		enum loadable what = loadable_check(path, &file);
		if (what != LOADABLE && what <= LOADABLE_DAMAGED && !is_told(&file))
			warn(&file, what);
	}
	errno = saved;
}

void env_look_at(int fd, const char *path, char *const envp[])
{
	char at[PATH_MAX];

	if (fd == AT_FDCWD || *path == '/') {
		env_look(path, envp);
		return;
	}
	if (snprintf(at, sizeof at, "/proc/self/fd/%d%s%s", fd, *path ? "/" : "", path) <
	    (int)sizeof at)
		env_look(at, envp);
}

/* As execvp: a name without a slash is looked for in PATH. */
void env_look_in_path(const char *name, char *const envp[])
{
	const char *dirs = getenv("PATH");
	char path[PATH_MAX];

	if (strchr(name, '/')) {
		env_look(name, envp);
		return;
	}
	for (dirs = dirs ? dirs : "/bin:/usr/bin"; env.loads && *name;) {
		int len = (int)strcspn(dirs, ":");
		if (snprintf(path, sizeof path, "%.*s%s%s", len, dirs, len ? "/" : "", name) <
			(int)sizeof path &&
		    loadable_executable(path)) {
			env_look(path, envp);
			return;
		}
		if (!dirs[len])
			return;
		dirs += len + 1;
	}
}
