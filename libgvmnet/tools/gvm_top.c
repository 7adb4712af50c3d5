/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gvm top: a live view of pagers and memory nodes, on a terminal with ncurses, elsewhere as plain
 * text. One thread: ask, draw, wait for a key or the next second.
 */
#include "tools/gvm_top.h"
#include "tools/gvm.h"

#include <gvmnet/gvmnet.h>

#include <curses.h>
#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIVE_PATIENCE_NS 100000000ull /* keys should not wait for a node that is away */
#define ONCE_PATIENCE_NS 2000000000ull

static volatile sig_atomic_t told_to_stop;

static void stop(int signal)
{
	told_to_stop = 1;
}

/* ---- plain text ---------------------------------------------------------------------------- */

static void plain_line(struct top_out *out, enum top_style style, const char *text)
{
	printf("%s\n", text);
}

static int show_plain(struct top_sources *sources)
{
	struct top_out out = { plain_line };
	struct top_source *s = top_sources_first(sources);
	int status = s ? GVM_EXIT_OK : GVM_EXIT_FAILED;

	if (!s)
		fprintf(stderr,
			"gvm top: nothing to show: no pager of this user runs, and no memory "
			"node is named\n");
	for (; s; s = s->next) {
		top_show(&out, s);
		if (s->next)
			printf("\n");
		if (*s->why)
			status = GVM_EXIT_FAILED;
	}
	return fflush(stdout) == 0 ? status : GVM_EXIT_FAILED;
}

/* ---- the screen ---------------------------------------------------------------------------- */

struct screen {
	struct top_out out;
	int row, skip; /* lines still to be scrolled past */
};

static void screen_line(struct top_out *out, enum top_style style, const char *text)
{
	static const attr_t attributes[] = { A_NORMAL, A_BOLD, A_REVERSE, A_BOLD | A_STANDOUT };
	struct screen *screen = (struct screen *)out;

	if (screen->skip > 0) {
		screen->skip--;
		return;
	}
	if (screen->row >= LINES - 1)
		return;
	attrset(attributes[style]);
	mvaddnstr(screen->row++, 0, text, COLS);
	attrset(A_NORMAL);
}

static struct top_source *nth(struct top_sources *sources, int n)
{
	struct top_source *s = top_sources_first(sources);

	while (s && n-- > 0)
		s = s->next;
	return s;
}

static int count_of(struct top_sources *sources)
{
	int n = 0;

	while (nth(sources, n))
		n++;
	return n;
}

/* The list has at most a third of the screen, and keeps the chosen one in sight. */
static void draw_list(struct screen *screen, struct top_sources *sources, int chosen, int count)
{
	int room = LINES / 3 > 1 ? LINES / 3 : 1;
	int i, first = chosen < room ? 0 : chosen - room + 1;

	for (i = first; i < count && i < first + room; i++)
		top_show_brief(&screen->out, nth(sources, i), i == chosen ? TOP_HEAD : TOP_PLAIN);
	screen->row++;
}

static void draw(struct top_sources *sources, int *chosen, int scroll)
{
	struct screen screen = { .out = { screen_line } };
	int count = count_of(sources);

	if (*chosen >= count) /* the last ones have ended */
		*chosen = count ? count - 1 : 0;
	erase();
	if (count > 1)
		draw_list(&screen, sources, *chosen, count);
	screen.skip = scroll;
	if (count > 0)
		top_show(&screen.out, nth(sources, *chosen));
	else
		screen_line(
		    &screen.out, TOP_PLAIN,
		    "Nothing yet: no pager of this user runs, and no memory node is named.");
	mvaddnstr(LINES - 1, 0, "q quit   Tab next   Up, Down scroll", COLS);
	refresh();
}

/* 0: it is time to end. */
static int act_on(int key, int count, int *chosen, int *scroll)
{
	switch (key) {
	case 'q':
	case 'Q':
	case 27:
		return 0;
	case '\t':
		*chosen = count ? (*chosen + 1) % count : 0;
		*scroll = 0;
		break;
	case KEY_BTAB:
		*chosen = count ? (*chosen + count - 1) % count : 0;
		*scroll = 0;
		break;
	case KEY_DOWN:
		(*scroll)++;
		break;
	case KEY_UP:
		*scroll -= *scroll > 0;
		break;
	default:
		break;
	}
	return 1;
}

