/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Taking over: starts the pager at the first mapping worth it, attaches mappings to it, and keeps the
 * table of what is whose. All of it is under one lock, with signals blocked, so that a handler of the
 * program's may call mmap as it may with libc. The pager's threads never take this lock.
 *
 * Small pieces share ranges, "pools": a region each would promise a slab each at the memory nodes. A
 * pool's piece that is unmapped stays mapped, discarded, until it is handed out again.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <unistd.h>
#include <gvmnet/cluster.h>
#include "preload.h"

#define MIB ((size_t)1 << 20)
#define POOL_LEAST (64 * MIB)  /* bytes of a pool's range */
#define POOL_MOST (1024 * MIB)
#define POOL_PIECE (32 * MIB)  /* larger mappings have a range of their own */
#define PIECE_ALIGN (2 * MIB)  /* of pieces at least as large: what jemalloc wants */
#define RW (PROT_READ | PROT_WRITE)

static struct {
	pthread_mutex_t lock;
	struct table table;
	_Atomic(uintptr_t) low, high; /* everything that was ever in the table lies between */
	_Atomic(unsigned) files;      /* sources that stand for a file */
	struct gvm_cluster *cluster;
	struct gvm_net *net;
	struct gvm_pager *pager;
	int failed;	   /* why the pager could not be started; said once */
	unsigned number;   /* of the last region */
	size_t pooled;	   /* bytes of all pools */
} take = { .lock = PTHREAD_MUTEX_INITIALIZER, .low = UINTPTR_MAX };

/* ---- the lock ------------------------------------------------------------------------------- */

void take_lock(struct take_guard *guard)
{
	uint64_t all = ~0ull;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &guard->mask, sizeof all);
	pthread_mutex_lock(&take.lock);
	preload_inside++;
}

void take_unlock(struct take_guard *guard)
{
	int saved = errno;

	preload_inside--;
	pthread_mutex_unlock(&take.lock);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &guard->mask, NULL, sizeof guard->mask);
	errno = saved;
}

int take_meets(const void *addr, size_t len)
{
	uintptr_t base = (uintptr_t)addr;

	return base < atomic_load_explicit(&take.high, memory_order_acquire) &&
	       base + len > atomic_load_explicit(&take.low, memory_order_acquire);
}

static void widen(uintptr_t base, size_t bytes)
{
	if (base < take.low)
		atomic_store_explicit(&take.low, base, memory_order_release);
	if (base + bytes > take.high)
		atomic_store_explicit(&take.high, base + bytes, memory_order_release);
}

/* ---- starting ------------------------------------------------------------------------------- */

static int load_cluster(void)
{
	const char *connect = gvm_option_text("GVM_CONNECT");
	char *error = NULL, line[320];
	int err;

	if (*connect) {
		const char *colon = strrchr(connect, ':');
		int host = colon ? (int)(colon - connect) : 0;
		int len = snprintf(line, sizeof line, "0 %.*s %s\n", host, connect,
				   colon ? colon + 1 : "");
		err = gvm_cluster_parse(line, (size_t)len, "--connect", &take.cluster, &error);
	} else {
		err = gvm_cluster_load(gvm_option_text("GVM_CLUSTER"), &take.cluster, &error);
	}
	if (err)
		say("%s", error ? error : strerror(-err));
	free(error);
	return err;
}

static int open_pager(void)
{
	const char *key = gvm_option_text("GVM_KEY_FILE");
	struct gvm_net_config net = { .cluster = take.cluster, .node = GVM_NODE_NONE,
				      .key_file = *key ? key : NULL };
	struct gvm_pager_config config;
	int err = gvm_net_open(&net, &take.net);

	if (err)
		return err;
	gvm_pager_config_init(&config);
	err = gvm_pager_open(take.net, &config, &take.pager);
	if (err)
		gvm_net_close(take.net);
	return err;
}

