/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * In each module, and nowhere else: the library's functions that the code of providers calls, by
 * way of the table that the library has given. So a module links against nothing of the library,
 * and works in whatever has the library in it.
 */
#include "providers/module.h"
#include "providers/module_host.h"

#include <stdarg.h>
#include <stdio.h>

static const struct gvm_module_host *library;

int gvm_module_adopt(const struct gvm_module_host *host)
{
	if (host->abi != GVM_MODULE_ABI)
		return -1;
	library = host;
	return 0;
}

enum gvm_log_level gvm_log_level(void)
{
	return library->log_level();
}

void gvm_log(enum gvm_log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list args;

	if (level > library->log_level())
		return;
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	library->log(level, line);
}

void gvm_log_limited(struct gvm_log_limit *limit, enum gvm_log_level level, const char *fmt, ...)
{
	char line[1024];
	va_list args;

	if (level > library->log_level())
		return;
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	library->log_limited(limit, level, line);
}

uint64_t gvm_now(void)
{
	return library->now();
}

const char *gvm_option_text(const char *env)
{
	return library->option_text(env);
}

uint64_t gvm_option_number(const char *env)
{
	return library->option_number(env);
}
