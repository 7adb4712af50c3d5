/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shared memory objects that several nodes share: what preload_shared*.c know of each other. All of
 * it under the one lock of preload_shared.c, which is held, with all signals blocked, for as long
 * as another node is waited for; the library's own threads never take it.
 */
#ifndef GVM_PRELOAD_SHARED_H
#define GVM_PRELOAD_SHARED_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <gvmnet/dsm.h>

#define REGION_NAME_ROOM 64 /* with its end */
#define OBJECT_NAME_MAX                                                                            \
	55 /* as it begins the names of its regions: what is put behind it must fit, too */

/* A region that this process has open and mapped. */
struct shared_region {
	struct gvm_dsm *dsm;
	char *mem;
	size_t bytes;
};

/* What the program has mapped of an object: [from, to) of it, in whole pages. */
struct shared_part {
	size_t from, to;
	int prot;
};

/* A name, whether there is an object of that name at the moment or not. */
struct shared_name {
	struct shared_name *next;
	char name[OBJECT_NAME_MAX + 1];
	char region[OBJECT_NAME_MAX + 1]; /* how its regions' names begin: as name, with ".." for
					   * each ".", so that no two objects have one region */
	struct shared_region about;       /* one page: struct shared_about */
};

struct shared_object {
	struct shared_object *next;
	struct shared_name *name;
	unsigned life; /* of the name: each time that it is made anew it is another */
	int fd;        /* of a memfd without contents, which stands for it in this process */
	dev_t dev;
	ino_t ino;
	struct shared_region data;
	struct shared_part *part;
	size_t parts, room;
	int was_mapped;
	char region[REGION_NAME_ROOM]; /* name of data */
};

/*
 * What all nodes must know of an object: at the beginning of a region of its own, NAME.object,
 * made by whoever asks for the name. One word, so that it changes at once: bit 63: the name
 * is there; bits 48 to 62: which life of it; bits 0 to 47: its size in bytes, 0 if that has not
 * been said yet.
 */
struct shared_about {
	_Atomic(uint64_t) word;
};

extern struct shared_object *shared_objects;

/* ---- preload_shared_node.c ---- */
/* Open (flags as GVM_DSM_*) and map a region. -errno; a line says why if it is not -ENOENT. */
int shared_region_open(struct shared_region *region, const char *name, uint64_t bytes,
		       uint32_t slab, unsigned flags);
int shared_region_close(struct shared_region *region, const char *name);
/* If nobody has it. */
void shared_region_delete(const char *name);
/* The same before it is made; what stands in the way is told when it is. */
void shared_region_clear(const char *name);
/* As gvm_dsm_leave() and gvm_dsm_stay(). */
void shared_region_part(struct shared_region *region, const char *name);
void shared_region_stay(struct shared_region *region, const char *name);
/* In a forked child: its parent's regions are not its own, nor is its parent's id. */
void shared_node_forget(void);

/* ---- preload_shared_report.c ---- */
/* An object is about to be closed: what it did counts on. */
void shared_report_end(const struct shared_object *o);
void shared_report_fork_child(void);
/* 0: there was none. */
int shared_report_any(void);
int shared_report_print(void);
int shared_report_json(FILE *out);

#endif
