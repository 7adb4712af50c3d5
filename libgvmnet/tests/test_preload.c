/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the preload library makes of unmodified programs: preload_prog runs under the interposition
 * with a pager that records its calls (preload_fake.c). Shown here: which mappings are taken over,
 * what becomes of parts of them, and that the program's own view of its memory stays right. With
 * the sanitizers, which interpose the same functions, there is nothing to run.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <fcntl.h>
#include <cmocka.h>

#ifdef PRELOAD
static char dir[] = "/tmp/gvm-test-preload-XXXXXX";
static char calls[65536], errors[65536];
static const char *program = PROG;

static void slurp(const char *name, char *text, size_t room)
{
	char path[256];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	text[0] = 0;
	FILE *in = fopen(path, "r");
	if (!in)
		return;
	size_t n = fread(text, 1, room - 1, in);
	text[n] = 0;
	fclose(in);
	unlink(path);
}

/* Become preload_prog SCENARIO under the library, with the defaults of gvm run and more settings
 * ("A=b"). */
static void become(const char *scenario, const char *const *more)
{
	char log[256], err[256], pid_text[32];

	snprintf(log, sizeof log, "%s/calls", dir);
	snprintf(err, sizeof err, "%s/errors", dir);
	snprintf(pid_text, sizeof pid_text, "%d", (int)getpid());
	setenv("FAKE_LOG", log, 1);
	setenv("PLUGIN", PLUGIN, 1);
	setenv("GVM_CLUSTER", "somewhere", 1);
	setenv("GVM_RUN_MIN", "2097152", 1);
	setenv("GVM_RUN_MALLOC", "2097152", 1);
	setenv("GVM_RUN_REPORT", "1", 1);
	setenv("GVM_RUN_PID", pid_text, 1);
	for (; more && *more; more++)
		putenv((char *)(uintptr_t)*more);
	setenv("LD_PRELOAD", PRELOAD, 1);
	int fd = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || dup2(fd, 2) < 0)
		_exit(99);
	execl(program, "preload_prog", scenario, (char *)NULL);
	_exit(98);
}

/* Run it, and read what it and all that it started did. Returns its exit status, or 1,000 and the
 * signal. */
