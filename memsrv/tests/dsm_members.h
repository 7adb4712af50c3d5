/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Real members of a shared region for a test: HOMES gvm-memsrv processes (nodes 0 to HOMES - 1) and
 * MEMBERS processes (nodes 16 on) that open and map it over tcp with a key, and do as they are
 * told: each reads orders from a socket and answers them. All die with the test.
 */
#ifndef MEMSRV_TESTS_DSM_MEMBERS_H
#define MEMSRV_TESTS_DSM_MEMBERS_H

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <gvmnet/cluster.h>
#include <gvmnet/dsm.h>

#ifndef HOMES
#define HOMES 2
#endif
#ifndef MEMBERS
#define MEMBERS 3
#endif
#ifndef HOME_ARGS
#define HOME_ARGS "--memory", "256M"
#endif
#ifndef MEMBER_MAIN
#define MEMBER_MAIN(i, fd) obey(fd) /* does not return */
#endif
#define FIRST 16u /* id of the first member */
#define ROGUE 15u /* one that the test itself may be */
#define MS    UINT64_C(1000000)
#define PAGE  GVM_PAGE_SIZE

static char folder[] = "/tmp/gvm-dsm-XXXXXX", key_file[64], map_file[64], program[4096];
static const char *member_map = map_file; /* what members that are started read */
static struct {
	pid_t pid;
	unsigned port;
} home[HOMES];

/* ---- a member ------------------------------------------------------------------------------ */

enum order_op { OPEN, CLOSE, LOAD, STORE, ADD, EVICT, STATS, DELETE, MEASURE };

struct order {
	enum order_op op;
	char name[32];
	unsigned flags;
	/* OPEN: bytes, local bytes; ADD: at offset, value times; MEASURE: one read each of so many
	 * pages, answers their median in ns */
	uint64_t offset, value;
};

struct answer {
	int status; /* -EFAULT: SIGBUS */
	uint64_t value;
	struct gvm_dsm_stats stats;
};

static struct {
	pid_t pid;
	int fd;
	unsigned port;
} member[MEMBERS];

static sigjmp_buf caught;
static volatile sig_atomic_t catching;

static void on_sigbus(int sig)
{
	if (catching)
		siglongjmp(caught, 1);
	signal(sig, SIG_DFL);
	raise(sig);
}

static int touch(uint8_t *mem, const struct order *o, uint64_t *value)
{
	_Atomic uint64_t *at = (_Atomic uint64_t *)(mem + o->offset);

	if (sigsetjmp(caught, 1)) {
		catching = 0;
		return -EFAULT;
	}
	catching = 1;
	if (o->op == STORE)
		*at = o->value;
	else if (o->op == ADD)
		for (uint64_t i = 0; i < o->value; i++)
			(*at)++;
	*value = *at;
	catching = 0;
	return 0;
}

static int obey_open(const struct order *o, struct gvm_dsm **dsm, uint8_t **mem)
{
	struct gvm_dsm_config config = { .name = o->name,
					 .flags = o->flags,
					 .bytes = o->offset,
					 .local_bytes = o->value,
					 .slab_bytes = 64 << 10 };
	void *at;
	int err = gvm_dsm_open(NULL, &config, dsm);

	if (err)
		return err;
	err = gvm_dsm_map(*dsm, &at);
	if (!err)
		*mem = at;
	return err;
}

static int by_value(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static uint64_t measure(const uint8_t *mem, const struct order *o)
{
	static uint64_t took[4096];
	uint64_t n = o->value < 4096 ? o->value : 4096;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t began = gvm_now();

		(void)*(const volatile uint64_t *)(mem + o->offset + i * PAGE);
		took[i] = gvm_now() - began;
	}
	qsort(took, n, sizeof(took[0]), by_value);
	return took[n / 2];
}