/* Not in the constructor: a program that daemonises would leave the threads behind. */
static int start(void)
{
	if (take.pager)
		return 0;
	if (take.failed)
		return take.failed;
	int err = load_cluster();
	if (!err) {
		err = open_pager();
		if (err)
			gvm_cluster_free(take.cluster);
	}
	if (err) {
		report_refused();
		say("the pager cannot be started (%s): large mappings of this program fail now, "
		    "see the lines above", strerror(-err));
		take.failed = err;
		return err;
	}
	report_started(take.pager);
	return 0;
}

struct gvm_pager *take_pager(void)
{
	return take.pager;
}

/* ---- sources -------------------------------------------------------------------------------- */

static void name_region(char *name, size_t size)
{
	char host[32] = "";

	gethostname(host, sizeof host - 1);
	for (char *p = host; *p; p++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", *p))
			*p = '-';
	snprintf(name, size, "run-%s-%d-%u", *host ? host : "host", (int)raw_getpid(),
		 ++take.number);
}

/* Give [base, base + bytes), which is mapped, to the pager. */
static int try_attach(struct source *source, void *base, size_t bytes, int memfd, unsigned flags)
{
	int err = start();

	for (int tries = 0; !err && tries < 8; tries++) {
		name_region(source->name, sizeof source->name);
		err = gvm_pager_attach(take.pager, source->name, base, bytes, memfd, 0, flags,
				       &source->range);
		if (err != -EBUSY && err != -EEXIST)
			break;
		err = tries < 7 ? 0 : err; /* of an earlier process with this id: the next name */
	}
	if (err)
		return err;
	source->base = (uintptr_t)base;
	source->bytes = bytes;
	return 0;
}

static int attach(struct source *source, void *base, size_t bytes, int memfd, unsigned flags)
{
	int err = try_attach(source, base, bytes, memfd, flags);

	if (!err)
		return 0;
	report_refused();
	if (!take.failed)
		say("%zu MiB of %s memory cannot be taken over (%s): the program is told that there "
		    "is no memory", bytes / MIB, source->what, strerror(-err));
	return err;
}

static struct source *source_new(const char *what)
{
	struct source *source = calloc(1, sizeof *source);

	if (source)
		snprintf(source->what, sizeof source->what, "%s", what);
	return source;
}

static void source_drop(struct source *source)
{
	if (source->refs)
		return;
	if (source->ino)
		take.files--;
	if (source->pool)
		take.pooled -= source->bytes;
	free(source);
}

static int add(struct source *source, enum seg_state state, uintptr_t base, size_t bytes, int prot)
{
	struct seg seg = { .base = base, .bytes = bytes, .source = source, .state = state,
			   .prot = prot };

	widen(base, bytes);
	return table_add(&take.table, &seg);
}

static void *fail(int err)
{
	errno = err;
	return MAP_FAILED;
}

/* Flags for the system call: nothing is filled in or locked ahead, nothing is promised here. */
static int quiet(int flags)
{
	return (flags & ~(MAP_POPULATE | MAP_LOCKED)) | MAP_NORESERVE;
}

/* Undo a mapping that could not be attached; what MAP_FIXED replaced is gone, as mmap may do. */
static void *refuse(void *p, size_t len, struct source *source, int err)
{
	raw_munmap(p, len);
	free(source);
	return fail(err == -ENOMEM || err == -ENOSPC ? ENOMEM : -err == EPERM ? EPERM : ENOMEM);
}

/* ---- private anonymous memory --------------------------------------------------------------- */

static int pool_add(size_t bytes)
{
	struct source *source = source_new("pooled anonymous");
	size_t span = bytes + PIECE_ALIGN;

	if (!source)
		return -ENOMEM;
	char *p = raw_mmap(NULL, span, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED) {
		free(source);
		return -ENOMEM;
	}
	char *base = (char *)(((uintptr_t)p + PIECE_ALIGN - 1) & ~(PIECE_ALIGN - 1));
	if (base > p)
		raw_munmap(p, (size_t)(base - p));
	if (base + bytes < p + span)
		raw_munmap(base + bytes, (size_t)(p + span - base - bytes));
	int err = table_reserve(&take.table, 1);
	if (!err)
		err = try_attach(source, base, bytes, -1, GVM_ATTACH_ANON);
	if (err) {
		refuse(base, bytes, source, err);
		return err;
	}
	source->pool = 1;
	take.pooled += bytes;
	add(source, SEG_FREE, (uintptr_t)base, bytes, RW);
	report_took(source, (uintptr_t)base, bytes, 0);
	return 0;
}

static uintptr_t pool_fit(size_t len)
{
	return table_fit(&take.table, len, len >= PIECE_ALIGN ? PIECE_ALIGN : PRELOAD_PAGE);
}

/* A piece of a pool; NULL: there is no room and none can be made (a range of its own may fit). */
static void *pool_take(size_t len, int prot, int malloced)
{
	uintptr_t at = pool_fit(len);

	if (!at) {
		size_t bytes = take.pooled < POOL_LEAST ? POOL_LEAST : take.pooled;
		if (pool_add(bytes > POOL_MOST ? POOL_MOST : bytes))
			return NULL;
		at = pool_fit(len);
	}
	if (!at || table_reserve(&take.table, 2) ||
	    (prot != RW && raw_mprotect((void *)at, len, prot)))
		return NULL;
	table_cut(&take.table, at);
	table_cut(&take.table, at + len);
	struct seg *seg = table_at(&take.table, at);
	seg->state = SEG_USED;
	seg->prot = prot;
	seg->malloced = (uint8_t)malloced;
	report_took(seg->source, at, len, 1);
	return (void *)at;
}

static void *take_whole(void *addr, size_t len, int prot, int flags, int malloced)
{
	struct source *source = source_new(malloced ? "malloc" : "anonymous");

	if (!source || table_reserve(&take.table, 1)) {
		free(source);
		return fail(ENOMEM);
	}
	void *p = raw_mmap(addr, len, prot, quiet(flags), -1, 0);
	if (p == MAP_FAILED) {
		free(source);
		return p;
	}
	int err = attach(source, p, len, -1, GVM_ATTACH_ANON);
	if (err)
		return refuse(p, len, source, err);
	add(source, SEG_USED, (uintptr_t)p, len, prot);
	table_at(&take.table, (uintptr_t)p)->malloced = (uint8_t)malloced;
	report_took(source, (uintptr_t)p, len, 0);
	return p;
}

void *take_anon(void *addr, size_t len, int prot, int flags, int malloced)
{
	if (start())
		return fail(ENOMEM);
	if (!(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) && len <= POOL_PIECE) {
		void *p = pool_take(len, prot, malloced);
		if (p)
			return p;
	}
	return take_whole(addr, len, prot, flags, malloced);
}

int take_reserve(void *addr, size_t len)
{
	return add(NULL, SEG_RESERVED, (uintptr_t)addr, len, PROT_NONE);
}

/* A reservation, or a part of it, becomes writable for the first time. */
static int take_reserved(uintptr_t base, size_t len, int prot)
{
	struct source *source = source_new("anonymous (reserved, then made writable)");

	if (!source || table_reserve(&take.table, 3)) {
		free(source);
		errno = ENOMEM;
		return -1;
	}
	if (raw_mprotect((void *)base, len, prot)) {
		free(source);
		return -1;
	}
	int err = attach(source, (void *)base, len, -1, GVM_ATTACH_ANON);
	if (err) {
		raw_mprotect((void *)base, len, PROT_NONE);
		free(source);
		errno = ENOMEM;
		return -1;
	}
	table_cut(&take.table, base);
	table_cut(&take.table, base + len);
	while (table_meets(&take.table, base, len))
		table_remove(&take.table, table_find(&take.table, base));
	add(source, SEG_USED, base, len, prot);
	report_took(source, base, len, 0);
	return 0;
}

/* ---- shared memory and files ---------------------------------------------------------------- */

/* Map a memfd of ours and attach it. The child of a fork must not have it: see gvm_range_set_fork. */
static void *take_memfd(struct source *source, void *addr, size_t len, int prot, int flags)
{
	int fd = -1, err = table_reserve(&take.table, 1);
	void *p = MAP_FAILED;

	if (!err) {
		fd = memfd_create("gvm", MFD_CLOEXEC);
		if (fd < 0 || ftruncate(fd, (off_t)len))
			err = -errno;
	}
	if (!err) {
		p = raw_mmap(addr, len, prot, quiet(flags) & ~MAP_ANONYMOUS, fd, 0);
		err = p == MAP_FAILED ? -errno : 0;
	}
	if (!err)
		err = attach(source, p, len, fd, 0);
	if (fd >= 0)
		close(fd);
	if (err && p != MAP_FAILED)
		return refuse(p, len, source, err);
	if (err) {
		free(source);
		return fail(-err);
	}
	source->shared = 1;
	take.files += source->ino != 0;
	gvm_range_set_fork(source->range, 0);
	raw_madvise(p, len, MADV_DONTFORK);
	add(source, SEG_USED, (uintptr_t)p, len, prot);
	table_at(&take.table, (uintptr_t)p)->nofork = 1;
	report_took(source, (uintptr_t)p, len, 0);
	return p;
}

void *take_shared(void *addr, size_t len, int prot, int flags)
{
	struct source *source = source_new("shared anonymous");

	if (!source || start()) {
		free(source);
		return fail(ENOMEM);
	}
	return take_memfd(source, addr, len, prot, flags);
}

int take_has_files(void)
{
	return atomic_load_explicit(&take.files, memory_order_relaxed) > 0;
}

int take_knows_file(int fd)
{
	struct stat st;

	if (!take_has_files() || fstat(fd, &st))
		return 0;
	for (size_t i = 0; i < take.table.count; i++) {
		const struct source *source = take.table.seg[i].source;
		if (source && source->ino == st.st_ino && source->dev == st.st_dev)
			return 1;
	}
	return 0;
}

void take_punch(int fd, uint64_t off, uint64_t len)
{
	struct stat st;

	if (fstat(fd, &st))
		return;
	for (size_t i = 0; i < take.table.count; i++) {
		const struct seg *seg = &take.table.seg[i];
		const struct source *source = seg->source;
		if (!source || source->ino != st.st_ino || source->dev != st.st_dev)
			continue;
		uint64_t from = source->file_offset + (seg->base - source->base);
		uint64_t to = from + seg->bytes, end = off + len;
		uint64_t a = off > from ? off : from, b = end < to ? end : to;
		a = (a + PRELOAD_PAGE - 1) & ~(uint64_t)(PRELOAD_PAGE - 1);
		b &= ~(uint64_t)(PRELOAD_PAGE - 1);
		if (a < b)
			gvm_pager_discard(source->range, a - source->file_offset, b - a);
	}
}

/* Is this file mapped already, past us? Such a mapping would not see what ours holds. */
static int mapped_already(const struct stat *st)
{
	char want[64], line[512];
	FILE *maps = fopen("/proc/self/maps", "re");
	int found = 0;

	if (!maps)
		return 0;
	snprintf(want, sizeof want, " %02x:%02x %lu ", (unsigned)(st->st_dev >> 8 & 0xfff),
		 (unsigned)((st->st_dev & 0xff) | (st->st_dev >> 12 & 0xfff00)),
		 (unsigned long)st->st_ino);
	while (!found && fgets(line, sizeof line, maps))
		found = strstr(line, want) != NULL;
	fclose(maps);
	return found;
}

/* Open the file anew: the program's descriptor keeps its position, and may be write-only. */
static int reopen(int fd)
{
	char path[32];

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static int holds_data(int fd, off_t off, size_t len)
{
	int again = reopen(fd);
	if (again < 0)
		return 1;
	off_t data = lseek(again, off, SEEK_DATA);
	int none = data < 0 ? errno == ENXIO : data >= off + (off_t)len;
	close(again);
	return !none;
}

static int read_in(int fd, off_t off, char *to, size_t len)
{
	int again = reopen(fd), err = 0;

	if (again < 0)
		return -errno;
	for (size_t done = 0; done < len;) {
		ssize_t n = pread(again, to + done, len - done > MIB ? MIB : len - done,
				  off + (off_t)done);
		if (n <= 0) {
			err = n ? -errno : 0;
			break;
		}
		done += (size_t)n;
	}
	close(again);
	return err;
}

/* Half a sentence why this file stays as it is, or NULL. */
static const char *why_not(int fd, const struct stat *st, off_t off, size_t len)
{
	if (st->st_size < off || (uint64_t)(st->st_size - off) < len)
		return "it is shorter than the mapping";
	if (mapped_already(st))
		return "it is mapped elsewhere in this process, and the two would not agree";
	if (!preload_policy.load && holds_data(fd, off, len))
		return "it holds data; --load would read it in first";
	return NULL;
}

void *take_file(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	char path[512], link[32];
	struct stat st;
	struct statfs fs;

	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || fstatfs(fd, &fs))
		return raw_mmap(addr, len, prot, flags, fd, off);
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof path - 1);
	path[n > 0 ? n : 0] = 0;
	int wanted = *preload_policy.match ? policy_match(preload_policy.match, path) :
					     fs.f_type == TMPFS_MAGIC;
	if (!wanted || fs.f_type == HUGETLBFS_MAGIC) {
		report_passed(len, "of a file that --match does not name");
		return raw_mmap(addr, len, prot, flags, fd, off);
	}
	const char *why = why_not(fd, &st, off, len);
	if (why) {
		say("the mapping of %zu MiB of %s is left alone: %s", len / MIB, path, why);
		report_passed(len, why);
		return raw_mmap(addr, len, prot, flags, fd, off);
	}
	struct source *source = source_new(path);
	if (!source || start()) {
		free(source);
		return fail(ENOMEM);
	}
	source->dev = st.st_dev;
	source->ino = st.st_ino;
	source->file_offset = (uint64_t)off;
	void *p = take_memfd(source, addr, len, prot, flags);
	if (p == MAP_FAILED || !preload_policy.load)
		return p;
	int err = read_in(fd, off, p, len);
	if (err) {
		say("%s cannot be read in: %s", path, strerror(-err));
		take_unmap((uintptr_t)p, len);
		return fail(-err);
	}
	return p;
}

