/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * complaint.c: a thread asks for something and is told why it fails: by a line of its own, or one
 * of the region that it asks for. While it does, others write lines of another region and of none
 * as fast as they can; none of these is ever taken for the reason.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* of qemu/thread.h and qemu/cutils.h */
typedef pthread_mutex_t QemuSpin;
#define qemu_spin_lock(lock)    pthread_mutex_lock(lock)
#define qemu_spin_unlock(lock)  pthread_mutex_unlock(lock)
#define pstrcpy(to, size, from) snprintf(to, size, "%s", from)

static int qemu_get_thread_id(void)
{
	return (int)syscall(SYS_gettid);
}

static int strstart(const char *text, const char *with, const char **rest)
{
	size_t len = strlen(with);

	if (strncmp(text, with, len) != 0)
		return 0;
	*rest = text + len;
	return 1;
}

#include "gvm-complaint.h"

#define ROUNDS 20000

static bool over;

static void *others(void *arg)
{
	(void)arg;
	while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
		gvm_complaint_note("region mine2: node 0 cannot be reached");
		gvm_complaint_note("shared region other: its home is away");
		gvm_complaint_note("node 0: cannot connect");
	}
	return NULL;
}

/* By the pager's thread, as all lines of a region are. */
static void *of_mine(void *arg)
{
	gvm_complaint_note(arg);
	return NULL;
}

static void from_elsewhere(const char *line)
{
	pthread_t thread;

	pthread_create(&thread, NULL, of_mine, (void *)line);
	pthread_join(thread, NULL);
}

static unsigned wrong;

static void is(const char *wanted)
{
	char line[GVM_COMPLAINT_MAX];

	gvm_complaint_get(line);
	if (strcmp(line, wanted) != 0 && wrong++ == 0)
		printf("wanted '%s', found '%s'\n", wanted, line);
}

int main(void)
{
	pthread_t noise[2];

	for (int i = 0; i < 2; i++)
		pthread_create(&noise[i], NULL, others, NULL);
	for (int i = 0; i < ROUNDS; i++) {
		gvm_complaint_expect(NULL);
		is("");
		gvm_complaint_note("key file k does not exist");
		is("key file k does not exist");
		gvm_complaint_expect("mine");
		is("");
		if (i % 64 == 0) {
			from_elsewhere("region mine: node 7: no room");
			is("node 7: no room");
			from_elsewhere("shared region mine: no home");
			is("no home");
			gvm_complaint_over();
			from_elsewhere("region mine: too late");
			is("no home");
		}
		gvm_complaint_over();
	}
	__atomic_store_n(&over, true, __ATOMIC_RELAXED);
	for (int i = 0; i < 2; i++)
		pthread_join(noise[i], NULL);
	printf("%d rounds, %u wrong answers\n", ROUNDS, wrong);
	return wrong != 0;
}
