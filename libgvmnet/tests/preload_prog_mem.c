/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What programs do with their memory that few others do, to be run under gvm run
 * (ci/test.d/33-programs):
 *
 *   bare       children of bare system calls, which nobody follows, then one of fork: none of them
 *              reads anything that the parent did not write
 *   title      writes over its own arguments, as postgres does
 *   shared     forks with shared memory that is taken over
 *   background  works as a daemon
 *   sandbox    a child that may only write and end
 *   heap       allocates much in small blocks
 *   waits      maps much, until standard input ends
 *   own        (with -DOWN_MALLOC) a malloc inside the executable that maps memory with its lock
 *              held, threads, and forks
 *   rested     (with -DOWN_MALLOC) forks while what malloc keeps of threads that rest is away
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES ((size_t)96 << 20)
#define PAGE  4096

#ifdef OWN_MALLOC
/* Powers of two, cut off chunks that are mapped when the last one is used up. */
#define CHUNK ((size_t)4 << 20)
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *chunk;
static size_t room;
static void *spare[64];

static unsigned class_of(size_t size)
{
	unsigned c = 5;

	while (((size_t)1 << c) < size + 16)
		c++;
	return c;
}

static void *map(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		abort();
	return p;
}

void *malloc(size_t size)
{
	unsigned c = class_of(size);
	size_t bytes = (size_t)1 << c;

	pthread_mutex_lock(&lock);
	char *p = spare[c];
	if (p) {
		spare[c] = *(void **)(p + 16);
	} else if (bytes > CHUNK) {
		p = map(bytes);
	} else {
		if (bytes > room) {
			chunk = map(CHUNK);
			room = CHUNK;
		}
		p = chunk;
		chunk += bytes;
		room -= bytes;
	}
	pthread_mutex_unlock(&lock);
	*(size_t *)p = c;
	return p + 16;
}

void free(void *q)
{
	char *p = q;

	if (!p)
		return;
	pthread_mutex_lock(&lock);
	size_t c = *(size_t *)(p - 16);
	*(void **)p = spare[c];
	spare[c] = p - 16;
	pthread_mutex_unlock(&lock);
}

void *calloc(size_t n, size_t size)
{
	void *p = malloc(n * size);

	return memset(p, 0, n * size);
}

void *realloc(void *p, size_t size)
{
	char *q = malloc(size);
	size_t had = p ? ((size_t)1 << *(size_t *)((char *)p - 16)) - 16 : 0;

	if (p)
		memcpy(q, p, had < size ? had : size);
	free(p);
	return q;
}

static void before(void)
{
	pthread_mutex_lock(&lock);
}

static void after(void)
{
	pthread_mutex_unlock(&lock);
}

static void prepare(void)
{
	pthread_atfork(before, after, after);
}
#else
static void prepare(void)
{
}
#endif

#ifdef GO_NOTE
/* What Go's linker leaves in its programs. */
__asm__(".pushsection .note.go.buildid,\"a\",@note\n"
	".long 4, 4, 4\n.ascii \"Go\\0\\0\"\n.long 0\n.popsection");
#endif

static size_t *memory;

static void fill(void)
{
	for (size_t i = 0; i < BYTES / PAGE; i++)
		memory[i * PAGE / sizeof *memory] = i * 7919 + 1;
}

static size_t wrong(void)
{
	size_t bad = 0;

	for (size_t i = 0; i < BYTES / PAGE; i++)
		bad += memory[i * PAGE / sizeof *memory] != i * 7919 + 1;
	return bad;
}

/* 0: all was right, or it was ended by a SIGSEGV if that is allowed. */
static int end_of(long pid, int may_fault)
{
	int status;

	if (pid < 0 || waitpid((pid_t)pid, &status, 0) != pid)
		return 1;
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV && may_fault)
		return 0;
	return status != 0;
}

static void child(void)
{
	syscall(SYS_exit_group, wrong() ? 1 : 0);
}

static int bare(void)
{
	struct clone_args args = { .exit_signal = SIGCHLD };
	int bad = 0;

	fill();
	for (int round = 0; round < 2; round++) {
		long pid = syscall(SYS_fork);
		if (!pid)
			child();
		bad += end_of(pid, 1);
		pid = syscall(SYS_clone3, &args, sizeof args);
		if (!pid)
			child();
		bad += end_of(pid, 1);
		pid = fork();
		if (!pid) {
			/* one that is followed, and what it has in turn */
			long grandchild = syscall(SYS_fork);
			if (!grandchild)
				child();
			_exit(wrong() || end_of(grandchild, 1) ? 1 : 0);
		}
		bad += end_of(pid, 0);
	}
	return bad || wrong();
}

static int shared(void)
{
	char *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return 1;
	p[0] = 1;
	pid_t pid = fork();
	if (!pid)
		_exit(0);
	return end_of(pid, 0);
}

/* All but write and exit_group end the process. */
static int confine(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof filter / sizeof *filter, filter };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int sandbox(void)
{
	pid_t pid = fork(); /* before there is a pager */

	if (!pid)
		_exit(confine());
	if (end_of(pid, 0))
		return 1;
	memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return 1;
	fill();
	pid = fork();
	if (!pid) /* its faults are for the pager's threads, which are not confined */
		_exit(confine() || wrong());
	return end_of(pid, 0);
}

