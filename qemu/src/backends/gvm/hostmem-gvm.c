/*
 * memory-backend-gvm: guest RAM that lives on memory nodes (gvmnet), with a
 * bounded part of it here.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The backend is thin: it maps anonymous memory as memory-backend-ram does,
 * puts it under gvmnet's pager, and refuses what does not go with memory whose
 * pages come and go.  The pager has threads of its own, which take no lock of
 * QEMU's and know nothing of it.
 */

#include "qemu/osdep.h"
#include "hw/boards.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-gvm.h"
#include "qapi/visitor.h"
#include "qemu/error-report.h"
#include "qemu/guest-random.h"
#include "qemu/madvise.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "qom/object_interfaces.h"
#include "sysemu/hostmem-gvm.h"
#include "trace.h"

#include <gvmnet/cluster.h>
#include <gvmnet/pager.h>

#define GVM_DEVICE    "/dev/giantvm"
#define GVM_LOCAL_MIN MiB
#define GVM_LOCAL_MAX (256 * TiB)
#define GVM_AHEAD_MAX 256
#define GVM_NAME_MAX  63u /* as gvmnet/region.h has it */
#define GVM_NAME_CHARS                                                         \
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
#define GVM_PLUG_MS   3000 /* most that object-add waits for memory nodes */

struct GvmBackendList gvm_backends = QLIST_HEAD_INITIALIZER(gvm_backends);

static const char *gvm_id(HostMemoryBackendGvm *gvm)
{
    return object_get_canonical_path_component(OBJECT(gvm));
}

/* What the user did not say, from GVM_* in the environment. */
static char *gvm_text(char *property, const char *env)
{
    const char *text = property ? NULL : gvm_option_text(env);

    return property ? property : *text ? g_strdup(text) : NULL;
}

static bool gvm_fill_in(HostMemoryBackendGvm *gvm, Error **errp)
{
    if (gvm_options_check() < 0) {
        gvm_reason(errp, -EINVAL, "a variable of the environment has no legal "
                   "value");
        return false;
    }
    gvm->cluster_file = gvm_text(gvm->cluster_file, "GVM_CLUSTER");
    gvm->key_file = gvm_text(gvm->key_file, "GVM_KEY_FILE");
    gvm->local = gvm->local ?: gvm_option_number("GVM_LOCAL");
    if (!gvm->has_prefetch) {
        gvm->prefetch = gvm_option_number("GVM_PREFETCH");
    }
    if (!gvm->has_unreachable) {
        gvm->unreachable = qapi_enum_parse(&GvmUnreachable_lookup,
                                           gvm_option_text("GVM_UNREACHABLE"),
                                           GVM_AWAY_STALL, errp);
    }
    if (!gvm->cluster_file) {
        error_setg(errp, "memory-backend-gvm needs to know the memory nodes: "
                   "cluster=FILE, or GVM_CLUSTER in the environment");
        return false;
    }
    return true;
}

static bool gvm_name_is_legal(const char *name)
{
    size_t len = name ? strlen(name) : 0;

    return !name || (len >= 1 && len <= GVM_NAME_MAX &&
                     strspn(name, GVM_NAME_CHARS) == len);
}

/* What does not go with memory whose pages come and go. */
static bool gvm_refuse(HostMemoryBackend *backend, Error **errp)
{
    if (!backend->size || backend->size % GVM_PAGE_SIZE) {
        error_setg(errp, "size of memory-backend-gvm must be a multiple of "
                   "%u bytes, and not 0", GVM_PAGE_SIZE);
    } else if (!gvm_name_is_legal(MEMORY_BACKEND_GVM(backend)->region)) {
        error_setg(errp, "region of memory-backend-gvm is a name of 1 to %u of "
                   "A-Z a-z 0-9 . _ -", GVM_NAME_MAX);
    } else if (backend->prealloc) {
        error_setg(errp, "memory-backend-gvm cannot be preallocated: pages "
                   "that are not in use are not to be here (leave out "
                   "prealloc=on and -mem-prealloc)");
    } else if (gvm_locks_memory) {
        error_setg(errp, "memory-backend-gvm cannot be locked into memory: "
                   "leave out -overcommit mem-lock=on");
    } else if (backend->merge) {
        error_setg(errp, "memory-backend-gvm cannot be merged with other "
                   "memory: leave out merge=on");
    } else if (backend->policy != HOST_MEM_POLICY_DEFAULT ||
               find_first_bit(backend->host_nodes, MAX_NODES) < MAX_NODES) {
        error_setg(errp, "memory-backend-gvm cannot be bound to host NUMA "
                   "nodes, as its pages move: leave out policy and "
                   "host-nodes");
    } else if (!gvm_refuse_vhost_user(errp)) {
        return false;
    } else if (runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "memory-backend-gvm cannot receive a migration: "
                   "leave out -incoming");
    } else {
        return gvm_shared_refuse(MEMORY_BACKEND_GVM(backend), errp);
    }
    return false;
}

