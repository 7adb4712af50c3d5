/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Inside the preload library: what its files know of each other.
 *
 *   preload_mmap.c    mmap and its family, as the program calls them
 *   preload_malloc.c  malloc and its family
 *   preload_fork.c    fork, daemon, forkpty, pthread_atfork
 *   preload_exec.c    becoming another program
 *   preload_env.c     what the other program needs for that to be under gvm run
 *   preload_exit.c    the beginning and the ends of a process
 *   preload_stdio.c   streams, which must not lie in paged memory
 *   preload_send.c    descriptors sent to other processes
 *   preload_io.c      read, write and their kin on files whose mappings are paged
 *   preload_fd.c      descriptors of this library's, which the program must not close
 *   preload_take.c    the one lock, the pager, and what the next three share
 *   preload_anon.c    private anonymous memory, pools of it
 *   preload_file.c    shared memory and files: taking them over
 *   preload_known.c   files that are taken over: what else the program does with them
 *   preload_change.c  unmapping, discarding, protecting, moving
 *   preload_shared.c  shared memory objects that several nodes share
 *   preload_shared_*.c  this process as a node of them; what programs call; reports
 *   preload_table.c   which addresses are whose (pure)
 *   preload_policy.c  what is taken over (pure), and the options
 *   preload_report.c  what the user is told
 *   preload_control.c what gvm set asks
 *   preload_heap.c    memory for this library's own use, never paged
 *   preload_raw.c     the system calls, past all interposition
 *   preload_thread.c  this library's own threads
 *   preload_stack.c   threads of the program's whose stacks are paged
 *
 * Calls that this library, the pager and the transport in it make to the interposed functions are
 * bound to the raw system calls and to the private heap when it is linked (ld --wrap, see
 * CMakeLists.txt). What libc and libcrypto do for them is told apart by preload_inside.
 */
#ifndef GVM_PRELOAD_H
#define GVM_PRELOAD_H

#include <stdarg.h>
#include <stddef.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <gvmnet/pager.h>

#define PRELOAD_EXPORT __attribute__((visibility("default")))
#define PRELOAD_PAGE   ((size_t)GVM_PAGE_SIZE)

/* More than 0: this thread works for this library. Nothing it does is taken over, and malloc gives
 * it memory of the private heap. */
extern __thread int preload_inside __attribute__((tls_model("initial-exec")));

/* ---- raw system calls (errno is set, as libc does) ------------------------------------------ */
void *raw_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
int raw_munmap(void *addr, size_t len);
void *raw_mremap(void *old, size_t old_len, size_t new_len, int flags, void *fixed);
int raw_madvise(void *addr, size_t len, int advice);
int raw_mprotect(void *addr, size_t len, int prot);
int raw_mlock(const void *addr, size_t len, unsigned flags);
int raw_munlock(const void *addr, size_t len);
int raw_mlockall(int flags);
int raw_fallocate(int fd, int mode, off_t off, off_t len);
void raw_exit(int code) __attribute__((noreturn));
pid_t raw_getpid(void);

/* preload_thread.c. keep: what a forked child needs to start threads stays here (1), or may leave
 * again (0). Under take_lock. */
void threads_keep(int keep);
void threads_fork_child(void);

/* ---- descriptors ---------------------------------------------------------------------------- */

/* Note one that this library has just opened, moved out of the way of low numbers: the number that
 * it has now. Errors (below 0) pass, with errno. */
int fd_own(int fd);
/* It is no longer ours. Before it is closed. */
void fd_forget(int fd);
/* Is that number ours, and the caller the program? */
int fd_keeps(int fd);
/* Has the program closed none of them past the C library? */
int fd_all_there(void);
/* The pager has started: keep its userfaultfds from being released. */
void fd_keep(void);
void fd_fork_child(void);
/* In a forked child: close all of ours but those that keep() wants. */
void fd_drop(int (*keep)(int fd));
/* This thread of the program has a table of descriptors of its own. */
extern __thread int fd_apart __attribute__((tls_model("initial-exec")));
/* Threads of this library's. */
extern _Atomic(int) fd_threads;

/* ---- private heap --------------------------------------------------------------------------- */
void *heap_alloc(size_t size);
void *heap_alloc_aligned(size_t align, size_t size);
void *heap_zalloc(size_t size);
void *heap_realloc(void *p, size_t size);
void heap_free(void *p);
int heap_owns(const void *p);
size_t heap_usable(const void *p);
void heap_fork_child(void);
void heap_lock(void);
void heap_unlock(void);

