/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * malloc and its family. Large blocks are mappings that are taken over; everything else goes to the
 * allocator that the program would have had. glibc's malloc maps memory past all interposition, so
 * that its large blocks must be caught here; another allocator (jemalloc, tcmalloc) calls mmap,
 * which is, and may be asked to free blocks by functions of its own: its blocks are left to it.
 *
 * Before the constructor has run, and for threads that work for this library, blocks are of the
 * private heap. All three kinds are told apart by address. Any thread.
 */
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "preload.h"

#define RW (PROT_READ | PROT_WRITE)

static struct {
	void *(*malloc)(size_t size);
	void *(*calloc)(size_t n, size_t size);
	void *(*realloc)(void *p, size_t size);
	void *(*memalign)(size_t align, size_t size);
	void (*free)(void *p);
	size_t (*usable)(void *p);
} next;

static size_t large; /* blocks from this size on are taken over; 0: none */

static int is_glibc(void *fn)
{
	Dl_info info;
	const char *last;

	if (!dladdr(fn, &info) || !info.dli_fname)
		return 0;
	last = strrchr(info.dli_fname, '/');
	return !strncmp(last ? last + 1 : info.dli_fname, "libc.so", 7) ||
	       !strncmp(last ? last + 1 : info.dli_fname, "libc-", 5);
}

static void resolve(void)
{
	next.calloc = next_symbol("calloc");
	next.realloc = next_symbol("realloc");
	next.memalign = next_symbol("memalign");
	next.usable = next_symbol("malloc_usable_size");
	next.free = next_symbol("free");
	if (!next.memalign)
		next.memalign = next_symbol("aligned_alloc");
	next.malloc = next_symbol("malloc"); /* last: it says that all are there */
}

/*
 * Does the program bring a malloc inside its executable? That one comes before ours. But an
 * executable at a fixed address (not a PIE) that takes malloc's address has an entry of its own
 * through which it calls whichever malloc there is, and that entry is the function's address for
 * all: its symbol has a value and no definition.
 */
static int comes_before(void *fn)
{
	static const char here;
	Dl_info theirs, ours;
	ElfW(Sym) *symbol = NULL;

	if (!fn || !dladdr1(fn, &theirs, (void **)&symbol, RTLD_DL_SYMENT) || !dladdr(&here, &ours))
		return 0;
	return theirs.dli_fbase != ours.dli_fbase && !(symbol && symbol->st_shndx == SHN_UNDEF);
}

/*
 * The loader's and libc's own allocations are that malloc's then, and it may be in the middle of
 * one of its own, with its locks, when it maps memory: the threads of the pager cannot be started
 * there. So its first steps are made here, and the pager is started before the program is.
 */
static int first_steps(void)
{
	void *(*allocate)(size_t size) = (void *(*)(size_t))dlsym(RTLD_DEFAULT, "malloc");
	void (*release)(void *p) = (void (*)(void *))dlsym(RTLD_DEFAULT, "free");

	if (!comes_before((void *)allocate) || !release)
		return 0;
	release(allocate(1));
	return 1;
}

int malloc_init(void)
{
	int own = first_steps();

	resolve();
	if (!preload_active || !preload_policy.malloc_min)
		return own;
	if (!own && is_glibc((void *)next.malloc))
		large = preload_policy.malloc_min;
	else if (preload_policy.verbose)
		say("malloc is not the C library's: its blocks are taken over by mapping only");
	return own;
}

static int mine(void)
{
	return preload_inside || !next.malloc;
}

/* Threads may overwrite each other's: it is for advice. */
static size_t largest_left;

static int is_large(size_t size)
{
	if (size > __atomic_load_n(&largest_left, __ATOMIC_RELAXED) && size < large)
		__atomic_store_n(&largest_left, size, __ATOMIC_RELAXED);
	return large && size >= large && size <= PTRDIFF_MAX;
}

int malloc_left(size_t *largest)
{
	*largest = __atomic_load_n(&largest_left, __ATOMIC_RELAXED);
	return large > 0;
}

/* ---- blocks that are taken over ------------------------------------------------------------- */

static size_t round_up(size_t size)
{
	return (size + PRELOAD_PAGE - 1) & ~(PRELOAD_PAGE - 1);
}

/* Cut the front and the back off a block so that it begins at a multiple of align. */
static char *trim(char *p, size_t bytes, size_t align)
{
	char *at = (char *)(((uintptr_t)p + align - 1) & ~(uintptr_t)(align - 1));

	if (at > p)
		take_unmap((uintptr_t)p, (size_t)(at - p));
	if (at + bytes < p + bytes + align)
		take_unmap((uintptr_t)(at + bytes), (size_t)(p + align - at));
	return at;
}

