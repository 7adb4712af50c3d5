/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * homes.c: entries of gvm-homes.h come, go and are used again as fast as they can, while another
 * thread asks whose memory is. What stays is always found, with its owner; what was nobody's is
 * never somebody's; and an answer about an entry that changes is one that it had, never a mixture.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* of qemu/atomic.h, and of GLib */
#define qatomic_read(p)             __atomic_load_n(p, __ATOMIC_RELAXED)
#define qatomic_set(p, v)           __atomic_store_n(p, v, __ATOMIC_RELAXED)
#define qatomic_load_acquire(p)     __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define qatomic_store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define smp_wmb()                   __atomic_thread_fence(__ATOMIC_RELEASE)
#define smp_rmb()                   __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define g_new0(type, n)             ((type *)calloc(n, sizeof(type)))

#include "gvm-homes.h"

#define ENOUGH 2000000 /* questions; and each of the two was met a thousandth as often */
#define at(n)  ((void *)(uintptr_t)(n))

static int over;

/* What comes and goes is either [0x10000, 0x12000) of owner 0 or [0x14000, 0x15000) of owner 1. */
static void *changes(void *arg)
{
	(void)arg;
	for (unsigned i = 0; !qatomic_read(&over); i++) {
		if (i % 2) {
			gvm_home_add(at(0x10000), 0x2000, 0);
			gvm_home_remove(at(0x10000));
		} else {
			gvm_home_add(at(0x14000), 0x1000, 1);
			gvm_home_remove(at(0x14000));
		}
	}
	return NULL;
}

int main(void)
{
	long asked = 0, wrong = 0, seen[2] = { 0, 0 };
	pthread_t thread;
	int first, second, length = 0;

	gvm_home_add(at(0x1000), 0x1000, 1);
	gvm_home_add(at(0x10000), 0x2000, 0);
	gvm_home_add(at(0x30000), 0x1000, 0);
	gvm_home_remove(at(0x10000));
	pthread_create(&thread, NULL, changes, NULL);
	alarm(60);
	while (asked < ENOUGH || seen[0] < ENOUGH / 1000 || seen[1] < ENOUGH / 1000) {
		first = gvm_home_of(at(0x11fff));
		second = gvm_home_of(at(0x14000));
		wrong += first != -1 && first != 0;
		wrong += second != -1 && second != 1;
		/* only a mixture of both has these: the one's base or size with the other's */
		wrong += gvm_home_of(at(0x15000)) != -1 || gvm_home_of(at(0)) != -1 ||
			 gvm_home_of(at(0xffff)) != -1;
		wrong += gvm_home_of(at(0x1fff)) != 1 || gvm_home_of(at(0x30000)) != 0;
		seen[0] += first == 0;
		seen[1] += second == 1;
		asked++;
	}
	qatomic_set(&over, 1);
	pthread_join(thread, NULL);
	for (GvmHome *home = gvm_homes; home; home = home->next) {
		length++;
	}
	printf("asked=%ld seen=%ld,%ld wrong=%ld entries=%d\n", asked, seen[0], seen[1], wrong,
	       length);
	return wrong || length != 3;
}
