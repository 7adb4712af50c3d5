/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Memory that processes share by gvm-memsrv nodes is sequentially consistent: litmus tests, and
 * histories of loads and stores, also while a memory node stands still for a while, while
 * connections are cut, when a member is killed, and when memory nodes are killed and come back. The
 * argument is the transport (tcp). LITMUS: iterations of each test (500, with the thread sanitizer
 * 200).
 */
#include <poll.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#define MEMBERS            4
#define MEMBER_MAIN(i, fd) take_part(i, fd)
static void take_part(unsigned i, int fd);
#include "dsm_members.h"
#include "tests/history.h"
#include "tests/litmus.h"

#define SLAB_PAGES 16u
#define BYTES      ((uint64_t)(2 * LITMUS_TESTS + 2) * SLAB_PAGES * PAGE)
#define PLACES     8u /* locations of histories, on two pages of different slabs */
#define OPS        20000u
#define STILL_US   200000u
/*
 * Who is silent for a quarter of it has lost its connection: on a machine with more to do than it
 * can, processes that nobody has stopped are for 250 ms.
 */
#define PATIENT_MS "10000"
#define TURNS      100u /* of a history, after which a member says that it gets on */

/* In ordinary shared memory: what all do, and what they have seen. */
static struct control {
	uint64_t iterations;
	bool histories; /* are made until stop */
	bool stop;
	struct litmus_run run[LITMUS_TESTS];
	struct history {
		struct history_op op[PLACES][OPS]; /* end 0: it did not come to its end */
		uint64_t ops[PLACES];
		bool lost[PLACES]; /* SIGBUS */
	} history[MEMBERS];
	struct gvm_dsm_stats stats[MEMBERS];
} * control;

static struct litmus_verdict verdict[LITMUS_TESTS];

/* ---- a member ------------------------------------------------------------------------------ */

static void run_litmus(unsigned number, char *mem)
{
	for (unsigned i = 0; i < LITMUS_TESTS; i++) {
		struct litmus_thread t = { .test = &litmus_tests[i],
					   .run = &control->run[i],
					   .page = { mem + (2 * i) * SLAB_PAGES * PAGE,
						     mem + (2 * i + 1) * SLAB_PAGES * PAGE },
					   .number = number,
					   .iterations = control->iterations,
					   .seed = number * 7919 + 13 };

		if (number < litmus_tests[i].threads)
			litmus_thread(&t, 0);
	}
}

/* False: the page is lost. The operation is written down before it is begun. */
static bool do_op(uint64_t *at, struct history_op *op)
{
	if (sigsetjmp(caught, 1)) {
		catching = 0;
		return false;
	}
	catching = 1;
	if (op->store)
		__atomic_store_n(at, op->value, __ATOMIC_SEQ_CST);
	else
		op->value = __atomic_load_n(at, __ATOMIC_SEQ_CST);
	catching = 0;
	op->end = gvm_now();
	return true;
}

static void make_history(unsigned number, int fd, char *mem)
{
	struct history *h = &control->history[number];
	uint64_t seed = number + 5;

	for (uint64_t i = 1; !__atomic_load_n(&control->stop, __ATOMIC_RELAXED); i++) {
		unsigned at = (unsigned)(litmus_random(&seed) % PLACES);
		struct history_op *op = &h->op[at][h->ops[at]];

		if (i % TURNS == 0) /* nobody may be there to hear it */
			(void)!send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (h->ops[at] == OPS || h->lost[at])
			continue;
		litmus_pause(&seed, 1000);
		op->store = litmus_random(&seed) % 3 == 0;
		op->value = (uint64_t)(number + 1) << 40 | i;
		op->begin = gvm_now();
		op->end = 0;
		__atomic_store_n(&h->ops[at], h->ops[at] + 1, __ATOMIC_RELEASE);
		if (!do_op((uint64_t *)(mem + (2 * LITMUS_TESTS + at % 2) * SLAB_PAGES * PAGE) + at,
			   op))
			h->lost[at] = true;
	}
}

