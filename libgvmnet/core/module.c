/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Modules; core/module.h says what they are. */
#include "core/module.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#ifndef GVM_LIBDIR
#define GVM_LIBDIR "lib"
#endif
#ifndef GVM_FULL_LIBDIR
#define GVM_FULL_LIBDIR "/usr/lib"
#endif
#ifndef GVM_MODULES
#define GVM_MODULES ""
#endif

static void log_line(enum gvm_log_level level, const char *line)
{
	gvm_log(level, "%s", line);
}

static void log_line_limited(struct gvm_log_limit *limit, enum gvm_log_level level,
			     const char *line)
{
	gvm_log_limited(limit, level, "%s", line);
}

static const struct gvm_module_host host = { .abi = GVM_MODULE_ABI,
					     .log = log_line,
					     .log_limited = log_line_limited,
					     .log_level = gvm_log_level,
					     .now = gvm_now,
					     .option_text = gvm_option_text,
					     .option_number = gvm_option_number };

/* ---- one file ------------------------------------------------------------------------------ */

static int check(void *handle, const char *path, const char *name, const struct gvm_module **module,
		 char *why, unsigned size)
{
	gvm_provider_module_fn *enter = NULL;
	const struct gvm_module *m;

	*(void **)&enter = dlsym(handle, GVM_MODULE_SYMBOL);
	if (!enter) {
		snprintf(why, size, "%s is no module of gvmnet: it has no " GVM_MODULE_SYMBOL,
			 path);
		return -ENOEXEC;
	}
	m = enter(&host);
	if (!m || m->abi != GVM_MODULE_ABI) {
		snprintf(why, size,
			 "%s belongs to another version of the library (this one is %s); install "
			 "both from one build",
			 path, gvm_version());
		return -ENOEXEC;
	}
	if (strcmp(m->ops->name, name)) {
		snprintf(why, size, "%s has the provider %.32s, not %s", path, m->ops->name, name);
		return -ENOEXEC;
	}
	*module = m;
	return 0;
}

/*
 * A library that comes along may take signals for itself when it is loaded: libpsm2 does, which
 * Debian's libfabric needs, even SIGTERM and SIGSEGV. They are the program's.
 */
static void *open_keeping_signals(const char *path)
{
	struct sigaction before[NSIG], now;
	int known[NSIG] = { 0 };
	void *handle;

	for (int sig = 1; sig < NSIG; sig++)
		known[sig] = !sigaction(sig, NULL, &before[sig]);
	handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	for (int sig = 1; sig < NSIG; sig++)
		if (known[sig] && !sigaction(sig, NULL, &now) &&
		    now.sa_handler != before[sig].sa_handler)
			sigaction(sig, &before[sig], NULL);
	return handle;
}

int gvm_module_open(const char *folder, const char *name, const struct gvm_module **module,
		    char *why, unsigned size)
{
	char path[PATH_MAX];
	void *handle;
	int err;

	if ((size_t)snprintf(path, sizeof(path), "%s/gvmnet-%s.so", folder, name) >= sizeof(path) ||
	    access(path, F_OK)) {
		snprintf(why, size, "there is no gvmnet-%s.so in %s", name, folder);
		return -ENOENT;
	}
	handle = open_keeping_signals(path);
	if (!handle) {
		/* The text names the library that is missing, or the symbol. */
		snprintf(why, size, "%s cannot be loaded: %s", path, dlerror());
		return -ELIBACC;
	}
	err = check(handle, path, name, module, why, size);
	if (err)
		dlclose(handle);
	return err;
}

/* ---- where it is --------------------------------------------------------------------------- */

/* Cut the last part off: the folder of a file. */
static void to_folder(char *path)
{
	char *slash = strrchr(path, '/');

	if (slash)
		*slash = 0;
}

/*
 * The folder of the file that this code is in: the shared library, the preload library, or a
 * program that has the library in itself. The linker's name of a program is what it was called by,
 * which its caller chooses: the kernel knows better.
 */
static int own_folder(char folder[PATH_MAX])
{
	struct link_map *map = NULL;
	Dl_info info;
	ssize_t n;

	if (dladdr1((const void *)&host, &info, (void **)&map, RTLD_DL_LINKMAP) && map &&
	    map->l_name && map->l_name[0]) {
		if (!realpath(map->l_name, folder))
			return -errno;
	} else {
		n = readlink("/proc/self/exe", folder, PATH_MAX - 1);
		if (n < 0)
			return -errno;
		folder[n] = 0;
	}
	to_folder(folder);
	return 0;
}

/* Below and beside it, as things are installed and built: bin and lib, lib, lib/gvmnet, and the
 * folders of the build. */
static const char *const below[] = { "gvmnet", ".", "../" GVM_LIBDIR "/gvmnet", "../libgvmnet" };

/* Was it built with this library? */
static int was_built(const char *name)
{
	static const char modules[] = " " GVM_MODULES " ";
	char word[32];

	snprintf(word, sizeof(word), " %s ", name);
	return strstr(modules, word) != NULL;
}

static int search(const char *name, const struct gvm_module **module, char *why, unsigned size)
{
	const char *option = gvm_option_text("GVM_MODULE_PATH");
	char own[PATH_MAX], folder[PATH_MAX + 64];
	int err;

	if (*option)
		return gvm_module_open(option, name, module, why, size);
	/* One who may link a set-id program into a folder of his own chooses the folder, too. */
	if (getauxval(AT_SECURE))
		return gvm_module_open(GVM_FULL_LIBDIR "/gvmnet", name, module, why, size);
	err = own_folder(own);
	if (err) {
		snprintf(why, size, "the library's own folder is not known: %s", strerror(-err));
		return err;
	}
	for (unsigned i = 0; i < sizeof(below) / sizeof(below[0]); i++) {
		snprintf(folder, sizeof(folder), "%s/%s", own, below[i]);
		err = gvm_module_open(folder, name, module, why, size);
		if (err != -ENOENT)
			return err;
	}
	if (was_built(name))
		snprintf(why, size,
			 "gvmnet-%s.so is not installed: it was looked for in %.200s, in gvmnet "
			 "below it and in ../" GVM_LIBDIR "/gvmnet",
			 name, own);
	else
		snprintf(why, size, "the %s provider is not in this build", name);
	return -ENOENT;
}

/* ---- what has been asked for --------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct found {
	struct found *next;
	const struct gvm_module *module;
	char name[16];
	char why[512];
} * found_list;

static struct found *look_for(const char *name)
{
	struct found *f;

	for (f = found_list; f; f = f->next)
		if (strcmp(f->name, name) == 0)
			return f;
	f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	snprintf(f->name, sizeof(f->name), "%s", name);
	search(name, &f->module, f->why, sizeof(f->why));
	f->next = found_list;
	found_list = f;
	return f;
}

const struct gvm_module *gvm_module_get(const char *name, const char **why)
{
	const struct found *f;

	pthread_mutex_lock(&lock);
	f = look_for(name);
	pthread_mutex_unlock(&lock);
	*why = f ? f->why : "out of memory";
	return f ? f->module : NULL;
}
