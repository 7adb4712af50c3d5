/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Taking over: starts the pager at the first mapping worth it, attaches mappings to it, and keeps
 * the table of what is whose. All of it is under one lock, with signals blocked, so that a handler
 * of the program's may call mmap as it may with libc. The pager's threads never take this lock.
 *
 * Small pieces share ranges, "pools": a region each would promise a slab each at the memory nodes.
 * A pool's piece that is unmapped stays mapped, discarded, until it is handed out again.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <gvmnet/cluster.h>
#include "preload.h"
#include "preload_take.h"

struct taking take = { .lock = PTHREAD_MUTEX_INITIALIZER, .low = UINTPTR_MAX };

/* ---- the lock ------------------------------------------------------------------------------- */

void take_lock(struct take_guard *guard)
{
	uint64_t all = ~0ull;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &guard->mask, sizeof all);
	pthread_mutex_lock(&take.lock);
	take.blocked = guard->mask;
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

uint64_t take_mortal(void)
{
	static const int ends[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM };
	uint64_t set = 0;

	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
		struct sigaction action;
		if (!sigaction(ends[i], NULL, &action) && action.sa_handler == SIG_DFL)
			set |= 1ull << (ends[i] - 1);
	}
	set &= ~take.blocked; /* the program waits for those otherwise */
	syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &set, NULL, sizeof set);
	return set;
}

void take_immortal(uint64_t set)
{
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, NULL, sizeof set);
}

int take_meets(const void *addr, size_t len)
{
	uintptr_t base = (uintptr_t)addr;

	return base < atomic_load_explicit(&take.high, memory_order_acquire) &&
	       base + len > atomic_load_explicit(&take.low, memory_order_acquire);
}

void take_widen(uintptr_t base, size_t bytes)
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
	char *error = NULL;
	int err = *connect
		      ? gvm_cluster_single(connect, &take.cluster, &error)
		      : gvm_cluster_load(gvm_option_text("GVM_CLUSTER"), &take.cluster, &error);

	if (err)
		say("%s", error ? error : strerror(-err));
	free(error);
	return err;
}

/* libcrypto's clean-up at exit would meet the pager's threads at work. It reads its configuration
 * with a stream, which libc gets from the program's malloc, and that may wait for the pager. */
int OPENSSL_init_crypto(uint64_t options, const void *settings) __attribute__((weak));
#define NO_ATEXIT      0x00080000ull /* OPENSSL_INIT_NO_ATEXIT */
#define NO_LOAD_CONFIG 0x00000080ull /* OPENSSL_INIT_NO_LOAD_CONFIG */

static int open_pager(void)
{
	const char *key = gvm_option_text("GVM_KEY_FILE");
	struct gvm_net_config net = { .cluster = take.cluster,
				      .node = GVM_NODE_NONE,
				      .key_file = *key ? key : NULL };
	struct gvm_pager_config config;

	if (OPENSSL_init_crypto)
		OPENSSL_init_crypto(NO_ATEXIT | NO_LOAD_CONFIG, NULL);
	int err = gvm_net_open(&net, &take.net);

	if (err)
		return err;
	gvm_pager_config_init(&config);
	err = gvm_pager_open(take.net, &config, &take.pager);
	if (err)
		gvm_net_close(take.net);
	else if (take.lent)
		gvm_pager_lend(take.pager);
	return err;
}

/* Not in the constructor, but for programs with a malloc of their own: most programs that are run
 * have nothing large, and a forked child of one that has begun is one of many. */
int take_start(void)
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
		say("the pager cannot be started (%s): large mappings of this program fail now%s",
		    strerror(-err),
		    err == -ENOMEM   ? "; is there a limit of addresses (ulimit -v)?"
		    : err == -ERANGE ? "; --local is more than this pager can have: give less, "
				       "or more GVM_PAGER_THREADS"
		    : err == -EMFILE ? "; raise the limit of descriptors (ulimit -n)"
				     : ", see the lines above");
		take.failed = err;
		return err;
	}
	take.pid = raw_getpid();
	fd_keep();
	control_start(take.pager);
	report_started(take.pager);
	return 0;
}

