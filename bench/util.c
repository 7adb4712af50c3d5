/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Helpers of gvm-bench: processes, pinning, and the generic client of stream protocols. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "bench.h"

uint64_t bench_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint32_t bench_next_page(uint32_t *seed, uint32_t pages)
{
	uint32_t x = *seed;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	*seed = x;
	return (uint32_t)(((uint64_t)x * pages) >> 32);
}

uint64_t bench_stamp(uint32_t page)
{
	return ((uint64_t)page + 1) * 0x9E3779B97F4A7C15u;
}

void bench_fill(void *page, uint32_t index)
{
	uint64_t *word = page;

	for (unsigned i = 0; i < PAGE / sizeof(*word); i++)
		word[i] = bench_stamp(index) + i;
}

void bench_pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET((unsigned)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		perror("gvm-bench: sched_setaffinity");
}

pid_t bench_spawn(const struct bench_opts *opts, int cpu, char *const argv[])
{
	const char *base = strrchr(argv[0], '/');
	char log[512];
	pid_t pid;

	snprintf(log, sizeof(log), "%s/%s.log", opts->scratch, base ? base + 1 : argv[0]);
	pid = fork();
	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	bench_pin(cpu);
	int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd >= 0) {
		dup2(fd, 1);
		dup2(fd, 2);
	}
	execvp(argv[0], argv);
	_exit(127);
}

void bench_kill(pid_t *pid)
{
	if (*pid <= 0)
		return;
	kill(*pid, SIGKILL);
	waitpid(*pid, NULL, 0);
	*pid = 0;
}

unsigned bench_free_port(void)
{
	struct sockaddr_in sin = { .sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(sin);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	if (fd < 0)
		return 0;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
	    bind(fd, (struct sockaddr *)&sin, sizeof(sin)) == 0 &&
	    getsockname(fd, (struct sockaddr *)&sin, &len) == 0)
		return ntohs(sin.sin_port); /* the socket stays */
	close(fd);
	return 0;
}

int bench_connect(unsigned port)
{
	struct sockaddr_in sin = { .sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				   .sin_port = htons((uint16_t)port) };
	uint64_t end = bench_now() + 5000000000u;
	int one = 1;

	do {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0)
			return -errno;
		if (connect(fd, (struct sockaddr *)&sin, sizeof(sin)) == 0) {
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			return fd;
		}
		close(fd);
		/* a server that is starting has no event to wait for */
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	} while (bench_now() < end);
	return -ECONNREFUSED;
}

int bench_write_all(int fd, const void *buf, size_t len)
{
	const char *at = buf;

	while (len > 0) {
		ssize_t n = write(fd, at, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

int bench_poll_open(int fd)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int poll_fd = epoll_create1(EPOLL_CLOEXEC);

	if (poll_fd < 0 || epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return -errno;
	return poll_fd;
}

ssize_t bench_poll(int poll_fd, int fd, void *buf, size_t len)
{
	struct epoll_event event;

	if (poll_fd > 0 && epoll_wait(poll_fd, &event, 1, -1) < 0)
		return -1;
	return read(fd, buf, len);
}

static int read_all(int poll_fd, int fd, void *buf, size_t len)
{
	char *at = buf;

	while (len > 0) {
		ssize_t n = bench_poll(poll_fd, fd, at, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ECONNRESET;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

int bench_read_all(int fd, void *buf, size_t len)
{
	return read_all(0, fd, buf, len);
}

static int check(const char *answer, const struct stream *s, uint32_t page)
{
	uint64_t stamp;

	memcpy(&stamp, answer + s->data_offset, sizeof(stamp));
	if (s->answer_page)
		page = s->answer_page(answer);
	return stamp == bench_stamp(page) ? 0 : -EILSEQ;
}

int stream_latency(const struct stream *s, const struct bench_opts *opts, uint32_t n, uint64_t *ns)
{
	uint32_t seed = 12345;
	char request[64], answer[2 * PAGE];

	for (uint32_t i = 0; i < n; i++) {
		uint32_t page = bench_next_page(&seed, opts->pages);
		uint64_t t0 = bench_now();
		size_t len = s->request(request, page, i);
		int err = bench_write_all(s->fd, request, len);

		if (!err)
			err = read_all(s->poll_fd, s->fd, answer, s->answer_len);
		ns[i] = bench_now() - t0;
		if (!err)
			err = check(answer, s, page);
		if (err)
			return err;
	}
	return 0;
}

/* Keep window requests outstanding; as many new ones in one write as answers came in one read. */
int stream_throughput(const struct stream *s, const struct bench_opts *opts, double *per_second)
{
	size_t room = (size_t)s->answer_len * opts->window, have = 0;
	uint32_t ask_seed = 777, check_seed = 777;
	uint64_t seq = 0, answered = 0, t0 = bench_now(),
		 end = t0 + (uint64_t)(opts->seconds * 1e9);
	char *in = malloc(room), *out = malloc((size_t)64 * opts->window);
	unsigned ask = opts->window, outstanding = 0;
	int err = in && out ? 0 : -ENOMEM;

	while (!err && (outstanding || ask)) {
		size_t len = 0, at = 0;

		for (; ask > 0; ask--, outstanding++)
			len +=
			    s->request(out + len, bench_next_page(&ask_seed, opts->pages), seq++);
		if (len)
			err = bench_write_all(s->fd, out, len);
		ssize_t n = err ? 0 : bench_poll(s->poll_fd, s->fd, in + have, room - have);

		if (n <= 0) {
			err = err ? err : -ECONNRESET;
			break;
		}
		have += (size_t)n;
		for (; !err && have - at >= s->answer_len; at += s->answer_len) {
			err = check(in + at, s, bench_next_page(&check_seed, opts->pages));
			outstanding--;
			answered++;
			ask++;
		}
		memmove(in, in + at, have - at);
		have -= at;
		if (bench_now() >= end)
			ask = 0;
	}
	*per_second = (double)answered * 1e9 / (double)(bench_now() - t0);
	free(in);
	free(out);
	return err;
}