/* ---- giving back ---------------------------------------------------------------------------- */

static void forget(size_t i)
{
	struct source *source = take.table.seg[i].source;

	table_remove(&take.table, i);
	if (source)
		source_drop(source);
}

/* The i-th segment's addresses become an inaccessible reservation that is not in the table. */
static void give_up(size_t i)
{
	struct seg seg = take.table.seg[i];

	if (seg.source)
		gvm_pager_unmap(seg.source->range, seg.base - seg.source->base, seg.bytes);
	forget(i);
}

/* A pool that nothing is in goes back to the memory nodes, if another has room. */
static void pool_trim(size_t i)
{
	struct seg seg = take.table.seg[i];
	size_t roomy = 0;

	if (seg.bytes != seg.source->bytes)
		return;
	for (size_t k = 0; k < take.table.count; k++)
		roomy += take.table.seg[k].state == SEG_FREE && take.table.seg[k].bytes >= POOL_PIECE;
	if (roomy < 2)
		return;
	give_up(i);
	raw_munmap((void *)seg.base, seg.bytes);
}

static void pool_give_back(size_t i)
{
	struct seg *seg = &take.table.seg[i];

	if (seg->state == SEG_FREE)
		return;
	if (seg->prot != RW)
		raw_mprotect((void *)seg->base, seg->bytes, RW);
	gvm_pager_discard(seg->source->range, seg->base - seg->source->base, seg->bytes);
	seg->state = SEG_FREE;
	seg->prot = RW;
	seg->malloced = seg->wipe = 0;
	pool_trim(table_join(&take.table, i));
}

