/*
 * Whether a thread waits in a page fault, or for one that does, and where.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * /proc/self/task/TID/syscall says "-1 SP PC" of a thread that is blocked, but
 * not in a system call, and "NUMBER six arguments SP PC" of one that is in one
 * (proc(5)).  It may have gone on by the time that a signal comes to it; the
 * handler of the signal looks whether it is still at that place, or has come
 * there again.  The one call that counts is that which waits for a lock, as
 * another thread that waits in a fault may have it.
 *
 * A lock's owner wakes one of those that wait, who is then the one to take it.
 * If the signal comes to a thread at that moment, the call ends with what it
 * was woken for, and not with EINTR; such a thread must go on, or the lock is
 * free and all others sleep.
 */
#ifndef GVM_WAITS_H
#define GVM_WAITS_H

#include <sys/syscall.h>
#include <ucontext.h>

enum {
    GVM_NOWHERE,                /* it was not found to wait */
    GVM_ANYWHERE,               /* the kernel does not tell where */
    GVM_IN_FAULT,
    GVM_IN_FUTEX,
};

typedef struct GvmPlace {
    int kind;                   /* changes last; the others while it is 0 */
    unsigned long sp, pc;
} GvmPlace;

static int gvm_parse_place(const char *text, unsigned long *sp,
                           unsigned long *pc)
{
    if (sscanf(text, "-1 %lx %lx", sp, pc) == 2) {
        return GVM_IN_FAULT;
    }
    if (atol(text) == SYS_futex &&
        sscanf(text, "%*u %*x %*x %*x %*x %*x %*x %lx %lx", sp, pc) == 2) {
        return GVM_IN_FUTEX;
    }
    return GVM_NOWHERE;
}

/* A handler may be reading it. */
static void gvm_set_place(GvmPlace *place, const GvmPlace *to)
{
    qatomic_set(&place->kind, GVM_NOWHERE);
    smp_wmb();
    qatomic_set(&place->sp, to->sp);
    qatomic_set(&place->pc, to->pc);
    qatomic_store_release(&place->kind, to->kind);
}

/* True if the thread waits there, or if the kernel does not tell. */
static bool gvm_find_place(int tid, GvmPlace *place)
{
    GvmPlace found = { .kind = GVM_ANYWHERE };
    char path[64], text[256];
    ssize_t len;
    int fd;

    snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        len = read(fd, text, sizeof(text) - 1);
        close(fd);
        text[MAX(len, 0)] = '\0';
        found.kind = gvm_parse_place(text, &found.sp, &found.pc);
    }
    gvm_set_place(place, &found);
    return found.kind != GVM_NOWHERE;
}

/*
 * In the handler of a signal, which has no SA_RESTART, so that a call which it
 * has interrupted ends with EINTR: whether the thread may be held there.
 */
static bool gvm_is_at(const GvmPlace *place, const void *context)
{
    int kind = qatomic_load_acquire(&place->kind);
#ifdef __x86_64__
    const greg_t *at = ((const ucontext_t *)context)->uc_mcontext.gregs;
    unsigned long sp = qatomic_read(&place->sp);
    unsigned long pc = qatomic_read(&place->pc);

    smp_rmb();
    if (kind == GVM_NOWHERE || qatomic_read(&place->kind) != kind) {
        return false;
    }
    return kind == GVM_ANYWHERE ||
           ((unsigned long)at[REG_RSP] == sp &&
            (unsigned long)at[REG_RIP] == pc &&
            (kind != GVM_IN_FUTEX || at[REG_RAX] == -EINTR));
#else
    return kind != GVM_NOWHERE && context; /* elsewhere: as if not known */
#endif
}

#endif
