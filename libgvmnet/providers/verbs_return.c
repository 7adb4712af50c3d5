/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A device that goes away (it fails, is unplugged, reset, its driver is unloaded), and comes back.
 *
 *     there -- DEVICE_FATAL, DEVICE_REMOVAL, its file is no more --> gone: connections end
 *     gone  -- end of the round: all that is of it is given back, it is closed --> looked for
 *     looked for -- one of that name with an active port --> there: buffers are registered
 *                   anew, and ports listened at
 *
 * It is closed although its process goes on: drivers that cannot take a device from under a program
 * (soft-RoCE and soft-iWARP) wait for that. They also say nothing to who has it open, and only ids
 * of rdma_cm that are with a device hear of its removal. So the kernel's events of devices are
 * heard, where it gives them (not in each container), and its file looked for.
 *
 * Looked for: when the kernel says that a device has come, and with pauses that grow from 50 ms to
 * 2 s.
 */
#include "providers/verbs.h"

#include <errno.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define FIRST_MS 50u
#define MOST_MS  2000u
#define GROUP    1u /* the kernel's own, not udev's */

static void look_in(struct verbs *v, unsigned ms)
{
	const struct itimerspec when = { .it_value = { .tv_sec = ms / 1000,
						       .tv_nsec = (long)(ms % 1000) * 1000000l } };

	v->return_ms = ms;
	timerfd_settime(v->return_fd, 0, &when, NULL);
}

static void look_later(struct verbs *v)
{
	look_in(v, 2 * v->return_ms < MOST_MS ? 2 * v->return_ms : MOST_MS);
}

void verbs_look_soon(struct verbs *v)
{
	v->missing = 1;
	look_in(v, FIRST_MS);
}

/* ---- away ---------------------------------------------------------------------------------- */

/* librdmacm has the device open too, for the whole process, and closes one that is no more when it
 * compares its list with the kernel's, as it does when it is asked for all devices (which it
 * opens). Where the kernel's list is empty it does not: then it keeps the last one until there is
 * another.
 */
static void tell_manager(void)
{
	struct ibv_context **list = rdma_get_devices(NULL);

	if (list)
		rdma_free_devices(list);
}

void verbs_leave(struct verbs *v)
{
	v->missing = 1;
	verbs_take_inbox(v); /* which are refused */
	verbs_refuse_asking(v, NULL);
	verbs_ports_leave(v);
	gvm_rma_lost(&v->rma);
	verbs_unmake(v);
	tell_manager();
	look_in(v, FIRST_MS);
}

/* ---- back ---------------------------------------------------------------------------------- */

static int come_back(struct verbs *v)
{
	int err = verbs_device_reopen(v);

	if (!err)
		err = verbs_make(v);
	if (!err)
		err = gvm_rma_back(&v->rma);
	if (err) {
		verbs_unmake(v);
		return err;
	}
	v->gone = 0;
	gvm_log(GVM_LOG_INFO, "the RDMA device %s is there again", v->device);
	return 0;
}

static void look(struct verbs *v)
{
	int err = v->gone ? come_back(v) : 0;

	if (!err)
		err = verbs_ports_return(v);
	if (err)
		look_later(v);
	else
		v->missing = 0;
}

/* ---- what the kernel says ------------------------------------------------------------------ */

/* Something has come or gone that has to do with RDMA. */
static int heard(struct verbs *v)
{
	char text[4096];
	ssize_t n;
	int any = 0;

	/* ENOBUFS: some were lost */
	while ((n = recv(v->uevent_fd, text, sizeof(text), 0)) > 0 || (n < 0 && errno == ENOBUFS))
		any |= n < 0 || memmem(text, (size_t)n, "infiniband", 10) != NULL;
	return any;
}

static int is_there(const struct verbs *v)
{
	const char *path = v->context->device->dev_path;

	return !*path || !access(path, F_OK);
}

void verbs_look(struct verbs *v)
{
	uint64_t times;
	int due = read(v->return_fd, &times, sizeof(times)) == (ssize_t)sizeof(times);

	if (v->uevent_fd >= 0 && heard(v)) {
		if (v->context && !is_there(v))
			v->lost = 1;
		else if (v->missing)
			look_in(v, FIRST_MS);
	}
	if (due && v->missing && !v->lost)
		look(v);
}

static int hear_uevents(struct verbs *v)
{
	struct sockaddr_nl at = { .nl_family = AF_NETLINK, .nl_groups = GROUP };
	int fd =
	    socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);

	if (fd < 0)
		return 0;
	if (bind(fd, (struct sockaddr *)&at, sizeof(at))) {
		close(fd);
		return 0;
	}
	v->uevent_fd = fd;
	return verbs_watch(v, &v->uevent_watch, fd);
}

int verbs_return_open(struct verbs *v)
{
	int err;

	v->return_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (v->return_fd < 0)
		return -errno;
	err = verbs_watch(v, &v->return_watch, v->return_fd);
	return err ? err : hear_uevents(v);
}

void verbs_return_close(struct verbs *v)
{
	verbs_unwatch(v, &v->return_watch);
	verbs_unwatch(v, &v->uevent_watch);
	if (v->return_fd >= 0)
		close(v->return_fd);
	if (v->uevent_fd >= 0)
		close(v->uevent_fd);
	v->return_fd = v->uevent_fd = -1;
}
