/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the control groups of this process, of version 1 or 2, let it have of memory. */
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "core/core.h"

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
static uint64_t limit_of_line(const char *root, const char *name, char *line)
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
	if (!second && strcmp(name, "memory.max"))
		return UINT64_MAX;
	return least_of(mount, group, second ? name : "memory.limit_in_bytes");
}

uint64_t gvm_group_limit(const char *root, const char *name)
{
	char line[PATH_MAX];
	uint64_t limit, least = UINT64_MAX;
	FILE *f;

	snprintf(line, sizeof(line), "%s/proc/self/cgroup", root);
	f = fopen(line, "re");
	while (f && fgets(line, sizeof(line), f)) {
		limit = limit_of_line(root, name, line);
		if (limit < least)
			least = limit;
	}
	if (f)
		fclose(f);
	return least;
}

uint64_t gvm_memory_limit(uint64_t *high)
{
	if (high)
		*high = gvm_group_limit("", "memory.high");
	return gvm_group_limit("", "memory.max");
}
