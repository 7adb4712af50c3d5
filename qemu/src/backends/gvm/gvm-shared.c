/*
 * memory-backend-gvm,share=on: memory that several QEMUs map and share, each
 * page with one writer or many readers at a time (gvmnet/dsm.h).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Where it is the machine's RAM there is one QEMU that resets ROM in it and has
 * the devices: the first.  The others must not have firmware that takes the
 * memory for its own.  As a DIMM, or whatever else is not the machine's RAM,
 * it is memory like any other.
 *
 * All of it with the BQL.
 */

#include "qemu/osdep.h"
#include "exec/address-spaces.h"
#include "hw/boards.h"
#include "hw/pci/pci.h"
#include "hw/qdev-core.h"
#include "hw/virtio/virtio.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/madvise.h"
#include "qemu/units.h"
#include "sysemu/hostmem-gvm.h"
#include "trace.h"

#include <gvmnet/cluster.h>
#include <gvmnet/dsm.h>

struct GvmBackendList gvm_shared_backends =
    QLIST_HEAD_INITIALIZER(gvm_shared_backends);

bool gvm_shared_is_first(const HostMemoryBackendGvm *gvm)
{
    return gvm->first == ON_OFF_AUTO_AUTO ? gvm->node == 0
                                          : gvm->first == ON_OFF_AUTO_ON;
}

/* What is asked of it does not go together.  Before anything else is known. */
bool gvm_shared_refuse(HostMemoryBackendGvm *gvm, Error **errp)
{
    bool share = MEMORY_BACKEND(gvm)->share;

    if (share && (!gvm->region || gvm->node == GVM_NODE_NONE)) {
        error_setg(errp, "memory that QEMUs share (share=on) has a name, and "
                   "each of them is a node of the cluster file: give "
                   "region=NAME and node=N, or leave out share=on");
    } else if (!share && gvm->first != ON_OFF_AUTO_AUTO) {
        error_setg(errp, "one of several QEMUs that share memory is the "
                   "first: give share=on, or leave out first=");
    } else {
        return true;
    }
    return false;
}

/* -- start ----------------------------------------------------------------- */

/* A node has one line in the cluster file, so all of this QEMU's regions go by
 * one net: with one key and transport. */
static HostMemoryBackendGvm *gvm_shared_neighbour(HostMemoryBackendGvm *gvm)
{
    HostMemoryBackendGvm *other;

    QLIST_FOREACH(other, &gvm_shared_backends, next) {
        if (other != gvm && other->node == gvm->node &&
            !strcmp(other->cluster_file, gvm->cluster_file)) {
            return other;
        }
    }
    return NULL;
}

static bool gvm_shared_open_net(HostMemoryBackendGvm *gvm, Error **errp)
{
    HostMemoryBackendGvm *other = gvm_shared_neighbour(gvm);
    char *why = NULL;
    int err;

    if (!other) {
        return gvm_open_net(gvm, errp);
    }
    if (g_strcmp0(other->key_file, gvm->key_file) ||
        g_strcmp0(other->transport, gvm->transport)) {
        error_setg(errp, "memory-backend-gvm: node %u talks to others with the "
                   "key-file and transport of its first shared memory: give "
                   "the same", gvm->node);
        return false;
    }
    err = gvm_cluster_load(gvm->cluster_file, &gvm->cluster, &why);
    if (err < 0) {
        error_setg(errp, "%s", why ? why : strerror(-err));
        free(why);
        return false;
    }
    gvm->net = other->net;
    gvm->borrows_net = true;
    return true;
}

/* The net goes when the last one that uses it does. */
static void gvm_shared_leave_net(HostMemoryBackendGvm *gvm)
{
    HostMemoryBackendGvm *other;

    if (!gvm->borrows_net) {
        other = gvm_shared_neighbour(gvm);
        if (!other) {
            return; /* its owner closes it */
        }
        /* the net uses the cluster that it was opened with */
        gvm_cluster_free(other->cluster);
        other->cluster = gvm->cluster;
        other->borrows_net = false;
        gvm->cluster = NULL;
    }
    gvm->net = NULL;
}

static void gvm_shared_cannot(HostMemoryBackendGvm *gvm, int err, Error **errp)
{
    const char *hint =
        err == -EBUSY ? "another process is this node, or was a moment ago"
        : err == -EINVAL
            ? "it has another size, or the cluster file has no line for "
              "this node"
        : err == -EPERM ? "it is not a shared one, or userfaultfd is not "
                          "permitted"
        : err == -EHOSTDOWN ? "a memory node does not answer"
        : err == -EADDRINUSE || err == -EADDRNOTAVAIL
            ? "this node cannot listen at its line of the cluster file"
            : strerror(-err);

    gvm_reason(errp, err, "shared region %s of %" PRIu64 " bytes cannot be had "
               "as node %u (%s)", gvm->region, MEMORY_BACKEND(gvm)->size,
               gvm->node, hint);
}

