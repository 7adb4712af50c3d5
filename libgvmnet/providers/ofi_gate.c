/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Gates: who may be inside an endpoint of libfabric's shm.
 *
 * Such an endpoint has a region in shared memory with a spin lock, which its own process takes
 * while it looks for what has come, and each other process while it sends to it (1.17). One that is
 * stopped there makes all others spin in libfabric until it goes on, and one that is killed there,
 * for ever. So each endpoint has a gate besides, a mutex in a file of its own that all of them take
 * first and nobody waits for: whoever finds it taken comes again later, and whoever takes one whose
 * last owner has died inside is told so by the kernel. Then the region is as it was left in the
 * middle of something, and the gate is shut for good: the endpoint's process makes itself another
 * one.
 *
 * The file is locked (flock) by the process whose endpoint it is, so that what a process leaves
 * behind is known: its number may be another's by then, or of another container.
 *
 * Threads: a gate is passed by one at a time; the rest is the worker's.
 */
#include "providers/ofi.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DIR_PATH   "/dev/shm/"
#define PREFIX     "gvmnet-"
#define PATH_MOST  320
#define GATE_READY 0x47564d6761746531ull /* "GVMgate1" */
#define OLDER_NS   100000000ull          /* the kernel's ticks are 10 ms */
#define GATE_LOOKS 200                   /* whoever is inside may come out at once */
#define MAKE_TRIES 8

struct ofi_gate {
	uint64_t ready;
	pthread_mutex_t mutex;
};

/* "PROVIDER://REGION": what is behind the slashes. */
static const char *region_of(const char *name)
{
	const char *slashes = strstr(name, "://");

	return slashes ? slashes + 3 : name;
}

static void gate_path(char path[PATH_MOST], const char *name)
{
	snprintf(path, PATH_MOST, DIR_PATH PREFIX "%s", region_of(name));
}

static int is_ours(int fd, struct stat *st)
{
	return fstat(fd, st) == 0 && S_ISREG(st->st_mode) && st->st_uid == geteuid();
}

/* Does the path still lead to this file? */
static int is_there(int fd, const char *path)
{
	struct stat file, found;

	return is_ours(fd, &file) && lstat(path, &found) == 0 && file.st_ino == found.st_ino &&
	       file.st_dev == found.st_dev;
}

static struct ofi_gate *map_gate(int fd)
{
	void *at = mmap(NULL, sizeof(struct ofi_gate), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return at == MAP_FAILED ? NULL : at;
}

/* ---- what others have left ----------------------------------------------------------------- */

/* Nobody has this gate's file locked: nobody has the region, either. */
static void sweep_one(const char *file)
{
	char path[PATH_MOST], region[PATH_MOST];
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), DIR_PATH "%s", file);
	snprintf(region, sizeof(region), DIR_PATH "%s", file + strlen(PREFIX));
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return;
	if (is_ours(fd, &st) && flock(fd, LOCK_EX | LOCK_NB) == 0 && is_there(fd, path)) {
		if (lstat(region, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid())
			unlink(region);
		unlink(path);
	}
	close(fd);
}

void ofi_gate_sweep(const char *name)
{
	char path[PATH_MOST];

	gate_path(path, name);
	sweep_one(path + strlen(DIR_PATH));
}

void ofi_gates_sweep(void)
{
	DIR *dir = opendir(DIR_PATH);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) == 0)
			sweep_one(entry->d_name);
	if (dir)
		closedir(dir);
}

/* CLOCK_REALTIME, as files have it; 0: not known. */
static uint64_t process_started(void)
{
	struct timespec now, up;
	unsigned long long ticks;
	char text[1024], *at;
	FILE *f = fopen("/proc/self/stat", "re");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;

	if (f)
		fclose(f);
	text[n] = 0;
	at = strrchr(text, ')'); /* the 22nd field, 20 behind the name */
	for (int i = 0; at && i < 20; i++)
		at = strchr(at + 1, ' ');
	if (!at || sscanf(at, "%llu", &ticks) != 1)
		return 0;
	clock_gettime(CLOCK_REALTIME, &now);
	clock_gettime(CLOCK_BOOTTIME, &up);
	return (uint64_t)(now.tv_sec - up.tv_sec) * 1000000000ull + (uint64_t)now.tv_nsec -
	       (uint64_t)up.tv_nsec + ticks * (1000000000ull / (uint64_t)sysconf(_SC_CLK_TCK));
}

