/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The conformance suite (conformance.h): the other side is killed, stopped or says nothing. */
#include <dirent.h>
#include <sys/stat.h>
#include <time.h>

#include "conformance.h"

/* libfabric keeps devices open over a fork, and the kernel takes no commands of a child through its
 * parent's files. So over ofi:verbs there is one server, which is forked before all that, and each
 * test wants a process of its own (GVM_CONFORMANCE_TEST). */
static int can_have_another(void)
{
	return strcmp(transport, "ofi:verbs") != 0;
}

/* As files have it: what is made from here on is not older. */
static uint64_t files_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* A name that is gone by now says no. */
static int made_since(int dir, const char *name, uint64_t begun)
{
	struct stat st;

	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       (uint64_t)st.st_ctim.tv_sec * 1000000000ull + (uint64_t)st.st_ctim.tv_nsec >= begun;
}

/* What it had in shared memory goes with the next endpoint that is made. Older files of its number
 * are another's, who had that number before. */
static void nothing_is_left_of(pid_t pid, uint64_t begun)
{
	char prefix[32];
	struct dirent *entry;
	DIR *dir = opendir("/dev/shm");

	snprintf(prefix, sizeof(prefix), "%d:", pid);
	while (pid && (entry = readdir(dir))) {
		const char *name = entry->d_name;

		name += strncmp(name, "gvmnet-", 7) ? 0 : 7;
		if (strncmp(name, prefix, strlen(prefix)) == 0)
			assert_false(made_since(dirfd(dir), entry->d_name, begun));
	}
	closedir(dir);
}

static void a_killed_server(void **state)
{
	enum { N = 24 };
	struct job jobs[N], again;
	struct gvm_peer *peer;
	uint64_t key, first, begun, before;
	uint8_t *buf;
	pid_t pid;

	if (one_process())
		skip();
	buf = malloc((size_t)N * MIB);
	begun = files_now();
	key = child_begin(0);
	node_open(&client);
	for (unsigned round = 0; round < 6; round++) {
		peer = ready_child();
		first = gvm_peer_incarnation(peer);
		jobs_done = 0;
		for (unsigned i = 0; i < N; i++) {
			void *at = buf + (size_t)i * MIB;
			int err;

			memset(at, 0, MIB);
			job_init(&jobs[i], 0);
			if (i % 2)
				err = gvm_put(peer, key, (i % 4) * MIB, at, MIB, NULL, &jobs[i].op);
			else
				err =
				    gvm_fetch(peer, key, (i % 4) * MIB, at, MIB, NULL, &jobs[i].op);
			assert_int_equal(err, 0);
		}
		while (jobs_done < round)
			turn();
		pid = far_child;
		child_kill();
		until(jobs_done == N);
		for (unsigned i = 0; i < N; i++) {
			assert_int_equal(jobs[i].calls, 1);
			assert_true(jobs[i].status == 0 || jobs[i].status == -ECONNRESET);
		}
		/* on another machine it lives a little longer */
		assert_true(jobs[N - 1].status == -ECONNRESET || elsewhere());
		if (!can_have_another())
			break;
		/* the same address, another life */
		before = begun;
		begun = files_now();
		key = child_begin(far_port);
		job_init(&again, patience() / 2);
		assert_int_equal(gvm_fetch(peer, key, 7, buf, 4096, NULL, &again.op), 0);
		until(again.calls);
		assert_int_equal(again.status, 0);
		assert_int_equal(buf[0], CHILD_BYTE);
		assert_true(gvm_peer_incarnation(peer) != first);
		nothing_is_left_of(pid, before);
	}
	if (can_have_another())
		child_kill();
	free(buf);
}

/* The device of a stopped process goes on: once the key's translation is known nobody asks the
 * process for its memory. Other transports, libfabric's software too, need it to run. */
static int hardware_serves(void)
{
	return strncmp(transport, "verbs", 5) == 0 || strcmp(transport, "ofi:verbs") == 0;
}

static void all_bytes_are(const uint8_t *p, size_t n, uint8_t least, uint8_t most)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] < least || p[i] > most)
			assert_in_range(p[i], least, most);
}

enum { STOPPED_JOBS = 12, STOPPED_PUT = 0x50 };