static int run(const char *scenario, const char *const *more)
{
	int status, open_in[2];
	char none;
	pid_t pid;

	/* the other end is open as long as one of them lives: a daemon outlives who started it */
	assert_int_equal(pipe(open_in), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		become(scenario, more);
	close(open_in[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(read(open_in[0], &none, 1), 0);
	close(open_in[0]);
	slurp("calls", calls, sizeof calls);
	slurp("errors", errors, sizeof errors);
	status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
	if (status || strstr(calls, "BROKEN"))
		print_message("%s: status %d\n%s%s", scenario, status, calls, errors);
	assert_null(strstr(calls, "BROKEN"));
	return status;
}

static int count(const char *text, const char *what)
{
	int n = 0;

	for (const char *at = strstr(text, what); at; at = strstr(at + 1, what))
		n++;
	return n;
}

#define RUNS(scenario) assert_int_equal(run(scenario, NULL), 0)
#define MADE(what)     assert_true(count(calls, what) > 0)
#define NEVER(what)    assert_int_equal(count(calls, what), 0)
#define SAID(what)     assert_non_null(strstr(errors, what))

static void a_mapping_is_taken_and_reported(void **state)
{
	RUNS("fill");
	MADE(" anon\n");
	SAID("gvm: took over");
	SAID("1000 faults");
	SAID("75.0 % did not wait for a memory node"); /* 50 of them fetched, 200 met a fetch */
	assert_null(strstr(errors, "WARNING"));
	const char *quiet[] = { "GVM_RUN_REPORT=0", NULL };
	assert_int_equal(run("fill", quiet), 0);
	assert_string_equal(errors, "");
	const char *verbose[] = { "GVM_RUN_VERBOSE=1", NULL };
	assert_int_equal(run("fill", verbose), 0);
	SAID("took over 8.0 MiB at 0x");
	SAID("region run-");
}

static void without_a_cluster_nothing_happens(void **state)
{
	const char *none[] = { "GVM_CLUSTER=", NULL };

	assert_int_equal(run("fill", none), 0);
	NEVER("open");
	assert_string_equal(errors, "");
}

static void nothing_taken_is_a_loud_warning(void **state)
{
	RUNS("small");
	NEVER("open");
	SAID("WARNING: nothing was taken over");
	SAID("--min 64K would take it");
	RUNS("not_taken");
	NEVER("attach");
	SAID("is executable");
	RUNS("executable_heap");
	NEVER("attach");
	SAID("the largest mapping, 64.0 MiB, is executable");
	RUNS("small_pieces");
	SAID("--min 1024K would take it");
	RUNS("becomes"); /* also by a program that the first one became */
	SAID("WARNING: nothing was taken over");
}

static void what_is_left_alone_and_large_is_told(void **state)
{
	const char *little[] = { "GVM_LOCAL=4194304", "LEFT_SHARED=1", NULL };
	const char *much[] = { "GVM_LOCAL=134217728", NULL };

	assert_int_equal(run("left_alone", little), 0);
	SAID("a mapping of 80.0 MiB is left in local memory, more than --local (4.0 MiB): it is a "
	     "private mapping of a file; a shared one");
	SAID("more than --local (4.0 MiB): it is shared and anonymous; --shared-anonymous would "
	     "take it");
	assert_int_equal(count(errors, "is left in local memory"), 2);
	/* it fits the budget, but it is most of what the program has */
	assert_int_equal(run("left_alone", much), 0);
	assert_int_equal(count(errors, "is left in local memory"), 0);
	SAID(
	    "left local: a mapping of 80.0 MiB, more than all that was taken over, because it is a "
	    "private mapping of a file");
	assert_int_equal(run("fill", little), 0);
	assert_null(strstr(errors, "left"));
}

/* Programs that close what they did not open; the pager's descriptor is looked at in each call. */
static void descriptors_of_the_pager_stay_open(void **state)
{
	static const char *const scenarios[] = { "fd_closefrom",  "fd_loop",    "fd_ranges",
						 "fd_dup2",       "fd_fork_on", "fd_fork_exec",
						 "fd_spawn",      "fd_threads", "fd_pipe",
						 "fd_own_numbers" };

	for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
		RUNS(scenarios[i]);
		MADE("attach");
	}
}

/* gcc, make: what they start may page, and tells so itself. */
static void who_starts_others_is_not_warned(void **state)
{
	static const char *const starters[] = { "spawns", "vforks", "asks_a_shell",
						"big_then_small", "another_beside_small" };

	for (size_t i = 0; i < sizeof starters / sizeof *starters; i++) {
		assert_int_equal(run(starters[i], NULL), 0);
		assert_null(strstr(errors, "WARNING"));
	}
}

static void a_cleared_environment_is_filled(void **state)
{
	assert_int_equal(run("cleared", NULL), 0);
	assert_int_equal(count(errors, "]: took over"), 15);
	assert_int_equal(count(errors, "at most 1.0 MiB of it local"), 1); /* what it says, goes */
	assert_int_equal(run("let_out", NULL), 0);
	assert_string_equal(errors, "");
}

/* Runs the program at path; returns how many lines said text. */
static int said_of_helper(const char *scenario, const char *path, const char *text)
{
	char helper[300];
	const char *more[] = { helper, NULL };

	snprintf(helper, sizeof helper, "HELPER=%s", path);
	assert_int_equal(run(scenario, more), 0);
	return count(errors, text);
}

static void what_cannot_be_loaded_into_is_told(void **state)
{
	char script[256];

	assert_int_equal(said_of_helper("helpers", STATIC_PROG,
					"preload_static runs without gvm, in local memory only: it "
					"is a static program"),
			 1);
	assert_int_equal(said_of_helper("helpers_let_out", STATIC_PROG, "without gvm"), 0);
	assert_int_equal(said_of_helper("helpers", "/bin/true", "without gvm"), 0);
	snprintf(script, sizeof script, "%s/script", dir);
	FILE *out = fopen(script, "w");
	assert_true(out && fprintf(out, "#!%s\n", STATIC_PROG) > 0 && !fclose(out));
	assert_int_equal(chmod(script, 0755), 0);
	assert_int_equal(said_of_helper("helpers", script, "preload_static runs without gvm"), 1);
	unlink(script);
}

static void privileges_are_told(void **state)
{
	char path[256], copy[600];
	struct statvfs fs;

	snprintf(path, sizeof path, "%s/suid", dir);
	snprintf(copy, sizeof copy, "cp /bin/true %s", path);
	if (geteuid() || statvfs(dir, &fs) || fs.f_flag & ST_NOSUID)
		skip();
	assert_int_equal(system(copy), 0);
	assert_int_equal(chown(path, 1, 1), 0);
	assert_int_equal(chmod(path, 04755), 0);
	assert_int_equal(said_of_helper("helpers", path, "it is set-user-id or set-group-id"), 1);
	assert_int_equal(said_of_helper("helpers_without", path, "without gvm"), 0);
	unlink(path);
}

static void many_threads(void **state)
{
	RUNS("threads");
	MADE("attach");
}

static void a_fork_is_followed(void **state)
{
	RUNS("fork");
	assert_int_equal(count(calls, "fork_prepare"), 1);
	assert_int_equal(count(calls, "fork_parent 1"), 1);
	assert_int_equal(count(calls, "fork_child"), 1);
	RUNS("fork_busy");
	MADE("fork_child");
	RUNS("fork_deep");
	RUNS("handlers");
	RUNS("dontfork");
	assert_int_equal(count(calls, "set_fork 0"), 1);
	assert_int_equal(count(calls, "set_fork 1"), 1);
	RUNS("reserved_fork");
	assert_int_equal(count(calls, "set_fork 0"), 1);
	RUNS("shared_fork");
	NEVER("attach");
	const char *shared[] = { "GVM_RUN_SHARED_ANON=1", NULL };
	assert_int_equal(run("shared_lost", shared), 0);
	MADE("shared");
	RUNS("exec");
	NEVER("fork_prepare");
	/* an exec that failed, and the program's own end; not the vforked child's */
	assert_int_equal(count(calls, "leave"), 2);
	assert_int_equal(count(calls, "stay"), 1);
}

static void a_fork_that_cannot_be_followed_is_loud(void **state)
{
	const char *prepare[] = { "FAKE_FAIL=fork", NULL }, *child[] = { "FAKE_FAIL=child", NULL };

	assert_int_equal(run("fork", prepare), 3); /* fork failed, and the program saw it */
	SAID("fork is refused");
	assert_int_equal(run("handlers", child), 3);
	SAID("forked child is ended");
}

static void a_fork_before_costs_nothing(void **state)
{
	RUNS("daemon");
	SAID("gvm: preload_prog["); /* of several processes: which one */
	assert_int_equal(count(calls, "open"), 1);
	NEVER("fork_prepare");
}

static void parts(void **state)
{
	RUNS("partial");
	MADE("unmap");
	RUNS("remap");
	MADE("remap 67108864 134217728");
	RUNS("discards");
	MADE("discard");
	NEVER("shared");
	const char *shared[] = { "GVM_RUN_SHARED_ANON=1", NULL };
	assert_int_equal(run("discards", shared), 0);
	MADE("shared");
	RUNS("advices");
	MADE("discard");
	RUNS("protect");
	RUNS("moved_in_vain");
	RUNS("huge_in_vain");
	assert_null(strstr(errors, "huge"));
	RUNS("dump_is_small");
	RUNS("low");
	MADE("2097152 anon");
}

static void lent_pages_are_told_of(void **state)
{
	RUNS("lent");
	assert_int_equal(count(calls, "lend"), 1);
	RUNS("fill");
	NEVER("lend");
}

static void reservations(void **state)
{
	RUNS("qemu");
	MADE("67108864 anon");
	assert_int_equal(count(calls, "attach"), 1);
	RUNS("reserve");
	MADE("16777216 anon");
}

static void blocks_of_malloc(void **state)
{
	RUNS("malloc");
	MADE("attach");
	const char *off[] = { "GVM_RUN_MALLOC=0", NULL };
	assert_int_equal(run("malloc", off), 0);
	NEVER("attach");
}

/* Not taken for one that brings its own. */
static void malloc_of_a_program_at_a_fixed_address(void **state)
{
	program = FIXED_PROG;
	int status = run("", NULL);
	program = PROG;
	assert_int_equal(status, 0);
	MADE("attach");
}

static void a_closed_standard_error_still_gets_the_report(void **state)
{
	RUNS("closed");
	SAID("gvm: took over");
}

static void code_that_is_loaded_later(void **state)
{
	RUNS("plugin");
	MADE("67108864 anon");
}

static void files_in_memory(void **state)
{
	RUNS("memfd");
	MADE("8388608 shared");
	SAID("a further mapping of a file that is paged is refused");
	SAID("not sent to another process");
	const char *other[] = { "GVM_RUN_MATCH=/dev/shm/*,*disk*", NULL };
	RUNS("data");
	NEVER("attach");
	SAID("it holds data");
	const char *load[] = { "GVM_RUN_LOAD=1", NULL };
	assert_int_equal(run("data", load), 0);
	MADE("shared");
	assert_int_equal(run("data", other), 0);
	NEVER("attach");
	SAID("--match");
}

/* The mapping is what the file holds, however else the program asks for it. */
static void files_are_what_is_mapped(void **state)
{
	RUNS("file_io");
	MADE("8388608 shared");
	SAID("sendfile of a file whose mapping is paged is refused");
	SAID("a stream on a file");
	RUNS("file_size");
	SAID("not sealed");
	RUNS("file_again");
	MADE("unmap"); /* with the last descriptor */
	SAID("its contents would be lost");
	RUNS("file_fork");
	SAID("this forked child cannot see what is in it");
	RUNS("file_stream");
	NEVER("attach");
	SAID("by a stream");
	RUNS("file_threads");
}

#define ANY_NODE "GVM_NODE=65535"

/* Objects that nodes share: as the kernel has them, but for what is refused. */
static void objects_are_as_ever(void **state)
{
	char there[64];
	const char *shared[] = { "GVM_RUN_SHARED=gvm-object", "GVM_SLAB=16777216", ANY_NODE, there,
				 NULL };

	snprintf(there, sizeof there, "FAKE_DSM=%s", dir);
	assert_int_equal(run("object", shared), 0);
	NEVER("attach");
	MADE("dsm open gvm-object node 16 bytes 4198400 slab 8388608 create");
	MADE("dsm open gvm-object.2");
	assert_int_equal(count(calls, "dsm close gvm-object"), count(calls, "dsm open gvm-object"));
	MADE("dsm delete gvm-object.object");
	SAID("they cannot be moved");
	SAID("no forked child can have them");
	SAID("gvm: shared 12.0 MiB in 3 objects with other nodes, as node 16");
	assert_int_equal(run("object_left", shared), 0);
	NEVER("dsm delete gvm-object.object");
	/* that it is there, and its size, are at home before the program is told */
	assert_int_equal(count(calls, "dsm evict gvm-object.object"), 2);
	assert_int_equal(run("object_found", shared), 0);
	MADE("dsm delete gvm-object\n");
	MADE("dsm delete gvm-object.object");
}

/* However alike their names are, and those of their regions. */
static void objects_have_memory_of_their_own(void **state)
{
	char there[64];
	const char *all[] = { "GVM_RUN_SHARED=*", ANY_NODE, there, NULL };

	snprintf(there, sizeof there, "FAKE_DSM=%s", dir);
	assert_int_equal(run("object_names", all), 0);
	MADE("dsm open gvm-object.2 node 16 bytes 4096");
	MADE("dsm open gvm-object..2 node 16 bytes 4096");
	MADE("dsm open gvm-object..2.2 node 16 bytes 4096");
	MADE("dsm open gvm-object...object node 16 bytes 4096");
	SAID("a name that nodes share is of at most 55 of [A-Za-z0-9._-], where a dot counts as "
	     "two");
}

/* Before another program begins this one has left; when none does it is back. */
static void objects_of_a_program_that_execs(void **state)
{
	char there[64];
	const char *shared[] = { "GVM_RUN_SHARED=gvm-*", ANY_NODE, there, NULL };

	snprintf(there, sizeof there, "FAKE_DSM=%s", dir);
	assert_int_equal(run("object_exec", shared), 0);
	assert_int_equal(count(calls, "dsm leave gvm-object\n"), 2);
	assert_int_equal(count(calls, "dsm leave"), 4); /* and the page that says what it is */
	assert_int_equal(count(calls, "dsm stay"), 2);
	MADE("dsm delete gvm-object\n");
}

static void objects_semaphores_heed_signals(void **state)
{
	char there[64];
	const char *shared[] = { "GVM_RUN_SHARED=gvm-*", ANY_NODE, there, NULL };

	snprintf(there, sizeof there, "FAKE_DSM=%s", dir);
	assert_int_equal(run("object_signals", shared), 0);
	MADE("dsm open gvm-object node 16");
}

/* A forked child has an id of its own; its parent's memory is not in it. */
static void objects_of_a_forked_child(void **state)
{
	char there[64];
	const char *shared[] = { "GVM_RUN_SHARED=gvm-*", ANY_NODE, there, NULL };

	snprintf(there, sizeof there, "FAKE_DSM=%s", dir);
	assert_int_equal(run("object_fork", shared), 0);
	MADE("dsm open gvm-object node 16");
	MADE("dsm open gvm-object node 17");
	SAID("its children have none of the shared memory");
}

static void what_cannot_be_shared_is_told(void **state)
{
	char there[64], left[64];
	const char *other[] = { "GVM_RUN_SHARED=else", there, NULL };
	const char *down[] = { "GVM_RUN_SHARED=gvm-object", "FAKE_FAIL=dsm", ANY_NODE, there,
			       NULL };

	snprintf(there, sizeof there, "FAKE_DSM=%s", dir);
	assert_int_equal(run("fill", other), 0);
	NEVER("attach");
	SAID("nothing was shared: the program mapped no shared memory object that --shared else");
	assert_int_equal(run("object_left", down), 3);
	SAID("shared memory gvm-object.object cannot be had: a memory node does not answer");
	down[1] = "FAKE_FAIL=home";
	assert_int_equal(run("object_left", down), 3);
	SAID("shared memory gvm-object: its memory node is gone");
	down[1] = "FAKE_FAIL=page";
	assert_int_equal(run("object_left", down), 3);
	SAID("shared memory gvm-object: whether it is there, and its size, is lost");
	SAID("delete the regions gvm-object.object and gvm-object to make it anew");
	snprintf(left, sizeof left, "%s/gvm-object.object", dir);
	assert_int_equal(unlink(left), 0);
}

static void handlers_may_map(void **state)
{
	RUNS("signals");
	MADE("attach");
}

static void stacks_may_be_paged(void **state)
{
	RUNS("stack_threads");
	MADE("attach");
	RUNS("signal_stack");
	MADE("attach");
	RUNS("signal_stacks");
	MADE("attach");
}

/* How many pages a process holds at most, of those that it had from no other. */
static unsigned most_held_by(int pid)
{
	unsigned held = 0, most = 0;
	int who;

	for (const char *line = calls; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (sscanf(line, "hold 4096 by %d", &who) == 1 && who == pid)
			held++;
		else if (sscanf(line, "let_go 4096 by %d", &who) == 1 && who == pid && held)
			held--;
		most = held > most ? held : most;
	}
	return most;
}

/* The one that was the first to hold one. */
static int first_to_hold(void)
{
	const char *line = strstr(calls, "hold 4096 by ");
	int pid = 0;

	assert_non_null(line);
	assert_int_equal(sscanf(line, "hold 4096 by %d", &pid), 1);
	return pid;
}

/* The top of a stack that is paged stays here while there is the thread, and not for ever, even
 * where nobody says that it is over: 288 threads are not joined, 24 at a time; the others are, and
 * there are 24 of them at once. All are looked at when there are twice as many as were there the
 * last time, and 16. */
static void tops_of_paged_stacks_are_held(void **state)
{
	RUNS("threads");
	NEVER("hold");
	RUNS("stack_ends");
	assert_int_equal(count(calls, "hold 4096"), 4); /* stacks, for three threads each */
	assert_int_equal(most_held_by(first_to_hold()), 1);
	RUNS("stack_many");
	assert_true(count(calls, "hold 4096") > 288);
	assert_in_range(most_held_by(first_to_hold()), 24, 2 * 24 + 16);
}

static void no_memory_is_said(void **state)
{
	const char *full[] = { "FAKE_FAIL=attach", NULL }, *none[] = { "FAKE_FAIL=open", NULL };

	assert_int_equal(run("fill", full), 3);
	SAID("No space left on device");
	assert_null(strstr(errors, "WARNING"));
	assert_int_equal(run("insists", full), 0);
	assert_int_equal(count(errors, "cannot be taken over"), 10);
	SAID("512 times so far");
	assert_int_equal(run("fill", none), 3);
	SAID("the pager cannot be started");
	assert_int_equal(count(errors, "cannot be"), 1);
	RUNS("limited");
	SAID("32 MiB of writable memory (ulimit -d)");
}

static void statistics_are_left_in_a_file(void **state)
{
	char setting[300], text[4096];

	snprintf(setting, sizeof setting, "GVM_STATS_FILE=%s/stats", dir);
	const char *stats[] = { setting, NULL };
	assert_int_equal(run("fill", stats), 0);
	slurp("stats", text, sizeof text);
	assert_non_null(strstr(text, "\"program\":\"preload_prog\""));
	assert_non_null(strstr(text, "\"remote\":{\"count\":0"));
}

/* ---- gvm set -------------------------------------------------------------------------------- */

static char said[512]; /* the answer to the last request */

/* Send a request to the socket of process pid; 0 and the answer in said, or the errno. */
static int ask_bytes(int pid, const void *request, size_t len)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), err = 0;

	assert_true(fd >= 0);
	snprintf(address.sun_path, sizeof address.sun_path, "%s/%d.sock", dir, pid);
	memset(said, 0, sizeof said);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) ||
	    send(fd, request, len, MSG_NOSIGNAL) < 0 || recv(fd, said, sizeof said - 1, 0) < 0)
		err = errno;
	close(fd);
	return err;
}

