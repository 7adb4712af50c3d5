/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shared memory objects that several nodes share (gvm run --shared): what shm_open gives the
 * program is the descriptor of a memfd that has the object's size and no contents; where it maps
 * that, it gets a part of the one mapping of a coherent region that this process has. What all
 * nodes must agree on, whether the name is there and the object's size, is in a region of one page
 * beside it (struct shared_about).
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "preload.h"
#include "preload_shared.h"

#define IS_THERE  (1ull << 63)
#define LIFE(w)   ((unsigned)((w) >> 48 & 0x7fff))
#define SIZE(w)   ((w)&0xffffffffffffull)
#define SIZE_MOST ((off_t)1 << 44)
#define WAIT_MS   2000 /* for who has made an object to say its size */
#define LOOK_MS   2000 /* to learn why a page cannot be had */
#define GIVE_MOST 20   /* times that a page is offered to its home */
#define RANGES    64u  /* objects whose locks are seen to */
#define SLAB_MIN  (64ull << 10)

struct shared_object *shared_objects;
static struct shared_name *names;
static _Atomic(unsigned) count; /* objects */
_Atomic(uintptr_t) shared_low = UINTPTR_MAX, shared_high;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pid_t owner; /* the process that has regions open */

struct guard {
	uint64_t mask;
};

static void hold(struct guard *guard)
{
	uint64_t all = ~0ull;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &guard->mask, sizeof all);
	pthread_mutex_lock(&lock);
	preload_inside++;
}

static void let_go(struct guard *guard)
{
	int saved = errno;

	preload_inside--;
	pthread_mutex_unlock(&lock);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &guard->mask, NULL, sizeof guard->mask);
	errno = saved;
}

static size_t whole(uint64_t bytes)
{
	return (size_t)((bytes + PRELOAD_PAGE - 1) & ~(uint64_t)(PRELOAD_PAGE - 1));
}

/* ---- names ---------------------------------------------------------------------------------- */

/* Folders, of which the C library knows what to say. */
static int is_folder(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

static size_t region_chars(const char *name)
{
	size_t chars = 0;

	for (; *name; name++)
		chars += *name == '.' ? 2 : 1;
	return chars;
}

/* Each dot becomes two: so whether the last dots of a region's name are even or odd in number says
 * whether what follows the last one is a part of the object's name, or was put behind it. */
static void region_name(char *to, const char *name)
{
	for (; *name; name++) {
		*to++ = *name;
		if (*name == '.')
			*to++ = '.';
	}
	*to = 0;
}

/* 0, or the errno that says why there can be no object of that name. */
static int why_no_name(const char *name)
{
	if (!*name || name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
					"0123456789._-")])
		return EINVAL;
	return region_chars(name) > OBJECT_NAME_MAX ? ENAMETOOLONG : 0;
}

static _Atomic(uint64_t) *word_of(const struct shared_name *n)
{
	return &((struct shared_about *)n->about.mem)->word;
}

static void about_name(const struct shared_name *n, char *region)
{
	snprintf(region, REGION_NAME_ROOM, "%s.object", n->region);
}

/* The page of a name cannot be read: by then it may be again (0), else -1 with errno, and a line
 * says why. */
static int look_again(const struct shared_name *n, uint64_t *word)
{
	struct gvm_dsm_stats st;
	int err = gvm_dsm_pin(n->about.dsm, 0, PRELOAD_PAGE, 0, LOOK_MS);

	if (!err) {
		*word = atomic_load(word_of(n));
		gvm_dsm_unpin(n->about.dsm, 0, PRELOAD_PAGE);
		return 0;
	}
	gvm_dsm_stats(n->about.dsm, &st);
	errno = err == -EHOSTDOWN || st.homes_dead ? EHOSTDOWN : -err;
	if (errno == EHOSTDOWN)
		say_once("shared memory %s: its memory node is gone", n->name);
	else if (errno == EIO)
		say_once("shared memory %s: whether it is there, and its size, is lost: who said "
			 "so last was killed before a memory node had it, or that was started "
			 "again; delete the regions %s.object and %s to make it anew",
			 n->name, n->region, n->region);
	else
		say_once("shared memory %s: whether it is there cannot be learned now (%s)",
			 n->name, strerror(errno));
	return -1;
}

