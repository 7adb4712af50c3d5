/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The private heap: memory for the pager, the transport and what libc does for them. It must never
 * be paged (a pager thread that waits for its own page waits for ever), must not depend on the
 * program's allocator (whose locks may be held when a mapping is taken over), and must be known by
 * its address, because free() is one function for all.
 *
 * Sizes are rounded up to a power of two; each size has a list of free blocks; new blocks are cut
 * off a reservation of address space. Blocks from LARGE up give their pages back when freed. Any
 * thread; one lock, held for a few instructions, with signals blocked by whoever can be
 * interrupted.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include "preload.h"

#define HEAP_MAX   ((size_t)64 << 30)
#define HEAP_LEAST ((size_t)64 << 20)
#define STEP       ((size_t)4 << 20) /* made accessible at a time */
#define LARGE      ((size_t)256 << 10)
#define CLASSES    48
#define HEADER     16    /* class of the block; keeps 16-byte alignment */
#define ALIGNED    0x80u /* in the class: the word before holds the distance to the block */

struct block {
	struct block *next;
};

static struct {
	pthread_mutex_t lock;
	_Atomic(uintptr_t) base;
	_Atomic(uintptr_t) end; /* of the reservation */
	uintptr_t top, open;    /* cut off so far; accessible so far */
	struct block *free[CLASSES];
} heap = { .lock = PTHREAD_MUTEX_INITIALIZER };

void heap_lock(void)
{
	pthread_mutex_lock(&heap.lock);
}

void heap_unlock(void)
{
	pthread_mutex_unlock(&heap.lock);
}

void heap_fork_child(void)
{
	pthread_mutex_init(&heap.lock, NULL);
}

