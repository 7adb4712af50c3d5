/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * memwork: fills memory with a pattern that only the seed can tell, and proves that it is all still
 * there: in order, at random, after rewriting a third, and in order again. A page that is lost,
 * stale, swapped with another or made up does not pass.
 *
 * It runs as the workload of the demo's guest (built static, it needs nothing but a kernel) and on
 * the host under "gvm run" in the end-to-end tests. One thread per -t, each with its own part of
 * the memory. With -p N only the first N of the six things are done: 2 fills and verifies in order.
 *
 * Each line on standard output begins with "memwork: ". The last is
 *   memwork: result OK pages=N errors=0 checksum=HEX ns=N      (exit status 0), or
 *   memwork: result CORRUPT pages=N errors=N ...               (exit status 1).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "number.h"

#define PAGE        4096u
#define WORDS       (PAGE / sizeof(uint64_t))
#define THREADS_MAX 64u
#define REPORTS_MAX 8u

enum phase { FILL, IN_ORDER, AT_RANDOM, REWRITE, AT_RANDOM_AGAIN, IN_ORDER_AGAIN, PHASES };

static const char *const phase_names[PHASES] = {
	"filling",
	"verifying in order",
	"verifying at random",
	"rewriting a third at random",
	"verifying at random again",
	"verifying in order again",
};

/* What all threads share; written before they start, but for the counters. */
static uint64_t seed = 1;
static uint64_t pages_total;
static unsigned threads = 1;
static unsigned phases = PHASES;
static uint64_t pages_done; /* of the phase, over all threads */
static pthread_barrier_t barrier;
static pthread_mutex_t print_lock = PTHREAD_MUTEX_INITIALIZER;

struct part {
	pthread_t thread;
	unsigned number;
	uint64_t *memory; /* the part's pages */
	uint64_t first;   /* number of its first page within the whole */
	uint64_t pages;
	uint64_t round;
	uint64_t errors;
	uint64_t checksum;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* The finalizer of splitmix64: every bit of the result depends on every bit of x. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
	x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
	return x ^ (x >> 31);
}

/* Where a page's pattern begins: another one for each page, each rewriting and each seed. */
static uint64_t page_key(uint64_t page, uint64_t generation)
{
	return mix(mix(seed + page * 0x9E3779B97F4A7C15u) + generation) | 1;
}

static uint64_t next_word(uint64_t x)
{
	x ^= x << 13;
	x ^= x >> 7;
	return x ^ (x << 17);
}

static int is_rewritten(uint64_t page, uint64_t round)
{
	return mix(page ^ mix(seed + round)) % 3 == 0;
}

static void page_fill(uint64_t *words, uint64_t page, uint64_t generation)
{
	uint64_t x = page_key(page, generation);

	for (size_t i = 0; i < WORDS; i++) {
		words[i] = x;
		x = next_word(x);
	}
}

static void report(uint64_t page, size_t word, uint64_t wanted, uint64_t found)
{
	pthread_mutex_lock(&print_lock);
	printf("memwork: CORRUPT page %" PRIu64 " word %zu: wanted %016" PRIx64
	       ", found %016" PRIx64 "\n",
	       page, word, wanted, found);
	pthread_mutex_unlock(&print_lock);
}

static void page_verify(struct part *part, uint64_t index, uint64_t generation)
{
	const uint64_t *words = part->memory + index * WORDS;
	uint64_t page = part->first + index;
	uint64_t x = page_key(page, generation);
	uint64_t sum = 0;

	for (size_t i = 0; i < WORDS; i++) {
		uint64_t found = words[i];

		if (found != x) {
			if (part->errors++ < REPORTS_MAX)
				report(page, i, x, found);
			return;
		}
		sum = (sum << 1 | sum >> 63) ^ found;
		x = next_word(x);
	}
	part->checksum += mix(sum + page);
}

/* Say how far all threads are, about every hundredth of the phase. */
static void progress(enum phase phase, uint64_t round)
{
	uint64_t done = __atomic_add_fetch(&pages_done, 1, __ATOMIC_RELAXED);
	uint64_t step = pages_total / 100 + 1;

	if (done % step != 0 && done != pages_total)
		return;
	pthread_mutex_lock(&print_lock);
	printf("memwork: round %" PRIu64 " phase %d of %u, %s: %" PRIu64 " of %" PRIu64 " MiB\n",
	       round + 1, phase + 1, phases, phase_names[phase], done * PAGE >> 20,
	       pages_total * PAGE >> 20);
	fflush(stdout);
	pthread_mutex_unlock(&print_lock);
}

/* Generation of a page: 2 * round + 1 after round's filling, one more when it was rewritten. */
static void touch(struct part *part, enum phase phase, uint64_t index)
{
	uint64_t page = part->first + index;
	uint64_t filled = 2 * part->round + 1;
	int rewritten = is_rewritten(page, part->round);

	switch (phase) {
	case FILL:
		page_fill(part->memory + index * WORDS, page, filled);
		break;
	case REWRITE:
		if (rewritten)
			page_fill(part->memory + index * WORDS, page, filled + 1);
		break;
	case AT_RANDOM_AGAIN:
	case IN_ORDER_AGAIN:
		page_verify(part, index, rewritten ? filled + 1 : filled);
		break;
	default:
		page_verify(part, index, filled);
	}
	progress(phase, part->round);
}

