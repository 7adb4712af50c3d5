/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * iowork: writes memory to a disk and reads it back past the page cache (O_DIRECT), so that the
 * device itself reads and writes the memory of the program, and verifies every byte. It has twice
 * as much memory as it writes: what is read goes where something else lay, and while pages of that
 * memory come and go, a device that wrote to a page which had left meanwhile, or read one that had
 * not come, does not pass.
 *
 * One thread per -t, each with its own part of disk and memory. The last line on standard output is
 *   iowork: result OK chunks=N errors=0      (exit status 0), or
 *   iowork: result CORRUPT chunks=N errors=N (exit status 1).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "number.h"

#define CHUNK       (32u << 10) /* of one transfer */
#define WORDS       (CHUNK / sizeof(uint64_t))
#define THREADS_MAX 16u
#define REPORTS_MAX 8u

static uint64_t seed = 1;
static uint64_t rounds = 1;
static int disk;

struct part {
	pthread_t thread;
	uint64_t *from, *to; /* as many chunks each */
	uint64_t first;      /* number of its first chunk on the disk */
	uint64_t chunks;
	uint64_t errors;
};

/* The finalizer of splitmix64: every bit of the result depends on every bit of x. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
	x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
	return x ^ (x >> 31);
}

static uint64_t word_of(uint64_t chunk, uint64_t round, size_t i)
{
	return (mix(mix(seed + chunk) + round) | 1) * (i + 1);
}

static void fill(uint64_t *words, uint64_t chunk, uint64_t round)
{
	uint64_t key = word_of(chunk, round, 0), x = 0;

	for (size_t i = 0; i < WORDS; i++)
		words[i] = x += key;
}

static void verify(struct part *part, const uint64_t *words, const char *what, uint64_t chunk,
		   uint64_t round)
{
	uint64_t key = word_of(chunk, round, 0), x = 0;

	for (size_t i = 0; i < WORDS; i++) {
		x += key;
		if (words[i] == x)
			continue;
		if (part->errors++ < REPORTS_MAX)
			printf("iowork: CORRUPT %s: chunk %" PRIu64 " word %zu: wanted %016" PRIx64
			       ", found %016" PRIx64 "\n",
			       what, chunk, i, x, words[i]);
		return;
	}
}

/* transfer: the whole chunk, or the end of the program */
static void transfer(uint64_t *words, uint64_t chunk, int write)
{
	off_t at = (off_t)(chunk * CHUNK);
	ssize_t done = write ? pwrite(disk, words, CHUNK, at) : pread(disk, words, CHUNK, at);

	if (done != CHUNK) {
		printf("iowork: %s of chunk %" PRIu64 ": %s\n", write ? "writing" : "reading",
		       chunk, done < 0 ? strerror(errno) : "cut short");
		exit(2);
	}
}

/* Chunks are read in another order than they were written: by a step that shares no factor with
 * their number. */
static uint64_t step_of(uint64_t chunks)
{
	static const uint64_t primes[] = { 13, 11, 7, 5 };

	for (size_t i = 0; i < sizeof(primes) / sizeof(primes[0]); i++)
		if (chunks % primes[i] != 0)
			return primes[i];
	return 1;
}

static void *work(void *arg)
{
	struct part *part = arg;
	uint64_t step = step_of(part->chunks);

	for (uint64_t round = 1; round <= rounds; round++) {
		for (uint64_t i = 0; i < part->chunks; i++) {
			fill(part->from + i * WORDS, part->first + i, round);
			transfer(part->from + i * WORDS, part->first + i, 1);
		}
		for (uint64_t i = 0; i < part->chunks; i++) {
			uint64_t chunk = i * step % part->chunks;
			uint64_t *to = part->to + ((chunk + round * 5) % part->chunks) * WORDS;

			transfer(to, part->first + chunk, 0);
			verify(part, to, "read", part->first + chunk, round);
		}
		for (uint64_t i = 0; i < part->chunks; i++)
			verify(part, part->from + i * WORDS, "written", part->first + i, round);
	}
	return NULL;
}

static void usage(void)
{
	fprintf(stderr, "usage: iowork -d DISK [-m MIB] [-s SEED] [-r ROUNDS] [-t THREADS]\n");
	exit(2);
}

int main(int argc, char **argv)
{
	static struct part parts[THREADS_MAX];
	uint64_t mib = 16, threads = 4, chunks, errors = 0;
	const char *name = NULL;
	uint64_t *memory;
	int c;

	while ((c = getopt(argc, argv, "d:m:s:r:t:")) != -1) {
		switch (c) {
		case 'd':
			name = optarg;
			break;
		case 'm':
			mib = number(optarg, 1, 1u << 20);
			break;
		case 's':
			seed = number(optarg, 0, UINT64_MAX);
			break;
		case 'r':
			rounds = number(optarg, 1, UINT32_MAX);
			break;
		case 't':
			threads = number(optarg, 1, THREADS_MAX);
			break;
		default:
			usage();
		}
	}
	if (!name || optind != argc)
		usage();
	disk = open(name, O_RDWR | O_DIRECT);
	if (disk < 0) {
		fprintf(stderr, "iowork: %s: %s\n", name, strerror(errno));
		return 2;
	}
	chunks = (mib << 20) / CHUNK / threads;
	memory = mmap(NULL, 2 * chunks * threads * CHUNK, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		fprintf(stderr, "iowork: mmap: %s\n", strerror(errno));
		return 2;
	}
	for (uint64_t i = 0; i < threads; i++) {
		parts[i].first = i * chunks;
		parts[i].chunks = chunks;
		parts[i].from = memory + 2 * i * chunks * WORDS;
		parts[i].to = parts[i].from + chunks * WORDS;
		if (pthread_create(&parts[i].thread, NULL, work, &parts[i]) != 0)
			return 2;
	}
	for (uint64_t i = 0; i < threads; i++) {
		pthread_join(parts[i].thread, NULL);
		errors += parts[i].errors;
	}
	printf("iowork: result %s chunks=%" PRIu64 " errors=%" PRIu64 "\n",
	       errors ? "CORRUPT" : "OK", chunks * threads * rounds, errors);
	return errors ? 1 : 0;
}
