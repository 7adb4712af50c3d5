/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The conformance suite: what gvmnet.h promises, shown through the public API alone, for whatever
 * transport is named (first argument, else GVM_CONFORMANCE, else tcp). A provider is done when
 * these pass over it:
 *
 *     test_conformance loop             messages, memory, ends, threads
 *     test_conformance_process loop     the other side is killed, stopped or cut off
 *     test_conformance_harm tcp         and traffic goes on before, meanwhile and afterwards
 *     test_conformance loop+tcp tcp     the servers have this alone: everything over a fallback
 *     test_conformance_stranger         with raw sockets, so for tcp alone
 *
 * GVM_CONFORMANCE_TEST=NAME, with * and ?: these tests alone.
 *
 * Hardware that does not reach 127.0.0.1 wants an address of its own: GVM_CONFORMANCE_HOST, where
 * servers listen. They may be another machine's, which that address is of; a port there is chosen
 * for orders to them (conformance_server.h), and both have the same key:
 *
 *     there:  GVM_CONFORMANCE_HOST=A GVM_KEY_FILE=K test_conformance --serve PORT verbs
 *     here:   GVM_CONFORMANCE_HOST=A GVM_KEY_FILE=K GVM_CONFORMANCE_OTHER=PORT test_conformance
 * verbs
 *
 *     both:   test_conformance --apart tcp, which has the servers in a process of their own
 *
 * GVM_CONFORMANCE_CABLE=bad: what is between the two loses packets, so a word of the other side's
 * end may be lost too, and who waits for it has its own timers alone.
 */
#ifndef GVM_TESTS_CONFORMANCE_H
#define GVM_TESTS_CONFORMANCE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "conformance_server.h"
#include "providers/provider.h" /* the loop transport's stall, and frames for the raw socket */

static struct node client;
static unsigned fds_before, far_fds_before;
static unsigned far_port; /* of server 0, or of the process that serves */
static int used_before;

/* Cases that need another process, or a socket, are passed over where the transport has none. */
static inline int one_process(void)
{
	return strcmp(transport, "loop") == 0;
}

/* The servers are another machine's: a word to them takes a while, and so does one from them. */
static inline int elsewhere(void)
{
	return far_fd >= 0;
}

static inline int cable_is_bad(void)
{
	return getenv("GVM_CONFORMANCE_CABLE") != NULL;
}

/* Ten seconds are for ever, where the machine is a real one and nobody watches each access: the
 * endpoint that libfabric makes for tcp has 70 MiB. */
static inline uint64_t patience(void)
{
#ifdef __SANITIZE_THREAD__
	return 60000 * MS;
#endif
	return (getenv("GVM_CONFORMANCE_HOST") ? 60000 : 10000) * MS;
}

/* One turn of whoever is there; waits a little when nobody has anything to do. */
static inline void turn(void)
{
	int served = client.worker ? gvm_worker_progress(client.worker) : 0;
	int theirs = far_turn();

	if (served + (theirs > 0 ? theirs : 0))
		return;
	if (client.worker)
		gvm_worker_wait(client.worker, MS / 2);
	else if (theirs == 0)
		gvm_worker_wait(far_servers[0].worker, MS / 2);
}

#define until(cond)                                                                                \
	do {                                                                                       \
		uint64_t end_ = gvm_now() + patience();                                            \
		while (!(cond)) {                                                                  \
			turn();                                                                    \
			assert_true(gvm_now() < end_);                                             \
		}                                                                                  \
	} while (0)

/* ---- orders to the servers ----------------------------------------------------------------- */

/* The answer to the order of this number; those to others are of a case that has failed. */
static inline void far_await(uint32_t serial, struct far_answer *answer)
{
	static char in[sizeof(*answer)];
	static size_t have;
	uint64_t end = gvm_now() + 2 * patience();

	do {
		ssize_t n = recv(far_fd, in + have, sizeof(in) - have, MSG_DONTWAIT);

		if (n <= 0) {
			struct pollfd p = { far_fd, POLLIN, 0 };

			assert_true(n < 0 && errno == EAGAIN);
			assert_true(gvm_now() < end);
			if (client.worker)
				turn();
			else
				poll(&p, 1, 10);
			continue;
		}
		have += (size_t)n;
		if (have < sizeof(in))
			continue;
		have = 0;
		memcpy(answer, in, sizeof(in));
		if (answer->serial == serial)
			return;
	} while (1);
}

/* Have the servers' side do it; how things stand then. It is valid until the next one. */
static inline const struct far_answer *far_do(struct far_order order)
{
	static struct far_answer answer;
	static uint32_t serial;

	order.serial = ++serial;
	if (!elsewhere()) {
		far_obey(&order, &answer);
		return &answer;
	}
	assert_int_equal(send(far_fd, &order, sizeof(order), MSG_NOSIGNAL), sizeof(order));
	far_await(serial, &answer);
	return &answer;
}

