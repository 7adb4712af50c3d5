/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Well-known servers used as page stores: memcached, redis, nbdkit's memory plugin. Each is started
 * on loopback, filled with the bench's pages, and asked for them over its own protocol with the
 * same stream client as raw TCP.
 */
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "bench.h"

/* All of them run side by side, so each has its own. */
struct store {
	pid_t server;
	struct stream stream;
};
static struct store mc = { .stream.fd = -1 }, redis = { .stream.fd = -1 },
		    nbd = { .stream.fd = -1 };

static void store_stop(struct store *store)
{
	if (store->stream.fd >= 0)
		close(store->stream.fd);
	store->stream = (struct stream){ .fd = -1 };
	bench_kill(&store->server);
}

/* What the driver calls has no argument that says which store is meant. */
#define OF_STORE(store)                                                                            \
	static int store##_latency(const struct bench_opts *opts, uint32_t n, uint64_t *ns)        \
	{                                                                                          \
		return stream_latency(&store.stream, opts, n, ns);                                 \
	}                                                                                          \
	static int store##_throughput(const struct bench_opts *opts, double *per_second)           \
	{                                                                                          \
		return stream_throughput(&store.stream, opts, per_second);                         \
	}                                                                                          \
	static void store##_stop(void)                                                             \
	{                                                                                          \
		store_stop(&store);                                                                \
	}
OF_STORE(mc)
OF_STORE(redis)
OF_STORE(nbd)

static int launch(struct store *store, const struct bench_opts *opts, char *const argv[],
		  unsigned port, const char **why)
{
	store->server = bench_spawn(opts, opts->server_cpu, argv);
	*why = "it did not start (is the package installed?)";
	store->stream.fd = bench_connect(port);
	return store->stream.fd < 0 ? store->stream.fd : 0;
}

/* Store each page with one request of head + page + tail and read an answer of a known length. */
static int fill(const struct store *store, const struct bench_opts *opts,
		size_t (*head)(char *, uint32_t), const char *tail, size_t tail_len,
		size_t answer_len)
{
	char buf[PAGE + 128], answer[64];

	for (uint32_t i = 0; i < opts->pages; i++) {
		size_t len = head(buf, i);
		int err;

		bench_fill(buf + len, i);
		memcpy(buf + len + PAGE, tail, tail_len);
		err = bench_write_all(store->stream.fd, buf, len + PAGE + tail_len);
		if (!err)
			err = bench_read_all(store->stream.fd, answer, answer_len);
		if (err)
			return err;
	}
	return 0;
}

/* ---- memcached, text protocol ---- */

static size_t mc_get(char *buf, uint32_t page, uint64_t seq)
{
	return (size_t)sprintf(buf, "get p%07u\r\n", page);
}

static size_t mc_set(char *buf, uint32_t page)
{
	return (size_t)sprintf(buf, "set p%07u 0 0 %u\r\n", page, PAGE);
}

static int mc_start(const struct bench_opts *opts, const char **why)
{
	unsigned port = bench_free_port();
	char ports[16], mem[16];
	char *argv[] = { "memcached", "-l", "127.0.0.1", "-p", ports, "-U", "0",  "-u",
			 "root",      "-m", mem,         "-t", "1",   "-I", "1m", NULL };
	int err;

	snprintf(ports, sizeof(ports), "%u", port);
	snprintf(mem, sizeof(mem), "%u", opts->pages / 256 * 3 + 64);
	err = launch(&mc, opts, argv, port, why);
	mc.stream.request = mc_get;
	mc.stream.data_offset = sizeof("VALUE p0000000 0 4096\r\n") - 1;
	mc.stream.answer_len = mc.stream.data_offset + PAGE + sizeof("\r\nEND\r\n") - 1;
	return err ? err : fill(&mc, opts, mc_set, "\r\n", 2, sizeof("STORED\r\n") - 1);
}

const struct contender contender_memcached = {
	.name = "memcached",
	.what = "get of a 4 KiB value, text protocol, one thread",
	.start = mc_start,
	.latency = mc_latency,
	.throughput = mc_throughput,
	.stop = mc_stop,
};

/* ---- redis ---- */

static size_t redis_get(char *buf, uint32_t page, uint64_t seq)
{
	return (size_t)sprintf(buf, "*2\r\n$3\r\nGET\r\n$8\r\np%07u\r\n", page);
}

