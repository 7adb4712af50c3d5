/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ofi provider over libfabric's tcp and shm: all that every provider promises, and what is its
 * own. Strangers at its port are test_ofi_trust's.
 */
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ofi_itself.h" /* first: cmocka's fail() is a macro */
#include "provider_cases.h"

/* Not an error for good: what comes after ofi in GVM_TRANSPORT is to be tried. */
static void another_provider(void **state)
{
	const char *ours = node_args;
	static struct gvm_host other;
	struct conn c = { .node = &other };

	node_args = strcmp(ours, "shm") == 0 ? "tcp" : "shm";
	node_open(&other, &ofi, epfd);
	node_args = ours;
	assert_int_equal(other.ops->connect(other.prov, "127.0.0.1", server.port, &c, &c.ep), 0);
	while (!c.connected) {
		node_round(&other);
		step(5);
	}
	assert_int_equal(c.connected, -EHOSTUNREACH);
	node_close(&other);
}

/* More than ten endpoints of a process, whose names over shm are longer than those before. */
static void many_endpoints(void **state)
{
	static struct gvm_host more[12];
	struct conn c[12];
	uint64_t begun;

	for (unsigned i = 0; i < 12; i++) {
		node_open(&more[i], &ofi, epfd);
		c[i] = (struct conn){ .node = &more[i] };
		assert_int_equal(
		    more[i].ops->connect(more[i].prov, "127.0.0.1", server.port, &c[i], &c[i].ep),
		    0);
		begun = host_now(NULL);
		while (!c[i].connected && host_now(NULL) - begun < PATIENCE_NS) {
			node_round(&more[i]);
			step(1);
		}
		assert_int_equal(c[i].connected, 1);
	}
	for (unsigned i = 0; i < 12; i++) {
		more[i].ops->shut(c[i].ep, -ECANCELED);
		node_close(&more[i]);
	}
	settle();
	/* shm's names come back with process ids: none of one that is gone is kept */
	for (struct ofi_port *p = ((struct ofi_prov *)server.prov)->ports; p; p = p->next)
		assert_int_equal(p->n_addrs, strcmp(node_args, "shm") == 0 ? 0 : 12);
}

/* Who waits for a connection while the listener goes is told so. */
static void no_listener_left(void **state)
{
	struct conn c;

	dial_host(&c, "127.0.0.1");
	for (int i = 0; i < 3; i++) {
		node_round(&server);
		poll_once(epfd, 10);
	}
	server.ops->unlisten(server.listener);
	server.listener = NULL;
	until(c.connected || server.accepted);
	if (!c.connected || c.connected == 1)
		return;
	assert_int_equal(c.connected, -ECONNRESET);
}

/* Where libfabric's own code moves the bytes it cannot be stopped in the middle of a write: puts
 * are served by core, which looks at the key as it places them. Reads are one-sided. */
static void nobody_writes_past_core(void **state)
{
	struct gvm_mem *m = offer(5, 8192, GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0);
	int in_software = strcmp(node_args, "shm") == 0;
	uint8_t page[4096], buf[4096];
	struct conn c;

	memset(page, 0x77, sizeof(page));
	offer(6, 4096, GVM_ACCESS_FETCH, 0);
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_PUT, 5, 4096, page, 4096), 0);
	assert_memory_equal(m->base + 4096, page, 4096);
	assert_int_equal(server.stats.puts_served, 1);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 4096, buf, 4096), 0);
	assert_memory_equal(buf, page, 4096);
	assert_int_equal(server.stats.fetches_served, in_software);
	assert_int_equal(do_op(&c, GVM_OP_PUT, 6, 0, page, 4096), -EPERM);
	client.ops->shut(c.ep, -ECANCELED);
}

/* A connection that the server has ended: the client may not know, and what it reads stays. One
 * that the client has ended: nothing is kept. */
static void a_reader_is_waited_for(void **state)
{
	struct gvm_rma *rma = (struct gvm_rma *)server.prov;
	struct gvm_mem *m = offer(5, 8192, GVM_ACCESS_FETCH, 0);
	uint64_t begun;
	uint8_t buf[64];
	struct conn c;

	if (!rma->linger_ms || strcmp(node_args, "shm") == 0)
		return;
	assert_true(rma->late_ms < rma->linger_ms);
	rma->linger_ms = 300;
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf, 64), 0);
	begun = host_now(NULL);
	server.ops->shut(server.conns->ep, -ECONNRESET);
	server.conns->ep = NULL;
	assert_int_equal(m->refs, 1);
	withdraw(m);
	until(c.closed_calls);
	until(m->refs == 0);
	assert_true(host_now(NULL) - begun >= 300000000ull);

	rma->linger_ms = 60000;
	m = offer(7, 8192, GVM_ACCESS_FETCH, 0);
	server.accepted = 0;
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 7, 0, buf, 64), 0);
	client.ops->shut(c.ep, -ECONNRESET);
	until(server.conns->closed_calls);
	assert_int_equal(m->refs, 0);
}

