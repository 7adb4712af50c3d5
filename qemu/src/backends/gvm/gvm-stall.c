/*
 * vCPU threads that wait in a page fault for a memory node that is away.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Such a thread cannot come to where it would stop, so stopping the guest, or
 * quitting, would wait for the node.  While a node is missing, and when QEMU
 * ends, a watch thread looks for vCPUs that are asked to stop and do not.  It
 * sends them SIGBUS, which interrupts the wait; the handler holds the thread
 * where it is until the guest is continued, and then it meets the fault again.
 * A thread that is held executes nothing, so it is as good as stopped, and
 * counted so.
 *
 * The same handler holds a vCPU that meets a page which the memory nodes have
 * lost, rather than letting the kernel end QEMU; the guest is stopped for
 * good.
 *
 * A thread is held only at the instruction at which it was found to wait, so
 * it has no lock of the C library's or the like.  One that waits with the BQL
 * is not interrupted: it is in the code of a device, and the guest is to go on
 * later.  Interrupts are delivered without it.
 *
 * With TCG a held thread is a reader of RCU.  When the guest has stopped, it
 * leaves RCU until it goes on, so that whoever waits for readers (device_add
 * that fails) does not wait for the memory node.  What it may have in its
 * hands, the views of its address spaces, is referenced for that long.
 *
 * A guest that runs while vCPUs wait is in the main loop's way as well.  If the
 * main loop does not come round, and has not the BQL, it waits for readers, or
 * for vCPUs; then the guest stands still, as if it were stopped, until the main
 * loop has come round.
 */

#include "qemu/osdep.h"
#include "hw/boards.h"
#include "hw/core/cpu.h"
#include "qemu/error-report.h"
#include "qemu/futex.h"
#include "qemu/rcu.h"
#include "sysemu/hostmem-gvm.h"
#include "trace.h"
#include "gvm-homes.h"
#include "gvm-waits.h"

#define GVM_WATCH_MS 100 /* how often vCPUs are looked at */
/*
 * How often a vCPU is seen not to stop before it is taken to wait for memory:
 * at once it may just be on its way.  A node that says nothing is not known
 * to be missing for a while, and a machine that ends does not wait for that.
 */
#define GVM_LATE_MISSING 2
#define GVM_LATE         10
/* How often the main loop is seen not to come round before it is freed. */
#define GVM_STUCK 5

static struct {
    QemuThread thread;
    QemuEvent wanted;           /* the watch has something to look at */
    EventNotifier lost;         /* a vCPU has met a page that is lost */
    struct sigaction before;    /* what QEMU does with SIGBUS */
    /*
     * Held threads go on when it changes by GVM_GO_ON; while it has GVM_LEAVE
     * they leave RCU.  Changed with the BQL.
     */
    unsigned round;
    unsigned cpus;
    unsigned *held;             /* by CPU index: in which round, see below */
    GvmPlace *place;            /* where its thread was found to wait */
    uint8_t *late;              /* how often it was found not to stop */
    uint8_t *ready;             /* its thread was told to take SIGBUS */
    bool started;               /* all of this is there */
    bool ends;                  /* QEMU does; vCPUs will be asked to stop */
    bool stopped;               /* the guest is, and so are all vCPUs */
    bool lost_memory;           /* a vCPU has met a page that is lost */
    ShutdownCause reset;        /* of a reset that waits for a memory node */
    unsigned away;              /* held threads that have left RCU */
    QemuEvent back;             /* one of them has come back */
    GPtrArray *views;           /* referenced while they may be away */
    unsigned changing;          /* views that RCU may still have readers of */
    bool asked;                 /* the main loop, to show that it comes round */
    unsigned stuck;             /* how often it was seen that it does not */
    bool still;                 /* all vCPUs were told to stop for that */
} stall;

#define GVM_LEAVE 1u
#define GVM_GO_ON 2u

/* Its thread is, and has not been told to go on: who has may not run yet. */
static bool gvm_is_held(unsigned cpu)
{
    return qatomic_read(&stall.held[cpu]) == (stall.round | GVM_LEAVE);
}

