/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Those whose connection was accepted and who are not through core's handshake. That travels in
 * cells, so each must have a queue pair and receive buffers before; they have proven the cluster's
 * key (verbs_key.c), but for a replay of that, and where there is none anybody who reaches the port
 * comes here. So there are few at a time (VERBS_UNPROVEN), and each has
 * its time (GVM_HANDSHAKE_MS): from when it is accepted until core says that the key is proven,
 * also while the other side has not said that the connection is established, and while one that
 * core has refused lingers.
 *
 * Who asks while there are so many waits, and costs no more than its rdma_cm_id. Many members that
 * ask at once are let in as those before them have proven themselves. Where that does not happen,
 * the oldest gives its place up when it has had VERBS_GRACE_MS: a member needs a few times there
 * and back, a stranger never gets there. Of too many that wait the oldest is refused, too.
 */
#include "providers/verbs.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define GRACE_NS (VERBS_GRACE_MS * 1000000ull)

static uint64_t now(const struct verbs *v)
{
	return v->rma.up->now(v->rma.host);
}

/* ---- the timer ----------------------------------------------------------------------------- */

static void set_timer(struct verbs *v, uint64_t at)
{
	const struct itimerspec when = { .it_value = { .tv_sec = (time_t)(at / 1000000000u),
						       .tv_nsec = (long)(at % 1000000000u) } };

	v->prove_at = at;
	timerfd_settime(v->prove_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* It may fire when there is nothing to do, as the oldest has proven itself meanwhile; never late.
 */
static void look_in_time(struct verbs *v)
{
	uint64_t at;

	if (!v->unproven)
		return;
	at = v->unproven->asked + (v->asking && GRACE_NS < v->prove_ns ? GRACE_NS : v->prove_ns);
	if (!v->prove_at || at < v->prove_at)
		set_timer(v, at);
}

int verbs_prove_open(struct verbs *v)
{
	v->asking_end = &v->asking;
	v->prove_ns = gvm_option_number("GVM_HANDSHAKE_MS") * 1000000;
	v->prove_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	return v->prove_fd < 0 ? -errno : verbs_watch(v, &v->prove_watch, v->prove_fd);
}

void verbs_prove_close(struct verbs *v)
{
	verbs_unwatch(v, &v->prove_watch);
	if (v->prove_fd >= 0)
		close(v->prove_fd);
	v->prove_fd = -1;
}

/* ---- the unproven -------------------------------------------------------------------------- */

void verbs_unproven(struct verbs_conn *conn)
{
	struct verbs *v = conn->v;

	conn->unproven = 1;
	conn->asked = now(v);
	conn->unproven_next = NULL;
	conn->unproven_prev = v->unproven_end;
	if (v->unproven_end)
		v->unproven_end->unproven_next = conn;
	else
		v->unproven = conn;
	v->unproven_end = conn;
	v->unproven_count++;
	look_in_time(v);
}

void verbs_proven(struct verbs_conn *conn)
{
	struct verbs *v = conn->v;

	if (!conn->unproven)
		return;
	conn->unproven = 0;
	v->unproven_count--;
	if (conn->unproven_prev)
		conn->unproven_prev->unproven_next = conn->unproven_next;
	else
		v->unproven = conn->unproven_next;
	if (conn->unproven_next)
		conn->unproven_next->unproven_prev = conn->unproven_prev;
	else
		v->unproven_end = conn->unproven_prev;
}

static int has_had(const struct verbs *v, uint64_t ns)
{
	return v->unproven && now(v) - v->unproven->asked >= ns;
}

static void end_oldest(struct verbs *v, const char *reason)
{
	struct verbs_conn *conn = v->unproven;

	verbs_proven(conn); /* whatever becomes of it: this one is done with */
	verbs_conn_fail(conn, -ETIMEDOUT, reason);
}

void verbs_prove_late(struct verbs *v)
{
	uint64_t times;

	if (read(v->prove_fd, &times, sizeof(times)) < 0)
		return;
	v->prove_at = 0;
	while (has_had(v, v->prove_ns))
		end_oldest(v, "it did not prove the cluster's key in time");
	look_in_time(v);
}

/* ---- those who wait ------------------------------------------------------------------------ */

static struct verbs_request *take_asking(struct verbs *v, struct verbs_request **at)
{
	struct verbs_request *r = *at;

	*at = r->next;
	if (!*at)
		v->asking_end = at;
	v->asking_count--;
	return r;
}

static void refuse_asking(struct verbs *v, struct verbs_request **at)
{
	struct verbs_request *r = take_asking(v, at);

	verbs_refuse(r->id, NULL, 0);
	free(r);
}

void verbs_refuse_asking(struct verbs *v, const struct gvm_listener *listener)
{
	struct verbs_request **at = &v->asking;

	while (*at)
		if (!listener || (*at)->listener == listener)
			refuse_asking(v, at);
		else
			at = &(*at)->next;
}

static void wait_for_place(struct verbs *v, const struct verbs_request *request)
{
	struct verbs_request *r = malloc(sizeof(*r));

	if (!r) {
		verbs_refuse(request->id, NULL, 0);
		return;
	}
	if (v->asking_count == VERBS_ASKING)
		refuse_asking(v, &v->asking);
	*r = *request;
	r->next = NULL;
	*v->asking_end = r;
	v->asking_end = &r->next;
	v->asking_count++;
	look_in_time(v);
}

/* There is a place, or one that may be taken. */
static int has_place(const struct verbs *v)
{
	return v->unproven_count < VERBS_UNPROVEN || has_had(v, GRACE_NS);
}

int verbs_may_admit(struct verbs *v)
{
	return v->asking && has_place(v);
}

static void make_place(struct verbs *v)
{
	static struct gvm_log_limit many;

	if (v->unproven_count < VERBS_UNPROVEN)
		return;
	gvm_log_limited(&many, GVM_LOG_WARN,
			"%s: too many connections are in their handshake; the oldest are "
			"ended",
			v->device);
	end_oldest(v, "too many connections are in their handshake");
}

void verbs_admit(struct verbs *v)
{
	while (verbs_may_admit(v)) {
		struct verbs_request *r = take_asking(v, &v->asking);

		make_place(v);
		verbs_answer(v, r);
		free(r);
	}
	if (v->asking)
		look_in_time(v);
}

void verbs_consider(struct verbs *v, const struct verbs_request *request)
{
	if (v->asking || !has_place(v)) {
		wait_for_place(v, request);
		return;
	}
	make_place(v);
	verbs_answer(v, request);
}