static void *gvm_shared_open(HostMemoryBackendGvm *gvm, Error **errp)
{
    uint64_t size = MEMORY_BACKEND(gvm)->size;
    struct gvm_dsm_config config = {
        .name = gvm->region,
        .flags = GVM_DSM_CREATE | GVM_DSM_EPHEMERAL,
        .bytes = size,
        .local_bytes = gvm->local < size ? gvm->local : 0,
        .open_ms = gvm_patience_ms(),
        .taken = tcg_enabled() ? gvm_tcg_taken : NULL,
        .node_state = gvm_events_node_state,
        .arg = gvm,
    };
    void *mem = NULL;
    int err;

    gvm_reason_expect(gvm->region);
    err = gvm_dsm_open(gvm->net, &config, &gvm->dsm);
    if (err == 0) {
        err = gvm_dsm_map(gvm->dsm, &mem);
    }
    if (err < 0) {
        gvm_shared_cannot(gvm, err, errp);
    }
    return mem;
}

static void gvm_shared_announce(HostMemoryBackendGvm *gvm)
{
    uint64_t size = MEMORY_BACKEND(gvm)->size;
    const char *id = object_get_canonical_path_component(OBJECT(gvm));
    unsigned nodes = gvm_memory_nodes(gvm);

    info_report("%s: mode %s, transport %s, %u memory node%s; region %s shared "
                "as node %u%s, at most %" PRIu64 " of %" PRIu64 " MiB local, "
                "unreachable=%s", id, GvmMode_str(gvm->mode),
                gvm_net_transport(gvm->net), nodes, nodes == 1 ? "" : "s",
                gvm->region, gvm->node,
                gvm_shared_is_first(gvm) ? ", the first" : "",
                MIN(gvm->local, size) / MiB, size / MiB,
                GvmUnreachable_str(gvm->unreachable));
    trace_gvm_backend_start(id, size, gvm->local);
}

/* What this QEMU alone has goes to the memory nodes, or it would be lost to
 * the others. */
static void gvm_shared_close(HostMemoryBackendGvm *gvm)
{
    struct gvm_dsm *dsm = gvm->dsm;

    gvm->dsm = NULL;
    if (gvm_dsm_close(dsm) < 0) {
        warn_report("region %s: what only this QEMU had could not be given "
                    "back, and is lost", gvm->region);
    }
}

static void gvm_shared_exits(Notifier *notifier, void *data)
{
    HostMemoryBackendGvm *gvm;

    if (runstate_is_running()) {
        return; /* vCPUs use it */
    }
    QLIST_FOREACH(gvm, &gvm_shared_backends, next) {
        if (gvm->dsm) {
            gvm_shared_close(gvm);
        }
    }
}

static void gvm_shared_machine_ready(Notifier *notifier, void *data);
static bool gvm_shared_no_device(DeviceListener *listener, const QDict *opts,
                                 bool from_json, Error **errp);

static void gvm_shared_init(void)
{
    static Notifier exits = { .notify = gvm_shared_exits };
    static Notifier ready = { .notify = gvm_shared_machine_ready };
    static DeviceListener devices = { .hide_device = gvm_shared_no_device };
    static bool done;

    if (!done) {
        done = true;
        qemu_add_exit_notifier(&exits);
        qemu_add_machine_init_done_notifier(&ready);
        device_listener_register(&devices);
    }
    gvm_stall_init();
    if (tcg_enabled()) {
        gvm_tcg_start();
    }
}

bool gvm_shared_start(HostMemoryBackendGvm *gvm, Error **errp)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(gvm);
    g_autofree char *name = host_memory_backend_get_name(backend);
    void *mem;

    if (gvm->unreachable != GVM_AWAY_STALL &&
        gvm->unreachable != GVM_AWAY_SIGBUS) {
        error_setg(errp, "memory that QEMUs share is not made up, and its "
                   "nodes are not asked again: use unreachable=stall or "
                   "sigbus");
        return false;
    }
    gvm_shared_init();
    if (!gvm_shared_open_net(gvm, errp)) {
        return false;
    }
    mem = gvm_shared_open(gvm, errp);
    if (!mem) {
        return false;
    }
    memory_region_init_ram_ptr(&backend->mr, OBJECT(backend), name,
                               backend->size, mem);
    backend->mr.align = QEMU_VMALLOC_ALIGN; /* as of other memory */
    gvm->ram_addr = memory_region_get_ram_addr(&backend->mr);
    gvm->base = mem;
    qemu_madvise(mem, backend->size, QEMU_MADV_NOHUGEPAGE);
    QLIST_INSERT_HEAD(&gvm_shared_backends, gvm, next);
    gvm_stall_add(gvm);
    gvm_shared_announce(gvm);
    return true;
}

