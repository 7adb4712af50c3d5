/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The gvm program: what its commands share. A command is one function in a file of its own,
 * gvm_NAME.c, and one line in the table of gvm.c.
 */
#ifndef GVM_TOOL_H
#define GVM_TOOL_H

#include <stddef.h>

/* How a command ends, unless it says otherwise. */
enum gvm_exit { GVM_EXIT_OK = 0, GVM_EXIT_FAILED = 1, GVM_EXIT_USAGE = 2 };

/*
 * argv[0] is the command's name, and argv is terminated by NULL. Returns the exit code. Must
 * understand --help: say on standard output how it is used, and return GVM_EXIT_OK.
 */
int gvm_cmd_run(int argc, char **argv);
int gvm_cmd_info(int argc, char **argv);
int gvm_cmd_set(int argc, char **argv);
int gvm_cmd_top(int argc, char **argv);
int gvm_cmd_region(int argc, char **argv);
int gvm_cmd_perf(int argc, char **argv);
int gvm_cmd_sim(int argc, char **argv);

/* Is there a "--help" or "-h" in argv, before any "--"? */
int gvm_wants_help(int argc, char **argv);
/* Complain about argv[i] and point to --help; returns GVM_EXIT_USAGE. */
int gvm_usage(char **argv, int i);

/* Keep what the library logs from now on to ourselves; its last line. */
void gvm_why_begin(void);
const char *gvm_why_line(void);
/* Of a memory node that could not be asked: why, and what to do. NULL: the last line says more. */
const char *gvm_why(int err);

/*
 * The folder where pagers of this user leave statistics, as PID.json, and gvm top looks for them;
 * with create it is made. -EPERM: it is there, but not this user's alone. path is set in any case.
 */
int gvm_stats_dir(char *path, size_t size, int create);

#endif