/*
 * Each page exactly once in a scattered order: a linear congruential generator of full period
 * (Hull and Dobell 1962: multiplier 1 modulo 4, odd increment) over the next power of two.
 */
static void at_random(struct part *part, enum phase phase)
{
	uint64_t period = 1;
	uint64_t at, increment;

	while (period < part->pages)
		period <<= 1;
	at = mix(seed ^ (uint64_t)phase) & (period - 1);
	increment = mix(seed + part->number + part->round) | 1;
	for (uint64_t i = 0; i < period; i++) {
		if (at < part->pages)
			touch(part, phase, at);
		at = (at * 0xD1342543DE82EF95u + increment) & (period - 1);
	}
}

static void in_order(struct part *part, enum phase phase)
{
	for (uint64_t i = 0; i < part->pages; i++)
		touch(part, phase, i);
}

static void *run_part(void *arg)
{
	struct part *part = arg;

	for (enum phase phase = FILL; phase < phases; phase++) {
		if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
			__atomic_store_n(&pages_done, 0, __ATOMIC_RELAXED);
		pthread_barrier_wait(&barrier);
		if (phase == FILL || phase == IN_ORDER || phase == IN_ORDER_AGAIN)
			in_order(part, phase);
		else
			at_random(part, phase);
	}
	return NULL;
}

static int run_round(struct part *parts, uint64_t round)
{
	for (unsigned i = 0; i < threads; i++) {
		parts[i].round = round;
		if (pthread_create(&parts[i].thread, NULL, run_part, &parts[i]) != 0) {
			fprintf(stderr, "memwork: cannot start thread %u\n", i);
			exit(2);
		}
	}
	for (unsigned i = 0; i < threads; i++)
		pthread_join(parts[i].thread, NULL);
	return 0;
}

static uint64_t *map_memory(const char *file, uint64_t bytes)
{
	int flags = file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
	int fd = -1;
	void *memory;

	if (file) {
		fd = memfd_create(file, MFD_CLOEXEC);
		if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0) {
			fprintf(stderr, "memwork: memfd: %s\n", strerror(errno));
			exit(2);
		}
	}
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (memory == MAP_FAILED) {
		fprintf(stderr, "memwork: mmap of %" PRIu64 " bytes: %s\n", bytes, strerror(errno));
		exit(2);
	}
	if (fd >= 0)
		close(fd);
	return memory;
}

static void usage(void)
{
	fprintf(stderr, "usage: memwork [-m MIB] [-s SEED] [-r ROUNDS] [-p PHASES] [-t THREADS] "
			"[-f MEMFD-NAME]\n");
	exit(2);
}

int main(int argc, char **argv)
{
	static struct part parts[THREADS_MAX];
	uint64_t mib = 64, rounds = 1, errors = 0, checksum = 0, started;
	const char *file = NULL;
	uint64_t *memory;
	int c;

	while ((c = getopt(argc, argv, "m:s:r:p:t:f:")) != -1) {
		switch (c) {
		case 'm':
			mib = number(optarg, 1, 1u << 30);
			break;
		case 's':
			seed = number(optarg, 0, UINT64_MAX);
			break;
		case 'r':
			rounds = number(optarg, 1, UINT32_MAX);
			break;
		case 'p':
			phases = (unsigned)number(optarg, 1, PHASES);
			break;
		case 't':
			threads = (unsigned)number(optarg, 1, THREADS_MAX);
			break;
		case 'f':
			file = optarg;
			break;
		default:
			usage();
		}
	}
	if (optind != argc)
		usage();
	pages_total = mib << 20 >> 12;
	memory = map_memory(file, mib << 20);
	pthread_barrier_init(&barrier, NULL, threads);
	for (unsigned i = 0; i < threads; i++) {
		parts[i].number = i;
		parts[i].first = pages_total * i / threads;
		parts[i].pages = pages_total * (i + 1) / threads - parts[i].first;
		parts[i].memory = memory + parts[i].first * WORDS;
	}
	printf("memwork: begins with %" PRIu64 " MiB, %u thread%s\n", mib, threads,
	       threads > 1 ? "s" : "");
	fflush(stdout);
	started = now_ns();
	for (uint64_t round = 0; round < rounds; round++)
		run_round(parts, round);
	for (unsigned i = 0; i < threads; i++) {
		errors += parts[i].errors;
		checksum += parts[i].checksum;
	}
	printf("memwork: result %s pages=%" PRIu64 " errors=%" PRIu64 " checksum=%016" PRIx64
	       " ns=%" PRIu64 "\n",
	       errors ? "CORRUPT" : "OK", pages_total, errors, checksum, now_ns() - started);
	return errors ? 1 : 0;
}
