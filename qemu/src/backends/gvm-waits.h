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
 */
#ifndef GVM_WAITS_H
#define GVM_WAITS_H

#include <sys/syscall.h>
#include <ucontext.h>

typedef struct GvmPlace {
    unsigned long sp, pc;       /* 0: not known, anywhere will do */
} GvmPlace;

static bool gvm_parse_place(const char *text, unsigned long *sp,
                            unsigned long *pc)
{
    return sscanf(text, "-1 %lx %lx", sp, pc) == 2 ||
           (atol(text) == SYS_futex &&
            sscanf(text, "%*u %*x %*x %*x %*x %*x %*x %lx %lx", sp, pc) == 2);
}

/* True if the thread waits there, or if the kernel does not tell. */
static bool gvm_find_place(int tid, GvmPlace *place)
{
    char path[64], text[256];
    unsigned long sp = 0, pc = 0;
    ssize_t len;
    int fd;

    snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        len = read(fd, text, sizeof(text) - 1);
        close(fd);
        text[MAX(len, 0)] = '\0';
        if (!gvm_parse_place(text, &sp, &pc)) {
            return false;
        }
    }
    qatomic_set(&place->sp, sp);
    qatomic_set(&place->pc, pc);
    return true;
}

/* In the handler of a signal. */
static bool gvm_is_at(const GvmPlace *place, const void *context)
{
    unsigned long sp = qatomic_read(&place->sp);
    unsigned long pc = qatomic_read(&place->pc);

#ifdef __x86_64__
    const ucontext_t *at = context;

    return !pc || ((unsigned long)at->uc_mcontext.gregs[REG_RSP] == sp &&
                   (unsigned long)at->uc_mcontext.gregs[REG_RIP] == pc);
#else
    return sp || pc || context; /* other machines: as if it were not known */
#endif
}

#endif
