/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Becoming another program: what this one had on the memory nodes need not wait for it to come
 * back. If the call fails, everything goes on as before. And starting another one, which may be the
 * one that does the work: gcc and make only wait for theirs. Either way the other one is to be
 * under gvm run as well (preload_env.c).
 */
#include <errno.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "preload.h"

extern char **environ;

/* Defines kept: envp with all that it needs. On the stack, because this may be a vforked child. */
#define KEEP(envp)                                                                                 \
	size_t words = env_room(envp);                                                             \
	char *room[words + 1];                                                                     \
	char *const *kept = env_fill(envp, room, words)

static void begin(void)
{
	report_exec();
	take_leave();
	shared_part();
}

/* It has failed. */
static int go_on(int rc)
{
	int saved = errno;

	take_stay();
	shared_stay();
	errno = saved;
	return rc;
}

PRELOAD_EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
	static __typeof__(execve) *real;
	KEEP(envp);

	if (!real)
		real = next_symbol("execve");
	env_look(path, envp);
	begin();
	return go_on(real(path, argv, kept));
}

PRELOAD_EXPORT int execv(const char *path, char *const argv[])
{
	return execve(path, argv, environ);
}

PRELOAD_EXPORT int execvpe(const char *file, char *const argv[], char *const envp[])
{
	static __typeof__(execvpe) *real;
	KEEP(envp);

	if (!real)
		real = next_symbol("execvpe");
	env_look_in_path(file, envp);
	begin();
	return go_on(real(file, argv, kept));
}

PRELOAD_EXPORT int execvp(const char *file, char *const argv[])
{
	return execvpe(file, argv, environ);
}

PRELOAD_EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
	static __typeof__(fexecve) *real;
	KEEP(envp);

	if (!real)
		real = next_symbol("fexecve");
	env_look_at(fd, "", envp);
	begin();
	return go_on(real(fd, argv, kept));
}

/* Not in older C libraries. */
int execveat(int fd, const char *path, char *const argv[], char *const envp[], int flags);
PRELOAD_EXPORT int execveat(int fd, const char *path, char *const argv[], char *const envp[],
			    int flags)
{
	KEEP(envp);

	env_look_at(fd, path, envp);
	begin();
	return go_on((int)syscall(SYS_execveat, fd, path, argv, kept, flags));
}

/* How many arguments there are up to NULL, with it. */
static size_t count_args(va_list ap)
{
	size_t n = 2;

	while (va_arg(ap, char *))
		n++;
	return n;
}

/* Runs call with argv, and ap behind the last argument. */
#define LIST(call)                                                                                 \
	va_list ap;                                                                                \
	va_start(ap, arg);                                                                         \
	size_t count = count_args(ap);                                                             \
	va_end(ap);                                                                                \
	char *argv[count];                                                                         \
	argv[0] = (char *)(uintptr_t)arg;                                                          \
	va_start(ap, arg);                                                                         \
	for (size_t i = 1; i < count; i++)                                                         \
		argv[i] = va_arg(ap, char *);                                                      \
	int err = call;                                                                            \
	va_end(ap);                                                                                \
	return err

PRELOAD_EXPORT int execl(const char *path, const char *arg, ...)
{
	LIST(execv(path, argv));
}

PRELOAD_EXPORT int execlp(const char *file, const char *arg, ...)
{
	LIST(execvp(file, argv));
}

PRELOAD_EXPORT int execle(const char *path, const char *arg, ...)
{
	LIST(execve(path, argv, va_arg(ap, char **)));
}

PRELOAD_EXPORT int posix_spawn(pid_t *pid, const char *path,
			       const posix_spawn_file_actions_t *actions,
			       const posix_spawnattr_t *attributes, char *const argv[],
			       char *const envp[])
{
	static __typeof__(posix_spawn) *real;
	KEEP(envp);

	if (!real)
		real = next_symbol("posix_spawn");
	env_look(path, envp);
	report_fork_parent();
	return real(pid, path, actions, attributes, argv, kept);
}

PRELOAD_EXPORT int posix_spawnp(pid_t *pid, const char *file,
				const posix_spawn_file_actions_t *actions,
				const posix_spawnattr_t *attributes, char *const argv[],
				char *const envp[])
{
	static __typeof__(posix_spawnp) *real;
	KEEP(envp);

	if (!real)
		real = next_symbol("posix_spawnp");
	env_look_in_path(file, envp);
	report_fork_parent();
	return real(pid, file, actions, attributes, argv, kept);
}

PRELOAD_EXPORT int system(const char *command)
{
	static __typeof__(system) *real;

	if (!real)
		real = next_symbol("system");
	if (command)
		env_restore();
	report_fork_parent();
	return real(command);
}
