/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows that offered memory is found by key, owner, access and range only, that withdrawing it
 * waits for the operations that touch it, and that threads may do all of this at once.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "core/core.h"

#define BOTH (GVM_ACCESS_FETCH | GVM_ACCESS_PUT)

static uint8_t memory[8192];

static int open_net(void **state)
{
	struct gvm_net_config config = { .transport = "loop", .node = GVM_NODE_NONE };
	struct gvm_net *net;

	assert_int_equal(gvm_net_open(&config, &net), 0);
	*state = net;
	return 0;
}

static int close_net(void **state)
{
	gvm_net_close(*state);
	return 0;
}

static int look(struct gvm_net *net, uint64_t key, uint64_t owner, unsigned access, uint64_t offset,
		uint64_t len)
{
	struct gvm_mem *mem = NULL;
	void *at = NULL;
	int err = gvm_mem_lookup(&net->mem, key, owner, access, offset, len, &at, &mem);

	if (!err) {
		assert_ptr_equal(at, memory + offset);
		gvm_mem_drop(mem);
	} else {
		assert_null(at);
		assert_null(mem);
	}
	return err;
}

static void only_what_is_offered(void **state)
{
	struct gvm_net *net = *state;
	struct gvm_mem *mem;
	uint64_t key;

	assert_int_equal(gvm_mem_register(net, memory, sizeof(memory), GVM_ACCESS_FETCH, 7, &mem),
			 0);
	key = gvm_mem_key(mem);
	assert_true(key != 0);
	assert_int_equal(look(net, key, 7, GVM_ACCESS_FETCH, 0, sizeof(memory)), 0);
	assert_int_equal(look(net, key, 7, GVM_ACCESS_FETCH, sizeof(memory), 0), 0);
	assert_int_equal(look(net, key, 7, GVM_ACCESS_FETCH, sizeof(memory) - 1, 1), 0);
	assert_int_equal(look(net, key, 7, GVM_ACCESS_FETCH, sizeof(memory), 1), -ERANGE);
	assert_int_equal(look(net, key, 7, GVM_ACCESS_FETCH, 1, sizeof(memory)), -ERANGE);
	assert_int_equal(look(net, key, 7, GVM_ACCESS_FETCH, UINT64_MAX, 2), -ERANGE);
	assert_int_equal(look(net, key, 7, GVM_ACCESS_FETCH, 2, UINT64_MAX), -ERANGE);
	assert_int_equal(look(net, key, 7, GVM_ACCESS_PUT, 0, 1), -EPERM);
	assert_int_equal(look(net, key, 7, BOTH, 0, 1), -EPERM);
	assert_int_equal(look(net, key, 8, GVM_ACCESS_FETCH, 0, 1), -ENOENT);
	assert_int_equal(look(net, key, 0, GVM_ACCESS_FETCH, 0, 1), -ENOENT);
	assert_int_equal(look(net, key ^ 1, 7, GVM_ACCESS_FETCH, 0, 1), -ENOENT);
	assert_int_equal(look(net, 0, 7, GVM_ACCESS_FETCH, 0, 1), -ENOENT);
	gvm_mem_unregister(mem, NULL, NULL);
	assert_int_equal(look(net, key, 7, GVM_ACCESS_FETCH, 0, 1), -ENOENT);
}

static void local_registration_is_not_offered(void **state)
{
	struct gvm_net *net = *state;
	struct gvm_mem *mem;

	assert_int_equal(gvm_mem_register(net, memory, sizeof(memory), 0, 0, &mem), 0);
	assert_int_equal(look(net, gvm_mem_key(mem), 1, 0, 0, 1), -ENOENT);
	gvm_mem_unregister(mem, NULL, NULL);
	assert_int_equal(gvm_mem_register(net, NULL, 1, 0, 0, &mem), -EINVAL);
	assert_int_equal(gvm_mem_register(net, memory, 0, 0, 0, &mem), -EINVAL);
	assert_int_equal(gvm_mem_register(net, memory, 1, 8, 0, &mem), -EINVAL);
	assert_int_equal(gvm_mem_register(net, memory, SIZE_MAX, BOTH, 0, &mem), -EINVAL);
}

static void count_gone(void *arg)
{
	(*(int *)arg)++;
}

