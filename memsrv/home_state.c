/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a home has to know of a shared region when it is started again (docs/coherence.md, "A home's
 * loss"): which region it was, who its members are and what each has promised, and which slabs have
 * ever been written. A file for each region, mapped: what is written to it outlives the process,
 * not the machine, and more is not wanted: the members of a machine that has died are given up. A
 * member is in it before it is told that it is one.
 */
#include "home_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gvmnet/cluster.h>

#define MAGIC    UINT64_C(0x32656d6f486d7667) /* and the version of all that follows */
#define ASIDE    ".aside"
#define BOOT_LEN 40u
#define HEAD_LEN 512u

/* Of this machine, as it is in memory. */
struct head {
	uint64_t magic; /* written last */
	char boot[BOOT_LEN];
	uint64_t region, generation, pages;
	uint64_t low, high; /* versions are above low, and up to high; 0, 0: there are none */
	uint32_t epoch, self, nodes, slab_pages;
	uint8_t open[GVM_REGION_OPEN_LEN];
};
_Static_assert(sizeof(struct head) <= HEAD_LEN, "the head has room");

struct member {
	uint64_t view; /* 0: none; written last */
	uint64_t promise_ms;
};

struct home_state {
	char path[4096];
	uint8_t *map;
	size_t size;
};

static struct head *head_of(const struct home_state *st)
{
	return (struct head *)st->map;
}

static struct member *member_at(const struct home_state *st, unsigned node)
{
	return (struct member *)(st->map + HEAD_LEN) + node;
}

static uint8_t *written_of(const struct home_state *st)
{
	return (uint8_t *)member_at(st, head_of(st)->nodes);
}

static size_t written_bytes(uint64_t pages, uint32_t slab_pages)
{
	return ((pages + slab_pages - 1) / slab_pages + 7) / 8;
}

static size_t size_of(unsigned nodes, uint64_t pages, uint32_t slab_pages)
{
	return HEAD_LEN + nodes * sizeof(struct member) + written_bytes(pages, slab_pages);
}

/* Which start of the machine this is. */
static int read_boot(char boot[BOOT_LEN])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t len;

	memset(boot, 0, BOOT_LEN);
	if (fd < 0)
		return -errno;
	len = read(fd, boot, BOOT_LEN - 1);
	close(fd);
	return len > 0 ? 0 : -EIO;
}

static int map(struct home_state *st, int fd, size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (at == MAP_FAILED)
		return -errno;
	st->map = at;
	st->size = size;
	return 0;
}

void home_state_free(struct home_state *st)
{
	if (!st)
		return;
	if (st->map)
		munmap(st->map, st->size);
	free(st);
}

size_t home_state_bytes(const struct home_state *st)
{
	return st->size;
}

void home_state_delete(struct home_state *st)
{
	if (st)
		unlink(st->path);
	home_state_free(st);
}

/* Another file of that name would take its place at the next restart, and it be found again at
 * each. */
void home_state_set_aside(struct home_state *st, const char *why)
{
	char aside[sizeof(st->path) + sizeof(ASIDE)];

	snprintf(aside, sizeof(aside), "%s" ASIDE, st->path);
	if (rename(st->path, aside))
		gvm_log(GVM_LOG_ERROR, "%s: %s; and it cannot be renamed: %s", st->path, why,
			strerror(errno));
	else
		gvm_log(GVM_LOG_ERROR,
			"%s: %s; it is kept as %s: mend that, give it its name back and start "
			"this node again, or delete it",
			st->path, why, aside);
	home_state_free(st);
}

/* ---- begun --------------------------------------------------------------------------------- */

static int fill(struct home_state *st, const struct home_region *r,
		const struct gvm_region_open *req)
{
	struct head *head = head_of(st);
	int err = read_boot(head->boot);

	if (err)
		return err;
	head->region = r->id;
	head->generation = r->generation;
	head->pages = r->pages;
	head->slab_pages = r->slab_pages;
	head->epoch = gvm_cluster_epoch(r->home->cluster);
	head->self = r->home->config.node;
	head->nodes = r->home->nodes;
	gvm_region_open_encode(head->open, req);
	__atomic_store_n(&head->magic, MAGIC, __ATOMIC_RELEASE);
	return 0;
}

