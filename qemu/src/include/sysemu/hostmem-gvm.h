/*
 * Memory on memory nodes (gvmnet): what the parts of its backend share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SYSEMU_HOSTMEM_GVM_H
#define SYSEMU_HOSTMEM_GVM_H

#include "qemu/event_notifier.h"
#include "qemu/queue.h"
#include "qapi/qapi-types-gvm.h"
#include "sysemu/gvm-compat.h"
#include "sysemu/gvm-watch.h"

#define TYPE_MEMORY_BACKEND_GVM "memory-backend-gvm"
OBJECT_DECLARE_SIMPLE_TYPE(HostMemoryBackendGvm, MEMORY_BACKEND_GVM)

struct HostMemoryBackendGvm {
    HostMemoryBackend parent_obj;

    /* properties; what the user did not set is filled in when it starts */
    char *cluster_file;
    char *key_file;
    char *region;
    char *transport;
    uint64_t local;
    uint32_t prefetch;
    bool has_prefetch;
    uint32_t unreachable_ms;
    uint32_t node;
    bool has_unreachable;
    GvmUnreachable unreachable;
    GvmMode mode;
    OnOffAuto first;

    /* while it runs; all from the thread that holds the BQL */
    struct gvm_cluster *cluster;
    struct gvm_net *net;
    struct gvm_pager *pager;
    struct gvm_range *range;
    struct gvm_dsm *dsm;        /* shared: in place of pager and range */
    bool borrows_net;           /* it is another shared backend's */
    uint64_t ram_addr;          /* shared: of the memory's first byte, to QEMU */
    void *base;                 /* of the memory; good while it runs */
    Error *blocker;
    bool requires_discard;
    EventNotifier changed;      /* the library has changed nodes[] */
    uint8_t *nodes;             /* GvmNodeState by id: it writes that */
    uint8_t *told;              /* what management was told of it */
    bool in_use;                /* it was some machine's when that last changed */
    QLIST_ENTRY(HostMemoryBackendGvm) next;
};

/* Those that run: with a pager, and shared; the BQL. */
extern QLIST_HEAD(GvmBackendList, HostMemoryBackendGvm) gvm_backends;
extern struct GvmBackendList gvm_shared_backends;

/* hostmem-gvm.c */
bool gvm_open_net(HostMemoryBackendGvm *gvm, Error **errp);
unsigned gvm_patience_ms(void);
unsigned gvm_memory_nodes(const HostMemoryBackendGvm *gvm);

/* gvm-events.c: what is told of memory nodes. */
bool gvm_events_start(HostMemoryBackendGvm *gvm, Error **errp);
void gvm_events_stop(HostMemoryBackendGvm *gvm);
/* For the library; by its threads, so it neither blocks nor allocates. */
void gvm_events_node_state(void *arg, unsigned node, int why);
bool gvm_any_node_missing(void);
GvmNodeState gvm_worst_awaited(void);
void gvm_events_plugged(void);

/*
 * From now on, until gvm_reason_over(), the library's lines are looked at for
 * why something fails that this thread asks for: those that it writes itself,
 * and those of @region (NULL: none), which is about to be opened.
 */
void gvm_reason_expect(const char *region);
void gvm_reason_over(void);
/*
 * "what: why" into @errp, where why is the last thing the library complained of
 * since gvm_reason_expect(), or else the text of errno -@err.
 */
void gvm_reason(Error **errp, int err, const char *fmt, ...) G_GNUC_PRINTF(3, 4);

/* gvm-stall.c: vCPUs that wait for a memory node while they are to stop. */
void gvm_stall_init(void);
/* Its memory may meet SIGBUS from now on, or no longer. */
void gvm_stall_add(HostMemoryBackendGvm *gvm);
void gvm_stall_remove(HostMemoryBackendGvm *gvm);
/* For softmmu/runstate.c: a machine whose memory is away is reset later. */
#ifdef CONFIG_GVMNET
ShutdownCause gvm_reset_when_possible(ShutdownCause cause);
#else
#define gvm_reset_when_possible(cause) (cause)
#endif

/* gvm-shared.c: a region that several QEMUs share. */
bool gvm_shared_refuse(HostMemoryBackendGvm *gvm, Error **errp);
bool gvm_shared_start(HostMemoryBackendGvm *gvm, Error **errp);
/* Also of one that has not come to run. */
void gvm_shared_stop(HostMemoryBackendGvm *gvm);
bool gvm_shared_is_first(const HostMemoryBackendGvm *gvm);

/* gvm-tcg.c: what TCG has to know of memory that others write to. */
void gvm_tcg_start(void);
/* For the library: the page of @arg, a backend, has been taken from here. */
void gvm_tcg_taken(void *arg, uint64_t offset);

/* For hw/core/loader.c: this ROM's memory is the first QEMU's to reset. */
#ifdef CONFIG_GVMNET
bool gvm_keeps_rom(MemoryRegion *mr, AddressSpace *as, hwaddr addr,
                   uint64_t size);
#else
#define gvm_keeps_rom(mr, as, addr, size) false
#endif

/*
 * gvm-refuse.c: false if there is a device that does not go with the backend.
 * One that comes later is refused from then on.
 */
bool gvm_refuse_vhost_user(Error **errp);

/* gvm-cmdline.c: -giantvm-cluster and its like. */
void gvm_cmdline_option(const char *name, const char *value);
#ifdef CONFIG_GVMNET
void gvm_cmdline_create(const char **memdev_id, const char *mem_path,
                        uint64_t size);
#else
#define gvm_cmdline_create(memdev_id, mem_path, size) ((void)0)
#endif

#endif