static inline void obey(int fd)
{
	struct gvm_dsm *dsm = NULL;
	uint8_t *mem = NULL;
	struct order o;

	while (recv(fd, &o, sizeof(o), MSG_WAITALL) == sizeof(o)) {
		struct answer a = { 0 };

		switch (o.op) {
		case OPEN:
			a.status = obey_open(&o, &dsm, &mem);
			break;
		case CLOSE:
			a.status = gvm_dsm_close(dsm);
			dsm = NULL;
			break;
		case EVICT:
			a.status = gvm_dsm_evict(dsm, o.offset, o.value);
			break;
		case DELETE:
			a.status = gvm_dsm_delete(NULL, o.name);
			break;
		case STATS:
			gvm_dsm_stats(dsm, &a.stats);
			break;
		case MEASURE:
			a.value = measure(mem, &o);
			break;
		default:
			a.status = touch(mem, &o, &a.value);
			break;
		}
		if (send(fd, &a, sizeof(a), MSG_NOSIGNAL) != sizeof(a))
			break;
	}
	_exit(0);
}

static void member_main(unsigned i, int fd, pid_t parent)
{
	char id[16];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	snprintf(id, sizeof(id), "%u", FIRST + i);
	if (gvm_option_set("GVM_NODE", id) || gvm_option_set("GVM_CLUSTER", member_map) ||
	    gvm_option_set("GVM_KEY_FILE", key_file))
		_exit(126);
	signal(SIGBUS, on_sigbus);
	MEMBER_MAIN(i, fd);
}

static inline void member_start(unsigned i)
{
	pid_t parent = getpid();
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	member[i].pid = fork();
	assert_true(member[i].pid >= 0);
	if (!member[i].pid) {
		close(fds[0]);
		member_main(i, fds[1], parent);
	}
	close(fds[1]);
	member[i].fd = fds[0];
}

static inline void member_end(unsigned i, int signal)
{
	if (member[i].pid <= 0)
		return;
	kill(member[i].pid, signal);
	waitpid(member[i].pid, NULL, 0);
	close(member[i].fd);
	member[i].pid = 0;
}

static inline void tell(unsigned i, const struct order *o)
{
	assert_int_equal(send(member[i].fd, o, sizeof(*o), MSG_NOSIGNAL), sizeof(*o));
}

static inline struct answer hear(unsigned i)
{
	struct answer a = { .status = -EIO };

	assert_int_equal(recv(member[i].fd, &a, sizeof(a), MSG_WAITALL), sizeof(a));
	return a;
}

static inline struct answer order(unsigned i, struct order o)
{
	tell(i, &o);
	return hear(i);
}

#define NAME "shared"
static inline int m_open(unsigned i, uint64_t bytes, unsigned flags, uint64_t local)
{
	return order(
		   i,
		   (struct order){
		       .op = OPEN, .name = NAME, .flags = flags, .offset = bytes, .value = local })
	    .status;
}
static inline int m_close(unsigned i)
{
	return order(i, (struct order){ .op = CLOSE }).status;
}
static inline void m_store(unsigned i, uint64_t offset, uint64_t value)
{
	struct answer a = order(i, (struct order){ .op = STORE, .offset = offset, .value = value });

	assert_int_equal(a.status, 0);
	assert_int_equal(a.value, value);
}
static inline int m_load(unsigned i, uint64_t offset, uint64_t *value)
{
	struct answer a = order(i, (struct order){ .op = LOAD, .offset = offset });

	*value = a.value;
	return a.status;
}
#define assert_load(i, offset, expected)                                                           \
	do {                                                                                       \
		uint64_t value_;                                                                   \
		assert_int_equal(m_load(i, offset, &value_), 0);                                   \
		assert_int_equal(value_, expected);                                                \
	} while (0)
static inline struct gvm_dsm_stats m_stats(unsigned i)
{
	return order(i, (struct order){ .op = STATS }).stats;
}

/* ---- homes --------------------------------------------------------------------------------- */

