/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's side of paging: userfaultfd and its requests, and the pager's own memory. Nothing
 * here knows of pages' states. Any thread.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "internal.h"

/* Newer than the headers of some systems that this is built on. */
#define FEATURE_POISON (1ull << 14)
#define FEATURE_MOVE   (1ull << 16)
#define CONTINUE_WP    2ull

struct move_request {
	uint64_t to, from, len, mode;
	int64_t moved;
};
#define REQUEST_MOVE _IOWR(UFFDIO, 0x05, struct move_request)

struct poison_request {
	struct uffdio_range range;
	uint64_t mode;
	int64_t updated;
};
#define REQUEST_POISON _IOWR(UFFDIO, 0x08, struct poison_request)

unsigned pager_quirks;

void *mem_map(uint64_t bytes)
{
	void *p = sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	/* bookkeeping is sparse: huge pages would make it as large as what it keeps */
	sys_madvise(p, bytes, MADV_NOHUGEPAGE);
	return p;
}

void mem_unmap(void *base, uint64_t bytes)
{
#ifdef __SANITIZE_THREAD__
	/* it is not told of these mappings, and would take a new one in the same place for the old
	 */
	if (bytes <= UINT64_C(1) << 20)
		return;
#endif
	if (base)
		sys_munmap(base, bytes);
}

/* Without it the kernel would give zeros for pages that are away. */
static int request(int uffd, unsigned long what, void *arg)
{
	int r = ioctl(uffd, what, arg);

	if (r < 0 && (errno == EBADF || errno == ENOTTY))
		gvm_fd_lost("userfaultfd");
	return r;
}

static int open_fd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), dev, err;

	if (fd >= 0)
		return fd;
	err = -errno;
	if (err != -EPERM)
		return err;
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return err;
	fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		fd = -errno;
	close(dev);
	return fd;
}

static int open_api(uint64_t want, uint64_t *features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = want };
	int fd = gvm_own_fd(open_fd()), err;

	if (fd < 0)
		return fd;
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		err = -errno;
		close(fd);
		return err == -EINVAL ? -ENOSYS : err;
	}
	*features = api.features;
	return fd;
}

static void explain(int err)
{
	if (err == -EPERM || err == -EACCES)
		gvm_log(
		    GVM_LOG_ERROR,
		    "no permission for userfaultfd: run as root or with CAP_SYS_PTRACE, or allow "
		    "it "
		    "with sysctl vm.unprivileged_userfaultfd=1 or by access to /dev/userfaultfd");
	else
		gvm_log(GVM_LOG_ERROR,
			"userfaultfd cannot be used: %s; a kernel of 5.19 or later is "
			"needed, with CONFIG_USERFAULTFD",
			strerror(-err));
}

int mem_uffd(uint64_t want, uint64_t *features, int *fd)
{
	uint64_t have;
	int probe = open_api(0, &have), r;

	if (probe < 0) {
		explain(probe);
		return probe;
	}
	close(probe);
	if ((have & want) != want) {
		explain(-ENOSYS);
		return -ENOSYS;
	}
	/* move and poison are requests whose features need not be asked for, but newer kernels say
	 * that they may be */
	*features = have;
	r = open_api(want, &have);
	if (r < 0) {
		explain(r);
		return r;
	}
	*fd = r;
	return 0;
}

bool mem_has_move(uint64_t features)
{
	return (features & FEATURE_MOVE) && !(pager_quirks & QUIRK_NO_MOVE);
}

bool mem_has_poison(uint64_t features)
{
	return (features & FEATURE_POISON) && !(pager_quirks & QUIRK_NO_POISON);
}

int mem_register(int uffd, uint64_t addr, uint64_t len, uint64_t mode)
{
	struct uffdio_register r = { .range = { addr, len }, .mode = mode };

	return request(uffd, UFFDIO_REGISTER, &r) < 0 ? -errno : 0;
}

void mem_unregister(int uffd, uint64_t addr, uint64_t len)
{
	struct uffdio_range r = { addr, len };

	request(uffd, UFFDIO_UNREGISTER, &r);
}

static int outcome(int r, int64_t did, uint64_t *done)
{
	*done = did > 0 ? (uint64_t)did : 0;
	return r < 0 ? -errno : 0;
}

int mem_copy(int uffd, uint64_t to, const void *from, uint64_t len, bool wp, uint64_t *done)
{
	struct uffdio_copy r = {
		.dst = to, .src = (uintptr_t)from, .len = len, .mode = wp ? UFFDIO_COPY_MODE_WP : 0
	};
	int got = request(uffd, UFFDIO_COPY, &r);

	return outcome(got, r.copy, done);
}

int mem_zero(int uffd, uint64_t to, uint64_t len, uint64_t *done)
{
	struct uffdio_zeropage r = { .range = { to, len } };
	int got = request(uffd, UFFDIO_ZEROPAGE, &r);

	return outcome(got, r.zeropage, done);
}

int mem_move(int uffd, uint64_t to, uint64_t from, uint64_t len, uint64_t *done)
{
	struct move_request r = { .to = to, .from = from, .len = len };
	int got = request(uffd, REQUEST_MOVE, &r);

	return outcome(got, r.moved, done);
}

int mem_protect(int uffd, uint64_t addr, uint64_t len, bool on)
{
	struct uffdio_writeprotect r = { .range = { addr, len },
					 .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0 };

	return request(uffd, UFFDIO_WRITEPROTECT, &r) < 0 ? -errno : 0;
}

int mem_poison(int uffd, uint64_t addr, uint64_t len)
{
	struct poison_request r = { .range = { addr, len } };

	return request(uffd, REQUEST_POISON, &r) < 0 ? -errno : 0;
}

int mem_continue(int uffd, uint64_t to, uint64_t len, bool wp)
{
	struct uffdio_continue r = { .range = { to, len }, .mode = wp ? CONTINUE_WP : 0 };

	if (wp && (pager_quirks & QUIRK_NO_CONTINUE_WP))
		return -EINVAL;
	return request(uffd, UFFDIO_CONTINUE, &r) < 0 ? -errno : 0;
}

void mem_wake(int uffd, uint64_t addr, uint64_t len)
{
	struct uffdio_range r = { addr, len };

	request(uffd, UFFDIO_WAKE, &r);
}

void mem_present(const void *base, uint32_t pages, unsigned char *present)
{
	while (mincore((void *)(uintptr_t)base, (uint64_t)pages * PAGE, present) < 0 &&
	       errno == EAGAIN)
		sched_yield(); /* the kernel is short of memory for the answer */
}

bool mem_is_zero(const void *page)
{
	const uint64_t *p = page;

	for (unsigned i = 0; i < PAGE / 8; i += 8)
		if (p[i] | p[i + 1] | p[i + 2] | p[i + 3] | p[i + 4] | p[i + 5] | p[i + 6] |
		    p[i + 7])
			return false;
	return true;
}
