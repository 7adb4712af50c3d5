/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The loop provider's links and the frames on them, and the faults that befall them. All of it
 * under the lock, but for gvm_loop_set_faults.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "providers/loop.h"

struct gvm_loop_shared gvm_loop = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.chance = 1,
	.next_port = 49152,
};

/* ---- faults -------------------------------------------------------------------------------- */

/* splitmix64 */
uint64_t gvm_loop_draw(void)
{
	uint64_t z = (gvm_loop.chance += 0x9E3779B97F4A7C15ull);

	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
	return z ^ (z >> 31);
}

void gvm_loop_set_faults(const struct gvm_loop_faults *f)
{
	pthread_mutex_lock(&gvm_loop.lock);
	gvm_loop.faults = *f;
	gvm_loop.chance = f->seed;
	for (struct gvm_prov *p = gvm_loop.provs; p; p = p->next)
		gvm_loop_wake(p);
	pthread_mutex_unlock(&gvm_loop.lock);
}

/* ---- links and frames ---------------------------------------------------------------------- */

void gvm_loop_wake(struct gvm_prov *prov)
{
	const uint64_t one = 1;

	while (write(prov->wake.fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

struct frame *gvm_loop_frame_new(struct link *link, unsigned to, enum frame_kind kind,
				 uint32_t bytes)
{
	struct frame *f = malloc(sizeof(*f) + bytes);

	if (!f)
		return NULL;
	memset(f, 0, sizeof(*f));
	f->link = link;
	f->to = (uint8_t)to;
	f->kind = (uint8_t)kind;
	link->refs++;
	return f;
}

void gvm_loop_tell(struct link *link, unsigned to, enum frame_kind kind, int status)
{
	struct frame *f;

	if (!link->prov[to])
		return;
	f = gvm_loop_frame_new(link, to, kind, 0);
	if (!f)
		return;
	f->status = status;
	gvm_loop_frame_post(link->prov[to], f);
}

void gvm_loop_break(struct link *link)
{
	if (link->broken)
		return;
	link->broken = 1;
	gvm_loop_tell(link, 0, F_BREAK, 0);
	gvm_loop_tell(link, 1, F_BREAK, 0);
}
