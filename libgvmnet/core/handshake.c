/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The handshake: who the other side is, what it speaks, and the mutual proof of the pre-shared key.
 *
 *     connecting                                  listening
 *        HELLO (node, incarnation, nonce, ...)  -->
 *                                               <--  CHALLENGE (the same of its own)
 *        PROOF = HMAC(key, "gvmnet client" . HELLO . CHALLENGE)  -->
 *                                               <--  READY = HMAC(key, "gvmnet server" . ...)
 *
 * HMAC-SHA-256 (RFC 2104, FIPS 198-1) over all bytes of both, so nothing in them can be changed on
 * the way; both nonces are fresh, so a proof is worth nothing on another connection; the labels
 * differ, so one side's proof cannot be reflected to it. The connecting side proves first: a
 * listener gives strangers nothing to guess the key with. Without a key the MACs are zeros and
 * prove nothing; a side with a key refuses one without, and the other way round.
 *
 * No I/O: a frame in, a frame out. Belongs to the worker's thread.
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <stdarg.h>
#include <string.h>
#include "core/core.h"

#define LABEL_LEN 13u
static const char client_label[] = "gvmnet client";
static const char server_label[] = "gvmnet server";
static const char fabric_label[] = "gvmnet fabric"; /* what providers prove before a handshake */
_Static_assert(sizeof(client_label) == LABEL_LEN + 1, "labels have one length");
_Static_assert(sizeof(server_label) == LABEL_LEN + 1, "labels have one length");
_Static_assert(sizeof(fabric_label) == LABEL_LEN + 1, "labels have one length");

/* ---- what is said -------------------------------------------------------------------------- */

void gvm_sanitise(char *to, size_t room, const void *text, size_t len)
{
	const uint8_t *from = text;
	size_t i;

	for (i = 0; i < len && i + 1 < room; i++)
		to[i] = from[i] >= 0x20 && from[i] < 0x7f ? (char)from[i] : '?';
	to[i] = 0;
}

int gvm_hs_refuse(struct gvm_hs_out *out, unsigned status, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(out->why, sizeof(out->why), fmt, args);
	va_end(args);
	out->type = GVM_T_REFUSED;
	out->status = (uint16_t)status;
	out->length = (uint32_t)strlen(out->why);
	memcpy(out->body, out->why, out->length);
	return gvm_wire_errno(status);
}

/* The other side is not told: it would not understand, or has said so itself. */
static int end(struct gvm_hs_out *out, int err, const char *why)
{
	out->type = 0;
	snprintf(out->why, sizeof(out->why), "%s", why);
	return err;
}

static void describe_self(struct gvm_hs *hs, struct gvm_hello *m, uint16_t to_node)
{
	const struct gvm_net *net = hs->net;

	*m = (struct gvm_hello){
		.magic = GVM_HELLO_MAGIC,
		.proto_min = GVM_WIRE_PROTO_MIN,
		.proto_max = GVM_WIRE_PROTO_MAX,
		.node = net->node,
		.to_node = to_node,
		.features = net->key ? GVM_FEAT_KEY : 0,
		.credits = hs->credits,
		.max_fetch = hs->max_fetch,
		.incarnation = net->incarnation,
		.map_digest = net->map_digest,
	};
	memcpy(m->cluster, net->cluster_name, sizeof(m->cluster));
	gvm_random(m->nonce, sizeof(m->nonce));
}

/* ---- the proof ----------------------------------------------------------------------------- */

/* Of text, which begins with a label. Zeros without a key. */
static int mac_of(const struct gvm_net *net, const uint8_t *text, size_t text_len,
		  uint8_t mac[GVM_WIRE_MAC_LEN])
{
	memset(mac, 0, GVM_WIRE_MAC_LEN);
	return net->key ? gvm_hmac(net->key, net->key_len, text, text_len, mac) : 0;
}

static int make_mac(const struct gvm_hs *hs, const char *label, uint8_t mac[GVM_WIRE_MAC_LEN])
{
	uint8_t text[LABEL_LEN + 2 * GVM_HELLO_LEN];

	memcpy(text, label, LABEL_LEN);
	memcpy(text + LABEL_LEN, hs->hello, GVM_HELLO_LEN);
	memcpy(text + LABEL_LEN + GVM_HELLO_LEN, hs->challenge, GVM_HELLO_LEN);
	return mac_of(hs->net, text, sizeof(text), mac);
}

int gvm_key_prove(const struct gvm_net *net, const void *text, size_t len,
		  uint8_t mac[GVM_WIRE_MAC_LEN])
{
	uint8_t labelled[LABEL_LEN + GVM_PROOF_TEXT_MAX];

	if (len > GVM_PROOF_TEXT_MAX)
		return -EIO;
	memcpy(labelled, fabric_label, LABEL_LEN);
	memcpy(labelled + LABEL_LEN, text, len);
	return mac_of(net, labelled, LABEL_LEN + len, mac);
}

