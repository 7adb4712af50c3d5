/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What "gvm set" asks of this process while it runs: a socket in the user's folder, and a thread
 * that serves one request after the other. The thread touches no paged memory and allocates
 * nothing, so that it answers whatever the program is doing. A forked child has its own. See
 * control.h for the words.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "preload.h"
#include "tools/control.h"

#define ASK_MS 1000 /* a client that connects and is silent is not waited for longer */

static struct {
	struct gvm_pager *pager;
	_Atomic(uint64_t) local, most; /* bytes of the budget now, and at most so far */
	_Atomic(unsigned) prefetch;
	int fd; /* listens; -1: nobody can ask */
	dev_t dev;
	ino_t ino; /* of the socket: the program may have closed it and reused its number */
	pid_t pid; /* whose socket it is */
	uid_t uid;
	char path[PATH_MAX];
} control = { .fd = -1 };

uint64_t control_local(void)
{
	return control.local;
}

uint64_t control_local_most(void)
{
	return control.most;
}

static int is_ours(int fd)
{
	struct stat st;

	return fd >= 0 && !fstat(fd, &st) && st.st_dev == control.dev && st.st_ino == control.ino;
}

/* ---- requests ------------------------------------------------------------------------------- */

static void answer(int fd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void answer(int fd, const char *fmt, ...)
{
	char line[CONTROL_LINE];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	send(fd, line, strlen(line), MSG_NOSIGNAL);
}

static void tell(int fd)
{
	struct gvm_pager_stats stats;

	gvm_pager_stats(control.pager, &stats, NULL);
	answer(fd, "ok pid=%d local=%llu used=%llu prefetch=%u program=%s", (int)control.pid,
	       (unsigned long long)control.local,
	       (unsigned long long)(stats.local_pages * PRELOAD_PAGE), control.prefetch,
	       report_name());
}

/* "123": digits only, at most most. */
static int number(const char *text, uint64_t least, uint64_t most, uint64_t *value)
{
	uint64_t v = 0;

	if (!*text)
		return 0;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || v > most)
			return 0;
		v = v * 10 + (uint64_t)(*text - '0');
	}
	*value = v;
	return v >= least && v <= most;
}

struct wish {
	uint64_t local, prefetch;
	int has_local, has_prefetch;
};

/* NULL, or why not. */
static const char *parse(char *words, struct wish *wish)
{
	char *rest = words, *word;

	while ((word = strsep(&rest, " "))) {
		if (!strncmp(word, "local=", 6)) {
			wish->has_local = 1;
			if (!number(word + 6, CONTROL_LOCAL_MIN, CONTROL_LOCAL_MAX, &wish->local))
				return "local must be from 1 MiB to 256 TiB, in bytes";
		} else if (!strncmp(word, "prefetch=", 9)) {
			wish->has_prefetch = 1;
			if (!number(word + 9, 0, CONTROL_PREFETCH_MAX, &wish->prefetch))
				return "prefetch must be from 0 to 256 pages";
		} else {
			return "it knows local=BYTES and prefetch=PAGES only";
		}
	}
	return wish->has_local || wish->has_prefetch ? NULL : "nothing is to be set";
}

static void set(int fd, char *words)
{
	struct wish wish = { 0 };
	const char *why = parse(words, &wish);
	int err = 0;

	if (why) {
		answer(fd, "error %s", why);
		return;
	}
	if (wish.has_local)
		err = gvm_pager_set_local(control.pager, wish.local);
	if (err) {
		answer(fd, "error the pager cannot have that budget: %s", strerror(-err));
		return;
	}
	if (wish.has_local) {
		control.local = wish.local;
		if (wish.local > control.most)
			control.most = wish.local;
	}
	if (wish.has_prefetch) {
		gvm_pager_set_prefetch(control.pager, (unsigned)wish.prefetch);
		control.prefetch = (unsigned)wish.prefetch;
	}
	tell(fd);
}

