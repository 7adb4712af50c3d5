/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An image file whose process is killed. A child changes regions at random and is killed at a
 * random moment. It writes what it is about to do, does it, and then writes what has become of it,
 * into memory that outlives it. Afterwards each page is what was acknowledged, or, for the one
 * operation that was under way, the page before or after it.
 */
#include "image_rig.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#define REGIONS 4
#define SLABS   6
#define PAGES   (SLABS * SLAB_PAGES)

enum op { NONE, CREATE, DELETE, CLONE, WRITE, DISCARD, RESIZE };

struct model {
	struct {
		int exists;
		uint64_t generation, pages;
		uint8_t page[PAGES];
	} region[REGIONS];
	/* the operation under way */
	enum op op;
	int on, to;
	uint64_t first, count;
	uint8_t byte;
	unsigned done; /* operations so far; the parent waits for it */
	unsigned failed;
};

static const char *const names[REGIONS] = { "r0", "r1", "r2", "r3" };
static volatile struct model *m;

static void began(enum op op, int on, int to, uint64_t first, uint64_t count, uint8_t byte)
{
	m->on = on;
	m->to = to;
	m->first = first;
	m->count = count;
	m->byte = byte;
	__atomic_store_n(&m->op, op, __ATOMIC_SEQ_CST);
}

static int ask(void)
{
	const struct gvm_page_run run = { m->first, m->count };
	struct gvm_region_clone req = { .linger_ms = 1000 };
	uint64_t id = id_of(names[m->on]);
	int err = 0;

	switch (m->op) {
	case CREATE:
		return make(names[m->on], m->count);
	case DELETE:
		return store_region_delete(alice, id);
	case CLONE:
		snprintf(req.name, sizeof(req.name), "%s", names[m->to]);
		req.id = id_of(req.name);
		err = store_region_clone(alice, id, &req, &got);
		return err;
	case WRITE:
		return put_page(names[m->on], m->first, m->byte);
	case DISCARD:
		return store_discard(alice, id, &run, 1);
	case RESIZE:
		return store_region_resize(alice, id, m->count,
					   (m->count + SLAB_PAGES - 1) / SLAB_PAGES);
	default:
		return 0;
	}
}

/* The model after the operation. */
static void apply(volatile struct model *x)
{
	volatile uint8_t *page = x->region[x->on].page;

	switch (x->op) {
	case CREATE:
		x->region[x->on].pages = x->count;
		x->region[x->on].exists = 1;
		for (int p = 0; p < (int)PAGES; p++)
			page[p] = 0;
		break;
	case DELETE:
		x->region[x->on].exists = 0;
		break;
	case CLONE:
		x->region[x->to].pages = x->region[x->on].pages;
		x->region[x->to].exists = 1;
		for (int p = 0; p < (int)PAGES; p++)
			x->region[x->to].page[p] = page[p];
		break;
	case WRITE:
		page[x->first] = x->byte;
		break;
	case DISCARD:
		for (uint64_t p = x->first; p < x->first + x->count; p++)
			page[p] = 0;
		break;
	case RESIZE:
		x->region[x->on].pages = x->count;
		for (uint64_t p = x->count; p < PAGES; p++)
			page[p] = 0;
		break;
	default:
		break;
	}
}

static void choose(unsigned *seed)
{
	int on = rand_r(seed) % REGIONS, to = rand_r(seed) % REGIONS, dice = rand_r(seed) % 100;
	uint64_t pages = m->region[on].pages, first;

	if (!m->region[on].exists && dice < 30) {
		began(CREATE, on, 0, 0, 1 + (uint64_t)rand_r(seed) % PAGES, 0);
		return;
	}
	if (!m->region[on].exists) {
		began(NONE, on, 0, 0, 0, 0);
		return;
	}
	first = (uint64_t)rand_r(seed) % pages;
	if (dice < 40)
		began(WRITE, on, 0, first, 1, 1 + (uint8_t)(rand_r(seed) % 255));
	else if (dice < 60)
		began(DISCARD, on, 0, first, 1 + (uint64_t)rand_r(seed) % (pages - first), 0);
	else if (dice < 70)
		began(RESIZE, on, 0, 0, 1 + (uint64_t)rand_r(seed) % PAGES, 0);
	else if (dice < 85 && !m->region[to].exists)
		began(CLONE, on, to, 0, 0, 0);
	else if (dice >= 85)
		began(DELETE, on, 0, 0, 0, 0);
	else
		began(WRITE, on, 0, first, 1, 0x80);
}

