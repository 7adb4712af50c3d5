/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a file says of itself to the loader; see loadable.h. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "tools/loadable.h"

#define SCRIPTS_MOST 4    /* interpreters of interpreters; the kernel's own bound */
#define NOSUID       0x02 /* ST_NOSUID, of statfs */

#if defined(__x86_64__)
#define MACHINE EM_X86_64
#elif defined(__aarch64__)
#define MACHINE EM_AARCH64
#else
#error "which ELF machine is this?"
#endif

/* All of it, past what the preload library makes of pread. */
static int read_at(int fd, void *buf, size_t len, uint64_t at)
{
	return syscall(SYS_pread64, fd, buf, len, (off_t)at) == (ssize_t)len;
}

/* Does the kernel heed what a file says of privileges? */
static int heeded(const char *path)
{
	struct statfs fs;

	return !prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) &&
	       !(statfs(path, &fs) == 0 && fs.f_flags & NOSUID);
}

/* A program with privileges that its user does not have is not told what to load by its
 * environment. */
static enum loadable check_privileges(const char *path, const struct stat *st)
{
	int uid = st->st_mode & S_ISUID && st->st_uid != getuid();
	int gid = st->st_mode & S_ISGID && st->st_mode & S_IXGRP && st->st_gid != getgid();

	if ((uid || gid) && heeded(path))
		return LOADABLE_SETID;
	/* set-user-id to the user that this process is of anyway makes it one of its own again */
	if ((geteuid() != getuid() && !(st->st_mode & S_ISUID && !uid)) ||
	    (getegid() != getgid() && !(st->st_mode & S_ISGID && !gid)))
		return LOADABLE_IDS;
	if (getuid() && getxattr(path, "security.capability", NULL, 0) > 0 && heeded(path))
		return LOADABLE_CAPS;
	return LOADABLE;
}

static enum loadable check_loader(int fd, const Elf64_Phdr *ph)
{
	char loader[256] = "";
	size_t want = ph->p_filesz < sizeof loader - 1 ? ph->p_filesz : sizeof loader - 1;

	if (!read_at(fd, loader, want, ph->p_offset))
		return LOADABLE_DAMAGED;
	return strstr(loader, "musl") ? LOADABLE_LIBC : LOADABLE;
}

/* Does a segment of notes hold the build id of Go? */
static int has_go_note(int fd, const Elf64_Phdr *ph)
{
	char notes[1024];
	size_t want = ph->p_filesz < sizeof notes ? ph->p_filesz : sizeof notes;

	if (!read_at(fd, notes, want, ph->p_offset))
		return 0;
	for (size_t at = 0; at + sizeof(Elf64_Nhdr) + 4 <= want;) {
		Elf64_Nhdr note;
		memcpy(&note, notes + at, sizeof note);
		at += sizeof note;
		if (note.n_namesz == 4 && !memcmp(notes + at, "Go", 3))
			return 1;
		at += ((size_t)note.n_namesz + 3) / 4 * 4 + ((size_t)note.n_descsz + 3) / 4 * 4;
	}
	return 0;
}

/* The loader as a program, given another one to load, heeds the environment as ever. */
static int is_loader(const char *path)
{
	const char *last = strrchr(path, '/');

	last = last ? last + 1 : path;
	return !strncmp(last, "ld-linux", 8) || !strcmp(last, "ld.so");
}

static enum loadable check_elf(const char *path, int fd, const Elf64_Ehdr *eh)
{
	enum loadable what = LOADABLE_STATIC;
	int go = 0;