static int cut_both(uintptr_t base, size_t len)
{
	if (table_reserve(&take.table, 2)) {
		errno = ENOMEM;
		return -1;
	}
	table_cut(&take.table, base);
	table_cut(&take.table, base + len);
	return 0;
}

int take_unmap(uintptr_t base, size_t len)
{
	uintptr_t end = base + len;

	if (cut_both(base, len))
		return -1;
	for (uintptr_t at = base; at < end;) {
		size_t i = table_find(&take.table, at);
		struct seg seg = { .base = end };
		if (i < take.table.count && take.table.seg[i].base < end)
			seg = take.table.seg[i];
		if (seg.base > at && raw_munmap((void *)at, seg.base - at))
			return -1;
		at = seg.base + seg.bytes;
		if (!seg.bytes)
			break;
		if (seg.source && seg.source->pool) {
			pool_give_back(i);
		} else {
			give_up(i);
			raw_munmap((void *)seg.base, seg.bytes);
		}
	}
	return 0;
}

int take_clear(uintptr_t base, size_t len)
{
	if (cut_both(base, len))
		return -1;
	while (table_meets(&take.table, base, len))
		give_up(table_find(&take.table, base));
	return 0;
}

/* ---- changing ------------------------------------------------------------------------------- */

static void discard(const struct seg *seg, uintptr_t from, uintptr_t to)
{
	gvm_pager_discard(seg->source->range, from - seg->source->base, to - from);
}

