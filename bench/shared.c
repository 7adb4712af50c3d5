/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm-bench --shared: coherent memory between two processes and a memory node as home, against what
 * it is made of. In turns, round after round: raw TCP, a raw userfaultfd fault, the pager's remote
 * fault, a read of a page that the home has, a read of one that the other process has changed, a
 * write to one of which both have a copy, one that nobody owns and one or three others have read,
 * and one page that both write to all the time.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <gvmnet/dsm.h>
#include "bench.h"

#define PAGES  2048u /* of the region; a round reads each once */
#define ROUNDS 101u
#define HOME   1u
#define MINE   2u
#define OTHERS 3u
#define MORE   2u /* processes that only read, with ids from here on */

enum what {
	TCP,
	UFFD,
	HOPS,
	DIRECT,
	PAGER,
	FROM_HOME,
	FROM_OWNER,
	UPGRADE,
	ONE_SHARES,
	FEW_SHARE,
	BOTH_WRITE,
	IN_TURNS,
	WHATS
};

static const char *const names[WHATS] = {
	[TCP] = "raw TCP, 32 B for 4 KiB",
	[UFFD] = "raw userfaultfd fault",
	[HOPS] = "raw fault, a third process asked",
	[DIRECT] = "raw fault, its owner asked",
	[PAGER] = "pager, remote fault",
	[FROM_HOME] = "read miss, the home has it",
	[FROM_OWNER] = "read miss, the other has it",
	[UPGRADE] = "write to a page that both read",
	[ONE_SHARES] = "write to what one other read",
	[FEW_SHARE] = "write to what three others read",
	[BOTH_WRITE] = "one page that both write to",
	[IN_TURNS] = "one page that is changed in turns",
};

static pid_t home, other_pid, more_pid[MORE];
static int other, more[MORE]; /* the other processes take orders */
static char map_path[512], key_path[512];
static struct gvm_dsm *dsm;
static char *mem;
static double p50[WHATS][ROUNDS]; /* µs */

/* ---- both processes ------------------------------------------------------------------------ */

enum order { CHANGE = 'c', READ = 'r', BOTH = 'b', TURNS = 't' };

static int join(unsigned node)
{
	struct gvm_dsm_config config = { .name = "bench-shared",
					 .flags = GVM_DSM_CREATE,
					 .bytes = (uint64_t)PAGES * PAGE };
	char id[16];
	void *at;
	int err;

	snprintf(id, sizeof(id), "%u", node);
	err = gvm_option_set("GVM_NODE", id);
	if (!err)
		err = gvm_option_set("GVM_CLUSTER", map_path);
	if (!err)
		err = gvm_option_set("GVM_KEY_FILE", key_path);
	if (!err)
		err = gvm_dsm_open(NULL, &config, &dsm);
	if (!err)
		err = gvm_dsm_map(dsm, &at);
	if (!err)
		mem = at;
	return err;
}

static uint64_t *word(uint32_t page)
{
	return (uint64_t *)(void *)(mem + (size_t)page * PAGE);
}

static void change_all(void)
{
	for (uint32_t i = 0; i < PAGES; i++)
		bench_fill(word(i), i);
}

static uint64_t read_all(void)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < PAGES; i++)
		sum += __atomic_load_n(word(i), __ATOMIC_RELAXED);
	return sum;
}

static int give_back(void)
{
	uint64_t until = bench_now() + 10000000000u;
	struct gvm_dsm_stats st;
	int err = gvm_dsm_evict(dsm, 0, gvm_dsm_bytes(dsm));

	do {
		gvm_dsm_stats(dsm, &st);
		usleep(1000);
	} while (!err && st.pages_here && bench_now() < until);
	return err ? err : st.pages_here ? -ETIMEDOUT : 0;
}