struct gvm_pager *take_pager(void)
{
	return take.pager;
}

void take_lend(void)
{
	struct take_guard guard;

	if (atomic_load(&take.lent))
		return;
	take_lock(&guard);
	if (take.pager)
		gvm_pager_lend(take.pager);
	atomic_store(&take.lent, 1);
	take_unlock(&guard);
}

/* ---- sources -------------------------------------------------------------------------------- */

/* Host and process are for people: several containers have the same of both. */
static int name_region(char *name, size_t size)
{
	char host[24] = "";
	uint64_t draw;

	if (getrandom(&draw, sizeof draw, 0) != sizeof draw)
		return -EIO;
	gethostname(host, sizeof host - 1);
	for (char *p = host; *p; p++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-",
			    *p))
			*p = '-';
	snprintf(name, size, "run-%.20s-%d-%u-%012llx", *host ? host : "host", (int)raw_getpid(),
		 ++take.number, (unsigned long long)draw >> 16);
	return 0;
}

/* Give [base, base + bytes), which is mapped, to the pager. */
int take_try_attach(struct source *source, void *base, size_t bytes, int memfd, unsigned flags)
{
	int err = take_start();

	if (!err)
		err = name_region(source->name, sizeof source->name);
	if (!err) {
		uint64_t ends = take_mortal();
		err = gvm_pager_attach(take.pager, source->name, base, bytes, memfd, 0, flags,
				       &source->range);
		take_immortal(ends);
	}
	if (err)
		return err;
	if (flags & GVM_ATTACH_ANON)
		raw_madvise(base, bytes, MADV_DONTFORK); /* see inherit */
	source->base = (uintptr_t)base;
	source->bytes = bytes;
	return 0;
}

/* A program may try again and again: the first, second, fourth, ... time are told. */
static void say_refused(const struct source *source, size_t bytes, int err)
{
	static unsigned times;
	char often[48] = "";

	times++;
	if (take.failed || times & (times - 1))
		return;
	if (times > 1)
		snprintf(often, sizeof often, ", %u times so far", times);
	say("%zu MiB of %s memory cannot be taken over (%s): the program is told that there is no "
	    "memory%s",
	    bytes / MIB, source->what, strerror(-err), often);
}

int take_attach(struct source *source, void *base, size_t bytes, int memfd, unsigned flags)
{
	int err = take_try_attach(source, base, bytes, memfd, flags);

	if (!err)
		return 0;
	report_refused();
	say_refused(source, bytes, err);
	return err;
}

struct source *source_new(const char *what)
{
	struct source *source = calloc(1, sizeof *source);

	if (source)
		snprintf(source->what, sizeof source->what, "%s", what);
	return source;
}

void source_drop(struct source *source)
{
	if (source->refs)
		return;
	if (source->known)
		known_drop(source);
	if (source->pool)
		take.pooled -= source->bytes;
	free(source);
}

int take_add(struct source *source, enum seg_state state, uintptr_t base, size_t bytes, int prot)
{
	struct seg seg = {
		.base = base, .bytes = bytes, .source = source, .state = state, .prot = prot
	};

	take_widen(base, bytes);
	return table_add(&take.table, &seg);
}

void *take_fail(int err)
{
	errno = err;
	return MAP_FAILED;
}

/* Flags for the system call: nothing is filled in or locked ahead, nothing is promised here. */
int take_quiet(int flags)
{
	return (flags & ~(MAP_POPULATE | MAP_LOCKED)) | MAP_NORESERVE;
}

/* Undo a mapping that could not be attached; what MAP_FIXED replaced is gone, as mmap may do. */
void *take_refuse(void *p, size_t len, struct source *source)
{
	raw_munmap(p, len);
	free(source);
	return take_fail(ENOMEM);
}

