/*
 * query-gvm and "info gvm".
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-gvm.h"
#include "qemu/units.h"
#include "sysemu/hostmem-gvm.h"

#include <gvmnet/cluster.h>
#include <gvmnet/dsm.h>
#include <gvmnet/pager.h>

static GvmFaults *gvm_faults(const struct gvm_pager_stats *stats)
{
    GvmFaults *faults = g_new0(GvmFaults, 1);

    faults->total = stats->faults;
    faults->remote = stats->faults_remote;
    faults->prefetch = stats->faults_prefetch;
    faults->zero = stats->faults_zero;
    faults->write = stats->faults_write;
    faults->victim = stats->faults_victim;
    return faults;
}

static GvmLatency *gvm_latency(const struct gvm_hist *hist)
{
    GvmLatency *latency = g_new0(GvmLatency, 1);
    GvmLatencyBucketList **tail = &latency->histogram;

    latency->p50_ns = gvm_hist_percentile(hist, 0.5);
    latency->p99_ns = gvm_hist_percentile(hist, 0.99);
    latency->max_ns = hist->max;
    for (unsigned i = 0; i < GVM_HIST_BUCKETS; i++) {
        if (hist->bucket[i]) {
            GvmLatencyBucket *bucket = g_new0(GvmLatencyBucket, 1);

            bucket->upto_ns = gvm_hist_edge(i);
            bucket->faults = hist->bucket[i];
            QAPI_LIST_APPEND(tail, bucket);
        }
    }
    return latency;
}

static GvmPrefetch *gvm_prefetch(HostMemoryBackendGvm *gvm,
                                 const struct gvm_pager_stats *stats)
{
    GvmPrefetch *prefetch = g_new0(GvmPrefetch, 1);
    uint64_t judged = stats->prefetch_used + stats->prefetch_wasted;

    prefetch->limit = gvm->prefetch;
    prefetch->fetched = stats->prefetched_pages;
    prefetch->used = stats->prefetch_used;
    prefetch->wasted = stats->prefetch_wasted;
    prefetch->has_accuracy = judged > 0;
    if (judged) {
        prefetch->accuracy = 100.0 * stats->prefetch_used / judged;
    }
    return prefetch;
}

static GvmWriteBack *gvm_write_back(const struct gvm_pager_stats *stats)
{
    GvmWriteBack *back = g_new0(GvmWriteBack, 1);

    back->written = stats->written_bytes;
    back->dirty = stats->dirty_pages * GVM_PAGE_SIZE;
    back->evicted = stats->evicted_pages;
    back->evicted_clean = stats->evicted_clean;
    back->evicted_zero = stats->evicted_zero;
    back->discarded = stats->discarded_pages;
    return back;
}

static GvmNodeList *gvm_nodes(HostMemoryBackendGvm *gvm)
{
    GvmNodeList *list = NULL, **tail = &list;

    for (size_t i = 0; i < gvm_cluster_size(gvm->cluster); i++) {
        const struct gvm_node *node = gvm_cluster_at(gvm->cluster, i);

        if (node->roles & GVM_ROLE_MEMORY) {
            GvmNode *said = g_new0(GvmNode, 1);

            said->node = node->id;
            said->host = g_strdup(node->host);
            said->port = node->port;
            said->state = qatomic_read(&gvm->nodes[node->id]);
            QAPI_LIST_APPEND(tail, said);
        }
    }
    return list;
}

/* What is the same for all. */
static GvmInfo *gvm_info_begin(HostMemoryBackendGvm *gvm)
{
    GvmInfo *info = g_new0(GvmInfo, 1);

    info->id = g_strdup(object_get_canonical_path_component(OBJECT(gvm)));
    info->mode = gvm->mode;
    info->transport = g_strdup(gvm_net_transport(gvm->net));
    info->region = g_strdup(gvm->region);
    info->size = MEMORY_BACKEND(gvm)->size;
    info->local = gvm->local;
    info->unreachable = gvm->unreachable;
    info->nodes = gvm_nodes(gvm);
    return info;
}

static GvmInfo *gvm_info(HostMemoryBackendGvm *gvm)
{
    g_autofree struct gvm_pager_latency *latency =
        g_new0(struct gvm_pager_latency, 1);
    GvmInfo *info = gvm_info_begin(gvm);
    struct gvm_pager_stats stats;

    gvm_pager_stats(gvm->pager, &stats, latency);
    info->resident = stats.resident_pages * GVM_PAGE_SIZE;
    info->held = stats.local_pages * GVM_PAGE_SIZE;
    info->stored = stats.stored_pages * GVM_PAGE_SIZE;
    info->metadata = stats.metadata_bytes;
    info->fetched = stats.fetched_bytes;
    info->faults = gvm_faults(&stats);
    info->latency = gvm_latency(&latency->all);
    info->prefetch = gvm_prefetch(gvm, &stats);
    info->write_back = gvm_write_back(&stats);
    info->retries = stats.retries;
    info->lost = stats.lost_pages;
    info->zeroed = stats.unreachable_zeroed;
    return info;
}

