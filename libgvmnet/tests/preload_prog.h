/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the scenarios of preload_prog have in common. */
#ifndef GVM_PRELOAD_PROG_H
#define GVM_PRELOAD_PROG_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

#define PAGE 4096ul
#define MIB  (1ul << 20)
#define RW   (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

extern size_t size; /* of "a large mapping"; the second argument, in MiB */

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #x,  \
				errno);                                                            \
			_exit(3);                                                                  \
		}                                                                                  \
	} while (0)

/* One word a page says which page it is, and of which filling. */
void fill(char *p, size_t bytes, uint64_t seed);
void fill_one(char *p, size_t at, uint64_t seed); /* the page that is at bytes from p */
int holds(const char *p, size_t bytes, uint64_t seed);
int zeros(const char *p, size_t bytes);
/* A new private mapping. */
char *map(size_t bytes);
/* Does a write end in SIGSEGV? */
int faults(char *p);
/* One that is too small to be taken over. */
void small(void);
/* A child has ended well. */
void wait_for(pid_t pid);

/* preload_prog_fork.c: children, and other programs in their place */
void fork_both_ways(void);
void fork_busy(void);
void fork_deep(void);
void fork_many(void);
void fork_handlers(void);
void fork_exec(void);
void spawns(void);
void vforks(void);
void asks_a_shell(void);
void becomes(void);
void big_then_small(void);
void another_beside_small(void);
void dontfork(void);
void reserved_fork(void);
void shared_fork(void);
void shared_lost(void);

/* preload_prog_exec.c: other programs, with an environment that it makes up */
void cleared(void);
void let_out(void);
void helpers(void);
void helpers_let_out(void);
void helpers_without(void);

/* preload_prog_kernel.c: what the kernel does with the memory, or is told of it */
void lent(void);
void advices(void);

/* preload_prog_shape.c: mappings whose shape changes */
void remap(void);
void partial_unmap(void);
void discards(void);
void protect(void);
void qemu_like(void);
void reserve_then_open(void);
void moved_in_vain(void);
void huge_in_vain(void);
void executable_heap(void);
void small_pieces(void);
void dump_is_small(void);
void low(void);
void limited(void);

/* preload_prog_file.c: files that are mapped, read and written */
void file_io(void);
void file_size(void);
void file_again(void);
void file_fork(void);
void file_stream(void);
void file_threads(void);

/* preload_prog_fd.c: descriptors that the program did not open */
void fd_closefrom(void);
void fd_loop(void);
void fd_ranges(void);
void fd_dup2(void);
void fd_own_numbers(void);
void fd_fork_exec(void);
void fd_fork_on(void);
void fd_spawn(void);
void fd_threads(void);
void fd_pipe(void);
void fd_raw(void);
void fd_raw_fork(void);
void fd_raw_exec(void);

/* preload_prog_object.c: shared memory objects */
void object(void);
void object_names(void);
void object_changed(void);
void object_orphan(void);
void object_signals(void);
void object_fork(void);
void object_left(void);
void object_found(void);
void object_turns(void);
void object_long(void);
void object_exec(void);
void object_locks(void);
void object_killed(void);
void object_outlives(void);

/* preload_prog_stack.c: stacks that are paged memory */
void stack_threads(void);
void signal_stack(void);
void signal_stacks(void);
/* and threads that keep to a part of a mapping each */
void stripes(void);

/* preload_prog_ends.c: threads that end on such stacks */
void stack_ends(void);
void stack_many(void);

#endif
