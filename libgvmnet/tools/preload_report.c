/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the user is told: a line for what is taken over (--verbose), a warning when nothing was, a
 * report at the end, and a file of statistics, renewed each second, for "gvm top". Counters here
 * are changed under the lock of preload_take.c, or atomically.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "preload.h"

#define MIB         (1024.0 * 1024)
#define JEMALLOC    "LD_PRELOAD=libjemalloc.so.2 maps large pieces for such blocks"
#define LEAST_BLOCK 65536u       /* smaller ones are not worth an option */
#define LEAST_TOLD  (32.0 * MIB) /* of local memory that the program has beside what is paged */

static struct {
	char name[64];    /* of the program; libc's points to what a program may write over */
	_Atomic(int) pid; /* that reports; 0: it has */
	pid_t session;    /* that it was started in */
	int first;        /* this is the process that gvm run became */
	int other;        /* it is not */
	struct gvm_pager *pager;
	pid_t running; /* whose thread renews the file */
	_Atomic(uint64_t) ranges, mappings;
	_Atomic(uint64_t) bytes;   /* of ranges */
	_Atomic(uint64_t) largest; /* mapping that was not taken */
	const char *_Atomic why;
	_Atomic(uint64_t) largest_data; /* the same of those that are no code and no stack */
	const char *_Atomic why_data;
	_Atomic(uint64_t) left; /* the same of those that an option would have taken */
	const char *_Atomic why_left;
	_Atomic(int) refused; /* a mapping failed: that was said */
	int forked;           /* while nothing was taken over: a child may do the work */
	int err_fd;           /* standard error as it was, or 0 */
	dev_t err_dev;
	ino_t err_ino;
	uint64_t began;
} report;

/* Where lines go: standard error, but not a file that merely has its number by now. Some programs
 * close it before they end; then to where it was at the start. */
static int choose_fd(void)
{
	struct stat st;

	if (!fstat(STDERR_FILENO, &st) &&
	    ((st.st_dev == report.err_dev && st.st_ino == report.err_ino) || S_ISCHR(st.st_mode) ||
	     S_ISFIFO(st.st_mode) ||
	     (S_ISREG(st.st_mode) && fcntl(STDERR_FILENO, F_GETFL) & O_APPEND)))
		return STDERR_FILENO;
	return report.err_fd > 0 ? report.err_fd : STDERR_FILENO;
}

void say(const char *fmt, ...)
{
	char line[512];
	size_t used;
	int saved = errno, fd = choose_fd();
	va_list ap;

	/* of several processes: which one says it */
	if (report.other)
		snprintf(line, sizeof line, "gvm: %.32s[%d]: ", report.name, (int)raw_getpid());
	else
		strcpy(line, "gvm: ");
	used = strlen(line);

	va_start(ap, fmt);
	vsnprintf(line + used, sizeof line - used - 1, fmt, ap);
	va_end(ap);
	used = strlen(line);
	line[used++] = '\n';
	for (size_t done = 0; done < used;) {
		ssize_t n = write(fd, line + done, used - done);
		if (n <= 0 && errno != EINTR)
			break;
		done += n > 0 ? (size_t)n : 0;
	}
	errno = saved;
}

static void keep_stderr(void)
{
	struct stat st;

	if (fstat(STDERR_FILENO, &st))
		return;
	report.err_dev = st.st_dev;
	report.err_ino = st.st_ino;
	report.err_fd = fd_own(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
}

/* "1.0 GiB" */
static const char *human(uint64_t bytes, char *text, size_t size)
{
	double mib = (double)bytes / MIB;

	if (mib >= 1024)
		snprintf(text, size, "%.1f GiB", mib / 1024);
	else if (mib >= 1)
		snprintf(text, size, "%.1f MiB", mib);
	else
		snprintf(text, size, "%.0f KiB", mib * 1024);
	return text;
}

/*
 * Has this process started others before it became this program? bash -c 'big; small' becomes
 * small, and cannot tell it what big was. The kernel can: it keeps what a process knows of its
 * children, those that are there and the use of those that were, when another program is run in it.
 */
static int has_started_others(void)
{
	siginfo_t info;
	struct rusage used;

	if (!waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT))
		return 1;
	return !getrusage(RUSAGE_CHILDREN, &used) && used.ru_minflt > 0;
}

/* Kept as it is now: postgres writes its state over its arguments. It goes into JSON, so nothing
 * of it may end a string there. */
