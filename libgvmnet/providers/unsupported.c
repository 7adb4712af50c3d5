/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fillers for the slots of gvm_provider_ops that a provider has no use for, so that core never
 * checks for NULL. They own nothing and may be called from any thread.
 */
#include <errno.h>

#include "providers/provider.h"

int gvm_unsupported_mem_reg(struct gvm_prov *prov, void *base, size_t len, unsigned access,
			    void **cookie)
{
	return -EOPNOTSUPP;
}

void gvm_unsupported_mem_dereg(struct gvm_prov *prov, void *cookie)
{
}

int gvm_unsupported_peek(struct gvm_prov *prov)
{
	return 0;
}

int gvm_unsupported_hush(struct gvm_ep *ep)
{
	return -1;
}