static int all_private(uintptr_t base, size_t len)
{
	if (!table_covered(&take.table, base, len, SEG_USED))
		return 0;
	for (size_t i = table_find(&take.table, base);
	     i < take.table.count && take.table.seg[i].base < base + len; i++)
		if (take.table.seg[i].source->shared || take.table.seg[i].malloced)
			return 0;
	return 1;
}

void *take_over_fixed(void *addr, size_t len, int prot)
{
	uintptr_t base = (uintptr_t)addr;

	if (!all_private(base, len))
		return NULL;
	for (size_t i = table_find(&take.table, base);
	     i < take.table.count && take.table.seg[i].base < base + len; i++) {
		const struct seg *seg = &take.table.seg[i];
		uintptr_t end = seg->base + seg->bytes;
		discard(seg, seg->base > base ? seg->base : base,
			end < base + len ? end : base + len);
	}
	return take_protect(base, len, prot) ? MAP_FAILED : addr;
}

int take_protect(uintptr_t base, size_t len, int prot)
{
	int opens = prot != PROT_NONE;

	if (opens && (prot & PROT_WRITE) && !(prot & PROT_EXEC) && len >= preload_policy.min &&
	    table_covered(&take.table, base, len, SEG_RESERVED))
		return take_reserved(base, len, prot);
	if (cut_both(base, len) || raw_mprotect((void *)base, len, prot))
		return -1;
	for (size_t i = table_find(&take.table, base);
	     i < take.table.count && take.table.seg[i].base < base + len;) {
		struct seg *seg = &take.table.seg[i];
		if (seg->state == SEG_RESERVED && opens) {
			table_remove(&take.table, i); /* it may have contents from now on */
			continue;
		}
		seg->prot = prot;
		i++;
	}
	return 0;
}

