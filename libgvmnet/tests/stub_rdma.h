/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a test can do to the RDMA device that is none (stub_rdma.c): what the device is like, and
 * what befalls it. To be set while nobody else uses the device.
 */
#ifndef GVM_TESTS_STUB_RDMA_H
#define GVM_TESTS_STUB_RDMA_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#define STUB_API __attribute__((visibility("default")))

struct stub_device {
	int devices;   /* stub0, stub1 */
	int ports;     /* of each */
	int way;       /* the device that rdma_cm finds each address to belong to */
	int transport; /* IBV_TRANSPORT_* */
	uint32_t vendor;
	int max_qp_wr, max_cqe, max_rd_atom;
	int max_srq_wr;        /* 0: no shared receive queues */
	int on_demand;         /* 1: it has on-demand paging; 2: says so, and refuses */
	int tos, tos_set;      /* the last traffic class, and how often one was set */
	int path_mtu, path_sl; /* what rdma_cm finds for a way; enum ibv_mtu */
	int mtu[2], sl[2];     /* what the last two queue pairs were given, the last first */
	uint64_t regs_on_demand, advised; /* registrations; bytes that it was told of */
	int no_srq;                       /* they are said to be there, but none can be made */
	int no_last;    /* nothing is said of a queue pair that has taken its last buffer */
	int rnr_waits;  /* a send for which there is no receive buffer is repeated for ever */
	int port_state; /* IBV_PORT_* */
	size_t pin_max; /* bytes; longer registrations are refused with ENOMEM */
	int no_open, no_manager; /* the files below /dev/infiniband cannot be opened */
	int listen_errno;        /* rdma_listen() fails with it */
	int no_migrate;          /* rdma_migrate_id() fails */
	int connect_waits; /* an eventfd (EFD_SEMAPHORE): rdma_connect() takes one of it first */
	int connect_errno; /* and then it fails with this */
	int removed;       /* the kernel has forgotten it, and lists it no more */
	unsigned mute;     /* 1 << RDMA_CM_EVENT_*: these never come by themselves */
	int fail;          /* the next send, read or write ends with this IBV_WC_* */
};
extern STUB_API struct stub_device stub;

/* What all have of it now. */
struct stub_use {
	unsigned qps, srqs, cqs;
	uint64_t cq_entries, srq_entries; /* as they were asked for */
	uint64_t pinned;                  /* bytes of registrations */
};
extern STUB_API struct stub_use stub_use;

/* An event of the device; element is the caller's to fill in. */
STUB_API void stub_async(struct ibv_context *context, struct ibv_async_event event);
/* The device fails, for all that have it open. */
STUB_API void stub_fail_all(void);
/* How often it is open. */
STUB_API unsigned stub_open(void);
/* What listens at this port does so no more, as its device is gone: rdma_cm says so. */
STUB_API void stub_unlisten(unsigned port);
/* An event of rdma_cm about id, muted or not. */
STUB_API void stub_cm(struct rdma_cm_id *id, enum rdma_cm_event_type type, int status);
/* A completion out of nowhere. */
STUB_API void stub_complete(struct ibv_cq *cq, struct ibv_wc wc);

#endif
