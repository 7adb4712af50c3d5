/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A stream, past its handshake: the input is what a peer sends, cut into pieces whose sizes the
 * first two bytes choose, for either of the two ways to hand them in. Headers come from the input;
 * the bytes of a put are made up, so that long ones fit in short inputs. Whatever comes, what the
 * stream keeps is bounded, it writes nothing outside the memory that it was given, references are
 * given back, and as long as it is open every whole put and fetch has been answered.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "providers/stream.h"

#define MEM  20000u
#define KEY  5
#define WIRE (128u << 10)
#define PAGE 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct gvm_mem {
	int refs;
};

struct gvm_host {
	struct gvm_net_stats stats;
	struct gvm_mem mem;
	uint8_t *base; /* of its own: what is written beside it is seen */
	unsigned answers;
};

static void check(int good)
{
	if (!good)
		abort();
}

static int mem_get(struct gvm_host *host, uint64_t key, uint64_t owner, unsigned access,
		   uint64_t offset, uint64_t len, void **at, struct gvm_mem **mem)
{
	if (key != KEY)
		return -ENOENT;
	if (offset > MEM || len > MEM - offset)
		return -ERANGE;
	host->mem.refs++;
	*at = host->base + offset;
	*mem = &host->mem;
	return 0;
}

static void mem_put(struct gvm_mem *mem)
{
	check(mem->refs-- > 0);
}

static struct gvm_net_stats *stats(struct gvm_host *host)
{
	return &host->stats;
}

static int message(struct gvm_ep *ep, const struct gvm_hdr *hdr, const void *payload)
{
	return 0;
}

static const struct gvm_host_ops up = {
	.mem_get = mem_get, .mem_put = mem_put, .stats = stats, .message = message
};

static void flush(struct gvm_stream *s)
{
	struct iovec iov[16];
	int n;

	while (gvm_stream_has_tx(s) && (n = gvm_txq_iov(s->tx, iov, 16)) > 0) {
		size_t sent = 0;

		for (int i = 0; i < n; i++)
			sent += iov[i].iov_len;
		s->env->host->answers += s->tx->answers;
		gvm_stream_sent(s, sent);
		s->env->host->answers -= s->tx->answers;
	}
	gvm_stream_rest(s);
}

static void fail(struct gvm_stream *s, int why, const char *reason)
{
	check(why < 0 && reason && *reason);
	gvm_stream_end(s, -ECONNRESET);
}

static void mapping(struct gvm_stream *s, const struct gvm_hdr *hdr, const uint8_t *body)
{
	gvm_stream_malformed(s, "there is no hardware");
}

static const struct gvm_stream_ops ops = { .flush = flush, .fail = fail, .mapping = mapping };

/* The bytes of the input, with those of each put behind its header; how many, and of how many of
 * the frames an answer is due. */
static uint32_t unfold(const uint8_t *data, size_t len, uint8_t *wire, unsigned *due)
{
	struct gvm_hdr hdr;
	uint32_t n = 0;

	for (*due = 0; len >= GVM_WIRE_HDR_LEN && !gvm_hdr_decode(data, &hdr);) {
		uint32_t body =
		    hdr.type == GVM_T_FETCH || hdr.type == GVM_T_FETCHED ? 0 : hdr.length;

		if (n + GVM_WIRE_HDR_LEN + body > WIRE)
			return n;
		memcpy(wire + n, data, GVM_WIRE_HDR_LEN);
		memset(wire + n + GVM_WIRE_HDR_LEN, 0x5A, body);
		n += GVM_WIRE_HDR_LEN + body;
		*due += hdr.type == GVM_T_FETCH || hdr.type == GVM_T_PUT;
		data += GVM_WIRE_HDR_LEN;
		len -= GVM_WIRE_HDR_LEN;
	}
	if (len > WIRE - n)
		len = WIRE - n;
	memcpy(wire + n, data, len); /* what is no header */
	return n + (uint32_t)len;
}

static void hand_in(struct gvm_stream *s, const uint8_t *bytes, uint32_t n, int appends)
{
	/* A copy of its own: reading past it is seen. */
	uint32_t had = appends ? 0 : s->part_len;
	uint8_t *rx = malloc(had + n);

	if (had)
		memcpy(rx, s->part, had);
	memcpy(rx + had, bytes, n);
	if (appends)
		gvm_stream_append(s, rx, n);
	else
		gvm_stream_take(s, rx, had + n);
	free(rx);
}

static void check_kept(const struct gvm_stream *s)
{
	if (s->rx == GVM_RX_PUT)
		check(s->part_len < (s->rx_status ? 1 : PAGE));
	else
		check(s->part_len < GVM_WIRE_HDR_LEN + GVM_WIRE_MSG_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct gvm_host host = { .base = NULL };
	struct gvm_stream_env env = { .host = &host, .up = &up, .ops = &ops };
	struct gvm_stream s = { .state = GVM_STREAM_OPEN, .allowed = 1 };
	uint32_t n, at, piece, seed;
	struct gvm_ep ep = { 0 };
	uint8_t *wire;
	unsigned due;

	if (len < 2)
		return 0;
	wire = malloc(WIRE);
	host.base = calloc(1, MEM);
	seed = data[0] | (uint32_t)data[1] << 8;
	n = unfold(data + 2, len - 2, wire, &due);
	gvm_stream_init(&s, &env, &ep);
	for (at = 0; at < n && s.state == GVM_STREAM_OPEN; at += piece) {
		piece = 1 + (seed >> 1) * 37 % 9000;
		piece = piece < n - at ? piece : n - at;
		hand_in(&s, wire + at, piece, seed & 1);
		if (s.state != GVM_STREAM_OPEN)
			break;
		check_kept(&s);
		flush(&s);
	}
	if (s.state == GVM_STREAM_OPEN) {
		check(gvm_stream_in_frame(&s) || host.answers == due);
		gvm_stream_end(&s, -ECANCELED);
	}
	check(host.mem.refs == 0);
	gvm_stream_free(&s);
	gvm_txq_pool_drain(&env.txqs);
	free(host.base);
	free(wire);
	return 0;
}