static bool gvm_choose_mode(HostMemoryBackendGvm *gvm, Error **errp)
{
    bool there = access(GVM_DEVICE, F_OK) == 0;

    if (gvm->mode == GVM_MODE_AUTO) {
        gvm->mode = qapi_enum_parse(&GvmMode_lookup,
                                    gvm_option_text("GVM_MODE"),
                                    GVM_MODE_AUTO, errp);
    }
    if (gvm->mode == GVM_MODE_AUTO) {
        gvm->mode = there ? GVM_MODE_KERNEL : GVM_MODE_USER;
    }
    if (gvm->mode == GVM_MODE_USER) {
        return true;
    }
    if (there) {
        error_setg(errp, "memory-backend-gvm cannot map " GVM_DEVICE " yet: "
                   "use mode=user, or GVM_MODE=user in the environment");
    } else {
        error_setg(errp, "mode=kernel needs " GVM_DEVICE ", which is not "
                   "there: use mode=user, or GVM_MODE=user in the "
                   "environment");
    }
    return false;
}

bool gvm_open_net(HostMemoryBackendGvm *gvm, Error **errp)
{
    struct gvm_net_config config = {
        .transport = gvm->transport,
        .node = gvm->node,
        .key_file = gvm->key_file,
    };
    char *why = NULL;
    int err = gvm_cluster_load(gvm->cluster_file, &gvm->cluster, &why);

    if (err < 0) {
        error_setg(errp, "%s", why ? why : strerror(-err));
        free(why);
        return false;
    }
    config.cluster = gvm->cluster;
    err = gvm_net_open(&config, &gvm->net);
    if (err < 0) {
        gvm_reason(errp, err, "memory-backend-gvm cannot talk to memory nodes "
                   "(cluster=%s, key-file=%s)", gvm->cluster_file,
                   gvm->key_file ?: "none");
    }
    return err == 0;
}

/*
 * How long memory nodes that do not answer are waited for; 0: as long as the
 * library does.  Who plugs memory into a machine that is there holds it up
 * meanwhile, and may ask again.
 */
unsigned gvm_patience_ms(void)
{
    return phase_check(PHASE_MACHINE_READY)
               ? MIN(gvm_option_number("GVM_OP_TIMEOUT_MS"), GVM_PLUG_MS)
               : 0;
}

/* For the pager: more than all of it is all of it. */
static uint64_t gvm_budget(HostMemoryBackendGvm *gvm, uint64_t local)
{
    return MAX(MIN(local, MEMORY_BACKEND(gvm)->size), GVM_LOCAL_MIN);
}

static bool gvm_open_pager(HostMemoryBackendGvm *gvm, Error **errp)
{
    struct gvm_pager_config config;
    int err;

    gvm_pager_config_init(&config);
    config.local_bytes = gvm_budget(gvm, gvm->local);
    config.prefetch_pages = gvm->prefetch;
    if (gvm->unreachable_ms) {
        config.unreachable_ms = gvm->unreachable_ms;
    }
    /* "stop" is our affair: to the pager it is to stall */
    config.unreachable = gvm->unreachable == GVM_AWAY_SIGBUS
                             ? GVM_UNREACHABLE_SIGBUS
                         : gvm->unreachable == GVM_AWAY_ZERO
                             ? GVM_UNREACHABLE_ZERO
                             : GVM_UNREACHABLE_STALL;
    config.attach_ms = gvm_patience_ms();
    config.arg = gvm;
    config.node_state = gvm_events_node_state;
    err = gvm_pager_open(gvm->net, &config, &gvm->pager);
    if (err < 0) {
        error_setg_errno(errp, -err, "memory-backend-gvm cannot page: is "
                         "userfaultfd permitted (root, /dev/userfaultfd or "
                         "the sysctl vm.unprivileged_userfaultfd)?");
    }
    return err == 0;
}

