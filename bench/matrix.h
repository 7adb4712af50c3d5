/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The arithmetic of the examples of shared memory: two square matrices and their product. */
#ifndef MATRIX_H
#define MATRIX_H

#include <stddef.h>
#include <string.h>

#define MATRIX_ROWS_MAX 16384ul

struct matrices {
	size_t rows;
	double *a, *b, *c;
};

/* Of one of them, in whole pages. */
static inline size_t matrix_bytes(size_t rows)
{
	return (rows * rows * sizeof(double) + 4095) / 4096 * 4096;
}

/* One behind the other, from mem. */
static inline struct matrices matrices_at(void *mem, size_t rows)
{
	char *at = mem;

	return (struct matrices){ .rows = rows,
				  .a = (double *)at,
				  .b = (double *)(at + matrix_bytes(rows)),
				  .c = (double *)(at + 2 * matrix_bytes(rows)) };
}

static inline void matrices_fill(const struct matrices *m)
{
	for (size_t i = 0; i < m->rows * m->rows; i++) {
		m->a[i] = (double)(i % 7);
		m->b[i] = (double)(i % 11);
	}
}

/* The rows of c that are part of number of count parts. */
static inline void matrices_multiply(const struct matrices *m, unsigned part, unsigned count)
{
	size_t rows = m->rows;

	for (size_t i = rows * part / count; i < rows * (part + 1) / count; i++) {
		double *restrict row = m->c + i * rows;

		memset(row, 0, rows * sizeof(*row));
		for (size_t k = 0; k < rows; k++)
			for (size_t j = 0; j < rows; j++)
				row[j] += m->a[i * rows + k] * m->b[k * rows + j];
	}
}

/* A few places are computed again; all numbers are whole, so they must be equal. */
static inline int matrices_right(const struct matrices *m)
{
	size_t rows = m->rows;

	for (size_t n = 0; n < 1000; n++) {
		size_t i = n * 7919 % rows, j = n * 104729 % rows;
		double sum = 0;

		for (size_t k = 0; k < rows; k++)
			sum += m->a[i * rows + k] * m->b[k * rows + j];
		if (sum != m->c[i * rows + j])
			return 0;
	}
	return 1;
}

#endif