static void take_part(unsigned i, int fd)
{
	struct gvm_dsm_config config = { .name = NAME,
					 .flags = GVM_DSM_CREATE,
					 .bytes = BYTES,
					 .slab_bytes = SLAB_PAGES * PAGE };
	struct gvm_dsm *dsm;
	void *mem;
	char go;

	if (gvm_dsm_open(NULL, &config, &dsm) || gvm_dsm_map(dsm, &mem))
		_exit(1);
	if (send(fd, "", 1, MSG_NOSIGNAL) != 1 || recv(fd, &go, 1, 0) != 1)
		_exit(1);
	run_litmus(i, mem);
	if (control->histories)
		make_history(i, fd, mem);
	gvm_dsm_stats(dsm, &control->stats[i]);
	_exit(gvm_dsm_close(dsm) ? 2 : 0);
}

/* ---- the test ------------------------------------------------------------------------------ */

static int begin(void **state)
{
	const char *text = getenv("LITMUS");

	memset(control, 0, sizeof(*control));
	control->iterations = 500;
#ifdef __SANITIZE_THREAD__
	control->iterations = 200; /* each takes longer */
#endif
	if (text)
		control->iterations = strtoull(text, NULL, 10);
	for (unsigned i = 0; i < HOMES; i++)
		home_start(i);
	return 0;
}

/* It has the region mapped, or gets on. */
static void await_word(unsigned i)
{
	struct pollfd at = { .fd = member[i].fd, .events = POLLIN };
	char word;

	assert_int_equal(poll(&at, 1, 60000), 1);
	assert_int_equal(recv(member[i].fd, &word, 1, 0), 1);
}

static void start_members(void)
{
	for (unsigned i = 0; i < MEMBERS; i++)
		member_start(i);
	for (unsigned i = 0; i < MEMBERS; i++)
		await_word(i);
	for (unsigned i = 0; i < MEMBERS; i++)
		assert_int_equal(send(member[i].fd, "", 1, MSG_NOSIGNAL), 1);
}

static void start_histories(void)
{
	control->iterations = 0;
	control->histories = true;
	start_members();
}

/* From now on each member makes about so many hundreds of turns. */
static void await_hundreds(unsigned n)
{
	char old[4096];

	for (unsigned i = 0; i < MEMBERS; i++)
		while (member[i].pid && recv(member[i].fd, old, sizeof(old), MSG_DONTWAIT) > 0)
			;
	for (unsigned i = 0; i < MEMBERS; i++)
		for (unsigned k = 0; member[i].pid && k < n; k++)
			await_word(i);
}

/* Its exit status. */
static int await_member(unsigned i)
{
	int status = -1;

	assert_int_equal(waitpid(member[i].pid, &status, 0), member[i].pid);
	close(member[i].fd);
	member[i].pid = 0;
	return status;
}

static void stop_histories(void)
{
	__atomic_store_n(&control->stop, true, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < MEMBERS; i++)
		if (member[i].pid)
			assert_int_equal(await_member(i), 0);
}

static void nothing_forbidden_comes_out(void **state)
{
	start_members();
	for (unsigned i = 0; i < MEMBERS; i++)
		assert_int_equal(await_member(i), 0);
	for (unsigned i = 0; i < LITMUS_TESTS; i++) {
		verdict[i] = litmus_judge(&litmus_tests[i], &control->run[i]);
		if (getenv("TEST_VERBOSE"))
			fprintf(
			    stderr,
			    "  %-5s %llu times: %u of %u outcomes that may be, %llu that may not\n",
			    litmus_tests[i].name, (unsigned long long)control->iterations,
			    verdict[i].seen, verdict[i].allowed,
			    (unsigned long long)verdict[i].forbidden);
	}
	for (unsigned i = 0; i < LITMUS_TESTS; i++) {
		assert_int_equal(verdict[i].forbidden, 0);
		assert_true(verdict[i].seen >= 2);
	}
	for (unsigned i = 0; i < MEMBERS; i++) {
		assert_int_equal(control->stats[i].refused, 0);
		assert_int_equal(control->stats[i].faults_failed, 0);
		assert_true(control->stats[i].faults_read + control->stats[i].faults_write > 0);
	}
}