static inline unsigned free_port(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	close(fd);
	return ntohs(at.sin_port);
}

static inline void home_start_with(unsigned i, const char *const *more)
{
	const char *argv[24] = { program,  "--cluster", map_file, "--key-file",
				 key_file, "--log",     "warn",   HOME_ARGS };
	pid_t parent = getpid();
	char id[16];
	int n = 0;

	snprintf(id, sizeof(id), "%u", i);
	while (argv[n])
		n++;
	argv[n++] = "--node";
	argv[n++] = id;
	while (more && *more)
		argv[n++] = *more++;
	home[i].pid = fork();
	assert_true(home[i].pid >= 0);
	if (home[i].pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == parent)
		execv(program, (char *const *)argv);
	_exit(127);
}

static inline void home_start(unsigned i)
{
	home_start_with(i, NULL);
}

static inline void home_end(unsigned i, int signal)
{
	if (home[i].pid <= 0)
		return;
	kill(home[i].pid, signal);
	waitpid(home[i].pid, NULL, 0);
	home[i].pid = 0;
}

/* The home of a page of the region, with slabs of 64 KiB. */
static inline unsigned home_of(uint64_t page)
{
	struct gvm_cluster *cluster;
	uint64_t gvm_region_id_of(const char *name);
	uint16_t node = 0;

	assert_int_equal(gvm_cluster_load(map_file, &cluster, NULL), 0);
	gvm_place(cluster, gvm_region_id_of(NAME), page / 16, 1, &node);
	gvm_cluster_free(cluster);
	return node;
}

static inline int dsm_setup(void **state)
{
	for (unsigned i = 0; i < HOMES; i++)
		home_start(i);
	for (unsigned i = 0; i < MEMBERS; i++)
		member_start(i);
	return 0;
}

static inline int dsm_teardown(void **state)
{
	for (unsigned i = 0; i < MEMBERS; i++)
		member_end(i, SIGKILL);
	for (unsigned i = 0; i < HOMES; i++)
		home_end(i, SIGKILL);
	return 0;
}

static inline int write_file(const char *path, const char *text)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC | O_TRUNC, 0600), ok;

	ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return ok ? 0 : -1;
}

static inline int dsm_prepare(void)
{
	static char map[128 * (HOMES + MEMBERS + 1)], self[4000];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	int at = 0;

	if (len < 0 || !mkdtemp(folder))
		return -1;
	self[len] = 0;
	snprintf(program, sizeof(program), "%s/gvm-memsrv", dirname(self));
	snprintf(key_file, sizeof(key_file), "%s/key", folder);
	snprintf(map_file, sizeof(map_file), "%s/map", folder);
	for (unsigned i = 0; i < HOMES; i++)
		at += snprintf(map + at, sizeof(map) - (size_t)at, "%u 127.0.0.1 %u role=memory\n",
			       i, home[i].port = free_port());
	for (unsigned i = 0; i < MEMBERS; i++)
		at += snprintf(map + at, sizeof(map) - (size_t)at, "%u 127.0.0.1 %u role=compute\n",
			       FIRST + i, member[i].port = free_port());
	snprintf(map + at, sizeof(map) - (size_t)at, "%u 127.0.0.1 %u role=compute\n", ROGUE,
		 free_port());
	if (write_file(key_file, "0123456789abcdef0123456789abcdef") || write_file(map_file, map))
		return -1;
	return access(program, X_OK);
}

#define dsm_run(tests)                                                                             \
	({                                                                                         \
		int failed_ = 1;                                                                   \
		if (dsm_prepare())                                                                 \
			fprintf(stderr, "%s: %s\n", program, strerror(errno));                     \
		else                                                                               \
			failed_ = cmocka_run_group_tests(tests, NULL, NULL);                       \
		unlink(key_file);                                                                  \
		unlink(map_file);                                                                  \
		rmdir(folder);                                                                     \
		failed_;                                                                           \
	})

#endif