static int is_older(const struct stat *st, uint64_t than)
{
	return (uint64_t)st->st_ctim.tv_sec * 1000000000ull + (uint64_t)st->st_ctim.tv_nsec +
		   OLDER_NS <
	       than;
}

void ofi_regions_sweep(int pid, uint64_t started)
{
	DIR *dir = opendir(DIR_PATH);
	struct dirent *entry;
	char prefix[48];
	struct stat st;

	snprintf(prefix, sizeof(prefix), "%d:%u:", pid, (unsigned)geteuid());
	while (dir && (entry = readdir(dir)))
		if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0 &&
		    fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    S_ISREG(st.st_mode) && st.st_uid == geteuid() && is_older(&st, started))
			unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir)
		closedir(dir);
}

void ofi_shm_sweep(void)
{
	ofi_gates_sweep();
	ofi_regions_sweep(getpid(), process_started());
}

/* ---- making one ---------------------------------------------------------------------------- */

static int mutex_init(pthread_mutex_t *mutex)
{
	pthread_mutexattr_t attr;
	int err = pthread_mutexattr_init(&attr);

	if (err)
		return -err;
	err = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	if (!err)
		err = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	if (!err)
		err = pthread_mutex_init(mutex, &attr);
	pthread_mutexattr_destroy(&attr);
	return -err;
}

/* What an earlier process with this name has left; the region is this one's already. */
static void unlink_stale(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return;
	if (is_ours(fd, &st) && flock(fd, LOCK_EX | LOCK_NB) == 0 && is_there(fd, path))
		unlink(path);
	close(fd);
}

/* It has its name once it is locked, so that nobody sweeps it away before. */
static int file_name(int fd, const char *path)
{
	char proc[32];

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	unlink_stale(path);
	return linkat(AT_FDCWD, proc, AT_FDCWD, path, AT_SYMLINK_FOLLOW) ? -errno : 0;
}

int ofi_gate_make(const char *name, struct ofi_gate **out, int *out_fd)
{
	int fd = open(DIR_PATH, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), err;
	struct ofi_gate *gate;
	char path[PATH_MOST];

	if (fd < 0)
		return -errno;
	gate_path(path, name);
	err = ftruncate(fd, sizeof(*gate)) || flock(fd, LOCK_EX | LOCK_NB) ? -errno : 0;
	gate = err ? NULL : map_gate(fd);
	if (!err)
		err = gate ? mutex_init(&gate->mutex) : -ENOMEM;
	if (!err) {
		gate->ready = GATE_READY;
		err = file_name(fd, path);
	}
	if (err) {
		ofi_gate_close(gate);
		close(fd);
		return err;
	}
	*out = gate;
	*out_fd = fd;
	return 0;
}

void ofi_gate_unmake(const char *name, struct ofi_gate *gate, int fd)
{
	char path[PATH_MOST];

	gate_path(path, name);
	unlink(path);
	ofi_gate_close(gate);
	close(fd);
}

/* ---- another's ----------------------------------------------------------------------------- */

struct ofi_gate *ofi_gate_open(const char *name)
{
	struct ofi_gate *gate = NULL;
	char path[PATH_MOST];
	struct stat st;
	int fd;

	gate_path(path, name);
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return NULL;
	if (is_ours(fd, &st) && st.st_size == sizeof(*gate))
		gate = map_gate(fd);
	close(fd);
	if (gate && gate->ready == GATE_READY)
		return gate;
	ofi_gate_close(gate);
	return NULL;
}

void ofi_gate_close(struct ofi_gate *gate)
{
	if (gate)
		munmap(gate, sizeof(*gate));
}

/* ---- passing ------------------------------------------------------------------------------- */

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

int ofi_gate_enter(struct ofi_gate *gate)
{
	int err = pthread_mutex_trylock(&gate->mutex);

	for (int i = 0; err == EBUSY && i < GATE_LOOKS; i++) {
		relax();
		err = pthread_mutex_trylock(&gate->mutex);
	}
	/* left as it is, nobody gets in any more */
	if (err == EOWNERDEAD)
		pthread_mutex_unlock(&gate->mutex);
	if (err == EBUSY)
		return -EAGAIN;
	return err ? -EOWNERDEAD : 0;
}

void ofi_gate_leave(struct ofi_gate *gate)
{
	pthread_mutex_unlock(&gate->mutex);
}
