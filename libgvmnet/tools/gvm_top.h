/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm top, between its files: where statistics come from (gvm_top_source.c) and how they are shown
 * (gvm_top_view.c). One thread.
 */
#ifndef GVM_TOP_H
#define GVM_TOP_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/* ---- sources ------------------------------------------------------------------------------- */

/* A pager's file or a memory node: the last two things that it said. */
struct top_source {
	struct top_source *next;
	char *title;                /* the file's path, or "node 3 (10.0.0.3:9999)" */
	char *file;                 /* NULL: a memory node */
	struct top_node *node;      /* NULL: a file */
	json_t *now, *before;       /* NULL: nothing yet */
	uint64_t now_ns, before_ns; /* when they were read */
	char why[192];              /* why there is nothing new, or "" */
	int found;                  /* in the folder, not named: goes when its file goes */
};

struct top_sources;

/*
 * The sources that names say: files, HOST:PORT, or ids of nodes in the cluster file. No names: the
 * pagers of this user, and the memory nodes of the cluster file if one is named. NULL, after
 * saying why, if that cannot be.
 */
struct top_sources *top_sources_open(char **names, int count);
void top_sources_close(struct top_sources *sources);
/* Ask all of them again; pagers that have begun meanwhile join. Waits for answers of nodes for at
 * most patience_ns; those that come later are taken the next time. */
void top_sources_refresh(struct top_sources *sources, uint64_t patience_ns);
struct top_source *top_sources_first(struct top_sources *sources);

/* ---- view ---------------------------------------------------------------------------------- */

enum top_style { TOP_PLAIN, TOP_TITLE, TOP_HEAD, TOP_WARN };

/* Where lines go; text has no newline and nothing that a terminal would obey. */
struct top_out {
	void (*line)(struct top_out *out, enum top_style style, const char *text);
};

/* One line for the list of sources. */
void top_show_brief(struct top_out *out, const struct top_source *source, enum top_style style);
/* Everything that a source says. */
void top_show(struct top_out *out, const struct top_source *source);

#endif