/* As qemu -daemonize: the one that does the work is in a session of its own. */
static int background(void)
{
	pid_t pid = fork();

	if (!pid) {
		setsid();
		pid = fork();
		if (pid)
			_exit(end_of(pid, 0));
		memory =
		    mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED)
			_exit(1);
		fill();
		_exit(wrong() != 0);
	}
	return end_of(pid, 0);
}

#define BLOCKS 20000

static int heap(int forks)
{
	char **block = malloc(BLOCKS * sizeof *block);
	int bad = 0;

	for (int i = 0; i < BLOCKS; i++) {
		block[i] = malloc(4000);
		memset(block[i], i, 4000);
	}
	for (int i = 0; i < BLOCKS; i++)
		bad += block[i][i % 4000] != (char)i;
	if (!forks)
		return bad;
	pid_t pid = fork();
	if (!pid) {
		for (int i = 0; i < BLOCKS; i++)
			bad += block[i][i % 4000] != (char)i;
		free(malloc(3u << 20));
		_exit(bad ? 1 : 0);
	}
	return bad || end_of(pid, 0);
}

static void *work(void *arg)
{
	(void)arg;
	return (void *)(size_t)heap(1);
}

static int own(void)
{
	pthread_t thread[2];
	void *result;
	int bad = 0;

	prepare();
	for (int i = 0; i < 2; i++)
		pthread_create(&thread[i], NULL, work, NULL);
	for (int i = 0; i < 2; i++) {
		pthread_join(thread[i], &result);
		bad += result != NULL;
	}
	return bad;
}

static pthread_barrier_t meeting;

static void *rest(void *unused)
{
	pthread_barrier_wait(&meeting);
	pthread_barrier_wait(&meeting);
	return unused;
}

/* The child has their stacks to use again, and malloc's lock until the handler of "prepare" runs.
 */
static int rested(void)
{
	pthread_t thread[4];
	int bad = 0;

	prepare();
	/* what malloc maps first is not paged: see docs/run.md */
	for (int i = 0; i < 4096; i++)
		memset(malloc(2000), 1, 2000);
	memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || pthread_barrier_init(&meeting, NULL, 5))
		return 1;
	for (int i = 0; i < 4; i++)
		bad |= pthread_create(&thread[i], NULL, rest, NULL);
	pthread_barrier_wait(&meeting);
	alarm(60);
	for (int i = 0; i < 3; i++) {
		fill();
		pid_t pid = fork();
		if (!pid)
			_exit(wrong() ? 1 : 0);
		bad |= end_of(pid, 0) | (wrong() != 0);
	}
	pthread_barrier_wait(&meeting);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	return bad;
}

/* Wait until the file, in this folder, has been written once more. */
static int renewed(const char *name)
{
	char events[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	int fd = inotify_init1(IN_CLOEXEC), found = 0;
	ssize_t n = fd < 0 ? -1 : inotify_add_watch(fd, ".", IN_CLOSE_WRITE | IN_MOVED_TO);

	while (n >= 0 && !found && (n = read(fd, events, sizeof(events))) > 0)
		for (ssize_t at = 0; at < n && !found;) {
			const struct inotify_event *e = (const void *)(events + at);

			found = e->len && !strcmp(e->name, name);
			at += (ssize_t)(sizeof(*e) + e->len);
		}
	close(fd);
	return found;
}

/* Ten mappings that are too large for a pool, until standard input ends. */
static int waits(void)
{
	size_t bytes = 40ul << 20;
	char *p[10], c;

	for (int i = 0; i < 10; i++) {
		p[i] =
		    mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p[i] == MAP_FAILED)
			return 1;
		memset(p[i], i + 1, 4096);
	}
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	for (int i = 0; i < 10; i++)
		if (p[i][4095] != i + 1 || p[i][4096])
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	char mode[16]; /* a copy: "title" writes over the arguments */
	int bad = 1;

	snprintf(mode, sizeof mode, "%s", argc > 1 ? argv[1] : "");
	if (!strcmp(mode, "heap") || !strcmp(mode, "own")) {
		bad = *mode == 'h' ? heap(0) : own();
	} else if (!strcmp(mode, "background")) {
		bad = background();
	} else if (!strcmp(mode, "sandbox")) {
		bad = sandbox();
	} else if (!strcmp(mode, "rested")) {
		bad = rested();
	} else if (!strcmp(mode, "waits")) {
		bad = waits();
	} else {
		memory =
		    mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED)
			return 1;
		if (!strcmp(mode, "title")) {
			memset(argv[0], '"', strlen(argv[0]));
			fill();
			bad = wrong() != 0 || (argc > 2 && !renewed(argv[2]));
		} else {
			bad = !strcmp(mode, "bare") ? bare() : shared();
		}
	}
	printf("%s: %s\n", mode, bad ? "WRONG" : "right");
	return bad != 0;
}