struct stopped {
	struct job jobs[STOPPED_JOBS];
	uint8_t *buf; /* 1 MiB for each */
	uint64_t key;
	unsigned round; /* fetches; puts; both. In the first nobody has yet asked for the key */
};

static int stopped_put(const struct stopped *s, unsigned i)
{
	return s->round == 1 || (s->round == 2 && i % 2);
}

static uint8_t stopped_byte(const struct stopped *s, unsigned i)
{
	return (uint8_t)(STOPPED_PUT + s->round * STOPPED_JOBS + i);
}

/* Fetches of what nobody writes, puts all to the same place. */
static void stopped_start(struct stopped *s, struct gvm_peer *peer)
{
	for (unsigned i = 0; i < STOPPED_JOBS; i++)
		memset(s->buf + (size_t)i * MIB, stopped_put(s, i) ? stopped_byte(s, i) : 0, MIB);
	jobs_done = 0;
	for (unsigned i = 0; i < STOPPED_JOBS; i++) {
		void *at = s->buf + (size_t)i * MIB;
		struct job *job = &s->jobs[i];
		int err;

		job_init(job, (30 + i) * MS);
		if (stopped_put(s, i))
			err = gvm_put(peer, s->key, 0, at, MIB, NULL, &job->op);
		else
			err = gvm_fetch(peer, s->key, MIB, at, MIB, NULL, &job->op);
		assert_int_equal(err, 0);
	}
}

/*
 * They end at their deadlines, or before. Where hardware serves, and knows the key, one may be done
 * by then: whether a MiB takes 30 ms is a matter of the machine, and no fault. It must have the
 * right bytes then. The least byte that the puts may have left is returned.
 */
static uint8_t stopped_check(const struct stopped *s)
{
	int served = s->round && hardware_serves();
	uint8_t least = 0;

	for (unsigned i = 0; i < STOPPED_JOBS; i++) {
		const struct job *job = &s->jobs[i];

		assert_int_equal(job->calls, 1);
		/* a put that is half sent takes the connection with it */
		assert_true(job->status == -ETIMEDOUT || (s->round && job->status == -ECONNRESET) ||
			    (served && job->status == 0));
		if (job->status == 0 && stopped_put(s, i))
			least = stopped_byte(s, i);
		else if (job->status == 0)
			all_bytes_are(s->buf + (size_t)i * MIB, MIB, CHILD_BYTE, CHILD_BYTE);
	}
	assert_true(s->jobs[0].status == -ETIMEDOUT || (served && s->jobs[0].status == 0));
	return least;
}

/* A connection over a bad cable may end at any time; who is told so asks again. */
static int fetch_in_the_end(uint64_t key, uint64_t offset, void *buf, uint32_t len)
{
	uint64_t end = gvm_now() + patience();
	int status;

	do
		status = fetch(the_server(), key, offset, buf, len);
	while (status && cable_is_bad() && gvm_now() < end);
	return status;
}

/* It does not die, it only says nothing. Deadlines hold, buffers are the caller's again. */
static void a_stopped_server(void **state)
{
	const size_t size = (size_t)STOPPED_JOBS * MIB;
	struct stopped s = { .buf = malloc(size) };
	uint8_t *copy = malloc(size), least;
	struct offer o = { 0 };

	if (one_process()) {
		far(.what = FAR_OPEN);
		server_listen(0);
		offer_open(&o, CHILD_BYTES, RW, 0);
		s.key = o.key;
	} else {
		s.key = child_begin(0);
	}
	node_open(&client);
	for (s.round = 0; s.round < 3; s.round++) {
		struct gvm_peer *peer = ready_child();

		stall(1);
		stopped_start(&s, peer);
		until(jobs_done == STOPPED_JOBS);
		least = stopped_check(&s);
		fill(s.buf, size, s.round);
		memcpy(copy, s.buf, size);
		stall(0);
		assert_int_equal(fetch_in_the_end(s.key, 5, copy, 1), 0);
		copy[0] = s.buf[0];
		assert_memory_equal(s.buf, copy, size);
		/* what was told done is there; of a connection that broke more may yet arrive */
		assert_int_equal(fetch_in_the_end(s.key, 0, copy, MIB), 0);
		if (least && !client.ended)
			all_bytes_are(copy, MIB, least, stopped_byte(&s, STOPPED_JOBS - 1));
	}
	if (one_process()) {
		offer_close(&o);
		far(.what = FAR_CLOSE);
	} else {
		child_kill();
	}
	free(s.buf);
	free(copy);
}

