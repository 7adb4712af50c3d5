/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a program's faults are heading: the majority trend of Leap (Maruf and Chowdhury,
 * "Effectively prefetching remote memory with Leap", USENIX ATC 2020). One tracker follows one
 * slab, so that streams of several threads do not blur each other. Pure: no memory is touched but
 * the tracker's.
 */
#ifndef GVM_PAGER_TREND_H
#define GVM_PAGER_TREND_H

#include <stdint.h>

#define GVM_TREND_HISTORY  16u /* deltas remembered; a power of two */
#define GVM_TREND_PATIENCE 4u
#define GVM_TREND_SPLIT    4u /* the first window looked at is a quarter of them */

struct gvm_trend {
	int32_t delta[GVM_TREND_HISTORY];
	uint32_t count;   /* deltas ever put in */
	uint32_t last;    /* page of the last fault */
	uint32_t started; /* last is valid */
	uint32_t depth;   /* pages ahead, as of the last window */
	int32_t stride;   /* of the window that is out; 0: none */
	uint32_t next;    /* first page that the window that is out does not cover */
	uint32_t marker;  /* a page in its middle: its first touch asks for the next window */
	uint32_t hits;    /* pages of the window that were asked for since */
	uint32_t misses;  /* faults elsewhere since */
};

#define GVM_TREND_NONE UINT32_MAX

/* The stride that a majority of recent deltas shares, or 0. */
int32_t gvm_trend_find(const struct gvm_trend *trend);
/* A fault at page. Returns 1 if a window is to be fetched from *from on, *count pages, *stride
 * apart. */
int gvm_trend_fault(struct gvm_trend *trend, uint32_t page, unsigned depth_max, uint32_t *from,
		    uint32_t *count, int32_t *stride);
/* The window was posted: count pages of it, up to (not with) next. */
void gvm_trend_posted(struct gvm_trend *trend, uint32_t next, uint32_t marker);

#endif
