/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ceiling: the simplest careful TCP server and client, blocking. A 32-byte request names a
 * page, the answer is its 4,096 bytes. The server answers all requests of one read with one
 * sendmsg.
 *
 * And the same behind an event loop: both sides wait in epoll_wait() before each read, as whoever
 * has more than one connection, or anything else to wait for, must. What lies between the two is
 * not a library's to save.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include "bench.h"

#define REQUEST 32u
#define BATCH   256u

static struct side {
	int polls;
	pid_t server;
	struct stream stream;
} blocking = { .stream.fd = -1 }, polling = { .polls = 1, .stream.fd = -1 };

static int send_pages(int fd, struct iovec *iov, unsigned n)
{
	while (n > 0) {
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = n };
		ssize_t sent = sendmsg(fd, &msg, MSG_NOSIGNAL);

		if (sent < 0)
			return -errno;
		while (n > 0 && (size_t)sent >= iov->iov_len) {
			sent -= (ssize_t)iov->iov_len;
			iov++;
			n--;
		}
		if (n > 0) {
			iov->iov_base = (char *)iov->iov_base + sent;
			iov->iov_len -= (size_t)sent;
		}
	}
	return 0;
}

static void serve(int fd, int poll_fd, char *memory, uint32_t pages)
{
	char in[REQUEST * BATCH];
	struct iovec iov[BATCH];
	size_t have = 0;

	for (;;) {
		ssize_t n = bench_poll(poll_fd, fd, in + have, sizeof(in) - have);
		unsigned count = 0;
		size_t at = 0;

		if (n <= 0)
			return;
		have += (size_t)n;
		for (; have - at >= REQUEST; at += REQUEST) {
			uint32_t page;

			memcpy(&page, in + at, sizeof(page));
			iov[count].iov_base = memory + (size_t)(page % pages) * PAGE;
			iov[count++].iov_len = PAGE;
		}
		memmove(in, in + at, have - at);
		have -= at;
		if (send_pages(fd, iov, count))
			return;
	}
}

static void server_main(int listener, const struct bench_opts *opts, int polls)
{
	char *memory = mmap(NULL, (size_t)opts->pages * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int one = 1, fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	bench_pin(opts->server_cpu);
	if (memory == MAP_FAILED)
		_exit(1);
	for (uint32_t i = 0; i < opts->pages; i++)
		bench_fill(memory + (size_t)i * PAGE, i);
	fd = accept(listener, NULL, NULL);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	serve(fd, polls ? bench_poll_open(fd) : 0, memory, opts->pages);
	_exit(0);
}

static size_t request(char *buf, uint32_t page, uint64_t seq)
{
	memset(buf, 0, REQUEST);
	memcpy(buf, &page, sizeof(page));
	memcpy(buf + 8, &seq, sizeof(seq));
	return REQUEST;
}

static int start(struct side *side, const struct bench_opts *opts, const char **why)
{
	struct sockaddr_in sin = { .sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(sin);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*why = "no loopback socket";
	if (listener < 0 || bind(listener, (struct sockaddr *)&sin, sizeof(sin)) < 0 ||
	    listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&sin, &len) < 0)
		return -errno;
	side->server = fork();
	if (side->server == 0)
		server_main(listener, opts, side->polls);
	close(listener);
	side->stream = (struct stream){ .fd = bench_connect(ntohs(sin.sin_port)),
					.answer_len = PAGE,
					.request = request };
	if (side->stream.fd < 0)
		return side->stream.fd;
	if (side->polls)
		side->stream.poll_fd = bench_poll_open(side->stream.fd);
	return side->stream.poll_fd < 0 ? side->stream.poll_fd : 0;
}

static void stop(struct side *side)
{
	if (side->stream.fd >= 0)
		close(side->stream.fd);
	if (side->stream.poll_fd > 0)
		close(side->stream.poll_fd);
	side->stream = (struct stream){ .fd = -1 };
	bench_kill(&side->server);
}

static int blocking_start(const struct bench_opts *opts, const char **why)
{
	return start(&blocking, opts, why);
}

static int blocking_latency(const struct bench_opts *opts, uint32_t n, uint64_t *ns)
{
	return stream_latency(&blocking.stream, opts, n, ns);
}

static int blocking_throughput(const struct bench_opts *opts, double *per_second)
{
	return stream_throughput(&blocking.stream, opts, per_second);
}

static void blocking_stop(void)
{
	stop(&blocking);
}

static int polling_start(const struct bench_opts *opts, const char **why)
{
	return start(&polling, opts, why);
}

static int polling_latency(const struct bench_opts *opts, uint32_t n, uint64_t *ns)
{
	return stream_latency(&polling.stream, opts, n, ns);
}

static int polling_throughput(const struct bench_opts *opts, double *per_second)
{
	return stream_throughput(&polling.stream, opts, per_second);
}

static void polling_stop(void)
{
	stop(&polling);
}

const struct contender contender_tcp = {
	.name = "raw TCP",
	.what = "32-byte request, 4 KiB answer, blocking sockets, one sendmsg a batch: the ceiling",
	.start = blocking_start,
	.latency = blocking_latency,
	.throughput = blocking_throughput,
	.stop = blocking_stop,
};

const struct contender contender_epoll = {
	.name = "TCP behind epoll",
	.what = "the same with an epoll_wait() before each read on both sides: the floor of event "
		"loops",
	.start = polling_start,
	.latency = polling_latency,
	.throughput = polling_throughput,
	.stop = polling_stop,
};
