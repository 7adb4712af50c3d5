/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a page of another process's can cost at least, where a third one knows who has it: a fault,
 * 48 bytes to the third, 48 bytes on to who has the page, who write-protects it and sends it; then
 * it is put into the file behind the faulting mapping, and mapped. And the same where who wants it
 * knows by itself who has it, and asks there. Each waits behind an epoll set,
 * and does nothing that it need not; all system calls are those of libgvmnet/dsm. Nothing is told
 * of a page that has come, nothing is looked up, counted or checked.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "bench.h"

#define PAGES 2048u
#define HDR   48u
#ifndef UFFDIO_CONTINUE_MODE_WP
#define UFFDIO_CONTINUE_MODE_WP ((uint64_t)1 << 1) /* since Linux 6.4 */
#endif

/* A file that is mapped twice, the one mapping watched by a userfaultfd. */
struct memory {
	int file, uffd;
	char *watched, *alias;
};

static struct memory memory = { .file = -1, .uffd = -1 };
static pid_t knower, owner;
static pthread_t handler;
static sem_t begun;
static int handler_cpu, to_knower = -1, to_owner = -1, from_owner = -1;
static int direct; /* the owner is asked, nobody else */

/* ---- memory -------------------------------------------------------------------------------- */

static char *map(const struct memory *m)
{
	return mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, m->file, 0);
}

static int memory_open(struct memory *m)
{
	struct uffdio_api api = { .api = UFFD_API,
				  .features = UFFD_FEATURE_MISSING_SHMEM |
					      UFFD_FEATURE_MINOR_SHMEM |
					      UFFD_FEATURE_WP_HUGETLBFS_SHMEM };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING |
					       UFFDIO_REGISTER_MODE_WP |
					       UFFDIO_REGISTER_MODE_MINOR };

	m->file = memfd_create("bench-hops", MFD_CLOEXEC);
	if (m->file < 0 || ftruncate(m->file, (off_t)PAGES * PAGE) < 0)
		return -errno;
	m->watched = map(m);
	m->alias = map(m);
	if (m->watched == MAP_FAILED || m->alias == MAP_FAILED)
		return -errno;
	m->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	reg.range.start = (uintptr_t)m->watched;
	reg.range.len = (size_t)PAGES * PAGE;
	if (m->uffd < 0 || ioctl(m->uffd, UFFDIO_API, &api) < 0 ||
	    ioctl(m->uffd, UFFDIO_REGISTER, &reg) < 0)
		return -errno;
	return 0;
}

static int let_in(const struct memory *m, uint64_t page, uint64_t mode)
{
	struct uffdio_continue c = { .range = { .start = (uintptr_t)(m->watched + page * PAGE),
						.len = PAGE },
				     .mode = mode };

	return ioctl(m->uffd, UFFDIO_CONTINUE, &c);
}

static int protect(const struct memory *m, uint64_t page, uint64_t pages, uint64_t mode)
{
	struct uffdio_writeprotect wp = { .range = { .start = (uintptr_t)(m->watched + page * PAGE),
						     .len = pages * PAGE },
					  .mode = mode };

	return ioctl(m->uffd, UFFDIO_WRITEPROTECT, &wp);
}

/* ---- who knows, who has -------------------------------------------------------------------- */

static int listener_open(unsigned *port)
{
	struct sockaddr_in sin = { .sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(sin);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&sin, sizeof(sin)) < 0 || listen(fd, 1) < 0 ||
	    getsockname(fd, (struct sockaddr *)&sin, &len) < 0)
		return -errno;
	*port = ntohs(sin.sin_port);
	return fd;
}

static int accept_one(int listener)
{
	int fd = accept(listener, NULL, NULL), one = 1;

	if (fd >= 0)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static int poll_add(int poll_fd, int fd)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.fd = fd };

	return epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event);
}

/* What comes from there goes on to there. */
static void know(int from, int to)
{
	int poll_fd = bench_poll_open(from);
	char buf[HDR];

	while (bench_poll(poll_fd, from, buf, HDR) == HDR && bench_write_all(to, buf, HDR) == 0)
		;
	_exit(0);
}

static void change_all(void)
{
	for (uint32_t i = 0; i < PAGES; i++)
		memory.watched[(size_t)i * PAGE + PAGE - 1]++;
}

/* The next request, of one of both. */
static int asked(int poll_fd, char *buf)
{
	struct epoll_event event;

	return epoll_wait(poll_fd, &event, 1, -1) == 1 && read(event.data.fd, buf, HDR) == HDR;
}

static void have(int from_knower, int from_asker, int to)
{
	static char buf[HDR + PAGE];
	int poll_fd = epoll_create1(EPOLL_CLOEXEC);
	uint64_t page;

	if (memory_open(&memory) || poll_add(poll_fd, from_knower) || poll_add(poll_fd, from_asker))
		_exit(1);
	for (uint32_t i = 0; i < PAGES; i++) {
		bench_fill(memory.alias + (size_t)i * PAGE, i);
		let_in(&memory, i, 0);
	}
	change_all();
	while (asked(poll_fd, buf)) {
		memcpy(&page, buf, sizeof(page));
		if (page == PAGES) { /* all may be changed again */
			protect(&memory, 0, PAGES, 0);
			change_all();
		} else {
			protect(&memory, page, 1, UFFDIO_WRITEPROTECT_MODE_WP);
			memcpy(buf + HDR, memory.alias + page * PAGE, PAGE);
		}
		if (bench_write_all(to, buf, sizeof(buf)))
			break;
	}
	_exit(0);
}

