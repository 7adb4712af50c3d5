/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* "gvm region", between its files: gvm_region.c has the command line and what it does,
 * gvm_region_view.c how the list is shown. */
#ifndef GVM_REGION_H
#define GVM_REGION_H

#include <jansson.h>
#include <stdio.h>

/*
 * The list as text. all: {"nodes": [{"id", "host", "port", "store": what NODE_STAT says of it,
 * "regions": [{"name", "pages", "slabs", "holder": "" or a number in hexadecimal digits, "sessions",
 * "ephemeral"}]}. One with "why" cannot be reached, and is passed over: standard error has it.
 */
void region_show(const json_t *all, FILE *out);

#endif