/* ---- table ---------------------------------------------------------------------------------- */

/* Where the pages of a segment come from: one range of the pager, or none (a reservation). */
struct source {
	struct gvm_range *range;
	uintptr_t base; /* of the range, as attached or last moved */
	size_t bytes;
	unsigned refs;     /* segments in the table */
	int pool;          /* the range is shared out in pieces */
	int shared;        /* MAP_SHARED: no copy on fork, MADV_DONTNEED keeps the data */
	uint64_t dev, ino; /* of the file that the program mapped; 0: anonymous */
	uint64_t file_offset;
	int known;     /* what else the program does with the file is seen to */
	void *pin;     /* a mapping that keeps the file, so that its inode is no other's */
	char name[64]; /* of the region */
	char what[64]; /* for people: "anonymous", "malloc", the file's name */
};

enum seg_state {
	SEG_USED,     /* the program's, paged */
	SEG_FREE,     /* a pool's, not handed out; reads as zeros, readable and writable */
	SEG_RESERVED, /* the program's private PROT_NONE reservation: not paged, never touched */
	SEG_PARKED,   /* of a file that is open still, unmapped by the program; inaccessible */
};

struct seg {
	uintptr_t base;
	size_t bytes;
	struct source *source; /* NULL for SEG_RESERVED */
	uint8_t state;
	uint8_t malloced; /* belongs to malloc_: base is what free() gets */
	uint8_t nofork, wipe;
	int prot;
};

struct table {
	struct seg *seg; /* ascending, disjoint */
	size_t count, room;
};

/* Index of the first segment that ends above addr; table->count if there is none. */
size_t table_find(const struct table *table, uintptr_t addr);
/* The segment that holds addr, or NULL. */
struct seg *table_at(const struct table *table, uintptr_t addr);
/* Does any segment meet [base, base + bytes)? */
int table_meets(const struct table *table, uintptr_t base, size_t bytes);
/* Is each byte of it in a segment of that state? */
int table_covered(const struct table *table, uintptr_t base, size_t bytes, enum seg_state state);
/* Add one; its addresses must not be in the table. -ENOMEM. Takes a reference of its source. */
int table_add(struct table *table, const struct seg *seg);
/* Cut segments so that one begins at addr, where addr lies inside of one. -ENOMEM. */
int table_cut(struct table *table, uintptr_t addr);
/* Remove the i-th. Drops its reference of the source (the source is the caller's to free). */
void table_remove(struct table *table, size_t i);
/* Join the i-th with equal neighbours; returns its index afterwards. */
size_t table_join(struct table *table, size_t i);
/* Make room for n more, so that n calls of add or cut cannot fail. */
int table_reserve(struct table *table, size_t n);
/* The lowest address, a multiple of align (a power of two), from which bytes lie in one SEG_FREE
 * segment; 0 if there is none. */
uintptr_t table_fit(const struct table *table, size_t bytes, size_t align);

/* ---- policy --------------------------------------------------------------------------------- */

struct policy {
	uint64_t min;        /* bytes of the smallest mapping taken */
	uint64_t local;      /* bytes of the budget at the start */
	uint64_t malloc_min; /* of the smallest malloc block; 0: off */
	const char *match; /* patterns of file names, comma between; "": nameless ones in memory */
	int shared;        /* take shared anonymous memory */
	const char *names; /* patterns of shared memory objects that nodes share; "": none */
	int local_only;    /* what is private is left alone */
	int load;          /* take files that hold data, and read it in */
	int verbose, report;
	const char *stats_file; /* "" : none */
	int stats_own;          /* it is this process's own, in a folder of such: goes at the end */
};
extern struct policy preload_policy;

enum verdict {
	TAKE_NO,      /* not our business */
	TAKE_ANON,    /* private anonymous memory */
	TAKE_SHARED,  /* shared anonymous memory */
	TAKE_FILE,    /* a shared mapping of a file: see policy_file */
	TAKE_RESERVE, /* a private PROT_NONE reservation: remember it */
};
/* By the arguments of mmap alone. why, if not NULL, gets half a sentence for TAKE_NO. */
enum verdict policy_mmap(const struct policy *policy, size_t len, int prot, int flags, int fd,
			 const char **why);
