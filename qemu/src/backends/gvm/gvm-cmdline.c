/*
 * -giantvm-cluster and its like: all RAM of the machine as one
 * memory-backend-gvm.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qom/object_interfaces.h"
#include "sysemu/hostmem-gvm.h"

#define GVM_SHORT_ID "giantvm-ram"

static struct {
    const char *option, *property, *value;
} giantvm[] = {
    { "giantvm-cluster", "cluster" },
    { "giantvm-id", "node" },
    { "giantvm-unreachable", "unreachable" },
};

/* @name may have the value in it: NAME=VALUE. */
void gvm_cmdline_option(const char *name, const char *value)
{
    size_t len = strcspn(name, "=");

    for (size_t i = 0; i < ARRAY_SIZE(giantvm); i++) {
        if (strlen(giantvm[i].option) == len &&
            !strncmp(giantvm[i].option, name, len)) {
            giantvm[i].value = name[len] ? name + len + 1 : value;
        }
    }
}

void gvm_cmdline_create(const char **memdev_id, const char *mem_path,
                        uint64_t size)
{
    Object *obj;

    if (!giantvm[0].value) {
        for (size_t i = 1; i < ARRAY_SIZE(giantvm); i++) {
            if (giantvm[i].value) {
                error_report("-%s needs -giantvm-cluster FILE",
                             giantvm[i].option);
                exit(EXIT_FAILURE);
            }
        }
        return;
    }
    if (*memdev_id) {
        error_report("-giantvm-cluster makes the machine's memory backend, "
                     "so -machine memory-backend=%s cannot name another",
                     *memdev_id);
        exit(EXIT_FAILURE);
    }
    if (mem_path) {
        error_report("-giantvm-cluster makes the machine's memory backend, "
                     "which is in no file: leave out -mem-path");
        exit(EXIT_FAILURE);
    }
    obj = object_new(TYPE_MEMORY_BACKEND_GVM);
    object_property_set_int(obj, "size", size, &error_fatal);
    for (size_t i = 0; i < ARRAY_SIZE(giantvm); i++) {
        if (giantvm[i].value) {
            object_property_parse(obj, giantvm[i].property, giantvm[i].value,
                                  &error_fatal);
        }
    }
    object_property_add_child(object_get_objects_root(), GVM_SHORT_ID, obj);
    user_creatable_complete(USER_CREATABLE(obj), &error_fatal);
    object_unref(obj);
    *memdev_id = GVM_SHORT_ID;
}