static GvmShared *gvm_shared(HostMemoryBackendGvm *gvm,
                             const struct gvm_dsm_stats *stats)
{
    GvmShared *shared = g_new0(GvmShared, 1);

    shared->node = gvm->node;
    shared->first = gvm_shared_is_first(gvm);
    shared->invalidated = stats->invalidated;
    shared->evicted = stats->evicted;
    shared->sent = stats->pages_sent;
    shared->received = stats->pages_received;
    shared->homes_lost = stats->homes_dead;
    return shared;
}

static GvmInfo *gvm_info_shared(HostMemoryBackendGvm *gvm)
{
    g_autofree struct gvm_hist *latency = g_new0(struct gvm_hist, 1);
    struct gvm_pager_stats none = {};
    GvmInfo *info = gvm_info_begin(gvm);
    struct gvm_dsm_stats stats;
    struct gvm_hist write;

    gvm_dsm_stats(gvm->dsm, &stats);
    gvm_dsm_latency(gvm->dsm, 0, latency);
    gvm_dsm_latency(gvm->dsm, 1, &write);
    gvm_hist_merge(latency, &write);
    info->resident = info->held = stats.pages_here * GVM_PAGE_SIZE;
    info->fetched = stats.bytes_received;
    none.faults = none.faults_remote = stats.faults_read + stats.faults_write;
    none.faults_write = stats.faults_write;
    info->faults = gvm_faults(&none);
    info->latency = gvm_latency(latency);
    info->prefetch = gvm_prefetch(gvm, &none);
    info->write_back = gvm_write_back(&none);
    info->retries = stats.repeated;
    info->lost = stats.faults_failed;
    info->shared = gvm_shared(gvm, &stats);
    gvm_set_has(info, shared);
    return info;
}

GvmInfoList *qmp_query_gvm(Error **errp)
{
    HostMemoryBackendGvm *gvm;
    GvmInfoList *list = NULL;

    QLIST_FOREACH(gvm, &gvm_backends, next) {
        QAPI_LIST_PREPEND(list, gvm_info(gvm));
    }
    QLIST_FOREACH(gvm, &gvm_shared_backends, next) {
        if (gvm->dsm) {
            QAPI_LIST_PREPEND(list, gvm_info_shared(gvm));
        }
    }
    return list;
}

static void gvm_print_shared(Monitor *mon, const GvmShared *shared)
{
    monitor_printf(mon, "  shared as node %u%s: %" PRIu64 " pages received, %"
                   PRIu64 " sent, %" PRIu64 " given up, %" PRIu64 " evicted\n",
                   shared->node, shared->first ? ", the first" : "",
                   shared->received, shared->sent, shared->invalidated,
                   shared->evicted);
}

static void gvm_print(Monitor *mon, const GvmInfo *info)
{
    monitor_printf(mon, "%s: mode %s, transport %s, region %s, "
                   "unreachable=%s\n", info->id, GvmMode_str(info->mode),
                   info->transport, info->region,
                   GvmUnreachable_str(info->unreachable));
    monitor_printf(mon, "  memory: %" PRIu64 " MiB, at most %" PRIu64
                   " here; %" PRIu64 " mapped, %" PRIu64 " at the nodes\n",
                   info->size / MiB, info->local / MiB, info->resident / MiB,
                   info->stored / MiB);
    monitor_printf(mon, "  faults: %" PRIu64 ", %" PRIu64 " waited for a "
                   "node; p50 %" PRIu64 " us, p99 %" PRIu64 " us\n",
                   info->faults->total,
                   info->faults->remote + info->faults->prefetch,
                   info->latency->p50_ns / 1000, info->latency->p99_ns / 1000);
    if (info->shared) {
        gvm_print_shared(mon, info->shared);
        return;
    }
    monitor_printf(mon, "  prefetch: at most %u pages, %" PRIu64 " fetched, "
                   "%.1f %% of those judged were used\n",
                   info->prefetch->limit, info->prefetch->fetched,
                   info->prefetch->has_accuracy ? info->prefetch->accuracy
                                                : 0.0);
    monitor_printf(mon, "  fetched %" PRIu64 " MiB, written back %" PRIu64
                   " MiB, %" PRIu64 " MiB dirty, %" PRIu64 " pages "
                   "discarded\n", info->fetched / MiB,
                   info->write_back->written / MiB,
                   info->write_back->dirty / MiB, info->write_back->discarded);
}

void hmp_info_gvm(Monitor *mon, const QDict *qdict)
{
    GvmInfoList *list = qmp_query_gvm(NULL);

    if (!list) {
        monitor_printf(mon, "no memory-backend-gvm\n");
    }
    for (GvmInfoList *at = list; at; at = at->next) {
        gvm_print(mon, at->value);
        for (GvmNodeList *node = at->value->nodes; node; node = node->next) {
            monitor_printf(mon, "  node %u (%s:%u): %s\n", node->value->node,
                           node->value->host, node->value->port,
                           GvmNodeState_str(node->value->state));
        }
    }
    qapi_free_GvmInfoList(list);
}
