/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Frames of the coherence protocol (types 43 to 62) on a worker's connections, for who runs an
 * engine: libgvmnet/dsm and gvm-memsrv, which is of the same version. Not installed. They are the
 * protocol's own frames, header and all, and no calls: their xid is a request's of the protocol.
 * Each costs a credit, as a message does.
 */
#ifndef GVMNET_COHERENCE_H
#define GVMNET_COHERENCE_H

#include <gvmnet/gvmnet.h>

struct gvm_hdr; /* wire/wire.h */

/*
 * A frame that has come from a peer that is READY, in order, with h->length bytes of payload; both
 * valid until it returns. Its form has been checked (gvm_coh_check). 0; or -EPROTO: the connection
 * is ended, with *reason (static) in the log. It may send; it must not disconnect this peer.
 */
typedef int gvm_coherence_fn(void *arg, struct gvm_peer *peer, const struct gvm_hdr *h,
			     const void *payload, const char **reason);

/*
 * Have a worker take such frames; arg is gvm_worker_config's. Before it listens or connects. On
 * other workers they end the connection.
 */
void gvm_worker_coherence(struct gvm_worker *worker, gvm_coherence_fn *fn);
/*
 * Send one, in order with the others to this peer; the header is copied, but for epoch and credits,
 * which are the connection's. -EAGAIN: later, when writable() says so; -ENOTCONN: it is not READY.
 * Worker's thread.
 */
int gvm_coherence_send(struct gvm_peer *peer, const struct gvm_hdr *h, const void *payload);
/* Connections of this worker that are silent for so long are lost: in place of GVM_KEEPALIVE_MS. */
void gvm_worker_keepalive(struct gvm_worker *worker, uint64_t ns);

/* It polls for so long at least before it sleeps, where it polls at all (GVM_SPIN_US). */
void gvm_worker_spin(struct gvm_worker *worker, uint64_t ns);

#endif
