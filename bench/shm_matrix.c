/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The product of two matrices by several processes that share memory, as anybody would write it for
 * one machine: POSIX shared memory, a mutex, a barrier. It knows nothing of gvmnet.
 *
 *   shm-matrix COUNT ROWS
 *
 * is started COUNT times: on one machine as it is, on several by
 *
 *   gvm run --cluster cluster.conf --key-file key --shared shm-matrix -- shm-matrix COUNT ROWS
 *
 * The first to come makes the matrices, checks the product, and says how long it took.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "matrix.h"

#define NAME "/shm-matrix"
#define PAGE 4096

struct meeting {
	_Atomic unsigned made;
	pthread_mutex_t lock;
	pthread_barrier_t barrier;
	unsigned there;
};

static unsigned count;
static size_t rows;
static struct meeting *all;
static struct matrices m;

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* 1: it is new; 0: another process has made it; -1 with errno. */
static int open_memory(void)
{
	size_t bytes = PAGE + 3 * matrix_bytes(rows);
	int fd = shm_open(NAME, O_RDWR | O_CREAT | O_EXCL, 0600), first = fd >= 0;

	if (fd < 0 && errno == EEXIST)
		fd = shm_open(NAME, O_RDWR, 0);
	if (fd < 0 || (first && ftruncate(fd, (off_t)bytes)))
		return -1;
	for (struct stat st = { 0 }; st.st_size < (off_t)bytes; usleep(100))
		if (fstat(fd, &st))
			return -1;
	char *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		return -1;
	close(fd);
	all = (struct meeting *)mem;
	m = matrices_at(mem + PAGE, rows);
	return first;
}

static void make(void)
{
	pthread_mutexattr_t mutex;
	pthread_barrierattr_t barrier;

	pthread_mutexattr_init(&mutex);
	pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&all->lock, &mutex);
	pthread_barrierattr_init(&barrier);
	pthread_barrierattr_setpshared(&barrier, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&all->barrier, &barrier, count);
	matrices_fill(&m);
	atomic_store(&all->made, 1);
}

static unsigned take_number(void)
{
	pthread_mutex_lock(&all->lock);
	unsigned number = all->there++;
	pthread_mutex_unlock(&all->lock);
	return number;
}

int main(int argc, char **argv)
{
	int first, ok = 1;

	count = argc == 3 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
	rows = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
	if (!count || !rows || rows > MATRIX_ROWS_MAX) {
		fputs("usage: shm-matrix COUNT ROWS\n  one of COUNT processes that multiply two "
		      "matrices of ROWS rows and columns\n",
		      stderr);
		return 2;
	}
	first = open_memory();
	if (first < 0) {
		perror("shm-matrix: " NAME);
		return 1;
	}
	if (first)
		make();
	while (!atomic_load(&all->made))
		usleep(500);
	unsigned number = take_number();
	pthread_barrier_wait(&all->barrier);
	double begin = seconds();
	matrices_multiply(&m, number, count);
	pthread_barrier_wait(&all->barrier);
	if (first) {
		printf("time %.3f s, ", seconds() - begin);
		ok = matrices_right(&m);
		printf("product %s\n", ok ? "right" : "WRONG");
		shm_unlink(NAME);
	}
	return ok ? 0 : 1;
}