/* Its page may be one that cannot be had: an error rather than a signal. */
static int look(const struct shared_name *n, uint64_t *word)
{
	struct iovec to = { word, sizeof *word }, from = { (void *)word_of(n), sizeof *word };

	if (process_vm_readv(raw_getpid(), &to, 1, &from, 1, 0) == sizeof *word)
		return 0;
	if (errno == ENOSYS || errno == EPERM) {
		*word = atomic_load(word_of(n));
		return 0;
	}
	return look_again(n, word);
}

/* What only this process has is lost when it is killed: the home gets it before the program is told
 * that it is so. To look again waits for that, and leaves a copy here, should the memory node be
 * killed. */
static void give_home(const struct shared_name *n)
{
	const struct timespec moment = { .tv_nsec = 1000000 };
	struct gvm_dsm_stats before, now;
	uint64_t word;

	gvm_dsm_stats(n->about.dsm, &before);
	for (unsigned i = 0; i < GIVE_MOST; i++) {
		gvm_dsm_evict(n->about.dsm, 0, PRELOAD_PAGE);
		gvm_dsm_stats(n->about.dsm, &now);
		if (now.evicted != before.evicted || !now.pages_here)
			break;
		nanosleep(&moment, NULL); /* it is on its way to another node */
	}
	look(n, &word);
}

/* As an atomic exchange if it is *had; else that is what it was. */
static int change(const struct shared_name *n, uint64_t *had, uint64_t word)
{
	int done = atomic_compare_exchange_strong(word_of(n), had, word);

	give_home(n);
	return done;
}

static int open_about(struct shared_name *n)
{
	char region[REGION_NAME_ROOM];

	if (n->about.dsm)
		return 0;
	about_name(n, region);
	owner = raw_getpid();
	return shared_region_open(&n->about, region, PRELOAD_PAGE, SLAB_MIN, GVM_DSM_CREATE);
}

/* NULL with errno. */
static struct shared_name *name_get(const char *name)
{
	struct shared_name *n = names;

	while (n && strcmp(n->name, name))
		n = n->next;
	if (!n) {
		n = calloc(1, sizeof *n);
		if (!n)
			return NULL;
		strcpy(n->name, name);
		region_name(n->region, name);
		n->next = names;
		names = n;
	}
	int err = open_about(n);
	errno = -err;
	return err ? NULL : n;
}

/* The word of an object of that name, made if flags say so; 0 with errno. */
static uint64_t object_word(struct shared_name *n, int flags, int *made)
{
	uint64_t had, word;

	if (look(n, &had))
		return 0;
	do {
		if (had & IS_THERE) {
			int refused = (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL);
			errno = EEXIST;
			return refused ? 0 : had;
		}
		errno = ENOENT;
		if (!(flags & O_CREAT))
			return 0;
		word = IS_THERE | (uint64_t)(LIFE(had) % 0x7fff + 1) << 48;
	} while (!change(n, &had, word));
	*made = 1;
	return word;
}

/* ---- objects -------------------------------------------------------------------------------- */

static struct shared_object *object_find(const struct shared_name *n, unsigned life)
{
	struct shared_object *o = shared_objects;

	while (o && (o->name != n || o->life != life))
		o = o->next;
	return o;
}

/* The program reads and writes the memory, never the file: read() of what is open for writing
 * only, and write() to what is sealed, fail. */