/* The client is stopped while the memory is withdrawn, and does not know of it when it goes on. */
static void a_stopped_client_loses_its_reach(void **state)
{
	struct gvm_mem *m = offer(5, 8192, GVM_ACCESS_FETCH | GVM_ACCESS_PUT, 0);
	static uint8_t evil[4096], clean[8192];
	uint64_t begun;
	struct top t;
	struct conn c;

	memset(evil, 0xEE, sizeof(evil));
	((struct gvm_rma *)server.prov)->grace_ms = GVM_RMA_GRACE_MS;
	((struct gvm_rma *)server.prov)->linger_ms = GVM_RMA_GRACE_MS;
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_PUT, 5, 0, clean, 4096), 0);
	assert_int_equal(m->refs, strcmp(node_args, "shm") != 0);
	begun = host_now(NULL);
	withdraw(m);
	while (m->refs) {
		node_round(&server);
		poll_once(epfd, 20);
		assert_true(host_now(NULL) - begun < 5000000000ull);
	}
	if (strcmp(node_args, "shm") != 0)
		assert_true(host_now(NULL) - begun >= GVM_RMA_GRACE_MS * 1000000ull);
	if (c.ep) {
		assert_int_equal(post(&c, GVM_OP_PUT, &t, 5, 0, evil, 4096), 0);
		client.ops->flush(client.prov); /* before it hears what was said meanwhile */
		until(t.calls);
		assert_true(t.status == -ECONNRESET || t.status == -ENOENT);
	}
	for (int i = 0; i < 100; i++)
		step(1);
	assert_memory_equal(m->base, clean, 8192);
	if (c.ep)
		client.ops->shut(c.ep, -ECANCELED);
}

/* Each connection has a life of its own, also between the same two endpoints. */
static void again_and_again(void **state)
{
	uint8_t buf[4096];
	struct conn c;

	((struct gvm_rma *)server.prov)->linger_ms = 100;
	offer(5, 4096, GVM_ACCESS_FETCH, 0);
	memset(server.mems->base, 0x3C, 4096);
	for (unsigned i = 0; i < 100; i++) {
		server.accepted = 0;
		dial(&c);
		assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf, 4096), 0);
		assert_memory_equal(buf, server.mems->base, 4096);
		if (i % 2) {
			server.ops->shut(server.conns->ep, i % 4 == 1 ? -ECANCELED : -ECONNRESET);
			server.conns->ep = NULL;
			until(c.closed_calls);
		} else {
			client.ops->shut(c.ep, i % 4 ? -ECANCELED : -ECONNRESET);
			until(server.conns->closed_calls);
		}
	}
	until(server.mems->refs == 0);
}

/* ---- what libfabric cannot do at once ------------------------------------------------------ */

static struct fi_ops_domain *true_domain, other_domain;
static struct fi_ops_msg *true_msg, other_msg;
static int refusals; /* of calls to come */
static int answer;   /* to all that are replaced; 0: as libfabric does */

static int refuse_endpoint(struct fid_domain *domain, struct fi_info *info, struct fid_ep **ep,
			   void *context)
{
	return refusals-- > 0 ? -FI_EADDRINUSE : true_domain->endpoint(domain, info, ep, context);
}

static int refuse_av(struct fid_domain *domain, struct fi_av_attr *attr, struct fid_av **av,
		     void *context)
{
	return refusals-- > 0 ? -FI_EADDRINUSE : true_domain->av_open(domain, attr, av, context);
}

static ssize_t answer_send(struct fid_ep *ep, const void *buf, size_t len, void *desc, fi_addr_t to,
			   void *context)
{
	return answer ? answer : true_msg->send(ep, buf, len, desc, to, context);
}

static ssize_t answer_recv(struct fid_ep *ep, void *buf, size_t len, void *desc, fi_addr_t from,
			   void *context)
{
	return answer ? answer : true_msg->recv(ep, buf, len, desc, from, context);
}

static struct ofi_prov *prov_of(struct gvm_host *node)
{
	return (struct ofi_prov *)node->prov;
}

