/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Each test of a program in a process of its own: whatever one that fails leaves behind, memory,
 * threads, a CPU and a priority that it was given, goes with its process.
 */
#ifndef EACH_ALONE_H
#define EACH_ALONE_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

/* Returns how many failed. */
static inline int run_each_alone(const struct CMUnitTest *tests, size_t count, char *self)
{
	int failed = 0, status;

	for (size_t i = 0; i < count; i++) {
		pid_t parent = getpid(), pid = fork();

		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (getppid() == parent)
				execl("/proc/self/exe", self, tests[i].name, (char *)NULL);
			_exit(127);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status) {
			fprintf(stderr, "[  FAILED  ] %s: wait status %x\n", tests[i].name,
				pid < 0 ? ~0u : (unsigned)status);
			failed++;
		}
	}
	return failed;
}

/* For the end of main(): all of them, or the one whose name is the argument. */
#define RUN_TESTS(tests)                                                                           \
	(argc > 1 ? (cmocka_set_test_filter(argv[1]), cmocka_run_group_tests(tests, NULL, NULL))   \
		  : run_each_alone(tests, sizeof(tests) / sizeof((tests)[0]), argv[0]))

#endif
