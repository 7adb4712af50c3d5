/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that a stream (stream.h) serves the same frames alike however they are cut into pieces, and
 * that what it keeps of them is bounded, also where an offset is such that the end of what it
 * begins is beyond 2^64: what is inside is stored, all else is refused, and the connection goes on.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "providers/stream.h"
/* behind that, which has a member of the name of cmocka's macro fail() */
#include <cmocka.h>

#define PAGE   4096u
#define MEM    (8 * PAGE)
#define KEY    5
#define RX     (256u << 10) /* of the buffer that a provider receives to */
#define FRAMES 64

struct gvm_mem {
	int refs;
};

struct gvm_host {
	struct gvm_net_stats stats;
	struct gvm_mem mem;
	uint8_t base[MEM];
	unsigned messages;
	const char *failed;
};

/* What is sent, what has to be answered to it, and what is in the memory after it. */
struct script {
	uint8_t bytes[RX];
	uint32_t n;
	int status[FRAMES]; /* of the n-th put or fetch */
	unsigned asked, messages;
	uint8_t want[MEM];
};

struct side {
	struct gvm_host host;
	struct gvm_stream_env env;
	struct gvm_ep ep;
	struct gvm_stream s;
	uint8_t rx[RX + GVM_WIRE_HDR_LEN + GVM_WIRE_MSG_MAX];
	uint8_t tx[RX];
	size_t tx_n;
};

static struct side *side;

/* ---- what is around a stream ---------------------------------------------------------------- */

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
	assert_true(mem->refs-- > 0);
}

static struct gvm_net_stats *stats(struct gvm_host *host)
{
	return &host->stats;
}

static int message(struct gvm_ep *ep, const struct gvm_hdr *hdr, const void *payload)
{
	side->host.messages++;
	return 0;
}

static const struct gvm_host_ops up = {
	.mem_get = mem_get, .mem_put = mem_put, .stats = stats, .message = message
};

/* All that is to be sent goes at once. */
static void flush(struct gvm_stream *s)
{
	struct iovec iov[16];
	int n;

	while (gvm_stream_has_tx(s) && (n = gvm_txq_iov(s->tx, iov, 16)) > 0) {
		size_t sent = 0;

		for (int i = 0; i < n; i++) {
			assert_true(side->tx_n + iov[i].iov_len <= sizeof(side->tx));
			memcpy(side->tx + side->tx_n, iov[i].iov_base, iov[i].iov_len);
			side->tx_n += iov[i].iov_len;
			sent += iov[i].iov_len;
		}
		gvm_stream_sent(s, sent);
	}
	gvm_stream_rest(s);
}

static void broken(struct gvm_stream *s, int why, const char *reason)
{
	side->host.failed = reason;
	gvm_stream_end(s, -ECONNRESET);
}

static const struct gvm_stream_ops ops = { .flush = flush, .fail = broken };

/* ---- what is sent --------------------------------------------------------------------------- */

static void add(struct script *t, const struct gvm_hdr *hdr)
{
	assert_true(t->n + GVM_WIRE_HDR_LEN + hdr->length <= sizeof(t->bytes));
	gvm_hdr_encode(t->bytes + t->n, hdr);
	t->n += GVM_WIRE_HDR_LEN;
	for (uint32_t i = 0; i < hdr->length; i++)
		t->bytes[t->n++] = (uint8_t)(i * 7 + t->asked + 1);
}

/* A put of that, and a fetch, and a message behind them. */
static void add_all(struct script *t, uint64_t key, uint64_t offset, uint32_t len, int status)
{
	struct gvm_hdr put = {
		.type = GVM_T_PUT, .xid = t->asked, .region = key, .page = offset, .length = len
	};
	struct gvm_hdr fetch = { .type = GVM_T_FETCH,
				 .xid = t->asked + 1,
				 .region = key,
				 .page = offset,
				 .arg = status ? len : 1 };
	struct gvm_hdr msg = { .type = GVM_T_USER, .length = 100 };

	add(t, &put);
	if (!status)
		memcpy(t->want + offset, t->bytes + t->n - len, len);
	add(t, &fetch);
	assert_true(t->asked + 2 <= FRAMES);
	t->status[t->asked++] = status;
	t->status[t->asked++] = status;
	add(t, &msg);
	t->messages++;
}