static void gone_waits_for_the_last_user(void **state)
{
	struct gvm_net *net = *state;
	struct gvm_mem *mem, *used1, *used2;
	int gone = 0;
	void *at;

	assert_int_equal(gvm_mem_register(net, memory, 64, BOTH, 0, &mem), 0);
	assert_int_equal(gvm_mem_lookup(&net->mem, gvm_mem_key(mem), 1, BOTH, 0, 1, &at, &used1),
			 0);
	assert_int_equal(gvm_mem_lookup(&net->mem, gvm_mem_key(mem), 2, BOTH, 0, 1, &at, &used2),
			 0);
	gvm_mem_unregister(mem, count_gone, &gone);
	assert_int_equal(gone, 0);
	gvm_mem_drop(used1);
	assert_int_equal(gone, 0);
	gvm_mem_drop(used2);
	assert_int_equal(gone, 1);
}

struct user {
	struct gvm_mem_user user;
	int told;
};

static void note_withdrawn(struct gvm_mem_user *user)
{
	((struct user *)user)->told++;
}

/* Hardware's hold: of all of it, ended by who has it, who is told once that it is time. */
static void users_are_told_and_waited_for(void **state)
{
	struct user user[3] = { 0 };
	struct gvm_net *net = *state;
	struct gvm_mem *mem;
	int gone = 0;

	assert_int_equal(gvm_mem_register(net, memory, 64, GVM_ACCESS_FETCH, 7, &mem), 0);
	for (int i = 0; i < 3; i++) {
		struct gvm_mem_user *u = &user[i].user;

		u->withdrawn = note_withdrawn;
		assert_int_equal(gvm_mem_hold(&net->mem, gvm_mem_key(mem) ^ 1, 7, u), -ENOENT);
		assert_int_equal(gvm_mem_hold(&net->mem, gvm_mem_key(mem), 8, u), -ENOENT);
		assert_int_equal(gvm_mem_hold(&net->mem, gvm_mem_key(mem), 7, u), 0);
		assert_ptr_equal(u->base, memory);
		assert_int_equal(u->len, 64);
		assert_int_equal(u->access, GVM_ACCESS_FETCH);
	}
	gvm_mem_release(&user[1].user);
	gvm_mem_unregister(mem, count_gone, &gone);
	assert_int_equal(user[0].told + 10 * user[1].told + 100 * user[2].told, 101);
	assert_int_equal(gvm_mem_hold(&net->mem, gvm_mem_key(mem), 7, &user[1].user), -ENOENT);
	gvm_mem_release(&user[0].user);
	assert_int_equal(gone, 0);
	gvm_mem_release(&user[2].user);
	assert_int_equal(gone, 1);
}

/* Files, for one: hardware may not have it, and peers are served in software. */
static void soft_memory_is_not_held(void **state)
{
	struct gvm_mem_user user = { .withdrawn = note_withdrawn };
	struct gvm_net *net = *state;
	struct gvm_mem *mem;
	int gone = 0;

	assert_int_equal(gvm_mem_register(net, memory, 64, BOTH | GVM_ACCESS_SOFT, 7, &mem), 0);
	assert_int_equal(gvm_mem_hold(&net->mem, gvm_mem_key(mem), 8, &user), -ENOENT);
	assert_int_equal(gvm_mem_hold(&net->mem, gvm_mem_key(mem), 7, &user), -EOPNOTSUPP);
	assert_int_equal(look(net, gvm_mem_key(mem), 7, BOTH, 0, 64), 0);
	gvm_mem_unregister(mem, count_gone, &gone);
	assert_int_equal(gone, 1);
}