static void gvm_come_back(void)
{
    qatomic_dec(&stall.away);
    qemu_event_set(&stall.back);
}

/* Leave RCU, however often it was entered; 0 if it is not to be, or was not. */
static unsigned gvm_leave_rcu(unsigned round)
{
    struct rcu_reader_data *reader = get_ptr_rcu_reader();
    unsigned depth = reader->depth;

    if (depth) {
        qatomic_inc(&stall.away);
        smp_mb(); /* of gvm_go_on(): either it sees this, or this sees it */
        if (qatomic_read(&stall.round) != round) {
            gvm_come_back();
            return 0;
        }
        reader->depth = 1;
        rcu_read_unlock();
    }
    return depth;
}

static void gvm_enter_rcu(unsigned depth)
{
    if (depth) {
        rcu_read_lock();
        get_ptr_rcu_reader()->depth = depth;
        gvm_come_back();
    }
}

/* Until the guest is continued.  @leave: may leave RCU meanwhile. */
static void gvm_hold_round(unsigned first, bool leave)
{
    unsigned now = qatomic_read(&stall.round), depth = 0;

    while ((now ^ first) < GVM_GO_ON) {
        if (leave && !depth && (now & GVM_LEAVE)) {
            depth = gvm_leave_rcu(now);
        }
        qemu_futex_wait(&stall.round, now);
        now = qatomic_read(&stall.round);
    }
    gvm_enter_rcu(depth);
}

/*
 * The handler, in the vCPU's thread: nothing here may lock or allocate.  But
 * the BQL: who has it and meets a lost page is at an access to guest memory,
 * so nothing is half done with the lock itself, and the guest does not go on.
 */
static void gvm_hold(CPUState *cpu)
{
    unsigned round = qatomic_read(&stall.round);
    bool locked = bql_locked();
    int saved = errno;

    if (locked) {
        bql_unlock();
    }
    qatomic_set(&stall.held[cpu->cpu_index], round | GVM_LEAVE);
    gvm_hold_round(round, !locked);
    qatomic_set(&stall.held[cpu->cpu_index], 0);
    if (locked) {
        bql_lock();
    }
    errno = saved;
}

static bool gvm_may_hold(CPUState *cpu)
{
    return cpu && cpu->cpu_index < stall.cpus;
}

/* What an address is, beside -1: not ours. */
enum {
    GVM_ASKED_FOR_IT,           /* of a backend that wants bus errors */
    GVM_HOLDS,                  /* memory that is lost: its vCPU is held */
};

void gvm_stall_add(HostMemoryBackendGvm *gvm)
{
    gvm_home_add(gvm->base, MEMORY_BACKEND(gvm)->size,
                 gvm->unreachable == GVM_AWAY_SIGBUS ? GVM_ASKED_FOR_IT
                                                     : GVM_HOLDS);
}

void gvm_stall_remove(HostMemoryBackendGvm *gvm)
{
    gvm_home_remove(gvm->base);
}

/*
 * QEMU itself has met lost memory.  It cannot be an error of the device that
 * asked: most have a pointer to the memory by then, and nobody to return to.
 */
static void gvm_last_words(void)
{
    static const char words[] = "qemu: memory of the guest is lost, and QEMU "
                                "itself (not a vCPU) needs it: QEMU ends\n";

    if (write(STDERR_FILENO, words, sizeof(words) - 1) < 0) {
        return; /* it ends all the same */
    }
}

static void gvm_sigbus(int n, siginfo_t *info, void *context)
{
    CPUState *cpu = current_cpu;

    if (info->si_code == SI_TKILL && info->si_pid == getpid()) {
        if (gvm_may_hold(cpu) && cpu->stop && !bql_locked() &&
            gvm_is_at(&stall.place[cpu->cpu_index], context)) {
            gvm_hold(cpu);
        }
        return;
    }
    if (gvm_home_of(info->si_addr) == GVM_HOLDS) {
        if (gvm_may_hold(cpu)) {
            event_notifier_set(&stall.lost);
            gvm_hold(cpu);
            return;
        }
        gvm_last_words();
    }
    stall.before.sa_sigaction(n, info, context);
}

