/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A pager that pages nothing: what the interposition of tools/preload*.c asks of it is written to
 * the file FAKE_LOG, one line a call, and done plainly, so that the program's view of its memory
 * must be right too. FAKE_FAIL names a call ("attach", "open", "fork") that fails. Only for
 * test_preload.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <gvmnet/cluster.h>
#include <gvmnet/pager.h>
#include "preload_fake.h"

struct gvm_range {
	char *base;
	uint64_t bytes, live;
	int shared;
};

void fake_record(const char *fmt, ...)
{
	const char *path = getenv("FAKE_LOG");
	char line[256];
	va_list ap;

	if (!path)
		return;
	va_start(ap, fmt);
	int len = vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, line, (size_t)len) != len)
		abort();
	close(fd);
}

static int fails(const char *call)
{
	const char *fail = getenv("FAKE_FAIL");

	return fail && !strcmp(fail, call);
}

/* A bookkeeping error of the interposition's ends the program. */
static void must(int ok, const char *what)
{
	if (ok)
		return;
	fake_record("BROKEN %s\n", what);
	abort();
}

/* One that the pager has, which no program may close. */
static int descriptor = -1;

static void must_be_open(void)
{
	must(descriptor >= 0 && fcntl(descriptor, F_GETFD) >= 0, "a descriptor is closed");
}

static void inside(const struct gvm_range *range, uint64_t offset, uint64_t bytes)
{
	must(bytes && offset <= range->bytes && bytes <= range->bytes - offset &&
		 !(offset % 4096) && !(bytes % 4096),
	     "outside of the range");
}

const char *gvm_option_text(const char *env)
{
	const char *value = getenv(env);

	return value ? value : "";
}

uint64_t gvm_option_number(const char *env)
{
	return strtoull(gvm_option_text(env), NULL, 0);
}

int gvm_cluster_load(const char *path, struct gvm_cluster **cluster, char **error)
{
	return 0;
}

int gvm_cluster_single(const char *address, struct gvm_cluster **cluster, char **error)
{
	return 0;
}

void gvm_cluster_free(struct gvm_cluster *cluster)
{
}

int gvm_net_open(const struct gvm_net_config *config, struct gvm_net **net)
{
	*net = (struct gvm_net *)(uintptr_t)(config->node + 1); /* see preload_fake_dsm.c */
	return 0;
}

void gvm_net_close(struct gvm_net *net)
{
}

uint64_t gvm_now(void)
{
	return 0;
}

uint64_t gvm_hist_percentile(const struct gvm_hist *hist, double fraction)
{
	return 0;
}

void gvm_counters_json(FILE *out, const struct gvm_counter *counters, size_t count,
		       const void *stats)
{
	fputs("\"faults\":0", out);
}

const struct gvm_counter *gvm_pager_counters(size_t *count)
{
	*count = 0;
	return NULL;
}

void gvm_pager_stats(struct gvm_pager *pager, struct gvm_pager_stats *stats,
		     struct gvm_pager_latency *latency)
{
	must_be_open();
	*stats =
	    (struct gvm_pager_stats){ .faults = 1000, .faults_remote = 50, .faults_prefetch = 200 };
	if (latency)
		memset(latency, 0, sizeof *latency);
}

void gvm_pager_config_init(struct gvm_pager_config *config)
{
	memset(config, 0, sizeof *config);
}

int gvm_pager_open(struct gvm_net *net, const struct gvm_pager_config *config,
		   struct gvm_pager **pager)
{
	fake_record("open pid=%d\n", (int)getpid());
	if (fails("open"))
		return -EPERM;
	*pager = malloc(1);
	descriptor = eventfd(0, EFD_CLOEXEC);
	must(descriptor >= 0, "eventfd");
	return 0;
}

