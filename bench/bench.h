/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the parts of gvm-bench share. A contender is one way to get a 4 KiB page that is not here;
 * each has a server process of its own, which it starts and ends. All of them answer the same
 * questions over the same pages: how long does one take (depth 1), how many a second with a window
 * of outstanding requests. The driver (gvm_bench.c) asks them in turns, so that a ratio compares
 * two figures taken within a second of each other.
 */
#ifndef GVM_BENCH_H
#define GVM_BENCH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PAGE 4096u

struct bench_opts {
	uint32_t pages;  /* size of the memory that is asked for, in pages */
	uint32_t ops;    /* operations a round, for latencies */
	double seconds;  /* length of a round, for throughputs */
	unsigned window; /* outstanding requests */
	int client_cpu;  /* -1: not pinned */
	int server_cpu;
	const char *memsrv;  /* path of gvm-memsrv */
	const char *scratch; /* folder for keys and sockets */
};

struct contender {
	const char *name;
	const char *what;
	/* Start the server and connect. 0, or -errno with *why a sentence (then it is left out). */
	int (*start)(const struct bench_opts *opts, const char **why);
	/* n operations one after the other, each one's ns into ns[]. */
	int (*latency)(const struct bench_opts *opts, uint32_t n, uint64_t *ns);
	/* Operations a second with opts->window outstanding, for opts->seconds. NULL: cannot. */
	int (*throughput)(const struct bench_opts *opts, double *per_second);
	void (*stop)(void);
};

extern const struct contender contender_tcp, contender_uffd, contender_epoll, contender_gvm_fetch,
    contender_gvm_fault, contender_gvm_sequential, contender_memcached, contender_redis,
    contender_nbdkit, contender_ofi, contender_hops, contender_direct;

/* helpers in util.c */
uint64_t bench_now(void);
/* The page to ask for next: the same sequence for every contender and round with the same seed. */
uint32_t bench_next_page(uint32_t *seed, uint32_t pages);
/* First bytes of page i, so that an answer can be checked: every contender serves these. */
uint64_t bench_stamp(uint32_t page);
void bench_fill(void *page, uint32_t index);
void bench_pin(int cpu);
/* Start a program (argv[0] searched in PATH) pinned to cpu; output to scratch/NAME.log. */
pid_t bench_spawn(const struct bench_opts *opts, int cpu, char *const argv[]);
void bench_kill(pid_t *pid);
/* A port of 127.0.0.1, or 0. A socket keeps it until this process ends, so that nobody else is given
 * it; who listens there with SO_REUSEADDR, as servers do, is not in its way. */
unsigned bench_free_port(void);
/* Connected blocking TCP socket to 127.0.0.1:port with no delay; tries for up to 5 s. */
int bench_connect(unsigned port);
/* An epoll that tells of bytes for fd, by edges; or -errno. */
int bench_poll_open(int fd);
/* read(), after waiting in poll_fd for bytes (0: not). */
ssize_t bench_poll(int poll_fd, int fd, void *buf, size_t len);
int bench_write_all(int fd, const void *buf, size_t len);
int bench_read_all(int fd, void *buf, size_t len);

/* A memory node with a fresh key, and the net of its client (node.c). */
struct bench_node {
	pid_t server;
	struct gvm_cluster *cluster;
	struct gvm_net *net;
};
/* For twice opts->pages. What it has begun on failure bench_node_close() ends, too. */
int bench_node_open(struct bench_node *node, const struct bench_opts *opts, const char **why);
void bench_node_close(struct bench_node *node);
/* A random key in a file of that name, replaced if it is there. 0 or -errno. */
int bench_make_key(const char *path);

/* gvm-bench --sizes: what things cost in memory, and how good the pager's choices are. Exit status.
 */
int bench_sizes(const struct bench_opts *opts);
/* gvm-bench --shared: coherent memory between two processes. Exit status. */
int bench_shared(const struct bench_opts *opts, unsigned rounds);

/* A request/answer protocol over a byte stream whose answers all have one length. */
struct stream {
	int fd;
	int poll_fd;          /* to be waited for before each read, or 0 */
	uint32_t answer_len;  /* bytes of one answer */
	uint32_t data_offset; /* where the page begins in it */
	/* Append the request for page to buf, return its length (at most 64). */
	size_t (*request)(char *buf, uint32_t page, uint64_t seq);
	/* Which page an answer is of, where answers overtake each other; NULL: they come in order.
	 */
	uint32_t (*answer_page)(const char *answer);
};
int stream_latency(const struct stream *s, const struct bench_opts *opts, uint32_t n, uint64_t *ns);
int stream_throughput(const struct stream *s, const struct bench_opts *opts, double *per_second);

#endif
