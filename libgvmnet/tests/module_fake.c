/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A module that calls itself verbs and moves nothing, for test_module: good, or with one thing
 * wrong (MODULE_*). It says by its log and its answers that it has been given what it needs.
 */
#include "providers/module.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#ifndef MODULE_NOTHING

static const struct gvm_module_host *library;

/* As some libraries do that come with modules. */
__attribute__((constructor)) static void take_a_signal(void)
{
	signal(SIGUSR2, SIG_IGN);
}

static int fake_probe(const char **why)
{
	if (!getenv("FAKE_NO_DEVICE"))
		return 0;
	*why = "no device of the fake kind";
	return -ENODEV;
}

static int fake_suits(const char **why)
{
	const char *err = getenv("FAKE_UNSUITED");

	*why = "the fake does not suit";
	return err ? -atoi(err) : 0;
}

/* The one argument that it takes: what is tested is that it arrives. */
static int fake_open(struct gvm_host *host, const struct gvm_host_ops *ops, const char *args,
		     struct gvm_prov **prov)
{
	if (args[0] != 'x' || args[1])
		return -EINVAL;
	library->log(GVM_LOG_WARN, library->option_text("GVM_TRANSPORT"));
	return library->now() && library->option_number("GVM_CREDITS") ? -EDOM : -EINVAL;
}

static const struct gvm_provider_ops ops = {
#ifdef MODULE_NAME
	.name = "ofi",
#else
	.name = "verbs",
#endif
	.what = "a fake",
	.pins = 1,
	.probe = fake_probe,
	.open = fake_open
};

static void describe(void (*line)(void *arg, unsigned depth, const char *text), void *arg)
{
	line(arg, 0, "fake0");
	line(arg, 1, "port 1");
}

static const struct gvm_module module = {
#ifdef MODULE_ABI
	.abi = GVM_MODULE_ABI + 1,
#else
	.abi = GVM_MODULE_ABI,
#endif
	.ops = &ops,
	.suits = fake_suits,
	.describe = describe
};

const struct gvm_module *gvm_provider_module(const struct gvm_module_host *host)
{
#ifdef MODULE_REFUSES
	return NULL;
#endif
	library = host;
	return host->abi == GVM_MODULE_ABI ? &module : NULL;
}

#endif