/*
 * Of what did not come to its end nobody knows whether it has happened: a load is left out; a store
 * counts if somebody has seen its value, and may then have happened at any time.
 */
static size_t gather(unsigned place, struct history_op *all)
{
	size_t n = 0, m = 0;

	for (unsigned c = 0; c < MEMBERS; c++) {
		memcpy(all + n, control->history[c].op[place],
		       control->history[c].ops[place] * sizeof(*all));
		n += control->history[c].ops[place];
	}
	for (size_t i = 0; i < n; i++) {
		bool seen = all[i].end != 0;

		for (size_t k = 0; k < n && !seen && all[i].store; k++)
			seen =
			    k != i && !all[k].store && all[k].end && all[k].value == all[i].value;
		if (!seen)
			continue;
		all[m] = all[i];
		if (!all[m].end)
			all[m].end = UINT64_MAX;
		m++;
	}
	return m;
}

static void judge_histories(uint64_t least)
{
	struct history_op *all = malloc(MEMBERS * OPS * sizeof(*all));
	const char *why = NULL;
	unsigned place;
	size_t total = 0;

	for (place = 0; place < PLACES && !why; place++) {
		size_t n = gather(place, all);

		total += n;
		why = history_check(all, n);
	}
	free(all);
	if (why)
		fail_msg("location %u: %s", place - 1, why);
	if (getenv("TEST_VERBOSE"))
		fprintf(stderr, "  %zu operations are linearizable\n", total);
	assert_true(total >= least);
}

static void histories_are_linearizable(void **state)
{
	start_histories();
	await_hundreds(30);
	stop_histories();
	judge_histories(1000);
}

/* Not for so long that it is given up. */
static void a_memory_node_that_stands_still_only_delays(void **state)
{
	start_histories();
	for (unsigned i = 0; i < 4; i++) {
		await_hundreds(5);
		kill(home[i % HOMES].pid, SIGSTOP);
		usleep(STILL_US); /* that it takes its time is what is tested */
		kill(home[i % HOMES].pid, SIGCONT);
	}
	await_hundreds(5);
	stop_histories();
	judge_histories(1000);
	for (unsigned i = 0; i < MEMBERS; i++)
		for (unsigned place = 0; place < PLACES; place++)
			assert_false(control->history[i].lost[place]);
}

static bool is_socket(const char *path)
{
	char to[32] = "";

	return readlink(path, to, sizeof(to) - 1) > 0 && strncmp(to, "socket:", 7) == 0;
}

/* Ends one of a process's sockets if it is a connection over tcp, as if the network had done it. 1:
 * it was one; -1: this process may not. */
static int cut(int pidfd, unsigned n)
{
	struct sockaddr_storage at = { 0 };
	socklen_t len = sizeof(at);
	int fd = (int)syscall(SYS_pidfd_getfd, pidfd, n, 0), was = 0;

	if (fd < 0)
		return errno == EPERM || errno == ENOSYS ? -1 : 0;
	if (getpeername(fd, (struct sockaddr *)&at, &len) == 0 && at.ss_family == AF_INET)
		was = shutdown(fd, SHUT_RDWR) == 0;
	close(fd);
	return was;
}

/* Every step-th of a child's connections, or all. Returns how many; -1: as above. */
static int cut_some(pid_t pid, int step)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), total = 0, was, passed = 0;
	const struct dirent *entry;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	if (pidfd < 0 || !dir)
		total = -1;
	while (total >= 0 && (entry = readdir(dir))) {
		unsigned n = (unsigned)strtoul(entry->d_name, NULL, 10);

		snprintf(path, sizeof(path), "/proc/%d/fd/%u", (int)pid, n);
		if (entry->d_name[0] == '.' || !is_socket(path) || passed++ % step)
			continue;
		was = cut(pidfd, n);
		total = was < 0 ? -1 : total + was;
	}
	if (dir)
		closedir(dir);
	if (pidfd >= 0)
		close(pidfd);
	return total;
}

