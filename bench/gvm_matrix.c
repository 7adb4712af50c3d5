/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An example of memory that several nodes share: the product of two matrices. Each process computes
 * a part of the rows, and all that passes between them passes through the memory: the matrices, who
 * is there, and who is done. It is started once on each node:
 *
 *   GVM_CLUSTER=cluster.conf GVM_NODE=16 GVM_KEY_FILE=key gvm-matrix 0 3 768
 *   GVM_CLUSTER=cluster.conf GVM_NODE=17 GVM_KEY_FILE=key gvm-matrix 1 3 768    and so on
 *
 * with its number, how many there are, and how many rows the matrices have. Number 0 makes them,
 * checks the product, and says how long it took. bench/matrix starts all of it on one machine.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <gvmnet/dsm.h>
#include "matrix.h"

/* At the beginning of the region, on a page of its own. */
struct meeting {
	_Atomic unsigned there, begun, done;
};

static unsigned number, count;
static size_t rows;

/* Seldom enough not to keep its page on the way. */
static void await(_Atomic unsigned *what, unsigned value)
{
	while (atomic_load(what) != value)
		usleep(500);
}

static int work(struct gvm_dsm *dsm, char *mem)
{
	struct meeting *all = (struct meeting *)mem;
	const struct matrices m = matrices_at(mem + GVM_PAGE_SIZE, rows);
	struct gvm_dsm_stats st;
	uint64_t begin;
	int ok = 1;

	atomic_fetch_add(&all->there, 1);
	if (number == 0) {
		matrices_fill(&m);
		await(&all->there, count);
		atomic_store(&all->begun, 1);
	}
	await(&all->begun, 1);
	begin = gvm_now();
	matrices_multiply(&m, number, count);
	atomic_fetch_add(&all->done, 1);
	await(&all->done, count);
	if (number == 0) {
		double seconds = (double)(gvm_now() - begin) / 1e9;

		ok = matrices_right(&m);
		printf("time %.3f s, product %s\n", seconds, ok ? "right" : "WRONG");
	}
	gvm_dsm_stats(dsm, &st);
	printf("node %u: %llu faults, %llu pages received, %.1f MiB sent\n", gvm_dsm_node(dsm),
	       (unsigned long long)(st.faults_read + st.faults_write),
	       (unsigned long long)st.pages_received, (double)st.bytes_sent / (1 << 20));
	return ok ? 0 : 1;
}

static int usage(void)
{
	fputs("usage: gvm-matrix NUMBER COUNT ROWS\n"
	      "  process NUMBER (from 0) of COUNT that multiply two matrices of ROWS rows and "
	      "columns\n",
	      stderr);
	return 2;
}

int main(int argc, char **argv)
{
	struct gvm_dsm_config config = { .name = "gvm-matrix",
					 .flags = GVM_DSM_CREATE | GVM_DSM_EPHEMERAL };
	struct gvm_dsm *dsm;
	void *mem;
	int err, status;

	if (argc != 4)
		return usage();
	number = (unsigned)strtoul(argv[1], NULL, 10);
	count = (unsigned)strtoul(argv[2], NULL, 10);
	rows = strtoul(argv[3], NULL, 10);
	if (count == 0 || number >= count || rows == 0 || rows > MATRIX_ROWS_MAX)
		return usage();
	config.bytes = GVM_PAGE_SIZE + 3 * matrix_bytes(rows);
	err = gvm_dsm_open(NULL, &config, &dsm);
	if (!err)
		err = gvm_dsm_map(dsm, &mem);
	if (err) {
		fprintf(stderr, "gvm-matrix: the region cannot be had: %s\n", strerror(-err));
		return 1;
	}
	status = work(dsm, mem);
	err = gvm_dsm_close(dsm);
	return err ? 1 : status;
}