static int make_file(struct shared_object *o)
{
	struct stat st;

	o->fd = memfd_create(o->name->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (o->fd < 0)
		return -errno;
	if (fstat(o->fd, &st) || fcntl(o->fd, F_ADD_SEALS, F_SEAL_WRITE)) {
		close(o->fd);
		return -EIO;
	}
	o->dev = st.st_dev;
	o->ino = st.st_ino;
	return 0;
}

static struct shared_object *object_get(struct shared_name *n, unsigned life)
{
	struct shared_object *o = object_find(n, life);

	if (o)
		return o;
	o = calloc(1, sizeof *o);
	if (!o)
		return NULL;
	o->name = n;
	o->life = life;
	if (life == 1)
		strcpy(o->region, n->region);
	else
		snprintf(o->region, sizeof o->region, "%s.%u", n->region, life);
	int err = make_file(o);
	if (err) {
		free(o);
		errno = -err;
		return NULL;
	}
	o->next = shared_objects;
	shared_objects = o;
	count++;
	return o;
}

/* The name has been unlinked since, or made anew. */
static int is_orphan(const struct shared_object *o)
{
	uint64_t word;

	return !look(o->name, &word) && (!(word & IS_THERE) || LIFE(word) != o->life);
}

static uint64_t local_size(const struct shared_object *o)
{
	struct stat st;

	return fstat(o->fd, &st) ? 0 : (uint64_t)st.st_size;
}

/* What another node has made of its size. */
static uint64_t refresh(struct shared_object *o)
{
	uint64_t word, size = local_size(o);

	if (!look(o->name, &word) && word & IS_THERE && LIFE(word) == o->life &&
	    SIZE(word) != size) {
		size = SIZE(word);
		syscall(SYS_ftruncate, o->fd, (off_t)size);
	}
	return size;
}

/* Its slabs are as large as it is, within bounds. */
static uint32_t slab_for(uint64_t bytes)
{
	uint64_t most = gvm_option_number("GVM_SLAB"), slab = SLAB_MIN;

	while (slab < bytes && slab < most)
		slab *= 2;
	return (uint32_t)slab;
}

static struct {
	_Atomic(uintptr_t) from, to;
} ranges[RANGES]; /* for shared_is_at, which takes no lock */

int shared_is_at(const void *addr)
{
	for (unsigned i = 0; i < RANGES; i++)
		if ((uintptr_t)addr < ranges[i].to && (uintptr_t)addr >= ranges[i].from)
			return 1;
	return 0;
}

static void forget_range(const struct shared_region *data)
{
	for (unsigned i = 0; i < RANGES; i++)
		if (ranges[i].from == (uintptr_t)data->mem)
			ranges[i].to = ranges[i].from = 0;
}

static void widen(const struct shared_region *data)
{
	uintptr_t from = (uintptr_t)data->mem, to = from + data->bytes;
	unsigned i = 0;

	while (i < RANGES && ranges[i].from)
		i++;
	if (i < RANGES) {
		ranges[i].from = from;
		ranges[i].to = to;
	} else {
		say_once(
		    "more than %u shared memory objects are open: locks in further ones do not "
		    "wake sleepers on other machines",
		    RANGES);
	}

	if (from < shared_low)
		shared_low = from;
	if (to > shared_high)
		shared_high = to;
}

/* size: of one that is made; 0: it is there. */
static int open_data(struct shared_object *o, uint64_t size)
{
	int err;

	if (o->data.dsm)
		return 0;
	err = shared_region_open(&o->data, o->region, whole(size), size ? slab_for(size) : 0,
				 size ? GVM_DSM_CREATE : 0);
	if (err == -ENOENT) {
		say("shared memory %s: its contents are gone (a memory node was started again, or "
		    "the region was deleted); delete region %s.object, too",
		    o->region, o->name->region);
		return -ESTALE;
	}
	if (err)
		return err;
	raw_mprotect(o->data.mem, o->data.bytes, PROT_NONE);
	widen(&o->data);
	report_started(NULL);
	return 0;
}

/* This process has it no longer. */
static void object_end(struct shared_object *o)
{
	struct shared_object **at = &shared_objects;
	int orphan = is_orphan(o);

	while (*at != o)
		at = &(*at)->next;
	*at = o->next;
	if (o->data.dsm) {
		shared_report_end(o);
		forget_range(&o->data);
		shared_region_close(&o->data, o->region);
	}
	if (orphan)
		shared_region_delete(o->region);
	close(o->fd);
	free(o->part);
	free(o);
	count--;
}

/* An object that is unlinked ends with its last mapping. */
static void maybe_end(struct shared_object *o)
{
	if (o->was_mapped && !o->parts && is_orphan(o))
		object_end(o);
}

static struct shared_object *object_of(int fd)
{
	struct shared_object *o = shared_objects;
	struct stat st;

	if (fstat(fd, &st))
		return NULL;
	while (o && (o->ino != st.st_ino || o->dev != st.st_dev))
		o = o->next;
	return o;
}

/* In a forked child its parent's regions are gone: they are opened again. */
static int revive(struct shared_object *o)
{
	int err = o->name->about.dsm ? 0 : open_about(o->name);

	errno = err ? -err : errno;
	return err;
}

/* ---- opening and unlinking ------------------------------------------------------------------ */

/* A descriptor of the program's own, that can be closed without harm. */
static int descriptor(const struct shared_object *o)
{
	char path[32];

	snprintf(path, sizeof path, "/proc/self/fd/%d", o->fd);
	int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
	return fd >= 0 ? fd : (int)syscall(SYS_fcntl, o->fd, F_DUPFD_CLOEXEC, 0);
}

/* -1 with errno. *again: its size is not known yet. */
static int open_locked(const char *name, int flags, int *again)
{
	struct shared_name *n = name_get(name);
	uint64_t word;
	int made = 0;

	if (!n)
		return -1;
	word = object_word(n, flags, &made);
	if (!word)
		return -1;
	struct shared_object *o = object_get(n, LIFE(word));
	if (!o)
		return -1;
	*again = !refresh(o) && !made;
	return descriptor(o);
}

static void await_size(int fd)
{
	const struct timespec moment = { .tv_nsec = 1000000 };
	struct guard guard;
	uint64_t size = 0;

	for (unsigned i = 0; i < WAIT_MS && !size; i++) {
		nanosleep(&moment, NULL);
		hold(&guard);
		struct shared_object *o = object_of(fd);
		size = !o || refresh(o);
		let_go(&guard);
	}
}

int shared_opens(const char *name, int flags, int *fd)
{
	struct guard guard;
	int again = 0;

	if (is_folder(name) || !policy_match(preload_policy.names, name))
		return 0;
	int err = why_no_name(name);
	if (err) {
		say("shared memory %.70s: a name that nodes share is of at most %d of "
		    "[A-Za-z0-9._-], where a dot counts as two",
		    name, OBJECT_NAME_MAX);
		errno = err;
		*fd = -1;
		return 1;
	}
	hold(&guard);
	*fd = open_locked(name, flags, &again);
	let_go(&guard);
	if (*fd >= 0 && again)
		await_size(*fd);
	return 1;
}

static int unlink_locked(const char *name)
{
	struct shared_name *n = name_get(name);

	if (!n)
		return -1;
	uint64_t word;
	if (look(n, &word))
		return -1;
	do {
		if (!(word & IS_THERE)) {
			errno = ENOENT;
			return -1;
		}
	} while (!change(n, &word, word & ~IS_THERE));
	struct shared_object *o = object_find(n, LIFE(word));
	if (o)
		maybe_end(o);
	else if ((o = object_get(n, LIFE(word)))) /* it may be the last, and only unlinks it */
		object_end(o);
	return 0;
}

int shared_unlinks(const char *name, int *err)
{
	struct guard guard;

	if (is_folder(name) || why_no_name(name) || !policy_match(preload_policy.names, name))
		return 0;
	hold(&guard);
	*err = unlink_locked(name);
	let_go(&guard);
	return 1;
}

/* ---- size ----------------------------------------------------------------------------------- */

/* -1 with errno; a line says why, once for each place that it is said at. */
#define refuse(err, why)                                                                           \
	({                                                                                         \
		say_once("shared memory of several nodes: %s", why);                               \
		errno = err;                                                                       \
		-1;                                                                                \
	})

/* What there may be of one of that name that is not known any more goes first: a new object has
 * no contents. Who makes this one meanwhile has it open. */
static int make_data(struct shared_object *o, uint64_t len)
{
	if (!o->data.dsm)
		shared_region_clear(o->region);
	return open_data(o, len);
}

static int set_size(struct shared_object *o, uint64_t len)
{
	uint64_t had = refresh(o);
	int err = had ? 0 : make_data(o, len);

	if (err) {
		errno = -err;
		return -1;
	}
	if (had && whole(len) > whole(had))
		return refuse(EFBIG, "an object keeps the size that it was first given; it cannot "
				     "grow");
	uint64_t word;
	if (look(o->name, &word))
		return -1;
	while (word & IS_THERE && LIFE(word) == o->life) {
		/* two that make it at once say the same, or the second one is told */
		if (!had && SIZE(word))
			return set_size(o, len);
		if (change(o->name, &word, (word & ~SIZE(~0ull)) | len))
			break;
	}
	return (int)syscall(SYS_ftruncate, o->fd, (off_t)len);
}

int shared_size(int fd, off_t len, int *err)
{
	struct guard guard;

	if (!count)
		return 0;
	hold(&guard);
	struct shared_object *o = object_of(fd);
	if (o && revive(o))
		*err = -1;
	else if (o && (len <= 0 || len > SIZE_MOST))
		*err =
		    len || refresh(o) ? refuse(EINVAL, "an object's size is 1 byte to 16 TiB") : 0;
	else if (o)
		*err = set_size(o, (uint64_t)len);
	let_go(&guard);
	return o != NULL;
}

/* ---- mapping -------------------------------------------------------------------------------- */

/* What all that is mapped of [from, to) may do with it. */
static int prot_of(const struct shared_object *o, size_t from, size_t to)
{
	int prot = PROT_NONE;

	for (size_t i = 0; i < o->parts; i++)
		if (o->part[i].from < to && from < o->part[i].to)
			prot |= o->part[i].prot;
	return prot;
}

/* Page by page would be right where parts overlap; in one go it is where they do not. */
static void protect(const struct shared_object *o, size_t from, size_t to)
{
	raw_mprotect(o->data.mem + from, to - from, prot_of(o, from, to));
}

static int part_add(struct shared_object *o, size_t from, size_t to, int prot)
{
	if (o->parts == o->room) {
		size_t room = o->room ? o->room * 2 : 8;
		struct shared_part *part = realloc(o->part, room * sizeof *part);
		if (!part)
			return -ENOMEM;
		o->part = part;
		o->room = room;
	}
	o->part[o->parts++] = (struct shared_part){ from, to, prot };
	return 0;
}

static const char *why_not(int prot, int flags)
{
	if (flags & MAP_FIXED)
		return "they cannot be mapped at an address that the program chooses (MAP_FIXED)";
	if ((flags & MAP_TYPE) == MAP_PRIVATE)
		return "they have no private mappings";
	if (prot & PROT_EXEC)
		return "they cannot be executable";
	return NULL;
}

/* -1 with errno. */
static int map_locked(struct shared_object *o, size_t len, int prot, off_t off, void **p)
{
	if (revive(o))
		return -1;
	uint64_t size = refresh(o);
	if (!size)
		return refuse(ENXIO, "one is mapped that has no size yet (ftruncate)");
	int err = open_data(o, 0);
	if (!err && (off < 0 || off % (off_t)PRELOAD_PAGE || (uint64_t)off > o->data.bytes ||
		     len > o->data.bytes - (uint64_t)off))
		return refuse(EINVAL, "more is mapped than there is");
	size_t from = (size_t)off, to = from + len;
	err = err ? err : part_add(o, from, to, prot & (PROT_READ | PROT_WRITE));
	if (err) {
		errno = -err;
		return -1;
	}
	o->was_mapped = 1;
	protect(o, from, to);
	*p = o->data.mem + from;
	return 0;
}

static int may_meet(const void *addr, size_t len)
{
	return count && (uintptr_t)addr < shared_high && (uintptr_t)addr + len > shared_low;
}

static int is_of_object(const void *addr, size_t len)
{
	const char *from = addr;

	for (const struct shared_object *o = shared_objects; o; o = o->next)
		if (o->data.dsm && from < o->data.mem + o->data.bytes && from + len > o->data.mem)
			return 1;
	return 0;
}

/* Laid over an object's one mapping, it would be what the object is mapped as from then on. */
static int shared_covered(const void *addr, size_t len, void **p)
{
	struct guard guard;
	int covers;

	hold(&guard);
	covers = is_of_object(addr, len);
	if (covers) {
		*p = MAP_FAILED;
		refuse(ENOTSUP, "MAP_FIXED over shared memory, also where it was unmapped");
	}
	let_go(&guard);
	return covers;
}

int shared_map(void *addr, size_t len, int prot, int flags, int fd, off_t off, void **p)
{
	struct guard guard;

	if (flags & MAP_FIXED && may_meet(addr, len) && shared_covered(addr, len, p))
		return 1;
	if (!count || flags & MAP_ANONYMOUS)
		return 0;
	hold(&guard);
	struct shared_object *o = object_of(fd);
	*p = MAP_FAILED;
	if (o && why_not(prot, flags))
		refuse(ENOTSUP, why_not(prot, flags));
	else if (o && !map_locked(o, whole(len), prot, off, p) && preload_policy.verbose)
		say("shared memory %s is mapped at %p (%zu KiB)", o->region, *p, len / 1024);
	let_go(&guard);
	return o != NULL;
}

/* The one that is exactly that, or else one that meets it. */
static struct shared_part *part_of(struct shared_object *o, size_t from, size_t to)
{
	struct shared_part *meets = NULL;

	for (size_t i = 0; i < o->parts; i++) {
		struct shared_part *part = &o->part[i];
		if (part->from == from && part->to == to)
			return part;
		if (part->from < to && from < part->to)
			meets = part;
	}
	return meets;
}

/* One part, and what lies beside it. */
static int part_cut(struct shared_object *o, size_t from, size_t to)
{
	struct shared_part *part = from < to ? part_of(o, from, to) : NULL, old;
	size_t all_from = from, all_to = to;

	if (!part)
		return 0;
	old = *part;
	from = from > old.from ? from : old.from;
	to = to < old.to ? to : old.to;
	if (old.from < from && to < old.to && part_add(o, to, old.to, old.prot))
		return -ENOMEM;
	part = part_of(o, old.from, old.to);
	if (old.from < from)
		part->to = from;
	else if (to < old.to)
		part->from = to;
	else
		*part = o->part[--o->parts];
	protect(o, from, to);
	int err = part_cut(o, all_from, from);
	return err ? err : part_cut(o, to, all_to);
}

static struct shared_object *object_at(uintptr_t from, uintptr_t to)
{
	struct shared_object *o = shared_objects;

	while (o && !(o->data.mem && from < (uintptr_t)o->data.mem + o->data.bytes &&
		      (uintptr_t)o->data.mem < to))
		o = o->next;
	return o;
}

/* What is no object's within [from, to) goes as ever. */
static int unmap_locked(uintptr_t from, uintptr_t to)
{
	struct shared_object *o = object_at(from, to);

	if (!o)
		return raw_munmap((void *)from, to - from);
	uintptr_t base = (uintptr_t)o->data.mem, end = base + o->data.bytes;
	if (from < base && unmap_locked(from, base))
		return -1;
	if (end < to && unmap_locked(end, to))
		return -1;
	int err = part_cut(o, from > base ? from - base : 0, (to < end ? to : end) - base);
	maybe_end(o);
	errno = -err;
	return err ? -1 : 0;
}

int shared_unmap(void *addr, size_t len, int *err)
{
	struct guard guard;
	uintptr_t from = (uintptr_t)addr;

	if (!may_meet(addr, len))
		return 0;
	hold(&guard);
	int ours = object_at(from, from + whole(len)) != NULL;
	if (ours)
		*err = unmap_locked(from, from + whole(len));
	let_go(&guard);
	return ours;
}

int shared_moves(const void *addr, size_t len)
{
	struct guard guard;
	uintptr_t from = (uintptr_t)addr;

	if (!may_meet(addr, len))
		return 0;
	hold(&guard);
	int ours = object_at(from, from + whole(len)) != NULL;
	if (ours)
		refuse(ENOTSUP, "they cannot be moved or resized (mremap)");
	let_go(&guard);
	return ours;
}

int shared_inherits(const void *addr, size_t len)
{
	struct guard guard;
	uintptr_t from = (uintptr_t)addr;

	if (!may_meet(addr, len))
		return 0;
	hold(&guard);
	int ours = object_at(from, from + whole(len)) != NULL;
	if (ours)
		refuse(EINVAL, "no forked child can have them (MADV_DOFORK)");
	let_go(&guard);
	return ours;
}

/* ---- report --------------------------------------------------------------------------------- */

int shared_print(int told)
{
	struct guard guard;

	if (owner != raw_getpid())
		return 0;
	hold(&guard);
	int any = told ? shared_report_print() : shared_report_any();
	let_go(&guard);
	return any;
}

int shared_json(FILE *out)
{
	struct guard guard;

	if (owner != raw_getpid())
		return 0;
	hold(&guard);
	int any = shared_report_json(out);
	let_go(&guard);
	return any;
}

/* ---- the ends ------------------------------------------------------------------------------- */

static pthread_t leaver;

/* Threads that use the memory when it has gone, because the program is ending, end with it. */
static void park(int sig)
{
	if (pthread_self() == leaver) {
		signal(sig, SIG_DFL);
		return;
	}
	for (;;)
		pause();
}

static void name_end(struct shared_name *n)
{
	char region[REGION_NAME_ROOM];

	if (!n->about.dsm)
		return;
	about_name(n, region);
	uint64_t word = IS_THERE;
	int there = look(n, &word) || word & IS_THERE;
	shared_region_close(&n->about, region);
	if (!there)
		shared_region_delete(region);
}

void shared_leave(void)
{
	struct guard guard;

	if (owner != raw_getpid()) /* or a vforked child */
		return;
	hold(&guard);
	leaver = pthread_self();
	signal(SIGSEGV, park);
	signal(SIGBUS, park);
	for (struct shared_object *o = shared_objects, *next; o; o = next) {
		next = o->next;
		if (o->name->about.dsm)
			object_end(o);
	}
	for (struct shared_name *n = names; n; n = n->next)
		name_end(n);
	let_go(&guard);
}

static void each_region(void (*fn)(struct shared_region *region, const char *name))
{
	struct guard guard;

	if (owner != raw_getpid())
		return;
	hold(&guard);
	for (struct shared_object *o = shared_objects; o; o = o->next)
		if (o->data.dsm)
			fn(&o->data, o->region);
	for (struct shared_name *n = names; n; n = n->next)
		if (n->about.dsm)
			fn(&n->about, n->name);
	let_go(&guard);
}

void shared_part(void)
{
	each_region(shared_region_part);
}

void shared_stay(void)
{
	each_region(shared_region_stay);
}

/* ---- fork ----------------------------------------------------------------------------------- */

static struct guard forking;

void shared_fork_prepare(void)
{
	if (!preload_active || !*preload_policy.names)
		return;
	hold(&forking);
	if (shared_high)
		say_once("this program forks: its children have none of the shared memory that is "
			 "mapped now (an access there is a SIGSEGV), but may open and map it "
			 "themselves, as further nodes");
}

void shared_fork_parent(void)
{
	if (preload_active && *preload_policy.names)
		let_go(&forking);
}

static int is_file(int fd)
{
	struct shared_object *o = shared_objects;

	while (o && o->fd != fd)
		o = o->next;
	return o != NULL;
}

void shared_fork_child(void)
{
	if (!preload_active || !*preload_policy.names)
		return;
	pthread_mutex_init(&lock, NULL);
	pthread_mutex_lock(&lock);
	for (struct shared_object *o = shared_objects; o; o = o->next) {
		if (o->data.mem)
			forget_range(&o->data);
		o->data = (struct shared_region){ 0 };
		o->parts = 0;
	}
	for (struct shared_name *n = names; n; n = n->next)
		n->about = (struct shared_region){ 0 };
	shared_node_forget();
	shared_report_fork_child();
	shared_low = UINTPTR_MAX;
	shared_high = 0;
	if (!take_pager()) /* which needs what it has */
		fd_drop(is_file);
	let_go(&forking);
}