static void gvm_name_region(HostMemoryBackendGvm *gvm)
{
    uint64_t random;

    if (!gvm->region) {
        qemu_guest_getrandom_nofail(&random, sizeof(random));
        gvm->region = g_strdup_printf("qemu-%016" PRIx64, random);
    }
}

static bool gvm_attach(HostMemoryBackendGvm *gvm, Error **errp)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(gvm);
    void *base = memory_region_get_ram_ptr(&backend->mr);
    int err;

    gvm->base = base;
    /*
     * ram_block_add() has asked for all of these, or may have. What it asked
     * for in huge pages is the pager's to say.
     */
    qemu_madvise(base, backend->size, QEMU_MADV_UNMERGEABLE);
    qemu_madvise(base, backend->size, QEMU_MADV_DONTFORK);
    gvm_name_region(gvm);
    gvm_reason_expect(gvm->region);
    err = gvm_pager_attach(gvm->pager, gvm->region, base, backend->size, -1, 0,
                           GVM_ATTACH_ANON | GVM_ATTACH_HUGE, &gvm->range);
    if (err == -EBUSY || err == -EEXIST) {
        error_setg(errp, "region %s is in use by another client, or by one "
                   "that ended less than half a minute ago without saying so",
                   gvm->region);
    } else if (err < 0) {
        gvm_reason(errp, err, "region %s of %" PRIu64 " bytes cannot be had "
                   "from the memory nodes", gvm->region, backend->size);
    }
    return err == 0;
}

/* What would use the memory behind the pager's back is told to keep off. */
static bool gvm_block_others(HostMemoryBackendGvm *gvm, Error **errp)
{
    if (ram_block_discard_require(true) < 0) {
        error_setg(errp, "memory-backend-gvm does not go with devices that "
                   "pin all memory (VFIO, vDPA, SEV)");
        return false;
    }
    gvm->requires_discard = true;
    error_setg(&gvm->blocker, "memory-backend-gvm: memory on memory nodes "
               "can be neither migrated nor saved");
    return migrate_add_blocker(&gvm->blocker, errp) == 0;
}

unsigned gvm_memory_nodes(const HostMemoryBackendGvm *gvm)
{
    unsigned count = 0;

    for (size_t i = 0; i < gvm_cluster_size(gvm->cluster); i++) {
        count += !!(gvm_cluster_at(gvm->cluster, i)->roles & GVM_ROLE_MEMORY);
    }
    return count;
}

static void gvm_announce(HostMemoryBackendGvm *gvm)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(gvm);
    unsigned nodes = gvm_memory_nodes(gvm);

    info_report("%s: mode %s, transport %s, %u memory node%s; region %s, at "
                "most %" PRIu64 " of %" PRIu64 " MiB local, unreachable=%s",
                gvm_id(gvm), GvmMode_str(gvm->mode),
                gvm_net_transport(gvm->net), nodes, nodes == 1 ? "" : "s",
                gvm->region, MIN(gvm->local, backend->size) / MiB,
                backend->size / MiB, GvmUnreachable_str(gvm->unreachable));
    trace_gvm_backend_start(gvm_id(gvm), backend->size, gvm->local);
}

/* The process ends: its memory at the nodes goes with it, not after a while. */
static void gvm_leave(Notifier *notifier, void *data)
{
    HostMemoryBackendGvm *gvm;

    QLIST_FOREACH(gvm, &gvm_backends, next) {
        gvm_pager_leave(gvm->pager);
    }
}

static Notifier gvm_exit_notifier = { .notify = gvm_leave };

