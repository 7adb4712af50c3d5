/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A connection over one-sided hardware (rma.c), before its handshake or past it: the input is what
 * the other side sends, cell by cell, and in between what this side does and its hardware: it
 * fetches and puts, works end well or not, memory is withdrawn, time passes. Cells come as they are
 * in the input, or with a header that is whole, so that what is behind it is reached. Whatever
 * comes, the fabric is asked for nothing that it must not be asked for, the hardware is given no
 * memory but registered one, each operation ends once, and in the end all is given back.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "input.h"
#include "providers/rma.h"

#define MEM   20000u
#define KEY   5
#define OPS   4u
#define BYTES 8192u /* of an operation */
#define WORKS (2 * GVM_RMA_WORKS)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct gvm_mem {
	int refs;
};

struct gvm_host {
	struct gvm_net_stats stats;
	struct gvm_mem mem;
	uint8_t *base; /* of its own: what is written beside it is seen */
	uint64_t now, clock;
	struct gvm_mem_user *user; /* who holds it */
	unsigned holds;
	int withdrawn, closed;
};

struct fuzz_ep {
	struct gvm_rma_ep rma; /* first */
	int ended;
	unsigned receives;
};

static struct gvm_host host;
static struct gvm_rma *rma;
static struct fuzz_ep *end;
static struct gvm_rma_work *works[WORKS]; /* in the hardware, in order */
static unsigned works_n, regs;
static uint64_t last_key;
static struct gvm_op ops[OPS];
static uint8_t *op_bytes[OPS];

static void check(int good)
{
	if (!good)
		abort();
}

/* ---- the fabric ---------------------------------------------------------------------------- */

static int fabric_open(struct gvm_rma *r, const char *args)
{
	rma = r;
	return 0;
}

static void fabric_stop(struct gvm_rma *r)
{
	works_n = 0;
}

static void fabric_close(struct gvm_rma *r)
{
}

static int fabric_receives(struct gvm_rma_ep *ep, unsigned n)
{
	check(!end->ended && n >= GVM_RMA_FIRST && n <= GVM_RMA_RECVS);
	end->receives = n;
	return 0;
}

static struct gvm_rma_fabric fabric;

static void fabric_disconnect(struct gvm_rma_ep *ep, int orderly)
{
	check(!end->ended);
	end->ended = 1;
	if (fabric.takes_back)
		works_n = 0;
}

static int fabric_post(struct gvm_rma_ep *ep, struct gvm_rma_work *work)
{
	uint64_t at = (uintptr_t)work->buf;

	check(!end->ended && work->ep == ep);
	check(at >= work->reg->base && work->len <= work->reg->len &&
	      at - work->reg->base <= work->reg->len - work->len);
	check(work->kind != GVM_RMA_SEND ||
	      (work->len >= GVM_RMA_CELL_HDR && work->len <= GVM_RMA_CELL));
	if (works_n == WORKS)
		return -EAGAIN;
	works[works_n++] = work;
	return 0;
}

static void fabric_ring(struct gvm_rma *r)
{
}

static int fabric_poll(struct gvm_rma *r)
{
	return 0;
}

static int fabric_arm(struct gvm_rma *r)
{
	return 0;
}

static int fabric_reg(struct gvm_rma *r, struct gvm_rma_ep *ep, void *at, size_t len,
		      unsigned access, struct gvm_rma_reg *reg)
{
	reg->key = ++last_key;
	reg->base = (uintptr_t)at;
	reg->len = len;
	reg->mr = reg;
	regs++;
	return 0;
}

static void fabric_dereg(struct gvm_rma *r, struct gvm_rma_reg *reg)
{
	regs -= reg->mr != NULL;
	reg->mr = NULL;
}

static struct gvm_rma_fabric fabric = { .name = "fuzz",
					.what = "what a fuzzer says it is",
					.prov_size = sizeof(struct gvm_rma),
					.ep_size = sizeof(struct fuzz_ep),
					.work_size = sizeof(struct gvm_rma_work),
					.open = fabric_open,
					.stop = fabric_stop,
					.close = fabric_close,
					.receives = fabric_receives,
					.disconnect = fabric_disconnect,
					.post = fabric_post,
					.ring = fabric_ring,
					.poll = fabric_poll,
					.arm = fabric_arm,
					.reg = fabric_reg,
					.dereg = fabric_dereg };