static void replace_msg(struct ofi_port *port)
{
	answer = 0;
	true_msg = port->ep->msg;
	other_msg = *true_msg;
	port->ep->msg = &other_msg;
}

/* Whatever of an endpoint there is by then, or is not. */
static void is_tried_again(struct fid_domain *domain)
{
	struct conn c;

	domain->ops = &other_domain;
	refusals = 2;
	dial(&c);
	assert_true(refusals < 0);
	client.ops->shut(c.ep, -ECANCELED);
}

static void an_address_in_use_is_tried_again(void **state)
{
	struct fid_domain *domain = prov_of(&server)->domain;

	assert_null(prov_of(&server)->ports);
	true_domain = domain->ops;
	other_domain = *true_domain;
	other_domain.endpoint = refuse_endpoint;
	is_tried_again(domain);
}

static void a_table_in_use_is_tried_again(void **state)
{
	struct fid_domain *domain = prov_of(&server)->domain;

	assert_null(prov_of(&server)->ports);
	true_domain = domain->ops;
	other_domain = *true_domain;
	other_domain.av_open = refuse_av;
	is_tried_again(domain);
}

static struct conn pair[2];

static void shut_the_other(struct conn *c)
{
	struct conn *other = &pair[c == pair];

	if (other->ep)
		client.ops->shut(other->ep, -ECANCELED);
	other->ep = NULL;
}

/* Two whose first cell cannot be sent: who hears of the one ends the other. */
static void a_first_cell_fails_and_another_is_shut(void **state)
{
	struct ofi_prov *prov = prov_of(&client);
	struct conn c;

	dial(&c);
	replace_msg(prov->ports);
	other_msg.send = answer_send;
	answer = -FI_EAGAIN;
	for (unsigned i = 0; i < 2; i++) {
		dial_host(&pair[i], "127.0.0.1");
		pair[i].on_connected = shut_the_other;
	}
	until(prov->paths && prov->paths->path_next);
	for (struct ofi_ep *ep = prov->paths; ep; ep = ep->path_next) {
		ep->path_tries = 1000;
		ep->path_at = 0;
	}
	answer = -FI_EIO;
	until(pair[0].connected || pair[1].connected);
	assert_null(pair[0].ep);
	assert_null(pair[1].ep);
	assert_int_equal(pair[0].connected + pair[1].connected, -ECONNRESET);
	assert_null(prov->paths);
	answer = 0;
	client.ops->shut(c.ep, -ECANCELED);
}

/* When there is none with libfabric, nothing that arrives has another one posted. */
static void receives_are_posted_later(void **state)
{
	struct ofi_port *port;
	unsigned heard;
	struct conn c;

	dial(&c);
	port = prov_of(&server)->ports;
	replace_msg(port);
	other_msg.recv = answer_recv;
	answer = -FI_EAGAIN;
	while (port->posted) {
		say(&c, 0, "hello", 5);
		step(1);
	}
	for (int i = 0; i < 20; i++)
		step(1);
	assert_int_equal(port->posted, 0);
	answer = 0;
	until(port->posted);
	heard = server.conns->messages;
	until(say(&c, 0, "hello", 5) == 0);
	until(server.conns->messages > heard);
	client.ops->shut(c.ep, -ECANCELED);
}

/* As after a process has died inside of shm, and libfabric cannot be opened just then: a node that
 * sleeps tries again. */
static void libfabric_is_opened_later(void **state)
{
	struct ofi_prov *prov = prov_of(&server);
	char *name = prov->info->fabric_attr->prov_name;
	uint64_t end = host_now(NULL) + PATIENCE_NS;
	char none[] = "none";
	struct conn c;

	prov->spoiled = 1;
	prov->info->fabric_attr->prov_name = none;
	node_round(&server);
	assert_null(prov->cq);
	prov->info->fabric_attr->prov_name = name;
	while (!prov->cq && host_now(NULL) < end)
		poll_once(epfd, 1000);
	assert_non_null(prov->cq);
	dial(&c);
	client.ops->shut(c.ep, -ECANCELED);
}

/* ---- gates --------------------------------------------------------------------------------- */

static int is_shm(void)
{
	return strcmp(node_args, "shm") == 0;
}

/* Another process goes into the gate of the node's endpoint; it comes out when a byte says so, or
 * dies in it. */