static const char *ask(int pid, const char *request)
{
	return ask_bytes(pid, request, strlen(request)) ? "nothing" : said;
}

#define ANSWERS(pid, request, text) assert_non_null(strstr(ask(pid, request), text))

static pid_t begin_sleeping(const char *scenario, FILE **out)
{
	static char control[300];
	const char *more[] = { control, NULL };
	int pipes[2];

	snprintf(control, sizeof control, "GVM_CONTROL=%s", dir);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		setenv("GVM_LOCAL", "67108864", 1);
		setenv("GVM_PREFETCH", "128", 1);
		if (dup2(pipes[1], 1) < 0)
			_exit(97);
		become(scenario, more);
	}
	close(pipes[1]);
	*out = fdopen(pipes[0], "r");
	return pid;
}

static void end_sleeping(pid_t pid)
{
	int status;

	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
}

static void forget_socket(pid_t pid)
{
	char path[256];

	snprintf(path, sizeof path, "%s/%d.sock", dir, (int)pid);
	assert_int_equal(unlink(path), 0);
}

static void the_budget_can_be_set(void **state)
{
	char line[64], all[64];
	FILE *out;
	pid_t pid = begin_sleeping("sleeper", &out);

	assert_non_null(fgets(line, sizeof line, out));
	ANSWERS(pid, "get", "local=67108864 used=0 prefetch=128 program=preload_prog");
	ANSWERS(pid, "set local=16777216", "local=16777216 used=0 prefetch=128");
	ANSWERS(pid, "set prefetch=0 local=1048576", "local=1048576 used=0 prefetch=0");
	ANSWERS(pid, "get", "local=1048576");
	end_sleeping(pid);
	fclose(out);
	slurp("calls", calls, sizeof calls);
	snprintf(all, sizeof all, "set_local 16777216\nset_local 1048576\nset_prefetch 0\n");
	MADE(all);
	assert_string_equal(ask(pid, "get"), "nothing"); /* what it left behind */
	forget_socket(pid);
	slurp("errors", errors, sizeof errors);
}

