/*
 * Which memory is whose, for a signal handler: it may come at any moment, in any
 * thread, and may not lock, while backends come and go.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Entries are added by whoever holds the BQL. They are never freed, but used
 * again, so that a reader may stand on any of them for as long as it likes. An
 * entry's version is odd while it is being changed; a reader looks again if it
 * was, or has changed while it was read. The one who changes an entry touches no
 * guest memory meanwhile, so a reader is never in the thread that it waits for.
 */
#ifndef GVM_HOMES_H
#define GVM_HOMES_H

typedef struct GvmHome GvmHome;
struct GvmHome {
    GvmHome *next;              /* set before the entry can be seen, then constant */
    unsigned version;
    uintptr_t base, size;       /* size 0: nobody's */
    int owner;                  /* what gvm_home_of() says of it */
};

static GvmHome *gvm_homes;

static void gvm_home_set(GvmHome *home, uintptr_t base, uintptr_t size,
                         int owner)
{
    unsigned version = home->version;

    qatomic_set(&home->version, version + 1);
    smp_wmb();
    qatomic_set(&home->base, base);
    qatomic_set(&home->size, size);
    qatomic_set(&home->owner, owner);
    qatomic_store_release(&home->version, version + 2);
}

static void gvm_home_add(const void *base, uintptr_t size, int owner)
{
    GvmHome *home = gvm_homes;

    while (home && home->size) {
        home = home->next;
    }
    if (!home) {
        home = g_new0(GvmHome, 1);
        home->next = gvm_homes;
        qatomic_store_release(&gvm_homes, home);
    }
    gvm_home_set(home, (uintptr_t)base, size, owner);
}

static void gvm_home_remove(const void *base)
{
    for (GvmHome *home = gvm_homes; home; home = home->next) {
        if (home->size && home->base == (uintptr_t)base) {
            gvm_home_set(home, 0, 0, -1);
        }
    }
}

/* The owner of the memory at @addr; -1 if it is nobody's. */
static int gvm_home_of(const void *addr)
{
    GvmHome *home = qatomic_load_acquire(&gvm_homes);
    uintptr_t base, size;
    unsigned version;
    int owner;

    for (; home; home = home->next) {
        do {
            version = qatomic_load_acquire(&home->version);
            base = qatomic_read(&home->base);
            size = qatomic_read(&home->size);
            owner = qatomic_read(&home->owner);
            smp_rmb();
        } while (version % 2 || qatomic_read(&home->version) != version);
        if ((uintptr_t)addr - base < size) {
            return owner;
        }
    }
    return -1;
}

#endif
