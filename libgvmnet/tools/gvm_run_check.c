/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What can be known about a program before it is started: whether the loader will put the preload
 * library into it. Where not, it would run as ever, all in local memory, and nobody would know. And
 * whether what may be local is more than the kernel lets it have: it would be killed without a
 * word.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>
#include <gvmnet/gvmnet.h>
#include "tools/gvm_run.h"
#include "tools/loadable.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* As execvp: a name without a slash is looked for in PATH. */
static int find_program(const char *name, char *path, size_t room)
{
	const char *dirs = getenv("PATH");

	if (strchr(name, '/')) {
		if ((size_t)snprintf(path, room, "%s", name) >= room)
			return run_refuse("%s: the name is too long", name);
		if (loadable_executable(path))
			return 0;
		if (access(path, F_OK))
			return run_refuse("%s cannot be run: no such file", name);
		return run_refuse("%s cannot be run: it is no file that this user may execute "
				  "(chmod +x)",
				  name);
	}
	for (dirs = dirs ? dirs : "/usr/bin:/bin"; *name;) {
		int len = (int)strcspn(dirs, ":");
		if ((size_t)snprintf(path, room, "%.*s/%s", len ? len : 1, len ? dirs : ".", name) <
			room &&
		    loadable_executable(path))
			return 0;
		if (!dirs[len])
			break;
		dirs += len + 1;
	}
	return run_refuse("%s: no such program was found in PATH", name);
}

static int refuse_interpreter(const struct loadable_file *file)
{
	int len = (int)strcspn(file->name, "\r");

	if (file->name[len])
		return run_refuse("%s cannot be run: its first line ends as on Windows, and there "
				  "is no interpreter \"%.*s\\r\" (sed -i 's/\\r$//' %s)",
				  file->of, len, file->name, file->of);
	return run_refuse("%s cannot be run: its interpreter %s is no file that this user may "
			  "execute",
			  file->of, file->name);
}

static int check_file(const char *path)
{
	struct loadable_file file;
	enum loadable what = loadable_check(path, &file);

	switch (what) {
	case LOADABLE:
		return 0;
	case LOADABLE_GO: /* it ends without the C library, too, so that no report would say it */
		fprintf(stderr, "gvm run: WARNING: %s %s\n", file.name, loadable_text(what));
		return 0;
	case LOADABLE_UNREADABLE:
		return run_refuse("%s cannot be looked at: %s", file.name, strerror(file.why));
	case LOADABLE_NO_PROGRAM:
		return run_refuse("%s is neither a program nor a script with \"#!\"; a script "
				  "without it is run by its interpreter, as -- sh %s",
				  file.name, file.name);
	case LOADABLE_INTERPRETER:
		return refuse_interpreter(&file);
	default:
		return run_refuse("%s %s", file.name, loadable_text(what));
	}
}

int run_check_program(const char *name, char *path, size_t room)
{
	int err = find_program(name, path, room);

	return err ? err : check_file(path);
}

int run_check_userfaultfd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	int why = errno;

	if (fd < 0) {
		int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
		fd = dev < 0 ? -1 : ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC);
		if (dev >= 0)
			close(dev);
	}
	if (fd >= 0) {
		close(fd);
		return 0;
	}
	if (why == ENOSYS)
		return run_refuse("this kernel has no userfaultfd (CONFIG_USERFAULTFD)");
	return run_refuse("no permission for userfaultfd (%s): run as root, or let this user open "
			  "/dev/userfaultfd, or set sysctl vm.unprivileged_userfaultfd=1",
			  strerror(why));
}

/* ---- how much may be local ----------------------------------------------------------------- */

#define BESIDE (UINT64_C(16) << 20) /* of the pager's and the program's own, at least */

/* What --local can be where the kernel gives so much, in MiB. */
static unsigned long long local_for(uint64_t limit)
{
	return limit > BESIDE + limit / 64 ? (limit - BESIDE - limit / 64) >> 20 : 0;
}

static int has_swap(void)
{
	struct sysinfo info;

	return !sysinfo(&info) && info.totalswap;
}

int run_check_memory(void)
{
	uint64_t local = gvm_option_number("GVM_LOCAL"), high, max = gvm_memory_limit(&high);
	uint64_t limit = max < high ? max : high;
	const char *kind = max <= high ? "kills it" : "slows it down";
	char advice[64] = "";

	if (local >> 20 <= local_for(limit))
		return 0;
	if (local_for(limit))
		snprintf(advice, sizeof(advice), "give --local %lluM or less, or ",
			 local_for(limit));
	if (local >= max && !has_swap())
		return run_refuse(
		    "--local is %llu MiB, and the control group of this process may have "
		    "%llu MiB, so that the kernel would kill the program before it pages: "
		    "%sraise that limit",
		    (unsigned long long)local >> 20, (unsigned long long)max >> 20, advice);
	fprintf(
	    stderr,
	    "gvm run: WARNING: --local is %llu MiB, and the control group of this process may have "
	    "%llu MiB, of which the program needs some for all else: when they are used up the "
	    "kernel %s; %sraise that limit\n",
	    (unsigned long long)local >> 20, (unsigned long long)limit >> 20, kind, advice);
	return 0;
}