/* What makes no sense changes nothing, and neither does a client that breaks off. */
static void hostile_requests(void **state)
{
	static const char *const refused[] = {
		"set ",
		"set local=1048575",
		"set local=281474976710657",
		"set local=99999999999999999999999999",
		"set local=-1",
		"set local=",
		"set prefetch=257",
		"set prefetch=0x1",
		"set prefetch=1 local=1",
		"set local=1048576 nonsense=1",
		"set local=1048576  prefetch=1",
		"nonsense",
		"set",
	};
	char line[64], big[4096];
	FILE *out;
	pid_t pid = begin_sleeping("sleeper", &out);

	assert_non_null(fgets(line, sizeof line, out));
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		ANSWERS(pid, refused[i], "error ");
	memset(big, 'x', sizeof big);
	assert_int_equal(ask_bytes(pid, big, sizeof big), 0);
	assert_non_null(strstr(said, "error "));
	assert_int_equal(ask_bytes(pid, "get\0get", 7), 0);
	assert_non_null(strstr(said, "error "));
	ask_bytes(pid, "", 0); /* looks like the end of the connection */
	ANSWERS(pid, "get", "local=67108864");
	end_sleeping(pid);
	fclose(out);
	slurp("calls", calls, sizeof calls);
	NEVER("set_");
	forget_socket(pid);
	slurp("errors", errors, sizeof errors);
}