/* Writes to one page for so long; how often it came here meanwhile. */
static uint64_t play_both(double seconds)
{
	uint64_t until = bench_now() + (uint64_t)(seconds * 1e9);
	struct gvm_dsm_stats before, after;

	gvm_dsm_stats(dsm, &before);
	while (bench_now() < until) {
		for (unsigned i = 0; i < 16; i++)
			__atomic_fetch_add(word(0) + 1, 1, __ATOMIC_SEQ_CST);
		sched_yield(); /* the library's threads are on the same CPUs */
	}
	gvm_dsm_stats(dsm, &after);
	return after.pages_received - before.pages_received;
}

/* Makes the number on a page even, or odd, whenever it is not; how often. The last bit says that
 * somebody's time is over. */
static uint64_t play_turns(double seconds, unsigned mine)
{
	uint64_t until = bench_now() + (uint64_t)(seconds * 1e9), turns = 0, *at = word(1) + 1;

	for (;;) {
		uint64_t value = __atomic_load_n(at, __ATOMIC_SEQ_CST);

		if (value >> 63)
			return turns;
		if (bench_now() > until)
			__atomic_fetch_or(at, 1ull << 63, __ATOMIC_SEQ_CST);
		if (value % 2 == mine) {
			sched_yield();
			continue;
		}
		__atomic_fetch_add(at, 1, __ATOMIC_SEQ_CST);
		turns++;
	}
}

static int64_t play(double seconds, char game, unsigned mine)
{
	return (int64_t)(game == BOTH ? play_both(seconds) : play_turns(seconds, mine));
}

/* ---- the other one ------------------------------------------------------------------------- */

static void obey(const struct bench_opts *opts, int fd, unsigned node)
{
	int64_t answer = join(node);
	char order;

	while (bench_write_all(fd, &answer, sizeof(answer)) == 0 &&
	       bench_read_all(fd, &order, 1) == 0) {
		answer = 0;
		if (order == CHANGE)
			change_all();
		else if (order == READ)
			read_all();
		else
			answer = play(opts->seconds, order, 1);
	}
	_exit(0);
}

static int64_t answer_of(int fd)
{
	int64_t answer;
	int err = bench_read_all(fd, &answer, sizeof(answer));

	return err ? err : answer;
}

static int64_t tell(int fd, char order)
{
	int err = bench_write_all(fd, &order, 1);

	return err ? err : answer_of(fd);
}

static int start_one(const struct bench_opts *opts, unsigned node, pid_t *pid, int *fd)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return -errno;
	*pid = fork();
	if (*pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		bench_pin(opts->server_cpu);
		close(fds[0]);
		obey(opts, fds[1], node);
	}
	close(fds[1]);
	*fd = fds[0];
	return (int)answer_of(*fd);
}

static int start_others(const struct bench_opts *opts)
{
	int err = start_one(opts, OTHERS, &other_pid, &other);

	for (unsigned i = 0; !err && i < MORE; i++)
		err = start_one(opts, OTHERS + 1 + i, &more_pid[i], &more[i]);
	return err;
}

/* ---- what is measured ---------------------------------------------------------------------- */

static int by_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static double median_us(uint64_t *ns, uint32_t n)
{
	qsort(ns, n, sizeof(*ns), by_u64);
	return (double)ns[n / 2] / 1e3;
}

/* Each page once, in no order that could be guessed; write: one word of it is stored to. */
static int touch_all(uint64_t *ns, int write, double *us)
{
	static uint32_t order[PAGES];
	uint32_t seed = 99;

	for (uint32_t i = 0; i < PAGES; i++)
		order[i] = i;
	for (uint32_t i = PAGES - 1; i > 0; i--) {
		uint32_t k = bench_next_page(&seed, i + 1), x = order[i];

		order[i] = order[k];
		order[k] = x;
	}
	for (uint32_t i = 0; i < PAGES; i++) {
		uint64_t *at = word(order[i]), begin = bench_now();

		if (write)
			__atomic_store_n(at, bench_stamp(order[i]), __ATOMIC_RELAXED);
		else if (__atomic_load_n(at, __ATOMIC_RELAXED) != bench_stamp(order[i]))
			return -EILSEQ;
		ns[i] = bench_now() - begin;
	}
	*us = median_us(ns, PAGES);
	return 0;
}

