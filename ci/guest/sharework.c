/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sharework write|check|add|sum PHYSICAL-ADDRESS MIB SEED: work in memory that the guest's kernel
 * does not use (a DIMM that it was told to leave alone), by /dev/mem.
 *   - write: fill it, each word with what follows from its place and the seed
 *   - check: all of it is so; else exit status 1
 *   - add: add 1 to the first word, SEED times, atomically
 *   - sum: the first word is SEED; else exit status 1
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static uint64_t word(uint64_t i, uint64_t seed)
{
	return (i + 1) * 0x9e3779b97f4a7c15u ^ seed << 32;
}

static uint64_t count_wrong(const volatile uint64_t *at, uint64_t n, uint64_t seed)
{
	uint64_t wrong = 0;

	for (uint64_t i = 0; i < n; i++)
		wrong += at[i] != word(i, seed);
	return wrong;
}

static int work(const char *what, volatile uint64_t *at, uint64_t n, uint64_t seed)
{
	uint64_t wrong = 0;

	if (strcmp(what, "write") == 0)
		for (uint64_t i = 0; i < n; i++)
			at[i] = word(i, seed);
	else if (strcmp(what, "check") == 0)
		wrong = count_wrong(at, n, seed);
	else if (strcmp(what, "add") == 0)
		for (uint64_t i = 0; i < seed; i++)
			__atomic_fetch_add(at, 1, __ATOMIC_SEQ_CST);
	else if (strcmp(what, "sum") == 0)
		wrong = at[0] - seed;
	else
		return 2;
	printf("sharework: %s %s, %llu wrong\n", what, wrong ? "FAILED" : "OK",
	       (unsigned long long)wrong);
	return wrong != 0;
}

int main(int argc, char **argv)
{
	uint64_t addr, bytes;
	void *at;
	int fd;

	if (argc != 5)
		return 2;
	addr = strtoull(argv[2], NULL, 0);
	bytes = strtoull(argv[3], NULL, 0) << 20;
	fd = open("/dev/mem", O_RDWR);
	if (fd < 0) {
		perror("sharework: /dev/mem");
		return 2;
	}
	at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)addr);
	if (at == MAP_FAILED) {
		perror("sharework: mmap");
		return 2;
	}
	return work(argv[1], at, bytes / 8, strtoull(argv[4], NULL, 0));
}