/* Even where the folder and the socket's mode would let it in. */
static void another_user_is_not_obeyed(void **state)
{
	char line[64], path[256];
	FILE *out;
	int status;

	if (geteuid())
		skip();
	pid_t pid = begin_sleeping("sleeper", &out);
	assert_non_null(fgets(line, sizeof line, out));
	snprintf(path, sizeof path, "%s/%d.sock", dir, (int)pid);
	assert_int_equal(chmod(dir, 0755) | chmod(path, 0666), 0);
	pid_t other = fork();
	if (!other) {
		if (setresuid(65534, 65534, 65534))
			_exit(2);
		_exit(ask_bytes(pid, "set local=1048576", 17) == 0 && *said);
	}
	assert_int_equal(waitpid(other, &status, 0), other);
	assert_int_equal(status, 0);
	ANSWERS(pid, "get", "local=67108864");
	end_sleeping(pid);
	fclose(out);
	forget_socket(pid);
	slurp("calls", calls, sizeof calls);
	slurp("errors", errors, sizeof errors);
}

static void a_forked_child_has_a_budget_of_its_own(void **state)
{
	char line[64];
	FILE *out;
	pid_t pid = begin_sleeping("sleepers", &out), child = 0;

	for (int i = 0; i < 2; i++) {
		assert_non_null(fgets(line, sizeof line, out));
		if (atoi(line) != pid)
			child = atoi(line);
	}
	assert_true(child > 0);
	ANSWERS(pid, "set local=33554432", "local=33554432");
	ANSWERS(child, "get", "local=67108864");
	ANSWERS(child, "set local=16777216", "local=16777216");
	ANSWERS(pid, "get", "local=33554432");
	end_sleeping(pid);
	assert_string_equal(ask(pid, "get"), "nothing"); /* the child does not hold its socket */
	ANSWERS(child, "get", "local=16777216");
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_null(fgets(line, sizeof line, out)); /* it has ended */
	fclose(out);
	forget_socket(pid);
	forget_socket(child);
	slurp("calls", calls, sizeof calls);
	slurp("errors", errors, sizeof errors);
}

