/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The cluster's key, proven in what the connection manager carries, so that neither side's hardware
 * does anything for somebody without it:
 *
 *     connecting                                        listening
 *        request: hello, nonce                    -->
 *                                                 <--   refusal: cookie
 *        request: hello, nonce, MAC ('C')         -->
 *                                                       makes a queue pair
 *                                                 <--   answer: hello, the same nonce, MAC ('A')
 *        its queue pair may receive
 *
 * Each MAC is over the letter, the hello with the nonce, and the cookie. The listening side keeps
 * nothing of who has asked: the cookie is itself a MAC, over the nonce and the address that asks,
 * with a secret that this process has drawn and the time in steps of STEP_NS, and is made again
 * when the second request comes. So a proof is worth something for two steps at most, and from that
 * address (which on InfiniBand and RoCE is what the request says that it is); and of the two that
 * may be needed for it, the step before is tried as well.
 *
 * A proof is good once: those that were good are remembered, in a table that has a place for each
 * USED of them. So who has seen one on its way, as on iWARP it would get a queue pair with a right
 * to reads and writes by it, comes too late, as long as not so many others have come since that its
 * place is another's. Core's handshake follows in any case, whose nonces are of that connection.
 *
 * Without a key all MACs are zeros and prove nothing, and no cookie is asked for.
 *
 * A MAC is HMAC-SHA-256's first VERBS_MAC bytes (RFC 2104, 5): no more fit into a request, of which
 * InfiniBand leaves 56 bytes to programs.
 *
 * Shared by the process: the secret, drawn once, and the proofs that were used, under a lock. The
 * rest is the worker's.
 */
#include "providers/verbs.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/random.h>

#define STEP_NS    30000000000ull
#define USED       16384u /* a power of two */
#define CHALLENGES 3u /* of one connecting: its proof was late, or the other side has restarted */

static uint8_t secret[32];
static int drawn; /* 0, or -EIO */

static pthread_mutex_t used_lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t used[USED][VERBS_MAC]; /* by its first bytes */

static void draw_secret(void)
{
	drawn = getrandom(secret, sizeof(secret), 0) == sizeof(secret) ? 0 : -EIO;
}

static int is_keyed(const struct verbs *v)
{
	return v->rma.up->has_key(v->rma.host);
}

/* ---- MACs ---------------------------------------------------------------------------------- */

static int mac_of(const struct verbs *v, const void *text, size_t len, uint8_t mac[VERBS_MAC])
{
	uint8_t whole[GVM_WIRE_MAC_LEN];
	int err = v->rma.up->prove(v->rma.host, text, len, whole);

	memcpy(mac, whole, VERBS_MAC);
	return err;
}

/* Of a hello as far as its MAC. */
static int hello_mac(const struct verbs *v, char who, const struct verbs_hello *hello,
		     const uint8_t cookie[VERBS_MAC], uint8_t mac[VERBS_MAC])
{
	struct {
		uint8_t who;
		uint8_t hello[offsetof(struct verbs_hello, mac)];
		uint8_t cookie[VERBS_MAC];
	} text = { .who = (uint8_t)who };

	memcpy(text.hello, hello, sizeof(text.hello));
	memcpy(text.cookie, cookie, sizeof(text.cookie));
	return mac_of(v, &text, sizeof(text), mac);
}

/* In a time that does not tell where they differ. */
static int is_same(const uint8_t a[VERBS_MAC], const uint8_t b[VERBS_MAC])
{
	unsigned differ = 0;

	for (unsigned i = 0; i < VERBS_MAC; i++)
		differ |= a[i] ^ b[i];
	return !differ;
}

static int is_signed(const struct verbs_hello *hello)
{
	static const uint8_t zeros[VERBS_MAC];

	return !is_same(hello->mac, zeros);
}

static int check(const struct verbs *v, char who, const struct verbs_hello *hello,
		 const uint8_t cookie[VERBS_MAC])
{
	uint8_t mac[VERBS_MAC];
	int err = hello_mac(v, who, hello, cookie, mac);

	if (err)
		return err;
	return is_same(mac, hello->mac) ? 0 : -EACCES;
}

/* ---- listening ----------------------------------------------------------------------------- */

static int cookie_of(const struct verbs *v, struct rdma_cm_id *id, const uint8_t nonce[VERBS_NONCE],
		     uint64_t step, uint8_t cookie[VERBS_MAC])
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	const struct sockaddr *sa = rdma_get_peer_addr(id);
	struct {
		uint8_t who[8];
		uint8_t secret[sizeof(secret)];
		uint64_t step;
		uint8_t nonce[VERBS_NONCE];
		uint8_t address[16];
	} text = { .who = "K", .step = step };

	pthread_once(&once, draw_secret);
	memcpy(text.secret, secret, sizeof(text.secret));
	memcpy(text.nonce, nonce, sizeof(text.nonce));
	if (sa->sa_family == AF_INET)
		memcpy(text.address, &((const struct sockaddr_in *)sa)->sin_addr, 4);
	else if (sa->sa_family == AF_INET6)
		memcpy(text.address, &((const struct sockaddr_in6 *)sa)->sin6_addr, 16);
	return drawn ? drawn : mac_of(v, &text, sizeof(text), cookie);
}

