/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that a region of which little is used costs what is used of it, not what could be: in one
 * of 4 TiB each call is over soon, and faults in another region of the process, which the same
 * thread serves, are served meanwhile. What was written comes home.
 */
#define HOMES              2
#define MEMBERS            1
#define HOME_ARGS          "--memory", "4G", "--overcommit", "1000"
#define MEMBER_MAIN(i, fd) take_part(fd)
#include <semaphore.h>
#include <stdatomic.h>
static void take_part(int fd);
#include "dsm_members.h"

#define GIB UINT64_C(0x40000000)
#ifdef __SANITIZE_THREAD__ /* which leaves a program less than 2 TiB of addresses */
#define LARGE (256 * GIB)
#else
#define LARGE (4096 * GIB)
#endif
#define USED  64u /* pages, each in a slab of its own */
#define SMALL (16 * PAGE)

enum step { BEGIN, USE, EVICT_ALL, UNPIN_ALL, PIN_IN_VAIN, HINT, AWAY, AGAIN, END, CHECK };

/* Of the other region, while the step was made. */
struct done {
	int status;
	unsigned faults;
	uint64_t worst_ns;
	uint64_t here; /* pages of the large one */
};

static struct gvm_dsm *large, *small;
static uint8_t *large_mem, *small_mem;
static struct {
	pthread_t thread;
	atomic_int stop;
	atomic_uint faults;
	atomic_ulong worst_ns;
	sem_t served; /* a post for each fault */
} other;

static int open_one(const char *name, uint64_t bytes, uint32_t slab, struct gvm_dsm **dsm,
		    uint8_t **mem)
{
	struct gvm_dsm_config config = {
		.name = name, .flags = GVM_DSM_CREATE, .bytes = bytes, .slab_bytes = slab
	};
	void *at;
	int err = gvm_dsm_open(NULL, &config, dsm);

	err = err ? err : gvm_dsm_map(*dsm, &at);
	if (!err)
		*mem = at;
	return err;
}

/* All over it, from its first page to its last. */
static volatile uint64_t *used(unsigned i)
{
	uint64_t pages = LARGE / PAGE;

	return (volatile uint64_t *)(large_mem + (pages - 1) * i / (USED - 1) * PAGE + 8 * i);
}

/* Without a pause. A page is given away, and had again from its home. */
static void *use_other(void *arg)
{
	for (uint64_t n = 0; !atomic_load(&other.stop); n++) {
		volatile uint64_t *at =
		    (volatile uint64_t *)(small_mem + n % (SMALL / PAGE) * PAGE);
		uint64_t began = gvm_now(), took;

		if (gvm_dsm_evict(small, n % (SMALL / PAGE) * PAGE, PAGE))
			_exit(3);
		(*at)++;
		took = gvm_now() - began;
		if (took > atomic_load(&other.worst_ns))
			atomic_store(&other.worst_ns, took);
		atomic_fetch_add(&other.faults, 1);
		sem_post(&other.served);
	}
	return NULL;
}

static int begin(void)
{
	int err = open_one("small", SMALL, 64 << 10, &small, &small_mem);

	err = err ? err : open_one("large", LARGE, 64 << 20, &large, &large_mem);
	sem_init(&other.served, 0, 0);
	return err ? err : -pthread_create(&other.thread, NULL, use_other, NULL);
}

static int use(void)
{
	for (unsigned i = 0; i < USED; i++)
		*used(i) = i + 1;
	return 0;
}

/* It has come home. */
static int check(void)
{
	int err = open_one("large", LARGE, 64 << 20, &large, &large_mem);

	for (unsigned i = 0; i < USED && !err; i++)
		err = *used(i) == i + 1 ? 0 : -EIO;
	return err;
}

static int make(enum step step)
{
	switch (step) {
	case BEGIN:
		return begin();
	case USE:
		return use();
	case EVICT_ALL:
		return gvm_dsm_evict(large, 0, LARGE);
	case UNPIN_ALL:
		return gvm_dsm_unpin(large, 0, LARGE);
	case PIN_IN_VAIN:
		return gvm_dsm_pin(large, 0, LARGE, 1, 50);
	case HINT:
		return gvm_dsm_prefetch(large, 0, LARGE, 0);
	case AWAY:
		return gvm_dsm_leave(large, 20000);
	case AGAIN:
		return gvm_dsm_stay(large);
	case END:
		return gvm_dsm_close(large);
	default:
		return check();
	}
}

static unsigned faults(void)
{
	return atomic_load(&other.faults);
}

static void await_faults(unsigned more)
{
	while (sem_trywait(&other.served) == 0)
		; /* of before */
	while (more-- > 0)
		sem_wait(&other.served);
}

static void take_part(int fd)
{
	enum step step;

	while (recv(fd, &step, sizeof(step), MSG_WAITALL) == sizeof(step)) {
		struct gvm_dsm_stats st = { 0 };
		struct done d = { 0 };

		atomic_store(&other.worst_ns, 0);
		d.faults = faults();
		d.status = make(step);
		await_faults(2); /* one that has been begun meanwhile is over */
		d.faults = faults() - d.faults;
		d.worst_ns = atomic_load(&other.worst_ns);
		if (step != END)
			gvm_dsm_stats(large, &st);
		d.here = st.pages_here;
		if (send(fd, &d, sizeof(d), MSG_NOSIGNAL) != sizeof(d))
			break;
	}
	atomic_store(&other.stop, 1);
	_exit(0);
}

static struct done does(enum step step, const char *name, int status)
{
	struct done d = { .status = -EIO };
	uint64_t began = gvm_now();

	assert_int_equal(send(member[0].fd, &step, sizeof(step), MSG_NOSIGNAL), sizeof(step));
	assert_int_equal(recv(member[0].fd, &d, sizeof(d), MSG_WAITALL), sizeof(d));
	print_message("[          ] %-6s %6lu ms; in the other region %5u faults, the longest %6lu "
		      "us\n",
		      name, (unsigned long)((gvm_now() - began) / MS), d.faults,
		      (unsigned long)(d.worst_ns / 1000));
	assert_int_equal(d.status, status);
	return d;
}

/* A busy machine is slow, but to go through 1,000,000,000 pages takes seconds: evict took 7. */
static void soon(struct done d)
{
	assert_in_range(d.worst_ns, 0, 2000 * MS);
}

static void what_is_not_used_costs_nothing(void **state)
{
	does(BEGIN, "open", 0);
	assert_in_range(does(USE, "use", 0).here, USED, USED);
	soon(does(EVICT_ALL, "evict", 0));
	soon(does(UNPIN_ALL, "unpin", 0));
	soon(does(PIN_IN_VAIN, "pin", -ETIMEDOUT));
	soon(does(HINT, "hint", 0));
	soon(does(USE, "use", 0));
	soon(does(AWAY, "leave", 0));
	soon(does(AGAIN, "stay", 0));
	soon(does(USE, "use", 0));
	soon(does(END, "close", 0));
	soon(does(CHECK, "check", 0));
}

#define T(name) cmocka_unit_test_setup_teardown(name, dsm_setup, dsm_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(what_is_not_used_costs_nothing),
	};

	return dsm_run(tests);
}
