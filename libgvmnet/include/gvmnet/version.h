/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The library's version: major changes break the ABI, minor ones add to it. */
#ifndef GVMNET_VERSION_H
#define GVMNET_VERSION_H

#define GVM_VERSION_MAJOR 0
#define GVM_VERSION_MINOR 1
#define GVM_VERSION_PATCH 0
#define GVM_VERSION       "0.1.0"

/* The version of the library that runs, e.g. "0.1.0". */
const char *gvm_version(void);

#endif