/* -- RCU ------------------------------------------------------------------- */

typedef struct GvmChange {
    struct rcu_head rcu;
} GvmChange;

static void gvm_change_over(GvmChange *change)
{
    qatomic_dec(&stall.changing);
    g_free(change);
}

/* A view has gone out of use; a held thread may have it, as others may. */
static void gvm_views_change(MemoryListener *listener)
{
    qatomic_inc(&stall.changing);
    call_rcu(g_new0(GvmChange, 1), gvm_change_over, rcu);
    gvm_events_plugged();
}

static MemoryListener gvm_listener = {
    .name = "gvm-stall",
    .commit = gvm_views_change,
};

static void gvm_reference(AddressSpace *as)
{
    g_ptr_array_add(stall.views, address_space_get_flatview(as));
}

static bool gvm_all_stopped(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (!cpu->stopped) {
            return false;
        }
    }
    return true;
}

/*
 * The guest has stopped, so there is nobody but held threads to change what
 * RCU protects in a CPU; and if no view has changed of late, they have those
 * of now.
 */
static void gvm_let_leave_rcu(void)
{
    CPUState *cpu;

    if ((stall.round & GVM_LEAVE) || qatomic_read(&stall.changing) ||
        !(stall.stopped || stall.reset || stall.still) || !gvm_all_stopped()) {
        return;
    }
    gvm_reference(&address_space_memory);
    gvm_reference(&address_space_io);
    CPU_FOREACH(cpu) {
        for (int i = 0; i < cpu->num_ases; i++) {
            gvm_reference(cpu_get_address_space(cpu, i));
        }
    }
    qatomic_set(&stall.round, stall.round | GVM_LEAVE);
    qemu_futex_wake(&stall.round, INT_MAX);
}

/* Held threads go on; first, those that have left RCU come back to it. */
static void gvm_go_on(void)
{
    qatomic_set(&stall.round, (stall.round & ~GVM_LEAVE) + GVM_GO_ON);
    smp_mb(); /* of gvm_leave_rcu() */
    qemu_futex_wake(&stall.round, INT_MAX);
    while (qatomic_read(&stall.away)) {
        qemu_event_reset(&stall.back);
        if (qatomic_read(&stall.away)) {
            qemu_event_wait(&stall.back);
        }
    }
    g_ptr_array_set_size(stall.views, 0);
}

/* -- the watch ------------------------------------------------------------- */

static void gvm_unblock_sigbus(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void gvm_take_sigbus(CPUState *cpu, run_on_cpu_data data)
{
    gvm_unblock_sigbus();
}

/*
 * QEMU's threads have SIGBUS blocked, but for KVM's vCPUs.  There is no word of
 * a new vCPU, so they are looked through whenever there is an occasion.
 */
static void gvm_make_ready(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (cpu->cpu_index < stall.cpus && !stall.ready[cpu->cpu_index]) {
            stall.ready[cpu->cpu_index] = 1;
            async_run_on_cpu(cpu, gvm_take_sigbus, RUN_ON_CPU_NULL);
        }
    }
}

/* A vCPU has met lost memory: it is held, and the guest does not go on. */
static void gvm_lost_page(EventNotifier *lost)
{
    event_notifier_test_and_clear(lost);
    stall.lost_memory = true;
    gvm_stall_watch();
    if (runstate_is_running()) {
        qemu_system_vmstop_request_prepare();
        qemu_system_vmstop_request(RUN_STATE_INTERNAL_ERROR);
    }
}

/*
 * Where its thread waits, for all CPUs of that thread: the handler looks at that
 * of the CPU that it executes.
 */
static bool gvm_find_wait(CPUState *cpu)
{
    bool waits = gvm_find_place(cpu->thread_id, &stall.place[cpu->cpu_index]);
    CPUState *other;

    CPU_FOREACH(other) {
        if (other != cpu && other->thread == cpu->thread &&
            other->cpu_index < stall.cpus) {
            gvm_set_place(&stall.place[other->cpu_index],
                          &stall.place[cpu->cpu_index]);
        }
    }
    return waits;
}

