/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Providers that are modules (providers/module.h): finding, opening and checking them. Each is
 * opened once in the life of the process, when it is first asked for, and stays; what came of it is
 * kept. Any thread.
 */
#ifndef GVM_CORE_MODULE_H
#define GVM_CORE_MODULE_H

#include "providers/module.h"

/* The module of this name, or NULL and *why, a sentence that stays valid. */
const struct gvm_module *gvm_module_get(const char *name, const char **why);

/* One attempt in a folder, not kept: for gvm_module_get, and tests. *module on 0; else -errno and a
 * sentence. -ENOENT: there is no such file. */
int gvm_module_open(const char *folder, const char *name, const struct gvm_module **module,
		    char *why, unsigned why_size);

#endif
