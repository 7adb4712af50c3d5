/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Real members of a shared region for a test: HOMES gvm-memsrv processes (nodes 0 to HOMES - 1) and
 * MEMBERS processes (nodes 16 on) that open and map it over tcp with a key, and do as they are
 * told: each reads orders from a socket and answers them. All die with the test.
 */
#ifndef MEMSRV_TESTS_DSM_MEMBERS_H
#define MEMSRV_TESTS_DSM_MEMBERS_H

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#define FOLDER "/tmp/gvm-dsm-XXXXXX"
#include "processes.h"

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

static char map_file[64];
static const char *member_map = map_file; /* what members that are started read */
static struct {
	pid_t pid;
	unsigned port;
} home[HOMES];

/* ---- a member ------------------------------------------------------------------------------ */

enum order_op {
	OPEN,
	CLOSE,
	LOAD,
	STORE,
	ADD,
	EVICT,
	STATS,
	DELETE,
	MEASURE,
	PIN,
	UNPIN,
	PREFETCH,
	FILL,
	LEAVE,
	STAY,
	TOLD,
	FORK,
};

struct order {
	enum order_op op;
	char name[32];
	unsigned flags;
	/* OPEN: bytes, local bytes; ADD: at offset, value times; MEASURE: one read each of so many
	 * pages, answers their median in ns; TOLD: what was said of home offset the value-th time,
	 * when it has been; FORK: the id of the child */
	uint64_t offset, value; /* PIN, UNPIN, PREFETCH: value bytes; flags: for writing */
	unsigned ms;
	uint32_t slab; /* OPEN: bytes, or 0: 64 KiB */
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

/* The thread sanitizer would hold a lock of its own during a store, which SIGBUS would leave held: the
 * next store to that page would never end. */
__attribute__((noinline, no_sanitize("thread"))) static uint64_t reach(_Atomic uint64_t *at,
								       const struct order *o)
{
	if (o->op == STORE)
		*at = o->value;
	else if (o->op == FILL) /* a page that no delta makes shorter */
		for (uint64_t i = 0; i < PAGE / sizeof(*at); i++)
			at[i] = (o->value + i) * 0x9e3779b97f4a7c15ull;
	else if (o->op == ADD)
		for (uint64_t i = 0; i < o->value; i++)
			(*at)++;
	return *at;
}

static int touch(uint8_t *mem, const struct order *o, uint64_t *value)
{
	if (sigsetjmp(caught, 1)) {
		catching = 0;
		return -EFAULT;
	}
	catching = 1;
	*value = reach((_Atomic uint64_t *)(mem + o->offset), o);
	catching = 0;
	return 0;
}

/* What the library has said of homes, in turn. */
#define TOLD_MAX 8
static struct {
	pthread_mutex_t lock;
	pthread_cond_t more;
	unsigned count[HOMES];
	int why[HOMES][TOLD_MAX];
} told = { .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER };

static void on_node_state(void *arg, unsigned node, int why)
{
	(void)arg;
	if (node >= HOMES)
		_exit(125);
	pthread_mutex_lock(&told.lock);
	if (told.count[node] < TOLD_MAX)
		told.why[node][told.count[node]++] = why;
	pthread_cond_broadcast(&told.more);
	pthread_mutex_unlock(&told.lock);
}

static int obey_told(unsigned node, uint64_t time)
{
	int why;

	pthread_mutex_lock(&told.lock);
	while (told.count[node] <= time)
		pthread_cond_wait(&told.more, &told.lock);
	why = told.why[node][time];
	pthread_mutex_unlock(&told.lock);
	return why;
}

static int obey_open(const struct order *o, struct gvm_dsm **dsm, uint8_t **mem)
{
	struct gvm_dsm_config config = { .name = o->name,
					 .flags = o->flags,
					 .bytes = o->offset,
					 .local_bytes = o->value,
					 .node_state = on_node_state,
					 .slab_bytes = o->slab ? o->slab : 64 << 10 };
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

/* Not this process's region: no call waits for a thread that is not here. And one of its own. */
static int be_a_child(struct gvm_dsm *dsm, const struct order *o)
{
	struct order open = { .op = OPEN };
	char id[16];
	uint8_t *mem;

	alarm(30);
	if (gvm_dsm_evict(dsm, 0, PAGE) != -ECHILD || gvm_dsm_leave(dsm, 100) != -ECHILD ||
	    gvm_dsm_close(dsm) != -ECHILD)
		return 1;
	snprintf(id, sizeof(id), "%u", (unsigned)o->value);
	memcpy(open.name, o->name, sizeof(open.name));
	if (gvm_option_set("GVM_NODE", id) || obey_open(&open, &dsm, &mem))
		return 2;
	(*(_Atomic uint64_t *)(mem + o->offset))++;
	return gvm_dsm_close(dsm) ? 3 : 0;
}

static int obey_fork(struct gvm_dsm *dsm, const struct order *o)
{
	int status;
	pid_t child = fork();

	if (!child)
		_exit(be_a_child(dsm, o));
	if (child < 0 || waitpid(child, &status, 0) != child)
		return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -ETIMEDOUT;
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
		case PIN:
			a.status = gvm_dsm_pin(dsm, o.offset, o.value, (int)o.flags, o.ms);
			break;
		case UNPIN:
			a.status = gvm_dsm_unpin(dsm, o.offset, o.value);
			break;
		case PREFETCH:
			a.status = gvm_dsm_prefetch(dsm, o.offset, o.value, (int)o.flags);
			break;
		case DELETE:
			a.status = gvm_dsm_delete(NULL, o.name);
			break;
		case LEAVE:
			a.status = gvm_dsm_leave(dsm, o.ms);
			break;
		case STAY:
			a.status = gvm_dsm_stay(dsm);
			break;
		case TOLD:
			a.status = obey_told((unsigned)o.offset, o.value);
			break;
		case FORK:
			a.status = obey_fork(dsm, &o);
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
/* What a member's library says of a home, or has said, for the time-th time, from 0. */
static inline int m_told(unsigned i, unsigned node, uint64_t time)
{
	return order(i, (struct order){ .op = TOLD, .offset = node, .value = time }).status;
}
static inline struct gvm_dsm_stats m_stats(unsigned i)
{
	return order(i, (struct order){ .op = STATS }).stats;
}

/* ---- homes --------------------------------------------------------------------------------- */

static inline void home_start_with(unsigned i, const char *const *more)
{
	const char *argv[24] = { program,  "--cluster", map_file, "--key-file",
				 key_file, "--log",     "warn",   HOME_ARGS };
	char id[16];
	int n = 0;

	snprintf(id, sizeof(id), "%u", i);
	while (argv[n])
		n++;
	argv[n++] = "--node";
	argv[n++] = id;
	while (more && *more)
		argv[n++] = *more++;
	program_start(&home[i].pid, argv);
}

static inline void home_start(unsigned i)
{
	home_start_with(i, NULL);
}

static inline void home_end(unsigned i, int signal)
{
	program_end(&home[i].pid, signal);
}

/* All of its threads stand still when this returns. */
static inline void home_stop(unsigned i)
{
	int status;

	assert_int_equal(kill(home[i].pid, SIGSTOP), 0);
	assert_int_equal(waitpid(home[i].pid, &status, WUNTRACED), home[i].pid);
	assert_true(WIFSTOPPED(status));
}

/* One that can be started again: what it knows of its members is in the test's folder. */
static inline void home_start_lasting(unsigned i)
{
	const char *const more[] = { "--state", folder, NULL };

	home_start_with(i, more);
}

static inline void home_again(unsigned i)
{
	home_end(i, SIGKILL);
	home_start_lasting(i);
}

/* What homes have left there. */
static inline void home_forget(void)
{
	const struct dirent *entry;
	char path[4096];
	DIR *dir = opendir(folder);

	while (dir && (entry = readdir(dir)))
		if (strstr(entry->d_name, ".shared")) {
			snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
			unlink(path);
		}
	closedir(dir);
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

static inline int dsm_prepare(void)
{
	static char map[128 * (HOMES + MEMBERS + 1)];
	int at = 0;

	if (processes_prepare())
		return -1;
	/* who is given up is given up by a case that says when: not on a busy machine */
	setenv("GVM_DSM_FENCE_MS", "30000", 0);
	snprintf(map_file, sizeof(map_file), "%s/map", folder);
	for (unsigned i = 0; i < HOMES; i++)
		at += snprintf(map + at, sizeof(map) - (size_t)at, "%u 127.0.0.1 %u role=memory\n",
			       i, home[i].port = free_port());
	for (unsigned i = 0; i < MEMBERS; i++)
		at += snprintf(map + at, sizeof(map) - (size_t)at, "%u 127.0.0.1 %u role=compute\n",
			       FIRST + i, member[i].port = free_port());
	snprintf(map + at, sizeof(map) - (size_t)at, "%u 127.0.0.1 %u role=compute\n", ROGUE,
		 free_port());
	return write_file(map_file, map);
}

#define dsm_run(tests)                                                                             \
	({                                                                                         \
		int ran_ = processes_run(tests, dsm_prepare());                                    \
		unlink(map_file);                                                                  \
		rmdir(folder);                                                                     \
		ran_;                                                                              \
	})

#endif