int gvm_key_proven(const struct gvm_net *net, const void *text, size_t len,
		   const uint8_t theirs[GVM_WIRE_MAC_LEN])
{
	uint8_t mac[GVM_WIRE_MAC_LEN];
	int err = gvm_key_prove(net, text, len, mac);

	if (err)
		return err;
	return CRYPTO_memcmp(mac, theirs, sizeof(mac)) == 0 ? 0 : -EACCES;
}

static int say_mac(struct gvm_hs *hs, uint8_t type, const char *label, struct gvm_hs_out *out)
{
	int err = make_mac(hs, label, out->body);

	if (err)
		return end(out, err, "libcrypto cannot compute HMAC-SHA-256 here");
	out->type = type;
	out->length = GVM_WIRE_MAC_LEN;
	return 0;
}

static int check_mac(struct gvm_hs *hs, const char *label, const void *theirs,
		     struct gvm_hs_out *out)
{
	uint8_t mac[GVM_WIRE_MAC_LEN];
	int err = make_mac(hs, label, mac);

	if (err)
		return end(out, err, "libcrypto cannot compute HMAC-SHA-256 here");
	if (CRYPTO_memcmp(mac, theirs, sizeof(mac)) != 0)
		return gvm_hs_refuse(out, GVM_ST_AUTH, GVM_KEYS_DIFFER);
	return 0;
}

/* ---- what is checked ----------------------------------------------------------------------- */

static int check_key_use(const struct gvm_hs *hs, struct gvm_hs_out *out)
{
	int theirs = (hs->theirs.features & GVM_FEAT_KEY) != 0;

	if (theirs == (hs->net->key != NULL))
		return 0;
	return gvm_hs_refuse(out, GVM_ST_AUTH, GVM_KEY_OF_ONE);
}

static int check_versions(const struct gvm_hs *hs, struct gvm_hs_out *out)
{
	const struct gvm_hello *m = &hs->theirs;

	if (m->proto_min <= GVM_WIRE_PROTO_MAX && m->proto_max >= GVM_WIRE_PROTO_MIN)
		return 0;
	return gvm_hs_refuse(out, GVM_ST_VERSION,
			     "protocol versions %u to %u meet %u to %u: none in "
			     "common",
			     m->proto_min, m->proto_max, GVM_WIRE_PROTO_MIN, GVM_WIRE_PROTO_MAX);
}

static int check_cluster(const struct gvm_hs *hs, struct gvm_hs_out *out)
{
	const struct gvm_hello *m = &hs->theirs;
	const struct gvm_net *net = hs->net;

	if (m->cluster[0] && net->cluster_name[0] && strcmp(m->cluster, net->cluster_name) != 0)
		return gvm_hs_refuse(out, GVM_ST_CLUSTER, "cluster '%s' meets cluster '%s'",
				     m->cluster, net->cluster_name);
	if (m->to_node != GVM_WIRE_NODE_NONE && net->node != GVM_WIRE_NODE_NONE &&
	    m->to_node != net->node)
		return gvm_hs_refuse(out, GVM_ST_CLUSTER,
				     "node %u was looked for where node %u is "
				     "(compare the cluster files)",
				     m->to_node, net->node);
	if (m->map_digest && net->map_digest && m->map_digest != net->map_digest)
		return gvm_hs_refuse(out, GVM_ST_CLUSTER,
				     "the cluster files of the two sides are not "
				     "the same");
	return 0;
}

static int check_theirs(struct gvm_hs *hs, struct gvm_hs_out *out)
{
	int err = check_versions(hs, out);

	if (!err)
		err = check_key_use(hs, out);
	if (!err)
		err = check_cluster(hs, out);
	return err;
}

/* ---- the steps ----------------------------------------------------------------------------- */

/* On the listening side. */
static int on_hello(struct gvm_hs *hs, const void *payload, struct gvm_hs_out *out)
{
	struct gvm_hello mine;
	int err = check_theirs(hs, out);

	if (err)
		return err;
	memcpy(hs->hello, payload, GVM_HELLO_LEN);
	describe_self(hs, &mine, hs->theirs.node);
	mine.proto_max =
	    hs->theirs.proto_max < GVM_WIRE_PROTO_MAX ? hs->theirs.proto_max : GVM_WIRE_PROTO_MAX;
	mine.proto_min = mine.proto_max;
	gvm_hello_encode(hs->challenge, &mine);
	memcpy(out->body, hs->challenge, GVM_HELLO_LEN);
	out->type = GVM_T_CHALLENGE;
	out->length = GVM_HELLO_LEN;
	hs->expect = GVM_HS_PROOF;
	return 0;
}

