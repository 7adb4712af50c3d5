/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Threads and signal handlers whose stacks are paged memory, scenarios of preload_prog: what they
 * ask of the pager they ask from memory that the pager itself must first bring.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include "preload_prog.h"

/* Each large enough that gvm run takes it over. */
#define STACK   (4 * MIB)
#define SIGNALS (2 * MIB)
#define BLOCK   (3 * MIB)
#define DEEP    (MIB / 2) /* of a stack that is used */
#define TOUCHER 3

static _Atomic unsigned at_work;

static char *new_stack(size_t bytes)
{
	void *stack;

	CHECK(!posix_memalign(&stack, PAGE, bytes));
	return stack;
}

static void *touch(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;
	char *p = map(size);

	for (unsigned round = 0; round < 2; round++) {
		fill(p, size, seed + round);
		CHECK(holds(p, size, seed + round));
	}
	CHECK(!munmap(p, size));
	at_work--;
	return NULL;
}

/* Its frame is far larger than what stays here of it while the others touch theirs. */
static void map_once(uint64_t seed)
{
	char frame[DEEP];

	fill(frame, DEEP, seed);
	char *p = map(BLOCK);
	fill(p, BLOCK, seed + 1);
	CHECK(holds(p, BLOCK, seed + 1));
	CHECK(!munmap(p, BLOCK));
	CHECK(holds(frame, DEEP, seed));
}

static void *map_on_paged_stack(void *arg)
{
	for (uint64_t seed = 1; at_work || seed < 20; seed++)
		map_once(seed);
	return arg;
}

void stack_threads(void)
{
	pthread_t toucher[TOUCHER], mapper;
	pthread_attr_t attr;

	at_work = TOUCHER;
	CHECK(!pthread_attr_init(&attr));
	CHECK(!pthread_attr_setstack(&attr, new_stack(STACK), STACK));
	CHECK(!pthread_create(&mapper, &attr, map_on_paged_stack, NULL));
	for (uintptr_t i = 0; i < TOUCHER; i++)
		CHECK(!pthread_create(&toucher[i], NULL, touch, (void *)(i * 100 + 1)));
	for (unsigned i = 0; i < TOUCHER; i++)
		CHECK(!pthread_join(toucher[i], NULL));
	CHECK(!pthread_join(mapper, NULL));
}

/* ---- slabs in the hands of a thread each --------------------------------------------------- */

#define STRIPES 16u
#define TURNS   20u

static void *use_stripe(void *arg)
{
	char *p = arg;

	for (uint64_t seed = 2; seed < 2 + TURNS; seed++) {
		CHECK(holds(p, size / STRIPES, seed - 1));
		fill(p, size / STRIPES, seed);
	}
	CHECK(holds(p, size / STRIPES, TURNS + 1));
	CHECK(write(1, "a stripe is done\n", 17) == 17);
	return NULL;
}

/* When told to begin, threads that use a part of a mapping each, and say when they have done. */
void stripes(void)
{
	pthread_t id[STRIPES];
	char *p = map(size), go;

	/* in turn, so that those that are here in the end are few, and apart, of each */
	for (size_t at = 0; at < size / STRIPES; at += PAGE)
		for (size_t i = 0; i < STRIPES; i++)
			fill_one(p + i * (size / STRIPES), at, 1);
	CHECK(write(1, "ready\n", 6) == 6 && read(0, &go, 1) == 1);
	for (size_t i = 0; i < STRIPES; i++)
		CHECK(!pthread_create(&id[i], NULL, use_stripe, p + i * (size / STRIPES)));
	for (size_t i = 0; i < STRIPES; i++)
		CHECK(!pthread_join(id[i], NULL));
}

/* ---- signal stacks ------------------------------------------------------------------------- */

static _Thread_local char *handler_stack;
static volatile sig_atomic_t handled;

static void use_signal_stack(void)
{
	stack_t stack = { .ss_size = SIGNALS };

	stack.ss_sp = handler_stack = new_stack(SIGNALS);
	CHECK(!sigaltstack(&stack, NULL));
}

static void leave_signal_stack(void)
{
	stack_t none = { .ss_flags = SS_DISABLE };

	CHECK(!sigaltstack(&none, NULL));
	free(handler_stack);
}

static void map_in_handler(void)
{
	char frame[64 * 1024];

	CHECK(frame > handler_stack && frame < handler_stack + SIGNALS);
	fill(frame, sizeof frame, 7);
	char *p = map(BLOCK);
	fill(p, BLOCK, 8);
	CHECK(holds(p, BLOCK, 8));
	CHECK(!munmap(p, BLOCK));
	CHECK(holds(frame, sizeof frame, 7));
}

#define ALARMS 20

/* The next half a millisecond after this one, which on a slow machine leaves no time for anything
 * else: so there are not more than ALARMS. */
static void next_alarm(void)
{
	struct itimerval timer = { .it_value = { 0, 500 } };

	CHECK(!setitimer(ITIMER_REAL, &timer, NULL));
}

static void on_alarm(int number)
{
	(void)number;
	map_in_handler();
	handled = handled + 1;
	if (handled < ALARMS)
		next_alarm();
}

static void handle(int number, void (*handler)(int))
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_ONSTACK };

	CHECK(!sigaction(number, &action, NULL));
}

void signal_stack(void)
{
	char *p = map(size);

	use_signal_stack();
	handle(SIGALRM, on_alarm);
	next_alarm();
	for (uint64_t seed = 1; handled < ALARMS || seed < 4; seed++) {
		fill(p, size, seed);
		CHECK(holds(p, size, seed));
	}
	signal(SIGALRM, SIG_IGN);
	leave_signal_stack();
}

static void on_user(int number)
{
	char frame[16 * 1024];

	CHECK(frame > handler_stack && frame < handler_stack + SIGNALS);
	fill(frame, sizeof frame, (uint64_t)number);
	CHECK(holds(frame, sizeof frame, (uint64_t)number));
}

static void *raise_again(void *arg)
{
	use_signal_stack();
	for (unsigned i = 0; i < 50; i++)
		CHECK(!raise(SIGUSR1));
	leave_signal_stack();
	return arg;
}

/* Many threads with a paged signal stack each, of which they use a few pages at the end. */
void signal_stacks(void)
{
	pthread_t id[100];
	char *p = map(size);

	handle(SIGUSR1, on_user);
	fill(p, size, 3);
	for (unsigned i = 0; i < 100; i++)
		CHECK(!pthread_create(&id[i], NULL, raise_again, NULL));
	for (unsigned i = 0; i < 100; i++)
		CHECK(!pthread_join(id[i], NULL));
	CHECK(holds(p, size, 3));
}
