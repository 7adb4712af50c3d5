/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The conformance suite (conformance.h): harm is done to the other side, or to the way there, while
 * operations of all kinds are under way. Whatever it is:
 *
 *     each operation ends once, and not long after its deadline
 *     it ends with 0 or with an error that says what happened: may_end_with()
 *     what it was told is right: the bytes fetched, the answer, a put that each later fetch sees
 *     afterwards operations succeed again, without a word to the library
 *     nothing is left: descriptors here and there, connections there are as before
 *
 * With GVM_CONFORMANCE_HARM, a line of shell, that is what is done, in the midst of it and until it
 * has ended: to a cable, to the machine's memory. Not over loop, whose two sides are one process.
 */
#include <spawn.h>

#include "conformance.h"

enum { SLOTS = 16, PAGE = 4096, BIG = 64 * 1024, WRITTEN_AT = MIB, BEFORE = 8, AFTER = 12 };
enum kind { PUT, FETCH, CALL, READ, KINDS };

/* One operation after the other. */
static struct slot {
	struct job job;
	int busy;
	unsigned turn; /* its kinds go round */
	enum kind kind;
	unsigned life;   /* of the server, when it was posted */
	uint64_t offset; /* its page there; 0: there are no more */
	unsigned seed;   /* of what the page has; 0: not known */
	unsigned good;   /* operations that ended well since the last count */
	uint64_t next;   /* not before */
	uint8_t *buf;    /* BIG */
} slots[SLOTS];

struct harm {
	const char *name;
	void (*begin)(void);
	int (*over)(void);
	void (*end)(void);
	int new_life; /* the server is another process then */
	int any;      /* errors of the machine too: no memory, no interface */
};

static struct gvm_mem *registered; /* buffers of every second slot */
static struct gvm_peer *peer;
static uint64_t key, begun, latest_ns, fresh; /* fresh: the first page that no slot has had */
static unsigned life, seeds, ended, failed;
static pid_t command;
extern char **environ;

/* ---- the operations ------------------------------------------------------------------------ */

static int may_end_with(const struct harm *harm, int status)
{
	if (!harm)
		return status == 0 || (cable_is_bad() && status == -ETIMEDOUT);
	switch (-status) {
	case 0:
	case ETIMEDOUT:
	case ECONNRESET:
	case ECONNREFUSED:
	case EHOSTUNREACH:
		return 1;
	case ENOENT:
		return harm->new_life;
	case ENOMEM:
	case ENETUNREACH:
	case ENETDOWN:
	case EADDRNOTAVAIL:
		return harm->any;
	default:
		return 0;
	}
}

/* What broke in the midst of a put may yet arrive, so nobody asks for that page any more. */
static void take_page(struct slot *s)
{
	s->seed = 0;
	s->offset = fresh + PAGE <= CHILD_BYTES ? fresh : 0;
	fresh += PAGE;
}

static void check_page(const struct slot *s)
{
	uint8_t want[PAGE];

	fill(want, PAGE, s->seed);
	assert_memory_equal(s->buf, want, PAGE);
}

static void ended_well(struct slot *s)
{
	s->good++;
	if (s->kind == FETCH && s->life == life)
		check_page(s);
	if (s->kind == READ)
		for (unsigned i = 0; i < BIG; i++)
			assert_int_equal(s->buf[i], CHILD_BYTE);
	if (s->kind == CALL) {
		assert_int_equal(s->job.length, sizeof(s->seed));
		assert_memory_equal(s->job.body, s->buf, sizeof(s->seed));
	}
}

static void look(struct slot *s, const struct harm *harm)
{
	int64_t late = (int64_t)(gvm_now() - s->job.op.deadline_ns);

	if (!s->job.calls) {
		assert_true(late < (int64_t)patience() / 2);
		return;
	}
	assert_int_equal(s->job.calls, 1);
	if (!may_end_with(harm, s->job.status))
		print_error("kind %d ended with %s\n", s->kind, strerror(-s->job.status));
	assert_true(may_end_with(harm, s->job.status));
	if (late > (int64_t)latest_ns)
		latest_ns = (uint64_t)late;
	s->busy = 0;
	ended++;
	if (!s->job.status) {
		ended_well(s);
		return;
	}
	failed++;
	s->next = gvm_now() + 100 * MS;
	if (s->kind == PUT && s->life == life)
		take_page(s);
}

