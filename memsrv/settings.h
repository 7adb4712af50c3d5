/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the operator wants: the command line of gvm-memsrv, each option declared once in a table.
 * Options that the library has too (--key-file, --cluster, ...) are handed on to it, so that their
 * GVM_* variables mean the same here as everywhere.
 */
#ifndef MEMSRV_SETTINGS_H
#define MEMSRV_SETTINGS_H

#include <stdio.h>

#include "service.h"
#include "storage.h"

#define LISTENS_MAX 16u

struct settings {
	struct address listen[LISTENS_MAX];
	unsigned listens;
	uint64_t memory, region_quota;
	double overcommit;
	unsigned workers, max_regions, sync_s, drain_ms;
	const char *image; /* of argv; NULL: memory only */
	const char *state; /* of argv, or NULL */
	int trust;
	enum huge_pages huge;
	struct address metrics;
	int has_metrics;
};

enum settings_answer { SETTINGS_RUN, SETTINGS_HELP, SETTINGS_VERSION, SETTINGS_WRONG };

/* SETTINGS_WRONG: one sentence has been logged. */
enum settings_answer settings_parse(int argc, char **argv, struct settings *s);
void settings_help(FILE *out);
/* "HOST:PORT", "[::1]:9999", "*:9999". -EINVAL. */
int settings_address(const char *text, struct address *at);

#endif