static void child(unsigned seed)
{
	if (up_flags(0))
		_exit(3);
	for (int r = 0; r < REGIONS; r++)
		if (m->region[r].exists && open_as(alice, names[r], 0, 0, 0))
			_exit(4);
	for (;;) {
		choose(&seed);
		if (ask()) {
			m->failed++;
			_exit(5);
		}
		if (m->op == CLONE && open_as(alice, names[m->to], 0, 0, 0))
			_exit(6);
		apply(m);
		__atomic_store_n(&m->op, NONE, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&m->done, 1, __ATOMIC_SEQ_CST);
	}
}

static int matches(const volatile struct model *x, int r)
{
	for (uint64_t p = 0; p < x->region[r].pages; p++)
		if (get_page(names[r], p) != x->region[r].page[p])
			return 0;
	return 1;
}

/* The region is as before or after the operation under way; then the model says which. */
static void check_region(int r, const struct model *before, const struct model *after)
{
	int err = open_as(alice, names[r], 0, 0, 0);
	int is_there = err == 0;

	if (err && err != -ENOENT)
		fail_msg("%s: open says %d", names[r], err);
	if (before->region[r].exists == after->region[r].exists &&
	    is_there != before->region[r].exists)
		fail_msg("%s: %s", names[r], is_there ? "should not be there" : "is lost");
	if (!is_there) {
		m->region[r].exists = 0;
		return;
	}
	m->region[r].exists = 1;
	m->region[r].pages = got.pages;
	if (got.pages != before->region[r].pages && got.pages != after->region[r].pages)
		fail_msg("%s: %lu pages", names[r], (unsigned long)got.pages);
	for (uint64_t p = 0; p < PAGES; p++) {
		int is = p < got.pages ? get_page(names[r], p) : 0;
		int torn = before->op == WRITE && before->on == r && before->first == p;
		int was = before->region[r].exists ? before->region[r].page[p] : -2;

		if (!torn && is != was && is != after->region[r].page[p])
			fail_msg("%s page %lu: is %d, was %d, to be %d (operation %d)", names[r],
				 (unsigned long)p, is, was, after->region[r].page[p], before->op);
		if (torn && is != after->region[r].page[p])
			assert_int_equal(put_page(names[r], p, is = after->region[r].page[p]), 0);
		m->region[r].page[p] = (uint8_t)is;
	}
}

static void check_all(void)
{
	struct model before, after;

	memcpy(&before, (const void *)m, sizeof(before));
	after = before;
	apply(&after);
	up();
	for (int r = 0; r < REGIONS; r++)
		check_region(r, &before, &after);
	/* A clone that came to be is whole. */
	if (before.op == CLONE && m->region[before.to].exists)
		assert_true(matches(&after, before.to));
	m->op = NONE;
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Wait until the child has done so many operations more, and is in one of kind op if that is not
 * NONE: those of several steps are the ones to interrupt, and over in microseconds. */
static void await(pid_t pid, unsigned until, enum op op, int spin)
{
	int status;

	while (__atomic_load_n(&m->done, __ATOMIC_SEQ_CST) < until &&
	       waitpid(pid, &status, WNOHANG) == 0)
		sched_yield();
	for (double end = seconds() + 0.02; op != NONE && seconds() < end;)
		if (__atomic_load_n(&m->op, __ATOMIC_SEQ_CST) == op)
			break;
	for (; spin > 0; spin--)
		__asm__ volatile("");
}

static void no_acknowledged_page_is_lost_by_kill(void **state)
{
	unsigned seed = (unsigned)getpid(), rounds = 0;
	double end = seconds() + 3;
	int status;

	m = mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	print_message("seed %u\n", seed);
	up();
	down(0);
	for (; seconds() < end || rounds < 5; rounds++) {
		unsigned until = m->done + (unsigned)rand_r(&seed) % 200;
		pid_t pid = fork();

		if (!pid)
			child((unsigned)rand_r(&seed) + rounds);
		await(pid, until, (enum op)(rand_r(&seed) % (RESIZE + 1)), rand_r(&seed) % 40000);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), SIGKILL);
		check_all();
		down(rand_r(&seed) % 2);
	}
	print_message("killed %u times after %u operations\n", rounds, m->done);
	munmap((void *)m, sizeof(*m));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(no_acknowledged_page_is_lost_by_kill),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