static int post(struct slot *s, unsigned i)
{
	struct gvm_mem *mem = i % 2 ? registered : NULL;

	job_init(&s->job, 3000 * MS);
	s->kind = s->turn % KINDS;
	s->life = life;
	if (s->kind == FETCH && !s->seed)
		s->kind = PUT;
	if (s->kind <= FETCH && !s->offset)
		s->kind = READ;
	switch (s->kind) {
	case PUT:
		s->seed = ++seeds;
		fill(s->buf, PAGE, s->seed);
		return gvm_put(peer, key, s->offset, s->buf, PAGE, mem, &s->job.op);
	case FETCH:
		memset(s->buf, 0, PAGE);
		return gvm_fetch(peer, key, s->offset, s->buf, PAGE, mem, &s->job.op);
	case READ:
		memset(s->buf, 0, BIG);
		return gvm_fetch(peer, key, i * PAGE, s->buf, BIG, mem, &s->job.op);
	default:
		fill(s->buf, sizeof(s->seed), ++seeds);
		return gvm_call(
		    peer,
		    &(struct gvm_msg){ .type = HANDLE, .body = s->buf, .length = sizeof(s->seed) },
		    &s->job.op);
	}
}

static void go_on(const struct harm *harm, int more)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *s = &slots[i];
		int err;

		if (s->busy)
			look(s, harm);
		if (s->busy || !more || gvm_now() < s->next)
			continue;
		err = post(s, i);
		if (err == -EAGAIN || (err == -ENOMEM && harm && harm->any)) {
			if (s->kind == PUT)
				s->seed = 0; /* nothing of it was posted, nor is the page known */
			continue;
		}
		assert_int_equal(err, 0);
		s->busy = 1;
		s->turn++;
	}
	turn();
}

/* Until each slot has had so many ends that were good ones. */
static void all_well(unsigned times, const struct harm *harm)
{
	uint64_t end = gvm_now() + patience();

	for (unsigned i = 0; i < SLOTS; i++)
		slots[i].good = 0;
	for (unsigned i = 0; i < SLOTS; i++)
		while (slots[i].good < times) {
			go_on(harm, 1);
			assert_true(gvm_now() < end);
		}
}

static unsigned under_way(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SLOTS; i++)
		n += (unsigned)slots[i].busy;
	return n;
}

static struct held held_there(void)
{
	struct held held;
	struct job job;

	assert_int_equal(call(peer, HELD, NULL, 0, patience() / 2, &job), 0);
	until(job.calls);
	assert_int_equal(job.status, 0);
	memcpy(&held, job.body, sizeof(held));
	return held;
}

/* ---- harms --------------------------------------------------------------------------------- */

static void begin_killed(void)
{
	child_kill();
}

static int over_killed(void)
{
	return gvm_now() - begun > 300 * MS;
}

static void end_killed(void)
{
	key = child_begin(far_port);
	life++;
	fresh = WRITTEN_AT;
	for (unsigned i = 0; i < SLOTS; i++)
		take_page(&slots[i]);
}

static void begin_stopped(void)
{
	stall(1);
}

/* Until it is noticed, and some time more. */
static int over_stopped(void)
{
	return client.ended > 0 && gvm_now() - begun > 3000 * MS;
}

static void end_stopped(void)
{
	stall(0);
}

static void begin_command(void)
{
	char *argv[] = { "sh", "-c", getenv("GVM_CONFORMANCE_HARM"), NULL };

	assert_int_equal(posix_spawn(&command, "/bin/sh", NULL, NULL, argv, environ), 0);
}

static int over_command(void)
{
	int status;

	if (waitpid(command, &status, WNOHANG) != command)
		return 0;
	assert_true(WIFEXITED(status) && !WEXITSTATUS(status));
	return 1;
}

static void end_nothing(void)
{
}