static int begin(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int end(void **state)
{
	return rmdir(dir);
}

/* A test leaves nothing in the folder. What one that has failed left there goes, so that those
 * after it do not fail for its sake. */
static int tidy(void **state)
{
	char path[600];
	const struct dirent *entry;
	DIR *open_dir = opendir(dir);
	int left = open_dir ? 0 : -1;

	while (open_dir && (entry = readdir(open_dir))) {
		if (entry->d_name[0] == '.')
			continue;
		print_message("left: %s\n", entry->d_name);
		snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
		unlink(path);
		left = -1;
	}
	if (open_dir)
		closedir(open_dir);
	return left;
}

#define T(name) cmocka_unit_test_teardown(name, tidy)

/* One test: its name as the argument. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(a_mapping_is_taken_and_reported),
		T(without_a_cluster_nothing_happens),
		T(nothing_taken_is_a_loud_warning),
		T(what_is_left_alone_and_large_is_told),
		T(descriptors_of_the_pager_stay_open),
		T(who_starts_others_is_not_warned),
		T(a_cleared_environment_is_filled),
		T(what_cannot_be_loaded_into_is_told),
		T(privileges_are_told),
		T(many_threads),
		T(a_fork_is_followed),
		T(a_fork_that_cannot_be_followed_is_loud),
		T(a_fork_before_costs_nothing),
		T(parts),
		T(lent_pages_are_told_of),
		T(reservations),
		T(blocks_of_malloc),
		T(malloc_of_a_program_at_a_fixed_address),
		T(a_closed_standard_error_still_gets_the_report),
		T(code_that_is_loaded_later),
		T(files_in_memory),
		T(files_are_what_is_mapped),
		T(objects_are_as_ever),
		T(objects_have_memory_of_their_own),
		T(objects_semaphores_heed_signals),
		T(objects_of_a_forked_child),
		T(objects_of_a_program_that_execs),
		T(what_cannot_be_shared_is_told),
		T(handlers_may_map),
		T(stacks_may_be_paged),
		T(tops_of_paged_stacks_are_held),
		T(no_memory_is_said),
		T(statistics_are_left_in_a_file),
		T(the_budget_can_be_set),
		T(hostile_requests),
		T(another_user_is_not_obeyed),
		T(a_forked_child_has_a_budget_of_its_own),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, begin, end);
}
#else
int main(void)
{
	puts("the preload library is not built with sanitizers");
	return 0;
}
#endif
