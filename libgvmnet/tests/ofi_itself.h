/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ofi provider without its module: what a test that is linked with its objects opens.
 */
#ifndef GVM_TESTS_OFI_ITSELF_H
#define GVM_TESTS_OFI_ITSELF_H

#include "providers/ofi.h"

static const struct gvm_provider_ops ofi;

static int ofi_open_prov(struct gvm_host *host, const struct gvm_host_ops *ops, const char *args,
			 struct gvm_prov **prov)
{
	return gvm_rma_open(&ofi_fabric, &ofi, host, ops, args, prov);
}

static const struct gvm_provider_ops ofi = {
	.name = "ofi", .what = "libfabric", .probe = ofi_probe, .open = ofi_open_prov, GVM_RMA_OPS
};

#endif