static bool gvm_start(HostMemoryBackend *backend, Error **errp)
{
    HostMemoryBackendGvm *gvm = MEMORY_BACKEND_GVM(backend);
    g_autofree char *name = NULL;

    gvm_reason_expect(NULL);
    if (!gvm_refuse(backend, errp) || !gvm_choose_mode(gvm, errp) ||
        !gvm_fill_in(gvm, errp) || !gvm_block_others(gvm, errp) ||
        !gvm_events_start(gvm, errp)) {
        return false;
    }
    if (backend->share) {
        return gvm_shared_start(gvm, errp);
    }
    if (!gvm_open_net(gvm, errp) || !gvm_open_pager(gvm, errp)) {
        return false;
    }
    /* RAM_NORESERVE: the guest may have more than this machine */
    name = host_memory_backend_get_name(backend);
    if (!memory_region_init_ram_flags_nomigrate(&backend->mr, OBJECT(backend),
                                                name, backend->size,
                                                RAM_PRIVATE | RAM_NORESERVE,
                                                errp) ||
        !gvm_attach(gvm, errp)) {
        return false;
    }
    if (QLIST_EMPTY(&gvm_backends) && !gvm_exit_notifier.node.le_prev) {
        qemu_add_exit_notifier(&gvm_exit_notifier);
    }
    QLIST_INSERT_HEAD(&gvm_backends, gvm, next);
    gvm_stall_init();
    gvm_stall_add(gvm);
    gvm_announce(gvm);
    return true;
}

static GvmAllocResult gvm_backend_alloc(HostMemoryBackend *backend,
                                        Error **errp)
{
    bool done = gvm_start(backend, errp);

    gvm_reason_over();
    return gvm_alloc_result(done);
}

/* Undoes whatever gvm_backend_alloc() has come to. */
static void gvm_backend_finalize(Object *obj)
{
    HostMemoryBackendGvm *gvm = MEMORY_BACKEND_GVM(obj);

    gvm_shared_stop(gvm);
    if (gvm->range) {
        trace_gvm_backend_stop(gvm->region);
        QLIST_REMOVE(gvm, next);
        gvm_pager_detach(gvm->range);
        gvm_stall_remove(gvm);
    }
    if (gvm->pager) {
        gvm_pager_close(gvm->pager);
    }
    if (gvm->net) {
        gvm_net_close(gvm->net);
    }
    gvm_events_stop(gvm);
    migrate_del_blocker(&gvm->blocker);
    if (gvm->requires_discard) {
        ram_block_discard_require(false);
    }
    gvm_cluster_free(gvm->cluster);
    g_free(gvm->cluster_file);
    g_free(gvm->key_file);
    g_free(gvm->region);
    g_free(gvm->transport);
}

/* -- properties ------------------------------------------------------------ */

static bool gvm_may_set(Object *obj, const char *name, Error **errp)
{
    if (MEMORY_BACKEND_GVM(obj)->range || MEMORY_BACKEND_GVM(obj)->dsm) {
        error_setg(errp, "property %s of memory-backend-gvm cannot be changed "
                   "while it runs", name);
        return false;
    }
    return true;
}