/* madvise on [from, to) of a paged segment: 0, or -1 with errno. */
static int advise(struct seg *seg, uintptr_t from, uintptr_t to, int advice)
{
	int whole = from == seg->source->base && to - from == seg->source->bytes;

	switch (advice) {
	case MADV_DONTNEED:
	case MADV_FREE:
		if (!seg->source->shared)
			discard(seg, from, to);
		return 0;
	case MADV_REMOVE:
		if (!seg->source->shared) {
			errno = EINVAL;
			return -1;
		}
		discard(seg, from, to);
		return 0;
	case MADV_DONTFORK:
	case MADV_DOFORK:
		/* The pager knows whole ranges only; a part that is asked for stays in the child. */
		if (!whole || seg->source->shared)
			return 0;
		gvm_range_set_fork(seg->source->range, advice == MADV_DOFORK);
		seg->nofork = advice == MADV_DONTFORK;
		return raw_madvise((void *)from, to - from, advice);
	case MADV_WIPEONFORK:
	case MADV_KEEPONFORK:
		if (seg->source->shared) {
			errno = EINVAL;
			return -1;
		}
		seg->wipe = advice == MADV_WIPEONFORK;
		return 0;
	case MADV_DONTDUMP:
	case MADV_DODUMP:
		return raw_madvise((void *)from, to - from, advice);
	case MADV_HWPOISON:
		errno = EPERM;
		return -1;
	default: /* hints of when and how pages come and go: the pager decides that */
		return 0;
	}
}

