/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The other half of the floor: one page fault taken by userfaultfd and answered with a page that is
 * here already. A handler thread blocks in read() and answers with UFFDIO_COPY; the bench's thread
 * touches pages. Handler and toucher are pinned as client and server are elsewhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "bench.h"

#define ROUND 4096u /* pages that are touched before they are dropped again */
#define BATCH 32u   /* pages that are put there at a time, when nobody waits */

static int uffd = -1;
static char *memory = MAP_FAILED;
static pthread_t handler;
static int handler_cpu;

static void *handle(void *unused)
{
	static char page[PAGE] __attribute__((aligned(4096)));
	struct uffd_msg msg;

	bench_pin(handler_cpu);
	while (read(uffd, &msg, sizeof(msg)) == sizeof(msg)) {
		struct uffdio_copy copy = { .dst =
						msg.arg.pagefault.address & ~(uint64_t)(PAGE - 1),
					    .src = (uintptr_t)page,
					    .len = PAGE };

		if (ioctl(uffd, UFFDIO_COPY, &copy) < 0 && errno != EEXIST)
			break;
	}
	return unused;
}

static int start(const struct bench_opts *opts, const char **why)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	size_t len = (size_t)ROUND * PAGE;

	*why = "no userfaultfd (run as root)";
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0)
		return -errno;
	memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	reg.range.start = (uintptr_t)memory;
	reg.range.len = len;
	if (memory == MAP_FAILED || ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		return -errno;
	handler_cpu = opts->client_cpu;
	return -pthread_create(&handler, NULL, handle, NULL);
}

static int latency(const struct bench_opts *opts, uint32_t n, uint64_t *ns)
{
	uint32_t seed = 99;

	(void)opts;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t page = bench_next_page(&seed, ROUND);
		volatile char *at = memory + (size_t)page * PAGE;
		uint64_t t0 = bench_now();

		(void)*at;
		ns[i] = bench_now() - t0;
		madvise((void *)at, PAGE, MADV_DONTNEED);
	}
	return 0;
}

/* What it costs to put pages there and to take them away again, a batch at a time, each looked at.
 */
static int throughput(const struct bench_opts *opts, double *per_second)
{
	static char pages[BATCH * PAGE] __attribute__((aligned(4096)));
	uint64_t t0 = bench_now(), end = t0 + (uint64_t)(opts->seconds * 1e9), done = 0;

	memset(pages, 1, sizeof(pages));
	while (bench_now() < end) {
		char *at = memory + done % ROUND * PAGE;
		struct uffdio_copy copy = { .dst = (uintptr_t)at,
					    .src = (uintptr_t)pages,
					    .len = sizeof(pages) };

		if (ioctl(uffd, UFFDIO_COPY, &copy) < 0)
			return -errno;
		for (unsigned i = 0; i < BATCH; i++)
			if (((volatile char *)at)[(size_t)i * PAGE] != 1)
				return -EILSEQ;
		madvise(at, sizeof(pages), MADV_DONTNEED);
		done += BATCH;
	}
	*per_second = (double)done * 1e9 / (double)(bench_now() - t0);
	return 0;
}

/* The handler is in read() for good: cancel it there, so that the descriptor can go. */
static void stop(void)
{
	if (handler) {
		pthread_cancel(handler);
		pthread_join(handler, NULL);
		handler = 0;
	}
	if (memory != MAP_FAILED)
		munmap(memory, (size_t)ROUND * PAGE);
	memory = MAP_FAILED;
	if (uffd >= 0)
		close(uffd);
	uffd = -1;
}

const struct contender contender_uffd = {
	.name = "raw userfaultfd",
	.what = "a fault answered at once with UFFDIO_COPY by a blocking handler thread: the floor "
		"of paging",
	.start = start,
	.latency = latency,
	.throughput = throughput,
	.stop = stop,
};