static void mem_gone(void *arg)
{
	++*(unsigned *)arg;
}

static const struct harm killed = { "killed", begin_killed, over_killed, end_killed, 1, 0 };
static const struct harm stopped = { "stopped", begin_stopped, over_stopped, end_stopped, 0, 0 };
static const struct harm done_by_command = {
	"the command", begin_command, over_command, end_nothing, 0, 1
};

/* ---- the cases ----------------------------------------------------------------------------- */

static uint8_t *begin_traffic(void)
{
	uint8_t *buf = malloc((size_t)SLOTS * BIG);

	memset(slots, 0, sizeof(slots));
	latest_ns = ended = failed = seeds = 0;
	fresh = WRITTEN_AT;
	key = child_begin(0);
	node_open(&client);
	assert_int_equal(gvm_mem_register(client.net, buf, (size_t)SLOTS * BIG, 0, 0, &registered),
			 0);
	for (unsigned i = 0; i < SLOTS; i++) {
		slots[i].buf = buf + (size_t)i * BIG;
		take_page(&slots[i]);
	}
	peer = ready_child();
	return buf;
}

struct before {
	struct held there;
	unsigned fds;
	const char *transport;
};

static struct before look_before(void)
{
	return (struct before){ held_there(), open_fds(), gvm_peer_transport(peer) };
}

/* The server knows of this connection alone, and neither side has more descriptors than before,
 * where they can be compared: over the same transport, with the same process. */
static int as_before(const struct before *before, const struct harm *harm)
{
	struct before now = look_before();
	int same = strcmp(now.transport, before->transport) == 0;

	return now.there.peers_open == 1 && (!same || now.fds == before->fds) &&
	       (!same || harm->new_life || now.there.fds == before->there.fds);
}

static void traffic_meets(const struct harm *harm)
{
	uint8_t *buf = begin_traffic();
	struct before before;
	unsigned gone = 0;
	uint64_t back;

	all_well(BEFORE, NULL);
	before = look_before();
	begun = gvm_now();
	harm->begin();
	while (!harm->over()) {
		go_on(harm, 1);
		assert_true(gvm_now() - begun < 4 * patience());
	}
	harm->end();
	back = gvm_now();
	all_well(AFTER, harm);
	print_message("# %s, for %u ms: %u operations, %u with an error, the latest %u ms after "
		      "its deadline; all well after %u ms more; connections that ended: %u\n",
		      harm->name, (unsigned)((back - begun) / MS), ended, failed,
		      (unsigned)(latest_ns / MS), (unsigned)((gvm_now() - back) / MS),
		      client.ended);
	while (under_way())
		go_on(harm, 0);
	until(as_before(&before, harm));
	gvm_mem_unregister(registered, mem_gone, &gone);
	until(gone);
	child_kill();
	free(buf);
}

static void the_server_is_killed(void **state)
{
	traffic_meets(&killed);
}

static void the_server_is_stopped(void **state)
{
	traffic_meets(&stopped);
}

static void a_command_does_it(void **state)
{
	traffic_meets(&done_by_command);
}

/* See patience(). */
#ifdef __SANITIZE_THREAD__
#define SET_UP_MS "30000"
#else
#define SET_UP_MS "5000"
#endif

static int setup_harm(void **state)
{
	setup_none(state);
	option("GVM_KEEPALIVE_MS", "2000");
	option("GVM_CONNECT_MS", SET_UP_MS);
	option("GVM_HANDSHAKE_MS", SET_UP_MS);
	return 0;
}

#define HARM(test) cmocka_unit_test_setup_teardown(test, setup_harm, teardown_none)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		HARM(the_server_is_killed),
		HARM(the_server_is_stopped),
	};
	const struct CMUnitTest told[] = { HARM(a_command_does_it) };
	const char *name = choose_transport(argc, argv);

	if (one_process()) {
		fprintf(stderr, "not over loop: both sides are one process\n");
		return 1;
	}
	if (getenv("GVM_CONFORMANCE_HARM"))
		return cmocka_run_group_tests_name(name, told, NULL, NULL);
	return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}