/*
 * It is stopped with requests and answers under way, and when it goes on the connection is no more.
 * What it had begun arrives late, where nobody waits for it, or not at all: nobody minds.
 */
static void a_stopped_server_is_given_up(void **state)
{
	enum { N = 16, ROUNDS = 60 };
	struct job jobs[N];
	uint8_t *buf, one[4096];
	uint64_t key;

	if (one_process())
		skip();
	buf = malloc((size_t)N * 4096);
	key = child_begin(0);
	node_open(&client);
	for (unsigned round = 0; round < ROUNDS; round++) {
		struct gvm_peer *peer = ready_child();
		unsigned turns = round % 7;

		jobs_done = 0;
		for (unsigned i = 0; i < N; i++) {
			job_init(&jobs[i], 0);
			assert_int_equal(
			    gvm_fetch(peer, key, i * 4096, buf + i * 4096, 4096, NULL, &jobs[i].op),
			    0);
		}
		while (turns--)
			turn();
		stall(1);
		gvm_peer_disconnect(peer, -ECANCELED);
		stall(0);
		until(jobs_done == N);
		for (unsigned i = 0; i < N; i++) {
			assert_int_equal(jobs[i].calls, 1);
			assert_true(jobs[i].status == 0 || jobs[i].status == -ECANCELED ||
				    cable_is_bad());
			if (!jobs[i].status)
				all_bytes_are(buf + i * 4096, 4096, CHILD_BYTE, CHILD_BYTE);
		}
		memset(one, 0, sizeof(one));
		assert_int_equal(fetch_in_the_end(key, MIB, one, sizeof(one)), 0);
		all_bytes_are(one, sizeof(one), CHILD_BYTE, CHILD_BYTE);
	}
	child_kill();
	free(buf);
}

/* RDMA: a process that has once said where its memory is has no part in what is read and written.
 */
static void a_stopped_server_is_read(void **state)
{
	uint64_t key;
	uint8_t *buf;

	if (!hardware_serves())
		skip();
	buf = malloc(MIB);
	key = child_begin(0);
	node_open(&client);
	assert_int_equal(fetch(ready_child(), key, 0, buf, 1), 0);
	stall(1);
	memset(buf, 0, MIB);
	assert_int_equal(fetch(the_server(), key, MIB, buf, MIB), 0);
	all_bytes_are(buf, MIB, CHILD_BYTE, CHILD_BYTE);
	memset(buf, 0x43, MIB);
	assert_int_equal(put(the_server(), key, 2 * MIB, buf, 4096), 0);
	assert_int_equal(fetch(the_server(), key, 2 * MIB, buf, MIB), 0);
	all_bytes_are(buf, 4096, 0x43, 0x43);
	all_bytes_are(buf + 4096, MIB - 4096, CHILD_BYTE, CHILD_BYTE);
	assert_int_equal(client.ended, 0);
	child_kill();
	free(buf);
}

/* An idle connection to it is noticed without anybody asking. */
static void a_stopped_server_is_noticed(void **state)
{
	if (one_process())
		skip();
	child_begin(0);
	gvm_option_set("GVM_KEEPALIVE_MS", "50");
	node_open(&client);
	gvm_option_set("GVM_KEEPALIVE_MS", "10000");
	ready_child();
	stall(1);
	until(client.ended);
	assert_int_equal(client.last_why, -ETIMEDOUT);
	child_kill();
}

static void an_idle_server_is_killed(void **state)
{
	if (one_process())
		skip();
	child_begin(0);
	node_open(&client);
	ready_child();
	child_kill();
	until(client.ended);
	assert_int_equal(client.last_why, -ECONNRESET);
}

#define FORK(test) cmocka_unit_test_setup_teardown(test, setup_none, teardown_none)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		FORK(a_killed_server),
		FORK(a_stopped_server),
		FORK(a_stopped_server_is_given_up),
		FORK(a_stopped_server_is_read),
		FORK(a_stopped_server_is_noticed),
		FORK(an_idle_server_is_killed),
	};

	return cmocka_run_group_tests_name(choose_transport(argc, argv), tests, NULL, NULL);
}
