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

static void describe_verbs(struct fi_info *info,
			   void (*line)(void *arg, unsigned depth, const char *text), void *arg)
{
	char text[256];
	int err = ofi_try(info);

	if (!err || err == -EADDRINUSE) /* which is another one at the next try */
		return;
	snprintf(text, sizeof(text), "cannot be used: no endpoint can be made: %s; %s",
		 strerror(-err), OFI_VERBS_ADVICE);
	line(arg, 1, text);
}

static const char *progress_of(const struct fi_info *info)
{
	return info->domain_attr->data_progress == FI_PROGRESS_AUTO
		   ? "progress is automatic: data moves without the worker"
		   : "progress is manual: data moves while the worker looks for it";
}

/* Each provider once, with what it reaches the network by, and what is to be known of it. */
static void describe(void (*line)(void *arg, unsigned depth, const char *text), void *arg)
{
	struct fi_info *hints = ofi_hints(NULL), *list = NULL;
	char text[160];

	if (!hints || fi_getinfo(OFI_VERSION, NULL, NULL, 0, hints, &list))
		list = NULL;
	for (struct fi_info *i = list; i; i = i->next) {
		if (ofi_is_repeated(list, i))
			continue;
		snprintf(text, sizeof(text), "%.60s (%.60s)", i->fabric_attr->prov_name,
			 i->domain_attr->name);
		line(arg, 0, text);
		line(arg, 1, progress_of(i));
		if (ofi_is_verbs(i))
			describe_verbs(i, line, arg);
		if (ofi_is_network(i))
			line(arg, 1,
			     "for networks whose every member is trusted: whoever reaches "
			     "libfabric's port can end the process, key or not");
		if (strcmp(i->fabric_attr->prov_name, "shm") == 0)
			line(arg, 1,
			     "a process that is stopped or killed in the middle of something may "
			     "hold up its peers over shm, or have them connect anew");
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
