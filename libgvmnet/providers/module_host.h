/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Within a module: taking the library's table. The names of the library that module.c defines are
 * gvm_log, gvm_log_level, gvm_now, gvm_option_text and gvm_option_number.
 */
#ifndef GVM_PROVIDERS_MODULE_HOST_H
#define GVM_PROVIDERS_MODULE_HOST_H

struct gvm_module_host;

/* Before anything else of the module is called. -1: it is another version's. */
int gvm_module_adopt(const struct gvm_module_host *host);

#endif
