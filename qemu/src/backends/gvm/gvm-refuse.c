/*
 * What does not go with memory on memory nodes, whichever of the two comes
 * first: vhost-user, whose other process would have to see the memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Left alone, it is only noticed when the guest starts the device, or never,
 * if there is other memory that can be shared.
 */

#include "qemu/osdep.h"
#include "hw/qdev-core.h"
#include "net/net.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qom/object_interfaces.h"
#include "sysemu/hostmem-gvm.h"

#define GVM_CLIENTS_MAX 1024

/* vhost-user-blk-pci, cryptodev-vhost-user and so on. */
static bool gvm_is_vhost_user(const char *type)
{
    return type && strstr(type, "vhost-user");
}

static int gvm_find_object(Object *obj, void *found)
{
    const char *type = object_get_typename(obj);

    if (!gvm_is_vhost_user(type)) {
        return 0;
    }
    *(const char **)found = type;
    return 1;
}

static bool gvm_is_shared_net(const NetClientState *client)
{
    return client && client->info->type == NET_CLIENT_DRIVER_VHOST_USER;
}

static bool gvm_find_net(void)
{
    g_autofree NetClientState **clients = g_new0(NetClientState *,
                                                 GVM_CLIENTS_MAX);
    int count = qemu_find_net_clients_except(NULL, clients,
                                             NET_CLIENT_DRIVER_NIC,
                                             GVM_CLIENTS_MAX);

    for (int i = 0; i < MIN(count, GVM_CLIENTS_MAX); i++) {
        if (gvm_is_shared_net(clients[i])) {
            return true;
        }
    }
    return false;
}

/* The first thing here that uses vhost-user; NULL if there is none. */
static const char *gvm_find_vhost_user(void)
{
    const char *found = NULL;

    object_child_foreach_recursive(object_get_root(), gvm_find_object, &found);
    return found ?: gvm_find_net() ? "vhost-user" : NULL;
}

/* Does the new device have one for its other half (netdev=, cryptodev=)? */
static bool gvm_leads_to_vhost_user(const QDict *opts)
{
    const QDictEntry *entry;

    for (entry = qdict_first(opts); entry; entry = qdict_next(opts, entry)) {
        const char *value = qdict_get_try_str(opts, entry->key);
        Object *obj = value ? object_resolve_path_component(
                                  object_get_objects_root(), value)
                            : NULL;

        if ((obj && gvm_is_vhost_user(object_get_typename(obj))) ||
            (value && g_str_equal(entry->key, "netdev") &&
             gvm_is_shared_net(qemu_find_netdev(value)))) {
            return true;
        }
    }
    return false;
}

static bool gvm_is_there(void)
{
    return !QLIST_EMPTY(&gvm_backends) || !QLIST_EMPTY(&gvm_shared_backends);
}

/* Whether a device is to be hidden: none is, but here one can be refused. */
static bool gvm_consider_device(DeviceListener *listener, const QDict *opts,
                                bool from_json, Error **errp)
{
    const char *driver = qdict_get_try_str(opts, "driver");

    if (gvm_is_there() &&
        (gvm_is_vhost_user(driver) || gvm_leads_to_vhost_user(opts))) {
        error_setg(errp, "%s over vhost-user does not go with "
                   "memory-backend-gvm: the other process would not see the "
                   "guest's memory", driver);
    }
    return false;
}

static DeviceListener gvm_device_listener = {
    .hide_device = gvm_consider_device,
};

/* What the machine has made by itself, such as its default network card. */
static void gvm_machine_done(Notifier *notifier, void *data)
{
    Error *err = NULL;

    if (gvm_is_there() && !gvm_refuse_vhost_user(&err)) {
        error_report_err(err);
        exit(1);
    }
}

bool gvm_refuse_vhost_user(Error **errp)
{
    static Notifier machine_done = { .notify = gvm_machine_done };
    static bool watched;
    const char *found = gvm_find_vhost_user();

    if (found) {
        error_setg(errp, "memory-backend-gvm does not go with %s: the other "
                   "process would not see the guest's memory", found);
        return false;
    }
    if (!watched) {
        watched = true;
        device_listener_register(&gvm_device_listener);
        qemu_add_machine_init_done_notifier(&machine_done);
    }
    return true;
}
