/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is used of libcrypto, and for how long it can be. Any thread.
 *
 * A program that ends by exit() may still need a handshake: QEMU's notifiers, which give a shared
 * memory's pages back, run then, and so do the threads of a pager. libcrypto frees what it has at
 * exit(), before all that was registered earlier, and what is called then crashes. So it is asked
 * to leave that to the kernel. Where the program has used it first that comes too late: then it
 * says when it goes, and nobody is proven anything from then on.
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include "core/core.h"

static atomic_int crypto_gone;
static atomic_uint crypto_users;

static void crypto_goes(void)
{
	unsigned tries;

	atomic_store(&crypto_gone, 1);
	/* not for ever: the child of a fork has no thread that would come out of it */
	for (tries = 0; tries < 10000 && atomic_load(&crypto_users); tries++)
		sched_yield();
}

static void crypto_first(void)
{
	OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL);
	OPENSSL_atexit(crypto_goes);
}

void gvm_crypto_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, crypto_first);
}

int gvm_hmac(const void *key, size_t key_len, const void *text, size_t text_len,
	     uint8_t mac[GVM_WIRE_MAC_LEN])
{
	unsigned len = 0;
	int ok;

	atomic_fetch_add(&crypto_users, 1);
	ok = !atomic_load(&crypto_gone) &&
	     HMAC(EVP_sha256(), key, (int)key_len, text, text_len, mac, &len) &&
	     len == GVM_WIRE_MAC_LEN;
	atomic_fetch_sub(&crypto_users, 1);
	return ok ? 0 : -EIO;
}
