/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The servers' side of the conformance suite (conformance.h). It does what it is ordered to, one
 * order after the other, and answers each with how things stand: far(). Where it is makes no
 * difference to the cases:
 *
 *     in this process   an order is a call of far_obey()
 *     elsewhere         it goes over a TCP connection to a program that was started with --serve,
 *                       which calls far_obey() then
 *
 * Nothing here asserts: what cannot be is the end of the process.
 */
#ifndef GVM_TESTS_CONFORMANCE_SERVER_H
#define GVM_TESTS_CONFORMANCE_SERVER_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gvmnet/gvmnet.h>

#define MIB     (1u << 20)
#define MS      1000000ull
#define HANDLE  (GVM_MSG_USER + 1u) /* answer at once, with the same body */
#define IGNORE  (GVM_MSG_USER + 2u) /* never answer */
#define ORDERED (GVM_MSG_USER + 3u) /* arg counts up from 0 */
#define HELD    (GVM_MSG_USER + 4u) /* answer with what this process holds: struct held */

static const char *transport = "tcp";
static const char *servers = NULL;     /* transport of the servers, where it is another one */
static const char *here = "127.0.0.1"; /* where servers listen: GVM_CONFORMANCE_HOST */

static inline unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 4096; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static inline void fill(uint8_t *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(seed = seed * 1103515245u + 12345u, seed >> 16);
}

/* Two memories that differ have the same one once in 2^64 times. */
static inline uint64_t digest_of(const uint8_t *p, size_t n)
{
	uint64_t h = n;

	while (n) {
		uint64_t word = 0;
		size_t part = n < sizeof(word) ? n : sizeof(word);

		memcpy(&word, p, part);
		h = (h ^ word) * 0x9E3779B97F4A7C15ull;
		h ^= h >> 29;
		p += part;
		n -= part;
	}
	return h;
}

/* ---- nodes --------------------------------------------------------------------------------- */

struct node {
	struct gvm_net *net;
	struct gvm_worker *worker;
	unsigned port;
	unsigned messages, ready, ended, rested, writable;
	uint64_t ordered;
	int last_why;
	struct gvm_peer *accepted; /* the last that became ready */
};

struct held {
	uint64_t fds, peers_open;
};

static inline void tell_held(struct node *node, struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct gvm_net_stats stats;
	struct held held = { .fds = open_fds() };
	struct gvm_msg answer = { .body = &held, .length = sizeof(held) };

	gvm_worker_stats(node->worker, &stats);
	held.peers_open = stats.peers_open;
	if (gvm_reply(peer, msg->xid, 0, &answer))
		abort();
}

static inline void on_message(void *arg, struct gvm_peer *peer, const struct gvm_msg *msg)
{
	struct node *node = arg;

	node->messages++;
	if (msg->type == ORDERED && msg->arg != node->ordered++)
		abort();
	if (msg->type == HANDLE && gvm_reply(peer, msg->xid, 0, msg))
		abort();
	if (msg->type == HELD)
		tell_held(node, peer, msg);
}

static inline void on_state(void *arg, struct gvm_peer *peer, enum gvm_peer_state state, int why)
{
	struct node *node = arg;

	if (state == GVM_PEER_READY) {
		node->ready++;
		node->accepted = peer;
		return;
	}
	node->ended += why != 0;
	node->rested += why == 0;
	node->last_why = why;
	if (node->accepted == peer)
		node->accepted = NULL;
}

static inline void on_writable(void *arg, struct gvm_peer *peer)
{
	((struct node *)arg)->writable++;
}

static inline void node_open_over(struct node *node, const char *name)
{
	struct gvm_net_config config = { .transport = name, .node = GVM_NODE_NONE, .insecure = 1 };
	struct gvm_worker_config wc = { node, on_message, on_state, on_writable, -1 };

	memset(node, 0, sizeof(*node));
	if (gvm_net_open(&config, &node->net) || gvm_worker_open(node->net, &wc, &node->worker))
		abort();
}

static inline void node_listen(struct node *node, const char *host, unsigned port)
{
	if (gvm_worker_listen(node->worker, host, port, &node->port))
		abort();
}