/* Of a member or a memory node, some or all at once, between any two messages or within one. */
static void connections_that_end_lose_nothing(void **state)
{
	uint64_t lost = 0;
	int total = 0, n = 0;

	start_histories();
	for (unsigned i = 0; i < 24 && n >= 0; i++) {
		await_hundreds(1);
		n = cut_some(i % 3 == 2 ? home[i / 3 % HOMES].pid : member[i % MEMBERS].pid,
			     1 + (int)i % 4);
		total += n;
	}
	await_hundreds(5);
	stop_histories();
	judge_histories(1000);
	if (n < 0 || !total) { /* it may not be done here, or they are not sockets of tcp */
		print_message("[          ] no connection could be cut\n");
		skip();
	}
	for (unsigned i = 0; i < MEMBERS; i++) {
		lost += control->stats[i].sessions_lost;
		assert_int_equal(control->stats[i].homes_dead, 0);
		assert_int_equal(control->stats[i].refused, 0);
		for (unsigned place = 0; place < PLACES; place++)
			assert_false(control->history[i].lost[place]);
	}
	print_message("[          ] %d connections were cut, %lu sessions lost by members\n", total,
		      (unsigned long)lost);
	assert_true(lost > 0);
}

/* What it alone had is lost, and says so; nothing older comes back, and the others go on. */
static void a_member_that_is_killed_takes_nothing_back(void **state)
{
	start_histories();
	await_hundreds(10);
	member_end(MEMBERS - 1, SIGKILL);
	await_hundreds(20);
	stop_histories();
	judge_histories(1000);
}

/* A home that is killed and started again takes at most what was on its way, and says so. */
static void homes_that_come_back_take_nothing_back(void **state)
{
	unsigned lost = 0;

	start_histories();
	for (unsigned i = 0; i < 6; i++) {
		if (i % 3) /* once the other one is not back yet */
			await_hundreds(5);
		home_again(i % HOMES);
	}
	await_hundreds(5);
	stop_histories();
	for (unsigned i = 0; i < MEMBERS; i++)
		for (unsigned place = 0; place < PLACES; place++)
			lost += control->history[i].lost[place];
	print_message("%u of %u locations were on their way and are lost\n", lost / MEMBERS,
		      PLACES);
	judge_histories(1000);
}

/* Where a node is to be buried that has been killed. */
static int begin_with_burials(void **state)
{
	setenv("GVM_DSM_FENCE_MS", "3000", 1);
	return begin(state);
}

static int begin_lasting(void **state)
{
	int err = begin(state);

	for (unsigned i = 0; i < HOMES; i++)
		home_again(i);
	setenv("GVM_DSM_FENCE_MS", "20000", 1);
	return err;
}

static int end(void **state)
{
	setenv("GVM_DSM_FENCE_MS", PATIENT_MS, 1);
	return dsm_teardown(state);
}

static int end_lasting(void **state)
{
	end(state);
	home_forget();
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nothing_forbidden_comes_out, begin, dsm_teardown),
		cmocka_unit_test_setup_teardown(histories_are_linearizable, begin, dsm_teardown),
		cmocka_unit_test_setup_teardown(a_memory_node_that_stands_still_only_delays, begin,
						dsm_teardown),
		cmocka_unit_test_setup_teardown(connections_that_end_lose_nothing, begin,
						dsm_teardown),
		cmocka_unit_test_setup_teardown(a_member_that_is_killed_takes_nothing_back,
						begin_with_burials, end),
		cmocka_unit_test_setup_teardown(homes_that_come_back_take_nothing_back,
						begin_lasting, end_lasting),
	};

	setenv("GVM_TRANSPORT", argc > 1 ? argv[1] : "tcp", 1);
	setenv("GVM_DSM_FENCE_MS", PATIENT_MS, 1);
	control =
	    mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (control == MAP_FAILED)
		return 1;
	return dsm_run(tests);
}
