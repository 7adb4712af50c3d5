/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The handshake: the input is what a stranger sends, as frames, to the listening or the connecting
 * side, with and without a key (bits 0 and 1 of the first byte). Whatever it is, nobody without the
 * key becomes proven, what is logged is printable, and what is sent is well formed.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "core/core.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check(int good)
{
	if (!good)
		abort();
}

static void check_out(const struct gvm_hs_out *out)
{
	struct gvm_hdr h = { .type = out->type, .status = out->status, .length = out->length };
	uint8_t buf[GVM_WIRE_HDR_LEN];

	if (!out->type)
		return;
	gvm_hdr_encode(buf, &h);
	check(gvm_hdr_decode(buf, &h) == 0);
}

static void check_why(const char *why)
{
	for (; *why; why++)
		check(*why >= 0x20 && *why < 0x7f);
}

/* One frame off the input; 0: there is none. */
static int next_frame(const uint8_t **data, size_t *len, struct gvm_hdr *hdr)
{
	if (*len < GVM_WIRE_HDR_LEN || gvm_hdr_decode(*data, hdr) < 0)
		return 0;
	*data += GVM_WIRE_HDR_LEN;
	*len -= GVM_WIRE_HDR_LEN;
	return hdr->length <= *len && hdr->length <= GVM_HELLO_MAX;
}

static void converse(struct gvm_hs *hs, const uint8_t *data, size_t len, int key)
{
	struct gvm_hs_out out;
	struct gvm_hdr hdr;
	int step = 0;

	while (step == 0 && next_frame(&data, &len, &hdr)) {
		/* A copy of its own: reading past the payload is seen. */
		uint8_t *payload = malloc(hdr.length ? hdr.length : 1);

		memcpy(payload, data, hdr.length);
		memset(&out, 0, sizeof(out));
		step = gvm_hs_step(hs, &hdr, payload, &out);
		free(payload);
		check(step <= 1 && !(step == 1 && key));
		check_out(&out);
		if (step < 0)
			check_why(out.why);
		data += hdr.length;
		len -= hdr.length;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	uint8_t secret[] = "a key that the fuzzer does not know";
	struct gvm_net net = { .node = 3, .incarnation = 77, .map_digest = 5, .epoch = 1 };
	struct gvm_hs_out out;
	struct gvm_hs hs;

	if (len < 1)
		return 0;
	strcpy(net.cluster_name, "default");
	if (data[0] & 2) {
		net.key = secret;
		net.key_len = sizeof(secret);
	}
	gvm_hs_init(&hs, &net, data[0] & 1, data[0] & 1 ? GVM_NODE_NONE : 4, 64, 256);
	if (!(data[0] & 1))
		gvm_hs_begin(&hs, &out);
	converse(&hs, data + 1, len - 1, data[0] & 2);
	return 0;
}