static void serve(int fd, char *line)
{
	if (!strcmp(line, "get"))
		tell(fd);
	else if (!strncmp(line, "set ", 4))
		set(fd, line + 4);
	else
		answer(fd, "error it knows get and set only");
}

/* Is this a client that may ask, and that waits for the answer still? One that gave up, because
 * this process was stopped, must not be obeyed later. */
static int allowed(int fd)
{
	struct pollfd end = { .fd = fd, .events = POLLRDHUP };
	struct ucred peer;
	socklen_t len = sizeof peer;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len))
		return 0;
	return (peer.uid == control.uid || peer.uid == 0) && poll(&end, 1, 0) == 0;
}

static void meet(int fd)
{
	struct pollfd in = { .fd = fd, .events = POLLIN };
	char line[CONTROL_LINE];

	if (poll(&in, 1, ASK_MS) != 1)
		return;
	ssize_t n = recv(fd, line, sizeof line, MSG_DONTWAIT | MSG_TRUNC);
	if (n <= 0 || !allowed(fd))
		return;
	if ((size_t)n >= sizeof line || memchr(line, 0, (size_t)n)) {
		answer(fd, "error that is no request");
		return;
	}
	line[n] = 0;
	serve(fd, line);
}

static void *control_thread(void *arg)
{
	struct timespec pause = { .tv_nsec = 100000000 };
	int listener = control.fd;

	for (;;) {
		struct pollfd in = { .fd = listener, .events = POLLIN };
		if (poll(&in, 1, -1) < 0 && errno != EINTR)
			return NULL;
		if (!is_ours(listener)) /* the program closes what it does not know */
			return NULL;
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0) {
			meet(fd);
			close(fd);
		} else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
			nanosleep(&pause, NULL); /* no descriptor is free */
		}
	}
}

/* ---- beginning and end ---------------------------------------------------------------------- */

/* Listen as PID.sock in the folder. Only its owner may write to it from the first moment on. */
static int listen_in(int dir)
{
	struct sockaddr_un address;
	socklen_t len = control_address(&address, dir, (int)control.pid);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat st;

	if (fd < 0)
		return -errno;
	unlink(address.sun_path); /* of an earlier process with this id, or program of this one */
	if (fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&address, len) || listen(fd, 16) ||
	    fstat(fd, &st)) {
		int err = -errno;
		close(fd);
		return err;
	}
	control.fd = fd;
	control.dev = st.st_dev;
	control.ino = st.st_ino;
	return 0;
}

static int open_socket(const char *folder)
{
	pthread_t thread;

	if (snprintf(control.path, sizeof control.path, "%s%s%d.sock", folder,
		     folder[strlen(folder) - 1] == '/' ? "" : "/",
		     (int)control.pid) >= (int)sizeof control.path)
		return -ENAMETOOLONG;
	int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return -errno;
	int err = listen_in(dir);
	close(dir);
	if (err)
		return err;
	err = -pthread_create(&thread, NULL, control_thread, NULL);
	if (err)
		control_end();
	else
		pthread_detach(thread);
	return err;
}

void control_start(struct gvm_pager *pager)
{
	const char *folder = gvm_option_text("GVM_CONTROL");

	if (!control.pager) {
		control.local = control.most = gvm_option_number("GVM_LOCAL");
		control.prefetch = (unsigned)gvm_option_number("GVM_PREFETCH");
	}
	control.pager = pager;
	control.pid = raw_getpid();
	control.uid = geteuid();
	if (!*folder || !strcmp(folder, "off"))
		return;
	int err = open_socket(folder);
	if (err)
		say("gvm set cannot reach this process: no socket in %s (%s)", folder,
		    strerror(-err));
}

/* The parent's socket is the parent's: while the child held it, too, it would outlive the parent.
 */
void control_fork_child(void)
{
	if (is_ours(control.fd))
		close(control.fd);
	control.fd = -1;
}

void control_end(void)
{
	if (control.fd < 0 || control.pid != raw_getpid())
		return;
	control.fd = -1; /* the thread has it until the end */
	unlink(control.path);
}
