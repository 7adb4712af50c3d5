/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The loop provider's listeners, and how connections find them. */
#include <errno.h>
#include <stdlib.h>

#include "providers/loop.h"

static int port_taken(struct gvm_prov *prov, unsigned port)
{
	/* Workers may share a port, one listener each. */
	for (struct gvm_listener *l = gvm_loop.listeners; l; l = l->next)
		if (l->port == port && (!prov || l->prov == prov))
			return 1;
	return 0;
}

int gvm_loop_listen(struct gvm_prov *prov, const char *host, unsigned port,
		    struct gvm_listener **listener, unsigned *bound_port)
{
	struct gvm_listener *l = calloc(1, sizeof(*l));
	int err = 0;

	if (!l)
		return -ENOMEM;
	pthread_mutex_lock(&gvm_loop.lock);
	if (!port)
		while (port_taken(NULL, port = gvm_loop.next_port))
			gvm_loop.next_port =
			    gvm_loop.next_port < 65535 ? gvm_loop.next_port + 1 : 49152;
	if (port_taken(prov, port))
		err = -EADDRINUSE;
	l->prov = prov;
	l->port = port;
	if (!err) {
		l->next = gvm_loop.listeners;
		gvm_loop.listeners = l;
	}
	pthread_mutex_unlock(&gvm_loop.lock);
	if (err) {
		free(l);
		return err;
	}
	*listener = l;
	if (bound_port)
		*bound_port = port;
	return 0;
}

void gvm_loop_unlisten(struct gvm_listener *l)
{
	struct gvm_listener **at = &gvm_loop.listeners;

	pthread_mutex_lock(&gvm_loop.lock);
	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	pthread_mutex_unlock(&gvm_loop.lock);
	free(l);
}

/* One of the port's listeners, in turns. */
static struct gvm_listener *find_listener(unsigned port)
{
	struct gvm_listener *l;
	unsigned n = 0, turn;

	for (l = gvm_loop.listeners; l; l = l->next)
		n += l->port == port;
	turn = n ? gvm_loop.next_turn++ % n : 0;
	for (l = gvm_loop.listeners; l; l = l->next)
		if (l->port == port && !turn--)
			break;
	return l;
}

int gvm_loop_listens(const struct gvm_listener *listener)
{
	const struct gvm_listener *l;

	for (l = gvm_loop.listeners; l && l != listener; l = l->next)
		;
	return l != NULL;
}

/* Ask the listener, or tell ourselves that there is none. */
static int ask(struct link *link, unsigned port)
{
	struct gvm_listener *l =
	    gvm_loop_happens(gvm_loop.faults.refuse) ? NULL : find_listener(port);
	struct frame *f = gvm_loop_frame_new(link, l ? 1 : 0, l ? F_CONNECT : F_OPEN, 0);

	if (!f)
		return -ENOMEM;
	f->listener = l;
	f->status = l ? 0 : -ECONNREFUSED;
	gvm_loop_frame_post(l ? l->prov : link->prov[0], f);
	return 0;
}

int gvm_loop_connect(struct gvm_prov *prov, const char *host, unsigned port, void *user,
		     struct gvm_ep **out)
{
	struct link *link = calloc(1, sizeof(*link));
	struct loop_ep *ep;
	int err = -ENOMEM;

	if (!link)
		return -ENOMEM;
	link->refs = 1;
	link->prov[0] = prov;
	ep = gvm_loop_ep_new(prov, link, 0, user);
	if (!ep)
		goto free_link;
	snprintf(ep->ep.name, sizeof(ep->ep.name), "loop:%u", port);
	pthread_mutex_lock(&gvm_loop.lock);
	err = ask(link, port);
	pthread_mutex_unlock(&gvm_loop.lock);
	if (err)
		goto free_ep;
	*out = &ep->ep;
	return 0;

free_ep:
	free(ep);
free_link:
	free(link);
	return err;
}