#define GVM_TEXT_PROPERTY(field)                                               \
static char *gvm_get_##field(Object *obj, Error **errp)                        \
{                                                                              \
    return g_strdup(MEMORY_BACKEND_GVM(obj)->field);                           \
}                                                                              \
static void gvm_set_##field(Object *obj, const char *value, Error **errp)      \
{                                                                              \
    HostMemoryBackendGvm *gvm = MEMORY_BACKEND_GVM(obj);                       \
    if (gvm_may_set(obj, #field, errp)) {                                      \
        g_free(gvm->field);                                                    \
        gvm->field = g_strdup(value);                                          \
    }                                                                          \
}

GVM_TEXT_PROPERTY(cluster_file)
GVM_TEXT_PROPERTY(key_file)
GVM_TEXT_PROPERTY(region)
GVM_TEXT_PROPERTY(transport)

static int gvm_get_mode(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_GVM(obj)->mode;
}

static void gvm_set_mode(Object *obj, int value, Error **errp)
{
    if (gvm_may_set(obj, "mode", errp)) {
        MEMORY_BACKEND_GVM(obj)->mode = value;
    }
}

static int gvm_get_unreachable(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_GVM(obj)->unreachable;
}

static void gvm_set_unreachable(Object *obj, int value, Error **errp)
{
    if (gvm_may_set(obj, "unreachable", errp)) {
        MEMORY_BACKEND_GVM(obj)->unreachable = value;
        MEMORY_BACKEND_GVM(obj)->has_unreachable = true;
    }
}

static int gvm_get_first(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_GVM(obj)->first;
}

static void gvm_set_first(Object *obj, int value, Error **errp)
{
    if (gvm_may_set(obj, "first", errp)) {
        MEMORY_BACKEND_GVM(obj)->first = value;
    }
}

static void gvm_get_local(Object *obj, Visitor *v, const char *name,
                          void *opaque, Error **errp)
{
    visit_type_size(v, name, &MEMORY_BACKEND_GVM(obj)->local, errp);
}

static void gvm_set_local(Object *obj, Visitor *v, const char *name,
                          void *opaque, Error **errp)
{
    HostMemoryBackendGvm *gvm = MEMORY_BACKEND_GVM(obj);
    uint64_t value;
    int err;

    if (!visit_type_size(v, name, &value, errp) ||
        (gvm->dsm && !gvm_may_set(obj, name, errp))) {
        return;
    }
    if (value < GVM_LOCAL_MIN || value > GVM_LOCAL_MAX) {
        error_setg(errp, "local must be from 1M to 256T");
        return;
    }
    if (gvm->range) {
        err = gvm_pager_set_local(gvm->pager, gvm_budget(gvm, value));
        if (err < 0) {
            error_setg_errno(errp, -err, "local stays at %" PRIu64 " bytes",
                             gvm->local);
            return;
        }
        trace_gvm_backend_local(gvm_id(gvm), value);
    }
    gvm->local = value;
}

static void gvm_get_prefetch(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    visit_type_uint32(v, name, &MEMORY_BACKEND_GVM(obj)->prefetch, errp);
}

static void gvm_set_prefetch(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    HostMemoryBackendGvm *gvm = MEMORY_BACKEND_GVM(obj);
    uint32_t value;

    if (!visit_type_uint32(v, name, &value, errp) ||
        (gvm->dsm && !gvm_may_set(obj, name, errp))) {
        return;
    }
    if (value > GVM_AHEAD_MAX) {
        error_setg(errp, "prefetch must be from 0 to %u pages", GVM_AHEAD_MAX);
        return;
    }
    if (gvm->range) {
        gvm_pager_set_prefetch(gvm->pager, value);
    }
    gvm->prefetch = value;
    gvm->has_prefetch = true;
}

static void gvm_get_number(Object *obj, Visitor *v, const char *name,
                           void *opaque, Error **errp)
{
    visit_type_uint32(v, name, (uint32_t *)((char *)obj + (size_t)opaque),
                      errp);
}

static void gvm_set_number(Object *obj, Visitor *v, const char *name,
                           void *opaque, Error **errp)
{
    if (gvm_may_set(obj, name, errp)) {
        gvm_get_number(obj, v, name, opaque, errp);
    }
}

static void gvm_backend_instance_init(Object *obj)
{
    HostMemoryBackendGvm *gvm = MEMORY_BACKEND_GVM(obj);

    MEMORY_BACKEND(obj)->merge = false;
    gvm->node = GVM_NODE_NONE;
}

static void gvm_add_texts(ObjectClass *oc)
{
    object_class_property_add_str(oc, "cluster", gvm_get_cluster_file,
                                  gvm_set_cluster_file);
    object_class_property_set_description(oc, "cluster",
        "File that names the memory nodes");
    object_class_property_add_str(oc, "key-file", gvm_get_key_file,
                                  gvm_set_key_file);
    object_class_property_set_description(oc, "key-file",
        "File with the key that the memory nodes have, too");
    object_class_property_add_str(oc, "region", gvm_get_region,
                                  gvm_set_region);
    object_class_property_set_description(oc, "region",
        "Name of this memory at the memory nodes");
    object_class_property_add_str(oc, "transport", gvm_get_transport,
                                  gvm_set_transport);
    object_class_property_set_description(oc, "transport",
        "What to talk to memory nodes with: tcp, verbs, ofi, ...");
}

static void gvm_add_numbers(ObjectClass *oc)
{
    object_class_property_add(oc, "local", "size", gvm_get_local,
                              gvm_set_local, NULL, NULL);
    object_class_property_set_description(oc, "local",
        "How much of this memory may be here; may be set while it runs");
    object_class_property_add(oc, "prefetch", "uint32", gvm_get_prefetch,
                              gvm_set_prefetch, NULL, NULL);
    object_class_property_set_description(oc, "prefetch",
        "Most pages fetched ahead of a fault; may be set while it runs");
    object_class_property_add(oc, "node", "uint32", gvm_get_number,
        gvm_set_number, NULL,
        (void *)offsetof(HostMemoryBackendGvm, node));
    object_class_property_set_description(oc, "node",
        "Id of this machine in the cluster file, if it has one");
    object_class_property_add(oc, "unreachable-ms", "uint32", gvm_get_number,
        gvm_set_number, NULL,
        (void *)offsetof(HostMemoryBackendGvm, unreachable_ms));
    object_class_property_set_description(oc, "unreachable-ms",
        "How long a node is away before unreachable=sigbus or zero counts");
}

/* -- properties of all memory backends, which act on memory that runs ------ */

static struct {
    const char *name;
    ObjectPropertyAccessor *set;
} gvm_guarded[] = { { "merge" }, { "prealloc" } };

static void gvm_set_guarded(Object *obj, Visitor *v, const char *name,
                            void *opaque, Error **errp)
{
    if (object_dynamic_cast(obj, TYPE_MEMORY_BACKEND_GVM) &&
        !gvm_may_set(obj, name, errp)) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(gvm_guarded); i++) {
        if (!strcmp(gvm_guarded[i].name, name)) {
            gvm_guarded[i].set(obj, v, name, opaque, errp);
        }
    }
}