static int reserve(void)
{
	for (size_t bytes = HEAP_MAX; bytes >= HEAP_LEAST; bytes /= 2) {
		void *p = raw_mmap(NULL, bytes, PROT_NONE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (p == MAP_FAILED)
			continue;
		/* who writes a core by reading (gcore) would write all of it */
		raw_madvise(p, bytes, MADV_DONTDUMP);
		heap.top = heap.open = (uintptr_t)p;
		atomic_store(&heap.end, (uintptr_t)p + bytes);
		atomic_store(&heap.base, (uintptr_t)p);
		return 0;
	}
	return -ENOMEM;
}

static void *cut(size_t bytes)
{
	if (!heap.base && reserve())
		return NULL;
	if (bytes > heap.end - heap.top)
		return NULL;
	uintptr_t p = heap.top, top = p + bytes;
	if (top > heap.open) {
		size_t more = (top - heap.open + STEP - 1) & ~(STEP - 1);
		if (more > heap.end - heap.open)
			more = heap.end - heap.open;
		if (raw_mprotect((void *)heap.open, more, PROT_READ | PROT_WRITE))
			return NULL;
		raw_madvise((void *)heap.open, more, MADV_DODUMP);
		heap.open += more;
	}
	heap.top = top;
	return (void *)p;
}

static unsigned class_of(size_t size)
{
	unsigned class = 5; /* 32 bytes */

	while (((size_t)1 << class) < size)
		class ++;
	return class;
}

void *heap_alloc(size_t size)
{
	if (size > HEAP_MAX / 2) {
		errno = ENOMEM;
		return NULL;
	}
	unsigned class = class_of(size + HEADER);
	int saved = errno;
	heap_lock();
	struct block *block = heap.free[class];
	if (block)
		heap.free[class] = block->next;
	else
		block = cut((size_t)1 << class);
	heap_unlock();
	if (!block) {
		errno = ENOMEM;
		return NULL;
	}
	errno = saved;
	uint64_t *head = (uint64_t *)block;
	head[0] = 0;
	head[1] = class;
	return head + 2;
}

/* Blocks of the heap begin at multiples of 16 only, so a larger alignment is found inside. */
void *heap_alloc_aligned(size_t align, size_t size)
{
	if (align <= 16)
		return heap_alloc(size);
	if (align > HEAP_MAX / 4 || size > HEAP_MAX / 4) {
		errno = ENOMEM;
		return NULL;
	}
	char *p = heap_alloc(size + align + HEADER);
	if (!p)
		return NULL;
	uintptr_t at = ((uintptr_t)p + HEADER + align - 1) & ~(uintptr_t)(align - 1);
	uint64_t *head = (uint64_t *)at - 2;
	head[0] = at - (uintptr_t)p;
	head[1] = ALIGNED;
	return (void *)at;
}

static uint64_t *head_of(const void *p)
{
	uint64_t *head = (uint64_t *)(uintptr_t)p - 2;

	if (head[1] == ALIGNED)
		head = (uint64_t *)((uintptr_t)p - head[0]) - 2;
	return head;
}

size_t heap_usable(const void *p)
{
	uint64_t *head = head_of(p);

	return (uintptr_t)head + ((size_t)1 << head[1]) - (uintptr_t)p;
}

/* The pages wholly inside a large block are zeros whenever it is not handed out. */
static void inner(uint64_t *head, uintptr_t *from, uintptr_t *to)
{
	*from = ((uintptr_t)head + PRELOAD_PAGE - 1) & ~(PRELOAD_PAGE - 1);
	*to = ((uintptr_t)head + ((size_t)1 << head[1])) & ~(PRELOAD_PAGE - 1);
}

void *heap_zalloc(size_t size)
{
	char *p = heap_alloc(size);
	uintptr_t from, to;

	if (!p)
		return NULL;
	uint64_t *head = head_of(p);
	if (((size_t)1 << head[1]) < LARGE)
		return memset(p, 0, size);
	inner(head, &from, &to);
	if (from > (uintptr_t)p)
		memset(p, 0, from - (uintptr_t)p);
	if (size > to - (uintptr_t)p)
		memset((void *)to, 0, (uintptr_t)p + size - to);
	return p;
}

void heap_free(void *p)
{
	if (!p)
		return;
	int saved = errno;
	uint64_t *head = head_of(p);
	unsigned class = (unsigned)head[1];
	struct block *block = (struct block *)head;

	if (((size_t)1 << class) >= LARGE) {
		uintptr_t from, to;
		inner(head, &from, &to);
		raw_madvise((void *)from, to - from, MADV_DONTNEED);
	}
	heap_lock();
	block->next = heap.free[class];
	heap.free[class] = block;
	heap_unlock();
	errno = saved;
}

void *heap_realloc(void *p, size_t size)
{
	if (!p)
		return heap_alloc(size);
	size_t had = heap_usable(p);
	if (size <= had && size >= had / 4)
		return p;
	void *q = heap_alloc(size);
	if (!q)
		return NULL;
	memcpy(q, p, had < size ? had : size);
	heap_free(p);
	return q;
}

int heap_owns(const void *p)
{
	uintptr_t base = atomic_load_explicit(&heap.base, memory_order_relaxed);

	return base &&
	       (uintptr_t)p - base < atomic_load_explicit(&heap.end, memory_order_relaxed) - base;
}

/* What the objects in this library mean by malloc (ld --wrap). free() of theirs may also get what
 * libc allocated for them, which is of the private heap too, as long as the caller was inside. */
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
	return heap_alloc(size);
}

void *__wrap_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	return heap_zalloc(bytes);
}

void *__wrap_realloc(void *p, size_t size);
void *__wrap_realloc(void *p, size_t size)
{
	return heap_realloc(p, size);
}

void *__wrap_reallocarray(void *p, size_t n, size_t size);
void *__wrap_reallocarray(void *p, size_t n, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	return heap_realloc(p, bytes);
}

int __wrap_posix_memalign(void **p, size_t align, size_t size);
int __wrap_posix_memalign(void **p, size_t align, size_t size)
{
	void *q = heap_alloc_aligned(align, size);

	if (!q)
		return ENOMEM;
	*p = q;
	return 0;
}

void *__wrap_aligned_alloc(size_t align, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size)
{
	return heap_alloc_aligned(align, size);
}

char *__wrap_strdup(const char *s);
char *__wrap_strdup(const char *s)
{
	size_t len = strlen(s) + 1;
	char *p = heap_alloc(len);

	return p ? memcpy(p, s, len) : NULL;
}

char *__wrap_strndup(const char *s, size_t n);
char *__wrap_strndup(const char *s, size_t n)
{
	size_t len = strnlen(s, n);
	char *p = heap_alloc(len + 1);

	if (!p)
		return NULL;
	memcpy(p, s, len);
	p[len] = 0;
	return p;
}

void __real_free(void *p);
void __wrap_free(void *p);
void __wrap_free(void *p)
{
	if (!p || heap_owns(p))
		heap_free(p);
	else
		__real_free(p);
}