static void keep_name(void)
{
	snprintf(report.name, sizeof report.name, "%s", program_invocation_short_name);
	for (char *p = report.name; *p; p++)
		if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ')
			*p = '?';
}

const char *report_name(void)
{
	return report.name;
}

void report_init(void)
{
	const char *first = getenv("GVM_RUN_PID");

	keep_name();
	report.session = getsid(0);
	report.pid = preload_active ? (int)raw_getpid() : 0;
	report.first = first && atoi(first) == report.pid;
	report.other = first && !report.first;
	if (!preload_active)
		return;
	report.forked = report.first && has_started_others();
	keep_stderr();
}

/* Is that memory of the kind that programs keep their data in? Code is mapped large and used
 * little, stacks alike. */
static int is_data(const char *why)
{
	return !strstr(why, "executable") && !strstr(why, "a stack");
}

/* A few reasons, each once: a program may map again and again. */
static void say_left(size_t bytes, const char *why)
{
	static const char *_Atomic said[8];
	char size[32], budget[32];

	for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
		const char *none = NULL;
		if (atomic_compare_exchange_strong(&said[i], &none, why)) {
			say("a mapping of %s is left in local memory, more than --local (%s): it "
			    "is %s",
			    human(bytes, size, sizeof size),
			    human(preload_policy.local, budget, sizeof budget), why);
			return;
		}
		if (none == why)
			return;
	}
}

void report_passed(size_t bytes, const char *why)
{
	report_passed_quietly(bytes, why);
	if (bytes > preload_policy.local && bytes >= preload_policy.min && why && is_data(why))
		say_left(bytes, why);
}

void report_passed_quietly(size_t bytes, const char *why)
{
	if (bytes > report.largest && why) {
		report.largest = bytes;
		report.why = why;
	}
	if (bytes > report.largest_data && why && is_data(why)) {
		report.largest_data = bytes;
		report.why_data = why;
	}
	if (bytes >= preload_policy.min && bytes > report.left && why && strstr(why, "--")) {
		report.left = bytes;
		report.why_left = why;
	}
}

void report_refused(void)
{
	report.refused = 1;
}

void report_took(const struct source *source, uintptr_t base, size_t bytes, int piece)
{
	char size[32];

	if (!piece) {
		report.ranges++;
		report.bytes += bytes;
	}
	if (!source->pool || piece)
		report.mappings++;
	if (preload_policy.verbose)
		say("took over %s at %#lx (%s) %s region %s", human(bytes, size, sizeof size),
		    (unsigned long)base, source->what, piece ? "in" : "as", source->name);
}

/* ---- statistics file ------------------------------------------------------------------------ */

static void write_latency(FILE *out, const char *name, const struct gvm_hist *hist, const char *end)
{
	fprintf(out, "\"%s\":{\"count\":%llu,\"p50_ns\":%llu,\"p99_ns\":%llu,\"max_ns\":%llu}%s",
		name, (unsigned long long)hist->count,
		(unsigned long long)gvm_hist_percentile(hist, 0.5),
		(unsigned long long)gvm_hist_percentile(hist, 0.99), (unsigned long long)hist->max,
		end);
}

static void write_stats(FILE *out, struct gvm_pager *pager)
{
	struct gvm_pager_stats stats;
	struct gvm_pager_latency latency;
	size_t count;
	const struct gvm_counter *counters = gvm_pager_counters(&count);

	fprintf(out, "{\"program\":\"%s\",\"pid\":%d,\"time\":%lld,\"uptime_s\":%.1f,", report.name,
		(int)raw_getpid(), (long long)time(NULL), (double)(gvm_now() - report.began) / 1e9);
	int shared = shared_json(out);
	if (!pager) {
		fputs("}\n", out);
		return;
	}
	gvm_pager_stats(pager, &stats, &latency);
	fprintf(out, "%s\"local_bytes\":%llu,\"mappings\":%llu,\"taken_bytes\":%llu,",
		shared ? "," : "", (unsigned long long)control_local(),
		(unsigned long long)report.mappings, (unsigned long long)report.bytes);
	fputs("\"latency\":{", out);
	write_latency(out, "all", &latency.all, ",");
	write_latency(out, "remote", &latency.remote, ",");
	write_latency(out, "zero", &latency.zero, ",");
	write_latency(out, "write", &latency.write, ",");
	write_latency(out, "victim", &latency.victim, "},");
	gvm_counters_json(out, counters, count, &stats);
	fputs("}\n", out);
}

