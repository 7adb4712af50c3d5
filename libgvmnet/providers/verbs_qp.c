/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Making a queue pair, and taking it through its states; rdma_cm says what it needs to know. */
#include "providers/verbs.h"

#include <errno.h>

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
					 .qp_type = IBV_QPT_RC };
	unsigned in = VERBS_INLINE;

	/* What goes inline is the device's business, and it says no to all of it if it is too much.
	 */
	for (;; in = in > 12 ? in - 12 : 0) {
		init.cap = (struct ibv_qp_cap){ .max_send_wr = VERBS_SENDS,
						.max_recv_wr = GVM_RMA_RECVS,
						.max_send_sge = 1,
						.max_recv_sge = 1,
						.max_inline_data = in };
		conn->qp = create_qp(v, &init);
		if (conn->qp || !in || errno == ENOMEM)
			break;
	}
	if (!conn->qp)
		return verbs_told_limit(v, errno ? errno : ENOMEM, VERBS_SENDS * 64);
	conn->max_inline =
	    (uint16_t)(init.cap.max_inline_data < GVM_RMA_CELL ? init.cap.max_inline_data
							       : GVM_RMA_CELL);
	return 0;
}

static void make_receives(struct verbs_conn *conn)
{
	for (unsigned i = 0; i < GVM_RMA_RECVS; i++) {
		conn->recv_sge[i].addr = (uintptr_t)conn->block->at + i * GVM_RMA_CELL;
		conn->recv_sge[i].length = GVM_RMA_CELL;
		conn->recv_sge[i].lkey = conn->block->lkey;
		conn->recv[i].wr_id = verbs_receive_id(conn, i);
		conn->recv[i].sg_list = &conn->recv_sge[i];
		conn->recv[i].num_sge = 1;
		verbs_repost(conn, i);
	}
}

static int modify(struct verbs_conn *conn, enum ibv_qp_state state, unsigned reads)
{
	struct ibv_qp_attr attr = { .qp_state = state };
	int mask;

	if (rdma_init_qp_attr(conn->id, &attr, &mask))
		return -errno;
	if (state == IBV_QPS_INIT) {
		attr.qp_access_flags =
		    IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
		mask |= IBV_QP_ACCESS_FLAGS;
	} else if (state == IBV_QPS_RTR) {
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
	conn->block = conn->lane ? verbs_block_get(v) : NULL;
	if (!conn->block)
		return -ENOMEM;
	err = create(conn);
	if (err)
		return err;
	conn->lane->conns++;
	err = modify(conn, IBV_QPS_INIT, 0);
	if (err)
		return err;
	make_receives(conn);
	return verbs_post_receives(conn);
}

int verbs_qp_ready(struct verbs_conn *conn, unsigned reads_in, unsigned reads_out)
{
	int err;

	if (conn->v->iwarp)
		return 0; /* the kernel does it as it connects */
	err = modify(conn, IBV_QPS_RTR, reads_in);
	return err ? err : modify(conn, IBV_QPS_RTS, reads_out);
}