/* Does a comma-separated list of shell patterns match a file's path or its last part? */
int policy_match(const char *patterns, const char *path);
/* Read the options, which have been checked. */
void policy_read(struct policy *policy);
/* Which statistics file is this process's. */
void policy_stats_file(struct policy *policy);

/* ---- taking over ---------------------------------------------------------------------------- */

/* May anything of [addr, addr + len) be in the table? Without the lock; no false "no" for memory
 * that the caller owns. */
int take_meets(const void *addr, size_t len);
/* The same, exactly; takes the lock. */
int take_holds(const void *addr, size_t len);
/* Hold the lock, all signals blocked, inside. */
struct take_guard {
	uint64_t mask;
};
void take_lock(struct take_guard *guard);
void take_unlock(struct take_guard *guard);
/* All below with the lock held. Addresses and lengths in whole pages; they return like the system
 * call (-1 or MAP_FAILED with errno). */
void *take_anon(void *addr, size_t len, int prot, int flags, int malloced);
void *take_shared(void *addr, size_t len, int prot, int flags);
void *take_file(void *addr, size_t len, int prot, int flags, int fd, off_t off);
int take_reserve(void *addr, size_t len);
int take_unmap(uintptr_t base, size_t len);
void *take_over_fixed(void *addr, size_t len, int prot); /* fresh zeros over private paged memory */
int take_clear(uintptr_t base, size_t len); /* table only: what MAP_FIXED is about to replace */
int take_advise(uintptr_t base, size_t len, int advice);
int take_protect(uintptr_t base, size_t len, int prot);
/* Of any memory, when old or new addresses meet the table. */
void *take_remap(uintptr_t base, size_t len, size_t new_len, int flags, void *fixed);
/* Is any file taken over? No lock needed. */
int take_has_files(void);
/* From now on pages may be lent to the kernel, see gvm_pager_lend. */
void take_lend(void);
/* May this descriptor be of a file that is taken over? No lock needed, no false "no". */
int take_may_know(int fd);
/* Is a part of this file taken over, or was it, by the parent of this process? The second takes the
 * lock, unless it can tell without. */
int take_knows_file(int fd);
int take_knows(int fd);
/* Map a part of a file that is known. 1: *p is the result; 0: nothing of that part is taken over.
 */
int take_file_again(void *addr, size_t len, int prot, int flags, int fd, off_t off, void **p);
/* Bytes [off, off + len) of fd's file are zeros now: a hole was punched, or its end moved. */
void take_zero_file(int fd, uint64_t off, uint64_t len);
/* Where the byte at off of a file is. 1: at *at, and *len more bytes with it; 0: in the file, *len
 * bytes of it (at most as many as *len says before); -EIO: in the memory of the parent. */
int take_file_at(int fd, uint64_t off, size_t *len, char **at, int *prot);
/* The program closed a descriptor: nothing needs to be kept of files that it can reach no more. */
int take_has_parked(void);
void take_release_parked(void);
/* A stream on a file is not seen when it reads and writes. Remember that there is one. */
void take_note_stream(int fd);
/* A block of malloc: its segment's bytes, 0 if p is none of ours. */
size_t take_malloc_bytes(const void *p);

struct gvm_pager *take_pager(void); /* NULL: not started */
/* This process is about to end, or to become another program. No lock. */
void take_leave(void);
void take_stay(void);
/* Start the pager if it does not run, with the lock held. 0, or a negative errno that was said. */
int take_start(void);
int take_fork_prepare(void);
void take_fork_parent(int forked);
void take_fork_child(int prepared);

/* ---- shared memory objects that several nodes share ---------------------------------------- */

/* Calls of the program's: 1 if it is about such an object, with the result (errno set) in the last
 * argument; 0 if it is not, and nothing was done. */