	if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_ident[EI_DATA] != ELFDATA2LSB ||
	    eh->e_machine != MACHINE)
		return LOADABLE_MACHINE;
	if (eh->e_phentsize != sizeof(Elf64_Phdr))
		return LOADABLE_DAMAGED;
	for (unsigned i = 0; i < eh->e_phnum; i++) {
		Elf64_Phdr ph;
		if (!read_at(fd, &ph, sizeof ph, eh->e_phoff + (Elf64_Off)i * sizeof ph))
			return LOADABLE_DAMAGED;
		if (ph.p_type == PT_INTERP)
			what = check_loader(fd, &ph);
		else if (ph.p_type == PT_NOTE)
			go = go || has_go_note(fd, &ph);
	}
	if (what == LOADABLE_STATIC && is_loader(path))
		return LOADABLE;
	return what == LOADABLE && go ? LOADABLE_GO : what;
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

/* A script's interpreter goes to next. */
static enum loadable check_head(int fd, const char *path, const struct stat *st, char *next,
				size_t room)
{
	char head[256];
	ssize_t n = syscall(SYS_pread64, fd, head, sizeof head, (off_t)0);
	Elf64_Ehdr eh;

	if (n >= (ssize_t)sizeof eh && !memcmp(head, ELFMAG, SELFMAG)) {
		memcpy(&eh, head, sizeof eh);
		enum loadable what = check_privileges(path, st);
		return what == LOADABLE ? check_elf(path, fd, &eh) : what;
	}
	if (n > 2 && head[0] == '#' && head[1] == '!' && interpreter(head, (size_t)n, next, room))
		return LOADABLE;
	return LOADABLE_NO_PROGRAM;
}

int loadable_executable(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISREG(st.st_mode) && !access(path, X_OK);
}

/* One file; if it is a script, next is its interpreter, else it is empty. */
static enum loadable check_one(struct loadable_file *file, char *next, size_t room)
{
	struct stat st;

	*next = 0;
	if (stat(file->name, &st)) {
		file->why = errno;
		return LOADABLE_UNREADABLE;
	}
	if (!S_ISREG(st.st_mode)) /* opening it might wait */
		return LOADABLE_NO_PROGRAM;
	file->dev = st.st_dev;
	file->ino = st.st_ino;
	int fd = (int)syscall(SYS_openat, AT_FDCWD, file->name, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		file->why = errno;
		enum loadable what = check_privileges(file->name, &st);
		return what == LOADABLE ? LOADABLE_UNREADABLE : what;
	}
	enum loadable what = check_head(fd, file->name, &st, next, room);
	syscall(SYS_close, fd);
	return what;
}

enum loadable loadable_check(const char *path, struct loadable_file *file)
{
	file->name = path;
	file->of = NULL;
	for (int depth = 0; depth <= SCRIPTS_MOST; depth++) {
		char *next = file->names[depth % 2];
		enum loadable what = check_one(file, next, sizeof file->names[0]);

		if (!*next)
			return what;
		file->of = file->name;
		file->name = next;
		if (!loadable_executable(next))
			return LOADABLE_INTERPRETER;
	}
	return LOADABLE_NO_PROGRAM;
}

const char *loadable_text(enum loadable what)
{
	switch (what) {
	case LOADABLE_GO:
		return "is a Go program: its run-time maps memory past the C library, and that "
		       "stays local; only what C parts of it allocate is taken over";
	case LOADABLE_STATIC:
		return "is a static program: no library can be preloaded into it; use a dynamic "
		       "build of it";
	case LOADABLE_SETID:
		return "is set-user-id or set-group-id, so the loader ignores the preload library; "
		       "run it as its owner";
	case LOADABLE_IDS:
		return "is run by a process whose effective user or group is not its real one, so "
		       "the loader ignores the preload library";
	case LOADABLE_CAPS:
		return "has file capabilities, so the loader ignores the preload library; run it "
		       "as root, or a copy without them";
	case LOADABLE_LIBC:
		return "uses another C library (musl); gvm run needs programs of the GNU C "
		       "library, or a VM";
	case LOADABLE_MACHINE:
		return "is a program for another kind of machine (32 bits, or another processor)";
	case LOADABLE_DAMAGED:
		return "is damaged: what its program headers say is not in the file";
	default:
		return "cannot be looked at";
	}
}
