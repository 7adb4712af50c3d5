/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a history of loads and stores of one location is linearizable: whether each can have
 * happened at one instant between its beginning and its end, so that each load gives what the last
 * store before it has put there. Every store puts another value, and 0 is there at first; then it can
 * be decided by sorting (Gibbons and Korach, "Testing shared memories", 1997): per value, the
 * operations with it make a zone of time, and zones must not get into each other's way.
 */
#ifndef HISTORY_H
#define HISTORY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

struct history_op {
	uint64_t begin, end; /* of one clock; begin <= end */
	uint64_t value;
	bool store;
};

/* Of one value: from the first end to the last beginning. first < last: in between the value was
 * there all the time (a forward zone). Else it need only have been there for an instant. */
struct history_zone {
	uint64_t first, last;
};

static inline int history_by_value(const void *a, const void *b)
{
	const struct history_op *x = a, *y = b;

	if (x->value != y->value)
		return x->value < y->value ? -1 : 1;
	return (int)y->store - (int)x->store;
}

static inline int history_by_first(const void *a, const void *b)
{
	const struct history_zone *x = a, *y = b;

	return x->first < y->first ? -1 : x->first > y->first;
}

/* The zone of ops[0..n), all of one value, a store first unless it is what was there at first. */
static inline const char *history_zone_of(const struct history_op *ops, size_t n,
					  struct history_zone *zone)
{
	bool initial = ops[0].value == 0;

	if (!initial && !ops[0].store)
		return "a value that nobody has stored";
	zone->first = initial ? 0 : ops[0].end;
	zone->last = ops[0].begin;
	for (size_t i = 0; i < n; i++) {
		if (i > 0 && ops[i].store)
			return "a value that was stored twice";
		if (!initial && ops[i].end < ops[0].begin)
			return "a load before the store of its value";
		if (ops[i].end < zone->first)
			zone->first = ops[i].end;
		if (ops[i].begin > zone->last)
			zone->last = ops[i].begin;
	}
	return NULL;
}

static inline bool history_forward(const struct history_zone *z)
{
	return z->first < z->last;
}

/* zone[0..n) are forward and in order. Whether one of them has all of the backward one within. */
static inline bool history_within(const struct history_zone *zone, size_t n,
				  const struct history_zone *back)
{
	size_t from = 0, to = n;

	while (from < to) { /* the first one that does not begin before it */
		size_t middle = from + (to - from) / 2;

		if (zone[middle].first < back->last)
			from = middle + 1;
		else
			to = middle;
	}
	return from > 0 && back->first < zone[from - 1].last;
}

static inline const char *history_zones(struct history_zone *zone, size_t n)
{
	size_t forward = 0;

	for (size_t i = 0; i < n; i++) {
		struct history_zone z = zone[i];

		if (!history_forward(&z))
			continue;
		zone[i] = zone[forward];
		zone[forward++] = z;
	}
	qsort(zone, forward, sizeof(*zone), history_by_first);
	for (size_t i = 1; i < forward; i++)
		if (zone[i].first < zone[i - 1].last)
			return "two values at the same time";
	for (size_t i = forward; i < n; i++)
		if (history_within(zone, forward, &zone[i]))
			return "a value in the middle of another's time";
	return NULL;
}

/* NULL: it is linearizable; else why not. Sorts ops. */
static inline const char *history_check(struct history_op *ops, size_t n)
{
	struct history_zone *zone = malloc((n + 1) * sizeof(*zone));
	const char *why = NULL;
	size_t zones = 0, from, to;

	qsort(ops, n, sizeof(*ops), history_by_value);
	for (from = 0; from < n && !why; from = to) {
		for (to = from; to < n && ops[to].value == ops[from].value; to++)
			;
		why = history_zone_of(ops + from, to - from, &zone[zones++]);
	}
	if (!why)
		why = history_zones(zone, zones);
	free(zone);
	return why;
}

#endif
