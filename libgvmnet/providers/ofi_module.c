/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The ofi provider's table, and the door of its module. */
#include "providers/module.h"
#include "providers/module_host.h"
#include "providers/ofi.h"

#include <stdio.h>
#include <string.h>

static int open_prov(struct gvm_host *host, const struct gvm_host_ops *up, const char *args,
		     struct gvm_prov **prov);

static const struct gvm_provider_ops ops = {
	.name = "ofi", .what = "libfabric", .probe = ofi_probe, .open = open_prov, GVM_RMA_OPS
};

static int open_prov(struct gvm_host *host, const struct gvm_host_ops *up, const char *args,
		     struct gvm_prov **prov)
{
	return gvm_rma_open(&ofi_fabric, &ops, host, up, args, prov);
}

/* Each provider once, with what it reaches the network by. */
static void describe(void (*line)(void *arg, unsigned depth, const char *text), void *arg)
{
	struct fi_info *hints = ofi_hints(NULL), *list = NULL;
	const char *last = "";
	char text[160];

	if (!hints || fi_getinfo(OFI_VERSION, NULL, NULL, 0, hints, &list))
		list = NULL;
	for (const struct fi_info *i = list; i; i = i->next) {
		const char *name = i->fabric_attr->prov_name;

		if (strcmp(name, last) == 0)
			continue;
		last = name;
		snprintf(text, sizeof(text), "%.60s (%.60s)", name, i->domain_attr->name);
		line(arg, 0, text);
	}
	if (list)
		fi_freeinfo(list);
	if (hints)
		fi_freeinfo(hints);
}

static const struct gvm_module module = { .abi = GVM_MODULE_ABI,
					  .ops = &ops,
					  .describe = describe };

const struct gvm_module *gvm_provider_module(const struct gvm_module_host *host)
{
	return gvm_module_adopt(host) ? NULL : &module;
}
