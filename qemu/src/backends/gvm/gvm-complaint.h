/*
 * What the library has complained of while a thread asks it for something.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The library has its reasons in its log, which is on standard error; who asks
 * by the monitor does not see that.  Other backends may complain meanwhile, by
 * threads of their own.  So a line counts if the thread that asks has written
 * it, or if it is of the region that is asked for, whose name no other backend
 * here has.
 */
#ifndef GVM_COMPLAINT_H
#define GVM_COMPLAINT_H

#define GVM_COMPLAINT_MAX 512

static struct {
    QemuSpin lock;
    int thread;                 /* that asks; 0: none does */
    char region[80];            /* as its lines begin; "": not to be told */
    char line[GVM_COMPLAINT_MAX]; /* "": none yet */
} gvm_complaint;

/* This thread asks from now on; for @region, or for none that can be told. */
static void gvm_complaint_expect(const char *region)
{
    qemu_spin_lock(&gvm_complaint.lock);
    gvm_complaint.thread = qemu_get_thread_id();
    gvm_complaint.line[0] = gvm_complaint.region[0] = '\0';
    if (region) {
        snprintf(gvm_complaint.region, sizeof(gvm_complaint.region),
                 "region %s: ", region);
    }
    qemu_spin_unlock(&gvm_complaint.lock);
}

static void gvm_complaint_over(void)
{
    qemu_spin_lock(&gvm_complaint.lock);
    gvm_complaint.thread = 0;
    qemu_spin_unlock(&gvm_complaint.lock);
}

/* Of a line of the region, what comes after its name; else NULL. */
static const char *gvm_complaint_of_region(const char *line)
{
    const char *at = line;

    strstart(line, "shared ", &at);
    return gvm_complaint.region[0] && strstart(at, gvm_complaint.region, &at)
               ? at : NULL;
}

/* By any thread; it allocates nothing. */
static void gvm_complaint_note(const char *line)
{
    const char *text;

    qemu_spin_lock(&gvm_complaint.lock);
    text = gvm_complaint_of_region(line);
    if (!text && gvm_complaint.thread == qemu_get_thread_id()) {
        text = line;
    }
    if (text && gvm_complaint.thread) {
        pstrcpy(gvm_complaint.line, sizeof(gvm_complaint.line), text);
    }
    qemu_spin_unlock(&gvm_complaint.lock);
}

/* The last one since it was asked; "": there was none. */
static void gvm_complaint_get(char line[GVM_COMPLAINT_MAX])
{
    qemu_spin_lock(&gvm_complaint.lock);
    pstrcpy(line, GVM_COMPLAINT_MAX, gvm_complaint.line);
    qemu_spin_unlock(&gvm_complaint.lock);
}

#endif