static inline void node_close(struct node *node)
{
	if (node->worker)
		gvm_worker_close(node->worker);
	if (node->net)
		gvm_net_close(node->net);
	memset(node, 0, sizeof(*node));
}

/* ---- orders -------------------------------------------------------------------------------- */

enum far_what {
	FAR_LOOK,        /* at how things stand */
	FAR_OPTION,      /* text: NAME=VALUE */
	FAR_OPEN,        /* server id */
	FAR_LISTEN,      /* server id; a: at all addresses, b: port (0: any) */
	FAR_UNLISTEN,    /* server id */
	FAR_CLOSE,       /* server id */
	FAR_DISCONNECT,  /* server id: whoever became ready last */
	FAR_THREADS,     /* two threads more serve at one port */
	FAR_THREADS_END, /* no more */
	FAR_OFFER,       /* a bytes of memory, all 0, with access b for owner c */
	FAR_FILL,        /* memory id: fill() with the seed a */
	FAR_DIGEST,      /* memory id: digest_of() b bytes at a */
	FAR_WITHDRAW,    /* memory id */
	FAR_FREE,        /* memory id, which is gone */
	FAR_CHILD,       /* a process more, which serves at port a (0: any) */
	FAR_CHILD_KILL,
	FAR_CHILD_STOP,
	FAR_CHILD_CONT,
};

enum { FAR_SERVERS = 2, FAR_MEMORIES = 8, CHILD_BYTES = 4 * MIB, CHILD_BYTE = 0x42 };

struct far_order {
	uint32_t serial, what, id;
	uint64_t a, b, c;
	char text[40];
};

struct far_answer {
	uint32_t serial, id, port; /* of the order; what FAR_OFFER made; where it listens */
	uint32_t fds;              /* before FAR_OPEN, after FAR_CLOSE */
	uint64_t key, digest;
	/* server 0 */
	uint32_t messages, ready;
	int32_t accepted, pins;
	uint64_t ordered;
	struct gvm_net_stats stats;
	uint32_t gone[FAR_MEMORIES]; /* how often */
};

static struct far_memory {
	struct gvm_mem *mem;
	uint8_t *base;
	size_t len;
	unsigned gone;
} far_memories[FAR_MEMORIES];

static struct far_thread {
	struct node node;
	pthread_t thread;
	atomic_int stop;
} far_threads[2];

static struct node far_servers[FAR_SERVERS];
static pid_t far_child;
static int far_fd = -1; /* to who is ordered, or orders */

static inline const char *far_transport(void)
{
	return servers ? servers : transport;
}

static inline void far_offer(struct far_answer *answer, size_t len, unsigned access, uint64_t owner)
{
	struct far_memory *m = far_memories;

	while (m->base)
		if (++m == far_memories + FAR_MEMORIES)
			abort();
	m->base = calloc(1, len);
	m->len = len;
	m->gone = 0;
	if (!m->base || gvm_mem_register(far_servers[0].net, m->base, len, access, owner, &m->mem))
		abort();
	answer->id = (uint32_t)(m - far_memories);
	answer->key = gvm_mem_key(m->mem);
}

static inline void far_gone(void *arg)
{
	struct far_memory *m = arg;

	m->gone++;
	memset(m->base, 0xDD, m->len); /* nobody may see this */
}

static inline void *far_thread(void *arg)
{
	struct far_thread *t = arg;

	while (!atomic_load(&t->stop))
		gvm_worker_wait(t->node.worker, GVM_NEVER);
	return NULL;
}

/* Two workers of one net on two threads, at one address where the transport can share it. */
static inline void far_threads_start(struct far_answer *answer)
{
	struct gvm_worker_config wc = { NULL, on_message, on_state, on_writable, -1 };

	for (int i = 0; i < 2; i++) {
		struct far_thread *t = &far_threads[i];

		memset(t, 0, sizeof(*t));
		wc.arg = &t->node;
		if (gvm_worker_open(far_servers[0].net, &wc, &t->node.worker))
			abort();
		node_listen(&t->node, "0.0.0.0", i ? far_threads[0].node.port : 0);
		if (pthread_create(&t->thread, NULL, far_thread, t))
			abort();
	}
	answer->port = far_threads[0].node.port;
}

