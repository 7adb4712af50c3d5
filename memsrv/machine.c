/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "machine.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>

#include <gvmnet/gvmnet.h>

#define FILES_LEAST 32  /* fewer do not do for the node itself */
#define FILES_FEW   256 /* it works, for some dozen clients */

int machine_raise_file_limit(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files))
		return 0;
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (files.rlim_max >= FILES_FEW)
		return 0;
	int few = files.rlim_max < FILES_LEAST;
	gvm_log(
	    few ? GVM_LOG_ERROR : GVM_LOG_WARN,
	    "it may have %u descriptors only, and each connection takes one: raise the limit "
	    "(ulimit -Hn as root, or LimitNOFILE= of the service) to 65536, as long as there is "
	    "no reason against it",
	    (unsigned)files.rlim_max);
	return few ? -EMFILE : 0;
}

/* ---- control groups ------------------------------------------------------------------------ */

static uint64_t read_limit(const char *path)
{
	unsigned long long limit;
	uint64_t found = UINT64_MAX;
	FILE *f = fopen(path, "re");

	if (f && fscanf(f, "%llu", &limit) == 1) /* version 2 says "max" where there is none */
		found = limit;
	if (f)
		fclose(f);
	return found;
}

/* A group may have no more than those above it. */
static uint64_t least_of(const char *mount, char *group, const char *file)
{
	uint64_t least = UINT64_MAX;
	char path[PATH_MAX], *end;

	for (;;) {
		int len = snprintf(path, sizeof(path), "%s%s/%s", mount, group, file);
		uint64_t limit = UINT64_MAX;

		if (len < (int)sizeof(path))
			limit = read_limit(path);
		if (limit < least)
			least = limit;
		end = strrchr(group, '/');
		if (!end)
			return least;
		*end = 0;
	}
}

/* Is the word in a list with commas? */
static int lists(const char *list, const char *word)
{
	size_t len = strlen(word);

	while (list) {
		if (!strncmp(list, word, len) && (!list[len] || list[len] == ','))
			return 1;
		list = strchr(list, ',');
		list = list ? list + 1 : NULL;
	}
	return 0;
}

/* A line of /proc/self/cgroup: NUMBER:CONTROLLERS:GROUP, without controllers in version 2. */
static uint64_t limit_of_line(const char *root, char *line)
{
	char *controllers = strchr(line, ':'), *group, mount[PATH_MAX];
	int second;

	line[strcspn(line, "\n")] = 0;
	group = controllers ? strchr(controllers + 1, ':') : NULL;
	if (!group)
		return UINT64_MAX;
	*group++ = 0;
	second = !controllers[1];
	if (!second && !lists(controllers + 1, "memory"))
		return UINT64_MAX;
	snprintf(mount, sizeof(mount), "%s/sys/fs/cgroup%s", root, second ? "" : "/memory");
	return least_of(mount, group, second ? "memory.max" : "memory.limit_in_bytes");
}

uint64_t machine_group_limit(const char *root)
{
	char line[PATH_MAX];
	uint64_t limit, least = UINT64_MAX;
	FILE *f;

	snprintf(line, sizeof(line), "%s/proc/self/cgroup", root);
	f = fopen(line, "re");
	while (f && fgets(line, sizeof(line), f)) {
		limit = limit_of_line(root, line);
		if (limit < least)
			least = limit;
	}
	if (f)
		fclose(f);
	return least;
}

/* ---- memory -------------------------------------------------------------------------------- */

static int check_addresses(uint64_t memory)
{
	struct rlimit space;

	if (getrlimit(RLIMIT_AS, &space) || space.rlim_cur == RLIM_INFINITY ||
	    memory <= space.rlim_cur)
		return 0;
	gvm_log(GVM_LOG_ERROR,
		"--memory is %" PRIu64 " MiB, and this process may map %" PRIu64
		" MiB: raise that limit (ulimit -v, LimitAS=), or lower --memory",
		memory >> 20, (uint64_t)space.rlim_cur >> 20);
	return -ENOMEM;
}

int machine_check_memory(uint64_t memory, int has_image)
{
	uint64_t there = machine_group_limit("");
	struct sysinfo info;

	if (check_addresses(memory))
		return -ENOMEM;
	if (has_image || sysinfo(&info))
		return 0;
	if (there > (uint64_t)info.totalram * info.mem_unit)
		there = (uint64_t)info.totalram * info.mem_unit;
	if (memory > there)
		gvm_log(GVM_LOG_WARN,
			"--memory is %" PRIu64 " MiB, and this process may have %" PRIu64
			" MiB: when they are used up the kernel kills it; lower --memory",
			memory >> 20, there >> 20);
	return 0;
}
