/*
 * Memory that other QEMUs write to, under TCG: translation blocks are dropped
 * when their page is taken away, and atomic operations are atomic.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A translation block runs without looking at its page again, so what another
 * QEMU writes there would never be executed.  The library says when a page is
 * taken from this QEMU, before anybody else may write to it (gvmnet/dsm.h).
 * By then each vCPU has work queued.  So a vCPU that sees anything that was
 * written later enters no translation block before it has done that work:
 * whoever queues it sets the flag that each block looks at first.
 *
 * The work drops the blocks of all pages that were taken, in an exclusive
 * section: then no vCPU is translating, perhaps from what it has read before
 * the page was taken, into a block that is not known yet and would outlive
 * this.  For the same reason a page of which no block is known counts as well.
 * One vCPU does it for all; the others find nothing left to do.
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "sysemu/hostmem-gvm.h"

#include <gvmnet/gvmnet.h>

#define GVM_TAKEN_MAX 256

static struct {
    QemuMutex lock;
    bool started;
    bool queued;                /* each vCPU has work that has not begun */
    unsigned count;             /* more than GVM_TAKEN_MAX: too many to tell */
    ram_addr_t page[GVM_TAKEN_MAX];
} taken;

/* What was taken so far, into @page; how many there are, and 0 of them from
 * then on. */
static unsigned gvm_tcg_take_list(ram_addr_t *page)
{
    unsigned count;

    QEMU_LOCK_GUARD(&taken.lock);
    count = taken.count;
    memcpy(page, taken.page, MIN(count, GVM_TAKEN_MAX) * sizeof(*page));
    taken.count = 0;
    taken.queued = false;
    return count;
}

static void gvm_tcg_drop(CPUState *cpu)
{
    ram_addr_t page[GVM_TAKEN_MAX];
    unsigned count = gvm_tcg_take_list(page);

    if (count > GVM_TAKEN_MAX) {
        tb_flush(cpu);
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        gvm_tb_invalidate(page[i], GVM_PAGE_SIZE);
    }
}

static bool gvm_tcg_any_taken(void)
{
    QEMU_LOCK_GUARD(&taken.lock);
    return taken.count > 0;
}

/* A vCPU, between translation blocks, with the BQL. */
static void gvm_tcg_work(CPUState *cpu, run_on_cpu_data data)
{
    if (!gvm_tcg_any_taken()) {
        return;
    }
    /* not with the BQL: a vCPU that is waited for may want it */
    bql_unlock();
    start_exclusive();
    gvm_tcg_drop(cpu);
    end_exclusive();
    bql_lock();
}

/* Whether a vCPU has got it: one that has no thread yet has seen nothing. */
static bool gvm_tcg_queue_work(void)
{
    CPUState *cpu;
    bool any = false;

    cpu_list_lock();
    CPU_FOREACH(cpu) {
        if (cpu->created) {
            async_run_on_cpu(cpu, gvm_tcg_work, RUN_ON_CPU_NULL);
            any = true;
        }
    }
    cpu_list_unlock();
    return any;
}

/*
 * The library's thread, which serves all faults; one for each node that this
 * QEMU is.  It takes this file's lock, that of the list of vCPUs and those of
 * their lists of work.  Nobody touches guest memory with one of these.  When
 * it returns all vCPUs have their work, also if another one has queued it.
 */
void gvm_tcg_taken(void *arg, uint64_t offset)
{
    HostMemoryBackendGvm *gvm = arg;

    QEMU_LOCK_GUARD(&taken.lock);
    if (taken.count < GVM_TAKEN_MAX) {
        taken.page[taken.count] = gvm->ram_addr + offset;
    }
    taken.count += taken.count <= GVM_TAKEN_MAX;
    if (!taken.queued) {
        taken.queued = gvm_tcg_queue_work();
    }
}

/*
 * Where this QEMU has one vCPU only, TCG makes plain loads and stores of atomic
 * operations, and nothing of barriers.
 */
static void gvm_tcg_be_parallel(CPUState *cpu, run_on_cpu_data data)
{
    CPUState *other;
    bool changed = false;

    CPU_FOREACH(other) {
        changed |= !(other->tcg_cflags & CF_PARALLEL);
        other->tcg_cflags |= CF_PARALLEL;
    }
    if (changed) {
        tb_flush(cpu);
    }
}

static void gvm_tcg_machine_ready(Notifier *notifier, void *data)
{
    if (first_cpu) {
        async_safe_run_on_cpu(first_cpu, gvm_tcg_be_parallel, RUN_ON_CPU_NULL);
    }
}

void gvm_tcg_start(void)
{
    static Notifier ready = { .notify = gvm_tcg_machine_ready };

    if (!taken.started) {
        taken.started = true;
        qemu_mutex_init(&taken.lock);
        qemu_add_machine_init_done_notifier(&ready);
    }
}