static pid_t go_inside(const struct gvm_host *node, int pipe_in[2], int dies)
{
	const struct ofi_port *port = ((struct ofi_prov *)node->prov)->ports;
	int pipe_out[2];
	pid_t pid;
	char byte;

	assert_int_equal(pipe(pipe_out), 0);
	pid = fork();
	if (!pid) {
		struct ofi_gate *gate = ofi_gate_open((const char *)port->name);
		int err = -EAGAIN;

		while (gate && err == -EAGAIN)
			err = ofi_gate_enter(gate);
		if (err || write(pipe_out[1], "x", 1) != 1)
			_exit(1);
		if (dies)
			_exit(0);
		if (read(pipe_in[0], &byte, 1) != 1)
			_exit(1);
		ofi_gate_leave(gate);
		_exit(0);
	}
	assert_true(pid > 0);
	close(pipe_out[1]);
	assert_int_equal(read(pipe_out[0], &byte, 1), 1);
	close(pipe_out[0]);
	return pid;
}

static void has_ended_well(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* A process that is stopped inside an endpoint of shm holds up what goes through it, and no more:
 * nobody waits for it in libfabric, and nothing is lost. */
static void a_gate_that_is_taken(void **state)
{
	const struct gvm_host *nodes[] = { &server, &client };
	uint8_t buf[8192];
	struct conn c;

	if (!is_shm())
		return;
	offer(5, 8192, GVM_ACCESS_FETCH, 0);
	memset(server.mems->base, 0x3C, 8192);
	dial(&c);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t begun = host_now(NULL);
		struct top t;
		int fds[2];
		pid_t pid;

		assert_int_equal(pipe(fds), 0);
		pid = go_inside(nodes[i], fds, 0);
		memset(buf, 0, sizeof(buf));
		assert_int_equal(post(&c, GVM_OP_FETCH, &t, 5, 0, buf, sizeof(buf)), 0);
		while (host_now(NULL) - begun < 50000000ull)
			step(1);
		assert_int_equal(t.calls, 0);
		assert_int_equal(write(fds[1], "x", 1), 1);
		until(t.calls);
		assert_int_equal(t.status, 0);
		assert_memory_equal(buf, server.mems->base, sizeof(buf));
		has_ended_well(pid);
		close(fds[0]);
		close(fds[1]);
	}
	client.ops->shut(c.ep, -ECANCELED);
}

/* Its lock of libfabric's would be there for ever: both sides' connections end, and are made again
 * to an endpoint that is another one. */
static void a_process_dies_inside(void **state)
{
	const struct gvm_host *nodes[] = { &server, &client };
	uint8_t buf[4096];
	struct conn c;

	if (!is_shm())
		return;
	offer(5, 4096, GVM_ACCESS_FETCH, 0);
	memset(server.mems->base, 0x3C, 4096);
	for (unsigned i = 0; i < 4; i++) {
		struct top t;

		server.accepted = 0;
		dial(&c);
		assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf, 4096), 0);
		assert_memory_equal(buf, server.mems->base, 4096);
		has_ended_well(go_inside(nodes[i % 2], NULL, 1));
		assert_int_equal(post(&c, GVM_OP_FETCH, &t, 5, 0, buf, 4096), 0);
		until(t.calls && c.closed_calls && server.conns->closed_calls);
		assert_int_equal(t.status, -ECONNRESET);
	}
	server.accepted = 0;
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf, 4096), 0);
	client.ops->shut(c.ep, -ECANCELED);
}

static int in_shm(const char *prefix, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "/dev/shm/%s%s", prefix, name);
	return access(path, F_OK) == 0;
}

static void make_region(const char *name)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/dev/shm/%s", name);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		_exit(1);
	close(fd);
}

/* What a process has left that is no more goes, what is another's that lives stays. */
static void what_is_left_is_swept_away(void **state)
{
	char dead[64], live[64], name[80];
	struct ofi_gate *gate;
	pid_t pid;
	int fd;

	snprintf(dead, sizeof(dead), "test-%d:dead", getpid());
	snprintf(live, sizeof(live), "test-%d:live", getpid());
	pid = fork();
	if (!pid) {
		make_region(dead);
		snprintf(name, sizeof(name), "fi_shm://%s", dead);
		_exit(ofi_gate_make(name, &gate, &fd) != 0);
	}
	has_ended_well(pid);
	make_region(live);
	snprintf(name, sizeof(name), "fi_shm://%s", live);
	assert_int_equal(ofi_gate_make(name, &gate, &fd), 0);
	assert_true(in_shm("", dead) && in_shm("gvmnet-", dead));
	ofi_gates_sweep();
	assert_false(in_shm("", dead) || in_shm("gvmnet-", dead));
	assert_true(in_shm("", live) && in_shm("gvmnet-", live));
	ofi_gate_unmake(name, gate, fd);
	assert_false(in_shm("gvmnet-", live));
	snprintf(name, sizeof(name), "/dev/shm/%s", live);
	assert_int_equal(unlink(name), 0);
}

