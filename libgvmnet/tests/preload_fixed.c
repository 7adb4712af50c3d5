/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An executable at a fixed address that takes malloc's: each address of malloc that the loader
 * gives out is then that of an entry in this program, as in CPython and Node.js. Its blocks are
 * taken over nevertheless.
 */
#include <stdlib.h>
#include <string.h>

#define BYTES ((size_t)32 << 20)

static void *(*volatile allocate)(size_t size);
static void (*volatile release)(void *p);

int main(void)
{
	allocate = malloc;
	release = free;
	char *p = allocate(BYTES);
	if (!p)
		return 1;
	memset(p, 1, BYTES);
	int bad = p[BYTES - 1] != 1;
	release(p);
	return bad;
}
