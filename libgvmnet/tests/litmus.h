/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Litmus tests of sequential consistency: a few threads with a few loads and stores each, run many
 * times on memory that they share, each thread by whatever way it has to that memory. What may come
 * out is not written down but computed, by playing all interleavings; all else is forbidden.
 *
 * Shapes and their names: Alglave, Maranget and Tautschnig, "Herding cats" (2014).
 */
#ifndef LITMUS_H
#define LITMUS_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LITMUS_THREADS  4
#define LITMUS_OUTCOMES 4096 /* 4 registers and 2 last values, 0 to 3 each */
#define LITMUS_SLOTS    512u /* places for a location in its page */

enum litmus_kind { OP_END, OP_STORE, OP_LOAD };

/* Locations are 0 and 1; a is the value of a store, 1 to 3, or the register of a load, 0 to 3. */
struct litmus_op {
	uint8_t kind, loc, a;
};

struct litmus {
	const char *name, *what;
	unsigned threads;
	struct litmus_op op[LITMUS_THREADS][3];
};

#define W(loc, value)                                                                              \
	{                                                                                          \
		OP_STORE, loc, value                                                               \
	}
#define R(loc, reg)                                                                                \
	{                                                                                          \
		OP_LOAD, loc, reg                                                                  \
	}
static const struct litmus litmus_tests[] = {
	{ "SB", "store buffering", 2, { { W(0, 1), R(1, 0) }, { W(1, 1), R(0, 1) } } },
	{ "LB", "load buffering", 2, { { R(0, 0), W(1, 1) }, { R(1, 1), W(0, 1) } } },
	{ "MP", "message passing", 2, { { W(0, 1), W(1, 1) }, { R(1, 0), R(0, 1) } } },
	{ "2+2W", "two stores each", 2, { { W(0, 1), W(1, 2) }, { W(1, 1), W(0, 2) } } },
	{ "S", "a store after a load", 2, { { W(0, 2), W(1, 1) }, { R(1, 0), W(0, 1) } } },
	{ "R", "a load after a store", 2, { { W(0, 1), W(1, 1) }, { W(1, 2), R(0, 0) } } },
	{ "WRC", "write to read", 3, { { W(0, 1) }, { R(0, 0), W(1, 1) }, { R(1, 1), R(0, 2) } } },
	{ "IRIW",
	  "independent reads of independent writes",
	  4,
	  { { W(0, 1) }, { W(1, 1) }, { R(0, 0), R(1, 1) }, { R(1, 2), R(0, 3) } } },
	{ "CoRR",
	  "coherence of a location",
	  4,
	  { { W(0, 1) }, { W(0, 2) }, { R(0, 0), R(0, 1) }, { R(0, 2), R(0, 3) } } },
	{ "CoRW", "coherence, own store", 2, { { R(0, 0), W(0, 1), R(0, 1) }, { W(0, 2), R(0, 2) } } },
};
#undef W
#undef R
#define LITMUS_TESTS (sizeof(litmus_tests) / sizeof(litmus_tests[0]))

/* ---- what may come out --------------------------------------------------------------------- */

struct litmus_state {
	uint8_t reg[4], loc[2], at[LITMUS_THREADS];
};

static inline unsigned litmus_outcome(const uint8_t reg[4], const uint8_t loc[2])
{
	return reg[0] | reg[1] << 2 | reg[2] << 4 | reg[3] << 6 | loc[0] << 8 | loc[1] << 10;
}

static inline bool litmus_step(const struct litmus *test, struct litmus_state *s, unsigned t)
{
	const struct litmus_op *op = &test->op[t][s->at[t]];

	if (s->at[t] == 3 || op->kind == OP_END)
		return false;
	if (op->kind == OP_STORE)
		s->loc[op->loc] = op->a;
	else
		s->reg[op->a] = s->loc[op->loc];
	s->at[t]++;
	return true;
}

/* At most 8 operations: the depth is bounded. */
static inline void litmus_play(const struct litmus *test, const struct litmus_state *s, bool *allowed)
{
	bool ended = true;

	for (unsigned t = 0; t < test->threads; t++) {
		struct litmus_state next = *s;

		if (!litmus_step(test, &next, t))
			continue;
		ended = false;
		litmus_play(test, &next, allowed);
	}
	if (ended)
		allowed[litmus_outcome(s->reg, s->loc)] = true;
}

/* ---- running ------------------------------------------------------------------------------- */

/* In memory that is shared by ordinary means, zero at first. */
struct litmus_run {
	uint32_t arrived, round; /* a barrier */
	uint64_t start_ns;       /* when those who have met there go on */
	int stop;                /* a thread has ended early: nobody waits any more */
	uint8_t reg[4];
	uint64_t count[LITMUS_OUTCOMES];
};