/* ---- descriptors --------------------------------------------------------------------------- */

static unsigned told_of_descriptors;

static void hear(enum gvm_log_level level, const char *line)
{
	told_of_descriptors += strstr(line, "ulimit -n") != NULL;
}

/* libfabric says nothing when it finds none, and tries on: whoever waits for it hears why. */
static void no_descriptors_left(void **state)
{
	struct rlimit before, few;
	uint8_t buf[64];
	int fds[256];
	unsigned n = 0;
	uint64_t begun;
	struct conn c;

	offer(5, 4096, GVM_ACCESS_FETCH, 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	few = before;
	few.rlim_cur = 256;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	while ((fds[n] = fcntl(epfd, F_DUPFD_CLOEXEC, 0)) >= 0)
		n++;
	close(fds[--n]);
	close(fds[--n]); /* both ends of the TCP connection */
	told_of_descriptors = 0;
	gvm_log_set(hear);
	dial_host(&c, "127.0.0.1");
	begun = host_now(NULL);
	while (!c.connected && host_now(NULL) - begun < 300000000ull)
		step(5);
	assert_int_not_equal(c.connected, 1);
	if (!c.connected) /* as core does when the time for it is over */
		client.ops->shut(c.ep, -ETIMEDOUT);
	assert_in_range(told_of_descriptors, 1, 2); /* both sides may, once a second */
	while (n)
		close(fds[--n]);
	gvm_log_set(NULL);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	settle();
	server.accepted = 0;
	dial(&c);
	assert_int_equal(do_op(&c, GVM_OP_FETCH, 5, 0, buf, 64), 0);
	client.ops->shut(c.ep, -ECANCELED);
}

/* An earlier process had this one's number, and no gate. */
static void regions_of_before_are_swept_away(void **state)
{
	const int nobody = 1 << 30; /* no process has such a number */
	struct timespec now;
	uint64_t at;
	char name[64];

	snprintf(name, sizeof(name), "%d:%u:0", nobody, (unsigned)geteuid());
	make_region(name);
	clock_gettime(CLOCK_REALTIME, &now);
	at = (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
	ofi_regions_sweep(nobody, 0);
	ofi_regions_sweep(nobody, at); /* of the same time: it may be the process's own */
	ofi_regions_sweep(nobody - 1, at + 10000000000ull);
	assert_true(in_shm("", name));
	ofi_regions_sweep(nobody, at + 10000000000ull);
	assert_false(in_shm("", name));
}

#ifdef __SANITIZE_THREAD__
/* libfabric is built without the sanitizer, which does not see how its threads agree. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:libfabric.so.1\n";
}
#endif

static int has_provider(const char *name)
{
	struct fi_info *hints = ofi_hints(name), *list = NULL;
	int has = hints && !fi_getinfo(OFI_VERSION, NULL, NULL, 0, hints, &list);

	if (has)
		fi_freeinfo(list);
	if (hints)
		fi_freeinfo(hints);
	return has;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		/* first: numbers of shm's endpoints go on within a process */
		CASE(many_endpoints, &ofi),
		PROVIDER_CASES(&ofi),
		CASE(two_threads, &ofi),
		CASE(a_stopped_client_loses_its_reach, &ofi),
		CASE(again_and_again, &ofi),
		CASE(no_listener_left, &ofi),
		CASE(another_provider, &ofi),
		CASE(nobody_writes_past_core, &ofi),
		CASE(a_reader_is_waited_for, &ofi),
		CASE(no_descriptors_left, &ofi),
		CASE(an_address_in_use_is_tried_again, &ofi),
		CASE(a_table_in_use_is_tried_again, &ofi),
		CASE(a_first_cell_fails_and_another_is_shut, &ofi),
		CASE(receives_are_posted_later, &ofi),
		CASE(libfabric_is_opened_later, &ofi),
		CASE(a_gate_that_is_taken, &ofi),
		CASE(a_process_dies_inside, &ofi),
		CASE(what_is_left_is_swept_away, &ofi),
		CASE(regions_of_before_are_swept_away, &ofi),
	};

	node_args = argc > 1 ? argv[1] : "tcp";
	if (strcmp(node_args, "sockets") == 0 && !has_provider(node_args)) {
		puts("skipped: this libfabric has no provider sockets");
		return 77;
	}
	return cmocka_run_group_tests_name("ofi", tests, NULL, NULL);
}
