/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Digests of pages; see digest.h for what they are worth. */
#include <errno.h>
#include <immintrin.h>
#include <string.h>
#include <sys/random.h>
#include "digest.h"

#define PLAIN __attribute__((target("pclmul,sse4.1")))
#define WIDE  __attribute__((target("pclmul,sse4.1,avx512f,vpclmulqdq")))

static bool wide(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq");
}

int digest_init(struct digest_key *key)
{
	uint8_t *at = (uint8_t *)key;
	size_t left = sizeof(*key);

	if (!__builtin_cpu_supports("pclmul") || !__builtin_cpu_supports("sse4.1"))
		return -ENOSYS;
	while (left > 0) {
		ssize_t got = getrandom(at, left, 0);

		if (got < 0 && errno != EINTR)
			return -errno;
		at += got > 0 ? got : 0;
		left -= got > 0 ? (size_t)got : 0;
	}
	return 0;
}

/* The product of 128 bits modulo x^64 + x^4 + x^3 + x + 1. */
PLAIN static uint64_t reduce(__m128i product)
{
	const __m128i poly = _mm_cvtsi64_si128(0x1b);
	__m128i fold = _mm_clmulepi64_si128(product, poly, 0x01);

	product = _mm_xor_si128(product, fold);
	fold = _mm_clmulepi64_si128(fold, poly, 0x01);
	return (uint64_t)_mm_cvtsi128_si64(_mm_xor_si128(product, fold));
}

PLAIN static void finish(__m128i first, __m128i second, struct digest *digest)
{
	uint64_t one = reduce(first), two = reduce(second);

	memcpy(digest->byte, &one, 8);
	memcpy(digest->byte + 8, &two, 2);
}

PLAIN void digest_page_plain(const struct digest_key *key, const void *page, struct digest *digest)
{
	const __m128i *m = page;
	const __m128i *k1 = (const __m128i *)(const void *)key->first;
	const __m128i *k2 = (const __m128i *)(const void *)key->second;
	__m128i s1 = _mm_setzero_si128(), s2 = s1;

	for (unsigned i = 0; i < DIGEST_WORDS / 2; i++) {
		__m128i word = _mm_loadu_si128(m + i);
		__m128i a = _mm_xor_si128(word, _mm_load_si128(k1 + i));
		__m128i b = _mm_xor_si128(word, _mm_load_si128(k2 + i));

		s1 = _mm_xor_si128(s1, _mm_clmulepi64_si128(a, a, 0x10));
		s2 = _mm_xor_si128(s2, _mm_clmulepi64_si128(b, b, 0x10));
	}
	finish(s1, s2, digest);
}

WIDE static __m128i narrow(__m512i sum)
{
	__m128i low =
	    _mm_xor_si128(_mm512_extracti32x4_epi32(sum, 0), _mm512_extracti32x4_epi32(sum, 1));
	__m128i high =
	    _mm_xor_si128(_mm512_extracti32x4_epi32(sum, 2), _mm512_extracti32x4_epi32(sum, 3));

	return _mm_xor_si128(low, high);
}

/* Four pairs at a time. */
WIDE static void digest_page_wide(const struct digest_key *key, const void *page,
				  struct digest *digest)
{
	__m512i s1 = _mm512_setzero_si512(), s2 = s1;

	for (unsigned i = 0; i < DIGEST_WORDS; i += 8) {
		__m512i word = _mm512_loadu_si512((const uint64_t *)page + i);
		__m512i a = _mm512_xor_si512(word, _mm512_load_si512(key->first + i));
		__m512i b = _mm512_xor_si512(word, _mm512_load_si512(key->second + i));

		s1 = _mm512_xor_si512(s1, _mm512_clmulepi64_epi128(a, a, 0x10));
		s2 = _mm512_xor_si512(s2, _mm512_clmulepi64_epi128(b, b, 0x10));
	}
	finish(narrow(s1), narrow(s2), digest);
}

void digest_page(const struct digest_key *key, const void *page, struct digest *digest)
{
	if (wide())
		digest_page_wide(key, page, digest);
	else
		digest_page_plain(key, page, digest);
}

bool digest_matches(const struct digest_key *key, const void *page, const struct digest *digest)
{
	struct digest now;

	digest_page(key, page, &now);
	return memcmp(&now, digest, sizeof(now)) == 0;
}