/* A proof that is good: it is none the second time. */
static int use(const uint8_t mac[VERBS_MAC])
{
	uint8_t *place = used[(mac[0] | (unsigned)mac[1] << 8) & (USED - 1)];
	int err;

	pthread_mutex_lock(&used_lock);
	err = is_same(place, mac) ? -EACCES : 0;
	memcpy(place, mac, VERBS_MAC);
	pthread_mutex_unlock(&used_lock);
	return err;
}

int verbs_key_check(const struct verbs *v, struct rdma_cm_id *id, const struct verbs_hello *hello,
		    struct verbs_challenge *challenge)
{
	uint64_t step = v->rma.up->now(v->rma.host) / STEP_NS;
	int err;

	*challenge = (struct verbs_challenge){ .magic = VERBS_CHALLENGE_MAGIC,
					       .version = VERBS_HELLO_VERSION };
	if (!is_keyed(v))
		return 0;
	/* the present one last: it is what is asked for if neither is right */
	err = -EACCES;
	if (is_signed(hello)) {
		err = cookie_of(v, id, hello->nonce, step - 1, challenge->cookie);
		if (!err)
			err = check(v, 'C', hello, challenge->cookie);
	}
	if (err == -EACCES) {
		err = cookie_of(v, id, hello->nonce, step, challenge->cookie);
		if (!err && is_signed(hello))
			err = check(v, 'C', hello, challenge->cookie);
		else if (!err)
			err = hello->flags & VERBS_KEYED ? -EAGAIN : -EPERM;
	}
	return err ? err : use(hello->mac);
}

int verbs_key_answer(const struct verbs *v, const uint8_t nonce[VERBS_NONCE],
		     const uint8_t cookie[VERBS_MAC], struct verbs_hello *hello)
{
	hello->flags = is_keyed(v) ? VERBS_KEYED : 0;
	memcpy(hello->nonce, nonce, sizeof(hello->nonce));
	return hello_mac(v, 'A', hello, cookie, hello->mac);
}

/* ---- connecting ---------------------------------------------------------------------------- */

int verbs_key_ask(struct verbs_conn *conn, struct verbs_hello *hello)
{
	if (!conn->challenges &&
	    getrandom(conn->nonce, sizeof(conn->nonce), 0) != sizeof(conn->nonce))
		return -EIO;
	hello->flags = is_keyed(conn->v) ? VERBS_KEYED : 0;
	memcpy(hello->nonce, conn->nonce, sizeof(hello->nonce));
	return conn->challenges ? hello_mac(conn->v, 'C', hello, conn->cookie, hello->mac) : 0;
}

static int refuse(const struct verbs_conn *conn, const char *why)
{
	static struct gvm_log_limit limit;
	const struct gvm_rma *rma = &conn->v->rma;

	conn->ep->rma.ep.why = why;
	gvm_count(&rma->up->stats(rma->host)->handshake_refused, 1);
	gvm_log_limited(&limit, GVM_LOG_WARN, "%s: refused: %s", conn->ep->rma.ep.name, why);
	return -EACCES;
}

int verbs_key_challenged(struct verbs_conn *conn, const void *data, size_t len)
{
	const struct verbs_challenge plain = { .magic = VERBS_CHALLENGE_MAGIC,
					       .version = VERBS_HELLO_VERSION };
	const struct verbs_challenge *challenge = data;

	if (len < sizeof(*challenge) ||
	    memcmp(challenge, &plain, offsetof(struct verbs_challenge, cookie)) != 0)
		return 0;
	if (!is_keyed(conn->v))
		return refuse(conn, GVM_KEY_OF_ONE);
	if (conn->challenges == CHALLENGES ||
	    (conn->challenges && is_same(conn->cookie, challenge->cookie)))
		return refuse(conn, GVM_KEYS_DIFFER);
	memcpy(conn->cookie, challenge->cookie, sizeof(conn->cookie));
	conn->challenges++;
	return 1;
}

int verbs_key_accepted(const struct verbs_conn *conn, const struct verbs_hello *hello)
{
	int err;

	if (!is_keyed(conn->v))
		return 0;
	if (!conn->challenges)
		return refuse(conn, GVM_KEY_OF_ONE);
	if (memcmp(hello->nonce, conn->nonce, sizeof(conn->nonce)) != 0)
		return -EPROTO;
	err = check(conn->v, 'A', hello, conn->cookie);
	return err == -EACCES ? refuse(conn, GVM_KEYS_DIFFER) : err;
}
