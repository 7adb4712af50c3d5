/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel is to the engine: memory and randomness, with the signatures of struct ivy_env. All
 * that the module takes of the kernel for wire/ and ivy/ goes through here.
 */
#ifndef GIANTVM_ENV_H
#define GIANTVM_ENV_H

#include <linux/types.h>

/* 0 or a negative errno. */
int giantvm_env_init(void);
/* All memory has been freed; if not, the kernel's log says how much was not. */
void giantvm_env_exit(void);

/*
 * Memory, undefined, that a long long may be in. It may sleep and wait for other memory to be written
 * out, so: not with a spinlock held, nor from an interrupt. NULL: there is none. user is not used.
 */
void *giantvm_alloc(void *user, size_t size);
/* size is what it was allocated with. It may sleep. */
void giantvm_free(void *user, void *mem, size_t size);
/* 64 bits that nobody can guess. user is not used. */
uint64_t giantvm_nonce(void *user);

#endif