int shared_map(void *addr, size_t len, int prot, int flags, int fd, off_t off, void **p);
int shared_unmap(void *addr, size_t len, int *err);
int shared_moves(const void *addr, size_t len);
int shared_inherits(const void *addr, size_t len); /* MADV_DOFORK */
int shared_size(int fd, off_t len, int *err);
/* By its name, without the slash in front. */
int shared_opens(const char *name, int flags, int *fd);
int shared_unlinks(const char *name, int *err);
/* Does it lie in such an object that is mapped? No lock; cheap where there is none. */
int shared_is_at(const void *addr);
extern _Atomic(uintptr_t) shared_low, shared_high; /* all that was ever mapped lies between */
static inline int shared_holds(const void *addr)
{
	return __builtin_expect(
		   atomic_load_explicit(&shared_high, memory_order_relaxed) > (uintptr_t)addr, 0) &&
	       atomic_load_explicit(&shared_low, memory_order_relaxed) <= (uintptr_t)addr &&
	       shared_is_at(addr);
}
/* The program ends: what is here goes to the memory nodes. */
void shared_leave(void);
/* It becomes another program: the same, but it may go on. */
void shared_part(void);
/* It could not. */
void shared_stay(void);
void shared_fork_prepare(void);
void shared_fork_parent(void);
void shared_fork_child(void);
/* Whether there is, or was, anything; told: with the lines of the report. */
int shared_print(int told);
/* For the statistics file. 0: there is nothing. */
int shared_json(FILE *out);

/* ---- report --------------------------------------------------------------------------------- */

/* One line "gvm: ..." on standard error, or what it was when the program closed it. Does not
 * allocate. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same, the first time that this line of the source is reached: for what a program may do
 * often. */
#define say_once(...)                                                                              \
	do {                                                                                       \
		static int said;                                                                   \
		if (!__atomic_exchange_n(&said, 1, __ATOMIC_RELAXED))                              \
			say(__VA_ARGS__);                                                          \
	} while (0)
void report_init(void);
/* What this program is called, as it was called when it started. */
const char *report_name(void);
/* pager: or NULL, if it is shared memory that has come. */
void report_started(struct gvm_pager *pager);
void report_took(const struct source *source, uintptr_t base, size_t bytes, int piece);
/* A mapping that was not taken, for the warning at the end; one that is larger than the local
 * budget is told at once. why stays where it is. */
void report_passed(size_t bytes, const char *why);
/* The same where a line has been said, or the kernel can put it away. */
void report_passed_quietly(size_t bytes, const char *why);
/* One that should have been taken and could not be. */
void report_refused(void);
/* paged: there was a pager when the process forked. 0: it had taken nothing over yet, so that the
 * child may be the one that does the work, and is to report. */
int report_fork_child(int paged);
/* Another process was started: it may do the work. */
void report_fork_parent(void);
/* The same in a vforked child, which still has its parent's memory. */
void report_exec(void);
void report_final(void);

/* ---- control ------------------------------------------------------------------------------- */

/* From now on gvm set can ask this process. */
void control_start(struct gvm_pager *pager);
/* In a forked child: the parent's socket is not its own. */
void control_fork_child(void);
/* The process ends, or becomes another program. Harmless in a vforked child, and twice. */
void control_end(void);
/* The local budget in force, and the largest that was. */
uint64_t control_local(void);
uint64_t control_local_most(void);

/* ---- programs that come after this one ------------------------------------------------------ */

/* Remember what this program was given. */
void env_init(void);
/* Before a fork: what is said of programs that children run is said once. */
void env_fork_prepare(void);
/* How many pointers an environment with all that it needs has room in; 0: envp is as it must be. */
size_t env_room(char *const envp[]);
/* That environment, made in such a room; envp if there is none. */
char *const *env_fill(char *const envp[], char **room, size_t words);
/* The same in this program's own environment, for what the C library starts. */
void env_restore(void);
/* A program that is about to be run with envp: say so if this library cannot be loaded into it. By
 * path; by name as execvp; by a descriptor, and a path in it that may be "". */
void env_look(const char *path, char *const envp[]);
void env_look_in_path(const char *name, char *const envp[]);
void env_look_at(int fd, const char *path, char *const envp[]);

/* ---- set up --------------------------------------------------------------------------------- */
/* The constructor has run, and there is a cluster to page to. */
extern int preload_active;
static inline int preload_ready(void)
{
	return __builtin_expect(preload_active, 1);
}
/* The next definition of a symbol that this library interposes. */
void *next_symbol(const char *name);
/* 1: the program's executable has a malloc of its own. */
int malloc_init(void);
/* The largest block that was too small for --malloc. 0: no block of this malloc is taken over. */
int malloc_left(size_t *largest);
void io_init(void);

#endif