/* Until the next look at the sources, keys only redraw. */
static int wait_for_keys(struct top_sources *sources, uint64_t until, int *chosen, int *scroll)
{
	for (;;) {
		uint64_t now = gvm_now();
		int key;

		if (told_to_stop)
			return 0;
		if (now >= until)
			return 1;
		timeout((int)((until - now) / 1000000) + 1);
		key = getch();
		if (!act_on(key, count_of(sources), chosen, scroll))
			return 0;
		if (key != ERR)
			draw(sources, chosen, *scroll);
	}
}

static int show_live(struct top_sources *sources, uint64_t interval_ns)
{
	struct sigaction action = { .sa_handler = stop };
	int chosen = 0, scroll = 0;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	gvm_why_begin(); /* a line to standard error would spoil the screen */
	setlocale(LC_ALL, "");
	if (!initscr())
		return GVM_EXIT_FAILED;
	set_escdelay(25);
	cbreak();
	noecho();
	keypad(stdscr, TRUE);
	curs_set(0);
	do {
		top_sources_refresh(sources, LIVE_PATIENCE_NS);
		draw(sources, &chosen, scroll);
	} while (wait_for_keys(sources, gvm_now() + interval_ns, &chosen, &scroll));
	endwin();
	return GVM_EXIT_OK;
}

/* ---- the command --------------------------------------------------------------------------- */

static void help(void)
{
	printf(
	    "usage: gvm top [--once] [OPTION]... [FILE | HOST:PORT | NODE]...\n\n"
	    "Show what pagers and memory nodes do, each second. A FILE is the statistics file of "
	    "a\n"
	    "pager (gvm run --stats-file), HOST:PORT a memory node's address, NODE its id in the\n"
	    "cluster file. Without any: the pagers of this user, and the memory nodes of the "
	    "cluster\n"
	    "file if one is named.\n\n"
	    "  --once             as plain text, once\n"
	    "  --interval MS      milliseconds between two looks (1000)\n"
	    "  --cluster FILE     the cluster file\n"
	    "  --key-file FILE    the memory nodes' pre-shared key\n\n"
	    "Exit status: 0; 1 if something could not be shown (--once); 2 for bad usage.\n");
}

static int parse(int argc, char **argv, int *once, unsigned long *interval_ms, int *count)
{
	int i;

	for (i = 1, *count = 0; i < argc; i++) {
		if (strcmp(argv[i], "--once") == 0) {
			*once = 1;
		} else if (strcmp(argv[i], "--interval") == 0 && i + 1 < argc) {
			char *end;

			*interval_ms = strtoul(argv[++i], &end, 10);
			if (*end || *interval_ms < 50 || *interval_ms > 3600000) {
				fprintf(stderr, "gvm top: --interval is 50 to 3600000 ms\n");
				return GVM_EXIT_USAGE;
			}
		} else if (argv[i][0] == '-') {
			return gvm_usage(argv, i);
		} else {
			argv[1 + (*count)++] = argv[i];
		}
	}
	return GVM_EXIT_OK;
}

int gvm_cmd_top(int argc, char **argv)
{
	unsigned long interval_ms = 1000;
	int once = !isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO), count, status;
	struct top_sources *sources;

	if (gvm_wants_help(argc, argv)) {
		help();
		return GVM_EXIT_OK;
	}
	if (gvm_options_parse(&argc, argv) < 0)
		return GVM_EXIT_USAGE;
	status = parse(argc, argv, &once, &interval_ms, &count);
	if (status != GVM_EXIT_OK)
		return status;
	if (gvm_options_check() < 0)
		return GVM_EXIT_FAILED;
	sources = top_sources_open(argv + 1, count);
	if (!sources)
		return GVM_EXIT_FAILED;
	if (once) {
		top_sources_refresh(sources, ONCE_PATIENCE_NS);
		status = show_plain(sources);
	} else {
		status = show_live(sources, interval_ms * 1000000ull);
	}
	top_sources_close(sources);
	return status;
}
