/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * libfabric's tcp provider: fi_read of a page from registered memory of another process. The server
 * only drives progress; it sleeps in its completion queue where the provider lets it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>
#include "bench.h"

#ifdef BENCH_OFI
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_rma.h>

#define WINDOW_MAX 256u

struct side {
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_domain *domain;
	struct fid_av *av;
	struct fid_cq *cq;
	struct fid_ep *ep;
	struct fid_mr *mr;
};

/* What the server tells the client over the pipe, and the client's address back. */
struct hello {
	uint64_t addr, key;
	uint32_t name_len;
	char name[256];
};

static pid_t server;
static int pipe_fd = -1;
static struct side us;
static fi_addr_t them;
static uint64_t remote_addr, remote_key;
static char *buffers;

static int side_open(struct side *s, void *memory, size_t len, uint64_t access)
{
	struct fi_info *hints = fi_allocinfo();
	struct fi_av_attr av = { .type = FI_AV_TABLE };
	struct fi_cq_attr cq = { .format = FI_CQ_FORMAT_CONTEXT,
				 .wait_obj = FI_WAIT_UNSPEC,
				 .size = 1024 };
	int err;

	if (!hints)
		return -ENOMEM;
	hints->ep_attr->type = FI_EP_RDM;
	hints->caps = FI_MSG | FI_RMA;
	hints->mode = 0;
	hints->domain_attr->mr_mode =
	    FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
	hints->domain_attr->threading = FI_THREAD_SAFE;
	hints->fabric_attr->prov_name = strdup("tcp");
	err = fi_getinfo(FI_VERSION(1, 14), "127.0.0.1", NULL, FI_SOURCE, hints, &s->info);
	fi_freeinfo(hints);
	if (!err)
		err = fi_fabric(s->info->fabric_attr, &s->fabric, NULL);
	if (!err)
		err = fi_domain(s->fabric, s->info, &s->domain, NULL);
	if (!err)
		err = fi_av_open(s->domain, &av, &s->av, NULL);
	if (!err)
		err = fi_cq_open(s->domain, &cq, &s->cq, NULL);
	if (!err)
		err = fi_endpoint(s->domain, s->info, &s->ep, NULL);
	if (!err)
		err = fi_ep_bind(s->ep, &s->av->fid, 0);
	if (!err)
		err = fi_ep_bind(s->ep, &s->cq->fid, FI_TRANSMIT | FI_RECV);
	if (!err)
		err = fi_enable(s->ep);
	if (!err)
		err = fi_mr_reg(s->domain, memory, len, access, 0, 1, 0, &s->mr, NULL);
	return err;
}