static void write_script(struct script *t)
{
	static const uint64_t beyond[] = {
		MEM - 100,
		MEM,
		(uint64_t)1 << 63,
		UINT64_MAX - 20000 + 1, /* it ends at 2^64 */
		UINT64_MAX - PAGE + 1,
		UINT64_MAX - 255, /* 256 bytes are left in the last page */
		UINT64_MAX,
	};

	memset(t, 0, sizeof(*t));
	for (unsigned i = 0; i < sizeof(beyond) / sizeof(*beyond); i++) {
		add_all(t, KEY, i * 1001, 500 + i * 1000, 0);
		add_all(t, KEY, beyond[i], 20000, -ERANGE);
		add_all(t, KEY + 1, beyond[i], 300, -ENOENT);
	}
	add_all(t, KEY, 0, MEM, 0);
	add_all(t, KEY, UINT64_MAX, 1, -ERANGE);
}

/* ---- in pieces ------------------------------------------------------------------------------ */

static void begin(void)
{
	memset(side, 0, sizeof(*side));
	side->env = (struct gvm_stream_env){ .host = &side->host, .up = &up, .ops = &ops };
	gvm_stream_init(&side->s, &side->env, &side->ep);
	side->s.state = GVM_STREAM_OPEN;
	side->s.allowed = 1;
}

/* Of a put that is refused nothing is kept, and of another less than a page of it. */
static void is_bounded(const struct gvm_stream *s)
{
	if (s->rx == GVM_RX_PUT)
		assert_true(s->part_len < (s->rx_status ? 1 : PAGE));
	else
		assert_true(s->part_len < GVM_WIRE_HDR_LEN + GVM_WIRE_MSG_MAX);
}

static void serve(const struct script *t, uint32_t piece, int appends)
{
	struct gvm_stream *s = &side->s;

	for (uint32_t at = 0, n; at < t->n; at += n) {
		n = t->n - at < piece ? t->n - at : piece;
		if (appends) {
			gvm_stream_append(s, t->bytes + at, n);
		} else {
			if (s->part_len)
				memcpy(side->rx, s->part, s->part_len);
			memcpy(side->rx + s->part_len, t->bytes + at, n);
			gvm_stream_take(s, side->rx, s->part_len + n);
		}
		assert_null(side->host.failed);
		is_bounded(s);
		flush(s);
	}
	assert_int_equal(gvm_stream_in_frame(s), 0);
}

static void is_answered(const struct script *t)
{
	size_t at = 0;

	for (unsigned i = 0; i < t->asked; i++) {
		struct gvm_hdr hdr;

		assert_true(at + GVM_WIRE_HDR_LEN <= side->tx_n);
		assert_int_equal(gvm_hdr_decode(side->tx + at, &hdr), 0);
		assert_int_equal(hdr.type, i % 2 ? GVM_T_FETCHED : GVM_T_STORED);
		assert_int_equal(hdr.xid, i);
		assert_int_equal(gvm_wire_errno(hdr.status), t->status[i]);
		at += GVM_WIRE_HDR_LEN + hdr.length;
	}
	assert_int_equal(at, side->tx_n);
	assert_int_equal(side->host.messages, t->messages);
	assert_memory_equal(side->host.base, t->want, MEM);
	assert_int_equal(side->host.mem.refs, 0);
}

static void in_pieces(uint32_t piece)
{
	static struct script t;

	if (!t.n)
		write_script(&t);
	for (int appends = 0; appends < 2; appends++) {
		begin();
		serve(&t, piece, appends);
		is_answered(&t);
		gvm_stream_end(&side->s, -ECANCELED);
		gvm_stream_free(&side->s);
		gvm_txq_pool_drain(&side->env.txqs);
	}
}

static void pieces_of_every_size(void **state)
{
	static const uint32_t large[] = { 8191, 8192, 8239, 8240, 8241, 20048, 65536, RX };

	side = malloc(sizeof(*side));
	for (uint32_t piece = 1; piece < PAGE + 200; piece++)
		in_pieces(piece);
	for (unsigned i = 0; i < sizeof(large) / sizeof(*large); i++)
		in_pieces(large[i]);
	free(side);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pieces_of_every_size),
	};

	return cmocka_run_group_tests_name("stream", tests, NULL, NULL);
}