static int ask_contender(const struct contender *c, const struct bench_opts *opts, uint64_t *ns,
			 double *us)
{
	int err = c->latency(opts, opts->ops, ns);

	if (!err)
		*us = median_us(ns, opts->ops);
	return err;
}

/* µs from one transfer of the page, or turn, to the next. */
static int ping_pong(const struct bench_opts *opts, char game, double *us)
{
	uint64_t begin = bench_now();
	int64_t mine, theirs;
	int err = bench_write_all(other, &game, 1);

	if (err)
		return err;
	mine = play(opts->seconds, game, 0);
	theirs = answer_of(other);
	*word(1) = *(word(1) + 1) = 0; /* for the next time */
	if (theirs < 0 || mine + theirs == 0)
		return -EIO;
	*us = (double)(bench_now() - begin) / 1e3 / (double)(mine + theirs);
	return 0;
}

/* Nobody owns a page; this process has it, and so do the other one and so many more. */
static int write_to_shared(uint64_t *ns, unsigned n, double *us)
{
	int err = give_back();

	if (!err)
		read_all();
	if (!err)
		err = (int)tell(other, READ);
	for (unsigned i = 0; !err && i < n; i++)
		err = (int)tell(more[i], READ);
	return err ? err : touch_all(ns, 1, us);
}

static int one_round(const struct bench_opts *opts, uint64_t *ns, unsigned round)
{
	int err = ask_contender(&contender_tcp, opts, ns, &p50[TCP][round]);

	if (!err)
		err = ask_contender(&contender_uffd, opts, ns, &p50[UFFD][round]);
	if (!err)
		err = ask_contender(&contender_hops, opts, ns, &p50[HOPS][round]);
	if (!err)
		err = ask_contender(&contender_direct, opts, ns, &p50[DIRECT][round]);
	if (!err)
		err = ask_contender(&contender_gvm_fault, opts, ns, &p50[PAGER][round]);
	if (!err)
		err = (int)tell(other, CHANGE);
	if (!err)
		err = touch_all(ns, 0, &p50[FROM_OWNER][round]);
	if (!err)
		err = touch_all(ns, 1, &p50[UPGRADE][round]); /* the other still has it to read */
	if (!err)
		err = give_back();
	if (!err)
		err = touch_all(ns, 0, &p50[FROM_HOME][round]);
	if (!err)
		err = write_to_shared(ns, 0, &p50[ONE_SHARES][round]);
	if (!err)
		err = write_to_shared(ns, MORE, &p50[FEW_SHARE][round]);
	if (!err)
		err = ping_pong(opts, BOTH, &p50[BOTH_WRITE][round]);
	return err ? err : ping_pong(opts, TURNS, &p50[IN_TURNS][round]);
}

/* ---- the table ----------------------------------------------------------------------------- */