static inline void far_threads_end(void)
{
	for (int i = 0; i < 2; i++) {
		struct far_thread *t = &far_threads[i];

		atomic_store(&t->stop, 1);
		gvm_worker_wake(t->node.worker);
		pthread_join(t->thread, NULL);
		gvm_worker_close(t->node.worker);
	}
}

/* ---- a server in a process of its own ------------------------------------------------------ */

static inline void child_main(int fd, unsigned port)
{
	struct far_answer answer = { 0 };

	if (far_fd >= 0)
		close(far_fd);
	node_open_over(&far_servers[0], far_transport());
	node_listen(&far_servers[0], here, port);
	far_offer(&answer, CHILD_BYTES, GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0);
	memset(far_memories[answer.id].base, CHILD_BYTE, CHILD_BYTES);
	answer.port = far_servers[0].port;
	if (write(fd, &answer, sizeof(answer)) != sizeof(answer))
		abort();
	close(fd);
	for (;;)
		gvm_worker_wait(far_servers[0].worker, GVM_NEVER);
}

/* Before there is a worker: it must not inherit one. */
static inline void child_start(struct far_answer *answer, unsigned port)
{
	pid_t parent = getpid();
	int fd[2];

	if (pipe(fd))
		abort();
	far_child = fork();
	if (!far_child) {
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
			_exit(1);
		close(fd[0]);
		child_main(fd[1], port);
	}
	close(fd[1]);
	if (far_child < 0 || read(fd[0], answer, sizeof(*answer)) != sizeof(*answer))
		abort();
	close(fd[0]);
}

static inline void child_signal(int signal)
{
	int status;

	if (kill(far_child, signal))
		abort();
	if (signal != SIGCONT && waitpid(far_child, &status, WUNTRACED) != far_child)
		abort();
	if (signal == SIGSTOP && !WIFSTOPPED(status))
		abort();
	if (signal == SIGKILL)
		far_child = 0;
}

/* ---- obeying ------------------------------------------------------------------------------- */

static inline void far_option(char *text)
{
	char *value = strchr(text, '=');

	if (!value)
		abort();
	*value++ = 0;
	gvm_option_set(text, value);
}

static inline void far_obey_memory(struct far_order *order, struct far_answer *answer)
{
	struct far_memory *m = &far_memories[order->id];

	if (order->what == FAR_OFFER)
		far_offer(answer, order->a, (unsigned)order->b, order->c);
	else if (order->what == FAR_FILL)
		fill(m->base, m->len, (unsigned)order->a);
	else if (order->what == FAR_DIGEST)
		answer->digest = digest_of(m->base + order->a, order->b);
	else if (order->what == FAR_WITHDRAW)
		gvm_mem_unregister(m->mem, far_gone, m);
	else if (order->what == FAR_FREE) {
		free(m->base);
		m->base = NULL;
	}
}

/* Of what a case that failed has left behind too. */
static inline void far_close(unsigned id)
{
	node_close(&far_servers[id]);
	for (int i = 0; i < FAR_MEMORIES && id == 0; i++) {
		free(far_memories[i].base);
		memset(&far_memories[i], 0, sizeof(far_memories[i]));
	}
}

static inline void far_obey_server(struct far_order *order, struct far_answer *answer)
{
	struct node *node = &far_servers[order->id];

	if (order->what == FAR_OPEN) {
		answer->fds = open_fds();
		node_open_over(node, far_transport());
	} else if (order->what == FAR_LISTEN) {
		node_listen(node, order->a ? "0.0.0.0" : here, (unsigned)order->b);
		answer->port = node->port;
	} else if (order->what == FAR_UNLISTEN) {
		gvm_worker_unlisten(node->worker);
	} else if (order->what == FAR_CLOSE) {
		far_close(order->id);
		answer->fds = open_fds();
	} else if (order->what == FAR_DISCONNECT && node->accepted) {
		gvm_peer_disconnect(node->accepted, -ECANCELED);
	}
}

static inline void far_stand(struct far_answer *answer)
{
	struct node *node = &far_servers[0];

	answer->messages = node->messages;
	answer->ready = node->ready;
	answer->ordered = node->ordered;
	answer->accepted = node->accepted != NULL;
	answer->pins = node->net && gvm_net_pins(node->net);
	if (node->worker)
		gvm_worker_stats(node->worker, &answer->stats);
	for (int i = 0; i < FAR_MEMORIES; i++)
		answer->gone[i] = far_memories[i].gone;
}

