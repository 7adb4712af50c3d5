/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shared regions that are files in the folder FAKE_DSM, mapped plainly: for test_preload, beside
 * preload_fake.c. Two nodes, 16 and 17; one that has a region open holds a lock on a file. Written
 * to FAKE_LOG, one line a call.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <gvmnet/cluster.h>
#include <gvmnet/dsm.h>
#include "preload_fake.h"

struct gvm_dsm {
	char name[64];
	int fd;
	unsigned node;
	size_t bytes;
	char *mem;
};

static unsigned holding; /* regions open */
static pid_t process;
static int lock_fd = -1;
static char lock_path[256];

static void path_of(char *path, size_t room, const char *name)
{
	const char *dir = getenv("FAKE_DSM");

	snprintf(path, room, "%s/%s", dir ? dir : "/nowhere", name);
}

const struct gvm_node *gvm_cluster_at(const struct gvm_cluster *cluster, size_t i)
{
	static const struct gvm_node lines[] = {
		{ 1, "127.0.0.1", 0, GVM_ROLE_MEMORY, 100 },
		{ 16, "127.0.0.1", 0, GVM_ROLE_COMPUTE, 100 },
		{ 17, "127.0.0.1", 0, GVM_ROLE_COMPUTE, 100 },
	};

	return i < sizeof lines / sizeof *lines ? &lines[i] : NULL;
}

/* As one that listens at its line. */
static int be(unsigned node)
{
	char name[16], path[sizeof lock_path];

	if (process != getpid()) /* a forked child, or the first time */
		holding = 0;
	process = getpid();
	if (holding)
		return 0;
	snprintf(name, sizeof name, "node%u", node);
	path_of(path, sizeof path, name);
	lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (lock_fd >= 0 && flock(lock_fd, LOCK_EX | LOCK_NB) == 0) {
		strcpy(lock_path, path);
		return 0;
	}
	close(lock_fd);
	return -EADDRINUSE;
}

static void leave(void)
{
	unlink(lock_path);
	close(lock_fd);
}

static int open_file(const struct gvm_dsm_config *config, size_t *bytes)
{
	char path[256];
	struct stat st;

	path_of(path, sizeof path, config->name);
	int fd =
	    open(path, O_RDWR | O_CLOEXEC | (config->flags & GVM_DSM_CREATE ? O_CREAT : 0), 0600);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) || (!st.st_size && ftruncate(fd, (off_t)config->bytes)))
		abort();
	*bytes = st.st_size ? (size_t)st.st_size : config->bytes;
	flock(fd, LOCK_SH);
	return fd;
}

static int fails(const char *how)
{
	const char *fail = getenv("FAKE_FAIL");

	return fail && !strcmp(fail, how);
}

int gvm_dsm_open(struct gvm_net *net, const struct gvm_dsm_config *config, struct gvm_dsm **dsm)
{
	unsigned node = (unsigned)(uintptr_t)net - 1;
	size_t bytes;

	if (fails("dsm"))
		return -EHOSTDOWN;
	int err = be(node);
	if (err)
		return err;
	int fd = open_file(config, &bytes);
	if (fd < 0)
		return fd;
	fake_record("dsm open %s node %u bytes %llu slab %u%s\n", config->name, node,
		    (unsigned long long)config->bytes, config->slab_bytes,
		    config->flags & GVM_DSM_CREATE ? " create" : "");
	holding++;
	*dsm = malloc(sizeof **dsm);
	**dsm = (struct gvm_dsm){ .fd = fd, .node = node, .bytes = bytes };
	snprintf((*dsm)->name, sizeof(*dsm)->name, "%s", config->name);
	return 0;
}

int gvm_dsm_map(struct gvm_dsm *dsm, void **mem)
{
	dsm->mem = mmap(NULL, dsm->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, dsm->fd, 0);
	if (dsm->mem == MAP_FAILED || madvise(dsm->mem, dsm->bytes, MADV_DONTFORK))
		abort();
	/* as a page that cannot be had, which is a SIGBUS */
	if ((fails("page") || fails("home")) && mprotect(dsm->mem, dsm->bytes, PROT_NONE))
		abort();
	*mem = dsm->mem;
	return 0;
}

uint64_t gvm_dsm_bytes(const struct gvm_dsm *dsm)
{
	return dsm->bytes;
}

unsigned gvm_dsm_node(const struct gvm_dsm *dsm)
{
	return dsm->node;
}

int gvm_dsm_evict(struct gvm_dsm *dsm, uint64_t offset, uint64_t len)
{
	fake_record("dsm evict %s\n", dsm->name);
	return 0;
}

int gvm_dsm_pin(struct gvm_dsm *dsm, uint64_t offset, uint64_t len, int write, unsigned timeout_ms)
{
	return fails("page") ? -EIO : fails("home") ? -EHOSTDOWN : 0;
}

int gvm_dsm_unpin(struct gvm_dsm *dsm, uint64_t offset, uint64_t len)
{
	return 0;
}

int gvm_dsm_leave(struct gvm_dsm *dsm, unsigned timeout_ms)
{
	(void)timeout_ms;
	fake_record("dsm leave %s\n", dsm->name);
	return 0;
}

int gvm_dsm_stay(struct gvm_dsm *dsm)
{
	fake_record("dsm stay %s\n", dsm->name);
	return 0;
}

int gvm_dsm_close(struct gvm_dsm *dsm)
{
	fake_record("dsm close %s\n", dsm->name);
	munmap(dsm->mem, dsm->bytes);
	close(dsm->fd);
	free(dsm);
	if (--holding == 0)
		leave();
	return 0;
}

int gvm_dsm_delete(struct gvm_net *net, const char *name)
{
	char path[256];

	fake_record("dsm delete %s\n", name);
	path_of(path, sizeof path, name);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int err = flock(fd, LOCK_EX | LOCK_NB) ? -EBUSY : unlink(path) ? -errno : 0;
	close(fd);
	return err;
}

void gvm_dsm_stats(const struct gvm_dsm *dsm, struct gvm_dsm_stats *stats)
{
	memset(stats, 0, sizeof *stats);
}

const struct gvm_counter *gvm_dsm_counters(size_t *count)
{
	*count = 0;
	return NULL;
}

void gvm_dsm_latency(const struct gvm_dsm *dsm, int write, struct gvm_hist *hist)
{
	memset(hist, 0, sizeof *hist);
}

void gvm_hist_merge(struct gvm_hist *into, const struct gvm_hist *from)
{
	into->count += from->count;
}