/* On the connecting side. */
static int on_challenge(struct gvm_hs *hs, const void *payload, struct gvm_hs_out *out)
{
	const struct gvm_hello *m = &hs->theirs;
	int err = check_theirs(hs, out);

	if (err)
		return err;
	if (m->proto_min != m->proto_max)
		return gvm_hs_refuse(out, GVM_ST_PROTO, "CHALLENGE does not choose a version");
	if (hs->to_node != GVM_WIRE_NODE_NONE && m->node != GVM_WIRE_NODE_NONE &&
	    m->node != hs->to_node)
		return gvm_hs_refuse(out, GVM_ST_CLUSTER,
				     "node %u answers where node %u was looked "
				     "for (compare the cluster files)",
				     m->node, hs->to_node);
	memcpy(hs->challenge, payload, GVM_HELLO_LEN);
	hs->expect = GVM_HS_READY;
	return say_mac(hs, GVM_T_PROOF, client_label, out);
}

static int on_proof(struct gvm_hs *hs, const void *payload, struct gvm_hs_out *out)
{
	int err = check_mac(hs, client_label, payload, out);

	if (!err)
		err = say_mac(hs, GVM_T_READY, server_label, out);
	if (err)
		return err;
	hs->expect = GVM_HS_OVER;
	return 1;
}

static int on_ready(struct gvm_hs *hs, const void *payload, struct gvm_hs_out *out)
{
	int err = check_mac(hs, server_label, payload, out);

	if (err)
		return err;
	hs->expect = GVM_HS_OVER;
	return 1;
}

static int on_refused(const struct gvm_hdr *hdr, const void *payload, struct gvm_hs_out *out)
{
	int err = gvm_wire_errno(hdr->status);

	out->type = 0;
	gvm_sanitise(out->why, sizeof(out->why), payload, hdr->length);
	if (!out->why[0])
		snprintf(out->why, sizeof(out->why), "%s", gvm_wire_status_name(hdr->status));
	return err ? err : -EPROTO;
}

static const struct {
	uint8_t type;
	uint32_t length;
	int (*step)(struct gvm_hs *hs, const void *payload, struct gvm_hs_out *out);
} steps[] = {
	[GVM_HS_HELLO] = { GVM_T_HELLO, GVM_HELLO_LEN, on_hello },
	[GVM_HS_CHALLENGE] = { GVM_T_CHALLENGE, GVM_HELLO_LEN, on_challenge },
	[GVM_HS_PROOF] = { GVM_T_PROOF, GVM_WIRE_MAC_LEN, on_proof },
	[GVM_HS_READY] = { GVM_T_READY, GVM_WIRE_MAC_LEN, on_ready },
};

void gvm_hs_init(struct gvm_hs *hs, const struct gvm_net *net, int accepting, unsigned to_node,
		 uint16_t credits, uint16_t max_fetch)
{
	*hs = (struct gvm_hs){
		.net = net,
		.expect = accepting ? GVM_HS_HELLO : GVM_HS_CHALLENGE,
		.to_node = (uint16_t)to_node,
		.credits = credits,
		.max_fetch = max_fetch,
	};
}

void gvm_hs_begin(struct gvm_hs *hs, struct gvm_hs_out *out)
{
	struct gvm_hello mine;

	describe_self(hs, &mine, hs->to_node);
	gvm_hello_encode(hs->hello, &mine);
	out->type = GVM_T_HELLO;
	out->status = GVM_ST_OK;
	out->length = GVM_HELLO_LEN;
	memcpy(out->body, hs->hello, GVM_HELLO_LEN);
}

int gvm_hs_step(struct gvm_hs *hs, const struct gvm_hdr *hdr, const void *payload,
		struct gvm_hs_out *out)
{
	out->type = 0;
	out->status = GVM_ST_OK;
	out->length = 0;
	out->why[0] = 0;
	if (hdr->type == GVM_T_REFUSED)
		return on_refused(hdr, payload, out);
	if (hs->expect == GVM_HS_OVER || hdr->type != steps[hs->expect].type ||
	    hdr->length != steps[hs->expect].length)
		return end(out, -EPROTO, "a frame out of turn in the handshake");
	if ((hs->expect == GVM_HS_HELLO || hs->expect == GVM_HS_CHALLENGE) &&
	    gvm_hello_decode(payload, hdr->length, &hs->theirs) != 0)
		return end(out, -EPROTO, "a malformed HELLO or CHALLENGE");
	return steps[hs->expect].step(hs, payload, out);
}