static inline void far_obey(struct far_order *order, struct far_answer *answer)
{
	static const int signals[] = { SIGKILL, SIGSTOP, SIGCONT };

	memset(answer, 0, sizeof(*answer));
	if (order->what == FAR_OPTION)
		far_option(order->text);
	else if (order->what == FAR_THREADS)
		far_threads_start(answer);
	else if (order->what == FAR_THREADS_END)
		far_threads_end();
	else if (order->what == FAR_CHILD)
		child_start(answer, (unsigned)order->a);
	else if (order->what >= FAR_CHILD_KILL)
		child_signal(signals[order->what - FAR_CHILD_KILL]);
	else if (order->what >= FAR_OFFER && order->id < FAR_MEMORIES)
		far_obey_memory(order, answer);
	else if (order->what != FAR_LOOK && order->id < FAR_SERVERS)
		far_obey_server(order, answer);
	far_stand(answer);
	answer->serial = order->serial;
}

/* One turn of the servers that are in this process; how many events, -1: there are none. */
static inline int far_turn(void)
{
	int served = -1;

	for (int i = 0; i < FAR_SERVERS; i++)
		if (far_servers[i].worker)
			served =
			    (served > 0 ? served : 0) + gvm_worker_progress(far_servers[i].worker);
	return served;
}

/* ---- another program ----------------------------------------------------------------------- */

/* Who orders must know the key, where there is one (GVM_KEY_FILE). */
static inline void far_secret(uint8_t secret[64])
{
	const char *name = getenv("GVM_KEY_FILE");
	FILE *file = name ? fopen(name, "re") : NULL;

	memset(secret, 0, 64);
	if (name && (!file || fread(secret, 1, 64, file) != 64))
		abort();
	if (file)
		fclose(file);
}

static inline int far_socket(const char *host, unsigned port, struct sockaddr_in *sa)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	*sa = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	if (fd < 0 || inet_pton(AF_INET, host, &sa->sin_addr) != 1 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)))
		abort();
	return fd;
}

static inline int far_accept(unsigned port)
{
	uint8_t want[64], got[64];
	struct sockaddr_in sa;
	int fd = far_socket(here, port, &sa), one = 1, to;

	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) || listen(fd, 1))
		abort();
	to = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	close(fd);
	far_secret(want);
	if (to < 0 || setsockopt(to, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) ||
	    recv(to, got, sizeof(got), MSG_WAITALL) != sizeof(got) ||
	    memcmp(got, want, sizeof(got)) != 0)
		abort();
	return to;
}

/* The servers' side for one program, until that has done. */
static inline int far_serve(int fd)
{
	struct far_answer answer;
	struct far_order order;
	size_t have = 0;

	far_fd = fd;
	for (;;) {
		int served = far_turn();
		struct pollfd p = { far_fd, POLLIN, 0 };
		ssize_t n;

		if (!served)
			gvm_worker_wait(far_servers[0].worker ? far_servers[0].worker
							      : far_servers[1].worker,
					MS / 2);
		if (poll(&p, 1, served < 0 ? 1000 : 0) <= 0)
			continue;
		n = recv(far_fd, (char *)&order + have, sizeof(order) - have, 0);
		if (n <= 0)
			break;
		have += (size_t)n;
		if (have < sizeof(order))
			continue;
		have = 0;
		far_obey(&order, &answer);
		if (send(far_fd, &answer, sizeof(answer), MSG_NOSIGNAL) != sizeof(answer))
			break;
	}
	if (far_child)
		child_signal(SIGKILL);
	for (unsigned i = FAR_SERVERS; i-- > 0;)
		far_close(i);
	return 0;
}

/* As another machine's would be, in a process of their own. */
static inline int far_apart(void)
{
	pid_t parent = getpid(), pid;
	int fd[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd))
		abort();
	pid = fork();
	if (pid < 0)
		abort();
	if (pid) {
		close(fd[1]);
		return fd[0];
	}
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
		_exit(1);
	close(fd[0]);
	exit(far_serve(fd[1]));
}

#endif