/* The oldest work ends. A read has brought something. */
static void work_ends(int status)
{
	struct gvm_rma_work *work;

	if (!works_n)
		return;
	work = works[0];
	memmove(works, works + 1, --works_n * sizeof(works[0]));
	if (work->kind == GVM_RMA_READ && !status)
		memset(work->buf, 0x5A, work->len);
	gvm_rma_done(work, status);
	if (status && !end->ended)
		gvm_rma_broken(&end->rma, -ECONNRESET, "a work has failed");
}

/* ---- core ---------------------------------------------------------------------------------- */

static void accepted(struct gvm_host *h, struct gvm_listener *listener, struct gvm_ep *ep)
{
}

static int message(struct gvm_ep *ep, const struct gvm_hdr *hdr, const void *payload)
{
	return hdr->type == GVM_T_REFUSED ? -EACCES : 0;
}

static void writable(struct gvm_ep *ep)
{
}

static void closed(struct gvm_ep *ep, int why, const char *reason)
{
	check(why < 0 && !host.closed);
	host.closed = 1;
}

static void completed(struct gvm_ep *ep, struct gvm_op *op, int status)
{
	check(op->kind != GVM_OP_IDLE && status <= 0);
	op->kind = GVM_OP_IDLE;
}

static int watch(struct gvm_host *h, struct gvm_watch *w, uint32_t events)
{
	return 0;
}

static void unwatch(struct gvm_host *h, struct gvm_watch *w)
{
}

static uint64_t now(struct gvm_host *h)
{
	return h->clock = h->now;
}

static const uint64_t *clock_of(struct gvm_host *h)
{
	return &h->clock;
}

static int mem_get(struct gvm_host *h, uint64_t key, uint64_t owner, unsigned access,
		   uint64_t offset, uint64_t len, void **at, struct gvm_mem **mem)
{
	if (key != KEY || h->withdrawn)
		return -ENOENT;
	if (offset > MEM || len > MEM - offset)
		return -ERANGE;
	h->mem.refs++;
	*at = h->base + offset;
	*mem = &h->mem;
	return 0;
}

static void mem_put(struct gvm_mem *mem)
{
	check(mem->refs-- > 0);
}

static int mem_hold(struct gvm_host *h, uint64_t key, uint64_t owner, struct gvm_mem_user *user)
{
	if (key != KEY || h->withdrawn)
		return key == KEY + 1 ? -EOPNOTSUPP : -ENOENT;
	check(!h->user);
	h->user = user;
	h->holds++;
	user->base = h->base;
	user->len = MEM;
	user->access = GVM_ACCESS_FETCH | GVM_ACCESS_PUT;
	return 0;
}

static void mem_release(struct gvm_mem_user *user)
{
	check(host.holds-- > 0 && user == host.user);
	host.user = NULL;
}

static int mem_hold_local(struct gvm_mem *mem, struct gvm_mem_user *user)
{
	return -ENOENT;
}

static void wake(struct gvm_host *h)
{
}

static struct gvm_net_stats *stats(struct gvm_host *h)
{
	return &h->stats;
}

static const struct gvm_host_ops up = { .accepted = accepted,
					.message = message,
					.writable = writable,
					.closed = closed,
					.completed = completed,
					.watch = watch,
					.unwatch = unwatch,
					.now = now,
					.clock = clock_of,
					.mem_get = mem_get,
					.mem_put = mem_put,
					.mem_hold = mem_hold,
					.mem_release = mem_release,
					.mem_hold_local = mem_hold_local,
					.wake = wake,
					.stats = stats };

static const struct gvm_provider_ops self = { .name = "fuzz", GVM_RMA_OPS };

/* ---- what happens -------------------------------------------------------------------------- */

/* In memory of its own: reading past it is seen. */
static void cell_comes(const uint8_t *bytes, uint32_t len)
{
	uint8_t *cell = malloc(len ? len : 1);

	memcpy(cell, bytes, len);
	gvm_rma_cell(&end->rma, cell, len);
	free(cell);
}

/* So many bytes, or what is left of them. */
static uint32_t take(struct input *in, uint8_t *to, uint32_t len)
{
	if (len > in->left)
		len = (uint32_t)in->left;
	memcpy(to, in->at, len);
	in->at += len;
	in->left -= len;
	return len;
}

static void raw_cell(struct input *in)
{
	static uint8_t bytes[GVM_RMA_CELL];
	uint32_t len = byte(in);

	cell_comes(bytes, take(in, bytes, len));
}

