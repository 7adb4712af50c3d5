/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * rdma_connect() where it waits. The kernel's iWARP in software (siw, 6.1) makes its TCP connection
 * in it, in the caller's thread (kernel_bindconnect()): a second more for each packet that is lost,
 * and two minutes where nobody answers. So there each has a thread of its own, and the worker
 * serves others meanwhile.
 *
 * The thread works with the id and with what is in the dial, and with nothing else of the
 * connection; the id and the queue pair stay until it has ended. That it went well the connection
 * manager says by an event, as ever; a failure, of which there is no event, it leaves in the dial,
 * and wakes the worker up. Whoever is to destroy the id ends the thread first: it is cancelled, in
 * the one call in which it can wait, and the kernel lets go of the connection.
 *
 * All else is the worker's.
 */
#include "providers/verbs.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#define STACK 65536u

struct verbs_dial {
	struct verbs *v;
	struct rdma_cm_id *id;
	struct rdma_conn_param param;
	struct verbs_hello hello;
	pthread_t thread;
	int err; /* atomic; 0: it is under way, or went well */
};

static void *dial_main(void *arg)
{
	struct verbs_dial *dial = arg;
	struct verbs *v = dial->v;
	int err = rdma_connect(dial->id, &dial->param) ? -errno : 0, state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	if (!err)
		return NULL;
	__atomic_store_n(&dial->err, err, __ATOMIC_RELEASE);
	__atomic_store_n(&v->dials_due, 1, __ATOMIC_RELEASE);
	v->rma.up->wake(v->rma.host);
	return NULL;
}

static int start_thread(struct verbs_dial *dial)
{
	sigset_t all, before;
	pthread_attr_t attr;
	int err;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	/* the program's signals are not for this thread */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&dial->thread, &attr, dial_main, dial);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return -err;
}

int verbs_dial(struct verbs_conn *conn, const struct rdma_conn_param *param,
	       const struct verbs_hello *hello)
{
	struct verbs_dial *dial = calloc(1, sizeof(*dial));
	int err;

	if (!dial)
		return -ENOMEM;
	dial->v = conn->v;
	dial->id = conn->id;
	dial->hello = *hello;
	dial->param = *param;
	dial->param.private_data = &dial->hello;
	err = start_thread(dial);
	if (err)
		free(dial);
	else
		conn->dial = dial;
	return err;
}

void verbs_dial_end(struct verbs_conn *conn)
{
	if (!conn->dial)
		return;
	pthread_cancel(conn->dial->thread);
	pthread_join(conn->dial->thread, NULL);
	free(conn->dial);
	conn->dial = NULL;
}

struct verbs_conn *verbs_dial_failed(struct verbs *v, int *err)
{
	struct verbs_conn *conn;

	/* before looking: who fails after that says so again */
	__atomic_exchange_n(&v->dials_due, 0, __ATOMIC_ACQ_REL);
	for (conn = v->conns; conn; conn = conn->next) {
		*err = conn->dial ? __atomic_load_n(&conn->dial->err, __ATOMIC_ACQUIRE) : 0;
		if (*err)
			break;
	}
	return conn;
}