/* One CPU that does not stop although it is asked to. */
static void gvm_watch_cpu(CPUState *cpu, unsigned patience)
{
    CPUState *other;

    if (!gvm_is_held(cpu->cpu_index)) {
        if (stall.late[cpu->cpu_index] < patience) {
            stall.late[cpu->cpu_index]++;
        }
        if (stall.late[cpu->cpu_index] >= patience &&
            gvm_find_wait(cpu)) {
            pthread_kill(cpu->thread->thread, SIGBUS);
        }
        return;
    }
    /* with one thread for all of them, none of them runs */
    CPU_FOREACH(other) {
        if (other->thread == cpu->thread) {
            trace_gvm_stall_held(other->cpu_index);
            cpu_set_stalled(other);
        }
    }
}

static bool gvm_any_held(void)
{
    for (unsigned i = 0; i < stall.cpus; i++) {
        if (gvm_is_held(i)) {
            return true;
        }
    }
    return false;
}

/* All of them, once; true if one of them is still to stop. */
static bool gvm_watch_cpus(bool missing)
{
    bool late = false, missed = false;
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        if (cpu->cpu_index >= stall.cpus) {
            continue;
        }
        if (cpu->stop && !cpu->stopped) {
            gvm_watch_cpu(cpu, missing ? GVM_LATE_MISSING : GVM_LATE);
            late = true;
        } else {
            stall.late[cpu->cpu_index] = 0;
            missed |= gvm_is_held(cpu->cpu_index) && !cpu->stop;
        }
    }
    if (missed) {
        gvm_go_on(); /* held just when the guest was continued */
    }
    return late;
}

/* In the main loop: it comes round, so the guest need not stand still. */
static void gvm_came_round(void *opaque)
{
    CPUState *cpu;

    stall.asked = false;
    stall.stuck = 0;
    if (stall.still && runstate_is_running() && !stall.reset) {
        gvm_go_on();
        CPU_FOREACH(cpu) {
            cpu_resume(cpu);
        }
    }
    stall.still = false;
}

/* While a node is missing.  The main loop has not the BQL now. */
static void gvm_watch_main_loop(void)
{
    CPUState *cpu;

    if (!stall.asked) {
        stall.asked = true;
        aio_bh_schedule_oneshot(qemu_get_aio_context(), gvm_came_round, NULL);
    } else if (++stall.stuck == GVM_STUCK && runstate_is_running() &&
               !stall.reset) {
        stall.still = true;
        CPU_FOREACH(cpu) {
            cpu->stop = true;
            qemu_cpu_kick(cpu);
        }
    }
}

static void *gvm_watch(void *arg)
{
    for (;;) {
        bool missing, late, held;

        qemu_event_wait(&stall.wanted);
        g_usleep(GVM_WATCH_MS * 1000);
        bql_lock();
        gvm_make_ready();
        /* before it is looked at: what comes meanwhile is not to be lost */
        qemu_event_reset(&stall.wanted);
        missing = gvm_any_node_missing();
        if (missing || stall.still) {
            gvm_watch_main_loop();
        }
        late = gvm_watch_cpus(missing);
        held = gvm_any_held();
        if (held) {
            gvm_let_leave_rcu();
        }
        if (stall.reset && gvm_worst_awaited() == GVM_NODE_STATE_HERE) {
            qemu_system_reset_request(stall.reset);
            stall.reset = SHUTDOWN_CAUSE_NONE;
        }
        if (missing || late || stall.ends || held || stall.reset ||
            stall.still) {
            qemu_event_set(&stall.wanted);
        }
        bql_unlock();
    }
    return NULL;
}

/* Any thread; it neither blocks nor allocates.  By softmmu/cpus.c, too. */
void gvm_stall_watch(void)
{
    if (qatomic_load_acquire(&stall.started)) {
        qemu_event_set(&stall.wanted);
    }
}

/* -- reset ----------------------------------------------------------------- */

/*
 * All vCPUs stop.  @go_on: those that are held first go on to where they would
 * stop by themselves.  False if one of them is held then.
 */