#define far(...) far_do((struct far_order){ __VA_ARGS__ })

static inline const struct far_answer *there(void)
{
	return far(.what = FAR_LOOK);
}

static inline void server_listen(int anywhere)
{
	far_port = far(.what = FAR_LISTEN, .a = (uint64_t)anywhere)->port;
}

/* For the servers too. */
static inline void option(const char *name, const char *value)
{
	struct far_order order = { .what = FAR_OPTION };

	gvm_option_set(name, value);
	snprintf(order.text, sizeof(order.text), "%s=%s", name, value);
	far_do(order);
}

static inline void node_open(struct node *node)
{
	node_open_over(node, transport);
}

static inline int setup_none(void **state)
{
	option("GVM_BACKOFF_MIN_MS", "1");
	option("GVM_BACKOFF_MAX_MS", "20");
	fds_before = open_fds();
	return 0;
}

static inline int setup(void **state)
{
	setup_none(state);
	far_fds_before = far(.what = FAR_OPEN)->fds;
	node_open(&client);
	server_listen(0);
	return 0;
}

static inline int teardown_none(void **state)
{
	node_close(&client);
	/* The libraries below the hardware's providers keep what they open at their first use. */
	if (!strcmp(transport, "tcp") || one_process() || used_before)
		assert_int_equal(open_fds(), fds_before);
	used_before = 1;
	return 0;
}

static inline int teardown(void **state)
{
	int first = strcmp(transport, "tcp") && !one_process() && !used_before;
	unsigned fds;

	node_close(&client);
	far(.what = FAR_CLOSE, .id = 1);
	fds = far(.what = FAR_CLOSE)->fds;
	if (!first)
		assert_int_equal(fds, far_fds_before);
	return teardown_none(state);
}

/*
 * The server's address as the i-th of a thousand peers: two of the same text would be one. Loopback
 * has that many addresses; of another one there are as many ways to write it, with zeros in front.
 */
static inline const char *peer_host(unsigned i, char host[64])
{
	unsigned a, b, c, d;

	if (strcmp(here, "127.0.0.1") == 0)
		snprintf(host, 64, "127.0.%u.%u", i / 250, 1 + i % 250);
	else if (sscanf(here, "%u.%u.%u.%u", &a, &b, &c, &d) == 4)
		snprintf(host, 64, "%u.0%0*o.0%0*o.0%0*o", a, i / 100 + 3, b, i / 10 % 10 + 3, c,
			 i % 10 + 3, d);
	else
		abort();
	return host;
}

static inline struct gvm_peer *the_server(void)
{
	struct gvm_peer *peer;

	assert_int_equal(gvm_peer_at(client.worker, here, far_port, &peer), 0);
	return peer;
}

static inline struct gvm_peer *ready_child(void)
{
	struct gvm_peer *peer = the_server();

	gvm_peer_connect(peer);
	until(gvm_peer_state(peer) == GVM_PEER_READY);
	return peer;
}

static inline struct gvm_peer *ready_server(void)
{
	struct gvm_peer *peer = ready_child();

	until(there()->ready);
	return peer;
}

/* ---- operations that count their ends ------------------------------------------------------ */

struct job {
	struct gvm_op op;
	int calls, status;
	uint32_t length;  /* of the answer */
	uint8_t body[16]; /* its first bytes */
};

static unsigned jobs_done;

static inline void job_done(struct gvm_op *op, int status)
{
	struct job *job = (struct job *)op;

	job->calls++;
	job->status = status;
	job->length = op->reply ? op->reply->length : 0;
	if (job->length)
		memcpy(job->body, op->reply->body,
		       job->length < sizeof(job->body) ? job->length : sizeof(job->body));
	jobs_done++;
}

static inline void job_init(struct job *job, uint64_t timeout_ns)
{
	memset(job, 0, sizeof(*job));
	job->op.done = job_done;
	job->op.deadline_ns = timeout_ns ? gvm_now() + timeout_ns : 0;
}

static inline int fetch(struct gvm_peer *peer, uint64_t key, uint64_t offset, void *buf,
			uint32_t len)
{
	struct job job;

	job_init(&job, 0);
	assert_int_equal(gvm_fetch(peer, key, offset, buf, len, NULL, &job.op), 0);
	assert_int_equal(job.calls, 0);
	until(job.calls);
	assert_int_equal(job.calls, 1);
	return job.status;
}

static inline int put(struct gvm_peer *peer, uint64_t key, uint64_t offset, const void *buf,
		      uint32_t len)
{
	struct job job;

	job_init(&job, 0);
	assert_int_equal(gvm_put(peer, key, offset, buf, len, NULL, &job.op), 0);
	assert_int_equal(job.calls, 0);
	until(job.calls);
	assert_int_equal(job.calls, 1);
	return job.status;
}