void gvm_shared_stop(HostMemoryBackendGvm *gvm)
{
    if (!MEMORY_BACKEND(gvm)->share) {
        return;
    }
    if (gvm->base) {
        trace_gvm_backend_stop(gvm->region);
        QLIST_REMOVE(gvm, next);
        gvm_stall_remove(gvm);
    }
    if (gvm->dsm) {
        gvm_shared_close(gvm);
    }
    if (gvm->net) {
        gvm_shared_leave_net(gvm);
    }
}

/* -- the machine's RAM ----------------------------------------------------- */

static bool gvm_is_machine_ram(HostMemoryBackendGvm *gvm)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(gvm);
    NumaState *numa = current_machine->numa_state;

    for (int i = 0; numa && i < numa->num_nodes; i++) {
        if (numa->nodes[i].node_memdev == backend) {
            return true;
        }
    }
    return current_machine->ram == &backend->mr;
}

/* The machine's RAM, or a part of it, if it is another QEMU's first of all. */
static HostMemoryBackendGvm *gvm_guest_of_another(void)
{
    HostMemoryBackendGvm *gvm;

    QLIST_FOREACH(gvm, &gvm_shared_backends, next) {
        if (!gvm_shared_is_first(gvm) && gvm_is_machine_ram(gvm)) {
            return gvm;
        }
    }
    return NULL;
}

static bool gvm_moves_data(ObjectClass *oc)
{
    DeviceClass *dc = DEVICE_CLASS(oc);

    return object_class_dynamic_cast(oc, TYPE_PCI_DEVICE) ||
           object_class_dynamic_cast(oc, TYPE_VIRTIO_DEVICE) ||
           test_bit(DEVICE_CATEGORY_STORAGE, dc->categories) ||
           test_bit(DEVICE_CATEGORY_NETWORK, dc->categories);
}

/* A device is asked for: hides none, but may refuse it. */
static bool gvm_shared_no_device(DeviceListener *listener, const QDict *opts,
                                 bool from_json, Error **errp)
{
    HostMemoryBackendGvm *gvm = gvm_guest_of_another();
    const char *driver = qdict_get_try_str(opts, "driver");
    ObjectClass *oc = driver ? object_class_by_name(driver) : NULL;

    if (gvm && oc && object_class_dynamic_cast(oc, TYPE_DEVICE) &&
        gvm_moves_data(oc)) {
        error_setg(errp, "the machine's memory is region %s, whose devices "
                   "are the first node's (first=on): leave out %s here",
                   gvm->region, driver);
    }
    return false;
}

static bool gvm_has_text(Object *obj, const char *name)
{
    g_autofree char *text = NULL;

    if (object_property_find(obj, name)) {
        text = object_property_get_str(obj, name, NULL);
    }
    return text && *text;
}

/* Devices that came by other options than -device. */
static int gvm_shared_check_device(Object *obj, void *opaque)
{
    HostMemoryBackendGvm *gvm = opaque;

    if (object_dynamic_cast(obj, TYPE_DEVICE) &&
        (gvm_has_text(obj, "drive") || gvm_has_text(obj, "netdev"))) {
        error_report("the machine's memory is region %s, whose devices are "
                     "the first node's (first=on): leave out %s here",
                     gvm->region, object_get_typename(obj));
        exit(EXIT_FAILURE);
    }
    return 0;
}

static bool gvm_usual_firmware(void)
{
    const char *name = current_machine->firmware;
    const char *usual = MACHINE_GET_CLASS(current_machine)->default_machine_opts;

    return !name || (usual && g_str_has_prefix(usual, "firmware=") &&
                     !strcmp(usual + strlen("firmware="), name));
}

static void gvm_shared_machine_ready(Notifier *notifier, void *data)
{
    HostMemoryBackendGvm *gvm = gvm_guest_of_another();

    if (!gvm) {
        return;
    }
    if (gvm_usual_firmware()) {
        error_report("the machine's memory is region %s, of which another "
                     "node is the first: this one needs a firmware that knows "
                     "(-bios FILE), for the usual one takes all memory for "
                     "its own", gvm->region);
        exit(EXIT_FAILURE);
    }
    object_child_foreach_recursive(OBJECT(current_machine),
                                   gvm_shared_check_device, gvm);
}

static bool gvm_is_anothers(AddressSpace *as, hwaddr addr)
{
    MemoryRegionSection section = memory_region_find(as->root, addr, 1);
    HostMemoryBackendGvm *gvm;
    bool found = false;

    QLIST_FOREACH(gvm, &gvm_shared_backends, next) {
        found |= section.mr == &MEMORY_BACKEND(gvm)->mr &&
                 !gvm_shared_is_first(gvm);
    }
    memory_region_unref(section.mr);
    return found;
}

bool gvm_keeps_rom(MemoryRegion *mr, AddressSpace *as, hwaddr addr,
                   uint64_t size)
{
    return !mr && size && (gvm_is_anothers(as, addr) ||
                           gvm_is_anothers(as, addr + size - 1));
}