void take_forget(size_t i)
{
	struct source *source = take.table.seg[i].source;

	table_remove(&take.table, i);
	if (source)
		source_drop(source);
}

int take_cut(uintptr_t base, size_t len)
{
	if (table_reserve(&take.table, 2)) {
		errno = ENOMEM;
		return -1;
	}
	table_cut(&take.table, base);
	table_cut(&take.table, base + len);
	return 0;
}

void take_discard(const struct seg *seg, uintptr_t from, uintptr_t to)
{
	gvm_pager_discard(seg->source->range, from - seg->source->base, to - from);
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

	return seg && seg->state == SEG_USED && seg->malloced && seg->base == (uintptr_t)p
		   ? seg->bytes
		   : 0;
}

/* Without the lock, which another thread may hold for long. No handler of the program's may run
 * meanwhile: one that unmaps would wait for the pager, which this thread has. */
static void tell_pager(void (*tell)(struct gvm_pager *pager))
{
	uint64_t all = ~0ull, mask;

	if (!take.pager || take.pid != raw_getpid() || !fd_all_there())
		return;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, sizeof all);
	tell(take.pager);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof mask);
}

void take_leave(void)
{
	tell_pager(gvm_pager_leave);
}

void take_stay(void)
{
	tell_pager(gvm_pager_stay);
}

/* ---- fork ----------------------------------------------------------------------------------- */

/*
 * Private paged memory goes to a child for the length of a fork that is followed, and not
 * otherwise: in the child of a bare system call (fork, clone, clone3) nobody would fill in what is
 * not here, and the kernel would give zeros for it. An access there is a SIGSEGV instead.
 */
static void inherit(int advice)
{
	for (size_t i = 0; i < take.table.count; i++) {
		const struct seg *seg = &take.table.seg[i];
		if (seg->source && !seg->source->shared && !seg->nofork)
			raw_madvise((void *)seg->base, seg->bytes, advice);
	}
}

/* A program of several processes that share memory works without --shared-anonymous only. */
static void warn_shared(void)
{
	size_t bytes = 0;

	for (size_t i = 0; i < take.table.count; i++) {
		const struct seg *seg = &take.table.seg[i];
		if (seg->source && seg->source->shared && !seg->source->ino)
			bytes += seg->bytes;
	}
	if (bytes)
		say_once("this program forks, and its children have none of the %zu MiB of shared "
			 "memory that are taken over: an access there is a SIGSEGV; without "
			 "--shared-anonymous they have it",
			 bytes / MIB);
}

/* 1: the pager rests until take_fork_parent or take_fork_child; 0: there is none; else -errno. */
int take_fork_prepare(void)
{
	if (!take.pager)
		return 0;
	warn_shared();
	threads_keep(1);
	uint64_t ends = take_mortal();
	int err = gvm_pager_fork_prepare(take.pager);

	take_immortal(ends);
	if (err) {
		threads_keep(0);
		say("fork is refused: the paged memory cannot be cloned (%s)", strerror(-err));
		return err;
	}
	inherit(MADV_DOFORK);
	return 1;
}

void take_fork_parent(int forked)
{
	inherit(MADV_DONTFORK);
	gvm_pager_fork_parent(take.pager, forked);
	threads_keep(0);
}

void take_fork_child(int prepared)
{
	pthread_mutex_init(&take.lock, NULL);
	pthread_mutex_lock(&take.lock);
	heap_fork_child();
	threads_fork_child();
	fd_fork_child();
	take.pid = raw_getpid();
	int same = report_fork_child(prepared > 0);
	control_fork_child();
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
			if (seg->source && seg->source->known)
				known_lose(seg->source);
			take_forget(i);
			continue;
		}
		if (seg->wipe && seg->state == SEG_USED)
			take_discard(seg, seg->base, seg->base + seg->bytes);
		i++;
	}
	stack_fork_child();
	inherit(MADV_DONTFORK);
	fd_keep();
	control_start(take.pager);
	if (!same)
		report_started(take.pager);
}