static inline int call(struct gvm_peer *peer, uint8_t type, const void *body, uint32_t len,
		       uint64_t timeout_ns, struct job *job)
{
	struct gvm_msg msg = { .type = type, .body = body, .length = len };

	job_init(job, timeout_ns);
	return gvm_call(peer, &msg, &job->op);
}

/* Memory of the server's. */
struct offer {
	size_t len;
	uint64_t key;
	unsigned id;
};

static inline void offer_open(struct offer *o, size_t len, unsigned access, uint64_t owner)
{
	const struct far_answer *answer = far(.what = FAR_OFFER, .a = len, .b = access, .c = owner);

	*o = (struct offer){ .len = len, .key = answer->key, .id = answer->id };
}

/* As fill() does here. */
static inline void offer_fill(const struct offer *o, unsigned seed)
{
	far(.what = FAR_FILL, .id = o->id, .a = seed);
}

static inline void offer_is(const struct offer *o, const void *want, size_t len)
{
	const struct far_answer *answer;

	if (!elsewhere()) { /* which says where they differ */
		assert_memory_equal(far_memories[o->id].base, want, len);
		return;
	}
	answer = far(.what = FAR_DIGEST, .id = o->id, .a = 0, .b = len);
	assert_true(answer->digest == digest_of(want, len));
}

static inline unsigned offer_gone(const struct offer *o)
{
	return there()->gone[o->id];
}

static inline void offer_withdraw(const struct offer *o)
{
	far(.what = FAR_WITHDRAW, .id = o->id);
}

static inline void offer_free(const struct offer *o)
{
	assert_int_equal(offer_gone(o), 1);
	far(.what = FAR_FREE, .id = o->id);
}

static inline void offer_close(const struct offer *o)
{
	offer_withdraw(o);
	until(offer_gone(o));
	offer_free(o);
}

#define RW (GVM_ACCESS_FETCH | GVM_ACCESS_PUT)

/* ---- a server that is a process of its own ------------------------------------------------- */

/* Its memory, of CHILD_BYTES, is offered with that key. */
static inline uint64_t child_begin(unsigned port)
{
	const struct far_answer *answer = far(.what = FAR_CHILD, .a = port);

	far_port = answer->port;
	return answer->key;
}

static inline void child_kill(void)
{
	far(.what = FAR_CHILD_KILL);
}

static inline void stall(int on)
{
	if (one_process())
		gvm_loop_set_faults(&(struct gvm_loop_faults){ .stall = on });
	else
		far(.what = on ? FAR_CHILD_STOP : FAR_CHILD_CONT);
}

/* ---- each test ----------------------------------------------------------------------------- */

#define PAIR(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

/* Who obeys may come later than who orders. */
static inline int find_other(unsigned port)
{
	uint64_t end = gvm_now() + patience();
	uint8_t secret[64];
	struct sockaddr_in sa;
	int fd;

	far_secret(secret);
	while (fd = far_socket(here, port, &sa), connect(fd, (struct sockaddr *)&sa, sizeof(sa))) {
		if (gvm_now() > end)
			abort();
		close(fd);
		poll(NULL, 0, 50);
	}
	if (send(fd, secret, sizeof(secret), MSG_NOSIGNAL) != sizeof(secret))
		abort();
	return fd;
}

static inline const char *choose_transport(int argc, char **argv)
{
	int serves = argc > 2 && !strcmp(argv[1], "--serve");
	int apart = argc > 1 && !strcmp(argv[1], "--apart");
	int names = serves ? 3 : apart ? 2 : 1;
	const char *other = getenv("GVM_CONFORMANCE_OTHER");
	static char name[128];

	if (getenv("GVM_CONFORMANCE"))
		transport = getenv("GVM_CONFORMANCE");
	if (getenv("GVM_CONFORMANCE_HOST")) {
		here = getenv("GVM_CONFORMANCE_HOST");
		gvm_option_set("GVM_OP_TIMEOUT_MS", "60000");
		gvm_option_set("GVM_CONNECT_MS", "60000");
		gvm_option_set("GVM_HANDSHAKE_MS", "60000");
	}
	if (getenv("GVM_CONFORMANCE_TEST"))
		cmocka_set_test_filter(getenv("GVM_CONFORMANCE_TEST"));
	if (argc > names)
		transport = argv[names];
	if (argc > names + 1)
		servers = argv[names + 1];
	gvm_option_set("GVM_CONNECTIONS", "0"); /* where it is not what is shown */
	if (!getenv("GVM_LOG"))
		gvm_log_set_level(GVM_LOG_ERROR);
	if (serves)
		exit(far_serve(far_accept((unsigned)atoi(argv[2]))));
	if (other)
		far_fd = find_other((unsigned)atoi(other));
	else if (apart)
		far_fd = far_apart();
	snprintf(name, sizeof(name), "conformance %s%s%s%s", transport, servers ? " to " : "",
		 servers ? servers : "", elsewhere() ? ", the servers elsewhere" : "");
	return name;
}

#endif
