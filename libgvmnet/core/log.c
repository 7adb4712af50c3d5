/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The log: one line a call, to standard error or to the program's sink. A line is put together on
 * the stack and leaves in one write, so lines of several threads do not mix, nothing is allocated
 * (a pager thread may log while the program's allocator waits for it), and errno stays as it was.
 * Any thread.
 */
#include <gvmnet/gvmnet.h>

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024

static const char *const level_names[] = { "error", "warn", "info", "debug" };
#define LEVELS (sizeof(level_names) / sizeof(level_names[0]))

static void (*log_sink)(enum gvm_log_level level, const char *line);
static int log_level = -1; /* -1: GVM_LOG has not been read yet */

static int level_from_environment(void)
{
	const char *text = getenv("GVM_LOG");
	size_t i;

	for (i = 0; text && i < LEVELS; i++)
		if (strcmp(text, level_names[i]) == 0)
			return (int)i;
	return GVM_LOG_WARN;
}

enum gvm_log_level gvm_log_level(void)
{
	int level = __atomic_load_n(&log_level, __ATOMIC_RELAXED);

	if (level < 0) {
		int unset = -1;

		level = level_from_environment();
		if (!__atomic_compare_exchange_n(&log_level, &unset, level, 0, __ATOMIC_RELAXED,
						 __ATOMIC_RELAXED))
			level = unset;
	}
	return (enum gvm_log_level)level;
}

void gvm_log_set_level(enum gvm_log_level level)
{
	__atomic_store_n(&log_level, (int)level, __ATOMIC_RELAXED);
}

void gvm_log_set(void (*sink)(enum gvm_log_level level, const char *line))
{
	__atomic_store_n(&log_sink, sink, __ATOMIC_RELEASE);
}

static void write_all(const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = write(STDERR_FILENO, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		text += n;
		len -= (size_t)n;
	}
}

/* Some text comes from other machines: it must not start lines of its own or move the cursor. */
static void defuse(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			*text = '?';
}

static void format_line(char *line, size_t size, const char *fmt, va_list args)
{
	int n = vsnprintf(line, size, fmt, args);

	if (n < 0)
		snprintf(line, size, "(a line that could not be formatted: %.100s)", fmt);
	else if ((size_t)n >= size)
		memcpy(line + size - 4, "...", 4);
	defuse(line);
}

static void to_stderr(enum gvm_log_level level, const char *line)
{
	char text[LINE_MAX_BYTES + 32];
	int n = snprintf(text, sizeof(text), "gvmnet: %s: %s\n", level_names[level], line);

	write_all(text, (size_t)n);
}

static void log_va(enum gvm_log_level level, const char *fmt, va_list args)
{
	void (*sink)(enum gvm_log_level, const char *) =
	    __atomic_load_n(&log_sink, __ATOMIC_ACQUIRE);
	char line[LINE_MAX_BYTES];
	int saved = errno;

	format_line(line, sizeof(line), fmt, args);
	(sink ? sink : to_stderr)(level, line);
	errno = saved;
}

void gvm_log(enum gvm_log_level level, const char *fmt, ...)
{
	va_list args;

	if (level > gvm_log_level())
		return;
	va_start(args, fmt);
	log_va(level, fmt, args);
	va_end(args);
}

static uint32_t limit_window(const struct gvm_log_limit *limit)
{
	uint32_t window = __atomic_load_n(&limit->window, __ATOMIC_RELAXED);

	return window ? window : 1;
}

/* Twice as long if lines were left out and still come, else a second again. */
static uint32_t next_window(uint32_t window, uint64_t passed, uint32_t left_out)
{
	if (!left_out || passed > 2ull * window)
		return 1;
	return window < GVM_LOG_WINDOW_S ? 2 * window : window;
}

/* The thread that first sees the window over opens the next one, and takes the number of lines left
 * out. */
static uint32_t limit_turn(struct gvm_log_limit *limit)
{
	struct timespec ts;
	uint64_t now, seen = __atomic_load_n(&limit->second, __ATOMIC_RELAXED);
	uint32_t left_out, window = limit_window(limit);

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	now = (uint64_t)ts.tv_sec + 1; /* never 0, which is a limit not used yet */
	if ((seen && now - seen < window) ||
	    !__atomic_compare_exchange_n(&limit->second, &seen, now, 0, __ATOMIC_RELAXED,
					 __ATOMIC_RELAXED))
		return 0;
	left_out = __atomic_exchange_n(&limit->left_out, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&limit->window, next_window(window, now - seen, left_out),
			 __ATOMIC_RELAXED);
	__atomic_store_n(&limit->lines, 0, __ATOMIC_RELAXED);
	return left_out;
}

/* So many in a window: the longer it is, the less news there is in one more. */
static uint32_t limit_lines(const struct gvm_log_limit *limit)
{
	uint32_t window = limit_window(limit);

	return window < GVM_LOG_BURST ? GVM_LOG_BURST / window : 1;
}

void gvm_log_limited(struct gvm_log_limit *limit, enum gvm_log_level level, const char *fmt, ...)
{
	uint32_t left_out, most;
	va_list args;

	if (level > gvm_log_level())
		return;
	left_out = limit_turn(limit);
	most = limit_lines(limit);
	if (left_out)
		gvm_log(level, "(%u lines like the next were left out)", left_out);
	/* A counter that stands still cannot wrap round to zero under a long flood. */
	if (__atomic_load_n(&limit->lines, __ATOMIC_RELAXED) >= most ||
	    __atomic_fetch_add(&limit->lines, 1, __ATOMIC_RELAXED) >= most) {
		__atomic_fetch_add(&limit->left_out, 1, __ATOMIC_RELAXED);
		return;
	}
	va_start(args, fmt);
	log_va(level, fmt, args);
	va_end(args);
}
