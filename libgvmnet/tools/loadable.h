/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Will the loader put a preload library into a program? gvm run asks it of the program that it
 * becomes, the preload library of those that are run in the place of its own. It allocates nothing
 * and makes its system calls itself, so that a vforked child may ask.
 */
#ifndef GVM_LOADABLE_H
#define GVM_LOADABLE_H

#include <stdint.h>

enum loadable {
	LOADABLE,
	LOADABLE_GO,          /* it is, but its run-time does not use the C library */
	LOADABLE_STATIC,      /* from here on it is not */
	LOADABLE_SETID,       /* set-user-id or set-group-id */
	LOADABLE_IDS,         /* this process has another effective user or group than its own */
	LOADABLE_CAPS,        /* file capabilities */
	LOADABLE_LIBC,        /* another C library */
	LOADABLE_MACHINE,     /* another kind of machine */
	LOADABLE_DAMAGED,     /* from here on it cannot be told, or it cannot be run at all */
	LOADABLE_UNREADABLE,  /* why says why */
	LOADABLE_NO_PROGRAM,  /* neither ELF nor "#!" */
	LOADABLE_INTERPRETER, /* the script "of" names an interpreter that cannot be run */
};

struct loadable_file {
	const char *name; /* of the program; if a script was asked for, of its interpreter */
	const char *of;   /* the script that names it, or NULL */
	uint64_t dev, ino;
	int why; /* errno */
	char names[2][256];
};

/* Look at the file path, through the interpreters of scripts. file->name is path itself or lies in
 * file. */
enum loadable loadable_check(const char *path, struct loadable_file *file);
/* A file that this user may execute? */
int loadable_executable(const char *path);
/* Half a sentence after the program's name, for LOADABLE_GO to LOADABLE_DAMAGED: "is ...". */
const char *loadable_text(enum loadable what);

#endif
