/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Stands in for core's proofs of the cluster's key, where core does. */
#ifndef GVM_TESTS_FAKE_KEY_H
#define GVM_TESTS_FAKE_KEY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "wire/wire.h"

/* The key's, of a text: no secret, but another one for each key and text. */
static inline void key_mac(const char *key, const void *text, size_t len, uint8_t *mac)
{
	const uint8_t *t = text;

	memset(mac, 0, GVM_WIRE_MAC_LEN);
	for (unsigned n = 0; key && n < GVM_WIRE_MAC_LEN; n++) {
		uint64_t sum = 0xcbf29ce484222325u + n;

		for (size_t i = 0; key[i]; i++)
			sum = (sum ^ (uint8_t)key[i]) * 0x100000001b3u;
		for (size_t i = 0; i < len; i++)
			sum = (sum ^ t[i]) * 0x100000001b3u;
		mac[n] = (uint8_t)(sum >> 32);
	}
}

#endif
