/*
 * Memory nodes that go and come back: what management and the run state are
 * told of it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The library's threads note a node's state and ring a bell; everything else is
 * done by the main loop.  It tells of the state that it finds, so a node that
 * goes and comes back in one moment may go unmentioned.
 */

#include "qemu/osdep.h"
#include "qapi/qapi-events-gvm.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "sysemu/hostmem-gvm.h"
#include "gvm-complaint.h"
#include "trace.h"

#include <gvmnet/cluster.h>
#include <gvmnet/pager.h>

#define GVM_RETRY_MS 1000 /* what "cont" gives a node that is away */

/* -- why something fails --------------------------------------------------- */

/*
 * For the library, by any thread: it neither allocates nor waits for a lock of
 * QEMU's or of standard I/O.
 */
static void gvm_log_line(enum gvm_log_level level, const char *line)
{
    static const char *const levels[] = { "error", "warn", "info", "debug" };

    if (level <= GVM_LOG_WARN) {
        gvm_complaint_note(line);
    }
    dprintf(STDERR_FILENO, "gvmnet: %s: %s\n", levels[level], line);
}

static bool gvm_name_is_known(const char *region)
{
    HostMemoryBackendGvm *gvm;

    QLIST_FOREACH(gvm, &gvm_backends, next) {
        if (!strcmp(gvm->region, region)) {
            return true;
        }
    }
    QLIST_FOREACH(gvm, &gvm_shared_backends, next) {
        if (!strcmp(gvm->region, region)) {
            return true;
        }
    }
    return false;
}

void gvm_reason_expect(const char *region)
{
    gvm_complaint_expect(region && !gvm_name_is_known(region) ? region : NULL);
    gvm_log_set(gvm_log_line);
}

void gvm_reason_over(void)
{
    gvm_complaint_over();
}

void gvm_reason(Error **errp, int err, const char *fmt, ...)
{
    g_autofree char *what = NULL;
    char why[GVM_COMPLAINT_MAX];
    va_list args;

    va_start(args, fmt);
    what = g_strdup_vprintf(fmt, args);
    va_end(args);
    gvm_complaint_get(why);
    error_setg(errp, "%s: %s", what, why[0] ? why : strerror(-err));
}

/* -- nodes ----------------------------------------------------------------- */

void gvm_events_node_state(void *arg, unsigned node, int why)
{
    HostMemoryBackendGvm *gvm = arg;

    qatomic_set(&gvm->nodes[node], why == 0 ? GVM_NODE_STATE_HERE
                                   : why == -EIO ? GVM_NODE_STATE_LOST
                                                 : GVM_NODE_STATE_AWAY);
    event_notifier_set(&gvm->changed);
    if (why != 0) {
        /* not by way of the main loop, which may be waiting for a vCPU */
        gvm_stall_watch();
    }
}

static void gvm_tell(HostMemoryBackendGvm *gvm, const struct gvm_node *node,
                     GvmNodeState state)
{
    const char *id = object_get_canonical_path_component(OBJECT(gvm));

    trace_gvm_backend_node(id, node->id, GvmNodeState_str(state));
    if (state == GVM_NODE_STATE_HERE) {
        qapi_event_send_gvm_node_recovered(id, node->id, node->host,
                                           node->port);
    } else {
        qapi_event_send_gvm_node_lost(id, node->id, node->host, node->port,
                                      state, gvm->unreachable);
    }
}

/* Bring management up to date.  Returns the worst news that there is. */
static GvmNodeState gvm_tell_all(HostMemoryBackendGvm *gvm, bool again)
{
    GvmNodeState worst = GVM_NODE_STATE_HERE;

    for (size_t i = 0; i < gvm_cluster_size(gvm->cluster); i++) {
        const struct gvm_node *node = gvm_cluster_at(gvm->cluster, i);
        GvmNodeState state = qatomic_read(&gvm->nodes[node->id]);

        if (state != gvm->told[node->id] ||
            (again && state != GVM_NODE_STATE_HERE)) {
            gvm->told[node->id] = state;
            gvm_tell(gvm, node, state);
            worst = MAX(worst, state);
        }
    }
    return worst;
}

/* Memory that is plugged nowhere is no guest's, and no affair of the machine. */
static bool gvm_in_use(HostMemoryBackendGvm *gvm)
{
    return host_memory_backend_is_mapped(MEMORY_BACKEND(gvm));
}

/* A guest that has lost memory must not go on; another one may be continued. */
static void gvm_stop_guest(HostMemoryBackendGvm *gvm, GvmNodeState why)
{
    if (gvm->unreachable != GVM_AWAY_STOP || why == GVM_NODE_STATE_HERE ||
        !gvm_in_use(gvm) || !runstate_is_running()) {
        return;
    }
    qemu_system_vmstop_request_prepare();
    qemu_system_vmstop_request(why == GVM_NODE_STATE_LOST
                                   ? RUN_STATE_INTERNAL_ERROR
                                   : RUN_STATE_IO_ERROR);
}