/* Local memory has no key that anyone finds. Operations and hardware have it; gone comes last. */
static void local_memory(void **state)
{
	struct user user[2] = { 0 };
	struct gvm_net *net = *state;
	struct gvm_mem *mem;
	uint8_t *at = memory + 64;
	int gone = 0;

	assert_int_equal(gvm_mem_register(net, at, 64, 0, 0, &mem), 0);
	assert_int_equal(look(net, gvm_mem_key(mem), 1, 0, 0, 1), -ENOENT);
	assert_int_equal(gvm_mem_use(mem, at + 1, 64), -EINVAL);
	assert_int_equal(gvm_mem_use(mem, at - 1, 2), -EINVAL);
	assert_int_equal(gvm_mem_use(mem, at + 65, 1), -EINVAL);
	assert_int_equal(gvm_mem_use(mem, at, UINT32_MAX), -EINVAL);
	assert_int_equal(gvm_mem_use(mem, at, 64), 0);
	user[0].user.withdrawn = user[1].user.withdrawn = note_withdrawn;
	assert_int_equal(gvm_mem_hold_local(mem, &user[0].user), 0);
	assert_ptr_equal(user[0].user.base, at);
	assert_int_equal(user[0].user.len, 64);
	gvm_mem_unregister(mem, count_gone, &gone);
	assert_int_equal(user[0].told, 1);
	assert_int_equal(gvm_mem_hold_local(mem, &user[1].user), -ENOENT);
	gvm_mem_release(&user[0].user);
	assert_int_equal(gone, 0);
	gvm_mem_drop(mem);
	assert_int_equal(gone, 1);
}

#define MANY 20000

static void many_keys(void **state)
{
	static struct gvm_mem *mems[MANY];
	struct gvm_net *net = *state;
	int i, gone = 0;

	for (i = 0; i < MANY; i++)
		assert_int_equal(
		    gvm_mem_register(net, memory, 1 + (size_t)i % 64, BOTH, 0, &mems[i]), 0);
	for (i = 0; i < MANY; i++) {
		assert_int_equal(look(net, gvm_mem_key(mems[i]), 1, BOTH, 0, 1 + (unsigned)i % 64),
				 0);
		assert_int_equal(look(net, gvm_mem_key(mems[i]), 1, BOTH, 0, 2 + (unsigned)i % 64),
				 -ERANGE);
	}
	for (i = 0; i < MANY; i += 2)
		gvm_mem_unregister(mems[i], count_gone, &gone);
	for (i = 1; i < MANY; i += 2)
		assert_int_equal(look(net, gvm_mem_key(mems[i]), 1, BOTH, 0, 1), 0);
	for (i = 1; i < MANY; i += 2)
		gvm_mem_unregister(mems[i], count_gone, &gone);
	assert_int_equal(gone, MANY);
}

/* Readers hammer one key after the other while their owner offers and withdraws them. */
struct contest {
	struct gvm_net *net;
	_Atomic uint64_t key;
	atomic_int stop, gone;
	atomic_long found;
};

static void *read_keys(void *arg)
{
	struct contest *contest = arg;
	struct gvm_mem *mem;
	void *at;

	while (!atomic_load(&contest->stop))
		if (gvm_mem_lookup(&contest->net->mem, atomic_load(&contest->key), 1, BOTH, 0, 8,
				   &at, &mem) == 0) {
			assert_true(*(volatile uint8_t *)at == 0x5a);
			atomic_fetch_add(&contest->found, 1);
			gvm_mem_drop(mem);
		}
	return NULL;
}

struct block {
	struct contest *contest;
	uint8_t bytes[64];
};

static void free_block(void *arg)
{
	struct block *block = arg;

	atomic_fetch_add(&block->contest->gone, 1);
	memset(block->bytes, 0, sizeof(block->bytes));
	free(block);
}

static void withdrawn_under_readers(void **state)
{
	struct contest contest = { .net = *state };
	pthread_t threads[3];
	int i, rounds = 0;

	for (i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, read_keys, &contest);
	while (rounds < 2000 || (atomic_load(&contest.found) < 100 && rounds < 1000000)) {
		struct block *block = malloc(sizeof(*block));
		struct gvm_mem *mem;

		block->contest = &contest;
		memset(block->bytes, 0x5a, sizeof(block->bytes));
		assert_int_equal(gvm_mem_register(contest.net, block->bytes, 64, BOTH, 0, &mem), 0);
		atomic_store(&contest.key, gvm_mem_key(mem));
		if (rounds % 16 == 0)
			sched_yield();
		gvm_mem_unregister(mem, free_block, block);
		rounds++;
	}
	atomic_store(&contest.stop, 1);
	for (i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(contest.gone, rounds);
	assert_true(contest.found >= 100);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_net, close_net)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(only_what_is_offered),         TEST(local_registration_is_not_offered),
		TEST(gone_waits_for_the_last_user), TEST(many_keys),
		TEST(withdrawn_under_readers),      TEST(users_are_told_and_waited_for),
		TEST(soft_memory_is_not_held),      TEST(local_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
