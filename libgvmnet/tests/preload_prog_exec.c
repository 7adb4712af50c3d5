/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Scenarios of preload_prog: other programs that it runs, with an environment that it makes up. */
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "preload_prog.h"

static char self[PATH_MAX], path[PATH_MAX + 8]; /* "PATH=..." to it */
static char *name;                              /* of it there */
static char mib[24];
static char *const args[] = { "preload_prog", "fill", mib, NULL }, *const none[] = { NULL };
static char other[] = "LD_PRELOAD=libm.so.6", little[] = "GVM_LOCAL=1048576";

static void find_self(void)
{
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

	CHECK(n > 0);
	name = strrchr(self, '/') + 1;
	snprintf(mib, sizeof mib, "%zu", size / MIB);
	snprintf(path, sizeof path, "PATH=%.*s", (int)(name - 1 - self), self);
}

static void clear(void)
{
	CHECK(!clearenv() && !putenv(path));
}

static int folder(void)
{
	int fd = open(path + strlen("PATH="), O_RDONLY | O_DIRECTORY);

	CHECK(fd >= 0);
	return fd;
}

static int waited(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	return status;
}

static int by_spawn(void)
{
	pid_t pid;

	CHECK(!posix_spawn(&pid, self, NULL, NULL, args, none));
	return waited(pid);
}

static int by_spawnp(void)
{
	pid_t pid;

	clear();
	CHECK(!posix_spawnp(&pid, name, NULL, NULL, args, environ));
	return waited(pid);
}

static int by_vfork(void)
{
	pid_t pid = vfork();

	CHECK(pid >= 0);
	if (!pid) {
		execve(self, args, none);
		_exit(9);
	}
	return waited(pid);
}

static int by_shell(void)
{
	char command[PATH_MAX + 40];

	snprintf(command, sizeof command, "%s fill %s", self, mib);
	clear();
	return system(command);
}

static int by_pipe(void)
{
	char command[PATH_MAX + 40];

	snprintf(command, sizeof command, "exec %s fill %s", self, mib);
	clear();
	FILE *out = popen(command, "r");
	CHECK(out && fgetc(out) == EOF);
	return pclose(out);
}

static int by_execve(void)
{
	return execve(self, args, none);
}

static int by_execv(void)
{
	clear();
	return execv(self, args);
}

static int by_execvp(void)
{
	clear();
	return execvp(name, args);
}

static int by_execvpe(void)
{
	clear();
	return execvpe(name, args, none);
}

static int by_execl(void)
{
	environ = NULL;
	return execl(self, "preload_prog", "fill", mib, (char *)NULL);
}

static int by_execlp(void)
{
	clear();
	return execlp(name, "preload_prog", "fill", mib, (char *)NULL);
}

static int by_execle(void)
{
	return execle(self, "preload_prog", "fill", mib, (char *)NULL, none);
}

static int by_fexecve(void)
{
	return fexecve(open(self, O_RDONLY | O_CLOEXEC), args, none);
}

static int by_execveat(void)
{
	return execveat(folder(), name, args, none, 0);
}

/* A list of libraries of its own. */
static int with_another(void)
{
	char *const vars[] = { other, little, NULL };

	return execve(self, args, vars);
}

static int (*const ways[])(void) = { by_spawn,  by_spawnp, by_vfork,   by_shell,    by_pipe,
				     by_execve, by_execv,  by_execvp,  by_execvpe,  by_execl,
				     by_execlp, by_execle, by_fexecve, by_execveat, with_another };

/* Each way there is to run another program, by a child that throws its environment away. It maps as
 * much again, which is taken over. */
void cleared(void)
{
	find_self();
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (!pid)
			_exit(ways[i]() ? 9 : 0);
		int status = waited(pid);
		if (status)
			fprintf(stderr, "way %zu: status %#x\n", i, (unsigned)status);
		CHECK(!status);
	}
}

/* Who means it. */
void let_out(void)
{
	char cluster[] = "GVM_CLUSTER=", connect[] = "GVM_CONNECT=";
	char *const vars[] = { cluster, connect, NULL };

	find_self();
	execve(self, args, vars);
	_exit(9);
}

static void run_helper(char *const vars[])
{
	char *helper = getenv("HELPER"), *const argv[] = { helper, NULL };
	pid_t pid = fork();

	CHECK(helper && pid >= 0);
	if (!pid) {
		execve(helper, argv, vars);
		_exit(9);
	}
	CHECK(!waited(pid));
	pid = vfork();
	if (!pid) {
		execve(helper, argv, vars);
		_exit(9);
	}
	CHECK(!waited(pid));
	CHECK(!posix_spawn(&pid, helper, NULL, NULL, argv, vars));
	CHECK(!waited(pid));
}

/* Run the program HELPER in a few ways, and find that it runs. */
void helpers(void)
{
	run_helper(environ);
	run_helper(none);
}

void helpers_let_out(void)
{
	char cluster[] = "GVM_CLUSTER=", connect[] = "GVM_CONNECT=";
	char *const vars[] = { cluster, connect, NULL };

	run_helper(vars);
}

/* Where no program gets privileges. */
void helpers_without(void)
{
	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	run_helper(environ);
}
