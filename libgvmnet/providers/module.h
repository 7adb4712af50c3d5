/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A provider in a module of its own: gvmnet-NAME.so, opened when NAME is asked for. It exports one
 * function and resolves nothing of the library: what it calls is in the tables that it is given.
 */
#ifndef GVM_PROVIDERS_MODULE_H
#define GVM_PROVIDERS_MODULE_H

#include "providers/provider.h"

/* Of provider.h and this file: raised with each change of either. A module is used only by the
 * library that it was built with. */
#define GVM_MODULE_ABI    7u
#define GVM_MODULE_SYMBOL "gvm_provider_module"

/* What a module may call of the library besides gvm_host_ops. */
struct gvm_module_host {
	unsigned abi;
	/* As gvm_log, gvm_log_limited and gvm_now of gvmnet.h. */
	void (*log)(enum gvm_log_level level, const char *line);
	void (*log_limited)(struct gvm_log_limit *limit, enum gvm_log_level level,
			    const char *line);
	enum gvm_log_level (*log_level)(void);
	uint64_t (*now)(void);
	/* As gvm_option_text and gvm_option_number. */
	const char *(*option_text)(const char *env);
	uint64_t (*option_number)(const char *env);
};

/* What a module is. */
struct gvm_module {
	unsigned abi; /* GVM_MODULE_ABI, as the module was built */
	const struct gvm_provider_ops *ops;
	/* For GVM_TRANSPORT=auto: 0 if it is to be tried before tcp here. -ENOMEM: it would be, but
	 * for a limit of this process; else another -errno; *why a sentence of this thread's, until
	 * the next call. NULL: it is not for auto. */
	int (*suits)(const char **why);
	/* For "gvm info -v": what there is of its hardware, one line a call, without the newline;
	 * depth: how far it belongs below the one before. */
	void (*describe)(void (*line)(void *arg, unsigned depth, const char *text), void *arg);
};

/* NULL: built for another version of the library. host stays valid. */
typedef const struct gvm_module *gvm_provider_module_fn(const struct gvm_module_host *host);
gvm_provider_module_fn gvm_provider_module __attribute__((visibility("default")));

#endif
