/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include <gvmnet/version.h>

const char *gvm_version(void)
{
	return GVM_VERSION;
}