static inline uint64_t litmus_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline bool litmus_barrier(struct litmus_run *run, unsigned threads)
{
	uint32_t round = __atomic_load_n(&run->round, __ATOMIC_ACQUIRE);

	if (__atomic_add_fetch(&run->arrived, 1, __ATOMIC_ACQ_REL) == threads) {
		__atomic_store_n(&run->arrived, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&run->start_ns, litmus_now() + 3000, __ATOMIC_RELAXED);
		__atomic_store_n(&run->round, round + 1, __ATOMIC_RELEASE);
		return true;
	}
	while (__atomic_load_n(&run->round, __ATOMIC_ACQUIRE) == round) {
		if (__atomic_load_n(&run->stop, __ATOMIC_RELAXED))
			return false;
		sched_yield();
	}
	return true;
}

/* At the same time, as near as can be. */
static inline bool litmus_together(struct litmus_run *run, unsigned threads)
{
	uint64_t start;

	if (!litmus_barrier(run, threads))
		return false;
	start = __atomic_load_n(&run->start_ns, __ATOMIC_RELAXED);
	while (litmus_now() < start)
		__builtin_ia32_pause();
	return true;
}

static inline uint64_t litmus_random(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return *seed >> 33;
}

static inline void litmus_pause(uint64_t *seed, unsigned max)
{
	for (uint64_t n = litmus_random(seed) % max; n > 0; n--)
		__builtin_ia32_pause();
}

/* Each iteration stores values of its own: what is older counts as nothing. */
static inline uint8_t litmus_value(uint64_t word, uint64_t iteration)
{
	return word >> 2 == iteration ? word & 3 : 0;
}

/* plain: as the hardware likes, without fences. */
struct litmus_thread {
	const struct litmus *test;
	struct litmus_run *run;
	char *page[2]; /* of the two locations, as this thread sees them */
	unsigned number;
	uint64_t iterations, seed;
	bool plain;
};

static inline void litmus_ops(struct litmus_thread *t, uint64_t *const at[2], uint64_t iteration)
{
	const struct litmus_op *op = t->test->op[t->number];

	for (unsigned i = 0; i < 3 && op[i].kind != OP_END; i++) {
		if (op[i].kind == OP_LOAD) {
			uint64_t word = t->plain ? __atomic_load_n(at[op[i].loc], __ATOMIC_RELAXED)
						 : __atomic_load_n(at[op[i].loc], __ATOMIC_SEQ_CST);

			t->run->reg[op[i].a] = litmus_value(word, iteration);
		} else if (t->plain) {
			__atomic_store_n(at[op[i].loc], iteration << 2 | op[i].a, __ATOMIC_RELAXED);
		} else {
			__atomic_store_n(at[op[i].loc], iteration << 2 | op[i].a, __ATOMIC_SEQ_CST);
		}
		if (!t->plain && litmus_random(&t->seed) % 4 == 0)
			litmus_pause(&t->seed, 400);
	}
}

static inline void litmus_count(struct litmus_thread *t, uint64_t *const at[2], uint64_t iteration)
{
	uint8_t loc[2];

	for (unsigned i = 0; i < 2; i++)
		loc[i] = litmus_value(__atomic_load_n(at[i], __ATOMIC_SEQ_CST), iteration);
	t->run->count[litmus_outcome(t->run->reg, loc)]++;
	memset(t->run->reg, 0, sizeof(t->run->reg));
}

/* One thread's part; the memory must be zero before the first run. base: where iterations count
 * from, so that further runs on the same memory can be told from this one. */
static inline void litmus_thread(struct litmus_thread *t, uint64_t base)
{
	for (uint64_t i = base + 1; i <= base + t->iterations; i++) {
		uint64_t *at[2];

		for (unsigned l = 0; l < 2; l++) {
			at[l] = (uint64_t *)t->page[l] + i % LITMUS_SLOTS;
			/* now and then its page is here already */
			if (!t->plain && litmus_random(&t->seed) % 2)
				(void)__atomic_load_n(at[l], __ATOMIC_RELAXED);
		}
		if (!litmus_together(t->run, t->test->threads))
			return;
		if (!t->plain)
			litmus_pause(&t->seed, litmus_random(&t->seed) % 2 ? 20 : 2000);
		litmus_ops(t, at, i);
		if (!litmus_barrier(t->run, t->test->threads))
			return;
		if (t->number == 0)
			litmus_count(t, at, i);
		if (!litmus_barrier(t->run, t->test->threads))
			return;
	}
}

struct litmus_verdict {
	uint64_t forbidden;
	unsigned allowed, seen; /* outcomes that may be, and those of them that were */
};

static inline struct litmus_verdict litmus_judge(const struct litmus *test,
						 const struct litmus_run *run)
{
	struct litmus_verdict v = { 0 };
	bool allowed[LITMUS_OUTCOMES] = { 0 };
	struct litmus_state start = { 0 };

	litmus_play(test, &start, allowed);
	for (unsigned i = 0; i < LITMUS_OUTCOMES; i++) {
		v.allowed += allowed[i];
		v.seen += allowed[i] && run->count[i];
		if (!allowed[i])
			v.forbidden += run->count[i];
	}
	return v;
}

#endif