/* The file has all of its blocks from the start: to write to it can not fail later. */
static int make_file(struct home_state *st, size_t size, const struct home_region *r,
		     const struct gvm_region_open *req)
{
	int fd, err;

	(void)unlink(st->path);
	fd = open(st->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	err = -posix_fallocate(fd, 0, (off_t)size);
	if (!err)
		err = map(st, fd, size);
	close(fd);
	if (!err)
		err = fill(st, r, req);
	return err;
}

/* It counts as the region's: the folder is in memory, as a rule. */
static int create(struct home_state *st, const struct home_region *r,
		  const struct gvm_region_open *req)
{
	size_t size = size_of(r->home->nodes, r->pages, r->slab_pages);
	int err = store_shared_take(r->store, size, 0);

	if (err)
		return err;
	err = make_file(st, size, r, req);
	if (err)
		store_shared_give(r->store, size);
	return err;
}

struct home_state *home_state_new(const struct home_region *r, const struct gvm_region_open *req)
{
	struct home_state *st;
	int err;

	if (!r->home->config.state)
		return NULL;
	st = calloc(1, sizeof(*st));
	if (!st)
		return NULL;
	snprintf(st->path, sizeof(st->path), "%s/%u-%016" PRIx64 HOME_STATE_END,
		 r->home->config.state, r->home->config.node, r->id);
	err = create(st, r, req);
	if (!err)
		return st;
	gvm_log(GVM_LOG_WARN, "region %s: %s: %s; a restart of this node loses all of the region",
		r->name, st->path, strerror(-err));
	home_state_delete(st);
	return NULL;
}

/* ---- found again --------------------------------------------------------------------------- */

/* 0; -ESTALE: of another start of the machine, or another map, or not finished: its members have
 * gone, or never were any; -EINVAL: it is damaged. */
static int check(const struct home_state *st, const struct home *home, struct gvm_region_open *req)
{
	const struct head *head = head_of(st);
	char boot[BOOT_LEN];
	int err;

	if (st->size < HEAD_LEN)
		return -EINVAL;
	if (head->magic != MAGIC)
		return head->magic ? -EINVAL : -ESTALE;
	err = read_boot(boot);
	if (err)
		return err;
	if (memcmp(boot, head->boot, BOOT_LEN) || head->epoch != gvm_cluster_epoch(home->cluster) ||
	    head->self != home->config.node || head->nodes != home->nodes)
		return -ESTALE;
	if (!head->slab_pages || !head->pages ||
	    st->size != size_of(head->nodes, head->pages, head->slab_pages))
		return -EINVAL;
	return gvm_region_open_decode(head->open, GVM_REGION_OPEN_LEN, req) ? -EINVAL : 0;
}

static int open_file(struct home_state *st)
{
	int fd = open(st->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW), err = 0;
	struct stat stat;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &stat))
		err = -errno;
	else if (stat.st_size < (off_t)HEAD_LEN)
		err = -EINVAL;
	if (!err)
		err = map(st, fd, (size_t)stat.st_size);
	close(fd);
	return err;
}

struct home_state *home_state_load(const struct home *home, const char *name,
				   struct gvm_region_open *req, struct gvm_region_opened *opened,
				   uint64_t *id)
{
	struct home_state *st = calloc(1, sizeof(*st));
	const struct head *head;
	int err;

	if (!st)
		return NULL;
	snprintf(st->path, sizeof(st->path), "%s/%s", home->config.state, name);
	err = open_file(st);
	if (!err)
		err = check(st, home, req);
	if (err == -ESTALE) {
		gvm_log(GVM_LOG_INFO, "%s is of no use any more", st->path);
		home_state_delete(st);
		return NULL;
	}
	if (err) {
		home_state_set_aside(st, err == -EINVAL ? "it is damaged, or of another version"
							: strerror(-err));
		return NULL;
	}
	head = head_of(st);
	*opened = (struct gvm_region_opened){ .generation = head->generation,
					      .pages = head->pages,
					      .slab_pages = head->slab_pages };
	req->pages = head->pages;
	req->slab_pages = head->slab_pages;
	*id = head->region;
	return st;
}

uint64_t home_state_member(const struct home_state *st, unsigned node, uint64_t *promise_ms)
{
	*promise_ms = member_at(st, node)->promise_ms;
	return member_at(st, node)->view;
}

uint8_t *home_state_copy_written(const struct home_state *st)
{
	size_t bytes = written_bytes(head_of(st)->pages, head_of(st)->slab_pages);
	uint8_t *copy = malloc(bytes);

	if (copy)
		memcpy(copy, written_of(st), bytes);
	return copy;
}

/* ---- changed ------------------------------------------------------------------------------- */

void home_state_join(struct home_state *st, unsigned node, uint64_t view, uint64_t promise_ms)
{
	struct member *m;

	if (!st)
		return;
	m = member_at(st, node);
	m->promise_ms = promise_ms;
	__atomic_store_n(&m->view, view, __ATOMIC_RELEASE);
}

void home_state_leave(struct home_state *st, unsigned node)
{
	if (st)
		__atomic_store_n(&member_at(st, node)->view, 0, __ATOMIC_RELEASE);
}

void home_state_reserve(struct home_state *st, uint64_t from, uint64_t upto)
{
	struct head *head;

	if (!st)
		return;
	head = head_of(st);
	if (!head->high)
		head->low = from;
	__atomic_store_n(&head->high, upto, __ATOMIC_RELEASE);
}

void home_state_versions(const struct home_state *st, uint64_t *low, uint64_t *high)
{
	*low = head_of(st)->low;
	*high = head_of(st)->high;
}

void home_state_written(struct home_state *st, uint64_t slab)
{
	uint8_t *at;

	if (!st)
		return;
	at = &written_of(st)[slab / 8];
	__atomic_store_n(at, (uint8_t)(*at | 1u << slab % 8), __ATOMIC_RELEASE);
}