int take_advise(uintptr_t base, size_t len, int advice)
{
	uintptr_t end = base + len;
	int wipe = advice == MADV_WIPEONFORK || advice == MADV_KEEPONFORK;

	if (wipe && cut_both(base, len))
		return -1;
	for (uintptr_t at = base; at < end;) {
		size_t i = table_find(&take.table, at);
		struct seg *seg = i < take.table.count ? &take.table.seg[i] : NULL;
		uintptr_t next = seg && seg->base < end ? seg->base : end;
		if (next > at && raw_madvise((void *)at, next - at, advice))
			return -1;
		if (next == end)
			break;
		uintptr_t from = seg->base > at ? seg->base : at;
		uintptr_t to = seg->base + seg->bytes < end ? seg->base + seg->bytes : end;
		int err = seg->state == SEG_USED     ? advise(seg, from, to, advice) :
			  seg->state == SEG_RESERVED ? raw_madvise((void *)from, to - from, advice) :
						       0;
		if (err)
			return -1;
		at = to;
	}
	return 0;
}

/* ---- moving --------------------------------------------------------------------------------- */

static void copy_pages(char *to, const char *from, size_t len)
{
	static const char zeros[4096];

	for (size_t at = 0; at < len; at += PRELOAD_PAGE)
		if (memcmp(from + at, zeros, PRELOAD_PAGE))
			memcpy(to + at, from + at, PRELOAD_PAGE);
}

/* Move by copying: for parts of ranges, and pieces of pools. */
static void *move_copy(struct seg seg, size_t len, size_t new_len, int flags, void *fixed)
{
	int fix = flags & MREMAP_FIXED ? MAP_FIXED : 0;
	int prot = seg.prot;

	if (seg.source->shared) {
		say("mremap of a part of shared paged memory is refused");
		return fail(ENOTSUP);
	}
	char *p = take_anon(fixed, new_len, RW, MAP_PRIVATE | MAP_ANONYMOUS | fix, seg.malloced);
	if (p == MAP_FAILED)
		return p;
	if (!(prot & PROT_READ))
		raw_mprotect((void *)seg.base, len, PROT_READ);
	copy_pages(p, (char *)seg.base, len < new_len ? len : new_len);
	if (prot != RW)
		take_protect((uintptr_t)p, new_len, prot);
	take_unmap(seg.base, len);
	return p;
}

static void *move_range(size_t i, size_t new_len, int flags, void *fixed)
{
	struct seg seg = take.table.seg[i];
	void *p = gvm_pager_remap(seg.source->range, new_len, flags, fixed);

	if (p == MAP_FAILED)
		return p;
	seg.source->refs++; /* while it is in no segment */
	table_remove(&take.table, i);
	seg.base = seg.source->base = (uintptr_t)p;
	seg.bytes = seg.source->bytes = new_len;
	widen(seg.base, seg.bytes);
	table_add(&take.table, &seg);
	seg.source->refs--;
	return p;
}

/* Grow a pool's piece into the free space behind it. */
static int grow_piece(size_t i, size_t more)
{
	struct seg *seg = &take.table.seg[i];
	uintptr_t end = seg->base + seg->bytes;
	const struct seg *next = table_at(&take.table, end);

	if (!next || next->state != SEG_FREE || next->source != seg->source || next->bytes < more ||
	    table_reserve(&take.table, 1) ||
	    (seg->prot != RW && raw_mprotect((void *)end, more, seg->prot)))
		return 0;
	table_cut(&take.table, end + more);
	table_remove(&take.table, i + 1);
	take.table.seg[i].bytes += more;
	return 1;
}

