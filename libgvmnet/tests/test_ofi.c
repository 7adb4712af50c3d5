/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The ofi provider over libfabric's tcp and shm: all that every provider promises. */
#include "providers/ofi.h" /* first: cmocka's fail() is a macro */
#include "provider_cases.h"

static const struct gvm_provider_ops ofi;

static int ofi_open_prov(struct gvm_host *host, const struct gvm_host_ops *ops, const char *args,
			 struct gvm_prov **prov)
{
	return gvm_rma_open(&ofi_fabric, &ofi, host, ops, args, prov);
}

static const struct gvm_provider_ops ofi = {
	.name = "ofi", .what = "libfabric", .probe = ofi_probe, .open = ofi_open_prov, GVM_RMA_OPS
};

#ifdef __SANITIZE_THREAD__
/* libfabric is built without the sanitizer, which does not see how its threads agree. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:libfabric.so.1\n";
}
#endif

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		PROVIDER_CASES(&ofi),
		CASE(two_threads, &ofi),
	};

	node_args = argc > 1 ? argv[1] : "tcp";
	return cmocka_run_group_tests_name("ofi", tests, NULL, NULL);
}
