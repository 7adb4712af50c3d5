/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which node of the cluster file this process is, where --id does not say so. Called once, at the
 * start. */
#ifndef MEMSRV_IDENTITY_H
#define MEMSRV_IDENTITY_H

#include <gvmnet/cluster.h>

/* Is it an address of this machine, or a name of one? */
int identity_is_here(const char *host);
/* The one memory node of the file that is on this machine. 0; or -EINVAL, with a line that says
 * what to do: there is none, or more than one. path: the file's name, for that line. */
int identity_find(const struct gvm_cluster *cluster, const char *path, unsigned *id);

#endif
