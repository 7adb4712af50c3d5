/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Memory that processes share by gvm-memsrv nodes is sequentially consistent: litmus tests, and
 * histories of loads and stores, also while a memory node stands still for a while, and when a
 * member is killed. The argument is the transport (tcp). LITMUS: iterations of each test (500).
 */
#include <stdbool.h>
#include <sys/mman.h>
#define MEMBERS            4
#define MEMBER_MAIN(i, fd) take_part(i)
static void take_part(unsigned i);
#include "dsm_members.h"
#include "tests/history.h"
#include "tests/litmus.h"

#define SLAB_PAGES 16u
#define BYTES      ((uint64_t)(2 * LITMUS_TESTS + 2) * SLAB_PAGES * PAGE)
#define PLACES     8u /* locations of histories, on two pages of different slabs */
#define OPS        20000u

/* In ordinary shared memory: what all do, and what they have seen. */
static struct control {
	uint64_t iterations;
	uint64_t history_ns; /* how long histories are made; 0: none */
	unsigned there;      /* members that have it mapped */
	int go;              /* they may begin */
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

static void make_history(unsigned number, char *mem)
{
	struct history *h = &control->history[number];
	uint64_t until = gvm_now() + control->history_ns, seed = number + 5;

	for (uint64_t i = 1; gvm_now() < until; i++) {
		unsigned at = (unsigned)(litmus_random(&seed) % PLACES);
		struct history_op *op = &h->op[at][h->ops[at]];

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

static void take_part(unsigned i)
{
	struct gvm_dsm_config config = { .name = NAME,
					 .flags = GVM_DSM_CREATE,
					 .bytes = BYTES,
					 .slab_bytes = SLAB_PAGES * PAGE };
	struct gvm_dsm *dsm;
	void *mem;

	if (gvm_dsm_open(NULL, &config, &dsm) || gvm_dsm_map(dsm, &mem))
		_exit(1);
	__atomic_add_fetch(&control->there, 1, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&control->go, __ATOMIC_SEQ_CST))
		usleep(1000);
	run_litmus(i, mem);
	if (control->history_ns)
		make_history(i, mem);
	gvm_dsm_stats(dsm, &control->stats[i]);
	_exit(gvm_dsm_close(dsm) ? 2 : 0);
}

/* ---- the test ------------------------------------------------------------------------------ */

static int begin(void **state)
{
	const char *text = getenv("LITMUS");

	memset(control, 0, sizeof(*control));
	control->iterations = text ? strtoull(text, NULL, 10) : 500;
	for (unsigned i = 0; i < HOMES; i++)
		home_start(i);
	return 0;
}

static void start_members(void)
{
	for (unsigned i = 0; i < MEMBERS; i++)
		member_start(i);
	for (unsigned i = 0; i < 20000 && control->there < MEMBERS; i++)
		usleep(1000);
	assert_int_equal(control->there, MEMBERS);
	__atomic_store_n(&control->go, 1, __ATOMIC_SEQ_CST);
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
	control->iterations = 0;
	control->history_ns = 3000 * MS;
	start_members();
	for (unsigned i = 0; i < MEMBERS; i++)
		assert_int_equal(await_member(i), 0);
	judge_histories(1000);
}

/* Not for so long that it is given up. */
static void a_memory_node_that_stands_still_only_delays(void **state)
{
	control->iterations = 0;
	control->history_ns = 3000 * MS;
	start_members();
	for (unsigned i = 0; i < 4; i++) {
		usleep(300000);
		kill(home[i % HOMES].pid, SIGSTOP);
		usleep(200000);
		kill(home[i % HOMES].pid, SIGCONT);
	}
	for (unsigned i = 0; i < MEMBERS; i++)
		assert_int_equal(await_member(i), 0);
	judge_histories(1000);
	for (unsigned i = 0; i < MEMBERS; i++)
		for (unsigned place = 0; place < PLACES; place++)
			assert_false(control->history[i].lost[place]);
}

/* What it alone had is lost, and says so; nothing older comes back, and the others go on. */
static void a_member_that_is_killed_takes_nothing_back(void **state)
{
	control->iterations = 0;
	control->history_ns = 6000 * MS;
	start_members();
	usleep(1500000);
	member_end(MEMBERS - 1, SIGKILL);
	for (unsigned i = 0; i < MEMBERS - 1; i++)
		assert_int_equal(await_member(i), 0);
	judge_histories(1000);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nothing_forbidden_comes_out, begin, dsm_teardown),
		cmocka_unit_test_setup_teardown(histories_are_linearizable, begin, dsm_teardown),
		cmocka_unit_test_setup_teardown(a_memory_node_that_stands_still_only_delays, begin,
						dsm_teardown),
		cmocka_unit_test_setup_teardown(a_member_that_is_killed_takes_nothing_back, begin,
						dsm_teardown),
	};

	setenv("GVM_TRANSPORT", argc > 1 ? argv[1] : "tcp", 1);
	setenv("GVM_DSM_FENCE_MS", "1000", 0);
	control =
	    mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (control == MAP_FAILED)
		return 1;
	return dsm_run(tests);
}