static void *remap(uintptr_t base, size_t len, size_t new_len, int flags, void *fixed)
{
	struct seg *seg = table_at(&take.table, base);

	if (!len || flags & MREMAP_DONTUNMAP) {
		say("mremap that keeps the old mapping is refused for paged memory");
		return fail(EINVAL);
	}
	if (!seg || seg->state != SEG_USED || seg->base + seg->bytes < base + len) {
		say("mremap across the border of paged memory is refused");
		return fail(EFAULT);
	}
	if (!(flags & MREMAP_FIXED) && new_len <= len) {
		if (new_len < len && take_unmap(base + new_len, len - new_len))
			return MAP_FAILED;
		return (void *)base;
	}
	if (flags & MREMAP_FIXED && take_clear((uintptr_t)fixed, new_len))
		return MAP_FAILED;
	if (table_reserve(&take.table, 4))
		return fail(ENOMEM);
	size_t i = table_find(&take.table, base);
	seg = &take.table.seg[i];
	int whole = seg->base == base && seg->bytes == len;
	if (whole && seg->source->pool && !(flags & MREMAP_FIXED) && grow_piece(i, new_len - len))
		return (void *)base;
	if (whole && seg->source->base == base && seg->source->bytes == len && !seg->source->pool)
		return move_range(i, new_len, flags, fixed);
	if (!(flags & MREMAP_MAYMOVE))
		return fail(ENOMEM);
	struct seg part = *seg;
	part.base = base;
	return move_copy(part, len, new_len, flags, fixed);
}

void *take_remap(uintptr_t base, size_t len, size_t new_len, int flags, void *fixed)
{
	size_t span = len ? len : PRELOAD_PAGE;

	if (table_meets(&take.table, base, span) &&
	    !table_covered(&take.table, base, span, SEG_RESERVED))
		return remap(base, len, new_len, flags, fixed);
	if (flags & MREMAP_FIXED && take_clear((uintptr_t)fixed, new_len))
		return MAP_FAILED;
	void *p = raw_mremap((void *)base, len, new_len, flags, fixed);
	if (p != MAP_FAILED)
		take_clear(base, span);
	return p;
}

int take_holds(const void *addr, size_t len)
{
	struct take_guard guard;

	if (!take_meets(addr, len))
		return 0;
	take_lock(&guard);
	int meets = table_meets(&take.table, (uintptr_t)addr, len);
	take_unlock(&guard);
	return meets;
}

size_t take_malloc_bytes(const void *p)
{
	const struct seg *seg = table_at(&take.table, (uintptr_t)p);

	return seg && seg->state == SEG_USED && seg->malloced && seg->base == (uintptr_t)p ?
		       seg->bytes : 0;
}

/* ---- fork ----------------------------------------------------------------------------------- */

/* 1: the pager rests until take_fork_parent or take_fork_child; 0: there is none; else -errno. */
int take_fork_prepare(void)
{
	if (!take.pager)
		return 0;
	int err = gvm_pager_fork_prepare(take.pager);
	if (err)
		say("fork is refused: the paged memory cannot be cloned (%s)", strerror(-err));
	return err ? err : 1;
}

void take_fork_parent(int forked)
{
	gvm_pager_fork_parent(take.pager, forked);
}

void take_fork_child(int prepared)
{
	pthread_mutex_init(&take.lock, NULL);
	pthread_mutex_lock(&take.lock);
	heap_fork_child();
	report_fork_child();
	if (!prepared)
		return;
	int err = gvm_pager_fork_child(take.pager);
	if (err) {
		say("this forked child is ended: its view of the paged memory cannot be had (%s)",
		    strerror(-err));
		raw_exit(125);
	}
	for (size_t i = 0; i < take.table.count;) {
		struct seg *seg = &take.table.seg[i];
		if (seg->nofork) {
			forget(i);
			continue;
		}
		if (seg->wipe)
			discard(seg, seg->base, seg->base + seg->bytes);
		i++;
	}
}