static void *large_alloc(size_t align, size_t size)
{
	size_t bytes = round_up(size), more = align > PRELOAD_PAGE ? align : 0;
	struct take_guard guard;

	if (bytes + more < size || bytes + more > PTRDIFF_MAX) {
		errno = ENOMEM;
		return NULL;
	}
	take_lock(&guard);
	char *p = take_anon(NULL, bytes + more, RW, MAP_PRIVATE | MAP_ANONYMOUS, 1);
	if (p == MAP_FAILED) {
		p = NULL;
		errno = ENOMEM;
	} else if (more) {
		p = trim(p, bytes, align);
	}
	take_unlock(&guard);
	return p;
}

/* Bytes of a block of ours, 0 if it is none. */
static size_t large_bytes(const void *p)
{
	struct take_guard guard;

	if ((uintptr_t)p & (PRELOAD_PAGE - 1) || !take_meets(p, 1))
		return 0;
	take_lock(&guard);
	size_t bytes = take_malloc_bytes(p);
	take_unlock(&guard);
	return bytes;
}

static int large_free(void *p)
{
	struct take_guard guard;

	if ((uintptr_t)p & (PRELOAD_PAGE - 1) || !take_meets(p, 1))
		return 0;
	take_lock(&guard);
	size_t bytes = take_malloc_bytes(p);
	if (bytes)
		take_unmap((uintptr_t)p, bytes);
	take_unlock(&guard);
	return bytes > 0;
}

static void *large_resize(void *p, size_t bytes, size_t size)
{
	struct take_guard guard;

	take_lock(&guard);
	void *q = take_remap((uintptr_t)p, bytes, round_up(size), MREMAP_MAYMOVE, NULL);
	take_unlock(&guard);
	if (q != MAP_FAILED)
		return q;
	errno = ENOMEM;
	return NULL;
}

/* ---- as the program calls them -------------------------------------------------------------- */

PRELOAD_EXPORT void *malloc(size_t size)
{
	if (mine())
		return heap_alloc(size);
	return is_large(size) ? large_alloc(0, size) : next.malloc(size);
}

PRELOAD_EXPORT void *calloc(size_t n, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	if (mine())
		return heap_zalloc(bytes);
	return is_large(bytes) ? large_alloc(0, bytes) : next.calloc(n, size);
}

PRELOAD_EXPORT void free(void *p)
{
	int saved = errno;

	if (!p)
		return;
	if (heap_owns(p))
		heap_free(p);
	else if (!large_free(p) && next.free)
		next.free(p);
	errno = saved;
}

/* From one kind of block to another. */
static void *move(void *p, size_t had, size_t size)
{
	void *q = malloc(size);

	if (!q)
		return NULL;
	memcpy(q, p, had < size ? had : size);
	free(p);
	return q;
}

PRELOAD_EXPORT void *realloc(void *p, size_t size)
{
	if (!p)
		return malloc(size);
	if (heap_owns(p)) {
		if (mine())
			return heap_realloc(p, size);
		return move(p, heap_usable(p), size);
	}
	size_t bytes = large_bytes(p);
	if (bytes && !size) {
		free(p);
		return NULL;
	}
	if (bytes)
		return is_large(size) ? large_resize(p, bytes, size) : move(p, bytes, size);
	if (is_large(size) && !mine())
		return move(p, next.usable(p), size);
	return next.realloc ? next.realloc(p, size) : NULL;
}

PRELOAD_EXPORT void *reallocarray(void *p, size_t n, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc(p, bytes);
}

PRELOAD_EXPORT void *memalign(size_t align, size_t size)
{
	size_t power = 16;

	while (power < align && power < (size_t)1 << 62)
		power *= 2;
	if (mine())
		return heap_alloc_aligned(power, size);
	return is_large(size) ? large_alloc(power, size) : next.memalign(align, size);
}

PRELOAD_EXPORT void *aligned_alloc(size_t align, size_t size)
{
	if (!align || align & (align - 1)) {
		errno = EINVAL;
		return NULL;
	}
	return memalign(align, size);
}

PRELOAD_EXPORT int posix_memalign(void **out, size_t align, size_t size)
{
	int saved = errno;

	if (!align || align & (align - 1) || align % sizeof(void *))
		return EINVAL;
	void *p = memalign(align, size);
	errno = saved;
	if (!p)
		return ENOMEM;
	*out = p;
	return 0;
}

PRELOAD_EXPORT void *valloc(size_t size)
{
	return memalign(PRELOAD_PAGE, size);
}

PRELOAD_EXPORT void *pvalloc(size_t size)
{
	if (round_up(size) < size) {
		errno = ENOMEM;
		return NULL;
	}
	return memalign(PRELOAD_PAGE, round_up(size));
}

PRELOAD_EXPORT size_t malloc_usable_size(void *p)
{
	if (!p)
		return 0;
	if (heap_owns(p))
		return heap_usable(p);
	size_t bytes = large_bytes(p);
	return bytes ? bytes : next.usable ? next.usable(p) : 0;
}