static size_t redis_set(char *buf, uint32_t page)
{
	return (size_t)sprintf(buf, "*3\r\n$3\r\nSET\r\n$8\r\np%07u\r\n$%u\r\n", page, PAGE);
}

static int redis_start(const struct bench_opts *opts, const char **why)
{
	unsigned port = bench_free_port();
	char ports[16];
	char *argv[] = { "redis-server", "--bind", "127.0.0.1",   "--port", ports, "--save", "",
			 "--appendonly", "no",     "--daemonize", "no",     NULL };
	int err;

	snprintf(ports, sizeof(ports), "%u", port);
	err = launch(&redis, opts, argv, port, why);
	redis.stream.request = redis_get;
	redis.stream.data_offset = sizeof("$4096\r\n") - 1;
	redis.stream.answer_len = redis.stream.data_offset + PAGE + 2;
	return err ? err : fill(&redis, opts, redis_set, "\r\n", 2, sizeof("+OK\r\n") - 1);
}

const struct contender contender_redis = {
	.name = "redis",
	.what = "GET of a 4 KiB value",
	.start = redis_start,
	.latency = redis_latency,
	.throughput = redis_throughput,
	.stop = redis_stop,
};

/* ---- nbdkit: the NBD protocol, fixed newstyle, simple replies ---- */

#define NBD_REQUEST_MAGIC   0x25609513u
#define NBD_IHAVEOPT        0x49484156454F5054u
#define NBD_OPT_EXPORT_NAME 1u

struct nbd_request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t length;
} __attribute__((packed));

static size_t nbd_header(char *buf, uint16_t type, uint32_t page, uint64_t cookie)
{
	struct nbd_request r = { .magic = htobe32(NBD_REQUEST_MAGIC),
				 .type = htobe16(type),
				 .cookie = htobe64(cookie),
				 .offset = htobe64((uint64_t)page * PAGE),
				 .length = htobe32(PAGE) };

	memcpy(buf, &r, sizeof(r));
	return sizeof(r);
}

static size_t nbd_read(char *buf, uint32_t page, uint64_t seq)
{
	return nbd_header(buf, 0, page, page);
}

static uint32_t nbd_answer_page(const char *answer)
{
	uint64_t cookie;

	memcpy(&cookie, answer + 8, sizeof(cookie));
	return (uint32_t)be64toh(cookie);
}

static size_t nbd_write(char *buf, uint32_t page)
{
	return nbd_header(buf, 1, page, page);
}

/* Greeting: magic, IHAVEOPT, flags; ours: flags FIXED|NO_ZEROES, the export "": size and flags. */
static int nbd_negotiate(int fd)
{
	char greeting[18], export_info[10];
	struct {
		uint32_t flags;
		uint64_t magic;
		uint32_t option, length;
	} __attribute__((packed))
	ours = { htobe32(3), htobe64(NBD_IHAVEOPT), htobe32(NBD_OPT_EXPORT_NAME), 0 };
	int err = bench_read_all(fd, greeting, sizeof(greeting));

	if (!err)
		err = bench_write_all(fd, &ours, sizeof(ours));
	return err ? err : bench_read_all(fd, export_info, sizeof(export_info));
}

static int nbd_start(const struct bench_opts *opts, const char **why)
{
	unsigned port = bench_free_port();
	char ports[16], size[32];
	char *argv[] = { "nbdkit", "-f", "-i", "127.0.0.1", "-p", ports, "memory", size, NULL };
	int err;

	snprintf(ports, sizeof(ports), "%u", port);
	snprintf(size, sizeof(size), "%llu", (unsigned long long)opts->pages * PAGE);
	err = launch(&nbd, opts, argv, port, why);
	if (!err)
		err = nbd_negotiate(nbd.stream.fd);
	nbd.stream.request = nbd_read;
	nbd.stream.answer_page = nbd_answer_page;
	nbd.stream.data_offset = 16;
	nbd.stream.answer_len = 16 + PAGE;
	return err ? err : fill(&nbd, opts, nbd_write, "", 0, 16);
}

const struct contender contender_nbdkit = {
	.name = "nbdkit",
	.what = "4 KiB read of its memory plugin over NBD",
	.start = nbd_start,
	.latency = nbd_latency,
	.throughput = nbd_throughput,
	.stop = nbd_stop,
};
