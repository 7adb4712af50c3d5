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
#define GVM_TREND_SPLIT    4u  /* the first window looked at is a quarter of them */
#define GVM_TREND_LEAST    4u  /* pages of the smallest window */
#define GVM_TREND_JUDGED   16u /* pages whose fate is known, between two judgements */
#define GVM_TREND_WORTH    4u  /* so many may be in vain for each that spares a fault */
#define GVM_TREND_PROBE    16u /* windows that are left out before one is tried; doubles ... */
#define GVM_TREND_PROBES   5u  /* ... so often */

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
	uint32_t used,
	    wasted;        /* pages brought ahead whose fate is known, since the last judgement */
	uint32_t shrunk;   /* how often the largest window has been halved */
	uint32_t levels;   /* how often it can be, before there is none */
	uint32_t left_out; /* windows not asked for, since the last one tried */
};

#define GVM_TREND_NONE UINT32_MAX

/* The stride that a majority of recent deltas shares, or 0. */
int32_t gvm_trend_find(const struct gvm_trend *trend);
/* A fault at page. Returns 1 if a window is to be fetched from *from on, *count pages, *stride
 * apart. */
int gvm_trend_fault(struct gvm_trend *trend, uint32_t page, unsigned depth_max, uint32_t *from,
		    uint32_t *count, int32_t *stride);
/* A page that was brought ahead was used, or has left before that: where more leave than are used,
 * because they were not wanted or because there is too little room for them to stay until they are,
 * windows shrink, to nothing in the end but a small one tried now and then. */
void gvm_trend_outcome(struct gvm_trend *trend, int used);
/* The window was posted: count pages of it, up to (not with) next. */
void gvm_trend_posted(struct gvm_trend *trend, uint32_t next, uint32_t marker);

#endif
