/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Doubly linked lists of items that have their links inside: the list is any struct with first,
 * last and count, the items name their two links. An item is in one list by a pair of links at a
 * time, which its owner has to know.
 */
#ifndef GVM_CORE_LIST_H
#define GVM_CORE_LIST_H

#include <stddef.h>

#define GVM_LIST_APPEND(list, item, next, prev)                                                    \
	do {                                                                                       \
		(item)->next = NULL;                                                               \
		(item)->prev = (list)->last;                                                       \
		if ((list)->last)                                                                  \
			(list)->last->next = (item);                                               \
		else                                                                               \
			(list)->first = (item);                                                    \
		(list)->last = (item);                                                             \
		(list)->count++;                                                                   \
	} while (0)

#define GVM_LIST_PREPEND(list, item, next, prev)                                                   \
	do {                                                                                       \
		(item)->prev = NULL;                                                               \
		(item)->next = (list)->first;                                                      \
		if ((list)->first)                                                                 \
			(list)->first->prev = (item);                                              \
		else                                                                               \
			(list)->last = (item);                                                     \
		(list)->first = (item);                                                            \
		(list)->count++;                                                                   \
	} while (0)

#define GVM_LIST_REMOVE(list, item, next, prev)                                                    \
	do {                                                                                       \
		if ((item)->prev)                                                                  \
			(item)->prev->next = (item)->next;                                         \
		else                                                                               \
			(list)->first = (item)->next;                                              \
		if ((item)->next)                                                                  \
			(item)->next->prev = (item)->prev;                                         \
		else                                                                               \
			(list)->last = (item)->prev;                                               \
		(list)->count--;                                                                   \
	} while (0)

#endif