/* Not by a stream: its descriptor would be one that the program can close, and reuse. */
static int write_file(const char *name, struct gvm_pager *pager)
{
	char *text = NULL;
	size_t len = 0, done = 0;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return 0;
	write_stats(out, pager);
	int ok = !fclose(out), fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	while (ok && fd >= 0 && done < len) {
		ssize_t n = write(fd, text + done, len - done);
		ok = n > 0;
		done += ok ? (size_t)n : 0;
	}
	if (fd >= 0)
		ok = !close(fd) && ok;
	free(text);
	return ok && fd >= 0;
}

/* The whole file or none of it: readers never see a half. */
static void renew_file(struct gvm_pager *pager)
{
	char temp[4096];
	int len =
	    snprintf(temp, sizeof temp, "%s.%d", preload_policy.stats_file, (int)raw_getpid());

	if (len >= (int)sizeof temp)
		return;
	if (!write_file(temp, pager) || rename(temp, preload_policy.stats_file)) {
		say_once("the statistics file %s cannot be renewed: %s (the program goes on)",
			 preload_policy.stats_file, strerror(errno));
		unlink(temp);
	}
}

static void *stats_thread(void *arg)
{
	struct timespec second = { .tv_sec = 1 };

	for (;;) {
		if (report.pid)
			renew_file(report.pager);
		nanosleep(&second, NULL);
	}
	return arg;
}

void report_started(struct gvm_pager *pager)
{
	pthread_t thread;

	if (pager)
		report.pager = pager;
	if (report.running == raw_getpid())
		return;
	report.running = raw_getpid();
	report.began = gvm_now();
	/* qemu -daemonize: its standard error goes soon, and with it the report. Each process of
	 * postgres leads a session, which is no such thing. */
	pid_t session = getsid(0);
	if (report.other && session != report.session && session != raw_getpid())
		say("it goes on in the background, its large mappings are taken over; gvm top "
		    "shows "
		    "it");
	if (!*preload_policy.stats_file)
		return;
	if (pthread_create(&thread, NULL, stats_thread, NULL))
		say("the statistics file is not written: no thread can be started");
	else
		pthread_detach(thread);
}

/* ---- the end -------------------------------------------------------------------------------- */

/* Bytes that were here at the most, but for pages of files and what was paged. The kernel counts
 * pages of files as they are now. */
static uint64_t local_beside(uint64_t paged)
{
	char text[128] = "";
	unsigned long long shared = 0;
	struct rusage used;
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && read(fd, text, sizeof text - 1) > 0)
		sscanf(text, "%*u %*u %llu", &shared);
	if (fd >= 0)
		close(fd);
	if (getrusage(RUSAGE_SELF, &used))
		return 0;
	uint64_t most = (uint64_t)used.ru_maxrss * 1024, other = shared * PRELOAD_PAGE + paged;
	return most > other ? most - other : 0;
}

static void warn_no_mapping(void)
{
	char most[32], block[32];
	size_t largest;
	int ours = malloc_left(&largest);

	uint64_t beside = local_beside(0);
	human(beside, most, sizeof most);
	human(largest, block, sizeof block);
	if (ours && largest >= LEAST_BLOCK && (double)beside < LEAST_TOLD)
		say("WARNING: nothing was taken over: the program mapped nothing that could be, "
		    "and "
		    "its largest block of malloc was %s; --min %zuK --malloc %zuK would take it; "
		    "%s were local",
		    block, largest / 1024, largest / 1024, most);
	else if ((double)beside < LEAST_TOLD)
		say("WARNING: nothing was taken over: the program mapped nothing that could be; "
		    "%s were local",
		    most);
	else
		say("WARNING: nothing was taken over: the program mapped nothing that could be; "
		    "%s, mostly small blocks of malloc, were local; " JEMALLOC,
		    most);
}

static void warn_nothing(void)
{
	char largest[32], min[32];

	human(report.largest, largest, sizeof largest);
	human(preload_policy.min, min, sizeof min);
	if (preload_policy.local_only)
		say("WARNING: nothing was shared: the program mapped no shared memory object that "
		    "--shared %s names",
		    preload_policy.names);
	else if (!report.largest)
		warn_no_mapping();
	else if (report.largest < preload_policy.min)
		say("WARNING: nothing was taken over: the largest mapping was %s, and --min is %s; "
		    "--min %lluK would take it",
		    largest, min, (unsigned long long)(report.largest / 1024));
	else
		say("WARNING: nothing was taken over: the largest mapping, %s, is %s", largest,
		    report.why);
}