static void side_close(struct side *s)
{
	struct fid *all[] = {
		s->mr ? &s->mr->fid : NULL,         s->ep ? &s->ep->fid : NULL,
		s->cq ? &s->cq->fid : NULL,         s->av ? &s->av->fid : NULL,
		s->domain ? &s->domain->fid : NULL, s->fabric ? &s->fabric->fid : NULL
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (all[i])
			fi_close(all[i]);
	if (s->info)
		fi_freeinfo(s->info);
	memset(s, 0, sizeof(*s));
}

static int say_hello(const struct side *s, int fd, const void *memory)
{
	struct hello h = { 0 };
	size_t len = sizeof(h.name);
	int err = fi_getname(&s->ep->fid, h.name, &len);

	if (err)
		return err;
	h.name_len = (uint32_t)len;
	h.addr = s->info->domain_attr->mr_mode & FI_MR_VIRT_ADDR ? (uintptr_t)memory : 0;
	h.key = fi_mr_key(s->mr);
	return bench_write_all(fd, &h, sizeof(h));
}

static void server_main(int fd, const struct bench_opts *opts)
{
	size_t len = (size_t)opts->pages * PAGE;
	char *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct side s = { 0 };
	struct hello client;
	struct fi_cq_entry entry;
	fi_addr_t addr;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	bench_pin(opts->server_cpu);
	if (memory == MAP_FAILED)
		_exit(1);
	for (uint32_t i = 0; i < opts->pages; i++)
		bench_fill(memory + (size_t)i * PAGE, i);
	if (side_open(&s, memory, len, FI_REMOTE_READ) || say_hello(&s, fd, memory) ||
	    bench_read_all(fd, &client, sizeof(client)) ||
	    fi_av_insert(s.av, client.name, 1, &addr, 0, NULL) != 1)
		_exit(1);
	for (;;)
		fi_cq_sread(s.cq, &entry, 1, NULL, -1);
}

static int start(const struct bench_opts *opts, const char **why)
{
	struct hello h;
	int fds[2], err;

	*why = "no socket pair";
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return -errno;
	server = fork();
	if (server == 0) {
		close(fds[0]);
		server_main(fds[1], opts);
	}
	close(fds[1]);
	pipe_fd = fds[0];
	*why = "libfabric has no tcp provider here";
	buffers = aligned_alloc(PAGE, (size_t)WINDOW_MAX * PAGE);
	err = bench_read_all(pipe_fd, &h, sizeof(h));
	if (!err)
		err = side_open(&us, buffers, (size_t)WINDOW_MAX * PAGE, FI_READ | FI_WRITE);
	if (!err)
		err = say_hello(&us, pipe_fd, buffers);
	if (!err && fi_av_insert(us.av, h.name, 1, &them, 0, NULL) != 1)
		err = -EINVAL;
	remote_addr = h.addr;
	remote_key = h.key;
	return err;
}

static int post(uint32_t page, unsigned slot)
{
	ssize_t err;

	do {
		err = fi_read(us.ep, buffers + (size_t)slot * PAGE, PAGE, fi_mr_desc(us.mr), them,
			      remote_addr + (uint64_t)page * PAGE, remote_key,
			      (void *)(uintptr_t)slot);
		if (err == -FI_EAGAIN)
			fi_cq_read(us.cq, NULL, 0);
	} while (err == -FI_EAGAIN);
	return (int)err;
}

static int reap(struct fi_cq_entry *entries, size_t n)
{
	ssize_t got;

	do
		got = fi_cq_sread(us.cq, entries, n, NULL, -1);
	while (got == -FI_EAGAIN);
	return (int)got;
}

static int verify(unsigned slot, uint32_t page)
{
	uint64_t stamp;

	memcpy(&stamp, buffers + (size_t)slot * PAGE, sizeof(stamp));
	return stamp == bench_stamp(page) ? 0 : -EILSEQ;
}

static int latency(const struct bench_opts *opts, uint32_t n, uint64_t *ns)
{
	uint32_t seed = 12345;
	struct fi_cq_entry entry;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t page = bench_next_page(&seed, opts->pages);
		uint64_t t0 = bench_now();
		int err = post(page, 0);

		if (!err)
			err = reap(&entry, 1) == 1 ? 0 : -EIO;
		ns[i] = bench_now() - t0;
		if (!err)
			err = verify(0, page);
		if (err)
			return err;
	}
	return 0;
}

static int throughput(const struct bench_opts *opts, double *per_second)
{
	unsigned window = opts->window < WINDOW_MAX ? opts->window : WINDOW_MAX;
	uint64_t t0 = bench_now(), end = t0 + (uint64_t)(opts->seconds * 1e9), answered = 0;
	struct fi_cq_entry entries[WINDOW_MAX];
	uint32_t seed = 777, page_of[WINDOW_MAX];
	unsigned outstanding = 0;
	int err = 0;

	for (unsigned i = 0; !err && i < window; i++, outstanding++)
		err = post(page_of[i] = bench_next_page(&seed, opts->pages), i);
	while (!err && outstanding > 0) {
		int got = reap(entries, window);

		if (got < 0)
			return got;
		for (int i = 0; !err && i < got; i++) {
			unsigned slot = (unsigned)(uintptr_t)entries[i].op_context;

			err = verify(slot, page_of[slot]);
			answered++;
			outstanding--;
			if (err || bench_now() >= end)
				continue;
			err = post(page_of[slot] = bench_next_page(&seed, opts->pages), slot);
			outstanding++;
		}
	}
	*per_second = (double)answered * 1e9 / (double)(bench_now() - t0);
	return err;
}

static void stop(void)
{
	side_close(&us);
	if (pipe_fd >= 0)
		close(pipe_fd);
	pipe_fd = -1;
	free(buffers);
	buffers = NULL;
	bench_kill(&server);
}

#else

static int start(const struct bench_opts *opts, const char **why)
{
	(void)opts;
	*why = "built without libfabric";
	return -EOPNOTSUPP;
}

static int latency(const struct bench_opts *opts, uint32_t n, uint64_t *ns)
{
	(void)opts, (void)n, (void)ns;
	return -EOPNOTSUPP;
}

static int throughput(const struct bench_opts *opts, double *per_second)
{
	(void)opts, (void)per_second;
	return -EOPNOTSUPP;
}

static void stop(void)
{
}

#endif

const struct contender contender_ofi = {
	.name = "libfabric tcp",
	.what = "fi_read of 4 KiB over libfabric's tcp provider, reliable datagrams",
	.start = start,
	.latency = latency,
	.throughput = throughput,
	.stop = stop,
};