int gvm_pager_attach(struct gvm_pager *pager, const char *name, void *base, uint64_t bytes,
		     int memfd, uint64_t offset, unsigned flags, struct gvm_range **range)
{
	int shared = memfd >= 0;

	must_be_open();
	fake_record("attach %s %llu %s\n", name, (unsigned long long)bytes,
		    shared ? "shared" : "anon");
	if (fails("attach"))
		return -ENOSPC;
	must(base && !((uintptr_t)base % 4096) && bytes && !(bytes % 4096), "attach");
	must(shared == !(flags & GVM_ATTACH_ANON), "attach flags");
	*range = malloc(sizeof **range);
	**range = (struct gvm_range){ base, bytes, bytes, shared };
	must(!madvise(base, bytes, shared ? MADV_REMOVE : MADV_DONTNEED), "attach madvise");
	return 0;
}

int gvm_pager_discard(struct gvm_range *range, uint64_t offset, uint64_t bytes)
{
	fake_record("discard %llu %llu\n", (unsigned long long)offset, (unsigned long long)bytes);
	inside(range, offset, bytes);
	must(!madvise(range->base + offset, bytes, range->shared ? MADV_REMOVE : MADV_DONTNEED),
	     "discard");
	return 0;
}

int gvm_pager_hold(struct gvm_range *range, uint64_t offset, uint64_t bytes)
{
	fake_record("hold %llu by %d\n", (unsigned long long)bytes, (int)getpid());
	inside(range, offset, bytes);
	return 0;
}

int gvm_pager_let_go(struct gvm_range *range, uint64_t offset, uint64_t bytes)
{
	fake_record("let_go %llu by %d\n", (unsigned long long)bytes, (int)getpid());
	inside(range, offset, bytes);
	return 0;
}

void *gvm_pager_remap(struct gvm_range *range, uint64_t new_bytes, int flags, void *fixed)
{
	fake_record("remap %llu %llu\n", (unsigned long long)range->bytes,
		    (unsigned long long)new_bytes);
	must(range->live == range->bytes, "remap of a range with holes");
	void *p = mremap(range->base, range->bytes, new_bytes, flags, fixed);
	if (p == MAP_FAILED)
		return p;
	range->base = p;
	range->bytes = range->live = new_bytes;
	return p;
}

int gvm_pager_unmap(struct gvm_range *range, uint64_t offset, uint64_t bytes)
{
	fake_record("unmap %llu %llu\n", (unsigned long long)offset, (unsigned long long)bytes);
	inside(range, offset, bytes);
	must(bytes <= range->live, "unmapped twice");
	must(mmap(range->base + offset, bytes, PROT_NONE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED,
	     "unmap");
	range->live -= bytes;
	if (range->live)
		return 0;
	free(range);
	return 1;
}

int gvm_pager_set_local(struct gvm_pager *pager, uint64_t bytes)
{
	fake_record("set_local %llu\n", (unsigned long long)bytes);
	return fails("set_local") ? -ENOMEM : 0;
}

int gvm_pager_set_prefetch(struct gvm_pager *pager, unsigned pages)
{
	fake_record("set_prefetch %u\n", pages);
	return 0;
}

void gvm_pager_lend(struct gvm_pager *pager)
{
	fake_record("lend\n");
}

void gvm_range_set_fork(struct gvm_range *range, int follow)
{
	fake_record("set_fork %d\n", follow);
}

void gvm_pager_leave(struct gvm_pager *pager)
{
	must_be_open();
	fake_record("leave\n");
}

void gvm_pager_stay(struct gvm_pager *pager)
{
	fake_record("stay\n");
}

int gvm_pager_fork_prepare(struct gvm_pager *pager)
{
	fake_record("fork_prepare\n");
	return fails("fork") ? -ENOSPC : 0;
}

void gvm_pager_fork_parent(struct gvm_pager *pager, int forked)
{
	fake_record("fork_parent %d\n", forked);
}

int gvm_pager_fork_child(struct gvm_pager *pager)
{
	fake_record("fork_child\n");
	return fails("child") ? -EIO : 0;
}
