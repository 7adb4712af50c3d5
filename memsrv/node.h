/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One life of a memory node: everything is opened in order, runs until a signal, and is closed. */
#ifndef MEMSRV_NODE_H
#define MEMSRV_NODE_H

#include "settings.h"

/* Exit statuses; part of the interface, see --help. */
enum node_exit {
	NODE_OK = 0,
	NODE_FAILED = 1,
	NODE_USAGE = 2,
	NODE_KEY = 3,
	NODE_ADDRESS = 4,
	NODE_IMAGE = 5,
	NODE_TORN = 6, /* a part of the image could not be had while running */
};

/* Call it from the first thread, before there are others. */
enum node_exit node_run(struct settings *settings);
/* Send the log where the operator looks for it: standard error, or the journal in its format. */
void node_log_init(void);

#endif