static void print_report(void)
{
	struct gvm_pager_stats s;
	struct gvm_pager_latency latency;
	const struct gvm_hist *all = &latency.all;
	char size[32], local[32], in[32], out[32];

	gvm_pager_stats(report.pager, &s, &latency);
	uint64_t waited = gvm_pager_faults_waited(&s);
	uint64_t near = s.faults > waited ? s.faults - waited : 0;
	say("took over %s in %llu mapping%s; at most %s of it local",
	    human(report.bytes, size, sizeof size), (unsigned long long)report.mappings,
	    report.mappings == 1 ? "" : "s", human(control_local_most(), local, sizeof local));
	say("%llu faults, p50 %.1f us, p99 %.1f us; %.1f %% did not wait for a memory node",
	    (unsigned long long)s.faults, (double)gvm_hist_percentile(all, 0.5) / 1e3,
	    (double)gvm_hist_percentile(all, 0.99) / 1e3,
	    s.faults ? 100.0 * (double)near / (double)s.faults : 100.0);
	say("%llu pages fetched (%s), %llu of them ahead of which %llu used; %llu written back "
	    "(%s)",
	    (unsigned long long)s.fetched_pages, human(s.fetched_bytes, in, sizeof in),
	    (unsigned long long)s.prefetched_pages, (unsigned long long)s.prefetch_used,
	    (unsigned long long)s.written_pages, human(s.written_bytes, out, sizeof out));
	if (report.left)
		say("left local: a mapping of %s, because it is %s",
		    human(report.left, size, sizeof size), report.why_left);
	else if (report.largest_data > report.bytes)
		say("left local: a mapping of %s, more than all that was taken over, because it is "
		    "%s",
		    human(report.largest_data, size, sizeof size), report.why_data);
	uint64_t beside = local_beside(control_local_most());
	if ((double)beside > LEAST_TOLD && beside > control_local_most() / 4)
		say("beside that at least %s were local that are not taken over: executable "
		    "memory, "
		    "and small blocks of malloc; " JEMALLOC,
		    human(beside, size, sizeof size));
	if (s.lost_pages || s.unreachable_zeroed || s.unreachable_sigbus)
		say("LOST: %llu pages lost, %llu read as zeros, %llu ended in SIGBUS",
		    (unsigned long long)s.lost_pages, (unsigned long long)s.unreachable_zeroed,
		    (unsigned long long)s.unreachable_sigbus);
}

/* Once, by the process that the library was loaded into (not a vforked child on its way to exec).
 */
void report_final(void)
{
	int pid = (int)raw_getpid();

	if (!atomic_compare_exchange_strong(&report.pid, &pid, 0))
		return;
	preload_inside++;
	int paged = report.ranges && report.pager;
	int shared = shared_print(preload_policy.report);
	if (!paged && !shared && report.first && !report.refused && !report.forked)
		warn_nothing();
	if (paged && preload_policy.report)
		print_report();
	if (paged || shared) {
		if (preload_policy.stats_own)
			unlink(preload_policy.stats_file);
		else if (*preload_policy.stats_file)
			renew_file(report.pager);
	}
	preload_inside--;
}

void report_fork_parent(void)
{
	report.forked = 1;
}

void report_exec(void)
{
	if (report.pid != (int)raw_getpid())
		report.forked = 1;
}

/*
 * A child of a process that is paged already is one of many, and tells nothing unless asked to. A
 * child from before that may be the daemon that does the work. None keeps the parent's standard
 * error open: who waits for its end would wait for a daemon's.
 */
int report_fork_child(int paged)
{
	paged = paged && report.ranges;
	int silent = paged && !preload_policy.verbose;

	report.pid = preload_active && !silent ? (int)raw_getpid() : 0;
	report.first = 0;
	report.other = 1;
	if (report.err_fd > 0)
		close(report.err_fd);
	report.err_fd = 0;
	if (!paged) {
		policy_stats_file(&preload_policy);
		return 0;
	}
	report.ranges = report.mappings = report.bytes = 0;
	preload_policy.stats_file = "";
	return 1;
}
