/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* gvm-memsrv: the memory node. */
#include <stdio.h>

#include "node.h"

int main(int argc, char **argv)
{
	struct settings settings;

	node_log_init();
	switch (settings_parse(argc, argv, &settings)) {
	case SETTINGS_HELP:
		settings_help(stdout);
		return NODE_OK;
	case SETTINGS_VERSION:
		printf("gvm-memsrv %s\n", gvm_version());
		return NODE_OK;
	case SETTINGS_WRONG:
		return NODE_USAGE;
	case SETTINGS_RUN:
		break;
	}
	if (gvm_options_check())
		return NODE_USAGE;
	return node_run(&settings);
}
