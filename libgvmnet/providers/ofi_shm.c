/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What libfabric's shm provider needs in addition: it lets an endpoint of this process write to
 * another one of this process without a mapping of its own, and does not notice that the other one
 * has been closed (seen in 1.17). So an endpoint that others of this process have the address of is
 * closed when none has any more. Between processes there is no such thing: what is mapped stays.
 *
 * Threads: any; the lock guards the list.
 */
#include "providers/ofi.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct ofi_shm {
	struct ofi_shm *next;
	unsigned users; /* addresses in other endpoints' tables */
	int ended;
	struct fid *fids[5]; /* to be closed with the last user, in this order */
	uint32_t name_len;
	uint8_t name[240];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ofi_shm *all;

int ofi_shm_add(struct ofi_port *port)
{
	struct ofi_shm *shm;

	if (!ofi_is_shm(port->prov))
		return 0;
	shm = calloc(1, sizeof(*shm));
	if (!shm)
		return -ENOMEM;
	shm->name_len = port->name_len;
	memcpy(shm->name, port->name, port->name_len);
	port->shm = shm;
	pthread_mutex_lock(&lock);
	shm->next = all;
	all = shm;
	pthread_mutex_unlock(&lock);
	return 0;
}

struct ofi_shm *ofi_shm_use(const struct ofi_prov *prov, const uint8_t *name, uint32_t len)
{
	struct ofi_shm *shm;

	if (!ofi_is_shm(prov))
		return NULL;
	pthread_mutex_lock(&lock);
	for (shm = all; shm; shm = shm->next)
		if (!shm->ended && shm->name_len == len && memcmp(shm->name, name, len) == 0)
			break;
	if (shm)
		shm->users++;
	pthread_mutex_unlock(&lock);
	return shm;
}

/*
 * What is longer than inject_size is not put into the other side's region: the other side fetches
 * it from this process, and says so in this process's region. For both libfabric looks up the
 * region that was mapped for the sender's address, and does not notice that it has been unmapped,
 * by fi_av_remove(), since the message was sent: it reads where there is nothing any more (1.17). A
 * process that was stopped sends such messages when it goes on, to one that has given it up. And it
 * fetches by the sender's process id, which may be another's by now.
 */
size_t ofi_shm_cell(const struct fi_info *info)
{
	size_t most = info->tx_attr->inject_size;

	return most > 256 && most < GVM_RMA_CELL ? most : GVM_RMA_CELL;
}

int ofi_shm_exists(const char *name)
{
	char path[300];
	struct stat st;

	snprintf(path, sizeof(path), "/dev/shm/%s", name);
	return lstat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid();
}

/* Out of the list, with the lock held. */
static void unlink_shm(struct ofi_shm *shm)
{
	struct ofi_shm **at = &all;

	while (*at != shm)
		at = &(*at)->next;
	*at = shm->next;
}

void ofi_shm_unuse(struct ofi_shm *shm)
{
	int last;

	pthread_mutex_lock(&lock);
	last = --shm->users == 0 && shm->ended;
	if (last)
		unlink_shm(shm);
	pthread_mutex_unlock(&lock);
	if (!last)
		return;
	for (size_t i = 0; i < sizeof(shm->fids) / sizeof(shm->fids[0]); i++)
		fi_close(shm->fids[i]);
	free(shm);
}

int ofi_shm_end(struct ofi_port *port)
{
	struct ofi_prov *prov = port->prov;
	struct ofi_shm *shm = port->shm;
	int used;

	if (!shm)
		return 0;
	port->shm = NULL;
	pthread_mutex_lock(&lock);
	used = shm->users > 0;
	shm->ended = 1;
	shm->fids[0] = &port->ep->fid;
	shm->fids[1] = &port->av->fid;
	shm->fids[2] = &prov->cq->fid;
	shm->fids[3] = &prov->domain->fid;
	shm->fids[4] = &prov->fabric->fid;
	if (!used)
		unlink_shm(shm);
	pthread_mutex_unlock(&lock);
	if (!used) {
		free(shm);
		return 0;
	}
	port->ep = NULL;
	port->av = NULL;
	prov->cq = NULL;
	prov->domain = NULL;
	prov->fabric = NULL;
	return 1;
}