static void gvm_events_changed(EventNotifier *changed)
{
    HostMemoryBackendGvm *gvm = container_of(changed, HostMemoryBackendGvm,
                                             changed);

    if (event_notifier_test_and_clear(changed) && gvm->cluster) {
        GvmNodeState news = gvm_tell_all(gvm, false);

        if (news != GVM_NODE_STATE_HERE) {
            gvm_stall_watch();
        }
        gvm_stop_guest(gvm, news);
    }
}

/* A node is back when management has been told so, not before. */
static GvmNodeState gvm_worst_node(const HostMemoryBackendGvm *gvm)
{
    GvmNodeState worst = GVM_NODE_STATE_HERE;

    for (size_t i = 0; i < gvm_cluster_size(gvm->cluster); i++) {
        unsigned node = gvm_cluster_at(gvm->cluster, i)->id;

        worst = MAX(worst, qatomic_read(&gvm->nodes[node]));
        worst = MAX(worst, gvm->told[node]);
    }
    return worst;
}

bool gvm_any_node_missing(void)
{
    HostMemoryBackendGvm *gvm;

    QLIST_FOREACH(gvm, &gvm_backends, next) {
        if (gvm_worst_node(gvm) != GVM_NODE_STATE_HERE) {
            return true;
        }
    }
    QLIST_FOREACH(gvm, &gvm_shared_backends, next) {
        if (gvm_worst_node(gvm) != GVM_NODE_STATE_HERE) {
            return true;
        }
    }
    return false;
}

/* Of nodes that an access waits for, the state of the worst. */
GvmNodeState gvm_worst_awaited(void)
{
    GvmNodeState worst = GVM_NODE_STATE_HERE;
    HostMemoryBackendGvm *gvm;

    QLIST_FOREACH(gvm, &gvm_backends, next) {
        if (gvm->unreachable != GVM_AWAY_ZERO && gvm_in_use(gvm)) {
            worst = MAX(worst, gvm_worst_node(gvm));
        }
    }
    QLIST_FOREACH(gvm, &gvm_shared_backends, next) {
        if (gvm_in_use(gvm)) {
            worst = MAX(worst, gvm_worst_node(gvm));
        }
    }
    return worst;
}

/* The machine's memory has changed: what has just come to be in it may be away
 * already, and management has been told. */
void gvm_events_plugged(void)
{
    HostMemoryBackendGvm *gvm;

    QLIST_FOREACH(gvm, &gvm_backends, next) {
        bool before = gvm->in_use;

        gvm->in_use = gvm_in_use(gvm);
        if (gvm->in_use && !before) {
            gvm_stop_guest(gvm, gvm_worst_node(gvm));
        }
    }
}

/* The guest was continued, and had its time: is the node back? */
static void gvm_retry_over(void *opaque)
{
    HostMemoryBackendGvm *gvm;

    QLIST_FOREACH(gvm, &gvm_backends, next) {
        if (runstate_is_running() && gvm->unreachable == GVM_AWAY_STOP) {
            gvm_stop_guest(gvm, gvm_tell_all(gvm, true));
        }
    }
}

static void gvm_run_state_changed(void *opaque, bool running, RunState state)
{
    static QEMUTimer *retry;

    if (!retry) {
        retry = timer_new_ms(QEMU_CLOCK_REALTIME, gvm_retry_over, NULL);
    }
    if (running && gvm_any_node_missing()) {
        /* what is lost does not come back in that time */
        bool lost = gvm_worst_awaited() == GVM_NODE_STATE_LOST;

        timer_mod(retry, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                             (lost ? 0 : GVM_RETRY_MS));
        gvm_stall_watch();
    } else {
        timer_del(retry);
    }
}

bool gvm_events_start(HostMemoryBackendGvm *gvm, Error **errp)
{
    static VMChangeStateEntry *entry;
    int err = event_notifier_init(&gvm->changed, false);

    if (err < 0) {
        error_setg_errno(errp, -err, "memory-backend-gvm has no descriptor "
                         "for the state of its memory nodes");
        return false;
    }
    gvm->nodes = g_new0(uint8_t, GVM_MAX_NODES);
    gvm->told = g_new0(uint8_t, GVM_MAX_NODES);
    event_notifier_set_handler(&gvm->changed, gvm_events_changed);
    if (!entry) {
        entry = qemu_add_vm_change_state_handler(gvm_run_state_changed, NULL);
    }
    return true;
}

void gvm_events_stop(HostMemoryBackendGvm *gvm)
{
    if (gvm->nodes) {
        event_notifier_set_handler(&gvm->changed, NULL);
        event_notifier_cleanup(&gvm->changed);
    }
    g_free(gvm->nodes);
    g_free(gvm->told);
}
