/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which mappings are taken over, by what the program asks for, and the options that say so. Pure
 * but for reading the options once, before threads start.
 */
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "preload.h"

struct policy preload_policy;

static enum verdict no(const char **why, const char *text)
{
	if (why)
		*why = text;
	return TAKE_NO;
}

enum verdict policy_mmap(const struct policy *policy, size_t len, int prot, int flags, int fd,
			 const char **why)
{
	int shared = (flags & MAP_TYPE) != MAP_PRIVATE;

	int named = !(flags & MAP_ANONYMOUS) && *policy->match;
	if (policy->local_only)
		return no(why, NULL);
	if (len < policy->min && !named)
		return no(why, "smaller than --min");
	if (flags & MAP_HUGETLB)
		return no(why, "of huge pages (MAP_HUGETLB)");
	if (flags & (MAP_STACK | MAP_GROWSDOWN))
		return no(why, "a stack");
	if (prot & PROT_EXEC)
		return no(why, "executable");
	if (!(flags & MAP_ANONYMOUS)) {
		if (!shared)
			return no(why,
				  "a private mapping of a file; a shared one of a memfd is taken "
				  "over, and anonymous memory (QEMU: memory-backend-memfd with "
				  "share=on, or memory-backend-ram with share=off)");
		return prot & PROT_WRITE ? TAKE_FILE : no(why, "a read-only mapping of a file");
	}
	if (shared)
		return !policy->shared
			   ? no(why,
				"shared and anonymous; --shared-anonymous would take it, if no "
				"forked child needs it")
		       : prot & PROT_WRITE ? TAKE_SHARED
					   : no(why, "shared and not writable");
	if (prot == PROT_NONE)
		return TAKE_RESERVE;
	return prot & PROT_WRITE ? TAKE_ANON : no(why, "not writable");
}

int policy_match(const char *patterns, const char *path)
{
	const char *last = strrchr(path, '/');
	char pattern[256];

	last = last ? last + 1 : path;
	while (*patterns) {
		size_t len = strcspn(patterns, ",");
		if (len && len < sizeof pattern) {
			memcpy(pattern, patterns, len);
			pattern[len] = 0;
			if (!fnmatch(pattern, path, 0) || !fnmatch(pattern, last, 0))
				return 1;
		}
		patterns += len + (patterns[len] == ',');
	}
	return 0;
}

/* A folder ("dir/") has a file for each process, a name is the one file, "off" is none. What is
 * there and no regular file, such as /dev/null, would be replaced: so it is left alone. */
void policy_stats_file(struct policy *policy)
{
	static char own[PATH_MAX];
	const char *name = gvm_option_text("GVM_STATS_FILE");
	size_t len = strlen(name);
	struct stat st;

	policy->stats_own = len > 0 && name[len - 1] == '/';
	if (policy->stats_own &&
	    snprintf(own, sizeof own, "%s%d.json", name, (int)getpid()) < (int)sizeof own)
		name = own;
	if (!strcmp(name, "off") || (lstat(name, &st) == 0 && !S_ISREG(st.st_mode)))
		name = "";
	policy->stats_file = name;
}

void policy_read(struct policy *policy)
{
	policy->min = gvm_option_number("GVM_RUN_MIN");
	policy->local = gvm_option_number("GVM_LOCAL");
	policy->malloc_min = gvm_option_number("GVM_RUN_MALLOC");
	policy->match = gvm_option_text("GVM_RUN_MATCH");
	policy->shared = gvm_option_number("GVM_RUN_SHARED_ANON") != 0;
	policy->names = gvm_option_text("GVM_RUN_SHARED");
	policy->local_only = *policy->names && !gvm_option_number("GVM_RUN_PRIVATE");
	policy->load = gvm_option_number("GVM_RUN_LOAD") != 0;
	policy->verbose = gvm_option_number("GVM_RUN_VERBOSE") != 0;
	policy->report = gvm_option_number("GVM_RUN_REPORT") != 0;
	policy_stats_file(policy);
	if (policy->min < PRELOAD_PAGE)
		policy->min = PRELOAD_PAGE;
	if (policy->local_only)
		policy->malloc_min = 0;
}
