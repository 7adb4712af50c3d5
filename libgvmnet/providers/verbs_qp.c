/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Making a queue pair, and taking it through its states; rdma_cm says what it needs to know. */
#include "providers/verbs.h"

#include <errno.h>
#include <stdlib.h>

/*
 * siw's library takes the key 0x90000 of a mapping, which the kernel gives like any other, for none
 * (seen in rdma-core 44), and fails without an error. A small queue pair in front moves the next
 * one's key.
 */
static struct ibv_qp *create_qp(struct verbs *v, struct ibv_qp_init_attr *init)
{
	struct ibv_qp_init_attr small = *init;
	struct ibv_qp *qp, *filler;

	errno = 0;
	qp = ibv_create_qp(v->pd, init);
	if (qp || errno || !v->iwarp)
		return qp;
	small.cap = (struct ibv_qp_cap){ 1, 1, 1, 1, 0 };
	filler = ibv_create_qp(v->pd, &small);
	qp = ibv_create_qp(v->pd, init);
	if (filler)
		ibv_destroy_qp(filler);
	return qp;
}

static int create(struct verbs_conn *conn)
{
	struct verbs *v = conn->v;
	struct ibv_qp_init_attr init = { .qp_context = conn,
					 .send_cq = conn->lane->cq,
					 .recv_cq = conn->lane->cq,
					 .srq = conn->lane->srq,
					 .qp_type = IBV_QPT_RC };
	unsigned in = VERBS_INLINE, own = !conn->lane->srq;

	/* What goes inline is the device's business, and it says no to all of it if it is too much.
	 */
	for (;; in = in > 12 ? in - 12 : 0) {
		init.cap = (struct ibv_qp_cap){ .max_send_wr = VERBS_SENDS,
						.max_recv_wr = own ? GVM_RMA_RECVS : 0,
						.max_send_sge = 1,
						.max_recv_sge = own,
						.max_inline_data = in };
		conn->qp = create_qp(v, &init);
		if (conn->qp || !in || errno == ENOMEM)
			break;
	}
	if (!conn->qp)
		return verbs_told_limit(v, errno ? errno : ENOMEM, VERBS_SENDS * 64);
	conn->node.key = conn->qp->qp_num;
	if (rma_table_add(&v->qps, &conn->node)) {
		ibv_destroy_qp(conn->qp);
		conn->qp = NULL;
		return -ENOMEM;
	}
	conn->lane->conns++;
	conn->max_inline =
	    (uint16_t)(init.cap.max_inline_data < GVM_RMA_CELL ? init.cap.max_inline_data
							       : GVM_RMA_CELL);
	conn->write_special = v->iwarp ? UINT32_MAX : conn->max_inline;
	return 0;
}

/* What a queue pair serves of what is asked for by key, when core has seen the proof; but on iWARP,
 * where one nudges the other before that (tick()), from the beginning. */
#define REMOTE_ACCESS (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE)

uint8_t verbs_mtu_least(uint8_t a, uint8_t b)
{
	return a && (!b || a < b) ? a : b;
}

uint8_t verbs_mtu_own(void)
{
	unsigned long bytes = strtoul(gvm_option_text("GVM_VERBS_MTU"), NULL, 10);
	uint8_t mtu = 0;

	for (; bytes >= 256; bytes /= 2)
		mtu++;
	return mtu;
}

/* What rdma_cm has found for the way, but for what the sides have agreed on and the options have.
 */
static void choose_way(const struct verbs_conn *conn, struct ibv_qp_attr *attr, int mask)
{
	uint64_t sl = gvm_option_number("GVM_VERBS_SL");

	if (mask & IBV_QP_PATH_MTU)
		attr->path_mtu = (enum ibv_mtu)verbs_mtu_least((uint8_t)attr->path_mtu, conn->mtu);
	if ((mask & IBV_QP_AV) && sl != GVM_OPTION_AUTO)
		attr->ah_attr.sl = (uint8_t)sl;
}

static int modify(struct verbs_conn *conn, enum ibv_qp_state state, unsigned reads)
{
	struct ibv_qp_attr attr = { .qp_state = state };
	int mask;

	if (rdma_init_qp_attr(conn->id, &attr, &mask))
		return -errno;
	if (state == IBV_QPS_INIT) {
		attr.qp_access_flags = conn->v->iwarp ? REMOTE_ACCESS : IBV_ACCESS_LOCAL_WRITE;
		mask |= IBV_QP_ACCESS_FLAGS;
	} else if (state == IBV_QPS_RTR) {
		choose_way(conn, &attr, mask);
		attr.min_rnr_timer = VERBS_RNR_TIMER;
		if (reads)
			attr.max_dest_rd_atomic = (uint8_t)reads;
	} else {
		attr.timeout = VERBS_TIMEOUT;
		attr.retry_cnt = VERBS_RETRIES;
		attr.rnr_retry = VERBS_RETRIES;
		if (reads)
			attr.max_rd_atomic = (uint8_t)reads;
	}
	return verbs_negative(ibv_modify_qp(conn->qp, &attr, mask));
}

int verbs_qp_make(struct verbs_conn *conn)
{
	struct verbs *v = conn->v;
	int err;

	conn->lane = verbs_lane_get(v);
	if (!conn->lane)
		return -ENOMEM;
	err = create(conn);
	if (!err)
		err = modify(conn, IBV_QPS_INIT, 0);
	if (!err)
		err = verbs_want_receives(conn, GVM_RMA_FIRST);
	if (err)
		return err;
	verbs_post_shared(v);
	return verbs_post_receives(conn);
}

int verbs_qp_ready(struct verbs_conn *conn, unsigned reads_in, unsigned reads_out)
{
	int err;

	if (conn->v->iwarp)
		return 0; /* the kernel does it as it connects */
	conn->ready = 1;
	err = modify(conn, IBV_QPS_RTR, reads_in);
	return err ? err : modify(conn, IBV_QPS_RTS, reads_out);
}

void verbs_allow(struct gvm_rma_ep *ep)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_RTS, .qp_access_flags = REMOTE_ACCESS };
	struct verbs_conn *conn = verbs_ep_of(ep)->conn;
	int err;

	verbs_proven(conn);
	if (!conn->ready || conn->failed)
		return;
	err = verbs_negative(ibv_modify_qp(conn->qp, &attr, IBV_QP_STATE | IBV_QP_ACCESS_FLAGS));
	if (err)
		verbs_fail_later(conn, err);
}

void verbs_qp_end(struct verbs_conn *conn)
{
	struct ibv_qp_attr error = { .qp_state = IBV_QPS_ERR };
	struct verbs *v = conn->v;

	if (!conn->qp)
		return;
	/* On iWARP what was sent last is still in the socket, which must not be reset. */
	if (!v->iwarp && conn->ready && !ibv_modify_qp(conn->qp, &error, IBV_QP_STATE))
		verbs_stop_receiving(conn);
	if (ibv_destroy_qp(conn->qp))
		gvm_log(GVM_LOG_ERROR, "%s does not give a queue pair back", v->device);
	conn->qp = NULL;
	conn->ready = conn->drained = 0;
	conn->lane->conns--;
	rma_table_remove(&v->qps, &conn->node);
	verbs_free_receives(conn);
}