/*
 * A class cannot have a property of its own in place of its parent's, so it is
 * the parent's that looks whose it is.
 */
static void gvm_guard_properties(ObjectClass *oc)
{
    for (size_t i = 0; i < ARRAY_SIZE(gvm_guarded); i++) {
        ObjectProperty *prop =
            object_class_property_find(oc, gvm_guarded[i].name);

        gvm_guarded[i].set = prop->set;
        prop->set = gvm_set_guarded;
    }
}

static void gvm_backend_class_init(ObjectClass *oc, void *data)
{
    MEMORY_BACKEND_CLASS(oc)->alloc = gvm_backend_alloc;

    gvm_guard_properties(oc);

    gvm_add_texts(oc);
    gvm_add_numbers(oc);
    object_class_property_add_enum(oc, "mode", "GvmMode", &GvmMode_lookup,
                                   gvm_get_mode, gvm_set_mode);
    object_class_property_set_description(oc, "mode",
        "auto, kernel or user");
    object_class_property_add_enum(oc, "first", "OnOffAuto",
                                   &OnOffAuto_lookup, gvm_get_first,
                                   gvm_set_first);
    object_class_property_set_description(oc, "first",
        "With share=on: this one resets ROM and has the devices (auto: node 0)");
    object_class_property_add_enum(oc, "unreachable", "GvmUnreachable",
                                   &GvmUnreachable_lookup,
                                   gvm_get_unreachable, gvm_set_unreachable);
    object_class_property_set_description(oc, "unreachable",
        "What an access to a node that is away does: stall, sigbus, zero or "
        "stop");
}

static const TypeInfo gvm_backend_info = {
    .name = TYPE_MEMORY_BACKEND_GVM,
    .parent = TYPE_MEMORY_BACKEND,
    .class_init = gvm_backend_class_init,
    .instance_init = gvm_backend_instance_init,
    .instance_finalize = gvm_backend_finalize,
    .instance_size = sizeof(HostMemoryBackendGvm),
};

static void register_types(void)
{
    type_register_static(&gvm_backend_info);
}

type_init(register_types);
