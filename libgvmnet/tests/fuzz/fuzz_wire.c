/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One decoder of wire.h, chosen by -DDECODE=name: whatever it takes, it reads nothing beyond it
 * (libFuzzer's buffer ends where the input does), and what it accepts is canonical: encoding the
 * result gives the same bytes again.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "wire/wire.h"

#define GLUE_(a, b, c) a##b##c
#define GLUE(a, b, c)  GLUE_(a, b, c)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#ifdef DECODE_HEADER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	uint8_t again[GVM_WIRE_HDR_LEN];
	struct gvm_hdr h;

	if (len < sizeof(again) || gvm_hdr_decode(data, &h) < 0)
		return 0;
	gvm_hdr_encode(again, &h);
	if (memcmp(again, data, sizeof(again)) != 0 || h.length > GVM_WIRE_XFER_MAX)
		abort();
	gvm_wire_type_name(h.type);
	return gvm_wire_errno(h.status) > 0;
}
#else
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct GLUE(gvm_, DECODE, ) m;
	uint8_t again[512];

	if (GLUE(gvm_, DECODE, _decode)(data, len, &m) < 0)
		return 0;
	if (GLUE(gvm_, DECODE, _encode)(again, &m) != len || memcmp(again, data, len) != 0)
		abort();
	return 0;
}
#endif
