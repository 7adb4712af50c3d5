/*
 * What differs between the versions of QEMU that this goes with, 7.2 and 10.0.
 * The rest of the code is written for the newer one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef SYSEMU_GVM_COMPAT_H
#define SYSEMU_GVM_COMPAT_H

#include "exec/address-spaces.h"
#include "exec/memory.h"
#include "migration/blocker.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"

/* of exec/memory-internal.h, which is for code that is built for one target */
FlatView *address_space_get_flatview(AddressSpace *as);
void flatview_unref(FlatView *view);

#if __has_include("system/system.h")

#include "exec/tb-flush.h"
#include "hw/pci/pci_device.h"
#include "qobject/qdict.h"
#include "system/cpus.h"
#include "system/hostmem.h"
#include "system/numa.h"
#include "system/runstate.h"
#include "system/system.h"
#include "system/tcg.h"

#define gvm_locks_memory should_mlock(mlock_state)

/* tb_invalidate_phys_range() takes the last byte, not the one behind it */
#define gvm_tb_invalidate(start, size) \
    tb_invalidate_phys_range(start, (start) + (size) - 1)

/* an optional member of QAPI's that is a pointer is there if it is not NULL */
#define gvm_set_has(object, member) ((void)0)

typedef bool GvmAllocResult;
#define gvm_alloc_result(done) (done)

#else

#include "qapi/qmp/qdict.h"
#include "sysemu/cpus.h"
#include "sysemu/hostmem.h"
#include "sysemu/numa.h"
#include "sysemu/runstate.h"
#include "sysemu/sysemu.h"
#include "sysemu/tcg.h"

#define gvm_locks_memory enable_mlock

#define gvm_tb_invalidate(start, size) \
    tb_invalidate_phys_range(start, (start) + (size))

#define gvm_set_has(object, member) ((object)->has_##member = true)

/* HostMemoryBackendClass::alloc says by its Error alone whether it failed */
typedef void GvmAllocResult;
#define gvm_alloc_result(done) ((void)(done))

#define RAM_PRIVATE   0
#define bql_locked    qemu_mutex_iothread_locked
#define bql_lock      qemu_mutex_lock_iothread
#define bql_unlock    qemu_mutex_unlock_iothread

static inline bool gvm_init_ram(MemoryRegion *mr, Object *owner,
                                const char *name, uint64_t size,
                                uint32_t flags, Error **errp)
{
    Error *err = NULL;

    memory_region_init_ram_flags_nomigrate(mr, owner, name, size, flags, &err);
    error_propagate(errp, err);
    return !err;
}
#define memory_region_init_ram_flags_nomigrate gvm_init_ram

/* These take the reason by address, and free it, from 8.2 on. */
static inline int gvm_add_blocker(Error **reason, Error **errp)
{
    int err = migrate_add_blocker(*reason, errp);

    if (err < 0) {
        error_free(*reason);
        *reason = NULL;
    }
    return err;
}

static inline void gvm_del_blocker(Error **reason)
{
    if (*reason) {
        migrate_del_blocker(*reason);
        error_free(*reason);
        *reason = NULL;
    }
}
#define migrate_add_blocker gvm_add_blocker
#define migrate_del_blocker gvm_del_blocker

#endif
#endif
