/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A number on the command line of the guests' programs; usage() is theirs, and does not return. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

static void usage(void);

static uint64_t number(const char *text, uint64_t least, uint64_t most)
{
	char *end;
	uint64_t value;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (errno || *end || end == text || *text == '-' || value < least || value > most)
		usage();
	return value;
}
