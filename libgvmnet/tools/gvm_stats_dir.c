/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where the pagers of a user leave their statistics, and gvm top finds them:
 * $XDG_RUNTIME_DIR/gvmnet, else /run/user/UID/gvmnet, else /tmp/gvmnet-UID.
 */
#include "tools/gvm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int is_folder(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static void choose(char *path, size_t size)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	char user[64];

	snprintf(user, sizeof(user), "/run/user/%u", (unsigned)geteuid());
	if (runtime && *runtime == '/' && is_folder(runtime))
		snprintf(path, size, "%s/gvmnet", runtime);
	else if (is_folder(user))
		snprintf(path, size, "%s/gvmnet", user);
	else
		snprintf(path, size, "/tmp/gvmnet-%u", (unsigned)geteuid());
}

int gvm_stats_dir(char *path, size_t size, int create)
{
	struct stat st;

	choose(path, size);
	if (create && mkdir(path, 0700) < 0 && errno != EEXIST)
		return -errno;
	if (lstat(path, &st) < 0)
		return -errno;
	/* In /tmp someone else may have been there first. */
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
		return -EPERM;
	return 0;
}