/* Its body is of the input, and longer where a put's bytes are wanted. */
static void whole_cell(struct input *in)
{
	static uint8_t bytes[GVM_RMA_CELL];
	struct gvm_cell cell = { .flags = byte(in) & GVM_CELL_RECALL, .credits = byte(in) & 31 };
	uint32_t len, more;

	cell.returned = byte(in) & 31;
	len = byte(in);
	more = byte(in) & 15;
	gvm_cell_encode(bytes, &cell);
	len = GVM_RMA_CELL_HDR + take(in, bytes + GVM_RMA_CELL_HDR, len);
	more = more * 256 < sizeof(bytes) - len ? more * 256 : (uint32_t)sizeof(bytes) - len;
	memset(bytes + len, 0x5A, more);
	cell_comes(bytes, len + more);
}

static void begin_op(struct input *in, enum gvm_op_kind kind)
{
	unsigned i = byte(in) % OPS;
	struct gvm_op *op = &ops[i];
	uint8_t size = byte(in);
	int err;

	if (op->kind != GVM_OP_IDLE || !end->rma.conn || host.closed || end->ended)
		return;
	memset(op, 0, sizeof(*op));
	op->kind = (uint8_t)kind;
	op->key = 3 + size % 2;
	op->offset = size * 16u;
	op->buf = op_bytes[i];
	op->len = 1 + size * 32u;
	op->xid = i + 1;
	op->expires = host.now + 5000000000ull;
	err =
	    kind == GVM_OP_FETCH ? gvm_rma_fetch(&end->rma.ep, op) : gvm_rma_put(&end->rma.ep, op);
	check(!err || err == -EAGAIN);
	if (err)
		op->kind = GVM_OP_IDLE;
}

static void cancel(struct input *in)
{
	struct gvm_op *op = &ops[byte(in) % OPS];

	if (op->kind == GVM_OP_IDLE || end->ended)
		return;
	if (!gvm_rma_cancel(&end->rma.ep, op)) {
		op->kind = GVM_OP_IDLE;
		return;
	}
	gvm_rma_shut(&end->rma.ep, -ECONNRESET);
	host.closed = 1;
}

static void withdraw(void)
{
	struct gvm_mem_user *user = host.user;

	if (host.withdrawn)
		return;
	host.withdrawn = 1;
	if (user)
		user->withdrawn(user);
}

static void step(struct input *in)
{
	switch (byte(in) % 10) {
	case 0:
		raw_cell(in);
		break;
	case 1:
	case 2:
		whole_cell(in);
		break;
	case 3:
		work_ends(0);
		break;
	case 4:
		work_ends(byte(in) < 16 ? -EIO : 0);
		break;
	case 5:
		begin_op(in, GVM_OP_FETCH);
		break;
	case 6:
		begin_op(in, GVM_OP_PUT);
		break;
	case 7:
		cancel(in);
		break;
	case 8:
		withdraw();
		break;
	default:
		host.now += byte(in) * 4000000ull;
		host.clock = 0;
	}
}

static void prepare(uint8_t way)
{
	memset(&host, 0, sizeof(host));
	memset(ops, 0, sizeof(ops));
	host.now = 1;
	host.base = calloc(1, MEM);
	for (unsigned i = 0; i < OPS; i++)
		op_bytes[i] = calloc(1, BYTES);
	works_n = regs = 0;
	fabric.takes_back = way & 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = { data, len };
	struct gvm_listener listener = { 0 };
	struct gvm_prov *prov;
	uint8_t way = byte(&in);

	prepare(way);
	if (gvm_rma_open(&fabric, &self, &host, &up, "", &prov))
		abort();
	rma->hides_refusals = way >> 1 & 1;
	rma->no_writes = way >> 2 & 1;
	end = (struct fuzz_ep *)gvm_rma_accept(rma);
	check(end != NULL);
	gvm_rma_accepted(&listener, &end->rma);
	if (way & 8)
		gvm_rma_allow(&end->rma.ep);
	/* the endpoint's memory stays until the next round is over */
	while (in.left && !end->ended) {
		for (unsigned n = 0; n < 4 && in.left && !end->ended; n++)
			step(&in);
		if (!end->ended)
			gvm_rma_progress(prov);
		else
			break;
		gvm_rma_flush(prov);
	}
	if (!end->ended)
		gvm_rma_shut(&end->rma.ep, -ECANCELED);
	for (unsigned i = 0; i < OPS; i++)
		check(ops[i].kind == GVM_OP_IDLE);
	gvm_rma_close(prov);
	check(host.mem.refs == 0 && host.holds == 0 && regs == 0);
	for (unsigned i = 0; i < OPS; i++)
		free(op_bytes[i]);
	free(host.base);
	return 0;
}
