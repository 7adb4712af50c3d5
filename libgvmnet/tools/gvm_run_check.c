/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What can be known about a program before it is started: whether the loader will put the preload
 * library into it. Where not, it would run as ever, all in local memory, and nobody would know. And
 * whether what may be local is more than the kernel lets it have: it would be killed without a
 * word.
 */
#include <elf.h>
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
#include <sys/xattr.h>
#include <unistd.h>
#include <gvmnet/gvmnet.h>
#include "tools/gvm_run.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define SCRIPTS_MOST 4 /* interpreters of interpreters; the kernel's own bound */

#if defined(__x86_64__)
#define MACHINE EM_X86_64
#elif defined(__aarch64__)
#define MACHINE EM_AARCH64
#else
#error "which ELF machine is this?"
#endif

static int executable(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISREG(st.st_mode) && !access(path, X_OK);
}

/* As execvp: a name without a slash is looked for in PATH. */
static int find_program(const char *name, char *path, size_t room)
{
	const char *dirs = getenv("PATH");

	if (strchr(name, '/')) {
		if ((size_t)snprintf(path, room, "%s", name) >= room)
			return run_refuse("%s: the name is too long", name);
		if (executable(path))
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
		    executable(path))
			return 0;
		if (!dirs[len])
			break;
		dirs += len + 1;
	}
	return run_refuse("%s: no such program was found in PATH", name);
}

/* Programs with privileges of their own do not load what the environment names. */
static int check_privileges(const char *path, int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		return run_refuse("%s: %s", path, strerror(errno));
	if ((st.st_mode & S_ISUID && st.st_uid != geteuid()) ||
	    (st.st_mode & S_ISGID && st.st_mode & S_IXGRP && st.st_gid != getegid()))
		return run_refuse(
		    "%s is set-user-id or set-group-id, so the loader ignores the preload "
		    "library; run it as its owner",
		    path);
	if (geteuid() && fgetxattr(fd, "security.capability", NULL, 0) > 0)
		return run_refuse(
		    "%s has file capabilities, so the loader ignores the preload library; "
		    "run it as root, or a copy without them",
		    path);
	return 0;
}

static int check_loader(const char *path, int fd, const Elf64_Phdr *ph)
{
	char loader[256] = "";
	size_t want = ph->p_filesz < sizeof loader - 1 ? ph->p_filesz : sizeof loader - 1;

	if (pread(fd, loader, want, (off_t)ph->p_offset) != (ssize_t)want)
		return run_refuse("%s is damaged: its loader's name cannot be read", path);
	if (strstr(loader, "musl"))
		return run_refuse(
		    "%s uses another C library (%s); gvm run needs programs of the GNU C "
		    "library, or a VM",
		    path, loader);
	return 0;
}

/* Does a segment of notes hold the build id of Go? */
static int has_go_note(int fd, const Elf64_Phdr *ph)
{
	char notes[1024];
	size_t want = ph->p_filesz < sizeof notes ? ph->p_filesz : sizeof notes;
	ssize_t got = pread(fd, notes, want, (off_t)ph->p_offset);

	for (size_t at = 0; got > 0 && at + sizeof(Elf64_Nhdr) + 4 <= (size_t)got;) {
		Elf64_Nhdr note;
		memcpy(&note, notes + at, sizeof note);
		at += sizeof note;
		if (note.n_namesz == 4 && !memcmp(notes + at, "Go", 3))
			return 1;
		at += ((size_t)note.n_namesz + 3) / 4 * 4 + ((size_t)note.n_descsz + 3) / 4 * 4;
	}
	return 0;
}

/* Go's run-time ends the program without the C library, too, so that no report would say it. */
static void warn_of_go(const char *path, int fd, const Elf64_Ehdr *eh)
{
	for (unsigned i = 0; i < eh->e_phnum; i++) {
		Elf64_Phdr ph;
		off_t at = (off_t)(eh->e_phoff + (Elf64_Off)i * sizeof ph);
		if (pread(fd, &ph, sizeof ph, at) != sizeof ph)
			return;
		if (ph.p_type != PT_NOTE || !has_go_note(fd, &ph))
			continue;
		fprintf(stderr,
			"gvm run: WARNING: %s is a Go program: its run-time maps memory past the C "
			"library, and that stays local; only what C parts of it allocate is taken "
			"over\n",
			path);
		return;
	}
}

static int check_elf(const char *path, int fd, const Elf64_Ehdr *eh)
{
	if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_ident[EI_DATA] != ELFDATA2LSB ||
	    eh->e_machine != MACHINE)
		return run_refuse(
		    "%s is a program for another kind of machine (32 bits, or another "
		    "processor)",
		    path);
	if (eh->e_phentsize != sizeof(Elf64_Phdr))
		return run_refuse("%s is damaged: its program headers have another size", path);
	for (unsigned i = 0; i < eh->e_phnum; i++) {
		Elf64_Phdr ph;
		off_t at = (off_t)(eh->e_phoff + (Elf64_Off)i * sizeof ph);
		if (pread(fd, &ph, sizeof ph, at) != sizeof ph)
			return run_refuse("%s is damaged: it ends within its headers", path);
		if (ph.p_type != PT_INTERP)
			continue;
		int err = check_loader(path, fd, &ph);
		if (!err)
			warn_of_go(path, fd, eh);
		return err;
	}
	return run_refuse("%s is a static program: no library can be preloaded into it; use a "
			  "dynamic build of it",
			  path);
}

/* The interpreter of a script: the rest of the line after "#!", up to white space. */
static int interpreter(const char *head, size_t len, char *path, size_t room)
{
	size_t at = 2, n = 0;

	while (at < len && (head[at] == ' ' || head[at] == '\t'))
		at++;
	while (at < len && n + 1 < room && !strchr(" \t\n", head[at]) && head[at])
		path[n++] = head[at++];
	path[n] = 0;
	return n > 0;
}

static int check_interpreter(const char *script, char *path)
{
	char *cr = strchr(path, '\r');

	if (executable(path))
		return 0;
	if (cr) {
		*cr = 0;
		return run_refuse("%s cannot be run: its first line ends as on Windows, and there "
				  "is no interpreter \"%s\\r\" (sed -i 's/\\r$//' %s)",
				  script, path, script);
	}
	return run_refuse("%s cannot be run: its interpreter %s is no file that this user may "
			  "execute",
			  script, path);
}

static int check_file(const char *path, int depth)
{
	char head[256], next[256];
	int fd = open(path, O_RDONLY | O_CLOEXEC), err;
	Elf64_Ehdr eh;

	if (fd < 0)
		return run_refuse("%s cannot be looked at: %s", path, strerror(errno));
	ssize_t n = pread(fd, head, sizeof head, 0);
	err = check_privileges(path, fd);
	if (err) {
		close(fd);
		return err;
	}
	if (n >= (ssize_t)sizeof eh && !memcmp(head, ELFMAG, SELFMAG)) {
		memcpy(&eh, head, sizeof eh);
		err = check_elf(path, fd, &eh);
	} else if (n > 2 && head[0] == '#' && head[1] == '!' && depth < SCRIPTS_MOST &&
		   interpreter(head, (size_t)n, next, sizeof next)) {
		err = check_interpreter(path, next);
		err = err ? err : check_file(next, depth + 1);
	} else {
		err =
		    run_refuse("%s is neither a program nor a script with \"#!\"; a script without "
			       "it is run by its interpreter, as -- sh %s",
			       path, path);
	}
	close(fd);
	return err;
}

int run_check_program(const char *name, char *path, size_t room)
{
	int err = find_program(name, path, room);

	return err ? err : check_file(path, 0);
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