static int start_sides(const struct bench_opts *opts)
{
	unsigned to_know, to_have, to_ask, to_me;
	int knows = listener_open(&to_know), has = listener_open(&to_have),
	    asks = listener_open(&to_ask), me = listener_open(&to_me);

	if (knows < 0 || has < 0 || asks < 0 || me < 0)
		return -ENOTCONN;
	knower = fork();
	if (knower == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		bench_pin(opts->server_cpu);
		know(accept_one(knows), bench_connect(to_have));
	}
	owner = fork();
	if (owner == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		bench_pin(opts->server_cpu);
		have(accept_one(has), accept_one(asks), bench_connect(to_me));
	}
	to_knower = bench_connect(to_know);
	to_owner = bench_connect(to_ask);
	from_owner = accept_one(me);
	close(knows);
	close(has);
	close(asks);
	close(me);
	return to_knower < 0 || to_owner < 0 || from_owner < 0 ? -ENOTCONN : 0;
}

/* ---- who wants ----------------------------------------------------------------------------- */

static int ask(uint64_t page)
{
	char hdr[HDR] = { 0 };

	memcpy(hdr, &page, sizeof(page));
	return bench_write_all(direct ? to_owner : to_knower, hdr, sizeof(hdr));
}

static void *handle(void *unused)
{
	static char buf[HDR + PAGE];
	struct epoll_event event;
	int poll_fd = bench_poll_open(from_owner);
	struct uffd_msg msg;
	uint64_t page;

	bench_pin(handler_cpu);
	if (poll_add(poll_fd, memory.uffd) < 0)
		return unused;
	while (epoll_wait(poll_fd, &event, 1, -1) == 1) {
		if (event.data.fd == memory.uffd) {
			if (read(memory.uffd, &msg, sizeof(msg)) != sizeof(msg))
				continue;
			page = (msg.arg.pagefault.address - (uintptr_t)memory.watched) / PAGE;
			if (ask(page))
				break;
			continue;
		}
		if (bench_read_all(from_owner, buf, sizeof(buf)))
			break;
		memcpy(&page, buf, sizeof(page));
		if (page == PAGES) /* an order, no fault */
			sem_post(&begun);
		else if (pwrite(memory.file, buf + HDR, PAGE, (off_t)(page * PAGE)) != PAGE ||
			 let_in(&memory, page, UFFDIO_CONTINUE_MODE_WP) < 0)
			break;
	}
	return unused;
}

static int start(const struct bench_opts *opts, const char **why)
{
	int err;

	*why = "the bare processes do not start";
	err = start_sides(opts);
	if (!err)
		err = memory_open(&memory);
	handler_cpu = opts->client_cpu;
	sem_init(&begun, 0, 0);
	return err ? err : -pthread_create(&handler, NULL, handle, NULL);
}

/* Nothing is here any more, and all may be changed there. */
static int begin(void)
{
	int err;

	madvise(memory.watched, (size_t)PAGES * PAGE, MADV_DONTNEED);
	if (fallocate(memory.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		      (off_t)PAGES * PAGE) < 0)
		return -errno;
	err = ask(PAGES);
	while (!err && sem_wait(&begun) < 0)
		err = errno == EINTR ? 0 : -errno;
	return err;
}

static int latency(const struct bench_opts *opts, uint32_t n, uint64_t *ns)
{
	uint32_t page = 0;
	int err;

	(void)opts;
	for (uint32_t i = 0; i < n; i++) {
		const uint64_t *at;
		uint64_t t0;

		if (i % PAGES == 0 && (err = begin()))
			return err;
		page = (page + 769) % PAGES; /* each once, none next to the one before */
		at = (const uint64_t *)(const void *)(memory.watched + (size_t)page * PAGE);
		t0 = bench_now();
		if (__atomic_load_n(at, __ATOMIC_RELAXED) != bench_stamp(page))
			return -EILSEQ;
		ns[i] = bench_now() - t0;
	}
	return 0;
}

/* Nothing is under way when it is switched. */
static int latency_direct(const struct bench_opts *opts, uint32_t n, uint64_t *ns)
{
	int err;

	direct = 1;
	err = latency(opts, n, ns);
	direct = 0;
	return err;
}

static void close_all(void)
{
	int *fds[] = { &to_knower, &to_owner, &from_owner, &memory.uffd, &memory.file };

	for (unsigned i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
}

static void stop(void)
{
	if (handler) {
		pthread_cancel(handler);
		pthread_join(handler, NULL);
		handler = 0;
	}
	if (memory.watched)
		munmap(memory.watched, (size_t)PAGES * PAGE);
	if (memory.alias)
		munmap(memory.alias, (size_t)PAGES * PAGE);
	close_all();
	bench_kill(&knower);
	bench_kill(&owner);
}

const struct contender contender_hops = {
	.name = "raw, three processes",
	.what = "a fault, two messages and a page, from one process by way of another to a third: "
		"the floor of shared memory",
	.start = start,
	.latency = latency,
	.stop = stop,
};

/* Of the processes that the one above has started. */
const struct contender contender_direct = {
	.name = "raw, the owner asked",
	.what = "the same without the one in between",
	.latency = latency_direct,
};
