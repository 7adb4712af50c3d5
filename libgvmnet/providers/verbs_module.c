/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The verbs provider's table, and the door of its module. */
#include "providers/module.h"
#include "providers/module_host.h"
#include "providers/verbs.h"

static int open_prov(struct gvm_host *host, const struct gvm_host_ops *up, const char *args,
		     struct gvm_prov **prov);

static const struct gvm_provider_ops ops = { .name = "verbs",
					     .what = "RDMA over InfiniBand, RoCE and iWARP",
					     .probe = verbs_probe,
					     .open = open_prov,
					     GVM_RMA_OPS };

static int open_prov(struct gvm_host *host, const struct gvm_host_ops *up, const char *args,
		     struct gvm_prov **prov)
{
	return gvm_rma_open(&verbs_fabric, &ops, host, up, args, prov);
}

static const struct gvm_module module = {
	.abi = GVM_MODULE_ABI, .ops = &ops, .suits = verbs_suits, .describe = verbs_describe
};

const struct gvm_module *gvm_provider_module(const struct gvm_module_host *host)
{
	return gvm_module_adopt(host) ? NULL : &module;
}