static int by_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double sorted_median(double *v, unsigned n)
{
	qsort(v, n, sizeof(*v), by_double);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* Of what it consists, in the same round; 0: it is a part itself. */
static double parts_of(enum what what, unsigned round)
{
	switch (what) {
	case FROM_HOME:
		return p50[TCP][round] + p50[UFFD][round];
	case FROM_OWNER:
		return p50[HOPS][round];
	case BOTH_WRITE:
		return p50[HOPS][round];
	case IN_TURNS: /* two faults, of which one moves the page */
		return 2 * p50[HOPS][round];
	default:
		return 0;
	}
}

static void print_ratio(double *v, unsigned n)
{
	printf("  %5.2f", sorted_median(v, n));
	printf(" [%4.2f to %4.2f]", v[0], v[n - 1]);
}

static void print_row(enum what what, unsigned rounds)
{
	double us[ROUNDS], pager[ROUNDS], parts[ROUNDS];

	for (unsigned k = 0; k < rounds; k++) {
		us[k] = p50[what][k];
		pager[k] = us[k] / p50[PAGER][k];
		parts[k] = parts_of(what, k) ? us[k] / parts_of(what, k) : 0;
	}
	printf("%-34s %8.1f", names[what], sorted_median(us, rounds));
	print_ratio(pager, rounds);
	if (parts[0] > 0)
		print_ratio(parts, rounds);
	putchar('\n');
}

static void print_table(unsigned rounds)
{
	printf("\n%-34s %8s  %21s  %s\n", "4 KiB", "p50 µs", "against the pager",
	       "against its parts");
	for (unsigned i = 0; i < WHATS; i++)
		print_row(i, rounds);
	printf(
	    "\nParts of a miss: a raw fault and raw TCP, with a third process if there is one.\n"
	    "The last two: µs from one transfer, or turn, to the next. Parts of a transfer are a "
	    "raw fault\n"
	    "with a third process; of a turn, in which there are two faults, two of these.\n"
	    "Ratios are of figures of the same round: median of %u rounds [smallest to largest].\n",
	    rounds);
}

/* ---- begin and end ------------------------------------------------------------------------- */

static int start_home(const struct bench_opts *opts)
{
	unsigned port = bench_free_port();
	char *argv[] = { (char *)opts->memsrv,
			 "--cluster",
			 map_path,
			 "--key-file",
			 key_path,
			 "--node",
			 "1",
			 "--memory",
			 "256M",
			 "--workers",
			 "1",
			 NULL };
	FILE *f;
	int fd, err;

	snprintf(map_path, sizeof(map_path), "%s/shared.map", opts->scratch);
	snprintf(key_path, sizeof(key_path), "%s/shared.key", opts->scratch);
	err = bench_make_key(key_path);
	f = err ? NULL : fopen(map_path, "we");
	if (!f)
		return err ? err : -errno;
	fprintf(f,
		"%u 127.0.0.1 %u role=memory\n%u 127.0.0.1 %u role=compute\n"
		"%u 127.0.0.1 %u role=compute\n",
		HOME, port, MINE, bench_free_port(), OTHERS, bench_free_port());
	for (unsigned i = 0; i < MORE; i++)
		fprintf(f, "%u 127.0.0.1 %u role=compute\n", OTHERS + 1 + i, bench_free_port());
	fclose(f);
	home = bench_spawn(opts, opts->server_cpu, argv);
	fd = bench_connect(port);
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static int start_all(const struct bench_opts *opts, const char **why)
{
	int err;

	*why = "the memory node does not start (see its log in the scratch folder)";
	err = start_home(opts);
	if (err)
		return err;
	*why = "a process cannot join the region (run as root)";
	err = start_others(opts); /* before this process has threads */
	bench_pin(opts->client_cpu);
	if (!err)
		err = join(MINE);
	if (err)
		return err;
	err = contender_tcp.start(opts, why);
	if (!err)
		err = contender_uffd.start(opts, why);
	if (!err)
		err = contender_hops.start(opts, why);
	return err ? err : contender_gvm_fault.start(opts, why);
}

static void stop_all(void)
{
	contender_gvm_fault.stop();
	contender_hops.stop();
	contender_uffd.stop();
	contender_tcp.stop();
	gvm_dsm_close(dsm);
	bench_kill(&other_pid);
	for (unsigned i = 0; i < MORE; i++)
		bench_kill(&more_pid[i]);
	bench_kill(&home);
}

int bench_shared(const struct bench_opts *opts, unsigned rounds)
{
	uint32_t most = opts->ops > PAGES ? opts->ops : PAGES;
	uint64_t *ns = calloc(most, sizeof(*ns));
	const char *why = "no memory";
	int err = ns ? start_all(opts, &why) : -ENOMEM;

	for (unsigned round = 0; round < rounds && !err; round++) {
		fprintf(stderr, "\rround %u of %u ", round + 1, rounds);
		why = "a round failed";
		err = one_round(opts, ns, round);
	}
	fputc('\n', stderr);
	free(ns);
	if (err)
		fprintf(stderr, "gvm-bench: %s: %s\n", why, strerror(err < 0 ? -err : EILSEQ));
	else
		print_table(rounds);
	stop_all();
	return err ? 1 : 0;
}