static bool gvm_settle(bool go_on)
{
    CPUState *cpu;

    if (go_on && gvm_any_held()) {
        CPU_FOREACH(cpu) {
            if (cpu->cpu_index < stall.cpus && gvm_is_held(cpu->cpu_index)) {
                cpu->stop = true;
                cpu->stopped = false;
            }
        }
        gvm_go_on();
    }
    gvm_stall_watch();
    pause_all_vcpus();
    return !gvm_any_held();
}

/* No page is made up, and what the machine was loaded with is among them. */
static void gvm_cannot_reset(ShutdownCause cause)
{
    error_report("memory of this machine is lost, so it cannot be reset: "
                 "quit, and start it anew");
    stall.reset = SHUTDOWN_CAUSE_NONE;
    if (shutdown_caused_by_guest(cause) && runstate_is_running()) {
        qemu_system_vmstop_request_prepare();
        qemu_system_vmstop_request(RUN_STATE_INTERNAL_ERROR);
    }
}

/*
 * The main loop is about to reset the machine: @cause, or none if it is not to
 * do so now.  A vCPU that is held would go on in the middle of an instruction,
 * with the registers of a reset; and the main loop would wait for memory that
 * is away, to which a reset writes what the machine was loaded with.  So the
 * machine stands still until all of its memory can be had, and is reset then.
 */
ShutdownCause gvm_reset_when_possible(ShutdownCause cause)
{
    GvmNodeState worst;

    if (cause == SHUTDOWN_CAUSE_NONE || !stall.started) {
        return cause;
    }
    worst = gvm_worst_awaited();
    if (worst == GVM_NODE_STATE_LOST || stall.lost_memory) {
        gvm_cannot_reset(cause);
        return SHUTDOWN_CAUSE_NONE;
    }
    if (gvm_settle(worst == GVM_NODE_STATE_HERE) &&
        worst == GVM_NODE_STATE_HERE) {
        stall.reset = SHUTDOWN_CAUSE_NONE;
        return cause;
    }
    if (!stall.reset) {
        warn_report("memory of this machine is away: it is reset when its "
                    "memory node is back");
    }
    stall.reset = cause;
    gvm_stall_watch();
    return SHUTDOWN_CAUSE_NONE;
}

/* Quitting stops the vCPUs, and comes back to the main loop only then. */
static void gvm_ends(Notifier *notifier, void *data)
{
    stall.ends = true;
    gvm_stall_watch();
}

static Notifier gvm_shutdown_notifier = { .notify = gvm_ends };

static void gvm_run_state_changed(void *opaque, bool running, RunState state)
{
    stall.ends = false; /* they have stopped */
    stall.stopped = !running;
    if (running) {
        gvm_make_ready();
        gvm_go_on();
    }
}

void gvm_stall_init(void)
{
    struct sigaction action = { .sa_sigaction = gvm_sigbus,
                                .sa_flags = SA_SIGINFO };

    if (stall.held) {
        return;
    }
    stall.cpus = current_machine->smp.max_cpus;
    stall.held = g_new0(unsigned, stall.cpus);
    stall.late = g_new0(uint8_t, stall.cpus);
    stall.ready = g_new0(uint8_t, stall.cpus);
    stall.place = g_new0(GvmPlace, stall.cpus);
    stall.views = g_ptr_array_new_with_free_func(
        (GDestroyNotify)flatview_unref);
    qemu_event_init(&stall.wanted, false);
    qemu_event_init(&stall.back, false);
    event_notifier_init(&stall.lost, false);
    event_notifier_set_handler(&stall.lost, gvm_lost_page);
    qemu_add_vm_change_state_handler(gvm_run_state_changed, NULL);
    qemu_register_shutdown_notifier(&gvm_shutdown_notifier);
    memory_listener_register(&gvm_listener, &address_space_memory);
    sigaction(SIGBUS, &action, &stall.before);
    if (tcg_enabled()) {
        /* the main thread's last words; with KVM it reads SIGBUS by signalfd */
        gvm_unblock_sigbus();
    }
    qatomic_store_release(&stall.started, true);
    qemu_thread_create(&stall.thread, "gvm-watch", gvm_watch, NULL,
                       QEMU_THREAD_DETACHED);
}
