/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A self-test of the coherence engine where it is to run: a cluster of engines in one address space,
 * joined by queues, whose programs read, write and evict pages at random while connections break and
 * come back, nodes die and return, and memory runs short. Every page that a program gets to see is
 * compared with what was written last; at the end everything is at rest, in agreement, written
 * back, and freed to the last byte.
 *
 * The module runs it when it is loaded; the same files are a test in user space, under the
 * sanitizers. One seed repeats a run exactly. One thread; the time is that of the events.
 */
#ifndef GIANTVM_SELFTEST_H
#define GIANTVM_SELFTEST_H

#include "ivy/ivy.h"

/* Faults of the cluster (not of the engine) that are put in to see that they are found. */
enum selftest_bug {
	SELFTEST_BUG_NONE,
	SELFTEST_BUG_FLIP,  /* a bit of a page is another one when it arrives */
	SELFTEST_BUG_UNMAP, /* a page is not taken from a program */
	SELFTEST_BUG_ORDER, /* messages overtake each other */
	SELFTEST_BUG_LEAK,  /* memory is not given back */
	SELFTEST_BUGS,
};

/* What it needs of where it runs. */
struct selftest_host {
	/* As in struct ivy_env; user is NULL. */
	void *(*alloc)(void *user, size_t size);
	void (*free)(void *user, void *mem, size_t size);
	/* Called now and then, where others may run. Not 0: stop. */
	int (*pause)(void);
};

struct selftest {
	const struct selftest_host *host;
	uint64_t seed;
	uint32_t steps; /* events that are not forced by others */
	enum selftest_bug bug;

	/* What happened, set by selftest_run(). */
	char error[192]; /* a sentence; "": nothing was wrong */
	uint32_t rounds; /* clusters that were made, the last one, on an error, is that of the error */
	uint64_t messages, pages_sent, faults, evictions, breaks, deaths;
	uint64_t repeated, invalidated; /* sums of struct ivy_stats */
	uint64_t no_memory; /* times that there was none, on purpose or not */
	uint64_t peak;      /* most bytes in use */
};

/*
 * 0, -EIO: something was wrong, error says what; -EINTR: pause() had it stopped; -ENOMEM: there is
 * none even to begin. Afterwards nothing that it has allocated is left, in each case.
 */
int selftest_run(struct selftest *test);
/* "flip" and so on; "none". Its number, or -1. */
const char *selftest_bug_name(enum selftest_bug bug);
int selftest_bug_by_name(const char *name);

#endif
